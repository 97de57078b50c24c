//! Repeats what may go away by itself: seen, counted, and never for ever.
//!
//! An operation that fails in passing is tried again after a pause that doubles, by chance a little shorter. A
//! read that brought some of its bytes goes on where it broke off, and a listing does not show again what it has
//! shown. One attempt has a limit (a store that says nothing is as bad as one that says no), all attempts
//! together have another, and every repetition is told to [`Notice`].

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::error::GaveUp;
use super::limit::{self, IdleClock, Line};
use super::{Backend, Error, ErrorKind, Lines, Listed, Lock, Locked, ObjectInfo, Operation, Pace, Put, Traffic};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts without any progress, the first included.
    pub attempts_max: u32,
    /// Attempts of an operation whose answers cannot be read, however many others there were.
    pub garbled_max: u32,
    /// Before the second attempt; it doubles.
    pub first_pause: Duration,
    /// It doubles no further.
    pub pause_max: Duration,
    /// All attempts of an operation and the pauses between them, without the time in which their line carries something. One
    /// that runs then may end.
    pub total: Duration,
    /// One attempt that moves no bytes, without the time in which its line carries something.
    pub attempt: Duration,
    /// One attempt has so much longer. Bytes a second.
    pub bytes_per_sec_min: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 40,
            garbled_max: 4,
            first_pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            total: Duration::from_secs(900),
            attempt: Duration::from_secs(300),
            bytes_per_sec_min: 16 << 10,
        }
    }
}

impl RetryPolicy {
    /// For a store that has not said anything yet: a wrong address is more likely than one that is away for a while.
    pub const FIRST_LOOK: Self = Self {
        attempts_max: 4,
        garbled_max: 2,
        first_pause: Duration::from_millis(300),
        pause_max: Duration::from_secs(5),
        total: Duration::from_secs(90),
        attempt: Duration::from_secs(60),
        bytes_per_sec_min: 16 << 10,
    };
}

/// An operation that is about to be tried once more.
#[derive(Debug)]
pub struct Retrying<'a> {
    /// Which.
    pub operation: Operation,
    /// The object concerned, where it is about one.
    pub key: Option<ObjectKey>,
    /// Attempts that failed, without progress between them.
    pub failed: u32,
    /// After so many it is given up.
    pub attempts_max: u32,
    /// Until the next attempt.
    pub pause: Duration,
    /// Why the last one failed.
    pub error: &'a Error,
}

/// Hears of repetitions. Called from any task; must not block.
pub trait Notice: Send + Sync {
    /// An operation is about to be tried once more.
    fn retrying(&self, event: &Retrying<'_>);
}

/// The decorator. See the head of this file.
pub struct RetryBackend<B> {
    inner: B,
    policies: Policies,
    pace: Arc<dyn Pace>,
    notice: Arc<dyn Notice>,
    traffic: Arc<Traffic>,
    lines: Lines,
}

impl<B: std::fmt::Debug> std::fmt::Debug for RetryBackend<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryBackend")
            .field("inner", &self.inner)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

/// An attempt that took too long.
#[derive(Debug, thiserror::Error)]
#[error("the store has not answered for {secs} s")]
struct Stalled {
    secs: u64,
}

/// Which policy counts.
#[derive(Debug)]
struct Policies {
    first_look: RetryPolicy,
    patient: RetryPolicy,
    /// Whether something came of any operation.
    has_answered: AtomicBool,
}

impl Policies {
    fn now(&self) -> &RetryPolicy {
        if self.has_answered.load(Ordering::Relaxed) { &self.patient } else { &self.first_look }
    }
}

/// The attempts of one operation.
struct Attempts<'a> {
    policies: &'a Policies,
    pace: &'a dyn Pace,
    notice: &'a dyn Notice,
    traffic: &'a Traffic,
    operation: Operation,
    key: Option<ObjectKey>,
    location: String,
    /// The line that its bytes go over, where it is limited: waiting for it is nobody's fault.
    line: Option<&'a Line>,
    clock: IdleClock<'a>,
    /// Failed since something last came of one.
    failed: u32,
    all_failed: u32,
    garbled: u32,
}

