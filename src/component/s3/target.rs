//! What the target has, beside what the snapshot has: rows of one bucket merged with its listing.

use std::sync::Arc;

use super::Error;
use super::attributes::{Attributes, ETAG, same_etag, text};
use super::client::Server;
use super::listing::{Listed, Lister};

/// What the merge finds next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Side {
    /// The target has an object that the snapshot has not.
    Extra(Listed),
    /// The snapshot's object; with the target's of the same key.
    Stored(Option<Listed>),
    /// Nothing is left on the target, and no snapshot object was asked about.
    End,
}

/// The target's objects of one bucket, walked along the snapshot's rows.
pub(super) struct Target {
    /// Nothing for a bucket that is not there yet.
    lister: Option<Lister>,
}

impl Target {
    pub(super) fn existing(server: &Arc<Server>, bucket: &str) -> Self {
        Self { lister: Some(Lister::new(Arc::clone(server), bucket)) }
    }

    pub(super) fn absent() -> Self {
        Self { lister: None }
    }

    /// Returns what comes next up to and including `key`; up to the end of the bucket for `None`.
    /// Call again with the same key until it returns `Stored` (or `End`).
    pub(super) async fn next(&mut self, key: Option<&str>) -> Result<Side, Error> {
        let Some(lister) = &mut self.lister else {
            return Ok(if key.is_some() { Side::Stored(None) } else { Side::End });
        };
        let Some(listed) = lister.peek().await? else {
            return Ok(if key.is_some() { Side::Stored(None) } else { Side::End });
        };
        let order = key.map(|key| listed.key.as_str().cmp(key));
        Ok(match (order, order != Some(std::cmp::Ordering::Greater)) {
            (Some(std::cmp::Ordering::Equal), _) => Side::Stored(lister.take()),
            (_, true) => lister.take().map_or(Side::End, Side::Extra),
            (_, false) => Side::Stored(None),
        })
    }

    /// Warnings of the listing.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.lister.as_ref().map(Lister::warnings).unwrap_or_default()
    }
}

/// True when the target's content may be the stored one: same length, and the etag that it had when stored.
/// Equal etags of uploads in parts mean equal parts, so equal content; a different etag may still be the same
/// content, and is uploaded again to be safe.
pub(super) fn has_same_content(listed: &Listed, stored: &Attributes, stored_len: u64) -> bool {
    let same = match (&listed.etag, text(stored, ETAG)) {
        (Some(listed), Some(stored)) => is_content_hash(stored) && same_etag(listed, stored),
        _ => false,
    };
    same && listed.len == stored_len
}

/// True for an etag in the shape of an MD5 (of the content, or of its parts); anything else proves nothing.
fn is_content_hash(etag: &str) -> bool {
    let etag = etag.trim_matches('"');
    let (hash, parts) = etag.split_once('-').map_or((etag, None), |(hash, parts)| (hash, Some(parts)));
    let parts_fit = parts.is_none_or(|parts| !parts.is_empty() && parts.bytes().all(|byte| byte.is_ascii_digit()));
    hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && parts_fit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(etag: &str, len: u64) -> Listed {
        Listed { key: "k".to_owned(), len, etag: Some(etag.to_owned()), last_modified: None, storage_class: None }
    }

    #[test]
    fn only_an_equal_hash_and_length_count_as_the_same_content() {
        let md5 = "\"9e107d9d372bb6826bd81d3542a419d6\"";
        let stored: Attributes = [(ETAG.to_owned(), md5.as_bytes().to_vec())].into();
        assert!(has_same_content(&listed(md5, 3), &stored, 3));
        assert!(has_same_content(&listed("9e107d9d372bb6826bd81d3542a419d6", 3), &stored, 3));
        assert!(!has_same_content(&listed(md5, 4), &stored, 3));
        assert!(!has_same_content(&listed("\"0e107d9d372bb6826bd81d3542a419d6\"", 3), &stored, 3));
        assert!(!has_same_content(&listed(md5, 3), &Attributes::new(), 3));
        let opaque: Attributes = [(ETAG.to_owned(), b"\"constant\"".to_vec())].into();
        assert!(!has_same_content(&listed("\"constant\"", 3), &opaque, 3));
    }

    #[test]
    fn etags_of_uploads_in_parts_are_hashes_too() {
        assert!(is_content_hash("\"9e107d9d372bb6826bd81d3542a419d6-12\""));
        assert!(!is_content_hash("9e107d9d372bb6826bd81d3542a419d6-"));
        assert!(!is_content_hash("9e107d9d372bb6826bd81d3542a419d6-1x"));
        assert!(!is_content_hash(""));
    }
}
