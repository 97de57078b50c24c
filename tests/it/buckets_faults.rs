//! What a capture of buckets does when the server lies, breaks off or is busy.

use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use orkvault::component::s3::{BucketsSink, BucketsSource, Error, SinkOptions, SourceOptions, TagReading};
use orkvault::component::{self, ByteStream, Capture, Content, Entry, Sink, Source, StoredContent, StreamKind};

use crate::support::memory_store::Snapshot;
use crate::support::minio::access;
use crate::support::s3_fault::{Faults, FaultyS3, KeyWriting, Object, World};

fn source(server: &FaultyS3) -> BucketsSource {
    source_with(server, SourceOptions::default())
}

fn source_with(server: &FaultyS3, options: SourceOptions) -> BucketsSource {
    BucketsSource::new(&access(&server.endpoint, "user", "password"), options, String::new()).unwrap()
}

/// A server with objects `avatars/00`, `avatars/01` ... and pages of three.
async fn server(objects: u32, faults: Faults) -> FaultyS3 {
    let mut world = World { page_len: 3, faults, ..World::default() };
    world.buckets.entry("avatars".to_owned()).or_default();
    for n in 0..objects {
        world.put("avatars", &format!("{n:02}"), Object::new(format!("content {n}").as_bytes(), n));
    }
    FaultyS3::start(world).await
}

fn expected(objects: u32) -> Vec<String> {
    std::iter::once("avatars/".to_owned()).chain((0..objects).map(|n| format!("avatars/{n:02}"))).collect()
}

