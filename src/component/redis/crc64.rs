//! The CRC-64 of Redis ("Jones"): reflected, no initial value, no final xor. Not CRC-64/XZ.

const POLYNOMIAL_REFLECTED: u64 = 0x95ac_9329_ac4b_c9b5;

/// `TABLES[k][b]` is the register after byte `b` and `k` zero bytes (slicing by eight).
static TABLES: [[u64; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: out of bounds does not build")]
const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0_u64; 256]; 8];
    let mut register: u64 = 0;
    let mut byte = 0;
    while byte < 256 {
        let mut value = register;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL_REFLECTED } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
        register += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

/// A running checksum.
#[derive(Debug, Clone, Default)]
pub(super) struct Crc64(u64);

impl Crc64 {
    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let mixed = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            self.0 = TABLES.iter().rev().zip(mixed).fold(0, |sum, (table, byte)| sum ^ lookup(table, byte));
        }
        for byte in rest {
            let [low, ..] = self.0.to_le_bytes();
            let [table, ..] = &TABLES;
            self.0 = (self.0 >> 8) ^ lookup(table, low ^ byte);
        }
    }

    /// Returns the checksum of everything so far.
    pub(super) fn sum(&self) -> u64 {
        self.0
    }
}

fn lookup(table: &[u64; 256], byte: u8) -> u64 {
    *table.get(usize::from(byte)).expect("a byte is below 256")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u64 {
        let mut crc = Crc64::default();
        crc.write(bytes);
        crc.sum()
    }

    /// The value that Redis itself tests (`crc64.c`); the files in `rdb` test long inputs.
    #[test]
    fn the_check_value_of_redis_comes_out() {
        assert_eq!(crc(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn the_sum_does_not_depend_on_how_the_bytes_are_split() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        for split in 0..bytes.len() {
            let mut parts = Crc64::default();
            parts.write(&bytes[..split]);
            parts.write(&bytes[split..]);
            assert_eq!(parts.sum(), crc(&bytes));
        }
    }
}
