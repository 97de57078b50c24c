//! The token of a listing's next page, read while the page still comes: the SDK gives a page out when all of it has been
//! read and parsed, and the server would have nothing to do meanwhile.
//!
//! It is a guess: the page that it is asked with counts only if the parsed page says the same.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

/// What stands before a token, and nowhere in a key: there `<` is escaped.
const OPENING: &[u8] = b"<NextContinuationToken>";
/// Longer tokens are left to the parser.
const TOKEN_BYTES_MAX: usize = 4096;

/// What the SDK takes for an error.
type BoxError = Box<dyn StdError + Send + Sync>;

/// Tells the token of the first answer to one request. Answers to repetitions of the request pass.
#[derive(Debug)]
pub(super) struct EarlyToken {
    told: Mutex<Option<oneshot::Sender<String>>>,
}

impl EarlyToken {
    /// Tells it here.
    pub(super) const fn new(told: oneshot::Sender<String>) -> Self {
        Self { told: Mutex::new(Some(told)) }
    }
}

impl Intercept for EarlyToken {
    fn name(&self) -> &'static str {
        "EarlyToken"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(told) = self.told.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let body = context.response_mut().body_mut();
            let inner = std::mem::replace(body, SdkBody::taken());
            *body = SdkBody::from_body_1_x(Read { inner, finder: TokenFinder::default(), told: Some(told) });
        }
        Ok(())
    }
}

/// A body that is looked through as it is read.
struct Read {
    inner: SdkBody,
    finder: TokenFinder,
    /// Gone when it was told, or there is nothing to tell.
    told: Option<oneshot::Sender<String>>,
}

impl Body for Read {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if self.told.is_some()
            && let Some(Ok(frame)) = &frame
            && let Some(run) = frame.data_ref()
        {
            match self.finder.take(run) {
                Found::NotYet => {}
                Found::Token(token) => {
                    // Whoever asked may have gone.
                    let _ = self.told.take().map(|told| told.send(token));
                }
                Found::Nothing => self.told = None,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.inner)
    }
}

/// What came of a run of bytes.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    NotYet,
    Token(String),
    /// None that can be read without a parser.
    Nothing,
}

/// Looks for the token in runs of bytes.
#[derive(Default)]
struct TokenFinder {
    /// Bytes that may be a part of it.
    kept: Vec<u8>,
}

impl TokenFinder {
    fn take(&mut self, run: &[u8]) -> Found {
        self.kept.extend_from_slice(run);
        let Some(place) = self.kept.windows(OPENING.len()).position(|window| window == OPENING) else {
            let done = self.kept.len().saturating_sub(OPENING.len() - 1);
            self.kept.drain(..done);
            return Found::NotYet;
        };
        self.kept.drain(..place);
        let rest = self.kept.get(OPENING.len()..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'<') {
            None if rest.len() > TOKEN_BYTES_MAX => Found::Nothing,
            None => Found::NotYet,
            Some(end) => match std::str::from_utf8(rest.get(..end).unwrap_or_default()) {
                Ok(token) if !token.is_empty() && !token.contains('&') => Found::Token(token.to_owned()),
                _ => Found::Nothing,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what comes of an answer in runs of so many bytes.
    fn found(answer: &str, run_len: usize) -> Found {
        let mut finder = TokenFinder::default();
        let come = answer.as_bytes().chunks(run_len).map(|run| finder.take(run)).find(|found| *found != Found::NotYet);
        come.unwrap_or(Found::NotYet)
    }

    #[test]
    fn a_token_is_found_wherever_it_is_and_however_the_answer_comes() {
        let answer =
            "<L><NextContinuation>no</NextContinuation><NextContinuationToken>a+/b=</NextContinuationToken></L>";
        for run_len in 1..=answer.len() {
            assert_eq!(found(answer, run_len), Found::Token("a+/b=".to_owned()), "runs of {run_len}");
        }
        assert_eq!(found("<L><Key>&lt;NextContinuationToken></Key></L>", 7), Found::NotYet);
    }

    #[test]
    fn what_needs_a_parser_is_left_to_it() {
        let with = |token: &str| found(&format!("<L><NextContinuationToken>{token}</NextContinuationToken>"), 9);
        assert_eq!(with("a&amp;b"), Found::Nothing);
        assert_eq!(with(""), Found::Nothing);
        assert_eq!(with(&"t".repeat(TOKEN_BYTES_MAX * 2)), Found::Nothing);
    }
}
