//! Runner pods: who is let in by a token of its pod, as what, and how often a cluster is asked.

use shorepass_core::ban::{Ban, Banned};
use shorepass_core::enrolment::Origin;
use shorepass_core::pod::ReviewError;
use shorepass_rpc::api::{Certificate, Enrolling, Enrolments as _, Ticket};
use shorepass_testing::pods::{KnownPods, reviewed};
use shorepass_tls::KeyAndRequest;
use zeroize::Zeroizing;

use super::*;
use crate::enrol::pods::PodRule;
use crate::enrol::strangers::{AT_ONCE as QUESTIONS_AT_ONCE, BURST};

const AUDIENCE: &str = "https://issuer.example.org/pods";
const POD: &str = "staging/ci/runner-0";

/// Pods of `ci/runner` are `prod-pod-*` of pool `pods`, those of `ci/tester` are `test-pod-*`.
pub(super) fn rules(reviews: &Arc<KnownPods>) -> Vec<PodRule> {
    let rule = |account: &str, runners: &str, labels: Labels| PodRule {
        cluster: name("staging"),
        audience: AUDIENCE.to_owned(),
        service_accounts: vec![(name("ci"), account.to_owned())],
        runners: vec![NamePattern::parse(runners).unwrap()],
        labels,
        reviews: reviews.clone(),
    };
    let pool = Labels::parse(["pool=pods"]).unwrap();
    vec![rule("runner", "prod-pod-*", pool), rule("tester", "test-pod-*", Labels::default())]
}

async fn enroll_with(
    bench: &Bench,
    token: &str,
    runner: &str,
    key: &KeyAndRequest,
) -> Result<Certificate, Refused> {
    let ticket = Ticket::Pod { cluster: name("staging"), token: Zeroizing::new(token.to_owned()) };
    bench.enroll_with(ticket, runner, key).await
}

async fn enroll(bench: &Bench, token: &str, runner: &str) -> Result<Certificate, Refused> {
    enroll_with(bench, token, runner, &key(runner)).await
}

