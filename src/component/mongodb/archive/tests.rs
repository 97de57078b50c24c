//! The framer against archives made by the real mongodump, and against made-up ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::sample::{self, Writer, crc64_xz, documents, interleaved};
use super::*;

const REFUSED: EmptyArchive = EmptyArchive::Refused;

fn data_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump")
}

fn real(name: &str) -> Vec<u8> {
    let path = data_dir().join(format!("{name}.zst"));
    let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    zstd::decode_all(stored.as_slice()).unwrap()
}

/// Pushes the pieces and returns the places, counted from the start of the archive.
fn push_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Result<Archive, ArchiveError>, Vec<(usize, bool)>) {
    let mut framer = Framer::new(REFUSED);
    let (mut places, mut ends, mut offset) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        ends.clear();
        if let Err(error) = framer.push(piece, &mut ends) {
            assert_eq!(framer.push(b"more", &mut ends), Err(error.clone()), "errors are final");
            return (Err(error), places);
        }
        places.extend(ends.iter().map(|end| (offset + usize::try_from(end.at).unwrap(), end.block)));
        offset += piece.len();
    }
    (framer.finish(), places)
}

/// The same places, found the slow way in a whole archive.
fn places_of(archive: &[u8]) -> Vec<(usize, bool)> {
    let (mut at, mut places) = (4, Vec::new());
    while at < archive.len() {
        let len = u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
        at += if len == u32::MAX { 4 } else { usize::try_from(len).unwrap() };
        places.push((at, len == u32::MAX));
    }
    places
}

#[test]
fn crc64fast_is_the_crc_of_the_archive_format() {
    let mut crc = crc64fast::Digest::new();
    crc.write(b"123456789");
    assert_eq!(crc.sum64(), 0x995d_c9bb_df19_39fa);
    assert_eq!(crc64_xz(b"123456789"), 0x995d_c9bb_df19_39fa);
}

