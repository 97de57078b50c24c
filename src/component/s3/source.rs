//! Reading all buckets into one entry table.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};

use super::client::{Access, Server, place};
use super::fetch::{Fetched, Outcome, Reader, SMALL_LEN_MAX};
use super::listing::{Listed, Lister};
use super::rows::{Decision, StoredRow, decide, row_key, sort_buckets, split_row_key};
use super::{COMPONENT, Error, Lines, bucket};
use crate::component::{self, Capture, Captured, CatalogueRow, Content, Entry, Source, StoredContent};

/// Requests for small objects and metadata that are under way at once.
const WINDOW: usize = 16;

/// Whether tags of unchanged objects are read again: no listing shows that tags changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TagReading {
    /// Only with objects that are new or changed.
    #[default]
    Changed,
    /// Metadata and tags of every object, the content of changed ones only.
    Refresh,
}

/// What to capture.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Only these buckets, which must all exist; empty: all buckets.
    pub buckets: Vec<String>,
    /// Tags of unchanged objects.
    pub tags: TagReading,
}

/// All buckets of a server, or some.
pub struct BucketsSource {
    server: Arc<Server>,
    options: SourceOptions,
    found_by: String,
}

impl BucketsSource {
    /// Sets the source up; nothing is sent. `found_by` says in a few words where the address comes from.
    pub fn new(access: &Access, options: SourceOptions, found_by: String) -> Result<Self, Error> {
        Ok(Self { server: Server::new(access)?, options, found_by })
    }

    /// Returns the buckets to capture, in row order.
    async fn wanted(&self) -> Result<Vec<String>, Error> {
        let mut names = self.server.bucket_names().await?;
        if !self.options.buckets.is_empty() {
            let missing = self.options.buckets.iter().find(|wanted| !names.contains(wanted));
            if let Some(missing) = missing {
                return Err(Error::NoSuchBucket { place: place("ListBuckets", Some(missing), None) });
            }
            names.retain(|name| self.options.buckets.contains(name));
        }
        sort_buckets(&mut names);
        Ok(names)
    }
}

#[async_trait]
impl Source for BucketsSource {
    fn component(&self) -> &str {
        COMPONENT
    }

    fn describe(&self) -> String {
        describe(self.server.endpoint(), &self.options.buckets, &self.found_by)
    }

    async fn probe(&mut self) -> Result<(), component::Error> {
        self.wanted().await?;
        Ok(())
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, component::Error> {
        let mut pass = Pass {
            server: Arc::clone(&self.server),
            tags: self.options.tags,
            previous: Previous { out, next: None, ended: false },
            warnings: Lines::default(),
            catalogue: Vec::new(),
            kept: 0,
            read: 0,
            versioned: 0,
        };
        let filter = &self.options.buckets;
        let mut names = VecDeque::from(self.wanted().await?);
        // The server looks for the first page while the previous rows are being made ready.
        let mut begun = names.front().map(|name| pass.list(name));
        while let Some(name) = pass.next_bucket(&mut names, filter).await? {
            let lister = begun.take_if(|begun| begun.bucket() == name).unwrap_or_else(|| pass.list(&name));
            pass.bucket(lister).await?;
        }
        if self.server.tags_unsupported() {
            pass.warnings.push("the server does not support object tags: none were captured".to_owned());
        }
        Ok(pass.captured(&self.options))
    }
}

/// Returns the line that says where buckets are read or written.
pub(super) fn describe(endpoint: &str, buckets: &[String], found_by: &str) -> String {
    let which = if buckets.is_empty() { "all buckets".to_owned() } else { format!("buckets {}", buckets.join(", ")) };
    if found_by.is_empty() { format!("{which} at {endpoint}") } else { format!("{which} at {endpoint} ({found_by})") }
}

/// The previous snapshot's rows, one of which is looked at.
struct Previous<'a> {
    out: &'a mut dyn Capture,
    next: Option<(Entry, Option<StoredContent>)>,
    ended: bool,
}

impl Previous<'_> {
    async fn peek(&mut self) -> Result<Option<&(Entry, Option<StoredContent>)>, component::Error> {
        if self.next.is_none() && !self.ended {
            self.next = self.out.previous().await?;
            self.ended = self.next.is_none();
        }
        Ok(self.next.as_ref())
    }

    /// Returns the next row if it is an object of this bucket; drops the bucket's own row on the way.
    async fn peek_object(&mut self, bucket: &str) -> Result<Option<&(Entry, Option<StoredContent>)>, component::Error> {
        while let Some((entry, _)) = self.peek().await? {
            let (of_bucket, object) = split_row_key(&entry.key)?;
            if of_bucket != bucket {
                return Ok(None);
            }
            if !object.is_empty() {
                break;
            }
            self.next = None;
        }
        Ok(self.next.as_ref())
    }
}

