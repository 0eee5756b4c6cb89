//! Removes anchors that no record claims, where a credential for listing was opted into.
//!
//! Without it the sweeper knows only what the records know. This finds the rest: what a lost record or a mint that came in
//! late has left. What is nobody's is decided in [`shorepass_core::anchors`]; while there is a sign that records were lost,
//! nothing is removed, and what was lost is adopted ([`super::adoption`]). It tells in a gauge what it leaves, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::anchors::{Anchors, FoundAnchor, ListError, Remains, Sealed, Standing, stand};
use shorepass_core::gives::Gives;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{LeaseFilter, Ledger, LedgerError};
use shorepass_core::name::Name;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::adoption;
use crate::outside::Outside;

/// How often it lists, at most.
const PERIOD: Duration = Duration::from_secs(60);
/// How long the start waits for the first look. A cluster that does not answer by then is looked at later.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// How many are removed in one round.
const REMOVED_AT_ONCE: usize = 200;
/// How many that cannot be removed end a round: the cluster is given a rest.
const FAILURES_IN_A_ROUND: usize = 3;

/// What became of the anchors that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not claimed for long enough.
    pub waiting: usize,
    /// Without a MAC of ours.
    pub unauthenticated: usize,
    /// Of living leases that were adopted: claimed, and a sign that records were lost.
    pub adopted: usize,
    /// Left alone, because records may have been lost.
    pub kept: usize,
    /// To be removed, and still there.
    pub undeletable: usize,
    /// Removed.
    pub removed: usize,
    /// Namespaces in which the credential may not list.
    pub unlisted: usize,
}

/// What was found, by what is to be done with it.
#[derive(Default)]
struct Sorted<'f> {
    counts: Counts,
    /// They go, if nothing speaks against it.
    unclaimed: Vec<Remains>,
    /// Their leases are adopted.
    lost: Vec<(&'f FoundAnchor, Sealed)>,
    /// How many name a lease that is on record, and has another anchor.
    strange: usize,
}

/// Looks after one cluster.
pub struct Unclaimed {
    outside: Arc<Outside>,
    cluster: Name,
    anchors: Arc<dyn Anchors>,
    grace: Duration,
    /// Whether there were no records when they were first read: what the issuer has issued since tells nothing of what was
    /// before.
    began_empty: bool,
}

/// Whether there are no records, not even of leases that have ended. To be asked when they are read for the first time,
/// before the issuer serves anybody.
pub fn is_empty(ledger: &dyn Ledger) -> Result<bool, LedgerError> {
    let all = LeaseFilter { include_ended: true, ..LeaseFilter::default() };
    Ok(ledger.leases(&all, None, 1)?.is_empty())
}

impl Unclaimed {
    /// Over the outside. While it is not known whether there were records, nothing is removed: [`Self::began`] tells it.
    pub fn new(outside: Arc<Outside>, cluster: Name, anchors: Arc<dyn Anchors>, grace: Duration) -> Self {
        Self { outside, cluster, anchors, grace, began_empty: true }
    }

    /// Tells it whether there were no records when they were first read.
    pub fn began(self, empty: bool) -> Self {
        Self { began_empty: empty, ..self }
    }

    /// Looks for the first time, before the issuer serves anybody, and adopts: so nobody who comes for a token of a lease whose
    /// record was lost is told that there is no such lease.
    pub async fn begin(&self) {
        match timeout(FIRST_LOOK, self.find_and_adopt()).await {
            Ok(Ok(_)) => {}
            Ok(Err(cause)) => {
                tracing::warn!(cluster = %self.cluster, error = %cause, "leases whose records were lost cannot be looked for before the start");
            }
            Err(_) => {
                tracing::warn!(cluster = %self.cluster, "the cluster does not list its anchors in time: leases whose records were lost are looked for after the start");
            }
        }
    }

