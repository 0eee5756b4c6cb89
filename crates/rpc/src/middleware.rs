//! What every call passes before and after the domain, in this order.
//!
//! Request id, method table, shutdown, load, rate, certificate, kind of caller, ban and enrolment; then the call itself under a
//! time limit and a guard against panics; then its reason into the metrics. It is one plain function instead of a tower
//! of layers, because the order is the point. The text of a panic and what a peer sent reach neither peer nor log.
//!
//! A refusal for what the caller is gets an audit line. The rate comes before it, so that nobody fills the audit faster
//! than they may call.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use hyper::body::Incoming;
use shorepass_core::caller::{Caller, Kind};
use shorepass_core::id::CallId;
use shorepass_core::time::{Clock, Entropy, Timestamp};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span, debug, error, info, info_span};

use crate::api::Enrolments;
use crate::limits::Limits;
use crate::methods::{self, Callers, Method};
use crate::rate::Rate;
use crate::refused::{Reason, Refused};
use crate::server::ListenerKind;
use crate::services::Routes;
use crate::status::{REQUEST_ID, label};
use crate::watching::Leaving;

/// How methods without a row are counted.
const UNLISTED: &str = "unlisted";

/// What all connections of a listener share.
pub(crate) struct Listener {
    pub(crate) kind: ListenerKind,
    pub(crate) routes: Routes,
    pub(crate) enrolments: Arc<dyn Enrolments>,
    pub(crate) limits: Limits,
    pub(crate) rate: Rate,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) shutdown: CancellationToken,
}

/// Who calls, and under which id: what the services find with a request.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) caller: Arc<Caller>,
    pub(crate) call: CallId,
    pub(crate) leaving: Leaving,
}

/// One connection.
#[derive(Clone)]
pub(crate) struct Connection {
    listener: Arc<Listener>,
    caller: Option<Arc<Caller>>,
    peer: SocketAddr,
    slots: Arc<Semaphore>,
    used: Arc<AtomicBool>,
    leaving: Leaving,
}

impl Connection {
    pub(crate) fn new(listener: Arc<Listener>, caller: Option<Caller>, peer: SocketAddr) -> Self {
        let slots = Arc::new(Semaphore::new(listener.limits.concurrent_calls));
        let shutdown = listener.shutdown.clone();
        let leaving = Leaving { retiring: shutdown.child_token(), shutdown };
        Self { listener, caller: caller.map(Arc::new), peer, slots, used: Arc::default(), leaving }
    }

    /// It has reached its age: streams that have no end of their own are told to come back.
    pub(crate) fn retire(&self) {
        self.leaving.retiring.cancel();
    }

    /// Whether a call on it was ever admitted. One that is refused here does not keep a connection.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// When the listener is shut down and no call is in work. Until then, new calls get a reason and not a closed door.
    pub(crate) async fn drained(&self) {
        self.listener.shutdown.cancelled().await;
        let all = u32::try_from(self.listener.limits.concurrent_calls).unwrap_or(u32::MAX);
        let _ = self.slots.acquire_many(all).await;
    }

