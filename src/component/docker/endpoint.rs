//! Which daemon: decided once, from what was given, with no fallback from what was given.

use std::collections::BTreeMap;

use super::Error;

/// What decides the endpoint.
#[derive(Clone, Copy)]
pub struct EndpointOptions<'a> {
    /// `--docker-host`.
    pub docker_host: Option<&'a str>,
    /// The process environment: `DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CONFIG`, `HOME`, `XDG_RUNTIME_DIR`.
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

impl Endpoint {
    /// Returns the endpoint by precedence: flag, `DOCKER_HOST`, `DOCKER_CONTEXT` or the current context of
    /// the Docker client's config, the default socket (system, then rootless). One that was named but
    /// cannot be used (unknown context, `ssh://`, TLS) is an error; the next is not tried.
    pub fn resolve(options: EndpointOptions<'_>) -> Result<Self, Error> {
        let _ = options;
        todo!()
    }
}
