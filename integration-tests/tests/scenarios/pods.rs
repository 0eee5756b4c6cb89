//! Runner pods: let in by the token that is projected into them, and by nothing less, on a real API server.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::admin::{Cleanup, Place};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::client;
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::process::Done;
use integration_tests::runner_pod::{Node, RunnerPod, unbound_token};
use integration_tests::site::{CLUSTER, DEPLOY, Site};
use integration_tests::wait::{self, Seen};
use shorepass_proto::v1::{self, ErrorReason as Reason};
use shorepass_rpc::client::ClientError;
use shorepass_tls::{KeyAndRequest, authority_digest};

const AUDIENCE: &str = "https://shorepass.test/pods";

/// Dropped in this order.
struct Stage {
    issuer: IssuerUnderTest,
    node: Node,
    _rights: Cleanup,
    site: Site,
}

impl Stage {
    /// Pods of ServiceAccount `runner` in the site's namespace may be `test-pod-*`; the issuer has no right to ask yet.
    async fn set(purpose: &str) -> Result<Self> {
        let site = Site::new(purpose).await?;
        for account in ["runner", "other"] {
            site.place.service_account(account).await?;
        }
        let enrolment = format!(
            "    pods: [{{cluster: {CLUSTER}, audience: \"{AUDIENCE}\", serviceAccounts: [{{namespace: {}, name: runner}}], \
             runners: [\"test-pod-*\"], labels: {{pool: pods}}}}]\n",
            site.place.namespace
        );
        let issuer = IssuerUnderTest::start(&site, Knobs { enrolment, ..Knobs::default() }).await?;
        let rights = format!("{}-token-reviews", site.identity.policy);
        let objects = ["clusterrolebinding", "clusterrole"].map(|kind| format!("{kind}/{rights}"));
        let rights = site.admin.cleanup(objects.to_vec());
        Ok(Self { issuer, node: Node::new(&site.admin)?, _rights: rights, site })
    }

    /// What `rbac --token-reviews` prints, and nothing else.
    fn allow_reviews(&self) -> Result<()> {
        let roles = self.issuer.folder().join("roles").display().to_string();
        let (name, home) = (self.issuer.name(), self.site.identity.home.namespace.as_str());
        let who =
            ["--issuer", name, "--namespace", home, "--service-account", "issuer", "--cluster", CLUSTER];
        let arguments = [["rbac", "--roles", &roles, "--token-reviews"].as_slice(), &who].concat();
        self.site.admin.apply(&Done::of(&mut self.issuer.command(&arguments))?.succeeded()?)
    }

    async fn pod(&self, name: &str, account: &str) -> Result<RunnerPod> {
        RunnerPod::new(&self.site.admin, &self.site.place, name, account, Some(&self.node)).await
    }

    async fn enroll(&self, token: &str, name: &str) -> Result<Result<v1::EnrollResponse, ClientError>> {
        self.enroll_from(CLUSTER, token, name).await
    }

