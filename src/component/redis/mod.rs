//! Redis and Valkey: a point-in-time RDB file out, and one back in.
//!
//! Capture is a BGSAVE whose file is read from the container, or a full synchronisation over the network
//! where there is only an address. Restore puts the file where the server really loads it at its next
//! start (with AOF on that is a manifest whose base is the RDB file), and restarts the container.

pub mod aof;
mod compatibility;
mod crc64;
pub mod journal;
mod local;
pub mod rdb;
mod rdb_layout;
mod replication;
pub mod resp;
mod restart;
mod save;
mod server;
mod sink;
mod source;

pub use sink::{RedisSink, SinkOptions};
pub use source::RedisSource;

use std::io;
use std::path::PathBuf;

use super::docker::{self, Docker};
use super::secret::Secret;
use super::{ErrorKind, docker::Error as DockerError};

/// The stream's name within the component.
pub const STREAM: &str = "dump.rdb";

/// Where a server is.
#[derive(Clone)]
pub enum Place {
    /// In a container: commands go through `redis-cli` (or `valkey-cli`) in it.
    Container {
        /// The daemon.
        docker: Docker,
        /// The container's exact name.
        name: String,
        /// The port that the server listens on inside.
        port: u16,
    },
    /// Reachable over TCP: `host:port`.
    Address(String),
}

/// A server and how to log in. No `Debug`: it holds a password.
pub struct Access {
    /// Where it is.
    pub place: Place,
    /// The ACL user; `None`: the default user.
    pub user: Option<String>,
    /// `None`: no authentication.
    pub password: Option<Secret>,
}

impl Access {
    /// Returns a second copy, wiped on its own.
    fn duplicate(&self) -> Self {
        let password = self.password.as_ref().map(Secret::duplicate);
        Self { place: self.place.clone(), user: self.user.clone(), password }
    }

    /// Returns where the server is, for people.
    fn shown(&self) -> String {
        match &self.place {
            Place::Container { name, .. } => format!("container {name}"),
            Place::Address(address) => format!("server {address}"),
        }
    }
}

