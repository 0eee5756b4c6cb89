//! The two loops against an issuer that tells what the test says, on paused time.

use std::collections::VecDeque;
use std::sync::Mutex;

use shorepass_core::name::Name;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::fake::{Counting, FakeClock, FakeIssuer, Folder, refused};
use crate::refresher::{Parts, Refresher};
use crate::session::{self, JobKey, Key, Sessions};

type Told = Result<Option<(u64, Event)>, IssuerError>;

/// What is called, and what is answered.
#[derive(Default)]
struct Scripted {
    /// When each heartbeat came, with the leases and the number that it named.
    beats: Mutex<Vec<(Instant, usize, u64)>>,
    pulses: Mutex<VecDeque<Result<Pulse, IssuerError>>>,
    silence: Mutex<Option<Duration>>,
    /// When each stream was opened, after which number.
    opened: Mutex<Vec<(Instant, u64)>>,
    open: Mutex<Option<mpsc::UnboundedSender<Told>>>,
    refuse_streams: Mutex<bool>,
}

struct Script(mpsc::UnboundedReceiver<Told>);

#[async_trait]
impl Stream for Script {
    async fn next(&mut self) -> Told {
        self.0.recv().await.unwrap_or(Ok(None))
    }
}

#[async_trait]
impl Follow for Scripted {
    async fn heartbeat(&self, _: &CallId, leases: &[LeaseId], seen: u64) -> Result<Pulse, IssuerError> {
        self.beats.lock().unwrap().push((Instant::now(), leases.len(), seen));
        let silence = *self.silence.lock().unwrap();
        self.pulses.lock().unwrap().pop_front().unwrap_or(Ok(Pulse { silence, ..Pulse::default() }))
    }

    async fn watch(&self, _: &CallId, _: &[LeaseId], seen: u64) -> Result<Box<dyn Stream>, IssuerError> {
        self.opened.lock().unwrap().push((Instant::now(), seen));
        if *self.refuse_streams.lock().unwrap() {
            return Err(refused(Reason::ShuttingDown));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.open.lock().unwrap() = Some(sender);
        Ok(Box::new(Script(receiver)))
    }
}

struct World {
    script: Arc<Scripted>,
    issuer: Arc<FakeIssuer>,
    handle: Handle,
    status: Standing,
    _directory: Folder,
}

impl World {
    fn new() -> Self {
        let (issuer, clock, directory) = (FakeIssuer::new(), FakeClock::new(), Folder::new());
        let sessions = Sessions::of(Vec::new());
        let (recorder, writer) = session::recorder(directory.path().join("sessions.json"), sessions.clone());
        let entropy: Arc<dyn Entropy> = Arc::new(Counting::with_full_jitter());
        let parts = Parts {
            issuer: issuer.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            job_system: Name::parse("local").unwrap(),
            max_age: None,
        };
        let (refresher, handle) = Refresher::new(parts, sessions, recorder);
        let script = Arc::new(Scripted::default());
        let follower = Follower::new(script.clone(), handle.clone(), clock, entropy);
        let (stop, status) = (CancellationToken::new(), follower.status.clone());
        tokio::spawn(refresher.run(stop.clone()));
        tokio::spawn(writer.run(stop.clone()));
        tokio::spawn(follower.clone().send_heartbeats(stop.clone()));
        tokio::spawn(follower.listen(stop));
        Self { script, issuer, handle, status, _directory: directory }
    }

    async fn ask(&self) -> Result<String, crate::issuer::Denial> {
        let key = Key { job: JobKey::parse(1000, "").unwrap(), role: Name::parse("web").unwrap() };
        let lent = self.handle.credential(key, CallId::parse("any").unwrap()).await?;
        Ok(lent.token.expose().to_owned())
    }

    /// With a lease, and a stream that has caught up.
    async fn caught_up() -> Self {
        let world = Self::new();
        world.ask().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        world.tell(7, Event::CaughtUp);
        sleep(Duration::from_millis(10)).await;
        assert!(world.status.now().connected);
        world
    }

    fn tell(&self, sequence: u64, event: Event) {
        self.script.open.lock().unwrap().as_ref().unwrap().send(Ok(Some((sequence, event)))).unwrap();
    }

    fn revoked(&self) -> Ended {
        Ended {
            lease: self.issuer.first_lease(),
            cause: EndCause::Revoked,
            at: None,
            by: "spiffe://d/operator/alice".to_owned(),
            reason: "leaked".to_owned(),
        }
    }

