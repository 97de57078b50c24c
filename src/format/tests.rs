//! Round trips, refusals and limits of every layout (`docs/FORMAT.md`).

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use super::bundle::{self, SecretFile};
use super::config::{ChunkSizes, Config, ConfigMacs, Epoch, PUBLIC_KEY_LEN, Part};
use super::cursor::{Cursor, push_bytes, push_varint};
use super::entry::{EntryContent, EntryRow, EntryRowSplitter};
use super::envelope::{Codec, Envelope, Header, Payload, SealedKind};
use super::id::{BundleId, ChunkId, ContentHash, PackId, RepositoryId, SnapshotId, WriterId};
use super::index::{IndexPart, PackRecord};
use super::manifest::{
    self, CatalogueLine, ComponentRecord, ComponentStatus, Details, Manifest, PreviousRecord, SecretsManifest,
    SecretsRef, SnapshotStatus, Stats, WriterRecord,
};
use super::object::Namespace;
use super::pack::{ChunkRecord, Directory, KeyEntry, PackHeader, PackKind, SegmentRecord, WrappedKey};
use super::recipe::{Extent, PageRef, RecipePage, RecipeRoot};
use super::slot::{Capability, KdfParams, LABEL_BYTES_MAX, Slot, SlotHeader, Unlock};
use super::{Error, limits};

fn chunk(byte: u8) -> ChunkId {
    ChunkId::from_bytes([byte; 32])
}

fn range(byte: u8, chunk_len: u32, offset: u32, len: u32) -> Extent {
    Extent { chunk: chunk(byte), chunk_len, offset, len }
}

fn whole(byte: u8) -> Extent {
    Extent::whole(chunk(byte), 100)
}

/// A page by hand: table of (chunk byte, length), then operations.
fn page_bytes(table: &[(u8, u64)], ops: u64, numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![0];
    push_varint(&mut out, table.len() as u64);
    for (byte, len) in table {
        out.extend_from_slice(&[*byte; 32]);
        push_varint(&mut out, *len);
    }
    push_varint(&mut out, ops);
    for number in numbers {
        push_varint(&mut out, *number);
    }
    out
}

fn config() -> Config {
    let epoch = |number| Epoch { number, public_key: vec![7; PUBLIC_KEY_LEN] };
    Config {
        repository: RepositoryId::from_bytes([1; 32]),
        required_features: 0,
        optional_features: 5,
        created_secs: 1_700_000_000,
        data_epochs: vec![epoch(1), epoch(2)],
        secrets_epochs: vec![epoch(1)],
        chunk_sizes: [ChunkSizes { min: 64, average: 256, max: 1024, whole_below: 0 }; 4],
    }
}

fn config_bytes(config: &Config) -> Vec<u8> {
    let mut out = config.encode_with_macs(&ConfigMacs { data: [2; 32], secrets: [3; 32] });
    out.extend_from_slice(&[4; 32]);
    out
}

fn slot() -> Slot {
    Slot {
        header: SlotHeader {
            capability: Capability::DataReader,
            unlock: Unlock::Passphrase(KdfParams::new(65_536, 3, 4).unwrap()),
            salt: [1; 32],
            repository: RepositoryId::from_bytes([2; 32]),
            created_secs: 3,
            label: "init".to_owned(),
        },
        commitment: [4; 32],
        nonce: [5; 24],
        sealed: vec![6; 50],
    }
}

fn slot_bytes(slot: &Slot) -> Vec<u8> {
    let mut out = slot.encode();
    out.extend_from_slice(&[0; 32]);
    out
}

fn key_entry(kind: PackKind) -> KeyEntry {
    let wrapped = match kind {
        PackKind::Content => WrappedKey::Public { encapsulation: vec![1; 1120], sealed: [2; 48] },
        PackKind::Meta => WrappedKey::Meta { nonce: [3; 24], sealed: [4; 48] },
    };
    KeyEntry { epoch: 9, wrapped, commitment: [5; 32] }
}

fn segment(byte: u8) -> SegmentRecord {
    SegmentRecord {
        stored_len: 116,
        codec: Codec::Stored,
        key: 0,
        nonce: [byte; 24],
        chunks: vec![ChunkRecord { id: chunk(byte), len: 60 }, ChunkRecord { id: chunk(byte ^ 1), len: 40 }],
    }
}

fn index_part() -> IndexPart {
    let pack = |byte| PackRecord {
        id: PackId::from_bytes([byte; 32]),
        kind: PackKind::Content,
        stored_len: 4096,
        header_len: 1217,
        directory: Directory { segments: vec![segment(byte), segment(byte + 2)] },
    };
    IndexPart { packs: vec![pack(1), pack(2)] }
}

fn row() -> EntryRow {
    EntryRow {
        key: b"avatars/1.png".to_vec(),
        attributes: BTreeMap::from([("content-type".to_owned(), b"image/png".to_vec()), ("etag".to_owned(), vec![])]),
        len: 130,
        content: EntryContent::Extents {
            hash: ContentHash::from_bytes([9; 32]),
            extents: vec![whole(1), range(2, 100, 10, 30)],
        },
    }
}

fn row_bytes(row: &EntryRow) -> Vec<u8> {
    let mut out = Vec::new();
    row.encode(&mut out);
    Cursor::new("test", &out).bytes("row", u64::MAX).unwrap().to_vec()
}

