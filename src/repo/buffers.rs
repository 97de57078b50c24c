//! Buffers that are used again: a megabyte that is fresh from the system costs more than it takes to fill it.

use std::sync::{Mutex, PoisonError};

/// Bytes of buffers that wait to be used again, at most.
const IDLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Lends buffers to any number of threads.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// Returns an empty buffer for `len` bytes.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The one that was given back last: it is the likeliest to lie in a core's cache.
        let fitting = idle.iter().rposition(|buffer| buffer.capacity() >= len);
        let mut buffer = fitting.map(|place| idle.remove(place)).unwrap_or_default();
        drop(idle);
        buffer.clear();
        // Segments are about of one length: a whole step more makes the buffer fit for the next one.
        buffer.reserve_exact(len.next_multiple_of(64 * 1024));
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let held: usize = idle.iter().map(Vec::capacity).sum();
        if held + buffer.capacity() <= IDLE_BYTES_MAX {
            idle.push(buffer);
        }
    }
}
