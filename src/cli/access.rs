//! Opens the repository with the keys that a command needs, and no others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::CopyArgs;
use super::error::Error;
use super::keys::{self, Input};
use super::location::{self, Want};
use super::output::error_line;
use super::resolve::Settings;
use super::store::StoreConfig;
use crate::crypto::{Passphrase, SystemEntropy};
use crate::format::config::Part;
use crate::repo::{self, Access, Ahead, Closed, OpenOptions, Repository, SecretsStore};

/// What a command does with the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Writes: the writer key and nothing else. What it is sure to ask first is asked before the key.
    Write(Ahead),
    /// Lists: the writer key, else the data passphrase.
    List,
    /// Reads content of these namespaces.
    Read {
        /// The data namespace.
        data: bool,
        /// The secrets namespace, and a snapshot's manifest, which is in the other one.
        secrets: bool,
    },
    /// Checks structure: as `List`, and the index is not taken from the cache.
    CheckStructure,
    /// Checks content: with every key that was given.
    CheckContent,
}

/// An open repository.
pub(crate) struct Opened {
    /// The repository.
    pub(crate) repository: Repository,
    /// How long deriving keys from passphrases took, where any was.
    pub(crate) key_derivation: Option<Duration>,
}

impl Opened {
    /// Returns the seconds of key derivation, for `--json`.
    #[must_use]
    pub(crate) fn key_derivation_secs(&self) -> Option<f64> {
        self.key_derivation.map(|time| time.as_secs_f64())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // At the end, because a cache may fail whenever it is used.
        if let Some(error) = self.repository.index().cache_error() {
            error_line(&format!("warning: {error}: a temporary index was made instead, which takes longer"));
        }
    }
}

/// Opens the repository.
pub(crate) async fn open(settings: &Settings, need: Need) -> Result<Opened, Error> {
    let store = settings.repository();
    let want = if matches!(need, Need::Write(_)) { Want::Writable } else { Want::Existing };
    let is_check = matches!(need, Need::CheckStructure | Need::CheckContent);
    // An index of another time would be of no use tomorrow.
    let is_past = want == Want::Existing && settings.global.as_of.is_some();
    let cache = if is_check || is_past { None } else { settings.cache_dir() };
    let backend = location::keep_copies(&store, location::backend(settings, &store, want).await?, cache.as_deref());
    let apart = settings.secrets_repository();
    // Named as both it is still only one: a host's configuration names the store of the secrets.
    let (apart, same) = match apart {
        Some(apart) if apart.location == store.location => (None, Some(apart)),
        apart => (apart, None),
    };
    let secrets = secrets_store(settings, apart, want).await?;
    let ahead = if let Need::Write(ahead) = need { ahead } else { Ahead::Nothing };
    // Before keys: a missing repository is told before a passphrase is asked for.
    let mut closed = Closed::look(backend, secrets, ahead).await?;
    // The store of the secrets alone opens with their passphrase alone.
    let is_alone = want != Want::Writable && closed.part() == Part::Secrets;
    if same.is_some() && !is_alone {
        closed = closed.with_secrets(secrets_store(settings, same, want).await?).await?;
    }
    let access = if is_alone { vec![secrets_alone(settings)?] } else { access(settings, need)? };
    let derives = access.iter().any(|access| !matches!(access, Access::Writer(_)));
    let started = Instant::now();
    let repository = closed.open(access, OpenOptions { cache, entropy: Arc::new(SystemEntropy) }).await?;
    Ok(Opened { repository, key_derivation: derives.then(|| started.elapsed()) })
}

