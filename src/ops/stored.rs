//! The giving side of a restore: repository in, components out.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::component::{
    self, ByteStream, Captured, CatalogueRow, Entry, Run, SHORT_BYTES_MAX, Stored, StoredContent, StoredStream,
};
use crate::format::bundle::SecretFile;
use crate::format::entry::{EntryContent, EntryRow};
use crate::format::manifest::{CatalogueLine, ComponentRecord, TableRecord};
use crate::repo::{self, ContentStream, Reader, TableReader, ToVerify};

fn failed(what: &str, source: repo::Error) -> component::Error {
    component::Error::Stored { what: what.to_owned(), source: Box::new(source) }
}

fn runs(what: &str, content: ContentStream) -> ByteStream {
    let what = what.to_owned();
    let runs = content.map_ok(|piece| futures::stream::iter(Run::cut(piece)).map(Ok)).try_flatten();
    runs.map_err(move |source| failed(&what, source)).boxed()
}

/// Returns a row of an entry table as a component sees it.
pub(super) fn as_entry(row: EntryRow) -> (Entry, Option<StoredContent>) {
    let EntryRow { key, attributes, len, content } = row;
    let token = (content != EntryContent::None).then(|| {
        let mut encoded = Vec::new();
        content.encode(&mut encoded);
        StoredContent(encoded)
    });
    (Entry { key, attributes, len }, token)
}

/// Returns what a component's source recorded.
pub async fn captured(reader: &Arc<Reader>, record: &ComponentRecord) -> Result<Captured, repo::Error> {
    let catalogue = match &record.catalogue {
        Some(table) => read_catalogue(reader, table).await?,
        None => Vec::new(),
    };
    Ok(Captured {
        consistency: record.consistency.clone(),
        facts: record.facts.clone(),
        catalogue,
        warnings: record.warnings.clone(),
    })
}

/// Reads a catalogue: lines of canonical JSON.
pub async fn read_catalogue(reader: &Arc<Reader>, table: &TableRecord) -> Result<Vec<CatalogueRow>, repo::Error> {
    let bytes: Vec<u8> = reader
        .open(&table.table)
        .try_fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await?;
    let mut rows = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let CatalogueLine { name, kind, records, bytes } = crate::format::manifest::decode(line)?;
        rows.push(CatalogueRow { name, kind, records, bytes });
    }
    if rows.len() as u64 == table.rows { Ok(rows) } else { Err(repo::Error::StreamDamaged) }
}

/// One component of a data snapshot.
pub struct DataStored {
    reader: Arc<Reader>,
    record: ComponentRecord,
    captured: Captured,
    table: Option<TableReader>,
}

impl DataStored {
    /// Opens a complete component.
    pub async fn open(reader: Arc<Reader>, record: ComponentRecord) -> Result<Self, repo::Error> {
        let captured = captured(&reader, &record).await?;
        let table = record.entries.as_ref().map(|table| TableReader::open(&reader, table));
        Ok(Self { reader, record, captured, table })
    }
}

#[async_trait]
impl Stored for DataStored {
    fn captured(&self) -> &Captured {
        &self.captured
    }

    fn streams(&self) -> Vec<StoredStream> {
        let stream = |(name, record): (&String, &crate::format::manifest::StreamRecord)| StoredStream {
            name: name.clone(),
            len: record.length,
        };
        self.record.streams.iter().map(stream).collect()
    }

    async fn open(&mut self, stream: &str) -> Result<ByteStream, component::Error> {
        let record = self.record.streams.get(stream);
        let record = record.ok_or_else(|| component::Error::NoSuchStream { stream: stream.to_owned() })?;
        Ok(runs(stream, self.reader.open(record)))
    }

    async fn rewind(&mut self) -> Result<(), component::Error> {
        self.table = self.record.entries.as_ref().map(|table| TableReader::open(&self.reader, table));
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        match &mut self.table {
            Some(table) => {
                let row = table.next_row().await.map_err(|source| failed("the entry table", source))?;
                Ok(row.map(as_entry))
            }
            None => Ok(None),
        }
    }

