//! What keys open and what they do not; what an enemy of the store can move about and what happens then
//! (`docs/FORMAT.md`, sections 5 to 7 and 12).

use std::collections::HashSet;
use std::sync::Mutex;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::keys::{self, KeySet, NamespaceKeys};
use super::pack::{DataKey, PackSealer, open_bundle, open_directory, seal_bundle};
use super::random::{Entropy, SystemEntropy, hedged};
use super::seal::{Binding, ObjectSealer, SealKey, open_object};
use super::secret::{Passphrase, SecretBytes, SecretKey};
use super::slot::{self, NewSlot, Opener};
use super::writer_key::WriterKey;
use super::{Error, hash};
use crate::format::config::{ChunkSizes, Config, Epoch};
use crate::format::envelope::{Codec, HEADER_LEN, SealedKind};
use crate::format::id::{ChunkId, RepositoryId};
use crate::format::object::Namespace;
use crate::format::pack::{
    ChunkRecord, DIRECTORY_HEAD_LEN, Directory, KeyEntry, PackHeader, PackKind, SegmentRecord, WrappedKey,
};
use crate::format::slot::{Capability, KdfParams, Slot, Unlock};

const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x11; 32]);
const OTHER_REPOSITORY: RepositoryId = RepositoryId::from_bytes([0x12; 32]);
const RNG: SystemEntropy = SystemEntropy;

fn all_keys() -> KeySet {
    keys::generate(&RNG).unwrap()
}

/// The keys that a slot of a capability gives.
fn keys_of(all: &KeySet, capability: Capability) -> KeySet {
    KeySet::decode(capability, &all.encode(capability).unwrap()).unwrap()
}

fn binding(byte: u8) -> Binding {
    Binding { repository: REPOSITORY, object: [byte; 32] }
}

fn cannot_open<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::CannotOpen { .. }))
}

/// A random generator that always returns the same bytes.
struct Stuck;

impl Entropy for Stuck {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        out.fill(0x42);
        Ok(())
    }
}

/// Notes what it gave.
#[derive(Default)]
struct Recording(Mutex<Vec<Vec<u8>>>);

