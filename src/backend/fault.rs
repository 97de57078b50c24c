//! A backend that fails when it is told to: for tests that stop a program at every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{Backend, Error, ErrorKind, Listed, Lock, Locked, ObjectInfo, Operation, Put};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// What happens at the chosen operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect. Later ones work.
    Fail(ErrorKind),
    /// It takes effect and yet fails: the answer got lost. Later ones work.
    LoseAnswer(ErrorKind),
    /// The program stops just before it: it and everything later fails and has no effect.
    CrashBefore,
    /// The program stops just after it took effect: it fails, and everything later has no effect.
    CrashAfter,
    /// From here on nobody answers: everything fails, and might work later.
    Unreachable,
    /// From here on every put fails for want of space. Everything else works.
    DiskFull,
}

/// Which operations are counted, and can be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// All of them. A listing is one operation, at its first poll.
    All,
    /// Those that change what is stored: put, delete, sweep.
    Writes,
}

/// A decorator that counts operations and injects a [`Fault`] at one of them.
#[derive(Debug)]
pub struct FaultBackend<B> {
    inner: B,
    counted: Counted,
    /// The number of the operation that is hit, from 1.
    plan: Option<(u64, Fault)>,
    seen: Arc<AtomicU64>,
}

/// The source of every injected error.
#[derive(Debug, thiserror::Error)]
#[error("fault injected at operation {number}")]
struct Injected {
    number: u64,
}

/// What was decided for one operation.
#[derive(Clone, Copy)]
enum Turn {
    Work,
    WorkThenFail { number: u64, kind: ErrorKind },
    Fail { number: u64, kind: ErrorKind },
}

impl<B: Backend> FaultBackend<B> {
    /// Makes one that injects `fault` at the `at`-th counted operation, from 1.
    pub fn new(inner: B, counted: Counted, at: u64, fault: Fault) -> Self {
        Self { inner, counted, plan: Some((at, fault)), seen: Arc::default() }
    }

    /// Makes one that only counts: how many places there are to hit.
    pub fn counting(inner: B, counted: Counted) -> Self {
        Self { inner, counted, plan: None, seen: Arc::default() }
    }

    /// Makes one for another store of the same program: both count on, and what stops one stops the other.
    pub fn beside<C: Backend>(&self, inner: C) -> FaultBackend<C> {
        FaultBackend { inner, counted: self.counted, plan: self.plan, seen: Arc::clone(&self.seen) }
    }

    /// Returns how many operations were counted so far, the failed ones included.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Returns whether the chosen operation was reached.
    #[must_use]
    pub fn fired(&self) -> bool {
        self.plan.is_some_and(|(at, _)| self.operations() >= at)
    }

    /// Returns the decorated backend.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    fn turn(&self, operation: Operation) -> Turn {
        let is_counted = self.counted == Counted::All || operation.writes();
        let number = if is_counted { self.seen.fetch_add(1, Ordering::SeqCst) + 1 } else { self.operations() };
        let Some((at, fault)) = self.plan else { return Turn::Work };
        let hit = is_counted && number == at;
        let later = if is_counted { number > at } else { number >= at };
        // A stopped program answers nothing any more: to its caller that is an error like any other.
        let stopped = ErrorKind::Other;
        match fault {
            Fault::Fail(kind) if hit => Turn::Fail { number, kind },
            Fault::LoseAnswer(kind) if hit => Turn::WorkThenFail { number, kind },
            Fault::CrashAfter if hit => Turn::WorkThenFail { number, kind: stopped },
            Fault::CrashBefore | Fault::CrashAfter if hit || later => Turn::Fail { number, kind: stopped },
            Fault::Unreachable if hit || later => Turn::Fail { number, kind: ErrorKind::Transient },
            Fault::DiskFull if (hit || later) && operation == Operation::Put => {
                Turn::Fail { number, kind: ErrorKind::Full }
            }
            _ => Turn::Work,
        }
    }

    fn injected(&self, operation: Operation, key: Option<ObjectKey>, number: u64, kind: ErrorKind) -> Error {
        let at = match key {
            Some(key) => format!("{}/{key}", self.inner.location()),
            None => self.inner.location(),
        };
        Error::Failed { operation, key, at, kind, source: Box::new(Injected { number }) }
    }

    /// Runs one operation, or does not.
    async fn run<T>(
        &self,
        operation: Operation,
        key: Option<ObjectKey>,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        match self.turn(operation) {
            Turn::Work => work.await,
            Turn::WorkThenFail { number, kind } => {
                work.await?;
                Err(self.injected(operation, key, number, kind))
            }
            Turn::Fail { number, kind } => Err(self.injected(operation, key, number, kind)),
        }
    }
}

