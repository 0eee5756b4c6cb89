//! A small issuer of OIDC tokens: it serves a discovery document and keys over TLS, and misbehaves on demand.
//!
//! It shares no code with the crate that verifies tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::certificates::Pair;
use crate::jwt::SigningKey;

/// Where the discovery document is.
pub const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where the keys are.
pub const KEYS: &str = "/keys";

/// A key set.
pub fn key_set(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()})
}

/// What it answers to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 with this body.
    Body(String),
    /// Another status, with no body.
    Status(u16),
    /// 302 to there.
    Redirect(String),
    /// 200, and then a body without an end.
    Endless,
    /// Nothing for so long, and then the body.
    Late(Duration, String),
    /// The connection is closed in the middle of the body.
    CutShort(String),
}

/// An issuer on loopback.
pub struct TestIssuer {
    url: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Answer>,
    requests: BTreeMap<String, usize>,
}

impl TestIssuer {
    /// Listens with that serving certificate, which must name `localhost`, and has no keys yet.
    pub async fn start(serving: &Pair) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port on loopback");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = acceptor(serving);
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        // A client that goes away in the middle is what some tests are about.
                        let _ = serve(&mut stream, &state).await;
                    }
                });
            }
        });
        let issuer = Self { url: format!("https://localhost:{port}"), state, task };
        issuer.answer(DISCOVERY, Answer::Body(issuer.discovery().to_string()));
        issuer.answer(KEYS, Answer::Body(key_set(&[]).to_string()));
        issuer
    }

    /// The `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its honest discovery document.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.url,
            "jwks_uri": format!("{}{KEYS}", self.url),
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
        })
    }

    /// Serves these keys from now on.
    pub fn serve_keys(&self, keys: &[&SigningKey]) {
        self.answer(KEYS, Answer::Body(key_set(keys).to_string()));
    }

    /// What a path answers from now on.
    pub fn answer(&self, path: &str, answer: Answer) {
        self.state().answers.insert(path.to_owned(), answer);
    }

    /// How often a path was asked for.
    pub fn requests(&self, path: &str) -> usize {
        self.state().requests.get(path).copied().unwrap_or_default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(serving: &Pair) -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(serving.certificate_pem.as_bytes());
    let chain: Vec<_> = chain.collect::<Result<_, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key is the certificate's");
    TlsAcceptor::from(Arc::new(config))
}

/// Reads one request and answers it.
async fn serve(
    stream: &mut tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8 * 1024 {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.requests.entry(path.clone()).or_default() += 1;
        state.answers.get(&path).cloned().unwrap_or(Answer::Status(404))
    };
    let (head, body) = match answer {
        Answer::Body(body) => (sized("200 OK", body.len()), body),
        Answer::Status(status) => (sized(&format!("{status} X"), 0), String::new()),
        Answer::Redirect(to) => {
            (format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"), String::new())
        }
        Answer::Late(time, body) => {
            tokio::time::sleep(time).await;
            (sized("200 OK", body.len()), body)
        }
        Answer::CutShort(body) => (sized("200 OK", body.len() + 100), body),
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
    };
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn sized(status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    )
}
