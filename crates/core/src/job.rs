//! Job sessions: one CI job at one caller; all leases of the job hang on it.

use crate::caller::Owner;
use crate::claims::Claims;
use crate::digest::Digest;
use crate::id::{EnrolmentId, JobId};
use crate::job_issuer::System;
use crate::ledger::Revision;
use crate::name::Name;
use crate::time::Timestamp;

/// A job that the caller vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertedJob {
    system: String,
    id: String,
    url: String,
}

/// Which part of an asserted job is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct AssertedJobError {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What is wrong.
    pub problem: &'static str,
}

impl AssertedJob {
    /// Checks what the caller said.
    pub fn new(system: String, id: String, url: String) -> Result<Self, AssertedJobError> {
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if crate::name::Name::parse(&system).is_err() {
            let problem = "must be 1 to 63 of a-z, 0-9 and '-'";
            return Err(AssertedJobError { field: "asserted.system", problem });
        }
        if !(1..=200).contains(&id.len()) || !printable(&id) {
            let problem = "must be 1 to 200 printable ASCII characters without spaces";
            return Err(AssertedJobError { field: "asserted.id", problem });
        }
        let web = url.starts_with("https://") || url.starts_with("http://");
        if !(url.is_empty() || web && url.len() <= 500 && printable(&url)) {
            let problem = "must be empty or an http or https URL of at most 500 characters";
            return Err(AssertedJobError { field: "asserted.url", problem });
        }
        Ok(Self { system, id, url })
    }

    /// The CI system.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The job's id there.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where to look at it; may be empty.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A job whose token was verified; what is kept of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedJob {
    /// The issuer of the token, by its name in the configuration.
    pub issuer: Name,
    /// Whose tokens these are.
    pub system: System,
    /// The job's id there.
    pub id: String,
    /// Its claims, as far as the issuer's are known.
    pub claims: Claims,
    /// What its token is known by when it comes again: SHA-256 of (`iss`, `jti`), or of the decoded header and payload where
    /// there is no `jti`; never of the signature, which can be spelt in several ways.
    pub replay: Digest,
    /// When the token was made, by its issuer's clock.
    pub issued: Timestamp,
    /// Until when the token could come again: its expiry and the leeway.
    pub spent_until: Timestamp,
}

/// What shows that the job exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The caller's word.
    Asserted(AssertedJob),
    /// A token of its CI system.
    Verified(VerifiedJob),
}

impl Evidence {
    /// The CI system, as people call it: of an asserted job what the caller says, of a verified one its issuer's name here.
    pub fn system(&self) -> &str {
        match self {
            Self::Asserted(asserted) => asserted.system(),
            Self::Verified(verified) => verified.issuer.as_str(),
        }
    }

    /// The job's id at its system.
    pub fn id(&self) -> &str {
        match self {
            Self::Asserted(asserted) => asserted.id(),
            Self::Verified(verified) => &verified.id,
        }
    }

    /// Where to look at it; may be empty.
    pub fn url(&self) -> &str {
        match self {
            Self::Asserted(asserted) => asserted.url(),
            Self::Verified(_) => "",
        }
    }

    /// What was verified, if anything was.
    pub fn verified(&self) -> Option<&VerifiedJob> {
        match self {
            Self::Asserted(_) => None,
            Self::Verified(verified) => Some(verified),
        }
    }
}

/// What a token was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpentBy {
    /// It opened this session.
    Job(JobId),
    /// It let this runner in.
    Enrolment(EnrolmentId),
}

/// A token that was used, and is good for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpentToken {
    /// What it is known by: [`VerifiedJob::replay`].
    pub replay: Digest,
    /// For what.
    pub by: SpentBy,
    /// Until when it could come again.
    pub until: Timestamp,
}

/// A job session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Who opened it.
    pub owner: Owner,
    /// What shows that it exists.
    pub evidence: Evidence,
    /// When it was opened.
    pub started: Timestamp,
    /// When it ends by itself.
    pub latest_end: Option<Timestamp>,
    /// When it was ended.
    pub ended: Option<Timestamp>,
    /// Counts its changes, from 1.
    pub revision: Revision,
}

impl Job {
    /// Whether it yields leases.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.ended.is_none() && self.latest_end.is_none_or(|end| now < end)
    }

    /// The token that opened it, if one did.
    pub fn spent_token(&self) -> Option<SpentToken> {
        let VerifiedJob { replay, spent_until, .. } = self.evidence.verified()?;
        Some(SpentToken { replay: *replay, by: SpentBy::Job(self.id), until: *spent_until })
    }

    /// The session after its end.
    pub fn end(self, now: Timestamp) -> Self {
        Self { ended: self.ended.or(Some(now)), revision: self.revision.next(), ..self }
    }
}
