//! `show`: everything that a snapshot's manifest says.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::snapshots::{component_status, status};
use crate::cli::access::{self, Need};
use crate::cli::args::ShowArgs;
use crate::cli::chosen::choose;
use crate::cli::error::Error;
use crate::cli::output::{Report, table};
use crate::cli::progress::size;
use crate::cli::resolve::Settings;
use crate::format::manifest::ComponentRecord;
use crate::ops::layout::{Layout, layouts};
use crate::repo::LoadedSnapshot;

/// Shows one snapshot.
pub(crate) async fn run(settings: &Settings, args: &ShowArgs) -> Result<Report, Error> {
    let opened = access::open(settings, Need::List).await?;
    let chosen = choose(&opened, &args.id, &[]).await?;
    let snapshot = &chosen.snapshot;
    let layouts = if args.layout { layouts(&opened.repository, snapshot).await? } else { BTreeMap::new() };
    let mut facts = json!({
        "snapshot": snapshot.id.to_string(),
        "status": status(snapshot),
        "manifest": serde_json::to_value(&snapshot.manifest).expect("manifests have string keys only"),
        "unreadable": chosen.unreadable,
        "passed_over": chosen.passed_over(),
        "key_derivation_secs": opened.key_derivation_secs(),
    });
    let mut lines = lines(snapshot);
    if args.layout {
        let json = layouts.iter().map(|((component, stream), layout)| layout_json(component, stream, layout)).collect();
        // Only where it was asked for: what is not there was not looked at.
        facts.as_object_mut().expect("it was made one above").insert("layout".to_owned(), json);
        lines.push(String::new());
        lines.extend(layouts.iter().map(|((component, stream), layout)| layout_line(component, stream, layout)));
    }
    Ok(Report::done(facts, lines))
}

fn layout_json(component: &str, stream: &str, layout: &Layout) -> Value {
    json!({
        "component": component,
        "stream": stream,
        "stream_bytes": layout.stream_bytes,
        "extents": layout.extents,
        "chunk_bytes": layout.chunk_bytes,
        "segment_bytes": layout.segment_bytes,
        "recipe_bytes": layout.recipe_bytes,
        "read_amplification": layout.read_amplification(),
    })
}

fn layout_line(component: &str, stream: &str, layout: &Layout) -> String {
    format!(
        "{component}/{stream}: {} in {} extents; a restore decodes {}, {:.2} times as much",
        size(layout.stream_bytes),
        layout.extents,
        size(layout.segment_bytes),
        layout.read_amplification()
    )
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
