//! The error of this room.

use std::fmt;
use std::io;

use bytes::Bytes;
use rustix::io::Errno;

use crate::format::object::ObjectKey;

/// What an operation on a backend may come to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{key} is not in {location}")]
    NotFound {
        /// The object asked for.
        key: ObjectKey,
        /// The backend.
        location: String,
    },
    /// Another object has the name already.
    #[error("{key} is already in {location} with {stored} bytes, not {len}")]
    Conflict {
        /// The object to be put.
        key: ObjectKey,
        /// The backend.
        location: String,
        /// Bytes to be put.
        len: u64,
        /// Bytes there.
        stored: u64,
    },
    /// The object is longer than its kind may be. Nothing was read.
    #[error("{key} in {location} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// The object asked for.
        key: ObjectKey,
        /// The backend.
        location: String,
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The object ends before the bytes asked for do.
    #[error("{key} in {location} is cut: {need} bytes needed from byte {offset}, {have} there")]
    Short {
        /// The object asked for.
        key: ObjectKey,
        /// The backend.
        location: String,
        /// The first byte asked for.
        offset: u64,
        /// Bytes asked for.
        need: u64,
        /// Bytes there from `offset`.
        have: u64,
    },
    /// The object's bytes stopped coming.
    #[error(transparent)]
    Cut(Box<Cut>),
    /// It failed in passing, again and again.
    #[error(transparent)]
    GaveUp(Box<GaveUp>),
    /// The store has no locks.
    #[error("{location} cannot lock objects")]
    CannotLock {
        /// The backend.
        location: String,
    },
    /// The name belongs to a directory, symbolic link, pipe or device.
    #[error("{key} in {location} is not a regular file")]
    NotAFile {
        /// The object asked for.
        key: ObjectKey,
        /// The backend.
        location: String,
    },
    /// No config object: nothing was initialised here, or something else is in its place.
    #[error("there is no repository in {location}")]
    NoRepository {
        /// The place.
        location: String,
    },
    /// A repository is only created where nothing is.
    #[error("{location} is not empty")]
    NotEmpty {
        /// The place.
        location: String,
    },
    /// The store failed.
    #[error("cannot {operation} {at}")]
    Failed {
        /// What was tried.
        operation: Operation,
        /// The object concerned, where it was about one.
        key: Option<ObjectKey>,
        /// The path or address that was touched.
        at: String,
        /// What this means for the caller.
        kind: ErrorKind,
        /// The store's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A read that brought some of its bytes. They are kept, so that they need not come again.
#[derive(Debug, thiserror::Error)]
#[error("{key} in {location} broke off: {} of {need} bytes came from byte {offset}", got.len())]
pub struct Cut {
    /// The object asked for.
    pub key: ObjectKey,
    /// The backend.
    pub location: String,
    /// The first byte asked for.
    pub offset: u64,
    /// Bytes asked for, or what the whole object has.
    pub need: u64,
    /// Bytes that came from `offset`.
    pub got: Bytes,
    /// Why no more came.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// An operation that was tried until its limit.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}: given up after {attempts} attempts in {secs} s")]
pub struct GaveUp {
    /// What was tried.
    pub operation: Operation,
    /// How often it failed.
    pub attempts: u32,
    /// How long all of it took.
    pub secs: u64,
    /// Why the last attempt failed.
    pub source: Error,
}

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object or the repository is not there.
    NotFound,
    /// Something else is there already.
    AlreadyExists,
    /// The store refuses: permissions, credentials, read-only.
    Denied,
    /// No space or quota left.
    Full,
    /// The same call may succeed later: network, timeout, overload.
    Transient,
    /// An answer that nobody can read: may be the next one is better, more often something else answers there.
    Garbled,
    /// What is there is not what was put: too short, too long, not an object, or the disk cannot read it.
    Damaged,
    /// None of these: repeating does not help.
    Other,
}

/// The operations of a backend, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Makes the place for a repository.
    Create,
    /// Finds a repository.
    Open,
    /// [`super::Backend::put`]
    Put,
    /// [`super::Backend::get`]
    Get,
    /// [`super::Backend::get_range`]
    GetRange,
    /// [`super::Backend::stat`]
    Stat,
    /// [`super::Backend::list`]
    List,
    /// [`super::Backend::delete`]
    Delete,
    /// [`super::Backend::lock`]
    Lock,
    /// [`super::Backend::sweep`]
    Sweep,
}

impl Operation {
    /// Returns whether it changes what is stored.
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Create | Self::Put | Self::Delete | Self::Lock | Self::Sweep => true,
            Self::Open | Self::Get | Self::GetRange | Self::Stat | Self::List => false,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Put => "put",
            Self::Get | Self::GetRange => "get",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Lock => "lock",
            Self::Sweep => "sweep",
        })
    }
}

impl Error {
    /// Returns what the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoRepository { .. } => ErrorKind::NotFound,
            Self::Conflict { .. } | Self::NotEmpty { .. } => ErrorKind::AlreadyExists,
            Self::TooLong { .. } | Self::Short { .. } | Self::NotAFile { .. } => ErrorKind::Damaged,
            Self::CannotLock { .. } => ErrorKind::Other,
            Self::Cut(_) | Self::GaveUp(_) => ErrorKind::Transient,
            Self::Failed { kind, .. } => *kind,
        }
    }

    /// Returns the object concerned, where it is about one.
    #[must_use]
    pub fn key(&self) -> Option<ObjectKey> {
        match self {
            Self::NotFound { key, .. }
            | Self::Conflict { key, .. }
            | Self::TooLong { key, .. }
            | Self::Short { key, .. }
            | Self::NotAFile { key, .. } => Some(*key),
            Self::NoRepository { .. } | Self::NotEmpty { .. } | Self::CannotLock { .. } => None,
            Self::Cut(cut) => Some(cut.key),
            Self::GaveUp(gave_up) => gave_up.source.key(),
            Self::Failed { key, .. } => *key,
        }
    }
}

impl ErrorKind {
    /// Returns what an error of the operating system means for the caller.
    pub(super) fn from_io(error: &io::Error) -> Self {
        // A sector that cannot be read, a checksum of the file system that is wrong.
        if let Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN) = Errno::from_io_error(error) {
            return Self::Damaged;
        }
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::UnexpectedEof => Self::Damaged,
            io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::StaleNetworkFileHandle
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::BrokenPipe => Self::Transient,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operating_system_says_has_a_kind() {
        for (errno, kind) in [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::EXIST, ErrorKind::AlreadyExists),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::NOSPC, ErrorKind::Full),
            (Errno::DQUOT, ErrorKind::Full),
            (Errno::STALE, ErrorKind::Transient),
            (Errno::TIMEDOUT, ErrorKind::Transient),
            (Errno::IO, ErrorKind::Damaged),
            (Errno::BADMSG, ErrorKind::Damaged),
            (Errno::UCLEAN, ErrorKind::Damaged),
            (Errno::NOTDIR, ErrorKind::Other),
        ] {
            assert_eq!(ErrorKind::from_io(&errno.into()), kind, "{errno:?}");
        }
    }

    #[test]
    fn a_failure_names_the_operation_and_the_place_and_keeps_its_source() {
        let error = Error::Failed {
            operation: Operation::Put,
            key: Some(ObjectKey::Config),
            at: "vault/config".to_owned(),
            kind: ErrorKind::Full,
            source: Box::new(io::Error::from(Errno::NOSPC)),
        };
        assert_eq!(error.to_string(), "cannot put vault/config");
        assert!(std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("No space")));
        assert_eq!((error.kind(), error.key()), (ErrorKind::Full, Some(ObjectKey::Config)));
    }
}
