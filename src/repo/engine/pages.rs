//! Pages of recipes on their way into the repository: known, as an edit of yesterday's, or whole.

use super::super::Error;
use super::super::pieces::{KnownPage, Matcher};
use super::super::recipe_writer::FullPage;
use super::{Engine, OpenStream};
use crate::format::id::ChunkId;
use crate::format::limits;
use crate::format::pack::PackKind;
use crate::format::recipe::{Extent, PageEdit};

/// Edits behind one another at which the first pages become whole again; the others follow over as many nights,
/// so that no night pays for all of them.
const DEPTH_SURE: u8 = 8;

impl Engine {
    /// Refers to a range of a chunk as the next part of a stream.
    pub(super) fn refer(&mut self, open: &mut OpenStream, extent: Extent) -> Result<(), Error> {
        match open.recipe.push(extent) {
            Some(full) => self.store_page(open, &full),
            None => Ok(()),
        }
    }

    /// Stores a page and remembers it for tomorrow.
    pub(super) fn store_page(&mut self, open: &mut OpenStream, full: &FullPage) -> Result<(), Error> {
        let mut compared = open.compared.take();
        let page = self.put_page(open, compared.as_ref().map(|compared| &compared.matcher), full)?;
        if let Some(compared) = &mut compared {
            compared.grow(&self.pieces, |growing| {
                growing.writer.page(page);
                Ok(())
            });
        }
        open.compared = compared;
        Ok(())
    }

    /// Stores a page unless it is known.
    pub(super) fn put_page(
        &mut self,
        open: &mut OpenStream,
        matcher: Option<&Matcher>,
        full: &FullPage,
    ) -> Result<KnownPage, Error> {
        let bytes = full.page.encode();
        let whole = self.meta.ids.id(&bytes);
        let stream_len = full.page.stream_len();
        let parent = matcher.and_then(|matcher| matcher.page_at(full.from?));
        let known = match parent {
            Some(parent) if !self.is_known(&whole)? => self.page_of(open, full, parent, whole, bytes.len())?,
            _ => None,
        };
        let page = match known {
            Some(page) => page,
            None => {
                let (_, is_new) = self.store_as(PackKind::Meta, open.account, whole, &bytes)?;
                open.report.recipe += if is_new { bytes.len() as u64 } else { 0 };
                KnownPage { chunk: whole, parents: Vec::new(), whole, stream_len }
            }
        };
        limits::check("pages of a recipe", open.recipe.stored(&full.page, page.chunk), limits::RECIPE_PAGES_MAX)?;
        Ok(page)
    }

    /// Returns the page as yesterday's `parent`, or as an edit of it; `None` where it is better stored whole.
    fn page_of(
        &mut self,
        open: &mut OpenStream,
        full: &FullPage,
        parent: &KnownPage,
        whole: ChunkId,
        whole_len: usize,
    ) -> Result<Option<KnownPage>, Error> {
        for chunk in parent.parents.iter().chain([&parent.chunk]) {
            if !self.is_known(chunk)? {
                return Ok(None);
            }
        }
        if parent.whole == whole {
            return Ok(Some(parent.clone()));
        }
        let depth = u8::try_from(parent.parents.len() + 1).unwrap_or(u8::MAX);
        let spread = parent.whole.as_bytes().first().copied().unwrap_or(0) % (DEPTH_SURE + 1);
        if depth > DEPTH_SURE + spread {
            return Ok(None);
        }
        let read = self.runtime.block_on(self.reader.recipe_page(&parent.chunk, parent.stream_len));
        // Without its parent the page is stored whole; whoever restores an older snapshot meets the damage.
        let Ok(old) = read else { return Ok(None) };
        let Some(edit) = PageEdit::between(parent.chunk, depth, &old, &full.page) else { return Ok(None) };
        let bytes = edit.encode();
        if bytes.len() * 2 > whole_len {
            return Ok(None);
        }
        let (extent, is_new) = self.store(PackKind::Meta, open.account, &bytes)?;
        open.report.recipe += if is_new { bytes.len() as u64 } else { 0 };
        let mut parents = vec![parent.chunk];
        parents.extend_from_slice(&parent.parents);
        Ok(Some(KnownPage { chunk: extent.chunk, parents, whole, stream_len: full.page.stream_len() }))
    }
}
