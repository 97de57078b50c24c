//! The one way in: streams become chunks, segments, packs and recipes.
//!
//! The bridge between the asynchronous sources and the synchronous work: a bounded queue of runs into the
//! engine's thread, and one of segments into the packer's. Memory does not grow with stream or repository.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::engine::{Account, Command, Done, Engine, Parts, StreamNumber};
use super::open::Repository;
use super::packer::{Abandoned, PackJobs, Packed, Packer, PackerParts};
use super::pieces::KeptPieces;
use super::segment::Compression;
use super::{Error, Reader};
use crate::format::config::StreamKind;
use crate::format::entry::EntryContent;
use crate::format::id::{ChunkId, ContentHash};
use crate::format::manifest::{Stats, StreamRecord};
use crate::format::recipe::Extent;

/// Runs between the sources and the engine; each is at most 1 MiB.
const RUNS_QUEUED: usize = 4;

/// Bytes that the piece cache may take on this host where nothing else is asked for.
const PIECE_CACHE_BYTES: u64 = 1024 * 1024 * 1024;

/// How a writer works.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// How hard segments are compressed.
    pub compression: Compression,
    /// Bytes that the piece cache of this repository may take on this host; 0 for none: then whole chunks are
    /// compared. It needs about 4 % of the streams.
    pub piece_cache_bytes_max: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { compression: Compression::default(), piece_cache_bytes_max: PIECE_CACHE_BYTES }
    }
}

/// A writer's work, durable and listed.
pub struct Finished {
    /// What was counted.
    pub stats: Stats,
    /// What tomorrow's run compares with: to be kept when the snapshot is committed.
    pub pieces: KeptPieces,
    accounts: HashMap<Account, u64>,
}

impl Finished {
    /// Returns the bytes of segments that were stored for a stream, those begun beside it included. Where a
    /// segment has several streams, each counts its part.
    #[must_use]
    pub fn stored(&self, written: &StreamWritten) -> u64 {
        self.accounts.get(&written.account).copied().unwrap_or(0)
    }
}

/// Places in a run: ascending, 1..=its length.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// After these a record ends: cuts are moved there.
    pub records: Vec<u32>,
    /// After these a block ends: always a cut.
    pub blocks: Vec<u32>,
}

/// Where a written stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenContent {
    /// In few extents, as asked for.
    Extents(Vec<Extent>),
    /// In a recipe with this root.
    Recipe(ChunkId),
}

/// What became of a stream's bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Bytes that the repository already had, in chunks that are referred to whole.
    pub whole: u64,
    /// Bytes that it already had, in parts of chunks.
    pub parts: u64,
    /// Bytes that were stored, before compression.
    pub new: u64,
    /// Bytes of new recipe pages and of a new root, before compression.
    pub recipe: u64,
}

impl StreamReport {
    /// Adds another stream's.
    pub const fn add(&mut self, other: &Self) {
        self.whole += other.whole;
        self.parts += other.parts;
        self.new += other.new;
        self.recipe += other.recipe;
    }

    pub(super) fn count(&mut self, extent: &Extent, is_new: bool) {
        let bytes = match (is_new, extent.is_whole()) {
            (true, _) => &mut self.new,
            (false, true) => &mut self.whole,
            (false, false) => &mut self.parts,
        };
        *bytes += u64::from(extent.len);
    }
}

/// A stream that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamWritten {
    /// Bytes.
    pub len: u64,
    /// BLAKE3 of the bytes that came in.
    pub hash: ContentHash,
    /// Where they are.
    pub content: WrittenContent,
    /// What became of the bytes.
    pub report: StreamReport,
    pub(super) account: Account,
}

impl StreamWritten {
    /// Returns what an entry row says of the content.
    #[must_use]
    pub fn entry_content(self) -> EntryContent {
        match self.content {
            WrittenContent::Extents(extents) => EntryContent::Extents { hash: self.hash, extents },
            WrittenContent::Recipe(root) => EntryContent::Recipe { hash: self.hash, root },
        }
    }

    /// Returns what a manifest says of the stream, `None` where it has no recipe.
    #[must_use]
    pub fn record(&self) -> Option<StreamRecord> {
        match self.content {
            WrittenContent::Recipe(recipe) => Some(StreamRecord { length: self.len, blake3: self.hash, recipe }),
            WrittenContent::Extents(_) => None,
        }
    }
}

/// Writes streams into a repository. Dropped unfinished, it leaves nothing but unreferenced objects, which the next run finds:
/// what is under way is waited for, and listed, by a task of the runtime.
#[must_use]
pub struct Writer {
    commands: mpsc::Sender<Command>,
    next: StreamNumber,
    /// Gone once its end was awaited.
    workers: Option<Workers>,
    abandoned: Abandoned,
}

struct Workers {
    engine: JoinHandle<Result<Done, Error>>,
    /// A task, because who ends a program waits for tasks.
    packer: JoinHandle<Result<Packed, Error>>,
}

/// Short objects that a [`Writer`] was given: see [`Writer::put_short`].
#[must_use]
pub struct ShortStreams(oneshot::Receiver<Vec<StreamWritten>>);

/// An open stream of a [`Writer`].
#[derive(Debug)]
#[must_use]
pub struct OpenStream(StreamNumber);

