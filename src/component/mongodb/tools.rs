//! mongodump and mongorestore, in a container or on this host, and how they are told the password.
//!
//! Both read `--config=/dev/fd/3`: a shell takes the config from its standard input (or, for a dump in a
//! container, which has none, from a variable that it unsets), opens it as descriptor 3 and becomes the
//! tool. So no password is ever an argument, in the tool's environment, in a file or in Docker's events.
//!
//! In a container the shell above a dump, which writes the end mark behind it, keeps that variable as long
//! as the dump takes. Those who can read it there (root and its own user) can read the server's own
//! environment as well, which has the same password.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use zeroize::Zeroizing;

use super::Error;
use super::dump::make_room;
use super::process::{Child, Fed, exit};
use super::server::{Address, Login, Server};
use crate::component::docker::{self, Docker, ExecCommand};
use crate::component::secret::Secret;
use crate::component::stack;
use crate::component::{ByteStream, Error as ComponentError};

/// The program that dumps.
pub(super) const MONGODUMP: &str = "mongodump";
/// The program that restores.
pub(super) const MONGORESTORE: &str = "mongorestore";

/// Exit codes of a shell that cannot run, or find, a program.
const NOT_RUN: [i64; 2] = [126, 127];

/// The variable that a shell in a container takes the config from.
const CONFIG_VARIABLE: &str = "ORKVAULT_MONGO_CONFIG";

/// `read` takes no byte more than the line, so the archive that follows it stays whole.
const CONFIG_FROM_INPUT: &str = "IFS= read -r c; exec 3<<E\n$c\nE\nunset c; exec \"$@\"";
const CONFIG_FROM_VARIABLE: &str = "exec 3<<E\n$ORKVAULT_MONGO_CONFIG\nE\nunset ORKVAULT_MONGO_CONFIG; exec \"$@\"";

/// Where the tools run.
pub enum Place {
    /// Inside a running container, by docker exec.
    Container {
        /// The daemon that runs it.
        docker: Docker,
        /// Its exact name.
        container: String,
    },
    /// On this host.
    Host {
        /// The directory that holds them; `None` is `PATH`.
        directory: Option<PathBuf>,
    },
}

/// The tools and the server that they talk to.
pub struct Tools {
    /// Where they run.
    pub place: Place,
    /// The server, seen from there.
    pub server: Server,
}

impl Tools {
    /// Returns the tools for a server as the stack was resolved: in its container, or on this host (in
    /// `directory`, else from `PATH`) where it was given by address. `None` where it is in a container and
    /// there is no daemon.
    pub fn found(mongodb: &stack::Mongodb, docker: Option<&Docker>, directory: Option<PathBuf>) -> Option<Self> {
        let login = mongodb.password.as_ref().map(|password| Login {
            username: mongodb.user.value.clone(),
            password: password.value.duplicate(),
            auth_database: "admin".to_owned(),
        });
        let (place, address) = match &mongodb.place {
            stack::Place::Container(found) => {
                let place = Place::Container { docker: docker?.clone(), container: found.value.name.clone() };
                (place, Address::Local)
            }
            stack::Place::Address(uri) => (Place::Host { directory }, Address::Uri(uri.value.duplicate())),
        };
        Some(Self { place, server: Server { address, login, selection_timeout_secs: None } })
    }

