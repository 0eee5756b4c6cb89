//! What `status` shows of leases.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_role_that_a_job_may_not_have_is_its_own_error_and_one_that_it_had_is_not() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.token().await;
    world.mood(Mood::Refuses(Reason::RoleNotAvailable));
    world.ask_as("", "db").await.unwrap_err();
    sleep(Duration::from_secs(6)).await; // the refresh of the other one is refused, too
    let leases = world.handle.overview().await.leases;
    let shown: Vec<_> =
        leases.iter().map(|kept| (kept.key.role.as_str(), kept.problem.is_empty(), kept.denied)).collect();
    assert_eq!(shown, [("db", false, true), ("web", false, false)]);
}

#[tokio::test(start_paused = true)]
async fn an_unbound_lease_is_shown_as_one_as_long_as_a_token_is_held() {
    for unbound in [false, true] {
        let world = World::new(None);
        world.issuer.books().unbound = unbound;
        world.token().await;
        assert_eq!(world.handle.overview().await.leases[0].unbound, unbound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_is_no_error_of_the_jobs() {
    for reason in [Reason::LeaseEnded, Reason::LeaseNotAvailable, Reason::EnrolmentEnded] {
        let world = World::new(Some(Duration::from_secs(5)));
        world.token().await;
        world.mood(Mood::Refuses(reason));
        sleep(Duration::from_secs(6)).await;
        let lost = &world.handle.overview().await.leases[0];
        assert!(lost.lease.is_none() && !lost.problem.is_empty() && !lost.denied, "{reason:?}: {lost:?}");
    }
}
