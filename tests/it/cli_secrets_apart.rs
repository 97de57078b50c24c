//! Every command on a repository whose secrets are in a store of their own.

use std::path::Path;

use crate::support::cli::{Ran, Vault, archive, write_mode};

/// A repository in two directories with one snapshot of everything that needs no server.
fn made() -> Vault {
    let vault = Vault::empty();
    let init = ["init", "--kdf-low-memory", "--secrets-repository"];
    let ran = vault.run_all(init.into_iter().chain([vault.path("apart").to_str().unwrap()])).expect(0);
    assert!(ran.text().contains("its secrets are in"), "{}", ran.text());
    vault
}

fn both<'a>(vault: &Vault, arguments: &[&'a str]) -> Vec<String> {
    let apart = vault.path("apart").to_str().unwrap().to_owned();
    let named = ["--secrets-repository".to_owned(), apart];
    arguments.iter().map(|argument: &&'a str| (*argument).to_owned()).chain(named).collect()
}

fn snapshot(vault: &Vault, arguments: &[&str]) -> Ran {
    let stack = vault.stack("staging").to_str().unwrap().to_owned();
    let all = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--json", "--stack-dir", &stack];
    let all: Vec<&str> = all.into_iter().chain(arguments.iter().copied()).collect();
    vault.run_fed(all, &archive())
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn every_command_works_with_both_stores_named() {
    let vault = made();
    let taken = snapshot(&vault, &["--secrets-repository", vault.path("apart").to_str().unwrap()]).expect(0);
    assert_eq!(taken.json()["status"], "complete");
    assert_eq!(files(&vault.path("apart")), ["config", "keys", "secrets", "tmp"]);
    assert_eq!(files(&vault.path("repository")), ["config", "data", "keys", "tmp"]);
    vault.run(both(&vault, &["check"])).expect(0);
    vault.run_all(both(&vault, &["check", "--read-data"])).expect(0);
    let ran = vault.run(both(&vault, &["show", "latest"])).expect(0);
    assert!(ran.text().contains(vault.path("apart").to_str().unwrap()), "{}", ran.text());
    let env = vault.run_all(both(&vault, &["dump", "latest", "secrets/.env"])).expect(0);
    assert!(env.text().contains("canary-mongo"));
    let target = vault.path("target");
    vault.run_all(both(&vault, &["restore", "-y", "--target-dir", target.to_str().unwrap()])).expect(0);
    assert_eq!(std::fs::read(target.join("secrets/keys/jwt-private.pem")).unwrap(), b"canary-key\n");
    let ran = vault.run_all(both(&vault, &["doctor", "--docker-host", "unix:///nowhere.sock"])).expect(1);
    assert!(ran.text().contains("ok    secrets repository: "), "{}", ran.text());
    assert!(ran.text().contains("ok    secrets passphrase: opens its key slot"), "{}", ran.text());
}

#[test]
fn the_configuration_names_the_store_of_the_secrets_too() {
    let vault = made();
    let config = "[secrets_repository]\nlocation = \"../apart\"\n";
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let config = vault.path("work/orkvault.toml");
    let config = ["--config", config.to_str().unwrap()];
    snapshot(&vault, &config).expect(0);
    let ran = vault.run_all(["dump", "latest", "secrets/.env"].into_iter().chain(config)).expect(0);
    assert!(ran.text().contains("canary-mongo"));
}

#[test]
fn who_has_only_the_data_is_told_that_the_secrets_are_elsewhere_and_where_they_were() {
    let vault = made();
    snapshot(&vault, &["--secrets-repository", vault.path("apart").to_str().unwrap()]).expect(0);
    for arguments in [
        &["dump", "latest", "secrets/.env"][..],
        &["restore", "-n", "-c", "secrets", "--target-dir", "../target"],
        &["restore", "-n", "--target-dir", "../target"],
        &["check", "--read-data"],
    ] {
        let ran = vault.run_all(arguments).expect(2);
        for said in ["in a store of their own", "--secrets-repository", "orkvault show"] {
            assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
        }
    }
    let ran = vault.run(["show", "latest"]).expect(0);
    assert!(ran.text().contains(vault.path("apart").to_str().unwrap()), "{}", ran.text());
    vault.run_data(["dump", "latest", "mongodb/mongo.archive", "-o", "archive"]).expect(0);
    let ran = vault.run(["check"]).expect(0);
    assert!(ran.text().contains("were not checked"), "{}", ran.text());
}

#[test]
fn the_store_of_the_secrets_alone_gives_them_back() {
    let vault = made();
    snapshot(&vault, &["--secrets-repository", vault.path("apart").to_str().unwrap()]).expect(0);
    std::fs::rename(vault.path("repository"), vault.path("lost")).unwrap();
    let alone = |arguments: &[&str]| {
        let mut command = vault.command(arguments);
        command.env_remove("ORKVAULT_WRITER_KEY_FILE").env("ORKVAULT_REPOSITORY", vault.path("apart"));
        command.env("ORKVAULT_SECRETS_PASSPHRASE_FILE", vault.path("secrets.pass"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = alone(&["snapshots"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("secrets") && said.contains("staging"), "{said}");
    for arguments in [
        &["check"][..],
        &["check", "--read-data"],
        &["show", "latest"],
        &["ls", "latest"],
        &["ls", "latest", "secrets"],
        &["restore", "-y", "--target-dir", "../target"],
        &["dump", "latest", "secrets/keys/jwt-private.pem", "-o", "key"],
    ] {
        let (code, said) = alone(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
    }
    assert_eq!(std::fs::read(vault.path("work/key")).unwrap(), b"canary-key\n");
    // Also on a host whose configuration names both stores.
    let named = ["snapshots", "--secrets-repository", vault.path("apart").to_str().unwrap()].map(str::to_owned);
    let (code, said) = alone(&named.each_ref().map(String::as_str));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = alone(&["restore", "-n", "-c", "mongodb", "--target-dir", "../other"]);
    assert_eq!(code, Some(1), "{said}");
    // With the keys of the data it is told what this is.
    let mut command = vault.command(["snapshots"]);
    command.env("ORKVAULT_REPOSITORY", vault.path("apart"));
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

#[test]
fn a_night_whose_secrets_store_is_away_is_incomplete_and_says_why() {
    let vault = made();
    let apart = vault.path("apart");
    std::fs::rename(&apart, vault.path("away")).unwrap();
    let ran = snapshot(&vault, &["--secrets-repository", apart.to_str().unwrap()]).expect(3);
    assert_eq!(ran.json()["components"]["mongodb"]["status"], "complete");
    let reason = ran.json()["components"]["secrets"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the store of the secrets cannot be used"), "{reason}");
    // And with the wrong one, or none.
    let ran = snapshot(&vault, &["--secrets-repository", vault.path("repository").to_str().unwrap()]).expect(3);
    let reason = ran.json()["components"]["secrets"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("does not hold the secrets of this repository"), "{reason}");
    snapshot(&vault, &[]).expect(3);
    std::fs::rename(vault.path("away"), &apart).unwrap();
    snapshot(&vault, &["--secrets-repository", apart.to_str().unwrap()]).expect(0);
    vault.run_all(both(&vault, &["check", "--read-data"])).expect(0);
}

#[test]
fn a_copy_out_of_two_stores_needs_both_or_leaves_the_secrets_out() {
    let (from, to) = (made(), Vault::made());
    snapshot(&from, &["--secrets-repository", from.path("apart").to_str().unwrap()]).expect(0);
    let (place, apart) = (from.path("repository"), from.path("apart"));
    let (place, apart) = (place.to_str().unwrap(), apart.to_str().unwrap());
    let copy = |more: &[&str]| {
        let keys = ["--from-passphrase-file", "../data.pass"];
        to.run(["copy", "--all", "--json", "--from", place].iter().chain(&keys).chain(more))
    };
    let ran = copy(&["--from-secrets-passphrase-file", "../secrets.pass"]).expect(2);
    assert!(ran.stderr.contains("--from-secrets-repository"), "{}", ran.stderr);
    copy(&["--no-secrets"]).expect(0);
    let both = ["--from-secrets-passphrase-file", "../secrets.pass", "--from-secrets-repository", apart];
    assert_eq!(copy(&both).expect(0).json()["copied"].as_array().unwrap().len(), 1);
    assert!(to.run_all(["dump", "latest", "secrets/.env"]).expect(0).text().contains("canary-mongo"));
}

#[test]
fn init_refuses_one_place_for_both_and_leaves_nothing_behind() {
    let vault = Vault::empty();
    let place = vault.path("repository");
    vault.run_all(["init", "--secrets-repository", place.to_str().unwrap()]).expect(2);
    assert!(!place.exists() && !vault.path("writer.key").exists());
}

#[test]
fn a_repository_with_its_secrets_takes_no_other_store_for_them() {
    let (vault, other) = (Vault::with_dump(), made());
    let apart = other.path("apart");
    let ran = vault.run(["check", "--secrets-repository", apart.to_str().unwrap()]).expect(2);
    assert!(ran.stderr.contains("keeps its secrets itself"), "{}", ran.stderr);
}
