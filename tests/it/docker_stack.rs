//! A stack found among the real containers of a real daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use orkvault::component::docker::{Docker, ExecCommand};
use orkvault::component::stack::{Error, Found, Origin, Service, Stack, StackOptions};
use orkvault::component::{self, ErrorKind};

use crate::support::docker::{Sleeper, daemon, required};

/// An application that only this test run has.
fn app_name(test: &str) -> String {
    format!("ovt{}{test}", std::process::id())
}

fn stack_dir(app_name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("docker/keys")).unwrap();
    let text = format!(
        "APP_NAME={app_name}\nENV=staging\nMONGO_ROOT_PASSWORD='canary-$ecret'\nREDIS_PASSWORD=\"canary-two\"\n\
         RUSTFS_ROOT_USER=canary-key\nRUSTFS_ROOT_PASSWORD=canary-four\nUNUSED=`id`\nREDIS_PASSWORD=canary-three\n"
    );
    fs::write(dir.path().join("docker/.env"), text).unwrap();
    dir
}

fn options(dir: &Path, services: &[Service]) -> StackOptions {
    let env: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("DOCKER_") || name == "HOME").collect();
    let services = services.iter().copied().collect::<BTreeSet<_>>();
    StackOptions { working_dir: dir.to_owned(), env, services, ..StackOptions::default() }
}

