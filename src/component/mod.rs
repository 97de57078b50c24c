//! What an Orkestra stack keeps, and how each part of it is read and put back.
//!
//! A [`Source`] reads one component into a [`Capture`]; a [`Sink`] puts one back from a [`Stored`].
//! `ops` implements [`Capture`] and [`Stored`] over the repository: nothing in this room knows what a
//! chunk, a segment or a key is. Content flows in bounded [`Run`]s and is never held whole, except where
//! a limit in `docs/` says how much that can be.

pub mod docker;
pub mod dotenv;
pub mod files;
pub mod marks;
pub mod mongodb;
pub mod redis;
mod runs;
pub mod s3;
pub mod secret;
pub mod stack;

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};

/// The error of this room: one variant per component, and what crosses between rooms.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The receiving side (repository) failed while a component was being captured.
    #[error("storing {what} failed")]
    Store {
        /// The stream or entry that was being stored.
        what: String,
        /// The repository's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The stored side (repository) failed while a component was being restored.
    #[error("reading {what} from the repository failed")]
    Stored {
        /// The stream or entry that was being read.
        what: String,
        /// The repository's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entry's content does not have the length that the source announced.
    #[error("{entry:?} has {found} bytes, {expected} were announced")]
    EntryLength {
        /// The entry's key, as text.
        entry: String,
        /// Announced.
        expected: u64,
        /// That came.
        found: u64,
    },
    /// The snapshot holds no such stream.
    #[error("the snapshot has no stream {stream}")]
    NoSuchStream {
        /// The stream's name within its component.
        stream: String,
    },
    /// It is not clear which stack is meant, or it is not there.
    #[error(transparent)]
    Stack(#[from] stack::Error),
    /// Docker, or a process or file in a container.
    #[error(transparent)]
    Docker(#[from] docker::Error),
    /// MongoDB, its tools, or an archive of it.
    #[error(transparent)]
    Mongodb(#[from] mongodb::Error),
    /// Redis or Valkey.
    #[error(transparent)]
    Redis(#[from] redis::Error),
    /// Directories and secret files.
    #[error(transparent)]
    Files(#[from] files::Error),
    /// The buckets could not be read or put back.
    #[error(transparent)]
    S3(#[from] s3::Error),
}

impl Error {
    /// Returns what kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { .. } | Self::Stored { .. } | Self::EntryLength { .. } => ErrorKind::Failed,
            Self::NoSuchStream { .. } => ErrorKind::Unavailable,
            Self::Docker(error) => error.kind(),
            Self::Stack(error) => error.kind(),
            Self::Mongodb(error) => error.kind(),
            Self::Redis(error) => error.kind(),
            Self::Files(error) => error.kind(),
            Self::S3(error) => error.kind(),
        }
    }
}

/// What kind of failure an [`Error`] is: the shell derives hints and exit codes from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The server, container or program is not there, not running or not reachable.
    Unavailable,
    /// Names, credentials or options do not fit what was found (also: ambiguous).
    Misconfigured,
    /// A guard refused: wrong daemon, would overwrite, version mismatch.
    Refused,
    /// It was there and it failed, or what came is not whole.
    Failed,
}

/// Bytes of a [`Run`], at most.
pub const RUN_BYTES_MAX: usize = 1 << 20;

/// Bytes of an entry's content up to which it is read and handed over whole: to set up a stream takes longer.
pub const SHORT_BYTES_MAX: u64 = 64 << 10;

/// Returns whether so many short entries of so many bytes together are what is read at once: all of it is held.
pub const fn is_lot(entries: usize, bytes: u64) -> bool {
    entries >= 4096 || bytes >= 4 << 20
}

/// A bounded run of a stream's bytes and the places in it where records end.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// At most [`RUN_BYTES_MAX`], never empty.
    pub bytes: Bytes,
    /// Strictly increasing places in `bytes`; the repository prefers to cut a chunk there.
    /// Empty for streams without records.
    pub ends: Vec<RecordEnd>,
}

/// A place in a [`Run`] at which a record (a BSON document, a table row) ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordEnd {
    /// Bytes of the run up to and including the record: 1..=run length.
    pub at: u32,
    /// True where a whole block ends too (of a mongodump archive): a chunk always ends here.
    pub block: bool,
}

impl Run {
    /// Cuts bytes into runs without records.
    pub fn cut(bytes: Bytes) -> impl Iterator<Item = Self> + Send {
        let places = (0..bytes.len()).step_by(RUN_BYTES_MAX);
        places.map(move |at| Self::from(bytes.slice(at..bytes.len().min(at + RUN_BYTES_MAX))))
    }
}

impl From<Bytes> for Run {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, ends: Vec::new() }
    }
}

/// Bytes on their way. An `Err` item ends the stream and makes it incomplete; only a clean end is an end:
/// a source that must check exit status, trailer or checksum does so before it lets the stream end.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Run, Error>> + Send>>;

/// Returns bytes that are at hand as a stream of them.
pub fn in_memory(bytes: Bytes) -> ByteStream {
    futures::stream::iter(Run::cut(bytes)).map(Ok).boxed()
}

/// How a stream is cut: the chunk sizes in the repository's config are per kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// A mongodump archive or other record dump.
    Dump,
    /// A Redis RDB file.
    Rdb,
    /// An object or a file.
    Object,
}

