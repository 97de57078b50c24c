//! Snapshots copied into another repository: what they hold, say and cost there, and what is left when a copy stops.

use std::collections::BTreeMap;
use std::sync::Arc;

use orkvault::backend::{Backend, Counted, Fault, FaultBackend, MemoryBackend};
use orkvault::component::Source;
use orkvault::format::id::SnapshotId;
use orkvault::format::manifest::{ComponentStatus, OriginRecord, SnapshotStatus};
use orkvault::format::object::{Namespace, ObjectKey};
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::copy::{CopyOptions, CopyOutcome, CopySecrets, apply, plan};
use orkvault::ops::snapshot::snapshot;
use orkvault::ops::{Error, NoProgress, dump, select};
use orkvault::repo::{Access, LoadedSnapshot, Repository, WriterOptions};

use crate::support::night::{Still, give, options, take};
use crate::support::repository::{self, DATA_PASSPHRASE, Made, SECRETS_PASSPHRASE, make, noise, passphrase, read_all};
use crate::support::sources::{MemoryContent, MemorySource};

fn all(secrets: CopySecrets) -> CopyOptions {
    CopyOptions { wanted: Vec::new(), secrets, writer: WriterOptions::default(), locks: None }
}

fn readers() -> Vec<Access> {
    vec![Access::Data(passphrase(DATA_PASSPHRASE)), Access::Secrets(passphrase(SECRETS_PASSPHRASE))]
}

async fn reader(made: &Made) -> Repository {
    made.open_on(Arc::new(made.backend.clone()), readers()).await
}

async fn copy_on(from: &Repository, to: &Repository, options: &CopyOptions) -> Result<CopyOutcome, Error> {
    let planned = plan(from, to, options, &NoProgress).await?;
    apply(from, to, planned, options, &NoProgress, |_| ()).await
}

async fn copy(from: &Made, to: &Made, options: &CopyOptions) -> CopyOutcome {
    copy_on(&reader(from).await, &to.open_writer().await, options).await.unwrap()
}

fn night(number: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    // Most of it stays, the rest changes.
    let mut stream = noise(1, 600_000);
    stream.extend(noise(100 + number, 50_000));
    content.streams.insert("stream".to_owned(), stream);
    content.streams.insert("settings".to_owned(), noise(7, 30_000));
    for object in 0..12_u64 {
        let version = if object == number { number } else { 0 };
        let bytes = noise(object * 1000 + version, 5_000);
        content.entries.insert(format!("bucket/{object}").into_bytes(), (version, bytes));
    }
    content.entries.insert(b"bucket/empty".to_vec(), (1, Vec::new()));
    content
}

/// A repository with nights 1 to `count`, a day apart, and the ids of their snapshots.
async fn nights(count: u64) -> (Made, Vec<SnapshotId>) {
    let made = make().await;
    let mut ids = Vec::new();
    for number in 1..=count {
        let second = i64::try_from(number).unwrap() * 86_400;
        ids.push(take(&made.open_writer().await, second, &night(number)).await.unwrap().id);
    }
    (made, ids)
}

