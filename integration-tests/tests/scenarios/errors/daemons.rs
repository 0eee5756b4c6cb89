//! Refusals for the state that an issuer is in. Each has an issuer of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::{Client, refused};
use integration_tests::issuer::Knobs;
use integration_tests::proxy::{Fault, Proxy, Target};
use integration_tests::wait::{self, Seen};
use shorepass_proto::v1::{self, ErrorReason};
use shorepass_rpc::client::{ApiClient, ClientError};

use super::stage::{Another, Stage};

type Refusals = Result<Vec<ClientError>>;

/// The audit file may not grow: nothing is minted, and when it may again, all is well.
pub(super) async fn full_audit_file(stage: &Stage) -> Refusals {
    let Another { issuer, platform, identity: _identity } = stage.issuer_with(Knobs::default()).await?;
    let job = platform.start_job().await?;
    issuer.identities_are_audited().await?; // they would come in later, or be refused too
    let before = fs::read(issuer.audit_file())?;
    issuer.process()?.limit_files(Some(before.len() as u64))?;
    let errors = vec![refused(platform.start_job().await)?, refused(platform.issue(&job, "deploy").await)?];
    ensure!(fs::read(issuer.audit_file())? == before, "the audit file has changed");
    issuer.process()?.limit_files(None)?;
    issue_and_release(&platform, &job).await?;
    Ok(errors)
}

/// The records may not grow and the audit file may: a new one, shorter than they are, so that one limit lies in between.
pub(super) async fn full_store(stage: &Stage) -> Refusals {
    const ROOM_FOR_AUDIT: u64 = 8 * 1024;
    let Another { mut issuer, platform, identity: _identity } = stage.issuer_with(Knobs::default()).await?;
    let job = platform.start_job().await?;
    for _ in 0..100 {
        platform.start_job().await?;
    }
    let records = fs::metadata(issuer.state().join("ledger/db"))?.len();
    ensure!(records > 2 * ROOM_FOR_AUDIT, "the records are only {records} bytes long");
    issuer.stop()?;
    fs::rename(issuer.audit_file(), issuer.folder().join("audit.old"))?;
    issuer.run().await?;
    platform.reset();
    issuer.process()?.limit_files(Some(ROOM_FOR_AUDIT))?;
    platform.start_job().await?; // the audit file takes it; the records are written a moment later
    wait::until("the ledger to be closed", Duration::from_secs(10), async || {
        let answer = issuer.get("/readyz").await?;
        let closed = answer.starts_with("HTTP/1.1 503") && answer.contains("ledger: ");
        Ok(if closed { Seen::Ready(()) } else { Seen::NotYet(answer) })
    })
    .await?;
    let errors = vec![refused(platform.issue(&job, "deploy").await)?, refused(platform.start_job().await)?];
    issuer.stop()?;
    issuer.run().await?;
    platform.reset();
    issue_and_release(&platform, &job).await?;
    Ok(errors)
}

async fn issue_and_release(platform: &Client, job: &str) -> Result<()> {
    let issued = platform.issue(job, "deploy").await.context("there is room again, and nothing is issued")?;
    platform.release(&issued.lease.id).await?;
    Ok(())
}

/// A call that is in work holds the connection open, on which others are then refused.
pub(super) async fn issuer_that_shuts_down(stage: &Stage) -> Refusals {
    let identity = stage.site.another_issuer().await?;
    let proxy = Proxy::start_for(&stage.site, identity.folder(), &identity.token().await?).await?;
    let knobs = Knobs { kubeconfig: Some(proxy.kubeconfig()), ..Knobs::default() };
    let Another { mut issuer, platform, identity: _identity } = stage.issuer_as(identity, knobs).await?;
    let job = platform.start_job().await?;
    let _fault = proxy.fault(Target::Tokens, Fault::Hang);
    let earlier = proxy.seen().len();
    let in_work = tokio::spawn({
        let (platform, job) = (platform.clone(), job.clone());
        async move { platform.issue(&job, "deploy").await.map(|_| ()) }
    });
    wait::until("the TokenRequest", Duration::from_secs(10), async || {
        let asked = proxy.seen()[earlier..].iter().any(|seen| seen.path.ends_with("/token"));
        Ok(if asked { Seen::Ready(()) } else { Seen::NotYet("nothing".to_owned()) })
    })
    .await?;
    issuer.process()?.terminate()?;
    let error = first_refusal(&platform).await?;
    let ended = in_work.await?.err().context("a hanging TokenRequest gave a token")?;
    let waited = ended.reason() == Some(ErrorReason::ClusterUnreachable);
    ensure!(waited, "the call in work was not finished: {ended:?}");
    issuer.stop()?; // it does not end before the anchor is deleted
    stage.no_anchor_is_left_of(&issuer).await?;
    Ok(vec![error])
}

pub(super) async fn rate_limit(stage: &Stage) -> Refusals {
    let another = stage.issuer_with(Knobs { rate: (1, 3), ..Knobs::default() }).await?;
    Ok(vec![first_refusal(&another.platform).await?])
}

/// Calls until it is refused.
async fn first_refusal(client: &Client) -> Result<ClientError> {
    wait::until("a refusal", Duration::from_secs(10), async || {
        let roles = client.call(ApiClient::list_roles, v1::ListRolesRequest::default()).await;
        Ok(roles.err().map_or_else(|| Seen::NotYet("an answer".to_owned()), Seen::Ready))
    })
    .await
}