    async fn open_content(&mut self, entry: &Entry, content: &StoredContent) -> Result<ByteStream, component::Error> {
        let what = String::from_utf8_lossy(&entry.key);
        let content = EntryContent::decode(&content.0).map_err(|source| failed(&what, source.into()))?;
        if entry.len <= SHORT_BYTES_MAX {
            let whole = self.reader.read_entry(&content, entry.len).await;
            return whole.map(component::in_memory).map_err(|source| failed(&what, source));
        }
        Ok(runs(&what, self.reader.open_entry(&content, entry.len)))
    }

    async fn read_short(&mut self, wanted: &[(&Entry, &StoredContent)]) -> Result<Vec<Bytes>, component::Error> {
        let named = |entry: &Entry, source| failed(&String::from_utf8_lossy(&entry.key), source);
        let streams = wanted.iter().map(|(entry, content)| {
            let content = EntryContent::decode(&content.0).map_err(|source| named(entry, source.into()))?;
            Ok(ToVerify { content, len: entry.len })
        });
        let streams = streams.collect::<Result<Vec<_>, component::Error>>()?;
        let read = self.reader.read_together(&streams).await;
        read.map_err(|(number, source)| match wanted.get(number) {
            Some((entry, _)) => named(entry, source),
            None => failed("entries", source),
        })
    }
}

/// The files of an opened secrets bundle.
pub struct SecretsStored {
    captured: Captured,
    files: Vec<SecretFile>,
    next: usize,
}

impl SecretsStored {
    /// Wraps opened files.
    #[must_use]
    pub const fn new(captured: Captured, files: Vec<SecretFile>) -> Self {
        Self { captured, files, next: 0 }
    }
}

impl Drop for SecretsStored {
    fn drop(&mut self) {
        for content in self.files.iter_mut().filter_map(|file| file.content.as_mut()) {
            crate::crypto::secret::wipe(content);
        }
    }
}

#[async_trait]
impl Stored for SecretsStored {
    fn captured(&self) -> &Captured {
        &self.captured
    }

    fn streams(&self) -> Vec<StoredStream> {
        Vec::new()
    }

    async fn open(&mut self, stream: &str) -> Result<ByteStream, component::Error> {
        Err(component::Error::NoSuchStream { stream: stream.to_owned() })
    }

    async fn rewind(&mut self) -> Result<(), component::Error> {
        self.next = 0;
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        let place = self.next;
        let Some(file) = self.files.get(place) else { return Ok(None) };
        self.next += 1;
        let len = file.content.as_ref().map_or(0, |content| content.len() as u64);
        let entry = Entry { key: file.key.clone(), attributes: file.attributes.clone(), len };
        // The file's place: nothing else can be asked of a bundle.
        let token = file.content.as_ref().map(|_| StoredContent((place as u64).to_le_bytes().to_vec()));
        Ok(Some((entry, token)))
    }

    async fn open_content(&mut self, entry: &Entry, content: &StoredContent) -> Result<ByteStream, component::Error> {
        let place = <[u8; 8]>::try_from(content.0.as_slice()).map(u64::from_le_bytes);
        let file = place.ok().and_then(|place| usize::try_from(place).ok()).and_then(|place| self.files.get(place));
        let bytes = file.filter(|file| file.key == entry.key).and_then(|file| file.content.as_ref());
        let stream = String::from_utf8_lossy(&entry.key).into_owned();
        let bytes = bytes.ok_or(component::Error::NoSuchStream { stream })?;
        Ok(component::in_memory(Bytes::copy_from_slice(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::RUN_BYTES_MAX;

    #[tokio::test]
    async fn however_long_a_piece_is_components_get_runs_that_they_take() {
        let long: Vec<u8> = (0..5_000_001_u32).map(|at| at.to_le_bytes()[1]).collect();
        let pieces = [Ok(Bytes::from_static(b"short")), Ok(long.clone().into()), Err(repo::Error::StreamDamaged)];
        let mut runs = runs("a stream", Box::pin(futures::stream::iter(pieces)));
        let mut found = Vec::new();
        let error = loop {
            match runs.try_next().await {
                Ok(Some(run)) => {
                    assert!((1..=RUN_BYTES_MAX).contains(&run.bytes.len()), "a run of {} bytes", run.bytes.len());
                    found.extend_from_slice(&run.bytes);
                }
                Ok(None) => panic!("the error is lost"),
                Err(error) => break error,
            }
        };
        assert!(found == [b"short", long.as_slice()].concat());
        assert!(matches!(error, component::Error::Stored { .. }));
    }
}
