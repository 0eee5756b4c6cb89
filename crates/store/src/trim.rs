//! What is over is history, and history ends: which rows are removed when.
//!
//! | row | is removed |
//! | --- | --- |
//! | request | an hour after the end of what came of it, its lease, job or join token |
//! | lease that ended, with its tokens | when its end is older than the retention |
//! | job | with its last lease; one without leases when it is older than the retention |
//! | join token, block | when its end is older than the retention |
//! | enrolment | when its last certificate ended longer ago than the retention |
//!
//! Each change that begins or ends something puts an entry into [`Table::Due`], sorted by time; a look at the oldest ones
//! costs what is due and not what there is. An entry whose row turns out to go on is put back with a later time. Removals
//! are part of the next commit's batch and have no audit line: records made anew from the audit file have the rows again,
//! and lose them again.
//!
//! A request that is asked again after its row is gone is decided as a new one.
//!
//! One queue removes nothing but its own entries: unbound leases that have ended, by when the last of their tokens is
//! refused. It answers which of them still have tokens that work, whatever ended long ago.

use std::time::Duration;

use shorepass_core::block::Block;
use shorepass_core::enrolment::{Enrolment, JoinToken};
use shorepass_core::job::{Job, SpentToken};
use shorepass_core::lease::{Lease, Mode, State};
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::request::{Outcome, Request};
use shorepass_core::time::{Timestamp, after, until as time_until};

use crate::convert::{nanoseconds, time_of};
use crate::layers::Overlay;
use crate::rows;
use crate::tables::{
    ReadError, Table, View, Writes, block_of_caller_key, block_of_job_key, index_of_lease, jti_of,
};

/// How long a request is kept after what came of it ended.
pub(crate) const ANSWERS_KEPT: Duration = Duration::from_secs(3600);
/// How many entries are looked at in one batch at most.
pub(crate) const AT_ONCE: usize = 512;

/// What an entry is about; the byte is the first of its key, so that each kind is a queue of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Request = 0,
    Lease = 1,
    Job = 2,
    JoinToken = 3,
    Block = 4,
    Enrolment = 5,
    SpentToken = 6,
    /// An ended lease whose tokens go on working.
    Outliving = 7,
}

const HISTORY: [Kind; 5] = [Kind::Lease, Kind::Job, Kind::JoinToken, Kind::Block, Kind::Enrolment];

/// Puts a row into the queue, by when it is over as far as is known now.
pub(crate) fn put(kind: Kind, over: Timestamp, key: &[u8], rows: &mut Writes) {
    rows.put(Table::Due.key(&due_key(kind, over, key)), Vec::new());
}

/// Puts a lease into the queues that it is in once it has ended.
pub(crate) fn put_ended(lease: &Lease, rows: &mut Writes) {
    let State::Ended { gone, .. } = lease.state else { return };
    put(Kind::Lease, gone, lease.id.as_bytes(), rows);
    match lease.mode {
        Mode::Unbound { tokens_until: Some(until) } => {
            put(Kind::Outliving, until, lease.id.as_bytes(), rows);
        }
        Mode::Bound | Mode::Strict { .. } | Mode::Unbound { tokens_until: None } => {}
    }
}

/// The unbound leases that match and have ended, and whose last token is refused after `now`: what is over costs nothing.
pub(crate) fn outliving(
    view: &dyn View,
    filter: &LeaseFilter,
    now: Timestamp,
) -> Result<Vec<Lease>, ReadError> {
    let filter = LeaseFilter { include_ended: true, ..filter.clone() };
    let mut found = Vec::new();
    for entry in view.newest_first(Table::Due, &[Kind::Outliving as u8], None) {
        let (due, _) = entry?;
        let (Some(key), Some(until)) = (due.get(9..), over_of(&due)) else { continue };
        if until <= now {
            break;
        }
        found.extend(rows::fetch::<Lease>(view, key)?.filter(|lease| filter.matches(lease)));
    }
    Ok(found)
}

