//! Thousands of small files: handed over together on the way in, made durable together on the way back.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orkvault::backend::{Counted, FaultBackend};
use orkvault::component::files::{DirectoryOptions, DirectorySink, DirectorySource, Error as FilesError};
use orkvault::component::{Error as ComponentError, Sink, Source};
use orkvault::ops::snapshot::{SnapshotOutcome, snapshot};
use orkvault::ops::{Error, NoProgress, restore, select};
use orkvault::repo::{Access, Repository};

use crate::files_directory::fingerprint;
use crate::memory_store::MemoryStore;
use crate::support::night::{Still, options, take};
use crate::support::repository::{self, noise};
use crate::support::sources::{MemoryContent, MemorySink};

/// More than wait for their names at once, in more directories than that.
const FILES: u64 = 5_000;
const DIRECTORIES: u64 = 160;

/// Lengths on both sides of every limit there is: of a chunk that is whole, of what is handed over whole, of what is held.
fn len(number: u64) -> usize {
    match number {
        7 => 0,
        80 => 65_536,
        81 => 65_537,
        82 => 200_000,
        1_500 => 1 << 20,
        1_501 => (1 << 20) + 1,
        1_502 => 2_500_000,
        _ => usize::try_from(number % 97).unwrap() * 5,
    }
}

fn path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{:03}/file-{number:05}", number % DIRECTORIES))
}

fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for number in 0..DIRECTORIES {
        fs::create_dir(root.path().join(format!("{number:03}"))).unwrap();
        fs::create_dir(root.path().join(format!("{number:03}-empty"))).unwrap();
    }
    for number in 0..FILES {
        fs::write(path(root.path(), number), noise(number, len(number))).unwrap();
        if number % 100 == 0 {
            symlink(format!("to-{number}"), root.path().join(format!("{:03}/link-{number}", number % DIRECTORIES)))
                .unwrap();
        }
    }
    for number in (0..DIRECTORIES).step_by(3) {
        fs::set_permissions(root.path().join(format!("{number:03}")), Permissions::from_mode(0o550)).unwrap();
    }
    root
}

fn source(root: &Path) -> DirectorySource {
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let now = later.duration_since(std::time::UNIX_EPOCH).unwrap();
    DirectorySource::new(DirectoryOptions {
        name: "spool".to_owned(),
        root: root.to_owned(),
        excluded: Vec::new(),
        now_ns: i128::try_from(now.as_nanos()).unwrap(),
        refresh: false,
    })
}

async fn night(repository: &Repository, second: i64, root: &Path) -> SnapshotOutcome {
    let sources: Vec<Box<dyn Source>> = vec![Box::new(source(root))];
    snapshot(repository, sources, &options(), &NoProgress, &Still(second)).await.unwrap()
}

async fn planned(repository: &Repository, target: &Path) -> Result<restore::Restore, Error> {
    let found = select::find(repository, "latest").await?;
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(DirectorySink::new("spool".to_owned(), target.to_owned()))];
    restore::plan(repository, &found, sinks, &NoProgress).await
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_files_of_every_length_come_back_as_they_were_and_only_what_changed_is_read_again() {
    let root = tree();
    let made = repository::make().await;
    let writer = made.open_writer().await;
    let first = night(&writer, 1_790_000_000, root.path()).await;
    let bytes: u64 = (0..FILES).map(|number| len(number) as u64).sum();
    assert_eq!(first.manifest.orkvault.stats.read_bytes, bytes);
    let second = night(&writer, 1_790_086_400, root.path()).await;
    let stats = &second.manifest.orkvault.stats;
    assert_eq!((stats.read_bytes, stats.new_bytes), (0, 0));
    // Behind and before files that are known, in one lot with them and beside a longer one.
    for number in [3, 79, 82, 83, 4_999] {
        fs::write(path(root.path(), number), noise(number + 100_000, len(number) + 1)).unwrap();
    }
    let third = night(&writer, 1_790_172_800, root.path()).await;
    let changed: usize = [3, 79, 82, 83, 4_999].map(|number| len(number) + 1).iter().sum();
    assert_eq!(third.manifest.orkvault.stats.read_bytes, changed as u64);

    let reader = made.open_reader().await;
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("spool");
    let mut planned = planned(&reader, &into).await.unwrap();
    assert_eq!(planned.verify(&NoProgress).await.unwrap(), bytes + 5);
    planned.apply(&NoProgress, |_, _| ()).await.unwrap();
    assert!(fingerprint(&into) == fingerprint(root.path()));
}

