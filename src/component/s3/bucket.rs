//! A bucket's own configuration: versioning, CORS, policy, lifecycle, tags, object lock.
//!
//! Structured settings are stored as JSON in their own shape, so that a row is the same every night.

mod rules;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{
    BucketLifecycleConfiguration, BucketVersioningStatus, CorsConfiguration, Tag, Tagging, VersioningConfiguration,
};

use super::attributes::{Attributes, TAG, text, with_prefix};
use super::client::{Server, place, status_of};
use super::{Error, Lines};

pub(super) const VERSIONING: &str = "versioning";
pub(super) const CORS: &str = "cors";
pub(super) const POLICY: &str = "policy";
pub(super) const LIFECYCLE: &str = "lifecycle";
pub(super) const OBJECT_LOCK: &str = "object-lock";
/// Comma-separated settings that the server does not have.
const NOT_SUPPORTED: &str = "not-supported";
/// Comma-separated settings that could not be read.
const NOT_READ: &str = "not-read";

/// What a question about one setting came to.
enum Setting<T> {
    Known(T),
    /// Supported and not set.
    Unset,
    NotSupported,
    NotRead(String),
}

/// Reads a bucket's configuration. What the server does not support is recorded as such; what it refuses
/// is recorded and warned of; only what makes the whole capture doubtful is an error.
pub(super) async fn read(server: &Server, bucket: &str, warnings: &mut Lines) -> Result<Attributes, Error> {
    let mut found =
        Found { bucket, attributes: Attributes::new(), not_supported: Vec::new(), not_read: Vec::new(), warnings };
    let client = &server.client;

    // At once: a round trip and not six.
    let (versioning, cors, policy, lifecycle, lock, tagging) = futures::join!(
        client.get_bucket_versioning().bucket(bucket).send(),
        client.get_bucket_cors().bucket(bucket).send(),
        client.get_bucket_policy().bucket(bucket).send(),
        client.get_bucket_lifecycle_configuration().bucket(bucket).send(),
        client.get_object_lock_configuration().bucket(bucket).send(),
        client.get_bucket_tagging().bucket(bucket).send(),
    );

    let status = setting(server, bucket, "GetBucketVersioning", versioning)?;
    found.put(VERSIONING, status, |answer| answer.status().map(|status| status.as_str().as_bytes().to_vec()));

    found.put(CORS, setting(server, bucket, "GetBucketCors", cors)?, |answer| rules::cors_json(answer.cors_rules()));

    let policy = setting(server, bucket, "GetBucketPolicy", policy)?;
    found.put(POLICY, policy, |answer| {
        answer.policy().filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec())
    });

    let lifecycle = setting(server, bucket, "GetBucketLifecycleConfiguration", lifecycle)?;
    found.put(LIFECYCLE, lifecycle, |answer| rules::lifecycle_json(answer.rules()));

    let lock = setting(server, bucket, "GetObjectLockConfiguration", lock)?;
    found.put(OBJECT_LOCK, lock, |answer| answer.object_lock_configuration().and_then(rules::lock_json));

    let mut tags = Vec::new();
    let tagging = setting(server, bucket, "GetBucketTagging", tagging)?;
    found.put("tags", tagging, |answer| {
        tags = answer.tag_set().iter().map(|tag| (tag.key().to_owned(), tag.value().to_owned())).collect();
        None
    });
    Ok(found.finish(tags))
}

struct Found<'a> {
    bucket: &'a str,
    attributes: Attributes,
    not_supported: Vec<&'static str>,
    not_read: Vec<&'static str>,
    warnings: &'a mut Lines,
}

impl Found<'_> {
    fn put<T>(&mut self, name: &'static str, setting: Setting<T>, value: impl FnOnce(&T) -> Option<Vec<u8>>) {
        match setting {
            Setting::Known(answer) => {
                if let Some(value) = value(&answer) {
                    self.attributes.insert(name.to_owned(), value);
                }
            }
            Setting::Unset => {}
            Setting::NotSupported => self.not_supported.push(name),
            Setting::NotRead(reason) => {
                self.not_read.push(name);
                self.warnings.push(format!("bucket {}: {name} was not captured: {reason}", self.bucket));
            }
        }
    }

    fn finish(mut self, tags: Vec<(String, String)>) -> Attributes {
        for (name, list) in [(NOT_SUPPORTED, &self.not_supported), (NOT_READ, &self.not_read)] {
            if !list.is_empty() {
                self.attributes.insert(name.to_owned(), list.join(",").into_bytes());
            }
        }
        self.attributes.extend(tags.into_iter().map(|(name, value)| (format!("{TAG}{name}"), value.into_bytes())));
        self.attributes
    }
}

fn setting<T, E>(
    server: &Server,
    bucket: &str,
    operation: &'static str,
    answer: Result<T, SdkError<E>>,
) -> Result<Setting<T>, Error>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let error = match answer {
        Ok(answer) => return Ok(Setting::Known(answer)),
        Err(error) => error,
    };
    let code = error.code().unwrap_or_default();
    let unset = (code.starts_with("NoSuch") && code != "NoSuchBucket") || code.contains("NotFound");
    if unset && status_of(&error) == 404 {
        return Ok(Setting::Unset);
    }
    match server.classify(error, place(operation, Some(bucket), None)) {
        Error::NotSupported { .. } => Ok(Setting::NotSupported),
        // A bucket may flap here as in a listing; the listing that follows decides whether it is there.
        error if error.is_hopeless() => Err(error),
        error => Ok(Setting::NotRead(error.to_string())),
    }
}

