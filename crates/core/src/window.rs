//! What an owner is told about a token's life.
//!
//! The minimum over the chain (token, lease, the owner's certificate) less a margin. Life is counted from before the
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

/// What an owner is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// How long it may use the token, from now.
    pub valid_for: Duration,
    /// The same end by the issuer's clock.
    pub expires_at: Timestamp,
}

impl Window {
    /// The earliest end of the chain, less the margin.
    pub fn told(self, lease_deadline: Timestamp, certificate_expires: Timestamp, now: Timestamp) -> Told {
        let chain = [self.life, until(now, lease_deadline), until(now, certificate_expires)];
        let shortest = chain.into_iter().min().unwrap_or(Duration::ZERO);
        let valid_for = shortest.saturating_sub(MARGIN);
        Told { valid_for, expires_at: after(now, valid_for) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_token_lease_and_certificate_counts() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let told = |life, lease, certificate| {
            let window = Window { life: Duration::from_secs(life) };
            window.told(second(lease), second(certificate), second(0)).valid_for.as_secs()
        };
        assert_eq!(told(100, 200, 300), 90);
        assert_eq!(told(300, 100, 200), 90);
        assert_eq!(told(300, 200, 100), 90);
        assert_eq!(told(5, 200, 300), 0);
    }
}
