//! The repository's config: who it is, its public keys, its chunk sizes (`docs/FORMAT.md`, section 5).
//!
//! Two authentication codes, one per namespace root, so that each holder of keys can check the whole with
//! the keys that it has; a checksum, so that anybody can scrub it.

use super::cursor::{Cursor, push_bytes, push_varint};
use super::envelope::check_version;
use super::id::RepositoryId;
use super::object::Namespace;
use super::{Error, FORMAT_VERSION, limits};

const MAGIC: [u8; 8] = *b"ORKVCONF";
/// Bytes of an X-Wing public key.
pub const PUBLIC_KEY_LEN: usize = 1216;
/// Required feature: the objects below `secrets/` are in a store of their own.
const SECRETS_APART: u64 = 1;
/// Required feature: this is that store.
const SECRETS_ALONE: u64 = 2;
/// Required feature bits that this program knows.
pub const KNOWN_FEATURES: u64 = SECRETS_APART | SECRETS_ALONE;

/// Which part of a repository a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// Everything but the objects below `secrets/`, which are in a store of their own.
    Data,
    /// The objects below `secrets/` and nothing else.
    Secrets,
}

impl Part {
    const fn features(self) -> u64 {
        match self {
            Self::Whole => 0,
            Self::Data => SECRETS_APART,
            Self::Secrets => SECRETS_ALONE,
        }
    }
}

/// How a stream is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamKind {
    /// A mongodump archive or another record dump.
    Dump,
    /// A Redis RDB file.
    Rdb,
    /// An object or a file.
    Object,
    /// Entry tables and catalogues, under the meta key.
    Table,
}

impl StreamKind {
    /// Every kind, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Dump, Self::Rdb, Self::Object, Self::Table];

    const fn code(self) -> u8 {
        match self {
            Self::Dump => 0,
            Self::Rdb => 1,
            Self::Object => 2,
            Self::Table => 3,
        }
    }
}

/// FastCDC v2020 sizes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No cut before this (the end of the stream or of a block excepted).
    pub min: u32,
    /// What cuts aim at.
    pub average: u32,
    /// Always a cut at this.
    pub max: u32,
    /// Streams up to this length are one chunk; 0 for none.
    pub whole_below: u32,
}

impl ChunkSizes {
    /// Returns an error unless the sizes are ones that the chunker can use: even powers and order, as the
    /// `fastcdc` crate demands, and the chunk limit.
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |found: u32| Err(Error::Invalid { what: "chunk size", found: u64::from(found) });
        if self.min < 64 || self.min > 1 << 20 || !self.min.is_multiple_of(2) {
            return invalid(self.min);
        }
        if self.average < 256 || self.average > 1 << 22 || !self.average.is_power_of_two() || self.average <= self.min {
            return invalid(self.average);
        }
        let max = u64::from(self.max);
        if self.max < 1024 || max > limits::CHUNK_BYTES_MAX || !self.max.is_multiple_of(2) || self.max <= self.average {
            return invalid(self.max);
        }
        if u64::from(self.whole_below) > limits::CHUNK_BYTES_MAX {
            return invalid(self.whole_below);
        }
        Ok(())
    }
}

/// A public key and the epoch that it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// Starts at 1 and rises by 1.
    pub number: u32,
    /// X-Wing public key.
    pub public_key: Vec<u8>,
}

/// The config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Who the repository is.
    pub repository: RepositoryId,
    /// Features without which it must not be opened.
    pub required_features: u64,
    /// Features that can be ignored.
    pub optional_features: u64,
    /// Seconds since 1970, by the clock of whoever made it.
    pub created_secs: u64,
    /// Epochs of the data namespace, oldest first.
    pub data_epochs: Vec<Epoch>,
    /// Epochs of the secrets namespace, oldest first.
    pub secrets_epochs: Vec<Epoch>,
    /// Chunk sizes, in the order of [`StreamKind::ALL`].
    pub chunk_sizes: [ChunkSizes; 4],
}

/// The authentication codes of a config, by namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigMacs {
    /// Under the data root.
    pub data: [u8; 32],
    /// Under the secrets root.
    pub secrets: [u8; 32],
}

impl Config {
    /// Returns which part of the repository lies where this config lies.
    #[must_use]
    pub const fn part(&self) -> Part {
        match self.required_features & (SECRETS_APART | SECRETS_ALONE) {
            SECRETS_APART => Part::Data,
            SECRETS_ALONE => Part::Secrets,
            // Both at once are not decoded.
            _ => Part::Whole,
        }
    }

    /// Returns the config of another part of the same repository.
    #[must_use]
    pub fn of_part(&self, part: Part) -> Self {
        let others = self.required_features & !(SECRETS_APART | SECRETS_ALONE);
        Self { required_features: others | part.features(), ..self.clone() }
    }

