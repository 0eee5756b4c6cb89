//! The cluster port over the Kubernetes API: anchor, then a token bound to it, or nothing.
//!
//! A mint that fails leaves what it made: the record of the lease names the anchor, and whoever recorded it cuts it.
//! Deleting it here as well would be a second place that decides about ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions};
use serde::Serialize;
use shorepass_core::cluster::{Cluster, CutError, Endpoint, MintError};
use shorepass_core::id::{CallId, LeaseId};
use shorepass_core::lease::{AnchorName, Lease, Mode};
pub use shorepass_core::mint::MINT_DEADLINE;
use shorepass_core::mint::{Minted, Order};
use shorepass_core::name::Name;
use shorepass_core::needs::Right;
use shorepass_core::not_removed::NotRemoved;
use shorepass_core::role::Target;
use shorepass_core::time::Clock;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::answer::{self, Granted};
use crate::api_server::{ApiError, ApiServer, Call};
use crate::connection::{ConnectError, Connection};
use crate::deletion::{self, Deletion, Kind};
use crate::effects::{self, Effect};
use crate::objects;
use crate::probe::{Places, Probe, Probes, WARM_UP};
use crate::refusal::{Act, act_error, mint_error};
use crate::witness::Servers;

/// How long a cut may take once it has its permit.
pub const CUT_DEADLINE: Duration = Duration::from_secs(8);
/// How much of that the bindings of a strict lease may take, so that time is left for the anchor.
const BINDINGS_DEADLINE: Duration = Duration::from_secs(3);
/// How many anchors of one cluster are deleted at the same time; the others wait.
pub const CUTS_IN_FLIGHT: usize = 32;

/// How the issuer introduces itself.
pub(crate) const USER_AGENT: &str = concat!("shorepass-issuer/", env!("CARGO_PKG_VERSION"));
/// Between two rounds of a warm-up.
const ROUND: Duration = Duration::from_millis(500);

/// What was made for a lease, or is known of it.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) anchor_uid: String,
    pub(crate) service_account_uid: Option<String>,
    pub(crate) not_removed: Option<NotRemoved>,
}

/// One cluster.
pub struct KubeCluster {
    pub(crate) endpoint: Endpoint,
    pub(crate) issuer: Name,
    pub(crate) api: ApiServer,
    probes: Probes,
    pub(crate) servers: Servers,
    pub(crate) lag_bound: Duration,
    cuts: Semaphore,
    pub(crate) clock: Arc<dyn Clock>,
}

impl KubeCluster {
    /// Reads the kubeconfig and makes the client. Nothing is sent yet. Call it within a tokio runtime.
    pub async fn connect(connection: Connection, clock: Arc<dyn Clock>) -> Result<Self, ConnectError> {
        let (endpoint, api, servers) = connection.open().await?;
        Ok(Self {
            servers,
            lag_bound: connection.lag_bound,
            endpoint,
            api,
            probes: Probes::new(&connection.issuer, clock.clone()),
            issuer: connection.issuer,
            cuts: Semaphore::new(CUTS_IN_FLIGHT),
            clock,
        })
    }

