//! Which key does what: every command with each key alone.

use crate::support::cli::{Vault, archive, write_mode};

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
