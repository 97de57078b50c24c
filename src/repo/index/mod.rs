//! Which chunk is where: a local, rebuildable copy of the repository's index parts. Only what proved damaged is nowhere else:
//! a check finds it again.
//!
//! The copy is never trusted over the repository: it is brought in line with the parts that are there each
//! time it is opened, every segment record in it carries a checksum, and packs that have gone from
//! the store are set aside, so that the next snapshot stores their chunks again.

pub(super) mod cache;
mod filter;
mod near;
#[cfg(test)]
pub(super) mod test_segments;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend;
use crate::format::envelope::Codec;
use crate::format::id::{ChunkId, IndexId, PackId};
use crate::format::index::IndexPart;
use crate::format::pack::{ChunkRecord, PackKind, SegmentRecord};

use super::Error;
use cache::{CHUNKS_TOGETHER, IndexCache};
use filter::{Filter, Prefix};
use near::Near;

/// Chunks that were looked for in vain before the filter is loaded: a restore never needs it.
const MISSES_UNTIL_FILTER: u32 = 64;

/// A segment that proved damaged: its pack and its number in it.
pub(super) type DamagedSegment = (PackId, u32);

/// A segment and where it lies.
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// The row of the cache; never used again for another segment.
    pub row: i64,
    /// The pack.
    pub pack: PackId,
    /// Which key opens the pack.
    pub kind: PackKind,
    /// Bytes of the whole pack.
    pub pack_len: u32,
    /// Bytes of the pack's header.
    pub header_len: u32,
    /// The segment's number in the pack.
    pub ordinal: u32,
    /// Where it starts in the pack.
    pub offset: u32,
    /// What the pack's directory says of it.
    pub record: SegmentRecord,
}

impl Segment {
    /// Returns where a chunk lies in the decoded segment, and its record.
    #[must_use]
    pub fn find(&self, chunk: &ChunkId) -> Option<(u64, ChunkRecord)> {
        let mut offset = 0;
        for record in &self.record.chunks {
            if record.id == *chunk {
                return Some((offset, *record));
            }
            offset += u64::from(record.len);
        }
        None
    }

    /// Returns how the opened bytes are encoded.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.record.codec
    }
}

struct State {
    cache: IndexCache,
    near: Near,
    /// Packs that the index lists and the store does not have.
    gone: HashSet<PackId>,
    /// Segments that proved damaged.
    damaged: HashSet<DamagedSegment>,
    /// Why the cache is not the one that was asked for.
    cache_error: Option<String>,
    /// Packs in which something was found, where somebody wants to know.
    trace: Option<HashSet<PackId>>,
    misses: u32,
    /// What is certainly not in the cache. None until it is worth its memory, and where it cannot be had.
    filter: Option<Filter>,
}

/// Where a chunk is.
#[derive(Debug, Clone)]
pub struct Place {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Where the chunk starts in the decoded segment.
    pub offset: u64,
    /// Its plain length.
    pub len: u32,
}

/// The index. Cheap to share; every call takes a lock for a short time.
pub struct Index {
    state: Mutex<State>,
}

impl Index {
    /// Wraps an opened cache.
    #[must_use]
    pub fn new(cache: IndexCache) -> Self {
        let state = State {
            cache,
            near: Near::default(),
            gone: HashSet::new(),
            damaged: HashSet::new(),
            cache_error: None,
            trace: None,
            misses: 0,
            filter: None,
        };
        Self { state: Mutex::new(state) }
    }

    /// Goes on with this empty cache instead of one that failed. Returns whether it does: once, because a
    /// second failure is not the first cache's.
    #[must_use]
    pub fn fall_back(&self, cache: IndexCache, error: &Error) -> bool {
        let mut state = self.lock();
        if state.cache_error.is_some() {
            return false;
        }
        let why = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        state.near.clear();
        state.filter = None;
        state.misses = 0;
        state.cache = cache;
        state.cache_error = Some(format!("{error}{why}"));
        true
    }

    /// Returns why the cache is not the one that was asked for, where it is not.
    #[must_use]
    pub fn cache_error(&self) -> Option<String> {
        self.lock().cache_error.clone()
    }

    /// Returns where a chunk is, `None` where no pack that is there has it.
    pub fn find(&self, chunk: &ChunkId) -> Result<Option<Place>, Error> {
        let mut state = self.lock();
        let place = state.find(chunk)?;
        if let (Some(trace), Some(place)) = (&mut state.trace, &place) {
            trace.insert(place.segment.pack);
        }
        Ok(place)
    }

    /// Remembers from here on in which packs something was found.
    pub fn begin_trace(&self) {
        self.lock().trace = Some(HashSet::new());
    }

    /// Returns the packs in which something was found since [`Index::begin_trace`].
    #[must_use]
    pub fn end_trace(&self) -> HashSet<PackId> {
        self.lock().trace.take().unwrap_or_default()
    }

    /// Returns the index parts that the cache holds.
    pub fn parts(&self) -> Result<HashSet<IndexId>, Error> {
        self.lock().cache.parts()
    }

