//! Snapshots that were forgotten: what is left restores, and later nights do not miss them.

use std::collections::{BTreeMap, BTreeSet};

use orkvault::format::object::{ObjectKey, ObjectPrefix};
use orkvault::ops::NoProgress;
use orkvault::ops::check::{CheckOptions, check};
use proptest::prelude::{Strategy, any, prop};

use crate::support::night;
use crate::support::repository::{self, Made, noise};
use crate::support::sources::MemoryContent;

/// A night that was kept: its snapshot, what was put for it alone, and what it holds.
struct Kept {
    id: String,
    objects: Vec<ObjectKey>,
    content: MemoryContent,
}

async fn objects(made: &Made) -> BTreeSet<(String, ObjectKey)> {
    let listed = made.open_writer().await.list(ObjectPrefix::All).await.unwrap();
    listed.into_iter().map(|(key, _)| (key.to_string(), key)).collect()
}

#[derive(Debug, Clone)]
struct Event {
    /// Where bytes are replaced, removed and put in, in thousandths of the stream.
    replaced: Vec<u16>,
    cut: Option<(u16, u16)>,
    moved: Option<u16>,
    /// Which of the kept nights are forgotten before this one, counted from the newest.
    forgotten: Vec<usize>,
    is_cache_lost: bool,
}

fn event() -> impl Strategy<Value = Event> {
    let place = || 0_u16..1000;
    (
        prop::collection::vec(place(), 0..4),
        prop::option::weighted(0.3, (place(), 0_u16..100)),
        prop::option::weighted(0.3, place()),
        prop::collection::vec(0_usize..4, 0..3),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(replaced, cut, moved, forgotten, is_cache_lost)| Event {
            replaced,
            cut,
            moved,
            forgotten,
            is_cache_lost,
        })
}

fn apply(event: &Event, bytes: &mut Vec<u8>, seed: u64) {
    let place = |len: usize, at: u16| usize::from(at) * len / 1000;
    for (number, at) in event.replaced.iter().enumerate() {
        let at = place(bytes.len(), *at);
        let end = (at + 300).min(bytes.len());
        bytes.splice(at..end, noise(seed + number as u64, 350));
    }
    if let Some((at, share)) = event.cut {
        let from = place(bytes.len(), at);
        let end = (from + place(bytes.len(), share)).min(bytes.len());
        bytes.drain(from..end);
    }
    if let Some(at) = event.moved {
        let at = place(bytes.len(), at);
        bytes.rotate_left(at);
    }
    if bytes.len() < 50_000 {
        bytes.extend(noise(seed + 77, 100_000));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 6, ..Default::default() })]

    /// Nights that edit and shuffle a stream, between which random ones are forgotten, among them the one that the piece
    /// cache describes: whatever is left restores, and every byte of it is found right.
    #[test]
    fn the_snapshots_that_are_left_restore_whatever_was_forgotten(
        seed in 1_u64..1_000_000,
        events in prop::collection::vec(event(), 6..14),
        is_last_forgotten in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (made, mut cache) = (repository::make().await, tempfile::tempdir().unwrap());
            let mut bytes = noise(seed, 300_000);
            let mut kept: Vec<Kept> = Vec::new();
            let forget = |kept: &mut Vec<Kept>, back: usize| {
                let Some(at) = kept.len().checked_sub(back + 1) else { return };
                for key in kept.remove(at).objects {
                    made.backend.remove(key).unwrap();
                }
            };
            for (second, event) in (1_790_000_000_i64..).zip(&events) {
                for back in &event.forgotten {
                    forget(&mut kept, *back);
                }
                if event.is_cache_lost {
                    cache = tempfile::tempdir().unwrap();
                }
                let number = u64::try_from(second - 1_790_000_000).unwrap();
                apply(event, &mut bytes, seed * 1000 + number * 10);
                let content = MemoryContent {
                    streams: BTreeMap::from([("dump".to_owned(), bytes.clone())]),
                    entries: BTreeMap::from([(b"entry".to_vec(), (number / 3, noise(seed + number / 3, 2_000)))]),
                };
                let before = objects(&made).await;
                let taken = night::take(&made.open_writer_at(cache.path()).await, second, &content).await.unwrap();
                let is_own = |name: &str| name.starts_with("secrets/") || name.starts_with("data/snapshots/");
                let after = objects(&made).await;
                let own = after.difference(&before).filter(|(name, _)| is_own(name)).map(|(_, key)| *key).collect();
                kept.push(Kept { id: taken.id.to_string(), objects: own, content });
            }
            if is_last_forgotten {
                forget(&mut kept, 0);
            }
            let reader = made.open_reader().await;
            for night in &kept {
                let found = night::give(&reader, &night.id).await.unwrap();
                assert!(found == night.content, "{} came back otherwise", night.id);
            }
            // A link that is gone shows; nothing else is wrong.
            let found = check(&reader, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
            let is_of_chain = |problem: &str| problem.contains("followed it") || problem.contains("follows none");
            let wrong: Vec<_> = found.findings.iter().filter(|finding| !is_of_chain(&finding.problem)).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
        });
    }
}
