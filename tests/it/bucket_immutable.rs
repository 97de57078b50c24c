//! What a stolen key cannot do: credentials that never delete, locks, and old states of a bucket.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use serde_json::Value;

use crate::support::cli::{Ran, Vault, archive, write_mode};
use crate::support::minio::Minio;
use crate::support::repository::noise;
use crate::support::s3_server::{Program, S3Server};

/// May put, get and list, and nothing else: neither delete nor change a bucket's settings or an object's lock.
const ADD_ONLY: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": ["arn:aws:s3:::vault/*"]},
    {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::vault"]}]}"#;

/// As that, and may lock.
const ADD_AND_LOCK: &str = r#"{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject", "s3:PutObjectRetention", "s3:GetObjectRetention"],
     "Resource": ["arn:aws:s3:::vault/*"]},
    {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::vault"]}]}"#;

#[tokio::test]
async fn credentials_that_only_put_get_and_list_are_enough_for_every_night_and_every_restore() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("vault").await;
    let keys = server.keys_that_may(ADD_ONLY);
    let endpoint = server.endpoint.clone();
    let work = move || {
        let mut vault = Vault::empty_in_bucket(&endpoint, "s3://vault/night");
        vault.use_keys(&keys);
        vault.init().expect(0);
        vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
        let again = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
        assert!(!again.stderr.contains("warning"), "{}", again.stderr);
        vault.run(["check"]).expect(0);
        vault.run_data(["check", "--read-data"]).expect(0);
        assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
        // Doctor says so, and that its own objects stay.
        let doctor = vault.run(["doctor", "--json", "--docker-host", "unix:///nowhere.sock"]).expect(1).json();
        assert_eq!((&doctor["store"]["delete"], &doctor["store"]["conditional_put"]), (&false.into(), &true.into()));
        // They are no finding.
        assert_eq!(vault.run(["check", "--json"]).expect(0).json()["findings"], Value::Array(Vec::new()));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

/// Until when each object is locked, by name.
async fn locks(server: &S3Server) -> BTreeMap<String, SystemTime> {
    locks_in(server, "vault").await
}

async fn locks_in(server: &S3Server, bucket: &str) -> BTreeMap<String, SystemTime> {
    let mut found = BTreeMap::new();
    for name in server.keys(bucket).await {
        let answer = server.client.head_object().bucket(bucket).key(&name).send().await.unwrap();
        let until = answer.object_lock_retain_until_date();
        let until = until.map_or(SystemTime::UNIX_EPOCH, |until| SystemTime::try_from(*until).unwrap());
        found.insert(name, until);
    }
    found
}

fn in_days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 24 * 3600)
}

#[tokio::test]
async fn every_object_that_a_snapshot_needs_is_locked_also_those_that_it_reuses() {
    let Some(server) = Minio::start().await else { return };
    let keys = server.keys_that_may(ADD_AND_LOCK);
    every_object_is_locked(&server, Some(keys)).await;
}

#[tokio::test]
async fn a_second_kind_of_server_locks_every_object_that_a_snapshot_needs() {
    let Some(server) = S3Server::start(Program::Versitygw).await else { return };
    every_object_is_locked(&server, None).await;
}

/// With the keys that are given, else with those of who owns the server.
async fn every_object_is_locked(server: &S3Server, keys: Option<[String; 3]>) {
    server.client.create_bucket().bucket("vault").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let mut vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    if let Some(keys) = keys {
        vault.use_keys(&keys);
    }
    vault.init().expect(0);
    assert!(locks(server).await.values().all(|until| *until == SystemTime::UNIX_EPOCH));

    // A night of a directory, and one of a database with secrets: short locks.
    std::fs::create_dir(vault.path("spool")).unwrap();
    std::fs::write(vault.path("spool/a"), noise(5, 300_000)).unwrap();
    let config = "[[directory]]\nname = \"spool\"\npath = \"../spool\"\n";
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let before = server.keys("vault").await;
    vault.run(["snapshot", "-c", "spool", "--yes", "--lock-days", "2"]).expect(0);
    let of_other: Vec<String> = server.keys("vault").await.into_iter().filter(|name| !before.contains(name)).collect();
    let stack = vault.stack("staging");
    let stack = stack.to_str().unwrap();
    // Whole chunks only: parts of those of the other database would make its packs needed, too.
    let whole = ["--piece-cache-mib", "0"];
    let arguments =
        ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--stack-dir", stack, "--yes", "--lock-days", "2"];
    let arguments = arguments.into_iter().chain(whole);
    let first = vault.run_fed(arguments, &archive()).expect(0);
    assert!(first.text().contains("objects are locked until"), "{}", first.text());
    let short = locks(server).await;
    for (name, until) in &short {
        assert!(*until > in_days(2) && *until < in_days(4), "{name} {until:?}");
    }

    // The same again, locked for longer: what it needs was put before.
    let again = ["snapshot", "--json", "--from", "mongodb=-", "--environment", "staging", "--lock-days", "20"];
    let again = again.into_iter().chain(whole);
    let second = vault.run_fed(again.clone(), &archive());
    let second = second.expect(0).json();
    let long = locks(server).await;
    let is_of_other = |name: &str| of_other.iter().any(|other| other == name) && !name.contains("/index/");
    let (mut needed, mut left) = (0, 0);
    for (name, until) in &long {
        let is_old_snapshot = short.contains_key(name) && name.starts_with("data/snapshots/");
        if is_of_other(name) || is_old_snapshot {
            assert_eq!(until, &short[name], "{name} is not needed");
            left += 1;
        } else {
            assert!(*until > in_days(20) && *until < in_days(26), "{name} {until:?}");
            needed += 1;
        }
    }
    assert!(left >= 3 && long.keys().any(|name| name.starts_with("secrets/bundles/")), "{long:?}");
    assert_eq!(second["lock"]["objects"], needed);
    // Another night: the locks are long enough, so that they are only looked at.
    let third = vault.run_fed(again, &archive());
    assert_eq!(third.expect(0).json()["lock"]["objects_now"], 0);

    let pack = long.keys().find(|name| name.starts_with("data/packs/")).unwrap();
    let versions = server.client.list_object_versions().bucket("vault").prefix(pack).send().await.unwrap();
    let version = versions.versions()[0].version_id().unwrap();
    // Not even who owns the server.
    let deleted = server.client.delete_object().bucket("vault").key(pack).version_id(version).send().await;
    assert!(deleted.is_err());
}

#[tokio::test]
async fn a_bucket_without_locks_says_so_and_the_snapshot_is_reported() {
    let Some(server) = Minio::start().await else { return };
    server.bucket("vault").await;
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    vault.init().expect(0);
    let refused = vault.run_fed(["snapshot", "--from", "mongodb=-", "--lock-days", "2"], &archive()).expect(1);
    assert!(refused.stderr.contains("was made without object lock"), "{}", refused.stderr);
    let local = Vault::made();
    let refused = local.run_fed(["snapshot", "--from", "mongodb=-", "--lock-days", "2"], &archive()).expect(2);
    assert!(refused.stderr.contains("is no bucket"), "{}", refused.stderr);
}

#[tokio::test]
async fn what_an_attacker_deleted_and_replaced_is_read_as_it_was() {
    let Some(server) = Minio::start().await else { return };
    everything_is_read_as_it_was(&server).await;
}

/// This one tells wrong times of old states: their ids tell the right ones.
#[tokio::test]
async fn a_second_kind_of_server_gives_what_was_deleted_and_replaced_as_it_was() {
    let Some(server) = S3Server::start(Program::Versitygw).await else { return };
    everything_is_read_as_it_was(&server).await;
}

/// Makes a bucket that keeps what is deleted or replaced.
async fn keep_old_states(server: &S3Server, bucket: &str) {
    server.bucket(bucket).await;
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    server.client.put_bucket_versioning().bucket(bucket).versioning_configuration(enabled).send().await.unwrap();
}

/// Returns the time. One of the servers tells times in whole seconds: what happens next is in another second.
async fn moment() -> String {
    let then = jiff::Timestamp::now();
    while jiff::Timestamp::now().as_second() == then.as_second() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    then.to_string()
}

async fn everything_is_read_as_it_was(server: &S3Server) {
    keep_old_states(server, "vault").await;
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault/p");
    let now = || jiff::Timestamp::now().to_string();
    let before = now();
    vault.init().expect(0);
    vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    let then = moment().await;
    for (number, name) in server.keys("vault").await.into_iter().enumerate() {
        if number % 3 == 0 {
            server.put("vault", &name, b"canary: not what it was").await;
        } else {
            server.client.delete_object().bucket("vault").key(&name).send().await.unwrap();
        }
    }
    vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(1);
    assert!(
        vault.run_data(["--as-of", &then, "dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive()
    );
    let checked = vault.run_data(["--as-of", &then, "check", "--read-data", "--json"]).expect(0).json();
    assert_eq!(checked["findings"], Value::Array(Vec::new()));
    let target = vault.path("target");
    let arguments = ["restore", "-y", "-c", "mongodb", "--target-dir", target.to_str().unwrap(), "--as-of", &then];
    vault.run_data(arguments).expect(0);
    assert!(std::fs::read(target.join("mongodb/mongo.archive")).unwrap() == archive());

    // Nothing was there, and nothing new comes.
    vault.run(["snapshots", "--as-of", &before]).expect(10);
    let refused = vault.run_fed(["snapshot", "--from", "mongodb=-", "--as-of", &then], &archive()).expect(2);
    assert!(refused.stderr.contains("takes nothing new"), "{}", refused.stderr);
    vault.run(["snapshots", "--as-of", "yesterday"]).expect(2);

    server.bucket("plain").await;
    let mut plain = vault.command(["snapshots", "--as-of", &then]);
    let output = plain.env("ORKVAULT_REPOSITORY", "s3://plain").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("keeps no old states"), "{said}");
}

/// What a bucket's own setting has locked in another way is no lock as it was asked for.
#[tokio::test]
async fn a_lock_that_may_be_taken_away_is_not_taken_for_one_that_may_not() {
    let Some(server) = Minio::start().await else { return };
    server.client.create_bucket().bucket("vault").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    vault.init().expect(0);
    let night = |mode: &str| {
        let table = format!("[repository]\nlocation = \"s3://vault\"\nlock_mode = {mode:?}\n");
        write_mode(&vault.path("work/orkvault.toml"), table.as_bytes(), 0o600);
        vault.run_fed(["snapshot", "--from", "mongodb=-", "--lock-days", "9"], &archive())
    };
    night("governance").expect(0);
    let refused = night("compliance").expect(1);
    assert!(refused.stderr.contains("is locked in governance mode"), "{}", refused.stderr);
    night("governance").expect(0);
}

#[tokio::test]
async fn a_copy_takes_a_bucket_as_it_was_and_locks_what_it_has_taken() {
    let Some(server) = Minio::start().await else { return };
    keep_old_states(&server, "vault").await;
    server.client.create_bucket().bucket("offsite").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let from = Vault::empty_in_bucket(&server.endpoint, "s3://vault/p");
    let to = Vault::empty_in_bucket(&server.endpoint, "s3://offsite");
    from.init().expect(0);
    to.init().expect(0);
    let stack = from.stack("staging");
    let night = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--json"];
    let night = night.into_iter().chain(["--stack-dir", stack.to_str().unwrap()]);
    let first = from.run_fed(night.clone(), &archive()).expect(0).json();
    let then = moment().await;
    // A newer night, and then everything that is needed to read either goes.
    from.run_fed(night, &archive()).expect(0);
    for name in server.keys("vault").await {
        server.client.delete_object().bucket("vault").key(&name).send().await.unwrap();
    }
    let copy = |more: &[&str]| {
        let mut command = to.command(["copy", "--from", "s3://vault/p", "--all", "--json"]);
        command.args(more).env("ORKVAULT_FROM_PASSPHRASE_FILE", from.path("data.pass"));
        command.env("ORKVAULT_FROM_SECRETS_PASSPHRASE_FILE", from.path("secrets.pass"));
        Ran::new(command.output().unwrap())
    };
    copy(&["--lock-days", "3"]).expect(10);
    let ran = copy(&["--as-of", &then, "--lock-days", "3"]).expect(0).json();
    let copied = ran["copied"].as_array().unwrap();
    assert_eq!((copied.len(), &copied[0]["from"]), (1, &first["snapshot"]), "{ran}");
    let found = locks_in(&server, "offsite").await;
    for (name, until) in &found {
        assert!(*until > in_days(3) && *until < in_days(5), "{name} {until:?}");
    }
    assert_eq!(copied[0]["lock"]["objects"], found.len());
    assert!(to.run_all(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
    assert!(to.run_all(["dump", "latest", "secrets/.env"]).expect(0).text().contains("canary-mongo"));
    to.run_all(["check", "--read-data"]).expect(0);
    // Once more, and it is there; what a run that was cut off may have left without locks is looked at.
    let again = copy(&["--as-of", &then, "--lock-days", "20"]).expect(0).json();
    assert_eq!(again["copied"].as_array().unwrap().len(), 0);
    let found = locks_in(&server, "offsite").await;
    assert!(found.values().all(|until| *until > in_days(20)), "{found:?}");
}