#[tokio::test]
async fn a_pod_gets_a_name_and_the_labels_of_its_rule_and_its_uid_is_recorded() {
    let bench = Bench::new();
    bench.pods.put("token", AUDIENCE, reviewed("runner-0", "u-0"));
    assert!(enroll(&bench, "token", "prod-pod-0").await.is_ok());
    let enrolment = bench.latest("prod-pod-0");
    assert_eq!(enrolment.labels, Labels::parse(["pool=pods"]).unwrap());
    let pod = enrolment.origin.as_ref().and_then(Origin::pod).unwrap();
    assert_eq!((pod.to_string().as_str(), pod.uid.as_str()), (POD, "u-0"));
    let line = bench.ledger.audit_lines().pop().unwrap();
    for part in ["runner.enrolled", r#""pod":"staging/ci/runner-0""#, r#""podUid":"u-0""#] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // What is recorded is read back with the rest when the enrolment changes.
    let caller = bench.caller_of(&enrolment);
    bench.use_cases.renew(&caller, key("prod-pod-0").request_pem).await.unwrap();
    assert_eq!(bench.latest("prod-pod-0").origin, enrolment.origin);
}

#[tokio::test]
async fn each_token_that_proves_no_such_pod_is_refused_and_only_operators_are_told_what_the_cluster_said() {
    let bench = Bench::new();
    let said = |error| Err::<shorepass_core::pod::Reviewed, _>(error);
    let mut tester = reviewed("tester-0", "u-1").unwrap();
    tester.service_account = "deployer".to_owned();
    let mut elsewhere = reviewed("runner-0", "u-3").unwrap();
    elsewhere.pod.namespace = name("web");
    let cases = [
        ("other", "https://issuer.example.org/jobs", reviewed("runner-0", "u-0"), "for the audience in"),
        ("gone", AUDIENCE, said(ReviewError::Rejected("pod not found".to_owned())), "its pod is gone"),
        ("unconfirmed", AUDIENCE, said(ReviewError::OtherAudience("x".to_owned())), "does not confirm"),
        ("unbound", AUDIENCE, said(ReviewError::Unbound("node")), "no node"),
        ("deployer", AUDIENCE, Ok(tester), "this ServiceAccount are not let in"),
        ("of another namespace", AUDIENCE, Ok(elsewhere), "this ServiceAccount are not let in"),
    ];
    for (token, audience, answer, told) in cases {
        bench.pods.put(token, audience, answer);
        let refused = enroll(&bench, token, "prod-pod-0").await.err().unwrap();
        assert_eq!(refused.reason, Reason::PodTokenRejected, "{token}");
        assert!(
            refused.message.contains(told) && refused.message.contains("under `pod`"),
            "{}",
            refused.message
        );
        assert!(!refused.message.contains("not found"), "{}", refused.message);
    }
    let lines = bench.ledger.audit_lines().join("\n");
    assert!(lines.contains("pod not found") && lines.contains("is of ServiceAccount ci/deployer"), "{lines}");

    bench.pods.put("good", AUDIENCE, reviewed("runner-0", "u-0"));
    for other in ["prod-1", "test-pod-0"] {
        let refused = enroll(&bench, "good", other).await.err().unwrap();
        assert_eq!(refused.reason, Reason::RunnerNameNotAllowed, "{other}");
    }
    let elsewhere = Ticket::Pod { cluster: name("other"), token: Zeroizing::new("good".to_owned()) };
    let certificate_request_pem = key("prod-pod-0").request_pem;
    let enrolling = Enrolling { ticket: elsewhere, name: name("prod-pod-0"), certificate_request_pem };
    assert_eq!(reason(bench.use_cases.enroll(enrolling).await), Reason::PodTokenRejected);
    for (cause, expected) in [
        (ReviewError::Forbidden, Reason::IssuerForbidden),
        (ReviewError::Unreachable("no route".to_owned()), Reason::ClusterUnreachable),
        (ReviewError::Garbled("it is none"), Reason::ClusterUnreachable),
    ] {
        bench.pods.put("good", AUDIENCE, Err(cause));
        assert_eq!(reason(enroll(&bench, "good", "prod-pod-0").await), expected);
    }
    assert!(!bench.events().contains(&"runner.enrolled".to_owned()));
}

#[tokio::test]
async fn a_pod_replaces_its_own_enrolment_and_that_of_the_pod_in_whose_place_it_came_and_no_other() {
    let bench = Bench::new();
    for (token, pod, uid) in
        [("own", "runner-0", "u-0"), ("next", "runner-0", "u-1"), ("other", "runner-1", "u-2")]
    {
        bench.pods.put(token, AUDIENCE, reviewed(pod, uid));
    }
    assert!(enroll(&bench, "own", "prod-pod-0").await.is_ok());
    let mut before = bench.latest("prod-pod-0");
    assert_eq!(reason(enroll(&bench, "other", "prod-pod-0").await), Reason::EnrolmentExists);
    for token in ["own", "next"] {
        assert!(enroll(&bench, token, "prod-pod-0").await.is_ok(), "{token}");
        let now = bench.latest("prod-pod-0");
        assert_ne!(now.id, before.id, "{token}");
        let caller = bench.caller_of(&before);
        assert_eq!(reason(bench.use_cases.check_enrolment(&caller)), Reason::EnrolmentEnded, "{token}");
        before = now;
    }
    // A runner that was let in otherwise does not give way, whatever its name.
    let joined = bench.caller("runner/prod-pod-9");
    bench.enrol(&joined).await;
    assert_eq!(reason(enroll(&bench, "own", "prod-pod-9").await), Reason::EnrolmentExists);
    assert!(bench.use_cases.check_enrolment(&joined).is_ok());
}

#[tokio::test]
async fn a_reply_that_got_lost_is_no_second_enrolment() {
    let bench = Bench::new();
    bench.pods.put("own", AUDIENCE, reviewed("runner-0", "u-0"));
    bench.pods.put("next", AUDIENCE, reviewed("runner-0", "u-1"));
    let made = key("prod-pod-0");
    assert!(enroll_with(&bench, "own", "prod-pod-0", &made).await.is_ok());
    let first = bench.latest("prod-pod-0").id;
    assert!(enroll_with(&bench, "own", "prod-pod-0", &made).await.is_ok());
    assert_eq!(bench.latest("prod-pod-0").id, first);
    assert!(enroll_with(&bench, "next", "prod-pod-0", &made).await.is_ok());
    assert_ne!(bench.latest("prod-pod-0").id, first, "another pod is another enrolment, whatever its key");
}

#[tokio::test]
async fn nobody_makes_the_issuer_ask_a_cluster_without_bound() {
    let bench = Bench::new();
    bench.pods.put("forged", AUDIENCE, Err(ReviewError::Rejected(String::new())));
    for _ in 0..5 {
        assert_eq!(reason(enroll(&bench, "not for us", "prod-pod-0").await), Reason::PodTokenRejected);
    }
    assert_eq!(bench.pods.asked(), 0, "who does not even say that it is for us is asked about nowhere");

    let burst = usize::try_from(BURST.get()).unwrap();
    let mut limited = 0;
    for _ in 0..burst + 5 {
        let refused = enroll(&bench, "forged", "prod-pod-0").await.err().unwrap();
        if refused.reason == Reason::RateLimited {
            assert!(refused.retry_after.is_some());
            limited += 1;
        }
    }
    assert_eq!((bench.pods.asked(), limited), (burst, 5));
    let recorded = bench.events().iter().filter(|event| *event == "request.refused").count();
    assert_eq!(recorded, burst + 5, "what is too much is not recorded either");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(reason(enroll(&bench, "forged", "prod-pod-0").await), Reason::PodTokenRejected);
}

#[tokio::test]
async fn only_so_many_questions_are_open_at_once() {
    let bench = Arc::new(Bench::new());
    bench.pods.put("token", AUDIENCE, reviewed("runner-0", "u-0"));
    bench.pods.fall_silent();
    for index in 0..QUESTIONS_AT_ONCE {
        let bench = bench.clone();
        tokio::spawn(async move { enroll(&bench, "token", &format!("prod-pod-{index}")).await.map(drop) });
    }
    bench.until("all turns to be taken", || bench.pods.asked() == QUESTIONS_AT_ONCE).await;
    assert_eq!(reason(enroll(&bench, "token", "prod-pod-99").await), Reason::RateLimited);
    assert_eq!(bench.pods.asked(), QUESTIONS_AT_ONCE);
}

#[tokio::test]
async fn a_pod_whose_enrolment_was_banned_does_not_come_back_by_its_token() {
    let bench = Bench::new();
    bench.pods.put("token", AUDIENCE, reviewed("runner-0", "u-0"));
    enroll(&bench, "token", "prod-pod-0").await.unwrap();
    let banned = bench.latest("prod-pod-0").owner();
    let by = bench.operator();
    let ban = Ban::set(Banned::Enrolment(banned), None, &by, "stolen".to_owned(), bench.clock.now()).unwrap();
    bench.use_cases.outside.bans.put(ban);
    assert_eq!(reason(enroll(&bench, "token", "prod-pod-0").await), Reason::Banned);
    assert!(enroll(&bench, "token", "prod-pod-1").await.is_ok(), "another name is another's");
}
