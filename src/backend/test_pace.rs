//! Time that passes when somebody sleeps.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::Pace;

/// Sleeping moves the clock and takes no time, but for sleeps of a watchdog's length, which never end.
#[derive(Debug, Default)]
pub(super) struct TestPace {
    pub(super) now: Mutex<Duration>,
    pub(super) sleeps: Mutex<Vec<Duration>>,
    /// Sleeps so long, and longer ones, are watchdogs.
    pub(super) watchdog: Option<Duration>,
    pub(super) chance: u32,
}

#[async_trait]
impl Pace for TestPace {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    async fn sleep(&self, time: Duration) {
        if self.watchdog.is_some_and(|watchdog| time >= watchdog) {
            std::future::pending::<()>().await;
        }
        self.sleeps.lock().unwrap().push(time);
        *self.now.lock().unwrap() += time;
    }

    fn chance(&self) -> u32 {
        self.chance
    }
}
