//! Leases: a state machine without clocks or I/O.
//!
//! ```text
//! pending --> active --> ending --> ended
//!    \___________________^
//! ```
//!
//! Each step returns the lease as it is to be recorded, one revision up; what cannot follow is an error. An end is
//! recorded (*ending*) before the anchor is deleted and again (*ended*) after, so that a crash in between is found.

use std::time::Duration;

use crate::caller::{Owner, SpiffeId};
use crate::digest::Digest;
use crate::id::{JobId, LeaseId};
use crate::ledger::Revision;
use crate::name::Name;
use crate::role::Target;
use crate::time::{Timestamp, until};

/// The name of an anchor: `shorepass-` and 26 base32 characters, chosen before the cluster is called, never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AnchorName(String);

impl AnchorName {
    /// What all anchors begin with.
    pub const PREFIX: &str = "shorepass-";

    /// From 16 random bytes.
    pub fn from_random(random: [u8; 16]) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let bits = u128::from_be_bytes(random);
        let letters = (0..26).map(|index| char::from(ALPHABET[(bits >> (index * 5)) as usize & 31]));
        Self(Self::PREFIX.chars().chain(letters).collect())
    }

    /// A name that was recorded.
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix(Self::PREFIX)?;
        let well_formed = letters.len() == 26
            && letters.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte));
        well_formed.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the cluster said when the lease became active. Both stay the same for all tokens of the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// The UID of the anchor.
    pub anchor_uid: String,
    /// The UID of the ServiceAccount: another one under the same name is not this lease's.
    pub service_account_uid: String,
}

/// Why a lease ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// Its owner gave it back.
    Released,
    /// Its job ended.
    JobEnded,
    /// An operator revoked it.
    Revoked {
        /// Who.
        by: SpiffeId,
        /// Why.
        reason: String,
    },
    /// Its deadline passed.
    Deadline,
    /// Minting its first token failed or was interrupted.
    Abandoned,
    /// Its anchor was deleted by somebody else.
    AnchorLost,
    /// Its ServiceAccount was deleted or replaced.
    ServiceAccountReplaced,
    /// Its owner's enrolment was replaced.
    EnrolmentReplaced,
    /// Its owner was not heard of for longer than the role allows.
    Silence,
    /// Its owner was banned.
    OwnerBanned {
        /// By whom.
        by: SpiffeId,
        /// Why.
        reason: String,
    },
}

impl EndCause {
    /// In the past tense, for sentences such as "the lease was revoked by ...".
    pub fn describe(&self) -> String {
        match self {
            Self::Released => "was released".to_owned(),
            Self::JobEnded => "ended with its job".to_owned(),
            Self::Revoked { by, reason } => format!("was revoked by {by}: {reason}"),
            Self::Deadline => "reached its deadline".to_owned(),
            Self::Abandoned => "never became active".to_owned(),
            Self::AnchorLost => "lost its anchor: somebody deleted the Secret".to_owned(),
            Self::ServiceAccountReplaced => "ended because its ServiceAccount was replaced".to_owned(),
            Self::EnrolmentReplaced => "ended because its runner was enrolled anew".to_owned(),
            Self::Silence => "ended because its owner was silent for longer than the role allows".to_owned(),
            Self::OwnerBanned { by, reason } => {
                format!("ended because its owner was banned by {by}: {reason}")
            }
        }
    }
}

/// Where a lease is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Recorded; its anchor may or may not exist.
    Pending,
    /// It yields tokens.
    Active {
        /// What the cluster said.
        pins: Pins,
        /// Since when.
        since: Timestamp,
    },
    /// Its end is recorded; its anchor is being deleted.
    Ending {
        /// Why.
        cause: EndCause,
        /// Since when.
        since: Timestamp,
    },
    /// Its anchor is gone.
    Ended {
        /// Why.
        cause: EndCause,
        /// When the end was recorded.
        since: Timestamp,
        /// When the anchor was seen gone.
        gone: Timestamp,
    },
}

/// The right of one owner and job to use one role until a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The job it hangs on.
    pub job: JobId,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The role it came from.
    pub role: Name,
    /// The digest of that role's document when it was granted.
    pub role_digest: Digest,
    /// Which ServiceAccount.
    pub target: Target,
    /// The anchor's name in the target's namespace.
    pub anchor: AnchorName,
    /// When it was recorded.
    pub created: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// Where it is in its life.
    pub state: State,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// A step that cannot follow the state a lease is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lease {lease} cannot become {to} from {from}")]
pub struct TransitionError {
    /// Which lease.
    pub lease: LeaseId,
    /// Its state.
    pub from: &'static str,
    /// The state it was to reach.
    pub to: &'static str,
}

