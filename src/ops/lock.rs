//! Locks everything that a snapshot needs, also what it only reuses.

use std::collections::BTreeSet;

use super::restore::check_structure;
use super::{Error, Progress};
use crate::format::id::SnapshotId;
use crate::format::manifest::{ComponentStatus, Manifest};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};
use crate::repo::{Lock, LockCounts, Reader, Repository};

/// Locks a snapshot and every object that a restore of it reads: config, key slots, index parts, the packs that
/// hold what its streams, tables and entries refer to, and the secrets that belong to it. What this run has put
/// is locked since then; this makes the locks of the rest longer where they are too short.
pub async fn lock_snapshot(
    repository: &Repository,
    id: SnapshotId,
    manifest: &Manifest,
    lock: Lock,
    progress: &dyn Progress,
) -> Result<LockCounts, Error> {
    progress.step("locking what the snapshot needs", None);
    let mut keys = needed_packs(repository, manifest).await?;
    keys.extend([ObjectKey::Config, ObjectKey::Snapshot(Namespace::Data, id)]);
    for prefix in [ObjectPrefix::Slots, ObjectPrefix::Indexes] {
        keys.extend(repository.list(prefix).await?.into_iter().map(|(key, _)| key));
    }
    if let Some(secrets) = &manifest.orkvault.secrets {
        keys.insert(ObjectKey::Snapshot(Namespace::Secrets, secrets.snapshot));
        let secrets = repository.load_secrets_snapshot(secrets.snapshot).await?;
        keys.insert(ObjectKey::Bundle(secrets.manifest.bundle));
    }
    Ok(repository.lock(keys, lock).await?)
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
