use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use super::services::s3_endpoint;
use super::{Error, Found, Origin, Place, Service, Settings, StackOptions, find_container, locate, services, show};
use crate::component::docker::{Container, ContainerRow, ContainerState, Network, PublishedPort, RestartPolicy};
use crate::component::dotenv::{self, Dotenv};
use crate::component::secret::Secret;

fn container(name: &str, labels: &[(&str, &str)]) -> Container {
    Container {
        id: format!("{name:0<64}"),
        name: name.to_owned(),
        image: "image".to_owned(),
        labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        state: ContainerState::Running,
        env: BTreeMap::new(),
        mounts: Vec::new(),
        ports: Vec::new(),
        networks: Vec::new(),
        restart_policy: RestartPolicy::UnlessStopped,
    }
}

fn row(name: &str, labels: &[(&str, &str)]) -> ContainerRow {
    let Container { id, name, labels, state, .. } = container(name, labels);
    ContainerRow { id, name, labels, state }
}

fn labelled(name: &str, stack: &str, service: &str) -> ContainerRow {
    row(name, &[("orkestra.stack", stack), ("com.docker.compose.service", service)])
}

fn find(flag: Option<&str>, app: &str, env: &str, containers: &[ContainerRow]) -> Result<(String, Origin), Error> {
    let found = find_container(Service::Redis, flag, app, env, containers)?;
    Ok((found.value.name.clone(), found.origin))
}

#[test]
fn container_is_found_by_flag_then_name_then_labels_then_old_name() {
    let all = [
        row("orkestra-redis", &[]),
        labelled("weird", "orkestra-development", "redis"),
        row("orkestra-redis-development", &[]),
        row("orkestra-redis-development-2", &[]),
        row("mine", &[]),
    ];
    let found = |flag, first: usize| find(flag, "orkestra", "development", &all[..first]).unwrap();
    assert_eq!(found(Some("mine"), 5), ("mine".to_owned(), Origin::Flag("--redis-container")));
    assert_eq!(found(None, 5), ("orkestra-redis-development".to_owned(), Origin::Name));
    assert_eq!(found(None, 2), ("weird".to_owned(), Origin::Labels));
    assert_eq!(found(None, 1), ("orkestra-redis".to_owned(), Origin::OldName));
    // A name is a whole name, also as a flag.
    assert!(matches!(find(Some("min"), "orkestra", "development", &all), Err(Error::NoContainer { .. })));
}

#[test]
fn missing_container_is_an_error_that_lists_what_was_expected() {
    let others = [
        row("orkestra-redis", &[]),
        labelled("x", "orkestra-production", "redis"),
        labelled("y", "shop-staging", "mongodb"),
    ];
    let error = find(None, "shop", "staging", &others).unwrap_err();
    let expected = "no container of redis was found, expected shop-redis-staging or labels \
                    orkestra.stack=shop-staging and com.docker.compose.service=redis or shop-redis";
    assert_eq!(error.to_string(), expected);
    // A name of older releases counts for nothing where labels say otherwise.
    let foreign = [labelled("orkestra-redis", "orkestra-production", "redis")];
    let error = find(None, "orkestra", "development", &foreign).unwrap_err();
    assert!(error.to_string().ends_with(" or orkestra-redis"), "{error}");
}

#[test]
fn two_candidates_are_an_error_that_names_them() {
    let mut stopped = labelled("b", "orkestra-development", "redis");
    stopped.state = ContainerState::Exited;
    let both = [labelled("a", "orkestra-development", "redis"), stopped, row("orkestra-redis", &[])];
    let error = find(None, "orkestra", "development", &both).unwrap_err();
    assert_eq!(error.to_string(), "several containers could be redis: a (running), b (exited)");
}

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn env_file() -> Found<PathBuf> {
    Found { value: PathBuf::from("/opt/orkestra/docker/.env"), origin: Origin::WorkingDirectory }
}

