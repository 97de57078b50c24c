//! Segments that are nowhere, for tests.

use std::sync::Arc;

use crate::format::envelope::Codec;
use crate::format::id::{ChunkId, PackId};
use crate::format::pack::{ChunkRecord, PackKind, SegmentRecord};

use super::Segment;

/// Returns a segment of one chunk of `plain_len` bytes; it lies in the pack at `offset` and takes `stored_len` bytes.
pub(in crate::repo) fn segment(row: i64, pack: u8, offset: u32, stored_len: u32, plain_len: u32) -> Arc<Segment> {
    let chunk = ChunkRecord { id: ChunkId::from_bytes([0; 32]), len: plain_len };
    placed(row, pack, offset, record(stored_len, vec![chunk]))
}

/// Returns a segment of these chunks, somewhere.
pub(super) fn of_chunks(row: i64, chunks: Vec<ChunkRecord>) -> Arc<Segment> {
    placed(row, 1, 0, record(50, chunks))
}

/// Returns what a directory says of a segment of these chunks.
pub(super) fn record(stored_len: u32, chunks: Vec<ChunkRecord>) -> SegmentRecord {
    SegmentRecord { stored_len, codec: Codec::Zstd, key: 0, nonce: [0; 24], chunks }
}

fn placed(row: i64, pack: u8, offset: u32, record: SegmentRecord) -> Arc<Segment> {
    let pack = PackId::from_bytes([pack; 32]);
    let (pack_len, header_len) = (1 << 25, 16);
    Arc::new(Segment { row, pack, kind: PackKind::Content, pack_len, header_len, ordinal: 0, offset, record })
}
