//! The index as a whole: what was added is found, what was not is not, with and without the filter.

use std::path::Path;

use super::cache::IndexCache;
use super::{Error, Index, MISSES_UNTIL_FILTER, test_segments};
use crate::format::id::{ChunkId, IndexId, PackId, RepositoryId};
use crate::format::index::{IndexPart, PackRecord};
use crate::format::pack::{ChunkRecord, Directory, PackKind};

pub(super) fn chunk(number: u64) -> ChunkId {
    ChunkId::from_bytes(*crate::crypto::hash::content_hash(&number.to_le_bytes()).as_bytes())
}

/// A part of one pack with chunks of 100 bytes, 256 to a segment.
fn part(name: u8, chunks: impl IntoIterator<Item = ChunkId>) -> (IndexId, IndexPart) {
    let chunks: Vec<ChunkRecord> = chunks.into_iter().map(|id| ChunkRecord { id, len: 100 }).collect();
    let segments = chunks.chunks(256).map(|chunks| test_segments::record(50, chunks.to_vec())).collect();
    let id = PackId::from_bytes([name; 32]);
    let directory = Directory { segments };
    let pack = PackRecord { id, kind: PackKind::Content, stored_len: 1 << 25, header_len: 10, directory };
    (IndexId::from_bytes([name; 32]), IndexPart { packs: vec![pack] })
}

fn index(directory: Option<&Path>) -> Index {
    Index::new(IndexCache::open(directory, &RepositoryId::from_bytes([9; 32]), "here").unwrap())
}

/// Looks for so many unknown chunks that the filter is loaded.
fn load_filter(index: &Index) {
    for number in 0..u64::from(MISSES_UNTIL_FILTER) {
        assert!(index.find(&chunk(1 << 40 | number)).unwrap().is_none());
    }
    assert!(index.lock().filter.is_some());
}

fn found(index: &Index, numbers: impl Iterator<Item = u64>) -> usize {
    numbers.filter(|number| index.find(&chunk(*number)).unwrap().is_some()).count()
}

#[test]
fn what_is_added_after_the_filter_was_loaded_is_found() {
    let index = index(None);
    load_filter(&index);
    for turn in 0..8_u8 {
        let from = u64::from(turn) * 1000;
        assert_eq!(found(&index, from..from + 1000), 0);
        let (id, part) = part(turn, (from..from + 1000).map(chunk));
        index.add_part(&id, &part).unwrap();
        assert_eq!(found(&index, 0..from + 1000), usize::from(turn + 1) * 1000);
    }
}

#[test]
fn a_stored_filter_knows_every_chunk_and_a_damaged_one_is_made_anew() {
    const MANY: u64 = 300_000;
    let directory = tempfile::tempdir().unwrap();
    let first = index(Some(directory.path()));
    let (id, large) = part(1, (0..MANY).map(chunk));
    first.stage_part(&id, &large).unwrap();
    first.settle().unwrap();
    // Fewer than make it worth storing again.
    let (id, small) = part(2, (MANY..MANY + 500).map(chunk));
    first.stage_part(&id, &small).unwrap();
    first.settle().unwrap();
    drop(first);
    let sample = || (0..MANY).step_by(997).chain(MANY..MANY + 500);
    let wanted = sample().count();
    let again = index(Some(directory.path()));
    load_filter(&again);
    assert_eq!(found(&again, sample()), wanted);
    drop(again);
    let damaged = index(Some(directory.path()));
    damaged.lock().cache.damage_filter();
    load_filter(&damaged);
    assert_eq!(found(&damaged, sample()), wanted);
}

#[test]
fn damage_is_remembered_for_those_who_ask_until_its_pack_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = index(Some(directory.path()));
    let parts = [part(1, (0..300).map(chunk)), part(2, (300..600).map(chunk))];
    for (id, part) in &parts {
        first.add_part(id, part).unwrap();
    }
    for number in [0, 300] {
        first.set_aside(&first.find(&chunk(number)).unwrap().unwrap().segment, &Error::StreamDamaged);
    }
    // Of each the first segment, which has 256.
    assert_eq!(found(&first, 0..600), 2 * (300 - 256));
    drop(first);
    let reader = index(Some(directory.path()));
    assert_eq!(found(&reader, 0..600), 600);
    drop(reader);
    let writer = index(Some(directory.path()));
    writer.set_known_damage_aside().unwrap();
    assert_eq!((found(&writer, 0..600), writer.damaged().unwrap().len()), (2 * (300 - 256), 2));
    writer.remove_parts(&[parts[0].0]).unwrap();
    drop(writer);
    let next = index(Some(directory.path()));
    next.set_known_damage_aside().unwrap();
    assert_eq!((found(&next, 0..600), next.damaged().unwrap().len()), (300 - 256, 1));
}

#[test]
fn chunks_whose_ids_start_alike_are_told_apart() {
    let alike = |last: u8| {
        let mut bytes = *chunk(1).as_bytes();
        bytes[31] = last;
        ChunkId::from_bytes(bytes)
    };
    let index = index(None);
    for name in [1, 2] {
        let (id, part) = part(name, [alike(name), chunk(100 + u64::from(name))]);
        index.add_part(&id, &part).unwrap();
    }
    for name in [1, 2] {
        assert_eq!(index.find(&alike(name)).unwrap().unwrap().segment.pack, PackId::from_bytes([name; 32]));
    }
    assert!(index.find(&alike(3)).unwrap().is_none());
}

#[test]
fn what_only_a_removed_part_lists_is_gone() {
    let index = index(None);
    let parts = [part(1, (0..600).map(chunk)), part(2, (300..900).map(chunk))];
    for (id, part) in &parts {
        index.add_part(id, part).unwrap();
    }
    load_filter(&index);
    assert_eq!(found(&index, 0..900), 900);
    index.remove_parts(&[parts[0].0]).unwrap();
    assert_eq!((found(&index, 0..300), found(&index, 300..900)), (0, 600));
    index.add_part(&parts[0].0, &parts[0].1).unwrap();
    assert_eq!(found(&index, 0..900), 900);
}
