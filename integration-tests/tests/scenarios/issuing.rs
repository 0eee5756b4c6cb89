//! A lease from its issue to its end, by clients over mTLS: what they get, what is recorded, what stays in the cluster.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64URL_NOPAD;
use integration_tests::agent::as_operator;
use integration_tests::audit_log::AuditLog;
use integration_tests::client::{self, Client, Issued, new_id, refused};
use integration_tests::issuer::{IssuerUnderTest, Knobs};
use integration_tests::site::Site;
use integration_tests::use_of_tokens::{is_refused_for_good, who_am_i};
use serde_json::Value;
use shorepass_core::digest::Digest;
use shorepass_proto::v1::{self, ErrorReason, LeaseState, RevokeOutcome};
use shorepass_rpc::client::ApiClient;

/// Dropped in this order: the issuer before the cluster's side of it.
struct Scene {
    issuer: IssuerUnderTest,
    site: Site,
}

async fn scene() -> Result<Scene> {
    let site = Site::new("issuing").await?;
    Ok(Scene { issuer: IssuerUnderTest::start(&site, Knobs::default()).await?, site })
}

impl Scene {
    /// A runner with a job and a lease.
    async fn leased(&self) -> Result<(Client, String, Issued)> {
        let runner = self.issuer.runner("test-1").await?;
        let job = runner.start_job().await?;
        let issued = runner.issue(&job, "deploy").await?;
        Ok((runner, job, issued))
    }

    async fn holder(&self, issued: &Issued) -> Result<kube::Client> {
        self.site.admin.client_with(&issued.credential.token).await
    }

    /// The names of the Secrets in the role's namespace.
    async fn anchors(&self) -> Result<BTreeSet<String>> {
        let secrets = self.site.place.secrets().list(&Default::default()).await?;
        Ok(secrets.items.into_iter().filter_map(|secret| secret.metadata.name).collect())
    }

    /// The audit lines about a lease, in their order.
    fn audit_of(&self, lease: &str) -> Result<Vec<Value>> {
        Ok(self.issuer.audit()?.into_iter().filter(|line| line["lease"] == lease).collect())
    }
}

fn events(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["event"].as_str()).collect()
}

#[tokio::test]
async fn runners_and_platforms_get_tokens_that_the_api_server_accepts() -> Result<()> {
    let scene = scene().await?;
    let account = format!("system:serviceaccount:{}:deployer", scene.site.place.namespace);
    for client in [scene.issuer.runner("test-1").await?, scene.issuer.platform("test-portal")?] {
        let job = client.start_job().await?;
        let issued = client.issue(&job, "deploy").await?;
        let user = who_am_i(&scene.holder(&issued).await?).await?.context("a fresh token is refused")?;
        assert_eq!(user.username.as_deref(), Some(account.as_str()));
        let extra = user.extra.unwrap_or_default();
        let credential =
            extra.get("authentication.kubernetes.io/credential-id").context("no credential id")?;
        assert_eq!(credential, &[format!("JTI={}", issued.credential.token_id)]);
        assert_eq!(issued.lease.state(), LeaseState::Active);
    }
    Ok(())
}

#[tokio::test]
async fn the_audit_file_tells_an_issue_in_its_order() -> Result<()> {
    let scene = scene().await?;
    scene.issuer.operator()?;
    scene.issuer.identities_are_audited().await?; // on its own time, in between the others if later
    let (runner, job, issued) = scene.leased().await?;
    let lines = scene.issuer.audit()?;
    let numbers: Vec<u64> = lines.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(numbers, (1..=lines.len() as u64).collect::<Vec<_>>());
    let tail = &lines[lines.len() - 4..];
    assert_eq!(events(tail), ["job.started", "lease.pending", "lease.active", "token.minted"]);
    for line in tail {
        assert_eq!(line["caller"], runner.spiffe_id.to_string());
    }
    assert_eq!(tail[1]["job"], job.as_str());
    let token = &tail[3];
    assert_eq!(token["lease"], issued.lease.id.as_str());
    assert_eq!(token["jti"], issued.credential.token_id.as_str());
    let fingerprint = Digest::of_bytes(issued.credential.token.as_bytes()).to_string();
    assert_eq!(token["fingerprint"], fingerprint);
    Ok(())
}

