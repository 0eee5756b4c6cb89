//! A token bucket on the clock that goes on in suspend: how often something may be done.

use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use shorepass_core::time::Clock;
use shorepass_rpc::rate::BootClock;

/// Counts what is done.
pub(crate) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, BootClock, NoOpMiddleware<Duration>>,
    clock: BootClock,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(quota: Quota, clock: Arc<dyn Clock>) -> Self {
        let clock = BootClock(clock);
        Self { limiter: RateLimiter::direct_with_clock(quota, clock.clone()), clock }
    }

    /// Counts one, or says how long there is none.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }
}
