//! Daemons that are killed, stopped, or not there yet: jobs go on, and nothing is left behind.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{AgentUnderTest, Knobs};
use integration_tests::issuer::{self, IssuerUnderTest};
use integration_tests::job::{Job, copy_of};
use integration_tests::process::Done;
use integration_tests::proxy::{Fault, Proxy, Target};
use integration_tests::scene::Scene;
use integration_tests::site::{DEPLOY, Site};
use integration_tests::wait::{self, Seen};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use shorepass_proto::v1::EndCause;

/// How long nobody waits who asks for a token that is held (1 s, our own promise), with a second for the machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// For a call to the issuer to be given up (10 s), and for what follows from it.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// For an agent that pauses longer and longer (a minute at most) to try again.
const TRIED_AGAIN: Duration = Duration::from_secs(75);

#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_any_order_keep_lease_and_anchor_and_fail_no_call() -> Result<()> {
    let mut scene = Scene::refreshing("restart", "2s").await?;
    calls(&scene)?;
    let (lease, anchor) = (scene.only_lease()?["id"].clone(), scene.only_anchor().await?);
    for _ in 0..2 {
        scene.issuer.kill()?;
        calls(&scene)?; // from what the agent holds
        scene.issuer.run().await?;
        calls(&scene)?;

        scene.agent.kill()?;
        scene.agent.run().await?;
        calls(&scene)?;

        scene.agent.kill()?;
        scene.issuer.kill()?;
        scene.issuer.run().await?;
        scene.agent.run().await?;
        calls(&scene)?;

        scene.issuer.kill()?;
        scene.agent.kill()?;
        scene.agent.run().await?; // knows its identity, and nobody to ask
        scene.issuer.run().await?;
        calls_again(&scene).await?;

        assert_eq!(scene.only_lease()?["id"], lease);
        assert_eq!(scene.only_anchor().await?, anchor);
    }
    Ok(())
}

/// kubectl works, and what works is told by its lease.
fn calls(scene: &Scene) -> Result<()> {
    for _ in 0..3 {
        Done::of(&mut scene.request()?)?.succeeded()?;
    }
    Ok(())
}

/// The agent asks again on its own time after an outage; from then on no call fails.
async fn calls_again(scene: &Scene) -> Result<()> {
    works(scene, TRIED_AGAIN).await?;
    calls(scene)
}