fn due_key(kind: Kind, over: Timestamp, key: &[u8]) -> Vec<u8> {
    // With the sign bit flipped, big-endian bytes sort like the numbers.
    let time = (nanoseconds(over) as u64) ^ (1 << 63);
    [&[kind as u8], time.to_be_bytes().as_slice(), key].concat()
}

fn over_of(due: &[u8]) -> Option<Timestamp> {
    let time = u64::from_be_bytes(*due.get(1..)?.first_chunk::<8>()?);
    time_of((time ^ (1 << 63)) as i64)
}

/// Removes what is due at `now`, over what a batch is about to write; whether there may be more.
///
/// `retention` is how long history is kept; none keeps it for ever.
pub(crate) fn trim(batch: &mut Overlay<'_>, now: Timestamp, retention: Option<Duration>) -> bool {
    let mut trimming = Trimming { batch, now, left: AT_ONCE };
    trimming.queue(Kind::Request, ANSWERS_KEPT);
    trimming.queue(Kind::SpentToken, Duration::ZERO); // it is good for nothing any more, whoever has it
    trimming.queue(Kind::Outliving, Duration::ZERO);
    for kind in HISTORY {
        if let Some(retention) = retention {
            trimming.queue(kind, retention);
        }
    }
    trimming.left == 0
}

struct Trimming<'a, 'b> {
    batch: &'a mut Overlay<'b>,
    now: Timestamp,
    left: usize,
}

impl Trimming<'_, '_> {
    fn queue(&mut self, kind: Kind, kept: Duration) {
        let until = self.now.checked_sub(kept).unwrap_or(Timestamp::MIN);
        let end = due_key(kind, until, &[]);
        let due: Vec<_> =
            self.batch.base().oldest_first(Table::Due, &[kind as u8], &end).take(self.left).collect();
        self.left -= due.len();
        for entry in due {
            // What cannot be read stays for `store verify` to tell, and holds up nothing.
            if let Err(error) = entry.and_then(|(due, _)| self.entry(kind, &due, until)) {
                tracing::warn!(%error, ?kind, "history could not be removed");
            }
        }
    }

    fn entry(&mut self, kind: Kind, due: &[u8], until: Timestamp) -> Result<(), ReadError> {
        self.remove(Table::Due, due);
        let (Some(key), Some(over)) = (due.get(9..), over_of(due)) else { return Ok(()) };
        match kind {
            Kind::Request => self.request(key, over),
            Kind::Lease => self.lease(key, until),
            Kind::Job => self.job(key, until),
            Kind::JoinToken => {
                self.remove(Table::JoinToken, key);
                Ok(())
            }
            Kind::Block => self.block(key),
            Kind::SpentToken => {
                self.remove(Table::SpentToken, key);
                Ok(())
            }
            Kind::Enrolment => self.enrolment(key, until),
            Kind::Outliving => Ok(()), // the lease stays
        }
    }

    fn remove(&mut self, table: Table, key: &[u8]) {
        self.batch.writes.remove(table.key(key));
    }

    fn request(&mut self, key: &[u8], over: Timestamp) -> Result<(), ReadError> {
        let Some(request) = rows::fetch::<Request>(&*self.batch, key)? else { return Ok(()) };
        let goes_on = match request.outcome {
            Outcome::Lease(id) => {
                rows::lease(&*self.batch, id)?.filter(|lease| !is_over(lease)).map(|_| self.now)
            }
            // Looked at ever more rarely: a job may go on for months.
            Outcome::Job(id) => {
                rows::job(&*self.batch, id)?.and_then(|job| match job.ended.or(job.latest_end) {
                    Some(end) => (after(end, ANSWERS_KEPT) > self.now).then_some(end),
                    None => Some(after(self.now, time_until(job.started, self.now))),
                })
            }
            Outcome::JoinToken(_) => None,
        };
        match goes_on {
            // Never the same time again, or it would be due at once.
            Some(later) if later > over => put(Kind::Request, later, key, &mut self.batch.writes),
            Some(_) | None => self.remove(Table::Request, key),
        }
        Ok(())
    }

