//! Time and chance as arguments.
//!
//! Wall time is for records and people; lives are counted on the boot-time clock, which goes on while a machine is
//! suspended (CLOCK_BOOTTIME, clock_gettime(2)). Only the daemon crate asks the system for either.

use std::time::Duration;

pub use jiff::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Wall time. It may jump.
    fn now(&self) -> Timestamp;

    /// Time since boot, suspended time included. It never goes back.
    fn since_boot(&self) -> Duration;
}

/// Gives unpredictable bytes.
pub trait Entropy: Send + Sync {
    /// Fills the buffer from the system's generator.
    fn fill(&self, buffer: &mut [u8]);
}

/// `start + life`, at most the last representable moment.
pub fn after(start: Timestamp, life: Duration) -> Timestamp {
    start.checked_add(life).unwrap_or(Timestamp::MAX)
}

/// The time from `now` until `end`; zero when that has passed.
pub fn until(now: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// The pause after so many failures: 1 s, doubled by each, 60 s at most.
pub fn doubling_pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(Duration::from_secs(60))
}

/// A moment for people: to the second.
pub fn for_people(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_zero_when_the_end_has_passed() {
        let now = Timestamp::from_second(1_000).unwrap();
        let earlier = Timestamp::from_second(999).unwrap();
        assert_eq!(until(now, earlier), Duration::ZERO);
        assert_eq!(until(earlier, now), Duration::from_secs(1));
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses = [0, 1, 5, 6, 7, u32::MAX].map(|failures| doubling_pause(failures).as_secs());
        assert_eq!(pauses, [1, 2, 32, 60, 60, 60]);
    }

    #[test]
    fn people_see_no_fractions() {
        let moment = Timestamp::new(1_790_000_000, 35_095_441).unwrap();
        assert_eq!(for_people(moment).to_string(), "2026-09-21T14:13:20Z");
    }

    #[test]
    fn after_saturates() {
        assert_eq!(after(Timestamp::MAX, Duration::from_secs(1)), Timestamp::MAX);
    }
}
