//! An object's metadata as the sorted attributes of an entry, and back.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;

use super::client::moment;
use super::listing::Listed;
use super::{Error, Place};
use crate::format::limits;

pub(super) const ETAG: &str = "etag";
pub(super) const LAST_MODIFIED: &str = "last-modified";
pub(super) const STORAGE_CLASS: &str = "storage-class";
pub(super) const VERSION_ID: &str = "version-id";
pub(super) const META: &str = "meta:";
pub(super) const TAG: &str = "tag:";
/// Metadata whose names are too long for attributes of their own: a JSON object.
pub(super) const META_LONG: &str = "meta-long";

/// Headers that travel with an object, by their attribute names.
pub(super) const HEADERS: [&str; 7] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "website-redirect",
];

/// What a bucket or object is like, by name.
pub(super) type Attributes = BTreeMap<String, Vec<u8>>;

/// What `HeadObject` says.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) len: u64,
    pub(super) etag: Option<String>,
    /// To the second, while the listing may say more.
    pub(super) last_modified: Option<String>,
    /// Headers, `meta:`, storage class and version id.
    pub(super) attributes: Attributes,
    /// Metadata entries that the server could not send as headers, or that are too long to be stored.
    pub(super) missing_meta: i32,
}

/// Reads an answer.
pub(super) fn read_head(answer: &HeadObjectOutput, place: Box<Place>) -> Result<Head, Error> {
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let len = len.ok_or(Error::Answer { place, field: "content length" })?;
    let mut attributes = Attributes::new();
    let mut put = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            attributes.insert(name.to_owned(), value.as_bytes().to_vec());
        }
    };
    put("cache-control", answer.cache_control());
    put("content-disposition", answer.content_disposition());
    put("content-encoding", answer.content_encoding());
    put("content-language", answer.content_language());
    put("content-type", answer.content_type());
    put("expires", answer.expires_string());
    put("website-redirect", answer.website_redirect_location());
    put(STORAGE_CLASS, answer.storage_class().map(aws_sdk_s3::types::StorageClass::as_str));
    // "null" is what an object without versions has.
    put(VERSION_ID, answer.version_id().filter(|id| *id != "null"));
    let mut long = BTreeMap::new();
    for (name, value) in answer.metadata().into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        if (META.len() + name.len()) as u64 <= limits::ATTRIBUTE_NAME_BYTES_MAX {
            attributes.insert(format!("{META}{name}"), value.as_bytes().to_vec());
        } else {
            long.insert(name, value.clone());
        }
    }
    let mut missing_meta = answer.missing_meta().unwrap_or(0);
    if !long.is_empty() {
        let json = serde_json::to_vec(&long).expect("names and values are text");
        if json.len() as u64 <= limits::ATTRIBUTE_BYTES_MAX {
            attributes.insert(META_LONG.to_owned(), json);
        } else {
            missing_meta += i32::try_from(long.len()).unwrap_or(i32::MAX);
        }
    }
    Ok(Head {
        len,
        etag: answer.e_tag().map(str::to_owned),
        last_modified: answer.last_modified().map(moment),
        attributes,
        missing_meta,
    })
}

/// Returns the attributes of an object to be stored: what the listing, `HeadObject` and the tags say together.
pub(super) fn assemble(listed: &Listed, head: Head, tags: Vec<(String, String)>) -> Attributes {
    let mut attributes = head.attributes;
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            attributes.insert(name.to_owned(), value.into_bytes());
        }
    };
    // The listing is what the next night compares with, so it has precedence.
    put(ETAG, listed.etag.clone().or(head.etag));
    put(LAST_MODIFIED, listed.last_modified.clone().or(head.last_modified));
    put(STORAGE_CLASS, listed.storage_class.clone());
    attributes.extend(tags.into_iter().map(|(name, value)| (format!("{TAG}{name}"), value.into_bytes())));
    attributes
}

/// True when the listed object is the stored one: same length, etag and modification time, all known.
pub(super) fn is_unchanged(listed: &Listed, stored: &Attributes, stored_len: u64) -> bool {
    let same = |name: &str, now: Option<&str>| now.is_some() && text(stored, name) == now;
    listed.len == stored_len
        && same(ETAG, listed.etag.as_deref())
        && same(LAST_MODIFIED, listed.last_modified.as_deref())
}

/// True when two etags are one; some servers quote them here and not there.
pub(super) fn same_etag(one: &str, other: &str) -> bool {
    one.trim_matches('"') == other.trim_matches('"')
}

/// Returns an attribute that is text.
pub(super) fn text<'a>(attributes: &'a Attributes, name: &str) -> Option<&'a str> {
    attributes.get(name).and_then(|value| std::str::from_utf8(value).ok())
}

