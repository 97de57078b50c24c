//! A whole repository of format version 1, committed in `tests/repos/v1`: every later program must restore it.
//!
//! `ORKVAULT_BLESS=1` makes it anew: to be used only when a new version of the format is made. The Python
//! reader in `tests/reader`, written from `docs/FORMAT.md` alone, restores the same files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use orkvault::backend::{LocalBackend, MemoryBackend};
use orkvault::component::{Sink, Source};
use orkvault::crypto::SystemEntropy;
use orkvault::crypto::hash::content_hash;
use orkvault::crypto::writer_key::WriterKey;
use orkvault::format::config::ChunkSizes;
use orkvault::ops::check::{CheckOptions, check};
use orkvault::ops::snapshot::snapshot;
use orkvault::ops::{NoProgress, dump, layout, restore, select};
use orkvault::repo::{Access, InitSecrets, OpenOptions, Repository, SecretsStore, init, init_apart};
use serde_json::{Value, json};

use crate::golden::is_blessing;
use crate::support::night::{Still, options};
use crate::support::repository::{
    DATA_PASSPHRASE, SECRETS_PASSPHRASE, cheap_options, noise, open, open_at, passphrase, read_all,
};
use crate::support::sources::{MemoryContent, MemorySink, MemorySource};

const FIRST_NIGHT_SECS: i64 = 1_790_000_000;
const DAY_SECS: i64 = 86_400;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/repos/v1").join(name)
}

/// Returns rows of text that are all different and compress well.
fn rows(seed: u64, count: u64) -> Vec<u8> {
    let row = |number: u64| format!("{{\"_id\":{},\"name\":\"user {number}\",\"seed\":{seed}}}\n", number * 7919);
    (0..count).flat_map(|number| row(number).into_bytes()).collect()
}

/// What the component has in the first night: a stream of text and noise, and an entry of every kind of content.
fn first_night() -> MemoryContent {
    let mut content = MemoryContent::default();
    content.streams.insert("dump".to_owned(), [rows(1, 4000), noise(1, 120_000), rows(2, 1000)].concat());
    content.streams.insert("empty".to_owned(), Vec::new());
    for object in 0..9_u64 {
        let bytes = if object % 2 == 0 { rows(object, 300) } else { noise(object, 9_000) };
        content.entries.insert(format!("avatars/{object:02}.bin").into_bytes(), (1, bytes));
    }
    content.entries.insert(b"avatars/empty".to_vec(), (1, Vec::new()));
    content.entries.insert("documents/../Ünïcode name".as_bytes().to_vec(), (1, rows(10, 12_000)));
    // More extents than a row may hold, of few chunks: the row has a recipe.
    content.entries.insert(b"documents/large".to_vec(), (1, rows(11, 9_000).repeat(12)));
    content
}

fn second_night() -> MemoryContent {
    let mut content = first_night();
    // The middle is another; the parts before and behind it are shared between the nights.
    content.streams.insert("dump".to_owned(), [rows(1, 4000), noise(2, 60_000), rows(2, 1000)].concat());
    content.entries.insert(b"avatars/03.bin".to_vec(), (2, noise(33, 9_500)));
    content.entries.insert(b"avatars/10.bin".to_vec(), (1, rows(34, 200)));
    content.entries.remove(b"avatars/05.bin".as_slice());
    content
}

/// A few bytes of a stream, which a host that remembers stores alone; and noise: segments that are stored as they are.
fn third_night() -> MemoryContent {
    let mut content = second_night();
    let dump = content.streams.get_mut("dump").unwrap();
    for at in [40_000, 90_000, 90_700] {
        dump[at] ^= 1;
    }
    content.entries.insert(b"avatars/11.bin".to_vec(), (1, noise(35, 40_000)));
    content
}

fn nights() -> [(MemoryContent, MemoryContent); 3] {
    [(first_night(), secrets(1)), (second_night(), secrets(2)), (third_night(), secrets(3))]
}

fn secrets(night: u64) -> MemoryContent {
    let mut content = MemoryContent::default();
    content.entries.insert(b".env".to_vec(), (night, format!("MONGO_PASSWORD=night {night}\n").into_bytes()));
    content.entries.insert(b"keys/jwt-private.pem".to_vec(), (1, noise(77, 1_700)));
    content
}

async fn take(repository: &Repository, second: i64, memory: MemoryContent, secrets: MemoryContent) {
    let source = |name: &str, content| -> Box<dyn Source> {
        Box::new(MemorySource { name: name.to_owned(), content, fails_after: None })
    };
    let sources = vec![source("memory", memory), source("secrets", secrets)];
    snapshot(repository, sources, &options(), &NoProgress, &Still(second)).await.unwrap();
}

