//! The program is killed (SIGKILL: no handler runs, nothing is cleaned up) in the middle of a snapshot.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::cli::{Vault, archive, data, write_mode};

/// When it is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so many hundredths of the time that a whole run takes.
    Hundredths(u32),
    /// When so many files more are in the repository.
    Files(usize),
}

/// Denser towards the end: what is stored of a small archive is stored then.
const HUNDREDTHS: [u32; 12] = [3, 15, 30, 45, 60, 70, 78, 84, 88, 92, 95, 98];
const FILES: std::ops::RangeInclusive<usize> = 1..=4;
const SIGKILL: i32 = 9;

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

fn dump(vault: &Vault, snapshot: &str) -> Vec<u8> {
    vault.run_data(["dump", snapshot, "mongodb/mongo.archive"]).expect(0).stdout
}

#[test]
fn whenever_a_snapshot_is_killed_the_one_before_comes_back_and_the_next_one_works() {
    let vault = Vault::with_dump();
    let first = vault.run(["snapshots", "--json"]).expect(0).json()["latest"].as_str().unwrap().to_owned();
    let later = zstd::decode_all(std::fs::File::open(data("all-databases.archive.zst")).unwrap()).unwrap();
    assert!(later != archive());
    std::fs::write(vault.path("later"), &later).unwrap();
    let night = ["snapshot", "--from", &format!("mongodb={}", vault.path("later").display())];
    for name in ["repository", "cache"] {
        copy(&vault.path(name), &vault.path(&format!("{name}-before")));
    }
    // Each whole run is measured: the machine may have become faster or slower meanwhile.
    let whole_run = || -> Duration {
        let started = Instant::now();
        vault.run(night).expect(0);
        started.elapsed()
    };
    let mut whole = whole_run();
    let (mut killed, mut stored) = (0, 0);
    let moments: Vec<Moment> = HUNDREDTHS.map(Moment::Hundredths).into_iter().chain(FILES.map(Moment::Files)).collect();
    for moment in moments.iter().copied() {
        for name in ["repository", "cache"] {
            copy(&vault.path(&format!("{name}-before")), &vault.path(name));
        }
        let before = vault.objects("");
        let mut child = vault.command(night).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        match moment {
            // Waits for nothing: the moment is the fault.
            Moment::Hundredths(parts) => std::thread::sleep(whole * parts / 100),
            Moment::Files(more) => {
                while vault.objects("").len() < before.len() + more && child.try_wait().unwrap().is_none() {}
            }
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(SIGKILL), "{status}");
        killed += usize::from(!status.success());
        stored += usize::from(!status.success() && vault.objects("") != before);

        assert!(dump(&vault, &first) == archive(), "killed at {moment:?}");
        // What is listed comes back, the killed one too where it had been committed.
        let listed = vault.run(["snapshots", "--json"]).expect(0).json();
        for row in listed["snapshots"].as_array().unwrap() {
            let id = row["snapshot"].as_str().unwrap();
            assert!(id == first || dump(&vault, id) == later, "killed at {moment:?}");
        }
        whole = whole_run();
        assert!(dump(&vault, "latest") == later, "killed at {moment:?}");
        vault.run_data(["check", "--read-data"]).expect(0);
    }
    println!("killed in the middle: {killed} of {}, {stored} of them with something stored", moments.len());
    assert!(killed >= moments.len() / 2 && stored > 0, "{killed} killed in the middle, {stored} with something stored");
}

/// Told to end, a run lists what it has put before it ends.
#[test]
fn a_snapshot_that_is_told_to_end_has_not_put_in_vain() {
    const LEN: usize = 128 * 1024 * 1024;
    let vault = Vault::made();
    std::fs::create_dir(vault.path("spool")).unwrap();
    // As good as random, and quickly made.
    let mut film = vec![0; LEN];
    blake3::Hasher::new().finalize_xof().fill(&mut film);
    std::fs::write(vault.path("spool/film"), film).unwrap();
    let config = "[[directory]]\nname = \"spool\"\npath = \"../spool\"\n";
    write_mode(&vault.path("work/orkvault.toml"), config.as_bytes(), 0o600);
    let night = ["snapshot", "-c", "spool", "--yes", "--json"];
    let mut child = vault.command(night).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while vault.objects("data/packs").len() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before two packs were there");
        // Polls: two cores are few.
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(vault.objects("data/snapshots").len(), 0);
    let new = vault.run(night).expect(0).json()["bytes_new"].as_u64().unwrap();
    assert!(new < (LEN - 24 * 1024 * 1024) as u64, "{new}");
    vault.run_data(["check", "--read-data"]).expect(0);
}
