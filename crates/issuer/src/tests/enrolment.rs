//! Join tokens and enrolments.

use shorepass_rpc::api::{
    Administration as _, Certificate, Enrolling, Enrolments as _, JoinTokenAsked, Ticket,
};
use shorepass_tls::KeyAndRequest;
use zeroize::Zeroizing;

use super::*;

async fn join_token(bench: &Bench, replace: bool) -> Zeroizing<String> {
    let made = bench
        .use_cases
        .create_join_token(&bench.operator(), bench.request(), join_token_asked("prod-*", replace))
        .await;
    made.unwrap().text
}

fn request_for(id: &str) -> Vec<u8> {
    KeyAndRequest::generate(&SpiffeId::parse(id).unwrap()).unwrap().request_pem
}

async fn enroll_with(
    bench: &Bench,
    token: &str,
    runner: &str,
    certificate_request_pem: Vec<u8>,
) -> Result<Certificate, Refused> {
    let ticket = Ticket::JoinToken(Zeroizing::new(token.to_owned()));
    bench.use_cases.enroll(Enrolling { ticket, name: name(runner), certificate_request_pem }).await
}

async fn enroll(bench: &Bench, token: &str, runner: &str) -> Result<Certificate, Refused> {
    enroll_with(bench, token, runner, request_for(&format!("spiffe://{DOMAIN}/runner/{runner}"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_used_a_hundred_times_at_once_enrols_one() {
    let bench = Arc::new(Bench::new());
    let token = join_token(&bench, false).await;
    let tries = (0..100).map(|index| {
        let (bench, token) = (bench.clone(), token.clone());
        tokio::spawn(async move { enroll(&bench, &token, &format!("prod-{index}")).await.map(|_| ()) })
    });
    let mut enrolled = 0;
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(()) => enrolled += 1,
            Err(refused) => assert_eq!(refused.reason, Reason::JoinTokenUsed),
        }
    }
    assert_eq!(enrolled, 1);
}

#[tokio::test]
async fn a_lost_reply_is_given_again_to_the_same_key_only() {
    let bench = Bench::new();
    let token = join_token(&bench, false).await;
    let request = request_for(&format!("spiffe://{DOMAIN}/runner/prod-1"));
    assert!(enroll_with(&bench, &token, "prod-1", request.clone()).await.is_ok());
    assert!(enroll_with(&bench, &token, "prod-1", request).await.is_ok());
    assert_eq!(reason(enroll(&bench, &token, "prod-1").await), Reason::JoinTokenUsed);
}

#[tokio::test]
async fn a_used_join_token_brings_nobody_back_whose_certificate_has_ended() {
    let bench = Bench::new();
    let asked =
        JoinTokenAsked { lifetime: Duration::from_secs(7 * 24 * 3600), ..join_token_asked("prod-*", false) };
    let made = bench.use_cases.create_join_token(&bench.operator(), bench.request(), asked).await.unwrap();
    let request = request_for(&format!("spiffe://{DOMAIN}/runner/prod-1"));
    assert!(enroll_with(&bench, &made.text, "prod-1", request.clone()).await.is_ok());
    bench.clock.advance(Duration::from_secs(24 * 3600));
    let again = enroll_with(&bench, &made.text, "prod-1", request).await;
    assert_eq!(reason(again), Reason::JoinTokenUsed, "it may rejoin, as long as that is allowed");
}

#[tokio::test]
async fn each_bad_enrolment_is_told_apart() {
    let bench = Bench::new();
    let token = join_token(&bench, false).await;
    let foreign =
        shorepass_tls::JoinTokenText::generate(Digest::of_bytes(b"other CA"), bench.entropy.as_ref());
    let never_made =
        shorepass_tls::JoinTokenText::generate(bench.authority.key_digest(), bench.entropy.as_ref());
    let unknown = Reason::JoinTokenUnknown;
    assert_eq!(reason(enroll(&bench, "nonsense", "prod-1").await), unknown);
    assert_eq!(reason(enroll(&bench, &foreign.expose(), "prod-1").await), unknown);
    assert_eq!(reason(enroll(&bench, &never_made.expose(), "prod-1").await), unknown);
    assert_eq!(reason(enroll(&bench, &token, "dev-1").await), Reason::RunnerNameNotAllowed);
    let other_domain = request_for("spiffe://other.example.org/runner/prod-1");
    let attempt = enroll_with(&bench, &token, "prod-1", other_domain).await;
    assert_eq!(reason(attempt), Reason::TrustDomainUnknown);
    for other in ["runner/prod-2", "operator/prod-1"] {
        let request = request_for(&format!("spiffe://{DOMAIN}/{other}"));
        assert_eq!(reason(enroll_with(&bench, &token, "prod-1", request).await), Reason::FieldInvalid);
    }
    bench.clock.advance(Duration::from_secs(600));
    assert_eq!(reason(enroll(&bench, &token, "prod-1").await), Reason::JoinTokenExpired);
    assert_eq!(bench.events().iter().filter(|event| *event == "request.refused").count(), 8);
}

#[tokio::test]
async fn a_name_with_a_live_enrolment_is_given_out_again_only_with_replace() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    bench.enrol(&caller).await;
    let job = bench.job(&caller).await;
    let lease = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease.id;
    let token = join_token(&bench, false).await;
    assert_eq!(reason(enroll(&bench, &token, "prod-1").await), Reason::EnrolmentExists);
    assert!(bench.use_cases.check_enrolment(&caller).is_ok());

    let replacing = join_token(&bench, true).await;
    assert!(enroll(&bench, &replacing, "prod-1").await.is_ok());
    // In one commit: a crash right after it leaves no lease of the old enrolment alive.
    let events = bench.events();
    let taken = events.iter().position(|event| event == "join-token.taken").unwrap();
    assert_eq!(
        events[taken..taken + 4],
        ["join-token.taken", "runner.replaced", "lease.ending", "runner.enrolled"]
    );
    assert_eq!(reason(bench.use_cases.check_enrolment(&caller)), Reason::EnrolmentEnded);
    bench.until("the old enrolment's lease to end", || bench.lease(lease).state_name() == "ended").await;
}

#[tokio::test]
async fn after_a_loss_of_security_state_nobody_enrols_and_no_certificate_of_before_counts() {
    let bench = super::issuing::security_lost();
    let token = join_token(&bench, false).await;
    let refused = enroll(&bench, &token, "prod-1").await.err().unwrap();
    assert_eq!(refused.reason, Reason::StoreUnavailable);
    assert!(refused.message.contains("store rebuild --accept-loss"), "{}", refused.message);
    for (id, again) in [("operator/alice", true), ("platform/portal", true), ("runner/prod-1", false)] {
        let caller = |issued| {
            Caller::from_verified_peer(VerifiedPeer {
                spiffe_id: SpiffeId::parse(&format!("spiffe://{DOMAIN}/{id}")).unwrap(),
                enrolment: EnrolmentId::generate(bench.clock.now(), bench.entropy.as_ref()),
                issued,
                expires: after(bench.clock.now(), Duration::from_secs(3600)),
                authority: bench.authority.key_digest(),
                certificate: Digest::of_bytes(id.as_bytes()),
                key: Digest::of_bytes(b"key"),
            })
        };
        let before = bench.clock.now().checked_sub(Duration::from_secs(1)).unwrap();
        let refused = bench.use_cases.check_enrolment(&caller(before)).err().unwrap();
        assert_eq!(refused.reason, Reason::EnrolmentEnded, "{id}");
        assert!(refused.message.contains("--accept-loss"), "{}", refused.message);
        assert_eq!(refused.message.contains("identity create"), again, "{}", refused.message);
        let made_since = bench.use_cases.check_enrolment(&caller(bench.clock.now()));
        assert_eq!(made_since.is_ok(), again, "a runner of before is not known any more");
    }
}

#[tokio::test]
async fn a_refusal_before_the_use_cases_is_recorded_under_its_decision() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let refused = Refused::new(Reason::CallerKind, "RevokeLeases is for operators");
    for who in [Some(&caller), None] {
        let told = bench.use_cases.refused(who, "RevokeLeases", refused.clone()).await;
        assert_eq!((told.reason, &told.message), (refused.reason, &refused.message));
        let (_, decision) = told.metadata.iter().find(|(key, _)| *key == "decision_id").unwrap();
        let line = bench.ledger.audit_lines().pop().unwrap();
        let caller = who.map(|caller| caller.spiffe_id().to_string()).unwrap_or_default();
        for part in ["request.refused", decision, "CALLER_KIND", "RevokeLeases", &caller] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(bench.events(), ["request.refused", "request.refused"]);
}

#[tokio::test]
async fn a_renewal_is_for_the_callers_own_name_and_standing_enrolment() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let own = request_for(&format!("spiffe://{DOMAIN}/runner/prod-1"));
    assert_eq!(reason(bench.use_cases.renew(&caller, own.clone()).await), Reason::EnrolmentEnded);
    bench.enrol(&caller).await;
    assert!(bench.use_cases.renew(&caller, own).await.is_ok());
    let foreign = request_for(&format!("spiffe://{DOMAIN}/runner/prod-2"));
    assert_eq!(reason(bench.use_cases.renew(&caller, foreign).await), Reason::FieldInvalid);
}

