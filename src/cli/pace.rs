//! This host's time and chance for what waits on a store, and the lines that say that it waits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::output::error_line;
use crate::backend::{Notice, Pace, Retrying};
use crate::ops::snapshot::reason;

/// Repetitions that are said one by one; of more, only every so manieth is.
const SAID_MAX: u64 = 20;

/// This host's clock.
#[derive(Debug)]
pub(crate) struct HostPace {
    began: Instant,
    dice: RandomState,
}

impl HostPace {
    /// Starts the clock.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), dice: RandomState::new() }
    }
}

#[async_trait]
impl Pace for HostPace {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn chance(&self) -> u32 {
        // Of a hash with a random key the half is as good as the whole.
        u32::try_from(self.dice.hash_one(self.began.elapsed()) >> 32).expect("32 bits are left")
    }
}

/// Says on standard error that something is tried once more.
#[derive(Debug, Default)]
pub(crate) struct SaidRetries {
    said: Mutex<u64>,
}

impl Notice for SaidRetries {
    fn retrying(&self, event: &Retrying<'_>) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *said += 1;
        if *said > SAID_MAX && !said.is_multiple_of(SAID_MAX) {
            return;
        }
        error_line(&format!(
            "warning: {}; attempt {} of {} in {:.1} s",
            reason(event.error),
            event.failed + 1,
            event.attempts_max,
            event.pause.as_secs_f64()
        ));
    }
}
