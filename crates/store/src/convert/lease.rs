//! Leases and what is known of their tokens.

use shorepass_core::caller::SpiffeId;
use shorepass_core::id::{JobId, LeaseId};
use shorepass_core::lease::{AnchorName, EndCause, Lease, Pins, State};
use shorepass_core::ledger::MintedToken;
use shorepass_core::name::Name;
use shorepass_core::role::Target;
use shorepass_core::time::Timestamp;
use shorepass_proto::store::v1 as stored;

use super::{Malformed, Stored, digest, inner, malformed, nanoseconds, parse, required, revision, time};

impl Stored for Target {
    type Record = stored::Target;

    fn to_record(&self) -> stored::Target {
        stored::Target {
            cluster: self.cluster.to_string(),
            namespace: self.namespace.to_string(),
            service_account: self.service_account.clone(),
        }
    }

    fn from_record(record: stored::Target) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: parse("cluster", Name::parse(&record.cluster))?,
            namespace: parse("namespace", Name::parse(&record.namespace))?,
            service_account: record.service_account,
        })
    }
}

impl Stored for Lease {
    type Record = stored::Lease;

    fn to_record(&self) -> stored::Lease {
        stored::Lease {
            id: self.id.to_string(),
            job: self.job.to_string(),
            owner: Some(self.owner.to_record()),
            role: self.role.to_string(),
            role_digest: self.role_digest.as_bytes().to_vec(),
            target: Some(self.target.to_record()),
            anchor: self.anchor.as_str().to_owned(),
            created: nanoseconds(self.created),
            deadline: nanoseconds(self.deadline),
            state: Some(stored_state(&self.state)),
            revision: self.revision.number(),
        }
    }

    fn from_record(record: stored::Lease) -> Result<Self, Malformed> {
        Ok(Self {
            id: parse("id", LeaseId::parse(&record.id))?,
            job: parse("job", JobId::parse(&record.job))?,
            owner: inner("owner", record.owner)?,
            role: parse("role", Name::parse(&record.role))?,
            role_digest: digest("role_digest", &record.role_digest)?,
            target: inner("target", record.target)?,
            anchor: required("anchor", AnchorName::parse(&record.anchor))?,
            created: time("created", record.created)?,
            deadline: time("deadline", record.deadline)?,
            state: read_state(required("state", record.state)?)?,
            revision: revision(record.revision)?,
        })
    }
}

fn stored_state(state: &State) -> stored::lease::State {
    use stored::lease::State as Stored;
    match state {
        State::Pending => Stored::Pending(stored::LeaseIsPending {}),
        State::Active { pins, since } => Stored::Active(stored::LeaseIsActive {
            anchor_uid: pins.anchor_uid.clone(),
            service_account_uid: pins.service_account_uid.clone(),
            since: nanoseconds(*since),
        }),
        State::Ending { cause, since } => Stored::Ending(stored_end(cause, *since)),
        State::Ended { cause, since, gone } => Stored::Ended(stored::LeaseIsEnded {
            end: Some(stored_end(cause, *since)),
            gone: nanoseconds(*gone),
        }),
    }
}

fn read_state(state: stored::lease::State) -> Result<State, Malformed> {
    use stored::lease::State as Stored;
    Ok(match state {
        Stored::Pending(stored::LeaseIsPending {}) => State::Pending,
        Stored::Active(active) => State::Active {
            pins: Pins { anchor_uid: active.anchor_uid, service_account_uid: active.service_account_uid },
            since: time("active.since", active.since)?,
        },
        Stored::Ending(end) => {
            let (cause, since) = read_end(end)?;
            State::Ending { cause, since }
        }
        Stored::Ended(ended) => {
            let (cause, since) = read_end(required("ended.end", ended.end)?)?;
            State::Ended { cause, since, gone: time("ended.gone", ended.gone)? }
        }
    })
}

fn stored_end(cause: &EndCause, since: Timestamp) -> stored::LeaseIsEnding {
    let (by, reason) = match cause {
        EndCause::Revoked { by, reason } | EndCause::OwnerBanned { by, reason } => {
            (by.to_string(), reason.clone())
        }
        EndCause::Released
        | EndCause::JobEnded
        | EndCause::Deadline
        | EndCause::Abandoned
        | EndCause::AnchorLost
        | EndCause::ServiceAccountReplaced
        | EndCause::Silence
        | EndCause::EnrolmentReplaced => Default::default(),
    };
    stored::LeaseIsEnding {
        cause: stored_cause(cause).into(),
        revoked_by: by,
        revoked_reason: reason,
        since: nanoseconds(since),
    }
}

fn stored_cause(cause: &EndCause) -> stored::EndCause {
    match cause {
        EndCause::Released => stored::EndCause::Released,
        EndCause::JobEnded => stored::EndCause::JobEnded,
        EndCause::Revoked { .. } => stored::EndCause::Revoked,
        EndCause::Deadline => stored::EndCause::Deadline,
        EndCause::Abandoned => stored::EndCause::Abandoned,
        EndCause::AnchorLost => stored::EndCause::AnchorLost,
        EndCause::ServiceAccountReplaced => stored::EndCause::ServiceAccountReplaced,
        EndCause::EnrolmentReplaced => stored::EndCause::EnrolmentReplaced,
        EndCause::Silence => stored::EndCause::Silent,
        EndCause::OwnerBanned { .. } => stored::EndCause::OwnerBanned,
    }
}

fn read_end(end: stored::LeaseIsEnding) -> Result<(EndCause, Timestamp), Malformed> {
    let cause = match end.cause() {
        stored::EndCause::Unspecified => return Err(malformed("cause", "is unknown")),
        stored::EndCause::Released => EndCause::Released,
        stored::EndCause::JobEnded => EndCause::JobEnded,
        stored::EndCause::Revoked => EndCause::Revoked {
            by: parse("revoked_by", SpiffeId::parse(&end.revoked_by))?,
            reason: end.revoked_reason,
        },
        stored::EndCause::Deadline => EndCause::Deadline,
        stored::EndCause::Abandoned => EndCause::Abandoned,
        stored::EndCause::AnchorLost => EndCause::AnchorLost,
        stored::EndCause::ServiceAccountReplaced => EndCause::ServiceAccountReplaced,
        stored::EndCause::EnrolmentReplaced => EndCause::EnrolmentReplaced,
        stored::EndCause::Silent => EndCause::Silence,
        stored::EndCause::OwnerBanned => EndCause::OwnerBanned {
            by: parse("revoked_by", SpiffeId::parse(&end.revoked_by))?,
            reason: end.revoked_reason,
        },
    };
    Ok((cause, time("since", end.since)?))
}

impl Stored for MintedToken {
    type Record = stored::MintedToken;

    fn to_record(&self) -> stored::MintedToken {
        stored::MintedToken {
            jti: self.jti.clone(),
            lease: self.lease.to_string(),
            fingerprint: self.fingerprint.as_bytes().to_vec(),
            issued: nanoseconds(self.issued),
            expires: nanoseconds(self.expires),
            recorded: nanoseconds(self.recorded),
        }
    }

    fn from_record(record: stored::MintedToken) -> Result<Self, Malformed> {
        Ok(Self {
            jti: record.jti,
            lease: parse("lease", LeaseId::parse(&record.lease))?,
            fingerprint: digest("fingerprint", &record.fingerprint)?,
            issued: time("issued", record.issued)?,
            expires: time("expires", record.expires)?,
            recorded: time("recorded", record.recorded)?,
        })
    }
}
