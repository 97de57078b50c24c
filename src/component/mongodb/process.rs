//! A tool that runs on this host, followed to its end.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Error;
use super::dump::make_room;
use crate::component::{ByteStream, Error as ComponentError};

/// Bytes that are kept of what a tool prints.
const TAIL_LEN: usize = 64 << 10;

/// Exit codes with a meaning.
pub(super) mod exit {
    /// All went well, says the tool.
    pub(crate) const SUCCESS: i64 = 0;
}

/// How mongorestore ended.
pub(super) struct Fed {
    pub(super) exit_code: i64,
    /// False where it ended before it had been given everything.
    pub(super) took_all: bool,
    pub(super) stderr_tail: String,
}

/// A child process. Dropped, it is killed.
pub(super) struct Child {
    program: &'static str,
    place: String,
    idle: Duration,
    child: tokio::process::Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    stderr_tail: Option<JoinHandle<String>>,
}

impl Child {
    pub(super) fn spawn(
        program: &'static str,
        place: String,
        argv: Vec<String>,
        idle: Duration,
    ) -> Result<Self, Error> {
        let (name, arguments) = argv.split_first().expect("a program comes first");
        let spawned = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child =
            spawned.map_err(|error| Error::ToolMissing { program, place: place.clone(), reason: error.to_string() })?;
        let stderr = child.stderr.take().expect("it is piped");
        Ok(Self {
            program,
            place,
            idle,
            input: child.stdin.take(),
            output: child.stdout.take(),
            stderr_tail: Some(tokio::spawn(tail(stderr))),
            child,
        })
    }

    /// Writes to its standard input. That it reads no more is no error: its exit code says why.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(input) = &mut self.input else { return Ok(()) };
        match timeout(self.idle, input.write_all(bytes)).await {
            Err(_) => Err(self.idle_error()),
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.input = None;
                Ok(())
            }
            Ok(Err(source)) => Err(self.pipe_error(source)),
        }
    }

    pub(super) fn close_input(&mut self) {
        self.input = None;
    }

    /// Appends what it writes next to `buffer`; false at the end.
    pub(super) async fn fill(&mut self, buffer: &mut BytesMut) -> Result<bool, Error> {
        let Some(output) = &mut self.output else { return Ok(false) };
        make_room(buffer);
        match timeout(self.idle, output.read_buf(buffer)).await {
            Err(_) => Err(self.idle_error()),
            Ok(Ok(len)) => Ok(len > 0),
            Ok(Err(source)) => Err(self.pipe_error(source)),
        }
    }

    /// Waits for its end and returns its exit code and the end of what it printed.
    pub(super) async fn wait(&mut self) -> Result<(i64, String), Error> {
        let status = match timeout(self.idle, self.child.wait()).await {
            Err(_) => return Err(self.idle_error()),
            Ok(status) => status.map_err(|source| self.pipe_error(source))?,
        };
        let Some(tail) = self.stderr_tail.take() else { return Ok((exit_code(status), String::new())) };
        match timeout(self.idle, tail).await {
            Err(_) => Err(self.idle_error()),
            Ok(tail) => Ok((exit_code(status), tail.unwrap_or_default())),
        }
    }

    /// Writes the body to its standard input, ends that, and waits. An `Err` of the body kills it first,
    /// so that it never takes a cut stream for a whole one.
    pub(super) async fn feed(mut self, mut body: ByteStream) -> Result<Fed, ComponentError> {
        // What it prints there means nothing, but it must not stand still for it.
        let ignored = self.output.take().map(|output| tokio::spawn(ignore(output)));
        let mut took_all = true;
        while let Some(run) = body.next().await {
            match run {
                Ok(run) => self.write(&run.bytes).await?,
                Err(error) => {
                    self.kill().await?;
                    return Err(error);
                }
            }
            if self.input.is_none() {
                took_all = false;
                break;
            }
        }
        self.close_input();
        let (exit_code, stderr_tail) = self.wait().await?;
        drop(ignored);
        Ok(Fed { exit_code, took_all, stderr_tail })
    }

    pub(super) async fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(|source| self.pipe_error(source))
    }

    fn idle_error(&self) -> Error {
        Error::Idle { program: self.program, place: self.place.clone(), idle: self.idle }
    }

    fn pipe_error(&self, source: std::io::Error) -> Error {
        Error::Pipe { program: self.program, place: self.place.clone(), source }
    }
}

/// Shells and Docker report a signal in the same way.
fn exit_code(status: ExitStatus) -> i64 {
    match (status.code(), status.signal()) {
        (Some(code), _) => i64::from(code),
        (None, signal) => 128 + i64::from(signal.unwrap_or_default()),
    }
}

/// Reads to the end and returns the last [`TAIL_LEN`] bytes.
async fn tail(mut stderr: ChildStderr) -> String {
    let mut kept = BytesMut::new();
    while let Ok(1..) = read_more(&mut stderr, &mut kept).await {
        let excess = kept.len().saturating_sub(TAIL_LEN);
        drop(kept.split_to(excess));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

async fn read_more(source: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> std::io::Result<usize> {
    buffer.reserve(4096);
    source.read_buf(buffer).await
}

async fn ignore(mut output: ChildStdout) {
    let mut buffer = BytesMut::new();
    while let Ok(1..) = read_more(&mut output, &mut buffer).await {
        buffer.clear();
    }
}
