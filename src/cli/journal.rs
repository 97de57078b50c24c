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

/// Starts containers that an earlier restore was stopped before it could. Says so, and does not fail the run.
pub(crate) async fn resume(settings: &Settings, docker: Option<&Docker>) -> Result<(), Error> {
    let dir = settings.state_dir();
    let pending = journal::pending(&dir).map_err(component::Error::from)?;
    if pending.is_empty() {
        return Ok(());
    }
    let Ok(_lock) = RestoreLock::take(settings) else {
        error_line("warning: a restore is running on this host");
        return Ok(());
    };
    resume_locked(settings, docker).await
}

/// As [`resume`], for who has the lock.
pub(crate) async fn resume_locked(settings: &Settings, docker: Option<&Docker>) -> Result<(), Error> {
    let dir = settings.state_dir();
    if journal::pending(&dir).map_err(component::Error::from)?.is_empty() {
        return Ok(());
    }
    let own;
    let docker = match docker {
        Some(docker) => docker,
        None => {
            let host = settings.global.stack.docker_host.as_deref();
            let endpoint = Endpoint::resolve(EndpointOptions {
                docker_host: host,
                env: &super::components::env_with_daemon(settings),
            });
            own = Docker::connect(&endpoint.map_err(component::Error::from)?).map_err(component::Error::from)?;
            &own
        }
    };
    match journal::resume(&dir, docker).await {
        Ok(resumed) => {
            for each in resumed {
                if let Resumed::Started { container } = each {
                    error_line(&format!("container {container} had been left stopped by a restore: it runs again"));
                }
            }
        }
        Err(error) => {
            let reason = crate::ops::snapshot::reason(&error);
            error_line(&format!("warning: a container that a restore left stopped cannot be started: {reason}"));
        }
    }
    Ok(())
}
