//! The directory of piece files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{PieceFile, PieceWriter};
use super::matcher::Matcher;
use super::window::Window;
use crate::crypto::hash::content_hash;
use crate::crypto::piece::{self, PieceFileId, PieceSealer};
use crate::format::id::{ContentHash, RepositoryId, SnapshotId};
use crate::repo::Error;
use crate::repo::keyring::Keyring;

/// What a file is called while it is written.
const NEW: &str = "new";
/// What it is called once its snapshot is committed.
const KEPT: &str = "pieces";

/// What the piece cache takes on this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PieceUse {
    /// Streams.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Where piece files lie; nothing where there is no place for them.
pub(in crate::repo) struct PieceStore {
    dir: Option<PathBuf>,
    keyring: Arc<Keyring>,
    repository: RepositoryId,
    bytes_max: u64,
    warnings: Mutex<Vec<String>>,
}

/// One stream of tonight's.
pub(in crate::repo) struct StreamPieces {
    pub(in crate::repo) matcher: Matcher,
    /// `None` where tonight's pieces cannot be kept.
    pub(in crate::repo) growing: Option<Growing>,
}

/// A file that is not yet anybody's. Dropped, it is removed.
pub(in crate::repo) struct Growing {
    pub(in crate::repo) writer: PieceWriter,
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

impl PieceStore {
    /// Names the directory of `repository` at `location` below `cache`, which exists. Files hold `bytes_max`
    /// bytes together at most.
    pub(in crate::repo) fn new(cache: Option<&Path>, location: &str, keyring: Arc<Keyring>, bytes_max: u64) -> Self {
        let repository = keyring.repository;
        let store = content_hash(location.as_bytes()).short();
        let dir = cache.map(|cache| cache.join(format!("{}-{store}.pieces", repository.short())));
        Self { dir, keyring, repository, bytes_max, warnings: Mutex::default() }
    }

    /// Opens what is known of a stream, `None` where there is no place for it.
    pub(in crate::repo) fn begin(&self, stream: &str) -> Result<Option<StreamPieces>, Error> {
        let Some(dir) = self.dir.as_deref().filter(|_| self.bytes_max > 0) else { return Ok(None) };
        let keys = self.keyring.data()?;
        let name = piece::stream_name(keys, stream);
        let kept = dir.join(format!("{}.{KEPT}", ContentHash::from_bytes(name)));
        let opened = match File::open(&kept) {
            Ok(file) => PieceFile::open(file, keys.piece_sealer(), self.repository, name).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let window = opened.map(|file| file.map(Window::new)).unwrap_or_else(|error| {
            self.warn(format!("the piece cache of {stream} is not used: {error}"));
            None
        });
        let growing = match self.new_file(dir, name, keys.piece_sealer(), kept) {
            Ok(growing) => Some(growing),
            Err(error) => {
                self.warn(format!("the piece cache of {stream} is not kept: {error}"));
                None
            }
        };
        Ok(Some(StreamPieces { matcher: Matcher::new(window, keys.fingerprints(), &keys.gear()), growing }))
    }

    fn new_file(&self, dir: &Path, stream: [u8; 32], sealer: PieceSealer, kept: PathBuf) -> std::io::Result<Growing> {
        fs::create_dir_all(dir)?;
        let salt = PieceSealer::salt(self.keyring.entropy.as_ref()).map_err(std::io::Error::other)?;
        let path = NewFile(dir.join(format!("{}.{NEW}", content_hash(&salt))));
        let file = File::options().write(true).create_new(true).open(&path.0)?;
        // Held as long as the file is open: what is not locked is left over from a run that ended.
        file.lock()?;
        let id = PieceFileId { repository: self.repository, stream, salt };
        Ok(Growing { writer: PieceWriter::new(file, sealer, id)?, path, kept })
    }

    pub(in crate::repo) fn warn(&self, warning: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
    }

    /// Returns what is on the disk.
    pub(in crate::repo) fn in_use(&self) -> PieceUse {
        let files = self.dir.as_deref().map(files).unwrap_or_default();
        files
            .iter()
            .fold(PieceUse::default(), |sum, (_, bytes, _)| PieceUse { files: sum.files + 1, bytes: sum.bytes + bytes })
    }

    /// Takes what streams of a run have written. The files stay nobody's until [`KeptPieces::keep`].
    pub(in crate::repo) fn finished(&self, growing: Vec<Growing>) -> KeptPieces {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        KeptPieces {
            dir: self.dir.clone(),
            bytes_max: self.bytes_max,
            growing,
            warnings: std::mem::take(&mut *warnings),
        }
    }
}

/// The piece files of a run, to be kept when its snapshot is committed. Dropped, they are removed.
#[must_use]
pub struct KeptPieces {
    dir: Option<PathBuf>,
    bytes_max: u64,
    growing: Vec<Growing>,
    warnings: Vec<String>,
}

impl KeptPieces {
    /// Puts the files in the place of yesterday's. Returns what went wrong, one line each: nothing of it
    /// matters for the snapshot.
    #[must_use]
    pub fn keep(mut self, snapshot: SnapshotId) -> Vec<String> {
        for growing in self.growing {
            let Growing { writer, path, kept } = growing;
            if writer.len() > self.bytes_max {
                self.warnings.push("the piece cache of a stream is larger than all of it may be".to_owned());
                continue;
            }
            let renamed = writer.finish(snapshot).and_then(|()| fs::rename(&path.0, &kept));
            if let Err(error) = renamed {
                self.warnings.push(format!("the piece cache is not kept: {error}"));
            }
        }
        if let Some(dir) = &self.dir {
            make_room(dir, self.bytes_max);
        }
        self.warnings
    }
}

/// Returns the files of a directory: path, bytes, when they were written.
fn files(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let file = |entry: fs::DirEntry| {
        let about = entry.metadata().ok()?;
        Some((entry.path(), about.len(), about.modified().ok()?))
    };
    entries.flatten().filter_map(file).collect()
}

/// Removes what runs left behind that are over, and the files written longest ago until the rest fits.
fn make_room(dir: &Path, bytes_max: u64) {
    let mut kept = Vec::new();
    for (path, bytes, written) in files(dir) {
        if path.extension().is_some_and(|extension| extension == NEW) {
            // Another run may be writing it right now.
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                let _ = fs::remove_file(&path);
            }
        } else {
            kept.push((written, path, bytes));
        }
    }
    kept.sort();
    let mut sum: u64 = kept.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, bytes) in kept {
        if sum <= bytes_max {
            break;
        }
        if fs::remove_file(&path).is_ok() {
            sum -= bytes;
        }
    }
}
