//! The sweeper: settles what a crash left, records what a revocation could not, ends leases at their deadline, and repeats cuts
//! that failed.
//!
//! It works from the issuer's own records: without the right to list Secrets there is nothing else. There is one for each
//! cluster, so that a cluster that hangs holds up no other. It looks every [`PERIOD`]: first it records what ends, then it
//! cuts, and it leaves the cluster alone for the rest of the round after some cuts that cannot be done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use shorepass_core::caller::Kind;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{AnchorName, EndCause, Lease, State};
use shorepass_core::ledger::{LeaseFilter, LedgerError};
use shorepass_core::name::Name;
use shorepass_core::receipt::Control;
use shorepass_core::time::{Timestamp, after, doubling_pause};
use tokio_util::sync::CancellationToken;

use super::{CUT_CAUSES, Ends, Obstacle, RETRY_WINDOW};
use crate::admin::Blocks;
use crate::issue::attempts::Standing;

/// How often it looks.
pub const PERIOD: Duration = Duration::from_secs(2);
/// How many cuts it asks for at once.
const CUTS_AT_ONCE: usize = 16;
/// How many cuts that cannot be done end a round: the cluster is given a rest.
const FAILURES_IN_A_ROUND: usize = 3;

/// Sweeps one cluster until told to stop.
pub struct Sweeper {
    ends: Ends,
    cluster: Name,
    /// What is pending and older was left by a crash.
    started: Timestamp,
    /// Whether leases of such revocations were looked for.
    resumed: bool,
    retries: HashMap<Left, Retry>,
    /// Until when the cluster wants to be left alone, as time since boot: a wall clock that is set holds up no delete.
    busy_until: Duration,
}

/// What is to be deleted.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Left {
    /// All of a lease that has ended.
    Lease(LeaseId),
    /// What proofs stood on.
    Control(AnchorName),
}

struct Retry {
    failures: u32,
    /// Time since boot.
    next: Duration,
    /// One of [`CUT_CAUSES`], of the last attempt.
    why: &'static str,
}

impl Sweeper {
    /// Over the ends, before the issuer serves anybody.
    pub fn new(ends: Ends, cluster: Name) -> Self {
        let started = ends.outside.clock.now();
        Self { ends, cluster, started, resumed: false, retries: HashMap::new(), busy_until: Duration::ZERO }
    }

