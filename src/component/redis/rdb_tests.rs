use proptest::prelude::*;

use super::*;

const SMALL: &[u8] = include_bytes!("../../../tests/data/redis/small.rdb");
const UNCHECKED: &[u8] = include_bytes!("../../../tests/data/redis/unchecked.rdb");
const EVERY_TYPE: &[u8] = include_bytes!("../../../tests/data/redis/every-type.rdb");

fn check(bytes: &[u8]) -> Result<Verdict, Error> {
    check_split(bytes, bytes.len().max(1))
}

fn check_split(bytes: &[u8], step: usize) -> Result<Verdict, Error> {
    let mut checker = Checker::new();
    for part in bytes.chunks(step) {
        checker.push(part)?;
    }
    checker.finish()
}

/// A file of the given body with the header, EOF opcode and right checksum around it.
fn file(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"REDIS0010".to_vec();
    bytes.extend_from_slice(body);
    bytes.push(rdb_layout::EOF);
    let mut crc = Crc64::default();
    crc.write(&bytes);
    bytes.extend_from_slice(&crc.sum().to_le_bytes());
    bytes
}

#[test]
fn a_real_file_is_good_and_its_keys_are_counted() {
    let verdict = check(EVERY_TYPE).unwrap();
    assert_eq!(verdict.version, 10);
    assert!(verdict.checksummed && !verdict.valkey);
    assert_eq!(verdict.unknown, None);
    assert_eq!(verdict.aux.get("redis-ver").map(String::as_str), Some("7.0.15"));
    assert!(verdict.aux.get("ctime").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    let counted: Vec<_> = verdict.databases.into_iter().collect();
    assert_eq!(counted, [(0, Keys { total: 14, expiring: 1 }), (3, Keys { total: 1, expiring: 0 })]);
}

#[test]
fn a_file_without_checksum_is_good_if_its_structure_is() {
    let verdict = check(UNCHECKED).unwrap();
    assert!(!verdict.checksummed);
    assert_eq!(verdict.databases.len(), 2);
}

#[test]
fn the_verdict_does_not_depend_on_how_the_bytes_are_split() {
    for bytes in [SMALL, EVERY_TYPE, UNCHECKED] {
        let whole = check(bytes).unwrap();
        for step in 1..70 {
            assert_eq!(check_split(bytes, step).as_ref(), Ok(&whole), "step {step}");
        }
    }
}

#[test]
fn every_proper_prefix_is_refused() {
    for bytes in [SMALL, UNCHECKED, EVERY_TYPE] {
        for len in 0..bytes.len() {
            assert!(check(&bytes[..len]).is_err(), "prefix of {len} bytes");
        }
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let mut bytes = SMALL.to_vec();
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            bytes[at] ^= mask;
            assert!(check(&bytes).is_err(), "byte {at} ^ {mask:02x}");
            bytes[at] ^= mask;
        }
    }
}

#[test]
fn the_mark_of_a_replication_stream_is_never_part_of_the_file() {
    let mut bytes = SMALL.to_vec();
    bytes.extend_from_slice(&[b'f'; 40]);
    let offset = u64::try_from(SMALL.len()).unwrap();
    assert_eq!(check(&bytes), Err(Error::TrailingBytes { offset }));
    assert_eq!(check_split(&bytes, 7), Err(Error::TrailingBytes { offset }));
}

#[test]
fn an_unknown_type_leaves_the_checksum_to_decide() {
    let body = [254, 0, 99, 1, b'k', 1, 2, 3, 4];
    let good = file(&body);
    let verdict = check(&good).unwrap();
    assert_eq!(verdict.unknown, Some((99, 11)));
    assert!(verdict.databases.is_empty());
    for len in 0..good.len() {
        assert!(check(&good[..len]).is_err());
    }
    for at in 9..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(check(&bad).is_err(), "byte {at}");
    }
    let mut unproven = good.clone();
    let checksum_at = unproven.len() - 8;
    unproven[checksum_at..].fill(0);
    assert_eq!(check(&unproven), Err(Error::Unprovable { kind: 99, offset: 11 }));
}

#[test]
fn layouts_that_redis_7_0_does_not_write_are_walked() {
    let bodies: [&[u8]; 6] = [
        // a module's value: id, sint, uint, float, double, string, end
        &[
            7, 1, b'm', 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 2, 6, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2, b'h',
            b'i', 0,
        ],
        // module aux
        &[247, 0x81, 1, 2, 3, 4, 5, 6, 7, 8, 2, 1, 2, 9, 0, 0, 1, b'k', 1, b'v'],
        // an old sorted set: a digit score and an infinite one
        &[3, 1, b'z', 2, 1, b'a', 3, b'1', b'.', b'5', 1, b'b', 254],
        // a hash with expiring fields
        &[24, 1, b'h', 1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 1, b'f', 1, b'v'],
        // a stream of version 3 with one group, one pending entry and one consumer
        &[
            21, 1, b's', 1, 1, b'i', 1, b'l', 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, b'g', 1, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 1, 1, 1, b'c', 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2,
            2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
        // a compressed string behind a time to live and an LFU counter
        &[252, 1, 2, 3, 4, 5, 6, 7, 8, 249, 7, 0, 1, b'k', 0xc3, 3, 0x40, 200, 1, 2, 3],
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let verdict = check(&file(body)).unwrap();
        assert_eq!(verdict.unknown, None, "body {number}");
        assert_eq!(verdict.databases.get(&0).map(|keys| keys.total), Some(1), "body {number}");
    }
}

#[test]
fn what_is_not_a_file_of_a_known_version_is_refused() {
    assert_eq!(check(b"garbage garbage"), Err(Error::Magic));
    assert_eq!(check(b"-NOAUTH Authentication required.\r\n"), Err(Error::Magic));
    assert_eq!(check(b"REDIS0004"), Err(Error::Version { version: 4, max: VERSION_MAX_REDIS }));
    assert_eq!(check(b"REDIS00x9"), Err(Error::Magic));
    assert_eq!(check(b""), Err(Error::Truncated { len: 0 }));
    // 0x82 is no length
    assert!(matches!(check(&file(&[0, 0x82, 1, 1])), Err(Error::Malformed { .. })));
}

proptest! {
    #[test]
    fn any_bytes_get_the_same_verdict_in_any_split(
        body in proptest::collection::vec(any::<u8>(), 0..300), step in 1_usize..40, whole in any::<bool>(),
    ) {
        let bytes = if whole { file(&body) } else { [b"REDIS0010".as_slice(), &body].concat() };
        prop_assert_eq!(check(&bytes), check_split(&bytes, step));
    }
}
