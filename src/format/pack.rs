//! A pack: segments of chunks, and the sealed directory that says where they are (`docs/FORMAT.md`,
//! section 7).
//!
//! ```text
//! header | segment 0 | segment 1 | ... | padding | directory nonce 24 | directory commitment 32
//! | sealed directory | its length u32
//! ```

use super::cursor::{Cursor, push_bytes, push_varint};
use super::envelope::{Codec, check_version};
use super::id::ChunkId;
use super::object::Namespace;
use super::padme::padded_len;
use super::{Error, FORMAT_VERSION, limits};

const MAGIC: [u8; 8] = *b"ORKVPACK";
/// Bytes of an X-Wing encapsulation.
pub const ENCAPSULATION_LEN: usize = 1120;
/// Bytes of a sealed data key: 32 and a tag.
pub const SEALED_KEY_LEN: usize = 48;
/// Bytes before the sealed directory: nonce and commitment.
pub const DIRECTORY_HEAD_LEN: usize = 56;
/// Bytes behind the sealed directory.
pub const DIRECTORY_TAIL_LEN: usize = 4;

/// Which key opens a pack's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Content: sealed to the namespace's public key, opened by a reader.
    Content,
    /// Recipes, entry tables, catalogues: sealed under the meta key, opened by writer and auditor too.
    Meta,
}

impl PackKind {
    /// Returns the byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Content => 0,
            Self::Meta => 1,
        }
    }

    /// Returns the kind of a stored byte.
    pub fn from_code(code: u8) -> Result<Self, Error> {
        match code {
            0 => Ok(Self::Content),
            1 => Ok(Self::Meta),
            _ => Err(Error::Invalid { what: "pack kind", found: u64::from(code) }),
        }
    }
}

/// How the data key of some segments is wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrappedKey {
    /// To the public key of an epoch: X-Wing encapsulation and sealed key.
    Public {
        /// X-Wing encapsulation, 1120 bytes.
        encapsulation: Vec<u8>,
        /// The sealed data key.
        sealed: [u8; SEALED_KEY_LEN],
    },
    /// Under the meta key.
    Meta {
        /// Nonce.
        nonce: [u8; 24],
        /// The sealed data key.
        sealed: [u8; SEALED_KEY_LEN],
    },
}

/// One entry of a pack's key table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// The key epoch.
    pub epoch: u32,
    /// The wrapped data key.
    pub wrapped: WrappedKey,
    /// What ties segments to one data key.
    pub commitment: [u8; 32],
}

impl KeyEntry {
    /// Bytes of an entry that is sealed to a public key.
    pub const PUBLIC_LEN: usize = 1 + 4 + ENCAPSULATION_LEN + SEALED_KEY_LEN + 32;

    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match &self.wrapped {
            WrappedKey::Public { encapsulation, sealed } => {
                out.push(1);
                out.extend_from_slice(&self.epoch.to_le_bytes());
                out.extend_from_slice(encapsulation);
                out.extend_from_slice(sealed);
            }
            WrappedKey::Meta { nonce, sealed } => {
                out.push(2);
                out.extend_from_slice(&self.epoch.to_le_bytes());
                out.extend_from_slice(nonce);
                out.extend_from_slice(sealed);
            }
        }
        out.extend_from_slice(&self.commitment);
    }

    /// Takes an entry off a cursor.
    pub fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let kind = cursor.u8()?;
        let epoch = cursor.u32()?;
        let wrapped = match kind {
            1 => {
                WrappedKey::Public { encapsulation: cursor.take(ENCAPSULATION_LEN)?.to_vec(), sealed: cursor.array()? }
            }
            2 => WrappedKey::Meta { nonce: cursor.array()?, sealed: cursor.array()? },
            _ => return Err(Error::Invalid { what: "key entry kind", found: u64::from(kind) }),
        };
        Ok(Self { epoch, wrapped, commitment: cursor.array()? })
    }
}

/// The clear head of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHeader {
    /// Which key opens it.
    pub kind: PackKind,
    /// Where it belongs.
    pub namespace: Namespace,
    /// Wrapped data keys: at least one.
    pub keys: Vec<KeyEntry>,
}

impl PackHeader {
    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.keys.len() * KeyEntry::PUBLIC_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.push(self.kind.code());
        out.push(self.namespace.code());
        push_varint(&mut out, self.keys.len() as u64);
        for key in &self.keys {
            key.encode(&mut out);
        }
        out
    }

    /// Reads a header off the front of a pack and returns it with its length.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), Error> {
        let mut cursor = Cursor::new("pack header", bytes);
        if cursor.array()? != MAGIC {
            return Err(Error::BadMagic { what: "a pack" });
        }
        check_version("pack", cursor.u16()?)?;
        let kind = PackKind::from_code(cursor.u8()?)?;
        let namespace = Namespace::from_code(cursor.u8()?)?;
        let count = cursor.count("pack keys", limits::PACK_KEYS_MAX)?;
        if count == 0 {
            return Err(Error::Invalid { what: "pack keys", found: 0 });
        }
        let keys = (0..count).map(|_| KeyEntry::take(&mut cursor)).collect::<Result<_, _>>()?;
        let len = bytes.len() - cursor.rest().len();
        Ok((Self { kind, namespace, keys }, len))
    }

    /// Returns the most bytes that a header can have.
    #[must_use]
    pub const fn len_max() -> usize {
        16 + 16 * KeyEntry::PUBLIC_LEN
    }
}

