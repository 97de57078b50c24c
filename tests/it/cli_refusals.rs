//! What is refused or fails, each with its own exit code and a message that helps.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::cli::{Ran, Vault, archive, data, write_mode};
use crate::support::s3_fault::{FaultyS3, World};

#[test]
fn wrong_usage_is_two_and_says_what_is_wrong_as_json_too() {
    let vault = Vault::made();
    for arguments in [
        &["snapshots", "--nope"][..],
        &["nope"],
        &[],
        &["snapshot", "--compression-level", "20"],
        &["snapshot", "-c", "mysql"],
        &["snapshot", "--from", "redis=dump"],
        &["snapshot", "--from", "mongodb=-", "--passphrase-file", "-"],
        &["snapshots", "--passphrase-file", "-", "--writer-key", "-"],
        &["snapshots", "--writer-key", "/nonexistent"],
        &["restore", "--exact", "--merge"],
        &["snapshots", "-r", "s3:bucket"],
        &["snapshots", "-r", "https://example.com/vault"],
    ] {
        let ran = vault.run(arguments).expect(2);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{arguments:?}");
        let ran = vault.run(arguments.iter().copied().chain(["--json"])).expect(2);
        let error = ran.json()["error"].clone();
        assert_eq!(error["exit_code"], 2, "{arguments:?}");
        assert!(error["message"].is_string() && error["causes"].is_array(), "{arguments:?}: {error}");
        // There may be nothing to say, but the key is there.
        assert!(error.as_object().unwrap().contains_key("hint"), "{arguments:?}: {error}");
    }
    let help = vault.run(["--help"]).expect(0).text();
    assert!(help.contains("130  interrupted"), "{help}");
}

