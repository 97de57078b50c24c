//! `doctor`: everything that a night needs, looked at without changing anything but the store of a bucket: a few
//! small objects are put there and taken away again, unless `--no-probe` says not to.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::doctor_store;
use crate::cli::access::{self, Need};
use crate::cli::args::DoctorArgs;
use crate::cli::components::{self, CaptureOptions};
use crate::cli::error::Error;
use crate::cli::exit::Exit;
use crate::cli::hints::judge;
use crate::cli::keys::{self, Input};
use crate::cli::location;
use crate::cli::output::Report;
use crate::cli::progress::size;
use crate::cli::resolve::Settings;
use crate::component;
use crate::component::mongodb::EmptyArchive;
use crate::component::redis::{RedisSource, journal};
use crate::component::stack::Stack;
use crate::crypto::Passphrase;
use crate::format::config::Part;
use crate::ops::select;
use crate::ops::snapshot::reason;
use crate::repo::Access;

/// What was found out about one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found out, in order.
#[derive(Default)]
pub(super) struct Findings(Vec<(Verdict, String, String, Option<&'static str>)>);

impl Findings {
    pub(super) fn ok(&mut self, what: &str, text: impl Into<String>) {
        self.0.push((Verdict::Ok, what.to_owned(), text.into(), None));
    }

    pub(super) fn warn(&mut self, what: &str, text: impl Into<String>) {
        self.0.push((Verdict::Warn, what.to_owned(), text.into(), None));
    }

    pub(super) fn fail(&mut self, what: &str, error: &Error) {
        self.0.push((Verdict::Fail, what.to_owned(), reason(error), judge(error).hint));
    }
}

/// Looks at configuration, keys, repository, its store, the stack and every component.
pub(crate) async fn run(settings: &Settings, args: &DoctorArgs) -> Result<Report, Error> {
    let mut findings = Findings::default();
    match &settings.config_path {
        Some(path) => findings.ok("configuration", path.display().to_string()),
        None => findings.ok("configuration", "no orkvault.toml"),
    }
    key_files(settings, &mut findings).await;
    repository(settings, &mut findings).await;
    let (mut store, mut secrets_store) = (None, None);
    if !args.no_probe {
        store = doctor_store::probe(settings, "store", &settings.repository(), &mut findings).await;
        if let Some(apart) = settings.secrets_repository() {
            secrets_store = doctor_store::probe(settings, "secrets store", &apart, &mut findings).await;
        }
    }
    directories(settings, &mut findings);
    let stack_lines = stack(settings, &mut findings).await;
    let mut report = report(&findings, &stack_lines);
    if let Some(facts) = report.json.as_object_mut() {
        facts.insert("store".to_owned(), store.unwrap_or_default());
        facts.insert("secrets_store".to_owned(), secrets_store.unwrap_or_default());
    }
    Ok(report)
}

async fn key_files(settings: &Settings, findings: &mut Findings) {
    match &settings.writer_key {
        None => findings.warn("writer key", "not given: this host can make no snapshot"),
        // It can be read once, which opening the repository does.
        Some(Input::Stdin) => findings.ok("writer key", "from standard input: see whether the repository opens"),
        Some(input) => match keys::writer_key(input) {
            Ok(key) => {
                findings.ok("writer key", format!("{}, of repository {}", input.shown(), key.repository.short()))
            }
            Err(error) => findings.fail("writer key", &error),
        },
    }
    let access: [fn(Passphrase) -> Access; 2] = [Access::Data, Access::Secrets];
    let given = [("data passphrase", &settings.passphrase), ("secrets passphrase", &settings.secrets_passphrase)];
    for ((what, input), access) in given.into_iter().zip(access) {
        let Some(Input::File(_)) = input else { continue };
        let Some(input) = input else { continue };
        match keys::passphrase(input) {
            Ok(passphrase) => {
                let text =
                    format!("lies on this host in {}: whoever takes over the host can read backups", input.shown());
                findings.warn(what, text);
                match access::opens(settings, access(passphrase)).await {
                    Ok(()) => findings.ok(what, "opens its key slot"),
                    Err(error) => findings.fail(what, &error),
                }
            }
            Err(error) => findings.fail(what, &error),
        }
    }
}

async fn repository(settings: &Settings, findings: &mut Findings) {
    let secrets = settings.secrets_repository();
    for (what, store) in [("lock", Some(settings.repository())), ("lock of the secrets", secrets)] {
        // Which store is missing is told below.
        let Some(store) = store.filter(|store| store.location.is_some()) else { continue };
        if let Err(error) = location::can_lock(settings, &store) {
            findings.fail(what, &error);
        }
    }
    let opened = match access::open(settings, Need::List).await {
        Ok(opened) => opened,
        Err(error) => return findings.fail("repository", &error),
    };
    findings.ok("repository", opened.repository.backend().location());
    let pieces = opened.repository.piece_use();
    findings.ok("piece cache", format!("{} streams remembered, {}", pieces.streams, size(pieces.bytes)));
    if opened.repository.part() == Part::Data {
        match opened.repository.secrets_backend() {
            Ok(apart) => findings.ok("secrets repository", apart.location()),
            Err(error) => findings.fail("secrets repository", &error.into()),
        }
    }
    match select::load_all(&opened.repository).await {
        Err(error) => findings.fail("snapshots", &error.into()),
        Ok(snapshots) => match snapshots.iter().rev().find(|snapshot| select::is_complete(snapshot)) {
            Some(latest) => findings.ok(
                "snapshots",
                format!("{}, the latest complete one of {}", snapshots.len(), latest.manifest.created_at),
            ),
            None => findings.warn("snapshots", format!("{}, none of them complete", snapshots.len())),
        },
    }
}

fn directories(settings: &Settings, findings: &mut Findings) {
    match settings.cache_dir() {
        Some(dir) => findings.ok("index cache", dir.display().to_string()),
        None => findings.warn("index cache", "there is no place for it: every run reads the whole index"),
    }
    match journal::pending(&settings.state_dir()) {
        Ok(pending) if pending.is_empty() => findings.ok("stopped containers", "none left behind by a restore"),
        Ok(pending) => {
            let text = format!("{}: the next snapshot or restore starts them", pending.len());
            findings.warn("stopped containers", text);
        }
        Err(error) => findings.fail("stopped containers", &component::Error::from(error).into()),
    }
}

/// Each service is looked for on its own, so that one that is missing hides none of the others.
async fn stack(settings: &Settings, findings: &mut Findings) -> Vec<String> {
    let all: BTreeSet<String> = components::all(settings).into_iter().collect();
    if let Ok(stack) = components::resolve(settings, &all).await {
        for name in &all {
            component(settings, &stack, name, findings).await;
        }
        for warning in &stack.warnings {
            findings.warn("stack", warning.clone());
        }
        return stack.lines();
    }
    let mut lines = Vec::new();
    for name in &all {
        match components::resolve(settings, &BTreeSet::from([name.clone()])).await {
            Ok(stack) => {
                component(settings, &stack, name, findings).await;
                lines.extend(stack.lines());
            }
            Err(error) => findings.fail(name, &error),
        }
    }
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

async fn component(settings: &Settings, stack: &Stack, name: &str, findings: &mut Findings) {
    let options = CaptureOptions { empty: EmptyArchive::Refused, refresh: false, now: jiff::Timestamp::now() };
    let mut source = match components::source(settings, stack, name, options) {
        Ok(source) => source,
        Err(error) => return findings.fail(name, &error),
    };
    match source.probe().await {
        Ok(()) => findings.ok(name, source.describe()),
        Err(error) => {
            findings.fail(name, &error.into());
            if name == "rustfs" {
                keys_of_the_running_server(stack, findings);
            }
        }
    }
    if name == "redis" {
        redis_directory(settings, stack, findings).await;
    }
}

/// A server may run with other keys than `docker/.env` has now.
fn keys_of_the_running_server(stack: &Stack, findings: &mut Findings) {
    let Some(rustfs) = &stack.rustfs else { return };
    let Some((access, secret)) = rustfs.running_keys() else { return };
    let is_other =
        access.expose() != rustfs.access_key.value.expose() || secret.expose() != rustfs.secret_key.value.expose();
    if is_other {
        findings.warn("rustfs", "the running container was started with other keys than those that were found");
    }
}

async fn redis_directory(settings: &Settings, stack: &Stack, findings: &mut Findings) {
    let (access, found_by) = components::redis_access(settings, stack);
    // Where it fails, the probe has said so.
    if let Ok(warnings) = RedisSource::new(access, found_by).setup_warnings().await {
        warnings.into_iter().for_each(|warning| findings.warn("redis", warning));
    }
}

fn report(findings: &Findings, stack_lines: &[String]) -> Report {
    let mut lines: Vec<String> = stack_lines.to_vec();
    let mut rows = Vec::new();
    for (verdict, what, text, hint) in &findings.0 {
        lines.push(format!("{:<4}  {what}: {text}", verdict.word()));
        lines.extend(hint.iter().map(|hint| format!("      hint: {hint}")));
        rows.push(json!({ "verdict": verdict.word(), "what": what, "text": text, "hint": hint }));
    }
    let has_failed = findings.0.iter().any(|(verdict, ..)| *verdict == Verdict::Fail);
    let json = json!({ "is_fit": !has_failed, "findings": Value::Array(rows), "stack": stack_lines });
    let exit = if has_failed { Exit::Failed } else { Exit::Done };
    Report { exit, json, lines, wrote_content: false }
}
