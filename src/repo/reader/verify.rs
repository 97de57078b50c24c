//! The last word on a stream: its length and the BLAKE3 of the whole of it; and where a stream goes.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::crypto::tree::{HashedPart, PartsHasher};
use crate::format::id::ContentHash;
use crate::repo::Error;

/// What is expected of a stream as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) len: u64,
    pub(super) hash: ContentHash,
}

impl Expected {
    fn are_those_of(&self, hasher: &PartsHasher) -> bool {
        hasher.bytes() == self.len && hasher.finish() == Some(self.hash)
    }
}

/// A piece of a stream as it is handed out.
pub(super) struct Handed {
    pub(super) bytes: Bytes,
    /// What the hash of the stream needs of it, where that is known.
    pub(super) hash: Option<HashedPart>,
}

impl From<Bytes> for Handed {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, hash: None }
    }
}

/// Compares a stream that passes with what is expected of it.
pub(super) struct Verdict {
    expected: Expected,
    so_far: SoFar,
}

/// What is known of a stream.
enum SoFar {
    /// Something of it is still to come.
    Hashed(PartsHasher),
    /// It is over, and was right or not: thousands of small ones take little memory.
    Over(bool),
}

impl Verdict {
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, so_far: SoFar::Hashed(PartsHasher::default()) }
    }

    /// Returns the bytes that the stream ought to have.
    pub(super) fn stream_len(&self) -> u64 {
        self.expected.len
    }

    /// Returns the bytes that were taken, no more than the stream ought to have.
    pub(super) fn bytes(&self) -> u64 {
        match &self.so_far {
            SoFar::Hashed(hasher) => hasher.bytes(),
            SoFar::Over(_) => self.expected.len,
        }
    }

    /// Takes the next piece.
    pub(super) fn take(&mut self, piece: &Handed) {
        match &piece.hash {
            Some(hash) => self.take_hashed(hash),
            None => self.take_hashed(&HashedPart::new(self.bytes(), &piece.bytes, self.expected.len)),
        }
    }

    /// Takes the next piece, of which only what the hash needs of it is there. It has one byte at least.
    pub(super) fn take_hashed(&mut self, part: &HashedPart) {
        self.so_far = match &mut self.so_far {
            SoFar::Hashed(hasher) => {
                hasher.add(part);
                if hasher.bytes() < self.expected.len {
                    return;
                }
                SoFar::Over(self.expected.are_those_of(hasher))
            }
            // More than there ought to be.
            SoFar::Over(_) => SoFar::Over(false),
        };
    }

    pub(super) fn pronounce(&self) -> Result<(), Error> {
        let is_right = match &self.so_far {
            SoFar::Hashed(hasher) => self.expected.are_those_of(hasher),
            SoFar::Over(is_right) => *is_right,
        };
        if is_right { Ok(()) } else { Err(Error::StreamDamaged) }
    }
}

/// What is said to whoever wants the content of a stream. Silence is no end: whoever speaks has failed.
pub(super) enum Said {
    Pieces(Vec<Bytes>),
    /// The whole proved right; this is the last of it.
    Last(Option<Bytes>),
    Failed(Error),
}

/// Where a stream goes: to somebody who wants its content. The last piece is held back until the whole proved right.
pub(super) struct Outlet {
    to: mpsc::Sender<Said>,
    held: Option<Bytes>,
}

impl Outlet {
    pub(super) fn new(to: mpsc::Sender<Said>) -> Self {
        Self { to, held: None }
    }

    /// Passes pieces on and returns whether somebody is there.
    pub(super) async fn pass(&mut self, mut pieces: Vec<Bytes>) -> bool {
        pieces.splice(..0, self.held.take());
        self.held = pieces.pop();
        pieces.is_empty() || self.to.send(Said::Pieces(pieces)).await.is_ok()
    }

    /// Says how the stream ended. Whoever went away wants to know nothing.
    pub(super) async fn close(self, outcome: Result<(), Error>) {
        let last = outcome.map_or_else(Said::Failed, |()| Said::Last(self.held));
        let _ = self.to.send(last).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hash::content_hash;

    #[test]
    fn a_stream_is_right_when_it_is_over_and_no_longer_when_more_comes() {
        let bytes: Vec<u8> = (0..9000_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        let (content, more) = bytes.split_at(7000);
        let expected = Expected { len: 7000, hash: content_hash(content) };
        let mut verdict = Verdict::new(expected);
        for part in content.chunks(2048) {
            assert!(verdict.pronounce().is_err());
            verdict.take(&Bytes::copy_from_slice(part).into());
        }
        assert!(verdict.pronounce().is_ok() && verdict.bytes() == 7000);
        verdict.take(&Bytes::copy_from_slice(more).into());
        assert!(verdict.pronounce().is_err());

        // It ends in the middle of a part.
        let mut verdict = Verdict::new(expected);
        verdict.take(&Bytes::from(bytes).into());
        assert!(verdict.pronounce().is_err());
        // Nothing is all of an empty one.
        assert!(Verdict::new(Expected { len: 0, hash: content_hash(&[]) }).pronounce().is_ok());
    }
}
