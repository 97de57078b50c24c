//! The repository: packs, index, snapshots. Knows nothing of databases, terminals or buckets.
//!
//! Write order: packs, then the index part that lists them, then the snapshot, which is the commit point.
//! Read order the reverse. A crash between any two steps leaves unreferenced objects only.

mod closed;
mod engine;
mod error;
mod index;
mod init;
mod keyring;
mod locks;
mod object;
mod open;
mod pack_writer;
mod packer;
mod pieces;
mod place;
mod reader;
mod recipe_writer;
mod scan;
mod segment;
mod snapshots;
mod table;
mod writer;

pub use crate::backend::Lock;
pub use closed::{Ahead, Closed, Survey};
pub use error::{CacheError, Error};
pub use index::{Index, Place, Segment};
pub use init::{InitOptions, InitSecrets, Initialized, init, init_apart};
pub use keyring::Keyring;
pub use locks::{LockCounts, keys_to_open, lock_objects};
pub use open::{Access, Inventory, OpenOptions, Repository};
pub use pieces::{KeptPieces, PieceUse};
pub use place::SecretsStore;
pub use reader::{ContentStream, Reader, ToVerify};
pub use scan::{PackScan, ScannedPack, check_without_keys};
pub use segment::Compression;
pub use snapshots::{LoadedSnapshot, SecretsSnapshot};
pub use table::{ChangedRows, TableReader, TableWriter};
pub use writer::{Finished, Marks, OpenStream, ShortStreams, StreamReport, StreamWritten, Writer, WriterOptions};
