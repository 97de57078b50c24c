//! Locks everything that a snapshot needs, also what it only reuses.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::structure::check_structure;
use super::{Error, Progress};
use crate::backend::Backend;
use crate::format::id::SnapshotId;
use crate::format::manifest::{ComponentStatus, Manifest};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};
use crate::repo::{Lock, LockCounts, Reader, Repository, keys_to_open, lock_objects};

/// How long objects are locked, in the stores that are to lock.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// In the store of the data.
    pub data: Option<Lock>,
    /// In the store of the secrets, which may be the same.
    pub secrets: Option<Lock>,
}

/// Locks snapshots of a repository, one after the other. What several of them need is looked at once.
pub struct Locker<'a> {
    repository: &'a Repository,
    locks: Locks,
    /// Objects that are locked long enough, of the store of the data and of the one of the secrets.
    data: HashSet<ObjectKey>,
    secrets: HashSet<ObjectKey>,
}

impl<'a> Locker<'a> {
    /// Nothing is known to be locked.
    #[must_use]
    pub fn new(repository: &'a Repository, locks: Locks) -> Self {
        Self { repository, locks, data: HashSet::new(), secrets: HashSet::new() }
    }

    /// Locks a snapshot and every object that a restore of it reads: config, key slots, index parts, the packs that
    /// hold what its streams, tables and entries refer to, and the secrets that belong to it. What this run has put
    /// is locked since then; this makes the locks of the rest longer where they are too short.
    pub async fn lock(
        &mut self,
        id: SnapshotId,
        manifest: &Manifest,
        progress: &dyn Progress,
    ) -> Result<LockCounts, Error> {
        progress.step("locking what the snapshot needs", None);
        let (repository, locks) = (self.repository, self.locks);
        let mut counts = LockCounts::default();
        if let Some(lock) = locks.data {
            let store = repository.backend();
            let mut keys = needed_packs(repository, manifest).await?;
            keys.insert(ObjectKey::Snapshot(Namespace::Data, id));
            keys.extend(repository.list(ObjectPrefix::Indexes).await?.into_iter().map(|(key, _)| key));
            keys.extend(keys_to_open(&store).await?);
            counts = counts.and(lock_all(&store, keys, lock, &mut self.data).await?);
        }
        if let (Some(lock), Some(secrets)) = (locks.secrets, &manifest.orkvault.secrets) {
            let store = repository.secrets_backend()?;
            let snapshot = repository.load_secrets_snapshot(secrets.snapshot).await?;
            let mut keys: BTreeSet<ObjectKey> = [
                ObjectKey::Snapshot(Namespace::Secrets, secrets.snapshot),
                ObjectKey::Bundle(snapshot.manifest.bundle),
            ]
            .into();
            if repository.secrets_location().is_some() || locks.data.is_none() {
                keys.extend(keys_to_open(&store).await?);
            }
            counts = counts.and(lock_all(&store, keys, lock, &mut self.secrets).await?);
        }
        Ok(counts)
    }
}

async fn lock_all(
    store: &Arc<dyn Backend>,
    keys: BTreeSet<ObjectKey>,
    lock: Lock,
    locked: &mut HashSet<ObjectKey>,
) -> Result<LockCounts, Error> {
    let (known, rest): (Vec<ObjectKey>, Vec<ObjectKey>) = keys.into_iter().partition(|key| locked.contains(key));
    let counts = lock_objects(store, rest.iter().copied(), lock).await?;
    locked.extend(rest);
    Ok(counts.and(LockCounts { before: known.len() as u64, now: 0 }))
}

/// Returns the packs in which a restore would find everything, found as a restore finds it.
async fn needed_packs(repository: &Repository, manifest: &Manifest) -> Result<BTreeSet<ObjectKey>, Error> {
    let index = repository.index();
    index.begin_trace();
    let reader = Reader::new(repository)?;
    for record in manifest.orkvault.components.values() {
        if record.status == ComponentStatus::Complete {
            // It was written a moment ago: what does not fit together now is no finding but a failure.
            check_structure(&reader, record).await.map_err(|(_, error)| Error::Repo(error))?;
        }
    }
    Ok(index.end_trace().into_iter().map(ObjectKey::Pack).collect())
}
