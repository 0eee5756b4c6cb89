//! What a role limits: nobody gets the lease or token too many, and places come back.

use std::num::NonZeroU32;
use std::time::Duration;

use shorepass_core::role::{Limits, Role};
use shorepass_rpc::api::Credentials as _;
use shorepass_rpc::refused::Reason;
use tokio::task::JoinSet;

use super::*;

/// Roles `few` (2 leases at once) and `slow` (3 tokens a minute), for the callers of `deploy`.
pub(super) fn roles() -> Vec<Role> {
    let like = role();
    let give = |text: &str, limits: Limits| {
        let (gives, subjects) = (like.gives().clone(), like.subjects().to_vec());
        let role = Role::new(name(text), gives, like.token(), like.lease(), subjects, like.digest()).unwrap();
        role.with_limits(limits)
    };
    let few = Limits { leases: NonZeroU32::new(2), mints_per_minute: None };
    let slow = Limits { leases: None, mints_per_minute: NonZeroU32::new(3) };
    vec![give("few", few), give("slow", slow)]
}

#[tokio::test]
async fn no_role_has_more_leases_than_it_says_however_many_ask_at_once() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let mut asking = JoinSet::new();
    for _ in 0..20 {
        let (use_cases, caller, request, call) =
            (bench.use_cases.clone(), caller.clone(), bench.request(), bench.call());
        let ask = Ask { role: name("few"), lease_lifetime: None, token_lifetime: None };
        asking.spawn(async move { use_cases.issue(&caller, &call, request, job.id, ask).await });
    }
    let (given, refused): (Vec<_>, Vec<_>) = asking.join_all().await.into_iter().partition(Result::is_ok);
    assert!((1..=2).contains(&given.len()), "{}", given.len()); // one that is just recorded may count twice
    for refused in refused {
        let refused = refused.unwrap_err();
        assert!(matches!(refused.reason, Reason::RateLimited | Reason::ClusterBusy), "{refused:?}");
        assert!(refused.retry_after.is_some());
    }
}

#[test]
fn a_place_that_is_not_recorded_yet_is_taken() {
    let quotas = Quotas::new(ManualClock::new());
    let few = &roles()[0];
    let (first, second) = (quotas.place(few, || 0), quotas.place(few, || 0));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(reason(quotas.place(few, || 0)), Reason::RateLimited);
    drop(first);
    assert!(quotas.place(few, || 0).is_ok());
    assert_eq!(reason(quotas.place(few, || 1)), Reason::RateLimited);
}

#[tokio::test]
async fn a_place_comes_back_when_a_lease_ends_and_counts_again_after_a_restart() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let first = bench.issue_of("few", &caller, &job, bench.request()).await.unwrap().issued.lease;
    bench.issue_of("few", &caller, &job, bench.request()).await.unwrap();
    let refused = bench.issue_of("few", &caller, &job, bench.request()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
    assert!(refused.message.contains("2 leases, which is its limit"), "{}", refused.message);
    bench.refresh(&caller, first.id).await.unwrap(); // it has its place
    bench.use_cases.release(&caller, first.id).await.unwrap();
    bench.issue_of("few", &caller, &job, bench.request()).await.unwrap();

    let bench = bench.restarted();
    bench.use_cases.outside.follow.load(bench.ledger.as_ref()).unwrap();
    assert_eq!(reason(bench.issue_of("few", &caller, &job, bench.request()).await), Reason::RateLimited);
}

#[tokio::test]
async fn tokens_of_a_role_come_at_its_pace_refreshes_among_them() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let lease = bench.issue_of("slow", &caller, &job, bench.request()).await.unwrap().issued.lease;
    bench.issue_of("slow", &caller, &job, bench.request()).await.unwrap();
    bench.refresh(&caller, lease.id).await.unwrap();
    let refused = bench.refresh(&caller, lease.id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::RateLimited);
    assert!(refused.retry_after.is_some_and(|wait| wait <= Duration::from_secs(20)), "{refused:?}");
    bench.issue_of("deploy", &caller, &job, bench.request()).await.unwrap();
    bench.clock.advance(Duration::from_secs(20));
    bench.refresh(&caller, lease.id).await.unwrap();
}

#[tokio::test]
async fn a_request_that_comes_again_counts_as_the_mint_that_it_is() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let request = bench.request();
    for _ in 0..3 {
        bench.issue_of("slow", &caller, &job, request).await.unwrap();
    }
    assert_eq!(reason(bench.issue_of("slow", &caller, &job, request).await), Reason::RateLimited);
}
