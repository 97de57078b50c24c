//! Pages of recipes on their way into the repository: known, as an edit of yesterday's, or whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::Error;
use super::super::pieces::KnownPage;
use super::super::recipe_writer::FullPage;
use super::compare::Compared;
use super::{Engine, OpenStream};
use crate::format::id::ChunkId;
use crate::format::limits;
use crate::format::pack::PackKind;
use crate::format::recipe::{Extent, PageEdit, RecipePage, StoredPage};

/// Edits behind one another at which the first pages become whole again; the others follow over as many nights,
/// so that no night pays for all of them.
const DEPTH_SURE: u8 = 16;
const _: () = assert!(2 * DEPTH_SURE as u64 <= limits::RECIPE_DEPTH_MAX);
/// Pages of yesterday's of which one of tonight's is an edit.
const PARENTS_MOST: usize = 8;
const _: () = assert!(PARENTS_MOST as u64 <= limits::PAGE_PARENTS_MAX);
/// Pages of yesterday's that are considered for it.
const PARENTS_TRIED: usize = 32;
/// Extents of a page from which on an edit of it says less than one without it: its chunk id takes as much as that of
/// any chunk.
const COPIED_LEAST: u64 = 3;

/// A page that was made an edit of others.
struct Edited<'a> {
    edit: PageEdit,
    /// The edit, encoded.
    bytes: Vec<u8>,
    parents: Vec<&'a KnownPage>,
}

