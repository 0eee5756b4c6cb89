//! Access reviews: whether a ServiceAccount may do something, as an API server sees it.
//!
//! About an existing ServiceAccount the issuer asks itself, by its user name and its groups: in a namespace with a
//! LocalSubjectAccessReview, for which it needs a right there, and in the whole cluster with a SubjectAccessReview, for which
//! it needs one over all, and gets one only where a role asks for that. A ServiceAccount that was just made for a lease
//! asks for itself, by a token that nobody else ever sees, and needs no right.

use http::Method;
use http::header::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shorepass_core::cluster::MintError;
use shorepass_core::mint::Order;
use shorepass_core::name::Name;
use shorepass_core::needs::{Missing, Need, Right, Scope};
use shorepass_core::role::Target;

use crate::answer;
use crate::api_server::Call;
use crate::kube_cluster::{KubeCluster, USER_AGENT};
use crate::refusal::{Act, act_error};

const GROUP: &str = "/apis/authorization.k8s.io/v1";

impl KubeCluster {
    /// Those of these rights that an existing ServiceAccount does not have.
    pub(crate) async fn lacking_now(
        &self,
        account: &Target,
        rights: &[Right],
    ) -> Result<Vec<Right>, MintError> {
        let mut lacking = Vec::new();
        for right in rights {
            let (path, body) = question(account, right);
            let call = Call { method: Method::POST, path, user_agent: USER_AGENT, body: &body };
            let act = match &right.scope {
                Scope::Namespace(namespace) => Act::Review { namespace, everywhere: false },
                Scope::Cluster => Act::Review { namespace: &account.namespace, everywhere: true },
            };
            let answer = self.api.call(call).await;
            let answer = answer.map_err(|error| act_error(error, act, &self.endpoint.name))?;
            if !is_allowed(&answer)? {
                lacking.push(right.clone());
            }
        }
        Ok(lacking)
    }

    /// Fails where the ServiceAccount of a strict lease, whose token this is, is not allowed what the role needs.
    pub(crate) async fn meets_needs(
        &self,
        order: &Order,
        bearer: &HeaderValue,
        reviewer: &str,
    ) -> Result<(), MintError> {
        let mut missing = Vec::new();
        for right in order.needs().iter().flat_map(Need::rights) {
            let body = json!({"spec": {"resourceAttributes": attributes(&right)}});
            let path = format!("{GROUP}/selfsubjectaccessreviews");
            let call = Call { method: Method::POST, path, user_agent: reviewer, body: &body };
            let act = Act::CreateToken {
                namespace: &order.target().namespace,
                service_account: &order.target().service_account,
            };
            let answer = self.api.call_as(bearer.clone(), call).await;
            let answer = answer.map_err(|error| act_error(error, act, &self.endpoint.name))?;
            // Who is not let in is allowed nothing.
            if !answer.map(|body| is_allowed(&body)).transpose()?.unwrap_or(false) {
                missing.push(right);
            }
        }
        let who = "a ServiceAccount with what spec.strict.bindings of the role names".to_owned();
        let adds = "whoever writes the role adds to those, or to a Role that they name, and applies `shorepass-issuer rbac` again:";
        Missing::of(missing).map_or(Ok(()), |missing| Err(MintError::NeedsMissing { who, adds, missing }))
    }
}

/// What is asked about an existing ServiceAccount, and where.
fn question(account: &Target, right: &Right) -> (String, Value) {
    let Target { namespace, service_account, .. } = account;
    let spec = json!({
        "user": format!("system:serviceaccount:{namespace}:{service_account}"),
        "groups": groups(namespace),
        "resourceAttributes": attributes(right),
    });
    match &right.scope {
        Scope::Namespace(place) => (
            format!("{GROUP}/namespaces/{place}/localsubjectaccessreviews"),
            json!({"metadata": {"namespace": place}, "spec": spec}),
        ),
        Scope::Cluster => (format!("{GROUP}/subjectaccessreviews"), json!({"spec": spec})),
    }
}

/// Those of every ServiceAccount of the namespace.
fn groups(namespace: &Name) -> [String; 3] {
    let authenticated = "system:authenticated".to_owned();
    ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}"), authenticated]
}

/// As the API has them; what is empty is absent.
#[derive(Serialize)]
pub(crate) struct Attributes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a Name>,
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

pub(crate) fn attributes(right: &Right) -> Attributes<'_> {
    let (resource, subresource) = right.parts();
    let namespace = match &right.scope {
        Scope::Namespace(namespace) => Some(namespace),
        Scope::Cluster => None,
    };
    let (verb, group, name) = (&right.verb, &right.group, right.name.as_deref());
    Attributes { namespace, verb, group, resource, subresource, name }
}

fn is_allowed(body: &[u8]) -> Result<bool, MintError> {
    let review: Review = answer::parse("the access review", body).map_err(MintError::AnswerRejected)?;
    Ok(review.status.allowed && !review.status.denied)
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    allowed: bool,
    #[serde(default)]
    denied: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn right(scope: Scope) -> Right {
        let (group, resource) = (String::new(), "pods/log".to_owned());
        Right { scope, group, resource, name: Some("a".to_owned()), verb: "get".to_owned() }
    }

    #[test]
    fn a_service_account_is_asked_about_with_its_groups_where_the_right_has_to_hold() {
        let account =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let (path, body) = question(&account, &right(Scope::Namespace(name("api"))));
        assert_eq!(path, "/apis/authorization.k8s.io/v1/namespaces/api/localsubjectaccessreviews");
        assert_eq!(body["metadata"]["namespace"], "api");
        let spec = &body["spec"];
        assert_eq!(spec["user"], "system:serviceaccount:web:deployer");
        let groups = json!(["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"]);
        assert_eq!(spec["groups"], groups);
        let asked = json!({"namespace": "api", "verb": "get", "group": "", "resource": "pods", "subresource": "log", "name": "a"});
        assert_eq!(spec["resourceAttributes"], asked);
        let (path, body) = question(&account, &right(Scope::Cluster));
        assert_eq!(path, "/apis/authorization.k8s.io/v1/subjectaccessreviews");
        assert!(body["spec"]["resourceAttributes"].get("namespace").is_none(), "{body}");
    }

    #[test]
    fn only_a_plain_yes_is_one() {
        let allowed = |status: &str| is_allowed(format!(r#"{{"status":{status}}}"#).as_bytes());
        assert_eq!(allowed(r#"{"allowed":true}"#), Ok(true));
        assert_eq!(allowed(r#"{"allowed":false,"reason":"no"}"#), Ok(false));
        assert_eq!(allowed(r#"{"allowed":true,"denied":true}"#), Ok(false));
        assert!(matches!(allowed("{}"), Err(MintError::AnswerRejected(_))));
    }
}
