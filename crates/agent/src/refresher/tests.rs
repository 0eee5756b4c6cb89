//! The refresher against an honest issuer, on paused time.

mod ends;
mod ids;
mod jobs;
mod short;
mod shown;

use tokio::time::{Instant, sleep};

use super::*;
use crate::fake::{Counting, FakeClock, FakeIssuer, Folder, Mood};
use crate::follow::Ended;
use crate::session;
use shorepass_proto::v1::{EndCause, ErrorReason as Reason};
use shorepass_rpc::status::Code;

const HOUR: Duration = Duration::from_secs(3_600);

/// A running refresher.
struct World {
    issuer: Arc<FakeIssuer>,
    clock: Arc<FakeClock>,
    directory: Folder,
    handle: Handle,
    stop: CancellationToken,
}

impl World {
    fn new(max_age: Option<Duration>) -> Self {
        let (issuer, clock) = (FakeIssuer::new(), FakeClock::new());
        Self::start(issuer, clock, Folder::new(), max_age)
    }

    fn start(
        issuer: Arc<FakeIssuer>,
        clock: Arc<FakeClock>,
        directory: Folder,
        max_age: Option<Duration>,
    ) -> Self {
        let path = directory.path().join("sessions.json");
        let stored = Sessions::load(&path).unwrap();
        let (recorder, writer) = session::recorder(path, stored.clone());
        let parts = Parts {
            issuer: issuer.clone(),
            clock: clock.clone(),
            entropy: Arc::new(Counting::default()),
            job_system: Name::parse("local").unwrap(),
            max_age,
        };
        let (refresher, handle) = Refresher::new(parts, stored, recorder);
        let stop = CancellationToken::new();
        tokio::spawn(refresher.run(stop.clone()));
        tokio::spawn(writer.run(stop.clone()));
        Self { issuer, clock, directory, handle, stop }
    }

    async fn restarted(self) -> Self {
        self.stop.cancel();
        sleep(Duration::from_secs(1)).await;
        Self::start(self.issuer, self.clock, self.directory, None)
    }

    async fn ask(&self) -> Result<(String, Duration), Denial> {
        self.ask_as("", "web").await
    }

    async fn ask_as(&self, job: &str, role: &str) -> Result<(String, Duration), Denial> {
        self.ask_of(1000, job, role).await
    }

    async fn ask_of(&self, uid: u32, job: &str, role: &str) -> Result<(String, Duration), Denial> {
        let key = Key { job: JobKey::parse(uid, job).unwrap(), role: Name::parse(role).unwrap() };
        let lent = self.handle.credential(key, id("any")).await?;
        Ok((lent.token.expose().to_owned(), lent.valid_for))
    }

    async fn token(&self) -> String {
        self.ask().await.unwrap().0
    }

    /// What is told of the first lease.
    fn end(&self, cause: EndCause) -> Ended {
        let lease = self.issuer.first_lease();
        let (by, reason) = match cause {
            EndCause::Revoked => ("spiffe://d/operator/alice".to_owned(), "laptop stolen".to_owned()),
            _ => Default::default(),
        };
        let at = Some(shorepass_core::time::Timestamp::from_second(1_790_000_000).unwrap());
        Ended { lease, cause, at, by, reason }
    }

    fn mood(&self, mood: Mood) {
        self.issuer.books().mood = mood;
    }
}

fn id(text: &str) -> CallId {
    CallId::parse(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn fifty_parallel_asks_make_one_job_one_lease_and_one_token() {
    let world = Arc::new(World::new(None));
    world.issuer.books().delay = Duration::from_millis(25);
    let asks: Vec<_> = (0..50)
        .map(|number| {
            let world = world.clone();
            tokio::spawn(async move {
                // Some while the job is opened, some while the lease is issued.
                sleep(Duration::from_millis(number)).await;
                world.token().await
            })
        })
        .collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap(), "token-1");
    }
    assert_eq!(world.issuer.books().calls, ["start", "issue"]);
}