/// What `capture` found out, stored in the manifest beside the streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// What may honestly be claimed of the capture's consistency, e.g. `fuzzy`, `point-in-time`.
    pub consistency: String,
    /// Tool and server versions and whatever a restore must know (`database`, `redis_version` ...): names
    /// in `snake_case`, values short UTF-8. Never a secret.
    pub facts: BTreeMap<String, String>,
    /// What is inside, for `ls`, `diff` and the comparison after a restore.
    pub catalogue: Vec<CatalogueRow>,
    /// Things the operator should hear about though the capture is good.
    pub warnings: Vec<String>,
}

/// One line of a component's table of contents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CatalogueRow {
    /// `orkestra.users`, `db0`, `avatars`.
    pub name: String,
    /// `collection`, `view`, `timeseries`, `database`, `bucket`.
    pub kind: String,
    /// Documents, keys, objects.
    pub records: u64,
    /// Their bytes (0 where the source does not tell).
    pub bytes: u64,
}

/// One row of an entry table: an object of a bucket, a file of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `bucket/object-key` or a relative path: bytes, never interpreted as a path by the repository.
    pub key: Vec<u8>,
    /// `content-type`, `meta:<name>`, `tag:<name>`, `mode`, `uid`, `etag` ...: canonical, sorted by name.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// Content length in bytes.
    pub len: u64,
}

/// The repository's own reference to content that it already holds. Opaque to this room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent(pub Vec<u8>);

/// Where an entry's content comes from.
pub enum Content {
    /// It has none (a bucket, a directory, a symbolic link).
    Nothing,
    /// Unchanged since the previous snapshot: what that one holds is referred to, nothing is read.
    Stored(StoredContent),
    /// Read it. The bytes must add up to [`Entry::len`].
    Bytes(ByteStream),
}

/// The receiving side of a capture.
#[async_trait]
pub trait Capture: Send {
    /// Stores one named stream and returns its length. Fails with the stream's own error where it ends in one.
    async fn stream(&mut self, name: &str, kind: StreamKind, body: ByteStream) -> Result<u64, Error>;

    /// Returns the next row, in key order, of this component's entry table in the previous complete
    /// snapshot, with the reference to its content; `None` after the last, or where there is no such table.
    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error>;

    /// Adds a row. Keys must strictly increase (as bytes) from call to call.
    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), Error>;
}

/// Reads one component.
#[async_trait]
pub trait Source: Send {
    /// The component's name: `mongodb`, `redis`, `rustfs`, `secrets` or a configured `directory` name.
    fn component(&self) -> &str;

    /// Returns one line that says what would be read, from where, and how that was found. Never a secret.
    fn describe(&self) -> String;

    /// Checks that a capture could start (container runs, server answers, credentials fit). Reads no data. For who wants
    /// to know beforehand: a capture finds the same by itself, and a dump that is only begun is a load, too.
    async fn probe(&mut self) -> Result<(), Error>;

    /// Captures everything. Returns only when it is proven whole; any doubt is an `Err`.
    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, Error>;
}

/// One stream as the snapshot holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStream {
    /// Its name within the component, `mongo.archive`.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// The snapshot's side of a restore. Every byte that it yields has been authenticated; a stream that
/// turns out not to be whole ends in an `Err`, never early.
#[async_trait]
pub trait Stored: Send {
    /// What the source recorded: see [`Captured`].
    fn captured(&self) -> &Captured;

    /// The component's named streams.
    fn streams(&self) -> Vec<StoredStream>;

    /// Opens a named stream.
    async fn open(&mut self, stream: &str) -> Result<ByteStream, Error>;

    /// Starts (again) at the first row of the entry table.
    async fn rewind(&mut self) -> Result<(), Error>;

    /// Returns the next row in key order, `None` after the last.
    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error>;

    /// Opens an entry's content.
    async fn open_content(&mut self, entry: &Entry, content: &StoredContent) -> Result<ByteStream, Error>;

    /// Reads the contents of entries of up to [`SHORT_BYTES_MAX`] each, in their order. Much less work than to open each; all are
    /// held, so give no more than a lot: see [`is_lot`].
    async fn read_short(&mut self, wanted: &[(&Entry, &StoredContent)]) -> Result<Vec<Bytes>, Error> {
        let mut read = Vec::with_capacity(wanted.len());
        for (entry, content) in wanted {
            let mut body = self.open_content(entry, content).await?;
            let mut whole = Bytes::new();
            while let Some(Run { bytes, .. }) = body.try_next().await? {
                whole = if whole.is_empty() { bytes } else { [whole, bytes].concat().into() };
            }
            read.push(whole);
        }
        Ok(read)
    }
}

/// What a restore would do, decided before anything is touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestorePlan {
    /// One line each: what exists now and will be replaced or dropped.
    pub replaces: Vec<String>,
    /// One line each: what will be created.
    pub creates: Vec<String>,
    /// Differences that the operator should know of (server version older than the dump's ...).
    pub warnings: Vec<String>,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bytes written to the target.
    pub bytes: u64,
    /// Lines for the report: counts restored, compared with the catalogue.
    pub notes: Vec<String>,
    /// Things that are whole but not as they were (a header the server would not take ...).
    pub warnings: Vec<String>,
}

/// Puts one component back.
#[async_trait]
pub trait Sink: Send {
    /// The component's name.
    fn component(&self) -> &str;

    /// Returns one line that says where the component would go, and how that was found. Never a secret.
    fn describe(&self) -> String;

    /// Checks every precondition of `restore` and returns what it would do. Changes nothing. A dry run
    /// calls this and then reads every byte; so it must fail wherever `restore` would fail at the start.
    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, Error>;

    /// Puts the component back. `plan` has succeeded before. Returns only when the target holds it.
    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, Error>;
}
