//! An operator bans somebody: what it held dies, its connections are closed, and it gets nothing more until it is unbanned.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::agent::{AgentUnderTest, Knobs as AgentKnobs, as_operator};
use integration_tests::client::{self, Client, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::site::{DEPLOY, Site};
use integration_tests::use_of_tokens::is_refused_for_good;
use integration_tests::wait::{self, Seen};
use serde_json::{Value, json};
use shorepass_proto::v1::{self, EndCause, ErrorReason, LeaseState};
use shorepass_rpc::client::{ApiClient, ClientError};
use tokio::io::AsyncReadExt as _;

/// Connections of the banned are closed at once; this is for slow machines.
const CLOSED: Duration = Duration::from_secs(2);

/// Dropped in this order: the issuer before the cluster's side of it.
struct Scene {
    issuer: IssuerUnderTest,
    site: Site,
}

async fn scene(purpose: &str) -> Result<Scene> {
    let site = Site::new(purpose).await?;
    Ok(Scene { issuer: IssuerUnderTest::start(&site, Knobs::default()).await?, site })
}

impl Scene {
    /// The events of the audit file about somebody, in their order, but for refusals.
    fn events_of(&self, caller: &str) -> Result<Vec<String>> {
        let of = |line: &Value| line["caller"] == caller && line["event"] != "request.refused";
        let lines = self.issuer.audit()?.into_iter().filter(of);
        Ok(lines.filter_map(|line| line["event"].as_str().map(str::to_owned)).collect())
    }

    async fn anchors(&self) -> Result<usize> {
        Ok(self.site.place.secrets().list(&Default::default()).await?.items.len())
    }
}

fn is_banned<T>(answer: Result<T, ClientError>) -> Result<()> {
    let error = refused(answer)?;
    ensure!(error.reason() == Some(ErrorReason::Banned), "refused otherwise: {error}");
    ensure!(error.to_string().contains("operator/alice"), "it does not say who: {error}");
    ensure!(!error.to_string().contains("stolen"), "it says why: {error}");
    Ok(())
}

/// Opens a connection with the identity in this folder, makes nothing of it, and waits until the other side closes it.
async fn idle(scene: &Scene, folder: &std::path::Path) -> Result<tokio::task::JoinHandle<Duration>> {
    let identity = shorepass_tls::IdentityFile::new(folder.join("identity.pem"));
    let identity = identity.load()?.context("no identity")?;
    let current = shorepass_tls::CurrentIdentity::new(&identity);
    let clock = std::sync::Arc::new(shorepass_daemon::clock::SystemClock);
    let connector = shorepass_tls::Connector::api(current, scene.issuer.spiffe_id()?, clock);
    let mut stream = connector.connect(&scene.issuer.addresses().api.to_string()).await?;
    Ok(tokio::spawn(async move {
        let opened = Instant::now();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        opened.elapsed()
    }))
}

async fn lease_of(operator: &Client, id: &str) -> Result<v1::Lease> {
    let answer = operator.call(ApiClient::get_lease, v1::GetLeaseRequest { lease_id: id.to_owned() }).await?;
    answer.lease.and_then(|record| record.lease).context("no lease")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_platform_loses_leases_and_connections_and_comes_back_only_when_unbanned() -> Result<()> {
    let mut scene = scene("ban-platform").await?;
    let operator = scene.issuer.operator()?;
    let (portal, other) = (scene.issuer.platform("test-portal")?, scene.issuer.platform("test-other")?);
    let folder = scene.issuer.identity_folder("platform", "test-portal")?;
    scene.issuer.identities_are_audited().await?; // not in the middle of what is compared
    let job = portal.start_job().await?;
    let issued = portal.issue(&job, "deploy").await?;
    let kept = other.issue(&other.start_job().await?, "deploy").await?;
    let holder = scene.site.admin.client_with(&issued.credential.token).await?;
    let closing = idle(&scene, &folder).await?;

    let name = portal.spiffe_id.to_string();
    let answer = operator.ban(&name).await?;
    let asked = Instant::now();
    // The one of the calls, and the idle one.
    assert_eq!((answer.lease_count, answer.connection_count), (1, 2));
    tokio::time::timeout(CLOSED, closing).await.context("an open connection was kept")??;
    assert!(asked.elapsed() < CLOSED);
    portal.reset(); // a call may meet the closing of its own
    is_banned(portal.refresh(&issued.lease.id).await)?;
    is_banned(portal.issue(&job, "deploy").await)?;
    is_banned(portal.release(&issued.lease.id).await)?;
    is_refused_for_good(&holder).await?;
    let ended = lease_of(&operator, &issued.lease.id).await?;
    let end = ended.end.clone().unwrap_or_default();
    assert_eq!((ended.state(), end.cause()), (LeaseState::Ended, EndCause::OwnerBanned));
    assert_eq!(
        (end.by.ends_with("/operator/alice"), end.reason.as_str()),
        (true, ""),
        "why is for operators"
    );
    let events = scene.events_of(&name)?;
    assert_eq!(events[events.len() - 3..], ["ban.set", "lease.ending", "lease.ended"]);
    other.refresh(&kept.lease.id).await.context("another platform was hit")?;
    assert_eq!(scene.anchors().await?, 1);

    // A new identity of the same name is no way back, and a crash forgets nothing.
    scene.issuer.kill()?;
    scene.issuer.run().await?;
    [&portal, &other, &operator].into_iter().for_each(Client::reset);
    is_banned(portal.start_job().await)?;
    other.refresh(&kept.lease.id).await?;
    operator.unban(&name).await?;
    let again = portal.issue(&job, "deploy").await.context("it was unbanned")?;
    let error = refused(portal.refresh(&issued.lease.id).await)?;
    assert_eq!(error.reason(), Some(ErrorReason::LeaseEnded), "what has ended stays ended");
    assert!(error.to_string().contains("banned"), "{error}");
    portal.release(&again.lease.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_runner_cannot_enrol_anew_and_a_banned_enrolment_can_be_replaced() -> Result<()> {
    let scene = scene("ban-runner").await?;
    let operator = scene.issuer.operator()?;
    let knobs = AgentKnobs { max_age: Some("2s"), ..AgentKnobs::default() };
    let agent = AgentUnderTest::start(&scene.issuer, "test-1", knobs).await?;
    agent.token(DEPLOY.name)?;
    let name = format!("spiffe://{TRUST_DOMAIN}/runner/test-1");
    let set = as_operator(&scene.issuer, &["ban", &name, "--reason", "stolen"])?.succeeded()?;
    assert!(set.contains("ended 1 lease") && set.contains(&format!("shorepass unban {name}")), "{set}");
    wait::until("the plugin to be refused", Duration::from_secs(11), async || {
        let done = agent.exec(DEPLOY.name)?;
        Ok(match done.code {
            Some(3) if done.stderr.contains("shorepass unban") => Seen::Ready(()),
            _ => Seen::NotYet(format!("{done:?}")),
        })
    })
    .await?;
    let join_token = scene.issuer.join_token("test-1", true).await?;
    is_banned(client::try_enroll(&scene.issuer, &join_token, "test-1").await?)?;

    let list = as_operator(&scene.issuer, &["ban", "list", "-o", "json"])?.succeeded()?;
    let list: Value = serde_json::from_str(&list)?;
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("BanList"), Some(1)));
    as_operator(&scene.issuer, &["unban", &name])?.succeeded()?;
    as_operator(&scene.issuer, &["unban", &name])?.failed(1, &["RECORD_NOT_FOUND", "is not banned"])?;
    wait::until("the runner to be served again", Duration::from_secs(30), async || {
        let done = agent.exec(DEPLOY.name)?;
        Ok(if done.code == Some(0) { Seen::Ready(()) } else { Seen::NotYet(done.stderr) })
    })
    .await?;

    let audit = scene.issuer.audit()?;
    let enrolled = audit.iter().find(|line| line["event"] == "runner.enrolled").context("nobody enrolled")?;
    let enrolment = enrolled["enrolment"].as_str().context("no enrolment")?;
    let answer = operator.ban(enrolment).await?;
    assert_eq!((answer.lease_count, answer.ban.unwrap_or_default().spiffe_id), (1, name.clone()));
    // Its name is free, without --replace.
    let join_token = scene.issuer.join_token("test-1", false).await?;
    let identity = client::enroll(&scene.issuer, &join_token, "test-1").await?;
    let again = Client::new(&scene.issuer, &identity)?;
    let job = again.start_job().await?;
    again.issue(&job, "deploy").await.context("the new enrolment is banned too")?;
    again.end_job(&job).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_operator_may_do_nothing_and_nobody_bans_itself() -> Result<()> {
    let scene = scene("ban-operator").await?;
    let operator = scene.issuer.operator()?;
    let bob = scene.issuer.operator_named("bob")?;
    bob.leases().await?;
    let own = refused(operator.ban(&operator.spiffe_id.to_string()).await)?;
    assert_eq!(own.reason(), Some(ErrorReason::FieldInvalid));
    assert!(own.to_string().contains("another operator"), "{own}");
    let answer = operator.ban(&bob.spiffe_id.to_string()).await?;
    assert_eq!(answer.connection_count, 1);
    bob.reset();
    is_banned(bob.leases().await)?;
    is_banned(bob.unban(&bob.spiffe_id.to_string()).await)?;
    is_banned(bob.create_join_token("test-*", false).await)?;
    let selector = v1::LeaseSelector { all: true, ..Default::default() };
    is_banned(bob.revoke(selector).await)?;
    operator.unban(&bob.spiffe_id.to_string()).await?;
    bob.leases().await?;
    Ok(())
}