/// Opens the repository that `copy` copies from, for reading everything that is copied.
pub(crate) async fn open_source(settings: &Settings, args: &CopyArgs) -> Result<Opened, Error> {
    let (store, secrets) = settings.copied_from(args);
    if store.location.is_none() {
        let ways = "give it with --from or from_repository in orkvault.toml";
        return Err(Error::NotGiven { what: "a repository to copy from", ways });
    }
    let file = |given: &Option<PathBuf>, variable| {
        given.clone().or_else(|| settings.variable(variable).map(PathBuf::from)).map(Input::new)
    };
    let data = file(&args.from_passphrase_file, "ORKVAULT_FROM_PASSPHRASE_FILE");
    let of_secrets = file(&args.from_secrets_passphrase_file, "ORKVAULT_FROM_SECRETS_PASSPHRASE_FILE");
    let inputs = [&data, &of_secrets];
    if inputs.iter().all(|input| **input == Some(Input::Stdin)) {
        let (first, second) = ("the source's data passphrase", "the source's secrets passphrase");
        return Err(Error::StdinTwice { first, second });
    }
    let reads_stdin = inputs.iter().any(|input| **input == Some(Input::Stdin));
    settings.stdin_once(reads_stdin.then_some("a passphrase of the source"))?;
    let backend = location::backend(settings, &store, Want::Existing).await?;
    let secrets = secrets_store(settings, secrets, Want::Existing).await?;
    let closed = Closed::look(backend, secrets, Ahead::Nothing).await?;
    let passphrase = |input: Option<Input>, what, ways| match input {
        Some(input) => keys::passphrase(&input),
        None => ask(what, ways),
    };
    let mut access = vec![Access::Data(passphrase(data, "the source's data passphrase", SOURCE_WAYS)?)];
    if !args.no_secrets {
        let given = passphrase(of_secrets, "the source's secrets passphrase", SOURCE_SECRETS_WAYS)?;
        access.push(Access::Secrets(given));
    }
    let cache = if settings.global.as_of.is_some() { None } else { settings.cache_dir() };
    let options = OpenOptions { cache, entropy: Arc::new(SystemEntropy) };
    let started = Instant::now();
    match closed.open(access, options).await {
        Ok(repository) => Ok(Opened { repository, key_derivation: Some(started.elapsed()) }),
        // Of the source: the hint of every other command names the options of the repository itself.
        Err(repo::Error::SecretsApart { .. }) => {
            Err(Error::NotGiven { what: "the store of the source's secrets", ways: SOURCE_SECRETS_STORE_WAYS })
        }
        Err(error) => Err(error.into()),
    }
}

/// Tries whether this key or passphrase opens its slot of the repository.
pub(crate) async fn opens(settings: &Settings, access: Access) -> Result<(), Error> {
    let backend = location::backend(settings, &settings.repository(), Want::Existing).await?;
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    let secrets = secrets_store(settings, settings.secrets_repository(), Want::Existing).await?;
    Repository::open_apart(backend, secrets, vec![access], options).await?;
    Ok(())
}

/// Returns the store that was named for the secrets. One that cannot be reached keeps nobody from the data.
async fn secrets_store(settings: &Settings, store: Option<StoreConfig>, want: Want) -> Result<SecretsStore, Error> {
    let Some(store) = store else { return Ok(SecretsStore::Unnamed) };
    match location::backend(settings, &store, want).await {
        Ok(backend) => Ok(SecretsStore::At(backend)),
        Err(Error::Backend(error)) => Ok(SecretsStore::Unreachable(*error)),
        Err(error) => Err(error),
    }
}

fn access(settings: &Settings, need: Need) -> Result<Vec<Access>, Error> {
    match need {
        Need::Write(_) => Ok(vec![writer(settings.writer_key()?)?]),
        Need::List | Need::CheckStructure => Ok(vec![list(settings)?]),
        Need::Read { data, secrets } => read(settings, data, secrets),
        Need::CheckContent => {
            let mut access = Vec::new();
            if let Some(input) = &settings.writer_key {
                access.push(writer(input)?);
            }
            if let Some(input) = &settings.passphrase {
                access.push(Access::Data(keys::passphrase(input)?));
            }
            if let Some(input) = &settings.secrets_passphrase {
                access.push(Access::Secrets(keys::passphrase(input)?));
            }
            // Secrets alone do not open the index.
            if !access.iter().any(|access| !matches!(access, Access::Secrets(_))) {
                access.push(Access::Data(ask("the data passphrase", NO_KEY_WAYS)?));
            }
            Ok(access)
        }
    }
}

