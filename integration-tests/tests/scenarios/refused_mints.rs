//! Mints that fail: each cause is told apart, and nothing is minted where the policy was not seen.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use integration_tests::admin::{Admin, Place, write_private};
use integration_tests::decisions::{Decisions, call, role};
use integration_tests::issuer_identity::InstalledIssuer;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use shorepass_cluster::{Connection, KubeCluster};
use shorepass_core::cluster::{Cluster, MintError};
use shorepass_core::lease::Lease;
use shorepass_core::mint::Lie;
use shorepass_core::name::Name;
use shorepass_core::time::Clock;
use shorepass_daemon::clock::SystemClock;

const ANNOTATION: &str = "v1.record.mac";
const LIFE: Duration = Duration::from_secs(600);

struct Scene {
    admin: Admin,
    place: Place,
    /// A namespace in which the issuer has no rights.
    elsewhere: Place,
    issuer: InstalledIssuer,
    cluster: KubeCluster,
    decisions: Decisions,
}

/// The issuer has the rights for role `deploy` alone; the decisions know more roles.
async fn scene() -> Result<Scene> {
    let admin = Admin::connect().await?;
    let cluster = Name::parse("test")?;
    let place = admin.place("refused").await?;
    let elsewhere = admin.place("elsewhere").await?;
    for (place, account) in [(&place, "deployer"), (&place, "other"), (&elsewhere, "deployer")] {
        place.service_account(account).await?;
    }
    let granted = [role("deploy", &cluster, &place.namespace, "deployer", LIFE)?];
    let issuer = InstalledIssuer::install(&admin, &granted, &cluster).await?;
    let [deploy] = granted;
    let decisions = Decisions::new(vec![
        deploy,
        role("longer", &cluster, &place.namespace, "deployer", LIFE * 2)?,
        role("other", &cluster, &place.namespace, "other", LIFE)?,
        role("elsewhere", &cluster, &elsewhere.namespace, "deployer", LIFE)?,
    ])?;
    let cluster = issuer.connect().await?;
    Ok(Scene { admin, place, elsewhere, issuer, cluster, decisions })
}

impl Scene {
    async fn refused(&self, cluster: &KubeCluster, role: &str) -> Result<MintError> {
        let order = self.decisions.order(role, Some(LIFE * 2))?;
        match cluster.mint(&order, ANNOTATION, &call()).await {
            Err(error) => Ok(error),
            Ok(_) => bail!("a token was minted for role {role}"),
        }
    }

    async fn active_lease(&self) -> Result<Lease> {
        let order = self.decisions.order("deploy", None)?;
        let minted = self.cluster.mint(&order, ANNOTATION, &call()).await?;
        Ok(order.verify(minted, SystemClock.now())?.lease().clone())
    }

    async fn refused_refresh(&self, lease: &Lease) -> Result<MintError> {
        let order = self.decisions.refresh(lease)?;
        self.cluster.mint(&order, ANNOTATION, &call()).await.err().context("a token was minted")
    }

    /// The same issuer with another credential.
    async fn with_token(&self, token: &str) -> Result<KubeCluster> {
        let kubeconfig = self.admin.write_kubeconfig(self.issuer.folder(), "other", token)?;
        self.issuer.connect_with(Connection { kubeconfig, ..self.issuer.connection() }).await
    }

    async fn secrets_here(&self) -> Result<usize> {
        Ok(self.place.secrets().list(&ListParams::default()).await?.items.len())
    }
}

#[tokio::test]
async fn a_service_account_that_is_not_there_is_named() -> Result<()> {
    let scene = scene().await?;
    scene.place.service_accounts().delete("deployer", &DeleteParams::default()).await?;
    let namespace = scene.place.namespace.to_string();
    let missing = MintError::ServiceAccountMissing { namespace, name: "deployer".to_owned() };
    assert_eq!(scene.refused(&scene.cluster, "deploy").await?, missing);
    Ok(())
}