    fn lease(&mut self, key: &[u8], until: Timestamp) -> Result<(), ReadError> {
        let Some(lease) = rows::fetch::<Lease>(&*self.batch, key)?.filter(is_over) else { return Ok(()) };
        let tokens: Vec<_> = self.batch.base().newest_first(Table::TokensOfLease, key, None).collect();
        for token in tokens {
            let (index, _) = token?;
            if let Ok(jti) = jti_of(&index) {
                self.remove(Table::Token, jti);
            }
            self.remove(Table::TokensOfLease, &index);
        }
        for (table, indexed) in index_of_lease(&lease) {
            self.remove(table, &indexed);
        }
        self.remove(Table::Lease, key);
        lease.job.map_or(Ok(()), |job| self.job(job.as_bytes(), until))
    }

    /// Removes a job that has no lease any more and did not begin just now.
    fn job(&mut self, key: &[u8], until: Timestamp) -> Result<(), ReadError> {
        let Some(job) = rows::fetch::<Job>(&*self.batch, key)? else { return Ok(()) };
        let over = job.ended.or(job.latest_end).unwrap_or(job.started);
        if over > until {
            put(Kind::Job, over, key, &mut self.batch.writes);
        } else if !self.batch.any(Table::LeasesOfJob, key)? {
            self.remove(Table::Job, key);
        }
        Ok(())
    }

    fn block(&mut self, key: &[u8]) -> Result<(), ReadError> {
        let Some(block) = rows::fetch::<Block>(&*self.batch, key)? else { return Ok(()) };
        self.remove(Table::BlocksOfCaller, &block_of_caller_key(&block.caller, &block.role, block.id));
        if let Some(index) = block_of_job_key(&block) {
            self.remove(Table::BlocksOfJob, &index);
        }
        self.remove(Table::Block, key);
        Ok(())
    }

    fn enrolment(&mut self, key: &[u8], until: Timestamp) -> Result<(), ReadError> {
        let Some(enrolment) = rows::fetch::<Enrolment>(&*self.batch, key)? else { return Ok(()) };
        if enrolment.certificate_expires > until {
            put(Kind::Enrolment, enrolment.certificate_expires, key, &mut self.batch.writes);
            return Ok(());
        }
        let latest = rows::latest_enrolment(&*self.batch, &enrolment.spiffe_id)?;
        if latest.is_some_and(|latest| latest.id == enrolment.id) {
            self.remove(Table::LatestEnrolment, enrolment.spiffe_id.to_string().as_bytes());
        }
        self.remove(Table::Enrolment, key);
        Ok(())
    }
}

fn is_over(lease: &Lease) -> bool {
    matches!(lease.state, State::Ended { .. })
}

/// The entries of a row that was written before there was a queue, or is written in another way than by its change.
pub(crate) fn put_for(table: Table, key: &[u8], value: &[u8], rows: &mut Writes) -> Result<(), ReadError> {
    match table {
        // What came of it says when it is really over.
        Table::Request => put(Kind::Request, Timestamp::UNIX_EPOCH, key, rows),
        Table::Job => put(Kind::Job, rows::read::<Job>(key, value)?.started, key, rows),
        Table::JoinToken => put(Kind::JoinToken, rows::read::<JoinToken>(key, value)?.expires, key, rows),
        Table::SpentToken => put(Kind::SpentToken, rows::read::<SpentToken>(key, value)?.until, key, rows),
        Table::Block => put(Kind::Block, rows::read::<Block>(key, value)?.until, key, rows),
        Table::Enrolment => {
            let enrolment = rows::read::<Enrolment>(key, value)?;
            put(Kind::Enrolment, enrolment.certificate_expires, key, rows);
        }
        Table::Lease => put_ended(&rows::read(key, value)?, rows),
        Table::Meta
        | Table::Token
        | Table::TokensOfLease
        | Table::BlocksOfCaller
        | Table::BlocksOfJob
        | Table::LatestEnrolment
        | Table::UnfinishedLeases
        | Table::LeasesOfJob
        | Table::LeasesOfCaller
        | Table::Control
        | Table::Identity
        | Table::Ban
        | Table::Due => {}
    }
    Ok(())
}
