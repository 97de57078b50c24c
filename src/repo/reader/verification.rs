//! Streams compared with what is expected of them, and handed to nobody.
//!
//! One task plans stretches (`stretches.rs`), one sees to it that what the next ones are made of is decoded (`shelf.rs`), and whole
//! stretches are hashed on all cores. Of a stretch that was hashed only that is left which the hash of its stream needs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::extents::{ExtentSource, Located};
use super::fetch::Taken;
use super::shelf::Shelf;
use super::stretches::{Added, Agenda, Batch, Range, SegmentNumber, StreamNumber, Stretch};
use super::verify::Verdict;
use super::{Reader, ToVerify};
use crate::buffers::Buffers;
use crate::crypto::tree::HashedPart;
use crate::repo::Error;

/// Stretches that are being hashed, or wait for a core.
const HASHED_AT_ONCE: usize = 8;
/// Bytes of buffers for stretches that wait to be used again.
const IDLE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Compares streams with their lengths and hashes. `passed` hears of every stretch's length. Returns what is wrong with
/// which, in the order of `streams`; fails as soon as that cannot be told.
pub(super) async fn verify(
    reader: &Arc<Reader>,
    streams: Vec<ToVerify>,
    passed: &mut impl FnMut(u64),
) -> Result<Vec<Result<(), Error>>, Error> {
    let expected: Vec<_> = streams.iter().map(ToVerify::expected).collect();
    let planned = streams.into_iter().zip(&expected).map(|(stream, expected)| PlannedStream {
        extents: ExtentSource::new(stream.content, *expected),
        rest: None,
        at: 0,
    });
    let open = (0..expected.len()).map(|number| Reverse((0, number))).collect();
    let planner = Planner { reader: Arc::clone(reader), streams: planned.collect(), open };
    let (to, mut plans) = mpsc::channel(1);
    tokio::spawn(planner.run(to));
    let proven = expected.iter().map(|expected| Proven {
        verdict: Verdict::new(*expected),
        early: BTreeMap::new(),
        error: None,
    });
    let mut verification =
        Verification { reader, streams: proven.collect(), passed, buffers: Buffers::new(IDLE_BYTES_MAX) };
    while let Some(plan) = plans.recv().await {
        for (number, error) in plan.failed {
            verification.fail(number, error)?;
        }
        verification.go_through(plan.agenda).await?;
    }
    Ok(verification.streams.into_iter().map(Proven::outcome).collect())
}

// -- planning -----------------------------------------------------------------------------------------------

struct PlannedStream {
    extents: ExtentSource,
    /// What of an extent comes next.
    rest: Option<Located>,
    /// Bytes of the stream that are planned.
    at: u64,
}

struct Planner {
    reader: Arc<Reader>,
    streams: Vec<PlannedStream>,
    /// Those that are not over, the one of which least is planned first.
    open: BinaryHeap<Reverse<(u64, StreamNumber)>>,
}

/// What was planned together.
struct Plan {
    agenda: Agenda,
    /// Streams that cannot go on, and why.
    failed: Vec<(StreamNumber, Error)>,
}

impl Planner {
    async fn run(mut self, to: mpsc::Sender<Plan>) {
        // Room first: while a batch is gone through the next one is planned, and no third.
        while !self.open.is_empty()
            && let Ok(room) = to.reserve().await
        {
            room.send(self.plan().await);
        }
    }

    /// Plans until a batch is full. Streams go side by side, so that those that share content have it in one batch.
    async fn plan(&mut self) -> Plan {
        let mut batch = Batch::default();
        let mut failed = Vec::new();
        while !batch.is_full()
            && let Some(Reverse((_, number))) = self.open.pop()
            && let Some(stream) = self.streams.get_mut(number)
        {
            match stream.plan_stretch(&self.reader, number, &mut batch).await {
                Ok(true) => self.open.push(Reverse((stream.at, number))),
                Ok(false) => (),
                Err(error) => failed.push((number, error)),
            }
        }
        Plan { agenda: Agenda::new(batch), failed }
    }
}

impl PlannedStream {
    /// Plans a stretch. Returns whether there may be another one.
    async fn plan_stretch(
        &mut self,
        reader: &Arc<Reader>,
        number: StreamNumber,
        batch: &mut Batch,
    ) -> Result<bool, Error> {
        let mut has_begun = false;
        loop {
            let Some(next) = self.next(reader).await? else { return Ok(false) };
            if !has_begun {
                batch.begin(number, self.at);
                has_begun = true;
            }
            let len = next.len;
            match batch.add(next) {
                Added::GoesOn => self.at += u64::from(len),
                Added::IsOver { rest } => {
                    self.at += u64::from(len - rest.as_ref().map_or(0, |rest| rest.len));
                    self.rest = rest;
                    return Ok(true);
                }
            }
        }
    }

    async fn next(&mut self, reader: &Arc<Reader>) -> Result<Option<Located>, Error> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        self.extents.next(reader).await
    }
}

/// A stream as far as it is proven.
struct Proven {
    verdict: Verdict,
    /// What comes behind something that is not hashed yet, by its place in the stream.
    early: BTreeMap<u64, HashedPart>,
    error: Option<Error>,
}

impl Proven {
    fn take(&mut self, part: HashedPart) {
        if self.error.is_some() {
            return;
        }
        self.early.insert(part.at(), part);
        while let Some(next) = self.early.first_entry()
            && *next.key() == self.verdict.bytes()
        {
            self.verdict.take_hashed(&next.remove());
        }
    }

    fn outcome(self) -> Result<(), Error> {
        self.error.map_or_else(|| self.verdict.pronounce(), Err)
    }
}

