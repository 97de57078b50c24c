//! What a run says: results to standard output, everything else to standard error.
//!
//! With `--json` standard output is exactly one JSON document with the same facts.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::error::Error;
use super::exit::Exit;
use super::hints::Judgement;
use super::locks::SaidLocks;
use super::printable::{printable, printable_json};

/// What a command found out or did.
#[derive(Debug)]
pub(crate) struct Report {
    /// How the run ends.
    pub(crate) exit: Exit,
    /// The facts, for `--json`.
    pub(crate) json: Value,
    /// The same facts for people, line by line.
    pub(crate) lines: Vec<String>,
    /// Whether the command has written to standard output itself: the facts then go to standard error.
    pub(crate) wrote_content: bool,
}

impl Report {
    /// Returns the report of a run that did what was asked for.
    #[must_use]
    pub(crate) const fn done(json: Value, lines: Vec<String>) -> Self {
        Self { exit: Exit::Done, json, lines, wrote_content: false }
    }
}

impl Report {
    /// Adds what was locked. A snapshot that is there and not locked makes the run fail.
    pub(crate) fn add_locks(&mut self, said: SaidLocks) {
        match said.line {
            Ok(line) => self.lines.push(line),
            Err(line) => {
                error_line(&format!("error: {line}"));
                if self.exit == Exit::Done {
                    self.exit = Exit::Failed;
                }
            }
        }
        if let Some(object) = self.json.as_object_mut() {
            object.insert("lock".to_owned(), said.json);
        }
    }
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Lines for people.
    Text,
    /// One JSON document.
    Json,
}

/// What standard output carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StdoutUse {
    /// A stream, or rows as they come.
    Content,
    /// What a run found out or did.
    Report,
    /// Why a run failed.
    Failure,
}

/// Who has standard output: the first that writes to it, and nobody else. A document behind content, or content behind
/// a document, would spoil both.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stdout(Arc<Mutex<Option<StdoutUse>>>);

impl Stdout {
    /// Takes standard output for this use, or returns that it has another one already. Asked before the first byte, also
    /// by threads that outlive their run.
    #[must_use]
    pub(crate) fn take(&self, wanted: StdoutUse) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(wanted) == wanted
    }
}

/// Writes a line to standard error. A standard error that is closed stops nothing.
pub(crate) fn error_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// Returns standard output without the line buffer that would make every newline in content a write.
pub(crate) fn raw_stdout() -> Result<File, Error> {
    let handle = io::stdout().as_fd().try_clone_to_owned().map_err(|source| Error::Stdout { source })?;
    Ok(File::from(handle))
}

/// Returns standard input as a file that is read in large pieces.
pub(crate) fn raw_stdin() -> Result<File, Error> {
    let fail = |source| Error::System { action: "read standard input", source };
    let handle = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
    Ok(File::from(handle))
}

/// Returns whether standard output is a terminal.
#[must_use]
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn write_stdout(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|source| Error::Stdout { source })
}

/// Writes one JSON document to standard output.
pub(crate) fn write_json(value: &Value) -> Result<(), Error> {
    let document = serde_json::to_string_pretty(value).expect("a JSON value always serialises");
    write_stdout(&printable_json(&document))
}

/// Writes one JSON document to standard error, where standard output is taken by content: the last line there.
fn write_json_aside(value: &Value) {
    let _ = writeln!(io::stderr().lock(), "{}", printable_json(&value.to_string()));
}

/// Writes a report.
pub(crate) fn report(report: &Report, format: Format, stdout: &Stdout) -> Result<(), Error> {
    match format {
        Format::Json if report.wrote_content && report.json.is_null() => Ok(()),
        Format::Json if report.wrote_content || !stdout.take(StdoutUse::Report) => {
            write_json_aside(&report.json);
            Ok(())
        }
        Format::Json => write_json(&report.json),
        Format::Text => {
            for line in &report.lines {
                if report.wrote_content {
                    error_line(line);
                } else {
                    write_stdout(&printable(line))?;
                }
            }
            Ok(())
        }
    }
}

/// Writes why a run failed: what, the causes, and what to do next.
pub(crate) fn failure(error: &Error, judgement: &Judgement, format: Format, stdout: &Stdout) {
    let causes = causes(error);
    error_line(&format!("error: {error}"));
    for cause in &causes {
        error_line(&format!("  because: {cause}"));
    }
    if let Some(hint) = &judgement.hint {
        error_line(&format!("  hint: {hint}"));
    }
    if format == Format::Json {
        let error = json!({
            "message": error.to_string(),
            "causes": causes,
            "hint": judgement.hint,
            "exit_code": judgement.exit.code(),
        });
        let document = json!({ "error": error });
        if stdout.take(StdoutUse::Failure) {
            // Nobody is left to hear that standard output is closed.
            let _ = write_json(&document);
        } else {
            write_json_aside(&document);
        }
    }
}

/// Returns the causes of an error, each once.
fn causes(error: &dyn std::error::Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut under = error.source();
    while let Some(source) = under {
        let text = source.to_string();
        // Transparent errors say the same as what they wrap.
        if said.last() != Some(&text) {
            said.push(text);
        }
        under = source.source();
    }
    said.split_off(1)
}

/// Returns rows with their columns aligned; the last column is not padded.
#[must_use]
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    // Escapes first: their width counts.
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A result with rows that are written as they come: there may be more than fit in memory.
pub(crate) struct Lines {
    format: Format,
    out: io::BufWriter<io::StdoutLock<'static>>,
    has_rows: bool,
    written: u64,
}

impl Lines {
    /// Begins the result: in JSON an object of `head` and, behind it, the array `rows`.
    pub(crate) fn begin(format: Format, stdout: &Stdout, head: Value, rows: &str) -> Result<Self, Error> {
        if !stdout.take(StdoutUse::Content) {
            return Err(Error::Bug);
        }
        let mut lines = Self { format, out: io::BufWriter::new(io::stdout().lock()), has_rows: false, written: 0 };
        if format == Format::Json {
            let head = printable_json(&head.to_string());
            let fields = head.strip_suffix('}').unwrap_or(&head);
            lines.write(&format!("{fields},{}:[", Value::from(rows)))?;
        }
        Ok(lines)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.written += text.len() as u64;
        self.out.write_all(text.as_bytes()).map_err(|source| Error::Stdout { source })
    }

    /// Returns the error of a result that ends in the middle.
    #[must_use]
    pub(crate) fn cut(&self, source: Error) -> Error {
        Error::ContentCut { written: self.written, source: Box::new(source) }
    }

    /// Writes a line that only people need.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Error> {
        match self.format {
            Format::Text => self.write(&format!("{}\n", printable(text))),
            Format::Json => Ok(()),
        }
    }

    /// Writes a row.
    pub(crate) fn row(&mut self, json: &Value, text: impl FnOnce() -> String) -> Result<(), Error> {
        match self.format {
            Format::Text => self.line(&text()),
            Format::Json => {
                let comma = if std::mem::replace(&mut self.has_rows, true) { "," } else { "" };
                self.write(&format!("{comma}\n{}", printable_json(&json.to_string())))
            }
        }
    }

    /// Ends the result and returns a report that has nothing more to say.
    pub(crate) fn finish(mut self) -> Result<Report, Error> {
        if self.format == Format::Json {
            self.write("]}\n")?;
        }
        self.out.flush().map_err(|source| Error::Stdout { source })?;
        Ok(Report { exit: Exit::Done, json: Value::Null, lines: Vec::new(), wrote_content: true })
    }
}
