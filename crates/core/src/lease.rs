//! Leases: a state machine without clocks or I/O.
//!
//! ```text
//! pending --> active --> ending --> ended
//!    \___________________^
//! ```
//!
//! Each step returns the lease as it is to be recorded, one revision up; what cannot follow is an error. An end is
//! recorded (*ending*) before the anchor is deleted and again (*ended*) after, so that a crash in between is found.
//!
//! A lease whose record was lost begins again as *active*, from what its anchor tells ([`crate::adoption`]). What that does
//! not tell, its job among it, is not known of it.

use std::time::Duration;

use crate::audience::Audiences;
use crate::caller::{LeaseOwner, Owner, SpiffeId};
use crate::digest::Digest;
use crate::gives::RoleRef;
use crate::id::{JobId, LeaseId};
use crate::ledger::{MintedToken, Revision};
use crate::mint::CLOCK_TOLERANCE;
use crate::name::Name;
use crate::not_removed::NotRemoved;
use crate::policy::edition::Edition;
use crate::receipt::Receipt;
use crate::role::{TOKEN_LIFETIME_CEILING, Target};
use crate::time::{Timestamp, after, until};

/// How much longer than to its expiry a token is accepted: 60 s of leeway for clocks, 10 s of cached successes.
pub const ACCEPTED_AFTER_EXPIRY: Duration = Duration::from_secs(70);

/// The name of an anchor: `shorepass-` and 26 base32 characters, chosen before the cluster is called, never reused. In a
/// strict lease the ServiceAccount has it too.
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
    /// The UID of the anchor; empty where there is none.
    pub anchor_uid: String,
    /// The UID of the ServiceAccount: another one under the same name is not this lease's. Empty while it is not known: of a
    /// lease that was adopted and has had no token since.
    pub service_account_uid: String,
}

/// How a lease can be ended before its tokens expire, and what exists in the cluster for it besides its anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By deleting its anchor. The ServiceAccount was there before.
    Bound,
    /// By deleting its bindings, its anchor and its ServiceAccount.
    Strict {
        /// The RoleBindings, in the order in which they are made.
        bindings: Vec<Binding>,
    },
    /// Not at all: it has no anchor.
    Unbound {
        /// When the last of its tokens is refused; known when it has ended.
        tokens_until: Option<Timestamp>,
    },
}

impl Mode {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Strict { .. } => "strict",
            Self::Unbound { .. } => "unbound",
        }
    }
}

/// A RoleBinding of a strict lease's ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where.
    pub namespace: Name,
    /// Its name, which no other lease's has.
    pub name: String,
    /// What it binds to; none where the lease was adopted and its role is not known.
    pub role: Option<RoleRef>,
}

/// When the last of an unbound lease's tokens is refused. `newest` are its newest tokens; if `older` there are more.
pub fn tokens_until(newest: &[MintedToken], older: bool) -> Option<Timestamp> {
    let known = newest.iter().map(|token| token.expires).max()?;
    // What is not looked at was made before all these, and lives no longer than any role allows.
    let longest = TOKEN_LIFETIME_CEILING + CLOCK_TOLERANCE;
    let unknown = newest.last().filter(|_| older).map(|oldest| after(oldest.recorded, longest));
    Some(after(unknown.map_or(known, |unknown| unknown.max(known)), ACCEPTED_AFTER_EXPIRY))
}

