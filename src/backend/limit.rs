//! Keeps a run from filling the line: so many bytes a second out, so many in.
//!
//! Objects and ranges go as a whole; what is limited is how soon the next one begins, whoever asks for it: however many
//! transfers there are at once and in however many stores, what has begun is never more than the line has carried
//! since, and one object.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Backend, Error, Listed, Lock, Locked, ObjectInfo, Pace, Put};
use crate::format::object::{ObjectKey, ObjectPrefix};

/// Bytes a second; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of what is put.
    pub upload: Option<u64>,
    /// Of what is read.
    pub download: Option<u64>,
}

/// Both directions, for as many stores as share them: clones are the same lines.
#[derive(Debug, Clone)]
pub struct Lines {
    upload: Arc<Line>,
    download: Arc<Line>,
}

impl Lines {
    /// Makes lines that nobody has used.
    #[must_use]
    pub fn new(bandwidth: Bandwidth) -> Self {
        Self { upload: Arc::new(Line::new(bandwidth.upload)), download: Arc::new(Line::new(bandwidth.download)) }
    }

    /// Returns these lines, but new ones of `bandwidth` where these have no limit.
    #[must_use]
    pub fn or(&self, bandwidth: Bandwidth) -> Self {
        let other = Self::new(bandwidth);
        let pick = |shared: &Arc<Line>, own| if shared.bytes_per_sec.is_some() { Arc::clone(shared) } else { own };
        Self { upload: pick(&self.upload, other.upload), download: pick(&self.download, other.download) }
    }
}

/// The decorator. See the head of this file.
#[derive(Debug)]
pub struct LimitBackend<B> {
    inner: B,
    pace: Arc<dyn Pace>,
    lines: Lines,
}

/// One direction.
#[derive(Debug)]
struct Line {
    bytes_per_sec: Option<u64>,
    /// When the next transfer may begin.
    free: Mutex<Duration>,
    /// Held by who reads an object without knowing how long it is: nobody takes the line meanwhile.
    unknown: tokio::sync::Mutex<()>,
}

impl Line {
    const fn new(bytes_per_sec: Option<u64>) -> Self {
        Self { bytes_per_sec, free: Mutex::new(Duration::ZERO), unknown: tokio::sync::Mutex::const_new(()) }
    }

    /// Takes the line for so many bytes and returns how long to wait until it is free.
    fn take(&self, len: u64, now: Duration) -> Duration {
        let Some(bytes_per_sec) = self.bytes_per_sec else { return Duration::ZERO };
        let micros = u128::from(len) * 1_000_000 / u128::from(bytes_per_sec.max(1));
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = now.max(*free);
        *free = begin.saturating_add(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
        begin.saturating_sub(now)
    }
}

impl<B: Backend> LimitBackend<B> {
    /// Limits what goes to and comes from `inner`.
    pub const fn new(inner: B, lines: Lines, pace: Arc<dyn Pace>) -> Self {
        Self { inner, pace, lines }
    }

    async fn wait(&self, line: &Line, len: u64) {
        let wait = line.take(len, self.pace.now());
        if !wait.is_zero() {
            self.pace.sleep(wait).await;
        }
    }
}

#[async_trait]
impl<B: Backend> Backend for LimitBackend<B> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        self.wait(&self.lines.upload, body.iter().map(|part| part.len() as u64).sum()).await;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        let line = &self.lines.download;
        if line.bytes_per_sec.is_none() {
            return self.inner.get(key, max_len).await;
        }
        // How long it is shows when it is there: the next one waits for it.
        let _turn = line.unknown.lock().await;
        self.wait(line, 0).await;
        let bytes = self.inner.get(key, max_len).await?;
        let _ = line.take(bytes.len() as u64, self.pace.now());
        Ok(bytes)
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        drop(self.lines.download.unknown.lock().await);
        self.wait(&self.lines.download, len).await;
        self.inner.get_range(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.inner.delete(key).await
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        self.inner.lock(key, lock).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep(before).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::MemoryBackend;
    use crate::backend::test_pace::TestPace;
    use crate::format::id::PackId;

    fn pack(number: u8) -> ObjectKey {
        ObjectKey::Pack(PackId::from_bytes([number; 32]))
    }

    #[tokio::test]
    async fn what_goes_out_and_what_comes_in_each_take_their_time() {
        let pace = Arc::new(TestPace::default());
        let bandwidth = Bandwidth { upload: Some(1000), download: Some(100) };
        let backend = LimitBackend::new(MemoryBackend::new(), Lines::new(bandwidth), pace.clone());
        for number in 0..4 {
            let _ = backend.put(pack(number), vec![Bytes::from(vec![number; 500])]).await.unwrap();
        }
        // The first goes at once, each other waits for those before it.
        assert_eq!(pace.now(), Duration::from_millis(1500));
        assert_eq!(backend.get(pack(0), 500).await.unwrap().len(), 500);
        assert_eq!(pace.now(), Duration::from_millis(1500));
        assert_eq!(backend.get_range(pack(1), 0, 100).await.unwrap().len(), 100);
        assert_eq!(pace.now(), Duration::from_millis(6500));
        assert!(backend.stat(pack(1)).await.unwrap().is_some());
        assert_eq!(pace.now(), Duration::from_millis(6500));
    }

    /// Time that passes when everybody waits.
    #[derive(Debug, Default)]
    struct Clock {
        now: Mutex<Duration>,
        waiting: Mutex<Vec<(Duration, tokio::sync::oneshot::Sender<()>)>>,
    }

    #[async_trait]
    impl Pace for Clock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        async fn sleep(&self, time: Duration) {
            let (wake, woken) = tokio::sync::oneshot::channel();
            self.waiting.lock().unwrap().push((self.now() + time, wake));
            woken.await.unwrap();
        }

        fn chance(&self) -> u32 {
            0
        }
    }

