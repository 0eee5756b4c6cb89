//! A token bucket for each caller: its SPIFFE ID where it has one, its network where not.
//!
//! An address of IPv6 counts by its first 64 bits, because a peer owns the rest. Buckets that are full again are
//! forgotten, so that the table is bounded.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_core::time::Clock;

use crate::limits::Limits;
use crate::refused::{Reason, Refused};

/// How often the table is looked at.
const CHECKS_BETWEEN_CLEANINGS: usize = 256;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Caller(SpiffeId),
    Network(IpAddr),
}

/// Time since boot, for `governor`: no change of the wall clock gives anybody a turn.
#[derive(Clone)]
pub struct BootClock(pub Arc<dyn Clock>);

impl governor::clock::Clock for BootClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.since_boot()
    }
}

/// Counts calls.
pub(crate) struct Rate {
    buckets: RateLimiter<Key, DashMapStateStore<Key>, BootClock, NoOpMiddleware<Duration>>,
    clock: BootClock,
    counted: usize,
    checks: AtomicUsize,
    full: AtomicBool,
}

impl Rate {
    pub(crate) fn new(limits: &Limits, clock: Arc<dyn Clock>) -> Self {
        let quota = Quota::per_second(limits.calls_per_second).allow_burst(limits.calls_burst);
        let clock = BootClock(clock);
        Self {
            buckets: RateLimiter::dashmap_with_clock(quota, clock.clone()),
            clock,
            counted: limits.counted_callers,
            checks: AtomicUsize::new(0),
            full: AtomicBool::new(false),
        }
    }

    /// Counts one call, or refuses it.
    pub(crate) fn admit(&self, caller: Option<&Caller>, peer: SocketAddr) -> Result<(), Refused> {
        if self.is_full() {
            return Err(limited("the issuer serves too many callers", Duration::from_secs(5)));
        }
        let key = match caller {
            Some(caller) => Key::Caller(caller.spiffe_id().clone()),
            None => Key::Network(network(peer.ip())),
        };
        self.buckets.check_key(&key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            limited("too many calls; slow down", wait.max(Duration::from_millis(100)))
        })
    }

    /// Looks at the table now and then, because counting it locks all of it.
    fn is_full(&self) -> bool {
        let check = self.checks.fetch_add(1, Ordering::Relaxed);
        if check.is_multiple_of(CHECKS_BETWEEN_CLEANINGS) {
            if self.buckets.len() >= self.counted {
                self.buckets.retain_recent();
            }
            self.full.store(self.buckets.len() >= self.counted, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed)
    }
}

fn limited(message: &str, wait: Duration) -> Refused {
    Refused::new(Reason::RateLimited, message).retry(wait)
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Mutex;

    use shorepass_core::time::Timestamp;

    use super::*;

    #[derive(Default)]
    struct Hands(Mutex<Duration>);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn since_boot(&self) -> Duration {
            *self.0.lock().unwrap()
        }
    }

    fn rate(counted_callers: usize) -> (Arc<Hands>, Rate) {
        let clock = Arc::new(Hands::default());
        let limits = Limits {
            calls_per_second: NonZeroU32::new(1).unwrap(),
            calls_burst: NonZeroU32::new(2).unwrap(),
            counted_callers,
            ..Limits::enroll()
        };
        (clock.clone(), Rate::new(&limits, clock))
    }

    fn admit(rate: &Rate, peer: &str) -> Result<(), Refused> {
        rate.admit(None, SocketAddr::new(peer.parse().unwrap(), 1))
    }

    #[test]
    fn a_caller_over_its_rate_is_told_when_to_come_back() {
        let (clock, rate) = rate(100);
        assert_eq!(admit(&rate, "192.0.2.1"), Ok(()));
        assert_eq!(admit(&rate, "192.0.2.1"), Ok(()));
        let refused = admit(&rate, "192.0.2.1").unwrap_err();
        assert_eq!(refused.reason, Reason::RateLimited);
        let wait = refused.retry_after.unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1), "{wait:?}");
        *clock.0.lock().unwrap() += Duration::from_secs(1);
        assert_eq!(admit(&rate, "192.0.2.1"), Ok(()));
    }

    #[test]
    fn others_are_not_slowed() {
        let (_, rate) = rate(100);
        while admit(&rate, "192.0.2.1").is_ok() {}
        assert_eq!(admit(&rate, "192.0.2.2"), Ok(()));
    }

    #[test]
    fn one_network_of_ipv6_is_one_caller() {
        let (_, rate) = rate(100);
        while admit(&rate, "2001:db8::1").is_ok() {}
        assert!(admit(&rate, "2001:db8::2").is_err());
        assert!(admit(&rate, "2001:db8:0:1::1").is_ok());
        while admit(&rate, "::ffff:192.0.2.1").is_ok() {}
        assert!(admit(&rate, "192.0.2.1").is_err());
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_is_silent() {
        let (clock, rate) = rate(200);
        let peer = |number: u32| SocketAddr::new(IpAddr::V4((0x0a00_0000 + number).into()), 1);
        let refused = (0..10_000).filter(|&number| rate.admit(None, peer(number)).is_err()).count();
        assert!(refused > 9_000, "a full table refuses: {refused}");
        assert!(rate.buckets.len() <= 200 + CHECKS_BETWEEN_CLEANINGS);
        *clock.0.lock().unwrap() += Duration::from_secs(60);
        while rate.checks.load(Ordering::Relaxed) % CHECKS_BETWEEN_CLEANINGS != 0 {
            let _ = admit(&rate, "192.0.2.1");
        }
        assert_eq!(admit(&rate, "192.0.2.1"), Ok(()));
        assert!(rate.buckets.len() < 200, "{}", rate.buckets.len());
    }
}
