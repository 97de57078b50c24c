//! The words and the stored format, v1: ids, limits, bytes <-> types.
//!
//! Pure: nothing here reads a file, a clock or a random number. Every decoder accepts any bytes, returns a
//! `Result`, checks a limit before it allocates, and accepts exactly one encoding of a value, so that
//! `encode(decode(x)) == x` wherever `decode` succeeds. The layouts are written in `docs/FORMAT.md`; the
//! file heads here cite its sections.

pub mod bundle;
pub mod config;
pub mod cursor;
pub mod entry;
pub mod envelope;
pub mod id;
pub mod index;
pub mod limits;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod padme;
pub mod recipe;
pub mod slot;

/// Why bytes were not accepted. Carries facts only; which object they came from is the caller's to add.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("{what} is cut: {need} more bytes needed, {have} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes still needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// Bytes are left over after the value.
    #[error("{what} is followed by {extra} bytes that do not belong to it")]
    Trailing {
        /// What was read.
        what: &'static str,
        /// Bytes left.
        extra: u64,
    },
    /// The first bytes are not those of this kind of object.
    #[error("this is not {what}: wrong magic bytes")]
    BadMagic {
        /// What was expected.
        what: &'static str,
    },
    /// A format version that this program does not know.
    #[error("{what} has format version {found}, this program reads version {known}")]
    UnsupportedVersion {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u16,
        /// The version known.
        known: u16,
    },
    /// A required feature bit that this program does not know.
    #[error("the repository needs features {unknown:#x} that this program does not have")]
    UnknownFeatures {
        /// The unknown bits.
        unknown: u64,
    },
    /// A count or length above its limit (`limits.rs`).
    #[error("{what} is {found}, at most {max} is allowed")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The value found.
        found: u64,
        /// Its limit.
        max: u64,
    },
    /// A value that no writer produces.
    #[error("{what} has the invalid value {found}")]
    Invalid {
        /// What was read.
        what: &'static str,
        /// The value found.
        found: u64,
    },
    /// The bytes mean something but are not the one encoding of it.
    #[error("{what} is not in its canonical encoding")]
    NotCanonical {
        /// What was read.
        what: &'static str,
    },
    /// Text that is not UTF-8, hex or JSON where that is required.
    #[error("{what} is not valid {expected}")]
    BadText {
        /// What was read.
        what: &'static str,
        /// `UTF-8`, `hex`, `JSON`.
        expected: &'static str,
    },
    /// The trailing checksum does not fit the bytes before it.
    #[error("{what} does not match its checksum")]
    Checksum {
        /// What was read.
        what: &'static str,
    },
}

/// The format version that this program writes and reads (`docs/FORMAT.md`, section 2).
pub const FORMAT_VERSION: u16 = 1;

#[cfg(test)]
mod tests;
