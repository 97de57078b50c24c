//! Night after night: a real server's buckets, captured on top of each other.

use std::collections::HashMap;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use orkvault::component::Source;
use orkvault::component::s3::{BucketsSource, SourceOptions};

use crate::support::memory_store::Snapshot;
use crate::support::minio::Minio;

fn source(server: &Minio) -> BucketsSource {
    BucketsSource::new(&server.access(), SourceOptions::default(), "a test".to_owned()).unwrap()
}

#[tokio::test]
async fn every_header_metadata_entry_and_tag_of_an_object_is_captured() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("avatars").await;
    let request = server.client.put_object().bucket("avatars").key("users/ä b+c%41\u{4}?#&.png");
    request
        .body(ByteStream::from_static(b"picture"))
        .content_type("image/png")
        .content_encoding("identity")
        .content_language("de-CH")
        .content_disposition("attachment; filename=\"a.png\"")
        .cache_control("max-age=60")
        .expires(DateTime::from_secs(1_893_456_000))
        .set_metadata(Some(HashMap::from([("owner".to_owned(), "u-17".to_owned())])))
        .tagging("team=red%20one&empty=")
        .send()
        .await
        .unwrap();
    let snapshot = Snapshot::take(&mut source(&server), None).await.unwrap();
    let key = "avatars/users/ä b+c%41\u{4}?#&.png";
    assert_eq!(snapshot.keys(), ["avatars/", key]);
    assert_eq!(snapshot.content(key), b"picture"[..]);
    let value = |name: &str| snapshot.attribute(key, name);
    let expected = [
        ("content-type", "image/png"),
        ("content-encoding", "identity"),
        ("content-language", "de-CH"),
        ("content-disposition", "attachment; filename=\"a.png\""),
        ("cache-control", "max-age=60"),
        ("expires", "Tue, 01 Jan 2030 00:00:00 GMT"),
        ("meta:owner", "u-17"),
        ("tag:team", "red one"),
        ("tag:empty", ""),
        ("storage-class", "STANDARD"),
    ];
    for (name, expected) in expected {
        assert_eq!(value(name).as_deref(), Some(expected), "{name}");
    }
    assert!(value("etag").is_some() && value("last-modified").is_some());
}

#[tokio::test]
async fn the_second_night_reads_only_what_changed() {
    let Some(server) = Minio::start().await else { return };
    for bucket in ["a00-b", "a00", "empty"] {
        server.bucket(bucket).await;
    }
    let long = vec![3; (1 << 20) + 1];
    for (key, content) in [("d/", &b""[..]), ("d/x", b"1"), ("d-x", b"2"), ("gone", b"3"), ("long", &long)] {
        server.put("a00", key, content).await;
    }
    for n in 0..40 {
        server.put("a00-b", &format!("n{n}"), format!("content {n}").as_bytes()).await;
    }
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    let mut sorted = first.keys();
    sorted.sort();
    assert_eq!(first.keys(), sorted);
    assert_eq!(first.rows.len(), 3 + 5 + 40);
    assert_eq!(first.content("a00/long"), long);
    let rows: Vec<_> = first.captured.catalogue.iter().map(|row| (row.name.as_str(), row.records, row.bytes)).collect();
    assert_eq!(rows, [("a00-b", 40, 390), ("a00", 5, 3 + long.len() as u64), ("empty", 0, 0)]);

    server.put("a00", "d/x", b"another").await;
    server.put("a00", "new", b"new").await;
    server.client.delete_object().bucket("a00").key("gone").send().await.unwrap();
    server.client.delete_bucket().bucket("empty").send().await.unwrap();
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.read, ["a00/d/x", "a00/new"]);
    assert_eq!(second.content("a00/d/x"), b"another"[..]);
    assert_eq!(second.content("a00-b/n17"), b"content 17"[..]);
    assert_eq!(second.rows.len(), 2 + 5 + 40);
    assert_eq!(second.captured.warnings, [""; 0]);

    let third = Snapshot::take(&mut source(&server), Some(&second)).await.unwrap();
    assert_eq!(third.read, [""; 0]);
    assert_eq!(third.rows, second.rows);
}

#[tokio::test]
async fn an_object_that_the_server_lists_no_more_though_it_exists_is_not_lost() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("bbb").await;
    server.put("bbb", "a/b", b"below").await;
    server.put("bbb", "z", b"last").await;
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    // MinIO lists no object below another object's key.
    server.put("bbb", "a", b"above").await;
    assert_eq!(server.keys("bbb").await, ["a", "z"]);
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.keys(), ["bbb/", "bbb/a", "bbb/a/b", "bbb/z"]);
    assert_eq!(second.content("bbb/a/b"), b"below"[..]);
    assert_eq!(second.captured.warnings, ["the listing of bucket bbb omitted a/b, which exists"]);
}

#[tokio::test]
async fn metadata_that_changes_alone_is_seen() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("bbb").await;
    server.put("bbb", "k", b"content").await;
    let first = Snapshot::take(&mut source(&server), None).await.unwrap();
    let request = server.client.copy_object().bucket("bbb").key("k").copy_source("bbb/k").metadata("a", "b");
    request.metadata_directive(aws_sdk_s3::types::MetadataDirective::Replace).send().await.unwrap();
    let second = Snapshot::take(&mut source(&server), Some(&first)).await.unwrap();
    assert_eq!(second.attribute("bbb/k", "meta:a").as_deref(), Some("b"));
}

#[tokio::test]
async fn only_the_wanted_buckets_are_captured_and_a_misspelled_one_is_an_error() {
    let Some(server) = Minio::start().await else { return };
    for bucket in ["one", "two"] {
        server.bucket(bucket).await;
        server.put(bucket, "k", b"content").await;
    }
    let only = |name: &str| SourceOptions { buckets: vec![name.to_owned()], ..SourceOptions::default() };
    let mut one = BucketsSource::new(&server.access(), only("one"), String::new()).unwrap();
    let everything = Snapshot::take(&mut source(&server), None).await.unwrap();
    let snapshot = Snapshot::take(&mut one, Some(&everything)).await.unwrap();
    assert_eq!(snapshot.keys(), ["one/", "one/k"]);
    let mut misspelled = BucketsSource::new(&server.access(), only("onne"), String::new()).unwrap();
    let error = misspelled.probe().await.unwrap_err();
    assert!(error.to_string().contains("onne"), "{error}");
}
