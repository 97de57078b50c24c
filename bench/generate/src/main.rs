//! Writes the nightly dumps of a database that never was, as mongodump archives, for the benchmark.
//!
//! Night 1 is the whole database. Each further night follows from the one before: 1 % of the documents of some
//! collections are rewritten where they lie and 0.2 % deleted, 1 % are appended to others. The same options give the
//! same bytes on every machine.

mod archive;
mod database;
mod document;
mod random;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use database::Database;

const USAGE: &str = "usage: generate --out DIR [--nights N] [--from N] [--seed N] [--mib N]

  --out DIR    where night-1.archive, night-2.archive, ... are written
  --nights N   the last night (default 2)
  --from N     the first night that is written; those before it only happen (default 1)
  --seed N     another database (default 1)
  --mib N      about how many MiB the first night has (default 360)";

/// What the command line asked for.
#[derive(Debug, PartialEq)]
struct Options {
    out: PathBuf,
    nights: u32,
    from: u32,
    seed: u64,
    mib: u64,
}

/// The largest dump that is written, in MiB: numbers of documents stay far within 32 bits.
const MIB_MAX: u64 = 1 << 20;
/// The most nights: the revision of a document is the night of its last change, in 16 bits.
const NIGHTS_MAX: u32 = 10_000;

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(complaint) => {
            eprintln!("generate: {complaint}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {}: {error}", options.out.display());
            ExitCode::FAILURE
        }
    }
}

/// Returns the options in `arguments`, or what is wrong with them.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut out, mut nights, mut from, mut seed, mut mib) = (None, 2, 1, 1, 360);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value, or is not known"))?;
        let number = |max: u64| {
            let parsed: Option<u64> = value.parse().ok();
            parsed.filter(|number| (1..=max).contains(number)).ok_or(format!("{name} is a number from 1 to {max}"))
        };
        match name.as_str() {
            "--out" => out = Some(PathBuf::from(&value)),
            "--nights" => nights = u32::try_from(number(NIGHTS_MAX.into())?).unwrap_or(NIGHTS_MAX),
            "--from" => from = u32::try_from(number(NIGHTS_MAX.into())?).unwrap_or(NIGHTS_MAX),
            "--seed" => seed = number(u64::MAX)?,
            "--mib" => mib = number(MIB_MAX)?,
            _ => return Err(format!("{name} is not known")),
        }
    }
    let out = out.ok_or("--out is missing")?;
    if from > nights {
        return Err(format!("--from {from} is after --nights {nights}"));
    }
    Ok(Options { out, nights, from, seed, mib })
}

/// Writes the nights; prints one line for each.
fn run(options: &Options) -> io::Result<()> {
    std::fs::create_dir_all(&options.out)?;
    let mut database = Database::first_night(options.seed, options.mib << 20);
    for night in 1..=options.nights {
        if night > 1 {
            database.next_night();
        }
        if night < options.from {
            continue;
        }
        let path = options.out.join(format!("night-{night}.archive"));
        let mut output = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        let written = archive::write(&database, &mut output)?;
        output.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let mut line = io::stdout().lock();
        writeln!(line, "{}: {} bytes, {} documents", path.display(), written.bytes, written.documents)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_have_defaults_and_limits() {
        let options = Options { out: "x".into(), nights: 2, from: 1, seed: 1, mib: 360 };
        assert_eq!(parsed("--out x"), Ok(options));
        for wrong in ["", "--out", "--out x --mib 0", "--out x --nights 10001", "--out x --from 3", "--what x"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_same_options_give_the_same_bytes_and_another_night_differs() {
        let night = |nights: u32| {
            let mut database = Database::first_night(7, 1 << 20);
            (1..nights).for_each(|_| database.next_night());
            let mut bytes = Vec::new();
            archive::write(&database, &mut bytes).expect("a vector takes every write");
            bytes
        };
        assert_eq!(night(1), night(1));
        assert_eq!(night(3), night(3));
        assert_ne!(night(1), night(2));
    }
}