#[test]
fn what_is_missing_is_named_with_the_ways_to_give_it() {
    let vault = Vault::with_dump();
    let run = |arguments: &[&str]| {
        let output = vault.command(arguments).env_remove("ORKVAULT_WRITER_KEY_FILE").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, way) in [
        (&["snapshots"][..], "--passphrase-file"),
        (&["check"], "--writer-key"),
        (&["dump", "latest", "mongodb/mongo.archive"], "ORKVAULT_PASSPHRASE_FILE"),
        (&["snapshot", "--from", "mongodb=x"], "ORKVAULT_WRITER_KEY_FILE"),
        (&["restore", "-n", "-c", "mongodb"], "ORKVAULT_PASSPHRASE_FILE"),
    ] {
        let (code, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(way), "{arguments:?}: {stderr}");
    }
    let mut command = vault.command(["snapshots"]);
    let output = command.env_remove("ORKVAULT_REPOSITORY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_line() {
    let vault = Vault::made();
    write_mode(&vault.path("work/orkvault.toml"), b"host = \"a\"\nrepositroy = \"canary\"\n", 0o600);
    let ran = vault.run(["snapshots"]).expect(2);
    assert!(ran.stderr.contains("line 2") && ran.stderr.contains("repositroy"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
    // One that others may change could send backups anywhere.
    write_mode(&vault.path("work/orkvault.toml"), b"host = \"a\"\n", 0o666);
    vault.run(["snapshots"]).expect(13);
}

#[test]
fn an_address_that_is_no_bucket_makes_no_directory() {
    let vault = Vault::empty();
    let passphrases = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../secrets.pass"];
    for location in ["https://backup.example.com/vault", "S3://vault", "sftp://user:canary@host/vault"] {
        for option in ["-r", "--secrets-repository"] {
            let ran = vault.run(["init", option, location].into_iter().chain(passphrases)).expect(2);
            assert!(ran.stderr.contains("s3://BUCKET") && ran.stderr.contains("./"), "{}", ran.stderr);
            assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
        }
    }
    assert_eq!(std::fs::read_dir(vault.path("work")).unwrap().count(), 0);
    assert!(!vault.path("repository").exists() && !vault.path("writer.key").exists());
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_file() {
    let vault = Vault::made();
    write_mode(&vault.path("work/orkvault.toml"), b"repository = \"of-file\"\n", 0o600);
    let without = vault.command(["snapshots"]).env_remove("ORKVAULT_REPOSITORY").output().unwrap();
    assert_eq!(without.status.code(), Some(10));
    assert!(String::from_utf8(without.stderr).unwrap().contains("of-file"));
    vault.run(["snapshots"]).expect(0);
    let ran = vault.run(["snapshots", "-r", "of-flag"]).expect(10);
    assert!(ran.stderr.contains("of-flag"), "{}", ran.stderr);
}

#[test]
fn a_lock_of_a_directory_is_refused_before_the_night_and_not_behind_it() {
    let vault = Vault::made();
    let config = |location: &str| {
        let table = format!("[repository]\nlocation = {location:?}\nlock_days = 30\n");
        write_mode(&vault.path("work/orkvault.toml"), table.as_bytes(), 0o600);
    };
    let night = ["snapshot", "--from", "mongodb=-"];
    // By whichever name.
    for location in ["../repository", "../work/../repository/", vault.path("repository").to_str().unwrap()] {
        config(location);
        let ran = vault.run_fed(night, &archive()).expect(2);
        assert!(ran.stderr.contains("lock_days") && ran.stderr.contains("is no bucket"), "{}", ran.stderr);
        let mut of_table = vault.command(night);
        of_table.env_remove("ORKVAULT_REPOSITORY");
        Vault::fed(of_table, &archive()).expect(2);
    }
    assert!(vault.objects("snapshots").is_empty());
    vault.run(["snapshots"]).expect(0);
    let ran = vault.run(["doctor", "--docker-host", "unix:///nowhere.sock"]).expect(1);
    assert!(ran.text().contains("fail  lock: lock_days in orkvault.toml cannot be"), "{}", ran.text());
}

#[test]
fn what_a_table_says_holds_for_its_own_location_alone() {
    let vault = Vault::made();
    let table = "[repository]\nlocation = \"s3://vault/vm-1\"\nendpoint = \"http://127.0.0.1:9\"\nlock_days = 30\n";
    write_mode(&vault.path("work/orkvault.toml"), table.as_bytes(), 0o600);
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    assert!(ran.stderr.contains("[repository] of orkvault.toml is about s3://vault/vm-1"), "{}", ran.stderr);
    // Another bucket is not asked of its server, nor with its keys.
    let keys = "access_key_file = \"missing\"\nsecret_key_file = \"missing\"\n";
    write_mode(&vault.path("work/orkvault.toml"), format!("{table}{keys}").as_bytes(), 0o600);
    let ran = vault.run(["snapshots", "-r", "s3://vault/vm-1/"]).expect(2);
    assert!(ran.stderr.contains("cannot read") && !ran.stderr.contains("is about"), "{}", ran.stderr);
    let ran = vault.run(["snapshots", "-r", "s3://vault/vm-2"]).expect(2);
    assert!(ran.stderr.contains("the credentials of the store"), "{}", ran.stderr);
    // Another table may be about it: that of the secrets, where they are looked at alone.
    let secrets = format!("{table}[secrets_repository]\nlocation = \"s3://vault/vm-2\"\n{keys}");
    write_mode(&vault.path("work/orkvault.toml"), secrets.as_bytes(), 0o600);
    let ran = vault.run(["snapshots", "-r", "s3://vault/vm-2"]).expect(2);
    assert!(ran.stderr.contains("cannot read"), "{}", ran.stderr);
    // One that names no location is about the one that is named.
    let keys = format!("[repository]\n{keys}");
    write_mode(&vault.path("work/orkvault.toml"), keys.as_bytes(), 0o600);
    let ran = vault.run(["snapshots", "-r", "s3://vault/vm-2"]).expect(2);
    assert!(ran.stderr.contains("cannot read"), "{}", ran.stderr);
}

#[test]
fn credentials_that_a_table_names_go_before_those_of_variables() {
    let vault = Vault::empty();
    let keys = "[other]\naws_access_key_id = a\naws_secret_access_key = b\n";
    write_mode(&vault.path("credentials"), keys.as_bytes(), 0o600);
    let run = |settings: &str, profile: &str| {
        let table = format!("[repository]\nlocation = \"s3://vault\"\nendpoint = \"http://127.0.0.1:9\"\n{settings}\n");
        write_mode(&vault.path("work/orkvault.toml"), table.as_bytes(), 0o600);
        let mut command = vault.command(["snapshots"]);
        command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "y").env("AWS_PROFILE", profile);
        command.env_remove("ORKVAULT_REPOSITORY");
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    // Not the variables: the file is read, which has no such profile.
    let said = run("credentials_file = \"../credentials\"", "");
    assert!(said.contains("\"default\"") && said.contains("has no keys for it"), "{said}");
    let said = run("credentials_file = \"../credentials\"", "prod");
    assert!(said.contains("\"prod\"") && said.contains("has no keys for it"), "{said}");
    let said = run("profile = \"offsite\"\ncredentials_file = \"../credentials\"", "prod");
    assert!(said.contains("\"offsite\"") && said.contains("has no keys for it"), "{said}");
    let said = run("credentials_file = \"../missing\"", "");
    assert!(said.contains("cannot read") && said.contains("missing"), "{said}");
}

#[test]
fn a_place_without_a_repository_is_ten() {
    let vault = Vault::made();
    let nothing = vault.path("work");
    let nowhere = vault.path("nowhere");
    for place in [nothing, nowhere] {
        let place = place.to_str().unwrap();
        for arguments in [
            &["snapshots"][..],
            &["show", "latest"],
            &["ls", "latest"],
            &["check"],
            &["snapshot", "--from", "mongodb=x"],
            &["dump", "latest", "mongodb/mongo.archive"],
            &["restore", "-n"],
        ] {
            vault.run_all(arguments.iter().copied().chain(["-r", place])).expect(10);
        }
    }
}

#[test]
fn no_key_opens_what_is_not_its_own_on_any_command() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack_text]).expect(0);
    vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    let ids = vault.run(["snapshots", "--json"]).expect(0).json();
    let secrets_id = ids["snapshots"][0]["snapshot"].as_str().unwrap().to_owned();
    let target = vault.path("target");
    let target = target.to_str().unwrap();
    let of_data: [&[&str]; 3] = [
        &["dump", "latest", "mongodb/mongo.archive"],
        &["restore", "-n", "-c", "mongodb", "--target-dir", target],
        &["restore", "-y", "--no-verify-first", "-c", "mongodb", "--target-dir", target],
    ];
    let of_secrets: [&[&str]; 3] = [
        &["dump", &secrets_id, "secrets/.env"],
        &["restore", "-n", "-c", "secrets", "--snapshot", &secrets_id, "--target-dir", target],
        &["restore", "-y", "-c", "secrets", "--snapshot", &secrets_id, "--stack-dir", stack_text],
    ];
    let never_opened = |ran: Ran, what: &[&str]| {
        let ran = ran.expect(12);
        assert!(ran.stdout.is_empty(), "{what:?}");
        if std::path::Path::new(target).exists() {
            std::fs::remove_dir_all(target).unwrap();
        }
    };
    // The writer key, on everything that reads content.
    for arguments in of_data.iter().chain(&of_secrets) {
        never_opened(vault.run(*arguments), arguments);
    }
    // The data passphrase on secrets, alone and in the place of the other.
    for arguments in of_secrets {
        never_opened(vault.run_data(arguments), arguments);
        let swapped = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../data.pass"];
        never_opened(vault.run(arguments.iter().copied().chain(swapped)), arguments);
    }
    // The secrets passphrase, and one that is nobody's, on data.
    write_mode(&vault.path("nobody.pass"), b"nobody's passphrase\n", 0o600);
    for file in ["../secrets.pass", "../nobody.pass"] {
        for arguments in of_data.into_iter().chain([
            &["check", "--read-data"][..],
            &["snapshots"],
            &["show", "latest"],
            &["ls", "latest"],
        ]) {
            never_opened(vault.run(arguments.iter().copied().chain(["--passphrase-file", file])), arguments);
        }
    }
    // Another repository's writer key.
    let other = Vault::made();
    let key = other.path("writer.key");
    for arguments in [&["snapshots"][..], &["check"], &["snapshot", "--from", "mongodb=-"], &["show", "latest"]] {
        vault.run(arguments.iter().copied().chain(["--writer-key", key.to_str().unwrap()])).expect(12);
    }
}

#[test]
fn files_that_others_can_read_or_that_would_be_lost_are_refused() {
    let vault = Vault::with_dump();
    for mode in [0o640, 0o604, 0o660] {
        write_mode(&vault.path("shared.pass"), b"canary-data-passphrase\n", mode);
        let dump = ["dump", "latest", "mongodb/mongo.archive", "--passphrase-file", "../shared.pass"];
        let ran = vault.run(dump).expect(13);
        assert!(ran.stderr.contains("not private") && ran.stderr.contains("shared.pass"), "{}", ran.stderr);
        let key = std::fs::read(vault.path("writer.key")).unwrap();
        write_mode(&vault.path("shared.key"), &key, mode);
        vault.run(["snapshots", "--writer-key", "../shared.key"]).expect(13);
    }
    let passphrases = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../secrets.pass"];
    let key = std::fs::read(vault.path("writer.key")).unwrap();
    vault.run(["init", "-r", "new"].into_iter().chain(passphrases)).expect(13);
    assert_eq!(std::fs::read(vault.path("writer.key")).unwrap(), key);
    assert!(!vault.path("work/new").exists());
    vault.run(["init", "--writer-key", "new.key"].into_iter().chain(passphrases)).expect(13);
    assert!(!vault.path("work/new.key").exists());
    let same = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../data.pass"];
    vault.run(["init", "-r", "new", "--writer-key", "new.key"].into_iter().chain(same)).expect(13);
    write_mode(&vault.path("short.pass"), b"short\n", 0o600);
    let short = ["--passphrase-file", "../short.pass", "--secrets-passphrase-file", "../data.pass"];
    vault.run(["init", "-r", "new", "--writer-key", "new.key"].into_iter().chain(short)).expect(2);
    assert!(!vault.path("work/new").exists() && !vault.path("work/new.key").exists());
}

#[test]
fn a_dump_that_is_not_good_makes_an_incomplete_snapshot_that_is_never_latest() {
    let vault = Vault::with_dump();
    let first = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].clone();
    let whole = archive();
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let ran = vault.run_fed(["snapshot", "--json", "--from", "mongodb=-"], &whole[..len]).expect(3);
        assert_eq!(ran.json()["status"], "incomplete");
        assert!(ran.json()["components"]["mongodb"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    }
    let from = |name: &str| format!("mongodb={}", data(name).display());
    let gzip = vault.run(["snapshot", "--from", &from("basic-gzip.archive.gz")]).expect(3);
    assert!(gzip.text().contains("gzip"), "{}", gzip.text());
    let empty = from("empty-database.archive");
    vault.run(["snapshot", "--from", &empty]).expect(3);
    let listed = vault.run(["snapshots", "--json"]).expect(0).json();
    assert_eq!(listed["latest"], first);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 8);
    let incomplete = listed["snapshots"][7]["snapshot"].as_str().unwrap().to_owned();
    vault.run_data(["dump", &incomplete, "mongodb/mongo.archive"]).expect(1);
    vault.run_all(["restore", "-n", "--snapshot", &incomplete]).expect(13);
    vault.run(["snapshot", "--from", &empty, "--allow-empty-database"]).expect(0);
    vault.run(["check"]).expect(0);
}

