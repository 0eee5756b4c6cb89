//! An operator's revocation: block and end in one commit, durable before the cut; then cut; tell each step.

use std::collections::HashSet;
use std::sync::Arc;

use shorepass_core::block::Block;
use shorepass_core::caller::Caller;
use shorepass_core::id::{BlockId, LeaseId};
use shorepass_core::lease::{EndCause, Lease, Mode, State};
use shorepass_core::ledger::{Change, Revision};
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Outcome, Revocation, RevokeStep};
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::mpsc;

use super::{Ends, LEASES_IN_A_COMMIT};
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
        if revocation.dry_run {
            let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
            if found.is_empty() {
                return self.tell_ended(&revocation, &steps).await;
            }
            let teller = Teller { views: &self.views, steps, total: found.len() };
            for lease in found {
                teller.tell(lease, Outcome::WouldRevoke, false).await?;
            }
            return Ok(());
        }
        let hit = self.block_and_end(caller, &revocation).await?;
        if hit.total() == 0 {
            return self.tell_ended(&revocation, &steps).await;
        }
        let teller = Teller { views: &self.views, steps, total: hit.total() };
        let Hit { ending, ended, blocked } = hit;
        // All deletes go out before anything is told: an operator's slow terminal holds up none of them.
        let mut cuts = self.ends.cut_all(ending);
        for lease in ended {
            let outcome = self.outcome(&lease, Outcome::AlreadyEnded);
            teller.tell(lease, outcome, false).await?;
        }
        while let Some((lease, obstacle)) = cuts.recv().await {
            let block_set = blocked.contains(&lease.id);
            let outcome = match obstacle {
                Some(obstacle) => Outcome::Ending(obstacle.to_string()),
                None => self.outcome(&lease, Outcome::Revoked),
            };
            teller.tell(lease, outcome, block_set).await?;
        }
        Ok(())
    }

    /// What is told of a lease that has ended: first of all that its tokens work all the same.
    fn outcome(&self, lease: &Lease, otherwise: Outcome) -> Outcome {
        let now = self.ends.outside.clock.now();
        match &lease.mode {
            Mode::Unbound { tokens_until: Some(until) } if *until > now => Outcome::TokensRemain,
            Mode::Bound | Mode::Strict { .. } | Mode::Unbound { .. } => otherwise,
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
            Some(lease) => {
                let teller = Teller { views: &self.views, steps: steps.clone(), total: 1 };
                let outcome = self.outcome(&lease, Outcome::AlreadyEnded);
                teller.tell(lease, outcome, false).await
            }
            None => Err(Refused::new(
                Reason::RecordNotFound,
                format!("there is no lease {id}; see `shorepass lease list`"),
            )),
        }
    }

    /// Alone at the gate: no lease of the blocked pairs begins between the list and the block. In commits of a bounded
    /// size, each of which blocks and ends the same leases.
    async fn block_and_end(&self, caller: &Caller, revocation: &Revocation) -> Result<Hit, Refused> {
        let outside = Arc::clone(&self.ends.outside);
        let _alone = outside.gate.write().await;
        let found = self.ends.unfinished(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        let mut hit = Hit::default();
        for some in found.chunks(LEASES_IN_A_COMMIT) {
            let plan = || self.plan(caller, &revocation.reason, some);
            hit.add(self.ends.again_on_conflict(plan).await?);
        }
        Ok(hit)
    }

    /// The blocks and ends of some leases, as they are now. A lease that has ended meanwhile is left alone.
    fn plan(&self, caller: &Caller, reason: &str, leases: &[Lease]) -> Result<(Vec<Change>, Hit), Refused> {
        let outside = &self.ends.outside;
        let now = outside.clock.now();
        let (mut changes, mut hit) = (Vec::new(), Hit::default());
        for lease in leases {
            let current = outside.ledger.lease(lease.id).map_err(|cause| ledger_refused(&cause))?;
            let Some(lease) = current else { continue };
            if matches!(lease.state, State::Ended { .. }) {
                hit.ended.push(lease);
                continue;
            }
            if !self.blocked_already(&lease, now)? {
                changes.push(Change::BlockSet { block: self.block(caller, reason, &lease, now) });
                hit.blocked.insert(lease.id);
            }
            let cause = EndCause::Revoked { by: caller.spiffe_id().clone(), reason: reason.to_owned() };
            match lease.clone().begin_end(cause, now) {
                Ok(lease) => {
                    changes.push(Change::LeaseEnding { lease: lease.clone() });
                    hit.ending.push(lease);
                }
                Err(_) => hit.ending.push(lease), // it is ending already: see that its owner is blocked, cut again
            }
        }
        Ok((changes, hit))
    }

    fn blocked_already(&self, lease: &Lease, now: Timestamp) -> Result<bool, Refused> {
        let blocks = self.ends.outside.ledger.blocks(&lease.owner.spiffe_id, &lease.role);
        let blocks = blocks.map_err(|cause| ledger_refused(&cause))?;
        Ok(blocks.iter().any(|block| block.lease == lease.id && block.in_force(now)))
    }

    fn block(&self, caller: &Caller, reason: &str, lease: &Lease, now: Timestamp) -> Block {
        Block {
            id: BlockId::generate(now, self.ends.outside.entropy.as_ref()),
            caller: lease.owner.spiffe_id.clone(),
            role: lease.role.clone(),
            set: now,
            until: lease.deadline,
            by: caller.spiffe_id().clone(),
            reason: reason.to_owned(),
            lease: lease.id,
            lifted: None,
            revision: Revision::FIRST,
        }
    }
}

/// What a revocation found.
#[derive(Default)]
struct Hit {
    /// Its ends are recorded; the anchors are cut next.
    ending: Vec<Lease>,
    /// They ended between the list and the commit.
    ended: Vec<Lease>,
    /// Those whose block is new.
    blocked: HashSet<LeaseId>,
}

impl Hit {
    fn add(&mut self, other: Self) {
        self.ending.extend(other.ending);
        self.ended.extend(other.ended);
        self.blocked.extend(other.blocked);
    }

    fn total(&self) -> usize {
        self.ending.len() + self.ended.len()
    }
}

/// Tells each step to whoever listens.
struct Teller<'a> {
    views: &'a Views,
    steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    total: usize,
}

impl Teller<'_> {
    async fn tell(&self, lease: Lease, outcome: Outcome, block_set: bool) -> Result<(), Refused> {
        let view = self.views.of(lease, 1)?;
        // The receiver may be gone; the revocation is not undone by that.
        let _ = self.steps.send(Ok(RevokeStep { view, outcome, total: self.total, block_set })).await;
        Ok(())
    }
}
