//! Refusals for what callers are, show or ask.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration_tests::client::{self, Client, new_id, refused, runner_id, try_enroll};
use integration_tests::issuer::TRUST_DOMAIN;
use integration_tests::reasons;
use prost_types::Duration as WireDuration;
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_proto::v1;
use shorepass_rpc::client::{ApiClient, ClientError};
use shorepass_testing::certificates::Subject;
use shorepass_tls::{Identity, JoinTokenText, KeyAndRequest};

use super::stage::Stage;

type Refusals = Result<Vec<ClientError>>;

pub(super) async fn bad_fields(stage: &Stage) -> Refusals {
    let short = |seconds| Some(WireDuration { seconds, nanos: 0 });
    let lease = v1::IssueRequest { lease_lifetime: short(29), ..client::issue(&stage.job, "deploy") };
    let token = v1::IssueRequest { token_lifetime: short(599), ..client::issue(&stage.job, "deploy") };
    let mut errors = Vec::new();
    for (field, least, request) in [("lease_lifetime", "30 s", lease), ("token_lifetime", "600 s", token)] {
        let error = refused(stage.runner.call(ApiClient::issue, request).await)?;
        let named = error.refusal().and_then(|refusal| refusal.metadata.get("field").cloned());
        ensure!(named.as_deref() == Some(field), "{field} is not named: {error:?}");
        ensure!(error.to_string().contains(least), "{least} is not said: {error:?}");
        errors.push(error);
    }
    Ok(errors)
}

pub(super) async fn reused_request_ids(stage: &Stage) -> Refusals {
    let job = client::start_job("first");
    stage.runner.call(ApiClient::start_job, job.clone()).await?;
    let other_job = v1::StartJobRequest { request_id: job.request_id, ..client::start_job("second") };
    let issue = client::issue(&stage.job, "deploy");
    stage.runner.call(ApiClient::issue, issue.clone()).await?;
    let other_role = v1::IssueRequest { role: "absent".to_owned(), ..issue };
    let join_token = client::create_join_token("test-new", false);
    stage.operator.call(ApiClient::create_join_token, join_token.clone()).await?;
    let shown_twice = refused(stage.operator.call(ApiClient::create_join_token, join_token).await)?;
    ensure!(shown_twice.reason() == Some(v1::ErrorReason::RequestIdReused), "{shown_twice:?}");
    let errors = vec![
        refused(stage.runner.call(ApiClient::start_job, other_job).await)?,
        refused(stage.runner.call(ApiClient::issue, other_role).await)?,
    ];
    for error in errors.iter().chain([&shown_twice]) {
        let line = stage.decision(error)?;
        ensure!(line["reason"] == "REQUEST_ID_REUSED", "{line}");
    }
    Ok(errors)
}

pub(super) async fn unknown_join_tokens(stage: &Stage) -> Refusals {
    let good = stage.issuer.join_token("test-new", false).await?;
    let middle = if &good[20..21] == "A" { "B" } else { "A" };
    let mistyped = format!("{}{middle}{}", &good[..20], &good[21..]);
    let unknown = JoinTokenText::generate(JoinTokenText::parse(&good)?.ca(), &SystemEntropy);
    let foreign = JoinTokenText::generate(Digest::of_bytes(b"another CA"), &SystemEntropy);
    let mut errors = Vec::new();
    for (text, said) in [
        (mistyped.as_str(), "copy the whole line again"),
        ("hello", "ask an operator for one"),
        (&unknown.expose(), "ask an operator for one"),
        (&foreign.expose(), "made by another issuer; ask this one's operators"),
    ] {
        let error = refused(try_enroll(&stage.issuer, text, "test-new").await?)?;
        ensure!(error.to_string().contains(said), "{said:?} is not in {error}");
        ensure!(!error.to_string().contains(text), "the join token is repeated");
        errors.push(error);
    }
    Ok(errors)
}

