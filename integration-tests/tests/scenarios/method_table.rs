//! Who may call what: every method of the descriptor set against every kind of peer.
//!
//! What each method is called with would be granted to the right caller: real ids of a living lease, its job, a block.
//! So a refusal is for who calls, and an admission that should not be leaves a trace.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use integration_tests::client::{self, Client, runner_id};
use integration_tests::issuer::{IssuerUnderTest, Knobs, TRUST_DOMAIN};
use integration_tests::raw::{self, Answer, RawClient};
use integration_tests::site::Site;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_proto::v1;
use shorepass_rpc::client::ApiClient;
use shorepass_testing::certificates::{Fault, Pair, Subject, TestCa};
use shorepass_tls::{ConnectError, Connector, CurrentIdentity, Identity, KeyAndRequest};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The kinds that may call a method; none means nobody with a certificate, and everybody on the other listener. A method
/// that is not here fails the test.
fn declared(method: &str) -> Result<&'static [Kind]> {
    Ok(match method {
        "CredentialService/StartJob"
        | "CredentialService/EndJob"
        | "CredentialService/Issue"
        | "CredentialService/Refresh"
        | "CredentialService/Release"
        | "CredentialService/Heartbeat"
        | "CredentialService/Watch"
        | "CredentialService/ListRoles" => &[Kind::Runner, Kind::Platform],
        "EnrollmentService/Enroll" | "EnrollmentService/BeginRejoin" | "EnrollmentService/Rejoin" => &[],
        "EnrollmentService/Renew" => &[Kind::Runner],
        "AdminService/ListLeases"
        | "AdminService/GetLease"
        | "AdminService/RevokeLeases"
        | "AdminService/Unblock"
        | "AdminService/ListBlocks"
        | "AdminService/Ban"
        | "AdminService/Unban"
        | "AdminService/ListBans"
        | "AdminService/ListRunners"
        | "AdminService/FindToken"
        | "AdminService/CreateJoinToken" => &[Kind::Operator],
        other => bail!("{other} has no declared callers: say here who may call it, and in the method table"),
    })
}

/// All methods, as `Service/Method`.
fn methods() -> Result<Vec<String>> {
    let set = FileDescriptorSet::decode(shorepass_proto::DESCRIPTORS)?;
    let files = set.file.iter().filter(|file| file.package() == "shorepass.v1");
    let services = files.flat_map(|file| &file.service);
    let named = services.flat_map(|service| {
        service.method.iter().map(move |method| format!("{}/{}", service.name(), method.name()))
    });
    Ok(named.collect())
}

fn path(method: &str) -> String {
    format!("/shorepass.v1.{method}")
}

/// Dropped in this order.
struct Scene {
    issuer: IssuerUnderTest,
    operator: Client,
    authority: TestCa,
    lease: v1::Lease,
    token_id: String,
    block: String,
    /// Who has the living lease.
    owner: SpiffeId,
    /// Somebody who is banned.
    banned: String,
    join_token: String,
    site: Site,
}

async fn scene() -> Result<Scene> {
    let site = Site::new("methods").await?;
    let issuer = IssuerUnderTest::start(&site, Knobs::default()).await?;
    let read = |name: &str| std::fs::read_to_string(issuer.state().join(name));
    let authority = TestCa::from_pem(&read("ca.pem")?, &read("ca.key")?);
    let operator = issuer.operator()?;
    let owner = issuer.runner("test-1").await?;
    let job = owner.start_job().await?;
    let issued = owner.issue(&job, "deploy").await?;
    let blocked = issuer.runner("test-2").await?;
    let lost = blocked.issue(&blocked.start_job().await?, "deploy").await?.lease.id;
    let steps = operator.revoke(v1::LeaseSelector { lease_id: lost, ..Default::default() }).await?;
    let block =
        steps.into_iter().find_map(|step| step.lease?.block).context("a revocation without a block")?;
    let join_token = issuer.join_token("test-new", false).await?;
    issuer.identities_are_audited().await?; // not in the middle of what is compared
    let banned = format!("spiffe://{TRUST_DOMAIN}/runner/test-banned");
    let ban = v1::BanRequest { subject: banned.clone(), reason: "table".to_owned() };
    operator.call(ApiClient::ban, ban).await?;
    let (lease, token_id) = (issued.lease, issued.credential.token_id.clone());
    let (owner, block) = (owner.spiffe_id, block.id);
    Ok(Scene { issuer, operator, authority, lease, token_id, block, owner, banned, join_token, site })
}

