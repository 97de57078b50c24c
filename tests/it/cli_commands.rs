//! What each command does when all is well, for people and as JSON.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::support::cli::{DATA_PASSPHRASE, SECRETS_PASSPHRASE, Vault, archive, write_mode};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_dump_comes_back_byte_for_byte_from_standard_output_from_a_file_and_from_a_directory() {
    let vault = Vault::with_dump();
    let dumped = vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0);
    assert!(dumped.stdout == archive(), "{} bytes", dumped.stdout.len());

    let output = vault.path("archive");
    let output_text = output.to_str().unwrap();
    let ran = vault.run_data(["dump", "latest", "mongodb/mongo.archive", "--output", output_text, "--json"]).expect(0);
    assert_eq!(ran.json()["bytes"], archive().len());
    assert!(ran.json()["key_derivation_secs"].as_f64().is_some_and(|secs| secs > 0.0));
    assert!(std::fs::read(&output).unwrap() == archive());
    assert_eq!(mode(&output), 0o600);
    vault.run_data(["dump", "latest", "mongodb/mongo.archive", "--output", output_text]).expect(13);

    let target = vault.path("target");
    let target_text = target.to_str().unwrap();
    let dry = vault.run_data(["restore", "-n", "-c", "mongodb", "--target-dir", target_text]).expect(0);
    assert!(dry.text().contains("nothing was changed"), "{}", dry.text());
    assert!(!target.exists());
    vault.run_data(["restore", "-y", "-c", "mongodb", "--target-dir", target_text]).expect(0);
    assert!(std::fs::read(target.join("mongodb/mongo.archive")).unwrap() == archive());
    assert_eq!((mode(&target), mode(&target.join("mongodb/mongo.archive"))), (0o700, 0o600));
    vault.run_data(["restore", "-y", "-c", "mongodb", "--target-dir", target_text]).expect(13);
}

/// Whoever finds the file at three in the morning must not take half of it for the whole.
#[test]
fn what_a_restore_did_not_finish_never_has_its_name() {
    let vault = Vault::with_dump();
    let packs = vault.objects("data/packs/");
    let pack = packs.iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    let whole = std::fs::read(pack).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(pack, damaged).unwrap();

    let target = vault.path("target");
    let restore = ["restore", "-y", "--no-verify-first", "-c", "mongodb", "--target-dir", target.to_str().unwrap()];
    vault.run_data(restore).expect(1);
    let left = || std::fs::read_dir(&target).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(), ["mongodb.partial"]);

    // It is in the way until somebody has looked at it.
    std::fs::write(pack, whole).unwrap();
    vault.run_data(restore).expect(13);
    std::fs::remove_dir_all(target.join("mongodb.partial")).unwrap();
    vault.run_data(restore).expect(0);
    assert_eq!(left(), ["mongodb"]);
    assert!(std::fs::read(target.join("mongodb/mongo.archive")).unwrap() == archive());
}

