//! Follows the leases while they live: when each is to end by itself.
//!
//! What is known here is in memory and comes from the records: at start, and then with every commit ([`announce`]), whoever
//! made it. What is due is done by the [`timer`]. Nothing here is authority for anything: who acts on it asks the records
//! again, and the sweeper finds by itself what was missed.

pub mod announce;
mod deadlines;
pub mod timer;

use std::sync::{Mutex, MutexGuard, PoisonError};

use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{LeaseFilter, Ledger, LedgerError};
use shorepass_core::time::Timestamp;
use tokio::sync::Notify;

use self::deadlines::Deadlines;
use crate::revoke::PAGE;

/// What the issuer knows of living leases.
#[derive(Default)]
pub struct Follow {
    deadlines: Mutex<Deadlines>,
    /// Something is due earlier than before.
    sooner: Notify,
}

impl Follow {
    /// Takes up all leases that have not ended, before anybody is served.
    pub fn load(&self, ledger: &dyn Ledger) -> Result<(), LedgerError> {
        let mut before = None;
        loop {
            let page = ledger.leases(&LeaseFilter::default(), before, PAGE)?;
            before = page.last().map(|lease| lease.id);
            page.iter().filter(|lease| lease.is_live()).for_each(|lease| self.begins(lease));
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// A lease is recorded.
    fn begins(&self, lease: &Lease) {
        self.deadlines().note(lease.deadline, lease.id);
        self.sooner.notify_one();
    }

    /// A lease's end is recorded.
    fn ends(&self, lease: &Lease) {
        self.deadlines().forget(lease.deadline, lease.id);
    }

    /// The leases whose deadline has passed; each once.
    fn past_deadline(&self, now: Timestamp) -> Vec<LeaseId> {
        self.deadlines().take(now)
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines().next()
    }

    fn deadlines(&self) -> MutexGuard<'_, Deadlines> {
        // Nothing in here is half changed by a panic.
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
