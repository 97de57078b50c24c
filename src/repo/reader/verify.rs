//! The last word on a stream: its length and the BLAKE3 of the whole of it.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::pipeline::Batch;
use crate::crypto::hash::StreamHasher;
use crate::format::id::ContentHash;
use crate::repo::Error;

/// What is expected of a stream as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) len: u64,
    pub(super) hash: ContentHash,
}

struct Verdict {
    expected: Expected,
    hasher: StreamHasher,
    len: u64,
}

impl Verdict {
    fn new(expected: Expected) -> Self {
        Self { expected, hasher: StreamHasher::default(), len: 0 }
    }

    fn take(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.len += piece.len() as u64;
    }

    fn is_right(&self) -> bool {
        self.len == self.expected.len && self.hasher.finish() == self.expected.hash
    }
}

/// Passes pieces on and holds the last one back until length and hash of the whole are right.
pub(super) async fn pass_on(
    expected: Expected,
    mut batches: mpsc::Receiver<Result<Batch, Error>>,
    out: mpsc::Sender<Result<Batch, Error>>,
) {
    let mut verdict = Verdict::new(expected);
    let mut held: Option<Bytes> = None;
    while let Some(batch) = batches.recv().await {
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // A consumer that went away wants no error either.
                let _ = out.send(Err(error)).await;
                return;
            }
        };
        batch.iter().for_each(|piece| verdict.take(piece));
        let last = std::mem::replace(&mut held, batch.pop());
        batch.splice(..0, last);
        if !batch.is_empty() && out.send(Ok(batch)).await.is_err() {
            return;
        }
    }
    let last = if verdict.is_right() {
        let Some(last) = held else { return };
        Ok(vec![last])
    } else {
        Err(Error::StreamDamaged)
    };
    let _ = out.send(last).await;
}

/// Takes all pieces and returns whether they are what was expected; `passed` hears of each one's length.
pub(super) async fn judge(
    expected: Expected,
    mut batches: mpsc::Receiver<Result<Batch, Error>>,
    passed: mpsc::UnboundedSender<u64>,
) -> Result<(), Error> {
    let mut verdict = Verdict::new(expected);
    while let Some(batch) = batches.recv().await {
        let before = verdict.len;
        batch?.iter().for_each(|piece| verdict.take(piece));
        // Nobody may be listening.
        let _ = passed.send(verdict.len - before);
    }
    if verdict.is_right() { Ok(()) } else { Err(Error::StreamDamaged) }
}
