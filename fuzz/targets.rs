//! The bodies of the fuzz targets: any bytes go in, nothing may panic, and what decodes must encode to the
//! same bytes (`docs/FORMAT.md`, section 4).
//!
//! One list for two users: the fuzzer (`fuzz_targets/`) and, on every `cargo test`, the replay of the seeds
//! (`tests/it/fuzz_replay.rs`).

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use orkvault::chunker::{Cutter, Ends, Sizes};
use orkvault::component::docker::BoxError;
use orkvault::component::docker::tar_reader::{TarEntry, TarReader};
use orkvault::component::dotenv::Dotenv;
use orkvault::component::mongodb;
use orkvault::component::mongodb::archive::{EmptyArchive, Framer, PUSH_LEN_MAX};
use orkvault::component::redis::aof;
use orkvault::component::redis::journal::Record;
use orkvault::component::redis::rdb::Checker;
use orkvault::component::redis::resp::Connection;
use orkvault::crypto::writer_key::WriterKey;
use orkvault::format::bundle;
use orkvault::format::config::Config;
use orkvault::format::cursor::{Cursor, push_bytes};
use orkvault::format::entry::{EntryContent, EntryRow, EntryRowSplitter};
use orkvault::format::envelope::{Envelope, Payload};
use orkvault::format::id::ChunkId;
use orkvault::format::index::IndexPart;
use orkvault::format::limits;
use orkvault::format::manifest::{self, CatalogueLine, Manifest, SecretsManifest};
use orkvault::format::object::ObjectKey;
use orkvault::format::pack::{Directory, KeyEntry, PackHeader};
use orkvault::format::recipe::{PageExpansion, RecipePage, RecipeRoot};
use orkvault::format::slot::Slot;
use tokio::io::AsyncReadExt as _;

/// Takes any bytes; returns whether they were accepted as something.
pub type Target = fn(&[u8]) -> bool;

/// Every target: its name, which is also that of its seeds' directory, and its body.
pub const TARGETS: &[(&str, Target)] = &[
    ("aof_manifest", aof_manifest),
    ("archive", archive),
    ("bundle", bundle),
    ("catalogue", catalogue),
    ("chunker", chunker),
    ("config", config),
    ("directory", directory),
    ("dotenv", dotenv),
    ("entry_row", entry_row),
    ("entry_table", entry_table),
    ("envelope", envelope),
    ("index_part", index_part),
    ("journal", journal),
    ("manifest", manifest),
    ("object_key", object_key),
    ("pack_header", pack_header),
    ("payload", payload),
    ("rdb", rdb),
    ("recipe_expansion", recipe_expansion),
    ("recipe_page", recipe_page),
    ("recipe_root", recipe_root),
    ("resp", resp),
    ("secrets_manifest", secrets_manifest),
    ("slot", slot),
    ("tar", tar),
    ("writer_key", writer_key),
];

pub fn config(data: &[u8]) -> bool {
    let Ok((config, macs, checksum)) = Config::decode(data) else { return false };
    assert_eq!([config.encode_with_macs(&macs), checksum.to_vec()].concat(), data);
    for sizes in config.chunk_sizes {
        sizes.check().expect("a config that was read has sizes that can be used");
    }
    true
}

pub fn slot(data: &[u8]) -> bool {
    let Ok((slot, checksum)) = Slot::decode(data) else { return false };
    assert_eq!([slot.encode(), checksum.to_vec()].concat(), data);
    true
}

pub fn envelope(data: &[u8]) -> bool {
    let Ok((envelope, checksum)) = Envelope::decode(data, KeyEntry::PUBLIC_LEN) else { return false };
    assert_eq!([envelope.encode(), checksum.to_vec()].concat(), data);
    let mut cursor = Cursor::new("key entry", envelope.key_entry);
    if let Ok(entry) = KeyEntry::take(&mut cursor) {
        let mut encoded = Vec::new();
        entry.encode(&mut encoded);
        assert_eq!([&encoded, cursor.rest()].concat(), envelope.key_entry);
    }
    true
}

pub fn payload(data: &[u8]) -> bool {
    let Ok(payload) = Payload::decode(data, limits::INDEX_BYTES_MAX) else { return false };
    assert_eq!(payload.encode(), data);
    true
}

