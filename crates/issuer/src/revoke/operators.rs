//! An operator's revocation: block, then end, durable before the cut; then cut; tell each step, and each receipt if the
//! operator waits for them.
//!
//! Who waits for receipts wants them proved, and canaries for many leases at once are not there in time. So then leases end a few
//! at a time; they are all blocked before the first one ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::block::Block;
use shorepass_core::caller::Caller;
use shorepass_core::id::{BlockId, LeaseId};
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::ledger::{Change, LedgerError, Revision};
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Awaited, Outcome, Revocation, RevokeStep};
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::{CutResult, Ends};
use crate::admin::Views;
use crate::outside::ledger_refused;
use crate::prove::{SAMPLE, Wishes};

/// How many leases one commit blocks and ends.
const LEASES_IN_A_COMMIT: usize = 100;
/// How many leases end at a time where an operator waits for receipts: each of them is cut
/// [`WINDOW`](crate::prove::WINDOW) after its end at the latest, ready or not.
const PACE: usize = 4;
/// How long the next ones wait for the deletes of those before. A slow cluster does not hold up a revocation for longer.
const PATIENCE: Duration = Duration::from_millis(300);

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
        // All deletes go out before anything is told: an operator's slow terminal holds up none of them.
        let (sender, mut cuts) = mpsc::unbounded_channel(); // one message for each lease at most
        let mut receipts = Receipts::new(&self.ends, &found);
        let _wishes = if revocation.wait && found.len() <= SAMPLE {
            self.end_at_a_pace(caller, &revocation, sender).await?
        } else {
            let (ending, wishes) = self.block_and_end(caller, &revocation).await?;
            self.ends.cut_into(ending, &sender);
            drop(sender);
            wishes
        };
        while let Some((lease, obstacle)) = cuts.recv().await {
            let outcome = obstacle.map_or(Outcome::Revoked, |obstacle| Outcome::Ending(obstacle.to_string()));
            let follows = revocation.wait && self.receipt_follows(&lease, &receipts)?;
            if follows {
                receipts.awaited.push((lease.id, outcome.clone()));
            }
            let awaited = if follows { Awaited::Follows } else { Awaited::No };
            self.tell_with(&steps, lease, outcome, awaited).await?;
        }
        self.tell_receipts(receipts, &steps).await
    }

    /// Whether a proof about the lease is under way, or has ended just now.
    fn receipt_follows(&self, lease: &Lease, receipts: &Receipts) -> Result<bool, Refused> {
        Ok(self.ends.proving.is_at_work(lease.id) || receipts.is_new(&self.current(lease.id)?))
    }

    fn current(&self, id: LeaseId) -> Result<Lease, Refused> {
        let found = self.ends.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        found.ok_or_else(|| ledger_refused(&LedgerError::Unavailable(format!("lease {id} is missing"))))
    }

    /// Each as it comes. Proofs end by themselves, so this does.
    async fn tell_receipts(
        &self,
        mut receipts: Receipts,
        steps: &mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        loop {
            receipts.ends.borrow_and_update();
            for (id, outcome) in std::mem::take(&mut receipts.awaited) {
                let at_work = self.ends.proving.is_at_work(id); // before the lease is read: who is done has recorded
                let lease = self.current(id)?;
                if receipts.is_new(&lease) {
                    self.tell_with(steps, lease, outcome, Awaited::Arrived).await?;
                } else if at_work {
                    receipts.awaited.push((id, outcome));
                } else {
                    self.tell_with(steps, lease, outcome, Awaited::Missing).await?;
                }
            }
            if receipts.awaited.is_empty() || receipts.ends.changed().await.is_err() {
                return Ok(());
            }
        }
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

    /// Alone at the gate: no lease of the blocked pairs begins between the list and the block. In commits of a bounded
    /// size, each of which blocks and ends the same leases.
    async fn block_and_end(
        &self,
        caller: &Caller,
        revocation: &Revocation,
    ) -> Result<(Vec<Lease>, Wishes), Refused> {
        let outside = Arc::clone(&self.ends.outside);
        let _alone = outside.gate.write().await;
        let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        let wishes = self.ends.proving.wish(&found); // before the sweeper can see that they are ending
        let mut ending = Vec::with_capacity(found.len());
        for some in found.chunks(LEASES_IN_A_COMMIT) {
            let plan = || self.plan(caller, &revocation.reason, some);
            ending.extend(self.ends.again_on_conflict(plan).await?);
        }
        Ok((ending, wishes))
    }

    /// Blocks them all, then ends and cuts them, as many at a time as can have their canaries ready.
    async fn end_at_a_pace(
        &self,
        caller: &Caller,
        revocation: &Revocation,
        results: mpsc::UnboundedSender<CutResult>,
    ) -> Result<Wishes, Refused> {
        let found = self.block(caller, revocation).await?;
        let wishes = self.ends.proving.wish(&found);
        for some in found.chunks(PACE) {
            let plan = || self.plan(caller, &revocation.reason, some);
            let ending = self.ends.again_on_conflict(plan).await?;
            let deadline = Instant::now() + PATIENCE;
            for cut in self.ends.cut_into(ending, &results) {
                let _ = timeout_at(deadline, cut).await; // those that take longer go on
            }
        }
        Ok(wishes)
    }

    /// Alone at the gate: no lease of the blocked pairs begins between the list and the block, and none after it.
    async fn block(&self, caller: &Caller, revocation: &Revocation) -> Result<Vec<Lease>, Refused> {
        let outside = Arc::clone(&self.ends.outside);
        let _alone = outside.gate.write().await;
        let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        for some in found.chunks(LEASES_IN_A_COMMIT) {
            let plan = || Ok((self.plan_blocks(caller, &revocation.reason, some)?, ()));
            self.ends.again_on_conflict(plan).await?;
        }
        Ok(found)
    }

    /// The blocks of some leases, as they are now. A lease that has ended meanwhile is left alone.
    fn plan_blocks(&self, caller: &Caller, reason: &str, leases: &[Lease]) -> Result<Vec<Change>, Refused> {
        let mut changes = Vec::new();
        for lease in leases {
            let lease = self.current(lease.id)?;
            if !matches!(lease.state, State::Ended { .. }) {
                changes.extend(self.missing_block(caller, reason, &lease)?);
            }
        }
        Ok(changes)
    }

    /// The blocks, where there are none yet, and ends of some leases, as they are now. A lease that has ended meanwhile is left
    /// alone.
    fn plan(
        &self,
        caller: &Caller,
        reason: &str,
        leases: &[Lease],
    ) -> Result<(Vec<Change>, Vec<Lease>), Refused> {
        let outside = &self.ends.outside;
        let now = outside.clock.now();
        let (mut changes, mut ending) = (Vec::new(), Vec::new());
        for lease in leases {
            let current = outside.ledger.lease(lease.id).map_err(|cause| ledger_refused(&cause))?;
            let Some(lease) = current.filter(|lease| !matches!(lease.state, State::Ended { .. })) else {
                continue;
            };
            changes.extend(self.missing_block(caller, reason, &lease)?);
            let cause = EndCause::Revoked { by: caller.spiffe_id().clone(), reason: reason.to_owned() };
            match lease.clone().begin_end(cause, now) {
                Ok(lease) => {
                    changes.push(Change::LeaseEnding { lease: lease.clone() });
                    ending.push(lease);
                }
                Err(_) => ending.push(lease), // it is ending already: see that its owner is blocked, cut again
            }
        }
        Ok((changes, ending))
    }

    /// The block that the lease's revocation sets, unless one is in force already.
    fn missing_block(&self, caller: &Caller, reason: &str, lease: &Lease) -> Result<Option<Change>, Refused> {
        let outside = &self.ends.outside;
        let now = outside.clock.now();
        let blocks = outside.ledger.blocks(&lease.owner.spiffe_id, &lease.role);
        let blocks = blocks.map_err(|cause| ledger_refused(&cause))?;
        if blocks.iter().any(|block| block.lease == lease.id && block.in_force(now)) {
            return Ok(None);
        }
        let block = Block {
            id: BlockId::generate(now, outside.entropy.as_ref()),
            caller: lease.owner.spiffe_id.clone(),
            role: lease.role.clone(),
            set: now,
            until: lease.deadline,
            by: caller.spiffe_id().clone(),
            reason: reason.to_owned(),
            lease: lease.id,
            lifted: None,
            revision: Revision::FIRST,
        };
        Ok(Some(Change::BlockSet { block }))
    }

    async fn tell(
        &self,
        steps: &mpsc::Sender<Result<RevokeStep, Refused>>,
        lease: Lease,
        outcome: Outcome,
    ) -> Result<(), Refused> {
        self.tell_with(steps, lease, outcome, Awaited::No).await
    }

    async fn tell_with(
        &self,
        steps: &mpsc::Sender<Result<RevokeStep, Refused>>,
        lease: Lease,
        outcome: Outcome,
        receipt: Awaited,
    ) -> Result<(), Refused> {
        let view = self.views.of(lease, 1)?;
        // The receiver may be gone; the revocation is not undone by that.
        let _ = steps.send(Ok(RevokeStep { view, outcome, receipt })).await;
        Ok(())
    }
}

/// The receipts that somebody waits for.
struct Receipts {
    ends: watch::Receiver<u64>,
    awaited: Vec<(LeaseId, Outcome)>,
    /// When each lease's receipt was made before this revocation, if it had one.
    earlier: HashMap<LeaseId, Option<Timestamp>>,
}

impl Receipts {
    fn new(ends: &Ends, leases: &[Lease]) -> Self {
        let earlier = leases.iter().map(|lease| (lease.id, made(lease))).collect();
        Self { ends: ends.proving.ends(), awaited: Vec::new(), earlier }
    }

    fn is_new(&self, lease: &Lease) -> bool {
        made(lease).is_some() && self.earlier.get(&lease.id) != Some(&made(lease))
    }
}

fn made(lease: &Lease) -> Option<Timestamp> {
    lease.receipt.as_ref().map(|receipt| receipt.made)
}
