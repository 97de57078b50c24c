//! The keys of the two namespaces, and what holding a set of them allows (`docs/FORMAT.md`, section 5).
//!
//! Each namespace has a random 32-byte write root, from which one key per use is derived with a fixed
//! context string, and an X-Wing key pair per epoch for reading. Nothing of one namespace is derived from
//! the other.

use hpke::kem::{Kem as _, XWing};
use hpke::{Deserializable as _, Serializable as _};
use zeroize::Zeroize as _;

use super::Error;
use super::piece::{FingerprintKey, PieceSealer};
use super::random::{Entropy, random_32};
use super::secret::SecretKey;
use crate::format::config::{Config, ConfigMacs, Epoch};
use crate::format::cursor::Cursor;
use crate::format::id::{ChunkId, WriterId};
use crate::format::limits;
use crate::format::object::Namespace;
use crate::format::slot::Capability;

/// The context strings of BLAKE3's key derivation: one per use, fixed for ever.
mod context {
    pub(super) const CONFIG_MAC: [&str; 2] =
        ["orkvault 2026-11 v1 data config-mac", "orkvault 2026-11 v1 secrets config-mac"];
    pub(super) const META: [&str; 2] = ["orkvault 2026-11 v1 data meta", "orkvault 2026-11 v1 secrets meta"];
    pub(super) const PSK: [&str; 2] = ["orkvault 2026-11 v1 data writer-psk", "orkvault 2026-11 v1 secrets writer-psk"];
    pub(super) const HEDGE: [&str; 2] = ["orkvault 2026-11 v1 data hedge", "orkvault 2026-11 v1 secrets hedge"];
    pub(super) const INDEX: &str = "orkvault 2026-11 v1 data index";
    pub(super) const CHUNK_ID: &str = "orkvault 2026-11 v1 data chunk-id";
    pub(super) const META_CHUNK_ID: &str = "orkvault 2026-11 v1 data meta-chunk-id";
    pub(super) const CHUNKER: &str = "orkvault 2026-11 v1 data chunker";
    pub(super) const FINGERPRINT: &str = "orkvault 2026-11 v1 data piece fingerprint";
    pub(super) const PIECE_FILE: &str = "orkvault 2026-11 v1 data piece file";
    pub(super) const PIECE_NONCE: &str = "orkvault 2026-11 v1 data piece nonce";
    pub(super) const PIECE_NAME: &str = "orkvault 2026-11 v1 data piece name";
}