#[test]
fn every_command_writes_one_json_document() {
    let vault = Vault::empty();
    let passphrases = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../secrets.pass"];
    let made = vault.run(["init", "--json", "--kdf-low-memory"].into_iter().chain(passphrases)).expect(0).json();
    assert_eq!(made["repository_id"].as_str().unwrap().len(), 64);
    assert_eq!(mode(&vault.path("writer.key")), 0o600);

    let id_file = vault.path("id");
    let arguments =
        ["snapshot", "--json", "--from", "mongodb=-", "--tag", "night", "--id-file", id_file.to_str().unwrap()];
    let snapshot = vault.run_fed(arguments, &archive()).expect(0).json();
    let id = snapshot["snapshot"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(&id_file).unwrap().trim(), id);
    assert_eq!(snapshot["status"], "complete");
    assert_eq!(snapshot["bytes_read"], archive().len());

    let listed = vault.run(["snapshots", "--json"]).expect(0).json();
    assert_eq!(listed["latest"], id);
    assert_eq!(listed["snapshots"][0]["tags"][0], "night");
    let none = vault.run(["snapshots", "--json", "--tag", "day"]).expect(0).json();
    assert_eq!(none["snapshots"], Value::Array(Vec::new()));

    let shown = vault.run(["show", "--json", &id[..8]]).expect(0).json();
    assert_eq!(shown["manifest"]["schema"], "orkestra-backup/v1");
    assert_eq!(shown["manifest"]["components"][0], "mongodb");

    let shown = vault.run(["show", "--json", "--layout", &id[..8]]).expect(0).json();
    assert_eq!(shown["layout"][0]["stream"], "mongo.archive");
    assert_eq!(shown["layout"][0]["stream_bytes"], archive().len());

    let inside = vault.run(["ls", "--json", "latest"]).expect(0).json();
    let names = inside["components"]["mongodb"]["catalogue"].as_array().unwrap();
    assert!(names.iter().any(|row| row["name"] == "basic.users" && row["records"] == 50), "{names:?}");
    let inside = vault.run(["ls", "--json", "latest", "mongodb"]).expect(0).json();
    assert_eq!(inside["streams"][0]["bytes"], archive().len());
    assert_eq!(inside["entries"], Value::Array(Vec::new()));

    // Content is on standard output: the document is the last line of standard error.
    let dumped = vault.run_data(["dump", "--json", "latest", "mongodb/mongo.archive"]).expect(0);
    assert!(dumped.stdout == archive());
    let facts: Value = serde_json::from_str(dumped.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(facts["snapshot"], id);

    let checked = vault.run_data(["check", "--json", "--read-data"]).expect(0).json();
    assert_eq!(checked["findings"], Value::Array(Vec::new()));
    assert!(checked["key_derivation_secs"].as_f64().is_some_and(|secs| secs > 0.0));
    assert!(checked["bytes_opened"].as_u64().unwrap() >= archive().len() as u64);
    let checked = vault.run(["check", "--json"]).expect(0).json();
    assert_eq!(checked["key_derivation_secs"], Value::Null);

    let target = vault.path("target");
    let arguments = ["restore", "--json", "-y", "-c", "mongodb", "--target-dir", target.to_str().unwrap()];
    let restored = vault.run_data(arguments).expect(0).json();
    assert_eq!(restored["restored"][0]["bytes"], archive().len());
    assert_eq!(restored["bytes_verified"], archive().len());

    let doctor = vault.run(["doctor", "--json", "--docker-host", "unix:///nowhere.sock"]).expect(1).json();
    assert_eq!(doctor["is_fit"], false);
    let script = vault.run(["completions", "bash", "--json"]).expect(0).json();
    assert!(script["script"].as_str().unwrap().contains("_orkvault"));
    let man = vault.run(["man", vault.path("man").to_str().unwrap(), "--json"]).expect(0).json();
    assert!(man["pages"].as_array().unwrap().len() > 10);
}

#[test]
fn secrets_and_directories_are_captured_and_come_back_without_servers() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let spool = vault.path("spool");
    std::fs::create_dir_all(spool.join("in")).unwrap();
    std::fs::write(spool.join("in/a.csv"), b"a,b\n").unwrap();
    let config = format!("[[directory]]\nname = \"spool\"\npath = {:?}\n", spool.to_str().unwrap());
    write_mode(&stack.join("orkvault.toml"), config.as_bytes(), 0o600);
    let stack_text = stack.to_str().unwrap();
    vault.run(["snapshot", "-c", "secrets,spool", "--yes", "--stack-dir", stack_text]).expect(0);

    let env = std::fs::read(stack.join("docker/.env")).unwrap();
    let dumped = vault.run_all(["dump", "latest", "secrets/.env"]).expect(0);
    assert_eq!(dumped.stdout, env);
    assert_eq!(vault.run_data(["dump", "latest", "spool/in/a.csv"]).expect(0).stdout, b"a,b\n");

    write_mode(&stack.join("docker/.env"), b"ENV=staging\nLATER=1\n", 0o600);
    std::fs::remove_file(stack.join("docker/keys/jwt-private.pem")).unwrap();
    std::fs::write(spool.join("in/a.csv"), b"changed").unwrap();
    let ran = vault.run_all(["restore", "--yes", "--stack-dir", stack_text]).expect(0);
    assert!(ran.stderr.contains("replaces"), "{}", ran.stderr);
    assert_eq!(std::fs::read(stack.join("docker/.env")).unwrap(), env);
    assert_eq!(std::fs::read(stack.join("docker/keys/jwt-private.pem")).unwrap(), b"canary-key\n");
    assert_eq!(std::fs::read(spool.join("in/a.csv")).unwrap(), b"a,b\n");

    let target = vault.path("target");
    vault.run_all(["restore", "--yes", "--target-dir", target.to_str().unwrap()]).expect(0);
    assert_eq!(std::fs::read(target.join("secrets/.env")).unwrap(), env);
    assert_eq!(std::fs::read(target.join("spool/in/a.csv")).unwrap(), b"a,b\n");
}

