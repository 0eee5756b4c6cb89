//! The fakes of this crate's tests: a clock that goes with the runtime's, a countable generator, an honest issuer.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::id::{CallId, JobId, LeaseId, RequestId};
use shorepass_core::name::Name;
use shorepass_core::time::{Clock, Entropy, Timestamp, after};
use shorepass_core::token::Token;
use shorepass_proto::v1::{Cluster, ErrorReason as Reason, Role};
use shorepass_rpc::client::Refusal;
use shorepass_rpc::status::{Code, code_of};
use tokio::time::Instant;

use crate::issuer::{Issuer, IssuerError, Leased, Shown, Started};

/// A folder that is gone at the end of a test, also when a task of the test is still writing into it.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for _ in 0..200 {
            // What a write leaves behind that overtook the removal goes in the next round.
            let _ = std::fs::remove_dir_all(self.path());
            std::thread::sleep(Duration::from_millis(2));
            if !self.path().exists() {
                return;
            }
        }
    }
}

/// Both clocks go with the runtime's paused time; the wall clock can jump.
pub(crate) struct FakeClock {
    start: Instant,
    jumped: Mutex<Duration>,
}

impl FakeClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), jumped: Mutex::new(Duration::ZERO) })
    }

    pub(crate) fn jump(&self, ahead: Duration) {
        *self.jumped.lock().unwrap() = ahead;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(1_790_000_000).unwrap();
        after(start, self.start.elapsed() + *self.jumped.lock().unwrap())
    }

    fn since_boot(&self) -> Duration {
        Duration::from_secs(1_000) + self.start.elapsed()
    }
}

/// Never the same twice, but for the first four bytes, which jitter is made of: they say how much there is of it.
#[derive(Default)]
pub(crate) struct Counting {
    count: AtomicU64,
    jitter: u8,
}

impl Counting {
    pub(crate) fn with_full_jitter() -> Self {
        Self { jitter: u8::MAX, ..Self::default() }
    }
}

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        let count = self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        buffer.fill(self.jitter);
        let shared = buffer.len().saturating_sub(4).min(count.len());
        let length = buffer.len();
        buffer[length - shared..].copy_from_slice(&count[count.len() - shared..]);
    }
}

/// What the fake issuer does with every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Works,
    Silent,
    Refuses(Reason),
    /// The next call alone.
    RefusesOnce(Reason),
    /// With a time to come back.
    Postpones(Reason, Duration),
    /// With no reason, as a proxy does.
    Breaks(Code),
}

/// What the fake issuer keeps.
pub(crate) struct Books {
    pub(crate) mood: Mood,
    pub(crate) blocked: bool,
    pub(crate) valid_for: Duration,
    pub(crate) remaining: Duration,
    pub(crate) silence: Option<Duration>,
    pub(crate) unbound: bool,
    /// For whom the tokens of all roles are.
    pub(crate) audiences: Vec<String>,
    pub(crate) delay: Duration,
    /// Each call by name, in order.
    pub(crate) calls: Vec<&'static str>,
    /// Their ids.
    pub(crate) ids: Vec<CallId>,
    pub(crate) requests: Vec<RequestId>,
    /// Of each StartJob with a token.
    pub(crate) starts: Vec<RequestId>,
    jobs: HashMap<RequestId, JobId>,
    leases: HashMap<RequestId, (LeaseId, Instant)>,
    job_of: HashMap<LeaseId, JobId>,
    ended_jobs: HashSet<JobId>,
    ended: HashSet<LeaseId>,
    tokens: u32,
}

/// An issuer that keeps its promises: the same request id, the same job or lease; nothing from what has ended.
pub(crate) struct FakeIssuer {
    books: Mutex<Books>,
    entropy: Counting,
}

impl FakeIssuer {
    pub(crate) fn new() -> Arc<Self> {
        let books = Books {
            mood: Mood::Works,
            blocked: false,
            valid_for: Duration::from_secs(1_800),
            remaining: Duration::from_secs(3 * 3_600),
            silence: None,
            unbound: false,
            audiences: Vec::new(),
            delay: Duration::from_millis(50),
            calls: Vec::new(),
            ids: Vec::new(),
            requests: Vec::new(),
            starts: Vec::new(),
            jobs: HashMap::new(),
            leases: HashMap::new(),
            job_of: HashMap::new(),
            ended_jobs: HashSet::new(),
            ended: HashSet::new(),
            tokens: 0,
        };
        Arc::new(Self { books: Mutex::new(books), entropy: Counting::default() })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.books().calls.iter().filter(|made| **made == call).count()
    }

    /// The lease that was issued first.
    pub(crate) fn first_lease(&self) -> LeaseId {
        let books = self.books();
        books.leases.values().min_by_key(|(_, since)| *since).unwrap().0
    }

    pub(crate) fn has_ended(&self, lease: LeaseId) -> bool {
        self.books().ended.contains(&lease)
    }

    /// Revokes everything, and blocks.
    pub(crate) fn revoke(&self) {
        let mut books = self.books();
        books.blocked = true;
        let leases: Vec<_> = books.leases.values().map(|(lease, _)| *lease).collect();
        books.ended.extend(leases);
    }

