//! An issuer's listeners on loopback, and clients that do what ours never would.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, ClientConfig, RootCertStore, SupportedProtocolVersion};
use shorepass_core::caller::{Caller, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Clock, Timestamp};
use shorepass_testing::certificates::{Pair, Subject, TestCa};
use shorepass_tls::{
    CurrentIdentity, HandshakeError, Identity, PeerStream, PrivateKey, Serving, ServingIdentity, Trust,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("ci.example.org").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://ci.example.org/{path}")).unwrap()
}

pub(crate) fn subject(path: &str) -> Subject {
    let enrolment = EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap();
    Subject { spiffe_id: id(path), enrolment, now: now() }
}

/// Stands still, so that certificates of the test stay what they are.
#[derive(Debug)]
pub(crate) struct StoppedClock(pub(crate) Timestamp);

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn since_boot(&self) -> Duration {
        Duration::ZERO
    }
}

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.as_second().try_into().ok()?)))
    }
}

pub(crate) fn clock() -> Arc<StoppedClock> {
    Arc::new(StoppedClock(now()))
}

pub(crate) fn identity(ca: &TestCa, pair: &Pair) -> Identity {
    Identity::parse(pair.identity_pem(ca.certificate_pem()).as_bytes()).unwrap()
}

pub(crate) fn current(ca: &TestCa, pair: &Pair) -> Arc<CurrentIdentity> {
    CurrentIdentity::new(&identity(ca, pair))
}

/// The chain that this CA's issuer serves, its CA last.
pub(crate) fn serving_identity(ca: &TestCa, pair: &Pair) -> ServingIdentity {
    let key = PrivateKey::parse(pair.key_pem.as_bytes()).unwrap();
    let chain = format!("{}{}", pair.certificate_pem, ca.certificate_pem());
    ServingIdentity::new(&key, chain.as_bytes()).unwrap()
}

pub(crate) fn serving(ca: &TestCa) -> Arc<Serving> {
    let identity = serving_identity(ca, &ca.server(&subject("issuer/main")));
    Serving::new(identity, trust(ca), clock())
}

/// Trusts this CA for the issuer's own trust domain, and nobody else.
pub(crate) fn trust(ca: &TestCa) -> Arc<Trust> {
    Trust::new(trust_domain(), ca.certificate_pem().as_bytes(), Vec::new()).unwrap()
}

/// A listener, and what came of its connections in their order.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    pub(crate) outcomes: mpsc::UnboundedReceiver<Result<Option<Caller>, HandshakeError>>,
}

impl Listening {
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) async fn outcome(&mut self) -> Result<Option<Caller>, HandshakeError> {
        tokio::time::timeout(DEADLINE, self.outcomes.recv()).await.unwrap().unwrap()
    }
}

pub(crate) async fn api(serving: &Arc<Serving>) -> Listening {
    let acceptor = serving.api();
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            acceptor
                .accept(stream, 5 * SECOND, ready(()))
                .await
                .map(|(stream, caller)| (stream, Some(caller)))
        }
    })
    .await
}

pub(crate) async fn enroll(serving: &Arc<Serving>) -> Listening {
    let acceptor = serving.enroll();
    listen(move |stream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream, 5 * SECOND, ready(())).await.map(|stream| (stream, None)) }
    })
    .await
}

async fn listen<A, F>(accept: A) -> Listening
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = Result<(PeerStream, Option<Caller>), HandshakeError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, outcomes) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (accepting, sender) = (accept(stream), sender.clone());
            tokio::spawn(async move {
                match accepting.await {
                    Ok((stream, caller)) => {
                        let _ = sender.send(Ok(caller));
                        greet_and_echo(stream).await;
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error));
                    }
                }
            });
        }
    });
    Listening { address, outcomes }
}

/// Speaks first, as an HTTP/2 server does.
async fn greet_and_echo(mut stream: PeerStream) {
    if stream.write_all(b"hello").await.is_err() {
        return;
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// Sends bytes and reads them back.
pub(crate) async fn echoes(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && answer == *b"ping"
}

/// A client that presents what it is told to, and checks the server by name like others do.
pub(crate) struct RawClient {
    pub(crate) version: &'static SupportedProtocolVersion,
    pub(crate) protocols: Vec<Vec<u8>>,
    pub(crate) pair: Option<Pair>,
}

impl RawClient {
    pub(crate) fn presenting(pair: Pair) -> Self {
        Self { version: &rustls::version::TLS13, protocols: vec![b"h2".to_vec()], pair: Some(pair) }
    }

    pub(crate) fn config(&self, ca: &TestCa) -> Arc<ClientConfig> {
        self.config_trusting(ca.certificate_pem())
    }

    pub(crate) fn config_trusting(&self, ca_pem: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, clock())
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.pair {
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.clone();
        Arc::new(config)
    }

    /// Connects and reads the greeting.
    pub(crate) async fn connect(
        &self,
        ca: &TestCa,
        address: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        greeted(self.config(ca), address).await
    }

    /// The alert that it is refused with.
    pub(crate) async fn refused(&self, ca: &TestCa, address: SocketAddr) -> AlertDescription {
        alert(&self.connect(ca, address).await.unwrap_err())
    }
}

pub(crate) fn alert(error: &std::io::Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("no alert, but {error:?}"),
    }
}

/// A handshake as far as the client takes part in it.
pub(crate) async fn shake(
    config: Arc<ClientConfig>,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

pub(crate) async fn greeted(
    config: Arc<ClientConfig>,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = shake(config, address).await?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await?;
    assert_eq!(&greeting, b"hello");
    Ok(stream)
}
