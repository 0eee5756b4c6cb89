//! The cluster port: mint on an anchor, cut an anchor.
//!
//! An implementation retries nothing by itself and ends each call by its own deadline: a retried TokenRequest is a token
//! that nobody recorded.

use std::time::Duration;

use async_trait::async_trait;

use crate::id::CallId;
use crate::lease::Lease;
use crate::mint::{Minted, Order};
use crate::name::Name;
use crate::needs::{Missing, Right};
use crate::receipt::Witnesses;
use crate::role::Target;

/// Where clients find the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The cluster's name in the issuer's config.
    pub name: Name,
    /// The API server's URL.
    pub server: String,
    /// The certificate authorities to trust for it, PEM; empty for the system's.
    pub ca_bundle_pem: Vec<u8>,
    /// The name to verify the server's certificate against; empty for the URL's host.
    pub tls_server_name: String,
}

/// Why no token was minted. What was to be made for the lease may exist all the same, except where it is said that nothing
/// was made: who called cuts it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The ServiceAccount does not exist.
    #[error("ServiceAccount {namespace}/{name} does not exist")]
    ServiceAccountMissing {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Another ServiceAccount stands under the name since the lease began.
    #[error("ServiceAccount {namespace}/{name} was deleted and recreated since the lease began")]
    ServiceAccountReplaced {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// RBAC, or our own admission policy, refuses the issuer.
    #[error("the cluster forbids the issuer to {rule}")]
    Forbidden {
        /// What it lacks, such as `create serviceaccounts/token "deployer" in namespace "web"`.
        rule: String,
    },
    /// RBAC or admission refuses the first thing that is asked of the cluster: nothing was made.
    #[error("the cluster forbids the issuer to {rule}")]
    ForbiddenToBegin {
        /// What it lacks.
        rule: String,
    },
    /// A Role that a strict lease is bound to does not exist: nothing was made.
    #[error("{role} does not exist{}", place(.namespace))]
    RoleMissing {
        /// Which, such as `Role/deployer`.
        role: String,
        /// Where; none for a ClusterRole.
        namespace: Option<Name>,
    },
    /// A strict lease's rights were not seen in effect.
    #[error("the rights of {role} in namespace {namespace} are not in effect after {} s", .waited.as_secs())]
    RightsNotInEffect {
        /// Which, such as `Role/deployer`.
        role: String,
        /// Where.
        namespace: Name,
        /// How long was waited.
        waited: Duration,
    },
    /// Somebody else's admission (a policy, a webhook, a quota) refuses the issuer. What it says may tell how the cluster
    /// is made, so it is for the operator, and not for the caller.
    #[error("admission in the cluster forbids the issuer to {act}; it says: {words}")]
    AdmissionRefused {
        /// What the issuer was about to do, such as `create secrets in namespace "web"`.
        act: String,
        /// The refusal's own text.
        words: String,
        /// Whether something may have been made before.
        begun: bool,
    },
    /// The namespace is not there, or not for long: nothing is created in it.
    #[error("namespace {namespace} {}", if *.deleting { "is being deleted" } else { "does not exist" })]
    NamespaceUnavailable {
        /// Which.
        namespace: Name,
        /// Whether it still exists.
        deleting: bool,
        /// Whether something may have been made before.
        begun: bool,
    },
    /// A ResourceQuota leaves no room. Its words name it and its numbers, and are for the operator.
    #[error("a ResourceQuota leaves the issuer no room to {act}; it says: {words}")]
    QuotaExceeded {
        /// What the issuer was about to do, such as `create secrets in namespace "web"`.
        act: String,
        /// The refusal's own text.
        words: String,
        /// Whether something may have been made before.
        begun: bool,
    },
    /// The admission policy was not found: nothing was made.
    #[error("the admission policy of shorepass is not in effect in namespace {namespace}")]
    PolicyMissing {
        /// Where.
        namespace: String,
    },
    /// The clocks differ.
    #[error("the API server's clock differs from the issuer's by {seconds} s")]
    ClockSkew {
        /// By how much; positive if the API server is ahead.
        seconds: i64,
    },
    /// No answer in time.
    #[error("the API server of cluster {cluster} cannot be reached: {cause}")]
    Unreachable {
        /// Which cluster.
        cluster: Name,
        /// What went wrong, without secrets.
        cause: String,
    },
    /// The API server, or our share of it, is at its limit.
    #[error("cluster {cluster} is busy")]
    Busy {
        /// Which cluster.
        cluster: Name,
        /// When to come back.
        retry_after: Duration,
    },
    /// Another write came in between; it says nothing about the cluster.
    #[error("another write to cluster {cluster} came in between")]
    Contended {
        /// Which cluster.
        cluster: Name,
    },
    /// A webhook that the API server has to ask does not work. It may be asked about one namespace alone.
    #[error(
        "the API server of cluster {cluster} cannot be reached: an admission webhook is not in order, the issuer's log says which"
    )]
    WebhookFails {
        /// Which cluster.
        cluster: Name,
    },
    /// The ServiceAccount is not allowed what the role needs.
    #[error("{who} is not allowed all that the role needs; {adds} {missing}")]
    NeedsMissing {
        /// Which, as `ServiceAccount namespace/name`; of a generated one, that its bindings decide.
        who: String,
        /// Who adds what is missing, in words.
        adds: &'static str,
        /// What is missing.
        missing: Missing,
    },
    /// The anchor is gone (only on an order for an existing one).
    #[error("the lease's anchor was deleted by somebody else")]
    AnchorLost,
    /// The answer is not what was asked for.
    #[error("the API server's answer was rejected: {0}")]
    AnswerRejected(String),
}

