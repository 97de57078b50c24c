//! Containers that a restore left stopped are started again; two restores do not run at once.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use super::error::Error;
use super::output::error_line;
use super::resolve::{Settings, make_private};
use crate::component;
use crate::component::docker::{Docker, Endpoint, EndpointOptions};
use crate::component::redis::journal::{self, Resumed};
use crate::component::stack::Stack;
use crate::ops::snapshot::reason;

/// Held while a restore runs: nobody else restores, and nobody starts the container that it has stopped.
#[must_use]
pub(crate) struct RestoreLock(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl RestoreLock {
    /// Takes the lock, or says that another restore has it.
    pub(crate) fn take(settings: &Settings) -> Result<Self, Error> {
        let dir = settings.state_dir();
        make_private(&dir)?;
        let path = dir.join("restore.lock");
        let file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::RestoreRuns { path }),
            Err(errno) => Err(Error::File { action: "cannot lock", path, source: errno.into() }),
        }
    }
}

fn open(path: &PathBuf) -> Result<File, Error> {
    let options = || OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    options().map_err(|source| Error::File { action: "cannot open", path: path.clone(), source })
}

/// Starts containers that an earlier restore was stopped before it could, and has servers save again that it had told
/// not to. Says what came of it, and does not fail the run: what the run is for may need no container.
pub(crate) async fn resume(settings: &Settings, stack: &Stack) {
    if !has_pending(settings) {
        return;
    }
    match RestoreLock::take(settings) {
        Ok(_lock) => resume_locked(settings, stack).await,
        Err(Error::RestoreRuns { .. }) => error_line("warning: a restore is running on this host"),
        Err(error) => cannot_be_put_right(&error),
    }
}

/// As [`resume`], for who has the lock.
pub(crate) async fn resume_locked(settings: &Settings, stack: &Stack) {
    if !has_pending(settings) {
        return;
    }
    let connected = match &stack.docker {
        Some((docker, _)) => Ok(docker.clone()),
        None => connect(settings),
    };
    let access = stack.redis.is_some().then(|| super::components::redis_access(settings, stack).0);
    let resumed = match connected {
        Ok(docker) => {
            let resumed = journal::resume(&settings.state_dir(), &docker, access.as_ref()).await;
            resumed.map_err(component::Error::from)
        }
        Err(error) => Err(error),
    };
    match resumed {
        Ok(resumed) => resumed.iter().filter_map(said).for_each(|line| error_line(&line)),
        Err(error) => cannot_be_put_right(&error),
    }
}

fn has_pending(settings: &Settings) -> bool {
    match journal::pending(&settings.state_dir()) {
        Ok(pending) => !pending.is_empty(),
        Err(error) => {
            let reason = reason(&error);
            error_line(&format!("warning: whether a restore left a container stopped cannot be seen: {reason}"));
            false
        }
    }
}

fn connect(settings: &Settings) -> Result<Docker, component::Error> {
    let env = super::components::env_with_daemon(settings);
    let host = settings.global.stack.docker_host.as_deref();
    let endpoint = Endpoint::resolve(EndpointOptions { docker_host: host, env: &env })?;
    Ok(Docker::connect(&endpoint)?)
}

fn cannot_be_put_right(error: &(dyn std::error::Error + 'static)) {
    let reason = reason(error);
    error_line(&format!("warning: what a restore left behind in a container cannot be put right: {reason}"));
}

fn said(resumed: &Resumed) -> Option<String> {
    match resumed {
        Resumed::Started { container } => {
            Some(format!("container {container} had been left stopped by a restore: it runs again"))
        }
        Resumed::SavesAgain { container } => {
            Some(format!("redis in container {container} had been told by a restore to save nothing: it saves again"))
        }
        Resumed::SavesNothing { container } => Some(format!(
            "warning: redis in container {container} was told by a restore to save nothing: a snapshot or restore of \
             that redis puts it right"
        )),
        Resumed::Nothing { .. } | Resumed::OtherDaemon { .. } => None,
    }
}
