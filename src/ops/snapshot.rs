//! `snapshot`: every component into one atomic snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::capture::{self, CapturedStreams, DataCapture, SecretsCapture, Written};
use super::{Clock, Error, Progress, chain, select, stamp};
use crate::component::{self, Captured, CatalogueRow, Source};
use crate::crypto::secret;
use crate::format::bundle::SecretFile;
use crate::format::config::{Part, StreamKind};
use crate::format::id::SnapshotId;
use crate::format::manifest::{
    self, CatalogueLine, ComponentRecord, ComponentStatus, Details, Manifest, SecretsManifest, SecretsRef,
    SnapshotStatus, TableRecord,
};
use crate::format::object::{Namespace, ObjectKey};
use crate::repo::{self, LoadedSnapshot, Marks, Reader, Repository, StreamReport, Writer, WriterOptions};

/// The name of the component that goes into the secrets namespace.
pub const SECRETS: &str = "secrets";
/// What is said of the newest snapshot of this host where the repository does not have it (any more).
pub const GONE: &str = "is missing: this host made it last";

/// What a snapshot says about the run that made it.
#[derive(Debug, Clone)]
pub struct SnapshotOptions {
    /// `ENV` of the stack.
    pub environment: String,
    /// This host's name.
    pub host: String,
    /// `orkvault 0.1.0`.
    pub tool: String,
    /// Labels given by the operator.
    pub tags: Vec<String>,
    /// The snapshot that this host made last, where it remembers: whether it is still there is said.
    pub newest: Option<SnapshotId>,
    /// How the writer works.
    pub writer: WriterOptions,
}

/// What was committed.
#[derive(Debug, Clone)]
pub struct SnapshotOutcome {
    /// The snapshot.
    pub id: SnapshotId,
    /// What it says.
    pub manifest: Manifest,
    /// Packs that the store had lost; what was needed of them is stored again.
    pub packs_missing: usize,
    /// What became of each stream's bytes.
    pub streams: Vec<StreamFacts>,
}

/// What a run did for one stream, or for all entries of a component.
#[derive(Debug, Clone)]
pub struct StreamFacts {
    /// The component.
    pub component: String,
    /// The stream; `entries` for the entry table and what was read for it.
    pub stream: String,
    /// Bytes read.
    pub read: u64,
    /// What became of them.
    pub report: StreamReport,
    /// Bytes stored for it, compressed, recipe included.
    pub stored: u64,
}

struct Run<'a> {
    repository: &'a Repository,
    reader: Arc<Reader>,
    history: Vec<LoadedSnapshot>,
    progress: &'a dyn Progress,
    clock: &'a dyn Clock,
    records: BTreeMap<String, ComponentRecord>,
    complete: Vec<String>,
    secrets: Option<SecretsRef>,
    secrets_bytes: u64,
    /// See [`DataCapture::new`].
    unproven: Vec<TableRecord>,
    /// What was written, by component.
    written: Vec<(String, Written)>,
}