#[test]
fn a_stack_without_the_component_makes_no_snapshot() {
    let vault = Vault::made();
    let ran = vault.run(["snapshot", "-c", "secrets", "--stack-dir", vault.path("work").to_str().unwrap()]).expect(2);
    assert!(ran.stderr.contains("docker/.env"), "{}", ran.stderr);
    assert!(vault.objects("snapshots").is_empty());
}

#[test]
fn every_finding_of_a_check_names_its_object() {
    let vault = Vault::with_dump();
    let pack = vault.objects("data/packs/").pop().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let ran = vault.run_data(["check", "--read-data", "--json"]).expect(4);
    let found = ran.json()["findings"][0].clone();
    assert!(pack.to_str().unwrap().ends_with(found["object"].as_str().unwrap()), "{found}");
    let text = vault.run_data(["check", "--read-data"]).expect(4).text();
    assert!(text.contains("FINDING data/packs/"), "{text}");
    let ran = vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(1);
    assert!(ran.stderr.contains("check --read-data"), "{}", ran.stderr);
}

#[test]
fn a_damaged_config_or_key_slot_is_a_finding_though_nothing_opens() {
    let vault = Vault::with_dump();
    let slots = vault.objects("/keys/");
    assert_eq!(slots.len(), 3);
    for path in slots.iter().chain([&vault.path("repository/config")]) {
        let whole = std::fs::read(path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let ran = vault.run_all(["check", "--read-data"]).expect(4);
        assert!(ran.text().contains(name), "{name}: {}", ran.text());
        std::fs::write(path, whole).unwrap();
    }
    vault.run_all(["check", "--read-data"]).expect(0);
}

#[test]
fn a_restore_asks_and_nobody_who_cannot_answer_is_taken_for_a_yes() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack_text]).expect(0);
    write_mode(&stack.join("docker/.env"), b"ENV=staging\nLATER=1\n", 0o600);
    let restore = ["restore", "-c", "secrets", "--stack-dir", stack_text];
    vault.run_all(restore).expect(13);
    let dry = vault.run_all(restore.into_iter().chain(["-n"])).expect(0);
    assert!(dry.text().contains("nothing was changed"), "{}", dry.text());
    assert_eq!(std::fs::read(stack.join("docker/.env")).unwrap(), b"ENV=staging\nLATER=1\n");
    // A snapshot of one environment does not go into another by accident.
    write_mode(&stack.join("docker/.env"), b"ENV=production\n", 0o600);
    let ran = vault.run_all(restore.into_iter().chain(["-y"])).expect(13);
    assert!(ran.stderr.contains("staging") && ran.stderr.contains("production"), "{}", ran.stderr);
    vault.run_all(restore.into_iter().chain(["-y", "--into-env", "staging"])).expect(13);
    vault.run_all(restore.into_iter().chain(["-n", "--into-env", "production"])).expect(0);
}

