//! Tokens of outside issuers, verified to typed claims.
//!
//! [`Verifier::claims_of`] is the one way: it knows nothing of what a token is for, so that every use has the same rules.
//! A token is read once ([`jwt`], [`json`]); its `iss` chooses the issuer among those that are configured, and nothing that
//! stands in a token chooses a host, a key's place or an algorithm. What comes out is built from what was verified.
//!
//! Whether a token was used before is not known here. It opens no listener and keeps nothing but keys.

mod error;
mod https;
mod json;
mod jwt;
mod keys;
mod source;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use async_trait::async_trait;
use shorepass_core::caller::SpiffeId;
use shorepass_core::job::VerifiedJob;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::job_token::{JobToken, JobTokenError, JobTokens};
use shorepass_core::time::{Timestamp, after};

pub use crate::error::TokenError;
use crate::error::{Fault, shown};
pub use crate::https::RootsError;
use crate::https::{Client, DEADLINE};
use crate::jwt::Jwt;
pub use crate::source::Places;
use crate::source::{Pace, Source};
pub use crate::verify::Verified;
use crate::verify::{LEEWAY, Unverified};

/// An issuer whose tokens are taken.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// What is known of its tokens.
    pub issuer: JobIssuer,
    /// The authorities to trust for its discovery document and keys, PEM; those of the system without.
    pub ca_pem: Option<Vec<u8>>,
    /// Where its discovery document and keys are, if not where its URL says.
    pub places: Places,
}

/// Why an issuer cannot be trusted as it is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// What its server is to be known by.
    #[error("the certificates to trust for job issuer {issuer}")]
    Roots {
        /// Whose.
        issuer: String,
        /// What is wrong.
        source: RootsError,
    },
    /// Its URL, or the place of its discovery document or keys.
    #[error("a URL of job issuer {issuer}: {problem}")]
    Url {
        /// Whose.
        issuer: String,
        /// What is wrong.
        problem: String,
    },
}

/// Verifies tokens of the issuers that it was made of.
pub struct Verifier {
    issuers: Vec<(JobIssuer, Arc<Source>)>,
}

impl Verifier {
    /// Trusts these issuers. It asks nobody anything before the first token comes.
    pub fn new(trusted: Vec<Trusted>) -> Result<Self, TrustError> {
        Self::at_pace(trusted, Pace::USUAL, DEADLINE)
    }

    fn at_pace(trusted: Vec<Trusted>, pace: Pace, deadline: std::time::Duration) -> Result<Self, TrustError> {
        let issuers = trusted.into_iter().map(|Trusted { issuer, ca_pem, places }| {
            let client = Client::new(ca_pem.as_deref(), deadline)
                .map_err(|source| TrustError::Roots { issuer: issuer.name().to_string(), source })?;
            let source = Source::new(issuer.name().clone(), issuer.url(), &places, client, pace)
                .map_err(|problem| TrustError::Url { issuer: issuer.name().to_string(), problem })?;
            Ok((issuer, Arc::new(source)))
        });
        Ok(Self { issuers: issuers.collect::<Result<_, _>>()? })
    }

    /// The audiences of the tokens that it takes, without runners' names.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|(issuer, _)| issuer.audience())
    }

    /// What a token says that one of the issuers has made for this audience and nobody else.
    pub async fn claims_of(
        &self,
        token: &str,
        audience: impl FnOnce(&JobIssuer) -> String,
        now: Timestamp,
    ) -> Result<Verified<'_>, TokenError> {
        let jwt = Jwt::parse(token)?;
        let url = verify::issuer_of(&jwt)?;
        let Some((issuer, source)) = self.issuers.iter().find(|(issuer, _)| issuer.url() == url) else {
            return Err(Fault::Issuer.because(format!("its iss is {}", shown(url))));
        };
        let unverified = Unverified::new(jwt, &audience(issuer), now)?;
        let (kid, algorithm) = (unverified.jwt().kid.clone(), unverified.jwt().algorithm);
        let key = source.key(kid.as_deref(), algorithm, now).await?;
        unverified.verify(&key, issuer)
    }
}

#[async_trait]
impl JobTokens for Verifier {
    async fn verify(
        &self,
        token: &JobToken,
        presenter: &SpiffeId,
        now: Timestamp,
    ) -> Result<VerifiedJob, JobTokenError> {
        let verified =
            self.claims_of(token.expose(), |issuer| issuer.audience_of(&presenter.name), now).await?;
        let Verified { issuer, claims, replay, issued, expires } = verified;
        let Some(id) = issuer.job_id(&claims).filter(|id| !id.is_empty()) else {
            let explanation =
                format!("it has no {}, which tells the jobs of {} apart", issuer.job_claim(), issuer.name());
            return Err(Fault::Claim.because(explanation).into());
        };
        Ok(VerifiedJob {
            issuer: issuer.name().clone(),
            system: issuer.system(),
            id,
            claims,
            replay,
            issued,
            spent_until: after(expires, LEEWAY),
        })
    }
}
