//! Chunk sizes as people write them: `dump=8/32/128` is 8 KiB at least, 32 on average, 128 at most.

use crate::format::config::{ChunkSizes, StreamKind};

const KIB: u32 = 1024;
/// What a size looks like, for messages.
const FORM: &str = "it is KIND=MIN/AVERAGE/MAX in KiB: dump=8/32/128";

/// Returns the kind and its three sizes of one value of `--chunk-sizes`, or what is wrong with it.
pub(crate) fn parse(value: &str) -> Result<(StreamKind, [u32; 3]), String> {
    let (kind, sizes) = value.split_once('=').ok_or(FORM)?;
    let kind = match kind {
        "dump" => StreamKind::Dump,
        "rdb" => StreamKind::Rdb,
        "object" => StreamKind::Object,
        "table" => StreamKind::Table,
        _ => return Err("kinds of streams are dump, rdb, object and table".to_owned()),
    };
    Ok((kind, parse_sizes(sizes)?))
}

/// Returns the bytes that `MIN/AVERAGE/MAX` in KiB means, or what is wrong with it. Only sizes that a repository
/// can have are right.
pub(crate) fn parse_sizes(text: &str) -> Result<[u32; 3], String> {
    let number = |part: &str| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let kib: Option<u32> = is_number.then(|| part.parse().ok()).flatten();
        kib.and_then(|kib| kib.checked_mul(KIB)).ok_or_else(|| FORM.to_owned())
    };
    let sizes: Vec<u32> = text.split('/').map(number).collect::<Result<_, _>>()?;
    let [min, average, max] = sizes.try_into().map_err(|_| FORM)?;
    // The format's own rules, so that no repository is begun that could not be ended.
    ChunkSizes { min, average, max, whole_below: 0 }.check().map_err(|error| {
        format!("{error} bytes: MIN is 1 KiB to 1 MiB, AVERAGE a power of two above MIN and up to 4 MiB, MAX above it and up to 8 MiB")
    })?;
    Ok([min, average, max])
}

/// Puts sizes in the place of a kind's. What is stored whole stays so.
pub(crate) fn set(sizes: &mut [ChunkSizes; 4], kind: StreamKind, [min, average, max]: [u32; 3]) {
    for (of, found) in StreamKind::ALL.into_iter().zip(sizes) {
        if of == kind {
            *found = ChunkSizes { min, average, max, ..*found };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_are_kib_of_a_kind() {
        assert_eq!(parse("dump=8/32/128"), Ok((StreamKind::Dump, [8 << 10, 32 << 10, 128 << 10])));
        assert_eq!(parse("table=1/4/64"), Ok((StreamKind::Table, [1 << 10, 4 << 10, 64 << 10])));
    }

    #[test]
    fn what_no_repository_can_have_is_refused() {
        for wrong in [
            "dump",
            "dump=",
            "dump=8",
            "dump=8/32",
            "dump=8/32/128/1",
            "dump=8/32/x",
            "dump=+8/32/128",
            "archive=8/32/128",
            "dump=0/32/128",
            "dump=8/33/128",
            "dump=32/32/128",
            "dump=8/32/32",
            "dump=8/32/8193",
            "dump=8/32/4294967295",
            "dump=8/8192/8192",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_sizes_of_the_kind_are_set() {
        let old = ChunkSizes { min: 64, average: 256, max: 1024, whole_below: 512 };
        let mut sizes = [old; 4];
        set(&mut sizes, StreamKind::Object, [1024, 4096, 16_384]);
        assert_eq!(sizes, [old, old, ChunkSizes { min: 1024, average: 4096, max: 16_384, whole_below: 512 }, old]);
    }
}