impl Scene {
    /// A message that the method would do something with.
    fn message(&self, method: &str) -> Result<Vec<u8>> {
        let lease_id = self.lease.id.clone();
        let job_id = self.lease.job_id.clone();
        let certificate_request_pem =
            KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, "test-new")?)?.request_pem;
        let selector = Some(v1::LeaseSelector { lease_id: lease_id.clone(), ..Default::default() });
        Ok(match method {
            "CredentialService/StartJob" => client::start_job("table").encode_to_vec(),
            "CredentialService/EndJob" => v1::EndJobRequest { job_id }.encode_to_vec(),
            "CredentialService/Issue" => client::issue(&job_id, "deploy").encode_to_vec(),
            "CredentialService/Refresh" => {
                v1::RefreshRequest { lease_id, ..Default::default() }.encode_to_vec()
            }
            "CredentialService/Release" => v1::ReleaseRequest { lease_id }.encode_to_vec(),
            "CredentialService/Heartbeat" => {
                v1::HeartbeatRequest { lease_ids: vec![lease_id], watch_sequence: 0 }.encode_to_vec()
            }
            "CredentialService/Watch" => {
                v1::WatchRequest { lease_ids: vec![lease_id], sequence: 0 }.encode_to_vec()
            }
            "EnrollmentService/Enroll" => {
                let (join_token, name) = (self.join_token.clone(), "test-new".to_owned());
                v1::EnrollRequest { join_token, name, certificate_request_pem, ..Default::default() }
                    .encode_to_vec()
            }
            "EnrollmentService/BeginRejoin" => {
                v1::BeginRejoinRequest { certificate_pem: b"none".to_vec() }.encode_to_vec()
            }
            "EnrollmentService/Rejoin" => v1::RejoinRequest::default().encode_to_vec(),
            "EnrollmentService/Renew" => v1::RenewRequest { certificate_request_pem }.encode_to_vec(),
            "AdminService/GetLease" => v1::GetLeaseRequest { lease_id }.encode_to_vec(),
            "AdminService/RevokeLeases" => {
                let reason = "table".to_owned();
                v1::RevokeLeasesRequest { selector, reason, ..Default::default() }.encode_to_vec()
            }
            "AdminService/Unblock" => v1::UnblockRequest { block_id: self.block.clone() }.encode_to_vec(),
            "AdminService/Ban" => {
                let (subject, reason) = (self.owner.to_string(), "table".to_owned());
                v1::BanRequest { subject, reason }.encode_to_vec()
            }
            "AdminService/Unban" => v1::UnbanRequest { subject: self.banned.clone() }.encode_to_vec(),
            "AdminService/FindToken" => {
                v1::FindTokenRequest { token_id: self.token_id.clone() }.encode_to_vec()
            }
            "AdminService/CreateJoinToken" => client::create_join_token("test-*", true).encode_to_vec(),
            // Their empty messages ask for everything.
            "CredentialService/ListRoles"
            | "AdminService/ListLeases"
            | "AdminService/ListBlocks"
            | "AdminService/ListBans"
            | "AdminService/ListRunners" => Vec::new(),
            other => bail!("{other} has no message here"),
        })
    }

    /// A peer with a certificate of the issuer's CA.
    fn peer(&self, kind: Kind) -> Result<RawClient> {
        let pair = self.authority.client(&self.subject(kind)?);
        Ok(self.showing(Some(pair)))
    }

    fn showing(&self, pair: Option<Pair>) -> RawClient {
        RawClient::new(self.authority.certificate_pem(), pair)
    }

    fn subject(&self, kind: Kind) -> Result<Subject> {
        let now = SystemClock.now();
        let spiffe_id = SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/{kind}/test-table"))?;
        Ok(Subject { spiffe_id, enrolment: EnrolmentId::generate(now, &SystemEntropy), now })
    }

    /// What must stay as it is: records, audit lines that are no refusals, Secrets.
    async fn condition(&self) -> Result<(Vec<v1::LeaseRecord>, usize, BTreeSet<String>)> {
        let mut leases = self.operator.leases().await?;
        for lease in leases.iter_mut().filter_map(|record| record.lease.as_mut()) {
            lease.remaining = None; // it passes
        }
        let acts = self.issuer.audit()?.iter().filter(|line| line["event"] != "request.refused").count();
        let secrets = self.site.place.secrets().list(&Default::default()).await?;
        let secrets = secrets.items.into_iter().filter_map(|secret| secret.metadata.name).collect();
        Ok((leases, acts, secrets))
    }
}

