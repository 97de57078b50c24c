//! Locks objects in the store, many at a time.

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Error;
use super::open::Repository;
use crate::backend::{Backend as _, Lock, Locked};
use crate::format::object::ObjectKey;

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
        let backend = self.backend();
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
}
