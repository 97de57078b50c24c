//! `restore`: a plan that touches nothing, a verification that reads everything, and the doing.

use futures::TryStreamExt as _;

use super::snapshot::SECRETS;
use super::stored::{DataStored, SecretsStored};
use super::structure::check_structure;
use super::{Error, Progress};
use crate::component::{self, Captured, RestorePlan, Restored, SHORT_BYTES_MAX, Sink, Stored, is_lot};
use crate::format::manifest::{ComponentRecord, ComponentStatus};
use crate::repo::{LoadedSnapshot, Reader, Repository};

/// One component on its way back.
pub struct RestoreItem {
    /// The component's name.
    pub component: String,
    /// Where it goes.
    pub target: String,
    /// What would happen.
    pub plan: RestorePlan,
    sink: Box<dyn Sink>,
    stored: Box<dyn Stored>,
}

/// A restore, planned: every precondition holds and every object that it needs was found.
pub struct Restore {
    /// The components, in the order of doing. Secrets last: the databases are restored with the
    /// credentials that their servers run with now.
    pub items: Vec<RestoreItem>,
}

/// Returns the record of a complete component.
pub fn complete_component<'a>(snapshot: &'a LoadedSnapshot, component: &str) -> Result<&'a ComponentRecord, Error> {
    let missing =
        |reason: String| Error::NoComponent { snapshot: snapshot.id, component: component.to_owned(), reason };
    match snapshot.manifest.orkvault.components.get(component) {
        None => Err(missing("it was not captured".to_owned())),
        Some(record) if record.status == ComponentStatus::Complete => Ok(record),
        Some(record) => Err(missing(record.reason.clone().unwrap_or_else(|| "it was skipped".to_owned()))),
    }
}

/// Returns the record of a component that a snapshot gives back. `None` where it is the secrets: they belong to the
/// snapshot, and the run that made it captured none itself, or failed to.
pub fn restorable_component<'a>(
    snapshot: &'a LoadedSnapshot,
    component: &str,
) -> Result<Option<&'a ComponentRecord>, Error> {
    match complete_component(snapshot, component) {
        Err(_) if component == SECRETS && snapshot.manifest.orkvault.secrets.is_some() => Ok(None),
        found => found.map(Some),
    }
}

/// Plans a restore. Changes nothing; reads recipes and tables of everything that is to be restored, and
/// asks every sink for its preconditions.
pub async fn plan(
    repository: &Repository,
    snapshot: &LoadedSnapshot,
    mut sinks: Vec<Box<dyn Sink>>,
    progress: &dyn Progress,
) -> Result<Restore, Error> {
    // Nothing that this host remembers takes part in a restore, and lost index parts do not stop it: the packs
    // know themselves what is in them.
    let repository = &repository.with_fresh_index()?;
    super::load_index(repository, progress).await?;
    let unlisted = repository.index_unlisted_packs().await?;
    if unlisted > 0 {
        progress.warn(&format!("{unlisted} packs are in no index part; what they hold was read from themselves"));
    }
    // A pack that is gone must be noticed before the first destructive step.
    repository.set_missing_packs_aside().await?;
    sinks.sort_by_key(|sink| sink.component() == SECRETS);
    let mut items = Vec::new();
    for mut sink in sinks {
        let component = sink.component().to_owned();
        progress.step(&format!("planning {component}"), None);
        let record = restorable_component(snapshot, &component)?;
        let mut stored = open_stored(repository, snapshot, &component, record.cloned()).await?;
        let wrap = |source| Error::Component { component: component.clone(), source: Box::new(source) };
        let mut plan = sink.plan(stored.as_mut()).await.map_err(wrap)?;
        if let (None, Some(secrets)) = (record, &snapshot.manifest.orkvault.secrets) {
            let generation = secrets.snapshot.short();
            plan.warnings.push(format!(
                "the snapshot's run captured none itself: they are of generation {generation}, the newest that it knew"
            ));
        }
        items.push(RestoreItem { target: sink.describe(), component, plan, sink, stored });
    }
    Ok(Restore { items })
}

