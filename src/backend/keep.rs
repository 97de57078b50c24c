//! Copies of manifests and key slots on this host, so that a night need not fetch those of every night before it.
//!
//! A copy is bytes that the store gave once, or took, of an object that never changes. It is given only for what the
//! store has listed since this backend was made, so that what has gone is gone; what is no copy (cut, changed, of
//! another time) is fetched again. Whoever reads a manifest or a slot authenticates it, wherever it comes from. `check`
//! reads without copies.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::task::spawn_blocking;

use super::{Backend, Error, Listed, Lock, Locked, ObjectInfo, Put};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// Copies that are kept, of the newest listing; of more manifests the rest is fetched.
const COPIES_MAX: usize = 100_000;
/// What the names of copies of key slots begin with.
const SLOT_START: &str = "slot-";
/// What stands behind the bytes of a copy: their hash.
const HASH_LEN: usize = 8;

/// The decorator. See the head of this file.
#[derive(Debug)]
pub struct KeepBackend<B> {
    inner: B,
    dir: PathBuf,
    /// What the store has listed.
    listed: Mutex<HashSet<ObjectKey>>,
}

impl<B: Backend> KeepBackend<B> {
    /// Keeps copies in a directory of its own, which is made where it is missing. A directory that cannot be used
    /// costs requests and nothing else.
    pub fn new(inner: B, dir: PathBuf) -> Self {
        Self { inner, dir, listed: Mutex::default() }
    }

    /// Returns where a copy is, `None` of what is not kept.
    fn path(&self, key: ObjectKey) -> Option<PathBuf> {
        match key {
            ObjectKey::Snapshot(namespace, id) => Some(self.dir.join(format!("{namespace}-{id}"))),
            ObjectKey::Slot(id) => Some(self.dir.join(format!("{SLOT_START}{id}"))),
            _ => None,
        }
    }

    /// Keeps a copy. Best effort: without one the object is fetched again.
    async fn keep(&self, path: PathBuf, bytes: Vec<Bytes>) {
        let dir = self.dir.clone();
        let _kept = spawn_blocking(move || write_copy(&dir, &path, &bytes.concat())).await;
    }

    /// Takes what a listing that came to its end did not have for gone.
    fn ended(&self, prefix: ObjectPrefix, keys: HashSet<ObjectKey>) {
        let start = match prefix {
            ObjectPrefix::Slots => SLOT_START.to_owned(),
            prefix => prefix.namespace().map_or_else(String::new, |namespace| format!("{namespace}-")),
        };
        let wanted = keys.iter().filter_map(|key| self.path(*key)).collect();
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.retain(|key| keys.contains(key) || !key.to_string().starts_with(prefix.path()));
        drop(listed);
        sweep_copies(&self.dir, &start, &wanted);
    }

    fn is_listed(&self, key: ObjectKey) -> bool {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }
}

fn hash(bytes: &[u8]) -> [u8; HASH_LEN] {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish().to_le_bytes()
}

fn read_copy(path: &Path, max_len: u64) -> Option<Bytes> {
    let metadata = fs::metadata(path).ok()?;
    let len = metadata.len().checked_sub(HASH_LEN as u64).filter(|len| *len <= max_len)?;
    let mut bytes = fs::read(path).ok()?;
    let found = bytes.split_off(usize::try_from(len).ok().filter(|len| *len <= bytes.len())?);
    (found == hash(&bytes)).then(|| Bytes::from(bytes))
}

/// Whole or not at all; two runs that keep the same copy write the same bytes.
fn write_copy(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut file, bytes)?;
    io::Write::write_all(&mut file, &hash(bytes))?;
    drop(file);
    fs::rename(&new, path)
}

/// Removes copies of what the store has no more.
fn sweep_copies(dir: &Path, start: &str, wanted: &HashSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
        if is_ours && !wanted.contains(&path) {
            // One that stays is swept by the next run.
            let _removed = fs::remove_file(path);
        }
    }
}

