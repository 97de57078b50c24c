//! Turns the extents of a stream into pages of a recipe (`docs/FORMAT.md`, section 9).

use std::collections::BTreeMap;

use crate::format::Error;
use crate::format::id::{ChunkId, ContentHash};
use crate::format::recipe::{Extent, PageRef, RecipePage, RecipeRoot};

/// No page ends before this many extents, the last excepted. A page that is an edit costs what changed, whatever its
/// size, and the fewer pages there are, the fewer is tonight's made of.
const PAGE_EXTENTS_LEAST: usize = 2048;
/// Every page ends here.
const PAGE_EXTENTS_MOST: usize = 8192;
/// Bits of a chunk id that are zero where a page ends: one in 2048.
const PAGE_END_MASK: u16 = 0x07ff;

/// A page that is full.
#[derive(Debug)]
pub(super) struct FullPage {
    pub(super) page: RecipePage,
    /// The pages of yesterday's that have most of it, by their numbers there; that with the most first.
    pub(super) from: Vec<usize>,
}

/// Collects extents into pages that end where the content says so: an unchanged part of a stream keeps its
/// pages, whatever happened before it.
#[derive(Debug, Default)]
pub(super) struct RecipeWriter {
    page: Vec<Extent>,
    /// Pages of yesterday's that the page's extents come from, and how many cuts of each.
    from: BTreeMap<usize, u32>,
    /// The page of yesterday's that the first of them lies on.
    began_with: Option<usize>,
    pages: Vec<PageRef>,
}

impl RecipeWriter {
    /// Notes that what is pushed next lies on the page of this number of yesterday's. Where that is
    /// the page behind the one that this page began with, this page ends here and is returned: so pages keep their
    /// ends though the chunks change by which they were once chosen, and are edits of few pages each.
    pub(super) fn comes_from(&mut self, page: usize) -> Result<Option<FullPage>, Error> {
        let is_next = self.began_with.is_some_and(|began| began + 1 == page);
        let full = (is_next && self.page.len() >= PAGE_EXTENTS_LEAST / 2).then(|| self.take()).transpose()?;
        self.began_with.get_or_insert(page);
        *self.from.entry(page).or_default() += 1;
        Ok(full)
    }

    /// Adds an extent; returns the page that is full now, to be stored and given to `stored`. Fails where nobody could
    /// read that page.
    pub(super) fn push(&mut self, extent: Extent) -> Result<Option<FullPage>, Error> {
        if let Some(last) = self.page.last_mut()
            && last.is_continued_by(&extent)
        {
            last.len += extent.len;
            // Two parts of a chunk may be the whole of it: one extent of the same bytes, and still one.
            return Ok(None);
        }
        self.page.push(extent);
        let [.., high, low] = extent.chunk.as_bytes();
        let is_end = u16::from_be_bytes([*high, *low]) & PAGE_END_MASK == 0;
        let len = self.page.len();
        (len >= PAGE_EXTENTS_MOST || (is_end && len >= PAGE_EXTENTS_LEAST)).then(|| self.take()).transpose()
    }

    /// Returns the last page, `None` where it is empty.
    pub(super) fn last_page(&mut self) -> Result<Option<FullPage>, Error> {
        (!self.page.is_empty()).then(|| self.take()).transpose()
    }

    fn take(&mut self) -> Result<FullPage, Error> {
        let mut from: Vec<(usize, u32)> = std::mem::take(&mut self.from).into_iter().collect();
        from.sort_by_key(|(_, cuts)| std::cmp::Reverse(*cuts));
        self.began_with = None;
        let from = from.into_iter().map(|(page, _)| page).collect();
        Ok(FullPage { page: RecipePage::new(std::mem::take(&mut self.page))?, from })
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
