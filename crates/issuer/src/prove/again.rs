//! What follows where a delete was confirmed and the tokens went on working: the API server did not do what it said, or does
//! not see it yet.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::cluster::{Cluster, MintError};
use shorepass_core::lease::Lease;
use shorepass_core::receipt::Bound;
use shorepass_core::time::doubling_pause;
use tokio::time::Instant;

use super::{Proving, is_provisional};

/// How long canaries are waited for before it is deleted again: nobody waits for that delete.
const PATIENCE: Duration = Duration::from_secs(10);

impl Proving {
    /// Deletes the anchor again and again until it is gone, and proves that anew. Whether it is gone is told by a canary that
    /// is not given any more: the issuer may not look at Secrets.
    pub(super) async fn cut_again(&self, cluster: Arc<dyn Cluster>, lease: &Lease) {
        let Some(bound) = Bound::of(lease) else { return };
        for pause in (0..).map(doubling_pause) {
            tokio::time::sleep(pause).await;
            if let Err(
                MintError::AnchorLost
                | MintError::ServiceAccountMissing { .. }
                | MintError::ServiceAccountReplaced { .. },
            ) = cluster.canary(&bound).await
            {
                return;
            }
            tracing::error!(
                lease = %lease.id,
                anchor = lease.anchor.as_str(),
                "the API server confirmed the delete and goes on accepting tokens on the anchor; it is deleted again"
            );
            let name = lease.target.cluster.to_string();
            metrics::counter!("shorepass_cuts_without_effect_total", "cluster" => name).increment(1);
            let unproved = |lease: &Lease| lease.receipt.as_deref().is_some_and(is_provisional);
            let proof = self.make_ready(lease, unproved, Instant::now() + PATIENCE).await;
            let sent = proof.as_ref().map(|proof| proof.now());
            let outcome = cluster.cut(lease).await;
            if let (Some(proof), Some(sent)) = (proof, sent) {
                let at = proof.now();
                proof.go_on(sent, outcome.map(|()| at)).await;
            }
        }
    }
}
