//! A request to issue that comes again: its reply was lost, or the issuer was restarted under it.
//!
//! It is decided again, by the policy, blocks and bans of now, and answered with a new token of the same lease. A lease that
//! a crash left pending is taken up: whatever the first attempt made under the names that the record has is deleted, and
//! all of it is made. So one lease's anchor may be made twice under its name; no token of the first one has left, because
//! none was recorded.

use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::id::{CallId, JobId};
use shorepass_core::job::Job;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::LedgerError;
use shorepass_core::mint::Order;
use shorepass_core::policy::{Ask, Asker};
use shorepass_core::request::{Method, Outcome};
use shorepass_rpc::api::{Delivery, RequestKey};
use shorepass_rpc::refused::{Reason, Refused};

use super::Issuing;
use super::attempts::Attempt;
use crate::outside::ledger_refused;

impl Issuing {
    /// The lease that the same request led to before.
    pub(super) async fn answered(
        &self,
        caller: &Caller,
        job: JobId,
        request: RequestKey,
    ) -> Result<Option<Lease>, Refused> {
        let found = self.outside.ledger.request(&caller.owner(), Some(job), Method::Issue, request.id);
        let Some(earlier) = found.map_err(|cause| ledger_refused(&cause))? else {
            return Ok(None);
        };
        match earlier.answer(request.content) {
            Ok(Outcome::Lease(id)) => self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause)),
            Ok(Outcome::Job(_) | Outcome::JoinToken(_)) => Ok(None),
            Err(reused) => {
                Err(self.outside.refuse_reused(caller, "Issue", &earlier, reused.to_string()).await)
            }
        }
    }

    /// The same lease, if it still may be had, with a new token.
    pub(super) async fn answer_again(
        &self,
        caller: &Caller,
        call: &CallId,
        job: &Job,
        lease: Lease,
        ask: Ask,
    ) -> Result<Delivery, Refused> {
        let _attempt = self.take_up(&lease)?;
        let order = self.decide_again(caller, job, lease, &ask).await?;
        if let Some(role) = self.outside.policy.current().role(&ask.role) {
            self.outside.quotas.mint(role)?;
        }
        let turn = self.turn(caller, &order.target().cluster).await?;
        if let Err(cause) = self.clear(&order).await {
            return Err(self.give_up(order, cause).await);
        }
        let verified = self.mint_and_check(order, call, turn).await?;
        let recorded = self.record(&verified).await?;
        self.still_live(verified.lease().id)?; // a token of a lease that ended meanwhile does not leave
        self.deliver(caller, verified, &recorded)
    }

    /// A lease that is still pending is worked on by one at a time.
    fn take_up(&self, lease: &Lease) -> Result<Option<Attempt>, Refused> {
        if !lease.is_live() || lease.pins().is_some() {
            return Ok(None);
        }
        self.outside.attempts.begin(lease.id).map(Some).ok_or_else(at_work)
    }

    /// As it is now: it may have moved on before it was taken up.
    async fn decide_again(
        &self,
        caller: &Caller,
        job: &Job,
        lease: Lease,
        ask: &Ask,
    ) -> Result<Order, Refused> {
        let _together = self.outside.gate.read().await;
        let outside = &self.outside;
        self.not_banned(caller, "Issue", &ask.role).await?;
        let read = || {
            let blocks = outside.blocks_on(caller, &ask.role, job.id)?;
            Ok((blocks, outside.ledger.lease(lease.id)?.unwrap_or(lease.clone())))
        };
        let (blocks, lease) = read().map_err(|cause: LedgerError| ledger_refused(&cause))?;
        let (job, role) = (self.jobs.current(job.id)?, ask.role.clone());
        let now = outside.clock.now();
        let labels = outside.labels_of(caller)?;
        let asker = Asker { caller, labels: &labels };
        let policy = outside.policy.current();
        match policy.decide_again(asker, Some(&job), lease, ask.token_lifetime, &blocks, now) {
            Ok(order) => Ok(order),
            Err(denial) => Err(self.deny(caller, "Issue", &role, Some(job.id), denial).await),
        }
    }

    /// Deletes what an interrupted attempt may have made: its answer is lost, and with it the anchor's UID.
    async fn clear(&self, order: &Order) -> Result<(), MintError> {
        if order.pins().is_some() {
            return Ok(());
        }
        let target = order.target();
        let unreachable = |cause| MintError::Unreachable { cluster: target.cluster.clone(), cause };
        let cluster =
            self.outside.cluster(&target.cluster).map_err(|refused| unreachable(refused.message))?;
        cluster.cut(order.lease()).await.map_err(|cause| match cause {
            CutError::Forbidden(rule) => MintError::Forbidden { rule },
            CutError::Unreachable(cause) => unreachable(cause),
            CutError::Busy { retry_after } => {
                MintError::Busy { cluster: target.cluster.clone(), retry_after }
            }
            held @ (CutError::HeldByFinalizer(_) | CutError::PartHeldByFinalizer(_)) => {
                unreachable(held.to_string())
            }
        })
    }

    /// Nothing was recorded. Where the same request was faster, it is that one's to answer.
    pub(super) async fn not_begun(
        &self,
        caller: &Caller,
        job: JobId,
        request: RequestKey,
        cause: &LedgerError,
    ) -> Refused {
        let conflict = matches!(cause, LedgerError::Conflict(_));
        match self.answered(caller, job, request).await {
            Ok(Some(_)) if conflict => at_work(),
            Err(reused) if conflict => reused,
            Ok(_) | Err(_) => ledger_refused(cause),
        }
    }
}

/// What a request is told while its first attempt is at work.
pub(super) fn at_work() -> Refused {
    let busy = "the first attempt of this request is still being worked on; try again";
    Refused::new(Reason::ClusterBusy, busy).retry(Duration::from_secs(1))
}
