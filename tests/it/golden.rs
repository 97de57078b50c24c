//! Golden vectors of the stored format (`docs/FORMAT.md`, section 15) and what the document promises of
//! itself. `ORKVAULT_BLESS=1` writes the vectors anew; golden keys are in `src/crypto/golden.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use orkvault::chunker::{Cutter, Ends, Sizes};
use orkvault::crypto::hash::{content_hash, push_checksum};
use orkvault::crypto::keys::{self, KeySet};
use orkvault::crypto::pack::{DataKey, PackSealer, open_bundle, open_directory, seal_bundle};
use orkvault::crypto::seal::{Binding, ObjectSealer, open_object};
use orkvault::crypto::secret::SecretBytes;
use orkvault::crypto::slot::{self, NewSlot, Opener};
use orkvault::crypto::writer_key::WriterKey;
use orkvault::crypto::{Entropy, Error, Passphrase};
use orkvault::format::bundle::{self, SecretFile};
use orkvault::format::config::{ChunkSizes, Config, Part};
use orkvault::format::entry::{EntryContent, EntryRow, EntryRowSplitter};
use orkvault::format::envelope::{Codec, HEADER_LEN, PAYLOAD_HEADER_LEN, Payload, SealedKind, TAG_LEN};
use orkvault::format::id::{ChunkId, ContentHash, PackId, RepositoryId, SnapshotId, WriterId};
use orkvault::format::index::{IndexPart, PackRecord};
use orkvault::format::limits;
use orkvault::format::manifest::{
    self, CatalogueLine, ComponentRecord, ComponentStatus, Details, Manifest, OriginRecord, PreviousRecord,
    SecretsManifest, SecretsRef, SnapshotStatus, Stats, StreamRecord, TableRecord, WriterRecord,
};
use orkvault::format::object::Namespace;
use orkvault::format::pack::{ChunkRecord, DIRECTORY_TAIL_LEN, Directory, PackHeader, PackKind, SegmentRecord};
use orkvault::format::padme::padded_len;
use orkvault::format::recipe::{Extent, PageEdit, PageExpansion, PageRef, RecipePage, RecipeRoot};
use orkvault::format::slot::{Capability, KdfParams, Unlock};
use serde_json::{Value, json};

const NAMES: [&str; 10] = [
    "bundles.json",
    "config.json",
    "cut_points.json",
    "entries.json",
    "keys.json",
    "manifests.json",
    "objects.json",
    "packs.json",
    "recipes.json",
    "slots.json",
];
const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x0c; 32]);
/// 100 times `a` as one zstd frame: a run-length block, written by hand so that no release of zstd changes it.
const FRAME: [u8; 10] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 100, 0x23, 0x03, 0x00, b'a'];

/// Bytes that look random and are the same in every run: the BLAKE3 XOF of a text.
struct Fixed(Mutex<blake3::OutputReader>);

impl Fixed {
    fn new(text: &str) -> Self {
        Self(Mutex::new(blake3::Hasher::new().update(text.as_bytes()).finalize_xof()))
    }

    fn bytes(text: &str, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        Self::new(text).fill(&mut out).unwrap();
        out
    }
}

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        self.0.lock().unwrap().fill(out);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the bytes of a field of hex digits.
pub fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("a string of hex digits");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn is_blessing() -> bool {
    std::env::var_os("ORKVAULT_BLESS").is_some()
}

/// Returns a golden file.
pub fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(at("tests/golden/v1").join(name)).unwrap()).unwrap()
}

/// Compares with the golden file and returns what that says.
fn compare(name: &str, value: &Value) -> Value {
    let path = at("tests/golden/v1").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    if is_blessing() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == text, "{name} is not what this program writes");
    golden(name)
}

/// Keys out of a text, and what a reader needs to come by them.
fn make_keys(text: &str) -> (KeySet, Fixed, Value) {
    let entropy = Fixed::new(text);
    let keys = keys::generate(&entropy).unwrap();
    let drawn = Fixed::bytes(text, 160);
    let value = json!({
        "repository": REPOSITORY.to_string(),
        "writerId": hex(&drawn[..32]),
        "dataWriteRoot": hex(&drawn[32..64]), "dataSeed": hex(&drawn[64..96]),
        "secretsWriteRoot": hex(&drawn[96..128]), "secretsSeed": hex(&drawn[128..]),
    });
    (keys, entropy, value)
}

