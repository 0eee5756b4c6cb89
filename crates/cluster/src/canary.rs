//! Canaries and controls: the tokens by which the end of a lease is proved, and the living anchors they are compared with.
//!
//! Both are made with the issuer's credential, and no canary is handed out. A control of strict leases has a ServiceAccount
//! of its own: that of the lease is gone when the comparison is made. How an API server is asked is in [`crate::witness`].

use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use shorepass_core::cluster::{CutError, MintError};
use shorepass_core::lease::Pins;
use shorepass_core::receipt::{Answer, Bound, Canary, Control, Scope, Witnesses};
use tokio::time::timeout;

use crate::answer;
use crate::api_server::Call;
use crate::kube_cluster::{
    CUT_DEADLINE, KubeCluster, MINT_DEADLINE, USER_AGENT, no_answer_within, token_path,
};
use crate::objects;
use crate::probe::Probe;
use crate::refusal::{Act, act_error, mint_error};

impl KubeCluster {
    /// One token that nobody is given, on an anchor that exists.
    async fn mint_canary(&self, bound: &Bound) -> Result<Canary, MintError> {
        let Bound { target, anchor, pins, .. } = bound;
        if target.service_account.is_empty() {
            let unknown = "the ServiceAccount of this adopted lease is not known, because its role is not";
            return Err(MintError::AnswerRejected(unknown.to_owned()));
        }
        self.policy_in_effect(&target.namespace, &Probe::Secret).await?;
        let call = Call {
            method: Method::POST,
            path: token_path(target),
            user_agent: &format!("{USER_AGENT} lease/{} canary", bound.lease),
            body: &objects::canary_request(bound),
        };
        let act = Act::CreateToken { namespace: &target.namespace, service_account: &target.service_account };
        let body = self.api.call(call).await.map_err(|error| mint_error(error, act, target, false))?;
        let granted = answer::granted(&body).map_err(MintError::AnswerRejected)?;
        let claims = &granted.claims;
        let fits = claims.secret == anchor.as_str()
            && claims.secret_uid == pins.anchor_uid
            && (pins.service_account_uid.is_empty()
                || claims.service_account_uid == pins.service_account_uid)
            && !claims.jti.is_empty();
        if fits {
            Ok(Canary::new(granted.token, granted.claims.jti))
        } else {
            Err(MintError::AnswerRejected("it gave a canary of another anchor or ServiceAccount".to_owned()))
        }
    }

    async fn create_control_now(&self, control: &Control) -> Result<Pins, MintError> {
        let namespace = &control.namespace;
        self.policy_in_effect(namespace, &Probe::Secret).await?;
        let service_account_uid = match control.with_account {
            true => self.create_controls_account(control).await?,
            false => String::new(),
        };
        let anchor = objects::bare_anchor(control.anchor.as_str(), namespace, &self.issuer);
        let body = self.create(namespace, "secrets", USER_AGENT, &anchor).await;
        let body =
            body.map_err(|error| act_error(error, Act::CreateSecret { namespace }, &self.endpoint.name))?;
        let anchor_uid = answer::created_uid("Secret", &body).map_err(MintError::AnswerRejected)?;
        Ok(Pins { anchor_uid, service_account_uid })
    }

    async fn create_controls_account(&self, control: &Control) -> Result<String, MintError> {
        let namespace = &control.namespace;
        let account = objects::account(control.anchor.as_str(), namespace, &self.issuer);
        let body = self.create(namespace, "serviceaccounts", USER_AGENT, &account).await;
        let body =
            body.map_err(|error| act_error(error, Act::CreateAccount { namespace }, &self.endpoint.name))?;
        answer::created_uid("ServiceAccount", &body).map_err(MintError::AnswerRejected)
    }

    async fn delete_control_now(&self, control: &Control) -> Result<(), CutError> {
        let anchor = self.delete_anchor(&control.namespace, &control.anchor, "").await;
        match control.with_account {
            true => anchor.and(self.delete_account(&control.namespace, control.anchor.as_str(), "").await),
            false => anchor,
        }
    }
}

#[async_trait]
impl Witnesses for KubeCluster {
    fn scope(&self) -> Scope {
        self.servers.scope()
    }

    async fn look_around(&self) {
        self.servers.look_around(&self.api).await;
    }

    fn lag_bound(&self) -> Duration {
        self.lag_bound
    }

    /// Takes none of the permits of mints: proofs are few at a time, and a job never waits for one.
    async fn canary(&self, bound: &Bound) -> Result<Canary, MintError> {
        timeout(MINT_DEADLINE, self.mint_canary(bound))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
    }

    async fn ask(&self, endpoint: &str, canary: Canary) -> Answer {
        let jti = canary.jti().to_owned();
        self.servers.ask(endpoint, canary.into_token(), &jti).await
    }

    async fn create_control(&self, control: &Control) -> Result<Pins, MintError> {
        timeout(MINT_DEADLINE, self.create_control_now(control))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
    }

    async fn delete_control(&self, control: &Control) -> Result<(), CutError> {
        timeout(CUT_DEADLINE, self.delete_control_now(control))
            .await
            .unwrap_or_else(|_| Err(CutError::Unreachable(no_answer_within(CUT_DEADLINE))))
    }
}