impl Entropy for Recording {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        RNG.fill(out)?;
        self.0.lock().unwrap().push(out.to_vec());
        Ok(())
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Puts a right checksum under changed bytes, as an enemy would.
fn with_checksum(mut object: Vec<u8>) -> Vec<u8> {
    object.truncate(object.len() - 32);
    hash::push_checksum(&mut object);
    object
}

#[test]
fn the_writer_slot_holds_no_seed() {
    let entropy = Recording::default();
    let all = keys::generate(&entropy).unwrap();
    let drawn = entropy.0.into_inner().unwrap();
    let [writer, data_root, data_seed, secrets_root, secrets_seed] = drawn.as_slice() else {
        panic!("{} draws instead of 5", drawn.len());
    };
    let plain = all.encode(Capability::Writer).unwrap();
    for (there, part) in
        [(true, writer), (true, data_root), (true, secrets_root), (false, data_seed), (false, secrets_seed)]
    {
        assert_eq!(contains(&plain, part), there);
    }
    let plain = all.encode(Capability::DataReader).unwrap();
    for (there, part) in [(true, data_root), (true, data_seed), (false, secrets_root), (false, secrets_seed)] {
        assert_eq!(contains(&plain, part), there);
    }
    let plain = all.encode(Capability::SecretsReader).unwrap();
    for (there, part) in [(false, data_root), (false, data_seed), (true, secrets_root), (true, secrets_seed)] {
        assert_eq!(contains(&plain, part), there);
    }
}

#[test]
fn nobody_makes_a_slot_that_can_do_more_than_themselves() {
    let all = all_keys();
    let writer = keys_of(&all, Capability::Writer);
    let reader = keys_of(&all, Capability::DataReader);
    assert!(matches!(writer.encode(Capability::DataReader), Err(Error::NotCapable { .. })));
    assert!(matches!(writer.encode(Capability::SecretsReader), Err(Error::NotCapable { .. })));
    assert!(matches!(reader.encode(Capability::Writer), Err(Error::NotCapable { .. })));
    assert!(matches!(reader.encode(Capability::SecretsReader), Err(Error::NotCapable { .. })));
    assert!(matches!(all.encode(Capability::Auditor), Err(Error::NotCapable { .. })));
    let plain = all.encode(Capability::DataReader).unwrap();
    assert!(KeySet::decode(Capability::DataReader, &plain[..plain.len() - 1]).is_err());
    assert!(KeySet::decode(Capability::DataReader, &[&plain[..], &[0]].concat()).is_err());
    assert!(KeySet::decode(Capability::Writer, &plain).is_err());
}

#[test]
fn the_namespaces_share_no_key() {
    let all = all_keys();
    let (data, secrets) = (all.data().unwrap(), all.secrets().unwrap());
    let mut seen = HashSet::new();
    for keys in [data, secrets] {
        for key in [keys.psk(), keys.hedge(), keys.meta(), keys.index()] {
            assert!(seen.insert(*key.bytes()), "two uses share a key");
        }
    }
    assert_ne!(data.epochs(), secrets.epochs());
    assert_ne!(data.gear()[..], secrets.gear()[..]);
    let id = |kind| data.chunk_ids(kind).id(b"the same bytes");
    assert_ne!(id(PackKind::Content), id(PackKind::Meta));
    assert_ne!(id(PackKind::Content), all_keys().data().unwrap().chunk_ids(PackKind::Content).id(b"the same bytes"));
}

/// Seals one segment and a directory as a pack would.
struct SealedPack {
    header: PackHeader,
    record: SegmentRecord,
    segment: Vec<u8>,
    directory: Vec<u8>,
}

fn seal_pack(keys: &NamespaceKeys, kind: PackKind, content: &[u8], entropy: &dyn Entropy) -> SealedPack {
    let id = keys.chunk_ids(kind).id(content);
    let (sealer, entry) = PackSealer::new(keys, &REPOSITORY, kind, id.as_bytes(), entropy).unwrap();
    let mut segment = Vec::new();
    let nonce = sealer.seal_segment(0, Codec::Stored.code(), content.len() as u64, content, &mut segment);
    let record = SegmentRecord {
        stored_len: u32::try_from(segment.len()).unwrap(),
        codec: Codec::Stored,
        key: 0,
        nonce,
        chunks: vec![ChunkRecord { id, len: u32::try_from(content.len()).unwrap() }],
    };
    let header = PackHeader { kind, namespace: keys.namespace(), keys: vec![entry] };
    let plain = Directory { segments: vec![record.clone()] }.encode_padded();
    let directory = sealer.seal_directory(&header.encode(), &plain, entropy).unwrap();
    SealedPack { header, record, segment, directory }
}

#[test]
fn the_writer_opens_nothing_that_it_wrote() {
    let all = all_keys();
    let writer = keys_of(&all, Capability::Writer);
    let data = writer.data().unwrap();
    let pack = seal_pack(data, PackKind::Content, b"content", &RNG);
    let opened = DataKey::open(data, &REPOSITORY, PackKind::Content, &pack.header.keys[0]);
    assert!(matches!(opened, Err(Error::NotCapable { .. })));
    let secrets = writer.secrets().unwrap();
    let bundle = seal_bundle(secrets, &binding(1), &SecretBytes::new(vec![1; 65_536]), &RNG).unwrap();
    assert!(matches!(open_bundle(secrets, &binding(1), &bundle), Err(Error::NotCapable { .. })));
    assert!(open_bundle(all.secrets().unwrap(), &binding(1), &bundle).unwrap().expose() == vec![1; 65_536]);
    // What it may read: structure.
    let meta = seal_pack(data, PackKind::Meta, b"a recipe", &RNG);
    let key = DataKey::open(data, &REPOSITORY, PackKind::Meta, &meta.header.keys[0]).unwrap();
    assert_eq!(key.open_segment(&meta.record, &meta.segment).unwrap(), b"a recipe");
    assert!(open_directory(data, &REPOSITORY, &pack.header.encode(), &pack.directory).is_ok());
}

#[test]
fn data_keys_open_no_secrets() {
    let all = all_keys();
    let reader = keys_of(&all, Capability::DataReader);
    assert!(reader.secrets.is_none());
    assert!(matches!(reader.secrets(), Err(Error::NotCapable { .. })));
    let plain = SecretBytes::new(vec![7; 65_536]);
    let bundle = seal_bundle(all.secrets().unwrap(), &binding(1), &plain, &RNG).unwrap();
    let data = reader.data().unwrap();
    assert!(cannot_open(&open_bundle(data, &binding(1), &bundle)));
    // Nor where the object is dressed up as one of the data namespace.
    let mut dressed = bundle;
    dressed[11] = Namespace::Data.code();
    assert!(cannot_open(&open_bundle(data, &binding(1), &with_checksum(dressed))));
    let sealer = ObjectSealer::new(all.secrets().unwrap(), SealedKind::Snapshot, &RNG).unwrap();
    let mut snapshot = sealer.seal(SealedKind::Snapshot, &binding(1), b"manifest").unwrap();
    assert!(cannot_open(&open_object(data, SealedKind::Snapshot, &binding(1), &snapshot)));
    snapshot[11] = Namespace::Data.code();
    assert!(cannot_open(&open_object(data, SealedKind::Snapshot, &binding(1), &with_checksum(snapshot))));
    // And the other way round.
    let secrets = keys_of(&all, Capability::SecretsReader);
    assert!(secrets.data.is_none());
    let pack = seal_pack(all.data().unwrap(), PackKind::Content, b"content", &RNG);
    let opened = DataKey::open(secrets.secrets().unwrap(), &REPOSITORY, PackKind::Content, &pack.header.keys[0]);
    assert!(cannot_open(&opened));
}

#[test]
fn content_sealed_without_the_writer_psk_is_refused() {
    let all = all_keys();
    // An enemy that knows the public keys and everything but the write roots.
    let mut bundle = all.encode(Capability::Writer).unwrap();
    bundle[32..64].fill(9);
    let secrets_root = 32 + 32 + 8 + 1216;
    bundle[secrets_root..secrets_root + 32].fill(9);
    let enemy = KeySet::decode(Capability::Writer, &bundle).unwrap();
    assert_eq!(enemy.data().unwrap().epochs(), all.data().unwrap().epochs());
    let pack = seal_pack(enemy.data().unwrap(), PackKind::Content, b"forged", &RNG);
    let opened = DataKey::open(all.data().unwrap(), &REPOSITORY, PackKind::Content, &pack.header.keys[0]);
    assert!(cannot_open(&opened));
    let forged = seal_bundle(enemy.secrets().unwrap(), &binding(1), &SecretBytes::new(vec![0; 65_536]), &RNG).unwrap();
    assert!(cannot_open(&open_bundle(all.secrets().unwrap(), &binding(1), &forged)));
    // The test is of the root: with it the same steps make content that opens.
    let honest = keys_of(&all, Capability::Writer);
    let pack = seal_pack(honest.data().unwrap(), PackKind::Content, b"honest", &RNG);
    assert!(DataKey::open(all.data().unwrap(), &REPOSITORY, PackKind::Content, &pack.header.keys[0]).is_ok());
}

#[test]
fn a_data_key_opens_only_where_it_was_made_for() {
    let all = all_keys();
    let data = all.data().unwrap();
    let open =
        |repository: &RepositoryId, kind, entry: &KeyEntry| DataKey::open(data, repository, kind, entry).map(drop);
    for kind in [PackKind::Content, PackKind::Meta] {
        let entry = seal_pack(data, kind, b"one", &RNG).header.keys.remove(0);
        let other = seal_pack(data, kind, b"two", &RNG).header.keys.remove(0);
        assert_eq!(open(&REPOSITORY, kind, &entry), Ok(()));
        assert!(cannot_open(&open(&OTHER_REPOSITORY, kind, &entry)));
        let other_kind = if kind == PackKind::Content { PackKind::Meta } else { PackKind::Content };
        assert!(cannot_open(&open(&REPOSITORY, other_kind, &entry)));
        assert!(open(&REPOSITORY, kind, &KeyEntry { epoch: 2, ..entry.clone() }).is_err());
        let spliced = KeyEntry { commitment: other.commitment, ..entry.clone() };
        assert!(cannot_open(&open(&REPOSITORY, kind, &spliced)));
        let spliced = KeyEntry { wrapped: other.wrapped, ..entry };
        assert!(cannot_open(&open(&REPOSITORY, kind, &spliced)));
    }
    // A secrets bundle's entry is none of a pack, not even within its own namespace.
    let secrets = all.secrets().unwrap();
    let bundle = seal_bundle(secrets, &binding(1), &SecretBytes::new(vec![1; 65_536]), &RNG).unwrap();
    let mut cursor = crate::format::cursor::Cursor::new("test", &bundle[HEADER_LEN..]);
    let entry = KeyEntry::take(&mut cursor).unwrap();
    assert!(cannot_open(&DataKey::open(secrets, &REPOSITORY, PackKind::Content, &entry)));
}

#[test]
fn a_segment_opens_only_under_its_own_key_codec_and_length() {
    let all = all_keys();
    let data = all.data().unwrap();
    let pack = seal_pack(data, PackKind::Content, b"segment of one", &RNG);
    let other = seal_pack(data, PackKind::Content, b"segment of two", &RNG);
    let key = DataKey::open(data, &REPOSITORY, PackKind::Content, &pack.header.keys[0]).unwrap();
    assert_eq!(key.open_segment(&pack.record, &pack.segment).unwrap(), b"segment of one");
    assert!(cannot_open(&key.open_segment(&other.record, &other.segment)), "a segment of another pack");
    assert!(cannot_open(&key.open_segment(&pack.record, &other.segment)), "other bytes");
    let bent = [
        SegmentRecord { codec: Codec::Zstd, ..pack.record.clone() },
        SegmentRecord { nonce: other.record.nonce, ..pack.record.clone() },
        SegmentRecord { chunks: vec![ChunkRecord { len: 13, ..pack.record.chunks[0] }], ..pack.record.clone() },
    ];
    for record in bent {
        assert!(cannot_open(&key.open_segment(&record, &pack.segment)), "{record:?}");
    }
    for at in 0..pack.segment.len() {
        let mut segment = pack.segment.clone();
        segment[at] ^= 0x80;
        assert!(cannot_open(&key.open_segment(&pack.record, &segment)), "byte {at}");
        assert!(cannot_open(&key.open_segment(&pack.record, &pack.segment[..at])), "cut at {at}");
    }
}

#[test]
fn a_directory_opens_only_with_its_own_header() {
    let all = all_keys();
    let data = all.data().unwrap();
    let pack = seal_pack(data, PackKind::Content, b"one", &RNG);
    let other = seal_pack(data, PackKind::Content, b"two", &RNG);
    let header = pack.header.encode();
    let plain = open_directory(data, &REPOSITORY, &header, &pack.directory).unwrap();
    assert_eq!(Directory::decode_padded(&plain), Ok(Directory { segments: vec![pack.record] }));
    assert!(cannot_open(&open_directory(data, &REPOSITORY, &other.header.encode(), &pack.directory)));
    assert!(cannot_open(&open_directory(data, &OTHER_REPOSITORY, &header, &pack.directory)));
    assert!(cannot_open(&open_directory(all_keys().data().unwrap(), &REPOSITORY, &header, &pack.directory)));
    for at in 0..pack.directory.len() {
        let mut directory = pack.directory.clone();
        directory[at] ^= 1;
        assert!(cannot_open(&open_directory(data, &REPOSITORY, &header, &directory)), "byte {at}");
        assert!(cannot_open(&open_directory(data, &REPOSITORY, &header, &pack.directory[..at])), "cut at {at}");
    }
}

#[test]
fn a_sealed_object_opens_only_in_its_place() {
    let all = all_keys();
    let data = all.data().unwrap();
    for kind in [SealedKind::Index, SealedKind::Snapshot, SealedKind::Tombstone, SealedKind::Verified] {
        let sealer = ObjectSealer::new(data, kind, &RNG).unwrap();
        let object = sealer.seal(kind, &binding(1), b"plain").unwrap();
        assert_eq!(open_object(data, kind, &binding(1), &object).unwrap(), b"plain");
        assert!(cannot_open(&open_object(data, kind, &binding(2), &object)), "another name");
        let elsewhere = Binding { repository: OTHER_REPOSITORY, ..binding(1) };
        assert!(cannot_open(&open_object(data, kind, &elsewhere, &object)), "another repository");
        assert!(cannot_open(&open_object(all_keys().data().unwrap(), kind, &binding(1), &object)), "other keys");
        for other in [SealedKind::Index, SealedKind::Snapshot, SealedKind::Tombstone, SealedKind::Verified] {
            if other != kind {
                assert!(cannot_open(&open_object(data, other, &binding(1), &object)), "another kind");
                let mut dressed = object.clone();
                dressed[10] = other.code();
                assert!(cannot_open(&open_object(data, other, &binding(1), &with_checksum(dressed))), "dressed up");
            }
        }
    }
}

#[test]
fn every_flipped_bit_of_an_object_is_noticed() {
    let all = all_keys();
    let data = all.data().unwrap();
    let sealer = ObjectSealer::new(data, SealedKind::Snapshot, &RNG).unwrap();
    let object = sealer.seal(SealedKind::Snapshot, &binding(1), &[5; 100]).unwrap();
    assert!(hash::ends_in_checksum(&object));
    for bit in 0..object.len() * 8 {
        let mut changed = object.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!hash::ends_in_checksum(&changed), "bit {bit}, without keys");
        assert!(open_object(data, SealedKind::Snapshot, &binding(1), &changed).is_err(), "bit {bit}");
        if bit / 8 < object.len() - 32 {
            let changed = with_checksum(changed);
            assert!(open_object(data, SealedKind::Snapshot, &binding(1), &changed).is_err(), "bit {bit}, by an enemy");
        }
    }
    for len in 0..object.len() {
        assert!(open_object(data, SealedKind::Snapshot, &binding(1), &object[..len]).is_err(), "cut at {len}");
    }
    assert!(!hash::ends_in_checksum(b"short"));
    let plain = SecretBytes::new(vec![3; 65_536]);
    let bundle = seal_bundle(all.secrets().unwrap(), &binding(1), &plain, &RNG).unwrap();
    let sealed_at = HEADER_LEN + KeyEntry::PUBLIC_LEN;
    for at in
        (0..HEADER_LEN).step_by(3).chain((HEADER_LEN..sealed_at).step_by(150)).chain([sealed_at, bundle.len() - 33])
    {
        let mut changed = bundle.clone();
        changed[at] ^= 4;
        assert!(open_bundle(all.secrets().unwrap(), &binding(1), &changed).is_err(), "byte {at}");
        let changed = with_checksum(changed);
        assert!(open_bundle(all.secrets().unwrap(), &binding(1), &changed).is_err(), "byte {at}, by an enemy");
    }
    let elsewhere = Binding { repository: OTHER_REPOSITORY, ..binding(1) };
    assert!(cannot_open(&open_bundle(all.secrets().unwrap(), &binding(2), &bundle)), "another snapshot's");
    assert!(cannot_open(&open_bundle(all.secrets().unwrap(), &elsewhere, &bundle)), "another repository's");
}

