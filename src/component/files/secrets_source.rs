//! Reads `docker/.env` and `docker/keys/*`, byte for byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, open};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::attributes::{Attributes, Kind, type_name};
use super::directory_source::blocking;
use super::read::{self, Opened};
use super::{Error, KEYS_FACTS};
use crate::component::{
    ByteStream, Capture, Captured, CatalogueRow, Content, Entry, Error as ComponentError, Run, Source,
};

/// Secret files at most.
pub(super) const FILES_MAX: usize = 1024;
/// Bytes of all secret files at most: they are held in memory together.
pub(super) const BYTES_MAX: u64 = 4 << 20;
/// Key of the environment file.
pub(super) const ENV_KEY: &[u8] = b".env";
/// What keys of key files begin with.
pub(super) const KEYS_PREFIX: &[u8] = b"keys/";
/// Part of the name under which a restore keeps what it replaces: such files are not captured again.
pub(super) const KEPT_MARK: &str = ".orkvault-before-";

/// The stack's secret files as a component. Held in memory, wiped afterwards.
#[derive(Debug)]
pub struct SecretsSource {
    env_file: PathBuf,
    keys_dir: PathBuf,
}

struct SecretFile {
    key: Vec<u8>,
    stat: Stat,
    bytes: Zeroizing<Vec<u8>>,
}

impl SecretsSource {
    /// Returns the source of the mandatory environment file (`docker/.env`, or where `ORKESTRA_ENV_FILE`
    /// says) and of the files in `docker/keys`, which may be absent. Links to files are followed.
    pub fn new(env_file: PathBuf, keys_dir: PathBuf) -> Self {
        Self { env_file, keys_dir }
    }
}

#[async_trait]
impl Source for SecretsSource {
    fn component(&self) -> &str {
        "secrets"
    }

    fn describe(&self) -> String {
        format!("secrets: {:?} and the files in {:?}", self.env_file, self.keys_dir)
    }

    async fn probe(&mut self) -> Result<(), ComponentError> {
        let (env_file, keys_dir) = (self.env_file.clone(), self.keys_dir.clone());
        blocking(env_file.clone(), move || {
            open_secret(&env_file)?;
            for name in names(&keys_dir, &mut Vec::new())? {
                open_secret(&keys_dir.join(std::ffi::OsStr::from_bytes(&name)))?;
            }
            Ok(())
        })
        .await
    }

    async fn capture(&mut self, out: &mut dyn Capture) -> Result<Captured, ComponentError> {
        let (env_file, keys_dir) = (self.env_file.clone(), self.keys_dir.clone());
        let (files, keys, warnings) = blocking(env_file.clone(), move || {
            let (files, warnings) = read_all(&env_file, &keys_dir)?;
            Ok((files, keys_stat(&keys_dir)?, warnings))
        })
        .await?;
        let count = u64::try_from(files.len()).expect("at most FILES_MAX");
        let mut total = 0_u64;
        for SecretFile { key, stat, bytes } in files {
            let len = u64::try_from(bytes.len()).expect("at most BYTES_MAX");
            total += len;
            let attributes = Attributes::of(&stat, Kind::File).encode(None, 0);
            out.entry(Entry { key, attributes, len }, Content::Bytes(body(bytes))).await?;
        }
        let row =
            CatalogueRow { name: "secrets".to_owned(), kind: "directory".to_owned(), records: count, bytes: total };
        let mut facts = BTreeMap::from([("files".to_owned(), count.to_string())]);
        facts.extend(keys.iter().flat_map(|keys| Attributes::root_facts(keys, KEYS_FACTS)));
        Ok(Captured { consistency: "per-file".to_owned(), facts, catalogue: vec![row], warnings })
    }
}

/// Returns what the keys directory itself is, where there is one.
fn keys_stat(keys_dir: &Path) -> Result<Option<Stat>, Error> {
    match rustix::fs::stat(keys_dir) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::io("examining", keys_dir)(errno)),
    }
}

/// Reads every secret file, sorted by key.
fn read_all(env_file: &Path, keys_dir: &Path) -> Result<(Vec<SecretFile>, Vec<String>), Error> {
    let mut warnings = Vec::new();
    let mut left = BYTES_MAX;
    let mut files = vec![read_secret(env_file, ENV_KEY.to_vec(), &mut left)?];
    for name in names(keys_dir, &mut warnings)? {
        let path = keys_dir.join(std::ffi::OsStr::from_bytes(&name));
        files.push(read_secret(&path, [KEYS_PREFIX, &name].concat(), &mut left)?);
    }
    Ok((files, warnings))
}

/// Returns the names in the keys directory, sorted; none where it is absent. Whatever is no file there
/// is told, not captured.
fn names(keys_dir: &Path, warnings: &mut Vec<String>) -> Result<Vec<Vec<u8>>, Error> {
    let io = |source| Error::Io { action: "listing", path: keys_dir.to_owned(), source };
    let listing = match fs::read_dir(keys_dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut names = Vec::new();
    for found in listing {
        let found = found.map_err(io)?;
        let name = found.file_name();
        if name.to_string_lossy().contains(KEPT_MARK) {
            continue;
        }
        if found.file_type().map_err(io)?.is_dir() {
            warnings.push(format!("{:?} is a directory and was not captured", found.path()));
            continue;
        }
        // one place is the environment file's
        if names.len() + 1 >= FILES_MAX {
            return Err(Error::TooManySecrets { limit: FILES_MAX });
        }
        names.push(name.into_vec());
    }
    names.sort_unstable();
    Ok(names)
}

fn open_secret(path: &Path) -> Result<Opened, Error> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => Error::Missing { path: path.to_owned() },
        other => Error::io("opening", path)(other),
    })?;
    let stat = fstat(&fd).map_err(Error::io("examining", path))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Opened { file: File::from(fd), stat }),
        other => Err(Error::InTheWay { path: path.to_owned(), found: type_name(other), needed: "a regular file" }),
    }
}

fn read_secret(path: &Path, key: Vec<u8>, left: &mut u64) -> Result<SecretFile, Error> {
    let mut opened = open_secret(path)?;
    let bytes = read::read_whole(&mut opened, *left, path)?.ok_or(Error::SecretsTooLarge { limit: BYTES_MAX })?;
    *left -= u64::try_from(bytes.len()).expect("at most `left`");
    Ok(SecretFile { key, stat: opened.stat, bytes: Zeroizing::new(bytes) })
}

/// Returns the bytes as a stream that wipes them when its last reader is done.
fn body(bytes: Zeroizing<Vec<u8>>) -> ByteStream {
    let bytes = Bytes::from_owner(bytes);
    let mut rest = bytes;
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let step = rest.len().min(1 << 20);
        (step > 0).then(|| Ok(Run::from(rest.split_to(step))))
    })))
}
