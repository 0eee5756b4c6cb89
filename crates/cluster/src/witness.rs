//! The API servers of a cluster as witnesses: canaries are minted with the issuer's credential and shown to one server each,
//! over a connection of its own, without that credential.
//!
//! Which servers: those that the config names; else those of the EndpointSlice `kubernetes`, where the issuer may read it
//! and reaches each of them, read again with each proof; else the one URL of the kubeconfig, behind which there may be several. A named server is
//! verified against the name of that URL: its certificate has that name, because clients come that way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use kube::config::AuthInfo;
use kube::{Client, Config};
use serde::Deserialize;
use shorepass_core::receipt::{Answer, Scope};
use shorepass_core::token::Token;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use crate::api_server::{self, ApiServer, Call};
use crate::kube_cluster;

/// How long one server may take to answer, connection included.
pub const ASK_DEADLINE: Duration = Duration::from_secs(3);

/// How long it may take to find out who the servers are, and that each of them answers.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEW: &str = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
const ENDPOINT_SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
/// Who a token's `jti` is told under in a review.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The servers of one cluster.
pub(crate) struct Servers {
    /// Leads to the kubeconfig's URL; has no credential.
    config: Config,
    /// What to ask.
    asked: RwLock<Scope>,
    /// Whether the config names them.
    named: bool,
    /// Whether the EndpointSlice was ever good for anything.
    listed: AtomicBool,
    /// When somebody last began to look around; held while somebody looks.
    looked: Mutex<Option<Instant>>,
}

impl Servers {
    /// Those that are named, or the one that the config leads to. `config` loses its credential.
    pub(crate) fn new(mut config: Config, named: Vec<String>) -> Self {
        config.auth_info = AuthInfo::default();
        config.headers = Vec::new();
        if config.tls_server_name.is_none() {
            config.tls_server_name = config.cluster_url.host().map(str::to_owned);
        }
        let is_named = !named.is_empty();
        let endpoints = if is_named { named } else { vec![host_and_port(&config.cluster_url)] };
        let asked = RwLock::new(Scope { endpoints, complete: is_named });
        Self { config, asked, named: is_named, listed: AtomicBool::new(false), looked: Mutex::default() }
    }

    /// Who is asked now.
    pub(crate) fn scope(&self) -> Scope {
        self.asked.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for the EndpointSlice, unless the servers are named. What it says counts only where each of them answers; else the
    /// one that the config leads to is asked.
    pub(crate) async fn learn(&self, api: &ApiServer) {
        if self.named {
            return;
        }
        let looked = timeout(LOOK_DEADLINE, self.list(api)).await.ok().flatten();
        self.listed.fetch_or(looked.is_some(), Ordering::Relaxed);
        let only = || Scope { endpoints: vec![host_and_port(&self.config.cluster_url)], complete: false };
        let scope = looked.map_or_else(only, |endpoints| Scope { endpoints, complete: true });
        *self.asked.write().unwrap_or_else(PoisonError::into_inner) = scope;
    }

    /// The same, where the EndpointSlice was of use before: there may be others by now. Who comes while somebody looks shares the
    /// next look.
    pub(crate) async fn look_around(&self, api: &ApiServer) {
        if !self.listed.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut looked = self.looked.lock().await;
        if *looked < Some(now) {
            let began = Instant::now();
            self.learn(api).await;
            *looked = Some(began); // not if nobody waited for its end
        }
    }

    /// All servers of the EndpointSlice, if there is one and they answer.
    async fn list(&self, api: &ApiServer) -> Option<Vec<String>> {
        let call = Call {
            method: Method::GET,
            path: ENDPOINT_SLICE.to_owned(),
            user_agent: kube_cluster::USER_AGENT,
            body: &(),
        };
        let endpoints = addresses(&api.call(call).await.ok()?);
        for endpoint in &endpoints {
            if let Err(cause) = self.send(endpoint, Method::GET, "/version", None).await {
                tracing::debug!(
                    endpoint,
                    cause,
                    "not all API servers can be reached: the cluster's URL is asked"
                );
                return None;
            }
        }
        (!endpoints.is_empty()).then_some(endpoints)
    }

    /// Shows the token to one server.
    pub(crate) async fn ask(&self, endpoint: &str, token: Token, jti: &str) -> Answer {
        match self.send(endpoint, Method::POST, REVIEWS, Some(token)).await {
            Ok((status, body)) => read(status, &body, jti),
            Err(cause) => Answer::None(cause),
        }
    }

    async fn send(
        &self,
        endpoint: &str,
        method: Method,
        path: &str,
        token: Option<Token>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let exchange = self.exchange(endpoint, method, path, token);
        timeout(ASK_DEADLINE, exchange)
            .await
            .unwrap_or_else(|_| Err(kube_cluster::no_answer_within(ASK_DEADLINE)))
    }

    async fn exchange(
        &self,
        endpoint: &str,
        method: Method,
        path: &str,
        token: Option<Token>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let client = self.client(endpoint)?;
        let shown = |token: Token| {
            api_server::bearer(token.expose()).ok_or_else(|| "the canary is no header".to_owned())
        };
        let bearer = token.map(shown).transpose()?;
        api_server::ask(&client, &method, path, bearer, REVIEW.as_bytes().to_vec()).await
    }

    /// A new client each time: its first request opens a connection, and there is no second.
    fn client(&self, endpoint: &str) -> Result<Client, String> {
        let mut config = self.config.clone();
        // The kubeconfig's URL may have a path, which belongs to it alone.
        if endpoint != host_and_port(&config.cluster_url) {
            let url = format!("https://{endpoint}").parse();
            config.cluster_url = url.map_err(|_| "it is no host:port".to_owned())?;
        }
        Client::try_from(config).map_err(|error| api_server::chain(&error))
    }
}

fn host_and_port(url: &Uri) -> String {
    format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(443))
}

