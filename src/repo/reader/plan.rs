//! What is read next: pieces of streams in the order in which they are wanted, and which of them one decoded segment
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
        self.bytes * 2 >= self.segment.record.plain_len()
    }

    /// Returns the bytes that are held for it.
    pub(super) fn held_bytes(&self) -> u64 {
        if self.is_dense() { self.segment.record.plain_len() } else { self.bytes }
    }
}

/// The items that are planned and not yet handed out. Items are known by their sequence number.
#[derive(Default)]
pub(super) struct Horizon {
    items: VecDeque<Item>,
    /// Sequence number of the first item.
    front: u64,
    /// The pieces of each segment that have no slot yet, ascending; by the row of the segment.
    waiting: HashMap<i64, VecDeque<u64>>,
    /// Bytes of the stream that all pieces stand for.
    bytes: u64,
}

impl Horizon {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
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
            return;
        }
        let item = self.front + self.items.len() as u64;
        self.waiting.entry(piece.segment.row).or_default().push_back(item);
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
                self.drop_waiting(piece.segment.row, 1);
            }
        }
        self.front += 1;
        Some(item)
    }

    /// Returns what the planned pieces want of a segment: all of them, or only those before item `end`.
    pub(super) fn need(&self, segment: &Arc<Segment>, end: Option<u64>) -> Need {
        let waiting = self.waiting.get(&segment.row).into_iter().flatten().copied();
        let items: Vec<u64> = waiting.take_while(|item| end.is_none_or(|end| *item < end)).collect();
        let bytes_of = |item: &u64| match self.get(*item) {
            Some(Item::Piece(piece, _)) => u64::from(piece.len),
            _ => 0,
        };
        let bytes = items.iter().map(bytes_of).sum();
        Need { segment: Arc::clone(segment), items, bytes }
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
        self.drop_waiting(need.segment.row, need.items.len());
    }

    fn drop_waiting(&mut self, row: i64, count: usize) {
        if let Some(waiting) = self.waiting.get_mut(&row) {
            waiting.drain(..count.min(waiting.len()));
            if waiting.is_empty() {
                self.waiting.remove(&row);
            }
        }
    }
}

