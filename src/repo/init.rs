//! Makes a new repository: key slots first, the config last, so that a config means a usable repository.

use std::sync::Arc;

use super::Error;
use crate::backend::{Backend, Put};
use crate::crypto::keys::{self, KeySet};
use crate::crypto::random::random_32;
use crate::crypto::slot::{self, NewSlot, Opener};
use crate::crypto::writer_key::WriterKey;
use crate::crypto::{self, Entropy, Passphrase, hash};
use crate::format::config::{ChunkSizes, Config, Part};
use crate::format::id::{RepositoryId, SlotId};
use crate::format::object::{Namespace, ObjectKey};
use crate::format::slot::{Capability, KdfParams, Unlock};

/// The chunk sizes of a new repository, in the order of `StreamKind::ALL` (`docs/PERFORMANCE.md` has the
/// measurements): dump, rdb, object, table.
pub(super) const CHUNK_SIZES: [ChunkSizes; 4] = [
    ChunkSizes { min: 8 * 1024, average: 32 * 1024, max: 128 * 1024, whole_below: 0 },
    ChunkSizes { min: 8 * 1024, average: 32 * 1024, max: 128 * 1024, whole_below: 0 },
    ChunkSizes { min: 16 * 1024, average: 64 * 1024, max: 512 * 1024, whole_below: 64 * 1024 },
    ChunkSizes { min: 1024, average: 4 * 1024, max: 64 * 1024, whole_below: 0 },
];

/// How a repository is made.
#[derive(Debug, Clone, Copy)]
pub struct InitOptions {
    /// Cost of the data reader's passphrase.
    pub data_kdf: KdfParams,
    /// Cost of the secrets reader's passphrase.
    pub secrets_kdf: KdfParams,
    /// Sizes of chunks.
    pub chunk_sizes: [ChunkSizes; 4],
    /// Now, in seconds since 1970.
    pub now_secs: u64,
}

impl InitOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new(now_secs: u64) -> Self {
        Self {
            data_kdf: slot::data_reader_kdf(),
            secrets_kdf: slot::secrets_reader_kdf(),
            chunk_sizes: CHUNK_SIZES,
            now_secs,
        }
    }
}

/// The passphrases of the two readers. They must differ.
pub struct InitSecrets {
    /// Opens the data reader.
    pub data: Passphrase,
    /// Opens the secrets reader.
    pub secrets: Passphrase,
}

/// A new repository.
pub struct Initialized {
    /// Its id.
    pub repository: RepositoryId,
    /// The key of the nightly host.
    pub writer_key: WriterKey,
}

/// Makes a repository in an empty backend.
///
/// `keep` gets the writer key before the config is put and must make it durable: whatever happens, there
/// is no repository whose writer key was lost on the way.
pub async fn init(
    backend: Arc<dyn Backend>,
    options: &InitOptions,
    secrets: InitSecrets,
    entropy: Arc<dyn Entropy>,
    keep: impl FnOnce(&WriterKey) -> std::io::Result<()> + Send,
) -> Result<Result<Initialized, std::io::Error>, Error> {
    init_apart(backend, None, options, secrets, entropy, keep).await
}

