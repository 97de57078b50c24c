//! Captures a server's data as one RDB file.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;

use super::compatibility::Version;
use super::rdb::{Checker, Verdict};
use super::replication::Synchronisation;
use super::server::{Fields, Server};
use super::{Access, Error, Place, STREAM, no_such_file, save};
use crate::component::docker::{Container, Docker, Dump, ExecCommand, FileBody};
use crate::component::{ByteStream, Capture, Captured, CatalogueRow, Error as ComponentError, Run, Source, StreamKind};

/// How long a BGSAVE, and a child that it waits for, may take.
const SAVE_LIMIT: Duration = Duration::from_secs(3600);

/// A Redis or Valkey server as a component.
pub struct RedisSource {
    access: Access,
    found_by: String,
}

/// Where the file's bytes come from.
enum Body {
    /// `dir/dbfilename` by the archive endpoint. Nothing else may be asked of the container meanwhile.
    Archive(FileBody),
    /// The same by `cat`: a tmpfs is not in the archive.
    Cat(Box<Dump>),
    /// A full synchronisation.
    Replication(Box<Synchronisation>),
}

/// A body being checked.
struct Checked {
    body: Body,
    checker: Option<Checker>,
    /// The file must not be older, by the server's clock.
    started_secs: u64,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl RedisSource {
    /// Returns the source. `found_by` says how the server was found, for [`Source::describe`].
    pub fn new(access: Access, found_by: String) -> Self {
        Self { access, found_by }
    }

    /// Has the file written where that is needed, and opens it.
    async fn open_body(&self, server: &mut Server, settings: &Settings) -> Result<(Body, u64), Error> {
        match &self.access.place {
            Place::Address(address) => {
                let started_secs = server.time_secs().await?;
                let synchronisation = Synchronisation::begin(address, &self.access).await?;
                Ok((Body::Replication(Box::new(synchronisation)), started_secs))
            }
            Place::Container { docker, name, .. } => {
                has_space(server, docker, name, settings).await?;
                let saved = save::save(server, SAVE_LIMIT).await?;
                Ok((open_file(docker, name, &settings.rdb_path()).await?, saved.started_secs))
            }
        }
    }

    /// Returns what the operator should hear about the server's setup. Reads no data.
    pub async fn setup_warnings(&self) -> Result<Vec<String>, Error> {
        let mut server = Server::open(&self.access).await?;
        let settings = Settings::read(&mut server).await?;
        self.warnings(&settings).await
    }

    async fn warnings(&self, settings: &Settings) -> Result<Vec<String>, Error> {
        let mut warnings = Vec::new();
        if let Place::Container { docker, name, .. } = &self.access.place {
            let container = docker.inspect(name).await?;
            if !is_mounted(&container, &settings.dir) {
                warnings.push(format!(
                    "redis keeps its files in {} of container {name}, which is on no volume: they are lost when it is made anew",
                    settings.dir
                ));
            }
        }
        Ok(warnings)
    }
}

/// What a server's configuration says about its files.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) dir: String,
    pub(super) dbfilename: String,
    pub(super) aof: bool,
    pub(super) append_prefix: String,
    /// Empty before Redis 7.0.
    pub(super) append_dir: String,
}

impl Settings {
    pub(super) async fn read(server: &mut Server) -> Result<Self, Error> {
        // `d[ib]*` finds dir and dbfilename, `append*` the rest; neither pattern finds a password
        let files = server.config("d[ib]*").await?;
        let append = server.config("append*").await?;
        Ok(Self {
            dir: files.need("dir")?.to_owned(),
            dbfilename: files.need("dbfilename")?.to_owned(),
            aof: append.is_on("appendonly"),
            append_prefix: append.get("appendfilename").unwrap_or("appendonly.aof").to_owned(),
            append_dir: append.get("appenddirname").unwrap_or_default().to_owned(),
        })
    }

    pub(super) fn rdb_path(&self) -> String {
        join(&self.dir, &self.dbfilename)
    }

