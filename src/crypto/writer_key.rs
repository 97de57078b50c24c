//! The writer's key file: one line of text that names the repository it belongs to.
//!
//! `orkvault-writer-1:<repository id, 64 hex digits>:<key, 64 hex digits>`. The repository id pins the
//! repository: a store that shows another one is refused. The public keys are pinned by the slot that only
//! this key opens.

use std::fmt::Write as _;

use zeroize::{Zeroize as _, Zeroizing};

use super::Error;
use super::random::{Entropy, random_32};
use super::secret::SecretKey;
use crate::format::id::{self, RepositoryId};

const PREFIX: &str = "orkvault-writer-1";

/// What the nightly host holds.
pub struct WriterKey {
    /// The repository that the key was made for.
    pub repository: RepositoryId,
    key: SecretKey,
}

impl WriterKey {
    /// Draws a key for a repository.
    pub fn generate(repository: RepositoryId, entropy: &dyn Entropy) -> Result<Self, Error> {
        Ok(Self { repository, key: SecretKey::new(random_32(entropy)?) })
    }

    /// Returns the key as a slot opener.
    #[must_use]
    pub fn opener(&self) -> super::slot::Opener<'_> {
        super::slot::Opener::RawKey(&self.key)
    }

    /// Returns the line for the key file, wiped when dropped.
    #[must_use]
    pub fn to_line(&self) -> Zeroizing<String> {
        let mut line = String::with_capacity(160);
        let written = write!(line, "{PREFIX}:{}:", self.repository);
        written.expect("writing to a string does not fail");
        for byte in self.key.bytes() {
            write!(line, "{byte:02x}").expect("writing to a string does not fail");
        }
        line.push('\n');
        Zeroizing::new(line)
    }

    /// Reads a key file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut fields = text.trim_ascii_end().split(':');
        let (Some(PREFIX), Some(repository), Some(key), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Error::BadWriterKey);
        };
        let repository = repository.parse().map_err(|_| Error::BadWriterKey)?;
        let mut bytes = id::parse_hex("writer key", key).map_err(|_| Error::BadWriterKey)?;
        let parsed = Self { repository, key: SecretKey::new(bytes) };
        bytes.zeroize();
        Ok(parsed)
    }
}
