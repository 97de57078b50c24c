//! How a repository cuts its streams is settled when it is made, and can be seen.

use crate::support::cli::{Vault, archive, write_mode};

const MAKE: [&str; 7] = [
    "init",
    "--kdf-low-memory",
    "--quiet",
    "--passphrase-file",
    "../data.pass",
    "--secrets-passphrase-file",
    "../secrets.pass",
];

/// Returns how many extents the dump has in a repository that was made with these arguments.
fn extents(vault: &Vault, arguments: &[&str]) -> u64 {
    vault.run(MAKE.into_iter().chain(arguments.iter().copied())).expect(0);
    vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
    let shown = vault.run(["show", "latest", "--layout", "--json"]).expect(0).json();
    let layout = &shown["layout"][0];
    assert_eq!(layout["stream_bytes"], archive().len());
    assert!(layout["read_amplification"].as_f64().is_some_and(|times| (0.9..1.5).contains(&times)), "{layout}");
    // Nothing of a first night is used in part, and what comes twice counts once.
    assert!(layout["chunk_bytes"].as_u64().is_some_and(|bytes| bytes <= archive().len() as u64), "{layout}");
    let dumped = vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0);
    assert!(dumped.stdout == archive());
    layout["extents"].as_u64().unwrap()
}

#[test]
fn smaller_chunks_are_more_of_them_whether_an_option_or_the_configuration_says_so() {
    let usual = extents(&Vault::empty(), &[]);
    let small = extents(&Vault::empty(), &["--chunk-sizes", "dump=1/2/8,rdb=1/2/8"]);
    // Keys differ, and so do the cuts: some 190 and 34 of them, once 45.
    assert!(small > 3 * usual, "{small} and {usual}");

    let vault = Vault::empty();
    write_mode(&vault.path("work/orkvault.toml"), b"[chunk_sizes]\ndump = \"1/2/8\"\n", 0o600);
    let configured = extents(&vault, &[]);
    assert!(configured > 3 * usual, "{configured} and {usual}");

    let vault = Vault::empty();
    write_mode(&vault.path("work/orkvault.toml"), b"[chunk_sizes]\ndump = \"1/2/8\"\n", 0o600);
    let overruled = extents(&vault, &["--chunk-sizes", "dump=8/32/128"]);
    assert!(overruled * 3 < small, "{overruled} and {small}");
}

#[test]
fn sizes_that_no_repository_can_have_are_refused_before_anything_is_made() {
    let vault = Vault::empty();
    for (sizes, why) in [
        ("dump=8/33/128", "a power of two"),
        ("dump=8/32", "MIN/AVERAGE/MAX"),
        ("archive=8/32/128", "dump, rdb, object and table"),
    ] {
        let ran = vault.run(MAKE.into_iter().chain(["--chunk-sizes", sizes])).expect(2);
        assert!(ran.stderr.contains(why) && ran.stderr.contains(sizes), "{}", ran.stderr);
        assert!(!vault.path("writer.key").exists());
    }
    vault.run(MAKE).expect(0);
}
