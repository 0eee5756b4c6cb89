//! The lineage of a runner's certificates: renewals, lost replies, and clones.

use shorepass_core::enrolment::lineage::OVERTAKEN_GRACE;
use shorepass_rpc::api::{Administration as _, Enrolling, Enrolments as _, Ticket};
use shorepass_tls::{CertificateRequest, KeyAndRequest};
use zeroize::Zeroizing;

use super::issuing::failing_after;
use super::*;

const RUNNER: &str = "spiffe://ci.example.org/runner/prod-1";

/// A certificate of a runner, as its calls show it.
struct Held {
    caller: Caller,
}

impl Held {
    fn with(caller: &Caller, key: Digest) -> Self {
        let caller = Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: caller.spiffe_id().clone(),
            enrolment: caller.enrolment(),
            issued: caller.issued(),
            expires: caller.expires(),
            authority: caller.authority(),
            certificate: key,
            key,
        });
        Self { caller }
    }

    async fn first(bench: &Bench) -> Self {
        let held = Self::with(&bench.caller("runner/prod-1"), Digest::of_bytes(b"first"));
        bench.enrol(&held.caller).await;
        held
    }

    async fn call(&self, bench: &Bench) -> Option<Reason> {
        bench.use_cases.admit(&self.caller).await.err().map(|refused| refused.reason)
    }

    /// What comes of it, if the reply arrives.
    async fn renew(&self, bench: &Bench, request_pem: &[u8]) -> Result<Self, Refused> {
        bench.use_cases.renew(&self.caller, request_pem.to_vec()).await?;
        Ok(Self::with(&self.caller, CertificateRequest::parse(request_pem).unwrap().key()))
    }
}

fn request() -> Vec<u8> {
    KeyAndRequest::generate(&SpiffeId::parse(RUNNER).unwrap()).unwrap().request_pem
}

fn count(bench: &Bench, event: &str) -> usize {
    bench.events().iter().filter(|it| *it == event).count()
}

async fn join(bench: &Bench, replace: bool) -> Option<Reason> {
    let asked = join_token_asked("prod-*", replace);
    let made = bench.use_cases.create_join_token(&bench.operator(), bench.request(), asked).await.unwrap();
    let ticket = Ticket::JoinToken(Zeroizing::new(made.text.to_string()));
    let enrolling = Enrolling { ticket, name: name("prod-1"), certificate_request_pem: request() };
    bench.use_cases.enroll(enrolling).await.err().map(|refused| refused.reason)
}

