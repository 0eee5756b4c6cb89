//! Namespaces that take nothing more: used-up quotas, and deletion.

use anyhow::{Result, ensure};
use integration_tests::client::refused;
use integration_tests::site::{DEPLOY, RELEASE};
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use shorepass_proto::v1::ErrorReason as Reason;

use super::{SETTLED, Scene};

#[tokio::test]
async fn a_used_up_quota_is_named_to_the_operator_and_leaves_nothing() -> Result<()> {
    let scene = Scene::set("quota").await?;
    let namespace = scene.site.place.namespace.clone();
    let quotas: Api<ResourceQuota> = Api::namespaced(scene.site.admin.client.clone(), namespace.as_str());
    let none = json!({"count/secrets": "0", "count/rolebindings.rbac.authorization.k8s.io": "0"});
    let quota = json!({"metadata": {"name": "tight"}, "spec": {"hard": none}});
    quotas.create(&Default::default(), &serde_json::from_value(quota)?).await?;
    // Controllers would do this; here there are none.
    let status = json!({"status": {"hard": none, "used": none}});
    quotas.patch_status("tight", &PatchParams::default(), &Patch::Merge(status)).await?;
    for (role, act) in [(DEPLOY.name, "create secrets"), (RELEASE.name, "create rolebindings")] {
        let told = format!("a ResourceQuota leaves the issuer no room to {act} in namespace \"{namespace}\"");
        let error = wait::until("the quota to have effect", SETTLED, async || {
            Ok(match scene.runner.issue(&scene.job, role).await {
                Ok(issued) => {
                    scene.runner.release(&issued.lease.id).await?;
                    Seen::NotYet("a lease was issued".to_owned())
                }
                Err(error) => Seen::Ready(error),
            })
        })
        .await?;
        ensure!(error.reason() == Some(Reason::QuotaExceeded), "{error:?}");
        ensure!(error.retry_after().is_some() && error.to_string().contains(&told), "{error:?}");
        ensure!(!format!("{error:?}").contains("tight"), "the caller is told too much: {error:?}");
        let line = scene.line_of(&error)?;
        ensure!(
            line["explanation"].as_str().is_some_and(|said| said.contains("exceeded quota: tight")),
            "{line}"
        );
    }
    quotas.delete("tight", &Default::default()).await?;
    scene.nothing_is_left().await?;
    for role in [DEPLOY.name, RELEASE.name] {
        wait::until("the quota to be forgotten", SETTLED, async || {
            Ok(match scene.runner.issue(&scene.job, role).await {
                Ok(_) => Seen::Ready(()),
                Err(error) => Seen::NotYet(error.to_string()),
            })
        })
        .await?;
    }
    Ok(())
}

/// Also to an issuer that has not seen its policy there: nothing that it asks for gets as far as the policy.
#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_named() -> Result<()> {
    let mut scene = Scene::set("terminating").await?;
    let lease = scene.issue(DEPLOY.name).await?.lease.id;
    let namespace = scene.site.place.namespace.clone();
    let namespaces: Api<Namespace> = Api::all(scene.site.admin.client.clone());
    namespaces.delete(namespace.as_str(), &Default::default()).await?;
    let told = format!("namespace {namespace} is being deleted");
    let mut errors = Vec::new();
    for role in [DEPLOY.name, RELEASE.name] {
        errors.push(scene.refused_issue(role).await?);
    }
    errors.push(refused(scene.runner.refresh(&lease).await)?);
    // The probe of a start comes too late to see the policy.
    scene.issuer.kill()?;
    scene.issuer.run().await?;
    scene.runner.reset();
    errors.push(scene.refused_issue(DEPLOY.name).await?);
    for error in errors {
        ensure!(error.reason() == Some(Reason::NamespaceUnavailable), "{error:?}");
        ensure!(
            error.to_string().contains(&told) && error.to_string().contains("correct the role"),
            "{error}"
        );
    }
    scene.runner.release(&lease).await?;
    scene.nothing_is_left().await
}
