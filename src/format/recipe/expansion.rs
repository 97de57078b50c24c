//! From a stored page to its extents, through all pages that it is an edit of (`docs/FORMAT.md`, section 9.2).

use std::collections::HashMap;
use std::sync::Arc;

use super::{PageEdit, RecipePage, StoredPage};
use crate::format::id::ChunkId;
use crate::format::{Error, limits};

/// A page whose extents are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandedPage {
    /// The page.
    pub page: Arc<RecipePage>,
    /// Edits between it and a whole one.
    pub depth: u8,
}

/// Gathers a page and those that it is made of, and puts it together. A page that several are edits of is taken once.
///
/// Bounded whatever is in the store: every parent must be less deep than its child, so there is no cycle;
/// pages are counted ([`limits::EXPANSION_PAGES_MAX`]), and so is what they hold ([`limits::EXPANSION_EXTENTS_MAX`]).
#[derive(Debug)]
pub struct PageExpansion {
    page: ChunkId,
    edits: HashMap<ChunkId, PageEdit>,
    expanded: HashMap<ChunkId, ExpandedPage>,
    /// Pages that are needed next, each with the least depth of those that are edits of it.
    wanted: HashMap<ChunkId, u8>,
    held: u64,
}

const DEPTH: &str = "depth of a recipe edit";

impl PageExpansion {
    /// Begins with the chunk that holds the page.
    #[must_use]
    pub fn new(page: ChunkId) -> Self {
        let above = u8::MAX;
        Self { page, edits: HashMap::new(), expanded: HashMap::new(), wanted: HashMap::from([(page, above)]), held: 0 }
    }

    /// Returns the chunks whose pages are needed next, in no order; none when [`PageExpansion::finish`] has all it needs.
    #[must_use]
    pub fn wanted(&self) -> Vec<ChunkId> {
        self.wanted.keys().copied().collect()
    }

    /// Takes the bytes of a page that is wanted. Others are passed over.
    pub fn push(&mut self, chunk: ChunkId, bytes: &[u8]) -> Result<(), Error> {
        let Some(above) = self.wanted.remove(&chunk) else { return Ok(()) };
        match StoredPage::decode(bytes)? {
            StoredPage::Whole(page) => self.keep(chunk, above, ExpandedPage { page: Arc::new(page), depth: 0 }),
            StoredPage::Edit(edit) => {
                less_deep(edit.depth, above)?;
                self.hold(edit.weight())?;
                for parent in &edit.parents {
                    self.want(*parent, edit.depth)?;
                }
                self.edits.insert(chunk, edit);
                self.count()
            }
        }
    }

    /// Takes a page that is wanted and that was expanded before. Others are passed over.
    pub fn put(&mut self, chunk: ChunkId, page: ExpandedPage) -> Result<(), Error> {
        let Some(above) = self.wanted.remove(&chunk) else { return Ok(()) };
        self.keep(chunk, above, page)
    }

    /// Puts the page together and returns it. `expanded` hears of every edit that was expanded for it, the least deep
    /// first, itself last, and of the chunk that holds it.
    pub fn finish(mut self, mut expanded: impl FnMut(ChunkId, &ExpandedPage)) -> Result<ExpandedPage, Error> {
        let mut uses: HashMap<ChunkId, usize> = HashMap::new();
        for parent in self.edits.values().flat_map(|edit| &edit.parents) {
            *uses.entry(*parent).or_default() += 1;
        }
        let mut edits: Vec<(ChunkId, PageEdit)> = std::mem::take(&mut self.edits).into_iter().collect();
        // Parents are less deep than their children.
        edits.sort_by_key(|(_, edit)| edit.depth);
        for (chunk, edit) in edits {
            let missing = || Error::Invalid { what: "parents of a recipe edit", found: 0 };
            let old = edit.parents.iter().map(|parent| self.expanded.get(parent).ok_or_else(missing));
            let old = old.collect::<Result<Vec<_>, _>>()?;
            if old.iter().map(|old| old.depth).max().and_then(|depth| depth.checked_add(1)) != Some(edit.depth) {
                return Err(Error::Invalid { what: DEPTH, found: u64::from(edit.depth) });
            }
            let page = edit.apply(&old.iter().map(|old| &*old.page).collect::<Vec<_>>())?;
            for parent in &edit.parents {
                let left = uses.entry(*parent).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.expanded.remove(parent);
                }
            }
            self.hold(page.len())?;
            let page = ExpandedPage { page: Arc::new(page), depth: edit.depth };
            expanded(chunk, &page);
            self.expanded.insert(chunk, page);
        }
        self.expanded.remove(&self.page).ok_or(Error::Invalid { what: "recipe page", found: 0 })
    }

    fn keep(&mut self, chunk: ChunkId, above: u8, page: ExpandedPage) -> Result<(), Error> {
        less_deep(page.depth, above)?;
        self.hold(page.page.len())?;
        self.expanded.insert(chunk, page);
        self.count()
    }

    /// Notes that an edit of depth `above` needs a page.
    fn want(&mut self, parent: ChunkId, above: u8) -> Result<(), Error> {
        let known = self.edits.get(&parent).map(|edit| edit.depth);
        if let Some(depth) = known.or_else(|| self.expanded.get(&parent).map(|page| page.depth)) {
            return less_deep(depth, above);
        }
        let least = self.wanted.entry(parent).or_insert(above);
        *least = above.min(*least);
        Ok(())
    }

    fn count(&self) -> Result<(), Error> {
        let count = self.edits.len() + self.expanded.len() + self.wanted.len();
        limits::check("pages of an expansion", count as u64, limits::EXPANSION_PAGES_MAX).map(drop)
    }

    fn hold(&mut self, more: usize) -> Result<(), Error> {
        let held = self.held.saturating_add(more as u64);
        self.held = limits::check("extents of an expansion", held, limits::EXPANSION_EXTENTS_MAX)?;
        Ok(())
    }
}

