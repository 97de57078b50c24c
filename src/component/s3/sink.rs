//! Putting buckets back: what differs is uploaded, the rest stays as it is.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt, StreamExt};

use super::attributes::Attributes;
use super::client::{Access, Server};
use super::fetch::SMALL_LEN_MAX;
use super::rows::split_row_key;
use super::source::describe;
use super::target::{Side, Target, has_same_content};
use super::upload::{Trouble, Writer, gather};
use super::{COMPONENT, Error, Lines, bucket};
use crate::component::{self, Entry, RestorePlan, Restored, Sink, Stored, StoredContent};

/// Requests for small objects that are under way at once.
const WINDOW: usize = 16;

/// What becomes of objects in a restored bucket that the snapshot does not have.
/// Whole buckets that the snapshot does not have are never touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extras {
    /// They stay (`--merge`).
    #[default]
    Keep,
    /// They are deleted (`--exact`).
    Delete,
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// Only these buckets; empty: all of the snapshot.
    pub buckets: Vec<String>,
    /// Objects that the snapshot does not have.
    pub extras: Extras,
    /// Objects from this length on are uploaded in parts; shorter ones are held in memory. Bytes.
    pub parts_from: u64,
    /// Length of a part: at least 5 MiB for most servers. Bytes. One part is held in memory; an object of more
    /// than 10,000 parts (160 GiB with the default) goes in longer ones.
    pub part_len: u64,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self { buckets: Vec::new(), extras: Extras::Keep, parts_from: 64 << 20, part_len: 16 << 20 }
    }
}

/// Restores into a server's buckets.
pub struct BucketsSink {
    server: Arc<Server>,
    options: SinkOptions,
    found_by: String,
}

impl BucketsSink {
    /// Sets the sink up; nothing is sent. `found_by` says in a few words where the address comes from.
    pub fn new(access: &Access, options: SinkOptions, found_by: String) -> Result<Self, Error> {
        Ok(Self { server: Server::new(access)?, options, found_by })
    }
}

#[async_trait]
impl Sink for BucketsSink {
    fn component(&self) -> &str {
        COMPONENT
    }

    fn describe(&self) -> String {
        describe(self.server.endpoint(), &self.options.buckets, &self.found_by)
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, component::Error> {
        let existing = self.server.bucket_names().await?;
        let mut plan = RestorePlan::default();
        let mut rows = Rows::start(stored, &self.options.buckets).await?;
        while let Some((name, _)) = rows.next_bucket().await? {
            let exists = existing.contains(&name);
            let counts = count(&self.server, &mut rows, &name, exists, &mut plan.warnings).await?;
            counts.describe(&name, exists, self.options.extras, &mut plan);
        }
        rows.check_wanted()?;
        plan.warnings.extend(rows.left_out());
        let untouched = existing.iter().filter(|name| !rows.seen.contains(*name)).count();
        if untouched > 0 {
            plan.warnings
                .push(format!("{untouched} buckets of the target are not in the restore and stay as they are"));
        }
        Ok(plan)
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, component::Error> {
        let existing = self.server.bucket_names().await?;
        let mut rows = Rows::start(stored, &self.options.buckets).await?;
        let mut report = Report::default();
        while let Some((name, attributes)) = rows.next_bucket().await? {
            let exists = existing.contains(&name);
            let writer = Writer { server: Arc::clone(&self.server), bucket: name, checksum: None };
            let mut pass = Pass {
                writer,
                options: &self.options,
                report: &mut report,
                puts: FuturesUnordered::new(),
                tally: Tally::default(),
            };
            pass.bucket(&mut rows, &attributes, exists).await?;
        }
        rows.check_wanted()?;
        report.warnings.extend(rows.left_out());
        if report.failures.count > 0 {
            let count = report.failures.count;
            return Err(Error::NotRestored { count, first: report.failures.first }.into());
        }
        Ok(Restored { bytes: report.bytes, notes: report.notes, warnings: report.warnings.into_lines() })
    }
}

/// The snapshot's rows, bucket by bucket.
struct Rows<'a> {
    stored: &'a mut dyn Stored,
    wanted: &'a [String],
    next: Option<(Entry, Option<StoredContent>)>,
    seen: Vec<String>,
    /// Buckets of the snapshot that are not wanted.
    unwanted: Lines,
}

impl<'a> Rows<'a> {
    async fn start(stored: &'a mut dyn Stored, wanted: &'a [String]) -> Result<Self, component::Error> {
        stored.rewind().await?;
        let next = stored.next_entry().await?;
        Ok(Self { stored, wanted, next, seen: Vec::new(), unwanted: Lines::default() })
    }

