//! Where a block has a piece.

use super::Piece;

/// Slots for each piece, at least: a search for what is not there ends at the first or second.
const SLOTS_PER_PIECE: usize = 2;

/// A table of the pieces of one block; keyed fingerprints spread as well as any hash.
pub(super) struct Lookup {
    /// Numbers of pieces, from 1; 0 is an empty slot. A power of two.
    slots: Vec<u32>,
}

impl Lookup {
    /// Makes the table. Of equal pieces the last one is found.
    pub(super) fn new(pieces: &[Piece]) -> Self {
        let mut lookup = Self { slots: vec![0; (pieces.len() * SLOTS_PER_PIECE).next_power_of_two()] };
        for (piece, number) in pieces.iter().zip(1..) {
            let place = lookup.place(pieces, piece);
            if let Some(slot) = lookup.slots.get_mut(place) {
                *slot = number;
            }
        }
        lookup
    }

    /// Returns the number, from 0, of a piece among those that the table was made of.
    pub(super) fn find(&self, pieces: &[Piece], piece: &Piece) -> Option<u32> {
        self.slots.get(self.place(pieces, piece))?.checked_sub(1)
    }

    /// Returns the slot of a piece, or the empty one where it would be. There is always one: at most half are taken.
    fn place(&self, pieces: &[Piece], piece: &Piece) -> usize {
        let last = self.slots.len() - 1;
        let mut place = usize::try_from(piece.fingerprint & last as u128).unwrap_or(0);
        while let Some(number) = self.slots.get(place).and_then(|slot| slot.checked_sub(1))
            && pieces.get(number as usize) != Some(piece)
        {
            place = (place + 1) & last;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_found_where_it_is_last_and_no_other() {
        // Fingerprints that all begin in three slots, at the end of the table too.
        let piece = |number: u128| Piece { fingerprint: (number << 64) | (number % 3 + 509), len: 7 };
        let mut pieces: Vec<Piece> = (0..200).map(piece).collect();
        pieces.push(piece(5));
        let lookup = Lookup::new(&pieces);
        for number in 0..200 {
            let at = if number == 5 { 200 } else { number };
            assert_eq!(lookup.find(&pieces, &piece(u128::from(number))), Some(at));
        }
        assert_eq!(lookup.find(&pieces, &piece(200)), None);
        assert_eq!(lookup.find(&pieces, &Piece { len: 8, ..piece(7) }), None);
        assert_eq!(Lookup::new(&[]).find(&[], &piece(0)), None);
    }
}
