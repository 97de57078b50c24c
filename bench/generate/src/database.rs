//! What the database holds on a given night: which documents, in which order, and when each was last changed.

use crate::random::Random;

/// How a collection changes from night to night.
#[derive(Clone, Copy, PartialEq)]
pub enum Habit {
    /// Documents are rewritten where they lie, a few are deleted.
    Rewritten,
    /// Documents are added at the end, none is touched: what a tool with large chunks deduplicates well.
    Appended,
    /// Nothing happens.
    Still,
}

/// What the documents of a collection look like.
#[derive(Clone, Copy, PartialEq)]
pub enum Shape {
    /// Lines with prices, an address.
    Order,
    /// Mostly text.
    Message,
    /// Identifiers, a device, little text.
    Session,
    /// Who did what, with a copy of the fields that changed.
    Event,
}

/// One document: a number that never returns, and the night of its last change. Its bytes follow from these.
#[derive(Clone, Copy)]
pub struct Entry {
    pub number: u32,
    pub revision: u16,
}

/// One collection on one night.
pub struct Collection {
    pub name: String,
    pub shape: Shape,
    pub habit: Habit,
    pub entries: Vec<Entry>,
    next_number: u32,
    /// How many documents a night adds where any are added: 1 % of the first night's, so that a year of nights is
    /// not mostly new documents.
    appended_count: usize,
}

/// The whole database on one night.
pub struct Database {
    pub seed: u64,
    pub night: u16,
    pub collections: Vec<Collection>,
}

/// The large collections: name, shape, habit, share of the database in percent. What the shares leave goes to the
/// small collections.
const LARGE: [(&str, Shape, Habit, u64); 5] = [
    ("audit_events", Shape::Event, Habit::Appended, 22),
    ("invoices", Shape::Order, Habit::Appended, 17),
    ("messages", Shape::Message, Habit::Rewritten, 22),
    ("orders", Shape::Order, Habit::Rewritten, 24),
    ("sessions", Shape::Session, Habit::Rewritten, 13),
];
/// How many small collections there are: a database has many that hold next to nothing. One of them is empty.
const SMALL_COUNT: u32 = 24;
/// What a document has on average, framing included, in bytes.
const DOCUMENT_LEN_MEAN: u64 = 900;

impl Database {
    /// Returns the first night, whose dump has about `bytes` bytes.
    pub fn first_night(seed: u64, bytes: u64) -> Self {
        let documents = bytes / DOCUMENT_LEN_MEAN;
        let mut collections = Vec::new();
        let mut add = |name: String, shape, habit, count: u64| {
            let next_number = u32::try_from(count).unwrap_or(u32::MAX);
            let entries = (0..next_number).map(|number| Entry { number, revision: 1 }).collect();
            let appended_count = (count / 100) as usize;
            collections.push(Collection { name, shape, habit, entries, next_number, appended_count });
        };
        for (name, shape, habit, percent) in LARGE {
            let by_len = DOCUMENT_LEN_MEAN as f64 / shape.len_mean() as f64;
            add(name.to_owned(), shape, habit, ((documents * percent / 100) as f64 * by_len) as u64);
        }
        let rest = 100 - LARGE.iter().map(|(.., percent)| percent).sum::<u64>();
        for small in 0..SMALL_COUNT {
            let count = documents * rest / 100 * u64::from(small) * 2 / u64::from(SMALL_COUNT * SMALL_COUNT);
            add(format!("tenant_{small:02}_settings"), Shape::Session, Habit::Still, count);
        }
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        Self { seed, night: 1, collections }
    }

    /// Turns this night into the next one.
    pub fn next_night(&mut self) {
        self.night += 1;
        let night = self.night;
        for (index, collection) in self.collections.iter_mut().enumerate() {
            let mut random = Random::new(&[self.seed, 1, u64::from(night), index as u64]);
            collection.next_night(night, &mut random);
        }
    }
}

impl Collection {
    fn next_night(&mut self, night: u16, random: &mut Random) {
        match self.habit {
            Habit::Rewritten => {
                self.entries.retain(|_| random.below(1000) >= 2);
                for entry in &mut self.entries {
                    if random.below(100) == 0 {
                        entry.revision = night;
                    }
                }
            }
            Habit::Appended => {
                for _ in 0..self.appended_count {
                    self.entries.push(Entry { number: self.next_number, revision: night });
                    self.next_number += 1;
                }
            }
            Habit::Still => {}
        }
    }
}

impl Shape {
    /// Returns about how many bytes a document of this shape has.
    fn len_mean(self) -> u64 {
        match self {
            Self::Order => 1060,
            Self::Message => 1025,
            Self::Session => 620,
            Self::Event => 860,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_night_rewrites_appends_and_deletes_what_it_promises() {
        let mut database = Database::first_night(3, 64 << 20);
        let before: Vec<usize> = database.collections.iter().map(|collection| collection.entries.len()).collect();
        database.next_night();
        for (collection, before) in database.collections.iter().zip(before) {
            let now = &collection.entries;
            let new = now.iter().filter(|entry| entry.revision == 2).count() as f64 / before.max(1) as f64;
            let kept = now.iter().filter(|entry| (entry.number as usize) < before).count();
            let gone = (before - kept) as f64 / before.max(1) as f64;
            match collection.habit {
                Habit::Still => assert_eq!((new, gone), (0.0, 0.0)),
                Habit::Rewritten => {
                    assert!((0.008..0.012).contains(&new) && (0.001..0.003).contains(&gone), "{new} {gone}");
                    assert_eq!(kept, now.len(), "nothing is appended");
                }
                Habit::Appended => {
                    assert!((0.009..0.011).contains(&new) && gone == 0.0, "{new} {gone}");
                    assert!(now.iter().filter(|entry| entry.revision == 2).all(|e| e.number as usize >= before));
                }
            }
        }
    }

    #[test]
    fn one_collection_is_empty() {
        let database = Database::first_night(3, 64 << 20);
        assert_eq!(database.collections.iter().filter(|collection| collection.entries.is_empty()).count(), 1);
    }
}
