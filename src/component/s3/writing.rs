//! How a server writes keys in its listings. Asked to encode them (`encoding-type=url`), some say that they do and do
//! not, and some leave a `+` as it is: the same text would then be read as another key, which nobody has.

use std::collections::BTreeSet;

use super::attributes::Head;
use super::client::Server;
use super::fetch::is_listed;
use super::listing::Listed;
use super::{Error, Place};
use crate::format::object::decode_listed;

/// Characters of a time up to its second: `2026-11-29T04:00:00`.
const SECOND_LEN: usize = 19;
/// Keys of one page that are asked for by name, at most, to find out.
const PROBES_MAX: usize = 8;

/// A way of writing keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    /// `%XX` is a byte and `+` a space: what S3 says.
    Form,
    /// `%XX` is a byte and `+` is itself.
    Path,
    /// Every character is itself.
    Raw,
}

impl Writing {
    /// All of them, the likeliest first.
    pub(super) const ALL: [Self; 3] = [Self::Form, Self::Path, Self::Raw];

    /// Returns the key that a listing means; `None` where it is not written like this, or is not UTF-8.
    pub(super) fn read(self, listed: &str) -> Option<String> {
        let bytes = match self {
            Self::Form => decode_listed(listed)?,
            Self::Path => decode_listed(&listed.replace('+', "%2B"))?,
            Self::Raw => listed.as_bytes().to_vec(),
        };
        String::from_utf8(bytes).ok().filter(|key| !key.is_empty())
    }

    /// Returns whether a listing may mean this key.
    pub(super) fn may_mean(listed: &str, key: &str) -> bool {
        Self::ALL.iter().any(|writing| writing.read(listed).as_deref() == Some(key))
    }

    /// Returns which of the ways in `left` are still possible after these objects, whose keys are as listed: of one whose
    /// key they read differently, the right one is there, as it was listed. All stay where nothing tells, because they
    /// agree, or the objects have gone.
    pub(super) async fn narrow(
        server: &Server,
        bucket: &str,
        rows: &[Listed],
        mut left: Vec<Self>,
    ) -> Result<Vec<Self>, Error> {
        let mut probes = 0;
        // All others are read alike in every way.
        for row in rows.iter().filter(|row| row.key.contains(['%', '+'])) {
            let keys: BTreeSet<Option<String>> = left.iter().map(|writing| writing.read(&row.key)).collect();
            if keys.len() < 2 || probes == PROBES_MAX {
                continue;
            }
            probes += 1;
            for key in left.iter().filter_map(|writing| writing.read(&row.key)).collect::<Vec<_>>() {
                if is_there(server, bucket, &key, row).await? {
                    left.retain(|writing| writing.read(&row.key).as_ref() == Some(&key));
                    break;
                }
            }
        }
        Ok(left)
    }
}

async fn is_there(server: &Server, bucket: &str, key: &str, row: &Listed) -> Result<bool, Error> {
    match server.head(bucket, key).await {
        Ok(head) => Ok(head.is_some_and(|head| is_listed(&head, row) && is_of_same_second(&head, row))),
        Err(error @ (Error::Unreachable { .. } | Error::Throttled { .. } | Error::Credentials { .. })) => Err(error),
        // Who may list and not look finds out nothing, and is told when an object is to be read; nor does who asks for a key
        // that cannot be, or for an object that nobody can look at so.
        Err(_) => Ok(false),
    }
}

/// Another object with the same content was put at another time. Listings tell fractions of a second that headers do not.
fn is_of_same_second(head: &Head, row: &Listed) -> bool {
    let second = |time: &str| time.get(..SECOND_LEN).map(str::to_owned);
    match (&head.last_modified, &row.last_modified) {
        (Some(head), Some(row)) => second(head) == second(row),
        _ => true,
    }
}

/// Returns the rows with their keys read.
pub(super) fn read_keys(
    writing: Writing,
    bucket: &str,
    mut rows: Vec<Listed>,
    place: impl Fn() -> Box<Place>,
) -> Result<Vec<Listed>, Error> {
    for row in &mut rows {
        row.key = match writing.read(&row.key) {
            Some(key) => key,
            None if decode_listed(&row.key).is_none() => {
                return Err(Error::Answer { place: place(), field: "key encoding" });
            }
            None => return Err(Error::KeyNotUtf8 { bucket: bucket.to_owned(), encoded: std::mem::take(&mut row.key) }),
        };
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_reads_what_it_writes() {
        for (listed, form, path, raw) in [
            ("a/b-c.d_e", Some("a/b-c.d_e"), Some("a/b-c.d_e"), Some("a/b-c.d_e")),
            ("a+b", Some("a b"), Some("a+b"), Some("a+b")),
            ("a%20b+c", Some("a b c"), Some("a b+c"), Some("a%20b+c")),
            ("100%", None, None, Some("100%")),
            ("%FF", None, None, Some("%FF")),
            ("", None, None, None),
        ] {
            let read = Writing::ALL.map(|writing| writing.read(listed));
            assert_eq!(read, [form, path, raw].map(|key| key.map(str::to_owned)), "{listed}");
        }
        assert!(Writing::may_mean("a+b", "a b") && Writing::may_mean("a+b", "a+b") && !Writing::may_mean("a+b", "a"));
    }
}
