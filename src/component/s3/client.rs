//! The only way to the server: the SDK's client, configured explicitly, with errors told apart.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::EncodingType;
use tokio::sync::oneshot;

use super::attributes::{self, Head};
use super::early::EarlyToken;
use super::listing::{Ask, Listed, Page};
use super::writing::{Writing, read_keys};
use super::{Error, Place};
use crate::component::secret::Secret;

/// Keys of one page: more makes some servers drop the continuation token.
const PAGE_KEYS: i32 = 1000;
/// Pages of a bucket listing, at up to 1000 buckets each.
const BUCKET_PAGES_MAX: u32 = 1000;
/// Characters of a server's message that are kept.
const MESSAGE_CHARS_MAX: usize = 200;
/// Uploads slower than this count as stuck. Bytes a second.
const UPLOAD_RATE_MIN: u64 = 64 << 10;
/// Time for a server to put the parts of a long upload together.
const ASSEMBLY_TIME: Duration = Duration::from_secs(600);
/// What the HTTP client says of an answer with more than 100 headers; the SDK hides the error's type and offers no other limit.
const HEAD_TOO_LARGE: &str = "message head is too large";
/// Pause between two looks at a bucket that the server denies and lists at once.
const FLAP_PAUSE: Duration = Duration::from_secs(2);

/// How object URLs name the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// `http://server/bucket/key`: RustFS, MinIO and most others.
    #[default]
    Path,
    /// `http://bucket.server/key`: AWS.
    VirtualHost,
}

/// How long to wait and how often to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Attempts per request, the first included.
    pub attempts: u32,
    /// Upper bound of the first pause between attempts; it doubles (the SDK jitters it).
    pub backoff: Duration,
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer.
    pub read: Duration,
    /// A body that brings nothing for so long is broken.
    pub stalled: Duration,
    /// For a bucket that the server lists and denies at the same time.
    pub bucket_flap: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            backoff: Duration::from_secs(1),
            connect: Duration::from_secs(5),
            read: Duration::from_secs(60),
            stalled: Duration::from_secs(60),
            bucket_flap: Duration::from_secs(60),
        }
    }
}

/// Where the server is and who asks. Nothing is taken from `AWS_*` variables, profiles or metadata services.
pub struct Access {
    /// `http://127.0.0.1:9100`; must not contain credentials.
    pub endpoint: String,
    /// `us-east-1` where the server does not care.
    pub region: String,
    /// The public half of the credentials.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: Secret,
    /// How buckets are addressed.
    pub addressing: Addressing,
    /// Limits of time.
    pub patience: Patience,
}

/// Tags of an object, as far as the server has such a thing.
pub(super) enum Tags {
    /// These (perhaps none).
    Known(Vec<(String, String)>),
    /// The object is gone.
    Gone,
    /// The server does not do tags.
    NotSupported,
}

/// A `GetObject` answer.
pub(super) enum Got {
    /// The body, from the byte asked for, with its announced length.
    Body { body: ByteStream, len: u64 },
    /// The object is another one now.
    Changed,
    /// There is no such object.
    Gone,
}

/// Who makes sure that the content is that of one state of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// The server, by `If-Match`.
    IfMatch,
    /// We, by the answer's etag: some servers stumble over the quotes of a condition.
    Compare,
}

/// The state of an object that is to be read.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) etag: Option<String>,
    pub(super) condition: Condition,
}

/// A server that answers as this component needs it.
pub(super) struct Server {
    pub(super) client: Client,
    endpoint: String,
    bucket_flap: Duration,
    connect_time: Duration,
    answer_time: Duration,
    tags_unsupported: AtomicBool,
    /// How keys may be written in listings: what no key has refuted.
    writings: Mutex<Vec<Writing>>,
}