/// What capturing or restoring Redis failed at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Docker, or a process or file in the container.
    #[error(transparent)]
    Docker(#[from] docker::Error),
    /// The server cannot be reached.
    #[error("connecting to {place}")]
    Connect {
        /// Which.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke or ended.
    #[error("talking to {place}")]
    Transport {
        /// The server.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Nothing came for too long.
    #[error("{place} was silent for {secs} s")]
    Silent {
        /// The server.
        place: String,
        /// How long.
        secs: u64,
    },
    /// What came is not the Redis protocol, or over a limit.
    #[error("{place} broke the protocol: {detail}")]
    Protocol {
        /// The server.
        place: String,
        /// What came.
        detail: String,
    },
    /// Wrong password or user, none given where one is needed, or not allowed to run the command.
    #[error("{place} refused the login or the command: {reply}")]
    Credentials {
        /// The server.
        place: String,
        /// Its words (`WRONGPASS …`, `NOAUTH …`, `NOPERM …`).
        reply: String,
    },
    /// The server answered a command with an error.
    #[error("{place} answered {command} with: {reply}")]
    Command {
        /// The server.
        place: String,
        /// The command's name.
        command: String,
        /// Its words.
        reply: String,
    },
    /// The container has neither `redis-cli` nor `valkey-cli`.
    #[error("container {container} has neither redis-cli nor valkey-cli")]
    NoClient {
        /// The container.
        container: String,
    },
    /// The server does not say something that is needed.
    #[error("{place} does not tell {field}")]
    FieldMissing {
        /// The server.
        place: String,
        /// The field of `INFO` or `CONFIG`.
        field: String,
    },
    /// The server is loading its data.
    #[error("{place} is still loading its data")]
    Loading {
        /// The server.
        place: String,
    },
    /// The server's BGSAVE failed.
    #[error("BGSAVE failed on {place} (rdb_last_bgsave_status:{status})")]
    SaveFailed {
        /// The server.
        place: String,
        /// What `INFO` says.
        status: String,
    },
    /// A background save (or what it waits for) did not end in time.
    #[error("BGSAVE on {place} did not end within {secs} s")]
    SaveTimeout {
        /// The server.
        place: String,
        /// The limit.
        secs: u64,
    },
    /// A BGSAVE could fill the disk.
    #[error("{dir} of {place} has {free} bytes free, a BGSAVE may need {needed}")]
    NoSpace {
        /// The server.
        place: String,
        /// Its data directory.
        dir: String,
        /// Bytes that are free.
        free: u64,
        /// Bytes that may be needed.
        needed: u64,
    },
    /// The server restarted during the capture.
    #[error("{place} restarted during the capture")]
    Restarted {
        /// The server.
        place: String,
    },
    /// The file is older than the run: not the one that BGSAVE wrote.
    #[error("the RDB file is of {written_secs}, older than the BGSAVE of {started_secs} (seconds since 1970)")]
    Stale {
        /// When the file was written, by the server's clock.
        written_secs: u64,
        /// When the capture began, by the server's clock.
        started_secs: u64,
    },
    /// The bytes are not a whole RDB file.
    #[error("the RDB file is not whole")]
    Rdb(#[from] rdb::Error),
    /// The target server cannot load the file.
    #[error("RDB version {file} is newer than what {server} loads ({supported})")]
    VersionTooNew {
        /// The file's version.
        file: u32,
        /// The server and its version.
        server: String,
        /// The newest version that it loads.
        supported: u32,
    },
    /// The target server lacks modules whose data the file may hold.
    #[error("the server lacks modules of the snapshot: {modules}")]
    ModulesMissing {
        /// Their names.
        modules: String,
    },
    /// AOF files of a kind that cannot be replaced safely (Redis before 7.0).
    #[error("{server} keeps its AOF in a single file; a restore needs Redis 7.0 or appendonly no")]
    OldAof {
        /// The server and its version.
        server: String,
    },
    /// The AOF manifest cannot be understood.
    #[error("AOF manifest line {line} is malformed")]
    AofManifest {
        /// Its number, from 1.
        line: usize,
    },
    /// A file is there that would make the server ignore the restored one.
    #[error("{path:?} exists: a server with AOF on would load it and ignore the restored file")]
    AofPresent {
        /// Which.
        path: PathBuf,
    },
    /// Something listens at the address: a server would not load the file, and write its own over it.
    #[error("a server is running at {address}: what is written into its data directory now would be lost")]
    Running {
        /// The address.
        address: String,
    },
    /// Nothing proves that no server runs at the address: it neither answered nor refused.
    #[error(
        "it cannot be told whether a server is running at {address}: only a refused connection proves that none is; \
         where it has none, name one of this machine that refuses"
    )]
    MayRun {
        /// The address.
        address: String,
        /// What came of connecting.
        source: io::Error,
    },
    /// The name of the RDB file in the snapshot is no name of a file in a directory.
    #[error("{name:?} cannot be the name of an RDB file")]
    UnsafeName {
        /// The setting `dbfilename` of the server that was captured.
        name: String,
    },
    /// There is neither a container to restart nor a directory to write to.
    #[error("redis at {address} cannot be restored over the network: a container or a data directory is needed")]
    NoWayIn {
        /// The address.
        address: String,
    },
    /// A preparation inside the container failed; nothing was changed.
    #[error("{action} in container {container} failed with exit code {exit_code}: {stderr_tail}")]
    Preparation {
        /// What was being done.
        action: &'static str,
        /// Where.
        container: String,
        /// How it ended.
        exit_code: i64,
        /// What it said.
        stderr_tail: String,
    },
    /// The server did not come up with the restored data in time.
    #[error("{place} did not become ready within {secs} s after the restore; old data put back: {rolled_back}")]
    NotReady {
        /// The server.
        place: String,
        /// The limit.
        secs: u64,
        /// Whether the files of before the restore are in place again.
        rolled_back: bool,
    },
    /// The server loaded something else than the restored file.
    #[error("the server loaded {got} keys, the file has {expected}")]
    LoadedOther {
        /// Keys of the file.
        expected: u64,
        /// Keys that it loaded, expired ones included.
        got: u64,
    },
    /// The server came up with other settings than it had been running with (`CONFIG SET` without
    /// `CONFIG REWRITE`): it did not load the restored file.
    #[error("redis came up with {name} {got}, it had been running with {expected}")]
    SettingsChanged {
        /// The setting.
        name: &'static str,
        /// Before the restore.
        expected: String,
        /// Now.
        got: String,
    },
    /// Fewer keys than the file holds are there after the restart.
    #[error("database {database}: expected at least {expected} keys, got {got}")]
    KeysMissing {
        /// The database's number.
        database: u64,
        /// Keys of the file that do not expire.
        expected: u64,
        /// Keys that are there.
        got: u64,
    },
    /// The journal, or a file of a local data directory.
    #[error("{action} {path:?}")]
    Io {
        /// `writing`, `reading` ...
        action: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A journal that this program did not write.
    #[error("journal {path:?} is malformed")]
    Journal {
        /// Which.
        path: PathBuf,
    },
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Docker(error) => error.kind(),
            Self::Connect { .. } | Self::NoClient { .. } | Self::Loading { .. } => ErrorKind::Unavailable,
            Self::Credentials { .. } => ErrorKind::Misconfigured,
            Self::VersionTooNew { .. }
            | Self::ModulesMissing { .. }
            | Self::OldAof { .. }
            | Self::NoSpace { .. }
            | Self::AofPresent { .. }
            | Self::Running { .. }
            | Self::MayRun { .. }
            | Self::UnsafeName { .. }
            | Self::NoWayIn { .. } => ErrorKind::Refused,
            _ => ErrorKind::Failed,
        }
    }

    /// Sorts a server's error reply.
    fn reply(place: &str, command: &str, reply: &str) -> Self {
        let reply = reply.trim().to_owned();
        let denied = ["WRONGPASS", "NOAUTH", "NOPERM", "invalid password", "AUTH failed"];
        if denied.iter().any(|word| reply.contains(word)) {
            Self::Credentials { place: place.to_owned(), reply }
        } else if reply.starts_with("LOADING") {
            Self::Loading { place: place.to_owned() }
        } else {
            Self::Command { place: place.to_owned(), command: command.to_owned(), reply }
        }
    }
}

/// Whether a container's file is not there (where it may be on a tmpfs, which the archive does not show).
fn no_such_file(error: &DockerError) -> bool {
    matches!(error, DockerError::NoSuchFile { .. })
}
