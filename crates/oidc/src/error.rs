//! Why a token is not taken, for two readers: its bearer, who must know what to do, and an operator.

use std::time::Duration;

use shorepass_core::job_token::JobTokenError;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;

/// Why a token says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not what an issuer that is trusted here gives out for this audience.
    #[error("{told}")]
    Rejected {
        /// What is wrong, by what its bearer can do about it.
        fault: Fault,
        /// For the bearer of a job token: what to do, and nothing of what else would have been taken.
        told: String,
        /// For operators.
        explanation: String,
    },
    /// It was good once.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// The keys of its issuer are not known and cannot be had.
    #[error("the keys of issuer {issuer} cannot be had: {explanation}")]
    Unavailable {
        /// Whose.
        issuer: Name,
        /// Why not.
        explanation: String,
        /// When to come back.
        retry_after: Duration,
    },
}

impl From<TokenError> for JobTokenError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Rejected { fault: _, told, explanation } => Self::Rejected { told, explanation },
            TokenError::Expired(at) => Self::Expired(at),
            TokenError::Unavailable { issuer, explanation, retry_after } => {
                Self::Unavailable { issuer, explanation, retry_after }
            }
        }
    }
}

/// What is wrong with a token, by what its bearer can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no token at all.
    Form,
    /// It breaks a rule that the issuers of good tokens keep.
    Unsound,
    /// Nobody trusts its issuer.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// Its times are not those of a token that was made just now.
    Times,
    /// Its key or signature.
    Signature,
    /// One of its claims is missing, or not what it must be.
    Claim,
}

impl Fault {
    /// An error of this kind. `explanation` may quote the token as far as [`shown`] does.
    pub(crate) fn because(self, explanation: impl Into<String>) -> TokenError {
        TokenError::Rejected { fault: self, told: self.told().to_owned(), explanation: explanation.into() }
    }

    fn told(self) -> &'static str {
        match self {
            Self::Form => {
                "this is not a token that can be read: pass on the JWT that the CI system made for this job, whole and unchanged"
            }
            Self::Unsound => {
                "this token is not made as the tokens of CI systems are: pass on the one that the CI system made for this job, unchanged"
            }
            Self::Issuer => {
                "tokens of this issuer are not taken here: use the CI system that the operators trust, or ask them to add this one to spec.jobIssuers"
            }
            Self::Audience => {
                "this token is for another audience: ask the CI system for one with exactly the audience that the operators give out for this runner, and no other"
            }
            Self::Times => {
                "the times in this token do not fit: ask the CI system for a new one, with a life of at most 24 hours, and if that is refused too compare the clocks of CI system and issuer"
            }
            Self::Signature => {
                "the signature of this token is not that of its issuer: pass on the token that the CI system made for this job, unchanged; if it is, its operators must look at their keys"
            }
            Self::Claim => {
                "a claim of this token is missing or not of its kind: ask the operators to compare the claims that are configured for this CI system with those that it sends"
            }
        }
    }
}

/// What stands in a token, for people: quoted, and not at length.
pub(crate) fn shown(text: &str) -> String {
    const LIMIT: usize = 100;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
