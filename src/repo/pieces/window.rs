//! The part of yesterday's pieces that is at hand: a few blocks around the places that tonight's stream is at.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::block::Block;
use super::file::{KnownPage, PieceFile, Trailer};
use super::{Base, Cut, Piece};
use crate::format::id::ChunkId;

/// Blocks at hand: 32 times 4,096 pieces, about 64 MiB of a stream of documents and 25 MiB of memory. An
/// archive of `mongodump` interleaves four collections, and every one of them has its own place.
const BLOCKS_MOST: u32 = 32;

/// Pieces before the end of a block from which on the next one is at hand.
const NEAR_END_PIECES: usize = 256;

/// Where a piece lies in yesterday's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    block: u32,
    piece: u32,
}

/// A piece that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) base: Base,
    /// Where the piece starts in the chunk.
    pub(super) offset: u32,
}

/// Fingerprints are as good as hashes.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (place, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (place % 8));
        }
    }

    fn write_u128(&mut self, value: u128) {
        let (low, high) = (value & u128::from(u64::MAX), value >> 64);
        self.0 = u64::try_from(low ^ high).unwrap_or_default();
    }
}

/// See the head of this file.
pub(super) struct Window {
    file: PieceFile,
    blocks: HashMap<u32, Block>,
    /// The block used last is at the end.
    order: VecDeque<u32>,
    pieces: HashMap<u128, Position, BuildHasherDefault<AsIs>>,
    cuts: HashMap<ChunkId, (u32, u32)>,
    /// Where each page of yesterday's recipe ends in the stream.
    page_ends: Vec<u64>,
    /// Why the file is not read any more.
    failure: Option<String>,
}

impl Window {
    pub(super) fn new(file: PieceFile) -> Self {
        let mut end = 0_u64;
        let add = |page: &KnownPage| {
            end = end.saturating_add(page.stream_len);
            end
        };
        let page_ends = file.trailer.pages.iter().map(add).collect();
        let mut window = Self {
            file,
            blocks: HashMap::new(),
            order: VecDeque::new(),
            pieces: HashMap::default(),
            cuts: HashMap::new(),
            page_ends,
            failure: None,
        };
        // All of a short stream, whose archive may begin with another collection tonight.
        for number in (0..BLOCKS_MOST).rev() {
            window.load(number);
        }
        window
    }

    pub(super) fn trailer(&self) -> &Trailer {
        &self.file.trailer
    }

    /// Returns why the file is of no use any more, once.
    pub(super) fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// Returns the number of the page of yesterday's recipe that stands for a place of yesterday's stream.
    pub(super) fn page_at(&self, from: u64) -> Option<usize> {
        let number = self.page_ends.partition_point(|end| *end <= from);
        (number < self.page_ends.len()).then_some(number)
    }

    /// Returns yesterday's cut of this name, if it is at hand, where it starts in yesterday's stream, and its last
    /// piece. What follows it is at hand from here on.
    pub(super) fn cut(&mut self, id: &ChunkId) -> Option<(Cut, u64, Position)> {
        let (number, place) = *self.cuts.get(id)?;
        let block = self.blocks.get(&number)?;
        let cut = block.cut(place as usize)?;
        let at = block.cuts.get(place as usize)?;
        let from = self.file.start_of(number) + at.offset;
        let pieces = u32::try_from(cut.pieces.len()).ok()?;
        let last = Position { block: number, piece: (at.first_piece + pieces).checked_sub(1)? };
        self.come_to(last);
        Some((cut, from, last))
    }

    /// Returns name and length, in bytes, of yesterday's cut behind the one that holds `position`, if it is at hand
    /// and not the last: that one was cut because the stream ended.
    pub(super) fn cut_behind(&self, position: Position) -> Option<(ChunkId, usize)> {
        let block = self.blocks.get(&position.block)?;
        let next = block.cuts.partition_point(|cut| cut.first_piece <= position.piece);
        let (number, next) = if next < block.cuts.len() { (position.block, next) } else { (position.block + 1, 0) };
        let block = self.blocks.get(&number)?;
        let is_last = number as usize + 1 == self.file.blocks() && next + 1 == block.cuts.len();
        if is_last { None } else { block.id_and_len(next) }
    }

