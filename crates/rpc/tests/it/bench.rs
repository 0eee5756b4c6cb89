//! A listener in memory and clients of every kind.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shorepass_core::ban::{Ban, Banned};
use shorepass_core::caller::{Caller, Kind};
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CloneCause, Cloned, Enrolment, Life};
use shorepass_core::id::EnrolmentId;
use shorepass_core::labels::Labels;
use shorepass_core::ledger::Revision;
use shorepass_core::time::{Clock, Entropy, Timestamp};
use shorepass_proto::v1;
use shorepass_rpc::client::{ApiClient, ClientError};
use shorepass_rpc::connections::Connections;
use shorepass_rpc::limits::Limits;
use shorepass_rpc::server::{ListenerKind, Peered, ServeError, Services, serve};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, ID, JOIN_TOKEN, POD_TOKEN, caller, second};

/// A clock that a test sets.
pub(crate) struct Hands(Mutex<Timestamp>);

impl Hands {
    pub(crate) fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

/// Bytes that are never the same.
#[derive(Default)]
pub(crate) struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = self.0.fetch_add(1, Ordering::SeqCst) as u8;
        }
    }
}

/// Counts the connections that are open.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct Bench {
    pub(crate) fake: Arc<Fake>,
    pub(crate) clock: Arc<Hands>,
    pub(crate) connections: Connections,
    pub(crate) shutdown: CancellationToken,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) connects: Arc<AtomicUsize>,
    pub(crate) serving: JoinHandle<Result<(), ServeError>>,
    accept: mpsc::UnboundedSender<Peered<DuplexStream, Permit>>,
}

impl Bench {
    pub(crate) fn api() -> Self {
        Self::new(ListenerKind::Api, Limits::api())
    }

    pub(crate) fn new(listener: ListenerKind, limits: Limits) -> Self {
        let fake = Arc::new(Fake::default());
        let clock = Arc::new(Hands(Mutex::new(second(0))));
        let connections = Connections::default();
        let services = Services {
            credentials: fake.clone(),
            enrolments: fake.clone(),
            following: fake.clone(),
            administration: fake.clone(),
            connections: connections.clone(),
        };
        let (accept, incoming) = mpsc::unbounded_channel();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(
            UnboundedReceiverStream::new(incoming),
            services,
            listener,
            limits,
            clock.clone(),
            Arc::new(Counting::default()),
            shutdown.clone(),
        ));
        let (open, connects) = Default::default();
        Self { fake, clock, connections, shutdown, open, connects, serving, accept }
    }

    /// A raw connection.
    pub(crate) fn connect(&self, caller: Option<Caller>) -> DuplexStream {
        dial(&self.accept, &self.open, caller).unwrap()
    }

    pub(crate) fn client(&self, kind: Option<Kind>) -> ApiClient {
        let (accept, open, connects) = (self.accept.clone(), self.open.clone(), self.connects.clone());
        let connect = move || {
            connects.fetch_add(1, Ordering::SeqCst);
            std::future::ready(dial(&accept, &open, kind.map(caller)))
        };
        let client = ApiClient::new(connect, self.clock.clone(), Arc::new(Counting::default()));
        client.with_deadline(Duration::from_secs(100))
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }
}

fn dial(
    accept: &mpsc::UnboundedSender<Peered<DuplexStream, Permit>>,
    open: &Arc<AtomicUsize>,
    caller: Option<Caller>,
) -> io::Result<DuplexStream> {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let peer = SocketAddr::from(([192, 0, 2, 1], 50_000));
    let peered = Peered { io: server, caller, peer, permit: Permit::new(open) };
    accept.send(peered).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
    Ok(client)
}

pub(crate) fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub(crate) fn start_job_with(token: &str) -> v1::StartJobRequest {
    let token = v1::OidcToken { token: token.to_owned() };
    v1::StartJobRequest { evidence: Some(v1::start_job_request::Evidence::Oidc(token)), ..start_job() }
}

pub(crate) fn start_job() -> v1::StartJobRequest {
    let asserted = v1::AssertedJob {
        system: "jenkins".to_owned(),
        id: "build-7".to_owned(),
        url: "https://ci.example.org/7".to_owned(),
    };
    v1::StartJobRequest {
        request_id: ID.to_owned(),
        evidence: Some(v1::start_job_request::Evidence::Asserted(asserted)),
        expected: seconds(7_205),
    }
}

pub(crate) fn issue() -> v1::IssueRequest {
    v1::IssueRequest {
        request_id: ID.to_owned(),
        job_id: ID.to_owned(),
        role: "web-deployer".to_owned(),
        lease_lifetime: seconds(3_600),
        token_lifetime: seconds(600),
    }
}

pub(crate) fn enroll() -> v1::EnrollRequest {
    v1::EnrollRequest {
        join_token: JOIN_TOKEN.to_owned(),
        name: "prod-1".to_owned(),
        certificate_request_pem: b"request".to_vec(),
        ..Default::default()
    }
}

/// The same with an OIDC token.
pub(crate) fn enroll_oidc() -> v1::EnrollRequest {
    v1::EnrollRequest { join_token: String::new(), oidc_token: POD_TOKEN.to_owned(), ..enroll() }
}