    /// Looks again and again until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.grace.min(PERIOD));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            // Not cut off in the middle: what is being removed is finished.
            match self.look().await {
                Ok(counts) => self.show(counts),
                Err(cause) => {
                    tracing::warn!(cluster = %self.cluster, error = %cause, "nobody looks for unclaimed anchors");
                }
            }
        }
    }

    /// Looks once.
    pub async fn look(&self) -> anyhow::Result<Counts> {
        let (mut counts, unclaimed) = self.find_and_adopt().await?;
        self.remove(unclaimed, &mut counts).await;
        Ok(counts)
    }

    /// What there is, and what of it may go: nothing while there is a lease that was lost, adopted or not.
    async fn find_and_adopt(&self) -> anyhow::Result<(Counts, Vec<Remains>)> {
        let (found, unlisted) = self.list().await?;
        let Sorted { mut counts, mut unclaimed, lost, strange } = self.sort(&found)?;
        counts.unlisted = unlisted;
        if !lost.is_empty() {
            tracing::warn!(cluster = %self.cluster, lost = lost.len(), "there are anchors of live leases that no record has: records were lost, or a backup was restored; the leases are adopted, and no unclaimed anchor is removed while they live");
            counts.adopted += adoption::adopt(&self.outside, &self.cluster, &lost).await?;
        }
        if counts.adopted + strange > 0 {
            counts.kept += strange + unclaimed.len();
            unclaimed.clear();
        }
        Ok((counts, unclaimed))
    }

    /// What is in the namespaces, and in how many of them nobody may look: that hides nothing of the others.
    async fn list(&self) -> Result<(Vec<FoundAnchor>, usize), ListError> {
        let (mut found, mut unlisted) = (Vec::new(), 0);
        for namespace in self.namespaces() {
            match self.anchors.list(&namespace).await {
                Ok(some) => found.extend(some),
                Err(cause @ ListError::Forbidden(_)) => {
                    tracing::warn!(cluster = %self.cluster, error = %cause, "nobody looks for unclaimed anchors and lost leases in this namespace");
                    unlisted += 1;
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok((found, unlisted))
    }

    fn sort<'f>(&self, found: &'f [FoundAnchor]) -> Result<Sorted<'f>, LedgerError> {
        let ledger = &self.outside.ledger;
        let controls: BTreeSet<_> = ledger
            .controls(&self.cluster)?
            .into_iter()
            .map(|control| control.anchor.as_str().to_owned())
            .collect();
        let whole = !self.began_empty && ledger.health().is_ok() && ledger.alarm().is_none();
        let now = self.outside.clock.now();
        let mut sorted = Sorted::default();
        let counts = &mut sorted.counts;
        for found in found.iter().filter(|found| !controls.contains(found.name.as_str())) {
            let sealed = self.opened(found);
            // Read after the listing: a record is made before its anchor.
            let record = sealed.as_ref().map(|sealed| ledger.lease(sealed.lease)).transpose()?.flatten();
            match (stand(found, sealed.as_ref(), record.as_ref(), whole, self.grace, now), sealed) {
                (Standing::Unclaimed, Some(sealed)) => sorted.unclaimed.push(Remains::of(found, &sealed)),
                (Standing::Claimed, _) if record.as_ref().is_some_and(is_adopted_and_lives) => {
                    counts.adopted += 1
                }
                (Standing::Claimed | Standing::Unclaimed, _) => {}
                (Standing::Waiting, _) => counts.waiting += 1,
                (Standing::Unauthenticated, _) => counts.unauthenticated += 1,
                (Standing::Kept, _) => counts.kept += 1,
                (Standing::Lost, Some(sealed)) if record.is_none() => sorted.lost.push((found, sealed)),
                (Standing::Lost, _) => sorted.strange += 1,
            }
        }
        Ok(sorted)
    }

    fn opened(&self, found: &FoundAnchor) -> Option<Sealed> {
        self.outside.seal.open(found.annotation.as_deref()?, &self.cluster, found)
    }

    /// Where leases of this cluster have their anchors.
    fn namespaces(&self) -> BTreeSet<Name> {
        let policy = self.outside.policy.current();
        let here = policy.roles().filter(|role| *role.cluster() == self.cluster);
        here.filter_map(|role| match role.gives() {
            Gives::Bound(target) => Some(target.namespace.clone()),
            Gives::Strict(strict) => Some(strict.namespace.clone()),
            Gives::Unbound(_) => None,
        })
        .collect()
    }

    async fn remove(&self, unclaimed: Vec<Remains>, counts: &mut Counts) {
        let mut failures = 0;
        counts.undeletable = unclaimed.len();
        for remains in unclaimed.into_iter().take(REMOVED_AT_ONCE) {
            let (namespace, anchor) = (&remains.namespace, remains.anchor.as_str());
            match self.anchors.remove(&remains).await {
                Ok(()) => {
                    tracing::info!(cluster = %self.cluster, %namespace, anchor, "an anchor that no record claims was removed");
                    counts.removed += 1;
                    counts.undeletable -= 1;
                }
                Err(cause) => {
                    tracing::warn!(cluster = %self.cluster, %namespace, anchor, error = %cause, "an anchor that no record claims could not be removed");
                    failures += 1;
                    if failures >= FAILURES_IN_A_ROUND {
                        return;
                    }
                }
            }
        }
    }

    fn show(&self, counts: Counts) {
        let Counts { waiting, unauthenticated, adopted, kept, undeletable, removed, unlisted } = counts;
        metrics::gauge!("shorepass_unlisted_namespaces", "cluster" => self.cluster.to_string())
            .set(unlisted as f64);
        let states = BTreeMap::from([
            ("waiting", waiting),
            ("unauthenticated", unauthenticated),
            ("adopted", adopted),
            ("kept", kept),
            ("undeletable", undeletable),
        ]);
        for (state, count) in states {
            metrics::gauge!("shorepass_unclaimed_anchors", "cluster" => self.cluster.to_string(), "state" => state)
                .set(count as f64);
        }
        metrics::counter!("shorepass_unclaimed_anchors_removed_total", "cluster" => self.cluster.to_string())
            .increment(removed as u64);
    }
}

fn is_adopted_and_lives(lease: &Lease) -> bool {
    lease.is_adopted() && lease.is_live()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_these() {
        assert_eq!((PERIOD.as_secs(), FIRST_LOOK.as_secs()), (60, 5));
        assert_eq!((REMOVED_AT_ONCE, FAILURES_IN_A_ROUND), (200, 3));
    }
}
