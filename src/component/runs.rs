//! Runs out of files and pipes.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::RUN_BYTES_MAX;
use crate::buffers::Buffers;

/// Bytes of buffers that wait to be used again: about as much as is on its way to being stored.
const IDLE_BYTES_MAX: usize = 16 * RUN_BYTES_MAX;

/// Reads runs into buffers that are used again once a run was stored.
#[derive(Debug, Clone)]
pub(super) struct RunReader {
    buffers: Arc<Buffers>,
}

impl Default for RunReader {
    fn default() -> Self {
        Self { buffers: Buffers::new(IDLE_BYTES_MAX) }
    }
}

impl RunReader {
    /// Reads the next [`RUN_BYTES_MAX`] bytes, less at the end, and none behind it. Makes its thread wait.
    pub(super) fn read(&self, from: &mut impl Read) -> io::Result<Bytes> {
        let mut run = self.buffers.take(RUN_BYTES_MAX);
        from.take(RUN_BYTES_MAX as u64).read_to_end(&mut run)?;
        Ok(self.buffers.lend(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_whole_up_to_the_last_and_their_memory_is_used_again() {
        let content: Vec<u8> = (0..3 * RUN_BYTES_MAX + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut rest = content.as_slice();
        let (reader, mut found, mut places) = (RunReader::default(), Vec::new(), Vec::new());
        loop {
            let run = reader.read(&mut rest).unwrap();
            if run.is_empty() {
                break;
            }
            assert!(run.len() == RUN_BYTES_MAX || rest.is_empty());
            places.push(run.as_ptr());
            found.extend_from_slice(&run);
        }
        assert!(found == content);
        assert!(places.iter().all(|place| *place == places[0]));
    }
}
