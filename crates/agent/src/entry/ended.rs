//! What an entry learns without having asked: that its lease has ended, that the issuer has heard of it.

use std::time::Duration;

use shorepass_core::id::CallId;
use shorepass_core::window::MARGIN;
use shorepass_proto::local::v1::ErrorClass;

use super::{Entry, Lent, Moment, Problem, SHORTEST, WANTED};
use crate::follow::Ended;
use crate::issuer::{Denial, IssuerError};

/// A role that was changed is asked about within this.
const ROLE_CHECK: Duration = Duration::from_secs(10);

impl Entry {
    /// The lease has ended: the token is wiped at once, and whoever asks is told why until there is another lease.
    pub(crate) fn end(&mut self, ended: &Ended, call: &CallId, now: Moment) {
        self.lease = None;
        self.held = None;
        self.suspect = None;
        let message = format!("the lease was {}", ended.sentence());
        let remedy = match ended.is_deliberate() {
            true => "ask an operator; `shorepass unblock` lifts a block".to_owned(),
            false => "ask again: the agent gets another lease where it may".to_owned(),
        };
        let told = Denial::new(ErrorClass::LeaseEnded, message, remedy);
        let denial = Denial { call: Some(call.clone()), ..told };
        self.over = ended.is_deliberate().then(|| denial.clone());
        self.problem = Some(Problem { denial, role_not_available: false, told_until: Duration::ZERO });
        self.want_another(call, now);
    }

    /// A token came after the end of its lease was told: it is not served, and the request for it is spent.
    pub(crate) fn came_too_late(&mut self, ended: &Ended, call: &CallId, now: Moment) {
        self.request = None;
        self.end(ended, call, now);
    }

    /// The issuer does not know the lease as ours: a forgotten one, whose token is as good as it was.
    pub(crate) fn lose(&mut self, call: &CallId, now: Moment) {
        self.lease = None;
        self.want_another(call, now);
    }

    /// The issuer has answered what was sent then, on the boot-time clock.
    pub(crate) fn heard(&mut self, sent: Duration) {
        self.heard = self.heard.max(sent);
    }

    /// The role of its lease was changed: a refresh is decided by the new one.
    pub(crate) fn role_changed(&mut self, now: Moment, jitter: f64) {
        if let Some(held) = &mut self.held {
            held.refresh_after = held.refresh_after.min(now.since(held.sent) + ROLE_CHECK.mul_f64(jitter));
        }
    }

    /// What is told where there is no lease: an operator's word stays the reason, whatever came of asking again.
    pub(super) fn denial(&self, error: &IssuerError, call: &CallId) -> Denial {
        let denial = error.denial(call);
        match &self.over {
            Some(over) => Denial {
                class: ErrorClass::LeaseEnded,
                message: format!("{}; {}", over.message, denial.message),
                ..denial
            },
            None => denial,
        }
    }

    pub(super) fn lend(&self, now: Moment) -> Option<Lent> {
        let held = self.held.as_ref()?;
        let left = held.left(now);
        let (token, audiences) = (held.token.clone(), held.audiences.clone());
        (left >= SHORTEST).then(|| Lent { token, valid_for: self.told_life(left, now), audiences })
    }

    /// No longer than until silence may have ended the lease; but what is held is served, for as short as can be told.
    pub(super) fn told_life(&self, left: Duration, now: Moment) -> Duration {
        let silent = now.boot.saturating_sub(self.heard);
        let heard = self.held.as_ref().and_then(|held| held.silence);
        let spared = heard.map_or(Duration::MAX, |limit| limit.saturating_sub(MARGIN + silent));
        left.min(spared.max(SHORTEST))
    }

    fn want_another(&mut self, call: &CallId, now: Moment) {
        if self.asked.is_some_and(|asked| now.since(asked) < WANTED) {
            self.demand.get_or_insert_with(|| call.clone());
        }
    }
}
