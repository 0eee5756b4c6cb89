//! TokenReview: whose projected ServiceAccount token it is.
//!
//! Whoever asks looks first at what the token says of itself: one for another audience may be a credential of the API
//! server's own. Nothing of a token is logged, and the API server's words are for operators.

use async_trait::async_trait;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use shorepass_core::name::Name;
use shorepass_core::pod::{Pod, ReviewError, Reviewed, TokenReviews};
use tokio::time::timeout;

use crate::answer;
use crate::api_server::{ApiError, Call};
use crate::kube_cluster::{CUT_DEADLINE, KubeCluster, USER_AGENT, no_answer_within};
use crate::refusal::is_missing_rule;

/// Longer than any token that an API server makes.
const TOKEN_LIMIT: usize = 16 * 1024;
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

#[async_trait]
impl TokenReviews for KubeCluster {
    fn says_it_is_for(&self, token: &str, audience: &str) -> bool {
        is_for(token, audience)
    }

    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError> {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let path = "/apis/authentication.k8s.io/v1/tokenreviews".to_owned();
        let call = Call { method: Method::POST, path, user_agent: USER_AGENT, body: &body };
        let answer = timeout(CUT_DEADLINE, self.api.call(call)).await;
        let answer = answer.map_err(|_| ReviewError::Unreachable(no_answer_within(CUT_DEADLINE)))?;
        let answer = answer.map_err(|error| match error {
            ApiError::Refused(refusal) if is_missing_rule(&refusal) => ReviewError::Forbidden,
            other => ReviewError::Unreachable(other.to_string()),
        })?;
        let review = serde_json::from_slice(&answer).map_err(|_| ReviewError::Garbled("it is none"))?;
        read(review, audience, &self.endpoint.name)
    }
}

/// Whether it says of itself that it is for this audience. Nothing is verified.
fn is_for(token: &str, audience: &str) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        aud: Vec<String>,
    }
    if token.len() > TOKEN_LIMIT {
        return false;
    }
    let payload = answer::payload(token).ok();
    let claims = payload.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    claims.is_some_and(|claims| claims.aud == [audience])
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl User {
    /// The only value.
    fn extra(&self, name: &str) -> Option<&str> {
        match self.extra.get(name).map(Vec::as_slice) {
            Some([value]) if is_plain(value) => Some(value),
            _ => None,
        }
    }
}

fn read(review: Review, audience: &str, cluster: &Name) -> Result<Reviewed, ReviewError> {
    let Status { authenticated, user, audiences, error } = review.status;
    if !authenticated {
        return Err(ReviewError::Rejected(error));
    }
    // An API server that knows no audiences confirms none, and takes any token.
    if audiences != [audience] {
        return Err(ReviewError::OtherAudience(audience.to_owned()));
    }
    let account = user.username.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, service_account) =
        account.ok_or(ReviewError::Garbled("its user is no ServiceAccount"))?;
    let namespace = Name::parse(namespace).map_err(|_| ReviewError::Garbled("its namespace is none"))?;
    let (Some(name), Some(uid)) = (user.extra(POD_NAME), user.extra(POD_UID)) else {
        return Err(ReviewError::Unbound("pod"));
    };
    if user.extra(NODE_NAME).is_none() || user.extra(NODE_UID).is_none() {
        return Err(ReviewError::Unbound("node"));
    }
    let (name, uid) = (name.to_owned(), uid.to_owned());
    let pod = Pod { cluster: cluster.clone(), namespace, name, uid };
    Ok(Reviewed { pod, service_account: service_account.to_owned() })
}

fn is_plain(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::Value;

    use super::*;

    const AUDIENCE: &str = "https://issuer.example.org/enrolment";

    fn review() -> Value {
        json!({"status": {
            "authenticated": true,
            "audiences": [AUDIENCE],
            "user": {
                "username": "system:serviceaccount:ci:runner",
                "extra": {POD_NAME: ["runner-0"], POD_UID: ["u-1"], NODE_NAME: ["n"], NODE_UID: ["u-2"]},
            },
        }})
    }

    fn read_changed(pointer: &str, value: Value) -> Result<Reviewed, ReviewError> {
        let mut changed = review();
        *changed.pointer_mut(pointer).unwrap() = value;
        let cluster = Name::parse("staging").unwrap();
        read(serde_json::from_value(changed).unwrap(), AUDIENCE, &cluster)
    }

    #[test]
    fn a_token_of_a_pod_on_a_node_names_both_account_and_pod() {
        let reviewed = read_changed("/status/authenticated", true.into()).unwrap();
        assert_eq!(reviewed.pod.to_string(), "staging/ci/runner-0");
        assert_eq!((reviewed.pod.uid.as_str(), reviewed.service_account.as_str()), ("u-1", "runner"));
    }

    #[test]
    fn anything_less_proves_no_pod() {
        let extra = "/status/user/extra/authentication.kubernetes.io~1";
        for (pointer, value, expected) in [
            ("/status/authenticated", false.into(), "does not accept"),
            ("/status/audiences", json!([]), "audience"),
            ("/status/audiences", json!([AUDIENCE, "other"]), "audience"),
            ("/status/user/username", "alice".into(), "no ServiceAccount"),
            (&format!("{extra}pod-name"), json!([]), "bound to a pod"),
            (&format!("{extra}pod-uid"), json!(["a", "b"]), "bound to a pod"),
            (&format!("{extra}pod-name"), json!(["a b"]), "bound to a pod"),
            (&format!("{extra}node-name"), json!([""]), "bound to a node"),
            (&format!("{extra}node-uid"), json!([]), "bound to a node"),
        ] {
            let error = read_changed(pointer, value).unwrap_err().to_string();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
    }

    #[test]
    fn only_a_token_for_this_audience_alone_is_shown() {
        let token = |claims: Value| {
            let encoded = URL_SAFE_NO_PAD.encode(claims.to_string());
            format!("e30.{encoded}.c2ln")
        };
        assert!(is_for(&token(json!({"aud": [AUDIENCE]})), AUDIENCE));
        for bad in [
            token(json!({"aud": [AUDIENCE, "https://kubernetes.default.svc"]})),
            token(json!({"aud": ["other"]})),
            token(json!({"aud": AUDIENCE})),
            token(json!({})),
            "a.b".to_owned(),
            format!("{}.x", token(json!({"aud": [AUDIENCE]}))),
            format!("{}{}", token(json!({"aud": [AUDIENCE]})), "a".repeat(TOKEN_LIMIT)),
        ] {
            assert!(!is_for(&bad, AUDIENCE), "{bad:.40}");
        }
    }
}
