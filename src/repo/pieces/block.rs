//! A few thousand pieces of a stream, in order: what a piece file is read and written in.

use std::collections::HashMap;

use super::{Base, Cut, Piece, Span};
use crate::format::cursor::{Cursor, push_varint};
use crate::format::id::ChunkId;
use crate::format::{Error, limits};

/// Pieces after which a block ends, at the next cut: about 2 MiB of a stream.
pub(super) const BLOCK_PIECES: usize = 4096;
/// No block has more: the largest chunk in pieces of a few bytes.
const BLOCK_PIECES_MAX: u64 = 16 * 1024 * 1024;

/// See the head of this file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) pieces: Vec<Piece>,
    /// Where each piece starts in the chunk that it lies in.
    pub(super) offsets: Vec<u32>,
    pub(super) spans: Vec<BlockSpan>,
    pub(super) cuts: Vec<BlockCut>,
}

/// A span of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockSpan {
    pub(super) span: Span,
    /// Its first piece.
    pub(super) first_piece: u32,
}

/// A cut of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockCut {
    pub(super) id: ChunkId,
    pub(super) first_span: u32,
    pub(super) first_piece: u32,
    /// Where it starts, in bytes from the start of the block.
    pub(super) offset: u64,
}

fn narrow(len: usize) -> u32 {
    u32::try_from(len).expect("a block is far below 2^32 pieces")
}

impl Block {
    /// Returns the bytes of the stream that the block stands for.
    pub(super) fn stream_len(&self) -> u64 {
        self.spans.iter().map(|span| u64::from(span.span.len)).sum()
    }

    /// Makes the block empty, and keeps its memory for the next one.
    pub(super) fn clear(&mut self) {
        let Self { pieces, offsets, spans, cuts } = self;
        pieces.clear();
        offsets.clear();
        spans.clear();
        cuts.clear();
    }

    /// Appends a cut.
    pub(super) fn push(&mut self, cut: &Cut, offset: u64) {
        let first_piece = narrow(self.pieces.len());
        self.cuts.push(BlockCut { id: cut.id, first_span: narrow(self.spans.len()), first_piece, offset });
        let mut next = first_piece;
        let mut pieces = cut.pieces.iter();
        for span in &cut.spans {
            self.spans.push(BlockSpan { span: *span, first_piece: next });
            next += span.pieces;
            let mut at = span.offset;
            for piece in pieces.by_ref().take(span.pieces as usize) {
                self.offsets.push(at);
                at += piece.len;
            }
        }
        self.pieces.extend_from_slice(&cut.pieces);
        assert_eq!(self.pieces.len(), next as usize, "spans account for every piece");
    }

    /// Returns a cut as it was pushed.
    pub(super) fn cut(&self, number: usize) -> Option<Cut> {
        let cut = self.cuts.get(number)?;
        let next = self.cuts.get(number + 1);
        let spans_end = next.map_or(self.spans.len(), |next| next.first_span as usize);
        let pieces_end = next.map_or(self.pieces.len(), |next| next.first_piece as usize);
        Some(Cut {
            id: cut.id,
            spans: self.spans.get(cut.first_span as usize..spans_end)?.iter().map(|span| span.span).collect(),
            pieces: self.pieces.get(cut.first_piece as usize..pieces_end)?.to_vec(),
        })
    }

    /// Returns name and length, in bytes, of a cut.
    pub(super) fn id_and_len(&self, number: usize) -> Option<(ChunkId, usize)> {
        let cut = self.cuts.get(number)?;
        let end = self.cuts.get(number + 1).map_or_else(|| self.stream_len(), |next| next.offset);
        Some((cut.id, usize::try_from(end.checked_sub(cut.offset)?).ok()?))
    }

    /// Returns the block's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bases: Vec<Base> = Vec::new();
        let mut places: HashMap<Base, u64> = HashMap::new();
        for span in &self.spans {
            let place = bases.len() as u64;
            places.entry(span.span.base).or_insert_with(|| {
                bases.push(span.span.base);
                place
            });
        }
        let mut out = Vec::with_capacity(self.pieces.len() * 18 + self.cuts.len() * 40);
        push_varint(&mut out, bases.len() as u64);
        for base in &bases {
            out.extend_from_slice(base.chunk.as_bytes());
            push_varint(&mut out, u64::from(base.chunk_len));
        }
        push_varint(&mut out, self.cuts.len() as u64);
        for number in 0..self.cuts.len() {
            let Some(cut) = self.cut(number) else { break };
            out.extend_from_slice(cut.id.as_bytes());
            push_varint(&mut out, cut.spans.len() as u64);
            let mut pieces = cut.pieces.iter();
            for span in &cut.spans {
                push_varint(&mut out, places.get(&span.base).copied().unwrap_or(0));
                push_varint(&mut out, u64::from(span.offset));
                push_varint(&mut out, u64::from(span.pieces));
                for piece in pieces.by_ref().take(span.pieces as usize) {
                    out.extend_from_slice(&piece.fingerprint.to_le_bytes());
                    push_varint(&mut out, u64::from(piece.len));
                }
            }
        }
        out
    }

    /// Reads a block.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let what = "block of a piece file";
        let mut cursor = Cursor::new(what, bytes);
        let mut bases = Vec::new();
        for _ in 0..cursor.count(what, BLOCK_PIECES_MAX)? {
            let chunk = ChunkId::take(&mut cursor)?;
            bases.push(Base { chunk, chunk_len: take_len(&mut cursor)? });
        }
        let mut block = Self::default();
        let mut offset = 0;
        for _ in 0..cursor.count(what, BLOCK_PIECES_MAX)? {
            let mut cut = Cut { id: ChunkId::take(&mut cursor)?, spans: Vec::new(), pieces: Vec::new() };
            let mut cut_len = 0;
            for _ in 0..cursor.count(what, BLOCK_PIECES_MAX)? {
                let index = cursor.varint()?;
                let base = usize::try_from(index).ok().and_then(|index| bases.get(index));
                let base = *base.ok_or(Error::Invalid { what, found: index })?;
                let span_offset = take_len(&mut cursor)?;
                let pieces = cursor.count(what, BLOCK_PIECES_MAX)?;
                let mut end = u64::from(span_offset);
                for _ in 0..pieces {
                    let piece =
                        Piece { fingerprint: u128::from_le_bytes(cursor.array()?), len: take_len(&mut cursor)? };
                    if piece.len == 0 {
                        return Err(Error::Invalid { what, found: 0 });
                    }
                    end = limits::check(what, end + u64::from(piece.len), u64::from(base.chunk_len))?;
                    cut.pieces.push(piece);
                }
                let len = end - u64::from(span_offset);
                cut_len += len;
                let (len, pieces) = (narrow_checked(what, len)?, narrow_checked(what, pieces as u64)?);
                cut.spans.push(Span { base, offset: span_offset, len, pieces });
            }
            block.push(&cut, offset);
            offset += cut_len;
        }
        cursor.end()?;
        Ok(block)
    }
}

fn narrow_checked(what: &'static str, found: u64) -> Result<u32, Error> {
    u32::try_from(found).map_err(|_| Error::Invalid { what, found })
}

/// Reads the length of, or a place in, a chunk.
pub(super) fn take_len(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let what = "length in a piece file";
    narrow_checked(what, limits::check(what, cursor.varint()?, limits::CHUNK_BYTES_MAX)?)
}