/// Makes the repository and the three files beside it that open it.
async fn bless() {
    let _ = fs::remove_dir_all(golden("small"));
    let backend = Arc::new(LocalBackend::create(&golden("small")).await.unwrap());
    let keys = InitSecrets { data: passphrase(DATA_PASSPHRASE), secrets: passphrase(SECRETS_PASSPHRASE) };
    // Small chunks: many of them in files of this size.
    let mut cheap = cheap_options();
    cheap.chunk_sizes[0] = ChunkSizes { min: 2048, average: 8192, max: 65_536, whole_below: 0 };
    let made = init(Arc::clone(&backend) as _, &cheap, keys, Arc::new(SystemEntropy), |_| Ok(()));
    let line = made.await.unwrap().unwrap().writer_key.to_line().to_string();
    let cache = tempfile::tempdir().unwrap();
    for (second, (memory, secrets)) in (0..).map(|night| FIRST_NIGHT_SECS + night * DAY_SECS).zip(nights()) {
        let writer = vec![Access::Writer(WriterKey::parse(&line).unwrap())];
        let repository = open_at(Some(cache.path()), Arc::clone(&backend) as _, writer).await.unwrap();
        take(&repository, second, memory, secrets).await;
    }
    fs::write(golden("small.data-passphrase"), format!("{DATA_PASSPHRASE}\n")).unwrap();
    fs::write(golden("small.secrets-passphrase"), format!("{SECRETS_PASSPHRASE}\n")).unwrap();
    fs::write(golden("small.writer-key"), format!("{}\n", line.trim_end())).unwrap();
    let expected = describe(&open_copy(&golden("small")).await).await;
    fs::write(golden("small.expected.json"), format!("{}\n", serde_json::to_string_pretty(&expected).unwrap()))
        .unwrap();
}

