//! Recipes: which ranges of which chunks make up a stream (`docs/FORMAT.md`, section 9).
//!
//! A recipe is a root that lists pages; each page is a chunk table and extents. Pages end where the content
//! says so, so that the unchanged part of a stream keeps its pages. Root and pages are chunks under the
//! meta key. A page of form 0 is whole, one of form 1 an edit of earlier pages.

mod edit;
mod expansion;
mod parents;
#[cfg(test)]
mod test_pages;

pub use edit::{PageEdit, StoredPage};
pub use expansion::{ExpandedPage, PageExpansion};

use foldhash::{HashMap, HashSet};

use super::cursor::{Cursor, push_varint};
use super::id::{ChunkId, ContentHash};
use super::{Error, limits};

const WHOLE_NEXT: u64 = 0;
const WHOLE_AT: u64 = 1;
const PART: u64 = 2;

const EXTENTS: &str = "extents of a recipe page";
const CHUNK: &str = "chunk of an extent";

/// A range of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The chunk.
    pub chunk: ChunkId,
    /// Plain length of the whole chunk.
    pub chunk_len: u32,
    /// Where the range starts.
    pub offset: u32,
    /// Its length, at least 1.
    pub len: u32,
}

impl Extent {
    /// Returns the extent that is a whole chunk.
    #[must_use]
    pub const fn whole(chunk: ChunkId, len: u32) -> Self {
        Self { chunk, chunk_len: len, offset: 0, len }
    }

    /// Returns whether it is the whole chunk.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.offset == 0 && self.len == self.chunk_len
    }

    /// Returns an error unless the range lies within the chunk and is not empty.
    pub fn check(&self) -> Result<(), Error> {
        limits::check("chunk", u64::from(self.chunk_len), limits::CHUNK_BYTES_MAX)?;
        let end = u64::from(self.offset) + u64::from(self.len);
        limits::check("end of an extent", end, u64::from(self.chunk_len))?;
        if self.len == 0 { Err(Error::Invalid { what: "extent length", found: 0 }) } else { Ok(()) }
    }

    /// Returns whether `next` continues this extent in the same chunk: one extent then says both.
    #[must_use]
    pub fn is_continued_by(&self, next: &Self) -> bool {
        self.chunk == next.chunk && !self.is_whole() && !next.is_whole() && self.offset + self.len == next.offset
    }
}

/// Chunks and their lengths.
type ChunkTable = Vec<(ChunkId, u32)>;

/// An extent of a page, as it is held: its chunk is said by its place in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PageExtent {
    /// The chunk's place.
    index: u32,
    offset: u32,
    len: u32,
}

impl PageExtent {
    /// Returns whether it is the whole of a chunk of that length.
    const fn is_whole(&self, chunk_len: u32) -> bool {
        self.offset == 0 && self.len == chunk_len
    }
}

/// One page of a recipe: consecutive extents of the stream. There is no page that [`RecipePage::decode`] would refuse,
/// and no two that stand for the same extents and differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipePage {
    /// In order of first use, each once.
    chunks: ChunkTable,
    /// In the order of the stream. Neighbours that continue each other are one extent.
    extents: Vec<PageExtent>,
}

impl RecipePage {
    /// Returns the page of these extents. Fails where they are none, too many, of too many chunks, of a chunk with two
    /// lengths, beyond their chunks, or not merged.
    pub fn new(extents: impl IntoIterator<Item = Extent>) -> Result<Self, Error> {
        let mut page = Self { chunks: Vec::new(), extents: Vec::new() };
        let mut places: HashMap<ChunkId, u32> = HashMap::default();
        // Parts of a chunk mostly come in turn with those of one other, which hold what changed: these need no look-up.
        let mut last: Option<(ChunkId, u32)> = None;
        let mut other = None;
        for Extent { chunk, chunk_len, offset, len } in extents {
            limits::check(EXTENTS, page.extents.len() as u64 + 1, limits::PAGE_EXTENTS_MAX)?;
            if last.is_none_or(|(last, _)| last != chunk) {
                std::mem::swap(&mut last, &mut other);
            }
            let index = match last {
                Some((last, index)) if last == chunk => index,
                _ => match places.get(&chunk) {
                    Some(index) => *index,
                    None => {
                        let index = page.add_chunk(chunk, chunk_len)?;
                        places.insert(chunk, index);
                        index
                    }
                },
            };
            last = Some((chunk, index));
            let extent = PageExtent { index, offset, len };
            if page.chunk_of(&extent).1 != chunk_len {
                return Err(Error::NotCanonical { what: EXTENTS });
            }
            page.extents.push(extent);
        }
        page.finish()
    }