    /// Returns where they run, for messages.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Container { container, .. } => format!("in container {container}"),
            Place::Host { directory: Some(directory) } => format!("in {}", directory.display()),
            Place::Host { directory: None } => "from PATH".to_owned(),
        }
    }

    /// Starts mongodump, whose standard output is what counts.
    pub(super) async fn dump(self: &Arc<Self>, arguments: Vec<String>, idle: Duration) -> Result<Output, Error> {
        let config = self.server.config();
        let mut argv = self.argv(MONGODUMP, arguments, config.is_some());
        let process = match &self.place {
            Place::Container { docker, container } => {
                if config.is_some() {
                    argv = under_shell(CONFIG_FROM_VARIABLE, argv);
                }
                let mut command = ExecCommand::new(argv);
                command.idle = idle;
                command.env.extend(config.map(|config| (CONFIG_VARIABLE.to_owned(), config)));
                let dump = docker.dump(container, command).await;
                Process::Container(Box::new(dump.map_err(|error| self.docker_error(MONGODUMP, error))?))
            }
            Place::Host { .. } => {
                let mut child = self.spawn(MONGODUMP, argv, config.is_some(), idle)?;
                if let Some(config) = config {
                    child.write(&line(&config)).await?;
                }
                child.close_input();
                Process::Host(Box::new(child))
            }
        };
        Ok(Output { tools: Arc::clone(self), process })
    }

    /// Runs mongorestore with `body` as its standard input, and returns how it ended. An `Err` of the body
    /// kills it before it reads an end of file.
    pub(super) async fn feed(
        &self,
        arguments: Vec<String>,
        idle: Duration,
        body: ByteStream,
    ) -> Result<Fed, ComponentError> {
        let config = self.server.config();
        let argv = self.argv(MONGORESTORE, arguments, config.is_some());
        match &self.place {
            Place::Container { docker, container } => {
                let argv = if config.is_some() { under_shell(CONFIG_FROM_INPUT, argv) } else { argv };
                let mut command = ExecCommand::new(argv);
                command.idle = idle;
                let first = config.map(|config| Ok(Bytes::from_owner(line(&config))));
                let body = stream::iter(first).chain(body.map_ok(|run| run.bytes).map_err(docker::BoxError::from));
                match docker.feed(container, command, body).await {
                    Ok(fed) => Ok(Fed {
                        exit_code: fed.exit_code,
                        took_all: fed.sent_all,
                        stderr_tail: self.server.redacted(&fed.stderr_tail),
                    }),
                    Err(docker::Error::Body { container, source }) => match source.downcast() {
                        Ok(own) => Err(*own),
                        Err(source) => Err(Error::Docker(docker::Error::Body { container, source }).into()),
                    },
                    Err(error) => Err(self.docker_error(MONGORESTORE, error).into()),
                }
            }
            Place::Host { .. } => {
                let mut child = self.spawn(MONGORESTORE, argv, config.is_some(), idle)?;
                if let Some(config) = config {
                    child.write(&line(&config)).await?;
                }
                let mut fed = child.feed(body).await?;
                fed.stderr_tail = self.server.redacted(&fed.stderr_tail);
                Ok(fed)
            }
        }
    }

    /// Returns what `--version` says first, after the colon.
    pub(super) async fn version(&self, program: &'static str) -> Result<String, Error> {
        const IDLE: Duration = Duration::from_secs(30);
        const VERSION_LEN_MAX: usize = 4096;
        let argv = self.argv(program, vec!["--version".to_owned()], false);
        let (exit_code, stdout, stderr) = match &self.place {
            Place::Container { docker, container } => {
                let mut command = ExecCommand::new(argv);
                command.idle = IDLE;
                let ended = docker.run(container, command).await;
                let ended = ended.map_err(|error| self.docker_error(program, error))?;
                (ended.exit_code, ended.stdout, String::from_utf8_lossy(&ended.stderr).into_owned())
            }
            Place::Host { .. } => {
                let mut child = self.spawn(program, argv, false, IDLE)?;
                child.close_input();
                let mut stdout = bytes::BytesMut::new();
                while stdout.len() < VERSION_LEN_MAX && child.fill(&mut stdout).await? {}
                let (exit_code, stderr) = child.wait().await?;
                (exit_code, stdout.to_vec(), stderr)
            }
        };
        if exit_code != 0 {
            return Err(self.failed(program, exit_code, &stderr));
        }
        let stdout = String::from_utf8_lossy(&stdout);
        let first = stdout.lines().next().unwrap_or_default();
        Ok(first.rsplit(':').next().unwrap_or_default().trim().to_owned())
    }

    /// Returns what a tool's exit code and last words mean. The tools have no other way to tell a refused
    /// login from a server that is not there: their exit code is 1 for everything.
    pub(super) fn failed(&self, program: &'static str, exit_code: i64, stderr: &str) -> Error {
        const REFUSED: [&str; 4] = ["AuthenticationFailed", "auth error", "(Unauthorized)", "requires authentication"];
        const UNREACHABLE: [&str; 3] = ["server selection error", "no reachable servers", "connection refused"];
        let place = self.place();
        let stderr_tail = self.server.redacted(stderr.trim_end());
        let says = |words: &[&str]| words.iter().any(|word| stderr_tail.contains(word));
        if NOT_RUN.contains(&exit_code) {
            Error::ToolMissing { program, place, reason: stderr_tail }
        } else if says(&REFUSED) {
            Error::LoginRefused { program, place, stderr_tail }
        } else if says(&UNREACHABLE) {
            Error::Unreachable { program, place, stderr_tail }
        } else {
            Error::ToolFailed { program, place, exit_code, stderr_tail }
        }
    }

    fn argv(&self, program: &'static str, arguments: Vec<String>, has_config: bool) -> Vec<String> {
        let program = match &self.place {
            Place::Host { directory: Some(directory) } => directory.join(program).to_string_lossy().into_owned(),
            _ => program.to_owned(),
        };
        let mut argv = vec![program];
        argv.extend(arguments);
        // `--version` needs no server, and old tools refuse it beside other options.
        if argv.get(1).is_none_or(|argument| argument != "--version") {
            argv.extend(self.server.arguments());
        }
        if has_config {
            argv.push("--config=/dev/fd/3".to_owned());
        }
        argv
    }

    fn spawn(
        &self,
        program: &'static str,
        argv: Vec<String>,
        has_config: bool,
        idle: Duration,
    ) -> Result<Child, Error> {
        let argv = if has_config { under_shell(CONFIG_FROM_INPUT, argv) } else { argv };
        Child::spawn(program, self.place(), argv, idle)
    }

    fn docker_error(&self, program: &'static str, error: docker::Error) -> Error {
        match error {
            docker::Error::DumpFailed { exit_code, stderr_tail, .. } => self.failed(program, exit_code, &stderr_tail),
            docker::Error::NotStarted { message, .. } => {
                Error::ToolMissing { program, place: self.place(), reason: self.server.redacted(&message) }
            }
            docker::Error::Idle { idle, .. } => Error::Idle { program, place: self.place(), idle },
            error => Error::Docker(error),
        }
    }
}

