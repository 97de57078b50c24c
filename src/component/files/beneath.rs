//! Writing below a root that may be hostile: no key leads out of it, no link in it is followed.
//!
//! Directories are opened one component at a time with `O_NOFOLLOW`, which holds on every kernel and
//! under every seccomp profile (`openat2` does not). A file appears whole or not at all: temporary file,
//! content, owner, mode, time, fsync, rename, fsync of the directory.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fstat, fsync, futimens,
    mkdirat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::attributes::{Attributes, type_name};
use super::walk::open_root;
use super::{Error, lossy};

/// Bytes of a key at most.
const KEY_LEN_MAX: usize = 4096;
/// Bytes of one name at most (what Linux file systems take).
const NAME_LEN_MAX: usize = 255;
/// Temporary names tried at most; each taken one is left over from a killed run, or an attack.
const TEMPORARY_MAX: u32 = 1000;
/// Start of every temporary name.
const TEMPORARY_PREFIX: &str = ".orkvault-partial-";

/// Returns the components of a key; refuses every key that is not a plain relative path.
pub(super) fn components(key: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let unsafe_key = |reason| Err(Error::UnsafeKey { key: lossy(key), reason });
    if key.is_empty() || key.len() > KEY_LEN_MAX {
        return unsafe_key("its length is not in 1..=4096");
    }
    if key.contains(&0) {
        return unsafe_key("it has a zero byte");
    }
    let parts: Vec<&[u8]> = key.split(|byte| *byte == b'/').collect();
    if parts.iter().any(|part| part.is_empty() || part.len() > NAME_LEN_MAX) {
        return unsafe_key("it has an empty or overlong component");
    }
    if parts.iter().any(|part| matches!(*part, b"." | b"..")) {
        return unsafe_key("it has a component of dots");
    }
    Ok(parts)
}

/// A directory below which is written.
#[derive(Debug)]
pub(in crate::component) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

/// A file being written under a temporary name; dropped unfinished, it is removed.
#[must_use]
pub(in crate::component) struct Partial {
    directory: OwnedFd,
    temporary: CString,
    file: File,
    path: PathBuf,
    published: bool,
}

/// What becomes of directories on the way that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Then there is none.
    None,
    /// They are made; to make that durable is the caller's.
    Made,
    /// They are made, and that is durable.
    MadeDurable,
}

/// Whether owners are put back: only the superuser can.
pub(super) fn may_chown() -> bool {
    rustix::process::geteuid().is_root()
}