    /// Goes on to the next wanted bucket; returns its name and configuration.
    async fn next_bucket(&mut self) -> Result<Option<(String, Attributes)>, component::Error> {
        while let Some((entry, _)) = &self.next {
            let (name, object) = split_row_key(&entry.key)?;
            let row = String::from_utf8_lossy(&entry.key).into_owned();
            let is_new = self.seen.last().is_none_or(|last| last != name);
            let is_wanted = self.wanted.is_empty() || self.wanted.iter().any(|wanted| wanted == name);
            if object.is_empty() && !is_wanted {
                self.unwanted.push(name.to_owned());
            }
            if object.is_empty() && is_wanted {
                let found = (name.to_owned(), entry.attributes.clone());
                self.seen.push(found.0.clone());
                self.next = self.stored.next_entry().await?;
                return Ok(Some(found));
            }
            // Objects without their bucket's row before them are not what a capture writes.
            if !object.is_empty() && self.wanted.is_empty() && is_new {
                return Err(Error::StrangeRow { row }.into());
            }
            self.next = self.stored.next_entry().await?;
        }
        Ok(None)
    }

    /// Returns the key of the bucket's next object, without taking it.
    fn peek_object(&self, bucket: &str) -> Result<Option<&str>, Error> {
        let Some((entry, _)) = &self.next else { return Ok(None) };
        let (of_bucket, object) = split_row_key(&entry.key)?;
        Ok((of_bucket == bucket && !object.is_empty()).then_some(object))
    }

    async fn take(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, component::Error> {
        let next = self.stored.next_entry().await?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// Returns how many objects the catalogue has of a bucket.
    fn captured_records(&self, bucket: &str) -> Option<u64> {
        self.stored.captured().catalogue.iter().find(|row| row.name == bucket).map(|row| row.records)
    }

    /// Returns the line that names the buckets of the snapshot that are not restored. For after the last row.
    fn left_out(&mut self) -> Option<String> {
        let unwanted = std::mem::take(&mut self.unwanted);
        (unwanted.count > 0).then(|| {
            let (names, wanted) = (unwanted.into_lines().join(", "), self.wanted.join(", "));
            format!("buckets of the snapshot that are not restored, because only {wanted} are asked for: {names}")
        })
    }

    /// Fails when a bucket that was asked for never came. For after the last row.
    fn check_wanted(&self) -> Result<(), Error> {
        let missing = self.wanted.iter().find(|wanted| !self.seen.contains(wanted));
        missing.map_or(Ok(()), |bucket| Err(Error::NotInSnapshot { bucket: bucket.clone() }))
    }
}

/// How many objects of a bucket are what, judged by the listing alone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    new: u64,
    replaced: u64,
    same: u64,
    extra: u64,
    bytes: u64,
}

impl Counts {
    fn describe(&self, name: &str, exists: bool, extras: Extras, plan: &mut RestorePlan) {
        let Self { new, replaced, same, extra, bytes } = self;
        if !exists {
            plan.creates.push(format!("bucket {name} with {new} objects ({bytes} bytes)"));
            return;
        }
        if *new > 0 {
            plan.creates.push(format!("bucket {name}: {new} objects that it does not have"));
        }
        if *replaced > 0 {
            plan.replaces.push(format!("bucket {name}: {replaced} objects with other content"));
        }
        match extras {
            Extras::Delete if *extra > 0 => {
                plan.replaces
                    .push(format!("bucket {name}: {extra} objects that the snapshot does not have are deleted"));
            }
            Extras::Keep if *extra > 0 => {
                plan.warnings.push(format!("bucket {name}: {extra} objects that the snapshot does not have stay"));
            }
            Extras::Keep | Extras::Delete => {}
        }
        if *same > 0 {
            let line = format!(
                "bucket {name}: {same} objects have the same content; headers and tags that differ are restored"
            );
            plan.replaces.push(line);
        }
    }
}

/// Compares a bucket's rows with the target's listing; ends with the rows at the next bucket.
async fn count(
    server: &Arc<Server>,
    rows: &mut Rows<'_>,
    bucket: &str,
    exists: bool,
    warnings: &mut Vec<String>,
) -> Result<Counts, component::Error> {
    let mut target = if exists { Target::existing(server, bucket) } else { Target::absent() };
    let mut counts = Counts::default();
    loop {
        let target_has = match target.next(rows.peek_object(bucket)?).await? {
            Side::End => break,
            Side::Extra(_) => {
                counts.extra += 1;
                continue;
            }
            Side::Stored(target_has) => target_has,
        };
        let Some((entry, _)) = rows.take().await? else { break };
        counts.bytes = counts.bytes.saturating_add(entry.len);
        match target_has {
            None => counts.new += 1,
            Some(listed) if has_same_content(&listed, &entry.attributes, entry.len) => counts.same += 1,
            Some(_) => counts.replaced += 1,
        }
    }
    warnings.extend(target.warnings());
    Ok(counts)
}

/// What all buckets came to.
#[derive(Default)]
struct Report {
    bytes: u64,
    notes: Vec<String>,
    warnings: Lines,
    failures: Lines,
}

/// What one bucket came to.
#[derive(Default)]
struct Tally {
    uploaded: u64,
    identical: u64,
    deleted: u64,
    extra: u64,
    failed: u64,
}

/// An object of the snapshot, compared with the target's.
struct Compared {
    entry: Entry,
    content: Option<StoredContent>,
    key: String,
    upload: bool,
}

/// What one job beside others came to.
enum Finished {
    Uploaded { bytes: u64, warnings: Vec<String> },
    Deleted,
    Failed(Error),
}

/// The restore of one bucket.
struct Pass<'a> {
    writer: Writer,
    options: &'a SinkOptions,
    report: &'a mut Report,
    puts: FuturesUnordered<BoxFuture<'static, Finished>>,
    tally: Tally,
}

impl Pass<'_> {
    async fn bucket(&mut self, rows: &mut Rows<'_>, stored: &Attributes, exists: bool) -> Result<(), component::Error> {
        let name = self.writer.bucket.clone();
        if !exists && let Err(error) = self.create(bucket::has_object_lock(stored)).await {
            return self.give_up_bucket(rows, error).await;
        }
        let server = Arc::clone(&self.writer.server);
        // What reading the target's settings warns of is told by what then cannot be set.
        let now = bucket::read(&server, &name, &mut Lines::default()).await?;
        // Servers that lock objects want proof that what they lock is what was sent.
        self.writer.checksum = bucket::has_object_lock(&now).then_some(ChecksumAlgorithm::Crc32);
        bucket::restore_before(&server, &name, stored, &now, &mut self.report.warnings).await;
        let target = if exists { Target::existing(&server, &name) } else { Target::absent() };
        self.objects(rows, target).await?;
        bucket::restore_after(&server, &name, stored, &now, &mut self.report.warnings).await?;
        let Tally { uploaded, identical, deleted, extra, failed } = self.tally;
        let restored = uploaded + identical + failed;
        if let Some(captured) = rows.captured_records(&name).filter(|captured| *captured != restored) {
            let line = format!("bucket {name}: the catalogue has {captured} objects, the entry table {restored}");
            self.report.warnings.push(line);
        }
        let created = if exists { "" } else { "created, " };
        self.report.notes.push(format!(
            "bucket {name}: {created}{uploaded} objects uploaded, {identical} identical, {deleted} deleted, {extra} others left, {failed} failed"
        ));
        Ok(())
    }

