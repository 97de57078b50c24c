//! What is kept of a file beside its content, and its form in an entry's attributes.

use std::collections::BTreeMap;

use rustix::fs::{FileType, Stat};

use super::{Error, lossy};
use crate::component::Entry;

/// `file`, `dir` or `symlink`.
const KIND: &str = "kind";
/// Permission bits, octal.
const MODE: &str = "mode";
const UID: &str = "uid";
const GID: &str = "gid";
/// Nanoseconds since 1970, decimal, may be negative.
const MTIME: &str = "mtime_ns";
/// Change time and inode tell an unchanged file; they are not put back.
const CTIME: &str = "ctime_ns";
const INODE: &str = "ino";
/// Where a symbolic link leads: bytes as they are.
const TARGET: &str = "target";

/// A file that changed within this time before it was seen may change again without a new change time.
const SETTLED_NS: i128 = 2_000_000_000;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::component) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
}

/// What is kept of a file beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::component) struct Attributes {
    /// What it is.
    pub(in crate::component) kind: Kind,
    /// Permission bits, 0o7777 at most.
    pub(in crate::component) mode: u32,
    /// Owner.
    pub(in crate::component) uid: u32,
    /// Group.
    pub(in crate::component) gid: u32,
    /// Modification time, nanoseconds since 1970.
    pub(in crate::component) mtime_ns: i128,
}

/// Whether a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) len: u64,
    pub(super) mtime_ns: i128,
    pub(super) ctime_ns: i128,
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(i128::from(stat.st_mtime), i128::from(stat.st_mtime_nsec)),
            ctime_ns: nanoseconds(i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)),
            inode: stat.st_ino,
        }
    }

    /// Returns whether the row of an earlier snapshot is of this very file, unchanged since.
    pub(super) fn is_of(&self, earlier: &Entry) -> bool {
        let same = |name: &str, now: String| earlier.attributes.get(name).is_some_and(|then| *then == now.as_bytes());
        earlier.len == self.len
            && same(MTIME, self.mtime_ns.to_string())
            && same(CTIME, self.ctime_ns.to_string())
            && same(INODE, self.inode.to_string())
    }
}

impl Attributes {
    pub(super) fn of(stat: &Stat, kind: Kind) -> Self {
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_ns: Stamp::of(stat).mtime_ns,
        }
    }

    /// Returns the attributes of a row. A stamp newer than `now_ns` minus two seconds is left out: such a
    /// file could change again within the same tick, and would then wrongly count as unchanged.
    pub(super) fn encode(&self, stamp: Option<Stamp>, now_ns: i128) -> BTreeMap<String, Vec<u8>> {
        let mut rows = BTreeMap::new();
        let mut put = |name: &str, value: Vec<u8>| rows.insert(name.to_owned(), value);
        put(MODE, format!("{:04o}", self.mode).into_bytes());
        put(UID, self.uid.to_string().into_bytes());
        put(GID, self.gid.to_string().into_bytes());
        put(MTIME, self.mtime_ns.to_string().into_bytes());
        put(
            KIND,
            match &self.kind {
                Kind::File => b"file".to_vec(),
                Kind::Directory => b"dir".to_vec(),
                Kind::Symlink(_) => b"symlink".to_vec(),
            },
        );
        if let Kind::Symlink(target) = &self.kind {
            put(TARGET, target.clone());
        }
        if let Some(stamp) = stamp
            && stamp.ctime_ns < now_ns - SETTLED_NS
        {
            put(CTIME, stamp.ctime_ns.to_string().into_bytes());
            put(INODE, stamp.inode.to_string().into_bytes());
        }
        rows
    }

    /// Returns the attributes of a directory that has no row of its own, the root of a tree, as facts of its component:
    /// each name begins with `prefix`.
    pub(super) fn root_facts(stat: &Stat, prefix: &str) -> impl Iterator<Item = (String, String)> {
        let rows = Self::of(stat, Kind::Directory).encode(None, 0).into_iter().filter(|(name, _)| name != KIND);
        rows.map(move |(name, value)| (format!("{prefix}{name}"), lossy(&value)))
    }

    /// Returns what [`Attributes::root_facts`] wrote; `None` for a snapshot from before there were such facts.
    pub(super) fn of_root(facts: &BTreeMap<String, String>, prefix: &str) -> Result<Option<Self>, Error> {
        let named = facts.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        let mut attributes: BTreeMap<String, Vec<u8>> =
            named.map(|(name, value)| (name.to_owned(), value.clone().into_bytes())).collect();
        if !attributes.contains_key(MODE) {
            return Ok(None);
        }
        attributes.insert(KIND.to_owned(), b"dir".to_vec());
        Self::decode(&Entry { key: Vec::new(), attributes, len: 0 }).map(Some)
    }

    /// Reads the attributes of a row back.
    pub(super) fn decode(entry: &Entry) -> Result<Self, Error> {
        let bad = |name: &'static str| Error::Attribute { key: lossy(&entry.key), name };
        let text = |name: &'static str| {
            let value = entry.attributes.get(name).ok_or_else(|| bad(name))?;
            std::str::from_utf8(value).map_err(|_| bad(name))
        };
        let kind = match text(KIND)? {
            "file" => Kind::File,
            "dir" => Kind::Directory,
            "symlink" => Kind::Symlink(entry.attributes.get(TARGET).ok_or_else(|| bad(TARGET))?.clone()),
            _ => return Err(bad(KIND)),
        };
        let mode = u32::from_str_radix(text(MODE)?, 8).map_err(|_| bad(MODE))?;
        if mode > 0o7777 {
            return Err(bad(MODE));
        }
        Ok(Self {
            kind,
            mode,
            uid: text(UID)?.parse().map_err(|_| bad(UID))?,
            gid: text(GID)?.parse().map_err(|_| bad(GID))?,
            mtime_ns: text(MTIME)?.parse().map_err(|_| bad(MTIME))?,
        })
    }
}

fn nanoseconds(secs: i128, nanos: i128) -> i128 {
    secs * 1_000_000_000 + nanos
}

/// Returns what a file type is called in a message.
pub(super) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Socket => "a socket",
        FileType::Fifo => "a named pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "of an unknown kind",
    }
}
