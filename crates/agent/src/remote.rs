//! The issuer over mTLS: wire to domain, for [`Issuer`] and [`Enrolment`].
//!
//! It holds the one client, and swaps its identity: calls in work go on with the old certificate, the next one connects
//! with the new. What the issuer answers is parsed here, once.
//!
//! After a suspend the next call connects anew: the other side has given the old connection up, and a call that is sent
//! into it is answered by nobody.

mod follow;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::id::{CallId, JobId, LeaseId, RequestId};
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use shorepass_core::time::{Clock, Entropy};
use shorepass_core::token::Token;
use shorepass_proto::v1;
use shorepass_proto::v1::start_job_request::Evidence;
use shorepass_rpc::client::ApiClient;
use shorepass_tls::{ConnectError, Connector, CurrentIdentity, Identity};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::identity::{EnrolFailure, Enrolment, Granted, Standing, Ticket};
use crate::issuer::{Issuer, IssuerError, Leased, Shown, Started};
use crate::suspend::Awake;

/// Roles in one answer, the most that the issuer gives.
const ROLES: i32 = 200;

/// Answers that are read to find a role.
const ROLE_PAGES: usize = 50;

/// How to reach the issuer.
pub(crate) struct Address {
    /// Who it is.
    pub(crate) issuer: SpiffeId,
    /// Its listener for verified peers, `host:port`.
    pub(crate) api: String,
    /// Its listener for enrolment, `host:port`.
    pub(crate) enroll: String,
}

/// The issuer, and the identity to call it with once there is one.
pub(crate) struct Remote {
    address: Address,
    runner: Name,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    standing: watch::Receiver<Standing>,
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    client: ApiClient,
    identity: Arc<CurrentIdentity>,
    awake: Awake,
}

impl Remote {
    pub(crate) fn new(
        address: Address,
        runner: Name,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        standing: watch::Receiver<Standing>,
    ) -> Self {
        Self { address, runner, clock, entropy, standing, connection: Mutex::new(None) }
    }

    /// For calls under this id, which the issuer logs too.
    fn client(&self, method: &'static str, call: &CallId) -> Result<ApiClient, IssuerError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *connection {
            Some(connection) => {
                if connection.awake.slept(self.clock.since_boot(), Instant::now()) {
                    info!("this machine was suspended: connecting to the issuer anew");
                    connection.client.reset();
                }
                debug!(method, request_id = %call, "calling the issuer");
                Ok(connection.client.with_request_id(call.clone()))
            }
            None => {
                let problem = self.standing.borrow().problem.clone();
                Err(IssuerError::NotEnrolled(problem.unwrap_or_else(|| "not enrolled yet".to_owned())))
            }
        }
    }

    fn connect(&self, identity: &Identity) -> Connection {
        let identity = CurrentIdentity::new(identity);
        let connector = Connector::api(identity.clone(), self.address.issuer.clone(), self.clock.clone());
        let (connector, address) = (Arc::new(connector), self.address.api.clone());
        let connect = move || {
            let (connector, address) = (connector.clone(), address.clone());
            async move { connector.connect(&address).await }
        };
        Connection {
            client: ApiClient::new(connect, self.clock.clone(), self.entropy.clone()),
            identity,
            awake: Awake::new(self.clock.since_boot(), Instant::now()),
        }
    }
}

#[async_trait]
impl Issuer for Remote {
    async fn start_job(
        &self,
        call: &CallId,
        request: RequestId,
        job: &Shown,
    ) -> Result<Started, IssuerError> {
        let evidence = match job {
            Shown::Asserted(job) => Evidence::Asserted(v1::AssertedJob {
                system: job.system().to_owned(),
                id: job.id().to_owned(),
                url: job.url().to_owned(),
            }),
            Shown::Token(token) => Evidence::Oidc(v1::OidcToken { token: token.expose().to_owned() }),
        };
        let request =
            v1::StartJobRequest { request_id: request.to_string(), evidence: Some(evidence), expected: None };
        let answer = self.client("StartJob", call)?.start_job(request).await?;
        let job = answer.job.ok_or(IssuerError::Garbled("job"))?;
        let ends = job.latest_end_time.map(|end| Timestamp::new(end.seconds, end.nanos));
        Ok(Started {
            id: JobId::parse(&job.id).map_err(|_| IssuerError::Garbled("job"))?,
            ends: ends.transpose().map_err(|_| IssuerError::Garbled("job"))?,
        })
    }

    async fn end_job(&self, call: &CallId, job: JobId) -> Result<usize, IssuerError> {
        let request = v1::EndJobRequest { job_id: job.to_string() };
        let answer = self.client("EndJob", call)?.end_job(request).await?;
        Ok(answer.leases.len())
    }

