//! The suite that every backend and every decorator passes: the contract of `mod.rs`, sentence by sentence.
//!
//! [`conformance_tests`] makes one test per sentence for a backend. A new backend adds one line at the end.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};

use super::s3_server::{PASSWORD, Program, S3Server, USER};
use super::{Backend, Error, ErrorKind, Listed, ObjectInfo, Put};
use crate::format::id::{BundleId, IndexId, PackId, RecordId, SlotId, SnapshotId};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};

/// An empty backend, and what must live as long as it does.
struct Fresh {
    backend: Box<dyn Backend>,
    _place: Option<tempfile::TempDir>,
}

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId::from_bytes([number; 32]))
}

fn one_of_each() -> Vec<ObjectKey> {
    let id = [0xa7; 32];
    vec![
        ObjectKey::Config,
        ObjectKey::Slot(SlotId::from_bytes(id)),
        ObjectKey::Pack(PackId::from_bytes(id)),
        ObjectKey::Index(IndexId::from_bytes(id)),
        ObjectKey::Snapshot(Namespace::Data, SnapshotId::from_bytes(id)),
        ObjectKey::Snapshot(Namespace::Secrets, SnapshotId::from_bytes(id)),
        ObjectKey::Bundle(BundleId::from_bytes(id)),
        ObjectKey::Tombstone(Namespace::Data, RecordId::from_bytes(id)),
        ObjectKey::Tombstone(Namespace::Secrets, RecordId::from_bytes(id)),
        ObjectKey::Verified(RecordId::from_bytes(id)),
    ]
}

async fn put(backend: &dyn Backend, key: ObjectKey, body: &'static [u8]) -> Result<Put, Error> {
    backend.put(key, vec![Bytes::from_static(body)]).await
}

async fn create(backend: &dyn Backend, key: ObjectKey, body: &'static [u8]) {
    assert_eq!(put(backend, key, body).await.unwrap(), Put::Created);
}

async fn listed(backend: &dyn Backend, prefix: ObjectPrefix) -> Vec<ObjectInfo> {
    let lines: Vec<Listed> = backend.list(prefix).try_collect().await.unwrap();
    let object = |line| match line {
        Listed::Object(info) => info,
        other => panic!("{other:?} was listed"),
    };
    lines.into_iter().map(object).collect()
}

async fn what_was_put_is_read_back(backend: &dyn Backend) {
    for key in one_of_each() {
        create(backend, key, b"some bytes").await;
        assert_eq!(backend.get(key, 10).await.unwrap(), "some bytes");
        let info = backend.stat(key).await.unwrap().unwrap();
        assert_eq!((info.key, info.len), (key, 10));
    }
}

async fn nothing_is_found_before_it_was_put(backend: &dyn Backend) {
    let key = pack(1);
    for error in [backend.get(key, 10).await.unwrap_err(), backend.get_range(key, 0, 1).await.unwrap_err()] {
        assert!(matches!(error, Error::NotFound { key: missing, .. } if missing == key), "{error}");
        assert_eq!((error.kind(), error.key()), (ErrorKind::NotFound, Some(key)));
    }
    assert_eq!(backend.stat(key).await.unwrap(), None);
    assert_eq!(listed(backend, ObjectPrefix::All).await, []);
    backend.delete(key).await.unwrap();
}

