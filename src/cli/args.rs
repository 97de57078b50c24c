//! The command line as types. Nothing here looks at anything but the arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{bounds, exit};

/// Encrypted, content-addressed backups of an Orkestra stack.
#[derive(Debug, Parser)]
#[command(name = "orkvault", version, about, after_help = exit::table(), max_term_width = 110)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command. None of them takes a secret.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The repository: a directory, or s3://BUCKET/PREFIX [env: ORKVAULT_REPOSITORY]
    #[arg(short, long, global = true, value_name = "LOCATION")]
    pub(crate) repository: Option<PathBuf>,
    /// Where the secrets are, where they have a store of their own [env: ORKVAULT_SECRETS_REPOSITORY]
    #[arg(long, global = true, value_name = "LOCATION")]
    pub(crate) secrets_repository: Option<PathBuf>,
    /// The file of the writer key; - is standard input [env: ORKVAULT_WRITER_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) writer_key: Option<PathBuf>,
    /// The file of the data passphrase; - is standard input [env: ORKVAULT_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The file of the secrets passphrase; - is standard input [env: ORKVAULT_SECRETS_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) secrets_passphrase_file: Option<PathBuf>,
    /// The configuration; else orkvault.toml in --stack-dir, here, or in the stack found from here [env: ORKVAULT_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the index is kept between runs [env: ORKVAULT_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Where stopped containers are remembered [env: ORKVAULT_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// What may go to a repository in a bucket
    #[arg(long, global = true, value_name = "MIB_PER_SEC", value_parser = mib_per_sec)]
    pub(crate) limit_upload: Option<f64>,
    /// What may come from a repository in a bucket
    #[arg(long, global = true, value_name = "MIB_PER_SEC", value_parser = mib_per_sec)]
    pub(crate) limit_download: Option<f64>,
    /// Lock what is put into a bucket with object lock, and all that a snapshot needs, for so long
    #[arg(long, global = true, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(bounds::LOCK_DAYS))]
    pub(crate) lock_days: Option<u32>,
    /// Read a bucket that keeps old states as it was then: 2026-11-20T04:00:00Z
    #[arg(long, global = true, value_name = "TIME", value_parser = moment)]
    pub(crate) as_of: Option<jiff::Timestamp>,
    /// Write one JSON document to standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Show everything, not only the first lines
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Which stack is meant.
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

/// Reads a rate.
fn mib_per_sec(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if bounds::is_rate(rate) => Ok(rate),
        _ => Err(format!("it is {}", bounds::RATE_FORM)),
    }
}

/// Reads a moment.
fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().map_err(|_| "it is a time with its zone, like 2026-11-20T04:00:00Z".to_owned())
}

/// Which stack is meant, where it is not found as it is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stack")]
pub(crate) struct StackArgs {
    /// The stack's directory, which holds docker/.env [env: ORKVAULT_STACK_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) stack_dir: Option<PathBuf>,
    /// The Docker daemon's address
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub(crate) docker_host: Option<String>,
    /// The id or name that the Docker daemon must have
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) docker_daemon: Option<String>,
    /// APP_NAME of the stack
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) app_name: Option<String>,
    /// ENV of the stack
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// The container of MongoDB
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) mongodb_container: Option<String>,
    /// The container of Redis
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) redis_container: Option<String>,
    /// The container of the object store
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) rustfs_container: Option<String>,
    /// A file that holds MongoDB's URI: MongoDB without Docker
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) mongodb_uri_file: Option<PathBuf>,
    /// Redis without Docker
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub(crate) redis_address: Option<String>,
    /// The object store without Docker
    #[arg(long, global = true, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The MongoDB database to dump, or to restore into
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) database: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a repository, its two passphrases and the key of the nightly host
    Init(InitArgs),
    /// Capture the stack's components into one snapshot
    Snapshot(SnapshotArgs),
    /// List the snapshots
    Snapshots(SnapshotsArgs),
    /// Show one snapshot
    Show(ShowArgs),
    /// List what is inside a snapshot
    Ls(LsArgs),
    /// Write one stream or file of a snapshot to standard output
    Dump(DumpArgs),
    /// Put components of a snapshot back; asks before it replaces anything
    Restore(RestoreArgs),
    /// Prove that the repository is whole
    Check(CheckArgs),
    /// Copy snapshots of another repository into this one
    Copy(CopyArgs),
    /// Look at everything that a night needs, and at what the store of the repository can do
    Doctor(DoctorArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write the manual pages into a directory
    Man(ManArgs),
}

/// Options of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Derive keys from the passphrases with 64 MiB instead of 256 MiB and 1 GiB of memory
    #[arg(long)]
    pub(crate) kdf_low_memory: bool,
    /// How streams of a kind are cut, in KiB: KIND is dump, rdb, object or table; for ever
    #[arg(long, value_name = "KIND=MIN/AVERAGE/MAX", value_delimiter = ',')]
    pub(crate) chunk_sizes: Vec<String>,
}

