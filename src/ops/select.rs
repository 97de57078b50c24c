//! Lists snapshots, and finds the one that is meant.

use super::snapshot::reason;
use super::{Error, Progress};
use crate::format::id::SnapshotId;
use crate::format::manifest::SnapshotStatus;
use crate::format::object::Namespace;
use crate::repo::{self, LoadedSnapshot, Repository};

/// Manifests that are read at the same time.
const MANIFESTS_AT_ONCE: usize = 8;

/// Returns every data snapshot, oldest first (by time, then id). A damaged one is an error that names it.
pub async fn load_all(repository: &Repository) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut snapshots = Vec::new();
    for loaded in load_each(repository).await? {
        snapshots.push(loaded.1?);
    }
    snapshots.sort_by(|left, right| order(left).cmp(&order(right)));
    Ok(snapshots)
}

/// Returns every data snapshot that can be read, oldest first; warns of the others. For work that one damaged
/// manifest must not stop: tonight's snapshot.
pub async fn load_readable(repository: &Repository, progress: &dyn Progress) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut snapshots = Vec::new();
    for (id, loaded) in load_each(repository).await? {
        match loaded {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) => progress.warn(&format!("snapshot {id} cannot be read: {}", reason(&error))),
        }
    }
    snapshots.sort_by(|left, right| order(left).cmp(&order(right)));
    Ok(snapshots)
}

/// Returns every data snapshot or why it cannot be read, in no order.
pub async fn load_each(
    repository: &Repository,
) -> Result<Vec<(SnapshotId, Result<LoadedSnapshot, repo::Error>)>, Error> {
    Ok(load_these(repository, &repository.snapshot_ids(Namespace::Data).await?).await)
}

/// Returns these data snapshots or why they cannot be read.
pub async fn load_these(
    repository: &Repository,
    ids: &[SnapshotId],
) -> Vec<(SnapshotId, Result<LoadedSnapshot, repo::Error>)> {
    let mut out = Vec::new();
    for batch in ids.chunks(MANIFESTS_AT_ONCE) {
        let load = batch.iter().map(|id| async { (*id, repository.load_snapshot(*id).await) });
        out.extend(futures::future::join_all(load).await);
    }
    out
}

fn order(snapshot: &LoadedSnapshot) -> (&str, u64, SnapshotId) {
    (&snapshot.manifest.created_at, snapshot.manifest.orkvault.writer.sequence, snapshot.id)
}

/// Returns whether every component of a snapshot is complete.
#[must_use]
pub fn is_complete(snapshot: &LoadedSnapshot) -> bool {
    snapshot.manifest.orkvault.status == SnapshotStatus::Complete
}

/// Finds `latest` (the newest complete snapshot), or the one whose id starts with `wanted` (at least four
/// hex digits).
pub async fn find(repository: &Repository, wanted: &str) -> Result<LoadedSnapshot, Error> {
    if wanted == "latest" {
        let newest = load_all(repository).await?.into_iter().rev().find(is_complete);
        return newest.ok_or_else(|| Error::NoSnapshot { wanted: "complete snapshot".to_owned() });
    }
    let named = format!("snapshot {wanted}");
    let wanted = wanted.to_ascii_lowercase();
    let ids = repository.snapshot_ids(Namespace::Data).await?;
    let mut fitting = ids.into_iter().filter(|id| wanted.len() >= 4 && id.to_string().starts_with(&wanted));
    match (fitting.next(), fitting.count()) {
        (None, _) => Err(Error::NoSnapshot { wanted: named }),
        (Some(id), 0) => Ok(repository.load_snapshot(id).await?),
        (Some(_), more) => Err(Error::AmbiguousSnapshot { wanted: named, count: more + 1 }),
    }
}

/// As [`find`]; `latest` is the newest complete snapshot that has all of these components: one that was made
/// of something else only is not in their way.
pub async fn find_with(repository: &Repository, wanted: &str, components: &[&str]) -> Result<LoadedSnapshot, Error> {
    if wanted != "latest" || components.is_empty() {
        return find(repository, wanted).await;
    }
    let has = |snapshot: &LoadedSnapshot, name: &str| snapshot.manifest.components.iter().any(|found| found == name);
    let has_all = |snapshot: &LoadedSnapshot| components.iter().all(|name| has(snapshot, name));
    let newest = load_all(repository).await?.into_iter().rev().find(|found| is_complete(found) && has_all(found));
    newest.ok_or_else(|| Error::NoSnapshot { wanted: format!("complete snapshot with {}", components.join(", ")) })
}