impl Lease {
    /// The name of its state.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Pending => "pending",
            State::Active { .. } => "active",
            State::Ending { .. } => "ending",
            State::Ended { .. } => "ended",
        }
    }

    /// Whether it yields tokens, or is about to.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Pending | State::Active { .. })
    }

    /// What the cluster said, while it is active.
    pub fn pins(&self) -> Option<&Pins> {
        match &self.state {
            State::Active { pins, .. } => Some(pins),
            State::Pending | State::Ending { .. } | State::Ended { .. } => None,
        }
    }

    /// Why and when its end was recorded.
    pub fn end_cause(&self) -> Option<(&EndCause, Timestamp)> {
        match &self.state {
            State::Ending { cause, since } | State::Ended { cause, since, .. } => Some((cause, *since)),
            State::Pending | State::Active { .. } => None,
        }
    }

    /// The time it has left; zero when it has ended.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        if self.is_live() { until(now, self.deadline) } else { Duration::ZERO }
    }

    /// pending --> active
    pub fn activate(self, pins: Pins, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Pending => Ok(self.step(State::Active { pins, since: now })),
            State::Active { .. } | State::Ending { .. } | State::Ended { .. } => Err(self.refuse("active")),
        }
    }

    /// pending, active --> ending
    pub fn begin_end(self, cause: EndCause, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Pending | State::Active { .. } => Ok(self.step(State::Ending { cause, since: now })),
            State::Ending { .. } | State::Ended { .. } => Err(self.refuse("ending")),
        }
    }

    /// ending --> ended
    pub fn finish_end(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state.clone() {
            State::Ending { cause, since } => Ok(self.step(State::Ended { cause, since, gone: now })),
            State::Pending | State::Active { .. } | State::Ended { .. } => Err(self.refuse("ended")),
        }
    }

    fn step(self, state: State) -> Self {
        Self { state, revision: self.revision.next(), ..self }
    }

    fn refuse(&self, to: &'static str) -> TransitionError {
        TransitionError { lease: self.id, from: self.state_name(), to }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Activate,
        BeginEnd,
        FinishEnd,
    }

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub(crate) fn lease() -> Lease {
        let name = |text| Name::parse(text).unwrap();
        let owner = Owner {
            spiffe_id: SpiffeId::parse("spiffe://d/runner/r").unwrap(),
            enrolment: crate::id::EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
        };
        Lease {
            id: LeaseId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
            job: JobId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
            owner,
            role: name("role"),
            role_digest: Digest::of_bytes(b"role"),
            target: Target { cluster: name("c"), namespace: name("web"), service_account: "sa".to_owned() },
            anchor: AnchorName::from_random([7; 16]),
            created: second(0),
            deadline: second(600),
            state: State::Pending,
            revision: Revision::FIRST,
        }
    }

    fn apply(lease: Lease, step: &Step, now: Timestamp) -> Result<Lease, TransitionError> {
        let pins = Pins { anchor_uid: "a".to_owned(), service_account_uid: "s".to_owned() };
        match step {
            Step::Activate => lease.activate(pins, now),
            Step::BeginEnd => lease.begin_end(EndCause::Released, now),
            Step::FinishEnd => lease.finish_end(now),
        }
    }

    fn rank(lease: &Lease) -> u8 {
        match lease.state {
            State::Pending => 0,
            State::Active { .. } => 1,
            State::Ending { .. } => 2,
            State::Ended { .. } => 3,
        }
    }

    proptest! {
        #[test]
        fn a_lease_only_moves_forward_and_counts_each_step(
            steps in prop::collection::vec(
                prop_oneof![Just(Step::Activate), Just(Step::BeginEnd), Just(Step::FinishEnd)], 0..12)
        ) {
            let mut current = lease();
            for (time, step) in steps.iter().enumerate() {
                match apply(current.clone(), step, second(time as i64)) {
                    Ok(next) => {
                        prop_assert!(rank(&next) > rank(&current));
                        prop_assert_eq!(next.revision, current.revision.next());
                        prop_assert_eq!(&next.anchor, &current.anchor);
                        current = next;
                    }
                    Err(refused) => prop_assert_eq!(refused.from, current.state_name()),
                }
            }
        }
    }

    #[test]
    fn an_end_keeps_its_first_cause() {
        let ending = lease().begin_end(EndCause::Deadline, second(1)).unwrap();
        assert!(ending.clone().begin_end(EndCause::Released, second(2)).is_err());
        let ended = ending.finish_end(second(3)).unwrap();
        assert_eq!(ended.end_cause(), Some((&EndCause::Deadline, second(1))));
        assert_eq!(ended.remaining(second(3)), Duration::ZERO);
    }

    #[test]
    fn anchor_names_are_read_back() {
        let name = AnchorName::from_random([0xa5; 16]);
        assert_eq!(AnchorName::parse(name.as_str()), Some(name));
        for bad in ["shorepass-", "other-aaaaaaaaaaaaaaaaaaaaaaaaaa", "shorepass-aaaaaaaaaaaaaaaaaaaaaaaaa1"]
        {
            assert_eq!(AnchorName::parse(bad), None, "{bad}");
        }
    }
}
