//! Listing a bucket without believing the server: order, tokens and the end of a listing are checked.
//!
//! Some servers end a listing early with a clean `200` and `IsTruncated=false`; so the "last" page is
//! followed by one more question, "what comes after the last key?", until that answer is empty.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::Error;
use super::client::Server;

/// Empty pages in a row that claim to be truncated, before the listing is given up.
const EMPTY_PAGES_MAX: u32 = 64;
/// Pages that are read before anybody wants them: while a long object is read, or last night's table is made ready, the
/// server goes on. One more waits to join them, and another is being asked for. A page has up to 1,000 objects, some 300 KiB.
const PAGES_AHEAD: usize = 4;
/// Early ends that are remembered by name for the warnings; more are only counted.
const EARLY_ENDS_NAMED_MAX: usize = 20;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// The decoded key.
    pub(super) key: String,
    /// Content length in bytes.
    pub(super) len: u64,
    /// As the server sent it, quotes and all.
    pub(super) etag: Option<String>,
    /// RFC 3339 with the fraction that the server sent.
    pub(super) last_modified: Option<String>,
    /// `STANDARD` and the like.
    pub(super) storage_class: Option<String>,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    pub(super) truncated: bool,
    pub(super) token: Option<String>,
}

/// What to ask the server next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// From the start of the bucket.
    Start,
    /// The page behind this continuation token.
    Token(String),
    /// What comes after this key.
    After(String),
}

/// What is wrong with a listing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingFault {
    /// A key is not greater than the one before it.
    #[error("key {key:?} comes after {last:?}, which is not smaller")]
    NotIncreasing {
        /// The key before it.
        last: String,
        /// The key.
        key: String,
    },
    /// The server returned the continuation token that it had been asked with.
    #[error("the continuation token after {last:?} was repeated")]
    TokenRepeated {
        /// The last key received.
        last: String,
    },
    /// Truncated pages without any key, again and again.
    #[error("{pages} truncated pages in a row held no key")]
    EmptyPages {
        /// How many.
        pages: u32,
    },
}

/// The checks over the pages of one bucket, without the server.
#[derive(Debug, Default)]
pub(super) struct ListingCheck {
    last_key: Option<String>,
    last_token: Option<String>,
    /// True when the page asked for is expected to be empty because the one before said it was the last.
    confirming: bool,
    empty_pages: u32,
    early_ends: Vec<String>,
    early_ends_count: u64,
}

impl ListingCheck {
    /// Takes in the next page; returns what to ask for next, `None` when the listing is proven whole.
    pub(super) fn accept(&mut self, page: &Page) -> Result<Option<Ask>, ListingFault> {
        if self.confirming && !page.objects.is_empty() {
            self.note_early_end();
        }
        self.check_order(page)?;
        if page.truncated {
            self.confirming = false;
            self.count_empty(page)?;
            return self.follow(page).map(Some);
        }
        if self.confirming && page.objects.is_empty() {
            return Ok(None);
        }
        self.confirming = true;
        self.last_token = None;
        Ok(Some(self.last_key.clone().map_or(Ask::Start, Ask::After)))
    }

    /// The keys after which the server had claimed that nothing follows (the first few of them).
    pub(super) fn early_ends(&self) -> (&[String], u64) {
        (&self.early_ends, self.early_ends_count)
    }

    fn note_early_end(&mut self) {
        self.early_ends_count += 1;
        if self.early_ends.len() < EARLY_ENDS_NAMED_MAX {
            self.early_ends.push(self.last_key.clone().unwrap_or_default());
        }
    }

    fn check_order(&mut self, page: &Page) -> Result<(), ListingFault> {
        for object in &page.objects {
            if let Some(last) = self.last_key.take_if(|last| *last >= object.key) {
                return Err(ListingFault::NotIncreasing { last, key: object.key.clone() });
            }
            self.last_key = Some(object.key.clone());
        }
        Ok(())
    }

    fn count_empty(&mut self, page: &Page) -> Result<(), ListingFault> {
        self.empty_pages = if page.objects.is_empty() { self.empty_pages + 1 } else { 0 };
        if self.empty_pages > EMPTY_PAGES_MAX {
            return Err(ListingFault::EmptyPages { pages: self.empty_pages });
        }
        Ok(())
    }

