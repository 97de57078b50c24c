//! A strict reader of the tar archives that a Docker daemon sends.
//!
//! The daemon answers 200 and closes properly even when a file shrank while it was being sent: the archive
//! itself is all there is to tell. So every header has a right checksum, padding and trailer are zeros, the
//! trailer is there, and nothing follows it.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::time::timeout;

use super::{BoxError, FileKind};

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It has no whole trailer, or ends within an entry.
    #[error("it ends after {at} bytes")]
    Cut {
        /// Bytes that came.
        at: u64,
    },
    /// A wrong checksum, or a field that is no number or no text.
    #[error("the header at {at} is no tar header")]
    Header {
        /// Its offset.
        at: u64,
    },
    /// An entry of a type that a daemon does not send.
    #[error("the header at {at} is of type {kind:?}")]
    Kind {
        /// Its offset.
        at: u64,
        /// The type's letter.
        kind: char,
    },
    /// An extended header that is too long, or none.
    #[error("the extended header at {at} is malformed")]
    Extended {
        /// Its offset.
        at: u64,
    },
    /// Padding or a trailer with something in it, or too much of a trailer.
    #[error("there is something other than zeros at {at}")]
    NotZero {
        /// About where.
        at: u64,
    },
    /// The body was silent for too long.
    #[error("nothing came for {} s", .0.as_secs())]
    Idle(Duration),
    /// The body failed.
    #[error("the connection failed after {at} bytes")]
    Body {
        /// Bytes that came.
        at: u64,
        /// Why.
        source: BoxError,
    },
}

/// One entry's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// As it stands, a directory's slash removed.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes of content that follow; 0 for what is no file.
    pub len: u64,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime_secs: i64,
}

/// Reads entry by entry from a body.
#[derive(Debug)]
pub struct TarReader<S> {
    body: S,
    idle: Duration,
    chunk: Bytes,
    /// Bytes consumed so far.
    at: u64,
    /// Content of the current entry that has not been read, then its padding.
    left: u64,
    padding: u64,
}

const BLOCK: usize = 512;
const BLOCK_U64: u64 = 512;
/// Paths are at most 4096 bytes; attributes that are ignored are at most 64 KiB.
const EXTENDED_MOST: u64 = 128 << 10;
/// Zero blocks after the two that end an archive (writers fill up to a record).
const TRAILER_MOST: u64 = 1 << 20;
const DATA_MOST: usize = 1 << 20;

/// What an extended header says instead of the plain one.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    len: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime_secs: Option<i64>,
}

impl<S: Stream<Item = Result<Bytes, BoxError>> + Unpin> TarReader<S> {
    /// Returns a reader that waits at most `idle` for each piece of `body`.
    pub fn new(body: S, idle: Duration) -> Self {
        Self { body, idle, chunk: Bytes::new(), at: 0, left: 0, padding: 0 }
    }

