//! Captures a database: mongodump's output, followed to its proven end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream;
use tokio::sync::oneshot;

use super::archive::{Archive, EmptyArchive, Framer, PUSH_LEN_MAX};
use super::server::database_name;
use super::tools::{Output, Tools};
use super::{COMPONENT, Error, STREAM};
use crate::component::{ByteStream, Capture, Captured, CatalogueRow, Error as ComponentError, Run, Source, StreamKind};

/// Bytes at which a run goes on, so that whoever takes it is woken seldom: what comes from Docker comes in frames of a
/// few KiB. The last of them still fits the buffer.
const RUN_LEN: usize = PUSH_LEN_MAX - (64 << 10);

/// Which databases a dump takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One database, without users and roles.
    Database(String),
    /// All of them.
    Everything {
        /// Also what changed meanwhile (replica sets only), so that a restore gives one point in time.
        oplog: Oplog,
    },
}

/// Whether a dump also takes the oplog of its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oplog {
    /// Every collection as it was when its turn came.
    Left,
    /// `--oplog`.
    Taken,
}

/// How a database is dumped.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// What is dumped.
    pub scope: Scope,
    /// Whether a database without any collection is a good capture.
    pub empty: EmptyArchive,
    /// Collections that mongodump reads at once. With more than one they interleave, which costs nothing
    /// but makes two archives of the same data differ.
    pub parallel_collections: u32,
    /// How long mongodump may be silent.
    pub idle: Duration,
}

impl SourceOptions {
    /// Returns the defaults for one database: not empty, one collection at a time, 30 minutes of silence.
    pub fn database(name: impl Into<String>) -> Self {
        Self {
            scope: Scope::Database(name.into()),
            empty: EmptyArchive::Refused,
            parallel_collections: 1,
            idle: Duration::from_secs(30 * 60),
        }
    }
}

/// Captures MongoDB through mongodump.
pub struct MongoSource {
    tools: Arc<Tools>,
    options: SourceOptions,
}

impl MongoSource {
    /// Returns a source that runs `tools`. Fails only for a name that no database can have.
    pub fn new(tools: Tools, options: SourceOptions) -> Result<Self, Error> {
        if let Scope::Database(name) = &options.scope {
            database_name(name)?;
        }
        Ok(Self { tools: Arc::new(tools), options })
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments =
            vec!["--archive".to_owned(), format!("--numParallelCollections={}", self.options.parallel_collections)];
        match &self.options.scope {
            Scope::Database(name) => arguments.push(format!("--db={name}")),
            Scope::Everything { oplog: Oplog::Taken } => arguments.push("--oplog".to_owned()),
            Scope::Everything { oplog: Oplog::Left } => {}
        }
        arguments
    }
}

#[async_trait]
impl Source for MongoSource {
    fn component(&self) -> &str {
        COMPONENT
    }

    fn describe(&self) -> String {
        let what = match &self.options.scope {
            Scope::Database(name) => format!("database {name}"),
            Scope::Everything { .. } => "all databases".to_owned(),
        };
        format!("{what}, by mongodump {}", self.tools.place())
    }

    async fn probe(&mut self) -> Result<(), ComponentError> {
        let output = self.tools.dump(self.arguments(), self.options.idle).await?;
        let listing = Listing::read(output).await?;
        if listing.namespaces.is_empty() && self.options.empty == EmptyArchive::Refused {
            return Err(Error::Archive(super::ArchiveError::NoNamespace).into());
        }
        Ok(())
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, ComponentError> {
        let output = self.tools.dump(self.arguments(), self.options.idle).await?;
        let (body, verdict) = follow(Gathered::new(output), self.options.empty);
        let mut captured = store(out, body, verdict).await?;
        if let Scope::Database(name) = &self.options.scope {
            captured.facts.insert(fact::DATABASE.to_owned(), name.clone());
        }
        Ok(captured)
    }
}

/// Bytes from somewhere, that end only when they are known to be all.
pub(super) trait Runs: Send + 'static {
    /// Returns the next of at most [`PUSH_LEN_MAX`] bytes, `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

/// What mongodump writes, gathered into runs.
struct Gathered {
    output: Output,
    buffer: BytesMut,
    at_end: bool,
}

impl Gathered {
    fn new(output: Output) -> Self {
        Self { output, buffer: BytesMut::new(), at_end: false }
    }
}

impl Runs for Gathered {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.at_end && self.buffer.len() < RUN_LEN {
            self.at_end = !self.output.fill(&mut self.buffer).await?;
        }
        let len = self.buffer.len().min(PUSH_LEN_MAX);
        Ok((len > 0).then(|| self.buffer.split_to(len).freeze()))
    }
}

/// Makes room for a run where there is none.
pub(super) fn make_room(buffer: &mut BytesMut) {
    if buffer.len() == buffer.capacity() {
        buffer.reserve(PUSH_LEN_MAX);
    }
}