#[test]
fn golden_slots() {
    let (keys, entropy, drawn) = make_keys("orkvault golden slots");
    let line = format!("orkvault-writer-1:{REPOSITORY}:{}\n", hex(&Fixed::bytes("orkvault golden writer key", 32)));
    let writer_key = WriterKey::parse(&line).unwrap();
    let passphrases = [b"correct horse data".to_vec(), b"battery staple secrets".to_vec()].map(Passphrase::new);
    let kdf = Unlock::Passphrase(KdfParams::new(19_456, 1, 1).unwrap());
    let wanted = [
        (Capability::Writer, Unlock::RawKey, writer_key.opener()),
        (Capability::DataReader, kdf, Opener::Passphrase(&passphrases[0])),
        (Capability::SecretsReader, kdf, Opener::Passphrase(&passphrases[1])),
    ];
    let mut slots = serde_json::Map::new();
    for (capability, unlock, opener) in &wanted {
        let new = NewSlot {
            capability: *capability,
            unlock: *unlock,
            repository: REPOSITORY,
            created_secs: 1_790_000_000,
            label: "golden",
        };
        slots.insert(capability.name().into(), hex(&slot::make(&new, &keys, opener, &entropy).unwrap()).into());
    }
    let value = json!({
        "keys": drawn, "writerLine": line, "dataPassphrase": "correct horse data",
        "secretsPassphrase": "battery staple secrets", "slots": slots,
    });
    let golden = compare("slots.json", &value);
    for (capability, _, opener) in &wanted {
        let stored = slot::read(&unhex(&golden["slots"][capability.name()]), &REPOSITORY).unwrap();
        let opened = slot::open(&stored, opener).unwrap();
        for namespace in [Namespace::Data, Namespace::Secrets] {
            if let Some(opened) = opened.namespace(namespace) {
                assert_eq!(opened.epochs(), keys.namespace(namespace).unwrap().epochs());
            }
        }
    }
}

#[test]
fn golden_config() {
    let (keys, _, drawn) = make_keys("orkvault golden config");
    let sizes = |min, average, max, whole_below| ChunkSizes { min, average, max, whole_below };
    let config = Config {
        repository: REPOSITORY,
        required_features: 0,
        optional_features: 0,
        created_secs: 1_790_000_000,
        data_epochs: keys.data().unwrap().epochs().to_vec(),
        secrets_epochs: keys.secrets().unwrap().epochs().to_vec(),
        chunk_sizes: [
            sizes(2048, 8192, 65_536, 0),
            sizes(2048, 8192, 65_536, 0),
            sizes(16_384, 65_536, 524_288, 65_536),
            sizes(1024, 4096, 65_536, 0),
        ],
    };
    let stored = |part| {
        let config = config.of_part(part);
        let mut stored = config.encode_with_macs(&keys::config_macs(&keys, &config).unwrap());
        push_checksum(&mut stored);
        hex(&stored)
    };
    let parts = [("stored", Part::Whole), ("storedData", Part::Data), ("storedSecrets", Part::Secrets)];
    let mut value = json!({ "keys": drawn });
    for (name, part) in parts {
        value[name] = json!(stored(part));
    }
    let golden = compare("config.json", &value);
    for (name, part) in parts {
        let (read, macs, _) = Config::decode(&unhex(&golden[name])).unwrap();
        assert_eq!((&read, read.part()), (&config.of_part(part), part));
        assert_eq!(keys.check_config(&read, &macs), Ok(()));
    }
}

/// Pads a body to a sealed object's payload.
fn payload(codec: Codec, raw_len: u64, body: &[u8]) -> Vec<u8> {
    let bare = HEADER_LEN + PAYLOAD_HEADER_LEN + body.len() + TAG_LEN + 32;
    let padding = usize::try_from(padded_len(bare as u64)).unwrap() - bare;
    Payload { codec, raw_len, body, padding }.encode()
}

