//! Segments: chunks compressed together (`docs/FORMAT.md`, section 7).

use crate::format::envelope::Codec;
use crate::format::limits;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The zstd level of the first few segments of a run where they are small, 1 to 19: all that a small night has.
    pub small_level: i32,
    /// The zstd level of the first few others, 1 to 19.
    pub first_level: i32,
    /// The zstd level of the others, 1 to 19.
    pub level: i32,
}

/// Segments that a run can afford to compress harder: some hundredths of a second.
const FIRST_SEGMENTS: u64 = 4;
/// Bytes up to which a segment is small: 40 ms at the highest level.
const SMALL_BYTES: usize = 128 * 1024;

impl Compression {
    /// One level for everything.
    #[must_use]
    pub const fn of_level(level: i32) -> Self {
        Self { small_level: level, first_level: level, level }
    }

    /// Returns the level of the `number`th segment of a run, from 0, of `len` bytes.
    pub(super) const fn level_of(&self, number: u64, len: usize) -> i32 {
        match (number < FIRST_SEGMENTS, len <= SMALL_BYTES) {
            (true, true) => self.small_level,
            (true, false) => self.first_level,
            (false, _) => self.level,
        }
    }
}

impl Default for Compression {
    /// Level 3: zstd's own default, and the peers' (`docs/PERFORMANCE.md`). A night of a few segments costs 4 % less
    /// with level 9, one of a few dozen KiB again 4 % less with level 19.
    fn default() -> Self {
        Self { small_level: 19, first_level: 9, level: 3 }
    }
}

/// How much of a body is tried before the rest of an incompressible one is stored.
const PROBE_BYTES: usize = 64 * 1024;
/// Gain below which a body is stored: 1/32.
const GAIN_SHIFT: usize = 5;

fn is_worth_it(encoded: usize, plain: usize) -> bool {
    encoded < plain - (plain >> GAIN_SHIFT)
}

/// Encodes a body; what does not shrink is stored. Incompressible input is told by compressing a part of it
/// from the middle fast, so that it costs a tenth.
#[must_use]
pub(super) fn encode(plain: Vec<u8>, level: i32) -> (Codec, Vec<u8>) {
    if plain.len() > 4 * PROBE_BYTES {
        let middle = plain.len() / 2;
        let probe = plain.get(middle..middle + PROBE_BYTES).unwrap_or_default();
        if let Ok(tried) = zstd::bulk::compress(probe, 1)
            && !is_worth_it(tried.len(), probe.len())
        {
            // Halves of a segment may differ: a body is only stored where its start does not shrink either.
            let start = plain.get(..PROBE_BYTES).unwrap_or_default();
            if zstd::bulk::compress(start, 1).is_ok_and(|tried| !is_worth_it(tried.len(), start.len())) {
                return (Codec::Stored, plain);
            }
        }
    }
    match zstd::bulk::compress(&plain, level) {
        Ok(encoded) if is_worth_it(encoded.len(), plain.len()) => (Codec::Zstd, encoded),
        _ => (Codec::Stored, plain),
    }
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
            assert_eq!(decode(found, encoded, plain.len() as u64), Some(plain));
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
