//! What a cluster has to grant the issuer and what it has to forbid it, generated from the roles.
//!
//! The text comes from the templates in `deploy/kubernetes/`, one multi-document YAML for `kubectl apply -f -`. Values
//! are put in as JSON strings, which YAML reads as they are meant: a namespace may be called `true`. Rights and policy
//! come in one piece because the rights alone are the power to read every Secret.

mod listing;
mod needs;
mod renewal;
mod token_reviews;

use serde_json::json;
use shorepass_core::audience::{OF_API_SERVERS, is_audience};
use shorepass_core::name::Name;
use shorepass_core::policy::PolicyError;
use shorepass_core::role::Role;

use crate::names;
use crate::own::OwnAccount;
pub use listing::render_listing;
use needs::Needs;
pub use renewal::render_renewing;
pub use token_reviews::render_token_reviews;

const HEAD: &str = include_str!("../../../deploy/kubernetes/head.yaml");
const ISSUER: &str = include_str!("../../../deploy/kubernetes/issuer.yaml");
const COORDINATION: &str = include_str!("../../../deploy/kubernetes/coordination.yaml");
const POLICY: &str = include_str!("../../../deploy/kubernetes/policy.yaml");
const TOKEN_SECRETS: &str = include_str!("../../../deploy/kubernetes/token-secrets.yaml");
const LEASES: &str = include_str!("../../../deploy/kubernetes/leases.yaml");

/// As whom the cluster knows the issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerIdentity {
    /// A ServiceAccount, which is printed too.
    ServiceAccount {
        /// Its namespace.
        namespace: Name,
        /// Its name.
        name: Name,
    },
    /// A user of the cluster's own, such as the common name of a client certificate.
    User {
        /// Its name.
        name: String,
        /// The namespace of the issuer's own Lease.
        namespace: Name,
    },
}

/// What the cluster's API server calls itself in `aud`: for nobody else may a token be that no role gives to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audiences(Vec<String>);

impl Audiences {
    /// Those that were named; the usual ones if none was.
    pub fn new(named: Vec<String>) -> Result<Self, RenderError> {
        if let Some(odd) = named.iter().find(|audience| !is_audience(audience)) {
            return Err(RenderError::Audience(odd.clone()));
        }
        let usual = || OF_API_SERVERS.map(str::to_owned).to_vec();
        Ok(Self(if named.is_empty() { usual() } else { named }))
    }

    /// No role gives others what the API server takes.
    fn check(&self, roles: &[Role], cluster: &Name) -> Result<(), RenderError> {
        for role in roles.iter().filter(|role| role.cluster() == cluster) {
            let own = role
                .audiences()
                .and_then(|others| self.0.iter().find(|own| others.iter().any(|one| one == *own)));
            if let Some(own) = own {
                return Err(RenderError::OwnAudience { role: role.name().clone(), audience: own.clone() });
            }
        }
        Ok(())
    }
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
    /// The roles do not go together.
    #[error(transparent)]
    Roles(#[from] PolicyError),
    /// The issuer's own ServiceAccount or Lease would be among the generated ServiceAccounts.
    #[error(
        "the issuer's own namespace is {0}, which is for generated ServiceAccounts alone: give it another \
         (--namespace), or set spec.strict.namespace of the strict roles"
    )]
    OwnNamespace(Name),
    /// The user's name is none.
    #[error("{0:?} is not a user name: it is empty or has control characters")]
    User(String),
    /// The issuer could make, or delete, the Secret that its own token is bound to.
    #[error("Secret {0} is named like a lease's, which the issuer may make: give it another name")]
    RenewSecret(Name),
    /// The audience is none.
    #[error("{0:?} is not an audience: a word or a URI, such as https://kubernetes.default.svc")]
    Audience(String),
    /// A role for others is for the API server too.
    #[error(
        "role {role} has {audience} in spec.audiences, which --audience says is the API server itself: take one of the two out"
    )]
    OwnAudience {
        /// The role.
        role: Name,
        /// The audience.
        audience: String,
    },
}

/// Prints what the issuer called `issuer` needs in `cluster` for its roles, and no more.
pub fn render(
    roles: &[Role],
    cluster: &Name,
    identity: &IssuerIdentity,
    issuer: &Name,
    audiences: &Audiences,
) -> Result<String, RenderError> {
    render_with(roles, cluster, identity, None, issuer, audiences)
}

