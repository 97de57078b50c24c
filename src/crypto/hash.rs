//! Hashes that need no key: stored objects and streams. BLAKE3 throughout.

use crate::format::id::ContentHash;

/// Hashes a stream as it passes.
#[derive(Debug, Clone, Default)]
pub struct StreamHasher(blake3::Hasher);

impl StreamHasher {
    /// Appends bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of everything appended so far.
    #[must_use]
    pub fn finish(&self) -> ContentHash {
        ContentHash::from_bytes(*self.0.finalize().as_bytes())
    }
}

/// Returns the BLAKE3 of some bytes.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> ContentHash {
    ContentHash::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Appends the checksum that ends every object with a random name.
pub fn push_checksum(object: &mut Vec<u8>) {
    let checksum = blake3::hash(object);
    object.extend_from_slice(checksum.as_bytes());
}

/// Returns whether an object ends in the checksum of the bytes before it.
#[must_use]
pub fn ends_in_checksum(object: &[u8]) -> bool {
    object
        .len()
        .checked_sub(32)
        .and_then(|len| object.split_at_checked(len))
        .is_some_and(|(body, checksum)| blake3::hash(body).as_bytes() == checksum)
}
