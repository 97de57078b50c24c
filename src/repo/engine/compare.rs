//! A stream that is compared with yesterday's, piece by piece: what is there is referred to, what is new is
//! gathered into literal chunks (design, section 4).

use super::super::Error;
use super::super::pieces::{
    Base, Cut, Growing, Grown, Home, Homes, InSegment, Matched, Matcher, Piece, PieceStore, PieceWriter, Span,
    StreamPieces, Stretch,
};
use super::{Engine, Known, NextChunk, OpenStream};
use crate::format::id::ChunkId;
use crate::format::limits;
use crate::format::pack::PackKind;
use crate::format::recipe::Extent;

/// Pieces that wait for the literal chunk that some of them lie in: 32 MiB of a stream, 3 MiB of memory.
const PIECES_WAITING_MOST: usize = 64 * 1024;
/// Bytes of a literal chunk: what a chunk can have, whatever chunk sizes a repository was made with.
const LITERAL_BYTES_MOST: usize = 8 * 1024 * 1024;
const _: () = assert!(LITERAL_BYTES_MOST as u64 == limits::CHUNK_BYTES_MAX);

/// See the head of this file.
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) matcher: Matcher,
    growing: Option<Growing>,
    /// Cuts whose places are not all known yet, with where they were yesterday.
    waiting: Vec<(OpenCut, Option<u64>)>,
    pieces_waiting: usize,
    /// New pieces on their way into one chunk.
    literal: Vec<u8>,
    /// Whether some of them lie in a segment that is given up.
    has_given_up: bool,
}

/// A cut whose new pieces have a place in the literal chunk, which has no name yet.
struct OpenCut {
    id: ChunkId,
    spans: Vec<OpenSpan>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy)]
struct OpenSpan {
    /// `None` for the literal chunk.
    base: Option<Base>,
    offset: u32,
    len: u32,
    pieces: u32,
    is_new: bool,
    segment: Option<InSegment>,
}

/// Chunks of one kind of pack that can be referred to.
struct Live<'a> {
    known: Known<'a>,
    kind: PackKind,
}

impl Homes for Live<'_> {
    fn home(&self, base: &Base) -> Result<Option<Home>, Error> {
        let mut home = Home::New;
        let is_known = self.known.has(&base.chunk, |place| {
            let record = &place.segment.record;
            let len = u32::try_from(record.plain_len()).unwrap_or(u32::MAX);
            home = Home::In(InSegment { first: record.chunks.first().map_or(base.chunk, |chunk| chunk.id), len });
            place.len == base.chunk_len && place.segment.kind == self.kind
        })?;
        Ok(is_known.then_some(home))
    }
}

impl Compared {
    pub(super) fn new(name: String, pieces: StreamPieces) -> Self {
        let StreamPieces { matcher, growing } = pieces;
        Self {
            name,
            matcher,
            growing,
            waiting: Vec::new(),
            pieces_waiting: 0,
            literal: Vec::new(),
            has_given_up: false,
        }
    }

    /// Returns what was written for tomorrow.
    pub(super) fn end(mut self, store: &PieceStore) -> Option<Grown> {
        if let Some(failure) = self.matcher.take_failure() {
            store.warn(format!("the piece cache of {} is not used to its end: {failure}", self.name));
        }
        let grown = self.growing?.end();
        grown.map_err(|error| store.warn(format!("the piece cache of {} is not kept: {error}", self.name))).ok()
    }

    /// Writes something down for tomorrow.
    pub(super) fn grow(&mut self, store: &PieceStore, write: impl FnOnce(&mut PieceWriter) -> std::io::Result<()>) {
        if let Some(growing) = &mut self.growing
            && let Err(error) = growing.write(write)
        {
            store.warn(format!("the piece cache of {} is not kept: {error}", self.name));
            self.growing = None;
        }
    }

    fn wait(&mut self, cut: OpenCut, from: Option<u64>) {
        self.pieces_waiting += cut.pieces.len();
        self.waiting.push((cut, from));
    }
}

impl Engine {
    /// Takes one chunk of a stream that has a name.
    pub(super) fn compare(
        &mut self,
        open: &mut OpenStream,
        compared: &mut Compared,
        chunk: NextChunk<'_>,
    ) -> Result<(), Error> {
        let NextChunk { bytes, records, id } = chunk;
        let id = id.unwrap_or_else(|| self.lane(open.pack_kind()).ids.id(bytes));
        let live = Live { known: self.known(), kind: open.pack_kind() };
        if let Some(found) = compared.matcher.cut(&id, bytes.len(), &live)? {
            self.stats.known_chunks += 1;
            let known = |(span, segment): (&Span, &Option<InSegment>)| OpenSpan {
                base: Some(span.base),
                offset: span.offset,
                len: span.len,
                pieces: span.pieces,
                is_new: false,
                segment: *segment,
            };
            let spans = found.cut.spans.iter().zip(&found.segments).map(known).collect();
            compared.wait(OpenCut { id, spans, pieces: found.cut.pieces }, Some(found.from));
        } else {
            if compared.literal.len() + bytes.len() > LITERAL_BYTES_MOST {
                self.settle(open, compared)?;
            }
            let front = open.front;
            let ends = records.iter().map(|end| usize::try_from(end - front).unwrap_or(usize::MAX));
            let pieces = compared.matcher.pieces(bytes, ends);
            self.find_pieces(open, compared, id, bytes, pieces)?;
        }
        let is_full = compared.literal.len() >= self.config.sizes(open.kind).average as usize
            && !self.would_stay(open, compared)?;
        if compared.literal.is_empty() || is_full || compared.pieces_waiting >= PIECES_WAITING_MOST {
            self.settle(open, compared)?;
        }
        Ok(())
    }

