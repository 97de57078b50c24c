//! Which stretches of which streams are verified next, and in which order. Pure: it neither reads nor waits.
//!
//! What a stretch of a stream is hashed to has nothing to do with what lies before it (`crypto/tree.rs`), so stretches are taken
//! in the order in which the store has what most of each is made of, and not in that of their streams: in whatever order the
//! nights of a stream come to what they share, a segment is decoded for all of them at once. What a stretch has besides, little of
//! many later nights, is copied out of their segments for a good many stretches.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::HashMap;

use super::extents::Located;
use crate::repo::index::Segment;

/// Bytes of a stretch: a power of two of them, at a multiple of it, is one subtree of the hash.
const STRETCH_BYTES: u64 = 256 * 1024;
/// Plain bytes of the segments that one stretch is made of, unless it is one: one that needs more is two.
const STRETCH_SEGMENTS_BYTES: u64 = 12 * 1024 * 1024;
/// Bytes of a stretch in one segment from which that may be its home.
const HOME_BYTES: u32 = 16 * 1024;
/// Bytes away from home that the stretches of an epoch want, each counted once.
const AWAY_BYTES: u64 = 12 * 1024 * 1024;
/// Ranges of a batch: 12 bytes each.
const RANGES_MOST: usize = 240 * 1024;
/// Chunks of all segments of a batch, which say what their ids are: 36 bytes each.
const RECORDS_MOST: usize = 96 * 1024;
/// Stretches of a batch: 100 bytes each, with what comes of them.
const STRETCHES_MOST: usize = 32 * 1024;

/// Which of the streams that are verified together.
pub(super) type StreamNumber = usize;

/// The number of a segment in its batch.
pub(super) type SegmentNumber = u32;

/// A range of a decoded segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) segment: SegmentNumber,
    pub(super) start: u32,
    /// Bytes.
    pub(super) len: u32,
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) stream: StreamNumber,
    /// Where it starts in the stream, in bytes.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u32,
    /// Where most of it lies.
    home: Option<SegmentNumber>,
    /// Its ranges, among those of the batch.
    ranges: std::ops::Range<usize>,
}

/// Stretches that are verified together, while they are gathered.
#[derive(Default)]
pub(super) struct Batch {
    segments: Vec<Arc<Segment>>,
    /// By the row of a segment.
    numbers: HashMap<i64, SegmentNumber>,
    /// Chunks of all segments.
    records: usize,
    ranges: Vec<Range>,
    stretches: Vec<Stretch>,
    /// The segments of the stretch that was begun last, and their plain bytes.
    own: Vec<SegmentNumber>,
    own_bytes: u64,
}

/// Whether a stretch goes on behind what was added to it.
#[derive(Debug)]
pub(super) enum Added {
    GoesOn,
    /// It is over; `rest` belongs to the next one.
    IsOver {
        rest: Option<Located>,
    },
}

impl Batch {
    pub(super) fn is_full(&self) -> bool {
        self.ranges.len() >= RANGES_MOST || self.records >= RECORDS_MOST || self.stretches.len() >= STRETCHES_MOST
    }

    /// Begins a stretch of a stream at its place in it, in bytes. What is added from here on belongs to it.
    pub(super) fn begin(&mut self, stream: StreamNumber, at: u64) {
        let ranges = self.ranges.len()..self.ranges.len();
        self.stretches.push(Stretch { stream, at, len: 0, home: None, ranges });
        self.own.clear();
        self.own_bytes = 0;
    }

    /// Adds what comes next in the stream.
    pub(super) fn add(&mut self, next: Located) -> Added {
        let number = self.number(&next.segment);
        let plain_len = next.segment.record.plain_len();
        let Some(stretch) = self.stretches.last_mut() else { return Added::IsOver { rest: Some(next) } };
        if !self.own.contains(&number) {
            if !self.own.is_empty() && self.own_bytes + plain_len > STRETCH_SEGMENTS_BYTES {
                return Added::IsOver { rest: Some(next) };
            }
            self.own.push(number);
            self.own_bytes += plain_len;
        }
        let end = (stretch.at / STRETCH_BYTES + 1) * STRETCH_BYTES;
        let room = u32::try_from(end - stretch.at).unwrap_or(u32::MAX) - stretch.len;
        let len = room.min(next.len);
        match self.ranges.last_mut() {
            Some(last)
                if !stretch.ranges.is_empty() && last.segment == number && last.start + last.len == next.start =>
            {
                last.len += len;
            }
            _ => {
                self.ranges.push(Range { segment: number, start: next.start, len });
                stretch.ranges.end += 1;
            }
        }
        stretch.len += len;
        if len < room {
            return Added::GoesOn;
        }
        let rest = Located { start: next.start + len, len: next.len - len, ..next };
        Added::IsOver { rest: (rest.len > 0).then_some(rest) }
    }