#[async_trait]
impl<B: Backend> Backend for KeepBackend<B> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        let copy = self.path(key).map(|path| (path, body.clone()));
        let put = self.inner.put(key, body).await?;
        // What is there already may be something else.
        if let (Put::Created, Some((path, body))) = (put, copy) {
            self.keep(path, body).await;
        }
        Ok(put)
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        let Some(path) = self.path(key).filter(|_| self.is_listed(key)) else {
            return self.inner.get(key, max_len).await;
        };
        let copy = path.clone();
        if let Ok(Some(bytes)) = spawn_blocking(move || read_copy(&copy, max_len)).await {
            return Ok(bytes);
        }
        let bytes = self.inner.get(key, max_len).await?;
        self.keep(path, vec![bytes.clone()]).await;
        Ok(bytes)
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.inner.get_range(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let has_copies =
            matches!(prefix, ObjectPrefix::Snapshots(_) | ObjectPrefix::Namespace(_) | ObjectPrefix::Slots);
        if !has_copies {
            return self.inner.list(prefix);
        }
        let start = (self.inner.list(prefix), HashSet::new());
        stream::unfold(Some(start), move |state| async move {
            let (mut listing, mut keys) = state?;
            match listing.next().await {
                Some(Ok(line)) => {
                    if let Listed::Object(info) = &line
                        && keys.len() < COPIES_MAX
                        && self.path(info.key).is_some()
                    {
                        // At once: it is there, whatever the rest of the listing says.
                        self.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(info.key);
                        keys.insert(info.key);
                    }
                    Some((Ok(line), Some((listing, keys))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                // Only a listing that came to its end says what there is.
                None => {
                    self.ended(prefix, keys);
                    None
                }
            }
        })
        .boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        // Before, so that nobody is given a copy of what is being removed.
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.inner.delete(key).await
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        self.inner.lock(key, lock).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep(before).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;
    use crate::backend::{Counted, FaultBackend, MemoryBackend};
    use crate::format::id::{SlotId, SnapshotId};
    use crate::format::object::Namespace;

    fn snapshot(number: u8) -> ObjectKey {
        ObjectKey::Snapshot(Namespace::Data, SnapshotId::from_bytes([number; 32]))
    }

    type Kept = KeepBackend<FaultBackend<MemoryBackend>>;

    /// A run over this store with this directory.
    fn run(memory: &MemoryBackend, dir: &Path) -> Kept {
        KeepBackend::new(FaultBackend::counting(memory.clone(), Counted::All), dir.to_owned())
    }

    async fn list(backend: &Kept) -> usize {
        backend.list(ObjectPrefix::Snapshots(Namespace::Data)).try_collect::<Vec<_>>().await.unwrap().len()
    }

    #[tokio::test]
    async fn a_manifest_is_fetched_once_as_long_as_the_store_lists_it() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("manifests");
        let memory = MemoryBackend::new();
        (1..=3).for_each(|number| memory.replace(snapshot(number), Bytes::from(vec![number; 100])));
        for gets in [3, 0, 0] {
            let backend = run(&memory, &dir);
            assert_eq!(list(&backend).await, 3);
            for number in 1..=3 {
                assert_eq!(backend.get(snapshot(number), 100).await.unwrap(), vec![number; 100]);
            }
            assert_eq!(backend.inner.operations(), 1 + gets);
        }
        // What has gone is gone, and its copy too.
        memory.remove(snapshot(2)).unwrap();
        let backend = run(&memory, &dir);
        assert!(backend.get(snapshot(2), 100).await.is_err());
        assert_eq!(list(&backend).await, 2);
        assert!(backend.get(snapshot(2), 100).await.is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        backend.delete(snapshot(1)).await.unwrap();
        assert!(backend.get(snapshot(1), 100).await.is_err());
    }

    #[tokio::test]
    async fn what_this_host_has_put_is_not_fetched_either_once_the_store_lists_it() {
        let (place, memory) = (tempfile::tempdir().unwrap(), MemoryBackend::new());
        let slot = ObjectKey::Slot(SlotId::from_bytes([9; 32]));
        let body = || vec![Bytes::from_static(b"abc"), Bytes::from_static(b"def")];
        let backend = run(&memory, place.path());
        for key in [snapshot(1), slot] {
            assert_eq!(backend.put(key, body()).await.unwrap(), Put::Created);
        }
        // Somebody else's under the same name is not what we put.
        memory.replace(snapshot(2), Bytes::from_static(b"theirs"));
        assert_eq!(backend.put(snapshot(2), body()).await.unwrap(), Put::AlreadyThere);
        let backend = run(&memory, place.path());
        assert_eq!(backend.get(slot, 6).await.unwrap(), "abcdef");
        assert_eq!(backend.inner.operations(), 1, "not listed yet");
        for prefix in [ObjectPrefix::Slots, ObjectPrefix::Namespace(Namespace::Data)] {
            backend.list(prefix).try_collect::<Vec<_>>().await.unwrap();
        }
        for key in [snapshot(1), slot] {
            assert_eq!(backend.get(key, 6).await.unwrap(), "abcdef");
        }
        assert_eq!(backend.inner.operations(), 3);
        assert_eq!(backend.get(snapshot(2), 6).await.unwrap(), "theirs");
        // Neither listing takes the copies of what only the other one shows for gone.
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
    }

    #[tokio::test]
    async fn what_is_no_copy_is_fetched_again() {
        let place = tempfile::tempdir().unwrap();
        let memory = MemoryBackend::new();
        memory.replace(snapshot(1), Bytes::from_static(b"manifest"));
        let copy = place.path().join(format!("data-{}", SnapshotId::from_bytes([1; 32])));
        for bytes in [&b""[..], b"short", b"manifestXXXXXXXX", b"longer than anything that this store has"] {
            fs::write(&copy, bytes).unwrap();
            let backend = run(&memory, place.path());
            list(&backend).await;
            assert_eq!(backend.get(snapshot(1), 8).await.unwrap(), "manifest");
            assert_eq!(backend.inner.operations(), 2);
        }
        // A directory that is none costs requests.
        let backend = run(&memory, &copy.join("no"));
        list(&backend).await;
        assert_eq!(backend.get(snapshot(1), 8).await.unwrap(), "manifest");
    }
}
