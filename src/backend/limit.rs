//! Keeps a run from filling the line: so many bytes a second out, so many in.
//!
//! A line is shared by all transfers that it limits, in however many stores. Each asks for a slice at a time, and waits
//! behind those who asked before; nothing is held meanwhile, so that a store that hangs holds up nobody. Time in which a
//! line carries something is nobody's fault: who watches over a transfer counts the rest ([`watch`]).

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{self, Either};

use super::{Operation, Pace};

/// What a line may make up for that it missed, because whoever waits for it wakes a little late.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Slices are no longer, however fast the line is.
const SLICE_BYTES_MAX: u64 = 64 << 10;
/// And no shorter, however slow it is.
const SLICE_BYTES_MIN: u64 = 1 << 10;
/// Else a line carries so many of them a second: a server does not wait long for the next one.
const SLICES_PER_SEC: u64 = 8;

/// Bytes a second; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of what is put.
    pub upload: Option<u64>,
    /// Of what is read.
    pub download: Option<u64>,
}

/// Both directions, for as many stores as share them: clones are the same lines. The default has no limit.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    upload: Option<Arc<Line>>,
    download: Option<Arc<Line>>,
}

impl Lines {
    /// Makes lines that nobody has used, in the time of `pace`.
    #[must_use]
    pub fn new(bandwidth: Bandwidth, pace: &Arc<dyn Pace>) -> Self {
        let line = |bytes_per_sec: Option<u64>| Some(Arc::new(Line::new(bytes_per_sec?, Arc::clone(pace))));
        Self { upload: line(bandwidth.upload), download: line(bandwidth.download) }
    }

    /// Returns these lines, but those of `other` where these have no limit.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let pick = |one: &Option<Arc<Line>>, other: &Option<Arc<Line>>| one.as_ref().or(other.as_ref()).cloned();
        Self { upload: pick(&self.upload, &other.upload), download: pick(&self.download, &other.download) }
    }

    /// Returns the line of what is put, where it is limited.
    pub(super) const fn upload(&self) -> Option<&Arc<Line>> {
        self.upload.as_ref()
    }

    /// Returns the line of what is read, where it is limited.
    pub(super) const fn download(&self) -> Option<&Arc<Line>> {
        self.download.as_ref()
    }

    /// Returns the line that an operation moves its bytes over, where it is limited.
    pub(super) fn of(&self, operation: Operation) -> Option<&Line> {
        if operation == Operation::Put { self.upload.as_deref() } else { self.download.as_deref() }
    }
}

/// One direction.
#[derive(Debug)]
pub(super) struct Line {
    bytes_per_sec: u64,
    pace: Arc<dyn Pace>,
    taken: Mutex<Taken>,
}

/// What is known of a line's time.
#[derive(Debug, Default)]
struct Taken {
    /// When the next slice may begin.
    free: Duration,
    /// What all slices take together that ever asked.
    sum: Duration,
}

impl Line {
    fn new(bytes_per_sec: u64, pace: Arc<dyn Pace>) -> Self {
        Self { bytes_per_sec: bytes_per_sec.max(1), pace, taken: Mutex::default() }
    }

    /// Returns how many bytes should ask together.
    pub(super) fn slice_bytes(&self) -> u64 {
        (self.bytes_per_sec / SLICES_PER_SEC).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX)
    }

    /// Waits until so many bytes may pass. What is dropped meanwhile has taken the line all the same.
    pub(super) async fn pass(&self, len: u64) {
        let wait = self.take(len, self.pace.now());
        if !wait.is_zero() {
            self.pace.sleep(wait).await;
        }
    }

    /// As [`watch`], in its own time.
    pub(super) async fn watch<T>(&self, limit: Duration, work: impl Future<Output = T> + Send) -> Option<T> {
        watch(Some(self), self.pace.as_ref(), limit, work).await
    }

    /// Takes the line for so many bytes and returns how long to wait until it is free.
    fn take(&self, len: u64, now: Duration) -> Duration {
        let micros = u128::from(len) * 1_000_000 / u128::from(self.bytes_per_sec);
        let time = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = taken.free.max(now.saturating_sub(CATCH_UP));
        taken.free = begin.saturating_add(time);
        taken.sum = taken.sum.saturating_add(time);
        begin.saturating_sub(now)
    }

    /// Returns the time in which the line has carried something until now.
    fn carried(&self, now: Duration) -> Duration {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.sum.saturating_sub(taken.free.saturating_sub(now))
    }
}

