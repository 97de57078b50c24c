//! Redis in a container as Orkestra runs it: captured while it works, restored so that it really loads.

use std::time::Duration;

use orkvault::component::docker::Docker;
use orkvault::component::redis::journal::{self, Journal, Resumed};
use orkvault::component::redis::{Error as RedisError, RedisSink, RedisSource, SinkOptions};
use orkvault::component::{Error, Sink, Source};

use crate::memory_store::MemoryStore;
use crate::support::docker::{cli, daemon};
use crate::support::redis::{PASSWORD, RedisContainer, until};

/// Orkestra's compose: a volume on /data, owned by the server's user.
const VOLUME: [&str; 4] = ["--user", "999:999", "--tmpfs", "/run"];

struct Scene {
    docker: Docker,
    redis: RedisContainer,
    state: tempfile::TempDir,
    _data: tempfile::TempDir,
}

impl Scene {
    /// A container whose `/data` belongs to uid 999; `None` where there is no daemon.
    async fn set(args: &[&str]) -> Option<Self> {
        let docker = daemon().await?;
        let data = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(data.path(), Some(999), Some(999)).unwrap();
        let bind = format!("{}:/data", data.path().display());
        let redis = RedisContainer::start(&[&VOLUME[..], &["-v", &bind]].concat(), args);
        Some(Self { docker, redis, state: tempfile::tempdir().unwrap(), _data: data })
    }

    async fn capture(&self) -> Result<MemoryStore, Error> {
        let mut store = MemoryStore::default();
        let mut source = RedisSource::new(self.redis.access(&self.docker, Some(PASSWORD)), "test".to_owned());
        source.probe().await?;
        store.captured = source.capture(&mut store).await?;
        Ok(store)
    }

    fn sink(&self) -> RedisSink {
        let options = SinkOptions {
            state_dir: self.state.path().to_owned(),
            data_dir: None,
            ready_limit: Duration::from_secs(30),
            now_secs: 1_700_000_000,
        };
        RedisSink::new(self.redis.access(&self.docker, Some(PASSWORD)), "test".to_owned(), options)
    }

    fn seed(&self) -> String {
        let script = "for i=1,500 do redis.call('set','key:'..i,string.rep('v',i)) end \
                      redis.call('hset','h','a',1) redis.call('zadd','z',1.5,'m') return 1";
        assert_eq!(self.redis.try_cli(&["EVAL", script, "0"]), "1");
        self.redis.try_cli(&["-n", "2", "RPUSH", "list", "a", "b"]);
        self.redis.digest()
    }

    fn change(&self) {
        self.redis.try_cli(&["FLUSHALL"]);
        self.redis.try_cli(&["SET", "later", "x"]);
    }

    /// Captures, changes, restores and compares; then once more after a restart of the container.
    async fn round_trip(&self) {
        let digest = self.seed();
        let mut store = self.capture().await.unwrap();
        self.change();
        let plan = self.sink().plan(&mut store).await.unwrap();
        assert!(plan.replaces[0].starts_with("all 1 keys in 1 databases"), "{plan:?}");
        assert_ne!(self.redis.digest(), digest);
        let restored = self.sink().restore(&mut store).await.unwrap();
        assert_eq!(restored.notes[0], "redis loaded 503 keys of the file, 0 had expired");
        assert_eq!(restored.notes[1], "db0: 502 keys, 502 in the snapshot, 0 of them expiring");
        assert_eq!(self.redis.digest(), digest);
        assert!(journal::pending(self.state.path()).unwrap().is_empty());
        cli(&["restart", "-t", "30", &self.redis.name]);
        until("redis is back", || self.redis.try_cli(&["PING"]) == "PONG");
        assert_eq!(self.redis.digest(), digest);
    }
}

#[tokio::test]
async fn with_aof_on_the_restored_data_is_what_the_server_loads() {
    let Some(scene) = Scene::set(&["--appendonly", "yes", "--dir", "/data"]).await else { return };
    scene.round_trip().await;
    // the server deletes what the old manifest listed; a second restore finds a manifest of ours
    let files = cli(&["exec", &scene.redis.name, "ls", "/data/appendonlydir"]);
    assert_eq!(files.lines().filter(|name| name.contains("base")).count(), 1, "{files}");
    scene.round_trip().await;
}

