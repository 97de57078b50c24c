//! A directory: one file per object, at the object's name.
//!
//! Directories have mode 0700 and files 0600, whatever the umask. A put writes a file below `tmp/`, syncs
//! it, moves it to its name without replacing anything and syncs the directory. A symbolic link below the
//! root is never an object; the root itself may be one.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Backend, Error, ErrorKind, LEFTOVERS, Listed, ObjectInfo, Operation, Put};
use crate::buffers::Buffers;
use crate::format::object::{ObjectKey, ObjectPrefix};

mod temp;

use temp::TempFile;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Lines of a listing that wait for their reader.
const LISTING_QUEUE_MAX: usize = 1024;
/// Directories below one another that a listing follows; objects need three.
const LISTING_DEPTH_MAX: u32 = 16;
/// Names tried for a temporary file: a second try is already unheard of.
const TEMP_NAMES_MAX: u32 = 16;
/// How their names start.
const TEMP_NAME_START: &str = "put-";
/// Bytes gathered before they are written; longer parts go straight through.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// Objects from this length on do not stay in the system's page cache: packs, which nobody reads soon.
const UNCACHED_BYTES_LEAST: usize = 1024 * 1024;
/// Bytes of buffers for what was read that wait to be used again.
const IDLE_BYTES_MAX: usize = 12 * 1024 * 1024;
/// What a file system keeps at its root and no listing should stumble over.
const FOREIGN_AT_ROOT: &str = "lost+found";

/// A backend in a local directory. Clones share their state.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    store: Arc<Store>,
}

#[derive(Debug)]
struct Store {
    root: PathBuf,
    /// Makes the names of temporary files differ between processes and hosts.
    nonce: u64,
    puts: AtomicU64,
    /// Directories whose own entry, and all above up to the root, this process has synced.
    /// At most one per directory of the layout.
    synced: Mutex<BTreeSet<PathBuf>>,
    buffers: Arc<Buffers>,
    /// Whether it was found by its config: a directory without one is then another.
    had_config: bool,
}

/// An error of the operating system and the path that it is about.
struct Failure {
    path: PathBuf,
    source: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    |source| Failure { path: path.to_owned(), source }
}

impl Failure {
    fn of(self, operation: Operation, key: Option<ObjectKey>) -> Error {
        let kind = ErrorKind::from_io(&self.source);
        Error::Failed { operation, key, at: self.path.display().to_string(), kind, source: Box::new(self.source) }
    }
}

impl LocalBackend {
    /// Makes the directory, and those above it, and returns the empty backend. Durable when it returns.
    ///
    /// A directory that is there and empty is taken; fails with [`Error::NotEmpty`] where there is
    /// anything in it but what an interrupted creation leaves.
    pub async fn create(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        blocking(Operation::Create, None, move || Self::create_blocking(&path)).await
    }

    /// Finds the repository in a directory. Fails with [`Error::NoRepository`] where there is no config
    /// object. Changes nothing, so that a read-only file system will do.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        blocking(Operation::Open, None, move || {
            let mut store = Store::new(&path).map_err(|failure| failure.of(Operation::Open, None))?;
            match store.metadata(ObjectKey::Config, Operation::Open) {
                Ok(Some(_)) => {
                    store.had_config = true;
                    Ok(Self { store: Arc::new(store) })
                }
                Ok(None) | Err(Error::NotAFile { .. }) => Err(Error::NoRepository { location: store.location() }),
                Err(error) => Err(error),
            }
        })
        .await
    }

    fn create_blocking(path: &Path) -> Result<Self, Error> {
        let make = || {
            let store = Store::new(path)?;
            make_root(&store.root)?;
            let is_empty = store.is_empty()?;
            Ok((store, is_empty))
        };
        let (store, is_empty) = make().map_err(|failure: Failure| failure.of(Operation::Create, None))?;
        if is_empty { Ok(Self { store: Arc::new(store) }) } else { Err(Error::NotEmpty { location: store.location() }) }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        operation: Operation,
        key: ObjectKey,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = Arc::clone(&self.store);
        blocking(operation, Some(key), move || work(&store)).await
    }
}

/// Runs file system calls where they may block.
async fn blocking<T: Send + 'static>(
    operation: Operation,
    key: Option<ObjectKey>,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    joined(spawn_blocking(work), operation, key).await
}

async fn joined<T>(
    task: JoinHandle<Result<T, Error>>,
    operation: Operation,
    key: Option<ObjectKey>,
) -> Result<T, Error> {
    match task.await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            Err(stopped) => {
                // The runtime is shutting down.
                let at = "the runtime".to_owned();
                Err(Error::Failed { operation, key, at, kind: ErrorKind::Other, source: Box::new(stopped) })
            }
        },
    }
}

