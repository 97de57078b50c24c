//! Files in a container (running or stopped) through the daemon's archive endpoints.
//!
//! While an archive is read or written the daemon holds the container's lock: any other call on that
//! container waits until it is done. So nothing here, and no caller, may wait for another call on the
//! container while a [`FileBody`] is open.

use std::fmt;

use bytes::Bytes;
use futures::stream::BoxStream;

use super::{BoxError, Docker, Error};

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Special,
}

/// What is known of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Its path in the container after links were followed.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes (0 for a directory).
    pub len: u64,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time, seconds since 1970.
    pub mtime_secs: i64,
}

/// One row of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Path below the directory, no slash at either end.
    pub name: String,
    /// What it is, with owner and mode.
    pub stat: FileStat,
}

/// A file being read. Dropped early, the connection is closed and the container's lock released.
#[must_use]
pub struct FileBody {
    _private: (),
}

/// What to put into a container.
#[derive(Default)]
pub struct Upload {
    /// Directories, made before the files. One that exists gets this owner and mode.
    pub directories: Vec<NewDirectory>,
    /// Files; one that exists is replaced, a directory in its place is an error.
    pub files: Vec<NewFile>,
    /// Modification time of all of them, seconds since 1970.
    pub mtime_secs: u64,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDirectory {
    /// Path below the upload's directory, at most 100 bytes.
    pub name: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Permission bits.
    pub mode: u32,
}

/// A file to write.
pub struct NewFile {
    /// Path below the upload's directory, at most 100 bytes.
    pub name: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it will hold.
    pub content: FileContent,
}

/// The content of a file to write.
pub enum FileContent {
    /// In memory.
    Bytes(Bytes),
    /// On its way. Must add up to `len`; an `Err` aborts the upload.
    Stream {
        /// Length in bytes.
        len: u64,
        /// The bytes.
        body: BoxStream<'static, Result<Bytes, BoxError>>,
    },
}

impl Docker {
    /// Returns what an absolute path is, following at most 8 links. Reads one archive header, no content.
    pub async fn stat(&self, container: &str, path: &str) -> Result<FileStat, Error> {
        let _ = (container, path);
        todo!()
    }

    /// Returns a small regular file whole, if it has at most `limit` bytes. A file that changed while it
    /// was read is read again, three times at most.
    pub async fn read_file(&self, container: &str, path: &str, limit: u64) -> Result<Bytes, Error> {
        let _ = (container, path, limit);
        todo!()
    }

    /// Opens a regular file of any length. See the module's head: nothing else on this container until it is read.
    pub async fn open_file(&self, container: &str, path: &str) -> Result<FileBody, Error> {
        let _ = (container, path);
        todo!()
    }

    /// Returns everything below a directory (recursively, at most 10,000 rows), sorted by name. The daemon
    /// sends the content too: more than `limit` bytes of it is an error.
    pub async fn list_dir(&self, container: &str, path: &str, limit: u64) -> Result<Vec<Listed>, Error> {
        let _ = (container, path, limit);
        todo!()
    }

    /// Puts directories and files below the existing directory `dir`, owner and mode as given, and reads
    /// every file back: returns only when each holds what was sent. On an error some may have been written.
    pub async fn write_files(&self, container: &str, dir: &str, upload: Upload) -> Result<(), Error> {
        let _ = (container, dir, upload);
        todo!()
    }
}

impl FileBody {
    /// The file as the archive describes it.
    pub fn stat(&self) -> &FileStat {
        todo!()
    }

    /// Returns the next bytes (never empty, at most 1 MiB) and `None` only after exactly `stat().len` bytes
    /// and a well-formed end. A file that shrank while it was read is an `Err`. One that grew ends at `stat().len`.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        todo!()
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Special => "a device, pipe or socket",
        })
    }
}
