//! What a cluster has to grant the issuer and what it has to forbid it, generated from the roles.
//!
//! The text comes from the templates in `deploy/kubernetes/`, one multi-document YAML for `kubectl apply -f -`. Values
//! are put in as JSON strings, which YAML reads as they are meant: a namespace may be called `true`. Rights and policy
//! come in one piece because the rights alone are the power to read every Secret.

use std::collections::BTreeMap;

use serde_json::json;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

use crate::names;

const HEAD: &str = include_str!("../../../deploy/kubernetes/head.yaml");
const ISSUER: &str = include_str!("../../../deploy/kubernetes/issuer.yaml");
const TARGET: &str = include_str!("../../../deploy/kubernetes/target.yaml");
const POLICY: &str = include_str!("../../../deploy/kubernetes/policy.yaml");

/// As whom the cluster knows the issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerIdentity {
    /// A ServiceAccount, which is printed too, with its namespace.
    ServiceAccount {
        /// Its namespace.
        namespace: Name,
        /// Its name.
        name: Name,
    },
    /// A user of the cluster's own, such as the common name of a client certificate.
    User(String),
}

/// What API servers call themselves unless they are told otherwise.
const USUAL_AUDIENCES: [&str; 3] =
    ["https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "kubernetes"];

/// What the cluster's API server calls itself in `aud`, for nobody else may a token be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audiences(Vec<String>);

impl Audiences {
    /// Those that were named; the usual ones if none was.
    pub fn new(named: Vec<String>) -> Result<Self, RenderError> {
        if let Some(odd) = named.iter().find(|audience| !is_audience(audience)) {
            return Err(RenderError::Audience(odd.clone()));
        }
        let usual = || USUAL_AUDIENCES.map(str::to_owned).to_vec();
        Ok(Self(if named.is_empty() { usual() } else { named }))
    }
}

/// A word or a URI, and nothing that means something else in CEL, YAML or a template.
fn is_audience(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/?#[]@!&()*+,;=%".contains(c))
}

/// Why there is nothing to print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// No role leads to the cluster.
    #[error("no role has spec.cluster {cluster}; the roles name {}", list(.known))]
    NoRoles {
        /// The cluster that was asked for.
        cluster: Name,
        /// The clusters that the roles name.
        known: Vec<Name>,
    },
    /// The user's name is none.
    #[error("{0:?} is not a user name: it is empty or has control characters")]
    User(String),
    /// The audience is none.
    #[error("{0:?} is not an audience: a word or a URI, such as https://kubernetes.default.svc")]
    Audience(String),
}

/// Prints what the issuer called `issuer` needs in `cluster` for its roles, and no more.
pub fn render(
    roles: &[Role],
    cluster: &Name,
    identity: &IssuerIdentity,
    issuer: &Name,
    audiences: &Audiences,
) -> Result<String, RenderError> {
    let targets = targets(roles, cluster)?;
    let policy = json!(names::policy_name(issuer)).to_string();
    let mut output = fill(HEAD, &[("ISSUER", issuer.as_str()), ("CLUSTER", cluster.as_str())]);
    match identity {
        IssuerIdentity::ServiceAccount { namespace, name } => output.push_str(&fill(
            ISSUER,
            &[
                ("ISSUER_NAMESPACE", &json!(namespace).to_string()),
                ("ISSUER_SERVICE_ACCOUNT", &json!(name).to_string()),
            ],
        )),
        IssuerIdentity::User(user) if user.is_empty() || user.contains(char::is_control) => {
            return Err(RenderError::User(user.clone()));
        }
        IssuerIdentity::User(_) => {}
    }
    for (namespace, accounts) in &targets {
        let service_accounts: Vec<&str> = accounts.keys().copied().collect();
        output.push_str(&fill(
            TARGET,
            &[
                ("NAMESPACE", &json!(namespace).to_string()),
                ("POLICY", &policy),
                ("SERVICE_ACCOUNTS", &json!(service_accounts).to_string()),
                ("SUBJECT", &identity.subject()),
            ],
        ));
    }
    output.push_str(&fill(
        POLICY,
        &[
            ("POLICY", &policy),
            ("LONGEST", &longest(&targets)),
            ("AUDIENCES", &json!(audiences.0).to_string()),
            ("LEASE_ANNOTATION", names::LEASE_ANNOTATION),
            ("ISSUER_LABEL", names::ISSUER_LABEL),
            ("LEASE_ID", names::LEASE_ID_ANNOTATION),
            ("AUDIT_KEY", names::AUDIT_KEY),
            // Last: the only value that could itself look like a placeholder.
            ("USERNAME", &json!(identity.username()).to_string()),
        ],
    ));
    Ok(output)
}

impl IssuerIdentity {
    /// The user name in the cluster.
    pub fn username(&self) -> String {
        match self {
            Self::ServiceAccount { namespace, name } => format!("system:serviceaccount:{namespace}:{name}"),
            Self::User(user) => user.clone(),
        }
    }

    /// The subject of a RoleBinding.
    fn subject(&self) -> String {
        match self {
            Self::ServiceAccount { namespace, name } => {
                format!("{{kind: ServiceAccount, namespace: {}, name: {}}}", json!(namespace), json!(name))
            }
            Self::User(user) => {
                format!("{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {}}}", json!(user))
            }
        }
    }
}

/// Namespace, then ServiceAccount, then the longest token in seconds.
type Targets<'a> = BTreeMap<&'a Name, BTreeMap<&'a str, u64>>;

