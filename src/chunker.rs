//! Cut points: FastCDC v2020 with a table of the repository's own.
//!
//! Pure. The cut points are part of the format (`docs/FORMAT.md`, section 9): the `fastcdc` crate is pinned
//! exactly, and golden cut points are in the tests.

mod pieces;

pub use pieces::PieceCutter;

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Sizes in bytes; even, `min < average < max`, as the config's decoder checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// No cut before this, the end of the stream or of a block excepted.
    pub min: usize,
    /// What cuts aim at.
    pub average: usize,
    /// Always a cut at this.
    pub max: usize,
}

/// Finds cut points.
pub struct Cutter {
    sizes: Sizes,
    mask_s: u64,
    mask_l: u64,
    gear: Box<[u64; 256]>,
    gear_ls: Box<[u64; 256]>,
}

/// Where records end at and behind the front of a window, as the stream's source told.
#[derive(Debug, Clone, Copy)]
pub struct Ends<'a> {
    /// The window's own place in the stream, in bytes.
    pub front: u64,
    /// Ascending places in the stream after which a record ends, all behind `front`.
    pub records: &'a [u64],
    /// The first place behind `front` after which a block ends: always a cut.
    pub block: Option<u64>,
}

impl Cutter {
    /// Makes a cutter with a secret gear table.
    #[must_use]
    pub fn new(sizes: Sizes, gear: &[u64; 256]) -> Self {
        // Level 1 is the crate's own default: sizes near the average, few forced cuts.
        let (mask_s, mask_l) = select_masks(sizes.average, Normalization::Level1);
        let mut gear_ls = Box::new(*gear);
        for value in gear_ls.iter_mut() {
            *value <<= 1;
        }
        Self { sizes, mask_s, mask_l, gear: Box::new(*gear), gear_ls }
    }

    /// Returns the largest chunk, in bytes: a window of this length always has a cut.
    #[must_use]
    pub const fn max(&self) -> usize {
        self.sizes.max
    }

    /// Returns the length of the chunk at the front of `window`, `None` where more bytes are needed first.
    ///
    /// The cut of FastCDC is moved to the next record end within the largest size: a record is then split
    /// only where it is long. What comes after the cut has no influence on it beyond that size, so equal
    /// content gives equal chunks.
    #[must_use]
    pub fn cut(&self, window: &[u8], ends: Ends<'_>, is_last: bool) -> Option<usize> {
        let place = |end: u64| usize::try_from(end - ends.front).unwrap_or(usize::MAX);
        let reach = ends.block.map_or(window.len(), place).min(self.sizes.max);
        let is_whole = is_last || ends.block.is_some() || window.len() >= self.sizes.max;
        if !is_whole || window.is_empty() {
            return None;
        }
        let window = window.get(..reach)?;
        let (_, cut) = cut_gear(
            window,
            self.sizes.min,
            self.sizes.average,
            self.sizes.max,
            self.mask_s,
            self.mask_l,
            self.mask_s << 1,
            self.mask_l << 1,
            self.gear.as_slice(),
            self.gear_ls.as_slice(),
        );
        let next = ends.records.partition_point(|end| place(*end) < cut);
        match ends.records.get(next).map(|end| place(*end)) {
            Some(end) if end <= reach => Some(end),
            _ => Some(cut),
        }
    }
}