#[tokio::test]
async fn after_a_rewrite_of_the_restored_files_they_are_still_whole() {
    let Some(scene) = Scene::set(&["--appendonly", "yes", "--dir", "/data"]).await else { return };
    scene.round_trip().await;
    let digest = scene.redis.digest();
    scene.redis.try_cli(&["BGREWRITEAOF"]);
    until("the rewrite ends", || {
        let info = scene.redis.try_cli(&["INFO", "persistence"]);
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    cli(&["restart", "-t", "30", &scene.redis.name]);
    until("redis is back", || scene.redis.try_cli(&["PING"]) == "PONG");
    assert_eq!(scene.redis.digest(), digest);
}

#[tokio::test]
async fn with_aof_off_the_restored_data_survives_the_saving_stop() {
    let Some(scene) = Scene::set(&["--appendonly", "no", "--dir", "/data", "--save", "3600 1"]).await else { return };
    scene.round_trip().await;
    assert_eq!(scene.redis.try_cli(&["CONFIG", "GET", "save"]), "save\n3600 1");
    assert_eq!(cli(&["exec", &scene.redis.name, "ls", "/data"]), "dump.rdb");
    scene.round_trip().await;
}

#[tokio::test]
async fn a_setting_that_a_restart_undoes_is_told_instead_of_a_success() {
    let Some(scene) = Scene::set(&["--appendonly", "no", "--dir", "/data"]).await else { return };
    scene.seed();
    let mut store = scene.capture().await.unwrap();
    assert_eq!(scene.redis.try_cli(&["CONFIG", "SET", "appendonly", "yes"]), "OK");
    until("the first AOF is written", || scene.redis.try_cli(&["INFO", "persistence"]).contains("aof_rewrites:1"));
    let error = scene.sink().restore(&mut store).await.unwrap_err();
    assert!(matches!(error, Error::Redis(RedisError::SettingsChanged { name: "appendonly", .. })), "{error:?}");
}

#[tokio::test]
async fn a_data_directory_outside_any_volume_works_and_is_warned_of() {
    let Some(docker) = daemon().await else { return };
    let redis = RedisContainer::start(&[], &["--appendonly", "yes", "--dir", "/"]);
    let (state, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scene = Scene { docker, redis, state, _data: data };
    let store = scene.capture().await.unwrap();
    assert!(store.captured.warnings[0].contains("on no volume"), "{:?}", store.captured.warnings);
    assert_eq!(store.captured.facts["dir"], "/");
    scene.round_trip().await;
}

#[tokio::test]
async fn a_data_directory_on_a_tmpfs_is_captured() {
    let Some(docker) = daemon().await else { return };
    let redis = RedisContainer::start(&["--tmpfs", "/data"], &["--dir", "/data"]);
    let (state, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let scene = Scene { docker, redis, state, _data: data };
    scene.seed();
    assert_eq!(scene.capture().await.unwrap().captured.catalogue[0].records, 502);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_an_old_dump_is_never_taken() {
    let Some(scene) = Scene::set(&["--dir", "/data"]).await else { return };
    scene.seed();
    assert_eq!(scene.redis.try_cli(&["SAVE"]), "OK");
    for password in [Some("wrong"), None] {
        let mut store = MemoryStore::default();
        let mut source = RedisSource::new(scene.redis.access(&scene.docker, password), "test".to_owned());
        let error = source.capture(&mut store).await.unwrap_err();
        assert!(matches!(error, Error::Redis(RedisError::Credentials { .. })), "{error:?}");
        assert!(store.streams.is_empty());
    }
}

#[tokio::test]
async fn a_save_that_fails_is_an_error_though_an_old_dump_is_there() {
    let Some(scene) = Scene::set(&["--dir", "/data", "--save", ""]).await else { return };
    scene.seed();
    assert_eq!(scene.redis.try_cli(&["SAVE"]), "OK");
    // the file is written under a temporary name first: a directory that does not take it
    std::fs::set_permissions(scene._data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
    let error = scene.capture().await.unwrap_err();
    assert!(matches!(error, Error::Redis(RedisError::SaveFailed { .. })), "{error:?}");
}

#[tokio::test]
async fn a_rewrite_that_runs_is_waited_for() {
    let args = ["--appendonly", "yes", "--dir", "/data", "--rdb-key-save-delay", "3000"];
    let Some(scene) = Scene::set(&args).await else { return };
    scene.seed();
    scene.redis.try_cli(&["BGREWRITEAOF"]);
    assert_eq!(scene.capture().await.unwrap().captured.catalogue[0].records, 502);
}

#[tokio::test]
async fn bytes_that_are_no_whole_file_change_nothing_and_stop_nothing() {
    for args in [["--appendonly", "yes", "--dir", "/data"], ["--appendonly", "no", "--dir", "/data"]] {
        let Some(scene) = Scene::set(&args).await else { return };
        scene.seed();
        let mut store = scene.capture().await.unwrap();
        scene.change();
        let (digest, started) =
            (scene.redis.digest(), cli(&["inspect", "-f", "{{.State.StartedAt}}", &scene.redis.name]));
        store.cut_at = Some(5000);
        assert!(scene.sink().restore(&mut store).await.is_err());
        store.cut_at = None;
        store.streams.get_mut("dump.rdb").unwrap()[300] ^= 0x40;
        assert!(scene.sink().restore(&mut store).await.is_err());
        assert_eq!(scene.redis.digest(), digest);
        assert_eq!(cli(&["inspect", "-f", "{{.State.StartedAt}}", &scene.redis.name]), started);
        assert!(journal::pending(scene.state.path()).unwrap().is_empty());
    }
}

/// A whole file with a right checksum that holds a type which no server knows.
fn unloadable() -> Vec<u8> {
    let mut bytes = b"REDIS0010\xfe\x00\x63\x01k\x01\x02\xff".to_vec();
    let mut crc = 0_u64;
    for byte in &bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 };
        }
    }
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

#[tokio::test]
async fn data_that_the_server_cannot_load_is_taken_back_and_the_old_data_served_again() {
    for args in [["--appendonly", "yes", "--dir", "/data"], ["--appendonly", "no", "--dir", "/data"]] {
        let Some(scene) = Scene::set(&args).await else { return };
        let digest = scene.seed();
        let mut store = scene.capture().await.unwrap();
        store.streams.insert("dump.rdb".to_owned(), unloadable());
        let error = scene.sink().restore(&mut store).await.unwrap_err();
        assert!(matches!(error, Error::Redis(RedisError::NotReady { rolled_back: true, .. })), "{error:?}");
        assert_eq!(scene.redis.digest(), digest, "{args:?}");
        assert!(journal::pending(scene.state.path()).unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_restore_that_is_dropped_leaves_a_journal_or_a_running_container() {
    let Some(scene) = Scene::set(&["--appendonly", "yes", "--dir", "/data"]).await else { return };
    scene.seed();
    let mut store = scene.capture().await.unwrap();
    let mut sink = scene.sink();
    {
        let state = scene.state.path();
        let restore = sink.restore(&mut store);
        let journalled = async {
            while journal::pending(state).unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = journalled => {}
            done = restore => panic!("it ended without ever being journalled: {done:?}"),
        }
    }
    assert_eq!(journal::pending(scene.state.path()).unwrap().len(), 1);
    // as the next run would; the dropped one meanwhile sees its stop through and starts the container, so that it may
    // answer once before it goes down
    journal::resume(scene.state.path(), &scene.docker, None).await.unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while scene.redis.try_cli(&["GET", "key:1"]) != "v" || !scene.redis.running() {
        assert!(std::time::Instant::now() < end, "redis did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_was_told_to_save_nothing_saves_again_after_a_restore_that_was_broken_off() {
    let Some(scene) = Scene::set(&["--appendonly", "no", "--dir", "/data", "--save", "3600 1"]).await else { return };
    scene.seed();
    let mut store = scene.capture().await.unwrap();
    scene.change();
    let (digest, mut sink) = (scene.redis.digest(), scene.sink());
    let saves = || scene.redis.try_cli(&["CONFIG", "GET", "save"]) == "save\n3600 1";
    {
        let silenced = async {
            while saves() {
                tokio::task::yield_now().await;
            }
            // before that it was journalled
            assert_eq!(journal::pending(scene.state.path()).unwrap().len(), 1);
        };
        tokio::select! {
            biased;
            () = silenced => {}
            done = sink.restore(&mut store) => panic!("it ended without ever having told the server: {done:?}"),
        }
    }
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !saves() {
        assert!(std::time::Instant::now() < end, "redis still saves nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while !journal::pending(scene.state.path()).unwrap().is_empty() {
        assert!(std::time::Instant::now() < end, "the journal stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A kill leaves nobody who could: the next run finds the journal.
    let daemon_id = scene.docker.daemon().await.unwrap().id;
    let id = scene.docker.inspect(&scene.redis.name).await.unwrap().id;
    let _journal = Journal::write(scene.state.path(), &daemon_id, (&id, &scene.redis.name), Some("3600 1")).unwrap();
    assert_eq!(scene.redis.try_cli(&["CONFIG", "SET", "save", ""]), "OK");
    let container = scene.redis.name.clone();
    let without = journal::resume(scene.state.path(), &scene.docker, None).await.unwrap();
    assert_eq!(without, [Resumed::SavesNothing { container: container.clone() }]);
    let access = scene.redis.access(&scene.docker, Some(PASSWORD));
    let with = journal::resume(scene.state.path(), &scene.docker, Some(&access)).await.unwrap();
    assert_eq!(with, [Resumed::SavesAgain { container }]);
    assert!(saves() && journal::pending(scene.state.path()).unwrap().is_empty());
    // And its file is what it serves, whatever the restore had done to it.
    until("the save ends", || scene.redis.try_cli(&["INFO", "persistence"]).contains("rdb_bgsave_in_progress:0"));
    cli(&["kill", "-s", "KILL", &scene.redis.name]);
    cli(&["start", &scene.redis.name]);
    until("redis is back", || scene.redis.try_cli(&["PING"]) == "PONG");
    assert_eq!(scene.redis.digest(), digest);
}

#[tokio::test]
async fn a_snapshot_of_a_newer_server_or_with_other_modules_is_refused_by_the_plan() {
    let Some(scene) = Scene::set(&["--appendonly", "yes", "--dir", "/data"]).await else { return };
    let mut store = scene.capture().await.unwrap();
    let facts = store.captured.facts.clone();
    store.captured.facts.insert("rdb_version".to_owned(), "12".to_owned());
    store.captured.facts.insert("server".to_owned(), "redis 7.4.0".to_owned());
    let error = scene.sink().plan(&mut store).await.unwrap_err();
    assert!(matches!(error, Error::Redis(RedisError::VersionTooNew { file: 12, supported: 10, .. })), "{error:?}");
    store.captured.facts = facts;
    store.captured.facts.insert("modules".to_owned(), "search,ReJSON".to_owned());
    let error = scene.sink().restore(&mut store).await.unwrap_err();
    assert!(matches!(error, Error::Redis(RedisError::ModulesMissing { .. })), "{error:?}");
}

#[tokio::test]
async fn a_container_left_stopped_by_a_crash_is_started_by_the_next_run() {
    let Some(scene) = Scene::set(&["--appendonly", "yes", "--dir", "/data"]).await else { return };
    let digest = scene.seed();
    let id = scene.docker.inspect(&scene.redis.name).await.unwrap().id;
    let daemon_id = scene.docker.daemon().await.unwrap().id;
    // what a crash after the stop leaves: the journal, and a container that nobody starts
    let _journal = Journal::write(scene.state.path(), &daemon_id, (&id, &scene.redis.name), None).unwrap();
    cli(&["stop", "-t", "30", &scene.redis.name]);
    assert!(!scene.redis.running());
    let container = scene.redis.name.clone();
    assert_eq!(
        journal::resume(scene.state.path(), &scene.docker, None).await.unwrap(),
        [Resumed::Started { container }]
    );
    until("redis is back", || scene.redis.try_cli(&["PING"]) == "PONG");
    assert_eq!(scene.redis.digest(), digest);
    assert!(journal::resume(scene.state.path(), &scene.docker, None).await.unwrap().is_empty());
    // a journal from before the stop, and one of a container that is no more: nothing to do, and gone
    let _running = Journal::write(scene.state.path(), &daemon_id, (&id, "runs"), None).unwrap();
    let _gone = Journal::write(scene.state.path(), &daemon_id, (&"0".repeat(64), "gone"), None).unwrap();
    let _other = Journal::write(scene.state.path(), "OTHER", (&"1".repeat(64), "elsewhere"), None).unwrap();
    let resumed = journal::resume(scene.state.path(), &scene.docker, None).await.unwrap();
    assert_eq!(resumed.len(), 3, "{resumed:?}");
    assert!(resumed.contains(&Resumed::OtherDaemon { container: "elsewhere".to_owned() }));
    assert_eq!(journal::pending(scene.state.path()).unwrap().len(), 1);
}
