//! The snapshot that a command works on, and what the operator must hear about how it was found.

use serde_json::{Value, json};

use super::access::Opened;
use super::error::Error;
use super::output::error_line;
use crate::ops::passed::{Named, PassedOver};
use crate::ops::select;
use crate::ops::snapshot::reason;
use crate::repo::LoadedSnapshot;

/// A snapshot that was found.
pub(crate) struct Chosen {
    /// The snapshot.
    pub(crate) snapshot: LoadedSnapshot,
    /// Damaged ones, for `--json`.
    pub(crate) unreadable: Vec<Value>,
    /// What `latest` passed over.
    pub(crate) passed: Option<PassedOver>,
}

impl Chosen {
    /// Returns what `latest` passed over, for `--json`.
    #[must_use]
    pub(crate) fn passed_over(&self) -> Value {
        let Some(passed) = &self.passed else { return Value::Null };
        let usable = passed.usable.as_ref().map(|usable| usable.id.to_string());
        json!({ "incomplete": passed.incomplete, "wanted": passed.wanted, "usable": usable })
    }

    /// Says of newer snapshots that they are incomplete, and which of them would do.
    fn say_passed_over(&self) {
        let Some(passed) = self.passed.as_ref().filter(|passed| passed.incomplete > 0) else { return };
        let (id, created) = (self.snapshot.id.short(), &self.snapshot.manifest.created_at);
        let wanted = passed.wanted.join(", ");
        let usable = match &passed.usable {
            Some(Named { id, created_at }) => {
                format!("the newest of them with all of {wanted} is {} of {created_at}", id.short())
            }
            None => format!("none of them has all of {wanted}"),
        };
        let count = match passed.incomplete {
            1 => "1 snapshot is".to_owned(),
            more => format!("{more} snapshots are"),
        };
        error_line(&format!("warning: {count} newer than {id} of {created} and incomplete; {usable}"));
    }
}

/// Finds the snapshot that is meant. Where `latest` was chosen among damaged ones, that is said at once.
pub(crate) async fn choose(opened: &Opened, wanted: &str, components: &[&str]) -> Result<Chosen, Error> {
    let select::Found { snapshot, unreadable, passed } =
        select::find_with(&opened.repository, wanted, components).await?;
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
    let chosen = Chosen { snapshot, unreadable: unreadable.into_iter().map(row).collect(), passed };
    chosen.say_passed_over();
    Ok(chosen)
}
