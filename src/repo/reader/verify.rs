//! The last word on a stream: its length and the BLAKE3 of the whole of it; and where that word, or the stream, goes.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::crypto::tree::{HashedPart, PartsHasher};
use crate::format::id::ContentHash;
use crate::repo::Error;

/// What is expected of a stream as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) len: u64,
    pub(super) hash: ContentHash,
}

/// A piece of a stream as it is handed out.
pub(super) struct Handed {
    /// Empty where only the hash is wanted and there.
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
    hasher: PartsHasher,
}

impl Verdict {
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, hasher: PartsHasher::default() }
    }

    /// Returns the bytes that the stream ought to have.
    pub(super) fn stream_len(&self) -> u64 {
        self.expected.len
    }

    /// Takes the next piece and returns its length.
    pub(super) fn take(&mut self, piece: &Handed) -> u64 {
        let before = self.hasher.bytes();
        match &piece.hash {
            Some(hash) => self.hasher.add(hash),
            None => self.hasher.add(&HashedPart::new(before, &piece.bytes, self.expected.len)),
        }
        self.hasher.bytes() - before
    }

    pub(super) fn pronounce(&self) -> Result<(), Error> {
        let is_right = self.hasher.bytes() == self.expected.len && self.hasher.finish() == Some(self.expected.hash);
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

/// Where a stream goes.
pub(super) enum Outlet {
    /// To somebody who wants its content. The last piece is held back until the whole proved right.
    Content { to: mpsc::Sender<Said>, held: Option<Bytes> },
    /// To somebody who wants to know whether it is right; `passed` hears of every length.
    Verdict { to: oneshot::Sender<Result<(), Error>>, passed: mpsc::UnboundedSender<u64> },
}

impl Outlet {
    /// Passes pieces on, `len` bytes all together, and returns whether somebody is there.
    pub(super) async fn pass(&mut self, mut pieces: Vec<Bytes>, len: u64) -> bool {
        match self {
            Self::Content { to, held } => {
                pieces.splice(..0, held.take());
                *held = pieces.pop();
                pieces.is_empty() || to.send(Said::Pieces(pieces)).await.is_ok()
            }
            Self::Verdict { to, passed } => {
                // Nobody may be listening.
                let _ = passed.send(len);
                !to.is_closed()
            }
        }
    }

    /// Says how the stream ended. Whoever went away wants to know nothing.
    pub(super) async fn close(self, outcome: Result<(), Error>) {
        match self {
            Self::Content { to, held } => {
                let last = outcome.map_or_else(Said::Failed, |()| Said::Last(held));
                let _ = to.send(last).await;
            }
            Self::Verdict { to, .. } => {
                let _ = to.send(outcome);
            }
        }
    }
}
