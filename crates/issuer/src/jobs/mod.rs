//! Job sessions: opened, looked up for their owner, ended with all their leases.

mod tokens;

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_core::id::JobId;
use shorepass_core::job::{Evidence, Job};
use shorepass_core::ledger::{Change, LedgerError, Revision};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_core::time::after;
use shorepass_rpc::api::{Presented, RequestKey};
use shorepass_rpc::refused::{Reason, Refused};

use crate::fail_points::{self, Point};
use crate::mutants::{self, Mutant};
use crate::outside::{Outside, Refusing, ledger_refused};

/// The job sessions of an issuer.
#[derive(Clone)]
pub struct Jobs {
    outside: Arc<Outside>,
}

impl Jobs {
    /// Over the outside.
    pub fn new(outside: Arc<Outside>) -> Self {
        Self { outside }
    }

    /// Opens a session, or gives the one that the same request opened.
    pub async fn start(
        &self,
        caller: &Caller,
        request: RequestKey,
        presented: Presented,
        expected: Option<Duration>,
    ) -> Result<Job, Refused> {
        if let Some(job) = self.started_before(caller, request).await? {
            return Ok(job); // what it was opened with was verified then, and is spent
        }
        let (evidence, longest) = match presented {
            Presented::Asserted(asserted) => (Evidence::Asserted(asserted), None),
            Presented::Token(token) => {
                let (verified, longest) = self.verify(caller, &token).await?;
                (Evidence::Verified(verified), Some(longest))
            }
        };
        let now = self.outside.clock.now();
        let lasts = [expected, longest].into_iter().flatten().min();
        let job = Job {
            id: JobId::generate(now, self.outside.entropy.as_ref()),
            owner: caller.owner(),
            evidence,
            started: now,
            latest_end: lasts.map(|lasts| after(now, lasts)),
            ended: None,
            revision: Revision::FIRST,
        };
        let record = Request {
            owner: caller.owner(),
            job: None,
            method: Method::StartJob,
            id: request.id,
            content: request.content,
            outcome: Outcome::Job(job.id),
        };
        match self.outside.ledger.commit(vec![Change::JobStarted { job: job.clone(), request: record }]).await
        {
            Ok(_) => {
                fail_points::reached(Point::JobRecorded);
                Ok(job)
            }
            Err(cause @ LedgerError::Conflict(_)) => {
                // The same request at the same time: one of them opened the session.
                if let Some(job) = self.started_before(caller, request).await? {
                    return Ok(job);
                }
                Err(self.spent(caller, &job).await?.unwrap_or_else(|| ledger_refused(&cause)))
            }
            Err(cause) => Err(ledger_refused(&cause)),
        }
    }

    async fn started_before(&self, caller: &Caller, request: RequestKey) -> Result<Option<Job>, Refused> {
        let earlier = self.outside.ledger.request(&caller.owner(), None, Method::StartJob, request.id);
        let Some(earlier) = earlier.map_err(|cause| ledger_refused(&cause))? else {
            return Ok(None);
        };
        match earlier.answer(request.content) {
            Ok(Outcome::Job(id)) => self.outside.ledger.job(id).map_err(|cause| ledger_refused(&cause)),
            Ok(Outcome::Lease(_) | Outcome::JoinToken(_)) => Ok(None),
            Err(reused) => {
                Err(self.outside.refuse_reused(caller, "StartJob", &earlier, reused.to_string()).await)
            }
        }
    }

    /// A session that the caller owns.
    pub async fn owned(&self, caller: &Caller, method: &'static str, id: JobId) -> Result<Job, Refused> {
        let found = self.outside.ledger.job(id).map_err(|cause| ledger_refused(&cause))?;
        let explanation = match found {
            Some(job) if caller.owns(&job.owner) || mutants::is(Mutant::SkipOwnerCheck) => return Ok(job),
            Some(job) => format!("it belongs to {}", job.owner.spiffe_id),
            None => "it does not exist".to_owned(),
        };
        let message = "this job session is not available to this caller; start one with StartJob";
        let refusing = Refusing {
            caller: Some(caller.spiffe_id()),
            method,
            subject: &id.to_string(),
            refused: Refused::new(Reason::JobNotAvailable, message),
            explanation,
        };
        Err(self.outside.refuse(refusing).await)
    }

    /// A session as it is now; for one that was found before.
    pub fn current(&self, id: JobId) -> Result<Job, Refused> {
        let found = self.outside.ledger.job(id).map_err(|cause| ledger_refused(&cause))?;
        found.ok_or_else(|| {
            Refused::new(Reason::JobNotAvailable, "this job session is not available to this caller")
        })
    }
}
