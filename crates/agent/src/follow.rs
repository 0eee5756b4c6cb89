//! Stays heard of by the issuer, and learns of ends as they happen.
//!
//! Two loops beside the refresher. One sends heartbeats, which name the leases that are kept and tell which have ended; the
//! other keeps one stream of Watch open, which tells the same within milliseconds. Neither waits for the other, and nobody
//! waits for them: without an issuer the refresher serves what it holds. Everything they learn goes to the refresher.
//!
//! An agent without leases calls nobody. Questionable: an agent that has just got a lease sends its heartbeat within seconds
//! and not at the next regular one, because only then it knows how often the role wants to hear of it.

mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::id::{CallId, LeaseId};
use shorepass_core::refresh::retry_pause;
use shorepass_core::time::{Clock, Entropy, Timestamp, for_people};
use shorepass_daemon::telemetry::Chain;
use shorepass_proto::v1::{EndCause, ErrorReason as Reason};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::status::{Standing, Status};
use crate::issuer::IssuerError;
use crate::refresher::Handle;

/// Between two heartbeats at most; jitter makes it less.
const BEAT: Duration = Duration::from_secs(60);

/// Heartbeats in the silence that ends a lease.
const BEATS_IN_SILENCE: u32 = 4;

/// The first heartbeat for a new lease comes within this.
const FIRST_BEAT: Duration = Duration::from_secs(5);

/// The share of a pause by which a heartbeat may come early, so that agents do not move in step.
const JITTER_SHARE: f64 = 0.3;

/// For one call; above the client's own deadline.
const CALL_LIMIT: Duration = Duration::from_secs(15);

/// The most leases in one message.
const LEASES: usize = 1024;

/// The longest pause that the issuer can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a lease ended, as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub lease: LeaseId,
    /// Why.
    pub cause: EndCause,
    /// When.
    pub at: Option<Timestamp>,
    /// Who ended it; empty where it ended by itself.
    pub by: String,
    /// Why, in the operator's words; empty where there are none.
    pub reason: String,
}

impl Ended {
    /// Such as "revoked by spiffe://... at 2026-11-25T12:03:04Z: laptop stolen".
    pub fn sentence(&self) -> String {
        let how = match self.cause {
            EndCause::Unspecified => "ended",
            EndCause::Released => "given back",
            EndCause::JobEnded => "ended with its job",
            EndCause::Revoked => "revoked",
            EndCause::Deadline => "over: it reached its deadline",
            EndCause::Abandoned => "given up before its first token",
            EndCause::AnchorLost => "over: somebody deleted its anchor",
            EndCause::ServiceAccountReplaced => "over: its ServiceAccount was deleted or replaced",
            EndCause::EnrolmentReplaced => "over: the runner was enrolled anew",
            EndCause::EnrolmentCloned => "over: this runner's identity was in use at two places",
            EndCause::Silent => "over: the issuer had not heard of this agent for too long",
            EndCause::RoleChanged => "over: its role changed and does not give it any more",
            EndCause::OwnerBanned => "ended by a ban",
        };
        let by = if self.by.is_empty() { String::new() } else { format!(" by {}", self.by) };
        let at = self.at.map(|at| format!(" at {}", for_people(at))).unwrap_or_default();
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        format!("{how}{by}{at}{reason}")
    }

    /// Whether somebody wanted it: then no other lease is to be expected soon.
    pub fn is_deliberate(&self) -> bool {
        matches!(self.cause, EndCause::Revoked | EndCause::OwnerBanned)
    }
}

/// What a heartbeat brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// The shortest silence that ends one of the leases.
    pub silence: Option<Duration>,
    /// Those that have ended.
    pub ended: Vec<Ended>,
    /// Those that the issuer does not know as ours.
    pub unavailable: Vec<LeaseId>,
    /// Whether our stream of Watch has not told everything.
    pub behind: bool,
}

