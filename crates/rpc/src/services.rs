//! The three services: convert, call the trait, convert back.
//!
//! A call that was begun goes on to its end in a task of its own, also when its caller hangs up or the answer is late:
//! the domain's steps are made to be interrupted only by a crash. Those tasks are waited for at shutdown.

use std::convert::Infallible;
use std::future::Future;
use std::panic::resume_unwind;
use std::sync::Arc;

use hyper::body::Incoming;
use shorepass_core::caller::Caller;
use shorepass_core::enrolment::Enrolment;
use shorepass_core::time::{Clock, Timestamp};
use shorepass_proto::v1;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::api::{Administration, Credentials, Enrolments};
use crate::convert::{answers, following as beats, pages, requests};
use crate::follow::Following;
use crate::limits::Limits;
use crate::methods::Service;
use crate::middleware::{Origin, internal};
use crate::refused::{Reason, Refused};
use crate::revocation::{self, Steps};
use crate::server::{ListenerKind, Services};
use crate::watching::{self, Places, Told, Watcher};
use crate::wire::admin_service_server::{AdminService, AdminServiceServer};
use crate::wire::credential_service_server::{CredentialService, CredentialServiceServer};
use crate::wire::enrollment_service_server::{EnrollmentService, EnrollmentServiceServer};

/// What is served on a listener.
#[derive(Clone)]
pub(crate) struct Routes {
    credential: Option<CredentialServiceServer<CredentialApi>>,
    enrollment: EnrollmentServiceServer<EnrollmentApi>,
    admin: Option<AdminServiceServer<AdminApi>>,
}

impl Routes {
    pub(crate) fn new(services: Services, listener: ListenerKind, limits: &Limits, work: Work) -> Self {
        let Services { credentials, enrolments, following, administration, connections: _ } = services;
        let watches = Watches {
            following,
            enrolments: enrolments.clone(),
            places: Places::default(),
            limits: limits.clone(),
        };
        let credential = CredentialApi { credentials, watches, work: work.clone() };
        let enrollment = EnrollmentApi { enrolments: enrolments.clone(), work: work.clone() };
        let admin = AdminApi { administration, enrolments, limits: limits.clone(), work };
        let (most, reply) = (limits.request_bytes, limits.response_bytes);
        let authenticated = listener == ListenerKind::Api;
        Self {
            credential: authenticated.then(|| {
                CredentialServiceServer::new(credential)
                    .max_decoding_message_size(most)
                    .max_encoding_message_size(reply)
            }),
            enrollment: EnrollmentServiceServer::new(enrollment)
                .max_decoding_message_size(most)
                .max_encoding_message_size(reply),
            admin: authenticated.then(|| {
                AdminServiceServer::new(admin)
                    .max_decoding_message_size(most)
                    .max_encoding_message_size(reply)
            }),
        }
    }

    pub(crate) async fn call(
        &self,
        service: Service,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        match service {
            Service::Credential => serve(self.credential.clone(), request).await,
            Service::Enrollment => serve(Some(self.enrollment.clone()), request).await,
            Service::Admin => serve(self.admin.clone(), request).await,
        }
    }
}

async fn serve<S>(service: Option<S>, request: http::Request<Incoming>) -> http::Response<Body>
where
    S: tonic::codegen::Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible>,
{
    match service {
        Some(mut service) => match service.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None => Status::unimplemented("this service is not on this listener").into_http(),
    }
}

/// Runs the domain's part of calls.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: TaskTracker,
}

impl Work {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// To its end, whatever becomes of the caller.
    async fn finish<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Refused>> + Send + 'static,
    ) -> Result<T, Status> {
        match self.tasks.spawn(call.in_current_span()).await {
            Ok(result) => Ok(result?),
            // Caught again, and told, where all panics are.
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(internal()),
            },
        }
    }
}

