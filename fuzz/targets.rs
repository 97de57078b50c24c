//! The bodies of the fuzz targets: any bytes go in, nothing may panic, and what decodes must encode to the
//! same bytes (`docs/FORMAT.md`, section 4).
//!
//! One list for two users: the fuzzer (`fuzz_targets/`) and, on every `cargo test`, the replay of the seeds
//! (`tests/it/fuzz_replay.rs`).

use orkvault::chunker::{Cutter, Ends, Sizes};
use orkvault::crypto::writer_key::WriterKey;
use orkvault::format::bundle;
use orkvault::format::config::Config;
use orkvault::format::cursor::{Cursor, push_bytes};
use orkvault::format::entry::{EntryContent, EntryRow, EntryRowSplitter};
use orkvault::format::envelope::{Envelope, Payload};
use orkvault::format::index::IndexPart;
use orkvault::format::limits;
use orkvault::format::manifest::{self, CatalogueLine, Manifest, SecretsManifest};
use orkvault::format::object::ObjectKey;
use orkvault::format::pack::{Directory, KeyEntry, PackHeader};
use orkvault::format::recipe::{RecipePage, RecipeRoot};
use orkvault::format::slot::Slot;

/// Every target: its name, which is also that of its seeds' directory, and its body.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("bundle", bundle),
    ("catalogue", catalogue),
    ("chunker", chunker),
    ("config", config),
    ("directory", directory),
    ("entry_row", entry_row),
    ("entry_table", entry_table),
    ("envelope", envelope),
    ("index_part", index_part),
    ("manifest", manifest),
    ("object_key", object_key),
    ("pack_header", pack_header),
    ("payload", payload),
    ("recipe_page", recipe_page),
    ("recipe_root", recipe_root),
    ("secrets_manifest", secrets_manifest),
    ("slot", slot),
    ("writer_key", writer_key),
];

pub fn config(data: &[u8]) {
    if let Ok((config, macs, checksum)) = Config::decode(data) {
        assert_eq!([config.encode_with_macs(&macs), checksum.to_vec()].concat(), data);
        for sizes in config.chunk_sizes {
            sizes.check().expect("a config that was read has sizes that can be used");
        }
    }
}

pub fn slot(data: &[u8]) {
    if let Ok((slot, checksum)) = Slot::decode(data) {
        assert_eq!([slot.encode(), checksum.to_vec()].concat(), data);
    }
}

pub fn envelope(data: &[u8]) {
    if let Ok((envelope, checksum)) = Envelope::decode(data, KeyEntry::PUBLIC_LEN) {
        assert_eq!([envelope.encode(), checksum.to_vec()].concat(), data);
        let mut cursor = Cursor::new("key entry", envelope.key_entry);
        if let Ok(entry) = KeyEntry::take(&mut cursor) {
            let mut encoded = Vec::new();
            entry.encode(&mut encoded);
            assert_eq!([&encoded, cursor.rest()].concat(), envelope.key_entry);
        }
    }
}

pub fn payload(data: &[u8]) {
    if let Ok(payload) = Payload::decode(data, limits::INDEX_BYTES_MAX) {
        assert_eq!(payload.encode(), data);
    }
}

pub fn pack_header(data: &[u8]) {
    if let Ok((header, len)) = PackHeader::decode(data) {
        assert_eq!(header.encode(), &data[..len]);
        assert!(len <= PackHeader::len_max() && !header.keys.is_empty());
    }
}

pub fn directory(data: &[u8]) {
    let mut cursor = Cursor::new("directory", data);
    if let Ok(directory) = Directory::take(&mut cursor) {
        let mut encoded = Vec::new();
        directory.encode(&mut encoded);
        assert_eq!([&encoded, cursor.rest()].concat(), data);
        assert_eq!(Directory::decode_padded(&directory.encode_padded()), Ok(directory));
    }
    if let Ok(directory) = Directory::decode_padded(data) {
        let mut encoded = Vec::new();
        directory.encode(&mut encoded);
        let mut framed = Vec::new();
        push_bytes(&mut framed, &encoded);
        // How many zeros follow is the writer's choice.
        assert!(framed.len() <= data.len());
        framed.resize(data.len(), 0);
        assert_eq!(framed, data);
    }
}

pub fn index_part(data: &[u8]) {
    if let Ok(part) = IndexPart::decode(data) {
        assert_eq!(part.encode(), data);
        for pack in &part.packs {
            assert!(u64::from(pack.header_len) + pack.directory.segments_len() <= u64::from(pack.stored_len));
        }
    }
}

pub fn recipe_page(data: &[u8]) {
    if let Ok(page) = RecipePage::decode(data) {
        assert_eq!(page.encode(), data);
        assert!(page.stream_len() > 0);
        for extent in &page.extents {
            extent.check().expect("a page that was read has extents within their chunks");
        }
    }
}

pub fn recipe_root(data: &[u8]) {
    if let Ok(root) = RecipeRoot::decode(data) {
        assert_eq!(root.encode(), data);
        assert!(root.stream_len() <= limits::STREAM_BYTES_MAX);
    }
}

pub fn entry_row(data: &[u8]) {
    if let Ok(row) = EntryRow::decode(data) {
        let (mut encoded, mut framed) = (Vec::new(), Vec::new());
        row.encode(&mut encoded);
        push_bytes(&mut framed, data);
        assert_eq!(encoded, framed);
    }
    if let Ok(content) = EntryContent::decode(data) {
        let mut encoded = Vec::new();
        content.encode(&mut encoded);
        assert_eq!(encoded, data);
    }
}

pub fn entry_table(data: &[u8]) {
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
    if let (Ok(rows), Ok(same)) = (whole, pieces) {
        assert_eq!(rows, same);
        let mut encoded = Vec::new();
        for row in &rows {
            row.encode(&mut encoded);
        }
        assert_eq!(encoded, data);
    }
}

pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest::encode(&manifest), data);
    }
}

pub fn secrets_manifest(data: &[u8]) {
    if let Ok(manifest) = SecretsManifest::decode(data) {
        assert_eq!(manifest::encode(&manifest), data);
    }
}

pub fn catalogue(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(row) = manifest::decode::<CatalogueLine>(line) {
            assert_eq!(manifest::encode(&row), line);
        }
    }
}

pub fn bundle(data: &[u8]) {
    if let Ok(files) = bundle::decode(data) {
        let mut encoded = Vec::new();
        bundle::encode(&files, &mut encoded);
        assert_eq!(encoded, data);
    }
    if let Ok(encoded) = bundle::unpad(data) {
        let mut plain = Vec::new();
        bundle::pad(encoded, &mut plain);
        assert_eq!(plain, data);
    }
}

pub fn writer_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = WriterKey::parse(text) {
        assert_eq!(key.to_line().trim_ascii_end(), text.trim_ascii_end());
    }
}

pub fn object_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<ObjectKey>() {
        assert_eq!(key.to_string(), text);
    }
}

/// The first bytes choose sizes and marks, the rest is the stream: its chunks are the stream again, within the
/// sizes, and every block end is a cut.
pub fn chunker(data: &[u8]) {
    let Some((choice, stream)) = data.split_first_chunk::<4>() else { return };
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
}