fn manifest() -> Manifest {
    let time = "2026-11-22T03:00:00Z".to_owned();
    Manifest {
        schema: manifest::SCHEMA.to_owned(),
        created_at: time.clone(),
        environment: "prod".to_owned(),
        host: "h\u{e4}ns\"el\n".to_owned(),
        components: vec!["mongodb".to_owned()],
        orkvault: Details {
            version: manifest::VERSION,
            tool: "orkvault 0.1.0".to_owned(),
            status: SnapshotStatus::Complete,
            finished_at: time.clone(),
            components: BTreeMap::from([(
                "mongodb".to_owned(),
                ComponentRecord {
                    status: ComponentStatus::Complete,
                    reason: None,
                    started_at: time.clone(),
                    finished_at: time,
                    consistency: "fuzzy".to_owned(),
                    facts: BTreeMap::from([("database".to_owned(), "orkestra".to_owned())]),
                    streams: BTreeMap::new(),
                    entries: None,
                    catalogue: None,
                    warnings: Vec::new(),
                },
            )]),
            writer: WriterRecord { id: WriterId::from_bytes([1; 32]), sequence: 1, previous: Vec::new() },
            secrets: Some(SecretsRef { snapshot: SnapshotId::from_bytes([2; 32]), location: None }),
            copied_from: None,
            tags: Vec::new(),
            stats: Stats { read_bytes: u64::MAX, ..Stats::default() },
        },
    }
}

fn envelope_header(kind: SealedKind, sealed_len: u64) -> Header {
    Header { kind, namespace: Namespace::Data, epoch: 1, nonce: [1; 24], commitment: [2; 32], sealed_len }
}

#[test]
fn every_layout_reads_back_what_was_written() {
    let bytes = config_bytes(&config());
    assert_eq!(Config::decode(&bytes).unwrap().0, config());
    assert_eq!(Slot::decode(&slot_bytes(&slot())), Ok((slot(), [0; 32])));
    let raw = Slot { header: SlotHeader { unlock: Unlock::RawKey, ..slot().header }, ..slot() };
    assert_eq!(Slot::decode(&slot_bytes(&raw)).unwrap().0, raw);
    for kind in [PackKind::Content, PackKind::Meta] {
        let header = PackHeader { kind, namespace: Namespace::Data, keys: vec![key_entry(kind); 3] };
        let mut bytes = header.encode();
        let len = bytes.len();
        bytes.extend_from_slice(b"segments");
        assert_eq!(PackHeader::decode(&bytes), Ok((header, len)));
    }
    assert_eq!(KeyEntry::PUBLIC_LEN, 1205);
    assert_eq!(IndexPart::decode(&index_part().encode()), Ok(index_part()));
    assert_eq!(EntryRow::decode(&row_bytes(&row())), Ok(row()));
    let manifest_bytes = manifest::encode(&manifest());
    assert_eq!(Manifest::decode(&manifest_bytes), Ok(manifest()));
    let header = envelope_header(SealedKind::Snapshot, 3);
    let envelope = Envelope { header, key_entry: &[], sealed: b"abc" };
    let object = [envelope.encode(), vec![8; 32]].concat();
    assert_eq!(Envelope::decode(&object, 0), Ok((envelope, [8; 32])));
}

#[test]
fn a_directory_hides_its_length_and_says_it() {
    for count in [0, 1, 2, 50] {
        let directory = Directory { segments: (0..count).map(segment).collect() };
        let plain = directory.encode_padded();
        assert_eq!(super::padme::padded_len(plain.len() as u64), plain.len() as u64);
        assert_eq!(Directory::decode_padded(&plain), Ok(directory));
    }
    let mut plain = Directory { segments: vec![segment(1)] }.encode_padded();
    plain.push(1);
    assert_eq!(Directory::decode_padded(&plain), Err(Error::NotCanonical { what: "padding" }));
    assert!(matches!(Directory::decode_padded(&[]), Err(Error::Truncated { .. })));
}

#[test]
fn every_cut_of_every_layout_is_refused() {
    let envelope =
        Envelope { header: envelope_header(SealedKind::Index, 5), key_entry: &[], sealed: b"abcde" }.encode();
    let envelope = [envelope, vec![8; 32]].concat();
    let pack =
        PackHeader { kind: PackKind::Content, namespace: Namespace::Data, keys: vec![key_entry(PackKind::Meta)] };
    type Reads = fn(&[u8]) -> bool;
    let layouts: [(Vec<u8>, Reads); 9] = [
        (config_bytes(&config()), |bytes| Config::decode(bytes).is_ok()),
        (slot_bytes(&slot()), |bytes| Slot::decode(bytes).is_ok()),
        (envelope, |bytes| Envelope::decode(bytes, 0).is_ok()),
        (pack.encode(), |bytes| PackHeader::decode(bytes).is_ok()),
        (index_part().encode(), |bytes| IndexPart::decode(bytes).is_ok()),
        (row_bytes(&row()), |bytes| EntryRow::decode(bytes).is_ok()),
        (manifest::encode(&manifest()), |bytes| Manifest::decode(bytes).is_ok()),
        (page_bytes(&[(1, 100), (2, 100)], 1, &[2 << 2]), |bytes| RecipePage::decode(bytes).is_ok()),
        (root().encode(), |bytes| RecipeRoot::decode(bytes).is_ok()),
    ];
    for (place, (bytes, reads)) in layouts.iter().enumerate() {
        assert!(reads(bytes), "layout {place}");
        for len in 0..bytes.len() {
            assert!(!reads(&bytes[..len]), "layout {place} cut at {len}");
        }
        // A pack's header is followed by segments; everything else ends where it ends.
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(reads(&longer), place == 3, "layout {place} and a byte");
    }
}

