//! What a refusal of the API server means for a mint or a cut.
//!
//! Authorisation is told apart from admission by the API server's own words: both answer 403, and only RBAC says that
//! the user "cannot create resource". A ValidatingAdmissionPolicy answers 422 and names itself, a webhook answers what it
//! likes and is named. The words of our own policy say what to do; those of others are kept from callers.

use std::fmt;

use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::gives::RoleRef;
use shorepass_core::name::Name;
use shorepass_core::role::Target;

use crate::api_server::{ApiError, Refusal};
use crate::deletion::Deletion;
use crate::names;

/// What the issuer was about to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act<'a> {
    /// Create a Secret, in earnest or as a probe.
    CreateSecret { namespace: &'a Name },
    /// Mint a token.
    CreateToken { namespace: &'a Name, service_account: &'a str },
    /// Create a ServiceAccount.
    CreateAccount { namespace: &'a Name },
    /// Create a RoleBinding to a Role.
    Bind { namespace: &'a Name, role: &'a RoleRef },
    /// Ask whether a ServiceAccount may do something, in a namespace or everywhere.
    Review { namespace: &'a Name, everywhere: bool },
    /// Look at a Role.
    GetRole { namespace: &'a Name, role: &'a RoleRef },
    /// Delete something that was made for a lease.
    Delete(Deletion<'a>),
}

impl Act<'_> {
    fn namespace(&self) -> &Name {
        match self {
            Self::CreateSecret { namespace }
            | Self::CreateToken { namespace, .. }
            | Self::CreateAccount { namespace }
            | Self::Bind { namespace, .. }
            | Self::GetRole { namespace, .. }
            | Self::Review { namespace, .. }
            | Self::Delete(Deletion { namespace, .. }) => namespace,
        }
    }
}

impl fmt::Display for Act<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateSecret { namespace } => write!(f, "create secrets in namespace \"{namespace}\""),
            Self::CreateToken { namespace, service_account } => {
                write!(f, "create serviceaccounts/token \"{service_account}\" in namespace \"{namespace}\"")
            }
            Self::CreateAccount { namespace } => {
                write!(f, "create serviceaccounts in namespace \"{namespace}\"")
            }
            Self::Bind { namespace, .. } => write!(f, "create rolebindings in namespace \"{namespace}\""),
            Self::Review { everywhere: true, .. } => f.write_str("create subjectaccessreviews"),
            Self::Review { namespace, everywhere: false } => {
                write!(f, "create localsubjectaccessreviews in namespace \"{namespace}\"")
            }
            Self::GetRole { namespace, role } => match role {
                RoleRef::Role(name) => {
                    write!(f, "get roles \"{}\" in namespace \"{namespace}\"", name.as_str())
                }
                RoleRef::ClusterRole(name) => write!(f, "get clusterroles \"{}\"", name.as_str()),
            },
            Self::Delete(deletion) => write!(f, "{deletion}"),
        }
    }
}

/// Why a mint failed. `first` is whether the anchor was to be created.
pub(crate) fn mint_error(error: ApiError, act: Act<'_>, target: &Target, first: bool) -> MintError {
    if let ApiError::Refused(refusal) = &error {
        let (namespace, name) = (target.namespace.to_string(), target.service_account.clone());
        match (refusal.code, refusal.kind.as_str()) {
            (404, "serviceaccounts") => return MintError::ServiceAccountMissing { namespace, name },
            (409, "TokenRequest") => return MintError::ServiceAccountReplaced { namespace, name },
            (404, "secrets") | (409, "Secret") if !first => return MintError::AnchorLost,
            _ => {}
        }
    }
    act_error(error, act, &target.cluster)
}

/// Why something was not done, whatever it was.
pub(crate) fn act_error(error: ApiError, act: Act<'_>, cluster: &Name) -> MintError {
    let cluster = cluster.clone();
    match error {
        ApiError::NoAnswer(cause) => MintError::Unreachable { cluster, cause },
        ApiError::WebhookFails => MintError::WebhookFails { cluster },
        ApiError::Unavailable { retry_after } => MintError::Busy { cluster, retry_after },
        ApiError::Refused(refusal) => match who_refuses(&refusal) {
            Some(Refuser::Limit) => MintError::Busy { cluster, retry_after: refusal.wait() },
            Some(Refuser::Namespace { deleting }) => {
                MintError::NamespaceUnavailable { namespace: act.namespace().clone(), deleting, begun: true }
            }
            Some(Refuser::Quota) => {
                MintError::QuotaExceeded { act: act.to_string(), words: refusal.message, begun: true }
            }
            Some(Refuser::Rbac) => MintError::Forbidden { rule: missing(&refusal, act) },
            Some(Refuser::OurPolicy) => MintError::Forbidden { rule: with_words(&refusal, act) },
            Some(Refuser::Admission) => {
                MintError::AdmissionRefused { act: act.to_string(), words: refusal.message, begun: true }
            }
            // Conflicts of quota and storage pass; "AlreadyExists" does not.
            None if refusal.reason == "Conflict" && refusal.kind != "Secret" => {
                MintError::Contended { cluster }
            }
            None => MintError::AnswerRejected(refused(&refusal, act)),
        },
    }
}

