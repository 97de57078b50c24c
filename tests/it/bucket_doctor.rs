//! `doctor` on a bucket: what the store can do, what it cannot, and what orkvault does about it.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use serde_json::Value;

use crate::support::cli::Vault;
use crate::support::s3_fault::{Faults, FaultyS3, World};
use crate::support::s3_server::{Program, S3Server};

/// Runs doctor; returns what it found out about the store: facts, and verdicts with their words.
fn doctor(vault: &Vault) -> (Value, BTreeMap<String, (String, String)>) {
    let json = vault.run(["doctor", "--json", "--docker-host", "unix:///nowhere.sock"]).expect(1).json();
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    let findings = json["findings"].as_array().unwrap().iter().filter_map(|finding| {
        let what = text(finding, "what").strip_prefix("store: ")?.to_owned();
        Some((what, (text(finding, "verdict"), text(finding, "text"))))
    });
    (json["store"].clone(), findings.collect())
}

#[tokio::test]
async fn doctor_says_what_real_servers_can_do_and_leaves_nothing_behind() {
    for (program, name) in [(Program::Minio, "minio"), (Program::Versitygw, "versitygw")] {
        let Some(server) = S3Server::start(program).await else { return };
        server.bucket("vault").await;
        let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault/p");
        let (facts, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
        assert_eq!(facts["read_after_write"], true, "{name}");
        assert_eq!(facts["listing_honest"], true, "{name}");
        assert_eq!(facts["conditional_put"], true, "{name}");
        assert_eq!(facts["racing_winners"], 1, "{name}");
        assert_eq!(facts["conditional_parts"], true, "{name}");
        assert_eq!(facts["delete"], true, "{name}");
        assert_eq!((&facts["versioning"], &facts["old_states"]), (&Value::from("off"), &Value::Null), "{name}");
        assert_eq!(facts["object_lock"], false, "{name}");
        assert!(facts["clock_ahead_secs"].as_i64().unwrap().abs() <= 2, "{name}: {facts}");
        assert!(facts["latency_secs"].as_f64().is_some_and(|secs| secs > 0.0), "{name}: {facts}");
        // Whoever may delete and finds no old states can destroy everything: that is said.
        assert_eq!(findings["versioning"].0, "warn", "{name}");
        let listing = server.client.list_objects_v2().bucket("vault").send().await.unwrap();
        assert_eq!(listing.contents().len(), 0, "{name}");
    }
}

#[tokio::test]
async fn doctor_sees_a_bucket_that_keeps_and_locks_objects() {
    let Some(server) = S3Server::start(Program::Minio).await else { return };
    server.client.create_bucket().bucket("vault").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    let (facts, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
    assert_eq!((&facts["versioning"], &facts["object_lock"]), (&Value::from("enabled"), &Value::from(true)));
    assert_eq!((findings["versioning"].0.as_str(), findings["object lock"].0.as_str()), ("ok", "ok"));
}

#[tokio::test]
async fn doctor_finds_out_by_what_old_states_can_be_told_apart() {
    for (program, by) in [(Program::Minio, "by times"), (Program::Versitygw, "by ids")] {
        let Some(server) = S3Server::start(program).await else { return };
        server.bucket("vault").await;
        let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
        let request = server.client.put_bucket_versioning().bucket("vault").versioning_configuration(enabled);
        request.send().await.unwrap();
        let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault/p");
        let (facts, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
        assert_eq!((&facts["versioning"], &facts["old_states"]), (&Value::from("enabled"), &Value::from(by)));
        let (verdict, text) = &findings["times of old states"];
        assert!(verdict == "ok" && text.contains("--as-of goes by them"), "{verdict}: {text}");
    }
}

async fn faulty(faults: Faults) -> (FaultyS3, Vault) {
    let buckets = BTreeMap::from([("vault".to_owned(), BTreeMap::new())]);
    let server = FaultyS3::start(World { buckets, faults, page_len: 1000, ..World::default() }).await;
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    (server, vault)
}

#[tokio::test]
async fn doctor_finds_out_a_store_that_ignores_conditions_and_hides_objects() {
    let (server, vault) = faulty(Faults { ignore_conditions: true, early_end: Some(3), ..Faults::default() }).await;
    let (facts, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
    assert_eq!((&facts["conditional_put"], &facts["racing_winners"]), (&Value::from(false), &Value::from(12)));
    assert_eq!((&facts["conditional_parts"], &facts["listing_honest"]), (&Value::from(false), &Value::from(false)));
    for what in ["conditional put", "racing puts", "conditional put in parts", "listing", "clock"] {
        assert_eq!(findings[what].0, "warn", "{what}: {findings:?}");
    }
    assert!(findings["conditional put"].1.contains("conditional_put = false"));
    assert!(findings["listing"].1.contains("shows 3 of 8"), "{findings:?}");
    // Its objects are of January.
    assert!(facts["clock_ahead_secs"].as_i64().unwrap() < -1_000_000, "{facts}");
    assert_eq!(server.world().uploads.len(), 0);
}

#[tokio::test]
async fn doctor_goes_on_with_a_store_that_knows_no_conditions() {
    let (server, vault) = faulty(Faults { no_conditions: true, ..Faults::default() }).await;
    let (facts, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
    assert_eq!((&facts["read_after_write"], &facts["conditional_put"]), (&Value::from(true), &Value::from(false)));
    assert_eq!((&*findings["conditional put"].0, &*findings["delete"].0), ("warn", "ok"), "{findings:?}");
    assert_eq!(server.world().uploads.len(), 0);
}

#[tokio::test]
async fn doctor_says_why_a_store_takes_nothing_and_puts_nothing_where_that_is_not_wanted() {
    let (server, vault) = faulty(Faults { refuse_all: Some((403, "RequestTimeTooSkewed")), ..Faults::default() }).await;
    let (_, findings) = tokio::task::spawn_blocking(move || doctor(&vault)).await.unwrap();
    let (verdict, text) = &findings["write and read"];
    assert!(verdict == "fail" && text.contains("the clocks of this host and of the server differ"), "{text}");
    drop(server);

    let (server, vault) = faulty(Faults::default()).await;
    let work = move || {
        vault.init().expect(0);
        let arguments = ["doctor", "--json", "--no-probe", "--docker-host", "unix:///nowhere.sock"];
        let json = vault.run(arguments).expect(1).json();
        assert_eq!(json["store"], Value::Null);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    let counts = server.world().counts.clone();
    // The slots and the config.
    assert_eq!(counts.get("PutObject"), Some(&4), "{counts:?}");
}
