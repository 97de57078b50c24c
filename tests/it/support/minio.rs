//! A real S3 server, as a process of the test.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use orkvault::component::s3::{Access, Addressing, Patience};
use orkvault::component::secret::Secret;

const USER: &str = "orkestra";
const PASSWORD: &str = "not-a-real-password";

/// A MinIO with an empty directory; stopped when dropped.
pub(crate) struct Minio {
    process: Child,
    endpoint: String,
    pub(crate) client: Client,
    _directory: tempfile::TempDir,
}

impl Minio {
    /// Starts the binary that ORKVAULT_MINIO names. Without it: `None` and a loud line, or a failure
    /// where ORKVAULT_REQUIRE_STACK=1.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("ORKVAULT_MINIO") else {
            assert_ne!(
                std::env::var("ORKVAULT_REQUIRE_STACK").as_deref(),
                Ok("1"),
                "ORKVAULT_MINIO must name a MinIO binary"
            );
            // Not `eprintln!`: the test harness would swallow that of a test that passes.
            let line = b"SKIPPED: ORKVAULT_MINIO does not name a MinIO binary\n";
            std::io::stderr().write_all(line).expect("stderr can be written to");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Another process may take the port in between; then this start fails and the next port is tried.
        for _ in 0..5 {
            let (address, console) = (free_address(), free_address());
            let mut process = Command::new(&program)
                .args(["server", "--quiet", "--address", &address, "--console-address", &console])
                .arg(directory.path())
                .env("MINIO_ROOT_USER", USER)
                .env("MINIO_ROOT_PASSWORD", PASSWORD)
                .env("MINIO_BROWSER", "off")
                .env("HOME", directory.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the MinIO binary starts");
            let endpoint = format!("http://{address}");
            let client = client(&endpoint);
            if answers(&client, &mut process).await {
                return Some(Self { process, endpoint, client, _directory: directory });
            }
            stop(&mut process);
        }
        panic!("MinIO does not start");
    }

    pub(crate) fn access(&self) -> Access {
        self.access_with(PASSWORD)
    }

    pub(crate) fn access_with(&self, password: &str) -> Access {
        access(&self.endpoint, USER, password)
    }

    /// Makes sure that the server is gone.
    pub(crate) fn stop(&mut self) {
        stop(&mut self.process);
    }

    pub(crate) async fn bucket(&self, name: &str) {
        self.client.create_bucket().bucket(name).send().await.expect("the bucket is created");
    }

    pub(crate) async fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let body = ByteStream::from(bytes.to_vec());
        self.client.put_object().bucket(bucket).key(key).body(body).send().await.expect("the object is put");
    }

    pub(crate) async fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        let answer = self.client.get_object().bucket(bucket).key(key).send().await.expect("the object is there");
        answer.body.collect().await.expect("its body comes").to_vec()
    }

    pub(crate) async fn keys(&self, bucket: &str) -> Vec<String> {
        let answer = self.client.list_objects_v2().bucket(bucket).send().await.expect("the bucket is listed");
        answer.contents().iter().map(|object| object.key().expect("it has a key").to_owned()).collect()
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Access without the SDK's long pauses between attempts.
pub(crate) fn access(endpoint: &str, user: &str, password: &str) -> Access {
    Access {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: user.to_owned(),
        secret_access_key: Secret::new(password),
        addressing: Addressing::Path,
        patience: Patience {
            backoff: Duration::from_millis(5),
            bucket_flap: Duration::from_secs(4),
            ..Patience::default()
        },
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

fn client(endpoint: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(Credentials::new(USER, PASSWORD, None, None, "test"))
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
