//! Which daemon: decided once, from what was given, with no fallback from what was given.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Error;

/// What decides the endpoint.
#[derive(Clone, Copy)]
pub struct EndpointOptions<'a> {
    /// `--docker-host`.
    pub docker_host: Option<&'a str>,
    /// The process environment: `DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CONFIG`, `DOCKER_TLS_VERIFY`, `HOME`,
    /// `XDG_RUNTIME_DIR`.
    pub env: &'a BTreeMap<String, String>,
}

/// The address of a daemon and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix:///var/run/docker.sock` or `tcp://host:port`.
    pub address: String,
    /// `--docker-host`, `DOCKER_HOST`, `context <name>`, `default`.
    pub origin: String,
}

const SYSTEM_SOCKET: &str = "/var/run/docker.sock";
/// Files of the Docker client are small; more contexts than this nobody has.
const CONTEXTS_MOST: usize = 1000;
const CLIENT_FILE_MOST: u64 = 1 << 20;

#[derive(Deserialize)]
struct ClientConfig {
    #[serde(rename = "currentContext", default)]
    current_context: String,
}

#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Endpoints", default)]
    endpoints: BTreeMap<String, ContextEndpoint>,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host", default)]
    host: String,
}

impl Endpoint {
    /// Returns the endpoint by precedence: flag, `DOCKER_HOST`, `DOCKER_CONTEXT` or the current context of
    /// the Docker client's config, the default socket (system, then rootless). One that was named but
    /// cannot be used (unknown context, `ssh://`, TLS) is an error; the next is not tried.
    pub fn resolve(options: EndpointOptions<'_>) -> Result<Self, Error> {
        let set = |name: &str| options.env.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(host) = options.docker_host {
            return usable(host, "--docker-host", set("DOCKER_TLS_VERIFY").is_some());
        }
        if let Some(host) = set("DOCKER_HOST") {
            return usable(host, "DOCKER_HOST", set("DOCKER_TLS_VERIFY").is_some());
        }
        let config_dir =
            set("DOCKER_CONFIG").map(PathBuf::from).or_else(|| set("HOME").map(|home| Path::new(home).join(".docker")));
        let (context, origin) = match set("DOCKER_CONTEXT") {
            Some(context) => (Some(context.to_owned()), "DOCKER_CONTEXT"),
            None => (current_context(config_dir.as_deref())?, "the docker client's current context"),
        };
        match context.filter(|name| name != "default") {
            Some(name) => from_context(&name, origin, config_dir.as_deref()),
            None => Ok(default_socket(set("XDG_RUNTIME_DIR"))),
        }
    }
}

fn usable(host: &str, origin: &str, tls: bool) -> Result<Endpoint, Error> {
    let refused = |reason: &str| {
        Err(Error::Endpoint { endpoint: host.to_owned(), origin: origin.to_owned(), reason: reason.to_owned() })
    };
    if let Some(path) = host.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return refused("the socket's path is not absolute");
        }
    } else if let Some(authority) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
        if tls {
            return refused("this build speaks no TLS");
        }
        if authority.is_empty() {
            return refused("it names no host");
        }
    } else {
        return refused("only unix:// and tcp:// addresses are supported");
    }
    Ok(Endpoint { address: host.to_owned(), origin: origin.to_owned() })
}

fn default_socket(runtime_dir: Option<&str>) -> Endpoint {
    let rootless = runtime_dir.map(|dir| Path::new(dir).join("docker.sock"));
    let path = match rootless {
        Some(rootless) if !Path::new(SYSTEM_SOCKET).exists() && rootless.exists() => rootless.display().to_string(),
        _ => SYSTEM_SOCKET.to_owned(),
    };
    Endpoint { address: format!("unix://{path}"), origin: "default".to_owned() }
}

fn current_context(config_dir: Option<&Path>) -> Result<Option<String>, Error> {
    let Some(path) = config_dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    if !path.exists() {
        return Ok(None);
    }
    let refused = |reason: String| Error::Endpoint {
        endpoint: path.display().to_string(),
        origin: "the docker client's config".to_owned(),
        reason,
    };
    let text = read_small(&path).map_err(|error| refused(error.to_string()))?;
    let config: ClientConfig = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    Ok(Some(config.current_context).filter(|name| !name.is_empty()))
}

fn from_context(name: &str, origin: &str, config_dir: Option<&Path>) -> Result<Endpoint, Error> {
    let refused = |reason: &str| Error::Endpoint {
        endpoint: format!("context {name}"),
        origin: origin.to_owned(),
        reason: reason.to_owned(),
    };
    let contexts = config_dir.ok_or_else(|| refused("HOME and DOCKER_CONFIG are not set"))?.join("contexts");
    let folders = fs::read_dir(contexts.join("meta")).map_err(|_| refused("there are no contexts"))?;
    for folder in folders.take(CONTEXTS_MOST).flatten() {
        let Ok(text) = read_small(&folder.path().join("meta.json")) else { continue };
        let Ok(meta) = serde_json::from_slice::<ContextMeta>(&text) else { continue };
        if meta.name != name {
            continue;
        }
        let tls = contexts.join("tls").join(folder.file_name()).exists();
        let docker = meta.endpoints.get("docker").ok_or_else(|| refused("it has no docker endpoint"))?;
        return usable(&docker.host, &format!("context {name}, from {origin}"), tls);
    }
    Err(refused("there is no such context"))
}

fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > CLIENT_FILE_MOST {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    fs::read(path)
}

#[cfg(test)]
mod tests;