impl Writer {
    /// Starts the threads. Needs a runtime. Nothing will be referred to that proved damaged in an earlier run of this host.
    pub fn new(repository: &Repository, options: WriterOptions) -> Result<Self, Error> {
        let (pending, abandoned) = (Arc::new(Mutex::new(HashSet::new())), Abandoned::default());
        let index = repository.index();
        index.set_known_damage_aside()?;
        let (jobs, coming) = PackJobs::new(options.compression);
        let (commands, received) = mpsc::channel(RUNS_QUEUED);
        let runtime = tokio::runtime::Handle::current();
        let parts = Parts {
            config: repository.config().clone(),
            index: Arc::clone(&index),
            pending: Arc::clone(&pending),
            jobs,
            pieces: repository.piece_store(options.piece_cache_bytes_max),
            reader: Reader::new(repository)?,
            abandoned: abandoned.clone(),
            runtime: runtime.clone(),
        };
        let engine = Engine::new(repository.keyring().data()?, parts);
        let packer = Packer::new(PackerParts {
            backend: repository.backend(),
            keyring: repository.keyring(),
            index,
            pending,
            abandoned: abandoned.clone(),
            runtime,
        });
        let packer = tokio::task::spawn_blocking(move || packer.run(&coming));
        Ok(Self {
            commands,
            next: 0,
            workers: Some(Workers {
                engine: tokio::task::spawn_blocking(move || engine.run(received)),
                packer: tokio::spawn(async move { packer.await.unwrap_or(Err(Error::Stopped)) }),
            }),
            abandoned,
        })
    }

    /// Begins a stream. Several may be open at once.
    pub async fn begin(&mut self, kind: StreamKind) -> Result<OpenStream, Error> {
        let account = self.next;
        self.start(kind, None, account).await
    }

    /// Begins a stream that is compared, piece by piece, with what this host remembers of the stream that had this
    /// name when it was last written. At most one of a name is open at a time.
    pub async fn begin_named(&mut self, kind: StreamKind, name: &str) -> Result<OpenStream, Error> {
        let account = self.next;
        self.start(kind, Some(name.to_owned()), account).await
    }

    /// Begins a stream that counts as part of another one: see [`Finished::stored`].
    pub async fn begin_beside(
        &mut self,
        other: &OpenStream,
        kind: StreamKind,
        name: Option<String>,
    ) -> Result<OpenStream, Error> {
        self.start(kind, name, other.0).await
    }

    async fn start(&mut self, kind: StreamKind, name: Option<String>, account: Account) -> Result<OpenStream, Error> {
        let stream = self.next;
        self.next += 1;
        self.send(Command::Begin { stream, kind, name, account }).await?;
        Ok(OpenStream(stream))
    }

    /// Appends bytes to a stream. Waits while the repository is slower than the source.
    pub async fn push(&mut self, stream: &OpenStream, bytes: Bytes, marks: Marks) -> Result<(), Error> {
        self.send(Command::Push { stream: stream.0, bytes, marks }).await
    }

    /// Ends a stream. With `extents_most` above 0 a short stream gets no recipe.
    pub async fn end(&mut self, stream: OpenStream, extents_most: usize) -> Result<StreamWritten, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::End { stream: stream.0, extents_most, reply }).await?;
        self.answer(answer).await
    }

    /// Forgets a stream that did not end well. Its chunks may stay in the repository, unreferenced.
    pub async fn abort(&mut self, stream: OpenStream) -> Result<(), Error> {
        self.send(Command::Abort { stream: stream.0 }).await
    }

    /// Hands over objects that are in memory, each a stream of its own that counts as part of another one; none is compared by
    /// name. Waits only while the repository is slower than the source: what became of them is asked for with
    /// [`Writer::short_written`], best when the next ones have been handed over.
    pub async fn put_short(
        &mut self,
        beside: &OpenStream,
        bodies: Vec<Bytes>,
        extents_most: usize,
    ) -> Result<ShortStreams, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Short { account: beside.0, bodies, extents_most, reply }).await?;
        Ok(ShortStreams(answer))
    }

    /// Returns what became of short objects, in their order.
    pub async fn short_written(&mut self, streams: ShortStreams) -> Result<Vec<StreamWritten>, Error> {
        self.answer(streams.0).await
    }

    async fn answer<T>(&mut self, answer: oneshot::Receiver<T>) -> Result<T, Error> {
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Waits until everything is durable and listed in the index. What was written can be referred to by a
    /// snapshot from here on, and not before.
    pub async fn finish(mut self) -> Result<Finished, Error> {
        let (closed, _) = mpsc::channel(1);
        // With the last sender the engine ends, and after it the packer.
        self.commands = closed;
        self.join().await
    }

    async fn send(&mut self, command: Command) -> Result<(), Error> {
        if self.commands.send(command).await.is_ok() { Ok(()) } else { Err(self.failure().await) }
    }

    /// Returns why the threads stopped.
    async fn failure(&mut self) -> Error {
        self.join().await.err().unwrap_or(Error::Stopped)
    }

    async fn join(&mut self) -> Result<Finished, Error> {
        let Some(workers) = self.workers.take() else { return Err(Error::Stopped) };
        let engine = workers.engine.await.map_err(|_| Error::Stopped)?;
        let packed = workers.packer.await.map_err(|_| Error::Stopped)?;
        match (engine, packed) {
            // The packer's error is the cause: the engine then only finds its queue closed.
            (_, Err(error)) | (Err(error), Ok(_)) => Err(error),
            (Ok(Done { stats, pieces }), Ok(Packed { stored_bytes, accounts })) => {
                Ok(Finished { stats: Stats { stored_bytes, ..stats }, pieces, accounts })
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.workers.is_some() {
            // Before the engine sees that no more commands come.
            self.abandoned.set();
        }
    }
}
