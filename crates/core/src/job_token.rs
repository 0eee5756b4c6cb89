//! Job tokens: what a CI system gives a job to show who it is, and the port behind which they are verified.
//!
//! The issuer verifies a token itself and keeps nothing of it but what [`VerifiedJob`] has. Like the tokens that we give
//! out it is never stored or logged.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::caller::SpiffeId;
use crate::job::VerifiedJob;
use crate::name::Name;
use crate::time::Timestamp;

/// The longest token that is looked at, in bytes.
pub const JOB_TOKEN_LIMIT: usize = 16 * 1024;

/// One JWT of a CI system.
pub struct JobToken(Zeroizing<String>);

impl JobToken {
    /// Takes the token over from the buffer it arrived in.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// How long it is, in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The token itself. The callers of this function are listed by `cargo xtask tidy`.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JobToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobToken(<redacted>)")
    }
}

/// Why a token opens no job session. `told` is for the caller: what is wrong and what to do, and nothing of what else would
/// have been accepted. `explanation` is for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobTokenError {
    /// It is not what an issuer that is trusted here gives out for this runner.
    #[error("{told}")]
    Rejected {
        /// For the caller.
        told: String,
        /// For operators.
        explanation: String,
    },
    /// It was good once.
    #[error("the job token expired at {0}: ask the CI system for one when it is needed, and use it at once")]
    Expired(Timestamp),
    /// The keys of its issuer are not known and cannot be had.
    #[error("the keys of job issuer {issuer} cannot be had: {explanation}")]
    Unavailable {
        /// Whose.
        issuer: Name,
        /// Why not.
        explanation: String,
        /// When to come back.
        retry_after: Duration,
    },
}

/// Verifies job tokens.
#[async_trait]
pub trait JobTokens: Send + Sync {
    /// Everything about the token that does not depend on what was seen before: signature, issuer, audience, times, the
    /// kinds of its claims. Whether it was used before is for the ledger.
    async fn verify(
        &self,
        token: &JobToken,
        presenter: &SpiffeId,
        now: Timestamp,
    ) -> Result<VerifiedJob, JobTokenError>;
}

/// Where no job issuer is configured: no token is taken.
#[derive(Clone, Copy, Debug)]
pub struct NoJobIssuers;

#[async_trait]
impl JobTokens for NoJobIssuers {
    async fn verify(&self, _: &JobToken, _: &SpiffeId, _: Timestamp) -> Result<VerifiedJob, JobTokenError> {
        Err(JobTokenError::Rejected {
            told: "this issuer takes job tokens of no CI system: its operators add one to spec.jobIssuers"
                .to_owned(),
            explanation: "no job issuer is configured".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_token() {
        let token = JobToken::new("header.payload.signature".to_owned());
        assert_eq!(format!("{token:?}"), "JobToken(<redacted>)");
    }
}
