//! The one way out: recipes become the bytes that came in, or an error.
//!
//! `plan.rs` decides which segment serves which pieces, `pipeline.rs` keeps reading, decoding and handing out going at
//! once, `fetch.rs` and `decode.rs` do the work, `verify.rs` has the last word. Whoever wants to know only whether streams are
//! right has `stretches.rs`, `shelf.rs` and `verification.rs` in place of the first two. Every segment is authenticated, every
//! chunk's id and every stream's hash recomputed; the last bytes of a stream leave only after the whole of it proved
//! right.

mod decode;
mod extents;
mod fetch;
mod pages;
mod pipeline;
mod plan;
mod shelf;
mod stretches;
mod together;
mod verification;
mod verify;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;

use super::Error;
use super::index::{Place, Segment};
use super::open::Repository;
use crate::crypto::keys::ChunkIdKey;
use crate::crypto::pack::DataKey;
use crate::format::entry::EntryContent;
use crate::format::id::{ChunkId, PackId};
use crate::format::manifest::{StreamRecord, TableRecord};
use crate::format::pack::PackKind;
use crate::format::recipe::{Extent, RecipeRoot};
use pipeline::{Pipeline, Room, Source};
use verify::{Expected, Outlet, Said};

pub(super) use decode::Decoders;
pub(super) use fetch::open_data_key;

/// Segments that are tried for one chunk: a damaged one is set aside, and a later run may have stored the same
/// chunk again.
const COPIES_TRIED: usize = 4;
/// Batches of pieces that wait for the consumer. Each is about a MiB, or a segment.
const BATCHES_QUEUED: usize = 2;

/// Bytes on their way out. Ends early only with an `Err`.
pub type ContentStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Reads content, recipes and tables.
pub struct Reader {
    repository: Repository,
    content_ids: ChunkIdKey,
    meta_ids: ChunkIdKey,
    decoders: Decoders,
    kept: Mutex<fetch::Kept>,
    pages: Mutex<pages::KeptPages>,
    keys: Mutex<HashMap<(PackId, u8), Arc<DataKey>>>,
    /// Rows of the segments that were opened and found right.
    opened: Mutex<HashSet<i64>>,
}

/// A stream that [`Reader::verify_together`] reads: what it is made of, and how long it is.
#[derive(Debug, Clone)]
pub struct ToVerify {
    /// Extents or recipe, and the hash of the whole.
    pub content: EntryContent,
    /// Bytes.
    pub len: u64,
}

impl ToVerify {
    /// Returns what a stream of a manifest is to be compared with.
    #[must_use]
    pub fn stream(record: &StreamRecord) -> Self {
        let content = EntryContent::Recipe { hash: record.blake3, root: record.recipe };
        Self { content, len: record.length }
    }

    fn expected(&self) -> Expected {
        let hash = match &self.content {
            EntryContent::None => crate::crypto::hash::content_hash(&[]),
            EntryContent::Extents { hash, .. } | EntryContent::Recipe { hash, .. } => *hash,
        };
        Expected { len: self.len, hash }
    }
}

impl Reader {
    /// Makes a reader. What it can read depends on the keys: recipes and tables with any of them.
    pub fn new(repository: &Repository) -> Result<Arc<Self>, Error> {
        let keyring = repository.keyring();
        let keys = keyring.data()?;
        Ok(Arc::new(Self {
            repository: repository.clone(),
            content_ids: keys.chunk_ids(PackKind::Content),
            meta_ids: keys.chunk_ids(PackKind::Meta),
            decoders: Decoders::default(),
            kept: Mutex::default(),
            pages: Mutex::default(),
            keys: Mutex::default(),
            opened: Mutex::default(),
        }))
    }

    /// Opens a stream of a manifest.
    #[must_use]
    pub fn open(self: &Arc<Self>, record: &StreamRecord) -> ContentStream {
        self.start(ToVerify::stream(record), Room::CONTENT)
    }

    /// Opens the stream of a table: with less memory.
    #[must_use]
    pub fn open_table(self: &Arc<Self>, record: &TableRecord) -> ContentStream {
        self.start(ToVerify::stream(&record.table), Room::TABLE)
    }

    /// Opens the content of an entry of `len` bytes.
    #[must_use]
    pub fn open_entry(self: &Arc<Self>, content: &EntryContent, len: u64) -> ContentStream {
        self.start(ToVerify { content: content.clone(), len }, Room::CONTENT)
    }

    fn start(self: &Arc<Self>, stream: ToVerify, room: Room) -> ContentStream {
        let (to, said) = mpsc::channel(BATCHES_QUEUED);
        let expected = stream.expected();
        let source = Source { content: stream.content, expected, outlet: Outlet::new(to), room };
        tokio::spawn(Pipeline::new(self, source).run());
        let pieces = futures::stream::unfold(Some(said), |said| async move {
            let mut said = said?;
            Some(match said.recv().await {
                Some(Said::Pieces(pieces)) => (Ok(pieces), Some(said)),
                Some(Said::Last(last)) => (Ok(last.into_iter().collect()), None),
                Some(Said::Failed(error)) => (Err(error), None),
                None => (Err(Error::Stopped), None),
            })
        });
        Box::pin(pieces.map_ok(|pieces| futures::stream::iter(pieces).map(Ok)).try_flatten())
    }