    pub(crate) fn end_all_jobs(&self) {
        let mut books = self.books();
        let jobs: Vec<_> = books.jobs.values().copied().collect();
        books.ended_jobs.extend(jobs);
        let leases: Vec<_> = books.leases.values().map(|(lease, _)| *lease).collect();
        books.ended.extend(leases);
    }

    async fn enter(&self, call: &'static str, id: &CallId) -> Result<(), IssuerError> {
        let (mood, delay) = {
            let mut books = self.books();
            books.calls.push(call);
            books.ids.push(id.clone());
            (books.mood, books.delay)
        };
        tokio::time::sleep(delay).await;
        match mood {
            Mood::Works => Ok(()),
            Mood::Silent => std::future::pending().await,
            Mood::Refuses(reason) => Err(refused(reason)),
            Mood::RefusesOnce(reason) => {
                self.books().mood = Mood::Works;
                Err(refused(reason))
            }
            Mood::Postpones(reason, span) => Err(refusal(code_of(reason), Some(reason), Some(span))),
            Mood::Breaks(code) => Err(refused_without_reason(code)),
        }
    }

    fn token(&self, lease: LeaseId, since: Instant) -> Result<Leased, IssuerError> {
        let mut books = self.books();
        books.tokens += 1;
        let remaining = books.remaining.saturating_sub(since.elapsed());
        if remaining.is_zero() || books.ended.contains(&lease) {
            return Err(refused(Reason::LeaseEnded));
        }
        Ok(Leased {
            lease,
            remaining,
            token: Token::new(format!("token-{}", books.tokens)),
            token_id: format!("jti-{}", books.tokens),
            valid_for: books.valid_for.min(remaining),
            silence: books.silence,
            unbound: books.unbound,
            audiences: books.audiences.clone(),
        })
    }
}

#[async_trait]
impl Issuer for FakeIssuer {
    async fn start_job(
        &self,
        call: &CallId,
        request: RequestId,
        shown: &Shown,
    ) -> Result<Started, IssuerError> {
        let call_name = match shown {
            Shown::Asserted(_) => "start",
            Shown::Token(_) => {
                self.books().starts.push(request);
                "start with a token"
            }
        };
        self.enter(call_name, call).await?;
        let fresh = JobId::generate(Timestamp::UNIX_EPOCH, &self.entropy);
        Ok(Started { id: *self.books().jobs.entry(request).or_insert(fresh), ends: None })
    }

    async fn end_job(&self, call: &CallId, job: JobId) -> Result<usize, IssuerError> {
        self.enter("end", call).await?;
        let mut books = self.books();
        books.ended_jobs.insert(job);
        let leases: Vec<_> =
            books.job_of.iter().filter(|(_, of)| **of == job).map(|(lease, _)| *lease).collect();
        Ok(leases.into_iter().filter(|lease| books.ended.insert(*lease)).count())
    }

    async fn issue(
        &self,
        call: &CallId,
        request: RequestId,
        job: JobId,
        _: &Name,
    ) -> Result<Leased, IssuerError> {
        self.books().requests.push(request);
        self.enter("issue", call).await?;
        let fresh = (LeaseId::generate(Timestamp::UNIX_EPOCH, &self.entropy), Instant::now());
        let (lease, since) = {
            let mut books = self.books();
            if books.ended_jobs.contains(&job) {
                return Err(refused(Reason::JobEnded));
            }
            if books.blocked {
                return Err(refused(Reason::Blocked));
            }
            let known = *books.leases.entry(request).or_insert(fresh);
            books.job_of.insert(known.0, job);
            known
        };
        self.token(lease, since)
    }

    async fn refresh(&self, call: &CallId, lease: LeaseId) -> Result<Leased, IssuerError> {
        self.enter("refresh", call).await?;
        let since = self.books().leases.values().find(|(known, _)| *known == lease).map(|(_, since)| *since);
        self.token(lease, since.ok_or_else(|| refused(Reason::LeaseNotAvailable))?)
    }

    async fn role(&self, call: &CallId, role: &Name) -> Result<Option<Role>, IssuerError> {
        self.enter("role", call).await?;
        let cluster = Some(Cluster { name: "staging".to_owned(), ..Cluster::default() });
        let audiences = self.books().audiences.clone();
        Ok((role.as_str() == "web").then(|| Role {
            name: role.to_string(),
            cluster,
            audiences,
            ..Role::default()
        }))
    }
}

pub(crate) fn refused(reason: Reason) -> IssuerError {
    refusal(code_of(reason), Some(reason), None)
}

pub(crate) fn refused_without_reason(code: Code) -> IssuerError {
    refusal(code, None, None)
}

fn refusal(code: Code, reason: Option<Reason>, retry_after: Option<Duration>) -> IssuerError {
    IssuerError::Refused(Box::new(Refusal {
        code,
        reason,
        message: reason.map_or_else(|| format!("{code:?}"), |reason| format!("refused as {reason:?}")),
        metadata: Default::default(),
        retry_after,
        request_id: None,
    }))
}