fn root() -> RecipeRoot {
    let page = |byte| PageRef { chunk: chunk(byte), stream_len: 1000 };
    RecipeRoot { hash: ContentHash::from_bytes([7; 32]), pages: vec![page(1), page(2)] }
}

#[test]
fn another_version_and_unknown_features_are_refused() {
    let pack = PackHeader { kind: PackKind::Meta, namespace: Namespace::Data, keys: vec![key_entry(PackKind::Meta)] };
    let object = Envelope { header: envelope_header(SealedKind::Index, 0), key_entry: &[], sealed: &[] }.encode();
    type Reads = fn(&[u8]) -> Option<Error>;
    let layouts: [(Vec<u8>, Reads); 4] = [
        (config_bytes(&config()), |bytes| Config::decode(bytes).err()),
        (slot_bytes(&slot()), |bytes| Slot::decode(bytes).err()),
        (pack.encode(), |bytes| PackHeader::decode(bytes).err()),
        ([object, vec![0; 32]].concat(), |bytes| Envelope::decode(bytes, 0).err()),
    ];
    for (bytes, error_of) in layouts {
        assert_eq!(error_of(&bytes), None);
        for version in [0_u16, 2, u16::MAX] {
            let mut other = bytes.clone();
            other[8..10].copy_from_slice(&version.to_le_bytes());
            let error = error_of(&other).unwrap();
            assert!(matches!(error, Error::UnsupportedVersion { found, known: 1, .. } if found == version), "{error}");
        }
        let mut other = bytes;
        other[0] ^= 1;
        assert!(matches!(error_of(&other), Some(Error::BadMagic { .. })));
    }
    let needs = Config { required_features: 1 << 63, ..config() };
    assert_eq!(Config::decode(&config_bytes(&needs)), Err(Error::UnknownFeatures { unknown: 1 << 63 }));
    for part in [Part::Whole, Part::Data, Part::Secrets] {
        let config = config().of_part(part);
        assert_eq!(Config::decode(&config_bytes(&config)).unwrap().0.part(), part);
    }
    let both = Config { required_features: 3, ..config() };
    assert!(matches!(Config::decode(&config_bytes(&both)), Err(Error::Invalid { found: 3, .. })));
    let knows = Config { optional_features: u64::MAX, ..config() };
    assert_eq!(Config::decode(&config_bytes(&knows)).unwrap().0, knows);
}

#[test]
fn a_config_with_impossible_values_is_refused() {
    let epoch = |number| Epoch { number, public_key: vec![7; PUBLIC_KEY_LEN] };
    let bad = [
        Config { data_epochs: Vec::new(), ..config() },
        Config { data_epochs: vec![epoch(2)], ..config() },
        Config { secrets_epochs: vec![epoch(1), epoch(1)], ..config() },
        Config { secrets_epochs: vec![Epoch { number: 1, public_key: vec![7; 32] }], ..config() },
    ];
    for config in bad {
        assert!(Config::decode(&config_bytes(&config)).is_err(), "{config:?}");
    }
    let good = ChunkSizes { min: 64, average: 256, max: 1024, whole_below: 0 };
    assert_eq!(good.check(), Ok(()));
    let bad = [
        ChunkSizes { min: 62, ..good },
        ChunkSizes { min: 65, ..good },
        ChunkSizes { min: 256, ..good },
        ChunkSizes { average: 300, ..good },
        ChunkSizes { average: 1 << 23, max: 8 << 20, ..good },
        ChunkSizes { max: 1023, ..good },
        ChunkSizes { max: 1025, ..good },
        ChunkSizes { average: 2048, ..good },
        ChunkSizes { max: (8 << 20) + 2, ..good },
        ChunkSizes { whole_below: (8 << 20) + 1, ..good },
    ];
    for sizes in bad {
        assert!(matches!(sizes.check(), Err(Error::Invalid { what: "chunk size", .. })), "{sizes:?}");
        let config = Config { chunk_sizes: [good, good, sizes, good], ..config() };
        assert!(Config::decode(&config_bytes(&config)).is_err(), "{sizes:?}");
    }
}

#[test]
fn codes_that_nobody_writes_are_refused() {
    assert!(Namespace::from_code(2).is_err());
    assert!(PackKind::from_code(2).is_err());
    assert!(Codec::from_code(2).is_err());
    assert!(Capability::from_code(0).is_err() && Capability::from_code(5).is_err());
    let object = Envelope { header: envelope_header(SealedKind::Index, 0), key_entry: &[], sealed: &[] }.encode();
    for code in [0, 6, 255] {
        let mut object = [&object[..], &[0; 32]].concat();
        object[10] = code;
        assert_eq!(Envelope::decode(&object, 0), Err(Error::Invalid { what: "object kind", found: u64::from(code) }));
    }
    let mut entry = Vec::new();
    key_entry(PackKind::Meta).encode(&mut entry);
    entry[0] = 3;
    assert!(matches!(KeyEntry::take(&mut Cursor::new("test", &entry)), Err(Error::Invalid { found: 3, .. })));
    let none = PackHeader { kind: PackKind::Meta, namespace: Namespace::Data, keys: Vec::new() };
    assert_eq!(PackHeader::decode(&none.encode()), Err(Error::Invalid { what: "pack keys", found: 0 }));
    let mut raw_with_cost = slot_bytes(&slot());
    raw_with_cost[10] = 2;
    assert!(matches!(Slot::decode(&raw_with_cost), Err(Error::Invalid { what: "slot kind", .. })));
    let mut label = slot_bytes(&slot());
    let at = label.windows(4).position(|text| text == b"init").unwrap();
    label[at] = 0xff;
    assert_eq!(Slot::decode(&label), Err(Error::BadText { what: "slot label", expected: "UTF-8" }));
}