#[tokio::test]
async fn what_a_killed_restore_left_unfinished_is_removed_by_the_next_one_and_nothing_else_is() {
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("spool");
    let restore = async || {
        let mut store = cut_short(3);
        store.rows.truncate(2);
        DirectorySink::new("spool".to_owned(), into.clone()).restore(&mut store).await.unwrap()
    };
    restore().await;
    // No process has such a number (the kernel's largest is 4,194,304); the first one always lives.
    let left: Vec<PathBuf> = (0..3).map(|number| into.join(format!("00/.orkvault-partial-9999999-{number}"))).collect();
    let others =
        [".orkvault-partial-1-0", ".orkvault-partial-9999999", ".orkvault-partial-x-1", ".orkvault-partial-9999999-x"];
    for path in left.iter().cloned().chain(others.map(|name| into.join("00").join(name))) {
        fs::write(path, "half").unwrap();
    }
    let restored = restore().await;
    assert!(restored.notes.iter().any(|line| line.starts_with("3 unfinished files")), "{restored:?}");
    assert!(left.iter().all(|path| !path.exists()));
    assert!(others.iter().all(|name| into.join("00").join(name).exists()));
}

/// A night's changes lie together, and in the order of keys far apart: what restores in that order comes to every night's segment
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_changed_on_many_nights_are_read_segment_by_segment_and_not_one_by_one() {
    const ENTRIES: u64 = 1_000;
    const NIGHTS: u64 = 15;
    let made = repository::make().await;
    let mut content = MemoryContent::default();
    let writer = made.open_writer().await;
    for night in 0..NIGHTS {
        for number in (0..ENTRIES).filter(|number| night == 0 || number % NIGHTS == night) {
            let key = format!("bucket/{number:05}").into_bytes();
            content.entries.insert(key, (night, noise(night * ENTRIES + number, 9_000)));
        }
        let second = 1_790_000_000 + 86_400 * i64::try_from(night).unwrap();
        take(&writer, second, &content).await.unwrap();
    }
    let counting = Arc::new(FaultBackend::counting(made.backend.clone(), Counted::All));
    let access = vec![Access::Data(repository::passphrase(repository::DATA_PASSPHRASE))];
    let reader = made.open_on(Arc::clone(&counting) as Arc<_>, access).await;
    let found = select::find(&reader, "latest").await.unwrap();
    let into = Arc::default();
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(MemorySink { name: "memory".to_owned(), into })];
    let mut planned = restore::plan(&reader, &found, sinks, &NoProgress).await.unwrap();
    let before = counting.operations();
    assert_eq!(planned.verify(&NoProgress).await.unwrap(), ENTRIES * 9_000);
    // Three lots, of fifteen nights each, and the key of each night's pack.
    let operations = counting.operations() - before;
    assert!(operations <= 3 * NIGHTS + NIGHTS + 20, "{operations} operations");
}

/// A store in which every row but the last has its content.
fn cut_short(files: usize) -> MemoryStore {
    let mut store = MemoryStore::default();
    for number in 0..files {
        let len = if number + 1 == files { 6 } else { 5 };
        store.add_file(format!("{:02}/{number:05}", number / 500).as_bytes(), len, b"whole");
    }
    store
}

#[tokio::test]
async fn a_restore_that_fails_among_thousands_leaves_whole_files_and_nothing_unfinished() {
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("spool");
    let mut sink = DirectorySink::new("spool".to_owned(), into.clone());
    let error = sink.restore(&mut cut_short(6_000)).await.err();
    assert!(
        matches!(error, Some(ComponentError::Files(FilesError::ContentLen { expected: 6, got: 5, .. }))),
        "{error:?}"
    );
    let found = fingerprint(&into);
    assert!(!found.is_empty());
    for (path, _, _, _, content) in &found {
        let is_directory = into.join(path).is_dir();
        assert!(is_directory || content == b"whole", "{path:?} has {} bytes", content.len());
        assert!(!path.to_string_lossy().contains("partial"), "{path:?}");
    }
}
