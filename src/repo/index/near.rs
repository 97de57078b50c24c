//! The segments in which something was found last, all of whose chunks are at hand: one makes its neighbours likely next.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::{Place, Segment};
use crate::format::id::ChunkId;

/// Chunks that are kept, some 150 bytes each: those of a GiB of dumps, or of hundreds of nights in which little changed. Not so
/// many segments: a segment has one chunk or thousands.
const CHUNKS_KEPT: usize = 32 * 1024;

#[derive(Default)]
pub(super) struct Near {
    /// By id: its segment, its place there, its length.
    places: HashMap<ChunkId, Place, BuildHasherDefault<IdHasher>>,
    /// The one that was added last is at the end.
    segments: VecDeque<Arc<Segment>>,
    /// Chunks of all segments.
    chunks: usize,
}

/// Chunk ids are keyed hashes: the first eight bytes of one are as good a hash as any.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _len: usize) {}
}

impl Near {
    pub(super) fn get(&self, chunk: &ChunkId) -> Option<&Place> {
        self.places.get(chunk)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps the chunks of a segment, and no longer those of the ones that were added first.
    pub(super) fn keep(&mut self, segment: &Arc<Segment>) {
        self.chunks += segment.record.chunks.len();
        while self.chunks > CHUNKS_KEPT
            && let Some(oldest) = self.segments.pop_front()
        {
            self.chunks -= oldest.record.chunks.len();
            for record in &oldest.record.chunks {
                // A chunk that lies in two segments may be the other one's by now.
                if self.places.get(&record.id).is_some_and(|place| place.segment.row == oldest.row) {
                    self.places.remove(&record.id);
                }
            }
        }
        let mut offset = 0;
        for record in &segment.record.chunks {
            let place = Place { segment: Arc::clone(segment), offset, len: record.len };
            self.places.insert(record.id, place);
            offset += u64::from(record.len);
        }
        self.segments.push_back(Arc::clone(segment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::ChunkRecord;
    use crate::repo::index::test_segments;
    use crate::repo::index::tests::chunk;

    /// A segment of so many chunks, from `first` on.
    fn segment(row: i64, first: u64, count: u64) -> Arc<Segment> {
        let chunks = (first..first + count).map(|number| ChunkRecord { id: chunk(number), len: 100 });
        test_segments::of_chunks(row, chunks.collect())
    }

    #[test]
    fn many_small_segments_are_kept_and_few_of_many_chunks() {
        let mut near = Near::default();
        for row in 0..2000 {
            near.keep(&segment(row, row.cast_unsigned() * 10, 10));
        }
        assert!((0..20_000).all(|number| near.get(&chunk(number)).is_some()));
        // The first and the last chunk of each lie in the segments beside it, too.
        for row in 0..40 {
            near.keep(&segment(10_000 + row, 1_000_000 + row.cast_unsigned() * 3999, 4000));
            assert!(near.chunks <= CHUNKS_KEPT && near.places.len() <= near.chunks);
        }
        assert_eq!((near.segments.len(), near.chunks), (8, 32_000));
        let kept =
            |first: u64, count| (first..first + count).filter(|number| near.get(&chunk(*number)).is_some()).count();
        assert_eq!((kept(0, 20_000), kept(1_000_000, 40 * 4000)), (0, 8 * 3999 + 1));
        assert_eq!(near.get(&chunk(1_000_000 + 39 * 3999 + 7)).map(|place| place.offset), Some(700));
        near.clear();
        assert!(near.places.is_empty() && near.chunks == 0);
    }

    /// A segment of more chunks than are kept is kept as long as nothing else is.
    #[test]
    fn the_longest_segment_is_found_again() {
        let mut near = Near::default();
        near.keep(&segment(1, 0, 10));
        near.keep(&segment(2, 10, CHUNKS_KEPT as u64 + 1));
        assert!(near.get(&chunk(0)).is_none() && near.get(&chunk(CHUNKS_KEPT as u64)).is_some());
        near.keep(&segment(3, 5, 2));
        assert_eq!((near.segments.len(), near.chunks, near.places.len()), (1, 2, 2));
    }
}
