//! Puts `docker/.env` and `docker/keys/*` back. A file that differs is kept beside its replacement.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt;
use rustix::fs::FileType;
use zeroize::Zeroizing;

use super::attributes::{Attributes, Kind, type_name};
use super::beneath::{self, Root};
use super::secrets_source::{BYTES_MAX, ENV_KEY, FILES_MAX, KEPT_MARK, KEYS_PREFIX};
use super::{Error, KEYS_FACTS, lossy};
use crate::component::dotenv::Dotenv;
use crate::component::{Entry, Error as ComponentError, RestorePlan, Restored, Sink, Stored, StoredContent};

/// Where secret files go.
#[derive(Debug)]
pub struct SecretsSink {
    env_file: PathBuf,
    keys_dir: PathBuf,
    stamp: String,
}

/// Variables of `.env` that a server takes when it is made.
const CREDENTIALS: [&str; 7] = [
    "MONGO_ROOT_USERNAME",
    "MONGO_ROOT_PASSWORD",
    "REDIS_PASSWORD",
    "RUSTFS_ROOT_USER",
    "RUSTFS_ROOT_PASSWORD",
    "STORAGE_ACCESS_KEY",
    "STORAGE_SECRET_KEY",
];

/// What a stored file meets at its place.
enum Present {
    Nothing,
    Same,
    Differs,
}

/// A stored file, and where it goes.
struct Incoming {
    /// The directory that it goes into, and its name there.
    directory: PathBuf,
    name: Vec<u8>,
    attributes: Attributes,
    bytes: Zeroizing<Vec<u8>>,
}

impl SecretsSink {
    /// Returns the sink into `env_file` and `keys_dir`. A file that differs is kept as
    /// `<name>.orkvault-before-<stamp>`; `stamp` is the time of the run, e.g. `20261122T164500Z`.
    pub fn new(env_file: PathBuf, keys_dir: PathBuf, stamp: String) -> Self {
        Self { env_file, keys_dir, stamp }
    }

    /// Reads the next stored file; `left` is how many bytes may still come.
    async fn incoming(
        &self,
        stored: &mut dyn Stored,
        entry: &Entry,
        content: Option<StoredContent>,
        left: &mut u64,
    ) -> Result<Incoming, ComponentError> {
        let (directory, name) = self.place(&entry.key)?;
        let mut attributes = Attributes::decode(entry)?;
        if attributes.kind != Kind::File {
            return Err(Error::Attribute { key: lossy(&entry.key), name: "kind" }.into());
        }
        // no set-id bits, and the owner can always read and replace it
        attributes.mode = (attributes.mode & 0o777) | 0o600;
        *left = left.checked_sub(entry.len).ok_or(Error::SecretsTooLarge { limit: BYTES_MAX })?;
        let capacity = usize::try_from(entry.len).expect("at most BYTES_MAX");
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
        let wrong_len = |got| Error::ContentLen { key: lossy(&entry.key), expected: entry.len, got };
        let content = content.ok_or_else(|| Error::Attribute { key: lossy(&entry.key), name: "content" })?;
        let mut body = stored.open_content(entry, &content).await?;
        while let Some(run) = body.next().await {
            let run = run?;
            let got = bytes.len() + run.bytes.len();
            if got > capacity {
                return Err(wrong_len(u64::try_from(got).expect("usize fits u64")).into());
            }
            bytes.extend_from_slice(&run.bytes);
        }
        if bytes.len() != capacity {
            return Err(wrong_len(u64::try_from(bytes.len()).expect("usize fits u64")).into());
        }
        Ok(Incoming { directory, name, attributes, bytes })
    }

    fn place(&self, key: &[u8]) -> Result<(PathBuf, Vec<u8>), Error> {
        let refused = |reason| Error::UnsafeKey { key: lossy(key), reason };
        if key == ENV_KEY {
            let name = self.env_file.file_name().ok_or_else(|| refused("the environment file has no name"))?;
            let directory = match self.env_file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            return Ok((directory.to_owned(), std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec()));
        }
        let name = key.strip_prefix(KEYS_PREFIX).ok_or_else(|| refused("it is neither .env nor in keys/"))?;
        match beneath::components(name)?.as_slice() {
            [name] => Ok((self.keys_dir.clone(), name.to_vec())),
            _ => Err(refused("it is deeper than keys/")),
        }
    }
}

