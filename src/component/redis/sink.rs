//! Puts an RDB file where the server loads it at its next start, and restarts it.
//!
//! The file is uploaded, verified and checked under a name that the running server does not know; only
//! then is the server stopped, and what makes it load the file is small: with AOF on, a new manifest
//! (section 3.3 of the research: a server with AOF on ignores dump.rdb); with AOF off, a rename. So a
//! restore that fails before that changes nothing, and the container is started again in every case.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::compatibility::{Version, check_modules, check_version};
use super::local::NEW_FILE_MODE;
use super::rdb::{Checker, Verdict};
use super::restart::{Saving, Stopped, compare, ready};
use super::server::Server;
use super::source::{Settings, is_mounted, join};
use super::{Access, Error, Place, STREAM, aof, local, no_such_file, save};
use crate::component::docker::{BoxError, Docker, ExecCommand, FileContent, FileStat, NewFile, Upload};
use crate::component::{
    ByteStream, Captured, Error as ComponentError, RestorePlan, Restored, Sink, Stored, StoredStream,
};

/// How long a BGSAVE of others is waited for before the file is exchanged.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);
/// `$1`: the file to replace, `$2`: the new one. What was there stays reachable under a second name.
const EXCHANGE: &str =
    r#"rm -f "$1.orkvault-before" && { [ ! -e "$1" ] || ln "$1" "$1.orkvault-before"; } && mv -f "$2" "$1""#;
/// Undoes [`EXCHANGE`], only where that succeeded: its last step is the one that changes the file.
const UNDO: &str = r#"if [ -e "$1.orkvault-before" ]; then mv -f "$1.orkvault-before" "$1"; else rm -f "$1"; fi"#;
const FORGET: &str = r#"rm -f "$1.orkvault-before""#;

/// How a restore is done.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// Where the journal of stopped containers is kept.
    pub state_dir: PathBuf,
    /// For a server that is no container: the data directory on this machine. While something listens at the
    /// server's address, a restore is refused.
    pub data_dir: Option<PathBuf>,
    /// How long the server may take to load the data.
    pub ready_limit: Duration,
    /// The time now, seconds since 1970: the modification time of what is uploaded.
    pub now_secs: u64,
}

/// A Redis or Valkey server that is restored into.
pub struct RedisSink {
    access: Access,
    found_by: String,
    options: SinkOptions,
}

/// A target that fits the snapshot.
struct Target {
    docker: Docker,
    container: String,
    server: Server,
    settings: Settings,
    /// The manifest of the append-only directory and what it is as a file.
    manifest: Option<(String, FileStat)>,
    warnings: Vec<String>,
}

/// Who owns the directory in which files are exchanged.
struct Owner {
    uid: u64,
    gid: u64,
}

impl RedisSink {
    /// Returns the sink. `found_by` says how the server was found, for [`Sink::describe`].
    pub fn new(access: Access, found_by: String, options: SinkOptions) -> Self {
        Self { access, found_by, options }
    }

