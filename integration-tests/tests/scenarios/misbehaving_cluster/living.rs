//! What befalls a lease that lives: it is learnt at its next refresh, or when it is deleted.

use anyhow::{Context, Result, ensure};
use integration_tests::client::refused;
use integration_tests::proxy::{Answer, Fault, Target};
use integration_tests::site::{DEPLOY, RELEASE};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use shorepass_proto::v1::{ErrorReason as Reason, LeaseState};

use super::{REPLACED, Scene};

#[tokio::test]
async fn a_lease_whose_anchor_somebody_deleted_ends_at_its_next_refresh() -> Result<()> {
    let scene = Scene::set("anchorless").await?;
    for role in [DEPLOY.name, RELEASE.name] {
        let lease = scene.issue(role).await?.lease.id;
        let anchor = scene.anchor_of(&lease)?;
        let here = if role == RELEASE.name { scene.site.strict.as_ref() } else { Some(&scene.site.place) };
        here.context("no namespace")?.secrets().delete(&anchor, &Default::default()).await?;
        let error = refused(scene.runner.refresh(&lease).await)?;
        ensure!(error.reason() == Some(Reason::LeaseEnded), "{error:?}");
        ensure!(error.to_string().contains("deleted by somebody else: ask for a new lease"), "{error}");
        scene.ended(&lease).await?;
        scene.ensure_ending(&lease, "lost its anchor: somebody deleted the Secret")?;
        scene.works_again(role).await?;
    }
    scene.nothing_is_left().await
}

#[tokio::test]
async fn a_lease_whose_service_account_was_replaced_ends_at_its_next_refresh() -> Result<()> {
    let scene = Scene::set("accountless").await?;
    let lease = scene.issue(REPLACED.name).await?.lease.id;
    let accounts = scene.site.place.service_accounts();
    accounts.delete(REPLACED.service_account, &Default::default()).await?;
    scene.site.place.service_account(REPLACED.service_account).await?;
    let error = refused(scene.runner.refresh(&lease).await)?;
    ensure!(error.reason() == Some(Reason::ServiceAccountReplaced), "{error:?}");
    ensure!(error.to_string().contains("ask for a new lease"), "{error}");
    scene.ended(&lease).await?;
    scene.ensure_ending(&lease, "its ServiceAccount was deleted or replaced")?;
    scene.works_again(REPLACED.name).await?;
    scene.nothing_is_left().await
}

/// The object comes back with the answer to its delete, here with more content than any answer may have: none of it is read.
#[tokio::test]
async fn an_anchor_that_a_finalizer_holds_is_told_by_its_name_until_it_is_gone() -> Result<()> {
    let scene = Scene::set("held").await?;
    let lease = scene.issue(DEPLOY.name).await?.lease.id;
    let anchor = scene.anchor_of(&lease)?;
    let secrets = scene.site.place.secrets();
    let hold = json!({
        "metadata": {"finalizers": ["example.org/hold"]},
        "stringData": {"filled": "x".repeat(1_000_000)},
    });
    secrets.patch(&anchor, &PatchParams::default(), &Patch::Merge(hold)).await?;
    let released = scene.runner.release(&lease).await?;
    ensure!(released.state() == LeaseState::Ending, "{released:?}");
    let told = format!(
        "a finalizer holds the anchor: remove it from Secret {}/{anchor}",
        scene.site.place.namespace
    );
    ensure!(scene.issuer.log().contains(&told), "the operator is not told: {}", scene.issuer.log());
    let release = json!({"metadata": {"finalizers": null}});
    secrets.patch(&anchor, &PatchParams::default(), &Patch::Merge(release)).await?;
    scene.ended(&lease).await?;
    scene.nothing_is_left().await
}

