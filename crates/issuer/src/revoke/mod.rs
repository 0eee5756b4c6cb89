//! How leases end: by release, with their job, by revocation, by deadline, by the loss of what they stand on.
//!
//! Always in this order: *ending* durable, anchor deleted, *ended* recorded. A cut that fails is tried again by the
//! [`sweeper`] for ever. A lease that was still pending stays *ending* until its mint can no longer be in flight, because
//! what is made for it may be created after the first cut. An unbound lease has nothing to delete: its end records until
//! when its tokens go on working.

mod adoption;
mod names;
pub mod operators;
mod owed;
pub mod sweeper;
mod telling;
pub mod unclaimed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_core::cluster::CutError;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::id::{JobId, LeaseId};
use shorepass_core::lease::{EndCause, Lease, State, tokens_until};
use shorepass_core::ledger::{Change, LeaseFilter, LedgerError};
use shorepass_core::time::{Timestamp, after, until};
use shorepass_rpc::refused::Refused;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use self::owed::Owed;
use crate::fail_points::{self, Point};
use crate::jobs::Jobs;
use crate::mutants::{self, Mutant};
use crate::outside::{Outside, ledger_refused};
use crate::prove::{Proof, Proving};

/// After this a mint that was begun has ended one way or the other: an API server works on a request for 60 s at most.
pub const MINT_IN_FLIGHT: Duration = Duration::from_secs(75);
/// How long a lease that was left pending waits for its request to come again, counted from its record or from the
/// issuer's start, whichever is later: an agent that lost its issuer tries again within a minute.
pub const RETRY_WINDOW: Duration = Duration::from_secs(60);
/// How many leases are read at once.
pub const PAGE: usize = 200;
/// How many tokens of an unbound lease are looked at for the one that lives longest; older ones are estimated.
const TOKENS_READ: usize = 1000;
/// How long who gives leases back waits for their cuts: shorter than a call may last.
const WAITED_FOR: Duration = Duration::from_secs(5);
/// How many leases one commit ends.
pub(crate) const LEASES_IN_A_COMMIT: usize = 100;
/// After each attempt of a cut that nobody waits for.
const BACKGROUND_PAUSES: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::ZERO];
/// How often a commit is planned anew because the records moved on in between.
const CONFLICTS: u32 = 20;

/// Ends leases.
#[derive(Clone)]
pub struct Ends {
    pub(crate) outside: Arc<Outside>,
    pub(crate) proving: Proving,
    owed: Owed,
}

/// Leases whose end was asked for.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// They are ending from now on: to be cut.
    pub(crate) begun: Vec<Lease>,
    /// They were ending before.
    pub(crate) earlier: Vec<Lease>,
    /// They had ended.
    pub(crate) ended: Vec<Lease>,
}

/// A lease after its cut, and what stands in the way, if anything.
pub(crate) type CutResult = (Lease, Option<Obstacle>);

/// What became of the anchor of a lease that is ending.
#[derive(Debug)]
pub enum Cut {
    /// It is gone, and the lease is recorded as ended.
    Done(Lease),
    /// It may still be created, or could not be deleted: the sweeper goes on.
    Later(Lease, Obstacle),
}

/// Why an anchor is not known to be gone.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// It was deleted, but the mint that makes it may come in later.
    #[error("its first token may still be on its way; the anchor is deleted again")]
    MintInFlight,
    /// The cluster wants to be left alone for now.
    #[error("the API server is busy and wants to be left alone for {} s", .0.as_secs())]
    Busy(Duration),
    /// The cluster does not delete it, or the issuer cannot record that it did.
    #[error("{said}")]
    Cluster {
        /// One of [`CUT_CAUSES`].
        why: &'static str,
        /// In full.
        said: String,
    },
}

/// Why an anchor is not deleted, as metrics say it.
pub const CUT_CAUSES: [&str; 4] = ["forbidden", "unreachable", "finalizer", "unrecorded"];

impl Obstacle {
    /// Whether it may be gone in a moment, without a person.
    fn passes(&self) -> bool {
        match self {
            Self::MintInFlight | Self::Busy(_) => true,
            Self::Cluster { why, .. } => matches!(*why, "unreachable" | "unrecorded"),
        }
    }
}

