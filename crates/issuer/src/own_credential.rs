//! Keeps the issuer's own credential alive where it renews that itself: in each such cluster one task that mints the next
//! token in time, and says on the admin port what is wrong with it and until when it works.
//!
//! It makes no issuer unready: a cluster that cannot be used must not take those that can out of service. It looks at once
//! when the cluster refuses the credential, so that a kill switch that was pulled is told as such and not as an outage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shorepass_cluster::{KubeCluster, OWN_LIFE, OwnAccount, OwnCredential, RenewError};
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::Connect;
use shorepass_core::name::Name;
use shorepass_core::refresh::retry_pause;
use shorepass_core::time::{Clock, Entropy, Timestamp, for_people, until};
use shorepass_daemon::admin::{Condition, Readiness};
use shorepass_daemon::clock::{SystemClock, SystemEntropy, sleep_until_boottime};
use shorepass_daemon::shutdown::Tasks;
use shorepass_daemon::telemetry::Chain;
use tokio_util::sync::CancellationToken;

use crate::clusters::connection;

/// The share of its delay by which a renewal may come early, so that issuers do not move in step.
const JITTER_SHARE: f64 = 0.1;
/// The least pause between two looks, whatever the cluster refuses.
const PAUSE_FLOOR: Duration = Duration::from_secs(2);

