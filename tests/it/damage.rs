//! Whatever happens to the stored bytes: `check --read-data` names the object, and no restore yields wrong
//! bytes.

use std::sync::Arc;

use bytes::Bytes;
use orkvault::backend::{Backend as _, Counted, ErrorKind, Fault, FaultBackend, MemoryBackend};
use orkvault::component::Source;
use orkvault::format::object::ObjectKey;
use orkvault::ops::NoProgress;
use orkvault::ops::check::{CheckOptions, Finding, check};
use orkvault::ops::snapshot::snapshot;
use orkvault::repo::Access;

use crate::support::night::{Said, Still, give, options, take};
use crate::support::repository::{self, DATA_PASSPHRASE, Made, SECRETS_PASSPHRASE, noise, passphrase};
use crate::support::sources::{MemoryContent, MemorySource};

fn content() -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("stream".to_owned(), noise(1, 3_000));
    content.entries.insert(b"bucket/".to_vec(), (1, Vec::new()));
    content.entries.insert(b"bucket/object".to_vec(), (1, noise(2, 500)));
    content
}

async fn small() -> Made {
    let made = repository::make().await;
    take(&made.open_writer().await, 1_790_000_000, &content()).await.unwrap();
    made
}

fn both() -> Vec<Access> {
    vec![Access::Data(passphrase(DATA_PASSPHRASE)), Access::Secrets(passphrase(SECRETS_PASSPHRASE))]
}

/// Opens with readers and checks; a repository that does not open is one finding.
async fn findings(backend: &MemoryBackend, access: Vec<Access>) -> Vec<Finding> {
    let backend = Arc::new(backend.clone());
    let options = orkvault::repo::OpenOptions { cache: None, entropy: Arc::new(orkvault::crypto::SystemEntropy) };
    let repository = match orkvault::repo::Repository::open(backend, access, options).await {
        Ok(repository) => repository,
        Err(error) => {
            let problem = orkvault::ops::snapshot::reason(&error);
            return vec![Finding { object: problem.clone(), problem, affects: Vec::new() }];
        }
    };
    check(&repository, CheckOptions { read_data: true }, &NoProgress).await.unwrap().findings
}

