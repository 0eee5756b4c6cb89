//! The one task that owns all refresh state; everybody else holds a [`Handle`].
//!
//! It never waits for the issuer: calls run beside it and come back as events, at most one for each (user, job, role).
//! So whoever asks for a token that is held is answered at once, in an outage too. What to do is decided in
//! [`crate::entry`]; here it is done, recorded before it is sent, and logged: each outcome with the id that the call had.

mod ends;
mod handle;
mod jobs;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::id::{CallId, JobId, LeaseId, RequestId};
use shorepass_core::name::Name;
use shorepass_core::time::{Clock, Entropy};
use shorepass_daemon::clock::RECHECK;
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::local::v1::ErrorClass;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::entry::{Call, Entry, Moment, Pace, Shown, Verdict, Waiting};
use crate::issuer::{Denial, Issuer, IssuerError, Leased, Started};
use crate::leave::{GivenBack, give_back};
use crate::session::{JobKey, JobRecord, Key, Recorder, Recording, Sessions};

use self::ends::EarlyEnds;
use self::handle::Question;
pub use self::handle::{Handle, Kept, Overview};
use self::jobs::{Ending, Job, Opening};

/// Questions that wait for the task.
const QUEUE: usize = 128;

/// Calls to the issuer at once.
const CALLS: usize = 16;

/// The most of them that are not refreshes of tokens that are held, so that no rush of new leases keeps those waiting.
const OTHER_CALLS: usize = 12;

/// (user, job, role) at once.
const ENTRIES: usize = 1024;

/// The same, of one user.
const ENTRIES_OF_ONE: usize = 256;

/// The agent's own limit for one call, above the client's.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// The shortest sleep between two looks at what is due.
const LOOK_FLOOR: Duration = Duration::from_millis(200);

/// What the task works with.
pub struct Parts {
    /// The issuer.
    pub issuer: Arc<dyn Issuer>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The generator, for ids and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// The system that is named when a job is asserted.
    pub job_system: Name,
    /// The age at which a token is refreshed at the latest.
    pub max_age: Option<Duration>,
}

enum Done {
    Job { key: JobKey, serial: u64, id: CallId, result: Result<Started, IssuerError> },
    Opened { opening: Opening, result: Result<Started, IssuerError> },
    JobEnded { ending: Ending, result: Result<usize, IssuerError> },
    Lease { key: Key, out: Out, result: Result<Leased, IssuerError> },
    Left { given_back: GivenBack, answer: oneshot::Sender<GivenBack> },
    IdleJob { key: JobKey, id: CallId, result: Result<usize, IssuerError> },
}

/// A call that is out.
struct Out {
    serial: u64,
    id: CallId,
    call: Call,
    job: Option<JobId>,
    sent: Moment,
}

/// The task, before it runs.
pub(crate) struct Refresher {
    parts: Parts,
    questions: mpsc::Receiver<Question>,
    recorder: Recorder,
    jobs: BTreeMap<JobKey, Job>,
    entries: BTreeMap<Key, Entry>,
    leaving: Vec<JobRecord>,
    calls: JoinSet<Done>,
    serial: u64,
    outage: Option<String>,
    early_ends: EarlyEnds,
    kept: watch::Sender<Vec<LeaseId>>,
}

impl Refresher {
    /// The task and its handle. `sessions` are those of before a restart.
    pub(crate) fn new(parts: Parts, sessions: Sessions, recorder: Recorder) -> (Self, Handle) {
        let (sender, questions) = mpsc::channel(QUEUE);
        let (kept, keeping) = watch::channel(Vec::new());
        let mut refresher = Self {
            parts,
            questions,
            recorder,
            jobs: BTreeMap::new(),
            entries: BTreeMap::new(),
            leaving: Vec::new(),
            calls: JoinSet::new(),
            serial: 0,
            outage: None,
            early_ends: EarlyEnds::default(),
            kept,
        };
        refresher.restore(sessions);
        (refresher, Handle { questions: sender, kept: keeping })
    }