fn pick(pair: [&'static str; 2], namespace: Namespace) -> &'static str {
    let [data, secrets] = pair;
    match namespace {
        Namespace::Data => data,
        Namespace::Secrets => secrets,
    }
}

/// The write root of a namespace.
pub struct WriteRoot(SecretKey);

impl WriteRoot {
    /// Draws a root.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, Error> {
        Ok(Self(SecretKey::new(random_32(entropy)?)))
    }

    pub(super) fn derive(&self, context: &str) -> SecretKey {
        SecretKey::new(blake3::derive_key(context, self.0.bytes()))
    }
}

/// The private key of an epoch.
pub struct ReaderKey {
    pub(super) epoch: u32,
    seed: SecretKey,
    /// Made of the seed, which takes half as long as opening something with it.
    private: <XWing as hpke::Kem>::PrivateKey,
}

impl ReaderKey {
    /// Draws a key pair.
    pub fn generate(epoch: u32, entropy: &dyn Entropy) -> Result<Self, Error> {
        Ok(Self::of_seed(epoch, SecretKey::new(random_32(entropy)?)))
    }

    fn of_seed(epoch: u32, seed: SecretKey) -> Self {
        let private = <XWing as hpke::Kem>::PrivateKey::from_bytes(seed.bytes()).expect("a seed has 32 bytes");
        Self { epoch, seed, private }
    }

    pub(super) fn private(&self) -> &<XWing as hpke::Kem>::PrivateKey {
        &self.private
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> Epoch {
        let public = XWing::sk_to_pk(&self.private);
        Epoch { number: self.epoch, public_key: public.to_bytes().to_vec() }
    }
}

/// What the holder of a write root can do in one namespace.
pub struct NamespaceKeys {
    namespace: Namespace,
    root: WriteRoot,
    /// Public keys that the holder trusts, oldest first.
    public: Vec<Epoch>,
    /// Private keys; empty for a writer.
    readers: Vec<ReaderKey>,
}

impl NamespaceKeys {
    /// Makes the keys of a new namespace: all of them, private too.
    pub fn generate(namespace: Namespace, entropy: &dyn Entropy) -> Result<Self, Error> {
        let root = WriteRoot::generate(entropy)?;
        let reader = ReaderKey::generate(1, entropy)?;
        Ok(Self { namespace, root, public: vec![reader.public()], readers: vec![reader] })
    }

    /// Which namespace.
    #[must_use]
    pub const fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Returns whether content can be opened with these keys.
    #[must_use]
    pub fn can_read(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Returns the public keys, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[Epoch] {
        &self.public
    }

    pub(super) fn newest(&self) -> Result<&Epoch, Error> {
        self.public.last().ok_or(Error::NotCapable { what: "seal content" })
    }

    pub(super) fn reader(&self, epoch: u32) -> Option<&ReaderKey> {
        self.readers.iter().find(|reader| reader.epoch == epoch)
    }

    pub(super) fn psk(&self) -> SecretKey {
        self.root.derive(pick(context::PSK, self.namespace))
    }

    pub(super) fn hedge(&self) -> SecretKey {
        self.root.derive(pick(context::HEDGE, self.namespace))
    }

    pub(super) fn meta(&self) -> SecretKey {
        self.root.derive(pick(context::META, self.namespace))
    }

    pub(super) fn index(&self) -> SecretKey {
        self.root.derive(context::INDEX)
    }

    fn config_mac(&self, config: &[u8]) -> [u8; 32] {
        let key = self.root.derive(pick(context::CONFIG_MAC, self.namespace));
        *blake3::keyed_hash(key.bytes(), config).as_bytes()
    }

    /// Returns the key that names chunks of content (`Meta`: of recipes and tables).
    #[must_use]
    pub fn chunk_ids(&self, kind: crate::format::pack::PackKind) -> ChunkIdKey {
        ChunkIdKey(self.root.derive(match kind {
            crate::format::pack::PackKind::Content => context::CHUNK_ID,
            crate::format::pack::PackKind::Meta => context::META_CHUNK_ID,
        }))
    }

    /// Returns the key that names pieces in the host's cache.
    #[must_use]
    pub fn fingerprints(&self) -> FingerprintKey {
        FingerprintKey::new(&self.root.derive(context::FINGERPRINT))
    }

    /// Returns what seals the host's piece cache.
    #[must_use]
    pub fn piece_sealer(&self) -> PieceSealer {
        PieceSealer::new(&self.root.derive(context::PIECE_FILE), self.root.derive(context::PIECE_NONCE))
    }

    pub(super) fn piece_names(&self) -> SecretKey {
        self.root.derive(context::PIECE_NAME)
    }

    /// Returns the gear table of the chunker: BLAKE3-XOF of a secret of this repository, so that cut points
    /// say nothing to whoever does not have it.
    #[must_use]
    pub fn gear(&self) -> [u64; 256] {
        let key = self.root.derive(context::CHUNKER);
        let mut reader = blake3::Hasher::new_keyed(key.bytes()).update(b"gear").finalize_xof();
        let mut table = [0; 256];
        for value in &mut table {
            let mut bytes = [0; 8];
            reader.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        table
    }
}

/// Names chunks: keyed BLAKE3 of their plaintext.
pub struct ChunkIdKey(SecretKey);

impl ChunkIdKey {
    /// Returns a chunk's id.
    #[must_use]
    pub fn id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId::from_bytes(*blake3::keyed_hash(self.0.bytes(), plaintext).as_bytes())
    }
}

/// Every key that one slot gives.
pub struct KeySet {
    capability: Capability,
    /// The writer that these keys stand for; readers have none.
    pub writer: Option<WriterId>,
    /// Keys of the data namespace, where the slot has any.
    pub data: Option<NamespaceKeys>,
    /// Keys of the secrets namespace, where the slot has any.
    pub secrets: Option<NamespaceKeys>,
}

impl KeySet {
    /// What the set can do.
    #[must_use]
    pub const fn capability(&self) -> Capability {
        self.capability
    }

    /// Returns the keys of a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: Namespace) -> Option<&NamespaceKeys> {
        match namespace {
            Namespace::Data => self.data.as_ref(),
            Namespace::Secrets => self.secrets.as_ref(),
        }
    }

    /// Returns the keys of the data namespace.
    pub fn data(&self) -> Result<&NamespaceKeys, Error> {
        self.data.as_ref().ok_or(Error::NotCapable { what: "reach the data namespace" })
    }

    /// Returns the keys of the secrets namespace.
    pub fn secrets(&self) -> Result<&NamespaceKeys, Error> {
        self.secrets.as_ref().ok_or(Error::NotCapable { what: "reach the secrets namespace" })
    }

    /// Checks a config against these keys: its codes, its repository, its public keys.
    pub fn check_config(&self, config: &Config, macs: &ConfigMacs) -> Result<(), Error> {
        let encoded = config.encode();
        for keys in [&self.data, &self.secrets].into_iter().flatten() {
            let found = match keys.namespace {
                Namespace::Data => &macs.data,
                Namespace::Secrets => &macs.secrets,
            };
            if blake3::Hash::from_bytes(keys.config_mac(&encoded)) != blake3::Hash::from_bytes(*found) {
                return Err(Error::CannotOpen { what: "the repository's config" });
            }
            if config.epochs(keys.namespace) != keys.public {
                return Err(Error::PublicKeysChanged);
            }
        }
        Ok(())
    }

    /// Returns the plain bytes of a slot with `capability`, out of a set that holds everything it needs.
    pub(super) fn encode(&self, capability: Capability) -> Result<Vec<u8>, Error> {
        // Large enough for every bundle: a growing vector would leave copies of keys behind.
        let mut out = Vec::with_capacity(usize::try_from(limits::SLOT_BYTES_MAX).unwrap_or(1 << 16));
        match capability {
            Capability::Writer => {
                let writer = self.writer.ok_or(Error::NotCapable { what: "make a writer slot" })?;
                out.extend_from_slice(writer.as_bytes());
                for keys in [self.data()?, self.secrets()?] {
                    out.extend_from_slice(keys.root.0.bytes());
                    push_count(&mut out, keys.public.len());
                    for epoch in &keys.public {
                        out.extend_from_slice(&epoch.public_key);
                    }
                }
            }
            Capability::DataReader | Capability::SecretsReader => {
                let keys = if capability == Capability::DataReader { self.data()? } else { self.secrets()? };
                if !keys.can_read() {
                    return Err(Error::NotCapable { what: "make a reader slot" });
                }
                out.extend_from_slice(keys.root.0.bytes());
                push_count(&mut out, keys.readers.len());
                for reader in &keys.readers {
                    out.extend_from_slice(reader.seed.bytes());
                }
            }
            Capability::Auditor => return Err(Error::NotCapable { what: "make an auditor slot yet" }),
        }
        Ok(out)
    }

    /// Reads the plain bytes of a slot.
    pub(super) fn decode(capability: Capability, bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new("slot keys", bytes);
        let mut set = Self { capability, writer: None, data: None, secrets: None };
        match capability {
            Capability::Writer => {
                set.writer = Some(WriterId::take(&mut cursor)?);
                set.data = Some(take_public(Namespace::Data, &mut cursor)?);
                set.secrets = Some(take_public(Namespace::Secrets, &mut cursor)?);
            }
            Capability::DataReader => set.data = Some(take_private(Namespace::Data, &mut cursor)?),
            Capability::SecretsReader => set.secrets = Some(take_private(Namespace::Secrets, &mut cursor)?),
            Capability::Auditor => return Err(Error::NotCapable { what: "open an auditor slot yet" }),
        }
        cursor.end()?;
        Ok(set)
    }
}

/// Makes a new repository's keys: everything, to be split into slots.
pub fn generate(entropy: &dyn Entropy) -> Result<KeySet, Error> {
    Ok(KeySet {
        capability: Capability::Writer,
        writer: Some(WriterId::from_bytes(random_32(entropy)?)),
        data: Some(NamespaceKeys::generate(Namespace::Data, entropy)?),
        secrets: Some(NamespaceKeys::generate(Namespace::Secrets, entropy)?),
    })
}

/// Returns the codes of a config. Needs both roots.
pub fn config_macs(keys: &KeySet, config: &Config) -> Result<ConfigMacs, Error> {
    let encoded = config.encode();
    Ok(ConfigMacs { data: keys.data()?.config_mac(&encoded), secrets: keys.secrets()?.config_mac(&encoded) })
}

fn push_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u64).to_le_bytes());
}

