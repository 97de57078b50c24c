//! Takes in a mongodump archive that was made elsewhere, with the same checks as one that we make.

use std::io::Read;

use async_trait::async_trait;
use bytes::Bytes;

use super::archive::EmptyArchive;
use super::dump::{Runs, follow, store};
use super::{COMPONENT, Error};
use crate::component::runs::RunReader;
use crate::component::{Capture, Captured, Error as ComponentError, Source};

/// A file or standard input that holds a mongodump archive. It can be captured once.
pub struct ArchiveFile<R> {
    origin: String,
    reader: Option<R>,
    empty: EmptyArchive,
}

impl<R: Read + Send + 'static> ArchiveFile<R> {
    /// Returns a source of what `reader` gives, which may make its thread wait; `origin` names it in messages.
    pub fn new(origin: impl Into<String>, reader: R, empty: EmptyArchive) -> Self {
        Self { origin: origin.into(), reader: Some(reader), empty }
    }

    fn taken(&self) -> Error {
        let source = std::io::Error::other("it has been read already");
        Error::Import { origin: self.origin.clone(), source }
    }
}

#[async_trait]
impl<R: Read + Send + 'static> Source for ArchiveFile<R> {
    fn component(&self) -> &str {
        COMPONENT
    }

    fn describe(&self) -> String {
        format!("a mongodump archive from {}", self.origin)
    }

    async fn probe(&mut self) -> Result<(), ComponentError> {
        // What standard input holds is only known by reading it, and that can be done once.
        match self.reader {
            Some(_) => Ok(()),
            None => Err(self.taken().into()),
        }
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, ComponentError> {
        let reader = self.reader.take().ok_or_else(|| self.taken())?;
        let reading = Reading { origin: self.origin.clone(), runs: RunReader::default(), reader: Some(reader) };
        let (body, verdict) = follow(reading, self.empty);
        store(out, body, verdict).await
    }
}

struct Reading<R> {
    origin: String,
    runs: RunReader,
    /// On another thread while it is read, and gone when that ended badly.
    reader: Option<R>,
}

impl<R: Read + Send + 'static> Runs for Reading<R> {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let failed = |source| Error::Import { origin: self.origin.clone(), source };
        let Some(mut reader) = self.reader.take() else {
            return Err(failed(std::io::Error::other("reading it has failed before")));
        };
        let runs = self.runs.clone();
        let read = tokio::task::spawn_blocking(move || runs.read(&mut reader).map(|run| (reader, run)));
        let (reader, run) = read.await.map_err(std::io::Error::other).and_then(|read| read).map_err(failed)?;
        self.reader = Some(reader);
        Ok((!run.is_empty()).then_some(run))
    }
}
