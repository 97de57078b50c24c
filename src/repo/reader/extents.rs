//! Where the extents of a stream come from: an entry's row, or the pages of its recipe one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use super::Reader;
use super::verify::Expected;
use crate::format::entry::EntryContent;
use crate::format::recipe::{Extent, PageRef, RecipePage};
use crate::repo::Error;

/// Extents in the order of the stream; one page of a recipe is held.
pub(super) struct ExtentSource {
    ready: Ready,
    pages: VecDeque<PageRef>,
    root: Option<EntryContent>,
    expected: Expected,
}

/// Extents that are at hand.
enum Ready {
    Entry(vec::IntoIter<Extent>),
    /// Those of a page from that place on. Others may hold the page, too, so they are not copied.
    Page(Arc<RecipePage>, usize),
}

impl Ready {
    fn next(&mut self) -> Option<Extent> {
        match self {
            Self::Entry(extents) => extents.next(),
            Self::Page(page, place) => {
                let extent = page.extent(*place)?;
                *place += 1;
                Some(extent)
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Entry(extents) => extents.as_slice().is_empty(),
            Self::Page(page, place) => *place >= page.len(),
        }
    }
}

impl ExtentSource {
    pub(super) fn new(content: EntryContent, expected: Expected) -> Self {
        let (extents, root) = match content {
            EntryContent::None => (Vec::new(), None),
            EntryContent::Extents { extents, .. } => (extents, None),
            root @ EntryContent::Recipe { .. } => (Vec::new(), Some(root)),
        };
        Self { ready: Ready::Entry(extents.into_iter()), pages: VecDeque::new(), root, expected }
    }

    /// Returns the next extent that is at hand: where there is none, [`ExtentSource::refill`] may bring more.
    pub(super) fn next_ready(&mut self) -> Option<Extent> {
        self.ready.next()
    }

    /// Reads on until an extent is at hand. Returns whether there is one: otherwise the stream is over.
    pub(super) async fn refill(&mut self, reader: &Arc<Reader>) -> Result<bool, Error> {
        if let Some(EntryContent::Recipe { root, .. }) = self.root.take() {
            let root = reader.recipe_root(&root).await?;
            if root.hash != self.expected.hash || root.stream_len() != self.expected.len {
                return Err(Error::StreamDamaged);
            }
            self.pages = root.pages.into();
        }
        while self.ready.is_empty() {
            let Some(page) = self.pages.pop_front() else { return Ok(false) };
            let page = reader.recipe_page(&page.chunk, page.stream_len).await?;
            self.ready = Ready::Page(page, 0);
        }
        Ok(true)
    }
}
