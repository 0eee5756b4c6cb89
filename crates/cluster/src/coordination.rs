//! The issuer's own Lease (coordination.k8s.io): by it a second issuer of the same name on one cluster is noticed.
//!
//! It detects and fences nothing: between two looks both may mint, and whoever cannot reach the cluster knows nothing. Who
//! holds it is a text that comes from the state directory, so that an issuer that was killed takes up its own at once. The
//! object itself is made by what [`crate::rbac::render`] prints: the issuer may read and change this one, and make none.

use std::collections::VecDeque;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after};
use tokio::time::timeout;

use crate::api_server::{ApiError, Call};
use crate::kube_cluster::{KubeCluster, USER_AGENT};
use crate::names;
use crate::refusal::is_missing_rule;

/// How long a claim holds that is not renewed.
pub const CLAIM_LASTS: Duration = Duration::from_secs(30);
/// How often it is renewed.
pub const CLAIM_EVERY: Duration = Duration::from_secs(10);
/// How long one look may take.
pub const CLAIM_DEADLINE: Duration = Duration::from_secs(3);
/// How often a look begins anew because somebody else wrote in between.
const ATTEMPTS: usize = 3;
/// How many of our own renewals are known again: the last, and those whose answer was lost.
const KNOWN: usize = 4;

/// What one issuer claims in one cluster.
#[derive(Debug)]
pub struct Claim {
    holder: String,
    namespace: Name,
    /// When we wrote last, or tried to.
    written: VecDeque<Timestamp>,
}

impl Claim {
    /// For the holder of a state directory; the Lease is in this namespace.
    pub fn new(holder: String, namespace: Name) -> Self {
        Self { holder, namespace, written: VecDeque::new() }
    }

    fn remember(&mut self, at: Timestamp) {
        self.written.truncate(KNOWN - 1);
        self.written.push_front(at);
    }
}

/// Whose the name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Ours alone, as far as is seen.
    Ours,
    /// Another issuer holds it.
    Foreign {
        /// Who.
        holder: String,
        /// Until when, if it does not renew it.
        until: Timestamp,
    },
    /// Somebody renews it in our name: an issuer with a copy of our state directory.
    Copied,
}

/// Why nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// There is no such Lease.
    #[error("there is no Lease {namespace}/{name}: apply what `shorepass-issuer rbac` prints")]
    Missing {
        /// Where it is looked for.
        namespace: Name,
        /// Its name.
        name: String,
    },
    /// The issuer may not.
    #[error(
        "the cluster forbids the issuer to use Lease {namespace}/{name}: apply what `shorepass-issuer rbac` prints"
    )]
    Forbidden {
        /// Where it is.
        namespace: Name,
        /// Its name.
        name: String,
    },
    /// No answer, or none that can be understood.
    #[error("Lease {namespace}/{name} cannot be looked at: {cause}")]
    Unreachable {
        /// Where it is.
        namespace: Name,
        /// Its name.
        name: String,
        /// What went wrong.
        cause: String,
    },
}

/// What follows from what is found.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nobody's, or nobody's any more.
    Take,
    Renew,
    /// Ours, and we have not written that.
    RenewCopied,
    Leave(Standing),
}

/// Decides. `written` is empty before the first look: what is found then is what an earlier run left.
fn judge(found: &LeaseSpec, claim: &Claim, now: Timestamp) -> Next {
    let Some(holder) = found.holder_identity.as_deref().filter(|holder| !holder.is_empty()) else {
        return Next::Take;
    };
    let renewed = found.renew_time.as_ref().map(|time| time.0);
    if holder == claim.holder {
        let known = claim.written.is_empty() || renewed.is_some_and(|at| claim.written.contains(&at));
        return if known { Next::Renew } else { Next::RenewCopied };
    }
    let lasts = found.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let until = renewed.map(|at| after(at, lasts.map_or(CLAIM_LASTS, Duration::from_secs)));
    match until.filter(|until| now < *until) {
        Some(until) => Next::Leave(Standing::Foreign { holder: holder.to_owned(), until }),
        None => Next::Take,
    }
}

impl KubeCluster {
    /// Looks whose the issuer's name is, and claims or renews it if nobody else holds it.
    pub async fn claim(&self, claim: &mut Claim) -> Result<Standing, ClaimError> {
        let place = (claim.namespace.clone(), names::policy_name(&self.issuer));
        timeout(CLAIM_DEADLINE, self.claim_now(claim)).await.unwrap_or_else(|_| {
            let cause = format!("no answer within {} s", CLAIM_DEADLINE.as_secs());
            Err(ClaimError::Unreachable { namespace: place.0, name: place.1, cause })
        })
    }

    /// Gives the name up, if it is ours, so that nobody has to wait.
    pub async fn disclaim(&self, claim: &mut Claim) -> Result<(), ClaimError> {
        let given_up = async {
            let mut lease = self.own_lease(claim).await?;
            let spec = lease.spec.get_or_insert_default();
            if judge(spec, claim, self.clock.now()) == Next::Renew {
                (spec.holder_identity, spec.renew_time) = (None, None);
                self.put_lease(claim, &lease).await?;
            }
            Ok(())
        };
        timeout(CLAIM_DEADLINE, given_up).await.unwrap_or(Ok(()))
    }

