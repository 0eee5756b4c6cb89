//! Looks for the admission policy in every namespace that the roles have in a cluster: at start, hourly, and when the roles
//! have changed. Without it nothing is minted there.

use std::sync::Arc;
use std::time::Duration;

use shorepass_cluster::{KubeCluster, Places};
use shorepass_core::name::Name;
use shorepass_core::policy::Policy;
use tokio_util::sync::CancellationToken;

use crate::outside::Outside;

/// How often the admission policy is looked for again.
const EVERY: Duration = Duration::from_secs(3600);

/// Goes on until `stop`. A cluster that hangs holds up no other.
pub(crate) async fn probe(
    name: Name,
    cluster: Arc<KubeCluster>,
    outside: Arc<Outside>,
    stop: CancellationToken,
) {
    let (name, cluster) = (&name, &cluster);
    let look = |policy: Arc<Policy>| async move {
        let places = Places::of(policy.roles(), name);
        for (namespace, cause) in cluster.warm_up(&places).await {
            tracing::warn!(cluster = %name, %namespace, error = %cause, "nothing is minted in this namespace");
        }
        EVERY
    };
    outside.policy.follow(outside.clock.as_ref(), &stop, look).await;
}
