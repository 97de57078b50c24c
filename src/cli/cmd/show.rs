//! `show`: everything that a snapshot's manifest says.

use serde_json::json;

use super::snapshots::{component_status, status};
use crate::cli::access::{self, Need};
use crate::cli::args::ShowArgs;
use crate::cli::chosen::{Chosen, choose};
use crate::cli::error::Error;
use crate::cli::output::{Report, table};
use crate::cli::progress::size;
use crate::cli::resolve::Settings;
use crate::format::manifest::ComponentRecord;
use crate::repo::LoadedSnapshot;

/// Shows one snapshot.
pub(crate) async fn run(settings: &Settings, args: &ShowArgs) -> Result<Report, Error> {
    let opened = access::open(settings, Need::List).await?;
    let Chosen { snapshot, unreadable } = choose(&opened, &args.id, &[]).await?;
    let json = json!({
        "snapshot": snapshot.id.to_string(),
        "status": status(&snapshot),
        "manifest": serde_json::to_value(&snapshot.manifest).expect("manifests have string keys only"),
        "unreadable": unreadable,
        "key_derivation_secs": opened.key_derivation_secs(),
    });
    Ok(Report::done(json, lines(&snapshot)))
}

fn lines(snapshot: &LoadedSnapshot) -> Vec<String> {
    let manifest = &snapshot.manifest;
    let details = &manifest.orkvault;
    let stats = details.stats;
    let mut facts = vec![
        ("snapshot", snapshot.id.to_string()),
        ("status", status(snapshot).to_owned()),
        ("created", manifest.created_at.clone()),
        ("finished", details.finished_at.clone()),
        ("environment", manifest.environment.clone()),
        ("host", manifest.host.clone()),
        ("tool", details.tool.clone()),
        ("writer", format!("{}, snapshot {}", details.writer.id.short(), details.writer.sequence)),
        (
            "bytes",
            format!(
                "{} read, {} new, {} stored",
                size(stats.read_bytes),
                size(stats.new_bytes),
                size(stats.stored_bytes)
            ),
        ),
    ];
    if !details.tags.is_empty() {
        facts.push(("tags", details.tags.join(", ")));
    }
    if let Some(origin) = &details.copied_from {
        facts.push(("copy of", format!("{} of repository {}", origin.snapshot, origin.repository.short())));
    }
    if let Some(secrets) = &details.secrets {
        let place = secrets.location.as_ref().map(|location| format!(" in {location}")).unwrap_or_default();
        facts.push(("secrets", format!("generation {}{place}", secrets.snapshot.short())));
    }
    let rows: Vec<Vec<String>> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut lines = table(&rows);
    for (name, record) in &details.components {
        lines.push(String::new());
        lines.extend(component_lines(name, record));
    }
    lines
}

/// Returns what is known of a component.
pub(crate) fn component_lines(name: &str, record: &ComponentRecord) -> Vec<String> {
    let mut lines = vec![format!("{name}: {}", component_status(record.status))];
    if let Some(reason) = &record.reason {
        lines.push(format!("  reason: {reason}"));
    }
    if !record.consistency.is_empty() {
        lines.push(format!("  consistency: {}", record.consistency));
    }
    for (stream, record) in &record.streams {
        lines.push(format!("  stream {name}/{stream}: {} bytes, BLAKE3 {}", record.length, record.blake3));
    }
    if let Some(entries) = &record.entries {
        lines.push(format!("  entries: {}, {}", entries.rows, size(entries.content_bytes)));
    }
    if let Some(catalogue) = &record.catalogue {
        lines.push(format!("  catalogue: {} rows (orkvault ls)", catalogue.rows));
    }
    for (fact, value) in &record.facts {
        lines.push(format!("  {fact}: {value}"));
    }
    for warning in &record.warnings {
        lines.push(format!("  warning: {warning}"));
    }
    lines
}