    fn number(&mut self, segment: &Arc<Segment>) -> SegmentNumber {
        *self.numbers.entry(segment.row).or_insert_with(|| {
            self.records += segment.record.chunks.len();
            self.segments.push(Arc::clone(segment));
            SegmentNumber::try_from(self.segments.len() - 1).expect("each has a chunk, and these are counted")
        })
    }
}

/// A batch in the order in which it is verified. A place in that order is a turn.
pub(super) struct Agenda {
    segments: Vec<Arc<Segment>>,
    ranges: Vec<Range>,
    /// By turn.
    stretches: Vec<Stretch>,
}

impl Agenda {
    /// Puts a batch in order: by the segment that most of a stretch lies in, as segments came into the index.
    pub(super) fn new(batch: Batch) -> Self {
        let Batch { segments, ranges, stretches: gathered, .. } = batch;
        let mut stretches = Vec::with_capacity(gathered.len());
        for stretch in gathered {
            divide(stretch, &ranges, &mut stretches);
        }
        let home = |stretch: &Stretch| segments.get(stretch.home? as usize).map(|segment| segment.row);
        stretches.sort_by_key(|stretch| (home(stretch), stretch.stream, stretch.at));
        Self { segments, ranges, stretches }
    }

    /// Returns epochs, one behind the other: the turns of each want no more away from home than can be held.
    pub(super) fn epochs(&self) -> Vec<std::ops::Range<usize>> {
        let mut epochs = Vec::new();
        let mut first = 0;
        let mut away = Away::default();
        for (turn, stretch) in self.stretches.iter().enumerate() {
            away.add(self.ranges(stretch), stretch.home);
            if away.bytes > AWAY_BYTES && turn > first {
                epochs.push(first..turn);
                first = turn;
                away = Away::default();
                away.add(self.ranges(stretch), stretch.home);
            }
        }
        epochs.push(first..self.stretches.len());
        epochs
    }

    /// Returns the stretches by turn.
    pub(super) fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Returns the segment of a number.
    pub(super) fn segment(&self, number: SegmentNumber) -> Option<&Segment> {
        self.segments.get(number as usize).map(|segment| &**segment)
    }

    /// Returns what a stretch is made of, in its order.
    pub(super) fn ranges(&self, stretch: &Stretch) -> &[Range] {
        self.ranges.get(stretch.ranges.clone()).unwrap_or_default()
    }

    /// Returns the segments that a stretch is made of, ascending.
    pub(super) fn segments_of(&self, stretch: &Stretch) -> Vec<SegmentNumber> {
        let mut own: Vec<SegmentNumber> = self.ranges(stretch).iter().map(|range| range.segment).collect();
        own.sort_unstable();
        own.dedup();
        own
    }

    /// Returns all segments by number, each with those of `turns` that want some of it, ascending.
    pub(super) fn uses(&self, turns: std::ops::Range<usize>) -> Vec<(Arc<Segment>, VecDeque<usize>)> {
        let mut uses: Vec<_> = self.segments.iter().map(|segment| (Arc::clone(segment), VecDeque::new())).collect();
        for (turn, stretch) in self.stretches.iter().enumerate().take(turns.end).skip(turns.start) {
            for range in self.ranges(stretch) {
                if let Some((_, turns)) = uses.get_mut(range.segment as usize)
                    && turns.back() != Some(&turn)
                {
                    turns.push_back(turn);
                }
            }
        }
        uses
    }

    /// Returns what these turns want of a segment: where each part starts, once, and the length of the longest.
    pub(super) fn wanted<'a>(
        &self,
        number: SegmentNumber,
        turns: impl IntoIterator<Item = &'a usize>,
    ) -> HashMap<u32, u32> {
        let mut wanted = HashMap::default();
        for stretch in turns.into_iter().filter_map(|turn| self.stretches.get(*turn)) {
            for range in self.ranges(stretch).iter().filter(|range| range.segment == number) {
                let longest = wanted.entry(range.start).or_default();
                *longest = range.len.max(*longest);
            }
        }
        wanted
    }
}

/// What stretches have away from home.
#[derive(Default)]
struct Away {
    /// By segment and start, the longest.
    ranges: HashMap<(SegmentNumber, u32), u32>,
    bytes: u64,
}

