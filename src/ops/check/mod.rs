//! `check`: proves that a restore would work, or says what is wrong with which object.

mod contents;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;

use crate::format::id::{PackId, SnapshotId};
use crate::format::manifest::ComponentStatus;
use crate::format::object::{Namespace, ObjectKey};
use crate::ops::snapshot::reason;
use crate::ops::structure::Structures;
use crate::ops::{Error, Progress, select};
use crate::repo::{self, LoadedSnapshot, PackScan, Reader, Repository};

/// Packs that are read at the same time: of each, a few MiB are held.
const PACKS_AT_ONCE: usize = 2;

/// How deep a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Read every byte of every pack and bundle, and compare every stream and entry of every snapshot with the hash of
    /// what came in. Needs the data reader to open content.
    pub read_data: bool,
}

/// One defect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object, or `snapshot <id>`.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Components of snapshots that cannot be restored because of it, as `<snapshot>/<component>`.
    pub affects: Vec<String>,
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckOutcome {
    /// Defects.
    pub findings: Vec<Finding>,
    /// Things that are no defect: leftovers of a crash, unreferenced packs.
    pub notes: Vec<String>,
    /// Snapshots that were checked, of both namespaces.
    pub snapshots: usize,
    /// Packs that were checked.
    pub packs: usize,
    /// Bytes of packs and bundles that were read whole.
    pub read_bytes: u64,
    /// Plain bytes of content that was opened and whose chunk ids were recomputed.
    pub opened_bytes: u64,
    /// Segments that were not opened, because these keys cannot.
    pub sealed_segments: u64,
}

struct Check<'a> {
    repository: &'a Repository,
    options: CheckOptions,
    progress: &'a dyn Progress,
    outcome: CheckOutcome,
    objects: HashMap<ObjectKey, u64>,
    /// Config and key slots of the secrets' own store.
    apart: Vec<ObjectKey>,
    /// Whether the secrets are at hand.
    has_secrets: bool,
    /// Whether every stream and entry of every snapshot was put together and is right, out of packs that are.
    is_all_proven: bool,
}

/// Checks a repository. Never stops at the first finding; where a store stops to answer, what was found so far is warned of.
/// The repository's index cache must be a fresh one: nothing that this host remembers is part of the proof.
pub async fn check(
    repository: &Repository,
    options: CheckOptions,
    progress: &dyn Progress,
) -> Result<CheckOutcome, Error> {
    let outcome = CheckOutcome::default();
    let mut check = Check {
        repository,
        options,
        progress,
        outcome,
        objects: HashMap::new(),
        apart: Vec::new(),
        has_secrets: true,
        is_all_proven: false,
    };
    let ended = check.run().await;
    let mut outcome = check.outcome;
    outcome.findings.sort();
    outcome.findings.dedup();
    if ended.is_err() {
        // Hours of reading may have gone into it.
        for Finding { object, problem, .. } in &outcome.findings {
            progress.warn(&format!("found before the check ended: {object}: {problem}"));
        }
    }
    ended.map(|()| outcome)
}

/// Returns whether an error says something of what is stored. A store that does not answer ends the check.
fn is_finding(error: &repo::Error) -> bool {
    error.is_damage() || matches!(error, repo::Error::Crypto(_))
}

