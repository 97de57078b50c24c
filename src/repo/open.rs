//! Opens a repository: config, key slot, index.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

use super::Error;
use super::closed::{Ahead, Begun, Closed, Slots, Survey};
use super::index::Index;
use super::index::cache::IndexCache;
use super::keyring::Keyring;
use super::object::{self, ObjectBytes};
use super::pieces::{PieceStore, PieceUse};
use super::place::{SecretsPlace, SecretsStore};
use crate::backend::{Backend, Listed};
use crate::crypto::keys::KeySet;
use crate::crypto::slot::{self, Opener};
use crate::crypto::writer_key::WriterKey;
use crate::crypto::{self, Entropy, Passphrase, hash};
use crate::format::config::{Config, Part};
use crate::format::envelope::SealedKind;
use crate::format::id::{IndexId, PackId, RepositoryId};
use crate::format::index::IndexPart;
use crate::format::limits;
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};
use crate::format::slot::{Capability, Slot, Unlock};

/// Index parts that are read at the same time.
const PARTS_AT_ONCE: usize = 4;

/// What a repository is opened with. Several may be given: a restore of data and secrets needs both.
pub enum Access {
    /// The nightly host's key.
    Writer(WriterKey),
    /// The passphrase of the data reader.
    Data(Passphrase),
    /// The passphrase of the secrets reader.
    Secrets(Passphrase),
}

impl Access {
    const fn capability(&self) -> Capability {
        match self {
            Self::Writer(_) => Capability::Writer,
            Self::Data(_) => Capability::DataReader,
            Self::Secrets(_) => Capability::SecretsReader,
        }
    }

    fn opener(&self) -> Opener<'_> {
        match self {
            Self::Writer(key) => key.opener(),
            Self::Data(passphrase) | Self::Secrets(passphrase) => Opener::Passphrase(passphrase),
        }
    }
}

/// How a repository is opened.
pub struct OpenOptions {
    /// Where the index is kept between runs: an existing directory; `None` for a temporary file.
    pub cache: Option<PathBuf>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

/// Everything that lies in a backend.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Objects and their lengths.
    pub objects: HashMap<ObjectKey, u64>,
    /// Config and key slots of the secrets' own store.
    pub apart: Vec<ObjectKey>,
    /// What puts left behind that never ended, with its length.
    pub leftovers: Vec<(String, u64)>,
    /// Names that no orkvault put there.
    pub strangers: Vec<String>,
}

impl Inventory {
    async fn add(&mut self, part: Part, backend: &dyn Backend) -> Result<(), Error> {
        let mut listing = backend.list(ObjectPrefix::All);
        while let Some(listed) = listing.try_next().await? {
            match listed {
                Listed::Object(info) => match (part, info.key.namespace()) {
                    (Part::Data, Some(Namespace::Secrets)) | (Part::Secrets, Some(Namespace::Data)) => {
                        self.strangers.push(info.key.to_string());
                    }
                    (Part::Secrets, None) => self.apart.push(info.key),
                    _ => drop(self.objects.insert(info.key, info.len)),
                },
                Listed::Leftover { name, len, .. } => self.leftovers.push((name, len)),
                Listed::Stranger { name, .. } => self.strangers.push(name),
            }
        }
        Ok(())
    }
}

/// An open repository.
#[derive(Clone)]
pub struct Repository {
    backend: Arc<dyn Backend>,
    pub(super) secrets: SecretsPlace,
    keyring: Arc<Keyring>,
    config: Arc<Config>,
    index: Arc<Index>,
    /// Where this host keeps what it remembers.
    cache: Option<Arc<Path>>,
    /// What was asked for before it was open.
    begun: Arc<Begun>,
}

impl Repository {
    /// Opens a repository with everything in `access`; each must open a slot. Does not read the index yet:
    /// see [`Repository::load_index`].
    pub async fn open(backend: Arc<dyn Backend>, access: Vec<Access>, options: OpenOptions) -> Result<Self, Error> {
        Self::open_apart(backend, SecretsStore::Unnamed, access, options).await
    }

    /// As [`Repository::open`], with the store that holds the secrets where they have one of their own. One that
    /// cannot be used is no error here, but for [`Access::Secrets`]: what needs it fails.
    pub async fn open_apart(
        backend: Arc<dyn Backend>,
        secrets: SecretsStore,
        access: Vec<Access>,
        options: OpenOptions,
    ) -> Result<Self, Error> {
        Closed::look(backend, secrets, Ahead::Nothing).await?.open(access, options).await
    }

