//! The repository in a bucket: every command works as with a directory, on real servers.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::cli::{Ran, Vault, archive, write_mode};
use crate::support::s3_server::{PASSWORD, Program, S3Server, USER};

/// The credentials are nowhere but in requests.
fn says_no_secret(ran: &Ran) {
    let stdout = String::from_utf8_lossy(&ran.stdout);
    for said in [&*stdout, ran.stderr.as_str()] {
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

/// Runs every command over a repository in a bucket of this server.
async fn every_command_works(program: Program) {
    let Some(server) = S3Server::start(program).await else { return };
    server.bucket("vault").await;
    let endpoint = server.endpoint.clone();
    let work = move || {
        let vault = Vault::empty_in_bucket(&endpoint, "s3://vault/hosts/vm-1");
        let missing = vault.run(["snapshots"]).expect(10);
        assert!(missing.stderr.contains("there is no repository in s3://vault/hosts/vm-1"), "{}", missing.stderr);
        let made = vault.init().expect(0);
        assert!(made.text().contains("in s3://vault/hosts/vm-1"), "{}", made.text());
        says_no_secret(&made);
        std::fs::rename(vault.path("writer.key"), vault.path("kept.key")).unwrap();
        says_no_secret(&vault.init().expect(13));
        std::fs::rename(vault.path("kept.key"), vault.path("writer.key")).unwrap();

        let stack = vault.stack("staging");
        let stack = stack.to_str().unwrap();
        let arguments = ["snapshot", "--json", "--from", "mongodb=-", "-c", "secrets", "--stack-dir", stack, "--yes"];
        let first = vault.run_fed(arguments, &archive()).expect(0);
        says_no_secret(&first);
        let first = first.json();
        assert_eq!(first["status"], "complete");
        let second = vault.run_fed(["snapshot", "--json", "--from", "mongodb=-"], &archive()).expect(0).json();
        assert!(second["bytes_stored"].as_u64().unwrap() < 20_000, "{second}");

        let listed =
            vault.run(["snapshots", "--json", "--limit-upload", "0.5", "--limit-download", "9"]).expect(0).json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
        let id = first["snapshot"].as_str().unwrap();
        vault.run(["show", id]).expect(0);
        let inside = vault.run(["ls", "--json", "latest", "mongodb"]).expect(0).json();
        assert_eq!(inside["streams"][0]["bytes"], archive().len());
        assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
        let secret = vault.run_all(["dump", id, "secrets/.env"]).expect(0);
        assert!(secret.text().contains("canary-mongo"));
        let target = vault.path("target");
        let arguments = ["restore", "-y", "--snapshot", id, "--target-dir", target.to_str().unwrap()];
        vault.run_all(arguments).expect(0);
        assert!(std::fs::read(target.join("mongodb/mongo.archive")).unwrap() == archive());

        assert_eq!(vault.run(["check", "--json"]).expect(0).json()["findings"], Value::Array(Vec::new()));
        let checked = vault.run_all(["check", "--json", "--read-data"]).expect(0).json();
        assert_eq!(checked["findings"], Value::Array(Vec::new()));
        let doctor = vault.run(["doctor", "--json", "--docker-host", "unix:///nowhere.sock"]).expect(1);
        says_no_secret(&doctor);
        let doctor = doctor.json();
        let of_repository = |finding: &&Value| finding["what"] == "repository" || finding["what"] == "snapshots";
        let found: Vec<&Value> = doctor["findings"].as_array().unwrap().iter().filter(of_repository).collect();
        assert!(found.len() == 2 && found.iter().all(|finding| finding["verdict"] == "ok"), "{found:?}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    // Everything is below the prefix.
    let listing = server.client.list_objects_v2().bucket("vault").send().await.unwrap();
    let names: Vec<&str> = listing.contents().iter().filter_map(|object| object.key()).collect();
    assert!(names.len() > 5 && names.iter().all(|name| name.starts_with("hosts/vm-1/")), "{names:?}");
}

#[tokio::test]
async fn every_command_works_in_a_bucket_of_minio() {
    every_command_works(Program::Minio).await;
}

#[tokio::test]
async fn every_command_works_in_a_bucket_of_versitygw() {
    every_command_works(Program::Versitygw).await;
}

#[tokio::test]
async fn credentials_come_from_private_files_from_a_profile_or_from_the_environment() {
    let Some(server) = S3Server::start(Program::Minio).await else { return };
    server.bucket("vault").await;
    let endpoint = server.endpoint.clone();
    let work = move || {
        let vault = Vault::empty_in_bucket(&endpoint, "s3://vault");
        vault.init().expect(0);
        let run = |config: &str| {
            write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
            let mut command = vault.command(["snapshots"]);
            for name in ["ORKVAULT_REPOSITORY", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
                command.env_remove(name);
            }
            let output = command.output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        let table = format!("[repository]\nlocation = \"s3://vault\"\nendpoint = \"{endpoint}\"\n");
        let (code, said) = run(&table);
        assert!(code == 2 && said.contains("the credentials of the store"), "{said}");

        write_mode(&vault.path("s3.id"), format!("{USER}\n").as_bytes(), 0o600);
        write_mode(&vault.path("s3.key"), format!("{PASSWORD}\n").as_bytes(), 0o600);
        let files = format!("{table}access_key_file = \"../s3.id\"\nsecret_key_file = \"../s3.key\"\n");
        assert_eq!(run(&files), (0, String::new()));
        write_mode(&vault.path("s3.key"), format!("{PASSWORD}\n").as_bytes(), 0o640);
        let (code, said) = run(&files);
        assert!(code == 13 && said.contains("is not private"), "{said}");

        let profiles = format!("[offsite]\naws_access_key_id = {USER}\naws_secret_access_key = {PASSWORD}\n");
        write_mode(&vault.path("credentials"), profiles.as_bytes(), 0o600);
        let profile = |name: &str| format!("{table}profile = \"{name}\"\ncredentials_file = \"../credentials\"\n");
        assert_eq!(run(&profile("offsite")), (0, String::new()));
        let (code, said) = run(&format!("{table}container_credentials = true\n"));
        assert!(code == 2 && said.contains("AWS_CONTAINER_CREDENTIALS"), "{said}");
        let (code, said) = run(&profile("other"));
        assert!(code == 2 && said.contains("has no keys for it"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test]
async fn a_container_gets_its_keys_from_the_service_that_runs_it() {
    let Some(server) = S3Server::start(Program::Minio).await else { return };
    server.bucket("vault").await;
    let endpoint = server.endpoint.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let len = socket.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..len]).into_owned();
            let keys = format!("{{\"AccessKeyId\":\"{USER}\",\"SecretAccessKey\":\"{PASSWORD}\"}}");
            let may = request.starts_with("GET /keys HTTP/1.0\r\n") && request.contains("Authorization: who-asks\r\n");
            let answer =
                if may { format!("HTTP/1.0 200 OK\r\n\r\n{keys}") } else { "HTTP/1.0 403 No\r\n\r\n".to_owned() };
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let work = move || {
        let mut vault = Vault::empty_in_bucket(&endpoint, "s3://vault");
        vault.init().expect(0);
        vault.use_keys(&["none".to_owned(), "none".to_owned(), String::new()]);
        write_mode(&vault.path("token"), b"who-asks\n", 0o600);
        let config = "[repository]\ncontainer_credentials = true\n";
        write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
        let run = |address: &str, token: &str| {
            let mut command = vault.command(["snapshots"]);
            command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", address);
            command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", vault.path(token));
            let output = command.output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(run(&format!("http://{service}/keys"), "token"), (0, String::new()));
        let (code, said) = run(&format!("http://{service}/other"), "token");
        assert!(code == 1 && said.contains("answers without credentials: status 403"), "{said}");
        let (code, said) = run("http://192.0.2.1/canary", "token");
        assert!(code == 2 && said.contains("not from this address") && !said.contains("canary"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[tokio::test]
async fn what_a_store_refuses_is_said_without_a_secret() {
    let Some(server) = S3Server::start(Program::Minio).await else { return };
    server.bucket("vault").await;
    let endpoint = server.endpoint.clone();
    let work = move || {
        let vault = Vault::empty_in_bucket(&endpoint, "s3://vault");
        let with = |name: &str, value: &str| {
            let output = vault.command(["snapshots", "--json"]).env(name, value).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!said.contains("canary") && !said.contains(PASSWORD), "{said}");
            (output.status.code().unwrap(), said)
        };
        let (code, said) = with("AWS_SECRET_ACCESS_KEY", "canary-wrong");
        assert!(code == 2 && said.contains("the server refuses the credentials"), "{said}");
        for rate in ["0", "-1", "inf", "fast"] {
            vault.run(["snapshots", "--limit-upload", rate]).expect(2);
        }
        let (code, said) = with("ORKVAULT_REPOSITORY", "s3://other");
        assert!(code == 10 && said.contains("there is no bucket other"), "{said}");
        let (code, said) = with("ORKVAULT_REPOSITORY", "s3://key:canary@vault");
        assert!(code == 2 && said.contains("an address holds no credentials"), "{said}");
        let (code, said) = with("AWS_ENDPOINT_URL_S3", "http://key:canary@127.0.0.1:9");
        assert!(code == 2 && said.contains("the endpoint contains credentials"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
