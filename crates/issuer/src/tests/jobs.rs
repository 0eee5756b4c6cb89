//! Job sessions that a token opens: once, by the runner that it names, and what the role takes of it.

use std::time::Duration;

use shorepass_core::block::Block;
use shorepass_core::claims::Claim;
use shorepass_core::id::JobId;
use shorepass_core::job_issuer::{JobIssuer, RunnerBinding};
use shorepass_core::job_requirement::JobRequirement;
use shorepass_core::job_token::{JobToken, JobTokenError};
use shorepass_core::ledger::{LeaseFilter, Revision};
use shorepass_core::name::NamePattern;
use shorepass_core::role::{Role, Subject};
use shorepass_core::security::SecurityState;
use shorepass_core::time::{Clock as _, after};
use shorepass_rpc::api::{Administration as _, Credentials as _, Presented};
use shorepass_rpc::refused::Reason;
use shorepass_testing::job_tokens;
use tokio::task::JoinSet;

use super::issuing::FailingLedger;
use super::revocation::revoke;
use super::*;

const MAIN: [(&str, &str); 3] = [("project_id", "42"), ("ref", "main"), ("ref_type", "branch")];

pub(super) fn gitlab() -> JobIssuer {
    job_tokens::gitlab(RunnerBinding::Label { label: "gitlab-runner-id".to_owned() }).unwrap()
}

/// Another one, whose tokens name the runner in their audience.
pub(super) fn by_audience() -> JobIssuer {
    job_tokens::gitlab(RunnerBinding::Audience).unwrap()
}

/// Roles `ship` and `ship-too`, for jobs of the main branch of project 42 on `prod-*`.
pub(super) fn roles() -> Vec<Role> {
    let text = |text: &str| vec![Claim::Text(text.to_owned())];
    let claims = MAIN.map(|(claim, value)| (claim.to_owned(), text(value))).to_vec();
    let subject = Subject {
        runners: vec![NamePattern::parse("prod-*").unwrap()],
        jobs: Some(JobRequirement::new(&gitlab(), claims, None).unwrap()),
        ..Subject::default()
    };
    let like = role();
    let gives = like.gives().clone();
    let give = |text: &str| {
        let (gives, subjects) = (gives.clone(), vec![subject.clone()]);
        Role::new(name(text), gives, like.token(), like.lease(), subjects, like.digest()).unwrap()
    };
    vec![give("ship"), give("ship-too")]
}

fn token(text: &str) -> Presented {
    Presented::Token(JobToken::new(text.to_owned()))
}

impl Bench {
    /// A runner that is enrolled with the label of GitLab's runner 7.
    async fn runner_7(&self, id: &str) -> Caller {
        let caller = self.caller(id);
        self.enrol_with(&caller, "gitlab-runner-id=7").await;
        caller
    }

    /// Knows a token of that name, with these claims and of runner 7.
    fn know(&self, text: &str, claims: &[(&str, &str)]) {
        let claims = [claims, &[("runner_id", "7")]].concat();
        let verified = job_tokens::verified(&gitlab(), text, self.clock.now(), &claims);
        self.tokens.put(text, Ok(verified));
    }

    async fn open(&self, caller: &Caller, text: &str) -> Result<Job, Refused> {
        self.use_cases.start_job(caller, self.request(), token(text), None).await
    }
}

fn told(refused: &Refused) -> (Reason, &str) {
    (refused.reason, &refused.message)
}

#[tokio::test]
async fn the_job_that_a_role_names_gets_its_token() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    let lease = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap().issued.lease;
    bench.refresh(&caller, lease.id).await.unwrap();
    let started = bench.ledger.audit_lines().into_iter().find(|line| line.contains("job.started")).unwrap();
    for part in
        ["\"jobEvidence\":\"verified\"", "\"jobSystem\":\"gitlab\"", "\"jobId\":\"main\"", "ref=\\\"main\\\""]
    {
        assert!(started.contains(part), "{part}: {started}");
    }
}

#[tokio::test]
async fn another_branch_is_told_what_its_own_claim_is_and_not_what_would_do() {
    let bench = Bench::new();
    bench.know("feature", &[("project_id", "42"), ("ref", "feature"), ("ref_type", "branch")]);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "feature").await.unwrap();
    let refused = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap_err();
    let (reason, message) = told(&refused);
    assert_eq!(reason, Reason::RoleNotAvailable);
    assert!(message.contains("the job's ref is \"feature\", which the role does not take"), "{message}");
    assert!(!message.contains("\"main\""), "{message}");
    let line = bench.ledger.audit_lines().pop().unwrap();
    assert!(line.contains("ref is \\\"feature\\\", not \\\"main\\\""), "{line}");
}