#[test]
fn equal_secrets_make_unequal_bundles_of_equal_size() {
    let all = all_keys();
    let secrets = all.secrets().unwrap();
    let seal = |value: &[u8], entropy: &dyn Entropy| {
        let mut plain = Vec::new();
        crate::format::bundle::pad(value, &mut plain);
        seal_bundle(secrets, &binding(1), &SecretBytes::new(plain), entropy).unwrap()
    };
    let (one, two) = (seal(b"PASSWORD=aaaaaaaa", &RNG), seal(b"PASSWORD=aaaaaaaa", &RNG));
    assert_ne!(hash::content_hash(&one), hash::content_hash(&two));
    let other = seal(b"PASSWORD=a much longer one", &RNG);
    assert_eq!((one.len(), one.len()), (two.len(), other.len()));
    // Even with a stuck generator other secrets get other keys and nonces.
    let (one, two) = (seal(b"PASSWORD=aaaaaaaa", &Stuck), seal(b"PASSWORD=aaaaaaab", &Stuck));
    assert_ne!(one[16..40], two[16..40], "nonces");
    assert_ne!(one[HEADER_LEN..HEADER_LEN + 1205], two[HEADER_LEN..HEADER_LEN + 1205], "key entries");
}

#[test]
fn a_stuck_random_generator_repeats_no_key_and_nonce() {
    let all = all_keys();
    let data = all.data().unwrap();
    // Equal data keys have equal commitments: the context is the same.
    let mut uses = HashSet::new();
    let mut commitments = HashSet::new();
    let mut wraps = HashSet::new();
    for place in 0..1000_u32 {
        let first = blake3::hash(&place.to_le_bytes());
        let kind = if place % 20 == 0 { PackKind::Content } else { PackKind::Meta };
        let (sealer, entry) = PackSealer::new(data, &REPOSITORY, kind, first.as_bytes(), &Stuck).unwrap();
        assert!(commitments.insert(entry.commitment), "a data key twice");
        let wrap = match entry.wrapped {
            WrappedKey::Public { encapsulation, .. } => encapsulation,
            WrappedKey::Meta { nonce, .. } => nonce.to_vec(),
        };
        assert!(wraps.insert(wrap), "a wrapping nonce twice");
        for segment in 0..3 {
            let nonce = sealer.seal_segment(segment, 0, 4, &place.to_le_bytes(), &mut Vec::new());
            assert!(uses.insert((entry.commitment, nonce)), "a key and nonce twice");
        }
    }
    // A cloned machine: the same first chunk, so the same key, and then other content.
    let clone = || PackSealer::new(data, &REPOSITORY, PackKind::Meta, &[1; 32], &Stuck).unwrap();
    let ((one, entry), (two, twin)) = (clone(), clone());
    assert_eq!(entry.commitment, twin.commitment);
    let nonce = one.seal_segment(0, 0, 3, b"one", &mut Vec::new());
    for (counter, codec, plain_len, encoded) in
        [(0, 0, 3, &b"two"[..]), (1, 0, 3, b"one"), (0, 1, 3, b"one"), (0, 0, 4, b"one"), (0, 0, 3, b"one2")]
    {
        let other = two.seal_segment(counter, codec, plain_len, encoded, &mut Vec::new());
        assert_ne!(other, nonce, "{counter} {codec} {plain_len}");
    }
    let directory = |plain: &[u8]| one.seal_directory(b"header", plain, &Stuck).unwrap()[..24].to_vec();
    assert_ne!(directory(b"one"), directory(b"two"));
    let sealer = ObjectSealer::new(data, SealedKind::Snapshot, &Stuck).unwrap();
    let nonce =
        |object, plain: &[u8]| sealer.seal(SealedKind::Snapshot, &binding(object), plain).unwrap()[16..40].to_vec();
    assert_ne!(nonce(1, b"one"), nonce(1, b"two"));
    assert_ne!(nonce(1, b"one"), nonce(2, b"one"));
}

