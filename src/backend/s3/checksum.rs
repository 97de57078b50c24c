//! The checksum that servers ask for with puts that lock: CRC-32 (IEEE), as text. Made here, because the SDK's own way
//! to send one makes some servers wait for ever.

/// Reflected polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Returns the checksum of these bytes in base 64.
pub(super) fn crc32_text(bytes: &[u8]) -> String {
    let table: Vec<u32> = (0..256_u32).map(|start| (0..8).fold(start, |crc, _| step(crc))).collect();
    let mut crc = u32::MAX;
    for byte in bytes {
        let [low, ..] = crc.to_le_bytes();
        crc = crc >> 8 ^ table.get(usize::from(low ^ byte)).copied().unwrap_or_default();
    }
    // Four bytes are five whole letters and two bits.
    let sum = u64::from(!crc) << 4;
    let letter = |shift: u32| {
        let index = usize::try_from(sum >> shift & 63).unwrap_or_default();
        char::from(LETTERS.get(index).copied().unwrap_or_default())
    };
    let text: String = [30, 24, 18, 12, 6, 0].into_iter().map(letter).collect();
    text + "=="
}

const fn step(crc: u32) -> u32 {
    if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
}

#[cfg(test)]
mod tests {
    use super::crc32_text;

    #[test]
    fn the_checksums_that_everybody_knows() {
        assert_eq!(crc32_text(b"123456789"), "y/Q5Jg==");
        assert_eq!(crc32_text(b""), "AAAAAA==");
        assert_eq!(crc32_text(b"a"), "6Le+Qw==");
    }
}
