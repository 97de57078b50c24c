//! Locks what a new snapshot needs, in the stores that lock, and says so.

use serde_json::{Value, json};

use super::resolve::Settings;
use super::store;
use crate::format::id::SnapshotId;
use crate::format::manifest::Manifest;
use crate::ops::lock::{Locks, lock_snapshot};
use crate::ops::snapshot::reason;
use crate::ops::{self, Progress};
use crate::repo::Repository;

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
    let data = store::lock(settings, &settings.repository());
    let secrets = settings.secrets_repository().map_or(data, |store| store::lock(settings, &store));
    // The sooner of the two.
    let first = [data, secrets].into_iter().flatten().min_by_key(|lock| lock.least)?;
    let locked = lock_snapshot(repository, id, manifest, Locks { data, secrets }, progress).await;
    Some(match locked {
        Ok(counts) => {
            let until = jiff::Timestamp::try_from(first.least).map(ops::stamp).unwrap_or_default();
            let all = counts.before + counts.now;
            SaidLocks {
                json: json!({ "until": until, "objects": all, "objects_now": counts.now }),
                line: Ok(format!("{all} objects are locked until {until}, {} of them since now", counts.now)),
            }
        }
        Err(error) => {
            let said = format!("snapshot {id} is not locked: {}", reason(&error));
            SaidLocks { json: json!({ "error": said }), line: Err(said) }
        }
    })
}