    /// See [`Closed::open`].
    pub(super) async fn open_closed(closed: Closed, access: Vec<Access>, options: OpenOptions) -> Result<Self, Error> {
        let Closed { backend, config, macs, slots: mut coming, secrets, secrets_config, begun } = closed;
        let location = backend.location();
        let wants_secrets = access.iter().any(|access| matches!(access, Access::Secrets(_)));
        if config.part() == Part::Secrets && access.iter().any(|access| !matches!(access, Access::Secrets(_))) {
            return Err(Error::OnlySecrets { location });
        }
        if wants_secrets && let Some(error) = secrets.reason(&location) {
            return Err(error);
        }
        for access in &access {
            if let Access::Writer(key) = access
                && key.repository != config.repository
            {
                return Err(Error::OtherRepository { location });
            }
        }
        // A key opens its slot or not, at once; what a passphrase opens is tried once, when all are there.
        let is_key_alone = access.iter().all(|access| matches!(access, Access::Writer(_)));
        let opens = |slots: &[Slot]| is_key_alone && open_slots(slots, &access, &location).is_ok();
        let (mut slots, mut unread) = coming.usable(&config, opens).await?;
        // Nobody else needs anything of that store to open: it may fail later without failing the data.
        if let Some(apart) = secrets.apart()
            && wants_secrets
        {
            let (others, not_read) = Slots::begin(apart).usable(&config, |_| false).await?;
            slots.extend(others);
            unread = unread.or(not_read);
        }
        let repository = config.repository;
        // Key derivation takes a second and hundreds of MiB: not on the runtime's threads.
        let (config, secrets, sets) = tokio::task::spawn_blocking(move || {
            let sets = match open_slots(&slots, &access, &location) {
                // The slot that would have opened may be the one that the store did not give out.
                Err(Error::NoSlot { .. } | Error::WrongKey { .. }) if unread.is_some() => {
                    return Err(unread.take().unwrap_or(Error::Stopped));
                }
                sets => sets?,
            };
            for set in &sets {
                set.check_config(&config, &macs)
                    .map_err(|source| Error::Object { object: ObjectKey::Config.to_string(), source })?;
            }
            Ok::<_, Error>((config, secrets.check(secrets_config.as_ref(), &sets), sets))
        })
        .await
        .map_err(|_| Error::Stopped)??;
        // The store of the secrets has no index, and must not empty the cache of the data's.
        let cache = options.cache.as_deref().filter(|_| config.part() != Part::Secrets);
        let index = open_index(cache, &repository, &backend.location())?;
        Ok(Self {
            backend,
            secrets,
            keyring: Arc::new(Keyring::new(repository, sets, options.entropy)),
            config: Arc::new(config),
            index: Arc::new(index),
            cache: options.cache.map(Arc::from),
            begun: Arc::new(begun),
        })
    }

    /// Returns the same repository with an empty index in a temporary file: for a proof that takes nothing
    /// on trust that this host remembers.
    pub fn with_fresh_index(&self) -> Result<Self, Error> {
        let cache = IndexCache::open(None, &self.config.repository, &self.backend.location())?;
        Ok(Self { index: Arc::new(Index::new(cache)), ..self.clone() })
    }

    /// Tells the index cache of this host in `cache` which segments are set aside in this index, for the next run to store
    /// anew what they hold ([`Index::set_known_damage_aside`]). With `is_all` every segment of the repository was read, so
    /// what the cache knew of others is no longer true. Returns whether there is anything to remember.
    pub fn remember_damage(&self, cache: &Path, is_all: bool) -> Result<bool, Error> {
        let (repository, location) = (&self.config.repository, self.backend.location());
        let damaged = self.index.damaged()?;
        if damaged.is_empty() && !(is_all && IndexCache::path(cache, repository, &location).exists()) {
            return Ok(false);
        }
        let mut cache = IndexCache::open(Some(cache), repository, &location)?;
        if is_all {
            cache.replace_damaged(&damaged)?;
        } else {
            damaged.iter().try_for_each(|segment| cache.add_damaged(*segment))?;
        }
        Ok(!damaged.is_empty())
    }