fn targets<'a>(roles: &'a [Role], cluster: &Name) -> Result<Targets<'a>, RenderError> {
    let mut targets = Targets::new();
    for role in roles.iter().filter(|role| role.target().cluster == *cluster) {
        let accounts = targets.entry(&role.target().namespace).or_default();
        let longest = accounts.entry(&role.target().service_account).or_default();
        *longest = role.token().max.as_secs().max(*longest);
    }
    if targets.is_empty() {
        let mut known: Vec<Name> = roles.iter().map(|role| role.target().cluster.clone()).collect();
        known.sort();
        known.dedup();
        return Err(RenderError::NoRoles { cluster: cluster.clone(), known });
    }
    Ok(targets)
}

/// The entries of a CEL map, one on a line.
fn longest(targets: &Targets<'_>) -> String {
    let mut lines = Vec::new();
    for (namespace, accounts) in targets {
        for (account, seconds) in accounts {
            lines.push(format!("        \"{namespace}/{account}\": {seconds}"));
        }
    }
    lines.join(",\n")
}

fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (key, value) in values {
        text = text.replace(&format!("${{{key}}}"), value);
    }
    text
}

fn list(names: &[Name]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shorepass_core::digest::Digest;
    use shorepass_core::name::NamePattern;
    use shorepass_core::role::{Lifetime, Subject, Target};

    use super::*;

    const GOLDEN: &str = include_str!("../testdata/rbac.yaml");

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn role(role: &str, cluster: &str, namespace: &str, service_account: &str, minutes: u64) -> Role {
        let lifetime =
            |minutes| Lifetime { default: Duration::from_secs(600), max: Duration::from_secs(minutes * 60) };
        let target = Target {
            cluster: name(cluster),
            namespace: name(namespace),
            service_account: service_account.to_owned(),
        };
        let runners = vec![NamePattern::parse("prod-*").unwrap()];
        let subject = Subject { runners, platforms: vec![], accept_asserted_jobs: true };
        let digest = Digest::of_bytes(role.as_bytes());
        Role::new(name(role), target, lifetime(minutes), lifetime(minutes), vec![subject], digest).unwrap()
    }

    fn roles() -> Vec<Role> {
        vec![
            role("web-deployer", "staging", "web", "deployer", 60),
            role("web-nightly", "staging", "web", "deployer", 120),
            role("web-reader", "staging", "web", "reader.v1", 10),
            role("odd", "staging", "true", "0", 10),
            role("elsewhere", "production", "pay", "deployer", 60),
        ]
    }

    fn service_account() -> IssuerIdentity {
        IssuerIdentity::ServiceAccount { namespace: name("shorepass"), name: name("issuer") }
    }

    fn audiences(named: &[&str]) -> Result<Audiences, RenderError> {
        Audiences::new(named.iter().copied().map(str::to_owned).collect())
    }

    fn rendered(identity: &IssuerIdentity) -> String {
        render(&roles(), &name("staging"), identity, &name("main"), &audiences(&[]).unwrap()).unwrap()
    }

    #[test]
    fn the_output_is_the_reviewed_one() {
        let output = rendered(&service_account());
        assert!(output == GOLDEN, "testdata/rbac.yaml differs from:\n{output}");
    }

    #[test]
    fn the_rights_are_create_and_delete_and_nothing_else() {
        let verbs: Vec<&str> =
            GOLDEN.lines().filter_map(|line| line.trim().strip_prefix("verbs: ")).collect();
        assert!(!verbs.is_empty());
        assert!(verbs.iter().all(|verbs| ["[create]", "[create, delete]"].contains(verbs)), "{verbs:?}");
        for forbidden in ["ClusterRole", "cluster-admin", "\"*\"", "system:masters", "- '*'"] {
            assert!(!GOLDEN.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn other_clusters_roles_give_no_rights() {
        assert!(!rendered(&service_account()).contains("pay"));
    }

    #[test]
    fn the_longest_life_of_all_roles_counts() {
        assert!(GOLDEN.contains("\"web/deployer\": 7200"));
    }

    #[test]
    fn no_placeholder_is_left() {
        assert!(!GOLDEN.contains("${"));
    }

    #[test]
    fn a_user_gets_no_service_account_and_is_quoted() {
        let output = rendered(&IssuerIdentity::User("o'neil \"x\": y".to_owned()));
        assert!(!output.contains("kind: Namespace") && !output.contains("kind: ServiceAccount"));
        assert!(output.contains(r#"request.userInfo.username == "o'neil \"x\": y""#), "{output}");
    }

    #[test]
    fn named_audiences_replace_the_usual_ones() {
        let own = audiences(&["https://id.example.org/c/1", "k3s"]).unwrap();
        let output = render(&roles(), &name("staging"), &service_account(), &name("main"), &own).unwrap();
        assert!(output.contains(r#"audience in ["https://id.example.org/c/1","k3s"]"#), "{output}");
        assert!(!output.contains(USUAL_AUDIENCES[0]));
    }

    #[test]
    fn what_cannot_be_an_audience_is_refused() {
        for odd in ["", "a b", "a\nb", "a\"]", "a'", "a\\", "${USERNAME}"] {
            assert_eq!(audiences(&["kubernetes", odd]), Err(RenderError::Audience(odd.to_owned())));
        }
    }

    #[test]
    fn nothing_is_printed_for_nobody() {
        let usual = audiences(&[]).unwrap();
        let refused = |cluster, identity| {
            render(&roles(), &name(cluster), &identity, &name("main"), &usual).unwrap_err()
        };
        let known = vec![name("production"), name("staging")];
        let none = RenderError::NoRoles { cluster: name("prod"), known };
        assert_eq!(refused("prod", service_account()), none);
        for user in ["", "a\nb"] {
            let identity = IssuerIdentity::User(user.to_owned());
            assert_eq!(refused("staging", identity), RenderError::User(user.to_owned()));
        }
    }
}
