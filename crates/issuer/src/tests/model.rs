//! Any sequence of calls, faults, steps of the clock and restarts, against a simple model of what is promised.
//!
//! The model knows of each lease whether its owner may think that it lives, and who is blocked until when. proptest prints
//! what failed, makes it short, and keeps it in `proptest-regressions`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::ledger::{BlockFilter, LeaseFilter};
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::{Administration as _, Credentials as _, Revocation};
use tokio::sync::mpsc;

use super::*;
use crate::revoke::sweeper::Sweeper;

/// Longer than anything that goes on in the background, on tokio's clock, which stands still otherwise.
const SETTLED: Duration = Duration::from_secs(40);

/// How long a runner may be silent, unless its role says something else.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// What can happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    StartJob(usize),
    Issue(usize),
    /// The issuer dies in the middle of a first mint, and starts again.
    IssueAndDie(usize),
    IssueAgain(usize),
    Refresh(usize),
    RefreshOfAnother(usize),
    Release(usize),
    Revoke(usize),
    Unblock(usize),
    EndJob(usize),
    Sweep,
    Pass(Duration),
    Restart,
    /// The next mint is told to come back later.
    BusyOnce,
    /// The next delete fails.
    NoCutOnce,
}

fn any_step() -> impl Strategy<Value = Step> {
    let n = || 0_usize..8;
    prop_oneof![
        1 => n().prop_map(Step::StartJob),
        4 => n().prop_map(Step::Issue),
        1 => n().prop_map(Step::IssueAndDie),
        2 => n().prop_map(Step::IssueAgain),
        3 => n().prop_map(Step::Refresh),
        1 => n().prop_map(Step::RefreshOfAnother),
        2 => n().prop_map(Step::Release),
        2 => n().prop_map(Step::Revoke),
        1 => n().prop_map(Step::Unblock),
        1 => n().prop_map(Step::EndJob),
        2 => Just(Step::Sweep),
        2 => (1_u64..7_200).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
        1 => Just(Step::Restart),
        1 => Just(Step::BusyOnce),
        1 => Just(Step::NoCutOnce),
    ]
}

/// What is known of a lease without looking at the issuer.
struct Known {
    who: usize,
    job: usize,
    request: RequestKey,
    /// None before the request was answered.
    id: Option<LeaseId>,
    live: bool,
    /// When its owner asked for it last, or the issuer started after that.
    heard: Timestamp,
}

/// The issuer and the model of it.
struct World {
    bench: Option<Bench>,
    sweeper: Sweeper,
    callers: Vec<Caller>,
    jobs: Vec<(usize, Job, bool)>,
    leases: Vec<Known>,
    blocked: BTreeMap<usize, Timestamp>,
    jtis: BTreeSet<String>,
    busy: bool,
    /// Until when the cluster is left alone, because it said that it is busy.
    left_alone: Timestamp,
    no_cut: bool,
}

impl World {
    async fn new() -> Self {
        let bench = Bench::new();
        let callers: Vec<_> = ["runner/prod-1", "runner/prod-2"].iter().map(|id| bench.caller(id)).collect();
        for caller in &callers {
            bench.enrol(caller).await;
        }
        Self {
            sweeper: Sweeper::new(bench.use_cases.ends.clone(), name("staging")),
            bench: Some(bench),
            callers,
            jobs: Vec::new(),
            leases: Vec::new(),
            blocked: BTreeMap::new(),
            jtis: BTreeSet::new(),
            busy: false,
            left_alone: Timestamp::UNIX_EPOCH,
            no_cut: false,
        }
    }

    fn bench(&self) -> &Bench {
        self.bench.as_ref().unwrap()
    }

    fn now(&self) -> Timestamp {
        self.bench().clock.now()
    }

    fn is_blocked(&self, who: usize) -> bool {
        self.blocked.get(&who).is_some_and(|until| self.now() < *until)
    }