impl Away {
    fn add(&mut self, ranges: &[Range], home: Option<SegmentNumber>) {
        for range in ranges.iter().filter(|range| Some(range.segment) != home) {
            let longest = self.ranges.entry((range.segment, range.start)).or_default();
            self.bytes += u64::from(range.len.saturating_sub(*longest));
            *longest = range.len.max(*longest);
        }
    }
}

/// Divides a stretch where it comes from one segment that has much of it to another: each part has one home.
///
/// It is divided where that segment is all but over and the one that has most of what follows begins. Where it goes back and forth
/// between two, as a night with many changes does, it stays whole.
fn divide(stretch: Stretch, ranges: &[Range], into: &mut Vec<Stretch>) {
    let own = ranges.get(stretch.ranges.clone()).unwrap_or_default();
    let mut rest = Shares::default();
    own.iter().for_each(|range| rest.add(range));
    let mut had = Shares::default();
    let begin = |at: u64, range: usize| Stretch { at, len: 0, home: None, ranges: range..range, ..stretch };
    let mut part = begin(stretch.at, stretch.ranges.start);
    for range in own {
        let is_over = part.home.is_some_and(|home| had.of(home) >= HOME_BYTES && rest.of(home) < HOME_BYTES);
        if is_over && rest.of(range.segment) >= HOME_BYTES && rest.most() == Some(range.segment) {
            let next = begin(part.at + u64::from(part.len), part.ranges.end);
            into.push(std::mem::replace(&mut part, next));
            had = Shares::default();
        }
        had.add(range);
        rest.take(range);
        if part.home.is_none_or(|home| had.of(home) < had.of(range.segment)) {
            part.home = Some(range.segment);
        }
        part.len += range.len;
        part.ranges.end += 1;
    }
    into.push(part);
}

/// How many bytes of something lie in which segment.
#[derive(Default)]
struct Shares {
    bytes: HashMap<SegmentNumber, u32>,
}

impl Shares {
    fn add(&mut self, range: &Range) {
        *self.bytes.entry(range.segment).or_default() += range.len;
    }

    fn take(&mut self, range: &Range) {
        if let Some(bytes) = self.bytes.get_mut(&range.segment) {
            *bytes -= range.len;
        }
    }

    fn of(&self, segment: SegmentNumber) -> u32 {
        self.bytes.get(&segment).copied().unwrap_or_default()
    }

