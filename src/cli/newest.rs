//! The newest snapshot that this host made, remembered in its state directory: a store that loses it, or that
//! is put back to an older state, is noticed by the host that wrote to it. Nothing else can notice that: the
//! chain of a writer's snapshots only shows those that are missing *between* others.

use std::io::Write as _;
use std::path::PathBuf;

use super::error::Error;
use super::output::error_line;
use super::resolve::{Settings, make_private};
use crate::format::config::Part;
use crate::format::id::SnapshotId;
use crate::format::object::{Namespace, ObjectKey};
use crate::ops::check::Finding;
use crate::ops::snapshot::GONE;
use crate::repo::Repository;

/// One file a repository: another repository in the same place is another one.
fn path(settings: &Settings, repository: &Repository) -> PathBuf {
    settings.state_dir().join(format!("newest-{}", repository.config().repository))
}

/// Remembers a snapshot that was committed. Best effort: a state directory that cannot be written is said, and
/// the snapshot is as good as ever.
pub(crate) fn remember(settings: &Settings, repository: &Repository, id: SnapshotId) {
    let path = path(settings, repository);
    let fail = |source| Error::File { action: "cannot write", path: path.clone(), source };
    let write = || {
        make_private(&settings.state_dir())?;
        let new = path.with_extension("new");
        let mut file = std::fs::File::create(&new).map_err(fail)?;
        file.write_all(format!("{id}\n").as_bytes()).map_err(fail)?;
        file.sync_all().map_err(fail)?;
        std::fs::rename(&new, &path).map_err(fail)
    };
    if let Err(error) = write() {
        let reason = crate::ops::snapshot::reason(&error);
        error_line(&format!("warning: this host will not notice if the snapshot disappears: {reason}"));
    }
}

/// Returns the snapshot that this host made last, where it remembers one.
pub(crate) fn expected(settings: &Settings, repository: &Repository) -> Option<SnapshotId> {
    if repository.part() == Part::Secrets {
        // It has no snapshot of data at all.
        return None;
    }
    // A file that is not there, or does not hold an id, says nothing.
    std::fs::read_to_string(path(settings, repository)).ok()?.trim_end().parse().ok()
}

/// Returns a finding where the snapshot that this host made last is not in the repository (any more).
pub(crate) async fn lost(settings: &Settings, repository: &Repository) -> Result<Option<Finding>, Error> {
    let Some(id) = expected(settings, repository) else { return Ok(None) };
    if repository.has_snapshot(id).await? {
        return Ok(None);
    }
    Ok(Some(Finding {
        object: ObjectKey::Snapshot(Namespace::Data, id).to_string(),
        problem: GONE.to_owned(),
        affects: Vec::new(),
    }))
}