fn names(found: &[Finding], key: &ObjectKey) -> bool {
    let name = key.to_string();
    found.iter().any(|finding| finding.object.contains(&name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_repository_has_no_findings() {
    let made = small().await;
    assert_eq!(findings(&made.backend, both()).await, []);
    assert_eq!(give(&made.open_reader().await, "latest").await.unwrap(), content());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_is_found_and_no_restore_yields_wrong_bytes() {
    let made = small().await;
    // Opened before the damage: deriving keys once per byte would take hours, and the flips of config and
    // slots are then found by the check, too.
    let reader = made.open_on(Arc::new(made.backend.clone()), both()).await;
    for (key, bytes) in made.backend.objects() {
        for place in places(bytes.len()) {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << (place % 8);
            made.backend.replace(key, Bytes::from(damaged));
            let fresh = reader.with_fresh_index().unwrap();
            let found = check(&fresh, CheckOptions { read_data: true }, &NoProgress).await.unwrap().findings;
            assert!(names(&found, &key), "byte {place} of {key} was flipped, found: {found:?}");
            if let Ok(restored) = give(&reader.with_fresh_index().unwrap(), "latest").await {
                assert_eq!(restored, content(), "byte {place} of {key} was flipped");
            }
        }
        made.backend.replace(key, bytes);
    }
    assert_eq!(findings(&made.backend, both()).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_single_byte_of_every_object_is_covered_without_any_key() {
    let made = small().await;
    let repository = made.open_writer().await;
    for (key, bytes) in made.backend.objects() {
        repository.scrub(key).await.unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[place] ^= 1 << (place % 8);
            made.backend.replace(key, Bytes::from(damaged));
            assert!(repository.scrub(key).await.is_err(), "byte {place} of {key} was flipped");
        }
        made.backend.replace(key, bytes);
    }
}

/// Every byte of what is clear, at both ends of an object; of the sealed bytes between, which are all alike,
/// a spread that no period of the layout meets.
fn places(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |place| *place < 160 || len - *place <= 160 || *place % 61 == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_deleted_and_swapped_objects_are_found() {
    let made = small().await;
    // Another snapshot, so that there are objects of a kind to swap.
    let mut changed = content();
    changed.streams.insert("stream".to_owned(), noise(3, 3_000));
    take(&made.open_writer().await, 1_790_000_100, &changed).await.unwrap();
    let reader = made.open_on(Arc::new(made.backend.clone()), both()).await;
    let objects: Vec<_> = made.backend.objects().into_iter().collect();
    let newest = orkvault::ops::select::find(&reader, "latest").await.unwrap().id;
    for (key, bytes) in &objects {
        let other = objects.iter().find(|(other, _)| other != key && kind(other) == kind(key));
        let mut variants = vec![bytes.slice(..bytes.len() / 2), bytes.slice(..bytes.len() - 1), Bytes::new()];
        variants.extend(other.map(|(_, bytes)| bytes.clone()));
        for variant in variants {
            made.backend.replace(*key, variant.clone());
            let fresh = reader.with_fresh_index().unwrap();
            let found = check(&fresh, CheckOptions { read_data: true }, &NoProgress).await.unwrap().findings;
            assert!(names(&found, key), "{key} replaced by {} bytes, found: {found:?}", variant.len());
        }
        made.backend.remove(*key);
        let fresh = reader.with_fresh_index().unwrap();
        let found = check(&fresh, CheckOptions::default(), &NoProgress).await.unwrap().findings;
        // The newest snapshot has no successor that would miss it; slots are not counted; the rest is.
        let is_noticed = !matches!(key, ObjectKey::Slot(_)) && *key != newest_key(newest);
        assert_eq!(!found.is_empty(), is_noticed, "{key} was deleted, found: {found:?}");
        made.backend.replace(*key, bytes.clone());
    }
}

fn newest_key(id: orkvault::format::id::SnapshotId) -> ObjectKey {
    ObjectKey::Snapshot(orkvault::format::object::Namespace::Data, id)
}

fn kind(key: &ObjectKey) -> String {
    let name = key.to_string();
    name.split('/').take(2).collect::<Vec<_>>().join("/").chars().take(12).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_in_the_store_is_found() {
    let made = small().await;
    made.backend.plant("data/packs/readme.txt", Bytes::from_static(b"?"));
    let found = findings(&made.backend, both()).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].object, "data/packs/readme.txt");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_under_the_same_name_is_refused() {
    let (made, other) = (small().await, small().await);
    let refused = repository::open(Arc::new(other.backend.clone()), vec![made.writer()]).await;
    assert!(matches!(refused.err(), Some(orkvault::repo::Error::OtherRepository { .. })));
    // Slots and config mixed from two repositories that share their passphrases.
    let mixed = MemoryBackend::new();
    for (key, bytes) in other.backend.objects() {
        if key != ObjectKey::Config {
            let _ = mixed.put(key, vec![bytes]).await.unwrap();
        }
    }
    let config = made.backend.objects().into_iter().find(|(key, _)| *key == ObjectKey::Config).unwrap();
    let _ = mixed.put(config.0, vec![config.1]).await.unwrap();
    assert!(repository::open(Arc::new(mixed), both()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_pack_is_stored_again_by_the_next_snapshot() {
    let made = small().await;
    let pack = made.backend.objects().into_keys().find(|key| matches!(key, ObjectKey::Pack(_))).unwrap();
    made.backend.remove(pack);
    let outcome = take(&made.open_writer().await, 1_790_000_100, &content()).await.unwrap();
    assert_eq!(outcome.packs_missing, 1);
    assert_eq!(give(&made.open_reader().await, &outcome.id.to_string()).await.unwrap(), content());
}

/// A sink that notes whether it was ever told to restore.
struct Recording {
    name: String,
    restored: Arc<std::sync::atomic::AtomicBool>,
}

#[async_trait::async_trait]
impl orkvault::component::Sink for Recording {
    fn component(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        "a recording".to_owned()
    }

    async fn plan(
        &mut self,
        _stored: &mut dyn orkvault::component::Stored,
    ) -> Result<orkvault::component::RestorePlan, orkvault::component::Error> {
        Ok(orkvault::component::RestorePlan::default())
    }

    async fn restore(
        &mut self,
        _stored: &mut dyn orkvault::component::Stored,
    ) -> Result<orkvault::component::Restored, orkvault::component::Error> {
        self.restored.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(orkvault::component::Restored::default())
    }
}

/// Plans and, with `verify`, reads everything; restores only after that. Returns whether a sink was touched.
async fn restore_of(made: &Made, verify: bool) -> (Result<(), orkvault::ops::Error>, bool) {
    let reader = made.open_on(Arc::new(made.backend.clone()), both()).await;
    let found = orkvault::ops::select::find(&reader, "latest").await.unwrap();
    let restored = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sink = |name: &str| -> Box<dyn orkvault::component::Sink> {
        Box::new(Recording { name: name.to_owned(), restored: Arc::clone(&restored) })
    };
    let run = async {
        // Secrets are whole: what is damaged is the other one.
        let sinks = vec![sink("secrets"), sink("memory")];
        let mut planned = orkvault::ops::restore::plan(&reader, &found, sinks, &NoProgress).await?;
        if verify {
            planned.verify(&NoProgress).await?;
        }
        planned.apply(&NoProgress, |_, _| ()).await
    };
    let result = run.await;
    (result, restored.load(std::sync::atomic::Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_touched_before_everything_was_found_and_verified() {
    let made = small().await;
    let (result, touched) = restore_of(&made, true).await;
    result.unwrap();
    assert!(touched, "a whole snapshot is restored");
    for (key, bytes) in made.backend.objects() {
        if !matches!(key, ObjectKey::Pack(_)) {
            continue;
        }
        let mut damaged = bytes.to_vec();
        let middle = if bytes.len() > 2_000 { 1_500 } else { bytes.len() / 3 };
        damaged[middle] ^= 1;
        made.backend.replace(key, Bytes::from(damaged));
        let (result, touched) = restore_of(&made, true).await;
        assert!(result.is_err() && !touched, "{key} is damaged: {result:?}, touched: {touched}");
        // Without the full read, what is missing is still found by the structure.
        made.backend.remove(key);
        let (result, touched) = restore_of(&made, false).await;
        assert!(result.is_err() && !touched, "{key} is missing: {result:?}, touched: {touched}");
        made.backend.replace(key, bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_old_snapshot_or_index_part_stops_no_night_and_no_other_restore() {
    let made = small().await;
    let first = made.backend.objects();
    let mut changed = content();
    changed.streams.insert("stream".to_owned(), noise(3, 3_000));
    let second = take(&made.open_writer().await, 1_790_000_100, &changed).await.unwrap();
    for (key, bytes) in first {
        if !matches!(key, ObjectKey::Snapshot(..) | ObjectKey::Index(_)) {
            continue;
        }
        let store = made.backend.snapshot();
        let mut damaged = bytes.to_vec();
        damaged[100] ^= 1;
        store.replace(key, Bytes::from(damaged));
        let made = Made { backend: store, writer_line: made.writer_line.clone() };
        let open = |access| async {
            let options =
                orkvault::repo::OpenOptions { cache: None, entropy: Arc::new(orkvault::crypto::SystemEntropy) };
            orkvault::repo::Repository::open(Arc::new(made.backend.clone()), access, options).await.unwrap()
        };
        let third = take(&open(vec![made.writer()]).await, 1_790_000_200, &content()).await.unwrap();
        assert_eq!(third.manifest.orkvault.status, orkvault::format::manifest::SnapshotStatus::Complete);
        assert_eq!(give(&open(both()).await, &third.id.to_string()).await.unwrap(), content(), "{key} is damaged");
        let still = give(&open(both()).await, &second.id.to_string()).await;
        assert!(still.is_ok(), "{key} is damaged: {still:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_needs_no_index_part() {
    let made = small().await;
    for key in made.backend.objects().into_keys() {
        if matches!(key, ObjectKey::Index(_)) {
            made.backend.remove(key);
        }
    }
    assert_eq!(give(&made.open_reader().await, "latest").await.unwrap(), content());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_of_recipes_and_tables_is_stored_again_and_never_referred_to() {
    let made = small().await;
    for (key, bytes) in made.backend.objects() {
        if !matches!(key, ObjectKey::Pack(_)) {
            continue;
        }
        let store = made.backend.snapshot();
        let made = Made { backend: store, writer_line: made.writer_line.clone() };
        // The same length, so that no listing shows it; in the first segment, whatever the kind of pack.
        let mut damaged = bytes.to_vec();
        for byte in damaged.iter_mut().skip(150).take(60) {
            *byte ^= 0x55;
        }
        made.backend.replace(key, Bytes::from(damaged));
        let second = take(&made.open_writer().await, 1_790_000_100, &content()).await.unwrap();
        // A writer cannot see that content is damaged; that of recipes and tables it reads, and mends.
        let is_readable = second.manifest.orkvault.stats.new_chunks > 0;
        let restored = give(&made.open_reader().await, &second.id.to_string()).await;
        assert_eq!(restored.is_ok(), is_readable, "{key} is damaged: {restored:?}");
    }
}

/// A sector that the disk cannot read is damage like any other: it is named, with what it affects, and the check goes on. A store
/// that does not answer is none: the check ends at once, wherever it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_finding_and_a_store_that_does_not_answer_ends_a_check() {
    let made = small().await;
    let checked = async |fault: Option<(u64, Fault)>, read_data: bool| {
        let inner = made.backend.clone();
        let backend = Arc::new(match fault {
            Some((at, fault)) => FaultBackend::new(inner, Counted::All, at, fault),
            None => FaultBackend::counting(inner, Counted::All),
        });
        let repository = made.open_on(Arc::clone(&backend) as Arc<_>, both()).await;
        let opened = backend.operations();
        let outcome = check(&repository, CheckOptions { read_data }, &NoProgress).await;
        (outcome, opened, backend.operations())
    };
    for read_data in [true, false] {
        let (outcome, opened, all) = checked(None, read_data).await;
        assert_eq!(outcome.unwrap().findings, []);
        let (mut found, mut ended) = (0, 0);
        for at in opened + 1..=all {
            match checked(Some((at, Fault::Fail(ErrorKind::Damaged))), read_data).await.0 {
                Ok(outcome) => found += usize::from(!outcome.findings.is_empty()),
                // A listing tells nothing of one object.
                Err(_) => ended += 1,
            }
            let (outcome, _, operations) = checked(Some((at, Fault::Unreachable)), read_data).await;
            assert!(outcome.is_err(), "{at} of {all}: {outcome:?}");
            // What was under way side by side.
            assert!(operations <= at + 8, "{at} of {all}: {operations} operations");
        }
        assert!(found > 5 && ended <= 4, "{found} found, {ended} ended of {}", all - opened);
    }
}

/// Hours of reading may have gone into what was found before a store stopped to answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_found_before_it_ended_is_said() {
    let made = small().await;
    let pack = made.backend.objects().into_keys().find(|key| matches!(key, ObjectKey::Pack(_))).unwrap();
    made.backend.remove(pack).unwrap();
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let whole = made.open_on(Arc::clone(&counting) as Arc<_>, both()).await;
    let outcome = check(&whole, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert!(names(&outcome.findings, &pack), "{:?}", outcome.findings);
    // Shortly before the end: in another run a request more or less may be under way ahead.
    let late = counting.operations() - 2;
    let gone = FaultBackend::new(made.backend.clone(), Counted::All, late, Fault::Unreachable);
    let repository = made.open_on(Arc::new(gone), both()).await;
    let said = Said::default();
    check(&repository, CheckOptions { read_data: true }, &said).await.unwrap_err();
    let said = said.0.into_inner().unwrap();
    let found = said.iter().find(|line| line.contains(&pack.to_string()) && line.contains("is missing"));
    assert!(found.is_some_and(|line| line.starts_with("found before the check ended")), "{said:?}");
}

/// Without a cache nobody remembers what proved damaged: what is to be read in a run is read before anything of it is referred to.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_a_later_component_meets_is_in_the_way_of_no_night() {
    let made = repository::make().await;
    let night = async |made: &Made, second| {
        let mut stream = MemoryContent::default();
        stream.streams.insert("stream".to_owned(), noise(1, 3_000));
        let mut entries = content();
        entries.streams.clear();
        let source = |name: &str, content| MemorySource { name: name.to_owned(), content, fails_after: None };
        let sources: Vec<Box<dyn Source>> = vec![Box::new(source("a", stream)), Box::new(source("memory", entries))];
        snapshot(&made.open_writer().await, sources, &options(), &NoProgress, &Still(second)).await.unwrap()
    };
    night(&made, 1_790_000_000).await;
    assert_eq!(night(&made, 1_790_000_100).await.manifest.orkvault.stats.new_chunks, 0);
    let mut mended = 0;
    for (key, bytes) in made.backend.objects() {
        if !matches!(key, ObjectKey::Pack(_)) {
            continue;
        }
        let made = Made { backend: made.backend.snapshot(), writer_line: made.writer_line.clone() };
        let mut damaged = bytes.to_vec();
        damaged[150..210].iter_mut().for_each(|byte| *byte ^= 0x55);
        made.backend.replace(key, Bytes::from(damaged));
        let outcome = night(&made, 1_790_000_200).await;
        let reader = made.open_reader().await;
        let structure = check(&reader, CheckOptions::default(), &NoProgress).await.unwrap().findings;
        // A writer cannot see that content is damaged.
        if outcome.manifest.orkvault.stats.new_chunks == 0 {
            continue;
        }
        mended += 1;
        let of_this =
            structure.iter().filter(|finding| finding.affects.iter().any(|at| at.contains(&outcome.id.to_string())));
        assert_eq!(of_this.count(), 0, "{key}: {structure:?}");
    }
    assert_eq!(mended, 1);
}
