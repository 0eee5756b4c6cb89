//! Bans: in which order things happen, who is refused what, and what cannot slip through.

use shorepass_core::ban::{Ban, BanKey, Banned};
use shorepass_core::caller::Owner;
use shorepass_core::ledger::Revision;
use shorepass_rpc::api::{
    Administration as _, Credentials as _, Enrolling, Enrolments as _, Page, Shutout, Ticket,
};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::*;
use crate::ban::list::BanList;
use crate::revoke::sweeper::Sweeper;

fn key(id: &str) -> BanKey {
    BanKey::parse(&format!("spiffe://{DOMAIN}/{id}")).unwrap()
}

async fn ban(bench: &Bench, whom: BanKey) -> Result<Shutout, Refused> {
    bench.use_cases.ban(&bench.operator(), whom, "stolen".to_owned()).await
}

async fn listed(bench: &Bench, include_lifted: bool) -> Vec<String> {
    let Page { items, next } =
        bench.use_cases.list_bans(&bench.operator(), include_lifted, None, 200).await.unwrap();
    assert_eq!(next, None);
    items.into_iter().map(|ban| ban.banned.key().to_string()).collect()
}

/// A caller under that name whose enrolment is in the ledger.
async fn enrolled(bench: &Bench, id: &str) -> Caller {
    let caller = bench.caller(id);
    bench.enrol(&caller).await;
    caller
}

