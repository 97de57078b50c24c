//! The stack that is meant: decided once, from what was given, and shown before anything is done.
//!
//! Every setting has one order: flag, process environment, `docker/.env`, default. Containers are found by
//! flag, by their name `${APP_NAME}-<service>-${ENV}`, by Compose labels, by the name of older releases.
//! Two that fit are an error, so is a daemon that is not the expected one; what is found says how.

mod locate;
mod services;
mod settings;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use super::ErrorKind;
use super::docker::{self, Container, ContainerState, Daemon, Docker, Endpoint, EndpointOptions};
use super::dotenv::{self, Dotenv};
use super::secret::Secret;

pub use locate::{Location, locate};
pub use services::{container_names, find_container};
pub use settings::{Configured, Settings};

/// Why it is not clear which stack is meant, or why it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The given directory is no stack.
    #[error("{} holds neither docker/docker-compose.infra.yml nor docker/.env", dir.display())]
    NotAStack {
        /// The directory.
        dir: PathBuf,
    },
    /// The variables' file cannot be read.
    #[error("{} cannot be read", path.display())]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The variables' file cannot be understood, or a value that is needed is doubtful.
    #[error("{} cannot be relied on", path.display())]
    Dotenv {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: dotenv::Error,
    },
    /// A setting has a value that it cannot have. Never a secret.
    #[error("{name} (from {origin}) cannot be {value:?}")]
    BadValue {
        /// The setting.
        name: String,
        /// The value.
        value: String,
        /// Where it is from.
        origin: Origin,
    },
    /// A setting without a default is set nowhere.
    #[error("{service} needs {}, which is not set", names.join(" or "))]
    Missing {
        /// What needs it.
        service: Service,
        /// The variables that could hold it.
        names: Vec<String>,
    },
    /// None of the containers is the service.
    #[error("no container of {service} was found, expected {}", expected.join(" or "))]
    NoContainer {
        /// The service.
        service: Service,
        /// The names and labels that were looked for.
        expected: Vec<String>,
    },
    /// Several containers could be the service.
    #[error("several containers could be {service}: {}", candidates.join(", "))]
    Ambiguous {
        /// The service.
        service: Service,
        /// Their names, each with its state.
        candidates: Vec<String>,
    },
    /// The daemon that answers is not the one that was expected.
    #[error("docker at {endpoint} is {name} ({id}), expected was {expected}")]
    WrongDaemon {
        /// The endpoint.
        endpoint: String,
        /// The id or name that was expected.
        expected: String,
        /// The daemon's id.
        id: String,
        /// The daemon's name.
        name: String,
    },
    /// The object store's container cannot be reached from here.
    #[error("port 9000 of {container} ({state}) is not published where it can be reached from here")]
    NoEndpoint {
        /// The container.
        container: String,
        /// Its state.
        state: ContainerState,
    },
    /// Docker failed.
    #[error(transparent)]
    Docker(#[from] docker::Error),
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoContainer { .. } | Self::NoEndpoint { .. } => ErrorKind::Unavailable,
            Self::WrongDaemon { .. } => ErrorKind::Refused,
            Self::Docker(error) => error.kind(),
            _ => ErrorKind::Misconfigured,
        }
    }
}

/// A server of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// MongoDB.
    Mongodb,
    /// Redis.
    Redis,
    /// The object store, RustFS.
    Rustfs,
}

impl Service {
    /// Its name, which is its component's and its Compose service's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mongodb => "mongodb",
            Self::Redis => "redis",
            Self::Rustfs => "rustfs",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How something was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Given with this flag (or key of the configuration file).
    Flag(&'static str),
    /// From this variable of the process environment.
    Environment(String),
    /// From this variable on this line of the variables' file.
    File(String, usize),
    /// The default.
    Default,
    /// Found by walking up from the working directory.
    WorkingDirectory,
    /// A container with the name that this release gives.
    Name,
    /// A container with the labels of the stack.
    Labels,
    /// A container with the name that older releases gave.
    OldName,
    /// A port published on the daemon's host.
    PublishedPort(String),
    /// A container's own address.
    ContainerAddress(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Environment(name) => write!(f, "{name} in the environment"),
            Self::File(name, line) => write!(f, "{name} on line {line} of the env file"),
            Self::Default => f.write_str("default"),
            Self::WorkingDirectory => f.write_str("found from the working directory"),
            Self::Name => f.write_str("by name"),
            Self::Labels => f.write_str("by labels"),
            Self::OldName => f.write_str("by the name of older releases"),
            Self::PublishedPort(container) => write!(f, "published port of {container}"),
            Self::ContainerAddress(container) => write!(f, "address of {container}"),
        }
    }
}

