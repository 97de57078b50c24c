//! The piece cache: what the host remembers of yesterday's streams, so that tonight's store only what changed.
//!
//! Per stream one file: its pieces in order, each with a secret-keyed fingerprint, its length and the place in
//! the repository where its bytes lie. No content. It is trusted for nothing but places, and only for
//! places of chunks that the index knows; without it, or with a damaged one, whole chunks are compared, and
//! nothing else happens. It may be removed at any time.

mod block;
mod file;
mod lookup;
mod matcher;
mod store;
mod window;

use crate::format::id::ChunkId;

pub(super) use file::{KnownPage, PieceWriter};
pub(super) use matcher::{Home, Homes, Matched, Matcher, Stretch};
pub(super) use store::{Growing, Grown, PieceStore, StreamPieces};
pub use store::{KeptPieces, PieceUse};

/// The finest unit in which a stream is compared with yesterday's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) fingerprint: u128,
    pub(super) len: u32,
}

/// A chunk that pieces lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Base {
    pub(super) chunk: ChunkId,
    pub(super) chunk_len: u32,
}

/// The segment that a chunk lies in: whoever restores a byte of it decodes the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InSegment {
    /// Its first chunk, by which it is known.
    pub(super) first: ChunkId,
    /// Plain bytes of the whole segment.
    pub(super) len: u32,
}

/// A run of pieces that lie one behind the other in one chunk: an extent, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) base: Base,
    pub(super) offset: u32,
    /// Bytes.
    pub(super) len: u32,
    /// How many pieces.
    pub(super) pieces: u32,
}

/// What lies between two cut points of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cut {
    /// What its chunk is, or would be, called.
    pub(super) id: ChunkId,
    pub(super) spans: Vec<Span>,
    pub(super) pieces: Vec<Piece>,
}