    /// Adds a part that is in the repository.
    pub fn add_part(&self, id: &IndexId, part: &IndexPart) -> Result<(), Error> {
        let mut state = self.lock();
        state.cache.stage_part(id, part)?;
        state.commit_staged()
    }

    /// As [`Index::add_part`], for one of many parts: nothing is found in it, and nobody else may write to the cache,
    /// before [`Index::settle`].
    pub fn stage_part(&self, id: &IndexId, part: &IndexPart) -> Result<(), Error> {
        let mut state = self.lock();
        if state.cache.stage_part(id, part)? >= CHUNKS_TOGETHER { state.commit_staged() } else { Ok(()) }
    }

    /// Ends what [`Index::stage_part`] began, and makes it quick to open next time.
    pub fn settle(&self) -> Result<(), Error> {
        let mut state = self.lock();
        state.commit_staged()?;
        state.cache.store_filter()
    }

    /// Removes parts that the repository no longer has, and what only they list.
    pub fn remove_parts(&self, gone: &[IndexId]) -> Result<(), Error> {
        let mut state = self.lock();
        state.near.clear();
        state.cache.remove_parts(gone)
    }

    /// Returns every pack with its length.
    pub fn packs(&self) -> Result<Vec<(PackId, u64)>, Error> {
        self.lock().cache.packs()
    }

    /// Returns every segment of a pack, in order.
    pub fn segments(&self, pack: &PackId) -> Result<Vec<Segment>, Error> {
        self.lock().cache.segments_in(pack)
    }

    /// Sets a segment aside that proved damaged: its chunks count as unknown from here on. What else its pack has may be
    /// right, and may be nowhere else. The cache remembers it for [`Index::set_known_damage_aside`], but where its pack was
    /// not there: that shows whenever packs are listed.
    pub fn set_aside(&self, segment: &Segment, why: &Error) {
        let mut state = self.lock();
        state.near.clear();
        state.damaged.insert((segment.pack, segment.ordinal));
        if !matches!(why, Error::Backend(backend::Error::NotFound { .. })) {
            // A cache that fails now is no reason to fail: whoever meets the segment again finds out again.
            let _ = state.cache.add_damaged((segment.pack, segment.ordinal));
        }
    }

    /// Sets aside what proved damaged in earlier runs of this host. For who writes, and must not refer to it. A reader tries
    /// everything: what a disk or a line did once it may not do again.
    pub fn set_known_damage_aside(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let known = state.cache.damaged()?;
        state.near.clear();
        state.damaged.extend(known);
        Ok(())
    }

    /// Returns whether something that the index lists is set aside and nowhere else.
    pub fn lacks_chunks(&self) -> Result<bool, Error> {
        let (gone, damaged) = {
            let state = self.lock();
            (state.gone.clone(), state.damaged.clone())
        };
        let packs: HashSet<PackId> = gone.iter().copied().chain(damaged.iter().map(|(pack, _)| *pack)).collect();
        for pack in packs {
            for segment in self.segments(&pack)? {
                if !gone.contains(&pack) && !damaged.contains(&(pack, segment.ordinal)) {
                    continue;
                }
                for chunk in &segment.record.chunks {
                    if self.find(&chunk.id)?.is_none() {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Returns the segments that the cache remembers as damaged.
    pub(super) fn damaged(&self) -> Result<HashSet<DamagedSegment>, Error> {
        self.lock().cache.damaged()
    }

    /// Sets packs aside that the store does not have (any more): their chunks count as unknown.
    pub fn set_gone(&self, packs: HashSet<PackId>) {
        let mut state = self.lock();
        state.near.clear();
        state.gone = packs;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while the lock was held leaves a cache, which is checked whenever it is read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, chunk: &ChunkId) -> Result<Option<Place>, Error> {
        if let Some(place) = self.near.get(chunk) {
            return Ok(Some(place.clone()));
        }
        if self.filter.as_ref().is_some_and(|filter| !filter.may_have(Prefix::of(chunk))) {
            return Ok(None);
        }
        for segment in self.cache.segments_of(chunk)? {
            if self.gone.contains(&segment.pack) || self.damaged.contains(&(segment.pack, segment.ordinal)) {
                continue;
            }
            let segment = Arc::new(segment);
            self.near.keep(&segment);
            if let Some(place) = self.near.get(chunk) {
                return Ok(Some(place.clone()));
            }
        }
        self.missed()?;
        Ok(None)
    }

    fn commit_staged(&mut self) -> Result<(), Error> {
        let added = self.cache.commit_staged()?;
        if let Some(filter) = &mut self.filter {
            for (prefix, _) in added {
                filter.add(prefix);
            }
            if filter.is_full() {
                self.filter = None;
                self.misses = 0;
            }
        }
        Ok(())
    }

    /// Counts a chunk that is nowhere. After a few of them there will be many more.
    fn missed(&mut self) -> Result<(), Error> {
        self.misses = self.misses.saturating_add(1);
        if self.misses == MISSES_UNTIL_FILTER {
            self.filter = self.cache.filter()?;
        }
        Ok(())
    }
}
