//! Puts an RDB file into a data directory of this machine, for a server that is started on it afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::rdb::{Checker, Verdict};
use super::{Error, STREAM, aof};
use crate::component::docker::{BoxError, Docker};
use crate::component::files::attributes::{Attributes, Kind};
use crate::component::files::beneath::Root;
use crate::component::runs::RunReader;
use crate::component::{ByteStream, Captured, Error as ComponentError};

/// Names that AOF directories have unless they were given another one.
const APPEND_DIR: &str = "appendonlydir";
/// Mode of a file where there is none to take it from.
pub(super) const NEW_FILE_MODE: u32 = 0o600;
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
    /// The time now, seconds since 1970.
    now_secs: u64,
}

impl<'a> DataDir<'a> {
    /// Returns the directory with the names of files that the captured server had, the usual ones where the
    /// snapshot does not tell. A name that leads out of the directory is an error.
    pub(super) fn new(dir: &'a Path, address: &'a str, captured: &Captured, now_secs: u64) -> Result<Self, Error> {
        let fact = |name: &str| captured.facts.get(name).filter(|value| !value.is_empty()).cloned();
        let dbfilename = fact("dbfilename").unwrap_or_else(|| STREAM.to_owned());
        if dbfilename.contains(['/', '\0']) || dbfilename == "." || dbfilename == ".." {
            return Err(Error::UnsafeName { name: dbfilename });
        }
        let append_dirs = std::iter::once(APPEND_DIR.to_owned()).chain(fact("appenddirname")).collect();
        Ok(Self { dir, address, dbfilename, append_dirs, now_secs })
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
    /// there is none), durable and in its place only when it is whole and the server is still down. The directory is
    /// the server's: no link that is planted in it is followed.
    pub(super) async fn write(&self, mut body: ByteStream) -> Result<Verdict, ComponentError> {
        let root = Root::open(self.dir)?;
        let mut file = root.begin(self.dbfilename.as_bytes())?;
        let mut checker = Checker::new();
        while let Some(run) = body.next().await {
            let bytes = run?.bytes;
            checker.push(&bytes).map_err(Error::Rdb)?;
            file.write(&bytes)?;
        }
        let verdict = checker.finish().map_err(Error::Rdb)?;
        // it may have been started while the file was written
        self.refuse_running().await?;
        let present = root.examine(self.dbfilename.as_bytes())?;
        let present = present.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
        file.publish(&match present {
            Some(like) => self.attributes(&like, like.st_mode & 0o777),
            None => self.attributes(&root.stat()?, NEW_FILE_MODE),
        })?;
        Ok(verdict)
    }

    fn attributes(&self, owner: &Stat, mode: u32) -> Attributes {
        let mtime_ns = i128::from(self.now_secs) * 1_000_000_000;
        Attributes { kind: Kind::File, mode, uid: owner.st_uid, gid: owner.st_gid, mtime_ns }
    }

    /// Whatever accepts a connection may be the server: one that hangs, loads or asks for a password too. Only what
    /// refuses one proves that there is none: silence and a name that nobody knows do not.
    async fn refuse_running(&self) -> Result<(), Error> {
        let unknown = |source| Error::MayRun { address: self.address.to_owned(), source };
        let wait = Duration::from_secs(ANSWER_SECS);
        let (mut refused, mut unreachable) = (false, io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in lookup_host(self.address).await.map_err(unknown)? {
            match timeout(wait, TcpStream::connect(address)).await {
                Ok(Ok(_)) => return Err(Error::Running { address: self.address.to_owned() }),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => refused = true,
                // an address that this machine does not have, as ::1 where there is no IPv6
                Ok(Err(error)) if is_no_address_here(&error) => unreachable = error,
                Ok(Err(error)) => return Err(unknown(error)),
                Err(_) => return Err(unknown(io::ErrorKind::TimedOut.into())),
            }
        }
        if refused { Ok(()) } else { Err(unknown(unreachable)) }
    }
}

fn is_no_address_here(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    matches!(error.kind(), AddrNotAvailable | NetworkUnreachable) || error.raw_os_error() == Some(no_family)
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

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
