//! A small issuer of OIDC tokens: it serves a discovery document and keys over TLS, signs what a test asks for, and misbehaves
//! on demand.
//!
//! It shares no code with the crate that verifies tokens. Headers and payloads are signed as they are given, so that a test
//! can spell them in ways that no JSON library would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::certificates::Pair;

/// Where the discovery document is.
pub const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where the keys are.
pub const KEYS: &str = "/keys";

/// A key that signs tokens.
pub struct SigningKey {
    kid: String,
    pair: Pairs,
}

enum Pairs {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// A P-256 key.
    pub fn p256(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        Self { kid: kid.to_owned(), pair: Pairs::P256(pair) }
    }

    /// An Ed25519 key.
    pub fn ed25519(kid: &str) -> Self {
        Self {
            kid: kid.to_owned(),
            pair: Pairs::Ed25519(Ed25519KeyPair::generate().expect("an Ed25519 key")),
        }
    }

    /// An RSA key of 2048 bits. It takes a while.
    pub fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
        Self { kid: kid.to_owned(), pair: Pairs::Rsa(pair) }
    }

    /// What it is called.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm that it signs with.
    pub fn alg(&self) -> &'static str {
        match &self.pair {
            Pairs::P256(_) => "ES256",
            Pairs::Ed25519(_) => "EdDSA",
            Pairs::Rsa(_) => "RS256",
        }
    }

    /// Its public half: a point, or the DER of an RSA key.
    pub fn public_bytes(&self) -> &[u8] {
        match &self.pair {
            Pairs::P256(pair) => pair.public_key().as_ref(),
            Pairs::Ed25519(pair) => pair.public_key().as_ref(),
            Pairs::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// Its public half, as a key set has it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pairs::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
            Pairs::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key().as_ref())})
            }
            Pairs::Rsa(pair) => {
                let public: RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                json!({"kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e)})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token of these claims with an ordinary header.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": self.alg(), "kid": self.kid, "typ": "JWT"}).to_string(), &claims.to_string())
    }

    /// A token of this header and payload, as they are spelt.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
        let signature = self.signature(signed.as_bytes());
        format!("{signed}.{}", encoded(&signature))
    }

    fn signature(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pairs::P256(pair) => pair.sign(&random, signed).expect("a signature").as_ref().to_vec(),
            Pairs::Ed25519(pair) => pair.sign(signed).as_ref().to_vec(),
            Pairs::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).expect("a signature");
                signature
            }
        }
    }
}

/// A token of this header and payload, authenticated with a secret: what a forger makes who uses a public key as one.
pub fn sign_with_secret(secret: &[u8], header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = encoded(hmac::sign(&key, signed.as_bytes()).as_ref());
    format!("{signed}.{signature}")
}

/// base64url without padding, as tokens have it.
pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

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
