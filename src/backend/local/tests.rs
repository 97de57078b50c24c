use std::os::unix::fs::symlink;
use std::time::Duration;

use futures::TryStreamExt;
use tempfile::TempDir;

use super::*;
use crate::format::id::{PackId, SlotId};

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId::from_bytes([number; 32]))
}

async fn fresh() -> (TempDir, PathBuf, LocalBackend) {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("vault");
    let backend = LocalBackend::create(&root).await.unwrap();
    (place, root, backend)
}

async fn put(backend: &LocalBackend, key: ObjectKey, body: &'static [u8]) {
    assert_eq!(backend.put(key, vec![Bytes::from_static(body)]).await.unwrap(), Put::Created);
}

async fn names(backend: &LocalBackend, prefix: ObjectPrefix) -> (Vec<String>, Vec<String>, Vec<String>) {
    let lines: Vec<Listed> = backend.list(prefix).try_collect().await.unwrap();
    let (mut objects, mut leftovers, mut strangers) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        match line {
            Listed::Object(info) => objects.push(info.key.to_string()),
            Listed::Leftover { name, .. } => leftovers.push(name),
            Listed::Stranger { name, .. } => strangers.push(name),
        }
    }
    strangers.sort();
    (objects, leftovers, strangers)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn nobody_else_may_look_into_a_repository() {
    let place = tempfile::tempdir().unwrap();
    set_mode(place.path(), DIRECTORY_MODE).ok().unwrap();
    let root = place.path().join("above/vault");
    let backend = LocalBackend::create(&root).await.unwrap();
    put(&backend, ObjectKey::Config, b"c").await;
    put(&backend, pack(0x3f), b"p").await;
    let object = root.join(pack(0x3f).to_string());
    for file in [&root.join("config"), &object] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    let mut directory = object.parent().unwrap();
    while directory != place.path() {
        assert_eq!(mode(directory), 0o700, "{}", directory.display());
        directory = directory.parent().unwrap();
    }
    assert_eq!(mode(&root.join("tmp")), 0o700);
}

#[test]
fn a_strange_umask_changes_no_mode() {
    // The umask belongs to the whole process: the test above runs again in one of its own.
    for umask in ["0000", "0377"] {
        let output = std::process::Command::new("sh")
            .args(["-c", "umask \"$1\" && exec \"$0\" --exact \"$2\""])
            .arg(std::env::current_exe().unwrap())
            .args(
                [umask, concat!(module_path!(), "::nobody_else_may_look_into_a_repository")]
                    .map(|text| text.strip_prefix("orkvault::").unwrap_or(text)),
            )
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && report.contains("1 passed"), "umask {umask}: {report}");
    }
}

#[tokio::test]
async fn a_put_leaves_no_temporary_file_whether_it_wins_loses_or_fails() {
    let (_place, root, backend) = fresh().await;
    let body = || vec![Bytes::from_static(b"body")];
    let answers = futures::future::join_all((0..8).map(|_| backend.put(pack(1), body()))).await;
    assert!(answers.iter().all(Result::is_ok));
    fs::create_dir_all(root.join(pack(2).to_string())).unwrap();
    let error = backend.put(pack(2), body()).await.unwrap_err();
    assert!(matches!(error, Error::NotAFile { .. }), "{error}");
    fs::write(root.join("keys"), "in the way").unwrap();
    let error = backend.put(ObjectKey::Slot(SlotId::from_bytes([1; 32])), body()).await.unwrap_err();
    assert_eq!((error.kind(), error.key().is_some()), (ErrorKind::Other, true), "{error}");
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn where_names_cannot_be_moved_a_link_publishes_and_replaces_nothing() {
    let (_place, root, backend) = fresh().await;
    let target = root.join("config");
    for (body, is_new) in [("first", true), ("other", false)] {
        let temp = backend.store.write_temp(&[Bytes::from_static(body.as_bytes())]).ok().unwrap();
        assert_eq!(temp.publish_by_link(&target).unwrap(), is_new);
    }
    assert_eq!(fs::read(&target).unwrap(), b"first");
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_crashed_put_left_is_told_apart_and_swept_when_it_is_old() {
    let (_place, root, backend) = fresh().await;
    put(&backend, ObjectKey::Config, b"c").await;
    // A process that is killed runs no destructor.
    let temp = backend.store.write_temp(&[Bytes::from_static(b"half")]).ok().unwrap();
    let path = temp.path.clone();
    std::mem::forget(temp);

    let (objects, leftovers, strangers) = names(&backend, ObjectPrefix::All).await;
    assert_eq!((objects, leftovers.len(), strangers), (vec!["config".to_owned()], 1, vec![]));
    assert_eq!(root.join(&leftovers[0]), path);
    assert_eq!(names(&backend, ObjectPrefix::Packs).await, (vec![], vec![], vec![]));

    let written = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(backend.sweep(written).await.unwrap(), 0);
    assert_eq!(backend.sweep(written + Duration::from_secs(1)).await.unwrap(), 1);
    assert!(!path.exists());
    assert_eq!(backend.get(ObjectKey::Config, 1).await.unwrap(), "c");
}

#[tokio::test]
async fn names_that_are_no_objects_are_listed_as_strangers() {
    let (_place, root, backend) = fresh().await;
    put(&backend, pack(0x3f), b"p").await;
    let id = "3f".repeat(32);
    for name in [format!("data/packs/00/{id}"), format!("data/packs/{id}"), "notes.txt".to_owned(), "a/b/c".to_owned()]
    {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "stranger").unwrap();
    }
    // Neither a link to an object nor one to a directory is followed.
    symlink(root.join(pack(0x3f).to_string()), root.join("config")).unwrap();
    symlink(root.join("data/packs"), root.join("keys")).unwrap();
    fs::create_dir(root.join("lost+found")).unwrap();
    fs::write(root.join("lost+found/x"), "of the file system").unwrap();

    let (objects, leftovers, strangers) = names(&backend, ObjectPrefix::All).await;
    assert_eq!((objects, leftovers), (vec![pack(0x3f).to_string()], vec![]));
    let packs = [format!("data/packs/00/{id}"), format!("data/packs/{id}")];
    assert_eq!(strangers, ["a/b/c", "config", &packs[0], &packs[1], "keys", "notes.txt"]);
    assert_eq!(names(&backend, ObjectPrefix::Packs).await.2, packs);
    assert_eq!(names(&backend, ObjectPrefix::Slots).await, (vec![], vec![], vec!["keys".to_owned()]));
}

#[tokio::test]
async fn what_is_not_a_plain_file_is_never_an_object() {
    let (_place, root, backend) = fresh().await;
    put(&backend, pack(1), b"p").await;
    symlink(root.join(pack(1).to_string()), root.join("config")).unwrap();
    fs::create_dir_all(root.join(pack(2).to_string())).unwrap();
    // Reading a pipe would wait for a writer for ever.
    let pipe = pack(3).to_string();
    fs::create_dir_all(root.join(&pipe).parent().unwrap()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join(&pipe), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for key in [ObjectKey::Config, pack(2), pack(3)] {
        for error in [
            backend.get(key, 9).await.unwrap_err(),
            backend.get_range(key, 0, 1).await.unwrap_err(),
            backend.stat(key).await.unwrap_err(),
            backend.put(key, vec![]).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotAFile { .. }), "{key}: {error}");
            assert_eq!(error.kind(), ErrorKind::Damaged);
        }
    }
}

