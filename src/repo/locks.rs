//! Locks objects in the store, many at a time.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Error;
use super::open::Repository;
use crate::backend::{Backend, Listed, Lock, Locked};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// Objects that are locked at the same time.
const LOCKS_AT_ONCE: usize = 8;

/// How many objects were locked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// Were so long enough.
    pub before: u64,
    /// Are so now.
    pub now: u64,
}

impl Repository {
    /// Makes sure that objects stay for a time. The first that cannot be locked ends it.
    pub async fn lock(&self, keys: impl IntoIterator<Item = ObjectKey>, lock: Lock) -> Result<LockCounts, Error> {
        lock_in(self.backend().as_ref(), keys, lock).await
    }

    /// As [`Repository::lock`] in the secrets' own store, and with these its config and key slots.
    pub async fn lock_apart(&self, keys: impl IntoIterator<Item = ObjectKey>, lock: Lock) -> Result<LockCounts, Error> {
        let backend = self.secrets_backend()?;
        let mut all: Vec<ObjectKey> = keys.into_iter().chain([ObjectKey::Config]).collect();
        let mut slots = backend.list(ObjectPrefix::Slots);
        while let Some(listed) = slots.try_next().await? {
            if let Listed::Object(info) = listed {
                all.push(info.key);
            }
        }
        lock_in(backend.as_ref(), all, lock).await
    }
}

async fn lock_in(
    backend: &dyn Backend,
    keys: impl IntoIterator<Item = ObjectKey>,
    lock: Lock,
) -> Result<LockCounts, Error> {
    let locks = stream::iter(keys).map(|key| backend.lock(key, lock)).buffer_unordered(LOCKS_AT_ONCE);
    let count = |mut counts: LockCounts, locked| async move {
        match locked {
            Locked::Before => counts.before += 1,
            Locked::Now => counts.now += 1,
        }
        Ok(counts)
    };
    Ok(locks.try_fold(LockCounts::default(), count).await?)
}

impl std::ops::AddAssign for LockCounts {
    fn add_assign(&mut self, other: Self) {
        self.before += other.before;
        self.now += other.now;
    }
}
