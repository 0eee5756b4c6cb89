//! Lease Secrets are the issuer's alone: a job that may do everything with Secrets cannot hold, change, forge or delete one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use shorepass_cluster::names;

/// A policy takes effect within seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Refused by the policy, or not.
fn said<T>(answer: kube::Result<T>, policy: &str) -> Result<Option<String>> {
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.message.contains(policy) => Ok(Some(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

fn forged(name: &str, labels: Value) -> Result<Secret> {
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name, "labels": labels}, "type": names::LEASE_TYPE}),
    )?)
}

#[tokio::test]
async fn a_job_that_may_edit_secrets_cannot_hold_change_forge_or_delete_a_lease() -> Result<()> {
    let site = Site::new("lease-secrets").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let namespace = &site.place.namespace;
    for account in ["editor", "keeper"] {
        site.place.service_account(account).await?;
    }
    let policy = names::lease_policy_name(&site.identity.issuer);
    site.admin.apply(&rights(namespace.as_str(), &policy))?;
    let _wide = site.admin.cleanup(vec![
        format!("clusterrolebinding/keeper-{namespace}"),
        format!("clusterrole/keeper-{namespace}"),
    ]);
    let client = site.admin.client_with(&site.place.token_of("editor").await?).await?;
    let secrets: Api<Secret> = Api::namespaced(client, namespace.as_str());
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let lease = platform.issue(&job, "deploy").await?.lease.id;
    let anchor = site.place.anchors().await?.pop().context("there is no anchor")?;
    let anchor = anchor.metadata.name.context("it has no name")?;

    let policy = format!("ValidatingAdmissionPolicy '{policy}'");
    let patched = async |metadata: Value, dry_run: bool| {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams { dry_run, ..PatchParams::default() };
        said(secrets.patch(&anchor, &params, &patch).await, &policy)
    };
    let hold = || json!({"finalizers": ["example.org/hold"]});
    let told = wait::until("the policy to take effect", PATIENCE, async || {
        Ok(match patched(hold(), true).await? {
            Some(told) => Seen::Ready(told),
            None => Seen::NotYet("it may be changed".to_owned()),
        })
    })
    .await?;
    ensure!(told.contains("the issuer's alone") && told.contains("shorepass lease revoke"), "{told}");
    for change in [hold(), json!({"labels": null}), json!({"annotations": null})] {
        ensure!(patched(change.clone(), false).await?.is_some(), "{change}");
    }
    let labels = json!({names::ISSUER_LABEL: site.identity.issuer});
    let made = secrets.create(&PostParams::default(), &forged("forged", labels)?).await;
    ensure!(said(made, &policy)?.is_some(), "a Secret that looks like a lease was made");
    let deleted = secrets.delete(&anchor, &DeleteParams::default()).await;
    ensure!(said(deleted, &policy)?.is_some(), "the lease of another was ended");
    // What is nobody's lease is nobody's business: another issuer's policy speaks of that issuer's.
    for (name, labels) in [("bare", json!({})), ("others", json!({names::ISSUER_LABEL: "another-issuer"}))] {
        secrets.create(&PostParams::default(), &forged(name, labels)?).await?;
        secrets.delete(name, &DeleteParams::default()).await?;
    }

    platform.release(&lease).await?;
    ensure!(site.place.secrets().get_opt(&anchor).await?.is_none(), "the issuer deletes it");

    // Who could lift the policy ends leases without the issuer, and needs no more for it.
    platform.issue(&job, "deploy").await?;
    let anchor = site.place.anchors().await?.pop().and_then(|anchor| anchor.metadata.name);
    let client = site.admin.client_with(&site.place.token_of("keeper").await?).await?;
    let secrets: Api<Secret> = Api::namespaced(client, namespace.as_str());
    secrets.delete(&anchor.context("there is no anchor")?, &DeleteParams::default()).await?;
    Ok(())
}

/// Both may do everything with Secrets; `keeper` may delete the policy's binding, too.
fn rights(namespace: &str, policy: &str) -> String {
    let api = "apiVersion: rbac.authorization.k8s.io/v1";
    let subject = |name: &str| format!("{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}");
    let (editor, keeper) = (subject("editor"), subject("keeper"));
    let (here, wide) = (format!("name: editor, namespace: {namespace}"), format!("name: keeper-{namespace}"));
    let bound = |kind: &str, name: &str| {
        format!("{{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {name}}}")
    };
    [
        format!("{api}\nkind: Role\nmetadata: {{{here}}}\nrules: [{{apiGroups: [''], resources: [secrets], verbs: ['*']}}]\n"),
        format!(
            "{api}\nkind: RoleBinding\nmetadata: {{{here}}}\nroleRef: {}\nsubjects: [{editor}, {keeper}]\n",
            bound("Role", "editor")
        ),
        format!(
            "{api}\nkind: ClusterRole\nmetadata: {{{wide}}}\nrules: [{{apiGroups: [admissionregistration.k8s.io], resources: \
             [validatingadmissionpolicybindings], resourceNames: [{policy}], verbs: [delete]}}]\n"
        ),
        format!(
            "{api}\nkind: ClusterRoleBinding\nmetadata: {{{wide}}}\nroleRef: {}\nsubjects: [{keeper}]\n",
            bound("ClusterRole", &format!("keeper-{namespace}"))
        ),
    ]
    .join("---\n")
}
