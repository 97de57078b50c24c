//! `copy`: snapshots of another repository into this one.

use std::time::Instant;

use serde_json::{Value, json};

use super::snapshot::writer_options;
use crate::cli::access::{self, Need, Opened};
use crate::cli::args::CopyArgs;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::output::{Report, error_line};
use crate::cli::progress::{TerminalProgress, size};
use crate::cli::resolve::Settings;
use crate::cli::{locks, newest};
use crate::ops::copy::{Copied, CopyFailure, CopyOptions, CopyOutcome, CopySecrets, apply, plan};
use crate::ops::lock::Locks;
use crate::repo::{Ahead, LoadedSnapshot};

/// Copies what is not here yet, oldest first. Snapshots that are damaged are named, and the run fails at its end.
pub(crate) async fn run(settings: &Settings, args: &CopyArgs) -> Result<Report, Error> {
    let started = Instant::now();
    // The key that needs no derivation first: a mistake in it is told before a passphrase is asked for.
    let to = access::open(settings, Need::Write(Ahead::Nothing)).await?;
    let from = access::open_source(settings, args).await?;
    let options = CopyOptions {
        wanted: args.snapshot.clone(),
        secrets: if args.no_secrets { CopySecrets::Left } else { CopySecrets::Copied },
        writer: writer_options(settings, args.compression_level, None),
        // The store of secrets that are not copied need not even be at hand.
        locks: locks::wanted(settings)
            .map(|locks| if args.no_secrets { Locks { secrets: None, ..locks } } else { locks }),
    };
    let progress = TerminalProgress::new(settings.show);
    let planned = plan(&from.repository, &to.repository, &options, &progress).await?;
    if args.dry_run {
        progress.finish();
        return Ok(shown(&planned.missing, &planned.present, &planned.failures));
    }
    if let Some(lost) = newest::lost(settings, &to.repository).await? {
        error_line(&format!("warning: {} {}; orkvault check says what else is missing", lost.object, lost.problem));
    }
    let done = |copied: &Copied| newest::remember(settings, &to.repository, copied.id);
    let outcome = apply(&from.repository, &to.repository, planned, &options, &progress, done).await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            progress.finish();
            return Err(Error::begun(error));
        }
    };
    progress.finish();
    Ok(report(&outcome, &options, &from, started))
}

fn failures_json(failures: &[CopyFailure]) -> Value {
    let row = |failure: &CopyFailure| json!({ "snapshot": failure.snapshot.to_string(), "reason": failure.reason });
    failures.iter().map(row).collect()
}

fn shown(missing: &[LoadedSnapshot], present: &[crate::format::id::SnapshotId], failures: &[CopyFailure]) -> Report {
    let rows: Vec<Value> = missing.iter().map(super::snapshots::row).collect();
    let json = json!({
        "dry_run": true,
        "missing": rows,
        "present": present.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failed": failures_json(failures),
    });
    let mut lines: Vec<String> = missing
        .iter()
        .map(|snapshot| format!("would copy {} of {}", snapshot.id.short(), snapshot.manifest.created_at))
        .collect();
    lines.extend(failure_lines(failures));
    lines.push(format!("{} are here already; nothing was changed", present.len()));
    Report { exit: exit(failures), json, lines, wrote_content: false }
}

fn report(outcome: &CopyOutcome, options: &CopyOptions, from: &Opened, started: Instant) -> Report {
    let unlocked: Vec<String> = outcome.unlocked.iter().map(|(id, reason)| locks::not_locked(*id, reason)).collect();
    let lock = |copied: &Copied| options.locks.zip(copied.locked).map(|(locks, counts)| locks::row(locks, counts));
    let row = |copied: &Copied| {
        let stats = copied.manifest.orkvault.stats;
        json!({
            "from": copied.from.to_string(),
            "snapshot": copied.id.to_string(),
            "created_at": copied.manifest.created_at,
            "bytes_read": stats.read_bytes,
            "bytes_new": stats.new_bytes,
            "bytes_stored": stats.stored_bytes,
            "lock": lock(copied),
        })
    };
    let json = json!({
        "dry_run": false,
        "from": from.repository.backend().location(),
        "copied": outcome.copied.iter().map(row).collect::<Vec<_>>(),
        "present": outcome.present.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failed": failures_json(&outcome.failures),
        "not_locked": unlocked,
        "secs": started.elapsed().as_secs_f64(),
        "key_derivation_secs": from.key_derivation_secs(),
    });
    let mut lines = Vec::new();
    for Copied { from, id, manifest, locked } in &outcome.copied {
        let stats = manifest.orkvault.stats;
        let locked = locked.map(|counts| format!(", {} objects locked", counts.before + counts.now));
        lines.push(format!(
            "{} of {} is {}: {} read, {} stored{}",
            from.short(),
            manifest.created_at,
            id.short(),
            size(stats.read_bytes),
            size(stats.stored_bytes),
            locked.unwrap_or_default()
        ));
    }
    lines.extend(failure_lines(&outcome.failures));
    unlocked.iter().for_each(|said| error_line(&format!("error: {said}")));
    lines.push(format!(
        "{} copied, {} were here already, {} damaged, in {:.1} s",
        outcome.copied.len(),
        outcome.present.len(),
        outcome.failures.len(),
        started.elapsed().as_secs_f64()
    ));
    let exit = if !outcome.unlocked.is_empty() { Exit::Failed } else { exit(&outcome.failures) };
    Report { exit, json, lines, wrote_content: false }
}

fn failure_lines(failures: &[CopyFailure]) -> impl Iterator<Item = String> {
    failures.iter().map(|failure| format!("DAMAGED {}: {}", failure.snapshot, failure.reason))
}

const fn exit(failures: &[CopyFailure]) -> Exit {
    if failures.is_empty() { Exit::Done } else { Exit::Failed }
}
