//! What clusters say of the ServiceAccounts of roles, asked with the credential that the issuer's config names for each.

use std::collections::BTreeMap;
use std::sync::Arc;

use shorepass_cluster::{Connection, KubeCluster, in_cluster};
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::{ClusterConfig, Connect};
use shorepass_core::escape::{self, Escapes};
use shorepass_core::gives::Gives;
use shorepass_core::name::Name;
use shorepass_core::role::{Role, Target};
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::SystemClock;
use shorepass_daemon::telemetry::Chain;

/// By what the jobs of each role can leave something behind. Nobody is asked about strict roles: their ServiceAccounts are made
/// for each lease, and what their own rules say is read. Also, about how many roles nobody answered.
pub(super) async fn escapes(
    config: &IssuerConfig,
    roles: impl Iterator<Item = &Role>,
) -> (Vec<(Name, Escapes)>, usize) {
    let (mut clusters, mut found, mut unanswered) = (BTreeMap::new(), Vec::new(), 0);
    for role in roles {
        let (role, account) = match role.gives() {
            Gives::Strict(strict) => {
                found.push((role.name().clone(), escape::of_strict(strict, SystemClock.now())));
                continue;
            }
            Gives::Bound(account) | Gives::Unbound(account) => (role.name(), account),
        };
        if !clusters.contains_key(&account.cluster) {
            clusters.insert(account.cluster.clone(), connect(config, &account.cluster).await);
        }
        let escapes = ask(account, &clusters[&account.cluster]).await;
        unanswered += usize::from(matches!(escapes, Escapes::Unknown(_)));
        found.push((role.clone(), escapes));
    }
    (found, unanswered)
}

async fn ask(account: &Target, cluster: &Result<KubeCluster, String>) -> Escapes {
    match cluster {
        Ok(cluster) => escape::ask(account, cluster, SystemClock.now()).await,
        Err(cause) => Escapes::Unknown(cause.clone()),
    }
}

/// Nothing is sent yet.
async fn connect(config: &IssuerConfig, name: &Name) -> Result<KubeCluster, String> {
    let found = config.clusters.iter().find(|cluster| cluster.name == *name);
    let ClusterConfig { name, connect, .. } =
        found.ok_or_else(|| format!("the issuer's config has no cluster {name}"))?;
    let (kubeconfig, context) = match connect {
        Connect::Kubeconfig { path, context, .. } => (path.clone(), context.clone()),
        Connect::InCluster => (in_cluster::MOUNT.into(), in_cluster::CONTEXT.to_owned()),
    };
    let connection = Connection::new(name.clone(), kubeconfig, context, config.name.clone());
    let connected = KubeCluster::connect(connection, Arc::new(SystemClock)).await;
    connected.map_err(|error| Chain(&error).to_string())
}
