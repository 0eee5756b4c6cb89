//! The decision: who may have what, and why not.
//!
//! Deny by default. A [`Grant`] is made here and nowhere else, cannot be copied, and is used up by the lease it becomes.
//! A denial tells the operator everything and the caller only that the role is not available: an unknown role and a
//! forbidden one look the same from outside.

pub mod edition;
pub mod explanation;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use crate::block::Block;
use crate::caller::{Caller, Owner};
use crate::gives::{Gives, Strict};
use crate::id::{JobId, LeaseId};
use crate::job::Job;
use crate::labels::Labels;
use crate::lease::{AnchorName, Lease, Mode, State};
use crate::ledger::Revision;
use crate::mint::Order;
use crate::name::Name;
use crate::policy::edition::Edition;
use crate::policy::explanation::{Explanation, Shown, Who};
use crate::role::{Role, STRETCHED_LIFETIME, TOKEN_LIFETIME_FLOOR, Target};
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

impl<'a> From<Asker<'a>> for Who<'a> {
    fn from(Asker { caller, labels }: Asker<'a>) -> Self {
        Self { spiffe_id: caller.spiffe_id(), own: caller.is_own(), labels }
    }
}

/// All roles of an issuer.
#[derive(Clone, Debug)]
pub struct Policy {
    roles: BTreeMap<Name, Role>,
    edition: Edition,
}

/// No role at all.
impl Default for Policy {
    fn default() -> Self {
        Self::of(BTreeMap::new())
    }
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
    /// Of a role that says `dryRun`: whether it would have been given.
    pub dry_run: Option<bool>,
}

impl Denial {
    fn new(reason: DenialReason, explanation: String) -> Self {
        Self { reason, explanation, dry_run: None }
    }
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DenialReason {
    /// There is no such role, or not for this caller and job. Where the role names the caller, with what its job lacks.
    RoleNotAvailable(Option<String>),
    /// The role gives out something else than the lease is: it may give another one.
    GivesOther,
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
    policy: Edition,
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
            policy: Some(self.policy),
            target,
            audiences: self.role.audiences().cloned(),
            anchor,
            mode,
            created: self.created,
            deadline: self.deadline,
            state: State::Pending,
            receipt: None,
            not_removed: None,
            revision: Revision::FIRST,
        };
        let needs = self.role.needs().to_vec();
        Order { lease, owner: self.owner, token_lifetime: self.token_lifetime, needs }
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
        let mut named = BTreeMap::new();
        for role in roles {
            let name = role.name().clone();
            if named.insert(name.clone(), role).is_some() {
                return Err(PolicyError::DuplicateRole(name));
            }
        }
        Ok(Self::of(named))
    }

    fn of(roles: BTreeMap<Name, Role>) -> Self {
        let edition = Edition::first(roles.values());
        Self { roles, edition }
    }

    /// The same, as the one of that number in this process.
    pub fn numbered(self, version: u64) -> Self {
        Self { edition: Edition { version, ..self.edition }, ..self }
    }

    /// What stands for it in records.
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// The role of that name, whoever asks.
    pub fn role(&self, name: &Name) -> Option<&Role> {
        self.roles.get(name)
    }

    /// The roles whose subjects the caller matches, by name, whatever its job. Those that say `dryRun` are given to nobody.
    pub fn roles_of<'a>(&self, asker: impl Into<Asker<'a>>) -> impl Iterator<Item = &Role> {
        let asker = asker.into();
        self.roles.values().filter(move |role| !role.is_dry_run() && explanation::names(role, asker.into()))
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
        let role = self.permit(asker.into(), Some(job), &ask.role, now)?;
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
            policy: self.edition,
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
        let role = self.would_refresh(asker.into(), job, &lease, now)?;
        let token_lifetime = token_lifetime(role, wanted, until(now, lease.deadline));
        let needs = role.needs().to_vec();
        Ok(Order { lease, owner: asker.caller.owner(), token_lifetime, needs })
    }

    /// The role by which a lease is given another token now, if whoever owns it asks.
    pub fn would_refresh(
        &self,
        who: Who<'_>,
        job: Option<&Job>,
        lease: &Lease,
        now: Timestamp,
    ) -> Result<&Role, Denial> {
        let over = |how: String| Denial::new(DenialReason::LeaseEnded(how.clone()), how);
        if let Some((cause, _)) = lease.end_cause() {
            return Err(over(cause.describe()));
        }
        if now >= lease.deadline {
            return Err(over(crate::lease::EndCause::Deadline.describe()));
        }
        let Some(role) = &lease.role else {
            let explanation = format!("lease {} was adopted, and no role is as its role was", lease.id);
            return Err(Denial::new(DenialReason::RoleNotAvailable(None), explanation));
        };
        let role = self.permit(who, job, role, now)?;
        if !role.covers(lease) {
            let explanation =
                format!("role {} gives out something else since lease {} was granted", role.name(), lease.id);
            return Err(Denial::new(DenialReason::GivesOther, explanation));
        }
        Ok(role)
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

    fn permit(&self, who: Who<'_>, job: Option<&Job>, role: &Name, now: Timestamp) -> Result<&Role, Denial> {
        if let Some(job) = job.filter(|job| !job.is_open(now)) {
            let explanation = format!("job {} has ended", job.id);
            return Err(Denial::new(DenialReason::JobEnded, explanation));
        }
        self.weigh(who, Shown::from(job.map(|job| &job.evidence)), role)
    }

    /// The role, if it is given to who asks with such a job. Neither blocks nor the end of a job count here.
    pub fn weigh(&self, who: Who<'_>, job: Shown<'_>, role: &Name) -> Result<&Role, Denial> {
        let not_available = |explanation| Denial::new(DenialReason::RoleNotAvailable(None), explanation);
        let Some(role) = self.roles.get(role) else {
            return Err(not_available(format!("there is no role {role}")));
        };
        let explanation = Explanation::of(role, who, job);
        if role.is_dry_run() {
            let dry_run = Some(explanation.allows());
            return Err(Denial { dry_run, ..not_available(format!("dry run: {explanation}")) });
        }
        if explanation.allows() {
            return Ok(role);
        }
        Err(Denial::new(DenialReason::RoleNotAvailable(explanation.told()), explanation.to_string()))
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
    Some(Denial::new(DenialReason::Blocked(Box::new(block.clone())), explanation))
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