    /// Checks everything that a restore needs of the container. Changes nothing.
    async fn target(&self, docker: &Docker, container: &str, captured: &Captured) -> Result<Target, Error> {
        let found = docker.inspect(container).await?;
        let mut server = Server::open(&self.access).await?;
        let version = Version::of(&server.info("server").await?)?;
        let fact = |name: &str| captured.facts.get(name).map(String::as_str);
        let rdb_version = fact("rdb_version")
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::FieldMissing { place: "the snapshot".to_owned(), field: "rdb_version".to_owned() })?;
        check_version(rdb_version, fact("server"), &version)?;
        let loaded = server.info("modules").await?.modules;
        check_modules(fact("modules").unwrap_or_default(), &loaded)?;
        let settings = Settings::read(&mut server).await?;
        let manifest = match (settings.aof, settings.append_dir.is_empty()) {
            (true, true) => return Err(Error::OldAof { server: version.shown() }),
            (true, false) => Some(read_manifest(docker, container, &settings).await?),
            (false, _) => None,
        };
        if let Some((text, _)) = &manifest {
            aof::names(text, &settings.append_prefix)?;
        }
        docker.stat(container, &settings.dir).await?;
        let mut warnings = Vec::new();
        if !is_mounted(&found, &settings.dir) {
            warnings.push(format!("{} of container {container} is on no volume", settings.dir));
        }
        Ok(Target { docker: docker.clone(), container: container.to_owned(), server, settings, manifest, warnings })
    }

    async fn restore_container(
        &self,
        mut target: Target,
        body: ByteStream,
        len: u64,
    ) -> Result<Restored, ComponentError> {
        let verdict = match target.manifest.take() {
            Some(manifest) => self.through_manifest(&target, manifest, body, len).await?,
            None => self.through_exchange(&mut target, body, len).await?,
        };
        let (docker, container) = (&target.docker, target.container.as_str());
        let server = ready(docker, container, &self.access, self.options.ready_limit).await?;
        let mut server = server.ok_or_else(|| self.not_ready(false))?;
        same_settings(&target.settings, &Settings::read(&mut server).await?)?;
        let (notes, mut warnings) = compare(&mut server, &verdict).await?;
        warnings.extend(target.warnings);
        Ok(Restored { bytes: len, notes, warnings })
    }

    /// AOF on: the file becomes the base of a new manifest; the server deletes what the old one listed.
    async fn through_manifest(
        &self,
        target: &Target,
        (text, like): (String, FileStat),
        body: ByteStream,
        len: u64,
    ) -> Result<Verdict, ComponentError> {
        let Target { docker, container, settings, .. } = target;
        let dir = join(&settings.dir, &settings.append_dir);
        let names = aof::names(&text, &settings.append_prefix)?;
        let verdict = self.upload(docker, container, &dir, &names.base, &like, body, len).await?;
        let empty = new_file(&names.increment, &like, FileContent::Bytes(Bytes::new()));
        docker.write_files(container, &dir, self.files(vec![empty])).await?;
        let stopped = Stopped::stop(docker, container, &self.options.state_dir).await?;
        let written = self.write_manifest(target, &dir, &names).await;
        // started whatever happened: with the old manifest that is the old data
        stopped.start().await?;
        let (old, like) = written?;
        if ready(docker, container, &self.access, self.options.ready_limit).await?.is_some() {
            return Ok(verdict);
        }
        let stopped = Stopped::stop(docker, container, &self.options.state_dir).await?;
        let name = manifest_name(settings);
        let back = new_file(&name, &like, FileContent::Bytes(Bytes::from(old)));
        let put_back = docker.write_files(container, &dir, self.files(vec![back])).await;
        stopped.start().await?;
        let up = ready(docker, container, &self.access, self.options.ready_limit).await?.is_some();
        Err(self.not_ready(put_back.is_ok() && up).into())
    }

    /// Writes the new manifest over the one that the stopped server left; returns that one. A write that
    /// failed is made good by writing the old one again.
    async fn write_manifest(
        &self,
        target: &Target,
        dir: &str,
        names: &aof::Names,
    ) -> Result<(String, FileStat), Error> {
        let Target { docker, container, settings, .. } = target;
        let (old, like) = read_manifest(docker, container, settings).await?;
        let new = aof::replacement(&old, names)?;
        let name = manifest_name(settings);
        let manifest = |text: String| self.files(vec![new_file(&name, &like, FileContent::Bytes(Bytes::from(text)))]);
        if let Err(error) = docker.write_files(container, dir, manifest(new)).await {
            docker.write_files(container, dir, manifest(old)).await?;
            return Err(error.into());
        }
        Ok((old, like))
    }

    /// AOF off: the file takes the place of `dump.rdb` by a rename, which the server must not undo by
    /// saving when it is stopped.
    async fn through_exchange(
        &self,
        target: &mut Target,
        body: ByteStream,
        len: u64,
    ) -> Result<Verdict, ComponentError> {
        let dir = target.settings.dir.clone();
        let path = target.settings.rdb_path();
        let mut like = target.docker.stat(&target.container, &dir).await.map_err(Error::Docker)?;
        let owner = Owner { uid: like.uid, gid: like.gid };
        like.mode = NEW_FILE_MODE;
        match target.docker.stat(&target.container, &path).await {
            Ok(present) => like = present,
            Err(error) if no_such_file(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let name = format!("{}.orkvault-new", target.settings.dbfilename);
        let verdict = self.upload(&target.docker, &target.container, &dir, &name, &like, body, len).await?;
        let save = target.server.config("save").await?.get("save").unwrap_or_default().to_owned();
        // one that saves nothing has nothing that could be taken from it
        let saving = (!save.is_empty()).then(|| Saving { access: self.access.duplicate(), value: save });
        let (docker, container, state_dir) = (&target.docker, &target.container, &self.options.state_dir);
        let mut stopped = Stopped::announce(docker, container, state_dir, saving).await?;
        if let Err(error) = self.exchange(target, &owner, &path, &name).await {
            stopped.take_back().await?;
            return Err(error.into());
        }
        if let Err(error) = stopped.stop_now().await {
            let undone = shell(target, &owner, "putting the old RDB file back", UNDO, &[&path]).await;
            stopped.take_back().await?;
            undone?;
            return Err(error.into());
        }
        stopped.start().await?;
        if ready(&target.docker, &target.container, &self.access, self.options.ready_limit).await?.is_none() {
            return Err(self.exchange_back(target, &dir, &like).await?.into());
        }
        shell(target, &owner, "removing the old file", FORGET, &[&path]).await?;
        Ok(verdict)
    }

    /// Puts the old `dump.rdb` back under a server that does not come up: it cannot run a `mv`, so the file
    /// goes through a nameless file of this machine (nothing else can be asked of a container being read).
    async fn exchange_back(&self, target: &Target, dir: &str, like: &FileStat) -> Result<Error, Error> {
        let Target { docker, container, settings, .. } = target;
        let stopped = Stopped::stop(docker, container, &self.options.state_dir).await?;
        let kept = format!("{}.orkvault-before", settings.rdb_path());
        let put_back = match local::spool(docker, container, &kept, &self.options.state_dir).await {
            Ok((len, body)) => {
                let file = new_file(&settings.dbfilename, like, FileContent::Stream { len, body });
                docker.write_files(container, dir, self.files(vec![file])).await.is_ok()
            }
            Err(_) => false,
        };
        stopped.start().await?;
        let up = ready(docker, container, &self.access, self.options.ready_limit).await?.is_some();
        Ok(self.not_ready(put_back && up))
    }

    async fn exchange(&self, target: &mut Target, by: &Owner, path: &str, name: &str) -> Result<(), Error> {
        // from here on the server writes dump.rdb no more, at its stop neither
        target.server.text(&["CONFIG", "SET", "save", ""]).await?;
        let deadline = tokio::time::Instant::now() + SETTLE_LIMIT;
        if save::settled(&mut target.server, deadline).await?.is_none() {
            let place = target.server.place().to_owned();
            return Err(Error::SaveTimeout { place, secs: SETTLE_LIMIT.as_secs() });
        }
        let new = join(&target.settings.dir, name);
        shell(target, by, "exchanging the RDB file", EXCHANGE, &[path, &new]).await
    }

    /// Uploads the file under a name of its own, checking it on the way: what is not a whole RDB file
    /// aborts the upload.
    #[expect(clippy::too_many_arguments, reason = "a file, its place, its likeness and its content")]
    async fn upload(
        &self,
        docker: &Docker,
        container: &str,
        dir: &str,
        name: &str,
        like: &FileStat,
        body: ByteStream,
        len: u64,
    ) -> Result<Verdict, ComponentError> {
        let verdict = Arc::new(Mutex::new(None));
        let checked = Checked { body, checker: Some(Checker::new()), verdict: Arc::clone(&verdict) };
        let content = FileContent::Stream { len, body: checked.into_stream() };
        let file = new_file(name, like, content);
        docker.write_files(container, dir, self.files(vec![file])).await?;
        let verdict = verdict.lock().expect("no holder panics").take();
        verdict.ok_or_else(|| Error::Rdb(super::rdb::Error::Truncated { len }).into())
    }

    fn files(&self, files: Vec<NewFile>) -> Upload {
        Upload { directories: Vec::new(), files, mtime_secs: self.options.now_secs }
    }

    fn not_ready(&self, rolled_back: bool) -> Error {
        Error::NotReady { place: self.access.shown(), secs: self.options.ready_limit.as_secs(), rolled_back }
    }

    fn local<'a>(&'a self, address: &'a str, captured: &Captured) -> Result<local::DataDir<'a>, Error> {
        let dir = self.options.data_dir.as_deref();
        let dir = dir.ok_or_else(|| Error::NoWayIn { address: address.to_owned() })?;
        local::DataDir::new(dir, address, captured, self.options.now_secs)
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn component(&self) -> &'static str {
        "redis"
    }

    fn describe(&self) -> String {
        format!("redis: {} ({})", self.access.shown(), self.found_by)
    }

    async fn plan(&mut self, stored: &mut dyn Stored) -> Result<RestorePlan, ComponentError> {
        let dump = dump(stored)?;
        let mut plan = RestorePlan::default();
        match &self.access.place {
            Place::Address(address) => {
                let data_dir = self.local(address, stored.captured())?;
                match data_dir.plan().await? {
                    Some(path) => plan.replaces.push(format!("{path:?}")),
                    None => plan.creates.push(format!("{:?}, {} bytes", data_dir.path(), dump.len)),
                }
                plan.warnings.push(data_dir.caution());
            }
            Place::Container { docker, name, .. } => {
                let mut target = self.target(docker, name, stored.captured()).await?;
                let keyspace = target.server.info("keyspace").await?.keyspace();
                let keys: u64 = keyspace.values().sum();
                plan.replaces.push(format!(
                    "all {keys} keys in {} databases of redis in container {name}, which is stopped and started",
                    keyspace.len()
                ));
                plan.warnings.extend(target.warnings);
            }
        }
        Ok(plan)
    }

    async fn restore(&mut self, stored: &mut dyn Stored) -> Result<Restored, ComponentError> {
        let dump = dump(stored)?;
        match &self.access.place {
            Place::Address(address) => {
                let data_dir = self.local(address, stored.captured())?;
                data_dir.plan().await?;
                let body = stored.open(STREAM).await?;
                let verdict = data_dir.write(body).await?;
                let keys: u64 = verdict.databases.values().map(|keys| keys.total).sum();
                let note = format!("{:?}: {keys} keys, loaded at the server's next start", data_dir.path());
                Ok(Restored { bytes: verdict.len, notes: vec![note], warnings: vec![data_dir.caution()] })
            }
            Place::Container { docker, name, .. } => {
                let target = self.target(docker, name, stored.captured()).await?;
                let body = stored.open(STREAM).await?;
                self.restore_container(target, body, dump.len).await
            }
        }
    }
}

fn dump(stored: &dyn Stored) -> Result<StoredStream, ComponentError> {
    let found = stored.streams().into_iter().find(|stream| stream.name == STREAM);
    found.ok_or_else(|| ComponentError::NoSuchStream { stream: STREAM.to_owned() })
}

/// Settings that decide what is loaded at a start may have been changed in the running server only.
fn same_settings(before: &Settings, now: &Settings) -> Result<(), Error> {
    let pairs = [
        ("appendonly", before.aof.to_string(), now.aof.to_string()),
        ("dir", before.dir.clone(), now.dir.clone()),
        ("dbfilename", before.dbfilename.clone(), now.dbfilename.clone()),
        ("appenddirname", before.append_dir.clone(), now.append_dir.clone()),
        ("appendfilename", before.append_prefix.clone(), now.append_prefix.clone()),
    ];
    match pairs.into_iter().find(|(_, before, now)| before != now) {
        None => Ok(()),
        Some((name, expected, got)) => Err(Error::SettingsChanged { name, expected, got }),
    }
}

fn manifest_name(settings: &Settings) -> String {
    format!("{}.manifest", settings.append_prefix)
}

async fn read_manifest(docker: &Docker, container: &str, settings: &Settings) -> Result<(String, FileStat), Error> {
    let path = join(&join(&settings.dir, &settings.append_dir), &manifest_name(settings));
    let stat = docker.stat(container, &path).await?;
    let bytes = docker.read_file(container, &path, aof::MANIFEST_LEN_MAX).await?;
    let text = String::from_utf8(bytes.to_vec()).map_err(|_| Error::AofManifest { line: 1 })?;
    Ok((text, stat))
}

fn new_file(name: &str, like: &FileStat, content: FileContent) -> NewFile {
    NewFile { name: name.to_owned(), uid: like.uid, gid: like.gid, mode: like.mode, content }
}

/// Runs a shell line as the owner of the data directory: without capabilities root may not write there.
async fn shell(target: &Target, by: &Owner, action: &'static str, line: &str, words: &[&str]) -> Result<(), Error> {
    let mut command = ExecCommand::new(["sh", "-c", line, "sh"].iter().chain(words).copied());
    command.user = Some(format!("{}:{}", by.uid, by.gid));
    let finished = target.docker.run(&target.container, command).await?;
    if finished.exit_code == 0 {
        return Ok(());
    }
    Err(Error::Preparation {
        action,
        container: target.container.clone(),
        exit_code: finished.exit_code,
        stderr_tail: String::from_utf8_lossy(&finished.stderr).trim().to_owned(),
    })
}

/// A stored file on its way into a container.
struct Checked {
    body: ByteStream,
    checker: Option<Checker>,
    verdict: Arc<Mutex<Option<Verdict>>>,
}

impl Checked {
    fn into_stream(self) -> stream::BoxStream<'static, Result<Bytes, BoxError>> {
        Box::pin(stream::try_unfold(self, |mut checked| async move {
            Ok(checked.next().await?.map(|bytes| (bytes, checked)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, ComponentError> {
        let Some(run) = self.body.next().await else {
            if let Some(checker) = self.checker.take() {
                *self.verdict.lock().expect("no holder panics") = Some(checker.finish().map_err(Error::Rdb)?);
            }
            return Ok(None);
        };
        let bytes = run?.bytes;
        if let Some(checker) = &mut self.checker {
            checker.push(&bytes).map_err(Error::Rdb)?;
        }
        Ok(Some(bytes))
    }
}
