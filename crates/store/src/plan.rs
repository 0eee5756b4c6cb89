//! Which rows a change writes, and what it must not find: pure, for any engine.
//!
//! A row is written over the revision before its own and over no other. A revision cannot see a row that somebody else
//! *adds*, so some changes look further, at rows that may have moved on between the decision and the commit: a new lease
//! is refused when its job has ended, its owner's enrolment was replaced, or a block was set; a token when its lease is
//! no longer live; an enrolment when its name was taken; and all that gives somebody something (a job, a lease, a token, a
//! certificate) when that one was banned. Rows that are not there refuse nothing.
//!
//! [`puts`] needs no view: what a change writes depends on the change alone. That is why start-up can bring the records
//! up to the audit file by writing the rows of its tail once more, whether they were written before or not.

use std::time::Duration;

use shorepass_core::caller::Owner;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::job::SpentToken;
use shorepass_core::lease::{Lease, State};
use shorepass_core::ledger::{Change, LedgerError, MintedToken, Revision};
use shorepass_core::request::Request;
use shorepass_core::time::Timestamp;
use shorepass_proto::store::v1::{LatestIdentity, Progress};

use crate::audit;
use crate::convert::Stored;
use crate::layers::Overlay;
use crate::record::frame;
use crate::rows::{self, Row};
use crate::tables::{
    LATEST_IDENTITY, PROGRESS, ReadError, Table, View, Writes, block_of_caller_key, block_of_job_key,
    index_of_lease, token_of_lease_key,
};
use crate::trim;

/// The commits that are written together, planned one over the other.
pub(crate) struct Batch<'a> {
    rows: Overlay<'a>,
    lines: Vec<String>,
    /// The number of its first line.
    first: u64,
    sequence: u64,
}

/// What is to be written.
pub(crate) struct Planned {
    /// The rows, with the progress.
    pub(crate) rows: Writes,
    /// The audit lines, without their newlines.
    pub(crate) lines: Vec<String>,
    /// The number of the last line.
    pub(crate) sequence: u64,
}

impl<'a> Batch<'a> {
    /// An empty one; `sequence` is the number of the last audit line before it.
    pub(crate) fn over(base: &'a dyn View, sequence: u64) -> Self {
        Self { rows: Overlay::over(base), lines: Vec::new(), first: sequence + 1, sequence }
    }

    /// Adds a commit, all of it or, on an error, nothing.
    pub(crate) fn add(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        let mut commit = Overlay::over(&self.rows);
        for change in changes {
            check(change, &commit)?;
            puts(change, &mut commit.writes);
        }
        let written = commit.writes;
        self.rows.writes.absorb(written);
        for change in changes {
            self.sequence += 1;
            self.lines.push(audit::entry(self.sequence, self.first, change));
        }
        Ok(())
    }

    /// Whether it writes anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Adds the removal of what is due; whether there may be more.
    pub(crate) fn trim(&mut self, now: Timestamp, retention: Option<Duration>) -> bool {
        trim::trim(&mut self.rows, now, retention)
    }

    /// What came together.
    pub(crate) fn finish(self) -> Planned {
        let mut rows = self.rows.writes;
        put_progress(self.sequence, &mut rows);
        Planned { rows, lines: self.lines, sequence: self.sequence }
    }
}

/// Writes how far the audit file is in the records.
pub(crate) fn put_progress(sequence: u64, rows: &mut Writes) {
    rows.put(Table::Meta.key(PROGRESS), frame(&Progress { sequence }));
}

