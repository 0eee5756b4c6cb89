//! The streamed revocation.

use std::time::Duration;

use shorepass_core::caller::Kind;
use shorepass_proto::v1;
use shorepass_rpc::refused::{Reason, Refused};
use shorepass_rpc::status::Code;
use tokio::time::sleep;

use crate::bench::{Bench, revoke};
use crate::fake::{Mood, second};

#[tokio::test]
async fn each_step_is_told_as_it_happens() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let mut steps = bench.client(Some(Kind::Operator)).revoke_leases(revoke()).await.unwrap();
    let first = steps.next().await.unwrap().unwrap();
    assert_eq!(first.outcome(), v1::RevokeOutcome::Ending);
    assert_eq!(first.obstacle, "the API server cannot be reached");
    assert_eq!((first.total, first.block_set), (2, true));
    bench.fake.go_on.notify_one();
    let second = steps.next().await.unwrap().unwrap();
    assert_eq!(second.outcome(), v1::RevokeOutcome::Revoked);
    assert_eq!((second.obstacle.as_str(), second.lease.is_some()), ("", true));
    assert_eq!(steps.next().await.unwrap(), None);
    let asked = bench.fake.revocations.lock().unwrap()[0].clone();
    assert_eq!((asked.reason.as_str(), asked.dry_run), ("leaked", false));
}

#[tokio::test]
async fn a_revocation_that_is_refused_has_no_stream() {
    let bench = Bench::api();
    bench.fake.set(Mood::Refuse(Refused::new(Reason::StoreUnavailable, "not now")));
    let refused = bench.client(Some(Kind::Operator)).revoke_leases(revoke()).await;
    assert_eq!(refused.unwrap_err().reason(), Some(Reason::StoreUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_goes_on_when_its_watcher_is_gone() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let client = bench.client(Some(Kind::Operator));
    let mut steps = client.revoke_leases(revoke()).await.unwrap();
    steps.next().await.unwrap().unwrap();
    drop((steps, client));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.fake.finished(), 0);
    bench.fake.go_on.notify_one();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.fake.finished(), 1);
}

#[tokio::test]
async fn a_watcher_is_checked_for_every_message() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let mut steps = bench.client(Some(Kind::Operator)).revoke_leases(revoke()).await.unwrap();
    steps.next().await.unwrap().unwrap();
    bench.clock.set(second(3_600));
    bench.fake.go_on.notify_one();
    assert_eq!(steps.next().await.unwrap_err().reason(), Some(Reason::CertificateExpired));
    assert_eq!(bench.fake.finished(), 1, "the revocation itself went on");
}

#[tokio::test]
async fn a_panic_is_not_taken_for_the_end() {
    let bench = Bench::api();
    bench.fake.set(Mood::Panic);
    let mut steps = bench.client(Some(Kind::Operator)).revoke_leases(revoke()).await.unwrap();
    steps.next().await.unwrap().unwrap();
    let error = steps.next().await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::Internal);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_is_not_kept_waiting_for_ever() {
    let bench = Bench::api();
    bench.fake.set(Mood::Hang);
    let mut steps = bench.client(Some(Kind::Operator)).revoke_leases(revoke()).await.unwrap();
    steps.next().await.unwrap().unwrap();
    let error = steps.next().await.unwrap_err();
    assert_eq!(error.refusal().unwrap().code, Code::DeadlineExceeded);
    bench.fake.go_on.notify_one();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.fake.finished(), 1);
}