    /// Looks anew whether the admission policy is in effect in each place, for [`WARM_UP`] where it is not.
    /// Returns the namespaces in which nothing will be minted, and why. For start-up and after a change of roles;
    /// between them each mint looks for itself.
    pub async fn warm_up(&self, places: &Places) -> BTreeMap<Name, MintError> {
        self.servers.learn(&self.api).await;
        let start = self.clock.since_boot();
        let mut pending = places.0.clone();
        loop {
            let failed = self.probe_round(&pending).await;
            if failed.is_empty() || self.clock.since_boot().saturating_sub(start) >= WARM_UP {
                return failed;
            }
            pending.retain(|namespace, _| failed.contains_key(namespace));
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn probe_round(&self, places: &BTreeMap<Name, Probe>) -> BTreeMap<Name, MintError> {
        let mut failed = BTreeMap::new();
        let mut unreachable = None;
        for (namespace, probe) in places {
            // Who does not answer for one namespace does not answer for the next.
            let error = match &unreachable {
                Some(error) => Some(MintError::clone(error)),
                None => self.probe(namespace, probe).await.err(),
            };
            if let Some(error @ MintError::Unreachable { .. }) = &error {
                unreachable = Some(error.clone());
            }
            failed.extend(error.map(|error| (namespace.clone(), error)));
        }
        failed
    }

    async fn probe(&self, namespace: &Name, probe: &Probe) -> Result<(), MintError> {
        let asked = timeout(MINT_DEADLINE, self.probes.ask_anew(&self.api, namespace, probe)).await;
        self.policy_verdict(namespace, probe, asked.map_err(|_| self.too_slow(MINT_DEADLINE))?)
    }

    /// Whether the admission policy is in effect, by what was seen lately or by one probe.
    pub(crate) async fn policy_in_effect(&self, namespace: &Name, probe: &Probe) -> Result<(), MintError> {
        let in_effect = self.probes.in_effect(&self.api, namespace, probe).await;
        self.policy_verdict(namespace, probe, in_effect)
    }

    fn policy_verdict(
        &self,
        namespace: &Name,
        probe: &Probe,
        in_effect: Result<bool, ApiError>,
    ) -> Result<(), MintError> {
        match in_effect {
            Ok(true) => Ok(()),
            Ok(false) => Err(MintError::PolicyMissing { namespace: namespace.to_string() }),
            Err(error) => Err(to_begin(act_error(error, probe.act(namespace), &self.endpoint.name))),
        }
    }

    async fn mint_now(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError> {
        for (namespace, probe) in &Places::of_lease(order.lease()).0 {
            self.policy_in_effect(namespace, probe).await?;
        }
        let user_agent = &user_agent(order.lease_id(), call);
        let made = match (order.pins(), order.mode()) {
            (Some(pins), _) => Made { anchor_uid: pins.anchor_uid.clone(), ..Made::default() },
            (None, Mode::Unbound { .. }) => Made::default(),
            (None, Mode::Bound) => Made {
                anchor_uid: self.create_anchor(order, annotation, user_agent).await.map_err(to_begin)?,
                ..Made::default()
            },
            (None, Mode::Strict { bindings }) => {
                self.make_strict(order, bindings, annotation, user_agent).await?
            }
        };
        let sent = self.clock.since_boot();
        let granted = self.request_token(order, &made.anchor_uid, user_agent).await?;
        Ok(Minted {
            token: granted.token,
            claims: granted.claims,
            anchor_uid: made.anchor_uid,
            service_account_uid: made.service_account_uid,
            not_removed: made.not_removed,
            audiences: granted.audiences,
            created: granted.created,
            expires: granted.expires,
            spent: self.clock.since_boot().saturating_sub(sent),
        })
    }

    /// Creates the Secret and returns its UID.
    pub(crate) async fn create_anchor(
        &self,
        order: &Order,
        annotation: &str,
        user_agent: &str,
    ) -> Result<String, MintError> {
        let target = order.target();
        let anchor = objects::anchor(order, annotation, &self.issuer);
        let act = Act::CreateSecret { namespace: &target.namespace };
        let body = self.create(&target.namespace, "secrets", user_agent, &anchor).await;
        let body = body.map_err(|error| mint_error(error, act, target, true))?;
        effects::done(Effect::AnchorMade);
        answer::created_uid("Secret", &body).map_err(MintError::AnswerRejected)
    }

    /// Creates an object of the core group and gives the answer.
    pub(crate) async fn create<B: Serialize>(
        &self,
        namespace: &Name,
        resource: &str,
        user_agent: &str,
        body: &B,
    ) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        let path = format!("/api/v1/namespaces/{namespace}/{resource}");
        self.api.call(Call { method: Method::POST, path, user_agent, body }).await
    }

    /// Asks for one token, once.
    pub(crate) async fn request_token(
        &self,
        order: &Order,
        anchor_uid: &str,
        user_agent: &str,
    ) -> Result<Granted, MintError> {
        let target = order.target();
        let call = Call {
            method: Method::POST,
            path: token_path(target),
            user_agent,
            body: &objects::token_request(order, anchor_uid),
        };
        let act = Act::CreateToken { namespace: &target.namespace, service_account: &target.service_account };
        let first = order.pins().is_none();
        let body = self.api.call(call).await.map_err(|error| mint_error(error, act, target, first))?;
        answer::granted(&body).map_err(MintError::AnswerRejected)
    }

    /// Bindings first: what is left of a token's rights is gone in milliseconds. What cannot be deleted is told after
    /// everything else was tried.
    async fn cut_now(&self, lease: &Lease) -> Result<(), CutError> {
        let namespace = &lease.target.namespace;
        let (anchor_uid, account_uid) = lease
            .activation()
            .map_or(("", ""), |(pins, _)| (pins.anchor_uid.as_str(), pins.service_account_uid.as_str()));
        let anchor = || self.delete_anchor(namespace, &lease.anchor, anchor_uid);
        match &lease.mode {
            Mode::Unbound { .. } => Ok(()),
            Mode::Bound => anchor().await,
            Mode::Strict { bindings } => {
                let unbound = timeout(BINDINGS_DEADLINE, self.delete_bindings(bindings)).await;
                let unbound = unbound
                    .unwrap_or_else(|_| Err(CutError::Unreachable(no_answer_within(BINDINGS_DEADLINE))));
                let anchor = anchor().await;
                effects::done_if(&anchor, Effect::StrictAnchorDeleted);
                let account = &lease.target.service_account;
                unbound.and(anchor).and(self.delete_account(namespace, account, account_uid).await)
            }
        }
    }

    pub(crate) async fn delete_anchor(
        &self,
        namespace: &Name,
        anchor: &AnchorName,
        uid: &str,
    ) -> Result<(), CutError> {
        self.delete(Deletion { kind: Kind::Secret, namespace, name: anchor.as_str(), uid }).await
    }

    /// Deletes one object, whose content is not read.
    pub(crate) async fn delete(&self, deletion: Deletion<'_>) -> Result<(), CutError> {
        let call = Call {
            method: Method::DELETE,
            path: deletion.path(),
            user_agent: USER_AGENT,
            // Foreground and orphan deletes leave the object, and its tokens, for a while.
            body: &DeleteOptions {
                propagation_policy: Some("Background".to_owned()),
                // What somebody else made under the name is not ours to delete.
                preconditions: (!deletion.uid.is_empty())
                    .then(|| Preconditions { uid: Some(deletion.uid.to_owned()), resource_version: None }),
                ..DeleteOptions::default()
            },
        };
        deletion.outcome(self.api.call_for_head(call, deletion::is_enough).await)
    }

    pub(crate) fn too_slow(&self, deadline: Duration) -> MintError {
        MintError::Unreachable { cluster: self.endpoint.name.clone(), cause: no_answer_within(deadline) }
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn mint(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError> {
        timeout(MINT_DEADLINE, self.mint_now(order, annotation, call))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
    }

    async fn lacking(&self, account: &Target, rights: &[Right]) -> Result<Vec<Right>, MintError> {
        timeout(MINT_DEADLINE, self.lacking_now(account, rights))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
    }

    async fn cut(&self, lease: &Lease) -> Result<(), CutError> {
        // Nothing closes the semaphore; if it were closed, the delete would go out all the same.
        let _permit = self.cuts.acquire().await;
        timeout(CUT_DEADLINE, self.cut_now(lease))
            .await
            .unwrap_or_else(|_| Err(CutError::Unreachable(no_answer_within(CUT_DEADLINE))))
    }
}

impl fmt::Debug for KubeCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeCluster").field("name", &self.endpoint.name.as_str()).finish_non_exhaustive()
    }
}

/// The API server's audit log keeps it, so that a token can be traced without our records.
fn user_agent(lease: LeaseId, call: &CallId) -> String {
    format!("{USER_AGENT} lease/{lease} request/{call}")
}

/// A refusal of the first thing that is asked for.
pub(crate) fn to_begin(error: MintError) -> MintError {
    match error {
        MintError::Forbidden { rule } => MintError::ForbiddenToBegin { rule },
        MintError::AdmissionRefused { act, words, .. } => {
            MintError::AdmissionRefused { act, words, begun: false }
        }
        MintError::QuotaExceeded { act, words, .. } => MintError::QuotaExceeded { act, words, begun: false },
        MintError::NamespaceUnavailable { namespace, deleting, .. } => {
            MintError::NamespaceUnavailable { namespace, deleting, begun: false }
        }
        other => other,
    }
}

pub(crate) fn token_path(target: &Target) -> String {
    format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", target.namespace, target.service_account)
}

pub(crate) fn no_answer_within(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs())
}

#[cfg(test)]
mod tests;
