//! What is repeated, what is not, and when it ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::{TryStreamExt as _, future};

use super::*;
use crate::backend::test_pace::TestPace;
use crate::backend::{Counted, Cut, Fault, FaultBackend, MemoryBackend};
use crate::format::id::{PackId, SlotId};

/// Remembers what it hears.
#[derive(Default)]
struct Heard(Mutex<Vec<(Operation, u32, Duration)>>);

impl Notice for Heard {
    fn retrying(&self, event: &Retrying<'_>) {
        assert!(matches!(event.error.kind(), ErrorKind::Transient | ErrorKind::Garbled));
        self.0.lock().unwrap().push((event.operation, event.failed, event.pause));
    }
}

struct Scene<B> {
    backend: RetryBackend<B>,
    pace: Arc<TestPace>,
    heard: Arc<Heard>,
    traffic: Arc<Traffic>,
}

const POLICY: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    garbled_max: 2,
    first_pause: Duration::from_secs(1),
    pause_max: Duration::from_secs(4),
    total: Duration::from_secs(60),
    attempt: Duration::from_secs(100),
    bytes_per_sec_min: 1000,
};

fn scene<B: Backend>(inner: B, policy: RetryPolicy) -> Scene<B> {
    let pace = Arc::new(TestPace { watchdog: Some(policy.attempt), chance: u32::MAX, ..TestPace::default() });
    let (heard, traffic) = (Arc::new(Heard::default()), Arc::new(Traffic::default()));
    let backend = RetryBackend::new(inner, policy, pace.clone(), heard.clone(), Arc::clone(&traffic));
    Scene { backend, pace, heard, traffic }
}

fn slot(number: u8) -> ObjectKey {
    ObjectKey::Slot(SlotId::from_bytes([number; 32]))
}

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId::from_bytes([number; 32]))
}

fn body(bytes: &'static [u8]) -> Vec<Bytes> {
    vec![Bytes::from_static(bytes)]
}

/// Fails every operation in the same way, and counts them.
#[derive(Debug, Default)]
struct Broken {
    kind: Option<ErrorKind>,
    seen: AtomicU32,
}

impl Broken {
    fn fail<T>(&self, operation: Operation) -> Result<T, Error> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let kind = self.kind.unwrap_or(ErrorKind::Transient);
        Err(Error::Failed { operation, key: None, at: "broken".to_owned(), kind, source: "always".into() })
    }
}

#[async_trait]
impl Backend for Broken {
    fn location(&self) -> String {
        "broken".to_owned()
    }

    async fn put(&self, _: ObjectKey, _: Vec<Bytes>) -> Result<Put, Error> {
        self.fail(Operation::Put)
    }

    async fn get(&self, _: ObjectKey, _: u64) -> Result<Bytes, Error> {
        self.fail(Operation::Get)
    }

    async fn get_range(&self, _: ObjectKey, _: u64, _: u64) -> Result<Bytes, Error> {
        self.fail(Operation::GetRange)
    }

    async fn stat(&self, _: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        // A store that says nothing.
        self.seen.fetch_add(1, Ordering::SeqCst);
        future::pending().await
    }

    fn list(&self, _: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        stream::once(async { self.fail(Operation::List) }).boxed()
    }

    async fn delete(&self, _: ObjectKey) -> Result<(), Error> {
        self.fail(Operation::Delete)
    }

    async fn sweep(&self, _: SystemTime) -> Result<u64, Error> {
        self.fail(Operation::Sweep)
    }
}

#[tokio::test]
async fn a_failure_in_passing_is_repeated_and_everything_else_is_not() {
    for (kind, is_repeated) in [
        (ErrorKind::Transient, true),
        (ErrorKind::Garbled, true),
        (ErrorKind::Denied, false),
        (ErrorKind::Full, false),
        (ErrorKind::Damaged, false),
        (ErrorKind::NotFound, false),
        (ErrorKind::Other, false),
    ] {
        let inner = FaultBackend::new(MemoryBackend::new(), Counted::All, 1, Fault::Fail(kind));
        let scene = scene(inner, POLICY);
        let put = scene.backend.put(pack(1), body(b"x")).await;
        assert_eq!(put.is_ok(), is_repeated, "{kind:?}");
        assert_eq!(scene.traffic.retries(), u64::from(is_repeated));
        assert_eq!(scene.heard.0.lock().unwrap().len(), usize::from(is_repeated));
    }
}

