//! The `rustfs` component: every bucket of an S3 server, object by object.
//!
//! Each bucket is a row `<bucket>/` of one entry table and each object a row `<bucket>/<key>`, in byte
//! order; tonight's listing is merged with last night's table, so that only what changed is read.
//!
//! Attributes of an object: `cache-control`, `content-disposition`, `content-encoding`, `content-language`,
//! `content-type`, `expires`, `website-redirect`, `storage-class`, `etag` (as sent, with its quotes),
//! `last-modified` (RFC 3339), `version-id`, `meta:<name>`, `meta-long` (JSON: metadata whose names are too
//! long for that), `tag:<name>`. Attributes of a bucket: `versioning`
//! (`Enabled`, `Suspended`), `policy` (as sent), `cors`, `lifecycle`, `object-lock` (JSON), `tag:<name>`,
//! `not-supported` and `not-read` (settings, comma-separated).
//!
//! Not captured: versions other than the current one, access control lists, retention and legal holds of
//! single objects, and objects that a server lists to nobody and that no earlier snapshot has (MinIO lists
//! nothing below the key of another object: `a/b` beside `a`).

mod attributes;
mod bucket;
mod client;
mod early;
mod fetch;
mod listing;
mod rows;
mod sink;
mod source;
mod target;
mod upload;
mod writing;

pub use client::{Access, Addressing, Patience};
pub use listing::ListingFault;
pub use sink::{BucketsSink, Extras, SinkOptions};
pub use source::{BucketsSource, SourceOptions, TagReading};

use super::ErrorKind;

/// The component's name, as Orkestra's manifests have it.
pub const COMPONENT: &str = "rustfs";

/// What was asked of the server when something went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The S3 operation, `GetObject`.
    pub operation: &'static str,
    /// The bucket, where it was about one.
    pub bucket: Option<String>,
    /// The object key, where it was about one.
    pub key: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.operation)?;
        match (&self.bucket, &self.key) {
            (Some(bucket), Some(key)) => write!(f, " of {bucket}/{}", key.escape_debug()),
            (Some(bucket), None) => write!(f, " of bucket {bucket}"),
            (None, _) => Ok(()),
        }
    }
}

