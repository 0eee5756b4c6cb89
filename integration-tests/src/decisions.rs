//! Decisions without daemons: orders for scenarios that only meet the cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use shorepass_core::caller::{Caller, SpiffeId, VerifiedPeer};
use shorepass_core::digest::Digest;
use shorepass_core::gives::Gives;
use shorepass_core::id::{CallId, EnrolmentId, JobId, LeaseId};
use shorepass_core::job::{AssertedJob, Evidence, Job};
use shorepass_core::lease::{AnchorName, Lease};
use shorepass_core::ledger::Revision;
use shorepass_core::mint::Order;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::policy::{Ask, Policy};
use shorepass_core::role::{Lifetime, Role, Subject, Target};
use shorepass_core::time::{Clock, Entropy, Timestamp, after};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};

const HOUR: Duration = Duration::from_secs(3600);

/// A role for runner `test`, with tokens of at most this life.
pub fn role(
    name: &str,
    cluster: &Name,
    namespace: &Name,
    service_account: &str,
    longest: Duration,
) -> Result<Role> {
    let target = Target {
        cluster: cluster.clone(),
        namespace: namespace.clone(),
        service_account: service_account.to_owned(),
    };
    let subject = Subject {
        runners: vec![NamePattern::parse("test")?],
        accept_asserted_jobs: true,
        ..Subject::default()
    };
    let token = Lifetime { default: Duration::from_secs(600), max: longest };
    let lease = Lifetime { default: HOUR, max: HOUR };
    let digest = Digest::of_bytes(name.as_bytes());
    Ok(Role::new(Name::parse(name)?, target, token, lease, vec![subject], digest)?)
}

/// The same role, giving out something else.
pub fn giving(role: &Role, gives: Gives) -> Result<Role> {
    let (token, lease, digest) = (role.token(), role.lease(), role.digest());
    Ok(Role::new(role.name().clone(), gives, token, lease, role.subjects().to_vec(), digest)?)
}

/// A runner of that name with a certificate for an hour, and its one job.
pub fn runner_with_job(name: &str, evidence: Evidence, now: Timestamp) -> Result<(Caller, Job)> {
    let caller = Caller::from_verified_peer(VerifiedPeer {
        spiffe_id: SpiffeId::parse(&format!("spiffe://test/runner/{name}"))?,
        enrolment: EnrolmentId::generate(now, &SystemEntropy),
        issued: now,
        expires: after(now, HOUR),
        authority: Digest::of_bytes(b"authority"),
        certificate: Digest::of_bytes(b"certificate"),
        key: Digest::of_bytes(b"key"),
    });
    let job = Job {
        id: JobId::generate(now, &SystemEntropy),
        owner: caller.owner(),
        evidence,
        started: now,
        latest_end: None,
        ended: None,
        revision: Revision::FIRST,
    };
    Ok((caller, job))
}

/// Decides for runner `test` and its one job.
pub struct Decisions {
    policy: Policy,
    caller: Caller,
    job: Job,
    clock: Arc<dyn Clock>,
}

impl Decisions {
    /// By these roles.
    pub fn new(roles: Vec<Role>) -> Result<Self> {
        let clock = Arc::new(SystemClock);
        let now = clock.now();
        let asserted = AssertedJob::new("test".to_owned(), "1".to_owned(), String::new())?;
        let (caller, job) = runner_with_job("test", Evidence::Asserted(asserted), now)?;
        Ok(Self { policy: Policy::new(roles)?, caller, job, clock })
    }

    /// An order for a new lease.
    pub fn order(&self, role: &str, token_lifetime: Option<Duration>) -> Result<Order> {
        let now = self.clock.now();
        let ask = Ask { role: Name::parse(role)?, lease_lifetime: None, token_lifetime };
        let grant =
            self.policy.decide(&self.caller, &self.job, &ask, &[], now).map_err(|denial| denied(&denial))?;
        let mut random = [0; 16];
        SystemEntropy.fill(&mut random);
        Ok(grant.into_order(LeaseId::generate(now, &SystemEntropy), AnchorName::from_random(random)))
    }

    /// An order for another token of an active lease.
    pub fn refresh(&self, lease: &Lease) -> Result<Order> {
        let now = self.clock.now();
        self.policy
            .decide_refresh(&self.caller, Some(&self.job), lease.clone(), None, now)
            .map_err(|denial| denied(&denial))
    }
}

/// A call to mint for.
pub fn call() -> CallId {
    CallId::generate(SystemClock.now(), &SystemEntropy)
}

fn denied(denial: &shorepass_core::policy::Denial) -> anyhow::Error {
    anyhow!("denied: {}", denial.explanation)
}
