//! Where the extents of a stream come from, an entry's row or the pages of its recipe one after the other, and where each lies.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use super::Reader;
use super::verify::Expected;
use crate::format::entry::EntryContent;
use crate::format::recipe::{Extent, PageRef, RecipePage};
use crate::repo::Error;
use crate::repo::index::Segment;

/// What comes next in a stream, and the segment that it lies in.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) segment: Arc<Segment>,
    /// Where it starts in the decoded segment.
    pub(super) start: u32,
    /// Bytes, at least one.
    pub(super) len: u32,
}

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

    /// Returns what comes next and where it is, `None` where the stream is over.
    pub(super) async fn next(&mut self, reader: &Arc<Reader>) -> Result<Option<Located>, Error> {
        let Some(extent) = self.next_extent(reader).await? else { return Ok(None) };
        let place = reader.place(&extent)?;
        // A segment is at most 8 MiB.
        let start = u32::try_from(place.offset).unwrap_or(u32::MAX).saturating_add(extent.offset);
        Ok(Some(Located { segment: place.segment, start, len: extent.len }))
    }

    async fn next_extent(&mut self, reader: &Arc<Reader>) -> Result<Option<Extent>, Error> {
        if let Some(EntryContent::Recipe { root, .. }) = self.root.take() {
            let root = reader.recipe_root(&root).await?;
            if root.hash != self.expected.hash || root.stream_len() != self.expected.len {
                return Err(Error::StreamDamaged);
            }
            self.pages = root.pages.into();
        }
        loop {
            if let Some(extent) = self.ready.next() {
                return Ok(Some(extent));
            }
            let Some(page) = self.pages.pop_front() else { return Ok(None) };
            let page = reader.recipe_page(&page.chunk, page.stream_len).await?;
            self.ready = Ready::Page(page, 0);
        }
    }
}