#[test]
fn setting_is_from_flag_then_environment_then_file_then_default() {
    let path = env_file();
    let dotenv = Dotenv::parse(b"APP_NAME=filed\n\nENV=production\nEMPTY=\n").unwrap();
    let environment = env(&[("APP_NAME", "exported"), ("EMPTY", "")]);
    let both = Settings::new(&environment, Some(&path), Some(&dotenv));
    let nothing = env(&[]);
    let file = Settings::new(&nothing, Some(&path), Some(&dotenv));
    let none = Settings::new(&nothing, None, None);
    let found = |found: Found<String>| (found.value, found.origin.to_string());
    assert_eq!(found(both.app_name(Some("given")).unwrap()), ("given".to_owned(), "--app-name".to_owned()));
    let from_environment = ("exported".to_owned(), "APP_NAME in the environment".to_owned());
    assert_eq!(found(both.app_name(None).unwrap()), from_environment);
    let from_file = ("filed".to_owned(), "APP_NAME on line 1 of the env file".to_owned());
    assert_eq!(found(file.app_name(None).unwrap()), from_file);
    assert_eq!(found(none.app_name(None).unwrap()), ("orkestra".to_owned(), "default".to_owned()));
    let from_file = ("production".to_owned(), "ENV on line 3 of the env file".to_owned());
    assert_eq!(found(both.environment(None).unwrap()), from_file);
    assert!(both.first(&["EMPTY"]).unwrap().is_none());
}

#[test]
fn first_of_several_variables_counts_wherever_it_is() {
    let path = env_file();
    let dotenv = Dotenv::parse(b"RUSTFS_ROOT_USER=rooted\nODD=$x\n").unwrap();
    let environment = env(&[("STORAGE_ACCESS_KEY", "stored")]);
    let settings = Settings::new(&environment, Some(&path), Some(&dotenv));
    let found = settings.first(&["RUSTFS_ROOT_USER", "STORAGE_ACCESS_KEY"]).unwrap().unwrap();
    assert_eq!((found.value.expose(), found.origin), ("rooted", Origin::File("RUSTFS_ROOT_USER".to_owned(), 1)));
    // A doubtful value is not passed over in favour of another.
    let error = settings.first(&["ODD", "STORAGE_ACCESS_KEY"]).err().unwrap();
    assert!(matches!(error, Error::Dotenv { source: dotenv::Error::Doubtful { line: 2, .. }, .. }), "{error}");
}

#[test]
fn name_that_no_container_can_have_is_refused() {
    for bad in ["/etc/shinit", "a b", "-a", "a/../b"] {
        let environment = env(&[("ENV", bad)]);
        let error = Settings::new(&environment, None, None).environment(None).unwrap_err();
        assert!(matches!(error, Error::BadValue { .. }), "{bad}: {error}");
    }
}

fn given<T>(value: T) -> Found<T> {
    Found { value, origin: Origin::Flag("--given") }
}

fn needing(services: &[Service]) -> StackOptions {
    StackOptions { services: services.iter().copied().collect(), ..StackOptions::default() }
}

#[test]
fn password_that_is_needed_is_never_made_up() {
    let nothing = env(&[]);
    let settings = Settings::new(&nothing, None, None);
    let found = |name| Some(Box::new(Found { value: container(name, &[]), origin: Origin::Name }));
    let options = needing(&[]);
    let error = services::mongodb(&options, &settings, found("m")).err().unwrap();
    assert_eq!(error.to_string(), "mongodb needs MONGO_ROOT_PASSWORD, which is not set");
    // Redis without one has no authentication.
    assert!(services::redis(&options, &settings, found("r")).unwrap().password.is_none());
    let options = StackOptions { s3_endpoint: Some(given("http://h:1".to_owned())), ..needing(&[]) };
    let error = services::rustfs(&options, &settings, None, None).err().unwrap();
    assert_eq!(error.to_string(), "rustfs needs RUSTFS_ROOT_USER or STORAGE_ACCESS_KEY, which is not set");
}

