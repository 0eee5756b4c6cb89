//! Giving everything back: every job is ended, and its leases with it.
//!
//! A job whose opening was never answered is opened again under the same request id and then ended: it may exist.

use shorepass_core::id::CallId;
use shorepass_core::name::Name;
use shorepass_daemon::telemetry::Chain;
use tracing::{info, warn};

use crate::issuer::{Denial, Issuer, IssuerError, Shown};
use crate::session::{JobKey, JobRecord};

/// What was given back.
#[derive(Debug, Default)]
pub struct GivenBack {
    /// How many jobs were ended.
    pub jobs: usize,
    /// How many leases ended with them.
    pub leases: usize,
    /// Why the rest was not.
    pub problem: Option<Denial>,
    /// The rest.
    pub(crate) kept: Vec<JobRecord>,
}

/// Ends the jobs, one after the other and all under one id; after a failure the rest is kept.
pub(crate) async fn give_back(
    issuer: &dyn Issuer,
    call: &CallId,
    system: &Name,
    jobs: Vec<JobRecord>,
) -> GivenBack {
    let mut given_back = GivenBack::default();
    let mut jobs = jobs.into_iter();
    for job in jobs.by_ref() {
        match end(issuer, call, system, &job).await {
            Ok(leases) => {
                info!(request_id = %call, job = job.name, leases, "job ended");
                given_back.jobs += 1;
                given_back.leases += leases;
            }
            // It is over, or was never ours: nothing is left to give back.
            Err(error) if matches!(error, IssuerError::Refused(_)) && !error.outcome_unknown() => {
                info!(request_id = %call, job = job.name, reason = %Chain(&error), "job was over");
                given_back.jobs += 1;
            }
            Err(error) => {
                warn!(request_id = %call, job = job.name, error = %Chain(&error), "cannot end the job: it and the rest are kept");
                given_back.problem = Some(error.denial(call));
                given_back.kept.push(job);
                break;
            }
        }
    }
    given_back.kept.extend(jobs);
    given_back
}

async fn end(
    issuer: &dyn Issuer,
    call: &CallId,
    system: &Name,
    job: &JobRecord,
) -> Result<usize, IssuerError> {
    let id = match (job.id, job.request) {
        (Some(id), _) => id,
        (None, Some(request)) => {
            let key = JobKey::parse(job.uid, &job.name).map_err(|_| IssuerError::Garbled("job name"))?;
            let asserted = key.asserted(system.as_str()).map_err(|_| IssuerError::Garbled("job name"))?;
            match issuer.start_job(call, request, &Shown::Asserted(asserted)).await {
                // Nothing was ever sent.
                Err(IssuerError::NotEnrolled(_)) => return Ok(0),
                started => started?.id,
            }
        }
        (None, None) => return Ok(0),
    };
    issuer.end_job(call, id).await
}
