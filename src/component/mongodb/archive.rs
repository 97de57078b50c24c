//! Follows a mongodump archive as it streams by, and proves that it is whole.
//!
//! ```text
//! archive   = 6D E2 99 81, header, { list entry }, TERM, { block }
//! block     = block header, { document }, TERM          TERM = FF FF FF FF
//! last block of a namespace = block header with EOF and CRC, TERM
//! ```
//!
//! Every item is a BSON document. There is no trailer: an archive is whole when it ends after a TERM and
//! each listed namespace was closed once with the right CRC-64/XZ over its documents. Only the header, the
//! list and the block headers are decoded; documents are framed by their length and last byte.

mod bson;
mod catalogue;
mod error;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use crate::component::{RUN_BYTES_MAX, RecordEnd};

pub use bson::Fault;
use catalogue::{BlockHeader, Catalogue};
pub use catalogue::{Header, Namespace};
pub use error::{ArchiveError, Within};

/// Bytes that [`Framer::push`] takes at once.
pub const PUSH_LEN_MAX: usize = RUN_BYTES_MAX;
/// The longest document that mongorestore reads from an archive, in bytes.
pub const DOCUMENT_LEN_RESTORABLE: u64 = 16 << 20;
/// The longest document that a server sends, in bytes: an oplog entry may exceed a document's limit.
pub const DOCUMENT_LEN_MAX: u64 = DOCUMENT_LEN_RESTORABLE + (16 << 10);
/// Namespaces in one archive.
pub const NAMESPACES_MAX: usize = 1_000_000;
/// Bytes before the first block.
pub const LIST_LEN_MAX: u64 = 64 << 20;
/// Bytes of a header: names are at most 255 bytes long.
pub const HEADER_LEN_MAX: u64 = 16 << 10;

const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const FORMAT_VERSION: &str = "0.1";
const TERM: u32 = u32::MAX;
const DOCUMENT_LEN_MIN: u64 = 5;
const PREFIX_LEN: usize = 4;

/// What a whole archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The versions in its header.
    pub header: Header,
    /// Every namespace once, by name.
    pub namespaces: Vec<Namespace>,
    /// Its length in bytes.
    pub len: u64,
    /// Documents that mongodump writes and mongorestore refuses, for their length.
    pub unrestorable_documents: u64,
}

/// Whether an archive may have no namespace at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyArchive {
    /// It is what a misspelled database gives.
    Refused,
    /// Somebody said that the database may be empty.
    Allowed,
}

/// Reads `archive` as one piece. For tests and fuzzing; a stream goes through a [`Framer`].
pub fn check(archive: &[u8], empty: EmptyArchive) -> Result<Archive, ArchiveError> {
    let mut framer = Framer::new(empty);
    let mut ends = Vec::new();
    for bytes in archive.chunks(PUSH_LEN_MAX) {
        ends.clear();
        framer.push(bytes, &mut ends)?;
    }
    framer.finish()
}

/// Where in the grammar the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Magic,
    Header,
    List,
    /// Between blocks: the only place where an archive may end.
    BetweenBlocks,
    /// After a data header: documents of the namespace at this place in the catalogue.
    Documents {
        place: usize,
    },
    /// After a closing header: nothing but the TERM.
    Closed {
        place: usize,
    },
}

/// Follows one archive. Memory: the list of namespaces, and one framing item.
#[must_use = "an archive is whole only when finish says so"]
pub struct Framer {
    empty: EmptyArchive,
    stage: Stage,
    /// Bytes of the archive before the current push.
    offset: u64,
    /// The framing item, or the length prefix of a document, that earlier pushes began.
    item: Vec<u8>,
    /// Bytes that are still missing of the document that earlier pushes began.
    missing: usize,
    header: Option<Header>,
    catalogue: Catalogue,
    unrestorable_documents: u64,
    failed: Option<ArchiveError>,
}

