//! An issuer without rules: it answers samples, refuses, hangs or panics.

mod enrolments;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shorepass_core::audience::Audiences;
use shorepass_core::ban::{Ban, BanKey};
use shorepass_core::block::Block;
use shorepass_core::caller::{Caller, Kind, Owner, SpiffeId, VerifiedPeer};
use shorepass_core::cluster::Endpoint;
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::id::{BlockId, CallId, DecisionId, EnrolmentId, JobId, LeaseId};
use shorepass_core::job::{AssertedJob, Evidence, Job};
use shorepass_core::lease::{AnchorName, EndCause, Lease, Mode, Pins, State};
use shorepass_core::ledger::{LeaseFilter, MintedToken, Revision};
use shorepass_core::mint::Issued;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::Ask;
use shorepass_core::receipt::{Death, Receipt, Verdict};
use shorepass_core::role::{Lifetime, Role, Subject, Target};
use shorepass_core::time::Timestamp;
use shorepass_core::token::Token;
use shorepass_core::window::Told;
use shorepass_rpc::api::*;
use shorepass_rpc::follow::{Beat, Following, Notice, Notices, Pulse};
use shorepass_rpc::refused::{Reason, Refused};
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

use crate::bench::{runners, standing_ban};
pub(crate) use crate::records::view;

pub(crate) const ID: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
pub(crate) const START: i64 = 1_790_000_000;
pub(crate) const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJ0b2tlbiJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
pub(crate) const POD_TOKEN: &str = "aGVhZA.cG9kLXNlY3JldC1wb2Qtc2VjcmV0.c2lnbmF0dXJl";
pub(crate) const JOIN_TOKEN: &str = "spjt1.am9pbi1zZWNyZXQtam9pbi1zZWNyZXQtam9pbg.ZmluZ2VycHJpbnQ.Y2hlY2s";

#[derive(Clone)]
pub(crate) enum Mood {
    Answer,
    Refuse(Refused),
    Hang,
    Panic,
}

pub(crate) struct Fake {
    pub(crate) mood: Mutex<Mood>,
    pub(crate) standing: Mutex<Result<(), Refused>>,
    pub(crate) requests: Mutex<Vec<RequestKey>>,
    pub(crate) revocations: Mutex<Vec<Revocation>>,
    pub(crate) filters: Mutex<Vec<(LeaseFilter, Option<LeaseId>, usize)>>,
    pub(crate) blocks_asked: Mutex<Vec<BlocksAsked>>,
    pub(crate) banned: Mutex<Vec<(BanKey, String)>>,
    pub(crate) asks: Mutex<Vec<Ask>>,
    pub(crate) calls: Mutex<Vec<CallId>>,
    pub(crate) refusals: Mutex<Vec<(Option<Kind>, &'static str, Reason)>>,
    pub(crate) begun: AtomicUsize,
    pub(crate) finished: AtomicUsize,
    pub(crate) go_on: Notify,
    pub(crate) beats: Mutex<Vec<Beat>>,
    pub(crate) pulse: Mutex<Pulse>,
    pub(crate) news: Arc<News>,
}

/// What is told on every stream of Watch.
#[derive(Default)]
pub(crate) struct News {
    queue: Mutex<VecDeque<Notice>>,
    wake: Notify,
}

impl News {
    pub(crate) fn tell(&self, notice: Notice) {
        self.queue.lock().unwrap().push_back(notice);
        self.wake.notify_one();
    }
}

struct Listening(Arc<News>);

#[async_trait::async_trait]
impl Notices for Listening {
    async fn next(&mut self) -> Notice {
        loop {
            if let Some(notice) = self.0.queue.lock().unwrap().pop_front() {
                return notice;
            }
            self.0.wake.notified().await;
        }
    }
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            mood: Mutex::new(Mood::Answer),
            standing: Mutex::new(Ok(())),
            requests: Mutex::default(),
            revocations: Mutex::default(),
            filters: Mutex::default(),
            blocks_asked: Mutex::default(),
            banned: Mutex::default(),
            asks: Mutex::default(),
            calls: Mutex::default(),
            refusals: Mutex::default(),
            begun: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            go_on: Notify::new(),
            beats: Mutex::default(),
            pulse: Mutex::default(),
            news: Arc::default(),
        }
    }
}

