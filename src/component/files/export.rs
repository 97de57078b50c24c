//! Writes a component as files below a new directory: for a look, a drill, or a restore by hand.
//!
//! A stream is a file of its name. An entry is a file at its key, whose parts are written so that every
//! file system takes them (`%`, `\\` and control characters as `%xx`, an empty part as `%`); one that
//! cannot lie at its key (`a` beside `a/b`, a part that is too long) is `%conflicts/<number>`. The table
//! `<component>.entries.jsonl` says which file is which entry, with all attributes. Both have `.partial` behind their names
//! until they are whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use super::Error;
use super::directory_source::blocking;
use super::lots::{Put, put_all};
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
}

/// What entries are written into, below a directory of its own that nobody else knows yet: made durable as a whole.
struct Export {
    /// Where the contents go, and the table, under the names that they have until all is whole.
    directory: PathBuf,
    table: PathBuf,
    /// Made with the first row.
    lines: Option<BufWriter<File>>,
    /// The directory that was made last.
    made: PathBuf,
    conflicts: u64,
}

/// A content that is being written.
struct Growing {
    file: File,
    at: PathBuf,
    /// The same below the directory.
    path: PathBuf,
}

impl Export {
    fn new(directory: PathBuf, table: PathBuf) -> Self {
        Self { directory, table, lines: None, made: PathBuf::new(), conflicts: 0 }
    }

    /// Makes the file of an entry.
    fn create(&mut self, key: &[u8]) -> Result<Growing, Error> {
        let path: PathBuf = key.split(|byte| *byte == b'/').map(safe_part).collect();
        let at = self.directory.join(&path);
        if let Some(parent) = at.parent()
            && self.make(parent).is_ok()
            && let Ok(file) = create_new(&at)
        {
            return Ok(Growing { file, at, path });
        }
        self.conflicts += 1;
        let path = Path::new(CONFLICTS).join(self.conflicts.to_string());
        let at = self.directory.join(&path);
        self.make(at.parent().unwrap_or(&at)).map_err(failed(&at))?;
        let file = create_new(&at).map_err(failed(&at))?;
        Ok(Growing { file, at, path })
    }

    fn make(&mut self, directory: &Path) -> io::Result<()> {
        if self.made != directory {
            make_dir(directory)?;
            directory.clone_into(&mut self.made);
        }
        Ok(())
    }

    fn list(&mut self, entry: &Entry, file: Option<&Path>) -> Result<(), Error> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            None => self.lines.insert(BufWriter::new(create_new(&self.table).map_err(failed(&self.table))?)),
        };
        writeln!(lines, "{}", row(entry, file)).map_err(failed(&self.table))
    }

    /// Makes everything durable. Returns whether there is a table, and how many entries could not lie at their key.
    fn finish(self) -> Result<(bool, u64), Error> {
        let has_table = self.lines.is_some();
        if let Some(mut lines) = self.lines {
            lines.flush().map_err(failed(&self.table))?;
        }
        let directory = File::open(&self.directory).map_err(failed(&self.directory))?;
        rustix::fs::syncfs(&directory).map_err(Error::io("syncing", &self.directory))?;
        Ok((has_table, self.conflicts))
    }
}

impl Put for Export {
    type Growing = Growing;

    fn put(&mut self, entry: Entry, content: Option<Bytes>) -> Result<(), Error> {
        let Some(content) = content else { return self.list(&entry, None) };
        let mut file = self.begin(&entry)?;
        Self::write(&mut file, &content)?;
        self.end(entry, file)
    }

    fn begin(&mut self, entry: &Entry) -> Result<Growing, Error> {
        self.create(&entry.key)
    }

    fn write(growing: &mut Growing, bytes: &[u8]) -> Result<(), Error> {
        growing.file.write_all(bytes).map_err(failed(&growing.at))
    }

    fn end(&mut self, entry: Entry, growing: Growing) -> Result<(), Error> {
        self.list(&entry, Some(&growing.path))
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
        let (target, table) = (self.target(), self.table());
        let unfinished = partial(&target);
        make_dir(&unfinished).map_err(failed(&unfinished))?;
        let mut restored = Restored::default();
        for stream in stored.streams() {
            let name = safe_part(stream.name.as_bytes());
            let body = stored.open(&stream.name).await?;
            restored.bytes += write(unfinished.join(&name), body).await?;
            restored.notes.push(target.join(name).display().to_string());
        }
        let export = Export::new(unfinished.clone(), partial(&table));
        let (export, tally) = put_all(stored, export, target.clone()).await?;
        restored.bytes += tally.bytes;
        let (has_table, conflicts) = blocking(target.clone(), move || export.finish()).await?;
        if has_table {
            rename(&partial(&table), &table)?;
            restored.notes.push(format!("{} entries, listed in {}", tally.entries, table.display()));
        }
        if conflicts > 0 {
            restored.warnings.push(format!("{conflicts} entries could not lie at their key: see the table"));
        }
        rename(&unfinished, &target)?;
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
fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to).map_err(failed(to))?;
    if let Some(parent) = to.parent() {
        match File::open(parent).map_err(failed(parent))?.sync_all() {
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

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

async fn write(path: PathBuf, mut body: ByteStream) -> Result<u64, ComponentError> {
    let at = path.clone();
    let mut file = blocking(path.clone(), move || create_new(&at).map_err(failed(&at))).await?;
    let mut bytes = 0;
    while let Some(run) = body.try_next().await? {
        bytes += run.bytes.len() as u64;
        let at = path.clone();
        file = blocking(path.clone(), move || file.write_all(&run.bytes).map(|()| file).map_err(failed(&at))).await?;
    }
    let at = path.clone();
    blocking(path, move || file.sync_all().map_err(failed(&at))).await?;
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