#[async_trait]
impl Backend for LocalBackend {
    fn location(&self) -> String {
        self.store.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        self.blocking(Operation::Put, key, move |store| store.put(key, &body)).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        self.blocking(Operation::Get, key, move |store| store.get(key, max_len)).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.blocking(Operation::GetRange, key, move |store| store.get_range(key, offset, len)).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.blocking(Operation::Stat, key, move |store| {
            let metadata = store.metadata(key, Operation::Stat)?;
            Ok(metadata.map(|found| ObjectInfo { key, len: found.len(), modified: found.modified().ok() }))
        })
        .await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let start = async move {
            let (sender, receiver) = mpsc::channel(LISTING_QUEUE_MAX);
            let store = Arc::clone(&self.store);
            let walk = spawn_blocking(move || {
                let mut reader_is_there = |line| sender.blocking_send(line).is_ok();
                store.walk(prefix, &mut reader_is_there).map_err(|failure| failure.of(Operation::List, None))
            });
            stream::unfold((receiver, Some(walk)), |(mut receiver, walk)| async move {
                if let Some(line) = receiver.recv().await {
                    return Some((Ok(line), (receiver, walk)));
                }
                // The queue also ends when the walk fails: only its own word makes the listing complete.
                match joined(walk?, Operation::List, None).await {
                    Ok(()) => None,
                    Err(error) => Some((Err(error), (receiver, None))),
                }
            })
        };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.blocking(Operation::Delete, key, move |store| {
            store.delete(key).map_err(|failure| failure.of(Operation::Delete, Some(key)))
        })
        .await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        let store = Arc::clone(&self.store);
        blocking(Operation::Sweep, None, move || {
            store.sweep(before).map_err(|failure| failure.of(Operation::Sweep, None))
        })
        .await
    }
}

impl Store {
    fn new(path: &Path) -> Result<Self, Failure> {
        // Absolute from the start: a later change of the working directory moves nothing.
        let root = std::path::absolute(path).map_err(at(path))?;
        let nonce = RandomState::new().build_hasher().finish();
        let buffers = Buffers::new(IDLE_BYTES_MAX);
        Ok(Self { root, nonce, puts: AtomicU64::new(0), synced: Mutex::default(), buffers, had_config: false })
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn path(&self, key: ObjectKey) -> PathBuf {
        self.root.join(key.to_string())
    }

    fn metadata(&self, key: ObjectKey, operation: Operation) -> Result<Option<Metadata>, Error> {
        let path = self.path(key);
        match found(fs::symlink_metadata(&path)).map_err(at(&path)) {
            Ok(Some(metadata)) if !metadata.is_file() => Err(Error::NotAFile { key, location: self.location() }),
            Ok(metadata) => Ok(metadata),
            Err(failure) => Err(failure.of(operation, Some(key))),
        }
    }

    /// Checks that the root is the one that was opened. Where a file system was unmounted, the directory that it was mounted on is
    /// there and can be written to, and what is stored in it will be hidden by the next mount.
    fn check_root(&self) -> Result<(), Failure> {
        let config = self.path(ObjectKey::Config);
        if self.had_config && found(fs::symlink_metadata(&config)).map_err(at(&config))?.is_none() {
            return Err(at(&config)(io::Error::other("it was there before: was the file system unmounted?")));
        }
        Ok(())
    }

    fn is_empty(&self) -> Result<bool, Failure> {
        for entry in fs::read_dir(&self.root).map_err(at(&self.root))? {
            let name = entry.map_err(at(&self.root))?.file_name();
            if Path::new(&name) == Path::new(LEFTOVERS) {
                let leftovers = self.root.join(LEFTOVERS);
                for entry in fs::read_dir(&leftovers).map_err(at(&leftovers))? {
                    let name = entry.map_err(at(&leftovers))?.file_name();
                    if !lossy(&name).starts_with(TEMP_NAME_START) {
                        return Ok(false);
                    }
                }
            } else if name.as_os_str() != OsStr::new(FOREIGN_AT_ROOT) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put(&self, key: ObjectKey, body: &[Bytes]) -> Result<Put, Error> {
        let failed = |failure: Failure| failure.of(Operation::Put, Some(key));
        let target = self.path(key);
        let directory = target.parent().expect("an object lies below the root");
        let is_new = match self.metadata(key, Operation::Put)? {
            Some(_) => false,
            None => {
                self.check_root().map_err(failed)?;
                self.ensure_directory(directory).map_err(failed)?;
                let temp = self.write_temp(body).map_err(failed)?;
                temp.publish(&target).map_err(at(&target)).map_err(failed)?
            }
        };
        // Also for an object that somebody else put: its name need not be durable yet.
        self.ensure_directory(directory).map_err(failed)?;
        sync_directory(directory).map_err(failed)?;
        self.check_root().map_err(failed)?;
        if is_new {
            return Ok(Put::Created);
        }
        let len = body.iter().map(|part| count(part.len())).sum();
        match self.metadata(key, Operation::Put)? {
            Some(there) if there.len() == len => Ok(Put::AlreadyThere),
            Some(there) => Err(Error::Conflict { key, location: self.location(), len, stored: there.len() }),
            None => Err(Error::NotFound { key, location: self.location() }),
        }
    }

    /// Makes a directory of the layout and those above it, and sees to it that a power cut leaves them.
    fn ensure_directory(&self, directory: &Path) -> Result<(), Failure> {
        if directory == self.root || self.synced.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) {
            return Ok(());
        }
        let parent = directory.parent().expect("a directory of the layout lies below the root");
        self.ensure_directory(parent)?;
        match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Ok(()) => set_mode(directory, DIRECTORY_MODE)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at(directory)(error)),
        }
        // Also where it was there: another process may have made it and not have come to this line.
        sync_directory(parent)?;
        self.synced.lock().unwrap_or_else(PoisonError::into_inner).insert(directory.to_owned());
        Ok(())
    }