fn check(answer: &Answer, reason: &str) -> Result<()> {
    ensure!(answer.reason.as_deref() == Some(reason), "not refused with {reason}: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn callers_of_another_kind_are_refused_every_method_and_change_nothing() -> Result<()> {
    let scene = scene().await?;
    let before = scene.condition().await?;
    let api = scene.issuer.addresses().api;
    for method in methods()? {
        let allowed = declared(&method)?;
        for kind in [Kind::Runner, Kind::Platform, Kind::Operator] {
            let peer = scene.peer(kind)?;
            let told = async {
                if !allowed.contains(&kind) {
                    let answer = peer.call(api, &path(&method), &scene.message(&method)?).await?;
                    return check(&answer, "CALLER_KIND");
                }
                // Whoever may call it gets further; the empty message does nothing there, and opens no endless stream.
                let malformed =
                    v1::WatchRequest { lease_ids: vec!["x".to_owned()], sequence: 0 }.encode_to_vec();
                let message = if method.ends_with("/Watch") { malformed } else { Vec::new() };
                let answer = peer.call(api, &path(&method), &message).await?;
                ensure!(
                    answer.reason.as_deref() != Some("CALLER_KIND"),
                    "its own caller is refused: {answer:?}"
                );
                Ok(())
            };
            told.await.with_context(|| format!("{method} as {kind}"))?;
        }
    }
    assert_eq!(scene.condition().await?, before);
    Ok(())
}

#[tokio::test]
async fn peers_without_a_certificate_can_enrol_rejoin_and_nothing_else() -> Result<()> {
    let scene = scene().await?;
    let before = scene.condition().await?;
    let addresses = scene.issuer.addresses();
    let nobody = scene.showing(None);
    for method in methods()? {
        let refused = async {
            ensure!(nobody.alert(addresses.api).await? == 116, "no certificate_required");
            let message = if declared(&method)?.is_empty() { Vec::new() } else { scene.message(&method)? };
            let answer = nobody.call(addresses.enroll, &path(&method), &message).await?;
            let reason = if declared(&method)?.is_empty() { "FIELD_INVALID" } else { "CALLER_KIND" };
            check(&answer, reason)
        };
        refused.await.with_context(|| method.clone())?;
    }
    assert_eq!(scene.condition().await?, before);
    Ok(())
}

#[tokio::test]
async fn certificates_of_others_and_of_the_past_open_no_method() -> Result<()> {
    let scene = scene().await?;
    let before = scene.condition().await?;
    let api = scene.issuer.addresses().api;
    for method in methods()? {
        for (fault, alert) in
            [(Fault::OtherTrustDomain, 49), (Fault::OtherAuthority, 48), (Fault::Expired, 45)]
        {
            let kind = declared(&method)?.first().copied().unwrap_or(Kind::Runner);
            let peer = scene.showing(Some(scene.authority.faulty(fault, &scene.subject(kind)?)));
            let refused = async {
                let answer = peer.call(api, &path(&method), &scene.message(&method)?).await;
                ensure!(answer.is_err(), "it was answered: {answer:?}");
                let seen = peer.alert(api).await?;
                ensure!(seen == alert, "alert {seen} and not {alert}");
                Ok(())
            };
            refused.await.with_context(|| format!("{method}, {fault:?}"))?;
        }
    }
    assert_eq!(scene.condition().await?, before);
    Ok(())
}

#[tokio::test]
async fn a_runners_certificate_does_not_make_a_server_that_any_client_calls() -> Result<()> {
    let scene = scene().await?;
    let (address, mut heard) = impostor(&scene.authority.client(&scene.subject(Kind::Runner)?)).await?;
    let pair = scene.authority.client(&scene.subject(Kind::Platform)?);
    let identity = Identity::parse(pair.identity_pem(scene.authority.certificate_pem()).as_bytes())?;
    let issuer = scene.issuer.spiffe_id()?;
    for method in methods()? {
        let connector =
            Connector::api(CurrentIdentity::new(&identity), issuer.clone(), std::sync::Arc::new(SystemClock));
        let refused = async {
            match connector.connect(&address.to_string()).await {
                Err(ConnectError::NotTheIssuer { .. }) => Ok(()),
                Err(other) => bail!("refused otherwise: {other:?}"),
                Ok(stream) => bail!("it is called: {:?}", raw::call(stream, &path(&method), &[]).await),
            }
        };
        refused.await.with_context(|| method.clone())?;
        ensure!(heard.recv().await == Some(0), "{method}: the impostor got more than a handshake");
    }
    Ok(())
}

/// A TLS server with this certificate, and how many bytes each client said to it.
async fn impostor(pair: &Pair) -> Result<(SocketAddr, tokio::sync::mpsc::UnboundedReceiver<usize>)> {
    let acceptor = TlsAcceptor::from(raw::server_config(pair, &["h2"])?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut said = Vec::new();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_to_end(&mut said).await; // the client breaks off
            }
            let _ = sender.send(said.len());
        }
    });
    Ok((address, receiver))
}

#[test]
fn every_method_of_the_descriptor_set_has_declared_callers() -> Result<()> {
    let described: BTreeSet<String> = methods()?.into_iter().collect();
    ensure!(described.len() >= 20, "the descriptor set has lost methods: {described:?}");
    for method in &described {
        declared(method)?;
    }
    let strange = declared("AdminService/Shutdown").is_err();
    ensure!(strange, "a method that nobody declared passes");
    Ok(())
}
