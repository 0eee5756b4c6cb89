//! What our clients make of servers.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use shorepass_core::digest::Digest;
use shorepass_testing::certificates::{Pair, TestCa};
use shorepass_tls::{ConnectError, Connector, HandshakeError, PrivateKey, ServerRefusal, Serving};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::*;

fn key_of(ca: &TestCa) -> Digest {
    PrivateKey::parse(ca.key_pem().as_bytes()).unwrap().digest()
}

fn runner(ca: &TestCa) -> Connector {
    let identity = current(ca, &ca.client(&subject("runner/prod-1")));
    Connector::api(identity, id("issuer/main"), clock())
}

/// A server that serves with any certificate, as ours would not.
async fn raw_server(chain_pem: String, key_pem: String) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.write_all(b"hello").await;
            }
        }
    });
    address
}

async fn raw_server_of(ca: &TestCa, pair: Pair) -> String {
    raw_server(format!("{}{}", pair.certificate_pem, ca.certificate_pem()), pair.key_pem).await.to_string()
}

#[tokio::test]
async fn enrolment_knows_the_issuer_by_the_join_tokens_ca() {
    let ca = TestCa::new(&trust_domain());
    let mut listening = enroll(&serving(&ca)).await;
    let connector = Connector::enroll(key_of(&ca), id("issuer/main"), clock());
    assert!(connector.connect(&listening.address()).await.is_ok());
    assert!(matches!(listening.outcome().await, Ok(None)));
}

#[tokio::test]
async fn enrolment_with_a_foreign_join_token_sends_nothing() {
    let (ca, other) = (TestCa::new(&trust_domain()), TestCa::new(&trust_domain()));
    let mut listening = enroll(&serving(&ca)).await;
    let connector = Connector::enroll(key_of(&other), id("issuer/main"), clock());
    let error = connector.connect(&listening.address()).await.unwrap_err();
    assert!(matches!(error, ConnectError::OtherAuthority { .. }));
    assert!(error.to_string().contains("join token"), "{error}");
    assert!(
        matches!(listening.outcome().await, Err(HandshakeError::Alert(alert)) if alert.name() == "unknown_ca")
    );
}

#[tokio::test]
async fn showing_the_right_ca_is_not_enough() {
    let (ca, other) = (TestCa::new(&trust_domain()), TestCa::new(&trust_domain()));
    let pair = other.server(&subject("issuer/main"));
    let chain = format!("{}{}{}", pair.certificate_pem, other.certificate_pem(), ca.certificate_pem());
    let address = raw_server(chain, pair.key_pem).await.to_string();
    let connected = Connector::enroll(key_of(&ca), id("issuer/main"), clock()).connect(&address).await;
    let Err(ConnectError::NotTheIssuer { source, .. }) = connected else { panic!("{connected:?}") };
    assert!(matches!(source, ServerRefusal::Chain(_)));
}

#[tokio::test]
async fn a_runners_or_operators_certificate_is_no_issuers() {
    let ca = TestCa::new(&trust_domain());
    for path in ["runner/prod-1", "operator/alice", "issuer/main"] {
        let address = raw_server_of(&ca, ca.client(&subject(path))).await;
        let connected = runner(&ca).connect(&address).await;
        assert!(matches!(connected, Err(ConnectError::NotTheIssuer { .. })), "{path}: {connected:?}");
        let connected = Connector::enroll(key_of(&ca), id("issuer/main"), clock()).connect(&address).await;
        assert!(matches!(connected, Err(ConnectError::NotTheIssuer { .. })), "{path}: {connected:?}");
    }
}

#[tokio::test]
async fn the_issuer_is_its_id_and_not_its_dns_name() {
    let ca = TestCa::new(&trust_domain());
    for path in ["issuer/other", "runner/main"] {
        let address = raw_server_of(&ca, ca.server(&subject(path))).await.replace("127.0.0.1", "localhost");
        let connected = runner(&ca).connect(&address).await;
        let Err(ConnectError::NotTheIssuer { source, .. }) = connected else { panic!("{connected:?}") };
        assert!(matches!(source, ServerRefusal::OtherId(found) if found == id(path)));
    }
    // Its certificate has "localhost" and no address; ours connect by address all the same.
    let address = raw_server_of(&ca, ca.server(&subject("issuer/main"))).await;
    assert!(runner(&ca).connect(&address).await.is_ok());
}

