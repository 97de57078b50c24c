//! The stack that is meant, and its components as sources and sinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::config::AddressingConfig;
use super::error::Error;
use super::keys;
use super::location::Location;
use super::resolve::Settings;
use crate::component::files::{DirectoryOptions, DirectorySink, DirectorySource, SecretsSink, SecretsSource};
use crate::component::mongodb::{self, EmptyArchive, MongoSink, MongoSource};
use crate::component::redis::{self, RedisSink, RedisSource};
use crate::component::s3::{self, BucketsSink, BucketsSource};
use crate::component::secret::Secret;
use crate::component::stack::{self, Found, Origin, Place, Service, Stack, StackOptions};
use crate::component::{self, Sink, Source};
use crate::ops::snapshot::SECRETS;

/// The components of every stack, in the order of capture.
pub(crate) const OF_STACK: [&str; 4] = ["mongodb", "redis", "rustfs", SECRETS];
/// Redis inside its container.
const REDIS_PORT: u16 = 6379;
/// How long a restored Redis may take to load its data.
const REDIS_READY_LIMIT: Duration = Duration::from_secs(30 * 60);

fn service(component: &str) -> Option<Service> {
    match component {
        "mongodb" => Some(Service::Mongodb),
        "redis" => Some(Service::Redis),
        "rustfs" => Some(Service::Rustfs),
        _ => None,
    }
}

/// Finds the stack and the services that these components need.
pub(crate) async fn resolve(settings: &Settings, components: &BTreeSet<String>) -> Result<Stack, Error> {
    Ok(Stack::resolve(options(settings, components)?).await.map_err(component::Error::from)?)
}

/// As [`resolve`], for a restore: the stack's directory may be an empty one, on a machine that is new.
pub(crate) async fn resolve_new(settings: &Settings, components: &BTreeSet<String>) -> Result<Stack, Error> {
    let options = StackOptions { may_be_new: true, ..options(settings, components)? };
    Ok(Stack::resolve(options).await.map_err(component::Error::from)?)
}

fn options(settings: &Settings, components: &BTreeSet<String>) -> Result<StackOptions, Error> {
    let args = &settings.global.stack;
    let config = &settings.config;
    let containers = [
        (
            Service::Mongodb,
            either(
                (&args.mongodb_container, "--mongodb-container"),
                (&config.mongodb.container, "mongodb.container in orkvault.toml"),
            ),
        ),
        (
            Service::Redis,
            either(
                (&args.redis_container, "--redis-container"),
                (&config.redis.container, "redis.container in orkvault.toml"),
            ),
        ),
        (
            Service::Rustfs,
            either(
                (&args.rustfs_container, "--rustfs-container"),
                (&config.rustfs.container, "rustfs.container in orkvault.toml"),
            ),
        ),
    ];
    let file = |path: &Option<PathBuf>| path.as_deref().map(keys::secret).transpose();
    Ok(StackOptions {
        stack_dir: stack_dir(settings),
        may_be_new: false,
        working_dir: settings.working_dir.clone(),
        env: env_with_daemon(settings),
        configured: configured(settings),
        app_name: args.app_name.clone(),
        environment: args.environment.clone(),
        docker_host: args.docker_host.clone(),
        daemon: args.docker_daemon.clone().or_else(|| config.docker.daemon.clone()),
        services: components.iter().filter_map(|name| service(name)).collect(),
        containers: containers.into_iter().filter_map(|(service, name)| Some((service, name?))).collect(),
        mongodb_uri: mongodb_uri(settings)?,
        redis_address: either(
            (&args.redis_address, "--redis-address"),
            (&config.redis.address, "redis.address in orkvault.toml"),
        ),
        redis_password: file(&config.redis.password_file)?,
        s3_endpoint: either(
            (&args.s3_endpoint, "--s3-endpoint"),
            (&config.rustfs.endpoint, "rustfs.endpoint in orkvault.toml"),
        ),
        s3_access_key: file(&config.rustfs.access_key_file)?,
        s3_secret_key: file(&config.rustfs.secret_key_file)?,
        database: args.database.clone(),
    })
}