async fn works(scene: &Scene, patience: Duration) -> Result<()> {
    wait::until("a token", patience, async || {
        let done = scene.agent.exec(DEPLOY.name)?;
        Ok(if done.code == Some(0) { Seen::Ready(()) } else { Seen::NotYet(done.stderr) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuer_is_killed_again_and_again_under_a_job_that_notices_nothing() -> Result<()> {
    let mut scene = Scene::refreshing("underload", "2s").await?;
    let job = Job::start(&scene.request()?, Duration::from_millis(100));
    job.goes_on(3).await?;
    let anchor = scene.only_anchor().await?;
    for _ in 0..4 {
        scene.issuer.kill()?;
        job.goes_on(5).await?;
        scene.issuer.run().await?;
        job.goes_on(5).await?;
    }
    job.end_well()?;
    scene.only_lease()?;
    assert_eq!(scene.only_anchor().await?, anchor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_issuer_the_agent_serves_what_it_holds_and_says_that_it_is_degraded() -> Result<()> {
    let mut scene = Scene::refreshing("down", "2s").await?;
    well(&scene).await?;
    let request = scene.request()?;
    scene.issuer.kill()?;
    degraded_and_serving(&scene, &request).await?;
    scene.issuer.run().await?;
    well(&scene).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_hangs_keeps_nobody_waiting_who_asks_for_what_is_held() -> Result<()> {
    let scene = Scene::refreshing("hangs", "2s").await?;
    well(&scene).await?;
    let request = scene.request()?;
    signal(&scene.issuer, Signal::STOP)?;
    let outcome = degraded_and_serving(&scene, &request).await;
    signal(&scene.issuer, Signal::CONT)?;
    outcome?;
    well(&scene).await
}

/// Until `status` ends with 6, and for a while longer, each call is answered at once.
async fn degraded_and_serving(scene: &Scene, request: &Command) -> Result<()> {
    let serves = || -> Result<()> {
        let started = Instant::now();
        scene.agent.exec(DEPLOY.name)?.succeeded()?;
        ensure!(started.elapsed() < AT_ONCE, "the plugin took {:?}", started.elapsed());
        Ok(())
    };
    wait::until("a degraded agent", GIVEN_UP, async || {
        serves()?;
        let done = Done::of(scene.agent.tool("shorepass").arg("status"))?;
        Ok(match done.code {
            Some(6) if done.stdout.contains("degraded") => Seen::Ready(()),
            _ => Seen::NotYet(format!("{done:?}")),
        })
    })
    .await?;
    for _ in 0..10 {
        serves()?;
        Done::of(&mut copy_of(request))?.succeeded()?;
    }
    Ok(())
}

async fn well(scene: &Scene) -> Result<()> {
    works(scene, TRIED_AGAIN).await?;
    wait::until("an agent that is well", TRIED_AGAIN, async || {
        let done = Done::of(scene.agent.tool("shorepass").arg("status"))?;
        Ok(if done.code == Some(0) { Seen::Ready(()) } else { Seen::NotYet(format!("{done:?}")) })
    })
    .await
}

fn signal(issuer: &IssuerUnderTest, signal: Signal) -> Result<()> {
    let id = i32::try_from(issuer.process()?.id()).ok().and_then(Pid::from_raw);
    Ok(kill_process(id.context("no process id")?, signal)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_there_before_its_issuer_says_so_and_then_works() -> Result<()> {
    let site = Site::new("early").await?;
    let mut issuer = IssuerUnderTest::start(&site, issuer::Knobs::default()).await?;
    let join_token = issuer.join_token("test-1", false).await?;
    issuer.stop()?;

    let mut agent = AgentUnderTest::prepare(&issuer, "test-1", &join_token, Knobs::default())?;
    agent.launch()?;
    let problem = wait::until("an agent that cannot enrol yet", GIVEN_UP, async || {
        agent.process()?.check()?;
        Ok(match agent.status() {
            // Before its first attempt has failed it says no more than that it is not enrolled.
            Ok(status) if status["problem"].as_str().is_some_and(|it| it.contains("cannot reach")) => {
                Seen::Ready(status)
            }
            Ok(status) => Seen::NotYet(status.to_string()),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await?;
    assert_eq!((&problem["degraded"], &problem["spiffeId"]), (&true.into(), &"".into()), "{problem:#}");
    let problem = problem["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("not enrolled") && problem.contains("cannot reach the issuer"), "{problem}");
    let refused = agent.exec(DEPLOY.name)?;
    refused.failed(4, &["not enrolled"])?;

    issuer.run().await?;
    let scene = Scene { agent, issuer, site };
    well(&scene).await?;
    calls(&scene)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_a_crash_left_pending_is_taken_up_by_the_request_that_comes_again() -> Result<()> {
    let site = Site::new("crash").await?;
    let proxy = Proxy::start(&site).await?;
    let knobs = issuer::Knobs { kubeconfig: Some(proxy.kubeconfig()), ..issuer::Knobs::default() };
    let issuer = IssuerUnderTest::start(&site, knobs).await?;
    let agent = AgentUnderTest::start(&issuer, "test-1", Knobs::default()).await?;
    let mut scene = Scene { agent, issuer, site };

    let hang = proxy.fault(Target::Tokens, Fault::Hang);
    let plugin = Job::start(scene.agent.tool("shorepass-exec").args(["--role", DEPLOY.name]), Duration::ZERO);
    wait::until("an anchor without a token", GIVEN_UP, async || {
        let anchors = scene.anchors().await?;
        let asked = proxy.seen().iter().any(|seen| seen.path.ends_with("/token") && seen.status.is_none());
        Ok(if anchors.len() == 1 && asked { Seen::Ready(()) } else { Seen::NotYet(format!("{anchors:?}")) })
    })
    .await?;
    scene.issuer.kill()?;
    assert!(plugin.end()?.iter().all(|run| run.done.code == Some(4)), "there is no token to give");
    let left_anchor = scene.only_anchor().await?;
    drop(hang);

    scene.issuer.run().await?;
    let left = scene.only_lease()?;
    works(&scene, TRIED_AGAIN).await?;
    let lease = scene.only_lease()?;
    assert_eq!((&lease["state"], &lease["id"]), (&json!("active"), &left["id"]));
    let (anchor, uid) = scene.only_anchor().await?;
    assert_eq!(anchor, left["anchor"].as_str().unwrap_or_default());
    assert_ne!(uid, left_anchor.1, "nobody knows the UID of the first one");
    let minted = scene.issuer.audit()?.into_iter().filter(|line| line["event"] == "token.minted").count();
    assert_eq!(minted, 1, "the token whose answer was lost is on no record, and is dead");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_pending_and_active_leaves_no_secret_when_nobody_comes_again() -> Result<()> {
    let site = Site::new("crash-alone").await?;
    let proxy = Proxy::start(&site).await?;
    let knobs = issuer::Knobs { kubeconfig: Some(proxy.kubeconfig()), ..issuer::Knobs::default() };
    let mut issuer = IssuerUnderTest::start(&site, knobs).await?;
    let platform = issuer.platform("test-portal")?;
    let job = platform.start_job().await?;
    let hang = proxy.fault(Target::Tokens, Fault::Hang);
    let asking = tokio::spawn(async move { platform.issue(&job, DEPLOY.name).await.map(|_| ()) });
    wait::until("an anchor without a token", GIVEN_UP, async || {
        let anchors = site.place.secrets().list(&Default::default()).await?.items.len();
        let asked = proxy.seen().iter().any(|seen| seen.path.ends_with("/token") && seen.status.is_none());
        Ok(if anchors == 1 && asked { Seen::Ready(()) } else { Seen::NotYet(format!("{anchors} anchors")) })
    })
    .await?;
    issuer.kill()?;
    assert!(asking.await?.is_err());
    drop(hang);
    issuer.run().await?;
    // It waits for its request for 60 s; the sweeper looks every two. It stays ending for as long as its mint might be in
    // flight (75 s), and its anchor is deleted again and again meanwhile.
    wait::until("no anchor", Duration::from_secs(75), async || {
        let anchors = site.place.secrets().list(&Default::default()).await?.items.len();
        let leases = issuer.operator()?.leases().await?;
        let lease = leases.first().and_then(|record| record.lease.clone()).unwrap_or_default();
        let cause = lease.end.as_ref().map(|end| end.cause());
        Ok(match anchors == 0 && cause == Some(EndCause::Abandoned) {
            true => Seen::Ready(()),
            false => Seen::NotYet(format!("{anchors} anchors, {lease:?}")),
        })
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_records_are_damaged_makes_them_anew_and_goes_on() -> Result<()> {
    let mut scene = Scene::refreshing("damaged", "2s").await?;
    calls(&scene)?;
    let lease = scene.only_lease()?["id"].clone();
    let store = |scene: &Scene, verb: &str| {
        Done::of(scene.issuer.command(&["store", verb, "--config"]).arg(scene.issuer.config()))
    };
    store(&scene, "verify")?.failed(1, &["is in use by another process"])?;
    scene.issuer.stop()?;
    let told = store(&scene, "verify")?.succeeded()?;
    ensure!(told.ends_with("nothing is damaged\n"), "{told}");
    for by_hand in [false, true] {
        let database = scene.issuer.state().join("ledger/db");
        std::fs::write(&database, vec![0; 100_000])?;
        store(&scene, "verify")?.failed(1, &["store rebuild"])?;
        if by_hand {
            let told = store(&scene, "rebuild")?.succeeded()?;
            ensure!(told.contains("all of them came back from the audit file"), "{told}");
        }
        scene.issuer.run().await?;
        calls_again(&scene).await?;
        assert_eq!(scene.only_lease()?["id"], lease);
        wait::until("the alarm", GIVEN_UP, async || {
            let ready = scene.issuer.get("/readyz").await?;
            Ok(match ready.contains("ledger: ") && ready.contains("ledger.damaged-") {
                true => Seen::Ready(()),
                false => Seen::NotYet(ready),
            })
        })
        .await?;
        scene.issuer.stop()?;
    }
    Ok(())
}
