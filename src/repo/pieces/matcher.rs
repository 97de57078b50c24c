//! Finds tonight's pieces among yesterday's, and decides what of a chunk is referred to and what is stored.

use std::collections::{HashMap, HashSet};

use super::file::{KnownPage, Trailer};
use super::window::{Position, Window};
use super::{Base, Cut, InSegment, Piece};
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

/// What a restore may decode for a stream, in percent of it, before segments of which the stream uses little are given
/// up, and how little that is in each case, in percent of the segment. What is still used of them is stored anew, once,
/// so the least used go first: they cost least for what they save. `docs/PERFORMANCE.md` has what this costs.
const DECODED_PERCENT: [(u64, u64); 3] = [(150, 12), (165, 25), (180, 50)];
/// Percent of the stream up to which giving up is spread over nights, each storing so much of the stream anew.
const DECODED_PERCENT_SPREAD: u64 = 195;
const AGAIN_SHIFT: u32 = 8;
/// Bytes that are decoded for others whose content lies beside either end of the stream, and nothing of its age.
const ENDS_BYTES: u64 = 1024 * 1024;

/// Where the repository has a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repo) enum Home {
    /// This run is storing it.
    New,
    /// In this segment.
    In(InSegment),
}

impl Home {
    /// Returns the segment, where it was not stored in this run.
    pub(in crate::repo) const fn segment(self) -> Option<InSegment> {
        match self {
            Self::New => None,
            Self::In(segment) => Some(segment),
        }
    }
}

/// Tells which chunks can still be referred to.
pub(in crate::repo) trait Homes {
    /// Returns where the repository has it, `None` where it has not, or has it with another length.
    fn home(&self, base: &Base) -> Result<Option<Home>, crate::repo::Error>;
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
    /// The segment of a place that was not stored in this run.
    pub(in crate::repo) segment: Option<InSegment>,
}

/// What yesterday's stream had between two cut points, still to be referred to.
pub(in crate::repo) struct FoundCut {
    pub(in crate::repo) cut: Cut,
    /// Where yesterday's stream has it.
    pub(in crate::repo) from: u64,
    /// The segment of each span that was not stored in this run.
    pub(in crate::repo) segments: Vec<Option<InSegment>>,
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
    /// Segments, by their first chunks, of which yesterday's stream used too little to be referred to again.
    refused: HashSet<ChunkId>,
    /// The chunk looked for last that yesterday's stream had in one of them.
    given_up: Option<ChunkId>,
    last: Option<Position>,
    /// Blocks that were brought at hand by anchors, and pieces that were found for it.
    sought: u64,
    gained: u64,
}

