//! Data keys, segments and directories of packs, and secrets bundles (`docs/FORMAT.md`, sections 7, 12).
//!
//! Each pack has a fresh data key, sealed to the namespace's public key (content) or under the meta key
//! (recipes and tables). Segment nonces are 16 bytes of the segment's own keyed hash and a counter: even a
//! random generator that repeats itself never makes one nonce serve two contents. HPKE runs in PSK mode,
//! so that nobody without the writer's root can forge content.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable as _, OpModeR, OpModeS, PskBundle, Serializable as _};
use zeroize::Zeroizing;

use super::keys::NamespaceKeys;
use super::random::{Entropy, hedged};
use super::seal::{Binding, SealKey, context};
use super::secret::{SecretBytes, SecretKey};
use super::{Error, hash};
use crate::format::envelope::{Envelope, Header, SealedKind, TAG_LEN};
use crate::format::id::RepositoryId;
use crate::format::object::Namespace;
use crate::format::pack::{DIRECTORY_HEAD_LEN, KeyEntry, PackKind, SegmentRecord, WrappedKey};

pub(super) const PSK_ID: &[u8] = b"orkvault v1 writer-psk";

/// What a data key is for; part of what it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Pack(PackKind),
    Bundle,
}

impl Purpose {
    const fn code(self) -> u8 {
        match self {
            Self::Pack(kind) => kind.code(),
            Self::Bundle => 5,
        }
    }
}

/// The key of one pack's segments.
pub struct DataKey {
    key: SealKey,
    repository: RepositoryId,
    namespace: Namespace,
    kind: PackKind,
    commitment: [u8; 32],
}

/// Seals the segments of one pack and its directory.
pub struct PackSealer {
    data_key: DataKey,
    nonces: SecretKey,
    index: SealKey,
    hedge: SecretKey,
}

pub(super) fn key_context(repository: &RepositoryId, namespace: Namespace, purpose: Purpose, epoch: u32) -> Vec<u8> {
    let mut out = b"orkvault 2026-11 v1 data key".to_vec();
    out.extend_from_slice(repository.as_bytes());
    out.push(namespace.code());
    out.push(purpose.code());
    out.extend_from_slice(&epoch.to_le_bytes());
    out
}

/// Draws a data key and wraps it.
fn make_key(
    keys: &NamespaceKeys,
    repository: &RepositoryId,
    purpose: Purpose,
    first_content: &[u8; 32],
    entropy: &dyn Entropy,
) -> Result<(SecretKey, KeyEntry), Error> {
    let hedge = keys.hedge();
    let mut random = hedged(entropy, &hedge, "data key", &[&[purpose.code()], first_content])?;
    let data_key = SecretKey::new(random.array());
    let epoch = keys.newest()?;
    let context = key_context(repository, keys.namespace(), purpose, epoch.number);
    let commitment = SealKey::new(&data_key).commitment(&context);
    let wrapped = if purpose == Purpose::Pack(PackKind::Meta) {
        let nonce = random.array();
        let sealed =
            SealKey::new(&keys.meta()).encrypt(&nonce, &[&context[..], &commitment].concat(), data_key.bytes());
        WrappedKey::Meta { nonce, sealed: sealed.try_into().map_err(|_| Error::CannotOpen { what: "data key" })? }
    } else {
        let psk = keys.psk();
        let mode = OpModeS::Psk(psk_bundle(&psk));
        let public = <XWing as hpke::Kem>::PublicKey::from_bytes(&epoch.public_key)
            .map_err(|_| Error::CannotOpen { what: "public key" })?;
        let (encapsulation, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &mode,
            &public,
            &context,
            data_key.bytes(),
            &commitment,
            &mut random,
        )
        .map_err(|_| Error::CannotOpen { what: "data key" })?;
        WrappedKey::Public {
            encapsulation: encapsulation.to_bytes().to_vec(),
            sealed: sealed.try_into().map_err(|_| Error::CannotOpen { what: "data key" })?,
        }
    };
    Ok((data_key, KeyEntry { epoch: epoch.number, wrapped, commitment }))
}

fn psk_bundle(psk: &SecretKey) -> PskBundle<'_> {
    PskBundle::new(psk.bytes(), PSK_ID).expect("neither the key nor its id is empty")
}