impl Check<'_> {
    async fn run(&mut self) -> Result<(), Error> {
        let (repository, progress) = (self.repository, self.progress);
        progress.step("listing", None);
        // The reverse of the order of writes: whatever a snapshot listed here refers to was put before it, so a
        // snapshot that is being taken meanwhile is simply not part of this check.
        let snapshots = repository.snapshot_ids(Namespace::Data).await?;
        let secrets = self.secrets_ids().await?;
        progress.step("checking the index", None);
        self.index().await?;
        self.list().await?;
        self.slots().await?;
        // Streams before packs: what was opened for them is not opened again.
        let opened = self.contents(&snapshots).await?;
        progress.step("checking packs", Some(self.pack_bytes()));
        self.packs(opened).await?;
        progress.step("checking snapshots", None);
        let snapshots = self.snapshots(&snapshots).await?;
        self.chains(&snapshots);
        self.secrets(&snapshots, &secrets).await
    }

    fn find(&mut self, object: impl ToString, problem: impl ToString) {
        self.find_affecting(object, problem, Vec::new());
    }

    fn find_affecting(&mut self, object: impl ToString, problem: impl ToString, affects: Vec<String>) {
        let finding = Finding { object: object.to_string(), problem: problem.to_string(), affects };
        self.outcome.findings.push(finding);
    }

    async fn list(&mut self) -> Result<(), Error> {
        let found = self.repository.inventory().await?;
        for (name, len) in found.leftovers {
            self.outcome.notes.push(format!("{name}: {len} bytes left by a run that was cut off"));
        }
        for name in found.strangers {
            self.find(name, "no orkvault stores such an object");
        }
        self.objects = found.objects;
        self.apart = found.apart;
        Ok(())
    }

    /// Secrets that are somewhere else are not part of this check; a store that is not theirs is a defect.
    async fn secrets_ids(&mut self) -> Result<Vec<SnapshotId>, Error> {
        match self.repository.secrets_backend() {
            Ok(_) => return Ok(self.repository.snapshot_ids(Namespace::Secrets).await?),
            Err(repo::Error::SecretsApart { .. }) => {
                let note = "secrets are in a store of their own, which was not named: they were not checked";
                self.outcome.notes.push(note.to_owned());
            }
            Err(error) => self.find_error("the store of the secrets", error)?,
        }
        self.has_secrets = false;
        Ok(Vec::new())
    }

    /// Takes what proves damaged as a finding; a store that does not answer ends the check.
    fn find_error(&mut self, object: impl ToString, error: repo::Error) -> Result<(), Error> {
        self.find_error_affecting(object, error, Vec::new())
    }

    fn find_error_affecting(
        &mut self,
        object: impl ToString,
        error: repo::Error,
        affects: Vec<String>,
    ) -> Result<(), Error> {
        if is_finding(&error) {
            self.find_affecting(object, reason(&error), affects);
            Ok(())
        } else {
            Err(error.into())
        }
    }

    async fn slots(&mut self) -> Result<(), Error> {
        if !self.objects.contains_key(&ObjectKey::Config) && !self.apart.contains(&ObjectKey::Config) {
            self.find(ObjectKey::Config, "is missing");
        }
        let objects = self.objects.keys().copied();
        for (key, error) in self.repository.check_slots_and_config(objects, &self.apart).await {
            self.find_error(key, error)?;
        }
        Ok(())
    }

    async fn index(&mut self) -> Result<(), Error> {
        for (id, error) in self.repository.load_index_leniently().await? {
            self.find(ObjectKey::Index(id), reason(&error));
        }
        Ok(())
    }

    fn pack_bytes(&self) -> u64 {
        let is_pack = |(key, _): &(&ObjectKey, &u64)| matches!(key, ObjectKey::Pack(_));
        self.objects.iter().filter(is_pack).map(|(_, len)| len).sum()
    }

    async fn packs(&mut self, opened: HashSet<i64>) -> Result<(), Error> {
        let opened = Arc::new(opened);
        let listed: BTreeMap<PackId, u64> = self.repository.index().packs()?.into_iter().collect();
        let mut there = Vec::new();
        let mut gone = HashSet::new();
        for (id, len) in &listed {
            match self.objects.get(&ObjectKey::Pack(*id)) {
                Some(found) if found == len => there.push((*id, *len)),
                Some(found) => {
                    self.find(ObjectKey::Pack(*id), format!("has {found} bytes, the index says {len}"));
                    gone.insert(*id);
                }
                None => {
                    self.find(ObjectKey::Pack(*id), "is missing");
                    gone.insert(*id);
                }
            }
        }
        let scan = if self.options.read_data { PackScan::Everything } else { PackScan::Directory };
        let (repository, progress, opened) = (self.repository, self.progress, &opened);
        let mut scans = futures::stream::iter(there)
            .map(|(id, len)| async move { (id, len, repository.scan_pack(id, len, scan, opened).await) })
            .buffer_unordered(PACKS_AT_ONCE);
        while let Some((id, len, scanned)) = scans.next().await {
            progress.advance(len);
            self.outcome.packs += 1;
            match scanned {
                Ok(scanned) => {
                    self.outcome.read_bytes += if self.options.read_data { scanned.stored_bytes } else { 0 };
                    self.outcome.opened_bytes += scanned.opened_bytes;
                    self.outcome.sealed_segments += scanned.sealed_segments;
                    if let Some(problem) = scanned.problem {
                        self.is_all_proven = false;
                        self.find_error(ObjectKey::Pack(id), problem)?;
                    }
                }
                Err(error) => {
                    self.is_all_proven = false;
                    let index = self.repository.index();
                    if is_finding(&error) {
                        index.segments(&id)?.iter().for_each(|segment| index.set_aside(segment, &error));
                    }
                    self.find_error(ObjectKey::Pack(id), error)?;
                }
            }
        }
        drop(scans);
        // Snapshots that need something of a pack that is not there are then found, too.
        self.is_all_proven &= gone.is_empty();
        self.repository.index().set_gone(gone);
        self.unlisted(&listed).await
    }

    /// Packs that no index part lists: a run that was cut off, or a lost index part.
    async fn unlisted(&mut self, listed: &BTreeMap<PackId, u64>) -> Result<(), Error> {
        let unlisted: Vec<(PackId, u64)> = self
            .objects
            .iter()
            .filter_map(|(key, len)| if let ObjectKey::Pack(id) = key { Some((*id, *len)) } else { None })
            .filter(|(id, _)| !listed.contains_key(id))
            .collect();
        for (id, len) in unlisted {
            match self.repository.check_unlisted_pack(id, len, self.options.read_data).await {
                Ok(()) => self.outcome.notes.push(format!("{}: {len} bytes, in no index part", ObjectKey::Pack(id))),
                Err(error) => self.find_error(ObjectKey::Pack(id), error)?,
            }
        }
        Ok(())
    }

    async fn snapshots(&mut self, ids: &[SnapshotId]) -> Result<Vec<LoadedSnapshot>, Error> {
        let mut good = Vec::new();
        if ids.is_empty() {
            return Ok(good);
        }
        let mut structures = Structures::new(Reader::new(self.repository)?, is_finding);
        for (id, loaded) in select::load_these(self.repository, ids).await? {
            self.outcome.snapshots += 1;
            match loaded {
                Ok(snapshot) => {
                    // What was put together had all that it is made of.
                    if !self.is_all_proven {
                        self.components(&mut structures, &snapshot).await?;
                    }
                    good.push(snapshot);
                }
                Err(error) => self.find_error(ObjectKey::Snapshot(Namespace::Data, id), error)?,
            }
        }
        Ok(good)
    }

    async fn components(&mut self, structures: &mut Structures, snapshot: &LoadedSnapshot) -> Result<(), Error> {
        for (name, record) in &snapshot.manifest.orkvault.components {
            if record.status != ComponentStatus::Complete {
                continue;
            }
            if let Some((stream, problem)) = structures.wrong(name, record).await? {
                let object = ObjectKey::Snapshot(Namespace::Data, snapshot.id);
                let affects = vec![format!("{}/{name}", snapshot.id)];
                self.find_affecting(object, format!("{name}/{stream}: {problem}"), affects);
            }
        }
        Ok(())
    }

    /// Every writer's snapshots form a chain: a link that is gone was removed behind our back.
    fn chains(&mut self, snapshots: &[LoadedSnapshot]) {
        let known: HashMap<SnapshotId, &LoadedSnapshot> =
            snapshots.iter().map(|snapshot| (snapshot.id, snapshot)).collect();
        for snapshot in snapshots {
            let writer = &snapshot.manifest.orkvault.writer;
            let own = ObjectKey::Snapshot(Namespace::Data, snapshot.id);
            if writer.previous.is_empty() && writer.sequence != 1 {
                self.find(own, format!("is number {} of its writer and follows none", writer.sequence));
            }
            for previous in &writer.previous {
                let object = ObjectKey::Snapshot(Namespace::Data, previous.snapshot);
                match known.get(&previous.snapshot) {
                    Some(found) if found.hash != previous.blake3 => {
                        self.find(object, format!("is not what snapshot {} followed", snapshot.id));
                    }
                    Some(found) if found.manifest.orkvault.writer.sequence >= writer.sequence => {
                        self.find(own, format!("is number {} of its writer and follows a later one", writer.sequence));
                    }
                    Some(_) => {}
                    // One that cannot be read is a finding of its own.
                    None if self.objects.contains_key(&object) => {}
                    None => self.find(object, format!("is missing: snapshot {} followed it", snapshot.id)),
                }
            }
        }
    }

    async fn secrets(&mut self, snapshots: &[LoadedSnapshot], ids: &[SnapshotId]) -> Result<(), Error> {
        let mut bundles = HashMap::new();
        for id in ids.iter().copied() {
            self.outcome.snapshots += 1;
            if self.repository.keyring().namespace(Namespace::Secrets).is_err() {
                // Without keys of that namespace: what the checksum tells.
                if let Err(error) = self.repository.scrub(ObjectKey::Snapshot(Namespace::Secrets, id)).await {
                    self.find_error(ObjectKey::Snapshot(Namespace::Secrets, id), error)?;
                }
                continue;
            }
            match self.repository.load_secrets_snapshot(id).await {
                Ok(snapshot) => drop(bundles.insert(snapshot.manifest.bundle, snapshot)),
                Err(error) => self.find_error(ObjectKey::Snapshot(Namespace::Secrets, id), error)?,
            }
        }
        for (bundle, snapshot) in &bundles {
            if !self.objects.contains_key(&ObjectKey::Bundle(*bundle)) {
                let affects = vec![format!("{}/secrets", snapshot.id)];
                self.find_affecting(ObjectKey::Bundle(*bundle), "is missing", affects);
            } else if self.repository.keyring().can_read(Namespace::Secrets)
                && let Err(error) = self.repository.open_secrets(snapshot).await
            {
                self.find_error(ObjectKey::Bundle(*bundle), error)?;
            }
        }
        self.bundles().await?;
        for snapshot in snapshots {
            let Some(secrets) = &snapshot.manifest.orkvault.secrets else { continue };
            let object = ObjectKey::Snapshot(Namespace::Secrets, secrets.snapshot);
            if self.has_secrets && !self.objects.contains_key(&object) {
                let affects = vec![format!("{}/secrets", snapshot.id)];
                self.find_affecting(object, format!("is missing: snapshot {} belongs to it", snapshot.id), affects);
            }
        }
        Ok(())
    }

    /// Bundles against their names, which anybody can do.
    async fn bundles(&mut self) -> Result<(), Error> {
        if !self.options.read_data {
            return Ok(());
        }
        let bundles: Vec<(ObjectKey, u64)> = self
            .objects
            .iter()
            .filter(|(key, _)| matches!(key, ObjectKey::Bundle(_)))
            .map(|(key, len)| (*key, *len))
            .collect();
        for (key, len) in bundles {
            match self.repository.scrub(key).await {
                Ok(()) => self.outcome.read_bytes += len,
                Err(error) => self.find_error(key, error)?,
            }
        }
        Ok(())
    }
}
