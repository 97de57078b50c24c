//! Files into a container: one archive, then every file read back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::query_parameters::UploadToContainerOptionsBuilder;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::archive::is_below;
use super::{BoxError, Docker, Error, FileKind, FileStat};

/// What to put into a container.
#[derive(Default)]
pub struct Upload {
    /// Directories, made before the files. One that exists gets this owner and mode.
    pub directories: Vec<NewDirectory>,
    /// Files; one that exists is replaced, a directory in its place is an error.
    pub files: Vec<NewFile>,
    /// Modification time of all of them, seconds since 1970.
    pub mtime_secs: u64,
}

/// A directory to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDirectory {
    /// Path below the upload's directory, at most 100 bytes.
    pub name: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Permission bits.
    pub mode: u32,
}

/// A file to write.
pub struct NewFile {
    /// Path below the upload's directory, at most 100 bytes.
    pub name: String,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it will hold.
    pub content: FileContent,
}

/// The content of a file to write.
pub enum FileContent {
    /// In memory.
    Bytes(Bytes),
    /// On its way. Must add up to `len`; an `Err` aborts the upload.
    Stream {
        /// Length in bytes.
        len: u64,
        /// The bytes.
        body: BoxStream<'static, Result<Bytes, BoxError>>,
    },
}

/// A PUT is answered only after the whole body: hours, for a large file on a slow line.
const UPLOAD_MOST: Duration = Duration::from_secs(12 * 3600);
const NAME_MOST: usize = 100;
const BLOCK: usize = 512;
/// Two blocks of zeros end an archive.
const TRAILER: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

type Body = BoxStream<'static, Result<Bytes, BoxError>>;

/// What a file must be found to be afterwards.
struct Expected {
    name: String,
    uid: u64,
    gid: u64,
    mode: u32,
    len: u64,
    /// Hash of what was sent; complete when the body has been read.
    hash: Arc<Mutex<blake3::Hasher>>,
}

impl Docker {
    /// Puts directories and files below the existing directory `dir`, owner and mode as given, and reads
    /// every file back: returns only when each holds what was sent. On an error some may have been written.
    pub async fn write_files(&self, container: &str, dir: &str, upload: Upload) -> Result<(), Error> {
        let names = upload.directories.iter().map(|new| &new.name).chain(upload.files.iter().map(|new| &new.name));
        for name in names {
            if name.len() > NAME_MOST || !is_below(name) {
                return Err(Error::BadPath { name: name.clone() });
            }
        }
        let target = self.stat(container, dir).await?;
        if target.kind != FileKind::Directory {
            return Err(Error::WrongKind {
                container: container.to_owned(),
                path: target.path,
                found: target.kind,
                expected: FileKind::Directory,
            });
        }
        let (body, expected) = archive_of(upload)?;
        self.put(container, &target.path, body).await?;
        for file in &expected {
            self.verify(container, &target.path, file).await?;
        }
        Ok(())
    }

    async fn put(&self, container: &str, dir: &str, body: Body) -> Result<(), Error> {
        let failure: Arc<Mutex<Option<BoxError>>> = Arc::default();
        let slot = Arc::clone(&failure);
        // An error in the body breaks the request off; the cause is kept here, as no client passes it on.
        let body = body.map_err(move |error| {
            let shown = std::io::Error::other(error.to_string());
            *lock(&slot) = Some(error);
            shown
        });
        let options = UploadToContainerOptionsBuilder::default().path(dir).no_overwrite_dir_non_dir("1").build();
        let client = self.client_with_timeout(UPLOAD_MOST);
        let sent = client.upload_to_container(container, Some(options), bollard::body_try_stream(body)).await;
        let broken = lock(&failure).take();
        match (sent, broken) {
            (_, Some(source)) => Err(Error::Body { container: container.to_owned(), source }),
            (Ok(()), None) => Ok(()),
            (Err(error), None) => Err(self.path_failed(container, dir, error)),
        }
    }

