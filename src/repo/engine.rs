//! Cuts streams into chunks, tells known ones from new ones, and gathers the new ones into segments.
//!
//! One thread: cutting and naming chunks is its work. The hash of the whole stream is another thread's,
//! compression is rayon's (`packer.rs`), so that two cores are busy on one stream.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::Bytes;

mod compare;
mod pages;

use super::index::{Index, Place};
use super::packer::{Abandoned, PackJob, PackJobs};
use super::pieces::{Grown, KeptPieces, PieceStore};
use super::recipe_writer::RecipeWriter;
use super::writer::{Marks, StreamReport, StreamWritten, WrittenContent};
use super::{Error, Reader};
use crate::chunker::{Cutter, Ends, Sizes};
use crate::crypto::hash::{StreamHasher, content_hash};
use crate::crypto::keys::{ChunkIdKey, NamespaceKeys};
use crate::format::config::{Config, StreamKind};
use crate::format::id::{ChunkId, ContentHash};
use crate::format::limits;
use crate::format::manifest::Stats;
use crate::format::pack::{ChunkRecord, PackKind};
use crate::format::recipe::Extent;
use compare::Compared;

/// Chunks at which a segment is full however small they are: bounds what one lookup in the index brings along.
const SEGMENT_CHUNKS_TARGET: usize = 4096;
const _: () = assert!(SEGMENT_CHUNKS_TARGET as u64 <= limits::SEGMENT_CHUNKS_MAX);
/// Bytes that are gathered before they are cut where they come in small runs: a thread then works on more than a few chunks at
/// a time.
const WINDOW_BYTES: usize = 512 * 1024;
/// Buffers on their way to the thread that hashes the stream.
const HASH_QUEUE: usize = 8;

/// Chunks that were stored in this run and are not yet in the index.
pub(super) type Pending = Arc<Mutex<HashSet<ChunkId>>>;

/// A number that stands for one open stream.
pub(super) type StreamNumber = u32;

/// A number under which stored bytes are counted: that of a stream, for itself and others beside it.
pub(super) type Account = u32;

/// What the engine is told.
pub(super) enum Command {
    Begin {
        stream: StreamNumber,
        kind: StreamKind,
        name: Option<String>,
        account: Account,
    },
    Push {
        stream: StreamNumber,
        bytes: Bytes,
        marks: Marks,
    },
    End {
        stream: StreamNumber,
        extents_most: usize,
        reply: tokio::sync::oneshot::Sender<StreamWritten>,
    },
    Abort {
        stream: StreamNumber,
    },
    /// Objects, each whole: one after the other, as if each had been begun, pushed and ended.
    Short {
        account: Account,
        bodies: Vec<Bytes>,
        extents_most: usize,
        reply: ShortReply,
    },
}

type ShortReply = tokio::sync::oneshot::Sender<Vec<StreamWritten>>;

enum HashWork {
    Bytes(Bytes),
    Finish(mpsc::SyncSender<ContentHash>),
    Drop,
}

type HashQueue = mpsc::SyncSender<(StreamNumber, HashWork)>;

struct OpenStream {
    kind: StreamKind,
    account: Account,
    /// What was not cut yet.
    window: Vec<u8>,
    /// The window's place in the stream.
    front: u64,
    records: Vec<u64>,
    blocks: Vec<u64>,
    recipe: RecipeWriter,
    has_cut: bool,
    /// Yesterday's pieces and tonight's, where the stream has a name.
    compared: Option<Compared>,
    report: StreamReport,
}

/// A chunk that was cut off.
struct NextChunk<'a> {
    bytes: &'a [u8],
    /// The places in the stream, behind the chunk's front, after which records end.
    records: &'a [u64],
    /// Its name, where that is known already.
    id: Option<ChunkId>,
}

/// Which chunks are cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cuts {
    /// Those that are whole, whatever comes next.
    Whole,
    /// Those of them that begin before this place, in bytes.
    BeginBefore(usize),
    /// All: nothing comes next.
    All,
}

impl Cuts {
    fn goes_on(self, at: usize) -> bool {
        match self {
            Self::BeginBefore(end) => at < end,
            Self::Whole | Self::All => true,
        }
    }
}

/// What lies where yesterday's next chunk would lie.
#[derive(Clone, Copy)]
struct Guess {
    id: ChunkId,
    /// Bytes.
    len: usize,
    /// Whether it is that chunk.
    is_known: bool,
}

