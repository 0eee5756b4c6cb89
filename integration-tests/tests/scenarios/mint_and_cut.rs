//! The life of an anchor: minted on, refreshed, cut, and what the cluster keeps of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::admin::{Admin, Place};
use integration_tests::audit_log::AuditLog;
use integration_tests::decisions::{Decisions, call, role};
use integration_tests::issuer_identity::InstalledIssuer;
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use shorepass_cluster::KubeCluster;
use shorepass_core::cluster::{Cluster, CutError};
use shorepass_core::id::CallId;
use shorepass_core::lease::{Lease, State};
use shorepass_core::mint::Minted;
use shorepass_core::name::Name;
use shorepass_core::time::{Clock, until};
use shorepass_daemon::clock::SystemClock;

const ANNOTATION: &str = "v1.record.mac";
const LIFE: Duration = Duration::from_secs(1200);

struct Scene {
    admin: Admin,
    place: Place,
    issuer: InstalledIssuer,
    cluster: KubeCluster,
    decisions: Decisions,
}

async fn scene() -> Result<Scene> {
    let admin = Admin::connect().await?;
    let cluster = Name::parse("test")?;
    let place = admin.place("mint").await?;
    place.service_account("deployer").await?;
    let roles = vec![role("deploy", &cluster, &place.namespace, "deployer", LIFE)?];
    let issuer = InstalledIssuer::install(&admin, &roles, &cluster).await?;
    let cluster = issuer.connect().await?;
    Ok(Scene { admin, place, issuer, cluster, decisions: Decisions::new(roles)? })
}

impl Scene {
    /// A new lease with its first token. The answer is given back beside the check of its copy's claims.
    async fn mint(&self) -> Result<(Lease, String, String)> {
        self.mint_for(&call()).await
    }

    async fn mint_for(&self, call: &CallId) -> Result<(Lease, String, String)> {
        let order = self.decisions.order("deploy", Some(LIFE))?;
        let minted = self.cluster.mint(&order, ANNOTATION, call).await?;
        let (token, jti) = seen(&minted);
        let verified = order.verify(minted, SystemClock.now())?;
        Ok((verified.lease().clone(), token, jti))
    }

    fn anchor<'a>(&self, lease: &'a Lease) -> &'a str {
        lease.anchor.as_str()
    }

    async fn cut(&self, lease: &Lease) -> Result<(), CutError> {
        self.cluster.cut(lease).await
    }
}

fn seen(minted: &Minted) -> (String, String) {
    (minted.token.expose().to_owned(), minted.claims.jti.clone())
}

#[tokio::test]
async fn all_tokens_of_a_lease_share_its_anchor_and_die_with_it() -> Result<()> {
    let scene = scene().await?;
    let (lease, first, _) = scene.mint().await?;
    let order = scene.decisions.refresh(&lease)?;
    let minted = scene.cluster.mint(&order, ANNOTATION, &call()).await?;
    let (second, _) = seen(&minted);
    let claims = minted.claims.clone();
    let lease = order.verify(minted, SystemClock.now())?.lease().clone();

    let pins = lease.pins().context("the lease is active")?;
    assert_eq!(claims.secret_uid, pins.anchor_uid);
    let clients = [scene.admin.client_with(&first).await?, scene.admin.client_with(&second).await?];
    let account = format!("system:serviceaccount:{}:deployer", scene.place.namespace);
    for client in &clients {
        let user = who_am_i(client).await?.context("a fresh token is refused")?;
        assert_eq!(user.username.as_deref(), Some(account.as_str()));
    }

    scene.cut(&lease).await?;
    for client in &clients {
        is_refused_for_good(client).await?;
    }
    scene.cut(&lease).await.context("what is gone is cut")?;
    Ok(())
}

#[tokio::test]
async fn an_anchor_is_an_empty_secret_that_says_whose_it_is() -> Result<()> {
    let scene = scene().await?;
    let (lease, ..) = scene.mint().await?;
    let anchor = scene.place.secrets().get(scene.anchor(&lease)).await?;
    assert_eq!(anchor.type_.as_deref(), Some("shorepass.dev/lease"));
    assert!(anchor.data.is_none_or(|data| data.is_empty()));
    assert!(anchor.metadata.finalizers.is_none());
    let labels = anchor.metadata.labels.unwrap_or_default();
    assert_eq!(labels.get("app.kubernetes.io/managed-by").map(String::as_str), Some("shorepass"));
    assert_eq!(labels.get("shorepass.dev/issuer").map(String::as_str), Some(scene.issuer.issuer.as_str()));
    let annotations = anchor.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("shorepass.dev/lease").map(String::as_str), Some(ANNOTATION));
    Ok(())
}

