//! A container as the daemon describes it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum, HostConfig,
    MountPoint, NetworkSettings, RestartPolicyNameEnum,
};

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

/// A container as the daemon lists it: enough to choose one. Unlike inspecting, listing never waits for a
/// container whose files are being read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRow {
    /// The full id, 64 hex digits.
    pub id: String,
    /// The exact name, no leading slash.
    pub name: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub state: ContainerState,
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

impl Container {
    /// Whether the container runs and is neither paused nor between two starts.
    pub fn is_running(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// Returns where a TCP port of the container is published on the daemon's host.
    pub fn published(&self, container_port: u16) -> Option<&PublishedPort> {
        self.ports.iter().find(|port| port.container_port == container_port && port.protocol == "tcp")
    }

    pub(super) fn from_inspected(found: ContainerInspectResponse) -> Self {
        let config = found.config.unwrap_or_default();
        let networks = found.network_settings.unwrap_or_default();
        Self {
            id: found.id.unwrap_or_default(),
            name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image: config.image.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            state: state_of(found.state.and_then(|state| state.status)),
            env: config.env.unwrap_or_default().iter().filter_map(|pair| split_pair(pair)).collect(),
            mounts: found.mounts.unwrap_or_default().into_iter().map(mount_of).collect(),
            ports: ports_of(&networks),
            networks: networks_of(networks),
            restart_policy: policy_of(found.host_config),
        }
    }
}

impl ContainerRow {
    pub(super) fn from_listed(row: ContainerSummary) -> Option<Self> {
        let names = row.names.unwrap_or_default();
        // Links of old kind add names with another container's in front.
        let name = names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'))?;
        let state = match row.state {
            Some(ContainerSummaryStateEnum::CREATED) => ContainerState::Created,
            Some(ContainerSummaryStateEnum::RUNNING) => ContainerState::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => ContainerState::Paused,
            Some(ContainerSummaryStateEnum::RESTARTING) => ContainerState::Restarting,
            Some(ContainerSummaryStateEnum::EXITED) => ContainerState::Exited,
            _ => ContainerState::Unusable,
        };
        let labels = row.labels.unwrap_or_default().into_iter().collect();
        Some(Self { id: row.id?, name: name.to_owned(), labels, state })
    }
}

fn state_of(status: Option<ContainerStateStatusEnum>) -> ContainerState {
    match status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerState::Created,
        Some(ContainerStateStatusEnum::RUNNING) => ContainerState::Running,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerState::Paused,
        Some(ContainerStateStatusEnum::RESTARTING) => ContainerState::Restarting,
        Some(ContainerStateStatusEnum::EXITED) => ContainerState::Exited,
        _ => ContainerState::Unusable,
    }
}

fn split_pair(pair: &str) -> Option<(String, Secret)> {
    pair.split_once('=').map(|(name, value)| (name.to_owned(), Secret::new(value)))
}

fn mount_of(mount: MountPoint) -> Mount {
    Mount {
        kind: mount.typ.unwrap_or_default(),
        volume: mount.name.filter(|name| !name.is_empty()),
        source: mount.source.unwrap_or_default(),
        destination: mount.destination.unwrap_or_default(),
        writable: mount.rw.unwrap_or(false),
    }
}

fn ports_of(networks: &NetworkSettings) -> Vec<PublishedPort> {
    let mut ports = Vec::new();
    for (inside, bindings) in networks.ports.iter().flatten() {
        let Some((port, protocol)) = inside.split_once('/') else { continue };
        let Ok(container_port) = port.parse() else { continue };
        for binding in bindings.iter().flatten() {
            let host_ip = binding.host_ip.as_deref().unwrap_or("0.0.0.0").parse();
            let host_port = binding.host_port.as_deref().unwrap_or_default().parse();
            if let (Ok(host_ip), Ok(host_port)) = (host_ip, host_port) {
                ports.push(PublishedPort { container_port, protocol: protocol.to_owned(), host_ip, host_port });
            }
        }
    }
    // IPv4 before IPv6: where both are bound they lead to the same place, and the former always works.
    ports.sort_by_key(|port| (port.container_port, port.protocol.clone(), port.host_ip, port.host_port));
    ports
}

fn networks_of(settings: NetworkSettings) -> Vec<Network> {
    let address = |text: Option<String>| text.and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut networks: Vec<Network> = settings
        .networks
        .unwrap_or_default()
        .into_iter()
        .map(|(name, end)| Network { name, ip: address(end.ip_address).or(address(end.global_ipv6_address)) })
        .collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    networks
}

fn policy_of(host: Option<HostConfig>) -> RestartPolicy {
    match host.and_then(|host| host.restart_policy).and_then(|policy| policy.name) {
        Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => RestartPolicy::OnFailure,
        _ => RestartPolicy::No,
    }
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
