//! Remembers that a container was stopped for a restore, so that it is always started again, and that its server was
//! told to save nothing before, so that it always saves again.
//!
//! A container with `restart: unless-stopped` that was stopped through the API stays down, over a reboot
//! too. So the journal is on disk before the stop, and removed only when the container runs again; whoever
//! finds one (every start of the program, see [`resume`]) starts the container.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::restart::Saving;
use super::{Access, Error, Place};
use crate::component::docker::{ContainerState, Docker, Error as DockerError};

const PREFIX: &str = "redis-stopped-";
const SUFFIX: &str = ".json";
/// Bytes of a journal at most.
const LEN_MAX: u64 = 64 << 10;
/// Journals in one directory at most.
const JOURNALS_MAX: usize = 1000;

/// What a journal holds: one container that was, or was about to be, stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Its full id: a container made anew under the same name is not ours to start.
    pub container_id: String,
    /// Its name, for people.
    pub container_name: String,
    /// Of the daemon that it belongs to.
    pub daemon_id: String,
    /// The server's setting `save` from before it was told to save nothing; none where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<String>,
}

/// A journal on disk. It stays there unless it is [`clear`](Journal::clear)ed.
#[derive(Debug)]
#[must_use]
pub struct Journal {
    path: PathBuf,
}

/// What [`resume`] did about one journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// The container was down and has been started.
    Started {
        /// Its name.
        container: String,
    },
    /// It runs, or is no more: there was nothing to do.
    Nothing {
        /// Its name.
        container: String,
    },
    /// It runs, and its server had been left without persistence: it saves again.
    SavesAgain {
        /// Its name.
        container: String,
    },
    /// It runs, and its server may still save nothing: nobody said how to log in to it. The journal stays.
    SavesNothing {
        /// Its name.
        container: String,
    },
    /// It belongs to another daemon than the one that was asked; the journal stays.
    OtherDaemon {
        /// Its name.
        container: String,
    },
}

impl Record {
    const VERSION: u32 = 1;

    /// Returns what a journal says, `None` where it is none of ours, or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(bytes).ok()?;
        (record.version == Self::VERSION).then_some(record)
    }

    /// Returns the bytes of a journal.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and a number")
    }
}

impl Journal {
    /// Writes that this container is about to be stopped, and its server before that to be told to save nothing where
    /// `save` is what it did; on disk when it returns. `state_dir` is made, with mode 0700, where it is missing.
    pub fn write(
        state_dir: &Path,
        daemon_id: &str,
        (container_id, container_name): (&str, &str),
        save: Option<&str>,
    ) -> Result<Self, Error> {
        let id: String = container_id.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let path = state_dir.join(format!("{PREFIX}{id}{SUFFIX}"));
        let record = Record {
            version: Record::VERSION,
            container_id: container_id.to_owned(),
            container_name: container_name.to_owned(),
            daemon_id: daemon_id.to_owned(),
            save: save.map(str::to_owned),
        };
        publish(state_dir, &path, &record.encode()).map_err(io_error("writing", &path))?;
        Ok(Self { path })
    }

    /// Removes the journal: the container runs.
    pub fn clear(self) -> Result<(), Error> {
        remove(&self.path)
    }
}

/// Starts every container that a journal in `state_dir` says was left stopped, has every server save again that was
/// left without persistence (with `access`, if that is to the same container), and removes the journal.
/// To be called at every start of the program. A missing directory is no error. One container for which that
/// fails makes the call fail, after the others were tried; its journal stays.
pub async fn resume(state_dir: &Path, docker: &Docker, access: Option<&Access>) -> Result<Vec<Resumed>, Error> {
    let mut resumed = Vec::new();
    let mut failed = None;
    let journals = pending(state_dir)?;
    if journals.is_empty() {
        return Ok(resumed);
    }
    let daemon_id = docker.daemon().await?.id;
    for path in journals {
        match resume_one(&path, &daemon_id, docker, access).await {
            Ok(done) => resumed.push(done),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(resumed), Err)
}

/// Returns the journals in a directory, so that a caller can see without a daemon whether there are any.
pub fn pending(state_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listing = match fs::read_dir(state_dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("listing", state_dir)(error)),
    };
    let mut journals = Vec::new();
    for found in listing.take(JOURNALS_MAX) {
        let found = found.map_err(io_error("listing", state_dir))?;
        let name = found.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            journals.push(found.path());
        }
    }
    journals.sort();
    Ok(journals)
}

async fn resume_one(path: &Path, daemon_id: &str, docker: &Docker, access: Option<&Access>) -> Result<Resumed, Error> {
    let record = read(path)?;
    let container = record.container_name;
    if record.daemon_id != daemon_id {
        return Ok(Resumed::OtherDaemon { container });
    }
    let state = match docker.inspect(&record.container_id).await {
        Ok(found) => Some(found.state),
        Err(DockerError::NoSuchContainer { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let resumed = match (state, record.save) {
        // A server that starts has its settings from its file: it saves as it is to.
        (Some(ContainerState::Exited | ContainerState::Created), _) => {
            docker.start(&record.container_id).await?;
            Resumed::Started { container }
        }
        (Some(_), Some(value)) => {
            let is_it = |access: &&Access| matches!(&access.place, Place::Container { name, .. } if *name == container);
            let Some(access) = access.filter(is_it) else { return Ok(Resumed::SavesNothing { container }) };
            Saving { access: access.duplicate(), value }.resume().await?;
            Resumed::SavesAgain { container }
        }
        _ => Resumed::Nothing { container },
    };
    remove(path)?;
    Ok(resumed)
}

fn read(path: &Path) -> Result<Record, Error> {
    let malformed = || Error::Journal { path: path.to_owned() };
    if fs::metadata(path).map_err(io_error("examining", path))?.len() > LEN_MAX {
        return Err(malformed());
    }
    let bytes = fs::read(path).map_err(io_error("reading", path))?;
    Record::decode(&bytes).ok_or_else(malformed)
}

/// Temporary file, fsync, rename, fsync of the directory: a journal is whole or not there.
fn publish(state_dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let temporary = path.with_extension("partial");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(state_dir)?.sync_all()
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(io_error("removing", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_there_after_write_and_gone_after_clear() {
        let state = tempfile::tempdir().unwrap();
        let inside = state.path().join("state");
        assert!(pending(&inside).unwrap().is_empty());
        let journal = Journal::write(&inside, "DAEMON", ("abc123", "ovt-redis"), Some("3600 1")).unwrap();
        let found = pending(&inside).unwrap();
        assert_eq!(found.len(), 1);
        let record = read(&found[0]).unwrap();
        assert_eq!((record.container_name.as_str(), record.save.as_deref()), ("ovt-redis", Some("3600 1")));
        journal.clear().unwrap();
        // as it was always written where a server saves as it did
        let _journal = Journal::write(&inside, "D", ("abc", "redis"), None).unwrap();
        let text = fs::read_to_string(&pending(&inside).unwrap()[0]).unwrap();
        assert_eq!(text, r#"{"version":1,"container_id":"abc","container_name":"redis","daemon_id":"D"}"#);
        assert_eq!(Record::decode(text.as_bytes()).unwrap().save, None);
        remove(&pending(&inside).unwrap()[0]).unwrap();
        assert!(pending(&inside).unwrap().is_empty());
    }

    #[test]
    fn a_foreign_or_cut_journal_is_an_error_not_a_guess() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("redis-stopped-x.json");
        for bad in ["", "{}", "{\"version\":1", "[]"] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(&path), Err(Error::Journal { .. })), "{bad}");
        }
    }
}
