//! The directory of piece files.
//!
//! A run that is under way holds a shared lock on the file `lock`. Whoever gets it alone knows that files which
//! are nobody's yet were left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{PieceFile, PieceWriter};
use super::matcher::Matcher;
use super::window::Window;
use crate::crypto::hash::content_hash;
use crate::crypto::piece::{self, PieceFileId, PieceFileName, PieceSealer};
use crate::format::id::RepositoryId;
use crate::format::pack::PackKind;
use crate::repo::Error;
use crate::repo::keyring::Keyring;

/// What a file is called while it is nobody's.
const NEW: &str = "new";
/// What it is called once its snapshot is committed.
const KEPT: &str = "pieces";
const LOCK: &str = "lock";

/// What the piece cache takes on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PieceUse {
    /// Streams that are remembered.
    pub streams: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Where piece files lie; nothing where there is no place for them.
pub(in crate::repo) struct PieceStore {
    dir: Option<PathBuf>,
    keyring: Arc<Keyring>,
    repository: RepositoryId,
    bytes_max: u64,
    /// Held until the run is over.
    lock: Option<File>,
    warnings: Mutex<Vec<String>>,
}

/// One stream of tonight's.
pub(in crate::repo) struct StreamPieces {
    pub(in crate::repo) matcher: Matcher,
    /// `None` where tonight's pieces cannot be kept.
    pub(in crate::repo) growing: Option<Growing>,
}

/// A file that is being written. Dropped, it is removed.
pub(in crate::repo) struct Growing {
    writer: PieceWriter,
    bytes_max: u64,
    grown: Grown,
}

/// A file that is whole and nobody's yet. Dropped, it is removed.
pub(in crate::repo) struct Grown {
    stream: String,
    path: NewFile,
    kept: PathBuf,
}

struct NewFile(PathBuf);

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

impl Growing {
    /// Writes something down. Fails where the file would become larger than all of the cache may be.
    pub(in crate::repo) fn write(
        &mut self,
        write: impl FnOnce(&mut PieceWriter) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        write(&mut self.writer)?;
        check_len(self.writer.len(), self.bytes_max)
    }

    /// Ends the file. Fails as [`Growing::write`] does.
    pub(in crate::repo) fn end(self) -> std::io::Result<Grown> {
        check_len(self.writer.finish()?, self.bytes_max)?;
        Ok(self.grown)
    }
}

fn check_len(len: u64, max: u64) -> std::io::Result<()> {
    if len <= max { Ok(()) } else { Err(std::io::Error::other(format!("it is larger than {max} bytes"))) }
}

impl PieceStore {
    /// Names the directory of `repository` at `location` below `cache`, which exists. Files hold `bytes_max`
    /// bytes together at most; with 0 nothing is remembered.
    pub(in crate::repo) fn new(cache: Option<&Path>, location: &str, keyring: Arc<Keyring>, bytes_max: u64) -> Self {
        let repository = keyring.repository;
        let store = content_hash(location.as_bytes()).short();
        let dir = cache.map(|cache| cache.join(format!("{}-{store}.pieces", repository.short())));
        Self { dir, keyring, repository, bytes_max, lock: None, warnings: Mutex::default() }
    }

