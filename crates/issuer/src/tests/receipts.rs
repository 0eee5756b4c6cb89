//! What is proved about ends, and what a cut does not wait for. Time is paused: it passes when everybody waits.

use shorepass_core::cluster::CutError;
use shorepass_core::lease::AnchorName;
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::receipt::{
    ACCEPTED_FOR, Answer, Control, LAG_BOUND, Receipt, Verdict, Why, Witnesses as _,
};
use shorepass_rpc::api::{Administration as _, Awaited, Credentials as _, Outcome, Revocation, RevokeStep};
use shorepass_testing::outside::Question;
use tokio::sync::mpsc;

use super::*;
use crate::prove::{SAMPLE, WINDOW};
use crate::revoke::MINT_IN_FLIGHT;
use crate::revoke::operators::LEISURE;
use crate::revoke::sweeper::Sweeper;

/// Revokes everything of the role and waits for the receipts.
async fn revoke(bench: &Bench) -> Vec<RevokeStep> {
    revoke_with(bench, true).await
}

async fn revoke_with(bench: &Bench, wait: bool) -> Vec<RevokeStep> {
    let filter = LeaseFilter { role: Some(name("deploy")), ..LeaseFilter::default() };
    revoke_these(bench, filter, wait).await
}

pub(super) async fn revoke_these(bench: &Bench, filter: LeaseFilter, wait: bool) -> Vec<RevokeStep> {
    let (sender, mut receiver) = mpsc::channel(64);
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait };
    let operator = bench.operator();
    let revoking = bench.use_cases.revoke(&operator, revocation, sender);
    let listening = async {
        let mut steps = Vec::new();
        while let Some(step) = receiver.recv().await {
            steps.push(step.unwrap());
        }
        steps
    };
    let (revoked, steps) = tokio::join!(revoking, listening);
    revoked.unwrap();
    steps
}

/// A lease that is older than the lag bound.
async fn old_lease(bench: &Bench) -> (Caller, Job, Delivery) {
    let leased = bench.leased().await;
    bench.clock.advance(LAG_BOUND);
    leased
}

/// The receipt of the one lease that is revoked.
async fn receipt(bench: &Bench) -> Receipt {
    let steps = revoke(bench).await;
    assert_eq!(steps[0].receipt, Awaited::Follows, "{steps:?}");
    assert_eq!(steps[1].receipt, Awaited::Arrived, "{steps:?}");
    Receipt::clone(steps[1].view.lease.receipt.as_ref().unwrap())
}

fn why(receipt: &Receipt) -> Why {
    match &receipt.verdict {
        Verdict::Unproved(unproved) => unproved.why,
        proved => panic!("{proved:?}"),
    }
}

async fn without_controls(bench: &Bench) {
    bench.until("the control to be gone", || bench.cluster.anchors().is_empty()).await;
    bench
        .until("its record to be gone", || bench.ledger.controls(&name("staging")).unwrap().is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_gets_a_receipt_that_is_recorded_and_leaves_no_control() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    let (_, _, delivery) = old_lease(&bench).await;
    let receipt = receipt(&bench).await;
    let now = bench.clock.now();
    let death = *receipt.verdict.death().unwrap();
    assert_eq!(receipt.verdict.word(), "proved");
    assert_eq!((death.refused, death.observed_at, death.dead_by), (now, now, after(now, ACCEPTED_FOR)));
    assert_eq!(receipt.endpoints, ["cluster.example:6443"]);
    assert_eq!(receipt.canaries.len(), 3, "before, after, control: {receipt:?}");
    without_controls(&bench).await;
    assert_eq!(bench.lease(delivery.issued.lease.id).receipt.as_deref(), Some(&receipt));
    let mut events = bench.events().split_off(4);
    events.sort();
    assert_eq!(
        events,
        ["block.set", "control.gone", "control.planned", "lease.ended", "lease.ending", "lease.receipt"]
    );
}

#[tokio::test(start_paused = true)]
async fn behind_one_url_it_is_assumed() {
    let bench = Bench::new();
    old_lease(&bench).await;
    assert_eq!(receipt(&bench).await.verdict.word(), "assumed");
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_confirmed_and_not_done_is_sent_again_until_the_anchor_is_gone_and_proved_anew() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    let (_, _, delivery) = old_lease(&bench).await;
    bench.cluster.pretend_cuts(3);
    assert_eq!(why(&receipt(&bench).await), Why::StillAccepted);
    let receipt = || bench.lease(delivery.issued.lease.id).receipt.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(receipt().verdict.word(), "proved", "{:?}", receipt());
    without_controls(&bench).await;
    let canaries = bench.cluster.canaries();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.cluster.canaries(), canaries, "what is gone is left alone");
}

