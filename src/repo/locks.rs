//! Locks objects in the stores of a repository, many at a time.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::Error;
use super::closed::OldestSlots;
use crate::backend::{Backend, Lock, Locked};
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

impl LockCounts {
    /// Returns those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { before: self.before + other.before, now: self.now + other.now }
    }
}

/// Makes sure that objects of a store stay for a time. The first that cannot be locked ends it.
pub async fn lock_objects(
    store: &Arc<dyn Backend>,
    keys: impl IntoIterator<Item = ObjectKey>,
    lock: Lock,
) -> Result<LockCounts, Error> {
    let locks = stream::iter(keys).map(|key| store.lock(key, lock)).buffer_unordered(LOCKS_AT_ONCE);
    let count = |mut counts: LockCounts, locked| async move {
        match locked {
            Locked::Before => counts.before += 1,
            Locked::Now => counts.now += 1,
        }
        Ok(counts)
    };
    Ok(locks.try_fold(LockCounts::default(), count).await?)
}

/// Returns the names of the config and the key slots of a store: without them nothing in it opens.
pub async fn keys_to_open(store: &Arc<dyn Backend>) -> Result<Vec<ObjectKey>, Error> {
    let mut slots = OldestSlots::default();
    let mut listing = store.list(ObjectPrefix::Slots);
    while let Some(listed) = listing.try_next().await? {
        slots.take(&listed);
    }
    Ok(std::iter::once(ObjectKey::Config).chain(slots.ids().map(ObjectKey::Slot)).collect())
}
