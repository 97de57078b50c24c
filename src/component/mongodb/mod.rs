//! The `mongodb` component: a mongodump archive, proven whole while it is captured, and mongorestore for
//! the way back.
//!
//! A capture is good only when mongodump ended with exit code 0 *and* the archive is structurally whole
//! with every checksum right: either alone has been seen to lie.

pub mod archive;
mod dump;
mod import;
mod process;
mod restore;
mod server;
mod tools;

use std::time::Duration;

pub use archive::{Archive, ArchiveError, EmptyArchive};
pub use dump::{MongoSource, Oplog, Scope, SourceOptions};
pub use import::ArchiveFile;
pub use restore::{MongoSink, SinkOptions};
pub use server::{Address, Login, Server};
pub use tools::{Place, Tools};

use super::{ErrorKind, docker};

/// The component's name.
pub const COMPONENT: &str = "mongodb";
/// The name of its one stream.
pub const STREAM: &str = "mongo.archive";

/// What dumping, restoring or importing MongoDB failed at. No message ever holds a password: what the
/// tools print is kept without the user part of addresses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a whole mongodump archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Docker failed, or the process in the container could not be followed.
    #[error(transparent)]
    Docker(docker::Error),
    /// mongodump or mongorestore is not there.
    #[error("{program} cannot be run {place}: {reason}")]
    ToolMissing {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// `in container x`, `in /opt/tools`, `from PATH`.
        place: String,
        /// The system's or the shell's words.
        reason: String,
    },
    /// The server does not take this user and password.
    #[error("mongodb refused the login of {program} {place}: {stderr_tail}")]
    LoginRefused {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// Where it ran.
        place: String,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// No server answers at this address.
    #[error("{program} {place} cannot reach mongodb: {stderr_tail}")]
    Unreachable {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// Where it ran.
        place: String,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// A tool failed in some other way.
    #[error("{program} {place} failed with exit code {exit_code}: {stderr_tail}")]
    ToolFailed {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// Where it ran.
        place: String,
        /// Its exit code; 128 and the signal's number where a signal ended it.
        exit_code: i64,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// A tool neither wrote nor read for too long. It has been killed.
    #[error("{program} {place} was silent for {} s", .idle.as_secs())]
    Idle {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// Where it ran.
        place: String,
        /// How long.
        idle: Duration,
    },
    /// The pipe to or from a tool broke.
    #[error("talking to {program} {place} failed")]
    Pipe {
        /// `mongodump` or `mongorestore`.
        program: &'static str,
        /// Where it ran.
        place: String,
        /// The system's own error.
        source: std::io::Error,
    },
    /// An archive that was made elsewhere cannot be read.
    #[error("reading {origin} failed")]
    Import {
        /// The file's name, or `standard input`.
        origin: String,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The stream's reader stopped before its end, so nothing is known about the rest.
    #[error("the archive was not read to its end")]
    NotReadToEnd,
    /// No database can have this name.
    #[error("{name:?} is not the name of a database")]
    DatabaseName {
        /// The name.
        name: String,
    },
    /// The snapshot does not say which one database it holds, so it cannot go into another one.
    #[error("the archive does not hold exactly one database, so it cannot become {target}")]
    NotOneDatabase {
        /// The database that was asked for.
        target: String,
    },
    /// mongorestore replays an oplog only under the names that it was written for.
    #[error("the archive has an oplog, so its databases cannot be renamed to {target}")]
    OplogRename {
        /// The database that was asked for.
        target: String,
    },
    /// mongorestore had begun to replace collections when it failed.
    #[error(
        "{target} is only partly restored: mongorestore ended with exit code {exit_code} after {restored} of \
         {expected} documents, {failed} failed: {stderr_tail}"
    )]
    HalfRestored {
        /// The database, or `all databases`.
        target: String,
        /// Its exit code: 0 says nothing, it exits with 0 when documents failed.
        exit_code: i64,
        /// Documents in the archive.
        expected: u64,
        /// Documents that it says it restored.
        restored: u64,
        /// Documents that it says failed.
        failed: u64,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// mongorestore stopped before it had the whole archive, or never said what it did.
    #[error(
        "{target} may be only partly restored: mongorestore ended with exit code {exit_code} and {unproven}: {stderr_tail}"
    )]
    RestoreUnproven {
        /// The database, or `all databases`.
        target: String,
        /// Its exit code.
        exit_code: i64,
        /// What is missing.
        unproven: &'static str,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Docker(error) => error.kind(),
            Self::ToolMissing { .. } | Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::LoginRefused { .. } | Self::DatabaseName { .. } => ErrorKind::Misconfigured,
            Self::Archive(ArchiveError::NoNamespace | ArchiveError::Gzip)
            | Self::NotOneDatabase { .. }
            | Self::OplogRename { .. } => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        }
    }
}

impl From<docker::Error> for Error {
    fn from(error: docker::Error) -> Self {
        Self::Docker(error)
    }
}
