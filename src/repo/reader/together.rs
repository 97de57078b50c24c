//! Short contents of many entries at once: a segment is opened once for all of them, in whatever order they come. Entries that
//! changed on many nights lie in as many segments, and neighbours in the order of keys are no neighbours there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::sync::{Semaphore, oneshot};

use super::fetch::{Keep, Take, Taken, UNDER_WAY_KIB, Wanted};
use super::{Reader, ToVerify};
use crate::crypto::hash::content_hash;
use crate::format::entry::EntryContent;
use crate::format::id::{ContentHash, PackId};
use crate::repo::Error;
use crate::repo::index::Segment;

/// A segment, by its place in the store.
type Place = (PackId, u32);

/// A part of a segment.
struct Part {
    segment: Place,
    start: u32,
    len: u32,
}

/// What an entry is made of, and the hash of it.
type Entry = Result<(Vec<Part>, ContentHash), Error>;

/// A segment that is needed: parts of it first, then what was taken out.
struct Needed {
    segment: Arc<Segment>,
    parts: Vec<(u32, u32)>,
    /// Where it could not be opened, why, until somebody was told.
    taken: Result<Taken, Option<Error>>,
}

impl Reader {
    /// Reads the contents of entries that are short: all of them are held, so give a few MiB at a time. Each is compared with
    /// its hash. Fails with the place in `wanted` of the first that cannot be read; a store that does not answer is asked for
    /// nothing more.
    pub async fn read_together(self: &Arc<Self>, wanted: &[ToVerify]) -> Result<Vec<Bytes>, (usize, Error)> {
        let mut needed = BTreeMap::new();
        let entries: Vec<Entry> = wanted.iter().map(|entry| self.locate(entry, &mut needed)).collect();
        self.open_all(&mut needed).await.map_err(|error| (0, error))?;
        let mut read = Vec::with_capacity(wanted.len());
        for (number, (entry, wanted)) in entries.into_iter().zip(wanted).enumerate() {
            let content = match (entry, &wanted.content) {
                (_, EntryContent::Recipe { .. }) => self.collect(wanted).await,
                (Ok((parts, hash)), _) => self.assemble(&parts, hash, &mut needed).await,
                (Err(error), _) => Err(error),
            };
            read.push(content.map_err(|error| (number, error))?);
        }
        Ok(read)
    }

    /// Reads the content of one short entry: see [`Reader::read_together`].
    pub async fn read_entry(self: &Arc<Self>, content: &EntryContent, len: u64) -> Result<Bytes, Error> {
        let wanted = ToVerify { content: content.clone(), len };
        self.read_together(&[wanted]).await.map_err(|(_, error)| error)?.pop().ok_or(Error::Stopped)
    }

    async fn collect(self: &Arc<Self>, wanted: &ToVerify) -> Result<Bytes, Error> {
        let pieces = self.open_entry(&wanted.content, wanted.len);
        Ok(pieces.try_collect::<Vec<_>>().await?.concat().into())
    }

    fn locate(&self, entry: &ToVerify, needed: &mut BTreeMap<Place, Needed>) -> Entry {
        let EntryContent::Extents { hash, extents } = &entry.content else {
            return Ok((Vec::new(), content_hash(&[])));
        };
        if entry.content.content_len() != Some(entry.len) {
            return Err(Error::StreamDamaged);
        }
        let mut parts = Vec::with_capacity(extents.len());
        for extent in extents {
            let place = self.place(extent)?;
            let name = (place.segment.pack, place.segment.offset);
            let start = u32::try_from(place.offset + u64::from(extent.offset)).map_err(|_| Error::StreamDamaged)?;
            let segment = needed.entry(name).or_insert_with(|| Needed {
                segment: place.segment,
                parts: Vec::new(),
                taken: Err(None),
            });
            segment.parts.push((start, extent.len));
            parts.push(Part { segment: name, start, len: extent.len });
        }
        Ok((parts, *hash))
    }

    /// Opens segments. What is damaged is told to whoever needs it; anything else ends it.
    async fn open_all(self: &Arc<Self>, needed: &mut BTreeMap<Place, Needed>) -> Result<(), Error> {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_KIB as usize));
        let (mut wanted, mut coming) = (Vec::new(), Vec::new());
        for needed in needed.values_mut() {
            let take = Take::copies(std::mem::take(&mut needed.parts));
            let kept = self.kept().get(needed.segment.row);
            if let Some(plain) = kept {
                needed.taken = Ok(take.of_kept(plain));
                continue;
            }
            let (to, decoded) = oneshot::channel();
            wanted.push((Arc::clone(&needed.segment), Wanted { take, keep: Keep::Yes, to }));
            coming.push((needed, decoded));
        }
        self.launch(wanted, &under_way);
        for (needed, decoded) in coming {
            needed.taken = match decoded.await.unwrap_or(Err(Error::Stopped)) {
                Err(error) if !error.is_damage() => return Err(error),
                taken => taken.map_err(Some),
            };
        }
        Ok(())
    }

    async fn assemble(
        self: &Arc<Self>,
        parts: &[Part],
        hash: ContentHash,
        needed: &mut BTreeMap<Place, Needed>,
    ) -> Result<Bytes, Error> {
        let mut whole = Bytes::new();
        for part in parts {
            let needed = needed.get_mut(&part.segment).ok_or(Error::StreamDamaged)?;
            let bytes = match &mut needed.taken {
                Ok(taken) => taken.get(part.start, part.len).ok_or(Error::StreamDamaged)?,
                Err(cause) => self.recover(&needed.segment, part.start, part.len, cause.take()).await?,
            };
            whole = if whole.is_empty() { bytes } else { [whole, bytes].concat().into() };
        }
        if content_hash(&whole) == hash { Ok(whole) } else { Err(Error::StreamDamaged) }
    }
}
