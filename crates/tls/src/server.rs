//! The two listeners' handshakes: `api` demands a client certificate, `enroll` asks for none.
//!
//! TLS 1.3 and HTTP/2 only; no tickets, no session storage, no early data: a resumed session would skip the check of
//! the chain. A configuration is made for each connection (it is a few pointers), which makes swapping the identity or
//! the bundle a matter of the next handshake; live connections keep what they began with.
//!
//! How many handshakes are worked on at once is the caller's business: it passes a future that gives a turn. The turn is
//! asked for when the whole ClientHello is there and given back before we linger, because a peer that makes us wait
//! costs a socket, and would cost everybody else their turns.
//!
//! What a refused client sees is one alert (RFC 8446, section 6.2):
//!
//! | what is wrong | alert |
//! | --- | --- |
//! | TLS 1.2 or older | protocol_version |
//! | no end of the ClientHello in sight | decode_error |
//! | no ALPN, or none with h2 | no_application_protocol |
//! | no client certificate on `api` | certificate_required |
//! | expired, not yet valid | certificate_expired |
//! | signed by another CA, self-signed | unknown_ca |
//! | a CA's certificate used as a client's | certificate_unknown |
//! | not for clients, or for more than clients | unsupported_certificate |
//! | no SPIFFE ID, two, one not of our form, other names, no enrolment | bad_certificate |
//! | another trust domain, an issuer's, not what its trust bundle is for | access_denied |
//! | handshake signed by another key than the certificate's | decrypt_error |

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoServerSessionStorage, WebPkiClientVerifier};
use shorepass_core::caller::Caller;
use shorepass_core::time::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Join, Take};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::alert::Alert;
use crate::crypto::{self, WallTime};
use crate::peer::ClientRefusal;
use crate::serving::ServingIdentity;
use crate::stream::PeerStream;
use crate::trust::Trust;

/// The most that is read for a ClientHello; those with post-quantum key shares have about 2 KiB.
const HELLO_BYTES: u64 = 16 * 1024;
/// How long the rest of a refused client's bytes is read, so that the alert is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
/// And how many of them.
const LINGER_BYTES: u64 = 64 * 1024;

/// What both listeners serve with; it can be swapped while they run.
pub struct Serving {
    identity: ArcSwap<ServingIdentity>,
    trust: Arc<Trust>,
    clock: Arc<dyn Clock>,
}

/// Why a handshake failed. Nothing in it is secret.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It was not over in time.
    #[error("the TLS handshake was not over after {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The client's first message does not end.
    #[error("the ClientHello is longer than {HELLO_BYTES} bytes")]
    HelloTooLong,
    /// The client does not offer HTTP/2.
    #[error("the client does not offer HTTP/2 (ALPN h2)")]
    Protocol,
    /// The client's certificate was refused.
    #[error("the client was refused")]
    Client(#[source] ClientRefusal),
    /// The client refused us.
    #[error("the client broke off with the TLS alert {0}")]
    Alert(Alert),
    /// The client does not speak TLS as we do.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The connection broke.
    #[error("the connection ended during the TLS handshake")]
    Connection(#[source] io::Error),
}

impl Serving {
    /// Serves with this identity, and lets in clients by this trust.
    pub fn new(identity: ServingIdentity, trust: Arc<Trust>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { identity: ArcSwap::from_pointee(identity), trust, clock })
    }

    /// From the next handshake on, serves with this identity.
    pub fn swap_identity(&self, identity: ServingIdentity) {
        self.identity.store(Arc::new(identity));
    }

    /// What it serves with now.
    pub fn identity(&self) -> Arc<ServingIdentity> {
        self.identity.load_full()
    }

    /// For the listener that demands a client certificate.
    pub fn api(self: &Arc<Self>) -> ApiAcceptor {
        ApiAcceptor(Arc::clone(self))
    }

    /// For the listener that asks for none.
    pub fn enroll(self: &Arc<Self>) -> EnrollAcceptor {
        EnrollAcceptor(Arc::clone(self))
    }

    fn config(&self, clients: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
        let time = Arc::new(WallTime(Arc::clone(&self.clock)));
        let identity = self.identity.load();
        let mut config = ServerConfig::builder_with_details(crypto::provider(), time)
            .with_protocol_versions(crypto::VERSIONS)
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&identity.resolver) as _);
        config.alpn_protocols = vec![crypto::PROTOCOL.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Arc::new(config)
    }
}

/// The handshake of the `api` listener.
#[derive(Clone)]
pub struct ApiAcceptor(Arc<Serving>);

impl ApiAcceptor {
    /// Makes a caller of a connection, or refuses it with an alert, before the deadline is over.
    ///
    /// What `turn` gives is held from the whole ClientHello to the end of the handshake.
    pub async fn accept<G>(
        &self,
        stream: TcpStream,
        deadline: Duration,
        turn: impl Future<Output = G>,
    ) -> Result<(PeerStream, Caller), HandshakeError> {
        let serving = &self.0;
        let (verifier, finding) = serving.trust.verifier();
        let shaken = handshake(stream, serving.config(verifier), deadline, turn).await;
        match (shaken, finding.take()) {
            (Ok(stream), Some(Ok(peer))) => Ok((PeerStream::new(stream), Caller::from_verified_peer(peer))),
            (Ok(_), None) => Err(HandshakeError::Client(ClientRefusal::Missing)),
            (_, Some(Err(refusal))) => Err(HandshakeError::Client(refusal)),
            (Err(error), Some(Ok(_)) | None) => Err(error),
        }
    }
}

