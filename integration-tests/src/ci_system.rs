//! A CI system that gives its jobs tokens: discovery document and keys over HTTPS on loopback, and a key to sign with.
//!
//! It is called `gitlab` or whatever the test says, and says in its tokens what the test wants, true or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use shorepass_testing::jwt::SigningKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::raw;

/// The audience of its tokens, where a scenario does not say otherwise.
pub const AUDIENCE: &str = "https://shorepass.test/jobs";

/// It serves until this is dropped.
pub struct CiSystem {
    name: &'static str,
    url: String,
    key: SigningKey,
    ca: PathBuf,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    url: String,
    keys: String,
    down: AtomicBool,
    asked: AtomicUsize,
}

impl CiSystem {
    /// Starts one of that name; the CA to trust for it is written into the folder.
    pub async fn start(name: &'static str, folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://localhost:{}", listener.local_addr()?.port());
        let (acceptor, ca_pem) = raw::self_made_server(name)?;
        let ca = folder.join(format!("{name}-ca.pem"));
        std::fs::write(&ca, ca_pem)?;
        let key = SigningKey::generate("one");
        let keys = json!({"keys": [key.jwk()]}).to_string();
        let (down, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        let state = Arc::new(State { url: url.clone(), keys, down, asked });
        let task = tokio::spawn(accept(listener, acceptor, state.clone()));
        Ok(Self { name, url, key, ca, state, task })
    }

    /// Its item of `spec.jobIssuers`, with what the test says of system and runner.
    pub fn document(&self, system_and_runner: &str) -> String {
        let Self { name, url, ca, .. } = self;
        format!(
            "    - {{name: {name}, url: \"{url}\", audience: \"{AUDIENCE}\", caFile: {}, {system_and_runner}}}\n",
            ca.display()
        )
    }

    /// A token of a job, made now and good for five minutes, with these claims beside or in place of the usual ones.
    pub fn token(&self, claims: Value) -> Result<String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let usual = json!({
            "iss": self.url,
            "aud": AUDIENCE,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": crate::client::new_id(),
        });
        Ok(self.key.sign(&merged(usual, claims)?))
    }

    /// A token of GitLab for a job of project 4711 on its protected branch `main`, with these claims in place of others.
    pub fn gitlab_token(&self, claims: Value) -> Result<String> {
        self.token(merged(gitlab_claims(), claims)?)
    }

    /// The same without a claim.
    pub fn gitlab_token_without(&self, claim: &str) -> Result<String> {
        let mut all = gitlab_claims();
        all.as_object_mut().context("claims are an object")?.remove(claim).context("it has no such claim")?;
        self.token(all)
    }

    /// Whether it answers from now on.
    pub fn be_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// How often it was asked for anything.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }
}

/// What GitLab says of a job (its documentation: ID token authentication, token payload).
fn gitlab_claims() -> Value {
    json!({
        "sub": "project_path:group/app:ref_type:branch:ref:main",
        "namespace_id": "72",
        "namespace_path": "group",
        "project_id": "4711",
        "project_path": "group/app",
        "user_id": "1",
        "user_login": "alice",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
    })
}

/// The first, with what is in the second beside or in place of it.
fn merged(mut claims: Value, others: Value) -> Result<Value> {
    let all = claims.as_object_mut().context("claims are an object")?;
    for (name, value) in others.as_object().context("claims are an object")? {
        all.insert(name.clone(), value.clone());
    }
    Ok(claims)
}

impl Drop for CiSystem {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new(); // they end with the system
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, acceptor.clone(), state.clone()));
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { answer(&request, &state) }
    });
    // A client that hangs up is no news.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>> {
    state.asked.fetch_add(1, Ordering::SeqCst);
    let (status, body) = match request.uri().path() {
        _ if state.down.load(Ordering::SeqCst) => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        "/.well-known/openid-configuration" => {
            let keys = format!("{}/keys", state.url);
            (StatusCode::OK, json!({"issuer": state.url, "jwks_uri": keys}).to_string())
        }
        "/keys" => (StatusCode::OK, state.keys.clone()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