#[tokio::test(start_paused = true)]
async fn what_one_server_says_is_no_proof_once_there_is_another() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    bench.cluster.gets_another_server();
    old_lease(&bench).await;
    let receipt = receipt(&bench).await;
    assert_eq!((receipt.verdict.word(), receipt.endpoints.len()), ("assumed", 1), "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cut_does_not_wait_for_late_canaries() {
    let bench = Bench::new();
    old_lease(&bench).await;
    bench.cluster.slow_canaries(Duration::from_secs(3600));
    let start = tokio::time::Instant::now();
    let cutting = async {
        bench.until("the cut", || bench.cluster.anchors().is_empty()).await;
        start.elapsed()
    };
    let (steps, took) = tokio::join!(revoke_with(&bench, false), cutting);
    assert!(took >= WINDOW && took < WINDOW + Duration::from_millis(50), "{took:?}");
    let id = steps[0].view.lease.id;
    bench.until("the receipt", || bench.lease(id).receipt.is_some()).await;
    assert_eq!(why(&bench.lease(id).receipt.unwrap()), Why::CanariesLate);
}

#[tokio::test(start_paused = true)]
async fn who_waits_ends_leases_when_their_canaries_are_there_and_cuts_at_once() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    old_lease(&bench).await;
    bench.cluster.slow_canaries(2 * WINDOW);
    let start = tokio::time::Instant::now();
    let cutting = async {
        bench.until("the end", || bench.events().contains(&"lease.ending".to_owned())).await;
        let ended = start.elapsed();
        bench.until("the cut", || bench.events().contains(&"lease.ended".to_owned())).await;
        (ended, start.elapsed())
    };
    let (receipt, (ended, cut)) = tokio::join!(receipt(&bench), cutting);
    assert!(ended > WINDOW && cut < ended + WINDOW, "{ended:?} {cut:?}");
    assert_eq!(receipt.verdict.word(), "proved");
}

