//! Takes in a mongodump archive that was made elsewhere, with the same checks as one that we make.

use std::io::Read;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::archive::{EmptyArchive, PUSH_LEN_MAX};
use super::dump::{Bytewise, follow, store};
use super::{COMPONENT, Error};
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
        let (body, verdict) = follow(Reading { origin: self.origin.clone(), reader: Some(reader) }, self.empty);
        store(out, body, verdict).await
    }
}

struct Reading<R> {
    origin: String,
    /// On another thread while it is read, and gone when that ended badly.
    reader: Option<R>,
}

impl<R: Read + Send + 'static> Bytewise for Reading<R> {
    async fn fill(&mut self, buffer: &mut BytesMut) -> Result<bool, Error> {
        let failed = |source| Error::Import { origin: self.origin.clone(), source };
        let Some(mut reader) = self.reader.take() else {
            return Err(failed(std::io::Error::other("reading it has failed before")));
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut run = Vec::with_capacity(PUSH_LEN_MAX);
            let read = reader.by_ref().take(PUSH_LEN_MAX as u64).read_to_end(&mut run);
            read.map(|_| (reader, run))
        });
        let (reader, run) = read.await.map_err(std::io::Error::other).and_then(|read| read).map_err(failed)?;
        self.reader = Some(reader);
        let is_more = !run.is_empty();
        if buffer.is_empty() {
            *buffer = BytesMut::from(Bytes::from(run));
        } else {
            buffer.extend_from_slice(&run);
        }
        Ok(is_more)
    }
}