/// Returns the names (without the prefix) and values of all attributes with this prefix that are text.
pub(super) fn with_prefix<'a>(
    attributes: &'a Attributes,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    attributes
        .range(prefix.to_owned()..)
        .map_while(move |(name, value)| name.strip_prefix(prefix).map(|name| (name, value)))
        .filter_map(|(name, value)| std::str::from_utf8(value).ok().map(|value| (name, value)))
}

/// Returns an object's own metadata.
pub(super) fn metadata(attributes: &Attributes) -> HashMap<String, String> {
    let long = attributes.get(META_LONG).and_then(|json| serde_json::from_slice(json).ok());
    // What is not what a capture writes is found missing by the comparison after the upload.
    let mut all: HashMap<String, String> = long.unwrap_or_default();
    all.extend(with_prefix(attributes, META).map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

/// Returns the names of the attributes that a restore sets and in which the target differs.
/// What the server adds where nothing was stored (a default content type) is no difference.
pub(super) fn differences(stored: &Attributes, target: &Attributes) -> Vec<String> {
    let restorable =
        |name: &str| HEADERS.contains(&name) || name.starts_with(META) || name.starts_with(TAG) || name == META_LONG;
    let mut names: Vec<String> = stored
        .iter()
        .filter(|(name, value)| restorable(name) && target.get(*name) != Some(*value))
        .map(|(name, _)| name.clone())
        .collect();
    let added = |name: &str| restorable(name) && name != "content-type" && !stored.contains_key(name);
    names.extend(target.keys().filter(|name| added(name)).cloned());
    names.sort();
    names
}

/// Returns tags as the `x-amz-tagging` header takes them.
pub(super) fn tagging_header(attributes: &Attributes) -> Option<String> {
    let pairs: Vec<String> = with_prefix(attributes, TAG)
        .map(|(name, value)| format!("{}={}", query_escape(name), query_escape(value)))
        .collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

fn query_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn listed(etag: Option<&str>, last_modified: Option<&str>) -> Listed {
        Listed {
            key: "k".to_owned(),
            len: 3,
            etag: etag.map(str::to_owned),
            last_modified: last_modified.map(str::to_owned),
            storage_class: None,
        }
    }

    #[test]
    fn an_object_counts_as_unchanged_only_when_length_etag_and_time_are_known_and_equal() {
        let stored = attributes(&[(ETAG, "\"e\""), (LAST_MODIFIED, "t")]);
        assert!(is_unchanged(&listed(Some("\"e\""), Some("t")), &stored, 3));
        assert!(!is_unchanged(&listed(Some("\"e\""), Some("t")), &stored, 4));
        assert!(!is_unchanged(&listed(Some("\"f\""), Some("t")), &stored, 3));
        assert!(!is_unchanged(&listed(Some("\"e\""), Some("u")), &stored, 3));
        assert!(!is_unchanged(&listed(None, None), &Attributes::new(), 3));
        assert!(!is_unchanged(&listed(Some("\"e\""), None), &stored, 3));
    }

    #[test]
    fn only_what_a_restore_can_set_counts_as_a_difference() {
        let stored = attributes(&[(ETAG, "1"), ("content-type", "a/b"), ("meta:x", "1"), ("tag:t", "2")]);
        let same = attributes(&[(ETAG, "2"), ("content-type", "a/b"), ("meta:x", "1"), ("tag:t", "2")]);
        assert!(differences(&stored, &same).is_empty());
        let other = attributes(&[("content-type", "a/c"), ("meta:y", "1"), ("tag:t", "2")]);
        assert_eq!(differences(&stored, &other), ["content-type", "meta:x", "meta:y"]);
        assert!(differences(&attributes(&[]), &attributes(&[("content-type", "binary/octet-stream")])).is_empty());
    }

    #[test]
    fn tags_are_escaped_for_their_header() {
        let header = tagging_header(&attributes(&[("tag:a b", "x=1&y"), ("tag:z", ""), ("tah", "no")]));
        assert_eq!(header.as_deref(), Some("a%20b=x%3D1%26y&z="));
        assert_eq!(tagging_header(&attributes(&[("meta:a", "b")])), None);
    }

    #[test]
    fn the_listing_decides_what_the_next_night_compares_with() {
        let head = Head {
            len: 3,
            etag: Some("e".to_owned()),
            last_modified: Some("to the second".to_owned()),
            attributes: attributes(&[("meta:a", "b")]),
            missing_meta: 0,
        };
        let listed = listed(Some("\"e\""), Some("to the millisecond"));
        let all = assemble(&listed, head, vec![("t".to_owned(), "v".to_owned())]);
        assert!(is_unchanged(&listed, &all, 3));
        assert_eq!(text(&all, "tag:t"), Some("v"));
        assert_eq!(text(&all, "meta:a"), Some("b"));
    }
}
