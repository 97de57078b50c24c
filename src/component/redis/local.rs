//! Puts an RDB file into a data directory of this machine, for a server that is started on it afterwards.
//!
//! A server with AOF on ignores `dump.rdb` and starts empty, one with AOF off ignores an AOF: the file goes where the
//! captured server would have looked for it.

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
use crate::component::files::beneath::{Partial, Root};
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
    /// Whether the captured server had AOF on, where the snapshot tells.
    had_aof: Option<bool>,
    /// Where it had AOF on in a directory of its own (Redis 7.0): that directory's name and what its files begin with.
    append: Option<(String, String)>,
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
        let had_aof = fact("aof_enabled").map(|value| value == "true");
        let append = fact("appenddirname").zip(fact("appendfilename"));
        let append = append.filter(|(dir, prefix)| had_aof == Some(true) && is_plain(dir) && is_plain(prefix));
        Ok(Self { dir, address, dbfilename, append_dirs, had_aof, append, now_secs })
    }

    /// Returns where the RDB file goes.
    pub(super) fn path(&self) -> PathBuf {
        match &self.append {
            Some((dir, _)) => self.dir.join(dir),
            None => self.dir.join(&self.dbfilename),
        }
    }

    /// Returns what whoever starts the server must know.
    pub(super) fn caution(&self) -> String {
        let start = match (self.had_aof, &self.append) {
            (_, Some(_)) => "on, as in the snapshot: with AOF off it ignores what is restored",
            (Some(true), None) => {
                "off, though it was on in the snapshot: with AOF on it ignores the file, starts empty"
            }
            (_, None) => "off: with AOF on it ignores the file and starts empty",
        };
        format!("the server of {:?} must stay down until then, and be started with AOF {start}", self.dir)
    }

    /// Returns the file that would be replaced. Refuses while a server is running, and a directory whose AOF a
    /// server would prefer.
    pub(super) async fn plan(&self) -> Result<Option<PathBuf>, Error> {
        self.refuse_running().await?;
        let listing = fs::read_dir(self.dir).map_err(io_error("listing", self.dir))?;
        for found in listing {
            let path = found.map_err(io_error("listing", self.dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_aof =
                name.ends_with(".aof") || self.append_dirs.contains(&name) || (path.is_dir() && holds_manifest(&path)?);
            if is_aof && !(path == self.path() && self.restored_before()?.is_some()) {
                return Err(Error::AofPresent { path });
            }
        }
        let path = self.path();
        Ok(path.exists().then_some(path))
    }

    /// Writes the file with the owner and mode of the one that it replaces (of the directory and 0600 where
    /// there is none), durable and in its place only when it is whole and the server is still down. The directory is
    /// the server's: no link that is planted in it is followed.
    pub(super) async fn write(&self, body: ByteStream) -> Result<Verdict, ComponentError> {
        let root = Root::open(self.dir)?;
        if let Some((dir, prefix)) = &self.append {
            return self.write_aof(&root, dir, prefix, body).await;
        }
        let (file, verdict) = self.receive(&root, self.dbfilename.as_bytes(), body).await?;
        let present = root.examine(self.dbfilename.as_bytes())?;
        let present = present.filter(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile);
        file.publish(&match present {
            Some(like) => self.attributes(&like, like.st_mode & 0o777),
            None => self.attributes(&root.stat()?, NEW_FILE_MODE),
        })?;
        Ok(verdict)
    }

    /// Returns the files of the append-only directory where it has nothing but what a restore put there, and no server has
    /// written to it since: the next restore may replace it.
    fn restored_before(&self) -> Result<Option<Vec<String>>, Error> {
        let Some((dir, prefix)) = &self.append else { return Ok(None) };
        let dir = self.dir.join(dir);
        let io = |source| io_error("listing", &dir)(source);
        let mut names = Vec::new();
        for found in fs::read_dir(&dir).map_err(io)? {
            let found = found.map_err(io)?;
            let (name, about) = (found.file_name().to_string_lossy().into_owned(), found.metadata().map_err(io)?);
            let is_ours = name == format!("{prefix}.manifest") || name.contains(".orkvault");
            if !is_ours || !about.is_file() || (name.ends_with(".aof") && about.len() > 0) {
                return Ok(None);
            }
            names.push(name);
        }
        Ok(Some(names))
    }

    /// Makes an append-only directory whose base is the file. The manifest comes last: it is what a server loads.
    async fn write_aof(
        &self,
        root: &Root,
        dir: &str,
        prefix: &str,
        body: ByteStream,
    ) -> Result<Verdict, ComponentError> {
        let names = aof::names("", prefix)?;
        let manifest = aof::replacement("", &names)?;
        let owner = root.stat()?;
        let attributes = self.attributes(&owner, NEW_FILE_MODE);
        if root.examine(dir.as_bytes())?.is_some()
            && let Some(names) = self.restored_before()?
        {
            for name in names {
                root.remove_file(format!("{dir}/{name}").as_bytes())?;
            }
            root.remove_empty(dir.as_bytes())?;
        }
        let mut made = NewDirectory::make(root, dir)?;
        let (base, verdict) = self.receive(root, &made.key(&names.base), body).await?;
        made.publish(base, names.base, &attributes)?;
        for (name, content) in [(names.increment, ""), (format!("{prefix}.manifest"), manifest.as_str())] {
            let mut file = root.begin(&made.key(&name))?;
            file.write(content.as_bytes())?;
            made.publish(file, name, &attributes)?;
        }
        root.finish_directory(dir.as_bytes(), &self.attributes(&owner, owner.st_mode & 0o777))?;
        made.keep();
        Ok(verdict)
    }

    /// Writes the file under a temporary name and checks it; then that the server is still down.
    async fn receive(
        &self,
        root: &Root,
        key: &[u8],
        mut body: ByteStream,
    ) -> Result<(Partial, Verdict), ComponentError> {
        let mut file = root.begin(key)?;
        let mut checker = Checker::new();
        while let Some(run) = body.next().await {
            let bytes = run?.bytes;
            checker.push(&bytes).map_err(Error::Rdb)?;
            file.write(&bytes)?;
        }
        let verdict = checker.finish().map_err(Error::Rdb)?;
        // it may have been started while the file was written
        self.refuse_running().await?;
        Ok((file, verdict))
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

/// Names that need no quotes in a manifest and lead nowhere.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(name, "." | "..") && name.bytes().all(is_plain)
}

/// A directory that goes away again with what was published in it, unless it is kept. What is not ours stays, and the
/// directory with it: somebody may have started a server after all.
#[must_use]
struct NewDirectory<'a> {
    root: &'a Root,
    dir: &'a str,
    published: Vec<String>,
    kept: bool,
}

impl<'a> NewDirectory<'a> {
    fn make(root: &'a Root, dir: &'a str) -> Result<Self, ComponentError> {
        root.make_new(dir.as_bytes())?;
        Ok(Self { root, dir, published: Vec::new(), kept: false })
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.dir).into_bytes()
    }

    fn publish(&mut self, file: Partial, name: String, attributes: &Attributes) -> Result<(), ComponentError> {
        file.publish(attributes)?;
        self.published.push(name);
        Ok(())
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewDirectory<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // the error that led here is what is reported; a directory left behind is named by the next plan
        for name in &self.published {
            let _ = self.root.remove_file(&self.key(name));
        }
        let _ = self.root.remove_empty(self.dir.as_bytes());
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
