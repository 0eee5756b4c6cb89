//! The issuing path: what is durable when, and what leaves.

use async_trait::async_trait;
use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::ledger::{Layer, LeaseFilter, LedgerError, Recorded};
use shorepass_core::security::SecurityState;
use shorepass_rpc::api::{Administration as _, Credentials as _};

use super::*;

#[tokio::test]
async fn a_lease_is_durable_before_the_cluster_is_called() {
    let bench = Bench::new();
    let ledger = bench.ledger.clone();
    bench.cluster.during_mint(Box::new(move |order| {
        let recorded = ledger.lease(order.lease_id()).unwrap().expect("no pending record");
        assert_eq!(recorded.state_name(), "pending");
        assert_eq!(recorded.anchor, *order.anchor());
    }));
    bench.leased().await;
    assert_eq!(bench.events(), ["job.started", "lease.pending", "lease.active", "token.minted"]);
}

#[tokio::test]
async fn the_anchor_carries_the_seal_of_its_lease() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    assert_eq!(bench.cluster.annotations(), [format!("seal-of-{}", delivery.issued.lease.id)]);
}

/// Fails from the nth commit on.
pub(super) struct FailingLedger {
    pub(super) inner: Arc<MemoryLedger>,
    pub(super) left: std::sync::atomic::AtomicUsize,
    pub(super) audit: bool,
    pub(super) security: SecurityState,
}

#[async_trait]
impl Layer for FailingLedger {
    fn below(&self) -> &dyn Ledger {
        self.inner.as_ref()
    }

    async fn pass_on(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            let why = "on purpose".to_owned();
            return Err(if self.audit {
                LedgerError::AuditUnavailable(why)
            } else {
                LedgerError::Unavailable(why)
            });
        }
        self.inner.commit(changes).await
    }

    fn security_state(&self) -> SecurityState {
        self.security
    }
}

pub(super) fn failing_after(commits: usize, audit: bool) -> Bench {
    let clock = ManualClock::new();
    let inner = Arc::new(MemoryLedger::new(clock.clone()));
    let security = SecurityState::Whole;
    let ledger = FailingLedger { inner: inner.clone(), left: commits.into(), audit, security };
    Bench::over(clock, Arc::new(ledger), inner)
}

/// On a ledger that found security state lost when the clock began.
pub(super) fn security_lost() -> Bench {
    let clock = ManualClock::new();
    let inner = Arc::new(MemoryLedger::new(clock.clone()));
    let security = SecurityState::LostSince(clock.now());
    let ledger = FailingLedger { inner: inner.clone(), left: usize::MAX.into(), audit: false, security };
    Bench::over(clock, Arc::new(ledger), inner)
}

#[tokio::test]
async fn nothing_is_minted_when_the_lease_cannot_be_recorded() {
    for (audit, expected) in [(false, Reason::StoreUnavailable), (true, Reason::AuditUnavailable)] {
        let bench = failing_after(1, audit);
        let caller = bench.caller("runner/prod-1");
        let job = bench.job(&caller).await;
        assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), expected);
        assert!(bench.cluster.annotations().is_empty(), "an anchor was made");
    }
}

#[tokio::test]
async fn no_token_leaves_when_it_cannot_be_recorded() {
    let bench = failing_after(2, true);
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::AuditUnavailable);
    // The anchor was made and is deleted at once; the pending record lets the sweeper settle the rest.
    assert_eq!(bench.cluster.annotations().len(), 1);
    bench.until("the anchor to be deleted", || bench.cluster.anchors().is_empty()).await;
    let found = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    assert_eq!(found[0].state_name(), "pending");
}

#[tokio::test]
async fn the_same_request_gives_the_same_lease_and_a_new_token() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let request = bench.request();
    let first = bench.issue(&caller, &job, request).await.unwrap().issued;
    let again = bench.issue(&caller, &job, request).await.unwrap().issued;
    assert_eq!(first.lease.id, again.lease.id);
    assert_ne!(first.record.jti, again.record.jti);
    assert_eq!(bench.cluster.anchors().len(), 1);
}

