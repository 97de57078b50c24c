//! Puts a database back: the exact archive into mongorestore, and a verdict that does not trust its exit
//! code alone. mongorestore exits with 0 when documents failed, and drops what it then cannot restore.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::sync::oneshot;

use super::archive::{Archive, EmptyArchive, Framer};
use super::dump::{Listing, fact};
use super::process::{Fed, exit};
use super::server::database_name;
use super::tools::{MONGORESTORE, Tools};
use super::{COMPONENT, Error, STREAM};
use crate::component::{ByteStream, Captured, Error as ComponentError, RestorePlan, Restored, Run, Sink, Stored};

/// What mongodump calls the oplog's namespace.
const OPLOG: &str = ".oplog";

/// Where a database goes.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// The database's new name; `None` keeps the one it had.
    pub database: Option<String>,
    /// How long mongorestore may neither read nor write: it builds indexes in silence after the last byte.
    pub idle: Duration,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self { database: None, idle: Duration::from_secs(6 * 60 * 60) }
    }
}

/// Restores MongoDB through mongorestore. Collections that the archive does not have stay as they are.
pub struct MongoSink {
    tools: Arc<Tools>,
    options: SinkOptions,
}

impl MongoSink {
    /// Returns a sink that runs `tools`. Fails only for a name that no database can have.
    pub fn new(tools: Tools, options: SinkOptions) -> Result<Self, Error> {
        options.database.as_deref().map(database_name).transpose()?;
        Ok(Self { tools: Arc::new(tools), options })
    }

    /// Returns the databases that the archive's names are changed from and to.
    fn renaming(&self, captured: &Captured) -> Result<Option<Renaming>, Error> {
        let Some(target) = &self.options.database else { return Ok(None) };
        let Some(stored) = captured.facts.get(fact::DATABASE) else {
            return Err(Error::NotOneDatabase { target: target.clone() });
        };
        if stored == target {
            return Ok(None);
        }
        if has_oplog(captured) {
            return Err(Error::OplogRename { target: target.clone() });
        }
        Ok(Some(Renaming { from: database_name(stored)?.to_owned(), to: target.clone() }))
    }

    fn arguments(&self, captured: &Captured) -> Result<Vec<String>, Error> {
        let mut arguments: Vec<_> = ["--archive", "--drop", "--stopOnError"].map(str::to_owned).into();
        if let Some(Renaming { from, to }) = self.renaming(captured)? {
            arguments.push(format!("--nsFrom={from}.*"));
            arguments.push(format!("--nsTo={to}.*"));
        }
        if has_oplog(captured) {
            arguments.push("--oplogReplay".to_owned());
        }
        Ok(arguments)
    }

    /// Returns the target's name for messages, and what it was called in the snapshot where that is another.
    fn target(&self, captured: &Captured) -> String {
        match (self.options.database.as_ref(), captured.facts.get(fact::DATABASE)) {
            (Some(target), Some(stored)) if target != stored => format!("database {target} ({stored} in the snapshot)"),
            (Some(name), _) | (None, Some(name)) => format!("database {name}"),
            (None, None) => "mongodb".to_owned(),
        }
    }

    /// What is there now, as far as mongodump says it before the first document.
    async fn existing(&self, captured: &Captured) -> Result<Listing, Error> {
        const IDLE: Duration = Duration::from_secs(5 * 60);
        let mut arguments = vec!["--archive".to_owned(), "--numParallelCollections=1".to_owned()];
        if let Some(database) = self.options.database.as_ref().or(captured.facts.get(fact::DATABASE)) {
            arguments.push(format!("--db={}", database_name(database)?));
        }
        Listing::read(self.tools.dump(arguments, IDLE).await?).await
    }

    /// Lets mongorestore log in and read the archive's list of namespaces, and nothing else.
    async fn rehearse(&self, captured: &Captured, beginning: Vec<Run>) -> Result<(), ComponentError> {
        let mut arguments = self.arguments(captured)?;
        arguments.push("--dryRun".to_owned());
        let body = Box::pin(stream::iter(beginning.into_iter().map(Ok)));
        let fed = self.tools.feed(arguments, self.options.idle, body).await?;
        if fed.exit_code != exit::SUCCESS {
            return Err(self.tools.failed(MONGORESTORE, fed.exit_code, &fed.stderr_tail).into());
        }
        Ok(())
    }

