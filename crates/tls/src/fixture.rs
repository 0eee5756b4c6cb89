//! Values that the tests of this crate share.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Clock, Entropy, Timestamp};
use shorepass_testing::certificates::Subject;

/// Different bytes at each call, the same in each run.
#[derive(Default)]
pub(crate) struct TestEntropy(AtomicU8);

impl Entropy for TestEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("ci.example.org").unwrap()
}

pub(crate) fn runner() -> SpiffeId {
    SpiffeId::parse("spiffe://ci.example.org/runner/prod-1").unwrap()
}

pub(crate) fn issuer() -> SpiffeId {
    SpiffeId::parse("spiffe://ci.example.org/issuer/main").unwrap()
}

pub(crate) fn enrolment() -> EnrolmentId {
    EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap()
}

pub(crate) fn subject() -> Subject {
    Subject { spiffe_id: runner(), enrolment: enrolment(), now: now() }
}

/// Stands still at [`now`].
pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        now()
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}
