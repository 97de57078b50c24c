//! Listing without believing the server: tokens, order and the end are checked.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::EncodingType;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::PROBES;
use super::client::{Bucket, Refusal, S3Error};
use crate::backend::{Error, Listed, ObjectInfo, Operation, Request};
use crate::format::object::{ObjectPrefix, decode_listed};

/// Names of one page: more makes some servers drop the continuation token.
pub(super) const PAGE_NAMES: i32 = 1000;
/// Pages of one listing: at 1000 names each, more objects than a repository can have.
const PAGES_MAX: u64 = 1_000_000;
/// Pages without a name in a row that claim not to be the last.
const EMPTY_PAGES_MAX: u32 = 64;
/// Unfinished puts that a listing or a sweep looks at, in pages of up to 1000.
const UPLOAD_PAGES_MAX: u32 = 100;

/// What to ask the server next.
enum Ask {
    Start,
    Token(String),
    /// A server that ended says with an empty page that it meant it.
    After(String),
    Uploads,
    Nothing,
}

struct Listing {
    bucket: Arc<Bucket>,
    prefix: ObjectPrefix,
    ask: Ask,
    ready: VecDeque<Listed>,
    last: Option<String>,
    tokens: HashSet<String>,
    pages: u64,
    empty_pages: u32,
}

/// See [`crate::backend::Backend::list`].
pub(super) fn list(bucket: &Arc<Bucket>, prefix: ObjectPrefix) -> BoxStream<'static, Result<Listed, Error>> {
    let listing = Listing {
        bucket: Arc::clone(bucket),
        prefix,
        ask: Ask::Start,
        ready: VecDeque::new(),
        last: None,
        tokens: HashSet::new(),
        pages: 0,
        empty_pages: 0,
    };
    stream::try_unfold(listing, |mut listing| async move {
        loop {
            if let Some(line) = listing.ready.pop_front() {
                return Ok(Some((line, listing)));
            }
            match std::mem::replace(&mut listing.ask, Ask::Nothing) {
                Ask::Nothing => return Ok(None),
                Ask::Uploads => listing.uploads().await?,
                ask => listing.page(ask).await?,
            }
        }
    })
    .boxed()
}

impl Listing {
    fn wrong(&self, error: S3Error) -> Error {
        self.bucket.error(Operation::List, None, error)
    }

    fn repeats(&self) -> Error {
        self.wrong(S3Error::ListingRepeats { last: self.last.clone().unwrap_or_default() })
    }