async fn env_of(repository: &Repository, snapshot: &LoadedSnapshot) -> String {
    let bytes = read_all(dump::open(repository, snapshot, "secrets/.env").await.unwrap()).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn findings(made: &Made) -> Vec<String> {
    let found = check(&reader(made).await, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    found.findings.into_iter().map(|finding| format!("{}: {}", finding.object, finding.problem)).collect()
}

fn stored(backend: &MemoryBackend) -> usize {
    backend.objects().values().map(bytes::Bytes::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_restore_byte_for_byte_and_say_what_the_originals_say() {
    let (from, ids) = nights(3).await;
    let to = make().await;
    let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(outcome.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), ids);
    assert_eq!(findings(&to).await, Vec::<String>::new());
    let (given, taken) = (reader(&from).await, reader(&to).await);
    let originals = select::load_all(&given).await.unwrap();
    let copies = select::load_all(&taken).await.unwrap();
    assert_eq!(copies.len(), 3);
    for ((original, copied), number) in originals.iter().zip(&copies).zip(1..) {
        assert_eq!(give(&taken, &copied.id.to_string()).await.unwrap(), night(number));
        assert_eq!(env_of(&taken, copied).await, env_of(&given, original).await);
        let (left, right) = (&original.manifest, &copied.manifest);
        assert_eq!(
            (&left.created_at, &left.environment, &left.host, &left.components),
            (&right.created_at, &right.environment, &right.host, &right.components)
        );
        let (left, right) = (&left.orkvault, &right.orkvault);
        assert_eq!((&left.finished_at, &left.tool, &left.tags), (&right.finished_at, &right.tool, &right.tags));
        let origin = OriginRecord { repository: given.config().repository, snapshot: original.id };
        assert_eq!(right.copied_from, Some(origin));
        assert_eq!(right.writer.sequence, number);
        for (name, record) in &left.components {
            let found = &right.components[name];
            assert_eq!((&record.started_at, &record.facts), (&found.started_at, &found.facts));
            let hashes = |record: &orkvault::format::manifest::ComponentRecord| -> BTreeMap<String, _> {
                record.streams.iter().map(|(name, stream)| (name.clone(), stream.blake3)).collect()
            };
            assert_eq!(hashes(record), hashes(found));
            assert_eq!(
                record.catalogue.as_ref().map(|table| table.table.blake3),
                found.catalogue.as_ref().map(|table| table.table.blake3)
            );
            assert_eq!(
                record.entries.as_ref().map(|table| (table.rows, table.content_bytes)),
                found.entries.as_ref().map(|table| (table.rows, table.content_bytes))
            );
        }
    }
    // `latest` is the same night in both.
    let latest = select::find(&taken, "latest").await.unwrap();
    assert_eq!(latest.manifest.orkvault.copied_from.unwrap().snapshot, ids[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_copies_nothing_and_stores_nothing() {
    let (from, ids) = nights(2).await;
    let to = make().await;
    copy(&from, &to, &all(CopySecrets::Copied)).await;
    let before = to.backend.objects();
    let again = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!((again.copied.len(), again.present), (0, ids.clone()));
    assert_eq!(to.backend.objects(), before);
    // Nor without the secrets: more than that is there.
    let again = copy(&from, &to, &all(CopySecrets::Left)).await;
    assert_eq!((again.copied.len(), again.present), (0, ids));
    // A night later there is one to copy.
    let third = take(&from.open_writer().await, 3 * 86_400, &night(3)).await.unwrap();
    let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(outcome.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), [third.id]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_not_read_and_nights_share_with_copies() {
    let (from, _) = nights(4).await;
    // A night that changed nothing.
    take(&from.open_writer().await, 5 * 86_400, &night(4)).await.unwrap();
    let to = make().await;
    let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
    let read: Vec<u64> = outcome.copied.iter().map(|copied| copied.manifest.orkvault.stats.read_bytes).collect();
    assert_eq!(read[0], 650_000 + 30_000 + 12 * 5_000);
    // The stream that changed and two objects: tonight's, and the one that is as it was before last night again.
    assert_eq!(read[1..4], [650_000 + 10_000; 3]);
    assert_eq!(read[4], 0);
    let (left, right) = (stored(&from.backend), stored(&to.backend));
    // Each repository cuts elsewhere: the chunk in which three nights change a few bytes has 8 to 128 KiB, by chance.
    assert!(right < left + left / 10 + 3 * (120 << 10), "{left} bytes became {right}");
    for copied in &outcome.copied[1..4] {
        let new = copied.manifest.orkvault.stats.new_bytes;
        assert!((10_000..10_000 + (128 << 10) + 8_000).contains(&new), "{new} new bytes for a small change");
    }
    // The next night of this repository's own.
    let own = take(&to.open_writer().await, 6 * 86_400, &night(4)).await.unwrap();
    assert_eq!(own.manifest.orkvault.stats.new_bytes, 0);
    assert_eq!(findings(&to).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_copied_only_when_they_are_to_be_and_once_each() {
    let (from, ids) = nights(1).await;
    // A run without secrets belongs to those of the night before it.
    let memory = MemorySource { name: "memory".to_owned(), content: night(1), fails_after: None };
    let only: Vec<Box<dyn Source>> = vec![Box::new(memory)];
    snapshot(&from.open_writer().await, only, &options(), &NoProgress, &Still(2 * 86_400)).await.unwrap();
    let to = make().await;
    let outcome = copy(&from, &to, &all(CopySecrets::Left)).await;
    assert_eq!(outcome.copied.len(), 2);
    let secrets = |made: &Made| {
        made.backend.objects().into_keys().filter(|key| key.namespace() == Some(Namespace::Secrets)).count()
    };
    assert_eq!(secrets(&to), 0);
    let left = &outcome.copied[0].manifest;
    assert_eq!((&left.components, left.orkvault.status), (&vec!["memory".to_owned()], SnapshotStatus::Complete));
    assert!(left.orkvault.secrets.is_none() && !left.orkvault.components.contains_key("secrets"));
    // Later with them: the data is there, so only tables and manifests are new.
    let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(outcome.copied.iter().map(|copied| copied.from).collect::<Vec<_>>()[0], ids[0]);
    assert_eq!(outcome.copied[0].manifest.orkvault.stats.read_bytes, 0);
    // One bundle, one snapshot of it, for both.
    assert_eq!((outcome.copied.len(), secrets(&to)), (2, 2));
    let taken = reader(&to).await;
    let latest = select::find_with(&taken, "latest", &["secrets"]).await.unwrap().snapshot;
    assert_eq!(env_of(&taken, &latest).await, "SECOND=86400\n");
    assert_eq!(copy(&from, &to, &all(CopySecrets::Copied)).await.copied.len(), 0);
    // Keys of the data alone cannot copy secrets, and nothing half copied is left by trying.
    let other = make().await;
    let refused = copy_on(&from.open_reader().await, &other.open_writer().await, &all(CopySecrets::Copied)).await;
    assert!(refused.is_err());
    assert_eq!(other.open_writer().await.snapshot_ids(Namespace::Data).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_stops_anywhere_goes_on_where_it_was() {
    let (from, _) = nights(2).await;
    let to = make().await;
    let given = reader(&from).await;
    let counting = Arc::new(FaultBackend::counting(to.backend.snapshot(), Counted::Writes));
    let on = |backend: Arc<dyn Backend>| repository::open(backend, vec![to.writer()]);
    copy_on(&given, &on(counting.clone()).await.unwrap(), &all(CopySecrets::Copied)).await.unwrap();
    let operations = counting.operations();
    assert!(operations >= 10, "two snapshots take {operations} writes");
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::DiskFull] {
        for at in 1..=operations {
            let store = to.backend.snapshot();
            let faulty = Arc::new(FaultBackend::new(store.clone(), Counted::Writes, at, fault));
            let result = copy_on(&given, &on(faulty).await.unwrap(), &all(CopySecrets::Copied)).await;
            assert!(result.is_err(), "{fault:?} at {at}");
            let stopped = Made { backend: store, writer_line: to.writer_line.clone() };
            copy(&from, &stopped, &all(CopySecrets::Copied)).await;
            let taken = reader(&stopped).await;
            let copies = select::load_all(&taken).await.unwrap();
            assert_eq!(copies.len(), 2, "{fault:?} at {at}");
            for (copied, number) in copies.iter().zip(1..) {
                assert_eq!(give(&taken, &copied.id.to_string()).await.unwrap(), night(number));
            }
            let found = check(&taken, CheckOptions::default(), &NoProgress).await.unwrap();
            assert_eq!(found.findings, [], "{fault:?} at {at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_store_has_lost_is_copied_again() {
    let (from, ids) = nights(3).await;
    let to = make().await;
    copy(&from, &to, &all(CopySecrets::Copied)).await;
    let copies = select::load_all(&reader(&to).await).await.unwrap();
    let is_whole = async |copy: &LoadedSnapshot| give(&reader(&to).await, &copy.id.to_string()).await.is_ok();
    // What the last copy needs and the first does not.
    let mut lost = Vec::new();
    for (key, bytes) in to.backend.objects() {
        if !matches!(key, ObjectKey::Pack(_)) {
            continue;
        }
        to.backend.remove(key).unwrap();
        if !is_whole(&copies[2]).await && is_whole(&copies[0]).await {
            lost.push(key);
        }
        to.backend.replace(key, bytes);
    }
    assert!(!lost.is_empty());
    for key in lost {
        to.backend.remove(key).unwrap();
    }
    let again = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(again.copied.last().map(|copied| copied.from), Some(ids[2]));
    assert!(again.present.contains(&ids[0]), "{:?}", again.present);
    assert_eq!(give(&reader(&to).await, &again.copied.last().unwrap().id.to_string()).await.unwrap(), night(3));
    // And then it is there.
    assert_eq!(copy(&from, &to, &all(CopySecrets::Copied)).await.copied.len(), 0);

    // The secrets of one of them.
    let secrets = again.copied.last().unwrap().manifest.orkvault.secrets.clone().unwrap();
    to.backend.remove(ObjectKey::Snapshot(Namespace::Secrets, secrets.snapshot)).unwrap();
    let again = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(again.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), [ids[2]]);
    let own = again.copied[0].manifest.orkvault.secrets.clone().unwrap();
    assert!(own.snapshot != secrets.snapshot && reader(&to).await.load_secrets_snapshot(own.snapshot).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_named_and_the_others_are_copied() {
    let (from, ids) = nights(3).await;
    // Packs that only the second night has; then its manifest.
    let packs = |made: &Made| -> Vec<ObjectKey> {
        made.backend.objects().into_keys().filter(|key| matches!(key, ObjectKey::Pack(_))).collect()
    };
    let before = from.backend.snapshot();
    for place in 0..packs(&from).len() {
        let key = packs(&from)[place];
        let bytes = from.backend.remove(key).unwrap();
        let to = make().await;
        let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
        assert!(!outcome.failures.is_empty(), "{key} is gone");
        assert_eq!(outcome.failures.len() + outcome.copied.len(), 3);
        let taken = reader(&to).await;
        for copied in &outcome.copied {
            let number = ids.iter().position(|id| *id == copied.from).unwrap() as u64 + 1;
            assert_eq!(give(&taken, &copied.id.to_string()).await.unwrap(), night(number));
        }
        assert_eq!(findings(&to).await, Vec::<String>::new());
        // A byte in the middle: found while it is read, when some of it was stored already.
        let mut flipped = bytes.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        from.backend.replace(key, flipped.into());
        let to = make().await;
        let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
        assert_eq!(outcome.failures.len() + outcome.copied.len(), 3);
        assert_eq!(findings(&to).await, Vec::<String>::new());
        from.backend.replace(key, bytes);
        // Repaired, the rest follows.
        let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
        assert_eq!((outcome.failures.len(), outcome.copied.len() + outcome.present.len()), (0, 3));
        let taken = reader(&to).await;
        assert_eq!(give(&taken, "latest").await.unwrap(), night(3));
        assert_eq!(findings(&to).await, Vec::<String>::new());
    }
    assert_eq!(from.backend.objects(), before.objects());
    let key = ObjectKey::Snapshot(Namespace::Data, ids[1]);
    from.backend.replace(key, bytes::Bytes::from_static(b"ORKVAULT and nothing else"));
    let to = make().await;
    let outcome = copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(outcome.failures.iter().map(|failure| failure.snapshot).collect::<Vec<_>>(), [ids[1]]);
    assert_eq!(outcome.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), [ids[0], ids[2]]);
    // Secrets that are damaged keep their snapshot away, too.
    let bundle = before.objects().into_keys().find(|key| matches!(key, ObjectKey::Bundle(_))).unwrap();
    before.remove(bundle);
    let from = Made { backend: before, writer_line: from.writer_line.clone() };
    let outcome = copy(&from, &make().await, &all(CopySecrets::Copied)).await;
    assert_eq!((outcome.failures.len(), outcome.copied.len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_ends_the_copy_and_damages_nothing() {
    let (from, _) = nights(2).await;
    let to = make().await;
    let counting = Arc::new(FaultBackend::counting(from.backend.snapshot(), Counted::All));
    let opened = |backend: Arc<dyn Backend>| repository::open(backend, readers());
    let source = opened(counting.clone()).await.unwrap();
    copy_on(&source, &make().await.open_writer().await, &all(CopySecrets::Copied)).await.unwrap();
    let operations = counting.operations();
    for at in (1..=operations).rev().step_by(3) {
        let fault = Fault::Fail(orkvault::backend::ErrorKind::Transient);
        let faulty = Arc::new(FaultBackend::new(from.backend.snapshot(), Counted::All, at, fault));
        let Ok(source) = opened(faulty).await else { continue };
        let copied = copy_on(&source, &to.open_writer().await, &all(CopySecrets::Copied)).await;
        // Never taken for damage.
        assert!(copied.is_err() || copied.as_ref().unwrap().failures.is_empty(), "at {at}: {copied:?}");
    }
    copy(&from, &to, &all(CopySecrets::Copied)).await;
    assert_eq!(select::load_all(&reader(&to).await).await.unwrap().len(), 2);
    assert_eq!(findings(&to).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_copy_is_a_copy_of_the_original() {
    let (first, ids) = nights(1).await;
    let (second, third) = (make().await, make().await);
    let with = all(CopySecrets::Copied);
    copy(&first, &second, &with).await;
    copy(&second, &third, &with).await;
    let origin = OriginRecord { repository: reader(&first).await.config().repository, snapshot: ids[0] };
    let found = select::find(&reader(&third).await, "latest").await.unwrap();
    assert_eq!(found.manifest.orkvault.copied_from, Some(origin));
    // Whichever way it comes, it is there; also where it was made.
    assert_eq!(copy(&first, &third, &with).await.copied.len(), 0);
    assert_eq!(copy(&third, &first, &with).await.copied.len(), 0);
    // Lost there, it comes back.
    first.backend.remove(ObjectKey::Snapshot(Namespace::Data, ids[0]));
    assert_eq!(copy(&third, &first, &with).await.copied.len(), 1);
    assert_eq!(give(&reader(&first).await, "latest").await.unwrap(), night(1));
    let refused = copy_on(&reader(&first).await, &first.open_writer().await, &with).await.unwrap_err();
    assert!(matches!(refused, Error::SameRepository { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_wanted_is_copied_and_failed_components_stay_failed() {
    let (from, ids) = nights(2).await;
    let bad = MemorySource { name: "memory".to_owned(), content: night(3), fails_after: Some(100_000) };
    let good = MemorySource { name: "good".to_owned(), content: night(3), fails_after: None };
    let sources: Vec<Box<dyn Source>> = vec![Box::new(bad), Box::new(good)];
    let third =
        snapshot(&from.open_writer().await, sources, &options(), &NoProgress, &Still(3 * 86_400)).await.unwrap();
    let to = make().await;
    let these = |wanted: &[&str]| CopyOptions {
        wanted: wanted.iter().map(|wanted| (*wanted).to_owned()).collect(),
        ..all(CopySecrets::Copied)
    };
    let outcome = copy(&from, &to, &these(&["latest"])).await;
    assert_eq!(outcome.copied.iter().map(|copied| copied.from).collect::<Vec<_>>(), [ids[1]]);
    let outcome = copy(&from, &to, &these(&[&third.id.to_string()[..12], "latest"])).await;
    assert_eq!((outcome.copied.len(), outcome.present), (1, vec![ids[1]]));
    let copied = &outcome.copied[0].manifest;
    assert_eq!(copied.orkvault.status, SnapshotStatus::Incomplete);
    assert_eq!(copied.orkvault.components["memory"].status, ComponentStatus::Failed);
    assert_eq!(copied.orkvault.components["memory"].reason, third.manifest.orkvault.components["memory"].reason);
    assert_eq!(copied.components, ["good"]);
    let taken = reader(&to).await;
    assert_eq!(select::find(&taken, "latest").await.unwrap().manifest.orkvault.copied_from.unwrap().snapshot, ids[1]);
    // An older one, later: a copy, not the newest secrets of this repository.
    copy(&from, &to, &these(&[&ids[0].to_string()])).await;
    let memory = MemorySource { name: "memory".to_owned(), content: night(4), fails_after: None };
    let (writer, options) = (to.open_writer().await, options());
    let own = snapshot(&writer, vec![Box::new(memory)], &options, &NoProgress, &Still(4 * 86_400)).await.unwrap();
    let own = select::find(&taken, &own.id.to_string()).await.unwrap();
    assert_eq!(env_of(&taken, &own).await, "SECOND=172800\n");
    let unknown = copy_on(&reader(&from).await, &to.open_writer().await, &these(&["abcdef"])).await;
    assert!(matches!(unknown.unwrap_err(), Error::NoSnapshot { .. }));
}
