//! Streams put together: extents are planned far ahead, segments fetched and decoded ahead of their turn, pieces handed
//! out in order. One task conducts and puts hashes together; fetching is the runtime's, decoding and hashing rayon's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Semaphore, oneshot};

use super::extents::ExtentSource;
use super::fetch::{Decoded, Form, HASHED_BYTES_LEAST, Keep, Part, Take, Taken, UNDER_WAY_KIB, Wanted};
use super::plan::{Horizon, Item, Need, Piece, SlotNumber, StreamNumber, requests_for};
use super::verify::{Expected, Handed, Outlet, Verdict};
use super::{COPIES_TRIED, Reader};
use crate::format::entry::EntryContent;
use crate::format::recipe::Extent;
use crate::repo::Error;
use crate::repo::index::{Place, Segment};

/// What a pipeline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Content is handed out, and hashed where it is decoded.
    Content,
    /// Only whether streams are what they are said to be: content stays where it is decoded, and only what the hashes of the
    /// streams need of it is handed out. That is little of long pieces, so they may be planned far ahead: a segment that
    /// several streams come to, however long after one another, is decoded once.
    Verdict,
}

/// How far a pipeline goes before the piece whose turn it is. All together where streams are read side by side.
struct Bounds {
    /// Bytes of the stream that are fetched and decoded before their turn. Asked for again when half of it is left, so
    /// that neighbours come in one request.
    ahead_bytes: u64,
    /// Bytes of content that are held for pieces whose turn has not come.
    held_bytes: u64,
    /// Bytes of the stream that are planned, and before anything is fetched.
    planned_bytes: u64,
    first_planned_bytes: u64,
    /// Bytes that are or will be held for all that is planned, where only hashes are wanted.
    committed_bytes: u64,
}

const MIB: u64 = 1024 * 1024;
const FOR_CONTENT: Bounds = Bounds {
    ahead_bytes: 12 * MIB,
    held_bytes: 40 * MIB,
    planned_bytes: 192 * MIB,
    first_planned_bytes: 12 * MIB,
    committed_bytes: u64::MAX,
};
/// No more is planned than can be held of it: a segment serves all pieces of it that are planned.
const FOR_A_VERDICT: Bounds = Bounds {
    ahead_bytes: 12 * MIB,
    held_bytes: u64::MAX,
    planned_bytes: 1024 * MIB,
    first_planned_bytes: 128 * MIB,
    committed_bytes: 24 * MIB,
};
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
/// Segments planned last, among which streams that are read together are kept side by side.
const SIDE_BY_SIDE_SEGMENTS: usize = 24;

/// A stream to read.
pub(super) struct Source {
    pub(super) content: EntryContent,
    pub(super) expected: Expected,
    pub(super) outlet: Outlet,
}

struct Stream {
    extents: ExtentSource,
    /// The next extent and its place, once it was looked up.
    next: Option<(Extent, Place)>,
    is_planned: bool,
    planned_bytes: u64,
    verdict: Verdict,
    /// Gone when it is over, failed, or nobody listens.
    outlet: Option<Outlet>,
    small: BytesMut,
    batch: Vec<Bytes>,
    batch_bytes: u64,
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
    streams: Vec<Stream>,
    purpose: Purpose,
    horizon: Horizon,
    slots: HashMap<SlotNumber, Slot>,
    next_slot: SlotNumber,
    /// Slots of segments that are kept whole, by row.
    whole: HashMap<i64, SlotNumber>,
    /// The first item that was not looked at for a slot.
    scheduled: u64,
    ahead_bytes: u64,
    bounds: Bounds,
    held_bytes: u64,
    under_way: Arc<Semaphore>,
    /// Rows of the segments planned last.
    recent: VecDeque<i64>,
}

impl Pipeline {
    pub(super) fn new(reader: &Arc<Reader>, streams: Vec<Source>, purpose: Purpose) -> Self {
        let stream = |Source { content, expected, outlet }| Stream {
            extents: ExtentSource::new(content, expected),
            next: None,
            is_planned: false,
            planned_bytes: 0,
            verdict: Verdict::new(expected),
            outlet: Some(outlet),
            small: BytesMut::new(),
            batch: Vec::new(),
            batch_bytes: 0,
        };
        let bounds = match purpose {
            Purpose::Content => FOR_CONTENT,
            Purpose::Verdict => FOR_A_VERDICT,
        };
        Self {
            reader: Arc::clone(reader),
            streams: streams.into_iter().map(stream).collect(),
            purpose,
            horizon: Horizon::default(),
            slots: HashMap::new(),
            next_slot: 0,
            whole: HashMap::new(),
            scheduled: 0,
            ahead_bytes: 0,
            bounds,
            held_bytes: 0,
            under_way: Arc::new(Semaphore::new(UNDER_WAY_KIB as usize)),
            recent: VecDeque::new(),
        }
    }

