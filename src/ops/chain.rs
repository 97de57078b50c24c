//! The chain of a writer's snapshots: each names those that no other had followed yet, so that one that is taken
//! away shows. Runs at the same time do not see each other and split it; the next run follows both.

use std::collections::HashSet;

use super::stamp;
use crate::format::id::{SnapshotId, WriterId};
use crate::format::manifest::{PreviousRecord, WriterRecord};
use crate::repo::LoadedSnapshot;

/// A clock that is less wrong than this, in minutes, is not spoken of: two hosts of one writer are never quite together.
const SKEW_MINUTES: i64 = 10;

/// Returns the last snapshot of a writer in `history`, oldest first, where that says that it was made after `now`: a clock is
/// wrong, or was.
#[must_use]
pub fn from_the_future(history: &[LoadedSnapshot], id: WriterId, now: jiff::Timestamp) -> Option<&LoadedSnapshot> {
    let now = stamp(now.checked_add(jiff::SignedDuration::from_mins(SKEW_MINUTES)).unwrap_or(now));
    let mut newest_first = history.iter().rev();
    let last = newest_first.find(|snapshot| {
        let details = &snapshot.manifest.orkvault;
        details.writer.id == id && details.copied_from.is_none()
    });
    last.filter(|last| last.manifest.created_at > now)
}

/// Returns what the next snapshot of a writer says of those before it.
///
/// The sequence is above that of every snapshot of the writer in `history`, those that others followed included:
/// one whose follower cannot be read counts, too.
#[must_use]
pub fn follow(history: &[LoadedSnapshot], id: WriterId) -> WriterRecord {
    let own = || history.iter().filter(|snapshot| snapshot.manifest.orkvault.writer.id == id);
    let links = own().flat_map(|snapshot| &snapshot.manifest.orkvault.writer.previous);
    let followed: HashSet<SnapshotId> = links.map(|link| link.snapshot).collect();
    let heads = own().filter(|snapshot| !followed.contains(&snapshot.id));
    let mut previous: Vec<PreviousRecord> =
        heads.map(|snapshot| PreviousRecord { snapshot: snapshot.id, blake3: snapshot.hash }).collect();
    previous.sort_by_key(|link| link.snapshot);
    let sequence = own().map(|snapshot| snapshot.manifest.orkvault.writer.sequence).max().unwrap_or(0) + 1;
    WriterRecord { id, sequence, previous }
}