#[test]
fn real_archives_hold_what_the_server_said() {
    let expected = std::fs::read(data_dir().join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let names = ["basic", "basic-one-collection", "many", "all-databases", "night-1"];
    for name in names.map(|name| format!("{name}.archive")) {
        let bytes = real(&name);
        let archive = check(&bytes, REFUSED).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(archive.len, bytes.len() as u64);
        assert_eq!(archive.header.tool_version, "100.18.0");
        assert_eq!(archive.header.server_major_minor(), Some((8, 2)));
        let mut wanted = BTreeMap::new();
        for (db, collections) in expected[&name]["databases"].as_object().unwrap() {
            for (collection, facts) in collections.as_object().unwrap() {
                let count = |field: &str| facts[field].as_u64().unwrap_or(0);
                let row = (facts["type"].as_str().unwrap().to_owned(), count("documents"), count("bytes"));
                wanted.insert(format!("{db}.{collection}"), row);
            }
        }
        let found: BTreeMap<_, _> = archive
            .namespaces
            .into_iter()
            .filter(|namespace| !namespace.name.starts_with("admin."))
            .map(|namespace| (namespace.name, (namespace.kind, namespace.documents, namespace.bytes)))
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn the_oplog_is_a_namespace_of_its_own() {
    let archive = check(&real("oplog.archive"), REFUSED).unwrap();
    let oplog: Vec<_> = archive.namespaces.iter().filter(|namespace| namespace.kind == "oplog").collect();
    assert_eq!(oplog.len(), 1);
    assert_eq!((oplog[0].name.as_str(), oplog[0].documents), (".oplog", 1));
}

#[test]
fn places_in_real_archives_are_the_ends_of_their_items() {
    for name in ["basic.archive", "many.archive"] {
        let bytes = real(name);
        let (verdict, places) = push_all(bytes.chunks(4096));
        verdict.unwrap();
        assert_eq!(places, places_of(&bytes));
    }
}

#[test]
fn an_archive_of_a_database_that_does_not_exist_is_refused_unless_allowed() {
    let bytes = std::fs::read(data_dir().join("empty-database.archive")).unwrap();
    assert_eq!(check(&bytes, REFUSED), Err(ArchiveError::NoNamespace));
    assert_eq!(check(&bytes, EmptyArchive::Allowed).unwrap().namespaces, []);
}

#[test]
fn a_compressed_archive_is_refused_with_the_reason() {
    let bytes = std::fs::read(data_dir().join("basic-gzip.archive.gz")).unwrap();
    assert_eq!(check(&bytes, REFUSED), Err(ArchiveError::Gzip));
}

#[test]
fn no_bytes_and_other_bytes_are_no_archive() {
    assert_eq!(check(b"", REFUSED), Err(ArchiveError::NoBytes));
    assert_eq!(check(b"OCI runtime", REFUSED), Err(ArchiveError::NotAnArchive { first: *b"OCI " }));
    assert!(matches!(check(b"ab", REFUSED), Err(ArchiveError::Truncated { offset: 2, within: Within::Magic })));
}

#[test]
fn no_proper_prefix_is_complete() {
    let bytes = interleaved();
    check(&bytes, REFUSED).unwrap();
    for len in 0..bytes.len() {
        let verdict = check(&bytes[..len], EmptyArchive::Allowed);
        let truncated = matches!(
            verdict,
            Err(ArchiveError::NoBytes | ArchiveError::Truncated { .. } | ArchiveError::Unclosed { .. })
        );
        assert!(truncated, "{len} of {} bytes: {verdict:?}", bytes.len());
    }
    let bytes = real("basic.archive");
    for len in (0..bytes.len()).step_by(997).chain(places_of(&bytes).into_iter().map(|(at, _)| at)) {
        assert!(len == bytes.len() || check(&bytes[..len], EmptyArchive::Allowed).is_err(), "{len}");
    }
}

#[test]
fn a_cut_archive_says_where_and_in_what() {
    let bytes = interleaved();
    let places = places_of(&bytes);
    let first_document = places.iter().filter(|place| place.1).nth(2).unwrap().0;
    let header_end = places.iter().find(|place| place.0 > first_document).unwrap().0;
    let within = Within::Block { namespace: "shop.orders".to_owned() };
    for cut in [header_end + 2, header_end + 9] {
        let expected = ArchiveError::Truncated { offset: cut as u64, within: within.clone() };
        assert_eq!(check(&bytes[..cut], REFUSED), Err(expected));
    }
    let expected = ArchiveError::Unclosed { namespace: "shop.orders".to_owned(), others: 2 };
    assert_eq!(check(&bytes[..first_document], REFUSED), Err(expected));
}

#[test]
fn no_flipped_bit_in_a_document_is_complete() {
    let bytes = interleaved();
    let places = places_of(&bytes);
    let (mut start, mut flips) = (0, 0);
    for (end, block) in places {
        let item = start..end;
        start = end;
        let is_document = bytes[item.clone()].windows(6).any(|window| window == b"\x02text\0");
        if block || !is_document {
            continue;
        }
        for at in item {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(check(&damaged, REFUSED).is_err(), "bit {bit} of byte {at}");
                flips += 1;
            }
        }
    }
    assert!(flips > 1000);
}

#[test]
fn damaged_documents_are_named_with_both_checksums() {
    let mut bytes = real("basic.archive");
    let at = bytes.windows(7).position(|window| window == b"tenant\0").unwrap();
    let last = bytes.windows(7).rposition(|window| window == b"tenant\0").unwrap();
    assert!(at < last);
    bytes[last] ^= 1;
    match check(&bytes, REFUSED) {
        Err(ArchiveError::Crc { namespace, expected, got }) => {
            assert_eq!(namespace, "basic.orders");
            assert_ne!(expected, got);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_namespace_may_come_with_its_closing_block_only() {
    let bytes = Writer::new("8.0.4").list("a", "b", "").term().close("a", "b", &[]).bytes;
    let namespaces = check(&bytes, REFUSED).unwrap().namespaces;
    assert_eq!((namespaces[0].kind.as_str(), namespaces[0].documents), ("collection", 0));
}

#[test]
fn a_time_series_travels_as_its_buckets_until_server_8_3() {
    let bucket = documents(3, 7);
    let archive = |version: &str, blocks: &str| {
        let list = Writer::new(version).list("m", "cpu", "timeseries").term();
        check(&list.block("m", blocks, &bucket).close("m", blocks, &bucket).bytes, REFUSED)
    };
    for (version, blocks) in [("8.2.11", "system.buckets.cpu"), ("8.3.0", "cpu"), ("10.0.1-rc0", "cpu")] {
        let found = &archive(version, blocks).unwrap().namespaces[0];
        assert_eq!((found.name.as_str(), found.kind.as_str(), found.documents), ("m.cpu", "timeseries", 3));
    }
    assert!(matches!(archive("8.2.11", "cpu"), Err(ArchiveError::Unlisted { .. })));
    assert!(matches!(archive("unknown", "cpu"), Err(ArchiveError::ServerVersion { .. })));
}

#[test]
fn what_does_not_fit_the_grammar_is_refused() {
    let docs = documents(2, 3);
    let start = || Writer::new("8.0.4").list("a", "b", "collection").list("a", "c", "collection").term();
    let both = || start().block("a", "b", &docs).close("a", "b", &docs).close("a", "c", &[]);
    check(&both().bytes, REFUSED).unwrap();
    let verdict = |writer: Writer| check(&writer.bytes, REFUSED).unwrap_err().to_string();
    let cases = [
        (both().term(), "has no header"),
        (both().block("a", "b", &docs), "a.b goes on after its end"),
        (both().close("a", "c", &[]), "a.c goes on after its end"),
        (both().block("a", "d", &docs), "a.d is not in the list of namespaces"),
        (start().header("a", "b", Some(0)).raw(&docs[0]), "a.b goes on after its end"),
        (start().close("a", "b", &docs), "have CRC-64 0000000000000000"),
        (start().list("a", "b", "collection"), "the block header at byte"),
        (Writer::new("8").list("a", "b", "").list("a", "b", ""), "a.b is twice in the list"),
        (start().header("a", "b", None).raw(&[4, 0, 0, 0, 0]), "length 4 is not in 5.."),
        (start().header("a", "b", None).raw(&[0xff, 0xff, 0xff, 0x7f]), "length 2147483647 is not in"),
        (start().header("a", "b", None).raw(b"2026-11-22T10:20:48.617+0000\twriting"), "in a block of a.b: length"),
        (start().header("a", "b", None).raw(&[5, 0, 0, 0, 1]), "a.b does not end in a zero byte"),
        (start().raw(&[0xff, 0xff, 0, 0]), "in a block header: length 65535"),
        (Writer::new("8").raw(&sample::document(&sample::string("db", "a"))), "the list entry at byte"),
    ];
    for (writer, message) in cases {
        let found = verdict(writer);
        assert!(found.contains(message), "{found} / {message}");
    }
}

#[test]
fn an_unknown_format_version_is_refused() {
    let mut bytes = interleaved();
    let at = bytes.windows(4).position(|window| window == b"0.1\0").unwrap();
    bytes[at] = b'1';
    assert_eq!(check(&bytes, REFUSED), Err(ArchiveError::Version { version: "1.1".to_owned() }));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let mut framer = Framer::new(REFUSED);
    let mut bytes = Writer::new("8.0.4").bytes;
    bytes.extend_from_slice(&[0, 0, 0, 1, 2]);
    framer.push(&bytes, &mut Vec::new()).unwrap();
    assert!(framer.item.capacity() < 4096, "{}", framer.item.capacity());
}

#[test]
fn documents_that_mongorestore_refuses_are_counted() {
    let long = sample::document(&sample::string("text", &"x".repeat(16 << 20)));
    let docs = [long];
    let bytes = Writer::new("8.0.4").list("a", "b", "").term().block("a", "b", &docs).close("a", "b", &docs).bytes;
    assert_eq!(check(&bytes, REFUSED).unwrap().unrestorable_documents, 1);
}

#[test]
fn ten_thousand_namespaces_of_one_document_a_block_are_followed() {
    let names: Vec<_> = (0..10_000).map(|n| format!("c{n}")).collect();
    let docs = documents(1, 1);
    let mut writer = Writer::new("8.0.4");
    for name in &names {
        writer = writer.list("db", name, "collection");
    }
    writer = writer.term();
    let twice = [docs[0].clone(), docs[0].clone()];
    for name in names.iter().chain(&names) {
        writer = writer.block("db", name, &docs);
    }
    for name in &names {
        writer = writer.close("db", name, &twice);
    }
    let archive = check(&writer.bytes, REFUSED).unwrap();
    assert_eq!(archive.namespaces.iter().map(|namespace| namespace.documents).sum::<u64>(), 20_000);
}

proptest! {
    #[test]
    fn the_verdict_and_the_places_do_not_depend_on_the_split(
        cuts in proptest::collection::vec(0usize..3000, 0..40),
        damage in proptest::option::of((0usize..3000, any::<u8>())),
    ) {
        let mut bytes = interleaved();
        if let Some((at, value)) = damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let whole = push_all([bytes.as_slice()]);
        prop_assert_eq!(&push_all(bytes.chunks(1)).0, &whole.0);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.push(0);
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let split = push_all(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        prop_assert_eq!(&split.0, &whole.0);
        if whole.0.is_ok() {
            prop_assert_eq!(split.1, whole.1);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), whole in any::<bool>()) {
        let mut archive = if whole { interleaved() } else { Writer::new("8.0.4").bytes };
        archive.extend_from_slice(&bytes);
        prop_assert!(bytes.is_empty() && whole || check(&archive, EmptyArchive::Refused).is_err());
        let _ = check(&bytes, EmptyArchive::Allowed);
    }

    #[test]
    fn mutations_of_a_real_archive_never_panic(edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
        let mut bytes = interleaved();
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = check(&bytes, EmptyArchive::Allowed);
    }
}
