//! Decoded segments for stretches to come: whole where much of them is wanted soon, copies of what is wanted otherwise.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use super::Reader;
use super::fetch::{Decoded, Keep, Take, Taken, UNDER_WAY_KIB, Wanted};
use super::plan::{held_bytes, is_dense};
use super::stretches::{Agenda, SegmentNumber};
use crate::repo::Error;
use crate::repo::index::Segment;

const MIB: u64 = 1024 * 1024;
/// Plain bytes of segments that are decoded before their turn. Asked for again when half of it is left, so that
/// neighbours come in one request.
const AHEAD_BYTES: u64 = 8 * MIB;
/// Bytes from which on nothing more is asked for but what a turn wants that has come. What is wanted last goes first, and is
/// decoded again when its turn comes.
const HELD_BYTES: u64 = 24 * MIB;

enum Content {
    Away,
    Coming(oneshot::Receiver<Decoded>),
    There(Arc<Taken>),
    Failed,
}

struct Shelved {
    segment: Arc<Segment>,
    /// The turns that want some of it and have not been.
    turns: VecDeque<usize>,
    content: Content,
    /// Bytes of it that are held.
    held_bytes: u64,
}

/// See the head of this file.
pub(super) struct Shelf<'a> {
    reader: &'a Arc<Reader>,
    agenda: &'a Agenda,
    /// By number.
    segments: Vec<Shelved>,
    /// Those that are coming or there.
    held: Vec<SegmentNumber>,
    held_bytes: u64,
    /// Plain bytes of those that are coming.
    coming_bytes: u64,
    /// The first turn that was not seen to.
    scheduled: usize,
    /// The first turn that is none of its own.
    end: usize,
    under_way: Arc<Semaphore>,
}

impl<'a> Shelf<'a> {
    pub(super) fn new(reader: &'a Arc<Reader>, agenda: &'a Agenda, turns: Range<usize>) -> Self {
        let shelved = |(segment, turns)| Shelved { segment, turns, content: Content::Away, held_bytes: 0 };
        Self {
            reader,
            agenda,
            scheduled: turns.start,
            end: turns.end,
            segments: agenda.uses(turns).into_iter().map(shelved).collect(),
            held: Vec::new(),
            held_bytes: 0,
            coming_bytes: 0,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_KIB as usize)),
        }
    }

    /// Sees to it that what a turn and those behind it want is there or coming.
    pub(super) fn see_to(&mut self, turn: usize) {
        if self.scheduled > turn && self.coming_bytes > AHEAD_BYTES / 2 {
            return;
        }
        let agenda = self.agenda;
        let mut wanted = Vec::new();
        while self.scheduled < self.end
            && let Some(stretch) = agenda.stretches().get(self.scheduled)
        {
            let is_its_turn = self.scheduled == turn;
            let has_room = self.make_room() && self.coming_bytes < AHEAD_BYTES;
            if !has_room && !is_its_turn {
                break;
            }
            for number in agenda.segments_of(stretch) {
                self.ask_for(number, &mut wanted);
            }
            self.scheduled += 1;
        }
        self.reader.launch(wanted, &self.under_way);
    }

    /// Puts away what is wanted later than the turn that is seen to, until there is room. Returns whether there is.
    fn make_room(&mut self) -> bool {
        while self.held_bytes >= HELD_BYTES {
            let next_turn = |number: &SegmentNumber| {
                let shelved = self.segments.get(*number as usize)?;
                let is_there = matches!(shelved.content, Content::There(_));
                shelved.turns.front().copied().filter(|turn| is_there && *turn > self.scheduled)
            };
            let last = self.held.iter().filter_map(|number| Some((next_turn(number)?, *number))).max();
            let Some((_, number)) = last else { return false };
            self.put_away(number, Content::Away);
        }
        true
    }

    fn ask_for(&mut self, number: SegmentNumber, wanted: &mut Vec<(Arc<Segment>, Wanted)>) {
        let Some(shelved) = self.segments.get_mut(number as usize) else { return };
        if !matches!(shelved.content, Content::Away) {
            return;
        }
        let parts = self.agenda.wanted(number, &shelved.turns);
        let bytes: u64 = parts.values().map(|len| u64::from(*len)).sum();
        let take = if is_dense(bytes, &shelved.segment) { Take::whole() } else { Take::copies(parts) };
        shelved.held_bytes = held_bytes(bytes, &shelved.segment);
        let (to, coming) = oneshot::channel();
        shelved.content = Content::Coming(coming);
        wanted.push((Arc::clone(&shelved.segment), Wanted { take, keep: Keep::No, to }));
        self.held.push(number);
        self.held_bytes += shelved.held_bytes;
        self.coming_bytes += shelved.segment.record.plain_len();
    }

    /// Returns what was asked for of a segment; where that failed, why, to the first who wants to know.
    pub(super) async fn content(&mut self, number: SegmentNumber) -> Result<Arc<Taken>, Option<Error>> {
        let Some(shelved) = self.segments.get_mut(number as usize) else { return Err(None) };
        let decoded = match &mut shelved.content {
            Content::There(taken) => return Ok(Arc::clone(taken)),
            Content::Coming(coming) => coming.await.unwrap_or(Err(Error::Stopped)),
            Content::Away | Content::Failed => return Err(None),
        };
        self.coming_bytes -= shelved.segment.record.plain_len();
        match decoded {
            Ok(taken) => {
                let taken = Arc::new(taken);
                shelved.content = Content::There(Arc::clone(&taken));
                Ok(taken)
            }
            Err(error) => {
                self.put_away(number, Content::Failed);
                Err(Some(error))
            }
        }
    }

    /// A turn is over, for which these segments were there: what no other wants goes.
    pub(super) fn leave(&mut self, turn: usize, own: &[SegmentNumber]) {
        for number in own {
            let Some(shelved) = self.segments.get_mut(*number as usize) else { continue };
            if shelved.turns.front() == Some(&turn) {
                shelved.turns.pop_front();
            }
            if shelved.turns.is_empty() {
                self.put_away(*number, Content::Away);
            }
        }
    }

    fn put_away(&mut self, number: SegmentNumber, content: Content) {
        let place = self.held.iter().position(|held| *held == number);
        let Some((place, shelved)) = place.zip(self.segments.get_mut(number as usize)) else { return };
        self.held.swap_remove(place);
        self.held_bytes -= shelved.held_bytes;
        shelved.content = content;
    }
}