#[tokio::test]
async fn a_recreated_service_account_gets_no_token_of_the_old_lease() -> Result<()> {
    let scene = scene().await?;
    let lease = scene.active_lease().await?;
    scene.place.service_accounts().delete("deployer", &DeleteParams::default()).await?;
    scene.place.service_account("deployer").await?;
    let order = scene.decisions.refresh(&lease)?;
    match scene.cluster.mint(&order, ANNOTATION, &call()).await {
        Err(error) => assert!(matches!(error, MintError::ServiceAccountReplaced { .. }), "{error}"),
        // Before 1.34 the API server does not look at the pinned UID, so the check of the answer has to.
        Ok(minted) => {
            assert!(!scene.admin.environment.is_at_least(34), "the pin was ignored");
            let rejected = order.verify(minted, SystemClock.now()).err().context("it was believed")?;
            assert!(matches!(rejected.lie, Lie::ServiceAccountUid), "{rejected}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_anchor_is_told_from_a_lost_service_account() -> Result<()> {
    let scene = scene().await?;
    let lease = scene.active_lease().await?;
    let name = lease.anchor.as_str();
    scene.place.secrets().delete(name, &DeleteParams::default()).await?;
    assert_eq!(scene.refused_refresh(&lease).await?, MintError::AnchorLost);

    let forged = serde_json::from_value(json!({"metadata": {"name": name}, "type": "shorepass.dev/lease"}))?;
    scene.place.secrets().create(&Default::default(), &forged).await?;
    assert_eq!(scene.refused_refresh(&lease).await?, MintError::AnchorLost);
    Ok(())
}

#[tokio::test]
async fn a_missing_right_is_named() -> Result<()> {
    let scene = scene().await?;
    let rule = format!("create serviceaccounts/token \"other\" in namespace \"{}\"", scene.place.namespace);
    assert_eq!(scene.refused(&scene.cluster, "other").await?, MintError::Forbidden { rule });
    let rule = format!("create secrets in namespace \"{}\"", scene.elsewhere.namespace);
    assert_eq!(scene.refused(&scene.cluster, "elsewhere").await?, MintError::ForbiddenToBegin { rule });
    Ok(())
}

#[tokio::test]
async fn roles_that_the_policy_does_not_know_yet_are_told_as_that() -> Result<()> {
    let scene = scene().await?;
    let error = scene.refused(&scene.cluster, "longer").await?;
    let MintError::Forbidden { rule } = &error else { bail!("{error}") };
    assert!(rule.contains(&scene.issuer.policy) && rule.contains("shorepass-issuer rbac"), "{rule}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_minted_without_the_policy() -> Result<()> {
    let scene = scene().await?;
    let twin = scene.issuer.twin(&scene.admin, &[&scene.place.namespace]).await?;
    let unguarded = scene.with_token(&twin).await?;
    let missing = MintError::PolicyMissing { namespace: scene.place.namespace.to_string() };
    for _ in 0..2 {
        assert_eq!(scene.refused(&unguarded, "deploy").await?, missing);
    }
    assert_eq!(scene.secrets_here().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_refused_credential_is_the_issuers_own_problem() -> Result<()> {
    let scene = scene().await?;
    let stranger = scene.with_token("nobody").await?;
    let error = scene.refused(&stranger, "deploy").await?;
    let MintError::Unreachable { cause, .. } = &error else { bail!("{error}") };
    assert!(cause.contains("issuer's own credential (401)") && !cause.contains("kubeconfig"), "{cause}");
    assert!(!cause.contains("nobody"), "{cause}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_down_is_unreachable() -> Result<()> {
    let scene = scene().await?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let text = std::fs::read_to_string(&scene.issuer.kubeconfig)?;
    let server =
        text.split("server: '").nth(1).and_then(|rest| rest.split('\'').next()).context("no server")?;
    let kubeconfig = scene.issuer.folder().join("down.kubeconfig");
    write_private(&kubeconfig, &text.replace(server, &format!("https://127.0.0.1:{port}")))?;
    let down = scene.issuer.connect_with(Connection { kubeconfig, ..scene.issuer.connection() }).await?;
    let error = scene.refused(&down, "deploy").await?;
    let MintError::Unreachable { cause, .. } = &error else { bail!("{error}") };
    assert!(cause.contains("Connection refused"), "{cause}");
    Ok(())
}
