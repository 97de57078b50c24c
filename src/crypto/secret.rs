//! Secrets as types: no `Clone`, `Debug`, `Display` or `Serialize`, wiped on drop.

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Error;

/// A secret 32-byte key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    pub(super) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a person types or keeps in a file.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(Vec<u8>);

impl Passphrase {
    /// Takes the passphrase over. One line end at its end is not part of it.
    #[must_use]
    pub fn new(mut bytes: Vec<u8>) -> Self {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        Self(bytes)
    }

    /// Returns an error where the passphrase is too short to be set.
    pub fn check_strength(&self) -> Result<(), Error> {
        if self.0.len() < 8 { Err(Error::BadPassphrase { reason: "shorter than 8 bytes" }) } else { Ok(()) }
    }

    /// Returns whether both are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq;
        self.0.ct_eq(&other.0).into()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Overwrites bytes that were secret, in a way that is not optimised away.
pub fn wipe(bytes: &mut Vec<u8>) {
    bytes.zeroize();
}

/// Bytes that were opened and must not stay in memory: a decoded secrets bundle.
#[derive(Zeroize, ZeroizeOnDrop, Default)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}
