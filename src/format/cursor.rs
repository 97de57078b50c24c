//! Bounds-checked little-endian reading and writing: the only place that slices stored bytes.
//!
//! Integers are fixed-width little-endian, or LEB128 varints in their shortest form (`docs/FORMAT.md`,
//! section 4). Byte strings are a varint length and the bytes.

use super::{Error, limits};

/// Reads values off the front of a byte slice.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the front of `bytes`; `what` names them in errors.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Returns what has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let Some((head, tail)) = self.rest.split_at_checked(len) else {
            let have = self.rest.len() as u64;
            return Err(Error::Truncated { what: self.what, need: len as u64 - have, have });
        };
        self.rest = tail;
        Ok(head)
    }

    /// Takes an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Takes a 16-bit integer.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Takes a 32-bit integer.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Takes a 64-bit integer.
    pub fn u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes a varint in its shortest form.
    pub fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0_u64;
        for position in 0..10_u32 {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if position == 9 && bits > 1 {
                return Err(Error::NotCanonical { what: self.what });
            }
            value |= bits << (7 * position);
            if byte & 0x80 == 0 {
                if byte == 0 && position > 0 {
                    return Err(Error::NotCanonical { what: self.what });
                }
                return Ok(value);
            }
        }
        Err(Error::NotCanonical { what: self.what })
    }

    /// Takes a varint that counts or measures something limited by `max`.
    pub fn count(&mut self, what: &'static str, max: u64) -> Result<usize, Error> {
        let found = limits::check(what, self.varint()?, max)?;
        usize::try_from(found).map_err(|_| Error::TooLarge { what, found, max })
    }

    /// Takes a byte string of at most `max` bytes.
    pub fn bytes(&mut self, what: &'static str, max: u64) -> Result<&'a [u8], Error> {
        let len = self.count(what, max)?;
        self.take(len)
    }

    /// Takes UTF-8 text of at most `max` bytes.
    pub fn text(&mut self, what: &'static str, max: u64) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(what, max)?).map_err(|_| Error::BadText { what, expected: "UTF-8" })
    }

    /// Requires that everything has been read.
    pub fn end(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Error::Trailing { what: self.what, extra: self.rest.len() as u64 })
        }
    }
}

/// Appends a varint in its shortest form.
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends a byte string: its length as a varint, then the bytes.
pub fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_have_one_encoding() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            push_varint(&mut out, value);
            let mut cursor = Cursor::new("test", &out);
            assert_eq!(cursor.varint(), Ok(value));
            assert_eq!(cursor.end(), Ok(()));
        }
        for overlong in [
            &[0x80, 0x00][..],
            &[0xff, 0x80, 0x00],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        ] {
            assert_eq!(Cursor::new("test", overlong).varint(), Err(Error::NotCanonical { what: "test" }));
        }
    }

    #[test]
    fn a_length_is_checked_before_anything_is_taken() {
        let mut out = Vec::new();
        push_varint(&mut out, 1 << 40);
        let error = Cursor::new("test", &out).bytes("name", 10).unwrap_err();
        assert_eq!(error, Error::TooLarge { what: "name", found: 1 << 40, max: 10 });
    }
}
