//! Reads of objects: never shorter than they should be, never longer than a limit, never waiting for ever.

use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::client::{Bucket, Refusal, S3Error, innermost};
use super::list::time;
use crate::backend::{Cut, Error, ObjectInfo, Operation, Request};
use crate::format::object::ObjectKey;

/// A position that every server can read: 63 bits.
const POSITION_MAX: u64 = i64::MAX as u64;

/// Which object, and which of its states.
#[derive(Clone, Copy)]
pub(super) struct Which<'a> {
    pub(super) key: ObjectKey,
    /// Of a bucket that keeps old states; `None` is the newest.
    pub(super) version: Option<&'a str>,
}

/// See [`crate::backend::Backend::get`].
pub(super) async fn get(bucket: &Bucket, which: Which<'_>, max_len: u64) -> Result<Bytes, Error> {
    let key = which.key;
    // How long it is shows when it is there.
    let paid = wait_for_line(bucket, 0).await;
    let answer = match request(bucket, which, None).await {
        Ok(answer) => answer,
        Err(refusal) => return Err(missing_or_failed(bucket, Operation::Get, key, refusal).await),
    };
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let no_length = || bucket.error(Operation::Get, Some(key), S3Error::Answer { field: "content length" });
    let len = len.ok_or_else(no_length)?;
    if len > max_len {
        return Err(Error::TooLong { key, location: bucket.location(), len, max: max_len });
    }
    body(bucket, key, answer.body, 0, len, paid).await
}

/// See [`crate::backend::Backend::get_range`].
pub(super) async fn get_range(bucket: &Bucket, which: Which<'_>, offset: u64, len: u64) -> Result<Bytes, Error> {
    let key = which.key;
    let short = |have: u64| Error::Short { key, location: bucket.location(), offset, need: len, have };
    if len == 0 || offset > POSITION_MAX {
        // There is no range without bytes; and none can lie so far out.
        let Some(info) = stat(bucket, which).await? else {
            return Err(Error::NotFound { key, location: bucket.location() });
        };
        let have = info.len.checked_sub(offset);
        return if len == 0 && have.is_some() { Ok(Bytes::new()) } else { Err(short(have.unwrap_or(0))) };
    }
    let last = offset.saturating_add(len - 1).min(POSITION_MAX);
    let paid = wait_for_line(bucket, len).await;
    let answer = match request(bucket, which, Some(format!("bytes={offset}-{last}"))).await {
        Ok(answer) => answer,
        Err(refusal) if refusal.status == 416 => return Err(short(0)),
        Err(refusal) => return Err(missing_or_failed(bucket, Operation::GetRange, key, refusal).await),
    };
    let range = answer.content_range().and_then(content_range);
    let (first, last) = range.filter(|(first, _)| *first == offset).ok_or_else(|| {
        // A server that knows no ranges sends everything: it must not be taken for the part.
        bucket.error(Operation::GetRange, Some(key), S3Error::Answer { field: "content range" })
    })?;
    let have = last.checked_sub(first).map_or(0, |more| more.saturating_add(1));
    if have != len {
        return Err(short(have));
    }
    body(bucket, key, answer.body, offset, len, paid).await
}

/// See [`crate::backend::Backend::stat`].
pub(super) async fn stat(bucket: &Bucket, which: Which<'_>) -> Result<Option<ObjectInfo>, Error> {
    let key = which.key;
    bucket.count(Request::Head, 0);
    let request = bucket.client.head_object().bucket(&bucket.name).key(bucket.path(key));
    let answer = match request.set_version_id(which.version.map(str::to_owned)).send().await {
        Ok(answer) => answer,
        Err(error) => {
            let refusal = Refusal::from(error);
            if matches!(refusal.status, 400 | 401 | 403 | 404) {
                return ask_again_with_a_body(bucket, which).await;
            }
            return Err(bucket.failed(Operation::Stat, Some(key), refusal).await);
        }
    };
    let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
    let no_length = || bucket.error(Operation::Stat, Some(key), S3Error::Answer { field: "content length" });
    Ok(Some(ObjectInfo { key, len: len.ok_or_else(no_length)?, modified: answer.last_modified().and_then(time) }))
}

