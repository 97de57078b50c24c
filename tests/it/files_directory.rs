//! A directory tree goes into a store and comes back as it was; nothing leads out of the target.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use orkvault::component::files::{DirectoryOptions, DirectorySink, DirectorySource, Error as FilesError};
use orkvault::component::{ByteStream, Capture, Content, Entry, Error, Sink, Source, StoredContent, StreamKind};

use crate::memory_store::MemoryStore;

/// Far enough ahead that every file counts as settled.
fn later() -> i128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i128::try_from(now.as_nanos()).unwrap() + 3_600_000_000_000
}

fn source(root: &Path) -> DirectorySource {
    source_with(root, Vec::new(), later(), false)
}

fn source_with(root: &Path, excluded: Vec<PathBuf>, now_ns: i128, refresh: bool) -> DirectorySource {
    DirectorySource::new(DirectoryOptions {
        name: "spool".to_owned(),
        root: root.to_owned(),
        excluded,
        now_ns,
        refresh,
    })
}

async fn capture(mut source: DirectorySource, mut store: MemoryStore) -> MemoryStore {
    source.probe().await.unwrap();
    store.captured = source.capture(&mut store).await.unwrap();
    store
}

fn sink(target: &Path) -> DirectorySink {
    DirectorySink::new("spool".to_owned(), target.to_owned())
}

/// Everything that is put back of a tree: path, mode, time, length or target, content.
pub(crate) fn fingerprint(root: &Path) -> Vec<(PathBuf, u32, i64, i64, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            left.extend(fs::read_dir(&path).unwrap().map(|found| found.unwrap().path()));
            Vec::new()
        };
        if path != root {
            let relative = path.strip_prefix(root).unwrap().to_owned();
            rows.push((relative, meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
        }
    }
    rows.sort();
    rows
}

fn tree() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::create_dir(at("a-")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("a/b/c/deep"), "deep").unwrap();
    fs::write(at("a.txt"), "").unwrap();
    fs::write(at("large"), vec![7_u8; 3_500_000]).unwrap();
    fs::hard_link(at("large"), at("large-again")).unwrap();
    fs::write(root.path().join(OsStr::from_bytes(b"a/new\nline \xff")), "odd").unwrap();
    symlink("../nowhere", at("a/link")).unwrap();
    // set-id bits only come back with the owner, which only root can put back
    let mode = if rustix::process::geteuid().is_root() { 0o4750 } else { 0o750 };
    fs::set_permissions(at("a/b/c/deep"), Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(at("a/b"), Permissions::from_mode(0o550)).unwrap();
    root
}

#[tokio::test]
async fn a_tree_comes_back_as_it_was_with_modes_times_links_and_odd_names() {
    let root = tree();
    let mut store = capture(source(root.path()), MemoryStore::default()).await;
    assert_eq!(store.captured.warnings, Vec::<String>::new());
    assert_eq!(store.captured.catalogue[0].records, 5);
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("above/it/new");
    let mut sink = sink(&into);
    let plan = sink.plan(&mut store).await.unwrap();
    assert!(plan.replaces.is_empty() && !target.path().join("above").exists());
    assert!(plan.warnings.iter().any(|line| line.contains("above\" does not exist: it is made")), "{plan:?}");
    let restored = sink.restore(&mut store).await.unwrap();
    assert_eq!(restored.bytes, store.captured.catalogue[0].bytes);
    assert_eq!(fingerprint(&into), fingerprint(root.path()));
    // A link to a disk that is not mounted is in the way, and found before anything is replaced.
    std::os::unix::fs::symlink(target.path().join("away"), target.path().join("disk")).unwrap();
    let beyond = DirectorySink::new("spool".to_owned(), target.path().join("disk/spool")).plan(&mut store).await;
    assert!(beyond.is_err(), "{beyond:?}");
    // once more over what is there: named in the plan, and the same afterwards
    let plan = sink.plan(&mut store).await.unwrap();
    assert_eq!(plan.replaces.len(), 6, "{plan:?}");
    sink.restore(&mut store).await.unwrap();
    assert_eq!(fingerprint(&into), fingerprint(root.path()));
}

