//! Keys and sealing. Only this room sees key bytes; one cipher suite per format version
//! (`docs/FORMAT.md`, sections 5 to 7): XChaCha20-Poly1305, BLAKE3, Argon2id, HPKE over X-Wing.
//!
//! Synchronous and free of I/O; randomness is an argument ([`random::Entropy`]).

pub mod hash;
pub mod keys;
pub mod pack;
pub mod piece;
pub mod random;
pub mod seal;
pub mod secret;
pub mod slot;
pub mod tree;
pub mod writer_key;

pub use random::{Entropy, SystemEntropy};
pub use secret::Passphrase;

use crate::format;

/// Why something could not be sealed or opened. Says no more than whoever holds the storage may know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key does not open it, or the bytes are not what was sealed: the two cannot be told apart.
    #[error("{what} cannot be opened with this key, or was changed")]
    CannotOpen {
        /// What was to be opened.
        what: &'static str,
    },
    /// The bytes of an object do not match the checksum at their end.
    #[error("{what} does not match its checksum")]
    Checksum {
        /// What was read.
        what: &'static str,
    },
    /// The public keys in the store are not those that this writer was made for.
    #[error("the repository's public keys are not those that this writer key was made for")]
    PublicKeysChanged,
    /// The object belongs to another repository.
    #[error("{what} belongs to another repository")]
    OtherRepository {
        /// What was read.
        what: &'static str,
    },
    /// The key derivation could not run.
    #[error("deriving the key from the passphrase needs {memory_kib} KiB of memory, which could not be had")]
    KdfMemory {
        /// Memory asked for.
        memory_kib: u32,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random bytes")]
    NoEntropy,
    /// These keys do not have the capability.
    #[error("these keys cannot {what}")]
    NotCapable {
        /// What was tried.
        what: &'static str,
    },
    /// A passphrase that is too short, or already opens the other namespace.
    #[error("the passphrase is {reason}")]
    BadPassphrase {
        /// `shorter than 8 bytes`.
        reason: &'static str,
    },
    /// Not a writer key.
    #[error("this is not an orkvault writer key")]
    BadWriterKey,
    /// Bytes that do not parse.
    #[error(transparent)]
    Format(#[from] format::Error),
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
