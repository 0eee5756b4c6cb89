//! Leases that end by themselves, at the moment they should; and who is told of ends, whatever was lost on the way.

use shorepass_core::lease::EndCause;
use shorepass_core::ledger::LeaseFilter;
use shorepass_rpc::api::{Administration as _, Revocation};
use shorepass_rpc::follow::{Beat, Following as _, Notice, Notices};

use super::*;
use crate::follow::timer::Timer;

const MINUTE: Duration = Duration::from_secs(60);

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

async fn beat(bench: &Bench, caller: &Caller, leases: &[LeaseId]) -> shorepass_rpc::follow::Pulse {
    bench.use_cases.heartbeat(caller, Beat { leases: leases.to_vec(), sequence: 0 }).await.unwrap()
}

fn ended_by_silence(bench: &Bench, lease: LeaseId) -> bool {
    matches!(bench.lease(lease).end_cause(), Some((EndCause::Silence, _)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_how_long_silence_may_last_while_a_lease_lives() {
    let bench = Bench::new();
    let (runner, _, kept) = bench.leased().await;
    let id = kept.issued.lease.id;
    let operator = bench.operator();
    assert_eq!(bench.use_cases.get_lease(&operator, id).await.unwrap().silence, Some(MINUTE * 15));
    bench.use_cases.release(&runner, id).await.unwrap();
    assert_eq!(bench.use_cases.get_lease(&operator, id).await.unwrap().silence, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_for_a_quarter_of_an_hour_loses_the_lease_and_who_is_heard_does_not() {
    let bench = Bench::new();
    let (heard, _, kept) = bench.leased().await;
    let kept = kept.issued.lease.id;
    let silent = bench.caller("runner/prod-2");
    let job = bench.job(&silent).await;
    let lost = bench.issue(&silent, &job, bench.request()).await.unwrap().issued;
    assert_eq!(lost.told.silence, Some(MINUTE * 15));
    assert_eq!((lost.told.valid_for.as_secs(), lost.told.valid_while_heard.as_secs()), (890, 1_790));
    let timer = Timer::new(bench.use_cases.ends.clone());
    for minute in 1..=20 {
        bench.clock.advance(MINUTE);
        assert_eq!(beat(&bench, &heard, &[kept]).await.silence, Some(MINUTE * 15));
        timer.end_due().await;
        assert_eq!(ended_by_silence(&bench, lost.lease.id), minute >= 15, "{minute}");
    }
    assert!(bench.lease(kept).is_live());
    bench.until("the anchor to be cut", || bench.cluster.anchors().len() == 1).await;
    let pulse = beat(&bench, &silent, &[lost.lease.id, kept]).await;
    assert_eq!((pulse.ended[0].id, pulse.unavailable), (lost.lease.id, vec![kept]));
    assert!(bench.issue(&silent, &job, bench.request()).await.is_ok(), "silence blocks nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_and_a_new_stream_are_heard_and_a_stranger_is_not() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease.id;
    let timer = Timer::new(bench.use_cases.ends.clone());
    bench.clock.advance(MINUTE * 14);
    bench.refresh(&caller, lease).await.unwrap();
    bench.clock.advance(MINUTE * 14);
    timer.end_due().await;
    assert!(bench.lease(lease).is_live());
    let beat = Beat { leases: vec![lease], sequence: 0 };
    let stream = bench.use_cases.watch(&caller, beat.clone()).await.unwrap();
    bench.clock.advance(MINUTE * 14);
    timer.end_due().await;
    assert!(bench.lease(lease).is_live());
    let stranger = bench.caller("runner/prod-2");
    let Notice::CaughtUp { sequence } = next(&mut watch(&bench, &stranger, &[lease], 0).await).await else {
        panic!("not caught up")
    };
    watch(&bench, &stranger, &[lease], sequence).await;
    bench.use_cases.heartbeat(&stranger, beat).await.unwrap();
    bench.clock.advance(MINUTE);
    timer.end_due().await;
    assert!(ended_by_silence(&bench, lease), "an open stream is no word, and a stranger's is none");
    drop(stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_starts_has_heard_everybody() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    bench.clock.advance(MINUTE * 14);
    let after = Bench::over(bench.clock.clone(), bench.ledger.clone(), bench.ledger.clone());
    after.use_cases.outside.follow.load(bench.ledger.as_ref()).unwrap();
    let timer = Timer::new(after.use_cases.ends.clone());
    bench.clock.advance(MINUTE * 14);
    timer.end_due().await;
    assert!(bench.lease(delivery.issued.lease.id).is_live());
    bench.clock.advance(MINUTE);
    timer.end_due().await;
    assert!(ended_by_silence(&bench, delivery.issued.lease.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_stood_still_has_heard_everybody_when_it_goes_on() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    let (_, short) = short_lease(&bench, 30).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let timer = tokio::spawn(Timer::new(bench.use_cases.ends.clone()).run(stop.clone()));
    bench.clock.advance(MINUTE * 16);
    bench.until("the timer to look", || !bench.lease(short).is_live()).await;
    stop.cancel();
    timer.await.unwrap();
    let lease = delivery.issued.lease.id;
    assert!(bench.lease(lease).is_live());
    bench.clock.advance(MINUTE * 13); // its deadline is a minute later
    Timer::new(bench.use_cases.ends.clone()).end_due().await;
    assert!(bench.lease(lease).is_live());
}

async fn revoke_all(bench: &Bench) {
    let (sender, _steps) = tokio::sync::mpsc::channel(64);
    let filter = LeaseFilter { role: Some(name("deploy")), ..LeaseFilter::default() };
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
    bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap();
}

async fn watch(bench: &Bench, caller: &Caller, leases: &[LeaseId], sequence: u64) -> Box<dyn Notices> {
    bench.use_cases.watch(caller, Beat { leases: leases.to_vec(), sequence }).await.unwrap()
}

async fn next(stream: &mut Box<dyn Notices>) -> Notice {
    tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("nothing was told")
}

fn told_end(notice: Notice) -> (u64, LeaseId) {
    match notice {
        Notice::Ended { sequence, lease } => (sequence, lease.id),
        other => panic!("no end: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_told_to_its_owner_alone_and_again_to_who_was_away() {
    let bench = Bench::new();
    let (caller, job, delivery) = bench.leased().await;
    let lease = delivery.issued.lease.id;
    let stranger = bench.caller("runner/prod-2");
    let mut stream = watch(&bench, &caller, &[lease], 0).await;
    let mut other = watch(&bench, &stranger, &[lease], 0).await;
    let Notice::CaughtUp { sequence } = next(&mut stream).await else { panic!("not caught up") };
    assert!(
        matches!(next(&mut other).await, Notice::CaughtUp { .. }),
        "a stranger learns nothing of the lease"
    );
    let later = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease.id;
    revoke_all(&bench).await;
    let told = [told_end(next(&mut stream).await), told_end(next(&mut stream).await)];
    let leases: std::collections::BTreeSet<_> = told.iter().map(|(_, lease)| *lease).collect();
    assert_eq!(leases, [lease, later].into(), "also one that was issued after the stream was opened");
    assert!(told[0].0 > sequence && told[1].0 > told[0].0);
    let nothing = tokio::time::timeout(Duration::from_millis(50), other.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");

    // Lost on the way: what was seen last is older than what happened.
    let mut again = watch(&bench, &caller, &[lease, later], sequence).await;
    let caught: std::collections::BTreeSet<_> =
        [told_end(next(&mut again).await).1, told_end(next(&mut again).await).1].into();
    assert_eq!(caught, leases);
    assert_eq!(next(&mut again).await, Notice::CaughtUp { sequence: told[1].0 });
    let mut up_to_date = watch(&bench, &caller, &[lease], told[1].0).await;
    assert!(matches!(next(&mut up_to_date).await, Notice::CaughtUp { .. }));
    let behind = async |sequence| {
        let beat = Beat { leases: vec![], sequence };
        bench.use_cases.heartbeat(&caller, beat).await.unwrap().behind
    };
    assert_eq!([behind(0).await, behind(sequence).await, behind(told[1].0).await], [false, true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_under_another_issuer_process_is_told_whatever_number_was_seen() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease.id;
    let Notice::CaughtUp { sequence } = next(&mut watch(&bench, &caller, &[lease], 0).await).await else {
        panic!("not caught up")
    };
    let after = Bench::over(bench.clock.clone(), bench.ledger.clone(), bench.ledger.clone());
    revoke_all(&after).await;
    let mut stream = watch(&after, &caller, &[lease], sequence).await;
    assert_eq!(told_end(next(&mut stream).await).1, lease);
}
