//! A bucket that keeps old states, as it was at one moment: what somebody deleted or replaced since is there.
//!
//! Which state of each object counts is looked up once, at the first use, and held: an entry per object. Nothing
//! can be changed through this.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::EncodingType;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::OnceCell;

use super::client::{Bucket, Refusal, S3Error};
use super::list::{PAGE_NAMES, decode};
use super::probe::Versioning;
use super::read::{self, Which};
use super::states::{Said, State, States};
use super::{S3Backend, S3Options};
use crate::backend::{Backend, Error, Listed, ObjectInfo, Operation, Put, Request};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// Pages of the list of states: at 1000 states each.
const PAGES_MAX: u32 = 1_000_000;

/// A backend that shows a bucket as it was. See the head of this file.
pub struct S3View {
    bucket: Arc<Bucket>,
    as_of: SystemTime,
    states: OnceCell<BTreeMap<ObjectKey, State>>,
}

impl fmt::Debug for S3View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3View").field("location", &self.location()).field("as_of", &self.as_of).finish_non_exhaustive()
    }
}

impl S3View {
    /// Makes the client. Nothing is sent. `as_of` is a moment of the store's clock.
    pub fn new(options: S3Options, as_of: SystemTime) -> Result<Self, Error> {
        Ok(Self { bucket: S3Backend::new(options)?.bucket, as_of, states: OnceCell::new() })
    }

    async fn states(&self) -> Result<&BTreeMap<ObjectKey, State>, Error> {
        self.states.get_or_try_init(|| self.load()).await
    }

    async fn load(&self) -> Result<BTreeMap<ObjectKey, State>, Error> {
        let bucket = &self.bucket;
        bucket.count(Request::Lock, 0);
        // Who may not ask finds out by what is there.
        if let Ok(answer) = bucket.client.get_bucket_versioning().bucket(&bucket.name).send().await
            && super::probe::versioning(answer.status()) == Versioning::Off
        {
            return Err(bucket.error(Operation::List, None, S3Error::NoOldStates { bucket: bucket.name.clone() }));
        }
        let mut states = States::new(self.as_of);
        let (mut name_marker, mut id_marker): (Option<String>, Option<String>) = (None, None);
        for _ in 0..PAGES_MAX {
            bucket.count(Request::List, 0);
            let request = bucket.client.list_object_versions().bucket(&bucket.name).prefix(&bucket.prefix);
            let request = request.max_keys(PAGE_NAMES).encoding_type(EncodingType::Url);
            let request = request.set_key_marker(name_marker.clone()).set_version_id_marker(id_marker.clone());
            let answer = match request.send().await {
                Ok(answer) => answer,
                Err(error) => return Err(bucket.failed(Operation::List, None, Refusal::from(error)).await),
            };
            let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
            for version in answer.versions() {
                let len = version.size().and_then(|len| u64::try_from(len).ok());
                let len = len.ok_or_else(|| self.wrong(S3Error::Answer { field: "version" }))?;
                let (id, is_latest) = (version.version_id(), version.is_latest());
                let said = self.said(id, version.last_modified(), is_latest, Some(len))?;
                self.take(&mut states, version.key(), is_encoded, &said)?;
            }
            for removed in answer.delete_markers() {
                let said = self.said(removed.version_id(), removed.last_modified(), removed.is_latest(), None)?;
                self.take(&mut states, removed.key(), is_encoded, &said)?;
            }
            if !answer.is_truncated().unwrap_or(false) {
                return states.finish().map_err(|error| self.wrong(error));
            }
            let next = answer.next_key_marker().filter(|name| !name.is_empty()).map(str::to_owned);
            let next_id = answer.next_version_id_marker().map(str::to_owned);
            if next.is_none() || (&next, &next_id) == (&name_marker, &id_marker) {
                break;
            }
            (name_marker, id_marker) = (next, next_id);
        }
        Err(self.wrong(S3Error::ListingRepeats { last: name_marker.unwrap_or_default() }))
    }

    fn wrong(&self, error: S3Error) -> Error {
        self.bucket.error(Operation::List, None, error)
    }

    fn said<'a>(
        &self,
        id: Option<&'a str>,
        time: Option<&DateTime>,
        is_latest: Option<bool>,
        len: Option<u64>,
    ) -> Result<Said<'a>, Error> {
        let missing = || self.wrong(S3Error::Answer { field: "version" });
        let (id, time) = (id.ok_or_else(missing)?, time.and_then(exact).ok_or_else(missing)?);
        Ok(Said { id, time, is_latest: is_latest.unwrap_or(false), len })
    }

    /// Takes one state. Names that are no objects of ours are left out.
    fn take(&self, states: &mut States, name: Option<&str>, is_encoded: bool, said: &Said<'_>) -> Result<(), Error> {
        let Some(name) = name else { return Ok(()) };
        let name = if is_encoded { decode(name) } else { Some(name.to_owned()) };
        let inside = name.as_deref().and_then(|name| name.strip_prefix(&self.bucket.prefix));
        let Some(Ok(key)) = inside.map(str::parse::<ObjectKey>) else { return Ok(()) };
        states.take(key, said).map_err(|error| self.wrong(error))
    }

    async fn version(&self, key: ObjectKey) -> Result<(String, u64), Error> {
        let state = self.states().await?.get(&key).and_then(|state| state.content.clone());
        state.ok_or_else(|| Error::NotFound { key, location: self.location() })
    }

    fn read_only<T>(&self, operation: Operation, key: Option<ObjectKey>) -> Result<T, Error> {
        Err(self.bucket.error(operation, key, S3Error::ReadOnly))
    }
}

/// Returns the server's time with the fraction that it has.
pub(super) fn exact(time: &DateTime) -> Option<SystemTime> {
    let secs = u64::try_from(time.secs()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(secs, time.subsec_nanos()))
}

#[async_trait]
impl Backend for S3View {
    fn location(&self) -> String {
        self.bucket.location()
    }

    async fn put(&self, key: ObjectKey, _body: Vec<Bytes>) -> Result<Put, Error> {
        self.read_only(Operation::Put, Some(key))
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        let (version, _) = self.version(key).await?;
        read::get(&self.bucket, Which { key, version: Some(&version) }, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        let (version, _) = self.version(key).await?;
        read::get_range(&self.bucket, Which { key, version: Some(&version) }, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        Ok(self.states().await?.get(&key).and_then(|state| state.info(key)))
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let start = async move {
            match self.states().await {
                Err(error) => stream::iter([Err(error)]).boxed(),
                Ok(states) => {
                    let below = states.iter().filter(move |(key, _)| key.to_string().starts_with(prefix.path()));
                    stream::iter(below.filter_map(|(key, state)| Some(Ok(Listed::Object(state.info(*key)?))))).boxed()
                }
            }
        };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.read_only(Operation::Delete, Some(key))
    }

    async fn sweep(&self, _before: SystemTime) -> Result<u64, Error> {
        self.read_only(Operation::Sweep, None)
    }
}

impl State {
    fn info(&self, key: ObjectKey) -> Option<ObjectInfo> {
        let (_, len) = self.content.as_ref()?;
        Some(ObjectInfo { key, len: *len, modified: Some(self.since) })
    }
}
