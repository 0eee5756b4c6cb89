//! Strict leases: bindings, a ServiceAccount of the lease's own, and the proof that it has its rights.
//!
//! Rights are in effect when an API server says so to whoever holds the token: a SelfSubjectRulesReview with an extra
//! token of the same anchor, which nobody else ever sees. Why not an access review by the issuer: asking about others is a
//! right over the whole cluster, and its answer leaves out what reaches a ServiceAccount through its groups. Why an extra
//! token: a token that was used just before its anchor is deleted is believed for 10 s more, and the one that is handed
//! out should not be. The rules to look for come from the Roles themselves; the issuer may `get` exactly those that it
//! may bind to, which tells it nothing that binding and looking would not.
//!
//! The same answer tells what the ServiceAccount may besides: what its groups give it, in the namespaces of its bindings and
//! in its own, which no end of the lease takes away. It is kept for people and decides nothing; other namespaces are not
//! looked at.
//!
//! It is a statement about the API server that answered, now. Whether the rights are the right ones is the Roles' matter.

use std::time::Duration;

use http::Method;
use http::header::HeaderValue;
use serde_json::json;
use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::gives::RoleRef;
use shorepass_core::lease::Binding;
use shorepass_core::mint::Order;
use shorepass_core::name::Name;
use shorepass_core::not_removed::NotRemoved;
use shorepass_core::token::Token;

use crate::answer;
use crate::api_server::{self, ApiError, Call};
use crate::deletion::{Deletion, Kind};
use crate::effects::{self, Effect};
use crate::kube_cluster::{KubeCluster, Made, to_begin};
use crate::names::RBAC_GROUP;
use crate::refusal::{Act, act_error, mint_error};
use crate::rules::{self, Rules};

/// How long the rights of a new lease may take to come into effect.
pub const RIGHTS_PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at what is in effect.
const PAUSE: Duration = Duration::from_millis(25);
/// Ends the User-Agent of the TokenRequest whose token is never handed out.
const REVIEW: &str = " review";

/// What one binding has to bring into effect.
struct Expected<'a> {
    binding: &'a Binding,
    rules: Rules,
}

/// What has to come into effect in one namespace; nothing in that of the ServiceAccount.
struct Place<'a> {
    namespace: &'a Name,
    expected: Vec<Expected<'a>>,
    /// The first binding of which something was missing at the last look.
    lacks: Option<&'a Binding>,
}

impl<'a> Place<'a> {
    /// All of a lease, its own namespace last.
    fn all(own: &'a Name, expected: Vec<Expected<'a>>) -> Vec<Self> {
        let mut places: Vec<Self> = Vec::new();
        for one in expected {
            let namespace = &one.binding.namespace;
            match places.iter_mut().find(|place| place.namespace == namespace) {
                Some(place) => place.expected.push(one),
                None => places.push(Self { namespace, lacks: Some(one.binding), expected: vec![one] }),
            }
        }
        if places.iter().all(|place| place.namespace != own) {
            places.push(Self { namespace: own, lacks: None, expected: Vec::new() });
        }
        places
    }

    /// What is in effect besides; none while something is missing.
    fn besides(&mut self, mut seen: Rules) -> Option<Rules> {
        let lacking = self.expected.iter().find(|one| !seen.take(&one.rules));
        self.lacks = lacking.map(|one| one.binding);
        self.lacks.is_none().then_some(seen)
    }

    /// Whose rights are missing.
    fn lacking(&self) -> Result<String, MintError> {
        match self.lacks {
            Some(binding) => Ok(role_of(binding)?.to_string()),
            None => Ok("the ServiceAccount".to_owned()),
        }
    }
}

impl KubeCluster {
    /// Makes all that a strict lease has in the cluster, in the order in which an end deletes it, and waits until its
    /// rights are in effect.
    pub(crate) async fn make_strict(
        &self,
        order: &Order,
        bindings: &[Binding],
        annotation: &str,
        user_agent: &str,
    ) -> Result<Made, MintError> {
        let mut expected = Vec::with_capacity(bindings.len());
        for binding in bindings {
            expected
                .push(Expected { binding, rules: self.rules(binding, user_agent).await.map_err(to_begin)? });
        }
        for binding in bindings {
            self.bind(order, binding, user_agent).await?;
        }
        let service_account_uid = Some(self.create_account(order, user_agent).await?);
        let anchor_uid = self.create_anchor(order, annotation, user_agent).await?;
        let reviewer = &format!("{user_agent}{REVIEW}");
        let review = self.request_token(order, &anchor_uid, reviewer).await?;
        let places = Place::all(&order.target().namespace, expected);
        let besides = self.wait_for_rights(order, places, &review.token, reviewer).await?;
        self.meets_needs(order, &bearer(&review.token)?, reviewer).await?;
        let not_removed = NotRemoved::of(rules::words(&besides));
        Ok(Made { anchor_uid, service_account_uid, not_removed })
    }

