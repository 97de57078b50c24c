//! The pages that one is an edit of, one behind the other, and the page that is made of them.
//!
//! Chunks are looked up once for each table that they stand in. Extents only say places in tables, so what is copied
//! of a parent needs no more than the new place of each of its chunks.

use std::borrow::Cow;

use foldhash::{HashMap, HashMapExt as _, HashSet};

use super::{CHUNK, ChunkTable, EXTENTS, PageExtent, RecipePage, each_once};
use crate::format::id::ChunkId;
use crate::format::{Error, limits};

/// Says of a chunk that the new page does not use it yet.
const UNUSED: u32 = u32::MAX;
const _: () = assert!(limits::PAGE_CHUNKS_MAX < UNUSED as u64);

/// The parents of a page, as one list of extents and one table.
#[derive(Debug)]
pub(super) struct Parents<'a> {
    parents: Vec<Parent<'a>>,
    /// How many extents they have.
    len: usize,
    /// Their chunks in order of first use, each once.
    table: Cow<'a, [(ChunkId, u32)]>,
    /// Where each chunk stands in the table; not needed for a single parent, whose table it is.
    places: Option<HashMap<&'a ChunkId, u32>>,
    /// Whether every chunk has one length in all of them.
    pub(super) have_one_len: bool,
}

#[derive(Debug)]
struct Parent<'a> {
    page: &'a RecipePage,
    /// Where its first extent stands among those of all parents.
    from: usize,
    /// The place in the table of all parents, for each chunk of its own.
    places: Vec<u32>,
}

impl Parent<'_> {
    /// Returns the extents that it has of a range of those of all parents.
    fn extents(&self, start: usize, end: usize) -> &[PageExtent] {
        let within = |place: usize| place.saturating_sub(self.from).min(self.page.len());
        self.page.extents.get(within(start)..within(end)).unwrap_or_default()
    }

    /// Returns one of its extents with the chunk's place in the table of all parents.
    fn placed(&self, extent: &PageExtent) -> PageExtent {
        let index = self.places.get(extent.index as usize);
        PageExtent { index: *index.expect("a page has a place for the chunk of every extent"), ..*extent }
    }
}

impl<'a> Parents<'a> {
    /// Takes pages one behind the other. Fails where their extents are too many.
    pub(super) fn join(pages: &[&'a RecipePage]) -> Result<Self, Error> {
        let len = pages.iter().map(|page| page.len()).sum();
        limits::check("extents of the parents of a page", len as u64, limits::PAGE_EXTENTS_MAX)?;
        if let [page] = pages {
            let parents = vec![Parent { page, from: 0, places: (0..).take(page.chunks.len()).collect() }];
            let table = Cow::Borrowed(page.chunks.as_slice());
            return Ok(Self { parents, len, table, places: None, have_one_len: true });
        }
        let mut places = HashMap::with_capacity(pages.iter().map(|page| page.chunks.len()).sum());
        let mut table = ChunkTable::new();
        let mut have_one_len = true;
        let (mut next, mut from) = (0, 0);
        let mut parents = Vec::with_capacity(pages.len());
        for page in pages {
            let of_chunk = |(chunk, chunk_len): &'a (ChunkId, u32)| {
                let place: u32 = *places.entry(chunk).or_insert(next);
                if place == next {
                    table.push((*chunk, *chunk_len));
                    next += 1;
                }
                have_one_len &= table.get(place as usize).is_some_and(|(_, len)| len == chunk_len);
                place
            };
            parents.push(Parent { page, from, places: page.chunks.iter().map(of_chunk).collect() });
            from += page.len();
        }
        Ok(Self { parents, len, table: table.into(), places: Some(places), have_one_len })
    }

    /// Returns the extents of all parents, with places in the table of all.
    pub(super) fn extents(&self) -> Vec<PageExtent> {
        let mut extents = Vec::with_capacity(self.len);
        for parent in &self.parents {
            extents.extend(parent.page.extents.iter().map(|extent| parent.placed(extent)));
        }
        extents
    }