#[test]
fn golden_objects() {
    let (keys, entropy, drawn) = make_keys("orkvault golden objects");
    let wanted = [
        ("index", SealedKind::Index, Namespace::Data, [0; 32]),
        ("snapshot", SealedKind::Snapshot, Namespace::Data, [0x51; 32]),
        ("secretsSnapshot", SealedKind::Snapshot, Namespace::Secrets, [0x52; 32]),
        ("tombstone", SealedKind::Tombstone, Namespace::Data, [0x53; 32]),
        ("verified", SealedKind::Verified, Namespace::Data, [0x54; 32]),
    ];
    let bodies = [payload(Codec::Stored, 5, b"plain"), payload(Codec::Zstd, 100, &FRAME)];
    let mut objects = serde_json::Map::new();
    for (place, (name, kind, namespace, id)) in wanted.iter().enumerate() {
        let sealer = ObjectSealer::new(keys.namespace(*namespace).unwrap(), *kind, &entropy).unwrap();
        let plain = &bodies[usize::from(place > 0)];
        let stored = sealer.seal(*kind, &Binding { repository: REPOSITORY, object: *id }, plain).unwrap();
        assert_eq!(padded_len(stored.len() as u64), stored.len() as u64);
        let body = if place > 0 { "a".repeat(100) } else { "plain".to_owned() };
        let fields = json!({
            "kind": kind.code(), "namespace": namespace.code(), "id": hex(id),
            "payload": hex(plain), "body": body, "stored": hex(&stored),
        });
        objects.insert((*name).to_owned(), fields);
    }
    let golden = compare("objects.json", &json!({ "keys": drawn, "objects": objects }));
    for (name, kind, namespace, id) in wanted {
        let object = &golden["objects"][name];
        let binding = Binding { repository: REPOSITORY, object: id };
        let plain = open_object(keys.namespace(namespace).unwrap(), kind, &binding, &unhex(&object["stored"]));
        assert_eq!(plain.unwrap(), unhex(&object["payload"]));
    }
}

/// Builds a pack as section 7 says, with a stored segment and a compressed one.
fn pack(keys: &KeySet, entropy: &Fixed, kind: PackKind) -> (PackRecord, Value) {
    let data = keys.data().unwrap();
    let ids = data.chunk_ids(kind);
    let chunk = |bytes: &[u8]| ChunkRecord { id: ids.id(bytes), len: u32::try_from(bytes.len()).unwrap() };
    let repeated = [b'a'; 100];
    let first = chunk(b"first chunk, ");
    let segments = [
        (Codec::Stored, b"first chunk, second chunk".to_vec(), vec![first, chunk(b"second chunk")]),
        (Codec::Zstd, FRAME.to_vec(), vec![chunk(&repeated[..60]), chunk(&repeated[..40])]),
    ];
    let (sealer, entry) = PackSealer::new(data, &REPOSITORY, kind, first.id.as_bytes(), entropy).unwrap();
    let header = PackHeader { kind, namespace: Namespace::Data, keys: vec![entry] }.encode();
    let mut stored = header.clone();
    let mut directory = Directory::default();
    for (counter, (codec, encoded, chunks)) in (0..).zip(&segments) {
        let plain_len = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let start = stored.len();
        let nonce = sealer.seal_segment(counter, codec.code(), plain_len, encoded, &mut stored);
        let stored_len = u32::try_from(stored.len() - start).unwrap();
        directory.segments.push(SegmentRecord { stored_len, codec: *codec, key: 0, nonce, chunks: chunks.clone() });
    }
    let plain = directory.encode_padded();
    let sealed = sealer.seal_directory(&header, &plain, entropy).unwrap();
    let whole = padded_len((stored.len() + sealed.len() + DIRECTORY_TAIL_LEN) as u64);
    let padding = usize::try_from(whole).unwrap() - stored.len() - sealed.len() - DIRECTORY_TAIL_LEN;
    stored.extend_from_slice(&sealer.padding(padding, entropy).unwrap());
    stored.extend_from_slice(&sealed);
    stored.extend_from_slice(&u32::try_from(sealed.len()).unwrap().to_le_bytes());
    let record = PackRecord {
        id: PackId::from_bytes(*content_hash(&stored).as_bytes()),
        kind,
        stored_len: u32::try_from(stored.len()).unwrap(),
        header_len: u32::try_from(header.len()).unwrap(),
        directory,
    };
    let value = json!({
        "id": record.id.to_string(), "headerLen": header.len(), "directory": hex(&plain), "stored": hex(&stored),
        "chunks": [
            { "id": first.id.to_string(), "plain": "first chunk, " },
            { "id": ids.id(b"second chunk").to_string(), "plain": "second chunk" },
            { "id": ids.id(&repeated[..60]).to_string(), "plain": "a".repeat(60) },
            { "id": ids.id(&repeated[..40]).to_string(), "plain": "a".repeat(40) },
        ],
    });
    (record, value)
}