/// Why a cut failed; none if there is nothing to cut.
pub(crate) fn cut_error(error: ApiError, deletion: Deletion<'_>) -> Option<CutError> {
    let act = Act::Delete(deletion);
    match error {
        ApiError::NoAnswer(cause) => Some(CutError::Unreachable(cause)),
        ApiError::WebhookFails => Some(CutError::Unreachable(error.to_string())),
        ApiError::Unavailable { retry_after } => Some(CutError::Busy { retry_after }),
        ApiError::Refused(refusal) => match who_refuses(&refusal) {
            Some(Refuser::Rbac) => Some(CutError::Forbidden(act.to_string())),
            Some(Refuser::Limit) => Some(CutError::Busy { retry_after: refusal.wait() }),
            // Operators alone are told of cuts.
            Some(Refuser::OurPolicy | Refuser::Admission) => {
                Some(CutError::Forbidden(with_words(&refusal, act)))
            }
            None if deletion.is_missing(&refusal) || deletion.is_another(&refusal) => None,
            Some(Refuser::Namespace { .. } | Refuser::Quota) | None => {
                let said = refused(&refusal, act);
                Some(if refusal.code == 404 { deletion.untold() } else { CutError::Unreachable(said) })
            }
        },
    }
}

/// Who does not let the issuer do something.
enum Refuser {
    Rbac,
    /// An admission policy that `shorepass-issuer rbac` prints.
    OurPolicy,
    /// Any other policy, plugin or webhook.
    Admission,
    /// The namespace is not there, or is being deleted.
    Namespace {
        deleting: bool,
    },
    /// A ResourceQuota.
    Quota,
    /// The API server, which has too much to do.
    Limit,
}

fn who_refuses(refusal: &Refusal) -> Option<Refuser> {
    let said = &refusal.message;
    let by_webhook = said.contains("admission webhook \"");
    let by_policy = said.contains("ValidatingAdmissionPolicy '");
    let by_ours = said.contains(&format!("ValidatingAdmissionPolicy '{}", names::POLICY_PREFIX));
    match refusal.code {
        _ if by_webhook => Some(Refuser::Admission),
        _ if by_ours => Some(Refuser::OurPolicy),
        _ if by_policy => Some(Refuser::Admission),
        429 => Some(Refuser::Limit),
        403 | 404 if is_without_namespace(refusal) => {
            Some(Refuser::Namespace { deleting: refusal.code == 403 })
        }
        403 if refusal.message.contains(" is forbidden: exceeded quota: ") => Some(Refuser::Quota),
        403 if is_missing_rule(refusal) || is_missing_bind(refusal) => Some(Refuser::Rbac),
        403 => Some(Refuser::Admission),
        _ => None,
    }
}

fn with_words(refusal: &Refusal, act: Act<'_>) -> String {
    let words = &refusal.message;
    format!("{act}; admission says: {words} (did the roles change? apply `shorepass-issuer rbac` again)")
}

/// Whether nothing can be created because the namespace is being deleted, or does not exist.
pub(crate) fn is_without_namespace(refusal: &Refusal) -> bool {
    match refusal.code {
        403 => refusal.causes.iter().any(|cause| cause == "NamespaceTerminating"),
        404 => refusal.kind == "namespaces",
        _ => false,
    }
}

/// Whether RBAC refused, and not an admission plugin or a webhook.
pub(crate) fn is_missing_rule(refusal: &Refusal) -> bool {
    let verbs = ["create", "delete", "get", "list", "update"];
    refusal.code == 403
        && verbs.iter().any(|verb| refusal.message.contains(&format!(" cannot {verb} resource ")))
}

/// Whether RBAC refused a RoleBinding to a Role that the issuer may not bind to: it does not hold those rights itself.
pub(crate) fn is_missing_bind(refusal: &Refusal) -> bool {
    refusal.code == 403
        && refusal.message.contains(" attempting to grant RBAC permissions not currently held")
}

