//! Sealing of whole objects under a symmetric key: index parts, manifests, tombstones, directories
//! (`docs/FORMAT.md`, section 6).
//!
//! Every key is used through two subkeys, one for the cipher and one for the commitment, so that no
//! ciphertext opens under two keys ("invisible salamanders": Poly1305 alone does not commit).

use chacha20poly1305::aead::{Aead as _, AeadInOut as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::random::{Entropy, hedged};
use super::secret::SecretKey;
use super::{Error, hash};
use crate::format::envelope::{Envelope, Header, SealedKind};
use crate::format::id::RepositoryId;
use crate::format::object::Namespace;

const SEAL_CONTEXT: &str = "orkvault 2026-11 v1 seal";
const COMMIT_CONTEXT: &str = "orkvault 2026-11 v1 commit";

/// A key in use: the cipher and the commitment derived from it.
pub(super) struct SealKey {
    cipher: XChaCha20Poly1305,
    commit: SecretKey,
}

impl SealKey {
    pub(super) fn new(key: &SecretKey) -> Self {
        let seal = SecretKey::new(blake3::derive_key(SEAL_CONTEXT, key.bytes()));
        Self {
            cipher: XChaCha20Poly1305::new(seal.bytes().into()),
            commit: SecretKey::new(blake3::derive_key(COMMIT_CONTEXT, key.bytes())),
        }
    }

    /// Returns what ties `context` to this key.
    pub(super) fn commitment(&self, context: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.commit.bytes(), context).as_bytes()
    }

    /// Returns an error unless `found` is this key's commitment to `context`. Compares in constant time.
    pub(super) fn check(&self, what: &'static str, context: &[u8], found: &[u8; 32]) -> Result<(), Error> {
        if blake3::keyed_hash(self.commit.bytes(), context) == blake3::Hash::from_bytes(*found) {
            Ok(())
        } else {
            Err(Error::CannotOpen { what })
        }
    }

    pub(super) fn encrypt(&self, nonce: &[u8; 24], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        self.cipher
            .encrypt(&XNonce::from(*nonce), Payload { msg: plain, aad })
            .expect("objects are far below the cipher's limit of 256 GiB")
    }

    /// As [`SealKey::encrypt`], behind what is in `out`.
    pub(super) fn encrypt_onto(&self, nonce: &[u8; 24], aad: &[u8], plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(plain);
        let place = out.get_mut(start..).unwrap_or_default();
        let tag = self
            .cipher
            .encrypt_inout_detached(&XNonce::from(*nonce), aad, place.into())
            .expect("objects are far below the cipher's limit of 256 GiB");
        out.extend_from_slice(&tag);
    }

    pub(super) fn decrypt(
        &self,
        what: &'static str,
        nonce: &[u8; 24],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad }).map_err(|_| Error::CannotOpen { what })
    }

    /// As [`SealKey::decrypt`], into a buffer that is used again; what is in it after an error is of no use.
    pub(super) fn decrypt_into(
        &self,
        what: &'static str,
        nonce: &[u8; 24],
        aad: &[u8],
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Error> {
        plain.clear();
        plain.extend_from_slice(sealed);
        self.cipher.decrypt_in_place(&XNonce::from(*nonce), aad, plain).map_err(|_| Error::CannotOpen { what })
    }
}

/// What a sealed object is bound to besides its own header.
#[derive(Debug, Clone, Copy)]
pub struct Binding {
    /// The repository.
    pub repository: RepositoryId,
    /// The object's random id; zeros where its name is the hash of its bytes.
    pub object: [u8; 32],
}

/// Which of a namespace's keys seals an object.
pub struct ObjectSealer<'a> {
    key: SealKey,
    hedge: SecretKey,
    namespace: Namespace,
    epoch: u32,
    entropy: &'a dyn Entropy,
}

impl<'a> ObjectSealer<'a> {
    /// Seals under the key that `kind` calls for: index parts under the index key, the rest under meta.
    pub fn new(keys: &super::keys::NamespaceKeys, kind: SealedKind, entropy: &'a dyn Entropy) -> Result<Self, Error> {
        Ok(Self {
            key: object_key(keys, kind),
            hedge: keys.hedge(),
            namespace: keys.namespace(),
            epoch: keys.newest()?.number,
            entropy,
        })
    }

    /// Returns the whole stored object, checksum included.
    pub fn seal(&self, kind: SealedKind, binding: &Binding, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce = hedged(self.entropy, &self.hedge, "object nonce", &[&binding.object, plain])?.array();
        let mut header = Header {
            kind,
            namespace: self.namespace,
            epoch: self.epoch,
            nonce,
            commitment: [0; 32],
            sealed_len: plain.len() as u64 + crate::format::envelope::TAG_LEN as u64,
        };
        header.commitment = self.key.commitment(&context(&header, binding));
        let sealed = self.key.encrypt(&header.nonce, &context(&header, binding), plain);
        let mut object = Envelope { header, key_entry: &[], sealed: &sealed }.encode();
        hash::push_checksum(&mut object);
        Ok(object)
    }
}

fn object_key(keys: &super::keys::NamespaceKeys, kind: SealedKind) -> SealKey {
    match kind {
        SealedKind::Index => SealKey::new(&keys.index()),
        _ => SealKey::new(&keys.meta()),
    }
}

/// The bytes that a sealed object is bound to: header (commitment zero while it is being made), then where.
pub(super) fn context(header: &Header, binding: &Binding) -> Vec<u8> {
    let mut out = header.encode();
    out.extend_from_slice(binding.repository.as_bytes());
    out.extend_from_slice(&binding.object);
    out
}

/// Opens a stored object and returns its plain bytes. Order: length, checksum, commitment, cipher.
pub fn open_object(
    keys: &super::keys::NamespaceKeys,
    kind: SealedKind,
    binding: &Binding,
    object: &[u8],
) -> Result<Vec<u8>, Error> {
    let what = name(kind);
    let (envelope, _) = Envelope::decode(object, 0)?;
    if !hash::ends_in_checksum(object) {
        return Err(Error::Checksum { what });
    }
    let found = (envelope.header.kind, envelope.header.namespace);
    if found != (kind, keys.namespace()) {
        return Err(Error::CannotOpen { what });
    }
    let key = object_key(keys, kind);
    let uncommitted = Header { commitment: [0; 32], ..envelope.header.clone() };
    key.check(what, &context(&uncommitted, binding), &envelope.header.commitment)?;
    key.decrypt(what, &envelope.header.nonce, &context(&envelope.header, binding), envelope.sealed)
}

/// Returns the name of a kind of object in messages.
#[must_use]
pub const fn name(kind: SealedKind) -> &'static str {
    match kind {
        SealedKind::Index => "index part",
        SealedKind::Snapshot => "snapshot",
        SealedKind::Tombstone => "tombstone",
        SealedKind::Verified => "verification record",
        SealedKind::Bundle => "secrets bundle",
    }
}