#[test]
fn golden_packs() {
    let (keys, entropy, drawn) = make_keys("orkvault golden packs");
    let (content, content_value) = pack(&keys, &entropy, PackKind::Content);
    let (meta, meta_value) = pack(&keys, &entropy, PackKind::Meta);
    let mut part = IndexPart { packs: vec![content, meta] };
    part.packs.sort_by_key(|pack| pack.id);
    let value =
        json!({ "keys": drawn, "content": content_value, "meta": meta_value, "indexPart": hex(&part.encode()) });
    let golden = compare("packs.json", &value);
    assert_eq!(IndexPart::decode(&unhex(&golden["indexPart"])), Ok(part.clone()));
    for record in &part.packs {
        let fields = if record.kind == PackKind::Content { &golden["content"] } else { &golden["meta"] };
        let stored = unhex(&fields["stored"]);
        assert_eq!(content_hash(&stored).as_bytes(), record.id.as_bytes());
        let (header, header_len) = PackHeader::decode(&stored).unwrap();
        let tail = stored.len() - DIRECTORY_TAIL_LEN;
        let sealed_len = u32::from_le_bytes(stored[tail..].try_into().unwrap()) as usize;
        let sealed = &stored[tail - sealed_len..tail];
        let data = keys.data().unwrap();
        let plain = open_directory(data, &REPOSITORY, &stored[..header_len], sealed).unwrap();
        let directory = Directory::decode_padded(&plain).unwrap();
        assert_eq!(directory, record.directory);
        let key = DataKey::open(data, &REPOSITORY, record.kind, &header.keys[0]).unwrap();
        let mut from = header_len;
        let mut opened = Vec::new();
        for segment in &directory.segments {
            let to = from + segment.stored_len as usize;
            let encoded = key.open_segment(segment, &stored[from..to]).unwrap();
            let plain_len = usize::try_from(segment.plain_len()).unwrap();
            let plain = match segment.codec {
                Codec::Stored => encoded,
                Codec::Zstd => zstd::bulk::decompress(&encoded, plain_len).unwrap(),
            };
            assert_eq!(plain.len(), plain_len);
            let mut rest = plain.as_slice();
            for chunk in &segment.chunks {
                let (bytes, tail) = rest.split_at(chunk.len as usize);
                assert_eq!(data.chunk_ids(record.kind).id(bytes), chunk.id);
                rest = tail;
            }
            opened.extend_from_slice(&plain);
            from = to;
        }
        let chunks = fields["chunks"].as_array().unwrap();
        let expected: String = chunks.iter().map(|chunk| chunk["plain"].as_str().unwrap()).collect();
        assert_eq!(opened, expected.as_bytes());
    }
}

#[test]
fn golden_bundles() {
    let (keys, entropy, drawn) = make_keys("orkvault golden bundles");
    let file = |key: &str, mode: &str, content: Option<&str>| SecretFile {
        key: key.as_bytes().to_vec(),
        attributes: BTreeMap::from([("mode".to_owned(), mode.as_bytes().to_vec())]),
        content: content.map(|content| content.as_bytes().to_vec()),
    };
    let files =
        [file(".env", "0600", Some("A=1\n")), file("keys", "0700", None), file("keys/jwt.pem", "0644", Some("pem"))];
    let mut encoded = Vec::new();
    bundle::encode(&files, &mut encoded);
    let mut plain = Vec::new();
    bundle::pad(&encoded, &mut plain);
    let secrets = keys.secrets().unwrap();
    let binding = Binding { repository: REPOSITORY, object: [0x61; 32] };
    let stored = seal_bundle(secrets, &binding, &SecretBytes::new(plain), &entropy).unwrap();
    let id = content_hash(&stored).to_string();
    let value = json!({ "keys": drawn, "snapshot": hex(&[0x61; 32]), "id": id, "files": hex(&encoded), "stored": hex(&stored) });
    let golden = compare("bundles.json", &value);
    let opened = open_bundle(secrets, &binding, &unhex(&golden["stored"])).unwrap();
    let read = bundle::decode(bundle::unpad(opened.expose()).unwrap()).unwrap();
    assert!(read == files);
}