async fn identity(docker: &Docker) -> (String, String) {
    let daemon = docker.daemon().await.unwrap();
    (daemon.id, daemon.name)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_among_real_containers_and_shown_without_secrets() {
    let Some(docker) = daemon().await else { return };
    let app = app_name("a");
    let dir = stack_dir(&app);
    let stack_label = format!("orkestra.stack={app}-staging");
    let mongodb = Sleeper::start_named(&format!("{app}-mongodb-staging"), &[]);
    let labels = ["--label", &stack_label, "--label", "com.docker.compose.service=redis"];
    let redis = Sleeper::start(&labels);
    let published = [
        "--network",
        "bridge",
        "-p",
        "127.0.0.1::9000",
        "-e",
        "RUSTFS_ACCESS_KEY=canary-a",
        "-e",
        "RUSTFS_SECRET_KEY=canary-b",
    ];
    let rustfs = Sleeper::start_named(&format!("{app}-rustfs-staging"), &published);
    let all = [Service::Mongodb, Service::Redis, Service::Rustfs];

    let (id, name) = identity(&docker).await;
    for expected in [id, name] {
        let options = StackOptions { daemon: Some(expected), ..options(dir.path(), &all) };
        let stack = Stack::resolve(options).await.unwrap();
        let found = stack.mongodb.as_ref().unwrap();
        assert_eq!(found.place.container().unwrap().name, mongodb.name);
        assert_eq!(found.password.as_ref().unwrap().value.expose(), "canary-$ecret");
        let found = stack.redis.as_ref().unwrap();
        assert_eq!(found.place.container().unwrap().name, redis.name);
        assert_eq!(found.password.as_ref().unwrap().value.expose(), "canary-three");
        let found = stack.rustfs.as_ref().unwrap();
        assert_eq!(found.container.as_ref().unwrap().value.name, rustfs.name);
        assert!(found.endpoint.value.starts_with("http://127.0.0.1:"), "{}", found.endpoint.value);
        let (access, secret) = found.running_keys().unwrap();
        assert_eq!((access.expose(), secret.expose()), ("canary-a", "canary-b"));
        let lines = stack.lines().join("\n");
        assert!(!lines.contains("canary"), "{lines}");
        assert!(lines.contains(&format!("{}, running (by labels)", redis.name)), "{lines}");
        assert!(lines.contains("password set (MONGO_ROOT_PASSWORD on line 3 of the env file)"), "{lines}");
        assert!(
            stack.warnings[0].contains("REDIS_PASSWORD is set on line 4 and again on line 8"),
            "{:?}",
            stack.warnings
        );
    }

    let options = StackOptions { daemon: Some("another".to_owned()), ..options(dir.path(), &all) };
    let error = Stack::resolve(options).await.err().unwrap();
    assert!(matches!(error, Error::WrongDaemon { .. }), "{error}");
    assert_eq!(component::Error::from(error).kind(), ErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_stack_is_missing_and_two_of_a_kind_are_ambiguous() {
    let Some(_docker) = daemon().await else { return };
    let app = app_name("b");
    let dir = stack_dir(&app);
    let stack_label = format!("orkestra.stack={app}-staging");
    let labels = ["--label", &stack_label, "--label", "com.docker.compose.service=redis"];
    let first = Sleeper::start(&labels);
    let second = Sleeper::start(&labels);
    let error = Stack::resolve(options(dir.path(), &[Service::Redis])).await.err().unwrap();
    let Error::Ambiguous { candidates, .. } = &error else { panic!("{error}") };
    assert_eq!(*candidates, [format!("{} (running)", first.name), format!("{} (running)", second.name)]);
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    // A flag decides.
    let mut chosen = options(dir.path(), &[Service::Redis]);
    let given = Found { value: second.name.clone(), origin: Origin::Flag("--redis-container") };
    chosen.containers.insert(Service::Redis, given);
    let stack = Stack::resolve(chosen).await.unwrap();
    assert_eq!(stack.redis.unwrap().place.container().unwrap().name, second.name);

    let mut renamed = options(dir.path(), &[Service::Redis]);
    renamed.env.insert("APP_NAME".to_owned(), format!("{app}x"));
    let error = Stack::resolve(renamed).await.err().unwrap();
    assert!(matches!(error, Error::NoContainer { .. }) && error.to_string().contains("x-redis-staging"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // What is not needed is not missed.
    assert!(Stack::resolve(options(dir.path(), &[])).await.unwrap().docker.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_container_whose_files_are_being_read_is_not_waited_for() {
    let Some(docker) = daemon().await else { return };
    let app = app_name("c");
    let dir = stack_dir(&app);
    let redis = Sleeper::start_named(&format!("{app}-redis"), &[]);
    let busy = Sleeper::start(&[]);
    busy.shell("truncate -s 256M /data/f");
    let mut body = docker.open_file(&busy.name, "/data/f").await.unwrap();
    assert!(body.next().await.unwrap().is_some());
    let resolved = Stack::resolve(options(dir.path(), &[Service::Redis]));
    let stack = tokio::time::timeout(Duration::from_secs(10), resolved).await.expect("no lock is waited for").unwrap();
    assert_eq!(stack.redis.unwrap().place.container().unwrap().name, redis.name);
    drop(body);
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_stack_is_found_from_its_directory_alone() {
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let Some(dir) = env.get("ORKVAULT_TEST_STACK_DIR") else {
        assert!(!required(), "ORKVAULT_REQUIRE_STACK=1, and no stack is up (tests/stack/stack up)");
        eprintln!("SKIPPED: no stack is up");
        return;
    };
    let all = [Service::Mongodb, Service::Redis, Service::Rustfs];
    let deep = Path::new(dir).join("docker/keys");
    let mut options = options(&deep, &all);
    if env["ORKVAULT_TEST_STACK_STYLE"] == "old" {
        // Older releases' files do not name the application.
        options.app_name = Some(env["ORKVAULT_TEST_STACK_NAME"].clone());
    }
    let stack = Stack::resolve(options).await.unwrap();
    let name = |variable: &str| env[variable].clone();
    let (mongodb, redis, rustfs) = (stack.mongodb.as_ref(), stack.redis.as_ref(), stack.rustfs.as_ref());
    let (mongodb, redis, rustfs) = (mongodb.unwrap(), redis.unwrap(), rustfs.unwrap());
    assert_eq!(mongodb.place.container().unwrap().name, name("ORKVAULT_TEST_MONGODB_CONTAINER"));
    assert_eq!(mongodb.database.value, name("ORKVAULT_TEST_MONGODB_DATABASE"));
    assert_eq!(redis.place.container().unwrap().name, name("ORKVAULT_TEST_REDIS_CONTAINER"));
    let port = name("ORKVAULT_TEST_RUSTFS_PORT");
    assert_eq!(rustfs.endpoint.value, format!("http://127.0.0.1:{port}"));
    // The password that was read is the one that the server takes.
    let (docker, _) = stack.docker.as_ref().unwrap();
    let mut command = ExecCommand::new(["redis-cli", "-e", "ping"]);
    let password = redis.password.as_ref().unwrap().value.duplicate();
    command.env.push(("REDISCLI_AUTH".to_owned(), password));
    let pong = docker.run(&redis.place.container().unwrap().name, command).await.unwrap();
    assert_eq!((pong.exit_code, pong.stdout.as_slice()), (0, &b"PONG\n"[..]));
    let lines = stack.lines().join("\n");
    for secret in [&mongodb.password.as_ref().unwrap().value, &rustfs.secret_key.value] {
        assert!(!secret.is_empty() && !lines.contains(secret.expose()), "{lines}");
    }
}
