//! Where the stack's files are.

use std::path::{Path, PathBuf};

use super::{Error, Found, Origin, StackOptions};

/// Where the stack's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The stack's root, if there is one.
    pub root: Option<Found<PathBuf>>,
    /// The variables' file, if there is one: `docker/.env` below the root, or what `ORKESTRA_ENV_FILE` names.
    pub env_file: Option<Found<PathBuf>>,
    /// `docker/keys` below the root, whether it exists or not. Another variables' file does not move it.
    pub keys_dir: Option<PathBuf>,
    /// `backups` below the root: what captures of files leave out.
    pub backups_dir: Option<PathBuf>,
}

const COMPOSE_FILE: &str = "docker/docker-compose.infra.yml";
const ENV_FILE: &str = "docker/.env";
const ENV_FILE_VARIABLE: &str = "ORKESTRA_ENV_FILE";
/// Directories that are looked at on the way up.
const LEVELS_MOST: usize = 64;

/// Returns where the stack's files are: below `--stack-dir`, else below the nearest directory at or above the
/// working directory that holds a stack. None is no error here: who needs a file says so.
pub fn locate(options: &StackOptions) -> Result<Location, Error> {
    let root = match &options.stack_dir {
        // Not one that is missing: that is a name that was mistyped.
        Some(dir) if is_stack(&dir.value) || (options.may_be_new && dir.value.is_dir()) => Some(dir.clone()),
        Some(dir) => return Err(Error::NotAStack { dir: dir.value.clone() }),
        None => options
            .working_dir
            .ancestors()
            .take(LEVELS_MOST)
            .find(|dir| is_stack(dir))
            .map(|dir| Found { value: dir.to_owned(), origin: Origin::WorkingDirectory }),
    };
    let below = |path: &str| root.as_ref().map(|root| root.value.join(path));
    let named = options.env.get(ENV_FILE_VARIABLE).filter(|path| !path.is_empty());
    let env_file = match named {
        // Relative to where the operator stands, as a shell would have it.
        Some(path) => Some(Found {
            value: options.working_dir.join(path),
            origin: Origin::Environment(ENV_FILE_VARIABLE.to_owned()),
        }),
        None => below(ENV_FILE)
            .filter(|path| path.exists())
            .zip(root.as_ref())
            .map(|(value, root)| Found { value, origin: root.origin.clone() }),
    };
    let (keys_dir, backups_dir) = (below("docker/keys"), below("backups"));
    Ok(Location { root, env_file, keys_dir, backups_dir })
}

fn is_stack(dir: &Path) -> bool {
    dir.join(COMPOSE_FILE).is_file() || dir.join(ENV_FILE).is_file()
}
