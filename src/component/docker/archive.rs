//! Files in a container (running or stopped) through the daemon's archive endpoints.
//!
//! While an archive is read or written the daemon holds the container's lock: any other call on that
//! container waits until it is done. So nothing here, and no caller, may wait for another call on the
//! container while a [`FileBody`] is open.

use std::fmt;

use std::time::Duration;

use bollard::query_parameters::{ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::tar_reader::{TarEntry, TarError, TarReader};
use super::{BoxError, Docker, Error, check_name};

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
    container: String,
    stat: FileStat,
    reader: TarReader<BoxStream<'static, Result<Bytes, BoxError>>>,
    ended: bool,
}

const LINKS_MOST: usize = 8;
const READ_TRIES: usize = 3;
const ROWS_MOST: usize = 10_000;
const PATH_MOST: usize = 4096;
/// How long a body may stand still.
const BODY_IDLE: Duration = Duration::from_secs(120);

impl Docker {
    /// Returns what an absolute path is, following at most 8 links. Reads one archive header, no content.
    pub async fn stat(&self, container: &str, path: &str) -> Result<FileStat, Error> {
        let seen = self.follow(container, path).await?;
        // Owner and group are in an archive's header only.
        Ok(self.open(container, &seen.path).await?.stat)
    }

    /// Returns a small regular file whole, if it has at most `limit` bytes. A file that changed while it
    /// was read is read again, three times at most.
    pub async fn read_file(&self, container: &str, path: &str, limit: u64) -> Result<Bytes, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.read_file_once(container, path, limit).await {
                Err(Error::Archive { .. }) if tries < READ_TRIES => {}
                done => return done,
            }
        }
    }

    async fn read_file_once(&self, container: &str, path: &str, limit: u64) -> Result<Bytes, Error> {
        let before = self.follow(container, path).await?;
        before.expect(container, FileKind::File)?;
        let content = {
            let mut body = self.open(container, &before.path).await?;
            body.expect(FileKind::File)?;
            let len = body.stat.len;
            if len > limit {
                return Err(Error::TooLong { container: container.to_owned(), path: before.path, len, limit });
            }
            let mut content = BytesMut::new();
            while let Some(bytes) = body.next().await? {
                content.extend_from_slice(&bytes);
            }
            // The daemon's lock on the container ends here, before the next question.
            content.freeze()
        };
        let after = self.follow(container, path).await?;
        if after == before { Ok(content) } else { Err(changed(container, &before.path)) }
    }

    /// Opens a regular file of any length. See the module's head: nothing else on this container until it is read.
    pub async fn open_file(&self, container: &str, path: &str) -> Result<FileBody, Error> {
        let seen = self.follow(container, path).await?;
        seen.expect(container, FileKind::File)?;
        let body = self.open(container, &seen.path).await?;
        body.expect(FileKind::File)?;
        Ok(body)
    }

    /// Returns everything below a directory (recursively, at most 10,000 rows), sorted by name. The daemon
    /// sends the content too: more than `limit` bytes of it is an error.
    pub async fn list_dir(&self, container: &str, path: &str, limit: u64) -> Result<Vec<Listed>, Error> {
        let seen = self.follow(container, path).await?;
        seen.expect(container, FileKind::Directory)?;
        let mut body = self.open(container, &seen.path).await?;
        body.expect(FileKind::Directory)?;
        let prefix = format!("{}/", base_name(&seen.path));
        let (mut rows, mut len) = (Vec::new(), 0u64);
        while let Some(entry) = body.reader.next_entry().await.map_err(|error| body.damaged(&error))? {
            len = len.saturating_add(entry.len);
            if len > limit || rows.len() >= ROWS_MOST {
                return Err(Error::TooLong { container: container.to_owned(), path: seen.path, len, limit });
            }
            let name = entry.name.strip_prefix(&prefix).filter(|name| is_below(name)).map(str::to_owned);
            let Some(name) = name else { return Err(body.wrong(format!("it holds {:?}", entry.name))) };
            rows.push(Listed { stat: stat_of(&format!("{}/{name}", seen.path), entry), name });
        }
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    /// Follows links to what a path is in the end.
    async fn follow(&self, container: &str, path: &str) -> Result<Seen, Error> {
        check_name(container)?;
        let bad = || Error::BadPath { name: path.to_owned() };
        let mut now = clean(path).ok_or_else(bad)?;
        for _ in 0..=LINKS_MOST {
            let options = ContainerArchiveInfoOptionsBuilder::default().path(&now).build();
            let info = self.client.get_container_archive_info(container, Some(options)).await;
            let info = info.map_err(|error| self.path_failed(container, &now, error))?;
            let kind = kind_of(info.file_mode);
            if kind != FileKind::Link {
                let len = u64::try_from(info.size).unwrap_or_default();
                return Ok(Seen { path: now, kind, len, mtime: info.modification_time });
            }
            let target = if info.link_target.starts_with('/') {
                info.link_target
            } else {
                let parent = now.rsplit_once('/').map_or("", |(parent, _)| parent);
                format!("{parent}/{}", info.link_target)
            };
            now = clean(&target).ok_or_else(bad)?;
        }
        Err(Error::TooManyLinks { container: container.to_owned(), path: path.to_owned() })
    }

    /// Asks for an archive of a path that is no link, and reads its first header.
    async fn open(&self, container: &str, path: &str) -> Result<FileBody, Error> {
        let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
        let mut download = Box::pin(self.client.download_from_container(container, Some(options)));
        // The first piece comes with the answer, or instead of it the refusal.
        let first = match timeout(BODY_IDLE, download.next()).await {
            Ok(Some(Err(error))) => return Err(self.path_failed(container, path, error)),
            Ok(Some(Ok(first))) => first,
            Ok(None) | Err(_) => Bytes::new(),
        };
        let rest = download.map_err(|error| -> BoxError { Box::new(error) });
        let body = futures::stream::iter([Ok(first)]).chain(rest).boxed();
        let mut reader = TarReader::new(body, BODY_IDLE);
        let wrong = |what: String| archive_error(container, path, what);
        let entry = match reader.next_entry().await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(wrong("it is empty".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        };
        if entry.name != base_name(path) {
            return Err(wrong(format!("it holds {:?}", entry.name)));
        }
        Ok(FileBody { container: container.to_owned(), stat: stat_of(path, entry), reader, ended: false })
    }

    pub(super) fn path_failed(&self, container: &str, path: &str, error: bollard::errors::Error) -> Error {
        let bollard::errors::Error::DockerResponseServerError { status_code: 404, message } = &error else {
            return self.failed(&format!("about {path} in {container}"), error);
        };
        // A HEAD has no text: then it is the path, for containers were found by inspecting them.
        if message.starts_with("No such container") {
            Error::NoSuchContainer { container: container.to_owned() }
        } else {
            Error::NoSuchFile { container: container.to_owned(), path: path.to_owned() }
        }
    }
}

/// What the daemon says of a path without reading it.
#[derive(PartialEq, Eq)]
struct Seen {
    path: String,
    kind: FileKind,
    len: u64,
    mtime: Option<String>,
}

impl Seen {
    fn expect(&self, container: &str, expected: FileKind) -> Result<(), Error> {
        expect_kind(container, &self.path, self.kind, expected)
    }
}

impl FileBody {
    /// The file as the archive describes it.
    pub fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// Returns the next bytes (never empty, at most 1 MiB) and `None` only after exactly `stat().len` bytes
    /// and a well-formed end. A file that shrank while it was read is an `Err`. One that grew ends at `stat().len`.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        if let Some(bytes) = self.reader.next_data().await.map_err(|error| self.damaged(&error))? {
            return Ok(Some(bytes));
        }
        match self.reader.next_entry().await {
            Ok(None) => self.ended = true,
            Ok(Some(entry)) => return Err(self.wrong(format!("it holds {:?} too", entry.name))),
            Err(error) => return Err(self.damaged(&error)),
        }
        Ok(None)
    }

    fn expect(&self, expected: FileKind) -> Result<(), Error> {
        expect_kind(&self.container, &self.stat.path, self.stat.kind, expected)
    }

    fn damaged(&self, error: &TarError) -> Error {
        self.wrong(error.to_string())
    }

    fn wrong(&self, what: String) -> Error {
        archive_error(&self.container, &self.stat.path, what)
    }
}

