//! Two issuers of one name on one cluster: the second does not start, and says why; one that was killed is not waited for.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::site::Site;
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use shorepass_cluster::{CLAIM_EVERY, CLAIM_LASTS, CLAIM_WATCHED};
use shorepass_core::mint::CLOCK_TOLERANCE;
use shorepass_core::time::Timestamp;

/// For two renewals and a slow machine.
const NOTICED: Duration = Duration::from_secs(60);

fn leases(site: &Site) -> Api<Lease> {
    Api::namespaced(site.admin.client.clone(), site.identity.home.namespace.as_str())
}

async fn spec(site: &Site) -> Result<LeaseSpec> {
    leases(site).get(&site.identity.policy).await?.spec.context("a Lease without spec")
}

async fn change(site: &Site, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": spec}));
    leases(site).patch(&site.identity.policy, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn start(issuer: &IssuerUnderTest) -> Result<Done> {
    let mut command: Command = issuer.command(&["serve", "--config"]);
    Done::of(command.arg(issuer.config()))
}

async fn remark(issuer: &IssuerUnderTest, said: &str) -> Result<()> {
    wait::until("a remark about the issuer's name", NOTICED, async || {
        let ready = issuer.get("/readyz").await?;
        ensure!(ready.starts_with("HTTP/1.1 200"), "an issuer that runs is stopped: {ready}");
        Ok(if ready.contains(said) { Seen::Ready(()) } else { Seen::NotYet(ready) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_issuer_of_the_name_does_not_start_and_one_that_was_killed_does_at_once() -> Result<()> {
    let site = Site::new("second").await?;
    let mut first = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let holder = spec(&site).await?.holder_identity.context("nobody holds the name")?;
    let mut second = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let said = format!("another issuer of this name runs: {holder} holds its Lease until ");
    start(&second)?.failed(1, &[&said, "give this one another name (spec.issuer.name)"])?;
    ensure!(spec(&site).await?.holder_identity.as_ref() == Some(&holder), "the second has taken the name");

    // The claim is fresh, and its own: nothing is waited for.
    first.kill()?;
    first.run().await?;
    let again = spec(&site).await?;
    ensure!(again.holder_identity.as_ref() == Some(&holder), "{again:?}");
    let ready = first.get("/readyz").await?;
    ensure!(!ready.contains("coordination"), "it does not hold its name well: {ready}");

    // Killed for good: its claim expires. The time is moved rather than waited for.
    first.kill()?;
    start(&second)?.failed(1, &[&said])?;
    let past = Timestamp::now() - CLAIM_LASTS - CLOCK_TOLERANCE;
    change(&site, json!({"renewTime": format!("{past:.6}")})).await?;
    second.run().await?;
    let taken = spec(&site).await?;
    ensure!(taken.holder_identity.is_some_and(|other| other != holder), "the second holds nothing");

    // Stopped in order: nobody has to wait.
    ensure!(second.stop()?.success(), "it did not stop well");
    ensure!(spec(&site).await?.holder_identity.is_none(), "the name was not given up");
    first.run().await
}

/// A claim of another issuer, by its clock.
fn claim_of_another(at: Timestamp) -> Value {
    json!({"holderIdentity": "main/other", "renewTime": format!("{at:.6}"), "leaseDurationSeconds": CLAIM_LASTS.as_secs()})
}

#[tokio::test(flavor = "multi_thread")]
async fn another_issuer_whose_clock_is_behind_is_noticed_at_the_start() -> Result<()> {
    let site = Site::new("behind").await?;
    let issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    let its_clock = || Timestamp::now() - CLAIM_LASTS - Duration::from_secs(5);
    change(&site, claim_of_another(its_clock())).await?;
    let renewals = async {
        for _ in 0..CLAIM_WATCHED.as_secs() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            change(&site, claim_of_another(its_clock())).await?;
        }
        anyhow::bail!("it renewed for so long, and the other went on")
    };
    let mut command = issuer.command(&["serve", "--config"]);
    command.arg(issuer.config());
    let started = tokio::task::spawn_blocking(move || Done::of(&mut command));
    let done = tokio::select! {
        done = started => done??,
        renewed = renewals => return renewed,
    };
    done.failed(1, &["main/other held this issuer's name", "another issuer of this name runs: main/other"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_the_future_that_nobody_renews_keeps_nobody_out() -> Result<()> {
    let site = Site::new("ahead").await?;
    let mut issuer = IssuerUnderTest::prepare(&site, Knobs::default())?;
    change(&site, claim_of_another(Timestamp::now() + Duration::from_secs(3_600))).await?;
    issuer.launch()?;
    wait::until("the name", CLAIM_WATCHED * 2, async || {
        let found = spec(&site).await?.holder_identity;
        let taken = found.as_ref().is_some_and(|holder| holder != "main/other");
        Ok(if taken { Seen::Ready(()) } else { Seen::NotYet(issuer.log()) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_runs_says_who_else_has_its_name_and_goes_on() -> Result<()> {
    let site = Site::new("contested").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let holder = spec(&site).await?.holder_identity.context("nobody holds the name")?;
    // A copy of the state directory renews in the same name.
    let renewed = Timestamp::now() + Duration::from_secs(1);
    change(&site, json!({"renewTime": format!("{renewed:.6}")})).await?;
    remark(&issuer, "it runs on a copy of this state directory").await?;
    let renewed = Timestamp::now() + CLAIM_EVERY * 3;
    change(&site, json!({"holderIdentity": "main/other", "renewTime": format!("{renewed:.6}")})).await?;
    remark(&issuer, "another issuer of this name runs: main/other").await?;
    let metrics = issuer.get("/metrics").await?;
    let gauge = metrics.lines().find(|line| line.contains("issuer_name") && line.contains("contested"));
    ensure!(gauge.is_some_and(|line| line.ends_with(" 1")), "{gauge:?}");
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    platform.issue(&job, "deploy").await.context("it does not issue any more")?;
    // The other goes away: the name is taken back.
    wait::until("the name", NOTICED + CLAIM_LASTS, async || {
        let found = spec(&site).await?.holder_identity;
        Ok(if found.as_ref() == Some(&holder) { Seen::Ready(()) } else { Seen::NotYet(format!("{found:?}")) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_lease_an_issuer_starts_and_says_what_it_lacks() -> Result<()> {
    let site = Site::new("nolease").await?;
    leases(&site).delete(&site.identity.policy, &Default::default()).await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    remark(&issuer, "there is no Lease ").await?;
    remark(&issuer, "apply what `shorepass-issuer rbac` prints").await
}