pub(super) async fn used_join_token(stage: &Stage) -> Refusals {
    let join_token = stage.issuer.join_token("test-used*", false).await?;
    client::enroll(&stage.issuer, &join_token, "test-used-1").await?;
    Ok(vec![
        refused(try_enroll(&stage.issuer, &join_token, "test-used-1").await?)?,
        refused(try_enroll(&stage.issuer, &join_token, "test-used-2").await?)?,
    ])
}

pub(super) async fn expired_join_token(stage: &Stage) -> Refusals {
    let join_token = stage.expired_join_token().await;
    Ok(vec![refused(try_enroll(&stage.issuer, join_token, "test-late").await?)?])
}

pub(super) async fn other_trust_domain(stage: &Stage) -> Refusals {
    let elsewhere = runner_id("elsewhere.example.org", "test-new")?;
    let request = v1::EnrollRequest {
        join_token: stage.issuer.join_token("test-new", false).await?,
        name: "test-new".to_owned(),
        certificate_request_pem: KeyAndRequest::generate(&elsewhere)?.request_pem,
        ..Default::default()
    };
    Ok(vec![refused(client::enroll_with(&stage.issuer, request).await?)?])
}

pub(super) async fn certificate_that_ends_on_its_connection(stage: &Stage) -> Refusals {
    const LEFT: Duration = Duration::from_secs(4);
    let ca = stage.authority()?;
    let now = SystemClock.now();
    // Good certificates end an hour after their moment.
    let pair = ca.client(&Subject {
        spiffe_id: SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/platform/test-brief"))?,
        enrolment: EnrolmentId::generate(now, &SystemEntropy),
        now: now - Duration::from_secs(3600) + LEFT,
    });
    let identity = Identity::parse(pair.identity_pem(ca.certificate_pem()).as_bytes())?;
    let platform = Client::new(&stage.issuer, &identity)?;
    platform.start_job().await?;
    tokio::time::sleep(LEFT + Duration::from_secs(1)).await;
    Ok(vec![refused(platform.start_job().await)?])
}

pub(super) async fn wrong_kinds(stage: &Stage) -> Refusals {
    let list = v1::ListLeasesRequest::default();
    Ok(vec![
        refused(stage.runner.call(ApiClient::list_leases, list).await)?,
        refused(stage.operator.issue(&stage.job, "deploy").await)?,
    ])
}