#[test]
fn the_hedge_separates_labels_parts_and_keys() {
    let (one, two) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
    let draw = |key: &SecretKey, label: &str, parts: &[&[u8]]| -> [u8; 32] {
        hedged(&Stuck, key, label, parts).unwrap().array()
    };
    let drawn = [
        draw(&one, "a", &[b"bc", b"d"]),
        draw(&one, "a", &[b"b", b"cd"]),
        draw(&one, "a", &[b"bcd"]),
        draw(&one, "a", &[b"bc", b"d", b""]),
        draw(&one, "ab", &[b"c", b"d"]),
        draw(&two, "a", &[b"bc", b"d"]),
        hedged(&RNG, &one, "a", &[b"bc", b"d"]).unwrap().array(),
    ];
    assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
    assert_eq!(draw(&one, "a", &[b"bc", b"d"]), drawn[0]);
    let mut stream = hedged(&Stuck, &one, "a", &[]).unwrap();
    assert_ne!(stream.array::<32>(), stream.array::<32>());
}

/// A ciphertext that opens under the seal keys of `[1; 32]` and of `[2; 32]`: one block of it was solved for.
const TWO_KEYS: [u8; 48] = [
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x5a, 0x00, 0x87, 0xf8,
    0x21, 0xf2, 0xdd, 0xdb, 0x41, 0x89, 0xc1, 0xff, 0x66, 0xb1, 0x8c, 0xfa, 0xe5, 0xbb, 0x24, 0xc0, 0xd6, 0xb5, 0xb0,
    0xd3, 0x03, 0x80, 0x7b, 0x55, 0xe3, 0x30, 0x10, 0x20, 0xb4,
];