/// The verified caller that the middleware left, and the message.
fn authentic<T>(request: Request<T>) -> Result<(Arc<Caller>, T), Status> {
    origin(request).map(|(origin, message)| (origin.caller, message))
}

/// The same with the id of the call, for what passes it on.
fn origin<T>(request: Request<T>) -> Result<(Origin, T), Status> {
    match request.extensions().get::<Origin>().cloned() {
        Some(origin) => Ok((origin, request.into_inner())),
        None => Err(Refused::new(Reason::CallerKind, "this method needs a client certificate").into()),
    }
}

struct CredentialApi {
    credentials: Arc<dyn Credentials>,
    watches: Watches,
    work: Work,
}

/// What Heartbeat and Watch are made of.
struct Watches {
    following: Arc<dyn Following>,
    enrolments: Arc<dyn Enrolments>,
    places: Places,
    limits: Limits,
}

#[tonic::async_trait]
impl CredentialService for CredentialApi {
    type WatchStream = Told;

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let beat = beats::heartbeat(message)?;
        let following = self.watches.following.clone();
        let pulse = self.work.finish(async move { following.heartbeat(&caller, beat).await }).await?;
        Ok(Response::new(beats::pulse(&pulse)))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (Origin { caller, leaving, .. }, message) = origin(request)?;
        let beat = beats::watch(message)?;
        let Watches { following, enrolments, places, limits } = &self.watches;
        let watcher = Watcher {
            caller,
            enrolments: enrolments.clone(),
            limits: limits.clone(),
            work: self.work.clone(),
            leaving,
        };
        Ok(Response::new(watching::start(following.clone(), beat, places, watcher).await?))
    }

    async fn start_job(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<v1::StartJobResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let requests::StartJob { request, evidence, expected } = requests::start_job(message)?;
        let credentials = self.credentials.clone();
        let call = async move { credentials.start_job(&caller, request, evidence, expected).await };
        let job = self.work.finish(call).await?;
        Ok(Response::new(v1::StartJobResponse { job: Some(answers::job(&job)) }))
    }

    async fn end_job(
        &self,
        request: Request<v1::EndJobRequest>,
    ) -> Result<Response<v1::EndJobResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let job = requests::end_job(message)?;
        let credentials = self.credentials.clone();
        let leases = self.work.finish(async move { credentials.end_job(&caller, job).await }).await?;
        let now = self.work.now();
        let leases = leases.iter().map(|lease| answers::lease(lease, now)).collect();
        Ok(Response::new(v1::EndJobResponse { leases }))
    }

    async fn issue(&self, request: Request<v1::IssueRequest>) -> Result<Response<v1::IssueResponse>, Status> {
        let (Origin { caller, call, .. }, message) = origin(request)?;
        let requests::Issue { request, job, ask } = requests::issue(message)?;
        let credentials = self.credentials.clone();
        let issuing = async move { credentials.issue(&caller, &call, request, job, ask).await };
        let delivery = self.work.finish(issuing).await?;
        let (lease, credential) = answers::delivery(delivery, self.work.now());
        Ok(Response::new(v1::IssueResponse { lease: Some(lease), credential: Some(credential) }))
    }

    async fn refresh(
        &self,
        request: Request<v1::RefreshRequest>,
    ) -> Result<Response<v1::RefreshResponse>, Status> {
        let (Origin { caller, call, .. }, message) = origin(request)?;
        let (lease, lifetime) = requests::refresh(message)?;
        let credentials = self.credentials.clone();
        let refreshing = async move { credentials.refresh(&caller, &call, lease, lifetime).await };
        let delivery = self.work.finish(refreshing).await?;
        let (lease, credential) = answers::delivery(delivery, self.work.now());
        Ok(Response::new(v1::RefreshResponse { lease: Some(lease), credential: Some(credential) }))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let lease = requests::release(message)?;
        let credentials = self.credentials.clone();
        let lease = self.work.finish(async move { credentials.release(&caller, lease).await }).await?;
        let lease = answers::lease(&lease, self.work.now());
        Ok(Response::new(v1::ReleaseResponse { lease: Some(lease) }))
    }

    async fn list_roles(
        &self,
        request: Request<v1::ListRolesRequest>,
    ) -> Result<Response<v1::ListRolesResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let (after, limit) = requests::list_roles(message)?;
        let credentials = self.credentials.clone();
        let call = async move { credentials.list_roles(&caller, after, limit).await };
        let page = self.work.finish(call).await?;
        let (roles, next_page_token) =
            pages::write(page, answers::role, |offered| offered.role.name().clone());
        Ok(Response::new(v1::ListRolesResponse { roles, next_page_token }))
    }
}