pub fn pack_header(data: &[u8]) -> bool {
    let Ok((header, len)) = PackHeader::decode(data) else { return false };
    assert_eq!(header.encode(), &data[..len]);
    assert!(len <= PackHeader::len_max() && !header.keys.is_empty());
    true
}

pub fn directory(data: &[u8]) -> bool {
    let mut cursor = Cursor::new("directory", data);
    if let Ok(directory) = Directory::take(&mut cursor) {
        let mut encoded = Vec::new();
        directory.encode(&mut encoded);
        assert_eq!([&encoded, cursor.rest()].concat(), data);
        assert_eq!(Directory::decode_padded(&directory.encode_padded()), Ok(directory));
    }
    let Ok(directory) = Directory::decode_padded(data) else { return false };
    let mut encoded = Vec::new();
    directory.encode(&mut encoded);
    let mut framed = Vec::new();
    push_bytes(&mut framed, &encoded);
    // How many zeros follow is the writer's choice.
    assert!(framed.len() <= data.len());
    framed.resize(data.len(), 0);
    assert_eq!(framed, data);
    true
}

pub fn index_part(data: &[u8]) -> bool {
    let Ok(part) = IndexPart::decode(data) else { return false };
    assert_eq!(part.encode(), data);
    for pack in &part.packs {
        assert!(u64::from(pack.header_len) + pack.directory.segments_len() <= u64::from(pack.stored_len));
    }
    true
}

pub fn recipe_page(data: &[u8]) -> bool {
    let Ok(page) = RecipePage::decode(data) else { return false };
    assert_eq!(page.encode(), data);
    assert!(page.stream_len() > 0);
    assert_eq!(RecipePage::new(page.extents()).as_ref(), Ok(&page));
    for extent in page.extents() {
        extent.check().expect("a page that was read has extents within their chunks");
    }
    true
}

/// Pages one behind the other, each with its length in front; the first is expanded, and the first byte of a
/// parent's id picks the page that a hostile store would give.
pub fn recipe_expansion(data: &[u8]) -> bool {
    let mut cursor = Cursor::new("pages", data);
    let mut pages = Vec::new();
    while let Ok(page) = cursor.bytes("page", 1 << 20) {
        pages.push(page);
    }
    let mut expansion = PageExpansion::new(ChunkId::from_bytes([0; 32]));
    for _ in 0..=limits::EXPANSION_PAGES_MAX {
        let Some(wanted) = expansion.wanted().into_iter().min() else {
            let found = expansion.finish(|_, page| {
                assert!(u64::from(page.depth) <= limits::RECIPE_DEPTH_MAX);
                assert_eq!(RecipePage::decode(&page.page.encode()).as_ref(), Ok(&*page.page));
            });
            return found.is_ok_and(|found| RecipePage::decode(&found.page.encode()).as_ref() == Ok(&*found.page));
        };
        let Some(page) = pages.get(usize::from(wanted.as_bytes()[0]) % pages.len().max(1)) else { return false };
        if expansion.push(wanted, page).is_err() {
            return false;
        }
    }
    panic!("an expansion of more than {} pages", limits::EXPANSION_PAGES_MAX);
}

pub fn recipe_root(data: &[u8]) -> bool {
    let Ok(root) = RecipeRoot::decode(data) else { return false };
    assert_eq!(root.encode(), data);
    assert!(root.stream_len() <= limits::STREAM_BYTES_MAX);
    true
}

pub fn entry_row(data: &[u8]) -> bool {
    if let Ok(content) = EntryContent::decode(data) {
        let mut encoded = Vec::new();
        content.encode(&mut encoded);
        assert_eq!(encoded, data);
    }
    let Ok(row) = EntryRow::decode(data) else { return false };
    let (mut encoded, mut framed) = (Vec::new(), Vec::new());
    row.encode(&mut encoded);
    push_bytes(&mut framed, data);
    assert_eq!(encoded, framed);
    true
}

