//! Segments that are nowhere, for tests.

use std::sync::Arc;

use crate::format::envelope::Codec;
use crate::format::id::{ChunkId, PackId};
use crate::format::pack::{ChunkRecord, PackKind, SegmentRecord};
use crate::repo::index::Segment;

/// Returns a segment of one chunk of `plain_len` bytes; it lies in the pack at `offset` and takes `stored_len` bytes.
pub(super) fn segment(row: i64, pack: u8, offset: u32, stored_len: u32, plain_len: u32) -> Arc<Segment> {
    let chunks = vec![ChunkRecord { id: ChunkId::from_bytes([0; 32]), len: plain_len }];
    let record = SegmentRecord { stored_len, codec: Codec::Zstd, key: 0, nonce: [0; 24], chunks };
    let pack = PackId::from_bytes([pack; 32]);
    let (pack_len, header_len) = (1 << 25, 16);
    Arc::new(Segment { row, pack, kind: PackKind::Content, pack_len, header_len, ordinal: 0, offset, record })
}
