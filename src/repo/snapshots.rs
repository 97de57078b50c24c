//! Snapshots: the commit point, and reading them back.

use bytes::Bytes;

use super::Error;
use super::init::put_new;
use super::object::{self, ObjectBytes};
use super::open::Repository;
use crate::crypto::hash;
use crate::crypto::pack::{open_bundle, seal_bundle};
use crate::crypto::random::random_32;
use crate::crypto::seal::Binding;
use crate::crypto::secret::SecretBytes;
use crate::format::bundle::{self, SecretFile};
use crate::format::envelope::SealedKind;
use crate::format::id::{BundleId, ContentHash, SnapshotId, WriterId};
use crate::format::limits;
use crate::format::manifest::{self, Manifest, SecretsManifest};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};

/// A snapshot of the data namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// BLAKE3 of its stored bytes: what the writer's next snapshot names.
    pub hash: ContentHash,
    /// What it says.
    pub manifest: Manifest,
}

/// A snapshot of the secrets namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretsSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// What it says.
    pub manifest: SecretsManifest,
}

fn object_of(namespace: Namespace, id: &SnapshotId) -> ObjectBytes {
    ObjectBytes { kind: SealedKind::Snapshot, namespace, id: *id.as_bytes() }
}

impl Repository {
    /// Returns the writer that the repository was opened as.
    pub fn writer_id(&self) -> Result<WriterId, Error> {
        let writer = self.keyring().sets().iter().find_map(|set| set.writer);
        writer.ok_or_else(|| Error::NoSlot { capability: "writer", location: self.backend().location() })
    }

    /// Draws the id of a new snapshot.
    pub fn new_snapshot_id(&self) -> Result<SnapshotId, Error> {
        Ok(SnapshotId::from_bytes(random_32(self.keyring().entropy.as_ref())?))
    }

    /// Puts a data snapshot. Everything that it refers to is durable and listed: [`super::Writer::finish`]
    /// has returned. When this returns the snapshot exists; before, it does not.
    pub async fn commit(&self, id: SnapshotId, manifest: &Manifest) -> Result<ContentHash, Error> {
        let body = manifest::encode(manifest);
        // What could not be read back must not be written.
        limits::check("manifest", body.len() as u64, limits::MANIFEST_BYTES_MAX)?;
        let stored = object::seal(&self.keyring(), object_of(Namespace::Data, &id), &body)?;
        let hash = hash::content_hash(&stored);
        put_new(self.backend().as_ref(), ObjectKey::Snapshot(Namespace::Data, id), stored).await?;
        Ok(hash)
    }

    /// Returns whether a snapshot of the data namespace is there now.
    pub async fn has_snapshot(&self, id: SnapshotId) -> Result<bool, Error> {
        Ok(self.backend().stat(ObjectKey::Snapshot(Namespace::Data, id)).await?.is_some())
    }

    /// Returns the ids of the snapshots of a namespace, in no order.
    pub async fn snapshot_ids(&self, namespace: Namespace) -> Result<Vec<SnapshotId>, Error> {
        let objects = self.list(ObjectPrefix::Snapshots(namespace)).await?;
        Ok(objects
            .into_iter()
            .filter_map(|(key, _)| if let ObjectKey::Snapshot(_, id) = key { Some(id) } else { None })
            .collect())
    }

    async fn read_snapshot(&self, namespace: Namespace, id: SnapshotId) -> Result<(ContentHash, Vec<u8>), Error> {
        let key = ObjectKey::Snapshot(namespace, id);
        let stored = self.backend_of(key)?.get(key, SealedKind::Snapshot.bytes_max()).await?;
        let body = object::open(&self.keyring(), object_of(namespace, &id), key, &stored)?;
        Ok((hash::content_hash(&stored), body))
    }

    /// Reads a data snapshot.
    pub async fn load_snapshot(&self, id: SnapshotId) -> Result<LoadedSnapshot, Error> {
        let (hash, body) = self.read_snapshot(Namespace::Data, id).await?;
        let object = || ObjectKey::Snapshot(Namespace::Data, id).to_string();
        let manifest = Manifest::decode(&body).map_err(|source| Error::Damaged { object: object(), source })?;
        Ok(LoadedSnapshot { id, hash, manifest })
    }

    /// Reads a secrets snapshot. Needs keys of the secrets namespace, not its reader.
    pub async fn load_secrets_snapshot(&self, id: SnapshotId) -> Result<SecretsSnapshot, Error> {
        let (_, body) = self.read_snapshot(Namespace::Secrets, id).await?;
        let object = || ObjectKey::Snapshot(Namespace::Secrets, id).to_string();
        let manifest = SecretsManifest::decode(&body).map_err(|source| Error::Damaged { object: object(), source })?;
        Ok(SecretsSnapshot { id, manifest })
    }

    /// Seals secret files into a bundle bound to a secrets snapshot and puts it.
    pub async fn put_bundle(&self, snapshot: SnapshotId, files: &[SecretFile]) -> Result<BundleId, Error> {
        let mut encoded = Vec::with_capacity(bundle::encoded_len_most(files));
        bundle::encode(files, &mut encoded);
        let encoded = SecretBytes::new(encoded);
        limits::check("secrets bundle", encoded.expose().len() as u64, limits::BUNDLE_BYTES_MAX)?;
        limits::check("files of a secrets bundle", files.len() as u64, limits::BUNDLE_FILES_MAX)?;
        // In one allocation: a growing vector would leave copies behind.
        let mut plain = Vec::with_capacity(bundle::padded_len(encoded.expose().len()));
        bundle::pad(encoded.expose(), &mut plain);
        let plain = SecretBytes::new(plain);
        let keyring = self.keyring();
        let backend = self.secrets_backend()?;
        let binding = Binding { repository: keyring.repository, object: *snapshot.as_bytes() };
        let keys = keyring.namespace(Namespace::Secrets)?;
        let stored = seal_bundle(keys, &binding, &plain, keyring.entropy.as_ref())?;
        let id = BundleId::from_bytes(*hash::content_hash(&stored).as_bytes());
        let _ = backend.put(ObjectKey::Bundle(id), vec![Bytes::from(stored)]).await?;
        Ok(id)
    }

    /// Puts a secrets snapshot whose bundle is durable.
    pub async fn commit_secrets(&self, id: SnapshotId, manifest: &SecretsManifest) -> Result<(), Error> {
        let stored = object::seal(&self.keyring(), object_of(Namespace::Secrets, &id), &manifest::encode(manifest))?;
        put_new(self.secrets_backend()?.as_ref(), ObjectKey::Snapshot(Namespace::Secrets, id), stored).await
    }

    /// Opens the bundle of a secrets snapshot. Needs the secrets reader.
    pub async fn open_secrets(&self, snapshot: &SecretsSnapshot) -> Result<Vec<SecretFile>, Error> {
        let key = ObjectKey::Bundle(snapshot.manifest.bundle);
        let object = || key.to_string();
        let stored = self.secrets_backend()?.get(key, SealedKind::Bundle.bytes_max()).await?;
        if hash::content_hash(&stored).as_bytes() != snapshot.manifest.bundle.as_bytes() {
            return Err(Error::WrongContent { object: object() });
        }
        let keyring = self.keyring();
        let binding = Binding { repository: keyring.repository, object: *snapshot.id.as_bytes() };
        let plain = open_bundle(keyring.namespace(Namespace::Secrets)?, &binding, &stored)
            .map_err(|source| Error::Object { object: object(), source })?;
        let damaged = |source| Error::Damaged { object: object(), source };
        bundle::unpad(plain.expose()).and_then(bundle::decode).map_err(damaged)
    }
}
