//! Very many very small chunks stay within the limits that a reader has.

use bytes::Bytes;
use orkvault::format::config::StreamKind;
use orkvault::format::object::{ObjectKey, ObjectPrefix};
use orkvault::repo::{Marks, PackScan, Reader, Writer, WriterOptions};

use crate::support::repository::{self, read_all};

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_chunks_of_eight_bytes_can_be_read_back() {
    let made = repository::make().await;
    let input: Vec<u8> = (0..100_000_u64).flat_map(u64::to_le_bytes).collect();
    let repository = made.open_writer().await;
    let mut writer = Writer::new(&repository, WriterOptions::default()).unwrap();
    let stream = writer.begin(StreamKind::Dump).await.unwrap();
    // A block ends after every eight bytes: as many chunks as small objects in a bucket would make.
    let blocks = (1..=100_000).map(|block| block * 8).collect();
    let marks = Marks { records: Vec::new(), blocks };
    writer.push(&stream, Bytes::from(input.clone()), marks).await.unwrap();
    let written = writer.end(stream, 0).await.unwrap();
    let finished = writer.finish().await.unwrap();
    assert!(finished.stats.new_chunks > 100_000);

    // Opening reads every index part; a scan reads every directory.
    let repository = made.open_reader().await;
    let reader = Reader::new(&repository).unwrap();
    assert!(read_all(reader.open(&written.record().unwrap())).await.unwrap() == input);
    for (key, len) in repository.list(ObjectPrefix::Packs).await.unwrap() {
        let ObjectKey::Pack(pack) = key else { continue };
        repository.scan_pack(pack, len, PackScan::Everything, &Default::default()).await.unwrap();
    }
}
