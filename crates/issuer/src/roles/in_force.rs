//! The policy in force.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::policy::Policy;
use shorepass_core::time::Clock;
use shorepass_daemon::clock::sleep_until_boottime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Gives the policy of the moment. Only `reload` exchanges it.
#[derive(Debug)]
pub struct InForce(watch::Sender<Arc<Policy>>);

impl InForce {
    /// The first one.
    pub fn new(policy: Policy) -> Self {
        Self(watch::Sender::new(Arc::new(policy)))
    }

    /// The policy of this moment, for one decision.
    pub fn current(&self) -> Arc<Policy> {
        self.0.borrow().clone()
    }

    /// Calls `look` with the policy: now, after each exchange, and when the time has passed that it last answered with.
    /// Goes on until `stop`, which also interrupts it.
    pub async fn follow<Look, Looking>(&self, clock: &dyn Clock, stop: &CancellationToken, look: Look)
    where
        Look: Fn(Arc<Policy>) -> Looking,
        Looking: Future<Output = Duration>,
    {
        let mut exchanges = self.0.subscribe();
        loop {
            let policy = exchanges.borrow_and_update().clone();
            let Some(wait) = stop.run_until_cancelled(look(policy)).await else { return };
            let due = clock.since_boot() + wait;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until_boottime(clock, due) => {}
                // It fails only where nobody can exchange the policy any more, and we can.
                _ = exchanges.changed() => {}
            }
        }
    }

    /// Puts another one in its place; gives both, the old one first.
    pub(crate) fn exchange(&self, policy: Policy) -> (Arc<Policy>, Arc<Policy>) {
        let new = Arc::new(policy);
        (self.0.send_replace(new.clone()), new)
    }
}
