//! A stream that lies scattered over the segments of many nights is read by segment.

use std::sync::Arc;

use bytes::Bytes;
use orkvault::backend::{Counted, FaultBackend};
use orkvault::crypto::hash::content_hash;
use orkvault::format::config::StreamKind;
use orkvault::format::entry::EntryContent;
use orkvault::format::recipe::Extent;
use orkvault::repo::{Access, Marks, Reader, Repository, StreamWritten, ToVerify, Writer, WriterOptions};

use crate::support::repository::{self, Made, noise, read_all};

const MIB: usize = 1024 * 1024;

/// A stream that was written, and the extents that it is made of.
struct Night {
    content: Vec<u8>,
    extents: Vec<Extent>,
}

impl Night {
    /// Returns the extents of `len` bytes from `from`.
    fn range(&self, from: usize, len: usize) -> Vec<Extent> {
        let mut at = 0;
        let mut found = Vec::new();
        for extent in &self.extents {
            let (start, end) = (at, at + extent.len as usize);
            at = end;
            let (first, last) = (start.max(from), end.min(from + len));
            if first < last {
                let offset = extent.offset + u32::try_from(first - start).unwrap();
                found.push(Extent { offset, len: u32::try_from(last - first).unwrap(), ..*extent });
            }
        }
        found
    }
}

async fn store(repository: &Repository, bytes: &[u8]) -> StreamWritten {
    let mut writer = Writer::new(repository, WriterOptions::default()).unwrap();
    let stream = writer.begin(StreamKind::Dump).await.unwrap();
    for run in bytes.chunks(MIB) {
        writer.push(&stream, Bytes::copy_from_slice(run), Marks::default()).await.unwrap();
    }
    let written = writer.end(stream, 0).await.unwrap();
    writer.finish().await.unwrap();
    written
}

/// Stores `count` streams of `len` bytes, each in a run and so in a pack of its own.
async fn nights(made: &Made, count: usize, len: usize) -> Vec<Night> {
    let repository = made.open_writer().await;
    let reader = Reader::new(&repository).unwrap();
    let mut nights = Vec::new();
    for number in 0..count {
        let content = noise(number as u64, len);
        let written = store(&repository, &content).await;
        let mut extents = Vec::new();
        for page in reader.recipe_root(&written.record().unwrap().recipe).await.unwrap().pages {
            extents.extend(reader.recipe_page(&page.chunk, page.stream_len).await.unwrap().extents());
        }
        nights.push(Night { content, extents });
    }
    nights
}

