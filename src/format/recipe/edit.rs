//! A page as an edit of earlier pages (`docs/FORMAT.md`, section 9.2).

use foldhash::HashMap;

use super::parents::{NewPage, Parents};
use super::{PageExtent, RecipePage};
use crate::format::cursor::{Cursor, push_varint};
use crate::format::id::ChunkId;
use crate::format::{Error, limits};

/// The first byte of a page that is an edit.
pub(super) const FORM: u8 = 1;

const COPY_NEXT: u64 = 0;
const COPY_AT: u64 = 1;
const PART: u64 = 2;
const WHOLE: u64 = 3;

const WHAT: &str = "recipe edit";

/// One step of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Extents of the parents, one behind the other.
    Copy { start: u64, count: u64 },
    /// A range of a chunk of the table.
    Part { index: u64, offset: u32, len: u32 },
    /// Whole consecutive chunks of the table.
    Whole { start: u64, count: u64 },
}

/// A page that says what differs from earlier pages, its parents, taken one behind the other.
///
/// Its table is the parents' chunks in order of their first use there, then those that it adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEdit {
    /// The chunks that hold the parents: 1 to [`limits::PAGE_PARENTS_MAX`], each once.
    pub parents: Vec<ChunkId>,
    /// One more than the deepest parent's, 1 to [`limits::RECIPE_DEPTH_MAX`]; a whole page has depth 0.
    pub depth: u8,
    /// Chunks that no parent uses, with their lengths.
    chunks: Vec<(ChunkId, u32)>,
    steps: Vec<Step>,
}

impl PageEdit {
    /// Returns what makes `new` out of the pages `old`, which the chunks `parents` hold; `None` where these are none, too
    /// many or not so many as pages, their extents are too many, a chunk has another length in them, or `depth` is above the
    /// limit.
    #[must_use]
    pub fn between(parents: &[ChunkId], depth: u8, old: &[&RecipePage], new: &RecipePage) -> Option<Self> {
        let count = limits::check(WHAT, parents.len() as u64, limits::PAGE_PARENTS_MAX).ok()?;
        let is_deep = u64::from(depth) > limits::RECIPE_DEPTH_MAX;
        let is_twice = |place: usize| parents.iter().take(place).any(|earlier| parents.get(place) == Some(earlier));
        if count == 0 || old.len() != parents.len() || depth == 0 || is_deep || (0..parents.len()).any(is_twice) {
            return None;
        }
        let joined = Parents::join(old).ok()?;
        let (chunk_places, chunks) = joined.places_of(new)?;
        let old = joined.extents();
        let mut places: HashMap<PageExtent, u64> = HashMap::default();
        for (place, extent) in (0..).zip(&old) {
            places.entry(*extent).or_insert(place);
        }
        let mut edit = Self { parents: parents.to_vec(), depth, chunks, steps: Vec::new() };
        let mut next = 0;
        for extent in &new.extents {
            let index = *chunk_places.get(extent.index as usize)?;
            let wanted = PageExtent { index, ..*extent };
            let at_next = usize::try_from(next).ok().and_then(|next| old.get(next));
            let place = if at_next == Some(&wanted) { Some(next) } else { places.get(&wanted).copied() };
            if let Some(place) = place {
                edit.copy(place);
                next = place + 1;
            } else {
                edit.add(&wanted, new.chunk_of(extent).1);
            }
        }
        Some(edit)
    }

    fn copy(&mut self, place: u64) {
        match self.steps.last_mut() {
            Some(Step::Copy { start, count }) if *start + *count == place => *count += 1,
            _ => self.steps.push(Step::Copy { start: place, count: 1 }),
        }
    }

    /// Adds an extent of a chunk that has `chunk_len` bytes.
    fn add(&mut self, extent: &PageExtent, chunk_len: u32) {
        let index = u64::from(extent.index);
        if !extent.is_whole(chunk_len) {
            self.steps.push(Step::Part { index, offset: extent.offset, len: extent.len });
            return;
        }
        match self.steps.last_mut() {
            Some(Step::Whole { start, count }) if *start + *count == index => *count += 1,
            _ => self.steps.push(Step::Whole { start: index, count: 1 }),
        }
    }

