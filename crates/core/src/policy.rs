//! The decision: who may have what, and why not.
//!
//! Deny by default. A [`Grant`] is made here and nowhere else, cannot be copied, and is used up by the lease it becomes.
//! A denial tells the operator everything and the caller only that the role is not available: an unknown role and a
//! forbidden one look the same from outside.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use crate::block::Block;
use crate::caller::{Caller, Kind, Owner};
use crate::gives::{Gives, Strict};
use crate::id::{JobId, LeaseId};
use crate::job::{Evidence, Job};
use crate::labels::Labels;
use crate::lease::{AnchorName, Lease, Mode, State};
use crate::ledger::Revision;
use crate::mint::Order;
use crate::name::Name;
use crate::role::{Role, STRETCHED_LIFETIME, Subject, TOKEN_LIFETIME_FLOOR, Target};
use crate::time::{Timestamp, after, for_people, until};

/// What a caller wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which role.
    pub role: Name,
    /// How long the lease may last; at least 30 s, more than the role's maximum is cut to it.
    pub lease_lifetime: Option<Duration>,
    /// How long each token may last; at least 600 s, more than the role's maximum is cut to it.
    pub token_lifetime: Option<Duration>,
}

/// Who asks, with what its enrolment says about it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Who.
    pub caller: &'a Caller,
    /// Its labels; whoever has none is refused what asks for one.
    pub labels: &'a Labels,
}

/// Somebody without labels.
impl<'a> From<&'a Caller> for Asker<'a> {
    fn from(caller: &'a Caller) -> Self {
        static NONE: LazyLock<Labels> = LazyLock::new(Labels::default);
        Self { caller, labels: &NONE }
    }
}

/// All roles of an issuer.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: BTreeMap<Name, Role>,
}

/// Why roles do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two documents give the same name.
    #[error("two role documents are named {0}")]
    DuplicateRole(Name),
    /// A namespace of generated ServiceAccounts is used for something else.
    #[error(
        "role {role} works in namespace {namespace}, where role {strict} has its generated ServiceAccounts and nothing \
         else may be: set spec.strict.namespace of {strict} to a namespace of its own"
    )]
    SharedNamespace {
        /// The namespace.
        namespace: Name,
        /// The role that has ServiceAccounts made there.
        strict: Name,
        /// The other one.
        role: Name,
    },
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// What the caller is told.
    pub reason: DenialReason,
    /// What the operator is told.
    pub explanation: String,
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialReason {
    /// There is no such role, or not for this caller and job. Where the role names the caller, with what its job lacks.
    RoleNotAvailable(Option<String>),
    /// An operator's revocation is in force.
    Blocked(Box<Block>),
    /// The job session is over.
    JobEnded,
    /// The lease is over; in words how it ended.
    LeaseEnded(String),
}

/// A positive decision.
#[derive(Debug)]
pub struct Grant {
    owner: Owner,
    job: JobId,
    role: Role,
    created: Timestamp,
    deadline: Timestamp,
    token_lifetime: Duration,
}

impl Grant {
    /// Where the lease will be.
    pub fn cluster(&self) -> &Name {
        self.role.cluster()
    }

    /// What is granted.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The lease as it is recorded before anything exists in the cluster, and the order that goes there next.
    pub fn into_order(self, id: LeaseId, anchor: AnchorName) -> Order {
        let (target, mode) = target_and_mode(&self.role, &anchor);
        let lease = Lease {
            id,
            job: Some(self.job),
            owner: self.owner.clone().into(),
            role: Some(self.role.name().clone()),
            role_digest: self.role.digest(),
            target,
            anchor,
            mode,
            created: self.created,
            deadline: self.deadline,
            state: State::Pending,
            receipt: None,
            not_removed: None,
            revision: Revision::FIRST,
        };
        Order { lease, owner: self.owner, token_lifetime: self.token_lifetime }
    }
}

/// Whose tokens a new lease yields, and everything that will exist for it.
pub(crate) fn target_and_mode(role: &Role, anchor: &AnchorName) -> (Target, Mode) {
    match role.gives() {
        Gives::Bound(target) => (target.clone(), Mode::Bound),
        Gives::Unbound(target) => (target.clone(), Mode::Unbound { tokens_until: None }),
        Gives::Strict(strict) => {
            let service_account = anchor.as_str().to_owned();
            let bindings = strict.bindings_of(role.name(), &service_account);
            let (cluster, namespace) = (strict.cluster.clone(), strict.namespace.clone());
            (Target { cluster, namespace, service_account }, Mode::Strict { bindings })
        }
    }
}

