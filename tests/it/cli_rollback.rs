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
