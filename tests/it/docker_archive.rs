//! Files in real containers, read and written through the daemon.

use std::fs::OpenOptions;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use orkvault::component::docker::{
    BoxError, Docker, Error, ExecCommand, FileContent, FileKind, NewDirectory, NewFile, Upload,
};

use crate::support::docker::{Sleeper, cli, daemon};

fn new_file(name: &str, content: FileContent) -> NewFile {
    NewFile { name: name.to_owned(), uid: 999, gid: 998, mode: 0o640, content }
}

fn one_file(name: &str, content: FileContent) -> Upload {
    Upload { files: vec![new_file(name, content)], mtime_secs: 1_700_000_000, ..Upload::default() }
}

async fn exists(docker: &Docker, container: &Sleeper, path: &str) -> bool {
    match docker.stat(&container.name, path).await {
        Ok(_) => true,
        Err(Error::NoSuchFile { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_links_and_directories_are_told_apart() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    let name = &container.name;
    container.shell(
        "mkdir -p /data/d/e; printf hello > /data/f; chmod 640 /data/f; chown 999:998 /data/f; ln -s f /data/l1; \
         ln -s /data/l1 /data/l2; ln -s loop /data/loop; printf in > /data/d/e/g; ln -s d /data/dl",
    );
    for path in ["/data/f", "/data/f/", "/data//./f", "/data/d/../f", "/data/l1", "/data/l2"] {
        let stat = docker.stat(name, path).await.unwrap();
        assert_eq!((stat.path.as_str(), stat.kind, stat.len), ("/data/f", FileKind::File, 5), "{path}");
        assert_eq!((stat.mode, stat.uid, stat.gid), (0o640, 999, 998));
        assert_eq!(docker.read_file(name, path, 5).await.unwrap(), "hello");
    }
    assert_eq!(docker.read_file(name, "/data/dl/e/g", 99).await.unwrap(), "in");
    assert_eq!(docker.stat(name, "/data").await.unwrap().kind, FileKind::Directory);
    assert_eq!(docker.stat(name, "/").await.unwrap().kind, FileKind::Directory);
    assert!(Command::new("mkfifo").arg(container.host_path("/data/pipe")).status().unwrap().success());
    assert_eq!(docker.stat(name, "/data/pipe").await.unwrap().kind, FileKind::Special);

    let error = docker.read_file(name, "/data/f", 4).await.unwrap_err();
    assert!(matches!(error, Error::TooLong { len: 5, limit: 4, .. }), "{error}");
    let error = docker.read_file(name, "/data/d", 99).await.unwrap_err();
    assert!(matches!(error, Error::WrongKind { found: FileKind::Directory, .. }), "{error}");
    let error = docker.read_file(name, "/data/nothing", 99).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchFile { .. }), "{error}");
    let error = docker.read_file(name, "/data/loop", 99).await.unwrap_err();
    assert!(matches!(error, Error::TooManyLinks { .. } | Error::Api { .. }), "{error}");
    let error = docker.read_file(name, "relative", 99).await.unwrap_err();
    assert!(matches!(error, Error::BadPath { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_is_listed_with_owners_and_modes() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    container.shell("mkdir -p /data/d/e; printf in > /data/d/e/g; chown 999:998 /data/d/e/g; ln -s x /data/d/l");
    let rows = docker.list_dir(&container.name, "/data/d", 1000).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.stat.kind, row.stat.len, row.stat.uid)).collect();
    let expected = [("e", FileKind::Directory, 0, 0), ("e/g", FileKind::File, 2, 999), ("l", FileKind::Link, 0, 0)];
    assert_eq!(rows, expected);
    assert!(matches!(docker.list_dir(&container.name, "/data/d", 1).await, Err(Error::TooLong { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_shrinks_while_it_is_read_is_an_error() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    for (cut_to, name) in [(100 << 20, "much"), ((256 << 20) - 600, "a little")] {
        container.shell("rm -f /data/f; truncate -s 256M /data/f");
        let host_path = container.host_path("/data/f");
        let mut body = docker.open_file(&container.name, "/data/f").await.unwrap();
        assert!(body.next().await.unwrap().is_some());
        OpenOptions::new().write(true).open(host_path).unwrap().set_len(cut_to).unwrap();
        let error = loop {
            match body.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a file cut by {name} was called whole"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Archive { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_grows_while_it_is_read_ends_where_it_ended() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    container.shell("truncate -s 64M /data/f");
    let host_path = container.host_path("/data/f");
    let mut body = docker.open_file(&container.name, "/data/f").await.unwrap();
    OpenOptions::new().write(true).open(host_path).unwrap().set_len(100 << 20).unwrap();
    let mut len = 0;
    while let Some(bytes) = body.next().await.unwrap() {
        len += bytes.len();
    }
    assert_eq!(len, 64 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn body_that_is_dropped_gives_the_container_back() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&[]);
    container.shell("truncate -s 256M /data/f");
    let mut body = docker.open_file(&container.name, "/data/f").await.unwrap();
    assert!(body.next().await.unwrap().is_some());
    drop(body);
    let inspected = tokio::time::timeout(Duration::from_secs(10), docker.inspect(&container.name)).await;
    inspected.expect("the lock is free").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_is_what_was_sent_with_owner_and_mode() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&["--cap-drop", "ALL"]);
    let pieces = (0..50u8).map(|i| Ok(Bytes::from(vec![i; 77_777])));
    let stream = FileContent::Stream { len: 50 * 77_777, body: stream::iter(pieces).boxed() };
    let directory = NewDirectory { name: "aof".to_owned(), uid: 999, gid: 998, mode: 0o750 };
    let files = vec![
        new_file("aof/base.rdb", stream),
        new_file("aof/empty", FileContent::Bytes(Bytes::new())),
        new_file("plain", FileContent::Bytes(Bytes::from_static(b"text"))),
    ];
    // A stopped container takes files too: that is how Redis is restored.
    cli(&["kill", &container.name]);
    let upload = Upload { directories: vec![directory], files, mtime_secs: 1_700_000_000 };
    docker.write_files(&container.name, "/data", upload).await.unwrap();
    let stat = docker.stat(&container.name, "/data/aof").await.unwrap();
    assert_eq!((stat.kind, stat.mode, stat.uid, stat.gid), (FileKind::Directory, 0o750, 999, 998));
    let stat = docker.stat(&container.name, "/data/aof/base.rdb").await.unwrap();
    assert_eq!((stat.len, stat.mode, stat.uid, stat.gid), (50 * 77_777, 0o640, 999, 998));
    assert_eq!(stat.mtime_secs, 1_700_000_000);
    assert_eq!(docker.stat(&container.name, "/data/aof/empty").await.unwrap().len, 0);
    docker.start(&container.name).await.unwrap();
    // Without its capabilities even root is only one of the others to that file.
    let mut command = ExecCommand::new(["cat", "/data/plain"]);
    command.user = Some("999".to_owned());
    let ended = docker.run(&container.name, command).await.unwrap();
    assert_eq!(ended.stdout, b"text");
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_that_cannot_be_right_is_an_error() {
    let Some(docker) = daemon().await else { return };
    let container = Sleeper::start(&["--tmpfs", "/volatile"]);
    container.shell("mkdir /data/d; printf x > /data/f");
    let name = &container.name;
    let text = || FileContent::Bytes(Bytes::from_static(b"text"));
    for bad in ["../up", "/abs", "a//b", "", "d/", "./x", &"n".repeat(101)] {
        let error = docker.write_files(name, "/data", one_file(bad, text())).await.unwrap_err();
        assert!(matches!(error, Error::BadPath { .. }), "{bad}: {error}");
    }
    assert!(matches!(docker.write_files(name, "/none", one_file("x", text())).await, Err(Error::NoSuchFile { .. })));
    assert!(matches!(docker.write_files(name, "/data/f", one_file("x", text())).await, Err(Error::WrongKind { .. })));
    // A directory in a file's place is kept.
    assert!(matches!(docker.write_files(name, "/data", one_file("d", text())).await, Err(Error::Api { .. })));
    assert_eq!(docker.stat(name, "/data/d").await.unwrap().kind, FileKind::Directory);
    // Below a tmpfs the daemon writes to where the container does not look: refused before anything is sent.
    assert!(!exists(&docker, &container, "/volatile/x").await);

    let broken = [Ok(Bytes::from_static(b"ab")), Err(BoxError::from("the pack is damaged"))];
    let broken = FileContent::Stream { len: 4, body: stream::iter(broken).boxed() };
    let short = FileContent::Stream { len: 4, body: stream::iter([Ok(Bytes::from_static(b"abc"))]).boxed() };
    let long = FileContent::Stream { len: 4, body: stream::iter([Ok(Bytes::from_static(b"abcde"))]).boxed() };
    for content in [broken, short, long] {
        let error = docker.write_files(name, "/data", one_file("cut", content)).await.unwrap_err();
        assert!(matches!(error, Error::Body { .. }), "{error}");
    }
}
