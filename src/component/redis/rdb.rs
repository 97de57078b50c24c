//! Checks a Redis RDB file while it streams by, and counts its keys.
//!
//! The file is walked opcode by opcode (lengths and markers only: no value is kept or decompressed), its
//! CRC-64 is computed, and its end must be exactly the EOF opcode and the checksum. Bytes may be pushed in
//! any split; memory is a few hundred bytes. Where a value's layout is unknown (a newer server, a module
//! of the old kind) the walk stops and the checksum alone decides; then there must be one.

use std::collections::BTreeMap;

use super::crc64::Crc64;
use super::rdb_layout::{self, Part};

/// Oldest version accepted: the first with a checksum (Redis 2.6).
pub const VERSION_MIN: u32 = 5;
/// Newest version accepted under the magic `REDIS`.
pub const VERSION_MAX_REDIS: u32 = 79;
/// Newest version accepted under the magic `VALKEY`.
pub const VERSION_MAX_VALKEY: u32 = 999;
/// Databases counted at most.
pub const DATABASES_MAX: usize = 65_536;

/// Text of an auxiliary field is kept up to this many bytes.
const AUX_TEXT_MAX: u64 = 64;
/// Auxiliary fields kept at most.
const AUX_FIELDS_MAX: usize = 32;
/// Magic and version.
const HEADER_LEN: usize = 9;
/// EOF opcode and checksum.
const TRAILER_LEN: usize = 9;
/// The checksum, which is not part of what it sums.
const CHECKSUM_LEN: usize = 8;

/// Why bytes are not a whole RDB file.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The first bytes are not those of an RDB file.
    #[error("not an RDB file: wrong magic")]
    Magic,
    /// The version is not one that this program knows.
    #[error("RDB version {version} is outside {VERSION_MIN}..={max}")]
    Version {
        /// The version found.
        version: u32,
        /// The newest accepted.
        max: u32,
    },
    /// The file ends before its EOF opcode and checksum.
    #[error("the RDB file is cut short after {len} bytes")]
    Truncated {
        /// Bytes seen.
        len: u64,
    },
    /// Bytes follow the end of the file (such as the mark of `redis-cli --rdb -`).
    #[error("bytes follow the end of the RDB file at {offset}")]
    TrailingBytes {
        /// Place of the first of them.
        offset: u64,
    },
    /// A length, a string or a module value that no server writes.
    #[error("the RDB file is malformed near byte {offset}")]
    Malformed {
        /// Where, within 16 bytes.
        offset: u64,
    },
    /// The checksum does not match the bytes.
    #[error("RDB checksum: expected {expected:016x}, computed {got:016x}")]
    Checksum {
        /// The one in the file.
        expected: u64,
        /// The one computed.
        got: u64,
    },
    /// The file has neither a checksum nor a layout that is wholly known: nothing proves it whole.
    #[error("the RDB file has no checksum and type {kind} at {offset} is unknown")]
    Unprovable {
        /// The unknown opcode or type.
        kind: u8,
        /// Its place.
        offset: u64,
    },
    /// More databases than a server can have in practice.
    #[error("the RDB file has more than {DATABASES_MAX} databases")]
    TooManyDatabases,
}

/// Keys of one database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys {
    /// All keys.
    pub total: u64,
    /// Those with a time to live: a server may drop them while it loads the file.
    pub expiring: u64,
}

/// What a whole RDB file was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The RDB version.
    pub version: u32,
    /// True where the magic is `VALKEY`.
    pub valkey: bool,
    /// Bytes of the file.
    pub len: u64,
    /// False where the server writes no checksum (`rdbchecksum no`).
    pub checksummed: bool,
    /// Keys per database; empty where the walk stopped.
    pub databases: BTreeMap<u64, Keys>,
    /// Short auxiliary fields: `redis-ver`, `ctime` ...
    pub aux: BTreeMap<String, String>,
    /// The type at which the walk stopped, and its place: then nothing was counted.
    pub unknown: Option<(u8, u64)>,
}

/// The checker. Push the bytes, then [`finish`](Checker::finish).
#[derive(Debug)]
#[must_use]
pub struct Checker {
    len: u64,
    crc: Crc64,
    /// The last bytes, not yet in `crc`: at most [`CHECKSUM_LEN`].
    tail: Vec<u8>,
    /// The bytes before `tail`'s end that say whether an EOF opcode is there.
    last: Vec<u8>,
    version: u32,
    valkey: bool,
    walk: Walk,
    failed: Option<Error>,
}

