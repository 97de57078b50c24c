//! Components made of nothing but memory: for tests of what lies under them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use orkvault::component::{
    ByteStream, Capture, Captured, CatalogueRow, Content, Entry, Error, RestorePlan, Restored, Run, Sink, Source,
    Stored, StreamKind,
};

/// One component's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryContent {
    pub streams: BTreeMap<String, Vec<u8>>,
    /// Key, version, content: a row whose version is the same is not read again.
    pub entries: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
}

/// Captures a [`MemoryContent`].
pub struct MemorySource {
    pub name: String,
    pub content: MemoryContent,
    /// Fails after this many bytes of its first stream.
    pub fails_after: Option<usize>,
}

fn stream_of(bytes: &[u8], fails: Option<usize>) -> ByteStream {
    let mut runs: Vec<Result<Run, Error>> =
        bytes.chunks(50_000).map(|run| Ok(Run::from(Bytes::copy_from_slice(run)))).collect();
    if let Some(after) = fails {
        runs.truncate(after / 50_000);
        runs.push(Err(Error::NoSuchStream { stream: "the rest".to_owned() }));
    }
    futures::stream::iter(runs).boxed()
}

#[async_trait]
impl Source for MemorySource {
    fn component(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn probe(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, Error> {
        for (name, bytes) in &self.content.streams {
            out.stream(name, StreamKind::Dump, stream_of(bytes, self.fails_after)).await?;
        }
        let mut before = BTreeMap::new();
        while let Some((entry, content)) = out.previous().await? {
            before.insert(entry.key.clone(), (entry, content));
        }
        for (key, (version, bytes)) in &self.content.entries {
            let attributes = BTreeMap::from([("version".to_owned(), version.to_string().into_bytes())]);
            let entry = Entry { key: key.clone(), attributes, len: bytes.len() as u64 };
            let content = match before.remove(key) {
                Some((old, Some(content))) if old.attributes == entry.attributes => Content::Stored(content),
                _ => Content::Bytes(stream_of(bytes, None)),
            };
            out.entry(entry, content).await?;
        }
        let row = CatalogueRow { name: "all".to_owned(), kind: "memory".to_owned(), records: 1, bytes: 2 };
        Ok(Captured { consistency: "fuzzy".to_owned(), catalogue: vec![row], ..Captured::default() })
    }
}

/// Restores into memory.
pub struct MemorySink {
    pub name: String,
    pub into: std::sync::Arc<std::sync::Mutex<MemoryContent>>,
}

async fn collect(stream: ByteStream) -> Result<Vec<u8>, Error> {
    stream
        .try_fold(Vec::new(), |mut all, run| async move {
            all.extend_from_slice(&run.bytes);
            Ok(all)
        })
        .await
}

#[async_trait]
impl Sink for MemorySink {
    fn component(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }

    async fn plan(&mut self, _stored: &mut dyn Stored) -> Result<RestorePlan, Error> {
        Ok(RestorePlan::default())
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, Error> {
        let mut found = MemoryContent::default();
        for stream in stored.streams() {
            found.streams.insert(stream.name.clone(), collect(stored.open(&stream.name).await?).await?);
        }
        while let Some((entry, content)) = stored.next_entry().await? {
            let bytes = match content {
                Some(content) => collect(stored.open_content(&entry, &content).await?).await?,
                None => Vec::new(),
            };
            let version = entry.attributes.get("version").map_or("0", |text| std::str::from_utf8(text).unwrap());
            found.entries.insert(entry.key, (version.parse().unwrap(), bytes));
        }
        *self.into.lock().unwrap() = found;
        Ok(Restored::default())
    }
}