impl Attempts<'_> {
    /// Runs one attempt, which may move `len` bytes.
    async fn watch<T>(&self, len: u64, attempt: impl Future<Output = Result<T, Error>> + Send) -> Result<T, Error> {
        let policy = self.policies.now();
        let more = Duration::from_secs(len / policy.bytes_per_sec_min.max(1));
        let limit = policy.attempt.saturating_add(more);
        match limit::watch(self.line, self.pace, limit, attempt).await {
            Some(result) => {
                if result.is_ok() {
                    self.policies.has_answered.store(true, Ordering::Relaxed);
                }
                result
            }
            None => Err(Error::Failed {
                operation: self.operation,
                key: self.key,
                at: self.key.map_or_else(|| self.location.clone(), |key| format!("{}/{key}", self.location)),
                kind: ErrorKind::Transient,
                source: Box::new(Stalled { secs: limit.as_secs() }),
            }),
        }
    }

    /// Something came of the last attempt: the count begins anew, the time does not.
    const fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt; fails where there is none.
    async fn pause(&mut self, error: Error) -> Result<(), Error> {
        match error.kind() {
            ErrorKind::Transient => {}
            ErrorKind::Garbled => self.garbled += 1,
            _ => return Err(error),
        }
        self.failed += 1;
        self.all_failed += 1;
        let policy = self.policies.now();
        let pause = pause(policy, self.failed, self.pace.chance());
        let passed = self.clock.passed();
        let is_last = self.failed >= policy.attempts_max || self.garbled >= policy.garbled_max;
        if is_last || passed.saturating_add(pause) > policy.total {
            let (attempts, secs) = (self.all_failed, passed.as_secs());
            return Err(Error::GaveUp(Box::new(GaveUp { operation: self.operation, attempts, secs, source: error })));
        }
        self.traffic.retried();
        self.notice.retrying(&Retrying {
            operation: self.operation,
            key: self.key,
            failed: self.failed,
            attempts_max: policy.attempts_max,
            pause,
            error: &error,
        });
        self.pace.sleep(pause).await;
        Ok(())
    }
}

/// Returns the pause after so many failures: doubled each time, between the half and the whole of it.
fn pause(policy: &RetryPolicy, failed: u32, chance: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = policy.first_pause.saturating_mul(doubled).min(policy.pause_max);
    let half = whole / 2;
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

impl<B: Backend> RetryBackend<B> {
    /// Repeats what fails in passing in `inner`. Repetitions are counted in `traffic`.
    pub fn new(
        inner: B,
        policy: RetryPolicy,
        pace: Arc<dyn Pace>,
        notice: Arc<dyn Notice>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let policies = Policies { first_look: policy, patient: policy, has_answered: AtomicBool::new(false) };
        Self { inner, policies, pace, notice, traffic, lines: Lines::default() }
    }

    /// With lines that the bytes of `inner` wait for: that time is no attempt's.
    #[must_use]
    pub fn with_lines(self, lines: Lines) -> Self {
        Self { lines, ..self }
    }

    /// With another policy until something has come of any operation.
    #[must_use]
    pub fn with_first_look(mut self, policy: RetryPolicy) -> Self {
        self.policies.first_look = policy;
        self
    }

    fn begin(&self, operation: Operation, key: Option<ObjectKey>) -> Attempts<'_> {
        let line = self.lines.of(operation);
        Attempts {
            policies: &self.policies,
            pace: self.pace.as_ref(),
            notice: self.notice.as_ref(),
            traffic: &self.traffic,
            operation,
            key,
            location: self.inner.location(),
            line,
            clock: IdleClock::start(line, self.pace.as_ref()),
            failed: 0,
            all_failed: 0,
            garbled: 0,
        }
    }

    /// An attempt whose answer was lost may have put the object: then it is ours, not somebody else's.
    async fn whose(&self, key: ObjectKey, body: &[Bytes], len: u64) -> Result<Put, Error> {
        match key {
            // The name says what is in it.
            ObjectKey::Pack(_) | ObjectKey::Index(_) | ObjectKey::Bundle(_) => Ok(Put::AlreadyThere),
            ObjectKey::Config
            | ObjectKey::Slot(_)
            | ObjectKey::Snapshot(..)
            | ObjectKey::Tombstone(..)
            | ObjectKey::Verified(_) => {
                let stored = self.get(key, len).await?;
                let is_ours = stored.len() as u64 == len && is_concatenation(&stored, body);
                Ok(if is_ours { Put::Created } else { Put::AlreadyThere })
            }
        }
    }

    /// Reads to the end, whatever breaks in between. `need` is `None` for a whole object of unknown length.
    async fn read(
        &self,
        mut attempts: Attempts<'_>,
        key: ObjectKey,
        offset: u64,
        need: Option<u64>,
        max_len: u64,
    ) -> Result<Bytes, Error> {
        let (mut need, mut got) = (need, BytesMut::new());
        loop {
            let have = got.len() as u64;
            let attempt = match need {
                Some(need) => {
                    let rest = need.saturating_sub(have);
                    attempts.watch(rest, self.inner.get_range(key, offset.saturating_add(have), rest)).await
                }
                None => attempts.watch(max_len, self.inner.get(key, max_len)).await,
            };
            let error = match attempt {
                Ok(bytes) if got.is_empty() => return Ok(bytes),
                Ok(bytes) => {
                    got.extend_from_slice(&bytes);
                    return Ok(got.freeze());
                }
                Err(error) => error,
            };
            if let Error::Cut(cut) = &error
                && !cut.got.is_empty()
            {
                need = need.or(Some(cut.need));
                got.extend_from_slice(&cut.got);
                attempts.progressed();
            }
            attempts.pause(error).await?;
        }
    }
}

