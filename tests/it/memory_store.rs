//! The repository's side of a capture and a restore, in memory: for tests of components.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use orkvault::component::{
    ByteStream, Capture, Captured, Content, Entry, Error, Run, Stored, StoredContent, StoredStream, StreamKind,
};

/// What a capture stored, and what a restore reads.
#[derive(Debug, Default, Clone)]
pub(crate) struct MemoryStore {
    pub(crate) captured: Captured,
    pub(crate) streams: BTreeMap<String, Vec<u8>>,
    pub(crate) rows: Vec<(Entry, Option<StoredContent>)>,
    pub(crate) contents: Vec<Arc<Vec<u8>>>,
    /// The rows of the snapshot before.
    pub(crate) previous: Vec<(Entry, Option<StoredContent>)>,
    previous_at: usize,
    row_at: usize,
    /// Contents that were read, not referred to.
    pub(crate) read: usize,
    /// A stream or content ends in an error after so many bytes.
    pub(crate) cut_at: Option<usize>,
}

impl MemoryStore {
    /// Returns a store for the next night, to which this one is the previous snapshot.
    pub(crate) fn next_night(&self) -> Self {
        Self { previous: self.rows.clone(), contents: self.contents.clone(), ..Self::default() }
    }

    /// Adds a row of a file that says that it has so many bytes.
    pub(crate) fn add_file(&mut self, key: &[u8], len: u64, content: &[u8]) {
        let attributes = [("kind", "file"), ("mode", "0644"), ("uid", "0"), ("gid", "0"), ("mtime_ns", "0")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .collect();
        let token = StoredContent(self.contents.len().to_le_bytes().to_vec());
        self.contents.push(Arc::new(content.to_vec()));
        self.rows.push((Entry { key: key.to_vec(), attributes, len }, Some(token)));
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.rows.iter().map(|(entry, _)| String::from_utf8_lossy(&entry.key).into_owned()).collect()
    }

    pub(crate) fn content(&self, key: &str) -> &[u8] {
        let (_, content) = self.rows.iter().find(|(entry, _)| entry.key == key.as_bytes()).expect("row");
        &self.contents[index(content.as_ref().expect("content"))]
    }

    fn body(&self, bytes: &[u8]) -> ByteStream {
        let cut = self.cut_at.filter(|cut| *cut < bytes.len());
        let bytes = &bytes[..cut.unwrap_or(bytes.len())];
        let mut runs: Vec<Result<Run, Error>> =
            bytes.chunks(60_000).map(|part| Ok(Run::from(bytes::Bytes::copy_from_slice(part)))).collect();
        if cut.is_some() {
            runs.push(Err(Error::NoSuchStream { stream: "the test cut it".to_owned() }));
        }
        Box::pin(futures::stream::iter(runs))
    }
}

fn index(content: &StoredContent) -> usize {
    usize::from_le_bytes(content.0.as_slice().try_into().expect("an index"))
}

async fn collect(mut body: ByteStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(run) = body.next().await {
        let run = run?;
        assert!((1..=1 << 20).contains(&run.bytes.len()), "a run of {} bytes", run.bytes.len());
        all.extend_from_slice(&run.bytes);
    }
    Ok(all)
}

#[async_trait]
impl Capture for MemoryStore {
    async fn stream(&mut self, name: &str, _kind: StreamKind, body: ByteStream) -> Result<u64, Error> {
        let bytes = collect(body).await?;
        let len = bytes.len().try_into().expect("u64");
        self.streams.insert(name.to_owned(), bytes);
        Ok(len)
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        self.previous_at += 1;
        Ok(self.previous.get(self.previous_at - 1).cloned())
    }

    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), Error> {
        if let Some((last, _)) = self.rows.last() {
            assert!(last.key < entry.key, "keys must increase: {:?}", entry.key);
        }
        let content = match content {
            Content::Nothing => None,
            Content::Stored(content) => Some(content),
            Content::Bytes(body) => {
                let bytes = collect(body).await?;
                assert_eq!(u64::try_from(bytes.len()).expect("u64"), entry.len, "{:?}", entry.key);
                self.read += 1;
                self.contents.push(Arc::new(bytes));
                Some(StoredContent((self.contents.len() - 1).to_le_bytes().to_vec()))
            }
        };
        self.rows.push((entry, content));
        Ok(())
    }
}

#[async_trait]
impl Stored for MemoryStore {
    fn captured(&self) -> &Captured {
        &self.captured
    }

    fn streams(&self) -> Vec<StoredStream> {
        self.streams
            .iter()
            .map(|(name, bytes)| StoredStream { name: name.clone(), len: bytes.len().try_into().expect("u64") })
            .collect()
    }

    async fn open(&mut self, stream: &str) -> Result<ByteStream, Error> {
        let bytes = self.streams.get(stream).ok_or(Error::NoSuchStream { stream: stream.to_owned() })?;
        Ok(self.body(bytes))
    }

    async fn rewind(&mut self) -> Result<(), Error> {
        self.row_at = 0;
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        self.row_at += 1;
        Ok(self.rows.get(self.row_at - 1).cloned())
    }

    async fn open_content(&mut self, _entry: &Entry, content: &StoredContent) -> Result<ByteStream, Error> {
        Ok(self.body(&self.contents[index(content)]))
    }
}
