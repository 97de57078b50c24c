//! The built program, with a repository of its own in a temporary directory.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::s3_server::{PASSWORD, USER};

pub const DATA_PASSPHRASE: &str = "canary-data-passphrase";
pub const SECRETS_PASSPHRASE: &str = "canary-secrets-passphrase";

/// A directory with everything that a run needs, and nothing of this machine's user.
pub struct Vault {
    dir: tempfile::TempDir,
    /// What names the repository and its store: variables.
    store: Vec<(&'static str, String)>,
}

/// How a run ended.
pub struct Ran {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: Output) -> Self {
        let code = output.status.code().expect("the program exits and is not killed");
        Self { code, stdout: output.stdout, stderr: String::from_utf8(output.stderr).expect("messages are UTF-8") }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("results are UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr))
    }

    /// Panics with what was said where the code is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stdout: String = stdout.chars().take(2000).collect();
        assert_eq!(self.code, code, "stdout: {stdout}\nstderr: {}", self.stderr);
        self
    }
}

pub fn write_mode(path: &Path, bytes: &[u8], mode: u32) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The archive that a real mongodump made of database `basic`.
pub fn archive() -> Vec<u8> {
    zstd::decode_all(std::fs::File::open(data("basic.archive.zst")).unwrap()).unwrap()
}

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump").join(name)
}

impl Vault {
    /// Files, no repository.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository").to_str().unwrap().to_owned();
        let vault = Self { dir, store: vec![("ORKVAULT_REPOSITORY", repository)] };
        write_mode(&vault.path("data.pass"), format!("{DATA_PASSPHRASE}\n").as_bytes(), 0o600);
        write_mode(&vault.path("secrets.pass"), format!("{SECRETS_PASSPHRASE}\n").as_bytes(), 0o600);
        std::fs::create_dir(vault.path("work")).unwrap();
        vault
    }

    /// Files, no repository, which will be in a bucket that is there.
    pub fn empty_in_bucket(endpoint: &str, location: &str) -> Self {
        let mut vault = Self::empty();
        let store = [
            ("ORKVAULT_REPOSITORY", location),
            ("AWS_ENDPOINT_URL_S3", endpoint),
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD),
        ];
        vault.store = store.map(|(name, value)| (name, value.to_owned())).to_vec();
        vault
    }

    /// From here on with these temporary keys: of the store, its secret, its token.
    pub fn use_keys(&mut self, keys: &[String; 3]) {
        self.store.retain(|(name, _)| !name.contains("KEY"));
        let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        self.store.extend(names.into_iter().zip(keys.iter().cloned()));
    }

    /// A repository without snapshots.
    pub fn made() -> Self {
        let vault = Self::empty();
        vault.init().expect(0);
        vault
    }

    /// Makes the repository.
    pub fn init(&self) -> Ran {
        self.run([
            "init",
            "--kdf-low-memory",
            "--passphrase-file",
            "../data.pass",
            "--secrets-passphrase-file",
            "../secrets.pass",
        ])
    }

    /// A repository with one snapshot of `mongodb`.
    pub fn with_dump() -> Self {
        let vault = Self::made();
        vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
        vault
    }

    /// A stack of files, without servers: `.env` and a key. Returns its directory.
    pub fn stack(&self, environment: &str) -> PathBuf {
        let dir = self.path("stack");
        std::fs::create_dir_all(dir.join("docker/keys")).unwrap();
        let env = format!("APP_NAME=ovcli\nENV={environment}\nMONGO_ROOT_PASSWORD=canary-mongo\nKMS=canary-kms\n");
        write_mode(&dir.join("docker/.env"), env.as_bytes(), 0o600);
        write_mode(&dir.join("docker/keys/jwt-private.pem"), b"canary-key\n", 0o600);
        dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program in the directory `work`, with the repository and the writer key by environment.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        self.command_by([], arguments)
    }

    /// As [`Self::command`], started by another program: its name and arguments.
    pub fn command_by<'a, A: AsRef<OsStr>>(
        &self,
        starter: impl IntoIterator<Item = &'a str>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut words = starter.into_iter().chain([env!("CARGO_BIN_EXE_orkvault")]);
        let mut command = Command::new(words.next().expect("there is the program itself"));
        command
            .args(words)
            .args(arguments)
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .envs(self.store.iter().map(|(name, value)| (name, value)))
            .env("ORKVAULT_WRITER_KEY_FILE", self.path("writer.key"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        Ran::new(self.command(arguments).output().expect("the program starts"))
    }

    /// With the data passphrase.
    pub fn run_data<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command(arguments);
        command.env("ORKVAULT_PASSPHRASE_FILE", self.path("data.pass"));
        Ran::new(command.output().expect("the program starts"))
    }

    /// With both passphrases.
    pub fn run_all<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        let mut command = self.command(arguments);
        command.env("ORKVAULT_PASSPHRASE_FILE", self.path("data.pass"));
        command.env("ORKVAULT_SECRETS_PASSPHRASE_FILE", self.path("secrets.pass"));
        Ran::new(command.output().expect("the program starts"))
    }

    /// With this standard input.
    pub fn run_fed<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &[u8]) -> Ran {
        Self::fed(self.command(arguments), input)
    }

    /// Runs a command with this standard input.
    pub fn fed(mut command: Command, input: &[u8]) -> Ran {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // A program that fails early does not read everything: that is not this thread's failure.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("the program ends");
        feeding.join().expect("feeding does not panic");
        Ran::new(output)
    }

    /// Starts the program with a pipe as standard input.
    pub fn spawn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Child {
        self.command(arguments).stdin(Stdio::piped()).spawn().expect("the program starts")
    }

    /// Files of the repository whose path contains `part`, sorted.
    pub fn objects(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.path("repository")];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else if path.to_str().unwrap().contains(part) {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}
