//! Stores two nights of a small stream and reads both back, always the same way: `bench/guard` counts its instructions.
//!
//! `stages <directory of the index cache>`. Keys are drawn from a counter, so that cut points, and with them the work,
//! are the same in every run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::TryStreamExt as _;
use orkvault::backend::{Backend, MemoryBackend};
use orkvault::crypto::{self, Entropy, Passphrase};
use orkvault::format::config::StreamKind;
use orkvault::format::slot::KdfParams;
use orkvault::repo::{
    Access, Compression, InitOptions, InitSecrets, Marks, OpenOptions, Reader, Repository, StreamWritten, Writer,
    WriterOptions, init,
};

type Failure = Box<dyn std::error::Error>;

const STREAM_BYTES: usize = 4 * 1024 * 1024;
/// Every so many records one is changed in the second night.
const CHANGED_EVERY: usize = 100;
const PASSPHRASE: &[u8] = b"the passphrase of the guard";

/// Not random at all, and never the same twice: for a measurement only.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, out: &mut [u8]) -> Result<(), crypto::Error> {
        for part in out.chunks_mut(8) {
            let number = spread(self.0.fetch_add(1, Ordering::SeqCst)).to_le_bytes();
            part.copy_from_slice(number.get(..part.len()).unwrap_or_default());
        }
        Ok(())
    }
}

fn spread(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_add(0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn main() -> Result<(), Failure> {
    let cache = PathBuf::from(std::env::args().nth(1).ok_or("stages <directory of the index cache>")?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(work(cache))
}

async fn work(cache: PathBuf) -> Result<(), Failure> {
    let entropy: Arc<dyn Entropy> = Arc::new(Counter(AtomicU64::new(1)));
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let passphrase = || Passphrase::new(PASSPHRASE.to_vec());
    let secrets = InitSecrets { data: passphrase(), secrets: Passphrase::new(b"another passphrase".to_vec()) };
    let kdf = KdfParams::new(19_456, 1, 1)?;
    let options = InitOptions { data_kdf: kdf, secrets_kdf: kdf, ..InitOptions::new(1_790_000_000) };
    init(Arc::clone(&backend), &options, secrets, Arc::clone(&entropy), |_| Ok(())).await??;
    let options = OpenOptions { cache: Some(cache), entropy };
    let repository = Repository::open(backend, vec![Access::Data(passphrase())], options).await?;
    repository.load_index().await?;
    let nights = [night(0), night(1)];
    let mut written = Vec::new();
    for night in &nights {
        written.push(store(&repository, night).await?);
    }
    let reader = Reader::new(&repository)?;
    for (night, written) in nights.iter().zip(written) {
        let record = written.record().ok_or("a stream without a recipe")?;
        let mut stream = reader.open(&record);
        let mut len = 0;
        while let Some(piece) = stream.try_next().await? {
            len += piece.len();
        }
        if len != night.len() {
            return Err("not what went in".into());
        }
    }
    Ok(())
}

async fn store(repository: &Repository, night: &[u8]) -> Result<StreamWritten, Failure> {
    // One level for all: the count is of a long night.
    let options = WriterOptions { compression: Compression::of_level(3), ..WriterOptions::default() };
    let mut writer = Writer::new(repository, options)?;
    let stream = writer.begin_named(StreamKind::Dump, "dump").await?;
    for run in night.chunks(512 * 1024) {
        // Records end where lines do.
        let ends = run.iter().zip(1_u32..).filter(|(byte, _)| **byte == b'\n').map(|(_, end)| end);
        let marks = Marks { records: ends.collect(), blocks: Vec::new() };
        writer.push(&stream, Bytes::copy_from_slice(run), marks).await?;
    }
    let written = writer.end(stream, 0).await?;
    let warnings = writer.finish().await?.pieces.keep(|_| true);
    if let Some(warning) = warnings.first() {
        return Err(warning.clone().into());
    }
    Ok(written)
}

/// Returns lines of words and numbers, which compress about as well as a dump.
fn night(number: u64) -> Vec<u8> {
    const WORDS: [&str; 8] = ["customer", "invoice", "shipped", "pending", "amount", "currency", "warehouse", "note"];
    let mut out = Vec::with_capacity(STREAM_BYTES + 1024);
    for line in 0_u64.. {
        if out.len() >= STREAM_BYTES {
            break;
        }
        let is_changed = line % CHANGED_EVERY as u64 == 7;
        let mut state = spread(line * 1000 + if is_changed { number } else { 0 });
        for _ in 0..60 {
            state = spread(state);
            let word =
                usize::try_from(state >> 61).ok().and_then(|place| WORDS.get(place)).copied().unwrap_or_default();
            out.extend_from_slice(word.as_bytes());
            out.extend_from_slice(format!(" {:x} ", state & 0xffff).as_bytes());
        }
        out.push(b'\n');
    }
    out
}
