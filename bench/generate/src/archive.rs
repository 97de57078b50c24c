//! mongodump's archive format: a prelude, then blocks of documents, interleaved as mongodump interleaves them.

use std::io::{self, Write};

use crate::database::{Collection, Database};
use crate::document::{self, Writer};
use crate::random::Random;

const MAGIC: [u8; 4] = [0x6d, 0xe2, 0x99, 0x81];
const TERMINATOR: [u8; 4] = [0xff; 4];
/// The name of the database that is dumped.
const DATABASE: &str = "orkestra";
/// How many collections are dumped at once: mongodump's default.
const PARALLEL: usize = 4;
/// mongodump hands a collection's documents over when the next one would overflow a buffer of this many bytes.
const BUFFER_LEN: usize = 16 << 20;

/// What [`write`] wrote.
pub struct Written {
    pub bytes: u64,
    pub documents: u64,
}

/// Writes the dump of the night.
///
/// Which collection's buffer comes next depends on timing in mongodump; here it depends on the night, so that two
/// nights are interleaved differently, as they really are.
///
/// # Errors
/// Those of `output`.
pub fn write(database: &Database, output: &mut impl Write) -> io::Result<Written> {
    let mut archive = Archive { output, crc_tables: crc_tables(), current: None, bytes: 0, documents: 0 };
    archive.put(&prelude(database))?;
    let writer = Writer::new(database.seed);
    let mut random = Random::new(&[database.seed, 6, database.night.into()]);
    let mut waiting: Vec<usize> = (0..database.collections.len()).collect();
    // mongodump starts with the largest.
    waiting.sort_by_key(|index| database.collections[*index].entries.len());
    let mut active: Vec<Dumping> = Vec::new();
    loop {
        while active.len() < PARALLEL
            && let Some(index) = waiting.pop()
        {
            active.push(Dumping { index, next: 0, crc: u64::MAX, ahead: Vec::new() });
        }
        if active.is_empty() {
            break;
        }
        let turn = random.below(active.len() as u32) as usize;
        let dumping = &mut active[turn];
        let collection = &database.collections[dumping.index];
        let run = dumping.run(collection, &writer);
        archive.run(dumping, collection, &run)?;
        if dumping.next == collection.entries.len() && dumping.ahead.is_empty() {
            archive.end(dumping, collection)?;
            active.remove(turn);
        }
    }
    archive.output.flush()?;
    Ok(Written { bytes: archive.bytes, documents: archive.documents })
}

/// A collection that is being dumped.
struct Dumping {
    index: usize,
    /// The next document, by its place in the collection.
    next: usize,
    /// The state of the CRC over the documents so far.
    crc: u64,
    /// The document that did not fit into the last buffer.
    ahead: Vec<u8>,
}

impl Dumping {
    /// Returns the next buffer of documents.
    fn run(&mut self, collection: &Collection, writer: &Writer) -> Vec<u8> {
        let mut run = std::mem::take(&mut self.ahead);
        while let Some(entry) = collection.entries.get(self.next) {
            let start = run.len();
            writer.append(&mut run, self.index as u64, collection.shape, *entry);
            self.next += 1;
            if run.len() > BUFFER_LEN {
                self.ahead = run.split_off(start);
                break;
            }
        }
        run
    }
}

/// The archive while it is written.
struct Archive<'a, W> {
    output: &'a mut W,
    crc_tables: Box<[[u64; 256]; 8]>,
    /// The collection whose block is open.
    current: Option<usize>,
    bytes: u64,
    documents: u64,
}