fn chunk(byte: u8) -> ChunkId {
    ChunkId::from_bytes([byte; 32])
}

/// Each page as an edit of earlier ones, whose numbers stand beside it, or whole where it is of none; chunk 240 and up
/// hold them.
fn edits(pages: &[(Vec<u8>, Vec<Extent>)]) -> Vec<Value> {
    let mut values = Vec::new();
    for (number, (parents, extents)) in (0_u8..).zip(pages) {
        let page = RecipePage::new(extents.iter().copied()).unwrap();
        let encoded = if parents.is_empty() {
            page.encode()
        } else {
            let old = |parent: &u8| RecipePage::new(pages[usize::from(*parent)].1.iter().copied()).unwrap();
            let old: Vec<_> = parents.iter().map(old).collect();
            let chunks: Vec<_> = parents.iter().map(|parent| chunk(240 + parent)).collect();
            PageEdit::between(&chunks, number, &old.iter().collect::<Vec<_>>(), &page).unwrap().encode()
        };
        let listed: Vec<Value> = extents
            .iter()
            .map(|extent| json!([extent.chunk.to_string(), extent.chunk_len, extent.offset, extent.len]))
            .collect();
        let id = chunk(240 + number).to_string();
        values.push(json!({ "id": id, "depth": number, "extents": listed, "encoded": hex(&encoded) }));
    }
    values
}

#[test]
fn golden_recipes() {
    let range = |byte, offset, len| Extent { chunk: chunk(byte), chunk_len: 1000, offset, len };
    let whole = |byte| Extent::whole(chunk(byte), 1000);
    let pages = [
        ("wholeChunksInOrder", vec![whole(1), whole(2), whole(3)]),
        ("repeated", vec![whole(1), whole(2), whole(1), whole(2), whole(3)]),
        ("ranges", vec![range(1, 0, 10), whole(2), range(1, 10, 990), range(3, 1, 1), whole(3), whole(4)]),
        ("long", (0..200).map(whole).collect()),
    ];
    let mut values = serde_json::Map::new();
    for (name, extents) in &pages {
        let listed: Vec<Value> = extents
            .iter()
            .map(|extent| json!([extent.chunk.to_string(), extent.chunk_len, extent.offset, extent.len]))
            .collect();
        let page = RecipePage::new(extents.iter().copied()).unwrap();
        let value = json!({ "extents": listed, "streamLen": page.stream_len(), "encoded": hex(&page.encode()) });
        values.insert((*name).to_owned(), value);
    }
    let page = |byte, stream_len| PageRef { chunk: chunk(byte), stream_len };
    let root = RecipeRoot { hash: content_hash(b"a stream"), pages: vec![page(9, 300_000), page(8, 1)] };
    let empty = RecipeRoot { hash: content_hash(b""), pages: Vec::new() };
    let roots = json!({ "twoPages": hex(&root.encode()), "empty": hex(&empty.encode()) });
    let changed = [whole(0), range(1, 0, 300), range(201, 7, 80), range(1, 380, 620)];
    let edited: Vec<(Vec<u8>, Vec<Extent>)> = vec![
        (vec![], (0..20).map(whole).collect()),
        (vec![0], changed.into_iter().chain((2..200).map(whole)).collect()),
        (vec![1], (12..20).chain(0..2).chain(210..213).map(whole).collect()),
        (vec![2, 0], (210..213).chain(3..6).chain(214..216).chain(6..9).map(whole).collect()),
    ];
    let golden = compare("recipes.json", &json!({ "pages": values, "roots": roots, "edits": edits(&edited) }));
    let mut expansion = PageExpansion::new(chunk(243));
    for (number, edit) in (0..4).zip(golden["edits"].as_array().unwrap()).rev() {
        assert!(expansion.wanted().contains(&chunk(240 + number)));
        expansion.push(chunk(240 + number), &unhex(&edit["encoded"])).unwrap();
    }
    assert!(expansion.finish(|_, _| ()).unwrap().page.extents().eq(edited[3].1.iter().copied()));
    for (name, extents) in pages {
        assert_eq!(RecipePage::decode(&unhex(&golden["pages"][name]["encoded"])), RecipePage::new(extents));
    }
    assert_eq!(RecipeRoot::decode(&unhex(&golden["roots"]["twoPages"])), Ok(root));
    assert_eq!(RecipeRoot::decode(&unhex(&golden["roots"]["empty"])), Ok(empty));
}

