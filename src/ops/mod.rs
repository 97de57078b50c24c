//! The use cases: what an operator asks for, made of repository and components.
//!
//! Deciding is pure, doing is dumb: a plan has no side effect, applying it has no choices. Time, names of
//! hosts and progress are arguments; nothing here prints.

pub mod capture;
pub mod chain;
pub mod check;
pub mod copy;
pub mod dump;
pub mod layout;
pub mod lock;
pub mod passed;
pub mod restore;
mod rows;
pub mod select;
pub mod snapshot;
pub mod stored;
pub mod structure;

use std::collections::HashSet;

use crate::format::id::{IndexId, SnapshotId};
use crate::{component, repo};

/// Why a use case failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository failed.
    #[error(transparent)]
    Repo(#[from] repo::Error),
    /// A component failed.
    #[error("{component} failed")]
    Component {
        /// Its name.
        component: String,
        /// Why.
        source: Box<component::Error>,
    },
    /// No snapshot fits.
    #[error("the repository has no {wanted}")]
    NoSnapshot {
        /// `snapshot 3f09`, `complete snapshot`.
        wanted: String,
    },
    /// Only an incomplete snapshot fits, which is never taken unasked.
    #[error("the repository has no {wanted}, but {snapshot} of {created_at}, which is incomplete, has {has} whole")]
    OnlyIncomplete {
        /// As in [`Error::NoSnapshot`].
        wanted: String,
        /// The newest that fits.
        snapshot: SnapshotId,
        /// When it was begun.
        created_at: String,
        /// What it gives back.
        has: String,
        /// One that cannot be read, which may be what was meant.
        #[source]
        unreadable: Option<Box<repo::Error>>,
    },
    /// Several snapshots fit.
    #[error("{wanted} could be {count} snapshots")]
    AmbiguousSnapshot {
        /// What was asked for.
        wanted: String,
        /// How many fit.
        count: usize,
    },
    /// The snapshot has no such component, or it is not complete there.
    #[error("snapshot {snapshot} has no complete {component}: {reason}")]
    NoComponent {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The component.
        component: String,
        /// `it was not captured`, or why it failed.
        reason: String,
    },
    /// The component has no such stream or entry.
    #[error("{component} of snapshot {snapshot} has no {name}")]
    NoStream {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The component.
        component: String,
        /// The stream or entry.
        name: String,
    },
    /// Nothing is copied from a repository to itself.
    #[error("{location} is the repository itself")]
    SameRepository {
        /// The source.
        location: String,
    },
    /// A snapshot refers to chunks that the repository does not have.
    #[error("{what} of snapshot {snapshot} is not whole")]
    NotWhole {
        /// The snapshot.
        snapshot: SnapshotId,
        /// The component, stream or entry.
        what: String,
        /// Why.
        source: Box<repo::Error>,
    },
}

/// Hears how far a use case has come. Called often and from any thread; must not block.
pub trait Progress: Send + Sync {
    /// A new step has begun: `capturing mongodb`. `total_bytes` where it is known.
    fn step(&self, name: &str, total_bytes: Option<u64>);

    /// So many more bytes have passed.
    fn advance(&self, bytes: u64);

    /// Something that the operator should hear about at once.
    fn warn(&self, text: &str);
}

/// Brings the index in line with the repository. Index parts that cannot be read are left out with a warning:
/// what only they list counts as unknown, so a snapshot stores it again and a restore that needs it says so.
pub(crate) async fn load_index(repository: &repo::Repository, progress: &dyn Progress) -> Result<(), Error> {
    say_unread(&repository.load_index_leniently().await?, progress);
    Ok(())
}

/// As [`load_index`], with parts that were listed before.
pub(crate) async fn load_index_of(
    repository: &repo::Repository,
    there: &HashSet<IndexId>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    say_unread(&repository.load_index_of(there).await?, progress);
    Ok(())
}

fn say_unread(parts: &[(IndexId, repo::Error)], progress: &dyn Progress) {
    for (id, error) in parts {
        progress.warn(&format!("index part {id} cannot be read: {}", snapshot::reason(error)));
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&self, _name: &str, _total_bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn warn(&self, _text: &str) {}
}

/// Tells the time. A value, so that tests can set it.
pub trait Clock: Send + Sync {
    /// Returns now.
    fn now(&self) -> jiff::Timestamp;
}

/// Returns a time as manifests have it: RFC 3339, UTC, whole seconds.
#[must_use]
pub fn stamp(time: jiff::Timestamp) -> String {
    // Whole seconds: `Timestamp` prints a fraction only where there is one.
    jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
