//! Segments: chunks compressed together (`docs/FORMAT.md`, section 7).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, Strategy, compress_bound};

use crate::buffers::Buffers;
use crate::format::envelope::Codec;
use crate::format::limits;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    small: Effort,
    first: Effort,
    then: Effort,
    bulk: Effort,
}

/// How hard one body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// A zstd level, 1 to 19.
    Level(i32),
    /// Faster than level 3 by half, and larger by some hundredths (`docs/PERFORMANCE.md`, "Compression level").
    Bulk,
}

/// Bytes up to which the first segment of a run, which is then all that a small night has, is compressed as hard as can be:
/// 40 ms.
const SMALL_BYTES: usize = 128 * 1024;
/// Bytes up to which it is compressed harder than others: 15 ms. Less than of one that is full, behind which others come.
const FIRST_BYTES: usize = 768 * 1024;
/// Segments of a run from which on time counts more than the last twentieth of the bytes: it is a first night.
const BULK_SEGMENTS: u64 = 16;
/// Plain bytes at which a segment is full: where the compression ratio stops improving (design, section 4), and, of a first
/// night, what the faster search for matches wants (`docs/PERFORMANCE.md`, "Compression level"). Small segments are less to
/// decode for the little that later nights still use of them.
const SEGMENT_BYTES: usize = 1024 * 1024;
const BULK_SEGMENT_BYTES: usize = 2 * 1024 * 1024;

/// Returns the plain bytes at which the `number`th segment of a run, from 0, is full.
pub(super) const fn segment_bytes(number: u64) -> usize {
    if number < BULK_SEGMENTS { SEGMENT_BYTES } else { BULK_SEGMENT_BYTES }
}

impl Compression {
    /// One zstd level for everything, 1 to 19.
    #[must_use]
    pub const fn of_level(level: i32) -> Self {
        let level = Effort::Level(level);
        Self { small: level, first: level, then: level, bulk: level }
    }

    /// Returns how hard the `number`th segment of a run, from 0, of `len` bytes is compressed.
    pub(super) const fn effort(&self, number: u64, len: usize) -> Effort {
        match number {
            0 if len <= SMALL_BYTES => self.small,
            0 if len <= FIRST_BYTES => self.first,
            0..BULK_SEGMENTS => self.then,
            _ => self.bulk,
        }
    }
}

impl Default for Compression {
    /// By how much there is to compress: level 19 for a night of a few dozen KiB, 9 for one of a MiB, else level 3, zstd's own
    /// default and the peers', for the first 16 MiB and then what costs least time.
    fn default() -> Self {
        Self { small: Effort::Level(19), first: Effort::Level(9), then: Effort::Level(3), bulk: Effort::Bulk }
    }
}

impl Effort {
    /// Returns zstd's parameters, the last of which win.
    fn parameters(self) -> Vec<CParameter> {
        match self {
            Self::Level(level) => vec![CParameter::CompressionLevel(level)],
            // Chosen by measurement: `docs/PERFORMANCE.md`. A table of 256 KiB, and all of a segment in reach.
            Self::Bulk => vec![
                CParameter::CompressionLevel(1),
                CParameter::Strategy(Strategy::ZSTD_fast),
                CParameter::WindowLog(21),
                CParameter::HashLog(16),
                CParameter::MinMatch(7),
            ],
        }
    }
}

/// How much of a body is tried before the rest of an incompressible one is stored.
const PROBE_BYTES: usize = 16 * 1024;
/// Bodies below this are not tried in part.
const PROBED_BYTES_LEAST: usize = 256 * 1024;
/// Gain below which a body is stored: 1/32.
const GAIN_SHIFT: usize = 5;
/// Encoders that wait to be used again, at most: about 1 MiB each.
const IDLE_MOST: usize = 16;

fn is_worth_it(encoded: usize, plain: usize) -> bool {
    encoded < plain - (plain >> GAIN_SHIFT)
}

/// A compressor.
struct Encoder {
    context: CCtx<'static>,
    /// What the context is set to.
    effort: Effort,
    /// Tells what is incompressible.
    probe: CCtx<'static>,
}

