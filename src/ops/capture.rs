//! The receiving side of a capture: components in, repository out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;

use super::Progress;
use super::rows::{FinishedRows, Rows, extents_most};
use super::stored::as_entry;
use crate::component::{self, ByteStream, Capture, Content, Entry, Run, SHORT_BYTES_MAX, StoredContent, StreamKind};
use crate::format::bundle::SecretFile;
use crate::format::entry::{EntryContent, EntryRow};
use crate::format::manifest::{Manifest, StreamRecord, TableRecord};
use crate::format::{config, limits};
use crate::repo::{self, Marks, OpenStream, Reader, StreamReport, StreamWritten, TableReader, Writer};

pub(super) fn failed(what: &str, source: repo::Error) -> component::Error {
    component::Error::Store { what: what.to_owned(), source: Box::new(source) }
}

const fn kind_of(kind: StreamKind) -> config::StreamKind {
    match kind {
        StreamKind::Dump => config::StreamKind::Dump,
        StreamKind::Rdb => config::StreamKind::Rdb,
        StreamKind::Object => config::StreamKind::Object,
    }
}

/// An entry of at least this many bytes that changed is compared piece by piece from then on: below, whole chunks
/// find most of it, and a piece file would cost more than it saves.
const COMPARED_BYTES_LEAST: u64 = 512 * 1024;

/// Keys of last night's table that are held until tonight's come to them. More are passed over at once only where all of a
/// large bucket has gone.
const SEEN_MOST: usize = 64 * 1024;

/// Returns what a stream of a component is called where it is compared with last night's. Components have no space in
/// their names.
pub(super) fn stream_name(component: &str, stream: &str) -> String {
    format!("{component} {stream}")
}

/// Returns whether a stream of this name is in a manifest: those of components that failed are not.
pub(super) fn is_of_complete(name: &str, manifest: &Manifest) -> bool {
    name.split_once(' ').is_some_and(|(component, _)| manifest.components.iter().any(|complete| complete == component))
}

/// A stream, or all entries of a component, as this run wrote it.
#[derive(Debug, Clone)]
pub struct Written {
    /// The stream's name; `entries` for the entry table and all contents that were read for it.
    pub name: String,
    /// Bytes read.
    pub read: u64,
    /// What became of them.
    pub report: StreamReport,
    /// By which what was stored is found when the writer has finished.
    pub stream: StreamWritten,
}

/// What a component was captured into.
#[derive(Debug, Default)]
pub struct CapturedStreams {
    /// Named streams.
    pub streams: BTreeMap<String, StreamRecord>,
    /// The entry table.
    pub entries: Option<TableRecord>,
    /// What the run did for each.
    pub written: Vec<Written>,
}

/// Captures one component into the data namespace.
pub struct DataCapture<'a> {
    component: String,
    writer: &'a mut Writer,
    reader: Arc<Reader>,
    progress: &'a dyn Progress,
    /// The previous entry tables of this component and of those that come behind it, until something is asked for or stored.
    unproven: &'a mut Vec<TableRecord>,
    /// That of this component until its first row is asked for.
    unopened: Option<TableRecord>,
    previous: Option<TableReader>,
    /// Keys that last night's table has and that tonight's has not come to yet, in order; of too many the last ones.
    seen: VecDeque<Vec<u8>>,
    rows: Option<Rows>,
    contents_read: u64,
    /// What became of contents that are not short.
    contents: StreamReport,
    captured: CapturedStreams,
}

impl<'a> DataCapture<'a> {
    /// Compares entries with those of the `previous` table, if there is one. `unproven` has this and those of all components
    /// that are captured with the same writer; the first capture takes them out.
    #[must_use]
    pub fn new(
        component: &str,
        writer: &'a mut Writer,
        reader: Arc<Reader>,
        progress: &'a dyn Progress,
        previous: Option<&TableRecord>,
        unproven: &'a mut Vec<TableRecord>,
    ) -> Self {
        let component = component.to_owned();
        Self {
            component,
            writer,
            reader,
            progress,
            unproven,
            unopened: previous.cloned(),
            previous: None,
            seen: VecDeque::new(),
            rows: None,
            contents_read: 0,
            contents: StreamReport::default(),
            captured: CapturedStreams::default(),
        }
    }

    /// Reads the previous entry tables and every recipe that they refer to, once, before the first row is given out and
    /// before anything is stored. What proves damaged is set aside: nothing in this run then refers to it, be it of another
    /// component. Not before that, because a source has requests to wait for meanwhile.
    pub(super) async fn prove_previous(&mut self) {
        for record in std::mem::take(self.unproven) {
            let mut table = TableReader::open(&self.reader, &record);
            // What cannot be read is met again, and said, by `previous`.
            while let Ok(Some(row)) = table.next_row().await {
                // Extents that stand in the row itself are only looked up: nothing can prove damaged.
                if matches!(row.content, EntryContent::Recipe { .. }) {
                    let _ = self.reader.check_structure(&row.content).await;
                }
            }
        }
        if let Some(record) = self.unopened.take() {
            self.previous = Some(TableReader::open(&self.reader, &record));
        }
    }

