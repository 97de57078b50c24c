//! An S3 server in this process that misbehaves on order, as no real one does on demand.
//! Strict: a request that it does not know is remembered and fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::s3_fault_puts;

/// An object of the fake server.
#[derive(Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    pub(crate) etag: String,
    pub(crate) modified: String,
    /// Sent with HEAD, never with GET.
    pub(crate) headers: Vec<(String, String)>,
}

impl Object {
    pub(crate) fn new(bytes: &[u8], state: u32) -> Self {
        Self {
            bytes: bytes.to_vec(),
            etag: format!("\"{state:032x}\""),
            modified: format!("2026-01-02T03:04:05.{state:03}Z"),
            headers: vec![("content-type".to_owned(), "image/png".to_owned())],
        }
    }
}

/// What a listing makes of a key.
#[derive(Default, Clone, Copy)]
pub(crate) enum KeyWriting {
    /// Encoded, `+` for a space: as S3 does.
    #[default]
    Form,
    /// Encoded but for `+`.
    Path,
    /// As it is.
    Raw,
}

/// What to do wrong.
#[derive(Default)]
pub(crate) struct Faults {
    /// After this many keys of a page, claim that it was the last.
    pub(crate) early_end: Option<usize>,
    /// Send the same continuation token for ever.
    pub(crate) repeat_token: bool,
    /// List every page from the start of the bucket.
    pub(crate) ignore_token: bool,
    /// `bucket/key`s that the listing of a bucket does not show, while one of the key alone does.
    pub(crate) omit: BTreeSet<String>,
    /// Listings that answer 404 NoSuchBucket before one is right.
    pub(crate) flaps: u32,
    /// Requests that answer 503 before one is right.
    pub(crate) busy: u32,
    /// HEADs of objects that answer 404 before one is right.
    pub(crate) deny_heads: u32,
    /// Bodies that are cut in their middle before one is whole.
    pub(crate) cut_bodies: u32,
    /// Ignores ranges: the whole body, whatever was asked.
    pub(crate) ignore_range: bool,
    /// `bucket/key` that becomes another object after it was asked for with HEAD; `None`: it goes.
    pub(crate) swap_after_head: BTreeMap<String, Option<Object>>,
    /// Answers the list of buckets with this status and code.
    pub(crate) refuse_buckets: Option<(u16, &'static str)>,
    /// Buckets that are not in the list of buckets.
    pub(crate) hide_buckets: BTreeSet<String>,
    /// Finds no condition fulfilled, whatever the etag.
    pub(crate) refuse_conditions: bool,
    /// Answers every question about whether a bucket exists with 403.
    pub(crate) refuse_bucket_heads: bool,
    /// Knows no object tags.
    pub(crate) no_tags: bool,
    /// Answers every k-th GET of an object (counted from 1) with 500.
    pub(crate) broken_get: Option<u32>,
    /// Answers every k-th request (counted from 1) with 503.
    pub(crate) busy_every: Option<u32>,
    /// Answers everything with this status and code.
    pub(crate) refuse_all: Option<(u16, &'static str)>,
    /// Requests that are never answered, before one is.
    pub(crate) silent: u32,
    /// Bodies that stop in their middle and never end, before one is whole.
    pub(crate) stall_bodies: u32,
    /// Puts as if nobody had asked for a condition.
    pub(crate) ignore_conditions: bool,
    /// Knows no conditional puts, and says so.
    pub(crate) no_conditions: bool,
    /// Puts that take effect and are never answered: the connection ends.
    pub(crate) lose_puts: u32,
    /// Answers parts of puts with this status and code, so many times.
    pub(crate) refuse_parts: Option<(u32, u16, &'static str)>,
    /// Bodies of objects come so many bytes at a time, with a pause behind each.
    pub(crate) drip: Option<(usize, Duration)>,
    /// Requests that are answered with a page for people, before one is right.
    pub(crate) garbled: u32,
    /// Answers with half of what was announced, of so many listings.
    pub(crate) cut_listings: u32,
    /// A page of a listing that another follows ends only when that one was asked for.
    pub(crate) late_pages: bool,
    /// A setting of a bucket is answered to its end only when all six were asked for.
    pub(crate) late_settings: bool,
    /// Knows no storage classes, and says so.
    pub(crate) no_classes: bool,
    /// How keys are written in listings that say that they are encoded.
    pub(crate) keys: KeyWriting,
    /// Every answer comes so much later.
    pub(crate) latency: Duration,
}

/// A put in parts that has not ended.
#[derive(Default)]
pub(crate) struct Upload {
    /// `bucket/key`.
    pub(crate) path: String,
    pub(crate) parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) buckets: BTreeMap<String, BTreeMap<String, Object>>,
    pub(crate) tags: BTreeMap<String, Vec<(String, String)>>,
    pub(crate) faults: Faults,
    pub(crate) page_len: usize,
    /// The last key of the last page, for tokens that say nothing.
    pub(crate) last_shown: String,
    /// Operations answered, by name.
    pub(crate) counts: BTreeMap<&'static str, u32>,
    /// Requests that no test expects.
    pub(crate) unexpected: Vec<String>,
    /// Puts in parts, by id.
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// Requests so far.
    pub(crate) requests: u32,
    /// When how many bytes of bodies came.
    pub(crate) arrived: Vec<(Instant, usize)>,
}

impl World {
    pub(crate) fn put(&mut self, bucket: &str, key: &str, object: Object) {
        self.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), object);
    }
}

