//! Puts: whole or not at all, in one request or in parts, and never over an object that is there.

use std::sync::atomic::Ordering;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};

use super::checksum::crc32_text;
use super::client::{Bucket, Refusal, S3Error};
use super::read::{self, Which};
use super::{Conditions, S3Backend};
use crate::backend::{Error, Operation, Put, Request};
use crate::format::object::ObjectKey;

/// Parts of one put: what S3 allows.
const PARTS_MAX: u64 = 10_000;
/// What a put asks for: that there is no such object.
const ABSENT: &str = "*";

type Condition = Option<&'static str>;

/// What came of one try.
enum Tried {
    Created,
    /// The server says that the name is taken.
    Taken,
    /// The server knows no conditions, and says so.
    NoConditions,
}

impl S3Backend {
    /// See [`crate::backend::Backend::put`].
    pub(super) async fn put_object(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        let len = body.iter().map(|part| part.len() as u64).sum();
        // The one name that two hosts may choose is looked at before and after, whatever the server promises:
        // all others are hashes of what they name, or random.
        let is_named_alike = key == ObjectKey::Config;
        if (is_named_alike || !self.has_conditions())
            && let Some(found) = self.there(key, len).await?
        {
            return Ok(found);
        }
        // As it is sent: meanwhile another put may find out that the server knows none.
        let condition = self.has_conditions().then_some(ABSENT);
        let tried = match self.try_put(key, &body, len, condition).await? {
            Tried::NoConditions => {
                self.conditions.store(Conditions::Absent.code(), Ordering::Relaxed);
                if let Some(found) = self.there(key, len).await? {
                    return Ok(found);
                }
                self.try_put(key, &body, len, None).await?
            }
            tried => tried,
        };
        match tried {
            Tried::Created if is_named_alike => {
                let stored = read::get(&self.bucket, Which { key, version: None }, len).await?;
                Ok(if stored == joined(&body, len) { Put::Created } else { Put::AlreadyThere })
            }
            Tried::Created => Ok(Put::Created),
            Tried::NoConditions => Err(self.bucket.error(
                Operation::Put,
                Some(key),
                S3Error::NotSupported { status: 501, code: "a plain put".to_owned() },
            )),
            Tried::Taken => match self.there(key, len).await? {
                Some(found) => Ok(found),
                // There and not there: it was deleted in between, or the server is not settled.
                None => Err(self.bucket.error(
                    Operation::Put,
                    Some(key),
                    S3Error::Busy { status: 412, code: "taken and not there".to_owned() },
                )),
            },
        }
    }

    fn has_conditions(&self) -> bool {
        self.conditions.load(Ordering::Relaxed) != Conditions::Absent.code()
    }

    /// Puts that lock must carry a checksum; on others some servers stumble over one.
    fn checksum(&self, bytes: &[u8]) -> Option<String> {
        self.lock.is_some().then(|| crc32_text(bytes))
    }

    /// Returns what a put finds where the name is taken.
    async fn there(&self, key: ObjectKey, len: u64) -> Result<Option<Put>, Error> {
        match read::stat(&self.bucket, Which { key, version: None }).await? {
            None => Ok(None),
            Some(info) if info.len == len => Ok(Some(Put::AlreadyThere)),
            Some(info) => Err(Error::Conflict { key, location: self.bucket.location(), len, stored: info.len }),
        }
    }

    async fn try_put(&self, key: ObjectKey, body: &[Bytes], len: u64, condition: Condition) -> Result<Tried, Error> {
        let tried = if len > self.whole_bytes_max {
            self.try_parts(key, body, len, condition).await
        } else {
            self.try_whole(key, body, len, condition).await
        };
        let refusal = match tried {
            Ok(()) => return Ok(Tried::Created),
            Err(refusal) => refusal,
        };
        match refusal.status {
            412 => Ok(Tried::Taken),
            _ if condition.is_some() && refusal.knows_no_conditions() => Ok(Tried::NoConditions),
            _ if self.lock.is_some() && refusal.code == "InvalidRequest" && self.has_no_locks().await => {
                let bucket = self.bucket.name.clone();
                Err(self.bucket.error(Operation::Put, Some(key), S3Error::NoLocks { bucket }))
            }
            _ => Err(self.bucket.failed(Operation::Put, Some(key), refusal).await),
        }
    }