/// What can go wrong between orkvault and an S3 server. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is not a URL that may be shown and used.
    #[error("the endpoint {reason}")]
    Endpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server knows the access key not, or the secret does not fit it.
    #[error("{place}: the server refused the credentials ({code})")]
    Credentials {
        /// What was asked.
        place: Box<Place>,
        /// The server's error code.
        code: String,
    },
    /// The credentials are good but do not allow this.
    #[error("{place}: access denied")]
    AccessDenied {
        /// What was asked.
        place: Box<Place>,
    },
    /// The clocks of this host and of the server are too far apart.
    #[error("{place}: the clocks of this host and of the server differ too much")]
    ClockSkew {
        /// What was asked.
        place: Box<Place>,
    },
    /// There is no such bucket.
    #[error("{place}: no such bucket")]
    NoSuchBucket {
        /// What was asked.
        place: Box<Place>,
    },
    /// No answer came.
    #[error("{place}: {endpoint} is unreachable: {reason}")]
    Unreachable {
        /// What was asked.
        place: Box<Place>,
        /// The server's address.
        endpoint: String,
        /// What the connection said.
        reason: String,
    },
    /// The answer cannot be read: the object has too much metadata.
    #[error("{place}: the answer has more headers than can be read (100): the object has too much metadata")]
    TooManyHeaders {
        /// What was asked.
        place: Box<Place>,
    },
    /// The server was too busy, also after the last retry.
    #[error("{place}: the server is too busy (status {status})")]
    Throttled {
        /// What was asked.
        place: Box<Place>,
        /// The HTTP status.
        status: u16,
    },
    /// The server does not know this operation.
    #[error("{place}: not supported by the server")]
    NotSupported {
        /// What was asked.
        place: Box<Place>,
    },
    /// The server refused or failed.
    #[error("{place}: failed with status {status}: {code}: {message}")]
    Failed {
        /// What was asked.
        place: Box<Place>,
        /// The HTTP status, 0 where there was none.
        status: u16,
        /// The server's error code.
        code: String,
        /// The server's message, cut to 200 characters.
        message: String,
    },
    /// The answer lacks something that every answer must have.
    #[error("{place}: the answer has no usable {field}")]
    Answer {
        /// What was asked.
        place: Box<Place>,
        /// The missing or malformed part.
        field: &'static str,
    },
    /// The listing of a bucket contradicts itself.
    #[error("the listing of bucket {bucket} cannot be trusted")]
    Listing {
        /// The bucket.
        bucket: String,
        /// How.
        source: ListingFault,
    },
    /// A key that is not UTF-8 cannot be asked for again.
    #[error("bucket {bucket} lists a key that is not UTF-8: {encoded}")]
    KeyNotUtf8 {
        /// The bucket.
        bucket: String,
        /// The key as listed, URL-encoded.
        encoded: String,
    },
    /// A body is not as long as the server said.
    #[error("{place}: the body has {got} bytes, expected {expected}")]
    BodyLength {
        /// What was asked.
        place: Box<Place>,
        /// Bytes announced.
        expected: u64,
        /// Bytes received (at least).
        got: u64,
    },
    /// A body broke off and could not be resumed.
    #[error("{place}: the body broke off at byte {at} of {expected}: {reason}")]
    BodyBroken {
        /// What was asked.
        place: Box<Place>,
        /// Bytes received.
        at: u64,
        /// Bytes announced.
        expected: u64,
        /// What the connection said.
        reason: String,
    },
    /// The object was replaced while it was being read.
    #[error("{place}: the object changed while it was being read")]
    Changed {
        /// What was asked.
        place: Box<Place>,
    },
    /// The object is listed but was another one at every attempt.
    #[error("{place}: the object could not be read in one state in {attempts} attempts")]
    NeverStill {
        /// What was asked.
        place: Box<Place>,
        /// How often it was tried.
        attempts: u32,
    },
    /// A row of the entry table is not one that this component writes.
    #[error("row {row:?} of the entry table is not `bucket/key`")]
    StrangeRow {
        /// The row's key, lossily shown.
        row: String,
    },
    /// What the snapshot holds of a bucket's configuration cannot be read.
    #[error("the stored {attribute} of bucket {bucket} cannot be read")]
    StoredAttribute {
        /// The bucket.
        bucket: String,
        /// The attribute.
        attribute: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// The snapshot has no such bucket.
    #[error("the snapshot has no bucket {bucket}")]
    NotInSnapshot {
        /// The bucket that was asked for.
        bucket: String,
    },
    /// Something uploaded is not there as it was sent.
    #[error("{place}: the uploaded object has {got} bytes, expected {expected}")]
    UploadNotWhole {
        /// What was asked.
        place: Box<Place>,
        /// Bytes sent.
        expected: u64,
        /// Bytes the server has.
        got: u64,
    },
    /// Everything else was restored, but these were refused.
    #[error("{count} objects or buckets were not restored: {}", first.join("; "))]
    NotRestored {
        /// How many.
        count: u64,
        /// The first of them, each with its reason.
        first: Vec<String>,
    },
}

impl Error {
    /// Returns what kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Throttled { .. } => ErrorKind::Unavailable,
            Self::Endpoint { .. }
            | Self::Credentials { .. }
            | Self::AccessDenied { .. }
            | Self::ClockSkew { .. }
            | Self::NoSuchBucket { .. }
            | Self::NotInSnapshot { .. } => ErrorKind::Misconfigured,
            _ => ErrorKind::Failed,
        }
    }

    /// True where the next request would fare no better: going on would only take long.
    fn is_hopeless(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Credentials { .. } | Self::ClockSkew { .. } | Self::Throttled { .. }
        )
    }
}

/// Lines for the report, of which only the first are kept.
#[derive(Debug, Default)]
struct Lines {
    first: Vec<String>,
    count: u64,
}

impl Lines {
    /// Lines kept; the rest are counted.
    const KEPT_MAX: usize = 100;

    fn push(&mut self, line: String) {
        self.count += 1;
        if self.first.len() < Self::KEPT_MAX {
            self.first.push(line);
        }
    }

    fn extend(&mut self, lines: impl IntoIterator<Item = String>) {
        lines.into_iter().for_each(|line| self.push(line));
    }

    fn into_lines(mut self) -> Vec<String> {
        let more = self.count.saturating_sub(u64::try_from(self.first.len()).unwrap_or(u64::MAX));
        if more > 0 {
            self.first.push(format!("and {more} more"));
        }
        self.first
    }
}
