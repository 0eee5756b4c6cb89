//! What roles are, and where their tokens are used, asked of the issuer and remembered for a moment.
//!
//! Lookups of one role wait for one another and share an answer, so a loop of clients costs one call in two seconds.
//! It is no cache to rely on: what an operator changes is seen with the next lookup after that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shorepass_core::id::CallId;
use shorepass_core::name::Name;
use shorepass_core::time::Clock;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::v1::Role;
use tracing::warn;

use crate::issuer::{Denial, Issuer};

/// How long an answer is told again; a refusal too.
const REMEMBERED: Duration = Duration::from_secs(2);

type Answer = Result<Option<Role>, Denial>;

/// The last answer, and until when it is told. Whoever holds the lock is the one who asks.
type Slot = Arc<tokio::sync::Mutex<Option<(Duration, Answer)>>>;

/// The roles that were asked for lately.
pub(crate) struct Roles {
    issuer: Arc<dyn Issuer>,
    clock: Arc<dyn Clock>,
    slots: Mutex<BTreeMap<Name, Slot>>,
}

impl Roles {
    pub(crate) fn new(issuer: Arc<dyn Issuer>, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, clock, slots: Mutex::default() }
    }

    /// None where the role is not offered to this runner. Who stops waiting leaves the asking to the next. The issuer is
    /// asked under `call`, unless somebody else has just asked it.
    pub(crate) async fn find(&self, call: &CallId, role: &Name) -> Answer {
        let slot = self.slot(role);
        let mut known = slot.lock().await;
        if let Some((until, answer)) = &*known
            && self.clock.since_boot() < *until
        {
            return answer.clone();
        }
        let answer = self.issuer.role(call, role).await.map_err(|error| {
            warn!(request_id = %call, %role, error = %Chain(&error), "cannot look the role up");
            error.denial(call)
        });
        *known = Some((self.clock.since_boot() + REMEMBERED, answer.clone()));
        answer
    }

    fn slot(&self, role: &Name) -> Slot {
        let now = self.clock.since_boot();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let fresh = |slot: &Slot| {
                slot.try_lock().map_or(true, |known| known.as_ref().is_some_and(|(until, _)| now < *until))
            };
            Arc::strong_count(slot) > 1 || fresh(slot)
        });
        slots.entry(role.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeClock, FakeIssuer, Mood};
    use shorepass_proto::v1::ErrorReason as Reason;

    fn calls() -> [CallId; 3] {
        ["a", "b", "c"].map(|id| CallId::parse(id).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_of_one_role_share_a_call_and_its_answer_for_two_seconds() {
        let issuer = FakeIssuer::new();
        let roles = Roles::new(issuer.clone(), FakeClock::new());
        let (web, other) = (Name::parse("web").unwrap(), Name::parse("other").unwrap());
        let [a, b, c] = calls();
        let (one, two, none) =
            tokio::join!(roles.find(&a, &web), roles.find(&b, &web), roles.find(&c, &other));
        assert_eq!(one.unwrap().unwrap().cluster.unwrap().name, "staging");
        assert!(two.unwrap().is_some() && none.unwrap().is_none());
        roles.find(&b, &web).await.unwrap();
        assert_eq!(issuer.books().ids, [a, c]);
        tokio::time::sleep(REMEMBERED).await;
        roles.find(&b, &web).await.unwrap();
        assert_eq!(issuer.count("role"), 3);
        assert_eq!(roles.slots.lock().unwrap().len(), 1, "what nobody asks for is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_was_given_up_is_taken_over_by_who_still_waits() {
        let issuer = FakeIssuer::new();
        let roles = Roles::new(issuer.clone(), FakeClock::new());
        let web = Name::parse("web").unwrap();
        let [a, b, _] = calls();
        let gone = tokio::time::timeout(Duration::from_millis(10), roles.find(&a, &web));
        let (gone, found) = tokio::join!(gone, roles.find(&b, &web));
        assert!(gone.is_err() && found.unwrap().is_some());
        assert_eq!(issuer.books().ids, [a, b]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_shares_a_refusal_is_told_the_call_that_gave_it() {
        let issuer = FakeIssuer::new();
        issuer.books().mood = Mood::Refuses(Reason::ShuttingDown);
        let roles = Roles::new(issuer.clone(), FakeClock::new());
        let web = Name::parse("web").unwrap();
        let [a, b, c] = calls();
        let (one, two) = tokio::join!(roles.find(&a, &web), roles.find(&b, &web));
        for answer in [one, two, roles.find(&c, &web).await] {
            assert_eq!(answer.unwrap_err().call, Some(a.clone()));
        }
    }
}
