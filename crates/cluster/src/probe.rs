//! Whether the admission policy is in effect in a namespace.
//!
//! The issuer's RBAC alone is the power to read every Secret and to make permanent tokens, so it mints only where the
//! cluster has been seen to refuse it that: a dry-run create of a token Secret has to be refused by our policy, by
//! name. That the policy says all it should is not seen from here; `shorepass-issuer rbac` is its only source.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shorepass_core::name::Name;
use shorepass_core::time::Clock;
use tokio::sync::Mutex as AsyncMutex;

use crate::api_server::{ApiError, ApiServer, Call};
use crate::kube_cluster::USER_AGENT;
use crate::names;
use crate::refusal::is_missing_rule;

/// How long a policy that was seen counts as being there.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(3600);
/// How long a policy that was not there is not asked for again.
pub const MISSING_FOR: Duration = Duration::from_secs(3);
/// How long a warm-up waits for a policy: a new one takes seconds to take effect.
pub const WARM_UP: Duration = Duration::from_secs(30);

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
    pub(crate) async fn in_effect(&self, api: &ApiServer, namespace: &Name) -> Result<bool, ApiError> {
        let verdict = self.verdict(namespace);
        let mut verdict = verdict.lock().await;
        match verdict.filter(|known| known.holds(self.clock.since_boot())) {
            Some(known) => Ok(known.in_effect),
            None => self.probe(api, namespace, &mut verdict).await,
        }
    }

    /// Whether the policy is in effect, by a probe, whatever was seen before.
    pub(crate) async fn ask_anew(&self, api: &ApiServer, namespace: &Name) -> Result<bool, ApiError> {
        let verdict = self.verdict(namespace);
        let mut verdict = verdict.lock().await;
        self.probe(api, namespace, &mut verdict).await
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
        verdict: &mut Option<Verdict>,
    ) -> Result<bool, ApiError> {
        *verdict = None;
        let in_effect = self.is_refused_by_policy(api, namespace).await?;
        *verdict = Some(Verdict { in_effect, at: self.clock.since_boot() });
        Ok(in_effect)
    }

    async fn is_refused_by_policy(&self, api: &ApiServer, namespace: &Name) -> Result<bool, ApiError> {
        let call = Call {
            method: Method::POST,
            path: format!("/api/v1/namespaces/{namespace}/secrets?dryRun=All"),
            user_agent: USER_AGENT,
            body: &permanent_token_secret(),
        };
        match api.call(call).await {
            // The cluster would have let us: nothing was created.
            Ok(_) => Ok(false),
            Err(ApiError::Refused(refusal)) => match refusal.code {
                404 | 429 => Err(ApiError::Refused(refusal)),
                _ if is_missing_rule(&refusal) => Err(ApiError::Refused(refusal)),
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

/// What the policy has to refuse: with it and a controller one has a token for ever.
fn permanent_token_secret() -> Secret {
    let account = ("kubernetes.io/service-account.name".to_owned(), "default".to_owned());
    Secret {
        metadata: ObjectMeta {
            name: Some("shorepass-policy-probe".to_owned()),
            annotations: Some(BTreeMap::from([account])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/service-account-token".to_owned()),
        ..Secret::default()
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
    fn a_policy_that_was_seen_is_believed_longer_than_one_that_was_not() {
        let at = Duration::from_secs(100);
        let holds = |in_effect, age| Verdict { in_effect, at }.holds(at + age);
        assert!(holds(true, Duration::from_secs(3599)) && !holds(true, CONFIRMED_FOR));
        assert!(holds(false, Duration::from_secs(2)) && !holds(false, MISSING_FOR));
    }
}