#[test]
fn a_payload_says_exactly_what_it_is() {
    let payload = Payload { codec: Codec::Zstd, raw_len: 100, body: b"frame", padding: 3 };
    let bytes = payload.encode();
    assert_eq!(Payload::decode(&bytes, 100), Ok(payload.clone()));
    assert!(matches!(Payload::decode(&bytes, 99), Err(Error::TooLarge { found: 100, max: 99, .. })));
    let mut dirty = bytes.clone();
    *dirty.last_mut().unwrap() = 1;
    assert_eq!(Payload::decode(&dirty, 100), Err(Error::NotCanonical { what: "padding" }));
    let lies = Payload { codec: Codec::Stored, ..payload }.encode();
    assert_eq!(Payload::decode(&lies, 100), Err(Error::NotCanonical { what: "payload" }));
    assert!(matches!(Payload::decode(&bytes[..20], 100), Err(Error::Truncated { .. })));
}

#[test]
fn a_recipe_page_has_one_encoding() {
    let page = RecipePage::new([whole(1), whole(2), whole(1), range(3, 100, 5, 6), whole(4)]).unwrap();
    assert_eq!(RecipePage::decode(&page.encode()), Ok(page.clone()));
    assert_eq!(page.stream_len(), 406);
    let two = [(1, 100), (2, 100)];
    let good = page_bytes(&two, 1, &[2 << 2]);
    assert_eq!(RecipePage::decode(&good), RecipePage::new([whole(1), whole(2)]));
    let twins: [(&str, Vec<u8>); 12] = [
        ("another form", [&[1], &good[1..]].concat()),
        ("a run in two", page_bytes(&two, 2, &[1 << 2, 1 << 2])),
        ("a start that needs no saying", page_bytes(&two, 1, &[2 << 2 | 1, 0])),
        ("an empty run", page_bytes(&two, 2, &[2 << 2, 0])),
        ("the whole as a range", page_bytes(&[(1, 100)], 1, &[2, 0, 100])),
        ("ranges that continue each other", page_bytes(&[(1, 100)], 2, &[2, 0, 50, 2, 50, 20])),
        ("an unused chunk", page_bytes(&[(1, 100), (2, 100)], 1, &[1 << 2])),
        ("a chunk twice in the table", page_bytes(&[(1, 100), (1, 100)], 1, &[2 << 2])),
        ("a chunk with two lengths", page_bytes(&[(1, 100), (1, 50)], 1, &[2 << 2])),
        ("another order of first use", page_bytes(&two, 2, &[1 << 2 | 1, 1, 1 << 2 | 1, 0])),
        ("no extents", page_bytes(&[], 0, &[])),
        ("an unknown kind", page_bytes(&two, 1, &[2 << 2 | 3])),
    ];
    for (name, bytes) in twins {
        assert!(RecipePage::decode(&bytes).is_err(), "{name} was accepted");
    }
}

#[test]
fn a_recipe_page_is_made_only_of_what_can_be_read() {
    let most = usize::try_from(limits::PAGE_EXTENTS_MAX).unwrap();
    let turns = |count: usize| (0..count).map(|turn| if turn % 2 == 0 { whole(1) } else { range(2, 100, 5, 6) });
    let page = RecipePage::new(turns(most)).unwrap();
    assert_eq!(RecipePage::decode(&page.encode()).as_ref(), Ok(&page));
    assert_eq!((page.len(), page.extents().len()), (most, most));
    assert!(page.extents().eq(turns(most)));
    assert_eq!((page.extent(most - 1), page.extent(most)), (Some(range(2, 100, 5, 6)), None));
    assert!(page.held_bytes() >= most * 12 && page.held_bytes() < most * 12 + 200);

    let numbered = |number: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        Extent::whole(ChunkId::from_bytes(id), 10)
    };
    let chunks = usize::try_from(limits::PAGE_CHUNKS_MAX).unwrap();
    assert!(RecipePage::new((0..chunks).map(numbered)).is_ok());
    let refused: [(&str, Vec<Extent>); 10] = [
        ("no extents", vec![]),
        ("too many", turns(most + 1).collect()),
        ("too many chunks", (0..=chunks).map(numbered).collect()),
        ("a chunk with two lengths", vec![whole(1), Extent::whole(chunk(1), 50)]),
        ("two lengths far from each other", vec![whole(1), whole(2), whole(3), range(1, 101, 0, 1)]),
        ("an empty extent", vec![range(1, 100, 5, 0)]),
        ("an extent beyond its chunk", vec![range(1, 100, 95, 6)]),
        ("a sum beyond 32 bits", vec![range(1, 100, u32::MAX, 1)]),
        ("a chunk that is too long", vec![Extent::whole(chunk(1), u32::MAX)]),
        ("ranges that continue each other", vec![range(1, 100, 0, 50), range(1, 100, 50, 20)]),
    ];
    for (name, extents) in refused {
        assert!(RecipePage::new(extents).is_err(), "{name}");
    }
}

