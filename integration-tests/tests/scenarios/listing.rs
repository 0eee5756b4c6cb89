//! An issuer that was given a credential for listing: it removes anchors that no record claims, and no others.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, RELEASE, Site};
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use shorepass_cluster::rbac::{IssuerIdentity, render_listing};
use shorepass_core::name::Name;

const LISTER: &str = "lister";
/// The shortest that can be configured.
pub(super) const GRACE: &str = "10s";
/// For the grace, a round of the same length and a slow machine.
const REMOVED: Duration = Duration::from_secs(90);

/// Gives a credential the rights that `rbac --listing` prints.
pub(super) async fn lister(site: &Site) -> Result<PathBuf> {
    let home = &site.identity.home;
    let identity =
        IssuerIdentity::ServiceAccount { namespace: home.namespace.clone(), name: Name::parse(LISTER)? };
    let rights = render_listing(site.granted(), &Name::parse("test")?, &identity, &site.identity.issuer)?;
    site.admin.apply(&rights)?;
    let token = home.token_of(LISTER).await?;
    site.admin.write_kubeconfig(site.identity.folder(), LISTER, &token)
}

pub(super) async fn gauge(issuer: &IssuerUnderTest, state: &str, count: u32) -> Result<()> {
    wait::until("the gauge of unclaimed anchors", REMOVED, async || {
        let metrics = issuer.get("/metrics").await?;
        let mut lines = metrics.lines().filter(|line| line.starts_with("shorepass_unclaimed_anchors{"));
        let found = lines.find(|line| line.contains(&format!("state=\"{state}\"")));
        let is_it = found.is_some_and(|line| line.ends_with(&format!(" {count}")));
        Ok(if is_it { Seen::Ready(()) } else { Seen::NotYet(format!("{found:?}\n{}", issuer.log())) })
    })
    .await
}

/// Puts an anchor back as it was: what a lost delete, or a mint that comes in late, leaves.
pub(super) async fn put_back(
    secrets: &Api<Secret>,
    anchor: &Secret,
    change: impl FnOnce(&mut ObjectMeta),
) -> Result<()> {
    let known = &anchor.metadata;
    let mut metadata = ObjectMeta {
        name: known.name.clone(),
        labels: known.labels.clone(),
        annotations: known.annotations.clone(),
        ..ObjectMeta::default()
    };
    change(&mut metadata);
    let back = Secret { metadata, type_: anchor.type_.clone(), ..Secret::default() };
    secrets.create(&PostParams::default(), &back).await?;
    Ok(())
}

async fn only(secrets: &Api<Secret>) -> Result<Secret> {
    let found = secrets.list(&Default::default()).await?.items;
    let mut anchors =
        found.into_iter().filter(|secret| secret.type_.as_deref() == Some("shorepass.dev/lease"));
    anchors.next().context("there is no anchor")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_no_record_claims_is_removed_and_one_without_our_mac_is_not() -> Result<()> {
    let site = Site::with_all("listing", &[DEPLOY], &[RELEASE]).await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let secrets = site.place.secrets();
    let ended = platform.issue(&job, "deploy").await?;
    let anchor = only(&secrets).await?;
    platform.release(&ended.lease.id).await?;
    let strict = platform.issue(&job, "release").await?;
    let strict_secrets = site.strict.as_ref().context("no strict namespace")?.secrets();
    let strict_anchor = only(&strict_secrets).await?;
    platform.release(&strict.lease.id).await?;
    let live = platform.issue(&job, "deploy").await?;
    let live_anchor = only(&secrets).await?.metadata.name;

    let knobs = Knobs { listing: Some((lister(&site).await?, GRACE)), ..Knobs::default() };
    issuer.reconfigure(&site, knobs)?;
    issuer.stop()?;
    // On a full disk: what it knows of before its start, it learns when there is room.
    issuer.run_without_room(1).await?;
    wait::until("the ledger to stay closed", Duration::from_secs(10), async || {
        let closed = issuer.log().contains("the ledger stays closed until there is room");
        Ok(if closed { Seen::Ready(()) } else { Seen::NotYet(issuer.log()) })
    })
    .await?;
    issuer.process()?.limit_files(None)?;
    issuer.is_ready().await?;
    put_back(&secrets, &anchor, |_| {}).await?;
    put_back(&strict_secrets, &strict_anchor, |_| {}).await?;
    // The same annotation under another name is somebody else's work.
    let copied = "shorepass-cccccccccccccccccccccccccc";
    put_back(&secrets, &anchor, |metadata| metadata.name = Some(copied.to_owned())).await?;
    gauge(&issuer, "unauthenticated", 1).await?;
    wait::until("the anchors to be removed", REMOVED, async || {
        let left = (
            secrets.get_opt(anchor.metadata.name.as_deref().unwrap_or_default()).await?,
            site.left_of_strict_leases().await?,
        );
        Ok(if left.0.is_none() && left.1.is_empty() {
            Seen::Ready(())
        } else {
            Seen::NotYet(format!("{left:?}\n{}", issuer.log()))
        })
    })
    .await?;
    gauge(&issuer, "waiting", 0).await?;
    ensure!(secrets.get_opt(copied).await?.is_some(), "an anchor without our MAC was removed");
    let name = live_anchor.context("an anchor without a name")?;
    ensure!(secrets.get_opt(&name).await?.is_some(), "the anchor of a live lease was removed");
    platform.reset();
    platform.refresh(&live.lease.id).await.context("the live lease is not well")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_store_is_empty_removes_nothing() -> Result<()> {
    let site = Site::new("emptied").await?;
    let mut issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    platform.issue(&job, "deploy").await?;
    let knobs = Knobs { listing: Some((lister(&site).await?, GRACE)), ..Knobs::default() };
    issuer.reconfigure(&site, knobs)?;
    issuer.stop()?;
    // All that is known of leases, and nothing else: as after a restore of the keys alone.
    for name in ["ledger", "audit.jsonl", "security.log", "MANIFEST"] {
        let path = issuer.state().join(name);
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    issuer.run().await?;
    gauge(&issuer, "adopted", 1).await?;
    tokio::time::sleep(Duration::from_secs(25)).await; // the grace and a round have passed
    gauge(&issuer, "adopted", 1).await?;
    only(&site.place.secrets()).await?;
    Ok(())
}
