//! Rows of an entry table: the streams of a component that has many (`docs/FORMAT.md`, section 10).

use std::collections::BTreeMap;

use super::cursor::{Cursor, push_bytes, push_varint};
use super::id::{ChunkId, ContentHash};
use super::recipe::Extent;
use super::{Error, limits};

/// Where a row's content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryContent {
    /// There is none (a bucket, a directory).
    None,
    /// In these extents, at most [`limits::ENTRY_EXTENTS_MAX`].
    Extents {
        /// BLAKE3 of the content.
        hash: ContentHash,
        /// Its extents; none where the content is empty.
        extents: Vec<Extent>,
    },
    /// In a recipe of its own.
    Recipe {
        /// BLAKE3 of the content.
        hash: ContentHash,
        /// The recipe's root.
        root: ChunkId,
    },
}

impl EntryContent {
    /// Appends the content reference.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.push(0),
            Self::Extents { hash, extents } => {
                out.push(1);
                out.extend_from_slice(hash.as_bytes());
                push_varint(out, extents.len() as u64);
                for extent in extents {
                    out.extend_from_slice(extent.chunk.as_bytes());
                    push_varint(out, u64::from(extent.chunk_len));
                    push_varint(out, u64::from(extent.offset));
                    push_varint(out, u64::from(extent.len));
                }
            }
            Self::Recipe { hash, root } => {
                out.push(2);
                out.extend_from_slice(hash.as_bytes());
                out.extend_from_slice(root.as_bytes());
            }
        }
    }

    /// Takes a content reference off a cursor.
    pub fn take(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        match cursor.u8()? {
            0 => Ok(Self::None),
            1 => {
                let hash = ContentHash::take(cursor)?;
                let count = cursor.count("extents of an entry", limits::ENTRY_EXTENTS_MAX)?;
                let extents = (0..count).map(|_| take_extent(cursor)).collect::<Result<Vec<_>, _>>()?;
                if extents.iter().zip(extents.iter().skip(1)).any(|(left, right)| left.is_continued_by(right)) {
                    return Err(Error::NotCanonical { what: "extents of an entry" });
                }
                Ok(Self::Extents { hash, extents })
            }
            2 => Ok(Self::Recipe { hash: ContentHash::take(cursor)?, root: ChunkId::take(cursor)? }),
            code => Err(Error::Invalid { what: "entry content", found: u64::from(code) }),
        }
    }

    /// Returns how many bytes the content has, `None` where only its recipe says so.
    #[must_use]
    pub fn content_len(&self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Extents { extents, .. } => Some(extents.iter().map(|extent| u64::from(extent.len)).sum()),
            Self::Recipe { .. } => None,
        }
    }

    /// Reads a reference that stands alone.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new("entry content", bytes);
        let content = Self::take(&mut cursor)?;
        cursor.end()?;
        Ok(content)
    }
}

fn take_extent(cursor: &mut Cursor<'_>) -> Result<Extent, Error> {
    let chunk = ChunkId::take(cursor)?;
    let mut number = || {
        let found = cursor.varint()?;
        u32::try_from(found).map_err(|_| Error::TooLarge { what: "extent", found, max: u64::from(u32::MAX) })
    };
    let extent = Extent { chunk, chunk_len: number()?, offset: number()?, len: number()? };
    extent.check()?;
    Ok(extent)
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// `bucket/object-key`, a relative path: bytes.
    pub key: Vec<u8>,
    /// Sorted by name.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// Bytes of content.
    pub len: u64,
    /// Where the content is.
    pub content: EntryContent,
}

impl EntryRow {
    /// Appends the row: its length as a varint, then itself.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut row = Vec::new();
        push_bytes(&mut row, &self.key);
        push_attributes(&mut row, &self.attributes);
        push_varint(&mut row, self.len);
        self.content.encode(&mut row);
        push_bytes(out, &row);
    }

    /// Appends the row as [`EntryRow::encode`] does, unless reading it back would fail: then nothing is appended.
    pub fn encode_checked(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        self.encode(out);
        let mut cursor = Cursor::new("entry", out.get(start..).unwrap_or_default());
        let read_back = cursor.bytes("entry", limits::ENTRY_BYTES_MAX).and_then(Self::decode);
        if read_back.is_err() {
            out.truncate(start);
        }
        read_back.map(|_| ())
    }

    /// Reads a row, its length prefix taken off.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new("entry", bytes);
        let key = cursor.bytes("entry key", limits::ENTRY_KEY_BYTES_MAX)?.to_vec();
        let attributes = take_attributes(&mut cursor)?;
        let len = limits::check("entry content", cursor.varint()?, limits::STREAM_BYTES_MAX)?;
        let content = EntryContent::take(&mut cursor)?;
        cursor.end()?;
        if content.content_len().is_some_and(|found| found != len) {
            return Err(Error::Invalid { what: "length of an entry's content", found: len });
        }
        Ok(Self { key, attributes, len, content })
    }

    /// Returns the key of a row, its length prefix taken off.
    pub fn key_of(encoded: &[u8]) -> Result<&[u8], Error> {
        Cursor::new("entry", encoded).bytes("entry key", limits::ENTRY_KEY_BYTES_MAX)
    }
}

/// Appends attributes, sorted by name.
pub(super) fn push_attributes(out: &mut Vec<u8>, attributes: &BTreeMap<String, Vec<u8>>) {
    push_varint(out, attributes.len() as u64);
    for (name, value) in attributes {
        push_bytes(out, name.as_bytes());
        push_bytes(out, value);
    }
}

/// Takes attributes off a cursor. Names must ascend.
pub(super) fn take_attributes(cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let count = cursor.count("attributes of an entry", limits::ENTRY_ATTRIBUTES_MAX)?;
    let mut attributes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for _ in 0..count {
        let name = cursor.text("attribute name", limits::ATTRIBUTE_NAME_BYTES_MAX)?;
        let value = cursor.bytes("attribute", limits::ATTRIBUTE_BYTES_MAX)?;
        if attributes.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
            return Err(Error::NotCanonical { what: "attributes of an entry" });
        }
        attributes.insert(name.to_owned(), value.to_vec());
    }
    Ok(attributes)
}

/// Splits a table's bytes, which come in any pieces, into rows.
#[derive(Debug, Default)]
pub struct EntryRowSplitter {
    buffer: Vec<u8>,
    read: usize,
}

impl EntryRowSplitter {
    /// Appends bytes of the table.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next row, `None` where more bytes are needed first.
    pub fn next_row(&mut self) -> Result<Option<EntryRow>, Error> {
        self.next_encoded()?.map(EntryRow::decode).transpose()
    }

    /// Returns the next row as it is stored, its length prefix taken off; `None` where more bytes are needed first.
    pub fn next_encoded(&mut self) -> Result<Option<&[u8]>, Error> {
        let rest = self.buffer.get(self.read..).unwrap_or_default();
        let mut cursor = Cursor::new("entry", rest);
        match cursor.bytes("entry", limits::ENTRY_BYTES_MAX) {
            Ok(row) => {
                self.read += rest.len() - cursor.rest().len();
                Ok(Some(row))
            }
            Err(Error::Truncated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Requires that no half row is left.
    pub fn end(&self) -> Result<(), Error> {
        match self.buffer.len() - self.read {
            0 => Ok(()),
            have => Err(Error::Truncated { what: "entry table", need: 1, have: have as u64 }),
        }
    }
}