/// An answer without a body cannot tell a missing object from a missing bucket, or wrong keys from a wrong clock:
/// one with a body can.
async fn ask_again_with_a_body(bucket: &Bucket, which: Which<'_>) -> Result<Option<ObjectInfo>, Error> {
    let key = which.key;
    let refusal = match request(bucket, which, None).await {
        Ok(answer) => {
            let len = answer.content_length().and_then(|len| u64::try_from(len).ok());
            let no_length = || bucket.error(Operation::Stat, Some(key), S3Error::Answer { field: "content length" });
            let modified = answer.last_modified().and_then(time);
            return Ok(Some(ObjectInfo { key, len: len.ok_or_else(no_length)?, modified }));
        }
        Err(refusal) => refusal,
    };
    match missing_or_failed(bucket, Operation::Stat, key, refusal).await {
        Error::NotFound { .. } => Ok(None),
        error => Err(error),
    }
}

async fn request(bucket: &Bucket, which: Which<'_>, range: Option<String>) -> Result<GetObjectOutput, Refusal> {
    bucket.count(Request::Get, 0);
    let request = bucket.client.get_object().bucket(&bucket.name).key(bucket.path(which.key));
    let request = request.set_range(range).set_version_id(which.version.map(str::to_owned));
    request.send().await.map_err(Refusal::from)
}

async fn missing_or_failed(bucket: &Bucket, operation: Operation, key: ObjectKey, refusal: Refusal) -> Error {
    if refusal.status == 404 && matches!(refusal.code.as_str(), "NoSuchKey" | "NoSuchVersion" | "NotFound") {
        return Error::NotFound { key, location: bucket.location() };
    }
    bucket.failed(operation, Some(key), refusal).await
}

/// Returns the first and the last position of `bytes 0-99/1234`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, _) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// Waits until the line is free, and takes it for the first bytes of a range: requests then begin one after another, and
/// not all at once. Returns how many bytes are paid for.
async fn wait_for_line(bucket: &Bucket, len: u64) -> u64 {
    let Some(line) = bucket.lines.download() else { return 0 };
    let first = line.slice_bytes().min(len);
    line.pass(first).await;
    first
}

/// Reads exactly `len` bytes, the first of them at `offset` of the object; the line has been waited for `paid` of them. What
/// came of a body that breaks off is in the error, so that it need not come again.
async fn body(
    bucket: &Bucket,
    key: ObjectKey,
    mut body: ByteStream,
    offset: u64,
    len: u64,
    mut paid: u64,
) -> Result<Bytes, Error> {
    let mut got = BytesMut::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
    let patience = &bucket.patience;
    let whole = patience.stalled.saturating_add(patience.transfer(len));
    // Waiting for the server; for the line it may be any time.
    let mut waited = Duration::ZERO;
    let reason = loop {
        let (asked, left) = (Instant::now(), whole.saturating_sub(waited));
        let next = timeout(patience.stalled.min(left), body.next()).await;
        waited = waited.saturating_add(asked.elapsed());
        match next {
            Err(_) if left < patience.stalled => {
                break Some(format!("fewer than {} bytes a second came", patience.bytes_per_sec_min));
            }
            Err(_) => break Some(format!("nothing came for {} ms", patience.stalled.as_millis())),
            Ok(Some(Err(error))) => break Some(innermost(&error)),
            Ok(None) => break None,
            Ok(Some(Ok(run))) => {
                bucket.received(run.len() as u64);
                got.extend_from_slice(&run);
                if got.len() as u64 > len {
                    break Some("there are more than were announced".to_owned());
                }
                let unpaid = (run.len() as u64).saturating_sub(paid);
                paid = paid.saturating_sub(run.len() as u64);
                if unpaid > 0
                    && let Some(line) = bucket.lines.download()
                {
                    // What is not read stays with the server: its connection takes only so much.
                    line.pass(unpaid).await;
                }
            }
        }
    };
    let have = got.len() as u64;
    let reason = match reason {
        None if have == len => return Ok(got.freeze()),
        None => "the answer ended".to_owned(),
        Some(reason) => reason,
    };
    // More than announced: nothing of it can be trusted.
    let got = if have > len { Bytes::new() } else { got.freeze() };
    let source = Box::new(S3Error::Body { reason });
    Err(Error::Cut(Box::new(Cut { key, location: bucket.location(), offset, need: len, got, source })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_an_answer_is_read_or_refused() {
        assert_eq!(content_range("bytes 0-99/1234"), Some((0, 99)));
        assert_eq!(content_range("bytes 7-7/*"), Some((7, 7)));
        for text in ["", "bytes */10", "0-99/1234", "bytes 0-99", "bytes a-b/1", "bytes -5/10"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
