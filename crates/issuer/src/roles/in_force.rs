//! The policy in force.

use std::sync::Arc;

use shorepass_core::policy::Policy;
use tokio::sync::watch;

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

    /// Tells of each exchange.
    pub fn exchanges(&self) -> watch::Receiver<Arc<Policy>> {
        self.0.subscribe()
    }

    /// Puts another one in its place; gives both, the old one first.
    pub(super) fn exchange(&self, policy: Policy) -> (Arc<Policy>, Arc<Policy>) {
        let new = Arc::new(policy);
        (self.0.send_replace(new.clone()), new)
    }
}