#[test]
fn golden_entries() {
    let hash = ContentHash::from_bytes([9; 32]);
    let extent = |byte, offset, len| Extent { chunk: chunk(byte), chunk_len: 70_000, offset, len };
    let attributes = BTreeMap::from([
        ("content-type".to_owned(), b"image/png".to_vec()),
        ("meta:owner".to_owned(), vec![0xff, 0]),
        ("tag:\u{e4}".to_owned(), Vec::new()),
    ]);
    let row = |key: &[u8], len, content| EntryRow { key: key.to_vec(), attributes: attributes.clone(), len, content };
    let rows = [
        row(b"bucket", 0, EntryContent::None),
        row(b"bucket/\xff\n", 0, EntryContent::Extents { hash, extents: Vec::new() }),
        row(
            b"bucket/a",
            70_020,
            EntryContent::Extents { hash, extents: vec![extent(1, 0, 70_000), extent(2, 300, 20)] },
        ),
        row(b"bucket/b", 1 << 40, EntryContent::Recipe { hash, root: chunk(3) }),
    ];
    let mut table = Vec::new();
    for row in &rows {
        row.encode(&mut table);
    }
    let sorted = rows.windows(2).all(|pair| pair[0].key < pair[1].key);
    let golden = compare("entries.json", &json!({ "table": hex(&table), "sorted": sorted }));
    let mut splitter = EntryRowSplitter::default();
    splitter.push(&unhex(&golden["table"]));
    for row in rows {
        assert_eq!(splitter.next_row(), Ok(Some(row)));
    }
    assert_eq!(splitter.end(), Ok(()));
}

fn origin() -> OriginRecord {
    OriginRecord {
        repository: orkvault::format::id::RepositoryId::from_bytes([12; 32]),
        snapshot: SnapshotId::from_bytes([13; 32]),
    }
}

fn full_manifest() -> Manifest {
    let time = |minute: u32| format!("2026-11-22T03:{minute:02}:00Z");
    let stream =
        |byte| StreamRecord { length: 12_345, blake3: ContentHash::from_bytes([byte; 32]), recipe: chunk(byte + 1) };
    let table = |byte| TableRecord { rows: 3, content_bytes: 99, table: stream(byte) };
    let complete = ComponentRecord {
        status: ComponentStatus::Complete,
        reason: None,
        started_at: time(0),
        finished_at: time(1),
        consistency: "point-in-time".into(),
        facts: BTreeMap::from([("database".into(), "orkestra".into()), ("mongo_version".into(), "7.0.14".into())]),
        streams: BTreeMap::from([("mongo.archive".into(), stream(1))]),
        entries: Some(table(3)),
        catalogue: Some(table(5)),
        warnings: vec!["a \"quoted\" warning\t\u{1}".into()],
    };
    let failed = ComponentRecord {
        status: ComponentStatus::Failed,
        reason: Some("no such container".into()),
        ..ComponentRecord::new(time(1), time(2))
    };
    let previous = |byte| PreviousRecord {
        snapshot: SnapshotId::from_bytes([byte; 32]),
        blake3: ContentHash::from_bytes([byte + 1; 32]),
    };
    Manifest {
        schema: manifest::SCHEMA.into(),
        created_at: time(0),
        environment: "prod".into(),
        host: "h\u{e4}nsel".into(),
        components: vec!["mongodb".into()],
        orkvault: Details {
            version: manifest::VERSION,
            tool: "orkvault 0.1.0".into(),
            status: SnapshotStatus::Incomplete,
            finished_at: time(3),
            components: BTreeMap::from([("mongodb".into(), complete), ("redis".into(), failed)]),
            writer: WriterRecord {
                id: WriterId::from_bytes([6; 32]),
                sequence: 2,
                previous: vec![previous(7), previous(10)],
            },
            secrets: Some(SecretsRef {
                snapshot: SnapshotId::from_bytes([9; 32]),
                location: Some("/mnt/secrets".into()),
            }),
            copied_from: Some(origin()),
            tags: vec!["before-upgrade".into()],
            stats: Stats { read_bytes: u64::MAX, new_bytes: 2, stored_bytes: 3, new_chunks: 4, known_chunks: 5 },
        },
    }
}

