//! The command line: parse, resolve, run, report.
//!
//! `args` knows only argv, `resolve` looks at environment, files and terminal, `cmd` does one command a
//! file, `output` writes. Nothing else in the crate prints, asks or exits.

mod access;
mod args;
mod bounds;
mod chosen;
mod chunk_sizes;
mod cmd;
mod components;
mod config;
mod error;
mod exit;
mod hardening;
mod hints;
mod journal;
mod keys;
mod location;
mod locks;
mod newest;
mod output;
mod pace;
mod printable;
mod progress;
mod resolve;
mod signals;
mod store;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Duration;

use args::Cli;
use error::Error;
use exit::Exit;
use output::{Format, Report, Stdout};

/// How long cleaning up after a run that was cut off may take: processes in containers are killed, a
/// container that was stopped for a restore is started again (Redis may need a minute to stop).
const CLEANUP_LIMIT: Duration = Duration::from_secs(90);
/// How often is looked whether it is done.
const CLEANUP_STEP: Duration = Duration::from_millis(20);
/// How long threads may finish what they write.
const THREADS_LIMIT: Duration = Duration::from_secs(1);

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    hardening::harden();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match args::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return cmd::usage(&error, args::wants_json(&arguments)).into(),
    };
    let format = if cli.global.json { Format::Json } else { Format::Text };
    let stdout = Stdout::default();
    // The panic hook has said where.
    let outcome = catch_unwind(AssertUnwindSafe(|| run(cli, &stdout))).unwrap_or(Err(Error::Bug));
    let outcome = outcome.and_then(|report| output::report(&report, format, &stdout).map(|()| report.exit));
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            let judgement = hints::judge(&error);
            output::failure(&error, &judgement, format, &stdout);
            judgement.exit.into()
        }
    }
}

fn run(cli: Cli, stdout: &Stdout) -> Result<Report, Error> {
    let Cli { global, command } = cli;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { action: "start the runtime", source })?;
    let outcome = runtime.block_on(async {
        let signal = signals::wait()?;
        tokio::select! {
            biased;
            signal = signal => Err(Error::Interrupted { signal }),
            outcome = cmd::run(global, command, stdout) => outcome,
        }
    });
    if outcome.is_err() {
        signals::exit_at_once_on_the_next(&runtime);
        runtime.block_on(settled(1));
    }
    // A thread that waits for standard input or for a key derivation must not hold the program.
    runtime.shutdown_timeout(THREADS_LIMIT);
    outcome
}

/// Waits until what a dropped run left to be cleaned up is done: no more than `others` tasks are alive.
async fn settled(others: usize) {
    let metrics = tokio::runtime::Handle::current().metrics();
    let all_ended = async {
        while metrics.num_alive_tasks() > others {
            tokio::time::sleep(CLEANUP_STEP).await;
        }
    };
    let _ = tokio::time::timeout(CLEANUP_LIMIT, all_ended).await;
}

/// Exits at once, for a second signal during the cleaning up.
fn exit_now() -> ! {
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
