//! A component of a snapshot as a source: what it was made of comes out again.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::component::marks::marked;
use crate::component::{
    Capture, Captured, Content, Entry, Error, SHORT_BYTES_MAX, Source, Stored as _, StoredContent, in_memory, is_lot,
};
use crate::format::entry::EntryContent;
use crate::format::id::ContentHash;
use crate::ops::stored::DataStored;

/// Reads a component out of a snapshot.
pub(super) struct CopySource {
    component: String,
    stored: DataStored,
    /// Streams that the receiving side has.
    known: BTreeSet<String>,
}

impl CopySource {
    /// Reads all but the streams that are known.
    pub(super) fn new(component: &str, stored: DataStored, known: BTreeSet<String>) -> Self {
        Self { component: component.to_owned(), stored, known }
    }
}

/// What becomes of the content of an entry.
enum Wanted {
    Nothing,
    /// The other side has it.
    Known(StoredContent),
    /// It is read together with others.
    Short(StoredContent),
}

impl CopySource {
    /// Reads what is to be read of some entries, and hands them out.
    async fn hand_over(&mut self, lot: &mut Vec<(Entry, Wanted)>, out: &mut dyn Capture) -> Result<(), Error> {
        let short = lot.iter().filter_map(|(entry, wanted)| match wanted {
            Wanted::Short(content) => Some((entry, content)),
            Wanted::Nothing | Wanted::Known(_) => None,
        });
        let mut read = self.stored.read_short(&short.collect::<Vec<_>>()).await?.into_iter();
        for (entry, wanted) in lot.drain(..) {
            let content = match wanted {
                Wanted::Nothing => Content::Nothing,
                Wanted::Known(content) => Content::Stored(content),
                Wanted::Short(_) => Content::Bytes(in_memory(read.next().expect("as many as were wanted"))),
            };
            out.entry(entry, content).await?;
        }
        Ok(())
    }
}

/// Returns the hash of what a reference stands for: of any repository, since it is that of the bytes.
fn hash_of(content: &StoredContent) -> Option<ContentHash> {
    match EntryContent::decode(&content.0) {
        Ok(EntryContent::Extents { hash, .. } | EntryContent::Recipe { hash, .. }) => Some(hash),
        Ok(EntryContent::None) | Err(_) => None,
    }
}

#[async_trait]
impl Source for CopySource {
    fn component(&self) -> &str {
        &self.component
    }

    fn describe(&self) -> String {
        "a snapshot".to_owned()
    }

    async fn probe(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, Error> {
        for stream in self.stored.streams() {
            if !self.known.contains(&stream.name) {
                let (kind, body) = marked(&self.component, &stream.name, self.stored.open(&stream.name).await?);
                out.stream(&stream.name, kind, body).await?;
            }
        }
        // Both tables ascend: an entry whose content the other side has under the same key is not read.
        let mut previous = None;
        let (mut lot, mut lot_bytes) = (Vec::new(), 0);
        while let Some((entry, content)) = self.stored.next_entry().await? {
            let is_behind = |row: &Option<(Entry, Option<StoredContent>)>| match row {
                Some((row, _)) => row.key < entry.key,
                None => true,
            };
            while is_behind(&previous) {
                previous = out.previous().await?;
                if previous.is_none() {
                    break;
                }
            }
            let wanted = match content {
                None => Wanted::Nothing,
                Some(content) => match &previous {
                    Some((row, Some(known)))
                        if (&row.key, row.len) == (&entry.key, entry.len) && hash_of(known) == hash_of(&content) =>
                    {
                        Wanted::Known(known.clone())
                    }
                    _ if entry.len <= SHORT_BYTES_MAX => Wanted::Short(content),
                    _ => {
                        self.hand_over(&mut lot, out).await?;
                        lot_bytes = 0;
                        let body = self.stored.open_content(&entry, &content).await?;
                        out.entry(entry, Content::Bytes(body)).await?;
                        continue;
                    }
                },
            };
            lot_bytes += if matches!(wanted, Wanted::Short(_)) { entry.len } else { 0 };
            lot.push((entry, wanted));
            if is_lot(lot.len(), lot_bytes) {
                self.hand_over(&mut lot, out).await?;
                lot_bytes = 0;
            }
        }
        self.hand_over(&mut lot, out).await?;
        Ok(self.stored.captured().clone())
    }
}