/// What does not say that this anchor is gone ends no lease: it is told, the delete is sent again, and works in the end.
#[tokio::test]
async fn a_delete_whose_answer_is_about_something_else_is_no_end() -> Result<()> {
    let scene = Scene::set("misled").await?;
    let unserved = Answer {
        status: 404,
        reason: "NotFound",
        message: "the server could not find the requested resource",
        retry_after: None,
    };
    let namespace = r#"{"kind":"Status","status":"Failure","reason":"NotFound","code":404,
        "details":{"name":"x","kind":"namespaces"}}"#;
    let another = r#"{"kind":"Status","status":"Success",
        "details":{"name":"x","kind":"secrets","uid":"67835ba9-fa63-4d7a-9660-0f4187e46fda"}}"#;
    for role in [DEPLOY.name, RELEASE.name] {
        for fault in [
            Fault::Answer(unserved),
            Fault::Say(404, namespace),
            Fault::Say(200, another),
            Fault::Say(202, r#"{"kind":"Status","status":"Success"}"#),
            Fault::Say(200, "<html>welcome</html>"),
        ] {
            let lease = scene.issue(role).await?.lease.id;
            let fault = scene.proxy.fault(Target::Cuts, fault);
            let released = scene.runner.release(&lease).await?;
            ensure!(released.state() == LeaseState::Ending, "{released:?}");
            let anchor = scene.anchor_of(&lease)?;
            let log = scene.issuer.log();
            let told = |line: &str| line.contains(&anchor) && line.contains("does not say that it is gone");
            ensure!(log.lines().any(told), "the operator is not told: {log}");
            drop(fault);
            scene.ended(&lease).await?;
        }
    }
    scene.nothing_is_left().await
}

/// Who ends a job over a cluster that hangs is answered, however many leases it has, and they end when the cluster is back.
#[tokio::test]
async fn the_end_of_a_job_is_acknowledged_while_the_cluster_hangs() -> Result<()> {
    const LEASES: usize = 70;
    let scene = Scene::set("job-hangs").await?;
    let job = scene.runner.start_job().await?;
    let mut leases = Vec::new();
    for _ in 0..LEASES {
        leases.push(scene.runner.issue(&job, DEPLOY.name).await?.lease.id);
    }
    let fault = scene.proxy.fault(Target::Cuts, Fault::Hang);
    let ended = scene.runner.end_job(&job).await?;
    assert_eq!(ended.len(), LEASES);
    let not_ending = ended.iter().find(|lease| lease.state() != LeaseState::Ending);
    ensure!(not_ending.is_none(), "{not_ending:?}");
    drop(fault);
    for lease in &leases {
        scene.ended(lease).await?;
    }
    scene.nothing_is_left().await
}

/// A refresh that fails leaves the lease as it is, and works when the cluster does.
#[tokio::test]
async fn a_refresh_that_fails_costs_no_lease() -> Result<()> {
    let scene = Scene::set("unrefreshed").await?;
    let failure =
        Answer { status: 500, reason: "InternalError", message: "etcd is on fire", retry_after: None };
    for role in [DEPLOY.name, RELEASE.name] {
        let lease = scene.issue(role).await?.lease.id;
        let faults = [
            (Fault::Answer(failure), Reason::ClusterUnreachable),
            (Fault::Truncate, Reason::ClusterUnreachable),
            (Fault::change(|answer| answer["status"]["token"] = json!("")), Reason::ClusterAnswerRejected),
        ];
        for (fault, reason) in faults {
            let fault = scene.proxy.fault(Target::Tokens, fault);
            let error = refused(scene.runner.refresh(&lease).await)?;
            ensure!(error.reason() == Some(reason), "{error:?}");
            drop(fault);
            let refreshed = scene.runner.refresh(&lease).await?;
            ensure!(refreshed.lease.state() == LeaseState::Active, "{:?}", refreshed.lease);
        }
        scene.runner.release(&lease).await?;
    }
    scene.nothing_is_left().await
}

impl Scene {
    fn anchor_of(&self, lease: &str) -> Result<String> {
        let line = self.issuer.audit()?.into_iter().find(|line| line["lease"] == lease);
        let anchor = line.and_then(|line| line["anchor"].as_str().map(str::to_owned));
        anchor.context("the audit file names no anchor")
    }
}
