//! A bucket whose server misbehaves: nothing is lost, errors are clear, nothing waits for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::join_all;
use orkvault::backend::s3::{Addressing, Conditions, S3Backend, S3Credentials, S3Options, S3Patience};
use orkvault::backend::{
    Backend, Error, ErrorKind, Lines, Listed, Notice, Pace, Put, Request, RetryBackend, RetryPolicy, Retrying, Traffic,
};
use orkvault::format::id::{PackId, SlotId};
use orkvault::format::object::{ObjectKey, ObjectPrefix};

use crate::support::cli::{Vault, archive};
use crate::support::s3_fault::{Faults, FaultyS3, World};

/// Sleeping moves the clock and takes no time; a watchdog never barks: the server's own limits are tested.
#[derive(Debug, Default)]
struct NoTime(Mutex<Duration>);

#[async_trait]
impl Pace for NoTime {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    async fn sleep(&self, time: Duration) {
        if time >= RetryPolicy::default().attempt {
            std::future::pending::<()>().await;
        }
        *self.0.lock().unwrap() += time;
    }

    fn chance(&self) -> u32 {
        0
    }
}

/// Remembers why something was repeated.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Notice for Heard {
    fn retrying(&self, event: &Retrying<'_>) {
        self.0.lock().unwrap().push(causes(event.error));
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut under = error.source();
    while let Some(source) = under {
        said.push_str(&format!(": {source}"));
        under = source.source();
    }
    said
}

struct Scene {
    server: FaultyS3,
    traffic: Arc<Traffic>,
    heard: Arc<Heard>,
    plain: S3Backend,
    retrying: RetryBackend<S3Backend>,
}

impl Scene {
    async fn new(faults: Faults) -> Self {
        let buckets = BTreeMap::from([("vault".to_owned(), BTreeMap::new())]);
        let server = FaultyS3::start(World { buckets, faults, page_len: 4, ..World::default() }).await;
        let traffic: Arc<Traffic> = Arc::default();
        // Short, but long for a server in this process.
        let patience = S3Patience {
            connect: Duration::from_secs(5),
            read: Duration::from_millis(700),
            stalled: Duration::from_millis(300),
            bytes_per_sec_min: 100_000,
            ..S3Patience::default()
        };
        let plain = S3Backend::new(S3Options {
            endpoint: Some(server.endpoint.clone()),
            region: "us-east-1".to_owned(),
            bucket: "vault".to_owned(),
            prefix: "p/".to_owned(),
            addressing: Addressing::Path,
            credentials: S3Credentials::fixed("user", "canary-secret", None),
            patience,
            conditions: Conditions::Asked,
            lock: None,
            traffic: Arc::clone(&traffic),
            lines: Lines::default(),
        });
        let plain = plain.unwrap().with_part_bytes(1000);
        let heard = Arc::new(Heard::default());
        let (policy, pace) = (RetryPolicy::default(), Arc::new(NoTime::default()));
        let notice = Arc::clone(&heard) as Arc<dyn Notice>;
        let retrying = RetryBackend::new(plain.clone(), policy, pace, notice, Arc::clone(&traffic));
        Self { server, traffic, heard, plain, retrying }
    }

    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.server.world().faults);
    }

    fn stored(&self, key: ObjectKey) -> Option<Vec<u8>> {
        let world = self.server.world();
        world.buckets["vault"].get(&format!("p/{key}")).map(|object| object.bytes.clone())
    }
}

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId::from_bytes([number; 32]))
}

fn slot(number: u8) -> ObjectKey {
    ObjectKey::Slot(SlotId::from_bytes([number; 32]))
}

