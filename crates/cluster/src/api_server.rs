//! One request to an API server, one answer or the reason why there is none.
//!
//! No retries: a retried TokenRequest is a token that nobody recorded. The body is read into a buffer of ours, which is
//! limited and wiped; the buffers of HTTP and TLS below are not.
//!
//! Why there is no answer is told to runners too: where the issuer keeps its credential stands in the log alone.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::{AuthError, Body};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::kube_cluster;

/// More than any answer to what is asked here; an answer over it is not read to its end.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// More than any page of metadata.
const LIST_LIMIT: usize = 32 * 1024 * 1024;
/// A list without the content of what is in it. There is no other form of it to fall back to.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// More than the metadata of any object, where no more is wanted.
const HEAD_LIMIT: usize = 512 * 1024;
/// Room for usual answers, so that the buffer does not grow and leave copies behind.
const ANSWER_ROOM: usize = 8 * 1024;
/// How much of a refusal's text is kept.
const MESSAGE_LIMIT: usize = 600;
/// When to come back if the API server does not say.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The longest wait that is passed on.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// No answer, or none of an API server.
    NoAnswer(String),
    /// It failed because an admission webhook does not work; which one stands in the log.
    WebhookFails,
    /// It does not work now (503), and says when it will.
    Unavailable {
        /// When to come back.
        retry_after: Duration,
    },
    /// It said no.
    Refused(Box<Refusal>),
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(cause) => f.write_str(cause),
            Self::WebhookFails => {
                f.write_str("an admission webhook is not in order, the issuer's log says which")
            }
            Self::Unavailable { retry_after } => {
                write!(
                    f,
                    "it is not available (503) and wants to be left alone for {} s",
                    retry_after.as_secs()
                )
            }
            Self::Refused(refusal) => write!(f, "it refused ({}): {}", refusal.code, refusal.message),
        }
    }
}

/// A Kubernetes Status that is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) code: u16,
    /// `reason`
    pub(crate) reason: String,
    /// `message`, shortened.
    pub(crate) message: String,
    /// `details.kind`: the kind or resource that it is about.
    pub(crate) kind: String,
    /// `details.name`: which of them.
    pub(crate) name: String,
    /// `details.causes[].reason`
    pub(crate) causes: Vec<String>,
    /// When to come back, if it says so.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// When to come back, whether it says so or not.
    pub(crate) fn wait(&self) -> Duration {
        self.retry_after.unwrap_or(RETRY_SOON)
    }
}

/// What is asked for.
pub(crate) struct Call<'a, B> {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) user_agent: &'a str,
    pub(crate) body: &'a B,
}

/// The way to one API server.
pub(crate) struct ApiServer {
    client: Client,
    /// Without the issuer's credential, for whoever shows another.
    anonymous: Client,
    /// The credential's place, for the log: for whoever has to renew it.
    credential: String,
    /// Told when the API server refuses it.
    refused: Notify,
}

impl ApiServer {
    pub(crate) fn new(client: Client, anonymous: Client, credential: String) -> Self {
        Self { client, anonymous, credential, refused: Notify::new() }
    }

    /// Waits until the issuer's own credential is refused, or has been since this was asked last.
    pub(crate) async fn credential_refused(&self) {
        self.refused.notified().await;
    }

    /// Sends the request and reads the body of a success.
    pub(crate) async fn call<B: Serialize>(&self, call: Call<'_, B>) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        self.fetch(request(&call)?, ANSWER_LIMIT).await
    }

