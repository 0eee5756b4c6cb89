//! What the listeners make of clients.

use std::future::ready;
use std::time::Duration;

use rustls::{AlertDescription, HandshakeKind, NamedGroup};
use shorepass_testing::certificates::{Fault, TestCa};
use shorepass_tls::{ClientRefusal, ConnectError, Connector, HandshakeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

fn expected_alert(fault: Fault) -> AlertDescription {
    match fault {
        Fault::Expired | Fault::NotYetValid => AlertDescription::CertificateExpired,
        Fault::OtherAuthority | Fault::SelfSigned => AlertDescription::UnknownCA,
        Fault::Authority => AlertDescription::CertificateUnknown,
        Fault::ServerUsage | Fault::BothUsages | Fault::NoUsage => AlertDescription::UnsupportedCertificate,
        Fault::TwoIds | Fault::NoId | Fault::WildcardId | Fault::DnsName | Fault::WildcardDnsName => {
            AlertDescription::BadCertificate
        }
        Fault::NoEnrolment => AlertDescription::BadCertificate,
        Fault::OtherTrustDomain | Fault::IssuerKind => AlertDescription::AccessDenied,
    }
}

#[tokio::test]
async fn every_faulty_certificate_is_refused_with_its_alert() {
    let ca = TestCa::new(&trust_domain());
    let mut listening = api(&serving(&ca)).await;
    for fault in Fault::ALL {
        let client = RawClient::presenting(ca.faulty(fault, &subject("runner/prod-1")));
        assert_eq!(client.refused(&ca, listening.address).await, expected_alert(fault), "{fault:?}");
        assert!(matches!(listening.outcome().await, Err(HandshakeError::Client(_))), "{fault:?}");
    }
}

#[tokio::test]
async fn runners_platforms_and_operators_become_callers() {
    let ca = TestCa::new(&trust_domain());
    let mut listening = api(&serving(&ca)).await;
    for path in ["runner/prod-1", "platform/build", "operator/alice"] {
        let subject = subject(path);
        let pair = ca.client(&subject);
        let connector = Connector::api(current(&ca, &pair), id("issuer/main"), clock());
        let mut stream = connector.connect(&listening.address()).await.unwrap();
        let caller = listening.outcome().await.unwrap().unwrap();
        assert_eq!(caller.spiffe_id(), &subject.spiffe_id);
        assert_eq!(caller.enrolment(), subject.enrolment);
        assert_eq!(caller.expires(), now() + Duration::from_secs(3600));
        assert_eq!(caller.certificate(), identity(&ca, &pair).certificate());
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"hello", "the bytes that were waited for are replayed");
        assert!(echoes(&mut stream).await);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_on_api_and_let_in_on_enroll() {
    let ca = TestCa::new(&trust_domain());
    let serving = serving(&ca);
    let (mut api, mut enroll) = (api(&serving).await, enroll(&serving).await);
    let client = RawClient { pair: None, ..RawClient::presenting(ca.client(&subject("runner/prod-1"))) };
    assert_eq!(client.refused(&ca, api.address).await, AlertDescription::CertificateRequired);
    assert!(matches!(api.outcome().await, Err(HandshakeError::Client(ClientRefusal::Missing))));
    assert!(echoes(&mut client.connect(&ca, enroll.address).await.unwrap()).await);
    assert!(matches!(enroll.outcome().await, Ok(None)));
}

#[tokio::test]
async fn older_versions_and_other_protocols_are_refused() {
    let ca = TestCa::new(&trust_domain());
    let serving = serving(&ca);
    let good = || RawClient::presenting(ca.client(&subject("runner/prod-1")));
    let old = RawClient { version: &rustls::version::TLS12, ..good() };
    let none = RawClient { protocols: vec![], ..good() };
    let other = RawClient { protocols: vec![b"http/1.1".to_vec()], ..good() };
    for listening in [api(&serving).await, enroll(&serving).await] {
        let address = listening.address;
        assert_eq!(old.refused(&ca, address).await, AlertDescription::ProtocolVersion);
        assert_eq!(none.refused(&ca, address).await, AlertDescription::NoApplicationProtocol);
        assert_eq!(other.refused(&ca, address).await, AlertDescription::NoApplicationProtocol);
        assert!(good().connect(&ca, address).await.is_ok());
    }
}

#[tokio::test]
async fn nothing_is_resumed_and_the_key_exchange_is_hybrid() {
    let ca = TestCa::new(&trust_domain());
    let listening = api(&serving(&ca)).await;
    // One configuration for all: what a client needs to resume, it keeps there.
    let config = RawClient::presenting(ca.client(&subject("runner/prod-1"))).config(&ca);
    for _ in 0..3 {
        let mut stream = greeted(config.clone(), listening.address).await.unwrap();
        assert!(echoes(&mut stream).await);
        let connection = stream.get_ref().1;
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_connector_sees_the_alert_of_every_refusal() {
    let ca = TestCa::new(&trust_domain());
    let listening = api(&serving(&ca)).await;
    let subject = subject("runner/prod-1");
    let faults = [(Fault::Expired, 45), (Fault::OtherAuthority, 48), (Fault::OtherTrustDomain, 49)];
    let mut seen = Vec::new();
    for (fault, code) in faults.into_iter().cycle().take(100) {
        let identity = current(&ca, &ca.faulty(fault, &subject));
        let connector = Connector::api(identity, id("issuer/main"), clock()).with_deadline(DEADLINE);
        let address = listening.address();
        seen.push(tokio::spawn(async move { (code, connector.connect(&address).await.err()) }));
    }
    for connecting in seen {
        match connecting.await.unwrap() {
            (code, Some(ConnectError::Refused { alert, .. })) => assert_eq!(alert.code(), code),
            (code, other) => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_names_the_alert_and_the_remedy() {
    let ca = TestCa::new(&trust_domain());
    let listening = api(&serving(&ca)).await;
    let identity = current(&ca, &ca.faulty(Fault::Expired, &subject("runner/prod-1")));
    let error =
        Connector::api(identity, id("issuer/main"), clock()).connect(&listening.address()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("certificate_expired") && message.contains("clock"), "{message}");
}

#[tokio::test]
async fn even_a_client_that_writes_before_it_reads_sees_the_alert() {
    let ca = TestCa::new(&trust_domain());
    let listening = api(&serving(&ca)).await;
    let client = RawClient::presenting(ca.faulty(Fault::Expired, &subject("runner/prod-1")));
    let mut stream = shake(client.config(&ca), listening.address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"PRI * HTTP/2.0").await.unwrap();
        stream.flush().await.unwrap();
        // A socket closed in the meantime would answer with a reset.
        tokio::time::sleep(SECOND / 50).await;
    }
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(alert(&error), AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_nonsense_is_let_go() {
    let ca = TestCa::new(&trust_domain());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = serving(&ca).api();
    let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = acceptor.accept(listener.accept().await.unwrap().0, SECOND / 10, ready(())).await;
    assert!(matches!(accepted, Err(HandshakeError::Timeout(_))));
    drop(silent);
    let mut plain = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let accepted = acceptor.accept(listener.accept().await.unwrap().0, 5 * SECOND, ready(())).await;
    assert!(matches!(accepted, Err(HandshakeError::Tls(_))));
    drop(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
    let accepted = acceptor.accept(listener.accept().await.unwrap().0, 5 * SECOND, ready(())).await;
    assert!(matches!(accepted, Err(HandshakeError::Connection(_))));
}
