//! Ends leases when they are due, without looking for them.
//!
//! It sleeps until the next deadline, or until the next owner will have been silent for too long. The end is recorded within [`BOUND`] of it and the anchor is deleted at once, beside:
//! a cluster that hangs delays no other lease. The sweeper does the same in its rounds, for what a failed commit or a crash
//! leaves here.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::id::LeaseId;
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::time::until;
use shorepass_rpc::refused::Refused;
use tokio_util::sync::CancellationToken;

use super::Follow;
use crate::outside::{Outside, ledger_refused};
use crate::revoke::{Ends, LEASES_IN_A_COMMIT};

/// From a deadline until the delete of the anchor is on its way, while ledger and API server do what they are told.
pub const BOUND: Duration = Duration::from_secs(2);
/// The longest sleep: the wall clock may have been set.
const RECHECK: Duration = Duration::from_secs(2);
/// Longer between two looks than this, and the issuer stood still: it was stopped, or its machine was.
const STOOD_STILL: Duration = Duration::from_secs(10);
/// The shortest sleep.
const REST: Duration = Duration::from_millis(20);

/// The task.
pub struct Timer {
    ends: Ends,
    outside: Arc<Outside>,
    follow: Arc<Follow>,
    /// When it looked last, as time since boot.
    looked: Duration,
}

impl Timer {
    /// Over the ends.
    pub fn new(ends: Ends) -> Self {
        let outside = ends.outside.clone();
        let follow = outside.follow.clone();
        let looked = outside.clock.since_boot();
        Self { ends, outside, follow, looked }
    }

    /// Ends what is due until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.notice_a_standstill();
            self.end_due().await;
            let pause = tokio::time::sleep(self.pause());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.follow.sooner.notified() => {}
                () = pause => {}
            }
        }
    }

    fn notice_a_standstill(&mut self) {
        let now = self.outside.clock.since_boot();
        let pause = now.saturating_sub(self.looked);
        self.looked = now;
        if pause > STOOD_STILL {
            tracing::warn!(
                seconds = pause.as_secs(),
                "the issuer stood still; nobody counts as silent for that time"
            );
            self.follow.hear_all();
        }
    }

    /// Ends what is due now.
    pub async fn end_due(&self) {
        let now = self.outside.clock.now();
        self.end(&self.follow.past_deadline(now), &EndCause::Deadline).await;
        self.end(&self.follow.silent(), &EndCause::Silence).await;
    }

    fn pause(&self) -> Duration {
        let now = self.outside.clock.now();
        let deadline = self.follow.next_deadline().map_or(RECHECK, |deadline| until(now, deadline));
        let booted = self.outside.clock.since_boot();
        let silence = self.follow.next_silence().map_or(RECHECK, |due| due.saturating_sub(booted));
        deadline.min(silence).clamp(REST, RECHECK)
    }

    /// In commits of a bounded size. A lease that waits for its first token is the sweeper's.
    async fn end(&self, leases: &[LeaseId], cause: &EndCause) {
        for some in leases.chunks(LEASES_IN_A_COMMIT) {
            match self.record(some, cause).await {
                Ok(ending) => ending.into_iter().for_each(|lease| self.ends.cut_in_background(lease)),
                Err(refused) => {
                    tracing::warn!(error = %refused, "ends were not recorded; the sweeper goes on")
                }
            }
        }
    }

    async fn record(&self, leases: &[LeaseId], cause: &EndCause) -> Result<Vec<Lease>, Refused> {
        let mut active = Vec::with_capacity(leases.len());
        for id in leases {
            let lease = self.outside.ledger.lease(*id).map_err(|cause| ledger_refused(&cause))?;
            active.extend(lease.filter(|lease| matches!(lease.state, State::Active { .. })));
        }
        Ok(self.ends.record_ends(&active, cause).await?.begun)
    }
}
