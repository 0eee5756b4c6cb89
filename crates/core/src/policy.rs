//! The decision: who may have what, and why not.
//!
//! Deny by default. A [`Grant`] is made here and nowhere else, cannot be copied, and is used up by the lease it becomes.
//! A denial tells the operator everything and the caller only that the role is not available: an unknown role and a
//! forbidden one look the same from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::block::Block;
use crate::caller::{Caller, Kind, Owner};
use crate::id::{JobId, LeaseId};
use crate::job::{Evidence, Job};
use crate::lease::{AnchorName, Lease, State};
use crate::ledger::Revision;
use crate::mint::Order;
use crate::name::Name;
use crate::role::{Role, STRETCHED_LIFETIME, Subject, TOKEN_LIFETIME_FLOOR};
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

/// All roles of an issuer.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: BTreeMap<Name, Role>,
}

/// Two documents give the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two role documents are named {0}")]
pub struct DuplicateRole(pub Name);

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
    /// There is no such role, or not for this caller and job.
    RoleNotAvailable,
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
    /// The lease as it is recorded before anything exists in the cluster, and the order that goes there next.
    pub fn into_order(self, id: LeaseId, anchor: AnchorName) -> Order {
        let lease = Lease {
            id,
            job: self.job,
            owner: self.owner,
            role: self.role.name().clone(),
            role_digest: self.role.digest(),
            target: self.role.target().clone(),
            anchor,
            created: self.created,
            deadline: self.deadline,
            state: State::Pending,
            revision: Revision::FIRST,
        };
        Order { lease, token_lifetime: self.token_lifetime }
    }
}

impl Policy {
    /// All roles together.
    pub fn new(roles: Vec<Role>) -> Result<Self, DuplicateRole> {
        let mut policy = Self::default();
        for role in roles {
            let name = role.name().clone();
            if policy.roles.insert(name.clone(), role).is_some() {
                return Err(DuplicateRole(name));
            }
        }
        Ok(policy)
    }

    /// All roles, by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    /// The roles whose subjects the caller matches, by name, whatever its job.
    pub fn roles_of(&self, caller: &Caller) -> impl Iterator<Item = &Role> {
        self.roles.values().filter(move |role| role.subjects().iter().any(|subject| names(subject, caller)))
    }

    /// A role that the caller may know of.
    pub fn role_of(&self, caller: &Caller, name: &Name) -> Option<&Role> {
        self.roles_of(caller).find(|role| role.name() == name)
    }

    /// Decides on a new lease. `job` belongs to `caller`; `blocks` are those of the caller and the role.
    pub fn decide(
        &self,
        caller: &Caller,
        job: &Job,
        ask: &Ask,
        blocks: &[Block],
        now: Timestamp,
    ) -> Result<Grant, Denial> {
        let role = self.permit(caller, job, &ask.role, now)?;
        if let Some(denial) = blocked(blocks, now) {
            return Err(denial);
        }
        let wanted = ask.lease_lifetime.unwrap_or(role.lease().default).min(role.lease().max);
        let deadline = after(now, wanted);
        let deadline = job.latest_end.map_or(deadline, |end| deadline.min(end));
        Ok(Grant {
            owner: caller.owner(),
            job: job.id,
            role: role.clone(),
            created: now,
            deadline,
            token_lifetime: token_lifetime(role, ask.token_lifetime, until(now, deadline)),
        })
    }

    /// Decides on another token of a lease that the caller owns: the policy may have changed since it was granted.
    pub fn decide_refresh(
        &self,
        caller: &Caller,
        job: &Job,
        lease: Lease,
        wanted: Option<Duration>,
        now: Timestamp,
    ) -> Result<Order, Denial> {
        let over = |how: String| Denial { explanation: how.clone(), reason: DenialReason::LeaseEnded(how) };
        if let Some((cause, _)) = lease.end_cause() {
            return Err(over(cause.describe()));
        }
        if now >= lease.deadline {
            return Err(over(crate::lease::EndCause::Deadline.describe()));
        }
        let role = self.permit(caller, job, &lease.role, now)?;
        if *role.target() != lease.target {
            let explanation =
                format!("role {} has another target since lease {} was granted", role.name(), lease.id);
            return Err(Denial { reason: DenialReason::RoleNotAvailable, explanation });
        }
        Ok(Order { token_lifetime: token_lifetime(role, wanted, until(now, lease.deadline)), lease })
    }

    /// Decides on a request that led to a lease before: as on a refresh, but who is blocked meanwhile gets nothing. `blocks`
    /// are those of the caller and the role.
    pub fn decide_again(
        &self,
        caller: &Caller,
        job: &Job,
        lease: Lease,
        wanted: Option<Duration>,
        blocks: &[Block],
        now: Timestamp,
    ) -> Result<Order, Denial> {
        let order = self.decide_refresh(caller, job, lease, wanted, now)?;
        blocked(blocks, now).map_or(Ok(order), Err)
    }