/// A flag's value, else the configuration file's, each with its name.
fn either<T: Clone>(flag: (&Option<T>, &'static str), file: (&Option<T>, &'static str)) -> Option<Found<T>> {
    let found = |(value, name): (&Option<T>, &'static str)| {
        value.clone().map(|value| Found { value, origin: Origin::Flag(name) })
    };
    found(flag).or_else(|| found(file))
}

/// Returns the stack's directory where it was named.
pub(crate) fn stack_dir(settings: &Settings) -> Option<Found<PathBuf>> {
    const VARIABLE: &str = "ORKVAULT_STACK_DIR";
    let flag = either((&settings.global.stack.stack_dir, "--stack-dir"), (&None, ""));
    let variable = || {
        let value = PathBuf::from(settings.variable(VARIABLE)?);
        Some(Found { value, origin: Origin::Environment(VARIABLE.to_owned()) })
    };
    let file = || either((&None, ""), (&settings.config.stack_dir, "stack_dir in orkvault.toml"));
    flag.or_else(variable).or_else(file)
}

fn mongodb_uri(settings: &Settings) -> Result<Option<Found<Secret>>, Error> {
    let config = &settings.config.mongodb;
    let file = either(
        (&settings.global.stack.mongodb_uri_file, "--mongodb-uri-file"),
        (&config.uri_file, "mongodb.uri_file in orkvault.toml"),
    );
    Ok(match (file, &config.uri) {
        (Some(file), _) => Some(Found { value: keys::secret(&file.value)?, origin: file.origin }),
        (None, Some(uri)) => {
            let origin = Origin::Flag("mongodb.uri in orkvault.toml");
            Some(Found { value: Secret::new(uri.clone()), origin })
        }
        (None, None) => None,
    })
}

/// Returns what `orkvault.toml` says instead of variables.
fn configured(settings: &Settings) -> stack::Configured {
    let config = &settings.config;
    let rows = [
        ("APP_NAME", "app_name in orkvault.toml", &config.app_name),
        ("ENV", "environment in orkvault.toml", &config.environment),
        ("MONGO_DATABASE", "mongodb.database in orkvault.toml", &config.mongodb.database),
        ("STORAGE_REGION", "rustfs.region in orkvault.toml", &config.rustfs.region),
    ];
    rows.into_iter().filter_map(|(variable, key, value)| Some((variable, (key, value.clone()?)))).collect()
}

/// Returns the environment, with the configured daemon where it names none.
pub(crate) fn env_with_daemon(settings: &Settings) -> BTreeMap<String, String> {
    let mut env = settings.env.clone();
    let is_named = ["DOCKER_HOST", "DOCKER_CONTEXT"].iter().any(|name| settings.variable(name).is_some());
    if let (false, Some(host)) = (is_named, &settings.config.docker.host) {
        env.insert("DOCKER_HOST".to_owned(), host.clone());
    }
    env
}

/// Returns the names of every component that this configuration has.
#[must_use]
pub(crate) fn all(settings: &Settings) -> Vec<String> {
    let own = settings.config.directory.iter().map(|directory| directory.name.clone());
    OF_STACK.iter().map(|name| (*name).to_owned()).chain(own).collect()
}

/// Checks names against what there is, and returns them in the order of capture, each once.
pub(crate) fn chosen(settings: &Settings, names: &[String]) -> Result<Vec<String>, Error> {
    let all = all(settings);
    if let Some(unknown) = names.iter().find(|name| *name != "all" && !all.contains(name)) {
        return Err(Error::BadValue {
            option: "a component".to_owned(),
            value: unknown.clone(),
            reason: format!("there are {}", all.join(", ")),
        });
    }
    let has_all = names.iter().any(|name| name == "all");
    Ok(all.into_iter().filter(|name| has_all || names.contains(name)).collect())
}

/// How components are captured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CaptureOptions {
    /// Whether a database without any collection is good.
    pub(crate) empty: EmptyArchive,
    /// Whether everything is looked at again.
    pub(crate) refresh: bool,
    /// Now.
    pub(crate) now: jiff::Timestamp,
}

