//! Commands whose whole output counts (dumps), and commands that are fed (restores).

use std::collections::VecDeque;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};

use super::{BoxError, Docker, Error, Exec, ExecCommand, ExecStdin, Output, StdinMode};
use crate::component::secret::Secret;

/// The standard output of a command, proven whole before it ends.
#[must_use]
pub struct Dump {
    exec: Option<Exec>,
    nonce: String,
    held: HeldBack,
    stderr: Tail,
    received: u64,
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

/// The end of a short command.
pub struct Finished {
    /// Its exit code.
    pub exit_code: i64,
    /// Its standard output, whole.
    pub stdout: Vec<u8>,
    /// Its standard error, whole.
    pub stderr: Vec<u8>,
}

/// What is kept of words that are only for people.
const TAIL_MOST: usize = 64 << 10;
const SHORT_OUTPUT_MOST: usize = 1 << 20;
const NONCE_BYTES: usize = 16;
const NONCE_LEN: usize = NONCE_BYTES * 2;
const NONCE_VARIABLE: &str = "ORKVAULT_END";
/// Runs the command and writes the nonce behind its output only if it succeeded: an output whose end was
/// lost on the way, with whatever exit code, cannot end in it.
const DUMP_SCRIPT: &str = "\"$@\"; r=$?; [ \"$r\" = 0 ] && printf %s \"$ORKVAULT_END\"; exit \"$r\"";

impl Docker {
    /// Starts a command as a dump: its standard output is what counts.
    pub async fn dump(&self, container: &str, mut command: ExecCommand) -> Result<Dump, Error> {
        let nonce = nonce()?;
        let program = command.argv.first().cloned();
        let script = ["sh", "-c", DUMP_SCRIPT, "orkvault"].map(str::to_owned);
        command.argv = script.into_iter().chain(command.argv).collect();
        command.env.push((NONCE_VARIABLE.to_owned(), Secret::new(nonce.clone())));
        let mut exec = self.exec(container, command).await?;
        exec.rename(program);
        Ok(Dump { exec: Some(exec), nonce, held: HeldBack::default(), stderr: Tail::default(), received: 0 })
    }

    /// Runs a command, writes `body` to its standard input (then end of file) while reading its output,
    /// and returns how it ended. An `Err` of the body kills the process *before* it can read an end of
    /// file, and is returned as [`Error::Body`]. `command.stdin` is taken as attached.
    pub async fn feed<S>(&self, container: &str, mut command: ExecCommand, body: S) -> Result<Fed, Error>
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send,
    {
        command.stdin = StdinMode::Attached;
        let mut exec = self.exec(container, command).await?;
        match feed(&mut exec, body).await {
            Ok(fed) => Ok(fed),
            Err(error) => Err(kill_after(exec, error).await),
        }
    }

    /// Runs a short command to its end and returns its exit code and output (each at most 1 MiB, else an error).
    pub async fn run(&self, container: &str, command: ExecCommand) -> Result<Finished, Error> {
        let mut exec = self.exec(container, command).await?;
        match finish(&mut exec).await {
            Ok(finished) => Ok(finished),
            Err(error) => Err(kill_after(exec, error).await),
        }
    }
}

impl Dump {
    /// Returns the next bytes (at most 1 MiB, never empty), and `None` only when the dump is proven whole:
    /// only stdout and stderr frames came, the end nonce arrived, the process ended with exit code 0.
    /// Anything else is an `Err`, and final; so is a standard output that stays silent for too long, whatever the
    /// process says on the other one: a tool that hangs still tells how far it is. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut deadline = None;
        loop {
            if let Some(bytes) = self.held.pop() {
                self.received += len_u64(&bytes);
                return Ok(Some(bytes));
            }
            let Some(exec) = self.exec.as_mut() else { return Ok(None) };
            let silence_ends = match deadline {
                Some(deadline) => deadline,
                None => *deadline.insert(exec.silence_ends()?),
            };
            let item = match exec.next_by(silence_ends).await {
                Ok(Some(Output::Stdout(bytes))) => {
                    self.held.push(bytes);
                    deadline = None;
                    continue;
                }
                Ok(Some(Output::Stderr(bytes))) => {
                    self.stderr.push(&bytes);
                    continue;
                }
                Ok(None) => self.verify().await,
                Err(error) => Err(error),
            };
            match item {
                Ok(rest) => {
                    self.exec = None;
                    self.held = HeldBack { frames: VecDeque::from([rest]), len: 0, ended: true };
                }
                Err(error) => return Err(self.fail(error).await),
            }
        }
    }

    /// Checks exit code and nonce at the end of the output, and returns what stands before the nonce.
    async fn verify(&mut self) -> Result<Bytes, Error> {
        let exec = self.exec.as_mut().expect("present until the end was verified");
        let exit_code = exec.exit_code().await?;
        let (container, program) = (exec.container().to_owned(), exec.program().to_owned());
        if exit_code != 0 {
            return Err(Error::DumpFailed { container, program, exit_code, stderr_tail: self.stderr.text() });
        }
        let rest = self.held.rest();
        match rest.strip_suffix(self.nonce.as_bytes()) {
            Some(content) => Ok(rest.slice_ref(content)),
            None => Err(Error::DumpCut { container, program, received: self.received + len_u64(&rest) }),
        }
    }