/// A running mongodump's output.
pub(super) struct Output {
    tools: Arc<Tools>,
    process: Process,
}

enum Process {
    Container(Box<docker::Dump>),
    Host(Box<Child>),
}

impl Output {
    /// Appends what comes next to `buffer`: at most 1 MiB. False only when mongodump ended with exit code 0
    /// and all of its output was received.
    pub(super) async fn fill(&mut self, buffer: &mut bytes::BytesMut) -> Result<bool, Error> {
        match &mut self.process {
            Process::Container(dump) => match dump.next().await {
                Ok(Some(bytes)) => {
                    make_room(buffer);
                    buffer.extend_from_slice(&bytes);
                    Ok(true)
                }
                Ok(None) => Ok(false),
                Err(error) => Err(self.tools.docker_error(MONGODUMP, error)),
            },
            Process::Host(child) => {
                if child.fill(buffer).await? {
                    return Ok(true);
                }
                let (exit_code, stderr) = child.wait().await?;
                if exit_code == exit::SUCCESS {
                    Ok(false)
                } else {
                    Err(self.tools.failed(MONGODUMP, exit_code, &stderr))
                }
            }
        }
    }

    /// Ends mongodump before its end and waits for it.
    pub(super) async fn cancel(self) -> Result<(), Error> {
        match self.process {
            Process::Container(dump) => Ok(dump.cancel().await?),
            Process::Host(mut child) => child.kill().await,
        }
    }
}

fn under_shell(script: &str, argv: Vec<String>) -> Vec<String> {
    let mut under = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned(), "sh".to_owned()];
    under.extend(argv);
    under
}

/// The config as the line that the shell reads.
fn line(config: &Secret) -> Zeroizing<Vec<u8>> {
    let mut line = Zeroizing::new(Vec::with_capacity(config.expose().len() + 1));
    line.extend_from_slice(config.expose().as_bytes());
    line.push(b'\n');
    line
}
