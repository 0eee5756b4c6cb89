//! Too many sockets: more than the issuer may open, and more than it would shake hands with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::client::{Client, enroll};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::{DEPLOY, Site};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use shorepass_proto::v1::ListRolesRequest;
use shorepass_rpc::client::ApiClient;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The issuer's pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// The issuer's deadline for a handshake (5 s), with slack for a busy machine.
const CLOSED: Duration = Duration::from_secs(8);

/// A session that was open before: it works.
async fn works(client: &Client, job: &str, lease: &str) -> Result<()> {
    client.call(ApiClient::list_roles, ListRolesRequest::default()).await?;
    ensure!(client.refresh(lease).await?.lease.job_id == job, "another job's lease");
    Ok(())
}

async fn accept_errors(issuer: &IssuerUnderTest) -> Result<u32> {
    let metrics = issuer.get("/metrics").await?;
    let line =
        metrics.lines().find(|line| line.starts_with("shorepass_accept_errors_total{listener=\"api\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).context("no such metric")
}

fn descriptors(issuer: &IssuerUnderTest) -> Result<u64> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", issuer.process()?.id()))?.count() as u64)
}

fn limit_descriptors(issuer: &IssuerUnderTest, current: Option<u64>) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let pid = i32::try_from(issuer.process()?.id()).ok().and_then(Pid::from_raw).context("no process id")?;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: current.or(maximum), maximum })?;
    Ok(())
}

async fn sockets(issuer: &IssuerUnderTest, count: usize) -> Result<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        sockets.push(TcpStream::connect(issuer.addresses().api).await?);
    }
    Ok(sockets)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_without_descriptors_pauses_keeps_its_sessions_and_recovers() -> Result<()> {
    let site = Site::new("nofile").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let client = issuer.runner("test-1").await?;
    let late = enroll(&issuer, &issuer.join_token("test-2", false).await?, "test-2").await?;
    let job = client.start_job().await?;
    let lease = client.issue(&job, DEPLOY.name).await?.lease.id;
    works(&client, &job, &lease).await?;
    let before = accept_errors(&issuer).await?;

    limit_descriptors(&issuer, Some(descriptors(&issuer)? + 4))?;
    let started = Instant::now();
    let held = sockets(&issuer, 80).await?;
    // Less than the deadline after which the issuer closes silent sockets and has descriptors again.
    while started.elapsed() < Duration::from_secs(3) {
        works(&client, &job, &lease).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let exhausted = started.elapsed();
    drop(held);
    limit_descriptors(&issuer, None)?;

    Client::new(&issuer, &late)?.call(ApiClient::list_roles, ListRolesRequest::default()).await?;
    works(&client, &job, &lease).await?;
    let errors = accept_errors(&issuer).await? - before;
    let most = (started.elapsed().as_millis() / PAUSE.as_millis()) as u32 + 2;
    assert!((5..=most).contains(&errors), "{errors} failed accepts in {exhausted:?}");
    // One line a second at most, however many fail.
    let told = issuer.log().matches("cannot accept connections").count();
    assert!((1..=started.elapsed().as_secs() as usize + 2).contains(&told), "{told} lines");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_silent_sockets_are_closed_in_time_and_hinder_nobody() -> Result<()> {
    let site = Site::new("silent").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let client = issuer.runner("test-1").await?;
    let late = enroll(&issuer, &issuer.join_token("test-2", false).await?, "test-2").await?;
    let job = client.start_job().await?;
    let lease = client.issue(&job, DEPLOY.name).await?.lease.id;

    let mut closing = JoinSet::new();
    let started = Instant::now();
    for mut socket in sockets(&issuer, 500).await? {
        closing.spawn(async move {
            // The end of the stream, or a reset: closed either way.
            let closed = tokio::time::timeout(CLOSED, socket.read(&mut [0; 1])).await;
            closed.is_ok_and(|read| !matches!(read, Ok(1..)))
        });
    }
    let opened = started.elapsed();
    // Others are served meanwhile, over connections that are new each time.
    let newcomer = Client::new(&issuer, &late)?;
    let mut served = 0;
    while started.elapsed() < opened + Duration::from_secs(4) {
        works(&client, &job, &lease).await?;
        newcomer.reset();
        newcomer.call(ApiClient::list_roles, ListRolesRequest::default()).await?;
        served += 1;
    }
    assert!(served > 3, "{served} calls only");
    let mut closed = 0;
    while let Some(one) = closing.join_next().await {
        closed += usize::from(one?);
    }
    assert_eq!(closed, 500);
    Ok(())
}
