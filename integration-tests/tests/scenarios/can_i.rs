//! `shorepass can-i`: a yes, and each of the three who can say no, with what to do about it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest, as_operator};
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::process::Done;
use integration_tests::site::{DEPLOY, RoleDocument, Site};
use integration_tests::wait::{self, Seen};
use kube::api::DeleteParams;
use serde_json::Value;

/// A role whose token nobody has used when it dies: an API server believes one that was for 10 s.
const UNUSED: RoleDocument = RoleDocument { name: "unused", ..DEPLOY };

const PATIENCE: Duration = Duration::from_secs(60);

/// The API server tells everybody whose tokens it takes.
const ANYBODY_MAY_DISCOVER: &str = "\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: @NAME@}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:service-account-issuer-discovery}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: system:unauthenticated}]
";

fn can_i(agent: &AgentUnderTest, role: &str, question: &[&str]) -> Result<Done> {
    Done::of(agent.tool("shorepass").args(["can-i", "--role", role]).args(question))
}

/// The same for programs; the exit code and the document.
fn can_i_json(agent: &AgentUnderTest, role: &str, question: &[&str]) -> Result<(Option<i32>, Value)> {
    let done = can_i(agent, role, &[question, &["-o", "json"]].concat())?;
    let document = serde_json::from_str(&done.stdout).with_context(|| format!("no JSON: {done:?}"))?;
    Ok((done.code, document))
}

/// Adds the rules that were printed.
fn add(site: &Site, rules: &str) -> Result<()> {
    let namespace = &site.place.namespace;
    site.admin.apply(&format!(
        "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: added, namespace: {namespace}}}
rules:
{rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: added, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: added}}
subjects: [{{kind: ServiceAccount, namespace: {namespace}, name: deployer}}]
"
    ))
}

/// Waits until the answer has this exit code.
async fn answered(agent: &AgentUnderTest, role: &str, question: &[&str], code: i32) -> Result<Done> {
    wait::until("another answer", PATIENCE, async || {
        let done = can_i(agent, role, question)?;
        Ok(if done.code == Some(code) { Seen::Ready(done) } else { Seen::NotYet(format!("{done:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_told_whether_rbac_the_token_or_the_role_says_no() -> Result<()> {
    let site = Site::with_roles("can-i", &[DEPLOY, UNUSED]).await?;
    let name = site.admin.unique("discovery").to_string();
    let _binding = site.admin.cleanup(vec![format!("clusterrolebinding/{name}")]);
    site.admin.apply(&ANYBODY_MAY_DISCOVER.replace("@NAME@", &name))?;
    let issuer = IssuerUnderTest::start(&site, issuer::Knobs::default()).await?;
    let agent = AgentUnderTest::start(&issuer, "test-1", agent::Knobs::default()).await?;
    let delete_pods = ["delete", "pods"];

    let yes = can_i(&agent, DEPLOY.name, &["create", "configmaps"])?;
    ensure!(yes.code == Some(0) && yes.stdout == "yes\n", "{yes:?}");
    let no = can_i(&agent, DEPLOY.name, &delete_pods)?;
    let told = format!("ServiceAccount {}/deployer may not delete pods", site.place.namespace);
    ensure!(no.code == Some(1) && no.stdout.contains(&told), "{no:?}");
    let (code, document) = can_i_json(&agent, DEPLOY.name, &delete_pods)?;
    ensure!(code == Some(1) && document["allowed"] == false, "{document}");
    ensure!(document["decidedBy"] == "authorisation", "{document}");
    add(&site, document["rules"].as_str().context("no rules")?)?;
    answered(&agent, DEPLOY.name, &delete_pods, 0).await.context("with the rule that was printed")?;

    let denied = can_i(&agent, "nothing", &["get", "pods"])?;
    ensure!(
        denied.code == Some(3) && denied.stderr.contains("not offered a role named nothing"),
        "{denied:?}"
    );

    agent.token(UNUSED.name)?;
    for anchor in site.place.anchors().await? {
        let name = anchor.metadata.name.context("an anchor without a name")?;
        site.place.secrets().delete(&name, &DeleteParams::default()).await?;
    }
    let dead = answered(&agent, UNUSED.name, &["get", "configmaps"], 5).await?;
    ensure!(dead.stderr.contains("authentication, not RBAC; it was revoked"), "{dead:?}");
    ensure!(dead.stderr.contains("shorepass whois"), "it says what to do: {dead:?}");
    let (_, document) = can_i_json(&agent, UNUSED.name, &["get", "configmaps"])?;
    ensure!(document["decidedBy"] == "authentication" && document["cause"] == "token-revoked", "{document}");

    as_operator(&issuer, &["lease", "revoke", "--role", DEPLOY.name, "--reason", "leaked somewhere"])?
        .succeeded()?;
    let revoked = answered(&agent, DEPLOY.name, &delete_pods, 5).await?;
    ensure!(revoked.stderr.contains("leaked somewhere"), "{revoked:?}");
    let (_, document) = can_i_json(&agent, DEPLOY.name, &delete_pods)?;
    ensure!(document["decidedBy"] == "shorepass" && document["allowed"] == false, "{document}");
    Ok(())
}