/// The chunks of one kind of pack: how they are named, and those waiting to fill a segment.
struct Lane {
    kind: PackKind,
    ids: ChunkIdKey,
    segment: Vec<u8>,
    chunks: Vec<ChunkRecord>,
    /// Whose bytes they are.
    shares: Vec<(Account, u32)>,
}

/// See the head of this file.
pub(super) struct Engine {
    config: Config,
    gear: [u64; 256],
    cutters: HashMap<StreamKind, Arc<Cutter>>,
    index: Arc<Index>,
    pending: Pending,
    content: Lane,
    meta: Lane,
    jobs: PackJobs,
    hashes: HashQueue,
    streams: HashMap<StreamNumber, OpenStream>,
    /// Chunks of structure (pages, roots, tables) that were there before and that this run refers to without having read them.
    referred: HashSet<ChunkId>,
    stats: Stats,
    pieces: PieceStore,
    /// What the streams that ended have written for tomorrow.
    grown: Vec<Grown>,
    /// Reads yesterday's recipes.
    reader: Arc<Reader>,
    abandoned: Abandoned,
    runtime: tokio::runtime::Handle,
}

/// What an engine works with.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) index: Arc<Index>,
    pub(super) pending: Pending,
    pub(super) jobs: PackJobs,
    pub(super) pieces: PieceStore,
    pub(super) reader: Arc<Reader>,
    pub(super) abandoned: Abandoned,
    pub(super) runtime: tokio::runtime::Handle,
}

/// What an engine leaves.
pub(super) struct Done {
    pub(super) stats: Stats,
    pub(super) pieces: KeptPieces,
}

impl Engine {
    pub(super) fn new(keys: &NamespaceKeys, parts: Parts) -> Self {
        let Parts { config, index, pending, jobs, pieces, reader, abandoned, runtime } = parts;
        let (hashes, work) = mpsc::sync_channel(HASH_QUEUE);
        // Ends when the engine, which holds the only sender, does.
        std::thread::spawn(move || hash_streams(&work));
        let lane = |kind| Lane {
            kind,
            ids: keys.chunk_ids(kind),
            segment: Vec::new(),
            chunks: Vec::new(),
            shares: Vec::new(),
        };
        Self {
            config,
            gear: keys.gear(),
            cutters: HashMap::new(),
            index,
            pending,
            content: lane(PackKind::Content),
            meta: lane(PackKind::Meta),
            jobs,
            hashes,
            streams: HashMap::new(),
            referred: HashSet::new(),
            stats: Stats::default(),
            pieces,
            grown: Vec::new(),
            reader,
            abandoned,
            runtime,
        }
    }

    /// Works until the channel is closed; then hands the last segments over and returns what was counted.
    pub(super) fn run(mut self, mut commands: tokio::sync::mpsc::Receiver<Command>) -> Result<Done, Error> {
        while let Some(command) = commands.blocking_recv() {
            self.abandoned.go_on()?;
            self.obey(command)?;
        }
        self.abandoned.go_on()?;
        self.check_referred()?;
        for lane in [&mut self.content, &mut self.meta] {
            lane.flush(&self.jobs)?;
        }
        Ok(Done { stats: self.stats, pieces: self.pieces.finished(self.grown) })
    }

