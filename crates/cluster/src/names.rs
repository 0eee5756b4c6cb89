//! The names that stand in a cluster and therefore never change.

use shorepass_core::name::Name;

/// The type of the Secrets that are anchors.
pub const LEASE_TYPE: &str = "shorepass.dev/lease";
/// The type of the Secret that the issuer's own token is bound to: the issuer may neither make nor delete one.
pub const OWN_TYPE: &str = "shorepass.dev/credential";
/// On an anchor: the authenticated record of its lease.
pub const LEASE_ANNOTATION: &str = "shorepass.dev/lease";
/// On an anchor: whose it is.
pub const ISSUER_LABEL: &str = "shorepass.dev/issuer";
/// On an anchor, and on what [`crate::rbac::render`] prints: what it belongs to.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "shorepass";
/// On a TokenRequest: its lease. The admission policy copies it into the audit log.
pub const LEASE_ID_ANNOTATION: &str = "shorepass.dev/lease-id";
/// The key under which the admission policy does so: `<policy>/lease-id`.
pub const AUDIT_KEY: &str = "lease-id";

/// The API group of Roles and RoleBindings.
pub const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// What the names of admission policies of shorepass begin with.
pub const POLICY_PREFIX: &str = "shorepass-issuer-";

/// The name of the admission policy that keeps permanent tokens of the roles' ServiceAccounts out of the cluster.
pub fn token_policy_name(issuer: &Name) -> String {
    format!("shorepass-token-secrets-{issuer}")
}

/// The name of the admission policy that leaves an issuer's anchors to it alone.
pub fn lease_policy_name(issuer: &Name) -> String {
    format!("shorepass-leases-{issuer}")
}

/// The name of the admission policy that bounds an issuer, and of the roles and bindings of an issuer.
pub fn policy_name(issuer: &Name) -> String {
    format!("{POLICY_PREFIX}{issuer}")
}