impl From<CutError> for Obstacle {
    fn from(cause: CutError) -> Self {
        match cause {
            CutError::Busy { retry_after } => Self::Busy(retry_after),
            cause => Self::Cluster { why: cut_cause(&cause), said: cause.to_string() },
        }
    }
}

impl Ends {
    /// Over the outside; what ends may be proved.
    pub fn new(outside: Arc<Outside>, proving: Proving) -> Self {
        Self { outside, proving, owed: Owed::default() }
    }

    /// Whether no revocation owes the end of a lease.
    #[cfg(test)]
    pub(crate) fn owes_nothing(&self) -> bool {
        self.owed.is_empty()
    }

    /// A lease that the caller owns.
    pub async fn owned(&self, caller: &Caller, method: &'static str, id: LeaseId) -> Result<Lease, Refused> {
        let found = self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        let why = match found {
            Some(lease) if caller.owns_lease(&lease.owner) || mutants::is(Mutant::SkipOwnerCheck) => {
                return Ok(lease);
            }
            Some(lease) => format!("it belongs to {}", lease.owner),
            None => "it does not exist".to_owned(),
        };
        Err(self.outside.refuse_lease(caller, method, &id.to_string(), &why).await)
    }

    /// The owner gives a lease back. A lease that has ended before stays as it ended.
    pub async fn release(&self, caller: &Caller, id: LeaseId) -> Result<Lease, Refused> {
        let lease = self.owned(caller, "Release", id).await?;
        if !lease.is_live() {
            return Ok(lease);
        }
        let lease = self.record_ending(lease, &EndCause::Released).await?;
        Ok(self.cut_while_waited_for(vec![lease.clone()]).await.pop().unwrap_or(lease))
    }

    /// The owner ends a job; its leases end with it.
    pub async fn end_job(&self, jobs: &Jobs, caller: &Caller, id: JobId) -> Result<Vec<Lease>, Refused> {
        jobs.owned(caller, "EndJob", id).await?;
        Ok(self.cut_while_waited_for(self.record_job_end(jobs, id).await?).await)
    }

    /// Cuts all of them; gives them as they are when that is done, or after [`WAITED_FOR`]: the rest goes on without the caller,
    /// whose end of them is durable.
    async fn cut_while_waited_for(&self, ending: Vec<Lease>) -> Vec<Lease> {
        let mut leases: BTreeMap<LeaseId, Lease> =
            ending.iter().map(|lease| (lease.id, lease.clone())).collect();
        let mut cuts = self.cut_all(ending);
        let deadline = Instant::now() + WAITED_FOR;
        while let Ok(Some((lease, _))) = timeout_at(deadline, cuts.recv()).await {
            leases.insert(lease.id, lease);
        }
        leases.into_values().collect()
    }

    /// Alone at the gate, in one commit; again when a lease moved on meanwhile (its mint came back, it was released).
    async fn record_job_end(&self, jobs: &Jobs, id: JobId) -> Result<Vec<Lease>, Refused> {
        let _alone = self.outside.gate.write().await;
        let filter = LeaseFilter { job: Some(id), ..LeaseFilter::default() };
        let plan = || {
            let job = jobs.current(id)?;
            let now = self.outside.clock.now();
            let live = self.live(&filter).map_err(|cause| ledger_refused(&cause))?;
            let (mut changes, ending) = ending_of(live, &EndCause::JobEnded, now);
            if job.ended.is_none() {
                changes.insert(0, Change::JobEnded { job: job.end(now) });
            }
            Ok((changes, ending.begun))
        };
        self.again_on_conflict(plan).await
    }

    /// live --> ending, durably, in one commit, as the leases are now.
    pub(crate) async fn record_ends(&self, leases: &[Lease], cause: &EndCause) -> Result<Ending, Refused> {
        let plan = || {
            let mut current = Vec::with_capacity(leases.len());
            for lease in leases {
                current.extend(self.outside.ledger.lease(lease.id).map_err(|cause| ledger_refused(&cause))?);
            }
            Ok(ending_of(current, cause, self.outside.clock.now()))
        };
        self.again_on_conflict(plan).await
    }