    /// Checks that nothing that this run refers to has proved damaged since, be it on behalf of another stream: nothing may be
    /// called complete of which it is known that it cannot be read back. What proved damaged is remembered, so the next run
    /// stores it anew.
    fn check_referred(&self) -> Result<(), Error> {
        for chunk in &self.referred {
            if !self.is_known(chunk)? {
                return Err(Error::Spoiled { chunk: *chunk });
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Begin { stream, kind, name, account } => {
                let compared = match name {
                    Some(name) => self.pieces.begin(pack_kind(kind), &name)?.map(|pieces| Compared::new(name, pieces)),
                    None => None,
                };
                self.streams.insert(stream, OpenStream::new(kind, account, compared));
            }
            Command::Abort { stream } => {
                if self.streams.remove(&stream).is_some() {
                    self.hash(stream, HashWork::Drop)?;
                }
            }
            Command::Push { stream, bytes, marks } => {
                let Some(mut open) = self.streams.remove(&stream) else { return Ok(()) };
                if open.kind != StreamKind::Table {
                    self.stats.read_bytes += bytes.len() as u64;
                }
                open.mark(&marks);
                self.hash(stream, HashWork::Bytes(bytes.clone()))?;
                self.push(&mut open, &bytes)?;
                self.streams.insert(stream, open);
            }
            Command::End { stream, extents_most, reply } => {
                let Some(mut open) = self.streams.remove(&stream) else { return Ok(()) };
                self.cut_last(&mut open)?;
                let (answer, hash) = mpsc::sync_channel(1);
                self.hash(stream, HashWork::Finish(answer))?;
                let hash = hash.recv().map_err(|_| Error::Stopped)?;
                let written = self.end(open, hash, extents_most)?;
                // A caller that went away does not want the answer.
                let _ = reply.send(written);
            }
            Command::Short { account, bodies, extents_most, reply } => {
                let written = bodies.iter().map(|body| self.short(account, body, extents_most));
                let _ = reply.send(written.collect::<Result<_, _>>()?);
            }
        }
        Ok(())
    }

    /// Takes a whole object. It is hashed here: to ask the other thread would take longer.
    fn short(&mut self, account: Account, body: &[u8], extents_most: usize) -> Result<StreamWritten, Error> {
        self.stats.read_bytes += body.len() as u64;
        let mut open = OpenStream::new(StreamKind::Object, account, None);
        self.push(&mut open, body)?;
        self.cut_last(&mut open)?;
        self.end(open, content_hash(body), extents_most)
    }

    fn hash(&self, stream: StreamNumber, work: HashWork) -> Result<(), Error> {
        self.hashes.send((stream, work)).map_err(|_| Error::Stopped)
    }

    fn cutter(&mut self, kind: StreamKind) -> Arc<Cutter> {
        let sizes = self.config.sizes(kind);
        let sizes = Sizes { min: sizes.min as usize, average: sizes.average as usize, max: sizes.max as usize };
        Arc::clone(self.cutters.entry(kind).or_insert_with(|| Arc::new(Cutter::new(sizes, &self.gear))))
    }

    /// Takes the next bytes of a stream and cuts off every chunk that is whole. Only what lies across two runs is copied
    /// into the window.
    fn push(&mut self, open: &mut OpenStream, bytes: &[u8]) -> Result<(), Error> {
        let gathered = open.window.len() + bytes.len();
        if gathered < WINDOW_BYTES || (!open.has_cut && gathered <= self.whole_below(open)) {
            open.window.extend_from_slice(bytes);
            return Ok(());
        }
        let carried = open.window.len();
        let mut window = std::mem::take(&mut open.window);
        let mut rest = bytes;
        if carried > 0 {
            // As far as a chunk can reach that begins before these bytes.
            let reach = self.cutter(open.kind).max().min(bytes.len());
            window.extend_from_slice(bytes.get(..reach).unwrap_or_default());
            let done = self.cut(open, &window, Cuts::BeginBefore(carried))?;
            let Some(taken) = done.checked_sub(carried) else {
                assert_eq!(reach, bytes.len(), "only too few bytes do not end the chunk that begins before them");
                window.drain(..done);
                open.window = window;
                return Ok(());
            };
            rest = bytes.get(taken..).unwrap_or_default();
        }
        let done = self.cut(open, rest, Cuts::Whole)?;
        window.clear();
        window.extend_from_slice(rest.get(done..).unwrap_or_default());
        open.window = window;
        Ok(())
    }

    /// Cuts what is left at the end of a stream.
    fn cut_last(&mut self, open: &mut OpenStream) -> Result<(), Error> {
        let window = std::mem::take(&mut open.window);
        if open.has_cut || window.len() > self.whole_below(open) {
            let done = self.cut(open, &window, Cuts::All)?;
            assert_eq!(done, window.len(), "the last cut takes everything");
        } else if !window.is_empty() {
            let records = std::mem::take(&mut open.records);
            self.chunk(open, NextChunk { bytes: &window, records: &records, id: None })?;
        }
        Ok(())
    }

    /// Returns the bytes up to which a stream is one chunk.
    fn whole_below(&self, open: &OpenStream) -> usize {
        self.config.sizes(open.kind).whole_below as usize
    }

    /// Cuts chunks off the front of `bytes`, which lie where the stream was cut last, and returns how many bytes they take.
    fn cut(&mut self, open: &mut OpenStream, bytes: &[u8], cuts: Cuts) -> Result<usize, Error> {
        let cutter = self.cutter(open.kind);
        let ends = std::mem::take(&mut open.records);
        let mut rest = bytes;
        let (mut record, mut block) = (0, 0);
        while cuts.goes_on(bytes.len() - rest.len()) {
            record += ends.get(record..).unwrap_or_default().partition_point(|end| *end <= open.front);
            block += open.blocks.get(block..).unwrap_or_default().partition_point(|end| *end <= open.front);
            let records = ends.get(record..).unwrap_or_default();
            let near = Ends { front: open.front, records, block: open.blocks.get(block).copied() };
            let guess = self.chunk_ahead(open, rest, near);
            let len = match guess {
                Some(Guess { len, is_known: true, .. }) => len,
                _ => match cutter.cut(rest, near, cuts == Cuts::All) {
                    Some(len) => len,
                    None => break,
                },
            };
            let (bytes, tail) = rest.split_at(len);
            let id = guess.filter(|guess| guess.len == len).map(|guess| guess.id);
            self.chunk(open, NextChunk { bytes, records, id })?;
            rest = tail;
        }
        open.records = ends;
        open.records.drain(..record);
        open.blocks.drain(..block);
        Ok(bytes.len() - rest.len())
    }

    /// Looks whether `rest` begins with the chunk that followed yesterday. What is there need not be cut: the same
    /// bytes with the same ends of records are cut where they were.
    fn chunk_ahead(&self, open: &OpenStream, rest: &[u8], near: Ends<'_>) -> Option<Guess> {
        let (expected, len) = open.compared.as_ref()?.matcher.cut_ahead()?;
        let bytes = rest.get(..len).filter(|bytes| !bytes.is_empty())?;
        let end = near.front + len as u64;
        let may_end = near.records.is_empty() || near.records.binary_search(&end).is_ok();
        if !may_end || near.block.is_some_and(|block| block < end) {
            return None;
        }
        let id = self.lane(open.pack_kind()).ids.id(bytes);
        Some(Guess { id, len, is_known: id == expected })
    }

    /// Takes one chunk of a stream.
    fn chunk(&mut self, open: &mut OpenStream, chunk: NextChunk<'_>) -> Result<(), Error> {
        let bytes = chunk.bytes;
        if let Some(mut compared) = open.compared.take() {
            let done = self.compare(open, &mut compared, chunk);
            open.compared = Some(compared);
            done?;
        } else {
            let (extent, is_new) = self.store(open.pack_kind(), open.account, bytes)?;
            open.report.count(&extent, is_new);
            self.refer(open, extent)?;
        }
        open.front += bytes.len() as u64;
        open.has_cut = true;
        Ok(())
    }

    /// Stores a chunk unless it is known. Returns whether it was not.
    fn store(&mut self, kind: PackKind, account: Account, bytes: &[u8]) -> Result<(Extent, bool), Error> {
        let id = self.lane(kind).ids.id(bytes);
        self.store_as(kind, account, id, bytes)
    }

    fn store_as(
        &mut self,
        kind: PackKind,
        account: Account,
        id: ChunkId,
        bytes: &[u8],
    ) -> Result<(Extent, bool), Error> {
        // A page or root that could not be read back must not be written.
        limits::check("chunk", bytes.len() as u64, limits::CHUNK_BYTES_MAX)?;
        let len = u32::try_from(bytes.len()).expect("chunks are at most 8 MiB");
        let is_new = !self.is_known(&id)?;
        if is_new {
            self.stats.new_chunks += 1;
            self.stats.new_bytes += u64::from(len);
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            let lane = match kind {
                PackKind::Content => &mut self.content,
                PackKind::Meta => &mut self.meta,
            };
            lane.add(account, ChunkRecord { id, len }, bytes, &self.jobs)?;
        } else {
            self.stats.known_chunks += 1;
            if kind == PackKind::Meta {
                self.referred.insert(id);
            }
        }
        Ok((Extent::whole(id, len), is_new))
    }

    fn is_known(&self, id: &ChunkId) -> Result<bool, Error> {
        self.known().has(id, |_| true)
    }

    fn known(&self) -> Known<'_> {
        Known { index: &self.index, pending: &self.pending }
    }

