//! Pages of few words, for tests.

use super::{Extent, RecipePage};
use crate::format::id::ChunkId;

/// Returns the chunk of that number.
pub(super) fn chunk(number: u8) -> ChunkId {
    ChunkId::from_bytes([number; 32])
}

/// Returns a range of a chunk of 1000 bytes.
pub(super) fn part(number: u8, offset: u32, len: u32) -> Extent {
    Extent { chunk: chunk(number), chunk_len: 1000, offset, len }
}

/// Returns the page of these extents.
pub(super) fn page(extents: &[Extent]) -> RecipePage {
    RecipePage::new(extents.iter().copied()).expect("a page that can be read")
}
