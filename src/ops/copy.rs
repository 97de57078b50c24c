//! `copy`: snapshots of one repository into another, without the stack that they were made of.
//!
//! Keys differ, so nothing that is stored fits: every stream and entry is read, checked and stored by the ordinary
//! writer, as a night would store it. What the other repository has already (a stream or entry of that content) is
//! referred to and not read. So copies share chunks with one another and with the nights of that repository's own.

mod source;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::capture::{self, CapturedStreams, DataCapture};
use super::lock::{Locker, Locks};
use super::snapshot::{SECRETS, of_source, reason, write_catalogue};
use super::stored::DataStored;
use super::structure::{Structures, check_structure};
use super::{Error, Progress, chain, select};
use crate::component::{self, Source as _};
use crate::crypto::secret;
use crate::format::entry::EntryContent;
use crate::format::id::{RepositoryId, SnapshotId, WriterId};
use crate::format::manifest::{
    ComponentRecord, ComponentStatus, Details, Manifest, OriginRecord, SecretsManifest, SecretsRef, SnapshotStatus,
    Stats, StreamRecord, TableRecord,
};
use crate::format::object::Namespace;
use crate::repo::{self, LoadedSnapshot, LockCounts, Reader, Repository, Writer, WriterOptions};
use source::CopySource;

/// Whether the secrets that belong to a snapshot are copied with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopySecrets {
    /// They are; the source must be open for them.
    Copied,
    /// They are not, and the copies have no component `secrets`.
    Left,
}

/// What is copied, and how.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// `latest`, or first digits of ids; every snapshot where there are none.
    pub wanted: Vec<String>,
    /// With or without secrets.
    pub secrets: CopySecrets,
    /// How the writer works.
    pub writer: WriterOptions,
    /// How long what the copies need is locked, if it is.
    pub locks: Option<Locks>,
}

/// A snapshot that is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFailure {
    /// Its id in the source.
    pub snapshot: SnapshotId,
    /// What is damaged.
    pub reason: String,
}

/// A snapshot that was copied.
#[derive(Debug, Clone)]
pub struct Copied {
    /// Its id in the source.
    pub from: SnapshotId,
    /// Its id here.
    pub id: SnapshotId,
    /// What it says here.
    pub manifest: Manifest,
    /// Objects that it needs and that are locked; `None` where nobody asked for locks or they failed.
    pub locked: Option<LockCounts>,
}

