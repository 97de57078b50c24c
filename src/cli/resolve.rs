//! From arguments to settings: flag, then environment, then `orkvault.toml`, then what is found.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{CopyArgs, Global};
use super::config::{self, ConfigFile};
use super::error::Error;
use super::keys::Input;
use super::location::Location;
use super::output::{Format, Stdout, error_line};
use super::pace::{HostPace, SaidRetries};
use super::progress::Show;
use super::store::{self, StoreConfig};
use crate::backend::{Lines, Notice, Pace, Traffic};
use crate::component::stack;

/// What a run works with.
pub(crate) struct Settings {
    /// The options of every command.
    pub(crate) global: Global,
    /// The process environment, as far as it is UTF-8.
    pub(crate) env: BTreeMap<String, String>,
    /// `orkvault.toml`, or nothing.
    pub(crate) config: ConfigFile,
    /// Where it was read.
    pub(crate) config_path: Option<PathBuf>,
    /// The working directory.
    pub(crate) working_dir: PathBuf,
    /// The writer key.
    pub(crate) writer_key: Option<Input>,
    /// The data passphrase.
    pub(crate) passphrase: Option<Input>,
    /// The secrets passphrase.
    pub(crate) secrets_passphrase: Option<Input>,
    /// How results are written.
    pub(crate) format: Format,
    /// Who has standard output.
    pub(crate) stdout: Stdout,
    /// How progress is shown.
    pub(crate) show: Show,
    /// What is asked of stores that are not on this host.
    pub(crate) traffic: Arc<Traffic>,
    /// The lines to all of them together, as far as options limit them.
    pub(crate) lines: Lines,
    /// The time in which they are waited for.
    pub(crate) pace: Arc<dyn Pace>,
    /// Who hears that they are asked again.
    pub(crate) notice: Arc<dyn Notice>,
}

/// Looks at environment, configuration and terminal.
pub(crate) fn resolve(global: Global, stdout: &Stdout) -> Result<Settings, Error> {
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let working_dir = std::env::current_dir().map_err(|source| Error::File {
        action: "cannot find",
        path: PathBuf::from("the working directory"),
        source,
    })?;
    let named = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config_path = global.config.clone().or_else(|| named("ORKVAULT_CONFIG"));
    let config_path = config_path.or_else(|| find_config(&global, &env, &working_dir));
    let config = config_path.as_deref().map(config::load).transpose()?.unwrap_or_default();
    let writer_key = global.writer_key.clone().or_else(|| named("ORKVAULT_WRITER_KEY_FILE"));
    let passphrase = global.passphrase_file.clone().or_else(|| named("ORKVAULT_PASSPHRASE_FILE"));
    let secrets = global.secrets_passphrase_file.clone().or_else(|| named("ORKVAULT_SECRETS_PASSPHRASE_FILE"));
    let pace: Arc<dyn Pace> = Arc::new(HostPace::new());
    let lines = Lines::new(store::bandwidth(global.limit_upload, global.limit_download), &pace);
    let settings = Settings {
        format: if global.json { Format::Json } else { Format::Text },
        stdout: stdout.clone(),
        show: match (global.quiet, std::io::IsTerminal::is_terminal(&std::io::stderr())) {
            (true, _) => Show::Warnings,
            (false, true) => Show::Bar,
            (false, false) => Show::Lines,
        },
        writer_key: writer_key.or_else(|| config.writer_key.clone()).map(Input::new),
        passphrase: passphrase.map(Input::new),
        secrets_passphrase: secrets.map(Input::new),
        global,
        env,
        config,
        config_path,
        working_dir,
        traffic: Arc::default(),
        lines,
        pace,
        notice: Arc::new(SaidRetries::default()),
    };
    settings.stdin_once(None)?;
    settings.say_unused_tables();
    Ok(settings)
}

/// Next to the stack that is named, here, next to the stack that is found from here.
fn find_config(global: &Global, env: &BTreeMap<String, String>, working_dir: &Path) -> Option<PathBuf> {
    let named = global.stack.stack_dir.clone().or_else(|| env.get("ORKVAULT_STACK_DIR").map(PathBuf::from));
    let options = stack::StackOptions {
        stack_dir: named.clone().map(|value| stack::Found { value, origin: stack::Origin::Flag("--stack-dir") }),
        working_dir: working_dir.to_owned(),
        ..stack::StackOptions::default()
    };
    let found = stack::locate(&options).ok().and_then(|location| location.root).map(|root| root.value);
    [named, Some(working_dir.to_owned()), found]
        .into_iter()
        .flatten()
        .map(|dir| dir.join("orkvault.toml"))
        .find(|path| path.exists())
}

impl Settings {
    /// Returns a variable that is set and not empty.
    #[must_use]
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Refuses two readers of standard input. `other` is one that only this command has.
    pub(crate) fn stdin_once(&self, other: Option<&'static str>) -> Result<(), Error> {
        let is_stdin = |input: &Option<Input>| input == &Some(Input::Stdin);
        let readers = [
            is_stdin(&self.writer_key).then_some("the writer key"),
            is_stdin(&self.passphrase).then_some("the data passphrase"),
            is_stdin(&self.secrets_passphrase).then_some("the secrets passphrase"),
            other,
        ];
        let mut readers = readers.into_iter().flatten();
        match (readers.next(), readers.next()) {
            (Some(first), Some(second)) => Err(Error::StdinTwice { first, second }),
            _ => Ok(()),
        }
    }

    /// Returns where the repository is, and how its store is reached.
    #[must_use]
    pub(crate) fn repository(&self) -> StoreConfig {
        self.store(&self.config.repository, self.named(&self.global.repository, "ORKVAULT_REPOSITORY"))
    }

