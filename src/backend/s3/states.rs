//! Which state of each object counted at a moment, of a list of all states. Pure.
//!
//! A server should say of each state when it was put. versitygw (1.8) says of one that was replaced when that happened,
//! and of a removal when the state before it was put; but its version ids are ULIDs, which begin with the moment that
//! they were made at. So ids that are ULIDs tell the time, and other servers are held to what must be true of any
//! times. What cannot be told is an error: a wrong state would look like the right one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::client::S3Error;
use crate::format::object::ObjectKey;

/// How far the clocks of one server's machines may be from one another.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);
/// How far the moment of an id may be from the time that a server says of the same state: an upload lies between.
const UPLOAD_MAX: Duration = Duration::from_secs(3600);
/// The id of a state that was put while the bucket kept no old ones.
const NO_ID: &str = "null";
/// The digits of a ULID.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ULID_LEN: usize = 26;
/// Digits of the moment; those behind them are random.
const MOMENT_LEN: usize = 10;

/// What a server says of one state.
pub(super) struct Said<'a> {
    /// Its id.
    pub(super) id: &'a str,
    /// When it was put, or the object removed.
    pub(super) time: SystemTime,
    /// Whether it is what the object is now.
    pub(super) is_latest: bool,
    /// `None` where it is a removal.
    pub(super) len: Option<u64>,
}

/// The state of an object that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// When it was put, or removed.
    pub(super) since: SystemTime,
    /// Its id and length; `None` where it was removed.
    pub(super) content: Option<(String, u64)>,
}

/// What was said of one object.
#[derive(Default)]
struct Object {
    /// The newest state that was there at the moment.
    counts: Option<State>,
    /// A state without an id that is not the newest.
    nameless: Option<State>,
    /// The time of what the object is now.
    latest: Option<SystemTime>,
    /// The last of the times of all other states.
    others: Option<SystemTime>,
}

/// The states of all objects at a moment: takes what the server says, in any order.
pub(super) struct States {
    as_of: SystemTime,
    objects: BTreeMap<ObjectKey, Object>,
    has_ulids: bool,
}

impl States {
    /// Starts without any. `as_of` is a moment of the server's clock.
    pub(super) const fn new(as_of: SystemTime) -> Self {
        Self { as_of, objects: BTreeMap::new(), has_ulids: false }
    }

    /// Takes one state; the same one twice is taken once.
    pub(super) fn take(&mut self, key: ObjectKey, said: &Said<'_>) -> Result<(), S3Error> {
        let object = self.objects.entry(key).or_default();
        let content = said.len.map(|len| (said.id.to_owned(), len));
        let made = ulid_time(said.id);
        if let Some(made) = made {
            self.has_ulids = true;
            if said.is_latest && content.is_some() && apart(made, said.time) > UPLOAD_MAX {
                return Err(S3Error::StateTimes { name: key.to_string() });
            }
        } else {
            let last = if said.is_latest { &mut object.latest } else { &mut object.others };
            *last = (*last).max(Some(said.time));
        }
        let state = State { since: made.unwrap_or(said.time), content };
        if said.id == NO_ID && !said.is_latest {
            object.nameless = Some(state);
        } else {
            object.count(state, self.as_of);
        }
        Ok(())
    }

    /// Returns the state of each object that had one.
    pub(super) fn finish(self) -> Result<BTreeMap<ObjectKey, State>, S3Error> {
        let mut states = BTreeMap::new();
        for (key, mut object) in self.objects {
            let untold = || S3Error::StateTimes { name: key.to_string() };
            if let (Some(latest), Some(others)) = (object.latest, object.others)
                && !self.has_ulids
                && latest + CLOCKS_APART_MAX < others
            {
                return Err(untold());
            }
            match object.nameless.take() {
                // When it was put is not in an id, and what is said of it is something else.
                // It was put before what is said of it, which is when it was replaced or later: where that is behind
                // what would count, it may be what counted.
                Some(state)
                    if self.has_ulids
                        && object
                            .counts
                            .as_ref()
                            .is_none_or(|counts| state.since > counts.since + CLOCKS_APART_MAX) =>
                {
                    return Err(untold());
                }
                Some(state) if !self.has_ulids => object.count(state, self.as_of),
                _ => {}
            }
            states.extend(object.counts.map(|state| (key, state)));
        }
        Ok(states)
    }
}