#[tokio::test]
async fn a_join_tokens_secret_cannot_be_asked_for_twice() {
    let bench = Bench::new();
    let request = bench.request();
    let operator = bench.operator();
    let create = || bench.use_cases.create_join_token(&operator, request, join_token_asked("prod-*", false));
    let made = create().await.unwrap();
    assert_eq!(reason(create().await), Reason::RequestIdReused);
    let lines = bench.ledger.audit_lines().join("\n");
    assert!(!lines.contains(made.text.as_str()), "the secret is in the audit file");
}

#[tokio::test]
async fn a_runner_has_the_labels_of_the_join_token_that_enrolled_it_last() {
    let bench = Bench::new();
    let runner = SpiffeId::parse(&format!("spiffe://{DOMAIN}/runner/prod-1")).unwrap();
    for labels in [["env=prod", "pool=a"].as_slice(), &["env=test"], &[]] {
        let labels = Labels::parse(labels.iter().copied()).unwrap();
        let asked = JoinTokenAsked { labels: labels.clone(), ..join_token_asked("prod-*", true) };
        let made =
            bench.use_cases.create_join_token(&bench.operator(), bench.request(), asked).await.unwrap();
        assert_eq!(made.labels, labels);
        let certificate_request = request_for(&runner.to_string());
        assert!(enroll_with(&bench, &made.text, "prod-1", certificate_request).await.is_ok());
        let enrolment = bench.ledger.latest_enrolment(&runner).unwrap().unwrap();
        assert_eq!(enrolment.labels, labels);
        let caller = bench.caller_of(&enrolment);
        bench.use_cases.renew(&caller, request_for(&runner.to_string())).await.unwrap();
        assert_eq!(bench.ledger.enrolment(enrolment.id).unwrap().unwrap().labels, labels);
    }
    let lines = bench.ledger.audit_lines();
    let with = |event: &str| {
        let told =
            |line: &&String| line.contains(event) && line.contains(r#""labels":{"env":"prod","pool":"a"}"#);
        lines.iter().filter(told).count()
    };
    for (event, expected) in
        [("join-token.created", 1), ("join-token.taken", 1), ("runner.enrolled", 1), ("runner.renewed", 1)]
    {
        assert_eq!(with(event), expected, "{event}: {lines:#?}");
    }
}