/// Returns the source of a component.
pub(crate) fn source(
    settings: &Settings,
    stack: &Stack,
    name: &str,
    options: CaptureOptions,
) -> Result<Box<dyn Source>, Error> {
    let wrap = |error: component::Error| Error::from(error);
    Ok(match name {
        "mongodb" => {
            let (tools, database) = mongodb_tools(settings, stack);
            let mut source = mongodb::SourceOptions::database(database.value.clone());
            source.empty = options.empty;
            source.parallel_collections = settings.config.mongodb.parallel.unwrap_or(source.parallel_collections);
            Box::new(MongoSource::new(tools, source).map_err(|error| wrap(error.into()))?)
        }
        "redis" => {
            let (access, found_by) = redis_access(settings, stack);
            Box::new(RedisSource::new(access, found_by))
        }
        "rustfs" => {
            let (access, found_by) = s3_access(settings, stack);
            let tags = if options.refresh { s3::TagReading::Refresh } else { s3::TagReading::Changed };
            let source = s3::SourceOptions { buckets: settings.config.rustfs.buckets.clone(), tags };
            Box::new(BucketsSource::new(&access, source, found_by).map_err(|error| wrap(error.into()))?)
        }
        SECRETS => {
            let (env_file, keys_dir) = secrets_places(stack)?;
            Box::new(SecretsSource::new(env_file, keys_dir))
        }
        name => Box::new(DirectorySource::new(directory_options(settings, stack, name, options)?)),
    })
}

/// How components are put back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SinkChoice {
    /// What becomes of objects that the snapshot does not have.
    pub(crate) extras: s3::Extras,
    /// Now.
    pub(crate) now: jiff::Timestamp,
}

/// Returns the sink of a component whose source recorded these facts.
pub(crate) fn sink(
    settings: &Settings,
    stack: &Stack,
    name: &str,
    facts: &BTreeMap<String, String>,
    choice: SinkChoice,
) -> Result<Box<dyn Sink>, Error> {
    let wrap = |error: component::Error| Error::from(error);
    Ok(match name {
        "mongodb" => {
            let (tools, database) = mongodb_tools(settings, stack);
            // A default is nobody's wish: databases keep their names then. So do those of a dump of several, unless
            // one was asked for here and now.
            let is_named = database.origin != Origin::Default && facts.contains_key("database");
            let database = (is_named || settings.global.stack.database.is_some()).then(|| database.value.clone());
            let options = mongodb::SinkOptions { database, ..mongodb::SinkOptions::default() };
            Box::new(MongoSink::new(tools, options).map_err(|error| wrap(error.into()))?)
        }
        "redis" => {
            let (access, found_by) = redis_access(settings, stack);
            let options = redis::SinkOptions {
                state_dir: settings.state_dir(),
                data_dir: settings.config.redis.data_dir.clone(),
                ready_limit: REDIS_READY_LIMIT,
                now_secs: u64::try_from(choice.now.as_second()).unwrap_or(0),
            };
            Box::new(RedisSink::new(access, found_by, options))
        }
        "rustfs" => {
            let (access, found_by) = s3_access(settings, stack);
            let buckets = settings.config.rustfs.buckets.clone();
            let options = s3::SinkOptions { buckets, extras: choice.extras, ..s3::SinkOptions::default() };
            Box::new(BucketsSink::new(&access, options, found_by).map_err(|error| wrap(error.into()))?)
        }
        SECRETS => {
            let (env_file, keys_dir) = secrets_places(stack)?;
            let stamp = choice.now.strftime("%Y%m%dT%H%M%SZ").to_string();
            Box::new(SecretsSink::new(env_file, keys_dir, stamp))
        }
        name => Box::new(DirectorySink::new(name.to_owned(), directory(settings, name)?.path.clone())),
    })
}

/// Returns how the tools are run, and the database that is meant.
fn mongodb_tools<'a>(settings: &Settings, stack: &'a Stack) -> (mongodb::Tools, &'a Found<String>) {
    let found = stack.mongodb.as_ref().expect("the stack was resolved for this component");
    let tools_dir = settings.config.mongodb.tools_dir.clone();
    let tools_dir = settings.variable("ORKVAULT_MONGO_TOOLS").map(PathBuf::from).or(tools_dir);
    let (place, address) = match (&found.place, &stack.docker) {
        (Place::Container(container), Some((docker, _))) => {
            let place = mongodb::Place::Container { docker: docker.clone(), container: container.value.name.clone() };
            (place, mongodb::Address::Local)
        }
        (Place::Address(uri), _) => {
            (mongodb::Place::Host { directory: tools_dir }, mongodb::Address::Uri(uri.value.duplicate()))
        }
        (Place::Container(_), None) => unreachable!("containers are found by asking a daemon"),
    };
    let login = found.password.as_ref().map(|password| mongodb::Login {
        username: found.user.value.clone(),
        password: password.value.duplicate(),
        auth_database: "admin".to_owned(),
    });
    let server = mongodb::Server { address, login, selection_timeout_secs: None };
    (mongodb::Tools { place, server }, &found.database)
}

