//! An index part: packs and what they hold (`docs/FORMAT.md`, section 8).

use super::cursor::{Cursor, push_varint};
use super::id::PackId;
use super::pack::{Directory, PackKind};
use super::{Error, limits};

/// One pack in an index part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Which pack.
    pub id: PackId,
    /// Which key opens it.
    pub kind: PackKind,
    /// Bytes of the whole object.
    pub stored_len: u32,
    /// Bytes before the first segment.
    pub header_len: u32,
    /// Its directory.
    pub directory: Directory,
}

/// An index part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexPart {
    /// The packs, in ascending order of their ids.
    pub packs: Vec<PackRecord>,
}

impl IndexPart {
    /// Returns the part's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        push_varint(&mut out, self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(pack.id.as_bytes());
            out.push(pack.kind.code());
            push_varint(&mut out, u64::from(pack.stored_len));
            push_varint(&mut out, u64::from(pack.header_len));
            pack.directory.encode(&mut out);
        }
        out
    }

    /// Reads a part.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        limits::check("index part", bytes.len() as u64, limits::INDEX_BYTES_MAX)?;
        let mut cursor = Cursor::new("index part", bytes);
        let count = cursor.count("packs of an index part", limits::INDEX_PACKS_MAX)?;
        let mut packs: Vec<PackRecord> = Vec::new();
        for _ in 0..count {
            let pack = take_pack(&mut cursor)?;
            if packs.last().is_some_and(|last| last.id >= pack.id) {
                return Err(Error::NotCanonical { what: "index part" });
            }
            packs.push(pack);
        }
        cursor.end()?;
        Ok(Self { packs })
    }
}

fn take_pack(cursor: &mut Cursor<'_>) -> Result<PackRecord, Error> {
    let what = "pack length";
    let id = PackId::take(cursor)?;
    let kind = PackKind::from_code(cursor.u8()?)?;
    let stored_len = limits::check(what, cursor.varint()?, limits::PACK_BYTES_MAX)?;
    let header_len = limits::check(what, cursor.varint()?, stored_len)?;
    let directory = Directory::take(cursor)?;
    // Segments lie within the pack: readers then need no check of their own.
    limits::check("segments of a pack", header_len + directory.segments_len(), stored_len)?;
    let narrow = |found: u64| u32::try_from(found).map_err(|_| Error::Invalid { what, found });
    Ok(PackRecord { id, kind, stored_len: narrow(stored_len)?, header_len: narrow(header_len)?, directory })
}
