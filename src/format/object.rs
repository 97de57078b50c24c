//! The objects of a repository and their names (`docs/FORMAT.md`, section 1).

use std::fmt;
use std::str::FromStr;

use super::Error;
use super::id::{BundleId, IndexId, PackId, RecordId, SlotId, SnapshotId};

/// A key and deduplication domain with its own retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// Everything but secrets: chunked, deduplicated.
    Data,
    /// `docker/.env`, keys: sealed bundles, nothing shared.
    Secrets,
}

impl Namespace {
    /// Returns the byte that stands for it in stored objects.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Secrets => 1,
        }
    }

    /// Returns the namespace of a stored byte.
    pub fn from_code(code: u8) -> Result<Self, Error> {
        match code {
            0 => Ok(Self::Data),
            1 => Ok(Self::Secrets),
            _ => Err(Error::Invalid { what: "namespace", found: u64::from(code) }),
        }
    }

    /// Returns its name, which is also the first part of its objects' names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Secrets => "secrets",
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of one stored object. `Display` is its path in the backend and parses back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// The repository's config: one, written first.
    Config,
    /// A key slot.
    Slot(SlotId),
    /// A pack of segments (data namespace).
    Pack(PackId),
    /// An index part (data namespace).
    Index(IndexId),
    /// A snapshot's manifest.
    Snapshot(Namespace, SnapshotId),
    /// A sealed bundle of secret files.
    Bundle(BundleId),
    /// A forgotten snapshot.
    Tombstone(Namespace, RecordId),
    /// A record of what `check --read-data` verified.
    Verified(RecordId),
}

/// A place that can be listed: every object whose name starts with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectPrefix {
    /// Everything.
    All,
    /// `data/` or `secrets/`
    Namespace(Namespace),
    /// `keys/`
    Slots,
    /// `data/packs/`
    Packs,
    /// `data/index/`
    Indexes,
    /// `data/snapshots/` or `secrets/snapshots/`
    Snapshots(Namespace),
    /// `secrets/bundles/`
    Bundles,
    /// `data/tombstones/` or `secrets/tombstones/`
    Tombstones(Namespace),
    /// `data/verified/`
    Verified,
}

impl ObjectPrefix {
    /// Returns the path that the names start with; empty for [`ObjectPrefix::All`], else ending in `/`.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Namespace(Namespace::Data) => "data/",
            Self::Namespace(Namespace::Secrets) => "secrets/",
            Self::Slots => "keys/",
            Self::Packs => "data/packs/",
            Self::Indexes => "data/index/",
            Self::Snapshots(Namespace::Data) => "data/snapshots/",
            Self::Snapshots(Namespace::Secrets) => "secrets/snapshots/",
            Self::Bundles => "secrets/bundles/",
            Self::Tombstones(Namespace::Data) => "data/tombstones/",
            Self::Tombstones(Namespace::Secrets) => "secrets/tombstones/",
            Self::Verified => "data/verified/",
        }
    }

    /// Returns the namespace of what is listed, `None` where it can be of both or of none.
    #[must_use]
    pub const fn namespace(self) -> Option<Namespace> {
        match self {
            Self::All | Self::Slots => None,
            Self::Packs | Self::Indexes | Self::Verified => Some(Namespace::Data),
            Self::Namespace(namespace) | Self::Snapshots(namespace) | Self::Tombstones(namespace) => Some(namespace),
            Self::Bundles => Some(Namespace::Secrets),
        }
    }
}