async fn a_second_put_changes_nothing(backend: &dyn Backend) {
    let key = pack(1);
    create(backend, key, b"first").await;
    let before = backend.stat(key).await.unwrap();
    assert_eq!(put(backend, key, b"other").await.unwrap(), Put::AlreadyThere);
    let error = put(backend, key, b"longer").await.unwrap_err();
    assert!(matches!(error, Error::Conflict { len: 6, stored: 5, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(put(backend, key, b"").await.is_err());
    assert_eq!(backend.get(key, 5).await.unwrap(), "first");
    assert_eq!(backend.stat(key).await.unwrap(), before);
}

async fn racing_puts_have_one_winner_and_its_bytes(backend: &dyn Backend) {
    let key = pack(1);
    let bodies: Vec<Bytes> = (0..16).map(|number| Bytes::from(vec![number; 40_000])).collect();
    let answers = join_all(bodies.iter().map(|body| backend.put(key, vec![body.clone()]))).await;
    let winners: Vec<&Bytes> = answers
        .into_iter()
        .zip(&bodies)
        .filter_map(|(answer, body)| (answer.unwrap() == Put::Created).then_some(body))
        .collect();
    assert_eq!(winners, [&backend.get(key, 40_000).await.unwrap()]);
    assert_eq!(listed(backend, ObjectPrefix::All).await.len(), 1);
}

async fn racing_puts_of_long_objects_have_one_winner_and_its_bytes(backend: &dyn Backend) {
    let key = pack(1);
    let len: usize = 7 << 20;
    let bodies: Vec<Bytes> = (0..4).map(|number| Bytes::from(vec![number; len])).collect();
    let answers = join_all(bodies.iter().map(|body| backend.put(key, vec![body.clone()]))).await;
    let winners: Vec<&Bytes> = answers
        .into_iter()
        .zip(&bodies)
        .filter_map(|(answer, body)| (answer.unwrap() == Put::Created).then_some(body))
        .collect();
    assert_eq!(winners.len(), 1);
    assert!(winners == [&backend.get(key, len as u64).await.unwrap()]);
}

async fn an_object_above_the_limit_is_not_read(backend: &dyn Backend) {
    let key = pack(1);
    create(backend, key, b"12345").await;
    let error = backend.get(key, 4).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { len: 5, max: 4, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(backend.get(key, u64::MAX).await.unwrap(), "12345");
}

async fn a_range_is_exact_or_an_error(backend: &dyn Backend) {
    let key = pack(1);
    create(backend, key, b"0123456789").await;
    for (offset, len, bytes) in
        [(0, 10, "0123456789"), (0, 1, "0"), (9, 1, "9"), (3, 4, "3456"), (0, 0, ""), (10, 0, "")]
    {
        assert_eq!(backend.get_range(key, offset, len).await.unwrap(), bytes, "{len} bytes from {offset}");
    }
    for (offset, len) in
        [(0, 11), (9, 2), (10, 1), (11, 0), (11, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)]
    {
        let error = backend.get_range(key, offset, len).await.unwrap_err();
        assert!(matches!(error, Error::Short { .. }), "{len} bytes from {offset}: {error}");
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }
}

async fn an_empty_object_is_an_object(backend: &dyn Backend) {
    for (key, body) in [(pack(1), vec![]), (pack(2), vec![Bytes::new(), Bytes::new()])] {
        assert_eq!(backend.put(key, body).await.unwrap(), Put::Created);
        assert_eq!(backend.get(key, 0).await.unwrap(), "");
        assert_eq!(backend.stat(key).await.unwrap().unwrap().len, 0);
        assert_eq!(backend.put(key, vec![]).await.unwrap(), Put::AlreadyThere);
    }
    assert_eq!(listed(backend, ObjectPrefix::Packs).await.len(), 2);
}

async fn a_body_of_many_parts_is_one_object(backend: &dyn Backend) {
    let key = pack(1);
    let whole: Bytes =
        (0..5 * 1024 * 1024_u32).map(|number| number.to_le_bytes()[usize::from(number % 3 == 0)]).collect();
    let (mut rest, mut parts, mut len) = (whole.clone(), Vec::new(), 1);
    while !rest.is_empty() {
        parts.push(rest.split_to(len.min(rest.len())));
        parts.push(Bytes::new());
        len = len * 7 % 100_003;
    }
    assert!(parts.len() > 100);
    assert_eq!(backend.put(key, parts).await.unwrap(), Put::Created);
    assert!(backend.get(key, 64 * 1024 * 1024).await.unwrap() == whole);
    assert_eq!(backend.get_range(key, 4_000_000, 99).await.unwrap(), whole[4_000_000..4_000_099]);
}

async fn every_object_is_listed_once_below_its_prefix_and_nowhere_else(backend: &dyn Backend) {
    let keys = one_of_each();
    for key in &keys {
        create(backend, *key, b"abc").await;
    }
    let all = listed(backend, ObjectPrefix::All).await;
    assert_eq!(all.len(), keys.len());
    assert!(all.iter().all(|info| info.len == 3));
    assert_eq!(all.into_iter().map(|info| info.key).collect::<BTreeSet<_>>(), keys.iter().copied().collect());
    for prefix in [
        ObjectPrefix::Namespace(Namespace::Data),
        ObjectPrefix::Namespace(Namespace::Secrets),
        ObjectPrefix::Slots,
        ObjectPrefix::Packs,
        ObjectPrefix::Indexes,
        ObjectPrefix::Snapshots(Namespace::Data),
        ObjectPrefix::Snapshots(Namespace::Secrets),
        ObjectPrefix::Bundles,
        ObjectPrefix::Tombstones(Namespace::Data),
        ObjectPrefix::Tombstones(Namespace::Secrets),
        ObjectPrefix::Verified,
    ] {
        let mut expected = Vec::new();
        for key in keys.iter().filter(|key| key.to_string().starts_with(prefix.path())) {
            expected.push(backend.stat(*key).await.unwrap().unwrap());
        }
        assert_eq!(expected.len() > 1, matches!(prefix, ObjectPrefix::Namespace(_)), "{prefix:?}");
        let mut found = listed(backend, prefix).await;
        expected.sort_by_key(|info| info.key);
        found.sort_by_key(|info| info.key);
        assert_eq!(found, expected, "{prefix:?}");
    }
}

async fn a_long_listing_is_complete(backend: &dyn Backend) {
    // More than one page of an S3 listing and one queue of a local one.
    let keys: BTreeSet<ObjectKey> = (0..1100_u16)
        .map(|number| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            ObjectKey::Pack(PackId::from_bytes(id))
        })
        .collect();
    let puts = futures::stream::iter(keys.clone()).map(|key| put(backend, key, b"x")).buffer_unordered(32);
    assert!(puts.try_collect::<Vec<_>>().await.unwrap().iter().all(|answer| *answer == Put::Created));
    let all = listed(backend, ObjectPrefix::Packs).await;
    assert_eq!(all.len(), keys.len());
    assert_eq!(all.into_iter().map(|info| info.key).collect::<BTreeSet<_>>(), keys);
    // A reader that leaves early hurts nobody.
    assert!(backend.list(ObjectPrefix::Packs).next().await.unwrap().is_ok());
}

async fn a_deleted_object_is_gone_and_its_name_free(backend: &dyn Backend) {
    create(backend, pack(1), b"one").await;
    create(backend, pack(2), b"two").await;
    backend.delete(pack(1)).await.unwrap();
    backend.delete(pack(1)).await.unwrap();
    assert_eq!(backend.get(pack(1), 9).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(backend.stat(pack(1)).await.unwrap(), None);
    let left: Vec<_> = listed(backend, ObjectPrefix::All).await.into_iter().map(|info| info.key).collect();
    assert_eq!(left, [pack(2)]);
    create(backend, pack(1), b"again").await;
    assert_eq!(backend.get(pack(1), 9).await.unwrap(), "again");
}

async fn the_store_tells_when_an_object_was_put(backend: &dyn Backend) {
    create(backend, pack(1), b"one").await;
    create(backend, pack(2), b"two").await;
    let mut times = Vec::new();
    for key in [pack(1), pack(2)] {
        let info = backend.stat(key).await.unwrap().unwrap();
        assert!(listed(backend, ObjectPrefix::Packs).await.contains(&info));
        times.push(info.modified.expect("every backend of ours tells"));
    }
    assert!(times.is_sorted());
}

async fn a_sweep_leaves_objects_alone(backend: &dyn Backend) {
    create(backend, pack(1), b"one").await;
    let modified = backend.stat(pack(1)).await.unwrap().unwrap().modified.unwrap();
    assert_eq!(backend.sweep(modified + std::time::Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(backend.get(pack(1), 3).await.unwrap(), "one");
}

/// Hands all sentences to a macro.
macro_rules! with_sentences {
    ($macro:ident, $name:ident, $fresh:tt) => {
        $macro!(
            $name,
            $fresh,
            [
                what_was_put_is_read_back,
                nothing_is_found_before_it_was_put,
                a_second_put_changes_nothing,
                racing_puts_have_one_winner_and_its_bytes,
                an_object_above_the_limit_is_not_read,
                a_range_is_exact_or_an_error,
                an_empty_object_is_an_object,
                a_body_of_many_parts_is_one_object,
                racing_puts_of_long_objects_have_one_winner_and_its_bytes,
                every_object_is_listed_once_below_its_prefix_and_nowhere_else,
                a_long_listing_is_complete,
                a_deleted_object_is_gone_and_its_name_free,
                the_store_tells_when_an_object_was_put,
                a_sweep_leaves_objects_alone,
            ]
        );
    };
}

/// Makes one test per sentence for the backend that `$fresh` makes.
macro_rules! conformance_tests {
    ($name:ident, $fresh:expr) => {
        with_sentences!(conformance_tests, $name, ($fresh));
    };
    ($name:ident, $fresh:expr, [$($sentence:ident),* $(,)?]) => {
        mod $name {
            $(
                #[tokio::test]
                async fn $sentence() {
                    let fresh: super::Fresh = $fresh.await;
                    super::$sentence(&*fresh.backend).await;
                }
            )*
        }
    };
}

/// Makes one test of all sentences for a server that takes its time to start: each sentence has a prefix of
/// its own in one bucket. `$backend` makes a backend of the server and a prefix.
macro_rules! conformance_on_server {
    ($name:ident, ($program:expr, $backend:expr)) => {
        with_sentences!(conformance_on_server, $name, ($program, $backend));
    };
    ($name:ident, ($program:expr, $backend:expr), [$($sentence:ident),* $(,)?]) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let Some(server) = S3Server::start($program).await else { return };
            server.bucket("vault").await;
            $(
                // Shown where the sentence fails.
                println!("{}", stringify!($sentence));
                $sentence(&$backend(&server, concat!(stringify!($sentence), "/"))).await;
            )*
        }
    };
}

async fn fresh_local() -> Fresh {
    let place = tempfile::tempdir().unwrap();
    let backend = super::LocalBackend::create(&place.path().join("vault")).await.unwrap();
    Fresh { backend: Box::new(backend), _place: Some(place) }
}

fn fresh_memory() -> Fresh {
    Fresh { backend: Box::new(super::MemoryBackend::new()), _place: None }
}

fn fresh_shared() -> Fresh {
    let inner: std::sync::Arc<dyn Backend> = std::sync::Arc::new(super::MemoryBackend::new());
    Fresh { backend: Box::new(inner), _place: None }
}

fn fresh_fault() -> Fresh {
    let inner = super::MemoryBackend::new();
    let backend = super::FaultBackend::new(inner, super::Counted::All, u64::MAX, super::Fault::CrashBefore);
    Fresh { backend: Box::new(backend), _place: None }
}

conformance_tests!(local, super::fresh_local());
conformance_tests!(memory, std::future::ready(super::fresh_memory()));
conformance_tests!(shared, std::future::ready(super::fresh_shared()));
conformance_tests!(fault, std::future::ready(super::fresh_fault()));

/// Hears nothing.
struct Deaf;

impl super::Notice for Deaf {
    fn retrying(&self, _: &super::Retrying<'_>) {}
}

fn retrying<B: Backend>(inner: B) -> super::RetryBackend<B> {
    // Time stands still: no attempt here takes long enough to be given up.
    let policy = super::RetryPolicy::default();
    let pace = super::test_pace::TestPace { watchdog: Some(policy.attempt), ..Default::default() };
    super::RetryBackend::new(
        inner,
        policy,
        std::sync::Arc::new(pace),
        std::sync::Arc::new(Deaf),
        std::sync::Arc::default(),
    )
}

fn fresh_retrying() -> Fresh {
    Fresh { backend: Box::new(retrying(super::MemoryBackend::new())), _place: None }
}

fn fresh_kept() -> Fresh {
    let place = tempfile::tempdir().unwrap();
    let backend = super::KeepBackend::new(super::MemoryBackend::new(), place.path().join("copies"));
    Fresh { backend: Box::new(backend), _place: Some(place) }
}

conformance_tests!(keep, std::future::ready(super::fresh_kept()));
conformance_tests!(retry, std::future::ready(super::fresh_retrying()));

fn in_bucket_over(server: &S3Server, prefix: &str, lines: super::Lines) -> super::s3::S3Backend {
    super::s3::S3Backend::new(super::s3::S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        bucket: "vault".to_owned(),
        prefix: prefix.to_owned(),
        addressing: super::s3::Addressing::Path,
        credentials: super::s3::S3Credentials::fixed(USER, PASSWORD, None),
        patience: super::s3::S3Patience::default(),
        conditions: super::s3::Conditions::Asked,
        lock: None,
        traffic: std::sync::Arc::default(),
        lines,
    })
    .unwrap()
}

fn in_bucket(server: &S3Server, prefix: &str) -> super::s3::S3Backend {
    in_bucket_over(server, prefix, super::Lines::default())
}

/// Every body goes in slices of 64 KiB, and takes no time.
fn in_bucket_over_lines(server: &S3Server, prefix: &str) -> super::s3::S3Backend {
    let bandwidth = super::Bandwidth { upload: Some(1 << 20), download: Some(1 << 20) };
    let watchdog = Some(super::s3::S3Patience::default().read);
    let pace = super::test_pace::TestPace { watchdog, ..Default::default() };
    let pace: std::sync::Arc<dyn super::Pace> = std::sync::Arc::new(pace);
    in_bucket_over(server, prefix, super::Lines::new(bandwidth, &pace)).with_part_bytes(5 << 20)
}

fn in_bucket_with_small_parts(server: &S3Server, prefix: &str) -> super::s3::S3Backend {
    in_bucket(server, prefix).with_part_bytes(5 << 20)
}

/// As a run has it. versitygw resets the connection of a put that it refuses before it has read it.
fn retrying_in_bucket(server: &S3Server, prefix: &str) -> impl Backend + use<> {
    retrying(in_bucket(server, prefix))
}

fn retrying_in_bucket_with_small_parts(server: &S3Server, prefix: &str) -> impl Backend + use<> {
    retrying(in_bucket_with_small_parts(server, prefix))
}

conformance_on_server!(minio, (Program::Minio, in_bucket));
conformance_on_server!(minio_with_small_parts, (Program::Minio, in_bucket_with_small_parts));
conformance_on_server!(minio_over_limited_lines, (Program::Minio, in_bucket_over_lines));
conformance_on_server!(versitygw, (Program::Versitygw, retrying_in_bucket));
conformance_on_server!(versitygw_with_small_parts, (Program::Versitygw, retrying_in_bucket_with_small_parts));