    /// Runs until `stop`. Leases are not released then: a restarted agent goes on with them.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.drive();
            let pause = self.pause();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(question) = self.questions.recv() => self.answer(question),
                Some(done) = self.calls.join_next() => {
                    self.settle(done.expect("calls do not panic, and only the end of this task aborts them"));
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn restore(&mut self, sessions: Sessions) {
        let now = self.now();
        for record in sessions.jobs {
            let Ok(key) = JobKey::parse(record.uid, &record.name) else { continue };
            let job = Job::restored(self.next_serial(), &record);
            for lease in record.leases {
                let entry = Entry::new(self.next_serial(), lease.id, lease.request, now);
                self.entries.insert(Key { job: key.clone(), role: lease.role }, entry);
            }
            self.jobs.insert(key, job);
        }
    }

    fn answer(&mut self, question: Question) {
        let now = self.now();
        match question {
            Question::Credential { key, asker } => self.ask(key, asker, now),
            Question::CallOut { key, answer } => {
                let _ = answer.send(self.call_out(&key));
            }
            Question::Overview { answer } => {
                let leases = self.entries.iter().map(|(key, entry)| kept(key, entry.show(now))).collect();
                let _ = answer.send(Overview { leases, outage: self.outage.clone() });
            }
            Question::Leave { id, answer } => self.leave(id, answer),
            Question::StartJob(opening) => self.open(opening),
            Question::EndJob(ending) => self.end_job(ending),
            Question::Ended { ended, call } => self.ended(ended, &call),
            Question::Unavailable { lease, call } => self.unavailable(lease, &call),
            Question::RoleChanged { lease } => self.role_changed(lease),
            Question::Heard { leases, sent } => self.heard(&leases, sent),
            Question::ShutOut { error, call } => self.shut_out(&error, &call),
        }
    }

    fn ask(&mut self, key: Key, asker: Waiting, now: Moment) {
        if let Some((message, remedy)) = self.no_room(&key) {
            return asker.tell(Err(Denial::new(ErrorClass::Failure, message, remedy)));
        }
        if !self.entries.contains_key(&key) {
            let entry = Entry::new(self.next_serial(), None, None, now);
            self.entries.insert(key.clone(), entry);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.ask(asker, now);
        }
    }

    fn call_out(&self, key: &Key) -> Option<CallId> {
        let for_the_job = || self.jobs.get(&key.job)?.starting.clone();
        self.entries.get(key).and_then(|entry| entry.in_flight.clone()).or_else(for_the_job)
    }

    /// Why this key cannot be kept, and what to do.
    fn no_room(&self, key: &Key) -> Option<(&'static str, &'static str)> {
        if !self.leaving.is_empty() {
            return Some(("the agent is giving everything back", "try again when it has left"));
        }
        if self.entries.contains_key(key) {
            return None;
        }
        let remedy = "use fewer names of jobs, or end all leases with shorepass-agent leave";
        let of_this_user = self.entries.keys().filter(|known| known.job.uid() == key.job.uid());
        if of_this_user.count() >= ENTRIES_OF_ONE {
            return Some(("the agent keeps 256 leases of this user, which is its limit", remedy));
        }
        let full = self.entries.len() >= ENTRIES;
        full.then_some(("the agent keeps 1024 leases, which is its limit", remedy))
    }

    fn leave(&mut self, id: CallId, answer: oneshot::Sender<GivenBack>) {
        info!(request_id = %id, jobs = self.jobs.len(), "leaving: tokens are wiped, jobs are ended");
        let jobs = self.snapshot().jobs;
        // Calls that are out find no entry when they come back; what they bring ends with its job.
        self.entries.clear();
        self.jobs.clear();
        self.leaving = jobs.clone();
        self.record();
        let (issuer, system) = (self.parts.issuer.clone(), self.parts.job_system.clone());
        self.calls.spawn(async move {
            let given_back = give_back(&*issuer, &id, &system, jobs).await;
            Done::Left { given_back, answer }
        });
    }

    /// Starts every call that is due, and forgets what is over.
    fn drive(&mut self) {
        let now = self.now();
        self.entries.retain(|_, entry| {
            entry.expire(now);
            !entry.is_over(now)
        });
        let due = self.entries.iter().filter_map(|(key, entry)| {
            let call = entry.next_call(now)?;
            let room = match call {
                Call::Refresh(_) if entry.is_held() => CALLS,
                Call::Refresh(_) | Call::Issue => OTHER_CALLS,
            };
            Some((room, key.clone(), call))
        });
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(room, ..)| std::cmp::Reverse(*room));
        for (room, key, call) in due {
            if self.calls.len() < room {
                self.call(key, call, now);
            }
        }
        self.end_idle_jobs();
        self.record();
        self.tell_what_is_kept();
    }

    fn call(&mut self, key: Key, call: Call, now: Moment) {
        let wanted_by = self.entries.get(&key).and_then(|entry| entry.wanted_by(call)).cloned();
        let id = wanted_by.unwrap_or_else(|| self.call_id());
        let job = match (call, self.jobs.get(&key.job).and_then(|job| job.id)) {
            (Call::Issue, None) => return self.start_job(key, id),
            (Call::Issue | Call::Refresh(_), job) => job,
        };
        let request = RequestId::generate(self.parts.clock.now(), &*self.parts.entropy);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.in_flight = Some(id.clone());
        let out = Out { serial: entry.serial, id, call, job, sent: now };
        let issuer = self.parts.issuer.clone();
        match (call, job) {
            (Call::Issue, Some(job)) => {
                let request = *entry.request.get_or_insert(request);
                let recording = self.record();
                self.calls.spawn(async move {
                    let asked = async {
                        durable(recording).await?;
                        issuer.issue(&out.id, request, job, &key.role).await
                    };
                    Done::Lease { result: limited(asked).await, key, out }
                });
            }
            (Call::Refresh(lease), _) => {
                self.calls.spawn(async move {
                    Done::Lease { result: limited(issuer.refresh(&out.id, lease)).await, key, out }
                });
            }
            (Call::Issue, None) => {}
        }
    }

