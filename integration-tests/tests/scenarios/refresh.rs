//! Refreshes happen under use: on the same anchor, without a reader noticing, for longer than a token lives.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::job::Job;
use integration_tests::proxy::claims;
use integration_tests::scene::Scene;
use kube::Client;
use tokio::time::MissedTickBehavior;

/// How many refreshes are seen.
const REFRESHES: usize = 10;

/// Ten refreshes every two seconds take 20 s; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two requests of one client.
const TICK: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_and_always_the_newest_work_through_ten_refreshes_of_one_anchor() -> Result<()> {
    let scene = Scene::refreshing("refresh", "2s").await?;
    let mut tokens = vec![scene.token()?];
    let first = scene.site.admin.client_with(&tokens[0]).await?;
    let mut newest = first.clone();
    let (started, mut requests) = (Instant::now(), 0);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while tokens.len() <= REFRESHES {
        ensure!(started.elapsed() < PATIENCE, "{} tokens after {PATIENCE:?}", tokens.len());
        tick.tick().await;
        let token = scene.token()?;
        if tokens.last() != Some(&token) {
            newest = scene.site.admin.client_with(&token).await?;
            tokens.push(token);
        }
        tokio::try_join!(ask(&first, &scene), ask(&newest, &scene)).with_context(|| {
            format!("after {requests} requests and {} tokens, {:?}", tokens.len(), started.elapsed())
        })?;
        requests += 2;
    }

    let claims = tokens.iter().map(|token| claims(token)).collect::<Result<Vec<_>>>()?;
    let all = |name: &dyn Fn(&serde_json::Value) -> serde_json::Value| {
        claims.iter().map(|claims| name(claims).to_string()).collect::<BTreeSet<_>>()
    };
    let anchors = all(&|claims| claims["kubernetes.io"]["secret"]["uid"].clone());
    let (_, anchor) = scene.only_anchor().await?;
    assert_eq!(anchors, BTreeSet::from([format!("{anchor:?}")]));
    assert_eq!(all(&|claims| claims["jti"].clone()).len(), tokens.len());
    assert!(requests > 10 * REFRESHES, "{requests} requests only");
    scene.only_lease()?;
    Ok(())
}

async fn ask(client: &Client, scene: &Scene) -> Result<()> {
    let request = http::Request::get(scene.path()).body(Vec::new())?;
    client.request_text(request).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_longer_than_its_tokens_never_sees_a_failure() -> Result<()> {
    const LENGTH: Duration = Duration::from_secs(60);
    let scene = Scene::refreshing("longjob", "5s").await?;
    let job = Job::start(&scene.request()?, Duration::from_millis(300));
    let started = Instant::now();
    let mut jtis = BTreeSet::new();
    while started.elapsed() < LENGTH {
        jtis.insert(claims(&scene.token()?)?["jti"].to_string());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let calls = job.end_well()?;
    // A refresh every five seconds at the latest, and time for each on a busy machine.
    assert!(jtis.len() >= 8, "{} tokens in {LENGTH:?}", jtis.len());
    assert!(calls >= 20, "{calls} calls in {LENGTH:?}");
    scene.only_lease()?;
    scene.only_anchor().await?;
    Ok(())
}
