//! The deepest part of a check: every stream of every snapshot is put together and compared with the hash of what came
//! in. Chunk ids alone do not tell that a recipe has the right ones in the right order.
//!
//! What several snapshots share is read as few times as can be: a stream or entry that did not change is proven once,
//! and the nights of one stream are put together side by side, so that a segment that they share is decoded once.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Check, is_finding};
use crate::format::entry::{EntryContent, EntryRow};
use crate::format::id::SnapshotId;
use crate::format::manifest::{ComponentRecord, ComponentStatus, StreamRecord, TableRecord};
use crate::format::object::{Namespace, ObjectKey};
use crate::ops::{Error, select};
use crate::repo::{ChangedRows, LoadedSnapshot, Reader, ToVerify};

/// Nights of one stream, or entries with a recipe, that are put together side by side: each takes memory for a page of it.
const RECIPES_AT_ONCE: usize = 16;
/// Entries that are put together side by side, some 3 KiB each. Those that come next to one another lie in the segments of
/// as many nights as a bucket has grown in, and each of these is opened once for so many entries.
const ENTRIES_AT_ONCE: usize = 8 * 1024;

/// A stream that one or more snapshots have.
struct Shared {
    record: StreamRecord,
    /// Newest first.
    snapshots: Vec<SnapshotId>,
}

