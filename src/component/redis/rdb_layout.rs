//! What follows each opcode and value type of an RDB file, as tables.

/// One part of a layout.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// So many bytes.
    Bytes(u8),
    /// A length (or any number encoded as one).
    Len,
    /// A length: that many bytes follow where [`Part::Held`] stands.
    HeldLen,
    /// The bytes of the last [`Part::HeldLen`].
    Held,
    /// A string, in any of its encodings.
    Str,
    /// A string that may be worth keeping.
    Text,
    /// A sorted set's score as text: one byte of length (or of NaN, +inf, -inf) and its digits.
    Score,
    /// A length, and that many times the parts.
    Times(&'static [Part]),
    /// The number of the database that the following keys belong to.
    Database,
    /// Fields of a module's value up to the end mark.
    Module,
}

use Part::{Bytes, Database, Held, HeldLen, Len, Module, Score, Str, Text, Times};

/// End of the file: the checksum follows.
pub(super) const EOF: u8 = 255;
/// The next key expires, seconds.
pub(super) const EXPIRE_SECS: u8 = 253;
/// The next key expires, milliseconds.
pub(super) const EXPIRE_MS: u8 = 252;
/// An auxiliary field.
pub(super) const AUX: u8 = 250;
/// The mark that ends a module's value.
pub(super) const MODULE_END: u64 = 0;

const SELECT_DB: u8 = 254;
const RESIZE_DB: u8 = 251;
const FREQ: u8 = 249;
const IDLE: u8 = 248;
const MODULE_AUX: u8 = 247;
const FUNCTION: u8 = 245;
const SLOT_INFO: u8 = 244;

/// A compressed string after its encoding byte: both lengths, then the compressed bytes.
pub(super) const COMPRESSED: &[Part] = &[HeldLen, Len, Held];

const STREAM_ENTRIES: Part = Times(&[Str, Str]);
/// Entry id, delivery time, delivery count.
const STREAM_PENDING: Part = Times(&[Bytes(16), Bytes(8), Len]);
const STREAM_CONSUMERS: Part = Times(&[Str, Bytes(8), Times(&[Bytes(16)])]);
/// Since version 3 a consumer has an active time too.
const STREAM_CONSUMERS_3: Part = Times(&[Str, Bytes(8), Bytes(8), Times(&[Bytes(16)])]);

const STREAM: &[Part] =
    &[Str, STREAM_ENTRIES, Len, Len, Len, Times(&[Str, Len, Len, STREAM_PENDING, STREAM_CONSUMERS])];
/// Version 2 adds the first id, the highest deleted id, the entries ever added; per group, those read.
const STREAM_2: &[Part] = &[
    Str,
    STREAM_ENTRIES,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Times(&[Str, Len, Len, Len, STREAM_PENDING, STREAM_CONSUMERS]),
];
const STREAM_3: &[Part] = &[
    Str,
    STREAM_ENTRIES,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Len,
    Times(&[Str, Len, Len, Len, STREAM_PENDING, STREAM_CONSUMERS_3]),
];

/// Returns true for a value type (a key and its value follow), false for an opcode.
pub(super) fn is_value(kind: u8) -> bool {
    kind < SLOT_INFO
}

/// Returns what follows an opcode or a value type (for a value, its key first); `None` where unknown.
pub(super) fn parts(kind: u8) -> Option<&'static [Part]> {
    Some(match kind {
        // string; zipmap; ziplist and listpack encodings; intset: one string
        0 | 9..=13 | 16 | 17 | 20 => &[Str, Str],
        // list, set, quicklist of ziplists
        1 | 2 | 14 => &[Str, Times(&[Str])],
        3 => &[Str, Times(&[Str, Score])],
        4 => &[Str, Times(&[Str, Str])],
        5 => &[Str, Times(&[Str, Bytes(8)])],
        7 => &[Str, Len, Module],
        15 => STREAM,
        // quicklist: each node says whether it is packed
        18 => &[Str, Times(&[Len, Str])],
        19 => STREAM_2,
        21 => STREAM_3,
        // hashes whose fields expire: the earliest time, then (time, field, value)
        24 => &[Str, Bytes(8), Times(&[Len, Str, Str])],
        25 => &[Str, Bytes(8), Str],
        SLOT_INFO => &[Len, Len, Len],
        FUNCTION => &[Str],
        // module id, when (its kind and its value), fields
        MODULE_AUX => &[Len, Len, Len, Module],
        IDLE => &[Len],
        FREQ => &[Bytes(1)],
        AUX => &[Text, Text],
        RESIZE_DB => &[Len, Len],
        EXPIRE_MS => &[Bytes(8)],
        EXPIRE_SECS => &[Bytes(4)],
        SELECT_DB => &[Database],
        _ => return None,
    })
}

/// Returns what follows the mark of a field in a module's value: signed, unsigned, float, double, string.
pub(super) fn module_field(field: u64) -> Option<&'static [Part]> {
    Some(match field {
        1 | 2 => &[Len],
        3 => &[Bytes(4)],
        4 => &[Bytes(8)],
        5 => &[Str],
        _ => return None,
    })
}