    /// The same for one. If somebody else was faster, the lease as they left it.
    pub(crate) async fn record_ending(&self, lease: Lease, cause: &EndCause) -> Result<Lease, Refused> {
        let Ending { begun, earlier, ended } = self.record_ends(std::slice::from_ref(&lease), cause).await?;
        Ok(begun.into_iter().chain(earlier).chain(ended).next().unwrap_or(lease))
    }

    /// Commits what `plan` makes of the records as they are; plans anew when they moved on in between.
    pub(crate) async fn again_on_conflict<T>(
        &self,
        plan: impl Fn() -> Result<(Vec<Change>, T), Refused>,
    ) -> Result<T, Refused> {
        let mut attempt = 0;
        loop {
            let (changes, planned) = plan()?;
            if changes.is_empty() {
                return Ok(planned);
            }
            attempt += 1;
            if mutants::is(Mutant::CutBeforeEnding) {
                self.cut_too_early(&changes).await;
            }
            fail_points::reached(Point::EndDecided);
            match self.outside.ledger.commit(changes).await {
                Ok(_) => {
                    fail_points::reached(Point::EndingRecorded);
                    return Ok(planned);
                }
                Err(LedgerError::Conflict(_)) if attempt < CONFLICTS => {}
                Err(cause) => return Err(ledger_refused(&cause)),
            }
        }
    }

    /// What [`Mutant::CutBeforeEnding`] does.
    async fn cut_too_early(&self, changes: &[Change]) {
        for change in changes {
            if let Change::LeaseEnding { lease } = change {
                let _ = self.cut(lease.clone()).await;
            }
        }
    }

    /// The ends of all leases of an enrolment that ends, for the same commit.
    pub(crate) fn ends_of_enrolment(
        &self,
        enrolment: &Enrolment,
        cause: &EndCause,
    ) -> Result<(Vec<Change>, Vec<Lease>), Refused> {
        let filter = LeaseFilter { caller: Some(enrolment.spiffe_id.clone()), ..LeaseFilter::default() };
        let mut live = self.live(&filter).map_err(|cause| ledger_refused(&cause))?;
        live.retain(|lease| lease.owner.is(&enrolment.owner()));
        let (changes, ending) = ending_of(live, cause, self.outside.clock.now());
        Ok((changes, ending.begun))
    }

    /// Cuts all of them at once; how many deletes go out at the same time is the cluster's own bound. Each result comes
    /// when it is there, with what stands in the way, if anything: the sweeper repeats those.
    pub(crate) fn cut_all(&self, ending: Vec<Lease>) -> mpsc::UnboundedReceiver<CutResult> {
        let (sender, receiver) = mpsc::unbounded_channel(); // one message for each lease at most
        self.cut_into(ending, &sender);
        receiver
    }

    /// The same, for who listens already; gives the tasks.
    pub(crate) fn cut_into(
        &self,
        ending: Vec<Lease>,
        results: &mpsc::UnboundedSender<CutResult>,
    ) -> Vec<JoinHandle<()>> {
        let cut = |lease: Lease| {
            let (ends, sender) = (self.clone(), results.clone());
            self.outside.background.spawn(async move {
                let result = match ends.cut(lease.clone()).await {
                    Ok(Cut::Done(lease)) => (lease, None),
                    Ok(Cut::Later(lease, why)) => (lease, Some(why)),
                    Err(refused) => {
                        (lease, Some(Obstacle::Cluster { why: "unrecorded", said: refused.to_string() }))
                    }
                };
                // Nobody may be waiting any more.
                let _ = sender.send(result);
            })
        };
        ending.into_iter().map(cut).collect()
    }

