//! Changes, as lines of the audit file carry them.

use shorepass_core::ledger::Change;
use shorepass_proto::store::v1 as stored;
use shorepass_proto::store::v1::change::Change as Kind;

use super::{Malformed, Stored, inner, nanoseconds, required, time};

/// The stored message; none for a change that changes no row.
pub(crate) fn stored_change(change: &Change) -> Option<stored::Change> {
    let kind = match change {
        Change::JobStarted { job, request } => Kind::JobStarted(stored::JobStarted {
            job: Some(job.to_record()),
            request: Some(request.to_record()),
        }),
        Change::JobEnded { job } => Kind::JobEnded(job.to_record()),
        Change::LeasePending { lease, request } => Kind::LeasePending(stored::LeasePending {
            lease: Some(lease.to_record()),
            request: Some(request.to_record()),
        }),
        Change::LeaseActive { lease } => Kind::LeaseActive(lease.to_record()),
        Change::LeaseAdopted { lease } => Kind::LeaseAdopted(lease.to_record()),
        Change::LeaseRecognised { lease, at } => Kind::LeaseRecognised(stored::LeaseRecognised {
            lease: Some(lease.to_record()),
            at: nanoseconds(*at),
        }),
        Change::TokenMinted { token, owner } => Kind::TokenMinted(stored::TokenMinted {
            token: Some(token.to_record()),
            owner: Some(owner.to_record()),
        }),
        Change::LeaseEnding { lease } => Kind::LeaseEnding(lease.to_record()),
        Change::LeaseEnded { lease } => Kind::LeaseEnded(lease.to_record()),
        Change::LeaseReceipt { lease } => Kind::LeaseReceipt(lease.to_record()),
        Change::ControlPlanned { control } => Kind::ControlPlanned(control.to_record()),
        Change::ControlGone { control, at } => Kind::ControlGone(stored::ControlGone {
            control: Some(control.to_record()),
            at: nanoseconds(*at),
        }),
        Change::BlockSet { block } => Kind::BlockSet(block.to_record()),
        Change::BlockLifted { block } => Kind::BlockLifted(block.to_record()),
        Change::JoinTokenCreated { join_token, request } => {
            Kind::JoinTokenCreated(stored::JoinTokenCreated {
                join_token: Some(join_token.to_record()),
                request: Some(request.to_record()),
            })
        }
        Change::JoinTokenTaken { join_token } => Kind::JoinTokenTaken(join_token.to_record()),
        Change::EnrolmentTokenTaken { spent, at } => {
            let (spent, at) = (Some(spent.to_record()), nanoseconds(*at));
            Kind::EnrolmentTokenTaken(stored::EnrolmentTokenTaken { spent, at })
        }
        Change::Enrolled { enrolment } => Kind::Enrolled(enrolment.to_record()),
        Change::Renewed { enrolment, at } => {
            Kind::Renewed(stored::Renewed { enrolment: Some(enrolment.to_record()), at: nanoseconds(*at) })
        }
        Change::RenewalUsed { enrolment, at } => Kind::RenewalUsed(stored::Renewed {
            enrolment: Some(enrolment.to_record()),
            at: nanoseconds(*at),
        }),
        Change::Rejoined { enrolment, at } => {
            Kind::Rejoined(stored::Renewed { enrolment: Some(enrolment.to_record()), at: nanoseconds(*at) })
        }
        Change::EnrolmentCloned { enrolment } => Kind::EnrolmentCloned(enrolment.to_record()),
        Change::EnrolmentReplaced { enrolment } => Kind::EnrolmentReplaced(enrolment.to_record()),
        Change::IdentityCreated { identity } => Kind::IdentityCreated(identity.to_record()),
        Change::BanSet { ban } => Kind::BanSet(ban.to_record()),
        Change::BanLifted { ban } => Kind::BanLifted(ban.to_record()),
        Change::Refused { .. } => return None,
    };
    Some(stored::Change { change: Some(kind) })
}

/// The change in a stored message.
pub(crate) fn change(record: stored::Change) -> Result<Change, Malformed> {
    Ok(match required("change", record.change)? {
        Kind::JobStarted(started) => Change::JobStarted {
            job: inner("job", started.job)?,
            request: inner("request", started.request)?,
        },
        Kind::JobEnded(job) => Change::JobEnded { job: Stored::from_record(job)? },
        Kind::LeasePending(pending) => Change::LeasePending {
            lease: inner("lease", pending.lease)?,
            request: inner("request", pending.request)?,
        },
        Kind::LeaseActive(lease) => Change::LeaseActive { lease: Stored::from_record(lease)? },
        Kind::LeaseAdopted(lease) => Change::LeaseAdopted { lease: Stored::from_record(lease)? },
        Kind::LeaseRecognised(recognised) => Change::LeaseRecognised {
            lease: inner("lease", recognised.lease)?,
            at: time("at", recognised.at)?,
        },
        Kind::TokenMinted(minted) => {
            Change::TokenMinted { token: inner("token", minted.token)?, owner: inner("owner", minted.owner)? }
        }
        Kind::LeaseEnding(lease) => Change::LeaseEnding { lease: Stored::from_record(lease)? },
        Kind::LeaseEnded(lease) => Change::LeaseEnded { lease: Stored::from_record(lease)? },
        Kind::LeaseReceipt(lease) => Change::LeaseReceipt { lease: Stored::from_record(lease)? },
        Kind::ControlPlanned(control) => Change::ControlPlanned { control: Stored::from_record(control)? },
        Kind::ControlGone(gone) => {
            Change::ControlGone { control: inner("control", gone.control)?, at: time("at", gone.at)? }
        }
        Kind::BlockSet(block) => Change::BlockSet { block: Stored::from_record(block)? },
        Kind::BlockLifted(block) => Change::BlockLifted { block: Stored::from_record(block)? },
        Kind::JoinTokenCreated(created) => Change::JoinTokenCreated {
            join_token: inner("join_token", created.join_token)?,
            request: inner("request", created.request)?,
        },
        Kind::JoinTokenTaken(join_token) => {
            Change::JoinTokenTaken { join_token: Stored::from_record(join_token)? }
        }
        Kind::EnrolmentTokenTaken(taken) => {
            Change::EnrolmentTokenTaken { spent: inner("spent", taken.spent)?, at: time("at", taken.at)? }
        }
        Kind::Enrolled(enrolment) => Change::Enrolled { enrolment: Stored::from_record(enrolment)? },
        Kind::Renewed(renewed) => {
            Change::Renewed { enrolment: inner("enrolment", renewed.enrolment)?, at: time("at", renewed.at)? }
        }
        Kind::RenewalUsed(used) => {
            Change::RenewalUsed { enrolment: inner("enrolment", used.enrolment)?, at: time("at", used.at)? }
        }
        Kind::Rejoined(rejoined) => Change::Rejoined {
            enrolment: inner("enrolment", rejoined.enrolment)?,
            at: time("at", rejoined.at)?,
        },
        Kind::EnrolmentCloned(enrolment) => {
            Change::EnrolmentCloned { enrolment: Stored::from_record(enrolment)? }
        }
        Kind::BanSet(ban) => Change::BanSet { ban: Stored::from_record(ban)? },
        Kind::BanLifted(ban) => Change::BanLifted { ban: Stored::from_record(ban)? },
        Kind::EnrolmentReplaced(enrolment) => {
            Change::EnrolmentReplaced { enrolment: Stored::from_record(enrolment)? }
        }
        Kind::IdentityCreated(identity) => {
            Change::IdentityCreated { identity: Stored::from_record(identity)? }
        }
    })
}
