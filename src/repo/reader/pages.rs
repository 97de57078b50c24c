//! Pages of recipes, put together from those that they are edits of.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use futures::stream::{self, StreamExt as _};

use super::{COPIES_TRIED, Reader, damaged_chunk};
use crate::format::id::ChunkId;
use crate::format::recipe::{ExpandedPage, PageExpansion, RecipePage};
use crate::repo::Error;

/// Extents of pages that are kept for their neighbours, which are often edits of the same ones: 11 MiB.
const EXTENTS_KEPT: usize = 256 * 1024;
/// Pages that are kept at most, however short: they are looked through.
const PAGES_KEPT: usize = 1024;
/// Pages that are read at the same time.
const READS_MOST: usize = 8;

/// The pages expanded last.
#[derive(Default)]
pub(super) struct KeptPages {
    /// The one used last is at the end.
    pages: VecDeque<(ChunkId, ExpandedPage)>,
    extents: usize,
}

impl KeptPages {
    fn get(&mut self, chunk: &ChunkId) -> Option<ExpandedPage> {
        let place = self.pages.iter().position(|(kept, _)| kept == chunk)?;
        let found = self.pages.remove(place)?;
        let page = found.1.clone();
        self.pages.push_back(found);
        Some(page)
    }

    fn keep(&mut self, chunk: ChunkId, page: ExpandedPage) {
        if self.pages.iter().any(|(kept, _)| *kept == chunk) {
            return;
        }
        self.extents += page.page.extents.len();
        self.pages.push_back((chunk, page));
        while self.extents > EXTENTS_KEPT || self.pages.len() > PAGES_KEPT {
            let Some((_, oldest)) = self.pages.pop_front() else { break };
            self.extents -= oldest.page.extents.len();
        }
    }
}

impl Reader {
    /// Reads a page of a recipe that stands for `stream_len` bytes.
    pub async fn recipe_page(self: &Arc<Self>, chunk: &ChunkId, stream_len: u64) -> Result<Arc<RecipePage>, Error> {
        let mut expansion = PageExpansion::new(*chunk);
        loop {
            let mut wanted = expansion.wanted();
            if wanted.is_empty() {
                break;
            }
            let refused = |wanted: ChunkId| move |source| damaged_chunk(&wanted, source);
            let mut kept = Vec::new();
            wanted.retain(|wanted| {
                self.kept_page(wanted).is_none_or(|page| {
                    kept.push((*wanted, page));
                    false
                })
            });
            for (wanted, page) in kept {
                expansion.put(wanted, page).map_err(refused(wanted))?;
            }
            let read = |wanted: ChunkId| async move { (wanted, self.chunk(&wanted, COPIES_TRIED).await) };
            let mut pages = stream::iter(wanted).map(read).buffer_unordered(READS_MOST);
            while let Some((wanted, bytes)) = pages.next().await {
                expansion.push(wanted, &bytes?).map_err(refused(wanted))?;
            }
        }
        let keep = |chunk, page: &ExpandedPage| {
            self.pages.lock().unwrap_or_else(PoisonError::into_inner).keep(chunk, page.clone());
        };
        let found = expansion.finish(keep).map_err(|source| damaged_chunk(chunk, source))?.page;
        if found.stream_len() == stream_len { Ok(found) } else { Err(Error::StreamDamaged) }
    }

    fn kept_page(&self, chunk: &ChunkId) -> Option<ExpandedPage> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(chunk)
    }

    /// Reads the stored bytes of what a page is made of side by side, so that they are at hand when they are wanted one
    /// after the other: one chunk of each segment. What cannot be read is told by whoever wants it.
    pub(in crate::repo) async fn come_to_page(self: &Arc<Self>, page: &ChunkId, mut made_of: Vec<ChunkId>) {
        made_of.retain(|chunk| self.kept_page(chunk).is_none());
        if !made_of.contains(page) {
            return;
        }
        let mut segments = HashSet::new();
        made_of.retain(|chunk| {
            let place = self.repository.index().find(chunk).ok().flatten();
            place.is_none_or(|place| segments.insert((place.segment.pack, place.segment.ordinal)))
        });
        let read = |chunk: ChunkId| async move { self.chunk(&chunk, COPIES_TRIED).await.map(drop) };
        stream::iter(made_of).map(read).buffer_unordered(READS_MOST).for_each(|_| async {}).await;
    }
}