impl Fake {
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(crate) fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn act(&self) -> Result<(), Refused> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let mood = self.mood.lock().unwrap().clone();
        let result = match mood {
            Mood::Answer => Ok(()),
            Mood::Refuse(refused) => Err(refused),
            Mood::Hang => {
                self.go_on.notified().await;
                Ok(())
            }
            Mood::Panic => panic!("a secret in a panic: {TOKEN}"),
        };
        self.finished.fetch_add(1, Ordering::SeqCst);
        result
    }
}

pub(crate) fn second(offset: i64) -> Timestamp {
    Timestamp::from_second(START + offset).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn caller(kind: Kind) -> Caller {
    Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: SpiffeId::parse(&format!("spiffe://ci.example.org/{kind}/one")).unwrap(),
        enrolment: EnrolmentId::parse(ID).unwrap(),
        issued: second(0),
        expires: second(3_600),
        authority: Digest::of_bytes(b"authority"),
        certificate: Digest::of_bytes(b"certificate"),
        key: Digest::of_bytes(b"key"),
    })
}

fn owner() -> Owner {
    caller(Kind::Runner).owner()
}

pub(crate) fn job() -> Job {
    let asserted =
        AssertedJob::new("jenkins".to_owned(), "build-7".to_owned(), "https://ci.example.org/7".to_owned());
    Job {
        id: JobId::parse(ID).unwrap(),
        owner: owner(),
        evidence: Evidence::Asserted(asserted.unwrap()),
        started: second(-5),
        latest_end: Some(second(7_200)),
        ended: None,
        revision: Revision::FIRST,
    }
}

pub(crate) fn lease() -> Lease {
    let pins = Pins { anchor_uid: "anchor".to_owned(), service_account_uid: "account".to_owned() };
    Lease {
        id: LeaseId::parse(ID).unwrap(),
        job: Some(JobId::parse(ID).unwrap()),
        owner: owner().into(),
        role: Some(name("web-deployer")),
        role_digest: Digest::of_bytes(b"role"),
        target: target(),
        audiences: Some(audiences()),
        anchor: AnchorName::from_random([7; 16]),
        mode: Mode::Bound,
        created: second(-1),
        deadline: second(600),
        state: State::Active { pins, since: second(0) },
        receipt: None,
        policy: None,
        not_removed: None,
        revision: Revision::FIRST,
    }
}

/// The same, ended and proved to be dead.
fn proved() -> Lease {
    let cause = EndCause::Revoked { by: block().by, reason: block().reason };
    let ended = lease().begin_end(cause, second(2)).unwrap().finish_end(second(3)).unwrap();
    let death = Death { refused: second(4), observed_at: second(5), dead_by: second(15) };
    let receipt = Receipt {
        verdict: Verdict::Proved(death),
        endpoints: vec!["10.0.0.1:6443".to_owned()],
        canaries: vec!["canary".to_owned()],
        made: second(6),
    };
    ended.receive(receipt).unwrap()
}

fn target() -> Target {
    Target { cluster: name("staging"), namespace: name("web"), service_account: "deployer".to_owned() }
}

fn endpoint() -> Endpoint {
    Endpoint {
        name: name("staging"),
        server: "https://10.0.0.1:6443".to_owned(),
        ca_bundle_pem: b"CA".to_vec(),
        tls_server_name: "kubernetes".to_owned(),
    }
}

pub(crate) fn minted() -> MintedToken {
    MintedToken {
        jti: "token-1".to_owned(),
        lease: LeaseId::parse(ID).unwrap(),
        fingerprint: Digest::of_bytes(TOKEN.as_bytes()),
        issued: second(0),
        expires: second(600),
        recorded: second(1),
    }
}