    async fn handle(self, request: http::Request<Incoming>) -> http::Response<Body> {
        let started = self.listener.clock.since_boot();
        let id = request_id(request.headers(), &*self.listener.clock, &*self.listener.entropy);
        let method = methods::find(request.uri().path());
        let name = method.map_or(UNLISTED, |method| method.name);
        let span = self.span(name, &id);
        let mut response = match self.pass(method, request, &id).instrument(span.clone()).await {
            Ok(response) => response,
            Err(status) => status.into_http(),
        };
        span.in_scope(|| record(name, &response, self.listener.clock.since_boot().saturating_sub(started)));
        if let Ok(id) = HeaderValue::from_str(id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }

    fn span(&self, method: &'static str, request_id: &CallId) -> Span {
        match &self.caller {
            Some(caller) => info_span!("rpc", method, %request_id, caller = %caller.spiffe_id()),
            None => info_span!("rpc", method, %request_id, peer = %self.peer.ip()),
        }
    }

    async fn pass(
        &self,
        method: Option<&'static Method>,
        mut request: http::Request<Incoming>,
        id: &CallId,
    ) -> Result<http::Response<Body>, Status> {
        let method = method.ok_or_else(|| Status::unimplemented("there is no such method"))?;
        if self.listener.shutdown.is_cancelled() {
            let message = "the issuer is shutting down; call again when it is back";
            return Err(Refused::new(Reason::ShuttingDown, message).into());
        }
        let _slot = self.slots.try_acquire().map_err(|_| shed())?;
        self.listener.rate.admit(self.caller.as_deref(), self.peer)?;
        if let Err(refused) = self.check(method).await {
            return self.refuse(method, refused).await;
        }
        self.used.store(true, Ordering::Relaxed);
        if let Some(caller) = &self.caller {
            let (caller, leaving) = (caller.clone(), self.leaving.clone());
            request.extensions_mut().insert(Origin { caller, call: id.clone(), leaving });
        }
        let call = self.listener.routes.call(method.service, request);
        let response = guarded(time_limit(method, &self.listener.limits), call).await?;
        Ok(response)
    }

    async fn check(&self, method: &Method) -> Result<(), Refused> {
        if let Some(caller) = &self.caller {
            check_certificate(caller, self.listener.clock.now())?;
        }
        check_kind(method, self.listener.kind, self.caller.as_deref().map(Caller::kind))?;
        match &self.caller {
            Some(caller) => self.listener.enrolments.admit(caller).await,
            None => Ok(()),
        }
    }

    /// Tells the caller, after the audit was told what is a decision and no failure.
    async fn refuse(&self, method: &Method, refused: Refused) -> Result<http::Response<Body>, Status> {
        let decided = matches!(
            refused.reason,
            Reason::CertificateExpired
                | Reason::CallerKind
                | Reason::EnrolmentEnded
                | Reason::Banned
                | Reason::RunnerCloned
        );
        if !decided {
            return Err(refused.into());
        }
        let recording = self.listener.enrolments.refused(self.caller.as_deref(), method.name, refused);
        guarded(self.listener.limits.call_timeout, async { Status::from(recording.await).into_http() }).await
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Connection {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let connection = self.clone();
        Box::pin(async move { Ok(connection.handle(request).await) })
    }
}

/// Checked again on every call and every message of a stream: a connection may outlive its certificate.
pub(crate) fn check_certificate(caller: &Caller, now: Timestamp) -> Result<(), Refused> {
    if now < caller.expires() {
        return Ok(());
    }
    let message = format!(
        "the certificate of {} expired at {}: connect with a renewed one, or enrol again",
        caller.spiffe_id(),
        caller.expires()
    );
    Err(Refused::new(Reason::CertificateExpired, message))
}

fn check_kind(method: &Method, listener: ListenerKind, kind: Option<Kind>) -> Result<(), Refused> {
    let refused = |message: String| Err(Refused::new(Reason::CallerKind, message));
    let name = method.name;
    match (method.callers, listener, kind) {
        (Callers::Anonymous, ListenerKind::Enroll, _) => Ok(()),
        (Callers::Anonymous, ListenerKind::Api, _) => {
            refused(format!("{name} is served without a certificate, on the enroll listener only"))
        }
        (Callers::Kinds(kinds), ListenerKind::Api, Some(kind)) if kinds.contains(&kind) => Ok(()),
        (Callers::Kinds(kinds), ListenerKind::Api, Some(kind)) => {
            let kinds: Vec<_> = kinds.iter().map(|kind| format!("{kind}s")).collect();
            let article = match kind {
                Kind::Operator | Kind::Issuer => "an",
                Kind::Runner | Kind::Platform => "a",
            };
            refused(format!("{name} is for {}, and the caller is {article} {kind}", kinds.join(" or ")))
        }
        (Callers::Kinds(_), ListenerKind::Enroll, _) | (Callers::Kinds(_), ListenerKind::Api, None) => {
            refused(format!("{name} needs a client certificate: call it on the api listener"))
        }
    }
}

fn shed() -> Status {
    Refused::new(Reason::RateLimited, "too many calls at once on this connection").into()
}

/// What a caller is told about our own mistakes.
pub(crate) fn internal() -> Status {
    Status::internal("the issuer failed; its log has an entry under the request id")
}

fn time_limit(method: &Method, limits: &Limits) -> Duration {
    if method.streaming { limits.call_timeout + limits.stream_idle } else { limits.call_timeout }
}

/// The call's answer, in time and whatever happens inside it.
async fn guarded(
    limit: Duration,
    call: impl Future<Output = http::Response<Body>>,
) -> Result<http::Response<Body>, Status> {
    let mut call = pin!(call);
    let caught = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(response)) => Poll::Ready(Ok(response)),
        Err(_) => Poll::Ready(Err(())),
    });
    match tokio::time::timeout(limit, caught).await {
        Ok(Ok(response)) => readable(response),
        Ok(Err(())) => {
            error!("a handler panicked");
            Err(internal())
        }
        Err(_) => Err(Status::deadline_exceeded("the issuer did not answer in time")),
    }
}

