//! Redis by address: captured as a replica would, put back into a data directory.

use orkvault::component::redis::{Access, Error as RedisError, Place, RedisSink, RedisSource, SinkOptions, rdb};
use orkvault::component::{Error, ErrorKind, Sink, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::memory_store::MemoryStore;
use crate::support::redis::{LocalServer, PASSWORD};

fn options(dir: &std::path::Path) -> SinkOptions {
    SinkOptions {
        state_dir: dir.join("state"),
        data_dir: Some(dir.to_owned()),
        ready_limit: std::time::Duration::from_secs(30),
        now_secs: 1_700_000_000,
    }
}

async fn capture(server: &LocalServer) -> Result<MemoryStore, Error> {
    let mut store = MemoryStore::default();
    let mut source = RedisSource::new(server.access(Some(PASSWORD)), "test".to_owned());
    source.probe().await?;
    store.captured = source.capture(&mut store).await?;
    Ok(store)
}

/// Stops the server; returns how it was reached.
fn stopped(server: LocalServer) -> Access {
    server.access(Some(PASSWORD))
}

fn seed(server: &LocalServer) {
    let script = "for i=1,2000 do redis.call('set','key:'..i,string.rep('v',i%50)) end \
                  redis.call('hset','h','a',1,'b',2) redis.call('xadd','s','*','f','v') return 1";
    assert_eq!(server.try_cli(&["EVAL", script, "0"]), "1");
    server.try_cli(&["SET", "volatile", "x", "EX", "100000"]);
    server.try_cli(&["-n", "5", "SADD", "set", "a", "b"]);
}

#[tokio::test]
async fn a_server_comes_back_equal_through_a_data_directory() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let mut store = capture(&server).await.unwrap();
    assert_eq!(store.captured.consistency, "point-in-time");
    assert_eq!(store.captured.facts["redis_version"], "7.0.15");
    assert_eq!(store.captured.facts["structure"], "walked");
    let counted: Vec<_> = store.captured.catalogue.iter().map(|row| (row.name.as_str(), row.records)).collect();
    assert_eq!(counted, [("db0", 2003), ("db5", 1)]);
    let digest = server.digest();
    let dir = tempfile::tempdir().unwrap();
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    assert_eq!(sink.plan(&mut store).await.unwrap().replaces.len(), 0);
    sink.restore(&mut store).await.unwrap();
    let again = LocalServer::start_in(dir, &[]);
    assert_eq!(again.digest(), digest);
    assert!(!again.try_cli(&["PTTL", "volatile"]).starts_with('-'));
}

