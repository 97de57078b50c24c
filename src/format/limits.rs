//! Every limit on counts and lengths of stored things, in one place (`docs/FORMAT.md`, section 3).
//! A decoder compares with these before it allocates.

use super::Error;

/// Bytes of the config object.
pub const CONFIG_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of one key slot: the public keys of every epoch of both namespaces must fit into a writer's.
pub const SLOT_BYTES_MAX: u64 = 64 * 1024;
/// Key slots in a repository.
pub const SLOTS_MAX: u64 = 64;
/// Key epochs of a namespace.
pub const EPOCHS_MAX: u64 = 16;
/// Plain bytes of one chunk.
pub const CHUNK_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Plain bytes of one segment: one chunk of the largest size must fit.
pub const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Stored bytes of one segment: incompressible input is stored, so only the tag is added.
pub const SEGMENT_STORED_BYTES_MAX: u64 = SEGMENT_BYTES_MAX + 64;
/// Chunks in one segment.
pub const SEGMENT_CHUNKS_MAX: u64 = 64 * 1024;
/// Stored bytes of one pack.
pub const PACK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Segments in one pack.
pub const PACK_SEGMENTS_MAX: u64 = 16 * 1024;
/// Entries in the key table of one pack.
pub const PACK_KEYS_MAX: u64 = 16;
/// Bytes of a pack's sealed directory.
pub const DIRECTORY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Plain bytes of one index part.
pub const INDEX_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Packs in one index part.
pub const INDEX_PACKS_MAX: u64 = 64 * 1024;
/// Bytes of a snapshot's manifest.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Ids in the chunk table of one recipe page.
pub const PAGE_CHUNKS_MAX: u64 = 16 * 1024;
/// Extents in one recipe page.
pub const PAGE_EXTENTS_MAX: u64 = 64 * 1024;
/// Pages in one recipe.
pub const RECIPE_PAGES_MAX: u64 = 128 * 1024;
/// Edits between a page of a recipe and a whole one.
pub const RECIPE_DEPTH_MAX: u64 = 32;
/// Pages that one page is an edit of.
pub const PAGE_PARENTS_MAX: u64 = 8;
/// Pages that one page is made of: itself, its parents, theirs, and so on, each once.
pub const EXPANSION_PAGES_MAX: u64 = 128;
/// Extents of all pages that one page is made of, and steps and chunks of those that are edits.
pub const EXPANSION_EXTENTS_MAX: u64 = 1024 * 1024;
/// Bytes of a stream: 2^56, so that sums of two never overflow.
pub const STREAM_BYTES_MAX: u64 = 1 << 56;
/// Bytes of an entry's key (S3 allows 1024, paths 4096).
pub const ENTRY_KEY_BYTES_MAX: u64 = 8 * 1024;
/// Attributes of one entry.
pub const ENTRY_ATTRIBUTES_MAX: u64 = 256;
/// Bytes of an attribute's name.
pub const ATTRIBUTE_NAME_BYTES_MAX: u64 = 1024;
/// Bytes of an attribute's value (a bucket policy is at most 20 KiB, CORS rules 64 KiB).
pub const ATTRIBUTE_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of one encoded entry row.
pub const ENTRY_BYTES_MAX: u64 = 1024 * 1024;
/// Extents that an entry row holds itself; longer content has a recipe.
pub const ENTRY_EXTENTS_MAX: u64 = 16;
/// Plain bytes of a secrets bundle.
pub const BUNDLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Files in a secrets bundle.
pub const BUNDLE_FILES_MAX: u64 = 1024;
/// Bytes of a name or label in a manifest.
pub const NAME_BYTES_MAX: u64 = 4096;
/// Memory of a key derivation, in KiB: refused above before anything is allocated.
pub const KDF_MEMORY_KIB_MAX: u32 = 2 * 1024 * 1024;
/// Memory of a key derivation, in KiB: refused below (OWASP's minimum for Argon2id).
pub const KDF_MEMORY_KIB_MIN: u32 = 19_456;
/// Passes of a key derivation.
pub const KDF_PASSES_MAX: u32 = 16;
/// Lanes of a key derivation.
pub const KDF_LANES_MAX: u32 = 16;

// 1 KiB is for everything else in a config or slot.
const _: () = assert!(2 * EPOCHS_MAX * (super::config::PUBLIC_KEY_LEN as u64 + 8) + 1024 <= CONFIG_BYTES_MAX);
const _: () = assert!(2 * EPOCHS_MAX * (super::config::PUBLIC_KEY_LEN as u64 + 8) + 1024 <= SLOT_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX <= SEGMENT_BYTES_MAX);
const _: () = assert!(SEGMENT_STORED_BYTES_MAX < PACK_BYTES_MAX);
const _: () = assert!(DIRECTORY_BYTES_MAX < PACK_BYTES_MAX);

/// Returns `found` where it is within `max`.
pub fn check(what: &'static str, found: u64, max: u64) -> Result<u64, Error> {
    if found > max { Err(Error::TooLarge { what, found, max }) } else { Ok(found) }
}
