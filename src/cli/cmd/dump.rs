//! `dump`: the bytes of one stream, object or file.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::stream::TryReadyChunksError;
use serde_json::json;
use tokio::sync::mpsc;

use crate::cli::access::{self, Need};
use crate::cli::args::DumpArgs;
use crate::cli::chosen::choose;
use crate::cli::error::Error;
use crate::cli::output::{Report, Stdout, StdoutUse, raw_stdout, stdout_is_terminal};
use crate::cli::resolve::Settings;
use crate::ops;
use crate::ops::snapshot::SECRETS;
use crate::repo::ContentStream;

/// Batches that wait for the writing thread, and pieces in each, at most: what is at hand goes together.
const BATCHES_QUEUED: usize = 2;
const BATCH_PIECES: usize = 16;

/// Writes the stream. Every byte has been authenticated before it is written; one that cannot be ends the run.
pub(crate) async fn run(settings: &Settings, args: &DumpArgs) -> Result<Report, Error> {
    if args.output.is_none() && stdout_is_terminal() {
        return Err(Error::StdoutIsTerminal);
    }
    let secrets = args.stream == SECRETS || args.stream.starts_with("secrets/");
    let opened = access::open(settings, Need::Read { data: !secrets, secrets }).await?;
    let component = args.stream.split_once('/').map_or(args.stream.as_str(), |(component, _)| component);
    let chosen = choose(&opened, &args.id, &[component]).await?;
    let content = ops::dump::open(&opened.repository, &chosen.snapshot, &args.stream).await?;
    let bytes = match &args.output {
        Some(path) => to_file(path, content).await?,
        None => copy(content, raw_stdout()?, Output::Stdout(settings.stdout.clone())).await?.0,
    };
    let json = json!({
        "snapshot": chosen.snapshot.id.to_string(),
        "stream": args.stream,
        "bytes": bytes,
        "output": args.output,
        "unreadable": chosen.unreadable,
        "passed_over": chosen.passed_over(),
        "key_derivation_secs": opened.key_derivation_secs(),
    });
    let mut report = Report::done(json, Vec::new());
    report.wrote_content = args.output.is_none();
    if let Some(path) = &args.output {
        report.lines.push(format!("{bytes} bytes of {} are in {}", args.stream, path.display()));
    }
    Ok(report)
}

/// Removes a file that is not whole.
struct Unfinished<'a>(Option<&'a Path>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // It may be gone already; there is nobody to tell.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn to_file(path: &Path, content: ContentStream) -> Result<u64, Error> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let fail = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
        _ => Error::File { action: "cannot write", path: path.to_owned(), source },
    };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    let mut unfinished = Unfinished(Some(path));
    let (bytes, file) = copy(content, file, Output::File(path.to_owned())).await?;
    let cut = |source| Error::OutputCut { path: path.to_owned(), written: bytes, source };
    file.sync_all().map_err(cut)?;
    unfinished.0 = None;
    Ok(bytes)
}

/// Where content goes.
enum Output {
    /// A file of this name.
    File(PathBuf),
    /// Standard output.
    Stdout(Stdout),
}

impl Output {
    /// Fails where standard output carries something else by now: why the run ended, which this thread outlived.
    fn begin(&self) -> Result<(), Error> {
        match self {
            Self::Stdout(stdout) if !stdout.take(StdoutUse::Content) => Err(Error::Bug),
            _ => Ok(()),
        }
    }

    fn cut(&self, written: u64, source: std::io::Error) -> Error {
        match self {
            Self::File(path) => Error::OutputCut { path: path.clone(), written, source },
            Self::Stdout(_) => Error::StdoutCut { written, source },
        }
    }
}

/// Copies content to a file. The thread that writes may wait for a slow reader without keeping signals from being heard.
async fn copy(content: ContentStream, mut to: File, output: Output) -> Result<(u64, File), Error> {
    let (batches, mut queue) = mpsc::channel::<Vec<Bytes>>(BATCHES_QUEUED);
    let writing = tokio::task::spawn_blocking(move || {
        let mut written = 0_u64;
        while let Some(batch) = queue.blocking_recv() {
            for piece in batch {
                output.begin()?;
                to.write_all(&piece).map_err(|source| output.cut(written, source))?;
                written += piece.len() as u64;
            }
        }
        Ok::<_, Error>((written, to))
    });
    let read = async {
        let mut content = content.try_ready_chunks(BATCH_PIECES);
        loop {
            // What came before an error is written, too.
            let (batch, error) = match content.try_next().await {
                Ok(Some(batch)) => (batch, None),
                Ok(None) => return Ok::<(), Error>(()),
                Err(TryReadyChunksError(batch, error)) => (batch, Some(error)),
            };
            if batches.send(batch).await.is_err() {
                // The writer has ended, and says why.
                return Ok(());
            }
            if let Some(error) = error {
                return Err(error.into());
            }
        }
    };
    let read = read.await;
    drop(batches);
    let (written, to) = writing.await.map_err(|_| Error::Bug)??;
    match read {
        Ok(()) => Ok((written, to)),
        Err(source) if written == 0 => Err(source),
        Err(source) => Err(Error::ContentCut { written, source: Box::new(source) }),
    }
}