impl Server {
    /// Sets the client up; nothing is sent.
    pub(super) fn new(access: &Access) -> Result<Arc<Self>, Error> {
        check_endpoint(&access.endpoint)?;
        let patience = &access.patience;
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(access.region.clone()))
            .endpoint_url(&access.endpoint)
            .credentials_provider(Credentials::new(
                &access.access_key_id,
                access.secret_access_key.expose(),
                None,
                None,
                "orkvault",
            ))
            .force_path_style(access.addressing == Addressing::Path)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(
                RetryConfig::standard().with_max_attempts(patience.attempts).with_initial_backoff(patience.backoff),
            )
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(patience.connect).read_timeout(patience.read).build(),
            )
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(patience.stalled).build());
        if access.endpoint.starts_with("http://") {
            // Reading the system's certificates takes longer than many a listing.
            config.set_http_client(Some(aws_smithy_http_client::Builder::new().build_http()));
        }
        Ok(Arc::new(Self {
            client: Client::from_conf(config.build()),
            endpoint: access.endpoint.clone(),
            bucket_flap: patience.bucket_flap,
            connect_time: patience.connect,
            answer_time: patience.read,
            tags_unsupported: AtomicBool::new(false),
            writings: Mutex::new(Writing::ALL.to_vec()),
        }))
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns what a request that sends `len` bytes needs: the time for an answer counts from its first byte.
    pub(super) fn upload_limits(&self, len: u64) -> aws_sdk_s3::config::Builder {
        self.with_answer_time(self.answer_time.saturating_add(Duration::from_secs(len / UPLOAD_RATE_MIN)))
    }

    /// Returns what the end of an upload in parts needs.
    pub(super) fn assembly_limits(&self) -> aws_sdk_s3::config::Builder {
        self.with_answer_time(self.answer_time.max(ASSEMBLY_TIME))
    }

    fn with_answer_time(&self, time: Duration) -> aws_sdk_s3::config::Builder {
        let limits = TimeoutConfig::builder().read_timeout(time).connect_timeout(self.connect_time).build();
        aws_sdk_s3::Config::builder().timeout_config(limits)
    }

    /// Returns every bucket's name. An empty answer is an answer.
    pub(super) async fn bucket_names(&self) -> Result<Vec<String>, Error> {
        let at = || place("ListBuckets", None, None);
        let mut names = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..BUCKET_PAGES_MAX {
            let answer = self
                .client
                .list_buckets()
                .set_continuation_token(token.take())
                .send()
                .await
                .map_err(|error| self.classify(error, at()))?;
            for bucket in answer.buckets() {
                let name = bucket.name().filter(|name| !name.is_empty() && !name.contains('/'));
                names.push(name.ok_or_else(|| Error::Answer { place: at(), field: "bucket name" })?.to_owned());
            }
            token = answer.continuation_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() {
                return Ok(names);
            }
        }
        Err(Error::Answer { place: at(), field: "end of the bucket list" })
    }

    /// Returns whether the bucket exists, asked for by name.
    pub(super) async fn has_bucket(&self, bucket: &str) -> Result<bool, Error> {
        match self.client.head_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(true),
            Err(error) if status_of(&error) == 404 => Ok(false),
            Err(error) => Err(self.classify(error, place("HeadBucket", Some(bucket), None))),
        }
    }

    /// Returns a page; a bucket that is denied (404) but listed is asked for again for a while. Tells the token of the
    /// next page `early`, where that can be.
    pub(super) async fn page_through_flap(
        &self,
        bucket: &str,
        ask: &Ask,
        early: oneshot::Sender<String>,
    ) -> Result<Page, Error> {
        let mut waited = Duration::ZERO;
        let mut early = Some(early);
        loop {
            match self.page(bucket, ask, early.take()).await {
                Err(error @ Error::NoSuchBucket { .. }) => self.wait_out(bucket, error, &mut waited).await?,
                other => return other,
            }
        }
    }

    /// Pauses before a denied bucket is asked for again; fails with `denied` where there is nothing to wait for.
    async fn wait_out(&self, bucket: &str, denied: Error, waited: &mut Duration) -> Result<(), Error> {
        let listed = self.bucket_names().await?.iter().any(|name| name == bucket);
        if !listed || *waited >= self.bucket_flap {
            return Err(denied);
        }
        let pause = FLAP_PAUSE.min(self.bucket_flap.saturating_sub(*waited));
        tokio::time::sleep(pause).await;
        *waited += pause;
        Ok(())
    }

    async fn page(&self, bucket: &str, ask: &Ask, early: Option<oneshot::Sender<String>>) -> Result<Page, Error> {
        let request = self.client.list_objects_v2().bucket(bucket).max_keys(PAGE_KEYS).encoding_type(EncodingType::Url);
        let request = match ask {
            Ask::Start => request,
            Ask::Token(token) => request.continuation_token(token),
            Ask::After(key) => request.start_after(key),
        };
        let at = || place("ListObjectsV2", Some(bucket), None);
        let mut request = request.customize();
        if let Some(early) = early {
            request = request.interceptor(EarlyToken::new(early));
        }
        let answer = request.send().await.map_err(|error| self.classify(error, at()))?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let mut page = read_page(bucket, answer)?;
        let writing = if is_encoded { self.writing(bucket, &page.objects).await? } else { Writing::Raw };
        page.objects = read_keys(writing, bucket, page.objects, at)?;
        Ok(page)
    }

    /// Returns how this server writes keys, as far as the keys so far tell.
    async fn writing(&self, bucket: &str, rows: &[Listed]) -> Result<Writing, Error> {
        let left = self.writings().clone();
        let left = Writing::narrow(self, bucket, rows, left).await?;
        let mut writings = self.writings();
        // Pages are asked for beside each other: another one may have found out more.
        writings.retain(|writing| left.contains(writing));
        // None is left where two buckets were not told alike: then keys are read as S3 says.
        Ok(left.first().copied().unwrap_or(Writing::Form))
    }

    fn writings(&self) -> MutexGuard<'_, Vec<Writing>> {
        self.writings.lock().expect("no holder panics")
    }

    /// Returns what a listing shows of one key now.
    pub(super) async fn relist(&self, bucket: &str, key: &str) -> Result<Option<Listed>, Error> {
        let mut waited = Duration::ZERO;
        loop {
            match self.list_one(bucket, key).await {
                Err(error @ Error::NoSuchBucket { .. }) => self.wait_out(bucket, error, &mut waited).await?,
                other => return other,
            }
        }
    }

    async fn list_one(&self, bucket: &str, key: &str) -> Result<Option<Listed>, Error> {
        let at = || place("ListObjectsV2", Some(bucket), Some(key));
        // The key is the first of all keys that start with it.
        let answer = self
            .client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(key)
            .max_keys(1)
            .encoding_type(EncodingType::Url)
            .send()
            .await
            .map_err(|error| self.classify(error, at()))?;
        let rows = read_page(bucket, answer)?.objects;
        let found = rows.into_iter().find(|row| Writing::may_mean(&row.key, key));
        Ok(found.map(|row| Listed { key: key.to_owned(), ..row }))
    }

    /// Returns an object's metadata; `None` where there is no such object (or only a delete marker).
    pub(super) async fn head(&self, bucket: &str, key: &str) -> Result<Option<Head>, Error> {
        let at = || place("HeadObject", Some(bucket), Some(key));
        match self.client.head_object().bucket(bucket).key(key).send().await {
            Ok(answer) if answer.delete_marker() == Some(true) => Ok(None),
            Ok(answer) => attributes::read_head(&answer, at()).map(Some),
            Err(error) if status_of(&error) == 404 => Ok(None),
            Err(error) => Err(self.classify(error, at())),
        }
    }

    /// Returns an object's tags.
    pub(super) async fn tags(&self, bucket: &str, key: &str) -> Result<Tags, Error> {
        if self.tags_unsupported() {
            return Ok(Tags::NotSupported);
        }
        let error = match self.client.get_object_tagging().bucket(bucket).key(key).send().await {
            Ok(answer) => {
                let pair = |tag: &aws_sdk_s3::types::Tag| (tag.key().to_owned(), tag.value().to_owned());
                return Ok(Tags::Known(answer.tag_set().iter().map(pair).collect()));
            }
            Err(error) => error,
        };
        match error.code() {
            Some("NoSuchTagSet" | "NoSuchTagSetError") => return Ok(Tags::Known(Vec::new())),
            // 405 is a delete marker's answer; were it the server's for every object, the capture would fail
            // rather than lose tags.
            Some("NoSuchKey" | "NoSuchVersion" | "MethodNotAllowed") => return Ok(Tags::Gone),
            _ => {}
        }
        match self.classify(error, place("GetObjectTagging", Some(bucket), Some(key))) {
            Error::NotSupported { .. } => {
                self.tags_unsupported.store(true, Ordering::Relaxed);
                Ok(Tags::NotSupported)
            }
            other => Err(other),
        }
    }

    /// True once the server has said that it does not do object tags.
    pub(super) fn tags_unsupported(&self) -> bool {
        self.tags_unsupported.load(Ordering::Relaxed)
    }

    /// Opens an object's content from byte `from`, if it is still in this state.
    pub(super) async fn get(&self, bucket: &str, key: &str, state: &State, from: u64) -> Result<Got, Error> {
        let at = || place("GetObject", Some(bucket), Some(key));
        let condition = state.etag.clone().filter(|_| state.condition == Condition::IfMatch);
        let request = self.client.get_object().bucket(bucket).key(key).set_if_match(condition);
        let request = if from > 0 { request.range(format!("bytes={from}-")) } else { request };
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return match status_of(&error) {
                    404 => Ok(Got::Gone),
                    412 => Ok(Got::Changed),
                    _ => Err(self.classify(error, at())),
                };
            }
        };
        let starts_right = answer.content_range().is_some_and(|range| range.starts_with(&format!("bytes {from}-")));
        if from > 0 && !starts_right {
            return Err(Error::Answer { place: at(), field: "content range" });
        }
        // Not every server knows conditions: an answer with another etag is another object.
        let same = match (&state.etag, answer.e_tag()) {
            (Some(expected), Some(got)) => attributes::same_etag(expected, got),
            (Some(_), None) => state.condition == Condition::IfMatch,
            (None, _) => true,
        };
        if !same {
            return Ok(Got::Changed);
        }
        let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
        let len = len.ok_or_else(|| Error::Answer { place: at(), field: "content length" })?;
        Ok(Got::Body { body: answer.body, len })
    }

    /// Returns the typed error of a failed request.
    pub(super) fn classify<E>(&self, error: SdkError<E>, place: Box<Place>) -> Error
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let status = status_of(&error);
        let code = error.code().unwrap_or_default().to_owned();
        match (code.as_str(), status) {
            ("RequestTimeTooSkewed", _) => Error::ClockSkew { place },
            (
                "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" | "AuthorizationHeaderMalformed",
                _,
            ) => Error::Credentials { place, code },
            ("NoSuchBucket", _) => Error::NoSuchBucket { place },
            ("NotImplemented" | "MethodNotAllowed" | "XNotImplemented", _) | (_, 501) => Error::NotSupported { place },
            ("SlowDown" | "ServiceUnavailable" | "Throttling" | "TooManyRequests" | "RequestLimitExceeded", _)
            | (_, 429 | 503) => Error::Throttled { place, status },
            // A 401 is always about who asks; a HEAD answer has no body to tell 403s apart.
            (_, 401) => Error::Credentials { place, code: "401".to_owned() },
            (_, 403) => Error::AccessDenied { place },
            (_, 0) if innermost(&error) == HEAD_TOO_LARGE => Error::TooManyHeaders { place },
            (_, 0) => Error::Unreachable { place, endpoint: self.endpoint.clone(), reason: innermost(&error) },
            _ => {
                let message = error.message().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
                Error::Failed { place, status, code, message }
            }
        }
    }
}

