//! The issuer's API for agents, platforms and operators.
//!
//! Takes and gives messages of the wire; every call has a deadline and a request id. How to connect is the business of
//! who makes the client: a function that gives an encrypted stream whose peer it has verified. It is called for the
//! first call and again whenever the connection is gone.
//!
//! Questionable: nothing is retried here. Only the caller knows whether it still wants the answer.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use shorepass_core::id::CallId;
use shorepass_core::time::{Clock, Entropy};
use shorepass_proto::v1;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use crate::status::{ConnectFailed, REQUEST_ID, SharedError};
use crate::wire::admin_service_client::AdminServiceClient;
use crate::wire::credential_service_client::CredentialServiceClient;
use crate::wire::enrollment_service_client::EnrollmentServiceClient;

pub use crate::status::{ClientError, Refusal};

/// For a call, unless told otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// For the next message of a stream: somewhat longer than the issuer's own idle limit.
const STREAM_DEADLINE: Duration = Duration::from_secs(45);

/// Bytes in one answer, with room above what issuers send.
const RESPONSE_BYTES: usize = 1024 * 1024;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Duplex for IO {}

type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Box<dyn Duplex>>, ConnectFailed>> + Send>>;

/// Held by the connection too, which must not hold the rest: it would keep itself open when the client is gone.
type Connect = Arc<dyn Fn() -> Connecting + Send + Sync>;

struct Shared {
    connect: Connect,
    connection: Mutex<Option<(u64, Channel)>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// A client. Clones share one connection.
#[derive(Clone)]
pub struct ApiClient {
    shared: Arc<Shared>,
    deadline: Duration,
    request_id: Option<CallId>,
}

impl ApiClient {
    /// Connects at the first call.
    pub fn new<C, F, IO, E>(connect: C, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<IO, E>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let connect: Connect = Arc::new(move || {
            let connecting = connect();
            Box::pin(async move {
                let io = connecting.await.map_err(|error| ConnectFailed(SharedError::new(error)))?;
                Ok(TokioIo::new(Box::new(io) as Box<dyn Duplex>))
            }) as Connecting
        });
        let shared = Shared { connect, connection: Mutex::new(None), clock, entropy };
        Self { shared: Arc::new(shared), deadline: DEFAULT_DEADLINE, request_id: None }
    }

    /// The same client, giving up after `deadline`.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, naming its requests `request_id` instead of each by a new id.
    pub fn with_request_id(&self, request_id: CallId) -> Self {
        Self { request_id: Some(request_id), ..self.clone() }
    }

    /// Makes the next call connect anew, with what is then the identity. Calls in work go on.
    pub fn reset(&self) {
        *self.connection() = None;
    }