#[async_trait]
impl<B: Backend> Backend for FaultBackend<B> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        self.run(Operation::Put, Some(key), self.inner.put(key, body)).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        self.run(Operation::Get, Some(key), self.inner.get(key, max_len)).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.run(Operation::GetRange, Some(key), self.inner.get_range(key, offset, len)).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.run(Operation::Stat, Some(key), self.inner.stat(key)).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        let start = async move {
            match self.turn(Operation::List) {
                Turn::Work => self.inner.list(prefix),
                // The listing has no effect; its answer gets lost after the first line.
                Turn::WorkThenFail { number, kind } => {
                    let lost = Err(self.injected(Operation::List, None, number, kind));
                    self.inner.list(prefix).take(1).chain(stream::iter([lost])).boxed()
                }
                Turn::Fail { number, kind } => {
                    stream::iter([Err(self.injected(Operation::List, None, number, kind))]).boxed()
                }
            }
        };
        stream::once(start).flatten().boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.run(Operation::Delete, Some(key), self.inner.delete(key)).await
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        self.run(Operation::Lock, Some(key), self.inner.lock(key, lock)).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        self.run(Operation::Sweep, None, self.inner.sweep(before)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::format::id::SlotId;

    fn slot(number: u8) -> ObjectKey {
        ObjectKey::Slot(SlotId::from_bytes([number; 32]))
    }

    /// Puts three objects, carrying on after errors, and returns the kinds of the errors.
    async fn put_three(backend: &dyn Backend) -> Vec<Option<ErrorKind>> {
        let mut kinds = Vec::new();
        for number in 1..=3 {
            kinds.push(backend.put(slot(number), vec![Bytes::from_static(b"x")]).await.err().map(|error| error.kind()));
        }
        kinds
    }

    #[tokio::test]
    async fn each_fault_hits_what_it_says_and_leaves_what_it_says() {
        let (other, transient, full) = (Some(ErrorKind::Other), Some(ErrorKind::Transient), Some(ErrorKind::Full));
        for (fault, kinds, left) in [
            (Fault::Fail(ErrorKind::Transient), [None, transient, None], vec![slot(1), slot(3)]),
            (Fault::LoseAnswer(ErrorKind::Transient), [None, transient, None], vec![slot(1), slot(2), slot(3)]),
            (Fault::CrashBefore, [None, other, other], vec![slot(1)]),
            (Fault::CrashAfter, [None, other, other], vec![slot(1), slot(2)]),
            (Fault::DiskFull, [None, full, full], vec![slot(1)]),
        ] {
            for counted in [Counted::All, Counted::Writes] {
                let memory = MemoryBackend::new();
                let backend = FaultBackend::new(memory.clone(), counted, 2, fault);
                assert_eq!(put_three(&backend).await, kinds, "{fault:?}");
                assert_eq!(memory.objects().into_keys().collect::<Vec<_>>(), left, "{fault:?}");
                assert!(backend.fired());
                assert_eq!(backend.operations(), 3);
            }
        }
    }

    #[tokio::test]
    async fn after_a_crash_even_reads_that_are_not_counted_fail() {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let backend = FaultBackend::new(MemoryBackend::new(), Counted::Writes, 1, fault);
            assert_eq!(backend.stat(slot(1)).await.unwrap(), None);
            assert!(backend.put(slot(1), vec![]).await.is_err());
            assert!(backend.stat(slot(1)).await.is_err());
            let listed: Vec<_> = backend.list(ObjectPrefix::All).collect().await;
            assert!(matches!(listed.as_slice(), [Err(Error::Failed { operation: Operation::List, .. })]));
        }
    }

    #[tokio::test]
    async fn a_full_disk_still_lets_read_and_delete() {
        let memory = MemoryBackend::new();
        assert_eq!(put_three(&memory).await, [None; 3]);
        let backend = FaultBackend::new(memory, Counted::All, 1, Fault::DiskFull);
        assert_eq!(backend.get(slot(1), 1).await.unwrap(), "x");
        backend.delete(slot(1)).await.unwrap();
        let error = backend.put(slot(1), vec![]).await.unwrap_err();
        assert_eq!((error.kind(), error.key()), (ErrorKind::Full, Some(slot(1))));
    }

    #[tokio::test]
    async fn counting_alone_changes_nothing() {
        let backend = FaultBackend::counting(MemoryBackend::new(), Counted::Writes);
        assert_eq!(put_three(&backend).await, [None; 3]);
        assert_eq!(backend.get(slot(1), 1).await.unwrap(), "x");
        assert_eq!((backend.operations(), backend.fired()), (3, false));
        assert_eq!(backend.inner().objects().len(), 3);
    }
}
