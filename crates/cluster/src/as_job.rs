//! What an API server says to a job's own token: whether it lets it in, and then whether it allows something.
//!
//! For whoever holds such a token and no other credential. The two questions have two answers, 401 and a review: a token that
//! is dead is allowed nothing, but no rule of RBAC mends that.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use http::{Method, StatusCode};
use kube::config::{Cluster, Context, KubeConfigOptions, Kubeconfig, NamedCluster, NamedContext};
use kube::{Client, Config};
use serde::Deserialize;
use serde_json::json;
use shorepass_core::cluster::Endpoint;
use shorepass_core::needs::Right;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::connection::{is_https, require_certificate};
use crate::reviews::attributes;
use crate::{answer, api_server, kube_cluster};

/// How long one question may take, connection included.
const DEADLINE: Duration = Duration::from_secs(5);
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// What the cluster is called in the configuration that is made for the client.
const ONLY: &str = "cluster";

/// What the API server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let in, and allowed.
    Allowed,
    /// Let in, and not allowed.
    NotAllowed {
        /// What it says about that, if anything.
        because: String,
    },
    /// The token is not taken: 401.
    NotLetIn,
    /// Let in, and not even allowed to ask: 403.
    MayNotAsk,
}

/// The way to an API server without a credential.
pub struct AsJob {
    client: Client,
}

impl AsJob {
    /// Nothing is sent yet.
    pub async fn at(endpoint: &Endpoint) -> Result<Self, String> {
        let config = config(endpoint).await?;
        Ok(Self { client: Client::try_from(config).map_err(|error| api_server::chain(&error))? })
    }

    /// Asks with the token whether its bearer has the right. Fails where there is no answer of an API server.
    pub async fn ask(&self, token: &str, right: &Right) -> Result<Verdict, String> {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes(right)},
        });
        let bearer = api_server::bearer(token).ok_or_else(|| "the token is no header".to_owned())?;
        let (status, body) = self.send(Method::POST, REVIEWS, Some(bearer), body.to_string()).await?;
        verdict(status, &body)
    }

    /// Whose tokens the API server takes, by its discovery document; none where it does not tell that to everybody.
    pub async fn token_issuer(&self) -> Option<String> {
        let (status, body) = self.send(Method::GET, DISCOVERY, None, String::new()).await.ok()?;
        let document: Discovery = serde_json::from_slice(&body).ok()?;
        status.is_success().then_some(document.issuer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        bearer: Option<HeaderValue>,
        body: String,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let exchange = api_server::ask(&self.client, &method, path, bearer, body.into_bytes());
        timeout(DEADLINE, exchange).await.unwrap_or_else(|_| Err(kube_cluster::no_answer_within(DEADLINE)))
    }
}

async fn config(endpoint: &Endpoint) -> Result<Config, String> {
    if !is_https(&endpoint.server) {
        return Err("the API server's URL does not begin with https://: nothing is shown to it".to_owned());
    }
    let authority = match endpoint.ca_bundle_pem.clone() {
        none if none.is_empty() => None,
        pem => Some(
            require_certificate(pem, || "what is to be trusted".to_owned())
                .map_err(|error| error.to_string())?,
        ),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let cluster = Cluster {
        server: Some(endpoint.server.clone()),
        certificate_authority_data: authority.map(|pem| STANDARD.encode(pem)),
        tls_server_name: given(&endpoint.tls_server_name),
        ..Cluster::default()
    };
    let context = Context { cluster: ONLY.to_owned(), ..Context::default() };
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster {
            name: ONLY.to_owned(),
            cluster: Some(cluster),
            other: Default::default(),
        }],
        contexts: vec![NamedContext {
            name: ONLY.to_owned(),
            context: Some(context),
            other: Default::default(),
        }],
        current_context: Some(ONLY.to_owned()),
        ..Kubeconfig::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| error.to_string())?;
    config.default_retry = false;
    Ok(config)
}

