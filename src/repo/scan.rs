//! Whole packs, read and checked from end to end: what `check` is made of.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::Error;
use super::index::Segment;
use super::open::Repository;
use super::reader::{Decoders, open_data_key};
use crate::crypto::hash;
use crate::crypto::keys::ChunkIdKey;
use crate::crypto::pack::{DataKey, open_directory};
use crate::format::config::{Config, Part};
use crate::format::cursor::Cursor;
use crate::format::envelope::TAG_LEN;
use crate::format::id::{IndexId, PackId};
use crate::format::index::{IndexPart, PackRecord};
use crate::format::limits;
use crate::format::object::{ObjectKey, ObjectPrefix};
use crate::format::pack::{DIRECTORY_HEAD_LEN, DIRECTORY_TAIL_LEN, Directory, PackHeader, PackKind};

/// Directories of packs that are read at the same time where no index part has them: each takes three requests.
const DIRECTORIES_AT_ONCE: usize = 16;
/// Packs whose directories are taken into the index together, some 16 KiB each.
const PACKS_TOGETHER: usize = 256;

/// How deep a pack is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackScan {
    /// Header and directory, against the index.
    Directory,
    /// Every byte against the name, and every segment that these keys open.
    Everything,
}

/// What a scan found to be there.
#[derive(Debug, Default)]
pub struct ScannedPack {
    /// Bytes of the pack.
    pub stored_bytes: u64,
    /// Plain bytes of the chunks that were opened and whose ids were recomputed.
    pub opened_bytes: u64,
    /// Segments that these keys do not open.
    pub sealed_segments: u64,
    /// What is wrong with it. Of its segments those that are not right are set aside in the index.
    pub problem: Option<Error>,
}

/// Checks the config and every key slot of a repository that does not open, as far as that goes without a
/// key: checksums and structure. Returns what is wrong with which.
pub async fn check_without_keys(backend: &dyn crate::backend::Backend) -> Result<Vec<(ObjectKey, Error)>, Error> {
    let config = match super::closed::read_config(backend).await {
        Ok((config, _)) => config,
        Err(error) => return Ok(vec![(ObjectKey::Config, error)]),
    };
    let mut wrong = Vec::new();
    let mut listing = backend.list(crate::format::object::ObjectPrefix::Slots);
    let mut seen = 0;
    while let Some(listed) = listing.try_next().await? {
        let crate::backend::Listed::Object(info) = listed else { continue };
        seen += 1;
        if let Err(error) = limits::check("key slots", seen, limits::SLOTS_MAX) {
            wrong.push((info.key, error.into()));
            break;
        }
        if let ObjectKey::Slot(id) = info.key
            && let Err(error) = super::closed::read_slot(backend, id, &config).await
        {
            wrong.push((info.key, error));
        }
    }
    Ok(wrong)
}

impl Repository {
    /// Reads a pack and returns what its own directory says, without the index.
    pub async fn read_pack_directory(&self, pack: PackId, stored_len: u64) -> Result<PackRecord, Error> {
        let key = ObjectKey::Pack(pack);
        let object = || key.to_string();
        let cut = || Error::WrongContent { object: object() };
        let backend = self.backend();
        let head_len = stored_len.min(PackHeader::len_max() as u64);
        let head = backend.get_range(key, 0, head_len).await?;
        let (header, header_len) =
            PackHeader::decode(&head).map_err(|source| Error::Damaged { object: object(), source })?;
        let tail_at = stored_len.checked_sub(DIRECTORY_TAIL_LEN as u64).ok_or_else(cut)?;
        let tail = backend.get_range(key, tail_at, DIRECTORY_TAIL_LEN as u64).await?;
        let sealed_len = u64::from(Cursor::new("pack", &tail).u32()?);
        limits::check("pack directory", sealed_len, limits::DIRECTORY_BYTES_MAX)?;
        let sealed_at = tail_at.checked_sub(sealed_len).ok_or_else(cut)?;
        let sealed = backend.get_range(key, sealed_at, sealed_len).await?;
        let header_bytes = head.get(..header_len).ok_or_else(cut)?;
        let directory = self.open_pack_directory(pack, header_bytes, &sealed)?;
        let end = header_len as u64 + directory.segments_len();
        if end > sealed_at {
            return Err(cut());
        }
        let narrow = |len: u64| u32::try_from(len).map_err(|_| cut());
        Ok(PackRecord {
            id: pack,
            kind: header.kind,
            stored_len: narrow(stored_len)?,
            header_len: narrow(header_len as u64)?,
            directory,
        })
    }

