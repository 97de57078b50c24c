//! The repository's side of a capture and of a restore, in memory, strict about the contract.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use orkvault::component::{
    ByteStream, Capture, Captured, Content, Entry, Error, Run, Source, Stored, StoredContent, StoredStream, StreamKind,
};

const RUN_LEN_MAX: usize = 1 << 20;

/// Every content ever stored; a [`StoredContent`] is an index into it.
type Pool = Arc<Mutex<Vec<Bytes>>>;

/// A snapshot of one component.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pool: Pool,
    pub(crate) rows: Vec<(Entry, Option<StoredContent>)>,
    pub(crate) streams: Vec<(String, Bytes)>,
    pub(crate) captured: Captured,
    /// Keys of the rows whose content was read, not referred to.
    pub(crate) read: Vec<String>,
}

impl Snapshot {
    /// Captures `source` on top of `previous`.
    pub(crate) async fn take(source: &mut dyn Source, previous: Option<&Snapshot>) -> Result<Snapshot, Error> {
        let mut capture = MemoryCapture {
            previous: previous.map(|snapshot| snapshot.rows.clone()).unwrap_or_default().into_iter(),
            snapshot: Snapshot {
                pool: previous.map(|snapshot| Arc::clone(&snapshot.pool)).unwrap_or_default(),
                ..Snapshot::default()
            },
        };
        let captured = source.capture(&mut capture).await?;
        capture.snapshot.captured = captured;
        Ok(capture.snapshot)
    }

    pub(crate) fn row(&self, key: &str) -> &Entry {
        let found = self.rows.iter().find(|(entry, _)| entry.key == key.as_bytes());
        &found.unwrap_or_else(|| panic!("no row {key}")).0
    }

    pub(crate) fn content(&self, key: &str) -> Bytes {
        let (_, content) = self.rows.iter().find(|(entry, _)| entry.key == key.as_bytes()).expect("the row is there");
        self.bytes(content.as_ref().expect("it has content"))
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.rows.iter().map(|(entry, _)| String::from_utf8(entry.key.clone()).expect("keys are UTF-8")).collect()
    }

    pub(crate) fn attribute(&self, key: &str, name: &str) -> Option<String> {
        let value = self.row(key).attributes.get(name)?;
        Some(String::from_utf8(value.clone()).expect("attributes are UTF-8"))
    }

    fn bytes(&self, content: &StoredContent) -> Bytes {
        let index = usize::from_le_bytes(content.0.clone().try_into().expect("eight bytes"));
        self.pool.lock().expect("no test panics while it holds this")[index].clone()
    }

    pub(crate) fn stored(&self) -> MemoryStored {
        MemoryStored { snapshot: self.clone(), next: 0, broken: None }
    }
}

struct MemoryCapture {
    previous: std::vec::IntoIter<(Entry, Option<StoredContent>)>,
    snapshot: Snapshot,
}

async fn gather(mut body: ByteStream) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while let Some(run) = body.next().await {
        let run = run?;
        assert!(!run.bytes.is_empty() && run.bytes.len() <= RUN_LEN_MAX, "a run of {} bytes", run.bytes.len());
        bytes.extend_from_slice(&run.bytes);
    }
    Ok(bytes.freeze())
}

#[async_trait]
impl Capture for MemoryCapture {
    async fn stream(&mut self, name: &str, _kind: StreamKind, body: ByteStream) -> Result<u64, Error> {
        let bytes = gather(body).await?;
        let len = bytes.len() as u64;
        self.snapshot.streams.push((name.to_owned(), bytes));
        Ok(len)
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        Ok(self.previous.next())
    }

    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), Error> {
        if let Some((last, _)) = self.snapshot.rows.last() {
            assert!(last.key < entry.key, "{:?} after {:?}", entry.key.escape_ascii(), last.key.escape_ascii());
        }
        let content = match content {
            Content::Nothing => None,
            Content::Stored(content) => Some(content),
            Content::Bytes(body) => {
                let bytes = gather(body).await?;
                assert_eq!(bytes.len() as u64, entry.len, "length of {:?}", entry.key.escape_ascii());
                self.snapshot.read.push(String::from_utf8_lossy(&entry.key).into_owned());
                let mut pool = self.snapshot.pool.lock().expect("no test panics while it holds this");
                pool.push(bytes);
                Some(StoredContent((pool.len() - 1).to_le_bytes().to_vec()))
            }
        };
        self.snapshot.rows.push((entry, content));
        Ok(())
    }
}

/// The snapshot's side of a restore.
pub(crate) struct MemoryStored {
    snapshot: Snapshot,
    next: usize,
    broken: Option<&'static str>,
}

impl MemoryStored {
    /// The content of this row ends in an error after its first run.
    pub(crate) fn with_broken_content(mut self, key: &'static str) -> Self {
        self.broken = Some(key);
        self
    }
}

fn runs(bytes: Bytes) -> ByteStream {
    let cuts: Vec<_> =
        (0..bytes.len()).step_by(RUN_LEN_MAX).map(|at| bytes.slice(at..bytes.len().min(at + RUN_LEN_MAX))).collect();
    stream::iter(cuts.into_iter().map(|cut| Ok(Run::from(cut)))).boxed()
}

#[async_trait]
impl Stored for MemoryStored {
    fn captured(&self) -> &Captured {
        &self.snapshot.captured
    }

    fn streams(&self) -> Vec<StoredStream> {
        let stream = |(name, bytes): &(String, Bytes)| StoredStream { name: name.clone(), len: bytes.len() as u64 };
        self.snapshot.streams.iter().map(stream).collect()
    }

    async fn open(&mut self, stream: &str) -> Result<ByteStream, Error> {
        let found = self.snapshot.streams.iter().find(|(name, _)| name == stream);
        found.map(|(_, bytes)| runs(bytes.clone())).ok_or_else(|| Error::NoSuchStream { stream: stream.to_owned() })
    }

    async fn rewind(&mut self) -> Result<(), Error> {
        self.next = 0;
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        let row = self.snapshot.rows.get(self.next).cloned();
        self.next += 1;
        Ok(row)
    }

    async fn open_content(&mut self, entry: &Entry, content: &StoredContent) -> Result<ByteStream, Error> {
        let whole = runs(self.snapshot.bytes(content));
        if self.broken.is_none_or(|broken| broken.as_bytes() != entry.key) {
            return Ok(whole);
        }
        let error = Error::Stored { what: "a chunk".to_owned(), source: "damaged".into() };
        Ok(whole.take(1).chain(stream::iter([Err(error)])).boxed())
    }
}