impl World {
    /// Returns the keys of the rows that a capture of everything has, in order.
    pub(crate) fn row_keys(&self) -> Vec<String> {
        let rows = self.buckets.iter().flat_map(|(bucket, objects)| {
            let objects = objects.keys().map(move |key| format!("{bucket}/{key}"));
            std::iter::once(format!("{bucket}/")).chain(objects)
        });
        let mut rows: Vec<String> = rows.collect();
        rows.sort();
        rows
    }
}

/// The server; it ends with the test's runtime.
pub(crate) struct FaultyS3 {
    pub(crate) endpoint: String,
    world: Arc<Mutex<World>>,
}

impl FaultyS3 {
    pub(crate) async fn start(world: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
        let world = Arc::new(Mutex::new(world));
        let shared = Arc::clone(&world);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        Self { endpoint, world }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics while it holds this")
    }

    /// Returns the counts and starts them anew; fails on unexpected requests.
    pub(crate) fn take_counts(&self) -> BTreeMap<&'static str, u32> {
        let mut world = self.world();
        assert_eq!(world.unexpected, [""; 0], "unexpected requests");
        std::mem::take(&mut world.counts)
    }
}

pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Whole,
    /// The connection ends before the body does.
    Cut,
    /// Nothing more comes, and the connection stays.
    Stalled,
    /// As it should, when there were so many requests for this.
    After(&'static str, u32),
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes of the body that are really sent.
    sent: usize,
    announced: usize,
    /// Bytes of the answer are sent at all.
    is_silent: bool,
    pub(super) end: End,
}

impl Response {
    pub(super) fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            sent: body.len(),
            announced: body.len(),
            is_silent: false,
            end: End::Whole,
            body,
        }
    }

    pub(super) fn xml(body: String) -> Self {
        Self::new(200, body.into_bytes())
    }

    /// The same, broken off in the middle.
    fn cut(self) -> Self {
        Self { sent: self.sent / 2, end: End::Cut, ..self }
    }

    /// No answer.
    pub(super) fn silence(end: End) -> Self {
        Self { is_silent: true, end, ..Self::new(0, Vec::new()) }
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!("<Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes())
    }
}

