//! The frame of every sealed object that is not a pack, a slot or the config: index parts, snapshots,
//! tombstones, verification records, secrets bundles (`docs/FORMAT.md`, section 6).
//!
//! ```text
//! magic 8 | version u16 | kind u8 | namespace u8 | epoch u32 | nonce 24 | commitment 32 | sealed length u64
//! [ key entry: only secrets bundles ] | sealed bytes | BLAKE3 of all before 32
//! ```
//! The plain side is a [`Payload`]: what counts, and zeros up to a padded size.

use super::cursor::Cursor;
use super::limits;
use super::object::Namespace;
use super::{Error, FORMAT_VERSION};

/// The first bytes of a sealed object.
pub const MAGIC: [u8; 8] = *b"ORKVAULT";
/// Bytes of the header.
pub const HEADER_LEN: usize = 80;
/// Bytes of the trailing checksum.
pub const CHECKSUM_LEN: usize = 32;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes that a [`Payload`] adds before its body.
pub const PAYLOAD_HEADER_LEN: usize = 17;

/// What a sealed object is; part of what is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedKind {
    /// An index part.
    Index,
    /// A snapshot's manifest.
    Snapshot,
    /// A tombstone.
    Tombstone,
    /// A verification record.
    Verified,
    /// A bundle of secret files.
    Bundle,
}

impl SealedKind {
    const ALL: [Self; 5] = [Self::Index, Self::Snapshot, Self::Tombstone, Self::Verified, Self::Bundle];

    /// Returns the byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Index => 1,
            Self::Snapshot => 2,
            Self::Tombstone => 3,
            Self::Verified => 4,
            Self::Bundle => 5,
        }
    }

    fn from_code(code: u8) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.code() == code)
            .ok_or(Error::Invalid { what: "object kind", found: u64::from(code) })
    }

    /// Returns the most bytes that such an object may have.
    #[must_use]
    pub const fn bytes_max(self) -> u64 {
        match self {
            Self::Index => limits::INDEX_BYTES_MAX * 2,
            Self::Snapshot | Self::Tombstone | Self::Verified => limits::MANIFEST_BYTES_MAX * 2,
            Self::Bundle => limits::BUNDLE_BYTES_MAX * 2,
        }
    }
}

/// The clear part of a sealed object. All of it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the object is.
    pub kind: SealedKind,
    /// Where it belongs.
    pub namespace: Namespace,
    /// The key epoch that it is sealed under.
    pub epoch: u32,
    /// The nonce of the sealed bytes.
    pub nonce: [u8; 24],
    /// What ties the sealed bytes to one key.
    pub commitment: [u8; 32],
    /// Length of the sealed bytes, tag included.
    pub sealed_len: u64,
}

impl Header {
    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.push(self.kind.code());
        out.push(self.namespace.code());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.commitment);
        out.extend_from_slice(&self.sealed_len.to_le_bytes());
        debug_assert_eq!(out.len(), HEADER_LEN);
        out
    }

    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        if cursor.array()? != MAGIC {
            return Err(Error::BadMagic { what: "a sealed object" });
        }
        check_version("sealed object", cursor.u16()?)?;
        let kind = SealedKind::from_code(cursor.u8()?)?;
        let namespace = Namespace::from_code(cursor.u8()?)?;
        let epoch = cursor.u32()?;
        let nonce = cursor.array()?;
        let commitment = cursor.array()?;
        let sealed_len = limits::check("sealed length", cursor.u64()?, kind.bytes_max())?;
        Ok(Self { kind, namespace, epoch, nonce, commitment, sealed_len })
    }
}

/// Returns an error unless `found` is the format version of this program.
pub(crate) fn check_version(what: &'static str, found: u16) -> Result<(), Error> {
    if found == FORMAT_VERSION { Ok(()) } else { Err(Error::UnsupportedVersion { what, found, known: FORMAT_VERSION }) }
}

/// A sealed object, split into its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The clear header.
    pub header: Header,
    /// The key entry of a secrets bundle; empty for every other kind.
    pub key_entry: &'a [u8],
    /// The sealed bytes.
    pub sealed: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Returns the object's bytes without the trailing checksum, which only a hash function can add.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header.encode();
        out.extend_from_slice(self.key_entry);
        out.extend_from_slice(self.sealed);
        out
    }

    /// Splits an object into its parts and its checksum. `key_entry_len` is 0 except for a bundle.
    pub fn decode(bytes: &'a [u8], key_entry_len: usize) -> Result<(Self, [u8; 32]), Error> {
        let mut cursor = Cursor::new("sealed object", bytes);
        let header = Header::take(&mut cursor)?;
        let key_entry = cursor.take(if header.kind == SealedKind::Bundle { key_entry_len } else { 0 })?;
        let sealed_len = usize::try_from(header.sealed_len).map_err(|_| Error::TooLarge {
            what: "sealed length",
            found: header.sealed_len,
            max: header.kind.bytes_max(),
        })?;
        let sealed = cursor.take(sealed_len)?;
        let checksum = cursor.array()?;
        cursor.end()?;
        Ok((Self { header, key_entry, sealed }, checksum))
    }
}

/// How a payload's or a segment's bytes are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Stored,
    /// Exactly one zstd frame.
    Zstd,
}

impl Codec {
    /// Returns the byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Zstd => 1,
        }
    }

    /// Returns the codec of a stored byte.
    pub fn from_code(code: u8) -> Result<Self, Error> {
        match code {
            0 => Ok(Self::Stored),
            1 => Ok(Self::Zstd),
            _ => Err(Error::Invalid { what: "codec", found: u64::from(code) }),
        }
    }
}

/// What is inside a sealed object: a body in some codec, and zeros behind it that hide its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload<'a> {
    /// How `body` is encoded.
    pub codec: Codec,
    /// Length of the body decoded.
    pub raw_len: u64,
    /// The encoded body.
    pub body: &'a [u8],
    /// Zeros behind the body.
    pub padding: usize,
}

impl<'a> Payload<'a> {
    /// Returns the plain bytes to be sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PAYLOAD_HEADER_LEN + self.body.len() + self.padding);
        out.push(self.codec.code());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&(self.body.len() as u64).to_le_bytes());
        out.extend_from_slice(self.body);
        out.resize(out.len() + self.padding, 0);
        out
    }

    /// Splits opened bytes; `raw_len` is bounded by `raw_len_max`.
    pub fn decode(bytes: &'a [u8], raw_len_max: u64) -> Result<Self, Error> {
        let what = "payload";
        let mut cursor = Cursor::new(what, bytes);
        let codec = Codec::from_code(cursor.u8()?)?;
        let raw_len = limits::check("payload length", cursor.u64()?, raw_len_max)?;
        let found = limits::check("payload body length", cursor.u64()?, raw_len_max)?;
        let body_len = usize::try_from(found).map_err(|_| Error::TooLarge { what, found, max: raw_len_max })?;
        let body = cursor.take(body_len)?;
        if codec == Codec::Stored && found != raw_len {
            return Err(Error::NotCanonical { what });
        }
        let zeros = cursor.rest();
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(Error::NotCanonical { what: "padding" });
        }
        Ok(Self { codec, raw_len, body, padding: zeros.len() })
    }
}