pub(crate) fn block() -> Block {
    Block {
        job: None,
        id: BlockId::parse(ID).unwrap(),
        caller: owner().spiffe_id,
        role: name("web-deployer"),
        set: second(2),
        until: second(600),
        by: caller(Kind::Operator).spiffe_id().clone(),
        reason: "leaked".to_owned(),
        lease: LeaseId::parse(ID).unwrap(),
        lifted: None,
        revision: Revision::FIRST,
    }
}

fn delivery() -> Delivery {
    let told = Told {
        valid_for: Duration::from_millis(589_500),
        expires_at: second(589),
        valid_while_heard: Duration::from_secs(1_790),
        silence: Some(Duration::from_secs(900)),
    };
    let issued = Issued { lease: lease(), record: minted(), token: Token::new(TOKEN.to_owned()), told };
    Delivery { issued, endpoint: endpoint() }
}

fn audiences() -> Audiences {
    Audiences::new(vec!["vault".to_owned(), "registry".to_owned()]).unwrap()
}

fn offered() -> OfferedRole {
    let lifetime = Lifetime { default: Duration::from_secs(600), max: Duration::from_secs(600) };
    let subject = Subject {
        runners: vec![NamePattern::parse("one").unwrap()],
        platforms: Vec::new(),
        accept_asserted_jobs: true,
        ..Subject::default()
    };
    let digest = Digest::of_bytes(b"role");
    let role = Role::new(name("web-deployer"), target(), lifetime, lifetime, vec![subject], digest);
    let role = role.and_then(|role| role.with_audiences(audiences()));
    OfferedRole { role: role.unwrap(), endpoint: endpoint() }
}

fn certificate() -> Certificate {
    Certificate { chain_pem: b"chain".to_vec(), bundle_pem: b"bundle".to_vec(), expires: second(86_400) }
}

#[async_trait::async_trait]
impl Credentials for Fake {
    async fn start_job(
        &self,
        _: &Caller,
        request: RequestKey,
        presented: Presented,
        expected: Option<Duration>,
    ) -> Result<Job, Refused> {
        self.act().await?;
        self.requests.lock().unwrap().push(request);
        let latest_end = expected.map(|expected| second(-5).checked_add(expected).unwrap());
        Ok(Job { evidence: crate::jobs::evidence(presented), latest_end, ..job() })
    }

    async fn end_job(&self, _: &Caller, _: JobId) -> Result<Vec<Lease>, Refused> {
        self.act().await?;
        Ok(vec![lease()])
    }

    async fn issue(
        &self,
        _: &Caller,
        call: &CallId,
        request: RequestKey,
        _: JobId,
        ask: Ask,
    ) -> Result<Delivery, Refused> {
        self.act().await?;
        self.calls.lock().unwrap().push(call.clone());
        self.requests.lock().unwrap().push(request);
        self.asks.lock().unwrap().push(ask);
        Ok(delivery())
    }

    async fn refresh(
        &self,
        _: &Caller,
        call: &CallId,
        _: LeaseId,
        _: Option<Duration>,
    ) -> Result<Delivery, Refused> {
        self.act().await?;
        self.calls.lock().unwrap().push(call.clone());
        Ok(delivery())
    }

    async fn release(&self, _: &Caller, _: LeaseId) -> Result<Lease, Refused> {
        self.act().await?;
        Ok(lease())
    }

    async fn list_roles(
        &self,
        _: &Caller,
        after: Option<Name>,
        _: usize,
    ) -> Result<Page<OfferedRole, Name>, Refused> {
        self.act().await?;
        let next = after.is_none().then(|| name("web-deployer"));
        Ok(Page { items: vec![offered()], next })
    }
}

#[async_trait::async_trait]
impl Following for Fake {
    async fn heartbeat(&self, _: &Caller, beat: Beat) -> Result<Pulse, Refused> {
        self.act().await?;
        self.beats.lock().unwrap().push(beat);
        Ok(self.pulse.lock().unwrap().clone())
    }

    async fn watch(&self, _: &Caller, beat: Beat) -> Result<Box<dyn Notices>, Refused> {
        self.act().await?;
        self.beats.lock().unwrap().push(beat);
        Ok(Box::new(Listening(self.news.clone())))
    }
}

