//! Leases that end by themselves, at the moment they should.

use shorepass_core::policy::Ask;

use super::*;
use crate::follow::timer::Timer;

async fn short_lease(bench: &Bench, seconds: u64) -> (Caller, LeaseId) {
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let ask = Ask {
        role: name("deploy"),
        lease_lifetime: Some(Duration::from_secs(seconds)),
        token_lifetime: None,
    };
    let delivery = bench.use_cases.issue(&caller, &bench.call(), bench.request(), job.id, ask).await.unwrap();
    (caller, delivery.issued.lease.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_of_half_a_minute_is_cut_at_its_deadline_without_a_sweep() {
    let bench = Bench::new();
    let (_, lease) = short_lease(&bench, 30).await;
    let timer = Timer::new(bench.use_cases.ends.clone());
    bench.clock.advance(Duration::from_secs(29));
    timer.end_due().await;
    assert!(bench.lease(lease).is_live());
    bench.clock.advance(Duration::from_secs(1));
    timer.end_due().await;
    assert_eq!(bench.lease(lease).end_cause().unwrap().0.describe(), "reached its deadline");
    bench.until("the anchor to be cut", || bench.cluster.anchors().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timer_wakes_by_itself_for_a_lease_that_came_after_it_fell_asleep() {
    let bench = Bench::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let timer = tokio::spawn(Timer::new(bench.use_cases.ends.clone()).run(stop.clone()));
    let (_, lease) = short_lease(&bench, 30).await;
    bench.clock.advance(Duration::from_secs(30));
    bench.until("the lease to end", || !bench.lease(lease).is_live()).await;
    stop.cancel();
    timer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_before_a_restart_are_taken_up() {
    let bench = Bench::new();
    let (_, lease) = short_lease(&bench, 60).await;
    let after = Bench::over(bench.clock.clone(), bench.ledger.clone(), bench.ledger.clone());
    after.use_cases.outside.follow.load(bench.ledger.as_ref()).unwrap();
    bench.clock.advance(Duration::from_secs(60));
    Timer::new(after.use_cases.ends.clone()).end_due().await;
    assert!(!bench.lease(lease).is_live());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_before_its_deadline_does_not_end_again() {
    let bench = Bench::new();
    let (caller, lease) = short_lease(&bench, 60).await;
    bench.use_cases.release(&caller, lease).await.unwrap();
    let lines = bench.ledger.audit_lines().len();
    bench.clock.advance(Duration::from_secs(60));
    Timer::new(bench.use_cases.ends.clone()).end_due().await;
    assert_eq!(bench.ledger.audit_lines().len(), lines);
}
