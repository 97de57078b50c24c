//! Which container is which service, and how it is reached.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Error, Found, Mongodb, Origin, Place, Redis, Rustfs, Service, Settings, StackOptions};
use crate::component::docker::{Container, ContainerRow, Daemon, Docker};
use crate::component::secret::Secret;

/// The label that names the stack, `${APP_NAME}-${ENV}`.
const STACK_LABEL: &str = "orkestra.stack";
/// The label in which Compose names the service.
const SERVICE_LABEL: &str = "com.docker.compose.service";
const S3_PORT: u16 = 9000;

/// Returns the names that a service's container can have: this release's and that of older ones, which had
/// no environments.
pub fn container_names(service: Service, app_name: &str, environment: &str) -> (String, String) {
    (format!("{app_name}-{service}-{environment}"), format!("{app_name}-{service}"))
}

/// Returns the container that is the service, and how it was found: by flag (exact
/// name or full id), exact name, labels, name of older releases. The first of these ways that finds any
/// decides; one that finds two is an error. Stopped containers count.
pub fn find_container<'a>(
    service: Service,
    flag: Option<&str>,
    app_name: &str,
    environment: &str,
    containers: &'a [ContainerRow],
) -> Result<Found<&'a ContainerRow>, Error> {
    let stack = format!("{app_name}-{environment}");
    let (name, old_name) = container_names(service, app_name, environment);
    if let Some(flag) = flag {
        let found = only(service, containers, |row| row.name == flag || row.id == flag)?;
        let missing = || Error::NoContainer { service, expected: vec![flag.to_owned()] };
        return Ok(Found { value: found.ok_or_else(missing)?, origin: Origin::Flag(container_flag(service)) });
    }
    let has = |row: &ContainerRow, label: &str, value: &str| row.labels.get(label).is_some_and(|found| found == value);
    let labelled = |row: &ContainerRow| has(row, STACK_LABEL, &stack) && has(row, SERVICE_LABEL, service.name());
    // One that says that it belongs to another stack does.
    let old =
        |row: &ContainerRow| row.name == old_name && row.labels.get(STACK_LABEL).is_none_or(|label| *label == stack);
    if let Some(value) = only(service, containers, |row| row.name == name)? {
        Ok(Found { value, origin: Origin::Name })
    } else if let Some(value) = only(service, containers, labelled)? {
        Ok(Found { value, origin: Origin::Labels })
    } else if let Some(value) = only(service, containers, old)? {
        Ok(Found { value, origin: Origin::OldName })
    } else {
        let labels = format!("labels {STACK_LABEL}={stack} and {SERVICE_LABEL}={service}");
        Err(Error::NoContainer { service, expected: vec![name, labels, old_name] })
    }
}

fn container_flag(service: Service) -> &'static str {
    match service {
        Service::Mongodb => "--mongodb-container",
        Service::Redis => "--redis-container",
        Service::Rustfs => "--rustfs-container",
    }
}

fn only(
    service: Service,
    containers: &[ContainerRow],
    fits: impl Fn(&ContainerRow) -> bool,
) -> Result<Option<&ContainerRow>, Error> {
    let found: Vec<&ContainerRow> = containers.iter().filter(|row| fits(row)).collect();
    match found.as_slice() {
        [] => Ok(None),
        [row] => Ok(Some(*row)),
        several => Err(Error::Ambiguous {
            service,
            candidates: several.iter().map(|row| format!("{} ({})", row.name, row.state)).collect(),
        }),
    }
}

/// Returns the needed services that were not given by their address.
pub(super) fn containers_needed(options: &StackOptions) -> BTreeSet<Service> {
    let given = |service: &Service| match service {
        Service::Mongodb => options.mongodb_uri.is_some(),
        Service::Redis => options.redis_address.is_some(),
        Service::Rustfs => options.s3_endpoint.is_some(),
    };
    options.services.iter().copied().filter(|service| !given(service)).collect()
}

pub(super) fn mongodb(
    options: &StackOptions,
    settings: &Settings<'_>,
    container: Option<Box<Found<Container>>>,
) -> Result<Mongodb, Error> {
    let flag = options.database.as_deref().map(|value| ("--database", value));
    let database = settings.text(flag, &["MONGO_DATABASE"], "orkestra")?;
    if database.value.is_empty() || database.value.contains(['/', '\\', '.', ' ', '"', '$', '\0']) {
        return Err(Error::BadValue {
            name: "MONGO_DATABASE".to_owned(),
            value: database.value,
            origin: database.origin,
        });
    }
    let user = settings.text(None, &["MONGO_ROOT_USERNAME"], "admin")?;
    let (place, password) = match container {
        Some(container) => {
            let names = ["MONGO_ROOT_PASSWORD"];
            (Place::Container(container), Some(required(Service::Mongodb, settings, &names)?))
        }
        None => (Place::Address(address(Service::Mongodb, options.mongodb_uri.as_ref(), "--mongodb-uri-file")?), None),
    };
    Ok(Mongodb { place, database, user, password })
}