    /// The rules of the Role that is bound.
    async fn rules(&self, binding: &Binding, user_agent: &str) -> Result<Rules, MintError> {
        let (namespace, role) = (&binding.namespace, role_of(binding)?);
        let path = match role {
            RoleRef::Role(name) => {
                format!("/apis/{RBAC_GROUP}/v1/namespaces/{namespace}/roles/{}", name.as_str())
            }
            RoleRef::ClusterRole(name) => format!("/apis/{RBAC_GROUP}/v1/clusterroles/{}", name.as_str()),
        };
        let call = Call { method: Method::GET, path, user_agent, body: &() };
        match self.api.call(call).await {
            Ok(body) => rules::of_role(&body).map_err(MintError::AnswerRejected),
            Err(ApiError::Refused(refusal)) if refusal.code == 404 => Err(MintError::RoleMissing {
                role: role.to_string(),
                namespace: matches!(role, RoleRef::Role(_)).then(|| namespace.clone()),
            }),
            Err(error) => Err(act_error(error, Act::GetRole { namespace, role }, &self.endpoint.name)),
        }
    }

    async fn bind(&self, order: &Order, binding: &Binding, user_agent: &str) -> Result<(), MintError> {
        let (namespace, role) = (&binding.namespace, role_of(binding)?);
        let call = Call {
            method: Method::POST,
            path: format!("/apis/{RBAC_GROUP}/v1/namespaces/{namespace}/rolebindings"),
            user_agent,
            body: &crate::objects::role_binding(order, binding, role, &self.issuer),
        };
        let made = self.api.call(call).await;
        made.map_err(|error| act_error(error, Act::Bind { namespace, role }, &self.endpoint.name))?;
        effects::done(Effect::BindingMade);
        Ok(())
    }

    async fn create_account(&self, order: &Order, user_agent: &str) -> Result<String, MintError> {
        let namespace = &order.target().namespace;
        let account = crate::objects::account(&order.target().service_account, namespace, &self.issuer);
        let act = Act::CreateAccount { namespace };
        let body = self.create(namespace, "serviceaccounts", user_agent, &account).await;
        let body = body.map_err(|error| mint_error(error, act, order.target(), true))?;
        effects::done(Effect::AccountMade);
        answer::created_uid("ServiceAccount", &body).map_err(MintError::AnswerRejected)
    }

    /// Gives what is in effect besides, in each namespace.
    async fn wait_for_rights(
        &self,
        order: &Order,
        mut missing: Vec<Place<'_>>,
        token: &Token,
        reviewer: &str,
    ) -> Result<Vec<(Name, Rules)>, MintError> {
        let start = self.clock.since_boot();
        let mut besides = Vec::new();
        loop {
            let mut left = Vec::new();
            for mut place in missing {
                let seen = self.rules_in_effect(order, place.namespace, token, reviewer).await?;
                match seen.and_then(|seen| place.besides(seen)) {
                    Some(others) => besides.push((place.namespace.clone(), others)),
                    None => left.push(place),
                }
            }
            let Some(first) = left.first() else { return Ok(besides) };
            if self.clock.since_boot().saturating_sub(start) >= RIGHTS_PATIENCE {
                let (role, namespace) = (first.lacking()?, first.namespace.clone());
                return Err(MintError::RightsNotInEffect { role, namespace, waited: RIGHTS_PATIENCE });
            }
            missing = left;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What the token's holder may do, as the API server sees it; none while it does not let it in.
    async fn rules_in_effect(
        &self,
        order: &Order,
        namespace: &Name,
        token: &Token,
        reviewer: &str,
    ) -> Result<Option<Rules>, MintError> {
        let call = Call {
            method: Method::POST,
            path: "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews".to_owned(),
            user_agent: reviewer,
            body: &json!({"spec": {"namespace": namespace}}),
        };
        let act = Act::CreateToken { namespace, service_account: &order.target().service_account };
        let answer = self.api.call_as(bearer(token)?, call).await;
        let answer = answer.map_err(|error| act_error(error, act, &self.endpoint.name))?;
        let rules = answer.map(|body| rules::in_effect(&body));
        rules.transpose().map_err(MintError::AnswerRejected)
    }

    /// All of them, whatever becomes of each; the first failure is told.
    pub(crate) async fn delete_bindings(&self, bindings: &[Binding]) -> Result<(), CutError> {
        let mut outcome = Ok(());
        for Binding { namespace, name, .. } in bindings {
            let deleted = self.delete_binding(namespace, name).await;
            effects::done_if(&deleted, Effect::BindingDeleted);
            outcome = outcome.and(deleted);
        }
        outcome
    }

    pub(crate) async fn delete_binding(&self, namespace: &Name, name: &str) -> Result<(), CutError> {
        self.delete(Deletion { kind: Kind::RoleBinding, namespace, name, uid: "" }).await
    }

    pub(crate) async fn delete_account(
        &self,
        namespace: &Name,
        name: &str,
        uid: &str,
    ) -> Result<(), CutError> {
        self.delete(Deletion { kind: Kind::ServiceAccount, namespace, name, uid }).await
    }
}

/// What a binding of a lease that is to be made binds to. Only of adopted leases it may be unknown, and those exist already.
fn role_of(binding: &Binding) -> Result<&RoleRef, MintError> {
    let unknown = || MintError::AnswerRejected(format!("it is not known what {} binds to", binding.name));
    binding.role.as_ref().ok_or_else(unknown)
}

fn bearer(token: &Token) -> Result<HeaderValue, MintError> {
    api_server::bearer(token.expose())
        .ok_or_else(|| MintError::AnswerRejected("the token cannot stand in a header".to_owned()))
}
