//! Stops a container for a restore and always starts it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::journal::Journal;
use super::rdb::Verdict;
use super::server::Server;
use super::{Access, Error};
use crate::component::docker::{ContainerState, Docker};

/// Redis may write its data once more when it is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(250);
/// A container seen down or restarting so often after its start does not come up any more.
const DOWN_POLLS_MAX: u32 = 20;

/// A container that is about to be stopped, or is. Dropped, it is made to run as before in the background, and its
/// journal stays for the next run.
#[must_use]
pub(super) struct Stopped {
    docker: Docker,
    container_id: String,
    journal: Option<Journal>,
    phase: Phase,
}

/// How far it has come.
enum Phase {
    /// The journal is written. Its server may have been told to save nothing, where that is to be taken back.
    Announced(Option<Box<Saving>>),
    /// Docker may have been told to stop it.
    Stopping,
}

/// The persistence of a running server that is told to save nothing for a while.
pub(super) struct Saving {
    /// How it is reached.
    pub(super) access: Access,
    /// Its setting `save`.
    pub(super) value: String,
}

impl Saving {
    /// Has the server save as it did, unless it does, and write what it serves at once: its file may be another by now.
    pub(super) async fn resume(&self) -> Result<(), Error> {
        let mut server = Server::open(&self.access).await?;
        if server.config("save").await?.need("save")?.is_empty() {
            server.text(&["CONFIG", "SET", "save", &self.value]).await?;
        }
        match server.text(&["BGSAVE", "SCHEDULE"]).await {
            Err(Error::Command { reply, .. }) if reply.contains("in progress") => Ok(()),
            other => other.map(drop),
        }
    }
}

impl Stopped {
    /// Writes the journal, then stops the container.
    pub(super) async fn stop(docker: &Docker, container: &str, state_dir: &Path) -> Result<Self, Error> {
        let mut stopped = Self::announce(docker, container, state_dir, None).await?;
        match stopped.stop_now().await {
            Ok(()) => Ok(stopped),
            Err(error) => {
                stopped.take_back().await?;
                Err(error)
            }
        }
    }

    /// Writes the journal, and in it what `saving` is about to be taken away of.
    pub(super) async fn announce(
        docker: &Docker,
        container: &str,
        state_dir: &Path,
        saving: Option<Saving>,
    ) -> Result<Self, Error> {
        let found = docker.inspect(container).await?;
        let daemon_id = docker.daemon().await?.id;
        let save = saving.as_ref().map(|saving| saving.value.as_str());
        let journal = Journal::write(state_dir, &daemon_id, (&found.id, &found.name), save)?;
        let phase = Phase::Announced(saving.map(Box::new));
        Ok(Self { docker: docker.clone(), container_id: found.id, journal: Some(journal), phase })
    }

    /// Stops the container. Where that fails, it runs, as far as can be told.
    pub(super) async fn stop_now(&mut self) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.phase, Phase::Stopping);
        let stopped = self.docker.stop(&self.container_id, STOP_GRACE).await;
        if stopped.is_err() {
            // it may have been stopped all the same
            self.docker.start(&self.container_id).await?;
            self.phase = before;
        }
        Ok(stopped?)
    }

    /// Makes good what was done to the server of a container that was not stopped, and removes the journal.
    pub(super) async fn take_back(mut self) -> Result<(), Error> {
        if let Phase::Announced(Some(saving)) = &self.phase {
            saving.resume().await?;
        }
        self.clear()
    }

    /// Starts the container and removes the journal.
    pub(super) async fn start(mut self) -> Result<(), Error> {
        self.docker.start(&self.container_id).await?;
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.journal.take().map_or(Ok(()), Journal::clear)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.journal.is_none() {
            return;
        }
        // without a runtime the journal alone remains, which is what it is for
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // an error has nobody to go to here: the journal is still there
        match std::mem::replace(&mut self.phase, Phase::Stopping) {
            Phase::Announced(None) => {}
            Phase::Announced(Some(saving)) => {
                let journal = self.journal.take();
                runtime.spawn(async move {
                    if saving.resume().await.is_ok() {
                        journal.map(Journal::clear);
                    }
                });
            }
            Phase::Stopping => {
                let (docker, id) = (self.docker.clone(), std::mem::take(&mut self.container_id));
                runtime.spawn(async move {
                    // a stop may still be under way, and would come after a start: wait for its end first
                    let _ = docker.stop(&id, STOP_GRACE).await;
                    let _ = docker.start(&id).await;
                });
            }
        }
    }
}