    /// Returns how many extents there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "no page is empty")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.extents.len()
    }

    /// Returns the extents, in the order of the stream. Neighbours that continue each other are one extent.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = Extent> {
        self.extents.iter().map(|extent| self.with_chunk(extent))
    }

    /// Returns the extent at `place`, counted from 0; `None` behind the last.
    #[must_use]
    pub fn extent(&self, place: usize) -> Option<Extent> {
        self.extents.get(place).map(|extent| self.with_chunk(extent))
    }

    /// Returns how many bytes of the stream the page stands for.
    #[must_use]
    pub fn stream_len(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }

    /// Returns how many bytes of memory the page takes.
    #[must_use]
    pub const fn held_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<(ChunkId, u32)>() + self.extents.capacity() * size_of::<PageExtent>()
    }

    /// Returns the page's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        push_chunks(&mut out, &self.chunks);
        self.encode_extents(&mut out);
        out
    }

    /// Reads a page. Accepts only what [`RecipePage::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let what = "recipe page";
        let mut cursor = Cursor::new(what, bytes);
        let form = cursor.u8()?;
        if form != 0 {
            return Err(Error::Invalid { what: "recipe form", found: u64::from(form) });
        }
        let chunks = take_chunks(&mut cursor)?;
        let extents = decode_extents(&mut cursor, &chunks)?;
        cursor.end()?;
        let page = Self { chunks, extents }.finish()?;
        if !page.is_table_in_order() || each_once(&page.chunks).is_none() {
            return Err(Error::NotCanonical { what });
        }
        // Runs that could be longer, a start that needs no saying, a whole chunk as a range: all encode otherwise.
        if page.encode() == bytes { Ok(page) } else { Err(Error::NotCanonical { what }) }
    }

    /// Returns the place of a chunk that was not used before.
    fn add_chunk(&mut self, chunk: ChunkId, chunk_len: u32) -> Result<u32, Error> {
        let what = "chunks of a recipe page";
        let found = self.chunks.len() as u64;
        limits::check(what, found + 1, limits::PAGE_CHUNKS_MAX)?;
        self.chunks.push((chunk, chunk_len));
        u32::try_from(found).map_err(|_| Error::TooLarge { what, found, max: limits::PAGE_CHUNKS_MAX })
    }

    fn chunk_of(&self, extent: &PageExtent) -> (ChunkId, u32) {
        let entry = self.chunks.get(extent.index as usize);
        *entry.expect("an extent is only added with a place that the table has")
    }

    fn with_chunk(&self, extent: &PageExtent) -> Extent {
        let (chunk, chunk_len) = self.chunk_of(extent);
        Extent { chunk, chunk_len, offset: extent.offset, len: extent.len }
    }

    /// Returns the page, without memory that it does not use. Fails where the extents are none, too many, beyond their
    /// chunks, or not merged.
    fn finish(mut self) -> Result<Self, Error> {
        let count = limits::check(EXTENTS, self.extents.len() as u64, limits::PAGE_EXTENTS_MAX)?;
        if count == 0 {
            return Err(Error::Invalid { what: EXTENTS, found: 0 });
        }
        // Where the extent before ends, if it is a part.
        let mut last: Option<(u32, u32)> = None;
        for extent in &self.extents {
            let checked = self.with_chunk(extent);
            checked.check()?;
            let is_part = !checked.is_whole();
            if is_part && last == Some((extent.index, extent.offset)) {
                return Err(Error::NotCanonical { what: EXTENTS });
            }
            last = is_part.then(|| (extent.index, extent.offset + extent.len));
        }
        self.chunks.shrink_to_fit();
        self.extents.shrink_to_fit();
        Ok(self)
    }

    /// Returns whether the extents use the whole table, and each of its chunks for the first time behind those that
    /// stand before it.
    fn is_table_in_order(&self) -> bool {
        let mut used = 0;
        for extent in &self.extents {
            if extent.index > used {
                return false;
            }
            used += u32::from(extent.index == used);
        }
        used as usize == self.chunks.len()
    }

    /// Appends the extents: runs of whole consecutive table entries take two bytes, parts four to eight.
    fn encode_extents(&self, out: &mut Vec<u8>) {
        let mut ops = Vec::new();
        let mut count = 0_u64;
        let mut next = 0;
        let mut run: Option<(u64, u64)> = None;
        let flush = |run: &mut Option<(u64, u64)>, next: &mut u64, ops: &mut Vec<u8>, count: &mut u64| {
            if let Some((start, len)) = run.take() {
                let kind = if start == *next { WHOLE_NEXT } else { WHOLE_AT };
                push_varint(ops, (len << 2) | kind);
                if kind == WHOLE_AT {
                    push_varint(ops, start);
                }
                *next = start + len;
                *count += 1;
            }
        };
        for extent in &self.extents {
            let index = u64::from(extent.index);
            if extent.is_whole(self.chunk_of(extent).1) {
                match &mut run {
                    Some((start, len)) if *start + *len == index => *len += 1,
                    _ => {
                        flush(&mut run, &mut next, &mut ops, &mut count);
                        run = Some((index, 1));
                    }
                }
            } else {
                flush(&mut run, &mut next, &mut ops, &mut count);
                push_varint(&mut ops, (index << 2) | PART);
                push_varint(&mut ops, u64::from(extent.offset));
                push_varint(&mut ops, u64::from(extent.len));
                next = index + 1;
                count += 1;
            }
        }
        flush(&mut run, &mut next, &mut ops, &mut count);
        push_varint(out, count);
        out.extend_from_slice(&ops);
    }
}

