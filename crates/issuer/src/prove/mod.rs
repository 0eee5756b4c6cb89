//! Proves that the tokens of a lease are dead, as far as that can be proved: see [`shorepass_core::receipt`].
//!
//! A cut never waits for this longer than [`WINDOW`]: what is not there by then is missing in the receipt, which says so.
//! Who has time before an end uses it ([`Proving::prepare`]), and then the cut does not wait at all.
//! What follows the cut goes on in the background, a few questions at a time for each cluster, and ends by [`BOUND`] after
//! it. A proof that a crash cuts short leaves no receipt, and no control: that is recorded before it is created.
//!
//! Who gets a receipt: leases that were revoked, each of up to [`SAMPLE`] in one revocation, above that as many, spread
//! evenly; of other leases one in so many, as configured.

mod again;
mod controls;
mod course;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shorepass_core::cluster::CutError;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::name::Name;
use shorepass_core::receipt::{Control, Receipt, Verdict, Why};
use shorepass_core::time::{Clock, Timestamp, after, until};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::outside::Outside;
use controls::Controls;
pub(crate) use course::Proof;

/// How long a cut waits for canaries after the end is durable.
pub const WINDOW: Duration = Duration::from_millis(100);
/// How long after the cut there is a receipt at the latest.
pub const BOUND: Duration = Duration::from_secs(25);
/// How many leases of one revocation get a receipt.
pub const SAMPLE: usize = 100;
/// How many leases of one cluster are made ready for their cut at the same time.
const READYING: usize = 16;
/// How many questions are asked in one cluster at the same time after cuts: fewer, because those before cuts are in a hurry.
const ASKING: usize = 4;
/// How often a receipt is recorded anew because its lease moved on.
const CONFLICTS: u32 = 20;

/// Makes receipts.
#[derive(Clone)]
pub struct Proving(Arc<Shared>);

struct Shared {
    outside: Arc<Outside>,
    /// Of leases that end otherwise than by revocation, one in so many gets a receipt.
    one_in: u32,
    controls: Controls,
    shares: BTreeMap<Name, Share>,
    /// What operators' revocations said about leases that they are ending now.
    wishes: Mutex<HashMap<LeaseId, Wish>>,
    /// Proofs that are under way, and whether their cut may go on.
    at_work: Mutex<HashMap<LeaseId, watch::Receiver<bool>>>,
    /// Of those the ones that were made ready before the end of their lease.
    prepared: Mutex<HashMap<LeaseId, Proof>>,
    /// Counts the proofs that have ended.
    ended: watch::Sender<u64>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// How much is done in one cluster at the same time.
struct Share {
    readying: Arc<Semaphore>,
    asking: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Receipt,
    None,
}

/// The wishes of one revocation; forgotten when it is dropped.
pub(crate) struct Wishes {
    proving: Proving,
    leases: HashMap<LeaseId, Wish>,
}

impl Wishes {
    /// Whether a lease of that revocation is to get a receipt.
    pub(crate) fn receipt(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease) == Some(&Wish::Receipt)
    }
}

impl Drop for Wishes {
    fn drop(&mut self) {
        let mut wishes = lock(&self.proving.0.wishes);
        for lease in self.leases.keys() {
            wishes.remove(lease);
        }
    }
}

/// A lease that is ready for its cut, whoever cuts it; forgotten when this is dropped.
pub(crate) struct Prepared {
    proving: Proving,
    lease: LeaseId,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        drop(self.proving.take_prepared(self.lease));
    }
}

