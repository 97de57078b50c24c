//! Finds tonight's pieces among yesterday's, and decides what of a chunk is referred to and what is stored.

use std::collections::HashSet;

use super::file::KnownPage;
use super::window::{Position, Window};
use super::{Base, Cut, Piece};
use crate::chunker::PieceCutter;
use crate::crypto::piece::FingerprintKey;
use crate::format::id::ChunkId;

/// Blocks of yesterday's that one chunk of tonight's may bring at hand.
const SEEKS_MOST: u64 = 4;
/// Blocks that are brought at hand by anchors before it is asked whether that pays.
const SEEKS_TRIED: u64 = 64;
/// Pieces that must be found for each of them, on average: a hundredth of a block.
const GAIN_LEAST: u64 = 40;
/// Extents for each 32 KiB of a chunk, above which it is stored whole again: restoring it would be a search.
const EXTENTS_MOST: u64 = 64;
const EXTENTS_PER_BYTES: u64 = 32 * 1024;

/// Whether a chunk can still be referred to.
pub(in crate::repo) trait IsLive {
    /// Returns whether the repository has it, with this length.
    fn is_live(&self, base: &Base) -> Result<bool, crate::repo::Error>;
}

/// Pieces of a chunk of tonight's that lie one behind the other in one place, or are all new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) struct Stretch {
    /// Where its bytes lie, and from where in that chunk; `None` for new ones.
    pub(in crate::repo) place: Option<(Base, u32)>,
    /// Bytes.
    pub(in crate::repo) len: u32,
    /// Pieces.
    pub(in crate::repo) pieces: u32,
}

/// What was found of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::repo) struct Matched {
    pub(in crate::repo) stretches: Vec<Stretch>,
    /// Where yesterday's stream has what was found first.
    pub(in crate::repo) from: Option<u64>,
}

impl Matched {
    fn has_new(&self) -> bool {
        self.stretches.iter().any(|stretch| stretch.place.is_none())
    }

    fn pieces_found(&self) -> u64 {
        self.stretches.iter().filter(|stretch| stretch.place.is_some()).map(|stretch| u64::from(stretch.pieces)).sum()
    }

    /// Returns whether referring is better than storing the chunk: at least a quarter of it is there, in extents that
    /// are not too many.
    pub(in crate::repo) fn is_worth_it(&self) -> bool {
        let bytes = |known: bool| -> u64 {
            self.stretches
                .iter()
                .filter(|stretch| stretch.place.is_some() == known)
                .map(|stretch| u64::from(stretch.len))
                .sum()
        };
        let (known, new) = (bytes(true), bytes(false));
        known * 3 >= new && self.stretches.len() as u64 <= EXTENTS_MOST * (known + new).div_ceil(EXTENTS_PER_BYTES)
    }
}

/// See the head of this file.
pub(in crate::repo) struct Matcher {
    window: Option<Window>,
    key: FingerprintKey,
    cutter: PieceCutter,
    /// Yesterday's chunks of which too little is in use to be referred to again.
    refused: HashSet<ChunkId>,
    last: Option<Position>,
    /// Blocks that were brought at hand by anchors, and pieces that were found for it.
    sought: u64,
    gained: u64,
}

impl Matcher {
    pub(super) fn new(window: Option<Window>, key: FingerprintKey, gear: &[u64; 256]) -> Self {
        let refused = window.as_ref().map(refused).unwrap_or_default();
        Self { window, key, cutter: PieceCutter::new(gear), refused, last: None, sought: 0, gained: 0 }
    }

    /// Returns the number of the page of yesterday's recipe that stands for the place `from` of yesterday's stream.
    pub(in crate::repo) fn page_at(&self, from: u64) -> Option<usize> {
        self.window.as_ref()?.page_at(from)
    }

    /// Returns the page of a number.
    pub(in crate::repo) fn page(&self, number: usize) -> Option<&KnownPage> {
        self.window.as_ref()?.trailer().pages.get(number)
    }

    /// Returns why yesterday's file turned out to be of no use, once.
    pub(in crate::repo) fn take_failure(&mut self) -> Option<String> {
        self.window.as_mut().and_then(Window::take_failure)
    }

    /// Cuts a chunk into pieces and names them.
    pub(in crate::repo) fn pieces(&self, chunk: &[u8], records: impl Iterator<Item = usize>) -> Vec<Piece> {
        let mut lens = Vec::new();
        self.cutter.cut(chunk, records, &mut lens);
        let mut rest = chunk;
        let name = |len: u32| {
            let (piece, tail) = rest.split_at_checked(len as usize).unwrap_or((rest, &[]));
            rest = tail;
            Piece { fingerprint: self.key.fingerprint(piece), len }
        };
        lens.into_iter().map(name).collect()
    }

