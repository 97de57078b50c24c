//! A store that is put back to an older state, or loses what was written last, is found by the host that wrote.

use std::path::Path;

use crate::support::cli::{Vault, archive};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_store_that_loses_the_newest_snapshot_or_is_put_back_is_found() {
    let vault = Vault::with_dump();
    copy(&vault.path("repository"), &vault.path("yesterday"));
    vault.run(["check"]).expect(0);
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-", "--json"], &archive()).expect(0);
    let id = ran.json()["snapshot"].as_str().unwrap().to_owned();
    vault.run(["check"]).expect(0);

    let object = vault.path("repository").join("data/snapshots").join(&id);
    let bytes = std::fs::read(&object).unwrap();
    std::fs::remove_file(&object).unwrap();
    let ran = vault.run(["check"]).expect(4);
    assert!(ran.text().contains(&format!("data/snapshots/{id}: is missing")), "{}", ran.text());
    std::fs::write(&object, bytes).unwrap();
    vault.run(["check"]).expect(0);

    // The whole store as it was yesterday: in itself without a fault.
    std::fs::remove_dir_all(vault.path("repository")).unwrap();
    copy(&vault.path("yesterday"), &vault.path("repository"));
    let ran = vault.run(["check"]).expect(4);
    assert!(ran.text().contains(&id), "{}", ran.text());
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    assert!(ran.stderr.contains(&id), "{}", ran.stderr);
    // Said once: the next one is what this host made last.
    vault.run(["check"]).expect(0);
}

#[test]
fn a_damaged_manifest_does_not_stand_between_an_operator_and_the_latest_snapshot() {
    let vault = Vault::with_dump();
    let first = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].as_str().unwrap().to_owned();
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-", "--json"], &archive()).expect(0);
    let newest = ran.json()["snapshot"].as_str().unwrap().to_owned();
    let object = vault.path("repository").join("data/snapshots").join(&newest);
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[200] ^= 1;
    std::fs::set_permissions(&object, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&object, &bytes).unwrap();
    for arguments in [
        &["dump", "latest", "mongodb/mongo.archive", "-o", "archive", "--json"][..],
        &["restore", "-n", "-c", "mongodb", "--target-dir", "../target", "--json"],
        &["show", "latest", "--json"],
        &["ls", "latest", "--json"],
        &["ls", "latest", "mongodb", "--json"],
    ] {
        let ran = vault.run_data(arguments).expect(0);
        assert!(ran.stderr.contains(&format!("warning: snapshot {newest} cannot be read")), "{}", ran.stderr);
        assert!(ran.stderr.contains("may be newer"), "{}", ran.stderr);
        assert_eq!(ran.json()["snapshot"], first.as_str(), "{arguments:?}");
        assert_eq!(ran.json()["unreadable"][0]["snapshot"], newest.as_str(), "{arguments:?}");
    }
    // Named itself it is an error, and so is `latest` where nothing else is left to be it.
    vault.run_data(["show", &newest]).expect(1);
    std::fs::remove_file(vault.path("repository").join("data/snapshots").join(first)).unwrap();
    let ran = vault.run_data(["show", "latest"]).expect(1);
    assert!(ran.stderr.contains(&newest), "{}", ran.stderr);
}