    /// Returns how many extents are copied of each of the pages `old` that the edit was made of.
    #[must_use]
    pub fn copied(&self, old: &[&RecipePage]) -> Vec<u64> {
        let mut end = 0;
        let of_page = |page: &&RecipePage| {
            let from = end;
            end += page.len() as u64;
            let within = |step: &Step| match *step {
                Step::Copy { start, count } => (start + count).min(end).saturating_sub(start.max(from)),
                Step::Part { .. } | Step::Whole { .. } => 0,
            };
            self.steps.iter().map(within).sum()
        };
        old.iter().map(of_page).collect()
    }

    /// Returns how many steps and chunks it holds.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.chunks.len() + self.steps.len()
    }

    /// Returns the page that this edit makes of its parents. Fails where it reaches beyond their chunks or
    /// extents, or makes a page that [`RecipePage::decode`] would refuse.
    pub fn apply(&self, old: &[&RecipePage]) -> Result<RecipePage, Error> {
        let parents = Parents::join(old)?;
        if !parents.have_one_len || !parents.are_new(&self.chunks) {
            return Err(Error::NotCanonical { what: WHAT });
        }
        let mut page = NewPage::new(&parents, &self.chunks, self.made_len())?;
        for step in &self.steps {
            match *step {
                Step::Copy { start, count } => page.copy(start, count)?,
                Step::Part { index, offset, len } => page.part(index, offset, len)?,
                Step::Whole { start, count } => page.wholes(start, count)?,
            }
        }
        page.finish()
    }

    /// Returns how many extents the page has that this edit makes.
    fn made_len(&self) -> u64 {
        let count = |step: &Step| match *step {
            Step::Copy { count, .. } | Step::Whole { count, .. } => count,
            Step::Part { .. } => 1,
        };
        self.steps.iter().map(count).fold(0, u64::saturating_add)
    }

    /// Returns the page's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORM];
        out.push(self.depth);
        push_varint(&mut out, self.parents.len() as u64);
        for parent in &self.parents {
            out.extend_from_slice(parent.as_bytes());
        }
        super::push_chunks(&mut out, &self.chunks);
        push_varint(&mut out, self.steps.len() as u64);
        let mut next = 0;
        for step in &self.steps {
            match *step {
                Step::Copy { start, count } => {
                    let kind = if start == next { COPY_NEXT } else { COPY_AT };
                    push_varint(&mut out, (count << 2) | kind);
                    if kind == COPY_AT {
                        push_varint(&mut out, start);
                    }
                    next = start + count;
                }
                Step::Part { index, offset, len } => {
                    push_varint(&mut out, (index << 2) | PART);
                    push_varint(&mut out, u64::from(offset));
                    push_varint(&mut out, u64::from(len));
                }
                Step::Whole { start, count } => {
                    push_varint(&mut out, (count << 2) | WHOLE);
                    push_varint(&mut out, start);
                }
            }
        }
        out
    }

    /// Reads an edit, its form byte included. Accepts only what [`PageEdit::encode`] writes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(WHAT, bytes);
        let _ = cursor.u8()?;
        let depth = cursor.u8()?;
        if depth == 0 {
            return Err(Error::Invalid { what: "depth of a recipe edit", found: 0 });
        }
        limits::check("depth of a recipe edit", u64::from(depth), limits::RECIPE_DEPTH_MAX)?;
        let parents = take_parents(&mut cursor)?;
        let chunks = super::take_chunks(&mut cursor)?;
        let count = cursor.count("steps of a recipe edit", limits::PAGE_EXTENTS_MAX)?;
        let mut steps: Vec<Step> = Vec::new();
        let mut next = 0;
        for _ in 0..count {
            let op = cursor.varint()?;
            let value = op >> 2;
            let step = match op & 3 {
                kind @ (COPY_NEXT | COPY_AT) => {
                    let start = if kind == COPY_NEXT { next } else { cursor.varint()? };
                    limits::check(WHAT, start, limits::PAGE_EXTENTS_MAX)?;
                    limits::check(WHAT, value, limits::PAGE_EXTENTS_MAX)?;
                    next = start + value;
                    Step::Copy { start, count: value }
                }
                PART => Step::Part {
                    index: value,
                    offset: super::narrow(cursor.varint()?)?,
                    len: super::narrow(cursor.varint()?)?,
                },
                _ => {
                    limits::check(WHAT, value, limits::PAGE_EXTENTS_MAX)?;
                    // The table has the chunks of the parents and those of the edit.
                    Step::Whole {
                        start: limits::check(WHAT, cursor.varint()?, 2 * limits::PAGE_EXTENTS_MAX)?,
                        count: value,
                    }
                }
            };
            let continues = match (steps.last(), step) {
                (Some(Step::Copy { start, count }), Step::Copy { start: next, .. })
                | (Some(Step::Whole { start, count }), Step::Whole { start: next, .. }) => start + count == next,
                _ => false,
            };
            if continues || matches!(step, Step::Copy { count: 0, .. } | Step::Whole { count: 0, .. }) {
                return Err(Error::NotCanonical { what: WHAT });
            }
            steps.push(step);
        }
        cursor.end()?;
        let edit = Self { parents, depth, chunks, steps };
        if edit.encode() == bytes { Ok(edit) } else { Err(Error::NotCanonical { what: WHAT }) }
    }
}