#[tokio::test]
async fn the_anchor_is_sealed_and_tells_nothing_of_the_job() -> Result<()> {
    let scene = scene().await?;
    let (runner, job, issued) = scene.leased().await?;
    let line = scene.audit_of(&issued.lease.id)?.into_iter().next().context("no audit line")?;
    let anchor = scene.site.place.secrets().get(line["anchor"].as_str().unwrap_or_default()).await?;
    assert_eq!(anchor.type_.as_deref(), Some("shorepass.dev/lease"));
    assert!(anchor.data.is_none_or(|data| data.is_empty()));
    let annotations = anchor.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["shorepass.dev/lease"]);
    let parts: Vec<&str> = annotations["shorepass.dev/lease"].split('.').collect();
    ensure!(parts.len() == 3 && parts[0] == "v1", "{parts:?}");
    let sealed = BASE64URL_NOPAD.decode(parts[1].as_bytes())?;
    assert_eq!(BASE64URL_NOPAD.decode(parts[2].as_bytes())?.len(), 32);
    let sealed = String::from_utf8_lossy(&sealed);
    assert!(sealed.contains(&issued.lease.id) && sealed.contains(scene.issuer.name()));
    for private in [job.as_str(), runner.spiffe_id.name.as_str(), "deploy"] {
        assert!(!sealed.contains(private), "{private}");
    }
    Ok(())
}

