//! Notices that the machine was suspended: the boot-time clock went on, the monotonic one did not.
//!
//! It looks only when asked, and starts nothing.

use std::time::Duration;

use tokio::time::Instant;

/// A shorter suspend is one that connections survive.
const NOTICEABLE: Duration = Duration::from_secs(30);

/// What both clocks showed at the last look.
pub(crate) struct Awake {
    boot: Duration,
    monotonic: Instant,
}

impl Awake {
    pub(crate) fn new(boot: Duration, monotonic: Instant) -> Self {
        Self { boot, monotonic }
    }

    /// Whether the machine was suspended since the last look.
    pub(crate) fn slept(&mut self, boot: Duration, monotonic: Instant) -> bool {
        let last = std::mem::replace(self, Self { boot, monotonic });
        let awake = monotonic.saturating_duration_since(last.monotonic);
        boot.saturating_sub(last.boot).saturating_sub(awake) > NOTICEABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspend_is_noticed_once_and_waiting_is_none() {
        let (boot, start) = (Duration::from_secs(1_000), Instant::now());
        let hour = Duration::from_secs(3_600);
        let mut awake = Awake::new(boot, start);
        assert!(!awake.slept(boot + hour, start + hour));
        assert!(awake.slept(boot + hour * 2, start + hour + NOTICEABLE));
        assert!(!awake.slept(boot + hour * 2, start + hour + NOTICEABLE));
    }
}
