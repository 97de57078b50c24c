//! Pages of recipes, put together from those that they are edits of.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError};

use futures::stream::{self, StreamExt as _};

use super::{COPIES_TRIED, Reader, damaged_chunk};
use crate::format::id::ChunkId;
use crate::format::recipe::{ExpandedPage, PageExpansion, RecipePage};
use crate::repo::Error;

/// Bytes of pages that are kept for their neighbours, which are often edits of the same ones: 32 of the longest that are
/// written, where every extent is of another chunk.
const BYTES_KEPT: usize = 12 * 1024 * 1024;
/// Pages that are kept at most, however short: they are looked through.
const PAGES_KEPT: usize = 1024;
/// Pages that are read at the same time.
const READS_MOST: usize = 8;

/// The pages expanded last.
#[derive(Default)]
pub(super) struct KeptPages {
    /// The one used last is at the end.
    pages: VecDeque<(ChunkId, ExpandedPage)>,
    bytes: usize,
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
        self.bytes += page.page.held_bytes();
        self.pages.push_back((chunk, page));
        while self.bytes > BYTES_KEPT || self.pages.len() > PAGES_KEPT {
            let Some((_, oldest)) = self.pages.pop_front() else { break };
            self.bytes -= oldest.page.held_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recipe::Extent;

    fn chunk(number: usize) -> ChunkId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        ChunkId::from_bytes(id)
    }

    /// A page of `len` extents, of so many chunks in turn.
    fn page(len: usize, chunks: usize) -> ExpandedPage {
        let extents = (0..len).map(|number| Extent::whole(chunk(number % chunks), 100));
        ExpandedPage { page: Arc::new(RecipePage::new(extents).unwrap()), depth: 0 }
    }

    #[test]
    fn pages_are_kept_by_the_memory_that_they_take_and_those_used_last_remain() {
        for (len, chunks, expected) in [(8192, 8192, 32), (8192, 2, 127), (1, 1, PAGES_KEPT)] {
            let page = page(len, chunks);
            let mut kept = KeptPages::default();
            for number in 0..2000 {
                kept.keep(chunk(number), page.clone());
                kept.keep(chunk(number), page.clone());
                assert!(kept.get(&chunk(0)).is_some());
                assert!(kept.bytes <= BYTES_KEPT);
            }
            assert_eq!(kept.pages.len(), expected, "{len} extents of {chunks} chunks");
            let held: usize = kept.pages.iter().map(|(_, page)| page.page.held_bytes()).sum();
            assert_eq!(kept.bytes, held);
            assert!(kept.get(&chunk(1999)).is_some() && kept.get(&chunk(1)).is_none());
        }
    }
}