#[tokio::test]
async fn the_answer_tells_the_life_that_was_granted() -> Result<()> {
    let scene = scene().await?;
    let order = scene.decisions.order("deploy", Some(LIFE))?;
    let minted = scene.cluster.mint(&order, ANNOTATION, &call()).await?;
    let life = until(minted.created, minted.expires);
    ensure!(life <= LIFE && life + Duration::from_secs(1) >= LIFE, "{life:?}");
    ensure!(
        minted.spent > Duration::ZERO && minted.spent < shorepass_cluster::MINT_DEADLINE,
        "{:?}",
        minted.spent
    );
    assert_eq!(minted.audiences, minted.claims.audiences);
    Ok(())
}

#[tokio::test]
async fn the_clusters_audit_log_links_request_lease_and_token() -> Result<()> {
    let scene = scene().await?;
    let call = call();
    let (lease, _, jti) = scene.mint_for(&call).await?;
    let id = lease.id.to_string();
    let log = AuditLog::open(&scene.admin.environment);
    let anchor = log
        .wait_for("the anchor in the audit log", |event| {
            event["objectRef"]["name"] == scene.anchor(&lease) && event["verb"] == "create"
        })
        .await?;
    let event = log
        .wait_for("the TokenRequest in the audit log", |event| {
            event["objectRef"]["subresource"] == "token"
                && event["objectRef"]["namespace"] == scene.place.namespace.as_str()
        })
        .await?;
    let agent = format!("shorepass-issuer/{} lease/{id} request/{call}", env!("CARGO_PKG_VERSION"));
    for event in [&anchor, &event] {
        assert_eq!(event["userAgent"], agent.as_str());
    }
    let annotations = &event["annotations"];
    assert_eq!(annotations[format!("{}/lease-id", scene.issuer.policy)], id.as_str());
    assert_eq!(
        annotations["authentication.kubernetes.io/issued-credential-id"],
        format!("JTI={jti}").as_str()
    );
    Ok(())
}

#[tokio::test]
async fn an_anchor_held_by_a_finalizer_is_not_cut_until_it_is_released() -> Result<()> {
    let scene = scene().await?;
    let (lease, ..) = scene.mint().await?;
    let finalizers = |value| Patch::Merge(json!({"metadata": {"finalizers": value}}));
    let name = scene.anchor(&lease);
    let secrets = scene.place.secrets();
    secrets.patch(name, &PatchParams::default(), &finalizers(json!(["example.org/hold"]))).await?;

    let held = Err(CutError::HeldByFinalizer(format!("{}/{name}", scene.place.namespace)));
    assert_eq!(scene.cut(&lease).await, held);
    assert_eq!(scene.cut(&lease).await, held);

    secrets.patch(name, &PatchParams::default(), &finalizers(json!(null))).await?;
    assert_eq!(scene.cut(&lease).await, Ok(()));
    assert!(secrets.get_opt(name).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_label_that_a_job_took_away_does_not_save_its_lease() -> Result<()> {
    let scene = scene().await?;
    let (lease, ..) = scene.mint().await?;
    let bare =
        Patch::Merge(json!({"metadata": {"labels": null, "annotations": null}, "data": {"k": "dg=="}}));
    scene.place.secrets().patch(scene.anchor(&lease), &PatchParams::default(), &bare).await?;
    assert_eq!(scene.cut(&lease).await, Ok(()));
    assert!(scene.place.secrets().get_opt(scene.anchor(&lease)).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_no_lease_is_not_cut() -> Result<()> {
    let scene = scene().await?;
    let (lease, ..) = scene.mint().await?;
    let name = scene.anchor(&lease);
    let secrets = scene.place.secrets();
    secrets.delete(name, &DeleteParams::default()).await?;
    let foreign = serde_json::from_value(json!({"metadata": {"name": name}, "type": "Opaque"}))?;
    let made = secrets.create(&Default::default(), &foreign).await?.metadata.uid;
    // The lease's own is gone, as its UID says.
    scene.cut(&lease).await?;
    // Of one that never became active no UID is known: the policy looks at what is there.
    let pending = Lease { state: State::Pending, ..lease.clone() };
    let outcome = scene.cut(&pending).await;
    assert!(
        matches!(&outcome, Err(CutError::Forbidden(said)) if said.contains(&scene.issuer.policy)),
        "{outcome:?}"
    );
    assert_eq!(secrets.get(name).await?.metadata.uid, made);
    Ok(())
}
