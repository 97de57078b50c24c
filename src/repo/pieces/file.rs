//! A piece file: sealed blocks in the order of the stream, then a sealed trailer that says where they are.
//!
//! ```text
//! "ORKVPIEC" 8 | version u16 | salt 16 | sealed block ... | sealed trailer | length of the sealed trailer u64
//! ```
//! Written once, under another name, and renamed when the snapshot that it describes is committed.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use super::block::{BLOCK_PIECES, Block, take_len};
use super::{Cut, InSegment};
use crate::crypto::piece::{PieceFileId, PieceFileName, PieceSealer};
use crate::format::cursor::{Cursor, push_varint};
use crate::format::id::{ChunkId, RepositoryId};
use crate::format::{Error, limits};

const MAGIC: [u8; 8] = *b"ORKVPIEC";
/// Changes whenever the layout, the fingerprint or the cutting of pieces does: another version is dropped.
const VERSION: u16 = 2;
const HEAD_LEN: usize = 26;
/// The number under which the trailer is sealed.
const TRAILER: u64 = u64::MAX;
/// Bytes of a sealed block or trailer that are read at most.
const PART_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Pieces by which a stream that jumped finds its place again: a sample, the sparser the longer the stream.
const ANCHORS_MOST: usize = 256 * 1024;
/// One piece in 2^5 is an anchor, until there are too many.
const ANCHOR_BITS_LEAST: u32 = 5;
/// Segments whose use is counted at the same time, those met first given up first: 64 GiB in 6 MiB of memory. A longer stream that comes
/// back to a segment counts it again.
const COUNTED_MOST: usize = 64 * 1024;
/// Segments of little use that are remembered: more are given up by a later night.
const POOR_MOST: usize = 64 * 1024;

/// A page of a stream's recipe, as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::repo) struct KnownPage {
    /// The chunk that holds it.
    pub(in crate::repo) chunk: ChunkId,
    /// Edits between it and a whole page.
    pub(in crate::repo) depth: u8,
    /// What expanding it takes beside its parents: its extents, and where it is an edit, steps and chunks.
    pub(in crate::repo) weight: u32,
    /// Where it is an edit: the chunks that hold its parents, their parents, and so on, each once, and their weights.
    pub(in crate::repo) made_of: Vec<(ChunkId, u32)>,
    /// What its chunk would be called if it were whole: what it says.
    pub(in crate::repo) whole: ChunkId,
    /// Bytes of the stream.
    pub(in crate::repo) stream_len: u64,
}

