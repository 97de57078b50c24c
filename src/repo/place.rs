//! Where the two namespaces lie: in one store, or the secrets in one of their own.
//!
//! Both stores have a config of the same repository, each saying which part it holds; that of the secrets has their
//! reader's slot, too, so that it alone gives them back. Nothing is read from or written to a store of secrets whose
//! config is not the one that belongs to that of the data.

use std::sync::Arc;

use super::Error;
use super::closed::read_config;
use super::open::Repository;
use crate::backend::{self, Backend};
use crate::crypto::keys::KeySet;
use crate::format::config::{Config, ConfigMacs, Part};
use crate::format::object::{Namespace, ObjectKey, ObjectPrefix};

/// Where the secrets are, as far as whoever opens a repository knows.
#[derive(Debug, Default)]
pub enum SecretsStore {
    /// Nothing was said: right where they are with the data, or where no secrets are needed.
    #[default]
    Unnamed,
    /// In this store.
    At(Arc<dyn Backend>),
    /// In a store that cannot be reached.
    Unreachable(backend::Error),
}

impl SecretsStore {
    /// Reads the config of the store that was named, `None` where none can be asked.
    pub(super) async fn read(&self) -> Option<Result<SecretsConfig, Error>> {
        match self {
            Self::At(backend) => Some(read_config(backend.as_ref()).await),
            Self::Unnamed | Self::Unreachable(_) => None,
        }
    }
}

/// Where the secrets are, as far as it was proven.
#[derive(Debug, Clone)]
pub(super) enum SecretsPlace {
    /// With everything else; or this is their own store.
    Here,
    /// In this store.
    There(Arc<dyn Backend>),
    /// Somewhere else.
    Unnamed,
    /// In a store that was named and cannot be used.
    Unusable(Arc<Error>),
}

/// The config that the secrets' own store should have, as it was read.
pub(super) type SecretsConfig = (Config, ConfigMacs);

impl SecretsPlace {
    /// Finds out where the secrets are. Fails where what was named cannot be meant; a store of secrets that cannot be
    /// used is remembered as such: the data is not to suffer from it.
    /// `found` is what [`SecretsStore::read`] gave.
    pub(super) fn find(
        config: &Config,
        location: &str,
        store: SecretsStore,
        found: Option<Result<SecretsConfig, Error>>,
    ) -> Result<(Self, Option<SecretsConfig>), Error> {
        match (config.part(), store) {
            (Part::Whole | Part::Secrets, SecretsStore::Unnamed) => Ok((Self::Here, None)),
            (Part::Whole, _) => Err(Error::SecretsNotApart { location: location.to_owned() }),
            (Part::Secrets, _) => Err(Error::OnlySecrets { location: location.to_owned() }),
            (Part::Data, SecretsStore::Unnamed) => Ok((Self::Unnamed, None)),
            (Part::Data, SecretsStore::Unreachable(error)) => Ok((Self::Unusable(Arc::new(error.into())), None)),
            (Part::Data, SecretsStore::At(backend)) => {
                match found.unwrap_or(Err(Error::Stopped)).and_then(|found| own(config, backend.as_ref(), found)) {
                    Ok(found) => Ok((Self::There(backend), Some(found))),
                    Err(error) => Ok((Self::Unusable(Arc::new(error)), None)),
                }
            }
        }
    }

    /// Checks the codes of the config of the secrets' own store with every key that there is.
    pub(super) fn check(self, found: Option<&SecretsConfig>, sets: &[KeySet]) -> Self {
        let Some((config, macs)) = found else { return self };
        match sets.iter().try_for_each(|set| set.check_config(config, macs)) {
            Ok(()) => self,
            Err(source) => Self::Unusable(Arc::new(Error::Object { object: ObjectKey::Config.to_string(), source })),
        }
    }

    /// Returns their store where it is another one than that of the data.
    pub(super) fn apart(&self) -> Option<&Arc<dyn Backend>> {
        if let Self::There(backend) = self { Some(backend) } else { None }
    }

    /// Returns why there are no secrets, where that is so.
    pub(super) fn reason(&self, location: &str) -> Option<Error> {
        match self {
            Self::Here | Self::There(_) => None,
            Self::Unnamed => Some(Error::SecretsApart { location: location.to_owned() }),
            Self::Unusable(source) => Some(Error::SecretsStore { source: Arc::clone(source) }),
        }
    }
}

/// Compares the config of the secrets' own store with what belongs to the data's.
fn own(config: &Config, backend: &dyn Backend, (found, macs): SecretsConfig) -> Result<SecretsConfig, Error> {
    let expected = config.of_part(Part::Secrets);
    if found == expected {
        return Ok((found, macs));
    }
    let found = match found.part() {
        Part::Whole => "a whole repository",
        Part::Data => "the data of a repository",
        Part::Secrets if found.repository == expected.repository => "a config that does not fit the one of the data",
        Part::Secrets => "those of another repository",
    };
    Err(Error::NotItsSecrets { location: backend.location(), found })
}

impl Repository {
    /// Returns which part of the repository [`Repository::backend`] holds.
    #[must_use]
    pub fn part(&self) -> Part {
        self.config().part()
    }

    /// Returns the store of the secrets namespace.
    pub fn secrets_backend(&self) -> Result<Arc<dyn Backend>, Error> {
        match self.secrets.reason(&self.backend().location()) {
            Some(error) => Err(error),
            None => Ok(self.secrets.apart().map_or_else(|| self.backend(), Arc::clone)),
        }
    }

    /// Returns the store of the secrets where it is one of its own and at hand.
    pub(super) fn secrets_apart(&self) -> Option<&Arc<dyn Backend>> {
        self.secrets.apart()
    }

    /// Returns where the secrets are, for people, where they have a store of their own that is at hand.
    #[must_use]
    pub fn secrets_location(&self) -> Option<String> {
        self.secrets_apart().map(|backend| backend.location())
    }

    /// Returns the store that an object belongs into. Config and slots: that of the data.
    pub(super) fn backend_of(&self, key: ObjectKey) -> Result<Arc<dyn Backend>, Error> {
        self.backend_in(key.namespace())
    }

    /// Returns the store that is listed for a prefix.
    pub(super) fn backend_below(&self, prefix: ObjectPrefix) -> Result<Arc<dyn Backend>, Error> {
        self.backend_in(prefix.namespace())
    }

    fn backend_in(&self, namespace: Option<Namespace>) -> Result<Arc<dyn Backend>, Error> {
        if namespace == Some(Namespace::Secrets) { self.secrets_backend() } else { Ok(self.backend()) }
    }
}