impl Check<'_> {
    /// Proves every stream and entry of every complete component. Returns the segments that were opened.
    pub(super) async fn contents(&mut self, ids: &[SnapshotId]) -> Result<HashSet<i64>, Error> {
        if !self.options.read_data || !self.repository.keyring().can_read(Namespace::Data) {
            return Ok(HashSet::new());
        }
        let loaded = select::load_these(self.repository, ids).await?;
        // One that cannot be read is found when the snapshots are checked.
        let mut snapshots: Vec<LoadedSnapshot> = loaded.into_iter().filter_map(|(_, loaded)| loaded.ok()).collect();
        self.is_all_proven = snapshots.len() == ids.len();
        select::sort(&mut snapshots);
        snapshots.reverse();
        let reader = Reader::new(self.repository)?;
        for ((component, name), nights) in streams(&snapshots) {
            self.nights(&reader, &component, &name, nights).await?;
        }
        for (component, tables) in tables(&snapshots) {
            self.progress.step(&format!("reading the entries of {component}"), None);
            let mut newer: Option<&TableRecord> = None;
            for (snapshot, table) in tables {
                if newer != Some(table) {
                    self.entries(&reader, &component, snapshot, table, newer).await?;
                }
                newer = Some(table);
            }
        }
        Ok(reader.opened_segments())
    }

    /// Puts the nights of one stream together.
    async fn nights(
        &mut self,
        reader: &Arc<Reader>,
        component: &str,
        name: &str,
        nights: Vec<Shared>,
    ) -> Result<(), Error> {
        let total = nights.iter().map(|night| night.record.length).sum();
        self.progress.step(&format!("reading {component}/{name}"), Some(total));
        for nights in nights.chunks(RECIPES_AT_ONCE) {
            let streams = nights.iter().map(|night| ToVerify::stream(&night.record)).collect();
            let progress = self.progress;
            let verdicts = reader.verify_together(streams, |len| progress.advance(len)).await?;
            for (night, verdict) in nights.iter().zip(verdicts) {
                let (Err(error), Some(newest)) = (verdict, night.snapshots.first()) else { continue };
                self.is_all_proven = false;
                let object = ObjectKey::Snapshot(Namespace::Data, *newest);
                let affects = night.snapshots.iter().map(|id| format!("{id}/{component}")).collect();
                self.find_error_affecting(format!("{object}: {component}/{name}"), error, affects)?;
            }
        }
        Ok(())
    }

    /// Puts the entries of a table together, but for those that the next newer table has just so.
    async fn entries(
        &mut self,
        reader: &Arc<Reader>,
        component: &str,
        snapshot: SnapshotId,
        table: &TableRecord,
        newer: Option<&TableRecord>,
    ) -> Result<(), Error> {
        let mut rows = ChangedRows::open(reader, table, newer);
        let mut waiting: Vec<EntryRow> = Vec::new();
        let mut recipes = 0;
        loop {
            let row = match rows.next_row().await {
                Ok(Some(row)) => row,
                Ok(None) => break,
                // A table that cannot be read is found, with all that it affects, when the snapshots are checked.
                Err(error) if is_finding(&error) => {
                    self.is_all_proven = false;
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            if row.content == EntryContent::None {
                continue;
            }
            recipes += usize::from(matches!(row.content, EntryContent::Recipe { .. }));
            waiting.push(row);
            if waiting.len() >= ENTRIES_AT_ONCE || recipes >= RECIPES_AT_ONCE {
                recipes = 0;
                self.prove_entries(reader, component, snapshot, &mut waiting).await?;
            }
        }
        self.prove_entries(reader, component, snapshot, &mut waiting).await
    }

    async fn prove_entries(
        &mut self,
        reader: &Arc<Reader>,
        component: &str,
        snapshot: SnapshotId,
        rows: &mut Vec<EntryRow>,
    ) -> Result<(), Error> {
        let streams = rows.iter().map(|row| ToVerify { content: row.content.clone(), len: row.len }).collect();
        let progress = self.progress;
        let verdicts = reader.verify_together(streams, |len| progress.advance(len)).await?;
        for (row, verdict) in rows.drain(..).zip(verdicts) {
            let Err(error) = verdict else { continue };
            self.is_all_proven = false;
            let object = ObjectKey::Snapshot(Namespace::Data, snapshot);
            let name = String::from_utf8_lossy(&row.key).into_owned();
            let affects = vec![format!("{snapshot}/{component}")];
            self.find_error_affecting(format!("{object}: {component}/{name}"), error, affects)?;
        }
        Ok(())
    }
}

/// Returns the complete components of snapshots.
fn complete(snapshots: &[LoadedSnapshot]) -> impl Iterator<Item = (SnapshotId, &String, &ComponentRecord)> {
    snapshots
        .iter()
        .flat_map(|snapshot| {
            let components = &snapshot.manifest.orkvault.components;
            components.iter().map(|(name, record)| (snapshot.id, name, record))
        })
        .filter(|(_, _, record)| record.status == ComponentStatus::Complete)
}

/// Returns the named streams and catalogues by component and name, each content once, newest first as the snapshots are.
fn streams(snapshots: &[LoadedSnapshot]) -> BTreeMap<(String, String), Vec<Shared>> {
    let mut found: BTreeMap<(String, String), Vec<Shared>> = BTreeMap::new();
    for (snapshot, component, record) in complete(snapshots) {
        let named = record.streams.iter().map(|(name, stream)| (name.clone(), stream));
        let catalogue = record.catalogue.iter().map(|table| ("the catalogue".to_owned(), &table.table));
        for (name, stream) in named.chain(catalogue) {
            let nights = found.entry((component.clone(), name)).or_default();
            match nights.iter_mut().find(|night| night.record == *stream) {
                Some(night) => night.snapshots.push(snapshot),
                None => nights.push(Shared { record: stream.clone(), snapshots: vec![snapshot] }),
            }
        }
    }
    found
}

/// Returns the entry tables by component, newest first as the snapshots are.
fn tables(snapshots: &[LoadedSnapshot]) -> BTreeMap<String, Vec<(SnapshotId, &TableRecord)>> {
    let mut found: BTreeMap<String, Vec<(SnapshotId, &TableRecord)>> = BTreeMap::new();
    for (snapshot, component, record) in complete(snapshots) {
        if let Some(table) = &record.entries {
            found.entry(component.clone()).or_default().push((snapshot, table));
        }
    }
    found
}
