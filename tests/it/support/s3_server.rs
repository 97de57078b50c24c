//! Real S3 servers, as processes of the test. Also part of the unit tests of `backend/s3`: it names nothing of
//! orkvault.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};

pub(crate) const USER: &str = "orkestra";
pub(crate) const PASSWORD: &str = "not-a-real-password";

/// Access key and secret key.
type Keys = [&'static str; 2];

/// Which program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Minio,
    Versitygw,
}

impl Program {
    const fn variable(self) -> &'static str {
        match self {
            Self::Minio => "ORKVAULT_MINIO",
            Self::Versitygw => "ORKVAULT_VERSITYGW",
        }
    }

    fn command(self, program: &std::ffi::OsStr, directory: &Path, address: &str, [user, password]: Keys) -> Command {
        let mut command = Command::new(program);
        match self {
            Self::Minio => {
                command
                    .args(["server", "--quiet", "--address", address, "--console-address", &free_address()])
                    .arg(directory)
                    .env("MINIO_ROOT_USER", user)
                    .env("MINIO_ROOT_PASSWORD", password)
                    .env("MINIO_BROWSER", "off");
            }
            Self::Versitygw => {
                // States of objects lie beside the objects.
                let (objects, states) = (directory.join("objects"), directory.join("states"));
                for dir in [&objects, &states] {
                    std::fs::create_dir_all(dir).expect("a directory for the server");
                }
                command
                    .args(["--quiet", "--port", address, "posix", "--versioning-dir"])
                    .arg(states)
                    .arg(objects)
                    .env("ROOT_ACCESS_KEY", user)
                    .env("ROOT_SECRET_KEY", password);
            }
        }
        command.env("HOME", directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// A server with an empty directory; stopped when dropped.
pub(crate) struct S3Server {
    process: Child,
    pub(crate) endpoint: String,
    pub(crate) client: Client,
    _directory: tempfile::TempDir,
}

impl S3Server {
    /// Starts the binary that the program's variable names. Without it: `None` and a loud line, or a failure
    /// where ORKVAULT_REQUIRE_STACK=1.
    pub(crate) async fn start(program: Program) -> Option<Self> {
        Self::start_with(program, [USER, PASSWORD]).await
    }

    /// As [`Self::start`], with other keys.
    pub(crate) async fn start_with(program: Program, keys: Keys) -> Option<Self> {
        let variable = program.variable();
        let Some(binary) = std::env::var_os(variable) else {
            assert_ne!(
                std::env::var("ORKVAULT_REQUIRE_STACK").as_deref(),
                Ok("1"),
                "{variable} must name a server's binary"
            );
            // Not `eprintln!`: the test harness would swallow that of a test that passes.
            let line = format!("SKIPPED: {variable} does not name a server's binary\n");
            std::io::stderr().write_all(line.as_bytes()).expect("stderr can be written to");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Another process may take the port in between; then this start fails and the next port is tried.
        for _ in 0..5 {
            let address = free_address();
            let mut process =
                program.command(&binary, directory.path(), &address, keys).spawn().expect("the server's binary starts");
            let endpoint = format!("http://{address}");
            let client = client(&endpoint, keys);
            if answers(&client, &mut process).await {
                return Some(Self { process, endpoint, client, _directory: directory });
            }
            stop(&mut process);
        }
        panic!("the server of {variable} does not start");
    }

    /// Makes sure that the server is gone.
    pub(crate) fn stop(&mut self) {
        stop(&mut self.process);
    }

    pub(crate) async fn bucket(&self, name: &str) {
        self.client.create_bucket().bucket(name).send().await.expect("the bucket is created");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stop(process: &mut Child) {
    let _gone_already = process.kill();
    process.wait().expect("the process can be waited for");
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").to_string()
}

fn client(endpoint: &str, [user, password]: Keys) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(user, password, None, None, "test"))
        .force_path_style(true);
    Client::from_conf(config.build())
}

/// Asks until an answer comes, for at most half a minute.
async fn answers(client: &Client, process: &mut Child) -> bool {
    for _ in 0..300 {
        if client.list_buckets().send().await.is_ok() {
            return true;
        }
        if process.try_wait().expect("the process can be asked").is_some() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}
