//! Reads a directory tree into an entry table.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;

use super::attributes::{Attributes, Kind, Stamp};
use super::read::{self, Opened};
use super::walk::{Found, Walk, Warnings, open_root};
use super::{Error, ROOT_FACTS};
use crate::component::{
    ByteStream, Capture, Captured, CatalogueRow, Content, Entry, Error as ComponentError, Run, Source, StoredContent,
};

/// Rows fetched from the walk at a time; each may hold a directory's descriptor.
const BATCH: usize = 64;

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct DirectoryOptions {
    /// The component's name.
    pub name: String,
    /// The tree's root; a link to a directory is followed here only.
    pub root: PathBuf,
    /// Paths that are passed over wherever the walk comes to what they lead to: the repository, `backups`.
    pub excluded: Vec<PathBuf>,
    /// The time now, nanoseconds since 1970.
    pub now_ns: i128,
    /// Read every file, also where length, times and inode are those of the previous snapshot.
    pub refresh: bool,
}

/// A directory tree as a component.
#[derive(Debug)]
pub struct DirectorySource {
    options: DirectoryOptions,
}

/// What has been captured so far.
#[derive(Default)]
struct Tally {
    files: u64,
    directories: u64,
    symlinks: u64,
    bytes: u64,
    unchanged: u64,
    warnings: Warnings,
}

/// The previous snapshot's rows, read along with the walk.
struct Previous {
    row: Option<(Entry, Option<StoredContent>)>,
    ended: bool,
}

impl DirectorySource {
    /// Returns the source. Touches nothing yet.
    pub fn new(options: DirectoryOptions) -> Self {
        Self { options }
    }

    async fn add(
        &self,
        found: Found,
        out: &mut dyn Capture,
        previous: &mut Previous,
        tally: &mut Tally,
    ) -> Result<(), ComponentError> {
        let path = self.options.root.join(lossless(&found.key));
        if found.kind != Kind::File {
            let count = if found.kind == Kind::Directory { &mut tally.directories } else { &mut tally.symlinks };
            *count += 1;
            let attributes = Attributes::of(&found.stat, found.kind).encode(None, self.options.now_ns);
            return out.entry(Entry { key: found.key, attributes, len: 0 }, Content::Nothing).await;
        }
        let stamp = Stamp::of(&found.stat);
        if let Some(content) = previous.unchanged(out, &found.key, stamp).await? {
            tally.unchanged += 1;
            tally.count(stamp.len);
            return out.entry(self.row(found.key, &found.stat), Content::Stored(content)).await;
        }
        let Found { key, parent, name, .. } = found;
        let shown = path.clone();
        let prepared = blocking(path.clone(), move || prepare(&parent, &name, &shown)).await?;
        let Some(prepared) = prepared else {
            tally.warnings.add(format!("{path:?} vanished while the tree was read"));
            return Ok(());
        };
        let (stat, body, grew) = prepared.into_body(path.clone());
        tally.count(Stamp::of(&stat).len);
        out.entry(self.row(key, &stat), Content::Bytes(body)).await?;
        if grew.load(Ordering::Relaxed) {
            tally.warnings.add(format!("{path:?} grew while it was read: what it held at first was captured"));
        }
        Ok(())
    }

