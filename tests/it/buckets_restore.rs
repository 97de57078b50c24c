//! Buckets come back as they were.

use std::collections::HashMap;

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, DefaultRetention, ExpirationStatus, LifecycleExpiration,
    LifecycleRule, LifecycleRuleFilter, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode,
    ObjectLockRule, Tag, Tagging, VersioningConfiguration,
};
use orkvault::component::s3::{BucketsSink, BucketsSource, Error, Extras, SinkOptions, SourceOptions};
use orkvault::component::{self, Restored, Sink};

use crate::support::memory_store::Snapshot;
use crate::support::minio::Minio;

/// Attributes that no restore can bring back.
const OF_THE_UPLOAD: [&str; 3] = ["last-modified", "version-id", "etag"];

async fn capture(server: &Minio) -> Snapshot {
    let mut source = BucketsSource::new(&server.access(), SourceOptions::default(), String::new()).unwrap();
    Snapshot::take(&mut source, None).await.unwrap()
}

fn sink(server: &Minio, options: SinkOptions) -> BucketsSink {
    BucketsSink::new(&server.access(), options, String::new()).unwrap()
}

async fn restore(server: &Minio, snapshot: &Snapshot, options: SinkOptions) -> Result<Restored, component::Error> {
    let mut sink = sink(server, options);
    sink.plan(&mut snapshot.stored()).await?;
    sink.restore(&mut snapshot.stored()).await
}

/// Fails unless both hold the same rows, attributes and contents.
fn assert_same(one: &Snapshot, other: &Snapshot) {
    assert_eq!(one.keys(), other.keys());
    for ((left, content), (right, _)) in one.rows.iter().zip(&other.rows) {
        let key = String::from_utf8(left.key.clone()).unwrap();
        let mut attributes = [left.attributes.clone(), right.attributes.clone()];
        attributes.iter_mut().for_each(|all| all.retain(|name, _| !OF_THE_UPLOAD.contains(&name.as_str())));
        assert_eq!(attributes[0], attributes[1], "{key}");
        assert_eq!(left.len, right.len, "{key}");
        if content.is_some() {
            assert_eq!(one.content(&key), other.content(&key), "{key}");
        }
    }
}