#[test]
fn extents_stay_within_their_chunks() {
    for (numbers, why) in [
        (&[2, 50, 51][..], "beyond the end"),
        (&[2, 100, 0], "empty at the end"),
        (&[2, 0, 0], "empty"),
        (&[2, u64::MAX, 1], "beyond 32 bits"),
        (&[2, u64::from(u32::MAX), u64::from(u32::MAX)], "a sum beyond 32 bits"),
        (&[1 << 2 | 2, 0, 1], "of no chunk"),
        (&[2 << 2], "a run beyond the table"),
        (&[1 << 2 | 1, u64::MAX], "a start beyond the table"),
        (&[!3], "a run without end"),
    ] {
        assert!(RecipePage::decode(&page_bytes(&[(1, 100)], 1, numbers)).is_err(), "{why}");
    }
    assert!(RecipePage::decode(&page_bytes(&[(1, 0)], 1, &[1 << 2])).is_err(), "an empty chunk");
    assert!(matches!(
        RecipePage::decode(&page_bytes(&[(1, limits::CHUNK_BYTES_MAX + 1)], 1, &[1 << 2])),
        Err(Error::TooLarge { what: "chunk", .. })
    ));
    let empty_page = RecipeRoot { pages: vec![PageRef { chunk: chunk(1), stream_len: 0 }], ..root() };
    assert!(RecipeRoot::decode(&empty_page.encode()).is_err());
    let other_form = [&[1], &root().encode()[1..]].concat();
    assert_eq!(RecipeRoot::decode(&other_form), Err(Error::Invalid { what: "recipe form", found: 1 }));
    let page = |stream_len| PageRef { chunk: chunk(1), stream_len };
    let long = RecipeRoot { pages: vec![page(limits::STREAM_BYTES_MAX), page(1)], ..root() };
    assert!(matches!(RecipeRoot::decode(&long.encode()), Err(Error::TooLarge { what: "stream", .. })));
}

#[test]
fn an_entry_row_has_one_encoding() {
    let hash = ContentHash::from_bytes([9; 32]);
    let extents = |extents| EntryContent::Extents { hash, extents };
    let bad = [
        EntryRow { len: 131, ..row() },
        EntryRow { len: 1, content: EntryContent::None, ..row() },
        EntryRow { len: 40, content: extents(vec![range(1, 100, 0, 20), range(1, 100, 20, 20)]), ..row() },
        EntryRow { len: 20, content: extents(vec![range(1, 100, 90, 20)]), ..row() },
        EntryRow { len: 0, content: extents(vec![range(1, 100, 90, 0)]), ..row() },
        EntryRow { len: limits::STREAM_BYTES_MAX + 1, content: EntryContent::Recipe { hash, root: chunk(1) }, ..row() },
    ];
    let mut table = vec![1, 2];
    for row in bad {
        assert!(row.encode_checked(&mut table).is_err(), "{row:?}");
        assert_eq!(table, [1, 2]);
    }
    let good = [
        row(),
        EntryRow { len: 0, content: EntryContent::None, ..row() },
        EntryRow { len: 0, content: extents(Vec::new()), ..row() },
        EntryRow { len: 1 << 50, content: EntryContent::Recipe { hash, root: chunk(1) }, ..row() },
    ];
    for row in good {
        let mut table = vec![1, 2];
        assert_eq!(row.encode_checked(&mut table), Ok(()), "{row:?}");
        assert_eq!(
            EntryRow::decode(Cursor::new("test", &table[2..]).bytes("row", u64::MAX).unwrap()).as_ref(),
            Ok(&row)
        );
        let mut alone = Vec::new();
        row.content.encode(&mut alone);
        assert_eq!(EntryContent::decode(&alone), Ok(row.content));
    }
    for names in [["b", "a"], ["a", "a"]] {
        let mut bytes = Vec::new();
        push_bytes(&mut bytes, b"key");
        push_varint(&mut bytes, 2);
        for name in names {
            push_bytes(&mut bytes, name.as_bytes());
            push_bytes(&mut bytes, b"value");
        }
        bytes.extend_from_slice(&[0, 0]);
        assert_eq!(EntryRow::decode(&bytes), Err(Error::NotCanonical { what: "attributes of an entry" }));
    }
    assert!(EntryContent::decode(&[3]).is_err());
}

#[test]
fn rows_come_out_of_any_pieces() {
    let rows: Vec<EntryRow> = (0..5).map(|place| EntryRow { key: vec![place; 40], ..row() }).collect();
    let mut table = Vec::new();
    for row in &rows {
        row.encode(&mut table);
    }
    for size in [1, 7, 64, table.len()] {
        let mut splitter = EntryRowSplitter::default();
        let mut found = Vec::new();
        for piece in table.chunks(size) {
            splitter.push(piece);
            while let Some(row) = splitter.next_row().unwrap() {
                found.push(row);
            }
        }
        assert_eq!(found, rows);
        assert_eq!(splitter.end(), Ok(()));
    }
    let mut splitter = EntryRowSplitter::default();
    splitter.push(&table[..table.len() - 1]);
    while splitter.next_row().unwrap().is_some() {}
    assert!(matches!(splitter.end(), Err(Error::Truncated { .. })));
    let mut splitter = EntryRowSplitter::default();
    splitter.push(&[0xff; 10]);
    assert!(splitter.next_row().is_err(), "a row without end");
}

#[test]
fn the_snapshots_that_one_follows_ascend() {
    let follow = |ids: &[u8]| {
        let previous = |id: &u8| PreviousRecord {
            snapshot: SnapshotId::from_bytes([*id; 32]),
            blake3: ContentHash::from_bytes([9; 32]),
        };
        let mut manifest = manifest();
        manifest.orkvault.writer.previous = ids.iter().map(previous).collect();
        Manifest::decode(&manifest::encode(&manifest))
    };
    assert_eq!(follow(&[1, 3]).unwrap().orkvault.writer.previous.len(), 2);
    for ids in [[3, 1], [2, 2]] {
        assert!(follow(&ids).is_err(), "{ids:?}");
    }
}

