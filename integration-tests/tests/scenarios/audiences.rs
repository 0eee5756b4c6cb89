//! Tokens for others than the API server: who takes them, what a revocation does to them, and that nothing is proved of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest, as_operator};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::proxy::claims;
use integration_tests::site::{DEPLOY, Document, Site};
use integration_tests::use_of_tokens::who_am_i;
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use shorepass_core::receipt::Why;

const VAULT: &str = "https://vault.shorepass.test";

/// A role of [`DEPLOY`]'s ServiceAccount, for somebody else.
const ROLE: Document = Document {
    name: "vault",
    gives: "  target: {namespace: @NAMESPACE@, serviceAccount: deployer}
  audiences: [\"https://vault.shorepass.test\"]
",
};

/// Whether the cluster says of a token that it is one for this audience.
async fn is_taken(site: &Site, token: &str, audience: &str) -> Result<bool> {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
    let reviews: Api<TokenReview> = Api::all(site.admin.client.clone());
    let review = TokenReview { spec, ..TokenReview::default() };
    let status = reviews.create(&PostParams::default(), &review).await?.status.context("no status")?;
    Ok(status.authenticated == Some(true) && status.audiences == Some(vec![audience.to_owned()]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_others_is_taken_by_them_until_its_lease_is_revoked_and_its_end_is_unproved() -> Result<()>
{
    let site = Site::with_all("audiences", &[DEPLOY], &[ROLE]).await?;
    let server = site.server()?.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let knobs = Knobs { endpoints: vec![server], lag_bound: "1s", ..Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let agent = AgentUnderTest::start(&issuer, "test-1", agent::Knobs::default()).await?;

    let token = Done::of(agent.tool("shorepass").args(["token", "--role", ROLE.name]))?.succeeded()?;
    let token = token.trim_end();
    assert_eq!(claims(token)?["aud"], json!([VAULT]));
    ensure!(is_taken(&site, token, VAULT).await?, "whom it is for does not take it");
    ensure!(!is_taken(&site, token, "https://registry.shorepass.test").await?, "somebody else takes it");
    let client = site.admin.client_with(token).await?;
    ensure!(who_am_i(&client).await?.is_none(), "the API server takes it");

    is_not_kubectls(&agent)?;
    is_renewed_for_the_same(&issuer, &site).await?;

    let lease = lease_of(&issuer, "test-1")?;
    is_revoked_unproved(&issuer, &lease)?;
    wait::until("a review that refuses it", Duration::from_secs(20), async || {
        let taken = is_taken(&site, token, VAULT).await?;
        Ok(if taken { Seen::NotYet("it is taken".to_owned()) } else { Seen::Ready(()) })
    })
    .await
}

/// It would be refused with 401, and nobody would know why.
fn is_not_kubectls(agent: &AgentUnderTest) -> Result<()> {
    let exec = agent.exec(ROLE.name)?;
    ensure!(exec.code == Some(2) && exec.stdout.is_empty(), "{exec:?}");
    let why = format!("are for {VAULT}, and the API server refuses them");
    ensure!(exec.stderr.contains(&why) && exec.stderr.contains("shorepass token --role vault"), "{exec:?}");
    for command in [&["kubeconfig", "--role", ROLE.name][..], &["can-i", "--role", ROLE.name, "get", "pods"]]
    {
        let done = Done::of(agent.tool("shorepass").args(command))?;
        ensure!(done.code == Some(2) && done.stderr.contains(&why), "{command:?}: {done:?}");
    }
    let other = Done::of(agent.tool("shorepass").args(["token", "--role", DEPLOY.name]))?;
    ensure!(other.code == Some(2) && other.stdout.is_empty(), "{other:?}");
    ensure!(other.stderr.contains("shorepass kubeconfig --role deploy"), "{other:?}");
    Ok(())
}

async fn is_renewed_for_the_same(issuer: &IssuerUnderTest, site: &Site) -> Result<()> {
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let issued = platform.issue(&job, ROLE.name).await?;
    assert_eq!(issued.lease.audiences, [VAULT]);
    let again = platform.refresh(&issued.lease.id).await?;
    assert_eq!(claims(&again.credential.token)?["aud"], json!([VAULT]));
    ensure!(is_taken(site, &again.credential.token, VAULT).await?);
    platform.release(&issued.lease.id).await?;
    Ok(())
}

/// The runner's lease of the role, by its id; listings and the audit file say for whom it is.
fn lease_of(issuer: &IssuerUnderTest, runner: &str) -> Result<String> {
    let arguments = ["lease", "list", "--runner", runner, "--role", ROLE.name, "-o", "json"];
    let listed: Value = serde_json::from_str(&as_operator(issuer, &arguments)?.succeeded()?)?;
    let lease = &listed["items"][0];
    assert_eq!(lease["audiences"], json!([VAULT]));
    let id = lease["id"].as_str().context("no lease")?.to_owned();
    let shown = as_operator(issuer, &["lease", "show", &id])?.succeeded()?;
    ensure!(shown.contains(&format!("AUDIENCES       {VAULT}: ")), "{shown}");
    for event in ["lease.pending", "lease.active"] {
        let lines = issuer.audit()?;
        let line = lines.iter().find(|line| line["event"] == event && line["lease"] == id.as_str());
        assert_eq!(line.context(event)?["audiences"], json!([VAULT]));
    }
    Ok(id)
}

fn is_revoked_unproved(issuer: &IssuerUnderTest, lease: &str) -> Result<()> {
    let done = as_operator(issuer, &["lease", "revoke", lease, "--reason", "leaked", "--wait"])?;
    assert_eq!(done.code, Some(1), "{done:?}");
    let why = format!("unproved: {}", Why::ForOthers.as_str());
    ensure!(done.stdout.contains(&why), "{done:?}");
    let shown = as_operator(issuer, &["lease", "show", lease, "-o", "json"])?.succeeded()?;
    let receipt = serde_json::from_str::<Value>(&shown)?["receipt"].take();
    assert_eq!(
        (&receipt["verdict"], &receipt["reason"]),
        (&json!("unproved"), &json!(Why::ForOthers.as_str()))
    );
    assert_eq!((&receipt["canaries"], &receipt["endpoints"]), (&json!([]), &json!([])), "{receipt}");
    Ok(())
}
