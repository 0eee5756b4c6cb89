//! An operator's revocation: block, then end, durable before the cut; then cut; tell each step, and each receipt if the
//! operator waits for them.
//!
//! Who waits for receipts wants them proved, and canaries for many leases at once are not there in time once the leases have
//! ended. So then each lease that gets a receipt ends when it is ready for its cut, a few at a time and within [`LEISURE`] all
//! of them; they are all blocked before the first of those ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::block::Block;
use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_core::id::{BlockId, LeaseId};
use shorepass_core::lease::{EndCause, Lease, Mode, State};
use shorepass_core::ledger::{Change, LeaseFilter, LedgerError, Revision};
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Awaited, Outcome, Revocation, RevokeStep};
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::sweeper::PERIOD;
use super::telling::{Receipts, Teller, Told};
use super::{CutResult, Ending, Ends, LEASES_IN_A_COMMIT, Obstacle, names};
use crate::admin::{Blocks, Views};
use crate::fail_points::{self, Point};
use crate::outside::ledger_refused;
use crate::prove::Wishes;

/// How many leases are made ready for their cut at a time where an operator waits for receipts: fewer than a cluster takes, so that
/// the ends of others get their turn.
const PACE: usize = 8;
/// How long one lease's end waits for its canaries there.
const PATIENCE: Duration = Duration::from_secs(2);
/// When the last lease has ended there, ready or not.
pub(crate) const LEISURE: Duration = Duration::from_secs(10);

