//! Machines with tokens of an OIDC issuer: who is let in, as what, and only once by each token.

use shorepass_core::claims::Claim;
use shorepass_core::enrolment::Origin;
use shorepass_core::machine_token::{MachineRule, MachineTokenError};
use shorepass_rpc::api::{Certificate, Enrolments as _, Ticket};
use shorepass_testing::machines::{KnownMachines, cloud, machine};
use shorepass_tls::KeyAndRequest;
use zeroize::Zeroizing;

use super::*;
use crate::enrol::strangers::BURST;
use crate::enrol::tokens::TokenRules;

/// Of zone `a` are `prod-vm-*`, of zone `b` `test-vm-*`.
pub(super) fn rules(verifier: &Arc<KnownMachines>) -> TokenRules {
    let issuer = cloud().unwrap();
    let rule = |zone: &str, runners: &str| {
        let claims = vec![("zone".to_owned(), vec![Claim::Text(zone.to_owned())])];
        let labels = Labels::parse([format!("zone={zone}").as_str()]).unwrap();
        MachineRule::new(&issuer, claims, vec![NamePattern::parse(runners).unwrap()], labels).unwrap()
    };
    let rules = vec![rule("a", "prod-vm-*"), rule("b", "test-vm-*")];
    TokenRules { rules: BTreeMap::from([(name("cloud"), rules)]), verifier: verifier.clone() }
}

async fn enroll_with(
    bench: &Bench,
    token: &str,
    runner: &str,
    key: &KeyAndRequest,
) -> Result<Certificate, Refused> {
    let ticket = Ticket::Oidc(Zeroizing::new(token.to_owned()));
    bench.enroll_with(ticket, runner, key).await
}

async fn enroll(bench: &Bench, token: &str, runner: &str) -> Result<Certificate, Refused> {
    enroll_with(bench, token, runner, &key(runner)).await
}

fn put(bench: &Bench, token: &str, subject: &str, zone: &str) {
    bench.machines.put(token, Ok(machine(token, subject, zone, bench.clock.now())));
}

