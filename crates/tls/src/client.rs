//! Connecting to the issuer.
//!
//! A connection is handed out only after the server's first byte (its HTTP/2 SETTINGS). With TLS 1.3 a client has
//! finished its handshake before the server has looked at its certificate; whoever writes at once meets a broken pipe
//! more often than the alert. Waiting costs nothing, because an HTTP/2 server speaks first, and makes every refusal
//! tell its reason. There is no switch that accepts a server without knowing it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::time::Clock;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::alert::Alert;
use crate::crypto::{self, Finding, WallTime};
use crate::identity::Identity;
use crate::issuer::{Anchor, IssuerVerifier, ServerRefusal};
use crate::stream::IssuerStream;

/// How long connecting may take, unless said otherwise: TCP, handshake and the server's first byte.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An HTTP/2 server begins with SETTINGS, which fit.
const FIRST_BYTES: usize = 256;
/// The type of the frame that ends an HTTP/2 connection.
const GOAWAY: u8 = 7;
/// Its error code for peers that ask for too much.
const ENHANCE_YOUR_CALM: [u8; 4] = 11_u32.to_be_bytes();

/// Connects to one issuer, whatever its address.
pub struct Connector {
    issuer: SpiffeId,
    access: Access,
    clock: Arc<dyn Clock>,
    deadline: Duration,
}

enum Access {
    /// With an identity, to the `api` listener.
    Api(Arc<CurrentIdentity>),
    /// With nothing but a join token, to the `enroll` listener.
    Enroll(Digest),
    /// With a bundle and no certificate, to the `enroll` listener.
    Rejoin(Arc<RootCertStore>),
}

/// The identity that the next connection uses; connectors share it with whoever renews it.
pub struct CurrentIdentity(ArcSwap<Held>);

impl CurrentIdentity {
    /// Begins with this one.
    pub fn new(identity: &Identity) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Held::of(identity))))
    }

    /// From the next connection on, this one is used; live connections keep what they began with.
    pub fn swap(&self, identity: &Identity) {
        self.0.store(Arc::new(Held::of(identity)));
    }
}

/// What a connection takes from an identity.
struct Held {
    resolver: Arc<SingleCertAndKey>,
    anchors: Arc<RootCertStore>,
}

impl Held {
    fn of(identity: &Identity) -> Self {
        Self { resolver: Arc::clone(&identity.resolver), anchors: Arc::clone(&identity.anchors) }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error(
        "cannot reach the issuer at {address}; check the address, and that the issuer runs and listens there"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server refused us.
    #[error("the issuer at {address} refused the connection with the TLS alert {alert}: {}", alert.meaning())]
    Refused {
        /// Where.
        address: String,
        /// What it said.
        alert: Alert,
    },
    /// The server is not the issuer that was expected.
    #[error(
        "the server at {address} is not {expected}; nothing was sent to it; check the address and the issuer's name"
    )]
    NotTheIssuer {
        /// Where.
        address: String,
        /// Who should be there.
        expected: SpiffeId,
        /// What it is instead.
        source: ServerRefusal,
    },
    /// The join token is for another CA.
    #[error(
        "the server at {address} does not have the CA that the join token names; nothing was sent to it; check the address, or get a join token of this issuer"
    )]
    OtherAuthority {
        /// Where.
        address: String,
        /// SHA-256 of the public key of the CA that was expected.
        ca: Digest,
    },
    /// It took too long.
    #[error("the issuer at {address} did not answer within {} ms", after.as_millis())]
    Timeout {
        /// Where.
        address: String,
        /// The deadline.
        after: Duration,
    },
    /// The issuer takes no more of ours.
    #[error(
        "the issuer at {address} has enough open connections of this identity; try again when some of them have ended"
    )]
    TooMany {
        /// Where.
        address: String,
    },
    /// The server hung up before its first byte.
    #[error(
        "the server at {address} closed the connection at once: it may have too many connections from here, or be \
         stopping; try again, and if it stays so, check the address and the port"
    )]
    Closed {
        /// Where.
        address: String,
    },
    /// The connection broke, or the server does not speak TLS as we do.
    #[error(
        "the server at {address} broke off or does not speak TLS 1.3 with HTTP/2; check the address and the port"
    )]
    Broken {
        /// Where.
        address: String,
        /// What happened.
        source: io::Error,
    },
}

