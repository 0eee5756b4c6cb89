//! Who is banned now, in memory: asked before every call, so that it must cost nothing.
//!
//! The ledger has the same, durably, and refuses by itself whatever would give somebody something who is banned there. This
//! list is brought up to it at start, and after each ban and unban, before those are acknowledged. Before it was read nobody
//! is known not to be banned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::caller::Owner;
use shorepass_core::ledger::{Ledger, LedgerError};

/// How many bans are read at once.
const PAGE: usize = 200;

/// The bans in force.
#[derive(Debug, Default)]
pub struct BanList {
    bans: RwLock<HashMap<BanKey, Arc<Ban>>>,
    read: AtomicBool,
}

impl BanList {
    /// As the ledger has them.
    pub fn read(&self, ledger: &dyn Ledger) -> Result<(), LedgerError> {
        let mut after = None;
        loop {
            let page = ledger.bans(after.as_ref(), PAGE)?;
            after = page.last().map(|ban| ban.banned.key());
            let full = page.len() == PAGE;
            page.into_iter().for_each(|ban| self.put(ban));
            if !full {
                self.read.store(true, Ordering::Release);
                return Ok(());
            }
        }
    }

    /// Whether it was read.
    pub fn is_known(&self) -> bool {
        self.read.load(Ordering::Acquire)
    }

    /// The ban that holds for this owner, of those that are known.
    pub fn on(&self, owner: &Owner) -> Option<Arc<Ban>> {
        let bans = self.bans.read().unwrap_or_else(PoisonError::into_inner);
        if bans.is_empty() {
            return None;
        }
        let name = bans.get(&BanKey::Name(owner.spiffe_id.clone()));
        name.or_else(|| bans.get(&BanKey::Enrolment(owner.enrolment))).cloned()
    }

    /// As it is after its last change.
    pub(crate) fn put(&self, ban: Ban) {
        let mut bans = self.bans.write().unwrap_or_else(PoisonError::into_inner);
        let key = ban.banned.key();
        if ban.in_force() {
            bans.insert(key, Arc::new(ban));
        } else {
            bans.remove(&key);
        }
    }
}
