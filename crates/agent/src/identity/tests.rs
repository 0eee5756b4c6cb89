//! Enrolment and renewal against a CA that signs, on paused time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use shorepass_core::id::{CallId, EnrolmentId, RequestId};
use shorepass_core::name::TrustDomain;
use shorepass_proto::v1::ErrorReason as Reason;
use shorepass_tls::{Authority, CertificateRequest, JoinTokenText};

use super::*;
use crate::fake::{Counting, FakeClock, Folder, refused};

const LIFE: Duration = Duration::from_secs(8 * 3_600);

/// Signs what it is asked, unless told otherwise.
struct FakeAuthority {
    authority: Authority,
    clock: Arc<FakeClock>,
    enrolment: EnrolmentId,
    fails: Mutex<Option<Reason>>,
    keys: Mutex<Vec<String>>,
    calls: Mutex<Vec<CallId>>,
    /// What was shown to enrol with, besides join tokens.
    tokens: Mutex<Vec<String>>,
    adopted: Mutex<Vec<Timestamp>>,
    shown: AtomicUsize,
    rejoined: AtomicUsize,
}

impl FakeAuthority {
    fn sign(&self, call: &CallId, request_pem: &[u8]) -> Result<Granted, IssuerError> {
        self.calls.lock().unwrap().push(call.clone());
        let request = CertificateRequest::parse(request_pem).unwrap();
        self.keys.lock().unwrap().push(request.key().to_string());
        if let Some(reason) = *self.fails.lock().unwrap() {
            return Err(refused(reason));
        }
        let now = self.clock.now();
        let signed =
            self.authority.sign_client(&request, request.spiffe_id(), self.enrolment, LIFE, now).unwrap();
        Ok(Granted { chain_pem: signed.chain_pem, bundle_pem: self.authority.bundle_pem() })
    }

    fn asked(&self) -> usize {
        self.keys.lock().unwrap().len()
    }
}

#[async_trait]
impl Enrolment for FakeAuthority {
    async fn enroll(
        &self,
        call: &CallId,
        ticket: &Ticket,
        request_pem: &[u8],
    ) -> Result<Granted, EnrolFailure> {
        assert_eq!(ticket.ca(), self.authority.key_digest());
        if let Ticket::Pod { token, .. } | Ticket::Oidc { token, .. } = ticket {
            self.tokens.lock().unwrap().push(token.to_string());
        }
        Ok(self.sign(call, request_pem)?)
    }

    async fn renew(&self, call: &CallId, request_pem: &[u8]) -> Result<Granted, IssuerError> {
        self.sign(call, request_pem)
    }

    async fn rejoin(
        &self,
        call: &CallId,
        identity: &Identity,
        request_pem: &[u8],
        wanted: Digest,
    ) -> Result<Granted, IssuerError> {
        assert!(identity.expires() <= self.clock.now());
        assert_eq!(CertificateRequest::parse(request_pem).unwrap().key(), wanted);
        self.rejoined.fetch_add(1, Ordering::SeqCst);
        self.sign(call, request_pem)
    }

    async fn show(&self, _: &CallId) -> Result<(), IssuerError> {
        self.shown.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn adopt(&self, identity: &Identity) {
        self.adopted.lock().unwrap().push(identity.expires());
    }
}

struct World {
    authority: Arc<FakeAuthority>,
    clock: Arc<FakeClock>,
    directory: Folder,
    standing: watch::Receiver<Standing>,
    keeper: Option<Keeper>,
}

impl World {
    fn new() -> Self {
        Self::with(Counting::default())
    }

    fn with(entropy: Counting) -> Self {
        let (directory, clock) = (Folder::new(), FakeClock::new());
        let entropy = Arc::new(entropy);
        let domain = TrustDomain::parse("ci.example.org").unwrap();
        let spiffe_id = SpiffeId::parse("spiffe://ci.example.org/runner/prod-1").unwrap();
        let authority = Arc::new(FakeAuthority {
            authority: Authority::open_or_create(directory.path(), &domain, clock.now(), entropy.clone())
                .unwrap(),
            clock: clock.clone(),
            enrolment: EnrolmentId::generate(clock.now(), &*entropy),
            fails: Mutex::new(None),
            keys: Mutex::default(),
            calls: Mutex::default(),
            tokens: Mutex::default(),
            adopted: Mutex::default(),
            shown: AtomicUsize::default(),
            rejoined: AtomicUsize::default(),
        });
        let join_token_file = directory.path().join("join-token");
        let text = JoinTokenText::generate(authority.authority.key_digest(), &*entropy).expose();
        shorepass_files::replace(&join_token_file, text.as_bytes()).unwrap();
        let (sender, standing) = watch::channel(Standing::default());
        let keeper = Keeper {
            spiffe_id,
            ticket: TicketSource::JoinToken(join_token_file),
            file: IdentityFile::new(directory.path().join("identity.pem")),
            enrolment: authority.clone(),
            clock: clock.clone(),
            entropy,
            standing: sender,
        };
        Self { authority, clock, directory, standing, keeper: Some(keeper) }
    }

