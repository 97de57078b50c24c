//! A repository in memory, archives to work on, and tools that misbehave.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use orkvault::component::docker::Docker;
use orkvault::component::mongodb::{Address, Login, Place, Server, SourceOptions, Tools};
use orkvault::component::secret::Secret;
use orkvault::component::{
    ByteStream, Capture, Captured, Content, Entry, Error, RecordEnd, Run, Stored, StoredContent, StoredStream,
    StreamKind,
};

/// What was captured.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

#[async_trait]
impl Capture for Memory {
    async fn stream(&mut self, name: &str, kind: StreamKind, mut body: ByteStream) -> Result<u64, Error> {
        assert_eq!(kind, StreamKind::Dump);
        self.name = name.to_owned();
        while let Some(run) = body.next().await.transpose()? {
            assert!((1..=1 << 20).contains(&run.bytes.len()), "a run of {} bytes", run.bytes.len());
            let places: Vec<_> = run.ends.iter().map(|end: &RecordEnd| end.at).collect();
            assert!(places.is_sorted_by(|a, b| a < b));
            assert!(places.iter().all(|at| (1..=run.bytes.len()).contains(&usize::try_from(*at).unwrap())));
            self.bytes.extend_from_slice(&run.bytes);
        }
        Ok(u64::try_from(self.bytes.len()).unwrap())
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        Ok(None)
    }

    async fn entry(&mut self, entry: Entry, _: Content) -> Result<(), Error> {
        panic!("mongodb has no entries: {entry:?}")
    }
}

/// A snapshot of one stream.
pub(crate) struct Snapshot {
    pub(crate) captured: Captured,
    pub(crate) bytes: Vec<u8>,
    /// The repository fails after so many bytes.
    pub(crate) fails_at: Option<usize>,
}

impl Snapshot {
    pub(crate) fn new(captured: Captured, bytes: Vec<u8>) -> Self {
        Self { captured, bytes, fails_at: None }
    }
}

#[async_trait]
impl Stored for Snapshot {
    fn captured(&self) -> &Captured {
        &self.captured
    }

    fn streams(&self) -> Vec<StoredStream> {
        vec![StoredStream { name: "mongo.archive".to_owned(), len: u64::try_from(self.bytes.len()).unwrap() }]
    }

    async fn open(&mut self, stream: &str) -> Result<ByteStream, Error> {
        assert_eq!(stream, "mongo.archive");
        let whole = self.bytes.get(..self.fails_at.unwrap_or(self.bytes.len())).unwrap();
        let runs = whole.chunks(50_000).map(|chunk| Ok(Run::from(Bytes::copy_from_slice(chunk))));
        let failure = self.fails_at.map(|_| {
            Err(Error::Stored { what: "mongo.archive".to_owned(), source: Box::from("a segment is damaged") })
        });
        Ok(Box::pin(stream::iter(runs.chain(failure).collect::<Vec<_>>())))
    }

    async fn rewind(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn next_entry(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        Ok(None)
    }

    async fn open_content(&mut self, entry: &Entry, _: &StoredContent) -> Result<ByteStream, Error> {
        panic!("mongodb has no entries: {entry:?}")
    }
}

/// Returns the directory with archives made by the real mongodump.
pub(crate) fn data_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump")
}

/// Returns one of them.
pub(crate) fn archive(name: &str) -> Vec<u8> {
    zstd::decode_all(std::fs::read(data_dir().join(format!("{name}.archive.zst"))).unwrap().as_slice()).unwrap()
}

/// Writes a program from another process: a file that this one has open for writing, or had when another
/// thread forked, cannot be run.
pub(crate) fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}

/// A directory of tools that are shell scripts.
pub(crate) struct FakeTools {
    dir: tempfile::TempDir,
}

impl FakeTools {
    /// Writes `mongodump` and `mongorestore`. `$DIR` is their directory, `$ARCHIVE` a whole archive in it.
    pub(crate) fn new(archive: &[u8], mongodump: &str, mongorestore: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("archive"), archive).unwrap();
        for (name, script) in [("mongodump", mongodump), ("mongorestore", mongorestore)] {
            let head = format!("#!/bin/sh\nDIR='{}'; ARCHIVE=$DIR/archive\n", dir.path().display());
            let path = dir.path().join(name);
            write_program(&path, &format!("{head}{script}\n"));
        }
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn tools(&self) -> Tools {
        on_host(self.dir.path(), Server::default())
    }
}

pub(crate) fn on_host(directory: &Path, server: Server) -> Tools {
    Tools { place: Place::Host { directory: Some(directory.to_owned()) }, server }
}

