//! The issuer's CA is followed by another one while an agent runs and a job works.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::agent;
use integration_tests::client::{self, Client};
use integration_tests::issuer::{self, TRUST_DOMAIN};
use integration_tests::job::Job;
use integration_tests::process::Done;
use integration_tests::raw::RawClient;
use integration_tests::scene::Scene;
use integration_tests::wait::{self, Seen};
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_proto::v1::ListRolesRequest;
use shorepass_rpc::client::ApiClient;
use shorepass_testing::certificates::{Subject, TestCa};
use shorepass_tls::{Identity, JoinTokenText};

/// The overlap, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_ca_is_followed_by_an_agent_that_runs_and_what_it_has_signed_ends_with_the_overlap()
-> Result<()> {
    let knobs = issuer::Knobs { certificates: "30s", ..issuer::Knobs::default() };
    let agent = agent::Knobs { max_age: Some("2s"), ..agent::Knobs::default() };
    let scene = Scene::with("rotation", knobs, agent).await?;
    let issuer = &scene.issuer;
    let job = Job::start(&scene.request()?, Duration::from_millis(200));
    job.goes_on(1).await?;
    let anchor = scene.only_anchor().await?;
    let earlier = issuer.join_token("test-3", false).await?;
    // A platform whose certificate would outlive all of this.
    let [ca_pem, key_pem] =
        ["ca.pem", "ca.key"].map(|name| std::fs::read_to_string(issuer.state().join(name)));
    let former = TestCa::from_pem(&ca_pem?, &key_pem?);
    let now = SystemClock.now();
    let pair = former.client(&Subject {
        spiffe_id: SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/platform/test-old"))?,
        enrolment: EnrolmentId::generate(now, &SystemEntropy),
        now,
    });
    let old = Client::new(issuer, &Identity::parse(pair.identity_pem(former.certificate_pem()).as_bytes())?)?;
    let roles = || old.call(ApiClient::list_roles, ListRolesRequest::default());
    roles().await?;

    let mut rotate = issuer.command(&["ca", "rotate", "--announce", "0s", "--overlap", "30s", "--config"]);
    let told = Done::of(rotate.arg(issuer.config()))?.succeeded()?;
    ensure!(told.contains("the former CA is trusted until"), "{told}");
    wait::until("the next CA to sign", PATIENCE, async || {
        let log = issuer.log();
        Ok(if log.contains("the next one signs") { Seen::Ready(()) } else { Seen::NotYet(log) })
    })
    .await?;
    let later = issuer.join_token("test-4", false).await?;
    ensure!(JoinTokenText::parse(&later)?.ca() != JoinTokenText::parse(&earlier)?.ca(), "the same CA");
    for (join_token, name) in [(&earlier, "test-3"), (&later, "test-4")] {
        client::enroll(issuer, join_token, name).await.with_context(|| format!("{name} did not enrol"))?;
    }
    old.reset();
    roles().await.context("who knows the former CA alone does not find the way")?;

    wait::until("the end of the overlap", PATIENCE, async || {
        let ready = issuer.get("/readyz").await?;
        let over = issuer.log().contains("the CA is alone") && !ready.contains("being rotated");
        Ok(if over { Seen::Ready(()) } else { Seen::NotYet(ready) })
    })
    .await?;
    let bundle = std::fs::read_to_string(issuer.state().join("ca.pem"))?;
    ensure!(bundle != former.certificate_pem(), "ca.pem is the former CA's");
    let alert = RawClient::new(&bundle, Some(pair)).alert(issuer.addresses().api).await?;
    ensure!(alert == 48, "alert {alert} and not unknown_ca");
    ensure!(roles().await.is_err(), "the connection of who came by the former CA is open");

    // The agent is known by the next CA, and has lost nothing.
    let renewals = scene.agent.log().matches("certificate renewed").count();
    ensure!(renewals >= 1, "the agent has renewed nothing");
    job.goes_on(2).await?;
    scene.token()?;
    job.end_well()?;
    assert_eq!(scene.only_anchor().await?, anchor);
    Ok(())
}