/// How long who waits is not told of a lease whose anchor may be deleted in a moment.
const FOLLOWED: Duration = Duration::from_secs(25);
/// How often such a lease is looked at.
const LOOK: Duration = Duration::from_secs(1);

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
            return self.tell_what_would_be(&revocation, steps).await;
        }
        let begun = self.begin(caller, &revocation).await?;
        if begun.total == 0 {
            return self.tell_ended(&revocation, steps).await;
        }
        let teller = self.teller(steps, begun.total);
        let Begun { hit, to_end, outliving, mut receipts, wishes, total: _ } = begun;
        let (sender, cuts) = mpsc::unbounded_channel(); // one message for each lease at most
        // An operator's slow terminal holds up no delete: most go out before anything is told, and no end waits for that.
        self.ends.cut_into(hit.ending, &sender);
        let ending = self.end_at_a_pace(caller, &revocation.reason, &to_end, sender);
        let telling = self.tell_cuts(&teller, cuts, &hit.blocked, revocation.wait.then_some(&mut receipts));
        let (ended, told) = tokio::join!(ending, telling);
        drop(wishes);
        for lease in hit.ended.into_iter().chain(ended?).chain(outliving) {
            self.tell_as_ended(&teller, lease, revocation.wait.then_some(&mut receipts)).await?;
        }
        told?;
        self.tell_receipts(&teller, receipts).await
    }

    fn teller(&self, steps: mpsc::Sender<Result<RevokeStep, Refused>>, total: usize) -> Teller<'_> {
        Teller::new(&self.views, Blocks::now(&self.ends.outside), steps, total)
    }

    async fn tell_what_would_be(
        &self,
        revocation: &Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        let (found, outliving) = self.find(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        let total = found.len() + outliving.len();
        if total == 0 {
            return self.tell_ended(revocation, steps).await;
        }
        let teller = self.teller(steps, total);
        for lease in found {
            teller.tell(lease, Told::new(Outcome::WouldRevoke, false), Awaited::No).await?;
        }
        for lease in outliving {
            self.tell_as_ended(&teller, lease, None).await?;
        }
        Ok(())
    }

    /// The leases to end, and those that have ended and are not over: their tokens go on working.
    fn find(&self, filter: &LeaseFilter) -> Result<(Vec<Lease>, Vec<Lease>), LedgerError> {
        let found = self.ends.unfinished(filter)?;
        let mut outliving = self.ends.outliving(filter)?;
        // One may have ended in between.
        let unfinished: HashSet<LeaseId> = found.iter().map(|lease| lease.id).collect();
        outliving.retain(|lease| !unfinished.contains(&lease.id));
        Ok((found, outliving))
    }

    /// A lease that had ended before; who waits for receipts gets the one that it has, or that is being made.
    async fn tell_as_ended(
        &self,
        teller: &Teller<'_>,
        lease: Lease,
        receipts: Option<&mut Receipts>,
    ) -> Result<(), Refused> {
        let told = Told::new(self.outcome(&lease, Outcome::AlreadyEnded), false);
        let mut awaited = Awaited::No;
        if let Some(receipts) = receipts {
            receipts.earlier.remove(&lease.id);
            if self.receipt_follows(&lease, receipts)? {
                receipts.awaited.push((lease.id, told.clone()));
                awaited = Awaited::Follows;
            }
        }
        teller.tell(lease, told, awaited).await
    }

    /// What is told of a lease that has ended: first of all that its tokens work all the same.
    fn outcome(&self, lease: &Lease, otherwise: Outcome) -> Outcome {
        let now = self.ends.outside.clock.now();
        match &lease.mode {
            Mode::Unbound { tokens_until: Some(until) } if *until > now => Outcome::TokensRemain,
            Mode::Bound | Mode::Strict { .. } | Mode::Unbound { .. } => otherwise,
        }
    }

    /// Each lease when its anchor is cut, or could not be.
    async fn tell_cuts(
        &self,
        teller: &Teller<'_>,
        mut cuts: mpsc::UnboundedReceiver<CutResult>,
        blocked: &HashSet<LeaseId>,
        mut receipts: Option<&mut Receipts>,
    ) -> Result<(), Refused> {
        while let Some((lease, obstacle)) = cuts.recv().await {
            let passes = obstacle.as_ref().is_some_and(Obstacle::passes);
            let outcome = match obstacle {
                Some(obstacle) => Outcome::Ending(obstacle.to_string()),
                None => self.outcome(&lease, Outcome::Revoked),
            };
            let told = Told { passes, ..Told::new(outcome, blocked.contains(&lease.id)) };
            let mut awaited = Awaited::No;
            if let Some(receipts) = &mut receipts
                && self.receipt_follows(&lease, receipts)?
            {
                receipts.awaited.push((lease.id, told.clone()));
                awaited = Awaited::Follows;
            }
            teller.tell(lease, told, awaited).await?;
        }
        Ok(())
    }

    /// Whether a proof about the lease is under way, or has ended just now.
    fn receipt_follows(&self, lease: &Lease, receipts: &Receipts) -> Result<bool, Refused> {
        Ok(self.ends.proving.is_at_work(lease.id) || receipts.is_new(&self.known(lease.id)?))
    }

    fn current(&self, id: LeaseId) -> Result<Option<Lease>, Refused> {
        self.ends.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))
    }

    /// A lease that must be there.
    fn known(&self, id: LeaseId) -> Result<Lease, Refused> {
        let missing = || ledger_refused(&LedgerError::Unavailable(format!("lease {id} is missing")));
        self.current(id)?.ok_or_else(missing)
    }

    /// Each as it comes. Proofs end by themselves, so this does. Where the sweeper may delete an anchor in a moment, the
    /// receipt of that is the one to wait for.
    async fn tell_receipts(&self, teller: &Teller<'_>, mut receipts: Receipts) -> Result<(), Refused> {
        let last = Instant::now() + FOLLOWED;
        loop {
            receipts.ends.borrow_and_update();
            for (id, mut told) in std::mem::take(&mut receipts.awaited) {
                let at_work = self.ends.proving.is_at_work(id); // before the lease is read: who is done has recorded
                let lease = self.known(id)?;
                let ended = matches!(lease.state, State::Ended { .. });
                if at_work || told.passes && !ended && Instant::now() < last {
                    receipts.awaited.push((id, told));
                    continue;
                }
                if ended && matches!(told.outcome, Outcome::Ending(_)) {
                    told.outcome = self.outcome(&lease, Outcome::Revoked);
                }
                let receipt = if receipts.is_new(&lease) { Awaited::Arrived } else { Awaited::Missing };
                teller.tell(lease, told, receipt).await?;
            }
            if receipts.awaited.is_empty() {
                return Ok(());
            }
            let _ = timeout(LOOK, receipts.ends.changed()).await;
        }
    }

    /// Nothing lives: a lease that was named is shown as it ended, and no slip in a name looks like success.
    async fn tell_ended(
        &self,
        revocation: &Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        names::known(&self.ends.outside, &revocation.filter)?;
        let Some(id) = revocation.filter.lease else { return Ok(()) };
        let with_ended = LeaseFilter { include_ended: true, ..revocation.filter.clone() };
        match self.current(id)?.filter(|lease| with_ended.matches(lease)) {
            Some(lease) => {
                let (teller, mut receipts) = (self.teller(steps, 1), Receipts::new(&self.ends, &[]));
                self.tell_as_ended(&teller, lease, revocation.wait.then_some(&mut receipts)).await?;
                self.tell_receipts(&teller, receipts).await
            }
            None => Err(Refused::new(
                Reason::RecordNotFound,
                format!("there is no lease {id}; see `shorepass lease list`"),
            )),
        }
    }

    /// Alone at the gate: no lease of the blocked pairs begins between the list and the block. All blocks come first, in one
    /// commit, so that after a crash the next start ends all of it or nothing; then the ends that do not come at a pace, in
    /// commits of a bounded size.
    async fn begin(&self, caller: &Caller, revocation: &Revocation) -> Result<Begun, Refused> {
        let outside = Arc::clone(&self.ends.outside);
        let _alone = outside.gate.write().await;
        let (found, outliving) = self.find(&revocation.filter).map_err(|cause| ledger_refused(&cause))?;
        let wishes = self.ends.proving.wish(&found); // before the sweeper can see that they are ending
        let mut begun = Begun {
            total: found.len() + outliving.len(),
            hit: Hit::default(),
            to_end: Vec::new(),
            outliving,
            receipts: Receipts::new(&self.ends, &found),
            wishes,
        };
        let plan = || self.plan_blocks(caller, &revocation.reason, &found);
        begun.hit.blocked = self.ends.again_on_conflict(plan).await?;
        fail_points::reached(Point::BlocksRecorded);
        let (at_a_pace, at_once): (Vec<Lease>, Vec<Lease>) =
            found.into_iter().partition(|lease| revocation.wait && begun.wishes.receipt(lease.id));
        for some in at_once.chunks(LEASES_IN_A_COMMIT) {
            let ended = self.ends.record_ends(some, &revoked(caller, &revocation.reason)).await;
            let owe =
                |refused| self.owe(caller, &revocation.reason, at_once.iter().chain(&at_a_pace), refused);
            begun.hit.add(ended.map_err(owe)?);
        }
        begun.to_end = at_a_pace;
        Ok(begun)
    }

    /// Ends and cuts blocked leases, each when it is ready for its cut; gives those that had ended.
    async fn end_at_a_pace(
        &self,
        caller: &Caller,
        reason: &str,
        blocked: &[Lease],
        results: mpsc::UnboundedSender<CutResult>,
    ) -> Result<Vec<Lease>, Refused> {
        let (last, turns) = (Instant::now() + LEISURE, Arc::new(Semaphore::new(PACE)));
        let mut ends = JoinSet::new();
        for lease in blocked {
            let (this, caller, reason) = (self.clone(), caller.clone(), reason.to_owned());
            let (lease, results, turns) = (lease.clone(), results.clone(), turns.clone());
            ends.spawn(async move {
                let turn = timeout_at(last, turns.acquire()).await;
                let deadline = last.min(Instant::now() + PATIENCE);
                let prepared = this.ends.proving.prepare(&lease, deadline).await;
                drop(turn);
                let ended =
                    this.ends.record_ends(std::slice::from_ref(&lease), &revoked(&caller, &reason)).await;
                let mut hit = Hit::default();
                hit.add(ended.map_err(|refused| this.owe(&caller, &reason, [&lease], refused))?);
                for cut in this.ends.cut_into(hit.ending, &results) {
                    let _ = cut.await;
                }
                drop(prepared);
                Ok(hit.ended)
            });
        }
        let mut all = Vec::new();
        for ended in ends.join_all().await {
            all.extend(ended?);
        }
        Ok(all)
    }

    /// What the caller is told of leases whose blocks are recorded and whose ends cannot be: the sweeper does that.
    fn owe<'a>(
        &self,
        caller: &Caller,
        reason: &str,
        leases: impl IntoIterator<Item = &'a Lease>,
        refused: Refused,
    ) -> Refused {
        let leases: Vec<&Lease> = leases.into_iter().collect();
        self.ends.owed.add(leases.iter().copied(), &revoked(caller, reason));
        let unblocked = leases.iter().filter(|lease| blocks_whom_from_what(lease).is_none()).count();
        let blocks = if unblocked < leases.len() { "the blocks are set and hold, and " } else { "" };
        let unblocked = match unblocked {
            0 => String::new(),
            some => format!(
                "; {some} of them can have no block: if the issuer stops before that, revoke them again"
            ),
        };
        let message = format!(
            "{blocks}leases live on until the issuer can record their ends, which it tries every {} s; see `shorepass lease \
             list`{unblocked}: {}",
            PERIOD.as_secs(),
            refused.message
        );
        Refused { message, ..refused }
    }

    /// The blocks of some leases, as they are now, where there is none in force; and of which leases these are.
    fn plan_blocks(
        &self,
        caller: &Caller,
        reason: &str,
        leases: &[Lease],
    ) -> Result<(Vec<Change>, HashSet<LeaseId>), Refused> {
        let now = self.ends.outside.clock.now();
        let (mut changes, mut blocked) = (Vec::new(), HashSet::new());
        let mut blocks = Blocks::now(&self.ends.outside);
        for lease in leases {
            let Some(lease) = self.current(lease.id)? else { continue };
            let Some((owner, role)) = blocks_whom_from_what(&lease) else { continue };
            let block = blocks.of(&lease).map_err(|cause| ledger_refused(&cause))?;
            if !matches!(lease.state, State::Ended { .. }) && block.is_none() {
                changes.push(Change::BlockSet {
                    block: self.block(caller, reason, &lease, (owner, role), now)?,
                });
                blocked.insert(lease.id);
            }
        }
        Ok((changes, blocked))
    }

    fn block(
        &self,
        caller: &Caller,
        reason: &str,
        lease: &Lease,
        (owner, role): (&SpiffeId, &Name),
        now: Timestamp,
    ) -> Result<Block, Refused> {
        let job = match lease.job {
            Some(job) => self.ends.outside.ledger.job(job).map_err(|cause| ledger_refused(&cause))?,
            None => None,
        };
        Ok(Block {
            job: job.filter(|job| job.evidence.verified().is_some()).map(|job| job.id),
            id: BlockId::generate(now, self.ends.outside.entropy.as_ref()),
            caller: owner.clone(),
            role: role.clone(),
            set: now,
            until: lease.deadline,
            by: caller.spiffe_id().clone(),
            reason: reason.to_owned(),
            lease: lease.id,
            lifted: None,
            revision: Revision::FIRST,
        })
    }
}

/// Of an adopted lease that may not be known.
fn blocks_whom_from_what(lease: &Lease) -> Option<(&SpiffeId, &Name)> {
    lease.owner.spiffe_id().zip(lease.role.as_ref())
}

fn revoked(caller: &Caller, reason: &str) -> EndCause {
    EndCause::Revoked { by: caller.spiffe_id().clone(), reason: reason.to_owned() }
}

/// A revocation whose blocks are recorded.
struct Begun {
    total: usize,
    hit: Hit,
    /// Those that end at a pace.
    to_end: Vec<Lease>,
    /// Those that had ended, and whose tokens go on working.
    outliving: Vec<Lease>,
    receipts: Receipts,
    wishes: Wishes,
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
    /// What is ending already is cut again.
    fn add(&mut self, ending: Ending) {
        self.ending.extend(ending.begun.into_iter().chain(ending.earlier));
        self.ended.extend(ending.ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_these() {
        assert_eq!((PACE, PATIENCE.as_secs(), LEISURE.as_secs(), LEASES_IN_A_COMMIT), (8, 2, 10, 100));
        assert_eq!((FOLLOWED.as_secs(), LOOK.as_secs()), (25, 1));
    }
}
