//! Where a repository lies, or a part of one: the only place where a location becomes a backend.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::resolve::Settings;
use super::store::{self, StoreConfig};
use crate::backend::s3::{S3Backend, S3View};
use crate::backend::{self, Backend, KeepBackend, Lines, LocalBackend, RetryBackend, RetryPolicy};

/// How the location of a bucket begins.
const BUCKET_SCHEME: &str = "s3:";
/// What a bucket is, for messages.
const BUCKET_FORM: &str = "a bucket is s3://BUCKET or s3://BUCKET/PREFIX";

/// A place for objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A local directory.
    Directory(PathBuf),
    /// A bucket, and what the names of all objects in it begin with.
    Bucket {
        /// Its name.
        bucket: String,
        /// Empty, or ending in `/`.
        prefix: String,
    },
}

/// What is to be at a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing yet: a repository is about to be made there.
    New,
    /// A repository. With `--as-of` it is seen as it was.
    Existing,
    /// A repository that is to be added to, as it is now.
    Writable,
}

impl Location {
    /// Reads what an option, a variable or the configuration names: a directory, or `s3://bucket/prefix`. What looks
    /// like another address is refused: a backup in a directory called `https:` is not where it is looked for.
    pub(crate) fn parse(text: &Path) -> Result<Self, Error> {
        let Some(rest) = text.to_str().and_then(|text| text.strip_prefix(BUCKET_SCHEME)) else {
            return match scheme(&text.to_string_lossy()) {
                Some(scheme) => Err(no_location(scheme)),
                None => Ok(Self::Directory(text.to_owned())),
            };
        };
        let bad = |reason: &str| Error::BadValue {
            option: "the repository".to_owned(),
            // Who writes a password into an address must not find it in a log.
            value: if rest.contains('@') { "s3:...".to_owned() } else { text.display().to_string() },
            reason: reason.to_owned(),
        };
        if rest.contains('@') {
            return Err(bad("an address holds no credentials"));
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| bad(BUCKET_FORM))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_letter) {
            return Err(bad("a bucket's name has small letters, digits, dots and dashes"));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_part) {
            return Err(bad("a prefix is made of names with single slashes between them"));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix })
    }
}

/// Returns what stands before the `://` of an address.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic()) && scheme.bytes().all(is_letter);
    is_scheme.then_some(scheme)
}

fn no_location(scheme: &str) -> Error {
    Error::BadValue {
        option: "the repository".to_owned(),
        // What is behind it may hold a password.
        value: format!("{scheme}://..."),
        reason: format!("{BUCKET_FORM}, and all else a directory; one of that name is ./{scheme}://..."),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{}", prefix.trim_end_matches('/')),
        }
    }
}

/// Returns the place that a store's settings name, with everything around it that they ask for.
///
/// The only way from a location to a backend: the repository, and every second store that a command works
/// with. [`Want::New`] makes a directory and fails where there is anything; the others fail where a directory has no
/// repository. Whether a bucket has one shows when it is opened: a look of its own would be a round trip.
pub(crate) async fn backend(settings: &Settings, store: &StoreConfig, want: Want) -> Result<Arc<dyn Backend>, Error> {
    let location = store.location()?;
    if let (Location::Directory(_), Some(moment)) = (&location, settings.global.as_of)
        && want != Want::Writable
    {
        return Err(no_bucket("--as-of", &moment, &location));
    }
    // What is only read, as the source of a copy, need not lock.
    if want != Want::Existing {
        can_lock(settings, store)?;
    }
    match (location, want) {
        (Location::Directory(path), Want::New) => Ok(Arc::new(LocalBackend::create(&path).await?)),
        (Location::Directory(path), Want::Existing | Want::Writable) => Ok(Arc::new(LocalBackend::open(&path).await?)),
        (Location::Bucket { .. }, Want::New) if settings.global.as_of.is_some() => Err(nothing_is_changed(settings)),
        (Location::Bucket { bucket, prefix }, Want::Existing) if settings.global.as_of.is_some() => {
            let moment = settings.global.as_of.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
            let options = store::options(settings, store, bucket, prefix)?;
            let lines = options.lines.clone();
            // The first look at a past state is a list of all states, however long that takes.
            Ok(Arc::new(patient(settings, S3View::new(options, moment)?, lines)))
        }
        (Location::Bucket { bucket, prefix }, want) => {
            let options = store::options(settings, store, bucket, prefix)?;
            let lines = options.lines.clone();
            let bucket = retrying(settings, S3Backend::new(options)?, lines);
            if want == Want::New {
                backend::expect_empty(&bucket).await?;
            }
            Ok(Arc::new(bucket))
        }
    }
}