const NO_KEY_WAYS: &str = "give it with --passphrase-file or ORKVAULT_PASSPHRASE_FILE, or the writer key with \
                           --writer-key or ORKVAULT_WRITER_KEY_FILE";
const DATA_WAYS: &str = "give it with --passphrase-file or ORKVAULT_PASSPHRASE_FILE";
const SOURCE_WAYS: &str = "give it with --from-passphrase-file or ORKVAULT_FROM_PASSPHRASE_FILE";
const SOURCE_SECRETS_WAYS: &str = "give it with --from-secrets-passphrase-file or \
                                   ORKVAULT_FROM_SECRETS_PASSPHRASE_FILE, or leave the secrets out with --no-secrets";
const SOURCE_SECRETS_STORE_WAYS: &str = "they are in a store of their own: give it with --from-secrets-repository or \
                                         from_secrets_repository in orkvault.toml, or leave them out with --no-secrets";
const SECRETS_WAYS: &str = "give it with --secrets-passphrase-file or ORKVAULT_SECRETS_PASSPHRASE_FILE";

fn secrets_alone(settings: &Settings) -> Result<Access, Error> {
    Ok(Access::Secrets(match &settings.secrets_passphrase {
        Some(input) => keys::passphrase(input)?,
        None => ask("the secrets passphrase", SECRETS_WAYS)?,
    }))
}

fn writer(input: &Input) -> Result<Access, Error> {
    Ok(Access::Writer(keys::writer_key(input)?))
}

fn ask(what: &'static str, ways: &'static str) -> Result<Passphrase, Error> {
    if keys::can_ask() { keys::ask_passphrase(what) } else { Err(Error::NotGiven { what, ways }) }
}

/// Any key that reads manifests; a passphrase that was given on the command line is meant.
fn list(settings: &Settings) -> Result<Access, Error> {
    let is_meant = settings.global.passphrase_file.is_some() && settings.global.writer_key.is_none();
    match (&settings.writer_key, &settings.passphrase) {
        (Some(input), None) => writer(input),
        (Some(input), Some(_)) if !is_meant => writer(input),
        (_, Some(input)) => Ok(Access::Data(keys::passphrase(input)?)),
        (None, None) => Ok(Access::Data(ask("the data passphrase", NO_KEY_WAYS)?)),
    }
}

fn read(settings: &Settings, data: bool, secrets: bool) -> Result<Vec<Access>, Error> {
    let mut access = Vec::new();
    let given = |input: &Option<Input>, what, ways| match input {
        Some(input) => keys::passphrase(input).map(Some),
        None if keys::can_ask() => ask(what, ways).map(Some),
        None => Ok(None),
    };
    if data {
        match (given(&settings.passphrase, "the data passphrase", DATA_WAYS)?, &settings.writer_key) {
            (Some(passphrase), _) => access.push(Access::Data(passphrase)),
            // It opens no content: the repository says so, and that is the answer.
            (None, Some(input)) => access.push(writer(input)?),
            (None, None) => return Err(Error::NotGiven { what: "the data passphrase", ways: DATA_WAYS }),
        }
    }
    if secrets {
        if access.is_empty() {
            access.push(list(settings)?);
        }
        match given(&settings.secrets_passphrase, "the secrets passphrase", SECRETS_WAYS)? {
            Some(passphrase) => access.push(Access::Secrets(passphrase)),
            None if data => return Err(Error::NotGiven { what: "the secrets passphrase", ways: SECRETS_WAYS }),
            // Whatever was given instead does not open them, which the repository says.
            None => {}
        }
    }
    Ok(access)
}