    /// Returns what yesterday's stream had between two cut points with this content of `len` bytes, and where, if all
    /// of it can still be referred to.
    pub(in crate::repo) fn cut(
        &mut self,
        id: &ChunkId,
        len: usize,
        live: &dyn IsLive,
    ) -> Result<Option<(Cut, u64)>, crate::repo::Error> {
        let Some((cut, from, last)) = self.window.as_mut().and_then(|window| window.cut(id)) else { return Ok(None) };
        self.last = Some(last);
        if cut.spans.iter().map(|span| span.len as usize).sum::<usize>() != len {
            return Ok(None);
        }
        for span in &cut.spans {
            if self.refused.contains(&span.base.chunk) || !live.is_live(&span.base)? {
                return Ok(None);
            }
        }
        Ok(Some((cut, from)))
    }

    /// Brings at hand what yesterday's stream had around these pieces. Returns whether that is more than before.
    pub(in crate::repo) fn seek(&mut self, pieces: &[Piece]) -> bool {
        let Some(window) = &mut self.window else { return false };
        // A stream that was shuffled has every piece in another block: reading a block for each is no gain.
        if self.sought > SEEKS_TRIED && self.gained < self.sought * GAIN_LEAST {
            return false;
        }
        let mut sought = 0;
        for piece in pieces {
            if sought < SEEKS_MOST && window.seek(piece) {
                sought += 1;
            }
        }
        self.sought += sought;
        sought > 0
    }

    /// Finds the pieces of a chunk.
    pub(in crate::repo) fn find(&mut self, pieces: &[Piece], live: &dyn IsLive) -> Result<Matched, crate::repo::Error> {
        let matched = self.find_at_hand(pieces, live)?;
        if !matched.has_new() || !self.seek(pieces) {
            return Ok(matched);
        }
        let found = self.find_at_hand(pieces, live)?;
        self.gained += found.pieces_found().saturating_sub(matched.pieces_found());
        Ok(found)
    }

    fn find_at_hand(&mut self, pieces: &[Piece], live: &dyn IsLive) -> Result<Matched, crate::repo::Error> {
        let mut matched = Matched::default();
        let mut last_live: Option<(Base, bool)> = None;
        for piece in pieces {
            let mut place = None;
            if let Some(window) = &mut self.window {
                let next = self.last.and_then(|last| window.next(last, piece));
                if let Some(found) = next.or_else(|| window.find(piece)) {
                    let is_live = match last_live {
                        Some((base, is_live)) if base == found.base => is_live,
                        _ => !self.refused.contains(&found.base.chunk) && live.is_live(&found.base)?,
                    };
                    last_live = Some((found.base, is_live));
                    self.last = Some(found.position);
                    if is_live {
                        matched.from.get_or_insert_with(|| window.stream_offset(found.position));
                        place = Some((found.base, found.offset));
                    }
                }
            }
            match (matched.stretches.last_mut(), place) {
                (Some(run @ Stretch { place: None, .. }), None) => {
                    run.len += piece.len;
                    run.pieces += 1;
                }
                (Some(run), Some((base, offset)))
                    if run.place.is_some_and(|(other, start)| other == base && start + run.len == offset) =>
                {
                    run.len += piece.len;
                    run.pieces += 1;
                }
                _ => matched.stretches.push(Stretch { place, len: piece.len, pieces: 1 }),
            }
        }
        Ok(matched)
    }
}

/// Returns the chunks that are not referred to again. The more of what yesterday's stream refers to is dead, the
/// sooner a chunk is given up: what is still alive of it is then stored anew, once, by the night after. So a
/// restore reads little more than the stream, but after a night in which much was deleted everywhere
/// (`docs/PERFORMANCE.md` has what this costs).
fn refused(window: &Window) -> HashSet<ChunkId> {
    let trailer = window.trailer();
    let percent = trailer.referred.saturating_mul(100) / trailer.stream_len.max(1);
    // Poor chunks are those of which less than half is in use.
    let live_least = match percent {
        0..=150 => 0,
        151..=180 => 25,
        _ => 50,
    };
    let is_refused = |base: &Base, live: u32| u64::from(live) * 100 < u64::from(base.chunk_len) * live_least;
    trailer.poor.iter().filter(|(base, live)| is_refused(base, *live)).map(|(base, _)| base.chunk).collect()
}