/// A value and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// The value.
    pub value: T,
    /// How it was found.
    pub origin: Origin,
}

/// Everything that decides which stack is meant. Nothing else is looked at: no environment, no working directory.
#[derive(Default)]
pub struct StackOptions {
    /// `--stack-dir`.
    pub stack_dir: Option<Found<PathBuf>>,
    /// Whether `stack_dir` may be a directory without any file of a stack: one that is about to be made.
    pub may_be_new: bool,
    /// The working directory, from which the stack's root is searched upwards.
    pub working_dir: PathBuf,
    /// The process environment.
    pub env: BTreeMap<String, String>,
    /// What the configuration file says instead of variables.
    pub configured: Configured,
    /// `--app-name`.
    pub app_name: Option<String>,
    /// `--environment`.
    pub environment: Option<String>,
    /// `--docker-host`.
    pub docker_host: Option<String>,
    /// `--docker-daemon`: the id or name that the daemon must have.
    pub daemon: Option<String>,
    /// The services that are needed: only they are looked for, and each must be found.
    pub services: BTreeSet<Service>,
    /// `--mongodb-container`, `--redis-container`, `--rustfs-container`.
    pub containers: BTreeMap<Service, Found<String>>,
    /// MongoDB without Docker. May hold a password.
    pub mongodb_uri: Option<Found<Secret>>,
    /// `--redis-address`, `host:port`: Redis without Docker.
    pub redis_address: Option<Found<String>>,
    /// `redis.password_file` of the configuration file.
    pub redis_password: Option<Secret>,
    /// `--s3-endpoint`: the object store without Docker.
    pub s3_endpoint: Option<Found<String>>,
    /// `rustfs.access_key_file` of the configuration file.
    pub s3_access_key: Option<Secret>,
    /// `rustfs.secret_key_file` of the configuration file.
    pub s3_secret_key: Option<Secret>,
    /// `--database`.
    pub database: Option<String>,
}

/// Where a server is.
pub enum Place {
    /// In a container.
    Container(Box<Found<Container>>),
    /// At an address: a URI (which may hold a password), `host:port`, a URL.
    Address(Found<Secret>),
}

impl Place {
    /// Returns the container, if it is in one.
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::Container(found) => Some(&found.value),
            Self::Address(_) => None,
        }
    }
}

/// MongoDB, as resolved.
pub struct Mongodb {
    /// Where it is.
    pub place: Place,
    /// The database to dump.
    pub database: Found<String>,
    /// The user, for a container (a URI has its own).
    pub user: Found<String>,
    /// The password; always there for a container.
    pub password: Option<Found<Secret>>,
}

/// Redis, as resolved.
pub struct Redis {
    /// Where it is.
    pub place: Place,
    /// The password; none: no authentication.
    pub password: Option<Found<Secret>>,
}

/// The object store, as resolved.
pub struct Rustfs {
    /// Its container, unless an endpoint was given.
    pub container: Option<Box<Found<Container>>>,
    /// `http://127.0.0.1:9100`.
    pub endpoint: Found<String>,
    /// The region to sign for.
    pub region: Found<String>,
    /// The access key.
    pub access_key: Found<Secret>,
    /// The secret key.
    pub secret_key: Found<Secret>,
}

impl Rustfs {
    /// Returns the keys that the running container was started with, where they can be told: the truth when
    /// `docker/.env` was edited since, or names variables that the server does not read. For a hint only.
    pub fn running_keys(&self) -> Option<(&Secret, &Secret)> {
        let env = &self.container.as_ref()?.value.env;
        let first = |names: [&str; 3]| names.iter().find_map(|name| env.get(*name));
        let access = first(["RUSTFS_ACCESS_KEY", "MINIO_ROOT_USER", "RUSTFS_ROOT_USER"])?;
        let secret = first(["RUSTFS_SECRET_KEY", "MINIO_ROOT_PASSWORD", "RUSTFS_ROOT_PASSWORD"])?;
        Some((access, secret))
    }
}

/// The resolved stack.
pub struct Stack {
    /// Root directory and files.
    pub location: Location,
    /// `APP_NAME`.
    pub app_name: Found<String>,
    /// `ENV`.
    pub environment: Found<String>,
    /// The daemon, if one was needed.
    pub docker: Option<(Docker, Daemon)>,
    /// MongoDB, if it is needed.
    pub mongodb: Option<Mongodb>,
    /// Redis, if it is needed.
    pub redis: Option<Redis>,
    /// The object store, if it is needed.
    pub rustfs: Option<Rustfs>,
    /// What the operator should hear about.
    pub warnings: Vec<String>,
}

