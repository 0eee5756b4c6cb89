//! What an operator is told of a revocation, lease by lease, and which receipts are waited for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Awaited, Outcome, RevokeStep};
use shorepass_rpc::refused::Refused;
use tokio::sync::{mpsc, watch};

use super::Ends;
use crate::admin::{Blocks, Views};

/// What is told of one lease.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) outcome: Outcome,
    pub(super) block_set: bool,
    /// Whether what stands in the way of its end may be gone in a moment.
    pub(super) passes: bool,
}

impl Told {
    pub(super) fn new(outcome: Outcome, block_set: bool) -> Self {
        Self { outcome, block_set, passes: false }
    }
}

/// Tells each step to whoever listens.
pub(super) struct Teller<'a> {
    views: &'a Views,
    /// As they are when the first step is told: all that it sets are recorded by then.
    blocks: Mutex<Blocks>,
    steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    total: usize,
}

impl<'a> Teller<'a> {
    /// Of so many leases.
    pub(super) fn new(
        views: &'a Views,
        blocks: Blocks,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
        total: usize,
    ) -> Self {
        Self { views, blocks: Mutex::new(blocks), steps, total }
    }

    /// One lease, whether its receipt is there or not.
    pub(super) async fn tell(&self, lease: Lease, told: Told, receipt: Awaited) -> Result<(), Refused> {
        let view =
            self.views.of(lease, 1, &mut self.blocks.lock().unwrap_or_else(PoisonError::into_inner))?;
        let Told { outcome, block_set, passes: _ } = told;
        // The receiver may be gone; the revocation is not undone by that.
        let _ =
            self.steps.send(Ok(RevokeStep { view, outcome, total: self.total, block_set, receipt })).await;
        Ok(())
    }
}

/// The receipts that somebody waits for.
pub(super) struct Receipts {
    pub(super) ends: watch::Receiver<u64>,
    pub(super) awaited: Vec<(LeaseId, Told)>,
    /// When each lease's receipt was made before this revocation, if it had one.
    pub(super) earlier: HashMap<LeaseId, Option<Timestamp>>,
}

impl Receipts {
    pub(super) fn new(ends: &Ends, leases: &[Lease]) -> Self {
        let earlier = leases.iter().map(|lease| (lease.id, made(lease))).collect();
        Self { ends: ends.proving.ends(), awaited: Vec::new(), earlier }
    }

    pub(super) fn is_new(&self, lease: &Lease) -> bool {
        made(lease).is_some() && self.earlier.get(&lease.id) != Some(&made(lease))
    }
}

fn made(lease: &Lease) -> Option<Timestamp> {
    lease.receipt.as_ref().map(|receipt| receipt.made)
}
