//! Takes in a mongodump archive that was made elsewhere, with the same checks as one that we make.

use async_trait::async_trait;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::archive::EmptyArchive;
use super::dump::{Bytewise, follow, store};
use super::{COMPONENT, Error};
use crate::component::{Capture, Captured, Error as ComponentError, Source};

/// Bytes that are asked for at once.
const READ_LEN: usize = 256 << 10;

/// A file or standard input that holds a mongodump archive. It can be captured once.
pub struct ArchiveFile<R> {
    origin: String,
    reader: Option<R>,
    empty: EmptyArchive,
}

impl<R: AsyncRead + Send + Unpin + 'static> ArchiveFile<R> {
    /// Returns a source of what `reader` gives; `origin` names it in messages.
    pub fn new(origin: impl Into<String>, reader: R, empty: EmptyArchive) -> Self {
        Self { origin: origin.into(), reader: Some(reader), empty }
    }

    fn taken(&self) -> Error {
        let source = std::io::Error::other("it has been read already");
        Error::Import { origin: self.origin.clone(), source }
    }
}

#[async_trait]
impl<R: AsyncRead + Send + Unpin + 'static> Source for ArchiveFile<R> {
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
        let (body, verdict) = follow(Reading { origin: self.origin.clone(), reader }, self.empty);
        store(out, body, verdict).await
    }
}

struct Reading<R> {
    origin: String,
    reader: R,
}

impl<R: AsyncRead + Send + Unpin + 'static> Bytewise for Reading<R> {
    async fn fill(&mut self, buffer: &mut BytesMut) -> Result<bool, Error> {
        buffer.reserve(READ_LEN);
        match self.reader.read_buf(buffer).await {
            Ok(len) => Ok(len > 0),
            Err(source) => Err(Error::Import { origin: self.origin.clone(), source }),
        }
    }
}