impl Connector {
    /// For the `api` listener of this issuer, with the identity's certificate and bundle.
    pub fn api(identity: Arc<CurrentIdentity>, issuer: SpiffeId, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, access: Access::Api(identity), clock, deadline: CONNECT_DEADLINE }
    }

    /// For the `enroll` listener of this issuer, known by the CA that the join token names.
    pub fn enroll(ca: Digest, issuer: SpiffeId, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, access: Access::Enroll(ca), clock, deadline: CONNECT_DEADLINE }
    }

    /// For the `enroll` listener of this issuer, known by the bundle of an identity whose certificate is not shown.
    pub fn rejoin(identity: &Identity, issuer: SpiffeId, clock: Arc<dyn Clock>) -> Self {
        let access = Access::Rejoin(Arc::clone(&identity.anchors));
        Self { issuer, access, clock, deadline: CONNECT_DEADLINE }
    }

    /// With another deadline than [`CONNECT_DEADLINE`].
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Connects to `host:port` and waits for the server's first byte.
    pub async fn connect(&self, address: &str) -> Result<IssuerStream, ConnectError> {
        match timeout(self.deadline, self.attempt(address)).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectError::Timeout { address: address.to_owned(), after: self.deadline }),
        }
    }

    async fn attempt(&self, address: &str) -> Result<IssuerStream, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { address: address.to_owned(), source };
        let name = server_name(address).map_err(unreachable)?;
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let (config, finding) = self.config();
        let describe = |error| self.describe(address, error, finding.take());
        let mut stream = TlsConnector::from(config).connect(name, stream).await.map_err(describe)?;
        let mut first = vec![0; FIRST_BYTES];
        let read = stream.read(&mut first).await.map_err(describe)?;
        if read == 0 {
            return Err(describe(io::ErrorKind::UnexpectedEof.into()));
        }
        first.truncate(read);
        if too_many(&first) {
            return Err(ConnectError::TooMany { address: address.to_owned() });
        }
        Ok(IssuerStream::new(first, stream))
    }

    fn config(&self) -> (Arc<ClientConfig>, Finding<ServerRefusal>) {
        let finding = Finding::new();
        let (anchor, certificate) = match &self.access {
            Access::Api(identity) => {
                let held = identity.0.load();
                (Anchor::Bundle(Arc::clone(&held.anchors)), Some(Arc::clone(&held.resolver)))
            }
            Access::Enroll(ca) => (Anchor::Key(*ca), None),
            Access::Rejoin(anchors) => (Anchor::Bundle(Arc::clone(anchors)), None),
        };
        let verifier = IssuerVerifier { expected: self.issuer.clone(), anchor, finding: finding.handle() };
        let time = Arc::new(WallTime(Arc::clone(&self.clock)));
        let builder = ClientConfig::builder_with_details(crypto::provider(), time)
            .with_protocol_versions(crypto::VERSIONS)
            .expect("the provider speaks TLS 1.3")
            // rustls calls every verifier of one's own dangerous; this one demands more than the built-in one.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match certificate {
            Some(certificate) => builder.with_client_cert_resolver(certificate),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![crypto::PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        (Arc::new(config), finding)
    }

    fn describe(&self, address: &str, error: io::Error, refusal: Option<ServerRefusal>) -> ConnectError {
        let address = address.to_owned();
        match refusal {
            Some(ServerRefusal::OtherAuthority(ca)) => ConnectError::OtherAuthority { address, ca },
            Some(source @ (ServerRefusal::Chain(_) | ServerRefusal::Leaf(_) | ServerRefusal::OtherId(_))) => {
                ConnectError::NotTheIssuer { address, expected: self.issuer.clone(), source }
            }
            None => match crypto::tls_error(&error) {
                Some(rustls::Error::AlertReceived(alert)) => {
                    ConnectError::Refused { address, alert: Alert::new(*alert) }
                }
                None if hung_up(&error) => ConnectError::Closed { address },
                Some(_) | None => ConnectError::Broken { address, source: error },
            },
        }
    }
}

/// Whether the server's first frames say that it has enough connections of this peer: GOAWAY with ENHANCE_YOUR_CALM (RFC 9113).
fn too_many(mut frames: &[u8]) -> bool {
    while let Some((header, rest)) = frames.split_first_chunk::<9>() {
        let [high, middle, low, kind, ..] = *header;
        if kind == GOAWAY {
            return rest.get(4..8) == Some(&ENHANCE_YOUR_CALM);
        }
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        frames = rest.get(length..).unwrap_or_default();
    }
    false
}

fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

/// The host of `host:port`, which is sent in the clear for balancers that route by it and proves nothing.
fn server_name(address: &str) -> Result<ServerName<'static>, io::Error> {
    let malformed =
        || io::Error::new(io::ErrorKind::InvalidInput, "the address is not of the form host:port");
    let (host, _) = address.rsplit_once(':').ok_or_else(malformed)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned()).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_goaway_of_its_kind_says_that_there_are_too_many() {
        let settings = [[0_u8, 0, 6, 4, 0, 0, 0, 0, 0].as_slice(), &[0, 3, 0, 0, 0, 64]].concat();
        let goaway =
            |code| [[0_u8, 0, 8, 7, 0, 0, 0, 0, 0].as_slice(), &[0, 0, 0, 0, 0, 0, 0, code]].concat();
        assert!(too_many(&[settings.clone(), goaway(11)].concat()) && too_many(&goaway(11)));
        let cut = goaway(11)[..16].to_vec();
        for other in [settings.clone(), [settings, goaway(0)].concat(), cut, b"hello".to_vec(), vec![]] {
            assert!(!too_many(&other), "{other:?}");
        }
        assert!(!too_many(&[0xff; 256]));
    }

    #[test]
    fn hosts_are_names_and_addresses() {
        for (address, host) in [
            ("issuer.example.org:8443", "issuer.example.org"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:1", "::1"),
        ] {
            assert_eq!(server_name(address).unwrap().to_str(), host);
        }
        for bad in ["issuer.example.org", "", ":1", "a b:1", "https://issuer:1"] {
            assert!(server_name(bad).is_err(), "{bad:?}");
        }
    }
}
