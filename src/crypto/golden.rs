//! Golden keys: every derivation of `docs/FORMAT.md`, section 5, computed by the labels that are written
//! there and compared with `tests/golden/v1/keys.json` and with what this room uses.
//!
//! The other golden vectors are in `tests/it/golden.rs`. `ORKVAULT_BLESS=1` writes the file anew.

use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::Error;
use super::keys::{self, KeySet, NamespaceKeys};
use super::pack::{PSK_ID, PackSealer, Purpose, key_context, open_key};
use super::random::Entropy;
use super::seal::SealKey;
use super::secret::{Passphrase, SecretKey};
use super::slot::{Opener, opening_key};
use crate::format::id::RepositoryId;
use crate::format::pack::{PackKind, WrappedKey};
use crate::format::slot::{Capability, KdfParams, SlotHeader, Unlock};

/// Bytes that look random and are the same in every run.
struct Fixed(Mutex<blake3::OutputReader>);

impl Fixed {
    fn new(seed: &str) -> Self {
        Self(Mutex::new(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof()))
    }
}

impl Entropy for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        self.0.lock().expect("no test panics while drawing").fill(out);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compare(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name);
    let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
    if std::env::var_os("ORKVAULT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == text, "{name} is not what this program computes");
}

/// The keys of a namespace, each derived from its root as the document says and held against the room's own.
fn namespace(keys: &NamespaceKeys, root: &[u8], seed: &[u8]) -> Value {
    let name = keys.namespace().name();
    let label = |what: &str| format!("orkvault 2026-11 v1 {name} {what}");
    let derive = |what: &str| blake3::derive_key(&label(what), root);
    let used = [("meta", keys.meta()), ("writer-psk", keys.psk()), ("hedge", keys.hedge())];
    let mut derived = serde_json::Map::new();
    for (what, key) in &used {
        assert_eq!(derive(what), *key.bytes(), "{name} {what}");
    }
    let mut names = vec!["config-mac", "meta", "writer-psk", "hedge"];
    if name == "data" {
        assert_eq!(derive("index"), *keys.index().bytes());
        for (kind, what) in [(PackKind::Content, "chunk-id"), (PackKind::Meta, "meta-chunk-id")] {
            let id = blake3::keyed_hash(&derive(what), b"orkestra");
            assert_eq!(id.as_bytes(), keys.chunk_ids(kind).id(b"orkestra").as_bytes());
        }
        names.extend(["index", "chunk-id", "meta-chunk-id", "chunker"]);
    }
    for what in names {
        derived.insert(label(what), hex(&derive(what)).into());
    }
    json!({ "writeRoot": hex(root), "seed": hex(seed), "publicKey": hex(&keys.epochs()[0].public_key), "derived": derived })
}

fn seal_key() -> Value {
    let key = [1; 32];
    let (context, nonce, aad, plain) = (b"context", [2; 24], b"aad", b"plain bytes");
    let commit = blake3::derive_key("orkvault 2026-11 v1 commit", &key);
    let seal = SealKey::new(&SecretKey::new(key));
    assert_eq!(blake3::keyed_hash(&commit, context).as_bytes(), &seal.commitment(context));
    json!({
        "key": hex(&key),
        "cipherKey": hex(&blake3::derive_key("orkvault 2026-11 v1 seal", &key)),
        "commitmentKey": hex(&commit),
        "context": hex(context),
        "commitment": hex(&seal.commitment(context)),
        "nonce": hex(&nonce),
        "aad": hex(aad),
        "plain": hex(plain),
        "sealed": hex(&seal.encrypt(&nonce, aad, plain)),
    })
}