    /// Sweeps every [`PERIOD`].
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Err(cause) = self.sweep().await {
                tracing::warn!(cluster = %self.cluster, error = %cause, "the sweeper cannot read the ledger");
            }
        }
    }

    /// Looks once.
    pub async fn sweep(&mut self) -> Result<(), LedgerError> {
        let mut owed = self.ends.owed.of(&self.cluster); // before the leases: what is missing among them has ended
        let filter = LeaseFilter { cluster: Some(self.cluster.clone()), ..LeaseFilter::default() };
        let mut unfinished = self.ends.unfinished(&filter)?;
        self.show(&unfinished);
        let controls = self.ends.outside.ledger.controls(&self.cluster)?;
        let known: HashSet<Left> =
            unfinished.iter().map(Left::of).chain(controls.iter().map(Left::control)).collect();
        self.retries.retain(|left, _| known.contains(left));
        owed.extend(self.left_revoked(&unfinished)?);
        for lease in &mut unfinished {
            let owed = if lease.is_live() { owed.remove(&lease.id) } else { None };
            let cause = match &owed {
                Some(cause) => Some(cause.clone()),
                None => self.cause_to_end(lease)?,
            };
            let Some(cause) = cause else { continue };
            match self.ends.record_ending(lease.clone(), &cause).await {
                Ok(ending) => {
                    *lease = ending;
                    self.ends.outside.attempts.forget(lease.id);
                    self.ends.owed.settle(lease.id);
                }
                Err(refused) => {
                    tracing::warn!(lease = %lease.id, error = %refused, "an end was not recorded");
                    if let Some(cause) = &owed {
                        self.ends.owed.add([&*lease], cause);
                    }
                }
            }
        }
        owed.into_keys().for_each(|ended| self.ends.owed.settle(ended));
        self.cut(unfinished).await;
        let settled = self.settle(controls).await;
        self.show_undeletable();
        settled
    }

    /// Leases whose revocation was cut off between its blocks and its ends, and how they end: asked once, because each
    /// revocation since the start ends what it has blocked, or says that it owes that. Whether one of those is at work just now
    /// does not matter: its leases end. No time is asked for, because the clock may have been set back.
    fn left_revoked(&mut self, unfinished: &[Lease]) -> Result<HashMap<LeaseId, EndCause>, LedgerError> {
        let mut revoked = HashMap::new();
        if self.resumed {
            return Ok(revoked);
        }
        let mut blocks = Blocks::now(&self.ends.outside);
        for lease in unfinished.iter().filter(|lease| lease.is_live()) {
            if let Some(block) = blocks.of(lease)? {
                let cause = EndCause::Revoked { by: block.by.clone(), reason: block.reason.clone() };
                revoked.insert(lease.id, cause);
            }
        }
        self.resumed = true;
        Ok(revoked)
    }

    fn show(&self, unfinished: &[Lease]) {
        let live = unfinished.iter().filter(|lease| lease.is_live()).count();
        let gauge = |state: &'static str| metrics::gauge!("shorepass_leases", "cluster" => self.cluster.to_string(), "state" => state);
        gauge("live").set(live as f64);
        gauge("ending").set((unfinished.len() - live) as f64);
    }

    /// How many anchors of leases that have ended, and of controls, cannot be deleted now, by why: all of [`CUT_CAUSES`].
    pub fn undeletable(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<_, _> = CUT_CAUSES.into_iter().map(|why| (why, 0)).collect();
        for retry in self.retries.values() {
            *counts.entry(retry.why).or_default() += 1;
        }
        counts
    }

    fn show_undeletable(&self) {
        for (why, count) in self.undeletable() {
            metrics::gauge!("shorepass_anchors_undeletable", "cluster" => self.cluster.to_string(), "cause" => why)
                .set(count as f64);
        }
    }

    /// Why a lease ends now, if it does.
    fn cause_to_end(&self, lease: &Lease) -> Result<Option<EndCause>, LedgerError> {
        let now = self.ends.outside.clock.now();
        // A crash between a ban and the ends of the leases leaves them to us.
        if lease.is_live()
            && let Some(ban) = lease.owner.known().and_then(|owner| self.ends.outside.bans.on(owner))
        {
            return Ok(Some(ban.cause()));
        }
        Ok(match &lease.state {
            State::Pending => self.is_abandoned(lease, now).then_some(EndCause::Abandoned),
            State::Active { .. } if now >= lease.deadline => Some(EndCause::Deadline),
            State::Active { .. } => self.end_of_enrolment(lease)?,
            State::Ending { .. } | State::Ended { .. } => None,
        })
    }

    /// Whether nobody mints for it, and the request that it answers will not take it up any more.
    fn is_abandoned(&self, lease: &Lease, now: Timestamp) -> bool {
        match self.ends.outside.attempts.standing(lease.id) {
            Some(Standing::AtWork) => false,
            Some(Standing::Spoiled) => true,
            None => now >= after(lease.created.max(self.started), RETRY_WINDOW),
        }
    }

    /// How the owner's enrolment ended, if it did. Platforms have none in the ledger.
    fn end_of_enrolment(&self, lease: &Lease) -> Result<Option<EndCause>, LedgerError> {
        let Some(owner) = lease.owner.known().filter(|owner| owner.spiffe_id.kind == Kind::Runner) else {
            return Ok(None);
        };
        let enrolment = self.ends.outside.ledger.enrolment(owner.enrolment)?;
        Ok(match enrolment {
            Some(enrolment) if enrolment.cloned.is_some() => Some(EndCause::EnrolmentCloned),
            Some(enrolment) if enrolment.replaced.is_some() => Some(EndCause::EnrolmentReplaced),
            Some(_) | None => None,
        })
    }

    /// Cuts what is ending and due; gives up the round after some failures.
    async fn cut(&mut self, unfinished: Vec<Lease>) {
        let now = self.ends.outside.clock.since_boot();
        if now < self.busy_until {
            return;
        }
        let due =
            |lease: &Lease| matches!(lease.state, State::Ending { .. }) && self.is_due(&Left::of(lease), now);
        let due: Vec<Lease> = unfinished.into_iter().filter(due).collect();
        let mut failures = 0;
        for some in due.chunks(CUTS_AT_ONCE) {
            let mut cuts = self.ends.cut_all(some.to_vec());
            while let Some((lease, obstacle)) = cuts.recv().await {
                failures += self.settled(Left::of(&lease), obstacle, now);
            }
            if failures >= FAILURES_IN_A_ROUND || now < self.busy_until {
                return;
            }
        }
    }

    /// Deletes controls that no proof stands on and that are due; gives up the round after some failures.
    async fn settle(&mut self, controls: Vec<Control>) -> Result<(), LedgerError> {
        let now = self.ends.outside.clock.since_boot();
        let mut failures = 0;
        for control in controls {
            if failures >= FAILURES_IN_A_ROUND || now < self.busy_until {
                break;
            }
            if self.is_due(&Left::control(&control), now) {
                let obstacle = self.ends.proving.settle_control(&control).await?.map(Obstacle::from);
                failures += self.settled(Left::control(&control), obstacle, now);
            }
        }
        Ok(())
    }

    fn is_due(&self, left: &Left, now: Duration) -> bool {
        self.retries.get(left).is_none_or(|retry| now >= retry.next)
    }

    /// Remembers what came of a delete; one failure, or none.
    fn settled(&mut self, left: Left, obstacle: Option<Obstacle>, now: Duration) -> usize {
        match obstacle {
            None => {
                self.retries.remove(&left);
            }
            // The cluster does what it is told: look again in the next round, so that a late anchor is short-lived.
            Some(Obstacle::MintInFlight) => {}
            // It is no failure of this one anchor.
            Some(Obstacle::Busy(wait)) => {
                self.busy_until =
                    self.busy_until.max(self.ends.outside.clock.since_boot().saturating_add(wait));
            }
            Some(Obstacle::Cluster { why, .. }) => {
                self.postpone(left, why, now);
                return 1;
            }
        }
        0
    }

    fn postpone(&mut self, left: Left, why: &'static str, now: Duration) {
        let failures = self.retries.get(&left).map_or(0, |retry| retry.failures) + 1;
        self.retries
            .insert(left, Retry { failures, next: now.saturating_add(doubling_pause(failures)), why });
    }
}

impl Left {
    fn of(lease: &Lease) -> Self {
        Self::Lease(lease.id)
    }

    fn control(control: &Control) -> Self {
        Self::Control(control.anchor.clone())
    }
}
