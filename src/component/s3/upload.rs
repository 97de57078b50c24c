//! Writing one object with everything that was stored of it, and looking whether it arrived.

use std::sync::Arc;

use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::primitives::ByteStream as SdkBody;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, StorageClass};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::attributes::{Attributes, STORAGE_CLASS, differences, metadata, tagging_header, text};
use super::client::{Server, Tags, place};
use super::{Error, Place};
use crate::component::{self, ByteStream, Entry};

/// Parts of one upload that S3 allows.
const PARTS_MAX: u64 = 10_000;

/// Writes objects into one bucket.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) server: Arc<Server>,
    pub(super) bucket: String,
    /// Sent with the content where the bucket asks for it; some servers fail on checksums.
    pub(super) checksum: Option<ChecksumAlgorithm>,
}

/// How an upload went wrong: the object's own trouble, or the end of the restore.
pub(super) enum Trouble {
    /// The server did not take this object.
    Object(Error),
    /// Nothing further can be done (the repository failed, the server is gone).
    Restore(component::Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if error.is_hopeless() { Self::Restore(error.into()) } else { Self::Object(error) }
    }
}

/// Reads content of a known length into memory; the caller bounds the length.
pub(super) async fn gather(mut body: ByteStream, place: Box<Place>, len: u64) -> Result<Bytes, component::Error> {
    let capacity = usize::try_from(len).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(capacity);
    while let Some(run) = body.next().await {
        bytes.extend_from_slice(&run?.bytes);
        if bytes.len() > capacity {
            break;
        }
    }
    if bytes.len() != capacity {
        let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        return Err(Error::BodyLength { place, expected: len, got }.into());
    }
    Ok(bytes.freeze())
}

impl Writer {
    /// Returns in what the target's object differs from the stored one, `None` where it is gone.
    pub(super) async fn compare(&self, entry: &Entry, key: &str) -> Result<Option<Vec<String>>, Error> {
        let Some(mut head) = self.server.head(&self.bucket, key).await? else { return Ok(None) };
        match self.server.tags(&self.bucket, key).await? {
            Tags::Gone => return Ok(None),
            Tags::NotSupported => {}
            Tags::Known(tags) => {
                let attributes = tags.into_iter().map(|(name, value)| (format!("tag:{name}"), value.into_bytes()));
                head.attributes.extend(attributes);
            }
        }
        if head.len != entry.len {
            let place = self.place("HeadObject", key);
            return Err(Error::UploadNotWhole { place, expected: entry.len, got: head.len });
        }
        Ok(Some(differences(&entry.attributes, &head.attributes)))
    }

    /// Writes an object from memory and verifies it; returns warnings about what the server did not keep.
    pub(super) async fn put(&self, entry: &Entry, key: &str, bytes: Bytes) -> Result<Vec<String>, Error> {
        let class = storage_class(&entry.attributes);
        let mut warnings = Vec::new();
        if let Err(refused) = self.put_as(entry, key, bytes.clone(), class.clone()).await {
            if class.is_none() || !is_about_storage_class(&refused) {
                return Err(refused);
            }
            warnings.push(self.without_class(key));
            self.put_as(entry, key, bytes, None).await?;
        }
        warnings.extend(self.verify(entry, key).await?);
        Ok(warnings)
    }

    async fn put_as(&self, entry: &Entry, key: &str, bytes: Bytes, class: Option<StorageClass>) -> Result<(), Error> {
        let attributes = &entry.attributes;
        let header = |name: &str| text(attributes, name).map(str::to_owned);
        self.server
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_cache_control(header("cache-control"))
            .set_content_disposition(header("content-disposition"))
            .set_content_encoding(header("content-encoding"))
            .set_content_language(header("content-language"))
            .set_content_type(header("content-type"))
            .set_website_redirect_location(header("website-redirect"))
            .set_storage_class(class)
            .set_checksum_algorithm(self.checksum.clone())
            .set_metadata(Some(metadata(attributes)))
            .set_tagging(self.tagging(attributes))
            .body(SdkBody::from(bytes))
            .customize()
            .config_override(self.limits(entry.len))
            .mutate_request(raw_expires(attributes))
            .send()
            .await
            .map_err(|error| self.server.classify(error, self.place("PutObject", key)))?;
        Ok(())
    }

