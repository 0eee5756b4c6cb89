//! Leases and what is known of their tokens.

use shorepass_core::audience::Audiences;
use shorepass_core::caller::{LeaseOwner, Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::gives::{RbacName, RoleRef};
use shorepass_core::id::{JobId, LeaseId};
use shorepass_core::lease::{Activation, AnchorName, Binding, EndCause, Lease, Mode, Pins, State};
use shorepass_core::ledger::MintedToken;
use shorepass_core::name::Name;
use shorepass_core::not_removed::NotRemoved;
use shorepass_core::policy::edition::Edition;
use shorepass_core::role::Target;
use shorepass_core::time::Timestamp;
use shorepass_proto::store::v1 as stored;

use super::{
    Malformed, Stored, digest, inner, malformed, nanoseconds, optional_time, parse, required, revision, time,
};

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
            job: self.job.map(|job| job.to_string()).unwrap_or_default(),
            owner: self.owner.known().map(Stored::to_record),
            role: self.role_name().to_owned(),
            role_digest: self.role_digest.as_bytes().to_vec(),
            target: Some(self.target.to_record()),
            audiences: self.audiences.as_ref().map(Audiences::to_vec).unwrap_or_default(),
            anchor: self.anchor.as_str().to_owned(),
            created: nanoseconds(self.created),
            deadline: nanoseconds(self.deadline),
            state: Some(stored_state(&self.state)),
            revision: self.revision.number(),
            mode: stored_mode(&self.mode).into(),
            bindings: bindings(&self.mode).iter().map(Stored::to_record).collect(),
            tokens_until: match &self.mode {
                Mode::Unbound { tokens_until } => tokens_until.map(nanoseconds),
                Mode::Bound | Mode::Strict { .. } => None,
            },
            receipt: self.receipt.as_ref().map(|receipt| receipt.to_record()),
            activation: stored_activation(&self.state),
            not_removed: self
                .not_removed
                .as_deref()
                .map(|rights| stored::NotRemoved { named: rights.named().to_vec(), others: rights.others() }),
            policy: self.policy.map(|policy| stored::PolicyEdition {
                digest: policy.digest.as_bytes().to_vec(),
                version: policy.version,
            }),
            adoption: self
                .is_adopted()
                .then(|| stored::LeaseAdoption { owner_digest: self.owner.digest().as_bytes().to_vec() }),
        }
    }

    fn from_record(record: stored::Lease) -> Result<Self, Malformed> {
        let mode = read_mode(record.mode, record.bindings, record.tokens_until)?;
        let adoption =
            record.adoption.map(|adoption| digest("adoption.owner_digest", &adoption.owner_digest));
        let adoption = adoption.transpose()?;
        Ok(Self {
            mode,
            id: parse("id", LeaseId::parse(&record.id))?,
            job: read_job(&record.job, adoption)?,
            owner: read_owner(record.owner, adoption)?,
            role: match (record.role.as_str(), adoption) {
                ("", Some(_)) => None,
                (name, _) => Some(parse("role", Name::parse(name))?),
            },
            role_digest: digest("role_digest", &record.role_digest)?,
            policy: record.policy.map(read_edition).transpose()?,
            target: inner("target", record.target)?,
            audiences: read_audiences(record.audiences)?,
            anchor: required("anchor", AnchorName::parse(&record.anchor))?,
            created: time("created", record.created)?,
            deadline: time("deadline", record.deadline)?,
            state: read_state(required("state", record.state)?, record.activation)?,
            receipt: record.receipt.map(Stored::from_record).transpose()?.map(Box::new),
            not_removed: record
                .not_removed
                .and_then(|rights| NotRemoved::recorded(rights.named, rights.others))
                .map(Box::new),
            revision: revision(record.revision)?,
        })
    }
}

impl Stored for Binding {
    type Record = stored::Binding;

    fn to_record(&self) -> stored::Binding {
        stored::Binding {
            namespace: self.namespace.to_string(),
            name: self.name.clone(),
            role: self.role.as_ref().map(|role| match role {
                RoleRef::Role(name) => stored::binding::Role::NamespaceRole(name.as_str().to_owned()),
                RoleRef::ClusterRole(name) => stored::binding::Role::ClusterRole(name.as_str().to_owned()),
            }),
        }
    }