#[tokio::test]
async fn a_server_that_had_its_aof_on_comes_back_equal_with_its_aof_on() {
    let on = ["--appendonly", "yes", "--appenddirname", "own"];
    let server = LocalServer::start(&on);
    seed(&server);
    let digest = server.digest();
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    // What is not whole leaves nothing behind that a server, or the next restore, would take for an AOF.
    store.cut_at = Some(1000);
    assert!(sink.restore(&mut store).await.is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    store.cut_at = None;
    let plan = sink.plan(&mut store).await.unwrap();
    let restored = sink.restore(&mut store).await.unwrap();
    for warnings in [plan.warnings, restored.warnings] {
        assert!(warnings[0].contains("started with AOF on, as in the snapshot"), "{warnings:?}");
    }
    // Once more, because something else of the restore failed: no server has written to it since.
    sink.plan(&mut store).await.unwrap();
    sink.restore(&mut store).await.unwrap();
    let again = LocalServer::start_in(dir, &on);
    assert_eq!(again.digest(), digest);
    // It goes on with these files as with its own.
    again.try_cli(&["SET", "later", "x"]);
    let changed = again.digest();
    let (access, written) = (again.access(Some(PASSWORD)), again.stop());
    let mut over = RedisSink::new(access, "test".to_owned(), options(written.path()));
    assert!(matches!(over.plan(&mut store).await, Err(Error::Redis(RedisError::AofPresent { .. }))));
    let again = LocalServer::start_in(written, &on);
    assert_eq!(again.digest(), changed);
    // An AOF before Redis 7.0 is no directory: the file is for a start with AOF off.
    store.captured.facts.insert("appenddirname".to_owned(), String::new());
    let dir = tempfile::tempdir().unwrap();
    let mut sink = RedisSink::new(stopped(again), "test".to_owned(), options(dir.path()));
    let restored = sink.restore(&mut store).await.unwrap();
    assert!(restored.warnings[0].contains("with AOF off, though it was on"), "{restored:?}");
    assert_eq!(LocalServer::start_in(dir, &[]).digest(), digest);
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_a_clear_error_and_stores_nothing() {
    let server = LocalServer::start(&[]);
    for password in [Some("wrong"), None] {
        let mut store = MemoryStore::default();
        let mut source = RedisSource::new(server.access(password), "test".to_owned());
        let error = source.probe().await.unwrap_err();
        assert!(matches!(error, Error::Redis(RedisError::Credentials { .. })), "{error:?}");
        let error = source.capture(&mut store).await.unwrap_err();
        assert!(matches!(error, Error::Redis(RedisError::Credentials { .. })), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("wrong\""));
        assert!(store.streams.is_empty());
    }
}

#[tokio::test]
async fn a_running_child_is_waited_for() {
    let server = LocalServer::start(&["--appendonly", "yes", "--rdb-key-save-delay", "300"]);
    seed(&server);
    assert!(server.try_cli(&["BGREWRITEAOF"]).contains("started"));
    let store = capture(&server).await.unwrap();
    assert_eq!(store.captured.catalogue.len(), 2);
}

#[tokio::test]
async fn without_a_directory_there_is_no_way_in_and_an_aof_there_is_refused() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut none = options(dir.path());
    none.data_dir = None;
    let mut sink = RedisSink::new(server.access(Some(PASSWORD)), "test".to_owned(), none);
    assert!(matches!(sink.plan(&mut store).await, Err(Error::Redis(RedisError::NoWayIn { .. }))));
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    let manifest = "file own.aof.1.base.rdb seq 1 type b\nfile own.aof.1.incr.aof seq 1 type i\n";
    let inside = |name: &str| dir.path().join("own").join(name);
    let empty = |name: &str| std::fs::create_dir(dir.path().join(name)).unwrap();
    // By its usual name, by the name that the captured server gave it, by what is in it.
    for (name, captured_name) in [("appendonlydir", ""), ("named", "named"), ("own", "")] {
        store.captured.facts.insert("appenddirname".to_owned(), captured_name.to_owned());
        empty(name);
        if name == "own" {
            std::fs::write(inside("other.manifest"), "{\"name\":\"a web page\"}").unwrap();
            sink.plan(&mut store).await.expect("a directory without an AOF is nobody's business");
            std::fs::write(inside("own.aof.manifest"), manifest).unwrap();
        }
        assert!(matches!(sink.plan(&mut store).await, Err(Error::Redis(RedisError::AofPresent { .. }))), "{name}");
        assert!(matches!(sink.restore(&mut store).await, Err(Error::Redis(RedisError::AofPresent { .. }))), "{name}");
        std::fs::remove_dir_all(dir.path().join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_running_is_refused_whatever_it_answers() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    // With its password, with a wrong one (WRONGPASS), with none (NOAUTH).
    for password in [Some(PASSWORD), Some("wrong"), None] {
        let mut sink = RedisSink::new(server.access(password), "test".to_owned(), options(dir.path()));
        for error in [sink.plan(&mut store).await.unwrap_err(), sink.restore(&mut store).await.unwrap_err()] {
            assert!(matches!(error, Error::Redis(RedisError::Running { .. })), "{error:?}");
            assert_eq!(error.kind(), ErrorKind::Refused);
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    sink.plan(&mut store).await.unwrap();
    sink.restore(&mut store).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_file_gets_the_name_that_the_server_gave_it_unless_that_leads_away() {
    let server = LocalServer::start(&["--dbfilename", "own.rdb"]);
    seed(&server);
    let digest = server.digest();
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    for name in ["../own.rdb", "..", ".", "/own.rdb"] {
        store.captured.facts.insert("dbfilename".to_owned(), name.to_owned());
        let error = sink.plan(&mut store).await.unwrap_err();
        assert!(matches!(error, Error::Redis(RedisError::UnsafeName { .. })), "{error:?}");
    }
    store.captured.facts.insert("dbfilename".to_owned(), "own.rdb".to_owned());
    sink.restore(&mut store).await.unwrap();
    assert!(dir.path().join("own.rdb").exists());
    assert_eq!(LocalServer::start_in(dir, &["--dbfilename", "own.rdb"]).digest(), digest);
}

#[tokio::test]
async fn a_restore_of_bad_bytes_leaves_the_old_file() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("dump.rdb"), "old").unwrap();
    store.cut_at = Some(1000);
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    assert!(sink.restore(&mut store).await.is_err());
    store.cut_at = None;
    store.streams.get_mut("dump.rdb").unwrap()[500] ^= 1;
    assert!(matches!(sink.restore(&mut store).await, Err(Error::Redis(RedisError::Rdb(_)))));
    assert_eq!(std::fs::read(dir.path().join("dump.rdb")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_link_planted_in_the_data_directory_leads_nowhere() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let mut store = capture(&server).await.unwrap();
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = outside.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    let first = format!(".orkvault-partial-{}-0", std::process::id());
    for name in ["dump.rdb", "dump.rdb.orkvault-partial", &first] {
        std::os::unix::fs::symlink(&victim, dir.path().join(name)).unwrap();
    }
    let mut sink = RedisSink::new(stopped(server), "test".to_owned(), options(dir.path()));
    sink.restore(&mut store).await.unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    let dump = std::fs::symlink_metadata(dir.path().join("dump.rdb")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&dump.permissions());
    assert!(dump.is_file() && mode & 0o777 == 0o600, "{dump:?}");
}

#[tokio::test]
async fn only_a_refused_connection_proves_that_no_server_is_running() {
    let server = LocalServer::start(&[]);
    let mut store = capture(&server).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let port = server.port;
    drop(server);
    for (address, fits) in [
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        (format!("no-such-host.invalid:{port}"), false),
    ] {
        let access = Access { place: Place::Address(address), user: None, password: None };
        let mut sink = RedisSink::new(access, "test".to_owned(), options(dir.path()));
        match sink.plan(&mut store).await {
            Ok(_) => assert!(fits),
            Err(error) => {
                assert!(!fits && matches!(error, Error::Redis(RedisError::MayRun { .. })), "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Refused);
            }
        }
    }
}

/// A server that answers like a master and sends `payload` after the `header` of its choice.
async fn master(header: String, payload: Vec<u8>) -> String {
    master_at(1, header, payload).await
}

/// The same with a clock of its own, seconds since 1970.
async fn master_at(clock: u64, header: String, payload: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (header, payload) = (header.clone(), payload.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0_u8; 4096];
                loop {
                    let got = socket.read(&mut buffer).await.unwrap_or(0);
                    if got == 0 {
                        return;
                    }
                    let asked = String::from_utf8_lossy(&buffer[..got]).into_owned();
                    let answer = if asked.contains("TIME") {
                        format!("*2\r\n:{clock}\r\n:0\r\n")
                    } else if asked.contains("server") {
                        "$20\r\nredis_version:7.0.15\r\n".to_owned()
                    } else if asked.contains("INFO") {
                        "$0\r\n\r\n".to_owned()
                    } else if asked.contains("d[ib]*") {
                        "*4\r\n$3\r\ndir\r\n$1\r\n/\r\n$10\r\ndbfilename\r\n$8\r\ndump.rdb\r\n".to_owned()
                    } else if asked.contains("CONFIG") {
                        "*0\r\n".to_owned()
                    } else if asked.contains("PSYNC") {
                        format!("\n\n+FULLRESYNC {} 0\r\n\n\n{header}\r\n", "0".repeat(40))
                    } else {
                        "+OK\r\n".to_owned()
                    };
                    socket.write_all(answer.as_bytes()).await.unwrap();
                    if asked.contains("PSYNC") {
                        // in pieces that cut the mark
                        for part in payload.chunks(33) {
                            if socket.write_all(part).await.is_err() {
                                return;
                            }
                        }
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn capture_from(address: String) -> Result<MemoryStore, Error> {
    let place = orkvault::component::redis::Place::Address(address);
    let access = orkvault::component::redis::Access { place, user: None, password: None };
    let mut store = MemoryStore::default();
    store.captured = RedisSource::new(access, "test".to_owned()).capture(&mut store).await?;
    Ok(store)
}

const FILE: &[u8] = include_bytes!("../data/redis/small.rdb");

#[tokio::test]
async fn the_mark_of_a_stream_of_unknown_length_is_stripped() {
    let mark = "0123456789abcdef0123456789abcdef01234567";
    let address = master(format!("$EOF:{mark}"), [FILE, mark.as_bytes()].concat()).await;
    let store = capture_from(address).await.unwrap();
    assert_eq!(store.streams["dump.rdb"], FILE);
}

#[tokio::test]
async fn a_stream_that_ends_early_is_never_stored() {
    let mark = "0123456789abcdef0123456789abcdef01234567";
    for cut in [0, 100, FILE.len() - 1, FILE.len(), FILE.len() + 39] {
        let whole = [FILE, mark.as_bytes()].concat();
        let address = master(format!("$EOF:{mark}"), whole[..cut].to_vec()).await;
        assert!(matches!(capture_from(address).await, Err(Error::Redis(RedisError::Transport { .. }))), "{cut}");
    }
    let counted = format!("${}", FILE.len());
    let address = master(counted.clone(), FILE[..100].to_vec()).await;
    assert!(matches!(capture_from(address).await, Err(Error::Redis(RedisError::Transport { .. }))));
    let mut flipped = FILE.to_vec();
    flipped[60] ^= 1;
    let error = capture_from(master(counted, flipped).await).await.unwrap_err();
    assert!(
        matches!(error, Error::Redis(RedisError::Rdb(rdb::Error::Checksum { .. } | rdb::Error::Malformed { .. }))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_file_older_than_the_run_is_refused() {
    let address = master_at(4_000_000_000, format!("${}", FILE.len()), FILE.to_vec()).await;
    let error = capture_from(address).await.unwrap_err();
    assert!(matches!(error, Error::Redis(RedisError::Stale { started_secs: 4_000_000_000, .. })), "{error:?}");
}

#[tokio::test]
async fn an_acl_user_with_few_rights_is_enough() {
    let server = LocalServer::start(&[]);
    seed(&server);
    let rights = ["+ping", "+info", "+time", "+config|get", "+psync", "+replconf"];
    let user = [["ACL", "SETUSER", "backup", "on", ">few"].as_slice(), &rights].concat();
    assert_eq!(server.try_cli(&user), "OK");
    let mut access = server.access(Some("few"));
    access.user = Some("backup".to_owned());
    let mut store = MemoryStore::default();
    let captured = RedisSource::new(access, "test".to_owned()).capture(&mut store).await.unwrap();
    assert_eq!(captured.catalogue.len(), 2);
    server.try_cli(&["ACL", "SETUSER", "backup", "-psync"]);
    let mut access = server.access(Some("few"));
    access.user = Some("backup".to_owned());
    let error = RedisSource::new(access, "test".to_owned()).capture(&mut store).await.unwrap_err();
    assert!(
        matches!(&error, Error::Redis(RedisError::Credentials { reply, .. }) if reply.contains("NOPERM")),
        "{error:?}"
    );
}