    /// Decides from all that is known whether the archive was restored.
    fn judge(&self, target: String, fed: Fed, archive: Option<Archive>) -> Result<Restored, Error> {
        let Fed { exit_code, took_all, stderr_tail } = fed;
        let said = Said::find(&stderr_tail);
        let began = ["dropping collection", "restoring `"].iter().any(|words| stderr_tail.contains(words));
        if exit_code != exit::SUCCESS && !began && said.is_none_or(|said| said.restored + said.failed == 0) {
            return Err(self.tools.failed(MONGORESTORE, exit_code, &stderr_tail));
        }
        let unproven = |unproven| Error::RestoreUnproven {
            target: target.clone(),
            exit_code,
            unproven,
            stderr_tail: stderr_tail.clone(),
        };
        let Some(said) = said else {
            return Err(unproven("did not say how many documents it restored"));
        };
        let expected = archive.as_ref().map(Expected::of);
        let is_right = expected.as_ref().is_none_or(|expected| expected.allows(said.restored));
        if exit_code != exit::SUCCESS || said.failed > 0 || !is_right {
            let expected = expected.map_or(0, |expected| expected.most);
            let Said { restored, failed } = said;
            return Err(Error::HalfRestored { target, exit_code, expected, restored, failed, stderr_tail });
        }
        match archive {
            Some(archive) if took_all => Ok(Restored {
                bytes: archive.len,
                notes: vec![format!(
                    "{} documents in {} collections restored into {target}, as many as the snapshot holds",
                    said.restored,
                    archive.namespaces.len()
                )],
                warnings: Vec::new(),
            }),
            _ => Err(unproven("had not read the whole archive")),
        }
    }
}

#[async_trait]
impl Sink for MongoSink {
    fn component(&self) -> &str {
        COMPONENT
    }

    fn describe(&self) -> String {
        let target = self.options.database.as_deref().unwrap_or("the database of the snapshot");
        format!("{target}, by mongorestore {}", self.tools.place())
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, ComponentError> {
        let renaming = self.renaming(stored.captured())?;
        let version = self.tools.version(MONGORESTORE).await?;
        let (beginning, listed) = beginning(stored).await?;
        self.rehearse(stored.captured(), beginning).await?;
        let existing = self.existing(stored.captured()).await?;
        let mut plan = compare(&listed, renaming.as_ref(), &existing.namespaces, stored.captured());
        plan.warnings.extend(renaming.map(|Renaming { from, to }| {
            format!("database {from} of the snapshot is restored under another name, as database {to}")
        }));
        let facts = &stored.captured().facts;
        let older = [
            ("mongorestore", fact::TOOL_VERSION, version),
            ("the server", fact::SERVER_VERSION, existing.server_version),
        ];
        for (what, name, now) in older {
            let then = facts.get(name).map_or("", String::as_str);
            let (now_numbers, then_numbers) = (numbers(&now), numbers(then));
            if now_numbers.is_empty() && !then_numbers.is_empty() {
                plan.warnings
                    .push(format!("{what} calls its version {now:?}; it was {then} at the time of the snapshot"));
            } else if now_numbers < then_numbers {
                plan.warnings.push(format!("{what} is {now}, older than {then} at the time of the snapshot"));
            }
        }
        Ok(plan)
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, ComponentError> {
        let arguments = self.arguments(stored.captured())?;
        let target = self.target(stored.captured());
        let (body, mut verdict) = checked(stored.open(STREAM).await?);
        let fed = self.tools.feed(arguments, self.options.idle, body).await?;
        Ok(self.judge(target, fed, verdict.try_recv().ok())?)
    }
}

struct Renaming {
    from: String,
    to: String,
}

impl Renaming {
    fn apply(&self, name: &str) -> String {
        match name.strip_prefix(&self.from).and_then(|rest| rest.strip_prefix('.')) {
            Some(collection) => format!("{}.{collection}", self.to),
            None => name.to_owned(),
        }
    }
}

/// What mongorestore says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    restored: u64,
    failed: u64,
}

impl Said {
    /// `457 document(s) restored successfully. 0 document(s) failed to restore.`, the last such line.
    fn find(stderr: &str) -> Option<Self> {
        let line = stderr.lines().rev().find(|line| line.contains("document(s) restored successfully"))?;
        let (before, after) = line.split_once(" document(s) restored successfully. ")?;
        let restored = before.rsplit(|char: char| !char.is_ascii_digit()).next()?.parse().ok()?;
        let failed = after.split_once(" document(s) failed")?.0.parse().ok()?;
        Some(Self { restored, failed })
    }
}

/// How many documents mongorestore should say. It restores users and roles by other means and replays the
/// oplog, and whether it counts those depends on its version.
struct Expected {
    least: u64,
    most: u64,
}

impl Expected {
    fn of(archive: &Archive) -> Self {
        let is_plain =
            |name: &str| !name.starts_with("admin.system.") && !name.contains(".$admin.system.") && name != OPLOG;
        let count = |all: bool| {
            let counted = archive.namespaces.iter().filter(|row| all || is_plain(&row.name));
            counted.map(|row| row.documents).sum()
        };
        Self { least: count(false), most: count(true) }
    }

