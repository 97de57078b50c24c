//! Recipes: which ranges of which chunks make up a stream (`docs/FORMAT.md`, section 9).
//!
//! A recipe is a root that lists pages; each page is a chunk table and extents. Pages end where the content
//! says so, so that the unchanged part of a stream keeps its pages. Root and pages are chunks under the
//! meta key. A page of form 0 is whole, one of form 1 an edit of earlier pages.

mod edit;
mod expansion;
#[cfg(test)]
mod test_pages;

pub use edit::{PageEdit, StoredPage};
pub use expansion::{ExpandedPage, PageExpansion};

use foldhash::{HashMap, HashMapExt as _};

use super::cursor::{Cursor, push_varint};
use super::id::{ChunkId, ContentHash};
use super::{Error, limits};

const WHOLE_NEXT: u64 = 0;
const WHOLE_AT: u64 = 1;
const PART: u64 = 2;

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

/// One page of a recipe: consecutive extents of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecipePage {
    /// The extents, in the order of the stream. Neighbours that continue each other are one extent.
    pub extents: Vec<Extent>,
}

impl RecipePage {
    /// Returns how many bytes of the stream the page stands for.
    #[must_use]
    pub fn stream_len(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.len)).sum()
    }

    /// Returns the page's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (table, indexes) = table(&self.extents);
        let mut out = vec![0];
        push_chunks(&mut out, &table);
        encode_extents(&mut out, &self.extents, &indexes);
        out
    }

    /// Returns an error where the extents are none, too many, of too many chunks, of a chunk with two lengths,
    /// beyond their chunks, or not merged.
    fn check(&self) -> Result<(), Error> {
        let (table, indexes) = table(&self.extents);
        limits::check("chunks of a recipe page", table.len() as u64, limits::PAGE_CHUNKS_MAX)?;
        if !have_one_len(&self.extents, &table, &indexes) {
            return Err(Error::NotCanonical { what: "extents of a recipe page" });
        }
        self.check_extents()
    }

    /// As [`RecipePage::check`], for extents whose chunks are known to have one length each and not to be too many.
    fn check_extents(&self) -> Result<(), Error> {
        let what = "extents of a recipe page";
        let count = limits::check(what, self.extents.len() as u64, limits::PAGE_EXTENTS_MAX)?;
        if count == 0 {
            return Err(Error::Invalid { what, found: 0 });
        }
        self.extents.iter().try_for_each(Extent::check)?;
        if self.extents.iter().zip(self.extents.iter().skip(1)).any(|(left, right)| left.is_continued_by(right)) {
            return Err(Error::NotCanonical { what });
        }
        Ok(())
    }

    /// Reads a page. Accepts only what [`RecipePage::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let what = "recipe page";
        let mut cursor = Cursor::new(what, bytes);
        let form = cursor.u8()?;
        if form != 0 {
            return Err(Error::Invalid { what: "recipe form", found: u64::from(form) });
        }
        let table = take_chunks(&mut cursor)?;
        let page = Self { extents: decode_extents(&mut cursor, &table)? };
        cursor.end()?;
        page.check()?;
        // Unmerged neighbours, an unused or repeated table entry, another order: all encode otherwise.
        if page.encode() == bytes { Ok(page) } else { Err(Error::NotCanonical { what }) }
    }
}

/// Returns the chunks of extents in order of first use, and for every extent its chunk's place among them.
fn table(extents: &[Extent]) -> (Vec<(ChunkId, u32)>, Vec<u64>) {
    let mut places = HashMap::with_capacity(extents.len());
    let mut table = Vec::new();
    let mut indexes = Vec::with_capacity(extents.len());
    // Parts of a chunk mostly come in turn with those of one other, which hold what changed: these need no look-up.
    let mut last: Option<(ChunkId, u64)> = None;
    let mut other = None;
    for extent in extents {
        if last.is_none_or(|(chunk, _)| chunk != extent.chunk) {
            std::mem::swap(&mut last, &mut other);
        }
        let place = match last {
            Some((chunk, place)) if chunk == extent.chunk => place,
            _ => *places.entry(extent.chunk).or_insert_with(|| {
                table.push((extent.chunk, extent.chunk_len));
                table.len() as u64 - 1
            }),
        };
        last = Some((extent.chunk, place));
        indexes.push(place);
    }
    (table, indexes)
}

