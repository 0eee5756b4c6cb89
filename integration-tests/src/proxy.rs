//! A proxy in front of the API server: sees every token that passes, and does to requests what networks and broken API
//! servers do.
//!
//! It forwards `Authorization` as it comes and adds no right of its own. Only the issuer under test goes through it;
//! jobs and the tests' administrator talk to the API server.

mod body;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::config::{AuthInfo, Kubeconfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use self::body::AnswerBody;
use crate::admin::write_private;
use crate::raw;
use crate::site::Site;

/// Requests that a fault may befall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All.
    Everything,
    /// TokenRequests.
    Tokens,
    /// TokenRequests whose token leaves the issuer: not those whose token only asks about rights.
    TokensToHandOut,
    /// Creation of anchors; the probe for the admission policy is none.
    Anchors,
    /// Creation of the ServiceAccounts of strict leases.
    Accounts,
    /// Creation of RoleBindings; the probe for the admission policy is none.
    Bindings,
    /// Deletion of anchors.
    Cuts,
    /// What a new lease's rights are asked with.
    Rights,
    /// Questions of tokens about themselves.
    Reviews,
    /// The question who the API servers are.
    Servers,
}

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// It is answered in the API server's place.
    Answer(Answer),
    /// It is answered in the API server's place, by something that is none.
    Say(u16, &'static str),
    /// It is never answered.
    Hang,
    /// It is done, and answered later.
    Delay(Duration),
    /// It is done, and its answer comes one byte after the other.
    Drip,
    /// It is done, and the connection breaks in the middle of its answer.
    Truncate,
    /// Its answer never ends.
    Flood,
    /// It is done, and the connection breaks before the answer.
    LoseReply,
    /// It is not done, and told as done: the delete of an object of the core group.
    Ignore,
    /// It is done, and its answer is another one.
    Change(Arc<dyn Fn(&mut Value) + Send + Sync>),
}

/// A refusal in the API server's form.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `reason` of the Status.
    pub reason: &'static str,
    /// `message` of the Status.
    pub message: &'static str,
    /// Seconds, as the header says it.
    pub retry_after: Option<u32>,
}

impl Fault {
    /// A changed answer.
    pub fn change(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Change(Arc::new(change))
    }
}

/// A request that passed or was to pass.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its method.
    pub method: Method,
    /// Its path with its query.
    pub path: String,
    /// Its `User-Agent`.
    pub user_agent: String,
    /// How it was answered; none if it was not.
    pub status: Option<StatusCode>,
}

/// A running proxy; it ends when this is dropped.
pub struct Proxy {
    address: SocketAddr,
    kubeconfig: PathBuf,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: kube::Client,
    closed: AtomicBool,
    faults: Mutex<Vec<(u64, Target, Fault)>>,
    seen: Mutex<Vec<Seen>>,
    jwts: Mutex<BTreeSet<String>>,
    flooded: Arc<AtomicU64>,
}

/// While it lives, the fault is there.
#[must_use]
pub struct Faulty<'a> {
    proxy: &'a Proxy,
    number: u64,
}

impl Proxy {
    /// In front of the site's API server, with a kubeconfig for the site's issuer.
    pub async fn start(site: &Site) -> Result<Self> {
        let token = site.identity.token().await?;
        Self::start_for(site, site.identity.folder(), &token).await
    }

    /// The same, with a kubeconfig for whoever has this token.
    pub async fn start_for(site: &Site, folder: &Path, token: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (acceptor, ca) = raw::self_made_server("proxy")?;
        let authority = folder.join(format!("proxy-{}.pem", address.port()));
        // Who goes through it may also reach API servers themselves.
        let cluster = std::fs::read_to_string(site.authority()?)?;
        std::fs::write(&authority, format!("{ca}{cluster}"))?;
        let kubeconfig = folder.join(format!("proxy-{}.kubeconfig", address.port()));
        write_private(&kubeconfig, &kubeconfig_text(address, &authority, token, site.identity.context))?;
        let shared = Arc::new(Shared {
            upstream: upstream(&site.admin.environment.kubeconfig).await?,
            closed: AtomicBool::new(false),
            faults: Mutex::default(),
            seen: Mutex::default(),
            jwts: Mutex::default(),
            flooded: Arc::default(),
        });
        let task = tokio::spawn(accept(listener, acceptor, shared.clone()));
        Ok(Self { address, kubeconfig, shared, task })
    }

