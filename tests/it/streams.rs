//! Streams go in and come out byte for byte.

use bytes::Bytes;
use orkvault::format::config::StreamKind;
use orkvault::format::object::ObjectPrefix;
use orkvault::repo::{Marks, Reader, Repository, StreamWritten, Writer, WriterOptions};

use crate::support::repository::{self, noise, read_all};

async fn write(repository: &Repository, streams: &[(StreamKind, &[u8])]) -> Vec<StreamWritten> {
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let mut written = Vec::new();
    for (kind, bytes) in streams {
        let stream = writer.begin(*kind).await.unwrap();
        for run in bytes.chunks(300_000) {
            writer.push(&stream, Bytes::copy_from_slice(run), Marks::default()).await.unwrap();
        }
        written.push(writer.end(stream, 0).await.unwrap());
    }
    writer.finish().await.unwrap();
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_any_length_come_back_as_they_went_in() {
    let made = repository::make().await;
    let inputs: Vec<Vec<u8>> =
        [0, 1, 100, 70_000, 1_000_000, 5_000_003].into_iter().map(|len| noise(len as u64, len)).collect();
    let kinds = [StreamKind::Dump, StreamKind::Rdb, StreamKind::Object, StreamKind::Table];
    let streams: Vec<_> = kinds.iter().flat_map(|kind| inputs.iter().map(|input| (*kind, input.as_slice()))).collect();
    let written = write(&made.open_writer().await, &streams).await;

    let reader = Reader::new(&made.open_reader().await).unwrap();
    for ((_, input), written) in streams.iter().zip(&written) {
        assert_eq!(written.len, input.len() as u64);
        let found = read_all(reader.open(&written.record().unwrap())).await.unwrap();
        assert!(found == *input, "a stream of {} bytes came back as {}", input.len(), found.len());
    }
}

/// Ends of records and blocks are places in `bytes`.
async fn write_in_runs(repository: &Repository, kind: StreamKind, bytes: &[u8], run_len: usize) -> StreamWritten {
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let stream = writer.begin(kind).await.unwrap();
    for (number, run) in bytes.chunks(run_len).enumerate() {
        let front = number * run_len;
        let ends = |step: usize| -> Vec<u32> {
            let places = (1..=run.len()).filter(|place| (front + place).is_multiple_of(step));
            places.map(|place| u32::try_from(place).unwrap()).collect()
        };
        let marks = match kind {
            StreamKind::Dump => Marks { records: ends(700), blocks: ends(700 * 1_500) },
            _ => Marks::default(),
        };
        writer.push(&stream, Bytes::copy_from_slice(run), marks).await.unwrap();
    }
    let written = writer.end(stream, 0).await.unwrap();
    writer.finish().await.unwrap();
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_cut_alike_in_whatever_runs_it_comes() {
    let made = repository::make().await;
    let repository = made.open_writer().await;
    for (kind, len) in [(StreamKind::Dump, 4_000_000), (StreamKind::Object, 4_000_000), (StreamKind::Object, 60_000)] {
        let input = noise(len as u64 + 1, len);
        let first = write_in_runs(&repository, kind, &input, 1 << 20).await;
        for run_len in [999, 100_000, 300_000, 524_288, 600_000] {
            let again = write_in_runs(&repository, kind, &input, run_len).await;
            assert_eq!(again.content, first.content, "{kind:?} in runs of {run_len}");
            assert_eq!(again.report.new, 0, "{kind:?} in runs of {run_len}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_not_stored_again_by_another_run() {
    let made = repository::make().await;
    let input = noise(7, 3_000_000);
    let first = write(&made.open_writer().await, &[(StreamKind::Dump, &input)]).await;
    let before = made.open_writer().await.list(ObjectPrefix::All).await.unwrap();
    let second = write(&made.open_writer().await, &[(StreamKind::Dump, &input)]).await;
    let after = made.open_writer().await.list(ObjectPrefix::All).await.unwrap();
    assert_eq!((first[0].hash, &first[0].content), (second[0].hash, &second[0].content));
    assert_eq!((second[0].report.whole, second[0].report.new, second[0].report.recipe), (second[0].len, 0, 0));
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_reads_recipes_and_no_content() {
    let made = repository::make().await;
    let input = noise(9, 200_000);
    let repository = made.open_writer().await;
    let written = write(&repository, &[(StreamKind::Dump, &input), (StreamKind::Table, &input)]).await;
    let reader = Reader::new(&repository).unwrap();
    let root = reader.recipe_root(&written[0].record().unwrap().recipe).await.unwrap();
    assert_eq!(root.stream_len(), 200_000);
    let refused = read_all(reader.open(&written[0].record().unwrap())).await.unwrap_err();
    assert!(
        std::error::Error::source(&refused).is_some_and(|source| source.to_string().contains("cannot read content"))
    );
    // Tables are structure, which the writer needs to compare tonight with last night.
    assert_eq!(read_all(reader.open(&written[1].record().unwrap())).await.unwrap(), input);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

    /// Nights of one stream under random edits, with any record ends: every night restores as it was, and
    /// only one copy of what they share is stored.
    #[test]
    fn nights_under_random_edits_come_back_as_they_were(
        seed in 0_u64..1_000_000,
        edits in proptest::collection::vec((0_usize..200_000, 0_usize..3_000, 0_usize..3_000), 1..6),
        step in 50_u32..5_000,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let made = repository::make().await;
            let mut content = noise(seed, 200_000);
            let mut nights = Vec::new();
            for (at, removed, added) in edits {
                let at = at.min(content.len());
                let end = (at + removed).min(content.len());
                content.splice(at..end, noise(seed + at as u64, added));
                let repository = made.open_writer().await;
                let mut writer = Writer::new(&repository, WriterOptions::default()).unwrap();
                let stream = writer.begin(StreamKind::Dump).await.unwrap();
                for run in content.chunks(64 * 1024) {
                    let len = u32::try_from(run.len()).unwrap();
                    let marks = Marks { records: (step..=len).step_by(step as usize).collect(), blocks: vec![len] };
                    writer.push(&stream, Bytes::copy_from_slice(run), marks).await.unwrap();
                }
                let written = writer.end(stream, 0).await.unwrap();
                writer.finish().await.unwrap();
                nights.push((written, content.clone()));
            }
            let reader = Reader::new(&made.open_reader().await).unwrap();
            for (written, content) in nights {
                let found = read_all(reader.open(&written.record().unwrap())).await.unwrap();
                assert!(found == content);
            }
        });
    }
}