#[tokio::test]
async fn the_clusters_own_audit_log_names_the_lease_and_the_token() -> Result<()> {
    let scene = scene().await?;
    let (_, _, issued) = scene.leased().await?;
    let event = AuditLog::open(&scene.site.admin.environment)
        .wait_for("the TokenRequest in the audit log", |event| {
            event["objectRef"]["subresource"] == "token"
                && event["objectRef"]["namespace"] == scene.site.place.namespace.as_str()
        })
        .await?;
    let agent = event["userAgent"].as_str().unwrap_or_default();
    ensure!(agent.contains(&format!(" lease/{} request/", issued.lease.id)), "{agent}");
    let lease = format!("{}/lease-id", scene.site.identity.policy);
    assert_eq!(event["annotations"][lease], issued.lease.id.as_str());
    let credential = format!("JTI={}", issued.credential.token_id);
    assert_eq!(event["annotations"]["authentication.kubernetes.io/issued-credential-id"], credential);
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_gives_the_same_lease_with_a_new_token() -> Result<()> {
    let scene = scene().await?;
    let runner = scene.issuer.runner("test-1").await?;
    let request = client::issue(&runner.start_job().await?, "deploy");
    let first = runner.call(ApiClient::issue, request.clone()).await?;
    let again = runner.call(ApiClient::issue, request.clone()).await?;
    let lease = |answer: &v1::IssueResponse| answer.lease.clone().unwrap_or_default().id;
    let jti = |answer: &v1::IssueResponse| answer.credential.clone().unwrap_or_default().token_id;
    assert_eq!(lease(&first), lease(&again));
    assert_ne!(jti(&first), jti(&again));
    assert_eq!(scene.anchors().await?.len(), 1);

    let other = v1::IssueRequest { role: "other".to_owned(), ..request };
    let error = refused(runner.call(ApiClient::issue, other).await)?;
    assert_eq!(error.reason(), Some(ErrorReason::RequestIdReused));
    Ok(())
}

#[tokio::test]
async fn a_released_lease_takes_its_tokens_with_it() -> Result<()> {
    let scene = scene().await?;
    let (runner, _, first) = scene.leased().await?;
    let second = runner.refresh(&first.lease.id).await?;
    let holders = [scene.holder(&first).await?, scene.holder(&second).await?];
    for holder in &holders {
        ensure!(who_am_i(holder).await?.is_some(), "a living token is refused");
    }
    assert_eq!(runner.release(&first.lease.id).await?.state(), LeaseState::Ended);
    assert_eq!(scene.anchors().await?.len(), 0);
    for holder in &holders {
        is_refused_for_good(holder).await?;
    }
    let lines = scene.audit_of(&first.lease.id)?;
    assert_eq!(events(&lines)[4..], ["lease.ending", "lease.ended"]);
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_job_ends_all_its_leases_and_no_other() -> Result<()> {
    let scene = scene().await?;
    let (runner, job, first) = scene.leased().await?;
    let second = runner.issue(&job, "deploy").await?;
    let other = runner.start_job().await?;
    let spared = runner.issue(&other, "deploy").await?;
    let ended: BTreeSet<String> = runner.end_job(&job).await?.into_iter().map(|lease| lease.id).collect();
    assert_eq!(ended, BTreeSet::from([first.lease.id.clone(), second.lease.id.clone()]));
    assert_eq!(scene.anchors().await?.len(), 1);
    for issued in [&first, &second] {
        is_refused_for_good(&scene.holder(issued).await?).await?;
    }
    ensure!(who_am_i(&scene.holder(&spared).await?).await?.is_some(), "another job's token died too");
    Ok(())
}

#[tokio::test]
async fn a_revoked_runner_is_blocked_until_an_operator_lifts_it_also_after_sigkill() -> Result<()> {
    let mut scene = scene().await?;
    let (runner, _, issued) = scene.leased().await?;
    let other = scene.issuer.runner("test-2").await?;
    let operator = scene.issuer.operator()?;
    let selector = v1::LeaseSelector { lease_id: issued.lease.id.clone(), ..Default::default() };
    let steps = operator.revoke(selector).await?;
    assert_eq!(steps.iter().map(|step| step.outcome()).collect::<Vec<_>>(), [RevokeOutcome::Revoked]);
    is_refused_for_good(&scene.holder(&issued).await?).await?;
    let lines = scene.audit_of(&issued.lease.id)?;
    let events = events(&lines);
    let (end, proof) = events[3..].split_at(3);
    assert_eq!(end, ["block.set", "lease.ending", "lease.ended"]);
    assert!(proof.iter().all(|event| *event == "lease.receipt"), "{proof:?}"); // it comes when it is there

    scene.issuer.kill()?;
    scene.issuer.run().await?;
    for client in [&runner, &other, &operator] {
        client.reset();
    }
    let job = runner.start_job().await?;
    let error = refused(runner.issue(&job, "deploy").await)?;
    assert_eq!(error.reason(), Some(ErrorReason::Blocked));
    other.issue(&other.start_job().await?, "deploy").await.context("another runner is blocked too")?;

    let block = steps[0].lease.clone().and_then(|record| record.block).context("no block is shown")?;
    operator.call(ApiClient::unblock, v1::UnblockRequest { block_id: block.id }).await?;
    runner.issue(&job, "deploy").await.context("it is blocked although the block was lifted")?;
    Ok(())
}

#[tokio::test]
async fn whois_finds_the_job_behind_a_jti() -> Result<()> {
    let scene = scene().await?;
    let (runner, job, issued) = scene.leased().await?;
    let jti = &issued.credential.token_id;
    let found = as_operator(&scene.issuer, &["whois", &format!("JTI={jti}"), "-o", "json"])?.succeeded()?;
    for fact in [jti, &issued.lease.id, &job, &runner.spiffe_id.to_string()] {
        ensure!(found.contains(fact.as_str()), "{fact} is not in {found}");
    }
    as_operator(&scene.issuer, &["whois", &new_id()])?.failed(1, &["no token with this jti"])?;
    Ok(())
}