    /// Hands out every stream to its end, or to its first error.
    pub(super) async fn run(mut self) {
        loop {
            self.plan().await;
            self.schedule();
            let number = self.horizon.front();
            let Some(item) = self.horizon.pop() else {
                if self.streams.iter().all(|stream| stream.is_planned) {
                    return;
                }
                continue;
            };
            match item {
                Item::Piece(piece, slot) => self.hand_out(&piece, number, slot).await,
                Item::End(stream, error) => self.end(stream, error).await,
            }
            if self.streams.iter().all(|stream| stream.outlet.is_none()) {
                return;
            }
        }
    }

    // -- planning -------------------------------------------------------------------------------------------

    /// Plans a step ahead, and as many as it takes to have enough to schedule.
    async fn plan(&mut self) {
        let mut step = EXTENTS_A_STEP;
        while self.horizon.len() < PLANNED_ITEMS
            && self.horizon.segments() < PLANNED_SEGMENTS
            && self.horizon.bytes() < self.bounds.planned_bytes
            && self.held_bytes.saturating_add(self.horizon.waiting_bytes()) < self.bounds.committed_bytes
            && (step > 0 || self.horizon.bytes() < self.bounds.first_planned_bytes)
        {
            let Some(stream) = self.next_stream().await else { return };
            step = step.saturating_sub(1);
            self.plan_extent(stream);
        }
    }

    /// Returns the stream whose next extent is planned next. Streams that are read together go side by side: first
    /// those that want what was planned just now, then the one that is furthest behind.
    async fn next_stream(&mut self) -> Option<StreamNumber> {
        for number in 0..self.streams.len() {
            self.look_up(number).await;
        }
        let wants = |stream: &Stream| stream.next.as_ref().map(|(_, place)| place.segment.row);
        let open = || self.streams.iter().enumerate().filter(|(_, stream)| stream.next.is_some());
        let near = open().find(|(_, stream)| wants(stream).is_some_and(|row| self.recent.contains(&row)));
        near.or_else(|| open().min_by_key(|(_, stream)| stream.planned_bytes)).map(|(number, _)| number)
    }