pub(super) async fn unknown_and_forbidden_roles(stage: &Stage) -> Refusals {
    // No role document names this runner.
    let outsider = stage.issuer.runner("outsider").await?;
    let job = outsider.start_job().await?;
    let unknown = refused(outsider.issue(&job, "nothing").await)?;
    let forbidden = refused(outsider.issue(&job, "deploy").await)?;
    alike(&unknown, &forbidden, ["nothing", "deploy"])?;
    for error in [&unknown, &forbidden] {
        let line = stage.decision(error)?;
        ensure!(line["explanation"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
    }
    Ok(vec![unknown, forbidden])
}

pub(super) async fn unknown_and_foreign_leases(stage: &Stage) -> Refusals {
    let foreign = stage.runner.issue(&stage.job, "deploy").await?.lease.id;
    let unknown = stage.nothing();
    let mut errors = Vec::new();
    for lease in [&unknown, &foreign] {
        errors.push(refused(stage.stranger.refresh(lease).await)?);
        errors.push(refused(stage.stranger.release(lease).await)?);
    }
    alike(&errors[0], &errors[2], ["", ""])?;
    let owner = stage.runner.spiffe_id.to_string();
    let explained =
        stage.decision(&errors[2])?["explanation"].as_str().is_some_and(|text| text.contains(&owner));
    ensure!(explained, "the operator cannot find out whose lease it is");
    Ok(errors)
}

pub(super) async fn unknown_and_foreign_jobs(stage: &Stage) -> Refusals {
    let unknown = refused(stage.stranger.issue(&stage.nothing(), "deploy").await)?;
    let foreign = refused(stage.stranger.issue(&stage.job, "deploy").await)?;
    alike(&unknown, &foreign, ["", ""])?;
    Ok(vec![unknown, foreign, refused(stage.stranger.end_job(&stage.job).await)?])
}

/// That a caller cannot tell the two apart, but for what it said itself.
fn alike(one: &ClientError, other: &ClientError, said: [&str; 2]) -> Result<()> {
    let message = |error: &ClientError, said: &str| match said {
        "" => error.to_string(),
        said => error.to_string().replace(said, "ROLE"),
    };
    let (one, other) = (message(one, said[0]), message(other, said[1]));
    ensure!(one == other, "{one:?} is not {other:?}");
    Ok(())
}

pub(super) async fn blocked_runner(stage: &Stage) -> Refusals {
    let runner = stage.issuer.runner("test-blocked").await?;
    let job = runner.start_job().await?;
    let lease = runner.issue(&job, "deploy").await?.lease.id;
    stage.operator.revoke(v1::LeaseSelector { lease_id: lease, ..Default::default() }).await?;
    let error = refused(runner.issue(&job, "deploy").await)?;
    ensure!(error.to_string().contains("leaked"), "the operator's reason is not told: {error}");
    Ok(vec![error])
}

/// Who connects anew, under a name that is enrolled anew, and of each kind.
pub(super) async fn banned_callers(stage: &Stage) -> Refusals {
    let runner = stage.issuer.runner("test-banned").await?;
    let platform = stage.issuer.platform("test-banned")?;
    platform.start_job().await?;
    for client in [&runner, &platform] {
        stage.operator.ban(&client.spiffe_id.to_string()).await?;
        client.reset(); // what was open is closed; a call may meet that
    }
    let join_token = stage.issuer.join_token("test-banned", true).await?;
    Ok(vec![
        refused(runner.start_job().await)?,
        refused(client::try_enroll(&stage.issuer, &join_token, "test-banned").await?)?,
        refused(platform.start_job().await)?,
    ])
}

pub(super) async fn ended_lease(stage: &Stage) -> Refusals {
    let released = stage.runner.issue(&stage.job, "deploy").await?.lease.id;
    stage.runner.release(&released).await?;
    let lost = stage.runner.issue(&stage.job, "deploy").await?.lease.id;
    let records = stage.operator.leases().await?;
    let is_lost = |record: &&v1::LeaseRecord| record.lease.as_ref().is_some_and(|lease| lease.id == lost);
    let anchor = records.iter().find(is_lost).map(|record| record.anchor.clone()).unwrap_or_default();
    stage.site.place.secrets().delete(&anchor, &Default::default()).await?;
    Ok(vec![refused(stage.runner.refresh(&released).await)?, refused(stage.runner.refresh(&lost).await)?])
}

pub(super) async fn ended_job(stage: &Stage) -> Refusals {
    let job = stage.runner.start_job().await?;
    stage.runner.end_job(&job).await?;
    Ok(vec![refused(stage.runner.issue(&job, "deploy").await)?])
}

pub(super) async fn other_runner_name(stage: &Stage) -> Refusals {
    let join_token = stage.issuer.join_token("test-new*", false).await?;
    Ok(vec![refused(try_enroll(&stage.issuer, &join_token, "prod-1").await?)?])
}

pub(super) async fn name_that_is_taken(stage: &Stage) -> Refusals {
    let join_token = stage.issuer.join_token("test-1", false).await?;
    let error = refused(try_enroll(&stage.issuer, &join_token, "test-1").await?)?;
    stage.runner.start_job().await?; // who has the name keeps it
    Ok(vec![error])
}

pub(super) async fn replaced_enrolment(stage: &Stage) -> Refusals {
    let before = stage.issuer.runner("test-replaced").await?;
    before.start_job().await?;
    let join_token = stage.issuer.join_token("test-replaced", true).await?;
    client::enroll(&stage.issuer, &join_token, "test-replaced").await?;
    let on_the_old_connection = refused(before.start_job().await)?;
    before.reset();
    Ok(vec![on_the_old_connection, refused(before.start_job().await)?])
}

pub(super) async fn rejoins_that_prove_nothing(stage: &Stage) -> Refusals {
    const NAME: &str = "test-back";
    let join_token = stage.issuer.join_token(NAME, false).await?;
    let held = client::enroll(&stage.issuer, &join_token, NAME).await?;
    let enroll = client::enroll_client(&stage.issuer, JoinTokenText::parse(&join_token)?.ca())?;
    let begin = v1::BeginRejoinRequest { certificate_pem: held.certificate_pem() };
    let nonce = enroll.begin_rejoin(begin).await?.nonce;
    let made = KeyAndRequest::generate(held.spiffe_id())?;
    let good = v1::RejoinRequest {
        certificate_pem: held.certificate_pem(),
        certificate_request_pem: made.request_pem,
        signature: held.prove(&nonce, made.key.digest())?,
        nonce,
    };
    let made_up = v1::RejoinRequest { nonce: vec![0; good.nonce.len()], ..good.clone() };
    let forged = v1::RejoinRequest { signature: held.prove(b"other", made.key.digest())?, ..good.clone() };
    let mut errors = Vec::new();
    for request in [made_up, forged] {
        errors.push(refused(reasons::note(enroll.rejoin(request).await))?);
    }
    enroll.rejoin(good.clone()).await?;
    errors.push(refused(reasons::note(enroll.rejoin(good).await))?);
    Ok(errors)
}

pub(super) async fn cloned_runner(stage: &Stage) -> Refusals {
    const NAME: &str = "test-cloned";
    let identity = client::enroll(&stage.issuer, &stage.issuer.join_token(NAME, false).await?, NAME).await?;
    let before = Client::new(&stage.issuer, &identity)?;
    let renewal = || KeyAndRequest::generate(&before.spiffe_id);
    let asked = |made: &KeyAndRequest| v1::RenewRequest { certificate_request_pem: made.request_pem.clone() };
    let made = renewal()?;
    let answer = before.call(ApiClient::renew, asked(&made)).await?;
    let renewed = Identity::new(made.key, &answer.certificate_chain_pem, &answer.trust_bundle_pem)?;
    let after = Client::new(&stage.issuer, &renewed)?;
    after.start_job().await?;
    // The connections of both are closed; the answer may be lost with its own.
    ensure!(
        before.call(ApiClient::renew, asked(&renewal()?)).await.is_err(),
        "an older certificate is renewed"
    );
    let mut errors = Vec::new();
    for half in [&before, &after] {
        half.reset();
        errors.push(refused(half.start_job().await)?);
        errors.push(refused(half.call(ApiClient::renew, asked(&renewal()?)).await)?);
    }
    let join_token = stage.issuer.join_token(NAME, false).await?;
    errors.push(refused(try_enroll(&stage.issuer, &join_token, NAME).await?)?);
    Ok(errors)
}

pub(super) async fn unknown_records(stage: &Stage) -> Refusals {
    let operator = &stage.operator;
    let nothing = stage.nothing();
    let lease = v1::GetLeaseRequest { lease_id: nothing.clone() };
    let block = v1::UnblockRequest { block_id: nothing.clone() };
    let token = v1::FindTokenRequest { token_id: new_id() };
    let unban = v1::UnbanRequest { subject: new_id() };
    let errors = vec![
        refused(operator.call(ApiClient::unban, unban).await)?,
        refused(operator.ban(&new_id()).await)?,
        refused(operator.call(ApiClient::get_lease, lease).await)?,
        refused(operator.call(ApiClient::unblock, block).await)?,
        refused(operator.call(ApiClient::find_token, token).await)?,
        refused(operator.revoke(v1::LeaseSelector { lease_id: nothing, ..Default::default() }).await)?,
    ];
    let remedies = [
        "see `shorepass ban list`",
        "it stands as `enrolment` in the audit file",
        "see `shorepass lease list --all`",
        "see `shorepass block list`",
        "give the jti claim",
        "see `shorepass lease list`",
    ];
    for (error, remedy) in errors.iter().zip(remedies) {
        ensure!(error.to_string().contains(remedy), "{remedy:?} is not in {error}");
    }
    Ok(errors)
}
