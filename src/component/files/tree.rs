//! A tree on its way back below a root: a million small files, made durable together.
//!
//! A file appears whole or not at all: it is written under a temporary name, and gets its own when it, and all that was
//! written with it, is on the disk (`syncfs`, once for a thousand files: to sync each and its directory takes a millisecond or
//! more). What is in the tree when [`Tree::finish`] returns is durable.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use rustix::fs::{AtFlags, fstat, renameat, statat, syncfs, unlinkat};
use rustix::io::Errno;

use super::attributes::{Attributes, Kind};
use super::beneath::{self, Missing, Root, components};
use super::lots::Put;
use super::walk::Walk;
use super::{Error, lossy};
use crate::component::Entry;

/// Files that wait for their names, with directories that wait for them, and bytes of files, until these are settled; while
/// they are, as many again are written.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// Directories that they are in: each is a descriptor.
const WAITING_PARENTS_MAX: usize = 256;
/// Rows of a walk that are looked at together.
const SWEPT_TOGETHER: usize = 64;

/// See the head of this file. Blocking.
pub(super) struct Tree {
    root: Arc<Root>,
    /// Of the item before: most often of the next one, too.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// A directory on every file system that was written to.
    devices: BTreeMap<u64, Arc<OwnedFd>>,
    /// For temporary names.
    next: u32,
    waiting: Waiting,
    /// Directories in which the last item lies, and others before them, outermost first.
    open: Vec<(Vec<u8>, Attributes)>,
    settling: Option<JoinHandle<Result<(), Error>>>,
}

/// What waits until all of it is on the disk.
#[derive(Default)]
struct Waiting {
    files: Vec<Written>,
    bytes: u64,
    parents: usize,
    /// Directories in which nothing more will be, with the attributes that they get when these files have their names.
    passed: Vec<(Vec<u8>, Attributes)>,
}

/// A file under a temporary name; dropped, it is removed.
struct Written {
    parent: Arc<OwnedFd>,
    temporary: CString,
    path: PathBuf,
    is_published: bool,
}

/// A file that is being written.
#[must_use]
pub(super) struct Growing {
    file: File,
    written: Written,
    len: u64,
}

/// Removes what a restore that was killed left unfinished below a target: thousands of files, perhaps, that would be in the next
/// snapshot. Returns how many.
pub(super) fn sweep(target: &Path) -> Result<u64, Error> {
    let mut walk = Walk::open(target, &[])?;
    let mut removed = 0;
    loop {
        let batch = walk.take(SWEPT_TOGETHER)?;
        if batch.is_empty() {
            return Ok(removed);
        }
        for found in batch.iter().filter(|found| beneath::is_left_over(found.name.to_bytes())) {
            match unlinkat(&found.parent, &found.name, AtFlags::empty()) {
                Ok(()) => removed += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Error::io("removing", walk.path(&found.key))(errno)),
            }
        }
    }
}

impl Tree {
    /// Writes below a root.
    pub(super) fn new(root: Root) -> Self {
        Self {
            root: Arc::new(root),
            parent: None,
            devices: BTreeMap::new(),
            next: 0,
            waiting: Waiting::default(),
            open: Vec::new(),
            settling: None,
        }
    }

    /// Begins a file. Its mode is 0600 until it has its name.
    fn begin_file(&mut self, key: &[u8]) -> Result<Growing, Error> {
        let (parent, _) = self.come_to(key, false)?;
        let path = self.root.path(key);
        let (temporary, file) =
            beneath::begin_in(&parent, &mut self.next).map_err(Error::io("making a temporary file for", &path))?;
        Ok(Growing { file, written: Written { parent, temporary, path, is_published: false }, len: 0 })
    }

    /// Takes a file that is whole.
    fn end_file(&mut self, file: Growing, attributes: &Attributes) -> Result<(), Error> {
        let Growing { file, written, len } = file;
        beneath::apply(&file, attributes, &written.path)?;
        self.waiting.files.push(written);
        self.waiting.bytes += len;
        if self.waiting.is_full() { self.settle() } else { Ok(()) }
    }

    /// Gives what waits its names and directories their attributes. All of it is durable when this returns.
    pub(super) fn finish(mut self) -> Result<Arc<Root>, Error> {
        self.pass(None);
        self.settle()?;
        self.settled()?;
        sync(&self.root, &self.devices)?;
        Ok(Arc::clone(&self.root))
    }