/// Captures every source, one after the other, and commits one snapshot.
///
/// A source that fails makes the snapshot incomplete; it is committed all the same, says why, and is never
/// `latest`. A repository that fails ends the run, and nothing is committed.
pub async fn snapshot(
    repository: &Repository,
    sources: Vec<Box<dyn Source>>,
    options: &SnapshotOptions,
    progress: &dyn Progress,
    clock: &dyn Clock,
) -> Result<SnapshotOutcome, Error> {
    let started = clock.now();
    // One listing for all. What a run beside this one commits meanwhile may be in it by half: what its snapshot refers to
    // then counts as unknown and is stored again.
    let survey = repository.survey().await?;
    if let Some(newest) = options.newest.filter(|newest| !survey.snapshots.contains(newest))
        // A run beside this one may have made it since the listing.
        && !repository.has_snapshot(newest).await?
    {
        let key = ObjectKey::Snapshot(Namespace::Data, newest);
        progress.warn(&format!("{key} {GONE}; orkvault check says what else is missing"));
    }
    let history = select::load_readable_of(repository, &survey.snapshots, progress);
    let index = super::load_index_of(repository, &survey.indexes, progress);
    let (history, index) = futures::join!(history, index);
    index?;
    let history = history?;
    if let Some(ahead) = chain::from_the_future(&history, repository.writer_id()?, started) {
        let (id, created) = (ahead.id, &ahead.manifest.created_at);
        progress.warn(&format!(
            "the clock of this host is wrong, or was: snapshot {id} says {created}; what is made now counts as later"
        ));
    }
    let packs_missing = repository.set_missing_packs_aside_of(&survey.packs).await?;
    drop(survey);
    if packs_missing > 0 {
        progress.warn(&format!(
            "{packs_missing} packs are missing from the repository: what is still there is stored again"
        ));
    }
    let mut run = Run::new(repository, history, &sources, (progress, clock))?;
    let mut writer = Writer::new(repository, options.writer)?;
    for mut source in sources {
        let name = source.component().to_owned();
        progress.step(&format!("capturing {name}"), None);
        let record = run.component(&mut writer, source.as_mut(), options, started).await?;
        if record.status == ComponentStatus::Complete {
            run.complete.push(name.clone());
        } else if let Some(reason) = &record.reason {
            progress.warn(&format!("{name} failed: {reason}"));
        }
        run.records.insert(name, record);
    }
    progress.step("writing the snapshot", None);
    // What there is of secrets is asked while the last packs go out.
    let (finished, secrets) = futures::join!(writer.finish(), run.secrets_ref(&options.environment));
    let (finished, secrets) = (finished?, secrets?);
    let facts = |(component, written): (String, Written)| {
        let Written { name: stream, read, report, stream: stored } = written;
        StreamFacts { component, stream, read, report, stored: finished.stored(&stored) }
    };
    let streams = std::mem::take(&mut run.written).into_iter().map(facts).collect();
    let mut stats = finished.stats;
    stats.read_bytes += run.secrets_bytes;
    let id = repository.new_snapshot_id()?;
    let manifest = run.manifest(options, started, stats, secrets)?;
    repository.commit(id, &manifest).await?;
    for warning in finished.pieces.keep(|stream| capture::is_of_complete(stream, &manifest)) {
        progress.warn(&warning);
    }
    Ok(SnapshotOutcome { id, manifest, packs_missing, streams })
}

impl<'a> Run<'a> {
    fn new(
        repository: &'a Repository,
        history: Vec<LoadedSnapshot>,
        sources: &[Box<dyn Source>],
        (progress, clock): (&'a dyn Progress, &'a dyn Clock),
    ) -> Result<Self, Error> {
        let tables = sources.iter().filter_map(|source| previous_entries(&history, source.component()));
        let unproven = tables.cloned().collect();
        Ok(Self {
            repository,
            reader: Reader::new(repository)?,
            history,
            progress,
            clock,
            records: BTreeMap::new(),
            complete: Vec::new(),
            secrets: None,
            secrets_bytes: 0,
            unproven,
            written: Vec::new(),
        })
    }

    /// Captures one source. `Err` only where the repository failed.
    async fn component(
        &mut self,
        writer: &mut Writer,
        source: &mut dyn Source,
        options: &SnapshotOptions,
        run_started: jiff::Timestamp,
    ) -> Result<ComponentRecord, Error> {
        let started_at = stamp(self.clock.now());
        let captured = if source.component() == SECRETS {
            self.secrets(source, options, run_started).await?
        } else {
            self.data(writer, source).await?
        };
        let mut record = ComponentRecord::new(started_at, stamp(self.clock.now()));
        match captured {
            Ok((captured, streams, entries)) => {
                for warning in &captured.warnings {
                    self.progress.warn(&format!("{}: {warning}", source.component()));
                }
                record.catalogue = write_catalogue(writer, source.component(), &captured.catalogue).await?;
                record.consistency = captured.consistency;
                record.facts = captured.facts;
                record.warnings = captured.warnings;
                record.streams = streams;
                record.entries = entries;
            }
            Err(error) => {
                record.status = ComponentStatus::Failed;
                record.reason = Some(reason(&error));
            }
        }
        Ok(record)
    }

    async fn data(&mut self, writer: &mut Writer, source: &mut dyn Source) -> Result<CaptureResult, Error> {
        let previous = previous_entries(&self.history, source.component());
        let reader = Arc::clone(&self.reader);
        let (component, progress) = (source.component(), self.progress);
        let has_table = previous.is_some();
        let mut capture = DataCapture::new(component, writer, reader, progress, previous, &mut self.unproven);
        if !has_table {
            // Before its source opens anything, which would wait: a dump that stands still for long fails.
            capture.prove_previous().await;
        }
        match source.capture(&mut capture).await {
            Ok(captured) => {
                let CapturedStreams { streams, entries, written } = match capture.finish().await {
                    Ok(captured) => captured,
                    Err(error) => return of_source(error).map(Err),
                };
                let component = source.component();
                self.written.extend(written.into_iter().map(|written| (component.to_owned(), written)));
                Ok(Ok((captured, streams, entries)))
            }
            Err(error) => {
                // The first error is the cause: a writer that has stopped cannot abort either.
                let aborted = capture.abort().await;
                let error = of_source(error)?;
                aborted?;
                Ok(Err(error))
            }
        }
    }