#[tokio::test]
async fn a_job_without_a_token_does_not_get_what_needs_one() {
    let bench = Bench::new();
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.job(&caller).await;
    let refused = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap_err();
    assert!(refused.message.contains("hand one over when the job starts"), "{}", refused.message);
}

#[tokio::test]
async fn a_token_opens_one_session_and_the_same_request_gets_the_same_one() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let request = bench.request();
    let open = |request| bench.use_cases.start_job(&caller, request, token("main"), None);
    let job = open(request).await.unwrap();
    assert_eq!(open(request).await.unwrap().id, job.id);
    assert_eq!(reason(open(bench.request()).await), Reason::JobTokenUsed);
    let another = bench.runner_7("runner/prod-2").await;
    let refused = bench.use_cases.start_job(&another, request, token("main"), None).await;
    assert_eq!(reason(refused), Reason::JobTokenUsed, "a request id is its caller's own");
    let line = bench.ledger.audit_lines().pop().unwrap();
    assert!(line.contains(&format!("it opened job {}", job.id)) && line.contains("runner/prod-1"), "{line}");

    let bench = bench.restarted();
    bench.know("main", &MAIN);
    let opened = bench.use_cases.start_job(&caller, request, token("main"), None).await;
    assert_eq!(opened.unwrap().id, job.id, "after a restart too");
    assert_eq!(reason(bench.open(&caller, "main").await), Reason::JobTokenUsed, "after a restart too");
}

#[tokio::test]
async fn a_hundred_uses_of_one_token_at_once_open_one_session() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let mut uses = JoinSet::new();
    for _ in 0..100 {
        let (use_cases, caller, request) = (bench.use_cases.clone(), caller.clone(), bench.request());
        uses.spawn(async move { use_cases.start_job(&caller, request, token("main"), None).await });
    }
    let (opened, refused): (Vec<_>, Vec<_>) = uses.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(opened.len(), 1);
    assert!(refused.into_iter().all(|refused| reason(refused) == Reason::JobTokenUsed));
}

#[tokio::test]
async fn a_token_that_names_another_runner_is_refused_and_not_spent() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let other = bench.caller("runner/prod-2");
    bench.enrol_with(&other, "gitlab-runner-id=8").await;
    let unlabelled = bench.caller("runner/prod-3");
    bench.enrol_with(&unlabelled, "env=prod").await;
    let refused = bench.open(&other, "main").await.unwrap_err();
    assert_eq!(refused.reason, Reason::JobTokenRejected);
    assert!(refused.message.contains("a job on another runner"), "{}", refused.message);
    let refused = bench.open(&unlabelled, "main").await.unwrap_err();
    assert!(refused.message.contains("without the label gitlab-runner-id"), "{}", refused.message);
    let caller = bench.runner_7("runner/prod-1").await;
    bench.open(&caller, "main").await.unwrap();
}

#[tokio::test]
async fn what_verification_says_is_told_with_its_remedy() {
    let bench = Bench::new();
    let caller = bench.runner_7("runner/prod-1").await;
    let unavailable = JobTokenError::Unavailable {
        issuer: name("gitlab"),
        explanation: "connection refused".to_owned(),
        retry_after: Duration::from_secs(7),
    };
    bench.tokens.put("unavailable", Err(unavailable));
    bench.tokens.put("old", Err(JobTokenError::Expired(bench.clock.now())));
    let refused = bench.open(&caller, "unavailable").await.unwrap_err();
    assert_eq!(
        (refused.reason, refused.retry_after),
        (Reason::JobIssuerUnavailable, Some(Duration::from_secs(7)))
    );
    assert!(!refused.message.contains("connection refused"), "{}", refused.message);
    let line = bench.ledger.audit_lines().pop().unwrap();
    assert!(line.contains("connection refused"), "{line}");
    assert_eq!(reason(bench.open(&caller, "old").await), Reason::JobTokenExpired);
    assert_eq!(reason(bench.open(&caller, "unknown").await), Reason::JobTokenRejected);
}

