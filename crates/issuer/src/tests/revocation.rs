//! How leases end, and what cannot slip through.

use shorepass_core::cluster::CutError;
use shorepass_core::ledger::LeaseFilter;
use shorepass_rpc::api::{
    Administration as _, BlocksAsked, Credentials as _, Outcome, Revocation, RevokeStep,
};
use tokio::sync::mpsc;

use super::receipts::revoke_these;
use super::*;
use crate::revoke::sweeper::Sweeper;
use crate::revoke::{LEASES_IN_A_COMMIT, MINT_IN_FLIGHT, RETRY_WINDOW};

pub(super) async fn revoke(bench: &Bench, filter: LeaseFilter, dry_run: bool) -> Vec<RevokeStep> {
    let (sender, mut receiver) = mpsc::channel(64);
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run, wait: false };
    bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap();
    let mut steps = Vec::new();
    while let Some(step) = receiver.recv().await {
        steps.push(step.unwrap());
    }
    steps
}

fn of_role() -> LeaseFilter {
    LeaseFilter { role: Some(name("deploy")), ..LeaseFilter::default() }
}

pub(super) fn sweeper(bench: &Bench) -> Sweeper {
    Sweeper::new(bench.use_cases.ends.clone(), name("staging"))
}

/// What goes on beside the end does so when it can.
fn without_proof(events: Vec<String>) -> Vec<String> {
    let of_the_proof = |event: &String| event.starts_with("control.") || event == "lease.receipt";
    events.into_iter().filter(|event| !of_the_proof(event)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_blocks_before_it_cuts() {
    let bench = Bench::new();
    let (caller, job, delivery) = bench.leased().await;
    let steps = revoke(&bench, of_role(), false).await;
    assert_eq!(steps[0].outcome, Outcome::Revoked);
    assert_eq!(without_proof(bench.events().split_off(4)), ["block.set", "lease.ending", "lease.ended"]);
    bench.until("the anchor to be gone, and the control", || bench.cluster.anchors().is_empty()).await;
    let refused = bench.issue(&caller, &job, bench.request()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Blocked);
    assert!(refused.message.contains("operator/alice") && refused.message.contains("leaked"), "{refused}");
    let refused = bench.refresh(&caller, delivery.issued.lease.id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseEnded);
    assert!(refused.message.contains("revoked by"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_says_how_many_there_are_and_whether_its_block_is_new() {
    let bench = Bench::new();
    let (caller, job, _) = bench.leased().await;
    bench.issue(&caller, &job, bench.request()).await.unwrap();
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    let steps = revoke(&bench, of_role(), false).await;
    let told = |steps: &[RevokeStep]| -> Vec<_> {
        steps.iter().map(|step| (step.total, step.block_set, step.view.block.is_some())).collect()
    };
    assert_eq!(told(&steps), [(2, true, true); 2]);
    // What is still ending is cut again; its block stands.
    let steps = revoke(&bench, of_role(), false).await;
    assert_eq!(told(&steps), [(1, false, true)]);
    assert_eq!(steps[0].outcome, Outcome::Revoked);
    let ended = LeaseFilter { lease: Some(steps[0].view.lease.id), ..LeaseFilter::default() };
    let steps = revoke(&bench, ended, false).await;
    assert_eq!((told(&steps), &steps[0].outcome), (vec![(1, false, true)], &Outcome::AlreadyEnded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_revocations_of_one_lease_at_once_have_one_effect() {
    let bench = Arc::new(Bench::new());
    let (_, _, delivery) = bench.leased().await;
    let one = LeaseFilter { lease: Some(delivery.issued.lease.id), ..LeaseFilter::default() };
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (bench, one) = (bench.clone(), one.clone());
            tokio::spawn(async move { revoke(&bench, one, false).await })
        })
        .collect();
    let mut blocks = 0;
    for task in tasks {
        let steps = task.await.unwrap();
        assert_eq!(steps.len(), 1, "each is told what became of the lease");
        assert!(matches!(steps[0].outcome, Outcome::Revoked | Outcome::AlreadyEnded), "{steps:?}");
        blocks += usize::from(steps[0].block_set);
    }
    assert_eq!(blocks, 1);
    assert_eq!(without_proof(bench.events().split_off(4)), ["block.set", "lease.ending", "lease.ended"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_listed_while_they_are_in_force() {
    let bench = Bench::new();
    bench.leased().await;
    let steps = revoke(&bench, of_role(), false).await;
    let block = steps[0].view.block.clone().unwrap();
    let listed = async |include_ended| {
        let asked = BlocksAsked { caller: None, role: None, include_ended, before: None, limit: 50 };
        let page = bench.use_cases.list_blocks(&bench.operator(), asked).await.unwrap();
        page.items.into_iter().map(|block| block.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(false).await, [block.id]);
    bench.use_cases.unblock(&bench.operator(), block.id).await.unwrap();
    assert!(listed(false).await.is_empty());
    assert_eq!(listed(true).await, [block.id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_job_of_the_same_runner_is_blocked_too() {
    let bench = Bench::new();
    let (caller, _, _) = bench.leased().await;
    revoke(&bench, of_role(), false).await;
    let other_job = bench.job(&caller).await;
    assert_eq!(reason(bench.issue(&caller, &other_job, bench.request()).await), Reason::Blocked);
    let other_runner = bench.caller("runner/prod-2");
    let job = bench.job(&other_runner).await;
    assert!(bench.issue(&other_runner, &job, bench.request()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_ends_with_unblock_or_at_the_leases_deadline() {
    let bench = Bench::new();
    let (caller, job, delivery) = bench.leased().await;
    revoke(&bench, of_role(), false).await;
    let view = bench.use_cases.get_lease(&bench.operator(), delivery.issued.lease.id).await.unwrap();
    let block = view.block.unwrap();
    assert_eq!(block.until, delivery.issued.lease.deadline);
    bench.use_cases.unblock(&bench.operator(), block.id).await.unwrap();
    let second = bench.issue(&caller, &job, bench.request()).await.unwrap();
    revoke(&bench, of_role(), false).await;
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::Blocked);
    bench.clock.advance(Duration::from_secs(3600));
    assert!(bench.issue(&caller, &job, bench.request()).await.is_ok());
    assert_eq!(bench.lease(second.issued.lease.id).state_name(), "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_changes_nothing() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    let before = bench.events();
    let steps = revoke(&bench, of_role(), true).await;
    assert_eq!(steps[0].outcome, Outcome::WouldRevoke);
    assert_eq!(bench.events(), before);
    assert!(bench.lease(delivery.issued.lease.id).is_live());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_revoked_while_it_is_minted_yields_no_token_and_keeps_no_anchor() {
    let bench = Arc::new(Bench::new());
    let caller = bench.caller("runner/prod-1");
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
    let steps = revoke(&bench, of_role(), false).await;
    assert!(matches!(steps[0].outcome, Outcome::Ending(_)), "the mint may still be in flight");
    go.send(()).unwrap();
    assert_eq!(reason(issuing.await.unwrap()), Reason::LeaseEnded);
    bench.until("the anchor to be cut", || bench.cluster.anchors().is_empty()).await;
    bench.clock.advance(MINT_IN_FLIGHT);
    sweeper(&bench).sweep().await.unwrap();
    assert_eq!(bench.lease(steps[0].view.lease.id).state_name(), "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweeper_ends_leases_at_their_deadline() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    let mut sweeper = sweeper(&bench);
    sweeper.sweep().await.unwrap();
    assert!(bench.lease(delivery.issued.lease.id).is_live());
    bench.clock.advance(Duration::from_secs(3600));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(delivery.issued.lease.id).state_name(), "ended");
    assert!(bench.cluster.anchors().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweeper_repeats_a_cut_that_failed() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    let id = delivery.issued.lease.id;
    let released = bench.use_cases.release(&caller, id).await.unwrap();
    assert_eq!(released.state_name(), "ending");
    sweeper(&bench).sweep().await.unwrap();
    assert_eq!(bench.lease(id).state_name(), "ended");
    assert!(bench.cluster.anchors().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deleted_is_counted_with_the_last_cause_until_it_is_gone() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    bench.use_cases.release(&caller, delivery.issued.lease.id).await.unwrap();
    let mut sweeper = sweeper(&bench);
    let counts =
        |sweeper: &Sweeper| sweeper.undeletable().into_iter().filter(|(_, count)| *count > 0).collect();
    for (cause, counted) in [
        (CutError::Forbidden("delete".to_owned()), "forbidden"),
        (CutError::HeldByFinalizer("web/shorepass-x".to_owned()), "finalizer"),
        (CutError::PartHeldByFinalizer("Secret web/x".to_owned()), "finalizer"),
    ] {
        bench.cluster.fail_next_cut(cause);
        sweeper.sweep().await.unwrap();
        let counts: Vec<_> = counts(&sweeper);
        assert_eq!(counts, [(counted, 1)]);
        bench.clock.advance(Duration::from_secs(61)); // the longest pause
    }
    sweeper.sweep().await.unwrap();
    let counts: Vec<_> = counts(&sweeper);
    assert!(counts.is_empty(), "{counts:?}");
    assert_eq!(sweeper.undeletable().len(), 4, "a gauge that is not set keeps its last value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_cluster_is_asked_for_no_cut_until_it_wants_to_be() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    let id = delivery.issued.lease.id;
    bench.use_cases.release(&caller, id).await.unwrap();
    let mut sweeper = sweeper(&bench);
    bench.cluster.fail_next_cut(CutError::Busy { retry_after: Duration::from_secs(30) });
    for _ in 0..3 {
        sweeper.sweep().await.unwrap();
        assert_eq!(bench.lease(id).state_name(), "ending");
        bench.clock.advance(Duration::from_secs(9));
    }
    bench.clock.advance(Duration::from_secs(9));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(id).state_name(), "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pending_before_the_start_is_settled() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let (bench, caller, job) = (Arc::new(bench), caller, job);
    let (minting, mut begun) = mpsc::unbounded_channel();
    let (_go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    bench.cluster.during_mint(Box::new(move |_| {
        minting.send(()).unwrap();
        // An issuer that dies here leaves the anchor and the pending record.
        let _ = tokio::task::block_in_place(|| wait.lock().unwrap().recv_timeout(Duration::from_secs(2)));
    }));
    let crashed = {
        let bench = bench.clone();
        tokio::spawn(async move { bench.issue(&caller, &job, bench.request()).await.map(|_| ()) })
    };
    begun.recv().await.unwrap();
    let pending = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    let mut sweeper = sweeper(&bench);
    bench.clock.advance(RETRY_WINDOW);
    sweeper.sweep().await.unwrap();
    assert!(bench.lease(pending[0].id).is_live(), "its attempt is at work");
    bench.use_cases.outside.attempts.forget(pending[0].id); // the crash
    sweeper.sweep().await.unwrap();
    let found = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    assert_eq!(found[0].state_name(), "ending");
    assert!(bench.cluster.anchors().is_empty());
    bench.clock.advance(MINT_IN_FLIGHT);
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(found[0].id).state_name(), "ended");
    assert_eq!(reason(crashed.await.unwrap()), Reason::LeaseEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_goes_through_although_leases_move_meanwhile() {
    let bench = Arc::new(Bench::new());
    for runner in 0..30 {
        let caller = bench.caller(&format!("runner/prod-{runner}"));
        let job = bench.job(&caller).await;
        let lease = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease.id;
        if runner % 2 == 0 {
            let bench = bench.clone();
            tokio::spawn(async move { bench.use_cases.release(&caller, lease).await });
        }
    }
    revoke(&bench, of_role(), false).await;
    bench.until("all leases to end", || bench.ledger.leases(&of_role(), None, 50).unwrap().is_empty()).await;
    bench.until("all anchors to be gone", || bench.cluster.anchors().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unblock_frees_a_runner_that_was_revoked_twice() {
    let bench = Bench::new();
    let (caller, job, _) = bench.leased().await;
    bench.issue(&caller, &job, bench.request()).await.unwrap();
    let steps = revoke(&bench, of_role(), false).await;
    assert_eq!(steps.len(), 2);
    let block = steps[0].view.block.clone().unwrap();
    bench.use_cases.unblock(&bench.operator(), block.id).await.unwrap();
    assert!(bench.issue(&caller, &job, bench.request()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweeper_ends_what_a_replaced_enrolment_left() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.enrol(&caller).await;
    let enrolment = bench.ledger.enrolment(caller.enrolment()).unwrap().unwrap();
    let replaced = enrolment.replace(bench.clock.now());
    bench.ledger.commit(vec![Change::EnrolmentReplaced { enrolment: replaced }]).await.unwrap();
    sweeper(&bench).sweep().await.unwrap();
    assert_eq!(bench.lease(delivery.issued.lease.id).state_name(), "ended");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_an_error_and_what_is_known_is_none() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.use_cases.release(&caller, delivery.issued.lease.id).await.unwrap();
    bench.enrol(&bench.caller("runner/prod-2")).await;
    let every = LeaseFilter::default;
    let of = |id: &str| Some(SpiffeId::parse(&format!("spiffe://{DOMAIN}/{id}")).unwrap());
    for (filter, says) in [
        (
            LeaseFilter { cluster: Some(name("stagin")), ..every() },
            "no cluster stagin, and no lease in one lives; it has staging",
        ),
        (
            LeaseFilter { role: Some(name("deplyo")), ..every() },
            "no role deplyo, and no lease of one lives; it has deploy",
        ),
        (LeaseFilter { caller: of("runner/prod-3"), ..every() }, "runner/prod-3 is not known to this issuer"),
        (LeaseFilter { caller: of("platform/prod-1"), ..every() }, "platform/prod-1 is not known"),
    ] {
        for dry_run in [true, false] {
            let (sender, _) = mpsc::channel(8);
            let revocation =
                Revocation { filter: filter.clone(), reason: "x".to_owned(), dry_run, wait: false };
            let refused = bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap_err();
            assert_eq!(refused.reason, Reason::FieldInvalid);
            assert!(refused.message.contains(says), "{refused}");
        }
    }
    for filter in [
        LeaseFilter { cluster: Some(name("staging")), ..every() },
        LeaseFilter { role: Some(name("release")), ..every() },
        LeaseFilter { caller: of("runner/prod-1"), ..every() }, // it held a lease
        LeaseFilter { caller: of("runner/prod-2"), ..every() },
        LeaseFilter { caller: of("platform/portal"), ..every() },
        every(),
    ] {
        assert!(revoke(&bench, filter, false).await.is_empty());
    }
}

#[tokio::test]
async fn all_blocks_of_a_large_revocation_are_recorded_before_the_first_end() {
    const LEASES: usize = 2 * LEASES_IN_A_COMMIT + 20;
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    for _ in 0..LEASES {
        bench.issue(&caller, &job, bench.request()).await.unwrap();
    }
    let before = bench.events().len();
    let filter = LeaseFilter { role: Some(name("deploy")), ..LeaseFilter::default() };
    assert_eq!(revoke_these(&bench, filter, false).await.len(), LEASES);
    let events = bench.events().split_off(before);
    assert!(events[..LEASES].iter().all(|event| event == "block.set"), "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "lease.ending").count(), LEASES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_back_holds_up_no_delete() {
    let busy = CutError::Busy { retry_after: Duration::from_secs(5) };
    for cause in [busy, CutError::Unreachable("on purpose".to_owned())] {
        let bench = Bench::new();
        let (caller, _, delivery) = bench.leased().await;
        let mut sweeper = sweeper(&bench);
        bench.cluster.fail_next_cut(cause.clone());
        let _ = bench.use_cases.release(&caller, delivery.issued.lease.id).await;
        bench.cluster.fail_next_cut(cause.clone());
        sweeper.sweep().await.unwrap();
        assert_eq!(bench.cluster.anchors().len(), 1, "{cause:?}");
        bench.clock.set_back(Duration::from_secs(3 * 3_600));
        bench.clock.advance(Duration::from_secs(10));
        sweeper.sweep().await.unwrap();
        assert_eq!(bench.cluster.anchors().len(), 0, "{cause:?}");
    }
}