    fn follow(&mut self, page: &Page) -> Result<Ask, ListingFault> {
        let Some(token) = page.token.clone().filter(|token| !token.is_empty()) else {
            // Truncated, but no token: the last key says as much.
            return Ok(self.last_key.clone().map_or(Ask::Start, Ask::After));
        };
        if self.last_token.as_ref() == Some(&token) {
            return Err(ListingFault::TokenRepeated { last: self.last_key.clone().unwrap_or_default() });
        }
        self.last_token = Some(token.clone());
        Ok(Ask::Token(token))
    }
}

/// The objects of one bucket in key order. They are listed ahead of whoever takes them: see [`PAGES_AHEAD`].
pub(super) struct Lister {
    bucket: String,
    pages: mpsc::Receiver<Vec<Listed>>,
    /// Gone when it has ended.
    task: Option<Task<Result<ListingCheck, Error>>>,
    /// How it ended.
    check: ListingCheck,
    queue: VecDeque<Listed>,
}

/// A task that is stopped when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }

    async fn end(mut self) -> T {
        // Nobody else stops the task: what is left is a panic of its own.
        (&mut self.0).await.unwrap_or_else(|stopped| std::panic::resume_unwind(stopped.into_panic()))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A page that was asked for.
struct Coming {
    task: Task<Result<Page, Error>>,
    /// The token of the page behind it.
    early: oneshot::Receiver<String>,
}

impl Coming {
    fn ask(server: &Arc<Server>, bucket: &str, ask: Ask) -> Self {
        let (server, bucket) = (Arc::clone(server), bucket.to_owned());
        let (told, early) = oneshot::channel();
        Self { task: Task::spawn(async move { server.page_through_flap(&bucket, &ask, told).await }), early }
    }

    /// Returns the token of the page behind this one, if the answer told it while it came.
    async fn token(&mut self) -> Option<String> {
        // Gone without a word when the answer was read to its end, or failed.
        (&mut self.early).await.ok()
    }
}

/// Lists a bucket from end to end.
async fn list(server: Arc<Server>, bucket: String, pages: mpsc::Sender<Vec<Listed>>) -> Result<ListingCheck, Error> {
    let mut check = ListingCheck::default();
    let mut next = Some(Coming::ask(&server, &bucket, Ask::Start));
    while let Some(mut coming) = next.take() {
        // The server looks for the next page while this one is read, parsed, and compared with the last night's.
        let early = coming.token().await.map(Ask::Token);
        let guess = early.map(|ask| (Coming::ask(&server, &bucket, ask.clone()), ask));
        let page = coming.task.end().await?;
        let ask = check.accept(&page).map_err(|source| Error::Listing { bucket: bucket.clone(), source })?;
        next = match (ask, guess) {
            (Some(ask), Some((coming, asked))) if asked == ask => Some(coming),
            (ask, _) => ask.map(|ask| Coming::ask(&server, &bucket, ask)),
        };
        if pages.send(page.objects).await.is_err() {
            // Whoever wanted the objects has gone, and this task is being stopped.
            break;
        }
    }
    Ok(check)
}

impl Lister {
    /// Begins to list.
    pub(super) fn new(server: Arc<Server>, bucket: &str) -> Self {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let task = Some(Task::spawn(list(server, bucket.to_owned(), sender)));
        Self { bucket: bucket.to_owned(), pages, task, check: ListingCheck::default(), queue: VecDeque::new() }
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Makes sure that the next object is in memory; returns it without taking it.
    pub(super) async fn peek(&mut self) -> Result<Option<&Listed>, Error> {
        while self.queue.is_empty() {
            if let Some(objects) = self.pages.recv().await {
                self.queue.extend(objects);
            } else if let Some(task) = self.task.take() {
                self.check = task.end().await?;
            } else {
                return Ok(None);
            }
        }
        Ok(self.queue.front())
    }

    /// Takes the object that `peek` showed.
    pub(super) fn take(&mut self) -> Option<Listed> {
        self.queue.pop_front()
    }

    /// Warnings about what the server claimed and what was true.
    pub(super) fn warnings(&self) -> Vec<String> {
        let (named, count) = self.check.early_ends();
        let mut lines: Vec<String> = named
            .iter()
            .map(|key| format!("bucket {}: the listing ended early after key {key:?} and was continued", self.bucket))
            .collect();
        if count > u64::try_from(named.len()).unwrap_or(u64::MAX) {
            lines.push(format!("bucket {}: the listing ended early {count} times in all", self.bucket));
        }
        lines
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
