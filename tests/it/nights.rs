//! Many nights of one stream: every one restores byte for byte, whatever became of the host's piece cache, and
//! costs what changed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use orkvault::format::config::{ChunkSizes, StreamKind};
use orkvault::format::object::ObjectPrefix;
use orkvault::repo::{InitOptions, Marks, Reader, StreamWritten, Writer, WriterOptions};
use proptest::prelude::{Strategy, any, prop};

use crate::support::repository::{self, Made, noise, read_all};

const STREAM: &str = "mongodb mongo.archive";

/// Small chunks: many of them in a stream that a test can afford.
fn small_chunks() -> InitOptions {
    let sizes = ChunkSizes { min: 256, average: 1024, max: 8192, whole_below: 0 };
    let mut options = repository::cheap_options();
    options.chunk_sizes[0] = sizes;
    options.chunk_sizes[1] = sizes;
    options
}

/// A stream and where its records and blocks end.
#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    records: Vec<usize>,
    blocks: Vec<usize>,
}

impl Content {
    fn of(records: &[Vec<u8>]) -> Self {
        let mut content = Self::default();
        for record in records {
            content.push(record);
        }
        content
    }

    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.records.push(self.bytes.len());
    }
}

/// How a night ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its snapshot is committed.
    Committed,
    /// It crashes before the commit.
    Lost,
    /// It crashes in the middle of the stream.
    Cut,
}

async fn write(made: &Made, cache: &Path, kind: StreamKind, content: &Content, end: End) -> Option<StreamWritten> {
    let (written, warnings) = write_with(made, cache, kind, content, end, WriterOptions::default()).await.unwrap();
    assert!(warnings.iter().all(|warning| warning.contains("is not used")), "{warnings:?}");
    written
}

/// Writes a night; returns it where it is committed, and the warnings of the piece cache.
async fn write_with(
    made: &Made,
    cache: &Path,
    kind: StreamKind,
    content: &Content,
    end: End,
    options: WriterOptions,
) -> Result<(Option<StreamWritten>, Vec<String>), orkvault::repo::Error> {
    let repository = made.open_writer_at(cache).await;
    repository.set_missing_packs_aside().await?;
    let mut writer = Writer::new(&repository, options)?;
    let Some(written) = push(&mut writer, kind, content, end).await? else { return Ok((None, Vec::new())) };
    let finished = writer.finish().await?;
    if end == End::Committed {
        return Ok((Some(written), finished.pieces.keep(|_| true)));
    }
    let failed = finished.pieces.keep(|stream| stream != STREAM);
    Ok((None, failed))
}

/// Pushes the stream; returns it where it is not cut.
async fn push(
    writer: &mut Writer,
    kind: StreamKind,
    content: &Content,
    end: End,
) -> Result<Option<StreamWritten>, orkvault::repo::Error> {
    let stream = writer.begin_named(kind, STREAM).await.unwrap();
    let mut start = 0;
    for run in content.bytes.chunks(50_000) {
        if end == End::Cut && start > content.bytes.len() / 2 {
            return Ok(None);
        }
        let stop = start + run.len();
        let within = |ends: &[usize]| -> Vec<u32> {
            let ends = ends.iter().filter(|end| (start + 1..=stop).contains(*end));
            ends.map(|end| u32::try_from(end - start).unwrap()).collect()
        };
        let marks = Marks { records: within(&content.records), blocks: within(&content.blocks) };
        writer.push(&stream, Bytes::copy_from_slice(run), marks).await.unwrap();
        start = stop;
    }
    writer.end(stream, 0).await.map(Some)
}

async fn restores(made: &Made, written: &StreamWritten, content: &[u8]) {
    let reader = Reader::new(&made.open_reader().await).unwrap();
    let found = read_all(reader.open(&written.record().unwrap())).await.unwrap();
    assert!(found == content, "{} bytes came back as {}", content.len(), found.len());
}

fn piece_files(cache: &Path) -> Vec<PathBuf> {
    let dirs = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let dirs = dirs.filter(|path| path.extension().is_some_and(|extension| extension == "pieces"));
    dirs.flat_map(|dir| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path())).collect()
}