pub(crate) fn login(password: &str) -> Login {
    Login { username: "admin".to_owned(), password: Secret::new(password), auth_database: "admin".to_owned() }
}

pub(crate) fn at(port: u16, password: &str) -> Server {
    Server {
        address: Address::Host { host: "127.0.0.1".to_owned(), port },
        login: Some(login(password)),
        selection_timeout_secs: None,
    }
}

pub(crate) fn database(name: &str) -> SourceOptions {
    SourceOptions::database(name)
}

/// Each collection's documents, in any order, as count and hash, its indexes and options: what a restore must bring back.
pub(crate) fn contents(archive: &[u8]) -> BTreeMap<String, (usize, String, String)> {
    let mut contents = BTreeMap::<String, (Vec<Vec<u8>>, Vec<serde_json::Value>)>::new();
    let (mut at, mut terms, mut open) = (4, 0, None::<String>);
    let mut is_header = true;
    while at < archive.len() {
        let len = u32::from_le_bytes(archive[at..at + 4].try_into().unwrap());
        if len == u32::MAX {
            (at, terms, open) = (at + 4, terms + 1, None);
            continue;
        }
        let document = &archive[at..at + usize::try_from(len).unwrap()];
        at += document.len();
        if is_header {
            is_header = false;
        } else if terms == 0 {
            let metadata: serde_json::Value = serde_json::from_str(&text(document, "metadata")).unwrap();
            let mut indexes = metadata["indexes"].as_array().cloned().unwrap_or_default();
            indexes.sort_by_key(|index| index["name"].as_str().map(str::to_owned));
            for index in &mut indexes {
                // mongorestore sends the namespace, under its new name, and some servers keep it.
                index.as_object_mut().unwrap().remove("ns");
            }
            indexes.push(metadata["options"].clone());
            contents.insert(text(document, "collection"), (Vec::new(), indexes));
        } else if let Some(collection) = &open {
            contents.get_mut(collection).unwrap().0.push(document.to_vec());
        } else {
            open = Some(text(document, "collection"));
        }
    }
    let summary = |(mut documents, indexes): (Vec<Vec<u8>>, Vec<_>)| {
        documents.sort_unstable();
        let hash = blake3::hash(&documents.concat()).to_hex().to_string();
        (documents.len(), hash, serde_json::Value::from(indexes).to_string())
    };
    contents.into_iter().map(|(collection, found)| (collection, summary(found))).collect()
}

fn text(document: &[u8], field: &str) -> String {
    let tag = [b"\x02", field.as_bytes(), b"\0"].concat();
    let start = document.windows(tag.len()).position(|window| window == tag).unwrap() + tag.len();
    let len = u32::from_le_bytes(document[start..start + 4].try_into().unwrap());
    let end = start + 4 + usize::try_from(len).unwrap() - 1;
    String::from_utf8(document[start + 4..end].to_vec()).unwrap()
}

/// The stack that `tests/stack/stack env` describes.
pub(crate) struct Stack {
    pub(crate) container: String,
    pub(crate) network: String,
    pub(crate) port: u16,
    pub(crate) password: String,
    pub(crate) tools: PathBuf,
}

impl Stack {
    /// Returns it, or `None` (and says so) where there is none and `ORKVAULT_REQUIRE_STACK` is not set.
    pub(crate) fn find() -> Option<Self> {
        let get = |name: &str| std::env::var(format!("ORKVAULT_TEST_{name}"));
        let Ok(container) = get("MONGODB_CONTAINER") else {
            let required = std::env::var("ORKVAULT_REQUIRE_STACK").is_ok_and(|value| value == "1");
            assert!(!required, "ORKVAULT_REQUIRE_STACK=1, and tests/stack/stack env was not evaluated");
            eprintln!("SKIPPED: no stack in the environment (tests/stack/stack env)");
            return None;
        };
        let run = std::fs::read(get("STACK_RUN_FILE").unwrap()).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
        Some(Self {
            container,
            network: get("NETWORK").unwrap(),
            port: get("MONGODB_PORT").unwrap().parse().unwrap(),
            password: run["secrets"]["mongo_password"].as_str().unwrap().to_owned(),
            tools: PathBuf::from(get("MONGO_TOOLS_DIR").unwrap()),
        })
    }

    /// The tools on this host, and the published port.
    pub(crate) fn on_host(&self) -> Tools {
        on_host(&self.tools, at(self.port, &self.password))
    }

    /// The tools in the server's own container.
    pub(crate) fn in_container(&self, docker: &Docker) -> Tools {
        let server = Server { login: Some(login(&self.password)), ..Server::default() };
        Tools { place: Place::Container { docker: docker.clone(), container: self.container.clone() }, server }
    }
}