/// What is to be done, oldest first.
pub struct CopyPlan {
    /// Snapshots that are not there yet.
    pub missing: Vec<LoadedSnapshot>,
    /// Those that are: their ids in the source.
    pub present: Vec<SnapshotId>,
    /// Those that cannot be read.
    pub failures: Vec<CopyFailure>,
    history: Vec<LoadedSnapshot>,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct CopyOutcome {
    /// Copied now, oldest first.
    pub copied: Vec<Copied>,
    /// There before: their ids in the source.
    pub present: Vec<SnapshotId>,
    /// Not copied, because they are damaged.
    pub failures: Vec<CopyFailure>,
    /// Snapshots that are there and could not be locked, and why. With one that was copied now the copy ended.
    pub unlocked: Vec<(SnapshotId, String)>,
}

/// `Err(Ok(..))` could not say which of the two repositories failed.
enum Failure {
    /// Something stored in the source is damaged: this snapshot is not copied.
    Damaged(String),
    /// The copy ends.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

impl Failure {
    /// Takes what failed while the source was read.
    fn of_source(error: repo::Error) -> Self {
        if error.is_damage() { Self::Damaged(reason(&error)) } else { Self::Fatal(error.into()) }
    }
}

/// Returns what names a snapshot wherever it is copied to.
fn origin_of(repository: RepositoryId, snapshot: &LoadedSnapshot) -> OriginRecord {
    let own = OriginRecord { repository, snapshot: snapshot.id };
    snapshot.manifest.orkvault.copied_from.unwrap_or(own)
}

/// Finds out what there is to copy. Changes nothing.
pub async fn plan(
    from: &Repository,
    to: &Repository,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyPlan, Error> {
    let (from_id, to_id) = (from.config().repository, to.config().repository);
    if from_id == to_id {
        return Err(Error::SameRepository { location: from.backend().location() });
    }
    let mut failures = Vec::new();
    let chosen = if options.wanted.is_empty() {
        every(from, &mut failures).await?
    } else {
        these(from, &options.wanted, &mut failures, progress).await?
    };
    let history = select::load_readable(to, progress).await?;
    super::load_index(to, progress).await?;
    to.set_missing_packs_aside().await?;
    to.index().set_known_damage_aside()?;
    let origins: HashSet<OriginRecord> = chosen.iter().map(|snapshot| origin_of(from_id, snapshot)).collect();
    let copies = history.iter().filter(|snapshot| origins.contains(&origin_of(to_id, snapshot)));
    let lacking = lacking(to, options, &copies.collect::<Vec<_>>()).await?;
    let whole = || history.iter().filter(|snapshot| !lacking.contains_key(&snapshot.id));
    let is_enough = |snapshot: &&LoadedSnapshot| {
        options.secrets == CopySecrets::Left || snapshot.manifest.orkvault.secrets.is_some()
    };
    let there: HashSet<OriginRecord> = whole().map(|snapshot| origin_of(to_id, snapshot)).collect();
    let there_with_secrets: HashSet<OriginRecord> =
        whole().filter(is_enough).map(|snapshot| origin_of(to_id, snapshot)).collect();
    let is_there = |snapshot: &LoadedSnapshot| {
        let needed = if snapshot.manifest.orkvault.secrets.is_some() { &there_with_secrets } else { &there };
        needed.contains(&origin_of(from_id, snapshot))
    };
    let (present, missing): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_there);
    let again: HashSet<OriginRecord> = missing.iter().map(|snapshot| origin_of(from_id, snapshot)).collect();
    for copy in history.iter().filter(|copy| again.contains(&origin_of(to_id, copy))) {
        if let Some(what) = lacking.get(&copy.id) {
            progress.warn(&format!("something of {what} is missing of snapshot {}: it is copied again", copy.id));
        }
    }
    Ok(CopyPlan { missing, present: present.into_iter().map(|snapshot| snapshot.id).collect(), failures, history })
}

/// Returns the snapshots of which something is missing or known to be damaged, and of what. Where the store has every chunk that
/// its index lists, nothing of them is read.
async fn lacking(
    to: &Repository,
    options: &CopyOptions,
    copies: &[&LoadedSnapshot],
) -> Result<HashMap<SnapshotId, String>, Error> {
    let has_secrets = copies.iter().any(|copy| copy.manifest.orkvault.secrets.is_some());
    let secrets: Option<HashSet<SnapshotId>> = match options.secrets {
        CopySecrets::Copied if has_secrets => Some(to.snapshot_ids(Namespace::Secrets).await?.into_iter().collect()),
        _ => None,
    };
    let is_secret_gone = |manifest: &Manifest| match (&secrets, &manifest.orkvault.secrets) {
        (Some(there), Some(secrets)) => !there.contains(&secrets.snapshot),
        _ => false,
    };
    let mut structures = match to.index().lacks_chunks()? {
        true => Some(Structures::new(Reader::new(to)?, repo::Error::is_damage)),
        false => None,
    };
    let mut lacking = HashMap::new();
    for LoadedSnapshot { id, manifest, .. } in copies.iter().copied() {
        let what = match &mut structures {
            _ if is_secret_gone(manifest) => Some("its secrets".to_owned()),
            Some(structures) => lacks(structures, manifest).await?,
            None => None,
        };
        if let Some(what) = what {
            lacking.insert(*id, what);
        }
    }
    Ok(lacking)
}

/// Returns the first stream or entry of which something is missing.
async fn lacks(structures: &mut Structures, manifest: &Manifest) -> Result<Option<String>, Error> {
    for (name, record) in &manifest.orkvault.components {
        if record.status == ComponentStatus::Complete
            && let Some((stream, _)) = structures.wrong(name, record).await?
        {
            return Ok(Some(format!("{name}/{stream}")));
        }
    }
    Ok(None)
}

async fn every(from: &Repository, failures: &mut Vec<CopyFailure>) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut chosen = Vec::new();
    for (id, loaded) in select::load_each(from).await? {
        match loaded {
            Ok(snapshot) => chosen.push(snapshot),
            Err(error) if error.is_damage() => failures.push(CopyFailure { snapshot: id, reason: reason(&error) }),
            Err(error) => return Err(error.into()),
        }
    }
    select::sort(&mut chosen);
    Ok(chosen)
}

async fn these(
    from: &Repository,
    wanted: &[String],
    failures: &mut Vec<CopyFailure>,
    progress: &dyn Progress,
) -> Result<Vec<LoadedSnapshot>, Error> {
    let mut chosen: Vec<LoadedSnapshot> = Vec::new();
    for wanted in wanted {
        let found = select::find_with(from, wanted, &[]).await?;
        for (snapshot, error) in found.unreadable {
            let reason = reason(&error);
            progress.warn(&format!("snapshot {snapshot} cannot be read and may be newer: {reason}"));
            failures.push(CopyFailure { snapshot, reason });
        }
        if chosen.iter().all(|snapshot| snapshot.id != found.snapshot.id) {
            chosen.push(found.snapshot);
        }
    }
    select::sort(&mut chosen);
    Ok(chosen)
}

/// Copies what is missing, one snapshot after the other, each with a commit of its own: run again after whatever
/// ended it, it goes on where it was. `done` hears of each that is there.
pub async fn apply(
    from: &Repository,
    to: &Repository,
    plan: CopyPlan,
    options: &CopyOptions,
    progress: &dyn Progress,
    mut done: impl FnMut(&Copied) + Send,
) -> Result<CopyOutcome, Error> {
    let CopyPlan { missing, present, failures, history } = plan;
    let mut outcome = CopyOutcome { copied: Vec::new(), present, failures, unlocked: Vec::new() };
    let writer = to.writer_id()?;
    let mut locker = options.locks.map(|locks| Locker::new(to, locks));
    // A run that was cut off may have left its last copy without locks.
    if let Some(last) = last_copy(&history, writer) {
        match lock(&mut locker, last.id, &last.manifest, progress).await {
            Ok(_) => {}
            Err(Error::Repo(error)) if error.is_damage() => {
                progress.warn(&format!("snapshot {} is damaged and not locked: {}", last.id, reason(&error)));
            }
            Err(error) => outcome.unlocked.push((last.id, reason(&error))),
        }
    }
    if missing.is_empty() {
        return Ok(outcome);
    }
    super::load_index(from, progress).await?;
    let unlisted = from.index_unlisted_packs().await?;
    if unlisted > 0 {
        progress.warn(&format!("{unlisted} packs of the source are in no index part; they were read themselves"));
    }
    from.set_missing_packs_aside().await?;
    let (given, taken) = (Reader::new(from)?, Reader::new(to)?);
    let mut copy = Copy { from, to, options, progress, given, taken, writer, history, secrets: None };
    for snapshot in missing {
        let bytes = bytes_of(&snapshot.manifest);
        let (id, created) = (snapshot.id.short(), &snapshot.manifest.created_at);
        progress.step(&format!("copying {id} of {created}"), Some(bytes));
        match copy.snapshot(&snapshot).await {
            Ok(mut copied) => {
                done(&copied);
                let (id, locked) = (copied.id, lock(&mut locker, copied.id, &copied.manifest, progress).await);
                copied.locked = locked.as_ref().ok().copied().flatten();
                outcome.copied.push(copied);
                if let Err(error) = locked {
                    outcome.unlocked.push((id, reason(&error)));
                    break;
                }
            }
            Err(Failure::Damaged(reason)) => {
                progress.warn(&format!("snapshot {} is damaged and not copied: {reason}", snapshot.id));
                outcome.failures.push(CopyFailure { snapshot: snapshot.id, reason });
            }
            Err(Failure::Fatal(error)) => return Err(error),
        }
    }
    Ok(outcome)
}

/// Returns the last copy that a writer made.
fn last_copy(history: &[LoadedSnapshot], writer: WriterId) -> Option<&LoadedSnapshot> {
    let details = history.iter().filter(|snapshot| {
        let details = &snapshot.manifest.orkvault;
        details.writer.id == writer && details.copied_from.is_some()
    });
    details.max_by_key(|snapshot| snapshot.manifest.orkvault.writer.sequence)
}

/// Locks what a snapshot needs, if anybody asked for it.
async fn lock(
    locker: &mut Option<Locker<'_>>,
    id: SnapshotId,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<Option<LockCounts>, Error> {
    match locker {
        None => Ok(None),
        Some(locker) => locker.lock(id, manifest, progress).await.map(Some),
    }
}

/// Bytes of a snapshot's streams and entries.
fn bytes_of(manifest: &Manifest) -> u64 {
    let of = |record: &ComponentRecord| {
        let streams: u64 = record.streams.values().map(|stream| stream.length).sum();
        streams + record.entries.as_ref().map_or(0, |table| table.content_bytes)
    };
    manifest.orkvault.components.values().map(of).sum()
}

struct Copy<'a> {
    from: &'a Repository,
    to: &'a Repository,
    options: &'a CopyOptions,
    progress: &'a dyn Progress,
    given: Arc<Reader>,
    taken: Arc<Reader>,
    writer: WriterId,
    /// The snapshots here, the copied ones at the end.
    history: Vec<LoadedSnapshot>,
    /// The secrets snapshots here by origin, once they are needed.
    secrets: Option<HashMap<OriginRecord, SnapshotId>>,
}

impl Copy<'_> {
    async fn snapshot(&mut self, snapshot: &LoadedSnapshot) -> Result<Copied, Failure> {
        let manifest = &snapshot.manifest;
        // What is missing is found before anything is stored.
        for record in self.complete(manifest).map(|(_, record)| record) {
            let checked = check_structure(&self.given, record).await;
            checked.map_err(|(_, error)| Failure::of_source(error))?;
        }
        let mut writer = Writer::new(self.to, self.options.writer).map_err(Error::from)?;
        let captured = self.components(&mut writer, manifest).await;
        // Of a snapshot that proved damaged, too: what was stored is listed, and the next one can refer to it.
        let finished = writer.finish().await.map_err(Error::from)?;
        let records = captured?;
        let secrets = match (&manifest.orkvault.secrets, self.options.secrets) {
            (Some(secrets), CopySecrets::Copied) => Some(self.secrets_of(secrets.snapshot).await?),
            _ => None,
        };
        let manifest = self.manifest(snapshot, records, secrets, finished.stats);
        let id = self.to.new_snapshot_id().map_err(Error::from)?;
        let hash = self.to.commit(id, &manifest).await.map_err(Error::from)?;
        for warning in finished.pieces.keep(|stream| capture::is_of_complete(stream, &manifest)) {
            self.progress.warn(&warning);
        }
        self.history.push(LoadedSnapshot { id, hash, manifest: manifest.clone() });
        Ok(Copied { from: snapshot.id, id, manifest, locked: None })
    }

