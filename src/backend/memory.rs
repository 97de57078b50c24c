//! Objects in memory: for tests of everything above, which may look at, damage and restore them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{Backend, Error, LEFTOVERS, Listed, ObjectInfo, Put};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// The store's clock until somebody sets it, in seconds since 1970: 2026-01-01. A fixed one, so that
/// whoever takes the host's time for the store's is found out.
const START_SECS: u64 = 1_767_225_600;

/// A backend in memory. Clones share their content.
#[derive(Debug, Clone)]
pub struct MemoryBackend {
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    now: SystemTime,
    /// By name and not by key, so that it can hold strangers and leftovers too.
    stored: BTreeMap<String, Stored>,
}

#[derive(Debug, Clone)]
struct Stored {
    bytes: Bytes,
    modified: SystemTime,
}

impl MemoryBackend {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(START_SECS);
        Self { content: Arc::new(Mutex::new(Content { now, stored: BTreeMap::new() })) }
    }

    /// Returns a copy that shares nothing with this one but the bytes.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let content = self.content();
        let copy = Content { now: content.now, stored: content.stored.clone() };
        Self { content: Arc::new(Mutex::new(copy)) }
    }

    /// Returns every object.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<ObjectKey, Bytes> {
        let content = self.content();
        content.stored.iter().filter_map(|(name, stored)| Some((name.parse().ok()?, stored.bytes.clone()))).collect()
    }

    /// Sets an object's bytes, whatever was there: what a store must never do. Keeps its time.
    pub fn replace(&self, key: ObjectKey, bytes: Bytes) {
        self.plant(&key.to_string(), bytes);
    }

    /// Sets the bytes of any name, which need not be that of an object. Keeps its time.
    pub fn plant(&self, name: &str, bytes: Bytes) {
        let mut content = self.content();
        let modified = content.stored.get(name).map_or(content.now, |stored| stored.modified);
        content.stored.insert(name.to_owned(), Stored { bytes, modified });
    }

    /// Loses an object and returns its bytes.
    pub fn remove(&self, key: ObjectKey) -> Option<Bytes> {
        self.content().stored.remove(&key.to_string()).map(|stored| stored.bytes)
    }

    /// Returns the store's clock, which stands still.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.content().now
    }

    /// Sets the store's clock.
    pub fn set_now(&self, now: SystemTime) {
        self.content().now = now;
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // Nothing panics between two changes that belong together.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: ObjectKey) -> Result<Bytes, Error> {
        let found = self.content().stored.get(&key.to_string()).map(|stored| stored.bytes.clone());
        found.ok_or_else(|| Error::NotFound { key, location: self.location() })
    }

    fn listing(&self, prefix: ObjectPrefix) -> Vec<Listed> {
        let content = self.content();
        let below = content.stored.range(prefix.path().to_owned()..);
        below
            .take_while(|(name, _)| name.starts_with(prefix.path()))
            .map(|(name, stored)| Listed::from_name(name.clone(), count(stored.bytes.len()), Some(stored.modified)))
            .collect()
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("a length in memory fits in 64 bits")
}

#[async_trait]
impl Backend for MemoryBackend {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        let bytes = Bytes::from(body.concat());
        let mut content = self.content();
        let modified = content.now;
        if let Some(there) = content.stored.get(&key.to_string()) {
            let (len, stored) = (count(bytes.len()), count(there.bytes.len()));
            if len == stored {
                return Ok(Put::AlreadyThere);
            }
            return Err(Error::Conflict { key, location: self.location(), len, stored });
        }
        content.stored.insert(key.to_string(), Stored { bytes, modified });
        Ok(Put::Created)
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        let bytes = self.find(key)?;
        let len = count(bytes.len());
        if len > max_len {
            return Err(Error::TooLong { key, location: self.location(), len, max: max_len });
        }
        Ok(bytes)
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        let bytes = self.find(key)?;
        let have = count(bytes.len()).saturating_sub(offset);
        let range = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(len).ok()?)?;
            (end <= bytes.len()).then(|| bytes.slice(start..end))
        };
        range().ok_or_else(|| Error::Short { key, location: self.location(), offset, need: len, have })
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        let content = self.content();
        let info =
            |stored: &Stored| ObjectInfo { key, len: count(stored.bytes.len()), modified: Some(stored.modified) };
        Ok(content.stored.get(&key.to_string()).map(info))
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let start = async move { stream::iter(self.listing(prefix).into_iter().map(Ok)) };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.content().stored.remove(&key.to_string());
        Ok(())
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        let mut content = self.content();
        let all = content.stored.len();
        content.stored.retain(|name, stored| !name.starts_with(LEFTOVERS) || stored.modified >= before);
        Ok(count(all - content.stored.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn content_can_be_looked_at_damaged_and_taken_back() {
        let backend = MemoryBackend::new();
        let key = ObjectKey::Config;
        assert_eq!(backend.put(key, vec![Bytes::from_static(b"good")]).await.unwrap(), Put::Created);
        let good = backend.snapshot();

        backend.replace(key, Bytes::from_static(b"evil"));
        assert_eq!(backend.get(key, 4).await.unwrap(), "evil");
        assert_eq!(backend.remove(key).unwrap(), "evil");
        assert!(backend.objects().is_empty());
        assert_eq!(good.objects(), BTreeMap::from([(key, Bytes::from_static(b"good"))]));
    }

    #[tokio::test]
    async fn time_passes_when_it_is_told_to() {
        let backend = MemoryBackend::new();
        let later = backend.now() + Duration::from_secs(60);
        backend.plant("tmp/old", Bytes::from_static(b"half"));
        backend.set_now(later);
        backend.plant("tmp/new", Bytes::from_static(b"half"));
        assert_eq!(backend.put(ObjectKey::Config, vec![]).await.unwrap(), Put::Created);
        assert_eq!(backend.stat(ObjectKey::Config).await.unwrap().unwrap().modified, Some(later));
        assert_eq!(backend.sweep(later).await.unwrap(), 1);
        assert_eq!(backend.sweep(later).await.unwrap(), 0);
    }
}
