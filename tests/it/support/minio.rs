//! A MinIO as the object store of a stack.

use std::io::Write as _;
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use orkvault::component::s3::{Access, Addressing, Patience};
use orkvault::component::secret::Secret;

use super::s3_server::{PASSWORD, Program, S3Server, USER};

/// A MinIO with an empty directory; stopped when dropped.
pub(crate) struct Minio(S3Server);

impl Deref for Minio {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.0
    }
}

impl DerefMut for Minio {
    fn deref_mut(&mut self) -> &mut S3Server {
        &mut self.0
    }
}

impl Minio {
    /// Starts the binary that ORKVAULT_MINIO names: see [`S3Server::start`].
    pub(crate) async fn start() -> Option<Self> {
        S3Server::start(Program::Minio).await.map(Self)
    }

    pub(crate) fn access(&self) -> Access {
        self.access_with(PASSWORD)
    }

    pub(crate) fn access_with(&self, password: &str) -> Access {
        access(&self.endpoint, USER, password)
    }

    /// Returns temporary keys that may do only what the policy says: access key, secret key, token.
    pub(crate) fn keys_that_may(&self, policy: &str) -> [String; 3] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/assume_role.py");
        let mut python = Command::new("python3")
            .args([script, &self.endpoint])
            .envs([("USER_KEY", USER), ("USER_SECRET", PASSWORD)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut stdin = python.stdin.take().expect("it is piped");
        stdin.write_all(policy.as_bytes()).expect("the policy is taken");
        drop(stdin);
        let output = python.wait_with_output().expect("python ends");
        let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        lines.try_into().expect("three lines")
    }
}

impl S3Server {
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
