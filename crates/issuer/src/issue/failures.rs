//! When a step of the issuing path fails: what is settled, and what the caller is told.
//!
//! A first mint that failed may have left an anchor: its lease is recorded as ending at once, and the cut goes on without
//! the caller waiting for it. A refresh that failed leaves the lease and its earlier tokens as they are, unless the
//! cluster said that they are dead already.

use shorepass_core::caller::{Caller, Owner};
use shorepass_core::cluster::MintError;
use shorepass_core::id::{JobId, LeaseId};
use shorepass_core::lease::{EndCause, Lease, Mode};
use shorepass_core::ledger::LedgerError;
use shorepass_core::mint::{Lie, Order, Rejected, Verified};
use shorepass_core::name::Name;
use shorepass_core::policy::{Denial, DenialReason};
use shorepass_core::role::Role;
use shorepass_core::time::for_people;
use shorepass_rpc::refused::{Reason, Refused};

use super::Issuing;
use crate::outside::{Decided, Refusing, ledger_refused, mint_refused};

impl Issuing {
    pub(super) async fn deny(
        &self,
        caller: &Caller,
        method: &'static str,
        role: &Name,
        job: Option<JobId>,
        denial: Denial,
    ) -> Refused {
        let refused = match denial.reason {
            DenialReason::RoleNotAvailable(told) => {
                let why = told.map(|told| format!(": {told}")).unwrap_or_default();
                let message = format!(
                    "role {role} is not available to this caller and job{why}; an operator finds the reason by the decision id"
                );
                Refused::new(Reason::RoleNotAvailable, message)
            }
            // As of a lease that is lost: then an agent asks for a new one.
            DenialReason::GivesOther => Refused::new(
                Reason::LeaseNotAvailable,
                format!(
                    "role {role} gives out something else since this lease was granted; ask for a new one"
                ),
            ),
            DenialReason::Blocked(block) => Refused::new(
                Reason::Blocked,
                format!(
                    "{} blocked {} until {}: {}; an operator lifts it with `shorepass unblock {}`",
                    block.by,
                    if block.job.is_some() {
                        "this job".to_owned()
                    } else {
                        format!("role {role} for this runner")
                    },
                    for_people(block.until),
                    block.reason,
                    block.id
                ),
            )
            .with("block_id", block.id.to_string())
            .with("until", block.until.to_string()),
            DenialReason::JobEnded => {
                Refused::new(Reason::JobEnded, "the job session has ended; start a new one")
            }
            DenialReason::LeaseEnded(how) => {
                Refused::new(Reason::LeaseEnded, format!("the lease {how}; ask for a new one"))
            }
        };
        let explanation = denial.explanation;
        let caller = Some(caller.spiffe_id());
        let decided = Decided { job, dry_run: denial.dry_run };
        let refusing = Refusing { caller, method, subject: role.as_str(), refused, explanation };
        self.outside.refuse_decided(refusing, decided).await
    }

    /// Refuses, on record, whoever was banned since the call began.
    pub(super) async fn not_banned(
        &self,
        caller: &Caller,
        method: &'static str,
        role: &Name,
    ) -> Result<(), Refused> {
        self.owner_not_banned(&caller.owner(), method, role.as_str()).await
    }

    async fn owner_not_banned(
        &self,
        owner: &Owner,
        method: &'static str,
        subject: &str,
    ) -> Result<(), Refused> {
        let Err(refused) = self.outside.not_banned(owner) else { return Ok(()) };
        let (caller, explanation) = (Some(&owner.spiffe_id), refused.message.clone());
        Err(self.outside.refuse(Refusing { caller, method, subject, refused, explanation }).await)
    }

    /// Refuses, on record, where the role's ServiceAccount is not allowed what its jobs need.
    pub(super) async fn allowed_what_it_needs(&self, caller: &Caller, role: &Role) -> Result<(), Refused> {
        let cluster = self.outside.cluster(role.cluster())?;
        let Err(cause) = self.outside.reviews.check_needs(role, cluster.as_ref()).await else {
            return Ok(());
        };
        let (caller, subject) = (Some(caller.spiffe_id()), role.name().as_str());
        let (refused, explanation) = (mint_refused(&cause), cause.to_string());
        Err(self.outside.refuse(Refusing { caller, method: "Issue", subject, refused, explanation }).await)
    }