/// As [`init`], with the secrets in a store of their own where `secrets_backend` is given, empty like the other.
/// It gets the slot of the secrets reader and a config that says what it is: alone it gives the secrets back.
pub async fn init_apart(
    backend: Arc<dyn Backend>,
    secrets_backend: Option<Arc<dyn Backend>>,
    options: &InitOptions,
    secrets: InitSecrets,
    entropy: Arc<dyn Entropy>,
    keep: impl FnOnce(&WriterKey) -> std::io::Result<()> + Send,
) -> Result<Result<Initialized, std::io::Error>, Error> {
    secrets.data.check_strength()?;
    secrets.secrets.check_strength()?;
    if secrets.data.is_same(&secrets.secrets) {
        // One passphrase for both would make whoever restores data a reader of secrets.
        return Err(crypto::Error::BadPassphrase { reason: "the same for data and secrets" }.into());
    }
    let repository = RepositoryId::from_bytes(random_32(entropy.as_ref())?);
    let writer_key = WriterKey::generate(repository, entropy.as_ref())?;
    let options = *options;
    let part = if secrets_backend.is_some() { Part::Data } else { Part::Whole };
    let (slots, configs, writer_key) = tokio::task::spawn_blocking(move || -> Result<_, Error> {
        let keys = keys::generate(entropy.as_ref())?;
        let config = new_config(repository, &options, &keys)?;
        let configs = (seal_config(&config.of_part(part), &keys)?, seal_config(&config.of_part(Part::Secrets), &keys)?);
        let slots = new_slots(repository, &options, &keys, &secrets, &writer_key, entropy.as_ref())?;
        Ok((slots, configs, writer_key))
    })
    .await
    .map_err(|_| Error::Stopped)??;
    // Before anything is put: a key file that cannot be written leaves an empty backend.
    if let Err(error) = keep(&writer_key) {
        return Ok(Err(error));
    }
    for (id, capability, object) in slots {
        // Whoever has only the data shall not be able to try passphrases of the secrets.
        let backend = match (&secrets_backend, capability) {
            (Some(apart), Capability::SecretsReader) => apart,
            _ => &backend,
        };
        put_new(backend.as_ref(), ObjectKey::Slot(id), object).await?;
    }
    // The config of the data last: with it there is a repository, so the store of its secrets must be one before.
    if let Some(apart) = &secrets_backend {
        put_new(apart.as_ref(), ObjectKey::Config, configs.1).await?;
    }
    put_new(backend.as_ref(), ObjectKey::Config, configs.0).await?;
    Ok(Ok(Initialized { repository, writer_key }))
}

/// Puts an object under a name that nobody else may have taken.
pub(super) async fn put_new(backend: &dyn Backend, key: ObjectKey, object: Vec<u8>) -> Result<(), Error> {
    match backend.put(key, vec![object.into()]).await? {
        Put::Created => Ok(()),
        Put::AlreadyThere => Err(Error::Taken { object: key.to_string(), location: backend.location() }),
    }
}

fn new_config(repository: RepositoryId, options: &InitOptions, keys: &KeySet) -> Result<Config, Error> {
    let epochs = |namespace| keys.namespace(namespace).map(|keys| keys.epochs().to_vec()).unwrap_or_default();
    for sizes in &options.chunk_sizes {
        sizes.check()?;
    }
    Ok(Config {
        repository,
        required_features: 0,
        optional_features: 0,
        created_secs: options.now_secs,
        data_epochs: epochs(Namespace::Data),
        secrets_epochs: epochs(Namespace::Secrets),
        chunk_sizes: options.chunk_sizes,
    })
}

fn seal_config(config: &Config, keys: &KeySet) -> Result<Vec<u8>, Error> {
    let mut object = config.encode_with_macs(&keys::config_macs(keys, config)?);
    hash::push_checksum(&mut object);
    Ok(object)
}

fn new_slots(
    repository: RepositoryId,
    options: &InitOptions,
    keys: &KeySet,
    secrets: &InitSecrets,
    writer_key: &WriterKey,
    entropy: &dyn Entropy,
) -> Result<Vec<(SlotId, Capability, Vec<u8>)>, Error> {
    let wanted = [
        (Capability::Writer, Unlock::RawKey, writer_key.opener()),
        (Capability::DataReader, Unlock::Passphrase(options.data_kdf), Opener::Passphrase(&secrets.data)),
        (Capability::SecretsReader, Unlock::Passphrase(options.secrets_kdf), Opener::Passphrase(&secrets.secrets)),
    ];
    let mut slots = Vec::new();
    for (capability, unlock, opener) in wanted {
        let new = NewSlot { capability, unlock, repository, created_secs: options.now_secs, label: "init" };
        let object = slot::make(&new, keys, &opener, entropy)?;
        slots.push((SlotId::from_bytes(random_32(entropy)?), capability, object));
    }
    Ok(slots)
}
