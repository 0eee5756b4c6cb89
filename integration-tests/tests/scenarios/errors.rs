//! Every reason that a call can be refused with, provoked on a real issuer: its code, and that it says what to do.
//!
//! The tables are matches over the enum without a catch-all: a reason that is added and not provoked does not compile.
//! What was seen by clients is counted all the same.

mod callers;
mod clusters;
mod daemons;
mod enrolling;
mod jobs;
mod stage;

use anyhow::{Context, Result, ensure};
use integration_tests::reasons;
use integration_tests::site::NEEDY;
use shorepass_proto::v1::ErrorReason as Reason;
use shorepass_rpc::client::ClientError;
use shorepass_rpc::status::Code;

use stage::Stage;

/// The code that the reason comes with, and what the message must tell to do.
fn expected(reason: Reason) -> (Code, &'static str) {
    match reason {
        Reason::Unspecified => (Code::Unknown, "never sent"),
        Reason::FieldInvalid => (Code::InvalidArgument, "must be at least"),
        Reason::RequestIdReused => {
            (Code::InvalidArgument, "used before with other content; choose a new one")
        }
        Reason::JoinTokenUnknown => (Code::Unauthenticated, ""),
        Reason::JoinTokenUsed => (Code::Unauthenticated, "ask an operator for a new one"),
        Reason::JoinTokenExpired => (Code::Unauthenticated, "ask an operator for a new one"),
        Reason::TrustDomainUnknown => (Code::Unauthenticated, "correct trustDomain in the agent's config"),
        Reason::CertificateExpired => (Code::Unauthenticated, "connect with a renewed one, or enrol again"),
        Reason::CallerKind => (Code::PermissionDenied, ", and the caller is a"),
        Reason::RoleNotAvailable => {
            (Code::PermissionDenied, "an operator finds the reason by the decision id")
        }
        Reason::LeaseNotAvailable => (Code::PermissionDenied, "check the id with whoever gave it to you"),
        Reason::Banned => (Code::PermissionDenied, "an operator lifts it with `shorepass unban "),
        Reason::Blocked => (Code::PermissionDenied, "an operator lifts it with `shorepass unblock "),
        Reason::LeaseEnded => (Code::FailedPrecondition, "ask for a new"),
        Reason::JobEnded => (Code::FailedPrecondition, "start a new one"),
        Reason::ServiceAccountMissing => (Code::FailedPrecondition, "create it, or correct the role"),
        Reason::ServiceAccountReplaced => (Code::FailedPrecondition, "ask for a new lease"),
        Reason::IssuerForbidden => (Code::FailedPrecondition, "apply what `shorepass-issuer rbac` prints"),
        Reason::AdmissionPolicyMissing => {
            (Code::FailedPrecondition, "apply what `shorepass-issuer rbac` prints")
        }
        Reason::ClockSkew => (Code::FailedPrecondition, "synchronise both with NTP"),
        Reason::ClusterUnreachable => {
            (Code::Unavailable, "the API server of cluster test cannot be reached: ")
        }
        Reason::StoreUnavailable => (Code::Unavailable, "its operators find the cause in its log"),
        Reason::AuditUnavailable => (Code::Unavailable, "its operators must free space or mend"),
        Reason::ShuttingDown => (Code::Unavailable, "call again when it is back"),
        Reason::RateLimited => (Code::ResourceExhausted, "slow down"),
        Reason::ClusterBusy => (Code::ResourceExhausted, "try again later"),
        Reason::ClusterAnswerRejected => (Code::Internal, "operators should look at the API server"),
        Reason::JobNotAvailable => (Code::PermissionDenied, "start one with StartJob"),
        Reason::RunnerNameNotAllowed => (Code::PermissionDenied, "this join token is for runners named"),
        Reason::EnrolmentExists => (Code::FailedPrecondition, "use a join token made with --replace"),
        Reason::EnrolmentEnded => (Code::Unauthenticated, "enrol it again with a new join token"),
        Reason::RecordNotFound => (Code::NotFound, ""),
        Reason::RightsNotInEffect => (Code::FailedPrecondition, ""),
        Reason::RightsMissing => {
            (Code::FailedPrecondition, "an administrator of the cluster adds the rules that come with this")
        }
        Reason::NamespaceUnavailable => (Code::FailedPrecondition, "create it and apply what"),
        Reason::RejoinRefused => (Code::Unauthenticated, ": ask "),
        Reason::RunnerCloned => (Code::PermissionDenied, "to make a join token with --replace"),
        Reason::PodTokenRejected => (Code::Unauthenticated, "project a token for that audience"),
        Reason::EnrolmentTokenRejected => (Code::Unauthenticated, "enrolment.oidc"),
        Reason::EnrolmentTokenUsed => (Code::Unauthenticated, "get a new one for each enrolment"),
        Reason::EnrolmentIssuerUnavailable => (Code::Unavailable, "try again later"),
        Reason::QuotaExceeded => (Code::ResourceExhausted, "let leases end, or raise the quota"),
        Reason::JobTokenRejected => (Code::Unauthenticated, "CI system"),
        Reason::JobTokenExpired => (Code::Unauthenticated, "use it at once"),
        Reason::JobTokenUsed => (Code::Unauthenticated, "ask the CI system for a new one"),
        Reason::JobIssuerUnavailable => (Code::Unavailable, "try again later"),
    }
}

