//! A walk over a tree in byte order of the whole relative path, in bounded memory.
//!
//! A directory's row sorts as `name`, what it holds as `name/…`: so `a`, `a-`, `a/b`. Each directory is
//! listed and sorted on its own, its names twice where it is a directory. No link is followed below the root.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, stat, statat};
use rustix::io::Errno;

use super::Error;
use super::attributes::{Kind, type_name};

/// Names in one directory at most.
const DIRECTORY_ENTRIES_MAX: usize = 4_000_000;
/// Nested directories at most: each holds a file descriptor while the walk is below it.
const DEPTH_MAX: usize = 256;
/// Warnings kept at most.
pub(super) const WARNINGS_MAX: usize = 100;

/// A file, directory or symbolic link that the walk came to.
pub(super) struct Found {
    /// The relative path.
    pub(super) key: Vec<u8>,
    /// What it is.
    pub(super) kind: Kind,
    /// What the system says of it (of a link itself).
    pub(super) stat: Stat,
    /// The directory that it is in.
    pub(super) parent: Arc<OwnedFd>,
    /// Its name in there.
    pub(super) name: CString,
}

/// The walk. Blocking.
pub(super) struct Walk {
    root: PathBuf,
    excluded: BTreeSet<(u64, u64)>,
    frames: Vec<Frame>,
    /// What was passed over, and why; see [`WARNINGS_MAX`].
    pub(super) warnings: Warnings,
}

/// Warnings, the first of them in full.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    lines: Vec<String>,
    more: u64,
}

struct Frame {
    directory: Arc<OwnedFd>,
    /// Empty, or the relative path with a `/` at its end.
    prefix: Vec<u8>,
    items: std::vec::IntoIter<Item>,
}

/// Derived order: by `sort_key`, in which what a directory holds carries the `/`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    sort_key: Vec<u8>,
    descend: bool,
}

impl Warnings {
    pub(super) fn add(&mut self, line: String) {
        if self.lines.len() < WARNINGS_MAX {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        let mut lines = self.lines;
        if self.more > 0 {
            lines.push(format!("and {} more warnings", self.more));
        }
        lines
    }
}

/// Opens the root of a tree; a link that leads to a directory may be followed here, and only here.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, Error> {
    openat(CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(
        |errno| match errno {
            Errno::NOENT => Error::Missing { path: root.to_owned() },
            Errno::NOTDIR => Error::InTheWay { path: root.to_owned(), found: "not a directory", needed: "a directory" },
            other => Error::io("opening", root)(other),
        },
    )
}

impl Walk {
    /// Starts a walk below `root`. What `excluded` leads to (a repository, a backups directory) and all
    /// that it holds is passed over, by whatever name the walk comes to it; missing ones are no error.
    pub(super) fn open(root: &Path, excluded: &[PathBuf]) -> Result<Self, Error> {
        let mut places = BTreeSet::new();
        for path in excluded {
            match stat(path) {
                Ok(found) => {
                    places.insert((found.st_dev, found.st_ino));
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::io("examining", path)(errno)),
            }
        }
        let mut walk =
            Self { root: root.to_owned(), excluded: places, frames: Vec::new(), warnings: Warnings::default() };
        walk.enter(open_root(root)?, Vec::new())?;
        Ok(walk)
    }

    /// Returns what the system says of the root. For the start of the walk.
    pub(super) fn root_stat(&self) -> Result<Stat, Error> {
        let root = self.frames.first().map(|frame| &frame.directory);
        match root {
            Some(root) => fstat(root).map_err(Error::io("examining", &self.root)),
            // excluded itself: nothing is walked
            None => stat(&self.root).map_err(Error::io("examining", &self.root)),
        }
    }

