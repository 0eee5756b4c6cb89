//! Whether the admission policy is in effect in a namespace.
//!
//! The issuer's RBAC alone is the power to read every Secret and to make permanent tokens, so it mints only where the
//! cluster has been seen to refuse it that: a dry-run create of a token Secret has to be refused by our policy, by
//! name. Where it may make no Secret, it asks for something else that the policy has to refuse and that makes nothing: a
//! dry-run RoleBinding of a user, or, because a TokenRequest knows no dry run, a token bound to a Secret that cannot
//! exist, which the API server looks for only after admission. That the policy says all it should is not seen from here; `shorepass-issuer rbac` is its only source.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use shorepass_core::gives::{Gives, RoleRef};
use shorepass_core::lease::{Binding, Lease, Mode};
use shorepass_core::name::Name;
use shorepass_core::role::Role;
use shorepass_core::time::Clock;
use tokio::sync::Mutex as AsyncMutex;

use crate::api_server::{ApiError, ApiServer, Call};
use crate::kube_cluster::USER_AGENT;
use crate::names;
use crate::refusal::{Act, is_missing_bind, is_missing_rule, is_without_namespace};

/// How long a policy that was seen counts as being there.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(3600);
/// How long a policy that was not there is not asked for again.
pub const MISSING_FOR: Duration = Duration::from_secs(3);
/// How long a warm-up waits for a policy: a new one takes seconds to take effect.
pub const WARM_UP: Duration = Duration::from_secs(30);

/// What is asked for in a namespace. The first that the issuer has the right to is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Probe {
    /// A Secret that a controller would fill with a permanent token.
    Secret,
    /// A RoleBinding of a user.
    Binding(RoleRef),
    /// A token of this ServiceAccount that is bound to a Secret which cannot exist.
    Token(String),
}

impl Probe {
    pub(crate) fn act<'a>(&'a self, namespace: &'a Name) -> Act<'a> {
        match self {
            Self::Secret => Act::CreateSecret { namespace },
            Self::Binding(role) => Act::Bind { namespace, role },
            Self::Token(service_account) => Act::CreateToken { namespace, service_account },
        }
    }
}

/// Where the policy is looked for, and how: a namespace for each that roles or leases work in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(pub(crate) BTreeMap<Name, Probe>);

impl Places {
    /// Those of the roles of a cluster.
    pub fn of<'r>(roles: impl IntoIterator<Item = &'r Role>, cluster: &Name) -> Self {
        let mut places = Self::default();
        for role in roles.into_iter().filter(|role| role.cluster() == cluster) {
            match role.gives() {
                Gives::Bound(target) => places.add(&target.namespace, Probe::Secret),
                Gives::Unbound(target) => {
                    places.add(&target.namespace, Probe::Token(target.service_account.clone()));
                }
                Gives::Strict(strict) => {
                    places.add(&strict.namespace, Probe::Secret);
                    for binding in &strict.bindings {
                        let bound_to = binding.rights.role_ref(role.name());
                        places.add(&binding.namespace, Probe::Binding(bound_to));
                    }
                }
            }
        }
        places
    }

    /// Those of a lease.
    pub(crate) fn of_lease(lease: &Lease) -> Self {
        let mut places = Self::default();
        let namespace = &lease.target.namespace;
        match &lease.mode {
            Mode::Bound => places.add(namespace, Probe::Secret),
            Mode::Unbound { .. } => {
                places.add(namespace, Probe::Token(lease.target.service_account.clone()));
            }
            Mode::Strict { bindings } => {
                places.add(namespace, Probe::Secret);
                for Binding { namespace, role, .. } in bindings {
                    role.iter().for_each(|role| places.add(namespace, Probe::Binding(role.clone())));
                }
            }
        }
        places
    }

    fn add(&mut self, namespace: &Name, probe: Probe) {
        let known = self.0.entry(namespace.clone()).or_insert_with(|| probe.clone());
        if probe < *known {
            *known = probe;
        }
    }
}

/// What is known about the namespaces of one cluster.
pub(crate) struct Probes {
    policy: String,
    clock: Arc<dyn Clock>,
    /// One lock for each namespace, held while it is probed: many mints wait for one probe.
    verdicts: Mutex<HashMap<Name, Arc<AsyncMutex<Option<Verdict>>>>>,
}

#[derive(Clone, Copy)]
struct Verdict {
    in_effect: bool,
    at: Duration,
}

impl Probes {
    pub(crate) fn new(issuer: &Name, clock: Arc<dyn Clock>) -> Self {
        Self { policy: names::policy_name(issuer), clock, verdicts: Mutex::default() }
    }

    /// Whether the policy is in effect, by what was seen lately or by one probe.
    pub(crate) async fn in_effect(
        &self,
        api: &ApiServer,
        namespace: &Name,
        probe: &Probe,
    ) -> Result<bool, ApiError> {
        let verdict = self.verdict(namespace);
        let mut verdict = verdict.lock().await;
        match verdict.filter(|known| known.holds(self.clock.since_boot())) {
            Some(known) => Ok(known.in_effect),
            None => self.probe(api, namespace, probe, &mut verdict).await,
        }
    }

