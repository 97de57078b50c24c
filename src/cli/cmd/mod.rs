//! The commands, one file each.

mod check;
mod completions;
mod copy;
mod doctor;
mod doctor_store;
mod dump;
mod init;
mod ls;
mod man;
mod restore;
mod show;
mod snapshot;
mod snapshots;

use super::args::{Command, Global};
use super::error::Error;
use super::exit::Exit;
use super::hints::USAGE_HINT;
use super::output::{self, Report, Stdout};
use super::progress::size;
use super::resolve::{self, Settings};
use crate::backend::Request;

/// Runs one command.
pub(crate) async fn run(global: Global, command: Command, stdout: &Stdout) -> Result<Report, Error> {
    match command {
        Command::Completions(args) => return completions::run(&args, global.json),
        Command::Man(args) => return man::run(&args),
        _ => {}
    }
    let settings = resolve::resolve(global, stdout)?;
    let mut report = dispatch(&settings, command).await?;
    add_requests(&settings, &mut report);
    Ok(report)
}

/// Adds what was asked of stores that are not on this host.
fn add_requests(settings: &Settings, report: &mut Report) {
    let traffic = &settings.traffic;
    if traffic.all_requests() == 0 {
        return;
    }
    let mut facts = serde_json::Map::new();
    let mut said = Vec::new();
    for request in Request::ALL {
        let count = traffic.requests(request);
        facts.insert(request.name().to_owned(), count.into());
        if count > 0 {
            said.push(format!("{count} {}", request.name()));
        }
    }
    let (all, retries) = (traffic.all_requests(), traffic.retries());
    let (sent_bytes, received_bytes) = (traffic.sent_bytes(), traffic.received_bytes());
    facts.insert("all".to_owned(), all.into());
    facts.insert("retries".to_owned(), retries.into());
    facts.insert("sent_bytes".to_owned(), sent_bytes.into());
    facts.insert("received_bytes".to_owned(), received_bytes.into());
    if let Some(object) = report.json.as_object_mut() {
        object.insert("requests".to_owned(), facts.into());
    }
    if settings.global.verbose {
        let (sent, received) = (size(sent_bytes), size(received_bytes));
        let line = format!("{all} requests ({}), {sent} sent, {received} received, {retries} retries", said.join(", "));
        report.lines.push(line);
    }
}

async fn dispatch(settings: &Settings, command: Command) -> Result<Report, Error> {
    match command {
        Command::Init(args) => init::run(settings, &args).await,
        Command::Snapshot(args) => snapshot::run(settings, &args).await,
        Command::Snapshots(args) => snapshots::run(settings, &args).await,
        Command::Show(args) => show::run(settings, &args).await,
        Command::Ls(args) => ls::run(settings, &args).await,
        Command::Dump(args) => dump::run(settings, &args).await,
        Command::Restore(args) => restore::run(settings, &args).await,
        Command::Check(args) => check::run(settings, &args).await,
        Command::Copy(args) => copy::run(settings, &args).await,
        Command::Doctor(args) => doctor::run(settings, &args).await,
        Command::Completions(_) | Command::Man(_) => Err(Error::Bug),
    }
}

/// Says what is wrong with the arguments, or shows help or version, which are not errors.
#[must_use]
pub(crate) fn usage(error: &clap::Error, is_json: bool) -> Exit {
    let is_error = error.use_stderr();
    if is_json && is_error {
        let message = error.render().to_string();
        let message = message.trim().trim_start_matches("error: ");
        let error = serde_json::json!({
            "message": message,
            "causes": [],
            "hint": USAGE_HINT,
            "exit_code": Exit::Usage.code(),
        });
        let json = serde_json::json!({ "error": error });
        // The same again for people; if nobody reads it, the exit code still says it.
        let _ = output::write_json(&json);
    }
    let _ = error.print();
    if is_error { Exit::Usage } else { Exit::Done }
}