    fn start(&mut self) -> tokio::task::JoinHandle<EnrolError> {
        let keeper = self.keeper.take().expect("started once");
        tokio::spawn(keeper.run(None))
    }

    fn fail(&self, reason: Option<Reason>) {
        *self.authority.fails.lock().unwrap() = reason;
    }

    fn stored(&self) -> Identity {
        IdentityFile::new(self.directory.path().join("identity.pem")).load().unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_token_becomes_an_identity_that_is_stored_and_used() {
    let mut world = World::new();
    world.start();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.stored().spiffe_id().to_string(), "spiffe://ci.example.org/runner/prod-1");
    assert_eq!(world.authority.adopted.lock().unwrap().len(), 1);
    let standing = world.standing.borrow();
    assert_eq!(standing.expires, Some(world.stored().expires()));
    assert_eq!(standing.problem_at(world.clock.now()), None);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_an_identity_is_not_well_before_the_issuer_has_answered() {
    let mut world = World::new();
    let problem = || world.standing.borrow().problem_at(world.clock.now());
    assert!(problem().unwrap().contains("not enrolled yet"), "{:?}", problem());
    world.start();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.standing.borrow().problem_at(world.clock.now()), None);
    assert_eq!(Standing::of(&world.stored()).problem_at(world.clock.now()), None, "after a restart");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_is_not_ready_is_asked_again_with_the_same_key() {
    let mut world = World::with(Counting::with_full_jitter());
    world.fail(Some(Reason::ShuttingDown));
    world.start();
    sleep(Duration::from_secs(300)).await;
    assert!(world.standing.borrow().problem.as_ref().unwrap().contains("not enrolled"));
    world.fail(None);
    sleep(Duration::from_secs(61)).await;
    let keys = world.authority.keys.lock().unwrap();
    assert!(keys.len() > 2 && keys.iter().all(|key| *key == keys[0]), "{}", keys.len());
    assert_eq!(world.authority.adopted.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_join_token_ends_the_agent_with_the_code_for_denied() {
    let mut world = World::new();
    world.fail(Some(Reason::JoinTokenUsed));
    let error = world.start().await.unwrap();
    assert!(matches!(error, EnrolError::Refused { .. }) && error.exit_code() == 3);
    let call = world.authority.calls.lock().unwrap()[0].clone();
    assert!(error.to_string().contains(call.as_str()), "{error}");
    assert!(!world.directory.path().join("identity.pem").exists());
}

#[tokio::test(start_paused = true)]
async fn join_tokens_that_cannot_be_used_are_not_sent() {
    let check = async |spoil: &dyn Fn(&mut World, PathBuf), code: u8, says: &str| {
        let mut world = World::new();
        let path = world.directory.path().join("join-token");
        spoil(&mut world, path);
        let error = world.start().await.unwrap();
        let text = Chain(&error).to_string();
        assert!(text.contains(says), "{says:?} is missing in {text}");
        assert_eq!((error.exit_code(), world.authority.asked()), (code, 0));
    };
    let chmod = |path: &PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    check(&|_, path| chmod(&path, 0o640), 1, "chmod 600").await;
    check(&|_, path| fs::remove_file(path).unwrap(), 1, "join-token").await;
    check(&|_, path| fs::write(path, "spjt1.mistyped").unwrap(), 3, "mistyped").await;
    let forget = |world: &mut World, _| world.keeper.as_mut().unwrap().ticket = TicketSource::None;
    check(&forget, 1, "joinTokenFile").await;
}

/// The world of a pod, with the file that the kubelet replaces.
fn of_pod(world: &mut World) -> PathBuf {
    let (file, ca_file) = (world.directory.path().join("token"), world.directory.path().join("bundle.pem"));
    fs::write(&file, "token-0\n").unwrap();
    fs::write(&ca_file, world.authority.authority.bundle_pem()).unwrap();
    let cluster = shorepass_core::name::Name::parse("staging").unwrap();
    let pod = shorepass_config::agent::PodTokenConfig { file: file.clone(), cluster, ca_file };
    world.keeper.as_mut().unwrap().ticket = TicketSource::Pod(pod);
    file
}

#[tokio::test(start_paused = true)]
async fn a_pods_token_is_read_anew_at_each_attempt() {
    let mut world = World::with(Counting::with_full_jitter());
    let file = of_pod(&mut world);
    world.fail(Some(Reason::ClusterUnreachable));
    world.start();
    sleep(Duration::from_secs(10)).await;
    fs::write(&file, "token-1").unwrap();
    sleep(Duration::from_secs(61)).await;
    world.fail(None);
    sleep(Duration::from_secs(61)).await;
    let tokens = world.authority.tokens.lock().unwrap();
    assert_eq!((tokens.first().unwrap().as_str(), tokens.last().unwrap().as_str()), ("token-0", "token-1"));
    let keys = world.authority.keys.lock().unwrap();
    assert!(keys.iter().all(|key| *key == keys[0]), "the same key each time");
    assert_eq!(world.authority.adopted.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn files_of_pods_that_cannot_be_used_are_not_sent() {
    let check = async |spoil: &dyn Fn(&Path), says: &str| {
        let mut world = World::new();
        of_pod(&mut world);
        spoil(world.directory.path());
        let error = world.start().await.unwrap();
        let text = Chain(&error).to_string();
        assert!(text.contains(says), "{says:?} is missing in {text}");
        assert_eq!((error.exit_code(), world.authority.asked()), (1, 0));
    };
    check(&|folder| fs::remove_file(folder.join("token")).unwrap(), "check that it is mounted there").await;
    check(&|folder| fs::write(folder.join("token"), " \n").unwrap(), "there is no token in").await;
    check(&|folder| fs::write(folder.join("bundle.pem"), "none").unwrap(), "copy the issuer's ca.pem").await;
}

#[tokio::test(start_paused = true)]
async fn the_certificate_is_renewed_at_half_of_its_life_with_a_new_key() {
    let mut world = World::new();
    world.start();
    sleep(LIFE / 2 - Duration::from_secs(60)).await;
    assert_eq!(world.authority.asked(), 1);
    let first = world.stored().expires();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.authority.asked(), 2);
    assert!(world.stored().expires() > first);
    assert_eq!(*world.authority.adopted.lock().unwrap(), [first, world.stored().expires()]);
    let keys = world.authority.keys.lock().unwrap();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(world.authority.shown.load(Ordering::SeqCst), 1, "the issuer sees it at once");
    let calls = world.authority.calls.lock().unwrap();
    assert!(calls[0] != calls[1] && calls.iter().all(|call| RequestId::parse(call.as_str()).is_ok()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_identity_and_says_so() {
    let mut world = World::with(Counting::with_full_jitter());
    world.start();
    sleep(Duration::from_secs(1)).await;
    let first = world.stored().expires();
    world.fail(Some(Reason::StoreUnavailable));
    sleep(LIFE / 2 + Duration::from_secs(60)).await;
    assert_eq!(world.stored().expires(), first);
    let problem = |world: &World| world.standing.borrow().problem_at(world.clock.now());
    assert!(problem(&world).unwrap().contains("cannot renew"));
    sleep(LIFE / 2).await;
    assert!(problem(&world).unwrap().contains("expired"));
    let tries = world.authority.rejoined.load(Ordering::SeqCst);
    assert!(tries > 0, "a certificate that is over is exchanged otherwise");
    world.fail(Some(Reason::RejoinRefused));
    sleep(Duration::from_secs(61)).await;
    let told = problem(&world).unwrap();
    assert!(told.contains("expired") && told.contains("new join token"), "{told}");
    world.fail(None);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(problem(&world), None);
    let keys = world.authority.keys.lock().unwrap();
    assert!(keys[1..].iter().all(|key| *key == keys[1]), "an answer that was lost is asked for again");
}

#[test]
fn renewals_are_spread_over_the_last_fifth_before_half_life() {
    let second = |second| Timestamp::from_second(second).unwrap();
    assert_eq!(renew_at(second(0), second(1_000), 0.0), second(500));
    assert_eq!(renew_at(second(0), second(1_000), 1.0), second(400));
    assert_eq!(renew_at(second(1_000), second(0), 0.5), second(1_000));
}
