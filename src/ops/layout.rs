//! How the streams of a snapshot lie in the repository, and so what a restore of them reads. Reads recipes, no
//! content.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Error, NoProgress};
use crate::format::id::ChunkId;
use crate::format::manifest::{ComponentStatus, StreamRecord};
use crate::repo::{self, LoadedSnapshot, Reader, Repository};

/// How one stream lies in the repository. All lengths are in bytes, before compression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// The stream's length.
    pub stream_bytes: u64,
    /// Runs of bytes that lie together.
    pub extents: u64,
    /// Chunks of which something is used, at their whole length; each once for every page of the recipe.
    pub chunk_bytes: u64,
    /// Segments of which something is used, at their whole length, each once: what a restore decodes at least.
    pub segment_bytes: u64,
    /// The recipe's root and pages, without the pages of older snapshots that they are edits of.
    pub recipe_bytes: u64,
}

impl Layout {
    /// Returns how many bytes a restore decodes for each byte of the stream; 1 for an empty one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn read_amplification(&self) -> f64 {
        if self.stream_bytes == 0 { 1.0 } else { self.segment_bytes as f64 / self.stream_bytes as f64 }
    }
}

/// Returns the layout of every named stream of the complete components of a snapshot, by component and stream.
/// Any key of the data namespace does. Memory: 8 bytes for each segment of a stream, and one page.
pub async fn layouts(
    repository: &Repository,
    snapshot: &LoadedSnapshot,
) -> Result<BTreeMap<(String, String), Layout>, Error> {
    super::load_index(repository, &NoProgress).await?;
    let reader = Reader::new(repository)?;
    let mut found = BTreeMap::new();
    for (component, record) in &snapshot.manifest.orkvault.components {
        if record.status != ComponentStatus::Complete {
            continue;
        }
        for (name, stream) in &record.streams {
            found.insert((component.clone(), name.clone()), layout(repository, &reader, stream).await?);
        }
    }
    Ok(found)
}

async fn layout(repository: &Repository, reader: &Arc<Reader>, stream: &StreamRecord) -> Result<Layout, Error> {
    let find = |chunk: &ChunkId| {
        let missing = || repo::Error::ChunkMissing { chunk: *chunk };
        repository.index().find(chunk).and_then(|place| place.ok_or_else(missing))
    };
    let root = reader.recipe_root(&stream.recipe).await?;
    let recipe_bytes = u64::from(find(&stream.recipe)?.len);
    let mut layout = Layout { stream_bytes: stream.length, recipe_bytes, ..Layout::default() };
    let mut segments = HashSet::new();
    for page in &root.pages {
        layout.recipe_bytes += u64::from(find(&page.chunk)?.len);
        let mut chunks = HashSet::new();
        for extent in reader.recipe_page(&page.chunk, page.stream_len).await?.extents() {
            layout.extents += 1;
            if chunks.insert(extent.chunk) {
                layout.chunk_bytes += u64::from(extent.chunk_len);
                let segment = find(&extent.chunk)?.segment;
                if segments.insert(segment.row) {
                    let lens = segment.record.chunks.iter().map(|chunk| u64::from(chunk.len));
                    layout.segment_bytes += lens.sum::<u64>();
                }
            }
        }
    }
    Ok(layout)
}
