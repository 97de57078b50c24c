//! The part of yesterday's pieces that is at hand: a few blocks around the places that tonight's stream is at.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, mpsc};

use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

use super::block::Block;
use super::file::{KnownPage, PieceFile, Trailer};
use super::lookup::Lookup;
use super::{Base, Cut, Piece};
use crate::format::id::ChunkId;

/// Blocks at hand: 32 times 4,096 pieces, about 64 MiB of a stream of documents and 6 MiB of memory. An
/// archive of `mongodump` interleaves four collections, and every one of them has its own place.
const BLOCKS_MOST: u32 = 32;

/// Blocks that are read before they are wanted: one for each of these places.
const COMING_MOST: usize = 4;

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

/// A block at hand.
struct AtHand {
    number: u32,
    block: Block,
    lookup: Lookup,
}

impl AtHand {
    fn read(file: &PieceFile, number: u32) -> std::io::Result<Self> {
        let block = file.block(number)?;
        let lookup = Lookup::new(&block.pieces);
        Ok(Self { number, block, lookup })
    }
}

/// A block that another thread reads.
struct Coming {
    number: u32,
    read: mpsc::Receiver<std::io::Result<AtHand>>,
}

/// See the head of this file.
pub(super) struct Window {
    file: Arc<PieceFile>,
    /// The block used last is at the end.
    blocks: Vec<AtHand>,
    /// Blocks that are likely to be wanted next.
    coming: VecDeque<Coming>,
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
        // All of a short stream, whose archive may begin with another collection tonight.
        let first = u32::try_from(file.blocks()).map_or(BLOCKS_MOST, |blocks| blocks.min(BLOCKS_MOST));
        let read: Vec<_> = (0..first).into_par_iter().map(|number| AtHand::read(&file, number)).collect();
        let mut window = Self {
            file: Arc::new(file),
            blocks: Vec::new(),
            coming: VecDeque::new(),
            cuts: HashMap::new(),
            page_ends,
            failure: None,
        };
        for block in read.into_iter().rev() {
            window.take(block);
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
        let block = self.block(number)?;
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
        let block = self.block(position.block)?;
        let next = block.cuts.partition_point(|cut| cut.first_piece <= position.piece);
        let (number, next) = if next < block.cuts.len() { (position.block, next) } else { (position.block + 1, 0) };
        let block = self.block(number)?;
        let is_last = number as usize + 1 == self.file.blocks() && next + 1 == block.cuts.len();
        if is_last { None } else { block.id_and_len(next) }
    }

    /// Returns the piece behind `position`, if it is this one.
    pub(super) fn next(&mut self, position: Position, piece: &Piece) -> Option<Found> {
        let mut next = Position { piece: position.piece + 1, ..position };
        if self.block(next.block).is_some_and(|block| next.piece as usize >= block.pieces.len()) {
            next = Position { block: next.block + 1, piece: 0 };
        }
        let found = self.at(next, piece)?;
        self.come_to(next);
        Some(found)
    }

    /// Returns a piece wherever it is at hand.
    pub(super) fn find(&mut self, piece: &Piece) -> Option<Found> {
        let at = |at_hand: &AtHand| {
            let number = at_hand.lookup.find(&at_hand.block.pieces, piece)?;
            Some(Position { block: at_hand.number, piece: number })
        };
        let position = self.blocks.iter().rev().find_map(at)?;
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
        let Some(block) = self.block(position.block) else { return start };
        let behind = block.cuts.partition_point(|cut| cut.first_piece <= position.piece);
        start + behind.checked_sub(1).and_then(|place| block.cuts.get(place)).map_or(0, |cut| cut.offset)
    }

    fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.iter().rev().find(|at_hand| at_hand.number == number).map(|at_hand| &at_hand.block)
    }

    fn at(&self, position: Position, piece: &Piece) -> Option<Found> {
        let block = self.block(position.block)?;
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
        if self.blocks.last().is_none_or(|last| last.number != position.block) {
            self.touch(position.block);
            self.ask_for(position.block + 1);
        }
        let is_near_end = self.block(position.block).is_some_and(|block| {
            let last_cut = block.cuts.last().map_or(0, |cut| cut.first_piece as usize);
            position.piece as usize >= last_cut.min(block.pieces.len().saturating_sub(NEAR_END_PIECES))
        });
        if is_near_end && self.block(position.block + 1).is_none() {
            self.load(position.block + 1);
        }
    }

    /// Makes a block the one used last. Returns whether it is at hand.
    fn touch(&mut self, number: u32) -> bool {
        let Some(place) = self.blocks.iter().rposition(|at_hand| at_hand.number == number) else { return false };
        if place + 1 < self.blocks.len() {
            let block = self.blocks.remove(place);
            self.blocks.push(block);
        }
        true
    }

    /// Has a block read by another core. Nobody waits for it: what is not there when it is wanted is read again.
    fn ask_for(&mut self, number: u32) {
        let is_wanted = (number as usize) < self.file.blocks()
            && self.block(number).is_none()
            && !self.coming.iter().any(|coming| coming.number == number);
        if !is_wanted {
            return;
        }
        if self.coming.len() >= COMING_MOST {
            self.coming.pop_front();
        }
        let (done, read) = mpsc::sync_channel(1);
        let file = Arc::clone(&self.file);
        rayon::spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = done.send(AtHand::read(&file, number));
        });
        self.coming.push_back(Coming { number, read });
    }

    /// Brings a block at hand. Returns whether it was not there before.
    fn load(&mut self, number: u32) -> bool {
        if number as usize >= self.file.blocks() || self.touch(number) {
            return false;
        }
        let place = self.coming.iter().position(|coming| coming.number == number);
        let coming = place.and_then(|place| self.coming.remove(place)).and_then(|coming| coming.read.try_recv().ok());
        let read = coming.unwrap_or_else(|| AtHand::read(&self.file, number));
        self.take(read)
    }

    fn take(&mut self, read: std::io::Result<AtHand>) -> bool {
        let at_hand = match read {
            Ok(at_hand) => at_hand,
            Err(error) => {
                self.failure.get_or_insert_with(|| error.to_string());
                return false;
            }
        };
        if self.blocks.len() >= BLOCKS_MOST as usize {
            let oldest = self.blocks.remove(0);
            for cut in &oldest.block.cuts {
                if self.cuts.get(&cut.id).is_some_and(|(block, _)| *block == oldest.number) {
                    self.cuts.remove(&cut.id);
                }
            }
        }
        for (cut, place) in at_hand.block.cuts.iter().zip(0..) {
            self.cuts.insert(cut.id, (at_hand.number, place));
        }
        self.blocks.push(at_hand);
        true
    }
}