    /// A cut or empty archive is answered with 200 too: only reading back tells.
    async fn verify(&self, container: &str, dir: &str, expected: &Expected) -> Result<(), Error> {
        let path = format!("{dir}/{}", expected.name);
        let mut body = self.open_file(container, &path).await?;
        let differs = |what: String| Error::UploadDiffers { container: container.to_owned(), path: path.clone(), what };
        let FileStat { len, mode, uid, gid, .. } = *body.stat();
        if (len, mode, uid, gid) != (expected.len, expected.mode, expected.uid, expected.gid) {
            return Err(differs(format!(
                "{len} bytes, mode {mode:o}, owner {uid}:{gid}; sent {} bytes, mode {:o}, owner {}:{}",
                expected.len, expected.mode, expected.uid, expected.gid
            )));
        }
        let mut hasher = blake3::Hasher::new();
        while let Some(bytes) = body.next().await? {
            hasher.update(&bytes);
        }
        let sent = lock(&expected.hash).finalize();
        if hasher.finalize() == sent { Ok(()) } else { Err(differs("the content differs".to_owned())) }
    }
}

/// Returns the archive's bytes, and what each file must be afterwards.
fn archive_of(upload: Upload) -> Result<(Body, Vec<Expected>), Error> {
    let mut parts: Vec<Body> = Vec::new();
    let mut expected = Vec::new();
    for new in &upload.directories {
        let owner = (new.uid, new.gid, new.mode);
        parts.push(part(header(&format!("{}/", new.name), tar::EntryType::Directory, 0, owner, upload.mtime_secs)?));
    }
    for new in upload.files {
        let hash = Arc::new(Mutex::new(blake3::Hasher::new()));
        let (len, body) = match new.content {
            FileContent::Bytes(bytes) => (len_u64(&bytes), part(bytes)),
            FileContent::Stream { len, body } => (len, body),
        };
        let owner = (new.uid, new.gid, new.mode);
        parts.push(part(header(&new.name, tar::EntryType::Regular, len, owner, upload.mtime_secs)?));
        parts.push(measured(body, len, Arc::clone(&hash)));
        let padding = usize::try_from(len.next_multiple_of(512) - len).expect("less than a block");
        parts.push(part(BytesMut::zeroed(padding).freeze()));
        expected.push(Expected { name: new.name, uid: new.uid, gid: new.gid, mode: new.mode, len, hash });
    }
    parts.push(part(Bytes::from_static(&TRAILER)));
    Ok((stream::iter(parts).flatten().boxed(), expected))
}

fn part(bytes: Bytes) -> Body {
    stream::iter([Ok(bytes)]).boxed()
}

fn header(
    name: &str,
    kind: tar::EntryType,
    len: u64,
    (uid, gid, mode): (u64, u64, u32),
    mtime_secs: u64,
) -> Result<Bytes, Error> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(|_| Error::BadPath { name: name.to_owned() })?;
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mode(mode);
    header.set_mtime(mtime_secs);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// Passes a body on, hashing it; one that is not exactly `len` bytes long ends in an `Err`.
fn measured(body: Body, len: u64, hash: Arc<Mutex<blake3::Hasher>>) -> Body {
    stream::try_unfold((body, len), move |(mut body, left)| {
        let hash = Arc::clone(&hash);
        async move {
            match body.next().await {
                Some(Ok(bytes)) => {
                    let left = left.checked_sub(len_u64(&bytes)).ok_or(Mismeasured { len })?;
                    lock(&hash).update(&bytes);
                    Ok(Some((bytes, (body, left))))
                }
                Some(Err(error)) => Err(error),
                None if left == 0 => Ok(None),
                None => Err(BoxError::from(Mismeasured { len })),
            }
        }
    })
    .boxed()
}

/// A file to write is not as long as was said.
#[derive(Debug, thiserror::Error)]
#[error("what should be written does not have the {len} bytes that were announced")]
struct Mismeasured {
    len: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn len_u64(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length in memory fits 64 bits")
}
