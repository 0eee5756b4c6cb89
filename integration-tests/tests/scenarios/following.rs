//! Leases that end by themselves, and how those learn of ends who hold them: by a stream, by heartbeats, after an outage.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{self, AgentUnderTest};
use integration_tests::client;
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::process::Done;
use integration_tests::scene::Scene;
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use shorepass_proto::v1;
use shorepass_rpc::client::ApiClient;

/// The issuer's own bound (2 s), the API server's cache (10 s), and a second.
const DEAD_AFTER: Duration = Duration::from_secs(13);

/// For what a stream tells. A heartbeat comes 42 s after the one before at the earliest, a refresh after 200 s.
const TOLD: Duration = Duration::from_secs(20);

/// An agent's first heartbeat for a lease comes within 5 s.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(6);

/// The shortest silence that a role may ask for.
const SILENCE: Duration = Duration::from_secs(60);

/// From its end until the end is recorded, on a busy machine.
const SLACK: Duration = Duration::from_secs(10);

const REASON: &str = "laptop stolen";

fn signal(agent: &mut AgentUnderTest, signal: Signal) -> Result<()> {
    let pid = i32::try_from(agent.process()?.id())?;
    Ok(rustix::process::kill_process(Pid::from_raw(pid).context("no process")?, signal)?)
}

/// An issuer whose role says more.
async fn issuer_with(site: &Site, line: &str) -> Result<IssuerUnderTest> {
    let mut issuer = IssuerUnderTest::prepare(site, issuer::Knobs::default())?;
    write_roles(&issuer, site, line)?;
    issuer.run().await?;
    Ok(issuer)
}

fn write_roles(issuer: &IssuerUnderTest, site: &Site, line: &str) -> Result<()> {
    let roles = site.role_documents().replace("  lifetimes:", &format!("  {line}\n  lifetimes:"));
    Ok(std::fs::write(issuer.folder().join("roles/roles.yaml"), roles)?)
}

/// Waits until the agent is told of ends as they happen, and its first heartbeat for the lease is over: what it learns in the
/// next 40 s it learns from the stream.
async fn watches(agent: &AgentUnderTest) -> Result<()> {
    wait::until("the agent's stream", TOLD, async || {
        let watch = agent.status()?["watch"].clone();
        let ready = watch["connected"] == true && !watch["lastHeardAt"].is_null();
        Ok(if ready { Seen::Ready(()) } else { Seen::NotYet(watch.to_string()) })
    })
    .await?;
    tokio::time::sleep(FIRST_HEARTBEAT).await;
    Ok(())
}

/// Waits until the plugin gives nothing more; what it said.
async fn plugin_refused(agent: &AgentUnderTest, patience: Duration) -> Result<Done> {
    wait::until("the plugin to refuse", patience, async || {
        let done = agent.exec(DEPLOY.name)?;
        Ok(if done.code == Some(0) { Seen::NotYet("it gives tokens".to_owned()) } else { Seen::Ready(done) })
    })
    .await
}

fn revoke(scene: &Scene) -> Result<Value> {
    let lease = scene.only_lease()?;
    let id = lease["id"].as_str().context("a lease without id")?;
    scene.operator_json(&["lease", "revoke", id, "--reason", REASON])
}

