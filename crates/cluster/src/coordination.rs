//! The issuer's own Lease (coordination.k8s.io): by it a second issuer of the same name on one cluster is noticed.
//!
//! It detects and fences nothing: between two looks both may mint, and whoever cannot reach the cluster knows nothing. Who
//! holds it is a text that comes from the state directory, so that an issuer that was killed takes up its own at once. The
//! object itself is made by what [`crate::rbac::render`] prints: the issuer may read and change this one, and make none.

use std::time::Duration;

use http::Method;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::Deserialize as _;
use serde_json::Value;
use shorepass_core::mint::CLOCK_TOLERANCE;
use shorepass_core::name::Name;
use shorepass_core::time::{Timestamp, after};
use tokio::time::{Instant, timeout};

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
/// How long a foreign claim whose times say nothing certain is watched before it counts as nobody's: for two renewals.
pub const CLAIM_WATCHED: Duration = Duration::from_secs(20);
/// How often a look begins anew because somebody else wrote in between.
const ATTEMPTS: usize = 3;
/// How many renewals whose answer was lost may still come to be: those of the last minutes, by far.
const TRIED: usize = 64;

/// What one issuer claims in one cluster.
#[derive(Debug)]
pub struct Claim {
    holder: String,
    namespace: Name,
    /// Our renewal that is known to stand there, or that an earlier run left.
    stands: Option<Timestamp>,
    /// What we wrote since, without knowing whether it came to be.
    tried: Vec<Timestamp>,
    foreign: Option<Watched>,
}

/// Another's claim, as it was seen.
#[derive(Debug)]
struct Watched {
    holder: String,
    renewed: Option<Timestamp>,
    since: Instant,
    /// Whether it was renewed while we looked.
    lives: bool,
}

impl Claim {
    /// For the holder of a state directory; the Lease is in this namespace.
    pub fn new(holder: String, namespace: Name) -> Self {
        Self { holder, namespace, stands: None, tried: Vec::new(), foreign: None }
    }

    fn try_to_write(&mut self, at: Timestamp) {
        if self.tried.len() == TRIED {
            self.tried.remove(0);
        }
        self.tried.push(at);
    }

    /// A renewal came to be. What was tried before cannot any more: each try names the version that it changes.
    fn wrote(&mut self, at: Timestamp) {
        self.stands = Some(at);
        self.tried.clear();
    }

    fn is_ours(&self, renewed: Option<Timestamp>) -> bool {
        let first_look = self.stands.is_none() && self.tried.is_empty();
        first_look || renewed.is_some_and(|at| self.stands == Some(at) || self.tried.contains(&at))
    }