    /// Compares streams with their lengths and hashes, in the order in which the store has what they are made of: a segment
    /// that several of them need is decoded once. Every stream takes memory for a page of its recipe: give few at a time.
    /// `passed` hears how many bytes were put together. Returns what is wrong with which, in the order of `streams`. Fails where
    /// that cannot be told: of a store that does not answer, nothing more is wanted.
    pub async fn verify_together(
        self: &Arc<Self>,
        streams: Vec<ToVerify>,
        mut passed: impl FnMut(u64),
    ) -> Result<Vec<Result<(), Error>>, Error> {
        verification::verify(self, streams, &mut passed).await
    }

    /// Returns the segments (rows of this repository's index) that this reader opened and found right: a check
    /// need not open them again.
    #[must_use]
    pub fn opened_segments(&self) -> HashSet<i64> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the root of a recipe.
    pub async fn recipe_root(self: &Arc<Self>, chunk: &ChunkId) -> Result<RecipeRoot, Error> {
        let bytes = self.chunk(chunk, COPIES_TRIED).await?;
        RecipeRoot::decode(&bytes).map_err(|source| damaged_chunk(chunk, source))
    }

    /// Checks without reading content that everything that `content` refers to is in a pack that is there,
    /// with the right length. Returns the length of the whole.
    pub async fn check_structure(self: &Arc<Self>, content: &EntryContent) -> Result<u64, Error> {
        match content {
            EntryContent::None => Ok(0),
            EntryContent::Extents { extents, .. } => self.check_extents(extents.iter().copied()),
            EntryContent::Recipe { hash, root } => {
                let root = self.recipe_root(root).await?;
                if root.hash != *hash {
                    return Err(Error::StreamDamaged);
                }
                for page in &root.pages {
                    self.check_extents(self.recipe_page(&page.chunk, page.stream_len).await?.extents())?;
                }
                Ok(root.stream_len())
            }
        }
    }

    fn check_extents(&self, extents: impl Iterator<Item = Extent>) -> Result<u64, Error> {
        let mut len = 0;
        for extent in extents {
            self.place(&extent)?;
            len += u64::from(extent.len);
        }
        Ok(len)
    }

    fn place(&self, extent: &Extent) -> Result<Place, Error> {
        let place = self.repository.index().find(&extent.chunk)?.ok_or(Error::ChunkMissing { chunk: extent.chunk })?;
        if place.len == extent.chunk_len {
            Ok(place)
        } else {
            Err(Error::ChunkLength { chunk: extent.chunk, expected: extent.chunk_len, found: place.len })
        }
    }

    /// Reads one chunk: from any pack that has it.
    async fn chunk(self: &Arc<Self>, chunk: &ChunkId, copies: usize) -> Result<Bytes, Error> {
        let missing = || Error::ChunkMissing { chunk: *chunk };
        let mut cause = None;
        for _ in 0..copies {
            let Some(place) = self.repository.index().find(chunk)? else { break };
            match self.segment(&place.segment).await {
                Ok(plain) => {
                    let range = usize::try_from(place.offset).ok().map(|start| start..start + place.len as usize);
                    return range
                        .filter(|range| range.end <= plain.len())
                        .map(|range| plain.slice(range))
                        .ok_or_else(missing);
                }
                // The segment is set aside now: another one may have the chunk, too.
                Err(error) if error.is_damage() => {
                    let error = self.damaged(&place.segment, error);
                    cause.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(cause.unwrap_or_else(missing))
    }

    /// Reads a part of a segment that is damaged from wherever else its chunks are. Slow, and rare. What cannot be read fails
    /// with `cause`, where that is known.
    async fn recover(
        self: &Arc<Self>,
        segment: &Segment,
        start: u32,
        len: u32,
        cause: Option<Error>,
    ) -> Result<Bytes, Error> {
        let mut cause = cause.map(|error| self.damaged(segment, error));
        let end = u64::from(start) + u64::from(len);
        let mut at = 0_u64;
        let mut bytes = BytesMut::with_capacity(len as usize);
        for record in &segment.record.chunks {
            let (chunk_start, chunk_end) = (at, at + u64::from(record.len));
            at = chunk_end;
            let (from, to) = (chunk_start.max(u64::from(start)), chunk_end.min(end));
            if from >= to {
                continue;
            }
            let chunk = match self.chunk(&record.id, COPIES_TRIED).await {
                Ok(chunk) => chunk,
                // What was wrong first says more than that there is no other copy.
                Err(error) => return Err(cause.take().unwrap_or(error)),
            };
            let part = usize::try_from(from - chunk_start).ok().zip(usize::try_from(to - chunk_start).ok());
            let part = part.and_then(|(from, to)| chunk.get(from..to)).ok_or(Error::StreamDamaged)?;
            bytes.extend_from_slice(part);
        }
        Ok(bytes.freeze())
    }

    /// A segment that proved damaged counts for nothing from here on: a snapshot stores what it needs of it again.
    fn damaged(&self, segment: &Segment, error: Error) -> Error {
        if error.is_damage() {
            self.repository.index().set_aside(segment, &error);
        }
        error
    }
}

fn damaged_chunk(chunk: &ChunkId, source: crate::format::Error) -> Error {
    Error::Damaged { object: format!("recipe {chunk}"), source }
}