#[tokio::test]
async fn another_ca_and_an_ended_certificate_are_not_the_issuer() {
    let (ca, other) = (TestCa::new(&trust_domain()), TestCa::new(&trust_domain()));
    let foreign = raw_server_of(&other, other.server(&subject("issuer/main"))).await;
    assert!(matches!(runner(&ca).connect(&foreign).await, Err(ConnectError::NotTheIssuer { .. })));
    let address = raw_server_of(&ca, ca.server(&subject("issuer/main"))).await;
    let later = Arc::new(StoppedClock(now() + Duration::from_secs(3601)));
    let identity = current(&ca, &ca.client(&subject("runner/prod-1")));
    let connected = Connector::api(identity, id("issuer/main"), later).connect(&address).await;
    assert!(matches!(connected, Err(ConnectError::NotTheIssuer { .. })));
}

#[tokio::test]
async fn an_issuer_of_our_own_making_is_accepted_by_us_and_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let authority =
        shorepass_tls::Authority::open_or_create(directory.path(), &trust_domain(), now(), Arc::new(Zeros))
            .unwrap();
    let hour = Duration::from_secs(3600);
    let names = ["localhost".to_owned()];
    let identity = authority.serving(&id("issuer/main"), &names, &[], hour, now()).unwrap();
    let trust = shorepass_tls::Trust::new(trust_domain(), &authority.bundle_pem(), Vec::new()).unwrap();
    let serving = Serving::new(identity, trust, clock());
    let listening = api(&serving).await;
    let subject = subject("operator/alice");
    let made = authority.create_identity(&subject.spiffe_id, subject.enrolment, hour, now()).unwrap();
    let current = shorepass_tls::CurrentIdentity::new(&made);
    assert!(Connector::api(current, id("issuer/main"), clock()).connect(&listening.address()).await.is_ok());
    let enrolling = Connector::enroll(authority.key_digest(), id("issuer/main"), clock());
    assert!(enrolling.connect(&enroll(&serving).await.address()).await.is_ok());
    let key_pem = std::fs::read_to_string(directory.path().join("ca.key")).unwrap();
    let ca = TestCa::from_pem(std::str::from_utf8(&authority.bundle_pem()).unwrap(), &key_pem);
    let raw = RawClient::presenting(ca.client(&subject));
    assert!(raw.connect(&ca, listening.address).await.is_ok());
}

struct Zeros;

impl shorepass_core::time::Entropy for Zeros {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(1);
    }
}

#[tokio::test]
async fn what_is_not_there_is_silent_or_speaks_otherwise_is_told_apart() {
    let ca = TestCa::new(&trust_domain());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = runner(&ca).with_deadline(SECOND / 10).connect(&address).await;
    assert!(matches!(silent, Err(ConnectError::Timeout { .. })));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert!(matches!(runner(&ca).connect(&address).await, Err(ConnectError::Broken { .. })));
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().unwrap().to_string();
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let closed = runner(&ca).connect(&address).await.unwrap_err();
    assert!(matches!(closed, ConnectError::Closed { .. }), "{closed:?}");
    assert!(closed.to_string().contains("too many connections"), "{closed}");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = runner(&ca).connect(&free.to_string()).await.unwrap_err();
    assert!(matches!(gone, ConnectError::Unreachable { .. }));
    assert!(gone.to_string().contains(&free.to_string()), "{gone}");
    assert!(matches!(runner(&ca).connect("nowhere").await, Err(ConnectError::Unreachable { .. })));
}

#[tokio::test]
async fn an_issuer_that_has_enough_of_our_connections_says_so_and_one_that_hangs_up_is_not_said_to_be_none() {
    let ca = TestCa::new(&trust_domain());
    let acceptor = serving(&ca).api();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        // SETTINGS and a GOAWAY with ENHANCE_YOUR_CALM; then nothing at all.
        let frames = [0_u8, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];
        for told in [frames.as_slice(), &[]] {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut stream, _) = acceptor.accept(stream, 5 * SECOND, ready(())).await.unwrap();
            stream.write_all(told).await.unwrap();
            drop(stream);
        }
    });
    let full = runner(&ca).connect(&address).await.unwrap_err();
    assert!(matches!(full, ConnectError::TooMany { .. }), "{full:?}");
    assert!(full.to_string().contains("enough open connections of this identity; try again"), "{full}");
    let closed = runner(&ca).connect(&address).await.unwrap_err();
    assert!(matches!(closed, ConnectError::Closed { .. }), "{closed:?}");
    assert!(!closed.to_string().contains("TLS 1.3"), "{closed}");
}