/// One request to the store: segments that lie one behind the other, or nearly so, in one pack.
#[derive(Debug)]
pub(super) struct Request {
    /// In the order of their places.
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Bytes that one request may fetch.
const REQUEST_BYTES: u64 = 2 * 1024 * 1024;
/// Bytes between two segments that are fetched along rather than asked for around them.
const GAP_BYTES: u64 = 64 * 1024;

/// Gathers segments into requests, in the order in which the first segment of each was given.
fn requests(segments: Vec<Arc<Segment>>) -> Vec<Request> {
    let mut placed: Vec<(usize, Arc<Segment>)> = segments.into_iter().enumerate().collect();
    placed.sort_by_key(|(_, segment)| (segment.pack, segment.offset));
    let mut requests: Vec<(usize, Request)> = Vec::new();
    for (order, segment) in placed {
        let (offset, len) = (u64::from(segment.offset), u64::from(segment.record.stored_len));
        match requests.last_mut() {
            Some((first, request))
                if request.segments.last().is_some_and(|last| last.pack == segment.pack)
                    && offset <= request.offset + request.len + GAP_BYTES
                    && offset + len - request.offset <= REQUEST_BYTES =>
            {
                *first = order.min(*first);
                request.len = offset + len - request.offset;
                request.segments.push(segment);
            }
            _ => requests.push((order, Request { segments: vec![segment], offset, len })),
        }
    }
    requests.sort_by_key(|(first, _)| *first);
    requests.into_iter().map(|(_, request)| request).collect()
}

/// Returns the requests for segments, each with what is wanted of its segments, in their order.
///
/// A segment may be wanted twice in one round: by what comes soon, where there was no room for all of it, and by what
/// comes later.
pub(super) fn requests_for<W>(wanted: Vec<(Arc<Segment>, W)>) -> Vec<(Request, Vec<W>)> {
    let mut segments = Vec::with_capacity(wanted.len());
    let mut of_row: HashMap<i64, VecDeque<W>> = HashMap::with_capacity(wanted.len());
    for (segment, wanted) in wanted {
        of_row.entry(segment.row).or_default().push_back(wanted);
        segments.push(segment);
    }
    let mut wanted_of = |request: &Request| -> Vec<W> {
        request.segments.iter().filter_map(|segment| of_row.get_mut(&segment.row)?.pop_front()).collect()
    };
    requests(segments)
        .into_iter()
        .map(|request| {
            let wanted = wanted_of(&request);
            (request, wanted)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::reader::test_segments;

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
    fn a_need_takes_all_pieces_of_a_segment_or_the_near_ones() {
        let [one, two] = [segment(1, 1, 0, 10), segment(2, 1, 10, 10)];
        let mut horizon = Horizon::default();
        for number in 0..4 {
            horizon.push(piece(&one, number * 200, 100));
            horizon.push(piece(&two, number * 20, 10));
        }
        let near = horizon.need(&one, Some(4));
        assert_eq!(
            (near.items.as_slice(), near.bytes, near.is_dense(), near.held_bytes()),
            (&[0, 2][..], 200, false, 200)
        );
        horizon.assign(&near, 7);
        let rest = horizon.need(&one, None);
        assert_eq!((rest.items.as_slice(), rest.bytes), (&[4, 6][..], 200));
        let all = horizon.need(&two, None);
        assert_eq!(all.items, [1, 3, 5, 7]);
        horizon.assign(&all, 8);
        assert_eq!(horizon.segments(), 1);
        let slots: Vec<Option<SlotNumber>> = std::iter::from_fn(|| horizon.pop())
            .map(|item| if let Item::Piece(_, slot) = item { slot } else { None })
            .collect();
        assert_eq!(slots, [Some(7), Some(8), Some(7), Some(8), None, Some(8), None, Some(8)]);
        assert_eq!(horizon.segments(), 0);
    }

    #[test]
    fn a_segment_of_which_half_is_wanted_is_kept_whole() {
        let one = segment(1, 1, 0, 10);
        let mut horizon = Horizon::default();
        horizon.push(piece(&one, 0, 499));
        assert_eq!(horizon.need(&one, None).held_bytes(), 499);
        horizon.push(piece(&one, 600, 1));
        assert_eq!(horizon.need(&one, None).held_bytes(), 1000);
    }

    #[test]
    fn neighbours_are_one_request_and_requests_keep_the_order_of_what_is_wanted_first() {
        const MIB: u32 = 1 << 20;
        let far = segment(1, 1, 20 * MIB, MIB);
        let [first, second, gap] =
            [segment(2, 1, 16, MIB / 2), segment(3, 1, 16 + MIB / 2, MIB / 2), segment(4, 1, 17 + MIB, 9)];
        let other = segment(5, 0, 16, MIB);
        let too_much = segment(6, 0, 16 + MIB, 2 * MIB);
        let wanted = [&gap, &far, &second, &other, &first, &too_much].map(Arc::clone).to_vec();
        let found: Vec<(Vec<i64>, u64, u64)> = requests(wanted)
            .iter()
            .map(|request| (request.segments.iter().map(|segment| segment.row).collect(), request.offset, request.len))
            .collect();
        let mib = u64::from(MIB);
        let wanted =
            [(vec![2, 3, 4], 16, mib + 10), (vec![1], 20 * mib, mib), (vec![5], 16, mib), (vec![6], 16 + mib, 2 * mib)];
        assert_eq!(found, wanted);
    }

    #[test]
    fn whoever_wants_a_segment_that_another_wants_too_gets_it_of_the_same_request() {
        let [one, two] = [segment(1, 1, 0, 10), segment(2, 1, 10, 10)];
        let far = segment(3, 2, 0, 10);
        let wanted = [(&two, 'a'), (&one, 'b'), (&two, 'c'), (&far, 'd'), (&two, 'e')];
        let wanted = wanted.map(|(segment, name)| (Arc::clone(segment), name)).to_vec();
        let found: Vec<(Vec<i64>, Vec<char>)> = requests_for(wanted)
            .into_iter()
            .map(|(request, wanted)| (request.segments.iter().map(|segment| segment.row).collect(), wanted))
            .collect();
        assert_eq!(found, [(vec![1, 2, 2, 2], vec!['b', 'a', 'c', 'e']), (vec![3], vec!['d'])]);
    }
}