fn is_concatenation(whole: &[u8], parts: &[Bytes]) -> bool {
    let mut rest = whole;
    for part in parts {
        match rest.strip_prefix(part.as_ref()) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// What was listed already, as two hashes of each line's name: a repeated listing begins anew.
struct Shown {
    hashers: [RandomState; 2],
    names: HashSet<[u64; 2]>,
}

impl Shown {
    /// Returns whether this line was not shown yet.
    fn is_new(&mut self, line: &Listed) -> bool {
        let [first, second] = &self.hashers;
        let pair = |key: &dyn Fn(&RandomState) -> u64| [key(first), key(second)];
        self.names.insert(match line {
            Listed::Object(info) => pair(&|hasher| hasher.hash_one(info.key)),
            Listed::Leftover { name, .. } => pair(&|hasher| hasher.hash_one(("leftover", name))),
            Listed::Stranger { name, .. } => pair(&|hasher| hasher.hash_one(("stranger", name))),
        })
    }
}

#[async_trait]
impl<B: Backend> Backend for RetryBackend<B> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        let len = body.iter().map(|part| part.len() as u64).sum();
        let mut attempts = self.begin(Operation::Put, Some(key));
        loop {
            match attempts.watch(len, self.inner.put(key, body.clone())).await {
                Ok(Put::AlreadyThere) if attempts.all_failed > 0 => return self.whose(key, &body, len).await,
                Ok(put) => return Ok(put),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        self.read(self.begin(Operation::Get, Some(key)), key, 0, None, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.read(self.begin(Operation::GetRange, Some(key)), key, offset, Some(len), len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        let mut attempts = self.begin(Operation::Stat, Some(key));
        loop {
            match attempts.watch(0, self.inner.stat(key)).await {
                Ok(info) => return Ok(info),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let attempts = self.begin(Operation::List, None);
        let shown = Shown { hashers: [RandomState::new(), RandomState::new()], names: HashSet::new() };
        let start = (attempts, shown, self.inner.list(prefix));
        stream::try_unfold(start, move |(mut attempts, mut shown, mut listing)| async move {
            loop {
                // One poll asks for a page at most.
                let next = async { listing.next().await.transpose() };
                match attempts.watch(0, next).await {
                    Ok(None) => return Ok(None),
                    Ok(Some(line)) => {
                        if shown.is_new(&line) {
                            attempts.progressed();
                            return Ok(Some((line, (attempts, shown, listing))));
                        }
                    }
                    Err(error) => {
                        attempts.pause(error).await?;
                        listing = self.inner.list(prefix);
                    }
                }
            }
        })
        .boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        let mut attempts = self.begin(Operation::Delete, Some(key));
        loop {
            match attempts.watch(0, self.inner.delete(key)).await {
                Ok(()) => return Ok(()),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        let mut attempts = self.begin(Operation::Lock, Some(key));
        loop {
            match attempts.watch(0, self.inner.lock(key, lock)).await {
                Ok(locked) => return Ok(locked),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        let mut attempts = self.begin(Operation::Sweep, None);
        loop {
            match attempts.watch(0, self.inner.sweep(before)).await {
                Ok(count) => return Ok(count),
                Err(error) => attempts.pause(error).await?,
            }
        }
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