/// A time of a lease in which it yielded tokens: what stays known of it after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// What the cluster said.
    pub pins: Pins,
    /// Since when.
    pub since: Timestamp,
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
    /// Its owner's identity was found in use at two places.
    EnrolmentCloned,
    /// Its owner was not heard of for longer than the role allows.
    Silence,
    /// Its role was exchanged for one that does not give it any more.
    RoleChanged,
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
            Self::ServiceAccountReplaced => {
                "ended because its ServiceAccount was deleted or replaced".to_owned()
            }
            Self::EnrolmentReplaced => "ended because its runner was enrolled anew".to_owned(),
            Self::EnrolmentCloned => {
                "ended because its runner's identity was in use at two places".to_owned()
            }
            Self::Silence => "ended because its owner was silent for longer than the role allows".to_owned(),
            Self::RoleChanged => "ended because its role changed and does not give it any more".to_owned(),
            // Why is for operators: this is told to the owner.
            Self::OwnerBanned { by, reason: _ } => format!("ended because its owner was banned by {by}"),
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
        /// Its time before; none if no token of it was ever handed out.
        activation: Option<Activation>,
        /// Why.
        cause: EndCause,
        /// Since when.
        since: Timestamp,
    },
    /// Its anchor is gone.
    Ended {
        /// Its time before; none if no token of it was ever handed out.
        activation: Option<Activation>,
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
    /// The job it hangs on; none of a lease that was adopted.
    pub job: Option<JobId>,
    /// Whom it belongs to.
    pub owner: LeaseOwner,
    /// The role it came from; none if the lease was adopted and no role is as its was.
    pub role: Option<Name>,
    /// The digest of that role's document when it was granted.
    pub role_digest: Digest,
    /// The policy that granted it; not known of a lease that was adopted, or that is older than this was recorded.
    pub policy: Option<Edition>,
    /// Which ServiceAccount; in a strict lease one that is made for it. Its name is empty where it is not known: of a bound
    /// lease without a role.
    pub target: Target,
    /// For whom its tokens are; none where that is the API server, or is not known: of a bound lease without a role.
    pub audiences: Option<Audiences>,
    /// The anchor's name in the target's namespace. An unbound lease has the name, and nothing in the cluster bears it.
    pub anchor: AnchorName,
    /// How it can be ended.
    pub mode: Mode,
    /// When it was recorded.
    pub created: Timestamp,
    /// When it ends at the latest.
    pub deadline: Timestamp,
    /// Where it is in its life.
    pub state: State,
    /// What was proved about its end; none while nothing was asked.
    pub receipt: Option<Box<Receipt>>,
    /// What its end leaves to its ServiceAccount, as far as that was seen when it began. Only a strict lease is looked at.
    pub not_removed: Option<Box<NotRemoved>>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// A state by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// [`State::Pending`]
    Pending,
    /// [`State::Active`]
    Active,
    /// [`State::Ending`]
    Ending,
    /// [`State::Ended`]
    Ended,
}

