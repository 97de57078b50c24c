//! Writes a component as files below a new directory: for a look, a drill, or a restore by hand.
//!
//! A stream is a file of its name. An entry is a file at its key, whose parts are written so that every
//! file system takes them (`%`, `\\` and control characters as `%xx`, an empty part as `%`); one that
//! cannot lie at its key (`a` beside `a/b`, a part that is too long) is `%conflicts/<number>`. The table
//! `<component>.entries.jsonl` says which file is which entry, with all attributes. Both have `.partial` behind their names
//! until they are whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use tokio::fs::{DirBuilder, File, OpenOptions};
use tokio::io::{AsyncWriteExt as _, BufWriter};

use super::Error;
use crate::component::{ByteStream, Entry, Error as ComponentError, RestorePlan, Restored, Sink, Stored};

/// Where entries lie that cannot lie at their key. No key is written so.
const CONFLICTS: &str = "%conflicts";

/// What the names end in of what is not whole yet.
const PARTIAL: &str = ".partial";

/// A directory that does not exist yet.
#[derive(Debug)]
pub struct ExportSink {
    name: String,
    parent: PathBuf,
}

impl ExportSink {
    /// Returns the sink of the component `name` into `<parent>/<name>`.
    #[must_use]
    pub fn new(name: String, parent: PathBuf) -> Self {
        Self { name, parent }
    }

    fn target(&self) -> PathBuf {
        self.parent.join(safe_part(self.name.as_bytes()))
    }

    fn table(&self) -> PathBuf {
        self.parent.join(format!("{}.entries.jsonl", self.name))
    }

    async fn entries(&self, stored: &mut dyn Stored, restored: &mut Restored) -> Result<(), ComponentError> {
        stored.rewind().await?;
        let mut table: Option<BufWriter<File>> = None;
        let (mut entries, mut conflicts) = (0_u64, 0_u64);
        let table_path = partial(&self.table());
        while let Some((entry, content)) = stored.next_entry().await? {
            entries += 1;
            let file = match content {
                Some(content) => {
                    let body = stored.open_content(&entry, &content).await?;
                    let (path, file) = self.create(&entry.key, &mut conflicts).await?;
                    restored.bytes += write(&partial(&self.target()).join(&path), file, body).await?;
                    Some(path)
                }
                None => None,
            };
            let table = match &mut table {
                Some(table) => table,
                None => table.insert(BufWriter::new(create_new(&table_path).await.map_err(failed(&table_path))?)),
            };
            let line = format!("{}\n", row(&entry, file.as_deref()));
            table.write_all(line.as_bytes()).await.map_err(failed(&table_path))?;
        }
        if let Some(mut table) = table {
            table.flush().await.map_err(failed(&table_path))?;
            table.get_ref().sync_all().await.map_err(failed(&table_path))?;
            rename(&table_path, &self.table()).await?;
            restored.notes.push(format!("{entries} entries, listed in {}", self.table().display()));
        }
        if conflicts > 0 {
            restored.warnings.push(format!("{conflicts} entries could not lie at their key: see the table"));
        }
        Ok(())
    }

    /// Makes the file of an entry and returns its path below the directory.
    async fn create(&self, key: &[u8], conflicts: &mut u64) -> Result<(PathBuf, File), ComponentError> {
        let path: PathBuf = key.split(|byte| *byte == b'/').map(safe_part).collect();
        let target = partial(&self.target());
        let at = target.join(&path);
        if let Some(parent) = at.parent()
            && make_dir(parent).await.is_ok()
            && let Ok(file) = create_new(&at).await
        {
            return Ok((path, file));
        }
        *conflicts += 1;
        let path = Path::new(CONFLICTS).join(conflicts.to_string());
        let at = target.join(&path);
        make_dir(at.parent().unwrap_or(&at)).await.map_err(failed(&at))?;
        let file = create_new(&at).await.map_err(failed(&at))?;
        Ok((path, file))
    }
}