impl Policy {
    /// All roles together.
    pub fn new(roles: Vec<Role>) -> Result<Self, PolicyError> {
        check_strict_namespaces(&roles)?;
        let mut policy = Self::default();
        for role in roles {
            let name = role.name().clone();
            if policy.roles.insert(name.clone(), role).is_some() {
                return Err(PolicyError::DuplicateRole(name));
            }
        }
        Ok(policy)
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// The role of that name, whoever asks.
    pub fn role(&self, name: &Name) -> Option<&Role> {
        self.roles.get(name)
    }

    /// The roles whose subjects the caller matches, by name, whatever its job.
    pub fn roles_of<'a>(&self, asker: impl Into<Asker<'a>>) -> impl Iterator<Item = &Role> {
        let asker = asker.into();
        self.roles
            .values()
            .filter(move |role| role.subjects().iter().any(|subject| unnamed(subject, asker).is_none()))
    }

    /// A role that the caller may know of.
    pub fn role_of<'a>(&self, asker: impl Into<Asker<'a>>, name: &Name) -> Option<&Role> {
        self.roles_of(asker).find(|role| role.name() == name)
    }

    /// Decides on a new lease. `job` belongs to `caller`; `blocks` are those of the caller and the role.
    pub fn decide<'a>(
        &self,
        asker: impl Into<Asker<'a>>,
        job: &Job,
        ask: &Ask,
        blocks: &[Block],
        now: Timestamp,
    ) -> Result<Grant, Denial> {
        let asker = asker.into();
        let role = self.permit(asker, Some(job), &ask.role, now)?;
        if let Some(denial) = blocked(blocks, now) {
            return Err(denial);
        }
        let wanted = ask.lease_lifetime.unwrap_or(role.lease().default).min(role.lease().max);
        let deadline = after(now, wanted);
        let deadline = job.latest_end.map_or(deadline, |end| deadline.min(end));
        Ok(Grant {
            owner: asker.caller.owner(),
            job: job.id,
            role: role.clone(),
            created: now,
            deadline,
            token_lifetime: token_lifetime(role, ask.token_lifetime, until(now, deadline)),
        })
    }

    /// Decides on another token of a lease that the caller owns: the policy may have changed since it was granted. There is no
    /// job if the lease was adopted: then the role must take an asserted one, because nothing shows that it is more.
    pub fn decide_refresh<'a>(
        &self,
        asker: impl Into<Asker<'a>>,
        job: Option<&Job>,
        lease: Lease,
        wanted: Option<Duration>,
        now: Timestamp,
    ) -> Result<Order, Denial> {
        let asker = asker.into();
        let over = |how: String| Denial { explanation: how.clone(), reason: DenialReason::LeaseEnded(how) };
        if let Some((cause, _)) = lease.end_cause() {
            return Err(over(cause.describe()));
        }
        if now >= lease.deadline {
            return Err(over(crate::lease::EndCause::Deadline.describe()));
        }
        let Some(role) = &lease.role else {
            let explanation = format!("lease {} was adopted, and no role is as its role was", lease.id);
            return Err(Denial { reason: DenialReason::RoleNotAvailable(None), explanation });
        };
        let role = self.permit(asker, job, role, now)?;
        if !role.gives().covers(role.name(), &lease.target, &lease.mode) {
            let explanation =
                format!("role {} gives out something else since lease {} was granted", role.name(), lease.id);
            return Err(Denial { reason: DenialReason::RoleNotAvailable(None), explanation });
        }
        let token_lifetime = token_lifetime(role, wanted, until(now, lease.deadline));
        Ok(Order { lease, owner: asker.caller.owner(), token_lifetime })
    }

    /// Decides on a request that led to a lease before, or on a lease that was adopted: as on a refresh, but who is blocked
    /// meanwhile gets nothing. `blocks` are those of the caller and the role.
    pub fn decide_again<'a>(
        &self,
        asker: impl Into<Asker<'a>>,
        job: Option<&Job>,
        lease: Lease,
        wanted: Option<Duration>,
        blocks: &[Block],
        now: Timestamp,
    ) -> Result<Order, Denial> {
        let order = self.decide_refresh(asker, job, lease, wanted, now)?;
        blocked(blocks, now).map_or(Ok(order), Err)
    }

    fn permit(
        &self,
        asker: Asker<'_>,
        job: Option<&Job>,
        role: &Name,
        now: Timestamp,
    ) -> Result<&Role, Denial> {
        if let Some(job) = job.filter(|job| !job.is_open(now)) {
            let explanation = format!("job {} has ended", job.id);
            return Err(Denial { reason: DenialReason::JobEnded, explanation });
        }
        let not_available =
            |explanation| Denial { reason: DenialReason::RoleNotAvailable(None), explanation };
        let Some(role) = self.roles.get(role) else {
            return Err(not_available(format!("there is no role {role}")));
        };
        let refusals: Vec<Refusal> =
            role.subjects().iter().filter_map(|subject| refusal(subject, asker, job)).collect();
        if refusals.len() < role.subjects().len() {
            return Ok(role);
        }
        let explained =
            |(index, refusal): (usize, &Refusal)| format!("subjects[{index}]: {}", refusal.explanation);
        let explained: Vec<String> = refusals.iter().enumerate().map(explained).collect();
        let explanation = format!("role {}: {}", role.name(), explained.join("; "));
        let mut told: Vec<String> = refusals.into_iter().filter_map(|refusal| refusal.told).collect();
        told.dedup();
        let told = (!told.is_empty()).then(|| told.join("; or "));
        Err(Denial { reason: DenialReason::RoleNotAvailable(told), explanation })
    }
}

