//! `check`: proof that a restore would work, or a list of what is wrong.

use serde_json::{Value, json};

use crate::cli::access::{self, Need, Opened};
use crate::cli::args::CheckArgs;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::location::{self, Want};
use crate::cli::newest;
use crate::cli::output::{Report, error_line};
use crate::cli::progress::{TerminalProgress, size};
use crate::cli::resolve::Settings;
use crate::ops::check::{CheckOptions, CheckOutcome, Finding, check};
use crate::ops::snapshot::reason;
use crate::repo;

const REMEMBERED: &str = "the next snapshot of this host stores anew what its sources still have of what is damaged";

/// Checks the repository. With findings the run ends in its own exit code.
pub(crate) async fn run(settings: &Settings, args: &CheckArgs) -> Result<Report, Error> {
    let need = if args.read_data { Need::CheckContent } else { Need::CheckStructure };
    let opened = match access::open(settings, need).await {
        Ok(opened) => opened,
        Err(error) => return damaged_before_it_opens(settings, error).await,
    };
    let progress = TerminalProgress::new(settings.show);
    let options = CheckOptions { read_data: args.read_data };
    let outcome = check(&opened.repository, options, &progress).await;
    progress.finish();
    let is_all = args.read_data && outcome.as_ref().is_ok_and(|outcome| outcome.sealed_segments == 0);
    let remembered = remember_damage(settings, &opened, is_all);
    let mut outcome = outcome.map_err(Error::begun)?;
    outcome.notes.extend(remembered.then(|| REMEMBERED.to_owned()));
    if settings.global.as_of.is_none()
        && let Some(lost) = newest::lost(settings, &opened.repository).await?
        && outcome.findings.iter().all(|finding| finding.object != lost.object)
    {
        outcome.findings.push(lost);
    }
    Ok(report(&outcome, Some(&opened)))
}

/// Lets this host's next snapshot know what is damaged. Returns whether anything is.
fn remember_damage(settings: &Settings, opened: &Opened, is_all: bool) -> bool {
    // What is true of another time is not true of tomorrow.
    let Some(cache) = settings.cache_dir().filter(|_| settings.global.as_of.is_none()) else { return false };
    let remembered = opened.repository.remember_damage(&cache, is_all);
    remembered.unwrap_or_else(|error| {
        error_line(&format!("warning: the next snapshot will not know what is damaged: {}", reason(&error)));
        false
    })
}

/// A config or key slot that is damaged keeps the repository from opening: that is a finding, too.
async fn damaged_before_it_opens(settings: &Settings, error: Error) -> Result<Report, Error> {
    let Error::Repo(source) = &error else { return Err(error) };
    let mut outcome = CheckOutcome::default();
    let finding = |object: String, problem| Finding { object, problem, affects: vec!["everything".to_owned()] };
    match source.as_ref() {
        repo::Error::Damaged { object, .. } | repo::Error::Object { object, .. } => {
            outcome.findings.push(finding(object.clone(), reason(source.as_ref())));
        }
        repo::Error::WrongKey { .. } | repo::Error::NoSlot { .. } => {}
        _ => return Err(error),
    }
    let backend = location::backend(settings, &settings.repository(), Want::Existing).await?;
    for (key, problem) in repo::check_without_keys(backend.as_ref()).await? {
        outcome.findings.push(finding(key.to_string(), reason(&problem)));
    }
    outcome.findings.sort();
    outcome.findings.dedup_by(|left, right| left.object == right.object);
    if outcome.findings.is_empty() { Err(error) } else { Ok(report(&outcome, None)) }
}

fn report(outcome: &CheckOutcome, opened: Option<&Opened>) -> Report {
    let findings: Vec<Value> = outcome
        .findings
        .iter()
        .map(|finding| json!({ "object": finding.object, "problem": finding.problem, "affects": finding.affects }))
        .collect();
    let json = json!({
        "findings": findings,
        "notes": outcome.notes,
        "snapshots": outcome.snapshots,
        "packs": outcome.packs,
        "bytes_read": outcome.read_bytes,
        "bytes_opened": outcome.opened_bytes,
        "segments_not_opened": outcome.sealed_segments,
        "key_derivation_secs": opened.and_then(Opened::key_derivation_secs),
    });
    let mut lines = Vec::new();
    for finding in &outcome.findings {
        lines.push(format!("FINDING {}: {}", finding.object, finding.problem));
        lines.extend(finding.affects.iter().map(|affected| format!("  affects {affected}")));
    }
    lines.extend(outcome.notes.iter().map(|note| format!("note: {note}")));
    if outcome.sealed_segments > 0 {
        lines.push(format!(
            "note: {} segments were compared with their names only: opening them needs the data passphrase",
            outcome.sealed_segments
        ));
    }
    lines.push(format!(
        "{} snapshots and {} packs checked, {} read, {} of content opened: {}",
        outcome.snapshots,
        outcome.packs,
        size(outcome.read_bytes),
        size(outcome.opened_bytes),
        match outcome.findings.len() {
            0 => "no findings".to_owned(),
            1 => "1 finding".to_owned(),
            more => format!("{more} findings"),
        }
    ));
    let exit = if outcome.findings.is_empty() { Exit::Done } else { Exit::Findings };
    Report { exit, json, lines, wrote_content: false }
}