async fn open_stored(
    repository: &Repository,
    snapshot: &LoadedSnapshot,
    component: &str,
    record: Option<ComponentRecord>,
) -> Result<Box<dyn Stored>, Error> {
    let Some(record) = record.filter(|_| component != SECRETS) else {
        return Ok(Box::new(open_secrets(repository, snapshot).await?));
    };
    let reader = Reader::new(repository)?;
    check_structure(&reader, &record).await.map_err(|(what, source)| Error::NotWhole {
        snapshot: snapshot.id,
        what: format!("{component}/{what}"),
        source: Box::new(source),
    })?;
    Ok(Box::new(DataStored::open(reader, record).await?))
}

/// Opens the secrets that belong to a snapshot. Needs the secrets reader.
pub async fn open_secrets(repository: &Repository, snapshot: &LoadedSnapshot) -> Result<SecretsStored, Error> {
    let Some(secrets) = &snapshot.manifest.orkvault.secrets else {
        return Err(Error::NoComponent {
            snapshot: snapshot.id,
            component: SECRETS.to_owned(),
            reason: "no secrets belong to it".to_owned(),
        });
    };
    let loaded = repository.load_secrets_snapshot(secrets.snapshot).await?;
    let files = repository.open_secrets(&loaded).await?;
    let record = snapshot.manifest.orkvault.components.get(SECRETS);
    let facts = record.map(|record| record.facts.clone()).unwrap_or_default();
    Ok(SecretsStored::new(Captured { facts, ..Captured::default() }, files))
}

impl Restore {
    /// Reads and checks every byte that would be restored. Returns how many. Changes nothing.
    pub async fn verify(&mut self, progress: &dyn Progress) -> Result<u64, Error> {
        let mut bytes = 0;
        for item in &mut self.items {
            progress.step(&format!("verifying {}", item.component), None);
            let wrap = |source| Error::Component { component: item.component.clone(), source: Box::new(source) };
            for stream in item.stored.streams() {
                let content = item.stored.open(&stream.name).await.map_err(wrap)?;
                bytes += drain(content, progress).await.map_err(wrap)?;
            }
            bytes += verify_entries(item.stored.as_mut(), progress).await.map_err(wrap)?;
        }
        Ok(bytes)
    }

    /// Restores one component after the other; the first failure ends it. `done` hears of each that is back.
    pub async fn apply(
        mut self,
        progress: &dyn Progress,
        mut done: impl FnMut(&str, &Restored) + Send,
    ) -> Result<(), Error> {
        for item in &mut self.items {
            progress.step(&format!("restoring {}", item.component), None);
            let restored = item.sink.restore(item.stored.as_mut()).await;
            let restored = restored
                .map_err(|source| Error::Component { component: item.component.clone(), source: Box::new(source) })?;
            progress.advance(restored.bytes);
            done(&item.component, &restored);
        }
        Ok(())
    }
}

async fn verify_entries(stored: &mut dyn Stored, progress: &dyn Progress) -> Result<u64, component::Error> {
    let (mut bytes, mut short, mut short_bytes) = (0, Vec::new(), 0);
    stored.rewind().await?;
    loop {
        let row = stored.next_entry().await?;
        let is_over = row.is_none();
        match row {
            Some((entry, Some(content))) if entry.len > SHORT_BYTES_MAX => {
                bytes += drain(stored.open_content(&entry, &content).await?, progress).await?;
            }
            Some((entry, Some(content))) => {
                short_bytes += entry.len;
                short.push((entry, content));
            }
            Some((_, None)) | None => {}
        }
        if is_over || is_lot(short.len(), short_bytes) {
            let wanted: Vec<_> = short.iter().map(|(entry, content)| (entry, content)).collect();
            for content in stored.read_short(&wanted).await? {
                bytes += content.len() as u64;
                progress.advance(content.len() as u64);
            }
            short.clear();
            short_bytes = 0;
        }
        if is_over {
            break;
        }
    }
    stored.rewind().await?;
    Ok(bytes)
}

async fn drain(mut content: component::ByteStream, progress: &dyn Progress) -> Result<u64, component::Error> {
    let mut bytes = 0;
    while let Some(run) = content.try_next().await? {
        bytes += run.bytes.len() as u64;
        progress.advance(run.bytes.len() as u64);
    }
    Ok(bytes)
}