    /// Brings the local index in line with the index parts in the repository. A part that cannot be read is
    /// an error: use [`Repository::load_index_leniently`] to go on without it.
    pub async fn load_index(&self) -> Result<(), Error> {
        match self.load_index_leniently().await?.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// As [`Repository::load_index`]; returns the parts that could not be read instead of failing.
    ///
    /// A cache that fails (its disk is full) is replaced by a temporary one: see [`Index::cache_error`].
    pub async fn load_index_leniently(&self) -> Result<Vec<(IndexId, Error)>, Error> {
        self.load_index_of(&self.index_ids().await?).await
    }

    /// As [`Repository::load_index_leniently`], with parts that were listed before.
    pub async fn load_index_of(&self, there: &HashSet<IndexId>) -> Result<Vec<(IndexId, Error)>, Error> {
        match self.sync_index(there).await {
            Err(error @ Error::Cache { .. }) => {
                let temporary = IndexCache::open(None, &self.config.repository, &self.backend.location())?;
                if self.index.fall_back(temporary, &error) { self.sync_index(there).await } else { Err(error) }
            }
            result => result,
        }
    }

    async fn sync_index(&self, there: &HashSet<IndexId>) -> Result<Vec<(IndexId, Error)>, Error> {
        let cached = self.index.parts()?;
        let gone = |there: &HashSet<IndexId>| -> Vec<IndexId> { cached.difference(there).copied().collect() };
        if !gone(there).is_empty() {
            // A part is put before it is cached: one that is cached now and still not listed has gone.
            self.index.remove_parts(&gone(&self.index_ids().await?))?;
        }
        let missing: Vec<IndexId> = there.difference(&cached).copied().collect();
        let staged = self.stage_parts(missing).await;
        // Also after a failure: what was read so far is of use to the next run, and the cache is free for others.
        let settled = self.index.settle();
        let failed = staged?;
        settled?;
        Ok(failed)
    }

    async fn index_ids(&self) -> Result<HashSet<IndexId>, Error> {
        let objects = self.list(ObjectPrefix::Indexes).await?;
        Ok(objects
            .into_iter()
            .filter_map(|(key, _)| if let ObjectKey::Index(id) = key { Some(id) } else { None })
            .collect())
    }

    /// Lists the data namespace, or returns what was listed while the repository was opened: see [`Ahead::Survey`].
    /// What was put meanwhile may not be in it; what seems to be missing is looked for again by whoever minds.
    pub async fn survey(&self) -> Result<Survey, Error> {
        match self.begun.wait().await {
            Some(survey) => survey,
            None => Ok(Survey::take(self.backend.as_ref()).await?),
        }
    }

    /// Forgets what was listed while the repository was opened: [`Repository::survey`] lists anew.
    pub fn forget_survey(&self) {
        self.begun.forget();
    }

    async fn stage_parts(&self, missing: Vec<IndexId>) -> Result<Vec<(IndexId, Error)>, Error> {
        let mut failed = Vec::new();
        let mut read = futures::stream::iter(missing)
            .map(|id| {
                let repository = self.clone();
                // In tasks of their own: opening and decoding a part is work for all cores.
                let read = tokio::spawn(async move { repository.read_index_part(id).await });
                async move { (id, read.await.unwrap_or(Err(Error::Stopped))) }
            })
            .buffered(PARTS_AT_ONCE);
        while let Some((id, part)) = read.next().await {
            match part {
                Ok(part) => self.index.stage_part(&id, &part)?,
                Err(error) if error.is_damage() => failed.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(failed)
    }

    /// Puts an index part whose packs are durable, and returns its name. The local index learns of it when it is loaded.
    pub async fn put_index_part(&self, part: &IndexPart) -> Result<IndexId, Error> {
        let body = part.encode();
        limits::check("index part", body.len() as u64, limits::INDEX_BYTES_MAX)?;
        let sealed = object::seal(&self.keyring, ObjectBytes::hashed(SealedKind::Index), &body)?;
        let id = IndexId::from_bytes(*hash::content_hash(&sealed).as_bytes());
        // Already there means the same bytes: the name is their hash.
        let _ = self.backend.put(ObjectKey::Index(id), vec![sealed.into()]).await?;
        Ok(id)
    }

    /// Reads one index part.
    pub async fn read_index_part(&self, id: IndexId) -> Result<IndexPart, Error> {
        let key = ObjectKey::Index(id);
        let stored = self.backend.get(key, SealedKind::Index.bytes_max()).await?;
        if hash::content_hash(&stored).as_bytes() != id.as_bytes() {
            return Err(Error::WrongContent { object: key.to_string() });
        }
        let body = object::open(&self.keyring, ObjectBytes::hashed(SealedKind::Index), key, &stored)?;
        IndexPart::decode(&body).map_err(|source| Error::Damaged { object: key.to_string(), source })
    }

    /// Sets packs aside that the index lists and the store does not have whole: their chunks count as
    /// unknown and are stored again. Returns how many. One listing.
    pub async fn set_missing_packs_aside(&self) -> Result<usize, Error> {
        // The index first: what it lists was put before.
        let listed = self.index.packs()?;
        let there = self.list(ObjectPrefix::Packs).await?;
        let there = there.into_iter().filter_map(|(key, len)| match key {
            ObjectKey::Pack(id) => Some((id, len)),
            _ => None,
        });
        let gone = missing(listed, &there.collect());
        let count = gone.len();
        self.index.set_gone(gone);
        Ok(count)
    }

    /// As [`Repository::set_missing_packs_aside`], with packs that were listed before: only where one seems to be
    /// missing they are listed again, because a run beside this one may have put it since.
    pub async fn set_missing_packs_aside_of(&self, there: &HashSet<(PackId, u64)>) -> Result<usize, Error> {
        if missing(self.index.packs()?, there).is_empty() {
            self.index.set_gone(HashSet::new());
            return Ok(0);
        }
        self.set_missing_packs_aside().await
    }

    /// Lists objects with their lengths; strangers are left out.
    pub async fn list(&self, prefix: ObjectPrefix) -> Result<Vec<(ObjectKey, u64)>, Error> {
        let mut objects = Vec::new();
        let backend = self.backend_below(prefix)?;
        let mut listing = backend.list(prefix);
        while let Some(listed) = listing.try_next().await? {
            if let Listed::Object(info) = listed {
                objects.push((info.key, info.len));
            }
        }
        Ok(objects)
    }

    /// Lists everything that is there, also what is no object or lies where it does not belong. A store of secrets
    /// that is not at hand is left out.
    pub async fn inventory(&self) -> Result<Inventory, Error> {
        let mut found = Inventory::default();
        found.add(self.part(), self.backend.as_ref()).await?;
        if let Some(apart) = self.secrets.apart() {
            found.add(Part::Secrets, apart.as_ref()).await?;
        }
        Ok(found)
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend)
    }

    /// Returns the keys.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }

    /// Returns the config.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns what this host remembers of the pieces of streams: at most `bytes_max` bytes.
    pub(super) fn piece_store(&self, bytes_max: u64) -> PieceStore {
        PieceStore::new(self.cache.as_deref(), &self.backend.location(), Arc::clone(&self.keyring), bytes_max)
    }

    /// Returns what the piece cache of this repository takes on this host.
    #[must_use]
    pub fn piece_use(&self) -> PieceUse {
        self.piece_store(0).in_use()
    }

    /// Returns the index.
    #[must_use]
    pub fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }
}

/// Returns those packs that are not there whole.
fn missing(listed: Vec<(PackId, u64)>, there: &HashSet<(PackId, u64)>) -> HashSet<PackId> {
    listed.into_iter().filter(|pack| !there.contains(pack)).map(|(id, _)| id).collect()
}

/// Opens the index. A cache that cannot be used keeps nobody from the repository.
fn open_index(cache: Option<&Path>, repository: &RepositoryId, location: &str) -> Result<Index, Error> {
    let opened = IndexCache::open(cache, repository, location);
    match opened {
        Ok(cache) => Ok(Index::new(cache)),
        Err(error) if cache.is_some() => {
            let index = Index::new(IndexCache::open(None, repository, location)?);
            let empty = IndexCache::open(None, repository, location)?;
            let _ = index.fall_back(empty, &error);
            Ok(index)
        }
        Err(error) => Err(error),
    }
}

fn open_slots(slots: &[Slot], access: &[Access], location: &str) -> Result<Vec<KeySet>, Error> {
    let mut sets = Vec::new();
    for access in access {
        let capability = access.capability();
        let wants_passphrase = !matches!(access, Access::Writer(_));
        let mut fitting: Vec<&Slot> = slots
            .iter()
            .filter(|slot| slot.header.capability == capability)
            .filter(|slot| matches!(slot.header.unlock, Unlock::Passphrase(_)) == wants_passphrase)
            .collect();
        // Anybody who may put can put a slot that takes all that a derivation may.
        fitting.sort_by_key(|slot| work(slot));
        let (mut set, mut failed) = (None, None);
        for slot in &fitting {
            match slot::open(slot, &access.opener()) {
                Ok(opened) => {
                    set = Some(opened);
                    break;
                }
                Err(crypto::Error::CannotOpen { .. }) => {}
                // Another one may open.
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let (capability, location) = (capability.name(), location.to_owned());
        match (set, failed) {
            (Some(set), _) => sets.push(set),
            (None, Some(error)) => return Err(error.into()),
            (None, None) if fitting.is_empty() => return Err(Error::NoSlot { capability, location }),
            (None, None) => return Err(Error::WrongKey { capability, location }),
        }
    }
    Ok(sets)
}

/// Returns what it takes to try a slot: KiB times passes.
fn work(slot: &Slot) -> u64 {
    match slot.header.unlock {
        Unlock::Passphrase(kdf) => u64::from(kdf.memory_kib()) * u64::from(kdf.passes()),
        Unlock::RawKey => 0,
    }
}
