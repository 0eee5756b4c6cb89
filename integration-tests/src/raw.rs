//! Peers that our own connector would never be: any certificate, any protocol, any method by its path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use data_encoding::{BASE64, BASE64_NOPAD};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use shorepass_core::caller::SpiffeId;
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_testing::certificates::{Pair, Subject, TestCa};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, Error, RootCertStore, ServerConfig, crypto::CryptoProvider, crypto::aws_lc_rs,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A TLS client that shows what it is told to, and checks the server by name as others do.
#[derive(Clone, Debug)]
pub struct RawClient {
    /// The CA that it trusts, PEM.
    pub ca_pem: String,
    /// Its certificate and key.
    pub pair: Option<Pair>,
    /// What it offers to speak (ALPN).
    pub protocols: Vec<&'static str>,
}

impl RawClient {
    /// One that offers HTTP/2.
    pub fn new(ca_pem: &str, pair: Option<Pair>) -> Self {
        Self { ca_pem: ca_pem.to_owned(), pair, protocols: vec!["h2"] }
    }

    /// The alert that it is refused with, by its number (RFC 8446, section 6).
    pub async fn alert(&self, address: SocketAddr) -> Result<u8> {
        let refused = match self.handshake(address).await {
            // With TLS 1.3 the client is done before the server has looked at its certificate.
            Ok(mut stream) => stream.read_u8().await.err(),
            Err(error) => Some(error),
        };
        let error = refused.context("it was let in")?;
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(Error::AlertReceived(alert)) => Ok((*alert).into()),
            _ => bail!("no alert, but {error:?}"),
        }
    }

    /// Calls a method by its path.
    pub async fn call(&self, address: SocketAddr, path: &str, message: &[u8]) -> Result<Answer> {
        call(self.handshake(address).await?, path, message).await
    }

    /// The certificate that the server shows, DER.
    pub async fn serving_certificate(&self, address: SocketAddr) -> Result<Vec<u8>> {
        let stream = self.handshake(address).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(certificates.first().context("the server showed no certificate")?.to_vec())
    }

    async fn handshake(&self, address: SocketAddr) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let config = self.config().map_err(io::Error::other)?;
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    fn config(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes())?)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.pair {
            Some(pair) => {
                let (chain, key) = parts(pair)?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// A server with this certificate that asks for none.
pub fn server_config(pair: &Pair, protocols: &[&str]) -> Result<Arc<ServerConfig>> {
    let (chain, key) = parts(pair)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server of that name with a CA of its own, and that CA's certificate, PEM.
pub fn self_made_server(name: &str) -> Result<(TlsAcceptor, String)> {
    let ca = TestCa::new(&TrustDomain::parse(&format!("{name}.test"))?);
    let now = SystemClock.now();
    let pair = ca.server(&Subject {
        spiffe_id: SpiffeId::parse(&format!("spiffe://{name}.test/issuer/{name}"))?,
        enrolment: EnrolmentId::generate(now, &SystemEntropy),
        now,
    });
    Ok((TlsAcceptor::from(server_config(&pair, &[])?), ca.certificate_pem().to_owned()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn parts(pair: &Pair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes());
    Ok((chain.collect::<Result<_, _>>()?, PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?))
}

/// The alert that a client of TLS 1.2 is refused with. Its hello is written by hand: our TLS library is built without
/// that version.
pub async fn alert_for_tls12(address: SocketAddr) -> Result<u8> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&tls12_hello()).await?;
    let mut record = [0; 7];
    stream.read_exact(&mut record).await.context("no record came back")?;
    // alert(21), a version, length 2; fatal(2), the description
    ensure!(record[0] == 21 && record[3..6] == [0, 2, 2], "no fatal alert, but {record:?}");
    Ok(record[6])
}

/// A ClientHello of TLS 1.2 (RFC 5246, section 7.4.1.2) that offers what servers of that version like.
fn tls12_hello() -> Vec<u8> {
    let extensions = [
        extension(10, &[0, 4, 0, 23, 0, 29]),     // groups: P-256, X25519
        extension(11, &[1, 0]),                   // uncompressed points
        extension(13, &[0, 6, 4, 3, 8, 4, 4, 1]), // ECDSA P-256, RSA-PSS, RSA, each with SHA-256
        extension(16, &[0, 3, 2, b'h', b'2']),    // h2
    ]
    .concat();
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM, ECDSA and RSA
    hello.extend([1, 0]); // no compression
    hello.extend(length(extensions.len()));
    hello.extend(extensions);
    let handshake = [&[1, 0][..], &length(hello.len()), &hello].concat();
    [&[22, 3, 1][..], &length(handshake.len()), &handshake].concat()
}

fn extension(number: u8, content: &[u8]) -> Vec<u8> {
    [&[0, number][..], &length(content.len()), content].concat()
}

fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// How a call was answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The gRPC code, as a number.
    pub code: u32,
    /// The reason of the ErrorInfo.
    pub reason: Option<String>,
    /// What was said.
    pub message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
}

/// Makes one call (gRPC over HTTP/2, PROTOCOL-HTTP2) and reads only how it went.
pub async fn call(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    message: &[u8],
) -> Result<Answer> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut body = vec![0];
    body.extend(u32::try_from(message.len())?.to_be_bytes());
    body.extend(message);
    let request = Request::post(format!("http://issuer{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let answer = match answer(&parts.headers)? {
        Some(answer) => answer,
        None => {
            let collected = body.collect().await?;
            let trailers = collected.trailers().context("an answer without trailers")?;
            answer(trailers)?.context("trailers without grpc-status")?
        }
    };
    drop(sender);
    connection.abort();
    Ok(answer)
}

fn answer(headers: &HeaderMap) -> Result<Option<Answer>> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status") else { return Ok(None) };
    let reason = match text("grpc-status-details-bin") {
        Some(details) => reason(details)?,
        None => None,
    };
    let message = text("grpc-message").unwrap_or_default().to_owned();
    Ok(Some(Answer { code: code.parse()?, reason, message }))
}

fn reason(details: &str) -> Result<Option<String>> {
    let bytes = BASE64_NOPAD.decode(details.as_bytes()).or_else(|_| BASE64.decode(details.as_bytes()))?;
    let status = RpcStatus::decode(bytes.as_slice())?;
    let info = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"));
    Ok(info.map(|any| ErrorInfo::decode(any.value.as_slice())).transpose()?.map(|info| info.reason))
}