/// What an answer means for the token with this `jti`.
fn read(status: StatusCode, body: &[u8], jti: &str) -> Answer {
    match status {
        StatusCode::CREATED | StatusCode::OK => match serde_json::from_slice::<Review>(body) {
            Ok(review) if review.is_of(jti) => Answer::Accepted,
            Ok(_) => Answer::None("it took the canary for another token".to_owned()),
            Err(_) => Answer::None("its review is malformed".to_owned()),
        },
        StatusCode::UNAUTHORIZED => match serde_json::from_slice::<Status>(body) {
            Ok(said) if said.kind == "Status" && said.reason == "Unauthorized" => Answer::Refused,
            Ok(_) | Err(_) => {
                Answer::None("something refused that is not a Kubernetes API server".to_owned())
            }
        },
        StatusCode::FORBIDDEN => {
            Answer::None("the ServiceAccount may not ask who it is (selfsubjectreviews)".to_owned())
        }
        other => Answer::None(format!("it answered {other}")),
    }
}

/// `host:port` of each server in an EndpointSlice; none if anything in it is not understood.
fn addresses(body: &[u8]) -> Vec<String> {
    let Ok(slice) = serde_json::from_slice::<Slice>(body) else { return Vec::new() };
    let [SlicePort { port: Some(port) }] = slice.ports.as_slice() else { return Vec::new() };
    let host = |address: String| if address.contains(':') { format!("[{address}]") } else { address };
    let addresses = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses);
    addresses.map(|address| format!("{}:{port}", host(address))).collect()
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewStatus {
    user_info: UserInfo,
}

#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl Review {
    fn is_of(&self, jti: &str) -> bool {
        let told = self.status.user_info.extra.get(CREDENTIAL_ID);
        told.is_some_and(|told| told.iter().any(|id| id.strip_prefix("JTI=") == Some(jti)))
    }
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Vec<SliceEndpoint>,
    #[serde(default)]
    ports: Vec<SlicePort>,
}

#[derive(Deserialize)]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Deserialize)]
struct SlicePort {
    port: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_review_of_this_very_token_accepts() {
        let review = |jti: &str| {
            format!(
                r#"{{"status":{{"userInfo":{{"username":"u","extra":{{"{CREDENTIAL_ID}":["JTI={jti}"]}}}}}}}}"#
            )
        };
        assert_eq!(read(StatusCode::CREATED, review("j").as_bytes(), "j"), Answer::Accepted);
        for other in
            [review("jj"), r#"{"status":{"userInfo":{}}}"#.to_owned(), "{}".to_owned(), String::new()]
        {
            assert!(matches!(read(StatusCode::CREATED, other.as_bytes(), "j"), Answer::None(_)), "{other}");
        }
    }

    #[test]
    fn only_an_api_servers_401_refuses() {
        let status = br#"{"kind":"Status","reason":"Unauthorized"}"#;
        assert_eq!(read(StatusCode::UNAUTHORIZED, status, "j"), Answer::Refused);
        for (code, body) in [
            (StatusCode::UNAUTHORIZED, b"<html>".as_slice()),
            (StatusCode::UNAUTHORIZED, b"{}"),
            (StatusCode::FORBIDDEN, status),
            (StatusCode::SERVICE_UNAVAILABLE, status),
            (StatusCode::NOT_FOUND, status),
        ] {
            assert!(matches!(read(code, body, "j"), Answer::None(_)), "{code}");
        }
    }

    #[test]
    fn servers_are_read_from_a_slice_or_not_at_all() {
        let slice = r#"{"endpoints":[{"addresses":["10.0.0.1"]},{"addresses":["fd00::2"]}],"ports":[{"name":"https","port":6443}]}"#;
        assert_eq!(addresses(slice.as_bytes()), ["10.0.0.1:6443", "[fd00::2]:6443"]);
        let two = slice.replace(r#"{"name""#, r#"{"port":1},{"name""#);
        for odd in ["", "{}", &two, &slice.replace("6443", "null")] {
            assert!(addresses(odd.as_bytes()).is_empty(), "{odd}");
        }
    }

    fn config(url: &str) -> Config {
        Config::new(url.parse().unwrap())
    }

    #[test]
    fn the_servers_are_those_that_are_named_or_the_one_that_is_known() {
        let one = Servers::new(config("https://api.example.org/k8s/clusters/c"), vec![]);
        let expected = Scope { endpoints: vec!["api.example.org:443".to_owned()], complete: false };
        assert_eq!(one.scope(), expected);
        let named = Servers::new(config("https://api.example.org"), vec!["10.0.0.1:6443".to_owned()]);
        assert_eq!(named.scope(), Scope { endpoints: vec!["10.0.0.1:6443".to_owned()], complete: true });
        assert_eq!(named.config.tls_server_name.as_deref(), Some("api.example.org"));
    }
}
