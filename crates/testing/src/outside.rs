//! The outside in memory: a clock that tests set, entropy that counts, a cluster that behaves or misbehaves on demand.
//!
//! The cluster is honest by default: it keeps anchors, binds tokens to them, and answers as the real one does. It
//! proves nothing about Kubernetes; what the real one does is in `integration-tests`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::audience::Audiences;
use shorepass_core::cluster::{Cluster, CutError, Endpoint, MintError};
use shorepass_core::id::CallId;
use shorepass_core::lease::{Lease, Mode, Pins};
use shorepass_core::mint::{Claims, Minted, Order};
use shorepass_core::name::Name;
use shorepass_core::needs::Right;
use shorepass_core::receipt::{Answer, Bound, Canary, Control, LAG_BOUND, Scope, Witnesses};
use shorepass_core::role::Target;
use shorepass_core::time::{Clock, Entropy, Timestamp, after};
use shorepass_core::token::Token;

/// A clock that stands until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    start: Timestamp,
    passed: Mutex<Duration>,
    set_back: Mutex<Duration>,
}

impl ManualClock {
    /// Stands at some moment in 2026.
    pub fn new() -> Arc<Self> {
        let start = Timestamp::from_second(1_790_000_000).unwrap_or(Timestamp::UNIX_EPOCH);
        Arc::new(Self { start, passed: Mutex::new(Duration::from_secs(1_000)), set_back: Mutex::default() })
    }

    /// Somebody sets the wall clock back; the time since boot goes on.
    pub fn set_back(&self, by: Duration) {
        *self.set_back.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let now = after(self.start, self.since_boot());
        now - *self.set_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since_boot(&self) -> Duration {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that differ each time.
#[derive(Debug, Default)]
pub struct CountingEntropy(AtomicU64);

impl Entropy for CountingEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let count = self.0.fetch_add(1, Ordering::Relaxed);
        for (index, byte) in buffer.iter_mut().enumerate() {
            *byte = (count >> (8 * (index % 8))) as u8 ^ (index as u8).wrapping_mul(31);
        }
    }
}

/// Called in the middle of a mint, after the anchor exists and before the token is made.
pub type DuringMint = Box<dyn Fn(&Order) + Send + Sync>;

/// A question to an API server, as the fake sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whether the canary's anchor exists.
    pub alive: bool,
    /// Whether it is a control.
    pub control: bool,
    /// How many questions there were before.
    pub before: usize,
}

/// Answers in the API server's place.
pub type Answering = Box<dyn Fn(Question) -> Answer + Send + Sync>;

/// A cluster in memory.
pub struct FakeCluster {
    endpoint: Endpoint,
    clock: Arc<ManualClock>,
    state: Mutex<State>,
    during_mint: Mutex<Option<DuringMint>>,
    answering: Mutex<Option<Answering>>,
}

#[derive(Default)]
struct State {
    controls: Vec<String>,
    canaries: BTreeMap<String, String>,
    canary_pause: Duration,
    asked: usize,
    complete: bool,
    another_comes: bool,
    another_is_known: bool,
    anchors: BTreeMap<String, String>,
    made: u64,
    next_mint: Option<MintError>,
    next_cut: Option<CutError>,
    /// How many cuts are confirmed and not done.
    pretended_cuts: usize,
    /// Why controls are not deleted.
    controls_stay: Option<CutError>,
    service_account_uid: Option<String>,
    audiences: Option<Vec<String>>,
    annotations: Vec<String>,
    calls: Vec<CallId>,
    forbidden: Vec<Right>,
    reviews_fail: Option<MintError>,
    reviewed: usize,
}

impl FakeCluster {
    /// An honest one.
    pub fn new(name: &Name, clock: Arc<ManualClock>) -> Arc<Self> {
        let endpoint = Endpoint {
            name: name.clone(),
            server: "https://cluster.example:6443".to_owned(),
            ca_bundle_pem: Vec::new(),
            tls_server_name: String::new(),
        };
        Arc::new(Self {
            endpoint,
            clock,
            state: Mutex::default(),
            during_mint: Mutex::default(),
            answering: Mutex::default(),
        })
    }

    /// No ServiceAccount has these rights any more, and each has all others.
    pub fn forbid(&self, rights: Vec<Right>) {
        self.state().forbidden = rights;
    }