/// Bytes of buffers that wait to be filled with chunks, and with what is encoded of them: as many as are in flight.
const IDLE_PLAIN_BYTES_MAX: usize = 16 * 1024 * 1024;
const IDLE_ENCODED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Encodes bodies on any number of threads. Compressors are used again: their tables are dearer to get from the system
/// than to fill.
pub(super) struct Encoders {
    idle: Mutex<Vec<Encoder>>,
    /// Whether the body that was encoded last did not shrink: the next one is tried in part first.
    is_doubtful: AtomicBool,
    plain: Arc<Buffers>,
    /// Mostly address space: of as much as a body could become at worst, a third is ever written to.
    encoded: Arc<Buffers>,
}

impl Default for Encoders {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            is_doubtful: AtomicBool::default(),
            plain: Buffers::new(IDLE_PLAIN_BYTES_MAX),
            encoded: Buffers::new(IDLE_ENCODED_BYTES_MAX),
        }
    }
}

impl Encoders {
    /// Returns an empty buffer for a body of `len` bytes.
    pub(super) fn buffer(&self, len: usize) -> Vec<u8> {
        self.plain.take(len)
    }

    /// Encodes a body; what does not shrink is stored as it is. Behind a body that did not shrink, incompressible input is
    /// told by compressing a part of it from the middle fast, so that a stream of it costs a hundredth.
    #[must_use]
    pub(super) fn encode(&self, plain: Vec<u8>, effort: Effort) -> (Codec, Bytes) {
        let idle = self.lock().pop();
        // What an encoder for something else holds, tables of level 9 for one, is given back.
        let mut encoder = idle.filter(|idle| idle.effort == effort).unwrap_or_else(|| Encoder::new(effort));
        let mut encoded = self.encoded.take(compress_bound(plain.len()));
        let shrinks = encoder.encode(&plain, self.is_doubtful.load(Ordering::Relaxed), &mut encoded).is_some();
        self.is_doubtful.store(!shrinks, Ordering::Relaxed);
        let mut idle = self.lock();
        if idle.len() < IDLE_MOST {
            idle.push(encoder);
        }
        drop(idle);
        if shrinks {
            self.plain.give(plain);
            (Codec::Zstd, self.encoded.lend(encoded))
        } else {
            self.encoded.give(encoded);
            (Codec::Stored, self.plain.lend(plain))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Encoder>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Encoder {
    fn new(effort: Effort) -> Self {
        let with = |parameters: &[CParameter]| {
            let mut context = CCtx::create();
            for parameter in parameters {
                context.set_parameter(*parameter).expect("levels are 1 to 19, and the rest is what zstd knows");
            }
            context
        };
        Self { context: with(&effort.parameters()), effort, probe: with(&[CParameter::CompressionLevel(1)]) }
    }

    /// Encodes a body into `encoded`, which has room for it. `None` where it does not shrink or zstd fails.
    fn encode(&mut self, plain: &[u8], is_doubtful: bool, encoded: &mut Vec<u8>) -> Option<()> {
        if is_doubtful && plain.len() >= PROBED_BYTES_LEAST {
            // Halves of a segment may differ: a body is only stored where its start does not shrink either.
            let from_middle = plain.get(plain.len() / 2..).unwrap_or_default();
            if !self.probe(from_middle, encoded)? && !self.probe(plain, encoded)? {
                return None;
            }
        }
        let len = self.context.compress2(encoded, plain).ok()?;
        is_worth_it(len, plain.len()).then_some(())
    }

    /// Returns whether the first bytes of `plain` shrink.
    fn probe(&mut self, plain: &[u8], encoded: &mut Vec<u8>) -> Option<bool> {
        let tried = plain.get(..PROBE_BYTES).unwrap_or(plain);
        let len = self.probe.compress2(encoded, tried).ok()?;
        Some(is_worth_it(len, tried.len()))
    }
}

/// Encodes one body, with a compressor of its own.
#[must_use]
pub(super) fn encode(plain: Vec<u8>, level: i32) -> (Codec, Bytes) {
    Encoders::default().encode(plain, Effort::Level(level))
}

/// Decodes an opened body to exactly `plain_len` bytes, `None` where it is not exactly that: a wrong length,
/// a second frame, a skippable frame, a window above the limit.
#[must_use]
pub(super) fn decode(codec: Codec, encoded: Vec<u8>, plain_len: u64) -> Option<Vec<u8>> {
    let plain_len = usize::try_from(limits::check("segment", plain_len, limits::INDEX_BYTES_MAX).ok()?).ok()?;
    match codec {
        Codec::Stored => (encoded.len() == plain_len).then_some(encoded),
        Codec::Zstd => {
            // Exactly one frame: `bulk::decompress` would accept more of them, and skippable ones.
            let magic = encoded.get(..4)?;
            let frame = zstd::zstd_safe::find_frame_compressed_size(&encoded).ok()?;
            if magic != [0x28, 0xb5, 0x2f, 0xfd] || frame != encoded.len() {
                return None;
            }
            let plain = zstd::bulk::decompress(&encoded, plain_len).ok()?;
            (plain.len() == plain_len).then_some(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        crate::crypto::Entropy::fill(&crate::crypto::SystemEntropy, &mut out).unwrap();
        out
    }

    #[test]
    fn text_shrinks_and_noise_is_stored() {
        for (plain, codec) in
            [(vec![b'a'; 1 << 20], Codec::Zstd), (noise(1 << 20), Codec::Stored), (noise(40), Codec::Stored)]
        {
            let (found, encoded) = encode(plain.clone(), 3);
            assert_eq!(found, codec);
            assert_eq!(decode(found, encoded.to_vec(), plain.len() as u64), Some(plain));
        }
    }

    #[test]
    fn every_effort_gives_what_decodes_and_compressors_are_used_again() {
        let encoders = Encoders::default();
        let words = ["customer ", "invoice ", "shipped ", "pending "];
        let text: Vec<u8> = noise(200_000).iter().flat_map(|byte| words[usize::from(byte % 4)].bytes()).collect();
        let default = Compression::default();
        for number in [0, 1, 15, 16, 500] {
            let effort = default.effort(number, text.len());
            let (codec, encoded) = encoders.encode(text.clone(), effort);
            assert!(encoded.len() < text.len() / 4, "{effort:?}: {} bytes", encoded.len());
            assert_eq!(decode(codec, encoded.to_vec(), text.len() as u64).as_ref(), Some(&text));
        }
        assert_eq!(encoders.lock().len(), 1);
        assert_eq!(default.effort(0, 60_000), Effort::Level(19));
        assert_eq!(default.effort(0, 600_000), Effort::Level(9));
        assert_eq!(default.effort(0, 2_000_000), Effort::Level(3));
        assert_eq!(default.effort(500, 60_000), Effort::Bulk);
        assert_eq!(Compression::of_level(7).effort(0, 60_000), Effort::Level(7));
    }

    #[test]
    fn behind_noise_noise_is_told_by_a_part_and_text_is_still_compressed() {
        let encoders = Encoders::default();
        let mut half = noise(1 << 20);
        half[(1 << 19)..].fill(b'a');
        for (plain, shrinks) in [
            (noise(1 << 20), false),
            (noise(1 << 20), false),
            (vec![b'a'; 1 << 20], true),
            (noise(1 << 20), false),
            (half, true),
        ] {
            assert_eq!(encoders.encode(plain, Effort::Level(3)).0 == Codec::Zstd, shrinks);
        }
    }

    #[test]
    fn a_wrong_length_a_second_frame_and_a_skippable_frame_are_refused() {
        let frame = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        assert!(decode(Codec::Zstd, frame.clone(), 1000).is_some());
        assert_eq!(decode(Codec::Zstd, frame.clone(), 999), None);
        assert_eq!(decode(Codec::Zstd, frame.clone(), 1001), None);
        let twice = [frame.clone(), frame.clone()].concat();
        assert_eq!(decode(Codec::Zstd, twice, 2000), None);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0][..], &frame].concat();
        assert_eq!(decode(Codec::Zstd, skippable, 1000), None);
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert_eq!(decode(Codec::Zstd, bomb, 1 << 20), None);
        assert_eq!(decode(Codec::Stored, vec![1; 10], 11), None);
    }
}