    async fn enroll_from(
        &self,
        cluster: &str,
        token: &str,
        name: &str,
    ) -> Result<Result<v1::EnrollResponse, ClientError>> {
        let ca = fs::read(self.issuer.state().join("ca.pem"))?;
        let request = v1::EnrollRequest {
            name: name.to_owned(),
            certificate_request_pem: KeyAndRequest::generate(&client::runner_id(TRUST_DOMAIN, name)?)?
                .request_pem,
            service_account_token: token.to_owned(),
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        client::enroll_by(&self.issuer, authority_digest(&ca).context("no CA")?, request).await
    }

    async fn is_refused(&self, token: &str, name: &str, reason: Reason, told: &str) -> Result<()> {
        let error = client::refused(self.enroll(token, name).await?)?;
        ensure!(error.reason() == Some(reason), "{told}: {error:?}");
        ensure!(error.to_string().contains(told), "{told}: {error}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_let_in_by_its_token_and_comes_back_as_itself() -> Result<()> {
    let stage = Stage::set("pods").await?;
    let pod = stage.pod("runner-0", "runner").await?;
    let token = pod.token(AUDIENCE).await?;
    let refused = client::refused(stage.enroll(&token, "test-pod-0").await?)?;
    ensure!(refused.reason() == Some(Reason::IssuerForbidden), "it has no right to ask: {refused:?}");
    let rule = refused.refusal().and_then(|refusal| refusal.metadata.get("rule").cloned());
    ensure!(rule.as_deref() == Some("create tokenreviews.authentication.k8s.io"), "{rule:?}");
    stage.allow_reviews()?;

    let shown = format!("pod: {{tokenFile: token, cluster: {CLUSTER}, caFile: ca.pem}}");
    let knobs = agent::Knobs { ticket: Some(shown), ..agent::Knobs::default() };
    let mut agent = AgentUnderTest::prepare(&stage.issuer, "test-pod-0", "", knobs)?;
    fs::write(agent.folder().join("token"), &token)?;
    fs::copy(stage.issuer.state().join("ca.pem"), agent.folder().join("ca.pem"))?;
    wait::until("the right to take effect", Duration::from_secs(10), async || {
        Ok(match stage.enroll(&token, "test-pod-1").await? {
            Ok(_) => Seen::Ready(()),
            Err(refused) => Seen::NotYet(refused.to_string()),
        })
    })
    .await?;
    agent.run().await?;
    agent.token(DEPLOY.name)?;

    // Its state is gone, as that of a container that was restarted.
    agent.kill()?;
    fs::remove_dir_all(agent.folder().join("state"))?;
    agent.run().await?;
    agent.token(DEPLOY.name)?;
    let lines = stage.issuer.audit()?;
    let of_it = |event: &str| {
        let is_of_it = |line: &&serde_json::Value| {
            line["event"] == event && line["caller"].as_str().is_some_and(|id| id.ends_with("/test-pod-0"))
        };
        lines.iter().filter(is_of_it).cloned().collect::<Vec<_>>()
    };
    let enrolled = of_it("runner.enrolled");
    ensure!(enrolled.len() == 2 && of_it("runner.replaced").len() == 1, "{enrolled:?}");
    let name = format!("{CLUSTER}/{}/runner-0", stage.site.place.namespace);
    for line in enrolled {
        ensure!(line["pod"] == name.as_str() && line["podUid"] == pod.uid(), "{line}");
        ensure!(line["labels"]["pool"] == "pods", "{line}");
    }
    for output in [agent.log(), stage.issuer.log(), fs::read_to_string(stage.issuer.audit_file())?] {
        let signature = token.rsplit('.').next().context("a token has a signature")?;
        ensure!(!output.contains(signature), "the pod's token was written down");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_proves_no_such_pod_is_refused() -> Result<()> {
    const REJECTED: Reason = Reason::PodTokenRejected;
    let stage = Stage::set("no-pods").await?;
    stage.allow_reviews()?;
    let Site { admin, place, .. } = &stage.site;
    let pod = stage.pod("runner-0", "runner").await?;
    wait::until("the pod to be let in", Duration::from_secs(10), async || {
        Ok(match stage.enroll(&pod.token(AUDIENCE).await?, "test-pod-0").await? {
            Ok(_) => Seen::Ready(()),
            Err(refused) => Seen::NotYet(refused.to_string()),
        })
    })
    .await?;

    let good = pod.token(AUDIENCE).await?;
    stage
        .is_refused(&good, "test-other", Reason::RunnerNameNotAllowed, "may not be called test-other")
        .await?;
    let second = stage.pod("runner-1", "runner").await?;
    let token = second.token(AUDIENCE).await?;
    stage.is_refused(&token, "test-pod-0", Reason::EnrolmentExists, "--replace").await?;

    let of_another = stage.pod("other-0", "other").await?;
    let token = of_another.token(AUDIENCE).await?;
    stage.is_refused(&token, "test-pod-1", REJECTED, "this ServiceAccount are not let in").await?;
    let elsewhere: Place = admin.place("elsewhere").await?;
    elsewhere.service_account("runner").await?;
    let namesake = RunnerPod::new(admin, &elsewhere, "runner-0", "runner", Some(&stage.node)).await?;
    let token = namesake.token(AUDIENCE).await?;
    stage.is_refused(&token, "test-pod-1", REJECTED, "this ServiceAccount are not let in").await?;
    drop(namesake);

    for audience in ["https://shorepass.test/jobs", "https://kubernetes.default.svc"] {
        let token = pod.token(audience).await?;
        stage.is_refused(&token, "test-pod-1", REJECTED, "no ServiceAccount token for the audience").await?;
    }
    let token = unbound_token(place, "runner", AUDIENCE).await?;
    stage.is_refused(&token, "test-pod-1", REJECTED, "(no pod)").await?;
    let pending = RunnerPod::new(admin, place, "pending-0", "runner", None).await?;
    stage.is_refused(&pending.token(AUDIENCE).await?, "test-pod-1", REJECTED, "(no node)").await?;
    let (rest, signature) = good.rsplit_once('.').context("a token has a signature")?;
    let forged = format!("{rest}.{}", signature.chars().rev().collect::<String>());
    stage.is_refused(&forged, "test-pod-1", REJECTED, "does not accept this token").await?;
    let error = client::refused(stage.enroll_from("nowhere", &good, "test-pod-1").await?)?;
    ensure!(
        error.reason() == Some(REJECTED) && error.to_string().contains("no pods of this cluster"),
        "{error}"
    );

    // One that was never shown before: what an API server has just accepted, it accepts for some seconds more.
    let token = second.token(AUDIENCE).await?;
    second.delete();
    stage.is_refused(&token, "test-pod-1", REJECTED, "its pod is gone").await?;
    let lines = stage.issuer.audit()?;
    let enrolled = lines.iter().filter(|line| line["event"] == "runner.enrolled").count();
    ensure!(enrolled == 1, "{enrolled} were enrolled");
    Ok(())
}
