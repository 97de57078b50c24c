//! A look at what a store can do, with small objects of its own below `probe/`.
//!
//! Each ability is tried on its own: one that fails hides none of the others. What was put is taken away again
//! where that is allowed.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, EncodingType};
use bytes::Bytes;
use futures::future::join_all;

use super::client::{Bucket, Refusal, S3Error};
use super::list::{PAGE_NAMES, decode, time};
use super::states::{self, OldStates, Said};
use super::view::exact;
use super::{PROBES, S3Backend};
use crate::backend::{Error, Operation, Pace, Request};
use crate::format::object::ObjectKey;

/// Objects that are put, read and listed.
const OBJECTS: usize = 8;
/// Puts of one name at the same time.
const RACERS: usize = 12;
/// Reads of which the middle one's time is the latency.
const READS: usize = 9;
/// Between two states of one object: more than what a store that tells whole seconds leaves open.
const BETWEEN_STATES: Duration = Duration::from_secs(2);

/// What came of one ability's trial; why it could not be tried.
pub type Found<T> = Result<T, S3Error>;

/// What a bucket says of its old states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// It keeps them.
    Enabled,
    /// It kept them once.
    Suspended,
    /// It never did.
    Off,
}

/// What a store can do.
#[derive(Debug)]
pub struct Probe {
    /// Whether each object was read back as it was put, at once.
    pub read_after_write: Found<bool>,
    /// How many of so many new objects a listing showed at once.
    pub listed: Found<(usize, usize)>,
    /// Whether a put that asks not to replace anything was refused, and replaced nothing.
    pub conditional_put: Found<bool>,
    /// How many of so many racing puts of one name were told that they made it.
    pub racing_winners: Found<(usize, usize)>,
    /// As `conditional_put`, for an object that is put in parts.
    pub conditional_parts: Found<bool>,
    /// Whether old states of objects are kept.
    pub versioning: Found<Versioning>,
    /// What a look at a moment makes of what the store says of old states; `None` where it keeps none.
    pub old_states: Found<Option<OldStates>>,
    /// Whether objects can be locked.
    pub object_lock: Found<bool>,
    /// How far the store's clock is ahead of this host's, in seconds; whole ones, for it tells no less.
    pub clock_ahead_secs: Found<i64>,
    /// How long the answer to a small read takes.
    pub latency: Found<Duration>,
    /// Whether what was put could be removed, and was gone then.
    pub delete: Found<bool>,
}

/// A state of an object, as the store tells it.
struct Told {
    id: String,
    time: SystemTime,
    is_latest: bool,
    /// `None` where it is a removal.
    len: Option<u64>,
}

struct Prober<'a> {
    bucket: &'a Arc<Bucket>,
    /// What the names of this look begin with.
    start: String,
}

impl S3Backend {
    /// Tries what the store can do. `now` is this host's clock.
    pub async fn probe(&self, pace: &dyn Pace, now: &(dyn Fn() -> SystemTime + Sync)) -> Probe {
        let random = RandomState::new().hash_one(now());
        let prober = Prober { bucket: &self.bucket, start: format!("{}{PROBES}{random:016x}-", self.bucket.prefix) };
        let names: Vec<String> = (0..OBJECTS).map(|number| prober.name(number)).collect();
        let read_after_write = prober.read_after_write(&names).await;
        let listed = prober.listed(&names).await;
        let conditional_put = prober.conditional_put(&names).await;
        let racing_winners = prober.racing_winners().await;
        let conditional_parts = prober.conditional_parts(&names).await;
        let versioning = prober.versioning().await;
        let old_states = match versioning {
            Ok(Versioning::Enabled) => prober.old_states(pace).await.map(Some),
            _ => Ok(None),
        };
        let object_lock = prober.object_lock().await;
        let clock_ahead_secs = prober.clock_ahead_secs(now).await;
        let latency = prober.latency(&names, pace).await;
        let delete = prober.delete(&names).await;
        Probe {
            read_after_write,
            listed,
            conditional_put,
            racing_winners,
            conditional_parts,
            versioning,
            old_states,
            object_lock,
            clock_ahead_secs,
            latency,
            delete,
        }
    }
}