/// Whoever may make tokens of every ServiceAccount of a namespace must find none but generated ones there.
pub fn check_strict_namespaces(roles: &[Role]) -> Result<(), PolicyError> {
    for strict in roles {
        let Gives::Strict(Strict { cluster, namespace, .. }) = strict.gives() else { continue };
        let shares = |role: &&Role| role.cluster() == cluster && role.gives().works_in(namespace);
        if let Some(role) = roles.iter().find(shares) {
            return Err(PolicyError::SharedNamespace {
                namespace: namespace.clone(),
                strict: strict.name().clone(),
                role: role.name().clone(),
            });
        }
    }
    Ok(())
}

/// What a block in force says.
fn blocked(blocks: &[Block], now: Timestamp) -> Option<Denial> {
    let block = blocks.iter().find(|block| block.in_force(now))?;
    let explanation = format!("blocked by {} until {}: {}", block.by, for_people(block.until), block.reason);
    Some(Denial { reason: DenialReason::Blocked(Box::new(block.clone())), explanation })
}

/// Why a subject does not give its role.
struct Refusal {
    /// What the caller may know: what its job lacks, where the subject names the caller.
    told: Option<String>,
    explanation: String,
}

/// The first requirement of the subject that is not met; none if all are.
fn refusal(subject: &Subject, asker: Asker<'_>, job: Option<&Job>) -> Option<Refusal> {
    if let Some(explanation) = unnamed(subject, asker) {
        return Some(Refusal { told: None, explanation });
    }
    let evidence = job.map(|job| &job.evidence);
    let refused = |told: &str, explanation: &str| {
        Some(Refusal { told: Some(told.to_owned()), explanation: explanation.to_owned() })
    };
    match (&subject.jobs, evidence) {
        (Some(required), Some(Evidence::Verified(verified))) => required
            .unmet(verified)
            .map(|unmet| Refusal { told: Some(unmet.told), explanation: unmet.explanation }),
        (Some(_), Some(Evidence::Asserted(_))) => refused(
            "the role takes no job without a token of its CI system: hand one over when the job starts",
            "the job is asserted, and the item names jobs",
        ),
        (Some(_), None) => refused(
            "the role takes no job without a token of its CI system, and this one's is not known any more",
            "the job is not known any more, and the item names jobs",
        ),
        (None, _) if asker.caller.kind() != Kind::Runner || subject.accept_asserted_jobs => None,
        (None, Some(Evidence::Verified(_))) => {
            refused("the role names no jobs", "it names no jobs, and acceptJobs is not 'asserted'")
        }
        (None, Some(Evidence::Asserted(_))) => refused(
            "the role takes no job that is merely asserted",
            "the job is asserted and acceptJobs is not 'asserted'",
        ),
        (None, None) => refused(
            "the role takes no job that is merely asserted, and this one is not known any more",
            "the job is not known any more and acceptJobs is not 'asserted'",
        ),
    }
}

/// Why the subject does not name who asks, whatever the job; none if it does.
fn unnamed(subject: &Subject, Asker { caller, labels }: Asker<'_>) -> Option<String> {
    let patterns = match caller.kind() {
        Kind::Runner => &subject.runners,
        Kind::Platform => &subject.platforms,
        Kind::Operator | Kind::Issuer => &Vec::new(),
    };
    if !patterns.iter().any(|pattern| pattern.matches(&caller.spiffe_id().name)) {
        return Some(format!("it does not name {}", caller.spiffe_id()));
    }
    let lacking = subject.labels.iter().find(|(name, value)| labels.get(name) != Some(value));
    lacking.map(|(name, value)| {
        let has = labels.get(name).map_or_else(|| "none".to_owned(), |has| format!("{has:?}"));
        format!("label {name} of {} is {has}, not {value:?}", caller.spiffe_id())
    })
}

/// No longer than the lease, so that an issuer that is down at the deadline leaves little behind; but Kubernetes gives
/// no less than its floor.
fn token_lifetime(role: &Role, wanted: Option<Duration>, lease_left: Duration) -> Duration {
    let lifetime = wanted.unwrap_or(role.token().default).min(role.token().max);
    let lifetime = lifetime.min(lease_left.max(TOKEN_LIFETIME_FLOOR));
    // A TokenRequest has whole seconds: 3607.5 would become what is avoided here.
    let lifetime = Duration::from_secs(lifetime.as_secs());
    if lifetime == STRETCHED_LIFETIME { STRETCHED_LIFETIME - Duration::from_secs(7) } else { lifetime }
}

#[cfg(test)]
mod tests;
