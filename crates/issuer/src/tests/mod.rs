//! The use cases over a ledger and a cluster in memory. What the real ones do is in `integration-tests`.

mod adoption;
mod audiences;
mod bans;
mod enrolment;
mod follow;
mod identities;
mod issuing;
mod jobs;
mod lineage;
mod machines;
mod model;
mod modes;
mod pods;
mod quotas;
mod receipts;
mod rejoin;
mod requests;
mod reviews;
mod revocation;
mod revocation_cut_short;
mod roles;
mod trust_bundles;
mod unclaimed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shorepass_core::anchors::{FoundAnchor, Sealed};
use shorepass_core::caller::{Caller, Owner, SpiffeId, VerifiedPeer};
use shorepass_core::cluster::Cluster;
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{Enrolment, Life};
use shorepass_core::id::{CallId, EnrolmentId, LeaseId, RequestId};
use shorepass_core::job::{AssertedJob, Job};
use shorepass_core::labels::Labels;
use shorepass_core::lease::{AnchorName, Lease};
use shorepass_core::ledger::{Change, Ledger};
use shorepass_core::name::{Name, NamePattern, TrustDomain};
use shorepass_core::policy::{Ask, Policy};
use shorepass_core::role::{Lifetime, Role, Subject, Target};
use shorepass_core::time::{Clock as _, Timestamp, after};
use shorepass_rpc::api::{
    Certificate, Credentials as _, Delivery, Enrolling, Enrolments as _, JoinTokenAsked, Presented,
    RequestKey, Ticket,
};
use shorepass_rpc::connections::Connections;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_store::MemoryLedger;
use shorepass_testing::job_tokens::KnownTokens;
use shorepass_testing::machines::KnownMachines;
use shorepass_testing::outside::{CountingEntropy, FakeCluster, ManualClock};
use shorepass_testing::pods::KnownPods;
use shorepass_tls::{Authority, KeyAndRequest, Trust};
use tokio::sync::RwLock;

use crate::ban::list::BanList;
use crate::enrol::{Lifetimes, Ways};
use crate::follow::Follow;
use crate::follow::announce::Announcing;
use crate::issue::attempts::Attempts;
use crate::issue::quotas::Quotas;
use crate::issue::turns::Turns;
use crate::outside::{Identities, Outside, Seal};
use crate::reviews::Reviews;
use crate::roles::in_force::InForce;
use crate::services::UseCases;

const DOMAIN: &str = "ci.example.org";
/// Mints at once; one caller may have three quarters of them.
const AT_ONCE: usize = 4;

/// An issuer whose outside is in memory.
struct Bench {
    use_cases: UseCases,
    clock: Arc<ManualClock>,
    entropy: Arc<CountingEntropy>,
    cluster: Arc<FakeCluster>,
    ledger: Arc<MemoryLedger>,
    authority: Arc<Authority>,
    state: tempfile::TempDir,
    tokens: Arc<KnownTokens>,
    pods: Arc<KnownPods>,
    machines: Arc<KnownMachines>,
}

struct PlainSeal;

impl Seal for PlainSeal {
    fn seal(&self, lease: &Lease) -> String {
        format!("seal-of-{}", lease.id)
    }

    fn open(&self, annotation: &str, _: &Name, _: &FoundAnchor) -> Option<Sealed> {
        let (over, id) = match annotation.strip_prefix("old-") {
            Some(rest) => (true, rest),
            None => (false, annotation),
        };
        let mut parts = id.strip_prefix("seal-of-")?.split('/');
        let lease = LeaseId::parse(parts.next()?).ok()?;
        let deadline = if over { Timestamp::UNIX_EPOCH } else { Timestamp::MAX };
        let mut digest = || parts.next().map_or(Some(Digest::of_bytes(b"nobody's")), Digest::parse);
        let (owner, role) = (digest()?, digest()?);
        let bindings = parts.map(name).collect();
        Some(Sealed { lease, owner, role, deadline, bindings })
    }
}

