//! Rows of the entry table, and how tonight's listing is merged with last night's rows. Pure.

use super::Error;
use super::attributes::{Attributes, is_unchanged};
use super::listing::Listed;

/// Returns the row key of an object; of the bucket itself for an empty `object`.
pub(super) fn row_key(bucket: &str, object: &str) -> Vec<u8> {
    format!("{bucket}/{object}").into_bytes()
}

/// Splits a row key into bucket and object key (empty: the bucket itself).
pub(super) fn split_row_key(row: &[u8]) -> Result<(&str, &str), Error> {
    let split = std::str::from_utf8(row).ok().and_then(|row| row.split_once('/'));
    split
        .filter(|(bucket, _)| !bucket.is_empty())
        .ok_or_else(|| Error::StrangeRow { row: String::from_utf8_lossy(row).into_owned() })
}

/// Sorts bucket names as their rows are: `a-b/` comes before `a/`.
pub(super) fn sort_buckets(names: &mut Vec<String>) {
    names.sort_by_key(|one| row_key(one, ""));
    names.dedup();
}

/// What is stored of an object that the previous snapshot has.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredRow<'a> {
    pub(super) object: &'a str,
    pub(super) attributes: &'a Attributes,
    pub(super) len: u64,
    /// False where the content cannot be referred to, so that it must be read again.
    pub(super) has_content: bool,
}

/// What to do about the smaller of the next listed and the next stored object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Both are there and nothing changed: the stored row stays.
    Keep,
    /// New or changed: read it. `also_stored` tells that the stored row is used up by this.
    Fetch { also_stored: bool },
    /// Stored but not listed any more: ask for it by name before believing that it is gone.
    Missing,
    /// Both are at their end.
    End,
}

/// Decides about the next object of a bucket.
pub(super) fn decide(listed: Option<&Listed>, stored: Option<StoredRow<'_>>) -> Decision {
    match (listed, stored) {
        (None, None) => Decision::End,
        (None, Some(_)) => Decision::Missing,
        (Some(_), None) => Decision::Fetch { also_stored: false },
        (Some(listed), Some(stored)) => match listed.key.as_str().cmp(stored.object) {
            std::cmp::Ordering::Less => Decision::Fetch { also_stored: false },
            std::cmp::Ordering::Greater => Decision::Missing,
            std::cmp::Ordering::Equal => {
                let keep = stored.has_content && is_unchanged(listed, stored.attributes, stored.len);
                if keep { Decision::Keep } else { Decision::Fetch { also_stored: true } }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn listed(key: &str, state: u8) -> Listed {
        Listed {
            key: key.to_owned(),
            len: 1,
            etag: Some(format!("\"{state}\"")),
            last_modified: Some("t".to_owned()),
            storage_class: None,
        }
    }

    fn attributes(state: u8) -> Attributes {
        [("etag".to_owned(), format!("\"{state}\"").into_bytes()), ("last-modified".to_owned(), b"t".to_vec())].into()
    }

    #[test]
    fn buckets_are_ordered_as_their_rows_are() {
        let mut names = vec!["a".to_owned(), "a0".to_owned(), "a-b".to_owned(), "a.b".to_owned()];
        sort_buckets(&mut names);
        assert_eq!(names, ["a-b", "a.b", "a", "a0"]);
    }

    #[test]
    fn row_keys_split_at_the_first_slash_only() {
        assert_eq!(split_row_key(&row_key("b", "x/y//")).unwrap(), ("b", "x/y//"));
        assert_eq!(split_row_key(&row_key("b", "")).unwrap(), ("b", ""));
        assert_eq!(split_row_key(&row_key("b", "/lead")).unwrap(), ("b", "/lead"));
        assert!(split_row_key(b"no slash").is_err());
        assert!(split_row_key(b"/x").is_err());
        assert!(split_row_key(b"b/\xff").is_err());
    }

    proptest! {
        #[test]
        fn a_merge_sees_every_object_once_and_keeps_exactly_the_unchanged_ones(
            tonight in prop::collection::btree_map("[a-c]{1,3}", 0u8..3, 0..20),
            before in prop::collection::btree_map("[a-c]{1,3}", (0u8..3, any::<bool>()), 0..20),
        ) {
            let listing: Vec<Listed> = tonight.iter().map(|(key, state)| listed(key, *state)).collect();
            let rows: Vec<(&String, Attributes, bool)> =
                before.iter().map(|(key, (state, content))| (key, attributes(*state), *content)).collect();
            let (mut l, mut s) = (0, 0);
            let (mut kept, mut fetched, mut missing) = (Vec::new(), Vec::new(), Vec::new());
            let mut order = Vec::new();
            loop {
                let stored = rows.get(s).map(|(key, attributes, has_content)| StoredRow {
                    object: key.as_str(), attributes, len: 1, has_content: *has_content,
                });
                match decide(listing.get(l), stored) {
                    Decision::Keep => { kept.push(listing[l].key.clone()); order.push(listing[l].key.clone()); l += 1; s += 1; }
                    Decision::Fetch { also_stored } => {
                        fetched.push(listing[l].key.clone());
                        order.push(listing[l].key.clone());
                        l += 1;
                        s += usize::from(also_stored);
                    }
                    Decision::Missing => { missing.push(rows[s].0.clone()); order.push(rows[s].0.clone()); s += 1; }
                    Decision::End => break,
                }
            }
            assert!(order.windows(2).all(|pair| pair[0] < pair[1]));
            let unchanged = |key: &String| tonight.get(key).is_some_and(|state| before.get(key) == Some(&(*state, true)));
            assert!(kept.iter().all(unchanged));
            assert_eq!(kept.len(), tonight.keys().filter(|key| unchanged(key)).count());
            assert_eq!(kept.len() + fetched.len(), tonight.len());
            let gone: Vec<String> = before.keys().filter(|key| !tonight.contains_key(*key)).cloned().collect();
            assert_eq!(missing, gone);
        }
    }
}
