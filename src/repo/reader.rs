//! The one way out: recipes become the bytes that came in, or an error.
//!
//! Extents are read by segment: neighbouring segments in one request, decoded on all cores, each once as
//! long as it stays in a small cache. Every segment is authenticated, every chunk's id and every stream's
//! hash recomputed; the last bytes of a stream leave only after the whole of it proved right.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::Stream;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};
use tokio::sync::mpsc;

use super::Error;
use super::index::{Place, Segment};
use super::open::Repository;
use super::segment;
use crate::crypto::hash::StreamHasher;
use crate::crypto::keys::ChunkIdKey;
use crate::crypto::pack::DataKey;
use crate::format::entry::EntryContent;
use crate::format::id::{ChunkId, ContentHash, PackId};
use crate::format::manifest::StreamRecord;
use crate::format::object::{Namespace, ObjectKey};
use crate::format::pack::{PackHeader, PackKind};
use crate::format::recipe::{Expanded, Extent, PageExpansion, RecipePage, RecipeRoot};

/// Segments that are fetched and decoded together.
const SEGMENTS_AT_ONCE: usize = 8;
/// Decoded segments that are kept: a changed stream goes back and forth between old and new ones.
const SEGMENTS_KEPT: usize = 24;
/// Extents looked at for one batch, at most.
const EXTENTS_AT_ONCE: usize = 4096;
/// Pieces between reading and hashing, and between hashing and the consumer.
const PIECES_QUEUED: usize = 16;
/// Opened data keys that are kept; all are dropped when there are more.
const KEYS_KEPT: usize = 4096;
/// Packs that are tried for what one batch needs: a damaged one is set aside, and a later run may have stored
/// the same chunks again.
const COPIES_TRIED: usize = 4;
/// Bytes that one request may fetch: neighbouring segments up to this.
const REQUEST_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes on their way out. Ends early only with an `Err`.
pub type ContentStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

#[derive(Default)]
struct Cache {
    keys: HashMap<(PackId, u8), Arc<DataKey>>,
    segments: HashMap<i64, Bytes>,
    order: VecDeque<i64>,
}

/// Reads content, recipes and tables.
pub struct Reader {
    repository: Repository,
    content_ids: ChunkIdKey,
    meta_ids: ChunkIdKey,
    cache: Mutex<Cache>,
    /// Rows of the segments that were opened and found right.
    opened: Mutex<HashSet<i64>>,
}

type Fetched = (Arc<Segment>, Arc<DataKey>, Bytes);