    const fn lane(&self, kind: PackKind) -> &Lane {
        match kind {
            PackKind::Content => &self.content,
            PackKind::Meta => &self.meta,
        }
    }

    fn end(&mut self, mut open: OpenStream, hash: ContentHash, extents_most: usize) -> Result<StreamWritten, Error> {
        let mut compared = open.compared.take();
        if let Some(compared) = &mut compared {
            self.settle(&mut open, compared)?;
        }
        let content = if let Some(extents) = open.recipe.few(extents_most).filter(|_| extents_most > 0) {
            WrittenContent::Extents(extents.to_vec())
        } else {
            if let Some(full) = open.recipe.last_page()? {
                self.store_page(&mut open, compared.as_mut(), &full)?;
            }
            let root = std::mem::take(&mut open.recipe).finish(hash);
            assert_eq!(root.stream_len(), open.front, "a recipe stands for every byte of its stream");
            let root = root.encode();
            let (extent, is_new) = self.store(PackKind::Meta, open.account, &root)?;
            open.report.recipe += if is_new { root.len() as u64 } else { 0 };
            WrittenContent::Recipe(extent.chunk)
        };
        if let Some(compared) = compared {
            self.grown.extend(compared.end(&self.pieces));
        }
        Ok(StreamWritten { len: open.front, hash, content, report: open.report, account: open.account })
    }
}

