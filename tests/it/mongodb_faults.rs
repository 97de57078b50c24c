//! mongodump and mongorestore that fail, lie, hang or die: never a good capture, never a good restore.

use std::time::Duration;

use orkvault::component::mongodb::archive::{ArchiveError, EmptyArchive};
use orkvault::component::mongodb::{ArchiveFile, Error as MongoError, MongoSink, MongoSource, Server, SinkOptions};
use orkvault::component::{Captured, Error, ErrorKind, Sink, Source};

use crate::support::mongodb::{FakeTools, Memory, Snapshot, archive, data_dir, database, login, on_host};

const UNUSED: &str = "exit 99";

async fn capture(tools: &FakeTools) -> Result<(Captured, Vec<u8>), Error> {
    let mut memory = Memory::default();
    let mut source = MongoSource::new(tools.tools(), database("basic")).unwrap();
    let captured = source.capture(&mut memory).await?;
    assert_eq!(memory.name, "mongo.archive");
    Ok((captured, memory.bytes))
}

async fn capture_error(archive: &[u8], mongodump: &str) -> MongoError {
    match capture(&FakeTools::new(archive, mongodump, UNUSED)).await {
        Err(Error::Mongodb(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A snapshot of `basic` as a capture makes it.
async fn snapshot() -> Snapshot {
    let tools = FakeTools::new(&archive("basic"), "cat \"$ARCHIVE\"", UNUSED);
    let (captured, bytes) = capture(&tools).await.unwrap();
    Snapshot::new(captured, bytes)
}

fn options(target: Option<&str>) -> SinkOptions {
    SinkOptions { database: target.map(str::to_owned), idle: Duration::from_secs(60) }
}

async fn restore_error(mongorestore: &str) -> MongoError {
    let tools = FakeTools::new(b"", UNUSED, mongorestore);
    let mut sink = MongoSink::new(tools.tools(), options(None)).unwrap();
    match sink.restore(&mut snapshot().await).await {
        Err(Error::Mongodb(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whole_archive_and_exit_code_0_are_a_capture_with_its_catalogue() {
    let bytes = archive("basic");
    let tools = FakeTools::new(&bytes, "echo \"$@\" >\"$DIR/arguments\"; cat \"$ARCHIVE\"", UNUSED);
    let (captured, stored) = capture(&tools).await.unwrap();
    assert_eq!(stored, bytes);
    assert_eq!(tools.read("arguments"), b"--archive --numParallelCollections=1 --db=basic\n");
    assert_eq!(captured.consistency, "fuzzy");
    assert_eq!(captured.facts["database"], "basic");
    assert_eq!(captured.facts["documents"], "457");
    assert_eq!(captured.facts["server_version"], "8.2.11");
    let orders = captured.catalogue.iter().find(|row| row.name == "basic.orders").unwrap();
    assert_eq!((orders.kind.as_str(), orders.records, orders.bytes), ("collection", 400, 200_939));
    assert_eq!(captured.warnings, [] as [String; 0]);
}

#[tokio::test]
async fn whole_archive_with_another_exit_code_is_no_capture() {
    let script = "cat \"$ARCHIVE\"; echo 'Failed: cursor lost' >&2; exit 1";
    match capture_error(&archive("basic"), script).await {
        MongoError::ToolFailed { program: "mongodump", exit_code: 1, stderr_tail, .. } => {
            assert_eq!(stderr_tail, "Failed: cursor lost");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn cut_archive_with_exit_code_0_is_no_capture() {
    let bytes = archive("basic");
    for len in [1, 3, 4, 70, 5000, 120_000, bytes.len() / 2, bytes.len() - 70, bytes.len() - 1] {
        let error = capture_error(&bytes, &format!("head -c {len} \"$ARCHIVE\"")).await;
        let is_cut =
            matches!(error, MongoError::Archive(ArchiveError::Truncated { .. } | ArchiveError::Unclosed { .. }));
        assert!(is_cut, "{len} bytes: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Failed);
    }
}

#[tokio::test]
async fn mongodump_that_is_killed_is_no_capture() {
    let error = capture_error(&archive("basic"), "cat \"$ARCHIVE\"; kill -9 $$").await;
    assert!(matches!(error, MongoError::ToolFailed { exit_code: 137, .. }), "{error:?}");
}

#[tokio::test]
async fn mongodump_that_hangs_is_killed_and_is_no_capture() {
    let tools = FakeTools::new(&archive("basic"), "echo $$ >\"$DIR/pid\"; cat \"$ARCHIVE\"; exec sleep 1000", UNUSED);
    let mut options = database("basic");
    options.idle = Duration::from_millis(300);
    let mut source = MongoSource::new(tools.tools(), options).unwrap();
    match source.capture(&mut Memory::default()).await {
        Err(Error::Mongodb(MongoError::Idle { program: "mongodump", .. })) => {}
        other => panic!("{other:?}"),
    }
    let pid = String::from_utf8(tools.read("pid")).unwrap();
    for _ in 0..200 {
        // A killed process is a zombie until the runtime has waited for it.
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap_or_default();
        if status.is_empty() || status.contains("State:\tZ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("mongodump still runs");
}

#[tokio::test]
async fn nothing_at_all_and_an_empty_database_are_refused() {
    let error = capture_error(b"", "exit 0").await;
    assert!(matches!(error, MongoError::Archive(ArchiveError::NoBytes)), "{error:?}");
    let empty = std::fs::read(data_dir().join("empty-database.archive")).unwrap();
    let error = capture_error(&empty, "cat \"$ARCHIVE\"").await;
    assert!(matches!(error, MongoError::Archive(ArchiveError::NoNamespace)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Refused);

    let tools = FakeTools::new(&empty, "cat \"$ARCHIVE\"", UNUSED);
    let mut options = database("nothing_here");
    let mut source = MongoSource::new(tools.tools(), options.clone()).unwrap();
    assert!(source.probe().await.is_err());
    options.empty = EmptyArchive::Allowed;
    let mut source = MongoSource::new(tools.tools(), options).unwrap();
    source.probe().await.unwrap();
    let captured = source.capture(&mut Memory::default()).await.unwrap();
    assert_eq!(captured.facts["database"], "nothing_here");
    assert!(captured.catalogue.is_empty());
}

#[tokio::test]
async fn a_gzipped_archive_is_refused_with_the_reason() {
    let gzip = std::fs::read(data_dir().join("basic-gzip.archive.gz")).unwrap();
    let error = capture_error(&gzip, "cat \"$ARCHIVE\"").await;
    assert!(error.to_string().contains("compressed with gzip"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn words_among_the_bytes_are_no_capture() {
    let script = "head -c 300000 \"$ARCHIVE\"; echo 'warning: log line'; tail -c +300001 \"$ARCHIVE\"";
    let error = capture_error(&archive("basic"), script).await;
    assert!(matches!(error, MongoError::Archive(_)), "{error:?}");
    let error = capture_error(b"OCI runtime exec failed: no such file", "cat \"$ARCHIVE\"").await;
    assert!(matches!(error, MongoError::Archive(ArchiveError::NotAnArchive { .. })), "{error:?}");
}

#[tokio::test]
async fn missing_tools_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for server in [Server::default(), Server { login: Some(login("x")), ..Server::default() }] {
        let mut source = MongoSource::new(on_host(dir.path(), server), database("basic")).unwrap();
        match source.probe().await {
            Err(Error::Mongodb(error @ MongoError::ToolMissing { program: "mongodump", .. })) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_password_reaches_the_tool_and_nobody_else() {
    const PASSWORD: &str = "s3cret \"quoted\" \\ $HOME `id` 'x";
    let note = "tr '\\0' '\\n' </proc/$$/cmdline >\"$DIR/cmdline\"; env >\"$DIR/env\"; cat <&3 >\"$DIR/config\"";
    let fail = "echo \"failed: mongodb://admin:s3cret@h:1/ $(cat \"$DIR/config\")\" >&2; exit 1";
    let restore = format!("{note}; cat >\"$DIR/stdin\"; {fail}");
    let tools = FakeTools::new(b"", &format!("{note}; {fail}"), &restore);
    let server = || Server { login: Some(login(PASSWORD)), ..Server::default() };
    let directory = tools.path("");
    let mut source = MongoSource::new(on_host(&directory, server()), database("basic")).unwrap();
    let mut sink = MongoSink::new(on_host(&directory, server()), options(None)).unwrap();
    let mut stored = snapshot().await;
    for round in ["dump", "restore"] {
        let error = match round {
            "dump" => source.capture(&mut Memory::default()).await.unwrap_err(),
            _ => sink.restore(&mut stored).await.unwrap_err(),
        };
        assert_eq!(tools.read("config"), b"password: \"s3cret \\\"quoted\\\" \\\\ $HOME `id` 'x\"\n", "{round}");
        for place in ["cmdline", "env"] {
            let text = String::from_utf8(tools.read(place)).unwrap();
            assert!(!text.contains("s3cret"), "{round} {place}: {text}");
        }
        let cmdline = String::from_utf8(tools.read("cmdline")).unwrap();
        assert!(cmdline.contains("--username=admin\n--authenticationDatabase=admin\n--config=/dev/fd/3"));
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("mongodb://***@h:1/"), "{shown}");
        assert!(!shown.contains("admin:s3cret"), "{shown}");
    }
    assert_eq!(tools.read("stdin"), stored.bytes, "what follows the config is the archive, whole");
}

#[tokio::test]
async fn an_archive_from_a_file_goes_through_the_same_checks() {
    let bytes = archive("basic");
    let mut memory = Memory::default();
    let file = std::io::Cursor::new(bytes.clone());
    let mut source = ArchiveFile::new("basic.archive", file, EmptyArchive::Refused);
    source.probe().await.unwrap();
    let captured = source.capture(&mut memory).await.unwrap();
    assert_eq!((memory.bytes, captured.facts["database"].as_str()), (bytes.clone(), "basic"));
    assert_eq!(captured, snapshot().await.captured);
    assert!(source.capture(&mut Memory::default()).await.is_err(), "it can be read once");

    let cut = std::io::Cursor::new(bytes[..bytes.len() - 9].to_vec());
    let mut source = ArchiveFile::new("standard input", cut, EmptyArchive::Refused);
    assert!(matches!(source.capture(&mut Memory::default()).await, Err(Error::Mongodb(MongoError::Archive(_)))));
}

#[tokio::test]
async fn a_restore_hands_over_every_byte_and_compares_the_count() {
    let script = "echo \"$@\" >\"$DIR/arguments\"; cat >\"$DIR/stdin\"
        printf '2026\\t457 document(s) restored successfully. 0 document(s) failed to restore.\\n' >&2";
    let mut stored = snapshot().await;
    for (target, renamed) in [(None, ""), (Some("basic"), ""), (Some("other"), " --nsFrom=basic.* --nsTo=other.*")] {
        let tools = FakeTools::new(b"", UNUSED, script);
        let mut sink = MongoSink::new(tools.tools(), options(target)).unwrap();
        let restored = sink.restore(&mut stored).await.unwrap();
        assert_eq!(tools.read("stdin"), stored.bytes);
        let arguments = String::from_utf8(tools.read("arguments")).unwrap();
        assert_eq!(arguments.trim_end(), format!("--archive --drop --stopOnError{renamed}"));
        assert_eq!(restored.bytes, u64::try_from(stored.bytes.len()).unwrap());
        assert!(restored.notes[0].starts_with("457 documents in 11 collections"), "{:?}", restored.notes);
        assert_eq!(restored.notes[0].contains("other (basic in the snapshot)"), target == Some("other"));
    }
}

#[tokio::test]
async fn mongorestore_that_lies_is_found_out() {
    let said = |restored: u64, failed: u64| {
        format!("printf '{restored} document(s) restored successfully. {failed} document(s) failed to restore.\\n' >&2")
    };
    let failed = restore_error(&format!("cat >/dev/null; {}", said(0, 457))).await;
    assert!(matches!(failed, MongoError::HalfRestored { exit_code: 0, failed: 457, expected: 457, .. }), "{failed:?}");
    let fewer = restore_error(&format!("cat >/dev/null; {}", said(456, 0))).await;
    assert!(matches!(fewer, MongoError::HalfRestored { exit_code: 0, restored: 456, .. }), "{fewer:?}");
    assert!(fewer.to_string().starts_with("database basic is only partly restored"), "{fewer}");
    let silent = restore_error("cat >/dev/null").await;
    assert!(matches!(silent, MongoError::RestoreUnproven { exit_code: 0, .. }), "{silent:?}");
    let early = restore_error(&format!("head -c 1000 >/dev/null; {}", said(457, 0))).await;
    assert!(matches!(early, MongoError::RestoreUnproven { exit_code: 0, .. }), "{early:?}");
}

#[tokio::test]
async fn mongorestore_that_fails_midway_leaves_a_half_restored_database_and_says_so() {
    let script = "head -c 200000 >/dev/null
        printf 'dropping collection `basic.users` before restoring\\n' >&2
        printf 'Failed: archive io error\\n52 document(s) restored successfully. 0 document(s) failed to restore.\\n' >&2
        exit 1";
    let error = restore_error(script).await;
    assert!(matches!(error, MongoError::HalfRestored { exit_code: 1, restored: 52, .. }), "{error:?}");
    let killed = restore_error("printf 'dropping collection `basic.users`\\n' >&2; kill -9 $$").await;
    assert!(matches!(killed, MongoError::RestoreUnproven { exit_code: 137, .. }), "{killed:?}");
}

#[tokio::test]
async fn mongorestore_that_never_began_leaves_everything_as_it_was_and_says_why() {
    let refused =
        "echo 'error connecting to host: auth error: (AuthenticationFailed) authentication failed' >&2; exit 1";
    let error = restore_error(refused).await;
    assert!(matches!(error, MongoError::LoginRefused { program: "mongorestore", .. }), "{error:?}");
    let error = restore_error("echo 'server selection error: context deadline exceeded' >&2; exit 1").await;
    assert!(matches!(error, MongoError::Unreachable { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_repository_that_fails_midway_never_looks_like_the_end_of_the_archive() {
    let script = "cat >/dev/null; echo end >\"$DIR/end\"; exit 0";
    let tools = FakeTools::new(b"", UNUSED, script);
    let mut sink = MongoSink::new(tools.tools(), options(None)).unwrap();
    let mut stored = snapshot().await;
    stored.fails_at = Some(300_000);
    let error = sink.restore(&mut stored).await.unwrap_err();
    assert!(matches!(error, Error::Stored { .. }), "{error:?}");
    assert!(!tools.path("end").exists());
    stored.fails_at = None;
    stored.bytes[400_000] ^= 1;
    let error = sink.restore(&mut stored).await.unwrap_err();
    assert!(matches!(error, Error::Mongodb(MongoError::Archive(_))), "{error:?}");
    assert!(!tools.path("end").exists());
}

#[tokio::test]
async fn a_plan_asks_the_server_and_changes_nothing() {
    let existing = "[ \"$2\" = --numParallelCollections=1 ] && [ \"$3\" = --db=other ] || exit 9; cat \"$ARCHIVE\"";
    let restore = "[ \"$1\" = --version ] && { echo 'mongorestore version: 100.9.5'; exit 0; }
        echo \"$@\" >\"$DIR/arguments\"; head -c 112 >/dev/null; exit 0";
    let users = archive("basic-one-collection");
    let mut stored = snapshot().await;
    let tools = FakeTools::new(&users, existing, restore);
    let mut sink = MongoSink::new(tools.tools(), options(Some("other"))).unwrap();
    let plan = sink.plan(&mut stored).await.unwrap();
    let arguments = String::from_utf8(tools.read("arguments")).unwrap();
    assert!(arguments.contains("--nsFrom=basic.* --nsTo=other.*") && arguments.contains("--dryRun"), "{arguments}");
    assert_eq!((plan.replaces.len(), plan.creates.len()), (0, 11));
    assert!(plan.creates.iter().any(|line| line.contains("other.orders, with 400 documents")), "{:?}", plan.creates);
    let warned = |words: &str| plan.warnings.iter().any(|warning| warning.contains(words));
    assert!(warned("mongorestore is 100.9.5, older than 100.18.0"), "{:?}", plan.warnings);
    assert!(warned("collection basic.orders is not in the snapshot"), "{:?}", plan.warnings);
    assert!(warned("database basic of the snapshot is restored under another name"), "{:?}", plan.warnings);
}

#[tokio::test]
async fn a_plan_fails_where_the_restore_would() {
    let mut stored = snapshot().await;
    let restore = "[ \"$1\" = --version ] && { echo 'mongorestore version: 100.18.0'; exit 0; }
        cat >/dev/null; echo 'connection refused' >&2; exit 1";
    let tools = FakeTools::new(&stored.bytes, "cat \"$ARCHIVE\"", restore);
    let mut sink = MongoSink::new(tools.tools(), options(None)).unwrap();
    let error = sink.plan(&mut stored).await.unwrap_err();
    assert!(matches!(error, Error::Mongodb(MongoError::Unreachable { .. })), "{error:?}");

    let tools = FakeTools::new(&stored.bytes, "cat \"$ARCHIVE\"", UNUSED);
    let mut sink = MongoSink::new(tools.tools(), options(Some("other"))).unwrap();
    let oplog = Snapshot::new(captured_of("oplog").await, archive("oplog"));
    for (mut stored, expected) in [(oplog, "exactly one database"), (with_oplog(stored), "has an oplog")] {
        let error = sink.plan(&mut stored).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

async fn captured_of(name: &str) -> Captured {
    let file = std::io::Cursor::new(archive(name));
    let mut source = ArchiveFile::new(name, file, EmptyArchive::Refused);
    let captured = source.capture(&mut Memory::default()).await.unwrap();
    assert_eq!(captured.consistency, if name == "oplog" { "point-in-time" } else { "fuzzy" });
    captured
}

fn with_oplog(mut stored: Snapshot) -> Snapshot {
    let mut oplog = stored.captured.catalogue[0].clone();
    oplog.name = ".oplog".to_owned();
    stored.captured.catalogue.push(oplog);
    stored
}

#[test]
fn names_that_no_database_has_are_refused_before_anything_runs() {
    let tools = || FakeTools::new(b"", UNUSED, UNUSED).tools();
    assert!(MongoSource::new(tools(), database("a.*")).is_err());
    assert!(MongoSink::new(tools(), options(Some(""))).is_err());
}