    fn facts(&self) -> [(&'static str, String); 5] {
        [
            ("dir", self.dir.clone()),
            ("dbfilename", self.dbfilename.clone()),
            ("aof_enabled", self.aof.to_string()),
            ("appendfilename", self.append_prefix.clone()),
            ("appenddirname", self.append_dir.clone()),
        ]
    }
}

/// Joins paths inside a container.
pub(super) fn join(dir: &str, name: &str) -> String {
    format!("{}/{name}", dir.trim_end_matches('/'))
}

/// Whether a path of a container lies on a mount.
pub(super) fn is_mounted(container: &Container, path: &str) -> bool {
    container.mounts.iter().any(|mount| {
        let root = mount.destination.trim_end_matches('/');
        path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[async_trait]
impl Source for RedisSource {
    fn component(&self) -> &'static str {
        "redis"
    }

    fn describe(&self) -> String {
        format!("redis: {} ({})", self.access.shown(), self.found_by)
    }

    async fn probe(&mut self) -> Result<(), ComponentError> {
        let mut server = Server::open(&self.access).await?;
        let persistence = server.info("persistence").await?;
        if persistence.is_on("loading") {
            return Err(Error::Loading { place: server.place().to_owned() }.into());
        }
        if matches!(self.access.place, Place::Container { .. }) {
            Settings::read(&mut server).await?;
        }
        Ok(())
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, ComponentError> {
        let mut server = Server::open(&self.access).await?;
        let about = server.info("server").await?;
        let modules = server.info("modules").await?.modules;
        let settings = Settings::read(&mut server).await?;
        let mut warnings = self.warnings(&settings).await?;
        let (body, started_secs) = self.open_body(&mut server, &settings).await?;
        let verdict = Arc::new(Mutex::new(None));
        let checked = Checked { body, checker: Some(Checker::new()), started_secs, verdict: Arc::clone(&verdict) };
        out.stream(STREAM, StreamKind::Rdb, checked.into_stream()).await?;
        let verdict = verdict.lock().expect("no holder panics").take().ok_or_else(|| Error::FieldMissing {
            place: self.access.shown(),
            field: "the end of the RDB file".to_owned(),
        })?;
        if !verdict.checksummed {
            warnings.push("the server writes RDB files without a checksum (rdbchecksum no)".to_owned());
        }
        Ok(Captured {
            consistency: "point-in-time".to_owned(),
            facts: facts(&about, &modules, &settings, &verdict)?,
            catalogue: catalogue(&verdict),
            warnings,
        })
    }
}

fn facts(
    about: &Fields,
    modules: &[String],
    settings: &Settings,
    verdict: &Verdict,
) -> Result<BTreeMap<String, String>, Error> {
    let version = Version::of(about)?;
    let mut facts: BTreeMap<String, String> = BTreeMap::new();
    let mut put = |name: &str, value: String| facts.insert(name.to_owned(), value);
    put("server", version.shown());
    put("redis_version", about.need("redis_version")?.to_owned());
    put("rdb_version", verdict.version.to_string());
    put("modules", modules.join(","));
    if let Some(written) = verdict.aux.get("ctime") {
        put("rdb_written_secs", written.clone());
    }
    match verdict.unknown {
        None => put("structure", "walked".to_owned()),
        Some((kind, offset)) => put("structure", format!("unknown type {kind} at {offset}: checksum only")),
    };
    for (number, keys) in &verdict.databases {
        if keys.expiring > 0 {
            put(&format!("db{number}_expiring"), keys.expiring.to_string());
        }
    }
    for (name, value) in settings.facts() {
        put(name, value);
    }
    Ok(facts)
}

fn catalogue(verdict: &Verdict) -> Vec<CatalogueRow> {
    let row = |(number, keys): (&u64, &super::rdb::Keys)| CatalogueRow {
        name: format!("db{number}"),
        kind: "database".to_owned(),
        records: keys.total,
        bytes: 0,
    };
    verdict.databases.iter().map(row).collect()
}

/// Refuses to start a BGSAVE that would fill the disk: a failed one makes a server with save points refuse
/// writes. Twice the present file is taken to be enough, or all the memory where there is none; where the
/// container has no `df`, nothing is known and nothing refused.
async fn has_space(server: &mut Server, docker: &Docker, container: &str, settings: &Settings) -> Result<(), Error> {
    let finished = docker.run(container, ExecCommand::new(["df", "-Pk", settings.dir.as_str()])).await;
    let Some(free) = finished.ok().and_then(|finished| free_bytes(&String::from_utf8_lossy(&finished.stdout))) else {
        return Ok(());
    };
    let memory = server.info("memory").await?.number("used_memory").unwrap_or(0);
    let needed = match docker.stat(container, &settings.rdb_path()).await {
        Ok(present) => memory.min(present.len.saturating_mul(2)),
        Err(_) => memory,
    };
    if free >= needed {
        return Ok(());
    }
    Err(Error::NoSpace { place: server.place().to_owned(), dir: settings.dir.clone(), free, needed })
}

/// Reads the fourth column of the second line of `df -Pk`.
fn free_bytes(text: &str) -> Option<u64> {
    let free: u64 = text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()?;
    free.checked_mul(1024)
}

async fn open_file(docker: &Docker, container: &str, path: &str) -> Result<Body, Error> {
    match docker.open_file(container, path).await {
        Ok(body) => Ok(Body::Archive(body)),
        Err(error) if no_such_file(&error) => {
            let dump = docker.dump(container, ExecCommand::new(["cat", path])).await?;
            Ok(Body::Cat(Box::new(dump)))
        }
        Err(error) => Err(error.into()),
    }
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Archive(body) => Ok(body.next().await?),
            Self::Cat(dump) => Ok(dump.next().await?),
            Self::Replication(body) => Ok(body.next().await?.map(Bytes::from)),
        }
    }
}

impl Checked {
    fn into_stream(self) -> ByteStream {
        Box::pin(stream::try_unfold(self, |mut checked| async move {
            Ok(checked.next().await?.map(|bytes| (Run::from(bytes), checked)))
        }))
    }

    /// Returns the next bytes; `None` only when the file is proven whole and not an old one.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(bytes) = self.body.next().await? else {
            let Some(checker) = self.checker.take() else { return Ok(None) };
            let verdict = checker.finish()?;
            let written = verdict.aux.get("ctime").and_then(|text| text.parse::<u64>().ok());
            if let Some(written_secs) = written
                // A second of grace: Redis stamps files by a coarser clock than the one that it tells.
                && written_secs + 1 < self.started_secs
            {
                return Err(Error::Stale { written_secs, started_secs: self.started_secs });
            }
            *self.verdict.lock().expect("no holder panics") = Some(verdict);
            return Ok(None);
        };
        if let Some(checker) = &mut self.checker {
            checker.push(&bytes)?;
        }
        Ok(Some(bytes))
    }
}
