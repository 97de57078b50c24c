//! `doctor`: what the store of a repository in a bucket can do, and what orkvault does about what it cannot.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::doctor::Findings;
use crate::backend::s3::{Found, OldStates, Probe, Versioning};
use crate::cli::location::Location;
use crate::cli::resolve::Settings;
use crate::cli::store::{self, StoreConfig};
use crate::ops::snapshot::reason;

/// More and manifests say a time that misleads; signatures fail at a quarter of an hour.
const CLOCK_SECS_MAX: i64 = 30;
/// Every object takes so long, at least: more and thousands of objects take hours.
const LATENCY_MILLIS_MAX: u128 = 500;

/// Tries what a store can do. `None` where it is no bucket. `name` tells one store from another.
pub(super) async fn probe(
    settings: &Settings,
    name: &str,
    config: &StoreConfig,
    findings: &mut Findings,
) -> Option<Value> {
    let Ok(Location::Bucket { bucket, prefix }) = config.location() else { return None };
    let backend = match store::bucket(settings, config, bucket, prefix) {
        Ok(backend) => backend,
        Err(error) => {
            findings.fail(name, &error);
            return None;
        }
    };
    let probe = backend.probe(settings.pace.as_ref(), &SystemTime::now).await;
    if let Err(error) = probe.read_after_write {
        // Nothing else is worth saying about a store that takes nothing.
        findings.fail(&format!("{name}: write and read"), &backend.trial_failed(error).into());
        return Some(json!({ "read_after_write": Value::Null }));
    }
    judge(name, &probe, findings);
    Some(facts(&probe))
}

fn judge(name: &str, probe: &Probe, findings: &mut Findings) {
    let mut verdict = |what: &str, found: Result<bool, String>, good: String, bad: &str| {
        let what = format!("{name}: {what}");
        match found {
            Ok(true) => findings.ok(&what, good),
            Ok(false) => findings.warn(&what, bad),
            Err(why) => findings.warn(&what, format!("not known: {why}")),
        }
    };
    verdict(
        "read after write",
        flat(&probe.read_after_write),
        "what was put is read back at once".to_owned(),
        "what was put is not read back at once: do not use this store, a night may not see the night before",
    );
    let listed = probe.listed.as_ref().map_or((0, 0), |found| *found);
    verdict(
        "listing",
        probe.listed.as_ref().map(|(shown, all)| shown == all).map_err(|error| reason(error)),
        "shows what was put at once".to_owned(),
        &format!(
            "shows {} of {} new objects: orkvault asks again behind every end, and stores again what it does not see",
            listed.0, listed.1
        ),
    );
    verdict(
        "conditional put",
        flat(&probe.conditional_put),
        "nothing is replaced".to_owned(),
        "is ignored: names are hashes or random, and what has the same name has the same bytes; set \
         conditional_put = false, and make a repository from one host only",
    );
    let winners = probe.racing_winners.as_ref().map_or((0, 0), |found| *found);
    verdict(
        "racing puts",
        probe.racing_winners.as_ref().map(|(winners, _)| *winners == 1).map_err(|error| reason(error)),
        format!("one of {} wins", winners.1),
        &format!("{} of {} are told that they won: make a repository from one host only", winners.0, winners.1),
    );
    verdict(
        "conditional put in parts",
        flat(&probe.conditional_parts),
        "nothing is replaced".to_owned(),
        "is ignored: long objects are named after their bytes, so that what replaces one is the same",
    );
    verdict(
        "delete",
        flat(&probe.delete),
        "allowed".to_owned(),
        "is allowed, and what was deleted can still be read for a while",
    );
    protection(name, probe, findings);
    speed(name, probe, findings);
}

