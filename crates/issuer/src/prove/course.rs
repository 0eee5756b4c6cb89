//! The course of one proof: canaries and an acceptance before the cut, refusal and control after it.
//!
//! Each API server is asked by a task of its own, which writes down what it sees as it sees it: where the cut comes first,
//! what was seen by then counts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shorepass_core::cluster::{Cluster, CutError};
use shorepass_core::id::LeaseId;
use shorepass_core::lease::Lease;
use shorepass_core::receipt::{
    Answer, Bound, Canary, Evidence, Observation, Unproved, Verdict, Whose, Why, Witnessed,
};
use shorepass_core::time::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::controls::Held;
use super::{BOUND, Moments, Proving, lock};
use crate::mutants::{self, Mutant};

/// When an API server is asked after the cut, until it refuses; each time costs a canary, minted before the cut. The first
/// is for a server whose watch is where it should be, the other for one that lags by seconds.
const ASKED_AFTER: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(8)];

/// A proof under way is registered as long as this lives.
pub(super) struct Ready {
    pub(super) proving: Proving,
    pub(super) lease: LeaseId,
    pub(super) ready: watch::Sender<bool>,
}

impl Drop for Ready {
    fn drop(&mut self) {
        lock(&self.proving.0.at_work).remove(&self.lease);
        self.proving.0.ended.send_modify(|ended| *ended += 1);
    }
}

/// One proof.
pub(crate) struct Proof {
    proving: Proving,
    cluster: Arc<dyn Cluster>,
    lease: Lease,
    bound: Option<Bound>,
    moments: Moments,
    servers: Vec<Arc<Server>>,
    ready: Ready,
}

/// One API server, and what it was asked.
struct Server {
    endpoint: String,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// For after the cut.
    stock: Vec<Canary>,
    seen: Vec<Observation>,
    gap: Option<Unproved>,
}

impl Proof {
    pub(super) fn new(proving: Proving, lease: &Lease, cluster: Arc<dyn Cluster>, ready: Ready) -> Self {
        let mut scope = cluster.scope();
        if mutants::is(Mutant::AskOneServer) {
            scope.endpoints.truncate(1);
        }
        if lease.audiences.is_some() {
            scope.endpoints.clear(); // none of them is asked
        }
        let server = |endpoint| Arc::new(Server { endpoint, known: Mutex::default() });
        Self {
            moments: Moments::begin(proving.0.outside.clock.clone()),
            proving,
            bound: Bound::of(lease),
            lease: lease.clone(),
            servers: scope.endpoints.into_iter().map(server).collect(),
            cluster,
            ready,
        }
    }

    /// Mints canaries and shows one to each API server.
    pub(super) async fn make_ready(&self, readying: &Semaphore) {
        let Some(bound) = &self.bound else { return };
        // Nothing closes the semaphore.
        let Ok(_slot) = readying.acquire().await else { return };
        let mut servers = JoinSet::new();
        for server in &self.servers {
            let asking = self.asking(server);
            let bound = bound.clone();
            servers.spawn(async move { asking.before_the_cut(&bound).await });
        }
        // Dropped when the window is over: what is under way then is not waited for.
        while servers.join_next().await.is_some() {}
    }

    /// The window is over.
    pub(super) fn is_late(&self) {
        for server in &self.servers {
            lock(&server.known).gap.get_or_insert_with(|| Why::CanariesLate.because(""));
        }
    }

    /// The cut may go on.
    pub(super) fn is_ready(&self) {
        self.ready.ready.send_replace(true);
    }

    /// The delete was sent then, and this came of it. Goes on in the background.
    pub(crate) fn conclude(self, sent: Timestamp, cut: Result<(), CutError>) {
        let at = self.moments.now();
        let (proving, cluster, lease) = (self.proving.clone(), self.cluster.clone(), self.lease.clone());
        let shared = self.proving.0.clone();
        shared.tasks.spawn(async move {
            let stop = proving.0.stop.clone();
            let rest = async {
                if self.go_on(sent, cut.map(|()| at)).await == Some(Why::StillAccepted) {
                    proving.cut_again(cluster, &lease).await;
                }
            };
            stop.run_until_cancelled(rest).await;
        });
    }

    /// Asks after the cut and records what that amounts to; gives why nothing is proved, if so.
    pub(super) async fn go_on(self, sent: Timestamp, cut: Result<Timestamp, CutError>) -> Option<Why> {
        let start = Instant::now();
        if cut.is_ok() {
            self.after_the_cut(sent, start).await;
        }
        let receipt = self.evidence(sent, cut, self.knows_all(start).await).receipt(self.moments.now());
        let why = match &receipt.verdict {
            Verdict::Unproved(unproved) => Some(unproved.why),
            Verdict::Proved(_) | Verdict::Assumed(_) => None,
        };
        self.proving.record(self.lease.id, receipt).await;
        why
    }

    async fn after_the_cut(&self, sent: Timestamp, start: Instant) {
        let Some(bound) = &self.bound else { return };
        let promising: Vec<_> = self.servers.iter().filter(|server| server.has_accepted(sent)).collect();
        if promising.is_empty() {
            return;
        }
        let control = self.proving.0.controls.hold(&self.lease);
        let control =
            timeout_at(start + BOUND, control).await.unwrap_or_else(|_| Err("no time left".to_owned()));
        let mut servers = JoinSet::new();
        for server in promising {
            let (asking, bound, control) = (self.asking(server), bound.clone(), control.clone());
            servers.spawn(async move { asking.after_the_cut(&bound, control, start).await });
        }
        let all = async { while servers.join_next().await.is_some() {} };
        // Who has said nothing by then has said nothing.
        let _ = timeout_at(start + BOUND, all).await;
    }

