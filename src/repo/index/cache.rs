//! The index on disk: SQLite, in a directory of this host. It can be removed at any time.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use super::Segment;
use crate::crypto::hash::{StreamHasher, content_hash};
use crate::format::cursor::Cursor;
use crate::format::id::{ChunkId, IndexId, PackId, RepositoryId};
use crate::format::index::{IndexPart, PackRecord};
use crate::format::pack::{Directory, PackKind, SegmentRecord};
use crate::repo::error::{CacheError, Error};

/// Changes whenever the tables do: another version is dropped and rebuilt.
const SCHEMA_VERSION: &str = "orkvault-index-2";

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
CREATE TABLE chunks (id BLOB NOT NULL, segment INTEGER NOT NULL, PRIMARY KEY (id, segment)) WITHOUT ROWID;
";

/// The cache of one repository.
pub struct IndexCache {
    connection: Connection,
    path: PathBuf,
}

type PackRow = (i64, [u8; 32], u8, u32, u32);

impl IndexCache {
    /// Opens the cache of `repository` at `location` in `directory`, which exists; makes it where it is missing,
    /// of another version or damaged. `None` keeps it in a temporary file.
    ///
    /// The location is part of the name: two stores with copies of one repository do not know each other's packs.
    pub fn open(directory: Option<&Path>, repository: &RepositoryId, location: &str) -> Result<Self, Error> {
        let store = content_hash(location.as_bytes()).short();
        let path = directory.map(|directory| directory.join(format!("{}-{store}.index.sqlite", repository.short())));
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
        let shown = path.map_or_else(|| PathBuf::from("(temporary)"), Path::to_path_buf);
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
        let mut cache = Self { connection, path: shown.clone() };
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
                    "INSERT INTO about VALUES ('schema', ?1), ('repository', ?2)",
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

    /// Adds a part; does nothing where it is there.
    pub(super) fn add_part(&mut self, id: &IndexId, part: &IndexPart) -> Result<(), Error> {
        self.write(|transaction| {
            let added = transaction
                .prepare_cached("INSERT OR IGNORE INTO parts (id) VALUES (?1)")?
                .execute(params![id.as_bytes().as_slice()])?;
            if added == 0 {
                return Ok(());
            }
            let row = transaction.last_insert_rowid();
            let mut chunks = Vec::new();
            for pack in &part.packs {
                add_pack(transaction, row, pack, &mut chunks)?;
            }
            // In order of their ids: neighbours then share pages of the table.
            chunks.sort_unstable();
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO chunks VALUES (?1, ?2)")?;
            for (chunk, segment) in &chunks {
                insert.execute(params![chunk.as_bytes().as_slice(), segment])?;
            }
            Ok(())
        })
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
                transaction.execute(
                    "DELETE FROM segments WHERE pack IN (SELECT pack FROM packs WHERE part = ?1)",
                    params![part],
                )?;
                transaction.execute("DELETE FROM packs WHERE part = ?1", params![part])?;
                transaction.execute("DELETE FROM parts WHERE part = ?1", params![part])?;
            }
            transaction.execute("DELETE FROM chunks WHERE segment NOT IN (SELECT segment FROM segments)", [])?;
            Ok(())
        })
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

    /// Returns the segments that hold a chunk.
    pub(super) fn segments_of(&self, chunk: &ChunkId) -> Result<Vec<Segment>, Error> {
        self.select("SELECT segment FROM chunks WHERE id = ?1", chunk.as_bytes())
    }

    /// Returns the segments of a pack, in order.
    pub(super) fn segments_in(&self, pack: &PackId) -> Result<Vec<Segment>, Error> {
        // Two parts may list one pack (two writers, one cache lost): the first row speaks for all.
        self.select(
            "SELECT segment FROM segments WHERE pack = (SELECT min(pack) FROM packs WHERE id = ?1) ORDER BY ordinal",
            pack.as_bytes(),
        )
    }

    fn select(&self, sql: &str, id: &[u8; 32]) -> Result<Vec<Segment>, Error> {
        let rows = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![id.as_slice()], |row| row.get::<_, i64>(0))?;
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

fn add_pack(
    transaction: &rusqlite::Transaction<'_>,
    part: i64,
    pack: &PackRecord,
    chunks: &mut Vec<(ChunkId, i64)>,
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
        chunks.extend(segment.chunks.iter().map(|chunk| (chunk.id, row)));
        place += segment.stored_len;
    }
    Ok(())
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
    let mut directory = Directory::take(&mut Cursor::new("segment", record)).ok()?;
    let record: SegmentRecord = directory.segments.pop()?;
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
    let is_unusable = matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
    let source = if is_unusable {
        // Best effort: where it cannot be written, the next run meets the damage again and says so again.
        let _ = std::fs::write(damage_mark(path), []);
        CacheError::Unusable { reason }
    } else {
        CacheError::Failed { reason }
    };
    Error::Cache { path: path.display().to_string(), source }
}
