//! The chain of a writer's snapshots: what is taken out of it shows, whoever else wrote at the same time.

use std::sync::Arc;

use async_trait::async_trait;
use orkvault::component::{Capture, Captured, Error, Source};
use orkvault::format::id::SnapshotId;
use orkvault::format::object::{Namespace, ObjectKey};
use orkvault::ops::NoProgress;
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::snapshot::{SnapshotOutcome, snapshot};
use orkvault::repo::Repository;
use tokio::sync::Barrier;

use crate::support::night::{Still, options, take};
use crate::support::repository::{self, Made, noise};
use crate::support::sources::{MemoryContent, MemorySource};

/// Captures when everybody has come so far.
struct Meeting(MemorySource, Arc<Barrier>);

#[async_trait]
impl Source for Meeting {
    fn component(&self) -> &str {
        self.0.component()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    async fn probe(&mut self) -> Result<(), Error> {
        self.0.probe().await
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, Error> {
        self.1.wait().await;
        self.0.capture(out).await
    }
}

fn content(seed: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("stream".to_owned(), noise(seed, 50_000));
    content
}

/// Takes snapshots at the same time: none of them sees another.
async fn at_once<const COUNT: usize>(made: &Made, second: i64) -> [SnapshotOutcome; COUNT] {
    let everybody = Arc::new(Barrier::new(COUNT));
    let mut runs = Vec::new();
    for number in 0..COUNT as u64 {
        let repository: Repository = made.open_writer().await;
        let memory = MemorySource { name: "memory".to_owned(), content: content(number), fails_after: None };
        let source = Meeting(memory, Arc::clone(&everybody));
        runs.push(tokio::spawn(async move {
            snapshot(&repository, vec![Box::new(source)], &options(), &NoProgress, &Still(second)).await.unwrap()
        }));
    }
    let mut taken = Vec::new();
    for run in runs {
        taken.push(run.await.unwrap());
    }
    taken.try_into().unwrap_or_else(|_| panic!("one of each run"))
}

async fn findings(made: &Made) -> Vec<String> {
    let found = check(&made.open_writer().await, CheckOptions::default(), &NoProgress).await.unwrap();
    found.findings.into_iter().map(|finding| format!("{}: {}", finding.object, finding.problem)).collect()
}

fn followed(outcome: &SnapshotOutcome) -> Vec<SnapshotId> {
    outcome.manifest.orkvault.writer.previous.iter().map(|link| link.snapshot).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_run_after_two_at_once_follows_both_and_each_of_them_shows_when_it_is_gone() {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 1_790_000_000, &content(0)).await.unwrap();
    let pair: [SnapshotOutcome; 2] = at_once(&made, 1_790_000_100).await;
    for outcome in &pair {
        assert_eq!((outcome.manifest.orkvault.writer.sequence, followed(outcome)), (2, vec![first.id]));
    }
    assert_eq!(findings(&made).await, Vec::<String>::new());

    let last = take(&made.open_writer().await, 1_790_000_200, &content(3)).await.unwrap();
    let mut both = pair.each_ref().map(|outcome| outcome.id).to_vec();
    both.sort();
    assert_eq!((last.manifest.orkvault.writer.sequence, followed(&last)), (3, both));
    assert_eq!(findings(&made).await, Vec::<String>::new());

    for gone in [first.id, pair[0].id, pair[1].id] {
        let key = ObjectKey::Snapshot(Namespace::Data, gone);
        let bytes = made.backend.remove(key).unwrap();
        let found = findings(&made).await;
        assert!(found.iter().any(|finding| finding.starts_with(&format!("{key}: is missing"))), "{found:?}");
        made.backend.replace(key, bytes);
    }
    assert_eq!(findings(&made).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_snapshots_at_once_begin_one_chain() {
    let made = repository::make().await;
    let three: [SnapshotOutcome; 3] = at_once(&made, 1_790_000_000).await;
    for outcome in &three {
        assert_eq!((outcome.manifest.orkvault.writer.sequence, followed(outcome)), (1, vec![]));
    }
    let next = take(&made.open_writer().await, 1_790_000_100, &content(1)).await.unwrap();
    assert_eq!((next.manifest.orkvault.writer.sequence, followed(&next).len()), (2, 3));
    let after = take(&made.open_writer().await, 1_790_000_200, &content(2)).await.unwrap();
    assert_eq!(followed(&after), [next.id]);
    assert_eq!(findings(&made).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_claims_to_follow_a_later_one_is_found() {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 1_790_000_000, &content(1)).await.unwrap();
    let second = take(&made.open_writer().await, 1_790_000_100, &content(1)).await.unwrap();
    let writer = made.open_writer().await;
    let mut forged = second.manifest.clone();
    forged.orkvault.writer.sequence = 1;
    let id = writer.new_snapshot_id().unwrap();
    writer.commit(id, &forged).await.unwrap();
    let found = findings(&made).await;
    let object = ObjectKey::Snapshot(Namespace::Data, id);
    assert_eq!(found, [format!("{object}: is number 1 of its writer and follows a later one")], "{}", first.id);
}