/// Writes the rows of a change.
pub(crate) fn puts(change: &Change, rows: &mut Writes) {
    match change {
        Change::JobStarted { job, request } => {
            put(job, rows);
            trim::put(trim::Kind::Job, job.started, &job.key(), rows);
            put_request(request, job.latest_end.unwrap_or(job.started), rows);
            if let Some(spent) = job.spent_token() {
                put_spent(&spent, rows);
            }
        }
        Change::JobEnded { job } => put(job, rows),
        Change::LeasePending { lease, request } => {
            put_lease(lease, rows);
            put_request(request, lease.deadline, rows);
        }
        Change::LeaseActive { lease }
        | Change::LeaseAdopted { lease }
        | Change::LeaseRecognised { lease, at: _ }
        | Change::LeaseEnding { lease }
        | Change::LeaseEnded { lease }
        | Change::LeaseReceipt { lease } => put_lease(lease, rows),
        Change::ControlPlanned { control } => put(control, rows),
        Change::ControlGone { control, at: _ } => rows.remove(Table::Control.key(&control.key())),
        Change::TokenMinted { token, owner: _ } => {
            put(token, rows);
            rows.put(Table::TokensOfLease.key(&token_of_lease_key(token)), Vec::new());
        }
        Change::BlockSet { block } | Change::BlockLifted { block } => {
            put(block, rows);
            trim::put(trim::Kind::Block, block.until, &block.key(), rows);
            let index = block_of_caller_key(&block.caller, &block.role, block.id);
            rows.put(Table::BlocksOfCaller.key(&index), Vec::new());
            if let Some(index) = block_of_job_key(block) {
                rows.put(Table::BlocksOfJob.key(&index), Vec::new());
            }
        }
        Change::JoinTokenCreated { join_token, request } => {
            put(join_token, rows);
            trim::put(trim::Kind::JoinToken, join_token.expires, &join_token.key(), rows);
            put_request(request, join_token.expires, rows);
        }
        Change::JoinTokenTaken { join_token } => put(join_token, rows),
        Change::EnrolmentTokenTaken { spent, at: _ } => put_spent(spent, rows),
        Change::Enrolled { enrolment } => {
            put(enrolment, rows);
            trim::put(trim::Kind::Enrolment, enrolment.certificate_expires, &enrolment.key(), rows);
            put_latest(enrolment, rows);
        }
        Change::Renewed { enrolment, at: _ }
        | Change::RenewalUsed { enrolment, at: _ }
        | Change::Rejoined { enrolment, at: _ }
        | Change::EnrolmentCloned { enrolment }
        | Change::EnrolmentReplaced { enrolment } => put(enrolment, rows),
        Change::IdentityCreated { identity } => {
            put(identity, rows);
            put_latest_identity(identity, rows);
        }
        Change::BanSet { ban } | Change::BanLifted { ban } => put(ban, rows),
        Change::Refused { refusal: _ } => {}
    }
}

