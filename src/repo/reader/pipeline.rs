//! A stream put together: extents are planned far ahead, segments fetched and decoded ahead of their turn, pieces handed
//! out in order. One task conducts and puts the hash together; fetching is the runtime's, decoding and hashing rayon's.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, oneshot};

use super::Reader;
use super::extents::{ExtentSource, Located};
use super::fetch::{Decoded, Form, HASHED_BYTES_LEAST, Keep, Part, PieceOf, Take, Taken, UNDER_WAY_KIB, Wanted};
use super::plan::{Horizon, Item, Need, Piece, SlotNumber};
use super::verify::{Expected, Handed, Outlet, Verdict};
use crate::format::entry::EntryContent;
use crate::repo::Error;
use crate::repo::index::Segment;

const MIB: u64 = 1024 * 1024;

/// Memory that a stream may take on its way.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Bytes of the stream that are fetched and decoded before their turn. Asked for again when half of it is left, so
    /// that neighbours come in one request.
    ahead_bytes: u64,
    /// Bytes that are or will be held for all that is planned, but for what passes by: no more is planned than that, so whoever
    /// opens a segment takes out of it what all that is planned will want.
    held_bytes: u64,
    /// Bytes of the stream that are planned.
    planned_bytes: u64,
    /// Bytes of the stream that are planned before anything is fetched, and however much is held.
    first_planned_bytes: u64,
}

impl Room {
    /// For content, of which one stream is read at a time.
    pub(super) const CONTENT: Self =
        Self { ahead_bytes: 8 * MIB, held_bytes: 20 * MIB, planned_bytes: 192 * MIB, first_planned_bytes: 12 * MIB };
    /// For a table, which is read beside another one, or content.
    pub(super) const TABLE: Self =
        Self { ahead_bytes: 2 * MIB, held_bytes: 6 * MIB, planned_bytes: 48 * MIB, first_planned_bytes: 3 * MIB };
}

/// Pieces that are planned, and segments that they lie in.
const PLANNED_ITEMS: usize = 32 * 1024;
const PLANNED_SEGMENTS: usize = 512;
/// Extents that are planned for every piece that is handed out, so that planning never holds up the reading.
const EXTENTS_A_STEP: usize = 512;
/// Bytes of pieces that are copied together because they are too short to be hashed where they are decoded: hashing and
/// writing cost per piece.
const GATHERED_BYTES: usize = 256 * 1024;
/// Bytes of pieces that are handed on together: waking who takes them costs each time.
const BATCH_BYTES: u64 = MIB;

/// A stream to read.
pub(super) struct Source {
    pub(super) content: EntryContent,
    pub(super) expected: Expected,
    pub(super) outlet: Outlet,
    pub(super) room: Room,
}

enum Content {
    Coming(oneshot::Receiver<Decoded>),
    There(Taken),
    Failed,
}

/// What some pieces share.
struct Slot {
    content: Content,
    charge: u64,
    left: usize,
}

/// See the head of this file.
pub(super) struct Pipeline {
    reader: Arc<Reader>,
    extents: ExtentSource,
    is_planned: bool,
    planned_bytes: u64,
    horizon: Horizon,
    slots: HashMap<SlotNumber, Slot>,
    next_slot: SlotNumber,
    /// Slots of segments that are kept whole, by row.
    whole: HashMap<i64, SlotNumber>,
    /// The first item that was not looked at for a slot.
    scheduled: u64,
    ahead_bytes: u64,
    held_bytes: u64,
    under_way: Arc<Semaphore>,
    verdict: Verdict,
    /// Gone when the stream is over, failed, or nobody listens.
    outlet: Option<Outlet>,
    room: Room,
    small: BytesMut,
    batch: Vec<Bytes>,
    batch_bytes: u64,
}

