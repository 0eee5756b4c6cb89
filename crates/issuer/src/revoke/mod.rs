//! How leases end: by release, with their job, by revocation, by deadline, by the loss of what they stand on.
//!
//! Always in this order: *ending* durable, anchor deleted, *ended* recorded. A cut that fails is tried again by the
//! [`sweeper`] for ever. A lease that was still pending stays *ending* until its mint can no longer be in flight, because
//! its anchor may be created after the first cut.

pub mod operators;
pub mod sweeper;

use std::sync::Arc;
use std::time::Duration;

use shorepass_core::caller::Caller;
use shorepass_core::cluster::CutError;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::id::{JobId, LeaseId};
use shorepass_core::job::Job;
use shorepass_core::lease::{EndCause, Lease, State};
use shorepass_core::ledger::{Change, LeaseFilter, LedgerError};
use shorepass_core::time::{after, until};
use shorepass_rpc::refused::Refused;

use crate::jobs::Jobs;
use crate::outside::{Outside, ledger_refused};

/// After this a mint that was begun has ended one way or the other: the cluster's own deadline, doubled.
pub const MINT_IN_FLIGHT: Duration = Duration::from_secs(30);
/// How many leases are read at once.
pub const PAGE: usize = 200;

/// Ends leases.
#[derive(Clone)]
pub struct Ends {
    pub(crate) outside: Arc<Outside>,
}

/// What became of the anchor of a lease that is ending.
#[derive(Debug)]
pub enum Cut {
    /// It is gone, and the lease is recorded as ended.
    Done(Lease),
    /// It may still be created, or could not be deleted: the sweeper goes on.
    Later(Lease, String),
}

impl Ends {
    /// Over the outside.
    pub fn new(outside: Arc<Outside>) -> Self {
        Self { outside }
    }

    /// A lease that the caller owns.
    pub async fn owned(&self, caller: &Caller, method: &'static str, id: LeaseId) -> Result<Lease, Refused> {
        let found = self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
        let why = match found {
            Some(lease) if caller.owns(&lease.owner) => return Ok(lease),
            Some(lease) => format!("it belongs to {}", lease.owner.spiffe_id),
            None => "it does not exist".to_owned(),
        };
        Err(self.outside.refuse_lease(caller, method, &id.to_string(), &why).await)
    }

    /// The owner gives a lease back. A lease that has ended before stays as it ended.
    pub async fn release(&self, caller: &Caller, id: LeaseId) -> Result<Lease, Refused> {
        let lease = self.owned(caller, "Release", id).await?;
        if !lease.is_live() {
            return Ok(lease);
        }
        let lease = self.record_ending(lease, EndCause::Released).await?;
        Ok(self.cut(lease).await?.lease())
    }

    /// The owner ends a job; its leases end with it.
    pub async fn end_job(&self, jobs: &Jobs, caller: &Caller, id: JobId) -> Result<Vec<Lease>, Refused> {
        let job = jobs.owned(caller, "EndJob", id).await?;
        let ending = {
            let _alone = self.outside.gate.write().await;
            self.record_job_end(job).await?
        };
        let mut ended = Vec::with_capacity(ending.len());
        for lease in ending {
            ended.push(self.cut(lease).await?.lease());
        }
        Ok(ended)
    }

    async fn record_job_end(&self, job: Job) -> Result<Vec<Lease>, Refused> {
        let filter = LeaseFilter { job: Some(job.id), ..LeaseFilter::default() };
        let live = self.live(&filter).map_err(|cause| ledger_refused(&cause))?;
        let now = self.outside.clock.now();
        let mut changes = Vec::new();
        if job.ended.is_none() {
            changes.push(Change::JobEnded { job: job.end(now) });
        }
        let ending: Vec<Lease> =
            live.into_iter().filter_map(|lease| lease.begin_end(EndCause::JobEnded, now).ok()).collect();
        changes.extend(ending.iter().map(|lease| Change::LeaseEnding { lease: lease.clone() }));
        if !changes.is_empty() {
            self.outside.ledger.commit(changes).await.map_err(|cause| ledger_refused(&cause))?;
        }
        Ok(ending)
    }

    /// An enrolment gave way to another: its leases end.
    pub async fn end_enrolment(&self, enrolment: &Enrolment) -> Result<(), Refused> {
        let filter = LeaseFilter { caller: Some(enrolment.spiffe_id.clone()), ..LeaseFilter::default() };
        let live = self.live(&filter).map_err(|cause| ledger_refused(&cause))?;
        for lease in live.into_iter().filter(|lease| lease.owner == enrolment.owner()) {
            self.end_in_background(lease, EndCause::EnrolmentReplaced).await;
        }
        Ok(())
    }

