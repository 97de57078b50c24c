//! Snapshots and restores of memory components.

use std::sync::{Arc, Mutex};

use orkvault::component::{Sink, Source};
use orkvault::ops::snapshot::{SnapshotOptions, SnapshotOutcome, snapshot};
use orkvault::ops::{Clock, Error, NoProgress, Progress, restore, select};
use orkvault::repo::{Repository, WriterOptions};

use super::sources::{MemoryContent, MemorySink, MemorySource};

/// A clock that stands still.
pub struct Still(pub i64);

impl Clock for Still {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.0).unwrap()
    }
}

/// Remembers warnings.
#[derive(Default)]
pub struct Said(pub Mutex<Vec<String>>);

impl Progress for Said {
    fn step(&self, _name: &str, _total_bytes: Option<u64>) {}

    fn advance(&self, _bytes: u64) {}

    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

pub fn options() -> SnapshotOptions {
    SnapshotOptions {
        environment: "test".to_owned(),
        host: "host".to_owned(),
        tool: "orkvault test".to_owned(),
        tags: Vec::new(),
        newest: None,
        writer: WriterOptions::default(),
    }
}

/// Takes a snapshot of some content as component `memory`, with a `secrets` component of one file.
pub async fn take(repository: &Repository, second: i64, content: &MemoryContent) -> Result<SnapshotOutcome, Error> {
    let memory = MemorySource { name: "memory".to_owned(), content: content.clone(), fails_after: None };
    let mut secrets = MemoryContent::default();
    secrets.entries.insert(b".env".to_vec(), (1, format!("SECOND={second}\n").into_bytes()));
    let secrets = MemorySource { name: "secrets".to_owned(), content: secrets, fails_after: None };
    let sources: Vec<Box<dyn Source>> = vec![Box::new(memory), Box::new(secrets)];
    snapshot(repository, sources, &options(), &NoProgress, &Still(second)).await
}

/// Restores component `memory` of a snapshot.
pub async fn give(repository: &Repository, wanted: &str) -> Result<MemoryContent, Error> {
    let found = select::find(repository, wanted).await?;
    let into = Arc::new(Mutex::new(MemoryContent::default()));
    let sink = MemorySink { name: "memory".to_owned(), into: Arc::clone(&into) };
    let sinks: Vec<Box<dyn Sink>> = vec![Box::new(sink)];
    let mut planned = restore::plan(repository, &found, sinks, &NoProgress).await?;
    planned.verify(&NoProgress).await?;
    planned.apply(&NoProgress, |_, _| ()).await?;
    let found = into.lock().unwrap().clone();
    Ok(found)
}