    /// Returns the epochs of a namespace, oldest first.
    #[must_use]
    pub fn epochs(&self, namespace: Namespace) -> &[Epoch] {
        match namespace {
            Namespace::Data => &self.data_epochs,
            Namespace::Secrets => &self.secrets_epochs,
        }
    }

    /// Returns the chunk sizes of a kind of stream.
    #[must_use]
    pub fn sizes(&self, kind: StreamKind) -> ChunkSizes {
        let [dump, rdb, object, table] = self.chunk_sizes;
        match kind {
            StreamKind::Dump => dump,
            StreamKind::Rdb => rdb,
            StreamKind::Object => object,
            StreamKind::Table => table,
        }
    }

    /// Returns the bytes that the authentication codes cover.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&self.required_features.to_le_bytes());
        out.extend_from_slice(&self.optional_features.to_le_bytes());
        out.extend_from_slice(self.repository.as_bytes());
        out.extend_from_slice(&self.created_secs.to_le_bytes());
        for epochs in [&self.data_epochs, &self.secrets_epochs] {
            push_varint(&mut out, epochs.len() as u64);
            for epoch in epochs {
                out.extend_from_slice(&epoch.number.to_le_bytes());
                push_bytes(&mut out, &epoch.public_key);
            }
        }
        for (kind, sizes) in StreamKind::ALL.iter().zip(&self.chunk_sizes) {
            out.push(kind.code());
            for size in [sizes.min, sizes.average, sizes.max, sizes.whole_below] {
                out.extend_from_slice(&size.to_le_bytes());
            }
        }
        out
    }

    /// Returns the whole object but for its trailing checksum.
    #[must_use]
    pub fn encode_with_macs(&self, macs: &ConfigMacs) -> Vec<u8> {
        let mut out = self.encode();
        out.extend_from_slice(&macs.data);
        out.extend_from_slice(&macs.secrets);
        out
    }

    /// Reads a config, its authentication codes and its checksum. Unknown required features are refused.
    pub fn decode(bytes: &[u8]) -> Result<(Self, ConfigMacs, [u8; 32]), Error> {
        limits::check("config", bytes.len() as u64, limits::CONFIG_BYTES_MAX)?;
        let mut cursor = Cursor::new("config", bytes);
        if cursor.array()? != MAGIC {
            return Err(Error::BadMagic { what: "a repository config" });
        }
        check_version("config", cursor.u16()?)?;
        let required_features = cursor.u64()?;
        let unknown = required_features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(Error::UnknownFeatures { unknown });
        }
        if required_features == SECRETS_APART | SECRETS_ALONE {
            return Err(Error::Invalid { what: "part of a repository", found: required_features });
        }
        let config = Self {
            required_features,
            optional_features: cursor.u64()?,
            repository: RepositoryId::take(&mut cursor)?,
            created_secs: cursor.u64()?,
            data_epochs: take_epochs(&mut cursor)?,
            secrets_epochs: take_epochs(&mut cursor)?,
            chunk_sizes: take_sizes(&mut cursor)?,
        };
        let macs = ConfigMacs { data: cursor.array()?, secrets: cursor.array()? };
        let checksum = cursor.array()?;
        cursor.end()?;
        Ok((config, macs, checksum))
    }
}

fn take_epochs(cursor: &mut Cursor<'_>) -> Result<Vec<Epoch>, Error> {
    let count = cursor.count("key epochs", limits::EPOCHS_MAX)?;
    let mut epochs = Vec::with_capacity(count);
    for expected in 1..=count {
        let number = cursor.u32()?;
        if number as usize != expected {
            return Err(Error::Invalid { what: "key epoch", found: u64::from(number) });
        }
        let public_key = cursor.bytes("public key", PUBLIC_KEY_LEN as u64)?;
        if public_key.len() != PUBLIC_KEY_LEN {
            return Err(Error::Invalid { what: "public key length", found: public_key.len() as u64 });
        }
        epochs.push(Epoch { number, public_key: public_key.to_vec() });
    }
    if epochs.is_empty() {
        return Err(Error::Invalid { what: "key epochs", found: 0 });
    }
    Ok(epochs)
}

fn take_sizes(cursor: &mut Cursor<'_>) -> Result<[ChunkSizes; 4], Error> {
    let mut all = [ChunkSizes { min: 0, average: 0, max: 0, whole_below: 0 }; 4];
    for (kind, sizes) in StreamKind::ALL.iter().zip(&mut all) {
        let code = cursor.u8()?;
        if code != kind.code() {
            return Err(Error::Invalid { what: "stream kind", found: u64::from(code) });
        }
        *sizes =
            ChunkSizes { min: cursor.u32()?, average: cursor.u32()?, max: cursor.u32()?, whole_below: cursor.u32()? };
        sizes.check()?;
    }
    Ok(all)
}