fn take_count(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let count = limits::check("key epochs", cursor.u64()?, limits::EPOCHS_MAX)?;
    Ok(u32::try_from(count).expect("the limit is far below 2^32"))
}

fn take_root(cursor: &mut Cursor<'_>) -> Result<WriteRoot, Error> {
    let mut bytes: [u8; 32] = cursor.array()?;
    let root = WriteRoot(SecretKey::new(bytes));
    bytes.zeroize();
    Ok(root)
}

fn take_public(namespace: Namespace, cursor: &mut Cursor<'_>) -> Result<NamespaceKeys, Error> {
    let root = take_root(cursor)?;
    let mut public = Vec::new();
    for number in 1..=take_count(cursor)? {
        let public_key = cursor.take(crate::format::config::PUBLIC_KEY_LEN)?.to_vec();
        public.push(Epoch { number, public_key });
    }
    Ok(NamespaceKeys { namespace, root, public, readers: Vec::new() })
}

fn take_private(namespace: Namespace, cursor: &mut Cursor<'_>) -> Result<NamespaceKeys, Error> {
    let root = take_root(cursor)?;
    let mut readers = Vec::new();
    for epoch in 1..=take_count(cursor)? {
        readers.push(ReaderKey::of_seed(epoch, SecretKey::new(cursor.array()?)));
    }
    let public = readers.iter().map(ReaderKey::public).collect();
    Ok(NamespaceKeys { namespace, root, public, readers })
}
