//! Commands whose whole output counts (dumps), and commands that are fed (restores).

use bytes::Bytes;
use futures::Stream;

use super::{BoxError, Docker, Error, ExecCommand};

/// The standard output of a command, proven whole before it ends.
#[must_use]
pub struct Dump {
    _private: (),
}

/// How a command that was fed ended. The caller judges: exit code, words, and whether it read everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fed {
    /// Its exit code.
    pub exit_code: i64,
    /// Bytes of the body that were written to it.
    pub sent: u64,
    /// False where it ended its output before it had been given everything.
    pub sent_all: bool,
    /// The last 64 KiB of its standard output, lossy.
    pub stdout_tail: String,
    /// The last 64 KiB of its standard error, lossy.
    pub stderr_tail: String,
}

impl Docker {
    /// Starts a command as a dump: its standard output is what counts.
    pub async fn dump(&self, container: &str, command: ExecCommand) -> Result<Dump, Error> {
        let _ = (container, command);
        todo!()
    }

    /// Runs a command, writes `body` to its standard input (then end of file) while reading its output,
    /// and returns how it ended. An `Err` of the body kills the process *before* it can read an end of
    /// file, and is returned as [`Error::Body`]. `command.stdin` is taken as attached.
    pub async fn feed<S>(&self, container: &str, command: ExecCommand, body: S) -> Result<Fed, Error>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send,
    {
        let _ = (container, command, body);
        todo!()
    }

    /// Runs a short command to its end and returns its exit code and output (each at most 1 MiB, else an error).
    pub async fn run(&self, container: &str, command: ExecCommand) -> Result<Finished, Error> {
        let _ = (container, command);
        todo!()
    }
}

/// The end of a short command.
pub struct Finished {
    /// Its exit code.
    pub exit_code: i64,
    /// Its standard output, whole.
    pub stdout: Vec<u8>,
    /// Its standard error, whole.
    pub stderr: Vec<u8>,
}

impl Dump {
    /// Returns the next bytes (at most 1 MiB, never empty), and `None` only when the dump is proven whole:
    /// only stdout and stderr frames came, the end nonce arrived, the process ended with exit code 0.
    /// Anything else is an `Err`. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        todo!()
    }

    /// The last 64 KiB of what the process has written to standard error so far, lossy.
    pub fn stderr_tail(&self) -> String {
        todo!()
    }

    /// Bytes returned so far.
    pub fn received(&self) -> u64 {
        todo!()
    }

    /// Ends the process in its container and waits for it. Dropping does the same in the background.
    pub async fn cancel(self) -> Result<(), Error> {
        todo!()
    }
}
