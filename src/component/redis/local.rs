//! Puts an RDB file into a data directory of this machine, for a server that is started on it afterwards.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures::StreamExt;

use super::Error;
use super::rdb::{Checker, Verdict};
use crate::component::{ByteStream, Error as ComponentError};

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
