//! `dump` and `ls`: one stream or entry out, and what there is.

use super::restore::{complete_component, restorable_component};
use super::snapshot::SECRETS;
use super::{Error, NoProgress};
use crate::component::CatalogueRow;
use crate::format::manifest::StreamRecord;
use crate::repo::{ContentStream, LoadedSnapshot, Reader, Repository, TableReader};

/// Opens `<component>/<stream>` or `<component>/<entry key>` of a snapshot.
pub async fn open(repository: &Repository, snapshot: &LoadedSnapshot, path: &str) -> Result<ContentStream, Error> {
    let (component, name) = path.split_once('/').unwrap_or((path, ""));
    let missing = || Error::NoStream {
        snapshot: snapshot.id,
        component: component.to_owned(),
        name: if name.is_empty() { "stream without a name".to_owned() } else { name.to_owned() },
    };
    if component == SECRETS {
        return secret(repository, snapshot, name).await?.ok_or_else(missing);
    }
    let record = complete_component(snapshot, component)?;
    super::load_index(repository, &NoProgress).await?;
    let reader = Reader::new(repository)?;
    if let Some(stream) = record.streams.get(name) {
        return Ok(reader.open(stream));
    }
    if let Some(table) = &record.entries {
        let mut rows = TableReader::open(&reader, table);
        while let Some(row) = rows.next_row().await? {
            if row.key == name.as_bytes() {
                return Ok(reader.open_entry(&row.content, row.len));
            }
        }
    }
    Err(missing())
}

async fn secret(
    repository: &Repository,
    snapshot: &LoadedSnapshot,
    name: &str,
) -> Result<Option<ContentStream>, Error> {
    use crate::component::Stored as _;
    let mut stored = super::restore::open_secrets(repository, snapshot).await?;
    let wrap = |source| Error::Component { component: SECRETS.to_owned(), source: Box::new(source) };
    while let Some((entry, content)) = stored.next_entry().await.map_err(wrap)? {
        if entry.key == name.as_bytes()
            && let Some(content) = content
        {
            let mut runs = stored.open_content(&entry, &content).await.map_err(wrap)?;
            let mut bytes = Vec::new();
            while let Some(run) = futures::TryStreamExt::try_next(&mut runs).await.map_err(wrap)? {
                bytes.push(Ok(run.bytes));
            }
            return Ok(Some(Box::pin(futures::stream::iter(bytes))));
        }
    }
    Ok(None)
}

/// What is inside a component.
pub struct Listing {
    /// Its named streams.
    pub streams: Vec<(String, StreamRecord)>,
    /// Its catalogue.
    pub catalogue: Vec<CatalogueRow>,
    /// Its entry table, to be read row by row.
    pub entries: Option<TableReader>,
}

/// Opens the table of contents of a component. Content is not read: any key of the data namespace does.
pub async fn list(repository: &Repository, snapshot: &LoadedSnapshot, component: &str) -> Result<Listing, Error> {
    let record = restorable_component(snapshot, component)?;
    let Some(record) = record.filter(|_| component != SECRETS) else {
        // Its table of contents is sealed with it.
        return Ok(Listing { streams: Vec::new(), catalogue: Vec::new(), entries: None });
    };
    super::load_index(repository, &NoProgress).await?;
    let reader = Reader::new(repository)?;
    let catalogue = match &record.catalogue {
        Some(table) => super::stored::read_catalogue(&reader, table).await?,
        None => Vec::new(),
    };
    Ok(Listing {
        streams: record.streams.iter().map(|(name, stream)| (name.clone(), stream.clone())).collect(),
        catalogue,
        entries: record.entries.as_ref().map(|table| TableReader::open(&reader, table)),
    })
}
