//! `restore`: plan, show, ask, verify, do.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::cli::access::{self, Need, Opened};
use crate::cli::args::RestoreArgs;
use crate::cli::chosen::{Chosen, choose};
use crate::cli::components::{self, OF_STACK, SinkChoice};
use crate::cli::error::Error;
use crate::cli::journal::RestoreLock;
use crate::cli::output::{Report, error_line};
use crate::cli::progress::{TerminalProgress, size};
use crate::cli::resolve::{Settings, make_private};
use crate::cli::{journal, keys};
use crate::component::files::{DirectorySink, ExportSink};
use crate::component::s3::Extras;
use crate::component::stack::Stack;
use crate::component::{Restored, Sink};
use crate::crypto;
use crate::format::object::Namespace;
use crate::ops::passed::Named;
use crate::ops::restore::{Restore, RestoreItem, plan, restorable_component};
use crate::ops::select;
use crate::ops::snapshot::SECRETS;
use crate::repo::{self, LoadedSnapshot};

/// Lines of a plan that are shown without `--verbose`.
const LINES_SHOWN: usize = 10;
/// What has to be typed.
const WORD: &str = "restore";

/// Restores. Nothing is changed before everything that is needed was found, checked and confirmed.
pub(crate) async fn run(settings: &Settings, args: &RestoreArgs) -> Result<Report, Error> {
    let started = Instant::now();
    // Before a passphrase is asked for.
    if !args.dry_run && !args.yes && !keys::can_ask() {
        return Err(Error::NobodyToAsk { what: "the restore" });
    }
    if let Some(dir) = &args.target_dir {
        empty(dir)?;
    }
    let opened = access::open(settings, need(settings, args)).await?;
    let named: Vec<&str> = args.components.iter().map(String::as_str).collect();
    let named = if named.contains(&"all") { Vec::new() } else { named };
    let chosen = choose(&opened, &args.snapshot, &named).await?;
    let snapshot = &chosen.snapshot;
    say_missing(&chosen);
    let names = names(args, snapshot)?;
    if names.iter().any(|name| name == SECRETS)
        && !opened.repository.keyring().can_read(Namespace::Secrets)
        && args.components.is_empty()
    {
        return Err(Error::NotGiven {
            what: "the secrets passphrase",
            ways: "give it with --secrets-passphrase-file or ORKVAULT_SECRETS_PASSPHRASE_FILE, or leave secrets out with -c",
        });
    }
    can_read(&opened, &names)?;
    let (mut lock, mut new_dir) = (None, None);
    let (sinks, stack) = match &args.target_dir {
        Some(dir) => {
            if !args.dry_run {
                new_dir = Some(NewDir::make(dir)?);
            }
            (exports(args, snapshot, &names, dir)?, None)
        }
        None => {
            let of_stack: BTreeSet<String> = names.iter().cloned().collect();
            let stack = components::resolve_new(settings, &of_stack).await?;
            same_environment(args, snapshot, &stack)?;
            if !args.dry_run {
                lock = Some(RestoreLock::take(settings)?);
                journal::resume_locked(settings, &stack).await;
            }
            (sinks(settings, args, snapshot, &stack, &names)?, Some(stack))
        }
    };
    let progress = TerminalProgress::new(settings.show);
    let restore = plan(&opened.repository, snapshot, sinks, &progress).await;
    progress.finish();
    let mut restore = restore?;
    if stack.is_some() {
        without_secrets(snapshot, &mut restore);
    }
    show(settings, snapshot, stack.as_ref(), &restore);
    confirm(args)?;
    let done = carry_out(settings, args, restore).await?;
    drop((lock, new_dir));
    Ok(report(args, &chosen, stack.as_ref(), &opened, &done, started))
}

fn need(settings: &Settings, args: &RestoreArgs) -> Need {
    if args.components.is_empty() || args.components.iter().any(|name| name == "all") {
        return Need::Read { data: true, secrets: settings.secrets_passphrase.is_some() || keys::can_ask() };
    }
    let secrets = args.components.iter().any(|name| name == SECRETS);
    Need::Read { data: args.components.iter().any(|name| name != SECRETS), secrets }
}

/// Says what is not in `latest` and was in an older one: whoever names nothing expects everything.
fn say_missing(chosen: &Chosen) {
    let manifest = &chosen.snapshot.manifest;
    for (Named { id, created_at }, names) in chosen.passed.iter().flat_map(|passed| &passed.missing) {
        error_line(&format!(
            "warning: snapshot {} of {} has only {}; the newest complete one with {} is {} of {created_at}",
            chosen.snapshot.id.short(),
            manifest.created_at,
            manifest.components.join(", "),
            names.join(", "),
            id.short()
        ));
    }
}