/// Makes the same first night in two stores, with the same passphrases.
async fn bless_apart() {
    let _ = fs::remove_dir_all(golden("apart"));
    fs::create_dir_all(golden("apart")).unwrap();
    let data = Arc::new(LocalBackend::create(&golden("apart/data")).await.unwrap());
    // The manifest names the place of the secrets: not one of this machine.
    let apart = MemoryBackend::new();
    let keys = InitSecrets { data: passphrase(DATA_PASSPHRASE), secrets: passphrase(SECRETS_PASSPHRASE) };
    let (cheap, entropy) = (cheap_options(), Arc::new(SystemEntropy));
    let made = init_apart(Arc::clone(&data) as _, Some(Arc::new(apart.clone())), &cheap, keys, entropy, |_| Ok(()));
    let access = vec![Access::Writer(made.await.unwrap().unwrap().writer_key)];
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    let writer =
        Repository::open_apart(data, SecretsStore::At(Arc::new(apart.clone())), access, options).await.unwrap();
    let mut memory = MemoryContent::default();
    memory.streams.insert("dump".to_owned(), rows(1, 100));
    take(&writer, FIRST_NIGHT_SECS, memory, secrets(1)).await;
    for (key, bytes) in apart.objects() {
        let path = golden("apart/secrets").join(key.to_string());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_of_version_1_in_two_stores_is_whole_and_restores() {
    if is_blessing() {
        bless_apart().await;
    }
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&golden("apart"), copy.path());
    let [data, apart] = ["data", "secrets"].map(|part| copy.path().join(part));
    let apart = SecretsStore::At(Arc::new(LocalBackend::open(&apart).await.unwrap()));
    let access = vec![Access::Data(passphrase(DATA_PASSPHRASE)), Access::Secrets(passphrase(SECRETS_PASSPHRASE))];
    let options = OpenOptions { cache: None, entropy: Arc::new(SystemEntropy) };
    let data = Arc::new(LocalBackend::open(&data).await.unwrap());
    let repository = Repository::open_apart(data, apart, access, options).await.unwrap();
    let found = check(&repository, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!((found.findings, found.notes), (vec![], vec![]));
    let [memory, found] = give(&repository, "latest").await;
    assert_eq!((&memory.streams["dump"], found), (&rows(1, 100), secrets(1)));
}

async fn open_copy(root: &Path) -> Repository {
    let read = |name: &str| passphrase(fs::read_to_string(golden(name)).unwrap().trim_end());
    let access = vec![Access::Data(read("small.data-passphrase")), Access::Secrets(read("small.secrets-passphrase"))];
    open(Arc::new(LocalBackend::open(root).await.unwrap()), access).await.unwrap()
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Restores both components of a snapshot.
async fn give(repository: &Repository, wanted: &str) -> [MemoryContent; 2] {
    let found = select::find(repository, wanted).await.unwrap();
    let into = [(); 2].map(|()| Arc::new(Mutex::new(MemoryContent::default())));
    let sinks = ["memory", "secrets"].iter().zip(&into).map(|(name, into)| -> Box<dyn Sink> {
        Box::new(MemorySink { name: (*name).to_owned(), into: Arc::clone(into) })
    });
    let mut planned = restore::plan(repository, &found, sinks.collect(), &NoProgress).await.unwrap();
    planned.verify(&NoProgress).await.unwrap();
    planned.apply(&NoProgress, |_, _| ()).await.unwrap();
    into.map(|content| content.lock().unwrap().clone())
}

fn facts(bytes: &[u8]) -> Value {
    json!({ "length": bytes.len(), "blake3": content_hash(bytes).to_string() })
}

fn entry_facts(content: &MemoryContent) -> Value {
    let rows = content.entries.iter().map(|(key, (version, bytes))| {
        let mut row = facts(bytes);
        row["version"] = json!(version.to_string());
        (String::from_utf8(key.clone()).unwrap(), row)
    });
    Value::Object(rows.collect())
}

/// Restores everything and says what came back, oldest snapshot first.
async fn describe(repository: &Repository) -> Value {
    let mut snapshots = Vec::new();
    for found in select::load_all(repository).await.unwrap() {
        let [memory, secrets] = give(repository, &found.id.to_string()).await;
        // A dump of one stream goes another way than a restore.
        let stream = dump::open(repository, &found, "memory/dump").await.unwrap();
        assert_eq!(read_all(stream).await.unwrap(), memory.streams["dump"]);
        let catalogue = dump::list(repository, &found, "memory").await.unwrap().catalogue;
        let rows = catalogue.iter().map(|row| json!([row.name, row.kind, row.records, row.bytes]));
        let streams = memory.streams.iter().map(|(name, bytes)| (name.clone(), facts(bytes)));
        snapshots.push(json!({
            "id": found.id.to_string(),
            "createdAt": found.manifest.created_at,
            "streams": streams.collect::<serde_json::Map<_, _>>(),
            "entries": entry_facts(&memory),
            "catalogue": rows.collect::<Vec<_>>(),
            "secrets": entry_facts(&secrets),
        }));
    }
    json!({ "snapshots": snapshots })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_of_version_1_is_whole_and_restores() {
    if is_blessing() {
        bless().await;
    }
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&golden("small"), copy.path());
    let repository = open_copy(copy.path()).await;
    let found = check(&repository, CheckOptions { read_data: true }, &NoProgress).await.unwrap();
    assert_eq!((found.findings, found.notes), (vec![], vec![]));
    assert_eq!(found.sealed_segments, 0);
    let expected: Value = serde_json::from_slice(&fs::read(golden("small.expected.json")).unwrap()).unwrap();
    assert_eq!(describe(&repository).await, expected);
    // The last night refers to parts of chunks, and its recipe is an edit.
    let mut layouts = Vec::new();
    for found in select::load_all(&repository).await.unwrap() {
        let dump = ("memory".to_owned(), "dump".to_owned());
        layouts.push(layout::layouts(&repository, &found).await.unwrap()[&dump]);
    }
    assert!(layouts[2].extents > layouts[0].extents && layouts[2].recipe_bytes * 2 < layouts[0].recipe_bytes);
    // The expectations are those of the content, not only of what a program once restored.
    let snapshots = expected["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), nights().len());
    for (snapshot, (memory, secrets)) in snapshots.iter().zip(nights()) {
        assert_eq!(give(&repository, snapshot["id"].as_str().unwrap()).await, [memory, secrets]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_repository_of_version_1_takes_another_night() {
    if is_blessing() {
        return; // The other test is making it.
    }
    let copy = tempfile::tempdir().unwrap();
    copy_tree(&golden("small"), copy.path());
    let line = fs::read_to_string(golden("small.writer-key")).unwrap();
    let writer = Access::Writer(WriterKey::parse(line.trim_end()).unwrap());
    let writer = open(Arc::new(LocalBackend::open(copy.path()).await.unwrap()), vec![writer]).await.unwrap();
    let mut fourth = third_night();
    fourth.streams.insert("dump".to_owned(), rows(1, 4100));
    take(&writer, FIRST_NIGHT_SECS + 3 * DAY_SECS, fourth.clone(), secrets(4)).await;
    let repository = open_copy(copy.path()).await;
    assert_eq!(give(&repository, "latest").await, [fourth, secrets(4)]);
    assert_eq!(check(&repository, CheckOptions { read_data: true }, &NoProgress).await.unwrap().findings, []);
}
