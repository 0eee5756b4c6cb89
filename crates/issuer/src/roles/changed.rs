//! What follows when roles are exchanged: how long owners of living leases may be silent, who is told, and which leases end.
//! Which end is asked at the start, too: documents may have changed while the issuer was away.

use std::sync::Arc;

use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::{LeaseFilter, LedgerError};
use shorepass_core::name::Name;
use shorepass_core::policy::explanation::Who;
use shorepass_core::policy::{DenialReason, Policy};
use shorepass_core::role::{OnChange, Role};
use shorepass_core::time::after;

use crate::revoke::{Ends, LEASES_IN_A_COMMIT};

/// One policy in the place of another.
pub(super) struct Changed<'e> {
    pub(super) old: Arc<Policy>,
    pub(super) new: Arc<Policy>,
    pub(super) ends: &'e Ends,
}

impl Changed<'_> {
    /// Does it. Leases of before the exchange are durable by now, and those of after it were granted by the new policy.
    pub(super) async fn follow(&self) {
        let outside = &self.ends.outside;
        outside.follow.exchange_roles(&self.new);
        let live = match self.ends.live(&LeaseFilter::default()) {
            Ok(live) => live,
            Err(cause) => {
                tracing::warn!(error = %cause, "leases could not be looked at after the roles were exchanged: they follow with their next refresh");
                return;
            }
        };
        for lease in &live {
            let changed = lease.role.as_ref().is_some_and(|role| self.is_another(role));
            outside.follow.roles_exchanged(lease, changed);
        }
        self.end(live).await;
    }

    /// The same at the start, when nobody is told and all that the old policy was is what leases record of it. Of a role that
    /// went away meanwhile it is not known what it said: its leases live until their next refresh.
    pub(super) async fn catch_up(&self) {
        match self.ends.live(&LeaseFilter::default()) {
            Ok(live) => self.end(live).await,
            Err(cause) => {
                tracing::warn!(error = %cause, "leases could not be looked at at the start: they follow their roles with their next refresh");
            }
        }
    }

    /// Whether the role is not what it was, or is gone.
    fn is_another(&self, role: &Name) -> bool {
        self.old.role(role).map(Role::digest) != self.new.role(role).map(Role::digest)
    }

    /// Ends those that would not be refreshed any more and whose roles say so.
    async fn end(&self, live: Vec<Lease>) {
        let mut refused = Vec::new();
        for lease in live {
            match self.is_to_end(&lease) {
                Ok(true) => refused.push(lease),
                Ok(false) => {}
                Err(cause) => {
                    tracing::warn!(lease = %lease.id, error = %cause, "it is not known whether the role still gives a lease: it is asked at its next refresh");
                }
            }
        }
        for some in refused.chunks(LEASES_IN_A_COMMIT) {
            match self.ends.record_ends(some, &EndCause::RoleChanged).await {
                Ok(ending) => ending.begun.into_iter().for_each(|lease| {
                    tracing::info!(lease = %lease.id, role = lease.role_name(), "the role does not give the lease any more");
                    self.ends.cut_in_background(lease);
                }),
                Err(refused) => {
                    tracing::warn!(error = %refused, "ends were not recorded: the leases live until their next refresh");
                }
            }
        }
    }

    /// Asks what a refresh would ask, and whether it would be given for so long.
    fn is_to_end(&self, lease: &Lease) -> Result<bool, LedgerError> {
        let (Some(name), Some(owner)) = (&lease.role, lease.owner.known()) else { return Ok(false) };
        let role = self.new.role(name);
        let says = role.or(self.old.role(name)).map(Role::on_change);
        let is_as_it_was = role.is_some_and(|role| role.digest() == lease.role_digest);
        if is_as_it_was || says != Some(OnChange::End) {
            return Ok(false);
        }
        let outside = &self.ends.outside;
        let labels = outside.labels_of_owner(owner)?;
        let job = lease.job.map(|job| outside.ledger.job(job)).transpose()?.flatten();
        let who = Who { spiffe_id: &owner.spiffe_id, own: owner.is_own(), labels: &labels };
        let refreshed = self.new.would_refresh(who, job.as_ref(), lease, outside.clock.now());
        Ok(match refreshed {
            Ok(role) => lease.deadline > after(lease.created, role.lease().max),
            Err(denial) => {
                matches!(denial.reason, DenialReason::RoleNotAvailable(_) | DenialReason::GivesOther)
            }
        })
    }
}
