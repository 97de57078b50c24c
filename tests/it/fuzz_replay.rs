//! Replays the fuzz targets on every run: the committed seeds, and many deterministic mutations of each.
//!
//! A panic or an encoding that differs from what was decoded fails; so do a target without a seed that is
//! accepted, and seeds of no target.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Mutations of each kind that one seed gets, however long it is.
const MUTATIONS_MOST: usize = 400;

/// A small generator (xorshift64*): the same numbers on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % end.max(1)
    }
}

/// The files of a target's directory, by name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut found: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("no seeds for {target}: {error}"))
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn run(target: (&str, targets::Target), seed: &str, what: &str, bytes: &[u8]) -> bool {
    let (name, body) = target;
    catch_unwind(AssertUnwindSafe(|| body(bytes))).unwrap_or_else(|_| {
        let hex: String = bytes.iter().take(4096).map(|byte| format!("{byte:02x}")).collect();
        panic!("{name}: seed {seed}, {what}: {hex}")
    })
}

/// Flips, cuts, doublings, insertions, extreme values; the last bytes of another seed.
fn mutations(seed: &[u8], others: &[(String, Vec<u8>)]) -> Vec<(&'static str, Vec<u8>)> {
    let mut numbers = Numbers(0x6f72_6b76_6175_6c74 ^ seed.len() as u64);
    let mut out = Vec::new();
    let step = (seed.len() * 8).div_ceil(MUTATIONS_MOST).max(1);
    for bit in (0..seed.len() * 8).step_by(step) {
        let mut changed = seed.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        out.push(("a bit flipped", changed));
    }
    let step = seed.len().div_ceil(MUTATIONS_MOST).max(1);
    out.extend((0..seed.len()).step_by(step).map(|len| ("cut", seed[..len].to_vec())));
    out.extend((0..seed.len()).step_by(step).map(|from| ("the front cut off", seed[from..].to_vec())));
    for _ in 0..MUTATIONS_MOST {
        let from = numbers.below(seed.len());
        let to = from + numbers.below((seed.len() - from + 1).min(64));
        let doubled = [&seed[..to], &seed[from..]].concat();
        out.push(("a range doubled", doubled));
        let extreme = [0, 0x7f, 0x80, 0xff][numbers.below(4)];
        let mut changed = seed.to_vec();
        for byte in changed.iter_mut().skip(from).take(1 + numbers.below(9)) {
            *byte = extreme;
        }
        out.push(("extreme values", changed));
        let inserted = vec![extreme; 1 + numbers.below(8)];
        out.push(("an insertion", [&seed[..from], &inserted, &seed[from..]].concat()));
        let (_, other) = &others[numbers.below(others.len())];
        let tail = &other[numbers.below(other.len())..];
        out.push(("the end of another", [&seed[..from], tail].concat()));
        let mut noise = seed.to_vec();
        for _ in 0..1 + numbers.below(4) {
            let at = numbers.below(noise.len());
            if let Some(byte) = noise.get_mut(at) {
                *byte = numbers.below(256).to_le_bytes()[0];
            }
        }
        out.push(("noise", noise));
    }
    out
}

#[test]
fn every_seed_and_its_mutations_replay() {
    for target in targets::TARGETS.iter().copied() {
        let seeds = seeds(target.0);
        let mut accepted = 0;
        let mut refused = 0;
        run(target, "none", "no bytes", &[]);
        for (name, bytes) in &seeds {
            accepted += usize::from(run(target, name, "as it is", bytes));
            for (what, mutated) in mutations(bytes, &seeds) {
                refused += usize::from(!run(target, name, what, &mutated));
            }
        }
        // The chunker takes every stream: nothing of it is refused but what is too short to choose.
        assert!(accepted > 0 && refused > 0, "{}: {accepted} seeds accepted, {refused} mutations refused", target.0);
    }
}

#[test]
fn seeds_belong_to_targets_and_targets_are_built() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed = |directory: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(top.join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("seeds"), names);
    assert_eq!(listed("fuzz_targets"), names);
    let manifest = std::fs::read_to_string(top.join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        let target = std::fs::read_to_string(top.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(target.contains(&format!("targets::{name}(data)")), "{name} calls another body");
    }
}