    /// Records the end and cuts without the caller waiting for the cluster. Failures are the sweeper's.
    pub async fn end_in_background(&self, lease: Lease, cause: EndCause) {
        match self.record_ending(lease, cause).await {
            Ok(lease) => self.cut_in_background(lease),
            Err(refused) => {
                tracing::warn!(error = %refused, "an end was not recorded; the sweeper tries again")
            }
        }
    }

    /// Cuts without the caller waiting for the cluster.
    pub fn cut_in_background(&self, lease: Lease) {
        let ends = self.clone();
        tokio::spawn(async move {
            if let Err(refused) = ends.cut(lease).await {
                tracing::warn!(error = %refused, "a cut was not recorded; the sweeper tries again");
            }
        });
    }

    /// live --> ending, durably. If somebody else was faster, the lease as they left it.
    pub(crate) async fn record_ending(&self, lease: Lease, cause: EndCause) -> Result<Lease, Refused> {
        let mut current = lease;
        loop {
            let id = current.id;
            let Ok(ending) = current.clone().begin_end(cause.clone(), self.outside.clock.now()) else {
                return Ok(current);
            };
            match self.outside.ledger.commit(vec![Change::LeaseEnding { lease: ending.clone() }]).await {
                Ok(_) => return Ok(ending),
                Err(conflict @ LedgerError::Conflict(_)) => {
                    let found = self.outside.ledger.lease(id).map_err(|cause| ledger_refused(&cause))?;
                    current = found.ok_or_else(|| ledger_refused(&conflict))?;
                }
                Err(cause) => return Err(ledger_refused(&cause)),
            }
        }
    }

    /// Deletes the anchor of a lease that is ending, and records that.
    pub(crate) async fn cut(&self, lease: Lease) -> Result<Cut, Refused> {
        let State::Ending { since, .. } = lease.state else {
            return Ok(Cut::Done(lease));
        };
        let cluster = self.outside.cluster(&lease.target.cluster)?;
        let in_flight = lease.revision.number() == 2
            && until(self.outside.clock.now(), after(since, MINT_IN_FLIGHT)) > Duration::ZERO;
        if let Err(cause) = cluster.cut(&lease.target.namespace, &lease.anchor).await {
            tracing::warn!(lease = %lease.id, anchor = lease.anchor.as_str(), error = %cause, "the anchor could not be deleted");
            metrics::counter!("shorepass_cut_failures_total", "cause" => cut_cause(&cause)).increment(1);
            return Ok(Cut::Later(lease, cause.to_string()));
        }
        if in_flight {
            let why = "its first token may still be on its way; the anchor is deleted again".to_owned();
            return Ok(Cut::Later(lease, why));
        }
        let Ok(ended) = lease.clone().finish_end(self.outside.clock.now()) else {
            return Ok(Cut::Done(lease));
        };
        tracing::info!(lease = %ended.id, cause = ended.end_cause().map(|(cause, _)| cause.describe()), "lease ended");
        match self.outside.ledger.commit(vec![Change::LeaseEnded { lease: ended.clone() }]).await {
            Ok(_) | Err(LedgerError::Conflict(_)) => Ok(Cut::Done(ended)),
            Err(cause) => Err(ledger_refused(&cause)),
        }
    }

    /// All leases that match and yield tokens.
    pub(crate) fn live(&self, filter: &LeaseFilter) -> Result<Vec<Lease>, LedgerError> {
        Ok(self.unfinished(filter)?.into_iter().filter(Lease::is_live).collect())
    }

    /// All leases that match and have not ended.
    pub(crate) fn unfinished(&self, filter: &LeaseFilter) -> Result<Vec<Lease>, LedgerError> {
        let mut all = Vec::new();
        let mut before = None;
        loop {
            let page = self.outside.ledger.leases(filter, before, PAGE)?;
            let full = page.len() == PAGE;
            before = page.last().map(|lease| lease.id);
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }
}

impl Cut {
    /// The lease as it is now.
    pub fn lease(self) -> Lease {
        match self {
            Self::Done(lease) | Self::Later(lease, _) => lease,
        }
    }
}

fn cut_cause(cause: &CutError) -> &'static str {
    match cause {
        CutError::Forbidden(_) => "forbidden",
        CutError::Unreachable(_) => "unreachable",
        CutError::HeldByFinalizer(_) => "finalizer",
    }
}