/// What is expected of a stream as a whole.
#[derive(Debug, Clone, Copy)]
struct Expected {
    len: u64,
    hash: ContentHash,
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
            cache: Mutex::default(),
            opened: Mutex::default(),
        }))
    }

    /// Opens a stream of a manifest.
    #[must_use]
    pub fn open(self: &Arc<Self>, record: &StreamRecord) -> ContentStream {
        let expected = Expected { len: record.length, hash: record.blake3 };
        self.start(EntryContent::Recipe { hash: record.blake3, root: record.recipe }, expected)
    }

    /// Opens the content of an entry of `len` bytes.
    #[must_use]
    pub fn open_entry(self: &Arc<Self>, content: &EntryContent, len: u64) -> ContentStream {
        let hash = match content {
            EntryContent::None => crate::crypto::hash::content_hash(&[]),
            EntryContent::Extents { hash, .. } | EntryContent::Recipe { hash, .. } => *hash,
        };
        self.start(content.clone(), Expected { len, hash })
    }

    fn start(self: &Arc<Self>, content: EntryContent, expected: Expected) -> ContentStream {
        let (read, mut pieces) = mpsc::channel::<Result<Bytes, Error>>(PIECES_QUEUED);
        let (checked, received) = mpsc::channel(PIECES_QUEUED);
        let reader = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = reader.read(&content, &expected, &read).await {
                // A consumer that went away wants no error either.
                let _ = read.send(Err(error)).await;
            }
        });
        tokio::spawn(async move { check(expected, &mut pieces, &checked).await });
        Box::pin(futures::stream::unfold(received, |mut received| async move {
            received.recv().await.map(|piece| (piece, received))
        }))
    }

    async fn read(
        &self,
        content: &EntryContent,
        expected: &Expected,
        out: &mpsc::Sender<Result<Bytes, Error>>,
    ) -> Result<(), Error> {
        match content {
            EntryContent::None => Ok(()),
            EntryContent::Extents { extents, .. } => self.read_extents(extents, out).await,
            EntryContent::Recipe { root, .. } => {
                let root = self.recipe_root(root).await?;
                if root.hash != expected.hash || root.stream_len() != expected.len {
                    return Err(Error::StreamDamaged);
                }
                for page in &root.pages {
                    let extents = self.recipe_page(&page.chunk, page.stream_len).await?.extents;
                    self.read_extents(&extents, out).await?;
                    if out.is_closed() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Returns the segments (rows of this repository's index) that this reader opened and found right: a check
    /// need not open them again.
    #[must_use]
    pub fn opened_segments(&self) -> HashSet<i64> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the root of a recipe.
    pub async fn recipe_root(&self, chunk: &ChunkId) -> Result<RecipeRoot, Error> {
        let bytes = self.meta_chunk(chunk).await?;
        RecipeRoot::decode(&bytes).map_err(|source| damaged_chunk(chunk, source))
    }

    /// Reads a page of a recipe that stands for `stream_len` bytes.
    pub async fn recipe_page(&self, chunk: &ChunkId, stream_len: u64) -> Result<RecipePage, Error> {
        let mut expansion = PageExpansion::default();
        let mut next = *chunk;
        let page = loop {
            let bytes = self.meta_chunk(&next).await?;
            match expansion.push(&bytes).map_err(|source| damaged_chunk(&next, source))? {
                Expanded::Parent(parent) => next = parent,
                Expanded::Page(page) => break page,
            }
        };
        if page.stream_len() == stream_len { Ok(page) } else { Err(Error::StreamDamaged) }
    }

    /// Checks without reading content that everything that `content` refers to is in a pack that is there,
    /// with the right length. Returns the length of the whole.
    pub async fn check_structure(&self, content: &EntryContent) -> Result<u64, Error> {
        match content {
            EntryContent::None => Ok(0),
            EntryContent::Extents { extents, .. } => self.check_extents(extents),
            EntryContent::Recipe { hash, root } => {
                let root = self.recipe_root(root).await?;
                if root.hash != *hash {
                    return Err(Error::StreamDamaged);
                }
                for page in &root.pages {
                    self.check_extents(&self.recipe_page(&page.chunk, page.stream_len).await?.extents)?;
                }
                Ok(root.stream_len())
            }
        }
    }

    fn check_extents(&self, extents: &[Extent]) -> Result<u64, Error> {
        let mut len = 0;
        for extent in extents {
            self.place(extent)?;
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

    async fn meta_chunk(&self, chunk: &ChunkId) -> Result<Bytes, Error> {
        let missing = || Error::ChunkMissing { chunk: *chunk };
        let mut cause = None;
        for _ in 0..COPIES_TRIED {
            let Some(place) = self.repository.index().find(chunk)? else { break };
            match self.segments(vec![Arc::clone(&place.segment)]).await {
                Ok(segments) => return slice(&segments, &place, 0, place.len).ok_or_else(missing),
                // The pack is set aside now: another one may have the chunk, too.
                Err(error) if error.is_damage() => drop(cause.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(cause.unwrap_or_else(missing))
    }

    async fn read_extents(&self, extents: &[Extent], out: &mpsc::Sender<Result<Bytes, Error>>) -> Result<(), Error> {
        let mut rest = extents;
        while !rest.is_empty() {
            let (places, segments) = self.located(rest).await?;
            let (now, later) = rest.split_at(places.len());
            rest = later;
            for piece in assemble(now, &places, &segments)? {
                if out.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Returns the places of the first extents and the segments that they lie in, decoded.
    async fn located(&self, extents: &[Extent]) -> Result<(Vec<Place>, HashMap<i64, Bytes>), Error> {
        let mut cause = None;
        for _ in 0..COPIES_TRIED {
            let found = match self.locate(extents) {
                Ok((places, wanted)) => self.segments(wanted).await.map(|segments| (places, segments)),
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => return Ok(found),
                Err(error) if error.is_damage() => drop(cause.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        Err(cause.unwrap_or(Error::StreamDamaged))
    }

    /// Finds the places of the first extents, as many as lie in a few segments, and those segments.
    fn locate(&self, extents: &[Extent]) -> Result<(Vec<Place>, Vec<Arc<Segment>>), Error> {
        let mut places = Vec::new();
        let mut rows = HashSet::new();
        let mut wanted = Vec::new();
        for extent in extents.iter().take(EXTENTS_AT_ONCE) {
            let place = self.place(extent)?;
            if rows.insert(place.segment.row) {
                if wanted.len() == SEGMENTS_AT_ONCE {
                    break;
                }
                wanted.push(Arc::clone(&place.segment));
            }
            places.push(place);
        }
        Ok((places, wanted))
    }

    /// Returns the decoded bytes of segments, by their rows.
    async fn segments(&self, wanted: Vec<Arc<Segment>>) -> Result<HashMap<i64, Bytes>, Error> {
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        {
            let cache = self.lock();
            for segment in wanted {
                match cache.segments.get(&segment.row) {
                    Some(bytes) => drop(found.insert(segment.row, bytes.clone())),
                    None => missing.push(segment),
                }
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        missing.sort_by_key(|segment| (segment.pack, segment.ordinal));
        let fetched = self.fetch(missing).await.map_err(|(pack, error)| self.damaged(pack, error))?;
        let (content_ids, meta_ids) = (&self.content_ids, &self.meta_ids);
        let decode = || {
            let decode = |(segment, key, sealed): Fetched| {
                let ids = if segment.kind == PackKind::Content { content_ids } else { meta_ids };
                let opened = open_segment(&segment, &key, &sealed, ids);
                opened.map(|plain| (segment.row, Bytes::from(plain))).map_err(|error| (segment.pack, error))
            };
            if let [_] = fetched.as_slice() {
                return fetched.into_iter().map(decode).collect::<Result<Vec<_>, (PackId, Error)>>();
            }
            fetched.into_par_iter().map(decode).collect()
        };
        // A few milliseconds on all cores.
        let decoded = tokio::task::block_in_place(decode).map_err(|(pack, error)| self.damaged(pack, error))?;
        self.lock().keep(&decoded);
        let rows = decoded.iter().map(|(row, _)| *row);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        found.extend(decoded);
        Ok(found)
    }

    /// A pack that proved damaged counts for nothing from here on: a snapshot stores what it needs of it again.
    fn damaged(&self, pack: PackId, error: Error) -> Error {
        if error.is_damage() {
            self.repository.index().set_aside(pack);
        }
        error
    }

    /// Fetches the sealed bytes of segments that are in the order of their places, and their keys.
    async fn fetch(&self, segments: Vec<Arc<Segment>>) -> Result<Vec<Fetched>, (PackId, Error)> {
        let mut keys = Vec::with_capacity(segments.len());
        for segment in &segments {
            keys.push(self.data_key(segment).await.map_err(|error| (segment.pack, error))?);
        }
        let mut runs: Vec<Vec<Arc<Segment>>> = Vec::new();
        for segment in segments {
            match runs.last_mut() {
                Some(run) if continues(run, &segment) => run.push(segment),
                _ => runs.push(vec![segment]),
            }
        }
        let backend = self.repository.backend();
        let requests = runs.iter().map(|run| {
            let backend = &backend;
            async move {
                let (Some(first), len) = (run.first(), run.iter().map(|segment| stored_len(segment)).sum()) else {
                    return Ok(Bytes::new());
                };
                let range = backend.get_range(ObjectKey::Pack(first.pack), u64::from(first.offset), len).await;
                range.map_err(|error| (first.pack, Error::from(error)))
            }
        });
        let fetched = futures::future::try_join_all(requests).await?;
        let mut out = Vec::new();
        let mut keys = keys.into_iter();
        for (run, mut bytes) in runs.into_iter().zip(fetched) {
            for (segment, key) in run.into_iter().zip(&mut keys) {
                let sealed = bytes.split_to(segment.record.stored_len as usize);
                out.push((segment, key, sealed));
            }
        }
        Ok(out)
    }

    async fn data_key(&self, segment: &Segment) -> Result<Arc<DataKey>, Error> {
        let name = (segment.pack, segment.record.key);
        if let Some(key) = self.lock().keys.get(&name) {
            return Ok(Arc::clone(key));
        }
        let object = ObjectKey::Pack(segment.pack);
        let header = self.repository.backend().get_range(object, 0, u64::from(segment.header_len)).await?;
        let key = Arc::new(open_data_key(&self.repository, segment.pack, segment.record.key, &header)?);
        let mut cache = self.lock();
        if cache.keys.len() >= KEYS_KEPT {
            cache.keys.clear();
        }
        cache.keys.insert(name, Arc::clone(&key));
        Ok(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn keep(&mut self, decoded: &[(i64, Bytes)]) {
        for (row, bytes) in decoded {
            if self.segments.insert(*row, bytes.clone()).is_none() {
                self.order.push_back(*row);
            }
        }
        while self.order.len() > SEGMENTS_KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.segments.remove(&oldest);
            }
        }
    }
}

fn stored_len(segment: &Segment) -> u64 {
    u64::from(segment.record.stored_len)
}

/// Returns whether a segment lies right behind a run in the same pack, and the run is not too long yet.
fn continues(run: &[Arc<Segment>], segment: &Segment) -> bool {
    let len: u64 = run.iter().map(|segment| stored_len(segment)).sum();
    run.last().is_some_and(|last| last.pack == segment.pack && last.offset + last.record.stored_len == segment.offset)
        && len + stored_len(segment) <= REQUEST_BYTES
}

/// Opens the data key of a pack from its header's bytes.
pub(super) fn open_data_key(repository: &Repository, pack: PackId, entry: u8, header: &[u8]) -> Result<DataKey, Error> {
    let object = || ObjectKey::Pack(pack).to_string();
    let (header, _) = PackHeader::decode(header).map_err(|source| Error::Damaged { object: object(), source })?;
    let entry = header.keys.get(usize::from(entry)).ok_or_else(|| Error::WrongContent { object: object() })?;
    let keyring = repository.keyring();
    let keys = keyring.namespace(Namespace::Data)?;
    DataKey::open(keys, &keyring.repository, header.kind, entry)
        .map_err(|source| Error::Object { object: object(), source })
}

/// Opens and decodes a segment and recomputes the id of every chunk in it.
pub(super) fn open_segment(
    segment: &Segment,
    key: &DataKey,
    sealed: &[u8],
    ids: &ChunkIdKey,
) -> Result<Vec<u8>, Error> {
    let object = || ObjectKey::Pack(segment.pack).to_string();
    let encoded =
        key.open_segment(&segment.record, sealed).map_err(|source| Error::Object { object: object(), source })?;
    let plain_len = segment.record.plain_len();
    let plain = segment::decode(segment.codec(), encoded, plain_len).ok_or(Error::SegmentDamaged {
        pack: segment.pack,
        segment: segment.ordinal,
        plain_len,
    })?;
    let mut rest = plain.as_slice();
    for record in &segment.record.chunks {
        let (chunk, tail) = rest.split_at(record.len as usize);
        if ids.id(chunk) != record.id {
            return Err(Error::ChunkDamaged { chunk: record.id, pack: segment.pack });
        }
        rest = tail;
    }
    Ok(plain)
}

fn slice(segments: &HashMap<i64, Bytes>, place: &Place, offset: u32, len: u32) -> Option<Bytes> {
    let segment = segments.get(&place.segment.row)?;
    let start = usize::try_from(place.offset).ok()? + offset as usize;
    let end = start + len as usize;
    (end <= segment.len()).then(|| segment.slice(start..end))
}

/// Puts pieces of decoded segments in the order of the stream; neighbours become one piece.
fn assemble(extents: &[Extent], places: &[Place], segments: &HashMap<i64, Bytes>) -> Result<Vec<Bytes>, Error> {
    let mut pieces = Vec::new();
    let mut run: Option<(&Place, u64, u64)> = None;
    let flush = |run: &mut Option<(&Place, u64, u64)>, pieces: &mut Vec<Bytes>| -> Result<(), Error> {
        let Some((place, start, end)) = run.take() else { return Ok(()) };
        let chunk = || place.segment.record.chunks.first().map_or(ChunkId::from_bytes([0; 32]), |chunk| chunk.id);
        let segment = segments.get(&place.segment.row).ok_or_else(|| Error::ChunkMissing { chunk: chunk() })?;
        let to = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        if to(end) > segment.len() {
            return Err(Error::ChunkMissing { chunk: chunk() });
        }
        pieces.push(segment.slice(to(start)..to(end)));
        Ok(())
    };
    for (extent, place) in extents.iter().zip(places) {
        let start = place.offset + u64::from(extent.offset);
        let end = start + u64::from(extent.len);
        match &mut run {
            Some((last, _, last_end)) if last.segment.row == place.segment.row && *last_end == start => {
                *last_end = end;
            }
            _ => {
                flush(&mut run, &mut pieces)?;
                run = Some((place, start, end));
            }
        }
    }
    flush(&mut run, &mut pieces)?;
    Ok(pieces)
}

/// Passes pieces on and holds the last one back until length and hash of the whole are right.
async fn check(
    expected: Expected,
    pieces: &mut mpsc::Receiver<Result<Bytes, Error>>,
    out: &mpsc::Sender<Result<Bytes, Error>>,
) {
    let mut hasher = StreamHasher::default();
    let mut len = 0_u64;
    let mut held: Option<Bytes> = None;
    while let Some(piece) = pieces.recv().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                // A consumer that went away wants no error either.
                let _ = out.send(Err(error)).await;
                return;
            }
        };
        hasher.update(&piece);
        len += piece.len() as u64;
        if let Some(last) = held.replace(piece)
            && out.send(Ok(last)).await.is_err()
        {
            return;
        }
    }
    let last = if len == expected.len && hasher.finish() == expected.hash {
        let Some(last) = held else { return };
        Ok(last)
    } else {
        Err(Error::StreamDamaged)
    };
    let _ = out.send(last).await;
}

fn damaged_chunk(chunk: &ChunkId, source: crate::format::Error) -> Error {
    Error::Damaged { object: format!("recipe {chunk}"), source }
}