    /// Reviews fail so, until there is no reason.
    pub fn fail_reviews(&self, cause: Option<MintError>) {
        self.state().reviews_fail = cause;
    }

    /// How many rights were asked about.
    pub fn reviewed(&self) -> usize {
        self.state().reviewed
    }

    /// The next mint fails so, after the anchor was made.
    pub fn fail_next_mint(&self, cause: MintError) {
        self.state().next_mint = Some(cause);
    }

    /// The next cut fails so.
    pub fn fail_next_cut(&self, cause: CutError) {
        self.state().next_cut = Some(cause);
    }

    /// So many cuts are confirmed and not done.
    pub fn pretend_cuts(&self, count: usize) {
        self.state().pretended_cuts = count;
    }

    /// Controls are not deleted, for this reason, until there is none.
    pub fn keep_controls(&self, cause: Option<CutError>) {
        self.state().controls_stay = cause;
    }

    /// Tokens name this ServiceAccount UID from now on.
    pub fn replace_service_account(&self, uid: &str) {
        self.state().service_account_uid = Some(uid.to_owned());
    }

    /// Tokens are for these from now on, whatever is ordered.
    pub fn give_audiences(&self, audiences: &[&str]) {
        self.state().audiences = Some(audiences.iter().copied().map(str::to_owned).collect());
    }

    /// What happens in the middle of each mint.
    pub fn during_mint(&self, act: DuringMint) {
        *self.during_mint.lock().unwrap_or_else(PoisonError::into_inner) = Some(act);
    }

    /// How long each canary takes from now on.
    pub fn slow_canaries(&self, pause: Duration) {
        self.state().canary_pause = pause;
    }

    /// How its API server answers from now on; an honest one accepts what is alive and refuses the rest.
    pub fn answer(&self, answering: Answering) {
        *self.answering.lock().unwrap_or_else(PoisonError::into_inner) = Some(answering);
    }

    /// Its one API server is known to be the only one.
    pub fn has_one_server(&self) {
        self.state().complete = true;
    }

    /// It gets another API server, which is not known of before somebody looks around.
    pub fn gets_another_server(&self) {
        self.state().another_comes = true;
    }

    /// How many canaries were ever minted.
    pub fn canaries(&self) -> usize {
        self.state().canaries.len()
    }

    /// The names of all controls that were ever made.
    pub fn controls(&self) -> Vec<String> {
        self.state().controls.clone()
    }

    /// The names of the anchors that exist.
    pub fn anchors(&self) -> Vec<String> {
        self.state().anchors.keys().cloned().collect()
    }

    /// The UID of the anchor of that name; none if it does not exist.
    pub fn anchor_uid(&self, name: &str) -> Option<String> {
        self.state().anchors.get(name).cloned()
    }

    /// The annotations of all anchors ever made.
    pub fn annotations(&self) -> Vec<String> {
        self.state().annotations.clone()
    }

    /// For which calls it was asked to mint, one after the other.
    pub fn calls(&self) -> Vec<CallId> {
        self.state().calls.clone()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn anchor_for(&self, order: &Order, annotation: &str) -> Result<String, MintError> {
        let mut state = self.state();
        let name = order.anchor().as_str().to_owned();
        if !order.lease().has_anchor() {
            return Ok(String::new());
        }
        match order.pins() {
            Some(pins) if state.anchors.get(&name) == Some(&pins.anchor_uid) => Ok(pins.anchor_uid.clone()),
            Some(_) => Err(MintError::AnchorLost),
            None => {
                state.made += 1;
                let uid = format!("anchor-{}", state.made);
                state.annotations.push(annotation.to_owned());
                state.anchors.insert(name, uid.clone());
                Ok(uid)
            }
        }
    }
}

#[async_trait]
impl Witnesses for FakeCluster {
    fn scope(&self) -> Scope {
        let state = self.state();
        let mut endpoints = vec!["cluster.example:6443".to_owned()];
        if state.another_is_known {
            endpoints.push("another.example:6443".to_owned());
        }
        Scope { endpoints, complete: state.complete }
    }

    async fn look_around(&self) {
        let mut state = self.state();
        state.another_is_known = state.another_comes;
    }

    fn lag_bound(&self) -> Duration {
        LAG_BOUND
    }