fn take_parents(cursor: &mut Cursor<'_>) -> Result<Vec<ChunkId>, Error> {
    let what = "parents of a recipe edit";
    let count = cursor.count(what, limits::PAGE_PARENTS_MAX)?;
    let mut parents: Vec<ChunkId> = Vec::new();
    for _ in 0..count {
        let parent = ChunkId::take(cursor)?;
        if parents.contains(&parent) {
            return Err(Error::NotCanonical { what });
        }
        parents.push(parent);
    }
    if parents.is_empty() { Err(Error::Invalid { what, found: 0 }) } else { Ok(parents) }
}

/// A page as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPage {
    /// Form 0.
    Whole(RecipePage),
    /// Form 1.
    Edit(PageEdit),
}

impl StoredPage {
    /// Reads a page of any form.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.first() {
            Some(&FORM) => PageEdit::decode(bytes).map(Self::Edit),
            _ => RecipePage::decode(bytes).map(Self::Whole),
        }
    }

    /// Returns the page's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Whole(page) => page.encode(),
            Self::Edit(edit) => edit.encode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::recipe::Extent;
    use crate::format::recipe::test_pages::{chunk, page, part};

    #[test]
    fn an_edit_makes_the_new_page_of_the_old_one() {
        let whole = |number| Extent::whole(chunk(number), 1000);
        let old = page(&[whole(1), whole(2), part(3, 0, 10), whole(4), whole(5)]);
        let cases = [
            old.clone(),
            page(&[whole(1)]),
            page(&[whole(9)]),
            page(&[whole(5), whole(4), whole(9), whole(10), part(2, 1, 5), whole(1), whole(2), part(3, 0, 10)]),
            page(&[whole(1), part(2, 0, 400), part(9, 7, 3), part(2, 500, 500), part(3, 0, 10), whole(4), whole(5)]),
        ];
        for new in &cases {
            let edit = PageEdit::between(&[chunk(77)], 3, &[&old], new).unwrap();
            let stored = StoredPage::decode(&edit.encode()).unwrap();
            assert_eq!(stored, StoredPage::Edit(edit.clone()));
            assert_eq!(edit.apply(&[&old]).unwrap(), *new);
        }
        for (parents, depth, pages) in [(1, 0, 1), (1, 33, 1), (0, 1, 0), (9, 1, 9), (2, 1, 1)] {
            let parents: Vec<_> = (0..parents).map(chunk).collect();
            assert!(PageEdit::between(&parents, depth, &vec![&old; pages], &old).is_none(), "{parents:?} {depth}");
        }
    }

    #[test]
    fn an_edit_takes_its_extents_from_several_pages() {
        let whole = |number| Extent::whole(chunk(number), 1000);
        let left = page(&(0..100).map(whole).collect::<Vec<_>>());
        let right = page(&(100..200).map(whole).chain([part(7, 0, 5)]).collect::<Vec<_>>());
        let new: Vec<_> = (0..10).map(whole).chain((100..110).map(whole)).chain((10..100).map(whole)).collect();
        let new = page(&[new, (110..120).map(whole).collect(), vec![part(7, 0, 5), part(7, 9, 5)]].concat());
        let edit = PageEdit::between(&[chunk(254), chunk(255)], 1, &[&left, &right], &new).unwrap();
        assert_eq!(edit.copied(&[&left, &right]), [100, 21]);
        assert_eq!(StoredPage::decode(&edit.encode()), Ok(StoredPage::Edit(edit.clone())));
        assert_eq!(edit.apply(&[&left, &right]).unwrap(), new);
        assert!(edit.encode().len() < 100, "no chunk is named again");
        assert!(edit.apply(&[&left]).is_err() && edit.apply(&[]).is_err());
        assert_ne!(edit.apply(&[&right, &left]).ok(), Some(new));
        // A chunk has one length, in all parents.
        let other = page(&[Extent::whole(chunk(5), 999)]);
        let edit = PageEdit::between(&[chunk(254), chunk(255)], 1, &[&left, &other], &left).unwrap();
        assert!(edit.apply(&[&left, &left]).is_ok() && edit.apply(&[&left, &other]).is_err());
    }

    #[test]
    fn a_changed_extent_costs_a_few_bytes() {
        let old = page(&(0..200).map(|number| Extent::whole(chunk(number), 1000)).collect::<Vec<_>>());
        let mut new: Vec<_> = old.extents().collect();
        new.splice(50..51, [part(50, 0, 300), part(201, 0, 80), part(50, 380, 620)]);
        let new = page(&new);
        let edit = PageEdit::between(&[chunk(255)], 1, &[&old], &new).unwrap().encode();
        // A chunk (34), its parent and head (37), two copies and three parts.
        assert!(edit.len() < 34 + 37 + 6 + 3 * 7, "{} bytes", edit.len());
    }

    #[test]
    fn hostile_edits_are_refused() {
        let old = page(&[Extent::whole(chunk(1), 1000), part(2, 0, 10)]);
        let edit = |chunks: &[(ChunkId, u32)], steps: &[Step]| PageEdit {
            parents: vec![chunk(7)],
            depth: 1,
            chunks: chunks.to_vec(),
            steps: steps.to_vec(),
        };
        let hostile = [
            edit(&[], &[]),
            edit(&[], &[Step::Copy { start: 1, count: 2 }]),
            edit(&[], &[Step::Copy { start: 5, count: 1 }]),
            edit(&[], &[Step::Whole { start: 1, count: 60_000 }]),
            edit(&[], &[Step::Part { index: 2, offset: 0, len: 1 }]),
            edit(&[], &[Step::Part { index: 0, offset: 999, len: 2 }]),
            edit(&[], &[Step::Part { index: 0, offset: 5, len: 0 }]),
            edit(&[], &[Step::Part { index: 0, offset: 0, len: 1000 }]),
            edit(&[(chunk(1), 1000)], &[Step::Copy { start: 0, count: 2 }]),
            edit(&[(chunk(3), 1000)], &[Step::Copy { start: 0, count: 2 }]),
            edit(&[(chunk(3), 1000), (chunk(3), 1000)], &[Step::Whole { start: 2, count: 1 }]),
            edit(&[], &[Step::Part { index: 0, offset: 0, len: 5 }, Step::Part { index: 0, offset: 5, len: 5 }]),
        ];
        for edit in &hostile {
            assert!(edit.apply(&[&old]).is_err(), "{edit:?}");
        }
        assert!(PageEdit::between(&[chunk(7), chunk(7)], 1, &[&old, &old], &old).is_none());
        let undecodable = [
            edit(&[], &[Step::Copy { start: 0, count: 0 }]),
            edit(&[], &[Step::Copy { start: 0, count: 1 }, Step::Copy { start: 1, count: 1 }]),
            edit(&[], &[Step::Whole { start: 0, count: 0 }]),
            edit(&[], &[Step::Whole { start: u64::MAX, count: 1 }, Step::Whole { start: u64::MAX, count: 1 }]),
            edit(&[], &[Step::Copy { start: 0, count: 1 }, Step::Whole { start: u64::MAX, count: 1 }]),
            edit(&[], &[Step::Whole { start: 0, count: 1 }, Step::Whole { start: 1, count: 1 }]),
            PageEdit { depth: 0, ..edit(&[], &[Step::Copy { start: 0, count: 1 }]) },
            PageEdit { depth: 33, ..edit(&[], &[Step::Copy { start: 0, count: 1 }]) },
            PageEdit { parents: vec![], ..edit(&[], &[Step::Copy { start: 0, count: 1 }]) },
            PageEdit { parents: vec![chunk(7), chunk(7)], ..edit(&[], &[Step::Copy { start: 0, count: 1 }]) },
            PageEdit { parents: (0..9).map(chunk).collect(), ..edit(&[], &[Step::Copy { start: 0, count: 1 }]) },
        ];
        for edit in &undecodable {
            assert!(StoredPage::decode(&edit.encode()).is_err(), "{edit:?}");
        }
    }
}
