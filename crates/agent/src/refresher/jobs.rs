//! Job sessions: those that the agent asserts by itself when somebody asks for a token, and those that a job's token opens.
//!
//! A session that a token has opened lives until it is ended, by its job or by the issuer. It is never opened again by
//! assertion: what the job was allowed by its token it would lose without a word.

use std::sync::Arc;

use shorepass_core::id::{CallId, JobId, RequestId};
use shorepass_core::job_token::JobToken;
use shorepass_core::time::Timestamp;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::local::v1::ErrorClass;
use shorepass_proto::v1::ErrorReason as Reason;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::{CALLS, Done, Refresher, durable, limited};
use crate::entry::Call;
use crate::issuer::{Denial, IssuerError, Shown, Started};
use crate::session::{ByToken, JobKey, JobRecord, Key, LeaseRecord, Sessions, Unanswered};

/// Sessions that tokens have opened, of one user.
const SESSIONS_OF_ONE: usize = 64;

/// How long a token that got no answer may be shown again, in seconds: longer than most of them live.
const COMES_AGAIN: i64 = 60 * 60;

/// A job of a user on this runner.
pub(super) struct Job {
    pub(super) serial: u64,
    pub(super) request: Option<RequestId>,
    pub(super) id: Option<JobId>,
    /// The StartJob that is out for it.
    pub(super) starting: Option<CallId>,
    /// A StartJob with a token that was not answered yet.
    opening: Option<Unanswered>,
    /// Whether that one is out.
    is_opening: bool,
    by_token: Option<ByToken>,
}

/// A session that somebody wants opened with a token.
pub(super) struct Opening {
    key: JobKey,
    token: Arc<JobToken>,
    call: CallId,
    serial: u64,
    answer: oneshot::Sender<Result<Started, Denial>>,
}

/// A session that somebody wants ended.
pub(super) struct Ending {
    key: JobKey,
    call: CallId,
    /// The job while it is being ended.
    job: Option<Job>,
    answer: oneshot::Sender<Result<usize, Denial>>,
}

impl Opening {
    pub(super) fn new(
        key: JobKey,
        token: JobToken,
        call: CallId,
        answer: oneshot::Sender<Result<Started, Denial>>,
    ) -> Self {
        Self { key, token: Arc::new(token), call, serial: 0, answer }
    }
}

impl Ending {
    pub(super) fn new(key: JobKey, call: CallId, answer: oneshot::Sender<Result<usize, Denial>>) -> Self {
        Self { key, call, job: None, answer }
    }
}

impl Job {
    fn new(serial: u64) -> Self {
        Self {
            serial,
            request: None,
            id: None,
            starting: None,
            opening: None,
            is_opening: false,
            by_token: None,
        }
    }

    /// As it was before a restart.
    pub(super) fn restored(serial: u64, record: &JobRecord) -> Self {
        let JobRecord { request, id, opening, by_token, .. } = record;
        Self { request: *request, id: *id, opening: *opening, by_token: *by_token, ..Self::new(serial) }
    }

    fn record(&self, key: &JobKey, leases: Vec<LeaseRecord>) -> JobRecord {
        let Self { request, id, opening, by_token, .. } = self;
        JobRecord {
            request: *request,
            id: *id,
            opening: *opening,
            by_token: *by_token,
            leases,
            ..key.record()
        }
    }

    /// Whether nobody needs it while it has no lease.
    fn is_idle(&self, now: Timestamp) -> bool {
        let lives = self.by_token.is_some_and(|session| session.ends.is_none_or(|end| now.as_second() < end));
        let comes_again = self.opening.is_some_and(|opening| now.as_second() < opening.sent + COMES_AGAIN);
        self.starting.is_none() && !self.is_opening && !lives && !comes_again
    }
}

impl Refresher {
    /// Asserts the job of a key, for which a lease is wanted.
    pub(super) fn start_job(&mut self, wanted: Key, id: CallId) {
        let (now, jitter) = (self.now(), self.jitter());
        let serial = self.next_serial();
        let fresh = RequestId::generate(self.parts.clock.now(), &*self.parts.entropy);
        let key = wanted.job.clone();
        let job = self.jobs.entry(key.clone()).or_insert_with(|| Job::new(serial));
        if job.by_token.is_some() {
            if let Some(entry) = self.entries.get_mut(&wanted) {
                entry.give_up(&id, &IssuerError::SessionOver, now, jitter);
            }
            return;
        }
        if job.starting.is_some() {
            return;
        }
        job.starting = Some(id.clone());
        let serial = job.serial;
        let request = *job.request.get_or_insert(fresh);
        let recording = self.record();
        let (issuer, system) = (self.parts.issuer.clone(), self.parts.job_system.clone());
        self.calls.spawn(async move {
            let asked = async {
                durable(recording).await?;
                let asserted = key.asserted(system.as_str()).map_err(|_| IssuerError::Garbled("job name"))?;
                issuer.start_job(&id, request, &Shown::Asserted(asserted)).await
            };
            Done::Job { result: limited(asked).await, key, serial, id }
        });
    }

