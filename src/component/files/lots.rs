//! Rows of a snapshot on their way into files: read by one task, written by a thread, many at a time.

use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt as _;
use tokio::task::JoinHandle;

use super::directory_source::blocking;
use super::{Error, lossy};
use crate::component::{Entry, Error as ComponentError, SHORT_BYTES_MAX, Stored, StoredContent, is_lot};

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
    /// With contents that are short, or without one.
    rows: Vec<(Entry, Option<StoredContent>)>,
    /// Of these contents.
    bytes: u64,
}

impl<P: Put> Lots<P> {
    async fn rows(&mut self, stored: &mut dyn Stored) -> Result<Tally, ComponentError> {
        let mut tally = Tally::default();
        stored.rewind().await?;
        while let Some((entry, content)) = stored.next_entry().await? {
            tally.entries += 1;
            if content.is_some() {
                tally.contents += 1;
                tally.bytes += entry.len;
            }
            match content {
                Some(content) if entry.len > SHORT_BYTES_MAX => {
                    self.hand_over(stored).await?;
                    self.long(stored, entry, &content).await?;
                }
                content => {
                    self.bytes += if content.is_some() { entry.len } else { 0 };
                    self.rows.push((entry, content));
                }
            }
            if is_lot(self.rows.len(), self.bytes) {
                self.hand_over(stored).await?;
            }
        }
        self.hand_over(stored).await?;
        Ok(tally)
    }

    /// Writes a content as it comes.
    async fn long(
        &mut self,
        stored: &mut dyn Stored,
        entry: Entry,
        content: &StoredContent,
    ) -> Result<(), ComponentError> {
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

    /// Reads the contents of what was gathered, and writes it while the caller goes on.
    async fn hand_over(&mut self, stored: &mut dyn Stored) -> Result<(), ComponentError> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        let wanted: Vec<_> = rows.iter().filter_map(|(entry, content)| Some((entry, content.as_ref()?))).collect();
        let contents = stored.read_short(&wanted).await?;
        wanted.iter().zip(&contents).try_for_each(|((entry, _), content)| check_len(entry, content.len()))?;
        let mut into = self.idle().await?;
        self.go_on(move || {
            let mut contents = contents.into_iter();
            for (entry, content) in rows {
                into.put(entry, content.and_then(|_| contents.next()))?;
            }
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

fn check_len(entry: &Entry, got: usize) -> Result<(), Error> {
    let got = u64::try_from(got).expect("usize fits u64");
    if got == entry.len { Ok(()) } else { Err(Error::ContentLen { key: lossy(&entry.key), expected: entry.len, got }) }
}