pub(super) fn redis(
    options: &StackOptions,
    settings: &Settings<'_>,
    container: Option<Box<Found<Container>>>,
) -> Result<Redis, Error> {
    let place = match container {
        Some(container) => Place::Container(container),
        None => {
            let given = options.redis_address.as_ref();
            let given =
                given.map(|given| Found { value: Secret::new(given.value.as_str()), origin: given.origin.clone() });
            Place::Address(address(Service::Redis, given.as_ref(), "--redis-address")?)
        }
    };
    let file = (options.redis_password.as_ref(), "redis.password_file in orkvault.toml");
    let password = secret(settings, file, &["REDIS_PASSWORD"])?;
    Ok(Redis { place, password })
}

pub(super) fn rustfs(
    options: &StackOptions,
    settings: &Settings<'_>,
    container: Option<Box<Found<Container>>>,
    docker: Option<&(Docker, Daemon)>,
) -> Result<Rustfs, Error> {
    let endpoint = match (&options.s3_endpoint, &container) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(found)) => {
            let address = docker.map(|(docker, _)| docker.endpoint().address.as_str()).unwrap_or_default();
            s3_endpoint(&found.value, address)?
        }
        (None, None) => {
            return Err(Error::Missing { service: Service::Rustfs, names: vec!["--s3-endpoint".to_owned()] });
        }
    };
    let access_key = (options.s3_access_key.as_ref(), "rustfs.access_key_file in orkvault.toml");
    let secret_key = (options.s3_secret_key.as_ref(), "rustfs.secret_key_file in orkvault.toml");
    Ok(Rustfs {
        container,
        endpoint,
        region: settings.text(None, &["STORAGE_REGION"], "us-east-1")?,
        // Never a literal: keys that nobody set would open nobody's buckets.
        access_key: needed(settings, access_key, &["RUSTFS_ROOT_USER", "STORAGE_ACCESS_KEY"])?,
        secret_key: needed(settings, secret_key, &["RUSTFS_ROOT_PASSWORD", "STORAGE_SECRET_KEY"])?,
    })
}

/// An address of a service that is in no container.
fn address(service: Service, given: Option<&Found<Secret>>, flag: &str) -> Result<Found<Secret>, Error> {
    let given = given.ok_or_else(|| Error::Missing { service, names: vec![flag.to_owned()] })?;
    Ok(Found { value: given.value.duplicate(), origin: given.origin.clone() })
}

/// A secret that a file of the operator's holds comes behind the process environment, and before the stack's
/// own file of variables.
fn secret(
    settings: &Settings<'_>,
    (given, option): (Option<&Secret>, &'static str),
    names: &[&str],
) -> Result<Option<Found<Secret>>, Error> {
    match (settings.of_environment(names), given) {
        (Some(found), _) => Ok(Some(found)),
        (None, Some(given)) => Ok(Some(Found { value: given.duplicate(), origin: Origin::Flag(option) })),
        (None, None) => settings.first(names),
    }
}

/// As [`secret`], for the object store, which has no use without.
fn needed(
    settings: &Settings<'_>,
    given: (Option<&Secret>, &'static str),
    names: &[&str],
) -> Result<Found<Secret>, Error> {
    let missing =
        || Error::Missing { service: Service::Rustfs, names: names.iter().map(|name| (*name).to_owned()).collect() };
    secret(settings, given, names)?.ok_or_else(missing)
}

fn required(service: Service, settings: &Settings<'_>, names: &[&str]) -> Result<Found<Secret>, Error> {
    let missing = || Error::Missing { service, names: names.iter().map(|name| (*name).to_owned()).collect() };
    settings.first(names)?.ok_or_else(missing)
}

/// Returns where port 9000 of a container can be reached from here: published, else (daemon on this machine)
/// at the container's own address.
pub(super) fn s3_endpoint(container: &Container, docker_address: &str) -> Result<Found<String>, Error> {
    let remote = docker_address.strip_prefix("tcp://").or_else(|| docker_address.strip_prefix("http://"));
    let remote_host = remote.and_then(|authority| authority.rsplit_once(':').map(|(host, _)| host).or(Some(authority)));
    if let Some(port) = container.published(S3_PORT) {
        let origin = Origin::PublishedPort(container.name.clone());
        let host = match (port.host_ip, remote_host) {
            (ip, Some(host)) if ip.is_unspecified() => Some(format!("{host}:{}", port.host_port)),
            // Published on the loopback of another machine.
            (ip, Some(_)) if ip.is_loopback() => None,
            (ip, _) => Some(SocketAddr::new(local(ip), port.host_port).to_string()),
        };
        if let Some(host) = host {
            return Ok(Found { value: format!("http://{host}"), origin });
        }
    }
    match container.networks.iter().find_map(|network| network.ip) {
        Some(ip) if remote_host.is_none() => Ok(Found {
            value: format!("http://{}", SocketAddr::new(ip, S3_PORT)),
            origin: Origin::ContainerAddress(container.name.clone()),
        }),
        _ => Err(Error::NoEndpoint { container: container.name.clone(), state: container.state }),
    }
}

/// An address that was bound to all interfaces is reached on the loopback.
fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
