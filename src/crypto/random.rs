//! Randomness as an argument, and a hedge against a bad source of it.

use super::Error;
use super::secret::SecretKey;

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `out`, or fails: never returns fewer or predictable bytes silently.
    fn fill(&self, out: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(out).map_err(|_| Error::NoEntropy)
    }
}

/// Returns 32 fresh random bytes.
pub fn random_32(entropy: &dyn Entropy) -> Result<[u8; 32], Error> {
    let mut out = [0; 32];
    entropy.fill(&mut out)?;
    Ok(out)
}

/// Returns bytes that are unpredictable as long as either `entropy` or the hedge key is, and that differ
/// for different `parts` even where `entropy` repeats itself (a cloned VM).
pub(super) fn hedged(
    entropy: &dyn Entropy,
    hedge: &SecretKey,
    label: &str,
    parts: &[&[u8]],
) -> Result<HedgedBytes, Error> {
    let mut hasher = blake3::Hasher::new_keyed(hedge.bytes());
    hasher.update(&(label.len() as u64).to_le_bytes());
    hasher.update(label.as_bytes());
    hasher.update(&random_32(entropy)?);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(HedgedBytes(hasher.finalize_xof()))
}

/// A generator for libraries that want one, seeded by [`hedged`].
pub(super) struct HedgedBytes(blake3::OutputReader);

impl HedgedBytes {
    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill(&mut out);
        out
    }
}

impl rand_core::TryRng for HedgedBytes {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(self.array()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(self.array()))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(dst);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for HedgedBytes {}