impl Matcher {
    pub(super) fn new(window: Option<Window>, key: FingerprintKey, gear: &[u64; 256]) -> Self {
        let refused = window.as_ref().map(|window| refused(window.trailer())).unwrap_or_default();
        Self { window, key, cutter: PieceCutter::new(gear), refused, given_up: None, last: None, sought: 0, gained: 0 }
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

    /// Returns what yesterday's stream had between two cut points with this content of `len` bytes, if all
    /// of it can still be referred to.
    pub(in crate::repo) fn cut(
        &mut self,
        id: &ChunkId,
        len: usize,
        homes: &dyn Homes,
    ) -> Result<Option<FoundCut>, crate::repo::Error> {
        let Some((cut, from, last)) = self.window.as_mut().and_then(|window| window.cut(id)) else { return Ok(None) };
        self.last = Some(last);
        if cut.spans.iter().map(|span| span.len as usize).sum::<usize>() != len {
            return Ok(None);
        }
        let mut segments = Vec::with_capacity(cut.spans.len());
        for span in &cut.spans {
            let home = homes.home(&span.base)?;
            let Some(segment) = live(&self.refused, home) else {
                self.given_up = home.map(|_| *id);
                return Ok(None);
            };
            segments.push(segment);
        }
        Ok(Some(FoundCut { cut, from, segments }))
    }

    /// Returns whether a chunk lies in a segment that is not to be referred to again.
    pub(in crate::repo) fn is_given_up(&self, home: Home) -> bool {
        live(&self.refused, Some(home)).is_none()
    }

    /// Returns whether yesterday's stream had the chunk that was looked for last in such a segment: it may still lie under
    /// its own name in one that was given up before, and would go back and forth between the two.
    pub(in crate::repo) fn was_given_up(&self, chunk: &ChunkId) -> bool {
        self.given_up.as_ref() == Some(chunk)
    }

    /// Returns name and length, in bytes, of the cut that is likely to come next: the one that followed yesterday.
    pub(in crate::repo) fn cut_ahead(&self) -> Option<(ChunkId, usize)> {
        self.window.as_ref()?.cut_behind(self.last?)
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
    pub(in crate::repo) fn find(&mut self, pieces: &[Piece], homes: &dyn Homes) -> Result<Matched, crate::repo::Error> {
        let matched = self.find_at_hand(pieces, homes)?;
        if !matched.has_new() || !self.seek(pieces) {
            return Ok(matched);
        }
        let found = self.find_at_hand(pieces, homes)?;
        self.gained += found.pieces_found().saturating_sub(matched.pieces_found());
        Ok(found)
    }

    fn find_at_hand(&mut self, pieces: &[Piece], homes: &dyn Homes) -> Result<Matched, crate::repo::Error> {
        let mut matched = Matched::default();
        let mut last_live: Option<(Base, Option<Option<InSegment>>)> = None;
        for piece in pieces {
            let (mut place, mut segment) = (None, None);
            if let Some(window) = &mut self.window {
                let next = self.last.and_then(|last| window.next(last, piece));
                if let Some(found) = next.or_else(|| window.find(piece)) {
                    let is_live = match last_live {
                        Some((base, is_live)) if base == found.base => is_live,
                        _ => live(&self.refused, homes.home(&found.base)?),
                    };
                    last_live = Some((found.base, is_live));
                    self.last = Some(found.position);
                    if let Some(its_segment) = is_live {
                        segment = its_segment;
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
                _ => matched.stretches.push(Stretch { place, len: piece.len, pieces: 1, segment }),
            }
        }
        Ok(matched)
    }
}

/// Returns the segment of what can be referred to.
#[expect(clippy::option_option, reason = "not to be referred to, and in no segment yet, are two things")]
fn live(refused: &HashSet<ChunkId>, home: Option<Home>) -> Option<Option<InSegment>> {
    let segment = home?.segment();
    let is_refused = segment.is_some_and(|segment| refused.contains(&segment.first));
    (!is_refused).then_some(segment)
}

/// Returns the segments that are not referred to again, by their first chunks.
fn refused(trailer: &Trailer) -> HashSet<ChunkId> {
    // What was counted twice, on a stream with more segments than are counted at once, may be in good use.
    let mut times: HashMap<ChunkId, u32> = HashMap::new();
    for (segment, _) in &trailer.poor {
        *times.entry(segment.first).or_default() += 1;
    }
    let once = trailer.poor.iter().filter(|(segment, _)| times.get(&segment.first) == Some(&1));
    let mut poor: Vec<_> = once.map(|(segment, live)| (*segment, u64::from(*live))).collect();
    let used_percent = |(segment, live): &(InSegment, u64)| live * 100 / u64::from(segment.len).max(1);
    poor.sort_by_key(used_percent);
    let stream_len = trailer.stream_len.max(1);
    let mut decoded = trailer.decoded.saturating_sub(ENDS_BYTES);
    let mut again = 0;
    let mut refused = HashSet::new();
    for (segment, live) in poor {
        let percent = decoded.saturating_mul(100) / stream_len;
        let least = DECODED_PERCENT.iter().rev().find(|(above, _)| percent > *above).map_or(0, |(_, least)| *least);
        let is_spread = percent <= DECODED_PERCENT_SPREAD && again > stream_len >> AGAIN_SHIFT;
        if is_spread || used_percent(&(segment, live)) >= least {
            break;
        }
        again += live;
        decoded = decoded.saturating_sub(u64::from(segment.len).saturating_sub(live));
        refused.insert(segment.first);
    }
    refused
}
