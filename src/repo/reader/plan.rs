//! What is read next: pieces of a stream in the order in which they are wanted, and which of them one decoded segment
//! serves. Pure: it neither reads nor waits.
//!
//! A changed stream goes back and forth between one segment of the first night and small parts of many later ones. So
//! pieces are planned much further ahead than content is held, and whoever decodes a segment takes out at once
//! what all the pieces that are planned will want of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::repo::Error;
use crate::repo::index::Segment;

/// A range of a decoded segment.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) segment: Arc<Segment>,
    /// Where it starts in the decoded segment.
    pub(super) start: u32,
    pub(super) len: u32,
    /// Where it starts in the stream.
    pub(super) at: u64,
}

/// A number that stands for the content that some pieces share.
pub(super) type SlotNumber = u64;

/// Bytes of the stream between the first and the last piece of a segment up to which it is passed by: it is held no longer than
/// what is fetched ahead.
const PASSING_BYTES: u64 = 12 * 1024 * 1024;

/// What comes next.
pub(super) enum Item {
    /// A range of a decoded segment, and where it comes from once that was decided.
    Piece(Piece, Option<SlotNumber>),
    /// The end of the stream, or why it cannot go on.
    End(Option<Error>),
}

/// What is to be taken out of one segment.
#[derive(Debug, Clone)]
pub(super) struct Need {
    pub(super) segment: Arc<Segment>,
    /// Sequence numbers of the items that it serves, ascending.
    pub(super) items: Vec<u64>,
    /// Plain bytes of these pieces together.
    pub(super) bytes: u64,
}

impl Need {
    /// Returns whether it is better to keep the segment whole than to copy the pieces out of it.
    pub(super) fn is_dense(&self) -> bool {
        is_dense(self.bytes, &self.segment)
    }

    /// Returns the bytes that are held for it.
    pub(super) fn held_bytes(&self) -> u64 {
        held_bytes(self.bytes, &self.segment)
    }
}

/// The items that are planned and not yet handed out. Items are known by their sequence number.
#[derive(Default)]
pub(super) struct Horizon {
    items: VecDeque<Item>,
    /// Sequence number of the first item.
    front: u64,
    /// By the row of a segment.
    waiting: HashMap<i64, Waiting>,
    /// What [`Waiting::lasting_bytes`] is of all segments together.
    lasting_bytes: u64,
    /// Bytes of the stream that all pieces stand for.
    bytes: u64,
}

/// The pieces of a segment that have no slot yet.
#[derive(Default)]
struct Waiting {
    /// Their numbers and places in the stream, ascending.
    items: VecDeque<(u64, u64)>,
    /// Plain bytes of them together.
    bytes: u64,
}

impl Waiting {
    /// Returns the bytes that will be held for longer than they are fetched ahead: nothing of a segment that the stream passes
    /// by once.
    fn lasting_bytes(&self, segment: &Segment) -> u64 {
        let passes = match (self.items.front(), self.items.back()) {
            (Some((_, first)), Some((_, last))) => last - first <= PASSING_BYTES,
            _ => true,
        };
        if passes { 0 } else { held_bytes(self.bytes, segment) }
    }
}

/// Returns whether so many bytes of a segment are better held as the whole of it than as copies.
pub(super) fn is_dense(bytes: u64, segment: &Segment) -> bool {
    bytes * 2 >= segment.record.plain_len()
}

/// Returns the bytes that are held for so many bytes of a segment.
pub(super) fn held_bytes(bytes: u64, segment: &Segment) -> u64 {
    if is_dense(bytes, segment) { segment.record.plain_len() } else { bytes }
}

impl Horizon {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes that will be held long for pieces that have no slot.
    pub(super) fn lasting_bytes(&self) -> u64 {
        self.lasting_bytes
    }