/// Returns the chunks of a table, `None` where one stands there twice.
fn each_once(table: &[(ChunkId, u32)]) -> Option<HashSet<&ChunkId>> {
    let chunks: HashSet<&ChunkId> = table.iter().map(|(chunk, _)| chunk).collect();
    (chunks.len() == table.len()).then_some(chunks)
}

fn push_chunks(out: &mut Vec<u8>, chunks: &[(ChunkId, u32)]) {
    push_varint(out, chunks.len() as u64);
    for (chunk, len) in chunks {
        out.extend_from_slice(chunk.as_bytes());
        push_varint(out, u64::from(*len));
    }
}

fn take_chunks(cursor: &mut Cursor<'_>) -> Result<ChunkTable, Error> {
    let count = cursor.count("chunks of a recipe page", limits::PAGE_CHUNKS_MAX)?;
    let mut chunks = ChunkTable::with_capacity(count);
    for _ in 0..count {
        let chunk = ChunkId::take(cursor)?;
        let found = limits::check("chunk", cursor.varint()?, limits::CHUNK_BYTES_MAX)?;
        chunks.push((chunk, u32::try_from(found).map_err(|_| Error::Invalid { what: "chunk", found })?));
    }
    Ok(chunks)
}

fn decode_extents(cursor: &mut Cursor<'_>, table: &[(ChunkId, u32)]) -> Result<Vec<PageExtent>, Error> {
    let ops = cursor.count(EXTENTS, limits::PAGE_EXTENTS_MAX)?;
    let mut extents: Vec<PageExtent> = Vec::new();
    let mut next = 0;
    for _ in 0..ops {
        let op = cursor.varint()?;
        let value = op >> 2;
        match op & 3 {
            kind @ (WHOLE_NEXT | WHOLE_AT) => {
                let start = if kind == WHOLE_NEXT { next } else { cursor.varint()? };
                limits::check(EXTENTS, value, limits::PAGE_CHUNKS_MAX)?;
                limits::check(EXTENTS, extents.len() as u64 + value, limits::PAGE_EXTENTS_MAX)?;
                next = start.saturating_add(value);
                for place in start..next {
                    let (index, chunk_len) = entry(table, place)?;
                    extents.push(PageExtent { index, offset: 0, len: chunk_len });
                }
            }
            PART => {
                let (index, _) = entry(table, value)?;
                extents.push(PageExtent { index, offset: narrow(cursor.varint()?)?, len: narrow(cursor.varint()?)? });
                next = value + 1;
            }
            _ => return Err(Error::Invalid { what: "extent kind", found: op & 3 }),
        }
    }
    Ok(extents)
}

/// Returns a place in a table, and the length of the chunk that stands there.
fn entry(table: &[(ChunkId, u32)], found: u64) -> Result<(u32, u32), Error> {
    let index = u32::try_from(found).ok();
    let entry = index.and_then(|index| table.get(index as usize).map(|(_, chunk_len)| (index, *chunk_len)));
    entry.ok_or(Error::Invalid { what: CHUNK, found })
}

fn narrow(found: u64) -> Result<u32, Error> {
    u32::try_from(found).map_err(|_| Error::TooLarge { what: "extent", found, max: u64::from(u32::MAX) })
}

/// A page of a recipe, as its root lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// The chunk that holds the page.
    pub chunk: ChunkId,
    /// Bytes of the stream that the page stands for.
    pub stream_len: u64,
}

/// The root of a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeRoot {
    /// BLAKE3 of the whole stream.
    pub hash: ContentHash,
    /// The pages, in the order of the stream.
    pub pages: Vec<PageRef>,
}

impl RecipeRoot {
    /// Returns the length of the stream.
    #[must_use]
    pub fn stream_len(&self) -> u64 {
        self.pages.iter().map(|page| page.stream_len).sum()
    }

    /// Returns the root's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(self.hash.as_bytes());
        push_varint(&mut out, self.pages.len() as u64);
        for page in &self.pages {
            out.extend_from_slice(page.chunk.as_bytes());
            push_varint(&mut out, page.stream_len);
        }
        out
    }

    /// Reads a root.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new("recipe root", bytes);
        let form = cursor.u8()?;
        if form != 0 {
            return Err(Error::Invalid { what: "recipe form", found: u64::from(form) });
        }
        let hash = ContentHash::take(&mut cursor)?;
        let count = cursor.count("pages of a recipe", limits::RECIPE_PAGES_MAX)?;
        let mut pages = Vec::new();
        let mut total = 0;
        for _ in 0..count {
            let chunk = ChunkId::take(&mut cursor)?;
            let stream_len = limits::check("stream", cursor.varint()?, limits::STREAM_BYTES_MAX)?;
            total = limits::check("stream", total + stream_len, limits::STREAM_BYTES_MAX)?;
            if stream_len == 0 {
                return Err(Error::Invalid { what: "length of a recipe page", found: 0 });
            }
            pages.push(PageRef { chunk, stream_len });
        }
        cursor.end()?;
        Ok(Self { hash, pages })
    }
}