    /// Writes a long object in parts, one after another, and verifies it. An upload that fails is aborted, so
    /// that its parts do not stay on the server.
    pub(super) async fn put_parts(
        &self,
        entry: &Entry,
        key: &str,
        body: ByteStream,
        part_len: u64,
    ) -> Result<Vec<String>, Trouble> {
        let class = storage_class(&entry.attributes);
        let mut warnings = Vec::new();
        let id = match self.begin(entry, key, class.clone()).await {
            Err(refused) if class.is_some() && is_about_storage_class(&refused) => {
                warnings.push(self.without_class(key));
                self.begin(entry, key, None).await?
            }
            begun => begun?,
        };
        let sent = match self.send_parts(entry, key, &id, body, part_len).await {
            Ok(parts) => self.complete(key, &id, parts).await.map_err(Trouble::from),
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = sent {
            // The first failure is what counts; parts that stay are the server's to expire.
            let abort = self.server.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(&id);
            let _aborted = abort.send().await;
            return Err(trouble);
        }
        warnings.extend(self.verify(entry, key).await?);
        Ok(warnings)
    }

    fn without_class(&self, key: &str) -> String {
        format!("{}/{}: the storage class was not restored", self.bucket, key.escape_debug())
    }

    async fn begin(&self, entry: &Entry, key: &str, class: Option<StorageClass>) -> Result<String, Error> {
        let attributes = &entry.attributes;
        let header = |name: &str| text(attributes, name).map(str::to_owned);
        let answer = self
            .server
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .set_cache_control(header("cache-control"))
            .set_content_disposition(header("content-disposition"))
            .set_content_encoding(header("content-encoding"))
            .set_content_language(header("content-language"))
            .set_content_type(header("content-type"))
            .set_website_redirect_location(header("website-redirect"))
            .set_storage_class(class)
            .set_checksum_algorithm(self.checksum.clone())
            .set_metadata(Some(metadata(attributes)))
            .set_tagging(self.tagging(attributes))
            .customize()
            .mutate_request(raw_expires(attributes))
            .send()
            .await
            .map_err(|error| self.server.classify(error, self.place("CreateMultipartUpload", key)))?;
        let id = answer.upload_id().map(str::to_owned);
        id.ok_or_else(|| Error::Answer { place: self.place("CreateMultipartUpload", key), field: "upload id" })
    }

    async fn send_parts(
        &self,
        entry: &Entry,
        key: &str,
        id: &str,
        mut body: ByteStream,
        part_len: u64,
    ) -> Result<Vec<CompletedPart>, Trouble> {
        let part_len = usize::try_from(part_len.max(entry.len.div_ceil(PARTS_MAX))).unwrap_or(usize::MAX);
        let mut parts = Vec::new();
        let mut pending = BytesMut::with_capacity(part_len);
        let mut sent = 0_u64;
        let mut ended = false;
        while !ended {
            match body.next().await.transpose().map_err(Trouble::Restore)? {
                Some(run) => pending.extend_from_slice(&run.bytes),
                None => ended = true,
            }
            while pending.len() >= part_len || (ended && !pending.is_empty()) {
                let part = pending.split_to(part_len.min(pending.len())).freeze();
                sent += u64::try_from(part.len()).unwrap_or(u64::MAX);
                parts.push(self.send_part(key, id, parts.len() + 1, part).await?);
            }
        }
        if sent != entry.len {
            let place = self.place("UploadPart", key);
            return Err(Trouble::Restore(Error::BodyLength { place, expected: entry.len, got: sent }.into()));
        }
        Ok(parts)
    }

    async fn send_part(&self, key: &str, id: &str, number: usize, part: Bytes) -> Result<CompletedPart, Error> {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let request = self.server.client.upload_part().bucket(&self.bucket).key(key).upload_id(id).part_number(number);
        let request = request.set_checksum_algorithm(self.checksum.clone());
        let limits = self.limits(u64::try_from(part.len()).unwrap_or(u64::MAX));
        let answer = request.body(SdkBody::from(part)).customize().config_override(limits).send().await;
        let answer = answer.map_err(|error| self.server.classify(error, self.place("UploadPart", key)))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .set_checksum_crc32(answer.checksum_crc32)
            .build())
    }

