//! Receipts: what was proved about the end of a lease, and about which API servers.
//!
//! No token is kept to try it later, and a try that comes too early is remembered by the API server as a success for 10 s.
//! So *canaries* are asked: further tokens on the same anchor that nobody else ever sees, each used once, because an API
//! server may give the same answer again to the same token. What they were answered is an [`Evidence`]; what that amounts
//! to is decided here, by [`Evidence::receipt`], without clock or I/O.
//!
//! A refusal alone proves nothing: a server that cannot read its store refuses everything, and one that does not know the
//! token's audience always did. It counts where a sibling was accepted by the same server before the cut and a canary on a
//! living anchor, the *control*, right after the refusal. One trap is left: a server whose watch lags may not have seen the
//! anchor's creation yet. It asks the store, refuses, and accepts again when the late creation arrives, until the deletion
//! does. A refusal within the lag bound of the creation therefore counts only from the lag bound after the cut on.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::{CutError, MintError};
use crate::id::LeaseId;
use crate::lease::{AnchorName, Lease, Pins};
use crate::name::Name;
use crate::role::Target;
use crate::time::{Timestamp, after, until};
use crate::token::Token;

/// How far the watch of an API server may lag, unless the cluster is configured otherwise.
pub const LAG_BOUND: Duration = Duration::from_secs(30);
/// How long an API server goes on accepting a token that it accepted just before it saw the deletion.
pub const ACCEPTED_FOR: Duration = Duration::from_secs(10);
/// How soon after a refusal the control has to be accepted.
pub const CONTROL_WITHIN: Duration = Duration::from_secs(10);

/// What a canary is bound to: the anchor of a lease, or a control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The lease that the question is about.
    pub lease: LeaseId,
    /// Whose token it is.
    pub target: Target,
    /// The anchor.
    pub anchor: AnchorName,
    /// The UIDs of anchor and ServiceAccount.
    pub pins: Pins,
}

impl Bound {
    /// The anchor of a lease; none if the lease never became active, or if no API server's answer would tell of its tokens.
    pub fn of(lease: &Lease) -> Option<Self> {
        let (pins, _) = lease.activation().filter(|_| lease.audiences.is_none())?;
        let (target, anchor) = (lease.target.clone(), lease.anchor.clone());
        Some(Self { lease: lease.id, target, anchor, pins: pins.clone() })
    }

    /// The same ServiceAccount on a control; where the control has one of its own, that one.
    pub fn on(&self, control: &Control, made: &Pins) -> Self {
        let anchor = control.anchor.clone();
        if control.with_account {
            let target = Target { service_account: anchor.as_str().to_owned(), ..self.target.clone() };
            return Self { lease: self.lease, target, anchor, pins: made.clone() };
        }
        let pins = Pins { anchor_uid: made.anchor_uid.clone(), ..self.pins.clone() };
        Self { anchor, pins, ..self.clone() }
    }
}

/// A token that is there to be asked about, once. It is never handed out.
#[derive(Debug)]
pub struct Canary {
    token: Token,
    jti: String,
}

impl Canary {
    /// A token that was minted for this.
    pub fn new(token: Token, jti: String) -> Self {
        Self { token, jti }
    }

    /// Its `jti`, as the cluster's audit log has it.
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// The token, to be shown to one API server; it is used up.
    pub fn into_token(self) -> Token {
        self.token
    }
}

/// What an API server says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It knows whose it is.
    Accepted,
    /// It is good for nothing (401).
    Refused,
    /// Something else, or nothing; in words.
    None(String),
}

/// The API servers that are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Each one, as `host:port`.
    pub endpoints: Vec<String>,
    /// Whether these are all there are. One URL may lead to several.
    pub complete: bool,
}

/// Asks API servers whether tokens on an anchor are good. Retries nothing; each call ends by its own deadline.
#[async_trait]
pub trait Witnesses: Send + Sync {
    /// Who is asked, as far as that is known now.
    fn scope(&self) -> Scope;

    /// Finds out anew who is to be asked, where that can change while nobody says so.
    async fn look_around(&self);

    /// How far their watches may lag.
    fn lag_bound(&self) -> Duration;

    /// Mints a canary.
    async fn canary(&self, bound: &Bound) -> Result<Canary, MintError>;

    /// Shows a canary to one API server of the scope, over a connection of its own.
    async fn ask(&self, endpoint: &str, canary: Canary) -> Answer;

    /// Creates what a control consists of and gives the UIDs; that of a ServiceAccount is empty where it has none of its
    /// own. On an error it may exist all the same.
    async fn create_control(&self, control: &Control) -> Result<Pins, MintError>;

    /// Deletes it. No error if it is gone already.
    async fn delete_control(&self, control: &Control) -> Result<(), CutError>;
}

