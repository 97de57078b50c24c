//! Files that have no name yet.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// An unpublished file: dropped, it is removed.
#[must_use]
pub(super) struct TempFile {
    pub(super) path: PathBuf,
    is_there: bool,
}

impl TempFile {
    /// Takes a file that was made.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, is_there: true }
    }

    /// Moves the file to its name. Returns false where the name was taken.
    pub(super) fn publish(mut self, target: &Path) -> io::Result<bool> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.is_there = false;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            // File systems (NFS) and kernels that cannot: a link never replaces anything either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.publish_by_link(target),
            Err(error) => Err(error.into()),
        }
    }

    /// The same through a second link to the file; dropping removes the first.
    pub(super) fn publish_by_link(self, target: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.is_there {
            // Where this fails, a sweep removes it later.
            drop(fs::remove_file(&self.path));
        }
    }
}
