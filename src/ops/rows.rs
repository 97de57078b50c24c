//! The rows of an entry table on their way into the repository.
//!
//! A row needs to know where its content is, and a directory has a million small files: to wait for each would be a switch
//! between threads and back a million times. Short contents are therefore handed over together, and rows wait, in their order,
//! until it is known where these are.

use std::collections::VecDeque;

use bytes::Bytes;

use super::capture::failed;
use crate::component;
use crate::format::entry::EntryRow;
use crate::format::limits;
use crate::format::manifest::TableRecord;
use crate::repo::{self, OpenStream, ShortStreams, StreamReport, StreamWritten, TableWriter, Writer};

/// Bytes of short contents, and rows, that are handed over together.
const TOGETHER_BYTES: usize = 256 * 1024;
const TOGETHER_ROWS: usize = 256;
/// Lots that the repository works on while the next one is gathered.
const UNDER_WAY_MOST: usize = 2;

/// Extents up to which a content stands in its row.
pub(super) fn extents_most() -> usize {
    usize::try_from(limits::ENTRY_EXTENTS_MAX).unwrap_or(1)
}

/// See the head of this file.
pub(super) struct Rows {
    table: TableWriter,
    gathered: Lot,
    under_way: VecDeque<(Lot, Option<ShortStreams>)>,
    contents: StreamReport,
}

/// Rows, some of which wait for their content.
#[derive(Default)]
struct Lot {
    rows: Vec<(EntryRow, Wanting)>,
    bodies: Vec<Bytes>,
    bytes: usize,
}

/// Whether a row waits for its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanting {
    Nothing,
    Content,
}

/// A table that is whole.
pub(super) struct FinishedRows {
    pub(super) record: TableRecord,
    pub(super) stream: StreamWritten,
    /// What became of the short contents.
    pub(super) contents: StreamReport,
}

impl Rows {
    /// Begins a table that is compared with the one of this name.
    pub(super) async fn begin(writer: &mut Writer, name: &str) -> Result<Self, repo::Error> {
        let table = TableWriter::begin(writer, name).await?;
        Ok(Self { table, gathered: Lot::default(), under_way: VecDeque::new(), contents: StreamReport::default() })
    }

    /// Returns the table's own stream: contents of its entries are begun beside it.
    pub(super) const fn stream(&self) -> &OpenStream {
        self.table.stream()
    }

    /// Adds a row. Keys must ascend: one that does not fails here or later.
    pub(super) async fn add(&mut self, writer: &mut Writer, row: EntryRow) -> Result<(), component::Error> {
        if self.under_way.is_empty() && self.gathered.rows.is_empty() {
            return add_to(&mut self.table, writer, &row).await;
        }
        self.gather(writer, row, Wanting::Nothing).await
    }

    /// Adds a row and its content, at most [`component::SHORT_BYTES_MAX`]; what the row says of it is ignored.
    pub(super) async fn add_short(
        &mut self,
        writer: &mut Writer,
        row: EntryRow,
        body: Bytes,
    ) -> Result<(), component::Error> {
        self.gathered.bytes += body.len();
        self.gathered.bodies.push(body);
        self.gather(writer, row, Wanting::Content).await
    }

    /// Hands over what was gathered, so that what comes next lies behind it in the repository.
    pub(super) async fn hand_over(&mut self, writer: &mut Writer) -> Result<(), component::Error> {
        let mut lot = std::mem::take(&mut self.gathered);
        let Some(what) = lot.rows.first().map(|(row, _)| lossy(row)) else { return Ok(()) };
        let bodies = std::mem::take(&mut lot.bodies);
        let streams = if bodies.is_empty() {
            None
        } else {
            let given = writer.put_short(self.table.stream(), bodies, extents_most()).await;
            Some(given.map_err(|source| failed(&what, source))?)
        };
        self.under_way.push_back((lot, streams));
        self.settle(writer, UNDER_WAY_MOST).await
    }

    /// Ends the table; gives it up where a row cannot be added.
    pub(super) async fn finish(mut self, writer: &mut Writer) -> Result<FinishedRows, component::Error> {
        if let Err(error) = self.settle_all(writer).await {
            // The first error is the cause.
            let _ = self.abort(writer).await;
            return Err(error);
        }
        let (record, stream) = self.table.finish(writer).await.map_err(|source| failed("the entry table", source))?;
        Ok(FinishedRows { record, stream, contents: self.contents })
    }

    /// Gives the table up.
    pub(super) async fn abort(self, writer: &mut Writer) -> Result<(), repo::Error> {
        self.table.abort(writer).await
    }

    async fn gather(&mut self, writer: &mut Writer, row: EntryRow, wanting: Wanting) -> Result<(), component::Error> {
        self.gathered.rows.push((row, wanting));
        let is_full = self.gathered.bytes >= TOGETHER_BYTES || self.gathered.rows.len() >= TOGETHER_ROWS;
        if is_full { self.hand_over(writer).await } else { Ok(()) }
    }

    async fn settle_all(&mut self, writer: &mut Writer) -> Result<(), component::Error> {
        self.hand_over(writer).await?;
        self.settle(writer, 0).await
    }

    /// Waits until at most `most` lots are under way, and adds the rows of the others.
    async fn settle(&mut self, writer: &mut Writer, most: usize) -> Result<(), component::Error> {
        while self.under_way.len() > most {
            let Some((Lot { rows, .. }, streams)) = self.under_way.pop_front() else { break };
            let mut written = Vec::new();
            if let Some(streams) = streams {
                let what = rows.first().map(|(row, _)| lossy(row)).unwrap_or_default();
                written = writer.short_written(streams).await.map_err(|source| failed(&what, source))?;
            }
            let mut written = written.into_iter();
            for (mut row, wanting) in rows {
                if wanting == Wanting::Content {
                    let content = written.next().expect("as many answers as bodies");
                    self.contents.add(&content.report);
                    row.content = content.entry_content();
                }
                add_to(&mut self.table, writer, &row).await?;
            }
        }
        Ok(())
    }
}

async fn add_to(table: &mut TableWriter, writer: &mut Writer, row: &EntryRow) -> Result<(), component::Error> {
    table.add(writer, row).await.map_err(|source| failed(&lossy(row), source))
}

fn lossy(row: &EntryRow) -> String {
    String::from_utf8_lossy(&row.key).into_owned()
}
