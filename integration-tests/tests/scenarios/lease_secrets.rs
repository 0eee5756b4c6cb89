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
    site.place.service_account("editor").await?;
    site.admin.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: editor, namespace: {namespace}}}\nrules: \
         [{{apiGroups: [''], resources: [secrets], verbs: ['*']}}]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: \
         RoleBinding\nmetadata: {{name: editor, namespace: {namespace}}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, \
         kind: Role, name: editor}}\nsubjects: [{{kind: ServiceAccount, name: editor, namespace: {namespace}}}]\n"
    ))?;
    let client = site.admin.client_with(&site.place.token_of("editor").await?).await?;
    let secrets: Api<Secret> = Api::namespaced(client, namespace.as_str());
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let lease = platform.issue(&job, "deploy").await?.lease.id;
    let anchor = site.place.anchors().await?.pop().context("there is no anchor")?;
    let anchor = anchor.metadata.name.context("it has no name")?;

    let policy = format!("ValidatingAdmissionPolicy '{}'", names::lease_policy_name(&site.identity.issuer));
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
    Ok(())
}
