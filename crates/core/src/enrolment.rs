//! Join tokens and enrolments: how a runner's name comes to a key. What becomes of that key is in [`lineage`](self::lineage).
//!
//! The secret of a join token is kept nowhere: the ledger has its SHA-256 (the secret is 256 random bits, so a plain
//! digest is enough). Taking a token is one conditional commit, durable before anything is signed.

pub mod lineage;
mod origin;

pub use self::lineage::{CertificateUse, CloneCause, Cloned, Enrolment, Life, Renewal, Standing};
pub use self::origin::Origin;

use crate::caller::SpiffeId;
use crate::digest::Digest;
use crate::id::EnrolmentId;
use crate::labels::Labels;
use crate::ledger::Revision;
use crate::name::{Name, NamePattern};
use crate::time::{Timestamp, for_people};

/// A one-time right to enrol a runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the secret: its key in the ledger.
    pub digest: Digest,
    /// Which names it may enrol.
    pub runners: NamePattern,
    /// The labels of the enrolment that comes of it.
    pub labels: Labels,
    /// Whether it may replace a live enrolment.
    pub replace: bool,
    /// When it was created.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Who created it.
    pub by: SpiffeId,
    /// Who took it.
    pub taken: Option<Taken>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

/// The use of a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// When.
    pub at: Timestamp,
    /// The enrolment that came of it.
    pub enrolment: EnrolmentId,
    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER) that it was used with.
    pub key: Digest,
}

/// Why a join token does not enrol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// It was used.
    #[error("this join token has enrolled a runner already; ask an operator for a new one")]
    Used,
    /// It is past its expiry.
    #[error("this join token expired at {}; ask an operator for a new one", for_people(*.0))]
    Expired(Timestamp),
    /// The name does not match.
    #[error("this join token is for runners named {pattern}, not for {name}")]
    Name {
        /// What it allows.
        pattern: NamePattern,
        /// What was asked.
        name: Name,
    },
}

/// What a presented join token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Its first use.
    First,
    /// The reply to its first use was lost: the same key asks again and gets the same enrolment.
    Again(EnrolmentId),
}

impl JoinToken {
    /// Whether it enrols this name with this key now.
    pub fn admits(&self, name: &Name, key: Digest, now: Timestamp) -> Result<Join, JoinRefusal> {
        if now >= self.expires {
            return Err(JoinRefusal::Expired(self.expires));
        }
        if let Some(taken) = &self.taken {
            return if taken.key == key { Ok(Join::Again(taken.enrolment)) } else { Err(JoinRefusal::Used) };
        }
        if !self.runners.matches(name) {
            return Err(JoinRefusal::Name { pattern: self.runners.clone(), name: name.clone() });
        }
        Ok(Join::First)
    }

    /// The token after its use.
    pub fn take(self, taken: Taken) -> Self {
        Self { taken: Some(taken), revision: self.revision.next(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"key";

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn token() -> JoinToken {
        JoinToken {
            digest: Digest::of_bytes(b"secret"),
            runners: NamePattern::parse("prod-*").unwrap(),
            labels: Labels::default(),
            replace: false,
            created: second(0),
            expires: second(100),
            by: SpiffeId::parse("spiffe://d/operator/o").unwrap(),
            taken: None,
            revision: Revision::FIRST,
        }
    }

    fn taken() -> JoinToken {
        let enrolment = EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap();
        token().take(Taken { at: second(1), enrolment, key: Digest::of_bytes(KEY) })
    }

    fn admits(token: &JoinToken, name: &str, key: &[u8], now: i64) -> Result<Join, JoinRefusal> {
        token.admits(&Name::parse(name).unwrap(), Digest::of_bytes(key), second(now))
    }

    #[test]
    fn admits_a_matching_name_once() {
        assert_eq!(admits(&token(), "prod-1", KEY, 50), Ok(Join::First));
        assert_eq!(admits(&taken(), "prod-1", b"other", 50), Err(JoinRefusal::Used));
    }

    #[test]
    fn gives_a_lost_reply_again_to_the_same_key() {
        assert!(matches!(admits(&taken(), "prod-1", KEY, 50), Ok(Join::Again(_))));
    }

    #[test]
    fn refuses_after_its_expiry_even_the_same_key() {
        assert!(matches!(admits(&token(), "prod-1", KEY, 100), Err(JoinRefusal::Expired(_))));
        assert!(matches!(admits(&taken(), "prod-1", KEY, 100), Err(JoinRefusal::Expired(_))));
    }

    #[test]
    fn refuses_other_names() {
        assert!(matches!(admits(&token(), "dev-1", KEY, 50), Err(JoinRefusal::Name { .. })));
    }
}
