//! Dumps that are cut, refused or killed, and disks that are full: through the whole program.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::cli::{Ran, Vault, archive, write_mode};
use crate::support::mongodb::FakeTools;

const REFUSED: &str = "echo 'Failed: can'\"'\"'t create session: AuthenticationFailed' >&2; exit 1";

fn dump(vault: &Vault, script: &str) -> Ran {
    let tools = FakeTools::new(&archive(), script, "exit 99");
    let directory = tools.path("");
    let config = format!("[mongodb]\ntools_dir = {directory:?}\n");
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    vault.run(["snapshot", "--json", "-y", "-c", "mongodb", "--mongodb-uri-file", "../uri"])
}

fn with_uri() -> Vault {
    let vault = Vault::with_dump();
    write_mode(&vault.path("uri"), b"mongodb://admin:canary-password@127.0.0.1:1/\n", 0o600);
    vault
}

fn snapshots(vault: &Vault) -> Value {
    vault.run(["snapshots", "--json"]).expect(0).json()
}

#[test]
fn a_dump_that_is_cut_killed_or_refused_is_three_and_never_latest() {
    let vault = with_uri();
    let latest = snapshots(&vault)["latest"].clone();
    let len = archive().len();
    let mut table: Vec<(String, &str)> = Vec::new();
    for at in [0, 1, 4, 5000, len / 2, len - 1, len] {
        let cut = format!("head -c {at} \"$ARCHIVE\"");
        table.push((format!("{cut}; echo 'Failed: cursor lost' >&2; exit 1"), "cursor lost"));
        table.push((format!("{cut}; kill -9 $$"), "137"));
        if at < len {
            table.push((cut, "mongodump"));
        }
    }
    table.push(("exit 0".to_owned(), "not one byte"));
    table.push((REFUSED.to_owned(), "AuthenticationFailed"));
    let count = table.len();
    for (script, cause) in table {
        let ran = dump(&vault, &script).expect(3);
        let report = ran.json();
        assert_eq!(report["status"], "incomplete", "{script}");
        let reason = report["components"]["mongodb"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(cause) || cause == "mongodump" && !reason.is_empty(), "{script}: {reason}");
        assert!(!format!("{reason}{}", ran.stderr).contains("canary"), "{script}: {reason}");
    }
    let after = snapshots(&vault);
    assert_eq!(after["latest"], latest);
    assert_eq!(after["snapshots"].as_array().unwrap().len(), count + 1);
    // The same way with a dump that is whole; mongodump runs once, for a second one would be a load for nothing.
    let calls = vault.path("calls");
    let good = dump(&vault, &format!("echo called >> {}; cat \"$ARCHIVE\"", calls.display())).expect(0).json();
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "called\n");
    assert_eq!(snapshots(&vault)["latest"], good["snapshot"]);
    vault.run_data(["check", "--read-data"]).expect(0);
}

/// A small file system, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this user cannot mount.
    fn mount(path: &'a Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory is made");
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            let _ = writeln!(std::io::stderr(), "SKIPPED: no file system can be mounted here");
        }
        mounted.then_some(Self(path))
    }

    fn grow(&self, size: &str) {
        let remount = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &remount]).arg(self.0).status().is_ok_and(|status| status.success()));
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_repository_whose_disk_is_full_takes_no_snapshot_and_goes_on_when_there_is_space() {
    let vault = Vault::empty();
    let repository = vault.path("repository");
    let Some(disk) = SmallDisk::mount(&repository, "200k") else { return };
    let passphrases = ["--passphrase-file", "../data.pass", "--secrets-passphrase-file", "../secrets.pass"];
    vault.run(["init", "--kdf-low-memory"].into_iter().chain(passphrases)).expect(0);
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(1);
    assert!(ran.stderr.contains("free space"), "{}", ran.stderr);
    assert!(vault.objects("snapshots").is_empty());
    disk.grow("20m");
    vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    let checked = vault.run_data(["check", "--read-data", "--json"]).expect(0).json();
    assert_eq!(checked["findings"], Value::Array(Vec::new()));
    assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
}

#[test]
fn an_index_cache_that_is_full_or_cannot_be_used_costs_a_warning() {
    let vault = Vault::with_dump();
    let made = std::fs::read_dir(vault.path("cache/orkvault")).unwrap();
    let names: Vec<_> = made.map(|entry| entry.unwrap().file_name()).collect();
    // A directory is where the file should be: not even root can remove it as one.
    let blocked = vault.path("blocked");
    for name in names {
        std::fs::create_dir_all(blocked.join(name).join("in the way")).unwrap();
    }
    let full = vault.path("full");
    let disk = SmallDisk::mount(&full, "64k");
    let dirs = [Some(&blocked), disk.as_ref().map(|_| &full)];
    for dir in dirs.into_iter().flatten() {
        let dir = dir.to_str().unwrap();
        let dump = vault.run_data(["dump", "latest", "mongodb/mongo.archive", "--cache-dir", dir]).expect(0);
        assert!(dump.stdout == archive());
        assert!(dump.stderr.contains("temporary index"), "{dir}: {}", dump.stderr);
        let ran = vault.run_fed(["snapshot", "--from", "mongodb=-", "--cache-dir", dir], &archive()).expect(0);
        assert!(ran.stderr.contains("temporary index"), "{dir}: {}", ran.stderr);
    }
    let checked = vault.run_data(["check", "--read-data", "--json"]).expect(0).json();
    assert_eq!(checked["findings"], Value::Array(Vec::new()));
}
