//! Repositories in memory with cheap key derivation, and deterministic content.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use orkvault::backend::{Backend, MemoryBackend};
use orkvault::crypto::writer_key::WriterKey;
use orkvault::crypto::{Passphrase, SystemEntropy};
use orkvault::format::slot::KdfParams;
use orkvault::repo::{Access, InitOptions, InitSecrets, OpenOptions, Repository, init};

pub const DATA_PASSPHRASE: &str = "correct horse data";
pub const SECRETS_PASSPHRASE: &str = "battery staple secrets";

/// A new repository and the line of its writer key file.
pub struct Made {
    pub backend: MemoryBackend,
    pub writer_line: String,
}

pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec())
}

/// The cheapest options that the format allows.
pub fn cheap_options() -> InitOptions {
    let kdf = KdfParams::new(19_456, 1, 1).expect("the least allowed");
    InitOptions { data_kdf: kdf, secrets_kdf: kdf, ..InitOptions::new(1_790_000_000) }
}

pub async fn make() -> Made {
    make_with(cheap_options()).await
}

pub async fn make_with(options: InitOptions) -> Made {
    let backend = MemoryBackend::new();
    let secrets = InitSecrets { data: passphrase(DATA_PASSPHRASE), secrets: passphrase(SECRETS_PASSPHRASE) };
    let made = init(Arc::new(backend.clone()), &options, secrets, Arc::new(SystemEntropy), |_| Ok(()));
    let made = made.await.expect("init works").expect("the key is kept");
    Made { backend, writer_line: made.writer_key.to_line().to_string() }
}

impl Made {
    pub fn writer(&self) -> Access {
        Access::Writer(WriterKey::parse(&self.writer_line).expect("the line parses"))
    }

    pub async fn open_on(&self, backend: Arc<dyn Backend>, access: Vec<Access>) -> Repository {
        open(backend, access).await.expect("the repository opens")
    }

    pub async fn open_writer(&self) -> Repository {
        self.open_on(Arc::new(self.backend.clone()), vec![self.writer()]).await
    }

    /// As [`Made::open_writer`], on a host that remembers.
    pub async fn open_writer_at(&self, cache: &Path) -> Repository {
        let backend = Arc::new(self.backend.clone());
        open_at(Some(cache), backend, vec![self.writer()]).await.expect("the repository opens")
    }

    pub async fn open_reader(&self) -> Repository {
        let access = vec![Access::Data(passphrase(DATA_PASSPHRASE))];
        self.open_on(Arc::new(self.backend.clone()), access).await
    }
}

pub async fn open(backend: Arc<dyn Backend>, access: Vec<Access>) -> Result<Repository, orkvault::repo::Error> {
    open_at(None, backend, access).await
}

pub async fn open_at(
    cache: Option<&Path>,
    backend: Arc<dyn Backend>,
    access: Vec<Access>,
) -> Result<Repository, orkvault::repo::Error> {
    let options = OpenOptions { cache: cache.map(Path::to_owned), entropy: Arc::new(SystemEntropy) };
    let repository = Repository::open(backend, access, options).await?;
    repository.load_index().await?;
    Ok(repository)
}

/// Reads a stream to its end.
pub async fn read_all(
    mut stream: impl futures::Stream<Item = Result<Bytes, orkvault::repo::Error>> + Unpin,
) -> Result<Vec<u8>, orkvault::repo::Error> {
    let mut out = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Returns bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        // xorshift64*: enough for content that must only be repeatable.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}
