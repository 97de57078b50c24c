//! Lists snapshots, and finds the one that is meant.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};

use super::passed::{PassedOver, passed_over};
use super::snapshot::{SECRETS, reason};
use super::{Error, Progress};
use crate::format::config::Part;
use crate::format::id::{ContentHash, SnapshotId, WriterId};
use crate::format::manifest::{
    self, ComponentRecord, Details, Manifest, SecretsRef, SnapshotStatus, Stats, WriterRecord,
};
use crate::format::object::Namespace;
use crate::repo::{self, LoadedSnapshot, Repository, SecretsSnapshot};

/// Manifests that are read at the same time.
const MANIFESTS_AT_ONCE: usize = 8;

/// Returns every data snapshot, oldest first (see [`sort`]). A damaged one is an error that names it.
pub async fn load_all(repository: &Repository) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut snapshots = Vec::new();
    for loaded in load_each(repository).await? {
        snapshots.push(loaded.1?);
    }
    sort(&mut snapshots);
    Ok(snapshots)
}

/// Returns every data snapshot that can be read, oldest first; warns of the others. For work that one damaged
/// manifest must not stop: tonight's snapshot. A store that does not answer is an error: it may have what matters.
pub async fn load_readable(repository: &Repository, progress: &dyn Progress) -> Result<Vec<LoadedSnapshot>, Error> {
    load_readable_of(repository, &ids(repository).await?, progress).await
}

/// As [`load_readable`], of these.
pub async fn load_readable_of(
    repository: &Repository,
    ids: &[SnapshotId],
    progress: &dyn Progress,
) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut snapshots = Vec::new();
    for (id, loaded) in load_these(repository, ids).await? {
        match loaded {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) => progress.warn(&format!("snapshot {id} cannot be read: {}", reason(&error))),
        }
    }
    sort(&mut snapshots);
    Ok(snapshots)
}

/// A snapshot, or why it cannot be read.
pub type Loaded = (SnapshotId, Result<LoadedSnapshot, repo::Error>);

/// Returns every data snapshot or why it cannot be read, in no order. A store that does not answer is an error.
pub async fn load_each(repository: &Repository) -> Result<Vec<Loaded>, Error> {
    load_these(repository, &ids(repository).await?).await
}

/// As [`load_each`], of these. A store that has been given up is not asked again.
pub async fn load_these(repository: &Repository, ids: &[SnapshotId]) -> Result<Vec<Loaded>, Error> {
    let load = futures::stream::iter(ids.to_vec())
        .map(|id| async move {
            match load(repository, id).await {
                Err(error) if error.is_outage() => Err(error.into()),
                loaded => Ok((id, loaded)),
            }
        })
        .buffered(MANIFESTS_AT_ONCE);
    load.try_collect().await
}

/// Returns the ids of all snapshots that there are to choose from.
async fn ids(repository: &Repository) -> Result<Vec<SnapshotId>, repo::Error> {
    let namespace = if repository.part() == Part::Secrets { Namespace::Secrets } else { Namespace::Data };
    repository.snapshot_ids(namespace).await
}

async fn load(repository: &Repository, id: SnapshotId) -> Result<LoadedSnapshot, repo::Error> {
    if repository.part() == Part::Secrets {
        Ok(secrets_alone(repository.load_secrets_snapshot(id).await?))
    } else {
        repository.load_snapshot(id).await
    }
}

/// Returns a secrets snapshot as if it were one of data that has nothing but secrets: where their own store is all
/// that there is, everything that reads snapshots works on it.
fn secrets_alone(secrets: SecretsSnapshot) -> LoadedSnapshot {
    let SecretsSnapshot { id, manifest } = secrets;
    let record = ComponentRecord::new(manifest.created_at.clone(), manifest.created_at.clone());
    let details = Details {
        version: manifest::VERSION,
        tool: String::new(),
        status: SnapshotStatus::Complete,
        finished_at: manifest.created_at.clone(),
        components: BTreeMap::from([(SECRETS.to_owned(), record)]),
        writer: WriterRecord { id: manifest.writer, sequence: 0, previous: Vec::new() },
        secrets: Some(SecretsRef { snapshot: id, location: None }),
        copied_from: manifest.copied_from,
        tags: Vec::new(),
        stats: Stats::default(),
    };
    let manifest = Manifest {
        schema: manifest::SCHEMA.to_owned(),
        created_at: manifest.created_at,
        environment: manifest.environment,
        host: manifest.host,
        components: vec![SECRETS.to_owned()],
        orkvault: details,
    };
    // No chain is made of it.
    LoadedSnapshot { id, hash: ContentHash::from_bytes([0; 32]), manifest }
}

