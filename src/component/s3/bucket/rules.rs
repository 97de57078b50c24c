//! CORS, lifecycle and lock rules as JSON: every field that S3 has, because a rule that comes back
//! without one of its conditions could delete what it should keep.

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types;
use serde::{Deserialize, Serialize};

use crate::component::s3::client::moment;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cors {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_headers: Option<Vec<String>>,
    allowed_methods: Vec<String>,
    allowed_origins: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expose_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age_seconds: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    years: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lifecycle {
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<Filter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<Expiration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    transitions: Vec<Transition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    noncurrent_transitions: Vec<NoncurrentTransition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    noncurrent_expiration: Option<NoncurrentExpiration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_multipart_days: Option<i32>,
}

/// S3's filter with one condition, or its `And` with several; `and` tells which.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    and: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    greater_than: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    less_than: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expiration {
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete_marker: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Transition {
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoncurrentTransition {
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newer_versions: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoncurrentExpiration {
    #[serde(skip_serializing_if = "Option::is_none")]
    days: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newer_versions: Option<i32>,
}

fn json<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    Some(serde_json::to_vec(value).expect("strings, numbers and lists always have a JSON form"))
}

/// Returns the rules as JSON, nothing for none.
pub(super) fn cors_json(rules: &[types::CorsRule]) -> Option<Vec<u8>> {
    let rules: Vec<Cors> = rules
        .iter()
        .map(|rule| Cors {
            id: rule.id.clone(),
            allowed_headers: rule.allowed_headers.clone(),
            allowed_methods: rule.allowed_methods.clone(),
            allowed_origins: rule.allowed_origins.clone(),
            expose_headers: rule.expose_headers.clone(),
            max_age_seconds: rule.max_age_seconds,
        })
        .collect();
    if rules.is_empty() { None } else { json(&rules) }
}

/// Reads what `cors_json` wrote.
pub(super) fn cors_from_json(bytes: &[u8]) -> Result<Vec<types::CorsRule>, serde_json::Error> {
    let rule = |rule: Cors| {
        types::CorsRule::builder()
            .set_id(rule.id)
            .set_allowed_headers(rule.allowed_headers)
            .set_allowed_methods(Some(rule.allowed_methods))
            .set_allowed_origins(Some(rule.allowed_origins))
            .set_expose_headers(rule.expose_headers)
            .set_max_age_seconds(rule.max_age_seconds)
            .build()
            .map_err(unbuilt)
    };
    serde_json::from_slice::<Vec<Cors>>(bytes)?.into_iter().map(rule).collect()
}

/// Returns an object lock configuration as JSON, nothing where it is not on.
pub(super) fn lock_json(lock: &types::ObjectLockConfiguration) -> Option<Vec<u8>> {
    let enabled = lock.object_lock_enabled() == Some(&types::ObjectLockEnabled::Enabled);
    let retention = lock.rule().and_then(types::ObjectLockRule::default_retention);
    let lock = Lock {
        enabled,
        mode: retention.and_then(|retention| retention.mode()).map(|mode| mode.as_str().to_owned()),
        days: retention.and_then(types::DefaultRetention::days),
        years: retention.and_then(types::DefaultRetention::years),
    };
    if enabled { json(&lock) } else { None }
}

/// Reads what `lock_json` wrote.
pub(super) fn lock_from_json(bytes: &[u8]) -> Result<types::ObjectLockConfiguration, serde_json::Error> {
    let lock: Lock = serde_json::from_slice(bytes)?;
    let rule = lock.mode.map(|mode| {
        let retention = types::DefaultRetention::builder()
            .mode(types::ObjectLockRetentionMode::from(mode.as_str()))
            .set_days(lock.days)
            .set_years(lock.years)
            .build();
        types::ObjectLockRule::builder().default_retention(retention).build()
    });
    let enabled = lock.enabled.then_some(types::ObjectLockEnabled::Enabled);
    Ok(types::ObjectLockConfiguration::builder().set_object_lock_enabled(enabled).set_rule(rule).build())
}

/// Returns the rules as JSON, nothing for none.
pub(super) fn lifecycle_json(rules: &[types::LifecycleRule]) -> Option<Vec<u8>> {
    let rules: Vec<Lifecycle> = rules.iter().map(read_rule).collect();
    if rules.is_empty() { None } else { json(&rules) }
}

fn read_rule(rule: &types::LifecycleRule) -> Lifecycle {
    #[expect(deprecated, reason = "old rules have their prefix here and must come back with it")]
    let prefix = rule.prefix.clone();
    let class = |class: &types::TransitionStorageClass| class.as_str().to_owned();
    Lifecycle {
        status: rule.status().as_str().to_owned(),
        id: rule.id.clone(),
        prefix,
        filter: rule.filter().map(read_filter),
        expiration: rule.expiration().map(|expiration| Expiration {
            date: expiration.date().map(moment),
            days: expiration.days(),
            delete_marker: expiration.expired_object_delete_marker(),
        }),
        transitions: rule
            .transitions()
            .iter()
            .map(|step| Transition {
                date: step.date().map(moment),
                days: step.days(),
                storage_class: step.storage_class().map(class),
            })
            .collect(),
        noncurrent_transitions: rule
            .noncurrent_version_transitions()
            .iter()
            .map(|step| NoncurrentTransition {
                days: step.noncurrent_days(),
                storage_class: step.storage_class().map(class),
                newer_versions: step.newer_noncurrent_versions(),
            })
            .collect(),
        noncurrent_expiration: rule.noncurrent_version_expiration().map(|expiration| NoncurrentExpiration {
            days: expiration.noncurrent_days(),
            newer_versions: expiration.newer_noncurrent_versions(),
        }),
        abort_multipart_days: rule.abort_incomplete_multipart_upload().and_then(|abort| abort.days_after_initiation()),
    }
}

fn read_filter(filter: &types::LifecycleRuleFilter) -> Filter {
    let pair = |tag: &types::Tag| (tag.key().to_owned(), tag.value().to_owned());
    match filter.and() {
        Some(and) => Filter {
            and: true,
            prefix: and.prefix.clone(),
            tags: and.tags().iter().map(pair).collect(),
            greater_than: and.object_size_greater_than(),
            less_than: and.object_size_less_than(),
        },
        None => Filter {
            and: false,
            prefix: filter.prefix.clone(),
            tags: filter.tag().map(pair).into_iter().collect(),
            greater_than: filter.object_size_greater_than(),
            less_than: filter.object_size_less_than(),
        },
    }
}

/// Reads what `lifecycle_json` wrote.
pub(super) fn lifecycle_from_json(bytes: &[u8]) -> Result<Vec<types::LifecycleRule>, serde_json::Error> {
    serde_json::from_slice::<Vec<Lifecycle>>(bytes)?.into_iter().map(write_rule).collect()
}

fn write_rule(rule: Lifecycle) -> Result<types::LifecycleRule, serde_json::Error> {
    let class = |class: String| types::TransitionStorageClass::from(class.as_str());
    let expiration = match rule.expiration {
        None => None,
        Some(expiration) => Some(
            types::LifecycleExpiration::builder()
                .set_date(date(expiration.date)?)
                .set_days(expiration.days)
                .set_expired_object_delete_marker(expiration.delete_marker)
                .build(),
        ),
    };
    let mut written = types::LifecycleRule::builder()
        .status(types::ExpirationStatus::from(rule.status.as_str()))
        .set_id(rule.id)
        .set_filter(rule.filter.map(write_filter).transpose()?)
        .set_expiration(expiration);
    if let Some(prefix) = rule.prefix {
        #[expect(deprecated, reason = "old rules have their prefix here and must come back with it")]
        {
            written = written.prefix(prefix);
        }
    }
    for step in rule.transitions {
        let step = types::Transition::builder()
            .set_date(date(step.date)?)
            .set_days(step.days)
            .set_storage_class(step.storage_class.map(class));
        written = written.transitions(step.build());
    }
    for step in rule.noncurrent_transitions {
        let step = types::NoncurrentVersionTransition::builder()
            .set_noncurrent_days(step.days)
            .set_storage_class(step.storage_class.map(class))
            .set_newer_noncurrent_versions(step.newer_versions);
        written = written.noncurrent_version_transitions(step.build());
    }
    let noncurrent = rule.noncurrent_expiration.map(|expiration| {
        types::NoncurrentVersionExpiration::builder()
            .set_noncurrent_days(expiration.days)
            .set_newer_noncurrent_versions(expiration.newer_versions)
            .build()
    });
    let abort = rule
        .abort_multipart_days
        .map(|days| types::AbortIncompleteMultipartUpload::builder().days_after_initiation(days).build());
    written
        .set_noncurrent_version_expiration(noncurrent)
        .set_abort_incomplete_multipart_upload(abort)
        .build()
        .map_err(unbuilt)
}

fn write_filter(filter: Filter) -> Result<types::LifecycleRuleFilter, serde_json::Error> {
    let tag = |(name, value): (String, String)| types::Tag::builder().key(name).value(value).build().map_err(unbuilt);
    let mut tags = filter.tags.into_iter().map(tag).collect::<Result<Vec<_>, _>>()?;
    if filter.and {
        let and = types::LifecycleRuleAndOperator::builder()
            .set_prefix(filter.prefix)
            .set_tags((!tags.is_empty()).then_some(tags))
            .set_object_size_greater_than(filter.greater_than)
            .set_object_size_less_than(filter.less_than);
        return Ok(types::LifecycleRuleFilter::builder().and(and.build()).build());
    }
    if tags.len() > 1 {
        return Err(serde::de::Error::custom("several tags without `and`"));
    }
    Ok(types::LifecycleRuleFilter::builder()
        .set_prefix(filter.prefix)
        .set_tag(tags.pop())
        .set_object_size_greater_than(filter.greater_than)
        .set_object_size_less_than(filter.less_than)
        .build())
}

fn date(text: Option<String>) -> Result<Option<DateTime>, serde_json::Error> {
    text.map(|text| DateTime::from_str(&text, DateTimeFormat::DateTime).map_err(serde::de::Error::custom)).transpose()
}

fn unbuilt(error: BuildError) -> serde_json::Error {
    serde::de::Error::custom(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifecycle_rule_keeps_every_condition() {
        let and = types::LifecycleRuleAndOperator::builder()
            .prefix("tmp/")
            .tags(types::Tag::builder().key("a").value("b").build().unwrap())
            .object_size_greater_than(7)
            .object_size_less_than(9)
            .build();
        let rule = types::LifecycleRule::builder()
            .status(types::ExpirationStatus::Enabled)
            .id("sweep")
            .filter(types::LifecycleRuleFilter::builder().and(and).build())
            .expiration(types::LifecycleExpiration::builder().date(DateTime::from_secs(1_700_006_400)).build())
            .transitions(types::Transition::builder().days(3).storage_class("GLACIER".into()).build())
            .noncurrent_version_expiration(types::NoncurrentVersionExpiration::builder().noncurrent_days(4).build())
            .abort_incomplete_multipart_upload(
                types::AbortIncompleteMultipartUpload::builder().days_after_initiation(5).build(),
            )
            .build()
            .unwrap();
        let stored = lifecycle_json(std::slice::from_ref(&rule)).unwrap();
        assert_eq!(lifecycle_from_json(&stored).unwrap(), [rule]);
    }

    #[test]
    fn an_unknown_condition_is_refused_rather_than_dropped() {
        assert!(lifecycle_from_json(br#"[{"status":"Enabled","expiration":{"days":1},"only_if":"x"}]"#).is_err());
        assert!(
            lifecycle_from_json(br#"[{"status":"Enabled","filter":{"and":false,"tags":[["a","b"],["c","d"]]}}]"#)
                .is_err()
        );
    }

    #[test]
    fn cors_and_lock_rules_come_back() {
        let rule = types::CorsRule::builder()
            .allowed_methods("GET")
            .allowed_origins("https://example.org")
            .expose_headers("ETag")
            .max_age_seconds(60)
            .build()
            .unwrap();
        let stored = cors_json(std::slice::from_ref(&rule)).unwrap();
        assert_eq!(cors_from_json(&stored).unwrap(), [rule]);
        let stored = br#"{"enabled":true,"mode":"GOVERNANCE","days":2}"#;
        assert_eq!(lock_json(&lock_from_json(stored).unwrap()).unwrap(), stored);
    }
}
