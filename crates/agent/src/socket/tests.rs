//! The socket over real connections, with an honest issuer behind.

use shorepass_core::id::RequestId;
use shorepass_exec::{Agent, AskError};
use shorepass_proto::local::v1::StatusRequest;
use shorepass_proto::v1::ErrorReason as Reason;

use super::*;
use crate::fake::{Counting, FakeClock, FakeIssuer, Folder, Mood};
use crate::place::Place;
use crate::refresher::{Parts, Refresher};
use crate::session::{self, Sessions};

struct World {
    issuer: Arc<FakeIssuer>,
    server: Arc<Server>,
    agent: Agent,
    _directory: Folder,
}

impl World {
    async fn new(users: &[u32], own: u32) -> Self {
        let directory = Folder::new();
        let place = Place::bind(&directory.path().join("agent.sock")).await.unwrap();
        let issuer = FakeIssuer::new();
        let stored = Sessions::of(Vec::new());
        let (recorder, writer) = session::recorder(directory.path().join("sessions.json"), stored.clone());
        let (clock, entropy) = (FakeClock::new(), Arc::new(Counting::default()));
        let parts = Parts {
            issuer: issuer.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            job_system: Name::parse("local").unwrap(),
            max_age: None,
        };
        let (refresher, handle) = Refresher::new(parts, stored, recorder);
        let server = Arc::new(Server {
            access: Access { users: users.iter().copied().collect(), own },
            handle,
            roles: Roles::new(issuer.clone(), clock.clone()),
            issuer_address: "issuer.example.org:8443".to_owned(),
            standing: watch::channel(Standing::default()).1,
            follow: follow::Standing::default(),
            clock,
            entropy,
        });
        let stop = CancellationToken::new();
        tokio::spawn(writer.run(stop.clone()));
        tokio::spawn(refresher.run(stop.clone()));
        let agent = Agent::at(directory.path().join("agent.sock"), Duration::from_secs(10));
        let serving = server.clone();
        tokio::spawn(async move { serve(&place.listener, serving, TaskTracker::new(), stop).await });
        Self { issuer, server, agent, _directory: directory }
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(Agent) -> T + Send + 'static) -> T {
        let agent = self.agent.clone();
        tokio::task::spawn_blocking(move || ask(agent)).await.unwrap()
    }
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The id that the refusal names.
fn check_refused<T>(outcome: Result<T, AskError>, code: u8, says: &str) -> CallId {
    let Err(error) = outcome else { panic!("should have been refused with {code}") };
    assert_eq!(error.exit_code(), code, "{error}");
    let text = format!("{error}: {}", error.remedy());
    assert!(text.contains(says), "{says:?} is missing in {text}");
    CallId::parse(error.request_id().expect("a refusal names its request")).unwrap()
}

#[tokio::test]
async fn a_user_that_the_config_names_gets_tokens() {
    let world = World::new(&[us()], us()).await;
    let credential =
        world.ask(|agent| agent.credential("web", "build")).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(credential.token.as_str(), "token-1");
    assert!((1_790..=1_800).contains(&credential.valid_for.as_secs()));
    let status = world.ask(|agent| agent.status()).await.unwrap();
    assert_eq!((status.leases[0].job.as_str(), status.leases[0].token_id.as_str()), ("build", "jti-1"));
    assert_eq!(status.users, [us()]);
    assert_eq!(world.ask(|agent| agent.role("web")).await.unwrap().cluster, "staging");
    let left = world.ask(|agent| agent.leave()).await.unwrap();
    assert_eq!((left.jobs, left.leases), (1, 1));
}

#[tokio::test]
async fn a_token_for_others_is_given_to_who_asks_for_that_and_never_to_kubectl() {
    let world = World::new(&[us()], us()).await;
    check_refused(world.ask(|agent| agent.token("web", "")).await, 2, "shorepass kubeconfig --role web");
    let world = World::new(&[us()], us()).await;
    world.issuer.books().audiences = vec!["https://vault.example.org".to_owned(), "registry".to_owned()];
    let says = "are for https://vault.example.org, registry, and the API server refuses them";
    check_refused(world.ask(|agent| agent.credential("web", "")).await, 2, says);
    check_refused(world.ask(|agent| agent.role("web")).await, 2, "shorepass token --role web");
    let token = world.ask(|agent| agent.token("web", "")).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(token.token.as_str(), "token-1", "the lease is the same");
}

#[tokio::test]
async fn a_user_that_the_config_does_not_name_gets_none_and_is_told_what_to_do() {
    let world = World::new(&[us() + 1], us() + 1).await;
    let remedy = format!("add {} to jobs.users", us());
    check_refused(world.ask(|agent| agent.credential("web", "")).await, 3, &remedy);
    check_refused(world.ask(|agent| agent.role("web")).await, 3, &remedy);
    assert!(world.issuer.books().calls.is_empty());
}

#[tokio::test]
async fn the_agents_own_user_may_look_and_leave_but_gets_no_tokens() {
    let world = World::new(&[], us()).await;
    check_refused(world.ask(|agent| agent.credential("web", "")).await, 3, "jobs.users");
    assert!(world.ask(|agent| agent.status()).await.unwrap().problem.contains("jobs.users"));
    assert_eq!(world.ask(|agent| agent.leave()).await.unwrap().jobs, 0);
}

#[tokio::test]
async fn strangers_are_answered_soon_though_they_say_nothing_and_however_many_they_are() {
    let world = World::new(&[us()], us()).await;
    let (seats, stranger) = (Seats::new([us()]), us() + 1);
    let mut clients = Vec::new();
    for _ in 0..100 {
        let (client, stream) = UnixStream::pair().unwrap();
        clients.push(client);
        let client = world.server.client(stranger, stream);
        match seats.admit(stranger) {
            Ok(admission) => drop(tokio::spawn(world.server.clone().answer(client, admission))),
            Err(full) => turn_away(client, full.denial(stranger)),
        }
    }
    let mut ids = BTreeSet::new();
    for client in &mut clients {
        let mut answer = Vec::new();
        let closed = timeout(TRANSFER, client.read_to_end(&mut answer)).await;
        closed.expect("closed before a user's deadline").unwrap();
        match Response::decode(&answer[4..]).unwrap().response {
            Some(Answer::Error(error)) => {
                assert_eq!(error.class(), ErrorClass::Denied);
                ids.insert(error.request_id);
            }
            other => panic!("expected an error, got {other:?}"),
        }
    }
    assert_eq!(ids.len(), 100);
}

#[test]
fn access_is_by_uid_alone() {
    let access = Access { users: BTreeSet::from([1001]), own: 900 };
    let credential = Question::Credential(CredentialRequest::default());
    let (status, leave) = (Question::Status(StatusRequest {}), Question::Leave(Default::default()));
    let allowed = |uid| [&credential, &status, &leave].map(|question| access.check(uid, question).is_ok());
    assert_eq!(allowed(1001), [true, true, false]);
    assert_eq!(allowed(900), [false, true, true]);
    assert_eq!(allowed(0), [false, true, true]);
    assert_eq!(allowed(1002), [false, false, false]);
}

#[tokio::test]
async fn refusals_have_their_class() {
    let world = World::new(&[us()], us()).await;
    check_refused(world.ask(|agent| agent.credential("Not A Role", "")).await, 2, "name of the role");
    check_refused(world.ask(|agent| agent.credential("web", "a b")).await, 2, "SHOREPASS_JOB");
    check_refused(world.ask(|agent| agent.role("other")).await, 3, "not offered");
    world.issuer.books().mood = Mood::Refuses(Reason::RoleNotAvailable);
    check_refused(world.ask(|agent| agent.credential("web", "")).await, 3, "RoleNotAvailable");
}

#[tokio::test]
async fn a_refusal_names_the_call_that_gave_it_or_else_its_own_request() {
    let world = World::new(&[us()], us()).await;
    let own = check_refused(world.ask(|agent| agent.credential("Not A Role", "")).await, 2, "");
    let another = check_refused(world.ask(|agent| agent.credential("Not A Role", "")).await, 2, "");
    assert!(own != another && RequestId::parse(own.as_str()).is_ok(), "{own} {another}");

    world.issuer.books().mood = Mood::Refuses(Reason::RoleNotAvailable);
    let credential = check_refused(world.ask(|agent| agent.credential("web", "")).await, 3, "");
    let role = check_refused(world.ask(|agent| agent.role("web")).await, 3, "");
    assert_eq!(world.issuer.books().ids, [credential.clone(), role]);
    // It is remembered, and so is what gave it.
    let again = check_refused(world.ask(|agent| agent.credential("web", "")).await, 3, "");
    assert_eq!(again, credential);
}

#[tokio::test]
async fn a_token_in_the_place_of_a_role_is_not_repeated() {
    let world = World::new(&[us()], us()).await;
    let refused = world.ask(|agent| agent.credential("eyJhbGciOi.eyJqdGkiOi.c2ln", "")).await;
    let Err(error) = refused else { panic!("it is no role") };
    assert!(!format!("{error} {}", error.remedy()).contains("c2ln"), "{error}");
}

#[tokio::test]
async fn an_issuer_that_says_nothing_is_told_before_the_client_gives_up() {
    let world = World::new(&[us()], us()).await;
    world.issuer.books().mood = Mood::Silent;
    let asked = std::time::Instant::now();
    let ask = || world.ask(|agent| agent.credential("web", ""));
    let late = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        ask().await
    };
    let (first, second) = tokio::join!(ask(), late);
    assert!(asked.elapsed() < PATIENCE + Duration::from_secs(2));
    // Both are told the call that they waited for.
    for outcome in [first, second] {
        let told = check_refused(outcome, 4, "did not answer within 4 s");
        assert_eq!(world.issuer.books().ids, [told]);
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_a_usage_error_or_not_at_all() {
    let world = World::new(&[us()], us()).await;
    for garbage in [&[0, 0, 0, 1, 0xff][..], &[0xff; 8], &[0, 0, 0, 0]] {
        let mut stream = UnixStream::connect(world.agent.socket()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer).await.unwrap();
        match Response::decode(answer.as_slice()).unwrap().response {
            Some(Answer::Error(error)) => {
                assert_eq!(error.class(), ErrorClass::Usage);
                assert!(RequestId::parse(&error.request_id).is_ok(), "{error:?}");
            }
            other => panic!("expected an error, got {other:?}"),
        }
    }
    let mut silent = UnixStream::connect(world.agent.socket()).await.unwrap();
    silent.write_all(&[0]).await.unwrap();
    let closed = timeout(TRANSFER + Duration::from_secs(1), silent.read(&mut [0])).await;
    assert_eq!(closed.expect("closed after its deadline").unwrap(), 0);
}
