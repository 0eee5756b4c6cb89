//! The issuing path: what is durable when, and what leaves.

use async_trait::async_trait;
use shorepass_core::block::Block;
use shorepass_core::caller::Owner;
use shorepass_core::cluster::MintError;
use shorepass_core::enrolment::JoinToken;
use shorepass_core::id::{BlockId, JobId};
use shorepass_core::ledger::{LeaseFilter, LedgerError, MintedToken, Recorded};
use shorepass_core::request::{Method, Request};
use shorepass_rpc::api::Credentials as _;

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
struct FailingLedger {
    inner: Arc<MemoryLedger>,
    left: std::sync::atomic::AtomicUsize,
    audit: bool,
}

#[async_trait]
impl Ledger for FailingLedger {
    async fn commit(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
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
    fn job(&self, id: JobId) -> Result<Option<Job>, LedgerError> {
        self.inner.job(id)
    }
    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, LedgerError> {
        self.inner.lease(id)
    }
    fn leases(
        &self,
        filter: &LeaseFilter,
        before: Option<LeaseId>,
        limit: usize,
    ) -> Result<Vec<Lease>, LedgerError> {
        self.inner.leases(filter, before, limit)
    }
    fn tokens(&self, lease: LeaseId, limit: usize) -> Result<Vec<MintedToken>, LedgerError> {
        self.inner.tokens(lease, limit)
    }
    fn token(&self, jti: &str) -> Result<Option<MintedToken>, LedgerError> {
        self.inner.token(jti)
    }
    fn request(&self, owner: &Owner, method: Method, id: RequestId) -> Result<Option<Request>, LedgerError> {
        self.inner.request(owner, method, id)
    }
    fn block(&self, id: BlockId) -> Result<Option<Block>, LedgerError> {
        self.inner.block(id)
    }
    fn blocks(&self, caller: &SpiffeId, role: &Name) -> Result<Vec<Block>, LedgerError> {
        self.inner.blocks(caller, role)
    }
    fn controls(&self, cluster: &Name) -> Result<Vec<shorepass_core::receipt::Control>, LedgerError> {
        self.inner.controls(cluster)
    }
    fn join_token(&self, digest: Digest) -> Result<Option<JoinToken>, LedgerError> {
        self.inner.join_token(digest)
    }
    fn enrolment(&self, id: EnrolmentId) -> Result<Option<Enrolment>, LedgerError> {
        self.inner.enrolment(id)
    }
    fn latest_enrolment(&self, spiffe_id: &SpiffeId) -> Result<Option<Enrolment>, LedgerError> {
        self.inner.latest_enrolment(spiffe_id)
    }
    fn health(&self) -> Result<(), LedgerError> {
        self.inner.health()
    }
    fn last_commit(&self) -> Option<Duration> {
        self.inner.last_commit()
    }
}

fn failing_after(commits: usize, audit: bool) -> Bench {
    let clock = ManualClock::new();
    let inner = Arc::new(MemoryLedger::new(clock.clone()));
    let ledger = FailingLedger { inner: inner.clone(), left: commits.into(), audit };
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
    let other = RequestKey { content: Digest::of_bytes(b"other"), ..request };
    assert_eq!(reason(bench.issue(&caller, &job, other).await), Reason::RequestIdReused);
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
        let refused = bench.use_cases.refresh(caller, id, None).await.unwrap_err();
        assert_eq!(refused.reason, Reason::LeaseNotAvailable);
        let release = bench.use_cases.release(caller, id).await.unwrap_err();
        assert_eq!(release.message, refused.message);
    }
    assert_eq!(reason(bench.issue(&stranger, &job, bench.request()).await), Reason::JobNotAvailable);
    assert_eq!(reason(bench.use_cases.end_job(&stranger, job.id).await), Reason::JobNotAvailable);
    assert!(bench.lease(lease).is_live());
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
async fn a_failed_refresh_leaves_the_lease_as_it_is() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let busy = MintError::Busy { cluster: name("staging"), retry_after: Duration::from_secs(3) };
    bench.cluster.fail_next_mint(busy);
    let refused = bench.use_cases.refresh(&caller, delivery.issued.lease.id, None).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after), (Reason::ClusterBusy, Some(Duration::from_secs(3))));
    assert!(bench.use_cases.refresh(&caller, delivery.issued.lease.id, None).await.is_ok());
}

#[tokio::test]
async fn a_replaced_service_account_ends_the_lease() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    bench.cluster.replace_service_account("uid-2");
    let id = delivery.issued.lease.id;
    assert_eq!(reason(bench.use_cases.refresh(&caller, id, None).await), Reason::ServiceAccountReplaced);
    bench.until("the lease to end", || bench.lease(id).state_name() == "ended").await;
    assert_eq!(reason(bench.use_cases.refresh(&caller, id, None).await), Reason::LeaseEnded);
}

#[tokio::test]
async fn a_lost_anchor_ends_the_lease() {
    let bench = Bench::new();
    let (caller, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease;
    bench.cluster.cut(&lease.target.namespace, &lease.anchor).await.unwrap();
    assert_eq!(reason(bench.use_cases.refresh(&caller, lease.id, None).await), Reason::LeaseEnded);
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
