//! What a snapshot promises: complete means whole, incomplete is never latest, writers do not get in each
//! other's way, and unchanged content is not read again.

use std::sync::Arc;

use orkvault::backend::{Counted, FaultBackend};
use orkvault::component::Source;
use orkvault::crypto::SystemEntropy;
use orkvault::format::id::WriterId;
use orkvault::format::manifest::{ComponentStatus, SECRETS_SCHEMA, SecretsManifest, SnapshotStatus};
use orkvault::format::object::{Namespace, ObjectKey};
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::snapshot::{SnapshotOptions, snapshot};
use orkvault::ops::{NoProgress, select};
use orkvault::repo::{Ahead, Closed, OpenOptions, SecretsStore};

use crate::support::night::{Still, give, options, take};
use crate::support::repository::{self, noise};
use crate::support::sources::{MemoryContent, MemorySource};

fn content(seed: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("stream".to_owned(), noise(seed, 400_000));
    for object in 0..30_u64 {
        content.entries.insert(format!("bucket/{object:03}").into_bytes(), (1, noise(object, 100_000)));
    }
    content
}

fn failing(content: MemoryContent) -> Vec<Box<dyn Source>> {
    let good = MemorySource { name: "good".to_owned(), content: content.clone(), fails_after: None };
    let bad = MemorySource { name: "memory".to_owned(), content, fails_after: Some(100_000) };
    vec![Box::new(bad), Box::new(good)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_fails_makes_the_snapshot_incomplete_and_never_latest() {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    let repository = made.open_writer().await;
    let options = options();
    let second = snapshot(&repository, failing(content(2)), &options, &NoProgress, &Still(1_790_000_100));
    let second = second.await.unwrap();
    assert_eq!(second.manifest.orkvault.status, SnapshotStatus::Incomplete);
    assert_eq!(second.manifest.components, ["good"]);
    let record = &second.manifest.orkvault.components["memory"];
    assert_eq!(record.status, ComponentStatus::Failed);
    assert!(record.reason.as_ref().unwrap().contains("the rest"), "{:?}", record.reason);
    assert!(record.streams.is_empty());

    let reader = made.open_reader().await;
    assert_eq!(select::find(&reader, "latest").await.unwrap().id, first.id);
    // Named by its id, the failed component is refused with the reason.
    let refused = give(&reader, &second.id.to_string()).await.unwrap_err().to_string();
    assert!(refused.contains("no complete memory") && refused.contains("the rest"), "{refused}");
    let found = check(&made.open_reader().await, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!(found.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_entries_are_referred_to_and_not_read() {
    let made = repository::make().await;
    take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    let mut changed = content(1);
    changed.entries.insert(b"bucket/007".to_vec(), (2, noise(700, 120_000)));
    changed.entries.remove(b"bucket/011".as_slice());
    changed.entries.insert(b"bucket/999".to_vec(), (1, noise(999, 50_000)));
    let second = take(&made.open_writer().await, 1_790_000_100, &changed).await.unwrap();
    let secrets = 18;
    assert_eq!(second.manifest.orkvault.stats.read_bytes, 400_000 + 120_000 + 50_000 + secrets);
    assert_eq!(give(&made.open_reader().await, "latest").await.unwrap(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_whose_pack_was_lost_are_read_again() {
    let made = repository::make().await;
    take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    for key in made.backend.objects().into_keys() {
        if matches!(key, ObjectKey::Pack(_)) {
            made.backend.remove(key);
        }
    }
    // The previous entry table is gone with its pack, too.
    let repository = made.open_writer().await;
    let second = take(&repository, 1_790_000_100, &content(1)).await.unwrap();
    assert!(second.packs_missing > 0);
    assert_eq!(second.manifest.orkvault.status, SnapshotStatus::Complete);
    assert_eq!(give(&made.open_reader().await, "latest").await.unwrap(), content(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_snapshots_at_once_both_restore() {
    let made = repository::make().await;
    let (left, right) = (made.open_writer().await, made.open_writer().await);
    let (one, two) = (content(1), content(2));
    let taken = tokio::join!(take(&left, 1_790_000_000, &one), take(&right, 1_790_000_000, &two));
    let (first, second) = (taken.0.unwrap(), taken.1.unwrap());
    let reader = made.open_reader().await;
    assert_eq!(give(&reader, &first.id.to_string()).await.unwrap(), one);
    assert_eq!(give(&reader, &second.id.to_string()).await.unwrap(), two);
    let found = check(&made.open_reader().await, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!(found.findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_data_snapshot_names_the_secrets_that_belong_to_it() {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    let secrets = first.manifest.orkvault.secrets.unwrap();
    // A run without the secrets component belongs to the newest generation there is.
    let only: Vec<Box<dyn Source>> =
        vec![Box::new(MemorySource { name: "memory".to_owned(), content: content(1), fails_after: None })];
    let repository = made.open_writer().await;
    let second = snapshot(&repository, only, &options(), &NoProgress, &Still(1_790_000_100)).await.unwrap();
    assert_eq!(second.manifest.orkvault.secrets, Some(secrets.clone()));
    // Those of another environment are none of its own.
    let memory = MemorySource { name: "memory".to_owned(), content: content(1), fails_after: None };
    let elsewhere = SnapshotOptions { environment: "other".to_owned(), ..options() };
    let other = snapshot(&repository, vec![Box::new(memory)], &elsewhere, &NoProgress, &Still(1_790_000_150)).await;
    assert_eq!(other.unwrap().manifest.orkvault.secrets, None);
    let names: Vec<_> = made.backend.objects().into_keys().map(|key| key.to_string()).collect();
    let snapshot = ObjectKey::Snapshot(Namespace::Secrets, secrets.snapshot).to_string();
    assert!(names.contains(&snapshot));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_another_environment_that_somebody_else_made_are_none_of_a_snapshots_own() {
    let made = repository::make().await;
    let repository = made.open_writer().await;
    let id = repository.new_snapshot_id().unwrap();
    let bundle = repository.put_bundle(id, &[]).await.unwrap();
    let manifest = SecretsManifest {
        schema: SECRETS_SCHEMA.to_owned(),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        environment: "production".to_owned(),
        host: "elsewhere".to_owned(),
        bundle,
        files: 0,
        writer: WriterId::from_bytes([7; 32]),
        copied_from: None,
    };
    repository.commit_secrets(id, &manifest).await.unwrap();
    for (environment, belongs) in [("staging", None), ("production", Some(id))] {
        let memory = MemorySource { name: "memory".to_owned(), content: content(1), fails_after: None };
        let options = SnapshotOptions { environment: environment.to_owned(), ..options() };
        let taken = snapshot(&repository, vec![Box::new(memory)], &options, &NoProgress, &Still(1_790_000_000)).await;
        let secrets = taken.unwrap().manifest.orkvault.secrets;
        assert_eq!(secrets.map(|secrets| secrets.snapshot), belongs, "{environment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_is_stored_can_be_read_in_the_store() {
    let made = repository::make().await;
    let canary = b"canary-in-the-coal-mine".repeat(40);
    let mut content = MemoryContent::default();
    content.streams.insert("canary-stream".to_owned(), canary.clone());
    content.entries.insert(b"canary-bucket/canary-key".to_vec(), (1, canary));
    take(&made.open_writer().await, 1_790_000_000, &content).await.unwrap();
    for (key, bytes) in made.backend.objects() {
        assert!(!key.to_string().contains("canary"));
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{key} shows the canary");
        let is_named = bytes.windows(7).any(|window| window == b"SECOND=");
        assert!(!is_named, "{key} shows a secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_sizes_are_padded() {
    let made = repository::make().await;
    take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    for (key, bytes) in made.backend.objects() {
        let len = bytes.len() as u64;
        match key {
            ObjectKey::Config | ObjectKey::Slot(_) => {}
            ObjectKey::Bundle(_) => assert_eq!((len - 80 - 1205 - 16 - 32) % 65_536, 0, "{key} has {len} bytes"),
            _ => assert_eq!(orkvault::format::padme::padded_len(len), len, "{key} has {len} bytes"),
        }
    }
    // Two secrets of equal length are equal in size, of any content.
    let sizes = |made: &repository::Made| -> Vec<usize> {
        let objects = made.backend.objects().into_iter();
        objects.filter(|(key, _)| matches!(key, ObjectKey::Bundle(_))).map(|(_, bytes)| bytes.len()).collect()
    };
    take(&made.open_writer().await, 1_790_000_001, &content(1)).await.unwrap();
    let found = sizes(&made);
    assert_eq!(found.len(), 2);
    assert_eq!(found[0], found[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_beside_this_one_puts_after_the_listing_is_neither_missing_nor_forgotten() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    take(&made.open_writer_at(cache.path()).await, 100, &content(1)).await.unwrap();
    let repository = made.open_writer_at(cache.path()).await;
    let survey = repository.survey().await.unwrap();
    // On the same host, with the same index.
    take(&made.open_writer_at(cache.path()).await, 200, &content(2)).await.unwrap();
    let cached = repository.index().parts().unwrap();
    assert!(cached.len() > survey.indexes.len());
    repository.load_index_of(&survey.indexes).await.unwrap();
    assert_eq!(repository.index().parts().unwrap(), cached, "a part that was put since is not taken for gone");
    assert_eq!(repository.set_missing_packs_aside_of(&survey.packs).await.unwrap(), 0);

    // What has gone is found all the same.
    let survey = repository.survey().await.unwrap();
    let (pack, _) = survey.packs.iter().next().unwrap();
    let bytes = made.backend.remove(ObjectKey::Pack(*pack)).unwrap();
    assert_eq!(
        repository.set_missing_packs_aside_of(&survey.packs).await.unwrap(),
        0,
        "it was there when it was listed"
    );
    let survey = repository.survey().await.unwrap();
    assert_eq!(repository.set_missing_packs_aside_of(&survey.packs).await.unwrap(), 1);
    made.backend.replace(ObjectKey::Pack(*pack), bytes);
    assert_eq!(repository.set_missing_packs_aside_of(&survey.packs).await.unwrap(), 0);
    let part = *survey.indexes.iter().next().unwrap();
    made.backend.remove(ObjectKey::Index(part)).unwrap();
    repository.load_index_of(&repository.survey().await.unwrap().indexes).await.unwrap();
    assert!(!repository.index().parts().unwrap().contains(&part));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_that_was_begun_before_the_keys_is_given_out_once() {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let closed = Closed::look(counting.clone(), SecretsStore::Unnamed, Ahead::Survey).await.unwrap();
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    let repository = closed.open(vec![made.writer()], options).await.unwrap();
    assert_eq!(repository.survey().await.unwrap().snapshots, [first.id]);
    let second = take(&made.open_writer().await, 200, &content(2)).await.unwrap();
    // From here on it is asked for when it is wanted.
    let mut found = repository.survey().await.unwrap().snapshots;
    found.sort_unstable();
    let mut both = [first.id, second.id];
    both.sort_unstable();
    assert_eq!(found, both);
    // Config, slots, two surveys: nothing else was asked.
    assert!((5..=7).contains(&counting.operations()), "{}", counting.operations());
}
