//! How a store is reached: `repository = "..."` or `[repository]`, the environment, credentials.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::bounds;
use super::config::AddressingConfig;
use super::error::Error;
use super::keys;
use super::location::Location;
use super::resolve::Settings;
use crate::backend::s3::{
    Addressing, Conditions, ContainerToken, LockMode, NewLock, S3Backend, S3Credentials, S3Options, S3Patience,
};
use crate::backend::{Bandwidth, Lines, Lock};
use crate::component::secret::Secret;

/// Where servers do not care about the region, any will do.
const REGION: &str = "us-east-1";
/// Of a lock.
const DAY_SECS: u64 = 24 * 3600;
/// Where ECS has its service.
const CONTAINER_SERVICE: &str = "http://169.254.170.2";
/// The profile that is meant where none is named.
const PROFILE: &str = "default";

/// Who may take locks away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LockModeConfig {
    /// Nobody.
    #[default]
    Compliance,
    /// Who has a special permission.
    Governance,
}

/// A store: a location alone, or a table with all that it may need to be told. Holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields, default)]
pub(crate) struct StoreConfig {
    /// A directory, or `s3://bucket/prefix`.
    pub(crate) location: Option<PathBuf>,
    /// The server's URL; AWS where there is none.
    pub(crate) endpoint: Option<String>,
    /// The region to sign for.
    pub(crate) region: Option<String>,
    /// How the bucket is addressed.
    pub(crate) addressing: Option<AddressingConfig>,
    /// A file that holds the access key.
    pub(crate) access_key_file: Option<PathBuf>,
    /// A file that holds the secret key.
    pub(crate) secret_key_file: Option<PathBuf>,
    /// A file that holds the token of temporary keys.
    pub(crate) session_token_file: Option<PathBuf>,
    /// A profile of the credentials file.
    pub(crate) profile: Option<String>,
    /// The credentials file.
    pub(crate) credentials_file: Option<PathBuf>,
    /// Whether the service that runs this container is asked for keys.
    pub(crate) container_credentials: bool,
    /// Whether puts may be conditional.
    pub(crate) conditional_put: Option<bool>,
    /// How long what a snapshot needs is locked. Days.
    #[serde(deserialize_with = "bounds::lock_days")]
    pub(crate) lock_days: Option<u32>,
    /// Who may take locks away.
    pub(crate) lock_mode: LockModeConfig,
    /// What may go out. MiB a second.
    #[serde(deserialize_with = "bounds::rate")]
    pub(crate) limit_upload: Option<f64>,
    /// What may come in. MiB a second.
    #[serde(deserialize_with = "bounds::rate")]
    pub(crate) limit_download: Option<f64>,
}

impl<'de> Deserialize<'de> for StoreConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StoreVisitor)
    }
}

/// Takes a location alone, or a table. By hand, because an untagged enum forgets what was wrong, and where.
struct StoreVisitor;

