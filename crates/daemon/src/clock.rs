//! The system's clocks and generator, behind core's traits: the only place that asks the system for either.

use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};
use shorepass_core::time::{Clock, Entropy, Timestamp};

/// The longest sleep before the clock is read again.
///
/// Timers of the runtime stop while a machine is suspended and the boot-time clock does not: a deadline that passed in
/// suspend is noticed at most this long after resume.
pub const RECHECK: Duration = Duration::from_secs(5);

/// Wall time, and CLOCK_BOOTTIME (clock_gettime(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        // Both parts are never negative on this clock, and nanoseconds are below a second.
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// The kernel's generator (getrandom(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            match getrandom(&mut buffer[filled..], GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("getrandom(2) fails only where the kernel lacks it: {errno}"),
            }
        }
    }
}

/// Sleeps until the boot-time clock shows `deadline`; suspended time counts.
pub async fn sleep_until_boottime(clock: &dyn Clock, deadline: Duration) {
    loop {
        let left = deadline.saturating_sub(clock.since_boot());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(RECHECK)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Shows what it is told to, as a clock does that went on while the runtime's timers stood still.
    struct Set(Mutex<Duration>);

    impl Clock for Set {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn since_boot(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn the_system_clock_goes_forward() {
        let earlier = SystemClock.since_boot();
        assert!(SystemClock.since_boot() >= earlier && !earlier.is_zero());
        assert!(SystemClock.now() > Timestamp::from_second(1_700_000_000).unwrap());
    }

    #[test]
    fn two_fills_differ() {
        let mut one = [0; 300];
        let mut other = [0; 300];
        SystemEntropy.fill(&mut one);
        SystemEntropy.fill(&mut other);
        assert_ne!(one, other);
        assert_ne!(one[268..], [0; 32]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passed_in_suspend_is_noticed_at_the_next_look() {
        let clock = Set(Mutex::new(Duration::ZERO));
        let started = tokio::time::Instant::now();
        let resume = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            *clock.0.lock().unwrap() = Duration::from_secs(3600);
        };
        tokio::join!(sleep_until_boottime(&clock, Duration::from_secs(1800)), resume);
        assert_eq!(started.elapsed(), RECHECK);
    }
}
