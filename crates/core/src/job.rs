//! Job sessions: one CI job at one caller; all leases of the job hang on it.

use crate::caller::Owner;
use crate::id::JobId;
use crate::ledger::Revision;
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

/// What shows that the job exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The caller's word.
    Asserted(AssertedJob),
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

    /// The session after its end.
    pub fn end(self, now: Timestamp) -> Self {
        Self { ended: self.ended.or(Some(now)), revision: self.revision.next(), ..self }
    }
}
