//! A night costs what changed, as the program's user sees it.

use std::path::Path;

use serde_json::Value;

use crate::support::cli::{Vault, archive, write_mode};
use crate::support::repository::noise;

/// What a snapshot of the directory says of its entries.
fn night(vault: &Vault, arguments: &[&str]) -> Value {
    let base = ["snapshot", "-y", "--json", "-c", "spool", "--config", "../orkvault.toml"];
    let ran = vault.run(base.iter().chain(arguments)).expect(0).json();
    let streams = ran["streams"].as_array().unwrap();
    let entries = streams.iter().find(|stream| stream["stream"] == "entries").unwrap();
    assert_eq!(entries["component"], "spool");
    let number = |name: &str| entries[name].as_u64().unwrap();
    assert_eq!(number("bytes_whole") + number("bytes_parts") + number("bytes_new"), number("bytes_read"));
    assert!(number("bytes_stored") <= ran["bytes_stored"].as_u64().unwrap());
    entries.clone()
}

fn change(file: &Path, content: &mut [u8], seed: usize) {
    for at in (seed * 1_000..content.len()).step_by(200_000) {
        content[at] ^= 0x55;
    }
    std::fs::write(file, content).unwrap();
}

#[test]
fn a_large_file_that_keeps_changing_costs_what_changed() {
    let vault = Vault::made();
    let spool = vault.path("spool");
    std::fs::create_dir(&spool).unwrap();
    let config = format!("[[directory]]\nname = \"spool\"\npath = {:?}\n", spool.to_str().unwrap());
    write_mode(&vault.path("orkvault.toml"), config.as_bytes(), 0o600);
    let (file, mut content) = (spool.join("large.db"), noise(3, 6_000_000));
    std::fs::write(&file, &content).unwrap();
    std::fs::write(spool.join("never changes"), noise(4, 900_000)).unwrap();

    let first = night(&vault, &[]);
    assert!(first["bytes_new"].as_u64().unwrap() >= 6_900_000);
    // The first change: whole chunks. From then on the host remembers the pieces of this file.
    change(&file, &mut content, 1);
    let second = night(&vault, &[]);
    assert!(second["bytes_new"].as_u64().unwrap() > 1_000_000, "{second}");
    change(&file, &mut content, 2);
    let third = night(&vault, &[]);
    assert!(third["bytes_new"].as_u64().unwrap() < 30 * 4_000, "{third}");
    assert!(third["bytes_parts"].as_u64().unwrap() > 1_000_000, "{third}");

    let dumped = vault.run_data(["dump", "latest", "spool/large.db"]).expect(0);
    assert!(dumped.stdout == content);
    vault.run_data(["check", "--read-data"]).expect(0);
    let doctor = vault.run(["doctor", "--json"]).json().to_string();
    assert!(doctor.contains("streams remembered") && !doctor.contains("\"0 streams remembered"), "{doctor}");

    // Told to remember nothing, it does not, and stores whole chunks.
    change(&file, &mut content, 3);
    let fourth = night(&vault, &["--piece-cache-mib", "0"]);
    assert!(fourth["bytes_new"].as_u64().unwrap() > 1_000_000, "{fourth}");
    assert_eq!(fourth["bytes_parts"], 0);
    let dumped = vault.run_data(["dump", "latest", "spool/large.db"]).expect(0);
    assert!(dumped.stdout == content);
}

#[test]
fn a_snapshot_says_what_became_of_each_stream() {
    let vault = Vault::with_dump();
    let ran = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    let text = ran.text();
    let line = text.lines().find(|line| line.trim_start().starts_with("mongo.archive:")).unwrap();
    assert!(line.contains("known in whole chunks") && line.contains("0 B new"), "{line}");
}