/// Everything that must be refused with this reason, refused.
async fn provoke(stage: &Stage, reason: Reason) -> Result<Vec<ClientError>> {
    match reason {
        Reason::Unspecified => Ok(Vec::new()),
        Reason::FieldInvalid => callers::bad_fields(stage).await,
        Reason::RequestIdReused => callers::reused_request_ids(stage).await,
        Reason::JoinTokenUnknown => callers::unknown_join_tokens(stage).await,
        Reason::JoinTokenUsed => callers::used_join_token(stage).await,
        Reason::JoinTokenExpired => callers::expired_join_token(stage).await,
        Reason::TrustDomainUnknown => callers::other_trust_domain(stage).await,
        Reason::CertificateExpired => callers::certificate_that_ends_on_its_connection(stage).await,
        Reason::CallerKind => callers::wrong_kinds(stage).await,
        Reason::RoleNotAvailable => callers::unknown_and_forbidden_roles(stage).await,
        Reason::LeaseNotAvailable => callers::unknown_and_foreign_leases(stage).await,
        Reason::Banned => callers::banned_callers(stage).await,
        Reason::Blocked => callers::blocked_runner(stage).await,
        Reason::LeaseEnded => callers::ended_lease(stage).await,
        Reason::JobEnded => callers::ended_job(stage).await,
        Reason::ServiceAccountMissing => clusters::missing_service_account(stage).await,
        Reason::ServiceAccountReplaced => clusters::replaced_service_account(stage).await,
        Reason::IssuerForbidden => clusters::forbidden_issuer(stage).await,
        Reason::AdmissionPolicyMissing => clusters::missing_policy(stage).await,
        Reason::ClockSkew => clusters::skewed_clocks(stage).await,
        Reason::ClusterUnreachable => clusters::unreachable_cluster(stage).await,
        Reason::StoreUnavailable => daemons::full_store(stage).await,
        Reason::AuditUnavailable => daemons::full_audit_file(stage).await,
        Reason::ShuttingDown => daemons::issuer_that_shuts_down(stage).await,
        Reason::RateLimited => daemons::rate_limit(stage).await,
        Reason::ClusterBusy => clusters::busy_cluster(stage).await,
        Reason::ClusterAnswerRejected => clusters::answers_that_are_not_what_was_asked(stage).await,
        Reason::JobNotAvailable => callers::unknown_and_foreign_jobs(stage).await,
        Reason::RunnerNameNotAllowed => callers::other_runner_name(stage).await,
        Reason::EnrolmentExists => callers::name_that_is_taken(stage).await,
        Reason::EnrolmentEnded => callers::replaced_enrolment(stage).await,
        Reason::RecordNotFound => callers::unknown_records(stage).await,
        Reason::RightsNotInEffect => {
            let mut errors = clusters::missing_role(stage).await?;
            errors.extend(clusters::rights_that_do_not_come(stage).await?);
            Ok(errors)
        }
        Reason::RightsMissing => Ok(vec![stage.refused_issue(NEEDY.name).await?]),
        Reason::NamespaceUnavailable => clusters::missing_namespace(stage).await,
        Reason::RejoinRefused => callers::rejoins_that_prove_nothing(stage).await,
        Reason::RunnerCloned => callers::cloned_runner(stage).await,
        Reason::PodTokenRejected => enrolling::rejected_pods(stage).await,
        Reason::EnrolmentTokenRejected => enrolling::rejected_machines(stage).await,
        Reason::EnrolmentTokenUsed => enrolling::used_machine_token(stage).await,
        Reason::EnrolmentIssuerUnavailable => enrolling::unreachable_machine_issuer(stage).await,
        Reason::QuotaExceeded => clusters::used_up_quota(stage).await,
        Reason::JobTokenRejected => jobs::rejected_tokens(stage).await,
        Reason::JobTokenExpired => jobs::expired_token(stage).await,
        Reason::JobTokenUsed => jobs::used_token(stage).await,
        Reason::JobIssuerUnavailable => jobs::unreachable_job_issuer(stage).await,
    }
}

fn check(reason: Reason, error: &ClientError) -> Result<()> {
    let refusal = error.refusal().with_context(|| format!("not refused but {error:?}"))?;
    let (code, remedy) = expected(reason);
    ensure!(refusal.reason == Some(reason), "refused otherwise: {refusal:?}");
    ensure!(refusal.code == code, "with another code: {refusal:?}");
    ensure!(refusal.message.contains(remedy), "it does not say {remedy:?}: {refusal:?}");
    let passes = matches!(code, Code::Unavailable | Code::ResourceExhausted);
    ensure!(refusal.retry_after.is_some() == passes, "when to come back: {refusal:?}");
    ensure!(refusal.request_id.is_some(), "it names no request: {refusal:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")] // the proxy goes on while a daemon is waited for
async fn every_reason_was_provoked_and_says_what_to_do() -> Result<()> {
    let stage = Stage::set().await?;
    for reason in reasons::all() {
        let told = async {
            let errors = provoke(&stage, reason).await?;
            ensure!(!errors.is_empty(), "nothing was refused");
            errors.iter().try_for_each(|error| check(reason, error))
        };
        told.await.with_context(|| format!("{reason:?}"))?;
    }
    stage.nothing_is_left_of_what_was_refused().await?;
    let missed: Vec<Reason> = reasons::all().difference(&reasons::seen()).copied().collect();
    ensure!(missed.is_empty(), "no client was ever told {missed:?}");
    Ok(())
}
