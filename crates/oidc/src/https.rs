//! A client that fetches small documents over TLS, and nothing else.
//!
//! One request for each connection, HTTP/1.1, a deadline over all of it, a bounded body. Redirects are not followed: who
//! answers for an issuer would otherwise choose which host inside the network is asked.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The longest document, in bytes.
pub(crate) const BODY_LIMIT: usize = 256 * 1024;
/// The most that is read at once, and so the longest head of an answer, in bytes.
const HEAD_LIMIT: usize = 32 * 1024;
/// What is read. An API server of Kubernetes sends its keys as a key set (RFC 7517, 8.5) and to nobody who does not ask for one.
const ACCEPTED: &str = "application/json, application/jwk-set+json";
/// The longest that one takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// Where a document is; always over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    host: String,
    port: u16,
    path: String,
}

impl Place {
    /// Reads the URL of a document.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let refused = |what: &str| format!("{} {what}", crate::error::shown(url));
        let uri: Uri = url.parse().map_err(|_| refused("is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(refused("does not begin with https://"));
        }
        let authority = uri.authority().ok_or_else(|| refused("names no host"))?;
        if authority.as_str().contains('@') || url.contains('#') {
            return Err(refused("has a user or a fragment"));
        }
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port: authority.port_u16().unwrap_or(443),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Fetches documents from servers that one set of authorities vouches for.
pub(crate) struct Client {
    tls: TlsConnector,
    deadline: Duration,
}

/// What is wrong with the certificates to trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// The PEM cannot be read.
    #[error("these are no certificates in PEM")]
    Pem,
    /// There are none.
    #[error("there are no certificates to trust")]
    None,
}

impl Client {
    /// Trusts these authorities, or without any those that the system trusts.
    pub(crate) fn new(ca_pem: Option<&[u8]>, deadline: Duration) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|_| RootsError::Pem)?;
                    roots.add(certificate).map_err(|_| RootsError::Pem)?;
                }
            }
            // Some of those that a system has may not be readable; the others do.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(RootsError::None);
        }
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), deadline })
    }

    /// Fetches a document.
    pub(crate) async fn get(&self, place: &Place) -> Result<Bytes, String> {
        let seconds = self.deadline.as_secs_f32();
        match tokio::time::timeout(self.deadline, self.fetch(place)).await {
            Ok(answer) => {
                answer.map_err(|what| format!("https://{}{}: {what}", place.authority(), place.path))
            }
            Err(_) => {
                Err(format!("https://{}{}: no answer within {seconds} s", place.authority(), place.path))
            }
        }
    }

    async fn fetch(&self, place: &Place) -> Result<Bytes, String> {
        let stream = self.connect(place).await?;
        let handshake = http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let request = Request::get(place.path.as_str())
            .header(HOST, place.authority())
            .header(ACCEPT, ACCEPTED)
            .header(USER_AGENT, concat!("shorepass/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            match answer.status() {
                StatusCode::OK => body(answer.into_body()).await,
                status if status.is_redirection() => Err(format!("{status}: redirects are not followed")),
                status => Err(status.to_string()),
            }
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            // What has arrived can still be read.
            _ = connection => exchange.await,
        }
    }

    async fn connect(&self, place: &Place) -> Result<TlsStream<TcpStream>, String> {
        let host = place.host.trim_start_matches('[').trim_end_matches(']');
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| "its host is no name or address".to_owned())?;
        let stream = TcpStream::connect((host, place.port)).await.map_err(|error| error.to_string())?;
        self.tls.connect(name, stream).await.map_err(|error| error.to_string())
    }
}

async fn body(body: Incoming) -> Result<Bytes, String> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(format!("the answer is longer than {BODY_LIMIT} bytes"))
        }
        Err(error) => Err(error.to_string()),
    }
}
