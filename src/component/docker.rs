//! The Docker daemon: containers, commands in them, files in them.
//!
//! The only part of the crate that knows bollard. What is proven here, so that the components need not
//! think of it: an exec's output that was cut is an error, an exit code is read only from a process that
//! has ended, the process of a cancelled exec is killed in its container, an archive answer holds exactly
//! the file that was asked for, an upload is read back.

mod archive;
mod container;
mod dump;
mod endpoint;
mod exec;
pub mod tar_reader;
mod upload;

use std::time::Duration;

pub use archive::{FileBody, FileKind, FileStat, Listed};
pub use container::{Container, ContainerRow, ContainerState, Mount, Network, PublishedPort, RestartPolicy};
pub use dump::{Dump, Fed, Finished};
pub use endpoint::{Endpoint, EndpointOptions};
pub use exec::{Exec, ExecCommand, ExecStdin, Output, StdinMode};
pub use upload::{FileContent, NewDirectory, NewFile, Upload};

use super::ErrorKind;

/// An error of another room, or of whoever supplies a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What Docker, or a process or file in a container, failed at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint that flag, environment or context name cannot be used; nothing else was tried.
    #[error("docker endpoint {endpoint} (from {origin}) cannot be used: {reason}")]
    Endpoint {
        /// `unix:///var/run/docker.sock`, or the context's name.
        endpoint: String,
        /// Where it was given: `--docker-host`, `DOCKER_HOST` ...
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The daemon does not answer, or not in a way that can be understood.
    #[error("docker at {endpoint} did not answer {action}")]
    Unreachable {
        /// The endpoint's address.
        endpoint: String,
        /// What was being asked.
        action: String,
        /// The transport's own error.
        source: BoxError,
    },
    /// The daemon refused a request.
    #[error("docker refused {action} (status {status}): {message}")]
    Api {
        /// What was being asked.
        action: String,
        /// The HTTP status code.
        status: u16,
        /// The daemon's words.
        message: String,
    },
    /// No container has exactly this name or id.
    #[error("no container is named {container}")]
    NoSuchContainer {
        /// The name that was asked for.
        container: String,
    },
    /// The container is stopped, paused or restarting.
    #[error("container {container} is {state}, not running")]
    NotRunning {
        /// Its name.
        container: String,
        /// Its state.
        state: ContainerState,
    },
    /// The daemon or the connection sent what the protocol does not allow: the output cannot be trusted.
    #[error("output of {program} in {container} is damaged: {what}")]
    Protocol {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// What came.
        what: String,
    },
    /// The command was never started.
    #[error("{program} could not be started in {container} (exit code {exit_code}): {message}")]
    NotStarted {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// 126 or 127, or what the daemon says.
        exit_code: i64,
        /// The runtime's words, at most 4 KiB.
        message: String,
    },
    /// Nothing came from a process, or could be written to it, for too long.
    #[error("{program} in {container} was silent for {} s", .idle.as_secs())]
    Idle {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// How long.
        idle: Duration,
    },
    /// The daemon still says that a process runs whose output has ended.
    #[error("{program} in {container} has no exit code {} s after its output ended", .waited.as_secs())]
    NoExitCode {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// How long was waited.
        waited: Duration,
    },
    /// A dump's process failed.
    #[error("{program} in {container} failed with exit code {exit_code}: {stderr_tail}")]
    DumpFailed {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// Its exit code (137: killed).
        exit_code: i64,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// A dump's process ended with exit code 0, but the end of its output did not arrive.
    #[error("the end of the output of {program} in {container} is missing after {received} bytes")]
    DumpCut {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// Bytes that did arrive.
        received: u64,
    },
    /// A process does not take its input any more.
    #[error("the input of {program} in {container} is closed")]
    Stdin {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// The connection's own error.
        source: std::io::Error,
    },
    /// A process that should be short wrote too much.
    #[error("{program} in {container} wrote more than {limit} bytes")]
    TooMuchOutput {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A process did not end though it was killed.
    #[error("{program} in {container} is still running after it was killed")]
    NotKilled {
        /// The container.
        container: String,
        /// The first word of the command.
        program: String,
    },
    /// What should have been sent to a process or a container could not be read.
    #[error("reading what goes to {container} failed")]
    Body {
        /// The container.
        container: String,
        /// The supplier's own error.
        source: BoxError,
    },
    /// There is no such file in the container (files on a tmpfs are never seen here).
    #[error("{path} does not exist in {container}")]
    NoSuchFile {
        /// The container.
        container: String,
        /// The path inside it.
        path: String,
    },
    /// The path is something else than what is needed.
    #[error("{path} in {container} is {found}, expected {expected}")]
    WrongKind {
        /// The container.
        container: String,
        /// The path inside it.
        path: String,
        /// What it is.
        found: FileKind,
        /// What it should be.
        expected: FileKind,
    },
    /// More than 8 symbolic links had to be followed.
    #[error("{path} in {container} leads through too many symbolic links")]
    TooManyLinks {
        /// The container.
        container: String,
        /// The path that was asked for.
        path: String,
    },
    /// The file is longer than the caller's limit.
    #[error("{path} in {container} has {len} bytes, allowed are {limit}")]
    TooLong {
        /// The container.
        container: String,
        /// The path inside it.
        path: String,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The archive that the daemon sent does not hold exactly what was asked for (a file that changed
    /// while it was read ends like this).
    #[error("archive of {path} in {container} is damaged: {what}")]
    Archive {
        /// The container.
        container: String,
        /// The path inside it.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A name or path that must not be used.
    #[error("{name:?} cannot be used as a path in a container")]
    BadPath {
        /// The name.
        name: String,
    },
    /// What was uploaded is not what is there now.
    #[error("{path} in {container} is not what was uploaded: {what}")]
    UploadDiffers {
        /// The container.
        container: String,
        /// The path inside it.
        path: String,
        /// What differs.
        what: String,
    },
    /// The system has no random numbers.
    #[error("the system gave no random bytes")]
    Random,
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::NoSuchContainer { .. } | Self::NotRunning { .. } => ErrorKind::Unavailable,
            Self::Endpoint { .. } | Self::BadPath { .. } => ErrorKind::Misconfigured,
            _ => ErrorKind::Failed,
        }
    }
}

/// A connection to one daemon. Cheap to clone.
///
/// Nothing may install a logger that shows bollard's `trace` lines: they hold request bodies.
#[derive(Clone)]
pub struct Docker {
    endpoint: Endpoint,
    client: bollard::Docker,
}

/// Which daemon answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Its own id (`ABCD:…`), stable over restarts.
    pub id: String,
    /// The host's name.
    pub name: String,
    /// Its version, `20.10.24`.
    pub version: String,
}

/// How long a question may take to be answered. Bodies that follow an answer have their own limits.
const ANSWER_SECS: u64 = 30;
/// The least time that a stopped process is given: Redis writes its data at shutdown.
const GRACE_LEAST_SECS: u64 = 60;
/// The most.
const GRACE_MOST_SECS: u64 = 3600;

impl Docker {
    /// Returns a connection to this endpoint and no other. Asks nothing yet but that a socket exists.
    pub fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let client = if endpoint.address.starts_with("unix://") {
            bollard::Docker::connect_with_unix(&endpoint.address, ANSWER_SECS, bollard::API_DEFAULT_VERSION)
        } else {
            bollard::Docker::connect_with_http(&endpoint.address, ANSWER_SECS, bollard::API_DEFAULT_VERSION)
        };
        let client = client.map_err(|error| Error::Endpoint {
            endpoint: endpoint.address.clone(),
            origin: endpoint.origin.clone(),
            reason: error.to_string(),
        })?;
        Ok(Self { endpoint: endpoint.clone(), client })
    }

    /// Returns the endpoint that it is connected to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns who answers (30 s).
    pub async fn daemon(&self) -> Result<Daemon, Error> {
        let info = self.client.info().await.map_err(|error| self.failed("who it is", error))?;
        Ok(Daemon {
            id: info.id.unwrap_or_default(),
            name: info.name.unwrap_or_default(),
            version: info.server_version.unwrap_or_default(),
        })
    }

    /// Returns all containers, running or not, sorted by name.
    pub async fn containers(&self) -> Result<Vec<ContainerRow>, Error> {
        let options = bollard::query_parameters::ListContainersOptionsBuilder::default().all(true).build();
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| self.failed("its containers", error))?;
        let mut rows: Vec<ContainerRow> = listed.into_iter().filter_map(ContainerRow::from_listed).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    /// Returns the container of exactly this name (no leading slash) or full id.
    pub async fn inspect(&self, name: &str) -> Result<Container, Error> {
        check_name(name)?;
        let found = self.client.inspect_container(name, None).await;
        let found = found.map_err(|error| self.failed_on(name, "what a container is", error))?;
        let container = Container::from_inspected(found);
        // The daemon also takes the beginning of an id.
        if container.name == name || container.id == name {
            Ok(container)
        } else {
            Err(Error::NoSuchContainer { container: name.to_owned() })
        }
    }

    /// Stops a container: its process gets `grace` (at least 60 s, at most an hour are taken) before it is
    /// killed. Returns when it has stopped; a stopped one is no error. Journal the stop before this call: a
    /// container with `restart: unless-stopped` stays down, over a reboot too, until it is started again.
    pub async fn stop(&self, container: &str, grace: Duration) -> Result<(), Error> {
        check_name(container)?;
        let secs = grace.as_secs().clamp(GRACE_LEAST_SECS, GRACE_MOST_SECS);
        let options = bollard::query_parameters::StopContainerOptionsBuilder::default()
            .t(i32::try_from(secs).expect("at most 3600"))
            .build();
        let client = self.client_with_timeout(Duration::from_secs(secs + GRACE_LEAST_SECS));
        match client.stop_container(container, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status_of(&error) == Some(304) => Ok(()),
            Err(error) => Err(self.failed_on(container, "to stop a container", error)),
        }
    }

    /// Starts a container; one that runs is no error. Does not wait until the service answers.
    pub async fn start(&self, container: &str) -> Result<(), Error> {
        check_name(container)?;
        match self.client.start_container(container, None).await {
            Ok(()) => Ok(()),
            Err(error) if status_of(&error) == Some(304) => Ok(()),
            Err(error) => Err(self.failed_on(container, "to start a container", error)),
        }
    }

    /// The same connection with another limit for the time until an answer begins.
    fn client_with_timeout(&self, timeout: Duration) -> bollard::Docker {
        self.client.clone().with_timeout(timeout)
    }

    fn failed(&self, action: &str, error: bollard::errors::Error) -> Error {
        match error {
            bollard::errors::Error::DockerResponseServerError { status_code, message } => {
                Error::Api { action: action.to_owned(), status: status_code, message }
            }
            other => Error::Unreachable {
                endpoint: self.endpoint.address.clone(),
                action: action.to_owned(),
                source: Box::new(other),
            },
        }
    }

    fn failed_on(&self, container: &str, action: &str, error: bollard::errors::Error) -> Error {
        if status_of(&error) == Some(404) {
            return Error::NoSuchContainer { container: container.to_owned() };
        }
        self.failed(action, error)
    }
}

fn status_of(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Refuses what is no name: it becomes part of a request's path.
fn check_name(name: &str) -> Result<(), Error> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(letters) {
        Ok(())
    } else {
        Err(Error::NoSuchContainer { container: name.to_owned() })
    }
}
