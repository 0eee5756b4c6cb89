//! When a handshake takes its turn, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use shorepass_testing::certificates::{Fault, TestCa};
use shorepass_tls::HandshakeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

/// Counts the turns that were taken and given back.
#[derive(Clone, Default)]
struct Turns {
    taken: Arc<AtomicUsize>,
    given_back: Arc<AtomicUsize>,
}

struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Turns {
    async fn take(self) -> Turn {
        self.taken.fetch_add(1, Ordering::SeqCst);
        Turn(self.given_back)
    }

    fn counts(&self) -> (usize, usize) {
        (self.taken.load(Ordering::SeqCst), self.given_back.load(Ordering::SeqCst))
    }
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn client_hello(ca: &TestCa) -> Vec<u8> {
    let config = RawClient::presenting(ca.client(&subject("runner/prod-1"))).config(ca);
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

#[tokio::test]
async fn an_unfinished_client_hello_takes_no_turn() {
    let ca = TestCa::new(&trust_domain());
    let hello = client_hello(&ca);
    for (sent, taken) in [(1, 0), (hello.len() - 1, 0), (hello.len(), 1)] {
        let (mut client, stream) = connection().await;
        client.write_all(&hello[..sent]).await.unwrap();
        let turns = Turns::default();
        let accepted = serving(&ca).api().accept(stream, SECOND, turns.clone().take()).await;
        assert!(matches!(accepted, Err(HandshakeError::Timeout(_))));
        assert_eq!(turns.counts(), (taken, taken), "{sent} of {} bytes", hello.len());
    }
}

#[tokio::test]
async fn a_client_hello_that_waits_for_its_turn_is_let_go_in_time() {
    let ca = TestCa::new(&trust_domain());
    let (mut client, stream) = connection().await;
    client.write_all(&client_hello(&ca)).await.unwrap();
    let accepted = serving(&ca).api().accept(stream, SECOND / 10, std::future::pending::<()>()).await;
    assert!(matches!(accepted, Err(HandshakeError::Timeout(_))));
}

#[tokio::test]
async fn a_turn_is_over_before_the_lingering_begins() {
    let ca = TestCa::new(&trust_domain());
    let (client, stream) = connection().await;
    let (turns, acceptor) = (Turns::default(), serving(&ca).api());
    let taking = turns.clone().take();
    let accepting = tokio::spawn(async move { acceptor.accept(stream, 20 * SECOND, taking).await.map(drop) });
    let config = RawClient::presenting(ca.faulty(Fault::Expired, &subject("runner/prod-1"))).config(&ca);
    let name = ServerName::try_from("localhost").unwrap();
    // It does not close its side: the issuer lingers.
    let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, client).await.unwrap();
    assert!(stream.read_u8().await.is_err(), "the alert");
    tokio::task::yield_now().await;
    assert_eq!(turns.counts(), (1, 1));
    assert!(!accepting.is_finished());
    drop(stream);
    assert!(matches!(accepting.await.unwrap(), Err(HandshakeError::Client(_))));
}

#[tokio::test]
async fn an_admitted_client_has_given_its_turn_back() {
    let ca = TestCa::new(&trust_domain());
    let (client, stream) = connection().await;
    let (turns, acceptor) = (Turns::default(), serving(&ca).api());
    let taking = turns.clone().take();
    let accepting = tokio::spawn(async move { acceptor.accept(stream, 20 * SECOND, taking).await });
    let config = RawClient::presenting(ca.client(&subject("runner/prod-1"))).config(&ca);
    let name = ServerName::try_from("localhost").unwrap();
    let _client = tokio_rustls::TlsConnector::from(config).connect(name, client).await.unwrap();
    let _peer = accepting.await.unwrap().unwrap();
    assert_eq!(turns.counts(), (1, 1));
}

#[tokio::test]
async fn an_endless_client_hello_is_broken_off() {
    let ca = TestCa::new(&trust_domain());
    let (mut client, stream) = connection().await;
    // A handshake record, and in it a ClientHello that claims 40,000 bytes.
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0, 0x9c, 0x40];
    record.resize(5 + 0x4000, 0);
    client.write_all(&record).await.unwrap();
    let (turns, acceptor) = (Turns::default(), serving(&ca).enroll());
    let accepting = acceptor.accept(stream, 20 * SECOND, turns.clone().take());
    let reading = async {
        let mut answer = [0; 7];
        client.read_exact(&mut answer).await.unwrap();
        drop(client);
        answer
    };
    let (accepted, answer) = tokio::join!(accepting, reading);
    assert!(matches!(accepted, Err(HandshakeError::HelloTooLong)));
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50], "decode_error");
    assert_eq!(turns.counts(), (0, 0));
}