impl Engine {
    /// Refers to a range of a chunk as the next part of a stream.
    pub(super) fn refer(&mut self, open: &mut OpenStream, extent: Extent) -> Result<(), Error> {
        match open.recipe.push(extent)? {
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
            compared.grow(&self.pieces, |writer| {
                writer.page(page);
                Ok(())
            });
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
        let known = match compared {
            Some(compared) if !self.is_known(&whole)? => {
                let of = full.from.iter().filter_map(|number| compared.matcher.page(*number)).collect();
                self.page_of(open, full, of, whole, bytes.len())?
            }
            _ => None,
        };
        let page = match known {
            Some(page) => page,
            None => {
                let (_, is_new) = self.store_as(PackKind::Meta, open.account, whole, &bytes)?;
                open.report.recipe += if is_new { bytes.len() as u64 } else { 0 };
                let stream_len = full.page.stream_len();
                let weight = weight(full.page.len());
                KnownPage { chunk: whole, depth: 0, weight, made_of: Vec::new(), whole, stream_len }
            }
        };
        limits::check("pages of a recipe", open.recipe.stored(&full.page, page.chunk), limits::RECIPE_PAGES_MAX)?;
        Ok(page)
    }

    /// Returns the page as one of yesterday's pages `of`, or as an edit of some of them; `None` where it is better
    /// stored whole.
    fn page_of(
        &mut self,
        open: &mut OpenStream,
        full: &FullPage,
        of: Vec<&KnownPage>,
        whole: ChunkId,
        whole_len: usize,
    ) -> Result<Option<KnownPage>, Error> {
        let mut parents = Vec::new();
        let mut made_of = BTreeMap::new();
        let mut is_refused = false;
        for page in of.into_iter().take(PARENTS_TRIED) {
            if !self.are_known(page)? {
                continue;
            }
            if page.whole == whole {
                self.referred.extend(page.chunks().map(|(chunk, _)| chunk));
                return Ok(Some(page.clone()));
            }
            // A stream that repeats itself has one page in two places; a reader wants each parent once.
            if parents.iter().any(|parent: &&KnownPage| parent.chunk == page.chunk) {
                continue;
            }
            let mut with = made_of.clone();
            with.extend(page.chunks());
            if parents.len() < PARENTS_MOST && fits(&with, full) && depth_above(page).is_some() {
                made_of = with;
                parents.push(page);
            } else {
                is_refused = true;
            }
        }
        let Some(Edited { edit, bytes, parents }) = self.edit_of(full, parents)? else { return Ok(None) };
        // Once pages become whole again, it is all of a page: one that was made of the rest would be refused tomorrow.
        if bytes.len() * (if is_refused { 4 } else { 2 }) > whole_len {
            return Ok(None);
        }
        let (extent, is_new) = self.store(PackKind::Meta, open.account, &bytes)?;
        open.report.recipe += if is_new { bytes.len() as u64 } else { 0 };
        let made_of: BTreeMap<_, _> = parents.into_iter().flat_map(KnownPage::chunks).collect();
        let (chunk, depth) = (extent.chunk, edit.depth);
        let weight = weight(full.page.len() + edit.weight());
        let (made_of, stream_len) = (made_of.into_iter().collect(), full.page.stream_len());
        Ok(Some(KnownPage { chunk, depth, weight, made_of, whole, stream_len }))
    }

    /// Returns the page as an edit of those of yesterday's pages that it has something of.
    fn edit_of<'a>(&self, full: &FullPage, mut parents: Vec<&'a KnownPage>) -> Result<Option<Edited<'a>>, Error> {
        let mut pages: Vec<Arc<RecipePage>> = Vec::new();
        for parent in &parents {
            let read = async {
                let chunks = parent.chunks().map(|(chunk, _)| chunk).collect();
                self.reader.come_to_page(&parent.chunk, chunks).await;
                self.reader.recipe_page(&parent.chunk, parent.stream_len).await
            };
            match self.runtime.block_on(read) {
                Ok(page) => pages.push(page),
                Err(error) => {
                    self.pieces
                        .warn(format!("a page of yesterday's recipe cannot be read, so tonight's is whole: {error}"));
                    return Ok(None);
                }
            }
        }
        for _ in 0..2 {
            let old: Vec<&RecipePage> = pages.iter().map(|page| &**page).collect();
            let chunks: Vec<ChunkId> = parents.iter().map(|parent| parent.chunk).collect();
            let Some(depth) = parents.iter().filter_map(|parent| depth_above(parent)).max() else { return Ok(None) };
            let Some(edit) = PageEdit::between(&chunks, depth, &old, &full.page) else { return Ok(None) };
            let copied = edit.copied(&old);
            if copied.iter().all(|count| *count >= COPIED_LEAST) {
                // What a reader would not make of it is not written: parents may be another's work.
                let bytes = edit.encode();
                let is_read = edit.apply(&old).as_ref() == Ok(&full.page)
                    && StoredPage::decode(&bytes).as_ref() == Ok(&StoredPage::Edit(edit.clone()));
                return Ok(is_read.then_some(Edited { edit, bytes, parents }));
            }
            // The others are left out, and the edit is made again without them.
            let is_used = |place: usize| copied.get(place).is_some_and(|count| *count >= COPIED_LEAST);
            parents =
                parents.into_iter().enumerate().filter(|(at, _)| is_used(*at)).map(|(_, parent)| parent).collect();
            pages = pages.into_iter().enumerate().filter(|(at, _)| is_used(*at)).map(|(_, page)| page).collect();
        }
        Ok(None)
    }

    fn are_known(&self, page: &KnownPage) -> Result<bool, Error> {
        for (chunk, _) in page.chunks() {
            if !self.is_known(&chunk)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn weight(count: usize) -> u32 {
    u32::try_from(count).expect("a page has at most 65,536 extents, and an edit as many steps and chunks")
}

/// Returns whether a page can be made of these: an edit of them has at most as many steps and chunks as the page has
/// extents.
fn fits(made_of: &BTreeMap<ChunkId, u32>, full: &FullPage) -> bool {
    let weight: u64 = made_of.values().map(|weight| u64::from(*weight)).sum();
    let own = 3 * full.page.len() as u64;
    (made_of.len() as u64) < limits::EXPANSION_PAGES_MAX && weight + own <= limits::EXPANSION_EXTENTS_MAX
}

/// Returns the depth of an edit of a page, `None` where what is made of it becomes whole again.
fn depth_above(page: &KnownPage) -> Option<u8> {
    let spread = page.whole.as_bytes().first().copied().unwrap_or(0) % (DEPTH_SURE + 1);
    page.depth.checked_add(1).filter(|depth| *depth <= DEPTH_SURE + spread)
}
