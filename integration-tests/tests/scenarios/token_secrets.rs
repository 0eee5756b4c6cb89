//! Secrets that hold a token for ever: nobody makes one for a ServiceAccount that roles give out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::decisions::role;
use integration_tests::issuer_identity::InstalledIssuer;
use integration_tests::site::{CLUSTER, DEPLOY, Site};
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use shorepass_cluster::names;
use shorepass_core::name::Name;

/// A policy takes effect within seconds.
const PATIENCE: Duration = Duration::from_secs(30);

fn token_secret(name: &str, service_account: &str) -> Result<Secret> {
    let annotations = json!({"kubernetes.io/service-account.name": service_account});
    let secret = json!({"metadata": {"name": name, "annotations": annotations}, "type": "kubernetes.io/service-account-token"});
    Ok(serde_json::from_value(secret)?)
}

/// What the API server says to it, if it refuses.
async fn made(secrets: &Api<Secret>, secret: &Secret, dry_run: bool) -> Result<Option<String>> {
    said(secrets.create(&PostParams { dry_run, ..PostParams::default() }, secret).await)
}

async fn changed(secrets: &Api<Secret>, name: &str, metadata: Value) -> Result<Option<String>> {
    let patch = Patch::Merge(json!({"metadata": metadata}));
    said(secrets.patch(name, &PatchParams::default(), &patch).await)
}

fn said(answer: kube::Result<Secret>) -> Result<Option<String>> {
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(format!("{} {}", status.code, status.message))),
        Err(error) => Err(error.into()),
    }
}

/// Waits until one of this ServiceAccount would be refused by that issuer's policy; what is said then.
async fn in_effect(secrets: &Api<Secret>, service_account: &str, issuer: &Name) -> Result<String> {
    let policy = format!("ValidatingAdmissionPolicy '{}'", names::token_policy_name(issuer));
    let secret = token_secret("probe", service_account)?;
    wait::until("the policy to take effect", PATIENCE, async || {
        Ok(match made(secrets, &secret, true).await? {
            Some(said) if said.contains(&policy) => Seen::Ready(said),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await
}

#[tokio::test]
async fn nobody_makes_a_token_that_outlives_every_lease() -> Result<()> {
    let site = Site::new("token-secrets").await?;
    site.place.service_account("other").await?;
    // The administrator may do everything, and this not.
    let secrets = site.place.secrets();
    let told = in_effect(&secrets, DEPLOY.service_account, &site.identity.issuer).await?;
    let named = format!("ServiceAccount {}/{}", site.place.namespace, DEPLOY.service_account);
    ensure!(told.contains(&named) && told.contains("as long as its lease"), "{told}");

    ensure!(
        made(&secrets, &token_secret("of-other", "other")?, false).await?.is_none(),
        "others' are nobody's business"
    );
    let turned = json!({"annotations": {"kubernetes.io/service-account.name": DEPLOY.service_account}});
    let refused = changed(&secrets, "of-other", turned).await?;
    ensure!(refused.as_ref().is_some_and(|said| said.contains(&named)), "{refused:?}");

    // From now on roles give out that account too: what is there stays usable for its owners.
    let namespace = &site.place.namespace;
    let later = [role("later", &Name::parse(CLUSTER)?, namespace, "other", Duration::from_secs(1200))?];
    let second = InstalledIssuer::install(&site.admin, &later, &Name::parse(CLUSTER)?).await?;
    in_effect(&secrets, "other", &second.issuer).await?;
    let labelled = changed(&secrets, "of-other", json!({"labels": {"seen": "yes"}})).await?;
    ensure!(labelled.is_none(), "{labelled:?}");
    secrets.delete("of-other", &DeleteParams::default()).await.context("it can be deleted")?;
    let again = made(&secrets, &token_secret("of-other", "other")?, false).await?;
    ensure!(again.is_some(), "and not made again");
    Ok(())
}