#[async_trait]
impl Sink for ExportSink {
    fn component(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        format!("{}: files below {:?}", self.name, self.target())
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, ComponentError> {
        let target = self.target();
        if target.symlink_metadata().is_ok() {
            let in_the_way = Error::InTheWay { path: target, found: "something", needed: "nothing" };
            return Err(in_the_way.into());
        }
        let mut creates: Vec<String> = stored
            .streams()
            .iter()
            .map(|stream| format!("{}: {} bytes", target.join(safe_part(stream.name.as_bytes())).display(), stream.len))
            .collect();
        stored.rewind().await?;
        let (mut entries, mut bytes) = (0_u64, 0_u64);
        while let Some((entry, _)) = stored.next_entry().await? {
            entries += 1;
            bytes += entry.len;
        }
        if entries > 0 {
            creates.push(format!("{}: {entries} entries, {bytes} bytes", target.display()));
        }
        Ok(RestorePlan { creates, ..RestorePlan::default() })
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, ComponentError> {
        let target = self.target();
        let unfinished = partial(&target);
        make_dir(&unfinished).await.map_err(failed(&unfinished))?;
        let mut restored = Restored::default();
        for stream in stored.streams() {
            let name = safe_part(stream.name.as_bytes());
            let path = unfinished.join(&name);
            let body = stored.open(&stream.name).await?;
            let file = create_new(&path).await.map_err(failed(&path))?;
            restored.bytes += write(&path, file, body).await?;
            restored.notes.push(target.join(name).display().to_string());
        }
        self.entries(stored, &mut restored).await?;
        rename(&unfinished, &target).await?;
        Ok(restored)
    }
}

/// Returns the name that something has until it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    name.into()
}

/// Gives something that is whole its name. Durable when it returns.
async fn rename(from: &Path, to: &Path) -> Result<(), ComponentError> {
    tokio::fs::rename(from, to).await.map_err(failed(to))?;
    if let Some(parent) = to.parent() {
        let directory = File::open(parent).await.map_err(failed(parent))?;
        match directory.sync_all().await {
            // File systems (FUSE, CIFS) that cannot sync a directory have nothing better to offer.
            Err(source) if matches!(source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => (),
            synced => synced.map_err(failed(parent))?,
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action: "writing", path, source }
}

async fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).await
}

async fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await
}

async fn write(path: &Path, mut file: File, mut body: ByteStream) -> Result<u64, ComponentError> {
    let mut bytes = 0;
    while let Some(run) = body.try_next().await? {
        file.write_all(&run.bytes).await.map_err(failed(path))?;
        bytes += run.bytes.len() as u64;
    }
    file.flush().await.map_err(failed(path))?;
    file.sync_all().await.map_err(failed(path))?;
    Ok(bytes)
}

/// Returns a part of a key as a name that every file system takes and that leads nowhere else.
fn safe_part(part: &[u8]) -> OsString {
    let mut name = Vec::with_capacity(part.len());
    let is_dots = matches!(part, b"." | b"..");
    for byte in part {
        if is_dots || byte.is_ascii_control() || matches!(byte, b'%' | b'\\' | b'/') {
            name.extend_from_slice(format!("%{byte:02x}").as_bytes());
        } else {
            name.push(*byte);
        }
    }
    if name.is_empty() {
        name.push(b'%');
    }
    OsString::from_vec(name)
}

fn row(entry: &Entry, file: Option<&Path>) -> Value {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    };
    let attributes: BTreeMap<&String, Value> =
        entry.attributes.iter().map(|(name, value)| (name, text(value))).collect();
    let file = file.map(|file| text(std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str())));
    json!({ "key": text(&entry.key), "bytes": entry.len, "attributes": attributes, "file": file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_leads_out_of_its_directory_and_no_two_parts_share_a_name() {
        let parts: [&[u8]; 10] = [b"", b"%", b".", b"..", b"%2e", b"a", b"a\\b", b"a\nb", b"a%0ab", b"..."];
        let names: Vec<OsString> = parts.iter().map(|part| safe_part(part)).collect();
        for name in &names {
            let name = Path::new(name);
            assert_eq!(name.components().count(), 1);
            assert!(matches!(name.components().next(), Some(std::path::Component::Normal(_))), "{name:?}");
        }
        let distinct: std::collections::BTreeSet<&OsString> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(!names.iter().any(|name| name == CONFLICTS));
    }
}
