//! The chain of a writer's snapshots: what is taken out of it shows, whoever else wrote at the same time.

use std::sync::Arc;

use async_trait::async_trait;
use orkvault::backend::{Counted, Fault, FaultBackend};
use orkvault::component::{Capture, Captured, Error, Source};
use orkvault::format::id::SnapshotId;
use orkvault::format::object::{Namespace, ObjectKey};
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::snapshot::{SnapshotOutcome, snapshot};
use orkvault::ops::{NoProgress, select};
use orkvault::repo::Repository;
use tokio::sync::Barrier;

use crate::support::night::{Said, Still, options, take};
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
async fn a_clock_that_was_wrong_hides_no_night() {
    let made = repository::make().await;
    // Years ahead on the second night, as after a dead battery on the fourth and fifth.
    let seconds = [1_790_000_000, 2_100_000_000, 1_790_000_200, 3_600, 60, 1_790_000_300];
    let mut taken = Vec::new();
    for second in seconds {
        let said = Said::default();
        let memory = MemorySource { name: "memory".to_owned(), content: content(0), fails_after: None };
        let repository = made.open_writer().await;
        let outcome = snapshot(&repository, vec![Box::new(memory)], &options(), &said, &Still(second)).await.unwrap();
        taken.push(outcome.id);
        let ids: Vec<_> =
            select::load_all(&repository).await.unwrap().into_iter().map(|snapshot| snapshot.id).collect();
        assert_eq!(ids, taken, "{second}");
        assert_eq!(select::find(&repository, "latest").await.unwrap().id, *taken.last().unwrap(), "{second}");
        let said = said.0.into_inner().unwrap();
        assert_eq!(said.iter().any(|line| line.contains("clock")), (3..=5).contains(&taken.len()), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_not_asked_for_one_manifest_after_the_other() {
    let made = repository::make().await;
    for second in 0..40 {
        take(&made.open_writer().await, 1_790_000_000 + second, &content(0)).await.unwrap();
    }
    let access = || vec![made.writer()];
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access()).await;
    let opened = counting.operations();
    assert_eq!(select::load_all(&repository).await.unwrap().len(), 40);
    assert!(counting.operations() - opened > 40);
    // Behind the listing.
    for at in [opened + 2, opened + 20] {
        let gone = Arc::new(FaultBackend::new(made.backend.clone(), Counted::All, at, Fault::Unreachable));
        let repository = made.open_on(Arc::clone(&gone) as Arc<_>, access()).await;
        let Err(error) = select::load_readable(&repository, &NoProgress).await else { panic!("{at}: all were read") };
        assert!(matches!(error, orkvault::ops::Error::Repo(ref error) if error.is_outage()), "{error}");
        assert!(gone.operations() <= at + 8, "{at}: {} operations", gone.operations());
    }
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
