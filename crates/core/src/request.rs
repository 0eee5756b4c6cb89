//! Request ids: the same request gets the same answer, another one under the same id is refused.

use crate::caller::Owner;
use crate::digest::Digest;
use crate::id::{JobId, LeaseId, RequestId};

/// A request that creates something; scoped to its owner, its job session and its method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub owner: Owner,
    /// The job session that it was made for; none for one that opens a session, and for an operator's.
    pub job: Option<JobId>,
    /// What was asked for.
    pub method: Method,
    /// The id that the caller chose.
    pub id: RequestId,
    /// Of the request's content without its id.
    pub content: Digest,
    /// What came of it.
    pub outcome: Outcome,
}

/// The methods whose requests carry an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// CredentialService.StartJob
    StartJob,
    /// CredentialService.Issue
    Issue,
    /// AdminService.CreateJoinToken
    CreateJoinToken,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A job session.
    Job(JobId),
    /// A lease.
    Lease(LeaseId),
    /// A join token, by the digest of its secret.
    JoinToken(Digest),
}

/// The request id was used before with other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request id {0} was used before with other content; choose a new one for a new request")]
pub struct Reused(pub RequestId);

impl Request {
    /// What came of it, if `content` is what was asked then.
    pub fn answer(&self, content: Digest) -> Result<Outcome, Reused> {
        if self.content == content { Ok(self.outcome) } else { Err(Reused(self.id)) }
    }
}
