//! A bucket of an S3 server: one object per object, at the object's name below a prefix.
//!
//! A put asks the server for "only where nothing is" (`If-None-Match: *`), so that of racing puts one wins. A
//! server that knows no such condition is safe all the same: names are hashes of what they name, or random, and
//! the config, whose name everybody chooses, is looked at before and after. Long objects go in parts, which the
//! server shows as one object or not at all. Nothing is repeated here: that is the retry decorator's.
//!
//! Credentials are in the SDK's type, which wipes them, and in no message.

mod checksum;
mod client;
mod container;
mod list;
mod lock;
mod paced;
mod probe;
mod put;
mod read;
mod states;
mod view;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::ObjectLockMode;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Backend, Error, Lines, Listed, Lock, Locked, ObjectInfo, Operation, Put, Request, Traffic};
use crate::format::object::{ObjectKey, ObjectPrefix};

pub use client::S3Error;
use client::{Bucket, Refusal};
use container::ContainerProvider;
pub use container::{ContainerError, ContainerToken};
pub use probe::{Found, Probe, Versioning};
use read::Which;
pub use states::OldStates;
pub use view::S3View;

/// Where looks at a store's abilities leave what they cannot take away again.
const PROBES: &str = "probe/";
/// Longer objects are put in parts: so long a pack is that is meant for a bucket, and a segment more.
const WHOLE_BYTES_MAX: u64 = 24 << 20;
/// Of this length.
const PART_BYTES: u64 = 8 << 20;

/// How object URLs name the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// `http://server/bucket/name`: RustFS, MinIO and most others.
    #[default]
    Path,
    /// `http://bucket.server/name`: AWS.
    VirtualHost,
}

/// Whether the store keeps a put from replacing an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conditions {
    /// Asked for; a store that refuses to be asked is not asked again.
    #[default]
    Asked,
    /// The store has no such thing: it is looked whether the name is taken before each put.
    Absent,
}

impl Conditions {
    const fn code(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Absent => 1,
        }
    }
}

/// Who may take an object's lock away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// Nobody, before its time.
    #[default]
    Compliance,
    /// Who has a special permission.
    Governance,
}

impl LockMode {
    const fn sdk(self) -> ObjectLockMode {
        match self {
            Self::Compliance => ObjectLockMode::Compliance,
            Self::Governance => ObjectLockMode::Governance,
        }
    }
}

/// How long new objects are locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewLock {
    /// Who may take it away; also of locks that are made longer.
    pub mode: LockMode,
    /// Until when, by the store's clock.
    pub until: SystemTime,
}

impl NewLock {
    fn until_sdk(&self) -> DateTime {
        DateTime::from(self.until)
    }
}

/// How long a request may take. Nothing waits without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer; a request that sends an object has more, by its length, and time in which its line
    /// carries something is not counted.
    pub read: Duration,
    /// A body that brings nothing for so long is broken.
    pub stalled: Duration,
    /// What a server may need besides to put the parts of a long object together.
    pub assembly: Duration,
    /// Slower counts as stuck. Bytes a second, measured over an object, without what is waited for a line.
    pub bytes_per_sec_min: u64,
}

impl Default for S3Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            assembly: Duration::from_secs(240),
            bytes_per_sec_min: 16 << 10,
        }
    }
}

/// Who asks. No `Debug`, no `Display`; wiped when the last copy goes.
#[derive(Clone)]
pub struct S3Credentials {
    provider: SharedCredentialsProvider,
}

impl S3Credentials {
    /// Takes keys that stay the same for the whole run. The token belongs to temporary ones.
    #[must_use]
    pub fn fixed(access_key_id: &str, secret_access_key: &str, session_token: Option<&str>) -> Self {
        let token = session_token.map(str::to_owned);
        let credentials = Credentials::new(access_key_id, secret_access_key, token, None, "orkvault");
        Self { provider: SharedCredentialsProvider::new(credentials) }
    }

    /// Asks the service that runs this container, at an address like `http://169.254.170.2/v2/credentials/...`,
    /// and again before what it gave expires. Nothing is sent yet.
    pub fn of_container(uri: &str, token: ContainerToken) -> Result<Self, ContainerError> {
        Ok(Self { provider: SharedCredentialsProvider::new(ContainerProvider::new(uri, token)?) })
    }
}

