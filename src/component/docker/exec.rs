//! A command in a running container.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Docker, Error, check_name, status_of};
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
    running: Option<Running>,
}

/// The standard input of a running command. Dropping it does **not** tell the process: [`ExecStdin::finish`] does.
pub struct ExecStdin {
    input: Pin<Box<dyn AsyncWrite + Send>>,
    names: Names,
    idle: Duration,
}

/// Who is meant, for messages.
#[derive(Clone)]
struct Names {
    container: String,
    program: String,
}

type OutputStream = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

struct Running {
    docker: Docker,
    names: Names,
    exec_id: String,
    user: Option<String>,
    idle: Duration,
    /// The process's id in its container (and, as the runtime starts it in a session of its own, its group).
    pid: Option<u32>,
    output: OutputStream,
    stdin: Option<ExecStdin>,
    /// What came while the process id was being waited for.
    held: VecDeque<Output>,
    progress: Progress,
    /// The daemon has said that the process is gone.
    exited: bool,
    runtime: Handle,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Reading,
    Ended,
    Failed,
}

/// The buffer into which output is read: bollard's own choice of 8 KiB costs a system call per frame.
const OUTPUT_CAPACITY: usize = 1 << 20;
/// The longest frame that is taken (daemons send at most 32 KiB).
const FRAME_MOST: usize = 1 << 20;
/// Output that may overtake the process id, which travels on another pipe.
const HELD_MOST: usize = 4 << 20;
/// What is kept of the runtime's words when a process could not be started.
const MESSAGE_MOST: usize = 4096;
const PID_MARK: &[u8] = b"ORKVAULT_PID ";
const PID_LINE_MOST: usize = 32;
/// Says the process id, then becomes the command (whose arguments are not interpreted).
const START_SCRIPT: &str = "echo \"ORKVAULT_PID $$\" >&2; exec \"$@\"";
/// Signals the whole group: a shell that waits for a child does not pass signals on.
const SIGNAL_SCRIPT: &str = "kill -s \"$1\" -- \"-$2\" 2>/dev/null || kill -s \"$1\" \"$2\" 2>/dev/null";
const KILL_GRACE: Duration = Duration::from_secs(5);
const EXIT_CODE_WAIT: Duration = Duration::from_secs(10);
/// Input is written in pieces of this size, each within the idle limit.
const WRITE_PIECE: usize = 64 << 10;

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
        assert!(!command.argv.is_empty(), "a command has a program");
        check_name(container)?;
        let names =
            Names { container: container.to_owned(), program: command.argv.first().cloned().unwrap_or_default() };
        let docker = self.clone();
        // On a task of its own: if the caller stops waiting, what was started is still seen, and killed.
        let starting = tokio::spawn(async move {
            let mut exec = docker.start_exec(names, command).await?;
            exec.running()?.await_pid().await?;
            Ok(exec)
        });
        starting.await.unwrap_or_else(|stopped| {
            Err(Error::Unreachable {
                endpoint: self.endpoint.address.clone(),
                action: "to start a command".to_owned(),
                source: Box::new(stopped),
            })
        })
    }

    async fn start_exec(&self, names: Names, command: ExecCommand) -> Result<Exec, Error> {
        let script = ["sh", "-c", START_SCRIPT, "orkvault"].map(str::to_owned);
        let options = CreateExecOptions {
            attach_stdin: Some(command.stdin == StdinMode::Attached),
            cmd: Some(script.into_iter().chain(command.argv).collect()),
            env: Some(command.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect()),
            user: command.user.clone(),
            ..attached()
        };
        let (exec_id, output, input) = self.start_raw(&names.container, options).await?;
        let stdin = (command.stdin == StdinMode::Attached).then(|| ExecStdin {
            input,
            names: names.clone(),
            idle: command.idle,
        });
        let running = Running {
            docker: self.clone(),
            names,
            exec_id,
            user: command.user,
            idle: command.idle,
            pid: None,
            output,
            stdin,
            held: VecDeque::new(),
            progress: Progress::Reading,
            exited: false,
            runtime: Handle::current(),
        };
        Ok(Exec { running: Some(running) })
    }

    async fn start_raw(
        &self,
        container: &str,
        options: CreateExecOptions<String>,
    ) -> Result<(String, OutputStream, Pin<Box<dyn AsyncWrite + Send>>), Error> {
        let action = "to start a command";
        let created = match self.client.create_exec(container, options).await {
            Ok(created) => created,
            Err(error) if status_of(&error) == Some(409) => {
                let state = self.inspect(container).await?.state;
                return Err(Error::NotRunning { container: container.to_owned(), state });
            }
            Err(error) => return Err(self.failed_on(container, action, error)),
        };
        let start = StartExecOptions { detach: false, tty: false, output_capacity: Some(OUTPUT_CAPACITY) };
        match self.client.start_exec(&created.id, Some(start)).await {
            Ok(StartExecResults::Attached { output, input }) => Ok((created.id, output, input)),
            Ok(StartExecResults::Detached) => unreachable!("detach is false"),
            Err(error) => Err(self.failed_on(container, action, error)),
        }
    }

    /// Sends a signal to a process group inside a container. A container that is gone or stopped has none.
    async fn signal(&self, container: &str, user: Option<String>, signal: &str, pid: u32) -> Result<(), Error> {
        let argv = ["sh", "-c", SIGNAL_SCRIPT, "orkvault", signal].map(str::to_owned);
        let options =
            CreateExecOptions { cmd: Some(argv.into_iter().chain([pid.to_string()]).collect()), user, ..attached() };
        match self.start_raw(container, options).await {
            Ok((_, mut output, _input)) => {
                let drained = async { while let Some(Ok(_)) = output.next().await {} };
                // Not answered: the wait for the process's own output tells whether it worked.
                let _ = timeout(KILL_GRACE, drained).await;
                Ok(())
            }
            Err(Error::NoSuchContainer { .. } | Error::NotRunning { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn attached() -> CreateExecOptions<String> {
    // Never a terminal: it rewrites line ends and merges both outputs.
    CreateExecOptions { attach_stdout: Some(true), attach_stderr: Some(true), tty: Some(false), ..Default::default() }
}

impl Exec {
    /// Returns what comes next (at most 1 MiB), `None` at the end of the output. Cancel safe. An `Err` is
    /// final; what came before it must not be taken for whole. Not reading stalls the process, nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Output>, Error> {
        let running = self.running()?;
        let idle = running.idle;
        running.next_within(Some(idle)).await
    }

    /// As [`Exec::next`], but by this moment, whatever came before.
    pub(super) async fn next_by(&mut self, deadline: Instant) -> Result<Option<Output>, Error> {
        self.running()?.next_within(Some(deadline.saturating_duration_since(Instant::now()))).await
    }

    /// Returns how long the process may stay silent from now on.
    pub(super) fn silence_ends(&mut self) -> Result<Instant, Error> {
        Ok(Instant::now() + self.running()?.idle)
    }

    /// As [`Exec::next`], however long it takes: for the time in which its input is being written.
    pub(super) async fn next_unhurried(&mut self) -> Result<Option<Output>, Error> {
        self.running()?.next_within(None).await
    }

    /// Hands out the standard input, once, of a command with [`StdinMode::Attached`].
    pub fn take_stdin(&mut self) -> Option<ExecStdin> {
        self.running.as_mut().and_then(|running| running.stdin.take())
    }

    /// Returns the exit code; call after `next` returned `None`. Waits up to 10 s for the daemon to say
    /// that the process has ended: a code that it reports earlier means nothing.
    pub async fn exit_code(&mut self) -> Result<i64, Error> {
        self.running()?.exit_code().await
    }

    /// Ends the process and what it started (TERM, KILL after 5 s) and waits until its output ended.
    pub async fn kill(mut self) -> Result<(), Error> {
        // Stays in place while it is waited for: a caller that gives up leaves the rest to `drop`.
        let killed = self.running()?.kill().await;
        self.running = None;
        killed
    }

    /// Ends the process where it has not ended, and waits for it. What comes after is still an error, not an end.
    pub(super) async fn kill_in_place(&mut self) {
        if let Some(running) = self.running.as_mut() {
            // The caller has an error to report already, and that one is the cause.
            let _ = running.kill().await;
        }
    }

    /// Calls it by another name in messages: what a script was put in front of.
    pub(super) fn rename(&mut self, program: Option<String>) {
        if let (Some(running), Some(program)) = (self.running.as_mut(), program) {
            running.names.program = program;
        }
    }

    pub(super) fn container(&self) -> &str {
        self.running.as_ref().map_or("", |running| &running.names.container)
    }

    pub(super) fn program(&self) -> &str {
        self.running.as_ref().map_or("", |running| &running.names.program)
    }

    fn running(&mut self) -> Result<&mut Running, Error> {
        Ok(self.running.as_mut().expect("taken only by kill and drop, which consume it"))
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take()
            && running.progress != Progress::Ended
        {
            let runtime = running.runtime.clone();
            runtime.spawn(async move { running.kill().await });
        }
    }
}

impl Running {
    /// Reads until the shell has said its process id. Standard output that overtook it is held.
    async fn await_pid(&mut self) -> Result<(), Error> {
        let mut line = Vec::new();
        let mut held_len = 0;
        while let Some(output) = self.read(Some(self.idle)).await? {
            match output {
                Output::Stderr(bytes) => line.extend_from_slice(&bytes),
                Output::Stdout(bytes) => {
                    held_len += bytes.len();
                    self.held.push_back(Output::Stdout(bytes));
                }
            }
            if let Some((pid, rest)) = split_pid(&line) {
                self.pid = Some(pid);
                if !rest.is_empty() {
                    self.held.push_back(Output::Stderr(Bytes::copy_from_slice(rest)));
                }
                return Ok(());
            }
            if held_len + line.len() > HELD_MOST {
                return Err(self.damaged("output before the process id"));
            }
        }
        // The runtime's words come as output, whatever stream they are on, and are no data.
        let stdout = self.held.drain(..).map(|output| match output {
            Output::Stdout(bytes) | Output::Stderr(bytes) => bytes,
        });
        let words: Vec<u8> = stdout.flatten().chain(line).take(MESSAGE_MOST).collect();
        Err(Error::NotStarted {
            container: self.names.container.clone(),
            program: self.names.program.clone(),
            exit_code: self.exit_code().await?,
            message: String::from_utf8_lossy(&words).trim().to_owned(),
        })
    }

    async fn next_within(&mut self, limit: Option<Duration>) -> Result<Option<Output>, Error> {
        match self.held.pop_front() {
            Some(output) => Ok(Some(output)),
            None => self.read(limit).await,
        }
    }

    async fn read(&mut self, limit: Option<Duration>) -> Result<Option<Output>, Error> {
        match self.progress {
            Progress::Reading => {}
            Progress::Ended => return Ok(None),
            Progress::Failed => return Err(self.damaged("it was read after a failure")),
        }
        // An empty frame says nothing: only a million of them in a row could keep this loop.
        for _ in 0..1 << 20 {
            let item = match limit {
                None => self.output.next().await,
                Some(idle) => match timeout(idle, self.output.next()).await {
                    Ok(item) => item,
                    Err(_) => return Err(self.silent()),
                },
            };
            let output = match item {
                None => {
                    self.progress = Progress::Ended;
                    return Ok(None);
                }
                Some(Ok(LogOutput::StdOut { message })) => Output::Stdout(message),
                Some(Ok(LogOutput::StdErr { message })) => Output::Stderr(message),
                // bollard hands out what is left of a cut frame, and anything that is no frame, as console output.
                Some(Ok(LogOutput::Console { message })) => {
                    return Err(self.damaged(&format!("{} bytes that are no whole frame", message.len())));
                }
                Some(Ok(LogOutput::StdIn { .. })) => return Err(self.damaged("a frame of standard input")),
                Some(Err(error)) => return Err(self.damaged(&error.to_string())),
            };
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = &output;
            if bytes.len() > FRAME_MOST {
                return Err(self.damaged("a frame of more than 1 MiB"));
            }
            if !bytes.is_empty() {
                return Ok(Some(output));
            }
        }
        Err(self.damaged("nothing but empty frames"))
    }

    async fn exit_code(&mut self) -> Result<i64, Error> {
        let deadline = Instant::now() + EXIT_CODE_WAIT;
        let mut pause = Duration::from_millis(5);
        while Instant::now() < deadline {
            let inspected = self.docker.client.inspect_exec(&self.exec_id).await;
            let inspected = inspected.map_err(|error| self.docker.failed("how a command ended", error))?;
            // Podman reports 0 for a process that still runs.
            if let (Some(false), Some(code)) = (inspected.running, inspected.exit_code) {
                self.exited = true;
                return Ok(code);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Err(Error::NoExitCode {
            container: self.names.container.clone(),
            program: self.names.program.clone(),
            waited: EXIT_CODE_WAIT,
        })
    }

    /// The connection stays open meanwhile: without it the daemon forgets the process, which runs on.
    async fn kill(&mut self) -> Result<(), Error> {
        if self.exited {
            return Ok(());
        }
        if self.pid.is_none() && self.progress == Progress::Reading {
            // Started but not heard of yet.
            let _ = timeout(KILL_GRACE, self.await_pid()).await;
        }
        let Some(pid) = self.pid else {
            return if self.progress == Progress::Ended { Ok(()) } else { Err(self.not_killed()) };
        };
        for signal in ["TERM", "KILL"] {
            self.docker.signal(&self.names.container, self.user.clone(), signal, pid).await?;
            self.drain(Instant::now() + KILL_GRACE).await;
        }
        if self.progress == Progress::Ended { Ok(()) } else { Err(self.not_killed()) }
    }

    /// Reads output away until it ends or the time is up. After damage, raw: only the end counts.
    async fn drain(&mut self, deadline: Instant) {
        while self.progress != Progress::Ended {
            match timeout_at(deadline, self.output.next()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) => self.progress = Progress::Ended,
                Err(_) => return,
            }
        }
    }

    fn damaged(&mut self, what: &str) -> Error {
        self.progress = Progress::Failed;
        Error::Protocol {
            container: self.names.container.clone(),
            program: self.names.program.clone(),
            what: what.to_owned(),
        }
    }

    fn silent(&mut self) -> Error {
        self.progress = Progress::Failed;
        self.names.silent(self.idle)
    }

    fn not_killed(&self) -> Error {
        Error::NotKilled { container: self.names.container.clone(), program: self.names.program.clone() }
    }
}

impl Names {
    fn silent(&self, idle: Duration) -> Error {
        Error::Idle { container: self.container.clone(), program: self.program.clone(), idle }
    }

    fn closed(&self, source: io::Error) -> Error {
        Error::Stdin { container: self.container.clone(), program: self.program.clone(), source }
    }
}

impl ExecStdin {
    /// Writes all bytes. Waits while the process does not read: so read its output at the same time, and
    /// stop writing when the output ends (a process that exits early does not make this fail).
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.chunks(WRITE_PIECE) {
            match timeout(self.idle, self.input.write_all(piece)).await {
                Ok(written) => written.map_err(|source| self.names.closed(source))?,
                Err(_) => return Err(self.names.silent(self.idle)),
            }
        }
        Ok(())
    }

    /// Ends the input: the process reads end of file.
    pub async fn finish(mut self) -> Result<(), Error> {
        match timeout(self.idle, self.input.shutdown()).await {
            Ok(closed) => closed.map_err(|source| self.names.closed(source)),
            Err(_) => Err(self.names.silent(self.idle)),
        }
    }
}

/// Splits the shell's first line from standard error: process id and rest. `None` while it is not whole,
/// or where something else came.
fn split_pid(stderr: &[u8]) -> Option<(u32, &[u8])> {
    let digits_on = stderr.strip_prefix(PID_MARK)?;
    let end = digits_on.iter().take(PID_LINE_MOST).position(|&byte| byte == b'\n')?;
    let (digits, rest) = digits_on.split_at_checked(end)?;
    let pid: u32 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // 0 and 1 would be everybody and the container itself.
    (pid > 1).then_some((pid, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::split_pid;

    #[test]
    fn process_id_is_taken_from_the_first_line_only() {
        assert_eq!(split_pid(b"ORKVAULT_PID 42\nrest\n"), Some((42, &b"rest\n"[..])));
        assert_eq!(split_pid(b"ORKVAULT_PID 42\n"), Some((42, &b""[..])));
        for other in ["", "ORKVAULT_PID 4", "oops\nORKVAULT_PID 4\n", "ORKVAULT_PID x\n", "ORKVAULT_PID -1\n"] {
            assert_eq!(split_pid(other.as_bytes()), None, "{other}");
        }
        for dangerous in ["ORKVAULT_PID 0\n", "ORKVAULT_PID 1\n", "ORKVAULT_PID 99999999999\n"] {
            assert_eq!(split_pid(dangerous.as_bytes()), None, "{dangerous}");
        }
    }
}
