//! The snapshot that a command works on, and what the operator must hear about how it was found.

use serde_json::{Value, json};

use super::access::Opened;
use super::error::Error;
use super::output::error_line;
use crate::ops::select;
use crate::ops::snapshot::reason;
use crate::repo::LoadedSnapshot;

/// A snapshot that was found.
pub(crate) struct Chosen {
    /// The snapshot.
    pub(crate) snapshot: LoadedSnapshot,
    /// Damaged ones, for `--json`.
    pub(crate) unreadable: Vec<Value>,
}

/// Finds the snapshot that is meant. Where `latest` was chosen among damaged ones, that is said at once.
pub(crate) async fn choose(opened: &Opened, wanted: &str, components: &[&str]) -> Result<Chosen, Error> {
    let select::Found { snapshot, unreadable } = select::find_with(&opened.repository, wanted, components).await?;
    for (id, error) in &unreadable {
        error_line(&format!("warning: snapshot {id} cannot be read: {}", reason(error)));
    }
    if !unreadable.is_empty() {
        let (id, created) = (snapshot.id.short(), &snapshot.manifest.created_at);
        error_line(&format!(
            "warning: a damaged snapshot may be newer than {id} of {created}, the latest that is whole"
        ));
    }
    let row = |(id, error)| json!({ "snapshot": format!("{id}"), "reason": reason(&error) });
    Ok(Chosen { snapshot, unreadable: unreadable.into_iter().map(row).collect() })
}