#[async_trait::async_trait]
impl Administration for Fake {
    async fn list_leases(
        &self,
        _: &Caller,
        filter: LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Page<LeaseView, LeaseId>, Refused> {
        self.act().await?;
        let next = before.is_none().then(|| lease().id);
        self.filters.lock().unwrap().push((filter, before, limit));
        Ok(Page { items: vec![view()], next })
    }

    async fn get_lease(&self, _: &Caller, _: LeaseId) -> Result<LeaseView, Refused> {
        self.act().await?;
        Ok(view())
    }

    /// One step before acting and one after.
    async fn revoke(
        &self,
        _: &Caller,
        revocation: Revocation,
        steps: mpsc::Sender<Result<RevokeStep, Refused>>,
    ) -> Result<(), Refused> {
        self.revocations.lock().unwrap().push(revocation.clone());
        if let Mood::Refuse(refused) = &*self.mood.lock().unwrap() {
            return Err(refused.clone());
        }
        let ending = Outcome::Ending("the API server cannot be reached".to_owned());
        let step =
            |view, outcome, block_set, receipt| RevokeStep { view, outcome, total: 2, block_set, receipt };
        let _ = steps.send(Ok(step(view(), ending, true, Awaited::No))).await;
        self.act().await?;
        let view = LeaseView { lease: proved(), ..view() };
        let _ = steps.send(Ok(step(view, Outcome::Revoked, false, Awaited::Arrived))).await;
        Ok(())
    }

    async fn unblock(&self, _: &Caller, _: BlockId) -> Result<Block, Refused> {
        self.act().await?;
        Ok(block())
    }

    async fn list_blocks(&self, _: &Caller, asked: BlocksAsked) -> Result<Page<Block, BlockId>, Refused> {
        self.act().await?;
        let next = asked.before.is_none().then(|| block().id);
        self.blocks_asked.lock().unwrap().push(asked);
        Ok(Page { items: vec![block()], next })
    }

    async fn ban(&self, _: &Caller, whom: BanKey, reason: String) -> Result<Shutout, Refused> {
        self.act().await?;
        self.banned.lock().unwrap().push((whom, reason));
        Ok(Shutout {
            ban: standing_ban(),
            leases: 3,
            unbound: 1,
            outliving: 4,
            tokens_until: Some(second(7)),
            connections: 2,
        })
    }

    async fn unban(&self, _: &Caller, _: BanKey) -> Result<Ban, Refused> {
        self.act().await?;
        Ok(standing_ban().lift(second(9), caller(Kind::Operator).spiffe_id().clone()))
    }

    async fn list_bans(
        &self,
        _: &Caller,
        include_lifted: bool,
        after: Option<BanKey>,
        _: usize,
    ) -> Result<Page<Ban, BanKey>, Refused> {
        self.act().await?;
        let next = after.is_none().then(|| standing_ban().banned.key());
        Ok(Page { items: if include_lifted { vec![standing_ban()] } else { vec![] }, next })
    }

    async fn list_runners(
        &self,
        _: &Caller,
        all: bool,
        before: Option<EnrolmentId>,
        _: usize,
    ) -> Result<Page<Enrolment, EnrolmentId>, Refused> {
        self.act().await?;
        let runners = if all { runners() } else { vec![] };
        Ok(Page { next: before.xor(runners.last().map(|runner| runner.id)), items: runners })
    }

    async fn find_token(&self, _: &Caller, _: &str) -> Result<(MintedToken, LeaseView), Refused> {
        self.act().await?;
        Ok((minted(), view()))
    }

    async fn create_join_token(
        &self,
        _: &Caller,
        request: RequestKey,
        asked: JoinTokenAsked,
    ) -> Result<NewJoinToken, Refused> {
        self.act().await?;
        self.requests.lock().unwrap().push(request);
        let JoinTokenAsked { lifetime, labels, .. } = asked;
        let expires = second(0).checked_add(lifetime).unwrap();
        Ok(NewJoinToken { text: Zeroizing::new(JOIN_TOKEN.to_owned()), expires, labels })
    }
}