/// An anchor of nobody's lease that lives while a proof goes on. Recorded before it is created, so that it is found after
/// a crash, and forgotten when it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Its name.
    pub anchor: AnchorName,
    /// Where.
    pub cluster: Name,
    /// The namespace.
    pub namespace: Name,
    /// Whether it has a ServiceAccount of its own, with the anchor's name: that of a strict lease dies with the lease.
    pub with_account: bool,
    /// When it was recorded.
    pub created: Timestamp,
}

/// One question that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What the canary was bound to.
    pub of: Whose,
    /// Its `jti`.
    pub jti: String,
    /// When it was shown.
    pub asked: Timestamp,
    /// When the answer was there.
    pub answered: Timestamp,
    /// The answer.
    pub answer: Answer,
}

/// What a canary is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The lease's anchor, like the tokens that were handed out.
    Sibling,
    /// A control.
    Control,
}

/// What one API server answered, in the order of the answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witnessed {
    /// Which.
    pub endpoint: String,
    /// The answers.
    pub seen: Vec<Observation>,
    /// Why the next question was not asked, if that is known.
    pub gap: Option<Unproved>,
}

/// All that was seen of the end of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When the anchor was there at the latest; none if the lease never became active.
    pub anchored: Option<Timestamp>,
    /// Whether its tokens were for others than the API server.
    pub for_others: bool,
    /// When the delete was sent.
    pub cut_sent: Timestamp,
    /// When it was confirmed, or why it was not.
    pub cut: Result<Timestamp, CutError>,
    /// How far a watch may lag.
    pub lag_bound: Duration,
    /// Whether the servers below are all there are.
    pub complete: bool,
    /// What they said.
    pub servers: Vec<Witnessed>,
}

/// What was proved about the end of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What.
    pub verdict: Verdict,
    /// The API servers that were asked: it says nothing about others.
    pub endpoints: Vec<String>,
    /// The canaries that were shown to them, by `jti`.
    pub canaries: Vec<String>,
    /// When it was made.
    pub made: Timestamp,
}

/// How much is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All API servers of the cluster refuse its tokens.
    Proved(Death),
    /// Those that were asked do; there may be others behind the same address.
    Assumed(Death),
    /// It is not known.
    Unproved(Unproved),
}

/// When the tokens of a lease died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// When the last API server was seen to refuse a canary.
    pub refused: Timestamp,
    /// From when on no API server takes a token that it had not taken just before.
    pub observed_at: Timestamp,
    /// From when on none takes any: [`ACCEPTED_FOR`] later.
    pub dead_by: Timestamp,
}

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproved {
    /// Why.
    pub why: Why,
    /// Which API server, or what it said; may be empty.
    pub detail: String,
}

/// Why nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is nothing to prove.
    NeverActive,
    /// The delete is not confirmed.
    NotDeleted,
    /// The delete is done and the object is not gone.
    HeldByFinalizer,
    /// The delete went out before they were there.
    CanariesLate,
    /// The cluster gave none.
    NoCanary,
    /// No API server accepted a sibling before the cut.
    NotAcceptedBefore,
    /// It went on accepting siblings as long as it was asked.
    StillAccepted,
    /// It did not say yes or no.
    NoAnswer,
    /// There was no living anchor to compare with.
    NoControl,
    /// It refused tokens of a living anchor, too.
    ControlRefused,
    /// They do not ask the API server, or need not: whoever verifies offline does not see a revocation.
    ForOthers,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NeverActive,
        Self::NotDeleted,
        Self::HeldByFinalizer,
        Self::CanariesLate,
        Self::NoCanary,
        Self::NotAcceptedBefore,
        Self::StillAccepted,
        Self::NoAnswer,
        Self::NoControl,
        Self::ControlRefused,
        Self::ForOthers,
    ];

    /// In words, for a sentence that goes on with a detail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NeverActive => "no token of it was ever handed out",
            Self::NotDeleted => "the anchor is not known to be deleted",
            Self::HeldByFinalizer => "a finalizer holds the anchor, its tokens die 60 s after the delete",
            Self::CanariesLate => "the delete did not wait for the canaries",
            Self::NoCanary => "no canary could be minted",
            Self::NotAcceptedBefore => {
                "a canary was not accepted before the cut, so that a refusal says nothing"
            }
            Self::StillAccepted => "canaries were accepted as long as the server was asked",
            Self::NoAnswer => "the server did not say yes or no",
            Self::NoControl => "there was no living anchor to compare with",
            Self::ControlRefused => "the server refuses tokens of a living anchor too",
            Self::ForOthers => {
                "its tokens are for others than the API server, and who verifies them without asking the cluster does not see \
                 a revocation"
            }
        }
    }

    /// With what else is known.
    pub fn because(self, detail: impl Into<String>) -> Unproved {
        Unproved { why: self, detail: detail.into() }
    }
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why.as_str())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl Verdict {
    /// In a word: `proved`, `assumed` or `unproved`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Proved(_) => "proved",
            Self::Assumed(_) => "assumed",
            Self::Unproved(_) => "unproved",
        }
    }

    /// When the tokens died, if that is known.
    pub fn death(&self) -> Option<&Death> {
        match self {
            Self::Proved(death) | Self::Assumed(death) => Some(death),
            Self::Unproved(_) => None,
        }
    }
}