struct EnrollmentApi {
    enrolments: Arc<dyn Enrolments>,
    work: Work,
}

#[tonic::async_trait]
impl EnrollmentService for EnrollmentApi {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let enrolling = requests::enroll(request.into_inner())?;
        let enrolments = self.enrolments.clone();
        let certificate = self.work.finish(async move { enrolments.enroll(enrolling).await }).await?;
        Ok(Response::new(answers::enrolled(certificate)))
    }

    async fn begin_rejoin(
        &self,
        request: Request<v1::BeginRejoinRequest>,
    ) -> Result<Response<v1::BeginRejoinResponse>, Status> {
        let certificate = requests::begin_rejoin(request.into_inner())?;
        let enrolments = self.enrolments.clone();
        let nonce = self.work.finish(async move { enrolments.begin_rejoin(certificate).await }).await?;
        Ok(Response::new(answers::nonce(nonce)))
    }

    async fn rejoin(
        &self,
        request: Request<v1::RejoinRequest>,
    ) -> Result<Response<v1::RejoinResponse>, Status> {
        let rejoining = requests::rejoin(request.into_inner())?;
        let enrolments = self.enrolments.clone();
        let certificate = self.work.finish(async move { enrolments.rejoin(rejoining).await }).await?;
        Ok(Response::new(answers::rejoined(certificate)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let certificate_request = requests::renew(message)?;
        let enrolments = self.enrolments.clone();
        let call = async move { enrolments.renew(&caller, certificate_request).await };
        let certificate = self.work.finish(call).await?;
        Ok(Response::new(answers::renewed(certificate)))
    }
}

struct AdminApi {
    administration: Arc<dyn Administration>,
    enrolments: Arc<dyn Enrolments>,
    limits: Limits,
    work: Work,
}

#[tonic::async_trait]
impl AdminService for AdminApi {
    type RevokeLeasesStream = Steps;

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let requests::ListLeases { filter, before, limit } = requests::list_leases(message)?;
        let administration = self.administration.clone();
        let call = async move { administration.list_leases(&caller, filter, before, limit).await };
        let page = self.work.finish(call).await?;
        let now = self.work.now();
        let (leases, next_page_token) =
            pages::write(page, |view| answers::lease_record(view, now), |view| view.lease.id);
        Ok(Response::new(v1::ListLeasesResponse { leases, next_page_token }))
    }

    async fn get_lease(
        &self,
        request: Request<v1::GetLeaseRequest>,
    ) -> Result<Response<v1::GetLeaseResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let lease = requests::get_lease(message)?;
        let administration = self.administration.clone();
        let view = self.work.finish(async move { administration.get_lease(&caller, lease).await }).await?;
        let lease = answers::lease_record(&view, self.work.now());
        Ok(Response::new(v1::GetLeaseResponse { lease: Some(lease) }))
    }

    async fn revoke_leases(
        &self,
        request: Request<v1::RevokeLeasesRequest>,
    ) -> Result<Response<Self::RevokeLeasesStream>, Status> {
        let (caller, message) = authentic(request)?;
        let revocation = requests::revoke_leases(message)?;
        let watch = revocation::Watch {
            caller,
            enrolments: self.enrolments.clone(),
            idle: self.limits.stream_idle,
            work: self.work.clone(),
        };
        let steps = revocation::start(self.administration.clone(), revocation, watch).await?;
        Ok(Response::new(steps))
    }

    async fn unblock(
        &self,
        request: Request<v1::UnblockRequest>,
    ) -> Result<Response<v1::UnblockResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let block = requests::unblock(message)?;
        let administration = self.administration.clone();
        let block = self.work.finish(async move { administration.unblock(&caller, block).await }).await?;
        Ok(Response::new(v1::UnblockResponse { block: Some(answers::block(&block)) }))
    }

    async fn list_blocks(
        &self,
        request: Request<v1::ListBlocksRequest>,
    ) -> Result<Response<v1::ListBlocksResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let asked = requests::list_blocks(message)?;
        let administration = self.administration.clone();
        let page = self.work.finish(async move { administration.list_blocks(&caller, asked).await }).await?;
        let (blocks, next_page_token) = pages::write(page, answers::block, |block| block.id);
        Ok(Response::new(v1::ListBlocksResponse { blocks, next_page_token }))
    }

    async fn ban(&self, request: Request<v1::BanRequest>) -> Result<Response<v1::BanResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let (whom, reason) = requests::ban(message)?;
        let administration = self.administration.clone();
        let shutout =
            self.work.finish(async move { administration.ban(&caller, whom, reason).await }).await?;
        Ok(Response::new(answers::shutout(&shutout)))
    }

    async fn unban(&self, request: Request<v1::UnbanRequest>) -> Result<Response<v1::UnbanResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let whom = requests::unban(message)?;
        let administration = self.administration.clone();
        let ban = self.work.finish(async move { administration.unban(&caller, whom).await }).await?;
        Ok(Response::new(v1::UnbanResponse { ban: Some(answers::ban(&ban)) }))
    }

    async fn list_bans(
        &self,
        request: Request<v1::ListBansRequest>,
    ) -> Result<Response<v1::ListBansResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let (include_lifted, after, limit) = requests::list_bans(message)?;
        let administration = self.administration.clone();
        let call = async move { administration.list_bans(&caller, include_lifted, after, limit).await };
        let page = self.work.finish(call).await?;
        let (bans, next_page_token) = pages::write(page, answers::ban, |ban| ban.banned.key());
        Ok(Response::new(v1::ListBansResponse { bans, next_page_token }))
    }

    async fn list_runners(
        &self,
        request: Request<v1::ListRunnersRequest>,
    ) -> Result<Response<v1::ListRunnersResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let (include_ended, before, limit) = requests::list_runners(message)?;
        let administration = self.administration.clone();
        let call = async move { administration.list_runners(&caller, include_ended, before, limit).await };
        let page = self.work.finish(call).await?;
        let now = self.work.now();
        let runner = |enrolment: &Enrolment| answers::runner(enrolment, now);
        let (runners, next_page_token) = pages::write(page, runner, |enrolment| enrolment.id);
        Ok(Response::new(v1::ListRunnersResponse { runners, next_page_token }))
    }

    async fn find_token(
        &self,
        request: Request<v1::FindTokenRequest>,
    ) -> Result<Response<v1::FindTokenResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let jti = requests::find_token(message)?;
        let administration = self.administration.clone();
        let call = async move { administration.find_token(&caller, &jti).await };
        let (token, view) = self.work.finish(call).await?;
        let lease = answers::lease_record(&view, self.work.now());
        let token = answers::token_record(&token);
        Ok(Response::new(v1::FindTokenResponse { token: Some(token), lease: Some(lease) }))
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let (caller, message) = authentic(request)?;
        let (request, asked) = requests::create_join_token(message)?;
        let administration = self.administration.clone();
        let call = async move { administration.create_join_token(&caller, request, asked).await };
        let token = self.work.finish(call).await?;
        Ok(Response::new(answers::join_token(token)))
    }
}