    /// Returns whether the bucket says that it locks nothing.
    pub(super) async fn has_no_locks(&self) -> bool {
        self.bucket.count(Request::Lock, 0);
        let request = self.bucket.client.get_object_lock_configuration().bucket(&self.bucket.name);
        request.send().await.is_err_and(|error| Refusal::from(error).status == 404)
    }

    async fn try_whole(&self, key: ObjectKey, body: &[Bytes], len: u64, condition: Condition) -> Result<(), Refusal> {
        let (bucket, body) = (&self.bucket, joined(body, len));
        bucket.count(Request::Put, len);
        let request = bucket.client.put_object().bucket(&bucket.name).key(bucket.path(key));
        let request = request
            .set_if_none_match(condition.map(str::to_owned))
            .set_object_lock_mode(self.lock.as_ref().map(|lock| lock.mode.sdk()))
            .set_object_lock_retain_until_date(self.lock.as_ref().map(|lock| lock.until_sdk()))
            .set_checksum_crc32(self.checksum(&body))
            // In memory and not streamed: the signature covers every byte, so that none changes on the way.
            .body(ByteStream::from(body));
        let sent = request.customize().config_override(bucket.upload_limits(len)).send();
        // Whatever says yes and names no state of an object is no store.
        match bucket.sending(len, sent).await?.e_tag() {
            Some(_) => Ok(()),
            None => Err(Refusal::lacks("etag")),
        }
    }

    /// In parts, one after another; what fails is taken back, so that nothing stays that costs money.
    async fn try_parts(&self, key: ObjectKey, body: &[Bytes], len: u64, condition: Condition) -> Result<(), Refusal> {
        let bucket = &self.bucket;
        bucket.count(Request::Put, 0);
        let request = bucket.client.create_multipart_upload().bucket(&bucket.name).key(bucket.path(key));
        let answer = request
            .set_object_lock_mode(self.lock.as_ref().map(|lock| lock.mode.sdk()))
            .set_object_lock_retain_until_date(self.lock.as_ref().map(|lock| lock.until_sdk()))
            .set_checksum_algorithm(self.lock.map(|_| ChecksumAlgorithm::Crc32))
            .send()
            .await
            .map_err(Refusal::from)?;
        let id = answer.upload_id().unwrap_or_default().to_owned();
        let guard = Unfinished { bucket: std::sync::Arc::clone(bucket), path: bucket.path(key), id: Some(id.clone()) };
        let sent = match self.send_parts(key, &id, body, len).await {
            Ok(parts) => self.complete(key, &id, parts, condition).await,
            Err(refusal) => Err(refusal),
        };
        match sent {
            Ok(()) => guard.done(),
            // The first failure is what counts.
            Err(_) => guard.abort().await,
        }
        sent
    }

    async fn send_parts(
        &self,
        key: ObjectKey,
        id: &str,
        body: &[Bytes],
        len: u64,
    ) -> Result<Vec<CompletedPart>, Refusal> {
        let bucket = &self.bucket;
        let part_len = usize::try_from(self.part_bytes.max(len.div_ceil(PARTS_MAX))).unwrap_or(usize::MAX);
        let mut pieces = Pieces { body, piece: 0, at: 0 };
        let mut parts = Vec::new();
        let mut number = 1;
        loop {
            // Of an object in one piece, a slice; else one part in memory besides the object itself.
            let part = pieces.take(part_len);
            if part.is_empty() {
                return Ok(parts);
            }
            let part_bytes = part.len() as u64;
            bucket.count(Request::Put, part_bytes);
            let request = bucket.client.upload_part().bucket(&bucket.name).key(bucket.path(key)).upload_id(id);
            let request = request.part_number(number).set_checksum_crc32(self.checksum(&part));
            let request = request.body(ByteStream::from(part)).customize();
            let sent = request.config_override(bucket.upload_limits(part_bytes)).send();
            let answer = bucket.sending(part_bytes, sent).await?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag);
            parts.push(part.set_checksum_crc32(answer.checksum_crc32).build());
            number += 1;
        }
    }

    async fn complete(
        &self,
        key: ObjectKey,
        id: &str,
        parts: Vec<CompletedPart>,
        condition: Condition,
    ) -> Result<(), Refusal> {
        let bucket = &self.bucket;
        bucket.count(Request::Put, 0);
        let request = bucket.client.complete_multipart_upload().bucket(&bucket.name).key(bucket.path(key));
        let request = request
            .upload_id(id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .set_if_none_match(condition.map(str::to_owned))
            .customize();
        request.config_override(bucket.assembly_limits()).send().await.map_err(Refusal::from)?;
        Ok(())
    }
}

