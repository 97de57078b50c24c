//! Which RDB files a server can load.

use std::collections::BTreeSet;

use super::Error;
use super::server::Fields;

/// The first RDB version of Valkey's own numbering.
const VALKEY_FIRST: u32 = 80;

/// First server version (major, minor) and the RDB version that it writes and loads, newest first.
const REDIS: [((u32, u32), u32); 7] =
    [((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((5, 0), 9), ((4, 0), 8), ((3, 2), 7), ((2, 6), 6)];

/// A server's kind and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) valkey: bool,
    pub(super) number: String,
}

impl Version {
    pub(super) fn of(server: &Fields) -> Result<Self, Error> {
        let valkey = server.get("server_name") == Some("valkey");
        let number = match server.get("valkey_version") {
            Some(number) if valkey => number,
            _ => server.need("redis_version")?,
        };
        Ok(Self { valkey, number: number.to_owned() })
    }

    pub(super) fn shown(&self) -> String {
        format!("{} {}", if self.valkey { "valkey" } else { "redis" }, self.number)
    }

    pub(super) fn major_minor(&self) -> (u32, u32) {
        let mut numbers = self.number.split('.').map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Returns whether it is of the same product as what is shown as `other`, and not older.
    fn follows(&self, other: &str) -> bool {
        let Some((product, number)) = other.split_once(' ') else { return false };
        let is_same_product = product == if self.valkey { "valkey" } else { "redis" };
        let newer = numbers(&self.number).zip(numbers(number)).is_some_and(|(own, others)| own >= others);
        is_same_product && (newer || self.number == number)
    }

    fn newest_rdb(&self) -> u32 {
        let version = self.major_minor();
        if self.valkey {
            return if version >= (9, 0) { VALKEY_FIRST } else { 11 };
        }
        REDIS.iter().find(|(first, _)| version >= *first).map_or(5, |(_, rdb)| *rdb)
    }
}

/// Returns the numbers of a version; `None` where it has anything else in it.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

/// Refuses a file that the server would not load: it would exit at every start. A server of the version that wrote the
/// file is always good, and a later one of the same product too: a table of versions ends with the newest that it knows.
pub(super) fn check_version(rdb: u32, written_by: Option<&str>, server: &Version) -> Result<(), Error> {
    if written_by.is_some_and(|writer| server.follows(writer)) {
        return Ok(());
    }
    let supported = server.newest_rdb();
    // Valkey refuses Redis' versions from 12 on, whatever its own is
    let foreign = server.valkey && (12..VALKEY_FIRST).contains(&rdb);
    if rdb > supported || foreign {
        return Err(Error::VersionTooNew { file: rdb, server: server.shown(), supported });
    }
    Ok(())
}

/// Refuses when modules of the snapshot (`a,b`) are not loaded.
pub(super) fn check_modules(needed: &str, loaded: &[String]) -> Result<(), Error> {
    let loaded: BTreeSet<&str> = loaded.iter().map(String::as_str).collect();
    let missing: Vec<&str> = needed.split(',').filter(|name| !name.is_empty() && !loaded.contains(name)).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::ModulesMissing { modules: missing.join(", ") }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(valkey: bool, number: &str) -> Version {
        Version { valkey, number: number.to_owned() }
    }

    #[test]
    fn a_file_newer_than_the_server_is_refused() {
        let table = [
            (10, false, "7.0.15", true),
            (11, false, "7.0.15", false),
            (10, false, "6.2.14", false),
            (9, false, "6.2.14", true),
            (12, false, "8.2.1", true),
            (11, true, "8.1.0", true),
            (12, true, "9.0.0", false),
            (80, true, "9.0.0", true),
            (80, false, "8.2.1", false),
        ];
        for (rdb, valkey, number, good) in table {
            assert_eq!(check_version(rdb, None, &version(valkey, number)).is_ok(), good, "{rdb} {valkey} {number}");
        }
        for (written_by, valkey, number, good) in [
            ("redis 9.1.0", false, "9.1.0", true),
            ("redis 9.1.0", false, "9.1.12", true),
            ("redis 9.9.0", false, "9.10.0", true),
            ("redis 9.1.1", false, "9.1.0", false),
            ("redis 9.1.0", true, "9.1.0", false),
            ("valkey 9.1.0", false, "9.2.0", false),
            ("valkey 9.1.0", true, "9.2.0", true),
            ("redis 9.1.0-rc1", false, "9.1.0-rc1", true),
            ("redis 9.1.0-rc1", false, "9.1.0-rc2", false),
            ("nonsense", false, "9.1.0", false),
        ] {
            let checked = check_version(99, Some(written_by), &version(valkey, number));
            assert_eq!(checked.is_ok(), good, "{written_by} {valkey} {number}");
        }
    }

    #[test]
    fn missing_modules_are_named() {
        assert!(check_modules("", &[]).is_ok());
        assert!(check_modules("search", &["search".to_owned()]).is_ok());
        let error = check_modules("search,ReJSON", &["search".to_owned()]).unwrap_err();
        assert!(matches!(error, Error::ModulesMissing { modules } if modules == "ReJSON"));
    }
}
