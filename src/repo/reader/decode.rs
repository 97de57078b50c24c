//! Sealed segments become plain ones: opened, decompressed, every chunk's id recomputed. Buffers and decompressors are
//! used again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use zstd::bulk::Decompressor;

use crate::buffers::Buffers;
use crate::crypto::keys::ChunkIdKey;
use crate::crypto::pack::DataKey;
use crate::format::envelope::Codec;
use crate::format::limits;
use crate::format::object::ObjectKey;
use crate::repo::Error;
use crate::repo::index::Segment;

/// First bytes of every zstd frame that is not skippable.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A decompressor and the opened, still encoded bytes of the segment that it works on.
struct Decoder {
    decompressor: Decompressor<'static>,
    encoded: Vec<u8>,
}

/// Bytes of buffers for decoded segments that wait to be used again.
const IDLE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Decodes segments on any number of threads.
pub(in crate::repo) struct Decoders {
    idle: Mutex<Vec<Decoder>>,
    buffers: Arc<Buffers>,
}

impl Default for Decoders {
    fn default() -> Self {
        Self { idle: Mutex::default(), buffers: Buffers::new(IDLE_BYTES_MAX) }
    }
}

impl Decoders {
    /// Opens and decodes a segment and recomputes the id of every chunk in it.
    pub(in crate::repo) fn open(
        &self,
        segment: &Segment,
        key: &DataKey,
        sealed: &[u8],
        ids: &ChunkIdKey,
    ) -> Result<Bytes, Error> {
        let idle = self.lock().pop();
        let mut decoder =
            idle.unwrap_or_else(|| Decoder { decompressor: Decompressor::default(), encoded: Vec::new() });
        let opened = self.open_with(&mut decoder, segment, key, sealed, ids);
        // As many as there are threads that decode at once.
        self.lock().push(decoder);
        opened
    }

    fn open_with(
        &self,
        decoder: &mut Decoder,
        segment: &Segment,
        key: &DataKey,
        sealed: &[u8],
        ids: &ChunkIdKey,
    ) -> Result<Bytes, Error> {
        let object = || ObjectKey::Pack(segment.pack).to_string();
        key.open_segment_into(&segment.record, sealed, &mut decoder.encoded)
            .map_err(|source| Error::Object { object: object(), source })?;
        let plain_len = segment.record.plain_len();
        let plain = self.decompress(decoder, segment.codec(), plain_len).ok_or(Error::SegmentDamaged {
            pack: segment.pack,
            segment: segment.ordinal,
            plain_len,
        })?;
        let mut rest = plain.as_slice();
        for record in &segment.record.chunks {
            let (chunk, tail) = rest.split_at(record.len as usize);
            if ids.id(chunk) != record.id {
                return Err(Error::ChunkDamaged { chunk: record.id, pack: segment.pack });
            }
            rest = tail;
        }
        Ok(self.buffers.lend(plain))
    }

    /// Returns exactly `plain_len` bytes, `None` where it is not exactly that: a wrong length, a second frame, a
    /// skippable frame, a window above the limit.
    fn decompress(&self, decoder: &mut Decoder, codec: Codec, plain_len: u64) -> Option<Vec<u8>> {
        let plain_len = usize::try_from(limits::check("segment", plain_len, limits::SEGMENT_BYTES_MAX).ok()?).ok()?;
        let mut plain = self.buffers.take(plain_len);
        let encoded = decoder.encoded.as_slice();
        match codec {
            Codec::Stored => plain.extend_from_slice(encoded.get(..plain_len.min(encoded.len()))?),
            Codec::Zstd => {
                // Exactly one frame: the decompressor would accept more of them, and skippable ones.
                let frame = zstd::zstd_safe::find_frame_compressed_size(encoded).ok()?;
                if !encoded.starts_with(ZSTD_MAGIC) || frame != encoded.len() {
                    return None;
                }
                decoder.decompressor.decompress_to_buffer(encoded, &mut plain).ok()?;
            }
        }
        let is_whole = plain.len() == plain_len && (codec == Codec::Zstd || encoded.len() == plain_len);
        is_whole.then_some(plain)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Decoder>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(codec: Codec, encoded: Vec<u8>, plain_len: u64) -> Option<Vec<u8>> {
        let mut decoder = Decoder { decompressor: Decompressor::default(), encoded };
        Decoders::default().decompress(&mut decoder, codec, plain_len)
    }

    #[test]
    fn a_wrong_length_a_second_frame_and_a_skippable_frame_are_refused() {
        let frame = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        assert_eq!(decoded(Codec::Zstd, frame.clone(), 1000), Some(vec![7; 1000]));
        assert_eq!(decoded(Codec::Zstd, frame.clone(), 999), None);
        assert_eq!(decoded(Codec::Zstd, frame.clone(), 1001), None);
        let twice = [frame.clone(), frame.clone()].concat();
        assert_eq!(decoded(Codec::Zstd, twice, 2000), None);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0][..], &frame].concat();
        assert_eq!(decoded(Codec::Zstd, skippable, 1000), None);
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert_eq!(decoded(Codec::Zstd, bomb, 1 << 20), None);
        assert_eq!(decoded(Codec::Stored, vec![1; 10], 11), None);
        assert_eq!(decoded(Codec::Stored, vec![1; 10], 9), None);
        assert_eq!(decoded(Codec::Stored, vec![1; 10], 10), Some(vec![1; 10]));
    }
}