impl Object {
    fn count(&mut self, state: State, as_of: SystemTime) {
        if state.since > as_of {
            return;
        }
        // Of one moment, what was put counts, and of two the one that the server names first: the newer.
        let is_newer = self.counts.as_ref().is_none_or(|counts| match state.since.cmp(&counts.since) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => counts.content.is_none() && state.content.is_some(),
            std::cmp::Ordering::Less => false,
        });
        if is_newer {
            self.counts = Some(state);
        }
    }
}

/// What a look at a moment makes of what a server says of old states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldStates {
    /// The times that the server tells are those of the puts.
    ByTimes,
    /// The ids of the states tell when each was put.
    ById,
    /// What is said cannot be true, and is an error.
    Untold,
    /// What is said could be true and is not: a wrong state would be shown.
    Wrong,
}

/// Tries moments at which it is known how long an object was, `None` where there was none, on what a server says of its
/// states.
pub(super) fn judge(key: ObjectKey, said: &[Said<'_>], known: &[(SystemTime, Option<u64>)]) -> OldStates {
    for (moment, len) in known {
        let mut states = States::new(*moment);
        let taken = said.iter().try_for_each(|said| states.take(key, said));
        let Ok(mut found) = taken.and_then(|()| states.finish()) else { return OldStates::Untold };
        if found.remove(&key).and_then(|state| state.content).map(|(_, len)| len) != *len {
            return OldStates::Wrong;
        }
    }
    if said.iter().all(|said| ulid_time(said.id).is_some()) { OldStates::ById } else { OldStates::ByTimes }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|before| before.duration())
}

