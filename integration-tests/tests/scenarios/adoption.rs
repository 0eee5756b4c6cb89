//! An issuer whose records are gone: it adopts the leases that are in the cluster, and nothing that it did not seal itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use integration_tests::agent::{self, AgentUnderTest, as_operator};
use integration_tests::client::{Client, new_id, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::process::Done;
use integration_tests::scene::Scene;
use integration_tests::site::{DEPLOY, RELEASE, Site};
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use serde_json::Value;
use shorepass_proto::v1::{ErrorReason, LeaseSelector, RevokeOutcome};

use super::listing::{GRACE, gauge, lister, put_back};

/// What an anchor carries.
const ANNOTATION: &str = "shorepass.dev/lease";
/// For an agent to come for the next token, every two seconds, on a slow machine.
const REFRESHED: Duration = Duration::from_secs(60);

/// A runner that calls the API itself, with a bound and a strict lease.
struct Other {
    runner: Client,
    bound: String,
    strict: String,
}

impl Other {
    async fn begin(issuer: &IssuerUnderTest) -> Result<Self> {
        let runner = issuer.runner("test-2").await?;
        let job = runner.start_job().await?;
        let bound = runner.issue(&job, DEPLOY.name).await?.lease.id;
        let strict = runner.issue(&job, RELEASE.name).await?.lease.id;
        Ok(Self { runner, bound, strict })
    }
}

/// The anchor of a lease, by what an operator knows of it.
async fn anchor(issuer: &IssuerUnderTest, secrets: &Api<Secret>, lease: &str) -> Result<Secret> {
    let leases = issuer.operator()?.leases().await?;
    let named =
        leases.into_iter().find(|record| record.lease.as_ref().is_some_and(|found| found.id == lease));
    Ok(secrets.get(&named.context("no such lease")?.anchor).await?)
}

fn uid(secret: &Secret) -> String {
    secret.metadata.uid.clone().unwrap_or_default()
}

/// The same annotation for a lease of another name, which its MAC does not cover.
fn forge(annotation: &str, lease: &str) -> Result<String> {
    let mut parts = annotation.split('.');
    let (Some(version), Some(message), Some(mac)) = (parts.next(), parts.next(), parts.next()) else {
        anyhow::bail!("{annotation:?} is no annotation");
    };
    let mut message = BASE64URL_NOPAD.decode(message.as_bytes())?;
    let named = message.windows(lease.len()).position(|part| part == lease.as_bytes());
    let named = named.context("the annotation does not name its lease")?;
    message[named..named + lease.len()].copy_from_slice(new_id().as_bytes());
    Ok(format!("{version}.{}.{mac}", BASE64URL_NOPAD.encode(&message)))
}

/// Takes away what is known of leases. The security state stays in its copy.
fn lose_records(issuer: &IssuerUnderTest) -> Result<()> {
    std::fs::remove_dir_all(issuer.state().join("ledger"))?;
    Ok(std::fs::remove_file(issuer.audit_file())?)
}

/// Until the agent has had a token of its lease from the issuer that adopted it.
async fn recognised(scene: &Scene, lease: &str) -> Result<()> {
    wait::until("a token of the adopted lease", REFRESHED, async || {
        let lines = scene.issuer.audit()?;
        let known = |line: &Value| line["event"] == "lease.recognised" && line["lease"] == lease;
        Ok(if lines.iter().any(known) { Seen::Ready(()) } else { Seen::NotYet(scene.issuer.log()) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_whose_records_are_gone_are_adopted_and_stay_their_owners() -> Result<()> {
    let site = Site::with_all("adoption", &[DEPLOY], &[RELEASE]).await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let knobs = agent::Knobs { max_age: Some("2s"), ..agent::Knobs::default() };
    let agent = AgentUnderTest::start(&issuer, "test-1", knobs).await?;
    let mut scene = Scene { agent, issuer, site };
    Done::of(&mut scene.request()?)?.succeeded()?;
    let own = scene.only_lease()?["id"].as_str().context("no id")?.to_owned();
    let own_anchor = scene.only_anchor().await?;
    let other = Other::begin(&scene.issuer).await?;
    let secrets = scene.site.place.secrets();
    let others_anchor = anchor(&scene.issuer, &secrets, &other.bound).await?;

    scene.issuer.reconfigure(
        &scene.site,
        Knobs { listing: Some((lister(&scene.site).await?, GRACE)), ..Knobs::default() },
    )?;
    scene.issuer.stop()?;
    lose_records(&scene.issuer)?;
    let copied = "shorepass-dddddddddddddddddddddddddd";
    put_back(&secrets, &others_anchor, |metadata| metadata.name = Some(copied.to_owned())).await?;
    let forged = "shorepass-eeeeeeeeeeeeeeeeeeeeeeeeee";
    let annotation = others_anchor.metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    let annotation = forge(annotation.context("an anchor without annotation")?, &other.bound)?;
    put_back(&secrets, &others_anchor, |metadata| {
        metadata.name = Some(forged.to_owned());
        metadata.annotations = Some([(ANNOTATION.to_owned(), annotation)].into());
    })
    .await?;
    scene.issuer.run().await?;

    recognised(&scene, &own).await?;
    Done::of(&mut scene.request()?)?.succeeded()?;
    other.runner.reset();
    let foreign = refused(other.runner.refresh(&own).await)?;
    ensure!(foreign.reason() == Some(ErrorReason::LeaseNotAvailable), "{foreign:?}");
    let bound = other.runner.refresh(&other.bound).await.context("its own lease")?;
    ensure!(bound.lease.adopted && bound.lease.job_id.is_empty(), "{:?}", bound.lease);
    let strict = other.runner.refresh(&other.strict).await.context("its own strict lease")?;
    let own_client = scene.site.admin.client_with(&scene.token()?).await?;
    let bound_client = scene.site.admin.client_with(&bound.credential.token).await?;
    let strict_client = scene.site.admin.client_with(&strict.credential.token).await?;
    for client in [&own_client, &bound_client, &strict_client] {
        ensure!(who_am_i(client).await?.is_some(), "a token of an adopted lease is refused");
    }
    ensure!(scene.leases()?.len() == 3, "nobody got another lease: {:?}", scene.leases()?);
    let same = uid(&anchor(&scene.issuer, &secrets, &other.bound).await?) == uid(&others_anchor);
    ensure!(same && scene.anchors().await?.contains(&own_anchor), "an anchor was made anew");
    let shown = as_operator(&scene.issuer, &["lease", "show", &other.bound])?.succeeded()?;
    ensure!(shown.contains("made again from its anchor") && shown.contains("/runner/test-2"), "{shown}");

    // Of a runner that is known again by its enrolment.
    let of_other = LeaseSelector { caller: other.runner.spiffe_id.to_string(), ..LeaseSelector::default() };
    let steps = scene.issuer.operator()?.revoke(of_other).await?;
    ensure!(
        steps.len() == 2 && steps.iter().all(|step| step.outcome() == RevokeOutcome::Revoked),
        "{steps:?}"
    );
    for client in [&bound_client, &strict_client] {
        is_refused_for_good(client).await?;
    }
    ensure!(scene.site.left_of_strict_leases().await?.is_empty(), "something is left of the strict lease");
    let names: Vec<_> = scene.anchors().await?.into_iter().map(|(name, _)| name).collect();
    let mut left = [own_anchor.0.as_str(), copied, forged];
    left.sort_unstable();
    ensure!(names == left, "{names:?}");
    gauge(&scene.issuer, "unauthenticated", 2).await?;
    gauge(&scene.issuer, "adopted", 1).await?;
    Done::of(&mut scene.request()?)?.succeeded()?;
    Ok(())
}