/// gRPC's own codes for a request that could not be read, as the contract names them.
fn readable(response: http::Response<Body>) -> Result<http::Response<Body>, Status> {
    let unreadable = response.extensions().get::<Status>().filter(|status| status.details().is_empty());
    match unreadable.map(Status::code) {
        Some(Code::OutOfRange) => Err(Status::resource_exhausted("the request message is too large")),
        Some(Code::Internal) if !is_ours(unreadable) => {
            Err(Refused::field("request", "is not a well-formed message").into())
        }
        _ => Ok(response),
    }
}

fn is_ours(status: Option<&Status>) -> bool {
    status.is_some_and(|status| status.message() == internal().message())
}

/// The caller's own id for the request, if it is harmless to log, else a new one.
fn request_id(headers: &HeaderMap, clock: &dyn Clock, entropy: &dyn Entropy) -> CallId {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let harmless = given.and_then(|id| CallId::parse(id).ok());
    harmless.unwrap_or_else(|| CallId::generate(clock.now(), entropy))
}

fn record(method: &'static str, response: &http::Response<Body>, took: Duration) {
    let reason = response.extensions().get::<Status>().map(label);
    match &reason {
        None => debug!(?took, "answered"),
        Some(reason) if reason == "RATE_LIMITED" || method == UNLISTED => debug!(reason, ?took, "refused"),
        Some(reason) => info!(reason, ?took, "refused"),
    }
    let reason = reason.unwrap_or_else(|| "OK".to_owned());
    metrics::counter!("shorepass_rpc_total", "method" => method, "reason" => reason).increment(1);
    metrics::histogram!("shorepass_rpc_duration_seconds", "method" => method).record(took.as_secs_f64());
}

/// Says what the metrics of this room are.
pub(crate) fn describe_metrics() {
    metrics::describe_counter!(
        "shorepass_rpc_total",
        "Calls by method and by reason of refusal, OK if none."
    );
    metrics::describe_histogram!(
        "shorepass_rpc_duration_seconds",
        metrics::Unit::Seconds,
        "From the headers of a call to the headers of its answer, by method."
    );
}

#[cfg(test)]
mod tests {
    use shorepass_core::id::RequestId;

    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(1_790_000_000).unwrap()
        }

        fn since_boot(&self) -> Duration {
            Duration::ZERO
        }
    }

    impl Entropy for Fixed {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(7);
        }
    }

    fn id_for(header: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_bytes(header).unwrap());
        request_id(&headers, &Fixed, &Fixed).to_string()
    }

    #[test]
    fn a_harmless_request_id_is_kept_and_another_one_replaced() {
        assert_eq!(id_for(b"agent-1_a.b"), "agent-1_a.b");
        for bad in [b"".as_slice(), b"a b", b"a\"b", b"a=b", b"\xff", &[b'a'; 65]] {
            assert!(RequestId::parse(&id_for(bad)).is_ok(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_table_admits() {
        for method in &methods::METHODS {
            for listener in [ListenerKind::Api, ListenerKind::Enroll] {
                for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
                    let admitted = check_kind(method, listener, kind).is_ok();
                    let expected = match method.callers {
                        Callers::Anonymous => listener == ListenerKind::Enroll,
                        Callers::Kinds(kinds) => {
                            listener == ListenerKind::Api && kind.is_some_and(|kind| kinds.contains(&kind))
                        }
                    };
                    assert_eq!(admitted, expected, "{} {listener:?} {kind:?}", method.name);
                }
            }
        }
    }
}
