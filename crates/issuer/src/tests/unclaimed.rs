//! Anchors that were found: what is removed, and what is left alone.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use shorepass_core::anchors::{Anchors, FoundAnchor, ListError, Remains};
use shorepass_core::cluster::CutError;

use super::*;
use crate::revoke::unclaimed::{Counts, Unclaimed, is_empty};

const GRACE: Duration = Duration::from_secs(600);

/// What is in the cluster, and whether it lets it be deleted.
#[derive(Default)]
pub(super) struct Found {
    pub(super) anchors: Mutex<Vec<FoundAnchor>>,
    asked: Mutex<BTreeSet<Name>>,
    held: Mutex<bool>,
    forbidden: Mutex<BTreeSet<Name>>,
}

#[async_trait]
impl Anchors for Found {
    async fn list(&self, namespace: &Name) -> Result<Vec<FoundAnchor>, ListError> {
        self.asked.lock().unwrap().insert(namespace.clone());
        if self.forbidden.lock().unwrap().contains(namespace) {
            return Err(ListError::Forbidden(namespace.clone()));
        }
        let mut anchors = self.anchors.lock().unwrap().clone();
        anchors.retain(|found| found.namespace == *namespace);
        Ok(anchors)
    }

    async fn remove(&self, remains: &Remains) -> Result<(), CutError> {
        if *self.held.lock().unwrap() {
            return Err(CutError::HeldByFinalizer(remains.anchor.as_str().to_owned()));
        }
        self.anchors.lock().unwrap().retain(|found| found.name != remains.anchor);
        Ok(())
    }
}

impl Found {
    fn left(&self) -> Vec<String> {
        self.anchors.lock().unwrap().iter().map(|found| found.name.as_str().to_owned()).collect()
    }

    fn add(&self, bench: &Bench, letter: u8, annotation: Option<String>) -> String {
        let name = AnchorName::from_random([letter; 16]);
        let text = name.as_str().to_owned();
        let created = bench.clock.now();
        self.anchors.lock().unwrap().push(FoundAnchor {
            namespace: self::name("web"),
            name,
            uid: "uid".to_owned(),
            created,
            annotation,
        });
        text
    }
}

pub(super) fn unclaimed(bench: &Bench, found: &Arc<Found>) -> Unclaimed {
    let outside = bench.use_cases.outside.clone();
    let empty = is_empty(outside.ledger.as_ref()).unwrap();
    Unclaimed::new(outside, name("staging"), found.clone(), GRACE).began(empty)
}

/// Of a lease without a record; whose deadline has passed, or not.
fn nobodys(bench: &Bench, over: bool) -> Option<String> {
    let kind = if over { "old-seal-of" } else { "seal-of" };
    Some(format!("{kind}-{}", LeaseId::generate(bench.clock.now(), bench.entropy.as_ref())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_no_record_claims_and_has_our_mac_is_removed_after_the_grace() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    let lease = delivery.issued.lease;
    let found = Arc::new(Found::default());
    let unclaimed = unclaimed(&bench, &found);
    found.add(&bench, 1, nobodys(&bench, true));
    let forged = found.add(&bench, 2, Some("v1.forged".to_owned()));
    let bare = found.add(&bench, 3, None);
    let live = FoundAnchor {
        namespace: lease.target.namespace.clone(),
        name: lease.anchor.clone(),
        uid: "uid".to_owned(),
        created: lease.created,
        annotation: Some(format!("seal-of-{}", lease.id)),
    };
    found.anchors.lock().unwrap().push(live);
    let before = Counts { waiting: 1, unauthenticated: 2, ..Counts::default() };
    assert_eq!(unclaimed.look().await.unwrap(), before);
    bench.clock.advance(GRACE);
    *found.held.lock().unwrap() = true;
    let held = Counts { undeletable: 1, unauthenticated: 2, ..Counts::default() };
    assert_eq!(unclaimed.look().await.unwrap(), held);
    *found.held.lock().unwrap() = false;
    let removed = Counts { removed: 1, unauthenticated: 2, ..Counts::default() };
    assert_eq!(unclaimed.look().await.unwrap(), removed);
    assert_eq!(found.left(), [forged, bare, lease.anchor.as_str().to_owned()]);
    assert!(found.asked.lock().unwrap().contains(&name("web")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_with_an_empty_store_removes_nothing() {
    let bench = Bench::new();
    let found = Arc::new(Found::default());
    let anchor = found.add(&bench, 1, nobodys(&bench, true));
    bench.clock.advance(GRACE);
    let unclaimed = unclaimed(&bench, &found);
    bench.leased().await; // a lease that it issues now does not tell it what was before
    for _ in 0..2 {
        let kept = Counts { kept: 1, ..Counts::default() };
        assert_eq!(unclaimed.look().await.unwrap(), kept);
        bench.clock.advance(GRACE);
    }
    assert_eq!(found.left(), [anchor]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_live_lease_that_no_record_has_keeps_all_others() {
    let bench = Bench::new();
    bench.leased().await;
    let found = Arc::new(Found::default());
    let over = found.add(&bench, 1, nobodys(&bench, true));
    let lost = found.add(&bench, 2, nobodys(&bench, false));
    bench.clock.advance(GRACE);
    let unclaimed = unclaimed(&bench, &found);
    for _ in 0..2 {
        let kept = Counts { adopted: 1, kept: 1, ..Counts::default() };
        assert_eq!(unclaimed.look().await.unwrap(), kept, "the lost one is adopted, and still a sign");
        bench.clock.advance(GRACE);
    }
    assert_eq!(found.left(), [over.clone(), lost]);
    found.anchors.lock().unwrap().retain(|found| found.name.as_str() == over);
    assert_eq!(unclaimed.look().await.unwrap(), Counts { removed: 1, ..Counts::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_may_not_be_listed_hides_nothing_of_the_others() {
    let bench = Bench::new();
    bench.leased().await;
    let elsewhere = Target { namespace: name("api"), ..role().gives().existing().unwrap().clone() };
    let (token, lease) = (role().token(), role().lease());
    let other = Role::new(
        name("other"),
        elsewhere,
        token,
        lease,
        role().subjects().to_vec(),
        Digest::of_bytes(b"other"),
    )
    .unwrap();
    bench.use_cases.outside.policy.exchange(Policy::new(vec![role(), other]).unwrap());
    let found = Arc::new(Found::default());
    found.forbidden.lock().unwrap().insert(name("api"));
    found.add(&bench, 1, nobodys(&bench, true));
    bench.clock.advance(GRACE);
    let removed = Counts { removed: 1, unlisted: 1, ..Counts::default() };
    assert_eq!(unclaimed(&bench, &found).look().await.unwrap(), removed);
    assert!(found.left().is_empty());
}
