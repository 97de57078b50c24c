//! Locks objects in the store, many at a time.

use std::sync::Arc;

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
        let mut objects = Vec::new();
        for key in keys {
            objects.push((self.backend_of(key)?, key));
        }
        // A store of its own for secrets has a config and slots of its own, too.
        if let Some(apart) = self.secrets_apart() {
            objects.push((Arc::clone(apart), ObjectKey::Config));
            let mut listing = apart.list(ObjectPrefix::Slots);
            while let Some(listed) = listing.try_next().await? {
                if let Listed::Object(info) = listed {
                    objects.push((Arc::clone(apart), info.key));
                }
            }
        }
        let lock_one = |(backend, key): (Arc<dyn Backend>, ObjectKey)| async move { backend.lock(key, lock).await };
        let locks = stream::iter(objects).map(lock_one).buffer_unordered(LOCKS_AT_ONCE);
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