    fn find_pieces(
        &mut self,
        open: &OpenStream,
        compared: &mut Compared,
        id: ChunkId,
        bytes: &[u8],
        pieces: Vec<Piece>,
    ) -> Result<(), Error> {
        let live = Live { known: self.known(), kind: open.pack_kind() };
        let chunk_len = u32::try_from(bytes.len()).expect("chunks are at most 8 MiB");
        let home = live.home(&Base { chunk: id, chunk_len })?;
        // A chunk of a segment that is given up is stored with what is new: under its own name it would stay there.
        let is_given_up =
            home.is_some_and(|home| compared.matcher.is_given_up(home) || compared.matcher.was_given_up(&id));
        let is_known = home.is_some() && !is_given_up;
        let matched = if is_known {
            compared.matcher.seek(&pieces);
            Matched::default()
        } else {
            compared.matcher.find(&pieces, &live)?
        };
        let from = matched.from;
        let is_worth_it = matched.is_worth_it();
        let pieces_count = u32::try_from(pieces.len()).expect("a chunk has fewer pieces than bytes");
        let spans = if is_known || !(is_worth_it || is_given_up) {
            let (extent, is_new) = self.store_as(open.pack_kind(), open.account, id, bytes)?;
            let base = Some(Base { chunk: id, chunk_len: extent.len });
            let segment = home.and_then(Home::segment);
            vec![OpenSpan { base, offset: 0, len: extent.len, pieces: pieces_count, is_new, segment }]
        } else {
            let stretches = if is_worth_it {
                matched.stretches
            } else {
                vec![Stretch { place: None, len: chunk_len, pieces: pieces_count, segment: None }]
            };
            compared.has_given_up |= is_given_up;
            let mut rest = bytes;
            let mut spans = Vec::with_capacity(stretches.len());
            for Stretch { place, len, pieces, segment } in stretches {
                let (its_bytes, tail) = rest.split_at_checked(len as usize).unwrap_or((rest, &[]));
                rest = tail;
                let (base, offset) = if let Some((base, offset)) = place {
                    (Some(base), offset)
                } else {
                    let offset = u32::try_from(compared.literal.len()).expect("a literal chunk is at most 8 MiB");
                    compared.literal.extend_from_slice(its_bytes);
                    (None, offset)
                };
                spans.push(OpenSpan { base, offset, len, pieces, is_new: base.is_none(), segment });
            }
            spans
        };
        compared.wait(OpenCut { id, spans, pieces }, from);
        Ok(())
    }

    /// Returns whether the literal chunk, as it is, is one that lies in a segment that is given up: with a little more it is
    /// another one, and is stored.
    fn would_stay(&self, open: &OpenStream, compared: &Compared) -> Result<bool, Error> {
        if !compared.has_given_up {
            return Ok(false);
        }
        let chunk = self.lane(open.pack_kind()).ids.id(&compared.literal);
        let chunk_len = u32::try_from(compared.literal.len()).expect("a literal chunk is at most 8 MiB");
        let live = Live { known: self.known(), kind: open.pack_kind() };
        Ok(live.home(&Base { chunk, chunk_len })?.is_some_and(|home| compared.matcher.is_given_up(home)))
    }

    /// Stores the literal chunk and passes on what waited for it.
    pub(super) fn settle(&mut self, open: &mut OpenStream, compared: &mut Compared) -> Result<(), Error> {
        let mut literal = None;
        if !compared.literal.is_empty() {
            if compared.literal.len() < LITERAL_BYTES_MOST && self.would_stay(open, compared)? {
                // Nothing more comes that would make it another chunk: a byte that no extent refers to does.
                compared.literal.push(0);
            }
            let bytes = std::mem::take(&mut compared.literal);
            let (extent, is_new) = self.store(open.pack_kind(), open.account, &bytes)?;
            let base = Base { chunk: extent.chunk, chunk_len: extent.chunk_len };
            let live = Live { known: self.known(), kind: open.pack_kind() };
            let home = if is_new { None } else { live.home(&base)? };
            literal = Some((base, is_new, home.and_then(Home::segment)));
        }
        compared.has_given_up = false;
        compared.pieces_waiting = 0;
        for (waiting, from) in std::mem::take(&mut compared.waiting) {
            if let Some(page) = from.and_then(|from| compared.matcher.page_at(from))
                && let Some(full) = open.recipe.comes_from(page)?
            {
                self.store_page(open, Some(compared), &full)?;
            }
            let mut spans = Vec::with_capacity(waiting.spans.len());
            let mut segments = Vec::with_capacity(waiting.spans.len());
            for span in waiting.spans {
                let own = span.base.map(|base| (base, span.is_new, span.segment));
                let (base, is_new, segment) =
                    own.or(literal).expect("a span without a base is made together with literal bytes");
                let OpenSpan { offset, len, pieces, .. } = span;
                spans.push(Span { base, offset, len, pieces });
                segments.push(segment);
                let extent = Extent { chunk: base.chunk, chunk_len: base.chunk_len, offset, len };
                if !is_new && open.pack_kind() == PackKind::Meta {
                    self.referred.insert(extent.chunk);
                }
                open.report.count(&extent, is_new);
                if let Some(full) = open.recipe.push(extent)? {
                    self.store_page(open, Some(compared), &full)?;
                }
            }
            let cut = Cut { id: waiting.id, spans, pieces: waiting.pieces };
            compared.grow(&self.pieces, |writer| writer.push(&cut, &segments));
        }
        Ok(())
    }
}