    fn allows(&self, restored: u64) -> bool {
        (self.least..=self.most).contains(&restored)
    }
}

fn has_oplog(captured: &Captured) -> bool {
    captured.catalogue.iter().any(|row| row.name == OPLOG)
}

/// Returns the archive up to and including its list of namespaces, and the names in that.
async fn beginning(stored: &mut dyn Stored) -> Result<(Vec<Run>, Vec<String>), ComponentError> {
    let mut body = stored.open(STREAM).await?;
    let mut framer = Framer::new(EmptyArchive::Allowed);
    let (mut runs, mut ends) = (Vec::new(), Vec::new());
    while !framer.is_past_list() {
        let Some(run) = body.next().await.transpose()? else {
            let fault = framer.finish().err().unwrap_or(super::ArchiveError::NoBytes);
            return Err(Error::Archive(fault).into());
        };
        framer.push(&run.bytes, &mut ends).map_err(Error::Archive)?;
        ends.clear();
        runs.push(run);
    }
    let listed = framer.listed().map(|(name, _)| name.to_owned()).collect();
    Ok((runs, listed))
}

/// Follows the archive on its way to mongorestore: a last check, and the count to compare with.
fn checked(body: ByteStream) -> (ByteStream, oneshot::Receiver<Archive>) {
    let (verdict, receiver) = oneshot::channel();
    let start = (body, Framer::new(EmptyArchive::Allowed), Vec::new(), verdict);
    let checked = stream::try_unfold(start, |(mut body, mut framer, mut ends, verdict)| async move {
        let Some(run) = body.next().await.transpose()? else {
            // Nobody waits for it where mongorestore could not be followed to its end.
            let _ = verdict.send(framer.finish().map_err(Error::Archive)?);
            return Ok(None);
        };
        framer.push(&run.bytes, &mut ends).map_err(Error::Archive)?;
        ends.clear();
        Ok(Some((run, (body, framer, ends, verdict))))
    });
    (Box::pin(checked), receiver)
}

/// Compares what the archive lists with what is there.
fn compare(
    listed: &[String],
    renaming: Option<&Renaming>,
    existing: &BTreeMap<String, String>,
    captured: &Captured,
) -> RestorePlan {
    let mut plan = RestorePlan::default();
    let records: BTreeMap<_, _> = captured.catalogue.iter().map(|row| (row.name.as_str(), row.records)).collect();
    let mut targets = Vec::new();
    for name in listed.iter().filter(|name| *name != OPLOG) {
        let target = renaming.map_or_else(|| name.clone(), |renaming| renaming.apply(name));
        let count = records.get(name.as_str()).copied().unwrap_or_default();
        targets.push((target, count));
    }
    targets.sort_unstable();
    for (target, count) in &targets {
        let lines = if existing.contains_key(target) { &mut plan.replaces } else { &mut plan.creates };
        lines.push(format!("collection {target}, with {count} documents from the snapshot"));
    }
    for name in existing.keys() {
        if targets.binary_search_by(|(target, _)| target.cmp(name)).is_err() {
            plan.warnings.push(format!("collection {name} is not in the snapshot: it stays as it is"));
        }
    }
    plan
}

/// The numbers of a version, `r3.4.3` and `100.18.0-rc1` alike; none where it is not one.
fn numbers(version: &str) -> Vec<u64> {
    let numbers = version.trim_start_matches('r').split(['.', '-', '+']);
    numbers.map_while(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Place, Server};
    use super::*;

    #[test]
    fn the_last_line_of_mongorestore_is_understood() {
        let said =
            "2026-11-22T10:20:30.506+0000\t0 document(s) restored successfully. 457 document(s) failed to restore.\n";
        assert_eq!(Said::find(said), Some(Said { restored: 0, failed: 457 }));
        assert_eq!(Said::find("2026-11-22T10:20:30.654+0000\tdry run completed\n"), None);
    }

    /// What the real tools said and returned, situation by situation.
    #[test]
    fn every_end_of_mongorestore_is_judged() {
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump");
        let said = std::fs::read(data.join("what-the-tools-say.json")).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        let basic = zstd::decode_all(std::fs::read(data.join("basic.archive.zst")).unwrap().as_slice()).unwrap();
        let archive = super::super::archive::check(&basic, EmptyArchive::Refused).unwrap();
        let tools = Tools { place: Place::Host { directory: None }, server: Server::default() };
        let sink = MongoSink::new(tools, SinkOptions::default()).unwrap();
        let mut judged = BTreeMap::new();
        for (situation, end) in said.as_object().unwrap() {
            if end["tool"] != MONGORESTORE || situation.contains("dry run") {
                continue;
            }
            let stderr_tail = end["stderr"].as_str().unwrap().to_owned();
            let fed = Fed { exit_code: end["exit"].as_i64().unwrap(), took_all: true, stderr_tail };
            let verdict = match sink.judge("said".to_owned(), fed, Some(archive.clone())) {
                Ok(restored) => format!("restored {}", restored.bytes),
                Err(Error::HalfRestored { restored, failed, .. }) => format!("half {restored} {failed}"),
                Err(Error::ToolFailed { exit_code, .. }) => format!("untouched {exit_code}"),
                Err(Error::Unreachable { .. }) => "unreachable".to_owned(),
                Err(other) => panic!("{situation}: {other:?}"),
            };
            judged.insert(situation.as_str(), verdict);
        }
        let expected = [
            ("restore again without drop", "half 0 457"),
            ("restore again without drop, stopOnError", "half 0 400"),
            ("restore cut at 0.1", "half 95 0"),
            ("restore cut at 0.5", "half 0 0"),
            ("restore cut at 0.9", "half 0 0"),
            ("restore cut at 0.999", "half 1 0"),
            ("restore cut at a block boundary", "half 52 0"),
            ("restore empty input", "untouched 1"),
            ("restore gzip without --gzip", "untouched 1"),
            ("restore not an archive", "untouched 1"),
            ("restore ok", "restored 509481"),
            ("restore one bit flipped in the middle", "half 452 0"),
            ("restore unreachable", "unreachable"),
        ];
        assert_eq!(judged.into_iter().collect::<Vec<_>>(), expected.map(|(name, verdict)| (name, verdict.to_owned())));
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(numbers("100.9.5") < numbers("100.18.0"));
        assert!(numbers("8.0.4") < numbers("8.2.11"));
        assert!(numbers("r3.4.3") < numbers("100.3.1"));
        assert_eq!(numbers("built-without-version-string"), [] as [u64; 0]);
    }
}
