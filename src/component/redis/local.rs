//! Puts an RDB file into a data directory of this machine, for a server that is started on it afterwards.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::{Mode, OFlags};

use super::Error;
use super::rdb::{Checker, Verdict};
use crate::component::docker::{BoxError, Docker};
use crate::component::{ByteStream, Error as ComponentError};

/// Bytes read back at a time.
const SPOOL_RUN: usize = 1 << 20;
const SPOOL_RUN_LEN: u64 = 1 << 20;

/// Returns what the file would replace. Refuses a directory whose AOF a server would prefer.
pub(super) fn plan(dir: &Path, dbfilename: &str) -> Result<Option<PathBuf>, Error> {
    let listing = fs::read_dir(dir).map_err(io_error("listing", dir))?;
    for found in listing {
        let path = found.map_err(io_error("listing", dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".aof") || name == "appendonlydir" {
            return Err(Error::AofPresent { path });
        }
    }
    let path = dir.join(dbfilename);
    Ok(path.exists().then_some(path))
}

/// Writes the file with the owner and mode of the one that it replaces (of the directory and 0600 where
/// there is none), durable and in its place only when it is whole.
pub(super) async fn write(dir: &Path, dbfilename: &str, mut body: ByteStream) -> Result<Verdict, ComponentError> {
    let path = dir.join(dbfilename);
    let temporary = dir.join(format!("{dbfilename}.orkvault-partial"));
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
        publish(&file, dir, &temporary, &path).map_err(io_error("writing", &path))?;
        Ok(verdict)
    };
    let result = written.await;
    if result.is_err() {
        // the error is what is reported; the name of what is left says what it is
        let _ = fs::remove_file(&temporary);
    }
    result
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
    let runs = stream::try_unfold(file, |mut file| async move {
        let mut run = Vec::with_capacity(SPOOL_RUN);
        (&mut file).take(SPOOL_RUN_LEN).read_to_end(&mut run)?;
        Ok((!run.is_empty()).then(|| (Bytes::from(run), file)))
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
