//! Leases whose records were lost: what is made of their anchors, who gets a token of them, and how they end.

use shorepass_core::anchors::FoundAnchor;
use shorepass_core::ban::{Ban, BanKey, Banned};
use shorepass_core::block::Block;
use shorepass_core::cluster::MintError;
use shorepass_core::lease::{EndCause, State};
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::receipt::{Verdict, Why};
use shorepass_rpc::api::{Administration as _, Credentials as _, Outcome, Revocation, RevokeStep};
use tokio::sync::mpsc;

use super::unclaimed::{Found, unclaimed};
use super::*;
use crate::revoke::sweeper::Sweeper;
use crate::revoke::unclaimed::Counts;

/// A runner, its lease, and what is left of that in a cluster that lists it.
struct Lost {
    bench: Bench,
    owner: Caller,
    lease: Lease,
    found: Arc<Found>,
}

/// The annotation of a lease, as the seal of these tests reads it.
fn annotation(lease: &Lease) -> String {
    format!("seal-of-{}/{}/{}", lease.id, lease.owner.digest(), lease.role_digest)
}

impl Lost {
    /// The records are empty but for the runner's enrolment, if that `survives`.
    async fn new(survives: bool) -> Self {
        let bench = Bench::new();
        let (owner, _, delivery) = bench.leased().await;
        let (lease, bench) = (delivery.issued.lease, bench.emptied());
        if survives {
            bench.enrol(&owner).await;
        }
        let lost = Self { bench, owner, lease, found: Arc::default() };
        lost.finds(Some(annotation(&lost.lease)));
        lost
    }

    /// It was adopted and revoked, and then the records were lost once more; with the blocks that were set.
    async fn again_after_a_revocation() -> (Self, Vec<Block>) {
        let lost = Self::new(true).await;
        lost.look().await;
        lost.revoke(LeaseFilter::default()).await;
        let blocks = lost.bench.ledger.blocks(lost.owner.spiffe_id(), &name("deploy")).unwrap();
        (Self { bench: lost.bench.emptied(), ..lost }, blocks)
    }

    fn finds(&self, annotation: Option<String>) {
        let name = self.lease.anchor.clone();
        let uid = self.bench.cluster.anchor_uid(name.as_str()).unwrap();
        let (namespace, created) = (self.lease.target.namespace.clone(), self.lease.created);
        let anchor = FoundAnchor { namespace, name, uid, created, annotation };
        *self.found.anchors.lock().unwrap() = vec![anchor];
    }

    async fn look(&self) -> Counts {
        unclaimed(&self.bench, &self.found).look().await.unwrap()
    }

    /// As it is on record now.
    fn now(&self) -> Lease {
        self.bench.lease(self.lease.id)
    }

    async fn sweep(&self) {
        Sweeper::new(self.bench.use_cases.ends.clone(), name("staging")).sweep().await.unwrap();
    }

    async fn revoke(&self, filter: LeaseFilter) -> Vec<RevokeStep> {
        let (sender, mut receiver) = mpsc::channel(64);
        let revocation = Revocation { filter, reason: "leaked".to_owned(), dry_run: false, wait: false };
        self.bench.use_cases.revoke(&self.bench.operator(), revocation, sender).await.unwrap();
        let mut steps = Vec::new();
        while let Some(step) = receiver.recv().await {
            steps.push(step.unwrap());
        }
        steps
    }

