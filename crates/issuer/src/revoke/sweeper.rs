//! The sweeper: settles what a crash left, ends leases at their deadline, and repeats cuts that failed.
//!
//! It works from the issuer's own records: without the right to list Secrets there is nothing else. It looks every
//! [`PERIOD`], so a lease ends at its deadline plus that at most.

use std::collections::HashMap;
use std::time::Duration;

use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::time::{Timestamp, after};
use tokio_util::sync::CancellationToken;

use super::{Cut, Ends, MINT_IN_FLIGHT};

/// How often it looks.
pub const PERIOD: Duration = Duration::from_secs(2);
/// The longest pause between two cuts of one anchor.
const PAUSE_CEILING: Duration = Duration::from_secs(60);

/// Sweeps until told to stop.
pub struct Sweeper {
    ends: Ends,
    started: Timestamp,
    retries: HashMap<LeaseId, Retry>,
}

struct Retry {
    failures: u32,
    next: Timestamp,
}

impl Sweeper {
    /// Over the ends. What is pending from before `started` cannot be in flight any more.
    pub fn new(ends: Ends, started: Timestamp) -> Self {
        Self { ends, started, retries: HashMap::new() }
    }

    /// Sweeps every [`PERIOD`].
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.sweep().await;
        }
    }

    /// Looks once.
    pub async fn sweep(&mut self) {
        let unfinished = match self.ends.unfinished(&LeaseFilter::default()) {
            Ok(unfinished) => unfinished,
            Err(cause) => return tracing::warn!(error = %cause, "the sweeper cannot read the ledger"),
        };
        let live = unfinished.iter().filter(|lease| lease.is_live()).count();
        metrics::gauge!("shorepass_leases", "state" => "live").set(live as f64);
        metrics::gauge!("shorepass_leases", "state" => "ending").set((unfinished.len() - live) as f64);
        self.retries.retain(|id, _| unfinished.iter().any(|lease| lease.id == *id));
        for lease in unfinished {
            self.settle(lease).await;
        }
    }

    async fn settle(&mut self, lease: Lease) {
        let now = self.ends.outside.clock.now();
        let cause = match &lease.state {
            State::Pending if lease.created < self.started || now >= after(lease.created, MINT_IN_FLIGHT) => {
                Some(EndCause::Abandoned)
            }
            State::Active { .. } if now >= lease.deadline => Some(EndCause::Deadline),
            State::Pending | State::Active { .. } => return,
            State::Ending { .. } => None,
            State::Ended { .. } => return,
        };
        if self.retries.get(&lease.id).is_some_and(|retry| now < retry.next) {
            return;
        }
        let id = lease.id;
        let lease = match cause {
            Some(cause) => self.ends.record_ending(lease, cause).await,
            None => Ok(lease),
        };
        let done = match lease {
            Ok(lease) => matches!(self.ends.cut(lease).await, Ok(Cut::Done(_))),
            Err(_) => false,
        };
        if done {
            self.retries.remove(&id);
        } else {
            let failures = self.retries.get(&id).map_or(0, |retry| retry.failures) + 1;
            let pause = Duration::from_secs(1 << failures.min(6)).min(PAUSE_CEILING);
            self.retries.insert(id, Retry { failures, next: after(now, pause) });
        }
    }
}
