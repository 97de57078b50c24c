//! Padmé: stored sizes that say little (`docs/FORMAT.md`, section 3).
//!
//! Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs" (2019),
//! section 4: at most 12 % is added, 3 % from 16 MiB on, and only O(log log size) bits of the size leak.

/// Returns the smallest Padmé size that is not below `len`.
#[must_use]
pub fn padded_len(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let exponent_bits = exponent.ilog2() + 1;
    let mask = (1_u64 << exponent.saturating_sub(exponent_bits)) - 1;
    (len + mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_padded_size_is_a_fixed_point_and_little_larger() {
        for len in (0..100_000).chain((1..48).map(|power| (1_u64 << power) + 12_345)) {
            let padded = padded_len(len);
            assert!(padded >= len && padded_len(padded) == padded);
            assert!(padded - len <= len.div_ceil(8), "{len} became {padded}");
        }
        assert_eq!(padded_len(9), 10);
    }
}
