//! One (user, job, role): its lease, its token, and what to do next. Pure: no calls, no clock, no randomness.
//!
//! A token that is held is served until its real end, whatever goes wrong meanwhile. It is wiped at once when the
//! issuer says that the lease has ended. A new lease is asked for only when somebody asks for a token.
//!
//! Questionable: age is the larger of what the boot-time clock and the wall clock say. The first goes on in suspend and
//! never jumps; the second knows of a virtual machine that was paused.
//!
//! A client whose token was refused runs the plugin again, and the protocol has no word for that. So a token that is
//! asked for twice within [`REPEATED`] is suspect: once it was [`CONFIRMED`] ago that it is good, the issuer is asked
//! for another one, beside the answer and at most every [`CHECKS`]. Loops of healthy clients cost that too; a revoked
//! token is out of use about half a minute later instead of half of its life.

mod ended;
mod life;

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::id::{CallId, LeaseId, RequestId};
use shorepass_core::refresh::{self, SERVED_LIFE_FLOOR, retry_pause};
use shorepass_core::token::Token;
use shorepass_proto::local::v1::ErrorClass;
use shorepass_proto::v1::ErrorReason as Reason;
use tokio::sync::oneshot;

pub(crate) use self::life::Moment;
use self::life::{Held, LAST_TOKEN_SLACK, Lease, Term};
use crate::issuer::{Denial, IssuerError, Leased};

/// The shortest life that is served.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);

/// Since somebody asked: for so long an ended lease is replaced unasked, and an idle entry is kept.
const WANTED: Duration = Duration::from_secs(600);

/// The same, for an entry that has nothing and asks for nothing: denied, or never issued.
const WANTED_IN_VAIN: Duration = Duration::from_secs(60);

/// Two asks no further apart are a sign that the first token was refused.
const REPEATED: Duration = Duration::from_secs(5);

/// A token that came no longer ago is not suspect.
const CONFIRMED: Duration = Duration::from_secs(10);

/// The shortest time between two refreshes of suspect tokens.
const CHECKS: Duration = Duration::from_secs(30);

/// How long a refusal is told again without asking the issuer, so that a loop of clients does not hammer it. Longer where the
/// issuer says when it wants to be asked again.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(2);

/// The same, where the issuer was not reached.
const OUTAGE_REMEMBERED: Duration = Duration::from_secs(1);

/// The longest pause that the issuer can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A token to use now.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The token.
    pub token: Arc<Token>,
    /// How long it may be used from now.
    pub valid_for: Duration,
    /// For whom it is, where that is not the API server.
    pub audiences: Vec<String>,
}

/// Who waits for a token.
pub(crate) struct Waiting {
    /// The id of the local request: a call that it causes goes under it.
    pub(crate) id: CallId,
    /// Where it waits.
    pub(crate) answer: oneshot::Sender<Result<Lent, Denial>>,
}

impl Waiting {
    /// An asker that went away needs no answer.
    pub(crate) fn tell(self, answer: Result<Lent, Denial>) {
        let _ = self.answer.send(answer);
    }
}

/// A call to the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// For another token on this lease.
    Refresh(LeaseId),
    /// For a new lease.
    Issue,
}

/// What a failure means to the rest of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing: it is tried again later, or when somebody asks.
    Failed,
    /// The lease is over.
    LeaseOver,
    /// The request id is spent; another one is to be used.
    RequestSpent,
    /// The job session is over; another one is to be opened.
    JobOver,
}

/// What becomes of jitter and settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// In 0..1.
    pub(crate) jitter: f64,
    /// The configured age at which a token is refreshed at the latest.
    pub(crate) max_age: Option<Duration>,
}

struct Problem {
    denial: Denial,
    role_not_available: bool,
    told_until: Duration,
}

impl Problem {
    fn told(&self) -> String {
        format!("{}; {}", self.denial.message, self.denial.remedy)
    }
}