/// A row that is ready to be stored, or nothing where the object is gone.
struct Row {
    row: Option<(Entry, Content)>,
    warnings: Vec<String>,
    /// True where the content comes from the previous snapshot.
    kept: bool,
}

/// What a bucket's next object needs.
enum Step {
    /// Quick: may be done beside others.
    Job(BoxFuture<'static, Result<Row, Error>>),
    /// A long object: streamed alone, because others under way would stall meanwhile.
    Long(Listed),
    /// The bucket is done.
    End,
}

/// One capture.
struct Pass<'a> {
    server: Arc<Server>,
    tags: TagReading,
    previous: Previous<'a>,
    warnings: Lines,
    catalogue: Vec<CatalogueRow>,
    kept: u64,
    read: u64,
    /// Buckets with versioning: of their objects, only the current version is captured.
    versioned: u64,
}

impl Pass<'_> {
    /// Returns the next bucket to capture: listed, or stored and still there though not listed.
    async fn next_bucket(
        &mut self,
        names: &mut VecDeque<String>,
        filter: &[String],
    ) -> Result<Option<String>, component::Error> {
        while let Some((entry, _)) = self.previous.peek().await? {
            let (stored, _) = split_row_key(&entry.key)?;
            let stored = stored.to_owned();
            if names.front().is_some_and(|listed| row_key(listed, "") <= row_key(&stored, "")) {
                break;
            }
            let wanted = filter.is_empty() || filter.contains(&stored);
            if wanted && self.still_exists(&stored).await? {
                self.warnings.push(format!("bucket {stored} exists but was missing from the list of buckets"));
                return Ok(Some(stored));
            }
            self.skip_bucket(&stored).await?;
        }
        Ok(names.pop_front())
    }

    /// Asks by name for a bucket that the previous snapshot has and the list of buckets has not.
    async fn still_exists(&mut self, bucket: &str) -> Result<bool, Error> {
        match self.server.has_bucket(bucket).await {
            // Where names are shared by everybody, somebody else may have it by now.
            Err(Error::AccessDenied { .. }) => {
                self.warnings.push(format!("bucket {bucket} is not listed any more and may not be read: left out"));
                Ok(false)
            }
            other => other,
        }
    }

    /// Passes over the previous rows of a bucket that is no more.
    async fn skip_bucket(&mut self, bucket: &str) -> Result<(), component::Error> {
        while self.previous.peek_object(bucket).await?.is_some() {
            self.previous.next = None;
        }
        Ok(())
    }

    fn list(&self, bucket: &str) -> Lister {
        Lister::new(Arc::clone(&self.server), bucket)
    }

    async fn bucket(&mut self, mut lister: Lister) -> Result<(), component::Error> {
        let name = lister.bucket().to_owned();
        let attributes = bucket::read(&self.server, &name, &mut self.warnings).await?;
        self.versioned += u64::from(attributes.contains_key(bucket::VERSIONING));
        let entry = Entry { key: row_key(&name, ""), attributes, len: 0 };
        self.previous.out.entry(entry, Content::Nothing).await?;
        self.catalogue.push(CatalogueRow { name: name.clone(), kind: "bucket".to_owned(), records: 0, bytes: 0 });

        let reader = Arc::new(Reader { server: Arc::clone(&self.server), bucket: name });
        let mut window = FuturesOrdered::new();
        let mut long = None;
        let mut ended = false;
        loop {
            while window.len() < WINDOW && long.is_none() && !ended {
                match self.step(&reader, &mut lister).await? {
                    Step::Job(job) => window.push_back(job),
                    Step::Long(listed) => long = Some(listed),
                    Step::End => ended = true,
                }
            }
            if let Some(row) = window.next().await {
                self.store(row?).await?;
            } else if let Some(listed) = long.take() {
                let row = read(Arc::clone(&reader), listed).await?;
                self.store(row).await?;
            } else {
                break;
            }
        }
        self.warnings.extend(lister.warnings());
        Ok(())
    }

    /// Decides about the next object of the bucket.
    async fn step(&mut self, reader: &Arc<Reader>, lister: &mut Lister) -> Result<Step, component::Error> {
        let listed = lister.peek().await?;
        let previous = self.previous.peek_object(&reader.bucket).await?;
        let stored = match previous {
            Some((entry, content)) => Some(StoredRow {
                object: split_row_key(&entry.key)?.1,
                attributes: &entry.attributes,
                len: entry.len,
                has_content: content.is_some() || entry.len == 0,
            }),
            None => None,
        };
        let decision = decide(listed, stored);
        let previous = match decision {
            Decision::Keep | Decision::Missing | Decision::Fetch { also_stored: true } => self.previous.next.take(),
            Decision::Fetch { also_stored: false } | Decision::End => None,
        };
        let listed = if decision == Decision::Missing { None } else { lister.take() };
        Ok(match (decision, listed, previous) {
            (Decision::Keep, Some(listed), Some((entry, content))) => self.keep(reader, listed, entry, content),
            (Decision::Fetch { .. }, Some(listed), _) if listed.len > SMALL_LEN_MAX => Step::Long(listed),
            (Decision::Fetch { .. }, Some(listed), _) => Step::Job(read(Arc::clone(reader), listed).boxed()),
            (Decision::Missing, _, Some((entry, _))) => {
                let key = split_row_key(&entry.key)?.1.to_owned();
                Step::Job(look_for(Arc::clone(reader), key).boxed())
            }
            _ => Step::End,
        })
    }

    fn keep(&self, reader: &Arc<Reader>, listed: Listed, entry: Entry, content: Option<StoredContent>) -> Step {
        let reader = Arc::clone(reader);
        let content = content.map_or_else(|| Content::Bytes(component::in_memory(Bytes::new())), Content::Stored);
        match self.tags {
            TagReading::Changed => {
                let row = Row { row: Some((entry, content)), warnings: Vec::new(), kept: true };
                Step::Job(futures::future::ready(Ok(row)).boxed())
            }
            TagReading::Refresh => Step::Job(refresh(reader, listed, entry, content).boxed()),
        }
    }

    async fn store(&mut self, row: Row) -> Result<(), component::Error> {
        self.warnings.extend(row.warnings);
        let Some((entry, content)) = row.row else { return Ok(()) };
        if row.kept {
            self.kept += 1;
        } else {
            self.read += 1;
        }
        let len = entry.len;
        self.previous.out.entry(entry, content).await?;
        if let Some(bucket) = self.catalogue.last_mut() {
            bucket.records += 1;
            bucket.bytes = bucket.bytes.saturating_add(len);
        }
        Ok(())
    }

    fn captured(self, options: &SourceOptions) -> Captured {
        let mut facts = BTreeMap::from([
            ("endpoint".to_owned(), self.server.endpoint().to_owned()),
            ("buckets".to_owned(), self.catalogue.len().to_string()),
            ("objects_unchanged".to_owned(), self.kept.to_string()),
            ("objects_read".to_owned(), self.read.to_string()),
        ]);
        if self.versioned > 0 {
            facts.insert("versions".to_owned(), "current only".to_owned());
        }
        if !options.buckets.is_empty() {
            facts.insert("bucket_filter".to_owned(), options.buckets.join(","));
        }
        Captured {
            // Each object is whole and of one moment; two objects may be of two moments.
            consistency: "fuzzy".to_owned(),
            facts,
            catalogue: self.catalogue,
            warnings: self.warnings.into_lines(),
        }
    }
}

async fn read(reader: Arc<Reader>, listed: Listed) -> Result<Row, Error> {
    let key = listed.key.clone();
    Ok(row(&reader.bucket, &key, reader.fetch(listed).await?))
}

async fn look_for(reader: Arc<Reader>, key: String) -> Result<Row, Error> {
    Ok(row(&reader.bucket, &key, reader.look_for(&key).await?))
}

async fn refresh(reader: Arc<Reader>, listed: Listed, mut entry: Entry, content: Content) -> Result<Row, Error> {
    match reader.attributes(&listed).await? {
        Some(attributes) => {
            entry.attributes = attributes;
            Ok(Row { row: Some((entry, content)), warnings: Vec::new(), kept: true })
        }
        None => read(reader, listed).await,
    }
}

fn row(bucket: &str, key: &str, outcome: Outcome) -> Row {
    let row = outcome.fetched.map(|Fetched { attributes, len, body }| {
        (Entry { key: row_key(bucket, key), attributes, len }, Content::Bytes(body))
    });
    Row { row, warnings: outcome.warnings, kept: false }
}