    /// Asks for a list of Secrets without what is in them.
    pub(crate) async fn list_metadata(&self, path: String) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let call = Call { method: Method::GET, path, user_agent: crate::kube_cluster::USER_AGENT, body: &() };
        let mut request = request(&call)?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA));
        self.fetch(request, LIST_LIMIT).await
    }

    async fn fetch(&self, request: Request<Body>, limit: usize) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let (parts, body) = self.exchange(&self.client, request).await?;
        let body = read_until(body, limit, |_| false).await?;
        if parts.status.is_success() {
            Ok(body)
        } else {
            Err(self.refused(parts.status, &parts.headers, &body))
        }
    }

    /// The same, of which only the beginning is read: until `enough` says so.
    pub(crate) async fn call_for_head<B: Serialize>(
        &self,
        call: Call<'_, B>,
        enough: fn(&[u8]) -> bool,
    ) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let request = request(&call)?;
        let (parts, body) = self.exchange(&self.client, request).await?;
        if parts.status.is_success() {
            return read_until(body, HEAD_LIMIT, enough).await;
        }
        Err(self.refused(parts.status, &parts.headers, &read(body).await?))
    }

    /// The same with another credential than the issuer's. None if the API server does not let it in, or not do that.
    pub(crate) async fn call_as<B: Serialize>(
        &self,
        bearer: HeaderValue,
        call: Call<'_, B>,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ApiError> {
        let mut request = request(&call)?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let (parts, body) = self.exchange(&self.anonymous, request).await?;
        let body = read(body).await?;
        match parts.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
            status if status.is_success() => Ok(Some(body)),
            status => Err(self.refused(status, &parts.headers, &body)),
        }
    }

    /// The same, and what the API server says to that credential is told as any refusal: also 401.
    pub(crate) async fn call_showing<B: Serialize>(
        &self,
        bearer: HeaderValue,
        call: Call<'_, B>,
    ) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let mut request = request(&call)?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let (parts, body) = self.exchange(&self.anonymous, request).await?;
        let body = read(body).await?;
        if parts.status.is_success() {
            return Ok(body);
        }
        match refusal(parts.status, &parts.headers, &body) {
            Some(refusal) if parts.status == StatusCode::UNAUTHORIZED => {
                Err(ApiError::Refused(Box::new(refusal)))
            }
            _ => Err(self.refused(parts.status, &parts.headers, &body)),
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        request: Request<Body>,
    ) -> Result<(http::response::Parts, Body), ApiError> {
        let response = client.send(request).await.map_err(|error| no_answer(self.describe(&error)))?;
        Ok(response.into_parts())
    }

    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
        let refusal = refusal(status, headers, body);
        match (status, refusal) {
            (StatusCode::UNAUTHORIZED, _) => {
                self.refused.notify_one();
                tracing::warn!(
                    credential = self.credential,
                    "the API server refuses the issuer's own credential (401): renew it"
                );
                no_answer(
                    "it refuses the issuer's own credential (401): the issuer's operators must renew it"
                        .to_owned(),
                )
            }
            (_, Some(refusal)) if status.is_server_error() => failure(&refusal),
            (_, Some(refusal)) => ApiError::Refused(Box::new(refusal)),
            (_, None) => {
                tracing::warn!(credential = self.credential, %status, "something answered that is not a Kubernetes API server: check the server's URL");
                no_answer(format!(
                    "something answered {status} that is not a Kubernetes API server: the issuer's operators must check its URL"
                ))
            }
        }
    }

    /// The chain of causes in one line. An error of the credential is not quoted: it can hold what a plugin printed.
    fn describe(&self, error: &(dyn Error + 'static)) -> String {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.is::<AuthError>() || matches!(error.downcast_ref(), Some(kube::Error::Auth(_))) {
                tracing::warn!(credential = self.credential, "the issuer's own credential cannot be had");
                return "the issuer's own credential cannot be had: the issuer's log says from where"
                    .to_owned();
            }
            next = error.source();
        }
        chain(error)
    }
}

fn request<B: Serialize>(call: &Call<'_, B>) -> Result<Request<Body>, ApiError> {
    let body = serde_json::to_vec(call.body).map_err(|cause| no_answer(format!("bad request: {cause}")))?;
    in_json(&call.method, &call.path, call.user_agent, body)
        .map_err(|cause| no_answer(format!("bad request: {cause}")))
}

fn in_json(method: &Method, path: &str, user_agent: &str, body: Vec<u8>) -> http::Result<Request<Body>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(USER_AGENT, user_agent)
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body))
}

/// What shows a token; none if it cannot stand in a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let text = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One request by a client without a credential, and what was answered to it, whatever that is.
pub(crate) async fn ask(
    client: &Client,
    method: &Method,
    path: &str,
    bearer: Option<HeaderValue>,
    body: Vec<u8>,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
    let request = in_json(method, path, kube_cluster::USER_AGENT, body);
    let mut request = request.map_err(|error| error.to_string())?;
    if let Some(bearer) = bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let response = client.send(request).await.map_err(|error| chain(&error))?;
    let (parts, body) = response.into_parts();
    let body = read(body).await.map_err(|error| error.to_string())?;
    Ok((parts.status, body))
}

/// The chain of causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said = Vec::<String>::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if !error.is::<kube::Error>() && !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    said.join(": ")
}

/// What is told of a server that failed. Its words may be about anybody's request, or name a webhook and where it is: they
/// are in the log alone.
fn failure(Refusal { code, message, retry_after, .. }: &Refusal) -> ApiError {
    if message.contains("webhook") {
        tracing::warn!(code, words = message, "an admission webhook of the cluster fails");
        return ApiError::WebhookFails;
    }
    tracing::warn!(code, words = message, "the API server fails");
    if let (503, Some(retry_after)) = (*code, *retry_after) {
        return ApiError::Unavailable { retry_after };
    }
    no_answer(format!("it failed ({code})"))
}

fn no_answer(cause: String) -> ApiError {
    ApiError::NoAnswer(cause)
}

/// Reads a body of bounded length.
pub(crate) async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    read_until(body, ANSWER_LIMIT, |_| false).await
}

