//! Enrolment of runner pods by a projected ServiceAccount token: the cluster in which the pod runs says whose it is.
//!
//! The config names, for each cluster, the ServiceAccounts, the names and labels that their pods may have, and an audience
//! that the token must be for alone. What a stranger can make us ask a cluster is bounded
//! ([`strangers`](super::strangers)).
//!
//! A pod may take the name of one that it came in the place of (a StatefulSet's), and its own once more: two pods of a name
//! are never there at once, and the API server refuses the token of one that is gone.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shorepass_core::enrolment::{Enrolment, Origin};
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::pod::{Pod, ReviewError, Reviewed, TokenReviews};
use shorepass_core::time::Clock;
use shorepass_rpc::refused::{Reason, Refused};
use zeroize::Zeroizing;

use super::Asked;
use super::method::{Admission, Admits, Gives, Method, Rejected, Replaces};
use super::strangers::Strangers;
use crate::outside::{Outside, ledger_refused};

/// When to come back if the cluster cannot be asked.
const AFTER_SILENCE: Duration = Duration::from_secs(2);
/// What a right is needed for.
const RULE: &str = "create tokenreviews.authentication.k8s.io";

/// Whose pods may enrol, and as what.
#[derive(Clone)]
pub struct PodRule {
    /// Where they run.
    pub cluster: Name,
    /// What their tokens must be for.
    pub audience: String,
    /// Namespaces and ServiceAccounts.
    pub service_accounts: Vec<(Name, String)>,
    /// The names that they may have as runners.
    pub runners: Vec<NamePattern>,
    /// The labels that they get.
    pub labels: Labels,
    /// Who is asked.
    pub reviews: Arc<dyn TokenReviews>,
}

/// All rules, and how often somebody is asked.
pub struct Pods {
    rules: Vec<PodRule>,
    strangers: Strangers,
}

impl Pods {
    /// With these rules; none lets no pod in.
    pub fn new(rules: Vec<PodRule>, clock: Arc<dyn Clock>) -> Self {
        Self { rules, strangers: Strangers::new(clock) }
    }

    /// Whose token it is, with the rules for its audience: there is one audience that it can be for.
    async fn review(&self, cluster: &Name, token: &str) -> Result<(Reviewed, Vec<&PodRule>), Rejected> {
        let mut rules: Vec<_> = self.rules.iter().filter(|rule| rule.cluster == *cluster).collect();
        if rules.is_empty() {
            return Err(rejected(
                "this issuer lets in no pods of this cluster (enrolment.pods in its config)",
            ));
        }
        rules.retain(|rule| rule.reviews.says_it_is_for(token, &rule.audience));
        let Some(first) = rules.first() else {
            return Err(rejected("this is no ServiceAccount token for the audience in enrolment.pods alone"));
        };
        let _turn = self.strangers.turn()?;
        match first.reviews.review(token, &first.audience).await {
            Ok(reviewed) => Ok((reviewed, rules)),
            Err(cause) => Err(review_refused(&cause)),
        }
    }
}

/// A projected ServiceAccount token that was shown.
pub(super) struct ShownPodToken {
    pub(super) outside: Arc<Outside>,
    pub(super) pods: Arc<Pods>,
    pub(super) cluster: Name,
    pub(super) token: Zeroizing<String>,
}

#[async_trait]
impl Method for ShownPodToken {
    async fn look(&self, name: &Name) -> Result<Box<dyn Admits>, Rejected> {
        let (Reviewed { pod, service_account }, rules) = self.pods.review(&self.cluster, &self.token).await?;
        let account = (pod.namespace.clone(), service_account);
        let of_account = |rule: &&PodRule| rule.service_accounts.contains(&account);
        let mut rules = rules.into_iter().filter(of_account).peekable();
        if rules.peek().is_none() {
            let why = "pods of this ServiceAccount are not let in (enrolment.pods in the issuer's config)";
            return Err(explained(
                why,
                format!("pod {pod} is of ServiceAccount {}/{}", account.0, account.1),
            ));
        }
        let admits = |rule: &&PodRule| rule.runners.iter().any(|runners| runners.matches(name));
        let Some(rule) = rules.find(admits) else {
            let message = format!(
                "pods of this ServiceAccount may not be called {name}: correct `name` in the agent's config, or \
                 enrolment.pods in the issuer's"
            );
            return Err(Refused::new(Reason::RunnerNameNotAllowed, message).into());
        };
        Ok(Box::new(KnownPod { outside: self.outside.clone(), labels: rule.labels.clone(), pod }))
    }
}

struct KnownPod {
    outside: Arc<Outside>,
    labels: Labels,
    pod: Pod,
}

impl Admits for KnownPod {
    fn admit(&self, asked: &Asked) -> Result<Admission, Refused> {
        let held = self.outside.ledger.latest_enrolment(&asked.spiffe_id);
        let held = held.map_err(|cause| ledger_refused(&cause))?;
        let (now, origin) = (self.outside.clock.now(), Some(Origin::Pod(self.pod.clone())));
        // The agent keeps its key until it is answered: a reply that got lost is no second enrolment.
        let is_again =
            |held: &Enrolment| held.is_live(now) && held.origin == origin && held.key == asked.request.key();
        Ok(match held.filter(is_again) {
            Some(held) => Admission::Again(held.id, None),
            None => Admission::First(Gives {
                labels: self.labels.clone(),
                origin,
                replaces: Replaces::ItsPod,
                uses: None,
            }),
        })
    }
}

/// The API server's words are for operators, and no more than the kind of refusal for a stranger.
fn review_refused(cause: &ReviewError) -> Rejected {
    let refused = match cause {
        ReviewError::Unreachable(_) | ReviewError::Garbled(_) => {
            let message = "the cluster of this pod cannot be asked about it now: try again later";
            Refused::new(Reason::ClusterUnreachable, message).retry(AFTER_SILENCE)
        }
        ReviewError::Forbidden => {
            tracing::error!(
                error = %cause,
                "apply what `shorepass-issuer rbac --token-reviews` prints: no pod is let in before"
            );
            let message = "the cluster does not let the issuer review tokens: its operators apply what \
                           `shorepass-issuer rbac --token-reviews` prints";
            Refused::new(Reason::IssuerForbidden, message).with("rule", RULE)
        }
        ReviewError::Rejected(_) => {
            return explained(
                "the cluster does not accept this token: it has expired, or its pod is gone",
                cause,
            );
        }
        ReviewError::OtherAudience(_) => {
            return explained("the cluster does not confirm the audience of this token", cause);
        }
        ReviewError::Unbound(what) => {
            return explained(
                &format!("this token is not bound to a pod that runs on a node (no {what})"),
                cause,
            );
        }
    };
    Rejected { refused, explanation: cause.to_string() }
}

fn explained(why: &str, explanation: impl ToString) -> Rejected {
    Rejected { explanation: explanation.to_string(), ..rejected(why) }
}

fn rejected(why: &str) -> Rejected {
    let message = format!(
        "{why}: project a token for that audience into the runner's pod, and name its file under `pod` in the agent's config"
    );
    Refused::new(Reason::PodTokenRejected, message).into()
}