/// One (user, job, role).
pub(crate) struct Entry {
    /// Tells this entry from an earlier one of the same key.
    pub(crate) serial: u64,
    /// The id of an Issue that was not answered yet.
    pub(crate) request: Option<RequestId>,
    /// The call that is out for it.
    pub(crate) in_flight: Option<CallId>,
    lease: Option<Lease>,
    held: Option<Held>,
    problem: Option<Problem>,
    /// What an operator did to the lease before; until there is another one.
    over: Option<Denial>,
    /// What the issuer last answered was sent then, on the boot-time clock.
    heard: Duration,
    failures: u32,
    retry_at: Duration,
    /// What makes a new lease wanted though nobody waits: a local request, or a call that told of the lease's end.
    demand: Option<CallId>,
    /// The local request that makes the token suspect.
    suspect: Option<CallId>,
    /// When it last was suspect, on the boot-time clock.
    suspected: Option<Duration>,
    second_try: bool,
    made: Moment,
    asked: Option<Moment>,
    waiting: Vec<Waiting>,
}

/// What `status` tells of an entry.
pub(crate) struct Shown {
    pub(crate) lease: Option<LeaseId>,
    pub(crate) token_id: String,
    pub(crate) valid_for: Duration,
    pub(crate) problem: String,
    /// Whether the problem is that the job asked for what it may not have. A lease that is there makes it the agent's: it
    /// was granted, and gets no more tokens.
    pub(crate) denied: bool,
    /// Whether nothing ends the tokens of the lease before they expire.
    pub(crate) unbound: bool,
}

impl Entry {
    /// A new one; `lease` and `request` are what the agent knew before a restart.
    pub(crate) fn new(serial: u64, lease: Option<LeaseId>, request: Option<RequestId>, now: Moment) -> Self {
        Self {
            serial,
            request,
            in_flight: None,
            lease: lease.map(|id| Lease { id, term: None }),
            held: None,
            problem: None,
            over: None,
            heard: Duration::ZERO,
            failures: 0,
            retry_at: Duration::ZERO,
            demand: None,
            suspect: None,
            suspected: None,
            second_try: false,
            made: now,
            asked: None,
            waiting: Vec::new(),
        }
    }

    /// The lease, as it is recorded.
    pub(crate) fn lease(&self) -> Option<LeaseId> {
        self.lease.map(|lease| lease.id)
    }

    /// Answers at once if there is something to answer with; else the asker waits for the next outcome.
    pub(crate) fn ask(&mut self, asker: Waiting, now: Moment) {
        let repeated = self.asked.replace(now).is_some_and(|asked| now.since(asked) <= REPEATED);
        if let Some(lent) = self.lend(now) {
            if self.wants_lease(now) && now.boot >= self.retry_at {
                self.demand.get_or_insert_with(|| asker.id.clone());
            }
            if repeated && self.can_be_suspect(now) {
                self.suspect.get_or_insert_with(|| asker.id.clone());
                self.suspected = Some(now.boot);
            }
            return asker.tell(Ok(lent));
        }
        match self.told(now).cloned() {
            Some(denial) if self.in_flight.is_none() => asker.tell(Err(denial)),
            Some(_) | None => self.waiting.push(asker),
        }
    }

    /// Drops what is over.
    pub(crate) fn expire(&mut self, now: Moment) {
        if self.held.as_ref().is_some_and(|held| held.left(now) < SHORTEST) {
            self.held = None;
        }
        let over = |lease: &Lease| lease.term.is_some_and(|term| term.left(now).is_zero());
        if self.in_flight.is_none() && self.lease.as_ref().is_some_and(over) {
            self.lease = None;
        }
        self.waiting.retain(|asker| !asker.answer.is_closed());
    }

    /// The call to make now, if any.
    pub(crate) fn next_call(&self, now: Moment) -> Option<Call> {
        if self.in_flight.is_some() {
            return None;
        }
        let asked = !self.waiting.is_empty() && self.told(now).is_none();
        if (asked || self.demand.is_some()) && self.wants_lease(now) {
            return Some(Call::Issue);
        }
        let lease = self.lease?;
        let stale = self.held.as_ref().is_none_or(|held| now.since(held.sent) >= held.refresh_after);
        let worth_it = lease.term.is_none_or(|term| !term.is_nearly_over(now));
        let due = worth_it && (stale || self.suspect.is_some()) && now.boot >= self.retry_at;
        (asked || due).then_some(Call::Refresh(lease.id))
    }