/// Spawns a task for each cluster whose credential the issuer renews.
pub(crate) fn keep(
    config: &IssuerConfig,
    clusters: &BTreeMap<Name, Arc<KubeCluster>>,
    readiness: &Readiness,
    tasks: &mut Tasks,
) -> Result<()> {
    for cluster in &config.clusters {
        let Connect::Kubeconfig { renew: Some(renew), .. } = &cluster.connect else { continue };
        let Some(connected) = clusters.get(&cluster.name) else { continue };
        let account = OwnAccount {
            namespace: renew.namespace.clone(),
            service_account: renew.service_account.clone(),
            secret: renew.secret.clone(),
        };
        let own = OwnCredential::new(&connection(config, cluster), account)
            .with_context(|| format!("cluster {}", cluster.name))?;
        let condition = readiness.condition(format!("credential-{}", cluster.name));
        condition.holds(); // until it was looked at
        let keeper = Keeper {
            name: cluster.name.clone(),
            cluster: connected.clone(),
            own,
            condition,
            failures: 0,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        tasks.spawn("own-credential", keeper.run(tasks.stop()));
    }
    Ok(())
}

struct Keeper {
    name: Name,
    cluster: Arc<KubeCluster>,
    own: OwnCredential,
    condition: Condition,
    /// In a row.
    failures: u32,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Keeper {
    async fn run(mut self, stop: CancellationToken) {
        let mut pause = match self.own.ends() {
            Ok(ends) => {
                self.show_end(ends);
                at_start(until(self.clock.now(), ends), self.jitter())
            }
            Err(_) => Duration::ZERO, // the first renewal says why
        };
        while stop.run_until_cancelled(self.wait(pause)).await.is_some() {
            pause = self.renew().await;
        }
    }

    /// Until it is time, or the cluster refuses what was good before.
    async fn wait(&self, pause: Duration) {
        let now = self.clock.since_boot();
        let due = sleep_until_boottime(self.clock.as_ref(), now + pause);
        if self.failures > 0 {
            return due.await;
        }
        tokio::select! {
            () = due => {}
            () = self.cluster.own_refused() => {
                sleep_until_boottime(self.clock.as_ref(), now + PAUSE_FLOOR).await;
            }
        }
    }

    /// Renews the token and says how that went. Returns when to do it next.
    async fn renew(&mut self) -> Duration {
        let renewed = self.cluster.renew_own(&self.own).await;
        let outcome = if renewed.is_ok() { "renewed" } else { "failed" };
        let name = self.name.to_string();
        metrics::counter!("shorepass_own_credential_renewals_total", "cluster" => name, "outcome" => outcome)
            .increment(1);
        match renewed {
            Ok(renewed) => {
                tracing::info!(cluster = %self.name, until = %for_people(renewed.expires), "the issuer's own token was renewed");
                self.failures = 0;
                self.show_end(renewed.expires);
                self.condition.holds();
                half(renewed.life, self.jitter())
            }
            Err(cause) => {
                let told = told(&cause, self.own.ends().ok(), self.clock.now());
                tracing::error!(cluster = %self.name, error = %told, "the issuer's own token was not renewed");
                self.condition.holds_but(told);
                let pause = retry_pause(self.failures, self.jitter()).max(PAUSE_FLOOR);
                self.failures = self.failures.saturating_add(1);
                pause
            }
        }
    }

    fn show_end(&self, ends: Timestamp) {
        let name = self.name.to_string();
        let gauge = metrics::gauge!("shorepass_own_credential_ends_timestamp_seconds", "cluster" => name);
        gauge.set(ends.as_second() as f64);
    }

    fn jitter(&self) -> f64 {
        let mut byte = [0];
        self.entropy.fill(&mut byte);
        f64::from(byte[0]) / 255.0
    }
}

/// The pause before the first renewal: until half of what a token is to live is left, so that a short first one, or one that
/// was left lying, is renewed at once.
fn at_start(left: Duration, jitter: f64) -> Duration {
    early(left.saturating_sub(OWN_LIFE / 2), jitter)
}

/// Half of the life that was granted.
fn half(life: Duration, jitter: f64) -> Duration {
    early(life / 2, jitter).max(PAUSE_FLOOR)
}

fn early(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(1.0 - JITTER_SHARE * jitter.clamp(0.0, 1.0))
}

/// One line: what is wrong, until when the credential works all the same, and what to do.
fn told(cause: &RenewError, ends: Option<Timestamp>, now: Timestamp) -> String {
    let said = Chain(cause).to_string();
    match (cause, ends) {
        // It works no more, and says so.
        (RenewError::Gone { .. } | RenewError::Ended(_), _) | (_, None) => said,
        (_, Some(ends)) if ends <= now => format!(
            "the issuer's own token ended at {}, and was not renewed in time: run `shorepass-issuer cluster bootstrap` again. \
             The last try: {said}",
            for_people(ends)
        ),
        (_, Some(ends)) => format!(
            "the issuer's own token is not renewed, and ends at {}: after that nothing is minted, refreshed or ended in this \
             cluster until `shorepass-issuer cluster bootstrap` is run again. The last try: {said}",
            for_people(ends)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_short_first_token_is_renewed_at_once_and_a_fresh_one_at_half_of_its_life() {
        assert_eq!(at_start(HOUR / 6, 0.0), Duration::ZERO);
        assert_eq!(at_start(HOUR * 12, 0.0), Duration::ZERO);
        assert_eq!(at_start(HOUR * 24, 0.0), HOUR * 12);
        assert_eq!(half(HOUR * 24, 0.0), HOUR * 12);
        assert_eq!(half(HOUR, 1.0), HOUR.mul_f64(0.45));
        // An API server that gives less than was asked for is not asked without a pause.
        assert_eq!(half(Duration::ZERO, 0.0), PAUSE_FLOOR);
    }

    #[test]
    fn a_failure_says_until_when_the_token_works_and_what_to_do() {
        let silent = RenewError::Unreachable("no answer within 8 s".to_owned());
        let said = told(&silent, Some(second(3600)), second(0));
        for part in ["ends at 1970-01-01T01:00:00Z", "cluster bootstrap", "no answer within 8 s"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = told(&silent, Some(second(3600)), second(3600));
        assert!(said.starts_with("the issuer's own token ended at 1970-01-01T01:00:00Z"), "{said}");
        assert!(!said.contains('\n'));
    }

    #[test]
    fn a_kill_switch_is_told_as_one_and_not_as_a_token_that_still_works() {
        let name = |text| Name::parse(text).unwrap();
        let (namespace, secret) = (name("home"), name("own"));
        let gone = RenewError::Gone { namespace, secret, words: "401: Unauthorized".to_owned() };
        let said = told(&gone, Some(second(3600)), second(0));
        assert!(said.starts_with("the kill switch was pulled: Secret home/own"), "{said}");
        assert!(!said.contains("ends at"), "{said}");
    }
}
