//! The inside of a secrets bundle: a few files, byte for byte (`docs/FORMAT.md`, section 12).

use std::collections::BTreeMap;

use super::cursor::{Cursor, push_bytes, push_varint};
use super::entry::{push_attributes, take_attributes};
use super::{Error, limits};

/// Bundles are padded to multiples of this, in bytes: the lengths of values then never show.
pub const STEP: usize = 64 * 1024;
const LENGTH_LEN: usize = 8;

/// One secret file.
#[derive(PartialEq, Eq)]
pub struct SecretFile {
    /// `.env`, `keys/jwt-private.pem`: bytes.
    pub key: Vec<u8>,
    /// `mode`, `uid`, ...: sorted by name.
    pub attributes: BTreeMap<String, Vec<u8>>,
    /// The content; `None` for a directory.
    pub content: Option<Vec<u8>>,
}

/// Returns a length that the encoded files do not exceed: a buffer of that capacity is not moved while they
/// are appended, so that no copy stays behind.
#[must_use]
pub fn encoded_len_most(files: &[SecretFile]) -> usize {
    // Lengths and counts take at most ten bytes each.
    let attribute = |(name, value): (&String, &Vec<u8>)| 20 + name.len() + value.len();
    let file = |file: &SecretFile| {
        let attributes: usize = file.attributes.iter().map(attribute).sum();
        31 + file.key.len() + attributes + file.content.as_ref().map_or(0, Vec::len)
    };
    10 + files.iter().map(file).sum::<usize>()
}

/// Appends the files. Keys must ascend; the caller wipes the bytes after sealing.
pub fn encode(files: &[SecretFile], out: &mut Vec<u8>) {
    push_varint(out, files.len() as u64);
    for file in files {
        push_bytes(out, &file.key);
        push_attributes(out, &file.attributes);
        out.push(u8::from(file.content.is_some()));
        push_bytes(out, file.content.as_deref().unwrap_or_default());
    }
}

/// Reads the files.
pub fn decode(bytes: &[u8]) -> Result<Vec<SecretFile>, Error> {
    let what = "secrets bundle";
    let mut cursor = Cursor::new(what, bytes);
    let count = cursor.count("files of a secrets bundle", limits::BUNDLE_FILES_MAX)?;
    let mut files: Vec<SecretFile> = Vec::new();
    for _ in 0..count {
        let file = take_file(&mut cursor)?;
        if files.last().is_some_and(|last| last.key >= file.key) {
            return Err(Error::NotCanonical { what });
        }
        files.push(file);
    }
    cursor.end()?;
    Ok(files)
}

/// Returns the length of the plain bytes of a bundle whose encoded files have `len` bytes.
#[must_use]
pub const fn padded_len(len: usize) -> usize {
    (LENGTH_LEN + len).next_multiple_of(STEP)
}

/// Appends what is sealed: the length of the encoded files, themselves, zeros up to a multiple of [`STEP`]. An
/// `out` with the capacity of [`padded_len`] is not moved, so that no copy stays behind.
pub fn pad(encoded: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(encoded.len() as u64).to_le_bytes());
    out.extend_from_slice(encoded);
    out.resize(padded_len(encoded.len()), 0);
}

/// Returns the encoded files out of what [`pad`] wrote; refuses any other padding.
pub fn unpad(plain: &[u8]) -> Result<&[u8], Error> {
    let what = "secrets bundle";
    let mut cursor = Cursor::new(what, plain);
    let found = limits::check(what, cursor.u64()?, limits::BUNDLE_BYTES_MAX)?;
    let len = usize::try_from(found).map_err(|_| Error::Invalid { what, found })?;
    let encoded = cursor.take(len)?;
    let is_canonical = plain.len() == padded_len(len) && cursor.rest().iter().all(|byte| *byte == 0);
    if is_canonical { Ok(encoded) } else { Err(Error::NotCanonical { what: "padding" }) }
}

fn take_file(cursor: &mut Cursor<'_>) -> Result<SecretFile, Error> {
    let key = cursor.bytes("entry key", limits::ENTRY_KEY_BYTES_MAX)?.to_vec();
    let attributes = take_attributes(cursor)?;
    let has_content = cursor.u8()?;
    let content = cursor.bytes("secret file", limits::BUNDLE_BYTES_MAX)?;
    match has_content {
        0 if content.is_empty() => Ok(SecretFile { key, attributes, content: None }),
        1 => Ok(SecretFile { key, attributes, content: Some(content.to_vec()) }),
        code => Err(Error::Invalid { what: "secret file", found: u64::from(code) }),
    }
}
