//! The side of the misbehaving server that takes objects: whole, in parts, on conditions.

use super::s3_fault::{End, Object, Request, Response, Upload, World};

/// Answers one of the operations that change something, and the list of unfinished puts.
pub(super) fn answer(world: &mut World, operation: &str, bucket: &str, key: &str, request: &Request) -> Response {
    if !world.buckets.contains_key(bucket) {
        return Response::error(404, "NoSuchBucket");
    }
    if world.faults.no_classes && request.headers.contains_key("x-amz-storage-class") {
        return Response::error(400, "InvalidStorageClass");
    }
    let path = format!("{bucket}/{key}");
    let id = request.query.get("uploadId").cloned().unwrap_or_default();
    match operation {
        "PutObject" => finish_put(world, bucket, key, request, request.body.clone()),
        "CreateMultipartUpload" => {
            let id = format!("upload-{}", world.requests);
            world.uploads.insert(id.clone(), Upload { path, ..Upload::default() });
            let id = format!("<UploadId>{id}</UploadId>");
            Response::xml(format!("<InitiateMultipartUploadResult>{id}</InitiateMultipartUploadResult>"))
        }
        "UploadPart" => upload_part(world, &id, request),
        "CompleteMultipartUpload" => {
            let Some(upload) = world.uploads.get(&id) else { return Response::error(404, "NoSuchUpload") };
            let whole = upload.parts.values().flatten().copied().collect();
            let mut response = finish_put(world, bucket, key, request, whole);
            if response.status == 200 {
                world.uploads.remove(&id);
                let body = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>";
                response = Response::xml(body.to_owned());
            }
            response
        }
        "AbortMultipartUpload" => match world.uploads.remove(&id) {
            Some(_) => Response::new(204, Vec::new()),
            None => Response::error(404, "NoSuchUpload"),
        },
        "DeleteObject" => {
            world.buckets.get_mut(bucket).and_then(|objects| objects.remove(key));
            Response::new(204, Vec::new())
        }
        "ListMultipartUploads" => list_uploads(world, bucket),
        other => unreachable!("{other} is none of them"),
    }
}

fn finish_put(world: &mut World, bucket: &str, key: &str, request: &Request, bytes: Vec<u8>) -> Response {
    let is_conditional = request.headers.contains_key("if-none-match");
    if is_conditional && world.faults.no_conditions {
        return Response::error(501, "NotImplemented");
    }
    let is_taken = world.buckets.get(bucket).is_some_and(|objects| objects.contains_key(key));
    if is_conditional && is_taken && !world.faults.ignore_conditions {
        return Response::error(412, "PreconditionFailed");
    }
    let state = world.requests;
    let is_kept = |name: &str| name == "content-type" || name.starts_with("x-amz-meta-");
    let headers =
        request.headers.iter().filter(|(name, _)| is_kept(name)).map(|(name, value)| (name.clone(), value.clone()));
    world.put(bucket, key, Object { headers: headers.collect(), ..Object::new(&bytes, state) });
    if world.faults.lose_puts > 0 {
        world.faults.lose_puts -= 1;
        return Response::silence(End::Cut);
    }
    let mut response = Response::new(200, Vec::new());
    response.headers.push(("etag".to_owned(), format!("\"{state:032x}\"")));
    response
}

fn upload_part(world: &mut World, id: &str, request: &Request) -> Response {
    if let Some((times, status, code)) = world.faults.refuse_parts
        && times > 0
    {
        world.faults.refuse_parts = Some((times - 1, status, code));
        return Response::error(status, code);
    }
    let Some(upload) = world.uploads.get_mut(id) else { return Response::error(404, "NoSuchUpload") };
    let number = request.query.get("partNumber").expect("a part has a number").parse().expect("it is one");
    upload.parts.insert(number, request.body.clone());
    let mut response = Response::new(200, Vec::new());
    response.headers.push(("etag".to_owned(), format!("\"part-{number}\"")));
    response
}

fn list_uploads(world: &World, bucket: &str) -> Response {
    let mut body = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>".to_owned();
    for (id, upload) in &world.uploads {
        if let Some(key) = upload.path.strip_prefix(&format!("{bucket}/")) {
            let initiated = "2026-01-02T03:04:05.000Z";
            body.push_str(&format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{initiated}</Initiated></Upload>"
            ));
        }
    }
    Response::xml(body + "</ListMultipartUploadsResult>")
}