    fn open_pack_directory(&self, pack: PackId, header: &[u8], sealed: &[u8]) -> Result<Directory, Error> {
        let object = || ObjectKey::Pack(pack).to_string();
        let keyring = self.keyring();
        let plain = open_directory(keyring.data()?, &keyring.repository, header, sealed)
            .map_err(|source| Error::Object { object: object(), source })?;
        debug_assert_eq!(plain.len() + DIRECTORY_HEAD_LEN + TAG_LEN, sealed.len());
        let damaged = |source| Error::Damaged { object: object(), source };
        Directory::decode_padded(&plain).map_err(damaged)
    }

    /// Scans one pack that the index lists and returns what was found right, and what is wrong where the rest of the pack can be
    /// told from it; an error where nothing in it can be relied on. Segments in `opened` were opened by a [`super::Reader`] of
    /// this repository before; they are only counted.
    pub async fn scan_pack(
        &self,
        pack: PackId,
        stored_len: u64,
        scan: PackScan,
        opened: &Arc<HashSet<i64>>,
    ) -> Result<ScannedPack, Error> {
        let object = || ObjectKey::Pack(pack).to_string();
        let listed = self.index().segments(&pack)?;
        let record = self.read_pack_directory(pack, stored_len).await?;
        let same = listed.iter().map(|segment| &segment.record).eq(record.directory.segments.iter())
            && listed.iter().all(|segment| {
                (segment.kind, segment.header_len) == (record.kind, record.header_len)
                    && u64::from(segment.pack_len) == stored_len
            });
        if !same {
            return Err(Error::IndexDiffers { object: object() });
        }
        let mut found = ScannedPack { stored_bytes: stored_len, ..ScannedPack::default() };
        if scan == PackScan::Everything {
            let sealed = listed.len() as u64;
            let can_read = record.kind != PackKind::Content || self.keyring().data()?.can_read();
            let to_open = if can_read { listed } else { Vec::new() };
            (found.opened_bytes, found.problem) = self.read_pack(pack, stored_len, to_open, opened).await?;
            if !can_read {
                // Which of them it is, nobody can tell without the key.
                found.problem.take().map_or(Ok(()), Err)?;
                found.sealed_segments = sealed;
            }
        }
        Ok(found)
    }

    /// Reads a pack from end to end, window after window, compares it with its name, and opens its segments but those in
    /// `opened`. Returns the plain bytes that were found right, and what is wrong.
    async fn read_pack(
        &self,
        pack: PackId,
        stored_len: u64,
        segments: Vec<Segment>,
        opened: &Arc<HashSet<i64>>,
    ) -> Result<(u64, Option<Error>), Error> {
        let backend = self.backend();
        let mut read = futures::stream::iter(windows(stored_len, segments))
            .map(|window| {
                let backend = Arc::clone(&backend);
                async move {
                    let bytes = backend.get_range(ObjectKey::Pack(pack), window.offset, window.len).await;
                    bytes.map(|bytes| (window, bytes))
                }
            })
            .buffered(WINDOWS_AT_ONCE);
        let mut scan = WindowScan {
            repository: self.clone(),
            pack,
            opened: Arc::clone(opened),
            decoders: Decoders::default(),
            hasher: hash::StreamHasher::default(),
            header: Bytes::new(),
            data_keys: HashMap::new(),
            opened_bytes: 0,
            wrong: None,
        };
        while let Some(window) = read.next().await {
            let (window, bytes) = window?;
            // A few milliseconds on all cores.
            let work = tokio::task::spawn_blocking(move || {
                scan.take(&window, &bytes);
                scan
            });
            scan = work.await.map_err(|_| Error::Stopped)?;
        }
        Ok(scan.finish())
    }

    /// Reads the directories of packs that no index part lists, and takes them into the local index: a restore
    /// then needs no index part at all. Returns how many. Packs whose directory cannot be read are left out.
    pub async fn index_unlisted_packs(&self) -> Result<usize, Error> {
        let listed: HashSet<PackId> = self.index().packs()?.into_iter().map(|(id, _)| id).collect();
        let there = self.list(ObjectPrefix::Packs).await?.into_iter();
        let unlisted = there.filter_map(|(key, len)| match key {
            ObjectKey::Pack(id) if !listed.contains(&id) => Some((id, len)),
            _ => None,
        });
        let unlisted: Vec<(PackId, u64)> = unlisted.collect();
        let mut read = futures::stream::iter(unlisted)
            .map(|(id, len)| async move { self.read_pack_directory(id, len).await })
            .buffered(DIRECTORIES_AT_ONCE)
            .filter(|read| std::future::ready(!read.as_ref().is_err_and(Error::is_damage)))
            .try_chunks(PACKS_TOGETHER);
        let mut count = 0;
        let staged = async {
            while let Some(packs) = read.next().await {
                let part = IndexPart { packs: packs.map_err(|error| error.1)? };
                count += part.packs.len();
                // Not the name of an object: the next load takes it out again.
                let id = IndexId::from_bytes(*hash::content_hash(&part.encode()).as_bytes());
                self.index().stage_part(&id, &part)?;
            }
            Ok(())
        };
        let staged: Result<(), Error> = staged.await;
        // Also after a failure: the cache is free for others.
        self.index().settle()?;
        staged.map(|()| count)
    }