    async fn canary(&self, bound: &Bound) -> Result<Canary, MintError> {
        let pause = self.state().canary_pause;
        tokio::time::sleep(pause).await;
        let mut state = self.state();
        if bound.target.service_account.is_empty() {
            return Err(MintError::AnswerRejected("the ServiceAccount is not known".to_owned()));
        }
        if state.anchors.get(bound.anchor.as_str()) != Some(&bound.pins.anchor_uid) {
            return Err(MintError::AnchorLost);
        }
        state.made += 1;
        let jti = format!("canary-{}", state.made);
        state.canaries.insert(jti.clone(), bound.anchor.as_str().to_owned());
        Ok(Canary::new(Token::new(format!("token-of-{jti}")), jti))
    }

    async fn ask(&self, _endpoint: &str, canary: Canary) -> Answer {
        let question = {
            let mut state = self.state();
            let anchor = state.canaries.get(canary.jti()).cloned().unwrap_or_default();
            let before = state.asked;
            state.asked += 1;
            let control = state.controls.contains(&anchor);
            Question { alive: state.anchors.contains_key(&anchor), control, before }
        };
        match self.answering.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(answering) => answering(question),
            None if question.alive => Answer::Accepted,
            None => Answer::Refused,
        }
    }

    async fn create_control(&self, control: &Control) -> Result<Pins, MintError> {
        let mut state = self.state();
        let name = control.anchor.as_str().to_owned();
        state.made += 1;
        let uid = format!("anchor-{}", state.made);
        state.controls.push(name.clone());
        state.anchors.insert(name, uid.clone());
        let service_account_uid = if control.with_account { format!("account-{uid}") } else { String::new() };
        Ok(Pins { anchor_uid: uid, service_account_uid })
    }

    async fn delete_control(&self, control: &Control) -> Result<(), CutError> {
        let mut state = self.state();
        if let Some(cause) = &state.controls_stay {
            return Err(cause.clone());
        }
        state.anchors.remove(control.anchor.as_str());
        Ok(())
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn mint(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError> {
        self.state().calls.push(call.clone());
        let anchor_uid = self.anchor_for(order, annotation)?;
        tokio::task::yield_now().await;
        if let Some(act) = self.during_mint.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            act(order);
        }
        let mut state = self.state();
        if let Some(cause) = state.next_mint.take() {
            return Err(cause);
        }
        state.made += 1;
        let jti = format!("jti-{}", state.made);
        let created = self.clock.now();
        let expires = after(created, order.token_lifetime());
        let own = || vec!["https://kubernetes.default.svc".to_owned()];
        let ordered = || order.lease().audiences.as_ref().map_or_else(own, Audiences::to_vec);
        let audiences = state.audiences.clone().unwrap_or_else(ordered);
        let generated = matches!(order.mode(), Mode::Strict { .. });
        let uid = state.service_account_uid.clone().unwrap_or_else(|| "uid-1".to_owned());
        let bound = order.lease().has_anchor();
        let claims = Claims {
            jti: jti.clone(),
            namespace: order.target().namespace.to_string(),
            service_account: order.target().service_account.clone(),
            service_account_uid: uid.clone(),
            secret: if bound { order.anchor().as_str().to_owned() } else { String::new() },
            secret_uid: anchor_uid.clone(),
            audiences: audiences.clone(),
            expires,
        };
        let token = Token::new(format!("token-of-{jti}"));
        Ok(Minted {
            token,
            claims,
            anchor_uid,
            service_account_uid: (generated && order.pins().is_none()).then_some(uid),
            not_removed: None,
            audiences,
            created,
            expires,
            spent: Duration::ZERO,
        })
    }

    async fn lacking(&self, _: &Target, rights: &[Right]) -> Result<Vec<Right>, MintError> {
        let mut state = self.state();
        state.reviewed += rights.len();
        match &state.reviews_fail {
            Some(cause) => Err(cause.clone()),
            None => Ok(rights.iter().filter(|right| state.forbidden.contains(right)).cloned().collect()),
        }
    }

    async fn cut(&self, lease: &Lease) -> Result<(), CutError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        if let Some(cause) = state.next_cut.take() {
            return Err(cause);
        }
        if state.pretended_cuts > 0 {
            state.pretended_cuts -= 1;
            return Ok(());
        }
        state.anchors.remove(lease.anchor.as_str());
        Ok(())
    }
}