/// A clock that stands still while its line carries something.
#[derive(Debug)]
pub(super) struct IdleClock<'a> {
    line: Option<&'a Line>,
    pace: &'a dyn Pace,
    began: Duration,
    carried: Duration,
}

impl<'a> IdleClock<'a> {
    /// Starts one. Without a line it is an ordinary clock.
    pub(super) fn start(line: Option<&'a Line>, pace: &'a dyn Pace) -> Self {
        let began = pace.now();
        Self { line, pace, began, carried: line.map_or(Duration::ZERO, |line| line.carried(began)) }
    }

    /// Returns how far it has come.
    pub(super) fn passed(&self) -> Duration {
        let now = self.pace.now();
        let carried = self.line.map_or(Duration::ZERO, |line| line.carried(now));
        now.saturating_sub(self.began).saturating_sub(carried.saturating_sub(self.carried))
    }
}

/// Returns what comes of `work`; `None` where it has not ended by `limit`, not counting the time in which `line` carried
/// something. It may then take an eighth longer.
pub(super) async fn watch<T>(
    line: Option<&Line>,
    pace: &dyn Pace,
    limit: Duration,
    work: impl Future<Output = T> + Send,
) -> Option<T> {
    let (clock, mut work) = (IdleClock::start(line, pace), pin!(work));
    let mut left = limit;
    loop {
        match future::select(work.as_mut(), pace.sleep(left)).await {
            Either::Left((done, _)) => return Some(done),
            Either::Right(_) => {
                left = limit.saturating_sub(clock.passed());
                if line.is_none() || left.is_zero() {
                    return None;
                }
                // While the line is never idle, what is left becomes no less: it is not asked all the time.
                left = left.max(limit / 8);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    const RATE: u64 = 100_000;

    /// Time that passes when everybody waits.
    #[derive(Debug, Default)]
    struct Clock {
        now: Mutex<Duration>,
        waiting: Mutex<Vec<(Duration, tokio::sync::oneshot::Sender<()>)>>,
    }

    #[async_trait]
    impl Pace for Clock {
        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        async fn sleep(&self, time: Duration) {
            let (wake, woken) = tokio::sync::oneshot::channel();
            self.waiting.lock().unwrap().push((self.now() + time, wake));
            woken.await.unwrap();
        }

        fn chance(&self) -> u32 {
            0
        }
    }

    impl Clock {
        async fn run<T>(&self, work: impl Future<Output = T>) -> T {
            let mut work = pin!(work);
            loop {
                if let std::task::Poll::Ready(done) = futures::poll!(work.as_mut()) {
                    return done;
                }
                let mut waiting = self.waiting.lock().unwrap();
                waiting.sort_by_key(|(due, _)| *due);
                let (due, wake) = waiting.remove(0);
                *self.now.lock().unwrap() = due;
                // Who waited may have gone.
                let _gone = wake.send(());
            }
        }
    }

    fn lines(bandwidth: Bandwidth) -> (Arc<Clock>, Lines) {
        let clock = Arc::new(Clock::default());
        let pace: Arc<dyn Pace> = clock.clone();
        let lines = Lines::new(bandwidth, &pace);
        (clock, lines)
    }

    /// Sends so many bytes over a line, a slice at a time. Returns when which of them passed.
    async fn transfer(line: &Line, clock: &Clock, len: u64) -> Vec<(Duration, u64)> {
        let (mut passed, mut left) = (Vec::new(), len);
        while left > 0 {
            let slice = left.min(line.slice_bytes());
            line.pass(slice).await;
            passed.push((clock.now(), slice));
            left -= slice;
        }
        passed
    }

    #[tokio::test]
    async fn transfers_at_once_and_into_two_stores_are_no_more_together_than_one_may_be() {
        let (clock, option) = lines(Bandwidth { upload: Some(RATE), download: None });
        let pace: Arc<dyn Pace> = clock.clone();
        // What the option says goes before what the table of one of them says.
        let own = Lines::new(Bandwidth { upload: Some(7), download: None }, &pace);
        let stores = [option.clone(), option.or(&own)];
        let lens = [40_000, 150_000, 2_000, 90_000, 300_000, 1, 70_000, 70_000];
        let transfers = lens.iter().zip(stores.iter().cycle());
        let transfers = transfers.map(|(len, store)| transfer(store.upload().unwrap(), &clock, *len));
        let ended = clock.run(future::join_all(transfers)).await;
        let mut passed: Vec<_> = ended.iter().flatten().copied().collect();
        passed.sort_unstable();
        let all: u64 = lens.iter().sum();
        let mut sum = 0;
        for (at, len) in &passed {
            let carried = u64::try_from(at.as_millis()).unwrap() * RATE / 1000;
            assert!(sum <= carried + 1, "{sum} bytes had passed when {carried} could have: {passed:?}");
            sum += len;
        }
        assert_eq!(sum, all);
        // And no less: the line was never idle while somebody waited.
        let last = passed.last().unwrap();
        assert!(last.0.as_millis() >= u128::from(1000 * (all - last.1) / RATE) - 1);
        assert!(last.0.as_millis() <= u128::from(1000 * all / RATE));
        // Nobody waits for the whole of another: the shortest are through after one slice of each.
        for (which, slices) in [(5, 1), (2, 1)] {
            let end = ended[which].last().unwrap().0;
            assert_eq!(ended[which].len(), slices);
            assert!(end < Duration::from_secs(1), "{end:?}");
        }
    }

    #[tokio::test]
    async fn a_line_makes_up_for_a_late_waker_and_saves_nothing_up() {
        let (_, lines) = lines(Bandwidth { upload: Some(1000), download: None });
        let line = lines.upload().unwrap();
        let millis = Duration::from_millis;
        assert_eq!(line.take(100, millis(0)), millis(0));
        assert_eq!(line.take(100, millis(0)), millis(100));
        // The third came 30 ms late, and the fourth waits for no more than the line needs.
        assert_eq!(line.take(100, millis(230)), millis(0));
        assert_eq!(line.take(100, millis(230)), millis(70));
        // An hour of silence is worth 50 ms.
        assert_eq!(line.take(100, millis(3_600_000)), millis(0));
        assert_eq!(line.take(100, millis(3_600_000)), millis(50));
    }

    #[tokio::test]
    async fn a_line_without_a_limit_is_a_line_of_ones_own() {
        let (clock, none) = lines(Bandwidth::default());
        let pace: Arc<dyn Pace> = clock.clone();
        let own = none.or(&Lines::new(Bandwidth { upload: Some(1000), download: None }, &pace));
        let line = own.upload().unwrap();
        assert_eq!([250, 250, 250].map(|len| line.take(len, Duration::ZERO)), [0, 250, 500].map(Duration::from_millis));
        assert!(own.download().is_none() && own.of(Operation::Get).is_none() && own.of(Operation::Put).is_some());
    }

    #[tokio::test]
    async fn who_waits_for_the_line_is_not_taken_for_stuck_and_who_is_stuck_is() {
        let (clock, lines) = lines(Bandwidth { upload: Some(RATE), download: None });
        let line = lines.upload().unwrap();
        let limit = Duration::from_secs(2);
        // Three share it: each needs nine seconds, and none is late.
        let one = || watch(Some(line), clock.as_ref(), limit, transfer(line, &clock, 3 * RATE));
        let ended = clock.run(future::join3(one(), one(), one())).await;
        assert!(ended.0.is_some() && ended.1.is_some() && ended.2.is_some());
        assert!(clock.now() > Duration::from_millis(8_800), "{:?}", clock.now());
        // Alone and stuck it has the limit, and what is left of the line.
        let began = clock.now();
        assert!(clock.run(line.watch(limit, future::pending::<()>())).await.is_none());
        assert!(clock.now() - began < 2 * limit, "{:?}", clock.now() - began);
        // Beside one that goes on it is noticed behind that.
        let began = clock.now();
        let stuck = line.watch(limit, future::pending::<()>());
        let (stuck, moving) = clock.run(future::join(stuck, transfer(line, &clock, 5 * RATE))).await;
        assert!(stuck.is_none() && !moving.is_empty());
        let took = clock.now() - began;
        assert!(took >= Duration::from_secs(7) && took < Duration::from_secs(8), "{took:?}");
    }
}