/// Goes through the first night in steps; between two of them comes a little of one of the later nights, each in turn.
fn scattered(nights: &[Night], step: usize, little: usize) -> (Vec<u8>, Vec<Extent>) {
    let (base, later) = nights.split_first().unwrap();
    let (mut bytes, mut extents) = (Vec::new(), Vec::new());
    for (turn, from) in (0..base.content.len()).step_by(step).enumerate() {
        let other = &later[turn % later.len()];
        let at = (turn / later.len() * 5 + 1) * little % (other.content.len() - little);
        for (night, from, len) in [(base, from, step.min(base.content.len() - from)), (other, at, little)] {
            bytes.extend_from_slice(&night.content[from..from + len]);
            extents.extend(night.range(from, len));
        }
    }
    (bytes, extents)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_a_scattered_stream_comes_back_to_is_read_once() {
    let made = repository::make().await;
    // More later nights than decoded segments are kept.
    let nights = nights(&made, 41, MIB - 100_000).await;
    let (mut bytes, mut extents) = (Vec::new(), Vec::new());
    // Every night is come back to twelve times.
    for _ in 0..4 {
        let (more, ranges) = scattered(&nights, 8_000, 700);
        bytes.extend(more);
        extents.extend(ranges);
    }
    let content = EntryContent::Extents { hash: content_hash(&bytes), extents };

    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let before = counting.operations();
    let reader = Reader::new(&repository).unwrap();
    let found = read_all(reader.open_entry(&content, bytes.len() as u64)).await.unwrap();
    assert!(found == bytes);
    // The header and the segment of each pack, and a few more of the first night's, which is gone through four times.
    let operations = counting.operations() - before;
    assert!(operations <= 2 * 41 + 8, "{operations} operations");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_share_segments_are_verified_side_by_side_and_each_for_itself() {
    let made = repository::make().await;
    let nights = nights(&made, 5, 3 * MIB).await;
    let mut streams = Vec::new();
    for count in 2..=5 {
        let (bytes, extents) = scattered(&nights[..count], 20_000, 900);
        streams.push(ToVerify {
            len: bytes.len() as u64,
            content: EntryContent::Extents { hash: content_hash(&bytes), extents },
        });
    }
    // One says of itself that it is another, one wants a chunk that is nowhere.
    if let EntryContent::Extents { hash, .. } = &mut streams[1].content {
        *hash = content_hash(b"another");
    }
    if let EntryContent::Extents { extents, .. } = &mut streams[2].content {
        let place = extents.len() / 2;
        extents[place].chunk = orkvault::format::id::ChunkId::from_bytes([7; 32]);
    }
    let reader = Reader::new(&made.open_reader().await).unwrap();
    let mut passed = 0;
    let wanted: u64 = streams.iter().map(|stream| stream.len).sum();
    let verdicts = reader.verify_together(streams, |len| passed += len).await;
    let said: Vec<String> =
        verdicts.iter().map(|verdict| verdict.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let other = "the stream put together does not have the content that its recipe stands for";
    assert_eq!((said[0].as_str(), said[1].as_str(), said[3].as_str()), ("", other, ""));
    assert!(said[2].starts_with("chunk 0707"), "{}", said[2]);
    assert!(passed < wanted && passed > wanted / 2, "{passed} of {wanted}");
}

/// A dump may come to its collections in another order every night. What one stream wants of a segment and what another
/// wants of it much later are taken out together, because only what their hashes need of it is held.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_streams_come_to_long_after_one_another_is_opened_once() {
    let made = repository::make().await;
    let nights = nights(&made, 1, 56 * MIB).await;
    let night = &nights[0];
    let (half, len) = (night.content.len() / 2 + 12_345, night.content.len());
    let there = (night.content.clone(), night.range(0, len));
    let back = (
        [&night.content[half..], &night.content[..half]].concat(),
        [night.range(half, len - half), night.range(0, half)].concat(),
    );
    let [there, back] = [there, back].map(|(bytes, extents)| ToVerify {
        len: bytes.len() as u64,
        content: EntryContent::Extents { hash: content_hash(&bytes), extents },
    });
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let mut operations = Vec::new();
    for streams in [vec![there.clone()], vec![there, back]] {
        let before = counting.operations();
        let verdicts = Reader::new(&repository).unwrap().verify_together(streams, |_| ()).await;
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
        operations.push(counting.operations() - before);
    }
    let [alone, together] = operations[..] else { panic!("two") };
    assert!(alone >= 25 && together <= alone + alone / 20, "{together} operations instead of {alone}");
}

/// Nights that changed a little everywhere lie in more pieces than hashes can be held of: as far as they are planned, a
/// segment serves all of them.
#[tokio::test(flavor = "multi_thread")]
async fn nights_in_many_small_pieces_are_verified_a_stretch_at_a_time_and_not_piece_by_piece() {
    let made = repository::make().await;
    let base = nights(&made, 1, 20 * MIB).await;
    let later = nights(&made, 20, 200_000).await;
    let all: Vec<Night> = base.into_iter().chain(later).collect();
    let streams = (0..6).map(|number| {
        let (bytes, extents) = scattered(&all, 2_500 + number, 400);
        let content = EntryContent::Extents { hash: content_hash(&bytes), extents };
        ToVerify { len: bytes.len() as u64, content }
    });
    let streams: Vec<ToVerify> = streams.collect();
    let stretches = streams.iter().map(|stream| stream.len).sum::<u64>() / (32 * MIB as u64);
    assert!(stretches >= 3);

    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let before = counting.operations();
    let verdicts = Reader::new(&repository).unwrap().verify_together(streams, |_| ()).await;
    assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    let operations = counting.operations() - before;
    assert!(operations <= 100 * stretches, "{operations} operations");
}