/// A step that a lease has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition<'a> {
    /// The state that it came to.
    pub to: Step,
    /// When, by the issuer's clock.
    pub at: Timestamp,
    /// Why, where that is not a matter of course.
    pub cause: Option<&'a EndCause>,
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
    /// Whether its record was lost, and made again from its anchor.
    pub fn is_adopted(&self) -> bool {
        self.job.is_none()
    }

    /// The role's name; empty where it is not known.
    pub fn role_name(&self) -> &str {
        self.role.as_ref().map_or("", Name::as_str)
    }

    /// Whether something is not known of it that its next token tells: its owner, or the UID of its ServiceAccount.
    pub fn is_incomplete(&self) -> bool {
        self.owner.known().is_none() || self.pins().is_some_and(|pins| pins.service_account_uid.is_empty())
    }

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

    /// What the cluster said when it became active, and when that was; also after its end.
    pub fn activation(&self) -> Option<(&Pins, Timestamp)> {
        match &self.state {
            State::Pending => None,
            State::Active { pins, since } => Some((pins, *since)),
            State::Ending { activation, .. } | State::Ended { activation, .. } => {
                activation.as_ref().map(|before| (&before.pins, before.since))
            }
        }
    }

    /// All steps that it has made, oldest first.
    pub fn transitions(&self) -> Vec<Transition<'_>> {
        let step = |to, at, cause| Transition { to, at, cause };
        let mut steps = vec![step(Step::Pending, self.created, None)];
        steps.extend(self.activation().map(|(_, since)| step(Step::Active, since, None)));
        steps.extend(self.end_cause().map(|(cause, since)| step(Step::Ending, since, Some(cause))));
        if let State::Ended { gone, cause, .. } = &self.state {
            steps.push(step(Step::Ended, *gone, Some(cause)));
        }
        steps
    }

    /// Why and when its end was recorded.
    pub fn end_cause(&self) -> Option<(&EndCause, Timestamp)> {
        match &self.state {
            State::Ending { cause, since, .. } | State::Ended { cause, since, .. } => Some((cause, *since)),
            State::Pending | State::Active { .. } => None,
        }
    }

    /// Whether deleting something ends its tokens.
    pub fn has_anchor(&self) -> bool {
        match self.mode {
            Mode::Bound | Mode::Strict { .. } => true,
            Mode::Unbound { .. } => false,
        }
    }

    /// The namespace that its holder works in.
    pub fn working_namespace(&self) -> &Name {
        match &self.mode {
            Mode::Bound | Mode::Unbound { .. } => &self.target.namespace,
            Mode::Strict { bindings } => {
                bindings.first().map_or(&self.target.namespace, |binding| &binding.namespace)
            }
        }
    }

    /// The time it has left; zero when it has ended.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        if self.is_live() { until(now, self.deadline) } else { Duration::ZERO }
    }

    /// The same lease, knowing what its end leaves to its ServiceAccount.
    pub fn leaving(self, not_removed: Option<NotRemoved>) -> Self {
        Self { not_removed: not_removed.map(Box::new), ..self }
    }

    /// pending --> active
    pub fn activate(self, pins: Pins, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state {
            State::Pending => Ok(self.step(State::Active { pins, since: now })),
            State::Active { .. } | State::Ending { .. } | State::Ended { .. } => Err(self.refuse("active")),
        }
    }

    /// active --> active, of an adopted lease: its owner came for a token, which tells the rest.
    pub fn recognise(self, owner: Owner, pins: Pins) -> Result<Self, TransitionError> {
        match self.state {
            State::Active { since, .. } if self.is_adopted() => {
                Ok(Self { owner: owner.into(), ..self.step(State::Active { pins, since }) })
            }
            State::Pending | State::Active { .. } | State::Ending { .. } | State::Ended { .. } => {
                Err(self.refuse("a lease whose owner is known again"))
            }
        }
    }

    /// pending, active --> ending
    pub fn begin_end(self, cause: EndCause, now: Timestamp) -> Result<Self, TransitionError> {
        let activation = match &self.state {
            State::Pending => None,
            State::Active { pins, since } => Some(Activation { pins: pins.clone(), since: *since }),
            State::Ending { .. } | State::Ended { .. } => return Err(self.refuse("ending")),
        };
        Ok(self.step(State::Ending { activation, cause, since: now }))
    }

    /// The same lease, knowing when the last of its tokens is refused. One with an anchor is as it was.
    pub fn outlived(self, until: Option<Timestamp>) -> Self {
        match self.mode {
            Mode::Bound | Mode::Strict { .. } => self,
            Mode::Unbound { .. } => Self { mode: Mode::Unbound { tokens_until: until }, ..self },
        }
    }

    /// ending --> ended
    pub fn finish_end(self, now: Timestamp) -> Result<Self, TransitionError> {
        match self.state.clone() {
            State::Ending { activation, cause, since } => {
                Ok(self.step(State::Ended { activation, cause, since, gone: now }))
            }
            State::Pending | State::Active { .. } | State::Ended { .. } => Err(self.refuse("ended")),
        }
    }

    /// The same state with a receipt, or with a newer one.
    pub fn receive(self, receipt: Receipt) -> Result<Self, TransitionError> {
        match self.state {
            State::Ending { .. } | State::Ended { .. } => {
                Ok(Self { receipt: Some(Box::new(receipt)), revision: self.revision.next(), ..self })
            }
            State::Pending | State::Active { .. } => Err(self.refuse("a lease with a receipt")),
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
pub(crate) mod tests;
