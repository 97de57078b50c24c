//! A key slot: one wrapped set of keys (`docs/FORMAT.md`, section 5).
//!
//! Everything before the sealed bytes is authenticated, so that key derivation parameters cannot be
//! lowered by whoever holds the storage; they are bounded before anything is derived.

use super::cursor::{Cursor, push_bytes};
use super::envelope::check_version;
use super::id::RepositoryId;
use super::{Error, FORMAT_VERSION, limits};

const MAGIC: [u8; 8] = *b"ORKVSLOT";
/// Bytes of a slot's label.
pub const LABEL_BYTES_MAX: u64 = 64;

/// What a set of keys can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Add data and secrets, list, deduplicate. Reads no content.
    Writer,
    /// Restore data.
    DataReader,
    /// Restore secrets.
    SecretsReader,
    /// List, structural check, retention.
    Auditor,
}

impl Capability {
    /// Returns the byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Writer => 1,
            Self::DataReader => 2,
            Self::SecretsReader => 3,
            Self::Auditor => 4,
        }
    }

    /// Returns the capability of a stored byte.
    pub fn from_code(code: u8) -> Result<Self, Error> {
        match code {
            1 => Ok(Self::Writer),
            2 => Ok(Self::DataReader),
            3 => Ok(Self::SecretsReader),
            4 => Ok(Self::Auditor),
            _ => Err(Error::Invalid { what: "capability", found: u64::from(code) }),
        }
    }

    /// Returns its name: `writer`, `data-reader`, `secrets-reader`, `auditor`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::DataReader => "data-reader",
            Self::SecretsReader => "secrets-reader",
            Self::Auditor => "auditor",
        }
    }
}

/// Argon2id parameters within the limits of `limits.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfParams {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KdfParams {
    /// Returns the parameters where they are within the limits.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, Error> {
        let memory = u64::from(memory_kib);
        limits::check("key derivation memory (KiB)", memory, u64::from(limits::KDF_MEMORY_KIB_MAX))?;
        if memory_kib < limits::KDF_MEMORY_KIB_MIN {
            return Err(Error::Invalid { what: "key derivation memory (KiB)", found: memory });
        }
        limits::check("key derivation passes", u64::from(passes), u64::from(limits::KDF_PASSES_MAX))?;
        limits::check("key derivation lanes", u64::from(lanes), u64::from(limits::KDF_LANES_MAX))?;
        if passes == 0 || lanes == 0 {
            return Err(Error::Invalid { what: "key derivation passes or lanes", found: 0 });
        }
        // 8 GiB-passes: about half a minute on a slow machine, and nobody's default.
        limits::check("key derivation work (KiB x passes)", memory * u64::from(passes), 8 * 1024 * 1024)?;
        Ok(Self { memory_kib, passes, lanes })
    }

    /// Memory in KiB.
    #[must_use]
    pub const fn memory_kib(&self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    #[must_use]
    pub const fn passes(&self) -> u32 {
        self.passes
    }

    /// Lanes.
    #[must_use]
    pub const fn lanes(&self) -> u32 {
        self.lanes
    }
}

/// How the key that opens a slot comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlock {
    /// Argon2id over a passphrase.
    Passphrase(KdfParams),
    /// A random 32-byte key, from a key file or a printed recovery key.
    RawKey,
}

/// The clear, authenticated part of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotHeader {
    /// What the keys inside can do.
    pub capability: Capability,
    /// How the opening key comes about.
    pub unlock: Unlock,
    /// Salt of the derivation.
    pub salt: [u8; 32],
    /// The repository that it belongs to.
    pub repository: RepositoryId,
    /// Seconds since 1970, by the clock of whoever made it.
    pub created_secs: u64,
    /// At most 64 bytes of text.
    pub label: String,
}

impl SlotHeader {
    /// Returns the header's bytes: what the slot's commitment and sealed bytes are bound to.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, memory, passes, lanes) = match self.unlock {
            Unlock::Passphrase(kdf) => (1_u8, kdf.memory_kib, kdf.passes, kdf.lanes),
            Unlock::RawKey => (2, 0, 0, 0),
        };
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.push(kind);
        out.push(self.capability.code());
        for number in [memory, passes, lanes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(self.repository.as_bytes());
        out.extend_from_slice(&self.created_secs.to_le_bytes());
        push_bytes(&mut out, self.label.as_bytes());
        out
    }

    fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        if cursor.array()? != MAGIC {
            return Err(Error::BadMagic { what: "a key slot" });
        }
        check_version("key slot", cursor.u16()?)?;
        let kind = cursor.u8()?;
        let capability = Capability::from_code(cursor.u8()?)?;
        let (memory, passes, lanes) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let unlock = match kind {
            1 => Unlock::Passphrase(KdfParams::new(memory, passes, lanes)?),
            2 if (memory, passes, lanes) == (0, 0, 0) => Unlock::RawKey,
            _ => return Err(Error::Invalid { what: "slot kind", found: u64::from(kind) }),
        };
        Ok(Self {
            capability,
            unlock,
            salt: cursor.array()?,
            repository: RepositoryId::take(cursor)?,
            created_secs: cursor.u64()?,
            label: cursor.text("slot label", LABEL_BYTES_MAX)?.to_owned(),
        })
    }
}

/// A key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The clear part.
    pub header: SlotHeader,
    /// Ties the slot to one opening key.
    pub commitment: [u8; 32],
    /// Nonce of the sealed keys.
    pub nonce: [u8; 24],
    /// The sealed keys.
    pub sealed: Vec<u8>,
}

impl Slot {
    /// Returns the slot's bytes without the trailing checksum.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header.encode();
        out.extend_from_slice(&self.commitment);
        out.extend_from_slice(&self.nonce);
        push_bytes(&mut out, &self.sealed);
        out
    }

    /// Reads a slot and the checksum behind it.
    pub fn decode(bytes: &[u8]) -> Result<(Self, [u8; 32]), Error> {
        limits::check("key slot", bytes.len() as u64, limits::SLOT_BYTES_MAX)?;
        let mut cursor = Cursor::new("key slot", bytes);
        let slot = Self {
            header: SlotHeader::take(&mut cursor)?,
            commitment: cursor.array()?,
            nonce: cursor.array()?,
            sealed: cursor.bytes("sealed keys", limits::SLOT_BYTES_MAX)?.to_vec(),
        };
        let checksum = cursor.array()?;
        cursor.end()?;
        Ok((slot, checksum))
    }
}