impl Evidence {
    /// What it amounts to.
    pub fn receipt(&self, made: Timestamp) -> Receipt {
        let verdict = match self.death() {
            Ok(death) if self.complete => Verdict::Proved(death),
            Ok(death) => Verdict::Assumed(death),
            Err(unproved) => Verdict::Unproved(unproved),
        };
        let seen = self.servers.iter().flat_map(|server| &server.seen);
        Receipt {
            verdict,
            endpoints: self.servers.iter().map(|server| server.endpoint.clone()).collect(),
            canaries: seen.map(|observation| observation.jti.clone()).collect(),
            made,
        }
    }

    fn death(&self) -> Result<Death, Unproved> {
        let anchored = self.anchored.ok_or_else(|| Why::NeverActive.because(""))?;
        let cut = match &self.cut {
            Ok(at) => *at,
            Err(held @ CutError::HeldByFinalizer(_)) => {
                return Err(Why::HeldByFinalizer.because(held.to_string()));
            }
            Err(cause) => return Err(Why::NotDeleted.because(cause.to_string())),
        };
        if self.for_others {
            return Err(Why::ForOthers.because(""));
        }
        let mut last: Option<(Timestamp, Timestamp)> = None;
        for server in &self.servers {
            let Refusal { asked, refused } = server.refusal(self.cut_sent)?;
            let settled = after(anchored, self.lag_bound);
            // What is asked before that may be decided before that, however late it is answered.
            let observed = if asked < settled { refused.max(after(cut, self.lag_bound)) } else { refused };
            let (refusals, observations) = last.unwrap_or((refused, observed));
            last = Some((refusals.max(refused), observations.max(observed)));
        }
        let (refused, observed_at) = last.ok_or_else(|| Why::NoAnswer.because("no API server was asked"))?;
        Ok(Death { refused, observed_at, dead_by: after(observed_at, ACCEPTED_FOR) })
    }
}

/// A refusal that counts.
struct Refusal {
    /// When the canary was shown.
    asked: Timestamp,
    /// When the refusal was there.
    refused: Timestamp,
}

impl Witnessed {
    /// When it refused a sibling for good, if that counts.
    fn refusal(&self, cut_sent: Timestamp) -> Result<Refusal, Unproved> {
        let siblings = || self.seen.iter().filter(|seen| seen.of == Whose::Sibling);
        let accepted_before =
            |seen: &Observation| seen.answer == Answer::Accepted && seen.answered <= cut_sent;
        if !siblings().any(accepted_before) {
            return Err(self.missing(Why::NotAcceptedBefore));
        }
        // Only what follows the last acceptance: an early refusal by a server that lags is taken back.
        let mut first: Option<&Observation> = None;
        for seen in siblings().filter(|seen| seen.asked >= cut_sent) {
            match seen.answer {
                Answer::Accepted => first = None,
                Answer::Refused => first = first.or(Some(seen)),
                Answer::None(_) => {}
            }
        }
        let Some(&Observation { asked, answered: refused, .. }) = first else {
            return Err(self.missing(match siblings().next_back().map(|seen| &seen.answer) {
                Some(Answer::None(_)) => Why::NoAnswer,
                _ => Why::StillAccepted,
            }));
        };
        let right_after = |seen: &Observation| {
            seen.of == Whose::Control
                && seen.asked >= refused
                && until(refused, seen.answered) <= CONTROL_WITHIN
        };
        let mut controls = self.seen.iter().filter(|seen| right_after(seen)).peekable();
        if controls.peek().is_none() {
            return Err(self.missing(Why::NoControl));
        }
        if !controls.any(|seen| seen.answer == Answer::Accepted) {
            return Err(self.missing(Why::ControlRefused));
        }
        Ok(Refusal { asked, refused })
    }

    /// What is known better than by what was not seen.
    fn missing(&self, why: Why) -> Unproved {
        if let Some(gap) = &self.gap {
            return Unproved { why: gap.why, detail: join(&self.endpoint, &gap.detail) };
        }
        let said = match self.seen.last().map(|seen| &seen.answer) {
            Some(Answer::None(said)) => said.as_str(),
            Some(Answer::Accepted | Answer::Refused) | None => "",
        };
        why.because(join(&self.endpoint, said))
    }
}

fn join(endpoint: &str, said: &str) -> String {
    if said.is_empty() { endpoint.to_owned() } else { format!("{endpoint}: {said}") }
}

#[cfg(test)]
pub(crate) mod tests;
