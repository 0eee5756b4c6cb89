//! Runner pods, as a cluster knows them by their projected ServiceAccount tokens.
//!
//! Such a token proves a pod only where it is bound to one that runs on a node: the API server refuses it when the pod is
//! gone, and nobody gets one for a pod that was never scheduled. The token itself is shown to the cluster and kept nowhere.

use std::fmt;

use async_trait::async_trait;

use crate::name::Name;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The cluster it runs in, by its name in the issuer's config.
    pub cluster: Name,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: String,
    /// Its UID, which no other pod ever has.
    pub uid: String,
}

impl Pod {
    /// Whether it is the same pod or one that came in its place: two of a name are never there at once.
    pub fn follows(&self, other: &Self) -> bool {
        self.cluster == other.cluster && self.namespace == other.namespace && self.name == other.name
    }
}

/// `staging/ci/runner-0`
impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

/// What a cluster says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    /// The pod that it is bound to.
    pub pod: Pod,
    /// The pod's ServiceAccount.
    pub service_account: String,
}

/// Why a token proves no pod. The texts are for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The cluster does not confirm that it is for this audience.
    #[error("the cluster does not confirm that it is for audience {0:?}")]
    OtherAudience(String),
    /// The cluster does not take it.
    #[error("the cluster does not accept it: {0}")]
    Rejected(String),
    /// It is not bound to a pod on a node.
    #[error("it is not bound to a {0}")]
    Unbound(&'static str),
    /// RBAC forbids the issuer to ask.
    #[error("the cluster forbids the issuer to create tokenreviews.authentication.k8s.io")]
    Forbidden,
    /// No answer in time.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The answer makes no sense.
    #[error("the API server's answer to the TokenReview makes no sense: {0}")]
    Garbled(&'static str),
}

/// Whoever asks one cluster about tokens.
#[async_trait]
pub trait TokenReviews: Send + Sync {
    /// Whether a token says of itself that it is for this audience alone. Nothing is verified, and nobody is asked.
    fn says_it_is_for(&self, token: &str, audience: &str) -> bool;

    /// Whose token it is, for this audience. May repeat: yes.
    async fn review(&self, token: &str, audience: &str) -> Result<Reviewed, ReviewError>;
}