    /// Finds the place of the next extent of a stream. One that has none ends the stream.
    async fn look_up(&mut self, number: StreamNumber) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        if stream.next.is_some() || stream.is_planned {
            return;
        }
        let extent = match stream.extents.next_ready() {
            Some(extent) => Ok(Some(extent)),
            None if stream.outlet.is_none() => Ok(None),
            None => match stream.extents.refill(&self.reader).await {
                Ok(_) => Ok(stream.extents.next_ready()),
                Err(error) => Err(error),
            },
        };
        let placed = extent.and_then(|extent| {
            let place = |extent: Extent| self.reader.place(&extent).map(|place| (extent, place));
            extent.map(place).transpose()
        });
        match placed {
            Ok(Some(next)) => stream.next = Some(next),
            Ok(None) => {
                stream.is_planned = true;
                self.horizon.push_end(number, None);
            }
            Err(error) => {
                stream.is_planned = true;
                self.horizon.push_end(number, Some(error));
            }
        }
    }

    fn plan_extent(&mut self, number: StreamNumber) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        let Some((extent, place)) = stream.next.take() else { return };
        let at = stream.planned_bytes;
        stream.planned_bytes += u64::from(extent.len);
        // A segment is at most 8 MiB.
        let start = u32::try_from(place.offset).unwrap_or(u32::MAX).saturating_add(extent.offset);
        let row = place.segment.row;
        if self.recent.back() != Some(&row) {
            self.recent.retain(|other| *other != row);
            self.recent.push_back(row);
            if self.recent.len() > SIDE_BY_SIDE_SEGMENTS {
                self.recent.pop_front();
            }
        }
        self.horizon.push(Piece { stream: number, segment: place.segment, start, len: extent.len, at });
    }

    // -- scheduling -----------------------------------------------------------------------------------------

    /// Sees to it that the pieces whose turn comes soon have a slot, and fetches what these want.
    fn schedule(&mut self) {
        self.scheduled = self.scheduled.max(self.horizon.front());
        let ahead_bytes = self.ahead_bytes_most();
        if self.ahead_bytes > ahead_bytes / 2 {
            return;
        }
        let near = self.scheduled + PLANNED_ITEMS as u64 / 64;
        let mut wanted = Vec::new();
        while self.ahead_bytes < ahead_bytes {
            let Some(item) = self.horizon.get(self.scheduled) else { break };
            if let Item::Piece(piece, None) = item {
                let segment = Arc::clone(&piece.segment);
                if !self.give_slot(&segment, near, &mut wanted) {
                    break;
                }
            }
            if let Some(Item::Piece(piece, _)) = self.horizon.get(self.scheduled) {
                self.ahead_bytes += u64::from(piece.len);
            }
            self.scheduled += 1;
        }
        self.launch(wanted);
    }

    /// Returns the bytes that are fetched before their turn: no more than half of what is planned, so that whatever is
    /// fetched serves at least as much behind it.
    fn ahead_bytes_most(&self) -> u64 {
        let is_all_planned = self.streams.iter().all(|stream| stream.is_planned);
        let most = if is_all_planned { u64::MAX } else { (self.horizon.bytes() / 2).max(1) };
        self.bounds.ahead_bytes.min(most)
    }

    /// Gives all planned pieces of a segment a slot. Returns false where too much is held already.
    fn give_slot(&mut self, segment: &Arc<Segment>, near: u64, wanted: &mut Vec<(Arc<Segment>, Wanted)>) -> bool {
        let mut need = self.horizon.need(segment, None);
        if let Some(number) = self.whole.get(&segment.row).copied()
            && let Some(slot) = self.slots.get_mut(&number)
        {
            slot.left += need.items.len();
            self.horizon.assign(&need, number);
            return true;
        }
        let has_room = |need: &Need| self.held_bytes + self.charge(need) <= self.bounds.held_bytes;
        if !has_room(&need) {
            // Only what is wanted soon: the rest is decoded again when its turn comes.
            need = self.horizon.need(segment, Some(near.max(self.scheduled + 1)));
            if !has_room(&need) {
                if self.scheduled > self.horizon.front() {
                    return false;
                }
                // Its turn is now, and nothing else can be given back.
                need = self.horizon.need(segment, Some(self.scheduled + 1));
            }
        }
        let number = self.next_slot;
        self.next_slot += 1;
        let take = self.take(&need);
        if take.form == Form::Whole {
            self.whole.insert(segment.row, number);
        }
        let (charge, left) = (self.charge(&need), need.items.len());
        self.held_bytes += charge;
        self.horizon.assign(&need, number);
        let kept = self.reader.kept().get(segment.row);
        let content = match kept {
            Some(plain) => Content::There(take.of_kept(plain)),
            None => {
                let (to, coming) = oneshot::channel();
                // What is used up at once is not wanted again soon, and a verdict holds what it will want.
                let is_used_up = need.bytes >= segment.record.plain_len();
                let keep = if is_used_up || self.purpose == Purpose::Verdict { Keep::No } else { Keep::Yes };
                wanted.push((need.segment, Wanted { take, keep, to }));
                Content::Coming(coming)
            }
        };
        self.slots.insert(number, Slot { content, charge, left });
        true
    }

    /// Returns the bytes that are held for a need.
    fn charge(&self, need: &Need) -> u64 {
        match self.purpose {
            Purpose::Content => need.held_for_content(),
            Purpose::Verdict => need.held_for_hashes(),
        }
    }

    fn take(&self, need: &Need) -> Take {
        let form = match self.purpose {
            Purpose::Verdict if need.is_dense_in_hashes() => Form::Whole,
            Purpose::Verdict => Form::Hashes,
            Purpose::Content if need.is_dense() => Form::Whole,
            Purpose::Content => Form::Copies,
        };
        let part = |item: &u64| match self.horizon.get(*item) {
            Some(Item::Piece(piece, _)) => {
                let stream_len = self.streams.get(piece.stream).map_or(0, |stream| stream.verdict.stream_len());
                Some(Part { item: *item, start: piece.start, len: piece.len, at: piece.at, stream_len })
            }
            _ => None,
        };
        Take { form, parts: need.items.iter().filter_map(part).collect() }
    }

    fn launch(&self, wanted: Vec<(Arc<Segment>, Wanted)>) {
        for (request, wanted) in requests_for(wanted) {
            let (reader, under_way) = (Arc::clone(&self.reader), Arc::clone(&self.under_way));
            tokio::spawn(async move { reader.fetch(request, wanted, &under_way).await });
        }
    }

    // -- handing out ----------------------------------------------------------------------------------------

    async fn hand_out(&mut self, piece: &Piece, item: u64, slot: Option<SlotNumber>) {
        let is_wanted = self.streams.get(piece.stream).is_some_and(|stream| stream.outlet.is_some());
        let mut handed = Ok(None);
        if let Some(number) = slot {
            self.ahead_bytes = self.ahead_bytes.saturating_sub(u64::from(piece.len));
            if is_wanted {
                handed = self.content_of(number, piece, item).await;
            }
            self.release(number, piece.segment.row);
        }
        if !is_wanted {
            return;
        }
        let handed = match handed {
            Ok(Some(handed)) => Ok(handed),
            Ok(None) => self.recover(piece, None).await.map(Handed::from),
            Err(error) if error.is_damage() => self.recover(piece, Some(error)).await.map(Handed::from),
            Err(error) => Err(error),
        };
        match handed {
            Ok(handed) => self.send(piece.stream, handed).await,
            Err(error) => self.end(piece.stream, Some(error)).await,
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
        Ok(match self.purpose {
            Purpose::Verdict if hash.is_some() => Some(Handed { bytes: Bytes::new(), hash }),
            Purpose::Verdict | Purpose::Content => {
                taken.get(piece.start, piece.len).map(|bytes| Handed { bytes, hash })
            }
        })
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

    /// Reads a piece whose segment is damaged from wherever else its chunks are. Slow, and rare.
    async fn recover(&mut self, piece: &Piece, cause: Option<Error>) -> Result<Bytes, Error> {
        let mut cause = cause.map(|error| self.reader.damaged(piece.segment.pack, error));
        let end = u64::from(piece.start) + u64::from(piece.len);
        let mut at = 0_u64;
        let mut bytes = BytesMut::with_capacity(piece.len as usize);
        for record in &piece.segment.record.chunks {
            let (start, chunk_end) = (at, at + u64::from(record.len));
            at = chunk_end;
            let (from, to) = (start.max(u64::from(piece.start)), chunk_end.min(end));
            if from >= to {
                continue;
            }
            let chunk = match self.reader.chunk(&record.id, COPIES_TRIED).await {
                Ok(chunk) => chunk,
                // What was wrong first says more than that there is no other copy.
                Err(error) => return Err(cause.take().unwrap_or(error)),
            };
            let part = usize::try_from(from - start).ok().zip(usize::try_from(to - start).ok());
            let part = part.and_then(|(from, to)| chunk.get(from..to)).ok_or(Error::StreamDamaged)?;
            bytes.extend_from_slice(part);
        }
        Ok(bytes.freeze())
    }

    async fn send(&mut self, number: StreamNumber, piece: Handed) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        if piece.hash.is_none() && piece.bytes.len() < HASHED_BYTES_LEAST {
            stream.small.extend_from_slice(&piece.bytes);
            if stream.small.len() < GATHERED_BYTES {
                return;
            }
            stream.close_small();
        } else {
            stream.close_small();
            stream.add(piece);
        }
        if stream.batch_bytes >= BATCH_BYTES {
            stream.flush().await;
        }
    }

    async fn end(&mut self, number: StreamNumber, error: Option<Error>) {
        let Some(stream) = self.streams.get_mut(number) else { return };
        stream.close_small();
        stream.flush().await;
        let outcome = error.map_or_else(|| stream.verdict.pronounce(), Err);
        if let Some(outlet) = stream.outlet.take() {
            outlet.close(outcome).await;
        }
    }
}

impl Stream {
    fn close_small(&mut self) {
        if !self.small.is_empty() {
            let gathered = std::mem::replace(&mut self.small, BytesMut::new()).freeze();
            self.add(gathered.into());
        }
    }

    fn add(&mut self, piece: Handed) {
        self.batch_bytes += self.verdict.take(&piece);
        if matches!(self.outlet, Some(Outlet::Content { .. })) {
            self.batch.push(piece.bytes);
        }
    }

    async fn flush(&mut self) {
        let (batch, len) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.batch_bytes));
        if len > 0
            && let Some(outlet) = &mut self.outlet
            && !outlet.pass(batch, len).await
        {
            self.outlet = None;
        }
    }
}