#[test]
fn names_from_a_tenant_do_nothing_to_a_terminal() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let spool = vault.path("spool");
    std::fs::create_dir_all(&spool).unwrap();
    for name in [&b"a\x1b[2Jb"[..], b"c\nd", b"e\xff", "f\u{202e}g".as_bytes(), "h\u{9b}2Ji".as_bytes()] {
        std::fs::write(spool.join(std::ffi::OsStr::from_bytes(name)), b"x").unwrap();
    }
    let config = format!("[[directory]]\nname = \"spool\"\npath = {:?}\n", spool.to_str().unwrap());
    write_mode(&stack.join("orkvault.toml"), config.as_bytes(), 0o600);
    let stack_text = stack.to_str().unwrap();
    let snapshot = ["snapshot", "-c", "spool", "--yes", "--stack-dir", stack_text, "--tag", "t\x1b[31m\u{202e}"];
    let mut said = vec![vault.run(snapshot).expect(0)];
    said.push(vault.run(["ls", "latest", "spool"]).expect(0));
    assert!(said[1].text().contains("spool/a\\u{1b}[2Jb\n"), "{}", said[1].text());
    assert!(
        said[1].text().contains("spool/c\\nd\n") && said[1].text().contains("spool/e\\xff\n"),
        "{}",
        said[1].text()
    );
    said.push(vault.run(["snapshots"]).expect(0));
    said.push(vault.run(["show", "latest"]).expect(0));
    said.push(vault.run_data(["dump", "latest", "spool/\x1b[2J"]).expect(1));
    // JSON is shown on terminals, too.
    for arguments in [&["ls", "latest", "spool", "--json"][..], &["snapshots", "--json"], &["show", "latest", "--json"]]
    {
        said.push(vault.run(arguments).expect(0));
    }
    said.push(vault.run_data(["dump", "latest", "spool/\u{9b}\u{202e}", "--json"]).expect(1));
    for ran in said {
        let all = format!("{}{}", ran.text(), ran.stderr);
        assert!(!all.contains(['\x1b', '\u{202e}', '\u{9b}']), "{all:?}");
    }
    let rows = vault.run(["ls", "latest", "spool", "--json"]).expect(0).json();
    let rows = rows["entries"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["key"] == "a\u{1b}[2Jb"), "{rows:?}");
    assert!(rows.iter().any(|row| row["key"] == "h\u{9b}2Ji"), "{rows:?}");
    assert!(rows.iter().any(|row| row["key_hex"] == "65ff"), "{rows:?}");
}

#[test]
fn no_secret_is_ever_said_or_stored_in_the_clear() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    let writer_key = std::fs::read_to_string(vault.path("writer.key")).unwrap();
    let writer_key = writer_key.trim().rsplit(':').next().unwrap().to_owned();
    let target = vault.path("target");
    let runs: [&[&str]; 9] = [
        &["snapshot", "-c", "secrets", "--yes", "-v", "--stack-dir", stack_text],
        &["snapshots"],
        &["show", "latest"],
        &["ls", "latest"],
        &["ls", "latest", "secrets"],
        &["check", "--read-data"],
        &["restore", "-n", "-v", "-c", "secrets", "--stack-dir", stack_text],
        &["doctor", "--stack-dir", stack_text, "--docker-host", "unix:///nowhere.sock"],
        &["restore", "-y", "--target-dir", target.to_str().unwrap()],
    ];
    for arguments in runs {
        for json in [None, Some("--json")] {
            if target.exists() {
                std::fs::remove_dir_all(&target).unwrap();
            }
            let ran = vault.run_all(arguments.iter().copied().chain(json));
            assert!(matches!(ran.code, 0 | 1), "{arguments:?}: {}", ran.stderr);
            let all = format!("{}{}", ran.text(), ran.stderr);
            assert!(!all.contains("canary") && !all.contains(&writer_key), "{arguments:?}: {all}");
        }
    }
    for path in vault.objects("") {
        let bytes = std::fs::read(&path).unwrap();
        for secret in [DATA_PASSPHRASE, SECRETS_PASSPHRASE, "canary-kms", "canary-key", "MONGO_ROOT", "jwt-private"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
        }
    }
}

