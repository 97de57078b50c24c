//! What the jobs of `bench/compare` cannot do without, and nothing else: `floor <file>` prints as JSON how many seconds each
//! job takes on all cores where nobody waits for anybody, the least of some rounds.
//!
//! Every core takes a piece of 2 MiB after the other through all that is to be done with it, in memory that it has used
//! before. Nothing is written, started, planned, looked up or put in order. No pipeline that does the same to
//! the same bytes with the same libraries takes less. Compression is what `src/repo/segment.rs` has behind the first 16 MiB
//! of a run.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use orkvault::chunker::{Cutter, Ends, Sizes};
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use zstd::zstd_safe::{CCtx, CParameter, DCtx, Strategy, compress_bound};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PART_BYTES: usize = 2 * 1024 * 1024;
/// Of dumps: least, average, most.
const SIZES: Sizes = Sizes { min: 8 * 1024, average: 32 * 1024, max: 128 * 1024 };
const KEY: [u8; 32] = [7; 32];
const NONCE: [u8; 24] = [7; 24];
const ROUNDS: usize = 5;

/// A part of the file on its way into a repository and back.
#[derive(Default)]
struct Part {
    offset: u64,
    len: usize,
    chunks: Vec<usize>,
    sealed: Vec<u8>,
}

/// What a core works with.
struct Core {
    cutter: Cutter,
    cipher: XChaCha20Poly1305,
    compressor: CCtx<'static>,
    decompressor: DCtx<'static>,
    plain: Vec<u8>,
    encoded: Vec<u8>,
}

impl Core {
    fn new() -> Self {
        let mut gear = [0_u64; 256];
        let mut state = blake3::Hasher::new_keyed(&KEY).finalize_xof();
        for place in &mut gear {
            let mut bytes = [0; 8];
            state.fill(&mut bytes);
            *place = u64::from_le_bytes(bytes);
        }
        let mut compressor = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::WindowLog(21),
            CParameter::HashLog(16),
            CParameter::MinMatch(7),
        ] {
            compressor.set_parameter(parameter).expect("zstd knows these");
        }
        Self {
            cutter: Cutter::new(SIZES, &gear),
            cipher: XChaCha20Poly1305::new(&KEY.into()),
            compressor,
            decompressor: DCtx::create(),
            plain: Vec::with_capacity(PART_BYTES),
            encoded: Vec::with_capacity(compress_bound(PART_BYTES)),
        }
    }

    fn read(&mut self, file: &File, part: &Part) -> Result<(), Failure> {
        self.plain.resize(part.len, 0);
        Ok(file.read_exact_at(&mut self.plain, part.offset)?)
    }

    fn cut(&mut self, part: &mut Part) {
        part.chunks.clear();
        let mut rest = self.plain.as_slice();
        while !rest.is_empty() {
            let ends = Ends { front: 0, records: &[], block: None };
            let len = self.cutter.cut(rest, ends, true).unwrap_or(rest.len());
            part.chunks.push(len);
            rest = rest.get(len..).unwrap_or_default();
        }
    }

    /// The id of every chunk.
    fn name(&self, part: &Part) {
        let mut rest = self.plain.as_slice();
        for len in &part.chunks {
            let (chunk, tail) = rest.split_at(*len);
            std::hint::black_box(blake3::keyed_hash(&KEY, chunk));
            rest = tail;
        }
    }

    /// The hash of the stream, as far as this part goes.
    fn hash(&self) {
        std::hint::black_box(blake3::hash(&self.plain));
    }

    fn seal(&mut self, part: &mut Part) -> Result<(), Failure> {
        self.encoded.clear();
        self.compressor.compress2(&mut self.encoded, &self.plain).map_err(zstd::zstd_safe::get_error_name)?;
        part.sealed.clear();
        part.sealed.extend_from_slice(&self.encoded);
        let nonce = XNonce::from(NONCE);
        let tag = self.cipher.encrypt_inout_detached(&nonce, b"", part.sealed.as_mut_slice().into());
        part.sealed.extend_from_slice(&tag.map_err(|_| "sealing failed")?);
        Ok(())
    }

    /// The name of the pack, as far as this part goes.
    fn name_pack(part: &Part) {
        std::hint::black_box(blake3::hash(&part.sealed));
    }

    fn open(&mut self, part: &Part) -> Result<(), Failure> {
        self.encoded.clear();
        self.encoded.extend_from_slice(&part.sealed);
        self.cipher.decrypt_in_place(&XNonce::from(NONCE), b"", &mut self.encoded).map_err(|_| "opening failed")?;
        self.plain.clear();
        self.decompressor.decompress(&mut self.plain, &self.encoded).map_err(zstd::zstd_safe::get_error_name)?;
        if self.plain.len() == part.len { Ok(()) } else { Err("not what went in".into()) }
    }
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("floor <file>")?;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut parts: Vec<Part> = Vec::new();
    while let Some(left) = len.checked_sub(parts.iter().map(|part| part.len as u64).sum()).filter(|left| *left > 0) {
        let of_part = usize::try_from(left).unwrap_or(PART_BYTES).min(PART_BYTES);
        parts.push(Part { offset: len - left, len: of_part, ..Part::default() });
    }
    let mut least = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        let secs = [
            on_all_cores(&mut parts, |core, part| {
                core.read(&file, part)?;
                core.cut(part);
                core.name(part);
                core.hash();
                core.seal(part)?;
                Core::name_pack(part);
                Ok(())
            })?,
            // Where a chunk is what it was yesterday it need not be cut.
            on_all_cores(&mut parts, |core, part| {
                core.read(&file, part)?;
                core.name(part);
                core.hash();
                Ok(())
            })?,
            on_all_cores(&mut parts, |core, part| {
                core.open(part)?;
                core.name(part);
                core.hash();
                Ok(())
            })?,
            // Two nights: what they share is opened once and hashed for each.
            on_all_cores(&mut parts, |core, part| {
                Core::name_pack(part);
                core.open(part)?;
                core.name(part);
                core.hash();
                core.hash();
                Ok(())
            })?,
        ];
        for (least, secs) in least.iter_mut().zip(secs) {
            *least = least.min(secs);
        }
    }
    let [first, next, restore, check] = least;
    let mut out = std::io::stdout();
    writeln!(
        out,
        r#"{{"first night": {first:.4}, "next night": {next:.4}, "restore": {restore:.4}, "check": {check:.4}}}"#
    )?;
    Ok(())
}

/// Does something with every part and returns how many seconds it took.
fn on_all_cores(
    parts: &mut [Part],
    work: impl Fn(&mut Core, &mut Part) -> Result<(), Failure> + Sync,
) -> Result<f64, Failure> {
    let mut cores: Vec<Core> = Vec::new();
    cores.resize_with(rayon::current_num_threads(), Core::new);
    let cores: Vec<std::sync::Mutex<Core>> = cores.into_iter().map(std::sync::Mutex::new).collect();
    let core = || {
        let number = rayon::current_thread_index().unwrap_or_default();
        cores.get(number).ok_or("a thread too many")?.lock().map_err(|_| "another part failed")
    };
    let since = Instant::now();
    parts.par_iter_mut().with_max_len(1).try_for_each(|part| work(&mut *core()?, part))?;
    Ok(since.elapsed().as_secs_f64())
}