fn is_kept(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "pieces")
}

fn sized_documents(seed: u64, count: u64, least: usize, spread: usize) -> Vec<Vec<u8>> {
    (0..count)
        .zip(0_usize..)
        .map(|(number, place)| noise(seed * 1_000_000 + number, least + place * 37 % spread))
        .collect()
}

fn documents(seed: u64, count: u64) -> Vec<Vec<u8>> {
    sized_documents(seed, count, 100, 900)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_stores_what_changed_and_says_so() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    let mut records = documents(1, 4_000);
    let first = write(&made, cache.path(), StreamKind::Dump, &Content::of(&records), End::Committed).await.unwrap();
    assert_eq!(first.report.new, first.len);
    let mut changed = 0;
    for at in (13..4_000).step_by(100) {
        records[at] = noise(at as u64, 300);
        changed += 300;
    }
    let content = Content::of(&records);
    let second = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    let report = second.report;
    assert_eq!(report.whole + report.parts + report.new, second.len);
    assert!(report.new < changed * 2, "{changed} bytes changed, {report:?}");
    assert!(report.parts > second.len / 4, "{report:?}");
    restores(&made, &second, &content.bytes).await;

    // The same again costs nothing, and a host that remembers nothing stores whole chunks.
    let third = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert_eq!((third.report.new, third.report.recipe), (0, 0));
    assert_eq!(third.content, second.content);
    let elsewhere = tempfile::tempdir().unwrap();
    let fourth = write(&made, elsewhere.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert_eq!(fourth.report.parts, 0);
    restores(&made, &fourth, &content.bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_records_costs_what_changed_too() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    for kind in [StreamKind::Rdb, StreamKind::Table] {
        let mut content = Content { bytes: noise(5, 3_000_000), ..Content::default() };
        let first = write(&made, cache.path(), kind, &content, End::Committed).await.unwrap();
        // Of one name, and yet nothing of one kind of pack is referred to from a stream of the other.
        assert_eq!(first.report.new, first.len);
        for at in (10_000..2_900_000).step_by(100_000) {
            content.bytes.splice(at..at + 50, noise(at as u64, 80));
        }
        let second = write(&made, cache.path(), kind, &content, End::Committed).await.unwrap();
        assert!(second.report.new < 29 * 3_000, "{:?}", second.report);
        restores(&made, &second, &content.bytes).await;
        if kind == StreamKind::Table {
            let reader = Reader::new(&made.open_writer().await).unwrap();
            let found = read_all(reader.open(&second.record().unwrap())).await.unwrap();
            assert!(found == content.bytes, "the writer reads tables");
        }
    }
}

/// Bytes of the segments that a stream refers to, which a restore decodes, in hundredths of its length.
async fn amplification(made: &Made, written: &StreamWritten) -> u64 {
    let repository = made.open_reader().await;
    let reader = Reader::new(&repository).unwrap();
    let mut segments = std::collections::HashMap::new();
    let record = written.record().unwrap();
    for page in reader.recipe_root(&record.recipe).await.unwrap().pages {
        for extent in reader.recipe_page(&page.chunk, page.stream_len).await.unwrap().extents() {
            let segment = repository.index().find(&extent.chunk).unwrap().unwrap().segment;
            segments.insert(segment.row, segment.record.plain_len());
        }
    }
    segments.values().sum::<u64>() * 100 / record.length
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_edits_for_a_while_and_a_month_of_nights_stays_small() {
    let (made, cache) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
    let mut records = documents(8, 6_000);
    let mut nights: Vec<(StreamWritten, Vec<u8>)> = Vec::new();
    for night in 0..30_usize {
        if night > 0 {
            for at in (night * 7..records.len()).step_by(200) {
                records[at] = noise((night * 10_000 + at) as u64, 250);
            }
        }
        let content = Content::of(&records);
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        nights.push((written, content.bytes));
    }
    // 30 documents of 250 bytes changed; a chunk that they lie in has about 1 KiB.
    let whole = nights[0].0.report.recipe;
    let edited = nights[1..9].iter().filter(|(written, _)| written.report.recipe * 4 < whole).count();
    assert_eq!(edited, 8, "of {whole}: {:?}", nights.iter().map(|night| night.0.report.recipe).collect::<Vec<_>>());
    for (written, content) in nights.iter().skip(1) {
        assert!(written.report.new < 60_000, "{:?} of {}", written.report, content.len());
    }
    for (written, content) in nights.iter().step_by(5).chain(nights.last()) {
        restores(&made, written, content).await;
    }
    assert!(amplification(&made, &nights[29].0).await <= 150);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_parts_of_several_of_yesterday_is_an_edit_of_them() {
    // A chunk for every record: more than a page can have.
    let mut options = small_chunks();
    options.chunk_sizes[0] = ChunkSizes { min: 64, average: 256, max: 8192, whole_below: 0 };
    let (made, cache) = (repository::make_with(options).await, tempfile::tempdir().unwrap());
    let mut collections: Vec<Vec<Vec<u8>>> = (0..3).map(|number| documents(20 + number, 4_000)).collect();
    let mut nights: Vec<(StreamWritten, Vec<u8>)> = Vec::new();
    for night in 0..5_usize {
        for (number, collection) in collections.iter_mut().enumerate() {
            for at in (night * 7..collection.len()).step_by(500) {
                collection[at] = noise((night * 100_000 + number * 10_000 + at) as u64, 250);
            }
        }
        // As a dump comes: a block of one collection, then one of another, every night in another order.
        let mut content = Content::default();
        for round in 0..4 {
            for turn in 0..3 {
                let number = (turn * (1 + night % 2) + night + round * (night % 3)) % 3;
                for record in &collections[number][round * 1000..(round + 1) * 1000] {
                    content.push(record);
                }
                content.blocks.push(content.bytes.len());
            }
        }
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        restores(&made, &written, &content.bytes).await;
        nights.push((written, content.bytes));
    }
    let reader = Reader::new(&made.open_reader().await).unwrap();
    let root = reader.recipe_root(&nights[4].0.record().unwrap().recipe).await.unwrap();
    assert!(root.pages.len() > 1, "{} pages", root.pages.len());
    let recipes: Vec<_> = nights.iter().map(|(written, _)| written.report.recipe).collect();
    assert!(recipes[1..].iter().all(|recipe| recipe * 5 < recipes[0]), "{recipes:?}");
    for (written, content) in &nights {
        restores(&made, written, content).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_which_little_is_left_are_given_up() {
    let (made, cache) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
    // Of a stream that is not much longer than a segment nothing can be said: it shares both ends with others.
    let mut records = documents(9, 18_000);
    let _ = write(&made, cache.path(), StreamKind::Dump, &Content::of(&records), End::Committed).await.unwrap();
    let mut number = 0;
    records.retain(|_| {
        number += 1;
        number % 3 == 0
    });
    let content = Content::of(&records);
    let mut found = Vec::new();
    for _ in 0..9 {
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        restores(&made, &written, &content.bytes).await;
        found.push((amplification(&made, &written).await, written.report.new));
    }
    // The nights behind the first store anew so much of what is left that the rest can be read, and then there is nothing
    // to do. Segments are a third of this stream each: what is decoded goes down in steps.
    assert!(found[0].0 >= 250 && found[1].0 < found[0].0 && found[8].0 <= 200 && found[8].1 == 0, "{found:?}");
    assert!(found.iter().map(|night| night.1).sum::<u64>() < content.bytes.len() as u64, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_piece_cache_keeps_to_its_bound_and_to_what_was_committed() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    let content = Content::of(&documents(1, 2_000));
    let small = WriterOptions { piece_cache_bytes_max: 10_000, ..WriterOptions::default() };
    let kind = StreamKind::Dump;
    let (written, warnings) = write_with(&made, cache.path(), kind, &content, End::Committed, small).await.unwrap();
    assert!(written.is_some() && warnings.len() == 1 && warnings[0].contains(STREAM), "{warnings:?}");
    assert!(!piece_files(cache.path()).iter().any(|file| is_kept(file)));

    // A component that failed, and a run that remembers nothing.
    let (_, warnings) =
        write_with(&made, cache.path(), kind, &content, End::Lost, WriterOptions::default()).await.unwrap();
    let none = WriterOptions { piece_cache_bytes_max: 0, ..WriterOptions::default() };
    let _ = write_with(&made, cache.path(), kind, &content, End::Committed, none).await.unwrap();
    assert!(warnings.is_empty() && !piece_files(cache.path()).iter().any(|file| is_kept(file)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_lock_the_piece_cache_leaves_it_as_it_is() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    let content = Content::of(&documents(1, 2_000));
    let night = async || {
        let options = WriterOptions::default();
        write_with(&made, cache.path(), StreamKind::Dump, &content, End::Committed, options).await.unwrap()
    };
    night().await;
    let kept = piece_files(cache.path()).into_iter().find(|file| is_kept(file)).unwrap();
    let lock = kept.with_file_name("lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let (_, warnings) = night().await;
    assert!(warnings.len() == 1 && warnings[0].contains("there is no piece cache"), "{warnings:?}");
    assert!(kept.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_yesterday_leaves_nothing_complete_that_cannot_be_read() {
    let (made, cache) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
    let mut records = documents(4, 5_000);
    for night in 0..3_u64 {
        records[100] = noise(night, 333);
        let content = Content::of(&records);
        let _ = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    }
    // What the first night stored: tonight's edit is made of pages behind it, so the damage is met.
    let packs = made.open_writer().await.list(ObjectPrefix::Packs).await.unwrap();
    for (key, len) in packs.into_iter().filter(|(_, len)| *len > 20_000) {
        let mut bytes = made.backend.remove(key).unwrap().to_vec();
        // In the middle of what is sealed: found when it is opened, and not before.
        bytes[usize::try_from(len / 3).unwrap()] ^= 1;
        made.backend.replace(key, bytes.into());
    }
    records[101] = noise(77, 444);
    let content = Content::of(&records);
    let mut tried = Vec::new();
    for _ in 0..3 {
        let options = WriterOptions::default();
        let night = write_with(&made, cache.path(), StreamKind::Dump, &content, End::Committed, options).await;
        if let Ok((written, _)) = night {
            // Content cannot be read by a writer; that every page can is its promise.
            let _ = amplification(&made, &written.unwrap()).await;
            return;
        }
        tried.push(night.map(|_| ()));
    }
    panic!("the damage stops every night: {tried:?}");
}

/// A night on which nothing changes reads none of what it refers to: that some of it is damaged it knows from whoever found out,
/// be it an earlier run or something else in the same one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_referred_to_that_proved_damaged_in_this_run_or_an_earlier_one() {
    let content = Content::of(&documents(4, 2_000));
    for in_same_run in [false, true] {
        let (made, cache) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
        let night = async || write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        let written = night().await;
        assert_eq!(night().await.report.recipe, 0);
        // Recipes take less than what they are of.
        let packs = made.open_writer().await.list(ObjectPrefix::Packs).await.unwrap();
        let (key, len) = packs.into_iter().min_by_key(|(_, len)| *len).unwrap();
        let mut bytes = made.backend.remove(key).unwrap().to_vec();
        bytes[usize::try_from(len / 3).unwrap()] ^= 1;
        made.backend.replace(key, bytes.into());

        let repository = made.open_writer_at(cache.path()).await;
        repository.set_missing_packs_aside().await.unwrap();
        let reader = Reader::new(&repository).unwrap();
        let meet = async || reader.recipe_root(&written.record().unwrap().recipe).await.unwrap_err();
        if in_same_run {
            let mut writer = Writer::new(&repository, WriterOptions::default()).unwrap();
            let again = push(&mut writer, StreamKind::Dump, &content, End::Committed).await.unwrap().unwrap();
            assert_eq!(again.record(), written.record());
            meet().await;
            let Err(error) = writer.finish().await else { panic!("the run refers to what is damaged") };
            assert!(matches!(error, orkvault::repo::Error::Spoiled { .. }), "{error}");
        } else {
            meet().await;
        }
        let next = night().await;
        assert!(next.report.recipe > 0 && next.report.new == 0, "{:?}", next.report);
        restores(&made, &next, &content.bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_another_order_is_found_again() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    // More than the window holds, and none of it where it was: only anchors find it.
    let records = sized_documents(3, 140_000, 256, 64);
    let _ = write(&made, cache.path(), StreamKind::Dump, &Content::of(&records), End::Committed).await.unwrap();
    let mut moved: Vec<Vec<u8>> = records.chunks(7_001).rev().flatten().cloned().collect();
    for at in (0..moved.len()).step_by(50) {
        moved[at] = noise(at as u64, 200);
    }
    let content = Content::of(&moved);
    let second = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert!(second.report.new < second.len / 20, "{:?} of {}", second.report, second.len);
    restores(&made, &second, &content.bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_cache_that_is_no_use_costs_one_night_and_nothing_else() {
    let (made, other) = (repository::make().await, repository::make().await);
    let (cache, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut content = Content::of(&documents(1, 2_000));
    let _ = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    let _ = write(&other, foreign.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    let file = piece_files(cache.path()).into_iter().find(|file| is_kept(file)).unwrap();
    let good = std::fs::read(&file).unwrap();
    let of_other = std::fs::read(piece_files(foreign.path()).into_iter().find(|file| is_kept(file)).unwrap()).unwrap();
    content.bytes[500_000] ^= 1;
    let mut damaged: Vec<Vec<u8>> = vec![Vec::new(), good[..good.len() / 2].to_vec(), of_other];
    for at in (0..good.len()).step_by(good.len() / 40).chain(good.len() - 30..good.len()) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        damaged.push(flipped);
    }
    for bytes in damaged {
        std::fs::write(&file, bytes).unwrap();
        content.bytes[500_000] ^= 3;
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        restores(&made, &written, &content.bytes).await;
        assert_ne!(std::fs::read(&file).unwrap(), good);
    }
    // The last night left a good file, so this one costs what changed.
    content.bytes[500_000] ^= 3;
    let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert!(written.report.new < 5_000, "{:?}", written.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_the_repository_lost_are_not_referred_to() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    let mut content = Content::of(&documents(1, 3_000));
    let _ = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    let repository = made.open_writer().await;
    // With the index that lists them, and, since that was stored again, without it.
    for prefixes in [&[ObjectPrefix::Packs][..], &[ObjectPrefix::Indexes, ObjectPrefix::Packs]] {
        for prefix in prefixes {
            for (key, _) in repository.list(*prefix).await.unwrap() {
                made.backend.remove(key).unwrap();
            }
        }
        content.bytes[700_000] ^= 1;
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        assert_eq!(written.report.new, written.len, "everything is stored again");
        restores(&made, &written, &content.bytes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_at_once_and_runs_that_died_leave_one_good_piece_file() {
    let (made, cache) = (repository::make().await, tempfile::tempdir().unwrap());
    let mut content = Content::of(&documents(1, 2_000));
    let _ = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    content.bytes[9_000] ^= 1;
    let nights = (0..4).map(|_| write(&made, cache.path(), StreamKind::Dump, &content, End::Committed));
    for written in futures::future::join_all(nights).await {
        restores(&made, &written.unwrap(), &content.bytes).await;
    }
    std::fs::write(piece_files(cache.path())[0].with_file_name("died.new"), b"half a file").unwrap();
    for end in [End::Lost, End::Cut] {
        assert!(write(&made, cache.path(), StreamKind::Dump, &content, end).await.is_none());
    }
    let left = piece_files(cache.path()).into_iter().find(|file| is_kept(file)).unwrap();
    let last = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert_eq!(last.report.new, 0);
    let dead = left.with_file_name("died.new");
    assert!(!dead.exists(), "what a run left behind that died is removed");
    assert_eq!(piece_files(cache.path()).into_iter().filter(|file| is_kept(file)).collect::<Vec<_>>(), [left]);
}

#[derive(Debug, Clone)]
enum Edit {
    Insert { at: usize, count: u64 },
    Delete { at: usize, count: usize },
    Replace { every: usize },
    Move { from: usize, to: usize, count: usize },
    Duplicate { at: usize, count: usize },
    Truncate { keep: usize },
    Interleave { lanes: usize },
    AllNew,
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = 0_usize..1000;
    prop::strategy::Union::new_weighted(vec![
        (4, (place.clone(), 1_u64..40).prop_map(|(at, count)| Edit::Insert { at, count }).boxed()),
        (3, (place.clone(), 1_usize..60).prop_map(|(at, count)| Edit::Delete { at, count }).boxed()),
        (6, (5_usize..300).prop_map(|every| Edit::Replace { every }).boxed()),
        (
            2,
            (place.clone(), place.clone(), 1_usize..200)
                .prop_map(|(from, to, count)| Edit::Move { from, to, count })
                .boxed(),
        ),
        (1, (place.clone(), 1_usize..50).prop_map(|(at, count)| Edit::Duplicate { at, count }).boxed()),
        (1, (100_usize..1000).prop_map(|keep| Edit::Truncate { keep }).boxed()),
        (2, (2_usize..5).prop_map(|lanes| Edit::Interleave { lanes }).boxed()),
        (1, proptest::prelude::Just(Edit::AllNew).boxed()),
    ])
}

fn apply(edit: &Edit, records: &mut Vec<Vec<u8>>, seed: u64) {
    let place = |at: usize| at * records.len() / 1000;
    match *edit {
        Edit::Insert { at, count } => {
            let at = place(at);
            records.splice(at..at, documents(seed, count));
        }
        Edit::Delete { at, count } => {
            let at = place(at);
            let end = (at + count).min(records.len());
            records.drain(at..end);
        }
        Edit::Replace { every } => {
            for (number, record) in records.iter_mut().enumerate().step_by(every) {
                *record = noise(seed * 31 + number as u64, record.len().max(20));
            }
        }
        Edit::Move { from, to, count } => {
            let from = place(from);
            let end = (from + count).min(records.len());
            let moved: Vec<_> = records.drain(from..end).collect();
            let to = to * records.len() / 1000;
            records.splice(to..to, moved);
        }
        Edit::Duplicate { at, count } => {
            let at = place(at);
            let end = (at + count).min(records.len());
            let copy = records[at..end].to_vec();
            records.extend(copy);
        }
        Edit::Truncate { keep } => records.truncate(place(keep)),
        Edit::Interleave { lanes } => {
            let share = records.len().div_ceil(lanes).max(1);
            let mut parts: Vec<Vec<Vec<u8>>> =
                records.chunks(share).map(|lane| lane.chunks(40).map(<[Vec<u8>]>::concat).collect()).collect();
            let mut mixed = Vec::new();
            while parts.iter().any(|part| !part.is_empty()) {
                for part in &mut parts {
                    if !part.is_empty() {
                        mixed.push(part.remove(0));
                    }
                }
            }
            *records = mixed;
        }
        Edit::AllNew => *records = documents(seed, 300),
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Damaged(usize),
    Stale,
    Foreign,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop::strategy::Union::new_weighted(vec![
        (8, proptest::prelude::Just(Fate::Kept).boxed()),
        (1, proptest::prelude::Just(Fate::Lost).boxed()),
        (1, any::<usize>().prop_map(Fate::Damaged).boxed()),
        (1, proptest::prelude::Just(Fate::Stale).boxed()),
        (1, proptest::prelude::Just(Fate::Foreign).boxed()),
    ])
}

fn end() -> impl Strategy<Value = End> {
    prop::sample::select(vec![End::Committed, End::Committed, End::Committed, End::Committed, End::Lost, End::Cut])
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 8, ..Default::default() })]

    /// Two dozen nights under random edits, with the cache lost, damaged or stale, and crashes in between: every
    /// committed night restores as a list of byte strings, which knows no extents, has it.
    #[test]
    fn dozens_of_nights_under_random_edits_come_back_as_they_were(
        seed in 1_u64..1_000_000,
        nights in prop::collection::vec((prop::collection::vec(edit(), 0..3), fate(), end()), 12..30),
        has_records in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (made, cache) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
            let mut records = documents(seed, 400);
            let mut kept = Vec::new();
            let mut old = None;
            let (other, others) = (repository::make_with(small_chunks()).await, tempfile::tempdir().unwrap());
            let first = Content::of(&records);
            let _ = write(&other, others.path(), StreamKind::Dump, &first, End::Committed).await;
            let foreign = std::fs::read(piece_files(others.path()).into_iter().find(|file| is_kept(file)).unwrap()).unwrap();
            for (number, (edits, fate, end)) in nights.iter().enumerate() {
                for (place, edit) in edits.iter().enumerate() {
                    apply(edit, &mut records, seed + (number * 10 + place) as u64);
                }
                let mut content = Content::of(&records);
                if has_records {
                    content.blocks = content.records.iter().copied().step_by(97).collect();
                } else {
                    content.records.clear();
                }
                // What a night left that was cut short is its own to remove.
                for file in piece_files(cache.path()).into_iter().filter(|file| is_kept(file)) {
                    match fate {
                        Fate::Kept => old = Some(std::fs::read(&file).unwrap()),
                        Fate::Lost => std::fs::remove_file(&file).unwrap(),
                        Fate::Damaged(at) => {
                            let mut bytes = std::fs::read(&file).unwrap();
                            let at = at % bytes.len();
                            bytes[at] ^= 4;
                            std::fs::write(&file, bytes).unwrap();
                        }
                        Fate::Foreign => std::fs::write(&file, &foreign).unwrap(),
                        Fate::Stale => drop(old.as_ref().map(|bytes| std::fs::write(&file, bytes).unwrap())),
                    }
                }
                if let Some(written) = write(&made, cache.path(), StreamKind::Dump, &content, *end).await {
                    kept.push((written, content.bytes));
                }
            }
            for (written, content) in kept {
                restores(&made, &written, &content).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_night_that_remembers_cuts_where_one_that_does_not_would() {
    let made = repository::make_with(small_chunks()).await;
    let (cache, lost) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut records = documents(5, 3_000);
    let first = write(&made, cache.path(), StreamKind::Dump, &Content::of(&records), End::Committed).await.unwrap();
    // Inserted at the front and in the middle, changed, and appended behind where the stream ended.
    records.insert(1_500, noise(1, 400));
    records.insert(0, noise(2, 400));
    records[700] = noise(3, 400);
    records.extend(documents(6, 20));
    let content = Content::of(&records);
    let second = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    assert!(second.report.whole > first.len * 9 / 10, "{:?}", second.report);
    let third = write(&made, lost.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
    // The chunks around four places, and what was appended.
    assert!(third.report.new < 4 * 2 * 8192 + 20 * 1_000, "{:?}", third.report);
    for written in [&second, &third] {
        restores(&made, written, &content.bytes).await;
    }
}

/// Large chunks, and as large as a repository may have them: what is new of two together is more than a chunk.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_of_the_largest_chunks_is_no_chunk_that_is_too_large() {
    let sizes = ChunkSizes { min: 1 << 20, average: 4 << 20, max: 8 << 20, whole_below: 0 };
    let mut options = repository::cheap_options();
    options.chunk_sizes[0] = sizes;
    options.chunk_sizes[1] = sizes;
    let (made, cache) = (repository::make_with(options).await, tempfile::tempdir().unwrap());
    let mut records = sized_documents(11, 1_500, 8_000, 16_000);
    for night in 0..2_u64 {
        // Three of four documents of every second night are new: less than a quarter is found again nowhere.
        for at in (0..records.len()).filter(|at| night > 0 && at % 4 < 3) {
            records[at] = noise(night * 10_000 + at as u64, records[at].len());
        }
        let content = Content::of(&records);
        let written = write(&made, cache.path(), StreamKind::Dump, &content, End::Committed).await.unwrap();
        restores(&made, &written, &content.bytes).await;
    }
}
