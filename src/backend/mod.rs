//! Objects in and out: where the bytes of a repository live.
//!
//! Nothing here looks into an object. Every implementation and every decorator passes the one suite in
//! `conformance.rs`, which holds this contract:
//!
//! - **An object is immutable and whole.** `put` makes a name appear with all of its bytes or not at all,
//!   and never changes a name that is there. Of any number of puts of one name, on any number of hosts,
//!   exactly one is told [`Put::Created`].
//! - **Success is durable.** When `put` or `delete` returns `Ok`, a power cut does not undo it. The order
//!   of such calls is therefore an order on the store: what was put first is there if what was put
//!   later is. Two calls in flight at once have no order.
//! - **Failure is unknown.** After an `Err` from `put` or `delete`, or when its future was dropped, the
//!   effect may or may not be there, or come a little later. Calling again is always right.
//! - **Reads see what was written.** After `put` returned, `get`, `get_range`, `stat` and `list` of anybody
//!   see the object; after `delete` returned nobody does.
//! - **A read is as long as it should be.** Fewer bytes than asked for are an error, never a shorter result;
//!   whether they are the right bytes is the caller's to verify.
//! - **A listing is honest.** Every object that is there from its first poll to its end is listed exactly
//!   once, in no order. A stream that ends without an `Err` is complete. What changes meanwhile may or may
//!   not be listed. A store that is away is an error, not an empty listing.
//! - **The only clock is the store's.** [`ObjectInfo::modified`] may differ from the host's clock by any
//!   amount; compare it only with other times of the same store.
//! - **Errors have a kind.** Only [`ErrorKind::Transient`] may go away by itself, [`ErrorKind::Garbled`] perhaps. Nothing in this room
//!   repeats an operation but a decorator that says so. No message holds a credential.
//!
//! Implementations are cheap to call from many tasks at once and bound nothing: how many operations are in
//! flight is the caller's limit. An operation holds at most one object in memory.

mod error;
mod fault;
mod keep;
mod limit;
mod local;
mod memory;
mod pace;
mod retry;
pub mod s3;
mod traffic;

#[cfg(test)]
mod conformance;
#[cfg(test)]
#[path = "../../tests/it/support/s3_server.rs"]
mod s3_server;
#[cfg(test)]
mod test_pace;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;

use crate::format::object::{ObjectKey, ObjectPrefix};

pub use error::{Cut, Error, ErrorKind, GaveUp, Operation};
pub use fault::{Counted, Fault, FaultBackend};
pub use keep::KeepBackend;
pub use limit::{Bandwidth, Lines};
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use pace::Pace;
pub use retry::{Notice, RetryBackend, RetryPolicy, Retrying};
pub use traffic::{Request, Traffic};

/// What `put` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// This call made the object.
    Created,
    /// An object of that name and length was there before. Its bytes were not compared: for a name that
    /// is not the hash of its content this is another object.
    AlreadyThere,
}

/// How long an object is to be locked, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// One that is locked as long as this is left alone.
    pub least: SystemTime,
    /// All others are locked as long as this. Later than `least`, so that not every night has to lock again.
    pub until: SystemTime,
}

/// What [`Backend::lock`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It was locked long enough.
    Before,
    /// It is now.
    Now,
}

/// What the store knows about an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub len: u64,
    /// When it was put, by the store's clock; `None` where the store does not tell.
    pub modified: Option<SystemTime>,
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// An object.
    Object(ObjectInfo),
    /// What a put that never ended left behind. Invisible to reads; [`Backend::sweep`] removes it.
    Leftover {
        /// Where it lies, for people.
        name: String,
        /// Bytes that it takes.
        len: u64,
        /// When it was last written, by the store's clock.
        modified: Option<SystemTime>,
    },
    /// Something that no orkvault put there: a name that is no [`ObjectKey`], or not a plain object.
    Stranger {
        /// Its name, for people: what is not UTF-8 is replaced.
        name: String,
        /// Its length in bytes.
        len: u64,
    },
}

/// Where unfinished puts lie, in the backends that have names for them.
const LEFTOVERS: &str = "tmp/";

impl Listed {
    /// Returns what a plain object of this name is.
    fn from_name(name: String, len: u64, modified: Option<SystemTime>) -> Self {
        if let Ok(key) = name.parse() {
            Self::Object(ObjectInfo { key, len, modified })
        } else if name.starts_with(LEFTOVERS) {
            Self::Leftover { name, len, modified }
        } else {
            Self::Stranger { name, len }
        }
    }
}

/// A place for objects. The contract is in the head of this module.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Returns where this is, for messages. Never a secret.
    fn location(&self) -> String;

    /// Stores the concatenation of `body` under a name that is not taken. Durable when it returns.
    ///
    /// Fails with [`Error::Conflict`] where the name is taken by an object of another length.
    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error>;

    /// Returns the whole object. Fails with [`Error::NotFound`], and with [`Error::TooLong`] before reading
    /// or allocating anything where it has more than `max_len` bytes.
    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error>;

    /// Returns exactly `len` bytes from `offset`. Fails with [`Error::NotFound`], and with [`Error::Short`]
    /// where the object ends before. `len` is allocated: the caller has checked it against a limit.
    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error>;

    /// Returns what is known about an object, `None` where there is none.
    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error>;

    /// Lists everything whose name starts with the prefix. Leftovers are listed with
    /// [`ObjectPrefix::All`]. The first `Err` ends the stream.
    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>>;

    /// Removes an object. Also `Ok` where there is none. Durable when it returns.
    async fn delete(&self, key: ObjectKey) -> Result<(), Error>;

    /// Makes sure that nobody can remove or replace an object for a time. Fails with [`Error::CannotLock`]
    /// where the store knows no locks, and with [`Error::NotFound`].
    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        let _ = (key, lock);
        Err(Error::CannotLock { location: self.location() })
    }

    /// Removes leftovers last written before `before` (the store's clock) and returns how many. A put that
    /// is still under way loses its bytes and fails, so `before` lies further back than any put takes.
    async fn sweep(&self, before: SystemTime) -> Result<u64, Error>;
}

#[async_trait]
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn location(&self) -> String {
        (**self).location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        (**self).put(key, body).await
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        (**self).get(key, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        (**self).get_range(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        (**self).stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        (**self).list(prefix)
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        (**self).delete(key).await
    }

    async fn lock(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        (**self).lock(key, lock).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        (**self).sweep(before).await
    }
}

/// Fails with [`Error::NotEmpty`] where a place has anything in it but leftovers.
pub async fn expect_empty(backend: &dyn Backend) -> Result<(), Error> {
    let mut listing = backend.list(ObjectPrefix::All);
    while let Some(listed) = listing.try_next().await? {
        if !matches!(listed, Listed::Leftover { .. }) {
            return Err(Error::NotEmpty { location: backend.location() });
        }
    }
    Ok(())
}
