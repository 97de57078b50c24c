//! The way to the server: the SDK's client, configured explicitly, with its errors told apart.
//!
//! `component/s3` sets up a client of its own for the buckets of a stack: that one repeats requests and must
//! keep what objects are like, this one does neither. Two dozen settings are alike; no room is made for them.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    SharedInterceptor, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::paced::PacedUploads;
use super::{Addressing, S3Options, S3Patience};
use crate::backend::{Error, ErrorKind, Lines, Operation, Request, Traffic};
use crate::format::object::ObjectKey;

/// Characters of a server's message that are kept.
const MESSAGE_CHARS_MAX: usize = 200;

/// What a server answered, or that it did not.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// The address is none.
    #[error("the endpoint {reason}")]
    Endpoint {
        /// `is neither http nor https`.
        reason: &'static str,
    },
    /// Who asks is not known, or signs with another key.
    #[error("the server refuses the credentials ({code})")]
    Credentials {
        /// The server's word for it.
        code: String,
    },
    /// The credentials were good once.
    #[error("the credentials have expired ({code})")]
    Expired {
        /// The server's word for it.
        code: String,
    },
    /// Who asks is known and may not.
    #[error("the server denies access ({code})")]
    AccessDenied {
        /// The server's word for it; empty where an answer has no body.
        code: String,
    },
    /// The clock of this host and that of the server differ too much for signatures.
    #[error("the clocks of this host and of the server differ too much ({code})")]
    ClockSkew {
        /// The server's word for it.
        code: String,
    },
    /// There is no such bucket.
    #[error("there is no bucket {bucket}")]
    NoSuchBucket {
        /// Its name.
        bucket: String,
    },
    /// The server denies a bucket that it has.
    #[error("the server denies bucket {bucket}, which it has")]
    BucketDenied {
        /// Its name.
        bucket: String,
    },
    /// The server has no room left.
    #[error("the server has no space left ({code})")]
    Full {
        /// The server's word for it.
        code: String,
    },
    /// The server is busy.
    #[error("the server is busy (status {status}, {code})")]
    Busy {
        /// Of the answer.
        status: u16,
        /// The server's word for it.
        code: String,
    },
    /// No answer, or none that is whole.
    #[error("no whole answer from {endpoint}: {reason}")]
    Unreachable {
        /// The server's address.
        endpoint: String,
        /// The last of the causes.
        reason: String,
    },
    /// An answer that is whole and makes no sense: perhaps not of a store at all.
    #[error("an answer from {endpoint} that cannot be read: {reason}")]
    Garbled {
        /// The server's address.
        endpoint: String,
        /// The last of the causes.
        reason: String,
    },
    /// The server does not know how.
    #[error("the server cannot do this (status {status}, {code})")]
    NotSupported {
        /// Of the answer.
        status: u16,
        /// The server's word for it.
        code: String,
    },
    /// An answer that cannot be used.
    #[error("the answer has no usable {field}")]
    Answer {
        /// What is missing or wrong.
        field: &'static str,
    },
    /// A listing that does not come to an end.
    #[error("the listing does not go on behind {last:?}: the server repeats itself")]
    ListingRepeats {
        /// The last name that was listed.
        last: String,
    },
    /// The bytes of an object stopped coming.
    #[error("the object's bytes stopped coming: {reason}")]
    Body {
        /// Why.
        reason: String,
    },
    /// The bucket does not keep old states.
    #[error("bucket {bucket} keeps no old states of its objects")]
    NoOldStates {
        /// Its name.
        bucket: String,
    },
    /// The server does not say, or not truly, when an object was what.
    #[error("the server does not tell when each state of {name} was put")]
    StateTimes {
        /// The object's.
        name: String,
    },
    /// The bucket does not lock objects.
    #[error("bucket {bucket} was made without object lock")]
    NoLocks {
        /// Its name.
        bucket: String,
    },
    /// An object is locked, and the server leaves it at a mode that is less than what was asked for.
    #[error("it is locked in governance mode, and the server does not make that compliance: status {status} {code}")]
    WeakerLock {
        /// Of the answer.
        status: u16,
        /// The server's word for it.
        code: String,
    },
    /// The place shows what was once there and takes nothing.
    #[error("a store as it was at another time takes no changes")]
    ReadOnly,
    /// Anything else.
    #[error("status {status} {code}: {message}")]
    Status {
        /// Of the answer.
        status: u16,
        /// The server's word for it.
        code: String,
        /// What it says.
        message: String,
    },
}