/// Stores a followed archive and returns what is known of it once it is proven whole.
pub(super) async fn store(
    out: &mut dyn Capture,
    body: ByteStream,
    mut verdict: oneshot::Receiver<Archive>,
) -> Result<Captured, ComponentError> {
    let len = out.stream(STREAM, StreamKind::Dump, body).await?;
    match verdict.try_recv() {
        Ok(archive) if archive.len == len => Ok(captured(archive)),
        _ => Err(Error::NotReadToEnd.into()),
    }
}

struct Following<R> {
    runs: R,
    framer: Framer,
    verdict: oneshot::Sender<Archive>,
}

/// Returns the bytes as runs, and what they were as soon as they have ended well.
pub(super) fn follow<R: Runs>(runs: R, empty: EmptyArchive) -> (ByteStream, oneshot::Receiver<Archive>) {
    let (verdict, receiver) = oneshot::channel();
    let following = Following { runs, framer: Framer::new(empty), verdict };
    (Box::pin(stream::try_unfold(following, Following::next)), receiver)
}

impl<R: Runs> Following<R> {
    async fn next(mut self) -> Result<Option<(Run, Self)>, ComponentError> {
        let Some(bytes) = self.runs.next().await? else {
            let archive = self.framer.finish().map_err(Error::Archive)?;
            // Nobody waits for the verdict of a stream that nobody reads.
            let _ = self.verdict.send(archive);
            return Ok(None);
        };
        let mut ends = Vec::new();
        self.framer.push(&bytes, &mut ends).map_err(Error::Archive)?;
        Ok(Some((Run { bytes, ends }, self)))
    }
}

/// What mongodump says before the first document.
pub(super) struct Listing {
    pub(super) server_version: String,
    /// Names and kinds.
    pub(super) namespaces: BTreeMap<String, String>,
}

impl Listing {
    /// Reads as far as the list of namespaces, and ends mongodump there.
    pub(super) async fn read(mut output: Output) -> Result<Self, Error> {
        let mut framer = Framer::new(EmptyArchive::Allowed);
        let mut buffer = BytesMut::new();
        let mut ends = Vec::new();
        while !framer.is_past_list() {
            let more = output.fill(&mut buffer).await?;
            while !buffer.is_empty() {
                let len = buffer.len().min(PUSH_LEN_MAX);
                framer.push(&buffer.split_to(len), &mut ends)?;
                ends.clear();
            }
            if !more {
                return Err(framer.finish().err().unwrap_or(super::ArchiveError::NoBytes).into());
            }
        }
        output.cancel().await?;
        Ok(Self {
            server_version: framer.header().map(|header| header.server_version.clone()).unwrap_or_default(),
            namespaces: framer.listed().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect(),
        })
    }
}

/// Names of facts that a restore asks for.
pub(super) mod fact {
    pub(crate) const DATABASE: &str = "database";
    pub(crate) const SERVER_VERSION: &str = "server_version";
    pub(crate) const TOOL_VERSION: &str = "tool_version";
}

/// What is worth knowing of a whole archive.
fn captured(archive: Archive) -> Captured {
    let documents: u64 = archive.namespaces.iter().map(|namespace| namespace.documents).sum();
    let has_oplog = archive.namespaces.iter().any(|namespace| namespace.kind == "oplog");
    let mut facts = BTreeMap::from([
        (fact::SERVER_VERSION.to_owned(), archive.header.server_version.clone()),
        (fact::TOOL_VERSION.to_owned(), archive.header.tool_version.clone()),
        ("archive_version".to_owned(), archive.header.version.clone()),
        ("documents".to_owned(), documents.to_string()),
        ("namespaces".to_owned(), archive.namespaces.len().to_string()),
    ]);
    let databases = archive.namespaces.iter().filter_map(|row| row.name.split('.').next());
    let mut databases: Vec<_> = databases.filter(|database| !database.is_empty()).collect();
    databases.dedup();
    if let [database] = databases.as_slice() {
        facts.insert(fact::DATABASE.to_owned(), (*database).to_owned());
    }
    let mut warnings = Vec::new();
    if archive.unrestorable_documents > 0 {
        let count = archive.unrestorable_documents;
        warnings.push(format!("{count} documents are longer than 16 MiB: mongorestore refuses them in an archive"));
    }
    if archive.header.server_major_minor().is_none() {
        let version = &archive.header.server_version;
        warnings.push(format!("the server calls its version {version:?}: newer mongorestore refuse such an archive"));
    }
    let rows = archive.namespaces.into_iter().map(|namespace| CatalogueRow {
        name: namespace.name,
        kind: namespace.kind,
        records: namespace.documents,
        bytes: namespace.bytes,
    });
    Captured {
        consistency: if has_oplog { "point-in-time" } else { "fuzzy" }.to_owned(),
        facts,
        catalogue: rows.collect(),
        warnings,
    }
}
