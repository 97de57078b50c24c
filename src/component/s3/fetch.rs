//! Reading one object: metadata from `HeadObject`, bytes from `GetObject`, both of the same state.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream as SdkBody;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::attributes::{Attributes, Head, assemble, same_etag};
use super::client::{Condition, Got, Server, State, Tags, innermost, place};
use super::listing::Listed;
use super::{Error, Place};
use crate::component::{self, ByteStream, Run, in_memory};

/// Objects up to this length are read whole, several at a time.
pub(super) const SMALL_LEN_MAX: u64 = 1 << 20;
/// Bytes of one run.
const RUN_LEN_MAX: usize = 1 << 20;
/// Times that a body may break off before it is given up.
const RESUMES_MAX: u32 = 8;
/// Times that an object may be found changed before it is given up.
const ATTEMPTS_MAX: u32 = 5;

/// An object read, or about to be.
pub(super) struct Fetched {
    pub(super) attributes: Attributes,
    pub(super) len: u64,
    pub(super) body: ByteStream,
}

/// What became of reading an object.
pub(super) struct Outcome {
    /// Nothing where the object is gone.
    pub(super) fetched: Option<Fetched>,
    /// Races and gaps that the operator should hear about.
    pub(super) warnings: Vec<String>,
}

/// Why one attempt did not yield the object.
enum Attempt {
    Done(Fetched),
    Changed,
    Gone,
}

/// One object of one bucket.
pub(super) struct Reader {
    pub(super) server: Arc<Server>,
    pub(super) bucket: String,
}

impl Reader {
    /// Reads a listed object. Up to `SMALL_LEN_MAX` the body is in memory when this returns; longer ones are
    /// opened and flow as they are asked for.
    pub(super) async fn fetch(&self, mut listed: Listed) -> Result<Outcome, Error> {
        let mut warnings = Vec::new();
        let mut condition = Condition::IfMatch;
        for _ in 0..ATTEMPTS_MAX {
            let race = match self.attempt(&listed, condition, &mut warnings).await? {
                Attempt::Done(fetched) => return Ok(Outcome { fetched: Some(fetched), warnings }),
                Attempt::Changed => "changed",
                Attempt::Gone => "vanished",
            };
            match self.server.relist(&self.bucket, &listed.key).await? {
                // Nothing changed, so it was the condition that the server did not understand.
                Some(now) if now == listed && condition == Condition::IfMatch => condition = Condition::Compare,
                Some(now) => {
                    warnings.push(self.race(&listed.key, race));
                    listed = now;
                }
                None => {
                    warnings.push(self.race(&listed.key, race));
                    return Ok(Outcome { fetched: None, warnings });
                }
            }
        }
        Err(Error::NeverStill { place: self.place("GetObject", &listed.key), attempts: ATTEMPTS_MAX })
    }

    /// Asks by name for an object that the previous snapshot has and the listing has not.
    pub(super) async fn look_for(&self, key: &str) -> Result<Outcome, Error> {
        let head = self.server.head(&self.bucket, key).await?;
        let listed = match head {
            Some(head) => Some(Listed {
                key: key.to_owned(),
                len: head.len,
                etag: head.etag,
                last_modified: head.last_modified,
                storage_class: None,
            }),
            // A bucket that is denied for a moment answers like this too: a listing tells one from the other.
            None => self.server.relist(&self.bucket, key).await?,
        };
        let Some(listed) = listed else { return Ok(Outcome { fetched: None, warnings: Vec::new() }) };
        let mut outcome = self.fetch(listed).await?;
        if outcome.fetched.is_some() {
            let key = key.escape_debug();
            outcome.warnings.push(format!("the listing of bucket {} omitted {key}, which exists", self.bucket));
        }
        Ok(outcome)
    }

    /// Returns the attributes of an object whose content is known to be unchanged; `None` where it is not the
    /// listed one any more.
    pub(super) async fn attributes(&self, listed: &Listed) -> Result<Option<Attributes>, Error> {
        let Some(head) = self.server.head(&self.bucket, &listed.key).await? else { return Ok(None) };
        if !is_listed(&head, listed) {
            return Ok(None);
        }
        match self.server.tags(&self.bucket, &listed.key).await? {
            Tags::Gone => Ok(None),
            Tags::NotSupported => Ok(Some(assemble(listed, head, Vec::new()))),
            Tags::Known(tags) => Ok(Some(assemble(listed, head, tags))),
        }
    }

