//! Leases for others than the API server: what is recorded of them, that the cluster's word is not taken for it, and that their
//! end is never proved.

use shorepass_core::audience::Audiences;
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::receipt::{Verdict, Why};
use shorepass_rpc::api::Awaited;

use super::receipts::revoke_these;
use super::*;

const VAULT: &str = "https://vault.example.org";

pub(super) fn vault() -> Audiences {
    Audiences::new(vec![VAULT.to_owned()]).unwrap()
}

/// A lease of role `vault`.
async fn leased(bench: &Bench) -> Result<(Caller, Delivery), Refused> {
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let delivery = bench.issue_of("vault", &caller, &job, bench.request()).await?;
    Ok((caller, delivery))
}

#[tokio::test]
async fn for_whom_it_was_granted_is_recorded_with_a_lease_and_its_refreshes_are_for_the_same() {
    let bench = Bench::new();
    let (caller, delivery) = leased(&bench).await.unwrap();
    let id = delivery.issued.lease.id;
    assert_eq!(bench.lease(id).audiences, Some(vault()));
    for event in ["lease.pending", "lease.active"] {
        let line = bench.ledger.audit_lines().into_iter().find(|line| line.contains(event)).unwrap();
        assert!(line.contains(&format!("\"audiences\":[\"{VAULT}\"]")), "{line}");
    }
    bench.refresh(&caller, id).await.unwrap();
    bench.cluster.give_audiences(&["https://kubernetes.default.svc"]);
    assert_eq!(reason(bench.refresh(&caller, id).await), Reason::ClusterAnswerRejected);
    let (_, _, plain) = Bench::new().leased().await;
    assert_eq!(plain.issued.lease.audiences, None);
}

#[tokio::test]
async fn a_cluster_that_gives_a_token_for_somebody_else_gets_it_nowhere() {
    for given in [&["https://kubernetes.default.svc"][..], &[VAULT, "https://kubernetes.default.svc"], &[]] {
        let bench = Bench::new();
        bench.cluster.give_audiences(given);
        assert_eq!(reason(leased(&bench).await), Reason::ClusterAnswerRejected, "{given:?}");
        bench.until("the anchor to be gone", || bench.cluster.anchors().is_empty()).await;
        assert!(!bench.events().contains(&"token.minted".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_about_its_end_and_the_receipt_says_why() {
    let bench = Bench::new();
    bench.cluster.has_one_server();
    leased(&bench).await.unwrap();
    let filter = LeaseFilter { role: Some(name("vault")), ..LeaseFilter::default() };
    let steps = revoke_these(&bench, filter, true).await;
    assert_eq!(steps[1].receipt, Awaited::Arrived, "{steps:?}");
    let receipt = steps[1].view.lease.receipt.clone().unwrap();
    assert_eq!(receipt.verdict, Verdict::Unproved(Why::ForOthers.because("")));
    assert!(receipt.endpoints.is_empty() && receipt.canaries.is_empty(), "{receipt:?}");
    assert_eq!((bench.cluster.canaries(), bench.cluster.controls().len()), (0, 0));
    assert!(bench.cluster.anchors().is_empty(), "it is cut all the same");
    let line = bench.ledger.audit_lines().into_iter().find(|line| line.contains("lease.receipt")).unwrap();
    assert!(line.contains(Why::ForOthers.as_str()) && line.contains(VAULT), "{line}");
}