/// The handshake of the `enroll` listener.
#[derive(Clone)]
pub struct EnrollAcceptor(Arc<Serving>);

impl EnrollAcceptor {
    /// Lets anybody in who speaks TLS as we do, before the deadline is over.
    ///
    /// What `turn` gives is held from the whole ClientHello to the end of the handshake.
    pub async fn accept<G>(
        &self,
        stream: TcpStream,
        deadline: Duration,
        turn: impl Future<Output = G>,
    ) -> Result<PeerStream, HandshakeError> {
        let config = self.0.config(WebPkiClientVerifier::no_client_auth());
        handshake(stream, config, deadline, turn).await.map(PeerStream::new)
    }
}

/// A failed handshake, and the connection where it can still be closed in an orderly way.
type Failed = (HandshakeError, Option<TcpStream>);

async fn handshake<G>(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    deadline: Duration,
    turn: impl Future<Output = G>,
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let end = Instant::now() + deadline;
    let negotiated = timeout_at(end, async {
        let start = hello(stream).await?;
        let _turn = turn.await;
        finish(start, config).await
    });
    match negotiated.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, None))) => Err(error),
        Ok(Err((error, Some(stream)))) => {
            let lingered = timeout_at(end.min(Instant::now() + LINGER), linger(stream)).await;
            // Nothing is lost when it does not end well: the reason is known, the client is gone or slow.
            drop(lingered);
            Err(error)
        }
        Err(_) => Err(HandshakeError::Timeout(deadline)),
    }
}

/// Reads the whole ClientHello, and no more than a bounded part of anything else.
async fn hello(stream: TcpStream) -> Result<StartHandshake<TcpStream>, Failed> {
    let (reader, writer) = stream.into_split();
    let bounded = tokio::io::join(reader.take(HELLO_BYTES), writer);
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), bounded);
    let start = match (&mut acceptor).await {
        Ok(start) => StartHandshake::from_parts(start.accepted, whole(start.io)),
        Err(error) => match acceptor.take_io() {
            Some(io) if io.reader().limit() == 0 => {
                return Err(break_off(whole(io), DECODE_ERROR, HandshakeError::HelloTooLong).await);
            }
            io => return Err((describe(error), io.map(whole))),
        },
    };
    // rustls refuses a client that offers other protocols, but lets one in that offers none at all.
    let offered =
        start.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == crypto::PROTOCOL));
    if !offered {
        return Err(break_off(start.io, NO_APPLICATION_PROTOCOL, HandshakeError::Protocol).await);
    }
    Ok(start)
}

fn whole(halves: Join<Take<OwnedReadHalf>, OwnedWriteHalf>) -> TcpStream {
    let (reader, writer) = halves.into_inner();
    reader.into_inner().reunite(writer).expect("both are halves of the one stream that was split")
}

async fn finish(
    start: StartHandshake<TcpStream>,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<TcpStream>, Failed> {
    match start.into_stream(config).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => Err((describe(error), Some(stream))),
    }
}

const DECODE_ERROR: u8 = 50;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Sends a fatal alert, in the clear as before any ServerHello (RFC 8446, sections 5.1 and 6).
async fn break_off(mut stream: TcpStream, alert: u8, error: HandshakeError) -> Failed {
    let sent = stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
    (error, sent.is_ok().then_some(stream))
}

fn describe(error: io::Error) -> HandshakeError {
    match crypto::tls_error(&error) {
        Some(rustls::Error::AlertReceived(alert)) => HandshakeError::Alert(Alert::new(*alert)),
        Some(rustls::Error::NoCertificatesPresented) => HandshakeError::Client(ClientRefusal::Missing),
        Some(_) => HandshakeError::Tls(error),
        None => HandshakeError::Connection(error),
    }
}

/// Ends our side and reads what the client still sends. Bytes that arrive at a closed socket are answered with a
/// reset, and a client that writes before it reads would report that instead of the alert.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use shorepass_testing::certificates::TestCa;

    use super::*;
    use crate::fixture::{StoppedClock, issuer, subject, trust_domain};
    use crate::key::PrivateKey;

    #[test]
    fn the_limits_of_a_handshake_do_not_change_by_themselves() {
        let ca = TestCa::new(&trust_domain());
        let pair = ca.server(&shorepass_testing::certificates::Subject { spiffe_id: issuer(), ..subject() });
        let key = PrivateKey::parse(pair.key_pem.as_bytes()).unwrap();
        let identity = ServingIdentity::new(&key, pair.certificate_pem.as_bytes()).unwrap();
        let bundle = ca.certificate_pem().as_bytes();
        let trust = Trust::new(trust_domain(), bundle, Vec::new()).unwrap();
        let serving = Serving::new(identity, trust, Arc::new(StoppedClock));
        let config = serving.config(WebPkiClientVerifier::no_client_auth());
        assert_eq!(config.alpn_protocols, [b"h2"]);
        assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
        assert!(!config.session_storage.can_cache() && !config.ticketer.enabled());
        assert!(!config.send_half_rtt_data && !config.enable_secret_extraction);
    }
}