async fn serve(mut socket: TcpStream, world: Arc<Mutex<World>>) {
    let Some(request) = read_request(&mut socket, &world).await else { return };
    let (response, latency, drip) = {
        let mut world = world.lock().expect("no test panics while it holds this");
        (answer(&mut world, &request), world.faults.latency, world.faults.drip)
    };
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    if response.is_silent {
        return hold(socket, response.end).await;
    }
    let mut head =
        format!("HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {}\r\n", response.status, response.announced);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // The client may have gone: that is its right.
    let _sent = socket.write_all(head.as_bytes()).await;
    if request.method != "HEAD" {
        let (bytes, pause) = drip.unwrap_or((usize::MAX, Duration::ZERO));
        let (start, rest) = match response.end {
            End::After(..) => response.body[..response.sent].split_at(response.sent - 1),
            _ => (&response.body[..response.sent], &[][..]),
        };
        for piece in start.chunks(bytes) {
            if socket.write_all(piece).await.is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        if let End::After(operation, count) = response.end {
            let asked = || world.lock().expect("no test panics while it holds this").counts[operation];
            while asked() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let _sent = socket.write_all(rest).await;
        }
    }
    hold(socket, response.end).await;
}

/// Ends the connection, or waits until the client does.
async fn hold(mut socket: TcpStream, end: End) {
    if end == End::Stalled {
        let _gone = socket.read(&mut [0; 1]).await;
    }
    let _closed = socket.shutdown().await;
}

async fn read_request(socket: &mut TcpStream, world: &Mutex<World>) -> Option<Request> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(&mut received).await.ok()? == 0 || received.len() > 1 << 16 {
            return None;
        }
    };
    let head = String::from_utf8(received[..end].to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers: BTreeMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    if headers.get("expect").is_some_and(|expected| expected == "100-continue") {
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
    }
    let len = headers.get("content-length").map_or(0, |len| len.parse().expect("a length is a number"));
    let mut body = received.split_off(end + 4);
    let arrived = |len| world.lock().expect("no test panics while it holds this").arrived.push((Instant::now(), len));
    arrived(body.len());
    while body.len() < len {
        match socket.read_buf(&mut body).await.ok()? {
            0 => return None,
            len => arrived(len),
        }
    }
    Some(Request {
        method,
        path: decode(path),
        query: query.split('&').filter(|part| !part.is_empty()).map(pair).collect(),
        headers,
        body,
    })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(&others[..2]).expect("two digits");
            bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    String::from_utf8(bytes).expect("keys are UTF-8")
}