    /// Whether the policy is in effect, by a probe, whatever was seen before.
    pub(crate) async fn ask_anew(
        &self,
        api: &ApiServer,
        namespace: &Name,
        probe: &Probe,
    ) -> Result<bool, ApiError> {
        let verdict = self.verdict(namespace);
        let mut verdict = verdict.lock().await;
        self.probe(api, namespace, probe, &mut verdict).await
    }

    fn verdict(&self, namespace: &Name) -> Arc<AsyncMutex<Option<Verdict>>> {
        // Nothing panics under this lock.
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.entry(namespace.clone()).or_default().clone()
    }

    /// A failed probe leaves nothing that could be believed.
    async fn probe(
        &self,
        api: &ApiServer,
        namespace: &Name,
        probe: &Probe,
        verdict: &mut Option<Verdict>,
    ) -> Result<bool, ApiError> {
        *verdict = None;
        let in_effect = self.is_refused_by_policy(api, namespace, probe).await?;
        *verdict = Some(Verdict { in_effect, at: self.clock.since_boot() });
        Ok(in_effect)
    }

    async fn is_refused_by_policy(
        &self,
        api: &ApiServer,
        namespace: &Name,
        probe: &Probe,
    ) -> Result<bool, ApiError> {
        let (path, body) = forbidden_request(namespace, probe);
        let call = Call { method: Method::POST, path, user_agent: USER_AGENT, body: &body };
        match api.call(call).await {
            // The cluster would have let us: nothing was created.
            Ok(_) => Ok(false),
            Err(ApiError::Refused(refusal)) => match (refusal.code, probe) {
                // It got as far as to look for the Secret.
                (404, Probe::Token(_)) if refusal.kind == "secrets" => Ok(false),
                (404 | 429, _) => Err(ApiError::Refused(refusal)),
                // Refused before any policy was asked.
                _ if is_without_namespace(&refusal) => Err(ApiError::Refused(refusal)),
                _ if is_missing_rule(&refusal) || is_missing_bind(&refusal) => {
                    Err(ApiError::Refused(refusal))
                }
                _ => Ok(names_policy(&refusal.message, &self.policy)),
            },
            Err(unreachable) => Err(unreachable),
        }
    }
}

impl Verdict {
    fn holds(self, now: Duration) -> bool {
        let term = if self.in_effect { CONFIRMED_FOR } else { MISSING_FOR };
        now.saturating_sub(self.at) < term
    }
}

/// Whether an admission message says that this very policy refused.
fn names_policy(message: &str, policy: &str) -> bool {
    message.contains(&format!("ValidatingAdmissionPolicy '{policy}' with binding '"))
}

/// What the policy has to refuse.
fn forbidden_request(namespace: &Name, probe: &Probe) -> (String, Value) {
    const NAME: &str = "shorepass-policy-probe";
    const RBAC: &str = "rbac.authorization.k8s.io";
    match probe {
        // With it and a controller one has a token for ever.
        Probe::Secret => (
            format!("/api/v1/namespaces/{namespace}/secrets?dryRun=All"),
            json!({
                // Of a ServiceAccount that no role names: only the policy that bounds the issuer has to refuse it.
                "metadata": {"name": NAME, "annotations": {"kubernetes.io/service-account.name": NAME}},
                "type": "kubernetes.io/service-account-token",
            }),
        ),
        Probe::Binding(role) => (
            format!("/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings?dryRun=All"),
            json!({
                "metadata": {"name": NAME},
                "roleRef": {"apiGroup": RBAC, "kind": role.kind(), "name": role.name()},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": NAME}],
            }),
        ),
        Probe::Token(service_account) => (
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"),
            json!({
                "spec": {
                    "audiences": [],
                    "expirationSeconds": 600,
                    "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": NAME, "uid": NAME},
                },
            }),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_by_our_policy_counts() {
        let said =
            |name| format!("ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: no");
        let policy = "shorepass-issuer-main";
        assert!(names_policy(&said(policy), policy));
        for other in ["shorepass-issuer-main2", "shorepass-issuer", "x-shorepass-issuer-main"] {
            assert!(!names_policy(&said(other), policy), "{other}");
        }
        assert!(!names_policy("secrets \"shorepass-issuer-main\" is forbidden", policy));
    }

    #[test]
    fn a_namespace_is_probed_by_the_first_that_there_is_a_right_to() {
        let mut places = Places::default();
        let role = RoleRef::Role(shorepass_core::gives::RbacName::parse("r").unwrap());
        let web = Name::parse("web").unwrap();
        for probe in
            [Probe::Token("a".to_owned()), Probe::Binding(role.clone()), Probe::Token("b".to_owned())]
        {
            places.add(&web, probe);
        }
        assert_eq!(places.0[&web], Probe::Binding(role));
        places.add(&web, Probe::Secret);
        assert_eq!(places.0[&web], Probe::Secret);
    }

    #[test]
    fn a_policy_that_was_seen_is_believed_longer_than_one_that_was_not() {
        let at = Duration::from_secs(100);
        let holds = |in_effect, age| Verdict { in_effect, at }.holds(at + age);
        assert!(holds(true, Duration::from_secs(3599)) && !holds(true, CONFIRMED_FOR));
        assert!(holds(false, Duration::from_secs(2)) && !holds(false, MISSING_FOR));
    }
}
