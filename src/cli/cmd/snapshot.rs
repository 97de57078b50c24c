//! `snapshot`: every component into one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::snapshots::component_status;
use crate::cli::access::{self, Need};
use crate::cli::args::SnapshotArgs;
use crate::cli::components::{self, CaptureOptions};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::output::{Report, error_line, raw_stdin};
use crate::cli::progress::{HostClock, Show, TerminalProgress, size};
use crate::cli::resolve::Settings;
use crate::cli::{journal, keys, location, locks, newest};
use crate::component::Source;
use crate::component::mongodb::{ArchiveFile, EmptyArchive};
use crate::component::stack::Stack;
use crate::format::manifest::ComponentStatus;
use crate::ops::snapshot::{SnapshotOptions, SnapshotOutcome, StreamFacts, snapshot};
use crate::repo::{Ahead, Compression, WriterOptions};

/// What names this program in manifests.
const TOOL: &str = concat!("orkvault ", env!("CARGO_PKG_VERSION"));

/// Captures and commits. Incomplete is an exit code of its own.
pub(crate) async fn run(settings: &Settings, args: &SnapshotArgs) -> Result<Report, Error> {
    let started = Instant::now();
    let from = dumps_made_elsewhere(settings, args)?;
    let wanted = wanted(settings, args, &from)?;
    if let Some(path) = &args.id_file {
        can_write(path)?;
    }
    if settings.global.as_of.is_some() {
        return Err(location::nothing_is_changed(settings));
    }
    let opened = access::open(settings, Need::Write(Ahead::Survey)).await?;
    let of_stack: BTreeSet<String> = wanted.iter().filter(|name| !from.contains_key(*name)).cloned().collect();
    let stack = components::resolve(settings, &of_stack).await.map_err(nothing_captured)?;
    journal::resume(settings, &stack).await;
    let sources = sources(settings, args, &stack, &wanted, from).await?;
    for warning in &stack.warnings {
        error_line(&format!("warning: {warning}"));
    }
    if settings.show != Show::Warnings {
        show(&stack, &sources);
    }
    if !args.yes && !of_stack.is_empty() && keys::can_ask() {
        if keys::ask_line("go on? [y/N]")? != "y" {
            return Err(Error::NotConfirmed { what: "the snapshot" });
        }
        // The answer may have taken hours.
        opened.repository.forget_survey();
    }
    let options = SnapshotOptions {
        environment: stack.environment.value.clone(),
        host: settings.host(),
        tool: TOOL.to_owned(),
        tags: args.tag.clone(),
        newest: newest::expected(settings, &opened.repository),
        writer: writer_options(settings, args.compression_level, args.piece_cache_mib),
    };
    let progress = TerminalProgress::new(settings.show);
    let outcome = snapshot(&opened.repository, sources, &options, &progress, &HostClock).await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            progress.finish();
            return Err(Error::begun(error));
        }
    };
    newest::remember(settings, &opened.repository, outcome.id);
    let mut report = report(&outcome, &stack, started);
    if let Some(said) = locks::lock(settings, &opened.repository, outcome.id, &outcome.manifest, &progress).await {
        report.add_locks(said);
    }
    progress.finish();
    if let Some(path) = &args.id_file
        && let Err(source) = std::fs::write(path, format!("{}\n", outcome.id))
    {
        // The snapshot is there: whoever reads the id from the file must not take an older one for it.
        let said = format!("the id was not written to {}: {source}", path.display());
        error_line(&format!("error: {said}"));
        if let Some(facts) = report.json.as_object_mut() {
            facts.insert("id_file_error".to_owned(), Value::from(said));
        }
        if report.exit == Exit::Done {
            report.exit = Exit::Failed;
        }
    }
    Ok(report)
}

/// Before hours of work, not behind them: can this file be written? It is left as it is.
fn can_write(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::File { action: "cannot write", path: path.to_owned(), source };
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => std::fs::remove_file(path).map_err(fail),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).open(path).map(drop).map_err(fail)
        }
        Err(error) => Err(fail(error)),
    }
}

fn nothing_captured(error: Error) -> Error {
    match error {
        Error::Component(source) => Error::NothingCaptured { source },
        error => error,
    }
}

pub(super) fn writer_options(settings: &Settings, level: Option<i32>, piece_cache_mib: Option<u32>) -> WriterOptions {
    let mut options = WriterOptions::default();
    if let Some(level) = level.or(settings.config.compression_level) {
        options.compression = Compression::of_level(level);
    }
    if let Some(mib) = piece_cache_mib.or(settings.config.piece_cache_mib) {
        options.piece_cache_bytes_max = u64::from(mib) << 20;
    }
    options
}

/// Returns which component comes from which file.
fn dumps_made_elsewhere(settings: &Settings, args: &SnapshotArgs) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut from = BTreeMap::new();
    for value in &args.from {
        let bad =
            |reason: &str| Error::BadValue { option: "--from".to_owned(), value: value.clone(), reason: reason.into() };
        let (component, path) = value.split_once('=').ok_or_else(|| bad("it is COMPONENT=FILE"))?;
        if component != "mongodb" {
            return Err(bad("only mongodb can come from a dump that was made elsewhere"));
        }
        if path == "-" {
            settings.stdin_once(Some("the dump"))?;
        }
        if from.insert(component.to_owned(), PathBuf::from(path)).is_some() {
            return Err(bad("the component is named twice"));
        }
    }
    Ok(from)
}