    /// Ends the entry table, if there is one, and returns what was stored.
    pub async fn finish(mut self) -> Result<CapturedStreams, component::Error> {
        if let Some(rows) = self.rows.take() {
            let FinishedRows { record, stream, contents } = rows.finish(self.writer).await?;
            let mut report = stream.report;
            report.add(&self.contents);
            report.add(&contents);
            let read = self.contents_read + stream.len;
            self.captured.written.push(Written { name: "entries".to_owned(), read, report, stream });
            self.captured.entries = Some(record);
        }
        Ok(self.captured)
    }

    /// Gives up what is still open.
    pub async fn abort(mut self) -> Result<(), repo::Error> {
        match self.rows.take() {
            Some(rows) => rows.abort(self.writer).await,
            None => Ok(()),
        }
    }

    async fn push_all(
        &mut self,
        stream: &OpenStream,
        what: &str,
        body: &mut ByteStream,
    ) -> Result<(), component::Error> {
        while let Some(Run { bytes, ends }) = body.try_next().await? {
            let mut marks = Marks { records: Vec::with_capacity(ends.len()), blocks: Vec::new() };
            for end in ends {
                marks.records.push(end.at);
                if end.block {
                    marks.blocks.push(end.at);
                }
            }
            let len = bytes.len() as u64;
            self.writer.push(stream, bytes, marks).await.map_err(|source| failed(what, source))?;
            self.progress.advance(len);
        }
        Ok(())
    }

    /// Stores everything that comes as a stream that was begun.
    async fn fill(
        &mut self,
        stream: Result<OpenStream, repo::Error>,
        what: &str,
        mut body: ByteStream,
        extents_most: usize,
    ) -> Result<StreamWritten, component::Error> {
        let wrap = |source| failed(what, source);
        let stream = stream.map_err(wrap)?;
        match self.push_all(&stream, what, &mut body).await {
            Ok(()) => self.writer.end(stream, extents_most).await.map_err(wrap),
            Err(error) => {
                // The first error is the cause; a writer that has stopped has nothing to abort.
                let _ = self.writer.abort(stream).await;
                Err(error)
            }
        }
    }

    async fn add(&mut self, rows: &mut Rows, entry: Entry, content: Content) -> Result<(), component::Error> {
        let was_there = self.come_to(&entry.key);
        let content = match content {
            Content::Nothing => EntryContent::None,
            Content::Stored(StoredContent(encoded)) => EntryContent::decode(&encoded)
                .map_err(|source| failed(&String::from_utf8_lossy(&entry.key), source.into()))?,
            Content::Bytes(body) if entry.len <= SHORT_BYTES_MAX => {
                let body = self.short(&entry, body).await?;
                return rows.add_short(self.writer, row(entry, EntryContent::None), body).await;
            }
            Content::Bytes(body) => {
                rows.hand_over(self.writer).await?;
                self.content(rows, &entry, was_there, body).await?
            }
        };
        rows.add(self.writer, row(entry, content)).await
    }

    /// Takes all of a short content.
    async fn short(&mut self, entry: &Entry, mut body: ByteStream) -> Result<Bytes, component::Error> {
        let mut whole = Bytes::new();
        let mut found = 0;
        while let Some(Run { bytes, .. }) = body.try_next().await? {
            found += bytes.len() as u64;
            self.progress.advance(bytes.len() as u64);
            if whole.is_empty() {
                whole = bytes;
            } else if found <= entry.len {
                whole = [whole, bytes].concat().into();
            }
        }
        check_len(entry, found)?;
        self.contents_read += found;
        Ok(whole)
    }

    /// Returns whether last night's table has the key that tonight's has come to.
    fn come_to(&mut self, key: &[u8]) -> bool {
        while self.seen.front().is_some_and(|seen| seen.as_slice() < key) {
            self.seen.pop_front();
        }
        self.seen.pop_front_if(|seen| seen.as_slice() == key).is_some()
    }

    /// Stores the content of an entry beside the table that its row goes into.
    async fn content(
        &mut self,
        rows: &Rows,
        entry: &Entry,
        was_there: bool,
        body: ByteStream,
    ) -> Result<EntryContent, component::Error> {
        // What never changes needs no memory of its pieces: most objects, and every new one.
        let name = (was_there && entry.len >= COMPARED_BYTES_LEAST)
            .then(|| stream_name(&self.component, &format!("entry {}", entry.key.escape_ascii())));
        let stream = self.writer.begin_beside(rows.stream(), config::StreamKind::Object, name).await;
        let what = String::from_utf8_lossy(&entry.key);
        let written = self.fill(stream, &what, body, extents_most()).await?;
        check_len(entry, written.len)?;
        self.contents_read += written.len;
        self.contents.add(&written.report);
        Ok(written.entry_content())
    }
}