pub fn entry_table(data: &[u8]) -> bool {
    // Whole and in small pieces: the same rows, and the same end.
    let read = |size: usize| {
        let mut splitter = EntryRowSplitter::default();
        let mut rows = Vec::new();
        for piece in data.chunks(size) {
            splitter.push(piece);
            while let Some(row) = splitter.next_row()? {
                rows.push(row);
            }
        }
        splitter.end().map(|()| rows)
    };
    let whole = read(data.len().max(1));
    let pieces = read(13);
    assert_eq!(whole.is_ok(), pieces.is_ok());
    let (Ok(rows), Ok(same)) = (whole, pieces) else { return false };
    assert_eq!(rows, same);
    let mut encoded = Vec::new();
    for row in &rows {
        row.encode(&mut encoded);
    }
    assert_eq!(encoded, data);
    true
}

pub fn manifest(data: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(data) else { return false };
    assert_eq!(manifest::encode(&manifest), data);
    true
}

pub fn secrets_manifest(data: &[u8]) -> bool {
    let Ok(manifest) = SecretsManifest::decode(data) else { return false };
    assert_eq!(manifest::encode(&manifest), data);
    true
}

pub fn catalogue(data: &[u8]) -> bool {
    let mut rows = 0;
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(row) = manifest::decode::<CatalogueLine>(line) {
            assert_eq!(manifest::encode(&row), line);
            rows += 1;
        }
    }
    rows > 0
}

pub fn bundle(data: &[u8]) -> bool {
    if let Ok(encoded) = bundle::unpad(data) {
        let mut plain = Vec::new();
        bundle::pad(encoded, &mut plain);
        assert_eq!(plain, data);
    }
    let Ok(files) = bundle::decode(data) else { return false };
    let mut encoded = Vec::new();
    bundle::encode(&files, &mut encoded);
    assert_eq!(encoded, data);
    true
}

pub fn writer_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(key) = WriterKey::parse(text) else { return false };
    assert_eq!(key.to_line().trim_ascii_end(), text.trim_ascii_end());
    true
}

pub fn object_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(key) = text.parse::<ObjectKey>() else { return false };
    assert_eq!(key.to_string(), text);
    true
}