impl<W: Write> Archive<'_, W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.output.write_all(bytes)
    }

    /// Writes a buffer; a block goes on where the same collection follows itself.
    fn run(&mut self, dumping: &mut Dumping, collection: &Collection, run: &[u8]) -> io::Result<()> {
        if self.current != Some(dumping.index) {
            if self.current.is_some() {
                self.put(&TERMINATOR)?;
            }
            self.put(&namespace_header(&collection.name, None))?;
            self.current = Some(dumping.index);
        }
        dumping.crc = crc_update(&self.crc_tables, dumping.crc, run);
        self.put(run)
    }

    /// Writes the end of a collection, which also ends whatever block is open.
    fn end(&mut self, dumping: &Dumping, collection: &Collection) -> io::Result<()> {
        if self.current.take().is_some() {
            self.put(&TERMINATOR)?;
        }
        self.documents += collection.entries.len() as u64;
        self.put(&namespace_header(&collection.name, Some(!dumping.crc)))?;
        self.put(&TERMINATOR)
    }
}

/// Returns the header of a block, or with a CRC that of the end of a collection.
fn namespace_header(collection: &str, crc: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    let start = document::open(&mut out);
    document::text(&mut out, "db", DATABASE);
    document::text(&mut out, "collection", collection);
    document::key(&mut out, 8, "EOF");
    out.push(u8::from(crc.is_some()));
    document::key(&mut out, 18, "CRC");
    out.extend_from_slice(&crc.unwrap_or(0).to_le_bytes());
    document::close(&mut out, start);
    out
}

/// Returns everything before the first block.
fn prelude(database: &Database) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let start = document::open(&mut out);
    document::int(&mut out, "concurrent_collections", PARALLEL as i32);
    document::text(&mut out, "version", "0.1");
    document::text(&mut out, "server_version", "8.2.11");
    document::text(&mut out, "tool_version", "100.18.0");
    document::close(&mut out, start);
    for (index, collection) in database.collections.iter().enumerate() {
        let uuid = Random::new(&[database.seed, 7, index as u64]);
        let start = document::open(&mut out);
        document::text(&mut out, "db", DATABASE);
        document::text(&mut out, "collection", &collection.name);
        document::text(&mut out, "metadata", &metadata(&collection.name, uuid));
        document::int(&mut out, "size", 0);
        document::text(&mut out, "type", "collection");
        document::close(&mut out, start);
    }
    out.extend_from_slice(&TERMINATOR);
    out
}

fn metadata(name: &str, mut uuid: Random) -> String {
    let index = |keys: &str, name: &str| format!(r#"{{"v":{{"$numberInt":"2"}},"key":{{{keys}}},"name":"{name}"}}"#);
    let primary = index(r#""_id":{"$numberInt":"1"}"#, "_id_");
    let secondary =
        index(r#""tenantId":{"$numberInt":"1"},"createdAt":{"$numberInt":"-1"}"#, "tenantId_1_createdAt_-1");
    let (high, low) = (uuid.next(), uuid.next());
    format!(
        r#"{{"indexes":[{primary},{secondary}],"uuid":"{high:016x}{low:016x}","collectionName":"{name}","type":"collection"}}"#
    )
}

/// Returns the tables of CRC-64/XZ for eight bytes at a time.
fn crc_tables() -> Box<[[u64; 256]; 8]> {
    let mut tables = Box::new([[0u64; 256]; 8]);
    for byte in 0..256 {
        let mut crc = byte as u64;
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xc96c_5795_d787_0f42 } else { 0 };
        }
        tables[0][byte] = crc;
    }
    for byte in 0..256 {
        for table in 1..8 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 255) as usize] ^ before >> 8;
        }
    }
    tables
}

fn crc_update(tables: &[[u64; 256]; 8], mut crc: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for word in words {
        let mixed = word.iter().rev().fold(0u64, |mixed, byte| mixed << 8 | u64::from(*byte)) ^ crc;
        crc = (0..8).fold(0, |crc, place| crc ^ tables[7 - place][(mixed >> (8 * place) & 255) as usize]);
    }
    rest.iter().fold(crc, |crc, byte| tables[0][((crc ^ u64::from(*byte)) & 255) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_xz() {
        let crc = |bytes: &[u8]| !crc_update(&crc_tables(), u64::MAX, bytes);
        assert_eq!(crc(b"123456789"), 0x995d_c9bb_df19_39fa);
        assert_eq!(crc(b""), 0);
    }
}