fn cause(lease: &Value) -> (Value, Value) {
    (lease["state"].clone(), lease["end"]["cause"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_half_a_minute_is_dead_when_it_says_so() -> Result<()> {
    let scene = Scene::new("halfminute").await?;
    let portal = scene.issuer.platform("test-portal")?;
    let job = portal.start_job().await?;
    let before = Instant::now();
    let lease_lifetime = Some(prost_types::Duration { seconds: 30, nanos: 0 });
    let request = v1::IssueRequest { lease_lifetime, ..client::issue(&job, DEPLOY.name) };
    let issued = portal.call(ApiClient::issue, request).await?;
    let after = Instant::now();
    let credential = issued.credential.unwrap_or_default();
    let told = credential.valid_for.context("no life")?;
    ensure!((1..=20).contains(&told.seconds), "the job is told {told:?}");
    let lease = scene.only_lease()?;
    ensure!(
        lease["withoutIssuerUntil"].is_string(),
        "the listing does not say what the token does: {lease:#}"
    );

    let holder = scene.site.admin.client_with(&credential.token).await?;
    while before.elapsed() < Duration::from_secs(29) {
        who_am_i(&holder).await?.context("refused before the deadline")?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let bound = Duration::from_secs(30) + DEAD_AFTER;
    wait::until("the token to be refused", bound.saturating_sub(after.elapsed()), async || {
        Ok(match who_am_i(&holder).await? {
            None => Seen::Ready(()),
            Some(_) => Seen::NotYet(format!("accepted {:?} after it was issued", after.elapsed())),
        })
    })
    .await?;
    is_refused_for_good(&holder).await?;
    assert_eq!(cause(&scene.only_lease()?), (json!("ended"), json!("deadline")));
    ensure!(scene.anchors().await?.is_empty(), "the anchor is left");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_learns_of_a_revocation_at_once_and_the_plugin_says_who_and_why() -> Result<()> {
    let scene = Scene::new("told").await?;
    scene.token()?;
    watches(&scene.agent).await?;
    revoke(&scene)?;
    let done = plugin_refused(&scene.agent, TOLD).await?;
    let by = format!("the lease was revoked by spiffe://{}/operator/alice at 20", issuer::TRUST_DOMAIN);
    done.failed(5, &[&by, REASON])?;
    let status = scene.agent.status()?;
    ensure!(status["leases"][0]["jti"] == "", "the agent still holds a token: {status:#}");
    // Also for who asks later, and after the refusal was forgotten.
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.agent.exec(DEPLOY.name)?.failed(5, &[&by, REASON])?;
    ensure!(!scene.agent.log().contains("token refreshed"), "a refresh told it: {}", scene.agent.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_nobody_listened_is_told_when_the_agent_is_back() -> Result<()> {
    let mut scene = Scene::new("caughtup").await?;
    scene.token()?;
    watches(&scene.agent).await?;
    signal(&mut scene.agent, Signal::STOP)?;
    let gone = async {
        scene.issuer.kill()?;
        scene.issuer.run().await?;
        revoke(&scene)
    };
    let gone = gone.await;
    signal(&mut scene.agent, Signal::CONT)?;
    gone?;
    plugin_refused(&scene.agent, TOLD).await?.failed(5, &["revoked by", REASON])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_the_lease_of_an_agent_that_hangs_and_of_no_other() -> Result<()> {
    let site = Site::new("silence").await?;
    let issuer = issuer_with(&site, "silence: 60s").await?;
    let hangs = AgentUnderTest::start(&issuer, "test-1", agent::Knobs::default()).await?;
    let other = AgentUnderTest::start(&issuer, "test-2", agent::Knobs::default()).await?;
    let mut scene = Scene { agent: hangs, issuer, site };
    scene.token()?;
    let kept = other.token(DEPLOY.name)?;
    watches(&scene.agent).await?;
    let of = |scene: &Scene, runner: &str| -> Result<Vec<Value>> {
        let caller = format!("spiffe://{}/runner/{runner}", issuer::TRUST_DOMAIN);
        Ok(scene.leases()?.into_iter().filter(|lease| lease["caller"] == caller.as_str()).collect())
    };
    let stopped = Instant::now();
    signal(&mut scene.agent, Signal::STOP)?;
    let ended = wait::until("the lease to end", SILENCE + SLACK, async || {
        let lease = of(&scene, "test-1")?.remove(0);
        Ok(if lease["state"] == "ended" { Seen::Ready(lease) } else { Seen::NotYet(lease.to_string()) })
    })
    .await;
    let waited = stopped.elapsed();
    signal(&mut scene.agent, Signal::CONT)?;
    assert_eq!(cause(&ended?), (json!("ended"), json!("silence")));
    // The last heartbeat came 15 s before it was stopped at the earliest.
    ensure!(waited > SILENCE - Duration::from_secs(16), "it ended after {waited:?}");
    assert_eq!(of(&scene, "test-2")?[0]["state"], "active");
    who_am_i(&scene.site.admin.client_with(&kept).await?).await?.context("the other lease is dead")?;

    wait::until("another lease of the agent that is back", TOLD, async || {
        scene.agent.exec(DEPLOY.name)?;
        let leases = of(&scene, "test-1")?;
        let active = leases.iter().any(|lease| lease["state"] == "active");
        Ok(if active { Seen::Ready(()) } else { Seen::NotYet(json!(leases).to_string()) })
    })
    .await?;
    scene.kubectl(&["get", "configmaps"])?.succeeded()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_starts_gives_everybody_the_whole_silence_again() -> Result<()> {
    let site = Site::new("grace").await?;
    let mut issuer = issuer_with(&site, "silence: 60s").await?;
    let runner = issuer.runner("test-1").await?;
    let issued = runner.issue(&runner.start_job().await?, DEPLOY.name).await?;
    assert_eq!(issued.credential.silence_limit, Some(prost_types::Duration { seconds: 60, nanos: 0 }));
    ensure!(issued.credential.valid_for.is_some_and(|told| told.seconds <= 50), "told beyond the silence");
    tokio::time::sleep(Duration::from_secs(40)).await;
    issuer.kill()?;
    issuer.run().await?;
    let started = Instant::now();
    let operator = issuer.operator()?;
    let state = async || -> Result<v1::Lease> {
        operator.leases().await?.remove(0).lease.context("a record without its lease")
    };
    while started.elapsed() < Duration::from_secs(50) {
        ensure!(
            state().await?.state() == v1::LeaseState::Active,
            "it ended {:?} after the start",
            started.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let left = (SILENCE + SLACK).saturating_sub(started.elapsed());
    let ended = wait::until("the lease to end", left, async || {
        let lease = state().await?;
        Ok(match lease.end.clone() {
            Some(end) => Seen::Ready(end),
            None => Seen::NotYet(format!("{lease:?}")),
        })
    })
    .await?;
    assert_eq!(ended.cause(), v1::EndCause::Silent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_stood_still_ends_no_lease_for_that_time() -> Result<()> {
    let site = Site::new("still").await?;
    let issuer = issuer_with(&site, "silence: 60s").await?;
    let runner = issuer.runner("test-1").await?;
    let lease = runner.issue(&runner.start_job().await?, DEPLOY.name).await?.lease.id;
    issuer.process()?.pause()?; // as a machine that is suspended
    tokio::time::sleep(SILENCE + SLACK / 2).await;
    issuer.process()?.go_on()?;
    let operator = issuer.operator()?;
    wait::until("the issuer to notice", SLACK, async || {
        let said = issuer.log().contains("the issuer stood still");
        Ok(if said { Seen::Ready(()) } else { Seen::NotYet(issuer.log()) })
    })
    .await?;
    tokio::time::sleep(SLACK / 2).await;
    let state = operator.leases().await?.remove(0).lease.unwrap_or_default().state();
    ensure!(state == v1::LeaseState::Active, "its owner was not heard because nobody listened: {state:?}");
    let beat = v1::HeartbeatRequest { lease_ids: vec![lease], watch_sequence: 0 };
    let pulse = runner.call(ApiClient::heartbeat, beat).await?;
    ensure!(pulse.ended.is_empty(), "{pulse:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_without_a_stream_learns_by_its_heartbeats() -> Result<()> {
    let scene = Scene::new("heartbeat").await?;
    let portal = scene.issuer.platform("test-portal")?;
    let lease = portal.issue(&portal.start_job().await?, DEPLOY.name).await?.lease.id;
    let beat = v1::HeartbeatRequest { lease_ids: vec![lease.clone()], watch_sequence: 0 };
    let alive = portal.call(ApiClient::heartbeat, beat.clone()).await?;
    assert_eq!(
        alive,
        v1::HeartbeatResponse::default(),
        "platforms may be silent unless the role says otherwise"
    );
    let selector = v1::LeaseSelector { lease_id: lease.clone(), ..Default::default() };
    scene.issuer.operator()?.revoke(selector).await?;
    let told = portal.call(ApiClient::heartbeat, beat.clone()).await?.ended.remove(0);
    let end = told.end.context("no end")?;
    assert_eq!((told.lease_id, end.cause()), (lease.clone(), v1::EndCause::Revoked));
    ensure!(end.by.ends_with("/operator/alice") && end.reason == "leaked", "{end:?}");
    let stranger = scene.issuer.platform("test-other")?;
    let foreign = stranger.call(ApiClient::heartbeat, beat).await?;
    assert_eq!((foreign.unavailable_lease_ids, foreign.ended.len()), (vec![lease], 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_was_changed_is_told_after_the_restart_that_reads_it() -> Result<()> {
    let mut scene = Scene::new("changed").await?;
    scene.token()?;
    watches(&scene.agent).await?;
    scene.issuer.kill()?;
    let other = scene.site.role_documents().replace("runners: [test-*]", "runners: [nobody-*]");
    std::fs::write(scene.issuer.folder().join("roles/roles.yaml"), other)?;
    scene.issuer.run().await?;
    wait::until("the agent to ask by the new role", Duration::from_secs(90), async || {
        let lease = scene.agent.status()?["leases"][0].clone();
        let problem = lease["problem"].as_str().unwrap_or_default().to_owned();
        let refused = problem.contains("ROLE_NOT_AVAILABLE");
        Ok(if refused { Seen::Ready(()) } else { Seen::NotYet(lease.to_string()) })
    })
    .await?;
    scene.token().context("the token that is held is served to its end")?;
    Ok(())
}
