//! Rejoin: who comes back after the end of its certificate, and who does not.

use shorepass_core::ban::BanKey;
use shorepass_rpc::api::{Administration as _, Certificate, Enrolments as _, Rejoining, Ticket};
use shorepass_tls::{Identity, KeyAndRequest};
use zeroize::Zeroizing;

use super::*;
use crate::enrol::Enrolling;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn identity(made: KeyAndRequest, certificate: &Certificate) -> Identity {
    Identity::new(made.key, &certificate.chain_pem, &certificate.bundle_pem).unwrap()
}

async fn enrolled(bench: &Bench, runner: &str) -> Identity {
    let asked = join_token_asked("prod-*", true);
    let made = bench.use_cases.create_join_token(&bench.operator(), bench.request(), asked).await.unwrap();
    let ticket = Ticket::JoinToken(Zeroizing::new(made.text.to_string()));
    let made = key(runner);
    let certificate = bench.enroll_with(ticket, runner, &made).await.unwrap();
    identity(made, &certificate)
}

/// Whoever shows that certificate.
fn caller(bench: &Bench, identity: &Identity, key: Digest) -> Caller {
    Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: identity.spiffe_id().clone(),
        enrolment: identity.enrolment().unwrap(),
        issued: identity.not_before(),
        expires: identity.expires(),
        authority: bench.authority.key_digest(),
        certificate: identity.certificate(),
        key,
    })
}

async fn nonce(bench: &Bench, identity: &Identity) -> Vec<u8> {
    bench.use_cases.begin_rejoin(identity.certificate_pem()).await.unwrap().bytes
}

/// What proves `identity`, for a new key of that runner.
fn proof(identity: &Identity, runner: &str, nonce: &[u8]) -> (KeyAndRequest, Rejoining) {
    let made = key(runner);
    let rejoining = Rejoining {
        certificate_pem: identity.certificate_pem(),
        nonce: nonce.to_vec(),
        certificate_request_pem: made.request_pem.clone(),
        signature: identity.prove(nonce, made.key.digest()).unwrap(),
    };
    (made, rejoining)
}

async fn refusal(bench: &Bench, rejoining: Rejoining) -> Refused {
    bench.use_cases.rejoin(rejoining).await.expect_err("it comes back, and should not")
}