/// What a stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease has ended.
    Ended(Ended),
    /// A lease's role was changed.
    RoleChanged(LeaseId),
    /// What had happened before has been told.
    CaughtUp,
    /// The stream ends; come back within this time.
    ComeBack(Duration),
    /// Nothing happened.
    StillHere,
}

/// The issuer's side of it, as a port.
#[async_trait]
pub trait Follow: Send + Sync + 'static {
    /// Says which leases are kept. `seen` is the number of the last event of a stream.
    async fn heartbeat(&self, call: &CallId, leases: &[LeaseId], seen: u64) -> Result<Pulse, IssuerError>;

    /// Opens a stream.
    async fn watch(
        &self,
        call: &CallId,
        leases: &[LeaseId],
        seen: u64,
    ) -> Result<Box<dyn Stream>, IssuerError>;
}

/// An open stream.
#[async_trait]
pub trait Stream: Send {
    /// The next event and the number that it raises; none when the stream has ended. An error when it is broken, also by
    /// saying nothing for too long.
    async fn next(&mut self) -> Result<Option<(u64, Event)>, IssuerError>;
}

/// What both loops share.
pub(crate) struct Follower {
    pub(crate) issuer: Arc<dyn Follow>,
    pub(crate) handle: Handle,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) status: Standing,
    /// The stream is to be opened anew.
    reopen: Notify,
}

impl Follower {
    pub(crate) fn new(
        issuer: Arc<dyn Follow>,
        handle: Handle,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Arc<Self> {
        Arc::new(Self { issuer, handle, clock, entropy, status: Standing::default(), reopen: Notify::new() })
    }

    /// Sends heartbeats until `stop`.
    pub(crate) async fn send_heartbeats(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.beat_on()).await;
    }

