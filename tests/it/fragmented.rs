//! A stream that lies scattered over the segments of many nights is read by segment.

use std::sync::Arc;

use bytes::Bytes;
use orkvault::backend::{Counted, ErrorKind, Fault, FaultBackend};
use orkvault::crypto::hash::content_hash;
use orkvault::format::config::StreamKind;
use orkvault::format::entry::EntryContent;
use orkvault::format::object::ObjectKey;
use orkvault::format::recipe::Extent;
use orkvault::repo::{Access, Error, Marks, Reader, Repository, StreamWritten, ToVerify, Writer, WriterOptions};

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

/// More of the later nights is wanted than is held at a time: no further is planned than can be held, and what is planned is taken
/// out of a segment at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_scattered_over_more_than_can_be_held_opens_a_segment_a_few_times() {
    let made = repository::make().await;
    let mut all = nights(&made, 1, 50 * MIB).await;
    all.extend(nights(&made, 32, 2 * MIB - 300_000).await);
    let (step, little) = (9_000, 9_000);
    let (mut bytes, mut extents) = (Vec::new(), Vec::new());
    let (base, later) = all.split_first().unwrap();
    for (turn, from) in (0..base.content.len() - step).step_by(step).enumerate() {
        let (other, at) = (&later[turn % later.len()], turn / later.len() * little);
        for (night, from, len) in [(base, from, step), (other, at, little)] {
            bytes.extend_from_slice(&night.content[from..from + len]);
            extents.extend(night.range(from, len));
        }
    }
    assert!(bytes.len() > 95 * MIB && extents.len() > 11_000);
    let content = EntryContent::Extents { hash: content_hash(&bytes), extents };

    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let before = counting.operations();
    let found = read_all(Reader::new(&repository).unwrap().open_entry(&content, bytes.len() as u64)).await.unwrap();
    assert!(found == bytes);
    let operations = counting.operations() - before;
    assert!(operations <= 400, "{operations} operations");
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
    let verdicts = reader.verify_together(streams, |len| passed += len).await.unwrap();
    let said: Vec<String> =
        verdicts.iter().map(|verdict| verdict.as_ref().err().map(ToString::to_string).unwrap_or_default()).collect();
    let other = "the stream put together does not have the content that its recipe stands for";
    assert_eq!((said[0].as_str(), said[1].as_str(), said[3].as_str()), ("", other, ""));
    assert!(said[2].starts_with("chunk 0707"), "{}", said[2]);
    assert!(passed < wanted && passed > wanted / 2, "{passed} of {wanted}");
}

/// A dump may come to its collections in another order every night. What streams want of a segment is taken out together,
/// however long after one another they come to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_streams_come_to_long_after_one_another_is_opened_once() {
    let made = repository::make().await;
    let nights = nights(&made, 1, 56 * MIB).await;
    let night = &nights[0];
    let len = night.content.len();
    let turned = [0, len / 2 + 131_000, len / 5 + 77, len - 5 * MIB].map(|from| {
        let bytes = [&night.content[from..], &night.content[..from]].concat();
        let extents = [night.range(from, len - from), night.range(0, from)].concat();
        ToVerify { len: len as u64, content: EntryContent::Extents { hash: content_hash(&bytes), extents } }
    });
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let mut operations = Vec::new();
    for streams in [turned[..1].to_vec(), turned.to_vec()] {
        let before = counting.operations();
        let verdicts = Reader::new(&repository).unwrap().verify_together(streams, |_| ()).await.unwrap();
        assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
        operations.push(counting.operations() - before);
    }
    let [alone, together] = operations[..] else { panic!("two") };
    assert!(alone >= 25 && together <= alone + alone / 20, "{together} operations instead of {alone}");
}

/// Nights that changed a little everywhere lie in many small pieces of many packs: a segment is opened once for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn nights_in_many_small_pieces_are_verified_segment_by_segment() {
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

    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let repository = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let before = counting.operations();
    let verdicts = Reader::new(&repository).unwrap().verify_together(streams, |_| ()).await.unwrap();
    assert!(verdicts.iter().all(Result::is_ok), "{verdicts:?}");
    let operations = counting.operations() - before;
    // The header and the segment of each later night, and the first one's in requests of 2 MiB.
    assert!(operations <= 2 * 20 + 20, "{operations} operations");
}