#[tokio::test]
async fn a_machine_gets_the_labels_of_its_rule_and_its_subject_is_recorded() {
    let bench = Bench::new();
    put(&bench, "token", "vm-1", "a");
    assert!(enroll(&bench, "token", "prod-vm-1").await.is_ok());
    let enrolment = bench.latest("prod-vm-1");
    assert_eq!(enrolment.labels, Labels::parse(["zone=a"]).unwrap());
    assert_eq!(enrolment.origin.as_ref().and_then(Origin::token), Some((&name("cloud"), "vm-1")));
    assert_eq!(bench.events(), ["enrolment-token.taken", "runner.enrolled"]);
    let lines = bench.ledger.audit_lines().join("\n");
    for part in [r#""tokenIssuer":"cloud""#, r#""tokenSubject":"vm-1""#] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
}

#[tokio::test]
async fn a_token_lets_in_once_also_after_a_restart_and_not_by_another_key() {
    let bench = Bench::new();
    put(&bench, "token", "vm-1", "a");
    let made = key("prod-vm-1");
    assert!(enroll_with(&bench, "token", "prod-vm-1", &made).await.is_ok());
    let first = bench.latest("prod-vm-1").id;
    assert!(enroll_with(&bench, "token", "prod-vm-1", &made).await.is_ok(), "its reply may have got lost");
    assert_eq!(bench.latest("prod-vm-1").id, first);
    for runner in ["prod-vm-1", "prod-vm-2"] {
        let refused = enroll(&bench, "token", runner).await.err().unwrap();
        assert_eq!(refused.reason, Reason::EnrolmentTokenUsed, "{runner}");
        assert!(refused.message.contains("get a new one"), "{}", refused.message);
    }
    let bench = bench.restarted();
    put(&bench, "token", "vm-1", "a");
    assert_eq!(reason(enroll(&bench, "token", "prod-vm-2").await), Reason::EnrolmentTokenUsed);
}

#[tokio::test]
async fn a_lost_reply_is_given_again_with_the_next_token_and_spends_that_too() {
    let bench = Bench::new();
    put(&bench, "first", "vm-1", "a");
    put(&bench, "second", "vm-1", "a");
    let made = key("prod-vm-1");
    assert!(enroll_with(&bench, "first", "prod-vm-1", &made).await.is_ok());
    let enrolment = bench.latest("prod-vm-1").id;
    assert!(enroll_with(&bench, "second", "prod-vm-1", &made).await.is_ok());
    assert_eq!(bench.latest("prod-vm-1").id, enrolment);
    assert_eq!(reason(enroll(&bench, "second", "prod-vm-2").await), Reason::EnrolmentTokenUsed);
    // Late, and no harm.
    assert!(enroll_with(&bench, "first", "prod-vm-1", &made).await.is_ok());
    assert_eq!(bench.latest("prod-vm-1").id, enrolment);
}

#[tokio::test]
async fn nobody_is_replaced_by_a_token_not_even_by_the_same_subject() {
    let bench = Bench::new();
    for (token, subject) in [("first", "vm-1"), ("again", "vm-1"), ("other", "vm-2")] {
        put(&bench, token, subject, "a");
    }
    let made = key("prod-vm-1");
    assert!(enroll_with(&bench, "first", "prod-vm-1", &made).await.is_ok());
    for token in ["again", "other"] {
        assert_eq!(reason(enroll(&bench, token, "prod-vm-1").await), Reason::EnrolmentExists, "{token}");
    }
    let refused = reason(enroll_with(&bench, "other", "prod-vm-1", &made).await);
    assert_eq!(refused, Reason::EnrolmentExists, "another machine has it, whatever its key");
    // What was refused is not spent.
    assert!(enroll(&bench, "again", "prod-vm-2").await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_used_by_many_at_once_lets_in_one() {
    let bench = Arc::new(Bench::new());
    put(&bench, "token", "vm-1", "a");
    let tries = (0..7).map(|index| {
        let bench = bench.clone();
        tokio::spawn(async move { enroll(&bench, "token", &format!("prod-vm-{index}")).await.map(drop) })
    });
    let mut let_in = 0;
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(()) => let_in += 1,
            Err(refused) => assert_eq!(refused.reason, Reason::EnrolmentTokenUsed),
        }
    }
    assert_eq!(let_in, 1);
}

#[tokio::test]
async fn other_claims_and_names_are_refused_and_only_operators_are_told_which_would_do() {
    let bench = Bench::new();
    put(&bench, "c", "vm-1", "c");
    let refused = enroll(&bench, "c", "prod-vm-1").await.err().unwrap();
    assert_eq!(refused.reason, Reason::EnrolmentTokenRejected);
    assert!(
        refused.message.contains("enrolment.oidc") && !refused.message.contains("zone"),
        "{}",
        refused.message
    );
    let line = bench.ledger.audit_lines().pop().unwrap();
    assert!(line.contains("zone=\\\"c\\\"") && line.contains("each rule misses: zone, zone"), "{line}");

    put(&bench, "a", "vm-1", "a");
    for other in ["test-vm-1", "prod-1"] {
        assert_eq!(reason(enroll(&bench, "a", other).await), Reason::RunnerNameNotAllowed, "{other}");
    }
    let unavailable = MachineTokenError::Unavailable {
        issuer: name("cloud"),
        explanation: "no route".to_owned(),
        retry_after: Duration::from_secs(9),
    };
    bench.machines.put("down", Err(unavailable));
    let refused = enroll(&bench, "down", "prod-vm-1").await.err().unwrap();
    assert_eq!(refused.reason, Reason::EnrolmentIssuerUnavailable);
    assert_eq!(refused.retry_after, Some(Duration::from_secs(9)));
    assert!(!refused.message.contains("no route"), "{}", refused.message);
}

#[tokio::test]
async fn nobody_makes_the_issuer_check_signatures_without_bound() {
    let bench = Bench::new();
    let forged = MachineTokenError::Rejected { told: "the signature is wrong", explanation: String::new() };
    bench.machines.put("forged", Err(forged));
    for _ in 0..5 {
        assert_eq!(reason(enroll(&bench, "not for us", "prod-vm-1").await), Reason::EnrolmentTokenRejected);
    }
    assert_eq!(bench.machines.verified(), 0, "what can be seen is looked at first");
    let burst = usize::try_from(BURST.get()).unwrap();
    for _ in 0..burst {
        assert_eq!(reason(enroll(&bench, "forged", "prod-vm-1").await), Reason::EnrolmentTokenRejected);
    }
    assert_eq!(reason(enroll(&bench, "forged", "prod-vm-1").await), Reason::RateLimited);
    assert_eq!(bench.machines.verified(), burst);
    // Pods are counted apart.
    bench.pods.put(
        "pod",
        "https://issuer.example.org/pods",
        shorepass_testing::pods::reviewed("runner-0", "u-0"),
    );
    let ticket = Ticket::Pod { cluster: name("staging"), token: Zeroizing::new("pod".to_owned()) };
    let certificate_request_pem = key("prod-pod-0").request_pem;
    let pod = Enrolling { ticket, name: name("prod-pod-0"), certificate_request_pem };
    assert!(bench.use_cases.enroll(pod).await.is_ok());
}
