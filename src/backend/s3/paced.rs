//! Bodies of requests at the pace of a line.
//!
//! What is sent is signed as a whole and then given out a slice at a time, each when the line has room for it. In memory
//! it stays the same bytes.

use std::error::Error as StdError;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use http_body::{Body, Frame, SizeHint};

use crate::backend::limit::Line;

/// What the SDK takes for an error.
type BoxError = Box<dyn StdError + Send + Sync>;

/// Paces the body of every request of a client, each time that it is sent.
#[derive(Debug)]
pub(super) struct PacedUploads {
    line: Arc<Line>,
}

impl PacedUploads {
    /// Paces them to a line.
    pub(super) const fn new(line: Arc<Line>) -> Self {
        Self { line }
    }
}

impl Intercept for PacedUploads {
    fn name(&self) -> &'static str {
        "PacedUploads"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.request_mut().body_mut();
        // All bodies here are in memory, and know how long they are.
        if let Some(len) = body.content_length().filter(|len| *len > 0) {
            let whole = mem::replace(body, SdkBody::taken());
            let slices = slices(ByteStream::new(whole), Arc::clone(&self.line)).boxed();
            *body = SdkBody::from_body_1_x(PacedBody { slices: Mutex::new(slices), rest: len });
        }
        Ok(())
    }
}

/// Gives out the bytes of a body when the line lets them pass.
fn slices(body: ByteStream, line: Arc<Line>) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let start = (body, Bytes::new(), line);
    stream::try_unfold(start, |(mut body, mut run, line)| async move {
        while run.is_empty() {
            match body.next().await.transpose()? {
                Some(next) => run = next,
                None => return Ok(None),
            }
        }
        let slice = run.split_to(usize::try_from(line.slice_bytes()).unwrap_or(usize::MAX).min(run.len()));
        line.pass(slice.len() as u64).await;
        Ok(Some((slice, (body, run, line))))
    })
}

/// A body of a known length, in slices.
struct PacedBody {
    /// The SDK shares bodies among threads, which no stream need allow.
    slices: Mutex<BoxStream<'static, Result<Bytes, BoxError>>>,
    rest: u64,
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let slices = self.slices.get_mut().unwrap_or_else(PoisonError::into_inner);
        let slice = ready!(slices.poll_next_unpin(context));
        if let Some(Ok(slice)) = &slice {
            self.rest = self.rest.saturating_sub(slice.len() as u64);
        }
        Poll::Ready(slice.map(|slice| slice.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}