/// Opens a wrapped data key. Fails the same way for a wrong key and for changed bytes.
pub(super) fn open_key(
    keys: &NamespaceKeys,
    repository: &RepositoryId,
    purpose: Purpose,
    entry: &KeyEntry,
) -> Result<SecretKey, Error> {
    let what = "data key";
    let context = key_context(repository, keys.namespace(), purpose, entry.epoch);
    let plain = match &entry.wrapped {
        WrappedKey::Meta { nonce, sealed } if purpose == Purpose::Pack(PackKind::Meta) => {
            SealKey::new(&keys.meta()).decrypt(what, nonce, &[&context[..], &entry.commitment].concat(), sealed)?
        }
        WrappedKey::Public { encapsulation, sealed } if purpose != Purpose::Pack(PackKind::Meta) => {
            let Some(reader) = keys.reader(entry.epoch) else {
                // An epoch that a reader does not know was never written: the entry was changed.
                let changed = Error::CannotOpen { what };
                return Err(if keys.can_read() { changed } else { Error::NotCapable { what: "read content" } });
            };
            let psk = keys.psk();
            let encapsulation =
                <XWing as hpke::Kem>::EncappedKey::from_bytes(encapsulation).map_err(|_| Error::CannotOpen { what })?;
            hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
                &OpModeR::Psk(psk_bundle(&psk)),
                reader.private(),
                &encapsulation,
                &context,
                sealed,
                &entry.commitment,
            )
            .map_err(|_| Error::CannotOpen { what })?
        }
        _ => return Err(Error::CannotOpen { what }),
    };
    let plain = Zeroizing::new(plain);
    let bytes = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| Error::CannotOpen { what })?;
    let data_key = SecretKey::new(bytes);
    SealKey::new(&data_key).check(what, &context, &entry.commitment)?;
    Ok(data_key)
}

impl DataKey {
    /// Opens the data key of a pack. Content needs a reader; a meta pack needs the meta key only.
    pub fn open(
        keys: &NamespaceKeys,
        repository: &RepositoryId,
        kind: PackKind,
        entry: &KeyEntry,
    ) -> Result<Self, Error> {
        let key = open_key(keys, repository, Purpose::Pack(kind), entry)?;
        Ok(Self {
            key: SealKey::new(&key),
            repository: *repository,
            namespace: keys.namespace(),
            kind,
            commitment: entry.commitment,
        })
    }

    /// What a segment is bound to. Its position is the counter in its nonce, its stored length is that of
    /// the sealed bytes.
    fn aad(&self, codec: u8, plain_len: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(b"orkvault v1 segment");
        out.extend_from_slice(self.repository.as_bytes());
        out.push(self.namespace.code());
        out.push(self.kind.code());
        out.extend_from_slice(&self.commitment);
        out.push(codec);
        out.extend_from_slice(&plain_len.to_le_bytes());
        out
    }

    /// Opens one segment and returns its still encoded bytes.
    pub fn open_segment(&self, record: &SegmentRecord, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let aad = self.aad(record.codec.code(), record.plain_len());
        self.key.decrypt("segment", &record.nonce, &aad, sealed)
    }

    /// Opens one segment into a buffer that is used again: its still encoded bytes. What is in the buffer after
    /// an error is of no use.
    pub fn open_segment_into(&self, record: &SegmentRecord, sealed: &[u8], encoded: &mut Vec<u8>) -> Result<(), Error> {
        let aad = self.aad(record.codec.code(), record.plain_len());
        self.key.decrypt_into("segment", &record.nonce, &aad, sealed, encoded)
    }
}

impl PackSealer {
    /// Makes the key of a new pack. `first_content` is any hash of the pack's first content.
    pub fn new(
        keys: &NamespaceKeys,
        repository: &RepositoryId,
        kind: PackKind,
        first_content: &[u8; 32],
        entropy: &dyn Entropy,
    ) -> Result<(Self, KeyEntry), Error> {
        let (key, entry) = make_key(keys, repository, Purpose::Pack(kind), first_content, entropy)?;
        let hedge = keys.hedge();
        let data_key = DataKey {
            key: SealKey::new(&key),
            repository: *repository,
            namespace: keys.namespace(),
            kind,
            commitment: entry.commitment,
        };
        let nonces = SecretKey::new(blake3::derive_key("orkvault 2026-11 v1 segment nonce", hedge.bytes()));
        Ok((Self { data_key, nonces, index: SealKey::new(&keys.index()), hedge }, entry))
    }

    /// Seals the `counter`-th segment, `encoded` bytes in `codec` that decode to `plain_len`, behind what is in `out`.
    /// Returns its nonce.
    #[must_use]
    pub fn seal_segment(&self, counter: u64, codec: u8, plain_len: u64, encoded: &[u8], out: &mut Vec<u8>) -> [u8; 24] {
        let mut nonce = [0; 24];
        let aad = self.data_key.aad(codec, plain_len);
        // The aad too: under a key that repeats, the same bytes with another codec would share a nonce.
        let content = blake3::Hasher::new_keyed(self.nonces.bytes()).update(&aad).update(encoded).finalize();
        for (place, byte) in nonce.iter_mut().zip(content.as_bytes().iter().take(16).chain(&counter.to_le_bytes())) {
            *place = *byte;
        }
        self.data_key.key.encrypt_onto(&nonce, &aad, encoded, out);
        nonce
    }