    /// Complete components that are copied. Of `secrets` a catalogue at most is in the data namespace.
    fn complete<'m>(&self, manifest: &'m Manifest) -> impl Iterator<Item = (&'m String, &'m ComponentRecord)> {
        let with = self.options.secrets == CopySecrets::Copied;
        let records = manifest.orkvault.components.iter();
        records.filter(move |(name, record)| (with || *name != SECRETS) && record.status == ComponentStatus::Complete)
    }

    async fn components(
        &self,
        writer: &mut Writer,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, ComponentRecord>, Failure> {
        let mut records = manifest.orkvault.components.clone();
        if self.options.secrets == CopySecrets::Left {
            records.remove(SECRETS);
        }
        let tables = self.complete(manifest).map(|(name, _)| self.previous_entries(name, &manifest.created_at));
        let mut unproven: Vec<TableRecord> = tables.flatten().cloned().collect();
        for (name, record) in self.complete(manifest) {
            let copied = self.component(writer, (name, record), &manifest.created_at, &mut unproven).await?;
            records.insert(name.clone(), copied);
        }
        Ok(records)
    }

    async fn component(
        &self,
        writer: &mut Writer,
        (name, record): (&str, &ComponentRecord),
        created_at: &str,
        unproven: &mut Vec<TableRecord>,
    ) -> Result<ComponentRecord, Failure> {
        let mut streams = BTreeMap::new();
        for (stream, given) in &record.streams {
            if let Some(known) = self.known_stream(given).await? {
                self.progress.advance(known.length);
                streams.insert(stream.clone(), known);
            }
        }
        let stored = DataStored::open(Arc::clone(&self.given), record.clone()).await.map_err(Failure::of_source)?;
        let mut source = CopySource::new(name, stored, streams.keys().cloned().collect());
        let previous = self.previous_entries(name, created_at);
        let taken = Arc::clone(&self.taken);
        let mut capture = DataCapture::new(name, writer, taken, self.progress, previous, unproven);
        let captured = match source.capture(&mut capture).await {
            Ok(captured) => captured,
            Err(error) => {
                // The first error is the cause: a writer that has stopped cannot abort either.
                let aborted = capture.abort().await;
                let error = of_source(error)?;
                aborted.map_err(Error::from)?;
                return Err(of_stored(error));
            }
        };
        let CapturedStreams { streams: new, entries, .. } = match capture.finish().await {
            Ok(captured) => captured,
            Err(error) => return Err(of_stored(of_source(error)?)),
        };
        streams.extend(new);
        // The reader has compared what it gave out, and this is what came in.
        let same = |(stream, given): (&String, &StreamRecord)| {
            streams.get(stream).is_some_and(|taken| (taken.length, taken.blake3) == (given.length, given.blake3))
        };
        if !record.streams.iter().all(same) {
            return Err(Failure::Fatal(repo::Error::StreamDamaged.into()));
        }
        let catalogue = write_catalogue(writer, name, &captured.catalogue).await?;
        Ok(ComponentRecord { streams, entries, catalogue, ..record.clone() })
    }

    /// Returns a stream of the same content that is here already, and whole.
    async fn known_stream(&self, given: &StreamRecord) -> Result<Option<StreamRecord>, Failure> {
        let records = self.history.iter().rev().flat_map(|snapshot| snapshot.manifest.orkvault.components.values());
        let mut streams = records.flat_map(|record| record.streams.values());
        let same = |stream: &&StreamRecord| (stream.length, stream.blake3) == (given.length, given.blake3);
        let Some(known) = streams.find(same) else { return Ok(None) };
        let content = EntryContent::Recipe { hash: known.blake3, root: known.recipe };
        match self.taken.check_structure(&content).await {
            Ok(len) => Ok((len == known.length).then(|| known.clone())),
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(Error::from(error).into()),
        }
    }

    /// Returns the entry table here that is likely to have most in common with that of a snapshot of this time: the
    /// newest that is not younger, else the oldest.
    fn previous_entries(&self, component: &str, created_at: &str) -> Option<&TableRecord> {
        let mut tables: Vec<(&str, &TableRecord)> = Vec::new();
        for snapshot in &self.history {
            let record = snapshot.manifest.orkvault.components.get(component);
            let table = record.filter(|record| record.status == ComponentStatus::Complete);
            if let Some(table) = table.and_then(|record| record.entries.as_ref()) {
                tables.push((&snapshot.manifest.created_at, table));
            }
        }
        let before = tables.iter().filter(|(created, _)| *created <= created_at).max_by_key(|(created, _)| *created);
        before.or_else(|| tables.iter().min_by_key(|(created, _)| *created)).map(|(_, table)| *table)
    }

    /// Copies a secrets snapshot, unless it is here, and returns what refers to it.
    async fn secrets_of(&mut self, id: SnapshotId) -> Result<SecretsRef, Failure> {
        let location = self.to.secrets_location();
        let loaded = self.from.load_secrets_snapshot(id).await.map_err(Failure::of_source)?;
        let own = OriginRecord { repository: self.from.config().repository, snapshot: id };
        let origin = loaded.manifest.copied_from.unwrap_or(own);
        if let Some(known) = self.known_secrets().await?.get(&origin) {
            return Ok(SecretsRef { snapshot: *known, location });
        }
        let mut files = self.from.open_secrets(&loaded).await.map_err(Failure::of_source)?;
        let snapshot = self.to.new_snapshot_id().map_err(Error::from)?;
        let bundle = self.to.put_bundle(snapshot, &files).await;
        for content in files.iter_mut().filter_map(|file| file.content.as_mut()) {
            secret::wipe(content);
        }
        let bundle = bundle.map_err(Error::from)?;
        let manifest = SecretsManifest { bundle, writer: self.writer, copied_from: Some(origin), ..loaded.manifest };
        self.to.commit_secrets(snapshot, &manifest).await.map_err(Error::from)?;
        self.secrets.get_or_insert_default().insert(origin, snapshot);
        Ok(SecretsRef { snapshot, location })
    }

    async fn known_secrets(&mut self) -> Result<&HashMap<OriginRecord, SnapshotId>, Failure> {
        if self.secrets.is_none() {
            let repository = self.to.config().repository;
            let mut known = HashMap::new();
            for id in self.to.snapshot_ids(Namespace::Secrets).await.map_err(Error::from)? {
                match self.to.load_secrets_snapshot(id).await {
                    Ok(loaded) => {
                        let own = OriginRecord { repository, snapshot: id };
                        known.insert(loaded.manifest.copied_from.unwrap_or(own), id);
                    }
                    // A damaged one counts for nothing: it is copied again.
                    Err(error) if error.is_damage() => {
                        self.progress.warn(&format!("secrets snapshot {id} cannot be read: {}", reason(&error)));
                    }
                    Err(error) => return Err(Error::from(error).into()),
                }
            }
            self.secrets = Some(known);
        }
        Ok(self.secrets.get_or_insert_default())
    }

    /// What the copy says: all that the original says of the stack, and of itself what is true here.
    fn manifest(
        &self,
        snapshot: &LoadedSnapshot,
        records: BTreeMap<String, ComponentRecord>,
        secrets: Option<SecretsRef>,
        stats: Stats,
    ) -> Manifest {
        let given = &snapshot.manifest;
        let is_complete = records.values().all(|record| record.status == ComponentStatus::Complete);
        let components = given.components.iter().filter(|name| records.contains_key(*name)).cloned().collect();
        let details = Details {
            status: if is_complete { SnapshotStatus::Complete } else { SnapshotStatus::Incomplete },
            components: records,
            writer: chain::follow(&self.history, self.writer),
            secrets,
            copied_from: Some(origin_of(self.from.config().repository, snapshot)),
            stats,
            ..given.orkvault.clone()
        };
        Manifest { components, orkvault: details, ..given.clone() }
    }
}

/// Tells damage of what was read from a repository that failed.
fn of_stored(error: component::Error) -> Failure {
    match error {
        component::Error::Stored { what, source } => match source.downcast::<repo::Error>() {
            Ok(source) if !source.is_damage() => Failure::Fatal((*source).into()),
            Ok(source) => Failure::Damaged(reason(&component::Error::Stored { what, source })),
            Err(source) => Failure::Damaged(reason(&component::Error::Stored { what, source })),
        },
        error => Failure::Damaged(reason(&error)),
    }
}