    /// Returns how many segments have pieces without a slot.
    pub(super) fn segments(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the sequence number of the item that [`Horizon::pop`] takes next.
    pub(super) fn front(&self) -> u64 {
        self.front
    }

    pub(super) fn get(&self, item: u64) -> Option<&Item> {
        self.items.get(usize::try_from(item.checked_sub(self.front)?).ok()?)
    }

    /// Adds a piece behind all others; one that continues the last becomes part of it.
    pub(super) fn push(&mut self, piece: Piece) {
        self.bytes += u64::from(piece.len);
        if let Some(Item::Piece(last, None)) = self.items.back_mut()
            && last.segment.row == piece.segment.row
            && last.start + last.len == piece.start
        {
            last.len += piece.len;
            self.change_waiting(&piece.segment, |waiting| waiting.bytes += u64::from(piece.len));
            return;
        }
        let item = self.front + self.items.len() as u64;
        self.change_waiting(&piece.segment, |waiting| {
            waiting.items.push_back((item, piece.at));
            waiting.bytes += u64::from(piece.len);
        });
        self.items.push_back(Item::Piece(piece, None));
    }

    /// Ends the stream behind all that was pushed.
    pub(super) fn push_end(&mut self, error: Option<Error>) {
        self.items.push_back(Item::End(error));
    }

    /// Takes the first item.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Piece(piece, slot) = &item {
            self.bytes -= u64::from(piece.len);
            if slot.is_none() {
                // Items ascend, and no other is before it.
                self.take_from_waiting(&piece.segment, 1, u64::from(piece.len));
            }
        }
        self.front += 1;
        Some(item)
    }

    /// Returns what the planned pieces want of a segment.
    pub(super) fn need(&self, segment: &Arc<Segment>) -> Need {
        let waiting = self.waiting.get(&segment.row);
        let items = waiting.into_iter().flat_map(|waiting| &waiting.items).map(|(item, _)| *item).collect();
        Need { segment: Arc::clone(segment), items, bytes: waiting.map_or(0, |waiting| waiting.bytes) }
    }

    /// Says where the pieces of a need come from.
    pub(super) fn assign(&mut self, need: &Need, slot: SlotNumber) {
        for item in &need.items {
            let place = item.checked_sub(self.front).and_then(|place| usize::try_from(place).ok());
            if let Some(Item::Piece(_, of)) = place.and_then(|place| self.items.get_mut(place)) {
                *of = Some(slot);
            }
        }
        // Needs are taken from the front.
        self.take_from_waiting(&need.segment, need.items.len(), need.bytes);
    }

    /// Takes the first pieces of a segment, which have so many bytes together.
    fn take_from_waiting(&mut self, segment: &Segment, count: usize, bytes: u64) {
        self.change_waiting(segment, |waiting| {
            waiting.items.drain(..count.min(waiting.items.len()));
            waiting.bytes -= bytes;
        });
    }

    fn change_waiting(&mut self, segment: &Segment, change: impl FnOnce(&mut Waiting)) {
        let waiting = self.waiting.entry(segment.row).or_default();
        let before = waiting.lasting_bytes(segment);
        change(waiting);
        self.lasting_bytes = self.lasting_bytes - before + waiting.lasting_bytes(segment);
        if waiting.items.is_empty() {
            self.waiting.remove(&segment.row);
        }
    }
}

