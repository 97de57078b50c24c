//! Where the extents of a stream come from: an entry's row, or the pages of its recipe one after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Reader;
use super::verify::Expected;
use crate::format::entry::EntryContent;
use crate::format::recipe::{Extent, PageRef};
use crate::repo::Error;

/// Extents in the order of the stream; one page of a recipe is held.
pub(super) struct ExtentSource {
    ready: VecDeque<Extent>,
    pages: VecDeque<PageRef>,
    root: Option<EntryContent>,
    expected: Expected,
}

impl ExtentSource {
    pub(super) fn new(content: EntryContent, expected: Expected) -> Self {
        let (ready, root) = match content {
            EntryContent::None => (VecDeque::new(), None),
            EntryContent::Extents { extents, .. } => (extents.into(), None),
            root @ EntryContent::Recipe { .. } => (VecDeque::new(), Some(root)),
        };
        Self { ready, pages: VecDeque::new(), root, expected }
    }

    /// Returns the next extent that is at hand: where there is none, [`ExtentSource::refill`] may bring more.
    pub(super) fn next_ready(&mut self) -> Option<Extent> {
        self.ready.pop_front()
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
            self.ready = page.extents.iter().copied().collect();
        }
        Ok(true)
    }
}
