//! A machine that has nothing yet: what a restore needs of it, and what comes back.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::cli::{Vault, archive, write_mode};
use crate::support::mongodb::FakeTools;

#[test]
fn secrets_come_back_into_an_empty_directory_byte_for_byte_and_with_their_modes() {
    let vault = Vault::made();
    let stack = vault.stack("production");
    write_mode(&stack.join("docker/keys/jwt-public.pem"), b"public\n", 0o644);
    write_mode(&stack.join("docker/keys/empty"), b"", 0o600);
    let files = ["docker/.env", "docker/keys/jwt-private.pem", "docker/keys/jwt-public.pem", "docker/keys/empty"];
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack.to_str().unwrap()]).expect(0);

    let new = vault.path("new");
    let restore = |flag: &str| vault.run_all(["restore", flag, "-c", "secrets", "--stack-dir", new.to_str().unwrap()]);
    // A name that was mistyped is no new machine.
    let ran = restore("-y").expect(2);
    assert!(ran.stderr.contains("docker/.env"), "{}", ran.stderr);
    assert!(!new.exists());

    std::fs::create_dir(&new).unwrap();
    let dry = restore("-n").expect(0);
    assert!(dry.stderr.contains("creates") && dry.stderr.contains("not compared"), "{}", dry.stderr);
    // Nobody can tell whether this is what was named, unless it is said.
    let named = ["restore", "-n", "-c", "secrets", "--stack-dir", new.to_str().unwrap(), "--into-env", "staging"];
    let ran = vault.run_all(named).expect(13);
    assert!(ran.stderr.contains("nothing here says") && ran.stderr.contains("--environment"), "{}", ran.stderr);
    vault.run_all(named.into_iter().chain(["--environment", "staging"])).expect(0);
    vault.run_all(named.into_iter().chain(["--environment", "production"])).expect(13);
    assert_eq!(std::fs::read_dir(&new).unwrap().count(), 0);
    restore("-y").expect(0);
    for file in files {
        let mode = |root: &std::path::Path| std::fs::metadata(root.join(file)).unwrap().permissions().mode();
        assert_eq!(std::fs::read(new.join(file)).unwrap(), std::fs::read(stack.join(file)).unwrap(), "{file}");
        assert_eq!(mode(&new), mode(&stack), "{file}");
    }
    // Now it is a stack, of an environment that is known.
    let ran = restore("-y").expect(0);
    assert!(!ran.stderr.contains("not compared"), "{}", ran.stderr);
    write_mode(&new.join("docker/.env"), b"ENV=staging\n", 0o600);
    restore("-y").expect(13);
}

#[test]
fn credentials_that_running_servers_do_not_have_are_named_before_a_restore_and_never_shown() {
    let vault = Vault::made();
    let stack = vault.stack("staging");
    let stack_text = stack.to_str().unwrap();
    vault.run(["snapshot", "-c", "secrets", "--yes", "--stack-dir", stack_text]).expect(0);
    let restore = ["restore", "-n", "-c", "secrets", "--stack-dir", stack_text];
    let env =
        "APP_NAME=ovcli\nENV=staging\nMONGO_ROOT_PASSWORD=canary-now\nKMS=canary-other\nREDIS_PASSWORD=canary-redis\n";
    write_mode(&stack.join("docker/.env"), env.as_bytes(), 0o600);
    let ran = vault.run_all(restore).expect(0);
    assert!(ran.stderr.contains("warning: MONGO_ROOT_PASSWORD, REDIS_PASSWORD will differ"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("canary"), "{}", ran.stderr);
    write_mode(&stack.join("docker/.env"), b"ENV=staging\nMONGO_ROOT_PASSWORD=\"canary-mongo\"\n", 0o600);
    let ran = vault.run_all(restore).expect(0);
    assert!(ran.stderr.contains("replaces") && !ran.stderr.contains("will differ"), "{}", ran.stderr);
}

#[test]
fn data_that_comes_back_without_its_secrets_is_warned_of() {
    let vault = Vault::with_dump();
    let tools = FakeTools::new(&archive(), "cat \"$ARCHIVE\"", "exit 0");
    let config =
        format!("[mongodb]\ntools_dir = {:?}\nuri = \"mongodb://127.0.0.1:1/\"\n", tools.path("").to_str().unwrap());
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let ran = vault.run_data(["restore", "-n", "-c", "mongodb"]).expect(0);
    for said in ["secrets are not restored", "ORKESTRA_KMS_MASTER_KEY", "(mongodb.uri in orkvault.toml)"] {
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}

#[test]
fn a_database_keeps_its_name_unless_another_was_asked_for() {
    let vault = Vault::with_dump();
    let tools = FakeTools::new(&archive(), "echo \"$@\" >>\"$DIR/asked\"; cat \"$ARCHIVE\"", "exit 0");
    let plan = |more: &str, option: &[&str]| {
        let config = format!(
            "[mongodb]\ntools_dir = {:?}\nuri = \"mongodb://127.0.0.1:1/\"\n{more}",
            tools.path("").to_str().unwrap()
        );
        write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
        vault.run_data([&["restore", "-n", "-c", "mongodb"], option].concat()).expect(0).stderr
    };
    // What `MONGO_DATABASE` would be where nobody has set it is no wish.
    let kept = plan("", &[]);
    assert!(kept.contains("collection basic.orders") && !kept.contains("orkestra.orders"), "{kept}");
    assert!(!kept.contains("under another name"), "{kept}");
    for renamed in [plan("database = \"other\"\n", &[]), plan("", &["--database", "other"])] {
        assert!(renamed.contains("collection other.orders"), "{renamed}");
        assert!(
            renamed.contains("warning: database basic of the snapshot is restored under another name"),
            "{renamed}"
        );
    }
    let asked = String::from_utf8(tools.read("asked")).unwrap();
    assert!(asked.contains("--db=basic") && asked.contains("--db=other") && !asked.contains("orkestra"), "{asked}");
}

/// Services of other users are below what is made for a directory that comes back.
#[test]
fn what_is_made_above_a_directory_lets_others_pass() {
    let vault = Vault::made();
    let spool = vault.path("spool");
    std::fs::create_dir(&spool).unwrap();
    std::fs::write(spool.join("file"), b"content").unwrap();
    let directory = |path: &str| {
        let config = format!("[[directory]]\nname = \"spool\"\npath = {path:?}\n");
        write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    };
    directory("../spool");
    vault.run(["snapshot", "-c", "spool", "--yes"]).expect(0);
    directory("../new/machine/spool");
    vault.run_data(["restore", "-y", "-c", "spool"]).expect(0);
    assert_eq!(std::fs::read(vault.path("new/machine/spool/file")).unwrap(), b"content");
    for above in ["new", "new/machine"] {
        let mode = std::fs::metadata(vault.path(above)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{above}");
    }
}