fn slot_keys(repository: RepositoryId) -> Value {
    let header = |unlock| SlotHeader {
        capability: Capability::DataReader,
        unlock,
        salt: [4; 32],
        repository,
        created_secs: 0,
        label: String::new(),
    };
    let raw = opening_key(&header(Unlock::RawKey), &Opener::RawKey(&SecretKey::new([3; 32]))).unwrap();
    let by_hand = blake3::derive_key("orkvault 2026-11 v1 raw slot key", &[[3; 32], [4; 32]].concat());
    assert_eq!(*raw.bytes(), by_hand);
    let passphrase = Passphrase::new(b"correct horse battery staple\n".to_vec());
    let kdf = KdfParams::new(19_456, 2, 3).unwrap();
    let derived = opening_key(&header(Unlock::Passphrase(kdf)), &Opener::Passphrase(&passphrase)).unwrap();
    json!({
        "rawKey": { "rawKey": hex(&[3; 32]), "salt": hex(&[4; 32]), "key": hex(raw.bytes()) },
        "argon2id": {
            "passphrase": "correct horse battery staple", "salt": hex(&[4; 32]),
            "memoryKib": 19_456, "passes": 2, "lanes": 3, "key": hex(derived.bytes()),
        },
    })
}

/// Wrapped data keys and what they open to.
fn data_keys(keys: &KeySet, repository: RepositoryId, entropy: &dyn Entropy) -> Value {
    let data = keys.data().unwrap();
    let mut all = serde_json::Map::new();
    for (name, kind) in [("content", PackKind::Content), ("meta", PackKind::Meta)] {
        let (_, entry) = PackSealer::new(data, &repository, kind, &[5; 32], entropy).unwrap();
        let context = key_context(&repository, data.namespace(), Purpose::Pack(kind), entry.epoch);
        let data_key = open_key(data, &repository, Purpose::Pack(kind), &entry).unwrap();
        assert_eq!(SealKey::new(&data_key).commitment(&context), entry.commitment);
        let mut encoded = Vec::new();
        entry.encode(&mut encoded);
        let mut fields = json!({
            "entry": hex(&encoded),
            "context": hex(&context),
            "commitment": hex(&entry.commitment),
            "dataKey": hex(data_key.bytes()),
        });
        let sealed = match &entry.wrapped {
            WrappedKey::Public { encapsulation, sealed } => {
                fields["pskId"] = hex(PSK_ID).into();
                fields["encapsulation"] = hex(encapsulation).into();
                sealed
            }
            WrappedKey::Meta { nonce, sealed } => {
                fields["nonce"] = hex(nonce).into();
                sealed
            }
        };
        fields["sealed"] = hex(sealed).into();
        all.insert(name.to_owned(), fields);
    }
    all.into()
}

#[test]
fn golden_keys() {
    let entropy = Fixed::new("orkvault golden keys");
    let keys = keys::generate(&entropy).unwrap();
    let repository = RepositoryId::from_bytes([0x0c; 32]);
    let [data, secrets] =
        [Capability::DataReader, Capability::SecretsReader].map(|capability| keys.encode(capability).unwrap());
    let gear = keys.data().unwrap().gear();
    let chunker = blake3::derive_key("orkvault 2026-11 v1 data chunker", &data[..32]);
    let mut table = [0; 2048];
    blake3::Hasher::new_keyed(&chunker).update(b"gear").finalize_xof().fill(&mut table);
    assert_eq!(gear.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(), table);
    let value = json!({
        "repository": repository.to_string(),
        "data": namespace(keys.data().unwrap(), &data[..32], &data[40..]),
        "secrets": namespace(keys.secrets().unwrap(), &secrets[..32], &secrets[40..]),
        "sealKey": seal_key(),
        "slotKeys": slot_keys(repository),
        "dataKeys": data_keys(&keys, repository, &entropy),
        "chunkIds": {
            "plain": hex(b"orkestra"),
            "content": keys.data().unwrap().chunk_ids(PackKind::Content).id(b"orkestra").to_string(),
            "meta": keys.data().unwrap().chunk_ids(PackKind::Meta).id(b"orkestra").to_string(),
        },
        "gear": { "first": gear[..4].iter().map(|value| format!("{value:016x}")).collect::<Vec<_>>(), "blake3": hex(blake3::hash(&table).as_bytes()) },
    });
    compare("keys.json", &value);
}