#[tokio::test]
async fn a_runner_comes_back_after_its_certificate_has_ended_as_who_it_was() {
    let bench = Bench::new();
    let held = enrolled(&bench, "prod-1").await;
    bench.clock.advance(DAY * 3);
    let (made, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
    let next = identity(made, &bench.use_cases.rejoin(rejoining).await.unwrap());
    assert_eq!((next.enrolment(), next.spiffe_id()), (held.enrolment(), held.spiffe_id()));
    assert!(next.expires() > bench.clock.now());
    // The reply may get lost, once more.
    let (made, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
    let key = made.key.digest();
    let next = identity(made, &bench.use_cases.rejoin(rejoining).await.unwrap());
    assert!(bench.use_cases.admit(&caller(&bench, &next, key)).await.is_ok());
    let events = bench.events();
    let last: Vec<_> = events.iter().rev().take(3).map(String::as_str).collect();
    assert_eq!(last, ["runner.renewal-used", "runner.rejoined", "runner.rejoined"]);
    // And then it is an older one, and whoever proves it is one of two.
    let (_, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
    assert_eq!(refusal(&bench, rejoining).await.reason, Reason::RunnerCloned);
    assert_eq!(reason(bench.use_cases.admit(&caller(&bench, &next, key)).await), Reason::RunnerCloned);
    assert_eq!(bench.events().iter().filter(|event| *event == "runner.cloned").count(), 1);
}

#[tokio::test]
async fn an_older_certificate_that_is_only_shown_shuts_nobody_out() {
    let bench = Bench::new();
    let held = enrolled(&bench, "prod-1").await;
    bench.clock.advance(DAY * 2);
    let (made, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
    let key = made.key.digest();
    let next = identity(made, &bench.use_cases.rejoin(rejoining).await.unwrap());
    assert!(bench.use_cases.admit(&caller(&bench, &next, key)).await.is_ok());
    // Certificates are no secrets: without its key it proves nothing.
    let given = nonce(&bench, &held).await;
    let (_, rejoining) = proof(&held, "prod-1", &given);
    let refused = refusal(&bench, Rejoining { signature: vec![1; 70], ..rejoining.clone() }).await;
    assert_eq!(refused.reason, Reason::RejoinRefused);
    // Neither does its key after the window.
    bench.clock.advance(DAY * 7);
    assert_eq!(refusal(&bench, rejoining).await.reason, Reason::RejoinRefused);
    assert!(bench.use_cases.check_enrolment(&caller(&bench, &next, key)).is_ok());
}

#[tokio::test]
async fn a_nonce_is_good_for_one_certificate_once_and_for_a_minute() {
    let bench = Bench::new();
    let (one, other) = (enrolled(&bench, "prod-1").await, enrolled(&bench, "prod-2").await);
    bench.clock.advance(DAY * 2);
    let given = nonce(&bench, &one).await;
    let (_, rejoining) = proof(&one, "prod-1", &given);
    assert!(bench.use_cases.rejoin(rejoining.clone()).await.is_ok());
    assert!(refusal(&bench, rejoining).await.message.contains("used already"));
    let (_, rejoining) = proof(&one, "prod-1", &given);
    assert!(refusal(&bench, rejoining).await.message.contains("used already"), "whatever is signed with it");

    let (_, rejoining) = proof(&other, "prod-2", &nonce(&bench, &one).await);
    assert!(refusal(&bench, rejoining).await.message.contains("was not made here for this certificate"));
    let mut made_up = nonce(&bench, &one).await;
    made_up[0] ^= 1;
    let (_, rejoining) = proof(&one, "prod-1", &made_up);
    assert_eq!(refusal(&bench, rejoining).await.reason, Reason::RejoinRefused);
    let old = nonce(&bench, &other).await;
    bench.clock.advance(Duration::from_secs(60));
    let (_, rejoining) = proof(&other, "prod-2", &old);
    assert!(refusal(&bench, rejoining).await.message.contains("too old"));
}

#[tokio::test]
async fn only_the_certificates_own_key_and_name_count() {
    let bench = Bench::new();
    let (one, other) = (enrolled(&bench, "prod-1").await, enrolled(&bench, "prod-2").await);
    bench.clock.advance(DAY * 2);
    let given = nonce(&bench, &one).await;
    let (made, rejoining) = proof(&one, "prod-1", &given);
    let by_another = other.prove(&given, made.key.digest()).unwrap();
    let refused = refusal(&bench, Rejoining { signature: by_another, ..rejoining.clone() }).await;
    assert!(refused.message.contains("signature"), "{}", refused.message);
    // Another's certificate, and one's own key.
    let refused = refusal(&bench, Rejoining { certificate_pem: other.certificate_pem(), ..rejoining }).await;
    assert_eq!(refused.reason, Reason::RejoinRefused);
    // One's own certificate, for another's name.
    let (_, rejoining) = proof(&one, "prod-2", &given);
    assert_eq!(refusal(&bench, rejoining).await.reason, Reason::FieldInvalid);
    // A request that was signed for is exchanged for another one.
    let (_, rejoining) = proof(&one, "prod-1", &given);
    let certificate_request_pem = key("prod-1").request_pem;
    let refused = refusal(&bench, Rejoining { certificate_request_pem, ..rejoining }).await;
    assert!(refused.message.contains("signature"), "{}", refused.message);
    assert_eq!(bench.events().iter().filter(|event| *event == "runner.rejoined").count(), 0);
}

#[tokio::test]
async fn after_the_window_and_where_there_is_none_nobody_comes_back() {
    let bench = Bench::new();
    let held = enrolled(&bench, "prod-1").await;
    bench.clock.advance(DAY * 8 - Duration::from_secs(1));
    let (_, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
    bench.clock.advance(Duration::from_secs(1));
    let begun = bench.use_cases.begin_rejoin(held.certificate_pem()).await.err().unwrap();
    for refused in [begun, refusal(&bench, rejoining).await] {
        assert_eq!(refused.reason, Reason::RejoinRefused);
        assert!(refused.message.contains("new join token"), "{}", refused.message);
    }
    let (outside, ends) = (bench.use_cases.outside.clone(), bench.use_cases.ends.clone());
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    let lifetimes = Lifetimes { certificate: DAY, rejoin: Duration::ZERO };
    let ways = crate::enrol::Ways { pods: Vec::new(), tokens: super::machines::rules(&bench.machines) };
    let off = Enrolling::new(outside, ends, bench.authority.clone(), domain, lifetimes, ways);
    let refused = off.begin_rejoin(&enrolled(&bench, "prod-2").await.certificate_pem()).await.err().unwrap();
    assert!(refused.message.contains("rejoinWindow"), "{}", refused.message);
}

#[tokio::test]
async fn who_was_banned_replaced_or_cloned_does_not_come_back() {
    for (act, expected) in
        [("ban", Reason::Banned), ("replace", Reason::EnrolmentEnded), ("clone", Reason::RunnerCloned)]
    {
        let bench = Bench::new();
        let held = enrolled(&bench, "prod-1").await;
        bench.clock.advance(DAY * 2);
        match act {
            "ban" => {
                let whom = BanKey::parse(&held.spiffe_id().to_string()).unwrap();
                bench.use_cases.ban(&bench.operator(), whom, "stolen".to_owned()).await.unwrap();
            }
            "replace" => drop(enrolled(&bench, "prod-1").await),
            _ => {
                let older = caller(&bench, &held, Digest::of_bytes(b"older"));
                assert_eq!(reason(bench.use_cases.admit(&older).await), Reason::RunnerCloned);
            }
        }
        let (_, rejoining) = proof(&held, "prod-1", &nonce(&bench, &held).await);
        assert_eq!(refusal(&bench, rejoining).await.reason, expected, "{act}");
    }
}
