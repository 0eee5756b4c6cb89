//! Revocations that were cut off between their blocks and their ends, by a crash or by a disk that fills up.

use std::sync::atomic::Ordering::SeqCst;

use shorepass_core::block::Block;
use shorepass_core::caller::LeaseOwner;
use shorepass_core::id::BlockId;
use shorepass_core::lease::EndCause;
use shorepass_core::ledger::{LeaseFilter, Revision};
use shorepass_core::security::SecurityState;
use shorepass_rpc::api::{Administration as _, Revocation};
use tokio::sync::mpsc;

use super::issuing::FailingLedger;
use super::revocation::sweeper;
use super::*;
use crate::revoke::LEASES_IN_A_COMMIT;

/// The block that a revocation of the lease sets now.
fn block_of(bench: &Bench, caller: &Caller, lease: &Lease) -> Block {
    let now = bench.clock.now();
    Block {
        id: BlockId::generate(now, bench.entropy.as_ref()),
        caller: caller.spiffe_id().clone(),
        role: name("deploy"),
        job: None,
        set: now,
        until: lease.deadline,
        by: bench.operator().spiffe_id().clone(),
        reason: "leaked".to_owned(),
        lease: lease.id,
        lifted: None,
        revision: Revision::FIRST,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_a_crash_cut_off_after_its_blocks_is_finished_at_the_next_start() {
    let bench = Bench::new();
    let (caller, job, delivery) = bench.leased().await;
    let other = bench.issue(&caller, &job, bench.request()).await.unwrap().issued.lease;
    let lease = delivery.issued.lease;
    let set = bench.clock.now();
    let block = Block { set: after(set, Duration::from_secs(20)), ..block_of(&bench, &caller, &lease) };
    bench.ledger.commit(vec![Change::BlockSet { block }]).await.unwrap();
    // The clock that set the block may have been ahead of the one that finds it.
    let bench = bench.restarted();
    sweeper(&bench).sweep().await.unwrap();
    let ended = bench.lease(lease.id);
    assert_eq!(ended.state_name(), "ended");
    let by = bench.operator().spiffe_id().clone();
    assert_eq!(ended.end_cause().unwrap().0, &EndCause::Revoked { by, reason: "leaked".to_owned() });
    assert!(bench.lease(other.id).is_live());
}

fn failing() -> (Bench, Arc<FailingLedger>) {
    let clock = ManualClock::new();
    let inner = Arc::new(MemoryLedger::new(clock.clone()));
    let (left, security) = (usize::MAX.into(), SecurityState::Whole);
    let failing = Arc::new(FailingLedger { inner: inner.clone(), left, audit: true, security });
    (Bench::over(clock, failing.clone(), inner), failing)
}

/// A disk that fills up between the commits of a revocation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_can_record_its_blocks_and_no_end_is_finished_as_soon_as_that_works() {
    // With few leases all of them end at a pace.
    const MANY: usize = LEASES_IN_A_COMMIT + 3;
    for (leases, wait, ends_recorded) in [(MANY, false, 0), (MANY, false, 1), (MANY, true, 0), (3, true, 0)] {
        let what = format!("{leases} leases, wait {wait}, {ends_recorded} recorded");
        let (bench, failing) = failing();
        let caller = bench.caller("runner/prod-1");
        let job = bench.job(&caller).await;
        for _ in 0..leases {
            bench.issue(&caller, &job, bench.request()).await.unwrap();
        }
        let other = bench.caller("runner/prod-2");
        let other_job = bench.job(&other).await;
        let spared = bench.issue(&other, &other_job, bench.request()).await.unwrap().issued.lease;

        failing.left.store(1 + ends_recorded, SeqCst);
        let (sender, _receiver) = mpsc::channel(256);
        let filter = LeaseFilter { caller: Some(caller.spiffe_id().clone()), ..LeaseFilter::default() };
        let revocation =
            Revocation { filter: filter.clone(), reason: "leaked".to_owned(), dry_run: false, wait };
        let refused = bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap_err();
        assert_eq!(refused.reason, Reason::AuditUnavailable);
        assert!(refused.message.contains("the blocks are set and hold"), "{refused}");
        let found = |filter: &LeaseFilter| bench.ledger.leases(filter, None, 200).unwrap();
        let live = || found(&filter).iter().filter(|lease| lease.is_live()).count();
        assert_eq!(live(), leases - ends_recorded * LEASES_IN_A_COMMIT, "{what}");

        let mut sweeper = sweeper(&bench);
        failing.left.store(1, SeqCst); // one end, and then it is full again
        sweeper.sweep().await.unwrap();
        assert!(live() > 0, "{what}");
        failing.left.store(usize::MAX, SeqCst);
        sweeper.sweep().await.unwrap();
        assert_eq!(live(), 0, "{what}");
        let by = bench.operator().spiffe_id().clone();
        let cause = EndCause::Revoked { by, reason: "leaked".to_owned() };
        for ended in found(&LeaseFilter { include_ended: true, ..filter.clone() }) {
            assert_eq!(ended.end_cause().unwrap().0, &cause);
        }
        assert!(bench.lease(spared.id).is_live());
        assert!(bench.use_cases.ends.owes_nothing());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_of_a_revocation_is_ended_also_where_that_fails_at_first() {
    let (bench, failing) = failing();
    let (caller, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease;
    bench.ledger.commit(vec![Change::BlockSet { block: block_of(&bench, &caller, &lease) }]).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
    let mut started = sweeper(&bench);
    failing.left.store(0, SeqCst);
    started.sweep().await.unwrap();
    assert!(bench.lease(lease.id).is_live());
    failing.left.store(usize::MAX, SeqCst);
    started.sweep().await.unwrap();
    assert_eq!(bench.lease(lease.id).state_name(), "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_revokes_a_lease_that_can_have_no_block_is_told_that_nothing_is_on_record() {
    let (bench, failing) = failing();
    let (_, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease;
    let adopted = Lease {
        id: LeaseId::generate(bench.clock.now(), bench.entropy.as_ref()),
        job: None,
        owner: LeaseOwner::Digest(lease.owner.digest()),
        role: None,
        anchor: AnchorName::from_random([7; 16]),
        revision: Revision::FIRST,
        ..lease
    };
    bench.ledger.commit(vec![Change::LeaseAdopted { lease: adopted.clone() }]).await.unwrap();
    failing.left.store(0, SeqCst);
    let (sender, _receiver) = mpsc::channel(8);
    let filter = LeaseFilter { lease: Some(adopted.id), ..LeaseFilter::default() };
    let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
    let refused = bench.use_cases.revoke(&bench.operator(), revocation, sender).await.unwrap_err();
    assert!(refused.message.contains("1 of them can have no block"), "{refused}");
    assert!(!refused.message.contains("the blocks are set"), "{refused}");
    failing.left.store(usize::MAX, SeqCst);
    sweeper(&bench).sweep().await.unwrap();
    assert!(!bench.lease(adopted.id).is_live());
}