    async fn complete(&self, key: &str, id: &str, parts: Vec<CompletedPart>) -> Result<(), Error> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.server.client.complete_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
        let answer =
            request.multipart_upload(parts).customize().config_override(self.server.assembly_limits()).send().await;
        answer.map_err(|error| self.server.classify(error, self.place("CompleteMultipartUpload", key)))?;
        Ok(())
    }

    /// Deletes an object that the snapshot does not have.
    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        let answer = self.server.client.delete_object().bucket(&self.bucket).key(key).send().await;
        answer.map_err(|error| self.server.classify(error, self.place("DeleteObject", key)))?;
        Ok(())
    }

    async fn verify(&self, entry: &Entry, key: &str) -> Result<Vec<String>, Error> {
        let shown = key.escape_debug();
        match self.compare(entry, key).await? {
            None => {
                let place = self.place("HeadObject", key);
                Err(Error::UploadNotWhole { place, expected: entry.len, got: 0 })
            }
            Some(names) if names.is_empty() => Ok(Vec::new()),
            Some(names) => Ok(vec![format!("{}/{shown}: not kept by the server: {}", self.bucket, names.join(", "))]),
        }
    }

    fn limits(&self, len: u64) -> aws_sdk_s3::config::Builder {
        let limits = self.server.upload_limits(len);
        match self.checksum {
            // With "when required" the SDK leaves out even the checksum that a request asks for.
            Some(_) => limits.request_checksum_calculation(RequestChecksumCalculation::WhenSupported),
            None => limits,
        }
    }

    fn tagging(&self, attributes: &Attributes) -> Option<String> {
        tagging_header(attributes).filter(|_| !self.server.tags_unsupported())
    }

    pub(super) fn place(&self, operation: &'static str, key: &str) -> Box<Place> {
        place(operation, Some(&self.bucket), Some(key))
    }
}

/// Sets the header byte for byte: the SDK takes only dates, and `0` is what many objects have.
fn raw_expires(attributes: &Attributes) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
    let value = text(attributes, "expires").map(str::to_owned);
    move |request| {
        if let Some(value) = value.clone() {
            // What is no header value is then found missing by the comparison after the upload.
            let _set = request.headers_mut().try_insert("expires", value);
        }
    }
}

/// `STANDARD` is what every server does anyway, and some know no classes at all.
fn storage_class(attributes: &Attributes) -> Option<StorageClass> {
    text(attributes, STORAGE_CLASS).filter(|class| *class != "STANDARD").map(StorageClass::from)
}

fn is_about_storage_class(error: &Error) -> bool {
    matches!(error, Error::Failed { code, .. } if code == "InvalidStorageClass")
        || matches!(error, Error::NotSupported { .. })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;

    use super::*;

    #[test]
    fn expires_is_sent_as_it_was_even_where_it_is_no_date() {
        for value in ["0", "Tue, 01 Jan 2030 00:00:00 GMT", "Tuesday, 01-Jan-30 00:00:00 GMT"] {
            let attributes = Attributes::from([("expires".to_owned(), value.as_bytes().to_vec())]);
            let mut request = HttpRequest::new(SdkBody::empty());
            raw_expires(&attributes)(&mut request);
            assert_eq!(request.headers().get("expires"), Some(value));
        }
        let mut request = HttpRequest::new(SdkBody::empty());
        raw_expires(&Attributes::new())(&mut request);
        raw_expires(&Attributes::from([("expires".to_owned(), b"a\nb".to_vec())]))(&mut request);
        assert_eq!(request.headers().get("expires"), None);
    }

    #[test]
    fn the_standard_storage_class_is_not_asked_for() {
        let class = |class: &str| Attributes::from([(STORAGE_CLASS.to_owned(), class.as_bytes().to_vec())]);
        assert_eq!(storage_class(&class("STANDARD")), None);
        assert_eq!(storage_class(&class("REDUCED_REDUNDANCY")), Some(StorageClass::ReducedRedundancy));
    }
}
