//! Turns the extents of a stream into pages of a recipe (`docs/FORMAT.md`, section 9).

use crate::format::id::{ChunkId, ContentHash};
use crate::format::recipe::{Extent, PageRef, RecipePage, RecipeRoot};

/// No page ends before this many extents, the last excepted.
const PAGE_EXTENTS_LEAST: usize = 512;
/// Every page ends here.
const PAGE_EXTENTS_MOST: usize = 8192;
/// Bits of a chunk id that are zero where a page ends: one in 1024.
const PAGE_END_MASK: u16 = 0x03ff;

/// A page that is full.
#[derive(Debug)]
pub(super) struct FullPage {
    pub(super) page: RecipePage,
    /// Where yesterday's stream has most of it.
    pub(super) from: Option<u64>,
}

/// Collects extents into pages that end where the content says so: an unchanged part of a stream keeps its
/// pages, whatever happened before it.
#[derive(Debug, Default)]
pub(super) struct RecipeWriter {
    page: Vec<Extent>,
    /// Places in yesterday's stream that the page's extents come from.
    from: Vec<u64>,
    /// The page of yesterday's that the first of them lies on.
    began_with: Option<usize>,
    pages: Vec<PageRef>,
}

impl RecipeWriter {
    /// Notes that what is pushed next lies at `from` in yesterday's stream, on the page of this number there. Where that is
    /// the page behind the one that this page began with, this page ends here and is returned: so pages keep their
    /// ends though the chunks change by which they were once chosen, and stay edits of one page each.
    pub(super) fn comes_from(&mut self, from: u64, page: usize) -> Option<FullPage> {
        let is_next = self.began_with.is_some_and(|began| began + 1 == page);
        let full = (is_next && self.page.len() >= PAGE_EXTENTS_LEAST / 2).then(|| self.take());
        self.began_with.get_or_insert(page);
        self.from.push(from);
        full
    }

    /// Adds an extent; returns the page that is full now, to be stored and given to `stored`.
    pub(super) fn push(&mut self, extent: Extent) -> Option<FullPage> {
        if let Some(last) = self.page.last_mut()
            && last.is_continued_by(&extent)
        {
            last.len += extent.len;
            // Two parts of a chunk may be the whole of it: one extent of the same bytes, and still one.
            return None;
        }
        self.page.push(extent);
        let [.., high, low] = extent.chunk.as_bytes();
        let is_end = u16::from_be_bytes([*high, *low]) & PAGE_END_MASK == 0;
        let len = self.page.len();
        (len >= PAGE_EXTENTS_MOST || (is_end && len >= PAGE_EXTENTS_LEAST)).then(|| self.take())
    }

    /// Returns the last page, `None` where it is empty.
    pub(super) fn last_page(&mut self) -> Option<FullPage> {
        (!self.page.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> FullPage {
        self.from.sort_unstable();
        let from = self.from.get(self.from.len() / 2).copied();
        self.from.clear();
        self.began_with = None;
        FullPage { page: RecipePage { extents: std::mem::take(&mut self.page) }, from }
    }

    /// Notes the chunk that holds a page. Returns how many pages there are now.
    pub(super) fn stored(&mut self, page: &RecipePage, chunk: ChunkId) -> u64 {
        self.pages.push(PageRef { chunk, stream_len: page.stream_len() });
        self.pages.len() as u64
    }

    /// Returns the root.
    #[must_use]
    pub(super) fn finish(self, hash: ContentHash) -> RecipeRoot {
        debug_assert!(self.page.is_empty(), "the last page was not stored");
        RecipeRoot { hash, pages: self.pages }
    }

    /// Returns the extents where they are few and no page was stored: they can stand in an entry row.
    #[must_use]
    pub(super) fn few(&self, most: usize) -> Option<&[Extent]> {
        (self.pages.is_empty() && self.page.len() <= most).then_some(self.page.as_slice())
    }
}
