//! `copy` on the command line: from one repository into another, with the keys of each.

use crate::support::cli::{Ran, Vault, archive, write_mode};

/// A repository with a snapshot of a database and secrets, and one of the database alone.
fn source() -> Vault {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let both = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", stack.to_str().unwrap()];
    vault.run_fed(both, &archive()).expect(0);
    let second = ["snapshot", "--from", "mongodb=-", "--tag", "second", "--environment", "staging"];
    vault.run_fed(second, &archive()).expect(0);
    vault
}

fn copy(to: &Vault, from: &Vault, more: &[&str]) -> Ran {
    let mut command = to.command(["copy", "--from", from.path("repository").to_str().unwrap()]);
    command.args(more);
    command.env("ORKVAULT_FROM_PASSPHRASE_FILE", from.path("data.pass"));
    if !more.contains(&"--no-secrets") {
        command.env("ORKVAULT_FROM_SECRETS_PASSPHRASE_FILE", from.path("secrets.pass"));
    }
    Ran::new(command.output().unwrap())
}

#[test]
fn snapshots_arrive_whole_and_the_next_night_has_nothing_new() {
    let (from, to) = (source(), Vault::made());
    let dry = copy(&to, &from, &["--all", "-n", "--json"]).expect(0).json();
    assert_eq!(dry["missing"].as_array().unwrap().len(), 2);
    assert_eq!(to.run(["snapshots", "--json"]).expect(0).json()["snapshots"].as_array().unwrap().len(), 0);
    let ran = copy(&to, &from, &["--all", "--json"]).expect(0);
    let copied = ran.json()["copied"].as_array().unwrap().clone();
    assert_eq!(copied.len(), 2, "{}", ran.stderr);
    // The same dump a second time is there already.
    assert_eq!((&copied[0]["bytes_read"], &copied[1]["bytes_read"]), (&archive().len().into(), &0.into()));
    assert!(to.run_all(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
    let first = copied[0]["snapshot"].as_str().unwrap();
    let secret = to.run_all(["dump", first, "secrets/.env"]).expect(0);
    assert!(secret.text().contains("canary-mongo"));
    let shown = to.run(["show", "latest"]).expect(0).text();
    assert!(shown.contains("copy of") && shown.contains("second"), "{shown}");
    to.run_all(["check", "--read-data"]).expect(0);
    let listed = to.run(["snapshots", "--json"]).expect(0).json();
    assert_eq!(listed["snapshots"][0]["copied_from"]["snapshot"], copied[0]["from"]);

    let again = copy(&to, &from, &["--all", "--json"]).expect(0).json();
    assert_eq!((again["copied"].as_array().unwrap().len(), again["present"].as_array().unwrap().len()), (0, 2));
    let own = to.run_fed(["snapshot", "--from", "mongodb=-", "--json"], &archive()).expect(0).json();
    assert_eq!(own["bytes_new"], 0, "copies are cut where a night cuts: {own}");
    // The host that copied notices what disappears, as after a night.
    to.run(["check"]).expect(0);
}

#[test]
fn each_side_needs_its_own_keys_and_says_which() {
    let (from, to) = (source(), Vault::made());
    let place = from.path("repository");
    let place = place.to_str().unwrap();
    for (arguments, code, said) in [
        (&["copy", "--all"][..], 2, "--from or from_repository"),
        (&["copy", "--from", place], 2, "--all"),
        (&["copy", "--from", place, "--all", "-s", "latest"], 2, "cannot be used with"),
        (&["copy", "--from", place, "--all"], 2, "ORKVAULT_FROM_PASSPHRASE_FILE"),
        (&["copy", "--from", place, "--all", "--from-passphrase-file", "../data.pass"], 2, "--no-secrets"),
        (&["copy", "--from", place, "--all", "--no-secrets", "--from-passphrase-file", "../secrets.pass"], 12, ""),
        (&["copy", "--from", "../nowhere", "--all", "--from-passphrase-file", "../data.pass"], 10, "no repository"),
    ] {
        let ran = to.run(arguments).expect(code);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    let itself = to.path("repository");
    let itself = itself.to_str().unwrap();
    let ran = to.run(["copy", "--from", itself, "--all", "--no-secrets", "--from-passphrase-file", "../data.pass"]);
    assert!(ran.stderr.contains("is the repository itself"), "{}", ran.stderr);
    ran.expect(2);
    let ran = copy(&to, &from, &["--all", "--no-secrets", "--json"]).expect(0);
    assert_eq!(ran.json()["copied"].as_array().unwrap().len(), 2);
    let ran = to.run_all(["dump", "latest", "secrets/.env"]).expect(1);
    assert!(ran.stderr.contains("secrets"), "{}", ran.stderr);
    // With the secrets later: the first has some, and the second those of the night before.
    let ran = copy(&to, &from, &["--all", "--json"]).expect(0);
    assert_eq!(ran.json()["copied"].as_array().unwrap().len(), 2);
    to.run_all(["dump", "latest", "secrets/.env"]).expect(0);
    to.run_all(["check", "--read-data"]).expect(0);
}

#[test]
fn a_damaged_snapshot_is_named_and_the_run_fails_at_its_end() {
    let (from, to) = (source(), Vault::made());
    let snapshots = from.objects("data/snapshots/");
    let mut bytes = std::fs::read(&snapshots[0]).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&snapshots[0]).unwrap();
    std::fs::write(&snapshots[0], bytes).unwrap();
    let name = snapshots[0].file_name().unwrap().to_str().unwrap();
    let ran = copy(&to, &from, &["--all"]).expect(1);
    assert!(ran.text().contains(&format!("DAMAGED {name}")), "{}", ran.text());
    let ran = copy(&to, &from, &["--all", "--json"]).expect(1).json();
    assert_eq!((ran["present"].as_array().unwrap().len(), &ran["failed"][0]["snapshot"]), (1, &name.into()));
    to.run_all(["check", "--read-data"]).expect(0);
}

#[test]
fn the_configuration_names_what_is_copied_from() {
    let (from, to) = (source(), Vault::made());
    let config = format!("[from_repository]\nlocation = {:?}\n", from.path("repository").to_str().unwrap());
    write_mode(&to.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let ran = to.run(["copy", "-s", "latest", "--no-secrets", "--from-passphrase-file", "../data.pass", "--json"]);
    assert_eq!(ran.expect(0).json()["copied"].as_array().unwrap().len(), 1);
}