#[test]
fn latest_of_a_component_is_the_newest_complete_snapshot_that_has_it() {
    let vault = Vault::with_dump();
    let with_dump = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].clone();
    let stack = vault.stack("staging");
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack.to_str().unwrap()]).expect(0);
    let latest = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].clone();
    assert_ne!(latest, with_dump);

    assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
    assert_eq!(vault.run(["ls", "latest", "mongodb", "--json"]).expect(0).json()["snapshot"], with_dump);
    assert_eq!(vault.run(["ls", "latest", "--json"]).expect(0).json()["snapshot"], latest);
    let target = vault.path("target");
    let restore = ["restore", "-n", "--json", "--target-dir", target.to_str().unwrap(), "-c"];
    let of = |component| restore.into_iter().chain([component]);
    assert_eq!(vault.run_data(of("mongodb")).expect(0).json()["snapshot"], with_dump);
    assert_eq!(vault.run_all(of("secrets")).expect(0).json()["snapshot"], latest);
    // One snapshot that has both is needed, not one of each.
    let ran = vault.run_all(of("mongodb,secrets")).expect(1);
    assert!(ran.stderr.contains("no complete snapshot with mongodb, secrets"), "{}", ran.stderr);
}

/// What the plan of a restore without secrets advises.
#[test]
fn the_secrets_that_belong_to_a_snapshot_come_back_with_it_though_an_earlier_run_captured_them() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    let snapshot = ["snapshot", "--json", "-c", "secrets", "--yes", "--stack-dir", stack_text];
    let captured = vault.run(snapshot).expect(0).json()["snapshot"].clone();
    let env = std::fs::read(stack.join("docker/.env")).unwrap();
    let snapshot = ["snapshot", "--json", "--from", "mongodb=-", "--stack-dir", stack_text];
    let later = vault.run_fed(snapshot, &archive()).expect(0).json();
    let later = later["snapshot"].as_str().unwrap();

    let target = vault.path("target");
    let restore = ["restore", "-y", "--json", "--target-dir", target.to_str().unwrap(), "-c"];
    let ran = vault.run_all(restore.into_iter().chain(["mongodb,secrets"])).expect(0);
    assert_eq!(ran.json()["snapshot"], later);
    assert!(ran.stderr.contains("captured none itself"), "{}", ran.stderr);
    assert_eq!(std::fs::read(target.join("secrets/.env")).unwrap(), env);
    assert!(std::fs::read(target.join("mongodb/mongo.archive")).unwrap() == archive());
    let by_id = ["restore", "-y", "-c", "secrets", "--snapshot", later, "--stack-dir", stack_text];
    vault.run_all(by_id).expect(0);
    assert_eq!(vault.run(["ls", later, "secrets", "--json"]).expect(0).json()["snapshot"], later);
    // Alone they are those that were captured last.
    assert_eq!(vault.run(["ls", "latest", "secrets", "--json"]).expect(0).json()["snapshot"], captured);
    assert_eq!(vault.run_all(["dump", "latest", "secrets/.env"]).expect(0).stdout, env);
}

#[test]
fn a_container_that_was_left_stopped_stops_no_work_that_needs_none() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    let state = vault.path("state/orkvault");
    std::fs::create_dir_all(&state).unwrap();
    let record = br#"{"version":1,"container_id":"c0ffee","container_name":"redis","daemon_id":"d"}"#;
    write_mode(&state.join("redis-stopped-c0ffee.json"), record, 0o600);
    let snapshot = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", stack_text];
    let restore = ["restore", "-y", "-c", "secrets", "--stack-dir", stack_text];
    for host in ["unix:///nowhere.sock", "carrier-pigeon://"] {
        let host = ["--docker-host", host];
        for ran in [
            vault.run_fed(snapshot.into_iter().chain(host), &archive()),
            vault.run_all(restore.into_iter().chain(host)),
        ] {
            assert!(ran.stderr.contains("cannot be put right"), "{}", ran.stderr);
            ran.expect(0);
        }
    }
    assert!(state.join("redis-stopped-c0ffee.json").exists());
}

/// On the bad day the only night may be one in which something else failed.
#[test]
fn where_only_an_incomplete_snapshot_has_it_that_one_is_named() {
    let vault = Vault::made();
    let config = "[[directory]]\nname = \"spool\"\npath = \"missing\"\n";
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let ran =
        vault.run_fed(["snapshot", "--json", "--yes", "--from", "mongodb=-", "-c", "spool"], &archive()).expect(3);
    let id = ran.json()["snapshot"].as_str().unwrap().to_owned();
    for dump in [["dump", "latest", "mongodb/mongo.archive"], ["show", "latest", "--json"]] {
        let ran = vault.run_data(dump).expect(1);
        assert!(ran.stderr.contains(&id) && ran.stderr.contains("has mongodb whole"), "{}", ran.stderr);
    }
    let ran = vault.run_data(["dump", "latest", "redis/dump.rdb"]).expect(1);
    assert!(!ran.stderr.contains(&id) && ran.stderr.contains("no complete snapshot with redis"), "{}", ran.stderr);
    assert!(vault.run_data(["dump", &id, "mongodb/mongo.archive"]).expect(0).stdout == archive());
}