    fn from_record(record: stored::Binding) -> Result<Self, Malformed> {
        use stored::binding::Role as Stored;
        let named = |name: String| parse("binding.role", RbacName::parse(&name));
        Ok(Self {
            namespace: parse("binding.namespace", Name::parse(&record.namespace))?,
            name: record.name,
            role: match record.role {
                Some(Stored::NamespaceRole(name)) => Some(RoleRef::Role(named(name)?)),
                Some(Stored::ClusterRole(name)) => Some(RoleRef::ClusterRole(named(name)?)),
                None => None,
            },
        })
    }
}

fn read_audiences(named: Vec<String>) -> Result<Option<Audiences>, Malformed> {
    match named.is_empty() {
        true => Ok(None),
        false => parse("audiences", Audiences::new(named)).map(Some),
    }
}

/// Only a lease that was adopted has no job, and it never has one.
fn read_job(job: &str, adoption: Option<Digest>) -> Result<Option<JobId>, Malformed> {
    match adoption {
        None => parse("job", JobId::parse(job)).map(Some),
        Some(_) if job.is_empty() => Ok(None),
        Some(_) => Err(malformed("job", "is that of an adopted lease")),
    }
}

/// Only a lease that was adopted may have an owner without a name.
fn read_owner(owner: Option<stored::Owner>, adoption: Option<Digest>) -> Result<LeaseOwner, Malformed> {
    match (owner, adoption) {
        (Some(owner), _) => Owner::from_record(owner).map(LeaseOwner::Known),
        (None, Some(digest)) => Ok(LeaseOwner::Digest(digest)),
        (None, None) => Err(malformed("owner", "is missing")),
    }
}

fn stored_mode(mode: &Mode) -> stored::LeaseMode {
    match mode {
        Mode::Bound => stored::LeaseMode::Bound,
        Mode::Strict { .. } => stored::LeaseMode::Strict,
        Mode::Unbound { .. } => stored::LeaseMode::Unbound,
    }
}

fn bindings(mode: &Mode) -> &[Binding] {
    match mode {
        Mode::Strict { bindings } => bindings,
        Mode::Bound | Mode::Unbound { .. } => &[],
    }
}

/// A mode of a later version is a damaged record and not bound: what it left in the cluster is not known here.
fn read_mode(
    mode: i32,
    bindings: Vec<stored::Binding>,
    tokens_until: Option<i64>,
) -> Result<Mode, Malformed> {
    let mode = stored::LeaseMode::try_from(mode).map_err(|_| malformed("mode", "is unknown"))?;
    Ok(match mode {
        stored::LeaseMode::Unspecified | stored::LeaseMode::Bound => Mode::Bound,
        stored::LeaseMode::Strict => Mode::Strict {
            bindings: bindings.into_iter().map(Binding::from_record).collect::<Result<_, _>>()?,
        },
        stored::LeaseMode::Unbound => {
            Mode::Unbound { tokens_until: optional_time("tokens_until", tokens_until)? }
        }
    })
}

fn stored_state(state: &State) -> stored::lease::State {
    use stored::lease::State as Stored;
    match state {
        State::Pending => Stored::Pending(stored::LeaseIsPending {}),
        State::Active { pins, since } => Stored::Active(stored_active(pins, *since)),
        State::Ending { activation: _, cause, since } => Stored::Ending(stored_end(cause, *since)),
        State::Ended { activation: _, cause, since, gone } => Stored::Ended(stored::LeaseIsEnded {
            end: Some(stored_end(cause, *since)),
            gone: nanoseconds(*gone),
        }),
    }
}

/// What is kept of the time before an end; the state of an active lease has it itself.
fn stored_activation(state: &State) -> Option<stored::LeaseIsActive> {
    match state {
        State::Pending | State::Active { .. } => None,
        State::Ending { activation, .. } | State::Ended { activation, .. } => {
            activation.as_ref().map(|before| stored_active(&before.pins, before.since))
        }
    }
}