#[tokio::test(start_paused = true)]
async fn canaries_that_never_come_hold_up_a_revocation_for_its_leisure_at_most() {
    let bench = Bench::new();
    let leases = SAMPLE;
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    for _ in 0..leases {
        bench.issue(&caller, &job, bench.request()).await.unwrap();
    }
    bench.clock.advance(LAG_BOUND);
    bench.cluster.slow_canaries(Duration::from_secs(3600));
    let start = tokio::time::Instant::now();
    let cutting = async {
        tokio::time::sleep(LEISURE).await;
        bench.until("the cuts", || bench.cluster.anchors().is_empty()).await;
        start.elapsed()
    };
    let (steps, took) = tokio::join!(revoke(&bench), cutting);
    assert_eq!(steps.iter().filter(|step| step.receipt == Awaited::Arrived).count(), leases);
    assert!(took < LEISURE + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_everything_proves_nothing() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    old_lease(&bench).await;
    bench.cluster.answer(Box::new(|_| Answer::Refused));
    assert_eq!(why(&receipt(&bench).await), Why::NotAcceptedBefore);
    assert!(bench.cluster.controls().is_empty(), "a control for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_a_living_anchor_after_the_cut_proves_nothing() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    old_lease(&bench).await;
    let until_the_cut = |question: Question| question.alive && !question.control;
    let answer = move |question| if until_the_cut(question) { Answer::Accepted } else { Answer::Refused };
    bench.cluster.answer(Box::new(answer));
    assert_eq!(why(&receipt(&bench).await), Why::ControlRefused);
    without_controls(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_watch_lags_is_asked_again() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    old_lease(&bench).await;
    // It goes on accepting: before the cut, and once after.
    let answer = |Question { alive, before, .. }| {
        if alive || before < 2 { Answer::Accepted } else { Answer::Refused }
    };
    bench.cluster.answer(Box::new(answer));
    let receipt = receipt(&bench).await;
    assert_eq!((receipt.verdict.word(), receipt.canaries.len()), ("proved", 4));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_may_not_have_seen_the_anchor_yet_is_believed_after_the_lag_bound() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    bench.leased().await;
    let receipt = receipt(&bench).await;
    let death = *receipt.verdict.death().unwrap();
    assert_eq!(death.refused, bench.clock.now());
    assert_eq!(death.observed_at, after(bench.clock.now(), LAG_BOUND), "the deletion is seen by then");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_deleted_is_not_proved_and_asked_anew_when_it_is() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    let (_, _, delivery) = old_lease(&bench).await;
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    let steps = revoke(&bench).await;
    assert!(matches!(steps[0].outcome, Outcome::Ending(_)));
    assert_eq!(why(steps[1].view.lease.receipt.as_ref().unwrap()), Why::NotDeleted);
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    sweeper.sweep().await.unwrap();
    let lease = || bench.lease(delivery.issued.lease.id);
    let proved = || lease().receipt.is_some_and(|receipt| receipt.verdict.word() == "proved");
    bench.until("the second receipt", proved).await;
    assert_eq!(lease().state_name(), "ended");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_of_the_delete_that_succeeds_a_moment_later() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    old_lease(&bench).await;
    bench.cluster.fail_next_cut(CutError::Unreachable("on purpose".to_owned()));
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    let sweeping = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        sweeper.sweep().await.unwrap();
    };
    let (steps, ()) = tokio::join!(revoke(&bench), sweeping);
    assert!(matches!(steps[0].outcome, Outcome::Ending(_)));
    assert_eq!(steps[1].outcome, Outcome::Revoked, "{steps:?}");
    assert_eq!(steps[1].view.lease.receipt.as_ref().unwrap().verdict.word(), "proved");
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_is_named() {
    let bench = Bench::new();
    old_lease(&bench).await;
    bench.cluster.fail_next_cut(CutError::HeldByFinalizer("web/shorepass-x".to_owned()));
    let receipt = receipt(&bench).await;
    assert_eq!(why(&receipt), Why::HeldByFinalizer);
    assert!(format!("{:?}", receipt.verdict).contains("web/shorepass-x"), "{receipt:?}");
}

#[tokio::test(start_paused = true)]
async fn other_ends_get_a_receipt_only_by_chance() {
    let bench = Bench::new();
    let (caller, _, delivery) = old_lease(&bench).await;
    bench.use_cases.release(&caller, delivery.issued.lease.id).await.unwrap();
    assert_eq!(bench.cluster.canaries(), 0);
    assert!(!bench.use_cases.proving.is_at_work(delivery.issued.lease.id));
}

#[tokio::test(start_paused = true)]
async fn above_a_hundred_leases_a_sample_is_asked_about() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    for _ in 0..SAMPLE + 20 {
        bench.issue(&caller, &job, bench.request()).await.unwrap();
    }
    bench.clock.advance(LAG_BOUND);
    bench.cluster.slow_canaries(2 * WINDOW);
    let steps = revoke(&bench).await;
    let of = |receipt| steps.iter().filter(|step| step.receipt == receipt).count();
    assert_eq!((of(Awaited::No), of(Awaited::Follows), of(Awaited::Arrived)), (20, SAMPLE, SAMPLE));
    let proved = |step: &&RevokeStep| {
        step.view.lease.receipt.as_ref().is_some_and(|receipt| receipt.verdict.word() == "proved")
    };
    assert_eq!(steps.iter().filter(proved).count(), SAMPLE, "each of the sample waits for its canaries");
    without_controls(&bench).await;
}

/// A control that a crash left in ledger and cluster.
async fn left_control(bench: &Bench) -> Control {
    let control = Control {
        anchor: AnchorName::from_random([9; 16]),
        cluster: name("staging"),
        namespace: name("web"),
        with_account: false,
        created: bench.clock.now(),
    };
    bench.ledger.commit(vec![Change::ControlPlanned { control: control.clone() }]).await.unwrap();
    bench.cluster.create_control(&control).await.unwrap();
    control
}

#[tokio::test(start_paused = true)]
async fn a_control_that_cannot_be_deleted_is_counted_and_tried_again_after_a_pause() {
    let bench = Bench::new();
    left_control(&bench).await;
    bench.clock.advance(MINT_IN_FLIGHT);
    bench.cluster.keep_controls(Some(CutError::Forbidden("delete".to_owned())));
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    sweeper.sweep().await.unwrap();
    assert_eq!(sweeper.undeletable()["forbidden"], 1);
    bench.cluster.keep_controls(None);
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.cluster.anchors().len(), 1, "it is not due yet");
    bench.clock.advance(Duration::from_secs(2)); // the first pause
    sweeper.sweep().await.unwrap();
    without_controls(&bench).await;
    assert_eq!(sweeper.undeletable()["forbidden"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_control_that_a_crash_left_is_deleted_and_forgotten_when_it_cannot_come_back() {
    let bench = Bench::new();
    let control = left_control(&bench).await;
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    sweeper.sweep().await.unwrap();
    assert!(bench.cluster.anchors().is_empty());
    assert_eq!(bench.ledger.controls(&name("staging")).unwrap(), [control], "it may still be created");
    bench.clock.advance(MINT_IN_FLIGHT);
    sweeper.sweep().await.unwrap();
    assert!(bench.ledger.controls(&name("staging")).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hundred_revocations_of_one_lease_prove_it_once() {
    let bench = Arc::new(Bench::new());
    bench.cluster.has_one_server();
    let (_, _, delivery) = old_lease(&bench).await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let bench = bench.clone();
        all.spawn(async move { revoke(&bench).await });
    }
    while all.join_next().await.is_some() {}
    let lease = bench.lease(delivery.issued.lease.id);
    assert_eq!(lease.receipt.unwrap().verdict.word(), "proved");
    assert_eq!(bench.events().iter().filter(|event| *event == "lease.receipt").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_blocks_all_before_the_first_ends_and_is_told_of_each() {
    const LEASES: usize = 10;
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    for _ in 0..LEASES {
        bench.issue(&caller, &job, bench.request()).await.unwrap();
    }
    bench.clock.advance(LAG_BOUND);
    let before = bench.events().len();
    let steps = revoke(&bench).await;
    assert_eq!(steps.len(), 2 * LEASES);
    assert!(steps.iter().all(|step| step.total == LEASES && step.block_set), "{steps:?}");
    let events = bench.events().split_off(before);
    assert!(events[..LEASES].iter().all(|event| event == "block.set"), "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "lease.ended").count(), LEASES);
    without_controls(&bench).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_lease_that_had_ended_is_shown_the_receipt_that_it_has() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    let (caller, job, delivery) = old_lease(&bench).await;
    let made = receipt(&bench).await;
    let named = |lease| LeaseFilter { lease: Some(lease), ..LeaseFilter::default() };
    let id = delivery.issued.lease.id;
    let steps = revoke_these(&bench, named(id), true).await;
    let told: Vec<_> = steps.iter().map(|step| (&step.outcome, step.receipt)).collect();
    let ended = &Outcome::AlreadyEnded;
    assert_eq!(told, [(ended, Awaited::Follows), (ended, Awaited::Arrived)]);
    assert_eq!(steps[1].view.lease.receipt.as_deref(), Some(&made));
    let steps = revoke_these(&bench, named(id), false).await;
    assert_eq!((steps.len(), steps[0].receipt), (1, Awaited::No), "nobody waits");
    // One that was given back was never asked about.
    bench.use_cases.unblock(&bench.operator(), made_block(&bench)).await.unwrap();
    let lease = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease.id;
    bench.use_cases.release(&caller, lease).await.unwrap();
    let steps = revoke_these(&bench, named(lease), true).await;
    assert_eq!((steps.len(), steps[0].receipt), (1, Awaited::No));
}

/// The block that was set last.
fn made_block(bench: &Bench) -> shorepass_core::id::BlockId {
    bench.ledger.find_blocks(&Default::default(), None, 1).unwrap()[0].id
}
