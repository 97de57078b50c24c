//! Buffers that are used again: a megabyte that is fresh from the system costs more than it takes to fill it.
//!
//! Every page that a process writes to for the first time is a fault, some 2 µs in a virtual machine, and hands a core a
//! piece of memory that no cache knows.

use std::collections::TryReserveError;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes below which a buffer is not worth keeping: malloc has such at hand.
const WORTH_KEEPING_BYTES: usize = 64 * 1024;
/// How many times longer than asked for a buffer may be that is lent out: a long one is not spent on something short.
const TOO_LONG: usize = 4;

/// Lends buffers to any number of threads.
#[derive(Debug)]
pub struct Buffers {
    /// Those that came back last are last.
    idle: Mutex<Vec<Vec<u8>>>,
    idle_bytes_max: usize,
}

impl Buffers {
    /// Keeps at most `idle_bytes_max` bytes that nobody uses.
    #[must_use]
    pub fn new(idle_bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { idle: Mutex::default(), idle_bytes_max })
    }

    /// Returns an empty buffer for `len` bytes.
    ///
    /// # Panics
    ///
    /// Where the system has no memory left, as every allocation.
    pub fn take(&self, len: usize) -> Vec<u8> {
        self.try_take(len).expect("memory for a buffer")
    }

    /// Returns an empty buffer for `len` bytes; for lengths that somebody else decided on.
    pub fn try_take(&self, len: usize) -> Result<Vec<u8>, TryReserveError> {
        let room = rounded(len);
        let mut buffer = Vec::new();
        if room >= WORTH_KEEPING_BYTES {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            // The one that was given back last: it is the likeliest to lie in a core's cache.
            let fits = |buffer: &Vec<u8>| (len..=room.saturating_mul(TOO_LONG)).contains(&buffer.capacity());
            buffer = idle.iter().rposition(fits).map(|place| idle.remove(place)).unwrap_or_default();
        }
        buffer.clear();
        if buffer.capacity() < len {
            buffer.try_reserve_exact(room)?;
        }
        Ok(buffer)
    }

    /// Takes a buffer back. Those that nobody wanted for longest make room for it.
    pub fn give(&self, buffer: Vec<u8>) {
        if !(WORTH_KEEPING_BYTES..=self.idle_bytes_max).contains(&buffer.capacity()) {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(Vec::capacity).sum();
        let mut excess = (held + buffer.capacity()).saturating_sub(self.idle_bytes_max);
        let unwanted = idle.iter().take_while(|old| {
            let goes = excess > 0;
            excess = excess.saturating_sub(old.capacity());
            goes
        });
        let unwanted = unwanted.count();
        let unwanted: Vec<Vec<u8>> = idle.drain(..unwanted).collect();
        idle.push(buffer);
        drop(idle);
        // Giving memory back to the system takes a while.
        drop(unwanted);
    }

    /// Returns what a buffer holds as bytes to pass around. It comes back when nobody has any of them any more.
    #[must_use]
    pub fn lend(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        if bytes.capacity() < WORTH_KEEPING_BYTES {
            return Bytes::from(bytes);
        }
        Bytes::from_owner(Lent { bytes, home: Arc::clone(self) })
    }
}

/// Rounds a length up to at most a quarter more, so that buffers of about one length serve one another.
fn rounded(len: usize) -> usize {
    len.checked_next_multiple_of((len / 8).next_power_of_two()).unwrap_or(len)
}

/// A buffer that goes back to where it came from.
struct Lent {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn filled(buffers: &Buffers, len: usize) -> Vec<u8> {
        let mut buffer = buffers.take(len);
        buffer.resize(len, 1);
        buffer
    }

    #[test]
    fn a_buffer_is_used_again_and_starts_empty() {
        let buffers = Buffers::new(8 * MIB);
        let first = filled(&buffers, 100_000);
        let place = first.as_ptr();
        let lent = buffers.lend(first);
        let part = lent.slice(7..9);
        drop(lent);
        let other = buffers.take(100_000);
        assert_ne!(other.as_ptr(), place, "a part is still in use");
        drop(part);
        let second = buffers.take(99_000);
        assert_eq!(second.as_ptr(), place);
        assert!(second.is_empty());
    }

    /// What segments, or what was read of a file, have in length differs by a few hundredths. Before lengths were rounded, and
    /// while buffers that were too short kept their place for ever, nineteen of twenty were fresh.
    #[test]
    fn buffers_of_about_one_length_serve_one_another() {
        let buffers = Buffers::new(8 * MIB);
        let mut places = std::collections::BTreeSet::new();
        // Short ones first, which nobody wants later.
        let short: Vec<_> = (0..40).map(|_| buffers.lend(filled(&buffers, MIB / 2))).collect();
        drop(short);
        for round in 0..200_usize {
            let one = buffers.lend(filled(&buffers, 2 * MIB - 1000 * (round * 7 % 100)));
            let other = buffers.lend(filled(&buffers, 2 * MIB - 1000 * (round * 11 % 100)));
            places.insert(one.as_ptr());
            places.insert(other.as_ptr());
        }
        assert!(places.len() <= 3, "{} buffers", places.len());
    }

    #[test]
    fn no_more_is_kept_than_was_agreed_and_a_long_one_is_not_spent_on_something_short() {
        let buffers = Buffers::new(4 * MIB);
        let lent: Vec<_> = (0..8).map(|_| buffers.lend(filled(&buffers, MIB))).collect();
        drop(lent);
        buffers.give(Vec::with_capacity(5 * MIB));
        let idle = || buffers.idle.lock().unwrap().iter().map(Vec::capacity).collect::<Vec<_>>();
        assert_eq!(idle(), [MIB; 4]);
        assert!(buffers.take(MIB / 8).capacity() < MIB / 4);
        assert_eq!(idle(), [MIB; 4]);
        drop(buffers.take(MIB));
        assert_eq!(idle(), [MIB; 3]);
        buffers.give(Vec::with_capacity(1000));
        assert_eq!(idle(), [MIB; 3]);
    }

    #[test]
    fn a_length_without_memory_is_an_error() {
        assert!(Buffers::new(MIB).try_take(usize::MAX / 2).is_err());
        assert!(Buffers::new(MIB).try_take(usize::MAX).is_err());
    }

    #[test]
    fn lengths_are_rounded_up_to_a_quarter_more() {
        for len in [0, 1, 17, 65_537, 1_016_310, 1_048_240, 2_095_762] {
            let room = rounded(len);
            assert!((len..=len + len / 4).contains(&room), "{len} became {room}");
        }
        assert_eq!(rounded(1_016_310), rounded(1_048_240));
        assert_eq!(rounded(1_973_919), rounded(2_095_762));
    }
}
