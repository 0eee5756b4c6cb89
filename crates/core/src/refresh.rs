//! When an agent refreshes: a pure function of the granted window, jitter and settings.
//!
//! At half of the granted life, so that as much again is left for an outage; earlier where less than six minutes would
//! be told, because Python's client runs the exec plugin on every call when less than five are left; and not at all
//! when the lease itself ends no later than the token, because another token would not live longer.

use std::time::Duration;

use crate::time::doubling_pause;

/// What every consumer should be told at least.
pub const SERVED_LIFE_FLOOR: Duration = Duration::from_secs(360);
/// The shortest pause between two refreshes, whatever the window says.
pub const PAUSE_FLOOR: Duration = Duration::from_secs(1);
/// The share of its delay by which a refresh may come early, so that agents do not move in step.
const JITTER_SHARE: f64 = 0.1;

/// The life of the token that is held. Times are on the boot-time clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When the request for it was sent.
    pub since: Duration,
    /// How long it may be used from then.
    pub valid_for: Duration,
}

impl Held {
    /// How much of it is left.
    pub fn left(self, now: Duration) -> Duration {
        (self.since + self.valid_for).saturating_sub(now)
    }

    /// When to refresh it. `jitter` is in 0..1; `max_age` is the configured cap.
    pub fn refresh_at(self, jitter: f64, max_age: Option<Duration>) -> Duration {
        let half = self.valid_for / 2;
        // What would leave less than the floor moves earlier, as long as the token allows for it at all.
        let early = match self.valid_for.checked_sub(SERVED_LIFE_FLOOR) {
            Some(spare) if spare > PAUSE_FLOOR => half.min(spare),
            _ => half,
        };
        let delay = max_age.map_or(early, |cap| early.min(cap));
        let jittered = delay.mul_f64(1.0 - JITTER_SHARE * jitter.clamp(0.0, 1.0));
        self.since + jittered.max(PAUSE_FLOOR)
    }
}

/// The pause before attempt number `attempt` (from 0) after a failure: full jitter under a doubling cap of 1 s to 60 s.
pub fn retry_pause(attempt: u32, jitter: f64) -> Duration {
    doubling_pause(attempt).mul_f64(jitter.clamp(0.0, 1.0)).max(Duration::from_millis(200))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delay(valid_for: u64, jitter: f64, max_age: Option<u64>) -> Duration {
        let held = Held { since: Duration::ZERO, valid_for: Duration::from_secs(valid_for) };
        held.refresh_at(jitter, max_age.map(Duration::from_secs))
    }

    #[test]
    fn a_long_token_is_refreshed_at_half_of_its_life() {
        assert_eq!(delay(1800, 0.0, None), Duration::from_secs(900));
        assert_eq!(delay(1800, 1.0, None), Duration::from_secs(810));
    }

    #[test]
    fn a_short_token_is_refreshed_while_six_minutes_are_left() {
        assert_eq!(delay(590, 0.0, None), Duration::from_secs(230));
    }

    #[test]
    fn the_configured_age_caps_it() {
        assert_eq!(delay(1800, 0.0, Some(5)), Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn refreshes_never_storm_and_never_come_after_half_of_the_life(
            valid_for in 2u64..100_000, jitter in 0.0f64..1.0, max_age in prop::option::of(0u64..1_000)
        ) {
            let delay = delay(valid_for, jitter, max_age);
            prop_assert!(delay >= PAUSE_FLOOR);
            prop_assert!(delay <= (Duration::from_secs(valid_for) / 2).max(PAUSE_FLOOR));
        }

        #[test]
        fn retries_stay_within_a_minute(attempt in 0u32..100, jitter in 0.0f64..1.0) {
            let pause = retry_pause(attempt, jitter);
            prop_assert!(pause >= Duration::from_millis(200) && pause <= Duration::from_secs(60));
        }
    }
}
