//! The keys that a repository was opened with, and where random bytes come from.

use std::sync::Arc;

use crate::crypto::keys::{KeySet, NamespaceKeys};
use crate::crypto::{self, Entropy};
use crate::format::id::RepositoryId;
use crate::format::object::Namespace;

/// What every part of this room needs to seal and open.
pub struct Keyring {
    /// The repository.
    pub repository: RepositoryId,
    /// One set per slot that was opened.
    sets: Vec<KeySet>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl Keyring {
    /// Puts the sets together.
    #[must_use]
    pub fn new(repository: RepositoryId, sets: Vec<KeySet>, entropy: Arc<dyn Entropy>) -> Self {
        Self { repository, sets, entropy }
    }

    /// Returns the sets.
    #[must_use]
    pub fn sets(&self) -> &[KeySet] {
        &self.sets
    }

    /// Returns the most capable keys of a namespace: those that read content, where there are any.
    pub fn namespace(&self, namespace: Namespace) -> Result<&NamespaceKeys, crypto::Error> {
        let keys = || self.sets.iter().filter_map(|set| set.namespace(namespace));
        keys().find(|keys| keys.can_read()).or_else(|| keys().next()).ok_or(crypto::Error::NotCapable {
            what: match namespace {
                Namespace::Data => "reach the data namespace",
                Namespace::Secrets => "reach the secrets namespace",
            },
        })
    }

    /// Returns the keys of the data namespace.
    pub fn data(&self) -> Result<&NamespaceKeys, crypto::Error> {
        self.namespace(Namespace::Data)
    }

    /// Returns whether the content of a namespace can be read.
    #[must_use]
    pub fn can_read(&self, namespace: Namespace) -> bool {
        self.namespace(namespace).is_ok_and(NamespaceKeys::can_read)
    }
}
