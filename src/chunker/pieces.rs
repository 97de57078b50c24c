//! Pieces: the finest units in which a stream is compared with yesterday's.
//!
//! Pure, and no part of the stored format: two programs that cut pieces differently find less of each
//! other's, and nothing else happens. A piece ends where a record ends, so that a changed record costs itself
//! and no neighbour; a stream without records is cut by FastCDC.

use super::{Cutter, Ends, Sizes};

/// A record of at least this many bytes is a piece of its own; shorter ones ride with their neighbours.
const RECORD_BYTES_LEAST: usize = 256;
/// A record above this is cut further.
const RECORD_BYTES_MOST: usize = 4096;
/// Cuts of a stream without records: a change costs about one of them.
const FINE: Sizes = Sizes { min: 128, average: 512, max: 2048 };
/// Cuts of a long record.
const COARSE: Sizes = Sizes { min: 512, average: 2048, max: 8192 };
/// Bytes at either end of a short record that decide whether a piece ends there.
const PROBE_BYTES: usize = 16;

/// Cuts chunks into pieces.
pub struct PieceCutter {
    fine: Cutter,
    coarse: Cutter,
}

impl PieceCutter {
    /// Makes a cutter with a secret gear table.
    #[must_use]
    pub fn new(gear: &[u64; 256]) -> Self {
        Self { fine: Cutter::new(FINE, gear), coarse: Cutter::new(COARSE, gear) }
    }

    /// Appends the lengths of the pieces of `chunk`, in bytes; they add up to its length. `records` are the
    /// ascending places, counted from the start of the chunk, after which a record ends: none for a stream
    /// that has no records.
    pub fn cut(&self, chunk: &[u8], records: impl Iterator<Item = usize>, lens: &mut Vec<u32>) {
        let mut rest = chunk;
        let (mut at, mut in_rest) = (0, 0);
        let mut has_records = false;
        for end in records.take_while(|end| *end <= chunk.len()) {
            has_records = true;
            let record = chunk.get(at..end).unwrap_or_default();
            in_rest += record.len();
            at = end;
            if in_rest >= RECORD_BYTES_LEAST || ends_piece(record) {
                let (piece, tail) = rest.split_at_checked(in_rest).unwrap_or((rest, &[]));
                self.piece(piece, &self.coarse, lens);
                (rest, in_rest) = (tail, 0);
            }
        }
        self.piece(rest, if has_records { &self.coarse } else { &self.fine }, lens);
    }

    fn piece(&self, mut rest: &[u8], cutter: &Cutter, lens: &mut Vec<u32>) {
        let most = if std::ptr::eq(cutter, &raw const self.coarse) { RECORD_BYTES_MOST } else { FINE.min };
        while !rest.is_empty() {
            let ends = Ends { front: 0, records: &[], block: None };
            let len = if rest.len() <= most { rest.len() } else { cutter.cut(rest, ends, true).unwrap_or(rest.len()) };
            lens.push(u32::try_from(len).expect("a chunk is at most 8 MiB"));
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// Returns whether a short record ends a piece: one in four does, and its own bytes decide, so that pieces of
/// short records find their ends again behind an insertion.
fn ends_piece(record: &[u8]) -> bool {
    let head = record.get(..PROBE_BYTES.min(record.len())).unwrap_or_default();
    let tail = record.get(record.len().saturating_sub(PROBE_BYTES)..).unwrap_or_default();
    let mut mixed = record.len() as u64;
    for byte in head.iter().chain(tail) {
        // FNV-1a's prime: quick, and good enough to pick one in four.
        mixed = (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    !record.is_empty() && (mixed >> 32) & 3 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cutter() -> PieceCutter {
        let mut state = 1_u64;
        PieceCutter::new(&std::array::from_fn(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state ^ (state >> 29)
        }))
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
            state.to_le_bytes()[5]
        })
        .take(len)
        .collect()
    }

    fn pieces(content: &[u8], records: &[usize]) -> Vec<Vec<u8>> {
        let mut lens = Vec::new();
        cutter().cut(content, records.iter().copied(), &mut lens);
        let mut at = 0;
        let cut = |len: &u32| {
            at += *len as usize;
            content[at - *len as usize..at].to_vec()
        };
        let found: Vec<_> = lens.iter().map(cut).collect();
        assert_eq!(found.concat(), content);
        assert!(found.iter().all(|piece| !piece.is_empty()));
        found
    }

    fn joined(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut at = 0;
        let ends: Vec<usize> = records.iter().map(|record| (at += record.len(), at).1).collect();
        pieces(&records.concat(), &ends)
    }

    #[test]
    fn a_record_is_a_piece_and_a_long_one_several() {
        let records = vec![noise(1, 300), noise(2, 3000), noise(3, 40_000), noise(4, 256)];
        let found = joined(&records);
        assert_eq!(found[..2], records[..2]);
        assert_eq!(found.last(), records.last());
        assert!(found.len() > 10, "{} pieces", found.len());
    }

    #[test]
    fn an_inserted_short_record_changes_few_pieces() {
        let mut records: Vec<_> = (0..400).map(|seed| noise(seed * 7 + 1, 60)).collect();
        let before: std::collections::HashSet<_> = joined(&records).into_iter().collect();
        records.insert(200, noise(9999, 60));
        let new: usize = joined(&records).iter().filter(|piece| !before.contains(*piece)).map(Vec::len).sum();
        assert!(new < 2_000, "{new} bytes are new");
    }

    #[test]
    fn a_changed_byte_of_a_stream_without_records_changes_few_pieces() {
        let mut content = noise(5, 60_000);
        let found = pieces(&content, &[]);
        assert!((60..300).contains(&found.len()), "{} pieces", found.len());
        let before: std::collections::HashSet<_> = found.into_iter().collect();
        content[30_000] ^= 1;
        let new: usize = pieces(&content, &[]).iter().filter(|piece| !before.contains(*piece)).map(Vec::len).sum();
        assert!((1..5_000).contains(&new), "{new} bytes are new");
    }

    #[test]
    fn nothing_and_records_beyond_the_end_are_no_trouble() {
        assert!(pieces(&[], &[]).is_empty());
        assert_eq!(pieces(&[1, 2, 3], &[2, 9, 12]).concat(), [1, 2, 3]);
    }
}