    async fn issue(
        &self,
        call: &CallId,
        request: RequestId,
        job: JobId,
        role: &Name,
    ) -> Result<Leased, IssuerError> {
        let request = v1::IssueRequest {
            request_id: request.to_string(),
            job_id: job.to_string(),
            role: role.to_string(),
            lease_lifetime: None,
            token_lifetime: None,
        };
        let answer = self.client("Issue", call)?.issue(request).await?;
        leased(answer.lease, answer.credential)
    }

    async fn refresh(&self, call: &CallId, lease: LeaseId) -> Result<Leased, IssuerError> {
        let request = v1::RefreshRequest { lease_id: lease.to_string(), token_lifetime: None };
        let answer = self.client("Refresh", call)?.refresh(request).await?;
        leased(answer.lease, answer.credential)
    }

    async fn role(&self, call: &CallId, role: &Name) -> Result<Option<v1::Role>, IssuerError> {
        let client = self.client("ListRoles", call)?;
        let mut page_token = String::new();
        for _ in 0..ROLE_PAGES {
            let answer = client.list_roles(v1::ListRolesRequest { page_size: ROLES, page_token }).await?;
            if let Some(found) = answer.roles.into_iter().find(|offered| offered.name == role.as_str()) {
                return Ok(Some(found));
            }
            if answer.next_page_token.is_empty() {
                return Ok(None);
            }
            page_token = answer.next_page_token;
        }
        Err(IssuerError::Garbled("end of the list of roles"))
    }
}

#[async_trait]
impl Enrolment for Remote {
    async fn enroll(
        &self,
        call: &CallId,
        ticket: &Ticket,
        request_pem: &[u8],
    ) -> Result<Granted, EnrolFailure> {
        let connector = Connector::enroll(ticket.ca(), self.address.issuer.clone(), self.clock.clone());
        let (connector, address) = (Arc::new(connector), self.address.enroll.clone());
        let stranger = Arc::new(Mutex::new(None));
        let met = stranger.clone();
        let connect = move || {
            let (connector, address, met) = (connector.clone(), address.clone(), met.clone());
            async move {
                let connected = connector.connect(&address).await;
                if let Err(error) = &connected
                    && is_stranger(error)
                {
                    let why = shorepass_daemon::telemetry::Chain(error).to_string();
                    *met.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                }
                connected
            }
        };
        let client = ApiClient::new(connect, self.clock.clone(), self.entropy.clone());
        let request = v1::EnrollRequest {
            name: self.runner.to_string(),
            certificate_request_pem: request_pem.to_vec(),
            ..shown(ticket)
        };
        let answer = client.with_request_id(call.clone()).enroll(request).await;
        if let Some(why) = stranger.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(EnrolFailure::NotTheIssuer(why));
        }
        let answer = answer.map_err(IssuerError::from)?;
        Ok(Granted { chain_pem: answer.certificate_chain_pem, bundle_pem: answer.trust_bundle_pem })
    }

    async fn renew(&self, call: &CallId, request_pem: &[u8]) -> Result<Granted, IssuerError> {
        let request = v1::RenewRequest { certificate_request_pem: request_pem.to_vec() };
        let answer = self.client("Renew", call)?.renew(request).await?;
        Ok(Granted { chain_pem: answer.certificate_chain_pem, bundle_pem: answer.trust_bundle_pem })
    }

    async fn rejoin(
        &self,
        call: &CallId,
        identity: &Identity,
        request_pem: &[u8],
        wanted: Digest,
    ) -> Result<Granted, IssuerError> {
        let connector = Connector::rejoin(identity, self.address.issuer.clone(), self.clock.clone());
        let (connector, address) = (Arc::new(connector), self.address.enroll.clone());
        let connect = move || {
            let (connector, address) = (connector.clone(), address.clone());
            async move { connector.connect(&address).await }
        };
        let client = ApiClient::new(connect, self.clock.clone(), self.entropy.clone());
        let client = client.with_request_id(call.clone());
        let certificate_pem = identity.certificate_pem();
        let begin = v1::BeginRejoinRequest { certificate_pem: certificate_pem.clone() };
        let nonce = client.begin_rejoin(begin).await?.nonce;
        let signature = identity.prove(&nonce, wanted).map_err(|_| IssuerError::Garbled("nonce to sign"))?;
        let certificate_request_pem = request_pem.to_vec();
        let request = v1::RejoinRequest { certificate_pem, nonce, certificate_request_pem, signature };
        let answer = client.rejoin(request).await?;
        Ok(Granted { chain_pem: answer.certificate_chain_pem, bundle_pem: answer.trust_bundle_pem })
    }

    /// A heartbeat for no lease asks for nothing.
    async fn show(&self, call: &CallId) -> Result<(), IssuerError> {
        self.client("Heartbeat", call)?.heartbeat(v1::HeartbeatRequest::default()).await?;
        Ok(())
    }

    fn adopt(&self, identity: &Identity) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match &*connection {
            Some(connection) => {
                connection.identity.swap(identity);
                connection.client.reset();
            }
            None => *connection = Some(self.connect(identity)),
        }
    }
}