    /// The cluster gave no token.
    pub(super) async fn give_up(&self, order: Order, cause: MintError) -> Refused {
        tracing::warn!(lease = %order.lease_id(), error = %cause, "minting failed");
        let lease = order.lease().clone();
        let end = match (&cause, order.pins().is_none()) {
            (_, true) => Some(EndCause::Abandoned),
            (MintError::AnchorLost, false) => Some(EndCause::AnchorLost),
            (MintError::ServiceAccountReplaced { .. } | MintError::ServiceAccountMissing { .. }, false) => {
                Some(EndCause::ServiceAccountReplaced)
            }
            (_, false) => None,
        };
        match end {
            Some(end) if cause.nothing_was_made() || !lease.has_anchor() => {
                self.ends.end_without_anchor(lease, end).await;
            }
            Some(end) => self.ends.end_in_background(lease, end).await,
            None => {}
        }
        self.refuse_mint(order.lease(), &cause).await
    }

    /// The cluster gave something else than was asked for.
    pub(super) async fn cut_and_fail(&self, rejected: Rejected) -> Refused {
        let Rejected { lease, lie } = rejected;
        tracing::error!(lease = %lease.id, error = %lie, "the API server's answer was rejected");
        let (namespace, name) = (lease.target.namespace.to_string(), lease.target.service_account.clone());
        let first = lease.pins().is_none();
        let cause = match lie {
            Lie::ServiceAccountUid if !first => MintError::ServiceAccountReplaced { namespace, name },
            Lie::ClockSkew(seconds) => MintError::ClockSkew { seconds },
            Lie::ServiceAccountUid
            | Lie::ServiceAccount(_)
            | Lie::Generated
            | Lie::Anchor
            | Lie::Bound
            | Lie::Audience(_)
            | Lie::Expiry
            | Lie::Jti
            | Lie::State(_) => MintError::AnswerRejected(lie.to_string()),
        };
        // A refresh that was lied to hands nothing out and leaves the lease and its earlier tokens as they are.
        let end = match &cause {
            MintError::ServiceAccountReplaced { .. } => Some(EndCause::ServiceAccountReplaced),
            _ if first => Some(EndCause::Abandoned),
            _ => None,
        };
        if let Some(end) = end {
            self.ends.end_in_background(Lease::clone(&lease), end).await;
        }
        self.refuse_mint(&lease, &cause).await
    }

    /// The token could not be recorded and does not leave. If it was the lease's first, it dies now: the lease stays
    /// pending until the ledger works again and the sweeper settles it.
    pub(super) fn unrecorded(&self, verified: &Verified, cause: &LedgerError) -> Refused {
        if verified.is_first() {
            self.outside.attempts.spoil(verified.lease().id); // who takes it up would lose the anchor under its hands
            self.ends.delete_in_background(verified.lease());
        }
        ledger_refused(cause)
    }

    /// The lease was ended while its token was being minted: the token dies with the anchor.
    pub(super) async fn ended_meanwhile(&self, verified: &Verified) -> Refused {
        let lease = verified.lease();
        let id = lease.id;
        if let Err(refused) = self.owner_not_banned(verified.owner(), "mint", lease.role_name()).await {
            return refused; // its leases are being ended, if not by the ban then by the sweeper
        }
        if let Ok(Some(lease)) = self.outside.ledger.lease(id) {
            self.ends.cut_in_background(lease);
        }
        match self.still_live(id) {
            Err(refused) => refused,
            Ok(()) => {
                Refused::new(Reason::StoreUnavailable, "the lease was changed at the same time; try again")
            }
        }
    }

    pub(super) fn still_live(&self, lease: LeaseId) -> Result<(), Refused> {
        let lease = self.outside.ledger.lease(lease).map_err(|cause| ledger_refused(&cause))?;
        match lease.as_ref().and_then(|lease| lease.end_cause()) {
            Some((cause, _)) => {
                let message =
                    format!("the lease {}; ask for a new one, with another request id", cause.describe());
                Err(Refused::new(Reason::LeaseEnded, message))
            }
            None => Ok(()),
        }
    }

    async fn refuse_mint(&self, lease: &Lease, cause: &MintError) -> Refused {
        let refusing = Refusing {
            caller: lease.owner.spiffe_id(),
            method: "mint",
            subject: lease.role_name(),
            refused: refused_for(lease, cause).with("lease_id", lease.id.to_string()),
            explanation: cause.to_string(),
        };
        self.outside.refuse(refusing).await
    }
}

/// A ServiceAccount that was made for a lease is gone with it: nobody can make that one again.
fn refused_for(lease: &Lease, cause: &MintError) -> Refused {
    let own = matches!(lease.mode, Mode::Strict { .. }) && lease.pins().is_some();
    match cause {
        MintError::ServiceAccountMissing { .. } if own => {
            let message =
                format!("the lease {}: ask for a new one", EndCause::ServiceAccountReplaced.describe());
            Refused::new(Reason::LeaseEnded, message)
        }
        cause => mint_refused(cause),
    }
}
