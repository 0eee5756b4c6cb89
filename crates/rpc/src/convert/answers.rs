//! The domain as messages of the wire.
//!
//! A token leaves through [`credential`], the one place in the issuer that calls `Token::expose`. The message that it
//! moves into, and the buffer that gRPC encodes it to, belong to libraries and are not wiped.

use std::time::Duration;

use shorepass_core::audience::Audiences;
use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::Block;
use shorepass_core::caller::SpiffeId;
use shorepass_core::cluster::Endpoint;
use shorepass_core::enrolment::{Enrolment, Standing};
use shorepass_core::escape::Escapes;
use shorepass_core::gives::{Gives, RoleRef};
use shorepass_core::job::{AssertedJob, Evidence, Job, VerifiedJob};
use shorepass_core::labels::Labels;
use shorepass_core::lease::{Binding, EndCause, Lease, Mode, State, Step, Transition};
use shorepass_core::ledger::MintedToken;
use shorepass_core::mint::Issued;
use shorepass_core::name::Name;
use shorepass_core::receipt::{Receipt, Verdict};
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use crate::api::{
    Awaited, Certificate, Delivery, LeaseView, NewJoinToken, Nonce, OfferedRole, Outcome, RevokeStep, Shutout,
};

pub(crate) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    const SECOND: i128 = 1_000_000_000;
    let nanoseconds = at.as_nanosecond();
    prost_types::Timestamp {
        seconds: i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or(0),
    }
}

pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn job(job: &Job) -> v1::Job {
    let (asserted, verified) = match &job.evidence {
        Evidence::Asserted(asserted) => (Some(asserted_job(asserted)), None),
        Evidence::Verified(verified) => (None, Some(verified_job(verified))),
    };
    v1::Job {
        id: job.id.to_string(),
        asserted,
        verified,
        start_time: Some(timestamp(job.started)),
        latest_end_time: job.latest_end.map(timestamp),
    }
}

fn asserted_job(asserted: &AssertedJob) -> v1::AssertedJob {
    v1::AssertedJob {
        system: asserted.system().to_owned(),
        id: asserted.id().to_owned(),
        url: asserted.url().to_owned(),
    }
}

fn verified_job(verified: &VerifiedJob) -> v1::VerifiedJob {
    v1::VerifiedJob {
        issuer: verified.issuer.to_string(),
        system: verified.system.as_str().to_owned(),
        id: verified.id.clone(),
        claims: verified
            .claims
            .iter()
            .map(|(name, claim)| v1::Claim { name: name.to_owned(), value: claim.plain().into_owned() })
            .collect(),
    }
}

pub(crate) fn lease(lease: &Lease, now: Timestamp) -> v1::Lease {
    let state = match &lease.state {
        State::Pending => v1::LeaseState::Pending,
        State::Active { .. } => v1::LeaseState::Active,
        State::Ending { .. } => v1::LeaseState::Ending,
        State::Ended { .. } => v1::LeaseState::Ended,
    };
    v1::Lease {
        id: lease.id.to_string(),
        job_id: lease.job.map(|job| job.to_string()).unwrap_or_default(),
        role: lease.role_name().to_owned(),
        cluster: lease.target.cluster.to_string(),
        namespace: lease.target.namespace.to_string(),
        service_account: lease.target.service_account.clone(),
        mode: mode(&lease.mode).into(),
        state: state.into(),
        create_time: Some(timestamp(lease.created)),
        deadline: Some(timestamp(lease.deadline)),
        remaining: Some(duration(lease.remaining(now))),
        end: lease_end(lease),
        bindings: match &lease.mode {
            Mode::Strict { bindings } => bindings.iter().map(binding).collect(),
            Mode::Bound | Mode::Unbound { .. } => Vec::new(),
        },
        tokens_until: match &lease.mode {
            Mode::Unbound { tokens_until } => tokens_until.map(timestamp),
            Mode::Bound | Mode::Strict { .. } => None,
        },
        adopted: lease.is_adopted(),
        audiences: audiences(lease.audiences.as_ref()),
    }
}

fn mode(mode: &Mode) -> v1::LeaseMode {
    match mode {
        Mode::Bound => v1::LeaseMode::Bound,
        Mode::Strict { .. } => v1::LeaseMode::Strict,
        Mode::Unbound { .. } => v1::LeaseMode::Unbound,
    }
}

fn binding(binding: &Binding) -> v1::LeaseBinding {
    v1::LeaseBinding {
        namespace: binding.namespace.to_string(),
        name: binding.name.clone(),
        role_kind: binding.role.as_ref().map_or("", RoleRef::kind).to_owned(),
        role_name: binding.role.as_ref().map_or("", RoleRef::name).to_owned(),
    }
}

