//! What a cluster has to grant the credential that lists anchors: `list secrets` where leases are, and no more.
//!
//! That is much: whoever may list Secrets may read them all. So it is printed only for who asks for it, and for another
//! identity than the issuer's.

use serde_json::json;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

use super::needs::Needs;
use super::{IssuerIdentity, RenderError, fill};
use crate::names;

const ACCOUNT: &str = include_str!("../../../../deploy/kubernetes/issuer.yaml");
const LISTING: &str = include_str!("../../../../deploy/kubernetes/listing.yaml");

/// Prints what `identity` needs in `cluster` to list the anchors of the issuer called `issuer`.
pub fn render_listing(
    roles: &[Role],
    cluster: &Name,
    identity: &IssuerIdentity,
    issuer: &Name,
) -> Result<String, RenderError> {
    let needs = Needs::of(roles, cluster)?;
    let rights = json!(format!("{}-listing", names::policy_name(issuer))).to_string();
    let mut output = String::new();
    if let IssuerIdentity::ServiceAccount { namespace, name } = identity {
        let (namespace, name) = (json!(namespace).to_string(), json!(name).to_string());
        let values = [("ISSUER_NAMESPACE", namespace.as_str()), ("ISSUER_SERVICE_ACCOUNT", &name)];
        output.push_str(&fill(ACCOUNT, &values));
    }
    for namespace in needs.anchored() {
        let (namespace, subject) = (json!(namespace).to_string(), identity.subject());
        let values = [("NAMESPACE", namespace.as_str()), ("RIGHTS", &rights), ("SUBJECT", &subject)];
        output.push_str(&fill(LISTING, &values));
    }
    Ok(output)
}