/// Waits until the server has loaded its data; `None` when it does not within the limit, or keeps falling.
pub(super) async fn ready(
    docker: &Docker,
    container: &str,
    access: &Access,
    limit: Duration,
) -> Result<Option<Server>, Error> {
    let deadline = Instant::now() + limit;
    let mut down = 0;
    while Instant::now() < deadline && down < DOWN_POLLS_MAX {
        // not in a row: one that falls at every start is seen running in between
        down += u32::from(docker.inspect(container).await?.state != ContainerState::Running);
        match loaded(access).await {
            Ok(Some(server)) => return Ok(Some(server)),
            Ok(None) => {}
            // the login is as it was before: if it fails now, waiting does not help
            Err(error @ Error::Credentials { .. }) => return Err(error),
            Err(_) => {}
        }
        sleep(POLL).await;
    }
    Ok(None)
}

async fn loaded(access: &Access) -> Result<Option<Server>, Error> {
    let mut server = Server::open(access).await?;
    let loading = server.info("persistence").await?.is_on("loading");
    Ok((!loading).then_some(server))
}

/// Compares what the server loaded, and the keys that are there, with the file; returns notes and warnings.
pub(super) async fn compare(server: &mut Server, verdict: &Verdict) -> Result<(Vec<String>, Vec<String>), Error> {
    if verdict.unknown.is_some() {
        return Ok((vec!["redis loaded the file; its keys could not be counted beforehand".to_owned()], Vec::new()));
    }
    let persistence = server.info("persistence").await?;
    let loaded = persistence.number("rdb_last_load_keys_loaded").zip(persistence.number("rdb_last_load_keys_expired"));
    let keyspace = server.info("keyspace").await?.keyspace();
    judge(loaded, &keyspace, verdict)
}

/// `loaded` (kept and expired keys of the last load, Redis 7.0) is exact. Without it the keys that are
/// there are all there is to go by: those that expire may be gone, and more than the file has mean that
/// clients write already (or the health check, its `ping` in database 0).
fn judge(
    loaded: Option<(u64, u64)>,
    present: &BTreeMap<u64, u64>,
    verdict: &Verdict,
) -> Result<(Vec<String>, Vec<String>), Error> {
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let expected: u64 = verdict.databases.values().map(|keys| keys.total).sum();
    if let Some((kept, expired)) = loaded {
        if kept + expired != expected {
            return Err(Error::LoadedOther { expected, got: kept + expired });
        }
        notes.push(format!("redis loaded {kept} keys of the file, {expired} had expired"));
    }
    for (database, keys) in &verdict.databases {
        let got = present.get(database).copied().unwrap_or(0);
        let expected = keys.total - keys.expiring;
        if got < expected && loaded.is_none() {
            return Err(Error::KeysMissing { database: *database, expected, got });
        }
        if got < expected {
            warnings.push(format!("db{database} has {got} keys, the snapshot {}: clients removed some", keys.total));
        }
        notes.push(format!(
            "db{database}: {got} keys, {} in the snapshot, {} of them expiring",
            keys.total, keys.expiring
        ));
    }
    for (database, got) in present {
        let total = verdict.databases.get(database).map_or(0, |keys| keys.total);
        if *got > total + u64::from(*database == 0) {
            warnings.push(format!("db{database} has {got} keys, the snapshot {total}: clients write to it already"));
        }
    }
    Ok((notes, warnings))
}

#[cfg(test)]
mod tests {
    use super::super::rdb::Keys;
    use super::*;

    fn verdict(databases: &[(u64, Keys)]) -> Verdict {
        Verdict {
            version: 10,
            valkey: false,
            len: 0,
            checksummed: true,
            databases: databases.iter().copied().collect(),
            aux: BTreeMap::new(),
            unknown: None,
        }
    }

    #[test]
    fn missing_keys_are_an_error_and_expired_or_additional_ones_are_not() {
        let file = verdict(&[(0, Keys { total: 10, expiring: 3 }), (2, Keys { total: 1, expiring: 0 })]);
        let judged = |db0, db2| judge(None, &[(0, db0), (2, db2)].into(), &file);
        assert!(judged(7, 1).unwrap().1.is_empty());
        assert!(judged(11, 1).unwrap().1.is_empty());
        assert_eq!(judged(12, 1).unwrap().1.len(), 1);
        assert!(matches!(judged(6, 1), Err(Error::KeysMissing { database: 0, expected: 7, got: 6 })));
        assert!(matches!(judge(None, &[(0, 10)].into(), &file), Err(Error::KeysMissing { database: 2, .. })));
    }
    #[test]
    fn what_was_loaded_decides_where_the_server_tells_it() {
        let file = verdict(&[(0, Keys { total: 10, expiring: 3 })]);
        assert_eq!(judge(Some((9, 1)), &[(0, 2)].into(), &file).unwrap().1.len(), 1);
        let error = judge(Some((9, 0)), &[(0, 10)].into(), &file).unwrap_err();
        assert!(matches!(error, Error::LoadedOther { expected: 10, got: 9 }));
    }
}
