//! Makes small archives for the tests: written from the format's description, not from the framer.

/// Appends one BSON document with the given elements.
pub(crate) fn document(elements: &[u8]) -> Vec<u8> {
    let len = u32::try_from(elements.len() + 5).expect("test documents are small");
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend_from_slice(elements);
    bytes.push(0);
    bytes
}

/// Returns a string element.
pub(crate) fn string(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x02];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&u32::try_from(value.len() + 1).expect("short").to_le_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(0);
    bytes
}

/// Returns an element of a fixed size.
pub(crate) fn fixed(tag: u8, name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(value);
    bytes
}

/// Writes an archive item by item, right or wrong.
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    /// Starts with magic and header.
    pub(crate) fn new(server_version: &str) -> Self {
        let mut bytes = vec![0x6d, 0xe2, 0x99, 0x81];
        bytes.extend(document(
            &[
                fixed(0x10, "concurrent_collections", &1i32.to_le_bytes()),
                string("version", "0.1"),
                string("server_version", server_version),
                string("tool_version", "100.18.0"),
            ]
            .concat(),
        ));
        Self { bytes }
    }

    pub(crate) fn list(mut self, db: &str, collection: &str, kind: &str) -> Self {
        self.bytes.extend(document(
            &[
                string("db", db),
                string("collection", collection),
                string("metadata", "{\"indexes\":[]}"),
                fixed(0x10, "size", &0i32.to_le_bytes()),
                string("type", kind),
            ]
            .concat(),
        ));
        self
    }

    pub(crate) fn term(mut self) -> Self {
        self.bytes.extend_from_slice(&[0xff; 4]);
        self
    }

    pub(crate) fn header(mut self, db: &str, collection: &str, closes: Option<u64>) -> Self {
        self.bytes.extend(document(
            &[
                string("db", db),
                string("collection", collection),
                fixed(0x08, "EOF", &[u8::from(closes.is_some())]),
                fixed(0x12, "CRC", &closes.unwrap_or_default().to_le_bytes()),
            ]
            .concat(),
        ));
        self
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A data block.
    pub(crate) fn block(self, db: &str, collection: &str, documents: &[Vec<u8>]) -> Self {
        self.header(db, collection, None).raw(&documents.concat()).term()
    }

    /// The closing block of a namespace that holds `documents`.
    pub(crate) fn close(self, db: &str, collection: &str, documents: &[Vec<u8>]) -> Self {
        self.header(db, collection, Some(crc64_xz(&documents.concat()))).term()
    }
}

/// CRC-64/XZ bit by bit, from its definition.
pub(crate) fn crc64_xz(bytes: &[u8]) -> u64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xc96c_5795_d787_0f42 * (crc & 1));
        }
    }
    !crc
}

/// Documents of various lengths, from a seed.
pub(crate) fn documents(count: usize, seed: u8) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            let text = format!("{seed} {n} ").repeat(n % 7 + 1);
            document(&string("text", &text))
        })
        .collect()
}

/// Two collections that mongodump interleaved, an empty one and a view.
pub(crate) fn interleaved() -> Vec<u8> {
    let (one, two) = (documents(9, 1), documents(5, 2));
    Writer::new("8.0.4")
        .list("shop", "orders", "collection")
        .list("shop", "users", "collection")
        .list("shop", "empty", "collection")
        .list("shop", "active", "view")
        .term()
        .block("shop", "active", &[])
        .close("shop", "active", &[])
        .block("shop", "orders", &one[..4])
        .block("shop", "users", &two[..3])
        .block("shop", "orders", &one[4..])
        .close("shop", "orders", &one)
        .block("shop", "users", &two[3..])
        .close("shop", "users", &two)
        .block("shop", "empty", &[])
        .close("shop", "empty", &[])
        .bytes
}
