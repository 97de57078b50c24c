//! `orkvault.toml`: what is not on the command line. Unknown keys are errors.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::Error;
use super::store::StoreConfig;
use super::{bounds, chunk_sizes};

/// More than this nobody writes by hand.
const BYTES_MAX: u64 = 1 << 20;

/// The whole file. Paths in it are relative to the directory that it lies in.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    /// Where the repository is, and how its store is reached.
    pub(crate) repository: Option<StoreConfig>,
    /// Where the secrets are, where they have a store of their own.
    pub(crate) secrets_repository: Option<StoreConfig>,
    /// What `copy` copies from.
    pub(crate) from_repository: Option<StoreConfig>,
    /// Where the secrets of that are, where they have a store of their own.
    pub(crate) from_secrets_repository: Option<StoreConfig>,
    /// The file of the writer key.
    pub(crate) writer_key: Option<PathBuf>,
    /// The stack's directory.
    pub(crate) stack_dir: Option<PathBuf>,
    /// Where the index is kept.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Where stopped containers are remembered.
    pub(crate) state_dir: Option<PathBuf>,
    /// What `snapshot` captures when it is not told.
    pub(crate) components: Vec<String>,
    /// APP_NAME of the stack.
    pub(crate) app_name: Option<String>,
    /// ENV of the stack.
    pub(crate) environment: Option<String>,
    /// This host's name in manifests.
    pub(crate) host: Option<String>,
    /// The zstd level.
    #[serde(deserialize_with = "bounds::compression_level")]
    pub(crate) compression_level: Option<i32>,
    /// How a new repository cuts streams.
    pub(crate) chunk_sizes: ChunkSizesConfig,
    /// What the piece cache may take, in MiB.
    #[serde(deserialize_with = "bounds::piece_cache_mib")]
    pub(crate) piece_cache_mib: Option<u32>,
    /// The daemon.
    pub(crate) docker: DockerConfig,
    /// MongoDB.
    pub(crate) mongodb: MongodbConfig,
    /// Redis.
    pub(crate) redis: RedisConfig,
    /// The object store.
    pub(crate) rustfs: RustfsConfig,
    /// Directories as components of their own.
    pub(crate) directory: Vec<DirectoryConfig>,
}

/// `[chunk_sizes]`, for `init`: each `MIN/AVERAGE/MAX` in KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChunkSizesConfig {
    /// Archives of mongodump.
    pub(crate) dump: Option<String>,
    /// RDB files.
    pub(crate) rdb: Option<String>,
    /// Objects and files.
    pub(crate) object: Option<String>,
    /// Tables of entries and catalogues.
    pub(crate) table: Option<String>,
}

impl ChunkSizesConfig {
    /// Returns the values that are set, in the form of `--chunk-sizes`.
    pub(crate) fn values(&self) -> impl Iterator<Item = String> {
        let kinds = [("dump", &self.dump), ("rdb", &self.rdb), ("object", &self.object), ("table", &self.table)];
        kinds.into_iter().filter_map(|(kind, sizes)| Some(format!("{kind}={}", sizes.as_ref()?)))
    }
}

/// `[docker]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DockerConfig {
    /// Its address.
    pub(crate) host: Option<String>,
    /// The id or name that it must have.
    pub(crate) daemon: Option<String>,
}

/// `[mongodb]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MongodbConfig {
    /// The container's name.
    pub(crate) container: Option<String>,
    /// A URI without a password: MongoDB without Docker.
    pub(crate) uri: Option<String>,
    /// A file that holds a URI.
    pub(crate) uri_file: Option<PathBuf>,
    /// Where mongodump and mongorestore are on this host.
    pub(crate) tools_dir: Option<PathBuf>,
    /// The database.
    pub(crate) database: Option<String>,
    /// Collections that mongodump reads at once.
    pub(crate) parallel: Option<u32>,
    /// A database without any collection is good.
    pub(crate) allow_empty: bool,
}

/// `[redis]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedisConfig {
    /// The container's name.
    pub(crate) container: Option<String>,
    /// `host:port`: Redis without Docker.
    pub(crate) address: Option<String>,
    /// The port inside the container.
    pub(crate) port: Option<u16>,
    /// The ACL user.
    pub(crate) user: Option<String>,
    /// A file that holds the password.
    pub(crate) password_file: Option<PathBuf>,
    /// The data directory on this host, for a restore without Docker.
    pub(crate) data_dir: Option<PathBuf>,
}

/// How object URLs name the bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AddressingConfig {
    /// `http://server/bucket/key`
    #[default]
    Path,
    /// `http://bucket.server/key`
    VirtualHost,
}

/// `[rustfs]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RustfsConfig {
    /// The container's name.
    pub(crate) container: Option<String>,
    /// The server's URL: without Docker.
    pub(crate) endpoint: Option<String>,
    /// The region to sign for.
    pub(crate) region: Option<String>,
    /// A file that holds the access key.
    pub(crate) access_key_file: Option<PathBuf>,
    /// A file that holds the secret key.
    pub(crate) secret_key_file: Option<PathBuf>,
    /// How buckets are addressed.
    pub(crate) addressing: AddressingConfig,
    /// Only these buckets.
    pub(crate) buckets: Vec<String>,
}

