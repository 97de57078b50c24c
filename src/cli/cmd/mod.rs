//! The commands, one file each.

mod check;
mod completions;
mod copy;
mod doctor;
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
use super::output::{self, Report};
use super::resolve;

/// Runs one command.
pub(crate) async fn run(global: Global, command: Command) -> Result<Report, Error> {
    match command {
        Command::Completions(args) => return completions::run(&args, global.json),
        Command::Man(args) => return man::run(&args),
        _ => {}
    }
    let settings = resolve::resolve(global)?;
    match command {
        Command::Init(args) => init::run(&settings, &args).await,
        Command::Snapshot(args) => snapshot::run(&settings, &args).await,
        Command::Snapshots(args) => snapshots::run(&settings, &args).await,
        Command::Show(args) => show::run(&settings, &args).await,
        Command::Ls(args) => ls::run(&settings, &args).await,
        Command::Dump(args) => dump::run(&settings, &args).await,
        Command::Restore(args) => restore::run(&settings, &args).await,
        Command::Check(args) => check::run(&settings, &args).await,
        Command::Copy(args) => copy::run(&settings, &args).await,
        Command::Doctor => doctor::run(&settings).await,
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
        let json = serde_json::json!({ "error": { "message": message, "exit_code": Exit::Usage.code() } });
        // The same again for people; if nobody reads it, the exit code still says it.
        let _ = output::write_json(&json);
    }
    let _ = error.print();
    if is_error { Exit::Usage } else { Exit::Done }
}