/// What was named; with `--from` alone that component alone; else what the configuration says, else all.
fn wanted(settings: &Settings, args: &SnapshotArgs, from: &BTreeMap<String, PathBuf>) -> Result<Vec<String>, Error> {
    let mut names = args.components.clone();
    if args.all.is_some() {
        names = components::all(settings);
    } else if names.is_empty() && from.is_empty() {
        names.clone_from(&settings.config.components);
        if names.is_empty() {
            names = components::all(settings);
        }
    }
    names.extend(from.keys().cloned());
    components::chosen(settings, &names)
}

async fn sources(
    settings: &Settings,
    args: &SnapshotArgs,
    stack: &Stack,
    wanted: &[String],
    from: BTreeMap<String, PathBuf>,
) -> Result<Vec<Box<dyn Source>>, Error> {
    let allowed = args.allow_empty_database || settings.config.mongodb.allow_empty;
    let empty = if allowed { EmptyArchive::Allowed } else { EmptyArchive::Refused };
    let options = CaptureOptions { empty, refresh: args.refresh, now: jiff::Timestamp::now() };
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for name in wanted {
        sources.push(match from.get(name) {
            Some(path) if path.as_os_str() == "-" => Box::new(ArchiveFile::new("standard input", raw_stdin()?, empty)),
            Some(path) => {
                let fail = |source| Error::File { action: "cannot read", path: path.clone(), source };
                let file = tokio::fs::File::open(path).await.map_err(fail)?.into_std().await;
                Box::new(ArchiveFile::new(path.display().to_string(), file, empty))
            }
            None => components::source(settings, stack, name, options)?,
        });
    }
    Ok(sources)
}

/// Says what is about to be captured, and how it was found.
fn show(stack: &Stack, sources: &[Box<dyn Source>]) {
    for line in stack.lines() {
        error_line(&line);
    }
    for source in sources {
        error_line(&format!("{:<10} {}", source.component(), source.describe()));
    }
}

fn report(outcome: &SnapshotOutcome, stack: &Stack, started: Instant) -> Report {
    let details = &outcome.manifest.orkvault;
    let stats = details.stats;
    let is_complete = details.components.values().all(|record| record.status == ComponentStatus::Complete);
    let status = if is_complete { "complete" } else { "incomplete" };
    let component = |record: &crate::format::manifest::ComponentRecord| {
        json!({
            "status": component_status(record.status),
            "reason": record.reason,
            "warnings": record.warnings,
            "facts": record.facts,
        })
    };
    let components: BTreeMap<&String, Value> =
        details.components.iter().map(|(name, record)| (name, component(record))).collect();
    let streams: Vec<Value> = outcome.streams.iter().map(stream_json).collect();
    let json = json!({
        "snapshot": outcome.id.to_string(),
        "status": status,
        "created_at": outcome.manifest.created_at,
        "environment": outcome.manifest.environment,
        "components": components,
        "bytes_read": stats.read_bytes,
        "bytes_new": stats.new_bytes,
        "bytes_stored": stats.stored_bytes,
        "packs_missing": outcome.packs_missing,
        "streams": streams,
        "secs": started.elapsed().as_secs_f64(),
        "stack": stack.lines(),
        "stack_warnings": stack.warnings,
    });
    let mut lines = vec![
        format!("snapshot {} is {status}", outcome.id),
        format!(
            "{} read, {} new, {} stored in {:.1} s",
            size(stats.read_bytes),
            size(stats.new_bytes),
            size(stats.stored_bytes),
            started.elapsed().as_secs_f64()
        ),
    ];
    for (name, record) in &details.components {
        let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        lines.push(format!("  {name}: {}{reason}", component_status(record.status)));
        lines.extend(outcome.streams.iter().filter(|facts| facts.component == *name).map(stream_line));
    }
    let exit = if is_complete { Exit::Done } else { Exit::Incomplete };
    Report { exit, json, lines, wrote_content: false }
}

fn stream_json(facts: &StreamFacts) -> Value {
    json!({
        "component": facts.component,
        "stream": facts.stream,
        "bytes_read": facts.read,
        "bytes_whole": facts.report.whole,
        "bytes_parts": facts.report.parts,
        "bytes_new": facts.report.new,
        "bytes_recipe": facts.report.recipe,
        "bytes_stored": facts.stored,
    })
}

fn stream_line(facts: &StreamFacts) -> String {
    format!(
        "    {}: {} read, {} known in whole chunks, {} in parts of chunks, {} new, {} stored, recipe {}",
        facts.stream,
        size(facts.read),
        size(facts.report.whole),
        size(facts.report.parts),
        size(facts.report.new),
        size(facts.stored),
        size(facts.report.recipe)
    )
}