#[tokio::test]
async fn pauses_double_up_to_a_limit_and_attempts_end() {
    let scene = scene(Broken::default(), POLICY);
    let error = scene.backend.delete(pack(1)).await.unwrap_err();
    let Error::GaveUp(gave_up) = &error else { panic!("{error}") };
    assert_eq!((gave_up.attempts, gave_up.secs, error.kind()), (5, 11, ErrorKind::Transient));
    assert_eq!(error.to_string(), "cannot delete: given up after 5 attempts in 11 s");
    assert_eq!(scene.backend.inner.seen.load(Ordering::SeqCst), 5);
    assert_eq!(*scene.pace.sleeps.lock().unwrap(), [1, 2, 4, 4].map(Duration::from_secs));
    let heard: Vec<u32> = scene.heard.0.lock().unwrap().iter().map(|(_, failed, _)| *failed).collect();
    assert_eq!(heard, [1, 2, 3, 4]);
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_asked_for_again_once_or_twice() {
    let broken = Broken { kind: Some(ErrorKind::Garbled), ..Broken::default() };
    let scene = scene(broken, RetryPolicy { garbled_max: 3, ..POLICY });
    let error = scene.backend.delete(pack(1)).await.unwrap_err();
    assert!(matches!(&error, Error::GaveUp(gave_up) if gave_up.attempts == 3), "{error}");
    assert_eq!(scene.backend.inner.seen.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_store_that_has_not_answered_anything_is_given_up_sooner() {
    let first_look = RetryPolicy { attempts_max: 2, ..POLICY };
    let scene = scene(Broken::default(), POLICY);
    let backend = scene.backend.with_first_look(first_look);
    let attempts = |error| if let Error::GaveUp(gave_up) = error { gave_up.attempts } else { 0 };
    assert_eq!(attempts(backend.delete(pack(1)).await.unwrap_err()), 2);
    // Also for what began before.
    let begun = backend.begin(Operation::Get, None);
    begun.watch(0, async { Ok(()) }).await.unwrap();
    assert_eq!(begun.policies.now().attempts_max, POLICY.attempts_max);
    assert_eq!(attempts(backend.delete(pack(1)).await.unwrap_err()), 5);
}

#[tokio::test]
async fn all_attempts_together_have_a_limit_of_time() {
    let scene = scene(Broken::default(), RetryPolicy { attempts_max: u32::MAX, ..POLICY });
    let error = scene.backend.get(pack(1), 10).await.unwrap_err();
    assert!(matches!(error, Error::GaveUp(_)));
    assert!(scene.pace.now() <= POLICY.total, "{:?}", scene.pace.now());
    assert!(scene.pace.now() + POLICY.pause_max > POLICY.total, "{:?}", scene.pace.now());
}

#[tokio::test]
async fn a_store_that_says_nothing_is_given_up() {
    let policy = RetryPolicy { attempts_max: 3, total: Duration::from_secs(1000), ..POLICY };
    let pace = Arc::new(TestPace::default());
    let heard = Arc::new(Heard::default());
    let backend = RetryBackend::new(Broken::default(), policy, pace.clone(), heard, Arc::default());
    let error = backend.stat(pack(1)).await.unwrap_err();
    let Error::GaveUp(gave_up) = error else { panic!("{error}") };
    assert_eq!(gave_up.source.to_string(), format!("cannot stat broken/{}", pack(1)));
    let reason = std::error::Error::source(&gave_up.source).unwrap().to_string();
    assert_eq!(reason, "the store has not answered for 100 s");
    assert_eq!(backend.inner.seen.load(Ordering::SeqCst), 3);
    // Longer attempts are waited for where they have bytes to move.
    let attempts = backend.begin(Operation::Get, None);
    let before = pace.now();
    assert!(attempts.watch(7000, future::pending::<Result<(), Error>>()).await.is_err());
    assert_eq!(pace.now() - before, Duration::from_secs(107));
}

#[test]
fn chance_shortens_a_pause_by_half_at_most() {
    for (failed, chance, millis) in
        [(1, 0, 500), (1, u32::MAX, 1000), (3, u32::MAX / 2, 3000), (4, u32::MAX, 4000), (99, 0, 2000)]
    {
        let pause = pause(&POLICY, failed, chance);
        let off = pause.abs_diff(Duration::from_millis(millis));
        assert!(off < Duration::from_millis(1), "{failed} {chance}: {pause:?}");
    }
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_ours_and_another_ones_is_not() {
    let lost = || FaultBackend::new(MemoryBackend::new(), Counted::Writes, 1, Fault::LoseAnswer(ErrorKind::Transient));
    let scene_of = scene(lost(), POLICY);
    assert_eq!(
        scene_of.backend.put(slot(1), vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]).await.unwrap(),
        Put::Created
    );
    assert_eq!(scene_of.backend.put(slot(1), body(b"ab")).await.unwrap(), Put::AlreadyThere);

    // Somebody else's, put while our first attempt failed.
    let memory = MemoryBackend::new();
    memory.replace(slot(1), Bytes::from_static(b"xy"));
    let failing = FaultBackend::new(memory, Counted::Writes, 1, Fault::Fail(ErrorKind::Transient));
    assert_eq!(scene(failing, POLICY).backend.put(slot(1), body(b"ab")).await.unwrap(), Put::AlreadyThere);
}

/// Cuts every read after so many bytes.
#[derive(Debug)]
struct Cutting {
    inner: MemoryBackend,
    after: u64,
    reads: AtomicU32,
}

impl Cutting {
    async fn read(&self, key: ObjectKey, offset: u64, need: u64) -> Result<Bytes, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if need <= self.after {
            return self.inner.get_range(key, offset, need).await;
        }
        let got = self.inner.get_range(key, offset, self.after).await?;
        let location = self.location();
        Err(Error::Cut(Box::new(Cut { key, location, offset, need, got, source: "cut".into() })))
    }
}

#[async_trait]
impl Backend for Cutting {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        self.inner.put(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        let whole = self.inner.get(key, max_len).await?;
        self.read(key, 0, whole.len() as u64).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.read(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        // Two lines, then it breaks, but for the listing that nobody has begun yet.
        let all = self.inner.list(prefix);
        if self.reads.fetch_add(1, Ordering::SeqCst) > 3 {
            return all;
        }
        let cut = Err(Error::Failed {
            operation: Operation::List,
            key: None,
            at: "here".to_owned(),
            kind: ErrorKind::Transient,
            source: "cut".into(),
        });
        all.take(2).chain(stream::iter([cut])).boxed()
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.inner.delete(key).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep(before).await
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_goes_on_where_it_broke() {
    let memory = MemoryBackend::new();
    let content: Bytes = (0..=255).collect();
    memory.replace(pack(1), content.clone());
    for after in [10, 100, 255, 256] {
        let cutting = Cutting { inner: memory.clone(), after, reads: AtomicU32::new(0) };
        let scene = scene(cutting, POLICY);
        assert_eq!(scene.backend.get(pack(1), 256).await.unwrap(), content, "{after}");
        // Each byte came once, and progress is no failure that counts: 26 attempts are more than 5.
        assert_eq!(u64::from(scene.backend.inner.reads.swap(0, Ordering::SeqCst)), 256_u64.div_ceil(after));
        assert_eq!(scene.backend.get_range(pack(1), 7, 99).await.unwrap(), content.slice(7..106));
    }
    // No progress at all ends.
    let cutting = Cutting { inner: memory, after: 0, reads: AtomicU32::new(0) };
    assert!(matches!(scene(cutting, POLICY).backend.get(pack(1), 256).await, Err(Error::GaveUp(_))));
}

#[tokio::test]
async fn a_listing_that_breaks_shows_each_object_once() {
    let memory = MemoryBackend::new();
    (0..7).for_each(|number| memory.replace(pack(number), Bytes::new()));
    memory.plant("tmp/x", Bytes::new());
    memory.plant("stranger", Bytes::new());
    let scene = scene(Cutting { inner: memory, after: 0, reads: AtomicU32::new(0) }, POLICY);
    let lines: Vec<Listed> = scene.backend.list(ObjectPrefix::All).try_collect().await.unwrap();
    let names: Vec<String> = lines.iter().map(|line| format!("{line:?}")).collect();
    let once: HashSet<&String> = names.iter().collect();
    assert_eq!((names.len(), once.len()), (9, 9), "{names:?}");
    assert_eq!(scene.traffic.retries(), 4);
}
