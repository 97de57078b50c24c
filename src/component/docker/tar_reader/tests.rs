use std::time::Duration;

use bytes::Bytes;
use futures::stream;

use super::{FileKind, TarEntry, TarError, TarReader};
use crate::component::docker::BoxError;

type Rows = Vec<(TarEntry, Vec<u8>)>;

/// Reads all entries of an archive that comes in pieces of this length.
async fn read(bytes: &[u8], piece: usize) -> Result<Rows, TarError> {
    let pieces: Vec<Result<Bytes, BoxError>> = bytes.chunks(piece).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    let mut reader = TarReader::new(stream::iter(pieces), Duration::from_secs(5));
    let mut rows = Vec::new();
    while let Some(entry) = reader.next_entry().await? {
        let mut content = Vec::new();
        while let Some(bytes) = reader.next_data().await? {
            content.extend_from_slice(&bytes);
        }
        rows.push((entry, content));
    }
    Ok(rows)
}

fn header(name: &str, kind: tar::EntryType, len: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_mode(0o100_640);
    header.set_uid(999);
    header.set_gid(998);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    header
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, kind, content) in entries {
        archive.extend_from_slice(header(name, *kind, u64::try_from(content.len()).unwrap()).as_bytes());
        archive.extend(padded(content));
    }
    archive.extend([0; 1024]);
    archive
}

#[tokio::test]
async fn entries_are_read_however_the_body_is_cut() {
    let long = vec![7; 5000];
    let archive = archive(&[
        ("d/", tar::EntryType::Directory, b""),
        ("d/f", tar::EntryType::Regular, &long),
        ("d/empty", tar::EntryType::Regular, b""),
        ("d/l", tar::EntryType::Symlink, b""),
    ]);
    for piece in [1, 511, 512, 513, 4096, 1 << 20] {
        let rows = read(&archive, piece).await.unwrap();
        let short: Vec<_> = rows.iter().map(|(entry, _)| (entry.name.as_str(), entry.kind, entry.len)).collect();
        let expected = [
            ("d", FileKind::Directory, 0),
            ("d/f", FileKind::File, 5000),
            ("d/empty", FileKind::File, 0),
            ("d/l", FileKind::Link, 0),
        ];
        assert_eq!(short, expected, "{piece}");
        assert_eq!(rows[1].1, long);
        let TarEntry { mode, uid, gid, mtime_secs, .. } = rows[1].0;
        assert_eq!((mode, uid, gid, mtime_secs), (0o640, 999, 998, 1_700_000_000));
    }
    // Writers that fill up to a record are right too.
    let record = [archive.as_slice(), &[0; 8192]].concat();
    assert_eq!(read(&record, 1000).await.unwrap().len(), 4);
}

#[tokio::test]
async fn every_cut_and_every_flipped_bit_of_the_frame_is_found() {
    let archive = archive(&[("f", tar::EntryType::Regular, b"hello")]);
    for len in 0..archive.len() {
        assert!(read(&archive[..len], 4096).await.is_err(), "cut to {len}");
    }
    // Left out: the content, and the checksum's own field, where a space means what a zero means.
    let (checksum, content) = (148..156, 512..517);
    for at in (0..archive.len()).filter(|at| !content.contains(at) && !checksum.contains(at)) {
        let mut flipped = archive.clone();
        flipped[at] ^= 0x10;
        assert!(read(&flipped, 4096).await.is_err(), "flipped at {at}");
    }
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let len = (1..=9).map(|digits| rest + digits).find(|len| len.to_string().len() + rest == *len).unwrap();
    format!("{len} {key}={value}\n")
}

fn extended(records: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let len = u64::try_from(records.len()).unwrap();
    let first = header("PaxHeaders.0/x", tar::EntryType::XHeader, len);
    let second = header(name, tar::EntryType::Regular, 0);
    [first.as_bytes(), padded(records).as_slice(), second.as_bytes(), &padded(content), &[0; 1024]].concat()
}

#[tokio::test]
async fn extended_header_overrides_the_plain_one() {
    let name = "é".repeat(150);
    let size = record("size", "5");
    let records = [record("path", &name), size, record("uid", "3000000"), record("mtime", "12.5")].concat();
    let rows = read(&extended(records.as_bytes(), "short", b"hello"), 4096).await.unwrap();
    let (entry, content) = &rows[0];
    assert_eq!((entry.name.as_str(), entry.len, entry.uid, entry.mtime_secs), (name.as_str(), 5, 3_000_000, 12));
    assert_eq!(content, b"hello");
    for bad in ["9 path", "99999 path=x\n", "10 path=x", "0 path=x\n", "x path=y\n", "11 size=-1x\n", "12 size=abcd\n"]
    {
        let error = read(&extended(bad.as_bytes(), "f", b""), 4096).await.unwrap_err();
        assert!(matches!(error, TarError::Extended { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn length_that_is_not_there_ends_in_an_error_without_being_allocated() {
    let mut archive = header("f", tar::EntryType::Regular, 8_000_000_000).as_bytes().to_vec();
    archive.extend([0; 4096]);
    assert!(matches!(read(&archive, 512).await, Err(TarError::Cut { .. })));
    let mut archive = header("x", tar::EntryType::XHeader, 1 << 30).as_bytes().to_vec();
    archive.extend([0; 4096]);
    assert!(matches!(read(&archive, 512).await, Err(TarError::Extended { .. })));
    // Its last block would end beyond what 64 bits count.
    let most = extended(record("size", &u64::MAX.to_string()).as_bytes(), "f", b"hello");
    assert!(matches!(read(&most, 512).await, Err(TarError::Header { .. })));
}

#[tokio::test]
async fn body_that_stands_still_is_given_up() {
    let mut reader = TarReader::new(stream::pending::<Result<Bytes, BoxError>>(), Duration::from_millis(10));
    assert!(matches!(reader.next_entry().await, Err(TarError::Idle(_))));
}