    /// Whether those that were asked are all that there are: others may have come since the proof began.
    async fn knows_all(&self, start: Instant) -> bool {
        let looked = timeout_at(start + BOUND, self.cluster.look_around()).await.is_ok();
        let scope = self.cluster.scope();
        let was_asked = |endpoint: &String| self.servers.iter().any(|server| server.endpoint == *endpoint);
        // Only they are all that the mutant knows of.
        let all = mutants::is(Mutant::AskOneServer) || scope.endpoints.iter().all(was_asked);
        looked && scope.complete && all
    }

    fn evidence(&self, cut_sent: Timestamp, cut: Result<Timestamp, CutError>, complete: bool) -> Evidence {
        let witnessed = |server: &Arc<Server>| {
            let known = lock(&server.known);
            Witnessed { endpoint: server.endpoint.clone(), seen: known.seen.clone(), gap: known.gap.clone() }
        };
        Evidence {
            anchored: self.lease.activation().map(|(_, since)| since),
            for_others: self.lease.audiences.is_some(),
            cut_sent,
            cut,
            lag_bound: if mutants::is(Mutant::IgnoreLag) { Duration::ZERO } else { self.cluster.lag_bound() },
            complete,
            servers: self.servers.iter().map(witnessed).collect(),
        }
    }

    fn asking(&self, server: &Arc<Server>) -> Asking {
        let share = self.proving.0.shares.get(&self.lease.target.cluster);
        Asking {
            cluster: self.cluster.clone(),
            server: server.clone(),
            moments: self.moments.clone(),
            permits: share.map(|share| share.asking.clone()),
        }
    }

    /// By the same clock as what is observed.
    pub(crate) fn now(&self) -> Timestamp {
        self.moments.now()
    }
}

impl Server {
    fn has_accepted(&self, before: Timestamp) -> bool {
        let known = lock(&self.known);
        known.seen.iter().any(|seen| seen.answer == Answer::Accepted && seen.answered <= before)
    }
}

/// What the task of one API server has.
struct Asking {
    cluster: Arc<dyn Cluster>,
    server: Arc<Server>,
    moments: Moments,
    permits: Option<Arc<Semaphore>>,
}

impl Asking {
    /// One after the other and not all at once: who waits for a second connection to the API server is late.
    async fn before_the_cut(&self, bound: &Bound) {
        let stocking = async {
            for _ in ASKED_AFTER {
                self.stock(bound).await;
            }
        };
        match self.cluster.canary(bound).await {
            Ok(canary) => {
                let _ = tokio::join!(self.show(canary, Whose::Sibling), stocking);
            }
            Err(cause) => self.note(Why::NoCanary, cause.to_string()),
        }
    }

    async fn stock(&self, bound: &Bound) {
        match self.cluster.canary(bound).await {
            Ok(canary) => lock(&self.server.known).stock.push(canary),
            // It is told if it is missed.
            Err(cause) => tracing::debug!(lease = %bound.lease, error = %cause, "a canary less"),
        }
    }

    async fn after_the_cut(&self, bound: &Bound, control: Result<Arc<Held>, String>, start: Instant) {
        // What was late before is told if it is missed.
        lock(&self.server.known).gap = None;
        for pause in ASKED_AFTER {
            sleep_until(start + pause).await;
            let Some(canary) = lock(&self.server.known).stock.pop() else {
                return self.note(Why::CanariesLate, String::new());
            };
            if self.show_in_turn(canary, Whose::Sibling).await == Answer::Refused {
                return self.compare(bound, control).await;
            }
        }
    }

    /// Whether it accepts a living anchor's canary; asked twice if it says nothing.
    async fn compare(&self, bound: &Bound, control: Result<Arc<Held>, String>) {
        if mutants::is(Mutant::UnpairedRefusal) {
            return self.imagine_control();
        }
        let control = match control {
            Ok(control) => control,
            Err(cause) => return self.note(Why::NoControl, cause),
        };
        let bound = control.instead_of(bound);
        for _ in 0..2 {
            match self.cluster.canary(&bound).await {
                Ok(canary) => match self.show_in_turn(canary, Whose::Control).await {
                    Answer::Accepted | Answer::Refused => return,
                    Answer::None(_) => {}
                },
                Err(cause) => return self.note(Why::NoControl, cause.to_string()),
            }
        }
    }

    /// What [`Mutant::UnpairedRefusal`] does instead of asking.
    fn imagine_control(&self) {
        let (at, jti) = (self.moments.now(), String::new());
        let seen = Observation { of: Whose::Control, jti, asked: at, answered: at, answer: Answer::Accepted };
        lock(&self.server.known).seen.push(seen);
    }

    /// With one of the permits of the cluster.
    async fn show_in_turn(&self, canary: Canary, of: Whose) -> Answer {
        let _permit = match &self.permits {
            Some(permits) => permits.acquire().await.ok(),
            None => None,
        };
        self.show(canary, of).await
    }

    async fn show(&self, canary: Canary, of: Whose) -> Answer {
        let (jti, asked) = (canary.jti().to_owned(), self.moments.now());
        let answer = self.cluster.ask(&self.server.endpoint, canary).await;
        let answered = self.moments.now();
        let seen = Observation { of, jti, asked, answered, answer: answer.clone() };
        lock(&self.server.known).seen.push(seen);
        answer
    }

    fn note(&self, why: Why, detail: String) {
        lock(&self.server.known).gap.get_or_insert_with(|| why.because(detail));
    }
}