    async fn secrets(
        &mut self,
        source: &mut dyn Source,
        options: &SnapshotOptions,
        started: jiff::Timestamp,
    ) -> Result<CaptureResult, Error> {
        // Before a secret is read: without its store there is no place for it.
        if let Err(error) = self.repository.secrets_backend() {
            return self.of_secrets_store(error);
        }
        let mut capture = SecretsCapture::default();
        let captured = match source.capture(&mut capture).await {
            Ok(captured) => captured,
            Err(error) => return of_source(error).map(Err),
        };
        let bytes = capture.bytes();
        let mut files = capture.into_files();
        let stored = self.store_secrets(&files, options, started).await;
        for content in files.iter_mut().filter_map(|file| file.content.as_mut()) {
            secret::wipe(content);
        }
        if let Err(error) = stored {
            return self.of_secrets_store(error);
        }
        self.secrets_bytes = bytes;
        self.progress.advance(bytes);
        Ok(Ok((captured, BTreeMap::new(), None)))
    }

    /// The bundle first: a secrets snapshot that is there is whole.
    async fn store_secrets(
        &mut self,
        files: &[SecretFile],
        options: &SnapshotOptions,
        started: jiff::Timestamp,
    ) -> Result<(), repo::Error> {
        let id = self.repository.new_snapshot_id()?;
        let bundle = self.repository.put_bundle(id, files).await?;
        let manifest = SecretsManifest {
            schema: manifest::SECRETS_SCHEMA.to_owned(),
            created_at: stamp(started),
            environment: options.environment.clone(),
            host: options.host.clone(),
            bundle,
            files: files.len() as u64,
            writer: self.repository.writer_id()?,
            copied_from: None,
        };
        self.repository.commit_secrets(id, &manifest).await?;
        self.secrets = Some(SecretsRef { snapshot: id, location: self.repository.secrets_location() });
        Ok(())
    }

    /// What is wrong with the store of the secrets alone fails the component and not the run: a night without
    /// secrets is incomplete, and better than none.
    fn of_secrets_store(&self, error: repo::Error) -> Result<CaptureResult, Error> {
        let is_of_store = matches!(
            error,
            repo::Error::Backend(_) | repo::Error::SecretsApart { .. } | repo::Error::SecretsStore { .. }
        );
        if self.repository.part() == Part::Data && is_of_store {
            let what = "the secrets".to_owned();
            Ok(Err(component::Error::Store { what, source: Box::new(error) }))
        } else {
            Err(error.into())
        }
    }

    fn manifest(
        &mut self,
        options: &SnapshotOptions,
        started: jiff::Timestamp,
        stats: manifest::Stats,
        secrets: Option<SecretsRef>,
    ) -> Result<Manifest, Error> {
        let is_complete = self.records.values().all(|record| record.status == ComponentStatus::Complete);
        let writer = chain::follow(&self.history, self.repository.writer_id()?);
        Ok(Manifest {
            schema: manifest::SCHEMA.to_owned(),
            created_at: stamp(started),
            environment: options.environment.clone(),
            host: options.host.clone(),
            components: std::mem::take(&mut self.complete),
            orkvault: Details {
                version: manifest::VERSION,
                tool: options.tool.clone(),
                status: if is_complete { SnapshotStatus::Complete } else { SnapshotStatus::Incomplete },
                finished_at: stamp(self.clock.now()),
                components: std::mem::take(&mut self.records),
                writer,
                secrets,
                copied_from: None,
                tags: options.tags.clone(),
                stats,
            },
        })
    }

    /// Returns the secrets that this data belongs to.
    async fn secrets_ref(&self, environment: &str) -> Result<Option<SecretsRef>, Error> {
        match &self.secrets {
            Some(secrets) => Ok(Some(secrets.clone())),
            None => self.newest_secrets(environment).await,
        }
    }