    /// Returns the place in the table of all parents for each chunk of a page, and the chunks that no parent has: their
    /// places are those behind the table. `None` where a chunk has another length in the page.
    pub(super) fn places_of(&self, page: &RecipePage) -> Option<(Vec<u32>, ChunkTable)> {
        let looked_up;
        let known = match &self.places {
            Some(places) => places,
            None => {
                looked_up = self.table.iter().map(|(chunk, _)| chunk).zip(0..).collect();
                &looked_up
            }
        };
        let mut added = ChunkTable::new();
        let mut behind = u32::try_from(self.table.len()).ok()?..;
        let mut place = |(chunk, chunk_len): &(ChunkId, u32)| match known.get(chunk) {
            Some(place) => {
                let is_that_long = self.table.get(*place as usize).is_some_and(|(_, len)| len == chunk_len);
                is_that_long.then_some(*place)
            }
            None => {
                added.push((*chunk, *chunk_len));
                behind.next()
            }
        };
        let places = page.chunks.iter().map(&mut place).collect::<Option<_>>()?;
        Some((places, added))
    }

    /// Returns whether no parent has one of these chunks, and each is there once.
    pub(super) fn are_new(&self, added: &[(ChunkId, u32)]) -> bool {
        let Some(chunks) = each_once(added) else { return false };
        match &self.places {
            Some(places) => chunks.iter().all(|chunk| !places.contains_key(*chunk)),
            None => {
                let heads = Heads::of(&chunks);
                !self.table.iter().any(|(chunk, _)| heads.may_have(chunk) && chunks.contains(chunk))
            }
        }
    }
}

/// Which first two bytes some chunks have: most others are told from them by these, without being hashed.
struct Heads([u64; 1024]);

impl Heads {
    fn of(chunks: &HashSet<&ChunkId>) -> Self {
        let mut heads = Self([0; 1024]);
        for chunk in chunks {
            let (word, bit) = Self::place(chunk);
            if let Some(word) = heads.0.get_mut(word) {
                *word |= bit;
            }
        }
        heads
    }

    fn may_have(&self, chunk: &ChunkId) -> bool {
        let (word, bit) = Self::place(chunk);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    fn place(chunk: &ChunkId) -> (usize, u64) {
        let [low, high, ..] = *chunk.as_bytes();
        let head = u16::from_le_bytes([low, high]);
        (usize::from(head / 64), 1 << (head % 64))
    }
}

/// The page that an edit makes of its parents.
#[derive(Debug)]
pub(super) struct NewPage<'a> {
    parents: &'a Parents<'a>,
    /// Chunks that no parent has.
    added: &'a [(ChunkId, u32)],
    /// For each chunk of the parents' table and each that was added the place in the page's, or [`UNUSED`].
    places: Vec<u32>,
    page: RecipePage,
}

impl<'a> NewPage<'a> {
    /// Begins a page of `len` extents. Fails where they are too many.
    pub(super) fn new(parents: &'a Parents<'a>, added: &'a [(ChunkId, u32)], len: u64) -> Result<Self, Error> {
        limits::check(EXTENTS, len, limits::PAGE_EXTENTS_MAX)?;
        let places = vec![UNUSED; parents.table.len() + added.len()];
        let extents = usize::try_from(len).map(Vec::with_capacity).unwrap_or_default();
        let chunks = Vec::with_capacity(extents.capacity().min(places.len()));
        Ok(Self { parents, added, places, page: RecipePage { chunks, extents } })
    }

