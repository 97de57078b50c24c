//! Pages of recipes on their way into the repository: known, as an edit of yesterday's, or whole.

use super::super::Error;
use super::super::pieces::KnownPage;
use super::super::recipe_writer::FullPage;
use super::compare::Compared;
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
            Some(full) => self.store_page(open, None, &full),
            None => Ok(()),
        }
    }

    /// Stores a page and remembers it for tomorrow.
    pub(super) fn store_page(
        &mut self,
        open: &mut OpenStream,
        compared: Option<&mut Compared>,
        full: &FullPage,
    ) -> Result<(), Error> {
        let page = self.put_page(open, compared.as_deref(), full)?;
        if let Some(compared) = compared {
            compared.pages.push(page.chunk);
            compared.pages.extend_from_slice(&page.parents);
            compared.grow(&self.pieces, |writer| {
                writer.page(page);
                Ok(())
            });
        }
        Ok(())
    }

    /// Checks that no page that was referred to has proved damaged since: nothing may be called complete that cannot
    /// be read back. The next run stores them whole.
    pub(super) fn check_pages(&self, open: &OpenStream, compared: &Compared) -> Result<(), Error> {
        for chunk in &compared.pages {
            if !self.is_known(chunk)? {
                self.pieces.forget(open.pack_kind(), &compared.name);
                return Err(Error::ChunkMissing { chunk: *chunk });
            }
        }
        Ok(())
    }

    /// Stores a page unless it is known.
    fn put_page(
        &mut self,
        open: &mut OpenStream,
        compared: Option<&Compared>,
        full: &FullPage,
    ) -> Result<KnownPage, Error> {
        let bytes = full.page.encode();
        let whole = self.meta.ids.id(&bytes);
        let stream_len = full.page.stream_len();
        let parent = compared.and_then(|compared| compared.matcher.page_at(full.from?));
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
        let old = match read {
            Ok(old) => old,
            Err(error) => {
                self.pieces
                    .warn(format!("a page of yesterday's recipe cannot be read, so tonight's is whole: {error}"));
                return Ok(None);
            }
        };
        let Some(edit) = PageEdit::between(parent.chunk, depth, &old, &full.page) else { return Ok(None) };
        assert_eq!(edit.apply(&old).as_ref(), Ok(&full.page), "an edit makes the page that it was made for");
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
