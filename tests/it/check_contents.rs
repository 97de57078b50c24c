//! `check --read-data` puts every stream and entry of every snapshot together, not only those of the newest.

use std::sync::Arc;

use bytes::Bytes;
use orkvault::backend::{Counted, FaultBackend};
use orkvault::crypto::hash::content_hash;
use orkvault::format::config::StreamKind;
use orkvault::format::entry::{EntryContent, EntryRow};
use orkvault::format::id::{ContentHash, SnapshotId};
use orkvault::format::manifest::{ComponentRecord, StreamRecord, TableRecord};
use orkvault::format::recipe::RecipeRoot;
use orkvault::ops::NoProgress;
use orkvault::ops::check::{CheckOptions, CheckOutcome, check};
use orkvault::repo::{Access, ChangedRows, Marks, Reader, Repository, TableReader, TableWriter, Writer, WriterOptions};

use crate::support::night::take;
use crate::support::repository::{self, Made, noise};
use crate::support::sources::MemoryContent;

fn content(seed: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("stream".to_owned(), [noise(1, 300_000), noise(seed, 40_000)].concat());
    content.entries.insert(b"bucket/".to_vec(), (1, Vec::new()));
    content.entries.insert(b"bucket/object".to_vec(), (1, noise(2, 500)));
    content.entries.insert(b"bucket/other".to_vec(), (1, noise(seed, 900)));
    content
}

/// Two nights, and an older snapshot whose `memory` component was made otherwise.
async fn with_an_older_one(change: impl AsyncFnOnce(&Repository, &mut ComponentRecord)) -> (Made, SnapshotId) {
    let made = repository::make().await;
    let repository = made.open_writer().await;
    let first = take(&repository, 1_790_000_000, &content(10)).await.unwrap();
    take(&repository, 1_790_086_400, &content(11)).await.unwrap();
    let mut manifest = repository.load_snapshot(first.id).await.unwrap().manifest;
    change(&repository, manifest.orkvault.components.get_mut("memory").unwrap()).await;
    let id = repository.new_snapshot_id().unwrap();
    repository.commit(id, &manifest).await.unwrap();
    (made, id)
}

async fn checked(made: &Made) -> CheckOutcome {
    check(&made.open_reader().await, CheckOptions { read_data: true }, &NoProgress).await.unwrap()
}

