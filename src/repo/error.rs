//! The error of this room.

use std::sync::Arc;

use crate::backend::{ErrorKind, Operation};

use crate::format::id::{ChunkId, PackId};
use crate::{backend, crypto, format};

/// Why the repository could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place where the objects live failed.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// No key slot opens with what was given.
    #[error("no {capability} slot of {location} opens with this key")]
    WrongKey {
        /// What was asked for: `writer`, `data-reader`, `secrets-reader`.
        capability: &'static str,
        /// The backend.
        location: String,
    },
    /// There is no key slot of the kind asked for.
    #[error("{location} has no {capability} slot")]
    NoSlot {
        /// What was asked for.
        capability: &'static str,
        /// The backend.
        location: String,
    },
    /// A name that only this call may use is taken.
    #[error("{object} is already in {location}")]
    Taken {
        /// Its name.
        object: String,
        /// The backend.
        location: String,
    },
    /// The writer key was made for another repository.
    #[error("{location} is not the repository that this writer key was made for")]
    OtherRepository {
        /// The backend.
        location: String,
    },
    /// The secrets are somewhere else, and nobody said where.
    #[error("{location} has no secrets: this repository keeps them in a store of their own")]
    SecretsApart {
        /// The backend of the data.
        location: String,
    },
    /// A store of secrets was named for a repository that has none.
    #[error("{location} keeps its secrets itself: no other store of secrets belongs to it")]
    SecretsNotApart {
        /// The backend.
        location: String,
    },
    /// The store of the secrets was named and cannot be used.
    #[error("the store of the secrets cannot be used")]
    SecretsStore {
        /// Why.
        source: Arc<Error>,
    },
    /// The store that was named for the secrets is another one.
    #[error("{location} does not hold the secrets of this repository: it holds {found}")]
    NotItsSecrets {
        /// The backend.
        location: String,
        /// `a whole repository`, `the data of a repository` ...
        found: &'static str,
    },
    /// The store that was named for the data holds only secrets.
    #[error("{location} holds the secrets of a repository and nothing else")]
    OnlySecrets {
        /// The backend.
        location: String,
    },
    /// A stored object could not be opened.
    #[error("{object} cannot be read")]
    Object {
        /// Its name.
        object: String,
        /// Why.
        source: crypto::Error,
    },
    /// A stored object does not parse.
    #[error("{object} is damaged")]
    Damaged {
        /// Its name.
        object: String,
        /// Why.
        source: format::Error,
    },
    /// An object's bytes are not those that its name stands for.
    #[error("{object} does not have the content that its name stands for")]
    WrongContent {
        /// Its name.
        object: String,
    },
    /// The index does not say of a pack what the pack's own directory says.
    #[error("the index does not list what {object} holds")]
    IndexDiffers {
        /// The pack's name.
        object: String,
    },
    /// Keys that cannot do this.
    #[error(transparent)]
    Crypto(#[from] crypto::Error),
    /// A chunk that is in no pack of the index.
    #[error("chunk {chunk} is in no pack that the index knows")]
    ChunkMissing {
        /// The chunk.
        chunk: ChunkId,
    },
    /// A chunk that a run referred to, and that something else of the run proved to be damaged.
    #[error("chunk {chunk}, which this run refers to, proved damaged before its end")]
    Spoiled {
        /// The chunk.
        chunk: ChunkId,
    },
    /// A chunk whose bytes are not those that its id stands for.
    #[error("chunk {chunk} in pack {pack} does not have the content that its id stands for")]
    ChunkDamaged {
        /// The chunk.
        chunk: ChunkId,
        /// Where it was read.
        pack: PackId,
    },
    /// A segment that does not decode.
    #[error("segment {segment} of pack {pack} does not decode to {plain_len} bytes")]
    SegmentDamaged {
        /// The pack.
        pack: PackId,
        /// The segment's number.
        segment: u32,
        /// Its authenticated length.
        plain_len: u64,
    },
    /// A chunk length in a recipe that is not the chunk's.
    #[error("a recipe says that chunk {chunk} has {expected} bytes, the index says {found}")]
    ChunkLength {
        /// The chunk.
        chunk: ChunkId,
        /// In the recipe.
        expected: u32,
        /// In the index.
        found: u32,
    },
    /// A stream whose bytes, put together, are not those that came in.
    #[error("the stream put together does not have the content that its recipe stands for")]
    StreamDamaged,
    /// A row that does not come behind the one before it.
    #[error("rows of an entry table must ascend: {key:?} comes too late")]
    RowOrder {
        /// The row's key, as text.
        key: String,
    },
    /// Content whose length is not what its row says.
    #[error("{key:?} has {found} bytes, its row says {expected}")]
    EntryLength {
        /// The row's key, as text.
        key: String,
        /// In the row.
        expected: u64,
        /// That came.
        found: u64,
    },
    /// Something to be stored is beyond a limit of the format.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// The index cache on this host failed; it can be removed at any time.
    #[error("the index cache {path} failed")]
    Cache {
        /// Where it lies.
        path: String,
        /// Why.
        source: rusqlite_error::CacheError,
    },
    /// A worker stopped without saying why: another error has been reported, or the process is ending.
    #[error("the writer was stopped")]
    Stopped,
}

impl Error {
    /// Returns whether stored content is damaged or missing: reading it again, or from elsewhere, will not help.
    /// False for a store that does not answer, for keys that cannot, and for the cache of this host.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Object { source, .. } => !matches!(source, crypto::Error::NotCapable { .. }),
            Self::Backend(source) => matches!(
                source,
                backend::Error::NotFound { .. }
                    | backend::Error::TooLong { .. }
                    | backend::Error::Short { .. }
                    | backend::Error::NotAFile { .. }
                    | backend::Error::Failed {
                        operation: Operation::Get | Operation::GetRange,
                        kind: ErrorKind::Damaged,
                        ..
                    }
            ),
            Self::Damaged { .. }
            | Self::WrongContent { .. }
            | Self::ChunkMissing { .. }
            | Self::ChunkDamaged { .. }
            | Self::SegmentDamaged { .. }
            | Self::ChunkLength { .. }
            | Self::StreamDamaged
            | Self::IndexDiffers { .. }
            | Self::NotItsSecrets { .. }
            | Self::Format(_) => true,
            // Named for the secrets, a place without a repository is a wrong one.
            Self::SecretsStore { source } => {
                matches!(**source, Self::Backend(backend::Error::NoRepository { .. })) || source.is_damage()
            }
            _ => false,
        }
    }

    /// Returns whether a store does not answer: nothing is known of what was asked for.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Backend(source) => source.kind() == ErrorKind::Transient,
            Self::SecretsStore { source } => source.is_outage(),
            _ => false,
        }
    }
}

pub use rusqlite_error::CacheError;

/// Keeps the database crate's type inside `index/cache.rs`.
mod rusqlite_error {
    /// Why the index cache failed: the database's own words.
    #[derive(Debug, thiserror::Error)]
    pub enum CacheError {
        /// It is damaged or of another version: the next run makes it anew.
        #[error("it is unusable: {reason}")]
        Unusable {
            /// In the database's words.
            reason: String,
        },
        /// The disk, a permission, another process.
        #[error("{reason}")]
        Failed {
            /// In the database's words.
            reason: String,
        },
    }

    impl CacheError {
        /// Returns whether making it anew helps.
        #[must_use]
        pub const fn is_unusable(&self) -> bool {
            matches!(self, Self::Unusable { .. })
        }
    }
}