fn check(bench: &Bench, caller: &Caller) -> Option<Reason> {
    bench.use_cases.check_enrolment(caller).err().map(|refused| refused.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_is_durable_before_leases_end_and_then_everything_is_refused() {
    let bench = Bench::new();
    let caller = enrolled(&bench, "runner/prod-1").await;
    let job = bench.job(&caller).await;
    let lease = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease.id;
    let shutout = ban(&bench, key("runner/prod-1")).await.unwrap();
    assert_eq!((shutout.leases, shutout.ban.reason.as_str()), (1, "stolen"));
    bench.until("the lease to end", || bench.lease(lease).state_name() == "ended").await;
    assert_eq!(bench.events()[5..], ["ban.set", "lease.ending", "lease.ended"]);
    let (cause, _) = bench.lease(lease).end_cause().map(|(cause, at)| (cause.describe(), at)).unwrap();
    assert!(cause.ends_with("banned by spiffe://ci.example.org/operator/alice"), "{cause}");

    let refused = bench.use_cases.check_enrolment(&caller).unwrap_err();
    assert_eq!(refused.reason, Reason::Banned);
    assert!(refused.message.contains("operator/alice") && refused.message.contains("shorepass unban"));
    assert!(!refused.message.contains("stolen"), "the reason is for operators");
    // Also where a call had passed that check already.
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::Banned);
    assert_eq!(reason(bench.use_cases.refresh(&caller, &bench.call(), lease, None).await), Reason::Banned);
    assert_eq!(bench.events().iter().filter(|event| *event == "request.refused").count(), 2);
    // Its blocks are not touched: there are none, and none is set.
    assert!(bench.ledger.blocks(caller.spiffe_id(), &name("deploy")).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_can_be_banned_and_nobody_else_is_hit() {
    for kind in ["runner", "platform", "operator"] {
        let bench = Bench::new();
        let banned = enrolled(&bench, &format!("{kind}/prod-1")).await;
        let other = enrolled(&bench, &format!("{kind}/prod-10")).await;
        let same_name = ["runner", "platform", "operator"].into_iter().filter(|other| *other != kind);
        ban(&bench, key(&format!("{kind}/prod-1"))).await.unwrap();
        assert_eq!((check(&bench, &banned), check(&bench, &other)), (Some(Reason::Banned), None), "{kind}");
        for kind in same_name {
            let caller = enrolled(&bench, &format!("{kind}/prod-1")).await;
            assert_eq!(check(&bench, &caller), None, "{kind}");
        }
    }
}

#[tokio::test]
async fn some_cannot_be_banned() {
    let bench = Bench::new();
    let unknown = EnrolmentId::generate(bench.clock.now(), bench.entropy.as_ref());
    for (whom, expected) in [
        (key("operator/alice"), Reason::FieldInvalid),
        (key("issuer/main"), Reason::FieldInvalid),
        (BanKey::parse("spiffe://other.example.org/runner/prod-1").unwrap(), Reason::FieldInvalid),
        (BanKey::Enrolment(unknown), Reason::RecordNotFound),
    ] {
        assert_eq!(reason(ban(&bench, whom.clone()).await), expected, "{whom}");
    }
    let alice = bench.operator();
    bench.enrol(&alice).await;
    let own = BanKey::Enrolment(alice.enrolment());
    assert_eq!(reason(bench.use_cases.ban(&alice, own, "x".to_owned()).await), Reason::FieldInvalid);
    assert!(listed(&bench, true).await.is_empty());
    // A platform's enrolment is in no ledger; it was written down when it was made.
    let shutout = ban(&bench, BanKey::parse(PORTAL).unwrap()).await.unwrap();
    assert_eq!(shutout.ban.banned.spiffe_id().to_string(), format!("spiffe://{DOMAIN}/platform/portal"));
}

async fn join(bench: &Bench, runner: &str, replace: bool) -> Result<(), Refused> {
    let asked = join_token_asked(runner, replace);
    let made = bench.use_cases.create_join_token(&bench.operator(), bench.request(), asked).await;
    let id = SpiffeId::parse(&format!("spiffe://{DOMAIN}/runner/{runner}")).unwrap();
    let ticket = Ticket::JoinToken(Zeroizing::new(made.unwrap().text.to_string()));
    let certificate_request_pem = shorepass_tls::KeyAndRequest::generate(&id).unwrap().request_pem;
    let enrolling = Enrolling { ticket, name: name(runner), certificate_request_pem };
    bench.use_cases.enroll(enrolling).await.map(|_| ())
}

#[tokio::test]
async fn a_banned_name_cannot_be_enrolled_anew_and_a_banned_enrolment_can_be_replaced() {
    let bench = Bench::new();
    let caller = enrolled(&bench, "runner/prod-1").await;
    ban(&bench, key("runner/prod-1")).await.unwrap();
    for replace in [false, true] {
        assert_eq!(reason(join(&bench, "prod-1", replace).await), Reason::Banned);
    }
    assert!(!bench.events().iter().any(|event| event == "join-token.taken"), "a join token was used up");
    bench.use_cases.unban(&bench.operator(), key("runner/prod-1")).await.unwrap();
    assert_eq!(check(&bench, &caller), None);
    assert_eq!(reason(join(&bench, "prod-1", false).await), Reason::EnrolmentExists);

    ban(&bench, BanKey::Enrolment(caller.enrolment())).await.unwrap();
    assert_eq!(check(&bench, &caller), Some(Reason::Banned));
    join(&bench, "prod-1", false).await.unwrap();
    let latest = bench.ledger.latest_enrolment(caller.spiffe_id()).unwrap().unwrap();
    let again = Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: caller.spiffe_id().clone(),
        enrolment: latest.id,
        issued: caller.issued(),
        expires: caller.expires(),
        authority: caller.authority(),
        certificate: caller.certificate(),
        key: Digest::of_bytes(b"key"),
    });
    assert_eq!(check(&bench, &again), None);
    // The old one stays out when its ban is lifted: its name has gone.
    bench.use_cases.unban(&bench.operator(), BanKey::Enrolment(caller.enrolment())).await.unwrap();
    assert_eq!(check(&bench, &caller), Some(Reason::EnrolmentEnded));
}

#[tokio::test]
async fn a_renewal_that_passed_the_check_before_the_ban_gets_nothing() {
    let bench = Bench::new();
    let caller = enrolled(&bench, "runner/prod-1").await;
    ban(&bench, key("runner/prod-1")).await.unwrap();
    let request = shorepass_tls::KeyAndRequest::generate(caller.spiffe_id()).unwrap().request_pem;
    assert_eq!(reason(bench.use_cases.renew(&caller, request).await), Reason::Banned);
    assert!(!bench.events().iter().any(|event| event == "runner.renewed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_minted_while_its_owner_is_banned_yields_no_token() {
    let bench = Arc::new(Bench::new());
    let caller = enrolled(&bench, "runner/prod-1").await;
    let job = bench.job(&caller).await;
    let (minting, mut begun) = mpsc::unbounded_channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    bench.cluster.during_mint(Box::new(move |_| {
        minting.send(()).unwrap();
        tokio::task::block_in_place(|| wait.lock().unwrap().recv().unwrap());
    }));
    let issuing = {
        let (bench, caller, job) = (bench.clone(), caller.clone(), job.clone());
        tokio::spawn(async move { bench.issue(&caller, &job, bench.request()).await.map(|_| ()) })
    };
    begun.recv().await.unwrap();
    assert_eq!(ban(&bench, key("runner/prod-1")).await.unwrap().leases, 1);
    go.send(()).unwrap();
    assert_eq!(reason(issuing.await.unwrap()), Reason::Banned);
    bench.until("the anchor to be cut", || bench.cluster.anchors().is_empty()).await;
    assert!(!bench.events().iter().any(|event| event == "token.minted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_waits_for_a_lease_that_is_being_decided_and_then_ends_it() {
    let bench = Arc::new(Bench::new());
    let caller = enrolled(&bench, "runner/prod-1").await;
    let job = bench.job(&caller).await;
    let deciding = bench.use_cases.outside.gate.read().await;
    let banning = {
        let bench = bench.clone();
        tokio::spawn(async move { ban(&bench, key("runner/prod-1")).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(check(&bench, &caller), None, "the ban came in between a decision and its record");
    drop(deciding);
    banning.await.unwrap().unwrap();
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::Banned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_runners_that_ask_while_they_are_banned_are_left_with_nothing() {
    let bench = Arc::new(Bench::new());
    let caller = enrolled(&bench, "runner/prod-1").await;
    let job = bench.job(&caller).await;
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (bench, caller, job) = (bench.clone(), caller.clone(), job.clone());
            tokio::spawn(async move { bench.issue(&caller, &job, bench.request()).await.map(|_| ()) })
        })
        .collect();
    ban(&bench, key("runner/prod-1")).await.unwrap();
    for asked in asking {
        let _ = asked.await.unwrap();
    }
    let filter = shorepass_core::ledger::LeaseFilter::default();
    bench
        .until("all leases to end", || {
            bench.ledger.leases(&filter, None, 200).unwrap().iter().all(|lease| !lease.is_live())
        })
        .await;
    bench.until("all anchors to be cut", || bench.cluster.anchors().is_empty()).await;
    let events = bench.events();
    let set = events.iter().position(|event| event == "ban.set").unwrap();
    assert!(!events[set..].iter().any(|event| event == "lease.pending" || event == "token.minted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_right_after_the_ban_leaves_the_leases_to_the_sweeper_and_the_next_start_knows_it() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let (other, _, others) = {
        let other = bench.caller("runner/prod-2");
        let job = bench.job(&other).await;
        let delivery = bench.issue(&other, &job, bench.request()).await.unwrap();
        (other, job, delivery)
    };
    let by = bench.operator();
    let banned = Banned::Enrolment(caller.owner());
    let set = Ban::set(banned, None, &by, "stolen".to_owned(), bench.clock.now()).unwrap();
    bench.ledger.commit(vec![Change::BanSet { ban: set.clone() }]).await.unwrap();
    let loaded = BanList::default();
    loaded.read(bench.ledger.as_ref()).unwrap();
    assert_eq!(loaded.on(&caller.owner()).as_deref(), Some(&set));
    assert_eq!(loaded.on(&Owner { enrolment: other.enrolment(), ..caller.owner() }), None);
    bench.use_cases.outside.bans.put(set);

    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(delivery.issued.lease.id).state_name(), "ended");
    assert!(bench.lease(others.issued.lease.id).is_live());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_that_stands_is_not_set_again_and_an_unban_that_came_before_is_told() {
    let bench = Arc::new(Bench::new());
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { ban(&bench, key("platform/portal")).await.unwrap() })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().ban.revision, Revision::FIRST);
    }
    assert_eq!(bench.events(), ["ban.set"]);
    let operator = bench.operator();
    bench.use_cases.unban(&operator, key("platform/portal")).await.unwrap();
    let again = bench.use_cases.unban(&operator, key("platform/portal")).await;
    assert_eq!(reason(again), Reason::RecordNotFound);
    assert_eq!((listed(&bench, false).await.len(), listed(&bench, true).await.len()), (0, 1));
    ban(&bench, key("platform/portal")).await.unwrap();
    assert_eq!(bench.events(), ["ban.set", "ban.lifted", "ban.set"]);
    assert_eq!(listed(&bench, false).await, [key("platform/portal").to_string()]);
}

#[tokio::test]
async fn before_it_is_known_who_is_banned_nobody_is_let_in() {
    let bench = Bench::unread();
    let callers = ["runner/prod-1", "platform/portal", "operator/alice"].map(|id| bench.caller(id));
    for caller in &callers {
        let refused = bench.use_cases.check_enrolment(caller).unwrap_err();
        assert_eq!(refused.reason, Reason::StoreUnavailable, "{refused:?}");
    }
    bench.use_cases.outside.bans.read(bench.ledger.as_ref()).unwrap();
    for caller in &callers[1..] {
        bench.use_cases.check_enrolment(caller).unwrap();
    }
}
