//! `completions`: a shell's completion script.

use clap::CommandFactory as _;
use serde_json::json;

use crate::cli::args::{Cli, CompletionsArgs};
use crate::cli::error::Error;
use crate::cli::output::Report;

/// Prints the script. With `--json` it is the field `script`.
pub(crate) fn run(args: &CompletionsArgs, _is_json: bool) -> Result<Report, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orkvault", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    // Tabs of the script are content: it is written as it is, line by line nothing is escaped but them.
    let lines = script.replace('\t', "    ").lines().map(str::to_owned).collect();
    Ok(Report::done(json!({ "shell": args.shell.to_string(), "script": script }), lines))
}