#[test]
fn a_ciphertext_that_opens_under_two_keys_is_refused_by_the_commitment() {
    let nonce: [u8; 24] = std::array::from_fn(|place| u8::try_from(place).unwrap());
    let aad = b"orkvault two keys";
    let (one, two) = (SealKey::new(&SecretKey::new([1; 32])), SealKey::new(&SecretKey::new([2; 32])));
    let (plain, twin) = (one.decrypt("test", &nonce, aad, &TWO_KEYS), two.decrypt("test", &nonce, aad, &TWO_KEYS));
    // The cipher alone takes it for two different things: the attack is real.
    assert_ne!(plain.unwrap(), twin.unwrap());
    let commitment = one.commitment(aad);
    assert_eq!(one.check("test", aad, &commitment), Ok(()));
    assert_eq!(two.check("test", aad, &commitment), Err(Error::CannotOpen { what: "test" }));
    assert!(one.check("test", b"another context", &commitment).is_err());
    // The cipher's key is not the key itself: nothing else can ever be sealed under it.
    let bare = XChaCha20Poly1305::new((&[1; 32]).into());
    assert!(bare.decrypt(&XNonce::from(nonce), Payload { msg: &TWO_KEYS, aad }).is_err());
}

#[test]
fn a_zero_commitment_is_an_error_everywhere() {
    let all = all_keys();
    let data = all.data().unwrap();
    let sealer = ObjectSealer::new(data, SealedKind::Index, &RNG).unwrap();
    let mut object = sealer.seal(SealedKind::Index, &binding(0), b"plain").unwrap();
    object[40..72].fill(0);
    assert!(cannot_open(&open_object(data, SealedKind::Index, &binding(0), &with_checksum(object))));
    let mut bundle =
        seal_bundle(all.secrets().unwrap(), &binding(1), &SecretBytes::new(vec![1; 65_536]), &RNG).unwrap();
    bundle[40..72].fill(0);
    assert!(cannot_open(&open_bundle(all.secrets().unwrap(), &binding(1), &with_checksum(bundle))));
    let pack = seal_pack(data, PackKind::Content, b"content", &RNG);
    let entry = KeyEntry { commitment: [0; 32], ..pack.header.keys[0].clone() };
    assert!(cannot_open(&DataKey::open(data, &REPOSITORY, PackKind::Content, &entry)));
    let mut directory = pack.directory.clone();
    directory[24..DIRECTORY_HEAD_LEN].fill(0);
    assert!(cannot_open(&open_directory(data, &REPOSITORY, &pack.header.encode(), &directory)));
    let key = WriterKey::generate(REPOSITORY, &RNG).unwrap();
    let stored = new_slot(&all, Capability::Writer, Unlock::RawKey, &key.opener());
    let slot = Slot { commitment: [0; 32], ..slot::read(&stored, &REPOSITORY).unwrap() };
    assert!(cannot_open(&slot::open(&slot, &key.opener()).map(drop)));
}

