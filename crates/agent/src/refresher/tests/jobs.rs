//! Sessions that a job's token opens: how long they last, and that nothing opens them again.

use shorepass_core::job_token::JobToken;

use super::*;
use crate::issuer::Started;

impl World {
    async fn start_with(&self, job: &str, token: &str) -> Result<Started, Denial> {
        let key = JobKey::parse(1000, job).unwrap();
        self.handle.start_job(key, JobToken::new(token.to_owned()), id("start")).await
    }

    async fn end_job(&self, job: &str) -> Result<usize, Denial> {
        self.handle.end_job(JobKey::parse(1000, job).unwrap(), id("end")).await
    }
}

#[tokio::test(start_paused = true)]
async fn leases_of_a_job_hang_on_the_session_that_its_token_opened() {
    let world = World::new(None);
    world.start_with("", "a.b.c").await.unwrap();
    world.token().await;
    world.ask_as("", "db").await.unwrap();
    assert_eq!((world.issuer.count("start with a token"), world.issuer.count("start")), (1, 0));
    assert_eq!(world.end_job("").await.unwrap(), 2);
    world.token().await;
    assert_eq!(world.issuer.count("start"), 1, "after its end it is a job like any other");
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_its_first_lease_and_outlives_its_last() {
    let world = World::new(None);
    world.start_with("", "a.b.c").await.unwrap();
    sleep(2 * HOUR).await;
    world.token().await;
    sleep(5 * HOUR).await; // the lease is over and forgotten
    world.token().await;
    assert_eq!((world.issuer.count("start with a token"), world.issuer.count("start")), (1, 0));
    assert_eq!(world.issuer.count("end"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_is_not_opened_again_by_assertion() {
    let world = World::new(None);
    world.start_with("", "a.b.c").await.unwrap();
    world.token().await;
    world.issuer.end_all_jobs();
    sleep(HOUR).await;
    let denial = loop {
        match world.ask().await {
            Err(denial) => break denial,
            Ok(_) => sleep(Duration::from_secs(60)).await,
        }
    };
    sleep(Duration::from_secs(60)).await;
    let again = world.ask().await.unwrap_err();
    assert_eq!(again.class, ErrorClass::LeaseEnded, "{denial:?} {again:?}");
    assert!(again.remedy.contains("shorepass job start"), "{again:?}");
    assert_eq!(world.issuer.count("start"), 0);
    world.start_with("", "d.e.f").await.unwrap();
    sleep(Duration::from_secs(60)).await;
    world.token().await;
}

#[tokio::test(start_paused = true)]
async fn another_job_under_the_name_ends_the_one_before() {
    let world = World::new(None);
    let asserted = world.token().await;
    world.start_with("", "a.b.c").await.unwrap();
    assert_ne!(world.token().await, asserted);
    let first = world.issuer.first_lease();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.issuer.count("end"), 1);
    assert!(world.issuer.has_ended(first));
    world.start_with("", "d.e.f").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.issuer.count("end"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_under_the_same_request_after_a_restart_too() {
    let world = World::new(None);
    world.mood(Mood::Silent);
    let denial = world.start_with("", "a.b.c").await.unwrap_err();
    assert_eq!(denial.class, ErrorClass::Unreachable);
    let world = world.restarted().await;
    world.mood(Mood::Works);
    world.start_with("", "a.b.c").await.unwrap();
    let requests = world.issuer.books().starts.clone();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
    let world = world.restarted().await;
    world.token().await;
    assert_eq!(world.issuer.count("start"), 0, "the session is kept over a restart");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_token_was_sent_with_is_not_used_again() {
    let world = World::new(None);
    world.mood(Mood::RefusesOnce(Reason::RequestIdReused));
    world.start_with("", "a.b.c").await.unwrap();
    let requests = world.issuer.books().starts.clone();
    assert!(requests.len() == 2 && requests[0] != requests[1], "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_leaves_what_was_there() {
    let world = World::new(None);
    let before = world.token().await;
    world.mood(Mood::Refuses(Reason::JobTokenUsed));
    let denial = world.start_with("", "a.b.c").await.unwrap_err();
    assert_eq!(denial.class, ErrorClass::Denied);
    assert_eq!(world.token().await, before);
    assert_eq!(world.issuer.count("end"), 0);
}

#[tokio::test(start_paused = true)]
async fn no_user_keeps_more_sessions_than_it_may() {
    let world = World::new(None);
    for number in 0..64 {
        world.start_with(&format!("build-{number}"), "a.b.c").await.unwrap();
    }
    let denial = world.start_with("one-more", "a.b.c").await.unwrap_err();
    assert!(denial.message.contains("64 job sessions"), "{denial:?}");
    world.end_job("build-7").await.unwrap();
    world.start_with("one-more", "a.b.c").await.unwrap();
}
