//! The manifest of a snapshot: an `orkestra-backup/v1` document plus what orkvault adds
//! (`docs/FORMAT.md`, section 11).
//!
//! Canonical JSON: UTF-8, keys sorted, no white space, integers only. Unknown fields are refused: a new
//! field is a new version of `orkvault.version`.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::id::{BundleId, ChunkId, ContentHash, RepositoryId, SnapshotId, WriterId};
use super::{Error, limits};

/// The schema that Orkestra's own tools know.
pub const SCHEMA: &str = "orkestra-backup/v1";
/// The schema of a manifest in the secrets namespace.
pub const SECRETS_SCHEMA: &str = "orkvault-secrets/v1";
/// The version of orkvault's own object.
pub const VERSION: u32 = 1;

macro_rules! ids_as_hex {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
ids_as_hex!(BundleId, ChunkId, ContentHash, RepositoryId, SnapshotId, WriterId);

/// The manifest of a snapshot in the data namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the run began: RFC 3339, UTC, whole seconds.
    pub created_at: String,
    /// `ENV` of the stack.
    pub environment: String,
    /// The host that ran orkvault.
    pub host: String,
    /// The components that are complete, in the order of capture.
    pub components: Vec<String>,
    /// What orkvault adds.
    pub orkvault: Details,
}

/// Orkvault's part of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Details {
    /// [`VERSION`].
    pub version: u32,
    /// `orkvault 0.1.0`.
    pub tool: String,
    /// Whether every component that was asked for is complete.
    pub status: SnapshotStatus,
    /// When the run ended: RFC 3339, UTC, whole seconds.
    pub finished_at: String,
    /// Every component that was asked for.
    pub components: BTreeMap<String, ComponentRecord>,
    /// Who wrote it, and what it wrote before.
    pub writer: WriterRecord,
    /// The secrets that belong to this data: of this run, or the newest before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub secrets: Option<SecretsRef>,
    /// The snapshot that this one is a copy of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copied_from: Option<OriginRecord>,
    /// Labels given by the operator.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tags: Vec<String>,
    /// What the run read and stored.
    pub stats: Stats,
}

/// Whether a snapshot may be `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotStatus {
    /// Every component is complete.
    Complete,
    /// At least one is not.
    Incomplete,
}

/// How one component's capture ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentStatus {
    /// Proven whole.
    Complete,
    /// It failed; nothing of it can be restored.
    Failed,
    /// It was never started, because the run ended first.
    Skipped,
}

/// One component of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ComponentRecord {
    /// How it ended.
    pub status: ComponentStatus,
    /// Why, where it is not complete.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// RFC 3339, UTC, whole seconds.
    pub started_at: String,
    /// RFC 3339, UTC, whole seconds.
    pub finished_at: String,
    /// What may be claimed: `fuzzy`, `point-in-time` ...
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub consistency: String,
    /// Tool and server versions and what a restore must know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub facts: BTreeMap<String, String>,
    /// Its named streams.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub streams: BTreeMap<String, StreamRecord>,
    /// Its entry table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entries: Option<TableRecord>,
    /// Its catalogue, a table too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub catalogue: Option<TableRecord>,
    /// Things the operator should hear about though the capture is good.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

impl ComponentRecord {
    /// Returns the record of a complete component that nothing is said of yet.
    #[must_use]
    pub const fn new(started_at: String, finished_at: String) -> Self {
        Self {
            status: ComponentStatus::Complete,
            reason: None,
            started_at,
            finished_at,
            consistency: String::new(),
            facts: BTreeMap::new(),
            streams: BTreeMap::new(),
            entries: None,
            catalogue: None,
            warnings: Vec::new(),
        }
    }
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StreamRecord {
    /// Bytes.
    pub length: u64,
    /// Its BLAKE3, over the bytes as they came in.
    pub blake3: ContentHash,
    /// The root of its recipe.
    pub recipe: ChunkId,
}

/// A table under the meta key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TableRecord {
    /// Rows.
    pub rows: u64,
    /// Bytes of what the rows stand for (0 for a catalogue).
    pub content_bytes: u64,
    /// The table itself.
    pub table: StreamRecord,
}