struct Verification<'a, P> {
    reader: &'a Arc<Reader>,
    streams: Vec<Proven>,
    passed: &'a mut P,
    buffers: Arc<Buffers>,
}

/// A stretch that was hashed: its stream, its length, and what the hash of the stream needs of it. That is missing where
/// segments are shorter than the index says.
type Hashed = (StreamNumber, u32, Option<HashedPart>);

/// What a stretch is made of, or why it is not there.
type Contents = Vec<(SegmentNumber, Result<Arc<Taken>, Option<Error>>)>;

impl<P: FnMut(u64)> Verification<'_, P> {
    async fn go_through(&mut self, agenda: Agenda) -> Result<(), Error> {
        let agenda = Arc::new(agenda);
        for turns in agenda.epochs() {
            self.go_through_turns(&agenda, turns).await?;
        }
        Ok(())
    }

    async fn go_through_turns(&mut self, agenda: &Arc<Agenda>, turns: std::ops::Range<usize>) -> Result<(), Error> {
        let mut shelf = Shelf::new(self.reader, agenda, turns.clone());
        let at_once = Arc::new(Semaphore::new(HASHED_AT_ONCE));
        let (to, mut hashed) = mpsc::unbounded_channel();
        for turn in turns {
            let Some(stretch) = agenda.stretches().get(turn) else { break };
            shelf.see_to(turn);
            let own = agenda.segments_of(stretch);
            let mut contents = Contents::with_capacity(own.len());
            for number in &own {
                contents.push((*number, shelf.content(*number).await));
            }
            shelf.leave(turn, &own);
            let Some(stream_len) = self.len_of_open(stretch.stream) else { continue };
            if contents.iter().all(|(_, content)| content.is_ok()) {
                // The semaphore is never closed.
                let Ok(permit) = Arc::clone(&at_once).acquire_owned().await else { return Ok(()) };
                let (agenda, buffers, to) = (Arc::clone(agenda), Arc::clone(&self.buffers), to.clone());
                rayon::spawn(move || {
                    let Some(stretch) = agenda.stretches().get(turn) else { return };
                    let part = hash(&agenda, stretch, stream_len, &contents, &buffers);
                    drop((contents, permit));
                    // Whoever wanted it may have gone.
                    let _ = to.send((stretch.stream, stretch.len, part));
                });
            } else {
                match self.recover(agenda, stretch, contents).await {
                    Ok(bytes) => {
                        let part = HashedPart::new(stretch.at, &bytes, stream_len);
                        self.take((stretch.stream, stretch.len, Some(part)))?;
                    }
                    Err(error) => self.fail(stretch.stream, error)?,
                }
            }
            while let Ok(hashed) = hashed.try_recv() {
                self.take(hashed)?;
            }
        }
        drop(to);
        while let Some(hashed) = hashed.recv().await {
            self.take(hashed)?;
        }
        Ok(())
    }

    /// Returns the length of a stream that nothing was found wrong with.
    fn len_of_open(&self, number: StreamNumber) -> Option<u64> {
        let open = self.streams.get(number).filter(|stream| stream.error.is_none());
        open.map(|stream| stream.verdict.stream_len())
    }

    /// Gathers a stretch out of what is there and of other copies of what is damaged. Slow, and rare.
    async fn recover(&self, agenda: &Agenda, stretch: &Stretch, mut contents: Contents) -> Result<Vec<u8>, Error> {
        let mut bytes = self.buffers.take(stretch.len as usize);
        for range in agenda.ranges(stretch) {
            let of_segment = contents.iter_mut().find(|(number, _)| *number == range.segment);
            let Some(((_, content), segment)) = of_segment.zip(agenda.segment(range.segment)) else { continue };
            match content {
                Ok(taken) => {
                    bytes.extend_from_slice(taken.look_at(range.start, range.len).ok_or(Error::StreamDamaged)?);
                }
                Err(cause) => {
                    let cause = match cause.take() {
                        Some(error) if !error.is_damage() => return Err(error),
                        cause => cause,
                    };
                    bytes.extend_from_slice(&self.reader.recover(segment, range.start, range.len, cause).await?);
                }
            }
        }
        Ok(bytes)
    }

    fn take(&mut self, (number, len, part): Hashed) -> Result<(), Error> {
        (self.passed)(u64::from(len));
        match (part, self.streams.get_mut(number)) {
            (Some(part), Some(stream)) => stream.take(part),
            _ => self.fail(number, Error::StreamDamaged)?,
        }
        Ok(())
    }

    /// Damage is a stream's own; anything else ends the verification.
    fn fail(&mut self, number: StreamNumber, error: Error) -> Result<(), Error> {
        if !error.is_damage() {
            return Err(error);
        }
        if let Some(stream) = self.streams.get_mut(number) {
            stream.error.get_or_insert(error);
        }
        Ok(())
    }
}

/// Hashes a stretch while its segments are in a core's cache.
fn hash(
    agenda: &Agenda,
    stretch: &Stretch,
    stream_len: u64,
    contents: &Contents,
    buffers: &Buffers,
) -> Option<HashedPart> {
    let part = |range: &Range| {
        let place = contents.binary_search_by_key(&range.segment, |(number, _)| *number).ok()?;
        let (_, content) = contents.get(place)?;
        content.as_ref().ok()?.look_at(range.start, range.len)
    };
    if let [range] = agenda.ranges(stretch) {
        return Some(HashedPart::new(stretch.at, part(range)?, stream_len));
    }
    let mut bytes = buffers.take(stretch.len as usize);
    for range in agenda.ranges(stretch) {
        bytes.extend_from_slice(part(range)?);
    }
    let hashed = HashedPart::new(stretch.at, &bytes, stream_len);
    buffers.give(bytes);
    Some(hashed)
}