    async fn page(&mut self, ask: Ask) -> Result<(), Error> {
        self.pages += 1;
        if self.pages > PAGES_MAX {
            return Err(self.repeats());
        }
        let bucket = Arc::clone(&self.bucket);
        let request = bucket
            .client
            .list_objects_v2()
            .bucket(&bucket.name)
            .prefix(format!("{}{}", bucket.prefix, self.prefix.path()))
            .max_keys(PAGE_NAMES)
            .encoding_type(EncodingType::Url);
        let (request, is_last_look) = match ask {
            Ask::Token(token) => (request.continuation_token(token), false),
            Ask::After(name) => (request.start_after(name), true),
            Ask::Start | Ask::Uploads | Ask::Nothing => (request, false),
        };
        bucket.count(Request::List, 0);
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => return Err(bucket.failed(Operation::List, None, Refusal::from(error)).await),
        };
        let count = self.take(&answer)?;
        self.empty_pages = if count == 0 { self.empty_pages + 1 } else { 0 };
        self.ask = self.next(&answer, count, is_last_look)?;
        Ok(())
    }

    fn next(&mut self, answer: &ListObjectsV2Output, count: usize, is_last_look: bool) -> Result<Ask, Error> {
        if answer.is_truncated().unwrap_or(false) {
            let token = answer.next_continuation_token().filter(|token| !token.is_empty());
            let token = token.ok_or_else(|| self.wrong(S3Error::Answer { field: "continuation token" }))?;
            if !self.tokens.insert(token.to_owned()) || self.empty_pages > EMPTY_PAGES_MAX {
                return Err(self.repeats());
            }
            return Ok(Ask::Token(token.to_owned()));
        }
        Ok(match &self.last {
            // An end that was confirmed, or nothing to confirm: an empty place.
            Some(last) if !(is_last_look && count == 0) => Ask::After(last.clone()),
            _ if self.prefix == ObjectPrefix::All => Ask::Uploads,
            _ => Ask::Nothing,
        })
    }

    /// Takes the objects of a page and returns how many there are.
    fn take(&mut self, answer: &ListObjectsV2Output) -> Result<usize, Error> {
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let before = self.last.clone();
        for object in answer.contents() {
            let missing = |field| self.bucket.error(Operation::List, None, S3Error::Answer { field });
            let shown = object.key().ok_or_else(|| missing("name"))?;
            let name = if is_encoded { decode(shown).ok_or_else(|| missing("name"))? } else { shown.to_owned() };
            // Each page begins behind the one before: a server that starts anew would list for ever.
            if before.as_ref().is_some_and(|before| name <= *before) {
                return Err(self.repeats());
            }
            let len = object.size().and_then(|len| u64::try_from(len).ok()).ok_or_else(|| missing("size"))?;
            let modified = object.last_modified().and_then(time);
            let inside = name.strip_prefix(&self.bucket.prefix).ok_or_else(|| missing("name below the prefix"))?;
            self.ready.push_back(listed(inside, len, modified));
            self.last = Some(name);
        }
        Ok(answer.contents().len())
    }

    /// Lists puts in parts that never ended. A server that has no such list, or does not show it to us, has
    /// nothing to say about them.
    async fn uploads(&mut self) -> Result<(), Error> {
        let prefix_len = self.bucket.prefix.len();
        for upload in uploads(&self.bucket).await.unwrap_or_default() {
            let name = upload.name.get(prefix_len..).unwrap_or_default().to_owned();
            self.ready.push_back(Listed::Leftover { name, len: 0, modified: upload.initiated });
        }
        Ok(())
    }
}

/// Returns what an object of this name is.
pub(super) fn listed(name: &str, len: u64, modified: Option<SystemTime>) -> Listed {
    match name.parse() {
        Ok(key) => Listed::Object(ObjectInfo { key, len, modified }),
        // What a look at the store's abilities could not take away again.
        Err(_) if name.starts_with(PROBES) => Listed::Leftover { name: name.to_owned(), len, modified },
        Err(_) => Listed::Stranger { name: name.to_owned(), len },
    }
}

/// A put in parts that was begun.
pub(super) struct Upload {
    /// The object's name in the bucket.
    pub(super) name: String,
    pub(super) id: String,
    pub(super) initiated: Option<SystemTime>,
}

/// Returns the unfinished puts below our prefix.
pub(super) async fn uploads(bucket: &Bucket) -> Result<Vec<Upload>, Refusal> {
    let mut found = Vec::new();
    let (mut name_marker, mut id_marker) = (None, None);
    for _ in 0..UPLOAD_PAGES_MAX {
        bucket.count(Request::List, 0);
        let request = bucket.client.list_multipart_uploads().bucket(&bucket.name).prefix(&bucket.prefix);
        let request = request.set_key_marker(name_marker.take()).set_upload_id_marker(id_marker.take());
        let answer = request.send().await.map_err(Refusal::from)?;
        for upload in answer.uploads() {
            let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            if name.starts_with(&bucket.prefix) {
                let initiated = upload.initiated().and_then(time);
                found.push(Upload { name: name.to_owned(), id: id.to_owned(), initiated });
            }
        }
        name_marker = answer.next_key_marker().filter(|marker| !marker.is_empty()).map(str::to_owned);
        id_marker = answer.next_upload_id_marker().map(str::to_owned);
        if !answer.is_truncated().unwrap_or(false) || name_marker.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Returns the server's time in whole seconds, which is all that a header can say: an object has one time,
/// whoever asks. `None` for one that no clock shows.
pub(super) fn time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(time.secs()).ok()?))
}

/// Returns a name that was sent with percent signs. What is not UTF-8 is no object of ours: it is replaced.
pub(super) fn decode(encoded: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&decode_listed(encoded)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_broken_ones_are_refused() {
        assert_eq!(decode("a%2Fb+c%e4").as_deref(), Some("a/b c\u{fffd}"));
        assert_eq!(decode("a%2"), None);
        assert_eq!(decode("a%zz"), None);
    }
}