impl Framer {
    /// Returns a framer before the first byte.
    pub fn new(empty: EmptyArchive) -> Self {
        Self {
            empty,
            stage: Stage::Magic,
            offset: 0,
            item: Vec::new(),
            missing: 0,
            header: None,
            catalogue: Catalogue::default(),
            unrestorable_documents: 0,
            failed: None,
        }
    }

    /// Takes the next bytes (at most [`PUSH_LEN_MAX`]) and adds the places in them where items end to
    /// `ends`: `block` after a TERM. An error is final: every later call returns it again.
    pub fn push(&mut self, bytes: &[u8], ends: &mut Vec<RecordEnd>) -> Result<(), ArchiveError> {
        assert!(bytes.len() <= PUSH_LEN_MAX, "runs are bounded");
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut at = 0;
        while at < bytes.len() {
            at = self.step(bytes, at, ends).inspect_err(|error| self.failed = Some(error.clone()))?;
        }
        self.offset = self.offset_at(at);
        Ok(())
    }

    /// Returns true once the list of namespaces is complete.
    pub fn is_past_list(&self) -> bool {
        !matches!(self.stage, Stage::Magic | Stage::Header | Stage::List)
    }

    /// Returns the versions, once the header has come.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Returns the names and kinds in the list of namespaces, as far as it has come.
    pub fn listed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.catalogue.listed()
    }

    /// Ends the archive: whole, or why not.
    pub fn finish(self) -> Result<Archive, ArchiveError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        if self.offset == 0 {
            return Err(ArchiveError::NoBytes);
        }
        if self.stage != Stage::BetweenBlocks || !self.item.is_empty() {
            return Err(ArchiveError::Truncated { offset: self.offset, within: self.within() });
        }
        let namespaces = self.catalogue.finish()?;
        if namespaces.is_empty() && self.empty == EmptyArchive::Refused {
            return Err(ArchiveError::NoNamespace);
        }
        Ok(Archive {
            header: self.header.expect("the header is read before the first block"),
            namespaces,
            len: self.offset,
            unrestorable_documents: self.unrestorable_documents,
        })
    }

    /// Reads from `bytes` at `at` and returns how far it came: always further.
    fn step(&mut self, bytes: &[u8], at: usize, ends: &mut Vec<RecordEnd>) -> Result<usize, ArchiveError> {
        match self.stage {
            Stage::Documents { place } if self.item.is_empty() => self.documents(place, bytes, at, ends),
            Stage::Documents { place } => self.split_prefix(place, bytes, at, ends),
            _ => self.framing(bytes, at, ends),
        }
    }

    /// Documents of one block, as many as `bytes` has. The CRC is computed over all of them at once, so
    /// that its cost does not depend on the size of a document.
    fn documents(
        &mut self,
        place: usize,
        bytes: &[u8],
        start: usize,
        ends: &mut Vec<RecordEnd>,
    ) -> Result<usize, ArchiveError> {
        let rest_len = bytes.len() - start;
        // The rest of a document that an earlier push began comes first.
        let mut at = start + self.missing.min(rest_len);
        let mut documents = 0;
        let mut began = self.missing > 0;
        self.missing -= at - start;
        loop {
            if began && self.missing == 0 {
                if bytes.get(at - 1) != Some(&0) {
                    return Err(self.unterminated(place, at));
                }
                documents += 1;
                ends.push(record_end(at));
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let Some((prefix, _)) = rest.split_first_chunk::<PREFIX_LEN>() else {
                self.item.extend_from_slice(rest);
                self.tally(place, bytes.get(start..at), documents);
                return Ok(bytes.len());
            };
            let len = u32::from_le_bytes(*prefix);
            if len == TERM {
                self.tally(place, bytes.get(start..at), documents);
                return Ok(self.term(at + PREFIX_LEN, ends));
            }
            let len = self.document_len(len, at)?;
            began = true;
            if let Some(missing) = len.checked_sub(rest.len()).filter(|missing| *missing > 0) {
                self.missing = missing;
                self.tally(place, bytes.get(start..), documents);
                return Ok(bytes.len());
            }
            at += len;
        }
    }

    /// The length prefix of a document, or a TERM, that lies across two pushes or more.
    fn split_prefix(
        &mut self,
        place: usize,
        bytes: &[u8],
        at: usize,
        ends: &mut Vec<RecordEnd>,
    ) -> Result<usize, ArchiveError> {
        let begins_at = self.item.len();
        let at = self.gather(bytes, at, PREFIX_LEN);
        let Ok(prefix) = <[u8; PREFIX_LEN]>::try_from(self.item.as_slice()) else {
            return Ok(at);
        };
        self.item.clear();
        let len = u32::from_le_bytes(prefix);
        if len == TERM {
            return Ok(self.term(at, ends));
        }
        // An error names the place where the document begins, which was `begins_at` bytes before this push.
        let offset = self.offset - u64_from(begins_at);
        self.missing = self.document_len_from(len, offset)? - PREFIX_LEN;
        self.tally(place, Some(&prefix), 0);
        Ok(at)
    }

    /// Magic, header, list and block headers: gathered whole and decoded.
    fn framing(&mut self, bytes: &[u8], at: usize, ends: &mut Vec<RecordEnd>) -> Result<usize, ArchiveError> {
        let at = self.gather(bytes, at, PREFIX_LEN);
        let Some((prefix, _)) = self.item.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(at);
        };
        if self.stage == Stage::Magic {
            self.magic(*prefix)?;
            self.item.clear();
            return Ok(at);
        }
        let len = u32::from_le_bytes(*prefix);
        let offset = self.offset_at(at) - u64_from(self.item.len());
        match (len, self.stage) {
            (TERM, Stage::List | Stage::Closed { .. }) => {
                self.item.clear();
                return Ok(self.term(at, ends));
            }
            (TERM, Stage::BetweenBlocks) => return Err(ArchiveError::NoBlockHeader { offset }),
            (_, Stage::Closed { place }) => {
                let namespace = self.catalogue.get(place).blocks.clone();
                return Err(ArchiveError::Reopened { offset, namespace });
            }
            _ => {}
        }
        let len = self.framing_len(len, offset)?;
        let at = self.gather(bytes, at, len);
        if self.item.len() == len {
            let mut document = std::mem::take(&mut self.item);
            self.framing_document(&document, offset)?;
            document.clear();
            self.item = document;
            ends.push(record_end(at));
        }
        Ok(at)
    }

    fn magic(&mut self, first: [u8; 4]) -> Result<(), ArchiveError> {
        if first == MAGIC {
            self.stage = Stage::Header;
            Ok(())
        } else if first.starts_with(&GZIP_MAGIC) {
            Err(ArchiveError::Gzip)
        } else {
            Err(ArchiveError::NotAnArchive { first })
        }
    }

    fn framing_len(&self, len: u32, offset: u64) -> Result<usize, ArchiveError> {
        let max = if self.stage == Stage::List { DOCUMENT_LEN_MAX } else { HEADER_LEN_MAX };
        if !(DOCUMENT_LEN_MIN..=max).contains(&u64::from(len)) {
            let within = self.within();
            return Err(ArchiveError::Length { offset, within, len, min: DOCUMENT_LEN_MIN, max });
        }
        if self.stage == Stage::List && offset + u64::from(len) > LIST_LEN_MAX {
            return Err(ArchiveError::ListTooLong { limit: LIST_LEN_MAX });
        }
        Ok(usize_from(len))
    }

    fn framing_document(&mut self, document: &[u8], offset: u64) -> Result<(), ArchiveError> {
        match (self.stage, &self.header) {
            (Stage::Header, _) => {
                let header = Header::read(document).map_err(|fault| ArchiveError::Header { fault })?;
                if header.version != FORMAT_VERSION {
                    return Err(ArchiveError::Version { version: header.version });
                }
                self.header = Some(header);
                self.stage = Stage::List;
                Ok(())
            }
            (Stage::List, Some(header)) => self.catalogue.list(header, document, offset),
            _ => self.block_header(document, offset),
        }
    }

    fn block_header(&mut self, document: &[u8], offset: u64) -> Result<(), ArchiveError> {
        let header = BlockHeader::read(document).map_err(|fault| ArchiveError::BlockHeader { offset, fault })?;
        let Some(place) = self.catalogue.find(&header.name) else {
            return Err(ArchiveError::Unlisted { offset, namespace: header.name });
        };
        let tally = self.catalogue.get_mut(place);
        if tally.closed {
            return Err(ArchiveError::Reopened { offset, namespace: header.name });
        }
        let Some(expected) = header.closes else {
            self.stage = Stage::Documents { place };
            return Ok(());
        };
        let got = tally.crc.sum64();
        if got != expected {
            return Err(ArchiveError::Crc { namespace: header.name, expected, got });
        }
        tally.closed = true;
        self.stage = Stage::Closed { place };
        Ok(())
    }

    fn document_len(&mut self, len: u32, at: usize) -> Result<usize, ArchiveError> {
        self.document_len_from(len, self.offset_at(at))
    }

    fn document_len_from(&mut self, len: u32, offset: u64) -> Result<usize, ArchiveError> {
        if !(DOCUMENT_LEN_MIN..=DOCUMENT_LEN_MAX).contains(&u64::from(len)) {
            let (min, max) = (DOCUMENT_LEN_MIN, DOCUMENT_LEN_MAX);
            return Err(ArchiveError::Length { offset, within: self.within(), len, min, max });
        }
        if u64::from(len) > DOCUMENT_LEN_RESTORABLE {
            self.unrestorable_documents += 1;
        }
        Ok(usize_from(len))
    }

    fn unterminated(&self, place: usize, at: usize) -> ArchiveError {
        let namespace = self.catalogue.get(place).blocks.clone();
        ArchiveError::Unterminated { offset: self.offset_at(at), namespace }
    }

    /// Counts `bytes` of a namespace and the documents that end in them.
    fn tally(&mut self, place: usize, bytes: Option<&[u8]>, documents: u64) {
        let bytes = bytes.expect("both ends of the range were reached in these bytes");
        let tally = self.catalogue.get_mut(place);
        tally.crc.write(bytes);
        tally.bytes += u64_from(bytes.len());
        tally.documents += documents;
    }

    /// A TERM that ends at `at`.
    fn term(&mut self, at: usize, ends: &mut Vec<RecordEnd>) -> usize {
        self.stage = Stage::BetweenBlocks;
        ends.push(RecordEnd { block: true, ..record_end(at) });
        at
    }

    /// Moves bytes into the current item until it has `len`, and returns the place after them.
    fn gather(&mut self, bytes: &[u8], at: usize, len: usize) -> usize {
        let rest = bytes.get(at..).unwrap_or_default();
        let wanted = len.saturating_sub(self.item.len()).min(rest.len());
        self.item.extend_from_slice(rest.get(..wanted).unwrap_or_default());
        at + wanted
    }

    fn offset_at(&self, at: usize) -> u64 {
        self.offset + u64_from(at)
    }

    fn within(&self) -> Within {
        match self.stage {
            Stage::Magic => Within::Magic,
            Stage::Header => Within::Header,
            Stage::List => Within::List,
            Stage::BetweenBlocks => Within::BlockHeader,
            Stage::Documents { place } | Stage::Closed { place } => {
                Within::Block { namespace: self.catalogue.get(place).blocks.clone() }
            }
        }
    }
}

fn record_end(at: usize) -> RecordEnd {
    RecordEnd { at: u32::try_from(at).expect("PUSH_LEN_MAX fits"), block: false }
}

fn u64_from(len: usize) -> u64 {
    u64::try_from(len).expect("a usize has at most 64 bits")
}

fn usize_from(len: u32) -> usize {
    usize::try_from(len).expect("a usize has at least 32 bits on the supported platforms")
}