/// Returns the moment that a ULID was made at, `None` of any other id.
fn ulid_time(id: &str) -> Option<SystemTime> {
    let mut millis = 0_u64;
    for (place, byte) in id.bytes().enumerate() {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        // 26 digits of five bits are two more than the 128 that it has.
        if place == 0 && digit > 7 {
            return None;
        }
        if place < MOMENT_LEN {
            millis = millis << 5 | u64::try_from(digit).ok()?;
        }
    }
    if id.len() == ULID_LEN { SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::PackId;

    const KEY: ObjectKey = ObjectKey::Pack(PackId::from_bytes([7; 32]));

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000 + secs)
    }

    /// An id that was made then.
    fn ulid(secs: u64) -> String {
        let millis = (1_795_000_000 + secs) * 1000;
        let digit = |place: u64| char::from(DIGITS[usize::try_from(millis >> (5 * place) & 31).unwrap()]);
        (0..10).rev().map(digit).chain("HTXYSXCNVTV0CQ8X".chars()).collect()
    }

    fn said(id: &str, secs: u64, is_latest: bool, len: Option<u64>) -> Said<'_> {
        Said { id, time: at(secs), is_latest, len }
    }

    /// The length of what counts then, `None` where there was nothing.
    fn len_at(as_of: u64, lines: &[Said<'_>]) -> Result<Option<u64>, S3Error> {
        let mut states = States::new(at(as_of));
        for line in lines {
            states.take(KEY, line)?;
        }
        Ok(states.finish()?.remove(&KEY).and_then(|state| state.content).map(|(_, len)| len))
    }

    #[test]
    fn the_newest_state_of_the_moment_counts_as_the_server_tells_the_times() {
        let lines = [said("c", 300, true, None), said("b", 200, false, Some(2)), said("a", 100, false, Some(1))];
        for (as_of, len) in [(99, None), (100, Some(1)), (199, Some(1)), (200, Some(2)), (299, Some(2)), (300, None)] {
            assert_eq!(len_at(as_of, &lines).unwrap(), len, "{as_of}");
        }
    }

    #[test]
    fn where_a_server_tells_when_a_state_was_replaced_its_id_tells_when_it_was_put() {
        // As versitygw tells it: put at 100, replaced at 200, removed at 300.
        let (first, second, third) = (ulid(100), ulid(200), ulid(300));
        let lines =
            [said(&second, 300, false, Some(2)), said(&first, 200, false, Some(1)), said(&third, 200, true, None)];
        for (as_of, len) in [(99, None), (100, Some(1)), (199, Some(1)), (200, Some(2)), (299, Some(2)), (300, None)] {
            assert_eq!(len_at(as_of, &lines).unwrap(), len, "{as_of}");
        }
    }

    #[test]
    fn times_that_cannot_be_true_are_an_error_and_no_answer() {
        let untold = |lines: &[Said<'_>]| matches!(len_at(250, lines), Err(S3Error::StateTimes { .. }));
        // What is now was put before what it replaced.
        assert!(untold(&[said("b", 100, true, None), said("a", 200, false, Some(1))]));
        // An id that looks like one with a time and is none.
        assert!(untold(&[said(&ulid(100), 100_000, true, Some(1))]));
        // Put before the server kept states, and replaced since: nobody says when it was put.
        let third = ulid(300);
        assert!(untold(&[said(&third, 300, true, Some(2)), said(NO_ID, 300, false, Some(1))]));
        assert_eq!(
            len_at(300, &[said(&third, 300, true, Some(2)), said(NO_ID, 300, false, Some(1))]).unwrap(),
            Some(2)
        );
        // Put or removed while the server kept no states, between two that have an id.
        assert!(untold(&[
            said(&third, 300, true, Some(2)),
            said(NO_ID, 300, false, None),
            said(&ulid(100), 200, false, Some(1))
        ]));
        assert_eq!(len_at(250, &[said("b", 300, true, Some(2)), said(NO_ID, 200, false, Some(1))]).unwrap(), Some(1));
    }

    #[test]
    fn a_server_is_judged_by_moments_at_which_it_is_known_what_was_there() {
        let known = [(at(99), None), (at(101), Some(1)), (at(201), Some(2)), (at(9999), None)];
        let judged = |said: &[Said<'_>]| judge(KEY, said, &known);
        // Puts at 100 and 200, and a removal at 300.
        let true_times = |ids: [&str; 3]| {
            let [first, second, third] = ids;
            judged(&[said(third, 300, true, None), said(second, 200, false, Some(2)), said(first, 100, false, Some(1))])
        };
        let (first, second, third) = (ulid(100), ulid(200), ulid(300));
        assert_eq!(true_times(["a", "b", "c"]), OldStates::ByTimes);
        assert_eq!(true_times([&first, &second, &third]), OldStates::ById);
        // Told is when each was replaced.
        let replaced = |ids: [&str; 3], last| {
            let [first, second, third] = ids;
            judged(&[
                said(second, 300, false, Some(2)),
                said(first, 200, false, Some(1)),
                said(third, last, true, None),
            ])
        };
        assert_eq!(replaced([&first, &second, &third], 200), OldStates::ById);
        assert_eq!(replaced(["a", "b", "c"], 300), OldStates::Wrong);
        assert_eq!(replaced(["a", "b", "c"], 200), OldStates::Untold);
    }

    #[test]
    fn a_ulid_tells_its_moment_and_other_ids_tell_nothing() {
        let time = ulid_time("01M82QXBHTXYSXCNVTV0CQ8X69").unwrap();
        // As the server's log has it: 2026-11-22 23:01:57.9.
        assert_eq!(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 1_795_388_517);
        for id in ["", "null", "01M82QXBHTXYSXCNVTV0CQ8X6", "81M82QXBHTXYSXCNVTV0CQ8X69", "01M82QXBHTXYSXCNVTV0CQ8X6u"]
        {
            assert_eq!(ulid_time(id), None, "{id}");
        }
        assert_eq!(ulid_time("3b1dbe2d-7c1c-4a2a-9a4f-3d4b0c9c2c11"), None);
    }
}
