//! Tells most chunks that are not in the index without asking the database: a first night is made of them.
//!
//! A Bloom filter in blocks of a cache line. Its keys are the first eight bytes of chunk ids, which are keyed hashes and
//! so evenly spread. It never says of a chunk that was added that it is not there.

use crate::format::id::ChunkId;

/// Words of a block: one bit of each is set for a key.
const BLOCK_WORDS: usize = 8;
const BLOCK_BYTES: usize = 8 * BLOCK_WORDS;
/// Bits for every key: one unknown chunk in some 300 is looked for in vain.
const BITS_PER_KEY: u64 = 12;
/// Keys of the largest filter, which takes 48 MiB. With more chunks there is none.
pub(super) const KEYS_MAX: u64 = 1 << 25;
/// Spreads a key over all bits (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the database and the filter know a chunk by: the first eight bytes of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Prefix(pub(super) u64);

impl Prefix {
    pub(super) fn of(chunk: &ChunkId) -> Self {
        let [first, second, third, fourth, fifth, sixth, seventh, eighth, ..] = *chunk.as_bytes();
        Self(u64::from_be_bytes([first, second, third, fourth, fifth, sixth, seventh, eighth]))
    }

    /// Returns the number that the database has for it: the same bits with a sign, in another order.
    pub(super) fn signed(self) -> i64 {
        self.0.cast_signed()
    }

    pub(super) fn from_signed(stored: i64) -> Self {
        Self(stored.cast_unsigned())
    }
}

/// See the head of this file.
pub(super) struct Filter {
    blocks: Vec<[u64; BLOCK_WORDS]>,
    keys: u64,
    keys_most: u64,
}

impl Filter {
    /// Makes an empty filter with room for `keys`, `None` where that would be too large.
    pub(super) fn with_room(keys: u64) -> Option<Self> {
        if keys > KEYS_MAX {
            return None;
        }
        let blocks = (keys * BITS_PER_KEY).div_ceil(8 * BLOCK_BYTES as u64).max(1);
        let blocks = vec![[0; BLOCK_WORDS]; usize::try_from(blocks).ok()?];
        Some(Self { blocks, keys: 0, keys_most: keys })
    }

    /// Returns whether more keys would make it useless.
    pub(super) fn is_full(&self) -> bool {
        self.keys >= self.keys_most
    }

    fn block(&self, prefix: Prefix) -> usize {
        // The high half of a product: evenly spread over any number of blocks.
        let product = u128::from(prefix.0) * self.blocks.len() as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    /// Returns the bit of each word.
    fn bits(prefix: Prefix) -> [u64; BLOCK_WORDS] {
        let mut left = prefix.0.wrapping_mul(SPREAD);
        std::array::from_fn(|_| {
            let bit = left >> 58;
            left <<= 6;
            1 << bit
        })
    }

    pub(super) fn add(&mut self, prefix: Prefix) {
        let place = self.block(prefix);
        if let Some(block) = self.blocks.get_mut(place) {
            for (word, bit) in block.iter_mut().zip(Self::bits(prefix)) {
                *word |= bit;
            }
        }
        self.keys += 1;
    }

    /// Returns false only where the key was never added.
    pub(super) fn may_have(&self, prefix: Prefix) -> bool {
        let block = self.blocks.get(self.block(prefix));
        block.is_none_or(|block| block.iter().zip(Self::bits(prefix)).all(|(word, bit)| word & bit != 0))
    }

    /// Returns its bytes: keys, room, blocks.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.blocks.len() * BLOCK_BYTES);
        for number in [self.keys, self.keys_most] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for word in self.blocks.iter().flatten() {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// Reads what [`Filter::encode`] wrote, `None` where it is not that.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (keys, rest) = bytes.split_first_chunk::<8>()?;
        let (keys_most, rest) = rest.split_first_chunk::<8>()?;
        let mut filter = Self::with_room(u64::from_le_bytes(*keys_most))?;
        filter.keys = u64::from_le_bytes(*keys);
        if rest.len() != filter.blocks.len() * BLOCK_BYTES {
            return None;
        }
        for (word, bytes) in filter.blocks.iter_mut().flatten().zip(rest.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(filter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spread numbers, the same each time.
    fn prefixes(from: u64, count: u64) -> impl Iterator<Item = Prefix> {
        (from..from + count).map(|number| {
            let mixed = (number ^ (number >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Prefix(mixed ^ (mixed >> 31))
        })
    }

    #[test]
    fn what_was_added_is_never_denied_and_little_else_is_affirmed() {
        for count in [0, 1, 100, 50_000] {
            let mut filter = Filter::with_room(count).unwrap();
            for prefix in prefixes(1, count) {
                filter.add(prefix);
            }
            assert!(filter.is_full());
            assert!(prefixes(1, count).all(|prefix| filter.may_have(prefix)));
            let wrong = prefixes(1_000_000, 100_000).filter(|prefix| filter.may_have(*prefix)).count();
            assert!(wrong < 1_000, "{wrong} of 100,000 with {count} keys");
            let again = Filter::decode(&filter.encode()).unwrap();
            assert_eq!((again.blocks, again.keys), (filter.blocks, filter.keys));
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let whole = Filter::with_room(1000).unwrap().encode();
        assert!(Filter::decode(&whole[..whole.len() - 1]).is_none());
        assert!(Filter::decode(&whole[..8]).is_none());
        assert!(Filter::decode(&[whole.as_slice(), &[0]].concat()).is_none());
        assert!(Filter::decode(&[0xff; 16]).is_none());
        assert!(Filter::with_room(KEYS_MAX + 1).is_none());
    }

    #[test]
    fn a_prefix_survives_the_database() {
        for number in [0, 1, u64::MAX, 1 << 63] {
            assert_eq!(Prefix::from_signed(Prefix(number).signed()), Prefix(number));
        }
        let chunk = ChunkId::from_bytes(std::array::from_fn(|place| u8::try_from(place).unwrap()));
        assert_eq!(Prefix::of(&chunk), Prefix(0x0001_0203_0405_0607));
    }
}
