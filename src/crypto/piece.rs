//! What the host's piece cache needs: fingerprints of pieces, and the sealing of its file.
//!
//! Not stored in a repository. A fingerprint is POLYVAL (RFC 8452, section 3) of the piece under a secret key, its
//! length as the last block: a universal hash, so that two different pieces that were not chosen with
//! knowledge of the key or of fingerprints collide with a probability of at most (blocks + 1) / 2^128. Nobody
//! outside sees either: the file that holds fingerprints is sealed.

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use polyval::Polyval;
use polyval::universal_hash::{KeyInit as _, UniversalHash as _};

use super::Error;
use super::keys::NamespaceKeys;
use super::random::{Entropy, random_32};
use super::secret::SecretKey;
use crate::format::id::RepositoryId;
use crate::format::pack::PackKind;

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

/// Which stream a piece file is of: its name under a secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceFileName([u8; 32]);

impl std::fmt::Display for PieceFileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What every part of a piece file is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceFileId {
    /// The repository.
    pub repository: RepositoryId,
    /// Which stream.
    pub stream: PieceFileName,
    /// Drawn for this file, so that parts of two nights are not mixed.
    pub salt: [u8; 16],
}

/// Bytes that sealing a part adds.
pub const PART_SEAL_LEN: usize = 40;

/// Seals and opens the parts of piece files.
pub struct PieceSealer {
    cipher: XChaCha20Poly1305,
    nonces: SecretKey,
}

impl PieceSealer {
    pub(super) fn new(key: &SecretKey, nonces: SecretKey) -> Self {
        Self { cipher: XChaCha20Poly1305::new(key.bytes().into()), nonces }
    }

    /// Returns a salt for a new file.
    pub fn salt(entropy: &dyn Entropy) -> Result<[u8; 16], Error> {
        let drawn = random_32(entropy)?;
        Ok(*drawn.first_chunk().expect("32 bytes have a first half"))
    }

    fn context(id: &PieceFileId, number: u64) -> [u8; 88] {
        let mut context = [0; 88];
        let (repository, rest) = context.split_at_mut(32);
        let (stream, rest) = rest.split_at_mut(32);
        let (salt, count) = rest.split_at_mut(16);
        repository.copy_from_slice(id.repository.as_bytes());
        stream.copy_from_slice(&id.stream.0);
        salt.copy_from_slice(&id.salt);
        count.copy_from_slice(&number.to_le_bytes());
        context
    }

    /// Returns part `number` of a file sealed: nonce, ciphertext, tag. The nonce is a keyed hash of place and
    /// content, so that no random generator, however bad, gives one nonce two contents.
    #[must_use]
    pub fn seal(&self, id: &PieceFileId, number: u64, plain: &[u8]) -> Vec<u8> {
        let context = Self::context(id, number);
        let hash = blake3::Hasher::new_keyed(self.nonces.bytes()).update(&context).update(plain).finalize();
        let (nonce, _) = hash.as_bytes().split_first_chunk::<24>().expect("a hash has 32 bytes");
        let sealed = self.cipher.encrypt(&XNonce::from(*nonce), Payload { msg: plain, aad: &context });
        let mut out = nonce.to_vec();
        out.extend(sealed.expect("parts are far below the cipher's limit of 256 GiB"));
        out
    }

    /// Opens part `number` of a file.
    pub fn open(&self, id: &PieceFileId, number: u64, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = Error::CannotOpen { what: "a part of the piece cache" };
        let Some((nonce, sealed)) = sealed.split_first_chunk::<24>() else { return Err(failed) };
        let payload = Payload { msg: sealed, aad: &Self::context(id, number) };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| failed)
    }
}

/// Names the file of a stream for whoever has the key. Streams of content and of structure never share one: what
/// lies in packs of one kind is not to be referred to from the other.
#[must_use]
pub fn file_name(keys: &NamespaceKeys, kind: PackKind, stream: &str) -> PieceFileName {
    let kind: &[u8] = match kind {
        PackKind::Content => b"content ",
        PackKind::Meta => b"meta ",
    };
    let hash = blake3::Hasher::new_keyed(keys.piece_names().bytes()).update(kind).update(stream.as_bytes()).finalize();
    PieceFileName(*hash.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(salt: u8) -> PieceFileId {
        let stream = PieceFileName([2; 32]);
        PieceFileId { repository: RepositoryId::from_bytes([1; 32]), stream, salt: [salt; 16] }
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
        let sealer = PieceSealer::new(&SecretKey::new([9; 32]), SecretKey::new([8; 32]));
        let sealed = sealer.seal(&id(1), 4, b"pieces");
        assert_eq!(sealed.len(), 6 + PART_SEAL_LEN);
        assert_eq!(sealer.open(&id(1), 4, &sealed).unwrap(), b"pieces");
        assert!(sealer.open(&id(1), 5, &sealed).is_err());
        assert!(sealer.open(&id(2), 4, &sealed).is_err());
        let other = PieceFileId { stream: PieceFileName([3; 32]), ..id(1) };
        assert!(sealer.open(&other, 4, &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open(&id(1), 4, &changed).is_err());
            assert!(sealer.open(&id(1), 4, &sealed[..at]).is_err());
        }
        // The same salt for other content: another nonce.
        assert_ne!(sealed[..24], sealer.seal(&id(1), 4, b"piecez")[..24]);
    }
}