impl S3Error {
    /// Returns what this means for the caller.
    pub(super) const fn kind(&self) -> ErrorKind {
        match self {
            Self::Credentials { .. } | Self::Expired { .. } | Self::AccessDenied { .. } | Self::ReadOnly => {
                ErrorKind::Denied
            }
            Self::NoSuchBucket { .. } => ErrorKind::NotFound,
            Self::Full { .. } => ErrorKind::Full,
            Self::Garbled { .. } => ErrorKind::Garbled,
            Self::BucketDenied { .. } | Self::Busy { .. } | Self::Unreachable { .. } | Self::Body { .. } => {
                ErrorKind::Transient
            }
            Self::Status { status, .. } if *status >= 500 => ErrorKind::Transient,
            Self::Endpoint { .. }
            | Self::ClockSkew { .. }
            | Self::NotSupported { .. }
            | Self::Answer { .. }
            | Self::ListingRepeats { .. }
            | Self::NoOldStates { .. }
            | Self::StateTimes { .. }
            | Self::NoLocks { .. }
            | Self::WeakerLock { .. }
            | Self::Status { .. } => ErrorKind::Other,
        }
    }
}

/// An answer that is no success, with what is needed to tell one from another.
pub(super) struct Refusal {
    /// Of the answer, 0 where none came.
    pub(super) status: u16,
    /// The server's word for it; empty where the answer has no body.
    pub(super) code: String,
    message: String,
    reason: String,
    /// Whether the request could not even be made.
    is_unsent: bool,
    /// Whether the whole answer came.
    is_whole: bool,
}

impl Refusal {
    /// Of an answer that did not come in time.
    fn silence(limit: Duration) -> Self {
        let (code, message) = (String::new(), String::new());
        let reason = format!("it has not answered within {} s", limit.as_secs());
        Self { status: 0, code, message, reason, is_unsent: false, is_whole: false }
    }

    /// Returns whether the server does not know what the request asks for: of a put with a condition, conditions.
    pub(super) fn knows_no_conditions(&self) -> bool {
        self.status == 501 || self.code == "NotImplemented"
    }

    /// Of an answer that says that all is well and lacks what that would mean.
    pub(super) fn lacks(what: &str) -> Self {
        let reason = format!("it has no {what}");
        Self { status: 200, code: String::new(), message: String::new(), reason, is_unsent: false, is_whole: true }
    }
}

impl<E> From<SdkError<E>> for Refusal
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    fn from(error: SdkError<E>) -> Self {
        Self {
            status: error.raw_response().map_or(0, |response| response.status().as_u16()),
            code: error.code().unwrap_or_default().to_owned(),
            message: error.message().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect(),
            reason: innermost(&error),
            is_unsent: matches!(error, SdkError::ConstructionFailure(_)),
            // In memory is what was read to its end.
            is_whole: error.raw_response().is_some_and(|response| response.body().bytes().is_some()),
        }
    }
}

/// Returns what lies at the bottom of an error: the SDK's outer layers say only "dispatch failure".
pub(super) fn innermost(error: &dyn StdError) -> String {
    let mut deepest = error;
    // Error chains are short; the bound guards against one that is its own source.
    for _ in 0..32 {
        let Some(source) = deepest.source() else { break };
        deepest = source;
    }
    deepest.to_string().chars().take(MESSAGE_CHARS_MAX).collect()
}

