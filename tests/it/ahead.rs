//! What is read before a key is there: it may be withheld, and what was listed may be old.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use orkvault::backend::{
    self, Backend, Counted, ErrorKind, Fault, FaultBackend, Listed, MemoryBackend, ObjectInfo, Put,
};
use orkvault::component::Source;
use orkvault::crypto::SystemEntropy;
use orkvault::format::id::SnapshotId;
use orkvault::format::object::{Namespace, ObjectKey, ObjectPrefix};
use orkvault::ops::snapshot::snapshot;
use orkvault::repo::{Access, Ahead, Closed, Error, OpenOptions, Repository, SecretsStore};

use crate::support::night::{Said, Still, options, take};
use crate::support::repository::{self, DATA_PASSPHRASE, passphrase};
use crate::support::sources::{MemoryContent, MemorySource};

fn open_options() -> OpenOptions {
    OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) }
}

/// A store in memory that does not say all.
#[derive(Debug)]
struct Store {
    now: MemoryBackend,
    /// What the first listing of the data shows; the rest was put since.
    earlier: Option<MemoryBackend>,
    was_listed: AtomicBool,
    /// Whoever asks for it may not have it.
    withheld: Option<ObjectKey>,
}

impl Store {
    fn new(now: &MemoryBackend) -> Self {
        Self { now: now.clone(), earlier: None, was_listed: AtomicBool::new(false), withheld: None }
    }

    fn listed_late(now: &MemoryBackend, earlier: &MemoryBackend) -> Arc<Self> {
        Arc::new(Self { earlier: Some(earlier.clone()), ..Self::new(now) })
    }
}

#[async_trait]
impl Backend for Store {
    fn location(&self) -> String {
        self.now.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, backend::Error> {
        self.now.put(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, backend::Error> {
        if self.withheld == Some(key) {
            // What a policy of the server would say.
            return FaultBackend::new(self.now.clone(), Counted::All, 1, Fault::Fail(ErrorKind::Denied))
                .get(key, max_len)
                .await;
        }
        self.now.get(key, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, backend::Error> {
        self.now.get_range(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, backend::Error> {
        self.now.stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, backend::Error>> {
        let is_of_data = prefix == ObjectPrefix::Namespace(Namespace::Data);
        if is_of_data
            && !self.was_listed.swap(true, Ordering::SeqCst)
            && let Some(earlier) = &self.earlier
        {
            return earlier.list(prefix);
        }
        self.now.list(prefix)
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), backend::Error> {
        self.now.delete(key).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, backend::Error> {
        self.now.sweep(before).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_slot_that_the_store_withholds_is_said_and_is_neither_no_slot_nor_a_wrong_key() {
    let made = repository::make().await;
    let slots = made.backend.objects().into_keys().filter(|key| matches!(key, ObjectKey::Slot(_)));
    let mut missed = 0;
    for slot in slots {
        let store = Arc::new(Store { withheld: Some(slot), ..Store::new(&made.backend) });
        let access = vec![Access::Data(passphrase(DATA_PASSPHRASE))];
        match Repository::open(store, access, open_options()).await {
            // Another slot than the one that was asked for.
            Ok(_) => {}
            Err(Error::Backend(error)) => {
                assert_eq!((error.kind(), error.key()), (ErrorKind::Denied, Some(slot)), "{error}");
                missed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(missed, 1, "the slot of the data passphrase, and no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_another_run_commits_after_the_listing_is_not_said_to_be_missing() {
    let made = repository::make().await;
    take(&made.open_writer().await, 100, &MemoryContent::default()).await.unwrap();
    let earlier = made.backend.snapshot();
    let beside = take(&made.open_writer().await, 200, &MemoryContent::default()).await.unwrap();
    for (newest, is_missing) in [(beside.id, false), (SnapshotId::from_bytes([7; 32]), true)] {
        let store = Store::listed_late(&made.backend, &earlier);
        let repository = made.open_on(store.clone(), vec![made.writer()]).await;
        let memory = MemorySource { name: "memory".to_owned(), content: MemoryContent::default(), fails_after: None };
        let (sources, said) = (vec![Box::new(memory) as Box<dyn Source>], Said::default());
        let mut options = options();
        options.newest = Some(newest);
        snapshot(&repository, sources, &options, &said, &Still(300)).await.unwrap();
        assert!(store.was_listed.load(Ordering::SeqCst));
        let said = said.0.into_inner().unwrap();
        assert_eq!(said.iter().any(|line| line.contains("is missing")), is_missing, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_that_was_forgotten_is_taken_anew() {
    let made = repository::make().await;
    let earlier = made.backend.snapshot();
    let beside = take(&made.open_writer().await, 100, &MemoryContent::default()).await.unwrap();
    for is_forgotten in [false, true] {
        let store = Store::listed_late(&made.backend, &earlier);
        let closed = Closed::look(store, SecretsStore::Unnamed, Ahead::Survey).await.unwrap();
        let repository = closed.open(vec![made.writer()], open_options()).await.unwrap();
        if is_forgotten {
            repository.forget_survey();
            // What was begun may have been dropped before it asked for anything: the first listing is over.
            drop(repository.backend().list(ObjectPrefix::Namespace(Namespace::Data)));
        }
        let found = repository.survey().await.unwrap().snapshots;
        assert_eq!(found, if is_forgotten { vec![beside.id] } else { vec![] });
    }
}
