//! Rows of a snapshot on their way into files: read by one task, written by a thread, many at a time.

use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::task::JoinHandle;

use super::directory_source::blocking;
use super::{Error, lossy};
use crate::component::{ByteStream, Entry, Error as ComponentError, Run, SHORT_BYTES_MAX, Stored, StoredContent};

/// Rows, and bytes of contents, that are written together.
const TOGETHER_ROWS: usize = 256;
const TOGETHER_BYTES: usize = 1 << 20;

/// What rows are written into. Blocking.
pub(super) trait Put: Sized + Send + 'static {
    /// A content that is written as it comes.
    type Growing: Send + 'static;

    /// Puts an entry whose content, if it has one, is at hand. Keys ascend.
    fn put(&mut self, entry: Entry, content: Option<Bytes>) -> Result<(), Error>;

    /// Begins the content of an entry.
    fn begin(&mut self, entry: &Entry) -> Result<Self::Growing, Error>;

    /// Appends to it.
    fn write(growing: &mut Self::Growing, bytes: &[u8]) -> Result<(), Error>;

    /// Puts the entry, whose content is whole.
    fn end(&mut self, entry: Entry, growing: Self::Growing) -> Result<(), Error>;
}

/// What was put.
#[derive(Default)]
pub(super) struct Tally {
    /// Rows.
    pub(super) entries: u64,
    /// Of these with a content.
    pub(super) contents: u64,
    /// Of contents.
    pub(super) bytes: u64,
}

/// Puts all rows. What they were put into comes back to be finished, unless something fails: then it is dropped, and was when
/// this returns.
pub(super) async fn put_all<P: Put>(
    stored: &mut dyn Stored,
    into: P,
    path: PathBuf,
) -> Result<(P, Tally), ComponentError> {
    let mut lots = Lots { busy: None, path, rows: Vec::new(), bytes: 0 };
    lots.go_on(move || Ok(into));
    match lots.rows(stored).await {
        Ok(tally) => Ok((lots.idle().await?, tally)),
        Err(error) => {
            // The first error is the cause.
            let into = lots.idle().await;
            drop(tokio::task::spawn_blocking(move || drop(into)).await);
            Err(error)
        }
    }
}

struct Lots<P: Put> {
    /// Gone while nothing is written and somebody has it.
    busy: Option<JoinHandle<Result<P, Error>>>,
    /// For messages.
    path: PathBuf,
    rows: Vec<(Entry, Option<Bytes>)>,
    bytes: usize,
}

impl<P: Put> Lots<P> {
    async fn rows(&mut self, stored: &mut dyn Stored) -> Result<Tally, ComponentError> {
        let mut tally = Tally::default();
        stored.rewind().await?;
        while let Some((entry, content)) = stored.next_entry().await? {
            tally.entries += 1;
            let Some(content) = content else {
                self.row(entry, None).await?;
                continue;
            };
            tally.contents += 1;
            tally.bytes += entry.len;
            if entry.len > SHORT_BYTES_MAX {
                self.long(stored, entry, &content).await?;
            } else {
                let content = whole(stored.open_content(&entry, &content).await?).await?;
                check_len(&entry, content.len())?;
                self.row(entry, Some(content)).await?;
            }
        }
        self.hand_over().await?;
        Ok(tally)
    }

    async fn row(&mut self, entry: Entry, content: Option<Bytes>) -> Result<(), ComponentError> {
        self.bytes += content.as_ref().map_or(0, Bytes::len);
        self.rows.push((entry, content));
        let is_full = self.rows.len() >= TOGETHER_ROWS || self.bytes >= TOGETHER_BYTES;
        if is_full { self.hand_over().await } else { Ok(()) }
    }

    /// Writes a content as it comes.
    async fn long(
        &mut self,
        stored: &mut dyn Stored,
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), ComponentError> {
        self.hand_over().await?;
        let mut into = self.idle().await?;
        let mut body = stored.open_content(&entry, content).await?;
        let begin = move || {
            let growing = into.begin(&entry)?;
            Ok((into, entry, growing))
        };
        let (mut into, entry, mut growing) = blocking(self.path.clone(), begin).await?;
        let mut got = 0;
        while let Some(run) = body.try_next().await? {
            got += run.bytes.len();
            let write = move || P::write(&mut growing, &run.bytes).map(|()| growing);
            growing = blocking(self.path.clone(), write).await?;
        }
        check_len(&entry, got)?;
        self.go_on(move || into.end(entry, growing).map(|()| into));
        Ok(())
    }

    /// Writes what was gathered, while the caller goes on.
    async fn hand_over(&mut self) -> Result<(), ComponentError> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        let mut into = self.idle().await?;
        self.go_on(move || {
            rows.into_iter().try_for_each(|(entry, content)| into.put(entry, content))?;
            Ok(into)
        });
        Ok(())
    }

    fn go_on(&mut self, work: impl FnOnce() -> Result<P, Error> + Send + 'static) {
        self.busy = Some(tokio::task::spawn_blocking(work));
    }

    /// Waits for what is being written.
    async fn idle(&mut self) -> Result<P, ComponentError> {
        let interrupted = || Error::Interrupted { path: self.path.clone() };
        let Some(busy) = self.busy.take() else { return Err(interrupted().into()) };
        Ok(busy.await.map_err(|_| interrupted())??)
    }
}

/// Returns all that comes of a short stream.
async fn whole(mut body: ByteStream) -> Result<Bytes, ComponentError> {
    let mut whole = Bytes::new();
    while let Some(Run { bytes, .. }) = body.try_next().await? {
        whole = if whole.is_empty() { bytes } else { [whole, bytes].concat().into() };
    }
    Ok(whole)
}

fn check_len(entry: &Entry, got: usize) -> Result<(), Error> {
    let got = u64::try_from(got).expect("usize fits u64");
    if got == entry.len { Ok(()) } else { Err(Error::ContentLen { key: lossy(&entry.key), expected: entry.len, got }) }
}