    /// Returns the next entry, having passed over what was left of the one before; `None` only after a whole
    /// trailer and the end of the body.
    pub async fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        while self.next_data().await?.is_some() {}
        let at = self.at;
        let block = self.block().await?;
        if block.iter().all(|&byte| byte == 0) {
            self.trailer().await?;
            return Ok(None);
        }
        let header = checked(&block, at)?;
        if header.entry_type() != tar::EntryType::XHeader {
            return self.entry(header, Extended::default(), at).map(Some);
        }
        let len = header.entry_size().map_err(|_| TarError::Header { at })?;
        if len > EXTENDED_MOST {
            return Err(TarError::Extended { at });
        }
        let records = self.extended(len).await?;
        let extended = parse_extended(&records).ok_or(TarError::Extended { at })?;
        let at = self.at;
        let block = self.block().await?;
        let header = checked(&block, at)?;
        self.entry(header, extended, at).map(Some)
    }

    /// Returns the next bytes of the current entry's content, `None` at its end.
    pub async fn next_data(&mut self) -> Result<Option<Bytes>, TarError> {
        if self.left > 0 {
            self.fill().await?;
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(DATA_MOST);
            let bytes = self.chunk.split_to(self.chunk.len().min(most));
            self.left -= self.advance(bytes.len());
            return Ok(Some(bytes));
        }
        let padding = std::mem::take(&mut self.padding);
        self.zeros(padding).await?;
        Ok(None)
    }

    fn entry(&mut self, header: &tar::Header, extended: Extended, at: u64) -> Result<TarEntry, TarError> {
        let kind = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => FileKind::File,
            tar::EntryType::Directory => FileKind::Directory,
            tar::EntryType::Symlink | tar::EntryType::Link => FileKind::Link,
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => FileKind::Special,
            other => return Err(TarError::Kind { at, kind: char::from(other.as_byte()) }),
        };
        let malformed = |_| TarError::Header { at };
        let len = match extended.len {
            Some(len) => len,
            None => header.entry_size().map_err(malformed)?,
        };
        // Links, directories and devices have no content, whatever their header says.
        self.left = if kind == FileKind::File { len } else { 0 };
        self.padding = padding(self.left).ok_or(TarError::Header { at })?;
        let name = match extended.path {
            Some(path) => path,
            None => String::from_utf8(header.path_bytes().into_owned()).map_err(|_| TarError::Header { at })?,
        };
        let mtime = header.mtime().map_err(malformed)?;
        Ok(TarEntry {
            name: name.strip_suffix('/').map(str::to_owned).unwrap_or(name),
            kind,
            len: self.left,
            mode: header.mode().map_err(malformed)? & 0o7777,
            uid: extended.uid.map_or_else(|| header.uid(), Ok).map_err(malformed)?,
            gid: extended.gid.map_or_else(|| header.gid(), Ok).map_err(malformed)?,
            mtime_secs: extended.mtime_secs.unwrap_or(i64::try_from(mtime).unwrap_or(i64::MAX)),
        })
    }

    /// Reads an extended header's records and their padding.
    async fn extended(&mut self, len: u64) -> Result<BytesMut, TarError> {
        self.left = len;
        self.padding = padding(len).expect("at most EXTENDED_MOST");
        let mut records = BytesMut::new();
        while let Some(bytes) = self.next_data().await? {
            records.extend_from_slice(&bytes);
        }
        Ok(records)
    }

    async fn block(&mut self) -> Result<[u8; BLOCK], TarError> {
        let mut block = [0; BLOCK];
        let mut rest = block.as_mut_slice();
        while !rest.is_empty() {
            self.fill().await?;
            let len = self.chunk.len().min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            self.chunk.copy_to_slice(now);
            self.advance(len);
            rest = later;
        }
        Ok(block)
    }

    /// The second zero block, then zeros in whole blocks to the end of the body.
    async fn trailer(&mut self) -> Result<(), TarError> {
        self.zeros(BLOCK_U64).await?;
        let start = self.at;
        while self.fill_or_end().await? {
            let len = self.chunk.len();
            self.zeros(u64::try_from(len).expect("a length in memory fits 64 bits")).await?;
            if self.at - start > TRAILER_MOST {
                return Err(TarError::NotZero { at: self.at });
            }
        }
        if self.at.is_multiple_of(BLOCK_U64) { Ok(()) } else { Err(TarError::Cut { at: self.at }) }
    }

    async fn zeros(&mut self, mut len: u64) -> Result<(), TarError> {
        while len > 0 {
            self.fill().await?;
            let now = self.chunk.split_to(self.chunk.len().min(usize::try_from(len).unwrap_or(usize::MAX)));
            if now.iter().any(|&byte| byte != 0) {
                return Err(TarError::NotZero { at: self.at });
            }
            len -= self.advance(now.len());
        }
        Ok(())
    }

    /// Makes sure that there is something to read.
    async fn fill(&mut self) -> Result<(), TarError> {
        if self.fill_or_end().await? { Ok(()) } else { Err(TarError::Cut { at: self.at }) }
    }

    async fn fill_or_end(&mut self) -> Result<bool, TarError> {
        while self.chunk.is_empty() {
            match timeout(self.idle, self.body.next()).await {
                Err(_) => return Err(TarError::Idle(self.idle)),
                Ok(None) => return Ok(false),
                Ok(Some(Err(source))) => return Err(TarError::Body { at: self.at, source }),
                Ok(Some(Ok(chunk))) => self.chunk = chunk,
            }
        }
        Ok(true)
    }

    fn advance(&mut self, len: usize) -> u64 {
        let len = u64::try_from(len).expect("a length in memory fits 64 bits");
        self.at += len;
        len
    }
}

/// Returns how many bytes fill a content's last block; `None` where that is beyond what 64 bits count.
fn padding(len: u64) -> Option<u64> {
    Some(len.checked_next_multiple_of(BLOCK_U64)? - len)
}

/// Returns the block as a header if its checksum is right.
fn checked(block: &[u8; BLOCK], at: u64) -> Result<&tar::Header, TarError> {
    let header = tar::Header::from_byte_slice(block);
    // The checksum counts its own eight bytes as spaces.
    let sum: u32 =
        block.iter().zip(0u32..).map(|(&byte, i)| u32::from(if (148..156).contains(&i) { 32 } else { byte })).sum();
    match header.cksum() {
        Ok(stored) if stored == sum => Ok(header),
        _ => Err(TarError::Header { at }),
    }
}

/// Parses `length key=value\n` records; keys that say nothing about what is read here are passed over.
fn parse_extended(mut records: &[u8]) -> Option<Extended> {
    let mut extended = Extended::default();
    while !records.is_empty() {
        let space = records.iter().take(8).position(|&byte| byte == b' ')?;
        let len: usize = std::str::from_utf8(records.get(..space)?).ok()?.parse().ok()?;
        let record = records.get(space + 1..len)?.strip_suffix(b"\n")?;
        records = records.get(len..)?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
        let text = || std::str::from_utf8(value).ok();
        match key {
            b"path" => extended.path = Some(text()?.to_owned()),
            b"size" => extended.len = Some(text()?.parse().ok()?),
            b"uid" => extended.uid = Some(text()?.parse().ok()?),
            b"gid" => extended.gid = Some(text()?.parse().ok()?),
            b"mtime" => extended.mtime_secs = Some(text()?.split('.').next()?.parse().ok()?),
            _ => {}
        }
    }
    Some(extended)
}

#[cfg(test)]
mod tests;
