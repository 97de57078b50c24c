//! The repository in a bucket, its secrets in a bucket of another server with other credentials; copies between buckets
//! and directories.

use std::collections::BTreeMap;
use std::path::PathBuf;

use orkvault::component::Source as _;
use orkvault::component::mongodb::MongoSource;
use serde_json::Value;

use crate::support::cli::{Ran, Vault, archive, write_mode};
use crate::support::mongodb::{Memory, Stack, contents, database};
use crate::support::s3_server::{PASSWORD, Program, S3Server, USER};

const SECRETS_USER: &str = "secrets-keeper";
const SECRETS_PASSWORD: &str = "another-not-real-password";

/// Two servers with a bucket each.
struct Stores {
    data: S3Server,
    secrets: S3Server,
}

impl Stores {
    async fn start() -> Option<Self> {
        let data = S3Server::start(Program::Minio).await?;
        let secrets = S3Server::start_with(Program::Minio, [SECRETS_USER, SECRETS_PASSWORD]).await?;
        data.bucket("vault").await;
        secrets.bucket("secrets").await;
        Some(Self { data, secrets })
    }

    /// A table of a configuration, with key files of its own.
    fn table(&self, vault: &Vault, name: &str) -> String {
        let (endpoint, location, keys) = match name {
            "repository" | "from_repository" => (&self.data.endpoint, "s3://vault/vm-1", [USER, PASSWORD]),
            _ => (&self.secrets.endpoint, "s3://secrets/vm-1", [SECRETS_USER, SECRETS_PASSWORD]),
        };
        for (kind, key) in ["id", "key"].iter().zip(keys) {
            write_mode(&vault.path(&format!("{name}.{kind}")), key.as_bytes(), 0o600);
        }
        format!(
            "[{name}]\nlocation = \"{location}\"\nendpoint = \"{endpoint}\"\naccess_key_file = \"../{name}.id\"\n\
             secret_key_file = \"../{name}.key\"\n"
        )
    }
}

/// Writes the configuration and runs a command with it alone: no variable names a store or holds a key.
fn run(vault: &Vault, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = vault.command(arguments);
    let config = vault.path("work/orkvault.toml");
    command.env_remove("ORKVAULT_REPOSITORY").env("ORKVAULT_CONFIG", config);
    command.envs(std::env::vars().filter(|(name, _)| name.starts_with("DOCKER_")));
    command.env("ORKVAULT_PASSPHRASE_FILE", vault.path("data.pass"));
    command.env("ORKVAULT_SECRETS_PASSPHRASE_FILE", vault.path("secrets.pass"));
    let ran = Vault::fed(command, input);
    for said in [String::from_utf8_lossy(&ran.stdout), ran.stderr.as_str().into()] {
        assert!(!said.contains(PASSWORD) && !said.contains(SECRETS_PASSWORD), "{said}");
    }
    ran
}

async fn names(server: &S3Server, bucket: &str) -> Vec<String> {
    let listing = server.client.list_objects_v2().bucket(bucket).send().await.unwrap();
    listing.contents().iter().filter_map(|object| object.key()).map(str::to_owned).collect()
}