#[test]
fn object_store_is_reached_where_its_port_is_published() {
    let with = |bound: &[(&str, u16)], ip: Option<&str>| {
        let mut container = container("s3", &[]);
        container.ports = bound
            .iter()
            .map(|(ip, host_port)| PublishedPort {
                container_port: 9000,
                protocol: "tcp".to_owned(),
                host_ip: ip.parse().unwrap(),
                host_port: *host_port,
            })
            .collect();
        let ip: Option<IpAddr> = ip.map(|ip| ip.parse().unwrap());
        container.networks = vec![Network { name: "n".to_owned(), ip }];
        container
    };
    let (unix, tcp) = ("unix:///var/run/docker.sock", "tcp://build-host:2375");
    let table = [
        (with(&[("127.0.0.1", 9100)], None), unix, Some("http://127.0.0.1:9100")),
        (with(&[("0.0.0.0", 9100), ("::", 9100)], None), unix, Some("http://127.0.0.1:9100")),
        (with(&[("::", 9100)], None), unix, Some("http://[::1]:9100")),
        (with(&[("192.0.2.7", 9100)], None), unix, Some("http://192.0.2.7:9100")),
        (with(&[], Some("172.18.0.4")), unix, Some("http://172.18.0.4:9000")),
        (with(&[], None), unix, None),
        (with(&[("0.0.0.0", 9100)], Some("172.18.0.4")), tcp, Some("http://build-host:9100")),
        (with(&[("192.0.2.7", 9100)], None), tcp, Some("http://192.0.2.7:9100")),
        (with(&[("127.0.0.1", 9100)], Some("172.18.0.4")), tcp, None),
        (with(&[], Some("172.18.0.4")), tcp, None),
    ];
    for (container, docker, expected) in table {
        let found = s3_endpoint(&container, docker).map(|found| found.value);
        assert_eq!(found.ok().as_deref(), expected, "{:?} {docker}", container.ports);
    }
}

#[test]
fn root_is_given_or_the_nearest_above_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("orkestra");
    let deep = root.join("apps/api");
    fs::create_dir_all(&deep).unwrap();
    let at = |working_dir: &PathBuf| StackOptions { working_dir: working_dir.clone(), ..StackOptions::default() };
    assert_eq!(locate(&at(&deep)).unwrap().root, None);

    fs::create_dir_all(root.join("docker")).unwrap();
    fs::write(root.join("docker/docker-compose.infra.yml"), "").unwrap();
    let found = locate(&at(&deep)).unwrap();
    assert_eq!(found.root, Some(Found { value: root.clone(), origin: Origin::WorkingDirectory }));
    assert_eq!((found.env_file, found.keys_dir), (None, Some(root.join("docker/keys"))));
    fs::write(root.join("docker/.env"), "").unwrap();
    assert_eq!(locate(&at(&deep)).unwrap().env_file.unwrap().value, root.join("docker/.env"));

    // Another env file does not move the keys.
    let mut options = StackOptions { stack_dir: Some(given(root.clone())), ..at(&deep) };
    options.env = env(&[("ORKESTRA_ENV_FILE", "other.env")]);
    let found = locate(&options).unwrap();
    assert_eq!(found.env_file.unwrap().value, deep.join("other.env"));
    assert_eq!(found.keys_dir, Some(root.join("docker/keys")));

    let wrong = StackOptions { stack_dir: Some(given(deep.clone())), ..at(&root) };
    assert!(matches!(locate(&wrong), Err(Error::NotAStack { dir }) if dir == deep));
    // A restore makes the stack's files: into a directory that exists, not into a name that was mistyped.
    let new = StackOptions { may_be_new: true, ..wrong };
    let found = locate(&new).unwrap();
    assert_eq!((found.root, found.env_file), (Some(given(deep.clone())), None));
    let missing = StackOptions { stack_dir: Some(given(deep.join("missing"))), may_be_new: true, ..at(&root) };
    assert!(matches!(locate(&missing), Err(Error::NotAStack { .. })));
}