    /// Checks a pack that no index part lists: its directory, and with `read_all` its name.
    pub async fn check_unlisted_pack(&self, pack: PackId, stored_len: u64, read_all: bool) -> Result<(), Error> {
        self.read_pack_directory(pack, stored_len).await?;
        if read_all { self.scrub(ObjectKey::Pack(pack)).await } else { Ok(()) }
    }

    /// Checks an object as anybody can, without a key: its bytes against its name, or against the checksum
    /// at its end.
    pub async fn scrub(&self, key: ObjectKey) -> Result<(), Error> {
        let stored = self.backend_of(key)?.get(key, limits::PACK_BYTES_MAX).await?;
        let hash = hash::content_hash(&stored);
        let is_right = match key {
            ObjectKey::Pack(id) => hash.as_bytes() == id.as_bytes(),
            ObjectKey::Index(id) => hash.as_bytes() == id.as_bytes(),
            ObjectKey::Bundle(id) => hash.as_bytes() == id.as_bytes(),
            ObjectKey::Config
            | ObjectKey::Slot(_)
            | ObjectKey::Snapshot(..)
            | ObjectKey::Tombstone(..)
            | ObjectKey::Verified(_) => hash::ends_in_checksum(&stored),
        };
        if is_right { Ok(()) } else { Err(Error::WrongContent { object: key.to_string() }) }
    }

    /// Checks the config and every key slot among `objects`, and among those of the secrets' own store; returns
    /// what is wrong with which.
    pub async fn check_slots_and_config(
        &self,
        objects: impl Iterator<Item = ObjectKey>,
        apart: &[ObjectKey],
    ) -> Vec<(ObjectKey, Error)> {
        let here = self.backend();
        let mut wrong = self.check_these(here.as_ref(), self.config(), objects).await;
        // Without the data this store is the one of the secrets.
        let backend = self.secrets.apart().unwrap_or(&here);
        let config = self.config().of_part(Part::Secrets);
        wrong.extend(self.check_these(backend.as_ref(), &config, apart.iter().copied()).await);
        wrong
    }

    async fn check_these(
        &self,
        backend: &dyn crate::backend::Backend,
        expected: &Config,
        objects: impl Iterator<Item = ObjectKey>,
    ) -> Vec<(ObjectKey, Error)> {
        let mut wrong = Vec::new();
        for key in objects {
            let checked = match key {
                ObjectKey::Slot(id) => super::closed::read_slot(backend, id, expected).await.map(|_| ()),
                ObjectKey::Config => super::closed::read_config(backend).await.and_then(|(config, _)| {
                    let is_same = config == *expected;
                    is_same.then_some(()).ok_or_else(|| Error::WrongContent { object: key.to_string() })
                }),
                _ => Ok(()),
            };
            if let Err(error) = checked {
                wrong.push((key, error));
            }
        }
        wrong
    }
}

/// Bytes of a pack that are read at once, but for a segment that is longer.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Windows of one pack that are read or held at the same time.
const WINDOWS_AT_ONCE: usize = 2;

/// A part of a pack and the segments that lie in it, whole.
struct Window {
    offset: u64,
    len: u64,
    segments: Vec<Segment>,
}

/// Cuts a pack into windows that cut no segment: together they are all of it. Segments are in the order of their places.
fn windows(stored_len: u64, segments: Vec<Segment>) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    let mut end = 0;
    let mut push = |to: u64, segment: Option<Segment>| {
        // What lies between segments, and behind them, is cut anywhere.
        let is_segment = segment.is_some();
        while end < to {
            match windows.last_mut() {
                Some(last) if last.len + (to - end) <= WINDOW_BYTES => {
                    last.len += to - end;
                    end = to;
                }
                _ => {
                    let len = if is_segment { to - end } else { (to - end).min(WINDOW_BYTES) };
                    windows.push(Window { offset: end, len, segments: Vec::new() });
                    end += len;
                }
            }
        }
        if let (Some(last), Some(segment)) = (windows.last_mut(), segment) {
            last.segments.push(segment);
        }
    };
    for segment in segments {
        push(u64::from(segment.offset), None);
        push(u64::from(segment.offset) + u64::from(segment.record.stored_len), Some(segment));
    }
    push(stored_len, None);
    windows
}

/// One pack on its way through the windows.
struct WindowScan {
    repository: Repository,
    pack: PackId,
    opened: Arc<HashSet<i64>>,
    decoders: Decoders,
    hasher: hash::StreamHasher,
    header: Bytes,
    data_keys: HashMap<u8, Arc<DataKey>>,
    opened_bytes: u64,
    /// The first thing wrong with a segment: counts for less than a wrong name.
    wrong: Option<Error>,
}

