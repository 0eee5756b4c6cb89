//! Looks for the admission policy in every namespace that the roles have in a cluster: at start, hourly, and when the roles
//! have changed. Without it nothing is minted there.

use std::sync::Arc;
use std::time::Duration;

use shorepass_cluster::{KubeCluster, Places};
use shorepass_core::name::Name;
use shorepass_daemon::clock::sleep_until_boottime;
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
    let mut exchanges = outside.policy.exchanges();
    loop {
        let policy = exchanges.borrow_and_update().clone();
        let places = Places::of(policy.roles(), &name);
        let Some(missing) = stop.run_until_cancelled(cluster.warm_up(&places)).await else { return };
        for (namespace, cause) in missing {
            tracing::warn!(cluster = %name, %namespace, error = %cause, "nothing is minted in this namespace");
        }
        let due = outside.clock.since_boot() + EVERY;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until_boottime(outside.clock.as_ref(), due) => {}
            // It ends only with the policy that is watched, which is held here.
            _ = exchanges.changed() => {}
        }
    }
}
