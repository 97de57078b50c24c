//! Why a run failed, as facts. What to do about it is said in `hints`.

use std::io;
use std::path::PathBuf;

use crate::{backend, component, crypto, ops, repo};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A use case failed.
    #[error(transparent)]
    Ops(Box<ops::Error>),
    /// The repository failed.
    #[error(transparent)]
    Repo(Box<repo::Error>),
    /// The place of the repository failed.
    #[error(transparent)]
    Backend(Box<backend::Error>),
    /// The stack or a component failed.
    #[error(transparent)]
    Component(Box<component::Error>),
    /// A key could not be used.
    #[error("{what} cannot be used")]
    Key {
        /// `the writer key in /etc/orkvault/writer.key`, `the data passphrase`.
        what: String,
        /// Why.
        source: crypto::Error,
    },
    /// Both passphrases are the same.
    #[error("the data passphrase and the secrets passphrase are the same")]
    SamePassphrases,
    /// A passphrase was typed differently the second time.
    #[error("{what} was not typed the same twice")]
    TypedDifferently {
        /// `the data passphrase`.
        what: &'static str,
    },
    /// Something is needed that was not given.
    #[error("{what} is needed and was not given")]
    NotGiven {
        /// `a repository`, `the data passphrase`.
        what: &'static str,
        /// The ways to give it: `-r, ORKVAULT_REPOSITORY or repository in orkvault.toml`.
        ways: &'static str,
    },
    /// An option has a value that it cannot have.
    #[error("{option} cannot be {value:?}: {reason}")]
    BadValue {
        /// The option.
        option: String,
        /// Its value. Never a secret.
        value: String,
        /// Why not.
        reason: String,
    },
    /// Standard input can be read once.
    #[error("standard input cannot be both {first} and {second}")]
    StdinTwice {
        /// Who reads it.
        first: &'static str,
        /// Who would read it, too.
        second: &'static str,
    },
    /// A file cannot be used.
    #[error("{action} {}", path.display())]
    File {
        /// `cannot read`, `cannot write` ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file that others can read, or that belongs to somebody else.
    #[error("{} is not private: {what}", path.display())]
    NotPrivate {
        /// Which.
        path: PathBuf,
        /// `mode 0644`, `it belongs to user 1000`.
        what: String,
    },
    /// A file that would be overwritten.
    #[error("{} exists", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// The target directory has something in it.
    #[error("{} is not an empty directory", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// `orkvault.toml` is wrong. The line itself is not shown: it could hold an address with a password.
    #[error("{}, line {line}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// Content would go to a terminal.
    #[error("standard output is a terminal")]
    StdoutIsTerminal,
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Stdout {
        /// Why.
        source: io::Error,
    },
    /// As [`Error::Stdout`], in the middle of content.
    #[error("standard output took {written} bytes and no more")]
    StdoutCut {
        /// Bytes that were written.
        written: u64,
        /// Why.
        source: io::Error,
    },
    /// A file took some content and no more.
    #[error("{} took {written} bytes and no more", path.display())]
    OutputCut {
        /// Which.
        path: PathBuf,
        /// Bytes that were written.
        written: u64,
        /// Why.
        source: io::Error,
    },
    /// Work failed that had begun, perhaps hours ago. Says what it wraps.
    #[error(transparent)]
    Begun(Box<Error>),
    /// A restore failed when it had begun to change things.
    #[error("the restore failed in the middle")]
    RestoreFailed {
        /// Why.
        source: Box<Error>,
    },
    /// Content could not be read to its end after some of it was written.
    #[error("only {written} bytes were written: the output is not whole")]
    ContentCut {
        /// Bytes that were written.
        written: u64,
        /// Why.
        source: Box<Error>,
    },
    /// Something destructive was not confirmed.
    #[error("{what} was not confirmed")]
    NotConfirmed {
        /// `the restore`.
        what: &'static str,
    },
    /// Something destructive cannot be confirmed, because there is nobody to ask.
    #[error("there is no terminal to confirm {what} on")]
    NobodyToAsk {
        /// `the restore`.
        what: &'static str,
    },
    /// The snapshot is of another environment than the stack.
    #[error("snapshot {snapshot} is of environment {found}, this stack is {stack}")]
    OtherEnvironment {
        /// Its short id.
        snapshot: String,
        /// Of the snapshot.
        found: String,
        /// Of the stack.
        stack: String,
    },
    /// An environment was named for a stack that does not say which one it is.
    #[error("nothing here says that this stack is {named}")]
    UnknownEnvironment {
        /// With `--into-env`.
        named: String,
    },
    /// A snapshot that lacks something is only restored by name.
    #[error("snapshot {snapshot} is incomplete")]
    SnapshotIncomplete {
        /// Its short id.
        snapshot: String,
    },
    /// Another restore runs on this host.
    #[error("another restore runs on this host and holds {}", path.display())]
    RestoreRuns {
        /// The lock.
        path: PathBuf,
    },
    /// The stack lacks a component that was asked for; no snapshot was made.
    #[error("no snapshot was made")]
    NothingCaptured {
        /// Why.
        source: Box<component::Error>,
    },
    /// SIGINT or SIGTERM.
    #[error("interrupted by {signal}")]
    Interrupted {
        /// `SIGINT`.
        signal: &'static str,
    },
    /// The program could not be set up.
    #[error("cannot {action}")]
    System {
        /// `start the runtime`.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A bug.
    #[error("a part of the program stopped unexpectedly")]
    Bug,
}

impl Error {
    /// Returns this as the error of work that had begun.
    #[must_use]
    pub(crate) fn begun(error: impl Into<Self>) -> Self {
        Self::Begun(Box::new(error.into()))
    }
}

// Boxed: a result that carries one is passed through every function of the shell.
macro_rules! boxed {
    ($($variant:ident($room:ident)),*) => {$(
        impl From<$room::Error> for Error {
            fn from(error: $room::Error) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )*};
}
boxed!(Ops(ops), Repo(repo), Backend(backend), Component(component));
