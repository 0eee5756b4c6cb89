//! The cluster port over the Kubernetes API: anchor, then a token bound to it, or nothing.
//!
//! A mint that fails leaves what it made: the record of the lease names the anchor, and whoever recorded it cuts it.
//! Deleting it here as well would be a second place that decides about ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta};
use shorepass_core::cluster::{Cluster, CutError, Endpoint, MintError};
use shorepass_core::id::{CallId, LeaseId};
use shorepass_core::lease::AnchorName;
use shorepass_core::mint::{Minted, Order};
use shorepass_core::name::Name;
use shorepass_core::receipt::{Answer, Bound, Canary, Control, Scope, Witnesses};
use shorepass_core::role::Target;
use shorepass_core::time::Clock;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{self, Granted};
use crate::api_server::{ApiServer, Call, RETRY_SOON};
use crate::connection::{ConnectError, Connection};
use crate::names;
use crate::probe::{Probes, WARM_UP};
use crate::refusal::{Act, act_error, cut_error, mint_error};
use crate::witness::{CANARY_LIFE, Servers};

/// How long a mint may take once it has its permit: probe, anchor and token together.
pub const MINT_DEADLINE: Duration = Duration::from_secs(8);
/// How long a cut may take once it has its permit.
pub const CUT_DEADLINE: Duration = Duration::from_secs(8);
/// How long a mint waits for its permit.
pub const PERMIT_PATIENCE: Duration = Duration::from_secs(1);
/// How many anchors of one cluster are deleted at the same time; the others wait.
pub const CUTS_IN_FLIGHT: usize = 32;

/// How the issuer introduces itself.
pub(crate) const USER_AGENT: &str = concat!("shorepass-issuer/", env!("CARGO_PKG_VERSION"));
/// Between two rounds of a warm-up.
const ROUND: Duration = Duration::from_millis(500);

