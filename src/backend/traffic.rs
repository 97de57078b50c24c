//! What a run has asked of its stores: counted, so that it can be shown.

use std::sync::atomic::{AtomicU64, Ordering};

/// The kinds of requests that a store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Puts an object, or begins, continues or ends the put of one in parts.
    Put,
    /// Reads an object or a part of it.
    Get,
    /// Asks what an object is without reading it.
    Head,
    /// Asks for one page of a listing.
    List,
    /// Removes an object, or an unfinished put.
    Delete,
    /// Asks for, or sets, how long an object is locked, or what a bucket can do.
    Lock,
}

impl Request {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete, Self::Lock];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Lock => "lock",
        }
    }
}

/// Counters that all stores of a run share. Requests are counted when they are sent, also those that fail.
#[derive(Debug, Default)]
pub struct Traffic {
    put: AtomicU64,
    get: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    lock: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    retries: AtomicU64,
}

impl Traffic {
    /// Counts a request and the bytes of objects that go with it.
    pub fn request(&self, request: Request, sent_bytes: u64) {
        self.counter(request).fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
    }

    /// Counts bytes of objects that came.
    pub fn received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts an operation that is tried once more.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many requests of a kind were sent.
    #[must_use]
    pub fn requests(&self, request: Request) -> u64 {
        self.counter(request).load(Ordering::Relaxed)
    }

    /// Returns how many requests were sent.
    #[must_use]
    pub fn all_requests(&self) -> u64 {
        Request::ALL.iter().map(|request| self.requests(*request)).sum()
    }

    /// Returns the bytes of objects that were sent, those of failed puts included.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes of objects that came.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Returns how many operations were tried once more.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    const fn counter(&self, request: Request) -> &AtomicU64 {
        match request {
            Request::Put => &self.put,
            Request::Get => &self.get,
            Request::Head => &self.head,
            Request::List => &self.list,
            Request::Delete => &self.delete,
            Request::Lock => &self.lock,
        }
    }
}