    /// Writes a synced file below `tmp/`.
    fn write_temp(&self, body: &[Bytes]) -> Result<TempFile, Failure> {
        let directory = self.root.join(LEFTOVERS);
        self.ensure_directory(&directory)?;
        let (temp, file) = self.create_temp(&directory)?;
        let write = || {
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
            let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, &file);
            for part in body {
                writer.write_all(part)?;
            }
            writer.flush()?;
            drop(writer);
            file.sync_all()
        };
        write().map_err(at(&temp.path))?;
        if body.iter().map(Bytes::len).sum::<usize>() >= UNCACHED_BYTES_LEAST {
            // What a host keeps in memory is what it works with, and no backup of it. A file system that takes no advice
            // loses nothing.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(temp)
    }

    fn create_temp(&self, directory: &Path) -> Result<(TempFile, File), Failure> {
        let mut tries = 1;
        loop {
            let number = self.puts.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{TEMP_NAME_START}{:016x}-{}-{number}", self.nonce, std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path) {
                Ok(file) => return Ok((TempFile::new(path), file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < TEMP_NAMES_MAX => tries += 1,
                Err(error) => return Err(at(&path)(error)),
            }
        }
    }

    /// Opens an object and returns its length.
    fn open(&self, key: ObjectKey, operation: Operation) -> Result<(File, u64), Error> {
        let path = self.path(key);
        // Neither follow a link nor wait for the other end of a pipe that somebody put there.
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).expect("two low bits");
        let open = || -> io::Result<_> {
            let file = OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        match open() {
            Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata.len())),
            Ok(_) => Err(Error::NotAFile { key, location: self.location() }),
            Err(error) => match (error.kind(), Errno::from_io_error(&error)) {
                (io::ErrorKind::NotFound, _) => match self.check_root() {
                    Ok(()) => Err(Error::NotFound { key, location: self.location() }),
                    Err(failure) => Err(failure.of(operation, Some(key))),
                },
                // A link, and a socket.
                (_, Some(Errno::LOOP | Errno::NXIO)) => Err(Error::NotAFile { key, location: self.location() }),
                _ => Err(self.unreadable(at(&path)(error), key, operation)),
            },
        }
    }

    /// Returns what came of reading an object. A disk that does not even give its config any more is not one with a bad sector.
    fn unreadable(&self, failure: Failure, key: ObjectKey, operation: Operation) -> Error {
        let mut error = failure.of(operation, Some(key));
        if let Error::Failed { kind: kind @ ErrorKind::Damaged, .. } = &mut error
            && self.had_config
            && fs::read(self.path(ObjectKey::Config)).is_err()
        {
            *kind = ErrorKind::Other;
        }
        error
    }

    fn get(&self, key: ObjectKey, max: u64) -> Result<Bytes, Error> {
        let (file, len) = self.open(key, Operation::Get)?;
        if len > max {
            return Err(Error::TooLong { key, location: self.location(), len, max });
        }
        self.read(file, key, 0, len, Operation::Get)
    }

    fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        let (mut file, there) = self.open(key, Operation::GetRange)?;
        let have = there.saturating_sub(offset);
        if offset > there || have < len {
            return Err(Error::Short { key, location: self.location(), offset, need: len, have });
        }
        let failed = |error| self.unreadable(at(&self.path(key))(error), key, Operation::GetRange);
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        self.read(file, key, offset, len, Operation::GetRange)
    }

    /// Reads exactly `len` bytes from where the file stands, which is `offset`.
    fn read(&self, file: File, key: ObjectKey, offset: u64, len: u64, operation: Operation) -> Result<Bytes, Error> {
        let failed = |error| self.unreadable(at(&self.path(key))(error), key, operation);
        let size = usize::try_from(len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        let mut bytes = self.buffers.try_take(size).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        file.take(len).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() < size {
            let have = count(bytes.len());
            return Err(Error::Short { key, location: self.location(), offset, need: len, have });
        }
        Ok(self.buffers.lend(bytes))
    }

    /// Hands everything below the prefix to `take`, until that returns false.
    fn walk(&self, prefix: ObjectPrefix, take: &mut dyn FnMut(Listed) -> bool) -> Result<(), Failure> {
        // A root that is away (not mounted, removed) is not an empty repository.
        fs::metadata(&self.root).map_err(at(&self.root))?;
        self.check_root()?;
        let mut waiting = vec![(prefix.path().trim_end_matches('/').to_owned(), 0)];
        while let Some((name, depth)) = waiting.pop() {
            let path = self.root.join(&name);
            let is_root = name.is_empty();
            if !is_root {
                match found(fs::symlink_metadata(&path)).map_err(at(&path))? {
                    Some(metadata) if metadata.is_dir() && depth < LISTING_DEPTH_MAX => {}
                    // Of another kind than its name says, or deeper than any object.
                    Some(metadata) => {
                        if !take(Listed::Stranger { name, len: metadata.len() }) {
                            return Ok(());
                        }
                        continue;
                    }
                    None => continue,
                }
            }
            let Some(entries) = found(fs::read_dir(&path)).map_err(at(&path))? else { continue };
            for entry in entries {
                let entry = entry.map_err(at(&path))?;
                let Some(metadata) = found(entry.metadata()).map_err(at(&entry.path()))? else { continue };
                let plain = entry.file_name();
                let child = if is_root { lossy(&plain) } else { format!("{name}/{}", lossy(&plain)) };
                if metadata.is_dir() && plain.to_str().is_some() {
                    if !(is_root && child == FOREIGN_AT_ROOT) {
                        waiting.push((child, depth + 1));
                    }
                } else if !take(listed(child, &metadata, plain.to_str().is_some())) {
                    return Ok(());
                }
            }
        }
        // What it had was missed if it went meanwhile.
        self.check_root()
    }

    fn delete(&self, key: ObjectKey) -> Result<(), Failure> {
        let path = self.path(key);
        let directory = path.parent().expect("an object lies below the root");
        fs::metadata(&self.root).map_err(at(&self.root))?;
        found(fs::remove_file(&path)).map_err(at(&path))?;
        // Also where it was gone: whoever removed it need not have made that durable yet.
        if found(fs::metadata(directory)).map_err(at(directory))?.is_some() {
            sync_directory(directory)?;
        }
        Ok(())
    }

    fn sweep(&self, before: SystemTime) -> Result<u64, Failure> {
        let directory = self.root.join(LEFTOVERS);
        fs::metadata(&self.root).map_err(at(&self.root))?;
        let mut removed = 0;
        let Some(entries) = found(fs::read_dir(&directory)).map_err(at(&directory))? else { return Ok(0) };
        for entry in entries {
            let entry = entry.map_err(at(&directory))?;
            let path = entry.path();
            let Some(metadata) = found(entry.metadata()).map_err(at(&path))? else { continue };
            let is_old = metadata.modified().map_err(at(&path))? < before;
            if metadata.is_file() && is_old && found(fs::remove_file(&path)).map_err(at(&path))?.is_some() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Makes the root and the directories above it; those that are there keep their mode.
fn make_root(root: &Path) -> Result<(), Failure> {
    let parent = root.parent().unwrap_or(root);
    if root.is_dir() {
        return match sync_directory(parent) {
            // Whoever made the root for us where we may not look is left to have made it durable.
            Err(failure) if failure.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            result => result,
        };
    }
    if parent != root {
        make_root(parent)?;
    }
    match DirBuilder::new().mode(DIRECTORY_MODE).create(root) {
        Ok(()) => set_mode(root, DIRECTORY_MODE)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && root.is_dir() => {}
        Err(error) => return Err(at(root)(error)),
    }
    sync_directory(parent)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at(path))
}

/// Makes the entries of a directory durable.
fn sync_directory(path: &Path) -> Result<(), Failure> {
    let directory = File::open(path).map_err(at(path))?;
    match rustix::fs::fsync(&directory) {
        // File systems (FUSE, CIFS) that cannot sync a directory have nothing better to offer.
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(error) => Err(at(path)(error.into())),
    }
}

/// Returns `None` for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

fn listed(name: String, metadata: &Metadata, is_utf8: bool) -> Listed {
    if metadata.is_file() && is_utf8 {
        Listed::from_name(name, metadata.len(), metadata.modified().ok())
    } else {
        Listed::Stranger { name, len: metadata.len() }
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("a length in memory fits in 64 bits")
}

#[cfg(test)]
mod tests;