    /// Seals the directory; returns nonce, commitment and sealed bytes, one behind the other.
    pub fn seal_directory(&self, header: &[u8], plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>, Error> {
        let nonce: [u8; 24] = hedged(entropy, &self.hedge, "directory nonce", &[header, plain])?.array();
        let aad = directory_context(&self.data_key.repository, header);
        let mut out = nonce.to_vec();
        out.extend_from_slice(&self.index.commitment(&aad));
        out.extend_from_slice(&self.index.encrypt(&nonce, &aad, plain));
        Ok(out)
    }

    /// Returns random bytes that look like more segments.
    pub fn padding(&self, len: usize, entropy: &dyn Entropy) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; len];
        rand_core::Rng::fill_bytes(&mut hedged(entropy, &self.hedge, "padding", &[])?, &mut out);
        Ok(out)
    }
}

fn directory_context(repository: &RepositoryId, header: &[u8]) -> Vec<u8> {
    let mut out = b"orkvault v1 directory".to_vec();
    out.extend_from_slice(repository.as_bytes());
    out.extend_from_slice(hash::content_hash(header).as_bytes());
    out
}

/// Opens a pack's directory: `sealed` is nonce, commitment and sealed bytes.
pub fn open_directory(
    keys: &NamespaceKeys,
    repository: &RepositoryId,
    header: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    let what = "pack directory";
    let short = Error::CannotOpen { what };
    let (head, sealed) = sealed.split_at_checked(DIRECTORY_HEAD_LEN).ok_or_else(|| short.clone())?;
    let (nonce, commitment) = head.split_at_checked(24).ok_or_else(|| short.clone())?;
    let nonce = nonce.try_into().map_err(|_| short.clone())?;
    let commitment = commitment.try_into().map_err(|_| short)?;
    let key = SealKey::new(&keys.index());
    let aad = directory_context(repository, header);
    key.check(what, &aad, commitment)?;
    key.decrypt(what, nonce, &aad, sealed)
}

/// Seals a secrets bundle to the secrets public key and returns the stored object.
pub fn seal_bundle(
    keys: &NamespaceKeys,
    binding: &Binding,
    plain: &SecretBytes,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, Error> {
    // The content takes part in the hedge only through a keyed hash: no plain hash of a secret is ever made.
    let hedge = keys.hedge();
    let content = *blake3::keyed_hash(hedge.bytes(), plain.expose()).as_bytes();
    let (key, entry) = make_key(keys, &binding.repository, Purpose::Bundle, &content, entropy)?;
    let key = SealKey::new(&key);
    let mut header = Header {
        kind: SealedKind::Bundle,
        namespace: keys.namespace(),
        epoch: entry.epoch,
        nonce: hedged(entropy, &hedge, "bundle nonce", &[&content])?.array(),
        commitment: [0; 32],
        sealed_len: plain.expose().len() as u64 + TAG_LEN as u64,
    };
    header.commitment = key.commitment(&context(&header, binding));
    let sealed = key.encrypt(&header.nonce, &context(&header, binding), plain.expose());
    let mut key_entry = Vec::with_capacity(KeyEntry::PUBLIC_LEN);
    entry.encode(&mut key_entry);
    let mut object = Envelope { header, key_entry: &key_entry, sealed: &sealed }.encode();
    hash::push_checksum(&mut object);
    Ok(object)
}

/// Opens a secrets bundle. Needs the secrets reader.
pub fn open_bundle(keys: &NamespaceKeys, binding: &Binding, object: &[u8]) -> Result<SecretBytes, Error> {
    let what = "secrets bundle";
    let (envelope, _) = Envelope::decode(object, KeyEntry::PUBLIC_LEN)?;
    if !hash::ends_in_checksum(object) {
        return Err(Error::Checksum { what });
    }
    if (envelope.header.kind, envelope.header.namespace) != (SealedKind::Bundle, keys.namespace()) {
        return Err(Error::CannotOpen { what });
    }
    let mut cursor = crate::format::cursor::Cursor::new("key entry", envelope.key_entry);
    let entry = KeyEntry::take(&mut cursor)?;
    cursor.end()?;
    let key = SealKey::new(&open_key(keys, &binding.repository, Purpose::Bundle, &entry)?);
    let uncommitted = Header { commitment: [0; 32], ..envelope.header.clone() };
    key.check(what, &context(&uncommitted, binding), &envelope.header.commitment)?;
    let plain = key.decrypt(what, &envelope.header.nonce, &context(&envelope.header, binding), envelope.sealed)?;
    Ok(SecretBytes::new(plain))
}