/// One request to the store: segments that lie one behind the other, or nearly so, in one pack.
#[derive(Debug)]
pub(super) struct Request {
    /// In the order of their places.
    pub(super) segments: Vec<Arc<Segment>>,
    /// Which of them is wanted first.
    pub(super) first: usize,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Bytes that one request may fetch.
const REQUEST_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes between two segments that are fetched along rather than asked for around them.
const GAP_BYTES: u64 = 64 * 1024;

/// Gathers segments into requests, each with what is wanted of its segments, in the order in which the first segment of each
/// was given.
pub(super) fn requests_for<W>(wanted: Vec<(Arc<Segment>, W)>) -> Vec<(Request, Vec<W>)> {
    let mut placed: Vec<(usize, (Arc<Segment>, W))> = wanted.into_iter().enumerate().collect();
    placed.sort_by_key(|(_, (segment, _))| (segment.pack, segment.offset));
    let mut requests: Vec<(usize, (Request, Vec<W>))> = Vec::new();
    for (order, (segment, wanted)) in placed {
        let (offset, len) = (u64::from(segment.offset), u64::from(segment.record.stored_len));
        match requests.last_mut() {
            Some((first, (request, all)))
                if request.segments.last().is_some_and(|last| last.pack == segment.pack)
                    && offset <= request.offset + request.len + GAP_BYTES
                    && offset + len - request.offset <= REQUEST_BYTES =>
            {
                if order < *first {
                    (*first, request.first) = (order, request.segments.len());
                }
                request.len = offset + len - request.offset;
                request.segments.push(segment);
                all.push(wanted);
            }
            _ => requests.push((order, (Request { segments: vec![segment], first: 0, offset, len }, vec![wanted]))),
        }
    }
    requests.sort_by_key(|(first, _)| *first);
    requests.into_iter().map(|(_, request)| request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::index::test_segments;

    /// A segment of 1000 plain bytes.
    fn segment(row: i64, pack: u8, offset: u32, stored_len: u32) -> Arc<Segment> {
        test_segments::segment(row, pack, offset, stored_len, 1000)
    }

    fn piece(segment: &Arc<Segment>, start: u32, len: u32) -> Piece {
        Piece { segment: Arc::clone(segment), start, len, at: 0 }
    }

    #[test]
    fn pieces_that_continue_each_other_are_one() {
        let [one, two] = [segment(1, 1, 0, 10), segment(2, 1, 10, 10)];
        let mut horizon = Horizon::default();
        for next in [piece(&one, 0, 100), piece(&one, 100, 50), piece(&two, 150, 10), piece(&one, 200, 10)] {
            horizon.push(next);
        }
        assert_eq!((horizon.len(), horizon.bytes(), horizon.segments()), (3, 170, 2));
        let Some(Item::Piece(first, None)) = horizon.pop() else { panic!("a piece") };
        assert_eq!((first.start, first.len), (0, 150));
        assert_eq!((horizon.len(), horizon.bytes()), (2, 20));
    }

    #[test]
    fn a_need_takes_all_planned_pieces_of_a_segment() {
        let [one, two] = [segment(1, 1, 0, 10), segment(2, 1, 10, 10)];
        let mut horizon = Horizon::default();
        for number in 0..2 {
            horizon.push(piece(&one, number * 200, 100));
            horizon.push(piece(&two, number * 20, 10));
        }
        let need = horizon.need(&one);
        assert_eq!(
            (need.items.as_slice(), need.bytes, need.is_dense(), need.held_bytes()),
            (&[0, 2][..], 200, false, 200)
        );
        horizon.assign(&need, 7);
        horizon.push(piece(&one, 400, 100));
        let rest = horizon.need(&one);
        assert_eq!((rest.items.as_slice(), rest.bytes, horizon.segments()), (&[4][..], 100, 2));
        horizon.assign(&horizon.need(&two), 8);
        let slots: Vec<Option<SlotNumber>> = std::iter::from_fn(|| horizon.pop())
            .map(|item| if let Item::Piece(_, slot) = item { slot } else { None })
            .collect();
        assert_eq!(slots, [Some(7), Some(8), Some(7), Some(8), None]);
        assert_eq!((horizon.segments(), horizon.bytes(), horizon.lasting_bytes()), (0, 0, 0));
    }

    #[test]
    fn what_a_stream_passes_by_is_not_held_long_and_what_it_comes_back_to_is() {
        let [one, two] = [segment(1, 1, 0, 10), segment(2, 1, 10, 10)];
        let mut horizon = Horizon::default();
        let push = |horizon: &mut Horizon, segment: &Arc<Segment>, start, at| {
            horizon.push(Piece { at, ..piece(segment, start, 100) });
        };
        push(&mut horizon, &one, 0, 0);
        push(&mut horizon, &two, 0, 100);
        push(&mut horizon, &one, 500, PASSING_BYTES);
        assert_eq!(horizon.lasting_bytes(), 0);
        push(&mut horizon, &two, 500, PASSING_BYTES + 101);
        assert_eq!(horizon.lasting_bytes(), 200);
        // It goes on where the last piece ended; and no more of a segment is held than the segment.
        push(&mut horizon, &two, 600, PASSING_BYTES + 201);
        assert_eq!(horizon.lasting_bytes(), 300);
        push(&mut horizon, &two, 0, PASSING_BYTES + 301);
        push(&mut horizon, &two, 0, PASSING_BYTES + 401);
        assert_eq!(horizon.lasting_bytes(), 1000);
        // What was handed out is waited for no longer.
        horizon.pop();
        horizon.pop();
        assert_eq!(horizon.lasting_bytes(), 0);
    }

    #[test]
    fn a_segment_of_which_half_is_wanted_is_kept_whole() {
        let one = segment(1, 1, 0, 10);
        let mut horizon = Horizon::default();
        horizon.push(piece(&one, 0, 499));
        assert_eq!(horizon.need(&one).held_bytes(), 499);
        horizon.push(piece(&one, 600, 1));
        assert_eq!(horizon.need(&one).held_bytes(), 1000);
    }

    #[test]
    fn neighbours_are_one_request_and_requests_keep_the_order_of_what_is_wanted_first() {
        const MIB: u32 = 1 << 20;
        let far = segment(1, 1, 20 * MIB, MIB);
        let [first, second, gap] =
            [segment(2, 1, 16, MIB / 2), segment(3, 1, 16 + MIB / 2, MIB / 2), segment(4, 1, 17 + MIB, 9)];
        let other = segment(5, 0, 16, MIB);
        let too_much = segment(6, 0, 16 + MIB, 2 * MIB);
        let wanted = [(&gap, 'g'), (&far, 'f'), (&second, 's'), (&other, 'o'), (&first, '1'), (&too_much, 't')];
        let wanted = wanted.map(|(segment, name)| (Arc::clone(segment), name)).to_vec();
        let found: Vec<(Vec<char>, usize, u64, u64)> = requests_for(wanted)
            .into_iter()
            .map(|(request, wanted)| {
                assert_eq!(request.segments.len(), wanted.len());
                (wanted, request.first, request.offset, request.len)
            })
            .collect();
        let mib = u64::from(MIB);
        let wanted = [
            (vec!['1', 's', 'g'], 2, 16, mib + 10),
            (vec!['f'], 0, 20 * mib, mib),
            (vec!['o'], 0, 16, mib),
            (vec!['t'], 0, 16 + mib, 2 * mib),
        ];
        assert_eq!(found, wanted);
    }
}