    async fn create(&mut self, object_lock: bool) -> Result<(), Error> {
        let request = self.writer.server.client.create_bucket().bucket(&self.writer.bucket);
        let request = if object_lock { request.object_lock_enabled_for_bucket(true) } else { request };
        let place = super::client::place("CreateBucket", Some(&self.writer.bucket), None);
        request.send().await.map_err(|error| self.writer.server.classify(error, place))?;
        Ok(())
    }

    /// Passes over the objects of a bucket that cannot be created; the others are still restored.
    async fn give_up_bucket(&mut self, rows: &mut Rows<'_>, error: Error) -> Result<(), component::Error> {
        if error.is_hopeless() {
            return Err(error.into());
        }
        let mut objects = 0_u64;
        while rows.peek_object(&self.writer.bucket)?.is_some() {
            rows.take().await?;
            objects += 1;
        }
        self.report.failures.push(format!("{error} (its {objects} objects)"));
        Ok(())
    }

    async fn objects(&mut self, rows: &mut Rows<'_>, mut target: Target) -> Result<(), component::Error> {
        let mut comparing = FuturesOrdered::new();
        let mut ready = VecDeque::new();
        let mut ended = false;
        loop {
            while comparing.len() + ready.len() < WINDOW && !ended {
                match self.next(rows, &mut target).await? {
                    Some(job) => comparing.push_back(job),
                    None => ended = true,
                }
            }
            if ready.is_empty() {
                let Some(compared) = comparing.next().await else { break };
                ready.push_back(compared?);
            }
            let Some(compared) = ready.pop_front() else { break };
            if !compared.upload {
                self.tally.identical += 1;
            } else if compared.entry.len <= SMALL_LEN_MAX {
                self.upload_small(rows, compared).await?;
            } else {
                // A long upload would stall what is under way, so that goes first.
                while let Some(other) = comparing.next().await {
                    ready.push_back(other?);
                }
                self.settle(0).await?;
                self.upload_long(rows, compared).await?;
            }
        }
        self.settle(0).await?;
        self.report.warnings.extend(target.warnings());
        Ok(())
    }

