//! What an owner is told about a token's life.
//!
//! The minimum over the chain (token, lease, the owner's certificate, the silence that the role allows) less a margin. Life is counted from before the
//! request was sent, on a clock that does not jump; wall time is for people.

use std::time::Duration;

use crate::time::{Timestamp, after, until};

/// Taken off what is told, so that nobody uses a token in its last seconds.
pub const MARGIN: Duration = Duration::from_secs(10);

/// How long a token lives from now, by the API server's own timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Life left.
    pub life: Duration,
}

/// What else ends, besides the token itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// When the lease ends.
    pub lease_deadline: Timestamp,
    /// When the owner's certificate ends.
    pub certificate_expires: Timestamp,
    /// How long the owner may be silent, from now: it was heard just now.
    pub silence: Option<Duration>,
}

/// What an owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How long it may use the token, from now, if it is silent.
    pub valid_for: Duration,
    /// The same end by the issuer's clock.
    pub expires_at: Timestamp,
    /// How long it may use the token, from now, while it is heard of again and again.
    pub valid_while_heard: Duration,
    /// How long it may be silent.
    pub silence: Option<Duration>,
}

impl Window {
    /// The earliest end of the chain, less the margin.
    pub fn told(self, chain: Chain, now: Timestamp) -> Told {
        let Chain { lease_deadline, certificate_expires, silence } = chain;
        let others = until(now, lease_deadline).min(until(now, certificate_expires));
        let while_heard = self.life.min(others);
        let valid_for = while_heard.min(silence.unwrap_or(Duration::MAX)).saturating_sub(MARGIN);
        Told {
            valid_for,
            expires_at: after(now, valid_for),
            valid_while_heard: while_heard.saturating_sub(MARGIN),
            silence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(life: u64, lease: i64, certificate: i64, silence: Option<u64>) -> (u64, u64) {
        let second = |second| Timestamp::from_second(second).unwrap();
        let chain = Chain {
            lease_deadline: second(lease),
            certificate_expires: second(certificate),
            silence: silence.map(Duration::from_secs),
        };
        let told = Window { life: Duration::from_secs(life) }.told(chain, second(0));
        assert_eq!(told.expires_at, after(second(0), told.valid_for));
        (told.valid_for.as_secs(), told.valid_while_heard.as_secs())
    }

    #[test]
    fn the_shortest_of_token_lease_and_certificate_counts() {
        assert_eq!(told(100, 200, 300, None), (90, 90));
        assert_eq!(told(300, 100, 200, None), (90, 90));
        assert_eq!(told(300, 200, 100, None), (90, 90));
        assert_eq!(told(5, 200, 300, None), (0, 0));
    }

    #[test]
    fn silence_counts_only_for_who_is_silent() {
        assert_eq!(told(300, 200, 300, Some(60)), (50, 190));
        assert_eq!(told(300, 200, 300, Some(900)), (190, 190));
    }
}
