//! Makes a repository that has as many chunks as asked for and no content: for measuring the index.
//!
//! `synthetic <directory> <chunks>` makes `<directory>/repository`, `writer-key` and `passphrase`. Its index parts are
//! those of a repository of 8 KiB chunks; its packs are holes of the right length, so that a listing finds them.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use orkvault::backend::LocalBackend;
use orkvault::crypto::{Passphrase, SystemEntropy};
use orkvault::format::envelope::Codec;
use orkvault::format::id::{ChunkId, PackId};
use orkvault::format::index::{IndexPart, PackRecord};
use orkvault::format::object::ObjectKey;
use orkvault::format::pack::{ChunkRecord, Directory, PackKind, SegmentRecord};
use orkvault::repo::{Access, InitOptions, InitSecrets, OpenOptions, Repository, init};

type Failure = Box<dyn std::error::Error>;

const CHUNKS_PER_SEGMENT: u64 = 128;
const SEGMENTS_PER_PACK: u64 = 96;
const PACKS_PER_PART: u64 = 5;
const CHUNK_BYTES: u32 = 8 * 1024;
const SEGMENT_STORED_BYTES: u32 = 340 * 1024;
const HEADER_BYTES: u32 = 1300;
/// Not a secret: the repository holds nothing.
const PASSPHRASE: &str = "the passphrase of the benchmark";

/// xorshift64*: ids need only be spread, and the same each time.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        for part in out.chunks_exact_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            part.copy_from_slice(&self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        out
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, chunks] = arguments.as_slice() else { return Err("synthetic <directory> <chunks>".into()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(make(Path::new(directory), chunks.parse()?))
}

async fn make(directory: &Path, chunks: u64) -> Result<(), Failure> {
    let root = directory.join("repository");
    let backend = Arc::new(LocalBackend::create(&root).await?);
    let data = Passphrase::new(PASSPHRASE.as_bytes().to_vec());
    let secrets = InitSecrets { data, secrets: Passphrase::new(b"another passphrase of the benchmark".to_vec()) };
    let made =
        init(backend.clone(), &InitOptions::new(1_790_000_000), secrets, Arc::new(SystemEntropy), |_| Ok(())).await?;
    let line = made?.writer_key.to_line().to_string();
    for (name, text) in [("writer-key", line.as_str()), ("passphrase", PASSPHRASE)] {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
        file.write_all(text.as_bytes())?;
    }
    let key = orkvault::crypto::writer_key::WriterKey::parse(&line)?;
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    let repository = Repository::open(backend, vec![Access::Writer(key)], options).await?;
    let mut noise = Noise(0x0123_4567_89ab_cdef);
    let mut segments = chunks.div_ceil(CHUNKS_PER_SEGMENT);
    while segments > 0 {
        let mut part = IndexPart::default();
        for _ in 0..PACKS_PER_PART {
            let count = segments.min(SEGMENTS_PER_PACK);
            segments -= count;
            if count > 0 {
                part.packs.push(pack(&mut noise, count));
            }
        }
        part.packs.sort_by_key(|pack| pack.id);
        for pack in &part.packs {
            let path = root.join(ObjectKey::Pack(pack.id).to_string());
            fs::create_dir_all(path.parent().ok_or("a pack lies in a directory")?)?;
            File::create_new(path)?.set_len(u64::from(pack.stored_len))?;
        }
        repository.put_index_part(&part).await?;
    }
    Ok(())
}

fn pack(noise: &mut Noise, segments: u64) -> PackRecord {
    let mut directory = Directory::default();
    for _ in 0..segments {
        let chunk = |noise: &mut Noise| ChunkRecord { id: ChunkId::from_bytes(noise.bytes()), len: CHUNK_BYTES };
        let chunks = (0..CHUNKS_PER_SEGMENT).map(|_| chunk(noise)).collect();
        let record =
            SegmentRecord { stored_len: SEGMENT_STORED_BYTES, codec: Codec::Zstd, key: 0, nonce: [7; 24], chunks };
        directory.segments.push(record);
    }
    let id = PackId::from_bytes(noise.bytes());
    let stored_len = HEADER_BYTES + u32::try_from(directory.segments_len()).unwrap_or(u32::MAX) + 64 * 1024;
    PackRecord { id, kind: PackKind::Content, stored_len, header_len: HEADER_BYTES, directory }
}
