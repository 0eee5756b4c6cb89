//! What roles need of their ServiceAccounts, asked of a real API server before a lease begins, and what outlives a lease.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent::as_operator;
use integration_tests::client::refused;
use integration_tests::environment::Environment;
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::site::{CLUSTER, DEPLOY, NEEDY, Site};
use integration_tests::wait::{self, Seen};
use shorepass_proto::v1::ErrorReason;

#[tokio::test]
async fn what_a_role_needs_is_told_as_rules_and_what_outlives_a_lease_is_told_with_it() -> Result<()> {
    let site = Site::with_all("preflight", &[DEPLOY], &[NEEDY]).await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let namespace = &site.place.namespace;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let error = refused(platform.issue(&job, NEEDY.name).await)?;
    ensure!(error.reason() == Some(ErrorReason::RightsMissing), "{error}");
    let expected = format!(
        "# rules of a Role in namespace {namespace}\n\
         - {{apiGroups: [\"\"], resources: [\"pods/log\"], verbs: [\"get\", \"create\"]}}\n\
         # rules of a ClusterRole, for a ClusterRoleBinding\n\
         - {{apiGroups: [\"\"], resources: [\"nodes\"], resourceNames: [\"one\"], verbs: [\"get\"]}}\n"
    );
    let rules =
        error.refusal().and_then(|refusal| refusal.metadata.get("rules").cloned()).context("no rules")?;
    ensure!(rules == expected, "{rules}");
    ensure!(site.place.secrets().list(&Default::default()).await?.items.is_empty(), "something was made");
    let online = ["config", "check", "--online", "--config"];
    let check = || Done::of(issuer.command(&online).arg(issuer.config()));
    let told = check()?;
    ensure!(told.code == Some(1) && told.stdout.contains(&expected), "{told:?}");

    // Exactly what was told, by the groups of the ServiceAccount in one case; and something that outlives a lease.
    let _wide = site.admin.cleanup(vec![
        format!("clusterrolebinding/preflight-{namespace}"),
        format!("clusterrole/preflight-{namespace}"),
    ]);
    site.admin.apply(&granted(&rules, namespace.as_str())?)?;
    let lease = wait::until("a lease", Duration::from_secs(20), async || {
        Ok(match platform.issue(&job, NEEDY.name).await {
            Ok(issued) => Seen::Ready(issued.lease.id),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await?;
    let told = check()?;
    ensure!(told.code == Some(0) && told.stdout.contains("is allowed all that the role needs"), "{told:?}");
    ensure!(told.stdout.contains("rights that outlive a lease: create secrets"), "{told:?}");
    let tested = issuer.folder().join("tested.yaml");
    std::fs::write(&tested, tested_role(CLUSTER, namespace.as_str()))?;
    let mut test = Command::new(Environment::read()?.bin_dir.join("shorepass"));
    test.args(["role", "test", "--online", "--issuer-config"])
        .arg(issuer.config())
        .arg("--roles")
        .arg(&tested);
    let told = Done::of(&mut test)?.succeeded()?;
    ensure!(told.contains("tested: rights that outlive a lease: create secrets (by a review at"), "{told}");
    let show = as_operator(&issuer, &["lease", "show", &lease])?.succeeded()?;
    ensure!(
        show.contains("ESCAPE RIGHTS   none, by a review at"),
        "of the start, an hour ago at most: {show}"
    );
    Ok(())
}

/// A role of that ServiceAccount, with a test.
fn tested_role(cluster: &str, namespace: &str) -> String {
    format!(
        "apiVersion: shorepass.dev/v1\nkind: Role\nmetadata: {{name: tested}}\nspec:\n  cluster: {cluster}\n  target: \
         {{namespace: {namespace}, serviceAccount: deployer}}\n  subjects: [{{platforms: [portal]}}]\ntests:\n- {{name: the portal, \
         platform: portal, job: {{asserted: true}}, expect: allowed}}\n"
    )
}

/// The rules in a Role for the ServiceAccount and in a ClusterRole for its group, and the right to create Secrets.
fn granted(rules: &str, namespace: &str) -> Result<String> {
    let (role, cluster_role) = rules.split_once("# rules of a ClusterRole").context("no ClusterRole")?;
    let cluster_role = cluster_role.split_once('\n').map(|(_, rules)| rules).context("no rules")?;
    let account = format!("{{kind: ServiceAccount, name: deployer, namespace: {namespace}}}");
    let group = format!(
        "{{kind: Group, apiGroup: rbac.authorization.k8s.io, name: 'system:serviceaccounts:{namespace}'}}"
    );
    let api = "apiVersion: rbac.authorization.k8s.io/v1";
    let name = format!("preflight-{namespace}");
    let ours = format!("metadata: {{name: preflight, namespace: {namespace}}}");
    let wide = format!("metadata: {{name: {name}, labels: {{app.kubernetes.io/managed-by: shorepass}}}}");
    let secrets = "- {apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"create\"]}\n";
    Ok([
        format!("{api}\nkind: Role\n{ours}\nrules:\n{role}{secrets}"),
        format!(
            "{api}\nkind: RoleBinding\n{ours}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: preflight}}\n\
             subjects: [{account}]\n"
        ),
        format!("{api}\nkind: ClusterRole\n{wide}\nrules:\n{cluster_role}"),
        format!(
            "{api}\nkind: ClusterRoleBinding\n{wide}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}\n\
             subjects: [{group}]\n"
        ),
    ]
    .join("---\n"))
}
