//! `snapshots`: what there is, oldest first.

use serde_json::{Value, json};

use crate::cli::access::{self, Need};
use crate::cli::args::SnapshotsArgs;
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::output::{Report, error_line, table};
use crate::cli::progress::size;
use crate::cli::resolve::Settings;
use crate::format::manifest::ComponentStatus;
use crate::ops::select;
use crate::ops::snapshot::reason;
use crate::repo::LoadedSnapshot;

/// Lists the snapshots. One that cannot be read is named, and the run fails.
pub(crate) async fn run(settings: &Settings, args: &SnapshotsArgs) -> Result<Report, Error> {
    let opened = access::open(settings, Need::List).await?;
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for (id, loaded) in select::load_each(&opened.repository).await? {
        match loaded {
            Ok(snapshot) => good.push(snapshot),
            Err(error) => damaged.push((id, reason(&error))),
        }
    }
    select::sort(&mut good);
    if let Some(tag) = &args.tag {
        good.retain(|snapshot| snapshot.manifest.orkvault.tags.contains(tag));
    }
    let latest = good.iter().rev().find(|snapshot| select::is_complete(snapshot)).map(|snapshot| snapshot.id);
    let rows: Vec<Value> = good.iter().map(row).collect();
    let unreadable: Vec<Value> =
        damaged.iter().map(|(id, reason)| json!({ "snapshot": id.to_string(), "reason": reason })).collect();
    let json = json!({
        "snapshots": rows,
        "latest": latest.map(|id| id.to_string()),
        "unreadable": unreadable,
        "key_derivation_secs": opened.key_derivation_secs(),
    });
    for (id, reason) in &damaged {
        error_line(&format!("error: snapshot {id} cannot be read: {reason}"));
    }
    let mut report = Report::done(json, lines(&good));
    if !damaged.is_empty() {
        report.exit = Exit::Failed;
    }
    Ok(report)
}

/// Returns what `--json` says of a snapshot.
pub(crate) fn row(snapshot: &LoadedSnapshot) -> Value {
    let manifest = &snapshot.manifest;
    let stats = manifest.orkvault.stats;
    json!({
        "snapshot": snapshot.id.to_string(),
        "created_at": manifest.created_at,
        "finished_at": manifest.orkvault.finished_at,
        "environment": manifest.environment,
        "host": manifest.host,
        "status": status(snapshot),
        "components": components(snapshot),
        "tags": manifest.orkvault.tags,
        "copied_from": manifest.orkvault.copied_from,
        "bytes_read": stats.read_bytes,
        "bytes_new": stats.new_bytes,
        "bytes_stored": stats.stored_bytes,
    })
}

/// Returns `complete` or `incomplete`.
pub(crate) fn status(snapshot: &LoadedSnapshot) -> &'static str {
    if select::is_complete(snapshot) { "complete" } else { "incomplete" }
}

fn components(snapshot: &LoadedSnapshot) -> Value {
    let records = &snapshot.manifest.orkvault.components;
    records.iter().map(|(name, record)| (name.clone(), json!(component_status(record.status)))).collect()
}

/// Returns a component's status in one word.
pub(crate) const fn component_status(status: ComponentStatus) -> &'static str {
    match status {
        ComponentStatus::Complete => "complete",
        ComponentStatus::Failed => "failed",
        ComponentStatus::Skipped => "skipped",
    }
}

fn lines(snapshots: &[LoadedSnapshot]) -> Vec<String> {
    if snapshots.is_empty() {
        return vec!["there are no snapshots".to_owned()];
    }
    let head = ["snapshot", "created", "environment", "host", "status", "read", "stored", "components", "tags"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for snapshot in snapshots {
        let manifest = &snapshot.manifest;
        let component = |(name, status): (&String, ComponentStatus)| match status {
            ComponentStatus::Complete => name.clone(),
            status => format!("{name} ({})", component_status(status)),
        };
        let records = manifest.orkvault.components.iter().map(|(name, record)| component((name, record.status)));
        rows.push(vec![
            snapshot.id.short(),
            manifest.created_at.clone(),
            manifest.environment.clone(),
            manifest.host.clone(),
            status(snapshot).to_owned(),
            size(manifest.orkvault.stats.read_bytes),
            size(manifest.orkvault.stats.stored_bytes),
            records.collect::<Vec<_>>().join(","),
            manifest.orkvault.tags.join(","),
        ]);
    }
    table(&rows)
}
