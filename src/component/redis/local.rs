//! Puts an RDB file into a data directory of this machine, for a server that is started on it afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{Mode, OFlags};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rdb::{Checker, Verdict};
use super::{Error, STREAM, aof};
use crate::component::docker::{BoxError, Docker};
use crate::component::runs::RunReader;
use crate::component::{ByteStream, Captured, Error as ComponentError};

/// Names that AOF directories have unless they were given another one.
const APPEND_DIR: &str = "appendonlydir";
/// How long a connection may take to come about. The server would be one of this machine: it takes no time.
const ANSWER_SECS: u64 = 5;

/// A data directory of this machine, and the server that will load what is put there.
#[derive(Debug)]
pub(super) struct DataDir<'a> {
    dir: &'a Path,
    /// `host:port` of the server, which must be down.
    address: &'a str,
    dbfilename: String,
    /// Names of directories that hold an AOF whatever is in them.
    append_dirs: Vec<String>,
}

impl<'a> DataDir<'a> {
    /// Returns the directory with the names of files that the captured server had, the usual ones where the
    /// snapshot does not tell. A name that leads out of the directory is an error.
    pub(super) fn new(dir: &'a Path, address: &'a str, captured: &Captured) -> Result<Self, Error> {
        let fact = |name: &str| captured.facts.get(name).filter(|value| !value.is_empty()).cloned();
        let dbfilename = fact("dbfilename").unwrap_or_else(|| STREAM.to_owned());
        if dbfilename.contains(['/', '\0']) || dbfilename == "." || dbfilename == ".." {
            return Err(Error::UnsafeName { name: dbfilename });
        }
        let append_dirs = std::iter::once(APPEND_DIR.to_owned()).chain(fact("appenddirname")).collect();
        Ok(Self { dir, address, dbfilename, append_dirs })
    }

    /// Returns where the RDB file goes.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.dbfilename)
    }

    /// Returns what the file would replace. Refuses while a server is running, and a directory whose AOF a
    /// server would prefer.
    pub(super) async fn plan(&self) -> Result<Option<PathBuf>, Error> {
        self.refuse_running().await?;
        let listing = fs::read_dir(self.dir).map_err(io_error("listing", self.dir))?;
        for found in listing {
            let path = found.map_err(io_error("listing", self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".aof") || self.append_dirs.contains(&name) || (path.is_dir() && holds_manifest(&path)?) {
                return Err(Error::AofPresent { path });
            }
        }
        let path = self.path();
        Ok(path.exists().then_some(path))
    }

    /// Writes the file with the owner and mode of the one that it replaces (of the directory and 0600 where
    /// there is none), durable and in its place only when it is whole and the server is still down.
    pub(super) async fn write(&self, mut body: ByteStream) -> Result<Verdict, ComponentError> {
        let path = self.path();
        let temporary = self.dir.join(format!("{}.orkvault-partial", self.dbfilename));
        let written = async {
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(io_error("making", &temporary))?;
            let mut checker = Checker::new();
            while let Some(run) = body.next().await {
                let bytes = run?.bytes;
                checker.push(&bytes).map_err(Error::Rdb)?;
                file.write_all(&bytes).map_err(io_error("writing", &temporary))?;
            }
            let verdict = checker.finish().map_err(Error::Rdb)?;
            // it may have been started while the file was written
            self.refuse_running().await?;
            publish(&file, self.dir, &temporary, &path).map_err(io_error("writing", &path))?;
            Ok(verdict)
        };
        let result = written.await;
        if result.is_err() {
            // the error is what is reported; the name of what is left says what it is
            let _ = fs::remove_file(&temporary);
        }
        result
    }

    /// Whatever accepts a connection may be the server: one that hangs, loads or asks for a password too.
    async fn refuse_running(&self) -> Result<(), Error> {
        match timeout(Duration::from_secs(ANSWER_SECS), TcpStream::connect(self.address)).await {
            Ok(Ok(_)) => Err(Error::Running { address: self.address.to_owned() }),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

/// Whether a directory is an append-only directory under a name of its own: one of its files is a manifest.
fn holds_manifest(dir: &Path) -> Result<bool, Error> {
    let listing = fs::read_dir(dir).map_err(io_error("listing", dir))?;
    for found in listing {
        let path = found.map_err(io_error("listing", dir))?.path();
        if path.extension().is_none_or(|extension| extension != "manifest") || !path.is_file() {
            continue;
        }
        let mut text = Vec::new();
        let file = File::open(&path).map_err(io_error("reading", &path))?;
        file.take(aof::MANIFEST_LEN_MAX).read_to_end(&mut text).map_err(io_error("reading", &path))?;
        if std::str::from_utf8(&text).is_ok_and(aof::is_manifest) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies a file of a container into a nameless file in `dir` and returns its length and bytes.
pub(super) async fn spool(
    docker: &Docker,
    container: &str,
    path: &str,
    dir: &Path,
) -> Result<(u64, BoxStream<'static, Result<Bytes, BoxError>>), Error> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let nameless = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR);
    let mut file = File::from(nameless.map_err(|errno| io_error("making a nameless file in", dir)(errno.into()))?);
    let mut body = docker.open_file(container, path).await?;
    let mut len = 0_u64;
    while let Some(bytes) = body.next().await? {
        file.write_all(&bytes).map_err(io_error("writing a nameless file in", dir))?;
        len += u64::try_from(bytes.len()).expect("usize fits u64");
    }
    file.rewind().map_err(io_error("reading a nameless file in", dir))?;
    let runs = stream::try_unfold((RunReader::default(), file), |(runs, mut file)| async move {
        let run = runs.read(&mut file)?;
        Ok((!run.is_empty()).then_some((run, (runs, file))))
    });
    Ok((len, Box::pin(runs)))
}

fn publish(file: &File, dir: &Path, temporary: &Path, path: &Path) -> io::Result<()> {
    let (like, mode) = match fs::metadata(path) {
        Ok(present) => (present.clone(), present.mode() & 0o777),
        Err(_) => (fs::metadata(dir)?, 0o600),
    };
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::fchown(file, Some(like.uid()), Some(like.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    File::open(dir)?.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
