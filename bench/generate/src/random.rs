//! Random numbers that are the same on every machine and in every version.

/// A splitmix64 generator: small, and good enough for data that only has to look real.
pub struct Random {
    state: u64,
}

impl Random {
    /// Returns the generator of `parts`: the same for the same parts in the same order.
    pub fn new(parts: &[u64]) -> Self {
        let mut random = Self { state: 0x6f72_6b76_6175_6c74 };
        for part in parts {
            random.state ^= *part;
            random.state = random.next();
        }
        random
    }

    /// Returns 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which is not zero. The bias is below 2^-32 and does not matter here.
    pub fn below(&mut self, end: u32) -> u32 {
        ((u64::from(end) * (self.next() >> 32)) >> 32) as u32
    }

    /// Returns a number below `end` that is small more often than large: the product of two even ones.
    pub fn skewed(&mut self, end: u32) -> u32 {
        let once = self.below(end);
        ((u64::from(once) * (self.next() >> 32)) >> 32) as u32
    }
}
