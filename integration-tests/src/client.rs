//! The issuer's clients: runners, platforms and operators over mTLS, by the product's own connector and API client.
//!
//! Every refusal that they see is noted ([`crate::reasons`]).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::digest::Digest;
use shorepass_core::id::RequestId;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_proto::v1;
use shorepass_proto::v1::start_job_request::Evidence;
use shorepass_rpc::client::{ApiClient, ClientError};
use shorepass_tls::{Connector, CurrentIdentity, Identity, JoinTokenText, KeyAndRequest};

use crate::issuer::{IssuerUnderTest, TRUST_DOMAIN};
use crate::reasons;

/// For one call: somewhat longer than any limit of the issuer.
const DEADLINE: Duration = Duration::from_secs(15);

/// A caller with an identity. Clones share one connection.
#[derive(Clone)]
pub struct Client {
    api: ApiClient,
    /// Who it is.
    pub spiffe_id: SpiffeId,
}

impl Client {
    /// With this identity.
    pub fn new(issuer: &IssuerUnderTest, identity: &Identity) -> Result<Self> {
        let connector =
            Connector::api(CurrentIdentity::new(identity), issuer.spiffe_id()?, Arc::new(SystemClock));
        let api = api_client(connector, issuer.addresses().api.to_string());
        Ok(Self { api, spiffe_id: identity.spiffe_id().clone() })
    }

    /// Makes one call, such as `client.call(ApiClient::issue, request)`.
    pub async fn call<'a, Q, A, F>(
        &'a self,
        method: impl FnOnce(&'a ApiClient, Q) -> F,
        request: Q,
    ) -> Result<A, ClientError>
    where
        F: Future<Output = Result<A, ClientError>>,
    {
        reasons::note(method(&self.api, request).await)
    }

    /// Connects anew with the next call.
    pub fn reset(&self) {
        self.api.reset();
    }

    /// Opens a session with a job token; gives its id.
    pub async fn start_job_with(&self, token: &str) -> Result<String, ClientError> {
        let answer = self.call(ApiClient::start_job, start_job_with(token)).await?;
        Ok(answer.job.map(|job| job.id).unwrap_or_default())
    }

    /// Opens a job session; its id.
    pub async fn start_job(&self) -> Result<String, ClientError> {
        let answer = self.call(ApiClient::start_job, start_job("1")).await?;
        Ok(answer.job.unwrap_or_default().id)
    }

    /// Issues a lease with its first token.
    pub async fn issue(&self, job: &str, role: &str) -> Result<Issued, ClientError> {
        let answer = self.call(ApiClient::issue, issue(job, role)).await?;
        Ok(Issued {
            lease: answer.lease.unwrap_or_default(),
            credential: answer.credential.unwrap_or_default(),
        })
    }

    /// Another token on a lease.
    pub async fn refresh(&self, lease: &str) -> Result<Issued, ClientError> {
        let request = v1::RefreshRequest { lease_id: lease.to_owned(), token_lifetime: None };
        let answer = self.call(ApiClient::refresh, request).await?;
        Ok(Issued {
            lease: answer.lease.unwrap_or_default(),
            credential: answer.credential.unwrap_or_default(),
        })
    }

    /// Gives a lease back.
    pub async fn release(&self, lease: &str) -> Result<v1::Lease, ClientError> {
        let request = v1::ReleaseRequest { lease_id: lease.to_owned() };
        Ok(self.call(ApiClient::release, request).await?.lease.unwrap_or_default())
    }

    /// Ends a job session.
    pub async fn end_job(&self, job: &str) -> Result<Vec<v1::Lease>, ClientError> {
        let request = v1::EndJobRequest { job_id: job.to_owned() };
        Ok(self.call(ApiClient::end_job, request).await?.leases)
    }

    /// Revokes what the selector says; all steps.
    pub async fn revoke(
        &self,
        selector: v1::LeaseSelector,
    ) -> Result<Vec<v1::RevokeLeasesResponse>, ClientError> {
        self.revoke_with(v1::RevokeLeasesRequest {
            selector: Some(selector),
            reason: "leaked".to_owned(),
            ..Default::default()
        })
        .await
    }

    /// Revokes; all steps.
    pub async fn revoke_with(
        &self,
        request: v1::RevokeLeasesRequest,
    ) -> Result<Vec<v1::RevokeLeasesResponse>, ClientError> {
        let mut stream = self.call(ApiClient::revoke_leases, request).await?;
        let mut steps = Vec::new();
        while let Some(step) = reasons::note(stream.next().await)? {
            steps.push(step);
        }
        Ok(steps)
    }

    /// Bans a SPIFFE ID or an enrolment.
    pub async fn ban(&self, subject: &str) -> Result<v1::BanResponse, ClientError> {
        let request = v1::BanRequest { subject: subject.to_owned(), reason: "stolen".to_owned() };
        self.call(ApiClient::ban, request).await
    }

    /// Lifts a ban.
    pub async fn unban(&self, subject: &str) -> Result<(), ClientError> {
        let request = v1::UnbanRequest { subject: subject.to_owned() };
        self.call(ApiClient::unban, request).await.map(drop)
    }

    /// All leases, also those that have ended.
    pub async fn leases(&self) -> Result<Vec<v1::LeaseRecord>, ClientError> {
        let mut leases = Vec::new();
        let mut page_token = String::new();
        loop {
            let selector = v1::LeaseSelector { include_ended: true, ..Default::default() };
            let request = v1::ListLeasesRequest { selector: Some(selector), page_size: 200, page_token };
            let page = self.call(ApiClient::list_leases, request).await?;
            leases.extend(page.leases);
            if page.next_page_token.is_empty() {
                return Ok(leases);
            }
            page_token = page.next_page_token;
        }
    }

