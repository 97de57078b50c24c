//! The index on disk: SQLite, in a directory of this host. It can be removed at any time.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ffi, params};

use super::filter::{Filter, Prefix};
use super::{DamagedSegment, Segment};
use crate::crypto::hash::{StreamHasher, content_hash};
use crate::format::cursor::Cursor;
use crate::format::id::{ChunkId, IndexId, PackId, RepositoryId};
use crate::format::index::{IndexPart, PackRecord};
use crate::format::pack::{Directory, PackKind, SegmentRecord};
use crate::repo::error::{CacheError, Error};

/// Changes whenever the tables do: another version is dropped and rebuilt.
const SCHEMA_VERSION: &str = "orkvault-index-4";

const TABLES: &str = "
CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE parts (part INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
CREATE TABLE packs (pack INTEGER PRIMARY KEY, part INTEGER NOT NULL, id BLOB NOT NULL, kind INTEGER NOT NULL,
                    stored_len INTEGER NOT NULL, header_len INTEGER NOT NULL);
CREATE INDEX packs_by_part ON packs (part);
CREATE INDEX packs_by_id ON packs (id);
CREATE TABLE segments (segment INTEGER PRIMARY KEY AUTOINCREMENT, pack INTEGER NOT NULL, ordinal INTEGER NOT NULL,
                       place INTEGER NOT NULL, record BLOB NOT NULL, checksum BLOB NOT NULL);
CREATE INDEX segments_by_pack ON segments (pack, ordinal);
CREATE TABLE chunks (prefix INTEGER NOT NULL, segment INTEGER NOT NULL, PRIMARY KEY (prefix, segment)) WITHOUT ROWID;
CREATE TABLE damaged (pack BLOB NOT NULL, ordinal INTEGER NOT NULL, PRIMARY KEY (pack, ordinal)) WITHOUT ROWID;
CREATE TABLE filter (ordinal INTEGER PRIMARY KEY, segments INTEGER NOT NULL, bytes BLOB NOT NULL, checksum BLOB NOT NULL);
";

/// Chunks that are sorted and added together: the table is then gone through a few times for an index of any size, and
/// sorting takes 24 MiB.
pub(super) const CHUNKS_TOGETHER: usize = 1536 * 1024;
/// Chunks that the stored filter may lack: they are read from their segments when it is loaded.
const FILTER_BEHIND: i64 = 256 * 1024;
/// Bytes of the largest filter, and some.
const FILTER_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Bytes of one row of the filter.
const FILTER_ROW_BYTES: usize = 1024 * 1024;

/// What a cache without a file is called.
const TEMPORARY: &str = "(temporary)";

/// The cache of one repository.
pub struct IndexCache {
    connection: Connection,
    path: PathBuf,
    /// Chunks of parts that were added in the open transaction, and their segments.
    staged: Vec<(Prefix, u32)>,
}

type PackRow = (i64, [u8; 32], u8, u32, u32);

impl IndexCache {
    /// Opens the cache of `repository` at `location` in `directory`, which exists; makes it where it is missing,
    /// of another version or damaged. `None` keeps it in a temporary file.
    ///
    /// The location is part of the name: two stores with copies of one repository do not know each other's packs.
    pub fn open(directory: Option<&Path>, repository: &RepositoryId, location: &str) -> Result<Self, Error> {
        let path = directory.map(|directory| Self::path(directory, repository, location));
        if path.as_deref().is_some_and(|path| damage_mark(path).exists()) {
            Self::remove(path.as_deref())?;
        }
        match Self::open_as_is(path.as_deref(), repository) {
            Err(Error::Cache { source, .. }) if source.is_unusable() && path.is_some() => {
                // Damaged or old: the repository has everything that was in it.
                Self::remove(path.as_deref())?;
                Self::open_as_is(path.as_deref(), repository)
            }
            opened => opened,
        }
    }

    /// Returns where the cache of `repository` at `location` lies in `directory`.
    pub(in crate::repo) fn path(directory: &Path, repository: &RepositoryId, location: &str) -> PathBuf {
        let store = content_hash(location.as_bytes()).short();
        directory.join(format!("{}-{store}.index.sqlite", repository.short()))
    }

    fn remove(path: Option<&Path>) -> Result<(), Error> {
        let Some(path) = path else { return Ok(()) };
        for suffix in ["", "-wal", "-shm", "-journal", DAMAGE_SUFFIX] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let source = CacheError::Failed { reason: error.to_string() };
                    return Err(Error::Cache { path: path.display().to_string(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn open_as_is(path: Option<&Path>, repository: &RepositoryId) -> Result<Self, Error> {
        let shown = path.map_or_else(|| PathBuf::from(TEMPORARY), Path::to_path_buf);
        let wrap = |error: rusqlite::Error| failed(&shown, &error);
        // An empty name is SQLite's for a temporary database that may spill to disk.
        let connection = Connection::open(path.unwrap_or_else(|| Path::new(""))).map_err(wrap)?;
        connection.busy_timeout(std::time::Duration::from_secs(60)).map_err(wrap)?;
        // A lost cache costs a rebuild, so nothing waits for the disk; content is a hint, never code.
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA trusted_schema=OFF;
                 PRAGMA cell_size_check=ON; PRAGMA cache_size=-8192; PRAGMA mmap_size=0;",
            )
            .map_err(wrap)?;
        let mut cache = Self { connection, path: shown.clone(), staged: Vec::new() };
        cache.make_or_check(repository)?;
        Ok(cache)
    }

    fn make_or_check(&mut self, repository: &RepositoryId) -> Result<(), Error> {
        let path = self.path.clone();
        let wrap = |error: rusqlite::Error| failed(&path, &error);
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(wrap)?;
        let tables: i64 =
            transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(wrap)?;
        if tables == 0 {
            transaction.execute_batch(TABLES).map_err(wrap)?;
            transaction
                .execute(
                    "INSERT INTO about VALUES ('schema', ?1), ('repository', ?2), ('chunks', 0)",
                    params![SCHEMA_VERSION, repository.as_bytes().as_slice()],
                )
                .map_err(wrap)?;
        } else {
            let schema: String = transaction
                .query_row("SELECT value FROM about WHERE name = 'schema'", [], |row| row.get(0))
                .map_err(wrap)?;
            let found: Vec<u8> = transaction
                .query_row("SELECT value FROM about WHERE name = 'repository'", [], |row| row.get(0))
                .map_err(wrap)?;
            if schema != SCHEMA_VERSION || found != repository.as_bytes() {
                let path = path.display().to_string();
                return Err(Error::Cache {
                    path,
                    source: CacheError::Unusable { reason: "of another version".to_owned() },
                });
            }
        }
        transaction.commit().map_err(wrap)
    }

    fn wrap(&self, error: &rusqlite::Error) -> Error {
        failed(&self.path, error)
    }

    /// Returns the parts that are in the cache.
    pub(super) fn parts(&self) -> Result<HashSet<IndexId>, Error> {
        let mut statement =
            self.connection.prepare_cached("SELECT id FROM parts").map_err(|error| self.wrap(&error))?;
        let rows = statement.query_map([], |row| row.get::<_, [u8; 32]>(0)).map_err(|error| self.wrap(&error))?;
        rows.map(|row| row.map(IndexId::from_bytes).map_err(|error| self.wrap(&error))).collect()
    }

    /// Adds a part in a transaction that stays open: see [`IndexCache::commit_staged`]. Does nothing where it is there.
    /// Returns how many chunks wait to be added.
    pub(super) fn stage_part(&mut self, id: &IndexId, part: &IndexPart) -> Result<usize, Error> {
        self.try_stage(id, part).map_err(|error| self.give_up(&error))?;
        Ok(self.staged.len())
    }

    fn try_stage(&mut self, id: &IndexId, part: &IndexPart) -> Result<(), rusqlite::Error> {
        if self.connection.is_autocommit() {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        let added = self
            .connection
            .prepare_cached("INSERT OR IGNORE INTO parts (id) VALUES (?1)")?
            .execute(params![id.as_bytes().as_slice()])?;
        if added == 0 {
            return Ok(());
        }
        let row = self.connection.last_insert_rowid();
        for pack in &part.packs {
            add_pack(&self.connection, row, pack, &mut self.staged)?;
        }
        Ok(())
    }

    /// Adds the chunks of all parts that were staged, and makes them last. Returns their prefixes.
    pub(super) fn commit_staged(&mut self) -> Result<Vec<(Prefix, u32)>, Error> {
        self.try_commit().map_err(|error| self.give_up(&error))?;
        Ok(std::mem::take(&mut self.staged))
    }

    fn try_commit(&mut self) -> Result<(), rusqlite::Error> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        // In the order of the number that the database sorts by: the table is then written from its front to its end.
        self.staged.sort_unstable_by_key(|(prefix, segment)| (prefix.signed(), *segment));
        let mut insert = self.connection.prepare_cached("INSERT OR IGNORE INTO chunks VALUES (?1, ?2)")?;
        for (prefix, segment) in &self.staged {
            insert.execute((prefix.signed(), segment))?;
        }
        drop(insert);
        let count = i64::try_from(self.staged.len()).unwrap_or(i64::MAX);
        self.connection.execute("UPDATE about SET value = value + ?1 WHERE name = 'chunks'", params![count])?;
        self.connection.execute_batch("COMMIT")
    }

    fn give_up(&mut self, error: &rusqlite::Error) -> Error {
        self.staged.clear();
        if !self.connection.is_autocommit() {
            // What failed is the error that counts; some failures have rolled back already.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.wrap(error)
    }

    /// Removes parts and what only they list.
    pub(super) fn remove_parts(&mut self, gone: &[IndexId]) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            for id in gone {
                let bytes = id.as_bytes().as_slice();
                let part: Option<i64> = transaction
                    .query_row("SELECT part FROM parts WHERE id = ?1", params![bytes], |row| row.get(0))
                    .optional()?;
                let Some(part) = part else { continue };
                remove_chunks(transaction, part)?;
                transaction.execute(
                    "DELETE FROM segments WHERE pack IN (SELECT pack FROM packs WHERE part = ?1)",
                    params![part],
                )?;
                let damaged = "DELETE FROM damaged WHERE pack IN (SELECT id FROM packs WHERE part = ?1)";
                transaction.execute(damaged, params![part])?;
                transaction.execute("DELETE FROM packs WHERE part = ?1", params![part])?;
                transaction.execute("DELETE FROM parts WHERE part = ?1", params![part])?;
            }
            Ok(())
        })
    }

    /// Remembers a segment that proved damaged.
    pub(in crate::repo) fn add_damaged(&self, segment: DamagedSegment) -> Result<(), Error> {
        add_damaged(&self.connection, segment).map_err(|error| self.wrap(&error))
    }

    /// Remembers that these segments are damaged, and no others.
    pub(in crate::repo) fn replace_damaged(&mut self, damaged: &HashSet<DamagedSegment>) -> Result<(), Error> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM damaged", [])?;
            damaged.iter().try_for_each(|segment| add_damaged(transaction, *segment))
        })
    }

    /// Returns the segments that proved damaged.
    pub(super) fn damaged(&self) -> Result<HashSet<DamagedSegment>, Error> {
        let run = || {
            let mut statement = self.connection.prepare("SELECT pack, ordinal FROM damaged")?;
            let rows = statement.query_map([], |row| Ok((PackId::from_bytes(row.get(0)?), row.get(1)?)))?;
            rows.collect::<Result<_, _>>()
        };
        run().map_err(|error: rusqlite::Error| self.wrap(&error))
    }

    /// Returns how many chunks were added, `None` where the cache does not tell. More than there are where parts
    /// were removed.
    pub(super) fn chunks(&self) -> Result<i64, Error> {
        let query = "SELECT value FROM about WHERE name = 'chunks'";
        self.connection.query_row(query, [], |row| row.get(0)).map_err(|error| self.wrap(&error))
    }

    /// Returns a filter that knows every chunk, `None` where there are too many for one.
    pub(super) fn filter(&self) -> Result<Option<Filter>, Error> {
        let stored = self.stored_filter().map_err(|error| self.wrap(&error))?;
        let (mut filter, known) = match stored {
            Some(stored) => stored,
            None => match self.room()? {
                Some(empty) => (empty, 0),
                None => return Ok(None),
            },
        };
        self.add_to_filter(&mut filter, known).map_err(|error| self.wrap(&error))?;
        if !filter.is_full() {
            return Ok(Some(filter));
        }
        // It has grown out of what was stored.
        let Some(mut filter) = self.room()? else { return Ok(None) };
        self.add_to_filter(&mut filter, 0).map_err(|error| self.wrap(&error))?;
        Ok(Some(filter))
    }

    /// Returns an empty filter with room for an eighth more chunks than there are.
    fn room(&self) -> Result<Option<Filter>, Error> {
        let chunks = u64::try_from(self.chunks()?).unwrap_or(0);
        Ok(Filter::with_room(chunks + chunks / 8 + 2 * FILTER_BEHIND.unsigned_abs()))
    }

    /// Returns the stored filter and the last segment that it knows; `None` where it is not whole.
    fn stored_filter(&self) -> Result<Option<(Filter, i64)>, rusqlite::Error> {
        let len = "SELECT coalesce(sum(length(bytes)), 0) FROM filter";
        let len: i64 = self.connection.query_row(len, [], |row| row.get(0))?;
        // In one allocation, which goes back to the system: a growing one would stay with the process.
        let mut whole = Vec::with_capacity(usize::try_from(len.min(FILTER_BYTES_MAX)).unwrap_or(0));
        let mut statement = self.connection.prepare("SELECT segments, bytes, checksum FROM filter ORDER BY ordinal")?;
        let mut rows = statement.query([])?;
        let mut known = None;
        while let Some(row) = rows.next()? {
            let segments: i64 = row.get(0)?;
            let (Ok(bytes), Ok(checksum)) = (row.get_ref(1)?.as_blob(), row.get::<_, [u8; 32]>(2)) else {
                return Ok(None);
            };
            let is_right = filter_checksum(segments, whole.len(), bytes) == checksum;
            if !is_right || known.is_some_and(|known| known != segments) {
                return Ok(None);
            }
            known = Some(segments);
            whole.extend_from_slice(bytes);
        }
        Ok(Filter::decode(&whole).zip(known))
    }

    /// Adds the chunks of all segments after `known`.
    fn add_to_filter(&self, filter: &mut Filter, known: i64) -> Result<(), rusqlite::Error> {
        if known == 0 {
            let mut statement = self.connection.prepare("SELECT prefix FROM chunks")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                filter.add(Prefix::from_signed(row.get(0)?));
            }
            return Ok(());
        }
        let mut statement = self.connection.prepare("SELECT record FROM segments WHERE segment > ?1")?;
        let mut rows = statement.query(params![known])?;
        while let Some(row) = rows.next()? {
            // One that does not decode is not found either.
            let record = take_record(row.get_ref(0)?.as_blob()?);
            for chunk in record.iter().flat_map(|record| &record.chunks) {
                filter.add(Prefix::of(&chunk.id));
            }
        }
        Ok(())
    }

    /// Stores the filter where the stored one lacks many chunks. Best done after parts were added.
    pub(super) fn store_filter(&mut self) -> Result<(), Error> {
        let (total, stored) = (self.chunks()?, self.filter_chunks().map_err(|error| self.wrap(&error))?);
        if total - stored < FILTER_BEHIND.max(stored / 16) {
            return Ok(());
        }
        // Before the filter is made: what another process adds meanwhile is then added to it by whoever loads it.
        let known: Result<Option<i64>, _> =
            self.connection.query_row("SELECT max(segment) FROM segments", [], |row| row.get(0));
        let known = known.map_err(|error| self.wrap(&error))?.unwrap_or(0);
        let Some(filter) = self.filter()? else { return Ok(()) };
        let encoded = filter.encode();
        drop(filter);
        self.write(|transaction| {
            transaction.execute("DELETE FROM filter", [])?;
            let mut at = 0;
            for bytes in encoded.chunks(FILTER_ROW_BYTES) {
                transaction
                    .prepare_cached("INSERT INTO filter (segments, bytes, checksum) VALUES (?1, ?2, ?3)")?
                    .execute(params![known, bytes, filter_checksum(known, at, bytes).as_slice()])?;
                at += bytes.len();
            }
            transaction.execute("INSERT OR REPLACE INTO about VALUES ('filter', ?1)", params![total])?;
            Ok(())
        })
    }

    /// Returns how many chunks there were when the filter was stored.
    fn filter_chunks(&self) -> Result<i64, rusqlite::Error> {
        let query = "SELECT value FROM about WHERE name = 'filter'";
        Ok(self.connection.query_row(query, [], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    fn write(
        &mut self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<(), rusqlite::Error>,
    ) -> Result<(), Error> {
        let path = self.path.clone();
        let run = || {
            let transaction = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            work(&transaction)?;
            transaction.commit()
        };
        run().map_err(|error: rusqlite::Error| failed(&path, &error))
    }

    /// Returns every pack with its length, each once.
    pub(super) fn packs(&self) -> Result<Vec<(PackId, u64)>, Error> {
        let run = || {
            let mut statement = self.connection.prepare_cached("SELECT DISTINCT id, stored_len FROM packs")?;
            let rows = statement
                .query_map([], |row| Ok((PackId::from_bytes(row.get(0)?), u64::from(row.get::<_, u32>(1)?))))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        run().map_err(|error: rusqlite::Error| self.wrap(&error))
    }

    /// Returns the segments that hold a chunk, and those of a chunk whose id starts alike.
    pub(super) fn segments_of(&self, chunk: &ChunkId) -> Result<Vec<Segment>, Error> {
        self.select("SELECT segment FROM chunks WHERE prefix = ?1", Prefix::of(chunk).signed())
    }

    /// Returns the segments of a pack, in order.
    pub(super) fn segments_in(&self, pack: &PackId) -> Result<Vec<Segment>, Error> {
        // Two parts may list one pack (two writers, one cache lost): the first row speaks for all.
        self.select(
            "SELECT segment FROM segments WHERE pack = (SELECT min(pack) FROM packs WHERE id = ?1) ORDER BY ordinal",
            pack.as_bytes().as_slice(),
        )
    }

    fn select(&self, sql: &str, key: impl rusqlite::ToSql) -> Result<Vec<Segment>, Error> {
        let rows = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![key], |row| row.get::<_, i64>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = rows().map_err(|error: rusqlite::Error| self.wrap(&error))?;
        rows.into_iter().filter_map(|row| self.segment(row).transpose()).collect()
    }

    /// Returns a segment, `None` where its row is gone or does not match its checksum.
    fn segment(&self, row: i64) -> Result<Option<Segment>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT p.id, p.kind, p.stored_len, p.header_len, s.ordinal, s.place, s.record, s.checksum
                     FROM segments s JOIN packs p ON p.pack = s.pack WHERE s.segment = ?1",
                )?
                .query_row(params![row], |found| {
                    let pack: PackRow = (row, found.get(0)?, found.get(1)?, found.get(2)?, found.get(3)?);
                    let place: (u32, u32) = (found.get(4)?, found.get(5)?);
                    Ok((pack, place, found.get::<_, Vec<u8>>(6)?, found.get::<_, [u8; 32]>(7)?))
                })
                .optional()
        };
        let found = query().map_err(|error: rusqlite::Error| self.wrap(&error))?;
        Ok(found.and_then(|(pack, place, record, checksum)| {
            (segment_checksum(&pack, place, &record) == checksum)
                .then(|| decode_segment(&pack, place, &record))
                .flatten()
        }))
    }
}