    async fn is_cut(&self) {
        self.bench.until("the anchor to be gone", || self.bench.cluster.anchors().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_is_adopted_and_its_owner_alone_goes_on_with_it() {
    for survives in [true, false] {
        let lost = Lost::new(survives).await;
        let bench = &lost.bench;
        assert_eq!(reason(bench.refresh(&lost.owner, lost.lease.id).await), Reason::LeaseNotAvailable);
        assert_eq!(lost.look().await, Counts { adopted: 1, ..Counts::default() });
        let adopted = lost.now();
        assert!(adopted.is_adopted() && adopted.owner.known().is_some() == survives);
        let other = bench.caller("runner/prod-2");
        // The same name, enrolled anew, is somebody else.
        let again = bench.caller("runner/prod-1");
        for stranger in [other, again] {
            assert_eq!(reason(bench.refresh(&stranger, adopted.id).await), Reason::LeaseNotAvailable);
            assert_eq!(
                reason(bench.use_cases.release(&stranger, adopted.id).await),
                Reason::LeaseNotAvailable
            );
        }
        let unreachable = MintError::Unreachable { cluster: name("staging"), cause: "on purpose".to_owned() };
        bench.cluster.fail_next_mint(unreachable);
        assert_eq!(reason(bench.refresh(&lost.owner, adopted.id).await), Reason::ClusterUnreachable);
        let lines = bench.ledger.audit_lines();
        assert!(lines.last().unwrap().contains("/runner/prod-1\""), "who was refused is told: {lines:?}");
        assert_eq!(lost.now(), adopted, "only a token tells the rest");
        let delivery = bench.refresh(&lost.owner, adopted.id).await.unwrap();
        assert_eq!(delivery.issued.lease.anchor, lost.lease.anchor);
        assert_eq!(lost.now().owner.known(), Some(&lost.owner.owner()));
        assert_eq!(lost.now().pins().unwrap().service_account_uid, "uid-1");
        bench.refresh(&lost.owner, adopted.id).await.unwrap();
        let of_owner = LeaseFilter { caller: Some(lost.owner.spiffe_id().clone()), ..LeaseFilter::default() };
        assert_eq!(lost.bench.ledger.leases(&of_owner, None, 9).unwrap().len(), 1);
        let events = bench.events();
        let of_leases: Vec<_> = events.iter().filter(|event| event.starts_with("lease.")).collect();
        assert_eq!(of_leases, ["lease.adopted", "lease.recognised"]);
        assert_eq!(lost.look().await, Counts { adopted: 1, ..Counts::default() }, "it is adopted once");
        let ended = bench.use_cases.release(&lost.owner, adopted.id).await.unwrap();
        assert_eq!(ended.state_name(), "ended");
        lost.is_cut().await;
    }
}

/// Its tokens may be for others than the API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_adopted_lease_whose_role_is_not_known_nothing_is_proved() {
    let lost = Lost::new(true).await;
    lost.bench.cluster.has_one_server();
    let other = Lease { role_digest: Digest::of_bytes(b"another"), ..lost.lease.clone() };
    lost.finds(Some(annotation(&other)));
    lost.look().await;
    assert_eq!((lost.now().role, lost.now().audiences), (None, None));
    lost.revoke(LeaseFilter::default()).await;
    lost.bench.until("the receipt", || lost.now().receipt.is_some()).await;
    let receipt = lost.now().receipt.unwrap();
    assert!(
        matches!(&receipt.verdict, Verdict::Unproved(unproved) if unproved.why == Why::NoCanary),
        "{receipt:?}"
    );
    assert_eq!(lost.bench.cluster.canaries(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_mac_of_ours_is_never_adopted() {
    let lost = Lost::new(true).await;
    for forged in [None, Some("v1.forged".to_owned()), Some(annotation(&lost.lease).to_uppercase())] {
        lost.finds(forged);
        assert_eq!(lost.look().await, Counts { unauthenticated: 1, ..Counts::default() });
        assert_eq!(lost.bench.ledger.lease(lost.lease.id).unwrap(), None);
    }
    assert_eq!(reason(lost.bench.refresh(&lost.owner, lost.lease.id).await), Reason::LeaseNotAvailable);
    assert_eq!(lost.bench.cluster.anchors().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_of_a_lease_that_is_on_record_with_another_one_is_not_adopted() {
    let lost = Lost::new(true).await;
    lost.look().await;
    let before = lost.now();
    let odd = AnchorName::from_random([9; 16]);
    lost.found.anchors.lock().unwrap()[0].name = odd;
    assert_eq!(lost.look().await, Counts { kept: 1, ..Counts::default() });
    assert_eq!(lost.now(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_revokes_an_adopted_lease_whether_its_owner_is_known_or_not() {
    for survives in [true, false] {
        let lost = Lost::new(survives).await;
        lost.look().await;
        let view = lost.bench.use_cases.get_lease(&lost.bench.operator(), lost.lease.id).await.unwrap();
        assert!(view.job.is_none() && view.lease.is_adopted());
        let by_owner = LeaseFilter { caller: Some(lost.owner.spiffe_id().clone()), ..LeaseFilter::default() };
        let all = LeaseFilter { cluster: Some(name("staging")), ..LeaseFilter::default() };
        let steps = lost.revoke(if survives { by_owner } else { all }).await;
        assert_eq!((steps.len(), &steps[0].outcome), (1, &Outcome::Revoked));
        assert_eq!(steps[0].block_set, survives, "nobody can be blocked who has no name");
        lost.is_cut().await;
        assert_eq!(reason(lost.bench.refresh(&lost.owner, lost.lease.id).await), Reason::LeaseEnded);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_was_revoked_comes_back_ended() {
    let (lost, blocks) = Lost::again_after_a_revocation().await;
    // The delete had not gone through when the records were lost; blocks outlive them.
    for block in blocks {
        lost.bench.ledger.commit(vec![Change::BlockSet { block }]).await.unwrap();
    }
    assert_eq!(lost.look().await, Counts { adopted: 1, ..Counts::default() });
    assert!(
        matches!(lost.now().end_cause(), Some((EndCause::Revoked { reason, .. }, _)) if reason == "leaked")
    );
    assert_eq!(reason(lost.bench.refresh(&lost.owner, lost.lease.id).await), Reason::LeaseEnded);
    lost.sweep().await;
    assert!(matches!(lost.now().state, State::Ended { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_blocked_since_a_lost_lease_ended_gets_no_token_of_it() {
    let (lost, blocks) = Lost::again_after_a_revocation().await;
    lost.bench.enrol(&lost.owner).await;
    // It was another lease of theirs that was revoked.
    let other = LeaseId::generate(lost.bench.clock.now(), lost.bench.entropy.as_ref());
    let blocks = blocks.into_iter().map(|block| Change::BlockSet { block: Block { lease: other, ..block } });
    lost.bench.ledger.commit(blocks.collect()).await.unwrap();
    lost.look().await;
    assert!(lost.now().is_live());
    assert_eq!(reason(lost.bench.refresh(&lost.owner, lost.lease.id).await), Reason::Blocked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_replaced_enrolments_and_deadlines_end_adopted_leases_like_others() {
    let lost = Lost::new(true).await;
    lost.look().await;
    let operator = lost.bench.operator();
    let banned = Banned::Name(lost.owner.spiffe_id().clone());
    let whom: BanKey = banned.key();
    let shutout = lost.bench.use_cases.ban(&operator, whom, "stolen".to_owned()).await.unwrap();
    assert_eq!(shutout.leases, 1);
    lost.is_cut().await;

    let lost = Lost::new(true).await;
    let ban = Ban::set(banned, None, &operator, "stolen".to_owned(), lost.bench.clock.now()).unwrap();
    lost.bench.use_cases.outside.bans.put(ban);
    lost.look().await;
    lost.sweep().await;
    assert!(matches!(lost.now().end_cause(), Some((EndCause::OwnerBanned { .. }, _))));

    let lost = Lost::new(true).await;
    let enrolment = lost.bench.ledger.enrolment(lost.owner.enrolment()).unwrap().unwrap();
    let replaced = enrolment.replace(lost.bench.clock.now());
    lost.bench.ledger.commit(vec![Change::EnrolmentReplaced { enrolment: replaced }]).await.unwrap();
    lost.look().await;
    lost.sweep().await;
    assert!(matches!(lost.now().end_cause(), Some((EndCause::EnrolmentReplaced, _))));

    for survives in [true, false] {
        let lost = Lost::new(survives).await;
        lost.look().await;
        let longest = after(lost.lease.created, Duration::from_secs(6 * 3600));
        assert_eq!(lost.now().deadline, longest, "no further than the role goes");
        lost.bench.clock.advance(Duration::from_secs(6 * 3600));
        lost.sweep().await;
        assert!(matches!(lost.now().end_cause(), Some((EndCause::Deadline, _))));
        lost.is_cut().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_role_a_lease_yields_no_token_and_can_be_given_back() {
    let lost = Lost::new(true).await;
    let changed =
        format!("seal-of-{}/{}/{}", lost.lease.id, lost.lease.owner.digest(), Digest::of_bytes(b"older"));
    lost.finds(Some(changed));
    lost.look().await;
    assert_eq!((lost.now().role, lost.now().target.service_account.as_str()), (None, ""));
    let refused = lost.bench.refresh(&lost.owner, lost.lease.id).await;
    assert_eq!(reason(refused), Reason::LeaseNotAvailable, "so that an agent asks for a new one");
    lost.bench.use_cases.release(&lost.owner, lost.lease.id).await.unwrap();
    lost.is_cut().await;
}
