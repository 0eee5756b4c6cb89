//! Requests that come again: in parallel, after a lost reply, after a crash.

use shorepass_core::cluster::CutError;
use shorepass_core::ledger::LeaseFilter;
use shorepass_rpc::api::{Administration as _, Credentials as _, Revocation};
use tokio::sync::mpsc;

use super::*;
use crate::revoke::RETRY_WINDOW;
use crate::revoke::sweeper::Sweeper;

async fn revoke_all(bench: &Bench, filter: LeaseFilter) {
    let (sender, mut steps) = mpsc::channel(64);
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
    bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap();
    while steps.recv().await.is_some() {}
}

fn count(bench: &Bench, event: &str) -> usize {
    bench.events().iter().filter(|seen| *seen == event).count()
}

/// A lease that a crash left pending, with the anchor that its mint had made.
async fn left_pending(bench: &Arc<Bench>, request: RequestKey) -> (Caller, Job, Lease) {
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let (minting, mut begun) = mpsc::unbounded_channel();
    bench.cluster.during_mint(Box::new(move |_| {
        let _ = minting.send(());
        panic!("the issuer dies here");
    }));
    let crashed = {
        let (bench, caller, job) = (bench.clone(), caller.clone(), job.clone());
        tokio::spawn(async move { bench.issue(&caller, &job, request).await.map(|_| ()) })
    };
    begun.recv().await.unwrap();
    assert!(crashed.await.is_err());
    bench.cluster.during_mint(Box::new(|_| {}));
    let pending = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    assert_eq!((pending.len(), pending[0].state_name()), (1, "pending"));
    assert_eq!(bench.cluster.anchors().len(), 1);
    (caller, job, pending[0].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tries_of_one_request_at_once_lead_to_one_lease_and_a_row_for_each_token() {
    let bench = Arc::new(Bench::new());
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let request = bench.request();
    let tries: Vec<_> = (0..100)
        .map(|_| {
            let (bench, caller, job) = (bench.clone(), caller.clone(), job.clone());
            tokio::spawn(async move {
                loop {
                    match bench.issue(&caller, &job, request).await {
                        Ok(delivery) => return (delivery.issued.lease.id, delivery.issued.record.jti),
                        Err(busy) => assert_eq!(busy.reason, Reason::ClusterBusy, "{busy}"),
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for attempt in tries {
        answers.push(attempt.await.unwrap());
    }
    let leases: std::collections::BTreeSet<_> = answers.iter().map(|(lease, _)| *lease).collect();
    let tokens: std::collections::BTreeSet<_> = answers.iter().map(|(_, jti)| jti).collect();
    assert_eq!((leases.len(), tokens.len(), bench.cluster.anchors().len()), (1, 100, 1));
    let counted = ["lease.pending", "lease.active", "token.minted"].map(|event| count(&bench, event));
    assert_eq!(counted, [1, 1, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_one_request_in_each_job() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let (job, other) = (bench.job(&caller).await, bench.job(&caller).await);
    let request = bench.request();
    let first = bench.issue(&caller, &job, request).await.unwrap().issued.lease.id;
    let second = bench.issue(&caller, &other, request).await.unwrap().issued.lease.id;
    assert_ne!(first, second);
    assert_eq!(bench.issue(&caller, &job, request).await.unwrap().issued.lease.id, first);
    assert_eq!(bench.issue(&caller, &other, request).await.unwrap().issued.lease.id, second);
    let changed = RequestKey { content: Digest::of_bytes(b"other"), ..request };
    assert_eq!(reason(bench.issue(&caller, &job, changed).await), Reason::RequestIdReused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_again_is_decided_again() {
    let bench = Bench::new();
    let (caller, job, _) = bench.leased().await;
    let request = bench.request();
    let lease = bench.issue(&caller, &job, request).await.unwrap().issued.lease.id;
    // Another lease of the same runner and role is revoked: this one lives, but the runner is blocked.
    let others = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    let other = others.into_iter().find(|other| other.id != lease).unwrap();
    revoke_all(&bench, LeaseFilter { lease: Some(other.id), ..LeaseFilter::default() }).await;
    let tokens = count(&bench, "token.minted");
    assert_eq!(reason(bench.issue(&caller, &job, request).await), Reason::Blocked);
    assert_eq!(count(&bench, "token.minted"), tokens);
    assert!(
        bench.use_cases.refresh(&caller, &bench.call(), lease, None).await.is_ok(),
        "a refresh is of the lease that lives"
    );

    bench.use_cases.release(&caller, lease).await.unwrap();
    let refused = bench.issue(&caller, &job, request).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseEnded, "an ended lease answers 'ended', blocked or not");
    assert!(refused.message.contains("released"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_a_crash_left_pending_is_taken_up_by_its_request() {
    let bench = Arc::new(Bench::new());
    let request = bench.request();
    let (caller, job, pending) = left_pending(&bench, request).await;
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    bench.clock.advance(RETRY_WINDOW - Duration::from_secs(1));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(pending.id).state_name(), "pending", "its window is open");
    let issued = bench.issue(&caller, &job, request).await.unwrap().issued;
    assert_eq!((issued.lease.id, issued.lease.state_name()), (pending.id, "active"));
    assert_eq!(bench.cluster.anchors(), [pending.anchor.as_str()]);
    assert_eq!(bench.cluster.annotations().len(), 2, "the anchor was made anew");
    bench.clock.advance(RETRY_WINDOW);
    sweeper.sweep().await.unwrap();
    assert!(bench.lease(pending.id).is_live());
    assert!(bench.use_cases.refresh(&caller, &bench.call(), pending.id, None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_takes_up_is_ended_when_its_window_closes() {
    let bench = Arc::new(Bench::new());
    let request = bench.request();
    bench.clock.advance(Duration::from_secs(3600));
    let (caller, job, pending) = left_pending(&bench, request).await;
    bench.clock.advance(Duration::from_secs(600)); // the issuer is down
    let mut sweeper = Sweeper::new(bench.use_cases.ends.clone(), name("staging"));
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(pending.id).state_name(), "pending", "the window begins with the start");
    bench.clock.advance(RETRY_WINDOW);
    sweeper.sweep().await.unwrap();
    assert_eq!(bench.lease(pending.id).state_name(), "ending");
    assert!(bench.cluster.anchors().is_empty());
    assert_eq!(reason(bench.issue(&caller, &job, request).await), Reason::LeaseEnded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_left_pending_is_not_taken_up_by_who_is_blocked_or_while_its_anchor_cannot_be_cleared()
 {
    let bench = Arc::new(Bench::new());
    let request = bench.request();
    let (caller, job, pending) = left_pending(&bench, request).await;
    bench.cluster.fail_next_cut(CutError::HeldByFinalizer("web/anchor".to_owned()));
    assert_eq!(reason(bench.issue(&caller, &job, request).await), Reason::ClusterUnreachable);
    assert_eq!(bench.cluster.annotations().len(), 1, "an anchor was made beside the old one");
    bench.until("the lease to be given up", || !bench.lease(pending.id).is_live()).await;

    let request = bench.request();
    let bench = Arc::new(Bench::new());
    let (caller, job, pending) = left_pending(&bench, request).await;
    revoke_all(&bench, LeaseFilter { lease: Some(pending.id), ..LeaseFilter::default() }).await;
    let refused = bench.issue(&caller, &job, request).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseEnded);
    assert!(refused.message.contains("revoked"), "{refused}");
}
