//! Which leases this process is minting the first token of.
//!
//! A lease that is *pending* in the ledger and not in here was left by a crash, or by a failure that could not be recorded:
//! the same request may take it up again. Two must not do so at once, and nobody may where the anchor is being deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shorepass_core::id::LeaseId;

/// All attempts. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Attempts(Arc<Mutex<HashMap<LeaseId, Standing>>>);

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is at work.
    AtWork,
    /// It failed and could not be recorded; its anchor is being deleted.
    Spoiled,
}

/// One attempt; over when it is dropped.
#[derive(Debug)]
pub struct Attempt {
    attempts: Attempts,
    lease: LeaseId,
}

impl Attempts {
    /// Begins one; none if there is one of this lease already.
    pub fn begin(&self, lease: LeaseId) -> Option<Attempt> {
        let mut attempts = self.all();
        if attempts.contains_key(&lease) {
            return None;
        }
        attempts.insert(lease, Standing::AtWork);
        drop(attempts);
        Some(Attempt { attempts: self.clone(), lease })
    }

    /// How the attempt of this lease stands, if there is one.
    pub fn standing(&self, lease: LeaseId) -> Option<Standing> {
        self.all().get(&lease).copied()
    }

    /// Nobody may take the lease up again.
    pub fn spoil(&self, lease: LeaseId) {
        self.all().insert(lease, Standing::Spoiled);
    }

    /// The lease is not pending any more.
    pub fn forget(&self, lease: LeaseId) {
        self.all().remove(&lease);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<LeaseId, Standing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut attempts = self.attempts.all();
        if attempts.get(&self.lease) == Some(&Standing::AtWork) {
            attempts.remove(&self.lease);
        }
    }
}