impl Root {
    pub(in crate::component) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { directory: open_root(path)?, path: path.to_owned() })
    }

    /// Returns what the directory itself is.
    pub(in crate::component) fn stat(&self) -> Result<Stat, Error> {
        fstat(&self.directory).map_err(Error::io("examining", &self.path))
    }

    /// Gives the directory itself the attributes that it had. For when all that it holds is written.
    pub(super) fn finish(&self, attributes: &Attributes) -> Result<(), Error> {
        apply(&self.directory, attributes, &self.path)?;
        fsync(&self.directory).map_err(Error::io("syncing", &self.path))
    }

    pub(super) fn path(&self, key: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(key))
    }

    /// Opens the directory that a key's last component is in; missing ones are `None`.
    pub(super) fn parent(&self, parts: &[&[u8]]) -> Result<Option<OwnedFd>, Error> {
        self.descend(parts, Missing::None)
    }

    /// Opens the directory that a key's last component is in, making what is missing with mode 0700.
    pub(super) fn make_parent(&self, parts: &[&[u8]], missing: Missing) -> Result<OwnedFd, Error> {
        let made = self.descend(parts, missing)?;
        made.ok_or_else(|| Error::Missing { path: self.path(&parts.join(&b'/')) })
    }

    fn descend(&self, parts: &[&[u8]], missing: Missing) -> Result<Option<OwnedFd>, Error> {
        let mut directory = self.directory.try_clone().map_err(|source| Error::Io {
            action: "opening",
            path: self.path.clone(),
            source,
        })?;
        let Some((_, above)) = parts.split_last() else { return Ok(Some(directory)) };
        let mut so_far = self.path.clone();
        for part in above {
            so_far.push(OsStr::from_bytes(part));
            directory = match open_directory(&directory, part, &so_far)? {
                Some(next) => next,
                None if missing == Missing::None => return Ok(None),
                None => {
                    make_directory(&directory, part, &so_far)?;
                    if missing == Missing::MadeDurable {
                        fsync(&directory).map_err(Error::io("syncing the directory of", &so_far))?;
                    }
                    open_directory(&directory, part, &so_far)?.ok_or_else(|| Error::Missing { path: so_far.clone() })?
                }
            };
        }
        Ok(Some(directory))
    }

    /// Returns what is at a key now, not following a link; `None` where there is nothing.
    pub(in crate::component) fn examine(&self, key: &[u8]) -> Result<Option<Stat>, Error> {
        let parts = components(key)?;
        let (Some(parent), Some(name)) = (self.parent(&parts)?, parts.last()) else { return Ok(None) };
        match statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("examining", self.path(key))(errno)),
        }
    }

    /// Gives a directory the attributes that it had. For when all that it holds is written.
    pub(in crate::component) fn finish_directory(&self, key: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let directory = self.set_attributes(key, attributes)?;
        fsync(&directory).map_err(Error::io("syncing", self.path(key)))
    }

    /// Does what [`Root::finish_directory`] does; to make it durable is the caller's. Returns the directory.
    pub(super) fn set_attributes(&self, key: &[u8], attributes: &Attributes) -> Result<OwnedFd, Error> {
        let parts = components(key)?;
        let (Some(parent), Some(name)) = (self.parent(&parts)?, parts.last()) else {
            return Err(Error::Missing { path: self.path(key) });
        };
        let path = self.path(key);
        let directory = open_directory(&parent, name, &path)?.ok_or_else(|| Error::Missing { path: path.clone() })?;
        apply(&directory, attributes, &path)?;
        Ok(directory)
    }

    /// Makes a directory with mode 0700 for now; one that exists is an error. Its attributes are set when all that it holds is
    /// written: see [`Root::finish_directory`].
    pub(in crate::component) fn make_new(&self, key: &[u8]) -> Result<(), Error> {
        let parts = components(key)?;
        let parent = self.make_parent(&parts, Missing::MadeDurable)?;
        let name = parts.last().expect("a key has at least one component");
        mkdirat(&parent, OsStr::from_bytes(name), Mode::RWXU).map_err(Error::io("making", self.path(key)))?;
        fsync(&parent).map_err(Error::io("syncing the directory of", self.path(key)))
    }

    /// Removes a file.
    pub(in crate::component) fn remove_file(&self, key: &[u8]) -> Result<(), Error> {
        self.remove(key, AtFlags::empty())
    }

    /// Removes a directory that holds nothing.
    pub(in crate::component) fn remove_empty(&self, key: &[u8]) -> Result<(), Error> {
        self.remove(key, AtFlags::REMOVEDIR)
    }

    fn remove(&self, key: &[u8], flags: AtFlags) -> Result<(), Error> {
        let parts = components(key)?;
        let (Some(parent), Some(name)) = (self.parent(&parts)?, parts.last()) else { return Ok(()) };
        unlinkat(&parent, OsStr::from_bytes(name), flags).map_err(Error::io("removing", self.path(key)))
    }

    /// Begins a file, mode 0600 until it is published.
    pub(in crate::component) fn begin(&self, key: &[u8]) -> Result<Partial, Error> {
        let parts = components(key)?;
        let directory = self.make_parent(&parts, Missing::MadeDurable)?;
        let path = self.path(key);
        let (temporary, file) =
            begin_in(&directory, &mut 0).map_err(Error::io("making a temporary file for", &path))?;
        Ok(Partial { directory, temporary, file, path, published: false })
    }

    /// Keeps what is at `key` under another name beside it, too, which must be free.
    pub(super) fn keep_as(&self, key: &[u8], kept: &[u8]) -> Result<(), Error> {
        let (parts, kept_parts) = (components(key)?, components(kept)?);
        let (Some(parent), Some(name), Some(kept_name)) = (self.parent(&parts)?, parts.last(), kept_parts.last())
        else {
            return Err(Error::Missing { path: self.path(key) });
        };
        let (name, kept_name) = (OsStr::from_bytes(name), OsStr::from_bytes(kept_name));
        rustix::fs::linkat(&parent, name, &parent, kept_name, AtFlags::empty())
            .and_then(|()| fsync(&parent))
            .map_err(Error::io("keeping a copy as", self.path(kept)))
    }
}

impl Partial {
    pub(in crate::component) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let path = &self.path;
        self.file.write_all(bytes).map_err(|source| Error::Io { action: "writing", path: path.clone(), source })
    }

    /// Puts the file in its place, durable when this returns.
    pub(in crate::component) fn publish(mut self, attributes: &Attributes) -> Result<(), Error> {
        apply(&self.file, attributes, &self.path)?;
        fsync(&self.file).map_err(Error::io("syncing", &self.path))?;
        let name = OsStr::from_bytes(self.path.file_name().unwrap_or_default().as_bytes());
        renameat(&self.directory, &self.temporary, &self.directory, name)
            .map_err(Error::io("renaming to", &self.path))?;
        self.published = true;
        fsync(&self.directory).map_err(Error::io("syncing the directory of", &self.path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            // nothing can be done about a failure here, and the name says what it is
            let _ = unlinkat(&self.directory, &self.temporary, AtFlags::empty());
        }
    }
}