/// The same, to its end or until `enough` of it is there; the rest is dropped unread.
async fn read_until(
    mut body: Body,
    limit: usize,
    enough: fn(&[u8]) -> bool,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(ANSWER_ROOM));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| no_answer(format!("its answer broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if buffer.len() + data.len() > limit {
            return Err(no_answer(format!("its answer is longer than {limit} bytes")));
        }
        buffer.extend_from_slice(&data);
        if enough(&buffer) {
            break;
        }
    }
    Ok(buffer)
}

/// A failure in the API server's own words; none if they are somebody else's.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Refusal> {
    let told = |seconds| Duration::from_secs(seconds).clamp(RETRY_SOON, RETRY_LIMIT);
    let header = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    match serde_json::from_slice::<Status>(body) {
        Ok(answer) if answer.kind == "Status" => Some(Refusal {
            code: status.as_u16(),
            reason: clean(&answer.reason),
            message: clean(&answer.message),
            kind: clean(&answer.details.kind),
            name: clean(&answer.details.name),
            causes: answer.details.causes.iter().map(|cause| clean(&cause.reason)).collect(),
            retry_after: header.or(answer.details.retry_after_seconds).map(told),
        }),
        // Priority and fairness answers in plain text.
        _ if status == StatusCode::TOO_MANY_REQUESTS => Some(Refusal {
            code: status.as_u16(),
            reason: String::new(),
            message: "too many requests".to_owned(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: header.map(told),
        }),
        _ => None,
    }
}

/// One line of bounded length.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_LIMIT).collect()
}

#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    name: String,
    retry_after_seconds: Option<u64>,
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(retry_after: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, retry_after.parse().unwrap())])
    }

    #[test]
    fn a_status_is_read_and_anything_else_is_not_an_api_server() {
        let status =
            br#"{"kind":"Status","reason":"NotFound","message":"a\nb","details":{"kind":"secrets"}}"#;
        let read = refusal(StatusCode::NOT_FOUND, &HeaderMap::new(), status).unwrap();
        assert_eq!((read.kind.as_str(), read.message.as_str()), ("secrets", "a b"));
        assert_eq!(refusal(StatusCode::NOT_FOUND, &HeaderMap::new(), b"<html>"), None);
        assert_eq!(refusal(StatusCode::NOT_FOUND, &HeaderMap::new(), br#"{"kind":"Secret"}"#), None);
    }

    #[test]
    fn a_failure_is_told_without_its_words() {
        let told = |message: &str| {
            let status = format!(r#"{{"kind":"Status","message":"{message}"}}"#);
            failure(
                &refusal(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), status.as_bytes()).unwrap(),
            )
        };
        assert_eq!(told("etcd is slow").to_string(), "it failed (500)");
        let webhook = told("failed calling webhook guard.example: Post https://10.0.0.9").to_string();
        assert!(webhook.contains("the issuer's log says which"), "{webhook}");
        assert!(!webhook.contains("guard.example") && !webhook.contains("10.0.0.9"), "{webhook}");
    }

    #[test]
    fn a_server_that_is_not_available_and_says_for_how_long_is_told_apart() {
        let failure = |code, headers: &HeaderMap, message: &str| {
            let status = format!(r#"{{"kind":"Status","message":"{message}"}}"#);
            failure(&refusal(code, headers, status.as_bytes()).unwrap())
        };
        let wait =
            |retry_after: &str| match failure(StatusCode::SERVICE_UNAVAILABLE, &headers(retry_after), "x") {
                ApiError::Unavailable { retry_after } => Some(retry_after.as_secs()),
                ApiError::NoAnswer(_) | ApiError::WebhookFails | ApiError::Refused(_) => None,
            };
        assert_eq!(
            (wait("7"), wait("0"), wait("99999"), wait("tomorrow")),
            (Some(7), Some(1), Some(60), None)
        );
        for silent in [
            failure(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new(), "x"),
            failure(StatusCode::INTERNAL_SERVER_ERROR, &headers("7"), "x"),
        ] {
            assert!(matches!(silent, ApiError::NoAnswer(_)), "{silent}");
        }
        let webhook = failure(StatusCode::SERVICE_UNAVAILABLE, &headers("7"), "failed calling webhook w");
        assert!(matches!(webhook, ApiError::WebhookFails), "{webhook}");
    }

    #[test]
    fn the_wait_that_a_busy_server_asks_for_is_kept_within_bounds() {
        let wait = |retry_after: &str| {
            refusal(StatusCode::TOO_MANY_REQUESTS, &headers(retry_after), b"later").unwrap().wait().as_secs()
        };
        assert_eq!((wait("7"), wait("0"), wait("99999"), wait("tomorrow")), (7, 1, 60, 1));
    }

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(clean(&"x".repeat(5_000)).len(), MESSAGE_LIMIT);
    }
}