#[test]
fn two_restores_do_not_run_at_once() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack_text]).expect(0);
    let restore = ["restore", "-y", "-c", "secrets", "--stack-dir", stack_text];
    vault.run_all(restore).expect(0);
    let lock = std::fs::File::open(vault.path("state/orkvault/restore.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let ran = vault.run_all(restore).expect(11);
    assert!(ran.stderr.contains("another restore"), "{}", ran.stderr);
    drop(lock);
    vault.run_all(restore).expect(0);
}

#[test]
fn a_reader_that_stops_early_is_told_and_waited_for_no_longer() {
    let vault = Vault::with_dump();
    let mut command = vault.command(["dump", "latest", "mongodb/mongo.archive"]);
    let mut child = command.env("ORKVAULT_PASSPHRASE_FILE", vault.path("data.pass")).spawn().unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(first, archive()[..10]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("standard output") && !stderr.contains("bug"), "{stderr}");
}

/// What does not fit into a pipe: the program is in the middle of it as long as nobody reads.
fn with_a_long_file() -> Vault {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    std::fs::create_dir_all(vault.path("spool")).unwrap();
    // Nothing in it repeats, so that it takes several segments.
    let mut hasher = blake3::Hasher::new();
    let mut bytes = vec![0; 6 << 20];
    hasher.update(b"a long file").finalize_xof().fill(&mut bytes);
    std::fs::write(vault.path("spool/long"), bytes).unwrap();
    write_mode(&stack.join("orkvault.toml"), b"[[directory]]\nname = \"spool\"\npath = \"../spool\"\n", 0o600);
    vault.run(["snapshot", "-c", "spool", "--yes", "--stack-dir", stack.to_str().unwrap()]).expect(0);
    vault
}

#[test]
fn nothing_is_written_behind_content_that_is_cut_off() {
    let vault = with_a_long_file();
    let whole = std::fs::read(vault.path("spool/long")).unwrap();
    let is_error = |said: &str, code: i32| {
        let document: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(document["error"]["exit_code"], code, "{said}");
    };
    let heard = ["env", "--default-signal=INT"];
    let mut command = vault.command_by(heard, ["dump", "--json", "latest", "spool/long"]);
    let mut child = command.env("ORKVAULT_PASSPHRASE_FILE", vault.path("data.pass")).spawn().unwrap();
    let mut content = vec![0; 10];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut content).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    stdout.read_to_end(&mut content).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(whole.starts_with(&content), "{}", String::from_utf8_lossy(&content[content.len() - 300..]));
    is_error(&String::from_utf8(output.stderr).unwrap(), 130);

    // The same where the content cannot be read to its end.
    let packs = vault.objects("data/packs/");
    let pack = packs.iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(pack, bytes).unwrap();
    let ran = vault.run_data(["dump", "--json", "latest", "spool/long"]).expect(1);
    assert!(!ran.stdout.is_empty() && whole.starts_with(&ran.stdout), "{} bytes", ran.stdout.len());
    is_error(&ran.stderr, 1);
    // Content in a file leaves standard output to the error.
    let ran = vault.run_data(["dump", "--json", "latest", "spool/long", "--output", "long"]).expect(1);
    assert_eq!(ran.json()["error"]["exit_code"], 1);
    assert!(!vault.path("work/long").exists());
}