/// Returns how Redis is reached, and how that was found.
pub(crate) fn redis_access(settings: &Settings, stack: &Stack) -> (redis::Access, String) {
    let found = stack.redis.as_ref().expect("the stack was resolved for this component");
    let (place, found_by) = match (&found.place, &stack.docker) {
        (Place::Container(container), Some((docker, _))) => {
            let port = settings.config.redis.port.unwrap_or(REDIS_PORT);
            let name = container.value.name.clone();
            (redis::Place::Container { docker: docker.clone(), name, port }, container.origin.to_string())
        }
        (Place::Address(address), _) => {
            (redis::Place::Address(address.value.expose().to_owned()), address.origin.to_string())
        }
        (Place::Container(_), None) => unreachable!("containers are found by asking a daemon"),
    };
    let password = found.password.as_ref().map(|password| password.value.duplicate());
    (redis::Access { place, user: settings.config.redis.user.clone(), password }, found_by)
}

fn s3_access(settings: &Settings, stack: &Stack) -> (s3::Access, String) {
    let found = stack.rustfs.as_ref().expect("the stack was resolved for this component");
    let access = s3::Access {
        endpoint: found.endpoint.value.clone(),
        region: found.region.value.clone(),
        access_key_id: found.access_key.value.expose().to_owned(),
        secret_access_key: found.secret_key.value.duplicate(),
        addressing: match settings.config.rustfs.addressing {
            AddressingConfig::Path => s3::Addressing::Path,
            AddressingConfig::VirtualHost => s3::Addressing::VirtualHost,
        },
        patience: s3::Patience::default(),
    };
    (access, found.endpoint.origin.to_string())
}

/// Where `.env` and the keys are, or would be.
fn secrets_places(stack: &Stack) -> Result<(PathBuf, PathBuf), Error> {
    let location = &stack.location;
    let below = |path: &str| location.root.as_ref().map(|root| root.value.join(path));
    let env_file = location.env_file.as_ref().map(|file| file.value.clone()).or_else(|| below("docker/.env"));
    let env_file = env_file.ok_or(Error::NotGiven {
        what: "the stack's directory",
        ways: "give it with --stack-dir, ORKVAULT_STACK_DIR or stack_dir in orkvault.toml",
    })?;
    let beside = || env_file.parent().map(|dir| dir.join("keys"));
    let keys_dir = location.keys_dir.clone().or_else(beside).unwrap_or_else(|| PathBuf::from("keys"));
    Ok((env_file, keys_dir))
}

fn directory<'a>(settings: &'a Settings, name: &str) -> Result<&'a super::config::DirectoryConfig, Error> {
    settings.config.directory.iter().find(|directory| directory.name == name).ok_or_else(|| Error::BadValue {
        option: "a component".to_owned(),
        value: name.to_owned(),
        reason: "orkvault.toml has no such directory; --target-dir restores it anywhere".to_owned(),
    })
}

fn directory_options(
    settings: &Settings,
    stack: &Stack,
    name: &str,
    options: CaptureOptions,
) -> Result<DirectoryOptions, Error> {
    let directory = directory(settings, name)?;
    let mut excluded = directory.exclude.clone();
    // A backup that holds itself grows for ever.
    for store in [Some(settings.repository()), settings.secrets_repository()].into_iter().flatten() {
        if let Ok(Location::Directory(repository)) = store.location() {
            excluded.push(repository);
        }
    }
    excluded.extend(stack.location.backups_dir.clone());
    Ok(DirectoryOptions {
        name: name.to_owned(),
        root: directory.path.clone(),
        excluded,
        now_ns: options.now.as_nanosecond(),
        refresh: options.refresh,
    })
}