impl S3Backend {
    /// Returns the error of a store that takes nothing at all.
    #[must_use]
    pub fn trial_failed(&self, error: S3Error) -> Error {
        self.bucket.error(Operation::Put, None, error)
    }
}

/// Returns what a bucket says of its old states.
pub(super) const fn versioning(status: Option<&BucketVersioningStatus>) -> Versioning {
    match status {
        Some(BucketVersioningStatus::Enabled) => Versioning::Enabled,
        Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
        _ => Versioning::Off,
    }
}

/// Returns what makes one of these objects differ from the others.
fn content(name: &str) -> Bytes {
    Bytes::from(format!("orkvault looks at what this store can do: {name}"))
}

impl Prober<'_> {
    fn name(&self, number: usize) -> String {
        format!("{}{number}", self.start)
    }

    fn wrong(&self, refusal: Refusal) -> S3Error {
        self.bucket.classify(refusal)
    }

    /// Returns whether the put was accepted; `false` where its condition was not met.
    async fn put(&self, name: &str, bytes: Bytes) -> Found<bool> {
        self.bucket.count(Request::Put, bytes.len() as u64);
        let request = || self.bucket.client.put_object().bucket(&self.bucket.name).key(name);
        let body = ByteStream::from(bytes.clone());
        match request().if_none_match("*").body(body).send().await.map_err(Refusal::from) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.knows_no_conditions() => {
                self.bucket.count(Request::Put, bytes.len() as u64);
                let plain = request().body(ByteStream::from(bytes)).send().await;
                plain.map(|_| true).map_err(|error| self.wrong(error.into()))
            }
            Err(refusal) if refusal.status == 412 => Ok(false),
            // Where two meet, AWS sends one away.
            Err(refusal) if refusal.status == 409 => Ok(false),
            Err(refusal) => Err(self.wrong(refusal)),
        }
    }

    async fn get(&self, name: &str) -> Found<Option<Bytes>> {
        self.bucket.count(Request::Get, 0);
        match self.bucket.client.get_object().bucket(&self.bucket.name).key(name).send().await.map_err(Refusal::from) {
            Ok(answer) => match answer.body.collect().await {
                Ok(body) => Ok(Some(body.into_bytes())),
                Err(error) => Err(S3Error::Body { reason: error.to_string() }),
            },
            Err(refusal) if refusal.status == 404 => Ok(None),
            Err(refusal) => Err(self.wrong(refusal)),
        }
    }

    async fn read_after_write(&self, names: &[String]) -> Found<bool> {
        let mut is_good = true;
        for name in names {
            is_good &= self.put(name, content(name)).await?;
            is_good &= self.get(name).await? == Some(content(name));
        }
        Ok(is_good)
    }

    async fn listed(&self, names: &[String]) -> Found<(usize, usize)> {
        self.bucket.count(Request::List, 0);
        let request = self.bucket.client.list_objects_v2().bucket(&self.bucket.name).prefix(&self.start);
        let request = request.max_keys(PAGE_NAMES).encoding_type(EncodingType::Url);
        let answer = request.send().await.map_err(|error| self.wrong(error.into()))?;
        let shown = answer.contents().iter().filter_map(|object| decode(object.key()?));
        Ok((shown.filter(|name| names.contains(name)).count(), names.len()))
    }

    async fn conditional_put(&self, names: &[String]) -> Found<bool> {
        let Some(name) = names.first() else { return Ok(false) };
        let was_refused = !self.put(name, Bytes::from_static(b"another")).await?;
        Ok(was_refused && self.get(name).await? == Some(content(name)))
    }

    async fn racing_winners(&self) -> Found<(usize, usize)> {
        let name = format!("{}race", self.start);
        let puts = join_all((0..RACERS).map(|number| self.put(&name, content(&number.to_string())))).await;
        let mut winners = 0;
        for put in puts {
            winners += usize::from(put?);
        }
        let _left = self.remove(&name).await;
        Ok((winners, RACERS))
    }

    async fn conditional_parts(&self, names: &[String]) -> Found<bool> {
        let Some(name) = names.first() else { return Ok(false) };
        let (client, bucket) = (&self.bucket.client, &self.bucket.name);
        self.bucket.count(Request::Put, 0);
        let begun = client.create_multipart_upload().bucket(bucket).key(name).send().await;
        let begun = begun.map_err(|error| self.wrong(error.into()))?;
        let id = begun.upload_id().unwrap_or_default();
        let done = self.finish_parts(name, id).await;
        if !matches!(done, Ok(true)) {
            self.bucket.count(Request::Delete, 0);
            let _aborted = client.abort_multipart_upload().bucket(bucket).key(name).upload_id(id).send().await;
        }
        Ok(!done?)
    }

    /// Returns whether the object was put.
    async fn finish_parts(&self, name: &str, id: &str) -> Found<bool> {
        let (client, bucket) = (&self.bucket.client, &self.bucket.name);
        self.bucket.count(Request::Put, 7);
        let part = client.upload_part().bucket(bucket).key(name).upload_id(id).part_number(1);
        let part = part.body(ByteStream::from_static(b"another")).send().await;
        let part = part.map_err(|error| self.wrong(error.into()))?;
        let part = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).build();
        self.bucket.count(Request::Put, 0);
        let request = client.complete_multipart_upload().bucket(bucket).key(name).upload_id(id).if_none_match("*");
        let request = request.multipart_upload(CompletedMultipartUpload::builder().parts(part).build());
        match request.send().await.map_err(Refusal::from) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.status == 412 || refusal.status == 409 => Ok(false),
            Err(refusal) => Err(self.wrong(refusal)),
        }
    }

    async fn versioning(&self) -> Found<Versioning> {
        self.bucket.count(Request::Lock, 0);
        let answer = self.bucket.client.get_bucket_versioning().bucket(&self.bucket.name).send().await;
        Ok(versioning(answer.map_err(|error| self.wrong(error.into()))?.status()))
    }

    /// Puts an object, replaces and removes it, and looks at what was there between.
    async fn old_states(&self, pace: &dyn Pace) -> Found<OldStates> {
        let name = format!("{}states", self.start);
        let no_time = || S3Error::Answer { field: "time of a state" };
        let (half, mut known) = (BETWEEN_STATES / 2, Vec::new());
        let mut last = None;
        for body in ["once", "once more"] {
            self.bucket.count(Request::Put, body.len() as u64);
            let request = self.bucket.client.put_object().bucket(&self.bucket.name).key(&name);
            let put = request.body(ByteStream::from_static(body.as_bytes())).send().await;
            put.map_err(|error| self.wrong(error.into()))?;
            // By the store's clock, and while nothing was replaced: then all of them tell the truth.
            let told = self.states(&name).await?.into_iter().find(|state| state.is_latest);
            let put_at = told.ok_or_else(no_time)?.time;
            known.push((put_at.checked_sub(half).ok_or_else(no_time)?, last));
            last = Some(body.len() as u64);
            known.push((put_at.checked_add(half).ok_or_else(no_time)?, last));
            pace.sleep(BETWEEN_STATES).await;
        }
        if self.remove(&name).await.is_ok() {
            last = None;
        }
        let states = self.states(&name).await?;
        let end = states.iter().map(|state| state.time).max().and_then(|end| end.checked_add(BETWEEN_STATES));
        known.push((end.ok_or_else(no_time)?, last));
        let said = states.iter().map(|state| Said {
            id: &state.id,
            time: state.time,
            is_latest: state.is_latest,
            len: state.len,
        });
        // Under whose name they are looked at is all the same.
        Ok(states::judge(ObjectKey::Config, &said.collect::<Vec<_>>(), &known))
    }

    /// Returns what the store says of an object's states.
    async fn states(&self, name: &str) -> Found<Vec<Told>> {
        self.bucket.count(Request::List, 0);
        let request = self.bucket.client.list_object_versions().bucket(&self.bucket.name).prefix(name);
        let answer = request.send().await.map_err(|error| self.wrong(error.into()))?;
        let told = |id: Option<&str>, time: Option<&DateTime>, is_latest: Option<bool>, len| {
            let (id, time) = (id?.to_owned(), time.and_then(exact)?);
            Some(Told { id, time, is_latest: is_latest.unwrap_or(false), len })
        };
        let puts = answer.versions().iter().map(|state| {
            let len = state.size().and_then(|len| u64::try_from(len).ok())?;
            told(state.version_id(), state.last_modified(), state.is_latest(), Some(len))
        });
        let removals = answer.delete_markers().iter();
        let removals = removals.map(|state| told(state.version_id(), state.last_modified(), state.is_latest(), None));
        let all = puts.chain(removals).collect::<Option<_>>();
        all.ok_or(S3Error::Answer { field: "version" })
    }

    async fn object_lock(&self) -> Found<bool> {
        self.bucket.count(Request::Lock, 0);
        let request = self.bucket.client.get_object_lock_configuration().bucket(&self.bucket.name);
        match request.send().await.map_err(Refusal::from) {
            Ok(answer) => {
                Ok(answer.object_lock_configuration().is_some_and(|lock| lock.object_lock_enabled().is_some()))
            }
            Err(refusal) if refusal.status == 404 && refusal.code != "NoSuchBucket" => Ok(false),
            Err(refusal) => Err(self.wrong(refusal)),
        }
    }

    async fn clock_ahead_secs(&self, now: &(dyn Fn() -> SystemTime + Sync)) -> Found<i64> {
        let name = format!("{}clock", self.start);
        let before = now();
        self.put(&name, content(&name)).await?;
        let after = now();
        self.bucket.count(Request::Head, 0);
        let answer = self.bucket.client.head_object().bucket(&self.bucket.name).key(&name).send().await;
        let stored = answer.map_err(|error| self.wrong(error.into()))?.last_modified().and_then(time);
        let _left = self.remove(&name).await;
        let stored = stored.ok_or(S3Error::Answer { field: "time of an object" })?;
        let secs = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        // Between the two, or in the second in which they are, the clocks agree.
        match (stored.duration_since(after), before.duration_since(stored)) {
            (Ok(ahead), _) => Ok(secs(ahead)),
            (_, Ok(behind)) if behind >= Duration::from_secs(1) => Ok(-secs(behind)),
            _ => Ok(0),
        }
    }

    async fn latency(&self, names: &[String], pace: &dyn Pace) -> Found<Duration> {
        let mut times = Vec::with_capacity(READS);
        for name in names.iter().cycle().take(READS) {
            let began = pace.now();
            self.get(name).await?;
            times.push(pace.now().saturating_sub(began));
        }
        times.sort_unstable();
        times.get(READS / 2).copied().ok_or(S3Error::Answer { field: "object to time" })
    }

    async fn delete(&self, names: &[String]) -> Found<bool> {
        let mut is_gone = true;
        for name in names {
            self.remove(name).await?;
            is_gone &= self.get(name).await?.is_none();
        }
        Ok(is_gone)
    }

    /// Whether that is allowed is a trial of its own.
    async fn remove(&self, name: &str) -> Found<()> {
        self.bucket.count(Request::Delete, 0);
        let request = self.bucket.client.delete_object().bucket(&self.bucket.name).key(name);
        request.send().await.map(drop).map_err(|error| self.wrong(error.into()))
    }
}
