//! Ends that are owed: of leases that a revocation has blocked, and whose ends could not be recorded.
//!
//! The [`sweeper`](super::sweeper) records them as soon as that works. It is kept in memory alone: after a restart the blocks say the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::name::Name;

/// All that are owed. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Owed(Arc<Mutex<HashMap<LeaseId, (Name, EndCause)>>>);

impl Owed {
    /// The leases are to end, for that cause.
    pub(crate) fn add<'a>(&self, leases: impl IntoIterator<Item = &'a Lease>, cause: &EndCause) {
        let owed = |lease: &Lease| (lease.id, (lease.target.cluster.clone(), cause.clone()));
        self.all().extend(leases.into_iter().map(owed));
    }

    /// What is owed in one cluster.
    pub(crate) fn of(&self, cluster: &Name) -> HashMap<LeaseId, EndCause> {
        let all = self.all();
        let there = all.iter().filter(|(_, (name, _))| name == cluster);
        there.map(|(id, (_, cause))| (*id, cause.clone())).collect()
    }

    /// The lease has ended, however.
    pub(crate) fn settle(&self, lease: LeaseId) {
        self.all().remove(&lease);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<LeaseId, (Name, EndCause)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