fn content(len: usize) -> Bytes {
    (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

async fn create(backend: &dyn Backend, key: ObjectKey, bytes: &Bytes) {
    assert_eq!(backend.put(key, vec![bytes.clone()]).await.unwrap(), Put::Created);
}

async fn listed(backend: &dyn Backend) -> Result<BTreeSet<ObjectKey>, Error> {
    let lines: Vec<Listed> = backend.list(ObjectPrefix::Packs).try_collect().await?;
    let keys: BTreeSet<ObjectKey> = lines
        .iter()
        .map(|line| match line {
            Listed::Object(info) => info.key,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(keys.len(), lines.len(), "each object once");
    Ok(keys)
}

#[tokio::test]
async fn a_listing_that_ends_early_is_asked_for_the_rest() {
    let scene = Scene::new(Faults::default()).await;
    for number in 0..11 {
        create(&scene.plain, pack(number), &content(9)).await;
    }
    scene.faults(|faults| faults.early_end = Some(2));
    assert_eq!(listed(&scene.plain).await.unwrap(), (0..11).map(pack).collect());
    scene.faults(|faults| faults.early_end = None);
    assert_eq!(listed(&scene.plain).await.unwrap().len(), 11);
}

#[tokio::test]
async fn a_listing_that_repeats_itself_is_an_error_and_not_endless() {
    for (repeat_token, ignore_token) in [(true, false), (false, true), (true, true)] {
        let scene = Scene::new(Faults { repeat_token, ignore_token, ..Faults::default() }).await;
        for number in 0..11 {
            create(&scene.plain, pack(number), &content(9)).await;
        }
        let before = scene.traffic.requests(Request::List);
        let error = listed(&scene.retrying).await.unwrap_err();
        assert!(causes(&error).contains("the server repeats itself"), "{}", causes(&error));
        assert_eq!(error.kind(), ErrorKind::Other);
        assert!(scene.traffic.requests(Request::List) - before < 5);
    }
}

#[tokio::test]
async fn a_bucket_that_is_denied_for_a_while_is_neither_empty_nor_gone() {
    let scene = Scene::new(Faults::default()).await;
    create(&scene.plain, pack(1), &content(9)).await;
    scene.faults(|faults| faults.flaps = 3);
    let error = listed(&scene.plain).await.unwrap_err();
    assert!(causes(&error).contains("denies bucket vault, which it has"), "{}", causes(&error));
    assert_eq!(listed(&scene.retrying).await.unwrap(), BTreeSet::from([pack(1)]));
    assert_eq!(scene.traffic.retries(), 2);
    scene.server.world().buckets.clear();
    let error = listed(&scene.retrying).await.unwrap_err();
    assert!(causes(&error).contains("there is no bucket vault"), "{}", causes(&error));
    assert_eq!((error.kind(), scene.traffic.retries()), (ErrorKind::NotFound, 2));
}

#[tokio::test]
async fn a_busy_server_is_asked_again_and_each_time_is_heard() {
    let scene = Scene::new(Faults { busy: 5, ..Faults::default() }).await;
    create(&scene.retrying, pack(1), &content(9)).await;
    scene.faults(|faults| faults.busy = 4);
    assert_eq!(scene.retrying.get(pack(1), 9).await.unwrap(), content(9));
    assert_eq!(scene.traffic.retries(), 9);
    let heard = scene.heard.0.lock().unwrap();
    assert_eq!(heard.len(), 9);
    assert!(heard.iter().all(|why| why.contains("the server is busy (status 503, SlowDown)")), "{heard:?}");
    assert!(heard.iter().all(|why| !why.contains("canary")), "{heard:?}");
}

#[tokio::test]
async fn a_body_that_is_cut_or_stops_goes_on_where_it_was() {
    let scene = Scene::new(Faults::default()).await;
    let long = content(900);
    create(&scene.plain, pack(1), &long).await;
    for (cut_bodies, stall_bodies) in [(3, 0), (0, 2), (2, 1)] {
        let before = (scene.traffic.requests(Request::Get), scene.traffic.received_bytes());
        scene.faults(|faults| (faults.cut_bodies, faults.stall_bodies) = (cut_bodies, stall_bodies));
        assert_eq!(scene.retrying.get(pack(1), 900).await.unwrap(), long);
        let broken = u64::from(cut_bodies + stall_bodies);
        assert_eq!(scene.traffic.requests(Request::Get) - before.0, broken + 1);
        assert_eq!(scene.traffic.received_bytes() - before.1, 900, "no byte came twice");
        scene.faults(|faults| (faults.cut_bodies, faults.stall_bodies) = (cut_bodies, stall_bodies));
        assert_eq!(scene.retrying.get_range(pack(1), 100, 700).await.unwrap(), long.slice(100..800));
    }
    scene.faults(|faults| faults.cut_bodies = 1);
    let error = scene.plain.get(pack(1), 900).await.unwrap_err();
    assert!(matches!(&error, Error::Cut(cut) if cut.got == long.slice(..450)), "{error:?}");
}

#[tokio::test]
async fn bytes_that_only_drip_are_taken_and_the_rest_is_asked_for_again() {
    let scene = Scene::new(Faults::default()).await;
    create(&scene.plain, pack(1), &content(900)).await;
    // 900 bytes would take longer than 300 ms, and never nothing comes for so long.
    scene.faults(|faults| faults.drip = Some((100, Duration::from_millis(60))));
    let before = scene.traffic.received_bytes();
    assert_eq!(scene.retrying.get(pack(1), 900).await.unwrap(), content(900));
    assert_eq!(scene.traffic.received_bytes() - before, 900, "no byte came twice");
    let heard = scene.heard.0.lock().unwrap();
    assert!(
        !heard.is_empty() && heard.iter().all(|why| why.contains("fewer than 100000 bytes a second came")),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for() {
    let scene = Scene::new(Faults::default()).await;
    create(&scene.plain, pack(1), &content(9)).await;
    scene.faults(|faults| faults.silent = 2);
    assert_eq!(scene.retrying.get(pack(1), 9).await.unwrap(), content(9));
    assert_eq!(scene.traffic.retries(), 2);
    scene.faults(|faults| faults.silent = 1);
    let error = scene.plain.stat(pack(1)).await.unwrap_err();
    assert!(causes(&error).contains("no whole answer from http://127.0.0.1"), "{}", causes(&error));
    assert_eq!(error.kind(), ErrorKind::Transient);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_asked_for_again_a_few_times_and_one_that_broke_off_for_long() {
    let scene = Scene::new(Faults::default()).await;
    create(&scene.plain, pack(1), &content(9)).await;
    scene.faults(|faults| faults.garbled = 2);
    assert_eq!(listed(&scene.retrying).await.unwrap(), BTreeSet::from([pack(1)]));
    assert_eq!(scene.traffic.retries(), 2);
    // A page for people is no receipt of a put either.
    scene.faults(|faults| faults.garbled = 1);
    assert!(scene.plain.put(pack(2), vec![content(9)]).await.is_err());
    assert_eq!(scene.stored(pack(2)), None);
    scene.faults(|faults| faults.garbled = u32::MAX);
    let error = listed(&scene.retrying).await.unwrap_err();
    assert!(causes(&error).contains("given up after 4 attempts"), "{}", causes(&error));
    assert!(causes(&error).contains("that cannot be read"), "{}", causes(&error));
    scene.faults(|faults| (faults.garbled, faults.cut_listings) = (0, 20));
    assert_eq!(listed(&scene.retrying).await.unwrap(), BTreeSet::from([pack(1)]));
}

#[tokio::test]
async fn a_server_that_knows_no_ranges_is_found_out() {
    let scene = Scene::new(Faults { ignore_range: true, ..Faults::default() }).await;
    create(&scene.plain, pack(1), &content(90)).await;
    let error = scene.retrying.get_range(pack(1), 10, 20).await.unwrap_err();
    assert!(causes(&error).contains("no usable content range"), "{}", causes(&error));
}

#[tokio::test]
async fn a_server_without_conditions_is_found_out_and_nothing_is_replaced() {
    let scene = Scene::new(Faults { no_conditions: true, ..Faults::default() }).await;
    for len in [9, 2500] {
        let (key, first) = (pack(u8::from(len == 9)), content(len));
        create(&scene.plain, key, &first).await;
        let other = Bytes::from(vec![1; len]);
        assert_eq!(scene.plain.put(key, vec![other]).await.unwrap(), Put::AlreadyThere);
        assert_eq!(scene.stored(key).unwrap(), first);
        let longer = scene.plain.put(key, vec![content(len + 1)]).await.unwrap_err();
        assert_eq!(longer.kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(scene.server.world().uploads.len(), 0);
    assert_eq!(scene.traffic.retries(), 0);
}

#[tokio::test]
async fn several_puts_at_once_find_out_a_server_without_conditions() {
    let scene = Scene::new(Faults { no_conditions: true, ..Faults::default() }).await;
    let puts =
        join_all((0..8).map(|number| scene.plain.put(pack(number), vec![content(9 + 1000 * usize::from(number))])));
    let puts: Vec<Put> = puts.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(puts, [Put::Created; 8]);
}

#[tokio::test]
async fn a_server_that_ignores_conditions_cannot_make_two_repositories_of_one() {
    let scene = Scene::new(Faults { ignore_conditions: true, ..Faults::default() }).await;
    let config = |number: u8| vec![Bytes::from(vec![number; 64])];
    let puts = join_all((0..8).map(|number| scene.plain.put(ObjectKey::Config, config(number)))).await;
    let created = puts.iter().filter(|put| matches!(put, Ok(Put::Created))).count();
    assert!(created <= 1, "{puts:?}");
    let stored = scene.stored(ObjectKey::Config).unwrap();
    let again = scene.plain.put(ObjectKey::Config, config(99)).await.unwrap();
    assert_eq!((again, scene.stored(ObjectKey::Config).unwrap()), (Put::AlreadyThere, stored));
}

#[tokio::test]
async fn a_wrong_clock_expired_credentials_and_a_full_store_are_said_and_not_repeated() {
    for (status, code, said, kind) in [
        (403, "RequestTimeTooSkewed", "the clocks of this host and of the server differ", ErrorKind::Other),
        (400, "ExpiredToken", "the credentials have expired", ErrorKind::Denied),
        (403, "InvalidAccessKeyId", "the server refuses the credentials", ErrorKind::Denied),
        (403, "SignatureDoesNotMatch", "the server refuses the credentials", ErrorKind::Denied),
        (403, "AccessDenied", "the server denies access", ErrorKind::Denied),
        (403, "QuotaExceeded", "the server has no space left", ErrorKind::Full),
        (507, "XMinioStorageFull", "the server has no space left", ErrorKind::Full),
        (400, "EntityTooSmall", "status 400 EntityTooSmall: m", ErrorKind::Other),
    ] {
        let scene = Scene::new(Faults { refuse_all: Some((status, code)), ..Faults::default() }).await;
        let backend = &scene.retrying;
        let errors = [
            backend.put(pack(1), vec![content(9)]).await.unwrap_err(),
            backend.put(pack(1), vec![content(2500)]).await.unwrap_err(),
            backend.get(pack(1), 9).await.unwrap_err(),
            backend.get_range(pack(1), 0, 9).await.unwrap_err(),
            backend.stat(pack(1)).await.unwrap_err(),
            listed(backend).await.unwrap_err(),
            backend.delete(pack(1)).await.unwrap_err(),
            backend.sweep(SystemTime::now()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(causes(&error).contains(said), "{code}: {}", causes(&error));
            assert!(!causes(&error).contains("canary"), "{}", causes(&error));
            assert_eq!(error.kind(), kind, "{code}: {}", causes(&error));
        }
        assert_eq!(scene.traffic.retries(), 0);
    }
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_still_ours() {
    let scene = Scene::new(Faults { lose_puts: 1, ..Faults::default() }).await;
    create(&scene.retrying, slot(1), &content(9)).await;
    assert_eq!(scene.stored(slot(1)).unwrap(), content(9));
    // Of a long one the end is lost: it is there, and the name says that it is right.
    scene.faults(|faults| faults.lose_puts = 1);
    assert_eq!(scene.retrying.put(pack(2), vec![content(2500)]).await.unwrap(), Put::AlreadyThere);
    assert_eq!(scene.stored(pack(2)).unwrap(), content(2500));
    assert_eq!(scene.traffic.retries(), 2);
}

#[tokio::test]
async fn a_put_in_parts_that_fails_leaves_nothing_behind() {
    let scene = Scene::new(Faults { refuse_parts: Some((1, 403, "AccessDenied")), ..Faults::default() }).await;
    let error = scene.retrying.put(pack(1), vec![content(2500)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!((scene.stored(pack(1)), scene.server.world().uploads.len()), (None, 0));
    // One that fails in passing is sent again, and what it left is taken away.
    scene.faults(|faults| faults.refuse_parts = Some((2, 503, "SlowDown")));
    create(&scene.retrying, pack(1), &content(2500)).await;
    assert_eq!(scene.stored(pack(1)).unwrap(), content(2500));
    assert_eq!((scene.traffic.retries(), scene.server.world().uploads.len()), (2, 0));
    scene.server.take_counts();
}

#[tokio::test]
async fn an_unfinished_put_is_listed_and_swept_once_it_is_old() {
    let scene = Scene::new(Faults::default()).await;
    {
        let mut world = scene.server.world();
        let upload = crate::support::s3_fault::Upload { path: format!("vault/p/{}", pack(1)), ..Default::default() };
        world.uploads.insert("left".to_owned(), upload);
    }
    let lines: Vec<Listed> = scene.plain.list(ObjectPrefix::All).try_collect().await.unwrap();
    assert!(matches!(&lines[..], [Listed::Leftover { name, .. }] if *name == pack(1).to_string()), "{lines:?}");
    // It was begun on the second of January 2026.
    let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
    assert_eq!(scene.plain.sweep(at(1_767_323_045)).await.unwrap(), 0);
    assert_eq!(scene.plain.sweep(at(1_767_323_046)).await.unwrap(), 1);
    assert_eq!(scene.server.world().uploads.len(), 0);
}

#[tokio::test]
async fn a_snapshot_and_its_restore_outlast_a_server_that_fails_every_seventh_request() {
    let scene = Scene::new(Faults { busy_every: Some(7), ..Faults::default() }).await;
    let endpoint = scene.server.endpoint.clone();
    let work = move || {
        let vault = Vault::empty_in_bucket(&endpoint, "s3://vault/night");
        vault.init().expect(0);
        let made = vault.run_fed(["snapshot", "--from", "mongodb=-"], &archive()).expect(0);
        assert!(made.stderr.contains("the server is busy (status 503, SlowDown); attempt 2 of"), "{}", made.stderr);
        assert!(vault.run_data(["dump", "latest", "mongodb/mongo.archive"]).expect(0).stdout == archive());
        vault.run_data(["check", "--read-data"]).expect(0);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    scene.server.take_counts();
}