fn s3_error<T>(result: Result<T, component::Error>) -> Error {
    match result {
        Err(component::Error::S3(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it succeeded"),
    }
}

#[tokio::test]
async fn a_server_without_buckets_is_an_empty_capture_and_says_so() {
    let server = FaultyS3::start(World::default()).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert!(snapshot.rows.is_empty());
    assert_eq!(snapshot.captured.facts["buckets"], "0");
}

#[tokio::test]
async fn buckets_that_may_not_be_listed_are_a_failure_and_not_an_empty_capture() {
    let server = server(3, Faults { refuse_buckets: Some((403, "AccessDenied")), ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    let error = s3_error(source(&server).probe().await);
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let cases = [
        (403, "InvalidAccessKeyId", "Credentials"),
        (403, "SignatureDoesNotMatch", "Credentials"),
        (403, "RequestTimeTooSkewed", "ClockSkew"),
        (403, "AccessDenied", "AccessDenied"),
        (404, "NoSuchBucket", "NoSuchBucket"),
        (503, "SlowDown", "Throttled"),
        (501, "NotImplemented", "NotSupported"),
        (400, "Weird", "Failed"),
    ];
    for (status, code, variant) in cases {
        let server = server(1, Faults { refuse_buckets: Some((status, code)), ..Faults::default() }).await;
        let error = s3_error(source(&server).probe().await);
        assert!(format!("{error:?}").starts_with(variant), "{code}: {error:?}");
        assert!(error.to_string().starts_with("ListBuckets"), "{error}");
    }
}

#[tokio::test]
async fn a_listing_that_ends_early_loses_nothing_and_is_told() {
    let server = server(10, Faults { early_end: Some(2), ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(10));
    assert!(
        snapshot.captured.warnings.iter().any(|line| line.contains("ended early")),
        "{:?}",
        snapshot.captured.warnings
    );
}

#[tokio::test]
async fn the_next_page_is_asked_for_while_a_page_still_comes() {
    // Each page waits for the next one to be asked for: whoever reads to the end first would wait with it.
    let server = server(10, Faults { late_pages: true, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(10));
    let usual = self::server(10, Faults::default()).await;
    Snapshot::take(&mut source(&usual), None).await.unwrap();
    // And no page twice.
    assert_eq!(server.take_counts(), usual.take_counts());
}

/// A capture whose previous rows are made ready only when the server has answered so many requests for pages.
struct Unready<'a> {
    server: &'a FaultyS3,
    pages: u32,
}

#[async_trait]
impl Capture for Unready<'_> {
    async fn stream(&mut self, _: &str, _: StreamKind, _: ByteStream) -> Result<u64, component::Error> {
        panic!("buckets have no streams")
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        while self.server.world().counts.get("ListObjectsV2").is_none_or(|count| *count < self.pages) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(None)
    }

    async fn entry(&mut self, _: Entry, _: Content) -> Result<(), component::Error> {
        Ok(())
    }
}

#[tokio::test]
async fn a_bucket_is_listed_ahead_while_the_previous_rows_are_made_ready() {
    let server = server(10, Faults::default()).await;
    let mut source = source(&server);
    // Four pages, and what comes after the last of them.
    let mut capture = Unready { server: &server, pages: 5 };
    let captured = tokio::time::timeout(Duration::from_secs(30), source.capture(&mut capture)).await;
    captured.expect("it lists ahead").unwrap();
}

#[tokio::test]
async fn the_settings_of_a_bucket_are_asked_for_at_once() {
    let server = server(1, Faults { late_settings: true, ..Faults::default() }).await;
    let snapshot = tokio::time::timeout(Duration::from_secs(30), Snapshot::take(&mut source(&server), None)).await;
    assert_eq!(snapshot.expect("no question waits for another").unwrap().keys(), expected(1));
}

#[tokio::test]
async fn a_repeated_token_is_an_error() {
    let server = server(10, Faults { repeat_token: true, ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::Listing { .. }), "{error}");
    assert!(error.source().unwrap().to_string().contains("token"), "{error:?}");
}

#[tokio::test]
async fn a_listing_that_starts_over_is_an_error() {
    let server = server(10, Faults { ignore_token: true, ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::Listing { .. }), "{error}");
}

#[tokio::test]
async fn an_object_missing_from_the_listing_but_not_from_the_server_is_captured() {
    let server = server(7, Faults::default()).await;
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().faults.omit.extend(["avatars/02".to_owned(), "avatars/06".to_owned()]);
    server.world().buckets.get_mut("avatars").unwrap().remove("04");
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    let mut left = expected(7);
    left.retain(|key| key != "avatars/04");
    assert_eq!(second.keys(), left);
    assert_eq!(second.content("avatars/06"), first.content("avatars/06"));
    let omitted = second.captured.warnings.iter().filter(|line| line.contains("omitted")).count();
    assert_eq!(omitted, 2, "{:?}", second.captured.warnings);
}

#[tokio::test]
async fn keys_are_read_as_the_server_writes_them_whatever_it_says_of_that() {
    for keys in [KeyWriting::Form, KeyWriting::Path, KeyWriting::Raw] {
        let server = server(2, Faults { keys, ..Faults::default() }).await;
        // Each would be another's key, or none, if it were read in the wrong way; `100%` would be no key at all.
        for (state, key) in (10..).zip(["1 +", "1!", "1%20+", "1+ +", "1++", "100%", "a/&<", "z+"]) {
            server.world().put("avatars", key, Object::new(key.as_bytes(), state));
        }
        let first = Snapshot::take(&mut source(&server), None).await.unwrap();
        assert_eq!(first.keys(), server.world().row_keys());
        for key in ["avatars/1 +", "avatars/1%20+", "avatars/100%", "avatars/z+"] {
            assert_eq!(first.content(key), key.trim_start_matches("avatars/").as_bytes());
        }
        assert_eq!(first.captured.warnings, [""; 0]);
        server.take_counts();
        let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
        assert_eq!(second.captured.facts["objects_unchanged"], "10");
        // Finding out costs a few questions, and only where a key leaves it open.
        assert!(server.take_counts().get("HeadObject").is_none_or(|count| *count <= 6));
    }
}

#[tokio::test]
async fn an_object_that_listing_and_head_deny_for_a_moment_is_not_lost() {
    let server = server(3, Faults::default()).await;
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().faults.omit.insert("avatars/02".to_owned());
    server.world().faults.deny_heads = 1;
    server.world().faults.flaps = 1;
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.keys(), expected(3));
}

#[tokio::test]
async fn a_bucket_missing_from_the_list_of_buckets_but_not_from_the_server_is_captured() {
    let server = server(2, Faults::default()).await;
    server.world().put("zoo", "x", Object::new(b"x", 1));
    server.world().put("gone", "x", Object::new(b"x", 1));
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().faults.hide_buckets.extend(["avatars".to_owned(), "zoo".to_owned()]);
    server.world().buckets.remove("gone");
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.keys(), ["avatars/", "avatars/00", "avatars/01", "zoo/", "zoo/x"]);
    assert!(second.captured.warnings.iter().any(|line| line.contains("bucket zoo exists")));
}

#[tokio::test]
async fn a_bucket_that_belongs_to_somebody_else_by_now_is_left_out_with_a_warning() {
    let server = server(2, Faults::default()).await;
    server.world().put("lost", "x", Object::new(b"x", 1));
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().faults.hide_buckets.insert("lost".to_owned());
    server.world().faults.refuse_bucket_heads = true;
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.keys(), expected(2));
    assert!(second.captured.warnings[0].starts_with("bucket lost is not listed"), "{:?}", second.captured.warnings);
}

#[tokio::test]
async fn a_bucket_that_is_denied_for_a_moment_is_waited_for() {
    let server = server(4, Faults { flaps: 2, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(4));
}

#[tokio::test]
async fn a_bucket_that_stays_denied_is_never_an_empty_bucket() {
    let server = server(4, Faults { flaps: u32::MAX, ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::NoSuchBucket { .. }), "{error}");
    assert!(error.to_string().contains("avatars"), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_broke() {
    let server = server(0, Faults { cut_bodies: 3, ..Faults::default() }).await;
    let long: Vec<u8> = (0..3_000_001_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    server.world().put("avatars", "long", Object::new(&long, 1));
    server.world().put("avatars", "short", Object::new(&long[..1000], 2));
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.content("avatars/long"), long);
    assert_eq!(snapshot.content("avatars/short"), long[..1000]);
    assert_eq!(server.world().faults.cut_bodies, 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_again_and_again_is_an_error() {
    let server = server(0, Faults { cut_bodies: u32::MAX, ..Faults::default() }).await;
    server.world().put("avatars", "long", Object::new(&vec![7; 2_000_000], 1));
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::BodyBroken { expected: 2_000_000, .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_ignores_the_range_of_a_resumed_body_is_not_believed() {
    let server = server(0, Faults { cut_bodies: 1, ignore_range: true, ..Faults::default() }).await;
    server.world().put("avatars", "long", Object::new(&vec![7; 2_000_000], 1));
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::Answer { field: "content range", .. }), "{error}");
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let server = server(4, Faults { busy: 4, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(4));
}

#[tokio::test]
async fn a_server_that_stays_busy_is_an_error() {
    let server = server(4, Faults { busy: u32::MAX, ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::Throttled { status: 503, .. }), "{error}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_fails_the_capture_and_is_named() {
    // Six attempts for the first object succeed at the first; from then on every answer is 500.
    let server = server(3, Faults { broken_get: Some(1), ..Faults::default() }).await;
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::Failed { status: 500, .. }), "{error}");
    assert!(error.to_string().contains("avatars/0"), "{error}");
}

#[tokio::test]
async fn headers_come_from_head_where_get_lacks_them() {
    let server = server(1, Faults::default()).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.attribute("avatars/00", "content-type").as_deref(), Some("image/png"));
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_captured_in_one_state() {
    let swap = [("avatars/01".to_owned(), Some(Object::new(b"another", 77)))].into();
    let server = server(3, Faults { swap_after_head: swap, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.content("avatars/01"), b"another"[..]);
    assert_eq!(snapshot.attribute("avatars/01", "etag"), Some(format!("\"{:032x}\"", 77)));
    assert_eq!(snapshot.captured.warnings, ["avatars/01 changed during the capture"]);
}

#[tokio::test]
async fn a_server_that_does_not_understand_conditions_is_compared_with_instead() {
    let server = server(3, Faults { refuse_conditions: true, cut_bodies: 2, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(3));
    assert_eq!(snapshot.content("avatars/01"), b"content 1"[..]);
    assert_eq!(snapshot.captured.warnings, [""; 0]);
}

#[tokio::test]
async fn an_object_that_vanishes_while_it_is_read_is_a_warning() {
    let swap = [("avatars/01".to_owned(), None)].into();
    let server = server(3, Faults { swap_after_head: swap, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), ["avatars/", "avatars/00", "avatars/02"]);
    assert_eq!(snapshot.captured.warnings, ["avatars/01 vanished during the capture"]);
}

#[tokio::test]
async fn a_server_without_tags_and_settings_is_captured_and_says_so() {
    let server = server(3, Faults { no_tags: true, ..Faults::default() }).await;
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.keys(), expected(3));
    let missing = snapshot.attribute("avatars/", "not-supported").unwrap();
    assert_eq!(missing, "versioning,cors,policy,lifecycle,object-lock,tags");
    assert_eq!(snapshot.captured.warnings.len(), 1, "{:?}", snapshot.captured.warnings);
}

#[tokio::test]
async fn fifty_thousand_unchanged_objects_cost_the_listing_only() {
    let mut world = World { page_len: 1000, ..World::default() };
    for n in 0..50_000 {
        world.put("many", &format!("{n:06}"), Object::new(b"", n % 1000));
    }
    let server = FaultyS3::start(world).await;
    let mut previous = Snapshot::default();
    // The first night is made up: reading it would only take long.
    previous.rows.push((entry("many/", None), None));
    for n in 0..50_000_u32 {
        previous.rows.push((entry(&format!("many/{n:06}"), Some(n % 1000)), None));
    }
    let snapshot = Snapshot::take(&mut source(&server), Some(&previous)).await.unwrap();
    assert_eq!(snapshot.rows.len(), 50_001);
    assert_eq!(snapshot.captured.facts["objects_unchanged"], "50000");
    let counts = server.take_counts();
    let expected = [("GetBucketSetting", 6), ("ListBuckets", 1), ("ListObjectsV2", 51)];
    assert_eq!(counts, expected.into());
}

fn entry(key: &str, state: Option<u32>) -> component::Entry {
    let mut attributes = std::collections::BTreeMap::new();
    if let Some(state) = state {
        let object = Object::new(b"", state);
        attributes.insert("etag".to_owned(), object.etag.into_bytes());
        // Without the fraction's trailing zeros, as the source stores it.
        let modified = if state == 0 {
            "2026-01-02T03:04:05Z".to_owned()
        } else {
            format!("{}Z", object.modified.trim_end_matches('Z').trim_end_matches('0'))
        };
        attributes.insert("last-modified".to_owned(), modified.into_bytes());
    }
    component::Entry { key: key.as_bytes().to_vec(), attributes, len: 0 }
}

#[tokio::test]
async fn after_any_day_on_a_lying_server_a_capture_holds_exactly_what_the_server_has() {
    let server = server(0, Faults { early_end: Some(2), ..Faults::default() }).await;
    let mut random = 20_260_102_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut source = source(&server);
    let mut previous = Snapshot::default();
    let mut state = 0;
    for day in 0..25 {
        for _ in 0..draw(12) {
            let bucket = ["aa", "aa-b", "aa.c", "bb"][usize::try_from(draw(4)).unwrap()];
            let key = format!("{}{}", ["", "x/", "x-", "é"][usize::try_from(draw(4)).unwrap()], draw(6));
            state += 1;
            match draw(3) {
                0 => drop(server.world().buckets.entry(bucket.to_owned()).or_default().remove(&key)),
                _ => server.world().put(bucket, &key, Object::new(format!("{state}").as_bytes(), state)),
            }
        }
        if draw(5) == 0 {
            server.world().buckets.remove("aa-b");
        }
        let keys = server.world().row_keys();
        let known = previous.keys();
        let omitted = keys.iter().filter(|key| draw(6) == 0 && known.contains(key)).cloned();
        server.world().faults.omit = omitted.collect();
        server.world().faults.cut_bodies = u32::try_from(draw(3)).unwrap();
        server.world().faults.busy = u32::try_from(draw(3)).unwrap();

        let snapshot = Snapshot::take(&mut source, Some(&previous)).await.unwrap();
        let world = server.world();
        assert_eq!(snapshot.keys(), keys, "day {day}");
        for (bucket, objects) in &world.buckets {
            for (key, object) in objects {
                assert_eq!(snapshot.content(&format!("{bucket}/{key}")), object.bytes, "day {day}: {bucket}/{key}");
            }
        }
        drop(world);
        previous = snapshot;
    }
    assert_eq!(server.world().unexpected, [""; 0]);
}

#[tokio::test]
async fn buckets_of_the_snapshot_that_are_not_asked_for_are_named_in_plan_and_result() {
    let server = server(2, Faults::default()).await;
    server.world().put("files", "x", Object::new(b"x", 1));
    server.world().put("zoo", "x", Object::new(b"x", 1));
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().buckets.values_mut().for_each(std::collections::BTreeMap::clear);
    let access = access(&server.endpoint, "user", "password");
    for (buckets, named) in [(vec!["avatars".to_owned()], 1), (Vec::new(), 0)] {
        let options = SinkOptions { buckets, ..SinkOptions::default() };
        let mut sink = BucketsSink::new(&access, options, String::new()).unwrap();
        let plan = sink.plan(&mut snapshot.stored()).await.unwrap();
        let restored = sink.restore(&mut snapshot.stored()).await.unwrap();
        for warnings in [plan.warnings, restored.warnings] {
            let lines = warnings.iter().filter(|line| line.ends_with("only avatars are asked for: files, zoo"));
            assert_eq!(lines.count(), named, "{warnings:?}");
        }
        assert_eq!(server.world().buckets["zoo"].is_empty(), named == 1);
    }
}

#[tokio::test]
async fn a_storage_class_that_the_server_does_not_know_is_left_out_however_long_the_object_is() {
    let server = server(0, Faults::default()).await;
    server.world().put("avatars", "long", Object::new(&vec![7; 1_500_000], 1));
    server.world().put("avatars", "short", Object::new(b"short", 2));
    let mut snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    for (entry, _) in &mut snapshot.rows {
        entry.attributes.insert("storage-class".to_owned(), b"GLACIER_IR".to_vec());
    }
    server.world().buckets.get_mut("avatars").unwrap().clear();
    server.world().faults.no_classes = true;
    let options = SinkOptions { parts_from: 1 << 20, part_len: 1 << 20, ..SinkOptions::default() };
    let mut sink = BucketsSink::new(&access(&server.endpoint, "user", "password"), options, String::new()).unwrap();
    let restored = sink.restore(&mut snapshot.stored()).await.unwrap();
    for key in ["long", "short"] {
        let line = format!("avatars/{key}: the storage class was not restored");
        assert!(restored.warnings.contains(&line), "{:?}", restored.warnings);
        assert!(server.world().buckets["avatars"][key].bytes == snapshot.content(&format!("avatars/{key}")));
    }
}

#[tokio::test]
async fn tags_of_unchanged_objects_are_read_again_only_on_request() {
    let server = server(3, Faults::default()).await;
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    server.world().tags.insert("avatars/01".to_owned(), vec![("team".to_owned(), "red".to_owned())]);
    server.take_counts();
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.attribute("avatars/01", "tag:team"), None);
    assert_eq!(server.take_counts().get("GetObjectTagging"), None);
    let options = SourceOptions { tags: TagReading::Refresh, ..SourceOptions::default() };
    let third = Snapshot::take(&mut source_with(&server, options), Some(&second)).await.unwrap();
    assert_eq!(third.attribute("avatars/01", "tag:team").as_deref(), Some("red"));
    assert_eq!(third.read, [""; 0]);
    assert_eq!(server.take_counts().get("GetObject"), None);
}

#[tokio::test]
async fn metadata_with_a_very_long_name_is_kept_and_comes_back() {
    let server = server(1, Faults::default()).await;
    let (long, short) = (format!("x-amz-meta-{}", "n".repeat(1800)), "x-amz-meta-short".to_owned());
    let mut object = Object::new(b"x", 50);
    object.headers.extend([(long.clone(), "a \"quoted\" value".to_owned()), (short.clone(), "v".to_owned())]);
    server.world().put("avatars", "x", object);
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    assert_eq!(snapshot.captured.warnings, [""; 0]);
    // No name is longer than the repository takes.
    assert!(snapshot.rows.iter().all(|(entry, _)| entry.attributes.keys().all(|name| name.len() <= 1024)));
    server.world().buckets.get_mut("avatars").unwrap().remove("x");
    let access = access(&server.endpoint, "user", "password");
    let mut sink = BucketsSink::new(&access, SinkOptions::default(), String::new()).unwrap();
    let restored = sink.restore(&mut snapshot.stored()).await.unwrap();
    let headers = server.world().buckets["avatars"]["x"].headers.clone();
    for (name, value) in [(long, "a \"quoted\" value"), (short, "v")] {
        assert!(headers.contains(&(name, value.to_owned())), "{headers:?}");
    }
    assert_eq!(restored.warnings, [""; 0]);
}

#[tokio::test]
async fn an_object_with_more_metadata_than_can_be_read_is_named_and_the_server_is_not_called_unreachable() {
    let server = server(1, Faults::default()).await;
    let mut object = Object::new(b"x", 50);
    object.headers.extend((0..150).map(|n| (format!("x-amz-meta-n{n:03}"), "v".to_owned())));
    server.world().put("avatars", "x", object);
    let error = s3_error(Snapshot::take(&mut source(&server), None).await);
    assert!(matches!(error, Error::TooManyHeaders { .. }), "{error:?}");
    assert!(error.to_string().starts_with("HeadObject of avatars/x: "), "{error}");
}