/// One identity was made: that of platform `portal`.
struct Made;

const PORTAL: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

impl Identities for Made {
    fn caller_of(&self, enrolment: EnrolmentId) -> anyhow::Result<Option<SpiffeId>> {
        let portal = SpiffeId::parse(&format!("spiffe://{DOMAIN}/platform/portal")).unwrap();
        Ok((enrolment == EnrolmentId::parse(PORTAL).unwrap()).then_some(portal))
    }

    fn owners(&self) -> anyhow::Result<Vec<Owner>> {
        let spiffe_id = SpiffeId::parse(&format!("spiffe://{DOMAIN}/platform/portal")).unwrap();
        Ok(vec![Owner { spiffe_id, enrolment: EnrolmentId::parse(PORTAL).unwrap() }])
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn role() -> Role {
    let subject = Subject {
        runners: vec![NamePattern::parse("prod-*").unwrap()],
        platforms: vec![],
        accept_asserted_jobs: true,
        ..Subject::default()
    };
    let target =
        Target { cluster: name("staging"), namespace: name("web"), service_account: "deployer".to_owned() };
    let token = Lifetime { default: Duration::from_secs(1800), max: Duration::from_secs(3600) };
    let lease = Lifetime { default: Duration::from_secs(3600), max: Duration::from_secs(6 * 3600) };
    Role::new(name("deploy"), target, token, lease, vec![subject], Digest::of_bytes(b"role")).unwrap()
}

impl Bench {
    fn new() -> Self {
        let clock = ManualClock::new();
        let ledger = Arc::new(MemoryLedger::new(clock.clone()));
        Self::over(clock, ledger.clone(), ledger)
    }

    /// `ledger` is what the use cases write to, `memory` what the test reads.
    fn over(clock: Arc<ManualClock>, ledger: Arc<dyn Ledger>, memory: Arc<MemoryLedger>) -> Self {
        let entropy = Arc::new(CountingEntropy::default());
        let cluster = FakeCluster::new(&name("staging"), clock.clone());
        Self::started(clock, entropy, cluster, ledger, memory, tempfile::tempdir().unwrap())
    }

    /// An issuer that does not know yet who is banned.
    fn unread() -> Self {
        let clock = ManualClock::new();
        let cluster = FakeCluster::new(&name("staging"), clock.clone());
        let ledger = Arc::new(MemoryLedger::new(clock.clone()));
        let state = tempfile::tempdir().unwrap();
        Self::starting(clock, Arc::default(), cluster, ledger.clone(), ledger, state)
    }

    /// The same outside, and an issuer that has just started.
    fn restarted(self) -> Self {
        let Self { clock, entropy, cluster, ledger, state, .. } = self;
        Self::started(clock, entropy, cluster, ledger.clone(), ledger, state)
    }

    /// The same outside, and an issuer that has just started without a record of anything.
    fn emptied(self) -> Self {
        let Self { clock, entropy, cluster, state, .. } = self;
        let ledger = Arc::new(MemoryLedger::new(clock.clone()));
        Self::started(clock, entropy, cluster, ledger.clone(), ledger, state)
    }

    fn started(
        clock: Arc<ManualClock>,
        entropy: Arc<CountingEntropy>,
        cluster: Arc<FakeCluster>,
        ledger: Arc<dyn Ledger>,
        memory: Arc<MemoryLedger>,
        state: tempfile::TempDir,
    ) -> Self {
        let bench = Self::starting(clock, entropy, cluster, ledger, memory, state);
        bench.use_cases.outside.bans.read(bench.ledger.as_ref()).unwrap();
        bench
    }

    fn starting(
        clock: Arc<ManualClock>,
        entropy: Arc<CountingEntropy>,
        cluster: Arc<FakeCluster>,
        ledger: Arc<dyn Ledger>,
        memory: Arc<MemoryLedger>,
        state: tempfile::TempDir,
    ) -> Self {
        let telling: Arc<dyn shorepass_core::time::Clock> = clock.clone();
        let domain = TrustDomain::parse(DOMAIN).unwrap();
        let authority =
            Authority::open_or_create(state.path(), &domain, clock.now(), entropy.clone()).unwrap();
        let authority = Arc::new(authority);
        let policy = Policy::new([modes::roles(), jobs::roles(), quotas::roles()].concat()).unwrap();
        let (tokens, pods, machines) = (KnownTokens::new(), KnownPods::new(), KnownMachines::new());
        let follow = Arc::new(Follow::new(&policy, clock.clone(), entropy.as_ref()));
        let outside = Arc::new(Outside {
            ledger: Arc::new(Announcing::new(ledger, follow.clone())),
            clusters: BTreeMap::from([(name("staging"), cluster.clone() as Arc<dyn Cluster>)]),
            policy: InForce::new(policy),
            job_issuers: BTreeMap::from([
                (name("gitlab"), jobs::gitlab()),
                (name("by-audience"), jobs::by_audience()),
            ]),
            job_tokens: tokens.clone(),
            seal: Box::new(PlainSeal),
            clock: clock.clone(),
            entropy: entropy.clone(),
            gate: RwLock::new(()),
            turns: Turns::new([name("staging")], AT_ONCE, &telling),
            quotas: Quotas::new(clock.clone()),
            attempts: Attempts::default(),
            bans: BanList::default(),
            follow,
            reviews: Reviews::new(clock.clone()),
            connections: Connections::default(),
            trust: Trust::new(domain.clone(), &authority.bundle_pem(), trust_bundles::bundles()).unwrap(),
            identities: Box::new(Made),
            background: tokio_util::task::TaskTracker::new(),
        });
        let day = Duration::from_secs(24 * 3600);
        let lifetimes = Lifetimes { certificate: day, rejoin: day * 7 };
        // So rare that no test meets one by chance: only what is revoked gets a receipt.
        let ways = Ways { pods: pods::rules(&pods), tokens: machines::rules(&machines) };
        let use_cases = UseCases::new(outside, authority.clone(), domain, lifetimes, ways, u32::MAX);
        Self { use_cases, clock, entropy, cluster, ledger: memory, authority, state, tokens, pods, machines }
    }

    fn caller(&self, id: &str) -> Caller {
        Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/{id}")).unwrap(),
            enrolment: EnrolmentId::generate(self.clock.now(), self.entropy.as_ref()),
            issued: self.clock.now(),
            expires: after(self.clock.now(), Duration::from_secs(24 * 3600)),
            authority: self.authority.key_digest(),
            certificate: Digest::of_bytes(id.as_bytes()),
            key: Digest::of_bytes(b"key"),
        })
    }