/// What keeps a stolen key from destroying the past.
fn protection(name: &str, probe: &Probe, findings: &mut Findings) {
    let (versioning, object_lock) = (format!("{name}: versioning"), format!("{name}: object lock"));
    let may_delete = probe.delete.is_ok();
    match &probe.versioning {
        Ok(Versioning::Enabled) => findings.ok(&versioning, "old states are kept: --as-of reads them"),
        Ok(Versioning::Suspended | Versioning::Off) if may_delete => findings
            .warn(&versioning, "off, and these credentials may delete: whoever has them can destroy every snapshot"),
        Ok(_) => findings.ok(&versioning, "off; these credentials cannot delete"),
        Err(error) => findings.warn(&versioning, format!("not known: {}", reason(error))),
    }
    let old_states = format!("{name}: times of old states");
    match &probe.old_states {
        Ok(None) => {}
        Ok(Some(OldStates::ByTimes)) => findings.ok(&old_states, "those of the puts: --as-of goes by them"),
        Ok(Some(OldStates::ById)) => {
            findings.ok(&old_states, "the ids of the states tell when each was put: --as-of goes by them");
        }
        Ok(Some(OldStates::Untold)) => {
            findings.warn(
                &old_states,
                "cannot be true: --as-of says so and shows nothing; old states must be fetched by hand",
            );
        }
        Ok(Some(OldStates::Wrong)) => findings.warn(
            &old_states,
            "are not those of the puts, and look as if they were: what --as-of shows is of another moment",
        ),
        Err(error) => findings.warn(&old_states, format!("not known: {}", reason(error))),
    }
    match &probe.object_lock {
        Ok(true) => findings.ok(&object_lock, "can be used: snapshot --lock-days"),
        Ok(false) => findings.ok(&object_lock, "the bucket has none: --lock-days would fail"),
        Err(error) => findings.warn(&object_lock, format!("not known: {}", reason(error))),
    }
}

fn speed(name: &str, probe: &Probe, findings: &mut Findings) {
    let (clock, latency) = (format!("{name}: clock"), format!("{name}: latency"));
    match &probe.clock_ahead_secs {
        Ok(secs) if secs.abs() <= CLOCK_SECS_MAX => findings.ok(&clock, format!("{secs:+} s from this host's")),
        Ok(secs) => findings.warn(
            &clock,
            format!("{secs:+} s from this host's: set the wrong one; a quarter of an hour and nothing works"),
        ),
        Err(error) => findings.warn(&clock, format!("not known: {}", reason(error))),
    }
    match &probe.latency {
        Ok(time) if time.as_millis() <= LATENCY_MILLIS_MAX => {
            findings.ok(&latency, format!("{} ms a request", time.as_millis()));
        }
        Ok(time) => findings.warn(&latency, format!("{} ms a request: nights will be slow", time.as_millis())),
        Err(error) => findings.warn(&latency, format!("not known: {}", reason(error))),
    }
}

fn flat(found: &Found<bool>) -> Result<bool, String> {
    found.as_ref().copied().map_err(|error| reason(error))
}

/// The same for programs: `null` is what could not be found out.
fn facts(probe: &Probe) -> Value {
    let versioning = probe.versioning.as_ref().ok().map(|versioning| match versioning {
        Versioning::Enabled => "enabled",
        Versioning::Suspended => "suspended",
        Versioning::Off => "off",
    });
    let old_states = probe.old_states.as_ref().ok().copied().flatten().map(|old_states| match old_states {
        OldStates::ByTimes => "by times",
        OldStates::ById => "by ids",
        OldStates::Untold => "untold",
        OldStates::Wrong => "wrong",
    });
    json!({
        "read_after_write": probe.read_after_write.as_ref().ok(),
        "listing_honest": probe.listed.as_ref().ok().map(|(shown, all)| shown == all),
        "conditional_put": probe.conditional_put.as_ref().ok(),
        "racing_winners": probe.racing_winners.as_ref().ok().map(|(winners, _)| winners),
        "conditional_parts": probe.conditional_parts.as_ref().ok(),
        "delete": probe.delete.is_ok(),
        "versioning": versioning,
        "old_states": old_states,
        "object_lock": probe.object_lock.as_ref().ok(),
        "clock_ahead_secs": probe.clock_ahead_secs.as_ref().ok(),
        "latency_secs": probe.latency.as_ref().ok().map(std::time::Duration::as_secs_f64),
    })
}
