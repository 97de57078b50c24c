//! What a check finds damaged, the next night stores anew.

use std::path::Path;

use crate::support::cli::{Vault, archive};

fn write(object: &Path, bytes: &[u8]) {
    std::fs::set_permissions(object, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(object, bytes).unwrap();
}

fn restores(vault: &Vault, snapshot: &str) -> bool {
    let ran = vault.run_data(["dump", snapshot, "mongodb/mongo.archive"]);
    ran.code == 0 && ran.stdout == archive()
}

fn night(vault: &Vault) -> (String, u64) {
    let json = vault.run_fed(["snapshot", "--from", "mongodb=-", "--json"], &archive()).expect(0).json();
    (json["snapshot"].as_str().unwrap().to_owned(), json["bytes_new"].as_u64().unwrap())
}

#[test]
fn what_a_check_finds_damaged_is_stored_anew_by_the_next_snapshot() {
    let vault = Vault::with_dump();
    let (unchanged, new) = night(&vault);
    assert_eq!(new, 0);
    let pack = vault.objects("data/packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let good = std::fs::read(&pack).unwrap();
    let mut bytes = good.clone();
    bytes[good.len() / 3] ^= 1;
    write(&pack, &bytes);
    // A writer cannot read content: as long as nobody has looked, nights go on with what there is.
    assert_eq!(night(&vault).1, 0);
    assert!(!restores(&vault, "latest"));

    let ran = vault.run_data(["check", "--read-data"]).expect(4);
    assert!(ran.text().contains("the next snapshot of this host stores anew"), "{}", ran.text());
    let (healed, new) = night(&vault);
    assert!(new > 0 && restores(&vault, &healed));
    // The same chunks under the same names: what came before is whole again, too. That the pack is damaged stays true.
    assert!(restores(&vault, &unchanged));
    let ran = vault.run_data(["check", "--read-data", "--json"]).expect(4);
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    assert!(findings.iter().all(|finding| finding["affects"].as_array().unwrap().is_empty()), "{findings:?}");
    assert_eq!(night(&vault).1, 0);

    // Put back whole it counts again, and nothing has to be remembered.
    write(&pack, &good);
    let ran = vault.run_data(["check", "--read-data"]).expect(0);
    assert!(!ran.text().contains("stores anew"), "{}", ran.text());
}

/// With the writer key alone a check tells that a pack is not what its name says, and not which part of it.
#[test]
fn a_check_with_the_writer_key_is_enough_for_the_next_snapshot_to_store_a_damaged_pack_anew() {
    let vault = Vault::with_dump();
    let pack = vault.objects("data/packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    write(&pack, &bytes);
    vault.run(["check", "--read-data"]).expect(4);
    let (healed, new) = night(&vault);
    assert!(new > 0 && restores(&vault, &healed));
}

/// What a check of the other store found damaged is copied again, too, though nothing of it is missing.
#[test]
fn a_copy_that_a_check_found_damaged_is_copied_again() {
    let (from, to) = (Vault::with_dump(), Vault::made());
    let place = from.path("repository").to_str().unwrap().to_owned();
    let passphrase = from.path("data.pass").to_str().unwrap().to_owned();
    let copy = ["copy", "--all", "--no-secrets", "--json", "--from", &place, "--from-passphrase-file", &passphrase];
    let copied = || to.run(copy).expect(0).json()["copied"].as_array().unwrap().len();
    assert_eq!((copied(), copied()), (1, 0));
    let pack = to.objects("data/packs").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    write(&pack, &bytes);
    assert!(copied() == 0 && !restores(&to, "latest"));
    to.run_data(["check", "--read-data"]).expect(4);
    assert_eq!(copied(), 1);
    assert!(restores(&to, "latest"));
    assert_eq!(copied(), 0);
}
