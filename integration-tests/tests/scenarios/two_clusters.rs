//! Two clusters of one issuer, one of them behind a proxy that makes it misbehave: the other does not notice, and the bad one
//! is left alone until it works again.

use std::time::Duration;

use anyhow::{Result, ensure};
use http::Method;
use integration_tests::client::{Client, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::proxy::{Answer, Fault, Proxy, Target};
use integration_tests::second_cluster::SECOND_CLUSTER;
use integration_tests::site::{DEPLOY, Site};
use integration_tests::wait::{self, Seen};
use shorepass_core::breaker::FAILURES;
use shorepass_proto::v1::{ErrorReason as Reason, LeaseState};

/// The role of [`DEPLOY`] in the second cluster.
const OTHER: &str = "other-deploy";
/// Much longer than any pause of this test's clusters.
const PATIENCE: Duration = Duration::from_secs(60);

/// Dropped in this order.
struct Scene {
    issuer: IssuerUnderTest,
    proxy: Proxy,
    runner: Client,
    job: String,
    _site: Site,
}

impl Scene {
    async fn set(purpose: &str, mints_in_flight: u32) -> Result<Self> {
        let site = Site::new(purpose).await?;
        let proxy = Proxy::start(&site).await?;
        let second_cluster = Some(proxy.kubeconfig());
        let issuer =
            IssuerUnderTest::start(&site, Knobs { second_cluster, mints_in_flight, ..Knobs::default() })
                .await?;
        let runner = issuer.runner("test-1").await?;
        let job = runner.start_job().await?;
        let scene = Self { issuer, proxy, runner, job, _site: site };
        scene.goes(OTHER).await?;
        scene.goes(DEPLOY.name).await?;
        Ok(scene)
    }

    /// A lease is issued and released.
    async fn goes(&self, role: &str) -> Result<()> {
        let issued = self.runner.issue(&self.job, role).await?;
        let released = self.runner.release(&issued.lease.id).await?;
        ensure!(released.state() == LeaseState::Ended, "{released:?}");
        Ok(())
    }

    /// How many TokenRequests the bad cluster has seen.
    fn asked(&self) -> usize {
        let of_token = |path: &str| path.ends_with("/token");
        self.proxy.seen().iter().filter(|seen| seen.method == Method::POST && of_token(&seen.path)).count()
    }

    /// How many leases were begun in the bad cluster.
    fn begun(&self) -> Result<usize> {
        let begun = |line: &serde_json::Value| line["event"] == "lease.pending" && line["role"] == OTHER;
        Ok(self.issuer.audit()?.iter().filter(|line| begun(line)).count())
    }

    /// Issues in the bad cluster as soon as the issuer asks it again.
    async fn works_again(&self) -> Result<()> {
        wait::until("the cluster to be asked again", PATIENCE, async || {
            Ok(match self.runner.issue(&self.job, OTHER).await {
                Ok(_) => Seen::Ready(()),
                Err(error) if error.retry_after().is_some() => Seen::NotYet(error.to_string()),
                Err(error) => return Err(error.into()),
            })
        })
        .await
    }

    async fn readyz_says(&self, what: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
        wait::until(what, PATIENCE, async || {
            let answer = self.issuer.get("/readyz").await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "one bad cluster makes the issuer unready: {answer}");
            Ok(if fits(&answer) { Seen::Ready(()) } else { Seen::NotYet(answer) })
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_mints_of_one_cluster_hang_the_other_issues_and_each_caller_keeps_to_its_share()
-> Result<()> {
    let scene = Scene::set("hangs", 2).await?;
    let (asked, begun) = (scene.asked(), scene.begun()?);
    let _fault = scene.proxy.fault(Target::Tokens, Fault::Hang);
    let mut hanging = Vec::new();
    for name in ["test-2", "test-3"] {
        let runner = scene.issuer.runner(name).await?;
        let job = runner.start_job().await?;
        hanging.push((runner.clone(), job.clone()));
    }
    let mints: Vec<_> = hanging
        .iter()
        .cloned()
        .map(|(runner, job)| tokio::spawn(async move { runner.issue(&job, OTHER).await.map(drop) }))
        .collect();
    wait::until("two mints to hang", PATIENCE, async || {
        let hang = scene.asked() - asked;
        Ok(if hang == 2 { Seen::Ready(()) } else { Seen::NotYet(format!("{hang}")) })
    })
    .await?;
    let (greedy, job) = &hanging[0];
    let (share, full) = tokio::join!(greedy.issue(job, OTHER), scene.runner.issue(&scene.job, OTHER));
    scene.goes(DEPLOY.name).await?;
    ensure!(mints.iter().all(|mint| !mint.is_finished()), "they hang no more: nothing was shown");
    for (error, says) in
        [(refused(share)?, "mints of this caller, which may have 1"), (refused(full)?, "are under way")]
    {
        ensure!(error.reason() == Some(Reason::ClusterBusy) && error.retry_after().is_some(), "{error:?}");
        ensure!(error.to_string().contains(says), "{says:?} is not in {error}");
    }
    for mint in mints {
        let error = refused(mint.await?)?;
        ensure!(error.reason() == Some(Reason::ClusterUnreachable), "{error:?}");
    }
    ensure!(scene.begun()? == begun + 2, "a mint without a permit is on record");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_fails_is_left_alone_and_told_and_its_leases_end_all_the_same() -> Result<()> {
    let scene = Scene::set("fails", 16).await?;
    let lease = scene.runner.issue(&scene.job, OTHER).await?.lease.id;
    let message = "etcd is on fire";
    let failure = Answer { status: 500, reason: "InternalError", message, retry_after: None };
    let fault = scene.proxy.fault(Target::Tokens, Fault::Answer(failure));
    for _ in 0..FAILURES {
        refused(scene.runner.issue(&scene.job, OTHER).await)?;
    }
    let (asked, begun) = (scene.asked(), scene.begun()?);
    // A pause may pass on a slow machine; then one of these is the one that tries, and the next pause is longer.
    let mut left_alone = None;
    for _ in 0..FAILURES {
        let error = refused(scene.runner.issue(&scene.job, OTHER).await)?;
        ensure!(error.reason() == Some(Reason::ClusterUnreachable), "{error:?}");
        ensure!(error.retry_after().is_some() && error.to_string().contains("it failed (500)"), "{error:?}");
        ensure!(!error.to_string().contains(message), "the API server's words are for operators: {error}");
        left_alone = left_alone.or(error.to_string().contains("it is tried again soon").then_some(error));
    }
    ensure!(left_alone.is_some(), "it is asked each time");
    ensure!(scene.asked() - asked < FAILURES as usize, "it is asked each time");
    ensure!(scene.begun()? - begun == scene.asked() - asked, "what was not tried is on record");
    let line = format!("cluster {SECOND_CLUSTER}: ");
    // Asked again and again, so that a pause that passes is followed by another one.
    let failing = async {
        loop {
            let _ = scene.runner.issue(&scene.job, OTHER).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        said = scene.readyz_says("the bad cluster in /readyz", |answer| answer.contains(&line)) => said?,
        () = failing => {}
    }
    let released = scene.runner.release(&lease).await?;
    ensure!(released.state() == LeaseState::Ended, "the end waits for the cluster: {released:?}");
    scene.goes(DEPLOY.name).await?;
    drop(fault);
    scene.works_again().await?;
    scene.readyz_says("nothing in /readyz", |answer| !answer.contains(&line)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_cluster_is_left_alone_as_long_as_it_wants() -> Result<()> {
    const WAIT: u32 = 20;
    let scene = Scene::set("busy", 16).await?;
    let stranger = scene.issuer.runner("test-2").await?;
    let job = stranger.start_job().await?;
    let busy = Answer { status: 429, reason: "TooManyRequests", message: "later", retry_after: Some(WAIT) };
    let fault = scene.proxy.fault(Target::Tokens, Fault::Answer(busy));
    refused(scene.runner.issue(&scene.job, OTHER).await)?;
    drop(fault);
    let (asked, begun) = (scene.asked(), scene.begun()?);
    let error = refused(stranger.issue(&job, OTHER).await)?;
    ensure!(error.reason() == Some(Reason::ClusterBusy), "{error:?}");
    let wait = error.retry_after().unwrap_or_default();
    ensure!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(WAIT.into()), "{error:?}");
    scene.goes(DEPLOY.name).await?;
    ensure!((scene.asked(), scene.begun()?) == (asked, begun), "the other caller's mint was begun");
    scene.works_again().await
}