impl KnownPage {
    /// Returns the chunks that reading it takes, and their weights: those that it is made of, then its own.
    pub(in crate::repo) fn chunks(&self) -> impl Iterator<Item = (ChunkId, u32)> {
        self.made_of.iter().copied().chain([(self.chunk, self.weight)])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BlockPlace {
    offset: u64,
    sealed_len: u64,
    stream_len: u64,
}

/// What is known of a stream as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) stream_len: u64,
    /// Bytes of the segments that the stream refers to, and of what this run stored.
    pub(super) decoded: u64,
    pub(super) pages: Vec<KnownPage>,
    blocks: Vec<BlockPlace>,
    anchor_bits: u32,
    /// Upper half of the fingerprint, and the block; sorted.
    anchors: Vec<(u64, u32)>,
    /// Segments of which the stream uses less than half, and how many bytes it uses.
    pub(super) poor: Vec<(InSegment, u32)>,
}

impl Trailer {
    fn new() -> Self {
        Self {
            stream_len: 0,
            decoded: 0,
            pages: Vec::new(),
            blocks: Vec::new(),
            anchor_bits: ANCHOR_BITS_LEAST,
            anchors: Vec::new(),
            poor: Vec::new(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [self.stream_len, self.decoded, self.pages.len() as u64] {
            push_varint(&mut out, number);
        }
        for page in &self.pages {
            out.extend_from_slice(page.chunk.as_bytes());
            out.push(page.depth);
            push_varint(&mut out, page.made_of.len() as u64);
            for (older, weight) in page.made_of.iter().chain([&(page.whole, page.weight)]) {
                out.extend_from_slice(older.as_bytes());
                push_varint(&mut out, u64::from(*weight));
            }
            push_varint(&mut out, page.stream_len);
        }
        push_varint(&mut out, self.blocks.len() as u64);
        for block in &self.blocks {
            push_varint(&mut out, block.sealed_len);
            push_varint(&mut out, block.stream_len);
        }
        push_varint(&mut out, u64::from(self.anchor_bits));
        push_varint(&mut out, self.anchors.len() as u64);
        for (fingerprint, block) in &self.anchors {
            out.extend_from_slice(&fingerprint.to_le_bytes());
            out.extend_from_slice(&block.to_le_bytes());
        }
        push_varint(&mut out, self.poor.len() as u64);
        for (segment, live) in &self.poor {
            out.extend_from_slice(segment.first.as_bytes());
            push_varint(&mut out, u64::from(segment.len));
            push_varint(&mut out, u64::from(*live));
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let what = "trailer of a piece file";
        let mut cursor = Cursor::new(what, bytes);
        let mut trailer = Self::new();
        trailer.stream_len = cursor.varint()?;
        trailer.decoded = cursor.varint()?;
        for _ in 0..cursor.count(what, limits::RECIPE_PAGES_MAX)? {
            let chunk = ChunkId::take(&mut cursor)?;
            let depth = cursor.u8()?;
            let count = cursor.count(what, limits::EXPANSION_PAGES_MAX)?;
            let weighed = |cursor: &mut Cursor<'_>| {
                let chunk = ChunkId::take(cursor)?;
                Ok((chunk, narrow(limits::check(what, cursor.varint()?, limits::EXPANSION_EXTENTS_MAX)?)))
            };
            let made_of = (0..count).map(|_| weighed(&mut cursor)).collect::<Result<_, Error>>()?;
            let (whole, weight) = weighed(&mut cursor)?;
            trailer.pages.push(KnownPage { chunk, depth, weight, made_of, whole, stream_len: cursor.varint()? });
        }
        let mut offset = HEAD_LEN as u64;
        for _ in 0..cursor.count(what, u64::from(u32::MAX))? {
            let sealed_len = limits::check(what, cursor.varint()?, PART_BYTES_MAX)?;
            trailer.blocks.push(BlockPlace { offset, sealed_len, stream_len: cursor.varint()? });
            offset = offset.saturating_add(sealed_len);
        }
        let bits = limits::check(what, cursor.varint()?, 63)?;
        trailer.anchor_bits = u32::try_from(bits).map_err(|_| Error::Invalid { what, found: bits })?;
        for _ in 0..cursor.count(what, ANCHORS_MOST as u64)? {
            trailer.anchors.push((cursor.u64()?, cursor.u32()?));
        }
        for _ in 0..cursor.count(what, POOR_MOST as u64)? {
            let first = ChunkId::take(&mut cursor)?;
            let segment = InSegment { first, len: take_len(&mut cursor)? };
            trailer.poor.push((segment, take_len(&mut cursor)?));
        }
        cursor.end()?;
        Ok(trailer)
    }
}

fn narrow(weight: u64) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}

/// Returns what a piece is called among the anchors, `None` where it is not one of the sample.
fn anchor_of(fingerprint: u128, bits: u32) -> Option<u64> {
    let upper = u64::try_from(fingerprint >> 64).ok()?;
    (upper.trailing_zeros() >= bits).then_some(upper)
}

fn other(source: impl std::error::Error + Send + Sync + 'static) -> std::io::Error {
    std::io::Error::other(source)
}

/// Yesterday's file.
pub(super) struct PieceFile {
    file: File,
    sealer: PieceSealer,
    id: PieceFileId,
    pub(super) trailer: Trailer,
    /// Where each block starts in the stream.
    starts: Vec<u64>,
}

impl PieceFile {
    /// Opens a file that must be that of `stream` in `repository`.
    pub(super) fn open(
        file: File,
        sealer: PieceSealer,
        repository: RepositoryId,
        stream: PieceFileName,
    ) -> std::io::Result<Self> {
        let mut head = [0; HEAD_LEN];
        file.read_exact_at(&mut head, 0)?;
        let mut cursor = Cursor::new("head of a piece file", &head);
        let (magic, version) = (cursor.array::<8>().map_err(other)?, cursor.u16().map_err(other)?);
        if magic != MAGIC || version != VERSION {
            return Err(std::io::Error::other("it is of another version"));
        }
        let id = PieceFileId { repository, stream, salt: cursor.array().map_err(other)? };
        let file_len = file.metadata()?.len();
        let mut len = [0; 8];
        let end = file_len.checked_sub(8).ok_or_else(|| std::io::Error::other("it was cut short"))?;
        file.read_exact_at(&mut len, end)?;
        let len = u64::from_le_bytes(len);
        let start = end.checked_sub(len).ok_or_else(|| std::io::Error::other("it was cut short"))?;
        let trailer = Trailer::decode(&read_part(&file, &sealer, &id, TRAILER, start, len)?).map_err(other)?;
        let mut starts = Vec::with_capacity(trailer.blocks.len());
        let mut at = 0_u64;
        for block in &trailer.blocks {
            starts.push(at);
            at = at.saturating_add(block.stream_len);
        }
        Ok(Self { file, sealer, id, trailer, starts })
    }