    /// The kubeconfig that leads through it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on these requests have this fault.
    pub fn fault(&self, target: Target, fault: Fault) -> Faulty<'_> {
        let mut faults = lock(&self.shared.faults);
        let number = faults.last().map_or(1, |(number, ..)| number + 1);
        faults.push((number, target, fault));
        Faulty { proxy: self, number }
    }

    /// Whether connections are closed as soon as they are made, and open ones with their next request.
    pub fn close(&self, closed: bool) {
        self.shared.closed.store(closed, Ordering::SeqCst);
    }

    /// What came so far.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How many bytes of answers without an end could be sent.
    pub fn flooded(&self) -> u64 {
        self.shared.flooded.load(Ordering::Relaxed)
    }

    /// Every JWT that passed: the issuer's own, and those that were minted.
    pub fn jwts(&self) -> BTreeSet<String> {
        lock(&self.shared.jwts).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Faulty<'_> {
    fn drop(&mut self) {
        lock(&self.proxy.shared.faults).retain(|(number, ..)| *number != self.number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kubeconfig_text(address: SocketAddr, authority: &Path, token: &str, context: &str) -> String {
    let authority = authority.display();
    format!(
        "\
apiVersion: v1
kind: Config
contexts: [{{name: {context}, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: 'https://{address}', tls-server-name: localhost, certificate-authority: '{authority}'}}}}]
users: [{{name: test, user: {{token: '{token}'}}}}]
"
    )
}

/// A client of the API server without a credential.
async fn upstream(kubeconfig: &Path) -> Result<kube::Client> {
    let mut kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    for named in &mut kubeconfig.auth_infos {
        named.auth_info = Some(AuthInfo::default());
    }
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new(); // they end with the proxy
    loop {
        match listener.accept().await {
            Ok((stream, _)) if !shared.closed.load(Ordering::SeqCst) => {
                connections.spawn(converse(stream, acceptor.clone(), shared.clone()));
            }
            Ok(_) => {}
            Err(error) => return eprintln!("the proxy ends: {error}"),
        }
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { shared.handle(request).await }
    });
    // A client that hangs up is no news.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    /// An error closes the connection.
    async fn handle(&self, request: Request<Incoming>) -> io::Result<Response<AnswerBody>> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let number = self.note(&request);
        let fault = self.fault_of(&request);
        let response = match &fault {
            Some(Fault::Answer(answer)) => answer.response().map(AnswerBody::from),
            Some(Fault::Say(status, text)) => said(*status, text).map(AnswerBody::from),
            Some(Fault::Ignore) => deleted(request.uri().path()).map(AnswerBody::from),
            Some(Fault::Hang) => match std::future::pending::<Infallible>().await {},
            Some(Fault::Flood) => Response::new(AnswerBody::Endless(self.flooded.clone())),
            Some(Fault::LoseReply) => {
                self.forward(request, None).await?;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(*delay).await;
                self.forward(request, None).await?.map(AnswerBody::from)
            }
            Some(Fault::Drip) => self.forward(request, None).await?.map(AnswerBody::drip),
            Some(Fault::Truncate) => self.forward(request, None).await?.map(|body| AnswerBody::broken(&body)),
            Some(Fault::Change(change)) => {
                self.forward(request, Some(change.as_ref())).await?.map(AnswerBody::from)
            }
            None => self.forward(request, None).await?.map(AnswerBody::from),
        };
        if let Some(seen) = lock(&self.seen).get_mut(number) {
            seen.status = Some(response.status());
        }
        Ok(response)
    }

    fn note(&self, request: &Request<Incoming>) -> usize {
        let text = |name| text_of(request.headers(), name);
        if let Some(token) = text(header::AUTHORIZATION).strip_prefix("Bearer ") {
            lock(&self.jwts).insert(token.to_owned());
        }
        let mut seen = lock(&self.seen);
        seen.push(Seen {
            method: request.method().clone(),
            path: request.uri().to_string(),
            user_agent: text(header::USER_AGENT).to_owned(),
            status: None,
        });
        seen.len() - 1
    }

    /// The newest fault that befalls it.
    fn fault_of(&self, request: &Request<Incoming>) -> Option<Fault> {
        let agent = text_of(request.headers(), header::USER_AGENT);
        let fits = |target: Target| target.is_of(request.method(), &request.uri().to_string(), agent);
        let faults = lock(&self.faults);
        faults.iter().rev().find(|(_, target, _)| fits(*target)).map(|(_, _, fault)| fault.clone())
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        change: Option<&(dyn Fn(&mut Value) + Send + Sync)>,
    ) -> io::Result<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let mut forwarded = Request::new(kube::client::Body::from(body));
        *forwarded.method_mut() = parts.method;
        *forwarded.uri_mut() = parts.uri;
        *forwarded.headers_mut() = end_to_end(parts.headers);
        let answer = self.upstream.send(forwarded).await.map_err(io::Error::other)?;
        let (parts, body) = answer.into_parts();
        let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if let Ok(mut value) = serde_json::from_slice::<Value>(&body) {
            if let Some(token) = value["status"]["token"].as_str() {
                lock(&self.jwts).insert(token.to_owned());
            }
            if let Some(change) = change {
                change(&mut value);
                body = value.to_string().into();
            }
        }
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = end_to_end(parts.headers);
        Ok(response)
    }
}