impl MintError {
    /// Whether nothing was made in the cluster.
    pub fn nothing_was_made(&self) -> bool {
        match self {
            Self::ForbiddenToBegin { .. } | Self::RoleMissing { .. } | Self::PolicyMissing { .. } => true,
            Self::AdmissionRefused { begun, .. }
            | Self::NamespaceUnavailable { begun, .. }
            | Self::QuotaExceeded { begun, .. } => !begun,
            Self::ServiceAccountMissing { .. }
            | Self::NeedsMissing { .. }
            | Self::ServiceAccountReplaced { .. }
            | Self::Forbidden { .. }
            | Self::RightsNotInEffect { .. }
            | Self::ClockSkew { .. }
            | Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Contended { .. }
            | Self::WebhookFails { .. }
            | Self::AnchorLost
            | Self::AnswerRejected(_) => false,
        }
    }
}

fn place(namespace: &Option<Name>) -> String {
    namespace.as_ref().map_or_else(String::new, |namespace| format!(" in namespace {namespace}"))
}

/// Why something of a lease could not be deleted; it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// RBAC or the admission policy refuses.
    #[error("the cluster forbids the issuer to {0}")]
    Forbidden(String),
    /// No answer in time, or a failure of the server.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The API server is at its limit.
    #[error("the API server is busy and wants to be left alone for {} s", .retry_after.as_secs())]
    Busy {
        /// When to come back.
        retry_after: Duration,
    },
    /// A finalizer holds the anchor; its tokens die 60 s after the delete at the latest.
    #[error("a finalizer holds the anchor: remove it from Secret {0}")]
    HeldByFinalizer(String),
    /// A finalizer holds something else that was made for the lease.
    #[error("a finalizer holds {0}: remove it")]
    PartHeldByFinalizer(String),
}

/// One API server (or HA set), which can also be asked how dead a token is.
#[async_trait]
pub trait Cluster: Witnesses {
    /// Where clients find it.
    fn endpoint(&self) -> &Endpoint;

    /// Mints a token on the order's anchor, which is created with this annotation if the order is a lease's first. A strict
    /// lease's bindings and ServiceAccount are made before, and its first token is given back when its rights are in
    /// effect at the API server that answered. An unbound lease has no anchor, and nothing is made for it. The cluster is
    /// told for which call.
    ///
    /// May repeat: no. On an error what the record names may or may not exist.
    async fn mint(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError>;

    /// Those of these rights that an existing ServiceAccount does not have, its groups counted: as the API server sees it that
    /// answers.
    async fn lacking(&self, account: &Target, rights: &[Right]) -> Result<Vec<Right>, MintError>;

    /// Deletes all that the record of a lease names: bindings, then anchor, then ServiceAccount. What is not there is
    /// deleted; what cannot be deleted holds up nothing else. May repeat: yes.
    async fn cut(&self, lease: &Lease) -> Result<(), CutError>;
}