pub(super) fn place(operation: &'static str, bucket: Option<&str>, key: Option<&str>) -> Box<Place> {
    // Boxed, so that results stay small: an error is rare.
    Box::new(Place { operation, bucket: bucket.map(str::to_owned), key: key.map(str::to_owned) })
}

/// Returns the HTTP status of the answer, 0 where none came.
pub(super) fn status_of<E>(error: &SdkError<E>) -> u16 {
    error.raw_response().map_or(0, |response| response.status().as_u16())
}

/// Returns what lies at the bottom of an error: the SDK's outer layers say only "dispatch failure".
pub(super) fn innermost(error: &dyn StdError) -> String {
    let mut deepest = error;
    // Error chains are short; the bound guards against one that is its own source.
    for _ in 0..32 {
        let Some(source) = deepest.source() else { break };
        deepest = source;
    }
    deepest.to_string()
}

/// Refuses what must not be shown in messages or cannot be an endpoint.
fn check_endpoint(endpoint: &str) -> Result<(), Error> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err(Error::Endpoint { reason: "has no scheme" });
    };
    if scheme != "http" && scheme != "https" {
        return Err(Error::Endpoint { reason: "is neither http nor https" });
    }
    if rest.contains('@') {
        return Err(Error::Endpoint { reason: "contains credentials" });
    }
    if rest.trim_matches('/').is_empty() {
        return Err(Error::Endpoint { reason: "has no host" });
    }
    Ok(())
}