    pub(super) fn settle_job(
        &mut self,
        key: &JobKey,
        serial: u64,
        call: &CallId,
        result: Result<Started, IssuerError>,
    ) {
        self.notice(&result);
        let (now, jitter) = (self.now(), self.jitter());
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.serial == serial) else { return };
        job.starting = None;
        match result {
            // A token was faster.
            Ok(Started { id, .. }) if job.by_token.is_some() => self.end_in_background(key.clone(), id),
            Ok(Started { id, .. }) => {
                info!(request_id = %call, job = key.name(), job_id = %id, "job started");
                job.id = Some(id);
                job.request = None;
            }
            Err(error) => {
                warn!(request_id = %call, job = key.name(), error = %Chain(&error), "cannot start the job");
                if !error.outcome_unknown() {
                    job.request = None;
                }
                let entries = self.entries.iter_mut().filter(|(entry, _)| entry.job == *key);
                for (_, entry) in entries {
                    if entry.next_call(now) == Some(Call::Issue) {
                        entry.give_up(call, &error, now, jitter);
                    }
                }
            }
        }
    }

    /// Opens a session with a token. What is under the name goes on until the issuer has answered.
    pub(super) fn open(&mut self, mut opening: Opening) {
        if let Some((message, remedy)) = self.no_session_for(&opening.key) {
            let _ = opening.answer.send(Err(Denial::new(ErrorClass::Failure, message, remedy)));
            return;
        }
        let serial = self.next_serial();
        let now = self.parts.clock.now();
        let request = RequestId::generate(now, &*self.parts.entropy);
        let job = self.jobs.entry(opening.key.clone()).or_insert_with(|| Job::new(serial));
        job.is_opening = true;
        opening.serial = job.serial;
        let fresh = Unanswered { request, sent: now.as_second() };
        let request = job.opening.get_or_insert(fresh).request;
        let recording = self.record();
        let issuer = self.parts.issuer.clone();
        self.calls.spawn(async move {
            let asked = async {
                durable(recording).await?;
                issuer.start_job(&opening.call, request, &Shown::Token(opening.token.clone())).await
            };
            Done::Opened { result: limited(asked).await, opening }
        });
    }

    fn no_session_for(&self, key: &JobKey) -> Option<(&'static str, &'static str)> {
        if !self.leaving.is_empty() {
            return Some(("the agent is giving everything back", "try again when it has left"));
        }
        if self.jobs.get(key).is_some_and(|job| job.is_opening) {
            return Some((
                "a session for this job is being opened already",
                "give each job a name in SHOREPASS_JOB",
            ));
        }
        let of_this_user = self.jobs.iter().filter(|(known, job)| {
            known.uid() == key.uid() && *known != key && (job.by_token.is_some() || job.is_opening)
        });
        (of_this_user.count() >= SESSIONS_OF_ONE).then_some((
            "the agent keeps 64 job sessions of this user, which is its limit",
            "end some with `shorepass job end`",
        ))
    }

    pub(super) fn settle_opened(&mut self, opening: Opening, result: Result<Started, IssuerError>) {
        self.notice(&result);
        let Opening { key, call, serial, .. } = &opening;
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.serial == *serial) else {
            // Left or ended meanwhile: what was opened is over at once.
            if let Ok(started) = result {
                self.end_in_background(opening.key.clone(), started.id);
            }
            return;
        };
        job.is_opening = false;
        match result {
            Ok(started) => {
                job.opening = None;
                self.opened(key, call, started);
                let _ = opening.answer.send(Ok(started));
            }
            // An opening with another token was not answered, and this is another job.
            Err(error) if error.reason() == Some(Reason::RequestIdReused) => {
                job.opening = None;
                debug!(request_id = %call, job = key.name(), "that request is spent: making another one");
                self.open(opening);
            }
            Err(error) => {
                warn!(request_id = %call, job = key.name(), error = %Chain(&error), "cannot open the job session");
                if !error.outcome_unknown() {
                    job.opening = None;
                }
                let denial = error.denial(call);
                let _ = opening.answer.send(Err(denial));
            }
        }
    }

    /// A token has opened a session: what was under the name before is over.
    fn opened(&mut self, key: &JobKey, call: &CallId, Started { id, ends }: Started) {
        info!(request_id = %call, job = key.name(), job_id = %id, "job session opened with a token");
        let Some(job) = self.jobs.get_mut(key) else { return };
        let before = job.id.replace(id).filter(|before| *before != id);
        job.request = None;
        job.by_token = Some(ByToken { ends: ends.map(|end| end.as_second()) });
        if let Some(before) = before {
            self.dismiss(key, "another job began under this name");
            self.end_in_background(key.clone(), before);
        }
        self.record();
    }

    /// Drops all leases of a job, and tells those who wait for one.
    fn dismiss(&mut self, key: &JobKey, why: &str) {
        let gone: Vec<Key> = self.entries.keys().filter(|entry| entry.job == *key).cloned().collect();
        for gone in gone {
            let Some(entry) = self.entries.remove(&gone) else { continue };
            let remedy = "give each job a name in SHOREPASS_JOB";
            entry.dismiss(&Denial::new(ErrorClass::Failure, why, remedy));
        }
    }

    pub(super) fn end_job(&mut self, mut ending: Ending) {
        self.dismiss(&ending.key, "the job was ended");
        let Some(job) = self.jobs.remove(&ending.key) else {
            let _ = ending.answer.send(Ok(0));
            return;
        };
        let Some(id) = job.id else {
            let _ = ending.answer.send(Ok(0));
            return;
        };
        ending.job = Some(job);
        let issuer = self.parts.issuer.clone();
        self.calls.spawn(async move {
            Done::JobEnded { result: limited(issuer.end_job(&ending.call, id)).await, ending }
        });
    }

    pub(super) fn settle_ended(&mut self, ending: Ending, result: Result<usize, IssuerError>) {
        self.notice(&result);
        let Ending { key, call, job, answer } = ending;
        let answered = match result {
            Ok(leases) => {
                info!(request_id = %call, job = key.name(), leases, "job ended");
                Ok(leases)
            }
            Err(error) if error.outcome_unknown() => {
                warn!(request_id = %call, job = key.name(), error = %Chain(&error), "cannot end the job");
                if let Some(job) = job {
                    self.jobs.entry(key).or_insert(job); // to be ended again
                }
                Err(error.denial(&call))
            }
            Err(error) => {
                debug!(request_id = %call, job = key.name(), error = %Chain(&error), "the job was over");
                Ok(0)
            }
        };
        let _ = answer.send(answered);
    }

    /// The issuer says that this session yields no more leases.
    pub(super) fn job_is_over(&mut self, key: &JobKey, session: Option<JobId>) {
        // Another call may have opened another one already.
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.id == session) else { return };
        match job.by_token {
            Some(_) => job.id = None,
            None => drop(self.jobs.remove(key)),
        }
    }

    pub(super) fn end_idle_jobs(&mut self) {
        let now = self.parts.clock.now();
        let used = |key: &JobKey| self.entries.keys().any(|entry| entry.job == *key);
        let idle: Vec<_> = self.jobs.iter().filter(|(key, job)| job.is_idle(now) && !used(key)).collect();
        let room = CALLS.saturating_sub(self.calls.len());
        let idle: Vec<_> = idle.into_iter().take(room).map(|(key, job)| (key.clone(), job.id)).collect();
        for (key, job) in idle {
            self.jobs.remove(&key);
            if let Some(job) = job {
                self.end_in_background(key, job);
            }
        }
    }

    fn end_in_background(&mut self, key: JobKey, job: JobId) {
        let (issuer, id) = (self.parts.issuer.clone(), self.call_id());
        self.calls
            .spawn(async move { Done::IdleJob { result: limited(issuer.end_job(&id, job)).await, key, id } });
    }

    pub(super) fn snapshot(&self) -> Sessions {
        let leases = |key: &JobKey| {
            let entries = self.entries.iter().filter(|(entry, _)| entry.job == *key);
            let known = entries.filter(|(_, entry)| entry.lease().is_some() || entry.request.is_some());
            let record = |(key, entry): (&Key, &crate::entry::Entry)| LeaseRecord {
                role: key.role.clone(),
                request: entry.request,
                id: entry.lease(),
            };
            known.map(record).collect()
        };
        let jobs = self.jobs.iter().map(|(key, job)| job.record(key, leases(key)));
        Sessions::of(self.leaving.iter().cloned().chain(jobs).collect())
    }
}