    fn restart(&mut self) {
        let bench = self.bench.take().unwrap().restarted();
        self.sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
        self.bench = Some(bench);
        let now = self.now();
        self.left_alone = now; // what a cluster said is in memory alone
        self.leases.iter_mut().for_each(|lease| lease.heard = now);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::StartJob(n) => self.start_job(n % 2).await,
            Step::Issue(n) => self.issue(n).await,
            Step::IssueAndDie(n) => self.issue_and_die(n).await,
            Step::IssueAgain(n) => self.issue_again(n).await,
            Step::Refresh(n) => self.refresh(n).await,
            Step::RefreshOfAnother(n) => self.refresh_of_another(n).await,
            Step::Release(n) => self.release(n).await,
            Step::Revoke(n) => self.revoke(n).await,
            Step::Unblock(n) => self.unblock(n % 2).await,
            Step::EndJob(n) => self.end_job(n).await,
            Step::Sweep => self.sweeper.sweep().await.unwrap(),
            Step::Pass(time) => self.bench().clock.advance(time),
            Step::Restart => self.restart(),
            Step::BusyOnce => {
                let (cluster, retry_after) = (name("staging"), Duration::from_secs(1));
                self.bench().cluster.fail_next_mint(MintError::Busy { cluster, retry_after });
                self.busy = true;
            }
            Step::NoCutOnce => {
                self.bench().cluster.fail_next_cut(CutError::Unreachable("it is told to".to_owned()));
                self.no_cut = true;
            }
        }
        tokio::time::sleep(SETTLED).await;
        self.check();
    }

    async fn start_job(&mut self, who: usize) {
        let job = self.bench().job(&self.callers[who]).await;
        self.jobs.push((who, job, true));
    }

    async fn issue(&mut self, n: usize) {
        if self.jobs.is_empty() {
            return self.start_job(n % 2).await;
        }
        let job = n % self.jobs.len();
        let request = self.bench().request();
        self.leases.push(Known {
            who: self.jobs[job].0,
            job,
            request,
            id: None,
            live: false,
            heard: self.now(),
        });
        self.answered(self.leases.len() - 1, true).await;
    }

    async fn issue_again(&mut self, n: usize) {
        if !self.leases.is_empty() {
            self.answered(n % self.leases.len(), false).await;
        }
    }

    /// Asks, and compares the answer with what may come.
    async fn answered(&mut self, index: usize, first: bool) {
        let Known { who, job, request, id, live, .. } = self.leases[index];
        let (_, session, is_open) = &self.jobs[job];
        let answer = self.bench().issue(&self.callers[who], session, request).await;
        let blocked = self.is_blocked(who);
        match answer {
            Ok(delivery) => {
                assert!(is_open & !blocked & !self.busy, "it should have been refused");
                let lease = &delivery.issued.lease;
                assert!(id.is_none_or(|id| id == lease.id), "another lease for the same request");
                assert!(live || id.is_none(), "a lease that is over gave a token");
                assert!(self.jtis.insert(delivery.issued.record.jti.clone()), "the same token twice");
                (self.leases[index].id, self.leases[index].live) = (Some(lease.id), true);
                self.leases[index].heard = self.now();
            }
            Err(refused) => {
                let expired = id.is_some_and(|id| self.bench().lease(id).deadline <= self.now());
                match refused.reason {
                    Reason::Blocked => assert!(blocked),
                    Reason::JobEnded => assert!(!is_open),
                    Reason::ClusterBusy => self.was_busy(),
                    // What its first attempt left cannot be cleared away.
                    Reason::ClusterUnreachable => assert!(self.no_cut, "{refused}"),
                    Reason::LeaseEnded => assert!(!first && (!live || expired), "{refused}"),
                    _ => panic!("{refused}"),
                }
            }
        }
    }

    /// It says so once; then it is left alone for as long as it wanted.
    fn was_busy(&mut self) {
        if self.now() >= self.left_alone && std::mem::take(&mut self.busy) {
            self.left_alone = after(self.now(), Duration::from_secs(1));
        }
        assert!(self.now() < self.left_alone, "it is not busy");
    }

    async fn issue_and_die(&mut self, n: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let job = n % self.jobs.len();
        let (who, session, request) = (self.jobs[job].0, self.jobs[job].1.clone(), self.bench().request());
        self.bench()
            .cluster
            .during_mint(Box::new(|_| std::panic::resume_unwind(Box::new("the issuer dies"))));
        let (credentials, caller, call) =
            (self.bench().use_cases.clone(), self.callers[who].clone(), self.bench().call());
        let ask = Ask { role: name("deploy"), lease_lifetime: None, token_lifetime: None };
        let dying = tokio::spawn(async move {
            credentials.issue(&caller, &call, request, session.id, ask).await.map(drop)
        });
        let died = dying.await.is_err();
        self.bench().cluster.during_mint(Box::new(|_| {}));
        if died {
            self.leases.push(Known { who, job, request, id: None, live: false, heard: self.now() });
            self.restart();
        }
    }

    fn one_with_an_id(&self, n: usize) -> Option<usize> {
        let known: Vec<_> = (0..self.leases.len()).filter(|at| self.leases[*at].id.is_some()).collect();
        (!known.is_empty()).then(|| known[n % known.len()])
    }

    async fn refresh(&mut self, n: usize) {
        let Some(index) = self.one_with_an_id(n) else { return };
        let Known { who, job, id, live, .. } = self.leases[index];
        let expired = self.bench().lease(id.unwrap()).deadline <= self.now();
        match self.bench().refresh(&self.callers[who], id.unwrap()).await {
            Ok(delivery) => {
                assert!(live & !expired & self.jobs[job].2 & !self.busy);
                assert_eq!(delivery.issued.lease.id, id.unwrap());
                assert!(self.jtis.insert(delivery.issued.record.jti.clone()), "the same token twice");
                self.leases[index].heard = self.now();
            }
            Err(refused) => match refused.reason {
                Reason::ClusterBusy => self.was_busy(),
                Reason::LeaseEnded | Reason::JobEnded => assert!(!live || expired, "{refused}"),
                _ => panic!("{refused}"),
            },
        }
    }

    async fn refresh_of_another(&mut self, n: usize) {
        let Some(index) = self.one_with_an_id(n) else { return };
        let Known { who, id, .. } = self.leases[index];
        let refused = self.bench().refresh(&self.callers[1 - who], id.unwrap()).await;
        assert_eq!(reason(refused), Reason::LeaseNotAvailable);
    }

    async fn release(&mut self, n: usize) {
        let Some(index) = self.one_with_an_id(n) else { return };
        let Known { who, id, .. } = self.leases[index];
        self.bench().use_cases.release(&self.callers[who], id.unwrap()).await.unwrap();
        self.leases[index].live = false;
    }

    async fn revoke(&mut self, n: usize) {
        let Some(index) = self.one_with_an_id(n) else { return };
        let (who, id) = (self.leases[index].who, self.leases[index].id.unwrap());
        let lease = self.bench().lease(id);
        let (sender, mut steps) = mpsc::channel(64);
        let filter = LeaseFilter { lease: Some(id), ..LeaseFilter::default() };
        let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
        self.bench().use_cases.revoke(&self.bench().operator(), revocation, sender).await.unwrap();
        while steps.recv().await.is_some() {}
        // Also where its end is recorded already and its anchor is not gone.
        if lease.state_name() != "ended" {
            let until = self.blocked.entry(who).or_insert(lease.deadline);
            *until = lease.deadline.max(*until);
        }
        self.leases[index].live = false;
    }

    async fn unblock(&mut self, who: usize) {
        let filter =
            BlockFilter { caller: Some(self.callers[who].spiffe_id().clone()), ..BlockFilter::default() };
        for block in self.bench().ledger.find_blocks(&filter, None, 100).unwrap() {
            let lifted = self.bench().use_cases.unblock(&self.bench().operator(), block.id).await;
            assert!(lifted.is_ok(), "{lifted:?}");
        }
        self.blocked.remove(&who);
    }

    async fn end_job(&mut self, n: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let at = n % self.jobs.len();
        let (who, session, _) = &self.jobs[at];
        self.bench().use_cases.end_job(&self.callers[*who], session.id).await.unwrap();
        self.jobs[at].2 = false;
        self.leases.iter_mut().filter(|lease| lease.job == at).for_each(|lease| lease.live = false);
    }

    /// A lease may have ended by itself: at its deadline, or because its owner was silent.
    fn forget_what_ended_by_itself(&mut self) {
        let (bench, now) = (self.bench.as_ref().unwrap(), self.now());
        for known in &mut self.leases {
            let Some(lease) = known.id.map(|id| bench.lease(id)) else { continue };
            let silent = after(known.heard, SILENCE) <= now;
            known.live &= lease.is_live() || !(silent || lease.deadline <= now);
        }
    }

    /// What always holds.
    fn check(&mut self) {
        self.forget_what_ended_by_itself();
        let (bench, now) = (self.bench(), self.now());
        let anchors: BTreeSet<String> = bench.cluster.anchors().into_iter().collect();
        let all = LeaseFilter { include_ended: true, ..LeaseFilter::default() };
        let records = bench.ledger.leases(&all, None, 1_000).unwrap();
        let unfinished: BTreeSet<&str> = records
            .iter()
            .filter(|lease| lease.state_name() != "ended")
            .map(|lease| lease.anchor.as_str())
            .collect();
        for anchor in &anchors {
            assert!(unfinished.contains(anchor.as_str()), "anchor {anchor} is nobody's");
        }
        for known in self.leases.iter().filter(|known| known.id.is_some()) {
            let lease = bench.lease(known.id.unwrap());
            let active = lease.state_name() == "active";
            assert!(known.live || !lease.is_live(), "lease {} goes on", lease.id);
            assert!(!known.live || active || lease.deadline <= now, "lease {} was lost", lease.id);
            assert!(!active || anchors.contains(lease.anchor.as_str()), "lease {} has no anchor", lease.id);
        }
        let mut audited = BTreeMap::<String, u32>::new();
        for line in bench.ledger.audit_lines().iter().filter(|line| line.contains("\"token.minted\"")) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            *audited.entry(line["jti"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert!(self.jtis.iter().all(|jti| audited.get(jti) == Some(&1)), "a token and its audit line");
        assert!(audited.values().all(|times| *times == 1), "a token twice");
    }

    /// Without faults, after the longest wait there is, nothing is left of what is over.
    async fn settle(&mut self) {
        self.bench().clock.advance(Duration::from_secs(7 * 3_600));
        for _ in 0..3 {
            self.sweeper.sweep().await.unwrap();
            tokio::time::sleep(SETTLED).await;
            self.bench().clock.advance(Duration::from_secs(120));
        }
        assert_eq!(self.bench().cluster.anchors(), [""; 0]);
        let unfinished = self.bench().ledger.leases(&LeaseFilter::default(), None, 1_000).unwrap();
        assert!(unfinished.is_empty(), "{unfinished:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_course_of_events_keeps_what_is_promised(steps in proptest::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.settle().await;
        });
    }
}