#[async_trait]
impl Sink for SecretsSink {
    fn component(&self) -> &'static str {
        "secrets"
    }

    fn describe(&self) -> String {
        format!("secrets: {:?} and the files in {:?}", self.env_file, self.keys_dir)
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, ComponentError> {
        let mut plan = RestorePlan::default();
        let (mut left, mut count) = (BYTES_MAX, 0_usize);
        stored.rewind().await?;
        while let Some((entry, content)) = stored.next_entry().await? {
            count = counted(count)?;
            let incoming = self.incoming(stored, &entry, content, &mut left).await?;
            let path = incoming.path();
            match incoming.compare()? {
                Present::Same => {}
                Present::Nothing => plan.creates.push(format!("{path:?}")),
                Present::Differs => {
                    let kept = incoming.kept_path(&self.stamp);
                    plan.replaces.push(format!("{path:?}, which differs and is kept as {kept:?}"));
                    if entry.key == ENV_KEY {
                        plan.warnings.extend(incoming.other_credentials()?);
                    }
                }
            }
        }
        if count == 0 {
            return Err(ComponentError::NoSuchStream { stream: lossy(ENV_KEY) });
        }
        Ok(plan)
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, ComponentError> {
        let mut restored = Restored::default();
        let (mut left, mut count, mut same) = (BYTES_MAX, 0_usize, 0_usize);
        // all of them are read before the first is written: a bundle that turns out bad changes nothing
        let mut all = Vec::new();
        stored.rewind().await?;
        while let Some((entry, content)) = stored.next_entry().await? {
            count = counted(count)?;
            all.push(self.incoming(stored, &entry, content, &mut left).await?);
        }
        let mut keys = Attributes::of_root(&stored.captured().facts, KEYS_FACTS)?;
        // one that is there is the operator's
        keys.take_if(|_| self.keys_dir.exists());
        for incoming in all {
            let present = incoming.compare()?;
            if matches!(present, Present::Same) {
                same += 1;
            }
            incoming.write(&present, &self.stamp)?;
            restored.bytes += u64::try_from(incoming.bytes.len()).expect("at most BYTES_MAX");
            if matches!(present, Present::Differs) {
                let (path, kept) = (incoming.path(), incoming.kept_path(&self.stamp));
                restored.notes.push(format!("{path:?} replaced; what it held is in {kept:?}"));
            }
        }
        if let Some(mut keys) = keys.filter(|_| self.keys_dir.exists()) {
            // the owner can always look, and nobody else may put anything there, whatever the facts say: they are data's
            keys.mode = (keys.mode & 0o755) | 0o700;
            Root::open(&self.keys_dir)?.finish(&keys)?;
        }
        restored.notes.push(format!("{count} secret files put back, {same} of them were the same"));
        Ok(restored)
    }
}

impl Incoming {
    fn path(&self) -> PathBuf {
        self.directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&self.name))
    }

    fn kept_name(&self, stamp: &str) -> Vec<u8> {
        [self.name.as_slice(), KEPT_MARK.as_bytes(), stamp.as_bytes()].concat()
    }

    fn kept_path(&self, stamp: &str) -> PathBuf {
        let name = self.kept_name(stamp);
        self.directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name))
    }

    /// Compares with what is there. A link or directory in a secret's place is refused, not followed.
    fn compare(&self) -> Result<Present, Error> {
        let root = match Root::open(&self.directory) {
            Ok(root) => root,
            Err(Error::Missing { .. }) => return Ok(Present::Nothing),
            Err(error) => return Err(error),
        };
        let Some(stat) = root.examine(&self.name)? else { return Ok(Present::Nothing) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(Error::InTheWay { path: self.path(), found: type_name(kind), needed: "a regular file" });
        }
        if usize::try_from(stat.st_size).ok() != Some(self.bytes.len()) {
            return Ok(Present::Differs);
        }
        let present = std::fs::read(self.path()).map(Zeroizing::new).map_err(|source| Error::Io {
            action: "reading",
            path: self.path(),
            source,
        })?;
        Ok(if *present == *self.bytes { Present::Same } else { Present::Differs })
    }

    /// Warns where servers that run already would not know the credentials that are about to be in the file.
    fn other_credentials(&self) -> Result<Option<String>, Error> {
        let io = |source| Error::Io { action: "reading", path: self.path(), source };
        let present = Zeroizing::new(std::fs::read(self.path()).map_err(io)?);
        // What cannot be understood has no values, and so differs from what has some.
        let files = [Dotenv::parse(&present).ok(), Dotenv::parse(&self.bytes).ok()];
        let differs = |name: &&str| {
            let [now, then] = files.each_ref().map(|file| {
                let found = file.as_ref().and_then(|file| file.get(name).ok().flatten());
                found.map(|(value, _)| value.expose())
            });
            now != then
        };
        let names: Vec<&str> = CREDENTIALS.into_iter().filter(differs).collect();
        Ok((!names.is_empty()).then(|| {
            format!(
                "{} will differ from what it is now: servers that run already, or have data already, keep what \
                 they were made with",
                names.join(", ")
            )
        }))
    }

    fn write(&self, present: &Present, stamp: &str) -> Result<(), Error> {
        // With what is above it: on a new machine there is no `docker` yet.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|source| Error::Io { action: "making", path: self.directory.clone(), source })?;
        let root = Root::open(&self.directory)?;
        if matches!(present, Present::Differs) {
            root.keep_as(&self.name, &self.kept_name(stamp))?;
        }
        let mut partial = root.begin(&self.name)?;
        partial.write(&self.bytes)?;
        partial.publish(&self.attributes)
    }
}

fn counted(count: usize) -> Result<usize, Error> {
    if count >= FILES_MAX { Err(Error::TooManySecrets { limit: FILES_MAX }) } else { Ok(count + 1) }
}