/// `[[directory]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectoryConfig {
    /// The component's name.
    pub(crate) name: String,
    /// The tree's root.
    pub(crate) path: PathBuf,
    /// Paths below it, or anywhere, that are left out.
    #[serde(default)]
    pub(crate) exclude: Vec<PathBuf>,
}

/// Names that are components already.
const RESERVED: [&str; 5] = ["mongodb", "redis", "rustfs", "secrets", "all"];

/// Reads a file that is there. The directory that it lies in is what its paths are relative to.
pub(crate) fn load(path: &Path) -> Result<ConfigFile, Error> {
    let bytes = super::keys::read_trusted(path, BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::Config {
        path: path.to_owned(),
        line: 1,
        problem: "it is not UTF-8".to_owned(),
    })?;
    let mut config = parse(path, &text)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    config.anchor(dir);
    Ok(config)
}

/// Reads the text of a configuration. The file's name is for messages.
pub(crate) fn parse(path: &Path, text: &str) -> Result<ConfigFile, Error> {
    let wrong = |line, problem: String| Error::Config { path: path.to_owned(), line, problem };
    let config: ConfigFile = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        wrong(line, problem(text, &error))
    })?;
    let line_of = |key: &str| text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at + 1);
    for (at, directory) in config.directory.iter().enumerate() {
        let name = &directory.name;
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let is_taken = config.directory.iter().take(at).any(|other| other.name == *name);
        if !is_name || is_taken || RESERVED.contains(&name.as_str()) {
            let problem = "a directory's name has letters, digits, - and _, and is no other component's";
            return Err(wrong(line_of("[[directory]]"), problem.to_owned()));
        }
    }
    if config.mongodb.uri.as_deref().is_some_and(|uri| uri.contains('@')) {
        return Err(wrong(
            line_of("uri"),
            "an address with a user belongs into a private file: use uri_file".to_owned(),
        ));
    }
    for value in config.chunk_sizes.values() {
        if let Err(problem) = chunk_sizes::parse(&value) {
            return Err(wrong(line_of("[chunk_sizes]"), problem));
        }
    }
    Ok(config)
}

/// Returns what is wrong, without any value of the file: it could be an address with a password. The error's own text
/// repeats the line, and its message the value.
fn problem(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    // Of what is no TOML the parser says nothing but where; these name keys.
    let is_no_toml = toml::from_str::<toml::Table>(text).is_err();
    if is_no_toml || message.starts_with("unknown field ") || message.starts_with("missing field ") {
        return message.to_owned();
    }
    // What the value could be stands last.
    let expected = match message.rsplit_once(", expected ").map(|(_, expected)| expected) {
        None => "another value",
        Some("u16") => "a number up to 65535",
        Some("i64" | "u32") => "a whole number",
        Some("f64") => "a number",
        Some(expected) if expected.starts_with("struct ") => "a table",
        Some(expected) => expected,
    };
    let key = error.span().and_then(|span| key_before(text, span.start));
    let key = key.map(|key| format!("{key}: ")).unwrap_or_default();
    format!("{key}expected {expected}")
}

/// Returns the key of the value that begins here; none where it has none of its own, as in an array.
fn key_before(text: &str, value_at: usize) -> Option<&str> {
    let before = text.get(..value_at)?.trim_end().strip_suffix('=')?.trim_end();
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let key = before.get(before.trim_end_matches(is_letter).len()..)?;
    Some(key).filter(|key| !key.is_empty())
}