#[test]
fn golden_manifests() {
    let full = full_manifest();
    let bare = Manifest {
        components: Vec::new(),
        orkvault: Details {
            components: BTreeMap::new(),
            writer: WriterRecord { previous: Vec::new(), sequence: 1, ..full.orkvault.writer.clone() },
            secrets: None,
            copied_from: None,
            tags: Vec::new(),
            stats: Stats::default(),
            ..full.orkvault.clone()
        },
        ..full.clone()
    };
    let secrets = SecretsManifest {
        schema: manifest::SECRETS_SCHEMA.into(),
        created_at: full.created_at.clone(),
        environment: "prod".into(),
        host: "hansel".into(),
        bundle: orkvault::format::id::BundleId::from_bytes([1; 32]),
        files: 3,
        writer: WriterId::from_bytes([6; 32]),
        copied_from: None,
    };
    let copied = SecretsManifest { copied_from: Some(origin()), ..secrets.clone() };
    let line = CatalogueLine { name: "orkestra.users".into(), kind: "collection".into(), records: 12, bytes: 3456 };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let value = json!({
        "full": text(manifest::encode(&full)), "bare": text(manifest::encode(&bare)),
        "secrets": text(manifest::encode(&secrets)), "secretsCopied": text(manifest::encode(&copied)),
        "catalogueLine": text(manifest::encode(&line)),
    });
    let golden = compare("manifests.json", &value);
    let bytes = |name: &str| golden[name].as_str().unwrap().as_bytes().to_vec();
    assert_eq!(Manifest::decode(&bytes("full")), Ok(full));
    assert_eq!(Manifest::decode(&bytes("bare")), Ok(bare));
    assert_eq!(SecretsManifest::decode(&bytes("secrets")), Ok(secrets));
    assert_eq!(SecretsManifest::decode(&bytes("secretsCopied")), Ok(copied));
    assert_eq!(manifest::decode::<CatalogueLine>(&bytes("catalogueLine")), Ok(line));
}

fn cut_all(cutter: &Cutter, stream: &[u8], records: &[u64], blocks: &[u64]) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut front = 0;
    while front < stream.len() {
        let place = front as u64;
        let ends = Ends {
            front: place,
            records: &records[records.partition_point(|end| *end <= place)..],
            block: blocks.iter().copied().find(|end| *end > place),
        };
        let len = cutter.cut(&stream[front..], ends, true).unwrap();
        lens.push(len);
        front += len;
    }
    assert_eq!(front, stream.len());
    lens
}