    /// Returns at most `count` more, fewer only at the end.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<Found>, Error> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.step()? {
                None => break,
                Some(found) => taken.extend(found),
            }
        }
        Ok(taken)
    }

    /// Returns the path of a key, for messages.
    pub(super) fn path(&self, key: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(key))
    }

    /// Takes one step; `None` at the end of the walk, `Some(None)` where there was nothing to return.
    fn step(&mut self) -> Result<Option<Option<Found>>, Error> {
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        let Some(item) = frame.items.next() else {
            self.frames.pop();
            return Ok(Some(None));
        };
        let key = [frame.prefix.as_slice(), item.sort_key.as_slice()].concat();
        let parent = Arc::clone(&frame.directory);
        if item.descend {
            self.descend(&parent, &item.sort_key, key)?;
            return Ok(Some(None));
        }
        self.look(parent, item.sort_key, key).map(Some)
    }

    fn descend(&mut self, parent: &OwnedFd, name: &[u8], key: Vec<u8>) -> Result<(), Error> {
        let bare = name.strip_suffix(b"/").unwrap_or(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(parent, OsStr::from_bytes(bare), flags, Mode::empty()) {
            Ok(directory) => self.enter(directory, key),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.warnings.add(format!("{:?} vanished while the tree was read", self.path(&key)));
                Ok(())
            }
            Err(errno) => Err(Error::io("opening", self.path(&key))(errno)),
        }
    }

    fn enter(&mut self, directory: OwnedFd, prefix: Vec<u8>) -> Result<(), Error> {
        let path = self.path(&prefix);
        if self.frames.len() >= DEPTH_MAX {
            return Err(Error::TooDeep { path, limit: DEPTH_MAX });
        }
        let found = fstat(&directory).map_err(Error::io("examining", &path))?;
        if self.excluded.contains(&(found.st_dev, found.st_ino)) {
            return Ok(());
        }
        let items = list(&directory, &path)?;
        self.frames.push(Frame { directory: Arc::new(directory), prefix, items: items.into_iter() });
        Ok(())
    }

    fn look(&mut self, parent: Arc<OwnedFd>, name: Vec<u8>, key: Vec<u8>) -> Result<Option<Found>, Error> {
        let path = self.path(&key);
        let name = CString::new(name).expect("the system gave it as a C string");
        let stat = match statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.warnings.add(format!("{path:?} vanished while the tree was read"));
                return Ok(None);
            }
            Err(errno) => return Err(Error::io("examining", path)(errno)),
        };
        if self.excluded.contains(&(stat.st_dev, stat.st_ino)) {
            return Ok(None);
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => match readlinkat(&parent, &name, Vec::new()) {
                Ok(target) => Kind::Symlink(target.into_bytes()),
                Err(errno) => return Err(Error::io("reading", path)(errno)),
            },
            other => {
                self.warnings.add(format!("{path:?} is {} and was not captured", type_name(other)));
                return Ok(None);
            }
        };
        Ok(Some(Found { key, kind, stat, parent, name }))
    }
}

/// Returns the names in a directory in walking order, those of directories a second time with a `/`.
fn list(directory: &OwnedFd, path: &Path) -> Result<Vec<Item>, Error> {
    let mut items = Vec::new();
    let entries = Dir::read_from(directory).map_err(Error::io("listing", path))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("listing", path))?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if items.len() >= DIRECTORY_ENTRIES_MAX {
            return Err(Error::TooManyEntries { path: path.to_owned(), limit: DIRECTORY_ENTRIES_MAX });
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // not every file system says it in the listing
            kind = statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
        }
        items.push(Item { sort_key: name.to_vec(), descend: false });
        if kind == FileType::Directory {
            items.push(Item { sort_key: [name, b"/"].concat(), descend: true });
        }
    }
    items.sort_unstable();
    Ok(items)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys(root: &Path, excluded: &[PathBuf]) -> (Vec<Vec<u8>>, Vec<String>) {
        let mut walk = Walk::open(root, excluded).unwrap();
        let mut keys = Vec::new();
        loop {
            let batch = walk.take(3).unwrap();
            if batch.is_empty() {
                break;
            }
            keys.extend(batch.into_iter().map(|found| found.key));
        }
        (keys, walk.warnings.into_lines())
    }

    #[test]
    fn rows_come_in_byte_order_of_the_whole_path() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a/b/c", "a-", "a/b!", "a.d/x", "a0/y", "z"] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::write(root.path().join(OsStr::from_bytes(b"n\nl\xff")), "").unwrap();
        let (keys, warnings) = keys(root.path(), &[]);
        assert!(keys.is_sorted_by(|left, right| left < right), "{keys:?}");
        let expected: [&[u8]; 11] =
            [b"a", b"a-", b"a.d", b"a.d/x", b"a/b", b"a/b!", b"a/b/c", b"a0", b"a0/y", b"n\nl\xff", b"z"];
        assert_eq!(keys, expected);
        assert!(warnings.is_empty());
    }

    #[test]
    fn excluded_places_are_passed_over_by_any_name_and_special_files_with_a_warning() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("backups/old")).unwrap();
        fs::write(root.path().join("backups/old/x"), "x").unwrap();
        fs::write(root.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink("backups", root.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let by_link = root.path().join("link");
        let (keys, warnings) = keys(root.path(), &[by_link, root.path().join("missing")]);
        assert_eq!(keys, [b"kept".to_vec(), b"link".to_vec()]);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("a socket"), "{warnings:?}");
    }
}