/// Stores a root with the right pages that says of itself that it stands for something else.
async fn forge(repository: &Repository, stream: &StreamRecord, hash: ContentHash) -> StreamRecord {
    let reader = Reader::new(repository).unwrap();
    let root = RecipeRoot { hash, ..reader.recipe_root(&stream.recipe).await.unwrap() };
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let table = writer.begin(StreamKind::Table).await.unwrap();
    writer.push(&table, Bytes::from(root.encode()), Marks::default()).await.unwrap();
    let written = writer.end(table, 1).await.unwrap();
    writer.finish().await.unwrap();
    let EntryContent::Extents { extents, .. } = written.entry_content() else { panic!("one chunk") };
    StreamRecord { blake3: hash, recipe: extents[0].chunk, ..stream.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_old_snapshot_that_is_not_what_came_in_is_found() {
    let (made, id) = with_an_older_one(async |repository, record| {
        let stream = record.streams.get_mut("stream").unwrap();
        *stream = forge(repository, stream, content_hash(b"something else")).await;
    })
    .await;
    let findings = checked(&made).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].object.contains(&id.to_string()) && findings[0].object.ends_with("memory/stream"));
    assert_eq!(findings[0].affects, [format!("{id}/memory")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_an_old_snapshot_that_is_not_what_came_in_is_found() {
    let (made, id) = with_an_older_one(async |repository, record| {
        let table = record.entries.as_ref().unwrap();
        record.entries = Some(table_with_another_hash(repository, table, b"bucket/other").await);
    })
    .await;
    let findings = checked(&made).await.findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].object.contains(&id.to_string()) && findings[0].object.ends_with("memory/bucket/other"));
}

async fn table_with_another_hash(repository: &Repository, table: &TableRecord, changed: &[u8]) -> TableRecord {
    let reader = Reader::new(repository).unwrap();
    let mut rows = TableReader::open(&reader, table);
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let mut made = TableWriter::begin(&mut writer, "another").await.unwrap();
    while let Some(mut row) = rows.next_row().await.unwrap() {
        if row.key == changed {
            let EntryContent::Extents { hash, .. } = &mut row.content else { panic!("a short entry") };
            *hash = content_hash(b"something else");
        }
        made.add(&mut writer, &row).await.unwrap();
    }
    let (made, _) = made.finish(&mut writer).await.unwrap();
    writer.finish().await.unwrap();
    made
}

/// Rows of a table: key, version, and the seed of the content.
async fn table_of(repository: &Repository, rows: &[(&str, u8, u64)]) -> TableRecord {
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let mut table = TableWriter::begin(&mut writer, "rows").await.unwrap();
    for (key, version, seed) in rows {
        let body = Bytes::from(noise(*seed, 700));
        let streams = writer.put_short(table.stream(), vec![body], 1).await.unwrap();
        let written = writer.short_written(streams).await.unwrap().remove(0);
        let attributes = [("version".to_owned(), vec![*version])].into();
        let row = EntryRow { key: key.as_bytes().to_vec(), attributes, len: 700, content: written.entry_content() };
        table.add(&mut writer, &row).await.unwrap();
    }
    let (table, _) = table.finish(&mut writer).await.unwrap();
    writer.finish().await.unwrap();
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tables_the_rows_are_told_whose_content_the_other_has_not_under_the_same_key() {
    let made = repository::make().await;
    let repository = made.open_writer().await;
    let other = table_of(&repository, &[("a", 1, 1), ("b", 1, 2), ("c", 1, 3), ("e", 1, 5), ("f", 1, 6)]).await;
    // A change of attributes is none of content; what moved to another key is new there.
    let rows = [("b", 1, 2), ("c", 2, 3), ("d", 1, 4), ("e", 1, 50), ("g", 1, 6)];
    let table = table_of(&repository, &rows).await;
    let reader = Reader::new(&repository).unwrap();
    for (beside, expected) in [(Some(&other), "d e g"), (None, "b c d e g"), (Some(&table), "")] {
        let mut changed = ChangedRows::open(&reader, &table, beside);
        let mut keys = Vec::new();
        while let Some(row) = changed.next_row().await.unwrap() {
            keys.push(String::from_utf8(row.key).unwrap());
        }
        assert_eq!(keys.join(" "), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_snapshots_share_is_opened_once() {
    let (made, _) = with_an_older_one(async |_, _| ()).await;
    let outcome = checked(&made).await;
    assert_eq!(outcome.findings, []);
    assert_eq!(outcome.snapshots, 5);
    // Every chunk of every pack, each once: the second night's changes and the recipes besides the first night.
    let stored: u64 = made.backend.objects().values().map(|bytes| bytes.len() as u64).sum();
    assert!(outcome.opened_bytes > 340_000 && outcome.opened_bytes < 480_000, "{outcome:?}, {stored} stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_small_objects_is_checked_segment_by_segment_and_not_a_few_objects_at_a_time() {
    let made = repository::make().await;
    let mut content = MemoryContent::default();
    content.entries.insert(b"bucket/".to_vec(), (1, Vec::new()));
    for number in 0..1_500_u64 {
        let key = format!("bucket/{number:05}").into_bytes();
        content.entries.insert(key, (1, noise(number, 400)));
    }
    take(&made.open_writer().await, 1_790_000_000, &content).await.unwrap();
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let before = counting.operations();
    let outcome = check(&repository, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!(outcome.findings, []);
    let operations = counting.operations() - before;
    assert!(operations <= 40, "{operations} operations");
}
