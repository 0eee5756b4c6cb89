//! A cluster that misbehaves, case by case: what the caller is told, what is recorded, and that nothing is left.
//!
//! The cases of [`table`] happen to the first token of a lease, bound and strict; the others to leases that live. A fault
//! proxy makes what the API server does not do by itself; quota, deletion and finalizers are real.

mod living;
mod namespaces;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::{Client, Issued, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::proxy::Proxy;
use integration_tests::site::{DEPLOY, RELEASE, RoleDocument, Site};
use integration_tests::wait::{self, Seen};
use serde_json::Value;
use shorepass_rpc::client::ClientError;

/// For what the sweeper does in the end: it looks every two seconds, and pauses after failures.
const SETTLED: Duration = Duration::from_secs(30);

/// A role of a ServiceAccount that is replaced.
const REPLACED: RoleDocument = RoleDocument { name: "replaced", service_account: "replaced", granted: true };

/// Dropped in this order.
struct Scene {
    issuer: IssuerUnderTest,
    proxy: Proxy,
    runner: Client,
    job: String,
    site: Site,
}

impl Scene {
    async fn set(purpose: &str) -> Result<Self> {
        let site = Site::with_all(purpose, &[DEPLOY, REPLACED], &[RELEASE]).await?;
        site.place.service_account(REPLACED.service_account).await?;
        let proxy = Proxy::start(&site).await?;
        let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), ..Knobs::default() };
        let issuer = IssuerUnderTest::start(&site, knobs).await?;
        let runner = issuer.runner("test-1").await?;
        let job = runner.start_job().await?;
        let scene = Self { issuer, proxy, runner, job, site };
        for role in [DEPLOY.name, RELEASE.name] {
            scene.works_again(role).await?; // from here on the policy counts as seen
        }
        Ok(scene)
    }

    async fn refused_issue(&self, role: &str) -> Result<ClientError> {
        refused(self.runner.issue(&self.job, role).await)
    }

    /// A lease can be had, as soon as the issuer asks the cluster again; it is given back.
    async fn works_again(&self, role: &str) -> Result<()> {
        let issued = wait::until("a lease", SETTLED, async || {
            Ok(match self.runner.issue(&self.job, role).await {
                Ok(issued) => Seen::Ready(issued),
                Err(error) if error.retry_after().is_some() => Seen::NotYet(error.to_string()),
                Err(error) => return Err(error.into()),
            })
        })
        .await?;
        self.runner.release(&issued.lease.id).await?;
        Ok(())
    }

    async fn issue(&self, role: &str) -> Result<Issued> {
        Ok(self.runner.issue(&self.job, role).await?)
    }

    /// Events about a lease, each with its reason.
    fn audit_of(&self, lease: &str) -> Result<Vec<(String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lines = self.issuer.audit()?.into_iter().filter(|line| line["lease"] == lease);
        Ok(lines.map(|line| (text(&line["event"]), text(&line["reason"]))).collect())
    }

    /// Waits until the lease is on record as ended.
    async fn ended(&self, lease: &str) -> Result<()> {
        wait::until("the lease to end", SETTLED, async || {
            let events = self.audit_of(lease)?;
            let ended = events.iter().any(|(event, _)| event == "lease.ended");
            Ok(if ended { Seen::Ready(()) } else { Seen::NotYet(format!("{events:?}")) })
        })
        .await
    }

    /// The refusal's own line in the audit file.
    fn line_of(&self, error: &ClientError) -> Result<Value> {
        let refusal = error.refusal().with_context(|| format!("not refused but {error:?}"))?;
        let id = refusal.metadata.get("decision_id").context("no decision id")?;
        let line = self.issuer.audit()?.into_iter().find(|line| line["decision"] == id.as_str());
        line.context("the refusal is not in the audit file")
    }

    /// Waits until nothing of any lease is in the cluster.
    async fn nothing_is_left(&self) -> Result<()> {
        wait::until("nothing to be left in the cluster", SETTLED, async || {
            let mut left = self.site.left_of_strict_leases().await?;
            let secrets = self.site.place.secrets().list(&Default::default()).await?;
            left.extend(secrets.items.into_iter().filter_map(|secret| secret.metadata.name));
            Ok(if left.is_empty() { Seen::Ready(()) } else { Seen::NotYet(format!("{left:?}")) })
        })
        .await
    }

    /// That the lease ended for this reason, in this order.
    fn ensure_ending(&self, lease: &str, reason: &str) -> Result<()> {
        let events = self.audit_of(lease)?;
        let ending = events.iter().find(|(event, _)| event == "lease.ending");
        let told = ending.is_some_and(|(_, said)| said.contains(reason));
        ensure!(told, "{reason:?} is not why it ends: {events:?}");
        Ok(())
    }
}
