//! What an archive says it holds and what it was seen to hold: one tally per namespace.

use std::collections::HashMap;

use crc64fast::Digest;

use super::bson::{self, Fault, Field};
use super::{ArchiveError, NAMESPACES_MAX};

/// The versions that a mongodump archive names in its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `--numParallelCollections` of the mongodump that wrote it.
    pub concurrent_collections: i32,
    /// The archive format's version: always `0.1` so far.
    pub version: String,
    /// The server that was dumped, `8.0.4`.
    pub server_version: String,
    /// The mongodump that wrote it, `100.18.0` or `r3.4.3`.
    pub tool_version: String,
}

/// A namespace of a complete archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    /// `database.collection`; `.oplog` for the oplog.
    pub name: String,
    /// `collection`, `view`, `timeseries` or `oplog`.
    pub kind: String,
    /// Documents in it (buckets of measurements where it is a time series).
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// CRC-64/XZ over them: what the archive says and what was computed.
    pub crc64: u64,
}

/// The header of a block.
pub(super) struct BlockHeader {
    pub(super) name: String,
    /// The CRC that closes the namespace, in a closing header.
    pub(super) closes: Option<u64>,
}

/// What was seen of one namespace so far.
pub(super) struct Tally {
    /// The name in the list at the start.
    listed: String,
    /// The name that its blocks carry: another one for a time series of an older server.
    pub(super) blocks: String,
    kind: String,
    pub(super) documents: u64,
    pub(super) bytes: u64,
    pub(super) crc: Digest,
    pub(super) closed: bool,
}

/// All namespaces of an archive, by the name that their blocks carry.
#[derive(Default)]
pub(super) struct Catalogue {
    tallies: Vec<Tally>,
    by_block_name: HashMap<String, usize>,
}

impl Header {
    pub(super) fn read(document: &[u8]) -> Result<Self, Fault> {
        let mut concurrent_collections = Field::new("concurrent_collections");
        let mut version = Field::new("version");
        let mut server_version = Field::new("server_version");
        let mut tool_version = Field::new("tool_version");
        for element in bson::elements(document)? {
            let (name, value) = element?;
            match name {
                "concurrent_collections" => concurrent_collections.set(value.int32())?,
                "version" => version.set(value.string())?,
                "server_version" => server_version.set(value.string())?,
                "tool_version" => tool_version.set(value.string())?,
                _ => {}
            }
        }
        Ok(Self {
            concurrent_collections: concurrent_collections.required()?,
            version: version.required()?.to_owned(),
            // Absent before 3.4.
            server_version: server_version.optional().unwrap_or_default().to_owned(),
            tool_version: tool_version.optional().unwrap_or_default().to_owned(),
        })
    }

    /// Returns major and minor version of the server, where the header tells.
    pub fn server_major_minor(&self) -> Option<(u32, u32)> {
        let mut parts = self.server_version.trim_start_matches('r').split(['.', '-']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some((major, minor))
    }
}

impl BlockHeader {
    pub(super) fn read(document: &[u8]) -> Result<Self, Fault> {
        let mut db = Field::new("db");
        let mut collection = Field::new("collection");
        let mut eof = Field::new("EOF");
        let mut crc = Field::new("CRC");
        for element in bson::elements(document)? {
            let (name, value) = element?;
            match name {
                "db" => db.set(value.string())?,
                "collection" => collection.set(value.string())?,
                "EOF" => eof.set(value.bool())?,
                "CRC" => crc.set(value.int64())?,
                // mongorestore refuses such a header since 100.14.
                _ => return Err(Fault::UnknownField),
            }
        }
        let crc = crc.required()?.cast_unsigned();
        Ok(Self { name: joined(db.required()?, collection.required()?), closes: eof.required()?.then_some(crc) })
    }
}

impl Catalogue {
    /// Adds one entry of the list at the start of the archive, which begins at byte `offset`.
    pub(super) fn list(&mut self, header: &Header, document: &[u8], offset: u64) -> Result<(), ArchiveError> {
        if self.tallies.len() >= NAMESPACES_MAX {
            return Err(ArchiveError::TooManyNamespaces { limit: NAMESPACES_MAX });
        }
        let (db, collection, kind) = Self::read(document).map_err(|fault| ArchiveError::List { offset, fault })?;
        let listed = joined(&db, &collection);
        let blocks = if kind == "timeseries" && buckets_have_their_own_name(header)? {
            joined(&db, &format!("system.buckets.{collection}"))
        } else {
            listed.clone()
        };
        if self.by_block_name.insert(blocks.clone(), self.tallies.len()).is_some() {
            return Err(ArchiveError::ListedTwice { namespace: blocks });
        }
        self.tallies.push(Tally { listed, blocks, kind, documents: 0, bytes: 0, crc: Digest::new(), closed: false });
        Ok(())
    }

    fn read(document: &[u8]) -> Result<(String, String, String), Fault> {
        let mut db = Field::new("db");
        let mut collection = Field::new("collection");
        let mut kind = Field::new("type");
        for element in bson::elements(document)? {
            let (name, value) = element?;
            match name {
                "db" => db.set(value.string())?,
                "collection" => collection.set(value.string())?,
                "type" => kind.set(value.string())?,
                // The metadata is JSON for mongorestore; the size is always zero.
                _ => {}
            }
        }
        let db = db.required()?.to_owned();
        let collection = collection.required()?.to_owned();
        let kind = match kind.optional().unwrap_or_default() {
            "" if db.is_empty() && collection == "oplog" => "oplog",
            // Absent before 100.4, empty for users and roles.
            "" => "collection",
            kind => kind,
        };
        Ok((db, collection, kind.to_owned()))
    }

    /// Returns the names and kinds in the list.
    pub(super) fn listed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tallies.iter().map(|tally| (tally.listed.as_str(), tally.kind.as_str()))
    }

    /// Returns the place of the namespace whose blocks carry `name`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_block_name.get(name).copied()
    }

    pub(super) fn get(&self, place: usize) -> &Tally {
        self.tallies.get(place).expect("places come from find and nothing is ever removed")
    }

    pub(super) fn get_mut(&mut self, place: usize) -> &mut Tally {
        self.tallies.get_mut(place).expect("places come from find and nothing is ever removed")
    }

    /// Returns the namespaces by name, once every one is closed.
    pub(super) fn finish(self) -> Result<Vec<Namespace>, ArchiveError> {
        let mut open = self.tallies.iter().filter(|tally| !tally.closed);
        if let Some(first) = open.next() {
            return Err(ArchiveError::Unclosed { namespace: first.listed.clone(), others: open.count() });
        }
        let mut namespaces: Vec<_> = self.tallies.into_iter().map(Tally::finish).collect();
        namespaces.sort_unstable();
        Ok(namespaces)
    }
}

impl Tally {
    fn finish(self) -> Namespace {
        Namespace {
            crc64: self.crc.sum64(),
            name: self.listed,
            kind: self.kind,
            documents: self.documents,
            bytes: self.bytes,
        }
    }
}

/// mongorestore joins database and collection in the same way before it compares them.
fn joined(db: &str, collection: &str) -> String {
    format!("{db}.{collection}")
}

/// Until server 8.3 the measurements of a time series travel under the name of its bucket collection.
/// mongorestore decides by the version in the header, and fails where it cannot read that.
fn buckets_have_their_own_name(header: &Header) -> Result<bool, ArchiveError> {
    match header.server_major_minor() {
        Some(version) => Ok(version < (8, 3)),
        None => Err(ArchiveError::ServerVersion { server_version: header.server_version.clone() }),
    }
}