fn new_slot(keys: &KeySet, capability: Capability, unlock: Unlock, opener: &Opener<'_>) -> Vec<u8> {
    let new = NewSlot { capability, unlock, repository: REPOSITORY, created_secs: 1, label: "test" };
    slot::make(&new, keys, opener, &RNG).unwrap()
}

fn cheap() -> Unlock {
    Unlock::Passphrase(KdfParams::new(19_456, 1, 1).unwrap())
}

#[test]
fn a_slot_opens_with_its_own_key_only() {
    let all = all_keys();
    let passphrase = Passphrase::new(b"correct horse\n".to_vec());
    let stored = new_slot(&all, Capability::DataReader, cheap(), &Opener::Passphrase(&passphrase));
    let slot = slot::read(&stored, &REPOSITORY).unwrap();
    let opened = slot::open(&slot, &Opener::Passphrase(&Passphrase::new(b"correct horse".to_vec()))).unwrap();
    assert!(opened.data().unwrap().can_read());
    assert_eq!(opened.data().unwrap().epochs(), all.data().unwrap().epochs());
    let key = WriterKey::generate(REPOSITORY, &RNG).unwrap();
    for opener in [Opener::Passphrase(&Passphrase::new(b"correct horsf".to_vec())), key.opener()] {
        assert!(cannot_open(&slot::open(&slot, &opener).map(drop)));
    }
    assert_eq!(slot::read(&stored, &OTHER_REPOSITORY), Err(Error::OtherRepository { what: "the key slot" }));
    let stored = new_slot(&all, Capability::Writer, Unlock::RawKey, &key.opener());
    let slot = slot::read(&stored, &REPOSITORY).unwrap();
    let again = WriterKey::parse(&key.to_line()).unwrap();
    assert_eq!(slot::open(&slot, &again.opener()).unwrap().capability(), Capability::Writer);
    let other = WriterKey::generate(REPOSITORY, &RNG).unwrap();
    assert!(cannot_open(&slot::open(&slot, &other.opener()).map(drop)));
    for at in 0..stored.len() - 32 {
        let mut changed = stored.clone();
        changed[at] ^= 2;
        assert!(slot::read(&changed, &REPOSITORY).is_err(), "byte {at}");
        let opened = slot::read(&with_checksum(changed), &REPOSITORY).and_then(|slot| slot::open(&slot, &key.opener()));
        assert!(opened.is_err(), "byte {at}, by an enemy");
    }
}