fn expect_kind(container: &str, path: &str, found: FileKind, expected: FileKind) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::WrongKind { container: container.to_owned(), path: path.to_owned(), found, expected })
}

fn archive_error(container: &str, path: &str, what: String) -> Error {
    Error::Archive { container: container.to_owned(), path: path.to_owned(), what }
}

fn changed(container: &str, path: &str) -> Error {
    archive_error(container, path, "the file changed while it was read".to_owned())
}

fn stat_of(path: &str, entry: TarEntry) -> FileStat {
    FileStat {
        path: path.to_owned(),
        kind: entry.kind,
        len: entry.len,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_secs: entry.mtime_secs,
    }
}

/// Go's file mode bits, as the daemon reports them.
fn kind_of(mode: u32) -> FileKind {
    const DIRECTORY: u32 = 1 << 31;
    const LINK: u32 = 1 << 27;
    const SPECIAL: u32 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;
    if mode & DIRECTORY != 0 {
        FileKind::Directory
    } else if mode & LINK != 0 {
        FileKind::Link
    } else if mode & SPECIAL != 0 {
        FileKind::Special
    } else {
        FileKind::File
    }
}

/// Returns an absolute path without `.`, `..`, double or trailing slashes (a file with one is an internal
/// error to the daemon); `/` stays.
fn clean(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.len() > PATH_MOST || path.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

fn base_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether a name can only lie below the directory that it is relative to.
pub(super) fn is_below(name: &str) -> bool {
    !name.contains('\0') && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
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

#[cfg(test)]
mod tests;