/// A segment that is damaged is no loss where another pack has its chunks, too. Otherwise it spoils what needs it, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_spoils_the_streams_that_nothing_else_makes_whole_and_no_others() {
    let made = repository::make().await;
    let unaware = made.open_writer().await;
    let nights = nights(&made, 3, 2 * MIB).await;
    let packs = || made.backend.objects().into_iter().filter(|(_, bytes)| bytes.len() > MIB).map(|(key, _)| key);
    let before: Vec<_> = packs().collect();
    store(&unaware, &nights[1].content).await;
    let again: Vec<_> = packs().filter(|key| !before.contains(key)).collect();
    assert_eq!((before.len(), again.len()), (3, 1));

    let streams = [0..1, 1..2, 2..3, 0..2].map(|range| {
        let bytes = nights[range.clone()].iter().flat_map(|night| night.content.clone()).collect::<Vec<u8>>();
        let extents = nights[range].iter().flat_map(|night| night.extents.clone()).collect();
        ToVerify { len: bytes.len() as u64, content: EntryContent::Extents { hash: content_hash(&bytes), extents } }
    });
    let verified = async || {
        let reader = Reader::new(&made.open_reader().await).unwrap();
        let verdicts = reader.verify_together(streams.to_vec(), |_| ()).await.unwrap();
        verdicts.iter().map(Result::is_ok).collect::<Vec<_>>()
    };
    let damage = |key: &ObjectKey| {
        let mut bytes = made.backend.remove(*key).unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        made.backend.replace(*key, bytes.into());
    };
    let mut found = Vec::new();
    for key in before.iter().chain(&again) {
        damage(key);
        found.push(verified().await);
    }
    // One of the three of the first round can be read all the same; which, is told by the order of their names.
    for (damaged, found) in found.iter().enumerate() {
        let whole = found[..3].iter().filter(|is_whole| **is_whole).count();
        let wanted = [2..=3, 1..=2, 1..=1, 0..=0];
        assert!(wanted[damaged].contains(&whole) && found[3] == (found[0] && found[1]), "{damaged}: {found:?}");
    }
    assert!(found[2][1], "the second night is there twice");
}

/// What lies beside a damaged segment may be nowhere else: it is read, whatever was read before.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_takes_nothing_else_of_its_pack_with_it() {
    let made = repository::make().await;
    let nights = nights(&made, 1, 6 * MIB).await;
    let night = &nights[0];
    let (pack, bytes) = made.backend.objects().into_iter().find(|(_, bytes)| bytes.len() > 6 * MIB).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[3 * MIB] ^= 1;
    made.backend.remove(pack).unwrap();
    made.backend.replace(pack, bytes.into());

    let reader = Reader::new(&made.open_reader().await).unwrap();
    let mut found = Vec::new();
    for (from, len) in [(2 * MIB, 2 * MIB), (0, MIB / 2), (5 * MIB + MIB / 2, MIB / 2)] {
        let bytes = &night.content[from..from + len];
        let content = EntryContent::Extents { hash: content_hash(bytes), extents: night.range(from, len) };
        let read = read_all(reader.open_entry(&content, len as u64)).await;
        let verdicts = reader.verify_together(vec![ToVerify { content, len: len as u64 }], |_| ()).await.unwrap();
        found.push((read.is_ok_and(|read| read == bytes), verdicts[0].is_ok()));
    }
    assert_eq!(found, [(false, false), (true, true), (true, true)]);
}

/// Every attempt takes a quarter of an hour until a store is given up: it is not made for every stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_ends_the_verification_at_once() {
    let made = repository::make().await;
    let nights = nights(&made, 1, 4 * MIB).await;
    let (bytes, extents) = (nights[0].content.len(), &nights[0].extents);
    let streams = extents.iter().enumerate().map(|(number, extent)| {
        let from: usize = extents[..number].iter().map(|extent| extent.len as usize).sum();
        let hash = content_hash(&nights[0].content[from..from + extent.len as usize]);
        let content = EntryContent::Extents { hash, extents: vec![*extent] };
        ToVerify { len: extent.len.into(), content }
    });
    let streams: Vec<ToVerify> = streams.collect();
    assert!(streams.len() > 60 && bytes == 4 * MIB);
    let access = || vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    made.open_on(Arc::clone(&counting) as Arc<_>, access()).await;
    let opened = counting.operations();
    for at in 1..=4 {
        let gone = FaultBackend::new(made.backend.clone(), Counted::All, opened + at, Fault::Unreachable);
        let gone = Arc::new(gone);
        let repository = made.open_on(Arc::clone(&gone) as Arc<_>, access()).await;
        let outcome = Reader::new(&repository).unwrap().verify_together(streams.clone(), |_| ()).await;
        let Err(Error::Backend(error)) = outcome else { panic!("{at}: {outcome:?}") };
        assert_eq!(error.kind(), ErrorKind::Transient);
        // Two requests of 2 MiB each and the header of the pack.
        let operations = gone.operations() - opened;
        assert!(operations <= 6, "{at}: {operations} operations");
        // The same of what is read together.
        let gone = Arc::new(FaultBackend::new(made.backend.clone(), Counted::All, opened + at, Fault::Unreachable));
        let repository = made.open_on(Arc::clone(&gone) as Arc<_>, access()).await;
        let outcome = Reader::new(&repository).unwrap().read_together(&streams).await;
        let Err((_, Error::Backend(error))) = outcome else { panic!("{at}: {outcome:?}") };
        assert_eq!(error.kind(), ErrorKind::Transient);
        let operations = gone.operations() - opened;
        assert!(operations <= 6, "{at}: {operations} operations");
    }
}