/// The word that means every component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum All {
    /// Every component.
    All,
}

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Every component: mongodb, redis, rustfs, secrets and the configured directories (the default)
    #[arg(conflicts_with = "components")]
    pub(crate) all: Option<All>,
    /// Only these components
    #[arg(short, long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Take a component from a dump that was made elsewhere: mongodb=FILE, or mongodb=- for standard input
    #[arg(long, value_name = "COMPONENT=FILE")]
    pub(crate) from: Vec<String>,
    /// A label for the snapshot; may be repeated
    #[arg(short, long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// A database without any collection is good
    #[arg(long)]
    pub(crate) allow_empty_database: bool,
    /// The zstd level
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(bounds::COMPRESSION_LEVEL))]
    pub(crate) compression_level: Option<i32>,
    /// What may be remembered of streams on this host, in MiB, to find what changed in them; 0 for nothing
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(bounds::PIECE_CACHE_MIB))]
    pub(crate) piece_cache_mib: Option<u32>,
    /// Read tags and headers of every object again (a night does not see that only tags changed), and every file
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Write the new snapshot's id into a file
    #[arg(long, value_name = "FILE")]
    pub(crate) id_file: Option<PathBuf>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Options of `snapshots`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotsArgs {
    /// Only those with this label
    #[arg(short, long, value_name = "TAG")]
    pub(crate) tag: Option<String>,
}

/// Options of `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// `latest`, or the first digits of a snapshot's id
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) id: String,
    /// Say how the streams lie in the repository, and what a restore of them reads
    #[arg(long)]
    pub(crate) layout: bool,
}

/// Options of `ls`.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// `latest`, or the first digits of a snapshot's id
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) id: String,
    /// Only this component, with every object or file
    pub(crate) component: Option<String>,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// `latest`, or the first digits of a snapshot's id
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) id: String,
    /// `mongodb/mongo.archive`, `redis/dump.rdb`, `rustfs/<bucket>/<key>`, `secrets/.env`
    #[arg(value_name = "COMPONENT/STREAM")]
    pub(crate) stream: String,
    /// Write to a new file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// `latest` (the newest complete one), or the first digits of a snapshot's id
    #[arg(long, value_name = "SNAPSHOT", default_value = "latest")]
    pub(crate) snapshot: String,
    /// Only these components
    #[arg(short, long, value_name = "A,B", value_delimiter = ',')]
    pub(crate) components: Vec<String>,
    /// Check everything, read and verify every byte, change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Write files below a new directory instead of into the stack
    #[arg(long, value_name = "DIR", conflicts_with_all = ["into_env", "exact", "merge"])]
    pub(crate) target_dir: Option<PathBuf>,
    /// Do not read every byte before the first change
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) no_verify_first: bool,
    /// Restore a snapshot of another environment: names the stack's own
    #[arg(long, value_name = "NAME")]
    pub(crate) into_env: Option<String>,
    /// Delete objects in restored buckets that the snapshot does not have
    #[arg(long, conflicts_with = "merge")]
    pub(crate) exact: bool,
    /// Keep what the snapshot does not have (the default)
    #[arg(long)]
    pub(crate) merge: bool,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Read and compare every byte, and put every stream of every snapshot together
    #[arg(long)]
    pub(crate) read_data: bool,
}

/// Options of `copy`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["all", "snapshot"]))]
pub(crate) struct CopyArgs {
    /// The repository that is copied from: a directory, or s3://BUCKET/PREFIX; else from_repository in orkvault.toml
    #[arg(long, value_name = "LOCATION")]
    pub(crate) from: Option<PathBuf>,
    /// Where its secrets are, where they have a store of their own; else from_secrets_repository in orkvault.toml
    #[arg(long, value_name = "LOCATION")]
    pub(crate) from_secrets_repository: Option<PathBuf>,
    /// The file of its data passphrase; - is standard input [env: ORKVAULT_FROM_PASSPHRASE_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) from_passphrase_file: Option<PathBuf>,
    /// The file of its secrets passphrase; - is standard input [env: ORKVAULT_FROM_SECRETS_PASSPHRASE_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) from_secrets_passphrase_file: Option<PathBuf>,
    /// Every snapshot that is not here yet
    #[arg(long)]
    pub(crate) all: bool,
    /// Only this one: `latest`, or the first digits of its id; may be repeated
    #[arg(short, long, value_name = "SNAPSHOT")]
    pub(crate) snapshot: Vec<String>,
    /// Leave the secrets out
    #[arg(long, conflicts_with = "from_secrets_passphrase_file")]
    pub(crate) no_secrets: bool,
    /// Only show what would be copied
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// The zstd level
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(bounds::COMPRESSION_LEVEL))]
    pub(crate) compression_level: Option<i32>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Put nothing into the repository's bucket to see what its store can do
    #[arg(long)]
    pub(crate) no_probe: bool,
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where the pages go
    pub(crate) dir: PathBuf,
}

/// Reads the command line.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

/// Returns whether `--json` is among the arguments, for errors in the arguments themselves.
#[must_use]
pub(crate) fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_option_takes_a_secret() {
        let mut command = Cli::command();
        command.build();
        let all = std::iter::once(command.clone()).chain(command.get_subcommands().cloned());
        for argument in all.flat_map(|command| command.get_arguments().cloned().collect::<Vec<_>>()) {
            let name = argument.get_id().as_str();
            let is_secret = ["passphrase", "password", "key", "uri", "token"].iter().any(|word| name.contains(word));
            let takes_file = argument.get_value_names().is_some_and(|names| names.iter().any(|name| name == "FILE"));
            assert!(!is_secret || takes_file, "--{name} could take a secret");
        }
    }
}
