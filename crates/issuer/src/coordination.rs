//! One name, one issuer in a cluster: claims the name at start, and says so when another has it.
//!
//! A start is refused while another issuer of the name renews its claim. One that runs is not stopped, whatever it sees: it
//! could be made to by whoever may write one object. Nor does a start wait for a cluster that does not answer. So this
//! detects, and fences nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use shorepass_cluster::{CLAIM_EVERY, Claim, ClaimError, KubeCluster, Standing};
use shorepass_config::issuer::ClusterConfig;
use shorepass_core::name::Name;
use shorepass_core::time::for_people;
use shorepass_daemon::admin::{Condition, Readiness};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often a start looks while it is not certain who holds the name.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The claim in one cluster.
pub(crate) struct Presence {
    name: Name,
    cluster: Arc<KubeCluster>,
    claim: Claim,
    condition: Condition,
}

impl Presence {
    /// Claims the name in all clusters at the same time. An error if another issuer has it in any.
    pub(crate) async fn begin(
        clusters: &[ClusterConfig],
        connected: &BTreeMap<Name, Arc<KubeCluster>>,
        holder: &str,
        readiness: &Readiness,
    ) -> Result<Vec<Self>> {
        let mut looks = JoinSet::new();
        for config in clusters {
            let Some(cluster) = connected.get(&config.name) else { continue };
            let mut presence = Self {
                name: config.name.clone(),
                cluster: cluster.clone(),
                claim: Claim::new(holder.to_owned(), config.coordination_namespace.clone()),
                condition: readiness.condition(format!("coordination-{}", config.name)),
            };
            looks.spawn(async move { (presence.first_look().await, presence) });
        }
        let (mut all, mut taken) = (Vec::new(), None);
        for (found, presence) in looks.join_all().await {
            if let Ok(standing @ Standing::Foreign { .. }) = found {
                taken = Some(format!("cluster {}: {}", presence.name, told(&standing)));
            }
            all.push(presence);
        }
        let Some(taken) = taken else { return Ok(all) };
        Self::end(all).await;
        bail!(
            "{taken}; stop that one, or give this one another name (spec.issuer.name). If it was killed and its state \
             directory is gone, wait until then, and start this one again"
        )
    }

    /// Renews the claim until `stop`.
    pub(crate) async fn keep(&mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(CLAIM_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.reset(); // `begin` was the first
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            // An error is shown where it is found.
            let _ = self.look().await;
        }
        // Once more: the last deletes of a stop take about as long as a claim lasts.
        let _ = self.look().await;
    }

    /// Gives the names up: nobody has to wait who takes over on another machine.
    pub(crate) async fn end(all: Vec<Self>) {
        let mut ends = JoinSet::new();
        for mut presence in all {
            ends.spawn(async move {
                if let Err(cause) = presence.cluster.disclaim(&mut presence.claim).await {
                    tracing::info!(cluster = %presence.name, error = %cause, "the issuer's name was not given up; it expires");
                }
            });
        }
        ends.join_all().await;
    }

    /// Looks until it is certain whether another issuer holds the name.
    async fn first_look(&mut self) -> Result<Standing, ClaimError> {
        loop {
            let found = self.look().await;
            let Ok(Standing::Foreign { certain: false, .. }) = found else { return found };
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Looks once, and shows what it sees.
    async fn look(&mut self) -> Result<Standing, ClaimError> {
        let found = self.cluster.claim(&mut self.claim).await;
        let state = match &found {
            Ok(Standing::Ours) => {
                self.condition.holds();
                "ours"
            }
            Ok(standing @ Standing::Foreign { certain: false, .. }) => {
                tracing::warn!(cluster = %self.name, found = %told(standing), "there may be a second issuer of this name");
                self.condition.holds_but(told(standing));
                "contested"
            }
            Ok(standing @ (Standing::Foreign { .. } | Standing::Copied)) => {
                tracing::error!(cluster = %self.name, found = %told(standing), "there is a second issuer of this name");
                self.condition.holds_but(told(standing));
                "contested"
            }
            Err(cause) => {
                tracing::warn!(cluster = %self.name, error = %cause, "a second issuer of this name would not be noticed");
                self.condition.holds_but(cause.to_string());
                "unknown"
            }
        };
        for known in ["ours", "contested", "unknown"] {
            let gauge = metrics::gauge!("shorepass_issuer_name", "cluster" => self.name.to_string(), "state" => known);
            gauge.set(if known == state { 1.0 } else { 0.0 });
        }
        found
    }
}

fn told(standing: &Standing) -> String {
    match standing {
        Standing::Ours => "the name is this issuer's".to_owned(),
        Standing::Foreign { holder, until, certain: false } => format!(
            "{holder} held this issuer's name, and it is being watched whether it still does, until {}",
            for_people(*until)
        ),
        Standing::Foreign { holder, until, certain: true } => {
            format!("another issuer of this name runs: {holder} holds its Lease until {}", for_people(*until))
        }
        Standing::Copied => {
            "another issuer renews this one's Lease: it runs on a copy of this state directory; stop one of the two"
                .to_owned()
        }
    }
}
