//! Secrets in a store of their own: who has one of the two stores has nothing of the other, and neither fails the other.

use std::sync::Arc;

use orkvault::backend::{Backend, Counted, ErrorKind, Fault, FaultBackend, MemoryBackend};
use orkvault::crypto::SystemEntropy;
use orkvault::crypto::writer_key::WriterKey;
use orkvault::format::config::Part;
use orkvault::format::manifest::{ComponentStatus, SnapshotStatus};
use orkvault::format::object::{Namespace, ObjectKey};
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::snapshot::SnapshotOutcome;
use orkvault::ops::{self, NoProgress, dump, select};
use orkvault::repo::{Access, Error, InitSecrets, OpenOptions, Repository, SecretsStore, init_apart};

use crate::support::night::{give, take};
use crate::support::repository::{
    DATA_PASSPHRASE, SECRETS_PASSPHRASE, cheap_options, make, noise, passphrase, read_all,
};
use crate::support::sources::MemoryContent;

/// A repository in two stores.
#[derive(Clone)]
struct Apart {
    data: MemoryBackend,
    secrets: MemoryBackend,
    writer_line: String,
}

impl Apart {
    async fn make() -> Self {
        let (data, secrets) = (MemoryBackend::new(), MemoryBackend::new());
        let keys = InitSecrets { data: passphrase(DATA_PASSPHRASE), secrets: passphrase(SECRETS_PASSPHRASE) };
        let apart: Option<Arc<dyn Backend>> = Some(Arc::new(secrets.clone()));
        let options = cheap_options();
        let made = init_apart(Arc::new(data.clone()), apart, &options, keys, Arc::new(SystemEntropy), |_| Ok(()));
        let writer_line = made.await.unwrap().unwrap().writer_key.to_line().to_string();
        Self { data, secrets, writer_line }
    }

    /// Both stores as they are now.
    fn snapshot(&self) -> Self {
        Self { data: self.data.snapshot(), secrets: self.secrets.snapshot(), ..self.clone() }
    }

    fn at(&self) -> SecretsStore {
        SecretsStore::At(Arc::new(self.secrets.clone()))
    }

    fn writer(&self) -> Vec<Access> {
        vec![Access::Writer(WriterKey::parse(&self.writer_line).unwrap())]
    }

    async fn open_writer(&self) -> Repository {
        open(Arc::new(self.data.clone()), self.at(), self.writer()).await.unwrap()
    }

    async fn open_reader(&self) -> Repository {
        open(Arc::new(self.data.clone()), self.at(), readers()).await.unwrap()
    }

    async fn findings(&self) -> Vec<String> {
        let options = CheckOptions { read_data: true };
        let found = check(&self.open_reader().await, options, &NoProgress).await.unwrap();
        found.findings.into_iter().map(|finding| format!("{}: {}", finding.object, finding.problem)).collect()
    }
}

fn readers() -> Vec<Access> {
    vec![Access::Data(passphrase(DATA_PASSPHRASE)), secrets_reader()]
}

fn secrets_reader() -> Access {
    Access::Secrets(passphrase(SECRETS_PASSPHRASE))
}

async fn open(data: Arc<dyn Backend>, secrets: SecretsStore, access: Vec<Access>) -> Result<Repository, Error> {
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    Repository::open_apart(data, secrets, access, options).await
}

fn content(seed: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("stream".to_owned(), noise(seed, 100_000));
    content
}

/// The secret of a snapshot, which is the second that it was taken in.
async fn env_of(repository: &Repository, wanted: &str) -> Result<String, ops::Error> {
    let snapshot = select::find(repository, wanted).await?;
    let bytes = read_all(dump::open(repository, &snapshot, "secrets/.env").await?).await.unwrap();
    Ok(String::from_utf8(bytes).unwrap())
}

fn secrets_status(outcome: &SnapshotOutcome) -> ComponentStatus {
    outcome.manifest.orkvault.components["secrets"].status
}