#[tokio::test]
async fn after_a_loss_of_security_state_no_token_of_before_is_taken() {
    let bench = Bench::new();
    let caller = bench.runner_7("runner/prod-1").await;
    let lost = SecurityState::LostSince(after(bench.clock.now(), Duration::from_secs(1)));
    let (clock, memory) = (bench.clock.clone(), bench.ledger.clone());
    let failing =
        FailingLedger { inner: memory.clone(), left: usize::MAX.into(), audit: false, security: lost };
    let bench = Bench::over(clock, Arc::new(failing), memory);
    bench.know("before", &MAIN);
    bench.clock.advance(Duration::from_secs(2));
    bench.know("after", &MAIN);
    let refused = bench.open(&caller, "before").await.unwrap_err();
    assert!(
        refused.message.contains("has lost its record of which job tokens were used"),
        "{}",
        refused.message
    );
    bench.open(&caller, "after").await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_its_issuer_says_that_no_job_is_longer() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    assert_eq!(job.latest_end, Some(after(job.started, gitlab().longest_job())));
}

#[tokio::test]
async fn a_blocked_job_does_not_come_back_with_another_token() {
    let bench = Bench::new();
    for text in ["main", "beside", "later"] {
        let claims = [MAIN.as_slice(), &[("runner_id", "7")]].concat();
        let mut verified = job_tokens::verified(&gitlab(), text, bench.clock.now(), &claims);
        verified.id = "4711".to_owned();
        bench.tokens.put(text, Ok(verified));
    }
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    let beside = bench.open(&caller, "beside").await.unwrap();
    let lease = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap().issued.lease;
    revoke(&bench, LeaseFilter { lease: Some(lease.id), ..LeaseFilter::default() }, false).await;
    let later = bench.open(&caller, "later").await.unwrap();
    for (job, role) in [(&beside, "ship"), (&later, "ship"), (&later, "ship-too")] {
        let refused = bench.issue_of(role, &caller, job, bench.request()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Blocked, "{role}");
    }
    // Nor without one: it may be any job.
    let asserted = bench.job(&caller).await;
    let on = |role: &str| bench.use_cases.outside.blocks_on(&caller, &name(role), asserted.id).unwrap().len();
    assert_eq!((on("ship"), on("ship-too")), (1, 0));
    let block = bench.ledger.blocks_of_caller(caller.spiffe_id()).unwrap().remove(0);
    bench.use_cases.unblock(&bench.operator(), block.id).await.unwrap();
    assert_eq!(on("ship"), 0);
    bench.issue_of("ship", &caller, &later, bench.request()).await.unwrap();
}

#[tokio::test]
async fn a_block_whose_job_was_lost_with_the_records_holds_the_runner_back_from_the_role() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    let lease = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap().issued.lease;
    revoke(&bench, LeaseFilter { lease: Some(lease.id), ..LeaseFilter::default() }, false).await;
    let known = bench.ledger.blocks_of_caller(caller.spiffe_id()).unwrap().remove(0);
    let bench = Bench::new();
    let session = JobId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").ok();
    let lost = Block { job: session, revision: Revision::FIRST, ..known };
    bench.ledger.commit(vec![Change::BlockSet { block: lost }]).await.unwrap();
    bench.know("main", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    let on = |role: &str| bench.use_cases.outside.blocks_on(&caller, &name(role), job.id).unwrap().len();
    assert_eq!((on("ship"), on("ship-too")), (1, 0));
}

#[tokio::test]
async fn a_revocation_blocks_the_session_from_every_role_and_no_other_job() {
    let bench = Bench::new();
    bench.know("main", &MAIN);
    bench.know("next", &MAIN);
    let caller = bench.runner_7("runner/prod-1").await;
    let job = bench.open(&caller, "main").await.unwrap();
    let lease = bench.issue_of("ship", &caller, &job, bench.request()).await.unwrap().issued.lease;
    revoke(&bench, LeaseFilter { lease: Some(lease.id), ..LeaseFilter::default() }, false).await;
    for role in ["ship", "ship-too"] {
        let refused = bench.issue_of(role, &caller, &job, bench.request()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Blocked, "{role}");
        assert!(refused.message.contains("blocked this job until"), "{}", refused.message);
    }
    let next = bench.open(&caller, "next").await.unwrap();
    bench.issue_of("ship", &caller, &next, bench.request()).await.unwrap();
    let block = bench.ledger.blocks_of_caller(caller.spiffe_id()).unwrap().remove(0);
    bench.use_cases.unblock(&bench.operator(), block.id).await.unwrap();
    bench.issue_of("ship-too", &caller, &job, bench.request()).await.unwrap();
}
