use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::format::object::decode_listed;

fn object(key: &str) -> Listed {
    Listed { key: key.to_owned(), len: 0, etag: None, last_modified: None, storage_class: None }
}

fn page(keys: &[&str], truncated: bool, token: Option<&str>) -> Page {
    Page { objects: keys.iter().map(|key| object(key)).collect(), truncated, token: token.map(str::to_owned) }
}

fn after(key: &str) -> Option<Ask> {
    Some(Ask::After(key.to_owned()))
}

fn token(token: &str) -> Option<Ask> {
    Some(Ask::Token(token.to_owned()))
}

#[test]
fn the_last_page_is_believed_only_after_an_empty_answer_to_what_comes_after_it() {
    let mut check = ListingCheck::default();
    assert_eq!(check.accept(&page(&["a", "b"], true, Some("t"))), Ok(token("t")));
    assert_eq!(check.accept(&page(&["c"], false, None)), Ok(after("c")));
    assert_eq!(check.accept(&page(&[], false, None)), Ok(None));
    assert_eq!(check.early_ends().1, 0);
}

#[test]
fn a_listing_that_ended_early_goes_on_and_is_remembered() {
    let mut check = ListingCheck::default();
    assert_eq!(check.accept(&page(&["a"], false, None)), Ok(after("a")));
    assert_eq!(check.accept(&page(&["b", "c"], false, None)), Ok(after("c")));
    assert_eq!(check.accept(&page(&[], false, None)), Ok(None));
    assert_eq!(check.early_ends(), (&["a".to_owned()][..], 1));
}

#[test]
fn an_empty_bucket_is_asked_twice() {
    let mut check = ListingCheck::default();
    assert_eq!(check.accept(&page(&[], false, None)), Ok(Some(Ask::Start)));
    assert_eq!(check.accept(&page(&[], false, None)), Ok(None));
}

#[test]
fn a_repeated_token_is_an_error() {
    let mut check = ListingCheck::default();
    check.accept(&page(&["a"], true, Some("t"))).unwrap();
    let fault = check.accept(&page(&["b"], true, Some("t")));
    assert_eq!(fault, Err(ListingFault::TokenRepeated { last: "b".to_owned() }));
}

#[test]
fn a_key_that_does_not_increase_is_an_error_also_across_pages() {
    for (first, second) in [(&["b", "a"][..], &[][..]), (&["a", "a"], &[]), (&["b"], &["b"]), (&["b"], &["a"])] {
        let mut check = ListingCheck::default();
        let result = check.accept(&page(first, true, Some("t"))).and_then(|_| check.accept(&page(second, false, None)));
        assert!(matches!(result, Err(ListingFault::NotIncreasing { .. })), "{first:?} {second:?}");
    }
}

#[test]
fn a_truncated_page_without_token_goes_on_after_its_last_key() {
    let mut check = ListingCheck::default();
    assert_eq!(check.accept(&page(&["a"], true, None)), Ok(after("a")));
    assert_eq!(check.accept(&page(&["b"], true, Some(""))), Ok(after("b")));
}

#[test]
fn endless_empty_pages_are_given_up() {
    let mut check = ListingCheck::default();
    let ends = (0..1000).find_map(|n| check.accept(&page(&[], true, Some(&n.to_string()))).err());
    assert!(matches!(ends, Some(ListingFault::EmptyPages { .. })));
}

#[test]
fn keys_are_decoded_as_s3_encodes_them() {
    assert_eq!(decode_listed("a%2Fb+c%2B%20%04").as_deref(), Some(&b"a/b c+ \x04"[..]));
    assert_eq!(decode_listed("gr%C3%BC%c3%9fe").as_deref(), Some("grüße".as_bytes()));
    assert_eq!(decode_listed("a%2"), None);
    assert_eq!(decode_listed("a%zz"), None);
}

proptest! {
    #[test]
    fn every_encoded_key_decodes_to_itself(key in prop::collection::vec(any::<u8>(), 0..64)) {
        let encoded: String = key.iter().map(|byte| match byte {
            b'a'..=b'z' => char::from(*byte).to_string(),
            b' ' => "+".to_owned(),
            other => format!("%{other:02X}"),
        }).collect();
        prop_assert_eq!(decode_listed(&encoded), Some(key));
    }

    #[test]
    fn no_listing_that_lies_about_its_end_loses_a_key(
        keys in prop::collection::btree_set("[a-z]{1,6}", 0..60),
        page_len in 1usize..9,
        lies in prop::collection::vec(any::<bool>(), 64),
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let mut check = ListingCheck::default();
        let mut seen: Vec<String> = Vec::new();
        let mut ask = Some(Ask::Start);
        let mut pages = 0;
        while let Some(asked) = ask {
            let from = match asked {
                Ask::Start => 0,
                Ask::Token(token) => token.parse::<usize>().unwrap(),
                Ask::After(last) => keys.partition_point(|key| *key <= last),
            };
            let till = keys.len().min(from + page_len);
            let more = till < keys.len() && !lies[pages % lies.len()];
            let shown: Vec<&str> = keys[from..till].iter().map(String::as_str).collect();
            let page = page(&shown, more, more.then(|| till.to_string()).as_deref());
            ask = check.accept(&page).unwrap();
            seen.extend(page.objects.into_iter().map(|object| object.key));
            pages += 1;
            prop_assert!(pages < 300);
        }
        prop_assert_eq!(seen, keys);
    }
}