    fn settle(&mut self, done: Done) {
        match done {
            Done::Job { key, serial, id, result } => self.settle_job(&key, serial, &id, result),
            Done::Opened { opening, result } => self.settle_opened(opening, result),
            Done::JobEnded { ending, result } => self.settle_ended(ending, result),
            Done::Lease { key, out, result } => self.settle_lease(&key, out, result),
            Done::Left { given_back, answer } => {
                self.leaving.clear();
                self.restore(Sessions::of(given_back.kept.clone()));
                let _ = answer.send(given_back);
            }
            Done::IdleJob { key, id, result } => match result {
                Ok(_) => debug!(request_id = %id, job = key.name(), "idle job ended"),
                Err(error) => {
                    debug!(request_id = %id, job = key.name(), error = %Chain(&error), "idle job forgotten")
                }
            },
        }
    }

    fn settle_lease(&mut self, key: &Key, out: Out, result: Result<Leased, IssuerError>) {
        let Out { serial, id, call, job: session, sent } = out;
        self.notice(&result);
        let (now, jitter) = (self.now(), self.jitter());
        let pace = Pace { jitter, max_age: self.parts.max_age };
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.serial == serial) else { return };
        entry.in_flight = None;
        if let Some(ended) = result.as_ref().ok().and_then(|leased| self.early_ends.of(leased.lease)) {
            return entry.came_too_late(&ended, &id, now);
        }
        let (role, job, request_id) = (&key.role, key.job.name(), &id);
        let error = match result.map(|leased| (leased.lease, leased.token_id.clone(), leased)) {
            Ok((lease, jti, leased)) => match (entry.settle(call, leased, sent, now, pace), call) {
                (Ok(()), Call::Issue) => {
                    return info!(%request_id, %role, job, %lease, jti, "lease issued");
                }
                (Ok(()), Call::Refresh(_)) => {
                    return debug!(%request_id, %role, job, %lease, jti, "token refreshed");
                }
                (Err(error), _) => error,
            },
            Err(error) => error,
        };
        let chain = Chain(&error);
        match entry.fail(call, &id, &error, now, jitter) {
            Verdict::LeaseOver => warn!(%request_id, %role, job, reason = %chain, "the lease is over"),
            Verdict::RequestSpent => {
                debug!(%request_id, %role, job, reason = %chain, "that request is spent: making another one")
            }
            Verdict::JobOver => {
                info!(%request_id, %role, job, reason = %chain, "the job session is over");
                self.job_is_over(&key.job, session);
            }
            Verdict::Failed => match (error.class(), call) {
                (ErrorClass::Denied | ErrorClass::LeaseEnded | ErrorClass::Usage, Call::Issue) => {
                    warn!(%request_id, %role, job, reason = %chain, "denied: no lease");
                }
                (_, Call::Issue) => warn!(%request_id, %role, job, error = %chain, "cannot get a lease"),
                (_, Call::Refresh(lease)) => {
                    warn!(%request_id, %role, job, %lease, error = %chain, "refresh failed")
                }
            },
        }
    }

    /// Whether the issuer answers at all, for `status`.
    fn notice<T>(&mut self, result: &Result<T, IssuerError>) {
        match result {
            Ok(_) | Err(IssuerError::Refused(_) | IssuerError::Garbled(_) | IssuerError::NoLife) => {
                self.outage = None
            }
            // That is told as a problem of the identity.
            Err(IssuerError::NotEnrolled(_)) => {}
            Err(error) => self.outage = Some(Chain(error).to_string()),
        }
    }

    fn record(&self) -> Recording {
        self.recorder.record(self.snapshot())
    }

    fn pause(&self) -> Duration {
        let now = self.parts.clock.since_boot();
        let next = self.entries.values().filter_map(Entry::wakes_at).min();
        next.map_or(RECHECK, |next| next.saturating_sub(now)).clamp(LOOK_FLOOR, RECHECK)
    }

    fn now(&self) -> Moment {
        Moment::of(&*self.parts.clock)
    }

    fn jitter(&self) -> f64 {
        crate::jitter(&*self.parts.entropy)
    }

    /// Of a call that no local request causes.
    fn call_id(&self) -> CallId {
        CallId::generate(self.parts.clock.now(), &*self.parts.entropy)
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

fn kept(key: &Key, shown: Shown) -> Kept {
    let Shown { lease, token_id, valid_for, problem, denied, unbound } = shown;
    Kept { key: key.clone(), lease, token_id, valid_for, problem, denied, unbound }
}

async fn durable(recording: Recording) -> Result<(), IssuerError> {
    recording.durable().await.map_err(IssuerError::NotRecorded)
}

async fn limited<T>(call: impl Future<Output = Result<T, IssuerError>>) -> Result<T, IssuerError> {
    tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or(Err(IssuerError::Silent(CALL_LIMIT)))
}

#[cfg(test)]
mod tests;