#[tokio::test(flavor = "multi_thread")]
async fn each_store_has_its_own_objects_and_both_together_restore() {
    let made = Apart::make().await;
    let taken = take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    assert_eq!(taken.manifest.orkvault.status, SnapshotStatus::Complete);
    // For the operator who has only the data: where were they?
    assert_eq!(taken.manifest.orkvault.secrets.unwrap().location.as_deref(), Some("memory"));
    let count = |backend: &MemoryBackend, namespace| {
        backend.objects().into_keys().filter(|key| key.namespace() == namespace).count()
    };
    assert_eq!(count(&made.data, Some(Namespace::Secrets)), 0);
    assert_eq!(count(&made.secrets, Some(Namespace::Data)), 0);
    // Bundle and snapshot; config and the slot of the secrets reader.
    assert_eq!((count(&made.secrets, Some(Namespace::Secrets)), count(&made.secrets, None)), (2, 2));
    assert_eq!(count(&made.data, None), 3);
    assert_eq!(made.findings().await, Vec::<String>::new());
    let reader = made.open_reader().await;
    assert_eq!(give(&reader, "latest").await.unwrap(), content(1));
    assert_eq!(env_of(&reader, "latest").await.unwrap(), "SECOND=100\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_alone_gives_data_and_says_that_the_secrets_are_elsewhere() {
    let made = Apart::make().await;
    take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let data: Arc<dyn Backend> = Arc::new(made.data.clone());
    let alone = || vec![Access::Data(passphrase(DATA_PASSPHRASE))];
    let reader = open(Arc::clone(&data), SecretsStore::Unnamed, alone()).await.unwrap();
    assert_eq!(give(&reader, "latest").await.unwrap(), content(1));
    let found = check(&reader, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!(found.findings, []);
    assert!(found.notes.iter().any(|note| note.contains("were not checked")), "{:?}", found.notes);
    let refused = env_of(&reader, "latest").await.unwrap_err();
    assert!(matches!(refused, ops::Error::Repo(Error::SecretsApart { .. })), "{refused}");
    // Before a passphrase is tried.
    let refused = open(data, SecretsStore::Unnamed, readers()).await.err().unwrap();
    assert!(matches!(refused, Error::SecretsApart { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_alone_give_every_generation_with_their_passphrase_and_take_nothing() {
    let made = Apart::make().await;
    take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    take(&made.open_writer().await, 200, &content(2)).await.unwrap();
    let store: Arc<dyn Backend> = Arc::new(made.secrets.clone());
    let alone = open(Arc::clone(&store), SecretsStore::Unnamed, vec![secrets_reader()]).await.unwrap();
    assert_eq!(alone.part(), Part::Secrets);
    assert_eq!(env_of(&alone, "latest").await.unwrap(), "SECOND=200\n");
    let snapshots = select::load_all(&alone).await.unwrap();
    assert_eq!(env_of(&alone, &snapshots[0].id.to_string()).await.unwrap(), "SECOND=100\n");
    assert_eq!(snapshots[0].manifest.environment, "test");
    let found = check(&alone, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!((found.findings, found.snapshots), (vec![], 2));
    for access in [made.writer(), vec![Access::Data(passphrase(DATA_PASSPHRASE))], readers()] {
        let refused = open(Arc::clone(&store), SecretsStore::Unnamed, access).await.err().unwrap();
        assert!(matches!(refused, Error::OnlySecrets { .. }), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_that_of_these_secrets_is_neither_read_nor_written() {
    let made = Apart::make().await;
    take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let (other, whole) = (Apart::make().await, make().await);
    let data: Arc<dyn Backend> = Arc::new(made.data.clone());
    let mut forged = other.secrets.objects()[&ObjectKey::Config].to_vec();
    let checksum = forged.len() - 32;
    forged.splice(26..58, made.secrets.objects()[&ObjectKey::Config][26..58].iter().copied());
    forged.truncate(checksum);
    orkvault::crypto::hash::push_checksum(&mut forged);
    let forger = other.secrets.snapshot();
    forger.replace(ObjectKey::Config, forged.into());
    for wrong in [&other.secrets, &other.data, &made.data, &whole.backend, &forger, &MemoryBackend::new()] {
        let before = wrong.objects();
        let at = || SecretsStore::At(Arc::new(wrong.clone()));
        let refused = open(Arc::clone(&data), at(), readers()).await.err().unwrap();
        assert!(matches!(refused, Error::SecretsStore { .. }), "{refused}");
        let writer = open(Arc::clone(&data), at(), made.writer()).await.unwrap();
        let night = take(&writer, 200, &content(2)).await.unwrap();
        assert_eq!(secrets_status(&night), ComponentStatus::Failed);
        if wrong.objects() != before {
            // Only what belongs there: the store of the data took the night.
            let secrets = wrong.objects().into_keys().filter(|key| key.namespace() == Some(Namespace::Secrets));
            assert_eq!(
                secrets.count(),
                before.keys().filter(|key| key.namespace() == Some(Namespace::Secrets)).count()
            );
        }
        let writer = open(Arc::clone(&data), at(), made.writer()).await.unwrap();
        let found = check(&writer, CheckOptions::default(), &NoProgress).await.unwrap();
        assert!(found.findings.iter().any(|finding| finding.object == "the store of the secrets"), "{found:?}");
    }
    // A repository that has its secrets itself has no other store of them.
    let refused = open(Arc::new(whole.backend.clone()), made.at(), vec![whole.writer()]).await.err().unwrap();
    assert!(matches!(refused, Error::SecretsNotApart { .. }), "{refused}");
    // The two exchanged.
    let swapped = SecretsStore::At(Arc::new(made.data.clone()));
    let refused = open(Arc::new(made.secrets.clone()), swapped, readers()).await.err().unwrap();
    assert!(matches!(refused, Error::OnlySecrets { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_that_are_not_those_of_the_config_are_noticed_in_the_store_of_the_secrets_too() {
    let made = Apart::make().await;
    let mut config = made.secrets.objects()[&ObjectKey::Config].to_vec();
    let codes = config.len() - 96;
    config[codes] ^= 1;
    config.truncate(codes + 64);
    orkvault::crypto::hash::push_checksum(&mut config);
    made.secrets.replace(ObjectKey::Config, config.into());
    let writer = made.open_writer().await;
    assert!(matches!(writer.secrets_backend(), Err(Error::SecretsStore { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_without_the_store_of_the_secrets_is_incomplete_and_names_the_secrets_before_it() {
    let made = Apart::make().await;
    let first = take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let away = orkvault::backend::Error::NoRepository { location: "away".to_owned() };
    for store in [SecretsStore::Unnamed, SecretsStore::Unreachable(away)] {
        let writer = open(Arc::new(made.data.clone()), store, made.writer()).await.unwrap();
        let night = take(&writer, 200, &content(2)).await.unwrap();
        assert_eq!(night.manifest.orkvault.status, SnapshotStatus::Incomplete);
        let record = &night.manifest.orkvault.components["secrets"];
        assert_eq!(record.status, ComponentStatus::Failed);
        let reason = record.reason.as_deref().unwrap();
        assert!(reason.contains("a store of their own") || reason.contains("away"), "{reason}");
        assert_eq!(night.manifest.orkvault.secrets, first.manifest.orkvault.secrets);
        let reader = made.open_reader().await;
        assert_eq!(give(&reader, &night.id.to_string()).await.unwrap(), content(2));
        assert_eq!(select::find(&reader, "latest").await.unwrap().id, first.id);
    }
    assert_eq!(made.findings().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_in_the_store_of_the_secrets_the_data_of_the_night_is_kept() {
    let made = Apart::make().await;
    let first = take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let counting = Arc::new(FaultBackend::counting(made.snapshot().secrets, Counted::All));
    let writer = |on: &Apart, store: Arc<dyn Backend>| {
        let (data, access) = (Arc::new(on.data.clone()), on.writer());
        async move { open(data, SecretsStore::At(store), access).await.unwrap() }
    };
    take(&writer(&made.snapshot(), counting.clone()).await, 200, &content(2)).await.unwrap();
    let operations = counting.operations();
    assert_eq!(operations, 3, "config, bundle, snapshot");
    for fault in [Fault::Fail(ErrorKind::Transient), Fault::LoseAnswer(ErrorKind::Denied), Fault::DiskFull] {
        for at in 1..=operations {
            let store = made.snapshot();
            let faulty = Arc::new(FaultBackend::new(store.secrets.clone(), Counted::All, at, fault));
            let night = take(&writer(&store, faulty).await, 200, &content(2)).await.unwrap();
            let reader = store.open_reader().await;
            assert_eq!(give(&reader, &night.id.to_string()).await.unwrap(), content(2), "{fault:?} at {at}");
            let secrets = env_of(&reader, &night.id.to_string()).await.unwrap();
            match secrets_status(&night) {
                ComponentStatus::Complete => assert_eq!(secrets, "SECOND=200\n"),
                _ => {
                    assert_eq!(night.manifest.orkvault.secrets, first.manifest.orkvault.secrets, "{fault:?} at {at}");
                    assert_eq!(secrets, "SECOND=100\n");
                }
            }
            assert_eq!(store.findings().await, Vec::<String>::new(), "{fault:?} at {at}");
        }
    }
}

async fn stopped_everywhere(fault: Fault) {
    let made = Apart::make().await;
    let first = take(&made.open_writer().await, 100, &content(1)).await.unwrap();
    let run = |store: Apart, faulty: FaultBackend<MemoryBackend>| async move {
        let secrets = SecretsStore::At(Arc::new(faulty.beside(store.secrets.clone())));
        let opened = open(Arc::new(faulty), secrets, store.writer()).await.map_err(|error| error.to_string())?;
        take(&opened, 200, &content(2)).await.map_err(|error| error.to_string())
    };
    let store = made.snapshot();
    let counting = FaultBackend::counting(store.data.clone(), Counted::All);
    let count = counting.beside(MemoryBackend::new());
    run(store, counting).await.unwrap();
    let operations = count.operations();
    assert!(operations > 10, "a snapshot takes {operations} operations");
    for at in 1..=operations {
        let store = made.snapshot();
        let result = run(store.clone(), FaultBackend::new(store.data.clone(), Counted::All, at, fault)).await;
        if let Ok(night) = &result {
            let reader = store.open_reader().await;
            assert_eq!(give(&reader, &night.id.to_string()).await.unwrap(), content(2));
        }
        let reader = store.open_reader().await;
        assert_eq!(give(&reader, &first.id.to_string()).await.unwrap(), content(1), "stopped at {at}: {result:?}");
        assert_eq!(env_of(&reader, &first.id.to_string()).await.unwrap(), "SECOND=100\n");
        take(&store.open_writer().await, 300, &content(3)).await.unwrap();
        let reader = store.open_reader().await;
        assert_eq!(give(&reader, "latest").await.unwrap(), content(3));
        assert_eq!(env_of(&reader, "latest").await.unwrap(), "SECOND=300\n");
        assert_eq!(store.findings().await, Vec::<String>::new(), "stopped at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_any_operation_on_either_store_loses_nothing() {
    stopped_everywhere(Fault::CrashBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_any_operation_on_either_store_loses_nothing() {
    stopped_everywhere(Fault::CrashAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_are_durable_before_the_snapshot_that_names_them() {
    let made = Apart::make().await;
    // From the last operation on nothing has an effect any more: the commit is the one that is missing.
    let store = made.snapshot();
    let counting = FaultBackend::counting(store.data.clone(), Counted::Writes);
    let count = counting.beside(MemoryBackend::new());
    let secrets = SecretsStore::At(Arc::new(counting.beside(store.secrets.clone())));
    take(&open(Arc::new(counting), secrets, store.writer()).await.unwrap(), 100, &content(1)).await.unwrap();
    let last = count.operations();
    let store = made.snapshot();
    let faulty = FaultBackend::new(store.data.clone(), Counted::Writes, last, Fault::CrashBefore);
    let secrets = SecretsStore::At(Arc::new(faulty.beside(store.secrets.clone())));
    let opened = open(Arc::new(faulty), secrets, store.writer()).await.unwrap();
    take(&opened, 100, &content(1)).await.unwrap_err();
    let kinds = |backend: &MemoryBackend| -> Vec<String> {
        let names = backend.objects().into_keys().map(|key| key.to_string());
        names.filter_map(|name| name.rsplit_once('/').map(|(kind, _)| kind.to_owned())).collect()
    };
    assert_eq!(kinds(&store.secrets), ["keys", "secrets/snapshots", "secrets/bundles"].map(str::to_owned));
    assert!(!kinds(&store.data).contains(&"data/snapshots".to_owned()));
}