fn encode(text: &str, keys: KeyWriting) -> String {
    match keys {
        KeyWriting::Form => {}
        KeyWriting::Path => {
            return encode(text, KeyWriting::Form).replace('+', "%20").replace("%2B", "+");
        }
        KeyWriting::Raw => return text.replace('&', "&amp;").replace('<', "&lt;"),
    }
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => char::from(byte).to_string(),
        b' ' => "+".to_owned(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn answer(world: &mut World, request: &Request) -> Response {
    world.requests += 1;
    if let Some((status, code)) = world.faults.refuse_all {
        return Response::error(status, code);
    }
    if world.faults.silent > 0 {
        world.faults.silent -= 1;
        return Response::silence(End::Stalled);
    }
    if world.faults.garbled > 0 {
        world.faults.garbled -= 1;
        return Response::xml("<html><body>Please log in".to_owned());
    }
    if world.faults.busy > 0 {
        world.faults.busy -= 1;
        return Response::error(503, "SlowDown");
    }
    if world.faults.busy_every.is_some_and(|every| world.requests.is_multiple_of(every)) {
        return Response::error(503, "SlowDown");
    }
    let path = request.path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').map_or((path, ""), |(bucket, key)| (bucket, key));
    let has = |name: &str| request.query.contains_key(name);
    let operation = match (request.method.as_str(), bucket, key) {
        ("GET", "", "") => "ListBuckets",
        ("HEAD", _, "") => "HeadBucket",
        ("GET", _, "") if has("list-type") => "ListObjectsV2",
        ("GET", _, "") if has("uploads") => "ListMultipartUploads",
        ("GET", _, "") => "GetBucketSetting",
        ("HEAD", _, _) => "HeadObject",
        ("GET", _, _) if has("tagging") => "GetObjectTagging",
        ("GET", _, _) => "GetObject",
        ("PUT", _, key) if !key.is_empty() && has("uploadId") => "UploadPart",
        ("PUT", _, key) if !key.is_empty() => "PutObject",
        ("POST", _, key) if !key.is_empty() && has("uploads") => "CreateMultipartUpload",
        ("POST", _, key) if !key.is_empty() && has("uploadId") => "CompleteMultipartUpload",
        ("DELETE", _, key) if !key.is_empty() && has("uploadId") => "AbortMultipartUpload",
        ("DELETE", _, key) if !key.is_empty() => "DeleteObject",
        _ => "unexpected",
    };
    *world.counts.entry(operation).or_default() += 1;
    match operation {
        "ListBuckets" => list_buckets(world),
        "HeadBucket" if world.faults.refuse_bucket_heads => Response::new(403, Vec::new()),
        "HeadBucket" if world.buckets.contains_key(bucket) => Response::new(200, Vec::new()),
        "HeadBucket" => Response::new(404, Vec::new()),
        "ListObjectsV2" if world.faults.cut_listings > 0 => {
            world.faults.cut_listings -= 1;
            list_objects(world, bucket, request).cut()
        }
        "ListObjectsV2" => list_objects(world, bucket, request),
        "GetBucketSetting" => {
            let end = if world.faults.late_settings { End::After(operation, 6) } else { End::Whole };
            Response { end, ..Response::error(501, "NotImplemented") }
        }
        "HeadObject" => head_object(world, bucket, key),
        "GetObjectTagging" => tagging(world, bucket, key),
        "GetObject" => get_object(world, bucket, key, request),
        "ListMultipartUploads"
        | "UploadPart"
        | "PutObject"
        | "CreateMultipartUpload"
        | "CompleteMultipartUpload"
        | "AbortMultipartUpload"
        | "DeleteObject" => s3_fault_puts::answer(world, operation, bucket, key, request),
        _ => {
            world.unexpected.push(format!("{} {}", request.method, request.path));
            Response::error(500, "Unexpected")
        }
    }
}

fn list_buckets(world: &World) -> Response {
    if let Some((status, code)) = world.faults.refuse_buckets {
        return Response::error(status, code);
    }
    let shown = world.buckets.keys().filter(|name| !world.faults.hide_buckets.contains(*name));
    let buckets: String = shown.map(|name| format!("<Bucket><Name>{name}</Name></Bucket>")).collect();
    Response::xml(format!("<ListAllMyBucketsResult><Buckets>{buckets}</Buckets></ListAllMyBucketsResult>"))
}

fn list_objects(world: &mut World, bucket: &str, request: &Request) -> Response {
    assert_eq!(request.query.get("encoding-type").map(String::as_str), Some("url"), "keys must be asked for encoded");
    if world.faults.flaps > 0 {
        world.faults.flaps -= 1;
        return Response::error(404, "NoSuchBucket");
    }
    let Some(objects) = world.buckets.get(bucket) else { return Response::error(404, "NoSuchBucket") };
    let parameter = |name: &str| request.query.get(name).cloned();
    let token = parameter("continuation-token").filter(|_| !world.faults.ignore_token);
    let after = parameter("start-after").or(token.map(|token| token.trim_start_matches("token-").to_owned()));
    let after = if after.as_deref() == Some("same") { Some(world.last_shown.clone()) } else { after };
    let prefix = parameter("prefix").unwrap_or_default();
    let max: usize = parameter("max-keys").expect("max-keys is asked for").parse().expect("it is a number");
    assert!(max <= 1000, "more than 1000 keys confuse servers");
    let mut page_len = max.min(world.page_len.max(1));
    let visible: Vec<(&String, &Object)> = objects
        .range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded))
        .filter(|(key, _)| key.starts_with(&prefix))
        .filter(|(key, _)| !prefix.is_empty() || !world.faults.omit.contains(&format!("{bucket}/{key}")))
        .take(page_len + 1)
        .collect();
    let mut truncated = visible.len() > page_len;
    if let Some(keys) = world.faults.early_end.filter(|keys| visible.len() > *keys) {
        page_len = page_len.min(keys);
        truncated = false;
    }
    let mut body = format!("<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{truncated}</IsTruncated>");
    for (key, object) in visible.iter().take(page_len) {
        body.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
            encode(key, world.faults.keys), object.modified, object.etag.replace('"', "&quot;"), object.bytes.len()
        ));
    }
    if let Some((last, _)) = visible.get(page_len.wrapping_sub(1)).filter(|_| truncated) {
        let token = if world.faults.repeat_token { "same" } else { &encode(last, KeyWriting::Raw) };
        body.push_str(&format!("<NextContinuationToken>token-{token}</NextContinuationToken>"));
    }
    let last_shown = visible.get(page_len.wrapping_sub(1)).or(visible.last()).map(|(key, _)| (*key).clone());
    world.last_shown = last_shown.unwrap_or_default();
    let is_late = world.faults.late_pages && truncated;
    let end = if is_late { End::After("ListObjectsV2", world.counts["ListObjectsV2"] + 1) } else { End::Whole };
    Response { end, ..Response::xml(body + "</ListBucketResult>") }
}