/// What is wrong in the indices for an entry of the whole space, which can be read. A ledger from before there were
/// indices has none; and a lease that is not found is one that nobody ends, so that each start looks again.
pub(crate) fn unindexed(view: &dyn View, whole_key: &[u8], value: &[u8]) -> Result<Writes, ReadError> {
    let mut wrong = Writes::default();
    let Some((Table::Lease, key)) = Table::split(whole_key) else { return Ok(wrong) };
    let mut right = Writes::default();
    index_lease(&rows::read(key, value)?, &mut right);
    for (whole_key, value) in right.into_rows() {
        let Some((table, key)) = Table::split(&whole_key) else { continue };
        match (view.get(table, key)?, value) {
            (None, Some(value)) => wrong.put(whole_key, value),
            (Some(_), None) => wrong.remove(whole_key),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    Ok(wrong)
}

/// Writes a row.
pub(crate) fn put<R: Row>(row: &R, rows: &mut Writes) {
    rows.put(R::TABLE.key(&row.key()), frame(&row.to_record()));
}

fn put_spent(spent: &SpentToken, rows: &mut Writes) {
    put(spent, rows);
    trim::put(trim::Kind::SpentToken, spent.until, &spent.key(), rows);
}

/// Writes a request that is kept until an hour after `over`, or longer where what came of it goes on.
fn put_request(request: &Request, over: Timestamp, rows: &mut Writes) {
    put(request, rows);
    trim::put(trim::Kind::Request, over, &request.key(), rows);
}

fn put_lease(lease: &Lease, rows: &mut Writes) {
    put(lease, rows);
    index_lease(lease, rows);
    trim::put_ended(lease, rows);
}

/// Writes where a lease is found. The row alone says so, whatever change it came with.
fn index_lease(lease: &Lease, rows: &mut Writes) {
    for (table, key) in index_of_lease(lease) {
        rows.put(table.key(&key), Vec::new());
    }
    let unfinished = Table::UnfinishedLeases.key(lease.id.as_bytes());
    match lease.state {
        State::Pending | State::Active { .. } | State::Ending { .. } => rows.put(unfinished, Vec::new()),
        State::Ended { .. } => rows.remove(unfinished),
    }
}

fn put_latest(enrolment: &Enrolment, rows: &mut Writes) {
    let key = enrolment.spiffe_id.to_string();
    rows.put(Table::LatestEnrolment.key(key.as_bytes()), frame(&enrolment.owner().to_record()));
}

fn put_latest_identity(identity: &CreatedIdentity, rows: &mut Writes) {
    let latest = LatestIdentity { certificate_digest: identity.certificate.as_bytes().to_vec() };
    rows.put(Table::Meta.key(LATEST_IDENTITY), frame(&latest));
}

fn check(change: &Change, view: &dyn View) -> Result<(), LedgerError> {
    match change {
        Change::JobStarted { job, request } => {
            follows(job, view)?;
            follows(request, view)?;
            job.spent_token().map_or(Ok(()), |spent| follows(&spent, view))?;
            not_banned(&job.owner, view)
        }
        Change::JobEnded { job } => follows(job, view),
        Change::LeasePending { lease, request } => {
            follows(lease, view)?;
            follows(request, view)?;
            still_wanted(lease, view)
        }
        Change::LeaseActive { lease }
        | Change::LeaseAdopted { lease }
        | Change::LeaseRecognised { lease, at: _ }
        | Change::LeaseEnding { lease }
        | Change::LeaseEnded { lease }
        | Change::LeaseReceipt { lease } => follows(lease, view),
        Change::ControlPlanned { control } => follows(control, view),
        Change::ControlGone { control: _, at: _ } => Ok(()),
        Change::TokenMinted { token, owner } => {
            follows(token, view)?;
            not_banned(owner, view)?;
            still_live(token, view)
        }
        Change::BlockSet { block } | Change::BlockLifted { block } => follows(block, view),
        Change::JoinTokenCreated { join_token, request } => {
            follows(join_token, view)?;
            follows(request, view)
        }
        Change::JoinTokenTaken { join_token } => follows(join_token, view),
        Change::EnrolmentTokenTaken { spent, at: _ } => follows(spent, view),
        Change::Enrolled { enrolment } => {
            follows(enrolment, view)?;
            not_banned(&enrolment.owner(), view)?;
            still_free(enrolment, view)
        }
        Change::Renewed { enrolment, at: _ }
        | Change::RenewalUsed { enrolment, at: _ }
        | Change::Rejoined { enrolment, at: _ } => {
            follows(enrolment, view)?;
            not_banned(&enrolment.owner(), view)
        }
        Change::IdentityCreated { identity } => follows(identity, view),
        Change::EnrolmentReplaced { enrolment } | Change::EnrolmentCloned { enrolment } => {
            follows(enrolment, view)
        }
        Change::BanSet { ban } | Change::BanLifted { ban } => follows(ban, view),
        Change::Refused { refusal: _ } => Ok(()),
    }
}

/// The row is new, or one revision after what is there. What has no revision is always new.
fn follows<R: Row>(row: &R, view: &dyn View) -> Result<(), LedgerError> {
    let current: Option<R> = rows::fetch(view, &row.key())?;
    let follows = match (current, row.revision()) {
        (None, revision) => revision.is_none_or(|revision| revision == Revision::FIRST),
        (Some(current), revision) => revision.is_some() && revision == current.revision().map(Revision::next),
    };
    if follows { Ok(()) } else { Err(LedgerError::Conflict(row.name())) }
}

/// Who is banned gets nothing more, whatever was decided before.
fn not_banned(owner: &Owner, view: &dyn View) -> Result<(), LedgerError> {
    match rows::ban_on(view, owner)? {
        Some(ban) => Err(LedgerError::Conflict(ban.name())),
        None => Ok(()),
    }
}

/// A lease that is granted has all of these; one that is adopted is not granted.
fn still_wanted(lease: &Lease, view: &dyn View) -> Result<(), LedgerError> {
    let (Some(job), Some(owner), Some(role)) = (lease.job, lease.owner.known(), &lease.role) else {
        return Ok(());
    };
    not_banned(owner, view)?;
    if let Some(job) = rows::job(view, job)?.filter(|job| job.ended.is_some()) {
        return Err(LedgerError::Conflict(job.name()));
    }
    if let Some(enrolment) = over(owner, view)? {
        return Err(LedgerError::Conflict(enrolment.name()));
    }
    let mut blocks = rows::blocks(view, &owner.spiffe_id, role)?;
    blocks.retain(|block| block.job.is_none());
    blocks.extend(rows::blocks_of_job(view, job)?);
    match blocks.iter().find(|block| block.in_force(lease.created)) {
        Some(block) => Err(LedgerError::Conflict(block.name())),
        None => Ok(()),
    }
}

fn over(owner: &Owner, view: &dyn View) -> Result<Option<Enrolment>, ReadError> {
    Ok(rows::enrolment(view, owner.enrolment)?.filter(Enrolment::is_over))
}

fn still_live(token: &MintedToken, view: &dyn View) -> Result<(), LedgerError> {
    match rows::lease(view, token.lease)?.filter(|lease| !lease.is_live()) {
        Some(lease) => Err(LedgerError::Conflict(lease.name())),
        None => Ok(()),
    }
}

fn still_free(enrolment: &Enrolment, view: &dyn View) -> Result<(), LedgerError> {
    let name = &enrolment.spiffe_id;
    let latest = rows::latest_enrolment(view, name)?.filter(|latest| latest.is_live(enrolment.created));
    match latest {
        // A banned enrolment holds its name no more.
        Some(latest) if rows::ban_on(view, &latest.owner())?.is_none() => {
            Err(LedgerError::Conflict(name.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}

impl From<ReadError> for LedgerError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