#[test]
fn newer_snapshots_that_are_incomplete_are_passed_over_aloud() {
    let vault = Vault::with_dump();
    let latest = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].clone();
    let dump = ["dump", "latest", "mongodb/mongo.archive"];
    let show = ["show", "latest", "--json"];
    assert!(!vault.run_data(dump).expect(0).stderr.contains("incomplete"));
    assert_eq!(vault.run(show).expect(0).json()["passed_over"]["incomplete"], 0);

    // Half a dump, a whole one beside a directory that is not there, half a dump.
    let half = &archive()[..1000];
    vault.run_fed(["snapshot", "--from", "mongodb=-"], half).expect(3);
    assert!(vault.run_data(dump).expect(0).stderr.contains("none of them has all of mongodb"));
    let config = "[[directory]]\nname = \"spool\"\npath = \"missing\"\n";
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let partly = ["snapshot", "--json", "--yes", "--from", "mongodb=-", "-c", "spool"];
    let partly = vault.run_fed(partly, &archive()).expect(3).json()["snapshot"].clone();
    vault.run_fed(["snapshot", "--from", "mongodb=-"], half).expect(3);

    let ran = vault.run_data(dump).expect(0);
    let said = format!("the newest of them with all of mongodb is {}", &partly.as_str().unwrap()[..8]);
    assert!(ran.stderr.contains("warning: 3 snapshots are newer than") && ran.stderr.contains(&said), "{}", ran.stderr);
    let ran = vault.run(show).expect(0);
    assert!(ran.stderr.contains(&said), "{}", ran.stderr);
    let target = vault.path("target");
    let restore = ["restore", "-n", "--json", "-c", "mongodb", "--target-dir", target.to_str().unwrap()];
    let restored = vault.run_data(restore).expect(0);
    assert!(restored.stderr.contains(&said), "{}", restored.stderr);
    for facts in [ran.json(), restored.json()] {
        assert_eq!(facts["snapshot"], latest);
        assert_eq!((&facts["passed_over"]["incomplete"], &facts["passed_over"]["usable"]), (&Value::from(3), &partly));
    }
    // One that is named is meant.
    let named = vault.run(["show", latest.as_str().unwrap(), "--json"]).expect(0);
    assert_eq!(named.json()["passed_over"], Value::Null);
    assert_eq!(named.stderr, "");
}

#[test]
fn a_restore_of_everything_says_what_only_older_snapshots_have() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    let night = ["snapshot", "--json", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", stack_text];
    let night = vault.run_fed(night, &archive()).expect(0).json()["snapshot"].clone();
    let dump = ["snapshot", "--from", "mongodb=-", "--stack-dir", stack_text];
    vault.run_fed(dump, &archive()).expect(0);
    let day = ["snapshot", "--json", "-c", "secrets", "--yes", "--stack-dir", stack_text];
    let day = vault.run(day).expect(0).json()["snapshot"].clone();

    let target = vault.path("target");
    let restore = ["restore", "-n", "--json", "--target-dir", target.to_str().unwrap()];
    let ran = vault.run_all(restore).expect(0);
    assert_eq!(ran.json()["snapshot"], day);
    let missing = ran.json()["missing"].clone();
    assert_eq!((missing.as_array().unwrap().len(), &missing[0]["components"][0]), (1, &Value::from("mongodb")));
    assert_ne!(missing[0]["snapshot"], night);
    let said = "has only secrets; the newest complete one with mongodb is";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    // What was named is what is wanted.
    let ran = vault.run_all(restore.into_iter().chain(["-c", "secrets"])).expect(0);
    assert!(!ran.stderr.contains("has only") && ran.json()["missing"].as_array().unwrap().is_empty(), "{}", ran.stderr);
    let night = night.as_str().unwrap();
    let ran = vault.run_all(restore.into_iter().chain(["--snapshot", night])).expect(0);
    assert!(!ran.stderr.contains("has only"), "{}", ran.stderr);
}