fn less_deep(depth: u8, above: u8) -> Result<(), Error> {
    if depth < above { Ok(()) } else { Err(Error::Invalid { what: DEPTH, found: u64::from(depth) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recipe::test_pages::{chunk, page, part};

    /// Expands the page `from` of `stored`, where `get` says under which number a chunk is found. Returns it, and how
    /// many pages were asked for.
    fn expand(stored: &[Vec<u8>], from: usize, get: &dyn Fn(ChunkId) -> usize) -> Result<(RecipePage, usize), Error> {
        let mut expansion = PageExpansion::new(chunk(u8::try_from(from).unwrap()));
        for asked in 0..1000 {
            let Some(wanted) = expansion.wanted().pop() else {
                return Ok((Arc::unwrap_or_clone(expansion.finish(|_, _| ())?.page), asked));
            };
            let at = if asked == 0 { from } else { get(wanted) };
            expansion.push(wanted, &stored[at])?;
        }
        panic!("an expansion without end")
    }

    fn number(chunk: ChunkId) -> usize {
        usize::from(chunk.as_bytes()[0])
    }

    #[test]
    fn a_chain_expands_and_a_cycle_or_a_wrong_depth_ends_it() {
        let pages: Vec<_> = (0..33).map(|night| page(&[part(101, night, 5), part(102, 0, 1 + night)])).collect();
        let mut stored = vec![pages[0].encode()];
        for depth in 1..33 {
            let (old, new) = (&pages[depth - 1], &pages[depth]);
            let parent = chunk(u8::try_from(depth - 1).unwrap());
            let edit = PageEdit::between(&[parent], u8::try_from(depth).unwrap(), &[old], new);
            stored.push(edit.unwrap().encode());
        }
        assert_eq!(expand(&stored, 32, &number), Ok((pages[32].clone(), 33)));
        for wrong in [5, 32, 30, 0] {
            assert!(expand(&stored, 32, &|_| wrong).is_err(), "parents all {wrong}");
        }
    }

    #[test]
    fn a_page_that_several_are_edits_of_is_taken_once() {
        // Two pages a night, each made of both of the night before: 2^16 ways, 34 pages.
        let nights =
            |night: u32, of: u8| page(&[part(101, night * 9, 5), part(102, 7, 1), part(100 + of, night + 1, 3)]);
        let mut stored = vec![nights(0, 3).encode(), nights(0, 4).encode()];
        for night in 1..17_u8 {
            let (old, at) = (u32::from(night) - 1, 2 * (night - 1));
            for of in [3, 4] {
                let (left, right, new) = (nights(old, 3), nights(old, 4), nights(u32::from(night), of));
                let edit = PageEdit::between(&[chunk(at), chunk(at + 1)], night, &[&left, &right], &new);
                stored.push(edit.unwrap().encode());
            }
        }
        assert_eq!(expand(&stored, 33, &number), Ok((nights(16, 4), 33)));

        // What was expanded before is not asked for again.
        let mut expansion = PageExpansion::new(chunk(33));
        expansion.push(chunk(33), &stored[33]).unwrap();
        for (at, of) in [(30, 3), (31, 4)] {
            let known = ExpandedPage { page: Arc::new(nights(15, of)), depth: 15 };
            expansion.put(chunk(at), known).unwrap();
        }
        assert!(expansion.wanted().is_empty());
        let mut expanded = Vec::new();
        let found = expansion.finish(|chunk, page| expanded.push((chunk, page.clone()))).unwrap();
        assert_eq!((&*found.page, found.depth), (&nights(16, 4), 16));
        assert_eq!(expanded, [(chunk(33), found)]);
    }

    #[test]
    fn an_expansion_of_too_many_pages_or_extents_is_refused() {
        let whole = page(&[part(200, 0, 1)]);
        // A tree of edits: more pages than are allowed, and none of them deep.
        let mut stored = vec![Vec::new(); 256];
        let edit = |parents: std::ops::Range<u8>, depth: u8| {
            let parents: Vec<_> = parents.map(chunk).collect();
            PageEdit::between(&parents, depth, &vec![&whole; parents.len()], &whole).unwrap().encode()
        };
        stored[0] = edit(1..9, 3);
        for level in 1..9 {
            stored[usize::from(level)] = edit(8 * level + 1..8 * level + 9, 2);
        }
        for level in 9..31_u8 {
            stored[usize::from(level)] = edit(8 * level + 1..8 * level + 9, 1);
        }
        stored.iter_mut().skip(31).for_each(|bytes| *bytes = whole.encode());
        let refused = expand(&stored, 0, &number).unwrap_err();
        assert!(matches!(refused, Error::TooLarge { what: "pages of an expansion", .. }), "{refused}");

        let many: Vec<_> = (0..60_000_u32).map(|at| part(201, at % 7 * 100, 1 + at % 2)).collect();
        let wide: Vec<_> = [edit(1..4, 2)]
            .into_iter()
            .chain((0..3).map(|part| edit(4 + 8 * part..12 + 8 * part, 1)))
            .chain((4..28).map(|_| page(&many).encode()))
            .collect();
        let refused = expand(&wide, 0, &number).unwrap_err();
        assert!(matches!(refused, Error::TooLarge { what: "extents of an expansion", .. }), "{refused}");
    }
}