    impl Clock {
        async fn run<T>(&self, work: impl Future<Output = T>) -> T {
            let mut work = std::pin::pin!(work);
            loop {
                if let std::task::Poll::Ready(done) = futures::poll!(work.as_mut()) {
                    return done;
                }
                let mut waiting = self.waiting.lock().unwrap();
                waiting.sort_by_key(|(due, _)| *due);
                let (due, wake) = waiting.remove(0);
                *self.now.lock().unwrap() = due;
                wake.send(()).unwrap();
            }
        }
    }

    /// Remembers when which transfer began, and takes a while for each.
    #[derive(Debug)]
    struct Begun {
        inner: MemoryBackend,
        clock: Arc<Clock>,
        begun: Arc<Mutex<Vec<(Duration, u64)>>>,
    }

    impl Begun {
        async fn note(&self, len: u64) {
            self.begun.lock().unwrap().push((self.clock.now(), len));
            self.clock.sleep(Duration::from_millis(1700)).await;
        }
    }

    #[async_trait]
    impl Backend for Begun {
        fn location(&self) -> String {
            self.inner.location()
        }

        async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
            self.note(body.iter().map(|part| part.len() as u64).sum()).await;
            self.inner.put(key, body).await
        }

        async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
            let bytes = self.inner.get(key, max_len).await?;
            self.note(bytes.len() as u64).await;
            Ok(bytes)
        }

        async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
            self.note(len).await;
            self.inner.get_range(key, offset, len).await
        }

        async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
            self.inner.stat(key).await
        }

        fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
            self.inner.list(prefix)
        }

        async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
            self.inner.delete(key).await
        }

        async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
            self.inner.sweep(before).await
        }
    }

    #[tokio::test]
    async fn transfers_at_once_and_into_two_stores_are_no_more_together_than_one_may_be() {
        const RATE: u64 = 1000;
        let (clock, begun) = (Arc::new(Clock::default()), Arc::new(Mutex::new(Vec::new())));
        let option = Lines::new(Bandwidth { upload: Some(RATE), download: Some(RATE) });
        // What the option says goes before what the table of one of them says.
        let lines = [option.clone(), option.or(Bandwidth { upload: Some(7), download: None })];
        let [one, other] = lines.map(|lines| {
            let inner = Begun { inner: MemoryBackend::new(), clock: Arc::clone(&clock), begun: Arc::clone(&begun) };
            LimitBackend::new(inner, lines, Arc::clone(&clock) as Arc<dyn Pace>)
        });
        let lens = [400_usize, 1500, 20, 900, 3000, 1, 700, 700];
        let store = |number: usize| if number.is_multiple_of(2) { &one } else { &other };
        let key = |number: usize| pack(u8::try_from(number).unwrap());
        let put = |(number, len): (usize, &usize)| store(number).put(key(number), vec![Bytes::from(vec![1; *len])]);
        let get = |(number, len): (usize, &usize)| {
            let (store, key, len) = (store(number), key(number), *len as u64);
            async move { if number < 4 { store.get(key, 5000).await } else { store.get_range(key, 0, len).await } }
        };
        clock.run(futures::future::try_join_all(lens.iter().enumerate().map(put))).await.unwrap();
        let put_until = clock.now();
        clock.run(futures::future::try_join_all(lens.iter().enumerate().map(get))).await.unwrap();
        let all: u64 = lens.iter().map(|len| *len as u64).sum();
        let begun = begun.lock().unwrap();
        let (puts, gets) = begun.split_at(lens.len());
        for (start, transfers) in [(Duration::ZERO, puts), (put_until, gets)] {
            let mut sum = 0;
            for (at, len) in transfers {
                let carried = u64::try_from((*at - start).as_millis()).unwrap() * RATE / 1000;
                assert!(sum <= carried, "{sum} bytes had begun when {carried} could have gone: {transfers:?}");
                sum += len;
            }
            assert_eq!(sum, all);
        }
        // And no less: the line was never left idle while puts waited.
        assert_eq!(puts[7].0.as_millis(), u128::from(all - 700));
    }

    #[tokio::test]
    async fn a_line_without_a_limit_is_a_line_of_ones_own() {
        let own = Lines::new(Bandwidth::default()).or(Bandwidth { upload: Some(1000), download: None });
        let waits = [250, 250, 250].map(|len| own.upload.take(len, Duration::ZERO));
        assert_eq!(waits, [0, 250, 500].map(Duration::from_millis));
        assert_eq!(own.download.take(u64::MAX, Duration::ZERO), Duration::ZERO);
    }
}