/// Where the walk is.
#[derive(Debug)]
struct Walk {
    phase: Phase,
    /// Bytes walked.
    offset: u64,
    /// Bytes of the current atom (a byte, a length, a short text) that have arrived.
    atom: Vec<u8>,
    /// Bytes to pass over.
    skip: u64,
    /// Bytes of a compressed string that follow its two lengths.
    held: u64,
    frames: Vec<Frame>,
    /// A text being read.
    text: Option<Text>,
    /// Texts of the auxiliary field being read.
    texts: Vec<String>,
    aux: BTreeMap<String, String>,
    databases: BTreeMap<u64, Keys>,
    database: u64,
    expiring: bool,
    unknown: Option<(u8, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    Opcode,
    Value,
    Checksum,
    Done,
    Unknown,
}

/// A layout being walked: its next part, and how often the whole layout is still to come.
#[derive(Debug, Clone, Copy)]
struct Frame {
    parts: &'static [Part],
    at: usize,
    left: u64,
}

/// A short text being read: how many bytes it takes, and whether they are a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Plain(u64),
    Integer(u64),
}

/// A length as the file encodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Plain(u64),
    Encoded(u8),
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

impl Checker {
    /// Returns a checker that has seen nothing.
    pub fn new() -> Self {
        Self {
            len: 0,
            crc: Crc64::default(),
            tail: Vec::with_capacity(CHECKSUM_LEN),
            last: Vec::with_capacity(TRAILER_LEN),
            version: 0,
            valkey: false,
            walk: Walk::new(),
            failed: None,
        }
    }

    /// Checks the next bytes. After an error every further call returns the same error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.sum(bytes);
        let walked = self.walk(bytes);
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).expect("usize fits u64"));
        if let Err(error) = &walked {
            self.failed = Some(error.clone());
        }
        walked
    }

    /// Returns what the file is, if it ended where its structure and its checksum say.
    pub fn finish(self) -> Result<Verdict, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let truncated = Error::Truncated { len: self.len };
        match self.walk.phase {
            Phase::Done => {}
            Phase::Unknown if self.last.len() == TRAILER_LEN && self.last.first() == Some(&rdb_layout::EOF) => {}
            _ => return Err(truncated),
        }
        let Ok(stored) = <[u8; CHECKSUM_LEN]>::try_from(self.tail.as_slice()) else { return Err(truncated) };
        let (expected, got) = (u64::from_le_bytes(stored), self.crc.sum());
        let checksummed = expected != 0;
        if checksummed && expected != got {
            return Err(Error::Checksum { expected, got });
        }
        if let (false, Some((kind, offset))) = (checksummed, self.walk.unknown) {
            return Err(Error::Unprovable { kind, offset });
        }
        let databases = if self.walk.unknown.is_some() { BTreeMap::new() } else { self.walk.databases };
        Ok(Verdict {
            version: self.version,
            valkey: self.valkey,
            len: self.len,
            checksummed,
            databases,
            aux: self.walk.aux,
            unknown: self.walk.unknown,
        })
    }

    /// Feeds the checksum with all but the last eight bytes seen, which may be the checksum itself.
    fn sum(&mut self, bytes: &[u8]) {
        keep_last(&mut self.last, bytes, TRAILER_LEN);
        let total = self.tail.len() + bytes.len();
        let release = total.saturating_sub(CHECKSUM_LEN);
        let from_tail = release.min(self.tail.len());
        let (old, _) = self.tail.split_at(from_tail);
        self.crc.write(old);
        let (new, kept) = bytes.split_at(release - from_tail);
        self.crc.write(new);
        self.tail.drain(..from_tail);
        self.tail.extend_from_slice(kept);
    }

    fn walk(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while self.walk.skip > 0 || !rest.is_empty() {
            if self.walk.skip > 0 {
                if rest.is_empty() {
                    return Ok(());
                }
                self.walk.pass_over(&mut rest);
                continue;
            }
            let progressed = match self.walk.phase {
                Phase::Header => self.header(&mut rest)?,
                Phase::Opcode => self.walk.opcode(&mut rest)?,
                Phase::Value => self.walk.value(&mut rest)?,
                Phase::Checksum => self.walk.checksum(&mut rest),
                Phase::Done => return Err(Error::TrailingBytes { offset: self.walk.offset }),
                Phase::Unknown => return Ok(()),
            };
            if !progressed {
                return Ok(());
            }
        }
        Ok(())
    }

    fn header(&mut self, rest: &mut &[u8]) -> Result<bool, Error> {
        if !self.walk.fill(rest, HEADER_LEN) {
            return Ok(false);
        }
        let atom = self.walk.take_atom();
        let (digits, valkey) = match (atom.strip_prefix(b"REDIS"), atom.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => (digits, false),
            (_, Some(digits)) => (digits, true),
            _ => return Err(Error::Magic),
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(Error::Magic);
        }
        let version = digits.iter().fold(0_u32, |value, digit| value * 10 + u32::from(digit - b'0'));
        let max = if valkey { VERSION_MAX_VALKEY } else { VERSION_MAX_REDIS };
        if !(VERSION_MIN..=max).contains(&version) {
            return Err(Error::Version { version, max });
        }
        (self.version, self.valkey) = (version, valkey);
        self.walk.phase = Phase::Opcode;
        Ok(true)
    }
}

