//! Whether the issuer still knows everything that it must never forget.
//!
//! *Security state* is what refuses somebody: bans, blocks, used join tokens, replaced enrolments. Losing a lease's record costs
//! knowledge; losing one of these lets somebody in. So a ledger that lost some says so, and while it does, nothing is
//! believed that was made before: a certificate of then may be one that was shut out.

use crate::time::{Timestamp, for_people};

/// What the ledger knows of its security state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityState {
    /// All that was ever acknowledged.
    Whole,
    /// Some of it may be missing, found at that time; until an operator accepts the loss.
    LostSince(Timestamp),
}

impl SecurityState {
    /// Lost since that time, or whole if there is none.
    pub fn of(lost: Option<Timestamp>) -> Self {
        lost.map_or(Self::Whole, Self::LostSince)
    }

    /// Whether something that was made then is believed.
    pub fn admits(self, made: Timestamp) -> bool {
        match self {
            Self::Whole => true,
            Self::LostSince(found) => made >= found,
        }
    }

    /// What is wrong and what to do, in one sentence; none if nothing is.
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::LostSince(found) => Some(format!(
                "security state (bans, blocks, used join tokens, enrolments) was found lost at {}: no runner is enrolled and no \
                 certificate of before is accepted until `shorepass-issuer store rebuild --accept-loss`",
                for_people(found)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_loss_only_what_was_made_later_is_believed() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let lost = SecurityState::LostSince(second(100));
        for (made, admitted) in [(99, false), (100, true), (101, true)] {
            assert_eq!(lost.admits(second(made)), admitted, "{made}");
            assert!(SecurityState::Whole.admits(second(made)));
        }
        assert!(lost.problem().unwrap().contains("--accept-loss"));
        assert_eq!(SecurityState::Whole.problem(), None);
    }
}