/// The part of a request that lets the machine in.
fn shown(ticket: &Ticket) -> v1::EnrollRequest {
    match ticket {
        Ticket::JoinToken(text) => {
            v1::EnrollRequest { join_token: text.expose().as_str().to_owned(), ..Default::default() }
        }
        Ticket::Pod { ca: _, cluster, token } => v1::EnrollRequest {
            service_account_token: token.as_str().to_owned(),
            cluster: cluster.to_string(),
            ..Default::default()
        },
        Ticket::Oidc { ca: _, token } => {
            v1::EnrollRequest { oidc_token: token.as_str().to_owned(), ..Default::default() }
        }
    }
}

/// Whether another try would meet somebody else than the issuer again.
fn is_stranger(error: &ConnectError) -> bool {
    match error {
        ConnectError::OtherAuthority { .. } | ConnectError::NotTheIssuer { .. } => true,
        ConnectError::Unreachable { .. }
        | ConnectError::Refused { .. }
        | ConnectError::Timeout { .. }
        | ConnectError::TooMany { .. }
        | ConnectError::Closed { .. }
        | ConnectError::Broken { .. } => false,
    }
}

/// The token is taken over before anything else is looked at, so that it is wiped whatever comes.
fn leased(lease: Option<v1::Lease>, credential: Option<v1::Credential>) -> Result<Leased, IssuerError> {
    let credential = credential.ok_or(IssuerError::Garbled("token"))?;
    let token = Token::new(credential.token);
    if token.expose().is_empty() {
        return Err(IssuerError::Garbled("token"));
    }
    let lease = lease.ok_or(IssuerError::Garbled("lease"))?;
    Ok(Leased {
        lease: LeaseId::parse(&lease.id).map_err(|_| IssuerError::Garbled("lease"))?,
        remaining: span(lease.remaining).ok_or(IssuerError::Garbled("remaining life of the lease"))?,
        silence: span(credential.silence_limit),
        unbound: lease.mode() == v1::LeaseMode::Unbound,
        audiences: lease.audiences,
        token,
        token_id: credential.token_id,
        // An issuer that has no word for silence tells one life.
        valid_for: span(credential.valid_while_heard)
            .or(span(credential.valid_for))
            .ok_or(IssuerError::Garbled("life of the token"))?,
    })
}

fn span(duration: Option<prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(duration?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    fn answer() -> (v1::Lease, v1::Credential) {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let lease = v1::Lease { id: LEASE.to_owned(), remaining: seconds(3_600), ..Default::default() };
        let credential =
            v1::Credential { token: "a.b.c".to_owned(), valid_for: seconds(600), ..Default::default() };
        (lease, credential)
    }

    #[test]
    fn a_whole_answer_is_a_lease_and_its_token() {
        let (lease, credential) = answer();
        let leased = leased(Some(lease), Some(credential)).unwrap();
        assert_eq!(leased.lease.to_string(), LEASE);
        assert_eq!((leased.remaining.as_secs(), leased.valid_for.as_secs()), (3_600, 600));
        assert_eq!(leased.token.expose(), "a.b.c");
    }

    #[test]
    fn an_answer_with_a_part_missing_or_malformed_is_none() {
        let change = |change: fn(&mut v1::Lease, &mut v1::Credential)| {
            let (mut lease, mut credential) = answer();
            change(&mut lease, &mut credential);
            leased(Some(lease), Some(credential))
        };
        let (lease, credential) = answer();
        assert!(leased(None, Some(credential)).is_err() && leased(Some(lease), None).is_err());
        assert!(change(|lease, _| lease.id = LEASE.to_uppercase()).is_err());
        assert!(change(|lease, _| lease.remaining = None).is_err());
        assert!(change(|_, credential| credential.token.clear()).is_err());
        assert!(change(|_, credential| credential.valid_for = None).is_err());
        assert!(
            change(|_, credential| {
                credential.valid_for = Some(prost_types::Duration { seconds: -1, nanos: 0 });
            })
            .is_err()
        );
    }
}
