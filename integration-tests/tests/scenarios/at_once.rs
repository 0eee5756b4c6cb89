//! A hundred at once, and one effect: uses of a join token, tries of a request, revocations of a lease. On the real API
//! server, counted in the audit file, in the cluster and in what callers were told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::client::{self, Client, runner_id};
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::site::Site;
use integration_tests::use_of_tokens::who_am_i;
use shorepass_proto::v1::{self, ErrorReason, RevokeOutcome};
use shorepass_rpc::client::ApiClient;
use shorepass_tls::KeyAndRequest;

const AT_ONCE: usize = 100;
/// Clients that share the calls: one connection has a limit of its own.
const CLIENTS: usize = 8;

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
    /// How often each event is in the audit file, but for refusals, and for identities and proofs, which have their own time.
    fn events(&self) -> Result<BTreeMap<String, usize>> {
        let others =
            ["request.refused", "identity.created", "control.planned", "control.gone", "lease.receipt"];
        let mut events = BTreeMap::new();
        for line in self.issuer.audit()? {
            if let Some(event) = line["event"].as_str().filter(|event| !others.contains(event)) {
                *events.entry(event.to_owned()).or_default() += 1;
            }
        }
        Ok(events)
    }

    async fn anchors(&self) -> Result<usize> {
        Ok(self.site.place.anchors().await?.len())
    }
}

fn counts<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().map(|(event, count)| (event.to_owned(), count)).collect()
}

/// Runs so many of them at the same time.
async fn at_once<T: Send + 'static, F>(mut one: impl FnMut(usize) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let tasks: Vec<_> = (0..AT_ONCE).map(|index| tokio::spawn(one(index))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.context("a task panicked")??);
    }
    Ok(results)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_token_used_a_hundred_times_at_once_enrols_one_runner() -> Result<()> {
    let scene = scene("join-once").await?;
    let join_token = scene.issuer.join_token("test-*", false).await?;
    let before = scene.events()?;
    // enroll: 16 connections of one address, 100 calls at once; the others are refused for that and ask again.
    let scene = std::sync::Arc::new(scene);
    let answers = at_once(|index| {
        let (scene, join_token) = (scene.clone(), join_token.clone());
        async move {
            for _ in 0..300 {
                let answer = enroll_once(&scene.issuer, &join_token, &format!("test-{index}")).await?;
                match answer {
                    Err(error) if error.reason() == Some(ErrorReason::RateLimited) => {}
                    Err(error) if error.reason().is_none() => {} // one connection too many of this address
                    answer => return Ok(answer.map(|_| ())),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            bail!("it was refused for its rate all the time")
        }
    })
    .await?;
    let enrolled = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(enrolled, 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.reason(), Some(ErrorReason::JoinTokenUsed), "{refused}");
    }
    let mut expected = before;
    expected.extend(counts([("join-token.taken", 1), ("runner.enrolled", 1)]));
    assert_eq!(scene.events()?, expected);
    Ok(())
}

/// Enrols without asking the issuer for anything else.
async fn enroll_once(
    issuer: &IssuerUnderTest,
    join_token: &str,
    name: &str,
) -> Result<Result<v1::EnrollResponse, shorepass_rpc::client::ClientError>> {
    let request = v1::EnrollRequest {
        join_token: join_token.to_owned(),
        name: name.to_owned(),
        certificate_request_pem: KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, name)?)?.request_pem,
        ..Default::default()
    };
    client::enroll_by(issuer, shorepass_tls::JoinTokenText::parse(join_token)?.ca(), request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_tried_a_hundred_times_at_once_is_one_lease_with_a_row_for_each_token() -> Result<()> {
    let scene = scene("issue-once").await?;
    let portal = scene.issuer.platform("test-portal")?;
    let clients: Vec<Client> =
        (0..CLIENTS).map(|_| scene.issuer.platform("test-portal")).collect::<Result<_>>()?;
    let job = portal.start_job().await?;
    let request = client::issue(&job, "deploy");
    let answers = at_once(|index| {
        let (client, request) = (clients[index % CLIENTS].clone(), request.clone());
        async move {
            for _ in 0..600 {
                match client.call(ApiClient::issue, request.clone()).await {
                    Ok(answer) => return Ok(answer),
                    // Its first attempt is at work, or so many mints are.
                    Err(error) if error.reason() == Some(ErrorReason::ClusterBusy) => {}
                    Err(error) if error.reason() == Some(ErrorReason::RateLimited) => {}
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            bail!("it was busy all the time")
        }
    })
    .await?;
    let lease = |answer: &v1::IssueResponse| answer.lease.clone().unwrap_or_default().id;
    let leases: BTreeSet<_> = answers.iter().map(lease).collect();
    let tokens: BTreeSet<_> =
        answers.iter().map(|answer| answer.credential.clone().unwrap_or_default().token_id).collect();
    assert_eq!((leases.len(), tokens.len(), scene.anchors().await?), (1, AT_ONCE, 1));
    let expected =
        counts([("job.started", 1), ("lease.pending", 1), ("lease.active", 1), ("token.minted", AT_ONCE)]);
    assert_eq!(scene.events()?, expected);
    let newest = answers.last().and_then(|answer| answer.credential.as_ref()).context("no token")?;
    let holder = scene.site.admin.client_with(&newest.token).await?;
    ensure!(who_am_i(&holder).await?.is_some(), "the API server refuses a token");
    portal.release(&lease(&answers[0])).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_revoked_a_hundred_times_at_once_ends_once_and_sets_one_block() -> Result<()> {
    let scene = scene("revoke-once").await?;
    let portal = scene.issuer.platform("test-portal")?;
    let clients: Vec<Client> = (0..CLIENTS).map(|_| scene.issuer.operator()).collect::<Result<_>>()?;
    let job = portal.start_job().await?;
    let lease = portal.issue(&job, "deploy").await?.lease.id;
    let before = scene.events()?;
    let answers = at_once(|index| {
        let (client, lease_id) = (clients[index % CLIENTS].clone(), lease.clone());
        async move { Ok(client.revoke(v1::LeaseSelector { lease_id, ..Default::default() }).await?) }
    })
    .await?;
    let mut blocks = 0;
    for steps in &answers {
        ensure!(steps.len() == 1, "who asked was told {} steps", steps.len());
        let outcome = steps[0].outcome();
        ensure!(
            matches!(outcome, RevokeOutcome::Revoked | RevokeOutcome::AlreadyEnded),
            "{outcome:?}: {}",
            steps[0].obstacle
        );
        blocks += usize::from(steps[0].block_set);
    }
    assert_eq!((blocks, scene.anchors().await?), (1, 0));
    let mut expected = before;
    expected.extend(counts([("block.set", 1), ("lease.ending", 1), ("lease.ended", 1)]));
    assert_eq!(scene.events()?, expected);
    Ok(())
}
