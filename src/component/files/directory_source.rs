//! Reads a directory tree into an entry table.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::task::JoinHandle;

use super::ahead::{self, Ahead, Read, WalkAhead, Wanted, read_together};
use super::attributes::{Attributes, Kind, Stamp};
use super::read;
use super::walk::{Found, Walk, Warnings, open_root};
use super::{Error, ROOT_FACTS};
use crate::component::{
    ByteStream, Capture, Captured, CatalogueRow, Content, Entry, Error as ComponentError, Source, StoredContent,
    in_memory,
};

/// Batches of the walk of which files are read while the one before is stored.
const READ_AHEAD: usize = 2;

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

/// Rows of the walk, and the files of them that are being read.
struct Planned {
    steps: Vec<Step>,
    read: Option<JoinHandle<Vec<Result<Ahead, Error>>>>,
}

/// What is to be done for a row: its key, and what is known by now.
enum Step {
    /// A directory or link.
    Other(Vec<u8>, Kind, rustix::fs::Stat),
    Unchanged(Vec<u8>, rustix::fs::Stat, StoredContent),
    Read(Vec<u8>),
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

    /// Decides what is to be done for rows of the walk, and begins to read what is to be read.
    async fn plan(
        &self,
        batch: Vec<Found>,
        out: &mut dyn Capture,
        previous: &mut Previous,
    ) -> Result<Planned, ComponentError> {
        let (mut steps, mut wanted) = (Vec::with_capacity(batch.len()), Vec::new());
        for Found { key, kind, stat, parent, name } in batch {
            if kind != Kind::File {
                steps.push(Step::Other(key, kind, stat));
                continue;
            }
            let stamp = Stamp::of(&stat);
            if let Some(content) = previous.unchanged(out, &key, stamp).await? {
                steps.push(Step::Unchanged(key, stat, content));
            } else {
                let path = self.options.root.join(lossless(&key));
                wanted.push(Wanted { parent, name, path, len: stamp.len });
                steps.push(Step::Read(key));
            }
        }
        let read = (!wanted.is_empty()).then(|| tokio::task::spawn_blocking(move || read_together(wanted)));
        Ok(Planned { steps, read })
    }

    async fn store(&self, planned: Planned, out: &mut dyn Capture, tally: &mut Tally) -> Result<(), ComponentError> {
        let interrupted = |_| Error::Interrupted { path: self.options.root.clone() };
        let read = match planned.read {
            Some(read) => read.await.map_err(interrupted)?,
            None => Vec::new(),
        };
        let mut read = read.into_iter();
        for step in planned.steps {
            match step {
                Step::Other(key, kind, stat) => {
                    let count = if kind == Kind::Directory { &mut tally.directories } else { &mut tally.symlinks };
                    *count += 1;
                    let attributes = Attributes::of(&stat, kind).encode(None, self.options.now_ns);
                    out.entry(Entry { key, attributes, len: 0 }, Content::Nothing).await?;
                }
                Step::Unchanged(key, stat, content) => {
                    tally.unchanged += 1;
                    tally.count(Stamp::of(&stat).len);
                    out.entry(self.row(key, &stat), Content::Stored(content)).await?;
                }
                Step::Read(key) => {
                    let read = read.next().expect("as many as were wanted")?;
                    self.store_file(key, read, out, tally).await?;
                }
            }
        }
        Ok(())
    }

    async fn store_file(
        &self,
        key: Vec<u8>,
        read: Ahead,
        out: &mut dyn Capture,
        tally: &mut Tally,
    ) -> Result<(), ComponentError> {
        let path = self.options.root.join(lossless(&key));
        let read = match read {
            Ahead::Later(wanted) => blocking(path.clone(), move || ahead::read(wanted)).await?,
            Ahead::Read(read) => read,
        };
        let grew = Arc::new(AtomicBool::new(false));
        let (stat, body): (_, ByteStream) = match read {
            Read::Gone => {
                tally.warnings.add(format!("{path:?} vanished while the tree was read"));
                return Ok(());
            }
            Read::Whole(bytes, stat) => (stat, in_memory(bytes.into())),
            Read::Long(mut opened) => {
                // a small file that outgrew the limit while it was read is read from its start
                let io = |source| Error::Io { action: "reading", path: path.clone(), source };
                std::io::Seek::rewind(&mut opened.file).map_err(io)?;
                (opened.stat, read::read_stream(opened, path.clone(), Arc::clone(&grew)))
            }
        };
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
        let (walk, root_stat) = blocking(root.clone(), move || {
            let walk = Walk::open(&root, &excluded)?;
            let root_stat = walk.root_stat()?;
            Ok((walk, root_stat))
        })
        .await?;
        let mut walk = WalkAhead::start(walk);
        let mut previous = Previous { row: None, ended: self.options.refresh };
        let mut tally = Tally::default();
        let mut planned = VecDeque::new();
        loop {
            let batch = walk.next().await;
            let is_over = batch.is_empty();
            planned.push_back(self.plan(batch, out, &mut previous).await?);
            while planned.len() > if is_over { 0 } else { READ_AHEAD } {
                let Some(next) = planned.pop_front() else { break };
                self.store(next, out, &mut tally).await?;
            }
            if is_over {
                break;
            }
        }
        let mut warnings = walk.end(&self.options.root).await?.warnings.into_lines();
        let mut captured = tally.into_captured(&self.options, &mut warnings);
        captured.facts.extend(Attributes::root_facts(&root_stat, ROOT_FACTS));
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