#[tokio::test]
async fn stack_that_is_given_by_addresses_touches_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let options = StackOptions {
        working_dir: dir.path().to_owned(),
        // Would be an error if it were looked at.
        docker_host: Some("ssh://nowhere".to_owned()),
        services: BTreeSet::from([Service::Mongodb, Service::Redis, Service::Rustfs]),
        mongodb_uri: Some(given(Secret::new("mongodb://admin:canary@pass@db1:27017,db2:27017/?authSource=canary"))),
        redis_address: Some(given("cache:6379".to_owned())),
        s3_endpoint: Some(given("http://store:9000".to_owned())),
        env: env(&[("RUSTFS_ROOT_USER", "canary"), ("STORAGE_SECRET_KEY", "canary"), ("REDIS_PASSWORD", "canary")]),
        ..StackOptions::default()
    };
    let stack = super::Stack::resolve(options).await.unwrap();
    assert!(stack.docker.is_none());
    assert!(matches!(stack.mongodb.as_ref().unwrap().place, Place::Address(_)));
    let lines = stack.lines().join("\n");
    assert!(!lines.contains("canary"), "{lines}");
    for shown in [
        "stack      orkestra-development (APP_NAME: default; ENV: default)",
        "docker     not needed",
        "mongodb    mongodb://db1:27017,db2:27017/ (--given)",
        "redis      cache:6379 (--given)",
        "rustfs     endpoint http://store:9000, region us-east-1 (--given)",
        "secret key set (STORAGE_SECRET_KEY in the environment)",
    ] {
        assert!(lines.contains(shown), "{shown} is not in\n{lines}");
    }
}

#[tokio::test]
async fn daemon_that_was_named_is_the_only_one_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    for host in ["ssh://nowhere", "unix:///nowhere/docker.sock", "tcp://127.0.0.1:1"] {
        let options = StackOptions {
            working_dir: dir.path().to_owned(),
            docker_host: Some(host.to_owned()),
            ..needing(&[Service::Redis])
        };
        let error = super::Stack::resolve(options).await.err().unwrap();
        assert!(matches!(error, Error::Docker(_)) && error.to_string().contains(host), "{error}");
    }
}

#[tokio::test]
async fn a_secret_of_the_environment_comes_before_that_of_a_file_and_that_before_the_stacks_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("docker")).unwrap();
    fs::write(dir.path().join("docker/.env"), "REDIS_PASSWORD=of-stack\n").unwrap();
    for (variable, file, expected) in [
        (Some("of-env"), Some("of-file"), ("of-env", Origin::Environment("REDIS_PASSWORD".to_owned()))),
        (None, Some("of-file"), ("of-file", Origin::Flag("redis.password_file in orkvault.toml"))),
        (None, None, ("of-stack", Origin::File("REDIS_PASSWORD".to_owned(), 1))),
    ] {
        let options = StackOptions {
            stack_dir: Some(given(dir.path().to_owned())),
            redis_address: Some(given("cache:6379".to_owned())),
            redis_password: file.map(Secret::new),
            env: variable.map(|value| ("REDIS_PASSWORD".to_owned(), value.to_owned())).into_iter().collect(),
            ..needing(&[Service::Redis])
        };
        let password = super::Stack::resolve(options).await.unwrap().redis.unwrap().password.unwrap();
        assert_eq!((password.value.expose(), password.origin), expected);
    }
}

#[test]
fn address_is_shown_without_anything_secret() {
    let table = [
        ("mongodb://u:p@h:1/db?x=secret", "mongodb://h:1/db"),
        ("mongodb+srv://u:p@ss@h/", "mongodb+srv://h/"),
        ("redis://:p@h:6379/0", "redis://h:6379/0"),
        ("h:6379", "h:6379"),
        ("u:p@h:6379", "h:6379"),
        ("http://k:s@h", "http://h"),
    ];
    for (uri, shown) in table {
        assert_eq!(show::without_password(uri), shown);
    }
}
