//! A repository before a key: what is read of its stores at once, so that opening it takes one round trip or two and
//! not ten.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Error;
use super::open::{Access, OpenOptions, Repository};
use super::place::{SecretsConfig, SecretsPlace, SecretsStore};
use crate::backend::{self, Backend, Listed};
use crate::crypto::slot;
use crate::crypto::{self, hash};
use crate::format::config::{Config, ConfigMacs, Part};
use crate::format::id::{IndexId, PackId, SlotId, SnapshotId};
use crate::format::limits;
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};
use crate::format::slot::Slot;

/// Key slots that are read at the same time.
const SLOTS_AT_ONCE: usize = 8;
/// Key slots of a repository.
const SLOTS_MOST: usize = 64;
const _: () = assert!(SLOTS_MOST as u64 == limits::SLOTS_MAX);

/// What a run will need besides the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing that is asked for before it is needed.
    Nothing,
    /// What is in the data namespace: see [`Repository::survey`].
    Survey,
}

/// A repository that no key has opened yet. Nothing in it is proven but checksums.
pub struct Closed {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) config: Config,
    pub(super) macs: ConfigMacs,
    pub(super) slots: Slots,
    pub(super) secrets: SecretsPlace,
    pub(super) secrets_config: Option<SecretsConfig>,
    pub(super) begun: Begun,
}

impl Closed {
    /// Reads the config, and begins to read the key slots and what is asked for ahead. Fails with
    /// [`backend::Error::NoRepository`] where there is no config. Needs a runtime.
    pub async fn look(backend: Arc<dyn Backend>, secrets: SecretsStore, ahead: Ahead) -> Result<Self, Error> {
        let begun = match ahead {
            Ahead::Nothing => Begun::default(),
            Ahead::Survey => Begun::begin(&backend),
        };
        let slots = Slots::begin(&backend);
        let (config, apart) = futures::join!(read_config(backend.as_ref()), secrets.read());
        let (config, macs) = config?;
        let (secrets, secrets_config) = SecretsPlace::find(&config, &backend.location(), secrets, apart)?;
        Ok(Self { backend, config, macs, slots, secrets, secrets_config, begun })
    }

    /// Returns which part of a repository lies there, as its config says.
    #[must_use]
    pub fn part(&self) -> Part {
        self.config.part()
    }

    /// Names the store of the secrets, where [`Closed::look`] was not told of one.
    pub async fn with_secrets(self, secrets: SecretsStore) -> Result<Self, Error> {
        let apart = secrets.read().await;
        let (secrets, secrets_config) = SecretsPlace::find(&self.config, &self.backend.location(), secrets, apart)?;
        Ok(Self { secrets, secrets_config, ..self })
    }

    /// Opens it with everything in `access`; each must open a slot. Does not read the index yet.
    pub async fn open(self, access: Vec<Access>, options: OpenOptions) -> Result<Repository, Error> {
        Repository::open_closed(self, access, options).await
    }
}

/// Key slots on their way: each as soon as it is there.
pub(super) struct Slots(mpsc::Receiver<Result<Slotted, Error>>);

/// A slot that was listed.
enum Slotted {
    Stored(Bytes),
    /// The store did not give it out, though it may well be there.
    Unread(Error),
}

impl Slots {
    /// Begins to list and to read them, in a task that ends by itself: a request that is dropped costs its connection.
    pub(super) fn begin(backend: &Arc<dyn Backend>) -> Self {
        let backend = Arc::clone(backend);
        // Room for all: who reads them never waits for whoever opens, and never holds the line meanwhile.
        let (sender, receiver) = mpsc::channel(2 * SLOTS_MOST);
        // Nobody may wait any more: what came was enough.
        tokio::spawn(async move { send_slots(backend.as_ref(), &sender).await });
        Self(receiver)
    }

    /// Returns those that can be used, as soon as they are `enough`: the look behind the end of the listing then need
    /// not be waited for. A damaged one, or one that cannot be read, must not keep the others from opening; why the first
    /// that the store did not give out was not read is returned, too.
    pub(super) async fn usable(
        &mut self,
        config: &Config,
        enough: impl Fn(&[Slot]) -> bool,
    ) -> Result<(Vec<Slot>, Option<Error>), Error> {
        let (mut slots, mut unread) = (Vec::new(), None);
        while let Some(slotted) = self.0.recv().await {
            match slotted? {
                Slotted::Unread(error) => drop(unread.get_or_insert(error)),
                Slotted::Stored(stored) => {
                    let Ok(slot) = slot::read(&stored, &config.repository) else { continue };
                    slots.push(slot);
                    if enough(&slots) {
                        break;
                    }
                }
            }
        }
        Ok((slots, unread))
    }
}

/// What the data namespace had when it was listed, or a little later.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// Snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Index parts.
    pub indexes: HashSet<IndexId>,
    /// Packs, with their lengths.
    pub packs: HashSet<(PackId, u64)>,
}

impl Survey {
    pub(super) async fn take(backend: &dyn Backend) -> Result<Self, backend::Error> {
        let mut survey = Self::default();
        let mut listing = backend.list(ObjectPrefix::Namespace(Namespace::Data));
        while let Some(listed) = listing.try_next().await? {
            let Listed::Object(info) = listed else { continue };
            match info.key {
                ObjectKey::Snapshot(Namespace::Data, id) => survey.snapshots.push(id),
                ObjectKey::Index(id) => drop(survey.indexes.insert(id)),
                ObjectKey::Pack(id) => drop(survey.packs.insert((id, info.len))),
                _ => {}
            }
        }
        Ok(survey)
    }
}