/// The first bytes choose sizes and marks, the rest is the stream: its chunks are the stream again, within the
/// sizes, and every block end is a cut.
pub fn chunker(data: &[u8]) -> bool {
    let Some((choice, stream)) = data.split_first_chunk::<4>() else { return false };
    let average = 256_usize << (choice[0] % 4);
    let sizes = Sizes { min: 64, average, max: average * 4 };
    let gear: [u64; 256] =
        std::array::from_fn(|place| (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(choice[1]));
    let ends = |step: u64| -> Vec<u64> {
        (1..).map(|end| end * step).take_while(|end| step > 0 && *end <= stream.len() as u64).collect()
    };
    let (records, blocks) = (ends(u64::from(choice[2])), ends(u64::from(choice[3]) * 16));
    let cutter = Cutter::new(sizes, &gear);
    let mut front = 0;
    while front < stream.len() {
        let place = front as u64;
        let block = blocks.iter().copied().find(|end| *end > place);
        let records = &records[records.partition_point(|end| *end <= place)..];
        let rest = &stream[front..];
        let len = cutter.cut(rest, Ends { front: place, records, block }, true).expect("the last window has a cut");
        assert!(len > 0 && len <= rest.len() && len <= sizes.max);
        assert!(block.is_none_or(|end| place + len as u64 <= end), "a chunk across a block end");
        if rest.len() >= sizes.max {
            // The same cut before the end of the stream is known.
            let early = cutter.cut(
                &rest[..sizes.max],
                Ends { front: place, records, block: block.filter(|end| *end <= place + sizes.max as u64) },
                false,
            );
            assert_eq!(early, Some(len));
        }
        front += len;
    }
    true
}

/// A mongodump archive: whole or in small pieces, the same verdict, and the same places where items end.
pub fn archive(data: &[u8]) -> bool {
    let read = |size: usize| {
        let mut framer = Framer::new(EmptyArchive::Allowed);
        let (mut ends, mut all) = (Vec::new(), Vec::new());
        for (place, piece) in data.chunks(size).enumerate() {
            ends.clear();
            framer.push(piece, &mut ends)?;
            let in_order = ends.windows(2).all(|pair| pair[0].at < pair[1].at);
            assert!(in_order && ends.iter().all(|end| (1..=piece.len()).contains(&(end.at as usize))));
            all.extend(ends.iter().map(|end| (place * size + end.at as usize, end.block)));
        }
        framer.finish().map(|archive| (archive, all))
    };
    let whole = read(PUSH_LEN_MAX);
    let pieces = read(13);
    assert_eq!(whole, pieces);
    let _ = mongodb::archive::check(data, EmptyArchive::Refused);
    whole.is_ok_and(|(archive, _)| archive.len == data.len() as u64)
}

/// A Redis RDB file: whole or in small pieces, the same verdict.
pub fn rdb(data: &[u8]) -> bool {
    let read = |size: usize| {
        let mut checker = Checker::new();
        data.chunks(size).try_for_each(|piece| checker.push(piece))?;
        checker.finish()
    };
    let whole = read(data.len().max(1));
    assert_eq!(whole, read(7));
    whole.is_ok_and(|verdict| verdict.len == data.len() as u64)
}

/// A `.env` file: what is certain in it reads back the same from the form that we write.
pub fn dotenv(data: &[u8]) -> bool {
    let Ok(file) = Dotenv::parse(data) else { return false };
    let rendered = file.render();
    let again = Dotenv::parse(rendered.expose().as_bytes()).expect("what we write parses");
    let certain = file.entries().iter().filter(|entry| entry.doubt.is_none());
    let list = |entry: &orkvault::component::dotenv::Entry| (entry.name.clone(), entry.value.expose().to_owned());
    assert!(again.entries().iter().all(|entry| entry.doubt.is_none()));
    assert!(again.entries().iter().map(list).eq(certain.map(list)));
    true
}

/// An AOF manifest: what takes its place lists two files more, which are new, and is a manifest again.
pub fn aof_manifest(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(names) = aof::names(text, "appendonly.aof") else { return false };
    let replacement = aof::replacement(text, &names).expect("a manifest that gives names can be replaced");
    // The highest number that we read has a successor that we do not.
    let last = (u64::MAX / 2).to_string();
    assert!(aof::is_manifest(&replacement) || names.base.contains(&last));
    let listed =
        |text: &str, name: &str| text.lines().filter(|line| line.starts_with(&format!("file {name} "))).count();
    for name in [&names.base, &names.increment] {
        assert_eq!(listed(&replacement, name), 1 + listed(text, name));
    }
    aof::is_manifest(text)
}

/// A journal of a stopped container: reads back the same from what we write.
pub fn journal(data: &[u8]) -> bool {
    let Some(record) = Record::decode(data) else { return false };
    assert_eq!(Record::decode(&record.encode()), Some(record));
    true
}

/// Replies of a Redis server: whole or in two pieces, the same.
pub fn resp(data: &[u8]) -> bool {
    let read = |at: usize| {
        let (first, second) = data.split_at(at);
        wait(async {
            let mut connection = Connection::over(first.chain(second), "fuzz".to_owned());
            let mut replies = Vec::new();
            while let Ok(reply) = connection.next_reply().await {
                reply.lines();
                replies.push(reply);
            }
            replies
        })
    };
    let whole = read(data.len());
    assert_eq!(whole, read(data.len() / 2));
    !whole.is_empty()
}

/// A daemon's tar archive: whole or in small pieces, the same entries or none.
pub fn tar(data: &[u8]) -> bool {
    let read = |size: usize| {
        let pieces = data.chunks(size).map(|piece| Ok::<_, BoxError>(Bytes::copy_from_slice(piece)));
        let mut reader = TarReader::new(stream::iter(pieces), Duration::from_secs(60));
        wait(async {
            let mut entries: Vec<(TarEntry, Vec<u8>)> = Vec::new();
            while let Some(entry) = reader.next_entry().await.ok()? {
                let mut content = Vec::new();
                while let Some(bytes) = reader.next_data().await.ok()? {
                    content.extend_from_slice(&bytes);
                }
                assert_eq!(content.len() as u64, entry.len);
                entries.push((entry, content));
            }
            Some(entries)
        })
    };
    let whole = read(data.len().max(1));
    assert_eq!(whole, read(13));
    whole.is_some()
}

/// Runs what reads from memory, and waits for nothing but its own time limits.
fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without I/O").block_on(work)
}