    /// Opens what is known of a stream, `None` where there is no place for it.
    pub(in crate::repo) fn begin(&mut self, kind: PackKind, stream: &str) -> Result<Option<StreamPieces>, Error> {
        let Some(dir) = self.dir.clone().filter(|_| self.bytes_max > 0) else { return Ok(None) };
        if self.lock.is_none() {
            match lock(&dir) {
                Ok(lock) => self.lock = Some(lock),
                Err(error) => {
                    self.warn(format!("there is no piece cache: {}: {error}", dir.display()));
                    // What is remembered stays for a run that gets there.
                    self.dir = None;
                    return Ok(None);
                }
            }
        }
        let keys = self.keyring.data()?;
        let name = piece::file_name(keys, kind, stream);
        let kept = dir.join(format!("{name}.{KEPT}"));
        let opened = match File::open(&kept) {
            Ok(file) => PieceFile::open(file, keys.piece_sealer(), self.repository, name).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let window = opened.map(|file| file.map(Window::new)).unwrap_or_else(|error| {
            self.warn(format!("the piece cache of {stream} is not used: {error}"));
            None
        });
        let growing = match self.new_file(&dir, name, stream, kept) {
            Ok(growing) => Some(growing),
            Err(error) => {
                self.warn(format!("the piece cache of {stream} is not kept: {error}"));
                None
            }
        };
        Ok(Some(StreamPieces { matcher: Matcher::new(window, keys.fingerprints(), &keys.gear()), growing }))
    }

    fn new_file(&self, dir: &Path, name: PieceFileName, stream: &str, kept: PathBuf) -> std::io::Result<Growing> {
        let salt = PieceSealer::salt(self.keyring.entropy.as_ref()).map_err(std::io::Error::other)?;
        let path = NewFile(dir.join(format!("{}.{NEW}", content_hash(&salt))));
        let file = File::options().write(true).create_new(true).open(&path.0)?;
        let id = PieceFileId { repository: self.repository, stream: name, salt };
        let sealer = self.keyring.data().map_err(std::io::Error::other)?.piece_sealer();
        Ok(Growing {
            writer: PieceWriter::new(file, sealer, id)?,
            bytes_max: self.bytes_max,
            grown: Grown { stream: stream.to_owned(), path, kept },
        })
    }

    pub(in crate::repo) fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Returns what is on the disk.
    pub(in crate::repo) fn in_use(&self) -> PieceUse {
        let kept = self.dir.as_deref().map(|dir| files(dir, KEPT)).unwrap_or_default();
        PieceUse { streams: kept.len() as u64, bytes: kept.iter().map(|file| file.bytes).sum() }
    }

    /// Takes what the streams of a run have written. The files stay nobody's until [`KeptPieces::keep`].
    pub(in crate::repo) fn finished(self, grown: Vec<Grown>) -> KeptPieces {
        let warnings = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        KeptPieces { dir: self.dir, bytes_max: self.bytes_max, grown, warnings, _lock: self.lock }
    }
}

/// Takes a shared lock on a directory of piece files, which is made where it is missing. If nobody else has one,
/// what runs left behind that are over is removed first.
fn lock(dir: &Path) -> std::io::Result<File> {
    fs::create_dir_all(dir)?;
    let lock = File::options().create(true).append(true).open(dir.join(LOCK))?;
    if lock.try_lock().is_ok() {
        for file in files(dir, NEW) {
            // What cannot be removed is tried again by the next run.
            let _ = fs::remove_file(file.path);
        }
        lock.unlock()?;
    }
    lock.lock_shared()?;
    Ok(lock)
}

/// The piece files of a run, to be kept when its snapshot is committed. Dropped, they are removed.
#[must_use]
pub struct KeptPieces {
    dir: Option<PathBuf>,
    bytes_max: u64,
    grown: Vec<Grown>,
    warnings: Vec<String>,
    _lock: Option<File>,
}

impl KeptPieces {
    /// Puts the files of the streams that the committed snapshot has in the place of yesterday's, and removes the
    /// others. Returns what went wrong, one line each: nothing of it matters for the snapshot.
    #[must_use]
    pub fn keep(mut self, is_committed: impl Fn(&str) -> bool) -> Vec<String> {
        for Grown { stream, path, kept } in self.grown {
            if !is_committed(&stream) {
                continue;
            }
            if let Err(error) = fs::rename(&path.0, &kept) {
                self.warnings.push(format!("the piece cache of {stream} is not kept: {error}"));
            }
        }
        let removed = self.dir.as_deref().map_or(0, |dir| make_room(dir, self.bytes_max));
        if removed > 0 {
            let max = self.bytes_max >> 20;
            self.warnings.push(format!(
                "the piece cache has more than {max} MiB: {removed} streams are forgotten, and compared by whole chunks"
            ));
        }
        self.warnings
    }
}

struct Found {
    written: std::time::SystemTime,
    path: PathBuf,
    bytes: u64,
}

/// Returns the files with an extension in a directory.
fn files(dir: &Path, extension: &str) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let found = |entry: fs::DirEntry| {
        let (path, about) = (entry.path(), entry.metadata().ok()?);
        let is_it = path.extension().is_some_and(|found| found == extension);
        is_it.then_some(Found { written: about.modified().ok()?, path, bytes: about.len() })
    };
    entries.flatten().filter_map(found).collect()
}

/// Removes the files written longest ago until the rest fits. Returns how many.
fn make_room(dir: &Path, bytes_max: u64) -> usize {
    let mut kept = files(dir, KEPT);
    kept.sort_by_key(|file| file.written);
    let mut sum: u64 = kept.iter().map(|file| file.bytes).sum();
    let mut removed = 0;
    for file in kept {
        if sum <= bytes_max {
            break;
        }
        if fs::remove_file(&file.path).is_ok() {
            sum -= file.bytes;
            removed += 1;
        }
    }
    removed
}
