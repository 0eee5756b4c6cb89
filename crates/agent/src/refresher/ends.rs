//! What the refresher is told by who follows the issuer.
//!
//! An end may be told before the answer that brought the lease: the last of those that nobody has are remembered, so that
//! a token that comes after its end is not served.

use std::collections::VecDeque;
use std::time::Duration;

use shorepass_core::id::{CallId, LeaseId};
use shorepass_daemon::telemetry::Chain;
use tracing::{info, warn};

use super::Refresher;
use crate::entry::{Call, Entry};
use crate::follow::Ended;
use crate::issuer::IssuerError;

/// Ends of unknown leases that are remembered.
const REMEMBERED: usize = 64;

/// The last ends of leases that nobody had.
#[derive(Default)]
pub(super) struct EarlyEnds(VecDeque<Ended>);

impl EarlyEnds {
    fn remember(&mut self, ended: Ended) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(ended);
    }

    pub(super) fn of(&self, lease: LeaseId) -> Option<Ended> {
        self.0.iter().find(|ended| ended.lease == lease).cloned()
    }
}

impl Refresher {
    pub(super) fn ended(&mut self, ended: Ended, call: &CallId) {
        let now = self.now();
        self.early_ends.remember(ended.clone());
        let Some((key, entry)) =
            self.entries.iter_mut().find(|(_, entry)| entry.lease() == Some(ended.lease))
        else {
            return;
        };
        warn!(request_id = %call, role = %key.role, job = key.job.name(), lease = %ended.lease, reason = ended.sentence(), "the lease is over");
        entry.end(&ended, call, now);
    }

    pub(super) fn unavailable(&mut self, lease: LeaseId, call: &CallId) {
        let now = self.now();
        if let Some(entry) = self.entry_of(lease) {
            warn!(request_id = %call, %lease, "the issuer does not know this lease as ours");
            entry.lose(call, now);
        }
    }

    pub(super) fn role_changed(&mut self, lease: LeaseId) {
        let (now, jitter) = (self.now(), self.jitter());
        if let Some(entry) = self.entry_of(lease) {
            info!(%lease, "the lease's role was changed: asking for a token by the new one");
            entry.role_changed(now, jitter);
        }
    }

    pub(super) fn heard(&mut self, leases: &[LeaseId], sent: Duration) {
        self.outage = None;
        for entry in self.entries.values_mut() {
            if entry.lease().is_some_and(|lease| leases.contains(&lease)) {
                entry.heard(sent);
            }
        }
    }

    /// The enrolment has ended, or is banned, and with it every lease.
    pub(super) fn shut_out(&mut self, error: &IssuerError, call: &CallId) {
        let (now, jitter) = (self.now(), self.jitter());
        for entry in self.entries.values_mut() {
            if let Some(lease) = entry.lease() {
                warn!(request_id = %call, %lease, reason = %Chain(error), "the lease is over");
                entry.fail(Call::Refresh(lease), call, error, now, jitter);
            }
        }
    }

    pub(super) fn tell_what_is_kept(&self) {
        let leases: Vec<LeaseId> = self.entries.values().filter_map(Entry::lease).collect();
        self.kept.send_if_modified(|kept| {
            let changed = *kept != leases;
            *kept = leases;
            changed
        });
    }

    fn entry_of(&mut self, lease: LeaseId) -> Option<&mut Entry> {
        self.entries.values_mut().find(|entry| entry.lease() == Some(lease))
    }
}
