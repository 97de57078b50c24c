//! Builds one pack after the other out of encoded segments (`docs/FORMAT.md`, section 7).

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::keyring::Keyring;
use crate::buffers::Buffers;
use crate::crypto::hash;
use crate::crypto::pack::PackSealer;
use crate::format::envelope::{Codec, TAG_LEN};
use crate::format::id::PackId;
use crate::format::index::PackRecord;
use crate::format::limits;
use crate::format::pack::{
    ChunkRecord, DIRECTORY_HEAD_LEN, DIRECTORY_TAIL_LEN, Directory, PackHeader, PackKind, SegmentRecord,
};
use crate::format::padme::padded_len;

/// A pack is closed before it would grow beyond this, directory and all. The one that is being filled and those that
/// are being put are in memory, however slow the store is; into a bucket each is one request.
pub(super) const PACK_BYTES_TARGET: usize = 16 * 1024 * 1024;
/// From here on a pack is closed where little padding is lost.
const PACK_BYTES_LEAST: usize = PACK_BYTES_TARGET / 4 * 3;
/// Segments after which a pack is closed: bounds the directory of packs full of tiny segments.
const SEGMENTS_TARGET: usize = 4096;
/// Chunks after which a pack is closed: bounds the directory of packs full of tiny chunks to about 4 MiB.
const CHUNKS_TARGET: usize = 128 * 1024;

const _: () = assert!(PACK_BYTES_TARGET as u64 + limits::SEGMENT_STORED_BYTES_MAX < limits::PACK_BYTES_MAX);

/// A segment, encoded and not yet sealed.
#[derive(Debug)]
pub(super) struct EncodedSegment {
    /// How `bytes` are encoded.
    pub(super) codec: Codec,
    /// The encoded bytes.
    pub(super) bytes: Bytes,
    /// What is in it.
    pub(super) chunks: Vec<ChunkRecord>,
}

/// A finished pack, ready to be put.
#[derive(Debug)]
pub(super) struct Pack {
    /// What the index says of it.
    pub(super) record: PackRecord,
    /// Its bytes, in one piece: whoever puts them need not copy them together.
    pub(super) body: Bytes,
}

struct Open {
    sealer: PackSealer,
    header: Vec<u8>,
    directory: Directory,
    /// Chunks in the directory.
    chunks: usize,
    body: Vec<u8>,
    hasher: hash::StreamHasher,
}

/// Fills packs of one kind. Dropped unfinished, it leaves nothing.
#[must_use]
pub(super) struct PackWriter {
    keyring: Arc<Keyring>,
    kind: PackKind,
    bodies: Arc<Buffers>,
    open: Option<Open>,
}

impl PackWriter {
    /// Starts without a pack. What packs are filled in comes from `bodies` and goes back there when they were put.
    pub(super) fn new(keyring: Arc<Keyring>, kind: PackKind, bodies: Arc<Buffers>) -> Self {
        Self { keyring, kind, bodies, open: None }
    }

    /// Adds a segment; returns the pack that is full now, with this segment or without it.
    pub(super) fn add(&mut self, segment: EncodedSegment) -> Result<Option<Pack>, Error> {
        let full = match &self.open {
            Some(open) => {
                open.len_with(&segment) > PACK_BYTES_TARGET
                    || open.directory.segments.len() >= SEGMENTS_TARGET
                    || open.chunks + segment.chunks.len() > CHUNKS_TARGET
            }
            None => false,
        };
        let finished = if full { self.finish()? } else { None };
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                self.open.insert(Open::new(&self.keyring, self.kind, self.bodies.take(PACK_BYTES_TARGET), &segment)?)
            }
        };
        open.add(segment);
        if finished.is_none() && is_well_filled(open.len_of(0, 0), open.directory.segments.len()) {
            return self.finish();
        }
        Ok(finished)
    }

    /// Returns the bytes of the pack that is being filled.
    pub(super) fn bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.body.len())
    }

    /// Closes the pack that is being filled and returns it, `None` where there is none.
    pub(super) fn finish(&mut self) -> Result<Option<Pack>, Error> {
        self.open.take().map(|open| open.finish(&self.keyring, self.kind, &self.bodies)).transpose()
    }
}

impl Open {
    /// Begins a pack in `body`: address space, of which only what is written is memory. No pack outgrows it, so none is
    /// moved.
    fn new(keyring: &Keyring, kind: PackKind, mut body: Vec<u8>, first: &EncodedSegment) -> Result<Self, Error> {
        let keys = keyring.data()?;
        let content = first.chunks.first().map_or([0; 32], |chunk| *chunk.id.as_bytes());
        let (sealer, entry) = PackSealer::new(keys, &keyring.repository, kind, &content, keyring.entropy.as_ref())?;
        let header = PackHeader { kind, namespace: keys.namespace(), keys: vec![entry] }.encode();
        let mut hasher = hash::StreamHasher::default();
        hasher.update(&header);
        body.extend_from_slice(&header);
        Ok(Self { sealer, body, header, directory: Directory::default(), chunks: 0, hasher })
    }