#[tokio::test(start_paused = true)]
async fn roles_of_one_job_share_it_and_jobs_do_not() {
    let world = World::new(None);
    let (one, other) = tokio::join!(world.ask_as("build", "web"), world.ask_as("build", "db"));
    assert_ne!(one.unwrap(), other.unwrap());
    assert_eq!((world.issuer.count("start"), world.issuer.count("issue")), (1, 2));
    world.ask_as("other", "web").await.unwrap();
    assert_eq!((world.issuer.count("start"), world.issuer.count("issue")), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn life_is_counted_from_before_the_request_was_sent() {
    let world = World::new(None);
    world.issuer.books().delay = Duration::from_secs(3);
    let (_, valid_for) = world.ask().await.unwrap();
    assert_eq!(valid_for, Duration::from_secs(1_797));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_at_half_of_its_life_on_the_same_lease() {
    let world = World::new(None);
    assert_eq!(world.token().await, "token-1");
    sleep(Duration::from_secs(890)).await;
    assert_eq!(world.issuer.count("refresh"), 0);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.token().await, "token-2");
    assert_eq!(world.issuer.books().calls, ["start", "issue", "refresh"]);
}

#[tokio::test(start_paused = true)]
async fn the_configured_age_refreshes_earlier_and_for_as_long_as_the_lease_lives() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.issuer.books().valid_for = HOUR * 3;
    world.token().await;
    sleep(Duration::from_secs(60)).await;
    assert!((10..=12).contains(&world.issuer.count("refresh")), "{}", world.issuer.count("refresh"));
    assert_eq!(world.issuer.count("issue"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_served_at_once_while_renewal_fails_and_not_beyond_its_end() {
    for mood in
        [Mood::Refuses(Reason::ClusterUnreachable), Mood::Silent, Mood::Refuses(Reason::RoleNotAvailable)]
    {
        let world = World::new(None);
        world.token().await;
        world.mood(mood);
        for _ in 0..178 {
            sleep(Duration::from_secs(10)).await;
            let asked = Instant::now();
            assert_eq!(world.token().await, "token-1", "{mood:?}");
            assert_eq!(asked.elapsed(), Duration::ZERO);
        }
        sleep(Duration::from_secs(30)).await;
        assert!(world.ask().await.is_err());
        world.mood(Mood::Works);
        sleep(Duration::from_secs(60)).await;
        assert_ne!(world.token().await, "token-1");
        assert_eq!(world.issuer.count("issue"), 1, "the lease lives on");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_shown_and_over_when_the_issuer_answers() {
    let world = World::new(None);
    world.token().await;
    world.mood(Mood::Silent);
    sleep(Duration::from_secs(930)).await;
    let overview = world.handle.overview().await;
    assert!(overview.outage.unwrap().contains("did not answer"));
    assert!(overview.leases[0].problem.contains("did not answer") && overview.leases[0].lease.is_some());
    world.mood(Mood::Works);
    sleep(Duration::from_secs(120)).await;
    let overview = world.handle.overview().await;
    assert!(overview.outage.is_none() && overview.leases[0].problem.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_is_wiped_and_its_successor_denied() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.token().await;
    world.issuer.revoke();
    sleep(Duration::from_secs(6)).await;
    let overview = world.handle.overview().await;
    assert!(overview.leases[0].lease.is_none() && overview.leases[0].token_id.is_empty());
    let denial = world.ask().await.unwrap_err();
    assert_eq!(denial.class, ErrorClass::LeaseEnded);
    assert!(denial.message.contains("Blocked"), "{}", denial.message);
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_denied_clients_does_not_hammer_the_issuer() {
    let world = World::new(None);
    world.issuer.books().blocked = true;
    for _ in 0..100 {
        world.ask().await.unwrap_err();
        sleep(Duration::from_millis(100)).await;
    }
    assert!((4..=6).contains(&world.issuer.count("issue")), "{}", world.issuer.count("issue"));
    world.issuer.books().blocked = false;
    sleep(Duration::from_secs(2)).await;
    world.token().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_refreshes_what_it_had_and_issues_nothing() {
    let world = World::new(None);
    world.token().await;
    let world = world.restarted().await;
    assert_eq!(world.token().await, "token-2");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.issuer.books().calls, ["start", "issue", "refresh"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_asks_again_under_the_same_request_id() {
    let world = World::new(None);
    world.issuer.books().delay = Duration::from_secs(2);
    // The answer to Issue is lost with the agent.
    let _ = tokio::time::timeout(Duration::from_secs(3), world.ask()).await;
    let world = world.restarted().await;
    world.token().await;
    let books = world.issuer.books();
    assert_eq!(books.calls, ["start", "issue", "issue"]);
    assert_eq!(books.requests[0], books.requests[1]);
    drop(books);
    let text = std::fs::read_to_string(world.directory.path().join("sessions.json")).unwrap();
    assert!(!text.contains("token-"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_recorded_before_it_is_sent() {
    let world = World::new(None);
    let path = world.directory.path().join("sessions.json");
    world.issuer.books().delay = Duration::from_secs(2);
    let _ = tokio::time::timeout(Duration::from_secs(3), world.ask()).await;
    assert_eq!(world.issuer.books().calls, ["start", "issue"]);
    let recorded = Sessions::load(&path).unwrap();
    assert!(recorded.jobs[0].id.is_some() && recorded.jobs[0].leases[0].request.is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_issued_where_the_request_cannot_be_recorded() {
    let world = World::new(None);
    std::fs::remove_dir_all(world.directory.path()).unwrap();
    let denial = world.ask().await.unwrap_err();
    assert!(denial.message.contains("cannot record"), "{}", denial.message);
    assert!(world.issuer.books().calls.is_empty());

    std::fs::create_dir(world.directory.path()).unwrap();
    sleep(Duration::from_secs(3)).await;
    world.token().await;
    // The writer is done with the directory.
    sleep(Duration::from_secs(1)).await;
    std::fs::remove_dir_all(world.directory.path()).unwrap();
    world.ask_as("", "db").await.unwrap_err();
    assert_eq!(world.issuer.count("issue"), 1);
    world.token().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_nearly_over_is_replaced_when_somebody_asks() {
    let world = World::new(None);
    world.issuer.books().remaining = HOUR;
    world.token().await;
    sleep(HOUR - Duration::from_secs(300)).await;
    assert_eq!(world.issuer.count("issue"), 1, "nobody asked");
    world.token().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.issuer.count("issue"), 2);
    let (_, valid_for) = world.ask().await.unwrap();
    assert!(valid_for > Duration::from_secs(1_700), "{valid_for:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_asks_for_ends_and_so_does_its_job() {
    let world = World::new(None);
    world.issuer.books().remaining = HOUR;
    world.token().await;
    sleep(HOUR * 2).await;
    assert_eq!(world.issuer.count("issue"), 1);
    assert_eq!(world.issuer.count("end"), 1);
    assert!(world.handle.overview().await.leases.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_the_issuer_ended_is_opened_anew() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.token().await;
    world.issuer.end_all_jobs();
    sleep(Duration::from_secs(6)).await;
    world.token().await;
    assert_eq!((world.issuer.count("start"), world.issuer.count("issue")), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ahead_means_a_refresh_at_once_and_no_new_lease() {
    let world = World::new(None);
    world.token().await;
    world.clock.jump(HOUR);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(world.token().await, "token-2");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.issuer.books().calls, ["start", "issue", "refresh"]);
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_all_jobs_and_wipes_all_tokens() {
    let world = World::new(None);
    world.ask_as("one", "web").await.unwrap();
    world.ask_as("two", "web").await.unwrap();
    let given_back = world.handle.leave(id("leave")).await.unwrap();
    assert_eq!((given_back.jobs, given_back.leases), (2, 2));
    assert!(world.handle.overview().await.leases.is_empty());
    sleep(Duration::from_secs(1)).await;
    let sessions = Sessions::load(&world.directory.path().join("sessions.json")).unwrap();
    assert!(sessions.jobs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_given_back_is_kept() {
    let world = World::new(None);
    world.token().await;
    world.mood(Mood::Refuses(Reason::ShuttingDown));
    let given_back = world.handle.leave(id("leave")).await.unwrap();
    assert_eq!((given_back.jobs, given_back.problem.unwrap().class), (0, ErrorClass::Unreachable));
    world.mood(Mood::Works);
    assert_eq!(world.handle.leave(id("leave")).await.unwrap().leases, 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_releases_nothing() {
    let world = World::new(None);
    world.token().await;
    world.stop.cancel();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.issuer.count("end"), 0);
    assert_eq!(world.ask().await.unwrap_err().class, ErrorClass::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_asked_for_again_soon_is_checked_beside_the_answer_and_not_too_often() {
    let world = World::new(None);
    world.token().await;
    for asks in 0..60 {
        sleep(Duration::from_secs(1)).await;
        let asked = Instant::now();
        world.token().await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
        let checks = world.issuer.count("refresh");
        assert!(checks <= usize::from(asks >= 9) + usize::from(asks >= 39), "{checks} after {asks}");
    }
    assert_eq!((world.issuer.count("refresh"), world.issuer.count("issue")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_time_causes_no_checks() {
    let world = World::new(None);
    for _ in 0..50 {
        world.token().await;
        sleep(Duration::from_secs(6)).await;
    }
    assert_eq!(world.issuer.count("refresh"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_token_that_is_asked_for_again_and_again_is_out_of_use_within_half_a_minute() {
    let world = World::new(None);
    world.token().await;
    sleep(Duration::from_secs(15)).await;
    world.token().await;
    world.token().await;
    sleep(Duration::from_secs(1)).await;
    world.issuer.revoke();
    let revoked = Instant::now();
    while world.ask().await.is_ok() {
        sleep(Duration::from_secs(2)).await;
    }
    assert!(revoked.elapsed() < Duration::from_secs(33), "{:?}", revoked.elapsed());
    assert_eq!(world.ask().await.unwrap_err().class, ErrorClass::LeaseEnded);
}

#[tokio::test(start_paused = true)]
async fn the_issuers_time_to_come_back_holds_for_askers_too() {
    let world = World::new(None);
    world.token().await;
    world.mood(Mood::Postpones(Reason::RateLimited, Duration::from_secs(30)));
    for _ in 0..25 {
        assert!(world.ask_as("", "db").await.unwrap_err().message.contains("RateLimited"));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.issuer.count("issue"), 2);
    world.mood(Mood::Works);
    sleep(Duration::from_secs(6)).await;
    world.ask_as("", "db").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_enrolment_wipes_the_token_and_tells_what_to_do() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.token().await;
    world.mood(Mood::Refuses(Reason::EnrolmentEnded));
    sleep(Duration::from_secs(6)).await;
    let overview = world.handle.overview().await;
    assert!(overview.leases[0].lease.is_none() && overview.leases[0].token_id.is_empty());
    assert!(overview.leases[0].problem.contains("get a new join token"), "{}", overview.leases[0].problem);
    let denial = world.ask().await.unwrap_err();
    assert_eq!(denial.class, ErrorClass::Denied);
    assert!(denial.remedy.contains("get a new join token"), "{}", denial.remedy);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_a_proxy_lost_is_asked_for_again_under_the_same_request_id() {
    let world = World::new(None);
    world.token().await;
    world.mood(Mood::Breaks(Code::DeadlineExceeded));
    assert_eq!(world.ask_as("", "db").await.unwrap_err().class, ErrorClass::Unreachable);
    sleep(Duration::from_secs(2)).await;
    world.mood(Mood::Works);
    world.ask_as("", "db").await.unwrap();
    let requests = &world.issuer.books().requests;
    assert_eq!((requests.len(), requests[1]), (3, requests[2]));
}

#[tokio::test(start_paused = true)]
async fn a_user_has_its_share_of_the_entries_and_what_was_denied_gives_it_back() {
    let world = World::new(None);
    world.issuer.books().blocked = true;
    for number in 0..ENTRIES_OF_ONE {
        world.ask_as("", &format!("role-{number}")).await.unwrap_err();
    }
    let full = world.ask().await.unwrap_err();
    assert!(full.message.contains("256"), "{}", full.message);
    assert_eq!(world.ask_of(1001, "", "web").await.unwrap_err().class, ErrorClass::LeaseEnded);
    sleep(Duration::from_secs(70)).await;
    assert!(world.handle.overview().await.leases.is_empty());
    world.issuer.books().blocked = false;
    world.token().await;
}

#[tokio::test(start_paused = true)]
async fn a_rush_of_new_leases_does_not_keep_a_refresh_waiting() {
    let world = Arc::new(World::new(None));
    world.token().await;
    sleep(Duration::from_secs(890)).await;
    world.mood(Mood::Silent);
    for number in 0..100 {
        let world = world.clone();
        tokio::spawn(async move { world.ask_as("", &format!("role-{number}")).await });
    }
    sleep(Duration::from_secs(1)).await;
    world.mood(Mood::Works);
    sleep(Duration::from_secs(12)).await;
    assert_eq!((world.issuer.count("issue"), world.issuer.count("refresh")), (1 + OTHER_CALLS, 1));
    assert_eq!(world.token().await, "token-2");
}