impl Pipeline {
    pub(super) fn new(reader: &Arc<Reader>, source: Source) -> Self {
        let Source { content, expected, outlet, room } = source;
        Self {
            reader: Arc::clone(reader),
            extents: ExtentSource::new(content, expected),
            is_planned: false,
            planned_bytes: 0,
            horizon: Horizon::default(),
            slots: HashMap::new(),
            next_slot: 0,
            whole: HashMap::new(),
            scheduled: 0,
            ahead_bytes: 0,
            held_bytes: 0,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_KIB as usize)),
            verdict: Verdict::new(expected),
            outlet: Some(outlet),
            room,
            small: BytesMut::new(),
            batch: Vec::new(),
            batch_bytes: 0,
        }
    }

    /// Hands out the stream to its end, or to its first error.
    pub(super) async fn run(mut self) {
        while self.outlet.is_some() {
            self.plan().await;
            self.schedule();
            let number = self.horizon.front();
            match self.horizon.pop() {
                Some(Item::Piece(piece, slot)) => self.hand_out(&piece, number, slot).await,
                Some(Item::End(error)) => self.end(error).await,
                // What is not planned to its end has an item.
                None => return,
            }
        }
    }

    // -- planning -------------------------------------------------------------------------------------------

    /// Plans a step ahead, and as many as it takes to have enough to schedule.
    async fn plan(&mut self) {
        let mut step = EXTENTS_A_STEP;
        while !self.is_planned
            && self.horizon.len() < PLANNED_ITEMS
            && self.horizon.segments() < PLANNED_SEGMENTS
            && self.horizon.bytes() < self.room.planned_bytes
            && (self.held_bytes + self.horizon.lasting_bytes() < self.room.held_bytes
                || self.horizon.bytes() < self.room.first_planned_bytes)
            && (step > 0 || self.horizon.bytes() < self.room.first_planned_bytes)
        {
            step = step.saturating_sub(1);
            match self.extents.next(&self.reader).await {
                Ok(Some(Located { segment, start, len })) => {
                    self.horizon.push(Piece { segment, start, len, at: self.planned_bytes });
                    self.planned_bytes += u64::from(len);
                }
                Ok(None) => self.plan_end(None),
                Err(error) => self.plan_end(Some(error)),
            }
        }
    }

    fn plan_end(&mut self, error: Option<Error>) {
        self.is_planned = true;
        self.horizon.push_end(error);
    }

    // -- scheduling -----------------------------------------------------------------------------------------

    /// Sees to it that the pieces whose turn comes soon have a slot, and fetches what these want.
    fn schedule(&mut self) {
        self.scheduled = self.scheduled.max(self.horizon.front());
        if self.ahead_bytes > self.room.ahead_bytes / 2 {
            return;
        }
        let mut wanted = Vec::new();
        while self.ahead_bytes < self.room.ahead_bytes {
            let Some(item) = self.horizon.get(self.scheduled) else { break };
            if let Item::Piece(piece, slot) = item {
                self.ahead_bytes += u64::from(piece.len);
                let segment = slot.is_none().then(|| Arc::clone(&piece.segment));
                if let Some(segment) = segment {
                    self.give_slot(&segment, &mut wanted);
                }
            }
            self.scheduled += 1;
        }
        self.reader.launch(wanted, &self.under_way);
    }

    /// Gives all planned pieces of a segment a slot.
    fn give_slot(&mut self, segment: &Arc<Segment>, wanted: &mut Vec<(Arc<Segment>, Wanted)>) {
        let need = self.horizon.need(segment);
        if let Some(number) = self.whole.get(&segment.row).copied()
            && let Some(slot) = self.slots.get_mut(&number)
        {
            slot.left += need.items.len();
            self.horizon.assign(&need, number);
            return;
        }
        let number = self.next_slot;
        self.next_slot += 1;
        let take = self.take(&need);
        if take.form == Form::Whole {
            self.whole.insert(segment.row, number);
        }
        let (charge, left) = (need.held_bytes(), need.items.len());
        self.held_bytes += charge;
        self.horizon.assign(&need, number);
        let kept = self.reader.kept().get(segment.row);
        let content = match kept {
            Some(plain) => Content::There(take.of_kept(plain)),
            None => {
                let (to, coming) = oneshot::channel();
                // What is used up at once is not wanted again soon.
                let is_used_up = need.bytes >= segment.record.plain_len();
                let keep = if is_used_up { Keep::No } else { Keep::Yes };
                wanted.push((need.segment, Wanted { take, keep, to }));
                Content::Coming(coming)
            }
        };
        self.slots.insert(number, Slot { content, charge, left });
    }

    fn take(&self, need: &Need) -> Take {
        let form = if need.is_dense() { Form::Whole } else { Form::Copies };
        let stream_len = self.verdict.stream_len();
        let part = |item: &u64| match self.horizon.get(*item) {
            Some(Item::Piece(piece, _)) => {
                let of = PieceOf { item: *item, at: piece.at, stream_len };
                Some(Part { start: piece.start, len: piece.len, piece: Some(of) })
            }
            _ => None,
        };
        Take { form, parts: need.items.iter().filter_map(part).collect() }
    }

    // -- handing out ----------------------------------------------------------------------------------------

    async fn hand_out(&mut self, piece: &Piece, item: u64, slot: Option<SlotNumber>) {
        let mut handed = Ok(None);
        if let Some(number) = slot {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(u64::from(piece.len));
            handed = self.content_of(number, piece, item).await;
            self.release(number, piece.segment.row);
        }
        let cause = match handed {
            Ok(Some(handed)) => return self.send(handed).await,
            Ok(None) => None,
            Err(error) if error.is_damage() => Some(error),
            Err(error) => return self.end(Some(error)).await,
        };
        match self.reader.recover(&piece.segment, piece.start, piece.len, cause).await {
            Ok(bytes) => self.send(bytes.into()).await,
            Err(error) => self.end(Some(error)).await,
        }
    }

    /// Returns a piece, `None` where its segment failed before.
    async fn content_of(&mut self, number: SlotNumber, piece: &Piece, item: u64) -> Result<Option<Handed>, Error> {
        let Some(slot) = self.slots.get_mut(&number) else { return Ok(None) };
        if let Content::Coming(coming) = &mut slot.content {
            match coming.await.unwrap_or(Err(Error::Stopped)) {
                Ok(taken) => slot.content = Content::There(taken),
                Err(error) => {
                    slot.content = Content::Failed;
                    return Err(error);
                }
            }
        }
        let Content::There(taken) = &mut slot.content else { return Ok(None) };
        let hash = taken.take_hash(item);
        Ok(taken.get(piece.start, piece.len).map(|bytes| Handed { bytes, hash }))
    }

    fn release(&mut self, number: SlotNumber, row: i64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.left = slot.left.saturating_sub(1);
        if slot.left == 0 {
            self.held_bytes -= slot.charge;
            self.slots.remove(&number);
            if self.whole.get(&row) == Some(&number) {
                self.whole.remove(&row);
            }
        }
    }

    async fn send(&mut self, piece: Handed) {
        if piece.hash.is_none() && piece.bytes.len() < HASHED_BYTES_LEAST {
            self.small.extend_from_slice(&piece.bytes);
            if self.small.len() < GATHERED_BYTES {
                return;
            }
            self.close_small();
        } else {
            self.close_small();
            self.add(piece);
        }
        if self.batch_bytes >= BATCH_BYTES {
            self.flush().await;
        }
    }

    async fn end(&mut self, error: Option<Error>) {
        self.close_small();
        self.flush().await;
        let outcome = error.map_or_else(|| self.verdict.pronounce(), Err);
        if let Some(outlet) = self.outlet.take() {
            outlet.close(outcome).await;
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            let gathered = std::mem::replace(&mut self.small, BytesMut::new()).freeze();
            self.add(gathered.into());
        }
    }

    fn add(&mut self, piece: Handed) {
        self.verdict.take(&piece);
        self.batch_bytes += piece.bytes.len() as u64;
        self.batch.push(piece.bytes);
    }

    async fn flush(&mut self) {
        let (batch, len) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.batch_bytes));
        if len > 0
            && let Some(outlet) = &mut self.outlet
            && !outlet.pass(batch).await
        {
            self.outlet = None;
        }
    }
}