#[test]
fn a_manifest_has_one_encoding() {
    let good = String::from_utf8(manifest::encode(&manifest())).unwrap();
    assert!(good.starts_with("{\"components\":[\"mongodb\"],\"createdAt\":"), "{good}");
    assert!(good.contains(r#""host":"häns\"el\n""#), "{good}");
    assert!(good.contains(r#""readBytes":18446744073709551615"#), "{good}");
    let twins = [
        good.replacen(':', ": ", 1),
        format!("{good}\n"),
        good.replacen("{\"components\"", "{\"extra\":1,\"components\"", 1),
        good.replace("\"sequence\":1", "\"previous\":null,\"sequence\":1"),
        good.replace("\"sequence\":1", "\"previous\":[],\"sequence\":1"),
        good.replace("\"sequence\":1", "\"sequence\":1.0"),
        good.replace("\"sequence\":1", "\"sequence\":\"1\""),
        good.replace("h\u{e4}ns", "h\\u00e4ns"),
        good.replace(&"01".repeat(32), &"0A".repeat(32)),
        good.replace("\"stats\":", "\"tags\":[],\"stats\":"),
        good.replace(manifest::SCHEMA, "orkestra-backup/v2"),
        good.replace("\"version\":1", "\"version\":2"),
        good.replace("\"status\":\"complete\"", "\"status\":\"Complete\""),
    ];
    for twin in twins {
        assert_ne!(twin, good);
        assert!(Manifest::decode(twin.as_bytes()).is_err(), "{twin}");
    }
    let secrets = SecretsManifest {
        schema: manifest::SECRETS_SCHEMA.to_owned(),
        created_at: String::new(),
        environment: String::new(),
        host: String::new(),
        bundle: BundleId::from_bytes([1; 32]),
        files: 2,
        writer: WriterId::from_bytes([3; 32]),
        copied_from: None,
    };
    let bytes = manifest::encode(&secrets);
    assert_eq!(SecretsManifest::decode(&bytes), Ok(secrets));
    assert!(Manifest::decode(&bytes).is_err());
    let line = CatalogueLine { name: "a.b".into(), kind: "collection".into(), records: 1, bytes: 2 };
    assert_eq!(manifest::encode(&line), br#"{"bytes":2,"kind":"collection","name":"a.b","records":1}"#);
}

fn files() -> Vec<SecretFile> {
    let file = |key: &str, content: Option<&[u8]>| SecretFile {
        key: key.as_bytes().to_vec(),
        attributes: BTreeMap::from([("mode".to_owned(), b"0600".to_vec())]),
        content: content.map(<[u8]>::to_vec),
    };
    vec![file(".env", Some(b"A=1\n")), file("keys", None), file("keys/empty", Some(b""))]
}

#[test]
fn a_bundle_has_one_encoding() {
    let mut encoded = Vec::new();
    bundle::encode(&files(), &mut encoded);
    assert!(encoded.len() <= bundle::encoded_len_most(&files()));
    assert!(bundle::decode(&encoded).unwrap() == files());
    let mut unsorted = files();
    unsorted.swap(0, 1);
    let mut bytes = Vec::new();
    bundle::encode(&unsorted, &mut bytes);
    assert_eq!(bundle::decode(&bytes).err(), Some(Error::NotCanonical { what: "secrets bundle" }));
    // A directory with content, and a flag that nobody writes.
    let at = encoded.windows(6).position(|bytes| bytes == b"\x01\x04A=1\n").unwrap();
    for flag in [0, 2] {
        let mut bad = encoded.clone();
        bad[at] = flag;
        assert!(matches!(bundle::decode(&bad).err(), Some(Error::Invalid { what: "secret file", .. })));
    }
    for len in 0..encoded.len() {
        assert!(bundle::decode(&encoded[..len]).is_err());
    }
}

#[test]
fn a_bundle_is_padded_in_steps() {
    for (len, padded) in [(0, 1), (bundle::STEP - 8, 1), (bundle::STEP - 7, 2)] {
        let mut plain = Vec::new();
        bundle::pad(&vec![5; len], &mut plain);
        assert_eq!(plain.len(), padded * bundle::STEP);
        assert_eq!(bundle::unpad(&plain), Ok(&vec![5; len][..]));
        let longer = [&plain[..], &vec![0; bundle::STEP]].concat();
        assert_eq!(bundle::unpad(&longer), Err(Error::NotCanonical { what: "padding" }));
    }
    let mut plain = Vec::new();
    bundle::pad(b"files", &mut plain);
    plain[100] = 1;
    assert_eq!(bundle::unpad(&plain), Err(Error::NotCanonical { what: "padding" }));
    assert!(bundle::unpad(&u64::MAX.to_le_bytes()).is_err());
}

fn varints(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for number in numbers {
        push_varint(&mut out, *number);
    }
    out
}

/// Bytes that declare one more than the limit, and nothing behind it: only the limit can refuse them so.
#[test]
fn every_limit_is_refused_one_above() {
    let refused = |name: &str, result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::TooLarge { .. })), "{name}: {result:?}");
    };
    let id = [0; 32];
    let over = |limit: u64| varints(&[limit + 1]);
    let join = |parts: &[&[u8]]| parts.concat();
    let directory = |bytes: &[u8]| Directory::take(&mut Cursor::new("test", bytes)).map(drop);
    let segment_head = join(&[&varints(&[1, 100]), &[0, 0], &[0; 24]]);
    refused("segments", directory(&over(limits::PACK_SEGMENTS_MAX)));
    refused("segment", directory(&join(&[&[1], &over(limits::SEGMENT_STORED_BYTES_MAX)])));
    refused("chunks of a segment", directory(&join(&[&segment_head, &over(limits::SEGMENT_CHUNKS_MAX)])));
    refused("chunk", directory(&join(&[&segment_head, &[1], &id, &over(limits::CHUNK_BYTES_MAX)])));
    let half = varints(&[limits::SEGMENT_BYTES_MAX / 2 + 1]);
    refused("plain bytes", directory(&join(&[&segment_head, &[2], &id, &half, &id, &half])));
    refused("padded directory", Directory::decode_padded(&over(limits::DIRECTORY_BYTES_MAX)).map(drop));
    refused("packs", IndexPart::decode(&over(limits::INDEX_PACKS_MAX)).map(drop));
    let pack = |len: u64, header: u64| join(&[&[1], &id, &[0], &varints(&[len, header])]);
    refused("pack", IndexPart::decode(&pack(limits::PACK_BYTES_MAX + 1, 0)).map(drop));
    refused("header", IndexPart::decode(&pack(100, 101)).map(drop));
    let mut part = index_part();
    part.packs[0].stored_len = 1217 + 231;
    refused("segments beyond the pack", IndexPart::decode(&part.encode()).map(drop));
    refused("pages", RecipeRoot::decode(&join(&[&[0], &id, &over(limits::RECIPE_PAGES_MAX)])).map(drop));
    refused("page chunks", RecipePage::decode(&join(&[&[0], &over(limits::PAGE_CHUNKS_MAX)])).map(drop));
    refused("page extents", RecipePage::decode(&join(&[&[0, 0], &over(limits::PAGE_EXTENTS_MAX)])).map(drop));
    refused("entry key", EntryRow::decode(&over(limits::ENTRY_KEY_BYTES_MAX)).map(drop));
    refused("attributes", EntryRow::decode(&join(&[&[0], &over(limits::ENTRY_ATTRIBUTES_MAX)])).map(drop));
    refused("name", EntryRow::decode(&join(&[&[0, 1], &over(limits::ATTRIBUTE_NAME_BYTES_MAX)])).map(drop));
    refused("value", EntryRow::decode(&join(&[&[0, 1, 0], &over(limits::ATTRIBUTE_BYTES_MAX)])).map(drop));
    refused("content", EntryRow::decode(&join(&[&[0, 0], &over(limits::STREAM_BYTES_MAX)])).map(drop));
    refused("extents", EntryContent::decode(&join(&[&[1], &id, &over(limits::ENTRY_EXTENTS_MAX)])).map(drop));
    refused("bundle files", bundle::decode(&over(limits::BUNDLE_FILES_MAX)).map(drop));
    refused("bundle file", bundle::decode(&join(&[&[1, 0, 0, 1], &over(limits::BUNDLE_BYTES_MAX)])).map(drop));
    refused("bundle", bundle::unpad(&(limits::BUNDLE_BYTES_MAX + 1).to_le_bytes()).map(drop));
    let too_long = |max: u64| vec![0; usize::try_from(max).unwrap() + 1];
    refused("config", Config::decode(&too_long(limits::CONFIG_BYTES_MAX)).map(drop));
    refused("slot", Slot::decode(&too_long(limits::SLOT_BYTES_MAX)).map(drop));
    refused("manifest", Manifest::decode(&too_long(limits::MANIFEST_BYTES_MAX)).map(drop));
    refused("index part", IndexPart::decode(&too_long(limits::INDEX_BYTES_MAX)).map(drop));
    let epochs = Config { data_epochs: Vec::new(), secrets_epochs: Vec::new(), ..config() }.encode();
    let epochs = join(&[&epochs[..66], &over(limits::EPOCHS_MAX)]);
    refused("epochs", Config::decode(&epochs).map(drop));
    for kind in [SealedKind::Index, SealedKind::Snapshot, SealedKind::Bundle] {
        let header = envelope_header(kind, kind.bytes_max() + 1).encode();
        refused("sealed object", Envelope::decode(&header, 0).map(drop));
    }
    let mut keys = PackHeader { kind: PackKind::Meta, namespace: Namespace::Data, keys: Vec::new() }.encode();
    keys.truncate(12);
    refused("pack keys", PackHeader::decode(&join(&[&keys, &over(limits::PACK_KEYS_MAX)])).map(drop));
    let label = "x".repeat(usize::try_from(LABEL_BYTES_MAX).unwrap() + 1);
    let long_label = Slot { header: SlotHeader { label, ..slot().header }, ..slot() };
    refused("label", Slot::decode(&slot_bytes(&long_label)).map(drop));
}

#[test]
fn as_much_as_every_epoch_fits_into_a_config() {
    let epochs: Vec<Epoch> = (1..=u32::try_from(limits::EPOCHS_MAX).unwrap())
        .map(|number| Epoch { number, public_key: vec![1; PUBLIC_KEY_LEN] })
        .collect();
    let config = Config { data_epochs: epochs.clone(), secrets_epochs: epochs, ..config() };
    assert_eq!(Config::decode(&config_bytes(&config)).unwrap().0, config);
}

#[test]
fn derivation_costs_have_bounds() {
    let (low, high) = (limits::KDF_MEMORY_KIB_MIN, limits::KDF_MEMORY_KIB_MAX);
    for (memory, passes, lanes) in [(low, 1, 1), (high, 4, 16), (512 * 1024, 16, 4)] {
        assert!(KdfParams::new(memory, passes, lanes).is_ok(), "{memory} {passes} {lanes}");
    }
    let bad = [
        (0, 1, 1),
        (low - 1, 1, 1),
        (high + 1, 1, 1),
        (u32::MAX, 1, 1),
        (high, 5, 1),
        (low, 0, 1),
        (low, 17, 1),
        (low, u32::MAX, 1),
        (low, 1, 0),
        (low, 1, 17),
        (low, 1, u32::MAX),
    ];
    for (memory, passes, lanes) in bad {
        assert!(KdfParams::new(memory, passes, lanes).is_err(), "{memory} {passes} {lanes}");
        let mut bytes = slot_bytes(&slot());
        for (place, number) in [memory, passes, lanes].into_iter().enumerate() {
            bytes[12 + 4 * place..][..4].copy_from_slice(&number.to_le_bytes());
        }
        assert!(Slot::decode(&bytes).is_err(), "{memory} {passes} {lanes} in a slot");
    }
}

fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
    vec((0..12_u8, any::<bool>(), any::<u16>(), any::<u16>()), 1..60).prop_map(|picks| {
        let mut extents: Vec<Extent> = Vec::new();
        for (byte, is_whole, from, len) in picks {
            let chunk_len = 10 + u32::from(byte) * 5;
            let offset = u32::from(from) % chunk_len;
            let len = 1 + u32::from(len) % (chunk_len - offset);
            let next = if is_whole {
                Extent::whole(chunk(byte), chunk_len)
            } else {
                Extent { chunk: chunk(byte), chunk_len, offset, len }
            };
            match extents.last_mut() {
                Some(last) if last.is_continued_by(&next) => last.len += next.len,
                _ => extents.push(next),
            }
        }
        extents
    })
}

