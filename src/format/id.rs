//! Ids: 32 bytes each, never interchangeable (`docs/FORMAT.md`, section 1).
//!
//! `Display` is full lower-case hex and parses back; `.short()` is for people.

use std::fmt;
use std::str::FromStr;

use super::Error;
use super::cursor::Cursor;

/// Appends lower-case hex.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Parses exactly `N` bytes of lower-case hex.
pub(crate) fn parse_hex<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], Error> {
    let bad = Error::BadText { what, expected: "hex" };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(bad);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(bad),
            };
            *byte = (*byte << 4) | value;
        }
    }
    Ok(out)
}

macro_rules! define_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Takes an id off a cursor.
            pub fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
                Ok(Self(cursor.array()?))
            }

            /// Returns the first eight hex digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse_hex($what, text).map(Self)
            }
        }
    };
}

define_id!(
    /// The keyed BLAKE3 of a chunk's plaintext.
    ChunkId,
    "chunk id"
);
define_id!(
    /// The BLAKE3 of a pack's stored bytes.
    PackId,
    "pack id"
);
define_id!(
    /// The BLAKE3 of an index part's stored bytes.
    IndexId,
    "index part id"
);
define_id!(
    /// The BLAKE3 of a secrets bundle's stored bytes.
    BundleId,
    "bundle id"
);
define_id!(
    /// The random id of a snapshot (the same in both namespaces where a run wrote to both).
    SnapshotId,
    "snapshot id"
);
define_id!(
    /// The random id of a key slot.
    SlotId,
    "slot id"
);
define_id!(
    /// The random id of a repository.
    RepositoryId,
    "repository id"
);
define_id!(
    /// The random id of a writer: one per writer key.
    WriterId,
    "writer id"
);
define_id!(
    /// The plain BLAKE3 of a stream or of an object's stored bytes.
    ContentHash,
    "content hash"
);
define_id!(
    /// The random id of an object that is nobody's content (tombstone, verification record).
    RecordId,
    "record id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_full_hex_and_parse_back() {
        let id = PackId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababab");
        for bad in ["", "ab", &"AB".repeat(32), &"ag".repeat(32), &"ab".repeat(33)] {
            assert!(bad.parse::<PackId>().is_err(), "{bad} was accepted");
        }
    }
}