fn row(entry: Entry, content: EntryContent) -> EntryRow {
    let Entry { key, attributes, len } = entry;
    EntryRow { key, attributes, len, content }
}

fn check_len(entry: &Entry, found: u64) -> Result<(), component::Error> {
    if found == entry.len {
        return Ok(());
    }
    let key = String::from_utf8_lossy(&entry.key).into_owned();
    Err(component::Error::EntryLength { entry: key, expected: entry.len, found })
}

#[async_trait]
impl Capture for DataCapture<'_> {
    async fn stream(&mut self, name: &str, kind: StreamKind, body: ByteStream) -> Result<u64, component::Error> {
        self.prove_previous().await;
        let stream =
            self.writer.begin_named(kind_of(kind), &stream_name(&self.component, &format!("stream {name}"))).await;
        let stream = self.fill(stream, name, body, 0).await?;
        let record = stream.record().expect("a stream ended without extents has a recipe");
        self.captured.streams.insert(name.to_owned(), record);
        let (read, report) = (stream.len, stream.report);
        self.captured.written.push(Written { name: name.to_owned(), read, report, stream });
        Ok(read)
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        self.prove_previous().await;
        let Some(previous) = &mut self.previous else { return Ok(None) };
        let row = match previous.next_row().await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(None),
            Err(error) => {
                // The table only saves work: without it everything is read.
                let reason = super::snapshot::reason(&error);
                self.progress.warn(&format!("the previous entry table cannot be read, so everything is: {reason}"));
                self.previous = None;
                return Ok(None);
            }
        };
        self.seen.push_back(row.key.clone());
        if self.seen.len() > SEEN_MOST {
            self.seen.pop_front();
        }
        let is_there = match self.reader.check_structure(&row.content).await {
            Ok(_) => true,
            Err(error) if error.is_damage() => false,
            Err(error) => return Err(failed("the previous entry table", error)),
        };
        // What the repository has lost meanwhile is read again.
        let (entry, content) = as_entry(row);
        Ok(Some((entry, content.filter(|_| is_there))))
    }

    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), component::Error> {
        self.prove_previous().await;
        let mut rows = match self.rows.take() {
            Some(rows) => rows,
            None => Rows::begin(self.writer, &stream_name(&self.component, "entries"))
                .await
                .map_err(|source| failed("the entry table", source))?,
        };
        let added = self.add(&mut rows, entry, content).await;
        self.rows = Some(rows);
        added
    }
}

/// Captures secret files: in memory, to be sealed into one bundle.
#[derive(Default)]
pub struct SecretsCapture {
    files: Vec<SecretFile>,
    bytes: u64,
}

impl SecretsCapture {
    /// Returns the files.
    #[must_use]
    pub fn into_files(self) -> Vec<SecretFile> {
        self.files
    }

    /// Returns how many bytes they have.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[async_trait]
impl Capture for SecretsCapture {
    async fn stream(&mut self, name: &str, _kind: StreamKind, _body: ByteStream) -> Result<u64, component::Error> {
        // Secrets are files; a source that streams does not belong into this namespace.
        Err(component::Error::NoSuchStream { stream: name.to_owned() })
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        Ok(None)
    }

    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), component::Error> {
        let what = String::from_utf8_lossy(&entry.key).into_owned();
        let wrap = |source| failed(&what, repo::Error::Format(source));
        limits::check("files of a secrets bundle", self.files.len() as u64 + 1, limits::BUNDLE_FILES_MAX)
            .map_err(wrap)?;
        limits::check("secrets bundle", self.bytes + entry.len, limits::BUNDLE_BYTES_MAX / 2).map_err(wrap)?;
        let content = match content {
            Content::Nothing | Content::Stored(_) => None,
            Content::Bytes(mut body) => {
                let mut bytes = Vec::with_capacity(usize::try_from(entry.len).unwrap_or(0));
                while let Some(run) = body.try_next().await? {
                    bytes.extend_from_slice(&run.bytes);
                }
                if bytes.len() as u64 != entry.len {
                    let (expected, found) = (entry.len, bytes.len() as u64);
                    return Err(component::Error::EntryLength { entry: what, expected, found });
                }
                Some(bytes)
            }
        };
        self.bytes += entry.len;
        self.files.push(SecretFile { key: entry.key, attributes: entry.attributes, content });
        Ok(())
    }
}