impl Proving {
    /// Over the outside; of leases that are not revoked, one in `one_in` gets a receipt.
    pub fn new(outside: Arc<Outside>, one_in: u32) -> Self {
        let share = || Share {
            readying: Arc::new(Semaphore::new(READYING)),
            asking: Arc::new(Semaphore::new(ASKING)),
        };
        Self(Arc::new(Shared {
            controls: Controls::new(outside.clone()),
            shares: outside.clusters.keys().map(|name| (name.clone(), share())).collect(),
            outside,
            one_in,
            wishes: Mutex::default(),
            at_work: Mutex::default(),
            prepared: Mutex::default(),
            ended: watch::Sender::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Gives up what is under way; its controls are deleted in the background.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Says of the leases of a revocation, before it ends them, which are to get a receipt.
    pub(crate) fn wish(&self, leases: &[Lease]) -> Wishes {
        let wish = |(index, lease): (usize, &Lease)| {
            (lease.id, if in_sample(index, leases.len()) { Wish::Receipt } else { Wish::None })
        };
        let wishes: HashMap<LeaseId, Wish> = leases.iter().enumerate().map(wish).collect();
        lock(&self.0.wishes).extend(&wishes);
        Wishes { proving: self.clone(), leases: wishes }
    }

    /// Makes an active lease that a revocation is about to end ready for its cut, by `deadline` as far as it goes.
    pub(crate) async fn prepare(&self, lease: &Lease, deadline: Instant) -> Option<Prepared> {
        let live = |lease: &Lease| matches!(lease.state, State::Active { .. });
        let proof = self.make_ready(lease, live, deadline).await?;
        lock(&self.0.prepared).insert(lease.id, proof);
        Some(Prepared { proving: self.clone(), lease: lease.id })
    }

    /// Makes a lease ready for its cut, if it is to get a receipt. Takes [`WINDOW`] at most.
    pub(crate) async fn begin(&self, lease: &Lease) -> Option<Proof> {
        if !lease.has_anchor() {
            return None; // nothing ends its tokens
        }
        let deadline = Instant::now() + WINDOW;
        if let Some(proof) = self.take_prepared(lease.id) {
            return Some(proof);
        }
        if let Some(mut other) = self.under_way(lease.id) {
            // Somebody else is making it ready: cutting at once would spoil that.
            let _ = tokio::time::timeout_at(deadline, other.wait_for(|ready| *ready)).await;
            return self.take_prepared(lease.id);
        }
        self.make_ready(lease, |lease| self.is_wanted(lease), deadline).await
    }

    async fn make_ready(
        &self,
        lease: &Lease,
        is_wanted: impl Fn(&Lease) -> bool,
        deadline: Instant,
    ) -> Option<Proof> {
        let share = self.0.shares.get(&lease.target.cluster)?;
        let cluster = self.0.outside.clusters.get(&lease.target.cluster)?.clone();
        let ready = self.enter(lease.id)?;
        // As it is now, registered: somebody may have cut and proved it since it was read.
        let lease = &self.0.outside.ledger.lease(lease.id).ok().flatten()?;
        if !is_wanted(lease) {
            return None;
        }
        let proof = Proof::new(self.clone(), lease, cluster, ready);
        let work = proof.make_ready(&share.readying);
        if tokio::time::timeout_at(deadline, work).await.is_err() {
            proof.is_late();
        }
        proof.is_ready();
        Some(proof)
    }

    fn take_prepared(&self, lease: LeaseId) -> Option<Proof> {
        lock(&self.0.prepared).remove(&lease)
    }

    /// Whether a proof about a lease is under way.
    pub(crate) fn is_at_work(&self, lease: LeaseId) -> bool {
        lock(&self.0.at_work).contains_key(&lease)
    }

    /// Changes whenever a proof has ended.
    pub(crate) fn ends(&self) -> watch::Receiver<u64> {
        self.0.ended.subscribe()
    }

    /// Deletes a control if no proof stands on it: a crash left it, or its delete failed. Gives why the cluster does not
    /// delete it, if so.
    pub(crate) async fn settle_control(&self, control: &Control) -> Result<Option<CutError>, LedgerError> {
        self.0.controls.settle(control).await
    }

    fn under_way(&self, lease: LeaseId) -> Option<watch::Receiver<bool>> {
        lock(&self.0.at_work).get(&lease).cloned()
    }

    /// Registers a proof; none if somebody was faster.
    fn enter(&self, lease: LeaseId) -> Option<course::Ready> {
        let (sender, receiver) = watch::channel(false);
        let mut at_work = lock(&self.0.at_work);
        if at_work.contains_key(&lease) {
            return None;
        }
        at_work.insert(lease, receiver);
        Some(course::Ready { proving: self.clone(), lease, ready: sender })
    }

    fn is_wanted(&self, lease: &Lease) -> bool {
        let wish = lock(&self.0.wishes).get(&lease.id).copied();
        if !matches!(lease.state, State::Ending { .. }) {
            return false;
        }
        match (wish, &lease.receipt, lease.end_cause()) {
            (Some(Wish::None), ..) => false,
            (_, Some(receipt), _) => is_provisional(receipt),
            (Some(Wish::Receipt), None, _) => true,
            (None, None, Some((EndCause::Revoked { .. }, _))) => lease.activation().is_some(),
            (None, None, Some((cause, _))) => {
                lease.activation().is_some() && may_be_alive(cause) && self.falls_into_sample()
            }
            (None, None, None) => false,
        }
    }

    fn falls_into_sample(&self) -> bool {
        let mut random = [0; 4];
        self.0.outside.entropy.fill(&mut random);
        u32::from_le_bytes(random).is_multiple_of(self.0.one_in)
    }

    /// Writes the receipt to its lease, over whatever the lease has become meanwhile.
    async fn record(&self, lease: LeaseId, receipt: Receipt) {
        for _ in 0..CONFLICTS {
            match self.record_once(lease, &receipt).await {
                Ok(()) => return,
                Err(LedgerError::Conflict(_)) => {}
                Err(cause) => {
                    tracing::warn!(%lease, error = %cause, "a receipt was not recorded");
                    return;
                }
            }
        }
    }

    async fn record_once(&self, id: LeaseId, receipt: &Receipt) -> Result<(), LedgerError> {
        let ledger = &self.0.outside.ledger;
        let Some(lease) = ledger.lease(id)? else { return Ok(()) };
        // A cut that fails again and again would fill the audit file with the same news.
        let same = |earlier: &Receipt| earlier.verdict == receipt.verdict;
        if lease.receipt.as_ref().is_some_and(|earlier| same(earlier) || !is_provisional(earlier)) {
            return Ok(());
        }
        let Ok(lease) = lease.receive(receipt.clone()) else { return Ok(()) };
        show(&lease, receipt);
        ledger.commit(vec![Change::LeaseReceipt { lease }]).await.map(|_| ())
    }
}

/// Whether it can still become better: the anchor is cut again until it is gone.
fn is_provisional(receipt: &Receipt) -> bool {
    match &receipt.verdict {
        Verdict::Unproved(unproved) => matches!(unproved.why, Why::NotDeleted | Why::StillAccepted),
        Verdict::Proved(_) | Verdict::Assumed(_) => false,
    }
}

/// Whether the lease of that number out of so many gets a receipt.
fn in_sample(index: usize, all: usize) -> bool {
    all <= SAMPLE || index * SAMPLE / all != (index + 1) * SAMPLE / all
}

/// Whether its tokens may have been good until the cut.
fn may_be_alive(cause: &EndCause) -> bool {
    match cause {
        EndCause::Released | EndCause::JobEnded | EndCause::Revoked { .. } => true,
        EndCause::Deadline
        | EndCause::Silence
        | EndCause::RoleChanged
        | EndCause::EnrolmentReplaced
        | EndCause::EnrolmentCloned
        | EndCause::OwnerBanned { .. } => true,
        EndCause::Abandoned | EndCause::AnchorLost | EndCause::ServiceAccountReplaced => false,
    }
}

fn show(lease: &Lease, receipt: &Receipt) {
    let verdict = receipt.verdict.word();
    let cluster = lease.target.cluster.to_string();
    metrics::counter!("shorepass_receipts_total", "cluster" => cluster.clone(), "verdict" => verdict)
        .increment(1);
    match (&receipt.verdict, lease.end_cause()) {
        (Verdict::Proved(death) | Verdict::Assumed(death), Some((_, ending))) => {
            let delay = until(ending, death.refused);
            metrics::histogram!("shorepass_revocation_delay_seconds", "cluster" => cluster)
                .record(delay.as_secs_f64());
            tracing::info!(lease = %lease.id, verdict, dead_by = %death.dead_by, "receipt");
        }
        (Verdict::Unproved(unproved), _) => {
            tracing::info!(lease = %lease.id, verdict, reason = %unproved, "receipt");
        }
        (Verdict::Proved(_) | Verdict::Assumed(_), None) => {}
    }
}

/// Wall time that does not jump while a proof goes on.
#[derive(Clone)]
struct Moments {
    clock: Arc<dyn Clock>,
    wall: Timestamp,
    boot: Duration,
}

impl Moments {
    fn begin(clock: Arc<dyn Clock>) -> Self {
        Self { wall: clock.now(), boot: clock.since_boot(), clock }
    }

    fn now(&self) -> Timestamp {
        after(self.wall, self.clock.since_boot().saturating_sub(self.boot))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_a_hundred_all_are_in_the_sample_and_above_that_a_hundred() {
        for all in [1, 2, 99, 100, 101, 199, 1_000, 12_345] {
            let sample: Vec<usize> = (0..all).filter(|index| in_sample(*index, all)).collect();
            assert_eq!(sample.len(), all.min(SAMPLE), "{all}");
            assert!(all <= SAMPLE || sample[0] < all / 50, "it begins near the start");
        }
    }

    #[test]
    fn the_limits_are_these() {
        assert_eq!((WINDOW.as_millis(), BOUND.as_secs(), SAMPLE), (100, 25, 100));
    }
}