impl ObjectKey {
    /// Returns the namespace that the object's name begins with; config and key slots have none.
    #[must_use]
    pub const fn namespace(self) -> Option<Namespace> {
        match self {
            Self::Config | Self::Slot(_) => None,
            Self::Pack(_) | Self::Index(_) | Self::Verified(_) => Some(Namespace::Data),
            Self::Snapshot(namespace, _) | Self::Tombstone(namespace, _) => Some(namespace),
            Self::Bundle(_) => Some(Namespace::Secrets),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::Slot(id) => write!(f, "{}{id}", ObjectPrefix::Slots.path()),
            // Two hex digits of fan-out: a directory of a large local repository stays listable.
            Self::Pack(id) => write!(f, "{}{:02x}/{id}", ObjectPrefix::Packs.path(), id.as_bytes()[0]),
            Self::Index(id) => write!(f, "{}{id}", ObjectPrefix::Indexes.path()),
            Self::Snapshot(namespace, id) => write!(f, "{}{id}", ObjectPrefix::Snapshots(*namespace).path()),
            Self::Bundle(id) => write!(f, "{}{id}", ObjectPrefix::Bundles.path()),
            Self::Tombstone(namespace, id) => write!(f, "{}{id}", ObjectPrefix::Tombstones(*namespace).path()),
            Self::Verified(id) => write!(f, "{}{id}", ObjectPrefix::Verified.path()),
        }
    }
}

impl FromStr for ObjectKey {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self, Error> {
        let bad = Error::BadText { what: "object name", expected: "name" };
        let key = if path == "config" {
            Self::Config
        } else {
            let (directory, name) = path.rsplit_once('/').ok_or_else(|| bad.clone())?;
            match directory {
                "keys" => Self::Slot(name.parse()?),
                "data/index" => Self::Index(name.parse()?),
                "data/snapshots" => Self::Snapshot(Namespace::Data, name.parse()?),
                "secrets/snapshots" => Self::Snapshot(Namespace::Secrets, name.parse()?),
                "secrets/bundles" => Self::Bundle(name.parse()?),
                "data/tombstones" => Self::Tombstone(Namespace::Data, name.parse()?),
                "secrets/tombstones" => Self::Tombstone(Namespace::Secrets, name.parse()?),
                "data/verified" => Self::Verified(name.parse()?),
                _ => Self::Pack(name.parse()?),
            }
        };
        // One name per key: this also refuses a pack below the wrong fan-out directory.
        if key.to_string() == path { Ok(key) } else { Err(bad) }
    }
}

/// Returns the bytes of a name as listings of buckets give it (`encoding-type=url`): `%XX` is a byte and `+` a space.
/// `None` where an escape is malformed.
#[must_use]
pub fn decode_listed(encoded: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
                high << 4 | low
            }
            other => other,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back_to_the_key_that_they_came_from() {
        let bytes = [0x3f; 32];
        let keys = [
            ObjectKey::Config,
            ObjectKey::Slot(SlotId::from_bytes(bytes)),
            ObjectKey::Pack(PackId::from_bytes(bytes)),
            ObjectKey::Index(IndexId::from_bytes(bytes)),
            ObjectKey::Snapshot(Namespace::Data, SnapshotId::from_bytes(bytes)),
            ObjectKey::Snapshot(Namespace::Secrets, SnapshotId::from_bytes(bytes)),
            ObjectKey::Bundle(BundleId::from_bytes(bytes)),
            ObjectKey::Tombstone(Namespace::Data, RecordId::from_bytes(bytes)),
            ObjectKey::Tombstone(Namespace::Secrets, RecordId::from_bytes(bytes)),
            ObjectKey::Verified(RecordId::from_bytes(bytes)),
        ];
        for key in keys {
            assert_eq!(key.to_string().parse(), Ok(key));
            let first = key.to_string();
            let first = first.split('/').next().filter(|first| ["data", "secrets"].contains(first));
            assert_eq!(key.namespace().map(Namespace::name), first);
        }
    }

    #[test]
    fn other_names_are_no_keys() {
        let id = "3f".repeat(32);
        for name in [
            "",
            "config/",
            "Config",
            "keys",
            "keys/",
            &format!("data/packs/{id}"),
            &format!("data/packs/00/{id}"),
            &format!("packs/3f/{id}"),
            &format!("data/packs/3f/{id}.tmp"),
            &format!("data/index/../index/{id}"),
            &format!("secrets/packs/3f/{id}"),
        ] {
            assert!(name.parse::<ObjectKey>().is_err(), "{name} was accepted");
        }
    }
}
