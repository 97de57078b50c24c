//! The hash of a stream out of parts that were hashed by themselves, in any order and on any thread.
//!
//! BLAKE3 is a binary tree over blocks of 1 KiB, which its authors call chunks. What lies between two places that are
//! multiples of 1 KiB falls into whole subtrees, whose values say nothing about what lies elsewhere; of a part that begins or
//! ends in between, the bytes up to there are kept. (BLAKE3, section 2.1; `blake3::hazmat`. That the value of a
//! subtree is not the hash of anything does no harm here: only the root is ever compared with something.)

use blake3::CHUNK_LEN as BLOCK_BYTES;
use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, max_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::format::id::ContentHash;

/// What the hash of a stream needs of a part of it: some 2 KiB at most beside 40 bytes for each of a few dozen subtrees.
#[derive(Debug)]
pub struct HashedPart {
    at: u64,
    /// What lies before the first whole block.
    head: Vec<u8>,
    subtrees: Vec<Subtree>,
    /// What lies behind the last whole block.
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Subtree {
    /// Bytes: a power of two times a block.
    len: u64,
    value: ChainingValue,
}

impl HashedPart {
    /// Returns where it begins in its stream, in bytes.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Hashes the part of a stream of `stream_len` bytes that begins `at` bytes behind its start.
    #[must_use]
    pub fn new(at: u64, bytes: &[u8], stream_len: u64) -> Self {
        let block = BLOCK_BYTES as u64;
        let to_block = usize::try_from(at.next_multiple_of(block) - at).unwrap_or(BLOCK_BYTES);
        // A stream of one block is all root: there is no subtree in it.
        let head_len = if stream_len <= block { bytes.len() } else { to_block.min(bytes.len()) };
        let (head, mut rest) = bytes.split_at(head_len);
        let mut place = at + head.len() as u64;
        let mut subtrees = Vec::new();
        while rest.len() >= BLOCK_BYTES {
            let mut len = 1 << rest.len().ilog2();
            if let Some(most) = max_subtree_len(place) {
                len = len.min(usize::try_from(most).unwrap_or(len));
            } else if len as u64 >= stream_len {
                // The whole stream is the root, which is put together of two.
                len /= 2;
            }
            let (subtree, behind) = rest.split_at(len);
            let value = blake3::Hasher::new().set_input_offset(place).update(subtree).finalize_non_root();
            subtrees.push(Subtree { len: len as u64, value });
            place += len as u64;
            rest = behind;
        }
        Self { at, head: head.to_vec(), subtrees, tail: rest.to_vec() }
    }
}

/// Puts the hash of a stream together. Parts come in the order of the stream.
#[derive(Debug, Clone, Default)]
pub struct PartsHasher {
    /// Subtrees from the left, each but the last shorter than the one before it: the last two are merged when the next one
    /// comes, because the root is another merge.
    left: Vec<Subtree>,
    /// The last block, or the start of one.
    block: Vec<u8>,
    len: u64,
    is_broken: bool,
}

impl PartsHasher {
    /// Returns the bytes that were added.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Adds the next part. One that begins elsewhere than where the last one ended spoils the hash.
    pub fn add(&mut self, part: &HashedPart) {
        self.is_broken |= part.at != self.len;
        self.fill(&part.head);
        for subtree in &part.subtrees {
            self.close_block();
            self.push(*subtree);
            self.len += subtree.len;
        }
        self.fill(&part.tail);
    }

    fn fill(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.block.len() == BLOCK_BYTES {
                self.close_block();
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            self.len += now.len() as u64;
            bytes = later;
        }
    }

    /// The block is over, and not the last one.
    fn close_block(&mut self) {
        if self.block.is_empty() {
            return;
        }
        self.is_broken |= self.block.len() != BLOCK_BYTES;
        let value = self.block_value();
        self.push(Subtree { len: BLOCK_BYTES as u64, value });
        self.block.clear();
    }

    fn block_value(&self) -> ChainingValue {
        let at = (self.len - 1) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        blake3::Hasher::new().set_input_offset(at).update(&self.block).finalize_non_root()
    }

