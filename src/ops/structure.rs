//! What components are made of: whether all of it is there, without reading content.

use std::collections::HashMap;
use std::sync::Arc;

use super::Error;
use super::snapshot::reason;
use crate::format::entry::{EntryContent, EntryRow};
use crate::format::manifest::{self, ComponentRecord, StreamRecord, TableRecord};
use crate::repo::{self, ChangedRows, Reader};

/// A stream or entry that is not whole, and why.
pub type Wrong = (String, String);

/// Looks at the components of many snapshots; at those that are made of the same, once.
pub struct Structures {
    reader: Arc<Reader>,
    /// Which errors say something of what is stored. Any other ends the look.
    is_wrong: fn(&repo::Error) -> bool,
    known: HashMap<Vec<u8>, Option<Wrong>>,
    /// By component, the last entry table of which everything is right.
    right: HashMap<String, TableRecord>,
}

impl Structures {
    /// Nothing has been looked at.
    #[must_use]
    pub fn new(reader: Arc<Reader>, is_wrong: fn(&repo::Error) -> bool) -> Self {
        Self { reader, is_wrong, known: HashMap::new(), right: HashMap::new() }
    }

    /// Returns the first stream or entry of the component `name` that is not whole.
    pub async fn wrong(&mut self, name: &str, record: &ComponentRecord) -> Result<Option<Wrong>, Error> {
        let mut made_of = manifest::encode(&record.streams);
        made_of.extend_from_slice(&manifest::encode(&record.entries));
        made_of.extend_from_slice(&manifest::encode(&record.catalogue));
        if let Some(known) = self.known.get(&made_of) {
            return Ok(known.clone());
        }
        let wrong = match check_beside(&self.reader, record, self.right.get(name)).await {
            Ok(()) => {
                self.right.extend(record.entries.clone().map(|table| (name.to_owned(), table)));
                None
            }
            Err((stream, error)) if (self.is_wrong)(&error) => Some((stream, reason(&error))),
            Err((_, error)) => return Err(error.into()),
        };
        self.known.insert(made_of, wrong.clone());
        Ok(wrong)
    }
}

/// Checks that every chunk that a component refers to is in a pack that is there, without reading content. An error names the
/// stream or entry.
pub async fn check_structure(reader: &Arc<Reader>, record: &ComponentRecord) -> Result<(), (String, repo::Error)> {
    check_beside(reader, record, None).await
}

/// Does that, but for entries that a table has just so of which everything is `right`.
async fn check_beside(
    reader: &Arc<Reader>,
    record: &ComponentRecord,
    right: Option<&TableRecord>,
) -> Result<(), (String, repo::Error)> {
    let mut streams: Vec<(String, &StreamRecord)> =
        record.streams.iter().map(|(name, stream)| (name.clone(), stream)).collect();
    streams.extend(record.catalogue.iter().map(|table| ("the catalogue".to_owned(), &table.table)));
    streams.extend(record.entries.iter().map(|table| ("the entry table".to_owned(), &table.table)));
    for (name, stream) in streams {
        let content = EntryContent::Recipe { hash: stream.blake3, root: stream.recipe };
        match reader.check_structure(&content).await {
            Ok(len) if len == stream.length => {}
            Ok(_) => return Err((name, repo::Error::StreamDamaged)),
            Err(error) => return Err((name, error)),
        }
    }
    let Some(table) = &record.entries else { return Ok(()) };
    let mut rows = ChangedRows::open(reader, table, right);
    while let Some(EntryRow { key, len, content, .. }) =
        rows.next_row().await.map_err(|error| ("the entry table".to_owned(), error))?
    {
        let name = || String::from_utf8_lossy(&key).into_owned();
        match reader.check_structure(&content).await {
            Ok(found) if found == len || content == EntryContent::None => {}
            Ok(_) => return Err((name(), repo::Error::StreamDamaged)),
            Err(error) => return Err((name(), error)),
        }
    }
    Ok(())
}
