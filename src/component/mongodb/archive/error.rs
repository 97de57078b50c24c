//! Why bytes are not a whole archive, and where that was seen.

use std::fmt;

use super::Fault;

/// Why bytes are not a whole mongodump archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// mongodump writes nothing, and exits with 0, for a collection that does not exist.
    #[error("there is not one byte of an archive")]
    NoBytes,
    /// Made with `--gzip`.
    #[error("the archive is compressed with gzip, which hides what is in it and what changed since the last one")]
    Gzip,
    /// The first bytes are something else.
    #[error("not a mongodump archive: it begins with {first:02x?}")]
    NotAnArchive {
        /// The first four bytes.
        first: [u8; 4],
    },
    /// A format version that did not exist when this was written.
    #[error("archive format version {version:?} is unknown")]
    Version {
        /// What the header says.
        version: String,
    },
    /// A time series needs the server's version, and the header has none that can be read.
    #[error("the archive has a time series and no readable server version but {server_version:?}")]
    ServerVersion {
        /// What the header says.
        server_version: String,
    },
    /// The stream ended inside an item.
    #[error("the archive is cut short at byte {offset}, in {within}")]
    Truncated {
        /// Bytes that there were.
        offset: u64,
        /// What they end in.
        within: Within,
    },
    /// The stream ended between blocks, and too early.
    #[error("the archive ends before the end of {namespace} and of {others} others")]
    Unclosed {
        /// The first listed one of those that were not closed.
        namespace: String,
        /// How many more there are.
        others: usize,
    },
    /// A length that no item there can have.
    #[error("at byte {offset} of the archive, in {within}: length {len} is not in {min}..={max}")]
    Length {
        /// Where the item begins.
        offset: u64,
        /// What it is part of.
        within: Within,
        /// The length that it claims, in bytes.
        len: u32,
        /// The least that is possible.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A document whose last byte is not zero.
    #[error("at byte {offset} of the archive: a document of {namespace} does not end in a zero byte")]
    Unterminated {
        /// Where the document ends.
        offset: u64,
        /// Its namespace.
        namespace: String,
    },
    /// The header is not what the format says.
    #[error("the archive's header cannot be read")]
    Header {
        /// What is wrong.
        #[source]
        fault: Fault,
    },
    /// An entry of the list of namespaces is not what the format says.
    #[error("the list entry at byte {offset} of the archive cannot be read")]
    List {
        /// Where the entry begins.
        offset: u64,
        /// What is wrong.
        #[source]
        fault: Fault,
    },
    /// A block's header is not what the format says.
    #[error("the block header at byte {offset} of the archive cannot be read")]
    BlockHeader {
        /// Where the header begins.
        offset: u64,
        /// What is wrong.
        #[source]
        fault: Fault,
    },
    /// A block begins with its end.
    #[error("the block at byte {offset} of the archive has no header")]
    NoBlockHeader {
        /// Where the block begins.
        offset: u64,
    },
    /// A block belongs to a namespace that the list does not have.
    #[error("at byte {offset} of the archive: {namespace} is not in the list of namespaces")]
    Unlisted {
        /// Where the block begins.
        offset: u64,
        /// Its namespace.
        namespace: String,
    },
    /// The list has a namespace twice.
    #[error("{namespace} is twice in the list of namespaces")]
    ListedTwice {
        /// Which one.
        namespace: String,
    },
    /// A namespace goes on after its end.
    #[error("at byte {offset} of the archive: {namespace} goes on after its end")]
    Reopened {
        /// Where the block begins.
        offset: u64,
        /// Its namespace.
        namespace: String,
    },
    /// The documents are not the ones that mongodump wrote.
    #[error("the documents of {namespace} have CRC-64 {got:016x}, the archive says {expected:016x}")]
    Crc {
        /// Which namespace.
        namespace: String,
        /// What its end says.
        expected: u64,
        /// What the documents give.
        got: u64,
    },
    /// mongodump of a database that does not exist makes a perfect archive of nothing, and exits with 0.
    #[error("the archive is whole and has no collection in it")]
    NoNamespace,
    /// More namespaces than anyone has.
    #[error("the archive lists more than {limit} namespaces")]
    TooManyNamespaces {
        /// The limit.
        limit: usize,
    },
    /// A longer list of namespaces than anyone has.
    #[error("the archive's list of namespaces is longer than {limit} bytes")]
    ListTooLong {
        /// The limit in bytes.
        limit: u64,
    },
}

/// The part of an archive that something is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Within {
    /// The first four bytes.
    Magic,
    /// The header with the versions.
    Header,
    /// The list of namespaces.
    List,
    /// A block's header.
    BlockHeader,
    /// A block of this namespace.
    Block {
        /// `database.collection`.
        namespace: String,
    },
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Within::Magic => f.write_str("its first four bytes"),
            Within::Header => f.write_str("its header"),
            Within::List => f.write_str("its list of namespaces"),
            Within::BlockHeader => f.write_str("a block header"),
            Within::Block { namespace } => write!(f, "a block of {namespace}"),
        }
    }
}