/// What was named; else everything of a snapshot that is complete.
fn names(args: &RestoreArgs, snapshot: &LoadedSnapshot) -> Result<Vec<String>, Error> {
    let is_named = !args.components.is_empty() && !args.components.iter().any(|name| name == "all");
    if !is_named && !select::is_complete(snapshot) {
        return Err(Error::SnapshotIncomplete { snapshot: snapshot.id.short() });
    }
    let names = if is_named { args.components.clone() } else { snapshot.manifest.components.clone() };
    for name in &names {
        restorable_component(snapshot, name)?;
    }
    let distinct: BTreeSet<String> = names.into_iter().collect();
    Ok(distinct.into_iter().collect())
}

/// Keys that cannot read what is to be restored are told before anything is begun.
fn can_read(opened: &Opened, names: &[String]) -> Result<(), Error> {
    let namespace = |name: &String| if name == SECRETS { Namespace::Secrets } else { Namespace::Data };
    if names.iter().all(|name| opened.repository.keyring().can_read(namespace(name))) {
        return Ok(());
    }
    Err(repo::Error::Crypto(crypto::Error::NotCapable { what: "read content" }).into())
}

fn same_environment(args: &RestoreArgs, snapshot: &LoadedSnapshot, stack: &Stack) -> Result<(), Error> {
    if !stack.knows_environment() {
        // Who names it wants it compared.
        if let Some(named) = &args.into_env {
            return Err(Error::UnknownEnvironment { named: named.clone() });
        }
        error_line("warning: nothing here says which environment this is: it is not compared with the snapshot's");
        return Ok(());
    }
    let (found, here) = (&snapshot.manifest.environment, &stack.environment.value);
    if args.into_env.as_ref().is_some_and(|named| named != here) || (found != here && args.into_env.is_none()) {
        return Err(Error::OtherEnvironment {
            snapshot: snapshot.id.short(),
            found: found.clone(),
            stack: here.clone(),
        });
    }
    Ok(())
}

fn empty(dir: &Path) -> Result<(), Error> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::NotEmpty { path: dir.to_owned() }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            Err(Error::NotEmpty { path: dir.to_owned() })
        }
        Err(source) => Err(Error::File { action: "cannot read", path: dir.to_owned(), source }),
    }
}

/// The target directory, which goes away again where nothing was written into it.
struct NewDir<'a>(&'a Path);

impl<'a> NewDir<'a> {
    fn make(path: &'a Path) -> Result<Self, Error> {
        make_private(path)?;
        Ok(Self(path))
    }
}

impl Drop for NewDir<'_> {
    fn drop(&mut self) {
        // Removes an empty directory only.
        let _ = std::fs::remove_dir(self.0);
    }
}

fn exports(
    args: &RestoreArgs,
    snapshot: &LoadedSnapshot,
    names: &[String],
    dir: &Path,
) -> Result<Vec<Box<dyn Sink>>, Error> {
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    for name in names {
        let record = restorable_component(snapshot, name)?;
        let has_entries = record.is_some_and(|record| record.entries.is_some());
        // A dry run has no directory yet, which a tree is planned into; the other plan says the same.
        let is_tree = !args.dry_run && !OF_STACK.contains(&name.as_str()) && has_entries;
        sinks.push(if is_tree {
            Box::new(DirectorySink::new(name.clone(), dir.join(name)))
        } else {
            Box::new(ExportSink::new(name.clone(), dir.to_owned()))
        });
    }
    Ok(sinks)
}

fn sinks(
    settings: &Settings,
    args: &RestoreArgs,
    snapshot: &LoadedSnapshot,
    stack: &Stack,
    names: &[String],
) -> Result<Vec<Box<dyn Sink>>, Error> {
    let extras = if args.exact { Extras::Delete } else { Extras::Keep };
    let choice = SinkChoice { extras, now: jiff::Timestamp::now() };
    let sink = |name: &String| {
        let facts = restorable_component(snapshot, name)?.map(|record| record.facts.clone()).unwrap_or_default();
        components::sink(settings, stack, name, &facts, choice)
    };
    names.iter().map(sink).collect()
}

/// Warns where data comes back without the keys that it may be encrypted with. Their values cannot be compared
/// without the secrets passphrase, which this restore does not need.
fn without_secrets(snapshot: &LoadedSnapshot, restore: &mut Restore) {
    const KEYS: &str = "OAUTH_TOKEN_ENCRYPTION_KEY, ORKESTRA_KMS_MASTER_KEY, COOKIE_SECRET";
    if restore.items.iter().any(|item| item.component == SECRETS) {
        return;
    }
    let advice = match snapshot.manifest.orkvault.secrets {
        Some(_) => "-c with secrets restores those that belong to it",
        None => "the snapshot has none",
    };
    let of_stack = |item: &&mut RestoreItem| OF_STACK.contains(&item.component.as_str());
    if let Some(item) = restore.items.iter_mut().find(of_stack) {
        let warning = format!("secrets are not restored: whether {KEYS} fit this data is not compared here ({advice})");
        item.plan.warnings.push(warning);
    }
}

