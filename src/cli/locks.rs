//! Locks what a new snapshot needs, in the stores that lock, and says so.

use serde_json::{Value, json};

use super::resolve::Settings;
use super::store;
use crate::format::id::SnapshotId;
use crate::format::manifest::Manifest;
use crate::ops::lock::{Locker, Locks};
use crate::ops::snapshot::reason;
use crate::ops::{self, Progress};
use crate::repo::{LockCounts, Repository};

/// What came of it.
pub(crate) struct SaidLocks {
    /// For `--json`.
    pub(crate) json: Value,
    /// For people; `Err` where the snapshot, which is there, is not locked.
    pub(crate) line: Result<String, String>,
}

/// Locks what a snapshot needs. `None` where nobody asked for locks.
pub(crate) async fn lock(
    settings: &Settings,
    repository: &Repository,
    id: SnapshotId,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Option<SaidLocks> {
    let locks = wanted(settings)?;
    Some(match Locker::new(repository, locks).lock(id, manifest, progress).await {
        Ok(counts) => {
            let (all, until) = (counts.before + counts.now, until(locks));
            let line = Ok(format!("{all} objects are locked until {until}, {} of them since now", counts.now));
            SaidLocks { json: row(locks, counts), line }
        }
        Err(error) => {
            let said = not_locked(id, &reason(&error));
            SaidLocks { json: json!({ "error": said }), line: Err(said) }
        }
    })
}

/// Returns the locks that were asked for.
pub(crate) fn wanted(settings: &Settings) -> Option<Locks> {
    let data = store::lock(settings, &settings.repository());
    let secrets = settings.secrets_repository().map_or(data, |store| store::lock(settings, &store));
    (data.is_some() || secrets.is_some()).then_some(Locks { data, secrets })
}

/// Returns what `--json` says of locked objects.
pub(crate) fn row(locks: Locks, counts: LockCounts) -> Value {
    json!({ "until": until(locks), "objects": counts.before + counts.now, "objects_now": counts.now })
}

/// Returns until when everything is locked: the sooner of the two.
fn until(locks: Locks) -> String {
    let least = [locks.data, locks.secrets].into_iter().flatten().map(|lock| lock.least).min();
    least.and_then(|least| jiff::Timestamp::try_from(least).ok()).map(ops::stamp).unwrap_or_default()
}

/// What is said of a snapshot that is there and not locked.
pub(crate) fn not_locked(id: SnapshotId, reason: &str) -> String {
    format!("snapshot {id} is not locked: {reason}")
}