    fn push(&mut self, subtree: Subtree) {
        while let [.., left, right] = self.left.as_slice()
            && left.len == right.len
        {
            let value = merge_subtrees_non_root(&left.value, &right.value, Mode::Hash);
            let merged = Subtree { len: left.len + right.len, value };
            self.left.truncate(self.left.len() - 2);
            self.left.push(merged);
        }
        self.left.push(subtree);
    }

    /// Returns the hash of the stream, `None` where parts were missing or made for another length.
    #[must_use]
    pub fn finish(&self) -> Option<ContentHash> {
        if self.is_broken {
            return None;
        }
        if self.left.is_empty() {
            return Some(super::hash::content_hash(&self.block));
        }
        let mut last = self.clone();
        if !last.block.is_empty() {
            let value = last.block_value();
            last.push(Subtree { len: BLOCK_BYTES as u64, value });
        }
        let mut right = last.left.pop()?.value;
        loop {
            let left = last.left.pop()?.value;
            if last.left.is_empty() {
                let root = merge_subtrees_root(&left, &right, Mode::Hash);
                return Some(ContentHash::from_bytes(*root.as_bytes()));
            }
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * at % 251).unwrap()).collect()
    }

    /// The hash out of parts of the given lengths, over and over; hashed last to first.
    fn by_parts(bytes: &[u8], lens: &[usize]) -> Option<ContentHash> {
        let (mut places, mut at) = (Vec::new(), 0);
        for len in lens.iter().cycle() {
            if at == bytes.len() {
                break;
            }
            let len = (*len).min(bytes.len() - at);
            places.push((at, len));
            at += len;
        }
        let hashed =
            |(at, len): &(usize, usize)| HashedPart::new(*at as u64, &bytes[*at..*at + *len], bytes.len() as u64);
        let mut parts: Vec<HashedPart> = places.iter().rev().map(hashed).collect();
        let mut hasher = PartsHasher::default();
        while let Some(part) = parts.pop() {
            hasher.add(&part);
        }
        assert_eq!(hasher.bytes(), bytes.len() as u64);
        hasher.finish()
    }

    #[test]
    fn parts_give_the_hash_of_the_whole() {
        let mut lens = vec![0, 1, 2, 1000, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 3073, 4096, 5000, 65_536];
        lens.extend([100_000, 131_072, 131_073, 262_143, 300_000]);
        let cuts: [&[usize]; 12] = [
            &[usize::MAX],
            &[1024],
            &[1],
            &[1023],
            &[1025],
            &[2048],
            &[4096, 1, 1023],
            &[16_384],
            &[1, 1024, 2048, 7],
            &[65_536, 3, 512],
            &[70_000, 10, 5000, 1],
            &[131_072],
        ];
        for len in lens {
            let bytes = stream(len);
            for cut in cuts {
                if len > 10_000 && cut.iter().all(|cut| *cut < 1000) {
                    continue;
                }
                assert_eq!(by_parts(&bytes, cut), Some(super::super::hash::content_hash(&bytes)), "{len} by {cut:?}");
            }
        }
    }

    #[test]
    fn what_is_missing_changed_or_of_another_length_is_not_the_hash() {
        let bytes = stream(10_000);
        let hash = super::super::hash::content_hash(&bytes);
        let finish = |parts: &[HashedPart]| {
            let mut hasher = PartsHasher::default();
            parts.iter().for_each(|part| hasher.add(part));
            hasher.finish()
        };
        let part = |from: usize, to: usize, len| HashedPart::new(from as u64, &bytes[from..to], len);
        assert_eq!(finish(&[part(0, 5000, 10_000), part(5000, 10_000, 10_000)]), Some(hash));
        assert_eq!(finish(&[part(0, 5000, 10_000), part(5120, 10_000, 10_000)]), None);
        assert_eq!(finish(&[part(5000, 10_000, 10_000)]), None);
        assert_ne!(finish(&[part(0, 5000, 10_000)]), Some(hash));
        let mut other = bytes.clone();
        other[7000] ^= 1;
        let changed = HashedPart::new(5000, &other[5000..], 10_000);
        assert_ne!(finish(&[part(0, 5000, 10_000), changed]), Some(hash));
        // One subtree that was not known to be all there is.
        assert_eq!(finish(&[part(0, 4096, 10_000)]), None);
    }
}