    /// Opens the directory that an item goes into, and looks at what is in its place. Makes what is missing above it.
    fn come_to(&mut self, key: &[u8], is_directory: bool) -> Result<(Arc<OwnedFd>, CString), Error> {
        self.pass(Some(key));
        let parts = components(key)?;
        let name = *parts.last().expect("a key has at least one component");
        let prefix = key.get(..key.len() - name.len()).unwrap_or_default();
        let parent = match &self.parent {
            Some((known, parent)) if known == prefix => Arc::clone(parent),
            _ => {
                let parent = Arc::new(self.root.make_parent(&parts, Missing::Made)?);
                let device = fstat(&parent).map_err(Error::io("examining", self.root.path(prefix)))?.st_dev;
                self.devices.entry(device).or_insert_with(|| Arc::clone(&parent));
                self.parent = Some((prefix.to_vec(), Arc::clone(&parent)));
                self.waiting.parents += 1;
                parent
            }
        };
        match statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => beneath::may_replace(&found, is_directory, &self.root.path(key))?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io("examining", self.root.path(key))(errno)),
        }
        Ok((parent, CString::new(name).expect("no zero byte")))
    }

    /// Notes the directories that no item from `key` on can lie in; all of them where there is none.
    fn pass(&mut self, key: Option<&[u8]>) {
        let is_passed = |directory: &[u8]| {
            let inside = [directory, b"/"].concat();
            key.is_none_or(|key| key > inside.as_slice() && !key.starts_with(&inside))
        };
        // the innermost first: its time is set last of all that is in it, and its parent may become read-only
        while let Some(index) = self.open.iter().rposition(|(directory, _)| is_passed(directory)) {
            self.waiting.passed.push(self.open.remove(index));
        }
    }

    /// Begins to settle what waits, once what waited before is.
    fn settle(&mut self) -> Result<(), Error> {
        self.settled()?;
        let (root, devices) = (Arc::clone(&self.root), self.devices.clone());
        let waiting = std::mem::take(&mut self.waiting);
        self.settling = Some(std::thread::spawn(move || waiting.settle(&root, &devices)));
        Ok(())
    }

    fn settled(&mut self) -> Result<(), Error> {
        let Some(settling) = self.settling.take() else { return Ok(()) };
        settling.join().unwrap_or_else(|_| Err(Error::Interrupted { path: self.root.path(b"") }))
    }
}

impl Put for Tree {
    type Growing = Growing;

    fn put(&mut self, entry: Entry, content: Option<Bytes>) -> Result<(), Error> {
        let attributes = Attributes::decode(&entry)?;
        match &attributes.kind {
            Kind::File => {
                let content = content.ok_or_else(|| Error::Attribute { key: lossy(&entry.key), name: "content" })?;
                let mut file = self.begin_file(&entry.key)?;
                Self::write(&mut file, &content)?;
                return self.end_file(file, &attributes);
            }
            Kind::Directory => {
                let (parent, name) = self.come_to(&entry.key, true)?;
                beneath::make_directory(&parent, name.to_bytes(), &self.root.path(&entry.key))?;
                self.open.push((entry.key, attributes));
            }
            Kind::Symlink(target) => {
                let (parent, name) = self.come_to(&entry.key, false)?;
                beneath::put_link(&parent, &name, target, &attributes, &mut self.next)
                    .map_err(Error::io("making", self.root.path(&entry.key)))?;
            }
        }
        if self.waiting.is_full() { self.settle() } else { Ok(()) }
    }

    fn begin(&mut self, entry: &Entry) -> Result<Growing, Error> {
        match Attributes::decode(entry)?.kind {
            Kind::File => self.begin_file(&entry.key),
            _ => Err(Error::Attribute { key: lossy(&entry.key), name: "kind" }),
        }
    }

    fn write(file: &mut Growing, bytes: &[u8]) -> Result<(), Error> {
        let path = &file.written.path;
        file.len += u64::try_from(bytes.len()).expect("usize fits u64");
        file.file.write_all(bytes).map_err(|source| Error::Io { action: "writing", path: path.clone(), source })
    }

    fn end(&mut self, entry: Entry, file: Growing) -> Result<(), Error> {
        self.end_file(file, &Attributes::decode(&entry)?)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // where it was given up, another error is the cause
        let _ = self.settled();
    }
}

impl Waiting {
    const fn is_full(&self) -> bool {
        self.files.len() + self.passed.len() >= WAITING_MAX
            || self.bytes >= WAITING_BYTES_MAX
            || self.parents >= WAITING_PARENTS_MAX
    }

    fn settle(self, root: &Root, devices: &BTreeMap<u64, Arc<OwnedFd>>) -> Result<(), Error> {
        if !self.files.is_empty() {
            sync(root, devices)?;
        }
        self.files.into_iter().try_for_each(|mut file| file.publish())?;
        self.passed.into_iter().try_for_each(|(key, attributes)| root.set_attributes(&key, &attributes).map(drop))
    }
}

fn sync(root: &Root, devices: &BTreeMap<u64, Arc<OwnedFd>>) -> Result<(), Error> {
    devices.values().try_for_each(|device| syncfs(device).map_err(Error::io("syncing", root.path(b""))))
}

impl Written {
    fn publish(&mut self) -> Result<(), Error> {
        let name = self.path.file_name().unwrap_or_default();
        renameat(&self.parent, &self.temporary, &self.parent, name).map_err(Error::io("renaming to", &self.path))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if !self.is_published {
            // nothing can be done about a failure here, and the name says what it is
            let _ = unlinkat(&self.parent, &self.temporary, AtFlags::empty());
        }
    }
}