/// What an API server says of an object that it deleted; the path ends with its resource and its name.
fn deleted(path: &str) -> Response<Bytes> {
    let mut parts = path.rsplit('/');
    let (name, resource) = (parts.next(), parts.next());
    let details = json!({"name": name, "kind": resource});
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details});
    Response::new(Bytes::from(status.to_string()))
}

fn said(status: u16, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Without what belongs to one connection.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}

impl Target {
    fn is_of(self, method: &Method, path: &str, user_agent: &str) -> bool {
        let secrets = path.contains("/secrets");
        let token = method == Method::POST && path.ends_with("/token");
        match self {
            Self::Everything => true,
            Self::Tokens => token,
            Self::TokensToHandOut => token && !user_agent.ends_with(" review"),
            Self::Anchors => method == Method::POST && secrets && !path.contains("dryRun"),
            Self::Accounts => method == Method::POST && path.ends_with("/serviceaccounts"),
            Self::Bindings => {
                method == Method::POST && path.contains("/rolebindings") && !path.contains("dryRun")
            }
            Self::Cuts => method == Method::DELETE && secrets,
            Self::Rights => path.ends_with("/selfsubjectrulesreviews"),
            Self::Reviews => path.ends_with("/selfsubjectreviews"),
            Self::Servers => path.ends_with("/endpointslices/kubernetes"),
        }
    }
}

impl Answer {
    fn response(&self) -> Response<Bytes> {
        let Self { status, reason, message, retry_after } = *self;
        let body = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure",
            "code": status, "reason": reason, "message": message,
        });
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The claims of a JWT (RFC 7519).
pub fn claims(jwt: &str) -> Result<Value> {
    let payload = jwt.split('.').nth(1).context("it is not a JWT")?;
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).context("it is not base64url")?;
    serde_json::from_slice(&payload).context("its payload is not JSON")
}
