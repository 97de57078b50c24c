//! Keeps a run from filling the line: so many bytes a second out, so many in.
//!
//! Objects and ranges go as a whole; what is limited is how soon the next one begins. Over the time that a few
//! packs take, the line carries no more than was asked for.

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

/// The decorator. See the head of this file.
#[derive(Debug)]
pub struct LimitBackend<B> {
    inner: B,
    pace: Arc<dyn Pace>,
    upload: Line,
    download: Line,
}

/// One direction.
#[derive(Debug)]
struct Line {
    bytes_per_sec: Option<u64>,
    /// When the next transfer may begin.
    free: Mutex<Duration>,
}

impl Line {
    const fn new(bytes_per_sec: Option<u64>) -> Self {
        Self { bytes_per_sec, free: Mutex::new(Duration::ZERO) }
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
    pub fn new(inner: B, bandwidth: Bandwidth, pace: Arc<dyn Pace>) -> Self {
        Self { inner, pace, upload: Line::new(bandwidth.upload), download: Line::new(bandwidth.download) }
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
        self.wait(&self.upload, body.iter().map(|part| part.len() as u64).sum()).await;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        // How long it is shows when it is there: the next one waits for it.
        self.wait(&self.download, 0).await;
        let bytes = self.inner.get(key, max_len).await?;
        let _ = self.download.take(bytes.len() as u64, self.pace.now());
        Ok(bytes)
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.wait(&self.download, len).await;
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
        let backend = LimitBackend::new(MemoryBackend::new(), bandwidth, pace.clone());
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

    #[tokio::test]
    async fn puts_at_once_share_the_line() {
        let pace = Arc::new(TestPace::default());
        let bandwidth = Bandwidth { upload: Some(1000), download: None };
        let backend = LimitBackend::new(MemoryBackend::new(), bandwidth, pace.clone());
        let waits: Vec<Duration> = (0..3).map(|_| backend.upload.take(250, pace.now())).collect();
        assert_eq!(waits, [0, 250, 500].map(Duration::from_millis));
        assert_eq!(backend.download.take(u64::MAX, pace.now()), Duration::ZERO);
    }
}