/// How it ended; none while it lives.
pub(crate) fn lease_end(lease: &Lease) -> Option<v1::LeaseEnd> {
    lease.end_cause().map(|(cause, since)| end(cause, since, lease.owner.spiffe_id()))
}

fn end(cause: &EndCause, since: Timestamp, owner: Option<&SpiffeId>) -> v1::LeaseEnd {
    let (by, reason) = match cause {
        EndCause::Released | EndCause::JobEnded => {
            (owner.map(SpiffeId::to_string).unwrap_or_default(), String::new())
        }
        EndCause::Revoked { by, reason } => (by.to_string(), reason.clone()),
        // Owners see this too, and why somebody was banned is for operators: `ban list` has it.
        EndCause::OwnerBanned { by, reason: _ } => (by.to_string(), String::new()),
        EndCause::Deadline
        | EndCause::Abandoned
        | EndCause::AnchorLost
        | EndCause::ServiceAccountReplaced
        | EndCause::EnrolmentReplaced
        | EndCause::EnrolmentCloned
        | EndCause::RoleChanged
        | EndCause::Silence => Default::default(),
    };
    v1::LeaseEnd { cause: end_cause(cause).into(), time: Some(timestamp(since)), by, reason }
}

fn end_cause(cause: &EndCause) -> v1::EndCause {
    match cause {
        EndCause::Released => v1::EndCause::Released,
        EndCause::JobEnded => v1::EndCause::JobEnded,
        EndCause::Revoked { .. } => v1::EndCause::Revoked,
        EndCause::Deadline => v1::EndCause::Deadline,
        EndCause::Abandoned => v1::EndCause::Abandoned,
        EndCause::AnchorLost => v1::EndCause::AnchorLost,
        EndCause::ServiceAccountReplaced => v1::EndCause::ServiceAccountReplaced,
        EndCause::EnrolmentReplaced => v1::EndCause::EnrolmentReplaced,
        EndCause::EnrolmentCloned => v1::EndCause::EnrolmentCloned,
        EndCause::Silence => v1::EndCause::Silent,
        EndCause::RoleChanged => v1::EndCause::RoleChanged,
        EndCause::OwnerBanned { .. } => v1::EndCause::OwnerBanned,
    }
}

fn cluster(endpoint: &Endpoint, namespace: &Name) -> v1::Cluster {
    v1::Cluster {
        name: endpoint.name.to_string(),
        server: endpoint.server.clone(),
        ca_bundle_pem: endpoint.ca_bundle_pem.clone(),
        tls_server_name: endpoint.tls_server_name.clone(),
        namespace: namespace.to_string(),
    }
}

/// The lease and its token, on their way to the owner.
pub(crate) fn delivery(delivery: Delivery, now: Timestamp) -> (v1::Lease, v1::Credential) {
    let Delivery { issued, endpoint } = delivery;
    let lease = lease(&issued.lease, now);
    let cluster = cluster(&endpoint, issued.lease.working_namespace());
    (lease, credential(issued, cluster))
}

/// The one way out for a token.
fn credential(issued: Issued, cluster: v1::Cluster) -> v1::Credential {
    v1::Credential {
        token: issued.token.expose().to_owned(),
        token_id: issued.record.jti,
        valid_for: Some(duration(issued.told.valid_for)),
        expires_at: Some(timestamp(issued.told.expires_at)),
        cluster: Some(cluster),
        valid_while_heard: Some(duration(issued.told.valid_while_heard)),
        silence_limit: issued.told.silence.map(duration),
    }
}

pub(crate) fn role(offered: &OfferedRole) -> v1::Role {
    let gives = offered.role.gives();
    let mode = match gives {
        Gives::Bound(_) => v1::LeaseMode::Bound,
        Gives::Strict(_) => v1::LeaseMode::Strict,
        Gives::Unbound(_) => v1::LeaseMode::Unbound,
    };
    v1::Role {
        name: offered.role.name().to_string(),
        cluster: Some(cluster(&offered.endpoint, gives.working_namespace())),
        service_account: gives.existing().map(|target| target.service_account.clone()).unwrap_or_default(),
        mode: mode.into(),
        audiences: audiences(offered.role.audiences()),
    }
}

fn audiences(audiences: Option<&Audiences>) -> Vec<String> {
    audiences.map(Audiences::to_vec).unwrap_or_default()
}

pub(crate) fn enrolled(certificate: Certificate) -> v1::EnrollResponse {
    let Certificate { chain_pem, bundle_pem, expires } = certificate;
    v1::EnrollResponse {
        certificate_chain_pem: chain_pem,
        trust_bundle_pem: bundle_pem,
        expires_at: Some(timestamp(expires)),
    }
}