    /// Keeps a stream open until `stop`.
    pub(crate) async fn listen(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.listen_on()).await;
    }

    async fn beat_on(&self) {
        let mut kept = self.handle.kept();
        let (mut failures, mut pause, mut named) = (0, FIRST_BEAT, BTreeSet::new());
        while until(&mut kept, |leases| !leases.is_empty()).await {
            let unnamed = until(&mut kept, |leases| leases.iter().any(|lease| !named.contains(lease)));
            tokio::select! {
                () = sleep(pause.mul_f64(1.0 - JITTER_SHARE * self.jitter())) => {}
                true = unnamed, if failures == 0 => sleep(FIRST_BEAT.mul_f64(self.jitter())).await,
            }
            let leases = newest(&kept);
            pause = match self.beat(&leases).await {
                Ok(limit) => {
                    (failures, named) = (0, leases.into_iter().collect());
                    limit.map_or(BEAT, |limit| BEAT.min(limit / BEATS_IN_SILENCE))
                }
                Err(told) => {
                    failures += 1;
                    retry_pause(failures, 1.0).max(told)
                }
            };
        }
    }

    /// One heartbeat; the shortest limit, or when to come back at the earliest.
    async fn beat(&self, leases: &[LeaseId]) -> Result<Option<Duration>, Duration> {
        let (id, sent, seen) = (self.call_id(), self.clock.since_boot(), self.status.seen());
        match limited(self.issuer.heartbeat(&id, leases, seen)).await {
            Ok(pulse) => {
                self.status.heard(self.clock.now());
                if pulse.behind && self.status.seen() == seen {
                    debug!(request_id = %id, "the stream of ends has missed something: opening another one");
                    self.reopen.notify_one();
                }
                self.handle.heard(leases.to_vec(), sent).await;
                for ended in pulse.ended {
                    self.handle.ended(ended, id.clone()).await;
                }
                for lease in pulse.unavailable {
                    self.handle.unavailable(lease, id.clone()).await;
                }
                Ok(pulse.silence)
            }
            Err(error) => Err(self.refused("a heartbeat failed", id, error).await),
        }
    }

    async fn listen_on(&self) {
        let mut kept = self.handle.kept();
        let mut failures = 0;
        while until(&mut kept, |leases| !leases.is_empty()).await {
            let (id, seen, leases) = (self.call_id(), self.status.seen(), newest(&kept));
            let pause = match limited(self.issuer.watch(&id, &leases, seen)).await {
                Ok(stream) => {
                    let ended = self.follow(stream, &id, &mut kept, &mut failures).await;
                    self.status.disconnected();
                    ended
                }
                Err(error) => {
                    failures += 1;
                    let told = self.refused("cannot be told of ends as they happen", id, error).await;
                    retry_pause(failures, self.jitter()).max(told)
                }
            };
            // Whoever was shut out and gets a lease again is let in: its end should not come unheard.
            tokio::select! {
                () = sleep(pause) => {}
                () = begins_anew(&mut kept) => failures = 0,
            }
        }
    }

    /// Until the stream ends; how long to wait before the next one.
    async fn follow(
        &self,
        mut stream: Box<dyn Stream>,
        id: &CallId,
        kept: &mut watch::Receiver<Vec<LeaseId>>,
        failures: &mut u32,
    ) -> Duration {
        loop {
            let told = tokio::select! {
                told = stream.next() => told,
                () = self.reopen.notified() => return Duration::ZERO,
                _ = until(kept, Vec::is_empty) => {
                    debug!("no lease is kept: the stream of ends is closed");
                    return Duration::ZERO;
                }
            };
            match told {
                Ok(Some((sequence, event))) => {
                    self.status.heard(self.clock.now());
                    self.status.saw(sequence);
                    match event {
                        Event::CaughtUp => {
                            *failures = 0;
                            info!(request_id = %id, "the issuer tells of ends as they happen");
                            self.status.connected();
                        }
                        Event::Ended(ended) => self.handle.ended(ended, id.clone()).await,
                        Event::RoleChanged(lease) => self.handle.role_changed(lease).await,
                        Event::StillHere => {}
                        Event::ComeBack(within) => {
                            return within.min(LONGEST_PAUSE).mul_f64(self.jitter());
                        }
                    }
                }
                Ok(None) => {
                    *failures += 1;
                    return retry_pause(*failures, self.jitter());
                }
                Err(error) => {
                    *failures += 1;
                    let told = self.refused("the stream of ends broke", id.clone(), error).await;
                    return retry_pause(*failures, self.jitter()).max(told);
                }
            }
        }
    }

    /// Tells whom it concerns; when to come back at the earliest.
    async fn refused(&self, what: &'static str, id: CallId, error: IssuerError) -> Duration {
        let told = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
        if matches!(error.reason(), Some(Reason::EnrolmentEnded | Reason::Banned | Reason::RunnerCloned)) {
            warn!(request_id = %id, error = %Chain(&error), what);
            self.handle.shut_out(error, id).await;
            return LONGEST_PAUSE;
        }
        debug!(request_id = %id, error = %Chain(&error), what);
        told
    }

    fn jitter(&self) -> f64 {
        crate::jitter(&*self.entropy)
    }

    fn call_id(&self) -> CallId {
        CallId::generate(self.clock.now(), &*self.entropy)
    }
}

/// Waits until it holds of the leases that are kept; false when nobody keeps leases any more.
async fn until(kept: &mut watch::Receiver<Vec<LeaseId>>, holds: impl FnMut(&Vec<LeaseId>) -> bool) -> bool {
    kept.wait_for(holds).await.is_ok()
}

/// Waits until a lease is kept where there was none.
async fn begins_anew(kept: &mut watch::Receiver<Vec<LeaseId>>) {
    if !(until(kept, Vec::is_empty).await && until(kept, |leases| !leases.is_empty()).await) {
        std::future::pending::<()>().await; // nobody keeps leases any more
    }
}

fn newest(kept: &watch::Receiver<Vec<LeaseId>>) -> Vec<LeaseId> {
    kept.borrow().iter().take(LEASES).copied().collect()
}

async fn limited<T>(call: impl Future<Output = Result<T, IssuerError>>) -> Result<T, IssuerError> {
    timeout(CALL_LIMIT, call).await.unwrap_or(Err(IssuerError::Silent(CALL_LIMIT)))
}

#[cfg(test)]
mod tests;