    fn most(&self) -> Option<SegmentNumber> {
        self.bytes.iter().max_by_key(|(segment, bytes)| (**bytes, **segment)).map(|(segment, _)| *segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::index::test_segments;

    const MIB: u32 = 1024 * 1024;

    fn segment(row: i64) -> Arc<Segment> {
        test_segments::segment(row, 1, 0, 100, 2 * MIB)
    }

    fn located(segment: &Arc<Segment>, start: u32, len: u32) -> Located {
        Located { segment: Arc::clone(segment), start, len }
    }

    /// Adds a stream and returns its stretches: place and length of each.
    fn add(batch: &mut Batch, stream: StreamNumber, parts: impl IntoIterator<Item = Located>) -> Vec<(u64, u32)> {
        let from = batch.stretches.len();
        let mut at = 0;
        let mut is_over = true;
        for part in parts {
            let mut next = Some(part);
            while let Some(part) = next.take() {
                if std::mem::take(&mut is_over) {
                    batch.begin(stream, at);
                }
                let len = part.len;
                if let Added::IsOver { rest } = batch.add(part) {
                    is_over = true;
                    at += u64::from(len - rest.as_ref().map_or(0, |rest| rest.len));
                    next = rest;
                } else {
                    at += u64::from(len);
                }
            }
        }
        batch.stretches[from..].iter().map(|stretch| (stretch.at, stretch.len)).collect()
    }

    #[test]
    fn a_stretch_ends_at_multiples_of_its_length_and_where_it_needs_too_many_segments() {
        let mut batch = Batch::default();
        let [one, two] = [segment(1), segment(2)];
        let all = 256 * 1024;
        let parts =
            [located(&one, 0, 100), located(&one, 100, 2 * all), located(&two, 5, all - 100), located(&two, 0, 7)];
        assert_eq!(
            add(&mut batch, 0, parts),
            [(0, all), (all.into(), all), (2 * u64::from(all), all), (3 * u64::from(all), 7)]
        );
        // What goes on where the last one ended is one range.
        assert_eq!(batch.ranges.len(), 1 + 1 + 2 + 1);
        // Six segments of 2 MiB are 12 MiB.
        let many: Vec<_> = (10..20).map(|row| located(&segment(row), 0, 10)).collect();
        assert_eq!(add(&mut batch, 1, many), [(0, 60), (60, 40)]);
    }

    #[test]
    fn stretches_have_one_home_and_come_in_the_order_of_these() {
        let mut batch = Batch::default();
        let [one, two, later] = [segment(1), segment(2), segment(9)];
        let (much, little) = (100_000, 500);
        add(&mut batch, 0, [located(&two, 0, much), located(&later, 0, little), located(&one, 0, much)]);
        add(&mut batch, 1, [located(&one, 50, much), located(&later, 7, little), located(&one, 900_000, much)]);
        add(&mut batch, 2, [located(&later, 30, little)]);
        let agenda = Agenda::new(batch);
        let told: Vec<_> = agenda.stretches().iter().map(|it| (it.stream, it.at, it.len)).collect();
        let first = (0, u64::from(much + little), much);
        assert_eq!(told, [first, (1, 0, 2 * much + little), (0, 0, much + little), (2, 0, little)]);
        assert_eq!(agenda.segments_of(&agenda.stretches()[1]).len(), 2);
        // By number, which is the order in which they came.
        let turns: Vec<(i64, Vec<usize>)> =
            agenda.uses(0..4).into_iter().map(|(segment, turns)| (segment.row, turns.into())).collect();
        assert_eq!(turns, [(2, vec![2]), (9, vec![1, 2, 3]), (1, vec![0, 1])]);
        assert_eq!(agenda.uses(2..3).into_iter().map(|(_, turns)| turns.len()).sum::<usize>(), 2);
        let mut wanted: Vec<_> = agenda.wanted(1, &[1, 2, 3]).into_iter().collect();
        wanted.sort_unstable();
        assert_eq!(wanted, [(0, little), (7, little), (30, little)]);
    }

    #[test]
    fn a_stretch_that_goes_back_and_forth_stays_whole_and_is_divided_where_one_segment_follows_another() {
        let mut batch = Batch::default();
        let [one, two, night] = [segment(1), segment(2), segment(9)];
        // A tenth of everything is the night's, a KiB at a time: more than enough for a home.
        let (step, little) = (9 * 1024, 1024);
        let of = |base, turns: std::ops::Range<u32>| {
            let night = &night;
            turns.flat_map(move |turn| [located(base, turn * step, step), located(night, turn * 2 * little, little)])
        };
        add(&mut batch, 0, of(&one, 0..25));
        add(&mut batch, 1, of(&one, 0..12).chain(of(&two, 12..25)));
        let agenda = Agenda::new(batch);
        let told: Vec<_> = agenda
            .stretches()
            .iter()
            .map(|it| (it.stream, agenda.segments[it.home.unwrap() as usize].row, it.len))
            .collect();
        let turn = step + little;
        assert_eq!(told, [(0, 1, 25 * turn), (1, 1, 12 * turn), (1, 2, 13 * turn)]);
    }

    #[test]
    fn an_epoch_wants_no_more_away_from_home_than_is_held() {
        let mut batch = Batch::default();
        let base = segment(1);
        let later: Vec<_> = (2..40).map(segment).collect();
        // Nearly half of each stretch is away, little in each segment.
        for stream in 0..2 {
            let parts = (0..128).flat_map(|part| later.iter().map(move |later| (later, part)));
            add(
                &mut batch,
                stream,
                parts.flat_map(|(later, part)| {
                    [located(&base, part * 10_000, 9_000), located(later, part * 16_000, 8_192)]
                }),
            );
        }
        let agenda = Agenda::new(batch);
        let epochs = agenda.epochs();
        assert_eq!((epochs[0].start, epochs.last().unwrap().end), (0, agenda.stretches().len()));
        assert!(epochs.windows(2).all(|two| two[0].end == two[1].start));
        let away = |turns: &std::ops::Range<usize>| {
            let mut away = Away::default();
            agenda.stretches()[turns.clone()].iter().for_each(|it| away.add(agenda.ranges(it), it.home));
            away.bytes
        };
        assert!(epochs.len() > 1 && epochs.iter().all(|turns| away(turns) <= AWAY_BYTES), "{epochs:?}");
        // 38 segments, a MiB of each, for one stream and then for the other; a short stretch may be at home in one of these.
        let all = epochs.iter().map(away).sum::<u64>() / u64::from(MIB);
        assert!((2 * 35..2 * 39).contains(&all), "{all} MiB");
        assert!(Agenda::new(Batch::default()).epochs().iter().all(std::ops::Range::is_empty));
    }
}