#[tokio::test]
async fn only_an_empty_directory_becomes_a_repository() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("vault");
    for round in 0..2 {
        LocalBackend::create(&root).await.unwrap();
        // What a crash before the config object leaves, and a fresh file system.
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join(format!("tmp/put-{round}")), "half a config").unwrap();
        fs::create_dir_all(root.join("lost+found")).unwrap();
    }
    for name in ["tmp/mine", "config", "other"] {
        fs::write(root.join(name), "").unwrap();
        let error = LocalBackend::create(&root).await.unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        fs::remove_file(root.join(name)).unwrap();
    }
    fs::write(place.path().join("file"), "").unwrap();
    for path in ["file", "file/below"] {
        assert!(LocalBackend::create(&place.path().join(path)).await.is_err(), "{path}");
    }
}

#[tokio::test]
async fn a_repository_is_found_by_its_config_also_behind_a_link() {
    let (place, root, backend) = fresh().await;
    for missing in [&root, &root.join("nowhere")] {
        let error = LocalBackend::open(missing).await.unwrap_err();
        assert!(matches!(error, Error::NoRepository { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    put(&backend, ObjectKey::Config, b"c").await;
    symlink(&root, place.path().join("link")).unwrap();
    for path in [root.clone(), place.path().join("link")] {
        let opened = LocalBackend::open(&path).await.unwrap();
        assert_eq!(opened.location(), path.display().to_string());
        assert_eq!(opened.get(ObjectKey::Config, 1).await.unwrap(), "c");
    }
    // Opening alone wrote nothing.
    fs::remove_dir(root.join("tmp")).unwrap();
    LocalBackend::open(&root).await.unwrap();
    assert!(!root.join("tmp").exists());
}

#[tokio::test]
async fn a_store_that_is_away_is_not_an_empty_one() {
    let (_place, root, backend) = fresh().await;
    fs::remove_dir_all(&root).unwrap();
    let listing: Result<Vec<_>, _> = backend.list(ObjectPrefix::Packs).try_collect().await;
    assert!(matches!(listing, Err(Error::Failed { operation: Operation::List, .. })));
    assert!(backend.delete(pack(1)).await.is_err());
    assert!(backend.sweep(SystemTime::UNIX_EPOCH).await.is_err());
    assert!(backend.put(pack(1), vec![]).await.is_err());
    assert!(!root.exists());
}

/// What is written where a disk was mounted is hidden by the next mount: nothing of it may count as stored.
#[tokio::test]
async fn the_directory_that_a_disk_was_mounted_on_is_not_taken_for_the_repository() {
    let (_place, root, backend) = fresh().await;
    put(&backend, ObjectKey::Config, b"c").await;
    put(&backend, pack(1), b"a").await;
    let opened = LocalBackend::open(&root).await.unwrap();
    let disk = root.with_file_name("disk");
    fs::rename(&root, &disk).unwrap();
    fs::create_dir(&root).unwrap();
    let error = opened.put(pack(2), vec![Bytes::from_static(b"b")]).await.unwrap_err();
    assert!(error.to_string().contains("config") && error.kind() == ErrorKind::Other, "{error:?}");
    let listed: Result<Vec<Listed>, Error> = opened.list(ObjectPrefix::Packs).try_collect().await;
    assert!(listed.is_err(), "{listed:?}");
    // Nothing is known of what it has.
    for read in [opened.get(pack(1), 9).await, opened.get_range(pack(1), 0, 1).await] {
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Other);
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    // It is mounted again.
    fs::remove_dir(&root).unwrap();
    fs::rename(&disk, &root).unwrap();
    put(&opened, pack(2), b"b").await;
    assert_eq!(names(&opened, ObjectPrefix::Packs).await.0.len(), 2);
}