    /// Adds extents of the parents.
    pub(super) fn copy(&mut self, start: u64, count: u64) -> Result<(), Error> {
        let parents = self.parents;
        let range = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(count)).ok());
        let range = range.filter(|(_, end)| *end <= parents.len);
        let (start, end) = range.ok_or(Error::Invalid { what: "copy of a page", found: start })?;
        for parent in &parents.parents {
            for extent in parent.extents(start, end) {
                let PageExtent { index, offset, len } = parent.placed(extent);
                let index = self.place(index as usize)?;
                self.page.extents.push(PageExtent { index, offset, len });
            }
        }
        Ok(())
    }

    /// Adds a range of a chunk of the table.
    pub(super) fn part(&mut self, index: u64, offset: u32, len: u32) -> Result<(), Error> {
        let (joined, chunk_len) = self.entry(index)?;
        let extent = PageExtent { index: self.place(joined)?, offset, len };
        if extent.is_whole(chunk_len) {
            return Err(Error::NotCanonical { what: EXTENTS });
        }
        self.page.extents.push(extent);
        Ok(())
    }

    /// Adds whole chunks of the table.
    pub(super) fn wholes(&mut self, start: u64, count: u64) -> Result<(), Error> {
        for index in start..start.saturating_add(count) {
            let (joined, len) = self.entry(index)?;
            let index = self.place(joined)?;
            self.page.extents.push(PageExtent { index, offset: 0, len });
        }
        Ok(())
    }

    /// Returns the page. Fails where a chunk that was added is not used, or [`RecipePage::decode`] would refuse it.
    pub(super) fn finish(self) -> Result<RecipePage, Error> {
        if self.places.iter().skip(self.parents.table.len()).any(|place| *place == UNUSED) {
            return Err(Error::NotCanonical { what: "chunks of a recipe edit" });
        }
        self.page.finish()
    }

    /// Returns the place of a chunk of the table, as an index, and its length.
    fn entry(&self, found: u64) -> Result<(usize, u32), Error> {
        let index = usize::try_from(found).ok();
        let entry = index.and_then(|index| self.chunk(index).map(|(_, chunk_len)| (index, chunk_len)));
        entry.ok_or(Error::Invalid { what: CHUNK, found })
    }

    fn chunk(&self, joined: usize) -> Option<(ChunkId, u32)> {
        let table = &self.parents.table;
        table.get(joined).or_else(|| self.added.get(joined.checked_sub(table.len())?)).copied()
    }

    /// Returns the place in the page's table of a chunk of that of the parents and the added ones.
    fn place(&mut self, joined: usize) -> Result<u32, Error> {
        match self.places.get(joined) {
            Some(place) if *place != UNUSED => Ok(*place),
            _ => self.first_use(joined),
        }
    }

    fn first_use(&mut self, joined: usize) -> Result<u32, Error> {
        let beyond = Error::Invalid { what: CHUNK, found: joined as u64 };
        let Some((chunk, chunk_len)) = self.chunk(joined) else { return Err(beyond) };
        let place = self.page.add_chunk(chunk, chunk_len)?;
        *self.places.get_mut(joined).ok_or(beyond)? = place;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

    use super::*;
    use crate::format::recipe::test_pages::{chunk, page, part};
    use crate::format::recipe::{Extent, PageEdit, StoredPage};

    fn whole(number: u8) -> Extent {
        Extent::whole(chunk(number), 1000)
    }

    /// Extents of few chunks, so that pages share them, in other places.
    fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
        let pick = |(number, is_whole, at): (u8, bool, u32)| {
            if is_whole { whole(number) } else { part(number, at * 10, 10) }
        };
        vec((0..20_u8, any::<bool>(), 0..4_u32).prop_map(pick), 1..40).prop_map(merged)
    }

    /// Leaves out what continues the extent before it.
    fn merged(extents: Vec<Extent>) -> Vec<Extent> {
        let mut kept: Vec<Extent> = Vec::new();
        for extent in extents {
            if kept.last().is_none_or(|last| !last.is_continued_by(&extent)) {
                kept.push(extent);
            }
        }
        kept
    }

    /// Takes the extents of pages one behind the other, by their chunks and not by tables, as the format says it.
    fn one_behind_the_other(pages: &[RecipePage]) -> (Vec<Extent>, Vec<ChunkId>) {
        let extents: Vec<Extent> = pages.iter().flat_map(RecipePage::extents).collect();
        let mut table = Vec::new();
        for extent in &extents {
            if !table.contains(&extent.chunk) {
                table.push(extent.chunk);
            }
        }
        (extents, table)
    }

    proptest! {
        #[test]
        fn what_is_read_what_is_made_and_what_an_edit_makes_is_the_same_page(
            parents in vec(any_extents(), 1..5),
            news in any_extents(),
            copies in vec((any::<u16>(), any::<u16>()), 0..6),
            from in any::<u16>(),
        ) {
            let parents: Vec<RecipePage> = parents.iter().map(|extents| page(extents)).collect();
            let old: Vec<&RecipePage> = parents.iter().collect();
            let (joined, chunks) = one_behind_the_other(&parents);
            let table: Vec<ChunkId> = Parents::join(&old).unwrap().table.iter().map(|(chunk, _)| *chunk).collect();
            prop_assert_eq!(table, chunks);

            let mut extents = news;
            for (start, len) in copies {
                let start = usize::from(start) % joined.len();
                let end = start + 1 + usize::from(len) % (joined.len() - start);
                let at = usize::from(from) % extents.len();
                extents.splice(at..at, joined[start..end].iter().copied());
            }
            let extents = merged(extents);
            let new = page(&extents);
            prop_assert_eq!(new.extents().collect::<Vec<_>>(), &extents[..]);
            prop_assert_eq!(RecipePage::decode(&new.encode()), Ok(new.clone()));
            let ids: Vec<ChunkId> = (200..).take(old.len()).map(chunk).collect();
            let edit = PageEdit::between(&ids, 1, &old, &new).unwrap();
            prop_assert_eq!(StoredPage::decode(&edit.encode()), Ok(StoredPage::Edit(edit.clone())));
            prop_assert_eq!(edit.apply(&old), Ok(new));
        }
    }

    #[test]
    fn a_chunk_has_one_place_whichever_parents_use_it_and_wherever() {
        let left = page(&[whole(1), whole(2), part(3, 0, 10)]);
        let right = page(&[whole(3), whole(4), part(1, 5, 5), whole(5), whole(2)]);
        let parents = Parents::join(&[&left, &right]).unwrap();
        let added = [(chunk(6), 70)];
        assert!(parents.are_new(&added) && parents.have_one_len);
        let mut made = NewPage::new(&parents, &added, 9).unwrap();
        made.wholes(3, 3).unwrap();
        made.part(0, 7, 3).unwrap();
        // Over the end of one parent and the beginning of the other.
        made.copy(1, 4).unwrap();
        made.part(5, 1, 2).unwrap();
        let expected = [
            whole(4),
            whole(5),
            Extent::whole(chunk(6), 70),
            part(1, 7, 3),
            whole(2),
            part(3, 0, 10),
            whole(3),
            whole(4),
            Extent { chunk: chunk(6), chunk_len: 70, offset: 1, len: 2 },
        ];
        let made = made.finish().unwrap();
        assert_eq!(made, page(&expected));
        let table: Vec<ChunkId> = made.chunks.iter().map(|(chunk, _)| *chunk).collect();
        assert_eq!(table, [4, 5, 6, 1, 2, 3].map(chunk));
    }

    #[test]
    fn what_parents_do_not_have_is_refused() {
        let left = page(&[whole(1), part(2, 0, 10)]);
        let right = page(&[part(2, 10, 10), whole(3)]);
        let added = [(chunk(4), 1000)];
        let parents = Parents::join(&[&left, &right]).unwrap();
        let make = |of: &dyn Fn(&mut NewPage<'_>) -> Result<(), Error>| {
            let mut page = NewPage::new(&parents, &added, 8)?;
            page.wholes(3, 1)?;
            of(&mut page)?;
            page.finish()
        };
        assert!(make(&|_| Ok(())).is_ok());
        assert!(make(&|page| page.copy(3, 1)).is_ok() && make(&|page| page.copy(3, 2)).is_err());
        assert!(make(&|page| page.copy(4, 1)).is_err() && make(&|page| page.copy(u64::MAX, u64::MAX)).is_err());
        assert!(make(&|page| page.wholes(2, 2)).is_ok() && make(&|page| page.wholes(2, 3)).is_err());
        assert!(make(&|page| page.wholes(u64::MAX, 1)).is_ok(), "a run behind all numbers is empty");
        assert!(make(&|page| page.part(3, 1, 1)).is_ok() && make(&|page| page.part(4, 1, 1)).is_err());
        assert!(make(&|page| page.part(u64::MAX, 1, 1)).is_err());
        assert!(make(&|page| page.part(3, 0, 1000)).is_err() && make(&|page| page.part(3, 1, 1000)).is_err());
        // Each of the parents is in one piece, and so is what is copied of it; both together are not.
        assert!(make(&|page| page.copy(1, 1)).is_ok() && make(&|page| page.copy(2, 1)).is_ok());
        assert!(make(&|page| page.copy(1, 2)).is_err(), "extents that continue each other");
        let unused =
            NewPage::new(&parents, &added, 1).and_then(|mut page| page.copy(0, 1).and_then(|()| page.finish()));
        assert!(unused.is_err(), "a chunk that is added and not used");
    }

    #[test]
    fn a_chunk_that_is_added_is_in_no_parent_and_there_once() {
        let (left, right) = (page(&[whole(1), whole(2)]), page(&[whole(3), whole(1)]));
        // Ids that begin alike are told apart by the rest.
        let mut twin = *chunk(1).as_bytes();
        twin[31] = 0;
        let twin = ChunkId::from_bytes(twin);
        for pages in [&[&left][..], &[&left, &right]] {
            let parents = Parents::join(pages).unwrap();
            assert!(parents.are_new(&[]) && parents.are_new(&[(chunk(4), 1), (twin, 1000)]));
            assert!(!parents.are_new(&[(chunk(4), 1), (chunk(4), 1)]) && !parents.are_new(&[(twin, 1), (chunk(2), 1)]));
            assert_eq!(parents.are_new(&[(chunk(3), 1000)]), pages.len() == 1);
        }
    }

    #[test]
    fn chunks_with_two_lengths_and_tables_that_are_too_long_are_refused() {
        let other = page(&[Extent::whole(chunk(9), 5), Extent::whole(chunk(2), 999)]);
        let old = page(&[whole(1), whole(2)]);
        assert!(!Parents::join(&[&old, &other]).unwrap().have_one_len);
        // Though only what has one length is used.
        let copy = PageEdit::between(&[chunk(77), chunk(78)], 1, &[&old, &old], &page(&[whole(1)])).unwrap();
        assert!(copy.apply(&[&old, &old]).is_ok() && copy.apply(&[&old, &other]).is_err());
        assert!(PageEdit::between(&[chunk(77)], 1, &[&old], &other).is_none());

        let long = |from: u32, count: u32| {
            let id = |number: u32| {
                let mut id = [0; 32];
                id[..4].copy_from_slice(&number.to_le_bytes());
                Extent::whole(ChunkId::from_bytes(id), 10)
            };
            page(&(from..from + count).map(id).collect::<Vec<_>>())
        };
        let most = u32::try_from(limits::PAGE_CHUNKS_MAX).unwrap();
        let (left, right) = (long(0, most), long(most, 1));
        let parents = Parents::join(&[&left, &right]).unwrap();
        let make = |count: u64| {
            let mut page = NewPage::new(&parents, &[], count)?;
            page.copy(0, count)?;
            page.finish()
        };
        assert_eq!(make(u64::from(most)), Ok(left.clone()));
        let refused = make(u64::from(most) + 1).unwrap_err();
        assert!(matches!(refused, Error::TooLarge { what: "chunks of a recipe page", .. }), "{refused}");
        assert!(NewPage::new(&parents, &[], limits::PAGE_EXTENTS_MAX + 1).is_err());
        assert!(Parents::join(&[&left, &left, &left, &left]).is_ok());
        assert!(Parents::join(&[&left, &left, &left, &left, &right]).is_err());
    }
}
