//! What becomes of a token when its end is told.

use super::*;
use crate::issuer::IssuerError;

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_told_wipes_the_token_and_stays_the_reason() {
    let world = World::new(None);
    world.token().await;
    let revoked = world.end(EndCause::Revoked);
    world.issuer.revoke();
    world.handle.ended(revoked, id("watch")).await;
    let told = "the lease was revoked by spiffe://d/operator/alice at 2026-09-21T14:13:20Z: laptop stolen";
    for _ in 0..3 {
        let asked = Instant::now();
        let denial = world.ask().await.unwrap_err();
        assert_eq!(denial.class, ErrorClass::LeaseEnded);
        assert!(denial.message.starts_with(told) && denial.message.contains("Blocked"), "{}", denial.message);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(world.issuer.count("refresh"), 0);
    // Also where the issuer cannot be asked.
    world.mood(Mood::Refuses(Reason::ClusterUnreachable));
    let denial = world.ask().await.unwrap_err();
    assert!(denial.message.starts_with(told) && denial.class == ErrorClass::LeaseEnded, "{}", denial.message);
    world.mood(Mood::Works);
    world.issuer.books().blocked = false;
    sleep(Duration::from_secs(60)).await;
    world.token().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_by_silence_is_replaced_when_somebody_asks() {
    let world = World::new(None);
    assert_eq!(world.token().await, "token-1");
    sleep(Duration::from_secs(20)).await;
    world.handle.ended(world.end(EndCause::Silent), id("beat")).await;
    assert_eq!(world.token().await, "token-2");
    assert_eq!(world.issuer.books().calls, ["start", "issue", "issue"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_comes_after_the_end_of_its_lease_is_not_served() {
    let world = World::new(None);
    world.token().await;
    let ended = world.end(EndCause::AnchorLost);
    // The answer to a refresh is on its way while the end is told.
    world.issuer.books().delay = Duration::from_secs(3);
    sleep(Duration::from_secs(901)).await;
    assert_eq!(world.issuer.count("refresh"), 1);
    world.handle.ended(ended, id("watch")).await;
    sleep(Duration::from_secs(3)).await;
    assert!(world.handle.overview().await.leases.iter().all(|kept| kept.token_id.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn what_is_told_ends_with_the_silence_and_grows_with_every_acknowledged_heartbeat() {
    let world = World::new(None);
    world.issuer.books().silence = Some(Duration::from_secs(120));
    let (_, told) = world.ask().await.unwrap();
    assert_eq!(told.as_secs(), 109);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.ask().await.unwrap().1.as_secs(), 49);
    sleep(Duration::from_secs(6)).await; // not so soon that the token is suspect
    let lease = world.issuer.first_lease();
    world.handle.heard(vec![lease], world.clock.since_boot()).await;
    assert_eq!(world.ask().await.unwrap().1.as_secs(), 110);
    // Nobody is heard any more: what is held is served, and told to be over soon.
    world.mood(Mood::Silent);
    sleep(Duration::from_secs(300)).await;
    assert_eq!(world.ask().await.unwrap(), ("token-1".to_owned(), Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_changed_role_is_asked_about_soon() {
    let world = World::new(None);
    world.token().await;
    world.handle.role_changed(world.issuer.first_lease()).await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!((world.token().await.as_str(), world.issuer.count("refresh")), ("token-2", 1));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_shut_out_holds_no_token() {
    let world = World::new(None);
    world.token().await;
    world.mood(Mood::Refuses(Reason::Banned));
    let banned: IssuerError = crate::fake::refused(Reason::Banned);
    world.handle.shut_out(banned, id("watch")).await;
    let denial = world.ask().await.unwrap_err();
    assert_eq!(denial.class, ErrorClass::Denied);
    assert!(world.handle.overview().await.leases[0].token_id.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_the_issuer_forgot_is_replaced_and_its_token_served_meanwhile() {
    let world = World::new(None);
    world.token().await;
    world.issuer.books().delay = Duration::from_secs(2);
    world.handle.unavailable(world.issuer.first_lease(), id("beat")).await;
    assert_eq!(world.token().await, "token-1");
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.token().await, "token-2");
}