async fn seed(server: &Minio) {
    for bucket in ["avatars", "empty", "files"] {
        server.bucket(bucket).await;
    }
    let plain = ["dir/", "dir/x", "top", "a b+c%41?#&\u{4}", "ünï/çode", "no-type", "zero"];
    for key in plain {
        server.put("avatars", key, if key == "zero" { b"" } else { key.as_bytes() }).await;
    }
    for n in 0..60 {
        server.put("files", &format!("small/{n:03}"), &vec![n; usize::from(n) * 100]).await;
    }
    let long: Vec<u8> = (0..(7_u32 << 20)).map(|n| n.to_le_bytes()[1]).collect();
    server.put("files", "long", &long).await;
    let request = server.client.put_object().bucket("files").key("rich").body(ByteStream::from_static(b"rich"));
    request
        .content_type("text/html; charset=utf-8")
        .content_encoding("identity")
        .content_language("de")
        .content_disposition("inline")
        .cache_control("no-store")
        .expires(DateTime::from_secs(1_893_456_000))
        .set_metadata(Some(HashMap::from([("one".to_owned(), "1".to_owned()), ("two".to_owned(), "zwei".to_owned())])))
        .tagging("team=red%20one&x=y")
        .send()
        .await
        .unwrap();
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    server.client.put_bucket_versioning().bucket("empty").versioning_configuration(versioning).send().await.unwrap();
    let tag = Tag::builder().key("owner").value("ops").build().unwrap();
    let tagging = Tagging::builder().tag_set(tag).build().unwrap();
    server.client.put_bucket_tagging().bucket("files").tagging(tagging).send().await.unwrap();
    let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::avatars/*"]}]}"#;
    server.client.put_bucket_policy().bucket("avatars").policy(policy).send().await.unwrap();
}

#[tokio::test]
async fn buckets_come_back_on_an_empty_server_with_everything_they_had() {
    let (Some(old), Some(new)) = (Minio::start().await, Minio::start().await) else { return };
    seed(&old).await;
    let snapshot = capture(&old).await;
    assert_eq!(snapshot.rows.len(), 3 + 7 + 60 + 2);
    assert_eq!(snapshot.attribute("empty/", "versioning").as_deref(), Some("Enabled"));
    assert_eq!(snapshot.attribute("files/", "tag:owner").as_deref(), Some("ops"));
    assert!(snapshot.attribute("avatars/", "policy").is_some());

    let mut sink = sink(&new, SinkOptions { parts_from: 6 << 20, part_len: 5 << 20, ..SinkOptions::default() });
    let plan = sink.plan(&mut snapshot.stored()).await.unwrap();
    assert_eq!(plan.creates.len(), 3, "{plan:?}");
    assert_eq!(plan.replaces, [""; 0]);
    assert_eq!(new.client.list_buckets().send().await.unwrap().buckets().len(), 0, "a plan changes nothing");
    let restored = sink.restore(&mut snapshot.stored()).await.unwrap();
    assert_eq!(restored.warnings, [""; 0]);
    let total: u64 = snapshot.rows.iter().map(|(entry, _)| entry.len).sum();
    assert_eq!(restored.bytes, total);
    assert_same(&snapshot, &capture(&new).await);
    let long = new.client.head_object().bucket("files").key("long").send().await.unwrap();
    assert!(long.e_tag().unwrap().ends_with("-2\""), "it went in parts: {:?}", long.e_tag());
}

#[tokio::test]
async fn only_what_differs_is_uploaded_and_other_objects_stay_unless_exact() {
    let Some(server) = Minio::start().await else { return };
    seed(&server).await;
    server.bucket("other").await;
    let mut snapshot = capture(&server).await;
    snapshot.rows.retain(|(entry, _)| !entry.key.starts_with(b"other/"));

    let untouched = restore(&server, &snapshot, SinkOptions::default()).await.unwrap();
    assert_eq!(untouched.bytes, 0, "{untouched:?}");

    server.put("files", "small/010", b"damaged").await;
    server.put("files", "extra", b"extra").await;
    server.put("other", "k", b"not ours").await;
    server.client.delete_object().bucket("files").key("small/011").send().await.unwrap();
    server.client.delete_object_tagging().bucket("files").key("rich").send().await.unwrap();
    let request = server.client.copy_object().bucket("files").key("small/012").copy_source("files/small/012");
    let request = request.metadata("stray", "1").metadata_directive(aws_sdk_s3::types::MetadataDirective::Replace);
    request.send().await.unwrap();
    let plan = sink(&server, SinkOptions::default()).plan(&mut snapshot.stored()).await.unwrap();
    assert!(plan.creates.iter().any(|line| line == "bucket files: 1 objects that it does not have"), "{plan:?}");
    assert!(plan.replaces.iter().any(|line| line == "bucket files: 1 objects with other content"), "{plan:?}");
    assert!(plan.warnings.iter().any(|line| line.contains("files: 1 objects that the snapshot does not have stay")));

    let merged = restore(&server, &snapshot, SinkOptions::default()).await.unwrap();
    assert_eq!(merged.bytes, 1000 + 1100 + 1200 + 4, "{merged:?}");
    assert_eq!(server.get("files", "extra").await, b"extra");
    let exact = SinkOptions { extras: Extras::Delete, ..SinkOptions::default() };
    restore(&server, &snapshot, exact).await.unwrap();
    assert_eq!(server.get("other", "k").await, b"not ours", "buckets outside the snapshot are never touched");
    let mut now = capture(&server).await;
    now.rows.retain(|(entry, _)| !entry.key.starts_with(b"other/"));
    assert_same(&snapshot, &now);
}

#[tokio::test]
async fn a_key_that_the_server_refuses_is_named_and_the_rest_is_restored() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("bbb").await;
    for key in ["a", "m", "z"] {
        server.put("bbb", key, key.as_bytes()).await;
    }
    let mut snapshot = capture(&server).await;
    for (entry, _) in &mut snapshot.rows {
        if entry.key == b"bbb/m" {
            entry.key = b"bbb/m//../x".to_vec();
        }
    }
    server.client.delete_object().bucket("bbb").key("z").send().await.unwrap();
    match restore(&server, &snapshot, SinkOptions::default()).await {
        Err(component::Error::S3(Error::NotRestored { count: 1, first })) => {
            assert!(first[0].contains("bbb/m//../x"), "{first:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.keys("bbb").await, ["a", "m", "z"]);
}

#[tokio::test]
async fn a_bucket_that_the_server_refuses_is_named_and_the_rest_is_restored() {
    let Some(server) = Minio::start().await else { return };
    for bucket in ["aaa", "bbb", "ccc"] {
        server.bucket(bucket).await;
        server.put(bucket, "k", b"content").await;
    }
    let mut snapshot = capture(&server).await;
    for (entry, _) in snapshot.rows.iter_mut().filter(|(entry, _)| entry.key.starts_with(b"bbb/")) {
        entry.key.splice(0..3, *b"b..b");
    }
    server.client.delete_object().bucket("ccc").key("k").send().await.unwrap();
    match restore(&server, &snapshot, SinkOptions::default()).await {
        Err(component::Error::S3(Error::NotRestored { count: 1, first })) => {
            assert!(first[0].contains("b..b") && first[0].contains("1 objects"), "{first:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.get("ccc", "k").await, b"content");
}

#[tokio::test]
async fn content_that_the_repository_cannot_deliver_whole_is_never_published() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("bbb").await;
    server.put("bbb", "long", &vec![7; 11 << 20]).await;
    server.put("bbb", "mid", &vec![8; 2 << 20]).await;
    let snapshot = capture(&server).await;
    for (key, row) in [("long", "bbb/long"), ("mid", "bbb/mid")] {
        server.put("bbb", "long", b"old").await;
        server.put("bbb", "mid", b"old").await;
        let options = SinkOptions { parts_from: 6 << 20, part_len: 5 << 20, ..SinkOptions::default() };
        let result = sink(&server, options).restore(&mut snapshot.stored().with_broken_content(row)).await;
        assert!(matches!(result, Err(component::Error::Stored { .. })), "{result:?}");
        assert_eq!(server.get("bbb", key).await, b"old");
        let uploads = server.client.list_multipart_uploads().bucket("bbb").prefix(key).send().await.unwrap();
        assert_eq!(uploads.uploads().len(), 0, "the parts of the upload are not left behind");
    }
}

#[tokio::test]
async fn a_bucket_that_locks_and_expires_objects_comes_back_with_its_rules() {
    let (Some(old), Some(new)) = (Minio::start().await, Minio::start().await) else { return };
    let create = old.client.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true);
    create.send().await.unwrap();
    old.put("locked", "small", b"content").await;
    old.put("locked", "long", &vec![9; 11 << 20]).await;
    let retention = DefaultRetention::builder().mode(ObjectLockRetentionMode::Governance).days(1).build();
    let rule = ObjectLockRule::builder().default_retention(retention).build();
    let lock = ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled).rule(rule).build();
    let request = old.client.put_object_lock_configuration().bucket("locked");
    request.object_lock_configuration(lock).send().await.unwrap();
    let rule = LifecycleRule::builder()
        .id("sweep")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("tmp/").build())
        .expiration(LifecycleExpiration::builder().days(30).build());
    let rules = BucketLifecycleConfiguration::builder().rules(rule.build().unwrap()).build().unwrap();
    let request = old.client.put_bucket_lifecycle_configuration().bucket("locked");
    request.lifecycle_configuration(rules).send().await.unwrap();

    let snapshot = capture(&old).await;
    assert!(snapshot.attribute("locked/", "object-lock").is_some());
    assert!(snapshot.attribute("locked/", "lifecycle").is_some());
    assert_eq!(snapshot.captured.facts["versions"], "current only");
    let options = || SinkOptions { parts_from: 6 << 20, part_len: 5 << 20, ..SinkOptions::default() };
    let restored = restore(&new, &snapshot, options()).await.unwrap();
    assert_eq!(restored.warnings, [""; 0]);
    assert_same(&snapshot, &capture(&new).await);
    // Again, into a bucket whose default retention locks whatever comes.
    new.client.delete_object().bucket("locked").key("small").send().await.unwrap();
    new.client.delete_object().bucket("locked").key("long").send().await.unwrap();
    restore(&new, &snapshot, options()).await.unwrap();
    assert_same(&snapshot, &capture(&new).await);
}

#[tokio::test]
async fn one_bucket_of_many_can_be_restored_alone() {
    let (Some(old), Some(new)) = (Minio::start().await, Minio::start().await) else { return };
    seed(&old).await;
    let snapshot = capture(&old).await;
    let options = SinkOptions { buckets: vec!["avatras".to_owned()], ..SinkOptions::default() };
    let misspelled = sink(&new, options).plan(&mut snapshot.stored()).await;
    assert!(matches!(misspelled, Err(component::Error::S3(Error::NotInSnapshot { .. }))), "{misspelled:?}");
    let options = SinkOptions { buckets: vec!["avatars".to_owned()], ..SinkOptions::default() };
    restore(&new, &snapshot, options).await.unwrap();
    let restored = capture(&new).await;
    assert!(restored.keys().iter().all(|key| key.starts_with("avatars/")));
    assert_eq!(restored.rows.len(), 1 + 7);
}
