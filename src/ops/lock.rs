//! Locks everything that a snapshot needs, also what it only reuses.

use std::collections::BTreeSet;

use super::restore::check_structure;
use super::{Error, Progress};
use crate::format::config::Part;
use crate::format::id::SnapshotId;
use crate::format::manifest::{ComponentStatus, Manifest};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};
use crate::repo::{Lock, LockCounts, Reader, Repository};

/// How long what a snapshot needs is locked, in the store of the data and in that of the secrets where it is another.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotLock {
    /// What is in the repository's store.
    pub data: Option<Lock>,
    /// What is in the secrets' own store.
    pub secrets: Option<Lock>,
}

/// Locks a snapshot and every object that a restore of it reads: config, key slots, index parts, the packs that
/// hold what its streams, tables and entries refer to, and the secrets that belong to it. What this run has put
/// is locked since then; this makes the locks of the rest longer where they are too short.
pub async fn lock_snapshot(
    repository: &Repository,
    id: SnapshotId,
    manifest: &Manifest,
    lock: SnapshotLock,
    progress: &dyn Progress,
) -> Result<LockCounts, Error> {
    progress.step("locking what the snapshot needs", None);
    let secrets = manifest.orkvault.secrets.as_ref().map(|secrets| secrets.snapshot);
    let is_apart = repository.part() == Part::Data;
    let mut counts = LockCounts::default();
    // The data first: what is wrong with the other store is not to leave it unlocked.
    if let Some(lock) = lock.data {
        let mut keys = data_objects(repository, id, manifest).await?;
        if !is_apart {
            keys.extend(secrets_objects(repository, secrets).await?);
        }
        counts += repository.lock(keys, lock).await?;
    }
    if let Some(lock) = lock.secrets
        && is_apart
    {
        counts += repository.lock_apart(secrets_objects(repository, secrets).await?, lock).await?;
    }
    Ok(counts)
}

/// Returns a secrets snapshot and its bundle.
async fn secrets_objects(repository: &Repository, secrets: Option<SnapshotId>) -> Result<Vec<ObjectKey>, Error> {
    let Some(id) = secrets else { return Ok(Vec::new()) };
    let bundle = repository.load_secrets_snapshot(id).await?.manifest.bundle;
    Ok(vec![ObjectKey::Snapshot(Namespace::Secrets, id), ObjectKey::Bundle(bundle)])
}

async fn data_objects(
    repository: &Repository,
    id: SnapshotId,
    manifest: &Manifest,
) -> Result<BTreeSet<ObjectKey>, Error> {
    let mut keys = needed_packs(repository, manifest).await?;
    keys.extend([ObjectKey::Config, ObjectKey::Snapshot(Namespace::Data, id)]);
    for prefix in [ObjectPrefix::Slots, ObjectPrefix::Indexes] {
        keys.extend(repository.list(prefix).await?.into_iter().map(|(key, _)| key));
    }
    Ok(keys)
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