/// A put in parts that has not ended. Dropped, it is taken back by a task of its own.
#[must_use]
struct Unfinished {
    bucket: std::sync::Arc<Bucket>,
    path: String,
    /// `None` once it has ended.
    id: Option<String>,
}

impl Unfinished {
    fn done(mut self) {
        self.id = None;
    }

    async fn abort(mut self) {
        if let Some(id) = self.id.take() {
            abort(&self.bucket, &self.path, &id).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let (bucket, path) = (std::sync::Arc::clone(&self.bucket), std::mem::take(&mut self.path));
        // Without a runtime the program ends: a sweep finds what is left.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { abort(&bucket, &path, &id).await });
        }
    }
}

/// Takes an unfinished put back. Best effort: what stays, a sweep or the server's own rules remove.
async fn abort(bucket: &Bucket, path: &str, id: &str) {
    bucket.count(Request::Delete, 0);
    let request = bucket.client.abort_multipart_upload().bucket(&bucket.name).key(path).upload_id(id);
    let _aborted = request.send().await;
}

/// Returns the body in one piece, without a copy where it is one.
fn joined(body: &[Bytes], len: u64) -> Bytes {
    if let [whole] = body {
        return whole.clone();
    }
    let mut whole = BytesMut::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
    body.iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

/// The bytes of a body, taken in parts.
struct Pieces<'a> {
    body: &'a [Bytes],
    piece: usize,
    at: usize,
}

impl Pieces<'_> {
    /// Returns the next `len` bytes, fewer at the end, none behind it.
    fn take(&mut self, len: usize) -> Bytes {
        if let [whole] = self.body {
            let end = self.at.saturating_add(len).min(whole.len());
            let part = whole.slice(self.at..end);
            self.at = end;
            return part;
        }
        let mut part = BytesMut::new();
        while part.len() < len {
            let Some(piece) = self.body.get(self.piece) else { break };
            let rest = piece.get(self.at..).unwrap_or_default();
            let taken = rest.get(..len - part.len()).unwrap_or(rest);
            if part.is_empty() {
                part.reserve(len);
            }
            part.extend_from_slice(taken);
            self.at += taken.len();
            if self.at >= piece.len() {
                (self.piece, self.at) = (self.piece + 1, 0);
            }
        }
        part.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_body_cut_at_equal_lengths() {
        let body = [&b"ab"[..], b"", b"cdefg", b"h"].map(Bytes::from_static);
        let mut pieces = Pieces { body: &body, piece: 0, at: 0 };
        let parts: Vec<Bytes> = (0..4).map(|_| pieces.take(3)).collect();
        assert_eq!(parts, ["abc", "def", "gh", ""]);
        assert_eq!(joined(&body, 8), "abcdefgh");
        // One piece is not copied.
        let body = [Bytes::from_static(b"abcdefgh")];
        let mut pieces = Pieces { body: &body, piece: 0, at: 0 };
        let parts: Vec<Bytes> = (0..4).map(|_| pieces.take(3)).collect();
        assert_eq!(parts, ["abc", "def", "gh", ""]);
        assert_eq!(parts[1].as_ptr(), body[0][3..].as_ptr());
        assert_eq!(joined(&body, 8).as_ptr(), body[0].as_ptr());
    }
}