impl Stack {
    /// Returns whether anything says which environment this is. A default that nothing rests on (no variables'
    /// file, no container that was found by it) says nothing.
    pub fn knows_environment(&self) -> bool {
        let has_file = self.location.env_file.as_ref().is_some_and(|file| file.value.exists());
        self.environment.origin != Origin::Default || has_file || self.docker.is_some()
    }

    /// Returns the stack that the options mean, with every needed service found. Docker is asked only where
    /// a needed service was not given by its address; nothing is changed anywhere.
    pub async fn resolve(options: StackOptions) -> Result<Self, Error> {
        let location = locate(&options)?;
        let dotenv = read_dotenv(&location, options.may_be_new)?;
        let warnings = warnings_of(&location, dotenv.as_ref());
        let settings = Settings::new(&options.env, location.env_file.as_ref(), dotenv.as_ref());
        let settings = settings.configured(&options.configured);
        let app_name = settings.app_name(options.app_name.as_deref())?;
        let environment = settings.environment(options.environment.as_deref())?;

        let docker = match services::containers_needed(&options).is_empty() {
            true => None,
            false => Some(connect(&options).await?),
        };
        let mut places = find_places(&options, docker.as_ref(), &app_name.value, &environment.value).await?;
        let wants = |service| options.services.contains(&service);
        let rustfs = match wants(Service::Rustfs) {
            true => Some(services::rustfs(&options, &settings, places.remove(&Service::Rustfs), docker.as_ref())?),
            false => None,
        };
        let mongodb = match wants(Service::Mongodb) {
            true => Some(services::mongodb(&options, &settings, places.remove(&Service::Mongodb))?),
            false => None,
        };
        let redis = match wants(Service::Redis) {
            true => Some(services::redis(&options, &settings, places.remove(&Service::Redis))?),
            false => None,
        };
        Ok(Self { location, app_name, environment, docker, mongodb, redis, rustfs, warnings })
    }
}

/// Finds the container of each service that has one, in one listing.
async fn find_places(
    options: &StackOptions,
    docker: Option<&(Docker, Daemon)>,
    app_name: &str,
    environment: &str,
) -> Result<BTreeMap<Service, Box<Found<Container>>>, Error> {
    let mut places = BTreeMap::new();
    let Some((docker, _)) = docker else { return Ok(places) };
    let rows = docker.containers().await?;
    for service in services::containers_needed(options) {
        let given = options.containers.get(&service);
        let flag = given.map(|given| given.value.as_str());
        let found = find_container(service, flag, app_name, environment, &rows)?;
        let value = docker.inspect(&found.value.id).await?;
        let origin = given.map_or(found.origin, |given| given.origin.clone());
        places.insert(service, Box::new(Found { value, origin }));
    }
    Ok(places)
}

/// The variables' file is small; a longer one is none.
const ENV_FILE_MOST: u64 = 1 << 20;

fn read_dotenv(location: &Location, may_be_new: bool) -> Result<Option<Dotenv>, Error> {
    let Some(file) = &location.env_file else { return Ok(None) };
    let path = &file.value;
    let unreadable = |source| Error::EnvFile { path: path.clone(), source };
    // What `ORKESTRA_ENV_FILE` names may be what is about to be restored.
    if may_be_new && !path.exists() {
        return Ok(None);
    }
    if std::fs::metadata(path).map_err(unreadable)?.len() > ENV_FILE_MOST {
        return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
    }
    let bytes = zeroize::Zeroizing::new(std::fs::read(path).map_err(unreadable)?);
    let dotenv = Dotenv::parse(&bytes).map_err(|source| Error::Dotenv { path: path.clone(), source })?;
    Ok(Some(dotenv))
}

fn warnings_of(location: &Location, dotenv: Option<&Dotenv>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let (Some(dotenv), Some(file)) = (dotenv, &location.env_file) {
        let name = file.value.display();
        warnings.extend(dotenv.warnings().iter().map(|warning| format!("{name}: {warning}")));
    }
    warnings
}

async fn connect(options: &StackOptions) -> Result<(Docker, Daemon), Error> {
    let host = options.docker_host.as_deref();
    let endpoint = Endpoint::resolve(EndpointOptions { docker_host: host, env: &options.env })?;
    let docker = Docker::connect(&endpoint)?;
    let daemon = docker.daemon().await?;
    match &options.daemon {
        Some(expected) if *expected != daemon.id && *expected != daemon.name => Err(Error::WrongDaemon {
            endpoint: endpoint.address,
            expected: expected.clone(),
            id: daemon.id,
            name: daemon.name,
        }),
        _ => Ok((docker, daemon)),
    }
}

#[cfg(test)]
mod tests;