/// True for a bucket with object lock: that can only be set when a bucket is created.
pub(super) fn has_object_lock(attributes: &Attributes) -> bool {
    attributes.contains_key(OBJECT_LOCK)
}

/// Sets what must be there before the objects come: versioning.
pub(super) async fn restore_before(
    server: &Server,
    bucket: &str,
    stored: &Attributes,
    now: &Attributes,
    lines: &mut Lines,
) {
    let Some(status) = text(stored, VERSIONING).filter(|_| differs(stored, now, VERSIONING)) else { return };
    let status = BucketVersioningStatus::from(status);
    let configuration = VersioningConfiguration::builder().status(status).build();
    let answer =
        server.client.put_bucket_versioning().bucket(bucket).versioning_configuration(configuration).send().await;
    note(server, bucket, "PutBucketVersioning", answer, lines);
}

/// Sets what must not act on objects that are still on their way: policy, tags, CORS, and last the rules
/// that expire or lock objects.
pub(super) async fn restore_after(
    server: &Server,
    bucket: &str,
    stored: &Attributes,
    now: &Attributes,
    lines: &mut Lines,
) -> Result<(), Error> {
    let client = &server.client;
    restore_tags(server, bucket, stored, now, lines).await;
    if let Some(json) = stored.get(CORS).filter(|_| differs(stored, now, CORS)) {
        let rules = rules::cors_from_json(json).map_err(|source| unreadable(bucket, CORS, source))?;
        match CorsConfiguration::builder().set_cors_rules(Some(rules)).build() {
            Ok(cors) => {
                let answer = client.put_bucket_cors().bucket(bucket).cors_configuration(cors).send().await;
                note(server, bucket, "PutBucketCors", answer, lines);
            }
            Err(error) => lines.push(format!("bucket {bucket}: cors was not restored: {error}")),
        }
    }
    if let Some(policy) = text(stored, POLICY).filter(|_| differs(stored, now, POLICY)) {
        let answer = client.put_bucket_policy().bucket(bucket).policy(policy).send().await;
        note(server, bucket, "PutBucketPolicy", answer, lines);
    }
    if let Some(json) = stored.get(LIFECYCLE).filter(|_| differs(stored, now, LIFECYCLE)) {
        let rules = rules::lifecycle_from_json(json).map_err(|source| unreadable(bucket, LIFECYCLE, source))?;
        match BucketLifecycleConfiguration::builder().set_rules(Some(rules)).build() {
            Ok(lifecycle) => {
                let request = client.put_bucket_lifecycle_configuration().bucket(bucket);
                let answer = request.lifecycle_configuration(lifecycle).send().await;
                note(server, bucket, "PutBucketLifecycleConfiguration", answer, lines);
            }
            Err(error) => lines.push(format!("bucket {bucket}: lifecycle was not restored: {error}")),
        }
    }
    if let Some(json) = stored.get(OBJECT_LOCK).filter(|_| differs(stored, now, OBJECT_LOCK)) {
        let lock = rules::lock_from_json(json).map_err(|source| unreadable(bucket, OBJECT_LOCK, source))?;
        let answer = client.put_object_lock_configuration().bucket(bucket).object_lock_configuration(lock).send().await;
        note(server, bucket, "PutObjectLockConfiguration", answer, lines);
    }
    Ok(())
}

async fn restore_tags(server: &Server, bucket: &str, stored: &Attributes, now: &Attributes, lines: &mut Lines) {
    if with_prefix(stored, TAG).next().is_none() || with_prefix(stored, TAG).eq(with_prefix(now, TAG)) {
        return;
    }
    let tag = |(name, value): (&str, &str)| Tag::builder().key(name).value(value).build().ok();
    let tags: Vec<Tag> = with_prefix(stored, TAG).filter_map(tag).collect();
    let Ok(tagging) = Tagging::builder().set_tag_set(Some(tags)).build() else { return };
    let answer = server.client.put_bucket_tagging().bucket(bucket).tagging(tagging).send().await;
    note(server, bucket, "PutBucketTagging", answer, lines);
}

fn differs(stored: &Attributes, now: &Attributes, name: &str) -> bool {
    stored.get(name) != now.get(name)
}

fn unreadable(bucket: &str, attribute: &'static str, source: serde_json::Error) -> Error {
    Error::StoredAttribute { bucket: bucket.to_owned(), attribute, source }
}

/// A setting that the target does not take is worth a line, not a failed restore.
fn note<T, E>(server: &Server, bucket: &str, operation: &'static str, answer: Result<T, SdkError<E>>, lines: &mut Lines)
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Err(error) = answer {
        lines.push(server.classify(error, place(operation, Some(bucket), None)).to_string());
    }
}
