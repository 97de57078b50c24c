//! Directories and secret files: what is kept of a file, how a tree is read, how one is put back.
//!
//! Keys are the relative path's bytes, joined by `/`; rows come in byte order of the whole key. Kept are
//! content, kind, mode, owner, modification time and a link's target; not kept are extended attributes,
//! ACLs, holes and which names are hard links of one file (each is stored, and deduplicated). The root of a tree has no
//! row: its mode, owner and time are facts of its component.

mod ahead;
pub(super) mod attributes;
pub(super) mod beneath;
mod directory_sink;
mod directory_source;
mod export;
mod lots;
mod read;
mod secrets_sink;
mod secrets_source;
mod tree;
mod walk;

pub use directory_sink::DirectorySink;
pub use directory_source::{DirectoryOptions, DirectorySource};
pub use export::ExportSink;
pub use secrets_sink::SecretsSink;
pub use secrets_source::SecretsSource;

use std::io;
use std::path::PathBuf;

use super::ErrorKind;

/// What the facts of a tree's root begin with.
const ROOT_FACTS: &str = "root_";
/// What the facts of the directory of secret keys begin with.
const KEYS_FACTS: &str = "keys_";

/// What reading or writing files failed at. Paths are shown quoted, so that no name can pretend to be a line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("{action} {path:?}")]
    Io {
        /// `opening`, `reading`, `listing` ...
        action: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory or file that must be there is not.
    #[error("{path:?} does not exist")]
    Missing {
        /// What is missing.
        path: PathBuf,
    },
    /// Something else is where a file or directory belongs.
    #[error("{path:?} is {found}, needed is {needed}")]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What is there: `a symbolic link` ...
        found: &'static str,
        /// What should be: `a directory` ...
        needed: &'static str,
    },
    /// A file kept changing, or changed or shrank when it was too long to be read again.
    #[error("{path:?} changed while it was read ({attempts} attempts)")]
    Changed {
        /// The file.
        path: PathBuf,
        /// How often it was read.
        attempts: u32,
    },
    /// A directory holds more names than are sorted in memory.
    #[error("{path:?} has more than {limit} entries")]
    TooManyEntries {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Directories are nested too deeply.
    #[error("{path:?} is nested more than {limit} directories deep")]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A stored key that is no relative path below its root.
    #[error("stored key {key:?} is not a safe relative path: {reason}")]
    UnsafeKey {
        /// The key, lossy.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A stored row lacks an attribute or has a malformed one.
    #[error("stored row {key:?} has no usable attribute {name}")]
    Attribute {
        /// The key, lossy.
        key: String,
        /// The attribute.
        name: &'static str,
    },
    /// Stored content does not have the length that its row says.
    #[error("content of {key:?}: expected {expected} bytes, got {got}")]
    ContentLen {
        /// The key, lossy.
        key: String,
        /// By the row.
        expected: u64,
        /// Read.
        got: u64,
    },
    /// More secret files than are kept.
    #[error("more than {limit} secret files")]
    TooManySecrets {
        /// The limit.
        limit: usize,
    },
    /// More bytes of secrets than are kept.
    #[error("secret files hold more than {limit} bytes")]
    SecretsTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// A background task was cancelled: the program is ending.
    #[error("interrupted while working on {path:?}")]
    Interrupted {
        /// On what.
        path: PathBuf,
    },
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Unavailable,
            Self::TooManySecrets { .. } | Self::SecretsTooLarge { .. } => ErrorKind::Misconfigured,
            Self::InTheWay { .. } | Self::UnsafeKey { .. } => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        }
    }

    fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { action, path, source: errno.into() }
    }
}

/// Returns bytes as text for a message.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
