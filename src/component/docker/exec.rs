//! A command in a running container.

use std::time::Duration;

use bytes::Bytes;

use super::{Docker, Error};
use crate::component::secret::Secret;

/// What to run. Nothing in `argv` may be secret: the daemon publishes it to whoever listens to its events;
/// the environment it does not publish. It is run under the container's `sh`, which says its process id first.
pub struct ExecCommand {
    /// Program and arguments; at least one.
    pub argv: Vec<String>,
    /// Added to the container's own environment.
    pub env: Vec<(String, Secret)>,
    /// Whether the process has a standard input.
    pub stdin: StdinMode,
    /// `user`, `uid`, `user:group`; `None`: the container's own.
    pub user: Option<String>,
    /// How long output (or the writing of input) may stand still before it counts as failed.
    pub idle: Duration,
}

/// Whether a process has a standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinMode {
    /// End of file at once.
    Empty,
    /// Written through [`ExecStdin`].
    Attached,
}

/// What a process wrote. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To its standard output.
    Stdout(Bytes),
    /// To its standard error.
    Stderr(Bytes),
}

/// A running command. Dropped before its output ended, the process is killed in the background
/// (TERM, then KILL after 5 s), as long as the runtime lives; [`Exec::kill`] waits for it.
#[must_use]
pub struct Exec {
    _private: (),
}

/// The standard input of a running command. Dropping it does **not** tell the process: [`ExecStdin::finish`] does.
pub struct ExecStdin {
    _private: (),
}

impl ExecCommand {
    /// Returns a command without input, environment and user, that may stay silent for 5 minutes.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: StdinMode::Empty,
            user: None,
            idle: Duration::from_secs(300),
        }
    }
}

impl Docker {
    /// Starts a command in a running container. Returns once it runs or is known not to have been started.
    pub async fn exec(&self, container: &str, command: ExecCommand) -> Result<Exec, Error> {
        let _ = (container, command);
        todo!()
    }
}

impl Exec {
    /// Returns what comes next (at most 1 MiB), `None` at the end of the output. Cancel safe. An `Err` is
    /// final; what came before it must not be taken for whole. Not reading stalls the process, nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Output>, Error> {
        todo!()
    }

    /// Hands out the standard input, once, of a command with [`StdinMode::Attached`].
    pub fn take_stdin(&mut self) -> Option<ExecStdin> {
        todo!()
    }

    /// Returns the exit code; call after `next` returned `None`. Waits up to 10 s for the daemon to say
    /// that the process has ended: a code that it reports earlier means nothing.
    pub async fn exit_code(&mut self) -> Result<i64, Error> {
        todo!()
    }

    /// Ends the process and what it started (TERM, KILL after 5 s) and waits until its output ended.
    pub async fn kill(self) -> Result<(), Error> {
        todo!()
    }
}

impl ExecStdin {
    /// Writes all bytes. Waits while the process does not read: so read its output at the same time, and
    /// stop writing when the output ends (a process that exits early does not make this fail).
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let _ = bytes;
        todo!()
    }

    /// Ends the input: the process reads end of file.
    pub async fn finish(self) -> Result<(), Error> {
        todo!()
    }
}