    /// Kills what is left of the process. The exec is kept, as failed, so that no later call looks like an end.
    async fn fail(&mut self, error: Error) -> Error {
        self.held = HeldBack::default();
        if let Some(exec) = self.exec.as_mut() {
            exec.kill_in_place().await;
        }
        error
    }

    /// The last 64 KiB of what the process has written to standard error so far, lossy.
    pub fn stderr_tail(&self) -> String {
        self.stderr.text()
    }

    /// Bytes returned so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Ends the process in its container and waits for it. Dropping does the same in the background.
    pub async fn cancel(mut self) -> Result<(), Error> {
        match self.exec.take() {
            Some(exec) => exec.kill().await,
            None => Ok(()),
        }
    }
}

/// Frames that may hold the end nonce: as few as add up to its length. Nothing is copied.
#[derive(Default)]
struct HeldBack {
    frames: VecDeque<Bytes>,
    len: usize,
    /// The nonce is gone: everything may go out.
    ended: bool,
}

impl HeldBack {
    fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        self.frames.push_back(bytes);
    }

    /// Returns the oldest frame if what remains still holds a whole nonce.
    fn pop(&mut self) -> Option<Bytes> {
        let first = self.frames.front()?.len();
        if !self.ended && self.len.saturating_sub(first) < NONCE_LEN {
            return None;
        }
        self.len = self.len.saturating_sub(first);
        self.frames.pop_front().filter(|bytes| !bytes.is_empty())
    }

    /// Returns all that is held, in one piece.
    fn rest(&mut self) -> Bytes {
        let mut rest = BytesMut::with_capacity(self.len);
        for frame in self.frames.drain(..) {
            rest.extend_from_slice(&frame);
        }
        self.len = 0;
        rest.freeze()
    }
}

/// The end of a text that may be long.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        // Cut rarely, so that a long text costs no more than twice its bytes.
        if self.0.len() > 2 * TAIL_MOST {
            self.0.drain(..self.0.len() - TAIL_MOST);
        }
    }

    fn text(&self) -> String {
        let start = self.0.len().saturating_sub(TAIL_MOST);
        String::from_utf8_lossy(self.0.get(start..).unwrap_or_default()).trim_end().to_owned()
    }
}

/// Why the writing of a body ended before the body did.
enum Unsent {
    Body(BoxError),
    /// The process does not read any more: how it ended tells why.
    Closed,
    Stuck(Error),
}

async fn feed<S>(exec: &mut Exec, body: S) -> Result<Fed, Error>
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send,
{
    let stdin = exec.take_stdin().expect("attached, and taken only here");
    let (mut stdout, mut stderr) = (Tail::default(), Tail::default());
    let mut sent = 0;
    let mut sent_all = false;
    {
        let mut writing = true;
        let mut writer = pin!(write_body(stdin, body, &mut sent));
        loop {
            // While input flows its own limit holds; a restore may say nothing for as long as it reads.
            let item = if writing {
                tokio::select! {
                    biased;
                    written = &mut writer => {
                        writing = false;
                        match written {
                            Ok(()) => sent_all = true,
                            Err(Unsent::Closed) => {}
                            Err(Unsent::Stuck(error)) => return Err(error),
                            Err(Unsent::Body(source)) => {
                                return Err(Error::Body { container: exec.container().to_owned(), source });
                            }
                        }
                        continue;
                    }
                    item = exec.next_unhurried() => item?,
                }
            } else {
                exec.next().await?
            };
            match item {
                Some(Output::Stdout(bytes)) => stdout.push(&bytes),
                Some(Output::Stderr(bytes)) => stderr.push(&bytes),
                // Whoever ended its output reads no more: the writer, which might wait for ever, ends here.
                None => break,
            }
        }
    }
    let exit_code = exec.exit_code().await?;
    Ok(Fed { exit_code, sent, sent_all, stdout_tail: stdout.text(), stderr_tail: stderr.text() })
}

async fn write_body<S>(mut stdin: ExecStdin, body: S, sent: &mut u64) -> Result<(), Unsent>
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send,
{
    let unsent = |error| match error {
        stuck @ Error::Idle { .. } => Unsent::Stuck(stuck),
        _ => Unsent::Closed,
    };
    let mut body = pin!(body);
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(Unsent::Body)?;
        stdin.write_all(&bytes).await.map_err(unsent)?;
        *sent += len_u64(&bytes);
    }
    stdin.finish().await.map_err(unsent)
}

async fn finish(exec: &mut Exec) -> Result<Finished, Error> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(output) = exec.next().await? {
        let (into, bytes) = match &output {
            Output::Stdout(bytes) => (&mut stdout, bytes),
            Output::Stderr(bytes) => (&mut stderr, bytes),
        };
        if into.len() + bytes.len() > SHORT_OUTPUT_MOST {
            return Err(Error::TooMuchOutput {
                container: exec.container().to_owned(),
                program: exec.program().to_owned(),
                limit: SHORT_OUTPUT_MOST,
            });
        }
        into.extend_from_slice(bytes);
    }
    Ok(Finished { exit_code: exec.exit_code().await?, stdout, stderr })
}

/// Waits until the process is gone, so that a program that exits on this error leaves no orphan.
async fn kill_after(mut exec: Exec, error: Error) -> Error {
    exec.kill_in_place().await;
    error
}

fn nonce() -> Result<String, Error> {
    let mut bytes = [0; NONCE_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn len_u64(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory fits 64 bits")
}

#[cfg(test)]
mod tests;
