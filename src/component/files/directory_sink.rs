//! Puts a directory tree back below a target directory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::attributes::{Attributes, Kind};
use super::beneath::{self, Root};
use super::directory_source::blocking;
use super::lots::put_all;
use super::tree::{Tree, sweep};
use super::{Error, ROOT_FACTS, lossy};
use crate::component::{Entry, Error as ComponentError, RestorePlan, Restored, Sink, Stored, StoredContent};

/// Paths named one by one in a plan; the rest is counted.
const LISTED_MAX: usize = 50;

/// A target directory. What it holds beside the stored tree stays.
#[derive(Debug)]
pub struct DirectorySink {
    name: String,
    target: PathBuf,
}

impl DirectorySink {
    /// Returns the sink of the component `name` into `target`, which is made with all that is missing above it.
    pub fn new(name: String, target: PathBuf) -> Self {
        Self { name, target }
    }
}

#[async_trait]
impl Sink for DirectorySink {
    fn component(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> String {
        format!("{}: files into {:?}", self.name, self.target)
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, ComponentError> {
        let mut plan = RestorePlan::default();
        let root = match Root::open(&self.target) {
            Ok(root) => Some(Arc::new(root)),
            Err(Error::Missing { .. }) => {
                let missing = first_missing(&self.target)?;
                if missing != self.target {
                    plan.warnings.push(format!("{missing:?} does not exist: it is made, with what is below it"));
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        Attributes::of_root(&stored.captured().facts, ROOT_FACTS)?;
        let (mut files, mut bytes, mut replaced) = (0_u64, 0_u64, 0_usize);
        stored.rewind().await?;
        while let Some((entry, content)) = stored.next_entry().await? {
            let attributes = Attributes::decode(&entry)?;
            beneath::components(&entry.key)?;
            if attributes.kind == Kind::File {
                needed(&entry, content.as_ref())?;
                files += 1;
                bytes += entry.len;
            }
            let found = match &root {
                Some(root) => root.examine(&entry.key)?,
                None => None,
            };
            let directory = attributes.kind == Kind::Directory;
            if let Some(found) = found {
                let path = self.target.join(path_of(&entry.key));
                beneath::may_replace(&found, directory, &path)?;
                if !directory {
                    replaced += 1;
                    if plan.replaces.len() < LISTED_MAX {
                        plan.replaces.push(format!("{path:?}"));
                    }
                }
            }
        }
        if replaced > LISTED_MAX {
            plan.replaces.push(format!("and {} more files", replaced - LISTED_MAX));
        }
        plan.creates.push(format!("{files} files, {bytes} bytes, below {:?}", self.target));
        if !beneath::may_chown() {
            plan.warnings.push("owners are not put back: only root can".to_owned());
        }
        Ok(plan)
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, ComponentError> {
        let is_new = make_target(&self.target)?;
        let tree = Tree::new(Root::open(&self.target)?);
        let target = self.target.clone();
        let swept = blocking(target.clone(), move || Ok(if is_new { Ok(0) } else { sweep(&target) })).await?;
        let (tree, tally) = put_all(stored, tree, self.target.clone()).await?;
        let root = blocking(self.target.clone(), move || tree.finish()).await?;
        let mut warnings: Vec<String> = finish_root(&root, stored)?.into_iter().collect();
        let mut notes = vec![format!("{} files below {:?}", tally.contents, self.target)];
        match swept {
            Ok(0) => {}
            Ok(removed) => notes.push(format!("{removed} unfinished files of a restore that was cut off removed")),
            Err(error) => warnings.push(format!("not looked for unfinished files of earlier restores: {error}")),
        }
        Ok(Restored { bytes: tally.bytes, notes, warnings })
    }
}

/// Returns a file's content reference; a file without one is a malformed row.
fn needed<'a>(entry: &Entry, content: Option<&'a StoredContent>) -> Result<&'a StoredContent, Error> {
    content.ok_or_else(|| Error::Attribute { key: lossy(&entry.key), name: "content" })
}

/// Gives the target itself what it had. One that was there before may be somebody else's: that is a warning.
fn finish_root(root: &Root, stored: &dyn Stored) -> Result<Option<String>, Error> {
    let Some(attributes) = Attributes::of_root(&stored.captured().facts, ROOT_FACTS)? else { return Ok(None) };
    Ok(match root.finish(&attributes) {
        Err(Error::Io { action, path, source }) => Some(format!("{action} {path:?} itself: {source}")),
        other => other.map(|()| None)?,
    })
}

/// Mode of what is missing above a target: this program's own files are for nobody else, but these are on the way to those of
/// others.
const ABOVE_MODE: u32 = 0o755;

/// Makes the target, for its owner alone until all is there, and what is missing above it. Returns whether it was not there.
fn make_target(target: &Path) -> Result<bool, Error> {
    let above: Vec<&Path> = target.ancestors().skip(1).take_while(|above| !above.as_os_str().is_empty()).collect();
    for above in above.into_iter().rev() {
        let io = |source| Error::Io { action: "making", path: above.to_owned(), source };
        match std::fs::create_dir(above) {
            // whatever the umask
            Ok(()) => std::fs::set_permissions(above, std::fs::Permissions::from_mode(ABOVE_MODE)).map_err(io)?,
            Err(_) if above.is_dir() => {}
            Err(error) => return Err(io(error)),
        }
    }
    let mode = rustix::fs::Mode::RWXU;
    match rustix::fs::mkdir(target, mode) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::EXIST) => Ok(false),
        Err(errno) => Err(Error::io("making", target)(errno)),
    }
}

/// Returns the uppermost directory of a missing path that is missing, too. What is above it must be a directory.
fn first_missing(path: &Path) -> Result<&Path, Error> {
    let mut missing = path;
    for above in path.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match Root::open(above) {
            Ok(_) => break,
            // a link to something that is not there (a disk that is not mounted) is in the way
            Err(error @ Error::Missing { .. }) if above.symlink_metadata().is_ok() => return Err(error),
            Err(Error::Missing { .. }) => missing = above,
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

fn path_of(key: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(key))
}