    fn row(&self, key: Vec<u8>, stat: &rustix::fs::Stat) -> Entry {
        let stamp = Stamp::of(stat);
        let attributes = Attributes::of(stat, Kind::File).encode(Some(stamp), self.options.now_ns);
        Entry { key, attributes, len: stamp.len }
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn component(&self) -> &str {
        &self.options.name
    }

    fn describe(&self) -> String {
        format!("{}: files below {:?}", self.options.name, self.options.root)
    }

    async fn probe(&mut self) -> Result<(), ComponentError> {
        let root = self.options.root.clone();
        blocking(root.clone(), move || open_root(&root).map(drop)).await
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, ComponentError> {
        let (root, excluded) = (self.options.root.clone(), self.options.excluded.clone());
        let (mut walk, root) = blocking(root.clone(), move || {
            let walk = Walk::open(&root, &excluded)?;
            let root = walk.root_stat()?;
            Ok((walk, root))
        })
        .await?;
        let mut previous = Previous { row: None, ended: self.options.refresh };
        let mut tally = Tally::default();
        loop {
            let (returned, batch) = blocking(self.options.root.clone(), move || {
                let batch = walk.take(BATCH)?;
                Ok((walk, batch))
            })
            .await?;
            walk = returned;
            if batch.is_empty() {
                break;
            }
            for found in batch {
                self.add(found, out, &mut previous, &mut tally).await?;
            }
        }
        let mut warnings = walk.warnings.into_lines();
        let mut captured = tally.into_captured(&self.options, &mut warnings);
        captured.facts.extend(Attributes::root_facts(&root, ROOT_FACTS));
        Ok(captured)
    }
}

impl Tally {
    fn count(&mut self, len: u64) {
        self.files += 1;
        self.bytes += len;
    }

    fn into_captured(self, options: &DirectoryOptions, warnings: &mut Vec<String>) -> Captured {
        warnings.extend(self.warnings.into_lines());
        let facts = [
            ("root", options.root.to_string_lossy().into_owned()),
            ("files", self.files.to_string()),
            ("directories", self.directories.to_string()),
            ("symlinks", self.symlinks.to_string()),
            ("files_unchanged", self.unchanged.to_string()),
        ];
        Captured {
            // each file is whole; they are not all of one moment
            consistency: "per-file".to_owned(),
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            catalogue: vec![CatalogueRow {
                name: options.name.clone(),
                kind: "directory".to_owned(),
                records: self.files,
                bytes: self.bytes,
            }],
            warnings: std::mem::take(warnings),
        }
    }
}

impl Previous {
    /// Returns the previous content of `key` where the file is still the same.
    async fn unchanged(
        &mut self,
        out: &mut dyn Capture,
        key: &[u8],
        stamp: Stamp,
    ) -> Result<Option<StoredContent>, ComponentError> {
        while !self.ended && self.row.as_ref().is_none_or(|(entry, _)| entry.key.as_slice() < key) {
            self.row = out.previous().await?;
            self.ended = self.row.is_none();
        }
        Ok(match &self.row {
            Some((entry, Some(content))) if entry.key == key && stamp.is_of(entry) => Some(content.clone()),
            _ => None,
        })
    }
}

/// A file ready to be stored: read whole if it is small.
struct Prepared {
    opened: Opened,
    whole: Option<Vec<u8>>,
}

fn prepare(
    parent: &std::os::fd::OwnedFd,
    name: &std::ffi::CStr,
    path: &std::path::Path,
) -> Result<Option<Prepared>, Error> {
    let Some(mut opened) = read::open(parent, name, path)? else { return Ok(None) };
    let whole = read::read_whole(&mut opened, read::SMALL_MAX, path)?;
    Ok(Some(Prepared { opened, whole }))
}

impl Prepared {
    fn into_body(mut self, path: PathBuf) -> (rustix::fs::Stat, ByteStream, Arc<AtomicBool>) {
        let grew = Arc::new(AtomicBool::new(false));
        let stat = self.opened.stat;
        let body: ByteStream = match self.whole.take() {
            Some(bytes) if bytes.is_empty() => Box::pin(stream::empty()),
            Some(bytes) => Box::pin(stream::iter([Ok(Run::from(Bytes::from(bytes)))])),
            None => {
                // a small file that outgrew the limit while it was read is read from its start
                let rewound = std::io::Seek::rewind(&mut self.opened.file);
                match rewound {
                    Ok(()) => read::read_stream(self.opened, path, Arc::clone(&grew)),
                    Err(source) => {
                        let error = Error::Io { action: "reading", path, source };
                        Box::pin(stream::iter([Err(error.into())]))
                    }
                }
            }
        };
        (stat, body, grew)
    }
}

fn lossless(key: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(key)
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T, F>(path: PathBuf, work: F) -> Result<T, ComponentError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    Ok(tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Interrupted { path }))?)
}