/// Where the bucket is, who asks, and how. Nothing is taken from `AWS_*` variables, profiles or metadata services.
pub struct S3Options {
    /// `http://127.0.0.1:9000`, without credentials; `None` is AWS in `region`.
    pub endpoint: Option<String>,
    /// `us-east-1` where the server does not care.
    pub region: String,
    /// The bucket, which is there.
    pub bucket: String,
    /// What all names begin with: empty, or ending in `/`.
    pub prefix: String,
    /// How the bucket is addressed.
    pub addressing: Addressing,
    /// Who asks.
    pub credentials: S3Credentials,
    /// Limits of time.
    pub patience: S3Patience,
    /// Whether puts may ask not to replace anything.
    pub conditions: Conditions,
    /// How long new objects are locked; `None`: not by us.
    pub lock: Option<NewLock>,
    /// Where requests are counted.
    pub traffic: Arc<Traffic>,
    /// The lines that bodies go over, out and in.
    pub lines: Lines,
}

/// A backend in a bucket. Clones share their client.
#[derive(Clone)]
pub struct S3Backend {
    bucket: Arc<Bucket>,
    conditions: Arc<AtomicU8>,
    lock: Option<NewLock>,
    whole_bytes_max: u64,
    part_bytes: u64,
}

impl fmt::Debug for S3Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Backend").field("location", &self.bucket.location()).finish_non_exhaustive()
    }
}

impl S3Backend {
    /// Makes the client. Nothing is sent: whether there is a bucket shows with the first operation.
    pub fn new(options: S3Options) -> Result<Self, Error> {
        let at = format!("s3://{}/{}", options.bucket, options.prefix).trim_end_matches('/').to_owned();
        let (conditions, lock) = (options.conditions, options.lock);
        let bucket = Bucket::new(options).map_err(|error| Error::Failed {
            operation: Operation::Open,
            key: None,
            at,
            kind: error.kind(),
            source: Box::new(error),
        })?;
        let conditions = Arc::new(AtomicU8::new(conditions.code()));
        Ok(Self {
            bucket: Arc::new(bucket),
            conditions,
            lock,
            whole_bytes_max: WHOLE_BYTES_MAX,
            part_bytes: PART_BYTES,
        })
    }

    /// Puts objects in parts that are longer than this, in parts of this length. S3 takes parts from 5 MiB on.
    #[must_use]
    pub fn with_part_bytes(self, part_bytes: u64) -> Self {
        Self { whole_bytes_max: part_bytes.max(1), part_bytes: part_bytes.max(1), ..self }
    }
}

#[async_trait]
impl Backend for S3Backend {
    fn location(&self) -> String {
        self.bucket.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        self.put_object(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        read::get(&self.bucket, Which { key, version: None }, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        read::get_range(&self.bucket, Which { key, version: None }, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        read::stat(&self.bucket, Which { key, version: None }).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        list::list(&self.bucket, prefix)
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        let bucket = &self.bucket;
        bucket.count(Request::Delete, 0);
        match bucket.client.delete_object().bucket(&bucket.name).key(bucket.path(key)).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let refusal = Refusal::from(error);
                // S3 says nothing about what is not there; some servers do.
                if refusal.code == "NoSuchKey" {
                    return Ok(());
                }
                Err(bucket.failed(Operation::Delete, Some(key), refusal).await)
            }
        }
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        self.lock_object(key, lock).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        let bucket = &self.bucket;
        let uploads = match list::uploads(bucket).await {
            Ok(uploads) => uploads,
            // A server without such a list has nothing to sweep.
            Err(refusal) if refusal.status == 501 || refusal.code == "NotImplemented" => return Ok(0),
            Err(refusal) => return Err(bucket.failed(Operation::Sweep, None, refusal).await),
        };
        let mut swept = 0;
        for upload in uploads.into_iter().filter(|upload| upload.initiated.is_some_and(|time| time < before)) {
            bucket.count(Request::Delete, 0);
            let request = bucket.client.abort_multipart_upload().bucket(&bucket.name);
            match request.key(upload.name).upload_id(upload.id).send().await {
                Ok(_) => swept += 1,
                Err(error) => {
                    let refusal = Refusal::from(error);
                    // It has ended meanwhile.
                    if refusal.status != 404 {
                        return Err(bucket.failed(Operation::Sweep, None, refusal).await);
                    }
                }
            }
        }
        Ok(swept)
    }
}
