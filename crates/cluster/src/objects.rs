//! The objects that are made for a lease, as they are sent. None has data, finalizers or owners; each says whose it is.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef as BoundTo, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shorepass_core::audience::Audiences;
use shorepass_core::gives::RoleRef;
use shorepass_core::id::LeaseId;
use shorepass_core::lease::{AnchorName, Binding, Pins};
use shorepass_core::mint::Order;
use shorepass_core::name::Name;
use shorepass_core::receipt::Bound;
use shorepass_core::role::Target;

use crate::names;

/// How long a canary would live: Kubernetes' floor.
pub const CANARY_LIFE: Duration = Duration::from_secs(600);

/// The Secret that the lease's tokens are bound to.
pub(crate) fn anchor(order: &Order, annotation: &str, issuer: &Name) -> Secret {
    let mut anchor = bare_anchor(order.anchor().as_str(), &order.target().namespace, issuer);
    anchor.metadata.annotations = Some(map([(names::LEASE_ANNOTATION, annotation)]));
    anchor
}

/// An anchor that nobody adopts: it says of no lease that it is its own.
pub(crate) fn bare_anchor(name: &str, namespace: &Name, issuer: &Name) -> Secret {
    let metadata = labelled(name, namespace, issuer);
    Secret { metadata, type_: Some(names::LEASE_TYPE.to_owned()), ..Secret::default() }
}

/// The ServiceAccount of a strict lease, or of a control of such. Nobody runs a pod with it.
pub(crate) fn account(name: &str, namespace: &Name, issuer: &Name) -> ServiceAccount {
    ServiceAccount {
        metadata: labelled(name, namespace, issuer),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// What gives that ServiceAccount rights.
pub(crate) fn role_binding(order: &Order, binding: &Binding, role: &RoleRef, issuer: &Name) -> RoleBinding {
    let target = order.target();
    RoleBinding {
        metadata: labelled(&binding.name, &binding.namespace, issuer),
        role_ref: BoundTo {
            api_group: names::RBAC_GROUP.to_owned(),
            kind: role.kind().to_owned(),
            name: role.name().to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: target.service_account.clone(),
            namespace: Some(target.namespace.to_string()),
            ..Subject::default()
        }]),
    }
}

/// A token bound to the anchor; to nothing, if there is none.
pub(crate) fn token_request(order: &Order, anchor_uid: &str) -> TokenRequest {
    let anchor = order.lease().has_anchor().then(|| bound_to(order.anchor(), anchor_uid));
    let uid = order.pins().and_then(known_account);
    let audiences = order.lease().audiences.as_ref().map(Audiences::to_vec).unwrap_or_default();
    request(order.target(), order.lease_id(), uid, audiences, anchor, order.token_lifetime())
}

/// A token that is never handed out.
pub(crate) fn canary_request(bound: &Bound) -> TokenRequest {
    let Bound { lease, target, anchor, pins } = bound;
    let anchor = bound_to(anchor, &pins.anchor_uid);
    request(target, *lease, known_account(pins), Vec::new(), Some(anchor), CANARY_LIFE)
}

/// The ServiceAccount that is expected. That of an adopted lease is found with its first token.
fn known_account(pins: &Pins) -> Option<String> {
    Some(&pins.service_account_uid).filter(|uid| !uid.is_empty()).cloned()
}

fn request(
    target: &Target,
    lease: LeaseId,
    service_account_uid: Option<String>,
    audiences: Vec<String>,
    bound_object_ref: Option<BoundObjectReference>,
    life: Duration,
) -> TokenRequest {
    TokenRequest {
        metadata: ObjectMeta {
            name: Some(target.service_account.clone()),
            namespace: Some(target.namespace.to_string()),
            // Kubernetes 1.34 and later refuse another UID; older ones do not look, so the answer is checked too.
            uid: service_account_uid,
            annotations: Some(map([(names::LEASE_ID_ANNOTATION, lease.to_string().as_str())])),
            ..ObjectMeta::default()
        },
        spec: TokenRequestSpec {
            // None named: the API server's own.
            audiences,
            bound_object_ref,
            expiration_seconds: Some(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
        },
        status: None,
    }
}

fn bound_to(anchor: &AnchorName, uid: &str) -> BoundObjectReference {
    BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Secret".to_owned()),
        name: Some(anchor.as_str().to_owned()),
        uid: Some(uid.to_owned()),
    }
}

fn labelled(name: &str, namespace: &Name, issuer: &Name) -> ObjectMeta {
    let labels = [(names::MANAGED_BY_LABEL, names::MANAGED_BY), (names::ISSUER_LABEL, issuer.as_str())];
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_string()),
        labels: Some(map(labels)),
        ..ObjectMeta::default()
    }
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