/// One chunk of a segment. Chunks lie one behind the other in the decoded segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Keyed BLAKE3 of the plaintext.
    pub id: ChunkId,
    /// Plain bytes, at least 1.
    pub len: u32,
}

/// One segment of a pack. Segments lie one behind the other, the first right behind the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Bytes in the pack, tag included.
    pub stored_len: u32,
    /// How the opened bytes are encoded.
    pub codec: Codec,
    /// Which entry of the key table opens it.
    pub key: u8,
    /// Nonce: 16 bytes derived from the content, 8 of a counter.
    pub nonce: [u8; 24],
    /// What is in it, in order. Never empty.
    pub chunks: Vec<ChunkRecord>,
}

impl SegmentRecord {
    /// Returns the length of the decoded segment.
    #[must_use]
    pub fn plain_len(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum()
    }
}

/// What a pack holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Its segments, in order.
    pub segments: Vec<SegmentRecord>,
}

impl Directory {
    /// Appends the directory.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_varint(out, self.segments.len() as u64);
        for segment in &self.segments {
            push_varint(out, u64::from(segment.stored_len));
            out.push(segment.codec.code());
            out.push(segment.key);
            out.extend_from_slice(&segment.nonce);
            push_varint(out, segment.chunks.len() as u64);
            for chunk in &segment.chunks {
                out.extend_from_slice(chunk.id.as_bytes());
                push_varint(out, u64::from(chunk.len));
            }
        }
    }

    /// Takes a directory off a cursor.
    pub fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let count = cursor.count("segments of a pack", limits::PACK_SEGMENTS_MAX)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            segments.push(take_segment(cursor)?);
        }
        Ok(Self { segments })
    }

    /// Returns the bytes that a directory of so many segments with so many chunks has before padding, at most.
    #[must_use]
    pub const fn len_most(segments: usize, chunks: usize) -> usize {
        // Two counts; stored length, codec, key, nonce and count of chunks; id and length.
        let (counts, segment, chunk) = (10 + 5, 5 + 1 + 1 + 24 + 5, 32 + 5);
        counts + segments * segment + chunks * chunk
    }

    /// Returns the plain bytes that are sealed: the directory's length, itself, and zeros up to a padded length,
    /// because the length of what is sealed is in the clear at the end of the pack.
    #[must_use]
    pub fn encode_padded(&self) -> Vec<u8> {
        let mut encoded = Vec::new();
        self.encode(&mut encoded);
        let mut out = Vec::with_capacity(encoded.len() + encoded.len() / 8 + 10);
        push_bytes(&mut out, &encoded);
        out.resize(usize::try_from(padded_len(out.len() as u64)).unwrap_or(out.len()), 0);
        out
    }

    /// Reads what [`Directory::encode_padded`] wrote; any number of zeros is accepted.
    pub fn decode_padded(plain: &[u8]) -> Result<Self, Error> {
        let what = "pack directory";
        let mut cursor = Cursor::new(what, plain);
        let encoded = cursor.bytes(what, limits::DIRECTORY_BYTES_MAX)?;
        if cursor.rest().iter().any(|byte| *byte != 0) {
            return Err(Error::NotCanonical { what: "padding" });
        }
        let mut cursor = Cursor::new(what, encoded);
        let directory = Self::take(&mut cursor)?;
        cursor.end()?;
        Ok(directory)
    }

    /// Returns the length of all segments together.
    #[must_use]
    pub fn segments_len(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.stored_len)).sum()
    }
}

fn take_segment(cursor: &mut Cursor<'_>) -> Result<SegmentRecord, Error> {
    let what = "segment";
    let stored_len = limits::check(what, cursor.varint()?, limits::SEGMENT_STORED_BYTES_MAX)?;
    let codec = Codec::from_code(cursor.u8()?)?;
    let key = cursor.u8()?;
    let nonce = cursor.array()?;
    let count = cursor.count("chunks of a segment", limits::SEGMENT_CHUNKS_MAX)?;
    if count == 0 {
        return Err(Error::Invalid { what: "chunks of a segment", found: 0 });
    }
    let mut chunks = Vec::new();
    let mut plain_len = 0;
    for _ in 0..count {
        let id = ChunkId::take(cursor)?;
        let len = limits::check("chunk", cursor.varint()?, limits::CHUNK_BYTES_MAX)?;
        plain_len = limits::check(what, plain_len + len, limits::SEGMENT_BYTES_MAX)?;
        match u32::try_from(len) {
            Ok(len) if len > 0 => chunks.push(ChunkRecord { id, len }),
            _ => return Err(Error::Invalid { what: "chunk length", found: len }),
        }
    }
    let stored_len = u32::try_from(stored_len).map_err(|_| Error::Invalid { what, found: stored_len })?;
    Ok(SegmentRecord { stored_len, codec, key, nonce, chunks })
}
