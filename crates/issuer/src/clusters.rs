//! From the configuration to the clusters: connections, and who looks for anchors that no record claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use shorepass_cluster::{Advertise, Connection, KubeCluster, KubeListing, in_cluster};
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::{ClusterConfig, Connect, PodsConfig};
use shorepass_core::name::Name;
use shorepass_daemon::clock::SystemClock;
use tokio::task::JoinSet;

use crate::enrol::pods::PodRule;
use crate::outside::Outside;
use crate::revoke::unclaimed::Unclaimed;

/// How the issuer's own credential leads there.
pub(crate) fn connection(config: &IssuerConfig, cluster: &ClusterConfig) -> Connection {
    let advertise = &cluster.advertise;
    let (kubeconfig, context) = match &cluster.connect {
        Connect::Kubeconfig { path, context, .. } => (path.clone(), context.clone()),
        Connect::InCluster => (in_cluster::MOUNT.into(), in_cluster::CONTEXT.to_owned()),
    };
    Connection {
        advertise: Advertise {
            server: advertise.server.clone(),
            ca_file: advertise.ca_file.clone(),
            tls_server_name: advertise.tls_server_name.clone(),
        },
        endpoints: cluster.endpoints.iter().map(ToString::to_string).collect(),
        lag_bound: cluster.lag_bound,
        ..Connection::new(cluster.name.clone(), kubeconfig, context, config.name.clone())
    }
}

/// Who looks for unclaimed anchors, where a credential for that is given.
pub(crate) async fn unclaimed(
    config: &IssuerConfig,
    clusters: &BTreeMap<Name, Arc<KubeCluster>>,
    outside: &Arc<Outside>,
) -> Result<Vec<Unclaimed>> {
    let mut all = Vec::new();
    for cluster in &config.clusters {
        let (Some(listing), Some(connected)) = (&cluster.listing, clusters.get(&cluster.name)) else {
            continue;
        };
        let (kubeconfig, context) = (listing.kubeconfig.clone(), listing.context.clone());
        let connection = Connection { kubeconfig, context, ..connection(config, cluster) };
        let anchors = KubeListing::connect(&connection, connected.clone())
            .await
            .with_context(|| format!("the listing credential of cluster {}", cluster.name))?;
        all.push(Unclaimed::new(outside.clone(), cluster.name.clone(), Arc::new(anchors), listing.grace));
    }
    Ok(all)
}

/// Which pods are let in, and who is asked about them. The config was checked for the clusters' names.
pub(crate) fn pod_rules(config: &IssuerConfig, clusters: &BTreeMap<Name, Arc<KubeCluster>>) -> Vec<PodRule> {
    let rule = |pods: &PodsConfig| {
        Some(PodRule {
            cluster: pods.cluster.clone(),
            audience: pods.audience.clone(),
            service_accounts: pods.service_accounts.clone(),
            runners: pods.runners.clone(),
            labels: pods.labels.clone(),
            reviews: clusters.get(&pods.cluster)?.clone(),
        })
    };
    config.enrolment.pods.iter().filter_map(rule).collect()
}

/// All clusters of the configuration. Nothing is sent yet.
pub(crate) async fn connect(config: &IssuerConfig) -> Result<BTreeMap<Name, Arc<KubeCluster>>> {
    let mut clusters = BTreeMap::new();
    for cluster in &config.clusters {
        let connected = KubeCluster::connect(connection(config, cluster), Arc::new(SystemClock))
            .await
            .with_context(|| format!("cluster {}", cluster.name))?;
        clusters.insert(cluster.name.clone(), Arc::new(connected));
    }
    Ok(clusters)
}

/// All look for the first time, together.
pub(crate) async fn first_looks(all: Vec<Unclaimed>) -> Vec<Unclaimed> {
    let looked = |one: Unclaimed| async move {
        one.begin().await;
        one
    };
    all.into_iter().map(looked).collect::<JoinSet<_>>().join_all().await
}
