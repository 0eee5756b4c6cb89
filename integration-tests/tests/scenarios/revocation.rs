//! An operator revokes: what was given out dies and stays dead, nothing new is given out, and everybody else goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::agent::{AgentUnderTest, Knobs, as_operator};
use integration_tests::process::Done;
use integration_tests::proxy::claims;
use integration_tests::scene::Scene;
use integration_tests::site::DEPLOY;
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use integration_tests::wait::{self, Seen};
use serde_json::{Value, json};

/// The API server's cache of good authentications (10 s), and a second.
const BOUND: Duration = Duration::from_secs(11);

/// How long both are watched after they were refused.
const WATCH: Duration = Duration::from_secs(15);

const REASON: &str = "laptop stolen";

/// Revokes a lease as an operator does; what the command printed as JSON.
fn revoke(scene: &Scene, lease: &Value) -> Result<Value> {
    let id = lease["id"].as_str().context("a lease without id")?;
    scene.operator_json(&["lease", "revoke", id, "--reason", REASON])
}

/// Waits until the plugin gives nothing more; what it said.
async fn plugin_refused(agent: &AgentUnderTest) -> Result<Done> {
    wait::until("the plugin to refuse", BOUND, async || {
        let done = agent.exec(DEPLOY.name)?;
        Ok(if done.code == Some(0) { Seen::NotYet("it gives tokens".to_owned()) } else { Seen::Ready(done) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_lease_is_dead_within_eleven_seconds_and_stays_dead() -> Result<()> {
    let scene = Scene::refreshing("revoke", "2s").await?;
    scene.kubectl(&["get", "configmaps"])?.succeeded()?;
    let kept = scene.site.admin.client_with(&scene.token()?).await?;
    who_am_i(&kept).await?.context("the token is refused before the revocation")?;

    let asked = Instant::now();
    revoke(&scene, &scene.only_lease()?)?;
    let mut refused = [None::<Instant>; 2];
    let mut said = None;
    while refused.iter().any(|since| since.is_none_or(|since| since.elapsed() < WATCH)) {
        let kubectl = Done::of(&mut scene.request()?)?;
        let works = [who_am_i(&kept).await?.is_some(), kubectl.code == Some(0)];
        for (which, (works, since)) in works.into_iter().zip(&mut refused).enumerate() {
            match (works, &since) {
                (true, Some(since)) => {
                    bail!("client {which} was refused and works {:?} later", since.elapsed())
                }
                (true, None) => {
                    ensure!(asked.elapsed() < BOUND, "client {which} works {:?} later", asked.elapsed())
                }
                (false, None) => *since = Some(Instant::now()),
                (false, Some(_)) => {}
            }
        }
        said = Some(kubectl);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let by = format!("{}/operator/alice", integration_tests::issuer::TRUST_DOMAIN);
    said.context("kubectl did not run")?.failed(1, &["BLOCKED", &by, REASON, "shorepass unblock"])?;
    assert_eq!(scene.agent.exec(DEPLOY.name)?.code, Some(5));
    let log = scene.agent.log();
    assert!(log.contains("denied: no lease") && log.contains("BLOCKED"), "{log}");
    assert_eq!(log.matches("lease issued").count(), 1);
    let lease = scene.only_lease()?;
    assert_eq!((&lease["state"], &lease["end"]["cause"]), (&json!("ended"), &json!("revoked")));
    assert!(scene.anchors().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_holds_until_an_operator_lifts_it() -> Result<()> {
    let scene = Scene::refreshing("unblock", "2s").await?;
    scene.token()?;
    let revoked = revoke(&scene, &scene.only_lease()?)?;
    plugin_refused(&scene.agent).await?.failed(5, &["BLOCKED"])?;

    let block =
        revoked["items"][0]["lease"]["block"]["id"].as_str().context("a revocation without a block")?;
    let lifted = scene.operator_json(&["unblock", block])?;
    assert_eq!((&lifted["kind"], &lifted["id"]), (&json!("Block"), &json!(block)));
    wait::until("a new lease", Duration::from_secs(30), async || {
        let done = scene.agent.exec(DEPLOY.name)?;
        Ok(if done.code == Some(0) { Seen::Ready(()) } else { Seen::NotYet(done.stderr) })
    })
    .await?;
    scene.kubectl(&["get", "configmaps"])?.succeeded()?;
    let states: Vec<_> = scene.leases()?.iter().map(|lease| lease["state"].clone()).collect();
    assert_eq!(states, ["active", "ended"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_read_the_same_lease_in_list_show_and_whois() -> Result<()> {
    let scene = Scene::new("shapes").await?;
    let jti = claims(&scene.token()?)?["jti"].as_str().context("no jti")?.to_owned();
    let list = scene.operator_json(&["lease", "list"])?;
    assert_eq!((&list["apiVersion"], &list["kind"]), (&json!("shorepass.dev/v1"), &json!("LeaseList")));
    let lease = &list["items"][0];
    let runner = format!("spiffe://{}/runner/test-1", integration_tests::issuer::TRUST_DOMAIN);
    let job = format!("default:{}", rustix::process::getuid().as_raw());
    for (key, value) in [
        ("state", json!("active")),
        ("caller", json!(runner)),
        ("role", json!(DEPLOY.name)),
        ("cluster", json!("test")),
        ("namespace", json!(scene.site.place.namespace.as_str())),
        ("serviceAccount", json!("deployer")),
        ("mode", json!("bound")),
    ] {
        assert_eq!(lease[key], value, "{key}");
    }
    assert_eq!(lease["job"]["asserted"], json!({"system": "test", "id": job}));
    assert_eq!(lease["tokens"][0]["jti"], jti.as_str());
    assert!(lease["remainingSeconds"].as_u64().is_some_and(|left| left > 0), "{lease:#}");

    let id = lease["id"].as_str().context("no id")?;
    let show = scene.operator_json(&["lease", "show", id])?;
    let whois = scene.operator_json(&["whois", &format!("JTI={jti}")])?;
    assert_eq!((&show["kind"], &whois["kind"]), (&json!("Lease"), &json!("TokenOwner")));
    assert_eq!(whois["token"], lease["tokens"][0]);
    for key in ["id", "caller", "job", "role", "anchor", "deadline"] {
        assert_eq!((&show[key], &whois["lease"][key]), (&lease[key], &lease[key]), "{key}");
    }
    as_operator(&scene.issuer, &["whois", "nobody-has-this"])?.failed(1, &["RECORD_NOT_FOUND"])?;
    let table = as_operator(&scene.issuer, &["lease", "list"])?.succeeded()?;
    assert!(table.contains(id) && table.contains(&jti), "{table}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_touches_no_other_runner() -> Result<()> {
    let scene = Scene::refreshing("others", "2s").await?;
    let knobs = Knobs { max_age: Some("2s"), ..Knobs::default() };
    let other = AgentUnderTest::start(&scene.issuer, "test-2", knobs).await?;
    scene.token()?;
    let held = scene.site.admin.client_with(&other.token(DEPLOY.name)?).await?;
    let leases = scene.operator_json(&["lease", "list", "--runner", "test-1"])?;
    assert_eq!(leases["items"].as_array().map(Vec::len), Some(1));
    revoke(&scene, &leases["items"][0])?;
    plugin_refused(&scene.agent).await?.failed(5, &["BLOCKED"])?;

    let refreshed = other.token(DEPLOY.name)?;
    wait::until("a refresh of the other runner's token", Duration::from_secs(30), async || {
        who_am_i(&held).await?.context("the other runner's token was refused")?;
        let done = other.token(DEPLOY.name)?;
        Ok(if done != refreshed { Seen::Ready(()) } else { Seen::NotYet("the same token".to_owned()) })
    })
    .await?;
    let left = scene.operator_json(&["lease", "list"])?;
    let callers: Vec<_> =
        left["items"].as_array().context("no items")?.iter().map(|lease| &lease["caller"]).collect();
    let other = format!("spiffe://{}/runner/test-2", integration_tests::issuer::TRUST_DOMAIN);
    assert_eq!(callers, [&json!(other)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_gives_everything_back() -> Result<()> {
    let scene = Scene::new("leave").await?;
    let mut clients = vec![scene.site.admin.client_with(&scene.token()?).await?];
    let mut nightly = scene.agent.tool("shorepass-exec");
    let nightly =
        Done::of(nightly.args(["--role", DEPLOY.name]).env("SHOREPASS_JOB", "nightly"))?.succeeded()?;
    let credential: Value = serde_json::from_str(&nightly)?;
    let token = credential["status"]["token"].as_str().context("no token")?;
    clients.push(scene.site.admin.client_with(token).await?);
    assert_eq!(scene.anchors().await?.len(), 2, "one for each job");

    let config = scene.agent.config().display().to_string();
    let left =
        Done::of(scene.agent.tool("shorepass-agent").args(["leave", "--config", &config]))?.succeeded()?;
    assert_eq!(left, "ended 2 jobs and 2 leases\n");
    assert!(scene.anchors().await?.is_empty());
    for client in &clients {
        is_refused_for_good(client).await?;
    }
    let causes: Vec<_> = scene.leases()?.iter().map(|lease| lease["end"]["cause"].clone()).collect();
    assert_eq!(causes, ["job-ended", "job-ended"]);
    Ok(())
}