    /// Returns where the secrets are, where they have a store of their own and it was named.
    #[must_use]
    pub(crate) fn secrets_repository(&self) -> Option<StoreConfig> {
        let named = self.named(&self.global.secrets_repository, "ORKVAULT_SECRETS_REPOSITORY");
        let store = self.store(&self.config.secrets_repository, named);
        store.location.is_some().then_some(store)
    }

    /// Returns what `copy` copies from, and where the secrets of that are if it was named.
    #[must_use]
    pub(crate) fn copied_from(&self, args: &CopyArgs) -> (StoreConfig, Option<StoreConfig>) {
        let secrets = self.store(&self.config.from_secrets_repository, args.from_secrets_repository.clone());
        let has_secrets = secrets.location.is_some();
        (self.store(&self.config.from_repository, args.from.clone()), has_secrets.then_some(secrets))
    }

    fn named(&self, option: &Option<PathBuf>, variable: &str) -> Option<PathBuf> {
        option.clone().or_else(|| self.variable(variable).map(PathBuf::from))
    }

    /// Returns the store at the location that was named, else that of its table. What a table says holds for the location
    /// that it names: a disk has no lock, another server no use for keys. The store's own table also holds where it names
    /// none; else another one may be about the place, as that of the secrets where they are looked at alone.
    fn store(&self, own: &Option<StoreConfig>, named: Option<PathBuf>) -> StoreConfig {
        let own = own.clone().unwrap_or_default();
        let Some(named) = named else { return own };
        let is_about = |table: &StoreConfig| match &table.location {
            Some(location) => self.is_same_place(location, &named),
            None => false,
        };
        let settings = if own.location.is_none() || is_about(&own) {
            own
        } else {
            let config = &self.config;
            let tables = [
                &config.repository,
                &config.secrets_repository,
                &config.from_repository,
                &config.from_secrets_repository,
            ];
            tables.into_iter().flatten().find(|table| is_about(table)).cloned().unwrap_or_default()
        };
        StoreConfig { location: Some(named), ..settings }
    }

    fn is_same_place(&self, left: &Path, right: &Path) -> bool {
        let place = |location: &Path| match Location::parse(location).ok()? {
            Location::Directory(path) => {
                let path = self.working_dir.join(path);
                Some(Location::Directory(path.canonicalize().unwrap_or(path)))
            }
            bucket @ Location::Bucket { .. } => Some(bucket),
        };
        place(left).is_some_and(|left| Some(left) == place(right))
    }

    /// Says which tables hold for nothing in this run, because their store is not the one that was named.
    fn say_unused_tables(&self) {
        let stores = [
            ("[repository]", &self.config.repository, Some(self.repository())),
            ("[secrets_repository]", &self.config.secrets_repository, self.secrets_repository()),
        ];
        for (name, table, used) in stores {
            let (Some(table), Some(used)) = (table, used) else { continue };
            let settings = |store: &StoreConfig| StoreConfig { location: None, ..store.clone() };
            if settings(table) != settings(&used)
                && let (Ok(own), Ok(named)) = (table.location(), used.location())
            {
                error_line(&format!("warning: {name} of orkvault.toml is about {own}: none of it holds for {named}"));
            }
        }
    }

    /// Returns the writer key's place, for those who cannot do without.
    pub(crate) fn writer_key(&self) -> Result<&Input, Error> {
        self.writer_key.as_ref().ok_or(Error::NotGiven {
            what: "the writer key",
            ways: "give it with --writer-key, ORKVAULT_WRITER_KEY_FILE or writer_key in orkvault.toml",
        })
    }

    /// Returns the directory of the index cache, made where it is missing; `None` where none can be had: the
    /// index is then read anew.
    #[must_use]
    pub(crate) fn cache_dir(&self) -> Option<PathBuf> {
        let named = self.global.cache_dir.clone();
        let named = named.or_else(|| self.variable("ORKVAULT_CACHE_DIR").map(PathBuf::from));
        let named = named.or_else(|| self.config.cache_dir.clone());
        let dir = named.or_else(|| self.own_dir("XDG_CACHE_HOME", ".cache", "/var/cache/orkvault"))?;
        make_private(&dir).ok().map(|()| dir)
    }

    /// Returns the directory in which stopped containers are remembered. Not made here.
    #[must_use]
    pub(crate) fn state_dir(&self) -> PathBuf {
        let named = self.global.state_dir.clone();
        let named = named.or_else(|| self.variable("ORKVAULT_STATE_DIR").map(PathBuf::from));
        let named = named.or_else(|| self.config.state_dir.clone());
        let own = || self.own_dir("XDG_STATE_HOME", ".local/state", "/var/lib/orkvault");
        named.or_else(own).unwrap_or_else(|| PathBuf::from("/var/lib/orkvault"))
    }

    fn own_dir(&self, xdg: &str, in_home: &str, of_root: &str) -> Option<PathBuf> {
        if let Some(dir) = self.variable(xdg).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            return Some(dir.join("orkvault"));
        }
        if rustix::process::geteuid().is_root() {
            return Some(PathBuf::from(of_root));
        }
        self.variable("HOME").map(|home| Path::new(home).join(in_home).join("orkvault"))
    }

    /// Returns this host's name for manifests.
    #[must_use]
    pub(crate) fn host(&self) -> String {
        let named = self.config.host.clone();
        named.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }
}

/// Makes a directory and those above it with mode 0700.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::File {
        action: "cannot make",
        path: dir.to_owned(),
        source,
    })
}
