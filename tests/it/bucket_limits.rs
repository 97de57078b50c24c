//! A limit of bandwidth holds within objects, for all transfers and stores together, and what waits for the line is not
//! taken for stuck.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use orkvault::backend::s3::{Addressing, Conditions, S3Backend, S3Credentials, S3Options, S3Patience};
use orkvault::backend::{
    Backend, Bandwidth, Error, ErrorKind, Lines, Notice, Pace, RetryBackend, RetryPolicy, Retrying,
};
use orkvault::format::id::PackId;
use orkvault::format::object::ObjectKey;

use crate::support::repository::noise;
use crate::support::s3_fault::{Faults, FaultyS3, World};

const RATE: u64 = 512 << 10;

/// The real clock.
#[derive(Debug)]
struct Real(Instant);

#[async_trait]
impl Pace for Real {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn chance(&self) -> u32 {
        0
    }
}

/// So much may be repeated.
struct AtMost(AtomicU32);

impl Notice for AtMost {
    fn retrying(&self, event: &Retrying<'_>) {
        let source = std::error::Error::source(event.error).map(ToString::to_string);
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_ok(), "{}: {source:?}", event.error);
    }
}

async fn server(faults: Faults) -> FaultyS3 {
    let buckets = BTreeMap::from([("vault".to_owned(), BTreeMap::new())]);
    FaultyS3::start(World { buckets, faults, page_len: 4, ..World::default() }).await
}

fn lines(bytes_per_sec: u64) -> Lines {
    let pace: Arc<dyn Pace> = Arc::new(Real(Instant::now()));
    Lines::new(Bandwidth { upload: Some(bytes_per_sec), download: Some(bytes_per_sec) }, &pace)
}

/// Patience is for a line of 8 MiB/s: at a sixteenth of that everything would be late.
const BYTES_PER_SEC_MIN: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_millis(800);

fn plain(server: &FaultyS3, prefix: &str, lines: &Lines) -> S3Backend {
    let made = S3Backend::new(S3Options {
        endpoint: Some(server.endpoint.clone()),
        region: "us-east-1".to_owned(),
        bucket: "vault".to_owned(),
        prefix: prefix.to_owned(),
        addressing: Addressing::Path,
        credentials: S3Credentials::fixed("user", "canary-secret", None),
        patience: S3Patience {
            read: PATIENCE,
            stalled: PATIENCE,
            bytes_per_sec_min: BYTES_PER_SEC_MIN,
            ..S3Patience::default()
        },
        conditions: Conditions::Asked,
        lock: None,
        traffic: Arc::default(),
        lines: lines.clone(),
    });
    made.unwrap()
}

/// As a run has it, where nothing is to be repeated.
fn store(server: &FaultyS3, prefix: &str, lines: &Lines) -> RetryBackend<S3Backend> {
    repeating(server, prefix, lines, 0)
}

fn repeating(server: &FaultyS3, prefix: &str, lines: &Lines, most: u32) -> RetryBackend<S3Backend> {
    let policy = RetryPolicy {
        attempt: PATIENCE,
        first_pause: Duration::from_millis(10),
        total: PATIENCE,
        bytes_per_sec_min: BYTES_PER_SEC_MIN,
        ..RetryPolicy::default()
    };
    let pace = Arc::new(Real(Instant::now()));
    RetryBackend::new(
        plain(server, prefix, lines),
        policy,
        pace,
        Arc::new(AtMost(AtomicU32::new(most))),
        Arc::default(),
    )
    .with_lines(lines.clone())
}

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId::from_bytes([number; 32]))
}

