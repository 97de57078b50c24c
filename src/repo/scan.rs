//! Whole packs, read and checked from end to end: what `check` is made of.

use std::collections::HashSet;
use std::sync::Arc;

use super::Error;
use super::index::Segment;
use super::open::Repository;
use super::reader::{open_data_key, open_segment};
use crate::crypto::hash;
use crate::crypto::pack::open_directory;
use crate::format::config::{Config, Part};
use crate::format::cursor::Cursor;
use crate::format::envelope::TAG_LEN;
use crate::format::id::{IndexId, PackId};
use crate::format::index::{IndexPart, PackRecord};
use crate::format::limits;
use crate::format::object::{ObjectKey, ObjectPrefix};
use crate::format::pack::{DIRECTORY_HEAD_LEN, DIRECTORY_TAIL_LEN, Directory, PackHeader};

/// How deep a pack is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackScan {
    /// Header and directory, against the index.
    Directory,
    /// Every byte against the name, and every segment that these keys open.
    Everything,
}

/// What a scan found to be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScannedPack {
    /// Bytes of the pack.
    pub stored_bytes: u64,
    /// Plain bytes of the chunks that were opened and whose ids were recomputed.
    pub opened_bytes: u64,
    /// Segments that these keys do not open.
    pub sealed_segments: u64,
}

/// Checks the config and every key slot of a repository that does not open, as far as that goes without a
/// key: checksums and structure. Returns what is wrong with which.
pub async fn check_without_keys(backend: &dyn crate::backend::Backend) -> Result<Vec<(ObjectKey, Error)>, Error> {
    use futures::TryStreamExt as _;
    let config = match super::open::read_config(backend).await {
        Ok((config, _)) => config,
        Err(error) => return Ok(vec![(ObjectKey::Config, error)]),
    };
    let mut wrong = Vec::new();
    let mut listing = backend.list(crate::format::object::ObjectPrefix::Slots);
    let mut seen = 0;
    while let Some(listed) = listing.try_next().await? {
        let crate::backend::Listed::Object(info) = listed else { continue };
        seen += 1;
        limits::check("key slots", seen, limits::SLOTS_MAX)?;
        if let ObjectKey::Slot(id) = info.key
            && let Err(error) = super::open::read_slot(backend, id, &config).await
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

    /// Scans one pack that the index lists and returns what was found right, or the first thing wrong. Segments
    /// in `opened` were opened by a [`super::Reader`] of this repository before; they are only counted.
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
            let stored = self.backend().get(ObjectKey::Pack(pack), limits::PACK_BYTES_MAX).await?;
            let repository = self.clone();
            let opened = Arc::clone(opened);
            let work = tokio::task::spawn_blocking(move || repository.open_pack(pack, &listed, &stored, &opened));
            (found.opened_bytes, found.sealed_segments) = work.await.map_err(|_| Error::Stopped)??;
        }
        Ok(found)
    }

    /// Reads the directories of packs that no index part lists, and takes them into the local index: a restore
    /// then needs no index part at all. Returns how many. Packs whose directory cannot be read are left out.
    pub async fn index_unlisted_packs(&self) -> Result<usize, Error> {
        let listed: HashSet<PackId> = self.index().packs()?.into_iter().map(|(id, _)| id).collect();
        let mut part = IndexPart::default();
        for (key, len) in self.list(ObjectPrefix::Packs).await? {
            let ObjectKey::Pack(id) = key else { continue };
            if listed.contains(&id) {
                continue;
            }
            match self.read_pack_directory(id, len).await {
                Ok(record) => part.packs.push(record),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        part.packs.sort_by_key(|pack| pack.id);
        if !part.packs.is_empty() {
            // Not the name of an object: the next load takes it out again.
            let id = IndexId::from_bytes(*hash::content_hash(&part.encode()).as_bytes());
            self.index().add_part(&id, &part)?;
        }
        Ok(part.packs.len())
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
                ObjectKey::Slot(id) => super::open::read_slot(backend, id, expected).await.map(|_| ()),
                ObjectKey::Config => super::open::read_config(backend).await.and_then(|(config, _)| {
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

    fn open_pack(
        &self,
        pack: PackId,
        segments: &[Segment],
        stored: &[u8],
        opened: &HashSet<i64>,
    ) -> Result<(u64, u64), Error> {
        let object = || ObjectKey::Pack(pack).to_string();
        if hash::content_hash(stored).as_bytes() != pack.as_bytes() {
            return Err(Error::WrongContent { object: object() });
        }
        let keyring = self.keyring();
        let keys = keyring.data()?;
        let mut opened_bytes = 0;
        let mut used = HashSet::new();
        let mut data_keys = Vec::new();
        for segment in segments {
            if segment.kind == crate::format::pack::PackKind::Content && !keys.can_read() {
                return Ok((0, segments.len() as u64));
            }
            if opened.contains(&segment.row) {
                // The pack's hash was right: these are the bytes that were opened before.
                opened_bytes += segment.record.plain_len();
                continue;
            }
            if used.insert(segment.record.key) {
                let header = stored.get(..segment.header_len as usize).unwrap_or_default();
                data_keys.push((segment.record.key, open_data_key(self, pack, segment.record.key, header)?));
            }
            let key = data_keys.iter().find(|(entry, _)| *entry == segment.record.key).map(|(_, key)| key);
            let from = segment.offset as usize;
            let sealed = stored.get(from..from + segment.record.stored_len as usize);
            let (Some(key), Some(sealed)) = (key, sealed) else {
                return Err(Error::WrongContent { object: object() });
            };
            opened_bytes += open_segment(segment, key, sealed, &keys.chunk_ids(segment.kind))?.len() as u64;
        }
        Ok((opened_bytes, 0))
    }
}