pub(crate) fn nonce(nonce: Nonce) -> v1::BeginRejoinResponse {
    v1::BeginRejoinResponse { nonce: nonce.bytes, valid_for: Some(duration(nonce.valid_for)) }
}

pub(crate) fn rejoined(certificate: Certificate) -> v1::RejoinResponse {
    let v1::RenewResponse { certificate_chain_pem, trust_bundle_pem, expires_at } = renewed(certificate);
    v1::RejoinResponse { certificate_chain_pem, trust_bundle_pem, expires_at }
}

pub(crate) fn renewed(certificate: Certificate) -> v1::RenewResponse {
    let Certificate { chain_pem, bundle_pem, expires } = certificate;
    v1::RenewResponse {
        certificate_chain_pem: chain_pem,
        trust_bundle_pem: bundle_pem,
        expires_at: Some(timestamp(expires)),
    }
}

pub(crate) fn token_record(token: &MintedToken) -> v1::TokenRecord {
    v1::TokenRecord {
        token_id: token.jti.clone(),
        fingerprint: token.fingerprint.to_string(),
        issue_time: Some(timestamp(token.issued)),
        expires_at: Some(timestamp(token.expires)),
    }
}

pub(crate) fn block(block: &Block) -> v1::Block {
    v1::Block {
        id: block.id.to_string(),
        caller: block.caller.to_string(),
        role: block.role.to_string(),
        create_time: Some(timestamp(block.set)),
        until: Some(timestamp(block.until)),
        by: block.by.to_string(),
        reason: block.reason.clone(),
        lease_id: block.lease.to_string(),
        job_id: block.job.map(|job| job.to_string()).unwrap_or_default(),
        lift_time: block.lifted.as_ref().map(|lifted| timestamp(lifted.at)),
        lifted_by: block.lifted.as_ref().map(|lifted| lifted.by.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn ban(ban: &Ban) -> v1::Ban {
    let enrolment_id = match &ban.banned {
        Banned::Name(_) => String::new(),
        Banned::Enrolment(owner) => owner.enrolment.to_string(),
    };
    v1::Ban {
        spiffe_id: ban.banned.spiffe_id().to_string(),
        enrolment_id,
        create_time: Some(timestamp(ban.set)),
        by: ban.by.to_string(),
        reason: ban.reason.clone(),
        lift_time: ban.lifted.as_ref().map(|lifted| timestamp(lifted.at)),
        lifted_by: ban.lifted.as_ref().map(|lifted| lifted.by.to_string()).unwrap_or_default(),
    }
}

pub(crate) fn shutout(shutout: &Shutout) -> v1::BanResponse {
    let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
    v1::BanResponse {
        ban: Some(ban(&shutout.ban)),
        lease_count: count(shutout.leases),
        unbound_lease_count: count(shutout.unbound),
        connection_count: count(shutout.connections),
        outliving_lease_count: count(shutout.outliving),
        tokens_until: shutout.tokens_until.map(timestamp),
    }
}

pub(crate) fn lease_record(view: &LeaseView, now: Timestamp) -> v1::LeaseRecord {
    v1::LeaseRecord {
        lease: Some(lease(&view.lease, now)),
        caller: view.lease.owner.spiffe_id().map(SpiffeId::to_string).unwrap_or_default(),
        job: view.job.as_ref().map(job),
        anchor: if view.lease.has_anchor() { view.lease.anchor.as_str().to_owned() } else { String::new() },
        tokens: view.tokens.iter().map(token_record).collect(),
        block: view.block.as_ref().map(block),
        transitions: view.lease.transitions().iter().map(transition).collect(),
        receipt: view.lease.receipt.as_deref().map(receipt),
        silence_limit: view.silence.map(duration),
        escape_rights: view.escapes.as_ref().map(escape_rights),
        policy_digest: view.lease.policy.map(|policy| policy.digest.to_string()).unwrap_or_default(),
        policy_version: view.lease.policy.map_or(0, |policy| policy.version),
        not_removed: view
            .lease
            .not_removed
            .as_deref()
            .map(|rights| v1::NotRemovedRights { rights: rights.named().to_vec(), others: rights.others() }),
        pins: view.lease.activation().map(|(pins, _)| v1::LeasePins {
            anchor_uid: pins.anchor_uid.clone(),
            service_account_uid: pins.service_account_uid.clone(),
        }),
    }
}

fn escape_rights(escapes: &Escapes) -> v1::EscapeRights {
    match escapes {
        Escapes::Found { rights, at } => v1::EscapeRights {
            rights: rights.clone(),
            review_time: Some(timestamp(*at)),
            unknown: String::new(),
        },
        Escapes::Unknown(why) => v1::EscapeRights { unknown: why.clone(), ..v1::EscapeRights::default() },
    }
}

fn transition(step: &Transition<'_>) -> v1::LeaseTransition {
    let state = match step.to {
        Step::Pending => v1::LeaseState::Pending,
        Step::Active => v1::LeaseState::Active,
        Step::Ending => v1::LeaseState::Ending,
        Step::Ended => v1::LeaseState::Ended,
    };
    let cause = step.cause.map_or(v1::EndCause::Unspecified, end_cause);
    v1::LeaseTransition { state: state.into(), time: Some(timestamp(step.at)), cause: cause.into() }
}

fn receipt(receipt: &Receipt) -> v1::Receipt {
    let (verdict, reason) = match &receipt.verdict {
        Verdict::Proved(_) => (v1::ReceiptVerdict::Proved, String::new()),
        Verdict::Assumed(_) => (v1::ReceiptVerdict::Assumed, String::new()),
        Verdict::Unproved(unproved) => (v1::ReceiptVerdict::Unproved, unproved.to_string()),
    };
    let death = receipt.verdict.death();
    v1::Receipt {
        verdict: verdict.into(),
        refuse_time: death.map(|death| timestamp(death.refused)),
        observe_time: death.map(|death| timestamp(death.observed_at)),
        dead_by_time: death.map(|death| timestamp(death.dead_by)),
        reason,
        endpoints: receipt.endpoints.clone(),
        canaries: receipt.canaries.clone(),
        create_time: Some(timestamp(receipt.made)),
    }
}

pub(crate) fn revoke_step(step: RevokeStep, now: Timestamp) -> v1::RevokeLeasesResponse {
    let (outcome, obstacle) = match step.outcome {
        Outcome::WouldRevoke => (v1::RevokeOutcome::WouldRevoke, String::new()),
        Outcome::Revoked => (v1::RevokeOutcome::Revoked, String::new()),
        Outcome::Ending(obstacle) => (v1::RevokeOutcome::Ending, obstacle),
        Outcome::AlreadyEnded => (v1::RevokeOutcome::AlreadyEnded, String::new()),
        Outcome::TokensRemain => (v1::RevokeOutcome::TokensRemain, String::new()),
    };
    let receipt = match step.receipt {
        Awaited::No => v1::RevokeReceipt::Unspecified,
        Awaited::Follows => v1::RevokeReceipt::Follows,
        Awaited::Arrived => v1::RevokeReceipt::Arrived,
        Awaited::Missing => v1::RevokeReceipt::Missing,
    };
    v1::RevokeLeasesResponse {
        lease: Some(lease_record(&step.view, now)),
        outcome: outcome.into(),
        obstacle,
        total: u32::try_from(step.total).unwrap_or(u32::MAX),
        block_set: step.block_set,
        receipt: receipt.into(),
    }
}

pub(crate) fn join_token(token: NewJoinToken) -> v1::CreateJoinTokenResponse {
    let NewJoinToken { text, expires, labels } = token;
    v1::CreateJoinTokenResponse {
        join_token: text.as_str().to_owned(),
        expires_at: Some(timestamp(expires)),
        labels: wire_labels(&labels),
    }
}

fn wire_labels(labels: &Labels) -> Vec<v1::Label> {
    let label = |(name, value): (&str, &str)| v1::Label { name: name.to_owned(), value: value.to_owned() };
    labels.iter().map(label).collect()
}

pub(crate) fn runner(enrolment: &Enrolment, now: Timestamp) -> v1::Runner {
    let state = match enrolment.standing(now) {
        Standing::Live => v1::RunnerState::Live,
        Standing::Expired => v1::RunnerState::Expired,
        Standing::Replaced => v1::RunnerState::Replaced,
        Standing::Cloned => v1::RunnerState::Cloned,
    };
    let cloned = enrolment.cloned.as_ref();
    v1::Runner {
        spiffe_id: enrolment.spiffe_id.to_string(),
        enrolment_id: enrolment.id.to_string(),
        state: state.into(),
        labels: wire_labels(&enrolment.labels),
        generation: enrolment.generation,
        enrol_time: Some(timestamp(enrolment.created)),
        expires_at: Some(timestamp(enrolment.certificate_expires)),
        end_time: cloned.map(|cloned| cloned.at).or(enrolment.replaced).map(timestamp),
        clone_cause: cloned.map(|cloned| cloned.cause.describe().to_owned()).unwrap_or_default(),
    }
}
