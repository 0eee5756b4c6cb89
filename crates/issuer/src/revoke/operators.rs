//! An operator's revocation: block and end in one commit, durable before the cut; then cut; tell each step.

use std::sync::Arc;

use shorepass_core::block::Block;
use shorepass_core::caller::Caller;
use shorepass_core::id::BlockId;
use shorepass_core::lease::{EndCause, Lease};
use shorepass_core::ledger::{Change, Revision};
use shorepass_rpc::api::{Outcome, Revocation, RevokeStep};
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::mpsc;

use super::{Cut, Ends};
use crate::admin::Views;
use crate::outside::ledger_refused;

/// Revokes for operators.
#[derive(Clone)]
pub struct Revoking {
    ends: Ends,
    views: Views,
}

impl Revoking {
    /// Over the ends and what is shown of leases.
    pub fn new(ends: Ends, views: Views) -> Self {
        Self { ends, views }
    }

    /// Ends the leases and blocks their owners; goes on when nobody listens any more.
    pub async fn revoke(
        &self,
        caller: &Caller,
        revocation: Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        if found.is_empty() {
            return self.tell_ended(&revocation, &steps).await;
        }
        if revocation.dry_run {
            for lease in found {
                self.tell(&steps, lease, Outcome::WouldRevoke).await?;
            }
            return Ok(());
        }
        let ending = self.block_and_end(caller, &revocation).await?;
        for lease in ending {
            let (lease, outcome) = match self.ends.cut(lease).await? {
                Cut::Done(lease) => (lease, Outcome::Revoked),
                Cut::Later(lease, why) => (lease, Outcome::Ending(why)),
            };
            self.tell(&steps, lease, outcome).await?;
        }
        Ok(())
    }

    /// Nothing lives: a lease that was named is shown as it ended.
    async fn tell_ended(
        &self,
        revocation: &Revocation,
        steps: &mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        let Some(id) = revocation.filter.lease else { return Ok(()) };
        let found = self.ends.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        match found.filter(|lease| {
            let with_ended =
                shorepass_core::ledger::LeaseFilter { include_ended: true, ..revocation.filter.clone() };
            with_ended.matches(lease)
        }) {
            Some(lease) => self.tell(steps, lease, Outcome::AlreadyEnded).await,
            None => Err(Refused::new(
                Reason::RecordNotFound,
                format!("there is no lease {id}; see `shorepass lease list`"),
            )),
        }
    }

    /// Alone at the gate: no lease of the blocked pairs begins between the list and the block. One durable commit.
    async fn block_and_end(&self, caller: &Caller, revocation: &Revocation) -> Result<Vec<Lease>, Refused> {
        let outside = Arc::clone(&self.ends.outside);
        let _alone = outside.gate.write().await;
        let now = outside.clock.now();
        let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        let mut changes = Vec::new();
        let mut ending = Vec::new();
        for lease in found {
            let cause =
                EndCause::Revoked { by: caller.spiffe_id().clone(), reason: revocation.reason.clone() };
            changes.push(Change::BlockSet {
                block: Block {
                    id: BlockId::generate(now, outside.entropy.as_ref()),
                    caller: lease.owner.spiffe_id.clone(),
                    role: lease.role.clone(),
                    set: now,
                    until: lease.deadline,
                    by: caller.spiffe_id().clone(),
                    reason: revocation.reason.clone(),
                    lease: lease.id,
                    lifted: None,
                    revision: Revision::FIRST,
                },
            });
            match lease.clone().begin_end(cause, now) {
                Ok(lease) => {
                    changes.push(Change::LeaseEnding { lease: lease.clone() });
                    ending.push(lease);
                }
                Err(_) => ending.push(lease), // it is ending already: block its owner, cut again
            }
        }
        if !changes.is_empty() {
            outside.ledger.commit(changes).await.map_err(|cause| ledger_refused(&cause))?;
        }
        Ok(ending)
    }

    async fn tell(
        &self,
        steps: &mpsc::Sender<Result<RevokeStep, Refused>>,
        lease: Lease,
        outcome: Outcome,
    ) -> Result<(), Refused> {
        let view = self.views.of(lease, 1)?;
        // The receiver may be gone; the revocation is not undone by that.
        let _ = steps.send(Ok(RevokeStep { view, outcome })).await;
        Ok(())
    }
}