#[test]
fn content_never_goes_to_a_terminal() {
    let vault = Vault::with_dump();
    let program = env!("CARGO_BIN_EXE_orkvault");
    let line = format!("{program} dump latest mongodb/mongo.archive");
    // `script` gives the program a terminal and returns its exit code.
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(vault.path("work"));
    command
        .env("ORKVAULT_REPOSITORY", vault.path("repository"))
        .env("ORKVAULT_PASSPHRASE_FILE", vault.path("data.pass"));
    let output = command.stdin(std::process::Stdio::null()).output().expect("`script` of util-linux is there");
    assert_eq!(output.status.code(), Some(13));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("standard output is a terminal"), "{said}");
}

#[test]
fn a_signal_ends_a_snapshot_cleanly() {
    for signal in [Signal::INT, Signal::TERM] {
        let vault = Vault::with_dump();
        let before = vault.objects("");
        // As from a terminal, also where these tests run in the background.
        let heard = ["env", "--default-signal=INT,TERM"];
        let mut command = vault.command_by(heard, ["snapshot", "--json", "--from", "mongodb=-"]);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let whole = archive();
        stdin.write_all(&whole[..whole.len() / 2]).unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        // The input stays open: the program can only be in the middle.
        while !said.contains("capturing mongodb") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        drop(stdin);
        assert_eq!(output.status.code(), Some(130), "{said}");
        let error: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["error"]["exit_code"], 130);
        assert!(said.contains("interrupted"), "{said}");
        assert_eq!(vault.objects(""), before);
        let checked = vault.run(["check", "--json"]).expect(0).json();
        assert_eq!(checked["notes"], serde_json::Value::Array(Vec::new()));
    }
}