#[tokio::test]
async fn a_request_id_that_is_used_for_something_else_is_refused_and_audited() {
    let bench = Bench::new();
    let (caller, operator) = (bench.caller("runner/prod-1"), bench.operator());
    let request = bench.request();
    let other = RequestKey { content: Digest::of_bytes(b"other"), ..request };
    let join_token =
        |request| bench.use_cases.create_join_token(&operator, request, join_token_asked("prod-*", false));
    let job = bench.use_cases.start_job(&caller, request, asserted(), None).await.unwrap();
    let lease = bench.issue(&caller, &job, request).await.unwrap().issued.lease;
    join_token(request).await.unwrap();
    for (method, refused, led_to) in [
        (
            "StartJob",
            bench.use_cases.start_job(&caller, other, asserted(), None).await.err(),
            job.id.to_string(),
        ),
        ("Issue", bench.issue(&caller, &job, other).await.err(), lease.id.to_string()),
        ("CreateJoinToken", join_token(other).await.err(), "the join token with fingerprint".to_owned()),
    ] {
        let refused = refused.unwrap_or_else(|| panic!("{method} was not refused"));
        assert_eq!(refused.reason, Reason::RequestIdReused, "{method}");
        let (_, decision) = refused.metadata.iter().find(|(key, _)| *key == "decision_id").unwrap();
        let line = bench.ledger.audit_lines().into_iter().find(|line| line.contains(decision)).unwrap();
        for part in ["request.refused", "REQUEST_ID_REUSED", method, &led_to, &request.id.to_string()] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}

#[tokio::test]
async fn what_belongs_to_another_looks_like_what_does_not_exist() {
    let bench = Bench::new();
    let (owner, job, delivery) = bench.leased().await;
    let stranger = bench.caller("runner/prod-2");
    let renewed_name = bench.caller("runner/prod-1"); // the same name, another enrolment
    let nowhere = LeaseId::generate(bench.clock.now(), bench.entropy.as_ref());
    let lease = delivery.issued.lease.id;
    for (caller, id) in [(&stranger, lease), (&renewed_name, lease), (&owner, nowhere)] {
        let refused = bench.refresh(caller, id).await.unwrap_err();
        assert_eq!(refused.reason, Reason::LeaseNotAvailable);
        let release = bench.use_cases.release(caller, id).await.unwrap_err();
        assert_eq!(release.message, refused.message);
    }
    assert_eq!(reason(bench.issue(&stranger, &job, bench.request()).await), Reason::JobNotAvailable);
    assert_eq!(reason(bench.use_cases.end_job(&stranger, job.id).await), Reason::JobNotAvailable);
    assert!(bench.lease(lease).is_live());
}

#[tokio::test]
async fn the_cluster_is_told_for_which_call_it_mints() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let (job, request) = (bench.job(&caller).await, bench.request());
    let calls = ["first", "repeated", "refreshed"].map(|id| CallId::parse(id).unwrap());
    let lease = bench.issue_for(&calls[0], &caller, &job, request).await.unwrap().issued.lease.id;
    bench.issue_for(&calls[1], &caller, &job, request).await.unwrap();
    bench.use_cases.refresh(&caller, &calls[2], lease, None).await.unwrap();
    assert_eq!(bench.cluster.calls(), calls);
}

#[tokio::test]
async fn a_failed_mint_leaves_no_live_lease() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let cause = "no answer".to_owned();
    bench.cluster.fail_next_mint(MintError::Unreachable { cluster: name("staging"), cause });
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::ClusterUnreachable);
    bench.until("the anchor to be cut", || bench.cluster.anchors().is_empty()).await;
    let found = bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap();
    assert_eq!(found[0].state_name(), "ending");
}

#[tokio::test]
async fn a_mint_that_made_nothing_leaves_nothing_to_end() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    bench.cluster.fail_next_mint(MintError::PolicyMissing { namespace: "web".to_owned() });
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::AdmissionPolicyMissing);
    assert!(bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn the_words_of_somebody_elses_admission_are_for_the_operator_alone() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let act = "create secrets in namespace \"web\"".to_owned();
    let words = "admission webhook guard denied the request: see http://10.0.0.9".to_owned();
    bench.cluster.fail_next_mint(MintError::AdmissionRefused {
        act: act.clone(),
        words: words.clone(),
        begun: false,
    });
    let refused = bench.issue(&caller, &job, bench.request()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::IssuerForbidden);
    assert!(!format!("{refused:?}").contains("guard"), "{refused:?}");
    assert!(refused.metadata.contains(&("rule", act)), "{refused:?}");
    let (_, decision) = refused.metadata.iter().find(|(key, _)| *key == "decision_id").unwrap();
    let line = bench.ledger.audit_lines().into_iter().find(|line| line.contains(decision)).unwrap();
    assert!(line.contains("request.refused") && line.contains(&words), "{line}");
    assert!(bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_refresh_leaves_the_lease_as_it_is() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let busy = MintError::Busy { cluster: name("staging"), retry_after: Duration::from_secs(3) };
    bench.cluster.fail_next_mint(busy);
    let refused = bench.refresh(&caller, delivery.issued.lease.id).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after), (Reason::ClusterBusy, Some(Duration::from_secs(3))));
    let again = bench.refresh(&caller, delivery.issued.lease.id).await;
    assert_eq!(reason(again), Reason::ClusterBusy, "it is asked before it wants to be");
    bench.clock.advance(Duration::from_secs(3));
    assert!(bench.refresh(&caller, delivery.issued.lease.id).await.is_ok());
}

