//! Tokens of machines: the same rules as for every token, for another audience, and other words for their bearers.

use async_trait::async_trait;
use shorepass_core::claims::Claim;
use shorepass_core::job_issuer::JobIssuer;
use shorepass_core::machine_token::{MachineToken, MachineTokenError, MachineTokens};
use shorepass_core::time::{Timestamp, after, for_people};

use crate::Verifier;
use crate::error::{Fault, TokenError};
use crate::verify::{LEEWAY, Verified};

/// Verifies them, of the issuers of a [`Verifier`].
pub struct Machines(pub Verifier);

#[async_trait]
impl MachineTokens for Machines {
    fn look(&self, token: &str, now: Timestamp) -> Result<(), MachineTokenError> {
        self.0.look(token, audience, now).map(drop).map_err(told)
    }

    async fn verify(&self, token: &str, now: Timestamp) -> Result<MachineToken, MachineTokenError> {
        let verified = self.0.claims_of(token, audience, now).await.map_err(told)?;
        let Verified { issuer, claims, replay, expires, .. } = verified;
        let Some(subject) = claims.get("sub").and_then(Claim::as_text).map(str::to_owned) else {
            return Err(told(Fault::Claim.because("it has no sub")));
        };
        let (issuer, spent_until) = (issuer.name().clone(), after(expires, LEEWAY));
        Ok(MachineToken { issuer, subject, claims, replay, spent_until })
    }
}

fn audience(issuer: &JobIssuer) -> String {
    issuer.audience().to_owned()
}

fn told(error: TokenError) -> MachineTokenError {
    match error {
        TokenError::Rejected { fault, explanation, .. } => {
            MachineTokenError::Rejected { told: remedy(fault), explanation }
        }
        TokenError::Expired(at) => MachineTokenError::Rejected {
            told: "this token has expired: the agent needs one that is made when it starts, and replaced before it expires",
            explanation: format!("it expired at {}", for_people(at)),
        },
        TokenError::Unavailable { issuer, explanation, retry_after } => {
            MachineTokenError::Unavailable { issuer, explanation, retry_after }
        }
    }
}

fn remedy(fault: Fault) -> &'static str {
    match fault {
        Fault::Form => {
            "this is not a token that can be read: the file must hold one JWT, whole and unchanged"
        }
        Fault::Unsound => {
            "this token is not made as OIDC tokens are: it needs iss, aud, exp, iat and sub, each once"
        }
        Fault::Issuer => {
            "tokens of this issuer let nobody in here: use one that the operators trust, or ask them to add it to enrolment.oidc"
        }
        Fault::Audience => {
            "this token is for another audience: get one for exactly the audience in enrolment.oidc of the issuer's config, and \
             for no other"
        }
        Fault::Times => {
            "the times in this token do not fit: get a new one, with a life of at most 24 hours, and if that is refused too \
             compare the clocks of its issuer and this one"
        }
        Fault::Signature => {
            "the signature of this token is not that of its issuer: get it anew and leave it unchanged; if that does not help, \
             the operators must look at the keys of its issuer"
        }
        Fault::Claim => {
            "a claim of this token is missing or not of its kind: ask the operators to compare what is configured in \
             enrolment.oidc with what its issuer sends"
        }
    }
}