/// Sorts snapshots, oldest first: by the time at which they were made, but none behind one that its writer numbered higher. So
/// a night on which the clock was years ahead hides no later one, and one on which it was behind is still the last. Copies,
/// which were made long after what they show, have the time of the original and no place in that.
pub fn sort(snapshots: &mut [LoadedSnapshot]) {
    let number = |details: &Details| (details.writer.id, details.writer.sequence);
    let mut times: BTreeMap<(WriterId, u64), String> = BTreeMap::new();
    for LoadedSnapshot { manifest, .. } in snapshots.iter().filter(|snapshot| is_numbered(snapshot)) {
        let time = times.entry(number(&manifest.orkvault)).or_insert_with(|| manifest.created_at.clone());
        if manifest.created_at < *time {
            time.clone_from(&manifest.created_at);
        }
    }
    let mut later: Option<(WriterId, String)> = None;
    for ((writer, _), time) in times.iter_mut().rev() {
        if let Some((same, bound)) = &later
            && same == writer
            && bound < time
        {
            time.clone_from(bound);
        }
        later = Some((*writer, time.clone()));
    }
    snapshots.sort_by_cached_key(|snapshot| {
        let LoadedSnapshot { id, manifest, .. } = snapshot;
        let time = times.get(&number(&manifest.orkvault)).filter(|_| is_numbered(snapshot));
        let time = time.unwrap_or(&manifest.created_at).clone();
        (time, manifest.orkvault.writer.sequence, manifest.created_at.clone(), *id)
    });
}

/// Returns whether a snapshot's number says when it was made: of copies it does not, and secrets alone have none.
const fn is_numbered(snapshot: &LoadedSnapshot) -> bool {
    let details = &snapshot.manifest.orkvault;
    details.copied_from.is_none() && details.writer.sequence > 0
}

/// Returns whether every component of a snapshot is complete.
#[must_use]
pub fn is_complete(snapshot: &LoadedSnapshot) -> bool {
    snapshot.manifest.orkvault.status == SnapshotStatus::Complete
}

/// Returns whether a snapshot's own run captured a component whole.
pub(super) fn captured(snapshot: &LoadedSnapshot, name: &str) -> bool {
    snapshot.manifest.components.iter().any(|found| found == name)
}

/// Returns whether a snapshot gives a component back: the secrets that belong to its data may be of an earlier run.
#[must_use]
pub fn gives_back(snapshot: &LoadedSnapshot, name: &str) -> bool {
    captured(snapshot, name) || name == SECRETS && snapshot.manifest.orkvault.secrets.is_some()
}

/// The snapshot that was meant.
pub struct Found {
    /// The snapshot.
    pub snapshot: LoadedSnapshot,
    /// Snapshots that are damaged, and why they could not be read: one of them may be newer than `latest`.
    pub unreadable: Vec<(SnapshotId, repo::Error)>,
    /// What `latest` passed over; `None` for a snapshot that was named.
    pub passed: Option<PassedOver>,
}

/// As [`find_with`] without components, for those who have nobody to tell of damaged snapshots.
pub async fn find(repository: &Repository, wanted: &str) -> Result<LoadedSnapshot, Error> {
    Ok(find_with(repository, wanted, &[]).await?.snapshot)
}