    /// Returns the length, before padding, of the pack with this segment behind those that it has. Up to the
    /// target that is padded to the target; one byte more would cost a thirty-second.
    fn len_with(&self, segment: &EncodedSegment) -> usize {
        self.len_of(1, segment.chunks.len()) + segment.bytes.len() + TAG_LEN
    }

    /// Returns the length, before padding, with a directory of so many segments and chunks more, at most.
    fn len_of(&self, segments: usize, chunks: usize) -> usize {
        let directory = Directory::len_most(self.directory.segments.len() + segments, self.chunks + chunks);
        let sealed = usize::try_from(padded_len(directory as u64)).expect("directories are at most 16 MiB") + TAG_LEN;
        self.body.len() + DIRECTORY_HEAD_LEN + sealed + DIRECTORY_TAIL_LEN
    }

    fn add(&mut self, segment: EncodedSegment) {
        let plain_len = segment.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        self.chunks += segment.chunks.len();
        let counter = self.directory.segments.len() as u64;
        let start = self.body.len();
        let codec = segment.codec.code();
        let nonce = self.sealer.seal_segment(counter, codec, plain_len, &segment.bytes, &mut self.body);
        let sealed = self.body.get(start..).unwrap_or_default();
        self.hasher.update(sealed);
        self.directory.segments.push(SegmentRecord {
            stored_len: u32::try_from(sealed.len()).expect("a segment is at most 8 MiB and a tag"),
            codec: segment.codec,
            key: 0,
            nonce,
            chunks: segment.chunks,
        });
    }

    fn append(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.body.extend_from_slice(bytes);
    }

    fn finish(mut self, keyring: &Keyring, kind: PackKind, bodies: &Arc<Buffers>) -> Result<Pack, Error> {
        let plain = self.directory.encode_padded();
        let entropy = keyring.entropy.as_ref();
        let sealed = self.sealer.seal_directory(&self.header, &plain, entropy)?;
        debug_assert_eq!(sealed.len(), DIRECTORY_HEAD_LEN + plain.len() + TAG_LEN);
        let without_padding = self.body.len() + sealed.len() + DIRECTORY_TAIL_LEN;
        let whole = usize::try_from(padded_len(without_padding as u64)).expect("packs are at most 64 MiB");
        let padding = self.sealer.padding(whole - without_padding, entropy)?;
        self.append(&padding);
        let sealed_len = u32::try_from(sealed.len()).expect("directories are at most 16 MiB");
        self.append(&sealed);
        self.append(&sealed_len.to_le_bytes());
        let record = PackRecord {
            id: PackId::from_bytes(*self.hasher.finish().as_bytes()),
            kind,
            stored_len: u32::try_from(self.body.len()).expect("packs are at most 64 MiB"),
            header_len: u32::try_from(self.header.len()).expect("headers are at most 20 KiB"),
            directory: self.directory,
        };
        Ok(Pack { record, body: bodies.lend(self.body) })
    }
}

/// Returns whether a pack of `len` bytes with so many segments loses so little to padding that it is not worth waiting for a
/// better end. Where what is lost is anything up to one step, the best of `n` more ends loses about 2 / (n + 3) of a step
/// (optimal stopping: v(1) = 1 / 2, v(n + 1) = v(n) - v(n)^2 / 2).
fn is_well_filled(len: usize, segments: usize) -> bool {
    if !(PACK_BYTES_LEAST..=PACK_BYTES_TARGET).contains(&len) {
        return false;
    }
    let padded = padded_len(len as u64);
    let step = padded_len(padded + 1) - padded;
    let ends_to_come = (PACK_BYTES_TARGET - len) * segments / len;
    (padded - len as u64) * (ends_to_come as u64 + 3) <= 2 * step
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the share of padding in packs that are filled with many segments of about `segment` bytes.
    fn padding_share(segment: usize, is_closed: impl Fn(usize, usize) -> bool) -> f64 {
        let (mut state, mut padded, mut used) = (7_u64, 0, 0);
        let (mut len, mut segments) = (0, 0);
        for _ in 0..20_000 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let next = segment * 3 / 4 + usize::try_from(state >> 33).unwrap() % (segment / 2);
            if len + next > PACK_BYTES_TARGET || is_closed(len, segments) {
                assert!(len > PACK_BYTES_LEAST, "packs are not small");
                padded += padded_len(len as u64);
                used += len as u64;
                (len, segments) = (0, 0);
            }
            len += next;
            segments += 1;
        }
        (padded - used) as f64 / used as f64
    }

    #[test]
    fn packs_end_where_little_padding_is_lost() {
        for segment in [200_000, 400_000, 700_000] {
            let (with, without) = (padding_share(segment, is_well_filled), padding_share(segment, |_, _| false));
            assert!(with < without * 0.6, "segments of {segment} bytes: {with} of {without}");
        }
    }
}