    /// The newest generation of secrets of an environment: what this data belongs to where this run captured none.
    async fn newest_secrets(&self, environment: &str) -> Result<Option<SecretsRef>, Error> {
        // This writer's own sequence before anybody's clock; its copies were made long after what they show.
        let id = self.repository.writer_id()?;
        let here = self.history.iter().filter(|snapshot| snapshot.manifest.environment == environment);
        let details = here.map(|snapshot| &snapshot.manifest.orkvault);
        let own = details.filter(|details| details.writer.id == id && details.copied_from.is_none());
        let newest = own.max_by_key(|details| details.writer.sequence);
        if let Some(secrets) = newest.and_then(|details| details.secrets.clone()) {
            return Ok(Some(secrets));
        }
        let mut newest: Option<(String, SnapshotId)> = None;
        let ids = match self.repository.snapshot_ids(Namespace::Secrets).await {
            Err(error) => return self.no_secrets(error),
            Ok(ids) => ids,
        };
        for id in ids {
            match self.repository.load_secrets_snapshot(id).await {
                Ok(snapshot) if snapshot.manifest.environment == environment => {
                    newest = newest.max(Some((snapshot.manifest.created_at, id)));
                }
                Ok(_) => {}
                // It may be the one.
                Err(error) if error.is_outage() => return self.no_secrets(error),
                Err(error) => {
                    self.progress.warn(&format!("secrets snapshot {id} cannot be read: {}", reason(&error)));
                }
            }
        }
        let location = self.repository.secrets_location();
        Ok(newest.map(|(_, snapshot)| SecretsRef { snapshot, location }))
    }

    /// What a store of secrets of their own does not tell is said, and nothing that may be wrong in its place.
    fn no_secrets(&self, error: repo::Error) -> Result<Option<SecretsRef>, Error> {
        if self.repository.part() != Part::Data {
            return Err(error.into());
        }
        self.progress.warn(&format!("no secrets belong to this data: {}", reason(&error)));
        Ok(None)
    }
}

type Captures = (Captured, BTreeMap<String, manifest::StreamRecord>, Option<TableRecord>);
type CaptureResult = Result<Captures, component::Error>;

/// Tells a source that failed from a repository that failed under it.
pub(super) fn of_source(error: component::Error) -> Result<component::Error, Error> {
    match error {
        component::Error::Store { what, source } => match source.downcast::<repo::Error>() {
            // An entry that no format could hold is the source's, not the repository's.
            Ok(source) if matches!(*source, repo::Error::Format(_) | repo::Error::RowOrder { .. }) => {
                Ok(component::Error::Store { what, source })
            }
            Ok(source) => Err((*source).into()),
            Err(source) => Ok(component::Error::Store { what, source }),
        },
        error => Ok(error),
    }
}

/// Returns an error and everything under it in one line.
#[must_use]
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut under = error.source();
    while let Some(source) = under {
        let source_text = source.to_string();
        // Transparent errors say the same as what they wrap.
        if !text.ends_with(&source_text) {
            text = format!("{text}: {source_text}");
        }
        under = source.source();
    }
    text
}

/// Returns the component's entry table in the newest snapshot in which it is complete.
fn previous_entries<'a>(history: &'a [LoadedSnapshot], component: &str) -> Option<&'a TableRecord> {
    history
        .iter()
        .rev()
        .filter_map(|snapshot| snapshot.manifest.orkvault.components.get(component))
        .find(|record| record.status == ComponentStatus::Complete && record.entries.is_some())
        .and_then(|record| record.entries.as_ref())
}

pub(super) async fn write_catalogue(
    writer: &mut Writer,
    component: &str,
    rows: &[CatalogueRow],
) -> Result<Option<TableRecord>, Error> {
    if rows.is_empty() {
        return Ok(None);
    }
    let mut rows = rows.to_vec();
    rows.sort();
    let stream = writer.begin_named(StreamKind::Table, &capture::stream_name(component, "catalogue")).await?;
    for batch in rows.chunks(1024) {
        let mut lines = Vec::new();
        let mut marks = Marks::default();
        for row in batch {
            let CatalogueRow { name, kind, records, bytes } = row.clone();
            lines.extend_from_slice(&manifest::encode(&CatalogueLine { name, kind, records, bytes }));
            lines.push(b'\n');
            marks.records.extend(u32::try_from(lines.len()));
        }
        writer.push(&stream, Bytes::from(lines), marks).await?;
    }
    let written = writer.end(stream, 0).await?;
    let table = written.record().expect("a stream ended without extents has a recipe");
    Ok(Some(TableRecord { rows: rows.len() as u64, content_bytes: 0, table }))
}