fn any_directory() -> impl Strategy<Value = Directory> {
    let record =
        (any::<[u8; 32]>(), 1..5000_u32).prop_map(|(id, len)| ChunkRecord { id: ChunkId::from_bytes(id), len });
    let segment = (0..100_000_u32, any::<bool>(), any::<u8>(), any::<[u8; 24]>(), vec(record, 1..6)).prop_map(
        |(stored_len, is_zstd, key, nonce, chunks)| SegmentRecord {
            stored_len,
            codec: if is_zstd { Codec::Zstd } else { Codec::Stored },
            key,
            nonce,
            chunks,
        },
    );
    vec(segment, 0..5).prop_map(|segments| Directory { segments })
}

fn any_index_part() -> impl Strategy<Value = IndexPart> {
    btree_map(any::<[u8; 32]>(), (any::<bool>(), 0..2000_u32, 0..500_u32, any_directory()), 0..4).prop_map(|packs| {
        let packs = packs.into_iter().map(|(id, (is_meta, header_len, rest, directory))| PackRecord {
            id: PackId::from_bytes(id),
            kind: if is_meta { PackKind::Meta } else { PackKind::Content },
            stored_len: header_len + rest + u32::try_from(directory.segments_len()).unwrap(),
            header_len,
            directory,
        });
        IndexPart { packs: packs.collect() }
    })
}

