//! Time and chance for the decorators that wait: given to them, so that tests need not wait.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

/// A clock that only goes forward, a way to let time pass, and dice.
#[async_trait]
pub trait Pace: Send + Sync + fmt::Debug {
    /// Returns the time since a moment that stays the same.
    fn now(&self) -> Duration;

    /// Returns after this time.
    async fn sleep(&self, time: Duration);

    /// Returns a number that nobody foresees, each as likely as any other.
    fn chance(&self) -> u32;
}