fn verdict(status: StatusCode, body: &[u8]) -> Result<Verdict, String> {
    let said = serde_json::from_slice::<Said>(body).unwrap_or_default();
    match status {
        StatusCode::CREATED | StatusCode::OK => {
            let review: Review = answer::parse("the access review", body)?;
            Ok(match review.status {
                Reviewed { allowed: true, denied: false, .. } => Verdict::Allowed,
                Reviewed { reason, evaluation_error, .. } => {
                    let because = if reason.is_empty() { evaluation_error } else { reason };
                    Verdict::NotAllowed { because }
                }
            })
        }
        StatusCode::UNAUTHORIZED if said.is_status("Unauthorized") => Ok(Verdict::NotLetIn),
        StatusCode::FORBIDDEN if said.is_status("Forbidden") => Ok(Verdict::MayNotAsk),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(format!("something answered {status} that is not a Kubernetes API server"))
        }
        other => Err(format!("it answered {other}")),
    }
}

#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    reason: String,
}

impl Said {
    fn is_status(&self, reason: &str) -> bool {
        self.kind == "Status" && self.reason == reason
    }
}

#[derive(Deserialize)]
struct Review {
    status: Reviewed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reviewed {
    allowed: bool,
    #[serde(default)]
    denied: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    evaluation_error: String,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: StatusCode, body: &str) -> Result<Verdict, String> {
        verdict(code, body.as_bytes())
    }

    #[test]
    fn a_token_that_is_not_let_in_and_one_that_is_not_allowed_are_told_apart() {
        let review = |status: &str| said(StatusCode::CREATED, &format!(r#"{{"status":{{{status}}}}}"#));
        assert_eq!(review(r#""allowed":true"#), Ok(Verdict::Allowed));
        let not = |because: &str| Ok(Verdict::NotAllowed { because: because.to_owned() });
        assert_eq!(review(r#""allowed":false"#), not(""));
        assert_eq!(review(r#""allowed":true,"denied":true,"reason":"a webhook""#), not("a webhook"));
        assert_eq!(review(r#""allowed":false,"evaluationError":"role not found""#), not("role not found"));
        let unauthorized = r#"{"kind":"Status","reason":"Unauthorized"}"#;
        assert_eq!(said(StatusCode::UNAUTHORIZED, unauthorized), Ok(Verdict::NotLetIn));
        let forbidden = r#"{"kind":"Status","reason":"Forbidden"}"#;
        assert_eq!(said(StatusCode::FORBIDDEN, forbidden), Ok(Verdict::MayNotAsk));
    }

    #[test]
    fn what_is_no_api_servers_answer_is_none() {
        for (code, body) in [
            (StatusCode::UNAUTHORIZED, "<html>"),
            (StatusCode::UNAUTHORIZED, "{}"),
            (StatusCode::FORBIDDEN, r#"{"kind":"Status","reason":"Unauthorized"}"#),
            (StatusCode::CREATED, "{}"),
            (StatusCode::SERVICE_UNAVAILABLE, r#"{"kind":"Status","reason":"Unauthorized"}"#),
        ] {
            assert!(said(code, body).is_err(), "{code} {body}");
        }
    }

    #[tokio::test]
    async fn the_cluster_is_trusted_as_it_is_told_and_no_other_credential_is_used() {
        let endpoint = Endpoint {
            name: shorepass_core::name::Name::parse("staging").unwrap(),
            server: "https://10.0.0.1:6443/k8s".to_owned(),
            ca_bundle_pem: Vec::new(),
            tls_server_name: "kubernetes".to_owned(),
        };
        let config = config(&endpoint).await.unwrap();
        assert_eq!(config.cluster_url.to_string(), endpoint.server);
        assert_eq!(config.tls_server_name.as_deref(), Some("kubernetes"));
        assert!(!config.default_retry && !config.accept_invalid_certs);
        assert!(config.auth_info.token.is_none() && config.auth_info.exec.is_none());
        let odd = Endpoint { ca_bundle_pem: b"no certificate".to_vec(), ..endpoint.clone() };
        assert!(AsJob::at(&odd).await.is_err());
        let open = Endpoint { server: "http://10.0.0.1:6443".to_owned(), ..endpoint };
        assert!(AsJob::at(&open).await.is_err());
    }
}
