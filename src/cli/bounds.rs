//! Bounds of numbers: the same on the command line and in `orkvault.toml`, where a number that is too small would not be
//! noticed until it matters.

use std::ops::RangeInclusive;

use serde::de::{Error, Unexpected};
use serde::{Deserialize as _, Deserializer};

/// How long objects may be locked. Days.
pub(crate) const LOCK_DAYS: RangeInclusive<i64> = 1..=36_500;
/// Levels of zstd.
pub(crate) const COMPRESSION_LEVEL: RangeInclusive<i64> = 1..=19;
/// What the piece cache may take. MiB.
pub(crate) const PIECE_CACHE_MIB: RangeInclusive<i64> = 0..=1_048_576;
/// What a limit of bandwidth is, for messages.
pub(crate) const RATE_FORM: &str = "a number of MiB a second above 0, like 0.5";

/// Returns whether a limit of bandwidth can be meant: nothing passes a line of 0.
#[must_use]
pub(crate) fn is_rate(mib_per_sec: f64) -> bool {
    mib_per_sec > 0.0 && mib_per_sec.is_finite()
}

/// Reads days of a lock.
pub(crate) fn lock_days<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within(from, &LOCK_DAYS)
}

/// Reads a level of zstd.
pub(crate) fn compression_level<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
    within(from, &COMPRESSION_LEVEL)
}

/// Reads what the piece cache may take.
pub(crate) fn piece_cache_mib<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within(from, &PIECE_CACHE_MIB)
}

/// Reads a limit of bandwidth.
pub(crate) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let rate = f64::deserialize(from)?;
    if is_rate(rate) { Ok(Some(rate)) } else { Err(Error::invalid_value(OUTSIDE, &RATE_FORM)) }
}

/// What is said of a number in the place of the number.
const OUTSIDE: Unexpected<'_> = Unexpected::Other("a number out of bounds");

fn within<'de, D: Deserializer<'de>, N: TryFrom<i64>>(
    from: D,
    bounds: &RangeInclusive<i64>,
) -> Result<Option<N>, D::Error> {
    let number = Some(i64::deserialize(from)?).filter(|number| bounds.contains(number));
    match number.and_then(|number| N::try_from(number).ok()) {
        Some(number) => Ok(Some(number)),
        None => {
            let form = format!("a number from {} to {}", bounds.start(), bounds.end());
            Err(Error::invalid_value(OUTSIDE, &form.as_str()))
        }
    }
}
