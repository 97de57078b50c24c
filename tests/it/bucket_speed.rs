//! A slow line costs little: packs go out beside the work, and a night asks for little. Counted, not timed.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use orkvault::backend::{Backend, Error, Listed, MemoryBackend, ObjectInfo, Put};
use orkvault::format::config::StreamKind;
use orkvault::format::object::{ObjectKey, ObjectPrefix};
use orkvault::repo::{Marks, Writer, WriterOptions};
use tokio::sync::Barrier;

use crate::support::cli::{Ran, Vault, archive, write_mode};
use crate::support::repository::{self, noise, read_all};
use crate::support::s3_fault::{FaultyS3, Object, World};
use crate::support::s3_server::{PASSWORD, Program, S3Server, USER};

/// Packs that are put at the same time (`repo/packer.rs`).
const UPLOADS_MOST: usize = 3;

/// Lets packs be put only together with others.
#[derive(Debug)]
struct Together {
    inner: MemoryBackend,
    meet: Barrier,
    under_way: AtomicUsize,
    most: AtomicUsize,
    begun: AtomicUsize,
}

#[async_trait]
impl Backend for Together {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: ObjectKey, body: Vec<Bytes>) -> Result<Put, Error> {
        if !matches!(key, ObjectKey::Pack(_)) {
            return self.inner.put(key, body).await;
        }
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        if self.begun.fetch_add(1, Ordering::SeqCst) < UPLOADS_MOST {
            self.meet.wait().await;
        }
        let put = self.inner.put(key, body).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        put
    }

    async fn get(&self, key: ObjectKey, max_len: u64) -> Result<Bytes, Error> {
        self.inner.get(key, max_len).await
    }

    async fn get_range(&self, key: ObjectKey, offset: u64, len: u64) -> Result<Bytes, Error> {
        self.inner.get_range(key, offset, len).await
    }

    async fn stat(&self, key: ObjectKey) -> Result<Option<ObjectInfo>, Error> {
        self.inner.stat(key).await
    }

    fn list(&self, prefix: ObjectPrefix) -> BoxStream<'_, Result<Listed, Error>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: ObjectKey) -> Result<(), Error> {
        self.inner.delete(key).await
    }

    async fn sweep(&self, before: SystemTime) -> Result<u64, Error> {
        self.inner.sweep(before).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_go_out_three_at_a_time_and_never_more() {
    let made = repository::make().await;
    let backend = Arc::new(Together {
        inner: made.backend.clone(),
        meet: Barrier::new(UPLOADS_MOST),
        under_way: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        begun: AtomicUsize::new(0),
    });
    let repository = made.open_on(Arc::clone(&backend) as Arc<dyn Backend>, vec![made.writer()]).await;
    // Three packs and a bit; the first three only end when all of them are under way.
    let content = Bytes::from(noise(11, 99 << 20));
    let write = async {
        let mut writer = Writer::new(&repository, WriterOptions::default()).unwrap();
        let stream = writer.begin(StreamKind::Object).await.unwrap();
        for start in (0..content.len()).step_by(1 << 20) {
            writer.push(&stream, content.slice(start..start + (1 << 20)), Marks::default()).await.unwrap();
        }
        let written = writer.end(stream, 0).await.unwrap();
        writer.finish().await.unwrap();
        written
    };
    let written = tokio::time::timeout(Duration::from_secs(300), write).await.expect("three are under way at once");
    assert_eq!(backend.most.load(Ordering::SeqCst), UPLOADS_MOST);
    assert!(backend.begun.load(Ordering::SeqCst) > UPLOADS_MOST);
    let reader = orkvault::repo::Reader::new(&made.open_reader().await).unwrap();
    assert!(read_all(reader.open(&written.record().unwrap())).await.unwrap() == content);
}

#[tokio::test]
async fn an_unchanged_night_makes_a_handful_of_requests() {
    let Some(server) = S3Server::start(Program::Minio).await else { return };
    server.bucket("vault").await;
    let endpoint = server.endpoint.clone();
    let work = move || {
        let vault = Vault::empty_in_bucket(&endpoint, "s3://vault");
        vault.init().expect(0);
        let mut requests = Vec::new();
        for _ in 0..12 {
            let made = vault.run_fed(["snapshot", "--json", "--from", "mongodb=-"], &archive()).expect(0).json();
            requests.push(made["requests"].clone());
        }
        let all: Vec<u64> = requests.iter().map(|counts| counts["all"].as_u64().unwrap()).collect();
        println!("{all:?}\n{}", requests[11]);
        // It does not grow with the nights: config, key slots, what there is (each listing with a look behind its end),
        // the secrets, the snapshot. Manifests, index parts and slots are on this host.
        assert!(all[0] <= 9 && all[11] <= 7, "{all:?}");
        let line = vault.run_fed(["snapshot", "--verbose", "--from", "mongodb=-"], &archive()).expect(0).text();
        assert!(line.contains(" requests (") && line.contains("0 retries"), "{line}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

/// Reading the system's certificates takes longer than many a night.
#[tokio::test]
async fn nobody_reads_certificates_where_nothing_is_encrypted() {
    let mut world = World { page_len: 1000, ..World::default() };
    world.buckets.entry("vault".to_owned()).or_default();
    world.put("avatars", "one", Object::new(b"content", 1));
    let server = FaultyS3::start(world).await;
    let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
    write_mode(&vault.path("work/id"), USER.as_bytes(), 0o600);
    write_mode(&vault.path("work/key"), PASSWORD.as_bytes(), 0o600);
    let lines = [
        "[rustfs]".to_owned(),
        format!("endpoint = \"{}\"", server.endpoint),
        "access_key_file = \"id\"".to_owned(),
        "secret_key_file = \"key\"".to_owned(),
        "buckets = [\"avatars\"]".to_owned(),
    ];
    write_mode(&vault.path("work/orkvault.toml"), lines.join("\n").as_bytes(), 0o600);

    // Who opens it for reading meets who opened it for writing.
    let pipe = vault.path("certificates");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let were_read = Arc::new(AtomicBool::new(false));
    let (met, written) = (Arc::clone(&were_read), pipe.clone());
    std::thread::spawn(move || {
        // The reader sees the end, and so goes on, only when that was noted.
        while let Ok(_pipe) = std::fs::File::options().write(true).open(&written) {
            met.store(true, Ordering::SeqCst);
        }
    });
    let run = move || {
        vault.init().expect(0);
        let mut command = vault.command(["snapshot", "-c", "rustfs"]);
        command.env("SSL_CERT_FILE", &pipe);
        Ran::new(command.output().unwrap()).expect(0);
        // Whoever reads them would be found out.
        let mut command = vault.command(["snapshots"]);
        command.env("SSL_CERT_FILE", &pipe).env("AWS_ENDPOINT_URL_S3", "https://127.0.0.1:1");
        assert!(!were_read.load(Ordering::SeqCst));
        assert_ne!(command.status().unwrap().code(), Some(0));
        assert!(were_read.load(Ordering::SeqCst));
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}
