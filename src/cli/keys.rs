//! Keys and passphrases on their way in: private files, standard input, a terminal. Never an argument.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::component::secret::Secret;
use crate::crypto::Passphrase;
use crate::crypto::secret::SecretBytes;
use crate::crypto::writer_key::WriterKey;

/// A longer passphrase or key is none.
const BYTES_MAX: u64 = 64 * 1024;
/// Mode bits of group and others.
const SHARED: u32 = 0o077;
/// Mode bits with which group and others could write.
const SHARED_WRITE: u32 = 0o022;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A private file.
    File(PathBuf),
    /// Standard input, to its end.
    Stdin,
}

impl Input {
    /// Returns what an option's value means: `-` is standard input.
    #[must_use]
    pub(crate) fn new(path: PathBuf) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path) }
    }

    /// Returns where it is, for messages.
    #[must_use]
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => read_guarded(path, BYTES_MAX, SHARED),
            Self::Stdin => {
                let fail = |source| Error::System { action: "read standard input", source };
                read_at_most(io::stdin().lock(), BYTES_MAX).map_err(fail)
            }
        }
    }
}

fn read_at_most(from: impl io::Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    // In one allocation: a growing vector would leave copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(bytes_max).unwrap_or(0) + 1);
    from.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Reads a file that decides what is done: nobody but its owner and root may be able to change it.
pub(crate) fn read_trusted(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Error> {
    read_guarded(path, bytes_max, SHARED_WRITE)
}

fn read_guarded(path: &Path, bytes_max: u64, forbidden: u32) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::File { action: "cannot read", path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    // Of the open file: what lies under the name may change any time.
    let metadata = file.metadata().map_err(fail)?;
    let not_private = |what| Error::NotPrivate { path: path.to_owned(), what };
    // A pipe (process substitution) has no mode that says anything.
    if metadata.is_file() {
        let owner = metadata.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(not_private(format!("it belongs to user {owner}")));
        }
        if metadata.mode() & forbidden != 0 {
            return Err(not_private(format!("its mode is {:04o}", metadata.mode() & 0o7777)));
        }
    }
    read_at_most(file, bytes_max).map_err(fail)
}

/// Reads the writer key.
pub(crate) fn writer_key(input: &Input) -> Result<WriterKey, Error> {
    let wrap = |source| Error::Key { what: format!("the writer key in {}", input.shown()), source };
    let bytes = SecretBytes::new(input.read()?);
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| wrap(crate::crypto::Error::BadWriterKey))?;
    WriterKey::parse(text).map_err(wrap)
}

/// Reads a text that must not be shown: a password, a URI. One line end at its end is not part of it.
pub(crate) fn secret(path: &Path) -> Result<Secret, Error> {
    let bytes = SecretBytes::new(read_guarded(path, BYTES_MAX, SHARED)?);
    let not_text = || Error::File {
        action: "cannot read",
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"),
    };
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| not_text())?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// Reads a passphrase from where it is, or asks.
pub(crate) fn passphrase(input: &Input) -> Result<Passphrase, Error> {
    Ok(Passphrase::new(input.read()?))
}

/// Returns whether there is somebody to ask.
#[must_use]
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks for a passphrase on the terminal.
pub(crate) fn ask_passphrase(what: &'static str) -> Result<Passphrase, Error> {
    let fail = |source| Error::System { action: "read from the terminal", source };
    Ok(Passphrase::new(rpassword::prompt_password(format!("{what}: ")).map_err(fail)?.into_bytes()))
}

/// Asks for a new passphrase twice.
pub(crate) fn ask_new_passphrase(what: &'static str) -> Result<Passphrase, Error> {
    let first = ask_passphrase(what)?;
    let fail = |source| Error::System { action: "read from the terminal", source };
    let second = rpassword::prompt_password(format!("{what}, again: ")).map_err(fail)?;
    if first.is_same(&Passphrase::new(second.into_bytes())) { Ok(first) } else { Err(Error::TypedDifferently { what }) }
}

/// Asks a question on the terminal and returns the line that was typed.
pub(crate) fn ask_line(question: &str) -> Result<String, Error> {
    let fail = |source| Error::System { action: "read from the terminal", source };
    let mut err = io::stderr().lock();
    write!(err, "{} ", super::printable::printable(question)).and_then(|()| err.flush()).map_err(fail)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(fail)?;
    Ok(line.trim().to_owned())
}

/// Writes a new file with mode 0600, durable when it returns. Never overwrites one.
pub(crate) fn write_new_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_secret_that_others_could_read_is_refused_whichever_bit_it_is() {
        for mode in [0o640, 0o604, 0o660, 0o601, 0o777] {
            let (_dir, path) = file(mode, b"canary");
            let error = passphrase(&Input::File(path)).err().expect("it is refused");
            assert!(matches!(error, Error::NotPrivate { .. }), "{mode:o}: {error}");
        }
        for mode in [0o600, 0o400, 0o700] {
            let (_dir, path) = file(mode, b"canary\n");
            assert_eq!(secret(&path).expect("it is read").expose(), "canary");
        }
    }

    #[test]
    fn a_key_file_never_replaces_one() {
        let (_dir, path) = file(0o600, b"older");
        assert_eq!(write_new_private(&path, b"new").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(path).unwrap(), b"older");
    }
}