/// Returns an error unless what is at `path` may give way to a file, link or directory.
pub(super) fn may_replace(found: &Stat, directory: bool, path: &Path) -> Result<(), Error> {
    let kind = FileType::from_raw_mode(found.st_mode);
    let (fits, needed) = if directory {
        (kind == FileType::Directory, "a directory")
    } else {
        (matches!(kind, FileType::RegularFile | FileType::Symlink), "a file")
    };
    if fits { Ok(()) } else { Err(Error::InTheWay { path: path.to_owned(), found: type_name(kind), needed }) }
}

/// Begins a file under a temporary name, mode 0600. `next` goes into the name: who begins many counts on.
pub(super) fn begin_in(directory: &OwnedFd, next: &mut u32) -> Result<(CString, File), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (name, fd) = temporary(next, |candidate| openat(directory, candidate, flags, Mode::RUSR | Mode::WUSR))?;
    Ok((name, File::from(fd)))
}

/// Puts a symbolic link; a file or link that is there is replaced. To make it durable is the caller's.
pub(super) fn put_link(
    parent: &OwnedFd,
    name: &CStr,
    target: &[u8],
    attributes: &Attributes,
    next: &mut u32,
) -> Result<(), Errno> {
    let (temporary, ()) = temporary(next, |candidate| symlinkat(OsStr::from_bytes(target), parent, candidate))?;
    let owner = (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)));
    let owned = if may_chown() {
        rustix::fs::chownat(parent, &temporary, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
    } else {
        Ok(())
    };
    owned
        .and_then(|()| utimensat(parent, &temporary, &times(attributes.mtime_ns), AtFlags::SYMLINK_NOFOLLOW))
        .and_then(|()| renameat(parent, &temporary, parent, name))
        .inspect_err(|_| {
            // the error is what is reported; a link left behind is only untidy
            let _ = unlinkat(parent, &temporary, AtFlags::empty());
        })
}

/// Returns whether a name is a temporary one of a process that is no more: what it wrote was never finished.
pub(super) fn is_left_over(name: &[u8]) -> bool {
    let numbers = name.strip_prefix(TEMPORARY_PREFIX.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
    let Some((process, number)) = numbers.and_then(|numbers| numbers.split_once('-')) else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number(process) && is_number(number) && !Path::new("/proc").join(process).exists()
}

fn temporary<T>(next: &mut u32, mut make: impl FnMut(&CString) -> Result<T, Errno>) -> Result<(CString, T), Errno> {
    for _ in 0..TEMPORARY_MAX {
        let name = CString::new(format!("{TEMPORARY_PREFIX}{}-{next}", std::process::id())).expect("no zero byte");
        *next = next.wrapping_add(1);
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

fn open_directory(parent: &OwnedFd, name: &[u8], path: &Path) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, OsStr::from_bytes(name), flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let found = statat(parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode));
            Err(Error::InTheWay { path: path.to_owned(), found: type_name(found), needed: "a directory" })
        }
        Err(errno) => Err(Error::io("opening", path)(errno)),
    }
}

/// Makes a directory with mode 0700 for now; what is there already stays.
pub(super) fn make_directory(parent: &OwnedFd, name: &[u8], path: &Path) -> Result<(), Error> {
    match mkdirat(parent, OsStr::from_bytes(name), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::io("making", path)(errno)),
    }
}

/// Owner before mode: a change of owner clears the set-id bits. Those are only given with the owner.
pub(super) fn apply<Fd: std::os::fd::AsFd>(file: Fd, attributes: &Attributes, path: &Path) -> Result<(), Error> {
    let owned = may_chown();
    if owned {
        fchown(&file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
            .map_err(Error::io("setting the owner of", path))?;
    }
    let mask = if owned { 0o7777 } else { 0o1777 };
    fchmod(&file, Mode::from_raw_mode(attributes.mode & mask)).map_err(Error::io("setting the mode of", path))?;
    futimens(&file, &times(attributes.mtime_ns)).map_err(Error::io("setting the time of", path))
}

fn times(mtime_ns: i128) -> Timestamps {
    let secs = i64::try_from(mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0);
    let nanos = u32::try_from(mtime_ns.rem_euclid(1_000_000_000)).expect("below a second");
    let time = Timespec { tv_sec: secs, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