/// Fails where a store is to lock what is put there, and cannot: a directory has no locks.
pub(crate) fn can_lock(settings: &Settings, store: &StoreConfig) -> Result<(), Error> {
    let Some(days) = settings.global.lock_days.or(store.lock_days) else { return Ok(()) };
    let option = if settings.global.lock_days.is_some() { "--lock-days" } else { "lock_days in orkvault.toml" };
    match store.location()? {
        location @ Location::Directory(_) => Err(no_bucket(option, &days, &location)),
        Location::Bucket { .. } => Ok(()),
    }
}

/// Keeps copies of a bucket's manifests and key slots below the cache directory.
pub(crate) fn keep_copies(
    store: &StoreConfig,
    backend: Arc<dyn Backend>,
    cache_dir: Option<&Path>,
) -> Arc<dyn Backend> {
    match (store.location(), cache_dir) {
        (Ok(Location::Bucket { .. }), Some(cache_dir)) => {
            let mut hasher = DefaultHasher::new();
            (&store.location, &store.endpoint).hash(&mut hasher);
            let dir = cache_dir.join(format!("manifests-{:016x}", hasher.finish()));
            Arc::new(KeepBackend::new(backend, dir))
        }
        _ => backend,
    }
}

fn no_bucket(option: &str, value: &dyn fmt::Display, location: &Location) -> Error {
    let reason = format!("{location} is no bucket");
    Error::BadValue { option: option.to_owned(), value: value.to_string(), reason }
}

/// Returns the error of a command that would change what was.
pub(crate) fn nothing_is_changed(settings: &Settings) -> Error {
    Error::BadValue {
        option: "--as-of".to_owned(),
        value: settings.global.as_of.map(|moment| moment.to_string()).unwrap_or_default(),
        reason: "a store as it was takes nothing new".to_owned(),
    }
}

/// At first a wrong address is more likely than a store that is away for a while.
fn retrying<B: Backend>(settings: &Settings, inner: B, lines: Lines) -> RetryBackend<B> {
    patient(settings, inner, lines).with_first_look(RetryPolicy::FIRST_LOOK)
}

fn patient<B: Backend>(settings: &Settings, inner: B, lines: Lines) -> RetryBackend<B> {
    let (pace, notice) = (Arc::clone(&settings.pace), Arc::clone(&settings.notice));
    let policy = RetryPolicy::default();
    RetryBackend::new(inner, policy, pace, notice, Arc::clone(&settings.traffic)).with_lines(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(bucket: &str, prefix: &str) -> Location {
        Location::Bucket { bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn a_location_is_a_directory_or_a_bucket_with_a_prefix() {
        for (text, location) in [
            ("/srv/vault", Location::Directory(PathBuf::from("/srv/vault"))),
            ("s3", Location::Directory(PathBuf::from("s3"))),
            ("./s3:x", Location::Directory(PathBuf::from("./s3:x"))),
            ("./https://x", Location::Directory(PathBuf::from("./https://x"))),
            ("/mnt/a://b", Location::Directory(PathBuf::from("/mnt/a://b"))),
            ("host:dir", Location::Directory(PathBuf::from("host:dir"))),
            ("s3://vault", bucket("vault", "")),
            ("s3://vault/", bucket("vault", "")),
            ("s3://my.vault-1/host/vm-1/", bucket("my.vault-1", "host/vm-1/")),
        ] {
            assert_eq!(Location::parse(Path::new(text)).unwrap(), location, "{text}");
        }
        assert_eq!(bucket("vault", "host/vm-1/").to_string(), "s3://vault/host/vm-1");
    }

    #[test]
    fn what_is_no_location_is_refused_and_a_password_in_it_is_not_repeated() {
        for text in [
            "s3:vault",
            "s3:/vault",
            "s3://",
            "s3:///prefix",
            "s3://Vault",
            "s3://vault/a//b",
            "s3://vault/../b",
            "s3://vault/a b",
            "s3://key:canary@vault",
            "s3:key:canary@vault/x",
            "S3://vault",
            "https://key:canary@host/vault",
            "sftp://host/vault",
            "git+ssh://host",
            "file:///srv/vault",
        ] {
            let error = Location::parse(Path::new(text)).unwrap_err();
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