    /// Returns the comparison of the bucket's next object, `None` after the last.
    async fn next(
        &mut self,
        rows: &mut Rows<'_>,
        target: &mut Target,
    ) -> Result<Option<BoxFuture<'static, Result<Compared, Error>>>, component::Error> {
        loop {
            let side = target.next(rows.peek_object(&self.writer.bucket)?).await?;
            let listed = match side {
                Side::End => return Ok(None),
                Side::Extra(listed) => {
                    self.extra(listed.key).await?;
                    continue;
                }
                Side::Stored(listed) => listed,
            };
            let Some((entry, content)) = rows.take().await? else { return Ok(None) };
            let key = split_row_key(&entry.key)?.1.to_owned();
            let same = listed.is_some_and(|listed| has_same_content(&listed, &entry.attributes, entry.len));
            let compared = Compared { entry, content, key, upload: true };
            let job = if same {
                compare(self.writer.clone(), compared).boxed()
            } else {
                futures::future::ready(Ok(compared)).boxed()
            };
            return Ok(Some(job));
        }
    }

    async fn extra(&mut self, key: String) -> Result<(), component::Error> {
        if self.options.extras == Extras::Keep {
            self.tally.extra += 1;
            return Ok(());
        }
        let writer = self.writer.clone();
        let job = async move {
            match writer.delete(&key).await {
                Ok(()) => Finished::Deleted,
                Err(error) => Finished::Failed(error),
            }
        };
        self.start(job.boxed()).await
    }

    async fn upload_small(&mut self, rows: &mut Rows<'_>, compared: Compared) -> Result<(), component::Error> {
        let bytes = self.content(rows, &compared).await?;
        let writer = self.writer.clone();
        let job = async move {
            match writer.put(&compared.entry, &compared.key, bytes).await {
                Ok(warnings) => Finished::Uploaded { bytes: compared.entry.len, warnings },
                Err(error) => Finished::Failed(error),
            }
        };
        self.start(job.boxed()).await
    }

    async fn upload_long(&mut self, rows: &mut Rows<'_>, compared: Compared) -> Result<(), component::Error> {
        let bytes = compared.entry.len;
        let written = if bytes < self.options.parts_from {
            let content = self.content(rows, &compared).await?;
            self.writer.put(&compared.entry, &compared.key, content).await.map_err(Trouble::from)
        } else {
            let body = match &compared.content {
                Some(content) => rows.stored.open_content(&compared.entry, content).await?,
                None => component::in_memory(Bytes::new()),
            };
            self.writer.put_parts(&compared.entry, &compared.key, body, self.options.part_len).await
        };
        match written {
            Ok(warnings) => self.finish(Finished::Uploaded { bytes, warnings }),
            Err(Trouble::Object(error)) => self.finish(Finished::Failed(error)),
            Err(Trouble::Restore(error)) => Err(error),
        }
    }

    async fn content(&mut self, rows: &mut Rows<'_>, compared: &Compared) -> Result<Bytes, component::Error> {
        let place = self.writer.place("PutObject", &compared.key);
        let body = match &compared.content {
            Some(content) => rows.stored.open_content(&compared.entry, content).await?,
            None => component::in_memory(Bytes::new()),
        };
        gather(body, place, compared.entry.len).await
    }

    /// Starts a job beside others, when there is room for it.
    async fn start(&mut self, job: BoxFuture<'static, Finished>) -> Result<(), component::Error> {
        self.settle(WINDOW - 1).await?;
        self.puts.push(job);
        Ok(())
    }

    /// Waits until at most `left` jobs are under way.
    async fn settle(&mut self, left: usize) -> Result<(), component::Error> {
        while self.puts.len() > left {
            let Some(finished) = self.puts.next().await else { break };
            self.finish(finished)?;
        }
        Ok(())
    }

    fn finish(&mut self, finished: Finished) -> Result<(), component::Error> {
        match finished {
            Finished::Uploaded { bytes, warnings } => {
                self.tally.uploaded += 1;
                self.report.bytes = self.report.bytes.saturating_add(bytes);
                self.report.warnings.extend(warnings);
            }
            Finished::Deleted => self.tally.deleted += 1,
            Finished::Failed(error) if error.is_hopeless() => return Err(error.into()),
            Finished::Failed(error) => {
                self.tally.failed += 1;
                self.report.failures.push(error.to_string());
            }
        }
        Ok(())
    }
}

/// Looks whether an object of the same content has the same headers, metadata and tags too.
async fn compare(writer: Writer, mut compared: Compared) -> Result<Compared, Error> {
    compared.upload = match writer.compare(&compared.entry, &compared.key).await {
        Ok(differences) => differences.is_none_or(|names| !names.is_empty()),
        Err(error) if error.is_hopeless() => return Err(error),
        Err(_) => true,
    };
    Ok(compared)
}