fn any_row() -> impl Strategy<Value = EntryRow> {
    let attributes = btree_map("[a-z:\u{e4}-]{0,12}", vec(any::<u8>(), 0..40), 0..5);
    let content = (0..3_u8, any::<[u8; 32]>(), any_extents(), any::<u32>());
    (vec(any::<u8>(), 0..60), attributes, content).prop_map(|(key, attributes, (kind, hash, mut extents, len))| {
        let hash = ContentHash::from_bytes(hash);
        extents.truncate(16);
        let content = match kind {
            0 => EntryContent::None,
            1 => EntryContent::Extents { hash, extents },
            _ => EntryContent::Recipe { hash, root: chunk(1) },
        };
        let len = content.content_len().unwrap_or(u64::from(len));
        EntryRow { key, attributes, len, content }
    })
}

/// Overwrites, cuts, doubles: what a decoder still takes must be what its encoder writes.
fn damaged(mut bytes: Vec<u8>, edits: &[(u16, u8)]) -> Vec<u8> {
    for (at, byte) in edits {
        let at = usize::from(*at) % bytes.len().max(1);
        match byte % 4 {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 => bytes.insert(at, *byte),
            _ if at < bytes.len() => bytes[at] ^= *byte,
            _ => {}
        }
    }
    bytes
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(
        extents in any_extents(),
        part in any_index_part(),
        directory in any_directory(),
        row in any_row(),
        edits in vec(any::<(u16, u8)>(), 1..4),
    ) {
        let page = RecipePage::new(extents).unwrap();
        let bytes = page.encode();
        prop_assert_eq!(RecipePage::decode(&bytes), Ok(page));
        let bytes = damaged(bytes, &edits);
        if let Ok(page) = RecipePage::decode(&bytes) {
            prop_assert_eq!(page.encode(), bytes);
        }
        let bytes = part.encode();
        prop_assert_eq!(IndexPart::decode(&bytes), Ok(part));
        let bytes = damaged(bytes, &edits);
        if let Ok(part) = IndexPart::decode(&bytes) {
            prop_assert_eq!(part.encode(), bytes);
        }
        prop_assert_eq!(Directory::decode_padded(&directory.encode_padded()), Ok(directory));
        let bytes = row_bytes(&row);
        prop_assert_eq!(EntryRow::decode(&bytes), Ok(row));
        let bytes = damaged(bytes, &edits);
        if let Ok(row) = EntryRow::decode(&bytes) {
            prop_assert_eq!(row_bytes(&row), bytes);
        }
    }
}