    /// Returns the piece behind `position`, if it is this one.
    pub(super) fn next(&mut self, position: Position, piece: &Piece) -> Option<Found> {
        let mut next = Position { piece: position.piece + 1, ..position };
        if self.blocks.get(&next.block).is_some_and(|block| next.piece as usize >= block.pieces.len()) {
            next = Position { block: next.block + 1, piece: 0 };
        }
        let found = self.at(next, piece)?;
        self.come_to(next);
        Some(found)
    }

    /// Returns a piece wherever it is at hand.
    pub(super) fn find(&mut self, piece: &Piece) -> Option<Found> {
        let position = *self.pieces.get(&piece.fingerprint)?;
        let found = self.at(position, piece)?;
        self.come_to(position);
        Some(found)
    }

    /// Brings the block at hand in which a piece of the sample lies. Returns whether it was not at hand before.
    pub(super) fn seek(&mut self, piece: &Piece) -> bool {
        self.file.anchor(piece.fingerprint).is_some_and(|block| self.load(block))
    }

    /// Returns where the cut that holds a position starts in yesterday's stream.
    pub(super) fn stream_offset(&self, position: Position) -> u64 {
        let start = self.file.start_of(position.block);
        let Some(block) = self.blocks.get(&position.block) else { return start };
        let behind = block.cuts.partition_point(|cut| cut.first_piece <= position.piece);
        start + behind.checked_sub(1).and_then(|place| block.cuts.get(place)).map_or(0, |cut| cut.offset)
    }

    fn at(&self, position: Position, piece: &Piece) -> Option<Found> {
        let block = self.blocks.get(&position.block)?;
        if block.pieces.get(position.piece as usize)? != piece {
            return None;
        }
        let behind = block.spans.partition_point(|span| span.first_piece <= position.piece);
        let span = block.spans.get(behind.checked_sub(1)?)?;
        let offset = *block.offsets.get(position.piece as usize)?;
        Some(Found { position, base: span.span.base, offset })
    }

    /// Keeps the block of a place, and has the next one at hand where little of this one is left: what follows then
    /// is found though the last piece of the block has changed.
    fn come_to(&mut self, position: Position) {
        self.touch(position.block);
        let is_near_end = self.blocks.get(&position.block).is_some_and(|block| {
            let last_cut = block.cuts.last().map_or(0, |cut| cut.first_piece as usize);
            position.piece as usize >= last_cut.min(block.pieces.len().saturating_sub(NEAR_END_PIECES))
        });
        if is_near_end {
            self.load(position.block + 1);
        }
    }

    fn touch(&mut self, number: u32) {
        if self.order.back() != Some(&number)
            && let Some(place) = self.order.iter().position(|other| *other == number)
        {
            self.order.remove(place);
            self.order.push_back(number);
        }
    }

    fn load(&mut self, number: u32) -> bool {
        if number as usize >= self.file.blocks() {
            return false;
        }
        if self.blocks.contains_key(&number) {
            self.touch(number);
            return false;
        }
        let block = match self.file.block(number) {
            Ok(block) => block,
            Err(error) => {
                self.failure.get_or_insert_with(|| error.to_string());
                return false;
            }
        };
        while self.order.len() >= BLOCKS_MOST as usize {
            let Some(oldest) = self.order.pop_front() else { break };
            self.unload(oldest);
        }
        for (piece, place) in block.pieces.iter().zip(0..) {
            self.pieces.insert(piece.fingerprint, Position { block: number, piece: place });
        }
        for (cut, place) in block.cuts.iter().zip(0..) {
            self.cuts.insert(cut.id, (number, place));
        }
        self.blocks.insert(number, block);
        self.order.push_back(number);
        true
    }

    fn unload(&mut self, number: u32) {
        let Some(block) = self.blocks.remove(&number) else { return };
        for piece in &block.pieces {
            if let Entry::Occupied(place) = self.pieces.entry(piece.fingerprint)
                && place.get().block == number
            {
                place.remove();
            }
        }
        for cut in &block.cuts {
            if self.cuts.get(&cut.id).is_some_and(|(block, _)| *block == number) {
                self.cuts.remove(&cut.id);
            }
        }
    }
}
