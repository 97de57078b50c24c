//! Reading one file so that what is stored is what it held at one moment, or an error.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use super::Error;
use super::attributes::Stamp;
use crate::component::runs::RunReader;
use crate::component::{ByteStream, Run};

/// Files up to this length are read whole, and again when they change meanwhile.
pub(super) const SMALL_MAX: u64 = 1 << 20;
/// How often a small file is read until it stands still.
const ATTEMPTS_MAX: u32 = 3;

/// A file, opened.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stat: Stat,
}

/// Opens a regular file without following a link; `None` where it vanished or is something else by now.
pub(super) fn open(parent: &OwnedFd, name: &CStr, path: &Path) -> Result<Option<Opened>, Error> {
    // NONBLOCK: a pipe put in its place must not make us wait for a writer
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = match openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(Error::io("opening", path)(errno)),
    };
    let stat = fstat(&fd).map_err(Error::io("examining", path))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then(|| Opened { file: File::from(fd), stat }))
}

/// Reads a file of at most `limit` bytes that stands still. Returns its bytes and what it was at that
/// moment; `None` when it has more than `limit` bytes.
pub(super) fn read_whole(opened: &mut Opened, limit: u64, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    for _ in 0..ATTEMPTS_MAX {
        let before = Stamp::of(&opened.stat);
        if before.len > limit {
            return Ok(None);
        }
        let capacity = usize::try_from(before.len).expect("at most `limit`");
        // one byte more than expected, so that growth is seen and the buffer never moves
        let mut bytes = Vec::with_capacity(capacity + 1);
        let io = |source| Error::Io { action: "reading", path: path.to_owned(), source };
        std::io::Seek::rewind(&mut opened.file).map_err(io)?;
        (&mut opened.file).take(before.len + 1).read_to_end(&mut bytes).map_err(io)?;
        opened.stat = fstat(&opened.file).map_err(Error::io("examining", path))?;
        if Stamp::of(&opened.stat) == before && bytes.len() == capacity {
            return Ok(Some(bytes));
        }
        zeroize::Zeroize::zeroize(&mut bytes);
    }
    Err(Error::Changed { path: path.to_owned(), attempts: ATTEMPTS_MAX })
}

/// Returns a long file as a stream of exactly the length that it had when it was opened. Where the file changed in any
/// way meanwhile, that many of its bytes are read a second time: if they are what came at first, the file held them all
/// at the moment between, and one that is longer by then sets `grew`. A file that shrank, or whose bytes are others,
/// ends in an error.
pub(super) fn read_stream(opened: Opened, path: PathBuf, grew: Arc<AtomicBool>) -> ByteStream {
    let left = Stamp::of(&opened.stat).len;
    let state =
        Reading { opened, runs: RunReader::default(), path, left, hash: blake3::Hasher::new(), first: None, grew };
    Box::pin(stream::try_unfold(state, |mut state| async move {
        loop {
            let path = state.path.clone();
            let step = tokio::task::spawn_blocking(move || state.step()).await;
            match step.unwrap_or(Err(Error::Interrupted { path }))? {
                Step::Run(run, next) => return Ok(Some((run, *next))),
                Step::Compared(next) => state = *next,
                Step::End => return Ok(None),
            }
        }
    }))
}

struct Reading {
    opened: Opened,
    runs: RunReader,
    path: PathBuf,
    /// Bytes to read still, of this time.
    left: u64,
    /// Of the bytes read this time.
    hash: blake3::Hasher,
    /// Of the bytes that were handed out, while they are read a second time.
    first: Option<blake3::Hash>,
    grew: Arc<AtomicBool>,
}

/// What one step of reading came to. Each is short, so that a run that is broken off need not wait for it.
enum Step {
    /// The next bytes.
    Run(Run, Box<Reading>),
    /// Bytes that were handed out before.
    Compared(Box<Reading>),
    /// All was handed out, and was in the file at one moment.
    End,
}

impl Reading {
    fn step(mut self) -> Result<Step, Error> {
        if self.left == 0 {
            return self.settle();
        }
        let failed = |source| Error::Io { action: "reading", path: self.path.clone(), source };
        let bytes = self.runs.read(&mut (&mut self.opened.file).take(self.left)).map_err(failed)?;
        if bytes.is_empty() {
            return Err(self.changed());
        }
        self.left -= u64::try_from(bytes.len()).expect("usize fits u64");
        self.hash.update(&bytes);
        Ok(match self.first {
            None => Step::Run(Run::from(bytes), Box::new(self)),
            Some(_) => Step::Compared(Box::new(self)),
        })
    }

    fn settle(mut self) -> Result<Step, Error> {
        let before = Stamp::of(&self.opened.stat);
        let hash = std::mem::take(&mut self.hash).finalize();
        if let Some(first) = self.first {
            return if hash == first { Ok(Step::End) } else { Err(self.changed()) };
        }
        let after = Stamp::of(&fstat(&self.opened.file).map_err(Error::io("examining", &self.path))?);
        if after == before {
            return Ok(Step::End);
        }
        if after.len < before.len {
            return Err(self.changed());
        }
        // appended to, or changed in place: its times do not tell which, its bytes do
        self.grew.store(after.len > before.len, Ordering::Relaxed);
        let io = |source| Error::Io { action: "reading", path: self.path.clone(), source };
        std::io::Seek::rewind(&mut self.opened.file).map_err(io)?;
        (self.first, self.left) = (Some(hash), before.len);
        Ok(Step::Compared(Box::new(self)))
    }

    fn changed(&self) -> Error {
        Error::Changed { path: self.path.clone(), attempts: if self.first.is_some() { 2 } else { 1 } }
    }
}