    /// The id under which the call goes out: that of the first local request that wants it. None where the agent makes
    /// it by itself.
    pub(crate) fn wanted_by(&self, call: Call) -> Option<&CallId> {
        let beside = match call {
            Call::Issue => self.demand.as_ref(),
            Call::Refresh(_) => self.suspect.as_ref(),
        };
        self.waiting.first().map(|asker| &asker.id).or(beside)
    }

    /// Whether a token is held that somebody can use while the issuer is asked.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// When there may be something to do without anybody asking, on the boot-time clock.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        let lease = self.lease?;
        let refresh = self
            .held
            .as_ref()
            .map_or(Duration::ZERO, |held| held.sent.boot.saturating_add(held.refresh_after));
        let due = refresh.max(self.retry_at);
        let Some(term) = lease.term else { return self.in_flight.is_none().then_some(due) };
        let end = term.sent.boot.saturating_add(term.remaining);
        let in_vain = due >= end.saturating_sub(term.slack());
        self.in_flight.is_none().then_some(if in_vain { end } else { due })
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        let wanted = if self.request.is_some() { WANTED } else { WANTED_IN_VAIN };
        let resting = now.boot < self.retry_at;
        let idle = now.since(self.asked.unwrap_or(self.made)) >= wanted && !resting;
        let empty = self.lease.is_none() && self.held.is_none() && self.waiting.is_empty();
        idle && empty && self.demand.is_none() && self.in_flight.is_none()
    }

    /// A call was answered. `sent` is from before it was sent.
    pub(crate) fn settle(
        &mut self,
        call: Call,
        leased: Leased,
        sent: Moment,
        now: Moment,
        pace: Pace,
    ) -> Result<(), IssuerError> {
        if matches!(call, Call::Refresh(lease) if lease != leased.lease) {
            return Err(IssuerError::Garbled("lease"));
        }
        let held = Held {
            refresh_after: refresh_after(&leased, pace),
            token: Arc::new(leased.token),
            token_id: leased.token_id,
            sent,
            valid_for: leased.valid_for,
            silence: leased.silence,
            unbound: leased.unbound,
            audiences: leased.audiences,
        };
        if held.left(now) < SHORTEST {
            return Err(IssuerError::NoLife);
        }
        let known = self.lease.filter(|lease| lease.id == leased.lease).and_then(|lease| lease.term);
        let whole = known.map_or(leased.remaining, |term| term.whole);
        let term = Term { sent, remaining: leased.remaining, whole };
        self.lease = Some(Lease { id: leased.lease, term: Some(term) });
        self.held = Some(held);
        self.heard(sent.boot);
        self.problem = None;
        self.over = None;
        self.failures = 0;
        self.retry_at = Duration::ZERO;
        if call == Call::Issue {
            self.request = None;
            self.demand = None;
        }
        self.suspect = None;
        self.second_try = false;
        let lent = self.lend(now);
        for asker in self.waiting.drain(..) {
            if let Some(lent) = lent.clone() {
                asker.tell(Ok(lent));
            }
        }
        Ok(())
    }

    /// A call failed; says what that means. What can be tried at once with other ids keeps its askers waiting, once.
    pub(crate) fn fail(
        &mut self,
        call: Call,
        id: &CallId,
        error: &IssuerError,
        now: Moment,
        jitter: f64,
    ) -> Verdict {
        if call == Call::Issue && !error.outcome_unknown() {
            self.request = None;
        }
        self.suspect = None;
        let verdict = verdict(call, error.reason());
        match verdict {
            Verdict::LeaseOver => {
                self.lease = None;
                // An unknown lease may be a forgotten one: its token is as good as it was.
                if error.reason() != Some(Reason::LeaseNotAvailable) {
                    self.held = None;
                }
                if self.asked.is_some_and(|asked| now.since(asked) < WANTED) {
                    self.demand.get_or_insert_with(|| id.clone());
                }
                self.remember(error, error.denial(id), Duration::ZERO);
                verdict
            }
            Verdict::RequestSpent | Verdict::JobOver if !self.second_try => {
                self.second_try = true;
                verdict
            }
            Verdict::RequestSpent | Verdict::JobOver | Verdict::Failed => {
                self.give_up(id, error, now, jitter);
                Verdict::Failed
            }
        }
    }

    /// Tells everybody who waits, and remembers.
    pub(crate) fn give_up(&mut self, id: &CallId, error: &IssuerError, now: Moment, jitter: f64) {
        self.demand = None;
        self.second_try = false;
        let told = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
        let pause = retry_pause(self.failures, jitter).max(told);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.boot + pause;
        let outage = error.class() == ErrorClass::Unreachable;
        let remembered = if outage { OUTAGE_REMEMBERED } else { REFUSAL_REMEMBERED };
        let denial = self.denial(error, id);
        self.remember(error, denial.clone(), now.boot + remembered.max(told));
        for asker in self.waiting.drain(..) {
            asker.tell(Err(denial.clone()));
        }
    }

    /// Tells everybody who waits that there will be nothing.
    pub(crate) fn dismiss(self, denial: &Denial) {
        for asker in self.waiting {
            asker.tell(Err(denial.clone()));
        }
    }

    /// What `status` tells.
    pub(crate) fn show(&self, now: Moment) -> Shown {
        Shown {
            lease: self.lease(),
            token_id: self.held.as_ref().map(|held| held.token_id.clone()).unwrap_or_default(),
            valid_for: self.held.as_ref().map_or(Duration::ZERO, |held| self.told_life(held.left(now), now)),
            problem: self.problem.as_ref().map(Problem::told).unwrap_or_default(),
            denied: self.lease.is_none()
                && self.problem.as_ref().is_some_and(|problem| problem.role_not_available),
            unbound: self.held.as_ref().is_some_and(|held| held.unbound),
        }
    }

    fn remember(&mut self, error: &IssuerError, denial: Denial, told_until: Duration) {
        let role_not_available = error.reason() == Some(Reason::RoleNotAvailable);
        self.problem = Some(Problem { denial, role_not_available, told_until });
    }

    /// The refusal that is told until the issuer may be asked again.
    fn told(&self, now: Moment) -> Option<&Denial> {
        self.problem.as_ref().filter(|problem| now.boot < problem.told_until).map(|problem| &problem.denial)
    }

    fn can_be_suspect(&self, now: Moment) -> bool {
        let confirmed = self.held.as_ref().is_none_or(|held| now.since(held.sent) <= CONFIRMED);
        let checked = self.suspected.is_some_and(|last| now.boot.saturating_sub(last) < CHECKS);
        let term = self.lease.and_then(|lease| lease.term);
        let last = term.is_none_or(|term| term.is_nearly_over(now));
        !(confirmed || checked || last || self.in_flight.is_some() || now.boot < self.retry_at)
    }

    /// Whether an asker is better served by a new lease: there is none, or it is nearly over.
    ///
    /// A lease that is short from the start is not replaced before its half: that would be a lease for every request.
    fn wants_lease(&self, now: Moment) -> bool {
        let Some(lease) = self.lease else { return true };
        lease.term.is_some_and(|term| term.left(now) < SERVED_LIFE_FLOOR.min(term.whole / 2))
    }
}

fn refresh_after(leased: &Leased, pace: Pace) -> Duration {
    let last = leased.remaining.saturating_sub(leased.valid_for) <= LAST_TOKEN_SLACK;
    if last && pace.max_age.is_none() {
        return Duration::MAX;
    }
    refresh::Held { since: Duration::ZERO, valid_for: leased.valid_for }.refresh_at(pace.jitter, pace.max_age)
}

fn verdict(call: Call, reason: Option<Reason>) -> Verdict {
    match (call, reason) {
        (
            Call::Refresh(_),
            // The leases of an enrolment end with it, and those of somebody who is banned.
            Some(
                Reason::LeaseEnded
                | Reason::JobEnded
                | Reason::EnrolmentEnded
                | Reason::Banned
                | Reason::RunnerCloned
                | Reason::LeaseNotAvailable,
            ),
        ) => Verdict::LeaseOver,
        (Call::Issue, Some(Reason::LeaseEnded | Reason::RequestIdReused)) => Verdict::RequestSpent,
        (Call::Issue, Some(Reason::JobEnded | Reason::JobNotAvailable)) => Verdict::JobOver,
        (Call::Refresh(_) | Call::Issue, Some(_) | None) => Verdict::Failed,
    }
}
