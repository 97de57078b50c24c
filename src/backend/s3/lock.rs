//! Locks of objects: nobody removes or replaces what is locked before its time.

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockRetention, ObjectLockRetentionMode};

use super::client::{Refusal, S3Error};
use super::list::time;
use super::{LockMode, S3Backend};
use crate::backend::{Error, Lock, Locked, Operation, Request};
use crate::format::object::ObjectKey;

impl S3Backend {
    /// See [`crate::backend::Backend::lock`].
    pub(super) async fn lock_object(&self, key: ObjectKey, lock: Lock) -> Result<Locked, Error> {
        let bucket = &self.bucket;
        bucket.count(Request::Head, 0);
        // By HEAD: the answer of the operation that is made for this has another shape on some servers.
        let request = bucket.client.head_object().bucket(&bucket.name).key(bucket.path(key));
        let wanted = self.lock.map_or(LockMode::default(), |lock| lock.mode);
        // Of a lock that somebody may take away.
        let mut weaker = None;
        match request.send().await.map_err(Refusal::from) {
            Ok(answer) => {
                let until = answer.object_lock_retain_until_date().and_then(time);
                let is_weaker =
                    wanted == LockMode::Compliance && answer.object_lock_mode() == Some(&LockMode::Governance.sdk());
                if is_weaker {
                    weaker = until;
                } else if until.is_some_and(|until| until >= lock.least) {
                    return Ok(Locked::Before);
                }
            }
            Err(refusal) if refusal.status == 404 => {
                return Err(Error::NotFound { key, location: bucket.location() });
            }
            Err(refusal) => return Err(bucket.failed(Operation::Lock, Some(key), refusal).await),
        }
        bucket.count(Request::Lock, 0);
        let mode = match wanted {
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
            LockMode::Governance => ObjectLockRetentionMode::Governance,
        };
        // No shorter than it is.
        let until = DateTime::from(weaker.map_or(lock.until, |weaker| weaker.max(lock.until)));
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let request = bucket.client.put_object_retention().bucket(&bucket.name).key(bucket.path(key));
        let refusal = match request.retention(retention).send().await {
            Ok(_) => return Ok(Locked::Now),
            Err(error) => Refusal::from(error),
        };
        if refusal.code == "InvalidRequest" && self.has_no_locks().await {
            let name = bucket.name.clone();
            return Err(bucket.error(Operation::Lock, Some(key), S3Error::NoLocks { bucket: name }));
        }
        if weaker.is_some() && matches!(refusal.status, 400 | 403) {
            let Refusal { status, code, .. } = refusal;
            return Err(bucket.error(Operation::Lock, Some(key), S3Error::WeakerLock { status, code }));
        }
        Err(bucket.failed(Operation::Lock, Some(key), refusal).await)
    }
}