/// A survey that was begun and is waited for by one. Dropped, it ends.
#[derive(Default)]
pub(super) struct Begun(Mutex<Option<JoinSet<Result<Survey, backend::Error>>>>);

impl Begun {
    fn begin(backend: &Arc<dyn Backend>) -> Self {
        let backend = Arc::clone(backend);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { Survey::take(backend.as_ref()).await });
        Self(Mutex::new(Some(tasks)))
    }

    pub(super) fn forget(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Returns what was begun, once.
    pub(super) async fn wait(&self) -> Option<Result<Survey, Error>> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let done = tasks.join_next().await?;
        Some(done.map_err(|_| Error::Stopped).and_then(|survey| Ok(survey?)))
    }
}

/// Reads the config and checks its checksum. Its codes need keys.
pub(super) async fn read_config(backend: &dyn Backend) -> Result<(Config, ConfigMacs), Error> {
    let object = ObjectKey::Config.to_string();
    let stored = match backend.get(ObjectKey::Config, limits::CONFIG_BYTES_MAX).await {
        Err(backend::Error::NotFound { .. }) => {
            return Err(backend::Error::NoRepository { location: backend.location() }.into());
        }
        stored => stored?,
    };
    let (config, macs, _) =
        Config::decode(&stored).map_err(|source| Error::Damaged { object: object.clone(), source })?;
    if hash::ends_in_checksum(&stored) {
        Ok((config, macs))
    } else {
        Err(Error::Object { object, source: crypto::Error::Checksum { what: "the config" } })
    }
}

/// Reads one slot and checks all that needs no key.
pub(super) async fn read_slot(backend: &dyn Backend, id: SlotId, config: &Config) -> Result<Slot, Error> {
    let key = ObjectKey::Slot(id);
    let stored = backend.get(key, limits::SLOT_BYTES_MAX).await?;
    slot::read(&stored, &config.repository).map_err(|source| Error::Object { object: key.to_string(), source })
}

/// Key slots that count where more are listed than a repository may have, which somebody has put there who may do nothing else:
/// those put first, among which are its own.
#[derive(Debug, Default)]
pub(super) struct OldestSlots(BTreeSet<Age>);

/// Whether the store does not say when a slot was put, when, and its id: in the order in which slots count.
type Age = (bool, Option<SystemTime>, SlotId);

impl OldestSlots {
    /// Takes a listed object, if it is a slot; returns its id.
    pub(super) fn take(&mut self, listed: &Listed) -> Option<SlotId> {
        let Listed::Object(backend::ObjectInfo { key: ObjectKey::Slot(id), modified, .. }) = listed else {
            return None;
        };
        self.0.insert((modified.is_none(), *modified, *id));
        if self.0.len() > SLOTS_MOST {
            self.0.pop_last();
        }
        Some(*id)
    }

    /// Returns the slots that count.
    pub(super) fn ids(&self) -> impl Iterator<Item = SlotId> {
        self.0.iter().map(|(.., id)| *id)
    }
}

/// Reads every slot that counts and can be read, each as soon as it is listed; of too many those listed first, too.
async fn send_slots(backend: &dyn Backend, to: &mpsc::Sender<Result<Slotted, Error>>) {
    let mut oldest = OldestSlots::default();
    let listing = backend.list(ObjectPrefix::Slots);
    let mut ids = listing
        .map(|listed| listed.map(|listed| oldest.take(&listed)).transpose())
        .filter_map(futures::future::ready)
        .boxed()
        // It is asked for more than one time whether there is more.
        .fuse();
    let mut read = HashSet::new();
    let first = ids.by_ref().take(SLOTS_MOST).map(|id| id.inspect(|id| _ = read.insert(*id)));
    if !send_each(read_slots(backend, first), to).await {
        return;
    }
    // As a rule there are no more.
    while let Some(id) = ids.next().await {
        if let Err(error) = id {
            let _ = to.send(Err(error.into())).await;
            return;
        }
    }
    drop(ids);
    let rest: Vec<_> = oldest.ids().filter(|id| !read.contains(id)).map(Ok).collect();
    send_each(read_slots(backend, futures::stream::iter(rest)), to).await;
}

/// Returns whether somebody still waits for more.
async fn send_each(
    slots: impl Stream<Item = Result<Slotted, Error>>,
    to: &mpsc::Sender<Result<Slotted, Error>>,
) -> bool {
    let mut slots = std::pin::pin!(slots);
    while let Some(slot) = slots.next().await {
        if to.send(slot).await.is_err() {
            return false;
        }
    }
    true
}

fn read_slots(
    backend: &dyn Backend,
    ids: impl Stream<Item = Result<SlotId, backend::Error>>,
) -> impl Stream<Item = Result<Slotted, Error>> {
    let read = move |id: Result<SlotId, backend::Error>| async move {
        match backend.get(ObjectKey::Slot(id?), limits::SLOT_BYTES_MAX).await {
            Ok(stored) => Ok(Some(Slotted::Stored(stored))),
            // Removed since, or no slot: there is none.
            Err(backend::Error::NotFound { .. } | backend::Error::TooLong { .. } | backend::Error::NotAFile { .. }) => {
                Ok(None)
            }
            Err(error) => Ok(Some(Slotted::Unread(error.into()))),
        }
    };
    ids.map(read).buffer_unordered(SLOTS_AT_ONCE).filter_map(|read| futures::future::ready(read.transpose()))
}