/// One cluster.
pub struct KubeCluster {
    endpoint: Endpoint,
    issuer: Name,
    api: ApiServer,
    probes: Probes,
    servers: Servers,
    lag_bound: Duration,
    mints: Semaphore,
    cuts: Semaphore,
    clock: Arc<dyn Clock>,
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
            mints: Semaphore::new(connection.mints_in_flight),
            cuts: Semaphore::new(CUTS_IN_FLIGHT),
            clock,
        })
    }

    /// Looks anew whether the admission policy is in effect in each namespace, for [`WARM_UP`] where it is not.
    /// Returns the namespaces in which nothing will be minted, and why. For start-up and after a change of roles;
    /// between them each mint looks for itself.
    pub async fn warm_up(&self, namespaces: &BTreeSet<Name>) -> BTreeMap<Name, MintError> {
        self.servers.learn(&self.api).await;
        let start = self.clock.since_boot();
        let mut pending = namespaces.clone();
        loop {
            let failed = self.probe_round(&pending).await;
            if failed.is_empty() || self.clock.since_boot().saturating_sub(start) >= WARM_UP {
                return failed;
            }
            pending = failed.into_keys().collect();
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn probe_round(&self, namespaces: &BTreeSet<Name>) -> BTreeMap<Name, MintError> {
        let mut failed = BTreeMap::new();
        let mut unreachable = None;
        for namespace in namespaces {
            // Who does not answer for one namespace does not answer for the next.
            let error = match &unreachable {
                Some(error) => Some(MintError::clone(error)),
                None => self.probe(namespace).await.err(),
            };
            if let Some(error @ MintError::Unreachable { .. }) = &error {
                unreachable = Some(error.clone());
            }
            failed.extend(error.map(|error| (namespace.clone(), error)));
        }
        failed
    }

    async fn probe(&self, namespace: &Name) -> Result<(), MintError> {
        let probe = timeout(MINT_DEADLINE, self.probes.ask_anew(&self.api, namespace)).await;
        self.policy_verdict(namespace, probe.map_err(|_| self.too_slow(MINT_DEADLINE))?)
    }

    fn policy_verdict(
        &self,
        namespace: &Name,
        in_effect: Result<bool, crate::api_server::ApiError>,
    ) -> Result<(), MintError> {
        match in_effect {
            Ok(true) => Ok(()),
            Ok(false) => Err(MintError::PolicyMissing { namespace: namespace.to_string() }),
            Err(error) => Err(act_error(error, Act::CreateSecret { namespace }, &self.endpoint.name)),
        }
    }

    async fn mint_now(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError> {
        let namespace = &order.target().namespace;
        self.policy_verdict(namespace, self.probes.in_effect(&self.api, namespace).await)?;
        let user_agent = user_agent(order.lease_id(), call);
        let anchor_uid = match order.pins() {
            Some(pins) => pins.anchor_uid.clone(),
            None => self.create_anchor(order, annotation, &user_agent).await?,
        };
        let sent = self.clock.since_boot();
        let granted = self.request_token(order, &anchor_uid, &user_agent).await?;
        Ok(Minted {
            token: granted.token,
            claims: granted.claims,
            anchor_uid,
            audiences: granted.audiences,
            created: granted.created,
            expires: granted.expires,
            spent: self.clock.since_boot().saturating_sub(sent),
        })
    }

    /// Creates the Secret and returns its UID.
    async fn create_anchor(
        &self,
        order: &Order,
        annotation: &str,
        user_agent: &str,
    ) -> Result<String, MintError> {
        let target = order.target();
        let call = Call {
            method: Method::POST,
            path: format!("/api/v1/namespaces/{}/secrets", target.namespace),
            user_agent,
            body: &self.anchor(order, annotation),
        };
        let act = Act::CreateSecret { namespace: &target.namespace };
        let body = self.api.call(call).await.map_err(|error| mint_error(error, act, target, true))?;
        answer::created_uid(&body).map_err(MintError::AnswerRejected)
    }

    fn anchor(&self, order: &Order, annotation: &str) -> Secret {
        let mut anchor = self.bare_anchor(order.anchor(), &order.target().namespace);
        anchor.metadata.annotations = Some(map([(names::LEASE_ANNOTATION, annotation)]));
        anchor
    }

    /// An anchor that nobody adopts: it says of no lease that it is its own.
    fn bare_anchor(&self, name: &AnchorName, namespace: &Name) -> Secret {
        let labels =
            [(names::MANAGED_BY_LABEL, names::MANAGED_BY), (names::ISSUER_LABEL, self.issuer.as_str())];
        Secret {
            metadata: ObjectMeta {
                name: Some(name.as_str().to_owned()),
                namespace: Some(namespace.to_string()),
                labels: Some(map(labels)),
                ..ObjectMeta::default()
            },
            type_: Some(names::LEASE_TYPE.to_owned()),
            ..Secret::default()
        }
    }

    /// One token that nobody is given, on an anchor that exists.
    async fn mint_canary(&self, bound: &Bound) -> Result<Canary, MintError> {
        let Bound { target, anchor, pins, .. } = bound;
        self.policy_verdict(&target.namespace, self.probes.in_effect(&self.api, &target.namespace).await)?;
        let call = Call {
            method: Method::POST,
            path: token_path(target),
            user_agent: &format!("{USER_AGENT} lease/{} canary", bound.lease),
            body: &canary_request(bound),
        };
        let act = Act::CreateToken { namespace: &target.namespace, service_account: &target.service_account };
        let body = self.api.call(call).await.map_err(|error| mint_error(error, act, target, false))?;
        let granted = answer::granted(&body).map_err(MintError::AnswerRejected)?;
        let claims = &granted.claims;
        let fits = claims.secret == anchor.as_str()
            && claims.secret_uid == pins.anchor_uid
            && claims.service_account_uid == pins.service_account_uid
            && !claims.jti.is_empty();
        if fits {
            Ok(Canary::new(granted.token, granted.claims.jti))
        } else {
            Err(MintError::AnswerRejected("it gave a canary of another anchor or ServiceAccount".to_owned()))
        }
    }

    async fn create_control_now(&self, control: &Control) -> Result<String, MintError> {
        let namespace = &control.namespace;
        self.policy_verdict(namespace, self.probes.in_effect(&self.api, namespace).await)?;
        let call = Call {
            method: Method::POST,
            path: format!("/api/v1/namespaces/{namespace}/secrets"),
            user_agent: USER_AGENT,
            body: &self.bare_anchor(&control.anchor, namespace),
        };
        let body = self.api.call(call).await;
        let body =
            body.map_err(|error| act_error(error, Act::CreateSecret { namespace }, &self.endpoint.name))?;
        answer::created_uid(&body).map_err(MintError::AnswerRejected)
    }

    /// Asks for one token, once.
    async fn request_token(
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
            body: &token_request(order, anchor_uid),
        };
        let act = Act::CreateToken { namespace: &target.namespace, service_account: &target.service_account };
        let first = order.pins().is_none();
        let body = self.api.call(call).await.map_err(|error| mint_error(error, act, target, first))?;
        answer::granted(&body).map_err(MintError::AnswerRejected)
    }

    async fn cut_now(&self, namespace: &Name, anchor: &AnchorName) -> Result<(), CutError> {
        let call = Call {
            method: Method::DELETE,
            path: format!("/api/v1/namespaces/{namespace}/secrets/{}", anchor.as_str()),
            user_agent: USER_AGENT,
            // Foreground and orphan deletes leave the object, and its tokens, for a while.
            body: &DeleteOptions {
                propagation_policy: Some("Background".to_owned()),
                ..DeleteOptions::default()
            },
        };
        let body = match self.api.call(call).await {
            Ok(body) => body,
            Err(error) => {
                let act = Act::DeleteSecret { namespace, name: anchor.as_str() };
                return cut_error(error, act).map_or(Ok(()), Err);
            }
        };
        match answer::is_held(&body) {
            Ok(false) => Ok(()),
            Ok(true) => Err(CutError::HeldByFinalizer(format!("{namespace}/{}", anchor.as_str()))),
            Err(problem) => Err(CutError::Unreachable(problem)),
        }
    }

    fn too_slow(&self, deadline: Duration) -> MintError {
        MintError::Unreachable { cluster: self.endpoint.name.clone(), cause: no_answer_within(deadline) }
    }
}

#[async_trait]
impl Cluster for KubeCluster {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn mint(&self, order: &Order, annotation: &str, call: &CallId) -> Result<Minted, MintError> {
        let Ok(Ok(_permit)) = timeout(PERMIT_PATIENCE, self.mints.acquire()).await else {
            return Err(MintError::Busy { cluster: self.endpoint.name.clone(), retry_after: RETRY_SOON });
        };
        timeout(MINT_DEADLINE, self.mint_now(order, annotation, call))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
    }

    async fn cut(&self, namespace: &Name, anchor: &AnchorName) -> Result<(), CutError> {
        // Nothing closes the semaphore; if it were closed, the delete would go out all the same.
        let _permit = self.cuts.acquire().await;
        timeout(CUT_DEADLINE, self.cut_now(namespace, anchor))
            .await
            .unwrap_or_else(|_| Err(CutError::Unreachable(no_answer_within(CUT_DEADLINE))))
    }
}

#[async_trait]
impl Witnesses for KubeCluster {
    fn scope(&self) -> Scope {
        self.servers.scope()
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

    async fn create_control(&self, control: &Control) -> Result<String, MintError> {
        timeout(MINT_DEADLINE, self.create_control_now(control))
            .await
            .unwrap_or_else(|_| Err(self.too_slow(MINT_DEADLINE)))
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

fn token_path(target: &Target) -> String {
    format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", target.namespace, target.service_account)
}

fn token_request(order: &Order, anchor_uid: &str) -> TokenRequest {
    let mut request = bound_request(order.target(), order.lease_id(), order.anchor(), anchor_uid);
    // Kubernetes 1.34 and later refuse another UID; older ones do not look, so the answer is checked too.
    request.metadata.uid = order.pins().map(|pins| pins.service_account_uid.clone());
    request.spec.expiration_seconds = Some(seconds(order.token_lifetime()));
    request
}

fn canary_request(bound: &Bound) -> TokenRequest {
    let Bound { lease, target, anchor, pins } = bound;
    let mut request = bound_request(target, *lease, anchor, &pins.anchor_uid);
    request.metadata.uid = Some(pins.service_account_uid.clone());
    request.spec.expiration_seconds = Some(seconds(CANARY_LIFE));
    request
}

fn bound_request(target: &Target, lease: LeaseId, anchor: &AnchorName, anchor_uid: &str) -> TokenRequest {
    TokenRequest {
        metadata: ObjectMeta {
            name: Some(target.service_account.clone()),
            namespace: Some(target.namespace.to_string()),
            annotations: Some(map([(names::LEASE_ID_ANNOTATION, lease.to_string().as_str())])),
            ..ObjectMeta::default()
        },
        spec: TokenRequestSpec {
            // None named: the API server's own.
            audiences: Vec::new(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some(anchor.as_str().to_owned()),
                uid: Some(anchor_uid.to_owned()),
            }),
            expiration_seconds: None,
        },
        status: None,
    }
}

fn seconds(life: Duration) -> i64 {
    i64::try_from(life.as_secs()).unwrap_or(i64::MAX)
}

fn map<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn no_answer_within(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Instant;

    use shorepass_core::time::Timestamp;

    use super::*;
    use crate::connection::Advertise;

    struct Stopwatch(Instant);

    impl Clock for Stopwatch {
        fn now(&self) -> Timestamp {
            Timestamp::now()
        }

        fn since_boot(&self) -> Duration {
            self.0.elapsed()
        }
    }

    /// Cuts something at a server that never says a word, and says how long that took.
    async fn cut_at(server: &str) -> (Result<(), CutError>, Duration) {
        let name = |text| Name::parse(text).unwrap();
        let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
        write!(
            kubeconfig,
            "{{contexts: [{{name: x, context: {{cluster: x, user: x}}}}], users: [{{name: x, user: {{token: t}}}}], \
             clusters: [{{name: x, cluster: {{server: 'https://{server}'}}}}]}}"
        )
        .unwrap();
        let connection = Connection {
            name: name("staging"),
            kubeconfig: kubeconfig.path().to_owned(),
            context: "x".to_owned(),
            advertise: Advertise::default(),
            issuer: name("main"),
            mints_in_flight: 1,
            endpoints: Vec::new(),
            lag_bound: shorepass_core::receipt::LAG_BOUND,
        };
        let cluster = KubeCluster::connect(connection, Arc::new(Stopwatch(Instant::now()))).await.unwrap();
        let start = Instant::now();
        let outcome = cluster.cut(&name("web"), &AnchorName::from_random([1; 16])).await;
        (outcome, start.elapsed())
    }

    #[test]
    fn the_user_agent_names_lease_and_request() {
        let lease = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
        let said = user_agent(LeaseId::parse(lease).unwrap(), &CallId::parse("job-7").unwrap());
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(said, format!("shorepass-issuer/{version} lease/{lease} request/job-7"));
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (outcome, took) = cut_at(&listener.local_addr().unwrap().to_string()).await;
        assert!(matches!(outcome, Err(CutError::Unreachable(_))), "{outcome:?}");
        assert!(took < CUT_DEADLINE + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn why_a_server_cannot_be_reached_is_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let Err(CutError::Unreachable(cause)) = cut_at(&address).await.0 else { panic!("nobody listens") };
        assert!(cause.contains("Connection refused"), "{cause}");
    }
}
