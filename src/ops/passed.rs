//! What `latest` passes over: newer snapshots that are incomplete, and components that only older ones have.

use std::collections::BTreeSet;

use super::select::{captured, gives_back, is_complete};
use super::snapshot::SECRETS;
use crate::format::id::SnapshotId;
use crate::repo::LoadedSnapshot;

/// A snapshot, as it is named to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: SnapshotId,
    /// When it was begun.
    pub created_at: String,
}

impl Named {
    fn new(snapshot: &LoadedSnapshot) -> Self {
        Self { id: snapshot.id, created_at: snapshot.manifest.created_at.clone() }
    }
}

/// What whoever gets `latest` must know of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Newer snapshots that are incomplete.
    pub incomplete: usize,
    /// What was asked for; where nothing was named, what `latest` has.
    pub wanted: Vec<String>,
    /// The newest of the incomplete ones that gives all of this back.
    pub usable: Option<Named>,
    /// Components that `latest` lacks, where nothing was named, each with the newest complete snapshot of the same
    /// environment that has it: all of the same one together, newest first.
    pub missing: Vec<(Named, Vec<String>)>,
}

/// Returns what is passed over where the snapshot at `found` is taken of these, which are sorted, oldest first.
/// `components` is what was named.
#[must_use]
pub fn passed_over(sorted: &[LoadedSnapshot], found: usize, components: &[&str]) -> Option<PassedOver> {
    let (older, rest) = sorted.split_at_checked(found)?;
    let (latest, newer) = rest.split_first()?;
    let wanted = match components {
        [] => latest.manifest.components.clone(),
        named => named.iter().map(|name| (*name).to_owned()).collect(),
    };
    // As `latest` itself: secrets alone are those that were captured.
    let has = if wanted == [SECRETS] { captured } else { gives_back };
    let has_all = |snapshot: &&&LoadedSnapshot| wanted.iter().all(|name| has(snapshot, name));
    let incomplete: Vec<&LoadedSnapshot> = newer.iter().filter(|snapshot| !is_complete(snapshot)).collect();
    let usable = incomplete.iter().rev().find(has_all).map(|found| Named::new(found));
    let missing = if components.is_empty() { missing(older, latest) } else { Vec::new() };
    Some(PassedOver { incomplete: incomplete.len(), wanted, usable, missing })
}

fn missing(older: &[LoadedSnapshot], latest: &LoadedSnapshot) -> Vec<(Named, Vec<String>)> {
    let mut seen: BTreeSet<&String> = latest.manifest.components.iter().collect();
    let mut missing = Vec::new();
    let environment = &latest.manifest.environment;
    let fitting = |snapshot: &&LoadedSnapshot| is_complete(snapshot) && snapshot.manifest.environment == *environment;
    for snapshot in older.iter().rev().filter(fitting) {
        let names = snapshot.manifest.components.iter().filter(|name| seen.insert(name));
        let names: Vec<String> = names.cloned().collect();
        if !names.is_empty() {
            missing.push((Named::new(snapshot), names));
        }
    }
    missing
}
