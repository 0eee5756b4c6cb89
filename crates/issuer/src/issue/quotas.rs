//! What a role limits: how many of its leases live at once, and how many tokens of it are minted in a minute.
//!
//! Both are asked before anything is recorded. A place for a lease is held until its record counts, so that two who ask at
//! once do not both get the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use shorepass_core::name::Name;
use shorepass_core::role::{Limits, Role};
use shorepass_core::time::Clock;
use shorepass_rpc::rate::BootClock;
use shorepass_rpc::refused::{Reason, Refused};

/// When somebody comes back for whom there was no lease left: one has to end first.
const LEASE_RETRY: Duration = Duration::from_secs(5);
/// The least that anybody is told to wait.
const RETRY_LEAST: Duration = Duration::from_millis(200);

type Bucket = RateLimiter<NotKeyed, InMemoryState, BootClock, NoOpMiddleware<Duration>>;

/// What is left of all roles' limits.
pub struct Quotas {
    clock: BootClock,
    /// With the limits that they were made for: a role may be changed.
    buckets: Mutex<HashMap<Name, (Limits, Arc<Bucket>)>>,
    held: Arc<Mutex<HashMap<Name, usize>>>,
}

/// A place for one lease of a role; given back when dropped.
#[must_use]
pub struct Place {
    held: Arc<Mutex<HashMap<Name, usize>>>,
    role: Name,
}

impl Quotas {
    /// Nothing is used up.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock: BootClock(clock), buckets: Mutex::default(), held: Arc::default() }
    }

    /// A place for one more lease of the role, of which `living` are recorded.
    pub fn place(&self, role: &Role, living: impl FnOnce() -> usize) -> Result<Place, Refused> {
        let mut held = locked(&self.held);
        let places = held.entry(role.name().clone()).or_default();
        if let Some(limit) = role.limits().leases {
            // Counted while the places are: a lease that is just recorded may count twice, and none is missed.
            let taken = *places + living();
            if taken >= usize::try_from(limit.get()).unwrap_or(usize::MAX) {
                let message = format!(
                    "role {} has {limit} leases, which is its limit: give one back, or wait until one ends",
                    role.name()
                );
                return Err(Refused::new(Reason::RateLimited, message).retry(LEASE_RETRY));
            }
        }
        *places += 1;
        Ok(Place { held: self.held.clone(), role: role.name().clone() })
    }

    /// Counts one mint of the role.
    pub fn mint(&self, role: &Role) -> Result<(), Refused> {
        let limits = role.limits();
        let Some(per_minute) = limits.mints_per_minute else { return Ok(()) };
        let bucket = {
            let mut buckets = locked(&self.buckets);
            let fresh = || {
                let bucket =
                    RateLimiter::direct_with_clock(Quota::per_minute(per_minute), self.clock.clone());
                (limits, Arc::new(bucket))
            };
            let known = buckets.entry(role.name().clone()).or_insert_with(fresh);
            if known.0 != limits {
                *known = fresh();
            }
            known.1.clone()
        };
        bucket.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now()).max(RETRY_LEAST);
            let message = format!("role {} gives {per_minute} tokens a minute: try again later", role.name());
            Refused::new(Reason::RateLimited, message).retry(wait)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = locked(&self.held);
        match held.get_mut(&self.role) {
            Some(places) if *places > 1 => *places -= 1,
            Some(_) | None => drop(held.remove(&self.role)),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