impl<'de> Visitor<'de> for StoreVisitor {
    type Value = StoreConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a location or a table")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StoreConfig, E> {
        Ok(StoreConfig { location: Some(PathBuf::from(text)), ..StoreConfig::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StoreConfig, A::Error> {
        // The derived function for tables, not this trait's.
        StoreConfig::deserialize(MapAccessDeserializer::new(map))
    }
}

impl StoreConfig {
    /// Returns the place.
    pub(crate) fn location(&self) -> Result<Location, Error> {
        Location::parse(self.location.as_deref().ok_or(Error::NotGiven {
            what: "a repository",
            ways: "give it with -r, ORKVAULT_REPOSITORY or repository in orkvault.toml",
        })?)
    }

    /// Makes paths relative to the directory of the file that they are in.
    pub(crate) fn anchor(&mut self, dir: &Path) {
        if let Some(location) = &mut self.location
            && matches!(Location::parse(location), Ok(Location::Directory(_)))
        {
            *location = dir.join(&*location);
        }
        let files = [
            &mut self.access_key_file,
            &mut self.secret_key_file,
            &mut self.session_token_file,
            &mut self.credentials_file,
        ];
        for path in files.into_iter().flatten() {
            *path = dir.join(&*path);
        }
    }
}

/// Returns how long objects of a store are locked: the option, else what its table says.
pub(crate) fn lock(settings: &Settings, store: &StoreConfig) -> Option<Lock> {
    let days = u64::from(settings.global.lock_days.or(store.lock_days)?);
    // A quarter more, so that a night need not make every lock longer by a day.
    let (least, until) = (days * DAY_SECS, (days + (days / 4).max(1)) * DAY_SECS);
    let now = SystemTime::now();
    Some(Lock { least: now + Duration::from_secs(least), until: now + Duration::from_secs(until) })
}

/// Returns the backend of a bucket. Nothing is sent.
pub(crate) fn bucket(
    settings: &Settings,
    store: &StoreConfig,
    bucket: String,
    prefix: String,
) -> Result<S3Backend, Error> {
    Ok(S3Backend::new(options(settings, store, bucket, prefix)?)?)
}

/// Returns how a bucket is reached.
pub(crate) fn options(
    settings: &Settings,
    store: &StoreConfig,
    bucket: String,
    prefix: String,
) -> Result<S3Options, Error> {
    let variable = |names: &[&str]| names.iter().find_map(|name| settings.variable(name)).map(str::to_owned);
    let endpoint = store.endpoint.clone().or_else(|| variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]));
    let region = store.region.clone().or_else(|| variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]));
    let addressing = match store.addressing {
        Some(AddressingConfig::Path) => Addressing::Path,
        Some(AddressingConfig::VirtualHost) => Addressing::VirtualHost,
        // AWS alone has a name for every bucket, and no certificate for names with dots.
        None if endpoint.is_none() && !bucket.contains('.') => Addressing::VirtualHost,
        None => Addressing::Path,
    };
    Ok(S3Options {
        endpoint,
        region: region.unwrap_or_else(|| REGION.to_owned()),
        bucket,
        prefix,
        addressing,
        credentials: credentials(settings, store)?,
        patience: S3Patience::default(),
        conditions: if store.conditional_put == Some(false) { Conditions::Absent } else { Conditions::Asked },
        lock: lock(settings, store).map(|lock| NewLock {
            mode: match store.lock_mode {
                LockModeConfig::Compliance => LockMode::Compliance,
                LockModeConfig::Governance => LockMode::Governance,
            },
            until: lock.until,
        }),
        traffic: Arc::clone(&settings.traffic),
        lines: lines(settings, store),
    })
}

/// Returns the lines that a store is reached over: those of the options, which all stores of a run share, else what its
/// table says.
fn lines(settings: &Settings, store: &StoreConfig) -> Lines {
    settings.lines.or(&Lines::new(bandwidth(store.limit_upload, store.limit_download), &settings.pace))
}

/// Returns limits that are given in MiB a second.
pub(crate) fn bandwidth(upload: Option<f64>, download: Option<f64>) -> Bandwidth {
    Bandwidth { upload: upload.map(bytes_per_sec), download: download.map(bytes_per_sec) }
}

/// Returns bytes a second. Less than one, or no number at all, is one.
fn bytes_per_sec(mib_per_sec: f64) -> u64 {
    // In KiB, which is what half a MiB needs, through a duration: its conversion checks the range.
    let kib = Duration::try_from_secs_f64(mib_per_sec * 1024.0).map_or(1, |kib| kib.as_secs());
    kib.saturating_mul(1024).max(1024)
}

/// What the table says first: key files, the container's service, a profile or a credentials file. Then variables, then the
/// profile and the file that variables name, or the default ones.
fn credentials(settings: &Settings, store: &StoreConfig) -> Result<S3Credentials, Error> {
    if store.access_key_file.is_some() || store.secret_key_file.is_some() {
        let missing = |what| Error::NotGiven { what, ways: "access_key_file and secret_key_file belong together" };
        let access = store.access_key_file.as_deref().ok_or_else(|| missing("the access key of the store"))?;
        let secret = store.secret_key_file.as_deref().ok_or_else(|| missing("the secret key of the store"))?;
        let token = store.session_token_file.as_deref().map(keys::secret).transpose()?;
        let (access, secret) = (keys::secret(access)?, keys::secret(secret)?);
        return Ok(S3Credentials::fixed(access.expose(), secret.expose(), token.as_ref().map(Secret::expose)));
    }
    if store.container_credentials {
        return of_container(settings);
    }
    if store.profile.is_none()
        && store.credentials_file.is_none()
        && let Some(access) = settings.variable("AWS_ACCESS_KEY_ID")
        && let Some(secret) = settings.variable("AWS_SECRET_ACCESS_KEY")
    {
        return Ok(S3Credentials::fixed(access, secret, settings.variable("AWS_SESSION_TOKEN")));
    }
    of_profile(settings, store)
}

