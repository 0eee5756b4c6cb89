//! The domain as messages of the wire.
//!
//! A token leaves through [`credential`], the one place in the issuer that calls `Token::expose`. The message that it
//! moves into, and the buffer that gRPC encodes it to, belong to libraries and are not wiped.

use std::time::Duration;

use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::Block;
use shorepass_core::caller::SpiffeId;
use shorepass_core::cluster::Endpoint;
use shorepass_core::job::{Evidence, Job};
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::ledger::MintedToken;
use shorepass_core::mint::Issued;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use crate::api::{Certificate, Delivery, LeaseView, NewJoinToken, OfferedRole, Outcome, RevokeStep, Shutout};

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
    let Evidence::Asserted(asserted) = &job.evidence;
    v1::Job {
        id: job.id.to_string(),
        asserted: Some(v1::AssertedJob {
            system: asserted.system().to_owned(),
            id: asserted.id().to_owned(),
            url: asserted.url().to_owned(),
        }),
        start_time: Some(timestamp(job.started)),
        latest_end_time: job.latest_end.map(timestamp),
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
        job_id: lease.job.to_string(),
        role: lease.role.to_string(),
        cluster: lease.target.cluster.to_string(),
        namespace: lease.target.namespace.to_string(),
        service_account: lease.target.service_account.clone(),
        mode: v1::LeaseMode::Bound.into(),
        state: state.into(),
        create_time: Some(timestamp(lease.created)),
        deadline: Some(timestamp(lease.deadline)),
        remaining: Some(duration(lease.remaining(now))),
        end: lease_end(lease),
    }
}

/// How it ended; none while it lives.
pub(crate) fn lease_end(lease: &Lease) -> Option<v1::LeaseEnd> {
    lease.end_cause().map(|(cause, since)| end(cause, since, &lease.owner.spiffe_id))
}

fn end(cause: &EndCause, since: Timestamp, owner: &SpiffeId) -> v1::LeaseEnd {
    let owner = || owner.to_string();
    let (wire, by, reason) = match cause {
        EndCause::Released => (v1::EndCause::Released, owner(), String::new()),
        EndCause::JobEnded => (v1::EndCause::JobEnded, owner(), String::new()),
        EndCause::Revoked { by, reason } => (v1::EndCause::Revoked, by.to_string(), reason.clone()),
        EndCause::Deadline => (v1::EndCause::Deadline, String::new(), String::new()),
        EndCause::Abandoned => (v1::EndCause::Abandoned, String::new(), String::new()),
        EndCause::AnchorLost => (v1::EndCause::AnchorLost, String::new(), String::new()),
        EndCause::ServiceAccountReplaced => {
            (v1::EndCause::ServiceAccountReplaced, String::new(), String::new())
        }
        EndCause::EnrolmentReplaced => (v1::EndCause::EnrolmentReplaced, String::new(), String::new()),
        EndCause::Silence => (v1::EndCause::Silent, String::new(), String::new()),
        EndCause::OwnerBanned { by, reason } => (v1::EndCause::OwnerBanned, by.to_string(), reason.clone()),
    };
    v1::LeaseEnd { cause: wire.into(), time: Some(timestamp(since)), by, reason }
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
    let cluster = cluster(&endpoint, &issued.lease.target.namespace);
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
    let target = offered.role.target();
    v1::Role {
        name: offered.role.name().to_string(),
        cluster: Some(cluster(&offered.endpoint, &target.namespace)),
        service_account: target.service_account.clone(),
        mode: v1::LeaseMode::Bound.into(),
    }
}

pub(crate) fn enrolled(certificate: Certificate) -> v1::EnrollResponse {
    let Certificate { chain_pem, bundle_pem, expires } = certificate;
    v1::EnrollResponse {
        certificate_chain_pem: chain_pem,
        trust_bundle_pem: bundle_pem,
        expires_at: Some(timestamp(expires)),
    }
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
        connection_count: count(shutout.connections),
    }
}

pub(crate) fn lease_record(view: &LeaseView, now: Timestamp) -> v1::LeaseRecord {
    v1::LeaseRecord {
        lease: Some(lease(&view.lease, now)),
        caller: view.lease.owner.spiffe_id.to_string(),
        job: Some(job(&view.job)),
        anchor: view.lease.anchor.as_str().to_owned(),
        tokens: view.tokens.iter().map(token_record).collect(),
        block: view.block.as_ref().map(block),
    }
}

pub(crate) fn revoke_step(step: RevokeStep, now: Timestamp) -> v1::RevokeLeasesResponse {
    let (outcome, obstacle) = match step.outcome {
        Outcome::WouldRevoke => (v1::RevokeOutcome::WouldRevoke, String::new()),
        Outcome::Revoked => (v1::RevokeOutcome::Revoked, String::new()),
        Outcome::Ending(obstacle) => (v1::RevokeOutcome::Ending, obstacle),
        Outcome::AlreadyEnded => (v1::RevokeOutcome::AlreadyEnded, String::new()),
    };
    v1::RevokeLeasesResponse {
        lease: Some(lease_record(&step.view, now)),
        outcome: outcome.into(),
        obstacle,
        total: u32::try_from(step.total).unwrap_or(u32::MAX),
        block_set: step.block_set,
    }
}

pub(crate) fn join_token(token: NewJoinToken) -> v1::CreateJoinTokenResponse {
    let NewJoinToken { text, expires } = token;
    v1::CreateJoinTokenResponse { join_token: text.as_str().to_owned(), expires_at: Some(timestamp(expires)) }
}