    fn permit(&self, caller: &Caller, job: &Job, role: &Name, now: Timestamp) -> Result<&Role, Denial> {
        if !job.is_open(now) {
            let explanation = format!("job {} has ended", job.id);
            return Err(Denial { reason: DenialReason::JobEnded, explanation });
        }
        let not_available = |explanation| Denial { reason: DenialReason::RoleNotAvailable, explanation };
        let Some(role) = self.roles.get(role) else {
            return Err(not_available(format!("there is no role {role}")));
        };
        let refusals: Vec<String> = role
            .subjects()
            .iter()
            .enumerate()
            .filter_map(|(index, subject)| {
                refusal(subject, caller, job).map(|why| format!("subjects[{index}]: {why}"))
            })
            .collect();
        if refusals.len() == role.subjects().len() {
            return Err(not_available(format!("role {}: {}", role.name(), refusals.join("; "))));
        }
        Ok(role)
    }
}

/// What a block in force says.
fn blocked(blocks: &[Block], now: Timestamp) -> Option<Denial> {
    let block = blocks.iter().find(|block| block.in_force(now))?;
    let explanation = format!("blocked by {} until {}: {}", block.by, for_people(block.until), block.reason);
    Some(Denial { reason: DenialReason::Blocked(Box::new(block.clone())), explanation })
}

/// The first requirement of the subject that is not met; none if all are.
fn refusal(subject: &Subject, caller: &Caller, job: &Job) -> Option<String> {
    if !names(subject, caller) {
        return Some(format!("it does not name {}", caller.spiffe_id()));
    }
    match (&job.evidence, caller.kind()) {
        (Evidence::Asserted(_), Kind::Runner) if !subject.accept_asserted_jobs => {
            Some("the job is asserted and acceptJobs is not 'asserted'".to_owned())
        }
        (Evidence::Asserted(_), _) => None,
    }
}