/// Neither when the permits are taken, nor when the cluster is left alone.
#[tokio::test(start_paused = true)]
async fn a_mint_that_gets_no_turn_leaves_nothing_on_record() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let (before, request) = (bench.ledger.audit_lines().len(), bench.request());
    let turns = &bench.use_cases.outside.turns;
    let mut held = Vec::new();
    for _ in 0..AT_ONCE * 3 / 4 {
        held.push(turns.take(&name("staging"), caller.spiffe_id()).await.unwrap().unwrap());
    }
    let refused = bench.issue(&caller, &job, request).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ClusterBusy);
    assert!(refused.message.contains("of this caller") && refused.retry_after.is_some(), "{refused:?}");
    let cause = MintError::Unreachable { cluster: name("staging"), cause: "reset".to_owned() };
    drop(held);
    for _ in 0..shorepass_core::breaker::FAILURES {
        let turn = turns.take(&name("staging"), caller.spiffe_id()).await.unwrap().unwrap();
        turn.over(&Err(cause.clone()));
    }
    let refused = bench.issue(&caller, &job, request).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ClusterUnreachable);
    assert!(refused.message.contains("reset") && refused.retry_after.is_some(), "{refused:?}");
    assert_eq!(bench.ledger.audit_lines().len(), before);
    assert!(bench.ledger.leases(&LeaseFilter::default(), None, 10).unwrap().is_empty());
    assert!(bench.cluster.calls().is_empty(), "the cluster was asked");
    bench.clock.advance(shorepass_core::breaker::PAUSE);
    assert!(bench.issue(&caller, &job, request).await.is_ok(), "the request id was used up");
}

/// Whether a role exists is not told by how its cluster does.
#[tokio::test]
async fn who_may_not_have_a_role_is_told_the_same_when_its_cluster_is_left_alone() {
    let bench = Bench::new();
    let stranger = bench.caller("runner/dev-1");
    let job = bench.job(&stranger).await;
    let retry_after = Duration::from_secs(30);
    let turn = bench.use_cases.outside.turns.take(&name("staging"), stranger.spiffe_id()).await;
    turn.unwrap().unwrap().over(&Err(MintError::Busy { cluster: name("staging"), retry_after }));
    assert_eq!(reason(bench.issue(&stranger, &job, bench.request()).await), Reason::RoleNotAvailable);
}

#[tokio::test]
async fn a_replaced_service_account_ends_the_lease() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.cluster.replace_service_account("uid-2");
    let id = delivery.issued.lease.id;
    assert_eq!(reason(bench.refresh(&caller, id).await), Reason::ServiceAccountReplaced);
    bench.until("the lease to end", || bench.lease(id).state_name() == "ended").await;
    assert_eq!(reason(bench.refresh(&caller, id).await), Reason::LeaseEnded);
}

#[tokio::test]
async fn a_lost_anchor_ends_the_lease() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease;
    bench.cluster.cut(&lease).await.unwrap();
    assert_eq!(reason(bench.refresh(&caller, lease.id).await), Reason::LeaseEnded);
    bench.until("the lease to end", || !bench.lease(lease.id).is_live()).await;
}

#[tokio::test]
async fn an_ended_job_takes_its_leases_along() {
    let bench = Bench::new();
    let (caller, job, delivery) = bench.leased().await;
    let ended = bench.use_cases.end_job(&caller, job.id).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(bench.lease(delivery.issued.lease.id).state_name(), "ended");
    assert!(bench.cluster.anchors().is_empty());
    assert_eq!(reason(bench.issue(&caller, &job, bench.request()).await), Reason::JobEnded);
}

#[tokio::test]
async fn a_denial_is_on_record_under_its_decision_id() {
    let bench = Bench::new();
    let caller = bench.caller("runner/dev-1");
    let job = bench.job(&caller).await;
    let refused = bench.issue(&caller, &job, bench.request()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RoleNotAvailable);
    let (_, decision) = refused.metadata.iter().find(|(key, _)| *key == "decision_id").unwrap();
    let line = bench.ledger.audit_lines().pop().unwrap();
    assert!(line.contains(decision) && line.contains("it does not name"), "{line}");
    assert!(!refused.message.contains("does not name"), "the caller is told too much");
}

/// Nobody sweeps here, as nobody does in an issuer that is shutting down.
#[tokio::test]
async fn the_anchor_of_a_failed_mint_is_cut_again_when_the_first_cut_fails() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let (job, cause) = (bench.job(&caller).await, "on purpose".to_owned());
    bench.cluster.fail_next_cut(CutError::Unreachable(cause.clone()));
    bench.cluster.fail_next_mint(MintError::Unreachable { cluster: name("staging"), cause });
    bench.issue(&caller, &job, bench.request()).await.unwrap_err();
    bench.until("the anchor to be cut", || bench.cluster.anchors().is_empty()).await;
}
