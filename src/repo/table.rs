//! Entry tables: rows in key order, written and read as they come (`docs/FORMAT.md`, section 10).

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::reader::ContentStream;
use super::writer::{Marks, OpenStream, StreamWritten, Writer};
use super::{Error, Reader};
use crate::format::config::StreamKind;
use crate::format::entry::{EntryRow, EntryRowSplitter};
use crate::format::manifest::TableRecord;

/// Bytes of rows that are gathered before they are handed on.
const ROWS_BYTES: usize = 64 * 1024;

/// Writes an entry table beside the streams of its entries.
#[must_use]
pub struct TableWriter {
    stream: OpenStream,
    buffer: Vec<u8>,
    ends: Vec<u32>,
    last_key: Option<Vec<u8>>,
    rows: u64,
    content_bytes: u64,
}

impl TableWriter {
    /// Begins a table that is compared with the one of this name: see [`Writer::begin_named`].
    pub async fn begin(writer: &mut Writer, name: &str) -> Result<Self, Error> {
        let stream = writer.begin_named(StreamKind::Table, name).await?;
        Ok(Self { stream, buffer: Vec::new(), ends: Vec::new(), last_key: None, rows: 0, content_bytes: 0 })
    }

    /// Returns the table's own stream: contents of its entries are begun beside it.
    pub const fn stream(&self) -> &OpenStream {
        &self.stream
    }

    /// Adds a row. Keys must ascend.
    pub async fn add(&mut self, writer: &mut Writer, row: &EntryRow) -> Result<(), Error> {
        if self.last_key.as_ref().is_some_and(|last| *last >= row.key) {
            return Err(Error::RowOrder { key: String::from_utf8_lossy(&row.key).into_owned() });
        }
        // What could not be read back must not be written.
        row.encode_checked(&mut self.buffer)?;
        self.ends.push(u32::try_from(self.buffer.len()).expect("the buffer is flushed long before 4 GiB"));
        self.last_key = Some(row.key.clone());
        self.rows += 1;
        self.content_bytes += row.len;
        if self.buffer.len() >= ROWS_BYTES { self.flush(writer).await } else { Ok(()) }
    }

    async fn flush(&mut self, writer: &mut Writer) -> Result<(), Error> {
        let marks = Marks { records: std::mem::take(&mut self.ends), blocks: Vec::new() };
        writer.push(&self.stream, Bytes::from(std::mem::take(&mut self.buffer)), marks).await
    }

    /// Ends the table. Returns what a manifest says of it, and what became of its own bytes.
    pub async fn finish(mut self, writer: &mut Writer) -> Result<(TableRecord, StreamWritten), Error> {
        self.flush(writer).await?;
        let written = writer.end(self.stream, 0).await?;
        let table = written.record().expect("a stream ended without extents has a recipe");
        Ok((TableRecord { rows: self.rows, content_bytes: self.content_bytes, table }, written))
    }

    /// Gives the table up.
    pub async fn abort(self, writer: &mut Writer) -> Result<(), Error> {
        writer.abort(self.stream).await
    }
}

/// Reads an entry table row by row.
pub struct TableReader {
    content: ContentStream,
    splitter: EntryRowSplitter,
    is_over: bool,
    left: u64,
    /// The last row, as it is stored: a buffer.
    row: Vec<u8>,
}

/// Reads the rows of a table whose content another table does not have under the same key: of two nights, few. Those that both
/// have just so are told without being decoded.
pub struct ChangedRows {
    rows: TableReader,
    row: Vec<u8>,
    other: Option<TableReader>,
    /// The other table's first row that is not behind the last one of this.
    other_row: Vec<u8>,
}

impl TableReader {
    /// Opens a table.
    #[must_use]
    pub fn open(reader: &std::sync::Arc<Reader>, record: &TableRecord) -> Self {
        Self {
            content: reader.open_table(record),
            splitter: EntryRowSplitter::default(),
            is_over: false,
            left: record.rows,
            row: Vec::new(),
        }
    }

    /// Returns the next row, `None` after the last: exactly as many as the manifest says.
    pub async fn next_row(&mut self) -> Result<Option<EntryRow>, Error> {
        let mut row = std::mem::take(&mut self.row);
        let found = self.next_encoded(&mut row).await?.then(|| EntryRow::decode(&row)).transpose();
        self.row = row;
        Ok(found?)
    }

    /// Puts the next row into `row` as it is stored. Returns whether there was one.
    async fn next_encoded(&mut self, row: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            if let Some(encoded) = self.splitter.next_encoded()? {
                row.clear();
                row.extend_from_slice(encoded);
                self.left = self.left.checked_sub(1).ok_or(Error::StreamDamaged)?;
                return Ok(true);
            }
            if self.is_over {
                self.splitter.end()?;
                return if self.left == 0 { Ok(false) } else { Err(Error::StreamDamaged) };
            }
            match self.content.try_next().await? {
                Some(bytes) => self.splitter.push(&bytes),
                None => self.is_over = true,
            }
        }
    }
}

impl ChangedRows {
    /// Opens a table beside another one, or by itself: then all rows are of interest. Where the other one cannot be read, those from
    /// there on are.
    #[must_use]
    pub fn open(reader: &std::sync::Arc<Reader>, record: &TableRecord, other: Option<&TableRecord>) -> Self {
        Self {
            rows: TableReader::open(reader, record),
            row: Vec::new(),
            other: other.map(|other| TableReader::open(reader, other)),
            other_row: Vec::new(),
        }
    }

    /// Returns the next row, `None` after the last.
    pub async fn next_row(&mut self) -> Result<Option<EntryRow>, Error> {
        while self.rows.next_encoded(&mut self.row).await? {
            self.come_to().await?;
            if self.row == self.other_row {
                continue;
            }
            let row = EntryRow::decode(&self.row)?;
            let is_there = !self.other_row.is_empty()
                && EntryRow::decode(&self.other_row)
                    .is_ok_and(|other| (&other.key, other.len, &other.content) == (&row.key, row.len, &row.content));
            if !is_there {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Passes over what the other table has before this row.
    async fn come_to(&mut self) -> Result<(), Error> {
        let key = EntryRow::key_of(&self.row)?;
        while let Some(other) = &mut self.other
            && (self.other_row.is_empty() || EntryRow::key_of(&self.other_row).is_ok_and(|other| other < key))
        {
            if !matches!(other.next_encoded(&mut self.other_row).await, Ok(true)) {
                self.other = None;
                self.other_row.clear();
            }
        }
        Ok(())
    }
}