/// The same; where the issuer renews its own token, with what that needs.
fn render_with(
    roles: &[Role],
    cluster: &Name,
    identity: &IssuerIdentity,
    own: Option<&OwnAccount>,
    issuer: &Name,
    audiences: &Audiences,
) -> Result<String, RenderError> {
    let needs = Needs::of(roles, cluster)?;
    audiences.check(roles, cluster)?;
    if let IssuerIdentity::User { name, .. } = identity
        && (name.is_empty() || name.contains(char::is_control))
    {
        return Err(RenderError::User(name.clone()));
    }
    if needs.strict.contains_key(identity.namespace()) {
        return Err(RenderError::OwnNamespace(identity.namespace().clone()));
    }
    let subject = identity.subject();
    let policy = json!(names::policy_name(issuer)).to_string();
    let username = json!(identity.username()).to_string();
    let mut output = fill(HEAD, &[("ISSUER", issuer.as_str()), ("CLUSTER", cluster.as_str())]);
    let home = json!(identity.namespace()).to_string();
    let presence = json!(format!("{}-presence", names::policy_name(issuer))).to_string();
    let values = [
        ("ISSUER_NAMESPACE", home.as_str()),
        ("POLICY", &policy),
        ("PRESENCE", &presence),
        ("SUBJECT", &subject),
    ];
    output.push_str(&fill(COORDINATION, &values));
    if let IssuerIdentity::ServiceAccount { name, .. } = identity {
        let name = json!(name).to_string();
        output.push_str(&fill(ISSUER, &[("ISSUER_NAMESPACE", &home), ("ISSUER_SERVICE_ACCOUNT", &name)]));
    }
    if let Some(own) = own {
        output.push_str(&renewal::rights(own, issuer, &subject));
    }
    output.push_str(&needs.rights(issuer, &subject));
    output.push_str(&fill(
        &renewal::policy(POLICY, own),
        &[
            ("POLICY", &policy),
            ("ISSUER_NAMESPACE", &home),
            ("LONGEST", &needs.longest_bound()),
            ("UNBOUND", &needs.longest_unbound()),
            ("STRICT", &needs.longest_strict()),
            ("BINDABLE", &needs.bindable()),
            ("AUDIENCES", &json!(audiences.0).to_string()),
            ("LEASE_ANNOTATION", names::LEASE_ANNOTATION),
            ("ISSUER_LABEL", names::ISSUER_LABEL),
            ("LEASE_ID", names::LEASE_ID_ANNOTATION),
            ("AUDIT_KEY", names::AUDIT_KEY),
            // Last: the only value that could itself look like a placeholder.
            ("USERNAME", &username),
        ],
    ));
    output.push_str(&fill(
        LEASES,
        &[
            ("LEASE_POLICY", &json!(names::lease_policy_name(issuer)).to_string()),
            ("ISSUER_LABEL", names::ISSUER_LABEL),
            ("ISSUER", &format!("'{issuer}'")),
            ("USERNAME", &username),
        ],
    ));
    output.push_str(&fill(
        TOKEN_SECRETS,
        &[
            ("TOKEN_POLICY", &json!(names::token_policy_name(issuer)).to_string()),
            ("GIVEN", &needs.given(own)),
            ("STRICT", &json!(needs.strict.keys().collect::<Vec<_>>()).to_string()),
            ("USERNAME", &username),
        ],
    ));
    Ok(output)
}

impl IssuerIdentity {
    /// The user name in the cluster.
    pub fn username(&self) -> String {
        match self {
            Self::ServiceAccount { namespace, name } => format!("system:serviceaccount:{namespace}:{name}"),
            Self::User { name, .. } => name.clone(),
        }
    }

    /// The namespace of the issuer's own.
    pub fn namespace(&self) -> &Name {
        match self {
            Self::ServiceAccount { namespace, .. } | Self::User { namespace, .. } => namespace,
        }
    }

    /// The subject of a RoleBinding.
    fn subject(&self) -> String {
        match self {
            Self::ServiceAccount { namespace, name } => {
                format!("{{kind: ServiceAccount, namespace: {}, name: {}}}", json!(namespace), json!(name))
            }
            Self::User { name, .. } => {
                format!("{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {}}}", json!(name))
            }
        }
    }
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
mod tests;
