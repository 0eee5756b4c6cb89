//! Job tokens that are known beforehand: what verification says of each is written down, not found out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::caller::SpiffeId;
use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::job::VerifiedJob;
use shorepass_core::job_issuer::{Declared, JobIssuer, JobIssuerError, RunnerBinding, System};
use shorepass_core::job_token::{JobToken, JobTokenError, JobTokens};
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after};

/// Verifies what it was told of, and nothing else.
#[derive(Debug, Default)]
pub struct KnownTokens(Mutex<BTreeMap<String, Result<VerifiedJob, JobTokenError>>>);

impl KnownTokens {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What verification says of a token from now on.
    pub fn put(&self, token: &str, verified: Result<VerifiedJob, JobTokenError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), verified);
    }
}

#[async_trait]
impl JobTokens for KnownTokens {
    async fn verify(
        &self,
        token: &JobToken,
        _: &SpiffeId,
        _: Timestamp,
    ) -> Result<VerifiedJob, JobTokenError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(token.expose()).cloned().unwrap_or_else(|| {
            let told = "this is no token".to_owned();
            Err(JobTokenError::Rejected { explanation: told.clone(), told })
        })
    }
}

/// A GitLab whose tokens are bound to runners in this way.
pub fn gitlab(runner: RunnerBinding) -> Result<JobIssuer, JobIssuerError> {
    let name = Name::parse("gitlab")
        .map_err(|cause| JobIssuerError { field: "name", problem: cause.to_string() })?;
    let (url, audience) = ("https://gitlab.example.org", "https://shorepass.example.org/jobs");
    JobIssuer::new(name, System::Gitlab, url.to_owned(), audience.to_owned(), runner, Declared::default())
}

/// A job of that GitLab with these claims of text; its token was made now and lives five minutes.
pub fn verified(issuer: &JobIssuer, id: &str, now: Timestamp, claims: &[(&str, &str)]) -> VerifiedJob {
    let mut known = Claims::default();
    for (claim, value) in claims {
        let value = Claim::Text((*value).to_owned());
        known.insert(claim, value).expect("claims of tests are fit to be read");
    }
    VerifiedJob {
        issuer: issuer.name().clone(),
        system: issuer.system(),
        id: id.to_owned(),
        claims: known,
        replay: Digest::of_bytes(id.as_bytes()),
        issued: now,
        spent_until: after(now, Duration::from_secs(5 * 60)),
    }
}
