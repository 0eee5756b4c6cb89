//! Under which id a call goes out, and which one a local client is told.

use shorepass_core::id::RequestId;

use super::*;

impl World {
    /// Asks for a token of role `web` under this id.
    async fn ask_under(&self, text: &str) -> Result<(), Denial> {
        self.ask_for("web", text).await
    }

    async fn ask_for(&self, role: &str, text: &str) -> Result<(), Denial> {
        self.handle.credential(key(role), id(text)).await.map(drop)
    }

    fn ids(&self) -> Vec<CallId> {
        self.issuer.books().ids.clone()
    }
}

fn key(role: &str) -> Key {
    Key { job: JobKey::parse(1000, "").unwrap(), role: Name::parse(role).unwrap() }
}

fn is_fresh(call: &CallId) -> bool {
    RequestId::parse(call.as_str()).is_ok()
}

#[tokio::test(start_paused = true)]
async fn calls_go_under_the_id_of_the_request_that_wants_them() {
    let world = World::new(None);
    let (one, two) = tokio::join!(world.ask_under("a"), world.ask_under("b"));
    one.and(two).unwrap();
    assert_eq!(world.ids(), [id("a"), id("a")], "StartJob and Issue");
    world.ask_for("db", "c").await.unwrap();
    assert_eq!(world.ids()[2..], [id("c")]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_told_what_is_remembered_gives_its_id_to_no_call() {
    let world = World::new(None);
    world.mood(Mood::Breaks(Code::Unavailable));
    world.ask_under("a").await.unwrap_err();
    world.ask_under("b").await.unwrap_err();
    sleep(Duration::from_secs(2)).await;
    world.mood(Mood::Works);
    world.ask_under("c").await.unwrap();
    assert_eq!(world.ids(), [id("a"), id("c"), id("c")]);
}

#[tokio::test(start_paused = true)]
async fn what_the_agent_calls_by_itself_has_an_id_of_its_own_each_time() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.ask_under("a").await.unwrap();
    sleep(Duration::from_secs(12)).await;
    let ids = world.ids();
    assert!(ids.len() == 4 && ids[2] != ids[3], "{ids:?}");
    assert!(ids[2..].iter().all(is_fresh), "{ids:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_job_ends_under_an_id_of_its_own() {
    let world = World::new(None);
    world.issuer.books().remaining = HOUR;
    world.ask_under("a").await.unwrap();
    sleep(HOUR * 2).await;
    assert_eq!(world.issuer.count("end"), 1);
    assert!(world.ids().last().is_some_and(is_fresh), "{:?}", world.ids());
}

#[tokio::test(start_paused = true)]
async fn a_check_beside_the_answer_goes_under_the_id_of_who_asked_twice() {
    let world = World::new(None);
    world.ask_under("a").await.unwrap();
    sleep(Duration::from_secs(15)).await;
    world.ask_under("b").await.unwrap();
    world.ask_under("c").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.ids()[2..], [id("c")]);
    // What is done about it is done.
    sleep(Duration::from_secs(1_000)).await;
    assert!(world.ids().len() == 4 && is_fresh(&world.ids()[3]), "{:?}", world.ids());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_nearly_over_is_replaced_under_the_id_of_who_asked() {
    let world = World::new(None);
    world.issuer.books().remaining = HOUR;
    world.ask_under("a").await.unwrap();
    sleep(HOUR - Duration::from_secs(300)).await;
    let earlier = world.ids().len();
    world.ask_under("b").await.unwrap();
    world.ask_under("c").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((&world.ids()[earlier..], world.issuer.count("issue")), (&[id("b")][..], 2));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_had_to_wait_goes_under_the_id_of_who_asked_first() {
    let world = Arc::new(World::new(None));
    world.issuer.books().remaining = HOUR;
    world.ask_under("a").await.unwrap();
    sleep(HOUR - Duration::from_secs(300)).await;
    world.mood(Mood::Silent);
    for number in 0..OTHER_CALLS {
        let world = world.clone();
        tokio::spawn(async move { world.ask_for(&format!("role-{number}"), "other").await });
    }
    sleep(Duration::from_secs(1)).await;
    world.ask_under("b").await.unwrap();
    world.ask_under("c").await.unwrap();
    world.mood(Mood::Works);
    sleep(CALL_LIMIT).await;
    assert!(world.ids().contains(&id("b")) && !world.ids().contains(&id("c")), "{:?}", world.ids());
}

#[tokio::test(start_paused = true)]
async fn what_follows_from_a_call_goes_on_under_its_id() {
    let world = World::new(Some(Duration::from_secs(5)));
    world.ask_under("a").await.unwrap();
    world.issuer.end_all_jobs();
    sleep(Duration::from_secs(6)).await;
    // A refresh tells that the lease has ended, Issue that its job has; both are begun anew.
    assert_eq!(world.issuer.books().calls[2..], ["refresh", "issue", "start", "issue"]);
    let ids = world.ids();
    assert!(is_fresh(&ids[2]) && ids[3..].iter().all(|call| *call == ids[2]), "{ids:?}");
}

#[tokio::test(start_paused = true)]
async fn everybody_is_told_the_call_that_failed() {
    for (mood, calls) in [(Mood::Refuses(Reason::ShuttingDown), 1), (Mood::Silent, 1)] {
        let world = World::new(None);
        world.mood(mood);
        let late = async {
            sleep(Duration::from_millis(10)).await;
            world.ask_under("b").await
        };
        let (one, two) = tokio::join!(world.ask_under("a"), late);
        // What is remembered, too.
        for answer in [one, two, world.ask_under("c").await] {
            assert_eq!(answer.unwrap_err().call, Some(id("a")), "{mood:?}");
        }
        assert_eq!(world.ids().len(), calls, "{mood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_failed_by_itself_is_what_a_client_is_told_later() {
    let world = World::new(None);
    world.ask_under("a").await.unwrap();
    world.mood(Mood::Postpones(Reason::ClusterBusy, Duration::from_secs(300)));
    // The token is over, and the last refusal is still told.
    sleep(Duration::from_secs(1_801)).await;
    let told = world.ask_under("b").await.unwrap_err().call.unwrap();
    assert!(is_fresh(&told) && world.ids().contains(&told), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_never_became_a_call_names_none() {
    let world = World::new(None);
    world.stop.cancel();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.ask_under("a").await.unwrap_err().call, None);
}

#[tokio::test(start_paused = true)]
async fn the_call_that_is_out_can_be_asked_for() {
    let world = World::new(None);
    world.issuer.books().delay = Duration::from_secs(2);
    assert_eq!(world.handle.call_out(key("web")).await, None);
    let handle = world.handle.clone();
    tokio::spawn(async move { handle.credential(key("web"), id("a")).await });
    for (call, count) in [("start", 1), ("issue", 1)] {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.issuer.count(call), count, "{call} is out");
        assert_eq!(world.handle.call_out(key("web")).await, Some(id("a")), "{call}");
        sleep(Duration::from_secs(1)).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.handle.call_out(key("web")).await, None);
}

#[tokio::test(start_paused = true)]
async fn leaving_goes_under_one_id() {
    let world = World::new(None);
    world.ask_as("one", "web").await.unwrap();
    world.ask_as("two", "web").await.unwrap();
    let earlier = world.ids().len();
    world.handle.leave(id("leave")).await.unwrap();
    assert_eq!(world.ids()[earlier..], [id("leave"), id("leave")]);
    world.ask_as("one", "web").await.unwrap();
    world.mood(Mood::Refuses(Reason::ShuttingDown));
    let problem = world.handle.leave(id("again")).await.unwrap().problem.unwrap();
    assert_eq!(problem.call, Some(id("again")));
}
