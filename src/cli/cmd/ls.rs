//! `ls`: what is inside a snapshot's components. Reads no content.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::show::component_lines;
use crate::cli::access::{self, Need};
use crate::cli::args::LsArgs;
use crate::cli::chosen::{Chosen, choose};
use crate::cli::error::Error;
use crate::cli::output::{Lines, Report, table};
use crate::cli::printable::Printable;
use crate::cli::progress::size;
use crate::cli::resolve::Settings;
use crate::component::CatalogueRow;
use crate::format::entry::EntryRow;
use crate::ops::dump;
use crate::repo::Repository;

/// Lists one component with all its rows, or every component with its catalogue.
pub(crate) async fn run(settings: &Settings, args: &LsArgs) -> Result<Report, Error> {
    let opened = access::open(settings, Need::List).await?;
    let components: Vec<&str> = args.component.iter().map(String::as_str).collect();
    let chosen = choose(&opened, &args.id, &components).await?;
    match &args.component {
        Some(component) => one(settings, &opened.repository, &chosen, component).await,
        None => every(&opened.repository, &chosen).await,
    }
}

fn catalogue_json(catalogue: &[CatalogueRow]) -> Value {
    catalogue
        .iter()
        .map(|row| json!({ "name": row.name, "kind": row.kind, "records": row.records, "bytes": row.bytes }))
        .collect()
}

fn catalogue_rows(catalogue: &[CatalogueRow]) -> Vec<Vec<String>> {
    let row = |row: &CatalogueRow| {
        vec![format!("  {}", row.name), row.kind.clone(), row.records.to_string(), size(row.bytes)]
    };
    catalogue.iter().map(row).collect()
}

async fn every(repository: &Repository, chosen: &Chosen) -> Result<Report, Error> {
    let snapshot = &chosen.snapshot;
    let mut components = BTreeMap::new();
    let mut lines = Vec::new();
    for (name, record) in &snapshot.manifest.orkvault.components {
        lines.extend(component_lines(name, record));
        let is_complete = snapshot.manifest.components.contains(name);
        let catalogue = if is_complete { dump::list(repository, snapshot, name).await?.catalogue } else { Vec::new() };
        lines.extend(table(&catalogue_rows(&catalogue)));
        let streams: BTreeMap<&String, u64> =
            record.streams.iter().map(|(stream, record)| (stream, record.length)).collect();
        components.insert(
            name,
            json!({
                "is_complete": is_complete,
                "reason": record.reason,
                "streams": streams,
                "entries": record.entries.as_ref().map(|table| table.rows),
                "catalogue": catalogue_json(&catalogue),
            }),
        );
    }
    let json = json!({
        "snapshot": snapshot.id.to_string(),
        "components": components,
        "unreadable": chosen.unreadable,
        "passed_over": chosen.passed_over(),
    });
    Ok(Report::done(json, lines))
}

/// The entries are written as they are read: there may be millions.
async fn one(settings: &Settings, repository: &Repository, chosen: &Chosen, component: &str) -> Result<Report, Error> {
    let snapshot = &chosen.snapshot;
    let listing = dump::list(repository, snapshot, component).await?;
    let streams: Vec<Value> = listing
        .streams
        .iter()
        .map(|(name, record)| json!({ "name": name, "bytes": record.length, "blake3": record.blake3.to_string() }))
        .collect();
    let head = json!({
        "snapshot": snapshot.id.to_string(),
        "component": component,
        "streams": streams,
        "catalogue": catalogue_json(&listing.catalogue),
        "unreadable": chosen.unreadable,
        "passed_over": chosen.passed_over(),
    });
    let mut out = Lines::begin(settings.format, &settings.stdout, head, "entries")?;
    for (name, record) in &listing.streams {
        out.line(&format!("{component}/{name}  {} bytes", record.length))?;
    }
    for line in table(&catalogue_rows(&listing.catalogue)) {
        out.line(&line)?;
    }
    if let Some(mut entries) = listing.entries {
        while let Some(row) = entries.next_row().await.map_err(|error| out.cut(error.into()))? {
            out.row(&entry_json(&row), || format!("{:>12}  {component}/{}", row.len, Printable(&row.key)))?;
        }
    }
    out.finish()
}

fn entry_json(row: &EntryRow) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let attributes: BTreeMap<&String, String> =
        row.attributes.iter().map(|(name, value)| (name, text(value))).collect();
    let mut json = json!({ "key": text(&row.key), "bytes": row.len, "attributes": attributes });
    if std::str::from_utf8(&row.key).is_err()
        && let Some(object) = json.as_object_mut()
    {
        let hex: String = row.key.iter().map(|byte| format!("{byte:02x}")).collect();
        object.insert("key_hex".to_owned(), Value::String(hex));
    }
    json
}