fn show(settings: &Settings, snapshot: &LoadedSnapshot, stack: Option<&Stack>, restore: &Restore) {
    let manifest = &snapshot.manifest;
    error_line(&format!(
        "snapshot {} of {}, environment {}, host {}",
        snapshot.id.short(),
        manifest.created_at,
        manifest.environment,
        manifest.host
    ));
    for line in stack.iter().flat_map(|stack| stack.lines()) {
        error_line(&line);
    }
    for warning in stack.iter().flat_map(|stack| &stack.warnings) {
        error_line(&format!("warning: {warning}"));
    }
    for RestoreItem { component, target, plan, .. } in &restore.items {
        error_line(&format!("{component} -> {target}"));
        for (what, lines) in [("replaces", &plan.replaces), ("creates", &plan.creates), ("warning:", &plan.warnings)] {
            let shown = if settings.global.verbose || what == "warning:" { usize::MAX } else { LINES_SHOWN };
            for line in lines.iter().take(shown) {
                error_line(&format!("  {what} {line}"));
            }
            if let Some(more) = lines.len().checked_sub(shown).filter(|more| *more > 0) {
                error_line(&format!("  {what} {more} more (--verbose shows them)"));
            }
        }
    }
}

fn confirm(args: &RestoreArgs) -> Result<(), Error> {
    if args.dry_run || args.yes {
        return Ok(());
    }
    let typed = keys::ask_line(&format!("type `{WORD}` to do this:"))?;
    if typed == WORD { Ok(()) } else { Err(Error::NotConfirmed { what: "the restore" }) }
}

/// What came of it.
struct Carried {
    plans: Vec<Value>,
    verified_bytes: Option<u64>,
    restored: Vec<(String, Restored)>,
}

async fn carry_out(settings: &Settings, args: &RestoreArgs, mut restore: Restore) -> Result<Carried, Error> {
    let plans = restore.items.iter().map(plan_json).collect();
    let progress = TerminalProgress::new(settings.show);
    let mut carried = Carried { plans, verified_bytes: None, restored: Vec::new() };
    let outcome = async {
        if !args.no_verify_first {
            carried.verified_bytes = Some(restore.verify(&progress).await.map_err(Error::begun)?);
        }
        if args.dry_run {
            return Ok(());
        }
        let restored = &mut carried.restored;
        let applied = restore.apply(&progress, |component, done| restored.push((component.to_owned(), done.clone())));
        applied.await.map_err(|source| Error::RestoreFailed { source: Box::new(source.into()) })
    };
    let outcome = outcome.await;
    progress.finish();
    if outcome.is_err() {
        for (component, _) in &carried.restored {
            error_line(&format!("{component} was restored before the failure"));
        }
    }
    outcome?;
    Ok(carried)
}

fn plan_json(item: &RestoreItem) -> Value {
    json!({
        "component": item.component,
        "target": item.target,
        "replaces": item.plan.replaces,
        "creates": item.plan.creates,
        "warnings": item.plan.warnings,
    })
}

fn missing_json(chosen: &Chosen) -> Vec<Value> {
    let missing = chosen.passed.iter().flat_map(|passed| &passed.missing);
    missing.map(|(named, names)| json!({ "components": names, "snapshot": named.id.to_string() })).collect()
}

fn report(
    args: &RestoreArgs,
    chosen: &Chosen,
    stack: Option<&Stack>,
    opened: &Opened,
    carried: &Carried,
    started: Instant,
) -> Report {
    let snapshot = &chosen.snapshot;
    let restored: Vec<Value> = carried
        .restored
        .iter()
        .map(|(component, done)| {
            json!({ "component": component, "bytes": done.bytes, "notes": done.notes, "warnings": done.warnings })
        })
        .collect();
    let json = json!({
        "snapshot": snapshot.id.to_string(),
        "dry_run": args.dry_run,
        "stack": stack.map(Stack::lines),
        "plan": carried.plans,
        "unreadable": chosen.unreadable,
        "passed_over": chosen.passed_over(),
        "missing": missing_json(chosen),
        "bytes_verified": carried.verified_bytes,
        "restored": restored,
        "secs": started.elapsed().as_secs_f64(),
        "key_derivation_secs": opened.key_derivation_secs(),
    });
    let mut lines = Vec::new();
    if let Some(bytes) = carried.verified_bytes {
        lines.push(format!("{} read and verified", size(bytes)));
    }
    for (component, done) in &carried.restored {
        lines.push(format!("{component}: restored, {} written", size(done.bytes)));
        lines.extend(done.notes.iter().map(|note| format!("  {note}")));
        lines.extend(done.warnings.iter().map(|warning| format!("  warning: {warning}")));
    }
    lines.push(match args.dry_run {
        true => "dry run: nothing was changed".to_owned(),
        false => format!("restored from {} in {:.1} s", snapshot.id.short(), started.elapsed().as_secs_f64()),
    });
    Report::done(json, lines)
}