/// Returns a page with the keys as they were listed.
fn read_page(bucket: &str, answer: ListObjectsV2Output) -> Result<Page, Error> {
    let at = || place("ListObjectsV2", Some(bucket), None);
    let mut page = Page {
        objects: Vec::with_capacity(answer.contents().len()),
        truncated: answer.is_truncated().unwrap_or(false),
        token: answer.next_continuation_token().map(str::to_owned),
    };
    for object in answer.contents() {
        let key = object.key().ok_or_else(|| Error::Answer { place: at(), field: "key" })?.to_owned();
        let len = object.size().and_then(|len| u64::try_from(len).ok());
        page.objects.push(Listed {
            key,
            len: len.ok_or_else(|| Error::Answer { place: at(), field: "size" })?,
            etag: object.e_tag().map(str::to_owned),
            last_modified: object.last_modified().map(moment),
            storage_class: object.storage_class().map(|class| class.as_str().to_owned()),
        });
    }
    Ok(page)
}

/// Returns a moment as RFC 3339, with the fraction of a second that it has.
pub(super) fn moment(time: &DateTime) -> String {
    // Formatting fails only beyond the year 9999; the raw seconds still tell two moments apart.
    time.fmt(DateTimeFormat::DateTime).unwrap_or_else(|_| format!("@{}.{:09}", time.secs(), time.subsec_nanos()))
}