    async fn claim_now(&self, claim: &mut Claim) -> Result<Standing, ClaimError> {
        for _ in 0..ATTEMPTS {
            let mut lease = self.own_lease(claim).await?;
            let now = to_the_microsecond(self.clock.now());
            let spec = lease.spec.get_or_insert_default();
            let standing = match judge(spec, claim, now) {
                Next::Leave(standing) => return Ok(standing),
                Next::Renew => Standing::Ours,
                Next::RenewCopied => Standing::Copied,
                Next::Take => {
                    spec.holder_identity = Some(claim.holder.clone());
                    spec.acquire_time = Some(MicroTime(now));
                    spec.lease_transitions =
                        Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
                    Standing::Ours
                }
            };
            spec.renew_time = Some(MicroTime(now));
            spec.lease_duration_seconds = i32::try_from(CLAIM_LASTS.as_secs()).ok();
            claim.remember(now);
            if self.put_lease(claim, &lease).await? {
                return Ok(standing);
            }
        }
        Err(self.claim_error(claim, "it is changed by somebody else all the time".to_owned()))
    }

    async fn own_lease(&self, claim: &Claim) -> Result<Lease, ClaimError> {
        let call =
            Call { method: Method::GET, path: self.lease_path(claim), user_agent: USER_AGENT, body: &() };
        match self.api.call(call).await {
            Ok(body) => serde_json::from_slice(&body)
                .map_err(|_| self.claim_error(claim, "the answer is no Lease".to_owned())),
            Err(error) => Err(self.refused_claim(claim, error)),
        }
    }

    /// Whether it was written; not if somebody else was faster.
    async fn put_lease(&self, claim: &Claim, lease: &Lease) -> Result<bool, ClaimError> {
        let call =
            Call { method: Method::PUT, path: self.lease_path(claim), user_agent: USER_AGENT, body: lease };
        match self.api.call(call).await {
            Ok(_) => Ok(true),
            Err(ApiError::Refused(refusal)) if refusal.code == 409 => Ok(false),
            Err(error) => Err(self.refused_claim(claim, error)),
        }
    }

    fn lease_path(&self, claim: &Claim) -> String {
        let (namespace, name) = (&claim.namespace, names::policy_name(&self.issuer));
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}")
    }

    fn refused_claim(&self, claim: &Claim, error: ApiError) -> ClaimError {
        let (namespace, name) = (claim.namespace.clone(), names::policy_name(&self.issuer));
        match &error {
            ApiError::Refused(refusal) if refusal.code == 404 => ClaimError::Missing { namespace, name },
            ApiError::Refused(refusal) if is_missing_rule(refusal) => {
                ClaimError::Forbidden { namespace, name }
            }
            ApiError::Refused(_)
            | ApiError::NoAnswer(_)
            | ApiError::WebhookFails
            | ApiError::Unavailable { .. } => self.claim_error(claim, error.to_string()),
        }
    }

    fn claim_error(&self, claim: &Claim, cause: String) -> ClaimError {
        let name = names::policy_name(&self.issuer);
        ClaimError::Unreachable { namespace: claim.namespace.clone(), name, cause }
    }
}

/// As exact as the API server keeps it.
fn to_the_microsecond(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn claim(written: &[i64]) -> Claim {
        let mut claim = Claim::new("main/1".to_owned(), Name::parse("home").unwrap());
        for at in written {
            claim.remember(second(*at));
        }
        claim
    }

    fn held(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(second(renewed))),
            lease_duration_seconds: Some(30),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn what_nobody_holds_is_taken() {
        assert_eq!(judge(&LeaseSpec::default(), &claim(&[]), second(100)), Next::Take);
        assert_eq!(judge(&held("", 99), &claim(&[]), second(100)), Next::Take);
    }

    #[test]
    fn another_holder_is_left_until_it_expires() {
        let foreign = Standing::Foreign { holder: "main/2".to_owned(), until: second(130) };
        assert_eq!(judge(&held("main/2", 100), &claim(&[]), second(129)), Next::Leave(foreign));
        assert_eq!(judge(&held("main/2", 100), &claim(&[]), second(130)), Next::Take);
        let never = LeaseSpec { renew_time: None, ..held("main/2", 0) };
        assert_eq!(judge(&never, &claim(&[]), second(0)), Next::Take);
    }

    #[test]
    fn an_earlier_run_of_ours_is_taken_up_without_waiting() {
        assert_eq!(judge(&held("main/1", 100), &claim(&[]), second(101)), Next::Renew);
    }

    #[test]
    fn a_renewal_that_we_did_not_write_is_a_copys() {
        assert_eq!(judge(&held("main/1", 100), &claim(&[90, 100]), second(110)), Next::Renew);
        assert_eq!(judge(&held("main/1", 90), &claim(&[90, 100]), second(110)), Next::Renew, "lost");
        assert_eq!(judge(&held("main/1", 105), &claim(&[90, 100]), second(110)), Next::RenewCopied);
    }

    #[test]
    fn only_the_last_renewals_are_remembered() {
        assert_eq!(claim(&[1, 2, 3, 4, 5]).written, [5, 4, 3, 2].map(second));
    }
}
