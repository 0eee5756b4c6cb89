//! Refusals for what a cluster is, says or does not say.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::client::refused;
use integration_tests::issuer::Knobs;
use integration_tests::proxy::{Answer, Fault, Target};
use integration_tests::wait::{self, Seen};
use serde_json::{Value, json};
use shorepass_core::time::Timestamp;
use shorepass_proto::v1::ErrorReason;
use shorepass_rpc::client::ClientError;

use super::stage::{ABSENT, REPLACED, ROLELESS, Stage, UNGRANTED};

type Refusals = Result<Vec<ClientError>>;

pub(super) async fn missing_service_account(stage: &Stage) -> Refusals {
    let error = stage.refused_issue(ABSENT.name).await?;
    let account = format!("ServiceAccount {}/{}", stage.site.place.namespace, ABSENT.service_account);
    ensure!(error.to_string().contains(&account), "{account} is not named: {error}");
    Ok(vec![error])
}

pub(super) async fn replaced_service_account(stage: &Stage) -> Refusals {
    let lease = stage.runner.issue(&stage.job, REPLACED.name).await?.lease.id;
    let accounts = stage.site.place.service_accounts();
    accounts.delete(REPLACED.service_account, &Default::default()).await?;
    stage.site.place.service_account(REPLACED.service_account).await?;
    let error = refused(stage.runner.refresh(&lease).await)?;
    stage
        .runner
        .issue(&stage.job, REPLACED.name)
        .await
        .context("the new ServiceAccount gets no new lease")?;
    Ok(vec![error])
}

pub(super) async fn forbidden_issuer(stage: &Stage) -> Refusals {
    let error = stage.refused_issue(UNGRANTED.name).await?;
    let rule = format!(
        "create serviceaccounts/token \"{}\" in namespace \"{}\"",
        UNGRANTED.service_account, stage.site.place.namespace
    );
    let told = error.refusal().and_then(|refusal| refusal.metadata.get("rule").cloned());
    ensure!(told.as_deref() == Some(rule.as_str()), "{rule} is not named: {error:?}");
    foreign_admission(stage).await?;
    Ok(vec![error])
}

pub(super) async fn missing_role(stage: &Stage) -> Refusals {
    let error = stage.refused_issue(ROLELESS.name).await?;
    let role = format!("Role/nobodys does not exist in namespace {}", stage.site.place.namespace);
    ensure!(error.to_string().contains(&role), "{role} is not named: {error}");
    Ok(vec![error])
}

pub(super) async fn rights_that_do_not_come(stage: &Stage) -> Refusals {
    let none = Fault::change(|answer| answer["status"]["resourceRules"] = json!([]));
    let _fault = stage.proxy.fault(Target::Rights, none);
    let error = stage.refused_issue("release").await?;
    ensure!(error.to_string().contains("are not in effect after 3 s"), "{error}");
    Ok(vec![error])
}

/// A webhook of somebody else's refuses: the caller is told that, and the operator in which words.
async fn foreign_admission(stage: &Stage) -> Result<()> {
    let message = "admission webhook \"guard.example\" denied the request: see http://10.0.0.9/rules";
    for target in [Target::Anchors, Target::Tokens] {
        let answer = Answer { status: 403, reason: "Forbidden", message, retry_after: None };
        let _fault = stage.proxy.fault(target, Fault::Answer(answer));
        let error = stage.refused_issue("deploy").await?;
        ensure!(error.reason() == Some(ErrorReason::IssuerForbidden), "{error:?}");
        ensure!(!format!("{error:?}").contains("guard.example"), "the webhook's words are told: {error:?}");
        let line = stage.decision(&error)?;
        ensure!(line["explanation"].as_str().is_some_and(|text| text.contains(message)), "{line}");
    }
    let failed =
        "Internal error occurred: failed calling webhook \"guard.example\": Post \"https://10.0.0.9\"";
    let answer = Answer { status: 500, reason: "InternalError", message: failed, retry_after: None };
    let _fault = stage.proxy.fault(Target::Tokens, Fault::Answer(answer));
    let error = stage.refused_issue("deploy").await?;
    ensure!(!format!("{error:?}").contains("guard.example"), "the webhook is named: {error:?}");
    ensure!(stage.issuer.log().contains("https://10.0.0.9"), "the operator is not told");
    Ok(())
}

pub(super) async fn missing_policy(stage: &Stage) -> Refusals {
    let site = &stage.site;
    let identity = site.another_issuer().await?;
    let twin = identity.twin(&site.admin, &[&site.place.namespace]).await?;
    let kubeconfig = site.admin.write_kubeconfig(identity.folder(), "twin", &twin)?;
    let knobs = Knobs { kubeconfig: Some(kubeconfig), ..Knobs::default() };
    let another = stage.issuer_as(identity, knobs).await?;
    let platform = &another.platform;
    let job = platform.start_job().await?;
    Ok(vec![refused(platform.issue(&job, "deploy").await)?, refused(platform.issue(&job, "deploy").await)?])
}