/// Who wrote a snapshot. Sequence and previous form a chain, which runs at the same time split and the next run
/// joins again: a missing link shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct WriterRecord {
    /// The writer's id.
    pub id: WriterId,
    /// 1 for its first snapshot, then one more than the largest of those in `previous`.
    pub sequence: u64,
    /// Its snapshots that no other of its snapshots followed when the run began: more than one after runs at the
    /// same time. Ids ascend.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub previous: Vec<PreviousRecord>,
}

/// A link of a writer's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PreviousRecord {
    /// Its id.
    pub snapshot: SnapshotId,
    /// BLAKE3 of its stored bytes.
    pub blake3: ContentHash,
}

/// The secrets that belong to a data snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretsRef {
    /// The snapshot in the secrets namespace.
    pub snapshot: SnapshotId,
    /// Where the secrets lay when the run ended, for people; only where they have a backend of their own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<String>,
}

/// Where a copied snapshot was made: the first one, however often it was copied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OriginRecord {
    /// The repository that it was made in.
    pub repository: RepositoryId,
    /// Its id there.
    pub snapshot: SnapshotId,
}

/// What a run read and stored, in bytes and counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Stats {
    /// Bytes of the streams and entries that were read.
    pub read_bytes: u64,
    /// Bytes of chunks that the repository did not have.
    pub new_bytes: u64,
    /// Bytes of packs and index parts written, padding included.
    pub stored_bytes: u64,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Chunks that it had.
    pub known_chunks: u64,
}

/// The manifest of a snapshot in the secrets namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretsManifest {
    /// [`SECRETS_SCHEMA`].
    pub schema: String,
    /// When the run began: RFC 3339, UTC, whole seconds.
    pub created_at: String,
    /// `ENV` of the stack.
    pub environment: String,
    /// The host that ran orkvault.
    pub host: String,
    /// The bundle.
    pub bundle: BundleId,
    /// Files in it.
    pub files: u64,
    /// Who wrote it.
    pub writer: WriterId,
    /// The secrets snapshot that this one is a copy of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copied_from: Option<OriginRecord>,
}

/// Returns the canonical JSON of a document.
#[must_use]
pub fn encode<T: Serialize>(document: &T) -> Vec<u8> {
    // Through `Value`, whose maps are sorted: struct order must not matter to the bytes.
    let value = serde_json::to_value(document).expect("manifests have string keys only");
    serde_json::to_vec(&value).expect("a JSON value always serialises")
}

/// Reads a document. Accepts only what [`encode`] writes.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let what = "manifest";
    limits::check(what, bytes.len() as u64, limits::MANIFEST_BYTES_MAX)?;
    let document =
        serde_json::from_slice(bytes).map_err(|_| Error::BadText { what, expected: "JSON of this version" })?;
    if encode(&document) == bytes { Ok(document) } else { Err(Error::NotCanonical { what }) }
}

impl Manifest {
    /// Reads a manifest and checks schema and version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let manifest: Self = decode(bytes)?;
        if manifest.schema != SCHEMA {
            return Err(Error::BadText { what: "manifest schema", expected: SCHEMA });
        }
        if manifest.orkvault.version != VERSION {
            return Err(Error::Invalid { what: "manifest version", found: u64::from(manifest.orkvault.version) });
        }
        let previous = &manifest.orkvault.writer.previous;
        if !previous.is_sorted_by(|left, right| left.snapshot < right.snapshot) {
            return Err(Error::NotCanonical { what: "manifest" });
        }
        Ok(manifest)
    }
}

impl SecretsManifest {
    /// Reads a manifest and checks its schema.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let manifest: Self = decode(bytes)?;
        if manifest.schema == SECRETS_SCHEMA {
            Ok(manifest)
        } else {
            Err(Error::BadText { what: "manifest schema", expected: SECRETS_SCHEMA })
        }
    }
}

/// One row of a catalogue, as a line of canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CatalogueLine {
    /// `orkestra.users`, `db0`.
    pub name: String,
    /// `collection`, `view`, `bucket`.
    pub kind: String,
    /// Documents, keys, objects.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}