    /// Records the end and cuts without the caller waiting for the cluster. A cut that fails is the sweeper's; an end
    /// that cannot be recorded leaves the lease to its deadline, or to the next refresh, which finds the same cause.
    pub async fn end_in_background(&self, lease: Lease, cause: EndCause) {
        match self.record_ending(lease, &cause).await {
            Ok(lease) => self.cut_in_background(lease),
            Err(refused) => tracing::error!(error = %refused, "an end was not recorded"),
        }
    }

    /// Records the end of a lease whose anchor was never made: there is nothing to cut.
    pub async fn end_without_anchor(&self, lease: Lease, cause: EndCause) {
        let now = self.outside.clock.now();
        let Ok(ending) = lease.begin_end(cause, now) else { return };
        let Ok(ended) = ending.clone().finish_end(now) else { return };
        let changes = vec![Change::LeaseEnding { lease: ending }, Change::LeaseEnded { lease: ended }];
        if let Err(cause) = self.outside.ledger.commit(changes).await {
            tracing::warn!(error = %cause, "an end was not recorded; the sweeper finds the lease pending");
        }
    }

    /// Deletes the anchor of a lease whose end cannot be recorded now. Nothing of it has left, so nothing is owed.
    pub fn delete_in_background(&self, lease: &Lease) {
        let Ok(cluster) = self.outside.cluster(&lease.target.cluster).cloned() else { return };
        let lease = lease.clone();
        self.outside.background.spawn(async move {
            if let Err(cause) = cluster.cut(&lease).await {
                tracing::warn!(lease = %lease.id, error = %cause, "an unrecorded lease's anchor could not be deleted yet");
            }
        });
    }

    /// Cuts without the caller waiting for the cluster. What a cluster does not do at once is asked for a few times more:
    /// when the issuer is shutting down there is no sweeper any more.
    pub fn cut_in_background(&self, lease: Lease) {
        let ends = self.clone();
        self.outside.background.spawn(async move {
            for pause in BACKGROUND_PAUSES {
                match ends.cut(lease.clone()).await {
                    Ok(Cut::Later(_, Obstacle::Cluster { .. })) => tokio::time::sleep(pause).await,
                    // A busy cluster is left alone; the sweeper knows for how long.
                    Ok(Cut::Done(_) | Cut::Later(_, Obstacle::MintInFlight | Obstacle::Busy(_))) => return,
                    Err(refused) => {
                        return tracing::warn!(error = %refused, "a cut was not recorded; the sweeper tries again");
                    }
                }
            }
        });
    }

    /// Deletes the anchor of a lease that is ending, and records that. If the lease is to get a receipt, that is prepared
    /// before, in [`WINDOW`](crate::prove::WINDOW) at most, and made in the background after.
    pub(crate) async fn cut(&self, lease: Lease) -> Result<Cut, Refused> {
        if !matches!(lease.state, State::Ending { .. }) {
            return Ok(Cut::Done(lease));
        }
        let cluster = self.outside.cluster(&lease.target.cluster)?;
        let proof = self.proving.begin(&lease).await;
        let sent = proof.as_ref().map(Proof::now);
        let outcome = cluster.cut(&lease).await;
        let recorded = self.record_cut(lease, outcome.clone()).await;
        if let (Some(proof), Some(sent)) = (proof, sent) {
            proof.conclude(sent, outcome);
        }
        recorded
    }

    async fn record_cut(&self, lease: Lease, outcome: Result<(), CutError>) -> Result<Cut, Refused> {
        if let Err(cause) = outcome {
            tracing::warn!(lease = %lease.id, anchor = lease.anchor.as_str(), error = %cause, "the anchor could not be deleted");
            metrics::counter!("shorepass_cut_failures_total", "cause" => cut_cause(&cause)).increment(1);
            return Ok(Cut::Later(lease, Obstacle::from(cause)));
        }
        fail_points::reached(Point::AnchorCut);
        if self.may_be_minted(&lease) {
            return Ok(Cut::Later(lease, Obstacle::MintInFlight));
        }
        let last = self.last_token(&lease)?;
        self.record_ended(lease, last).await
    }

