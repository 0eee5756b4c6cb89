//! Leases of half a minute, under tokens that the issuer cuts.

use super::*;

const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// The issuer tells the deadline less its margin of 10 s.
fn world(max_age: Option<Duration>) -> World {
    let world = World::new(max_age);
    let mut books = world.issuer.books();
    (books.remaining, books.valid_for) = (HALF_A_MINUTE, Duration::from_secs(20));
    drop(books);
    world
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_half_a_minute_has_one_token_and_then_the_next_lease() {
    let world = world(None);
    let mut tokens = std::collections::BTreeSet::new();
    // Not so often that a token is suspect.
    for _ in 0..20 {
        let (token, valid_for) = world.ask().await.unwrap();
        assert!(valid_for >= Duration::from_secs(1), "{valid_for:?}");
        tokens.insert(token);
        sleep(Duration::from_secs(6)).await;
    }
    let issued = world.issuer.count("issue");
    // Not before the half of each, and not much later while somebody asks.
    assert!((5..=8).contains(&issued), "{issued} leases in two minutes");
    assert_eq!((tokens.len(), world.issuer.count("refresh")), (issued, 0));
}

#[tokio::test(start_paused = true)]
async fn an_age_that_is_configured_brings_no_refresh_that_comes_too_late_for_its_lease() {
    let world = world(Some(Duration::from_secs(2)));
    world.token().await;
    sleep(HALF_A_MINUTE).await;
    let refreshes = world.issuer.count("refresh");
    assert!((5..=8).contains(&refreshes), "{refreshes} refreshes in the first half of the lease");
}