fn add_damaged(connection: &Connection, (pack, ordinal): DamagedSegment) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO damaged VALUES (?1, ?2)")?
        .execute(params![pack.as_bytes().as_slice(), ordinal])?;
    Ok(())
}

fn add_pack(
    transaction: &Connection,
    part: i64,
    pack: &PackRecord,
    chunks: &mut Vec<(Prefix, u32)>,
) -> Result<(), rusqlite::Error> {
    transaction
        .prepare_cached("INSERT INTO packs (part, id, kind, stored_len, header_len) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![part, pack.id.as_bytes().as_slice(), pack.kind.code(), pack.stored_len, pack.header_len])?;
    let pack_row = transaction.last_insert_rowid();
    let head: PackRow = (0, *pack.id.as_bytes(), pack.kind.code(), pack.stored_len, pack.header_len);
    let mut place = pack.header_len;
    let mut insert = transaction
        .prepare_cached("INSERT INTO segments (pack, ordinal, place, record, checksum) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for (ordinal, segment) in (0_u32..).zip(&pack.directory.segments) {
        let mut record = Vec::new();
        // A directory of one segment: the encoding that `format` already has.
        Directory { segments: vec![segment.clone()] }.encode(&mut record);
        let checksum = segment_checksum(&head, (ordinal, place), &record);
        insert.execute(params![pack_row, ordinal, place, record, checksum.as_slice()])?;
        let row = transaction.last_insert_rowid();
        // A cache that ever had four billion segments is full; the chunks of more of them count as unknown.
        if let Ok(row) = u32::try_from(row) {
            chunks.extend(segment.chunks.iter().map(|chunk| (Prefix::of(&chunk.id), row)));
        }
        place += segment.stored_len;
    }
    Ok(())
}

/// Removes what only the segments of a part hold.
fn remove_chunks(transaction: &rusqlite::Transaction<'_>, part: i64) -> Result<(), rusqlite::Error> {
    let of_part = "SELECT segment, record FROM segments WHERE pack IN (SELECT pack FROM packs WHERE part = ?1)";
    let mut statement = transaction.prepare_cached(of_part)?;
    let mut rows = statement.query(params![part])?;
    let mut delete = transaction.prepare_cached("DELETE FROM chunks WHERE prefix = ?1 AND segment = ?2")?;
    while let Some(row) = rows.next()? {
        let segment: i64 = row.get(0)?;
        // What the disk has changed stays behind and leads to a segment that is not there.
        let record = take_record(row.get_ref(1)?.as_blob()?);
        for chunk in record.iter().flat_map(|record| &record.chunks) {
            delete.execute(params![Prefix::of(&chunk.id).signed(), segment])?;
        }
    }
    Ok(())
}

/// Returns the record of a segment: its encoding is that of a directory of one.
fn take_record(record: &[u8]) -> Option<SegmentRecord> {
    Directory::take(&mut Cursor::new("segment", record)).ok()?.segments.pop()
}

/// Also of where the bytes belong.
fn filter_checksum(segments: i64, at: usize, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = StreamHasher::default();
    hasher.update(&segments.to_le_bytes());
    hasher.update(&(at as u64).to_le_bytes());
    hasher.update(bytes);
    *hasher.finish().as_bytes()
}

/// What the disk has changed is not believed.
fn segment_checksum(pack: &PackRow, place: (u32, u32), record: &[u8]) -> [u8; 32] {
    let (_, id, kind, stored_len, header_len) = pack;
    let mut hasher = StreamHasher::default();
    hasher.update(id);
    hasher.update(&[*kind]);
    for number in [*stored_len, *header_len, place.0, place.1] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(record);
    *hasher.finish().as_bytes()
}

fn decode_segment(pack: &PackRow, (ordinal, offset): (u32, u32), record: &[u8]) -> Option<Segment> {
    let (row, id, kind, pack_len, header_len) = *pack;
    let record = take_record(record)?;
    let kind = PackKind::from_code(kind).ok()?;
    Some(Segment { row, pack: PackId::from_bytes(id), kind, pack_len, header_len, ordinal, offset, record })
}

/// Lies beside a cache that turned out to be damaged: the next one to open it makes it anew.
const DAMAGE_SUFFIX: &str = ".damaged";

fn damage_mark(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGE_SUFFIX);
    PathBuf::from(name)
}

fn failed(path: &Path, error: &rusqlite::Error) -> Error {
    let reason = error.to_string();
    let code = error.sqlite_error_code();
    // A sector that cannot be read stays so until something else is written there: a new file lies elsewhere.
    let is_unreadable = error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_READ);
    let is_unusable = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) || is_unreadable;
    let source = if is_unusable && path != Path::new(TEMPORARY) {
        // Best effort: where it cannot be written, the next run meets the damage again and says so again.
        let _ = std::fs::write(damage_mark(path), []);
        CacheError::Unusable { reason }
    } else {
        CacheError::Failed { reason }
    };
    Error::Cache { path: path.display().to_string(), source }
}

#[cfg(test)]
impl IndexCache {
    /// Changes a byte of the stored filter, as a disk would.
    pub(super) fn damage_filter(&self) {
        let sql = "UPDATE filter SET bytes = CAST(X'7a' || substr(bytes, 2) AS BLOB) WHERE ordinal = (SELECT min(ordinal) FROM filter)";
        assert_eq!(self.connection.execute(sql, []).unwrap(), 1);
    }
}