/// One bucket of a server, and the part of it that is ours.
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) name: String,
    /// Empty, or ending in `/`.
    pub(super) prefix: String,
    pub(super) patience: S3Patience,
    pub(super) lines: Lines,
    endpoint: String,
    traffic: Arc<Traffic>,
}

impl Bucket {
    /// Sets the client up; nothing is sent.
    pub(super) fn new(options: S3Options) -> Result<Self, S3Error> {
        options.endpoint.as_deref().map_or(Ok(()), check_endpoint)?;
        let patience = options.patience;
        // It would take the wait for the line for a server that takes nothing; `sending` does not.
        let stalled = StalledStreamProtectionConfig::enabled().upload_enabled(options.lines.upload().is_none());
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(options.region.clone()))
            .credentials_provider(options.credentials.provider())
            .force_path_style(options.addressing == Addressing::Path)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // Repeating is the retry decorator's: seen, counted and bounded in one place.
            .retry_config(RetryConfig::disabled())
            .timeout_config(patience.timeouts(Duration::ZERO))
            .stalled_stream_protection(stalled.grace_period(patience.stalled).build());
        if let Some(line) = options.lines.upload() {
            config.push_interceptor(SharedInterceptor::new(PacedUploads::new(Arc::clone(line))));
        }
        if options.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            // Reading the system's certificates takes longer than many a request.
            config.set_http_client(Some(aws_smithy_http_client::Builder::new().build_http()));
        }
        config.set_endpoint_url(options.endpoint.clone());
        Ok(Self {
            client: Client::from_conf(config.build()),
            name: options.bucket,
            prefix: options.prefix,
            patience,
            endpoint: options.endpoint.unwrap_or_else(|| format!("AWS ({})", options.region)),
            traffic: options.traffic,
            lines: options.lines,
        })
    }

    /// Returns an object's name in the bucket.
    pub(super) fn path(&self, key: ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Returns where all this is, for messages.
    pub(super) fn location(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix).trim_end_matches('/').to_owned()
    }

    /// Counts a request that is about to be sent, with the bytes of an object that it carries.
    pub(super) fn count(&self, request: Request, sent_bytes: u64) {
        self.traffic.request(request, sent_bytes);
    }

    /// Counts bytes that came.
    pub(super) fn received(&self, bytes: u64) {
        self.traffic.received(bytes);
    }

    /// Returns what a request that sends `len` bytes needs: the time for an answer counts from its first byte.
    pub(super) fn upload_limits(&self, len: u64) -> aws_sdk_s3::config::Builder {
        let timeouts = self.patience.timeouts(self.patience.transfer(len));
        // With a line to wait for, [`Bucket::sending`] knows which time counts.
        let timeouts = match self.lines.upload() {
            Some(_) => timeouts.to_builder().disable_read_timeout().build(),
            None => timeouts,
        };
        aws_sdk_s3::Config::builder().timeout_config(timeouts)
    }

    /// Waits for what comes of a request that sends `len` bytes, with [`Bucket::upload_limits`].
    pub(super) async fn sending<T, E>(
        &self,
        len: u64,
        sent: impl Future<Output = Result<T, SdkError<E>>> + Send,
    ) -> Result<T, Refusal>
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let Some(line) = self.lines.upload() else { return sent.await.map_err(Refusal::from) };
        let limit = self.patience.read.saturating_add(self.patience.transfer(len));
        match line.watch(limit, sent).await {
            Some(answer) => answer.map_err(Refusal::from),
            None => Err(Refusal::silence(limit)),
        }
    }

    /// Returns what the end of a put in parts needs: the server puts them together.
    pub(super) fn assembly_limits(&self) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::Config::builder().timeout_config(self.patience.timeouts(self.patience.assembly))
    }

    /// Returns the typed error of a failed request. A bucket that is denied is asked for by name: some servers
    /// deny one that they have for a while.
    pub(super) async fn failed(&self, operation: Operation, key: Option<ObjectKey>, refusal: Refusal) -> Error {
        let mut error = self.classify(refusal);
        if let S3Error::NoSuchBucket { bucket } = &error {
            let bucket = bucket.clone();
            self.count(Request::Head, 0);
            if self.client.head_bucket().bucket(&self.name).send().await.is_ok() {
                error = S3Error::BucketDenied { bucket };
            }
        }
        self.error(operation, key, error)
    }

    /// Returns the error of an operation on one of our objects, or on all of them.
    pub(super) fn error(&self, operation: Operation, key: Option<ObjectKey>, error: S3Error) -> Error {
        let location = self.location();
        let at = key.map_or_else(|| location.clone(), |key| format!("{location}/{key}"));
        Error::Failed { operation, key, at, kind: error.kind(), source: Box::new(error) }
    }

    /// Returns what a refused request means.
    pub(super) fn classify(&self, refusal: Refusal) -> S3Error {
        let Refusal { status, code, message, reason, is_unsent, is_whole } = refusal;
        match (code.as_str(), status) {
            ("RequestTimeTooSkewed" | "RequestExpired", _) => S3Error::ClockSkew { code },
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => S3Error::Expired { code },
            (
                "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "InvalidSecurity"
                | "InvalidToken"
                | "AuthorizationHeaderMalformed",
                _,
            ) => S3Error::Credentials { code },
            ("NoSuchBucket", _) => S3Error::NoSuchBucket { bucket: self.name.clone() },
            ("QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "EntityTooLarge", _)
            | (_, 507) => S3Error::Full { code },
            ("NotImplemented" | "MethodNotAllowed" | "XNotImplemented", _) | (_, 501) => {
                S3Error::NotSupported { status, code }
            }
            // 409: AWS asks to try again where two conditional puts of one name meet.
            (
                "SlowDown"
                | "ServiceUnavailable"
                | "Throttling"
                | "TooManyRequests"
                | "RequestLimitExceeded"
                | "RequestTimeout"
                | "ConditionalRequestConflict"
                | "OperationAborted",
                _,
            )
            | (_, 408 | 429 | 503) => S3Error::Busy { status, code },
            (_, 401) => S3Error::Credentials { code: "401".to_owned() },
            (_, 403) => S3Error::AccessDenied { code },
            (_, 0) if is_unsent => S3Error::Status { status, code: "not sent".to_owned(), message: reason },
            (_, 200..=299) if is_whole => S3Error::Garbled { endpoint: self.endpoint.clone(), reason },
            (_, 0) | (_, 200..=299) => S3Error::Unreachable { endpoint: self.endpoint.clone(), reason },
            _ => S3Error::Status { status, code, message },
        }
    }
}

impl S3Patience {
    /// Returns how long `len` bytes may be on their way.
    pub(super) fn transfer(&self, len: u64) -> Duration {
        Duration::from_secs(len / self.bytes_per_sec_min.max(1))
    }

    /// Returns the SDK's limits for a request whose answer may take `more` than usual.
    fn timeouts(&self, more: Duration) -> TimeoutConfig {
        TimeoutConfig::builder().connect_timeout(self.connect).read_timeout(self.read.saturating_add(more)).build()
    }
}

impl super::S3Credentials {
    fn provider(&self) -> SharedCredentialsProvider {
        self.provider.clone()
    }
}

/// Refuses what must not be shown in messages or cannot be an endpoint.
fn check_endpoint(endpoint: &str) -> Result<(), S3Error> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err(S3Error::Endpoint { reason: "has no scheme" });
    };
    if scheme != "http" && scheme != "https" {
        return Err(S3Error::Endpoint { reason: "is neither http nor https" });
    }
    if rest.contains('@') {
        return Err(S3Error::Endpoint { reason: "contains credentials" });
    }
    if rest.trim_matches('/').is_empty() {
        return Err(S3Error::Endpoint { reason: "has no host" });
    }
    Ok(())
}