/// Returns whether every extent has its chunk at the length that the table says.
fn have_one_len(extents: &[Extent], table: &[(ChunkId, u32)], indexes: &[u64]) -> bool {
    let len_of = |index: u64| usize::try_from(index).ok().and_then(|index| table.get(index)).map(|(_, len)| *len);
    extents.iter().zip(indexes).all(|(extent, index)| len_of(*index) == Some(extent.chunk_len))
}

fn push_chunks(out: &mut Vec<u8>, chunks: &[(ChunkId, u32)]) {
    push_varint(out, chunks.len() as u64);
    for (chunk, len) in chunks {
        out.extend_from_slice(chunk.as_bytes());
        push_varint(out, u64::from(*len));
    }
}

fn take_chunks(cursor: &mut Cursor<'_>) -> Result<Vec<(ChunkId, u32)>, Error> {
    let count = cursor.count("chunks of a recipe page", limits::PAGE_CHUNKS_MAX)?;
    let mut chunks = Vec::new();
    for _ in 0..count {
        let chunk = ChunkId::take(cursor)?;
        let found = limits::check("chunk", cursor.varint()?, limits::CHUNK_BYTES_MAX)?;
        chunks.push((chunk, u32::try_from(found).map_err(|_| Error::Invalid { what: "chunk", found })?));
    }
    Ok(chunks)
}

/// Appends the extents: runs of whole consecutive table entries take two bytes, parts four to eight.
fn encode_extents(out: &mut Vec<u8>, extents: &[Extent], indexes: &[u64]) {
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
    for (extent, index) in extents.iter().zip(indexes) {
        if extent.is_whole() {
            match &mut run {
                Some((start, len)) if *start + *len == *index => *len += 1,
                _ => {
                    flush(&mut run, &mut next, &mut ops, &mut count);
                    run = Some((*index, 1));
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

fn decode_extents(cursor: &mut Cursor<'_>, table: &[(ChunkId, u32)]) -> Result<Vec<Extent>, Error> {
    let what = "extents of a recipe page";
    let ops = cursor.count(what, limits::PAGE_EXTENTS_MAX)?;
    let mut extents: Vec<Extent> = Vec::new();
    let mut next = 0;
    let entry = |index: u64| {
        let place = usize::try_from(index).ok().and_then(|index| table.get(index));
        place.copied().ok_or(Error::Invalid { what: "chunk of an extent", found: index })
    };
    for _ in 0..ops {
        let op = cursor.varint()?;
        let value = op >> 2;
        match op & 3 {
            kind @ (WHOLE_NEXT | WHOLE_AT) => {
                let start = if kind == WHOLE_NEXT { next } else { cursor.varint()? };
                limits::check(what, value, limits::PAGE_CHUNKS_MAX)?;
                limits::check(what, extents.len() as u64 + value, limits::PAGE_EXTENTS_MAX)?;
                for index in start..start.saturating_add(value) {
                    let (chunk, len) = entry(index)?;
                    extents.push(Extent::whole(chunk, len));
                }
                next = start.saturating_add(value);
            }
            PART => {
                let (chunk, chunk_len) = entry(value)?;
                let offset = narrow(cursor.varint()?)?;
                let len = narrow(cursor.varint()?)?;
                extents.push(Extent { chunk, chunk_len, offset, len });
                next = value + 1;
            }
            _ => return Err(Error::Invalid { what: "extent kind", found: op & 3 }),
        }
    }
    Ok(extents)
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