/// Where the service is, and what shows it who asks, stands in variables that it sets itself.
fn of_container(settings: &Settings) -> Result<S3Credentials, Error> {
    let relative = settings.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let uri = relative.map(|path| format!("{CONTAINER_SERVICE}{path}"));
    let uri = uri.or_else(|| settings.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned));
    let uri = uri.ok_or(Error::NotGiven {
        what: "the address of container credentials",
        ways: "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or AWS_CONTAINER_CREDENTIALS_FULL_URI, which the service sets",
    })?;
    let token = match settings.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(file) => ContainerToken::File(PathBuf::from(file)),
        None => match settings.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
            Some(token) => ContainerToken::Fixed(token.to_owned().into()),
            None => ContainerToken::None,
        },
    };
    S3Credentials::of_container(&uri, token).map_err(|error| Error::BadValue {
        option: "the address of container credentials".to_owned(),
        // It may hold a key.
        value: "...".to_owned(),
        reason: error.to_string(),
    })
}

fn of_profile(settings: &Settings, store: &StoreConfig) -> Result<S3Credentials, Error> {
    let named = store.profile.as_deref().or_else(|| settings.variable("AWS_PROFILE"));
    let file = store.credentials_file.clone();
    let file = file.or_else(|| settings.variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from));
    let file = file.or_else(|| settings.variable("HOME").map(|home| Path::new(home).join(".aws/credentials")));
    let not_given = Error::NotGiven {
        what: "the credentials of the store",
        ways: "access_key_file and secret_key_file or profile in [repository], or AWS_ACCESS_KEY_ID and \
               AWS_SECRET_ACCESS_KEY in the environment, see docs/CONFIGURATION.md",
    };
    let is_named = named.is_some() || store.credentials_file.is_some();
    let Some(file) = file.filter(|file| is_named || file.exists()) else { return Err(not_given) };
    let text = keys::secret(&file)?;
    let profile = named.unwrap_or(PROFILE);
    let value = |name| profile_value(text.expose(), profile, name);
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(access), Some(secret)) => Ok(S3Credentials::fixed(access, secret, value("aws_session_token"))),
        _ => Err(Error::BadValue {
            option: "the profile of the store".to_owned(),
            value: profile.to_owned(),
            reason: format!("{} has no keys for it", file.display()),
        }),
    }
}

/// Returns a value of a profile in a credentials file: sections in brackets, one `name = value` a line.
fn profile_value<'a>(text: &'a str, profile: &str, name: &str) -> Option<&'a str> {
    let mut is_inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_inside = section.trim() == profile;
        } else if is_inside
            && let Some((key, value)) = line.split_once('=')
            && key.trim().eq_ignore_ascii_case(name)
        {
            return Some(value.trim()).filter(|value| !value.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_its_own_keys_and_no_others() {
        let text = "# aws_access_key_id = no\n[default]\naws_access_key_id = a\n\n[ offsite ]\n\
            aws_secret_access_key=s/1+2=\n  AWS_ACCESS_KEY_ID = b  \n[empty]\naws_access_key_id =\n";
        for (profile, name, value) in [
            ("default", "aws_access_key_id", Some("a")),
            ("default", "aws_secret_access_key", None),
            ("offsite", "aws_access_key_id", Some("b")),
            ("offsite", "aws_secret_access_key", Some("s/1+2=")),
            ("offsite", "aws_session_token", None),
            ("empty", "aws_access_key_id", None),
            ("other", "aws_access_key_id", None),
        ] {
            assert_eq!(profile_value(text, profile, name), value, "{profile} {name}");
        }
    }

    #[test]
    fn a_limit_is_a_number_of_mib_a_second() {
        for (mib, bytes) in
            [(1.0, 1 << 20), (0.5, 512 << 10), (2.25, 2304 << 10), (0.0, 1024), (-3.0, 1024), (f64::NAN, 1024)]
        {
            assert_eq!(bytes_per_sec(mib), bytes, "{mib}");
        }
    }

    #[test]
    fn a_store_is_a_location_or_a_table_and_wrong_keys_are_named() {
        #[derive(Deserialize)]
        struct File {
            repository: StoreConfig,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.repository);
        let alone = read("repository = \"vault\"").unwrap();
        assert_eq!(alone.location.as_deref(), Some(Path::new("vault")));
        let mut table = read("[repository]\nlocation = \"s3://b/p\"\naccess_key_file = \"id\"\n").unwrap();
        table.anchor(Path::new("/etc/x"));
        assert_eq!(table.location().unwrap().to_string(), "s3://b/p");
        assert_eq!(table.access_key_file.as_deref(), Some(Path::new("/etc/x/id")));
        let error = read("[repository]\nlocation = \"x\"\nsecret_key = \"canary\"\n").unwrap_err();
        assert!(error.message().contains("secret_key"), "{error}");
    }
}