#[test]
fn golden_cut_points() {
    let (keys, _, drawn) = make_keys("orkvault golden cut points");
    let gear = keys.data().unwrap().gear();
    let sizes = Sizes { min: 2048, average: 8192, max: 65_536 };
    let cutter = Cutter::new(sizes, &gear);
    let records: Vec<u64> = (1..150).map(|record| record * record * 7 % 1000 + record * 1000).collect();
    let inputs = [
        ("random", Fixed::bytes("orkvault golden stream 1", 200_001), Vec::new(), Vec::new()),
        ("records", Fixed::bytes("orkvault golden stream 2", 150_000), records, vec![40_000, 40_100, 90_001]),
        ("zeros", vec![0; 140_000], Vec::new(), Vec::new()),
    ];
    let mut values = serde_json::Map::new();
    for (name, stream, records, blocks) in &inputs {
        let lens = cut_all(&cutter, stream, records, blocks);
        assert!(lens.iter().all(|len| *len <= sizes.max));
        let value = json!({
            "len": stream.len(), "blake3": content_hash(stream).to_string(), "recordEnds": records, "blockEnds": blocks,
            "chunkLens": lens,
        });
        values.insert((*name).to_owned(), value);
    }
    let value = json!({
        "keys": drawn,
        "sizes": { "min": sizes.min, "average": sizes.average, "max": sizes.max },
        "streams": "random: BLAKE3 XOF of `orkvault golden stream 1`; records: of `orkvault golden stream 2`; zeros: zeros",
        "inputs": values,
    });
    compare("cut_points.json", &value);
}

#[test]
fn no_golden_file_is_missing_or_stray() {
    let found: BTreeSet<String> = std::fs::read_dir(at("tests/golden/v1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, NAMES.map(str::to_owned).into());
}

/// Every file of the library and of its tests, as text.
fn sources(directory: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Names in backquotes within square brackets: `[`a_test`, `another`]`.
fn named_tests(document: &str) -> Vec<&str> {
    let lists = document.split("[`").skip(1).filter_map(|rest| rest.split(']').next());
    lists.flat_map(|list| list.split('`').step_by(2)).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut texts = Vec::new();
    sources(&at("src"), &mut texts);
    sources(&at("tests"), &mut texts);
    for document in ["docs/FORMAT.md", "docs/THREATS.md"] {
        let text = std::fs::read_to_string(at(document)).unwrap();
        let names = named_tests(&text);
        assert!(names.len() > 15, "only {} promises of {document} name their test", names.len());
        for name in names {
            let declared = format!("fn {name}(");
            assert!(texts.iter().any(|text| text.contains(&declared)), "{document}: there is no test {name}");
        }
    }
}

#[test]
fn the_documented_limits_are_those_of_the_code() {
    macro_rules! limits_of {
        ($($name:ident),*) => { [$((stringify!($name), u64::from(limits::$name))),*] };
    }
    let limits = limits_of!(
        CONFIG_BYTES_MAX,
        SLOT_BYTES_MAX,
        SLOTS_MAX,
        EPOCHS_MAX,
        CHUNK_BYTES_MAX,
        SEGMENT_BYTES_MAX,
        SEGMENT_STORED_BYTES_MAX,
        SEGMENT_CHUNKS_MAX,
        PACK_BYTES_MAX,
        PACK_SEGMENTS_MAX,
        PACK_KEYS_MAX,
        DIRECTORY_BYTES_MAX,
        INDEX_BYTES_MAX,
        INDEX_PACKS_MAX,
        MANIFEST_BYTES_MAX,
        PAGE_CHUNKS_MAX,
        PAGE_EXTENTS_MAX,
        RECIPE_PAGES_MAX,
        RECIPE_DEPTH_MAX,
        PAGE_PARENTS_MAX,
        EXPANSION_PAGES_MAX,
        EXPANSION_EXTENTS_MAX,
        STREAM_BYTES_MAX,
        ENTRY_KEY_BYTES_MAX,
        ENTRY_ATTRIBUTES_MAX,
        ATTRIBUTE_NAME_BYTES_MAX,
        ATTRIBUTE_BYTES_MAX,
        ENTRY_BYTES_MAX,
        ENTRY_EXTENTS_MAX,
        BUNDLE_BYTES_MAX,
        BUNDLE_FILES_MAX,
        KDF_MEMORY_KIB_MIN,
        KDF_MEMORY_KIB_MAX,
        KDF_PASSES_MAX,
        KDF_LANES_MAX
    );
    let document = std::fs::read_to_string(at("docs/FORMAT.md")).unwrap();
    for (name, value) in limits {
        assert!(document.contains(&format!("| `{name}` | {value} |")), "{name} is {value} in the code");
    }
    assert_eq!(document.matches("_MAX` |").count() + document.matches("_MIN` |").count(), limits.len());
}