    /// Returns where a block starts in the stream.
    pub(super) fn start_of(&self, block: u32) -> u64 {
        self.starts.get(block as usize).copied().unwrap_or(0)
    }

    pub(super) fn blocks(&self) -> usize {
        self.trailer.blocks.len()
    }

    /// Reads a block.
    pub(super) fn block(&self, number: u32) -> std::io::Result<Block> {
        let place = self.trailer.blocks.get(number as usize).ok_or_else(|| std::io::Error::other("no such block"))?;
        let plain = read_part(&self.file, &self.sealer, &self.id, u64::from(number), place.offset, place.sealed_len)?;
        Block::decode(&plain).map_err(other)
    }

    /// Returns the block in which a piece lies, if it is one of the sample.
    pub(super) fn anchor(&self, fingerprint: u128) -> Option<u32> {
        let wanted = anchor_of(fingerprint, self.trailer.anchor_bits)?;
        let anchors = &self.trailer.anchors;
        let place = anchors.partition_point(|(anchor, _)| *anchor < wanted);
        anchors.get(place).filter(|(anchor, _)| *anchor == wanted).map(|(_, block)| *block)
    }
}

fn read_part(
    file: &File,
    sealer: &PieceSealer,
    id: &PieceFileId,
    number: u64,
    offset: u64,
    len: u64,
) -> std::io::Result<Vec<u8>> {
    let len = limits::check("part of a piece file", len, PART_BYTES_MAX).map_err(other)?;
    let mut part = vec![0; usize::try_from(len).map_err(other)?];
    file.read_exact_at(&mut part, offset)?;
    sealer.open(id, number, &part).map_err(other)
}

/// Tonight's file, while it grows.
pub(in crate::repo) struct PieceWriter {
    file: std::io::BufWriter<File>,
    sealer: PieceSealer,
    id: PieceFileId,
    block: Block,
    block_len: u64,
    trailer: Trailer,
    uses: Uses,
    len: u64,
}

impl PieceWriter {
    /// Begins a file.
    pub(super) fn new(file: File, sealer: PieceSealer, id: PieceFileId) -> std::io::Result<Self> {
        let mut file = std::io::BufWriter::with_capacity(256 * 1024, file);
        file.write_all(&MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(&id.salt)?;
        Ok(Self {
            file,
            sealer,
            id,
            block: Block::default(),
            block_len: 0,
            trailer: Trailer::new(),
            uses: Uses::default(),
            len: HEAD_LEN as u64,
        })
    }

    /// Appends what lies between two cut points. Every place in it is final. `segments` are those of its spans, where
    /// they were not stored in this run.
    pub(in crate::repo) fn push(&mut self, cut: &Cut, segments: &[Option<InSegment>]) -> std::io::Result<()> {
        self.block.push(cut, self.block_len);
        let block = u32::try_from(self.trailer.blocks.len()).map_err(other)?;
        for piece in &cut.pieces {
            let anchor = anchor_of(piece.fingerprint, self.trailer.anchor_bits);
            self.trailer.anchors.extend(anchor.map(|anchor| (anchor, block)));
        }
        self.thin_anchors();
        for (span, segment) in cut.spans.iter().zip(segments) {
            self.block_len += u64::from(span.len);
            self.uses.count(*segment, span.len, &mut self.trailer);
        }
        if self.block.pieces.len() >= BLOCK_PIECES { self.flush() } else { Ok(()) }
    }

    fn thin_anchors(&mut self) {
        let Trailer { anchors, anchor_bits, .. } = &mut self.trailer;
        while anchors.len() > ANCHORS_MOST {
            // First what is there twice: a piece that is repeated must not make the sample of all others sparse.
            anchors.sort_unstable();
            anchors.dedup_by_key(|(anchor, _)| *anchor);
            if anchors.len() > ANCHORS_MOST / 2 {
                // A sparser sample is a part of a denser one.
                *anchor_bits += 1;
                let bits = *anchor_bits;
                anchors.retain(|(anchor, _)| anchor.trailing_zeros() >= bits);
            }
        }
    }

    /// Notes a page of the stream's recipe.
    pub(in crate::repo) fn page(&mut self, page: KnownPage) {
        self.trailer.pages.push(page);
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.block.cuts.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let part = self.sealer.seal(&self.id, self.trailer.blocks.len() as u64, &block.encode());
        self.file.write_all(&part)?;
        let stream_len = std::mem::take(&mut self.block_len);
        debug_assert_eq!(stream_len, block.stream_len(), "spans account for every byte");
        self.trailer.blocks.push(BlockPlace { offset: self.len, sealed_len: part.len() as u64, stream_len });
        self.trailer.stream_len += stream_len;
        self.len += part.len() as u64;
        Ok(())
    }

    /// Ends the file and returns its length. Not synced: a lost cache costs one night's savings, and a half-written one
    /// does not open.
    pub(super) fn finish(mut self) -> std::io::Result<u64> {
        self.flush()?;
        self.uses.settle(&mut self.trailer);
        self.trailer.anchors.sort_unstable();
        self.trailer.anchors.dedup_by_key(|(anchor, _)| *anchor);
        let part = self.sealer.seal(&self.id, TRAILER, &self.trailer.encode());
        self.file.write_all(&part)?;
        self.file.write_all(&(part.len() as u64).to_le_bytes())?;
        self.file.flush()?;
        Ok(self.len + part.len() as u64 + 8)
    }

    /// Returns how many bytes the file has so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// Counts how much of each segment a stream uses, for the segments met last.
#[derive(Default)]
struct Uses {
    live: HashMap<ChunkId, u64>,
    order: VecDeque<InSegment>,
}

impl Uses {
    fn count(&mut self, segment: Option<InSegment>, len: u32, trailer: &mut Trailer) {
        let Some(segment) = segment else {
            trailer.decoded += u64::from(len);
            return;
        };
        if let Some(live) = self.live.get_mut(&segment.first) {
            *live += u64::from(len);
            return;
        }
        if self.order.len() >= COUNTED_MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.end(oldest, trailer);
        }
        trailer.decoded += u64::from(segment.len);
        self.live.insert(segment.first, u64::from(len));
        self.order.push_back(segment);
    }

    fn end(&mut self, segment: InSegment, trailer: &mut Trailer) {
        let live = self.live.remove(&segment.first).unwrap_or(0);
        if live * 2 < u64::from(segment.len)
            && trailer.poor.len() < POOR_MOST
            && let Ok(live) = u32::try_from(live)
        {
            trailer.poor.push((segment, live));
        }
    }

    fn settle(&mut self, trailer: &mut Trailer) {
        while let Some(segment) = self.order.pop_front() {
            self.end(segment, trailer);
        }
    }
}