    /// When the last token of an unbound lease is refused: what its end cannot undo.
    pub(crate) fn last_token(&self, lease: &Lease) -> Result<Option<Timestamp>, Refused> {
        if lease.has_anchor() {
            return Ok(None);
        }
        let newest = self.outside.ledger.tokens(lease.id, TOKENS_READ + 1);
        let newest = newest.map_err(|cause| ledger_refused(&cause))?;
        let older = newest.len() > TOKENS_READ;
        Ok(tokens_until(&newest[..newest.len().min(TOKENS_READ)], older))
    }

    /// ending --> ended, over whatever else was recorded of the lease meanwhile.
    async fn record_ended(&self, lease: Lease, last: Option<Timestamp>) -> Result<Cut, Refused> {
        let mut current = lease;
        loop {
            let Ok(ended) = current.clone().outlived(last).finish_end(self.outside.clock.now()) else {
                return Ok(Cut::Done(current));
            };
            match self.outside.ledger.commit(vec![Change::LeaseEnded { lease: ended.clone() }]).await {
                Ok(_) => {
                    fail_points::reached(Point::EndedRecorded);
                    let cause = ended.end_cause().map(|(cause, _)| cause.describe());
                    if let Some(until) = last {
                        tracing::warn!(lease = %ended.id, %until, "the lease was unbound: its tokens go on working until then");
                    }
                    tracing::info!(lease = %ended.id, cause, "lease ended");
                    return Ok(Cut::Done(ended));
                }
                Err(conflict @ LedgerError::Conflict(_)) => {
                    let found =
                        self.outside.ledger.lease(ended.id).map_err(|cause| ledger_refused(&cause))?;
                    current = found.ok_or_else(|| ledger_refused(&conflict))?;
                }
                Err(cause) => return Err(ledger_refused(&cause)),
            }
        }
    }

    /// Whether its anchor may still come into being: it never became active, and its mint has not been over for certain.
    fn may_be_minted(&self, lease: &Lease) -> bool {
        let State::Ending { since, .. } = lease.state else { return false };
        lease.has_anchor()
            && lease.activation().is_none()
            && until(self.outside.clock.now(), after(since, MINT_IN_FLIGHT)) > Duration::ZERO
    }

    /// All leases that match and yield tokens.
    pub(crate) fn live(&self, filter: &LeaseFilter) -> Result<Vec<Lease>, LedgerError> {
        Ok(self.unfinished(filter)?.into_iter().filter(Lease::is_live).collect())
    }

    /// The unbound leases that match and have ended, whose tokens go on working: no revocation changes that.
    pub(crate) fn outliving(&self, filter: &LeaseFilter) -> Result<Vec<Lease>, LedgerError> {
        self.outside.ledger.outliving(filter, self.outside.clock.now())
    }

    /// All leases that match and have not ended, whatever the filter says about ended ones.
    pub(crate) fn unfinished(&self, filter: &LeaseFilter) -> Result<Vec<Lease>, LedgerError> {
        let filter = &LeaseFilter { include_ended: false, ..filter.clone() };
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let page = self.outside.ledger.leases(filter, before, PAGE)?;
            let full = page.len() == PAGE;
            before = page.last().map(|lease| lease.id);
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }
}

/// What becomes of leases as they are, and the changes that say so.
fn ending_of(leases: Vec<Lease>, cause: &EndCause, now: Timestamp) -> (Vec<Change>, Ending) {
    let (mut changes, mut ending) = (Vec::new(), Ending::default());
    for lease in leases {
        match lease.clone().begin_end(cause.clone(), now) {
            Ok(lease) => {
                changes.push(Change::LeaseEnding { lease: lease.clone() });
                ending.begun.push(lease);
            }
            Err(_) if matches!(lease.state, State::Ended { .. }) => ending.ended.push(lease),
            Err(_) => ending.earlier.push(lease),
        }
    }
    (changes, ending)
}

fn cut_cause(cause: &CutError) -> &'static str {
    match cause {
        CutError::Forbidden(_) => "forbidden",
        CutError::Unreachable(_) => "unreachable",
        CutError::Busy { .. } => "busy",
        CutError::HeldByFinalizer(_) | CutError::PartHeldByFinalizer(_) => "finalizer",
    }
}