/// The right that RBAC finds missing.
fn missing(refusal: &Refusal, act: Act<'_>) -> String {
    match act {
        Act::Bind { namespace, role } if is_missing_bind(refusal) => bind_rule(namespace, role),
        _ => act.to_string(),
    }
}

fn bind_rule(namespace: &Name, role: &RoleRef) -> String {
    let resource = match role {
        RoleRef::Role(_) => "roles",
        RoleRef::ClusterRole(_) => "clusterroles",
    };
    format!("bind {resource} \"{}\" in namespace \"{namespace}\"", role.name())
}

fn refused(refusal: &Refusal, act: Act<'_>) -> String {
    // Its words may be about anything: they are for whoever reads the log.
    tracing::warn!(%act, code = refusal.code, words = refusal.message, "the API server refused");
    format!("it refused to {act} ({} {})", refusal.code, refusal.reason)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shorepass_core::gives::RbacName;

    use super::*;
    use crate::deletion::Kind;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn refusal(code: u16, reason: &str, kind: &str, message: &str) -> ApiError {
        ApiError::Refused(Box::new(Refusal {
            code,
            reason: reason.to_owned(),
            message: message.to_owned(),
            kind: kind.to_owned(),
            name: String::new(),
            causes: Vec::new(),
            retry_after: Some(Duration::from_secs(7)),
        }))
    }

    fn caused(mut error: ApiError, cause: &str) -> ApiError {
        if let ApiError::Refused(refusal) = &mut error {
            refusal.causes.push(cause.to_owned());
        }
        error
    }

    fn minting(error: ApiError, first: bool) -> MintError {
        let target =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let act = Act::CreateToken { namespace: &target.namespace, service_account: "deployer" };
        mint_error(error, act, &target, first)
    }

    fn cutting(error: ApiError) -> Option<CutError> {
        let namespace = &name("web");
        cut_error(error, Deletion { kind: Kind::Secret, namespace, name: "shorepass-x", uid: "" })
    }

    const RBAC: &str = "serviceaccounts \"deployer\" is forbidden: User \"x\" cannot create resource \
                        \"serviceaccounts/token\" in API group \"\" in the namespace \"web\"";
    const POLICY: &str =
        "ValidatingAdmissionPolicy 'shorepass-issuer-main' with binding 'b' denied request: no";

    #[test]
    fn a_missing_rule_is_named_and_nothing_else() {
        let said = minting(refusal(403, "Forbidden", "serviceaccounts", RBAC), true);
        let rule = "create serviceaccounts/token \"deployer\" in namespace \"web\"".to_owned();
        assert_eq!(said, MintError::Forbidden { rule });
    }

    #[test]
    fn a_role_that_may_not_be_bound_to_is_named() {
        let role = RoleRef::ClusterRole(RbacName::parse("view").unwrap());
        let act = Act::Bind { namespace: &name("web"), role: &role };
        let said = "rolebindings.rbac.authorization.k8s.io \"x\" is forbidden: user \"i\" (groups=[\"g\"]) is \
                    attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"]}";
        let forbidden =
            |message| act_error(refusal(403, "Forbidden", "rolebindings", message), act, &name("c"));
        let rule = "bind clusterroles \"view\" in namespace \"web\"".to_owned();
        assert_eq!(forbidden(said), MintError::Forbidden { rule });
        let rule = "create rolebindings in namespace \"web\"".to_owned();
        let said = "User \"i\" cannot create resource \"rolebindings\" in API group \"r\"";
        assert_eq!(forbidden(said), MintError::Forbidden { rule });
    }

    #[test]
    fn a_refusal_of_our_own_policy_is_told_in_its_words() {
        for code in [422, 403] {
            let said = minting(refusal(code, "Invalid", "", POLICY), true);
            let MintError::Forbidden { rule } = said else { panic!("it must be forbidden: {said}") };
            assert!(rule.contains(&format!("admission says: {POLICY}")), "{rule}");
        }
    }

    #[test]
    fn the_words_of_other_admission_stand_apart_from_what_was_refused() {
        for (code, message) in [
            (403, "secrets \"x\" is forbidden: no more than 5 of these, says a plugin"),
            (429, "admission webhook \"guard.acme.example\" denied the request: later"),
            (403, "admission webhook \"guard.acme.example\" denied the request: see http://10.0.0.9/rules"),
            (400, "admission webhook \"guard.acme.example\" denied the request: no"),
            (422, "ValidatingAdmissionPolicy 'acme' with binding 'b' denied request: no"),
            (403, "ValidatingAdmissionPolicy 'acme' with binding 'b' denied request: no"),
            // A webhook may say what it likes.
            (
                403,
                "admission webhook \"x\" denied the request: ValidatingAdmissionPolicy 'shorepass-issuer-main' no",
            ),
            (403, "admission webhook \"x\" denied the request: \"x\" is forbidden: exceeded quota: x"),
            (
                403,
                "admission webhook \"x\" denied the request: User \"x\" cannot create resource \"secrets\"",
            ),
        ] {
            let act = "create serviceaccounts/token \"deployer\" in namespace \"web\"".to_owned();
            let refused = MintError::AdmissionRefused { act, words: message.to_owned(), begun: true };
            assert_eq!(minting(refusal(code, "Forbidden", "secrets", message), true), refused);
        }
    }

    #[test]
    fn a_quota_that_is_used_up_is_told_apart_and_its_words_are_kept() {
        let words = "secrets \"shorepass-x\" is forbidden: exceeded quota: tight, requested: secrets=1, used: \
                     secrets=9, limited: secrets=9";
        let act = "create serviceaccounts/token \"deployer\" in namespace \"web\"".to_owned();
        let full = MintError::QuotaExceeded { act, words: words.to_owned(), begun: true };
        assert_eq!(minting(refusal(403, "Forbidden", "secrets", words), true), full);
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let unavailable =
            |deleting| MintError::NamespaceUnavailable { namespace: name("web"), deleting, begun: true };
        let missing = refusal(404, "NotFound", "namespaces", "namespaces \"web\" not found");
        assert_eq!(minting(missing, true), unavailable(false));
        let said = "unable to create new content in namespace web because it is being terminated";
        let terminating = || caused(refusal(403, "Forbidden", "secrets", said), "NamespaceTerminating");
        assert_eq!(minting(terminating(), true), unavailable(true));
        let webhook = caused(
            refusal(403, "Forbidden", "secrets", "admission webhook \"x\" denied the request: no"),
            "NamespaceTerminating",
        );
        assert!(matches!(minting(webhook, true), MintError::AdmissionRefused { .. }));
    }

    #[test]
    fn a_conflict_is_no_sign_that_the_cluster_is_busy() {
        let conflict = refusal(409, "Conflict", "resourcequotas", "the object has been modified");
        assert_eq!(minting(conflict, true), MintError::Contended { cluster: name("c") });
    }

    #[test]
    fn the_service_account_and_the_anchor_are_told_apart() {
        let replaced = minting(refusal(409, "Conflict", "TokenRequest", ""), false);
        assert!(matches!(replaced, MintError::ServiceAccountReplaced { .. }));
        assert_eq!(minting(refusal(409, "Conflict", "Secret", ""), false), MintError::AnchorLost);
        assert_eq!(minting(refusal(404, "NotFound", "secrets", ""), false), MintError::AnchorLost);
        let missing = minting(refusal(404, "NotFound", "serviceaccounts", ""), false);
        assert!(matches!(missing, MintError::ServiceAccountMissing { .. }));
    }

    #[test]
    fn an_anchor_that_vanishes_during_the_first_mint_was_never_the_leases() {
        let said = minting(refusal(404, "NotFound", "secrets", ""), true);
        assert!(matches!(said, MintError::AnswerRejected(_)));
    }

    #[test]
    fn busy_and_unreachable_are_temporary() {
        let busy = minting(refusal(429, "TooManyRequests", "", ""), true);
        assert_eq!(busy, MintError::Busy { cluster: name("c"), retry_after: Duration::from_secs(7) });
        let retry_after = Duration::from_secs(9);
        let away = || ApiError::Unavailable { retry_after };
        assert_eq!(minting(away(), true), MintError::Busy { cluster: name("c"), retry_after });
        assert_eq!(cutting(away()), Some(CutError::Busy { retry_after }));
        let unreachable = minting(ApiError::NoAnswer("refused".to_owned()), true);
        assert!(matches!(unreachable, MintError::Unreachable { .. }));
    }

    #[test]
    fn a_refused_cut_is_no_cut() {
        let rbac =
            "secrets \"a\" is forbidden: User \"x\" cannot delete resource \"secrets\" in API group \"\"";
        assert!(matches!(cutting(refusal(403, "Forbidden", "secrets", rbac)), Some(CutError::Forbidden(_))));
        assert!(matches!(cutting(refusal(422, "Invalid", "", POLICY)), Some(CutError::Forbidden(_))));
        let retry_after = Duration::from_secs(7);
        assert_eq!(cutting(refusal(429, "", "", "later")), Some(CutError::Busy { retry_after }));
    }
}
