//! Certificates that live half a minute: renewed and exchanged under load, refused when they are over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::client::{self, Client, refused};
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::job::Job;
use integration_tests::raw::RawClient;
use integration_tests::scene::Scene;
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::is_refused_for_good;
use integration_tests::wait::{self, Seen};
use shorepass_core::time::{Clock as _, Timestamp};
use shorepass_daemon::clock::SystemClock;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::v1::{ErrorReason, ListRolesRequest, RenewRequest};
use shorepass_rpc::client::ApiClient;
use shorepass_tls::{Identity, KeyAndRequest};

/// Three renewals of an agent take at most 45 s; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// A runner that renews its certificate and makes every call over a new connection.
struct Runner {
    client: Client,
    renewed: Instant,
}

impl Runner {
    async fn enrol(issuer: &IssuerUnderTest, name: &str) -> Result<(Self, Timestamp)> {
        let join_token = issuer.join_token(name, false).await?;
        let identity = client::enroll(issuer, &join_token, name).await?;
        let runner = Self { client: Client::new(issuer, &identity)?, renewed: Instant::now() };
        Ok((runner, identity.expires()))
    }

    async fn call(&mut self, issuer: &IssuerUnderTest) -> Result<()> {
        if self.renewed.elapsed() > Duration::from_secs(8) {
            let made = KeyAndRequest::generate(&self.client.spiffe_id)?;
            let request = RenewRequest { certificate_request_pem: made.request_pem };
            let answer = self.client.call(ApiClient::renew, request).await?;
            let identity = Identity::new(made.key, &answer.certificate_chain_pem, &answer.trust_bundle_pem)?;
            *self = Self { client: Client::new(issuer, &identity)?, renewed: Instant::now() };
        }
        self.client.reset();
        self.client.call(ApiClient::list_roles, ListRolesRequest::default()).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_and_exchanged_under_load_without_a_failed_call() -> Result<()> {
    let issuer = issuer::Knobs { certificates: "30s", ..issuer::Knobs::default() };
    let agent = agent::Knobs { max_age: Some("2s"), ..agent::Knobs::default() };
    let scene = Scene::with("thirty", issuer, agent).await?;
    let (mut runner, _) = Runner::enrol(&scene.issuer, "test-2").await?;
    let ca = std::fs::read_to_string(scene.issuer.state().join("ca.pem"))?;
    let stranger = RawClient::new(&ca, None);
    let job = Job::start(&scene.request()?, Duration::from_millis(200));
    job.goes_on(1).await?;
    let anchor = scene.only_anchor().await?;

    let (started, mut serving) = (Instant::now(), BTreeSet::new());
    loop {
        runner.call(&scene.issuer).await.with_context(|| format!("after {:?}", started.elapsed()))?;
        serving.insert(stranger.serving_certificate(scene.issuer.addresses().enroll).await?);
        let renewals = scene.agent.log().matches("certificate renewed").count();
        if renewals >= 3 && serving.len() >= 4 {
            break;
        }
        let seen = format!("{renewals} renewals and {} serving certificates", serving.len());
        ensure!(started.elapsed() < PATIENCE, "{seen} in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    job.end_well()?;
    assert_eq!(scene.only_anchor().await?, anchor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_closes_its_open_connection_opens_no_other_and_is_exchanged_by_its_agent()
-> Result<()> {
    let site = Site::new("expired").await?;
    let knobs = issuer::Knobs { certificates: "20s", ..issuer::Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let mut agent = AgentUnderTest::start(&issuer, "test-2", agent::Knobs::default()).await?;
    agent.process()?.pause()?; // as a machine that is suspended
    let (runner, expires) = Runner::enrol(&issuer, "test-1").await?;
    let call = || runner.client.call(ApiClient::list_roles, ListRolesRequest::default());
    call().await?;
    wait::until("the end of the certificate", Duration::from_secs(30), async || {
        Ok(if SystemClock.now() >= expires { Seen::Ready(()) } else { Seen::NotYet("it lives".to_owned()) })
    })
    .await?;

    let on_open_connection = refused(call().await)?;
    assert_eq!(on_open_connection.reason(), Some(ErrorReason::CertificateExpired), "{on_open_connection:?}");
    // Certificates count in whole seconds, so a handshake goes by a clock that is up to one behind.
    wait::until("the alert", Duration::from_secs(3), async || {
        runner.client.reset();
        let told = Chain(&refused(call().await)?).to_string();
        Ok(if told.contains("certificate_expired (45)") { Seen::Ready(()) } else { Seen::NotYet(told) })
    })
    .await?;
    // The issuer lets a refused client read its alert for up to a second before it is done with it.
    wait::until("the line about it", Duration::from_secs(5), async || {
        let log = issuer.log();
        Ok(if log.contains("handshake refused") { Seen::Ready(()) } else { Seen::NotYet(log) })
    })
    .await?;

    // The agent's certificate is older than the runner's.
    agent.process()?.go_on()?;
    wait::until("an agent that has come back", Duration::from_secs(20), async || {
        let came_back = issuer.audit()?.iter().any(|line| line["event"] == "runner.rejoined");
        Ok(if came_back { Seen::Ready(()) } else { Seen::NotYet(agent.log()) })
    })
    .await?;
    wait::until("a token", Duration::from_secs(10), async || {
        Ok(match agent.token(DEPLOY.name) {
            Ok(_) => Seen::Ready(()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_enrolment_was_replaced_gives_nothing_more_and_says_what_to_do() -> Result<()> {
    let scene = Scene::refreshing("replaced", "2s").await?;
    let kept = scene.site.admin.client_with(&scene.token()?).await?;
    let join_token = scene.issuer.join_token(scene.agent.name(), true).await?;
    client::enroll(&scene.issuer, &join_token, scene.agent.name()).await?;

    wait::until("an agent that has nothing to give", Duration::from_secs(30), async || {
        let done = scene.agent.exec(DEPLOY.name)?;
        if done.code == Some(0) {
            return Ok(Seen::NotYet("it gives tokens".to_owned()));
        }
        done.failed(3, &["ENROLMENT_ENDED", "enrolment was replaced", "new join token", "identity.pem"])?;
        Ok(Seen::Ready(()))
    })
    .await?;
    is_refused_for_good(&kept).await?;
    let lease = scene.only_lease()?;
    assert_eq!((&lease["state"], &lease["end"]["cause"]), (&"ended".into(), &"enrolment-replaced".into()));
    assert!(scene.anchors().await?.is_empty());
    let status = scene.agent.status()?;
    assert_eq!(status["degraded"], true, "{status:#}");
    Ok(())
}
