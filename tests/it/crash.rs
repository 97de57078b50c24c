//! The process stops at any operation of a snapshot: what was committed stays, and the next one works.

use std::sync::Arc;

use bytes::Bytes;
use orkvault::backend::{Backend, Counted, ErrorKind, Fault, FaultBackend};
use orkvault::format::config::StreamKind;
use orkvault::ops::NoProgress;
use orkvault::ops::check::{CheckOptions, check};
use orkvault::repo::{Marks, Repository, Writer, WriterOptions};

use crate::support::night::{give, take};
use crate::support::repository::{self, Made, noise};
use crate::support::sources::MemoryContent;

fn night(number: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    // The first half stays, the second changes.
    let mut stream = noise(1, 200_000);
    stream.extend(noise(100 + number, 200_000));
    content.streams.insert("stream".to_owned(), stream);
    for object in 0..10_u64 {
        let version = if object == number { number } else { 0 };
        let bytes = noise(object * 1000 + version, 3_000);
        content.entries.insert(format!("bucket/{object}").into_bytes(), (version, bytes));
    }
    content
}

async fn on(made: &Made, backend: Arc<dyn Backend>) -> Result<orkvault::repo::Repository, orkvault::repo::Error> {
    repository::open(backend, vec![made.writer()]).await
}

async fn stopped_everywhere(fault: Fault) {
    let made = repository::make().await;
    let first = take(&made.open_writer().await, 1_790_000_000, &night(1)).await.unwrap();
    let before = made.backend.snapshot();
    let counting = Arc::new(FaultBackend::counting(before.snapshot(), Counted::All));
    take(&on(&made, counting.clone()).await.unwrap(), 1_790_000_100, &night(2)).await.unwrap();
    let operations = counting.operations();
    assert!(operations > 10, "a snapshot takes {operations} operations");
    for at in 1..=operations {
        let store = before.snapshot();
        let faulty = Arc::new(FaultBackend::new(store.clone(), Counted::All, at, fault));
        let result = match on(&made, faulty.clone()).await {
            Ok(repository) => take(&repository, 1_790_000_100, &night(2)).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Only what comes after the commit may fail without failing the snapshot.
        if let Ok(outcome) = &result {
            let made = Made { backend: store.clone(), writer_line: made.writer_line.clone() };
            assert_eq!(give(&made.open_reader().await, &outcome.id.to_string()).await.unwrap(), night(2));
        }
        let made = Made { backend: store, writer_line: made.writer_line.clone() };
        let reader = made.open_reader().await;
        assert_eq!(give(&reader, &first.id.to_string()).await.unwrap(), night(1), "stopped at {at}: {result:?}");
        let third = take(&made.open_writer().await, 1_790_000_200, &night(3)).await.unwrap();
        assert_eq!(give(&made.open_reader().await, &third.id.to_string()).await.unwrap(), night(3));
        let fresh = made.open_reader().await;
        let found = check(&fresh, CheckOptions { read_data: true }, &NoProgress).await.unwrap().findings;
        assert_eq!(found, [], "stopped at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_before_any_operation_loses_nothing() {
    stopped_everywhere(Fault::CrashBefore).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_any_operation_loses_nothing() {
    stopped_everywhere(Fault::CrashAfter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_any_operation_loses_nothing() {
    stopped_everywhere(Fault::DiskFull).await;
}

/// What was put before a run failed is not put again: it is listed, as far as the store still takes that.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_run_has_put_is_found_by_the_next_one() {
    const LEN: usize = 60 * 1024 * 1024;
    let made = repository::make().await;
    let bytes = noise(5, LEN);
    let store = async |repository: &Repository| {
        let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
        let stream = writer.begin(StreamKind::Object).await.unwrap();
        for run in bytes.chunks(1024 * 1024) {
            writer.push(&stream, Bytes::copy_from_slice(run), Marks::default()).await?;
        }
        writer.end(stream, 0).await?;
        writer.finish().await.map(|finished| finished.stats.new_bytes)
    };
    let failing = FaultBackend::new(made.backend.clone(), Counted::Writes, 3, Fault::Fail(ErrorKind::Full));
    let error = store(&on(&made, Arc::new(failing)).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, orkvault::repo::Error::Backend(ref error) if error.kind() == ErrorKind::Full), "{error}");
    let repository = made.open_writer().await;
    repository.load_index().await.unwrap();
    let new = store(&repository).await.unwrap();
    // Two packs at least, which have 12 MiB or more each.
    assert!(new < (LEN - 24 * 1024 * 1024) as u64, "{new}");
}