    /// How long the foreign claim has stood as it is, and whether it was renewed while we looked.
    fn watch(&mut self, holder: &str, renewed: Option<Timestamp>, now: Instant) -> (Duration, bool) {
        let known = self.foreign.take().filter(|seen| seen.holder == holder);
        let seen = match known {
            Some(seen) if seen.renewed == renewed => seen,
            earlier => Watched { holder: holder.to_owned(), renewed, since: now, lives: earlier.is_some() },
        };
        let stood = (now.saturating_duration_since(seen.since), seen.lives);
        self.foreign = Some(seen);
        stood
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
        /// Whether that is certain. If not, its clock and ours are apart, or it is gone: who goes on looking learns it within
        /// [`CLAIM_WATCHED`].
        certain: bool,
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

/// Decides. What is found of ours at the first look is what an earlier run left.
///
/// Another's claim is believed by its time as far as clocks may be apart ([`CLOCK_TOLERANCE`]); where that leaves it open, by
/// whether it is renewed.
fn judge(found: &LeaseSpec, claim: &mut Claim, now: Timestamp, instant: Instant) -> Next {
    let Some(holder) = found.holder_identity.as_deref().filter(|holder| !holder.is_empty()) else {
        return Next::Take;
    };
    let renewed = found.renew_time.as_ref().map(|time| time.0);
    if holder == claim.holder {
        return if claim.is_ours(renewed) { Next::Renew } else { Next::RenewCopied };
    }
    let (stood, lives) = claim.watch(holder, renewed, instant);
    let leave = |until, certain| Next::Leave(Standing::Foreign { holder: holder.to_owned(), until, certain });
    match renewed.map(|at| after(at, CLAIM_LASTS)) {
        Some(until) if now < until && until <= after(now, CLAIM_LASTS + CLOCK_TOLERANCE) => {
            leave(until, true)
        }
        Some(until) if now >= after(until, CLOCK_TOLERANCE) => Next::Take,
        Some(_) | None if stood >= CLAIM_WATCHED => Next::Take,
        Some(_) | None => leave(after(now, CLAIM_WATCHED - stood), lives),
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
            if judge(spec, claim, self.clock.now(), Instant::now()) == Next::Renew {
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
            let standing = match judge(spec, claim, now, Instant::now()) {
                Next::Leave(standing) => return Ok(standing),
                Next::Renew => {
                    claim.stands = spec.renew_time.as_ref().map(|time| time.0);
                    Standing::Ours
                }
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
            claim.try_to_write(now);
            if self.put_lease(claim, &lease).await? {
                claim.wrote(now);
                return Ok(standing);
            }
        }
        Err(self.claim_error(claim, "it is changed by somebody else all the time".to_owned()))
    }

    async fn own_lease(&self, claim: &Claim) -> Result<Lease, ClaimError> {
        let call =
            Call { method: Method::GET, path: self.lease_path(claim), user_agent: USER_AGENT, body: &() };
        match self.api.call(call).await {
            Ok(body) => {
                read_lease(&body).map_err(|_| self.claim_error(claim, "the answer is no Lease".to_owned()))
            }
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

/// A time that cannot be read is none: the API server keeps some that no clock shows.
fn read_lease(body: &[u8]) -> serde_json::Result<Lease> {
    let mut object: Value = serde_json::from_slice(body)?;
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|field, value| !field.ends_with("Time") || MicroTime::deserialize(&*value).is_ok());
    }
    serde_json::from_value(object)
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

    fn claim(stands: Option<i64>, tried: &[i64]) -> Claim {
        let mut claim = Claim::new("main/1".to_owned(), Name::parse("home").unwrap());
        claim.stands = stands.map(second);
        tried.iter().for_each(|at| claim.try_to_write(second(*at)));
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

    fn first_look(found: &LeaseSpec, now: i64) -> Next {
        judge(found, &mut claim(None, &[]), second(now), Instant::now())
    }

    fn foreign(until: i64, certain: bool) -> Next {
        Next::Leave(Standing::Foreign { holder: "main/2".to_owned(), until: second(until), certain })
    }

    #[test]
    fn what_nobody_holds_is_taken() {
        assert_eq!(first_look(&LeaseSpec::default(), 100), Next::Take);
        assert_eq!(first_look(&held("", 99), 100), Next::Take);
    }

    #[test]
    fn another_holder_is_left_while_its_time_says_so_and_taken_when_no_clock_can_be_so_far_behind() {
        for now in [40, 100, 129] {
            assert_eq!(first_look(&held("main/2", 100), now), foreign(130, true), "{now}");
        }
        for (now, next) in [(130, foreign(150, false)), (189, foreign(209, false)), (190, Next::Take)] {
            assert_eq!(first_look(&held("main/2", 100), now), next, "{now}");
        }
        let far_too_long = LeaseSpec { lease_duration_seconds: Some(i32::MAX), ..held("main/2", 100) };
        assert_eq!(first_look(&far_too_long, 190), Next::Take);
    }

    #[test]
    fn a_claim_whose_time_says_nothing_certain_is_watched() {
        // A clock that is 35 s behind, and one that is an hour ahead.
        for apart in [-35, 3_600] {
            let (mut claim, start) = (claim(None, &[]), Instant::now());
            let mut look = |passed: i64, renewed: i64| {
                let instant = start + Duration::from_secs(passed.unsigned_abs());
                judge(&held("main/2", 1_000 + renewed + apart), &mut claim, second(1_000 + passed), instant)
            };
            assert_eq!(look(0, 0), foreign(1_020, false));
            assert_eq!(look(5, 0), foreign(1_020, false));
            assert_eq!(look(11, 10), foreign(1_031, true), "it lives");
            assert_eq!(look(30, 10), foreign(1_031, true));
            assert_eq!(look(31, 10), Next::Take, "it does not any more");
        }
    }

    #[test]
    fn a_claim_without_a_time_that_can_be_read_is_watched() {
        for field in ["acquireTime", "renewTime"] {
            let text = format!(
                r#"{{"metadata": {{"resourceVersion": "7"}},
                    "spec": {{"holderIdentity": "main/2", "{field}": "9999-12-31T23:59:59.999999Z"}}}}"#
            );
            let lease = read_lease(text.as_bytes()).unwrap();
            assert_eq!(lease.metadata.resource_version.as_deref(), Some("7"));
            let found = lease.spec.unwrap();
            let (mut claim, start) = (claim(None, &[]), Instant::now());
            assert_eq!(judge(&found, &mut claim, second(100), start), foreign(120, false), "{field}");
            assert_eq!(judge(&found, &mut claim, second(120), start + CLAIM_WATCHED), Next::Take, "{field}");
        }
        let read = read_lease(br#"{"spec": {"renewTime": "2026-11-26T22:00:00.000001Z"}}"#).unwrap();
        assert!(read.spec.unwrap().renew_time.is_some());
    }

    #[test]
    fn an_earlier_run_of_ours_is_taken_up_without_waiting() {
        assert_eq!(first_look(&held("main/1", 100), 101), Next::Renew);
    }

    #[test]
    fn a_renewal_that_we_did_not_write_is_a_copys() {
        let found =
            |renewed, claim: &mut Claim| judge(&held("main/1", renewed), claim, second(110), Instant::now());
        for ours in [90, 100, 105] {
            assert_eq!(found(ours, &mut claim(Some(90), &[100, 105])), Next::Renew, "{ours}");
        }
        assert_eq!(found(104, &mut claim(Some(90), &[100, 105])), Next::RenewCopied);
        assert_eq!(found(90, &mut claim(Some(100), &[])), Next::RenewCopied);
    }

    #[test]
    fn what_stands_is_known_however_many_renewals_fail_after_it() {
        let mut claim = claim(Some(1), &[]);
        (2..1_000).for_each(|at| claim.try_to_write(second(at)));
        assert_eq!(claim.tried.len(), TRIED);
        assert_eq!(judge(&held("main/1", 1), &mut claim, second(1_000), Instant::now()), Next::Renew);
        claim.wrote(second(999));
        assert!(claim.tried.is_empty());
    }
}