#[tokio::test]
async fn the_root_itself_comes_back_with_its_mode_owner_and_time() {
    let root = tree();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(root.path(), Some(999), Some(998)).unwrap();
    }
    fs::set_permissions(root.path(), Permissions::from_mode(0o2770)).unwrap();
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 5);
    fs::File::open(root.path()).unwrap().set_modified(then).unwrap();
    let mut store = capture(source(root.path()), MemoryStore::default()).await;
    let target = tempfile::tempdir().unwrap();
    let into = target.path().join("new");
    let restored = sink(&into).restore(&mut store).await.unwrap();
    assert_eq!(restored.warnings, [""; 0]);
    let of = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let mode = if is_root { meta.mode() & 0o7777 } else { meta.mode() & 0o1777 };
        (mode, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(of(&into), of(root.path()));
    // A snapshot from before this was kept says nothing of it: the target is its owner's alone.
    store.captured.facts.retain(|name, _| !name.starts_with("root_"));
    let older = target.path().join("older");
    sink(&older).restore(&mut store).await.unwrap();
    assert_eq!(of(&older).0, 0o700);
    // What is above the target may be no directory.
    fs::write(target.path().join("file"), "").unwrap();
    let error = sink(&target.path().join("file/below/new")).plan(&mut store).await.err();
    assert!(matches!(error, Some(Error::Files(FilesError::InTheWay { .. }))), "{error:?}");
}

#[tokio::test]
async fn a_second_capture_reads_only_what_changed() {
    let root = tree();
    let first = capture(source(root.path()), MemoryStore::default()).await;
    assert_eq!(first.read, 5);
    fs::write(root.path().join("a.txt"), "changed").unwrap();
    fs::write(root.path().join("b"), "new").unwrap();
    let second = capture(source(root.path()), first.next_night()).await;
    assert_eq!(second.read, 2);
    assert_eq!(second.content("a.txt"), b"changed");
    assert_eq!(second.content("a/b/c/deep"), b"deep");
    let refreshed = capture(source_with(root.path(), Vec::new(), later(), true), first.next_night()).await;
    assert_eq!(refreshed.read, 6);
}

#[tokio::test]
async fn a_change_that_keeps_length_and_modification_time_is_still_seen() {
    let root = tree();
    let first = capture(source(root.path()), MemoryStore::default()).await;
    let path = root.path().join("a/b/c/deep");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "DEEP").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    let second = capture(source(root.path()), first.next_night()).await;
    assert_eq!(second.content("a/b/c/deep"), b"DEEP");
}

#[tokio::test]
async fn a_file_that_changed_within_the_last_tick_is_read_again_next_time() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("x"), "x").unwrap();
    let now = later() - 3_600_000_000_000;
    let first = capture(source_with(root.path(), Vec::new(), now, false), MemoryStore::default()).await;
    let second = capture(source(root.path()), first.next_night()).await;
    assert_eq!(second.read, 1);
}

#[tokio::test]
async fn an_excluded_repository_inside_the_tree_is_not_captured() {
    let root = tree();
    let store =
        capture(source_with(root.path(), vec![root.path().join("a")], later(), false), MemoryStore::default()).await;
    assert_eq!(store.keys(), ["a-", "a.txt", "empty", "large", "large-again"]);
}

#[tokio::test]
async fn a_missing_root_is_told_as_missing() {
    let root = tempfile::tempdir().unwrap();
    let mut source = source(&root.path().join("gone"));
    assert!(matches!(source.probe().await, Err(Error::Files(FilesError::Missing { .. }))));
}

/// Does something to a file after its first bytes have come.
struct Meddler<'a> {
    store: MemoryStore,
    meddle: &'a (dyn Fn() + Sync),
}

#[async_trait::async_trait]
impl Capture for Meddler<'_> {
    async fn stream(&mut self, name: &str, kind: StreamKind, body: ByteStream) -> Result<u64, Error> {
        self.store.stream(name, kind, body).await
    }

    async fn previous(&mut self) -> Result<Option<(Entry, Option<StoredContent>)>, Error> {
        self.store.previous().await
    }

    async fn entry(&mut self, entry: Entry, content: Content) -> Result<(), Error> {
        let Content::Bytes(mut body) = content else { return self.store.entry(entry, content).await };
        let first = body.next().await.unwrap();
        (self.meddle)();
        let body = Box::pin(futures::stream::iter([first]).chain(body));
        self.store.entry(entry, Content::Bytes(body)).await
    }
}