    /// CredentialService.StartJob
    pub async fn start_job(&self, request: v1::StartJobRequest) -> Result<v1::StartJobResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).start_job(request).await })
            .await
    }

    /// CredentialService.EndJob
    pub async fn end_job(&self, request: v1::EndJobRequest) -> Result<v1::EndJobResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).end_job(request).await })
            .await
    }

    /// CredentialService.Issue
    pub async fn issue(&self, request: v1::IssueRequest) -> Result<v1::IssueResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).issue(request).await }).await
    }

    /// CredentialService.Refresh
    pub async fn refresh(&self, request: v1::RefreshRequest) -> Result<v1::RefreshResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).refresh(request).await })
            .await
    }

    /// CredentialService.Release
    pub async fn release(&self, request: v1::ReleaseRequest) -> Result<v1::ReleaseResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).release(request).await })
            .await
    }

    /// CredentialService.ListRoles
    pub async fn list_roles(
        &self,
        request: v1::ListRolesRequest,
    ) -> Result<v1::ListRolesResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).list_roles(request).await })
            .await
    }

    /// CredentialService.Heartbeat
    pub async fn heartbeat(
        &self,
        request: v1::HeartbeatRequest,
    ) -> Result<v1::HeartbeatResponse, ClientError> {
        self.call(request, |channel, request| async move { credentials(channel).heartbeat(request).await })
            .await
    }

    /// CredentialService.Watch. The deadline is that of the answer's head.
    pub async fn watch(&self, request: v1::WatchRequest) -> Result<WatchStream, ClientError> {
        let call = |channel, request| async move { credentials(channel).watch(request).await };
        Ok(WatchStream { told: self.call(request, call).await? })
    }

    /// EnrollmentService.Enroll
    pub async fn enroll(&self, request: v1::EnrollRequest) -> Result<v1::EnrollResponse, ClientError> {
        self.call(request, |channel, request| async move { enrollment(channel).enroll(request).await }).await
    }

    /// EnrollmentService.BeginRejoin
    pub async fn begin_rejoin(
        &self,
        request: v1::BeginRejoinRequest,
    ) -> Result<v1::BeginRejoinResponse, ClientError> {
        let call = |channel, request| async move { enrollment(channel).begin_rejoin(request).await };
        self.call(request, call).await
    }

    /// EnrollmentService.Rejoin
    pub async fn rejoin(&self, request: v1::RejoinRequest) -> Result<v1::RejoinResponse, ClientError> {
        self.call(request, |channel, request| async move { enrollment(channel).rejoin(request).await }).await
    }

    /// EnrollmentService.Renew
    pub async fn renew(&self, request: v1::RenewRequest) -> Result<v1::RenewResponse, ClientError> {
        self.call(request, |channel, request| async move { enrollment(channel).renew(request).await }).await
    }

    /// AdminService.ListLeases
    pub async fn list_leases(
        &self,
        request: v1::ListLeasesRequest,
    ) -> Result<v1::ListLeasesResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).list_leases(request).await }).await
    }

    /// AdminService.GetLease
    pub async fn get_lease(&self, request: v1::GetLeaseRequest) -> Result<v1::GetLeaseResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).get_lease(request).await }).await
    }

    /// AdminService.RevokeLeases. The deadline is that of the first answer.
    pub async fn revoke_leases(&self, request: v1::RevokeLeasesRequest) -> Result<RevokeStream, ClientError> {
        let call = |channel, request| async move { admin(channel).revoke_leases(request).await };
        Ok(RevokeStream { steps: self.call(request, call).await? })
    }

    /// AdminService.Unblock
    pub async fn unblock(&self, request: v1::UnblockRequest) -> Result<v1::UnblockResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).unblock(request).await }).await
    }

    /// AdminService.ListBlocks
    pub async fn list_blocks(
        &self,
        request: v1::ListBlocksRequest,
    ) -> Result<v1::ListBlocksResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).list_blocks(request).await }).await
    }

    /// AdminService.Ban
    pub async fn ban(&self, request: v1::BanRequest) -> Result<v1::BanResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).ban(request).await }).await
    }

    /// AdminService.Unban
    pub async fn unban(&self, request: v1::UnbanRequest) -> Result<v1::UnbanResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).unban(request).await }).await
    }

    /// AdminService.ListBans
    pub async fn list_bans(&self, request: v1::ListBansRequest) -> Result<v1::ListBansResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).list_bans(request).await }).await
    }

    /// AdminService.ListRunners
    pub async fn list_runners(
        &self,
        request: v1::ListRunnersRequest,
    ) -> Result<v1::ListRunnersResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).list_runners(request).await }).await
    }

    /// AdminService.FindToken
    pub async fn find_token(
        &self,
        request: v1::FindTokenRequest,
    ) -> Result<v1::FindTokenResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).find_token(request).await }).await
    }

    /// AdminService.CreateJoinToken
    pub async fn create_join_token(
        &self,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::CreateJoinTokenResponse, ClientError> {
        self.call(request, |channel, request| async move { admin(channel).create_join_token(request).await })
            .await
    }

    async fn call<Q, A, F>(
        &self,
        message: Q,
        send: impl FnOnce(Channel, Request<Q>) -> F,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut request = Request::new(message);
        if let Ok(id) = self.next_request_id().as_str().parse() {
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        let (number, channel) = self.channel();
        match timeout(self.deadline, send(channel, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(ClientError::of(status)),
            Err(_) => {
                self.give_up(number);
                Err(ClientError::Deadline(self.deadline))
            }
        }
    }

    fn next_request_id(&self) -> CallId {
        let generate = || CallId::generate(self.shared.clock.now(), &*self.shared.entropy);
        self.request_id.clone().unwrap_or_else(generate)
    }

    fn channel(&self) -> (u64, Channel) {
        let mut connection = self.connection();
        if let Some((number, channel)) = &*connection {
            return (*number, channel.clone());
        }
        let mut number = [0; 8];
        self.shared.entropy.fill(&mut number);
        let made = (u64::from_be_bytes(number), connect(self.shared.connect.clone()));
        connection.insert(made).clone()
    }

    /// A connection on which a call found no answer is not used again, unless it was replaced meanwhile.
    fn give_up(&self, number: u64) {
        let mut connection = self.connection();
        if connection.as_ref().is_some_and(|(current, _)| *current == number) {
            *connection = None;
        }
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<(u64, Channel)>> {
        self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The name in the URL is not used to find or to verify anybody: the connector does both.
fn connect(connect: Connect) -> Channel {
    Endpoint::from_static("http://issuer")
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .connect_with_connector_lazy(tower::service_fn(move |_| connect()))
}

fn credentials(channel: Channel) -> CredentialServiceClient<Channel> {
    CredentialServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES)
}

fn enrollment(channel: Channel) -> EnrollmentServiceClient<Channel> {
    EnrollmentServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES)
}

fn admin(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES)
}

/// The steps of a revocation.
#[derive(Debug)]
pub struct RevokeStream {
    steps: Streaming<v1::RevokeLeasesResponse>,
}

impl RevokeStream {
    /// The next step; none after the last. The revocation goes on when nobody asks any more.
    pub async fn next(&mut self) -> Result<Option<v1::RevokeLeasesResponse>, ClientError> {
        match timeout(STREAM_DEADLINE, self.steps.message()).await {
            Ok(Ok(step)) => Ok(step),
            Ok(Err(status)) => Err(ClientError::of(status)),
            Err(_) => Err(ClientError::Deadline(STREAM_DEADLINE)),
        }
    }
}

/// What the issuer tells.
#[derive(Debug)]
pub struct WatchStream {
    told: Streaming<v1::WatchResponse>,
}

impl WatchStream {
    /// What it tells next; none when the stream has ended. A stream that says nothing for longer than an issuer does is broken.
    pub async fn next(&mut self) -> Result<Option<v1::WatchResponse>, ClientError> {
        match timeout(STREAM_DEADLINE, self.told.message()).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(status)) => Err(ClientError::of(status)),
            Err(_) => Err(ClientError::Deadline(STREAM_DEADLINE)),
        }
    }
}