#[tokio::test]
async fn a_lost_reply_raises_no_alarm_also_across_a_restart() {
    let bench = Bench::new();
    let first = Held::first(&bench).await;
    let asked = request();
    assert!(first.renew(&bench, &asked).await.is_ok(), "and the reply is lost");
    bench.clock.advance(OVERTAKEN_GRACE * 10);
    assert_eq!(first.call(&bench).await, None);

    let bench = bench.restarted();
    bench.clock.advance(OVERTAKEN_GRACE * 10);
    assert_eq!(first.call(&bench).await, None);
    let next = first.renew(&bench, &asked).await.unwrap();
    let restarted_agent = first.renew(&bench, &request()).await.unwrap();
    assert_eq!((first.call(&bench).await, restarted_agent.call(&bench).await), (None, None));
    assert_eq!((count(&bench, "runner.renewal-used"), count(&bench, "runner.cloned")), (1, 0));
    // The reply that was overtaken is with nobody; if it is, there are two.
    bench.clock.advance(OVERTAKEN_GRACE);
    assert_eq!(next.call(&bench).await, Some(Reason::RunnerCloned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_use_of_a_renewal_is_one_change_however_many_calls_there_are() {
    let bench = Arc::new(Bench::new());
    let first = Held::first(&bench).await;
    let next = Arc::new(first.renew(&bench, &request()).await.unwrap());
    let calls = (0..20).map(|_| {
        let (bench, next) = (bench.clone(), next.clone());
        tokio::spawn(async move { next.call(&bench).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), None);
    }
    assert_eq!(next.call(&bench).await, None);
    assert_eq!(count(&bench, "runner.renewal-used"), 1);
    assert_eq!(first.call(&bench).await, None, "a call that was under way is no clone");
    let enrolment = bench.ledger.enrolment(first.caller.enrolment()).unwrap().unwrap();
    assert_eq!((enrolment.generation, enrolment.key, enrolment.next), (2, next.caller.key(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_an_older_certificate_is_cut_off_and_so_is_who_uses_the_newest() {
    let bench = Bench::new();
    let first = Held::first(&bench).await;
    let job = bench.job(&first.caller).await;
    let lease = bench.issue(&first.caller, &job, bench.request()).await.unwrap().issued.lease.id;
    let next = first.renew(&bench, &request()).await.unwrap();
    assert_eq!(next.call(&bench).await, None);
    bench.clock.advance(OVERTAKEN_GRACE);
    assert_eq!(first.call(&bench).await, Some(Reason::RunnerCloned));

    let events = bench.events();
    let found = events.iter().position(|event| event == "runner.cloned").unwrap();
    assert_eq!(events[found + 1], "lease.ending", "in one commit");
    let line = bench.ledger.audit_lines()[found].clone();
    let certificate = first.caller.certificate().to_string();
    for part in [RUNNER, &certificate, "after another one had taken its place", r#""generation":2"#] {
        assert!(line.contains(part), "{part}: {line}");
    }
    bench.until("the lease to end", || bench.lease(lease).state_name() == "ended").await;
    for half in [&first, &next] {
        let refused = bench.use_cases.admit(&half.caller).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RunnerCloned);
        assert!(refused.message.contains("--replace"), "{}", refused.message);
        assert_eq!(half.renew(&bench, &request()).await.err().unwrap().reason, Reason::RunnerCloned);
        assert!(bench.use_cases.check_enrolment(&half.caller).is_err(), "its streams end");
        assert!(bench.issue(&half.caller, &job, bench.request()).await.is_err(), "nothing slips through");
    }
    assert_eq!(count(&bench, "runner.cloned"), 1);

    let bench = bench.restarted();
    assert_eq!(next.call(&bench).await, Some(Reason::RunnerCloned));
    assert_eq!(join(&bench, false).await, Some(Reason::RunnerCloned), "an operator has to look first");
    assert_eq!(join(&bench, true).await, None);
    assert_eq!(next.call(&bench).await, Some(Reason::EnrolmentEnded));
}

#[tokio::test]
async fn who_renews_an_older_certificate_is_found_at_once() {
    let bench = Bench::new();
    let first = Held::first(&bench).await;
    let asked = request();
    let next = first.renew(&bench, &asked).await.unwrap();
    assert_eq!(next.call(&bench).await, None);
    assert!(first.renew(&bench, &asked).await.is_ok(), "the same request comes again, late");
    assert_eq!(first.renew(&bench, &request()).await.err().unwrap().reason, Reason::RunnerCloned);
    assert_eq!(next.call(&bench).await, Some(Reason::RunnerCloned));
}

#[tokio::test]
async fn a_first_use_that_cannot_be_recorded_is_let_through_and_recorded_later() {
    for audit in [false, true] {
        let bench = failing_after(1, audit);
        let first = Held::first(&bench).await;
        let next = first.renew(&bench, &request()).await.unwrap();
        assert_eq!(next.call(&bench).await, None);
        let bench = bench.restarted();
        assert_eq!((count(&bench, "runner.renewal-used"), next.call(&bench).await), (0, None));
        assert_eq!(count(&bench, "runner.renewal-used"), 1);
    }
}

#[tokio::test]
async fn a_renewal_is_for_another_key() {
    let bench = Bench::new();
    let asked = request();
    let caller = Held::first(&bench).await.caller;
    let held = Held::with(&caller, CertificateRequest::parse(&asked).unwrap().key());
    let refused = held.renew(&bench, &asked).await.err().unwrap();
    assert_eq!(refused.reason, Reason::FieldInvalid);
    assert!(refused.message.contains("a new one for each renewal"), "{}", refused.message);
}