pub(super) async fn skewed_clocks(stage: &Stage) -> Refusals {
    let mut errors = Vec::new();
    for seconds in [-100, 100] {
        let change = Fault::change(move |answer| {
            shift(&mut answer["metadata"]["creationTimestamp"], seconds);
            shift(&mut answer["status"]["expirationTimestamp"], seconds);
        });
        let _fault = stage.proxy.fault(Target::Tokens, change);
        errors.push(stage.refused_issue("deploy").await?);
    }
    Ok(errors)
}

fn shift(time: &mut Value, seconds: i64) {
    if let Some(Ok(before)) = time.as_str().map(str::parse::<Timestamp>) {
        let moved = Timestamp::from_second(before.as_second() + seconds).unwrap_or(before);
        *time = json!(moved.to_string());
    }
}

pub(super) async fn unreachable_cluster(stage: &Stage) -> Refusals {
    let answer = |status, reason| {
        Fault::Answer(Answer { status, reason, message: "something is wrong", retry_after: None })
    };
    let mut errors = Vec::new();
    for fault in [answer(500, "InternalError"), answer(401, "Unauthorized"), Fault::LoseReply, Fault::Hang] {
        let fault = stage.proxy.fault(Target::Tokens, fault);
        errors.push(stage.refused_issue("deploy").await?);
        drop(fault);
        works_again(stage).await?;
    }
    stage.proxy.close(true);
    errors.push(stage.refused_issue("deploy").await?);
    stage.proxy.close(false);
    works_again(stage).await?;
    let causes = ["it failed (500)", "the issuer's own credential (401)"];
    for (error, cause) in errors.iter().zip(causes) {
        ensure!(error.to_string().contains(cause), "{cause:?} is not in {error}");
    }
    Ok(errors)
}

/// Waits until the issuer asks the cluster again, and it works.
async fn works_again(stage: &Stage) -> Result<()> {
    wait::until("the cluster to be asked again", Duration::from_secs(30), async || {
        Ok(match stage.runner.issue(&stage.job, "deploy").await {
            Ok(_) => Seen::Ready(()),
            Err(error) if error.retry_after().is_some() => Seen::NotYet(error.to_string()),
            Err(error) => return Err(error.into()),
        })
    })
    .await
}

pub(super) async fn busy_cluster(stage: &Stage) -> Refusals {
    let mut errors = Vec::new();
    for target in [Target::Anchors, Target::Tokens] {
        let busy = Answer { status: 429, reason: "TooManyRequests", message: "later", retry_after: Some(7) };
        let fault = stage.proxy.fault(target, Fault::Answer(busy));
        let error = stage.refused_issue("deploy").await?;
        drop(fault);
        works_again(stage).await?;
        ensure!(error.retry_after() == Some(Duration::from_secs(7)), "it is not passed on: {error:?}");
        errors.push(error);
    }
    Ok(errors)
}

pub(super) async fn missing_namespace(stage: &Stage) -> Refusals {
    let status = r#"{"kind": "Status", "reason": "NotFound", "message": "namespaces \"x\" not found",
        "details": {"kind": "namespaces"}}"#;
    let _fault = stage.proxy.fault(Target::Anchors, Fault::Say(404, status));
    let error = stage.refused_issue("deploy").await?;
    let said = format!("namespace {} does not exist", stage.site.place.namespace);
    ensure!(error.to_string().contains(&said), "{said:?} is not in {error}");
    Ok(vec![error])
}

pub(super) async fn used_up_quota(stage: &Stage) -> Refusals {
    let message = "secrets \"x\" is forbidden: exceeded quota: tight, requested: secrets=1";
    let answer = Answer { status: 403, reason: "Forbidden", message, retry_after: None };
    let _fault = stage.proxy.fault(Target::Anchors, Fault::Answer(answer));
    let error = stage.refused_issue("deploy").await?;
    ensure!(!format!("{error:?}").contains("tight"), "the quota's words are told: {error:?}");
    let line = stage.decision(&error)?;
    ensure!(line["explanation"].as_str().is_some_and(|text| text.contains(message)), "{line}");
    Ok(vec![error])
}

pub(super) async fn answers_that_are_not_what_was_asked(stage: &Stage) -> Refusals {
    let others = stage.site.place.token_of(UNGRANTED.service_account).await?;
    let unbound = stage.site.place.token_of("deployer").await?;
    let changes: Vec<(&str, Fault)> = vec![
        ("is not a JWT", Fault::change(|answer| answer["status"]["token"] = json!(""))),
        ("malformed", Fault::change(|answer| answer["status"] = Value::Null)),
        ("it is a token of", Fault::change(move |answer| answer["status"]["token"] = json!(others))),
        (
            "not bound to the lease's anchor",
            Fault::change(move |answer| answer["status"]["token"] = json!(unbound)),
        ),
        ("its audiences", Fault::change(|answer| answer["spec"]["audiences"] = json!(["https://elsewhere"]))),
        ("its expiry", Fault::change(|answer| shift(&mut answer["status"]["expirationTimestamp"], -30))),
        ("its expiry", Fault::change(|answer| shift(&mut answer["status"]["expirationTimestamp"], 3600))),
    ];
    let mut errors = Vec::new();
    for (said, fault) in changes {
        let _fault = stage.proxy.fault(Target::Tokens, fault);
        let error = stage.refused_issue("deploy").await?;
        ensure!(error.to_string().contains(said), "{said:?} is not in {error}");
        errors.push(error);
    }
    Ok(errors)
}