/// The same of a pod.
pub(crate) fn enroll_pod() -> v1::EnrollRequest {
    v1::EnrollRequest {
        join_token: String::new(),
        service_account_token: POD_TOKEN.to_owned(),
        cluster: "staging".to_owned(),
        ..enroll()
    }
}

pub(crate) fn revoke() -> v1::RevokeLeasesRequest {
    let selector = v1::LeaseSelector { lease_id: ID.to_owned(), ..Default::default() };
    v1::RevokeLeasesRequest { selector: Some(selector), reason: "leaked".to_owned(), ..Default::default() }
}

pub(crate) fn ban() -> v1::BanRequest {
    let subject = "spiffe://ci.example.org/runner/one".to_owned();
    v1::BanRequest { subject, reason: "stolen".to_owned() }
}

/// A ban of the runner's enrolment.
pub(crate) fn standing_ban() -> Ban {
    Ban {
        banned: Banned::Enrolment(caller(Kind::Runner).owner()),
        set: second(3),
        by: caller(Kind::Operator).spiffe_id().clone(),
        reason: "stolen".to_owned(),
        lifted: None,
        revision: Revision::FIRST,
    }
}

/// One that lives, one that was replaced and one that was cloned.
pub(crate) fn runners() -> Vec<Enrolment> {
    let (id, runner) = (EnrolmentId::parse(ID).unwrap(), caller(Kind::Runner).spiffe_id().clone());
    let labels = Labels::parse(["env=prod", "pool=a"]).unwrap();
    let life = Life { from: second(0), until: Timestamp::MAX };
    let live = Enrolment::first(id, runner, labels, Digest::of_bytes(b"key"), life);
    let (at, certificate) = (second(7), Digest::of_bytes(b"older"));
    let cloned = Cloned { at, cause: CloneCause::Renewed, certificate };
    vec![live.clone(), live.clone().replace(at), live.found_cloned(cloned)]
}

pub(crate) fn rejoin() -> v1::RejoinRequest {
    v1::RejoinRequest {
        certificate_pem: b"PEM".to_vec(),
        nonce: b"nonce".to_vec(),
        certificate_request_pem: b"PEM".to_vec(),
        signature: b"signature".to_vec(),
    }
}

pub(crate) fn label(name: &str, value: &str) -> v1::Label {
    v1::Label { name: name.to_owned(), value: value.to_owned() }
}

pub(crate) fn create_join_token() -> v1::CreateJoinTokenRequest {
    v1::CreateJoinTokenRequest {
        request_id: ID.to_owned(),
        runners: "prod-*".to_owned(),
        lifetime: None,
        replace: true,
        labels: vec![label("env", "prod")],
    }
}

/// A well-formed call of the method.
pub(crate) async fn call(client: &ApiClient, method: &str) -> Result<(), ClientError> {
    let (id, page_token) = (ID.to_owned(), String::new());
    match method {
        "StartJob" => client.start_job(start_job()).await.map(drop),
        "EndJob" => client.end_job(v1::EndJobRequest { job_id: id }).await.map(drop),
        "Issue" => client.issue(issue()).await.map(drop),
        "Refresh" => {
            client.refresh(v1::RefreshRequest { lease_id: id, token_lifetime: None }).await.map(drop)
        }
        "Release" => client.release(v1::ReleaseRequest { lease_id: id }).await.map(drop),
        "Heartbeat" => client.heartbeat(v1::HeartbeatRequest::default()).await.map(drop),
        "Watch" => client.watch(v1::WatchRequest::default()).await.map(drop),
        "ListRoles" => client.list_roles(v1::ListRolesRequest { page_size: 0, page_token }).await.map(drop),
        "Enroll" => client.enroll(enroll()).await.map(drop),
        "BeginRejoin" => {
            client.begin_rejoin(v1::BeginRejoinRequest { certificate_pem: b"PEM".to_vec() }).await.map(drop)
        }
        "Rejoin" => client.rejoin(rejoin()).await.map(drop),
        "Renew" => {
            client.renew(v1::RenewRequest { certificate_request_pem: b"request".to_vec() }).await.map(drop)
        }
        "ListLeases" => {
            let request = v1::ListLeasesRequest { selector: None, page_size: 0, page_token };
            client.list_leases(request).await.map(drop)
        }
        "GetLease" => client.get_lease(v1::GetLeaseRequest { lease_id: id }).await.map(drop),
        "RevokeLeases" => {
            let mut steps = client.revoke_leases(revoke()).await?;
            while steps.next().await?.is_some() {}
            Ok(())
        }
        "Unblock" => client.unblock(v1::UnblockRequest { block_id: id }).await.map(drop),
        "ListBlocks" => client.list_blocks(v1::ListBlocksRequest::default()).await.map(drop),
        "Ban" => client.ban(ban()).await.map(drop),
        "Unban" => {
            let subject = "spiffe://ci.example.org/runner/one".to_owned();
            client.unban(v1::UnbanRequest { subject }).await.map(drop)
        }
        "ListBans" => client.list_bans(v1::ListBansRequest::default()).await.map(drop),
        "ListRunners" => client.list_runners(v1::ListRunnersRequest::default()).await.map(drop),
        "FindToken" => client.find_token(v1::FindTokenRequest { token_id: "jti".to_owned() }).await.map(drop),
        "CreateJoinToken" => client.create_join_token(create_join_token()).await.map(drop),
        other => panic!("no call for {other}"),
    }
}