/// Finds the one whose id starts with `wanted` (at least four hex digits), or `latest`: the newest complete snapshot
/// that has all of these components. One that was made of something else only is not in their way.
///
/// Damaged manifests are not in the way of `latest` either: whoever restores at night wants the newest that can be
/// restored, and to be told. A store that does not answer is an error: asked again, it may have a newer one.
pub async fn find_with(repository: &Repository, wanted: &str, components: &[&str]) -> Result<Found, Error> {
    if wanted == "latest" {
        return latest(repository, components).await;
    }
    let named = format!("snapshot {wanted}");
    let wanted = wanted.to_ascii_lowercase();
    let ids = ids(repository).await?;
    let mut fitting = ids.into_iter().filter(|id| wanted.len() >= 4 && id.to_string().starts_with(&wanted));
    match (fitting.next(), fitting.count()) {
        (None, _) => Err(Error::NoSnapshot { wanted: named }),
        (Some(id), 0) => Ok(Found { snapshot: load(repository, id).await?, unreadable: Vec::new(), passed: None }),
        (Some(_), more) => Err(Error::AmbiguousSnapshot { wanted: named, count: more + 1 }),
    }
}

async fn latest(repository: &Repository, components: &[&str]) -> Result<Found, Error> {
    let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
    for (id, loaded) in load_each(repository).await? {
        match loaded {
            Ok(snapshot) => readable.push(snapshot),
            Err(error) if error.is_damage() => unreadable.push((id, error)),
            Err(error) => return Err(error.into()),
        }
    }
    // Secrets alone are those that were captured last, not those that a later run of something else refers to.
    let is_fresh =
        components == [SECRETS] && readable.iter().any(|found| is_complete(found) && captured(found, SECRETS));
    let has = if is_fresh { captured } else { gives_back };
    let has_all = |snapshot: &LoadedSnapshot| components.iter().all(|name| has(snapshot, name));
    sort(&mut readable);
    if let Some(at) = readable.iter().rposition(|found| is_complete(found) && has_all(found)) {
        let passed = passed_over(&readable, at, components);
        return Ok(Found { snapshot: readable.swap_remove(at), unreadable, passed });
    }
    let unreadable = unreadable.into_iter().next().map(|(_, error)| Box::new(error));
    let wanted = match components {
        [] => "complete snapshot".to_owned(),
        named => format!("complete snapshot with {}", named.join(", ")),
    };
    let has_any = |found: &&LoadedSnapshot| !components.is_empty() || !found.manifest.components.is_empty();
    match (readable.iter().rfind(|found| has_any(found) && has_all(found)), unreadable) {
        (Some(LoadedSnapshot { id, manifest, .. }), unreadable) => Err(Error::OnlyIncomplete {
            wanted,
            snapshot: *id,
            created_at: manifest.created_at.clone(),
            has: if components.is_empty() { manifest.components.join(", ") } else { components.join(", ") },
            unreadable,
        }),
        // It may be the one.
        (None, Some(error)) => Err((*error).into()),
        (None, None) => Err(Error::NoSnapshot { wanted }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::{BundleId, RepositoryId};
    use crate::format::manifest::{OriginRecord, SECRETS_SCHEMA, SecretsManifest};

    #[test]
    fn secrets_alone_are_sorted_by_time_whoever_made_them() {
        let made = |number: u8, is_copy: bool| {
            let id = SnapshotId::from_bytes([number; 32]);
            let origin = OriginRecord { repository: RepositoryId::from_bytes([9; 32]), snapshot: id };
            let manifest = SecretsManifest {
                schema: SECRETS_SCHEMA.to_owned(),
                created_at: format!("2026-01-{number:02}T04:00:00Z"),
                environment: "prod".to_owned(),
                host: "host".to_owned(),
                bundle: BundleId::from_bytes([number; 32]),
                files: 1,
                writer: WriterId::from_bytes([1; 32]),
                copied_from: is_copy.then_some(origin),
            };
            secrets_alone(SecretsSnapshot { id, manifest })
        };
        let mut snapshots = [made(30, false), made(5, true), made(1, false), made(2, false)];
        sort(&mut snapshots);
        let days: Vec<u8> = snapshots.iter().map(|snapshot| snapshot.id.as_bytes()[0]).collect();
        assert_eq!(days, [1, 2, 5, 30]);
    }
}