impl ConfigFile {
    fn anchor(&mut self, dir: &Path) {
        let stores = [
            &mut self.repository,
            &mut self.secrets_repository,
            &mut self.from_repository,
            &mut self.from_secrets_repository,
        ];
        for store in stores.into_iter().flatten() {
            store.anchor(dir);
        }
        let fixed = [
            &mut self.writer_key,
            &mut self.stack_dir,
            &mut self.cache_dir,
            &mut self.state_dir,
            &mut self.mongodb.uri_file,
            &mut self.mongodb.tools_dir,
            &mut self.redis.password_file,
            &mut self.redis.data_dir,
            &mut self.rustfs.access_key_file,
            &mut self.rustfs.secret_key_file,
        ];
        for path in fixed.into_iter().flatten() {
            *path = dir.join(&*path);
        }
        for directory in &mut self.directory {
            directory.path = dir.join(&directory.path);
            for exclude in &mut directory.exclude {
                *exclude = directory.path.join(&*exclude);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfigFile, Error> {
        parse(Path::new("orkvault.toml"), text)
    }

    #[test]
    fn a_whole_file_is_read_and_its_paths_are_relative_to_it() {
        let text = "repository = \"vault\"\nwriter_key = \"/etc/orkvault/writer.key\"\ncomponents = [\"mongodb\"]\n\
            [mongodb]\ndatabase = \"orkestra\"\nparallel = 4\n[redis]\naddress = \"localhost:6379\"\n\
            [rustfs]\naccess_key_file = \"s3.id\"\naddressing = \"virtual-host\"\n\
            [[directory]]\nname = \"spool\"\npath = \"data/spool\"\nexclude = [\"tmp\"]\n";
        let mut config = read(text).unwrap();
        config.anchor(Path::new("/srv/stack"));
        assert_eq!(config.repository.unwrap().location.as_deref(), Some(Path::new("/srv/stack/vault")));
        assert_eq!(config.writer_key.as_deref(), Some(Path::new("/etc/orkvault/writer.key")));
        assert_eq!(config.rustfs.access_key_file.as_deref(), Some(Path::new("/srv/stack/s3.id")));
        assert_eq!(config.directory[0].exclude, [Path::new("/srv/stack/data/spool/tmp")]);
        assert_eq!(config.mongodb.parallel, Some(4));
    }

    #[test]
    fn the_document_shows_every_key_and_no_other() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIGURATION.md")).unwrap();
        let (_, example) = document.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let mut config = read(example).unwrap();
        // The other stores take the keys of the first.
        let others = [&mut config.secrets_repository, &mut config.from_repository, &mut config.from_secrets_repository];
        for other in others {
            assert!(other.is_some());
            other.clone_from(&config.repository);
        }
        // Every key is set to something: what stays unset is missing in the document.
        let shown = format!("{config:?}");
        assert!(!shown.contains("None"), "{shown}");
        assert_eq!(config.directory[0].exclude.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_without_the_line_itself() {
        for (text, line) in [
            ("repository = \"a\"\nrepositroy = \"canary\"\n", 2),
            ("[mongodb]\n\n\nuri = 7 # canary\n", 4),
            ("[mongodb]\nuri = \"mongodb://user:canary@host/\"\n", 2),
            ("[[directory]]\nname = \"mongodb\"\npath = \"canary\"\n", 1),
            ("\n[[directory]]\nname = \"a/b\"\npath = \"canary\"\n", 2),
            ("compression_level = 20 # canary\n", 1),
            ("[redis]\npassword = \"canary\"\n", 2),
            ("\n[chunk_sizes]\ndump = \"canary\"\n", 2),
            ("[chunk_sizes]\nrdb = \"8/33/128\" # canary\n", 1),
            ("host = \"a\"\nredis = \"redis://:canary@host\"\n", 2),
            ("redis = redis://:canary@host\n", 1),
            ("[redis]\npassword_file = \"canary\nport = 1\n", 2),
            ("[rustfs]\naddressing = \"canary\"\n", 2),
            ("\n[repository]\nlocation = \"x\"\nlock_days = \"canary, expected more canary\"\n", 4),
            ("repository = { location = \"x\", conditional_put = \"canary\" }\n", 1),
            ("[repository]\naddressing = \"canary\"\n", 2),
            ("components = [\n  \"mongodb\",\n  { canary = \"canary\" },\n]\n", 3),
            ("[[directory]]\nname = \"a\"\npath = { a = \"canary\" }\n", 3),
            ("\nmongodb = \"canary\"\n", 2),
        ] {
            let error = read(text).unwrap_err();
            let Error::Config { line: found, .. } = &error else { panic!("{error}") };
            assert_eq!(*found, line, "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn what_a_value_could_be_is_said_with_its_key() {
        for (text, said) in [
            ("redis = \"redis://:canary@host\"\n", "redis: expected a table"),
            ("[redis]\nport = 99999\n", "port: expected a number up to 65535"),
            ("[rustfs]\naddressing = \"dns\"\n", "addressing: expected `path` or `virtual-host`"),
            ("repository = 7\n", "repository: expected a location or a table"),
            ("repository = { location = \"x=y\", lock_days = true }\n", "lock_days: expected a whole number"),
            ("components = [\"a\", 7]\n", ": expected a string"),
            ("compression_level = 20\n", "line 1: compression_level: expected a number from 1 to 19"),
            ("piece_cache_mib = -1\n", "piece_cache_mib: expected a number from 0 to 1048576"),
            ("[repository]\nlock_days = 0\n", "line 2: lock_days: expected a number from 1 to 36500"),
            (
                "[repository]\n[secrets_repository]\nlock_days = 36501\n",
                "line 3: lock_days: expected a number from 1 to 36500",
            ),
            (
                "[from_repository]\nlimit_upload = 0\n",
                "limit_upload: expected a number of MiB a second above 0, like 0.5",
            ),
            ("[repository]\nlimit_download = -0.5\n", "above 0, like 0.5"),
            ("[repository]\nlimit_download = inf\n", "above 0, like 0.5"),
            ("[repository]\nlimit_download = nan\n", "above 0, like 0.5"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.ends_with(said), "{error}");
        }
    }
}