    /// Whoever has the enrolment's newest certificate.
    fn caller_of(&self, enrolment: &Enrolment) -> Caller {
        Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: enrolment.spiffe_id.clone(),
            enrolment: enrolment.id,
            issued: self.clock.now(),
            expires: enrolment.certificate_expires,
            authority: self.authority.key_digest(),
            certificate: Digest::of_bytes(b"newest"),
            key: enrolment.next.unwrap_or(enrolment.key),
        })
    }

    fn operator(&self) -> Caller {
        self.caller("operator/alice")
    }

    fn request(&self) -> RequestKey {
        let id = RequestId::generate(self.clock.now(), self.entropy.as_ref());
        RequestKey { id, content: Digest::of_bytes(b"content") }
    }

    async fn job(&self, caller: &Caller) -> Job {
        self.use_cases.start_job(caller, self.request(), asserted(), None).await.unwrap()
    }

    fn call(&self) -> CallId {
        CallId::generate(self.clock.now(), self.entropy.as_ref())
    }

    async fn issue(&self, caller: &Caller, job: &Job, request: RequestKey) -> Result<Delivery, Refused> {
        self.issue_for(&self.call(), caller, job, request).await
    }

    async fn issue_for(
        &self,
        call: &CallId,
        caller: &Caller,
        job: &Job,
        request: RequestKey,
    ) -> Result<Delivery, Refused> {
        let ask = Ask { role: name("deploy"), lease_lifetime: None, token_lifetime: None };
        self.use_cases.issue(caller, call, request, job.id, ask).await
    }

    async fn issue_of(
        &self,
        role: &str,
        caller: &Caller,
        job: &Job,
        request: RequestKey,
    ) -> Result<Delivery, Refused> {
        let ask = Ask { role: name(role), lease_lifetime: None, token_lifetime: None };
        self.use_cases.issue(caller, &self.call(), request, job.id, ask).await
    }

    async fn refresh(&self, caller: &Caller, lease: LeaseId) -> Result<Delivery, Refused> {
        self.use_cases.refresh(caller, &self.call(), lease, None).await
    }

    /// A runner with a job and a lease.
    async fn leased(&self) -> (Caller, Job, Delivery) {
        let caller = self.caller("runner/prod-1");
        let job = self.job(&caller).await;
        let delivery = self.issue(&caller, &job, self.request()).await.unwrap();
        (caller, job, delivery)
    }

    fn lease(&self, id: LeaseId) -> Lease {
        self.ledger.lease(id).unwrap().unwrap()
    }

    /// Waits until work in the background has settled into a state.
    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        for _ in 0..1_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain for {what}");
    }

    fn events(&self) -> Vec<String> {
        let event = |line: &String| {
            let rest = line.split("\"event\":\"").nth(1).unwrap();
            rest.split('"').next().unwrap().to_owned()
        };
        self.ledger.audit_lines().iter().map(event).collect()
    }

    /// Shows what lets a machine in.
    async fn enroll_with(
        &self,
        ticket: Ticket,
        runner: &str,
        key: &KeyAndRequest,
    ) -> Result<Certificate, Refused> {
        let certificate_request_pem = key.request_pem.clone();
        self.use_cases.enroll(Enrolling { ticket, name: name(runner), certificate_request_pem }).await
    }

    /// The enrolment that has the name now, or had it last.
    fn latest(&self, runner: &str) -> Enrolment {
        self.ledger.latest_enrolment(&runner_id(runner)).unwrap().unwrap()
    }

    /// Puts an enrolment of the caller into the ledger.
    async fn enrol(&self, caller: &Caller) {
        self.enrol_with(caller, "env=test").await;
    }

    /// The same, with a label.
    async fn enrol_with(&self, caller: &Caller, label: &str) {
        let life = Life { from: self.clock.now(), until: caller.expires() };
        let (id, spiffe_id) = (caller.enrolment(), caller.spiffe_id().clone());
        let labels = Labels::parse([label]).unwrap();
        let enrolment = Enrolment::first(id, spiffe_id, labels, caller.key(), life);
        self.ledger.commit(vec![Change::Enrolled { enrolment }]).await.unwrap();
    }
}

fn runner_id(runner: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{DOMAIN}/runner/{runner}")).unwrap()
}

/// A new key, and the request for a runner's certificate over it.
fn key(runner: &str) -> KeyAndRequest {
    KeyAndRequest::generate(&runner_id(runner)).unwrap()
}

/// A job for which there is the caller's word.
fn asserted() -> Presented {
    Presented::Asserted(AssertedJob::new("jenkins".to_owned(), "42".to_owned(), String::new()).unwrap())
}

fn join_token_asked(runners: &str, replace: bool) -> JoinTokenAsked {
    let runners = NamePattern::parse(runners).unwrap();
    JoinTokenAsked { runners, labels: Labels::default(), lifetime: Duration::from_secs(600), replace }
}

fn reason<T>(result: Result<T, Refused>) -> Reason {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(refused) => refused.reason,
    }
}
