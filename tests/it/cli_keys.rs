//! Which key does what: every command with each key alone.

use orkvault::crypto::hash::{content_hash, push_checksum};
use orkvault::format::slot::{Capability, KdfParams, Slot, Unlock};

use crate::support::cli::{Ran, Vault, archive, write_mode};

/// Whether `bytes` has `part` in it.
fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn every_command_with_each_key_alone_does_what_that_key_may_and_shows_nothing_else() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack = stack.to_str().unwrap();
    let both = ["snapshot", "--from", "mongodb=-", "-c", "secrets", "--yes", "--stack-dir", stack];
    vault.run_fed(both, &archive()).expect(0);
    write_mode(&vault.path("dump"), &archive(), 0o600);
    let from = format!("mongodb={}", vault.path("dump").display());
    let (target, man) = (vault.path("target"), vault.path("man"));
    let (target, man) = (target.to_str().unwrap(), man.to_str().unwrap());
    let new_key = vault.path("new.key");
    let keys = [
        ("ORKVAULT_WRITER_KEY_FILE", "writer.key"),
        ("ORKVAULT_PASSPHRASE_FILE", "data.pass"),
        ("ORKVAULT_SECRETS_PASSPHRASE_FILE", "secrets.pass"),
    ];
    // The exit codes with the writer key, the data passphrase, the secrets passphrase.
    let table: [(&[&str], [i32; 3]); 17] = [
        (&["snapshots"], [0, 0, 2]),
        (&["show", "latest"], [0, 0, 2]),
        (&["ls", "latest"], [0, 0, 2]),
        (&["ls", "latest", "mongodb"], [0, 0, 2]),
        (&["ls", "latest", "secrets"], [0, 0, 2]),
        (&["dump", "latest", "mongodb/mongo.archive"], [12, 0, 2]),
        (&["dump", "latest", "secrets/.env"], [12, 12, 2]),
        (&["dump", "latest", "secrets/keys/jwt-private.pem"], [12, 12, 2]),
        (&["check"], [0, 0, 2]),
        (&["check", "--read-data"], [0, 0, 2]),
        (&["restore", "-n", "-c", "mongodb", "--target-dir", target], [12, 0, 2]),
        (&["restore", "-n", "-c", "secrets", "--target-dir", target], [12, 12, 2]),
        (&["restore", "-y", "-c", "secrets", "--stack-dir", stack], [12, 12, 2]),
        (&["init", "-r", "new", "--writer-key", new_key.to_str().unwrap()], [2, 2, 2]),
        (&["doctor", "--stack-dir", stack, "--docker-host", "unix:///nowhere.sock"], [1, 1, 1]),
        (&["man", man], [0, 0, 0]),
        (&["snapshot", "--from", &from], [0, 2, 2]),
    ];
    let canary = archive()[200_000..200_032].to_vec();
    let mut wrong = Vec::new();
    for (arguments, codes) in table {
        for ((variable, file), code) in keys.iter().zip(codes) {
            let mut command = vault.command(arguments);
            command.env_remove("ORKVAULT_WRITER_KEY_FILE").env(variable, vault.path(file));
            let output = command.output().unwrap();
            if output.status.code() != Some(code) {
                wrong.push((
                    arguments,
                    *file,
                    output.status.code(),
                    String::from_utf8_lossy(&output.stderr).into_owned(),
                ));
            }
            let is_asked = arguments[0] == "dump" && arguments[2].starts_with("mongodb") && *file == "data.pass";
            assert!(is_asked == has(&output.stdout, &canary), "{arguments:?} with {file}");
            for said in [&output.stdout, &output.stderr] {
                let shows = ["canary-mongo", "canary-kms", "canary-key", "canary-data", "canary-secrets"];
                assert!(!shows.iter().any(|secret| has(said, secret.as_bytes())), "{arguments:?} with {file}");
            }
            assert!(!has(&output.stderr, &canary), "{arguments:?} with {file}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn doctor_says_whether_a_passphrase_opens_its_slot() {
    let vault = Vault::made();
    let doctor = |data: &str, secrets: &str| {
        let files = ["--passphrase-file", data, "--secrets-passphrase-file", secrets];
        let ran = vault.run(["doctor", "--docker-host", "unix:///nowhere.sock"].into_iter().chain(files));
        ran.expect(1).text()
    };
    let said = doctor("../data.pass", "../secrets.pass");
    assert!(said.contains("ok    data passphrase: opens its key slot"), "{said}");
    assert!(said.contains("ok    secrets passphrase: opens its key slot"), "{said}");
    let said = doctor("../secrets.pass", "../data.pass");
    assert!(said.contains("fail  data passphrase") && said.contains("fail  secrets passphrase"), "{said}");
}

/// Whoever may put objects and nothing else must not be able to lock the owner out.
#[test]
fn any_number_of_objects_that_look_like_key_slots_keeps_nobody_out() {
    let vault = Vault::with_dump();
    let good = std::fs::read(&vault.objects("/keys/")[0]).unwrap();
    // Younger than those of the repository.
    std::thread::sleep(std::time::Duration::from_millis(50));
    for number in 0..300_u64 {
        let name = content_hash(&number.to_le_bytes()).to_string();
        let mut bytes = if number % 2 == 0 { good.clone() } else { b"no slot".to_vec() };
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(vault.path("repository/keys").join(name), bytes).unwrap();
    }
    assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
    vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    // They are named.
    let ran = vault.run_data(["check"]).expect(4);
    assert_eq!(ran.text().matches("FINDING keys/").count(), 300, "{}", ran.text());
    vault.run(["dump", "latest", "mongodb/mongo.archive", "--passphrase-file", "../secrets.pass"]).expect(12);
}

/// Slots have a checksum and no more that could be checked without a key: one may ask for all that a derivation may take.
#[test]
fn a_slot_that_takes_more_memory_than_there_is_hides_no_other() {
    let vault = Vault::with_dump();
    let slots = vault.objects("/keys/").into_iter().map(|slot| Slot::decode(&std::fs::read(slot).unwrap()).unwrap().0);
    let mut dear = slots.into_iter().find(|slot| slot.header.capability == Capability::DataReader).unwrap();
    dear.header.unlock = Unlock::Passphrase(KdfParams::new(2 * 1024 * 1024, 4, 4).unwrap());
    for number in 0..6_u8 {
        dear.header.salt[0] = number;
        let mut bytes = dear.encode();
        push_checksum(&mut bytes);
        let name = content_hash(&bytes).to_string();
        std::fs::write(vault.path("repository/keys").join(name), bytes).unwrap();
    }
    let limited = |passphrase: &str| {
        let dump = ["dump", "latest", "mongodb/mongo.archive", "--passphrase-file", passphrase];
        let limit = ["sh", "-c", "ulimit -v 1500000 && exec \"$@\"", "sh"];
        Ran::new(vault.command_by(limit, dump).output().unwrap())
    };
    assert!(limited("../data.pass").expect(0).stdout == archive());
    // None opens, and not all could be tried.
    let refused = limited("../secrets.pass").expect(1);
    assert!(refused.stderr.contains("memory"), "{}", refused.stderr);
}

#[test]
fn a_key_from_standard_input_is_read_once_by_doctor_too() {
    let vault = Vault::with_dump();
    let key = std::fs::read(vault.path("writer.key")).unwrap();
    let doctor = ["doctor", "--writer-key", "-", "--docker-host", "unix:///nowhere.sock"];
    let ran = vault.run_fed(doctor, &key).expect(1);
    assert!(ran.text().contains("ok    repository: "), "{}", ran.text());
    assert!(!ran.text().contains("fail  writer key") && !ran.text().contains("fail  repository"), "{}", ran.text());
    let ran = vault.run_fed(doctor, b"no key").expect(1);
    assert!(ran.text().contains("fail  repository: the writer key in standard input"), "{}", ran.text());
}
