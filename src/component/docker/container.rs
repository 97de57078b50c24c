//! A container as the daemon describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::component::secret::Secret;

/// A container. Its environment holds secrets: no `Debug`, no `Clone`.
pub struct Container {
    /// The full id, 64 hex digits.
    pub id: String,
    /// The exact name, no leading slash.
    pub name: String,
    /// The image reference that it was created from.
    pub image: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub state: ContainerState,
    /// What its process was started with.
    pub env: BTreeMap<String, Secret>,
    /// Volumes and bind mounts (a tmpfs is not always listed).
    pub mounts: Vec<Mount>,
    /// Ports published on the daemon's host.
    pub ports: Vec<PublishedPort>,
    /// Networks, sorted by name.
    pub networks: Vec<Network>,
    /// What happens when its process ends.
    pub restart_policy: RestartPolicy,
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    /// Created, never started.
    Created,
    /// Running.
    Running,
    /// Running but frozen.
    Paused,
    /// Between a crash and the next start.
    Restarting,
    /// Stopped.
    Exited,
    /// Being removed, dead, or a state that this version does not know.
    Unusable,
}

/// What happens when a container's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Nothing.
    No,
    /// Started again, whatever happened.
    Always,
    /// Started again unless it was stopped through the API.
    UnlessStopped,
    /// Started again after an exit code other than 0.
    OnFailure,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `volume`, `bind`, `tmpfs`.
    pub kind: String,
    /// The volume's name, where it has one.
    pub volume: Option<String>,
    /// The path on the daemon's host.
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// False for a read-only mount.
    pub writable: bool,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port in the container.
    pub container_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The address on the daemon's host (`0.0.0.0`: all).
    pub host_ip: IpAddr,
    /// The port on the daemon's host.
    pub host_port: u16,
}

/// A network that a container is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The container's address in it; none while it does not run.
    pub ip: Option<IpAddr>,
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Unusable => "unusable",
        })
    }
}