/// `nohup` ignores SIGHUP, and a script's shell SIGINT for what it runs in the background.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    for (name, signal) in [("HUP", Signal::HUP), ("INT", Signal::INT)] {
        let vault = Vault::made();
        let arguments = ["snapshot", "--json", "--from", "mongodb=-"];
        let mut command = vault.command_by(["sh", "-c", "trap '' \"$0\"; exec \"$@\"", name], arguments);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("capturing mongodb") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        // One that were heard would end it: it waits for its input.
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let output = child.wait_with_output().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
    }
}

/// Two and ten say that nothing was begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_a_night_in_its_middle_is_no_wrong_usage() {
    let buckets = BTreeMap::from([("vault".to_owned(), BTreeMap::new())]);
    let server = FaultyS3::start(World { buckets, page_len: 1000, ..World::default() }).await;
    let work = move || {
        let vault = Vault::empty_in_bucket(&server.endpoint, "s3://vault");
        vault.init().expect(0);
        for (status, code, before) in [(400, "ExpiredToken", 2), (404, "NoSuchBucket", 10)] {
            server.world().faults.refuse_all = None;
            let mut child = vault.spawn(["snapshot", "--from", "mongodb=-"]);
            let mut said = String::new();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            while !said.contains("capturing mongodb") {
                assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
            }
            server.world().faults.refuse_all = Some((status, code));
            child.stdin.take().unwrap().write_all(&archive()).unwrap();
            let output = child.wait_with_output().unwrap();
            stderr.read_to_string(&mut said).unwrap();
            assert_eq!(output.status.code(), Some(1), "{code}: {said}");
            assert!(said.contains("hint: "), "{code}: {said}");
            vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(before);
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

#[test]
fn the_stack_that_was_resolved_is_shown_with_how_each_part_was_found() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap().to_owned();
    let snapshot = |variable: Option<&str>, flag: &[&str]| {
        let arguments = ["snapshot", "-c", "secrets", "--yes", "--stack-dir", &stack_text];
        let mut command = vault.command(arguments.iter().chain(flag));
        command.envs(variable.map(|value| ("ENV", value)));
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(snapshot(None, &[]).contains("ovcli-staging (APP_NAME: APP_NAME on line 1 of the env file"));
    write_mode(&stack.join("orkvault.toml"), b"environment = \"configured\"\n", 0o600);
    assert!(snapshot(None, &[]).contains("ovcli-configured"));
    assert!(snapshot(None, &[]).contains("ENV: environment in orkvault.toml"));
    assert!(snapshot(Some("variable"), &[]).contains("ENV: ENV in the environment"));
    assert!(snapshot(Some("variable"), &["--environment", "flag"]).contains("ovcli-flag"));
}

#[test]
fn an_id_file_that_cannot_be_written_is_told_before_the_run_or_with_its_report() {
    let vault = Vault::made();
    let missing = vault.path("missing/id");
    vault.run(["snapshot", "--from", "mongodb=x", "--id-file", missing.to_str().unwrap()]).expect(2);
    assert!(vault.objects("snapshots").is_empty());

    let dir = vault.path("ids");
    std::fs::create_dir(&dir).unwrap();
    let id_file = dir.join("id");
    let mut child = vault.spawn(["snapshot", "--json", "--from", "mongodb=-", "--id-file", id_file.to_str().unwrap()]);
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("capturing mongodb") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    std::fs::remove_dir(&dir).unwrap();
    child.stdin.take().unwrap().write_all(&archive()).unwrap();
    let output = child.wait_with_output().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "complete");
    assert!(report["id_file_error"].as_str().is_some_and(|error| error.contains("ids/id")), "{report}");
    assert!(said.contains("the id was not written"), "{said}");
    let latest = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].clone();
    assert_eq!(latest, report["snapshot"]);
}

#[test]
fn an_output_that_takes_no_more_is_a_failure_and_leaves_no_file() {
    let vault = Vault::with_dump();
    let output = vault.path("archive");
    // In blocks of 512 bytes: more than the index, less than the archive.
    let line = "trap '' XFSZ; ulimit -f 360; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_orkvault"), "dump", "latest", "mongodb/mongo.archive"]);
    command.args(["--output", output.to_str().unwrap()]).current_dir(vault.path("work"));
    command.env("ORKVAULT_REPOSITORY", vault.path("repository")).env("XDG_CACHE_HOME", vault.path("cache"));
    command.env("ORKVAULT_PASSPHRASE_FILE", vault.path("data.pass"));
    let ran = command.output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("and no more"), "{said}");
    assert!(!output.exists());
}