impl WindowScan {
    fn take(&mut self, window: &Window, bytes: &Bytes) {
        if window.offset == 0 {
            self.header = bytes.slice(..bytes.len().min(PackHeader::len_max()));
        }
        self.hasher.update(bytes);
        let mut work = Vec::new();
        for segment in &window.segments {
            if self.opened.contains(&segment.row) {
                // The pack's hash tells that it is the same.
                self.opened_bytes += segment.record.plain_len();
                continue;
            }
            match self.work(segment, window, bytes) {
                Ok(next) => work.push(next),
                Err(error) => self.found_wrong(segment, error),
            }
        }
        let open = |(segment, key, ids, sealed): &Work<'_>| self.decoders.open(segment, key, sealed, ids);
        let opened: Vec<Result<u64, Error>> =
            work.par_iter().map(|work| open(work).map(|plain| plain.len() as u64)).collect();
        for ((segment, ..), opened) in work.iter().zip(opened) {
            match opened {
                Ok(len) => self.opened_bytes += len,
                Err(error) => self.found_wrong(segment, error),
            }
        }
    }

    /// Returns what it takes to open a segment.
    fn work<'a>(&mut self, segment: &'a Segment, window: &Window, bytes: &Bytes) -> Result<Work<'a>, Error> {
        let start = usize::try_from(u64::from(segment.offset) - window.offset).ok();
        let range = start.map(|start| start..start + segment.record.stored_len as usize);
        let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
            return Err(Error::WrongContent { object: ObjectKey::Pack(self.pack).to_string() });
        };
        let ids = self.repository.keyring().data()?.chunk_ids(segment.kind);
        Ok((segment, self.data_key(segment)?, ids, bytes.slice(range)))
    }

    fn found_wrong(&mut self, segment: &Segment, error: Error) {
        if error.is_damage() {
            self.repository.index().set_aside(segment, &error);
        }
        self.wrong.get_or_insert(error);
    }

    fn data_key(&mut self, segment: &Segment) -> Result<Arc<DataKey>, Error> {
        if let Some(key) = self.data_keys.get(&segment.record.key) {
            return Ok(Arc::clone(key));
        }
        let header = self.header.get(..segment.header_len as usize).unwrap_or_default();
        let key = Arc::new(open_data_key(&self.repository, self.pack, segment.record.key, header)?);
        self.data_keys.insert(segment.record.key, Arc::clone(&key));
        Ok(key)
    }

    fn finish(self) -> (u64, Option<Error>) {
        let is_named_right = self.hasher.finish().as_bytes() == self.pack.as_bytes();
        let wrong_name = || Error::WrongContent { object: ObjectKey::Pack(self.pack).to_string() };
        (self.opened_bytes, if is_named_right { self.wrong } else { Some(wrong_name()) })
    }
}

/// A segment, its key, the key of the ids in it, and its sealed bytes.
type Work<'a> = (&'a Segment, Arc<DataKey>, ChunkIdKey, Bytes);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::envelope::Codec;
    use crate::format::id::ChunkId;
    use crate::format::pack::{ChunkRecord, SegmentRecord};

    fn segment(offset: u64, stored_len: u64) -> Segment {
        let chunks = vec![ChunkRecord { id: ChunkId::from_bytes([0; 32]), len: 1 }];
        let narrow = |number: u64| u32::try_from(number).unwrap();
        let record =
            SegmentRecord { stored_len: narrow(stored_len), codec: Codec::Stored, key: 0, nonce: [0; 24], chunks };
        let (pack, kind) = (PackId::from_bytes([1; 32]), PackKind::Content);
        Segment { row: 0, pack, kind, pack_len: 0, header_len: 10, ordinal: 0, offset: narrow(offset), record }
    }

    #[test]
    fn windows_are_all_of_a_pack_and_cut_no_segment() {
        const MIB: u64 = 1024 * 1024;
        let segments = vec![segment(10, 3 * MIB), segment(10 + 3 * MIB, 2 * MIB), segment(10 + 5 * MIB, 7 * MIB)];
        let found: Vec<(u64, u64, usize)> = windows(21 * MIB, segments)
            .iter()
            .map(|window| (window.offset, window.len, window.segments.len()))
            .collect();
        let rest = 10 + 12 * MIB;
        let wanted = [
            (0, 10 + 3 * MIB, 1),
            (10 + 3 * MIB, 2 * MIB, 1),
            (10 + 5 * MIB, 7 * MIB, 1),
            (rest, 4 * MIB, 0),
            (rest + 4 * MIB, 4 * MIB, 0),
            (rest + 8 * MIB, MIB - 10, 0),
        ];
        assert_eq!(found, wanted);
    }
}
