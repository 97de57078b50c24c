//! What a tree's capture does ahead of what is stored: walking, and reading what is short.
//!
//! Every step of its own thread is a switch there and back, which takes longer than to read a small file.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Stat;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Error;
use super::read::{self, Opened};
use super::walk::{Found, Walk};

/// Rows fetched from the walk at a time; each may hold a directory's descriptor.
const BATCH: usize = 64;
/// Batches that wait while others are read and stored.
const BATCHES_QUEUED: usize = 1;
/// Bytes of files that are read together; the others of a batch are read when their turn comes.
const READ_BYTES_MAX: u64 = 2 << 20;

/// A walk in a thread of its own.
pub(super) struct WalkAhead {
    batches: mpsc::Receiver<Vec<Found>>,
    walk: JoinHandle<Result<Walk, Error>>,
}

impl WalkAhead {
    pub(super) fn start(mut walk: Walk) -> Self {
        let (found, batches) = mpsc::channel(BATCHES_QUEUED);
        let walk = tokio::task::spawn_blocking(move || {
            loop {
                let batch = walk.take(BATCH)?;
                // Nobody takes it where the capture has failed.
                if batch.is_empty() || found.blocking_send(batch).is_err() {
                    return Ok(walk);
                }
            }
        });
        Self { batches, walk }
    }

    /// Returns the next rows; none at the end, be it for an error.
    pub(super) async fn next(&mut self) -> Vec<Found> {
        self.batches.recv().await.unwrap_or_default()
    }

    /// Returns the walk at its end, or what it failed of.
    pub(super) async fn end(self, root: &std::path::Path) -> Result<Walk, Error> {
        drop(self.batches);
        self.walk.await.unwrap_or_else(|_| Err(Error::Interrupted { path: root.to_owned() }))
    }
}

/// A file that is to be read.
pub(super) struct Wanted {
    pub(super) parent: Arc<OwnedFd>,
    pub(super) name: CString,
    /// For messages.
    pub(super) path: PathBuf,
    /// Bytes, as the walk saw it.
    pub(super) len: u64,
}

/// A file, or what became of it.
pub(super) enum Read {
    /// It is not there any more, or something else is.
    Gone,
    /// All of it, and what it was at that moment.
    Whole(Vec<u8>, Stat),
    /// Too long to be held.
    Long(Opened),
}

/// A file whose turn has not come yet.
pub(super) enum Ahead {
    Read(Read),
    /// Not read yet.
    Later(Wanted),
}

/// Reads files, no more bytes of them than are held. Blocking.
pub(super) fn read_together(files: Vec<Wanted>) -> Vec<Result<Ahead, Error>> {
    let mut left = READ_BYTES_MAX;
    let one = |file: Wanted| match left.checked_sub(file.len) {
        Some(less) => {
            left = less;
            read(file).map(Ahead::Read)
        }
        None => Ok(Ahead::Later(file)),
    };
    files.into_iter().map(one).collect()
}

/// Reads a file that is short, opens one that is long. Blocking.
pub(super) fn read(file: Wanted) -> Result<Read, Error> {
    let Wanted { parent, name, path, .. } = file;
    let Some(mut opened) = read::open(&parent, &name, &path)? else { return Ok(Read::Gone) };
    Ok(match read::read_whole(&mut opened, read::SMALL_MAX, &path)? {
        Some(bytes) => Read::Whole(bytes, opened.stat),
        None => Read::Long(opened),
    })
}