#[test]
fn a_derivation_that_is_too_costly_fails_fast() {
    let all = all_keys();
    let passphrase = Passphrase::new(b"correct horse".to_vec());
    let stored = new_slot(&all, Capability::DataReader, cheap(), &Opener::Passphrase(&passphrase));
    for (memory, passes, lanes) in
        [(u32::MAX, 1, 1), (2 << 20, 16, 1), (19_456, u32::MAX, 1), (19_456, 1, u32::MAX), (8, 1, 1)]
    {
        let mut changed = stored.clone();
        for (at, number) in [(12, memory), (16, passes), (20, lanes)] {
            changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
        }
        // Reading fails: nothing was derived, because only an opened slot is.
        let read = slot::read(&with_checksum(changed), &REPOSITORY);
        assert!(matches!(read, Err(Error::Format(_))), "{memory} {passes} {lanes}");
    }
    // Lowered within the bounds: another key comes out, and the header is bound anyway.
    let mut changed = stored;
    changed[12..16].copy_from_slice(&19_457_u32.to_le_bytes());
    let slot = slot::read(&with_checksum(changed), &REPOSITORY).unwrap();
    assert!(cannot_open(&slot::open(&slot, &Opener::Passphrase(&passphrase)).map(drop)));
}

#[test]
fn passphrases_lose_one_line_end_and_must_have_a_length() {
    for (given, same) in [
        (&b"secret word\n"[..], true),
        (b"secret word\r\n", true),
        (b"secret word\n\n", false),
        (b"secret word ", false),
    ] {
        assert_eq!(Passphrase::new(given.to_vec()).is_same(&Passphrase::new(b"secret word".to_vec())), same);
    }
    assert!(Passphrase::new(b"1234567\n".to_vec()).check_strength().is_err());
    assert!(Passphrase::new(b"12345678".to_vec()).check_strength().is_ok());
}