    fn opened(&self) -> Vec<u64> {
        self.script.opened.lock().unwrap().iter().map(|(_, seen)| *seen).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_leases_calls_nobody() {
    let world = World::new();
    sleep(Duration::from_secs(600)).await;
    assert!(world.script.beats.lock().unwrap().is_empty() && world.opened().is_empty());
}

#[tokio::test(start_paused = true)]
async fn heartbeats_begin_within_seconds_and_come_four_times_in_the_silence() {
    let world = World::new();
    *world.script.silence.lock().unwrap() = Some(Duration::from_secs(60));
    world.ask().await.unwrap();
    let began = Instant::now();
    sleep(Duration::from_secs(300)).await;
    let beats = world.script.beats.lock().unwrap().clone();
    assert!(beats[0].0 - began <= FIRST_BEAT, "{:?}", beats[0].0 - began);
    assert!(beats.windows(2).all(|pair| pair[1].0 - pair[0].0 <= Duration::from_secs(15)));
    assert!((20..=30).contains(&beats.len()) && beats.iter().all(|beat| beat.1 == 1), "{}", beats.len());
}

#[tokio::test(start_paused = true)]
async fn an_end_on_the_stream_is_known_at_once_and_raises_the_number() {
    let world = World::caught_up().await;
    world.issuer.revoke();
    world.tell(8, Event::Ended(world.revoked()));
    sleep(Duration::from_millis(200)).await;
    let denial = world.ask().await.unwrap_err();
    assert!(denial.message.contains("revoked by spiffe://d/operator/alice: leaked"), "{}", denial.message);
    assert_eq!(world.status.seen(), 8);
}

#[tokio::test(start_paused = true)]
async fn an_end_in_the_answer_to_a_heartbeat_is_known_without_a_stream() {
    let world = World::new();
    *world.script.refuse_streams.lock().unwrap() = true;
    world.ask().await.unwrap();
    world.issuer.revoke();
    let pulse = Pulse { ended: vec![world.revoked()], ..Pulse::default() };
    world.script.pulses.lock().unwrap().push_back(Ok(pulse));
    sleep(Duration::from_secs(6)).await;
    assert!(world.ask().await.unwrap_err().message.contains("leaked"));
    assert!(!world.status.now().connected && world.status.now().last_heard.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_is_opened_again_after_the_number_that_was_seen() {
    let world = World::caught_up().await;
    world.tell(9, Event::ComeBack(Duration::from_secs(2)));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.opened(), [0, 9]);
    // Broken, and refused for a while: not in a loop, and not for ever.
    *world.script.refuse_streams.lock().unwrap() = true;
    *world.script.open.lock().unwrap() = None;
    sleep(Duration::from_secs(300)).await;
    assert!(!world.status.now().connected);
    assert!((5..=20).contains(&world.opened().len()), "{:?}", world.opened().len());
    *world.script.refuse_streams.lock().unwrap() = false;
    sleep(Duration::from_secs(61)).await;
    world.tell(9, Event::CaughtUp);
    sleep(Duration::from_millis(10)).await;
    assert!(world.status.now().connected);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_a_heartbeat_shows_to_be_behind_is_opened_anew() {
    let world = World::caught_up().await;
    let pulse = Pulse { behind: true, ..Pulse::default() };
    world.script.pulses.lock().unwrap().push_back(Ok(pulse));
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.opened(), [0, 7]);
    assert!(world.script.beats.lock().unwrap().iter().skip(1).all(|beat| beat.2 == 7));
}

#[tokio::test(start_paused = true)]
async fn a_ban_that_ends_the_stream_wipes_all_tokens() {
    let world = World::caught_up().await;
    world.issuer.books().mood = crate::fake::Mood::Refuses(Reason::Banned);
    let banned = Err(refused(Reason::Banned));
    world.script.open.lock().unwrap().as_ref().unwrap().send(banned).unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(world.ask().await.unwrap_err().class, shorepass_proto::local::v1::ErrorClass::Denied);
}

#[tokio::test(start_paused = true)]
async fn who_is_let_in_again_hears_of_ends_with_its_first_lease() {
    let world = World::caught_up().await;
    world.issuer.books().mood = crate::fake::Mood::Refuses(Reason::Banned);
    world.script.open.lock().unwrap().as_ref().unwrap().send(Err(refused(Reason::Banned))).unwrap();
    sleep(Duration::from_millis(200)).await;
    let before = world.opened().len();
    world.issuer.books().mood = crate::fake::Mood::Works;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.opened().len(), before, "nobody keeps a lease");
    world.ask().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.opened().len(), before + 1);
}