fn head_object(world: &mut World, bucket: &str, key: &str) -> Response {
    if world.faults.deny_heads > 0 {
        world.faults.deny_heads -= 1;
        return Response::new(404, Vec::new());
    }
    let Some(object) = world.buckets.get(bucket).and_then(|objects| objects.get(key)).cloned() else {
        return Response::new(404, Vec::new());
    };
    if let Some(next) = world.faults.swap_after_head.remove(&format!("{bucket}/{key}")) {
        match next {
            Some(next) => world.put(bucket, key, next),
            None => drop(world.buckets.get_mut(bucket).and_then(|objects| objects.remove(key))),
        }
    }
    let mut response = Response::new(200, Vec::new());
    response.announced = object.bytes.len();
    response.headers.push(("etag".to_owned(), object.etag.clone()));
    response.headers.push(("last-modified".to_owned(), "Fri, 02 Jan 2026 03:04:05 GMT".to_owned()));
    response.headers.extend(object.headers);
    response
}

fn tagging(world: &World, bucket: &str, key: &str) -> Response {
    if world.faults.no_tags {
        return Response::error(501, "NotImplemented");
    }
    if !world.buckets.get(bucket).is_some_and(|objects| objects.contains_key(key)) {
        return Response::error(404, "NoSuchKey");
    }
    let tags = world.tags.get(&format!("{bucket}/{key}")).into_iter().flatten();
    let tags: String =
        tags.map(|(name, value)| format!("<Tag><Key>{name}</Key><Value>{value}</Value></Tag>")).collect();
    Response::xml(format!("<Tagging><TagSet>{tags}</TagSet></Tagging>"))
}

fn get_object(world: &mut World, bucket: &str, key: &str, request: &Request) -> Response {
    let count = world.counts["GetObject"];
    if world.faults.broken_get.is_some_and(|every| count.is_multiple_of(every)) {
        return Response::error(500, "InternalError");
    }
    let Some(object) = world.buckets.get(bucket).and_then(|objects| objects.get(key)) else {
        return Response::error(404, "NoSuchKey");
    };
    let refuse = world.faults.refuse_conditions;
    if request.headers.get("if-match").is_some_and(|etag| refuse || *etag != object.etag) {
        return Response::error(412, "PreconditionFailed");
    }
    let total = object.bytes.len();
    let range = request.headers.get("range").filter(|_| !world.faults.ignore_range).map(|range| {
        let (from, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).expect("a range");
        let last = if last.is_empty() { u64::MAX } else { last.parse().expect("a number") };
        (from.parse::<usize>().expect("a number"), usize::try_from(last).unwrap_or(usize::MAX).min(total.max(1) - 1))
    });
    if range.is_some_and(|(from, _)| from >= total) {
        return Response::error(416, "InvalidRange");
    }
    let (from, last) = range.unwrap_or((0, total.max(1) - 1));
    let bytes = object.bytes.get(from..=last).unwrap_or_default().to_vec();
    let mut response = Response::new(if range.is_some() { 206 } else { 200 }, bytes);
    if range.is_some() {
        response.headers.push(("content-range".to_owned(), format!("bytes {from}-{last}/{total}")));
    }
    response.headers.push(("etag".to_owned(), object.etag.clone()));
    if world.faults.cut_bodies > 0 && response.body.len() > 1 {
        world.faults.cut_bodies -= 1;
        (response.sent, response.end) = (response.body.len() / 2, End::Cut);
    } else if world.faults.stall_bodies > 0 && response.body.len() > 1 {
        world.faults.stall_bodies -= 1;
        (response.sent, response.end) = (response.body.len() / 2, End::Stalled);
    }
    response
}