    /// Creates a join token for an hour.
    pub async fn create_join_token(&self, runners: &str, replace: bool) -> Result<String, ClientError> {
        let answer = self.call(ApiClient::create_join_token, create_join_token(runners, replace)).await?;
        Ok(answer.join_token.clone())
    }
}

/// A lease and a token of it.
pub struct Issued {
    /// The lease.
    pub lease: v1::Lease,
    /// The token.
    pub credential: v1::Credential,
}

/// Opens an asserted session for the job of that id.
pub fn start_job(id: &str) -> v1::StartJobRequest {
    let job = v1::AssertedJob { system: "test".to_owned(), id: id.to_owned(), url: String::new() };
    v1::StartJobRequest { request_id: new_id(), evidence: Some(Evidence::Asserted(job)), expected: None }
}

/// Opens a session with a job token.
pub fn start_job_with(token: &str) -> v1::StartJobRequest {
    let token = v1::OidcToken { token: token.to_owned() };
    v1::StartJobRequest { request_id: new_id(), evidence: Some(Evidence::Oidc(token)), expected: None }
}

/// Asks for a lease with the role's own lifetimes.
pub fn issue(job: &str, role: &str) -> v1::IssueRequest {
    v1::IssueRequest {
        request_id: new_id(),
        job_id: job.to_owned(),
        role: role.to_owned(),
        lease_lifetime: None,
        token_lifetime: None,
    }
}

/// Asks for a join token that may be used for an hour.
pub fn create_join_token(runners: &str, replace: bool) -> v1::CreateJoinTokenRequest {
    v1::CreateJoinTokenRequest {
        request_id: new_id(),
        runners: runners.to_owned(),
        lifetime: None,
        replace,
        labels: Vec::new(),
    }
}

/// A UUIDv7 that nobody else has; all our ids have that form.
pub fn new_id() -> String {
    RequestId::generate(SystemClock.now(), &SystemEntropy).to_string()
}

/// The runner of that name in that trust domain.
pub fn runner_id(trust_domain: &str, name: &str) -> Result<SpiffeId> {
    Ok(SpiffeId {
        trust_domain: TrustDomain::parse(trust_domain)?,
        kind: Kind::Runner,
        name: Name::parse(name)?,
    })
}

/// Exchanges a join token for an identity, as an agent does.
pub async fn enroll(issuer: &IssuerUnderTest, join_token: &str, name: &str) -> Result<Identity> {
    let made = KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, name)?)?;
    let ca = JoinTokenText::parse(join_token)?.ca();
    let connector = Connector::enroll(ca, issuer.spiffe_id()?, Arc::new(SystemClock));
    let request = v1::EnrollRequest {
        join_token: join_token.to_owned(),
        name: name.to_owned(),
        certificate_request_pem: made.request_pem,
        ..Default::default()
    };
    let client = api_client(connector, issuer.addresses().enroll.to_string());
    let answer = reasons::note(client.enroll(request).await)?;
    Ok(Identity::new(made.key, &answer.certificate_chain_pem, &answer.trust_bundle_pem)?)
}

/// Sends what it is given to the enroll listener, whatever the join token in it is worth.
pub async fn enroll_with(
    issuer: &IssuerUnderTest,
    request: v1::EnrollRequest,
) -> Result<Result<v1::EnrollResponse, ClientError>> {
    let ca = issuer.join_token("test-any", false).await?;
    enroll_by(issuer, JoinTokenText::parse(&ca)?.ca(), request).await
}

/// A client of the enroll listener of the issuer with this CA.
pub fn enroll_client(issuer: &IssuerUnderTest, ca: Digest) -> Result<ApiClient> {
    let connector = Connector::enroll(ca, issuer.spiffe_id()?, Arc::new(SystemClock));
    Ok(api_client(connector, issuer.addresses().enroll.to_string()))
}

/// The same, where the digest of the CA's public key is known.
pub async fn enroll_by(
    issuer: &IssuerUnderTest,
    ca: Digest,
    request: v1::EnrollRequest,
) -> Result<Result<v1::EnrollResponse, ClientError>> {
    Ok(reasons::note(enroll_client(issuer, ca)?.enroll(request).await))
}

/// Enrols, with a new key; what the issuer says.
pub async fn try_enroll(
    issuer: &IssuerUnderTest,
    join_token: &str,
    name: &str,
) -> Result<Result<v1::EnrollResponse, ClientError>> {
    let request = v1::EnrollRequest {
        join_token: join_token.to_owned(),
        name: name.to_owned(),
        certificate_request_pem: KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, name)?)?.request_pem,
        ..Default::default()
    };
    enroll_with(issuer, request).await
}

/// That it was refused.
pub fn refused<T>(answer: Result<T, ClientError>) -> Result<ClientError> {
    answer.err().context("it was not refused")
}

fn api_client(connector: Connector, address: String) -> ApiClient {
    let connector = Arc::new(connector);
    let connect = move || {
        let (connector, address) = (connector.clone(), address.clone());
        async move { connector.connect(&address).await }
    };
    ApiClient::new(connect, Arc::new(SystemClock), Arc::new(SystemEntropy)).with_deadline(DEADLINE)
}