fn configure(vault: &Vault, tables: &[String]) {
    write_mode(&vault.path("work/orkvault.toml"), tables.concat().as_bytes(), 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_secrets_live_in_buckets_with_credentials_of_their_own() {
    let Some(stores) = Stores::start().await else { return };
    let work = tokio::task::spawn_blocking(move || {
        let vault = Vault::empty();
        configure(&vault, &[stores.table(&vault, "repository"), stores.table(&vault, "secrets_repository")]);
        let made = run(&vault, &["init", "--kdf-low-memory"], b"").expect(0);
        assert!(made.text().contains("its secrets are in s3://secrets/vm-1"), "{}", made.text());
        let stack = vault.stack("staging").to_str().unwrap().to_owned();
        let night = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--json", "--stack-dir", &stack];
        let first = run(&vault, &night, &archive()).expect(0).json();
        assert_eq!(first["status"], "complete");
        let shown = run(&vault, &["show", "latest"], b"").expect(0);
        assert!(shown.text().contains("in s3://secrets/vm-1"), "{}", shown.text());
        assert!(run(&vault, &["dump", "latest", "mongodb/mongo.archive"], b"").expect(0).stdout == archive());
        let target = vault.path("target").to_str().unwrap().to_owned();
        run(&vault, &["restore", "-y", "--target-dir", &target], b"").expect(0);
        assert_eq!(std::fs::read(vault.path("target/secrets/keys/jwt-private.pem")).unwrap(), b"canary-key\n");
        let checked = run(&vault, &["check", "--read-data", "--json"], b"").expect(0).json();
        assert_eq!(checked["findings"], Value::Array(Vec::new()));

        // Credentials of the data do not open the bucket of the secrets: the night is incomplete, and says so.
        write_mode(&vault.path("secrets_repository.key"), PASSWORD.as_bytes(), 0o600);
        let night = run(&vault, &night, &archive()).expect(3).json();
        assert_eq!(night["components"]["mongodb"]["status"], "complete");
        let reason = night["components"]["secrets"]["reason"].as_str().unwrap();
        assert!(reason.contains("the store of the secrets cannot be used"), "{reason}");
        // Only the secrets, with nothing of the data's.
        let alone = stores.table(&vault, "secrets_repository").replace("[secrets_repository]", "[repository]");
        configure(&vault, &[alone]);
        let env = run(&vault, &["dump", "latest", "secrets/.env"], b"").expect(0);
        assert!(env.text().contains("canary-mongo"));
        // Only the data.
        configure(&vault, &[stores.table(&vault, "repository")]);
        let refused = run(&vault, &["dump", "latest", "secrets/.env"], b"").expect(2);
        assert!(refused.stderr.contains("in a store of their own"), "{}", refused.stderr);
        stores
    });
    let stores = work.await.unwrap();
    let (data, secrets) = (names(&stores.data, "vault").await, names(&stores.secrets, "secrets").await);
    assert!(data.len() > 5 && data.iter().all(|name| !name.contains("/secrets/")), "{data:?}");
    assert!(secrets.len() == 4 && secrets.iter().all(|name| !name.contains("/data/")), "{secrets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_copied_from_a_directory_into_buckets_and_back_into_another() {
    let Some(stores) = Stores::start().await else { return };
    let work = tokio::task::spawn_blocking(move || {
        let from = Vault::made();
        let stack = from.stack("staging").to_str().unwrap().to_owned();
        let night = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", &stack];
        from.run_fed(night, &archive()).expect(0);
        let keys = ["--from-passphrase-file", "../data.pass", "--from-secrets-passphrase-file", "../secrets.pass"];
        let copy = |vault: &Vault, more: &[&str]| {
            let arguments: Vec<&str> =
                ["copy", "--all", "--json"].into_iter().chain(keys).chain(more.iter().copied()).collect();
            run(vault, &arguments, b"").expect(0).json()["copied"].as_array().unwrap().len()
        };
        let bucket = Vault::empty();
        configure(&bucket, &[stores.table(&bucket, "repository"), stores.table(&bucket, "secrets_repository")]);
        run(&bucket, &["init", "--kdf-low-memory"], b"").expect(0);
        let place = from.path("repository").to_str().unwrap().to_owned();
        assert_eq!(copy(&bucket, &["--from", &place]), 1);
        assert_eq!(copy(&bucket, &["--from", &place]), 0);
        assert!(run(&bucket, &["dump", "latest", "mongodb/mongo.archive"], b"").expect(0).stdout == archive());
        run(&bucket, &["check", "--read-data"], b"").expect(0);

        let back = Vault::made();
        let tables = ["from_repository", "from_secrets_repository"].map(|name| stores.table(&back, name));
        let own = format!("repository = {:?}\n", back.path("repository").to_str().unwrap());
        configure(&back, &[&[own][..], &tables].concat());
        assert_eq!(copy(&back, &[]), 1);
        assert!(run(&back, &["dump", "latest", "mongodb/mongo.archive"], b"").expect(0).stdout == archive());
        assert!(run(&back, &["dump", "latest", "secrets/.env"], b"").expect(0).text().contains("canary-mongo"));
        // It is the one that was made in the directory, whatever way it came.
        configure(&back, &[format!("repository = {:?}\n", back.path("repository").to_str().unwrap())]);
        assert_eq!(copy(&back, &["--from", &place]), 0);
    });
    work.await.unwrap();
}

/// Days from now until which each object is locked, rounded down, by name.
async fn lock_days(server: &S3Server, bucket: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for name in names(server, bucket).await {
        let answer = server.client.get_object_retention().bucket(bucket).key(&name).send().await;
        let until = answer.ok().and_then(|answer| Some(*answer.retention()?.retain_until_date()?));
        let until = until.map_or(std::time::UNIX_EPOCH, |until| std::time::SystemTime::try_from(until).unwrap());
        let left = until.duration_since(std::time::SystemTime::now()).unwrap_or_default();
        found.push((name, left.as_secs() / (24 * 3600)));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_stores_locks_for_a_time_of_its_own_what_a_snapshot_or_a_copy_needs() {
    let Some(data) = S3Server::start(Program::Minio).await else { return };
    let Some(secrets) = S3Server::start_with(Program::Minio, [SECRETS_USER, SECRETS_PASSWORD]).await else { return };
    for (server, bucket) in [(&data, "vault"), (&secrets, "secrets")] {
        let create = server.client.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true);
        create.send().await.unwrap();
    }
    let stores = Stores { data, secrets };
    let work = tokio::task::spawn_blocking(move || {
        let from = Vault::made();
        let stack = from.stack("staging").to_str().unwrap().to_owned();
        let night = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", &stack];
        from.run_fed(night, &archive()).expect(0);
        let vault = Vault::empty();
        let tables = || ["repository", "secrets_repository"].map(|name| stores.table(&vault, name));
        configure(&vault, &tables());
        run(&vault, &["init", "--kdf-low-memory"], b"").expect(0);
        let days = ["lock_days = 4\n", "lock_days = 40\n"];
        let locked: Vec<String> = tables().iter().zip(days).map(|(table, days)| format!("{table}{days}")).collect();
        configure(&vault, &locked);
        let place = from.path("repository").to_str().unwrap().to_owned();
        let copy = ["copy", "--all", "--json", "--from", &place, "--from-passphrase-file", "../data.pass"];
        let copy = [&copy[..], &["--from-secrets-passphrase-file", "../secrets.pass"]].concat();
        let copied = run(&vault, &copy, b"").expect(0).json();
        assert!(copied["copied"][0]["lock"]["objects"].as_u64().unwrap() > 8, "{copied}");
        // The option goes before both tables, and a directory that is only read is no hindrance.
        let again = run(&vault, &[&copy[..], &["--lock-days", "5"]].concat(), b"").expect(0).json();
        assert!(again["copied"].as_array().unwrap().is_empty(), "{again}");
        // Of the environment of the secrets that were copied.
        let night = ["snapshot", "--json", "--from", "mongodb=-", "--environment", "staging"];
        let own = run(&vault, &night, &archive()).expect(0).json();
        assert!(own["lock"]["objects"].as_u64().unwrap() > 8, "{own}");
        stores
    });
    let stores = work.await.unwrap();
    for (server, bucket, days) in [(&stores.data, "vault", 4..=5), (&stores.secrets, "secrets", 40..=50)] {
        let found = lock_days(server, bucket).await;
        assert!(found.len() >= 4, "{found:?}");
        for (name, left) in found {
            assert!(days.contains(&left), "{name} is locked for {left} days");
        }
    }
}

/// Everything below a directory: files with their bytes, by name.
fn tree(dir: &std::path::Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The round trip of the main job: two nights of the real stack, checked, given back as files, and its database under
/// another name into the server. Returns what came back.
fn there_and_back(vault: &Vault, database: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let stack_dir = std::env::var("ORKVAULT_TEST_STACK_DIR").unwrap();
    let of_stack = ["--yes", "--stack-dir", &stack_dir];
    run(vault, &["init", "--kdf-low-memory"], b"").expect(0);
    let night = [&["snapshot", "all", "--json"][..], &of_stack].concat();
    let first = run(vault, &night, b"").expect(0).json();
    assert_eq!((&first["status"], first["components"].as_object().unwrap().len()), (&"complete".into(), 4));
    let second = run(vault, &night, b"").expect(0).json();
    let [first, second] = [first, second].map(|night| night["bytes_new"].as_u64().unwrap());
    // What a server saves anew has its moment in it; nothing of the objects and documents is new.
    assert!(second < first / 20, "{second} of {first}");
    let checked = run(vault, &["check", "--read-data", "--json"], b"").expect(0).json();
    assert_eq!(checked["findings"], Value::Array(Vec::new()));
    let target = vault.path("target");
    run(vault, &["restore", "-y", "--target-dir", target.to_str().unwrap()], b"").expect(0);
    let config = std::fs::read_to_string(vault.path("work/orkvault.toml")).unwrap();
    let named = format!("{config}\n[mongodb]\ndatabase = \"{database}\"\n");
    write_mode(&vault.path("work/orkvault.toml"), named.as_bytes(), 0o600);
    run(vault, &[&["restore", "-c", "mongodb"][..], &of_stack].concat(), b"").expect(0);
    tree(&target)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_goes_there_and_back_by_a_directory_and_by_buckets_with_credentials_of_their_own() {
    let Some(stack) = Stack::find() else { return };
    let Some(stores) = Stores::start().await else { return };
    let work = tokio::task::spawn_blocking(move || {
        let places = ["directory", "buckets"].map(|place| {
            let vault = Vault::empty();
            let tables = match place {
                "directory" => vec![format!("repository = {:?}\n", vault.path("repository").to_str().unwrap())],
                _ => vec![stores.table(&vault, "repository"), stores.table(&vault, "secrets_repository")],
            };
            configure(&vault, &tables);
            there_and_back(&vault, &format!("it_{place}_{}", std::process::id()))
        });
        (stores, places)
    });
    let (stores, [of_directory, of_buckets]) = work.await.unwrap();
    let file = |name: &str| PathBuf::from(name);
    // Dumps are taken one after the other: what is in them is the same, in an order of its own.
    let archives = [&of_directory, &of_buckets].map(|tree| contents(&tree[&file("mongodb/mongo.archive")]));
    assert!(archives[0] == archives[1] && archives[0].len() > 3);
    for (place, wanted) in ["directory", "buckets"].iter().zip(archives) {
        let options = database(&format!("it_{place}_{}", std::process::id()));
        let (mut memory, mut source) = (Memory::default(), MongoSource::new(stack.on_host(), options).unwrap());
        source.capture(&mut memory).await.unwrap();
        assert!(contents(&memory.bytes) == wanted, "{place}");
    }
    let rest = |tree: &BTreeMap<PathBuf, Vec<u8>>, start: &str| -> BTreeMap<PathBuf, Vec<u8>> {
        tree.iter()
            .filter(|(name, _)| name.starts_with(start))
            .map(|(name, bytes)| (name.clone(), bytes.clone()))
            .collect()
    };
    let (objects, others) = (rest(&of_buckets, "rustfs"), rest(&of_directory, "rustfs"));
    assert!(objects == others && objects.len() > 100);
    let rdb = &of_buckets[&file("redis/dump.rdb")];
    assert!(rdb.starts_with(b"REDIS") && rdb.len().abs_diff(of_directory[&file("redis/dump.rdb")].len()) < 64);
    let docker = PathBuf::from(std::env::var("ORKVAULT_TEST_STACK_DIR").unwrap()).join("docker");
    for name in [".env", "keys/jwt-private.pem", "keys/jwt-public.pem", "keys/apple.p8"] {
        assert!(of_buckets[&file("secrets").join(name)] == std::fs::read(docker.join(name)).unwrap(), "{name}");
    }
    let secrets = names(&stores.secrets, "secrets").await;
    assert!(names(&stores.data, "vault").await.iter().all(|name| !name.contains("/secrets/")));
    assert!(secrets.iter().all(|name| !name.contains("/data/")) && secrets.len() == 6, "{secrets:?}");
}
