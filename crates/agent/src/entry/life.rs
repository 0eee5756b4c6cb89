//! How long a lease and its token last, as the agent counts.

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::id::LeaseId;
use shorepass_core::time::{Clock, Timestamp, until};
use shorepass_core::token::Token;

/// A lease that lasts no longer than this yields no token worth having, nor does one that lasts no longer beyond its token.
pub(super) const LAST_TOKEN_SLACK: Duration = Duration::from_secs(30);

/// Now, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) boot: Duration,
    pub(crate) wall: Timestamp,
}

impl Moment {
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { boot: clock.since_boot(), wall: clock.now() }
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot).max(until(earlier.wall, self.wall))
    }
}

pub(super) struct Held {
    pub(super) token: Arc<Token>,
    pub(super) token_id: String,
    pub(super) sent: Moment,
    pub(super) valid_for: Duration,
    pub(super) silence: Option<Duration>,
    pub(super) unbound: bool,
    pub(super) audiences: Vec<String>,
    pub(super) refresh_after: Duration,
}

impl Held {
    pub(super) fn left(&self, now: Moment) -> Duration {
        self.valid_for.saturating_sub(now.since(self.sent))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    /// None between a restart and the first answer.
    pub(super) term: Option<Term>,
}

#[derive(Clone, Copy)]
pub(super) struct Term {
    pub(super) sent: Moment,
    pub(super) remaining: Duration,
    pub(super) whole: Duration,
}

impl Term {
    /// By the boot-time clock alone: a wall clock that jumped must not cost a lease, only a refresh.
    pub(super) fn left(self, now: Moment) -> Duration {
        self.remaining.saturating_sub(now.boot.saturating_sub(self.sent.boot))
    }

    /// What is left when another token is not worth having any more. A lease of half a minute has one token.
    pub(super) fn slack(self) -> Duration {
        LAST_TOKEN_SLACK.min(self.whole / 2)
    }

    pub(super) fn is_nearly_over(self, now: Moment) -> bool {
        self.left(now) <= self.slack()
    }
}