#[tokio::test]
async fn a_long_file_that_shrinks_or_changes_while_it_is_read_is_an_error_and_one_that_grows_a_warning() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("log");
    let open = || fs::File::options().write(true).open(&path).unwrap();
    let at = |bytes: &[u8], place| std::os::unix::fs::FileExt::write_all_at(&open(), bytes, place).unwrap();
    let then = || open().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let shrink: &(dyn Fn() + Sync) = &|| open().set_len(1_500_000).unwrap();
    let change: &(dyn Fn() + Sync) = &|| at(b"x", 9);
    let change_secretly: &(dyn Fn() + Sync) = &|| {
        at(b"x", 9);
        then();
    };
    let rewrite_longer: &(dyn Fn() + Sync) = &|| at(&vec![8_u8; 4_000_000], 0);
    let touch: &(dyn Fn() + Sync) = &|| open().set_modified(std::time::SystemTime::now()).unwrap();
    let grow: &(dyn Fn() + Sync) = &|| open().set_len(4_000_000).unwrap();
    let cases = [
        (shrink, None),
        (change, None),
        (change_secretly, None),
        (rewrite_longer, None),
        (touch, Some(0)),
        (grow, Some(1)),
    ];
    for (number, (meddle, warnings)) in cases.into_iter().enumerate() {
        fs::write(&path, vec![7_u8; 3_500_000]).unwrap();
        // so that a change within the clock's tick is one
        then();
        let mut meddler = Meddler { store: MemoryStore::default(), meddle };
        let captured = source(root.path()).capture(&mut meddler).await;
        match (captured, warnings) {
            (Ok(captured), Some(count)) => {
                assert_eq!(captured.warnings.len(), count, "{number}: {captured:?}");
                assert!(captured.warnings.iter().all(|line| line.contains("grew")), "{captured:?}");
                assert!(meddler.store.content("log") == vec![7_u8; 3_500_000]);
            }
            (Err(Error::Files(FilesError::Changed { .. })), None) => {}
            (other, _) => panic!("{number}: {other:?}"),
        }
    }
}

/// A store with one file under any key.
fn hostile(key: &[u8]) -> MemoryStore {
    let mut store = MemoryStore::default();
    store.add_file(key, 4, b"evil");
    store
}

#[tokio::test]
async fn keys_that_lead_out_of_the_target_are_refused_before_anything_is_written() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::create_dir(&target).unwrap();
    let long = [b'x'; 256];
    let keys: [&[u8]; 11] =
        [b"../x", b"/x", b"a/../../x", b"a//x", b"./x", b"x/", b"", b"x\0y", b"..", b"a/./b", &long];
    for key in keys {
        let mut sink = sink(&target);
        for error in [sink.plan(&mut hostile(key)).await.err(), sink.restore(&mut hostile(key)).await.err()] {
            assert!(matches!(error, Some(Error::Files(FilesError::UnsafeKey { .. }))), "{key:?}: {error:?}");
        }
    }
    assert_eq!(fingerprint(outside.path()).len(), 1);
}

#[tokio::test]
async fn links_planted_in_the_target_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::create_dir_all(outside.path().join("other")).unwrap();
    fs::create_dir(&target).unwrap();
    symlink("../other", target.join("dir")).unwrap();
    fs::write(outside.path().join("victim"), "mine").unwrap();
    symlink("../victim", target.join("file")).unwrap();
    let error = sink(&target).restore(&mut hostile(b"dir/x")).await.err();
    assert!(matches!(error, Some(Error::Files(FilesError::InTheWay { .. }))), "{error:?}");
    assert!(!outside.path().join("other/x").exists());
    // a link in the place of a file is replaced by the file
    sink(&target).restore(&mut hostile(b"file")).await.unwrap();
    assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"mine");
    assert!(fs::symlink_metadata(target.join("file")).unwrap().is_file());
}

#[tokio::test]
async fn content_that_ends_early_leaves_the_old_file_and_nothing_else() {
    let target = tempfile::tempdir().unwrap();
    fs::write(target.path().join("file"), "old").unwrap();
    let mut store = hostile(b"file");
    store.cut_at = Some(2);
    assert!(sink(target.path()).restore(&mut store).await.is_err());
    let mut store = hostile(b"file");
    store.rows[0].0.len = 5;
    assert!(matches!(
        sink(target.path()).restore(&mut store).await,
        Err(Error::Files(FilesError::ContentLen { expected: 5, got: 4, .. }))
    ));
    assert_eq!(fs::read(target.path().join("file")).unwrap(), b"old");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_directory_in_the_place_of_a_file_is_refused_by_the_plan() {
    let target = tempfile::tempdir().unwrap();
    fs::create_dir(target.path().join("file")).unwrap();
    let error = sink(target.path()).plan(&mut hostile(b"file")).await.err();
    assert!(matches!(error, Some(Error::Files(FilesError::InTheWay { .. }))), "{error:?}");
}
