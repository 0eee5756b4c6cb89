//! What is said to an API server of who asks, and servers that do not answer.

use std::io::Write as _;
use std::time::Instant;

use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::{EnrolmentId, JobId};
#[cfg(feature = "fail-points")]
use shorepass_core::lease::Binding;
use shorepass_core::lease::{AnchorName, State};
use shorepass_core::ledger::Revision;
use shorepass_core::role::Target;
use shorepass_core::time::Timestamp;

use super::*;

struct Stopwatch(Instant);

impl Clock for Stopwatch {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        self.0.elapsed()
    }
}

fn lease() -> Lease {
    let name = |text| Name::parse(text).unwrap();
    let id = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
    let owner = Owner {
        spiffe_id: SpiffeId::parse("spiffe://d/runner/r").unwrap(),
        enrolment: EnrolmentId::parse(id).unwrap(),
    };
    Lease {
        id: LeaseId::parse(id).unwrap(),
        job: Some(JobId::parse(id).unwrap()),
        owner: owner.into(),
        role: Some(name("role")),
        role_digest: Digest::of_bytes(b"role"),
        target: Target { cluster: name("staging"), namespace: name("web"), service_account: "a".to_owned() },
        audiences: None,
        anchor: AnchorName::from_random([1; 16]),
        mode: Mode::Bound,
        created: Timestamp::UNIX_EPOCH,
        deadline: Timestamp::UNIX_EPOCH,
        state: State::Pending,
        receipt: None,
        policy: None,
        not_removed: None,
        revision: Revision::FIRST,
    }
}

/// Cuts a lease at a server, and says how long that took.
async fn cut_at(server: &str, lease: &Lease) -> (Result<(), CutError>, Duration) {
    let name = |text| Name::parse(text).unwrap();
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    write!(
        kubeconfig,
        "{{contexts: [{{name: x, context: {{cluster: x, user: x}}}}], users: [{{name: x, user: {{token: t}}}}], \
         clusters: [{{name: x, cluster: {{server: 'https://{server}'}}}}]}}"
    )
    .unwrap();
    let (path, context) = (kubeconfig.path().to_owned(), "x".to_owned());
    let connection = Connection::new(name("staging"), path, context, name("main"));
    let cluster = KubeCluster::connect(connection, Arc::new(Stopwatch(Instant::now()))).await.unwrap();
    let start = Instant::now();
    let outcome = cluster.cut(lease).await;
    (outcome, start.elapsed())
}

#[test]
fn the_user_agent_names_lease_and_request() {
    let lease = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
    let said = user_agent(LeaseId::parse(lease).unwrap(), &CallId::parse("job-7").unwrap());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(said, format!("shorepass-issuer/{version} lease/{lease} request/job-7"));
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (outcome, took) = cut_at(&listener.local_addr().unwrap().to_string(), &lease()).await;
    assert!(matches!(outcome, Err(CutError::Unreachable(_))), "{outcome:?}");
    assert!(took < CUT_DEADLINE + Duration::from_secs(1), "{took:?}");
}

/// Where nobody listens.
fn nowhere() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn why_a_server_cannot_be_reached_is_told() {
    let Err(CutError::Unreachable(cause)) = cut_at(&nowhere(), &lease()).await.0 else {
        panic!("nobody listens")
    };
    assert!(cause.contains("Connection refused"), "{cause}");
}

#[cfg(feature = "fail-points")]
#[tokio::test]
async fn a_delete_that_failed_is_not_told_as_done() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static TOLD: AtomicUsize = AtomicUsize::new(0);
    effects::tell(|_| {
        TOLD.fetch_add(1, Ordering::SeqCst);
    });
    let binding = Binding { namespace: Name::parse("web").unwrap(), name: "b".to_owned(), role: None };
    let strict = Lease { mode: Mode::Strict { bindings: vec![binding] }, ..lease() };
    assert!(cut_at(&nowhere(), &strict).await.0.is_err());
    assert_eq!(TOLD.load(Ordering::SeqCst), 0);
}