fn names(subject: &Subject, caller: &Caller) -> bool {
    let patterns = match caller.kind() {
        Kind::Runner => &subject.runners,
        Kind::Platform => &subject.platforms,
        Kind::Operator | Kind::Issuer => return false,
    };
    patterns.iter().any(|pattern| pattern.matches(&caller.spiffe_id().name))
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
mod tests {
    use super::*;
    use crate::caller::{SpiffeId, VerifiedPeer};
    use crate::digest::Digest;
    use crate::id::{BlockId, EnrolmentId};
    use crate::job::AssertedJob;
    use crate::name::NamePattern;
    use crate::role::{Lifetime, Target};

    const ID: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";
    const HOUR: Duration = Duration::from_secs(3600);

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn caller(id: &str) -> Caller {
        Caller::from_verified_peer(VerifiedPeer {
            spiffe_id: SpiffeId::parse(&format!("spiffe://d/{id}")).unwrap(),
            enrolment: EnrolmentId::parse(ID).unwrap(),
            issued: second(0),
            expires: second(100_000),
            certificate: Digest::of_bytes(b"certificate"),
        })
    }

    fn policy(accept_asserted_jobs: bool) -> Policy {
        let subject = Subject {
            runners: vec![NamePattern::parse("prod-*").unwrap()],
            platforms: vec![NamePattern::parse("portal").unwrap()],
            accept_asserted_jobs,
        };
        let target =
            Target { cluster: name("c"), namespace: name("web"), service_account: "deployer".to_owned() };
        let token = Lifetime { default: HOUR / 2, max: HOUR };
        let lease = Lifetime { default: HOUR, max: HOUR * 6 };
        let role = Role::new(name("deploy"), target, token, lease, vec![subject], Digest::of_bytes(b"role"));
        Policy::new(vec![role.unwrap()]).unwrap()
    }

    fn job(owner: &Caller) -> Job {
        let asserted = AssertedJob::new("jenkins".to_owned(), "1".to_owned(), String::new()).unwrap();
        Job {
            id: JobId::parse(ID).unwrap(),
            owner: owner.owner(),
            evidence: Evidence::Asserted(asserted),
            started: second(0),
            latest_end: None,
            ended: None,
            revision: Revision::FIRST,
        }
    }

    fn ask(role: &str) -> Ask {
        Ask { role: name(role), lease_lifetime: None, token_lifetime: None }
    }

    fn decide(accept_asserted: bool, id: &str, role: &str) -> Result<Grant, Denial> {
        let caller = caller(id);
        policy(accept_asserted).decide(&caller, &job(&caller), &ask(role), &[], second(0))
    }

    #[test]
    fn grants_what_a_subject_names() {
        assert!(decide(true, "runner/prod-1", "deploy").is_ok());
        assert!(decide(false, "platform/portal", "deploy").is_ok());
    }

    #[test]
    fn denies_everything_else_alike() {
        let cases = [
            (true, "runner/dev-1", "deploy"),
            (true, "runner/prod-1", "other"),
            (true, "platform/prod-1", "deploy"),
            (true, "operator/prod-1", "deploy"),
            (true, "issuer/prod-1", "deploy"),
            (false, "runner/prod-1", "deploy"),
        ];
        for (accept_asserted, id, role) in cases {
            let denial = decide(accept_asserted, id, role).unwrap_err();
            assert_eq!(denial.reason, DenialReason::RoleNotAvailable, "{id} {role}");
            assert!(!denial.explanation.is_empty());
        }
    }

    #[test]
    fn a_block_in_force_denies_and_says_who() {
        let caller = caller("runner/prod-1");
        let block = Block {
            id: BlockId::parse(ID).unwrap(),
            caller: caller.spiffe_id().clone(),
            role: name("deploy"),
            set: second(0),
            until: second(100),
            by: SpiffeId::parse("spiffe://d/operator/alice").unwrap(),
            reason: "leaked".to_owned(),
            lease: LeaseId::parse(ID).unwrap(),
            lifted: None,
            revision: Revision::FIRST,
        };
        let decide = |block: &Block, now| {
            policy(true).decide(
                &caller,
                &job(&caller),
                &ask("deploy"),
                std::slice::from_ref(block),
                second(now),
            )
        };
        let denial = decide(&block, 99).unwrap_err();
        assert!(matches!(denial.reason, DenialReason::Blocked(_)));
        assert!(denial.explanation.contains("operator/alice"));
        assert!(decide(&block, 100).is_ok());
        let lifted = block.lift(second(1), SpiffeId::parse("spiffe://d/operator/bob").unwrap());
        assert!(decide(&lifted, 50).is_ok());
    }

    #[test]
    fn lifetimes_are_cut_to_the_role_and_the_job() {
        let caller = caller("runner/prod-1");
        let long =
            Ask { lease_lifetime: Some(HOUR * 100), token_lifetime: Some(HOUR * 100), ..ask("deploy") };
        let grant = policy(true).decide(&caller, &job(&caller), &long, &[], second(0)).unwrap();
        assert_eq!(grant.deadline, after(second(0), HOUR * 6));
        assert_eq!(grant.token_lifetime, HOUR);
        let short_job = Job { latest_end: Some(second(700)), ..job(&caller) };
        let grant = policy(true).decide(&caller, &short_job, &long, &[], second(0)).unwrap();
        assert_eq!(grant.deadline, second(700));
        assert_eq!(grant.token_lifetime, Duration::from_secs(700));
        let shorter_job = Job { latest_end: Some(second(60)), ..job(&caller) };
        let grant = policy(true).decide(&caller, &shorter_job, &long, &[], second(0)).unwrap();
        assert_eq!(grant.token_lifetime, Duration::from_secs(600), "Kubernetes gives no less");
    }

    #[test]
    fn an_ended_job_yields_nothing() {
        let caller = caller("runner/prod-1");
        let ended = job(&caller).end(second(1));
        let expired = Job { latest_end: Some(second(2)), ..job(&caller) };
        for job in [ended, expired] {
            let denial = policy(true).decide(&caller, &job, &ask("deploy"), &[], second(2)).unwrap_err();
            assert_eq!(denial.reason, DenialReason::JobEnded);
        }
    }

    #[test]
    fn the_stretched_lifetime_is_never_ordered() {
        let caller = caller("runner/prod-1");
        let mut roles = policy(true);
        let role = roles.roles.remove(&name("deploy")).unwrap();
        let token = Lifetime { default: HOUR, max: HOUR * 2 };
        let role = Role::new(
            name("deploy"),
            role.target().clone(),
            token,
            role.lease(),
            role.subjects().to_vec(),
            role.digest(),
        );
        let policy = Policy::new(vec![role.unwrap()]).unwrap();
        let granted = |wanted| {
            let ask = Ask { lease_lifetime: Some(HOUR * 2), token_lifetime: Some(wanted), ..ask("deploy") };
            policy.decide(&caller, &job(&caller), &ask, &[], second(0)).unwrap().token_lifetime
        };
        for fraction in [0, 1, 500, 999] {
            assert_eq!(granted(STRETCHED_LIFETIME + Duration::from_millis(fraction)), HOUR);
        }
        assert_eq!(granted(STRETCHED_LIFETIME + Duration::from_secs(1)), HOUR + Duration::from_secs(8));
    }

    #[test]
    fn a_refresh_is_decided_again() {
        let caller = caller("runner/prod-1");
        let grant = decide(true, "runner/prod-1", "deploy").unwrap();
        let order = grant.into_order(LeaseId::parse(ID).unwrap(), AnchorName::from_random([0; 16]));
        let refresh = |policy: Policy, lease: Lease, now| {
            policy
                .decide_refresh(&caller, &job(&caller), lease, None, second(now))
                .map(|_| ())
                .map_err(|d| d.reason)
        };
        let lease = order.lease.clone();
        assert_eq!(refresh(policy(true), lease.clone(), 1), Ok(()));
        assert_eq!(refresh(Policy::default(), lease.clone(), 1), Err(DenialReason::RoleNotAvailable));
        assert_eq!(refresh(policy(false), lease.clone(), 1), Err(DenialReason::RoleNotAvailable));
        assert!(matches!(refresh(policy(true), lease.clone(), 3600), Err(DenialReason::LeaseEnded(_))));
        let ended = lease.begin_end(crate::lease::EndCause::Released, second(1)).unwrap();
        assert!(matches!(refresh(policy(true), ended, 2), Err(DenialReason::LeaseEnded(_))));
    }
}