#[test]
fn a_writer_key_is_one_line() {
    let line = WriterKey::generate(REPOSITORY, &RNG).unwrap().to_line();
    let key = WriterKey::parse(&line).unwrap();
    assert_eq!((key.repository, key.to_line()), (REPOSITORY, line.clone()));
    let trimmed = line.trim_end();
    for bad in [
        "",
        trimmed.trim_start_matches("orkvault"),
        &trimmed[..trimmed.len() - 1],
        &format!("{trimmed}:"),
        &trimmed.to_uppercase(),
    ] {
        assert!(matches!(WriterKey::parse(bad), Err(Error::BadWriterKey)), "{bad}");
    }
}

fn config_of(keys: &KeySet) -> Config {
    Config {
        repository: REPOSITORY,
        required_features: 0,
        optional_features: 0,
        created_secs: 1,
        data_epochs: keys.data().unwrap().epochs().to_vec(),
        secrets_epochs: keys.secrets().unwrap().epochs().to_vec(),
        chunk_sizes: [ChunkSizes { min: 64, average: 256, max: 1024, whole_below: 0 }; 4],
    }
}

#[test]
fn a_config_with_other_public_keys_is_refused() {
    let (all, enemy) = (all_keys(), all_keys());
    let mut config = config_of(&all);
    let macs = keys::config_macs(&all, &config).unwrap();
    for capability in [Capability::Writer, Capability::DataReader, Capability::SecretsReader] {
        assert_eq!(keys_of(&all, capability).check_config(&config, &macs), Ok(()));
    }
    config.secrets_epochs = enemy.secrets().unwrap().epochs().to_vec();
    // The store swaps the key: it has no root to authenticate that with.
    let writer = keys_of(&all, Capability::Writer);
    assert!(cannot_open(&writer.check_config(&config, &macs)));
    assert!(cannot_open(&writer.check_config(&config, &keys::config_macs(&enemy, &config).unwrap())));
    // Another writer, that has the roots, swaps it: the slot still says otherwise.
    let macs = keys::config_macs(&all, &config).unwrap();
    assert_eq!(writer.check_config(&config, &macs), Err(Error::PublicKeysChanged));
    config.secrets_epochs.insert(0, Epoch { number: 1, public_key: vec![0; 1216] });
    let macs = keys::config_macs(&all, &config).unwrap();
    assert_eq!(writer.check_config(&config, &macs), Err(Error::PublicKeysChanged));
}

#[test]
fn a_changed_config_is_refused() {
    let all = all_keys();
    let config = config_of(&all);
    let macs = keys::config_macs(&all, &config).unwrap();
    let stored = config.encode_with_macs(&macs);
    let reader = keys_of(&all, Capability::DataReader);
    let secrets_mac = stored.len() - 32;
    for at in 0..secrets_mac {
        let mut changed = stored.clone();
        changed[at] ^= 1;
        hash::push_checksum(&mut changed);
        let checked = Config::decode(&changed)
            .map_err(Error::from)
            .and_then(|(config, macs, _)| reader.check_config(&config, &macs));
        assert!(checked.is_err(), "byte {at}");
    }
}

#[test]
fn chunk_ids_are_the_repositorys_own() {
    let (one, two) = (all_keys(), all_keys());
    let id = |keys: &KeySet| -> ChunkId { keys.data().unwrap().chunk_ids(PackKind::Content).id(b"well-known file") };
    assert_eq!(id(&one), id(&keys_of(&one, Capability::Writer)));
    assert_eq!(id(&one), id(&keys_of(&one, Capability::DataReader)));
    assert_ne!(id(&one), id(&two));
    assert_ne!(id(&one).as_bytes(), blake3::hash(b"well-known file").as_bytes());
    assert_ne!(one.data().unwrap().gear()[..], two.data().unwrap().gear()[..]);
}