    async fn attempt(
        &self,
        listed: &Listed,
        condition: Condition,
        warnings: &mut Vec<String>,
    ) -> Result<Attempt, Error> {
        let Some(head) = self.server.head(&self.bucket, &listed.key).await? else { return Ok(Attempt::Gone) };
        if !is_listed(&head, listed) {
            return Ok(Attempt::Changed);
        }
        let tags = match self.server.tags(&self.bucket, &listed.key).await? {
            Tags::Gone => return Ok(Attempt::Gone),
            Tags::NotSupported => Vec::new(),
            Tags::Known(tags) => tags,
        };
        // Asked for even when empty: only this proves that the object is still the one with this metadata.
        let state = State { etag: head.etag.clone(), condition };
        let (body, len) = match self.server.get(&self.bucket, &listed.key, &state, 0).await? {
            Got::Body { body, len } => (body, len),
            Got::Changed => return Ok(Attempt::Changed),
            Got::Gone => return Ok(Attempt::Gone),
        };
        if len != head.len {
            let place = self.place("GetObject", &listed.key);
            return Err(Error::BodyLength { place, expected: head.len, got: len });
        }
        let missing = head.missing_meta;
        let body = self.body(&listed.key, state, len, body);
        let body = if len <= SMALL_LEN_MAX {
            match collect(body, len).await {
                Ok(bytes) => in_memory(bytes),
                Err(Error::Changed { .. }) => return Ok(Attempt::Changed),
                Err(error) => return Err(error),
            }
        } else {
            body.map(|item| item.map(Run::from).map_err(component::Error::from)).boxed()
        };
        if missing > 0 {
            let key = listed.key.escape_debug();
            warnings.push(format!("{}/{key}: {missing} metadata entries cannot be read", self.bucket));
        }
        Ok(Attempt::Done(Fetched { attributes: assemble(listed, head, tags), len, body }))
    }

    /// Returns the body as a stream that resumes where it breaks off and ends only when it is whole.
    fn body(
        &self,
        key: &str,
        state: State,
        len: u64,
        body: SdkBody,
    ) -> futures::stream::BoxStream<'static, Result<Bytes, Error>> {
        let body = Body {
            server: Arc::clone(&self.server),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            state,
            len,
            at: 0,
            resumes_left: RESUMES_MAX,
            body,
        };
        futures::stream::try_unfold(body, |mut body| async move { Ok(body.next().await?.map(|bytes| (bytes, body))) })
            .flat_map(|item| futures::stream::iter(split(item)))
            .boxed()
    }

    fn race(&self, key: &str, race: &str) -> String {
        format!("{}/{} {race} during the capture", self.bucket, key.escape_debug())
    }

    fn place(&self, operation: &'static str, key: &str) -> Box<Place> {
        place(operation, Some(&self.bucket), Some(key))
    }
}

/// True when the metadata is that of the listed object, as far as the listing tells.
pub(super) fn is_listed(head: &Head, listed: &Listed) -> bool {
    let same = match (&head.etag, &listed.etag) {
        (Some(head), Some(listed)) => same_etag(head, listed),
        _ => true,
    };
    same && head.len == listed.len
}

struct Body {
    server: Arc<Server>,
    bucket: String,
    key: String,
    state: State,
    len: u64,
    at: u64,
    resumes_left: u32,
    body: SdkBody,
}

impl Body {
    /// Returns the next bytes, nothing at the proven end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let broken = match self.body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                    if self.at > self.len {
                        return Err(Error::BodyLength { place: self.place(), expected: self.len, got: self.at });
                    }
                    return Ok(Some(bytes));
                }
                _ if self.at == self.len => return Ok(None),
                Some(Err(error)) => innermost(&error),
                None => "it ended early".to_owned(),
            };
            self.resume(broken).await?;
        }
    }

    /// Goes on at the byte where the body broke off, in the same state of the object or not at all.
    async fn resume(&mut self, reason: String) -> Result<(), Error> {
        // Without an etag nothing tells that the rest belongs to the same object.
        if self.resumes_left == 0 || self.state.etag.is_none() {
            return Err(Error::BodyBroken { place: self.place(), at: self.at, expected: self.len, reason });
        }
        self.resumes_left -= 1;
        match self.server.get(&self.bucket, &self.key, &self.state, self.at).await? {
            Got::Body { body, len } if self.at.checked_add(len) == Some(self.len) => {
                self.body = body;
                Ok(())
            }
            Got::Body { len, .. } => {
                let got = self.at.saturating_add(len);
                Err(Error::BodyLength { place: self.place(), expected: self.len, got })
            }
            Got::Changed | Got::Gone => Err(Error::Changed { place: self.place() }),
        }
    }

    fn place(&self) -> Box<Place> {
        place("GetObject", Some(&self.bucket), Some(&self.key))
    }
}

/// Cuts bytes into runs.
fn split(item: Result<Bytes, Error>) -> Vec<Result<Bytes, Error>> {
    let mut rest = match item {
        Ok(bytes) => bytes,
        Err(error) => return vec![Err(error)],
    };
    let mut runs = Vec::new();
    while rest.len() > RUN_LEN_MAX {
        runs.push(Ok(rest.split_to(RUN_LEN_MAX)));
    }
    runs.push(Ok(rest));
    runs
}

/// Gathers a body of known, small length.
async fn collect(
    mut body: futures::stream::BoxStream<'static, Result<Bytes, Error>>,
    len: u64,
) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(len.min(SMALL_LEN_MAX)).unwrap_or(0));
    while let Some(run) = body.next().await {
        bytes.extend_from_slice(&run?);
    }
    Ok(bytes.freeze())
}