impl Walk {
    fn new() -> Self {
        Self {
            phase: Phase::Header,
            offset: 0,
            atom: Vec::with_capacity(HEADER_LEN),
            skip: 0,
            held: 0,
            frames: Vec::new(),
            text: None,
            texts: Vec::new(),
            aux: BTreeMap::new(),
            databases: BTreeMap::new(),
            database: 0,
            expiring: false,
            unknown: None,
        }
    }

    fn pass_over(&mut self, rest: &mut &[u8]) {
        let step = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
        let (_, after) = rest.split_at(step);
        *rest = after;
        let step = u64::try_from(step).expect("usize fits u64");
        self.skip -= step;
        self.offset += step;
    }

    /// Moves bytes into the atom until it has `want` of them; false while it has not.
    fn fill(&mut self, rest: &mut &[u8], want: usize) -> bool {
        let step = want.saturating_sub(self.atom.len()).min(rest.len());
        let (taken, after) = rest.split_at(step);
        self.atom.extend_from_slice(taken);
        *rest = after;
        self.offset += u64::try_from(step).expect("usize fits u64");
        self.atom.len() >= want
    }

    fn take_atom(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.atom)
    }

    fn malformed(&self) -> Error {
        Error::Malformed { offset: self.offset }
    }

    fn byte(&mut self, rest: &mut &[u8]) -> Option<u8> {
        let (first, after) = rest.split_first()?;
        *rest = after;
        self.offset += 1;
        Some(*first)
    }

    /// Reads a length: 6 or 14 bits, 32 or 64 bits big endian, or the name of an encoding.
    fn length(&mut self, rest: &mut &[u8]) -> Result<Option<Length>, Error> {
        if !self.fill(rest, 1) {
            return Ok(None);
        }
        let first = *self.atom.first().expect("fill got one byte");
        let size = match first {
            0x00..=0x3f | 0xc0..=0xff => 1,
            0x40..=0x7f => 2,
            0x80 => 5,
            0x81 => 9,
            0x82..=0xbf => return Err(self.malformed()),
        };
        if !self.fill(rest, size) {
            return Ok(None);
        }
        let atom = self.take_atom();
        let tail = atom.iter().skip(1).fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        Ok(Some(match first {
            0x00..=0x3f => Length::Plain(u64::from(first)),
            0x40..=0x7f => Length::Plain((u64::from(first & 0x3f) << 8) | tail),
            0xc0..=0xff => Length::Encoded(first & 0x3f),
            _ => Length::Plain(tail),
        }))
    }

    fn plain_length(&mut self, rest: &mut &[u8]) -> Result<Option<u64>, Error> {
        match self.length(rest)? {
            None => Ok(None),
            Some(Length::Plain(value)) => Ok(Some(value)),
            Some(Length::Encoded(_)) => Err(self.malformed()),
        }
    }

    fn opcode(&mut self, rest: &mut &[u8]) -> Result<bool, Error> {
        let offset = self.offset;
        let Some(kind) = self.byte(rest) else { return Ok(false) };
        if kind == rdb_layout::EOF {
            self.phase = Phase::Checksum;
            return Ok(true);
        }
        let Some(parts) = rdb_layout::parts(kind) else {
            self.unknown = Some((kind, offset));
            self.phase = Phase::Unknown;
            return Ok(true);
        };
        match kind {
            rdb_layout::EXPIRE_MS | rdb_layout::EXPIRE_SECS => self.expiring = true,
            rdb_layout::AUX => self.texts.clear(),
            _ if rdb_layout::is_value(kind) => self.count_key()?,
            _ => {}
        }
        self.frames.push(Frame { parts, at: 0, left: 1 });
        self.phase = Phase::Value;
        Ok(true)
    }

    fn count_key(&mut self) -> Result<(), Error> {
        if !self.databases.contains_key(&self.database) && self.databases.len() >= DATABASES_MAX {
            return Err(Error::TooManyDatabases);
        }
        let keys = self.databases.entry(self.database).or_default();
        keys.total += 1;
        keys.expiring += u64::from(std::mem::take(&mut self.expiring));
        Ok(())
    }

    fn checksum(&mut self, rest: &mut &[u8]) -> bool {
        let filled = self.fill(rest, CHECKSUM_LEN);
        if filled {
            self.phase = Phase::Done;
        }
        filled
    }

    /// Walks the next part of the value; false when more bytes are needed.
    fn value(&mut self, rest: &mut &[u8]) -> Result<bool, Error> {
        let Some(part) = self.current_part() else {
            self.end_of_value();
            return Ok(true);
        };
        let done = match part {
            Part::Bytes(count) => {
                self.skip = u64::from(count);
                true
            }
            Part::Held => {
                self.skip = self.held;
                true
            }
            Part::Len => self.plain_length(rest)?.is_some(),
            Part::HeldLen => self.plain_length(rest)?.inspect(|len| self.held = *len).is_some(),
            Part::Database => self.plain_length(rest)?.inspect(|number| self.database = *number).is_some(),
            Part::Text => return self.text(rest),
            Part::Score => match self.byte(rest) {
                Some(253..=255) => true,
                Some(len) => {
                    self.skip = u64::from(len);
                    true
                }
                None => false,
            },
            Part::Str => match self.length(rest)? {
                None => false,
                Some(length) => return self.string(length).map(|()| true),
            },
            Part::Times(parts) => match self.plain_length(rest)? {
                None => false,
                Some(left) => {
                    self.advance();
                    self.frames.push(Frame { parts, at: 0, left });
                    return Ok(true);
                }
            },
            Part::Module => return self.module(rest),
        };
        if done {
            self.advance();
        }
        Ok(done)
    }

    /// Returns the part to walk now, leaving finished layouts; `None` at the end of the value.
    fn current_part(&mut self) -> Option<Part> {
        while let Some(frame) = self.frames.last_mut() {
            if frame.left > 0
                && let Some(part) = frame.parts.get(frame.at)
            {
                return Some(*part);
            }
            frame.left = frame.left.saturating_sub(1);
            frame.at = 0;
            if frame.left == 0 {
                self.frames.pop();
            }
        }
        None
    }

    fn advance(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    fn end_of_value(&mut self) {
        if let [name, value] = self.texts.as_slice()
            && !name.is_empty()
            && self.aux.len() < AUX_FIELDS_MAX
        {
            self.aux.insert(name.clone(), value.clone());
        }
        self.texts.clear();
        self.phase = Phase::Opcode;
    }

    fn string(&mut self, length: Length) -> Result<(), Error> {
        self.advance();
        self.skip = match length {
            Length::Plain(len) => len,
            Length::Encoded(0) => 1,
            Length::Encoded(1) => 2,
            Length::Encoded(2) => 4,
            Length::Encoded(3) => {
                self.frames.push(Frame { parts: rdb_layout::COMPRESSED, at: 0, left: 1 });
                0
            }
            Length::Encoded(_) => return Err(self.malformed()),
        };
        Ok(())
    }

    /// Reads a text of an auxiliary field; a long or compressed one is passed over and kept as empty.
    fn text(&mut self, rest: &mut &[u8]) -> Result<bool, Error> {
        if self.text.is_none() {
            self.text = match self.length(rest)? {
                None => return Ok(false),
                Some(Length::Plain(len)) if len <= AUX_TEXT_MAX => Some(Text::Plain(len)),
                Some(Length::Encoded(kind @ 0..=2)) => Some(Text::Integer(1 << kind)),
                Some(other) => {
                    self.texts.push(String::new());
                    return self.string(other).map(|()| true);
                }
            };
        }
        let Some(Text::Plain(want) | Text::Integer(want)) = self.text else { return Ok(false) };
        if !self.fill(rest, usize::try_from(want).expect("at most AUX_TEXT_MAX")) {
            return Ok(false);
        }
        let atom = self.take_atom();
        self.texts.push(match self.text.take() {
            Some(Text::Integer(_)) => integer(&atom).to_string(),
            _ => String::from_utf8(atom).unwrap_or_default(),
        });
        self.advance();
        Ok(true)
    }

    /// Walks one field of a module's value, each of which says what it is.
    fn module(&mut self, rest: &mut &[u8]) -> Result<bool, Error> {
        let Some(field) = self.plain_length(rest)? else { return Ok(false) };
        if field == rdb_layout::MODULE_END {
            self.advance();
            return Ok(true);
        }
        let parts = rdb_layout::module_field(field).ok_or_else(|| self.malformed())?;
        self.frames.push(Frame { parts, at: 0, left: 1 });
        Ok(true)
    }
}

/// Returns a little-endian signed integer of 1, 2 or 4 bytes.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    bytes.iter().rev().fold(start, |value: i64, byte| (value << 8) | i64::from(*byte))
}

/// Keeps in `kept` the last `count` bytes of everything it was given.
fn keep_last(kept: &mut Vec<u8>, bytes: &[u8], count: usize) {
    let new = bytes.len().min(count);
    let excess = (kept.len() + new).saturating_sub(count);
    kept.drain(..excess);
    let (_, last) = bytes.split_at(bytes.len() - new);
    kept.extend_from_slice(last);
}

#[cfg(test)]
#[path = "rdb_tests.rs"]
mod tests;