fn stored_active(pins: &Pins, since: Timestamp) -> stored::LeaseIsActive {
    stored::LeaseIsActive {
        anchor_uid: pins.anchor_uid.clone(),
        service_account_uid: pins.service_account_uid.clone(),
        since: nanoseconds(since),
    }
}

fn read_state(
    state: stored::lease::State,
    activation: Option<stored::LeaseIsActive>,
) -> Result<State, Malformed> {
    use stored::lease::State as Stored;
    Ok(match state {
        Stored::Pending(stored::LeaseIsPending {}) => State::Pending,
        Stored::Active(active) => {
            let Activation { pins, since } = read_activation(active)?;
            State::Active { pins, since }
        }
        Stored::Ending(end) => {
            let (cause, since) = read_end(end)?;
            State::Ending { activation: activation.map(read_activation).transpose()?, cause, since }
        }
        Stored::Ended(ended) => {
            let (cause, since) = read_end(required("ended.end", ended.end)?)?;
            let activation = activation.map(read_activation).transpose()?;
            State::Ended { activation, cause, since, gone: time("ended.gone", ended.gone)? }
        }
    })
}

fn read_edition(policy: stored::PolicyEdition) -> Result<Edition, Malformed> {
    Ok(Edition { digest: digest("policy.digest", &policy.digest)?, version: policy.version })
}

fn read_activation(active: stored::LeaseIsActive) -> Result<Activation, Malformed> {
    Ok(Activation {
        pins: Pins { anchor_uid: active.anchor_uid, service_account_uid: active.service_account_uid },
        since: time("active.since", active.since)?,
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
        | EndCause::RoleChanged
        | EndCause::EnrolmentReplaced
        | EndCause::EnrolmentCloned => Default::default(),
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
        EndCause::EnrolmentCloned => stored::EndCause::EnrolmentCloned,
        EndCause::Silence => stored::EndCause::Silent,
        EndCause::RoleChanged => stored::EndCause::RoleChanged,
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
        stored::EndCause::EnrolmentCloned => EndCause::EnrolmentCloned,
        stored::EndCause::Silent => EndCause::Silence,
        stored::EndCause::RoleChanged => EndCause::RoleChanged,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_record_from_before_there_were_modes_is_bound() {
        let record = stored::Lease { mode: 0, ..testing::lease(1).to_record() };
        assert_eq!(Lease::from_record(record), Ok(testing::lease(1)));
    }

    #[test]
    fn for_whom_its_tokens_are_comes_back_and_what_nobody_can_be_does_not() {
        let audiences = Audiences::new(vec!["vault".to_owned(), "registry".to_owned()]).unwrap();
        let lease = Lease { audiences: Some(audiences), ..testing::lease(1) };
        let record = lease.to_record();
        assert_eq!(record.audiences, ["registry", "vault"]);
        assert_eq!(Lease::from_record(record.clone()), Ok(lease));
        let none = stored::Lease { audiences: Vec::new(), ..record.clone() };
        assert_eq!(
            Lease::from_record(none),
            Ok(testing::lease(1)),
            "as in a record from before there were others"
        );
        let odd = stored::Lease { audiences: vec!["a b".to_owned()], ..record };
        assert!(Lease::from_record(odd).is_err());
    }

    #[test]
    fn what_only_an_adopted_lease_may_lack_is_missed_in_any_other() {
        let adopted = testing::adopted(1).to_record();
        assert_eq!(Lease::from_record(adopted.clone()), Ok(testing::adopted(1)));
        let plain = testing::lease(1).to_record();
        for lacking in [
            stored::Lease { adoption: None, ..adopted.clone() },
            stored::Lease { job: String::new(), ..plain.clone() },
            stored::Lease { owner: None, ..plain.clone() },
            stored::Lease { role: String::new(), ..plain.clone() },
            stored::Lease { job: plain.job.clone(), ..adopted },
        ] {
            assert!(Lease::from_record(lacking.clone()).is_err(), "{lacking:?}");
        }
    }

    #[test]
    fn a_mode_of_a_later_version_is_not_guessed() {
        let record = stored::Lease { mode: 9, ..testing::lease(1).to_record() };
        assert!(Lease::from_record(record).is_err());
    }
}
