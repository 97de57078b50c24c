//! What the host's piece cache needs: fingerprints of pieces, and the sealing of its file.
//!
//! Not stored in a repository. A fingerprint is POLYVAL (RFC 8452, section 3) of the piece under a secret key, its
//! length as the last block: a universal hash, so that two different pieces that were not chosen with
//! knowledge of the key or of fingerprints collide with a probability of at most (blocks + 1) / 2^128. Nobody
//! outside sees either: the file that holds fingerprints is sealed.

use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use polyval::Polyval;
use polyval::universal_hash::{KeyInit as _, UniversalHash as _};

use super::Error;
use super::keys::NamespaceKeys;
use super::random::{Entropy, random_32};
use super::secret::SecretKey;
use crate::format::id::RepositoryId;

/// Names pieces.
pub struct FingerprintKey(Polyval);

impl FingerprintKey {
    pub(super) fn new(key: &SecretKey) -> Self {
        let (half, _) = key.bytes().split_first_chunk::<16>().expect("a key has 32 bytes");
        Self(Polyval::new(&(*half).into()))
    }

    /// Returns the fingerprint of a piece.
    #[must_use]
    pub fn fingerprint(&self, piece: &[u8]) -> u128 {
        let mut hash = self.0.clone();
        hash.update_padded(piece);
        hash.update(&[(piece.len() as u128).to_le_bytes().into()]);
        u128::from_le_bytes(hash.finalize().into())
    }
}

/// What every part of a piece file is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceFileId {
    /// The repository.
    pub repository: RepositoryId,
    /// Which stream.
    pub stream: [u8; 32],
    /// Drawn for this file.
    pub salt: [u8; 16],
}

/// Seals and opens the parts of piece files.
pub struct PieceSealer(XChaCha20Poly1305);

impl PieceSealer {
    pub(super) fn new(key: &SecretKey) -> Self {
        Self(XChaCha20Poly1305::new(key.bytes().into()))
    }

    /// Returns a salt for a new file.
    pub fn salt(entropy: &dyn Entropy) -> Result<[u8; 16], Error> {
        let drawn = random_32(entropy)?;
        Ok(*drawn.first_chunk().expect("32 bytes have a first half"))
    }

    fn nonce(id: &PieceFileId, number: u64) -> XNonce {
        let mut nonce = [0; 24];
        let (salt, count) = nonce.split_at_mut(16);
        salt.copy_from_slice(&id.salt);
        count.copy_from_slice(&number.to_le_bytes());
        nonce.into()
    }

    fn context(id: &PieceFileId) -> [u8; 64] {
        let mut context = [0; 64];
        let (repository, stream) = context.split_at_mut(32);
        repository.copy_from_slice(id.repository.as_bytes());
        stream.copy_from_slice(&id.stream);
        context
    }

    /// Seals part `number` of a file in place, which appends 16 bytes. No number is used twice for one salt.
    pub fn seal(&self, id: &PieceFileId, number: u64, part: &mut Vec<u8>) {
        let sealed = self.0.encrypt_in_place(&Self::nonce(id, number), &Self::context(id), part);
        sealed.expect("parts are far below the cipher's limit of 256 GiB");
    }

    /// Opens part `number` of a file in place.
    pub fn open(&self, id: &PieceFileId, number: u64, part: &mut Vec<u8>) -> Result<(), Error> {
        let opened = self.0.decrypt_in_place(&Self::nonce(id, number), &Self::context(id), part);
        opened.map_err(|_| Error::CannotOpen { what: "a part of the piece cache" })
    }
}

/// Names the stream `component`/`stream` for whoever has the key.
#[must_use]
pub fn stream_name(keys: &NamespaceKeys, stream: &str) -> [u8; 32] {
    *blake3::keyed_hash(keys.piece_names().bytes(), stream.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(salt: u8) -> PieceFileId {
        PieceFileId { repository: RepositoryId::from_bytes([1; 32]), stream: [2; 32], salt: [salt; 16] }
    }

    #[test]
    fn fingerprints_tell_lengths_zeros_and_keys_apart() {
        let key = FingerprintKey::new(&SecretKey::new([7; 32]));
        let other = FingerprintKey::new(&SecretKey::new([8; 32]));
        let inputs: Vec<Vec<u8>> = (0..70).map(|len| vec![0; len]).collect();
        let mut seen = std::collections::HashSet::new();
        for input in &inputs {
            assert!(seen.insert(key.fingerprint(input)), "{} zeros", input.len());
            assert_eq!(key.fingerprint(input), key.fingerprint(input));
        }
        assert_ne!(key.fingerprint(b"a piece"), other.fingerprint(b"a piece"));
    }

    #[test]
    fn a_part_opens_only_in_its_place_of_its_file() {
        let sealer = PieceSealer::new(&SecretKey::new([9; 32]));
        let mut sealed = b"pieces".to_vec();
        sealer.seal(&id(1), 4, &mut sealed);
        let open = |id: &PieceFileId, number, sealed: &[u8]| {
            let mut part = sealed.to_vec();
            sealer.open(id, number, &mut part).map(|()| part)
        };
        assert_eq!(open(&id(1), 4, &sealed).unwrap(), b"pieces");
        assert!(open(&id(1), 5, &sealed).is_err());
        assert!(open(&id(2), 4, &sealed).is_err());
        let other = PieceFileId { stream: [3; 32], ..id(1) };
        assert!(open(&other, 4, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&id(1), 4, &changed).is_err());
        }
    }
}