/// No more came by any moment than the line had carried since `began`, and what it may make up for.
fn assert_paced(arrived: &[(Instant, usize)], began: Instant, all: usize) {
    assert_eq!(arrived.iter().map(|(_, len)| len).sum::<usize>(), all);
    let mut sum = 0;
    for (at, len) in arrived {
        sum += len;
        let carried = (*at - began).as_secs_f64() * RATE as f64;
        let most = carried + RATE as f64 * 0.06 + f64::from(64 << 10);
        assert!(sum as f64 <= most, "{sum} bytes came in {:?}", *at - began);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_one_object_bytes_go_out_no_faster_than_the_limit_and_slow_is_not_stuck() {
    let server = server(Faults::default()).await;
    let body = Bytes::from(noise(1, 768 << 10));
    let began = Instant::now();
    let store = store(&server, "p/", &lines(RATE));
    let _ = store.put(pack(1), vec![body.clone()]).await.unwrap();
    let world = server.world();
    assert_paced(&world.arrived, began, body.len());
    assert!(world.arrived.len() > 4, "{}", world.arrived.len());
    assert!(world.buckets["vault"][&format!("p/{}", pack(1))].bytes == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_took_long_only_for_the_line_is_tried_again_and_is_traffic_again() {
    let server = server(Faults { busy: 1, ..Faults::default() }).await;
    let body = Bytes::from(noise(6, 768 << 10));
    let began = Instant::now();
    let _ = repeating(&server, "p/", &lines(RATE), 1).put(pack(1), vec![body.clone()]).await.unwrap();
    assert_paced(&server.world().arrived, began, 2 * body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_into_two_stores_share_one_line() {
    let server = server(Faults::default()).await;
    let body = Bytes::from(noise(2, 200 << 10));
    let (began, lines) = (Instant::now(), lines(RATE));
    let stores = [store(&server, "p/", &lines), store(&server, "q/", &lines)];
    let put = |number: u8| stores[usize::from(number % 2)].put(pack(number), vec![body.clone()]);
    try_join_all((0..4).map(put)).await.unwrap();
    assert_paced(&server.world().arrived, began, 4 * body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn within_one_object_bytes_come_in_no_faster_than_the_limit_and_slow_is_not_stuck() {
    let server = server(Faults::default()).await;
    let body = Bytes::from(noise(3, 1 << 20));
    let store = store(&server, "p/", &Lines::default());
    let _ = store.put(pack(1), vec![body.clone()]).await.unwrap();
    // As from a network: what comes at once is no more than a piece of this.
    server.world().faults.drip = Some((16 << 10, Duration::from_micros(100)));
    for is_range in [false, true] {
        let limited = self::store(&server, "p/", &lines(RATE));
        let began = Instant::now();
        let got = match is_range {
            false => limited.get(pack(1), 1 << 20).await,
            true => limited.get_range(pack(1), 0, 1 << 20).await,
        };
        assert!(got.unwrap() == body);
        // Two seconds, but for the last bytes that came together.
        assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_holds_up_no_other_on_its_line() {
    let (hanging, well) =
        (server(Faults { stall_bodies: 1, ..Faults::default() }).await, server(Faults::default()).await);
    let lines = lines(RATE);
    let (one, other) = (plain(&hanging, "p/", &lines), plain(&well, "p/", &lines));
    let body = Bytes::from(noise(4, 10 << 10));
    for store in [&one, &other] {
        let _ = store.put(pack(1), vec![body.clone()]).await.unwrap();
    }
    let mut stuck = std::pin::pin!(one.get(pack(1), 1 << 20));
    while hanging.world().faults.stall_bodies > 0 {
        assert!(futures::poll!(&mut stuck).is_pending());
        tokio::task::yield_now().await;
    }
    assert!(other.get(pack(1), 1 << 20).await.unwrap() == body);
    assert!(futures::poll!(&mut stuck).is_pending(), "it still hangs");
    // And is noticed.
    let error = stuck.await.unwrap_err();
    assert!(matches!(&error, Error::Cut(_)) && error.kind() == ErrorKind::Transient, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_is_noticed_behind_a_limit_too() {
    let server = server(Faults { silent: 1, ..Faults::default() }).await;
    let limited = plain(&server, "p/", &lines(RATE));
    let error = limited.put(pack(1), vec![Bytes::from(noise(5, 1000))]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("has not answered within"), "{source}");
}