/// What the repository has, and what this run is storing.
struct Known<'a> {
    index: &'a Index,
    pending: &'a Pending,
}

impl Known<'_> {
    fn has(&self, id: &ChunkId, fits: impl FnOnce(&Place) -> bool) -> Result<bool, Error> {
        // Pending first: the packer adds to the index before it takes from the pending ones.
        let is_pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
        Ok(is_pending || self.index.find(id)?.is_some_and(|place| fits(&place)))
    }
}

impl Lane {
    fn add(&mut self, account: Account, record: ChunkRecord, bytes: &[u8], jobs: &PackJobs) -> Result<(), Error> {
        let target = jobs.segment_bytes();
        let is_full = self.segment.len() + bytes.len() > target || self.chunks.len() >= SEGMENT_CHUNKS_TARGET;
        if is_full {
            self.flush(jobs)?;
        }
        if self.segment.capacity() == 0 {
            self.segment = jobs.buffer(target.max(bytes.len()));
        }
        self.segment.extend_from_slice(bytes);
        match self.shares.last_mut() {
            Some((last, share)) if *last == account => *share += record.len,
            _ => self.shares.push((account, record.len)),
        }
        self.chunks.push(record);
        Ok(())
    }

    fn flush(&mut self, jobs: &PackJobs) -> Result<(), Error> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let plain = std::mem::take(&mut self.segment);
        let (chunks, shares) = (std::mem::take(&mut self.chunks), std::mem::take(&mut self.shares));
        jobs.submit(PackJob { kind: self.kind, plain, chunks, shares })
    }
}

/// Tables are structure, which the writer reads; everything else is content.
const fn pack_kind(kind: StreamKind) -> PackKind {
    match kind {
        StreamKind::Table => PackKind::Meta,
        StreamKind::Dump | StreamKind::Rdb | StreamKind::Object => PackKind::Content,
    }
}

impl OpenStream {
    fn new(kind: StreamKind, account: Account, compared: Option<Compared>) -> Self {
        Self {
            kind,
            account,
            window: Vec::new(),
            front: 0,
            records: Vec::new(),
            blocks: Vec::new(),
            recipe: RecipeWriter::default(),
            has_cut: false,
            compared,
            report: StreamReport::default(),
        }
    }

    const fn pack_kind(&self) -> PackKind {
        pack_kind(self.kind)
    }

    /// Notes where records and blocks end in the bytes that come next.
    fn mark(&mut self, marks: &Marks) {
        let base = self.front + self.window.len() as u64;
        self.records.extend(marks.records.iter().map(|at| base + u64::from(*at)));
        self.blocks.extend(marks.blocks.iter().map(|at| base + u64::from(*at)));
    }
}

/// Hashes every stream as it passes, in a thread of its own.
fn hash_streams(work: &mpsc::Receiver<(StreamNumber, HashWork)>) {
    let mut hashers: HashMap<StreamNumber, StreamHasher> = HashMap::new();
    while let Ok((stream, next)) = work.recv() {
        match next {
            HashWork::Bytes(bytes) => hashers.entry(stream).or_default().update(&bytes),
            HashWork::Finish(reply) => {
                // An asker that went away is going down with an error of its own.
                let _ = reply.send(hashers.remove(&stream).unwrap_or_default().finish());
            }
            HashWork::Drop => drop(hashers.remove(&stream)),
        }
    }
}
